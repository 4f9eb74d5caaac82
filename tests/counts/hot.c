/*
 * One operation, a given number of times, on one connection: counts.py runs it
 * under callgrind with two numbers, and the difference is the operation.
 *	hot serve N			a peer of N connections; prints "port N"; answers when it is asked
 *	hot OP PORT COUNT		OP: send recv foreign poll
 */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 64, ECHO = 0, SINK = 1, SOURCE = 2 };

/* To the server: what it is to do with the connection from now on, and how often. */
struct order {
	char what;
	char pad[3];
	unsigned count;
	char rest[SIZE - 8];
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void whole(int fd, void *p, size_t n, ssize_t (*io)(int, void *, size_t, int))
{
	char *c = p;

	while (n) {
		ssize_t k = io(fd, c, n, MSG_NOSIGNAL);

		if (k <= 0)
			die("peer");
		c += k;
		n -= (size_t)k;
	}
}

static ssize_t out(int fd, void *p, size_t n, int flags)
{
	return send(fd, p, n, flags);
}

static ssize_t in(int fd, void *p, size_t n, int flags)
{
	return recv(fd, p, n, flags);
}

static void nodelay(int fd)
{
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static void serve_one(int fd)
{
	struct order o;
	char b[SIZE] = { 0 };

	for (;;) {
		ssize_t n = recv(fd, &o, SIZE, MSG_WAITALL);

		if (n == 0)
			return;
		if (n != SIZE)
			die("order");
		if (o.what == ECHO)
			whole(fd, &o, SIZE, out);
		for (unsigned i = 0; o.what == SINK && i < o.count; i++)
			whole(fd, b, SIZE, in);
		for (unsigned i = 0; o.what == SOURCE && i < o.count; i++)
			whole(fd, b, SIZE, out);
		if (o.what == SINK)
			whole(fd, &o, SIZE, out);
	}
}

static int serve(int connections)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	socklen_t len = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM, 0);

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (l < 0 || bind(l, (void *)&a, len) || listen(l, 8) || getsockname(l, (void *)&a, &len))
		die("listen");
	printf("port %d\n", ntohs(a.sin_port));
	fflush(stdout);
	while (connections--) {
		int fd = accept(l, NULL, NULL);

		if (fd < 0)
			die("accept");
		nodelay(fd);
		serve_one(fd);
		close(fd);
	}
	return 0;
}

static void order(int fd, char what, unsigned count)
{
	struct order o = { .what = what, .count = count };

	whole(fd, &o, SIZE, out);
}

/* Until the connection is where it is to be: 300 exchanges, in a third of a second at least. */
static int warm(int port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	struct timespec nap = { 0, 1000000 };
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	char b[SIZE];

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (fd < 0 || connect(fd, (void *)&a, sizeof(a)))
		die("connect");
	nodelay(fd);
	for (int i = 0; i < 300; i++) {
		order(fd, ECHO, 1);
		whole(fd, b, SIZE, in);
		nanosleep(&nap, NULL);
	}
	return fd;
}

int main(int argc, char **argv)
{
	struct timespec rest = { 0, 200000000 };
	struct pollfd p = { .events = POLLIN };
	const char *op = argc > 2 ? argv[1] : "";
	int n = argc > 3 ? atoi(argv[3]) : 0, fd, zero;
	char b[SIZE] = { 0 };

	if (!strcmp(op, "serve"))
		return serve(atoi(argv[2]));
	if (argc != 4)
		return 2;
	zero = open("/dev/zero", O_RDONLY);
	fd = warm(atoi(argv[2]));
	p.fd = fd;
	if (!strcmp(op, "send")) {
		order(fd, SINK, (unsigned)n);
		nanosleep(&rest, NULL);
		for (int i = 0; i < n; i++)
			if (send(fd, b, SIZE, MSG_NOSIGNAL) != SIZE)
				die("send");
		whole(fd, b, SIZE, in);
	} else if (!strcmp(op, "recv")) {
		order(fd, SOURCE, (unsigned)n);
		nanosleep(&rest, NULL);		/* all of it is there: nothing waits in what is counted */
		for (int i = 0; i < n; i++)
			if (recv(fd, b, SIZE, 0) != SIZE)
				die("recv");
	} else if (!strcmp(op, "foreign")) {
		for (int i = 0; i < n; i++)
			if (read(zero, b, 1) != 1)
				die("read");
	} else if (!strcmp(op, "poll")) {
		for (int i = 0; i < n; i++)
			if (poll(&p, 1, 0) != 0)
				die("poll");
	} else {
		return 2;
	}
	close(fd);
	return 0;
}
