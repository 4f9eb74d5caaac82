/* Receives streams to their end and prints their digests; see bulk_send.c. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "bulk.h"
#include "serve.h"

static struct bulk options = { .chunk = 65536, .seed = 2, .receives = true };
static atomic_ullong served, total, bad;

static void *conn_start(int fd, enum ev_mode mode)
{
	struct bulk *b = xmalloc(sizeof(*b));

	*b = options;
	b->mode = mode;
	bulk_init(b, fd);
	return b;
}

static int conn_pump(void *conn)
{
	return bulk_pump(conn);
}

static void conn_run(void *conn)
{
	bulk_run(conn);
}

static void conn_finish(void *conn)
{
	struct bulk *b = conn;

	served++;
	total += b->rcvd;
	bad += !bulk_finish(b);
	free(b);
}

static const char usage[] =
	"usage: %s [-a ADDR] [-p PORT] [-e MODE] [-s CHUNK] [-1] [-x [-n BYTES] [-d SEED]]\n"
	"Receives the stream of every bulk_send and prints its length and digest.\n"
	"Exit 0: every connection ended orderly; 1: some did not.\n"
	"  -a ADDR   listen on this address (127.0.0.1)\n"
	"  -p PORT   listen on this port; 0: any free one, see the first line printed (0)\n"
	"  -e MODE   how to wait: " EV_MODES "\n"
	"            (blocking: a thread for each connection)\n"
	"  -s CHUNK  bytes for each recv and send call (64k)\n"
	"  -1        end after one connection; otherwise on SIGTERM or SIGINT\n"
	"  -x        full duplex: send at the same time (bulk_send needs -x too)\n"
	"  -n BYTES  with -x, how much to send; k, M, G may follow (64M)\n"
	"  -d SEED   with -x, another number, another stream (2)\n"
	"  -h        this text\n";

int main(int argc, char **argv)
{
	static const struct serve_ops ops = {
		conn_start, conn_pump, conn_run, conn_finish,
	};
	const char *addr = "127.0.0.1";
	enum ev_mode mode = EV_BLOCKING;
	uint64_t bytes = 64 << 20;
	bool once = false;
	unsigned port = 0;
	int o;

	util_init(argv[0]);
	while ((o = getopt(argc, argv, "a:p:e:s:1xn:d:h")) != -1) {
		switch (o) {
		case 'a':
			addr = optarg;
			break;
		case 'p':
			port = (unsigned)parse_size('p', optarg, 0, 65535);
			break;
		case 'e':
			mode = ev_parse(optarg);
			break;
		case 's':
			options.chunk = parse_size('s', optarg, 1, BULK_MAX_CHUNK);
			break;
		case '1':
			once = true;
			break;
		case 'x':
			options.sends = true;
			break;
		case 'n':
			bytes = parse_size('n', optarg, 0, UINT64_MAX);
			break;
		case 'd':
			options.seed = parse_size('d', optarg, 0, UINT64_MAX);
			break;
		case 'h':
			printf(usage, util_name());
			return 0;
		default:
			fprintf(stderr, usage, util_name());
			return 2;
		}
	}
	if (optind < argc)
		die("%s: no such argument; see -h", argv[optind]);
	if (options.sends)
		options.to_send = bytes;
	serve(addr, port, mode, once, &ops);
	if (!once)
		printf("served %llu connections, %llu bytes\n",
		       (unsigned long long)served, (unsigned long long)total);
	return bad > 0;
}
