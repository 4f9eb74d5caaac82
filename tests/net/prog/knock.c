/*
 * knock: how long does connect() take?
 *
 *	knock -l ADDR:PORT	accepts and closes
 *	knock -c ADDR:PORT	for each line "N EXCHANGES" of its input: N
 *				connections with that many exchanges of a byte,
 *				one after the other; one line of JSON
 *
 * Two of them (plain and re-linked) that stay alive can be asked in turn, so
 * that whatever else the machine does falls on both.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what)
{
	fprintf(stderr, "knock: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int ascending(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Ends by a reset, so that no port stays in TIME_WAIT. */
static uint64_t one(const struct sockaddr_in *to, int exchanges)
{
	struct linger hard = { .l_onoff = 1 };
	uint64_t t0 = now_ns(), took;
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	char c = 'k';

	if (fd < 0 || connect(fd, (const struct sockaddr *)to, sizeof(*to)))
		die("connect");
	took = now_ns() - t0;
	while (exchanges--)
		if (send(fd, &c, 1, MSG_NOSIGNAL) != 1 || recv(fd, &c, 1, 0) != 1)
			die("exchange");
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
	close(fd);
	return took;
}

static void ask(const struct sockaddr_in *to)
{
	static uint64_t ns[100000];
	int n, exchanges, i;

	while (scanf("%d %d", &n, &exchanges) == 2 && n > 0 && n <= 100000) {
		uint64_t t0 = now_ns();

		for (i = 0; i < n; i++)
			ns[i] = one(to, exchanges);
		t0 = now_ns() - t0;
		qsort(ns, (size_t)n, sizeof(*ns), ascending);
		printf("{\"connections\": %d, \"median_us\": %.2f, \"p90_us\": %.2f, \"whole_us\": %.2f}\n", n,
		       (double)ns[n / 2] / 1e3, (double)ns[n * 9 / 10] / 1e3, (double)t0 / 1e3 / n);
		fflush(stdout);
	}
}

static void answer(const struct sockaddr_in *at)
{
	int fd, yes = 1, l = socket(AF_INET, SOCK_STREAM, 0);
	char c;

	setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (bind(l, (const struct sockaddr *)at, sizeof(*at)) || listen(l, 4096))
		die("listen");
	printf("listening on %u\n", ntohs(at->sin_port));
	fflush(stdout);
	while ((fd = accept(l, NULL, NULL)) >= 0) {
		while (recv(fd, &c, 1, 0) == 1 && send(fd, &c, 1, MSG_NOSIGNAL) == 1)
			;
		close(fd);
	}
	die("accept");
}

int main(int argc, char **argv)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	char *colon = argc == 3 ? strrchr(argv[2], ':') : NULL;

	if (!colon || (strcmp(argv[1], "-l") && strcmp(argv[1], "-c"))) {
		fprintf(stderr, "usage: knock -l|-c ADDRESS:PORT\n");
		return 2;
	}
	*colon = 0;
	a.sin_port = htons((uint16_t)atoi(colon + 1));
	if (inet_pton(AF_INET, argv[2], &a.sin_addr) != 1)
		die(argv[2]);
	if (!strcmp(argv[1], "-l"))
		answer(&a);
	else
		ask(&a);
	return 0;
}
