/*
 * One busy connection beside N idle ones, all upgraded: a client, and an epoll
 * echo server, each a process.  For each line on stdin 20,000 round trips of the
 * busy one; prints the nanoseconds of one.  idle.py compares N = 0 with many.
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 64, ROUNDS = 20000, WARM = 48 };

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void serve(int l)
{
	struct epoll_event ev[64], e = { .events = EPOLLIN, .data.fd = l };
	int ep = epoll_create1(0), n, i, one = 1;
	char b[SIZE];

	if (epoll_ctl(ep, EPOLL_CTL_ADD, l, &e) < 0)
		die("epoll_ctl");
	for (;;) {
		n = epoll_wait(ep, ev, 64, -1);
		for (i = 0; i < n; i++) {
			int fd = ev[i].data.fd;
			ssize_t r;

			if (fd == l) {
				e.data.fd = accept(l, NULL, NULL);
				if (e.data.fd < 0)
					die("accept");
				setsockopt(e.data.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
				epoll_ctl(ep, EPOLL_CTL_ADD, e.data.fd, &e);
				continue;
			}
			r = read(fd, b, sizeof(b));
			if (r <= 0)
				_exit(0);
			if (write(fd, b, (size_t)r) != r)
				die("write");
		}
	}
}

static void round_trip(int fd)
{
	char b[SIZE] = { 0 };

	if (send(fd, b, SIZE, 0) != SIZE || recv(fd, b, SIZE, MSG_WAITALL) != SIZE)
		die("round trip");
}

static int dial(const struct sockaddr_in *a)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1, i;

	if (fd < 0 || connect(fd, (const void *)a, sizeof(*a)) < 0)
		die("connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	for (i = 0; i < WARM; i++)
		round_trip(fd);
	return fd;
}

int main(int argc, char **argv)
{
	struct rlimit rl = { 1 << 16, 1 << 16 };
	struct sockaddr_in a = { .sin_family = AF_INET };
	socklen_t len = sizeof(a);
	long n = argc > 1 ? atol(argv[1]) : 0, i;
	int l, busy;
	char line[16];

	setrlimit(RLIMIT_NOFILE, &rl);
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	l = socket(AF_INET, SOCK_STREAM, 0);
	if (l < 0 || bind(l, (void *)&a, len) || listen(l, 1024) || getsockname(l, (void *)&a, &len))
		die("listen");
	if (fork() == 0)
		serve(l);
	close(l);
	for (i = 0; i < n; i++)
		dial(&a);
	busy = dial(&a);
	for (i = 0; i < 2000; i++)
		round_trip(busy);
	/* A round trip in a while: moves to a ring are over. */
	printf("ready\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		uint64_t t = now();

		for (i = 0; i < ROUNDS; i++)
			round_trip(busy);
		printf("%.1f\n", (double)(now() - t) / ROUNDS);
		fflush(stdout);
	}
	return 0;
}
