/*
 * A file, or its standard input, from one host to another, and small questions
 * beside it: what bench/slow.py measures.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CHUNK (64 * 1024)

static const char usage[] =
	"usage: transfer sink ADDR PORT\n"
	"       transfer out ADDR PORT\n"
	"       transfer source ADDR PORT FILE BYTES\n"
	"       transfer pipe ADDR PORT\n"
	"       transfer echo ADDR PORT\n"
	"       transfer ask ADDR PORT FILE BYTES SIZE COUNT GAP_US\n"
	"  sink    takes one connection and prints how many bytes came and when it ended\n"
	"  out     takes one and copies it to stdout\n"
	"  source  sends FILE over and over; pipe: its stdin\n"
	"  echo    one connection, everything back\n"
	"  ask     sends BYTES in one go and takes them back, then asks COUNT times for SIZE bytes of\n"
	"          FILE, GAP_US apart, and prints the nanoseconds of each answer\n"
	"Those that listen say ready on stderr, the others when they began. Nanoseconds of CLOCK_MONOTONIC.\n";

static char chunk[CHUNK];

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static long long now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int meet(const char *addr, const char *port, int listening)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)) };
	int one = 1, s = socket(AF_INET, SOCK_STREAM, 0), c;

	if (s < 0 || inet_pton(AF_INET, addr, &a.sin_addr) != 1)
		die(addr);
	setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (!listening) {
		if (connect(s, (struct sockaddr *)&a, sizeof a) < 0)
			die("connect");
		return s;
	}
	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(s, (struct sockaddr *)&a, sizeof a) < 0 || listen(s, 1) < 0)
		die("listen");
	fputs("ready\n", stderr);
	c = accept(s, NULL, NULL);
	if (c < 0)
		die("accept");
	setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	return c;
}

static void put(int fd, const char *p, size_t n)
{
	while (n) {
		ssize_t r = write(fd, p, n);

		if (r < 0)
			die("write");
		p += r;
		n -= (size_t)r;
	}
}

static void get(int fd, char *p, size_t n)
{
	while (n) {
		ssize_t r = read(fd, p, n);

		if (r <= 0)
			die("read");
		p += r;
		n -= (size_t)r;
	}
}

static const char *whole(const char *path, size_t *n)
{
	struct stat st;
	int fd = open(path, O_RDONLY);
	void *p;

	if (fd < 0 || fstat(fd, &st) < 0 || !st.st_size)
		die(path);
	p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
	if (p == MAP_FAILED)
		die(path);
	close(fd);
	*n = (size_t)st.st_size;
	return p;
}

static void source(int fd, const char *file, size_t bytes)
{
	size_t n, at = 0;
	const char *p = whole(file, &n);

	while (bytes) {
		size_t part = n - at < CHUNK ? n - at : CHUNK;

		if (part > bytes)
			part = bytes;
		put(fd, p + at, part);
		bytes -= part;
		at = at + part == n ? 0 : at + part;
	}
}

static void sink(int fd)
{
	long long total = 0;

	for (;;) {
		ssize_t r = read(fd, chunk, sizeof chunk);

		if (r < 0)
			die("read");
		if (r == 0)
			break;
		total += r;
	}
	printf("%lld %lld\n", total, now());
}

static void copy(int from, int to)
{
	ssize_t r;

	while ((r = read(from, chunk, sizeof chunk)) > 0)
		put(to, chunk, (size_t)r);
	if (r < 0)
		die("read");
}

/* Half of it may be under way at most: neither end waits for the other's window for ever. */
static void there_and_back(int fd, const char *file, size_t bytes)
{
	size_t n, at = 0;
	const char *p = whole(file, &n);
	static char back[CHUNK];
	size_t lag = 0;

	while (bytes >= CHUNK) {
		put(fd, p + at, CHUNK);
		lag++;
		if (lag > 4) {
			get(fd, back, CHUNK);
			lag--;
		}
		bytes -= CHUNK;
		at = at + 2 * CHUNK > n ? 0 : at + CHUNK;
	}
	while (lag--)
		get(fd, back, CHUNK);
}

static void ask(int fd, const char *file, size_t size, long count, long gap_us)
{
	size_t n, at = 0;
	const char *p = whole(file, &n);
	struct timespec gap = { gap_us / 1000000, gap_us % 1000000 * 1000 };

	for (long i = 0; i < count; i++) {
		long long t = now();

		put(fd, p + at, size);
		get(fd, chunk, size);
		printf("%lld\n", now() - t);
		at = at + 2 * size > n ? 0 : at + size;
		nanosleep(&gap, NULL);
	}
}

int main(int argc, char **argv)
{
	const char *what = argc > 3 ? argv[1] : "";
	int listening = !strcmp(what, "sink") || !strcmp(what, "out") || !strcmp(what, "echo"), fd;
	long long began = now();

	if (!(listening || (!strcmp(what, "source") && argc == 6) || !strcmp(what, "pipe") ||
	      (!strcmp(what, "ask") && argc == 9 && atol(argv[6]) <= CHUNK))) {
		fputs(usage, stderr);
		return 2;
	}
	fd = meet(argv[2], argv[3], listening);
	if (!listening)
		fprintf(stderr, "began %lld\n", began);
	if (!strcmp(what, "sink"))
		sink(fd);
	else if (!strcmp(what, "out"))
		copy(fd, 1);
	else if (!strcmp(what, "echo"))
		copy(fd, fd);
	else if (!strcmp(what, "source"))
		source(fd, argv[4], (size_t)atoll(argv[5]));
	else if (!strcmp(what, "pipe"))
		copy(0, fd);
	else {
		there_and_back(fd, argv[4], (size_t)atoll(argv[5]));
		ask(fd, argv[4], (size_t)atol(argv[6]), atol(argv[7]), atol(argv[8]));
	}
	close(fd);
	return 0;
}
