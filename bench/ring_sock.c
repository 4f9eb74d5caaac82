/* Kernel sockets: AF_UNIX and TCP, sleeping and spinning. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench_ring.h"

static int sv[2], fd;

static int unix_before(unsigned arg)
{
	(void)arg;
	return socketpair(AF_UNIX, SOCK_STREAM, 0, sv);
}

static int tcp_before(unsigned arg)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	socklen_t len = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM, 0), one = 1, i;

	(void)arg;
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	sv[0] = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(l, (void *)&a, len) || listen(l, 1) || getsockname(l, (void *)&a, &len) ||
	    connect(sv[0], (void *)&a, len) || (sv[1] = accept(l, NULL, NULL)) < 0)
		return -1;
	for (i = 0; i < 2; i++)
		setsockopt(sv[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return close(l);
}

static int sock_open(int side)
{
	fd = sv[side];
	close(sv[!side]);
	return 0;
}

static int spin_open(int side)
{
	sock_open(side);
	return fcntl(fd, F_SETFL, O_NONBLOCK);
}

static void sock_send(const void *p, size_t n)
{
	const char *s = p;
	ssize_t k;

	for (; n; s += k, n -= (size_t)k) {
		k = send(fd, s, n, MSG_NOSIGNAL);
		if (k < 0 && errno == EAGAIN)
			k = 0;
		if (k < 0)
			die("send");
	}
}

static void sock_recv(void *p, size_t n)
{
	char *d = p;
	ssize_t k;

	for (; n; d += k, n -= (size_t)k) {
		k = recv(fd, d, n, 0);
		if (k == 0)
			_exit(0);
		if (k < 0 && errno == EAGAIN)
			k = 0;
		if (k < 0)
			die("recv");
	}
}

const struct way sock_ways[] = {
	{ "unix", 0, true, unix_before, sock_open, sock_send, sock_recv, NULL, NULL },
	{ "unix-spin", 0, true, unix_before, spin_open, sock_send, sock_recv, NULL, NULL },
	{ "tcp", 0, true, tcp_before, sock_open, sock_send, sock_recv, NULL, NULL },
	{ "tcp-spin", 0, true, tcp_before, spin_open, sock_send, sock_recv, NULL, NULL },
	{ NULL, 0, false, NULL, NULL, NULL, NULL, NULL, NULL },
};
