/*
 * walker: verified streams both ways over many connections, and a program
 * that moves itself to another host.
 *
 *	walker -l ADDR:PORT [-n CONNECTIONS]		the server ([] around IPv6)
 *	walker -c ADDR:PORT [-n CONNECTIONS] [-b BYTES] [-B BYTES] [-p ROUNDS] [-e]	the client
 *
 * SIGUSR1: enters the network namespace whose path is in the file of -t, says
 * "moved PATH".  SIGTERM: ends its streams in good order and exits.  One line
 * of JSON for each connection, one for all.  Plain POSIX; one thread.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>
#include "stream.h"

#define TICK_MS 1
#define SAMPLE_NS 20000000u

static struct {
	struct sockaddr_storage addr;
	socklen_t addr_len;
	bool server, client, blocking, edge, echo;
	size_t n, window, chunk;
	uint64_t bytes, back, rounds, seed, gap_ns;
	double rate;
	const char *target;
	FILE *samples;
} opt = { .n = 0, .window = 64, .chunk = 16384, .bytes = STREAM_ENDLESS, .back = STREAM_ENDLESS, .seed = 1,
	  .gap_ns = 5000000 };

static struct stream *streams;
static size_t nstreams, room_streams, *live, nlive;	/* live: indexes of those that are not over */
static size_t opened, quiet, over, failed;
static uint64_t total_rx, total_tx;
static int epfd, listener = -1;
static volatile sig_atomic_t finish;
static bool finished;

static void die(const char *fmt, ...)
{
	va_list ap;
	int e = errno;

	va_start(ap, fmt);
	fprintf(stderr, "walker: ");
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, ": %s\n", strerror(e));
	exit(2);
}

static void on_term(int sig)
{
	(void)sig;
	finish = 1;
}

/* Everything here may be done in a signal handler; so it works in every mode, also asleep in recv. */
static void on_move(int sig)
{
	char path[256] = "moved ", *p = path + 6;
	int e = errno, fd, ns;
	ssize_t n;

	(void)sig;
	fd = open(opt.target, O_RDONLY | O_CLOEXEC);
	n = read(fd, p, sizeof(path) - 8);
	close(fd);
	if (n > 0 && p[n - 1] == '\n')
		n--;
	p[n > 0 ? n : 0] = 0;
	ns = open(p, O_RDONLY | O_CLOEXEC);
	if (setns(ns, CLONE_NEWNET))
		memcpy(path, "stuck ", 6);	/* same length */
	close(ns);
	strcat(path, "\n");
	n = write(STDOUT_FILENO, path, strlen(path));
	(void)n;
	errno = e;
}

static void handlers(void)
{
	struct sigaction move = { .sa_handler = on_move }, term = { .sa_handler = on_term };
	sigset_t block;

	signal(SIGPIPE, SIG_IGN);
	if (opt.target)
		sigaction(SIGUSR1, &move, NULL);
	sigaction(SIGTERM, &term, NULL);
	/* open only in epoll_pwait, so that no SIGTERM falls between a look and a sleep */
	sigemptyset(&block);
	sigaddset(&block, SIGTERM);
	if (!opt.blocking)
		sigprocmask(SIG_BLOCK, &block, NULL);
}

static struct stream *new_stream(void)
{
	if (nstreams == room_streams) {
		room_streams = room_streams ? room_streams * 2 : 64;
		streams = realloc(streams, room_streams * sizeof(*streams));
		live = realloc(live, room_streams * sizeof(*live));
		if (!streams || !live)
			die("memory for %zu connections", room_streams);
	}
	live[nlive++] = nstreams;
	return &streams[nstreams++];
}

static void options_of(int fd)
{
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

/* Level-triggered: only what is wanted, or it would be told for ever. */
static void watch(struct stream *s, int op)
{
	struct epoll_event e = { .data.u64 = (uint64_t)(s - streams) };

	e.events = opt.edge ? EPOLLIN | EPOLLOUT | EPOLLET : (s->eof ? 0 : EPOLLIN) | (s->full ? EPOLLOUT : 0);
	if (op == EPOLL_CTL_MOD && e.events == s->watched)
		return;
	s->watched = e.events;
	if (epoll_ctl(epfd, op, s->fd, &e))
		die("epoll_ctl");
}

/* A connection of the client; it is established when this returns. */
static void open_one(void)
{
	uint64_t bytes = opt.rounds ? opt.rounds * opt.chunk : opt.bytes;
	int fd = socket(opt.addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct stream *s;

	if (fd < 0 || (connect(fd, (struct sockaddr *)&opt.addr, opt.addr_len) && errno != EINTR))
		die("connect");
	options_of(fd);
	s = new_stream();
	stream_client(s, fd, opt.seed + opened, bytes, opt.back, opt.rounds ? STREAM_PINGPONG : 0);
	s->echo = opt.echo;
	opened++;
	if (opt.blocking)
		return;
	fcntl(fd, F_SETFL, O_NONBLOCK);
	watch(s, EPOLL_CTL_ADD);
}

static void accept_some(void)
{
	struct stream *s;
	int fd;

	while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		options_of(fd);
		s = new_stream();
		stream_server(s, fd);
		opened++;
		watch(s, EPOLL_CTL_ADD);
	}
	if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
		fprintf(stderr, "walker: accept: %s\n", strerror(errno));
}

static void close_one(struct stream *s)
{
	if (!stream_report(s))
		failed++;
	fflush(stdout);
	close(s->fd);
	s->fd = -1;
	over++;
}

static bool is_quiet(const struct stream *s)
{
	return opt.rounds && s->sent == s->to_send && s->rcvd >= s->sent;
}

static void pump(struct stream *s)
{
	bool was_quiet = is_quiet(s), moved;
	uint64_t r0 = s->rcvd, t0 = s->sent;

	if (s->fd < 0)
		return;
	do {
		moved = stream_recv(s, opt.gap_ns, opt.samples);
		moved |= stream_send(s, opt.rate, opt.chunk);
	} while (moved && opt.edge);
	if (!opt.rounds || finished || s->eof)
		stream_shut_if_done(s);
	total_rx += s->rcvd - r0;
	total_tx += s->sent - t0;
	if (is_quiet(s) && !was_quiet)
		quiet++;
	if (stream_over(s))
		close_one(s);
	else
		watch(s, EPOLL_CTL_MOD);
}

static void sample(uint64_t now)
{
	static uint64_t last;

	if (!opt.samples || now - last < SAMPLE_NS)
		return;
	last = now;
	fprintf(opt.samples, "s %llu %llu %llu\n", (unsigned long long)now, (unsigned long long)total_rx,
		(unsigned long long)total_tx);
}

static bool may_send(const struct stream *s)
{
	return s->fd >= 0 && !s->full && stream_room(s, opt.rate, opt.chunk);
}

/* Once a tick: what the pace lets through now; true: there is more. Drops those that are over. */
static bool tick(void)
{
	uint64_t now = stream_now();
	size_t i, kept = 0;
	bool more = false;

	for (i = 0; i < nlive; i++) {
		struct stream *s = &streams[live[i]];

		if (s->fd < 0)
			continue;
		live[kept++] = live[i];
		if (opt.rate > 0)
			stream_refill(s, opt.rate, now);
		if (may_send(s))
			pump(s);
		more |= may_send(s);
	}
	nlive = kept;
	sample(now);
	return more;
}

static void finish_all(void)
{
	size_t i;

	finished = true;
	if (listener >= 0)
		close(listener);
	listener = -1;
	for (i = 0; i < nstreams; i++) {
		struct stream *s = &streams[i];

		if (s->fd < 0)
			continue;
		if (opt.rounds && opt.client)	/* one more, to see that it still lives */
			s->to_send += opt.chunk;
		else
			stream_finish(s);
		pump(s);
	}
}

/* A tick is only needed where time decides: a pace, samples. */
static int patience(bool more)
{
	if (more)
		return 0;
	if (opt.rounds && opt.client && quiet == opened && opened == opt.n && !finished)
		return -1;
	return nlive && (opt.rate > 0 || opt.samples) ? TICK_MS : -1;
}

static void loop(void)
{
	struct epoll_event hits[64];
	sigset_t none;
	bool said_connected = false, said_quiet = false, more;
	int i, n;

	sigemptyset(&none);
	while (!((opt.client || opt.n) && opened >= opt.n && over == opened) &&
	       !(finished && over == opened)) {
		while (opt.client && !finished && opened < opt.n &&
		       (!opt.rounds || opened - quiet - over < opt.window))
			open_one();
		if (opt.client && opened == opt.n && !said_connected) {
			said_connected = true;
			printf("connected %zu\n", opened);
			fflush(stdout);
		}
		more = tick();
		if (opt.rounds && opt.client && quiet == opt.n && !said_quiet) {
			said_quiet = true;
			printf("quiet %zu\n", quiet);
			fflush(stdout);
		}
		if (finish && !finished) {
			finish_all();
			continue;
		}
		n = epoll_pwait(epfd, hits, 64, patience(more), &none);
		if (n < 0 && errno != EINTR)
			die("epoll_pwait");
		for (i = 0; i < n; i++) {
			if (hits[i].data.u64 == UINT64_MAX)
				accept_some();
			else
				pump(&streams[hits[i].data.u64]);
		}
	}
}

/* Blocking calls: one connection, a message there, a message back. */
static void block_on(struct stream *s)
{
	uint64_t before = s->born;

	while (!stream_over(s)) {
		uint64_t now = stream_now();

		if (opt.rate > 0) {
			stream_refill(s, opt.rate, now);
			while (s->tokens < 0 && usleep(500) != 99)
				stream_refill(s, opt.rate, stream_now());
		}
		if (finish && opt.client)
			s->to_send = s->rcvd > s->sent ? s->rcvd : s->sent;
		while (stream_room(s, 0, opt.chunk) && !s->err)
			stream_send(s, 0, opt.chunk);
		if (s->client || s->eof)
			stream_shut_if_done(s);
		if (!stream_over(s))
			stream_recv(s, opt.gap_ns, opt.samples);
		total_rx = s->rcvd;
		total_tx = s->sent;
		if (now - before > SAMPLE_NS)
			sample(before = now);
	}
	close_one(s);
}

static void run_blocking(void)
{
	int fd;

	if (opt.client) {
		open_one();
		streams[0].flags = STREAM_PINGPONG;
		memcpy(streams[0].header + 16, &streams[0].flags, 8);
		printf("connected 1\n");
		fflush(stdout);
		block_on(&streams[0]);
		return;
	}
	while ((fd = accept(listener, NULL, NULL)) < 0 && errno == EINTR && !finish)
		;
	if (fd < 0)
		return;
	options_of(fd);
	opened++;
	stream_server(new_stream(), fd);
	block_on(&streams[0]);
}

static void parse_addr(char *arg)
{
	struct sockaddr_in *in = (void *)&opt.addr;
	struct sockaddr_in6 *in6 = (void *)&opt.addr;
	char *colon = strrchr(arg, ':');
	int ok;

	errno = EINVAL;
	if (!colon)
		die("%s is not ADDRESS:PORT", arg);
	*colon = 0;
	if (*arg == '[') {
		arg[strlen(arg) - 1] = 0;
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons((uint16_t)atoi(colon + 1));
		ok = inet_pton(AF_INET6, arg + 1, &in6->sin6_addr);
		opt.addr_len = sizeof(*in6);
	} else {
		in->sin_family = AF_INET;
		in->sin_port = htons((uint16_t)atoi(colon + 1));
		ok = inet_pton(AF_INET, arg, &in->sin_addr);
		opt.addr_len = sizeof(*in);
	}
	if (ok != 1)
		die("%s is not an address", arg);
}

static void start_listening(void)
{
	struct sockaddr_storage a;
	socklen_t len = sizeof(a);
	struct epoll_event e = { .events = EPOLLIN, .data.u64 = UINT64_MAX };
	int one = 1;

	listener = socket(opt.addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC | (opt.blocking ? 0 : SOCK_NONBLOCK), 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (listener < 0 || bind(listener, (struct sockaddr *)&opt.addr, opt.addr_len) || listen(listener, 4096))
		die("listen");
	if (!opt.blocking && epoll_ctl(epfd, EPOLL_CTL_ADD, listener, &e))
		die("epoll_ctl");
	if (getsockname(listener, (struct sockaddr *)&a, &len))
		die("getsockname");
	printf("listening on %u\n", ntohs(a.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&a)->sin6_port :
					  ((struct sockaddr_in *)&a)->sin_port));
	fflush(stdout);
}

static void usage(void)
{
	fprintf(stderr, "usage: walker -l|-c ADDRESS:PORT [-n connections] [-b bytes] [-B bytes back]\n"
		"              [-p ping-pong rounds, then quiet] [-w at once] [-r bytes/s] [-s chunk]\n"
		"              [-m epoll|epoll-et|blocking] [-e: echo is expected] [-d seed]\n"
		"              [-t file with a namespace's path] [-o samples] [-g gap in ms]\n");
	exit(2);
}

static void parse(int argc, char **argv)
{
	int c;

	while ((c = getopt(argc, argv, "l:c:n:b:B:p:w:r:s:m:ed:t:o:g:")) != -1) {
		switch (c) {
		case 'l': opt.server = true; parse_addr(optarg); break;
		case 'c': opt.client = true; parse_addr(optarg); break;
		case 'n': opt.n = strtoul(optarg, NULL, 0); break;
		case 'b': opt.bytes = strtoull(optarg, NULL, 0); break;
		case 'B': opt.back = strtoull(optarg, NULL, 0); break;
		case 'p': opt.rounds = strtoull(optarg, NULL, 0); break;
		case 'w': opt.window = strtoul(optarg, NULL, 0); break;
		case 'r': opt.rate = atof(optarg); break;
		case 's': opt.chunk = strtoul(optarg, NULL, 0); break;
		case 'm':
			opt.blocking = !strcmp(optarg, "blocking");
			opt.edge = !strcmp(optarg, "epoll-et");
			break;
		case 'e': opt.echo = true; break;
		case 'd': opt.seed = strtoull(optarg, NULL, 0); break;
		case 't': opt.target = optarg; break;
		case 'o':
			opt.samples = fopen(optarg, "w");
			if (!opt.samples)
				die("%s", optarg);
			setvbuf(opt.samples, NULL, _IOLBF, 0);
			break;
		case 'g': opt.gap_ns = (uint64_t)(atof(optarg) * 1e6); break;
		default: usage();
		}
	}
	if (opt.server == opt.client || optind != argc || !opt.chunk)
		usage();
	if (opt.client && !opt.n)
		opt.n = 1;
}

int main(int argc, char **argv)
{
	parse(argc, argv);
	handlers();
	epfd = epoll_create1(EPOLL_CLOEXEC);
	if (epfd < 0)
		die("epoll_create1");
	if (opt.server)
		start_listening();
	if (opt.blocking)
		run_blocking();
	else
		loop();
	printf("{\"connections\": %zu, \"failed\": %zu, \"received\": %llu, \"sent\": %llu}\n", opened, failed,
	       (unsigned long long)total_rx, (unsigned long long)total_tx);
	return failed ? 1 : 0;
}
