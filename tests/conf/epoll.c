/* epoll: level, edge, one-shot, exclusive, nested. */
#include "conf.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>

static int set(void)
{
	return (int)OK(epoll_create1(EPOLL_CLOEXEC));
}

static int ctl(int ep, int op, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event ev = { .events = events, .data.u64 = data };

	return epoll_ctl(ep, op, fd, &ev);
}

#define ADD(ep, fd, ev, data) OK(ctl((ep), EPOLL_CTL_ADD, (fd), (ev), (data)))
#define MOD(ep, fd, ev, data) OK(ctl((ep), EPOLL_CTL_MOD, (fd), (ev), (data)))
#define DEL(ep, fd) OK(ctl((ep), EPOLL_CTL_DEL, (fd), 0, 0))

/* The one event there is within ms, 0 if none. */
static uint32_t event(int ep, uint64_t data, int ms)
{
	struct epoll_event ev[4];
	int n = (int)OK(epoll_wait(ep, ev, 4, ms));

	if (!n)
		return 0;
	EQ(n, 1);
	EQ(ev[0].data.u64, data);
	return ev[0].events;
}

PEERCASE(level)
{
	int ep = set();

	ADD(ep, s, EPOLLIN, 77);
	EQ(event(ep, 77, 0), 0);
	EQ(peer("send 10"), 10);
	EQ(event(ep, 77, 5000), EPOLLIN);
	EQ(event(ep, 77, 0), EPOLLIN);
	GET(s, 9, 0);
	EQ(event(ep, 77, 0), EPOLLIN);
	GET(s, 1, 9);
	EQ(event(ep, 77, 0), 0);
	MOD(ep, s, EPOLLIN | EPOLLOUT, 78);
	EQ(event(ep, 78, 0), EPOLLOUT);
	MOD(ep, s, 0, 79);
	EQ(event(ep, 79, 0), 0);
	DEL(ep, s);
	OK(close(ep));
	OK(close(s));
}

PEERCASE(blocked_wait_wakes)
{
	int ep = set();

	ADD(ep, s, EPOLLIN, 1);
	for (int i = 0; i < 5; i++) {
		peer_post("@send 10");
		EQ(event(ep, 1, -1), EPOLLIN);
		GET(s, 10, (uint64_t)i * 10);
		EQ(peer_wait(), 10);
	}
	peer_post("@close");
	EQ(event(ep, 1, -1), EPOLLIN);
	GET_EOF(s);
	EQ(peer_wait(), 0);
	OK(close(ep));
	OK(close(s));
}

/* One edge per arrival: also when nothing was read in between. */
PEERCASE(edge_in)
{
	int ep = set();

	ADD(ep, s, EPOLLIN | EPOLLET, 5);
	EQ(event(ep, 5, 0), 0);
	for (int i = 0; i < 5; i++) {
		EQ(peer("send 10"), 10);
		EQ(event(ep, 5, 5000), EPOLLIN);
		EQ(event(ep, 5, 5), 0);
	}
	/* Partial reading makes no edge; MOD looks afresh. */
	GET(s, 20, 0);
	EQ(event(ep, 5, 5), 0);
	MOD(ep, s, EPOLLIN | EPOLLET, 6);
	EQ(event(ep, 6, 0), EPOLLIN);
	EQ(event(ep, 6, 0), 0);
	GET(s, 30, 20);
	EQ(event(ep, 6, 5), 0);
	MOD(ep, s, EPOLLIN | EPOLLET, 6);
	EQ(event(ep, 6, 5), 0);
	EQ(peer("send 1"), 1);
	EQ(event(ep, 6, 5000), EPOLLIN);
	OK(close(ep));
	OK(close(s));
}

PEERCASE(edge_in_and_out)
{
	int ep = set();

	/* At first it is writable: one edge; an arrival reports both. */
	ADD(ep, s, EPOLLIN | EPOLLOUT | EPOLLET, 5);
	EQ(event(ep, 5, 0), EPOLLOUT);
	EQ(event(ep, 5, 0), 0);
	EQ(peer("send 10"), 10);
	EQ(event(ep, 5, 5000), EPOLLIN | EPOLLOUT);
	EQ(event(ep, 5, 5), 0);
	GET(s, 10, 0);
	EQ(event(ep, 5, 5), 0);
	OK(close(ep));
	OK(close(s));
}

PEERCASE(edge_out)
{
	int ep = set();

	ADD(ep, s, EPOLLOUT | EPOLLET, 5);
	EQ(event(ep, 5, 0), EPOLLOUT);
	size_t n = fill_up(s, 0);
	peer_post("@recv %zu", n);
	EQ(event(ep, 5, -1), EPOLLOUT);
	EQ(peer_wait(), n);
	PUT(s, 10, n);
	EQ(peer("recv 10"), 10);
	OK(close(ep));
	OK(close(s));
}

PEERCASE(edge_fin)
{
	int ep = set();

	ADD(ep, s, EPOLLIN | EPOLLRDHUP | EPOLLET, 5);
	EQ(peer("shut 1"), 0);
	EQ(event(ep, 5, 5000), EPOLLIN | EPOLLRDHUP);
	EQ(event(ep, 5, 5), 0);
	GET_EOF(s);
	EQ(event(ep, 5, 5), 0);
	OK(close(ep));
	OK(close(s));
}

PEERCASE(edge_fin_after_data)
{
	int ep = set();

	ADD(ep, s, EPOLLIN | EPOLLRDHUP | EPOLLET, 5);
	EQ(peer("send 100"), 100);
	EQ(event(ep, 5, 5000), EPOLLIN);
	EQ(peer("close"), 0);
	EQ(event(ep, 5, 5000), EPOLLIN | EPOLLRDHUP);
	GET(s, 100, 0);
	GET_EOF(s);
	OK(close(ep));
	OK(close(s));
}

PEERCASE(edge_reset)
{
	int ep = set();
	char b[1];

	ADD(ep, s, EPOLLET, 5);
	EQ(peer("rst"), 0);
	EQ(event(ep, 5, 5000), EPOLLERR | EPOLLHUP);
	EQ(event(ep, 5, 5), 0);
	FAILS(recv(s, b, 1, 0), ECONNRESET);
	OK(close(ep));
	OK(close(s));
}

/* The usual ET loop: read to EAGAIN, wait; nothing may get stuck. */
PEERCASE(edge_driven_transfer)
{
	static char b[8192];
	size_t n = 6 << 20, got = 0, sent = 0;
	int ep = set(), out = 0;

	set_nonblock(s, 1);
	ADD(ep, s, EPOLLIN | EPOLLOUT | EPOLLET, 1);
	peer_post("send %zu", n);
	while (got < n) {
		CHECK(event(ep, 1, 5000));
		for (;;) {
			ssize_t r = recv(s, b, sizeof b, 0);

			if (r < 0) {
				EQ(errno, EAGAIN);
				break;
			}
			SAME(b, (size_t)r, got);
			got += (size_t)r;
		}
	}
	EQ(peer_wait(), n);
	peer_post("recv %zu", n);
	while (sent < n) {
		size_t k = n - sent < sizeof b ? n - sent : sizeof b;

		fill(b, k, sent);
		ssize_t r = send(s, b, k, 0);
		if (r < 0) {
			EQ(errno, EAGAIN);
			do
				out = (int)event(ep, 1, 5000);
			while (out && !(out & EPOLLOUT));
			CHECK(out & EPOLLOUT);
			continue;
		}
		sent += (size_t)r;
	}
	EQ(peer_wait(), n);
	OK(close(ep));
	OK(close(s));
}

PEERCASE(edge_ping_pong)
{
	int ep = set();
	char b[64];

	/* Each round one edge; the remote's answers come while we sleep. */
	set_nonblock(s, 1);
	ADD(ep, s, EPOLLIN | EPOLLET, 1);
	for (int i = 0; i < 200; i++) {
		PUT(s, 32, (uint64_t)i * 32);
		peer_post("recv 32");
		peer_post("send 48");
		for (size_t got = 0; got < 48;) {
			ssize_t r = recv(s, b, sizeof b, 0);

			if (r < 0) {
				EQ(errno, EAGAIN);
				CHECK(event(ep, 1, 5000) & EPOLLIN);
				continue;
			}
			SAME(b, (size_t)r, (uint64_t)i * 48 + got);
			got += (size_t)r;
		}
		EQ(peer_wait(), 32);
		EQ(peer_wait(), 48);
	}
	OK(close(ep));
	OK(close(s));
}

PEERCASE(oneshot)
{
	int ep = set();

	ADD(ep, s, EPOLLIN | EPOLLONESHOT, 9);
	EQ(peer("send 10"), 10);
	EQ(event(ep, 9, 5000), EPOLLIN);
	/* Disarmed, for new data and for the end as well, until MOD. */
	EQ(event(ep, 9, 0), 0);
	EQ(peer("send 10"), 10);
	wait_unread(s, 20);
	EQ(event(ep, 9, 0), 0);
	FAILS(ctl(ep, EPOLL_CTL_ADD, s, EPOLLIN, 9), EEXIST);
	MOD(ep, s, EPOLLIN | EPOLLONESHOT, 10);
	EQ(event(ep, 10, 0), EPOLLIN);
	EQ(event(ep, 10, 0), 0);
	EQ(peer("rst"), 0);
	CHECK(wait_events(s, 0) & POLLERR);
	EQ(event(ep, 10, 0), 0);
	MOD(ep, s, EPOLLONESHOT, 11);
	EQ(event(ep, 11, 0), EPOLLERR | EPOLLHUP);
	OK(close(ep));
	OK(close(s));
}

PEERCASE(oneshot_edge)
{
	int ep = set();

	ADD(ep, s, EPOLLIN | EPOLLONESHOT | EPOLLET, 9);
	for (int i = 0; i < 10; i++) {
		EQ(peer("send 10"), 10);
		EQ(event(ep, 9, 5000), EPOLLIN);
		GET(s, 10, (uint64_t)i * 10);
		EQ(event(ep, 9, 0), 0);
		MOD(ep, s, EPOLLIN | EPOLLONESHOT | EPOLLET, 9);
		EQ(event(ep, 9, 0), 0);
	}
	OK(close(ep));
	OK(close(s));
}

PEERCASE(hup_and_err_need_no_mask)
{
	int ep = set();

	ADD(ep, s, 0, 3);
	EQ(event(ep, 3, 0), 0);
	EQ(peer("rst"), 0);
	EQ(event(ep, 3, 5000), EPOLLERR | EPOLLHUP);
	EQ(event(ep, 3, 0), EPOLLERR | EPOLLHUP);
	OK(close(ep));
	OK(close(s));
}

PEERCASE(rdhup)
{
	int ep = set();

	ADD(ep, s, EPOLLRDHUP, 3);
	EQ(peer("send 5"), 5);
	wait_unread(s, 5);
	EQ(event(ep, 3, 0), 0);
	EQ(peer("shut 1"), 0);
	EQ(event(ep, 3, 5000), EPOLLRDHUP);
	OK(shutdown(s, SHUT_WR));
	EQ(peer("close"), 0);
	CHECK(wait_events(s, 0) & POLLHUP);
	EQ(event(ep, 3, 0) & ~(uint32_t)EPOLLERR, EPOLLRDHUP | EPOLLHUP);
	OK(close(ep));
	OK(close(s));
}

CASE(ctl_errors)
{
	int ep = set(), fd[2], f = (int)OK(memfd_create("conf", 0));

	pair(fd);
	FAILS(ctl(ep, EPOLL_CTL_MOD, fd[0], EPOLLIN, 1), ENOENT);
	FAILS(ctl(ep, EPOLL_CTL_DEL, fd[0], 0, 0), ENOENT);
	ADD(ep, fd[0], EPOLLIN, 1);
	FAILS(ctl(ep, EPOLL_CTL_ADD, fd[0], EPOLLIN, 1), EEXIST);
	FAILS(ctl(ep, 99, fd[0], EPOLLIN, 1), EINVAL);
	FAILS(ctl(ep, EPOLL_CTL_ADD, -1, EPOLLIN, 1), EBADF);
	FAILS(ctl(-1, EPOLL_CTL_ADD, fd[0], EPOLLIN, 1), EBADF);
	FAILS(ctl(fd[0], EPOLL_CTL_ADD, fd[1], EPOLLIN, 1), EINVAL);
	FAILS(ctl(ep, EPOLL_CTL_ADD, f, EPOLLIN, 1), EPERM);
	FAILS(ctl(ep, EPOLL_CTL_ADD, ep, EPOLLIN, 1), EINVAL);
	FAILS(epoll_ctl(ep, EPOLL_CTL_ADD, fd[1], bad_ptr()), EFAULT);
	/* DEL takes no event. */
	EQ(epoll_ctl(ep, EPOLL_CTL_DEL, fd[0], NULL), 0);
	struct epoll_event ev[1];
	volatile int zero = 0;	/* volatile: the compiler would warn */
	FAILS(epoll_wait(ep, ev, zero, 0), EINVAL);
	FAILS(epoll_wait(ep, ev, zero - 1, 0), EINVAL);
	FAILS(epoll_wait(fd[0], ev, 1, 0), EINVAL);
	FAILS(epoll_wait(-1, ev, 1, 0), EBADF);
	ADD(ep, fd[0], EPOLLOUT, 1);
	FAILS(epoll_wait(ep, bad_ptr(), 1, 0), EFAULT);
	FAILS(epoll_create1(0x1234), EINVAL);
	FAILS(epoll_create(zero), EINVAL);
	OK(close(f));
	OK(close(ep));
	FAILS(ctl(ep, EPOLL_CTL_ADD, fd[0], EPOLLIN, 1), EBADF);
	OK(close(fd[0]));
	OK(close(fd[1]));
}

CASE(two_sets)
{
	int a = set(), b = set(), fd[2];

	pair(fd);
	ADD(a, fd[1], EPOLLIN, 1);
	ADD(b, fd[1], EPOLLIN | EPOLLET, 2);
	PUT(fd[0], 10, 0);
	EQ(event(a, 1, 5000), EPOLLIN);
	EQ(event(b, 2, 5000), EPOLLIN);
	EQ(event(b, 2, 0), 0);
	EQ(event(a, 1, 0), EPOLLIN);
	OK(close(b));
	GET(fd[1], 10, 0);
	EQ(event(a, 1, 0), 0);
	OK(close(a));
	OK(close(fd[0]));
	OK(close(fd[1]));
}

CASE(nested)
{
	int in = set(), out = set(), fd[2];

	pair(fd);
	ADD(in, fd[1], EPOLLIN, 1);
	ADD(out, in, EPOLLIN, 2);
	EQ(event(out, 2, 0), 0);
	PUT(fd[0], 10, 0);
	EQ(event(out, 2, 5000), EPOLLIN);
	EQ(event(in, 1, 0), EPOLLIN);
	/* A set is a descriptor to poll, too. */
	EQ(events_now(in, POLLIN), POLLIN);
	EQ(events_now(out, POLLIN), POLLIN);
	GET(fd[1], 10, 0);
	EQ(events_now(out, POLLIN), 0);
	OK(close(out));
	OK(close(in));
	OK(close(fd[0]));
	OK(close(fd[1]));
}

CASE(dups_are_separate_members)
{
	int ep = set(), fd[2];
	struct epoll_event ev[4];

	pair(fd);
	int d = (int)OK(dup(fd[1]));
	ADD(ep, fd[1], EPOLLIN, 1);
	ADD(ep, d, EPOLLIN, 2);
	PUT(fd[0], 10, 0);
	wait_unread(fd[1], 10);
	EQ(epoll_wait(ep, ev, 4, 5000), 2);
	EQ(ev[0].data.u64 + ev[1].data.u64, 3);
	/* One removed: the other stays. */
	DEL(ep, d);
	EQ(event(ep, 1, 0), EPOLLIN);
	OK(close(d));
	OK(close(ep));
	OK(close(fd[0]));
	OK(close(fd[1]));
}

CASE(close_removes)
{
	int ep = set(), fd[2], other[2];

	pair(fd);
	pair(other);
	ADD(ep, fd[1], EPOLLIN, 1);
	PUT(fd[0], 10, 0);
	EQ(event(ep, 1, 5000), EPOLLIN);
	int old = fd[1];
	OK(close(fd[1]));
	EQ(event(ep, 1, 0), 0);
	/* The number used anew is a new member. */
	EQ(dup2(other[1], old), old);
	FAILS(ctl(ep, EPOLL_CTL_MOD, old, EPOLLIN, 1), ENOENT);
	ADD(ep, old, EPOLLIN, 2);
	PUT(other[0], 1, 0);
	EQ(event(ep, 2, 5000), EPOLLIN);
	OK(close(old));
	OK(close(other[0]));
	OK(close(other[1]));
	OK(close(fd[0]));
	OK(close(ep));
}

CASE(close_with_a_dup_left_does_not_remove)
{
	int ep = set(), fd[2];

	/* The open file lives on in the dup, and so does the registration. */
	pair(fd);
	int d = (int)OK(dup(fd[1]));
	ADD(ep, fd[1], EPOLLIN, 1);
	OK(close(fd[1]));
	PUT(fd[0], 10, 0);
	EQ(event(ep, 1, 5000), EPOLLIN);
	FAILS(ctl(ep, EPOLL_CTL_DEL, fd[1], 0, 0), EBADF);
	OK(close(d));
	EQ(event(ep, 1, 0), 0);
	OK(close(fd[0]));
	OK(close(ep));
}

CASE(maxevents)
{
	struct epoll_event ev[8];
	int ep = set(), fd[5][2], seen[5] = { 0 };

	for (int i = 0; i < 5; i++) {
		pair_raw(fd[i]);
		ADD(ep, fd[i][1], EPOLLIN, (uint64_t)i);
		PUT(fd[i][0], 1, 0);
		wait_unread(fd[i][1], 1);
	}
	/* Round robin: in three calls of two all are served. */
	for (int k = 0; k < 3; k++) {
		int n = (int)OK(epoll_wait(ep, ev, 2, 0));

		EQ(n, 2);
		for (int i = 0; i < n; i++)
			seen[ev[i].data.u64] = 1;
	}
	for (int i = 0; i < 5; i++)
		EQ(seen[i], 1);
	EQ(epoll_wait(ep, ev, 8, 0), 5);
	OK(close(ep));
	for (int i = 0; i < 5; i++) {
		OK(close(fd[i][0]));
		OK(close(fd[i][1]));
	}
}

CASE(mixed_kinds)
{
	struct epoll_event ev[4];
	int ep = set(), fd[2], pp[2], e = (int)OK(eventfd(0, 0));
	uint64_t one = 1;

	pair(fd);
	OK(pipe(pp));
	ADD(ep, fd[1], EPOLLIN, 1);
	ADD(ep, pp[0], EPOLLIN, 2);
	ADD(ep, e, EPOLLIN | EPOLLET, 4);
	EQ(write(pp[1], "x", 1), 1);
	EQ(event(ep, 2, 5000), EPOLLIN);
	EQ(write(e, &one, 8), 8);
	PUT(fd[0], 1, 0);
	wait_unread(fd[1], 1);
	EQ(epoll_wait(ep, ev, 4, 0), 3);
	EQ(ev[0].data.u64 + ev[1].data.u64 + ev[2].data.u64, 7);
	EQ(epoll_wait(ep, ev, 4, 0), 2);
	OK(close(pp[0]));
	OK(close(pp[1]));
	OK(close(e));
	OK(close(ep));
	OK(close(fd[0]));
	OK(close(fd[1]));
}

CASE(listener_edge_and_exclusive)
{
	struct sockaddr_in a;
	int ep = set(), ep2 = set(), l = listener(&a);

	set_nonblock(l, 1);
	ADD(ep, l, EPOLLIN | EPOLLET, 1);
	ADD(ep2, l, EPOLLIN | EPOLLEXCLUSIVE, 2);
	FAILS(ctl(ep2, EPOLL_CTL_MOD, l, EPOLLIN, 2), EINVAL);
	FAILS(ctl(ep, EPOLL_CTL_MOD, l, EPOLLIN | EPOLLEXCLUSIVE, 2), EINVAL);
	for (int i = 0; i < 3; i++) {
		int c = dial(&a);

		EQ(event(ep, 1, 5000), EPOLLIN);
		EQ(event(ep, 1, 0), 0);
		EQ(event(ep2, 2, 5000), EPOLLIN);
		OK(close(OK(accept(l, NULL, NULL))));
		EQ(event(ep2, 2, 0), 0);
		OK(close(c));
	}
	OK(close(ep));
	OK(close(ep2));
	OK(close(l));
}

/* Registered before connect: HUP at first, then the result. */
CASE(registered_before_connect)
{
	struct sockaddr_in a;
	int ep = set(), l = listener(&a);
	int s = (int)OK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));

	ADD(ep, s, EPOLLIN | EPOLLOUT | EPOLLET, 1);
	EQ(event(ep, 1, 0), EPOLLOUT | EPOLLHUP);
	FAILS(connect(s, (void *)&a, sizeof a), EINPROGRESS);
	EQ(event(ep, 1, 5000), EPOLLOUT);
	EQ(int_opt(s, SOL_SOCKET, SO_ERROR), 0);
	int t = (int)OK(accept(l, NULL, NULL));
	set_nonblock(s, 0);
	warm(s, t);
	/* Whatever warming up left as an edge. */
	while (event(ep, 1, 0))
		;
	PUT(t, 10, 0);
	EQ(event(ep, 1, 5000), EPOLLIN | EPOLLOUT);
	EQ(event(ep, 1, 5), 0);
	OK(close(ep));
	OK(close(s));
	OK(close(t));
	OK(close(l));
}

/* The set outlives a fork; parent and child both wait on it. */
PEERCASE(across_fork)
{
	int ep = set();

	ADD(ep, s, EPOLLIN, 1);
	pid_t p = (pid_t)OK(fork());
	if (!p) {
		EQ(event(ep, 1, 5000), EPOLLIN);
		GET(s, 10, 0);
		_exit(0);
	}
	EQ(peer("send 10"), 10);
	EQ(exit_of(p), 0);
	EQ(event(ep, 1, 0), 0);
	EQ(peer("send 10"), 10);
	EQ(event(ep, 1, 5000), EPOLLIN);
	GET(s, 10, 10);
	OK(close(ep));
	OK(close(s));
}

PEERCASE(timeout)
{
	int ep = set();
	struct epoll_event ev;
	double t = now();

	ADD(ep, s, EPOLLIN, 1);
	EQ(epoll_wait(ep, &ev, 1, 50), 0);
	CHECK(now() - t > 0.045);
#if defined(SYS_epoll_pwait2) && defined(__GLIBC__)
	struct timespec ts = { .tv_nsec = 50000000 };
	t = now();
	EQ(epoll_pwait2(ep, &ev, 1, &ts, NULL), 0);
	CHECK(now() - t > 0.045);
	EQ(peer("send 1"), 1);
	ts.tv_sec = 5;
	EQ(epoll_pwait2(ep, &ev, 1, &ts, NULL), 1);
	EQ(ev.events, EPOLLIN);
#endif
	OK(close(ep));
	OK(close(s));
}
