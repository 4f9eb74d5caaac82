/* Sends a pseudo-random stream and prints its digest; see bulk_recv.c. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bulk.h"

static const char usage[] =
	"usage: %s [-a ADDR] -p PORT [-n BYTES] [-s CHUNK] [-d SEED] [-e MODE] [-r MB_S] [-x]\n"
	"Sends a pseudo-random stream to bulk_recv, waits until it was read to its end, and\n"
	"prints its length and digest. Exit 0: all sent and the other end closed orderly.\n"
	"  -a ADDR   connect to this address (127.0.0.1)\n"
	"  -p PORT   connect to this port\n"
	"  -n BYTES  how much to send; k, M, G may follow (64M)\n"
	"  -s CHUNK  bytes for each send and recv call (64k)\n"
	"  -d SEED   another number, another stream (1)\n"
	"  -e MODE   how to wait: " EV_MODES "\n"
	"            (blocking)\n"
	"  -r MB_S   send no faster than this many 10^6 bytes a second\n"
	"  -x        full duplex: receive at the same time (bulk_recv needs -x too)\n"
	"  -h        this text\n";

static void wait_connected(struct bulk *b, struct ev *ev, const char *addr, unsigned port)
{
	socklen_t len = sizeof(int);
	int err = 0;

	if (ev_set(ev, b->fd, EV_OUT, b))
		die("cannot watch the connection: %s", strerror(errno));
	while (!ev_wait(ev, -1))
		;
	getsockopt(b->fd, SOL_SOCKET, SO_ERROR, &err, &len);
	if (err)
		die("cannot connect to %s:%u: %s%s", addr, port, strerror(err),
		    remedy(err));
}

static void run_events(struct bulk *b, struct ev *ev)
{
	int want;

	while ((want = bulk_pump(b)) >= 0) {
		if (ev_set(ev, b->fd, (unsigned)want, b))
			die("cannot watch the connection: %s", strerror(errno));
		ev_wait(ev, bulk_delay(b));
	}
}

int main(int argc, char **argv)
{
	struct bulk b = { .sends = true, .to_send = 64 << 20, .chunk = 65536, .seed = 1 };
	const char *addr = "127.0.0.1";
	unsigned port = 0;
	struct ev ev;
	int fd, o;

	util_init(argv[0]);
	while ((o = getopt(argc, argv, "a:p:n:s:d:e:r:xh")) != -1) {
		switch (o) {
		case 'a':
			addr = optarg;
			break;
		case 'p':
			port = (unsigned)parse_size('p', optarg, 1, 65535);
			break;
		case 'n':
			b.to_send = parse_size('n', optarg, 0, UINT64_MAX);
			break;
		case 's':
			b.chunk = parse_size('s', optarg, 1, BULK_MAX_CHUNK);
			break;
		case 'd':
			b.seed = parse_size('d', optarg, 0, UINT64_MAX);
			break;
		case 'e':
			b.mode = ev_parse(optarg);
			break;
		case 'r':
			b.rate = 1e6 * parse_real('r', optarg, 1e-3, 1e6);
			break;
		case 'x':
			b.receives = true;
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
	if (!port)
		die("give the port that bulk_recv printed with -p; see -h");

	fd = tcp_connect(addr, port, b.mode != EV_BLOCKING);
	if (b.mode == EV_BLOCKING) {
		bulk_init(&b, fd);
		bulk_run(&b);
		return !bulk_finish(&b);
	}
	b.fd = fd;
	if (ev_open(&ev, b.mode))
		die("cannot start: %s%s", strerror(errno), remedy(errno));
	wait_connected(&b, &ev, addr, port);
	bulk_init(&b, fd);
	run_events(&b, &ev);
	ev_close(&ev);
	return !bulk_finish(&b);
}
