/* Sends back every byte it gets, in any of six ways to wait. Plain POSIX sockets. */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve.h"
#include "util.h"

struct conn {
	int fd;
	enum ev_mode mode;
	bool eof;
	int err;
	const char *op;
	size_t off, len;	/* what waits in buf to be sent */
	uint64_t bytes;
	char peer[PEER_LEN];
	char buf[65536];
};

static bool quiet;
static atomic_ullong served, total;

static void *conn_start(int fd, enum ev_mode mode)
{
	struct conn *c = xmalloc(sizeof(*c));

	c->fd = fd;
	c->mode = mode;
	peer_name(fd, false, c->peer);
	return c;
}

static bool again(int err)
{
	return err == EAGAIN || err == EWOULDBLOCK || err == EINTR;
}

/* Each returns whether something moved. */
static bool fill(struct conn *c)
{
	ssize_t n;

	if (c->eof || c->off + c->len == sizeof(c->buf))
		return false;
	n = recv(c->fd, c->buf + c->off + c->len, sizeof(c->buf) - c->off - c->len, 0);
	if (n > 0)
		c->len += (size_t)n;
	else if (n == 0)
		c->eof = true;
	else if (!again(errno))
		c->err = errno, c->op = "recv";
	return n >= 0;
}

static bool drain(struct conn *c)
{
	ssize_t n;

	if (!c->len)
		return false;
	n = send(c->fd, c->buf + c->off, c->len, 0);
	if (n < 0) {
		if (!again(errno))
			c->err = errno, c->op = "send";
		return false;
	}
	c->off += (size_t)n;
	c->len -= (size_t)n;
	c->bytes += (uint64_t)n;
	if (!c->len)
		c->off = 0;
	return n > 0;
}

static int conn_pump(void *arg)
{
	struct conn *c = arg;
	bool moved;

	do {
		moved = fill(c);
		if (!c->err)
			moved |= drain(c);
	} while (moved && !c->err && ev_greedy(c->mode));
	if (c->err || (c->eof && !c->len))
		return -1;
	return (c->len ? (int)EV_OUT : 0) |
	       (!c->eof && c->off + c->len < sizeof(c->buf) ? (int)EV_IN : 0);
}

/* read and write here, recv and send above: both families are in use. */
static void conn_run(void *arg)
{
	struct conn *c = arg;

	for (;;) {
		ssize_t n = read(c->fd, c->buf, sizeof(c->buf)), done = 0;

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			if (n < 0)
				c->err = errno, c->op = "read";
			return;
		}
		while (done < n) {
			ssize_t m = write(c->fd, c->buf + done, (size_t)(n - done));

			if (m < 0 && errno == EINTR)
				continue;
			if (m < 0) {
				c->err = errno, c->op = "write";
				return;
			}
			done += m;
			c->bytes += (uint64_t)m;
		}
	}
}

static void conn_finish(void *arg)
{
	struct conn *c = arg;

	if (c->err)
		warn_msg("connection from %s: %s failed after %llu bytes: %s (errno %d)%s",
			 c->peer, c->op, (unsigned long long)c->bytes,
			 strerror(c->err), c->err, remedy(c->err));
	else if (!quiet) {
		printf("connection from %s: echoed %llu bytes\n", c->peer,
		       (unsigned long long)c->bytes);
		fflush(stdout);
	}
	close(c->fd);
	served++;
	total += c->bytes;
	free(c);
}

static const char usage[] =
	"usage: %s [-a ADDR] [-p PORT] [-e MODE] [-q]\n"
	"Sends back every byte of every connection, until SIGTERM or SIGINT.\n"
	"  -a ADDR  listen on this address (127.0.0.1)\n"
	"  -p PORT  listen on this port; 0: any free one, see the first line printed (0)\n"
	"  -e MODE  how to wait: " EV_MODES "\n"
	"           (epoll); blocking uses a thread for each connection\n"
	"  -q       no line for each connection\n"
	"  -h       this text\n";

int main(int argc, char **argv)
{
	static const struct serve_ops ops = {
		conn_start, conn_pump, conn_run, conn_finish,
	};
	const char *addr = "127.0.0.1";
	enum ev_mode mode = EV_EPOLL;
	unsigned port = 0;
	int o;

	util_init(argv[0]);
	while ((o = getopt(argc, argv, "a:p:e:qh")) != -1) {
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
		case 'q':
			quiet = true;
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
	serve(addr, port, mode, false, &ops);
	printf("served %llu connections, %llu bytes\n", (unsigned long long)served,
	       (unsigned long long)total);
	return 0;
}
