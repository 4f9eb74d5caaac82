/* poll, ppoll, select, pselect. */
#include "conf.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/timerfd.h>

#define ALL (POLLIN | POLLOUT | POLLPRI | POLLRDHUP | POLLRDNORM | POLLWRNORM)

PEERCASE(readable)
{
	struct pollfd p = { .fd = s, .events = POLLIN, .revents = -1 };

	EQ(poll(&p, 1, 0), 0);
	EQ(p.revents, 0);
	EQ(events_now(s, ALL), POLLOUT | POLLWRNORM);
	EQ(peer("send 1"), 1);
	EQ(poll(&p, 1, 5000), 1);
	EQ(p.revents, POLLIN);
	EQ(events_now(s, ALL), POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM);
	/* Level: it stays until read. */
	EQ(poll(&p, 1, -1), 1);
	GET(s, 1, 0);
	EQ(poll(&p, 1, 0), 0);
	OK(close(s));
}

PEERCASE(blocked_poll_wakes)
{
	struct pollfd p = { .fd = s, .events = POLLIN };

	for (int i = 0; i < 5; i++) {
		peer_post("@send 10");
		EQ(poll(&p, 1, -1), 1);
		EQ(p.revents, POLLIN);
		GET(s, 10, (uint64_t)i * 10);
		EQ(peer_wait(), 10);
	}
	peer_post("@close");
	p.events = POLLRDHUP;
	EQ(poll(&p, 1, -1), 1);
	EQ(p.revents, POLLRDHUP);
	EQ(peer_wait(), 0);
	OK(close(s));
}

PEERCASE(timeouts)
{
	struct pollfd p = { .fd = s, .events = POLLIN };
	struct timespec ts = { .tv_nsec = 50000000 };
	struct timeval tv = { .tv_usec = 50000 };
	fd_set r;
	double t = now();

	EQ(poll(&p, 1, 50), 0);
	CHECK(now() - t > 0.045);
	t = now();
	EQ(ppoll(&p, 1, &ts, NULL), 0);
	CHECK(now() - t > 0.045);
	EQ(ts.tv_nsec, 50000000);
	FD_ZERO(&r);
	FD_SET(s, &r);
	t = now();
	EQ(select(s + 1, &r, NULL, NULL, &tv), 0);
	CHECK(now() - t > 0.045);
	CHECK(!FD_ISSET(s, &r));
	/* Linux: select leaves what is left of the time. */
	EQ(tv.tv_sec, 0);
	EQ(tv.tv_usec, 0);
	FD_SET(s, &r);
	t = now();
	EQ(pselect(s + 1, &r, NULL, NULL, &ts, NULL), 0);
	CHECK(now() - t > 0.045);
	EQ(ts.tv_nsec, 50000000);
	ts.tv_nsec = 2000000000;
	FAILS(ppoll(&p, 1, &ts, NULL), EINVAL);
	FAILS(pselect(s + 1, &r, NULL, NULL, &ts, NULL), EINVAL);
	tv.tv_sec = -1;
	FAILS(select(s + 1, &r, NULL, NULL, &tv), EINVAL);
	OK(close(s));
}

PEERCASE(select_time_left)
{
	struct timeval tv = { .tv_sec = 100 };
	fd_set r, w;

	FD_ZERO(&r);
	FD_SET(s, &r);
	peer_post("@send 5");
	EQ(select(s + 1, &r, NULL, NULL, &tv), 1);
	CHECK(FD_ISSET(s, &r));
	CHECK(tv.tv_sec < 100 && tv.tv_sec > 80);
	EQ(peer_wait(), 5);
	/* Two bits count twice. */
	FD_ZERO(&w);
	FD_SET(s, &w);
	EQ(select(s + 1, &r, &w, NULL, NULL), 2);
	CHECK(FD_ISSET(s, &r) && FD_ISSET(s, &w));
	GET(s, 5, 0);
	EQ(select(s + 1, &r, &w, NULL, NULL), 1);
	CHECK(!FD_ISSET(s, &r) && FD_ISSET(s, &w));
	/* nfds counts: s is not looked at. */
	EQ(select(s, &r, &w, NULL, &(struct timeval){ 0, 0 }), 0);
	OK(close(s));
}

PEERCASE(writable)
{
	fd_set w;
	size_t n = fill_up(s, 0);

	EQ(events_now(s, ALL), 0);
	FD_ZERO(&w);
	FD_SET(s, &w);
	EQ(select(s + 1, NULL, &w, NULL, &(struct timeval){ 0, 0 }), 0);
	peer_post("@recv %zu", n);
	struct pollfd p = { .fd = s, .events = POLLOUT };
	EQ(poll(&p, 1, -1), 1);
	EQ(p.revents, POLLOUT);
	EQ(peer_wait(), n);
	FD_SET(s, &w);
	EQ(select(s + 1, NULL, &w, NULL, NULL), 1);
	PUT(s, 10, n);
	EQ(peer("recv 10"), 10);
	OK(close(s));
}

/* A loop as programs have it: non-blocking, POLLOUT, partial sends. */
PEERCASE(poll_driven_transfer)
{
	size_t n = 6 << 20, sent = 0;
	static char b[100000];

	set_nonblock(s, 1);
	peer_post("recv %zu", n);
	while (sent < n) {
		size_t k = n - sent < sizeof b ? n - sent : sizeof b;

		fill(b, k, sent);
		ssize_t r = send(s, b, k, 0);
		if (r < 0) {
			EQ(errno, EAGAIN);
			CHECK(wait_events(s, POLLOUT) & POLLOUT);
			continue;
		}
		sent += (size_t)r;
	}
	EQ(peer_wait(), n);
	peer_post("send %zu", n);
	for (size_t got = 0; got < n;) {
		ssize_t r = recv(s, b, sizeof b, 0);

		if (r < 0) {
			EQ(errno, EAGAIN);
			CHECK(wait_events(s, POLLIN) & POLLIN);
			continue;
		}
		SAME(b, (size_t)r, got);
		got += (size_t)r;
	}
	EQ(peer_wait(), n);
	OK(close(s));
}

PEERCASE(after_fin)
{
	EQ(peer("shut 1"), 0);
	CHECK(wait_events(s, POLLRDHUP) & POLLRDHUP);
	EQ(events_now(s, ALL), POLLIN | POLLRDNORM | POLLRDHUP | POLLOUT | POLLWRNORM);
	EQ(events_now(s, POLLOUT), POLLOUT);
	EQ(events_now(s, 0), 0);
	OK(shutdown(s, SHUT_WR));
	CHECK(wait_events(s, 0) & POLLHUP);
	EQ(events_now(s, ALL) & ~(POLLOUT | POLLWRNORM),
	   POLLIN | POLLRDNORM | POLLRDHUP | POLLHUP);
	OK(close(s));
}

PEERCASE(after_reset)
{
	fd_set r, w;

	EQ(peer("rst"), 0);
	CHECK(wait_events(s, 0) & POLLERR);
	EQ(events_now(s, 0), POLLERR | POLLHUP);
	EQ(events_now(s, ALL), POLLIN | POLLRDNORM | POLLRDHUP | POLLOUT | POLLWRNORM | POLLERR |
				       POLLHUP);
	FD_ZERO(&r);
	FD_ZERO(&w);
	FD_SET(s, &r);
	FD_SET(s, &w);
	EQ(select(s + 1, &r, &w, NULL, NULL), 2);
	/* Polling does not use up the error. */
	EQ(int_opt(s, SOL_SOCKET, SO_ERROR), ECONNRESET);
	EQ(events_now(s, 0), POLLHUP);
	OK(close(s));
}

PEERCASE(negative_and_closed)
{
	int closed = (int)OK(dup(s));
	struct pollfd p[4] = { { .fd = -1, .events = POLLIN, .revents = 99 },
			       { .fd = s, .events = POLLOUT, .revents = 0 },
			       { .fd = closed, .events = POLLIN, .revents = 0 },
			       { .fd = s, .events = POLLIN, .revents = 0 } };
	fd_set r;

	OK(close(closed));
	/* The hole is skipped, POLLNVAL counts, the same socket may come twice. */
	EQ(poll(p, 4, 5000), 2);
	EQ(p[0].revents, 0);
	EQ(p[1].revents, POLLOUT);
	EQ(p[2].revents, POLLNVAL);
	EQ(p[3].revents, 0);
	FD_ZERO(&r);
	FD_SET(closed, &r);
	FAILS(select(closed + 1, &r, NULL, NULL, NULL), EBADF);
	EQ(poll(p, 1, 0), 0);
	EQ(poll(NULL, 0, 10), 0);
	EQ(poll(p, 0, 0), 0);
	EQ(select(0, NULL, NULL, NULL, &(struct timeval){ 0, 1000 }), 0);
	FAILS(select(-1, NULL, NULL, NULL, NULL), EINVAL);
	/* Documented difference: with live connections in the process the array is read. */
	if (conf_mode != UPGRADED)
		FAILS(poll(bad_ptr(), 1, 0), EFAULT);
	OK(close(s));
}

PEERCASE(too_many)
{
	struct rlimit rl, low;
	struct pollfd p[20];

	OK(getrlimit(RLIMIT_NOFILE, &rl));
	low = rl;
	low.rlim_cur = 10;
	for (int i = 0; i < 20; i++)
		p[i] = (struct pollfd){ .fd = -1, .events = 0, .revents = 0 };
	OK(setrlimit(RLIMIT_NOFILE, &low));
	FAILS(poll(p, 20, 0), EINVAL);
	OK(setrlimit(RLIMIT_NOFILE, &rl));
	EQ(poll(p, 20, 0), 0);
	OK(close(s));
}

PEERCASE(mixed_kinds)
{
	int pp[2], ev = (int)OK(eventfd(0, 0));
	int tm = (int)OK(timerfd_create(CLOCK_MONOTONIC, 0));
	struct itimerspec in = { .it_value = { .tv_nsec = 20000000 } };
	uint64_t one = 1;

	OK(pipe(pp));
	struct pollfd p[4] = { { .fd = s, .events = POLLIN, .revents = 0 },
			       { .fd = pp[0], .events = POLLIN, .revents = 0 },
			       { .fd = ev, .events = POLLIN, .revents = 0 },
			       { .fd = tm, .events = POLLIN, .revents = 0 } };

	EQ(poll(p, 4, 0), 0);
	OK(timerfd_settime(tm, 0, &in, NULL));
	EQ(poll(p, 4, -1), 1);
	EQ(p[3].revents, POLLIN);
	EQ(write(ev, &one, 8), 8);
	EQ(poll(p, 4, -1), 2);
	EQ(peer("send 3"), 3);
	wait_unread(s, 3);
	EQ(write(pp[1], "x", 1), 1);
	EQ(poll(p, 4, -1), 4);
	for (int i = 0; i < 4; i++)
		EQ(p[i].revents, POLLIN);
	OK(close(pp[1]));
	EQ(poll(p, 4, -1), 4);
	EQ(p[1].revents, POLLIN | POLLHUP);
	OK(close(pp[0]));
	OK(close(ev));
	OK(close(tm));
	OK(close(s));
}

PEERCASE(two_sockets)
{
	int t = peer_open_slot(CONNECTS, 1);
	struct pollfd p[2] = { { .fd = s, .events = POLLIN, .revents = 0 },
			       { .fd = t, .events = POLLIN, .revents = 0 } };

	for (int i = 0; i < 10; i++) {
		EQ(peer("use %d", i & 1), 0);
		peer_post("@send 10");
		EQ(poll(p, 2, -1), 1);
		EQ(p[i & 1].revents, POLLIN);
		EQ(p[!(i & 1)].revents, 0);
		GET(p[i & 1].fd, 10, (uint64_t)(i / 2) * 10);
		EQ(peer_wait(), 10);
	}
	OK(close(s));
	OK(close(t));
}

CASE(high_descriptors)
{
	struct rlimit rl;
	struct pollfd p = { .events = POLLIN };
	int fd[2];
	fd_set r;

	OK(getrlimit(RLIMIT_NOFILE, &rl));
	if (rl.rlim_cur < 1100)
		conf_skip("RLIMIT_NOFILE is too low");
	pair(fd);
	/* The last that fits select, and the first that does not. */
	EQ(dup2(fd[1], FD_SETSIZE - 1), FD_SETSIZE - 1);
	EQ(dup2(fd[1], FD_SETSIZE), FD_SETSIZE);
	PUT(fd[0], 10, 0);
	FD_ZERO(&r);
	FD_SET(FD_SETSIZE - 1, &r);
	EQ(select(FD_SETSIZE, &r, NULL, NULL, NULL), 1);
	CHECK(FD_ISSET(FD_SETSIZE - 1, &r));
	p.fd = FD_SETSIZE;
	EQ(poll(&p, 1, -1), 1);
	GET(FD_SETSIZE, 4, 0);
	GET(FD_SETSIZE - 1, 6, 4);
	PUT(FD_SETSIZE, 7, 0);
	GET(fd[0], 7, 0);
	OK(close(FD_SETSIZE));
	OK(close(FD_SETSIZE - 1));
	OK(close(fd[0]));
	GET_EOF(fd[1]);
	OK(close(fd[1]));
}

/* Sets larger than fd_set, as programs make them that know what the kernel does. */
PEERCASE(select_beyond_fd_setsize)
{
	enum { HIGH = 3 * FD_SETSIZE + 7, WORDS = HIGH / 64 + 1 };
	unsigned long r[WORDS], w[WORDS];
	struct timeval t = { 0, 0 };
	struct rlimit rl;

	OK(getrlimit(RLIMIT_NOFILE, &rl));
	if (rl.rlim_cur < HIGH + 100) {
		OK(close(s));
		conf_skip("RLIMIT_NOFILE is too low");
	}
	EQ(dup2(s, HIGH), HIGH);
	OK(close(s));
#define ASK(set) (memset(set, 0, sizeof set), (set)[HIGH / 64] = 1ul << HIGH % 64, (fd_set *)(void *)(set))
	EQ(select(HIGH + 1, ASK(r), NULL, NULL, &t), 0);
	EQ(r[HIGH / 64], 0);
	EQ(select(HIGH + 1, ASK(r), ASK(w), NULL, NULL), 1);
	EQ(r[HIGH / 64], 0);
	EQ(w[HIGH / 64], 1ul << HIGH % 64);
	for (uint64_t i = 0; i < 20; i++) {
		peer_post("@send 10");
		EQ(select(HIGH + 1, ASK(r), NULL, NULL, NULL), 1);
		EQ(r[HIGH / 64], 1ul << HIGH % 64);
		GET(HIGH, 10, i * 10);
		EQ(peer_wait(), 10);
	}
#undef ASK
	OK(close(HIGH));
}

CASE(listener_in_select)
{
	struct sockaddr_in a;
	int l = listener(&a);
	fd_set r;

	FD_ZERO(&r);
	FD_SET(l, &r);
	EQ(select(l + 1, &r, NULL, NULL, &(struct timeval){ 0, 0 }), 0);
	int c = dial(&a);
	FD_SET(l, &r);
	EQ(select(l + 1, &r, NULL, NULL, NULL), 1);
	OK(close(OK(accept(l, NULL, NULL))));
	OK(close(c));
	OK(close(l));
}
