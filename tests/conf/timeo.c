/* SO_RCVTIMEO, SO_SNDTIMEO, and calls that a signal interrupts. */
#include "conf.h"

#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/time.h>

static void set_timeo(int s, int opt, int ms)
{
	struct timeval tv = { .tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000 };

	OK(setsockopt(s, SOL_SOCKET, opt, &tv, sizeof tv));
}

/* A call that must take about ms: kernel ticks may round down a little. */
#define TAKES(ms, call) do { \
		double t_ = now(); \
		call; \
		t_ = (now() - t_) * 1000; \
		CHECK(t_ > (ms) - 11 && t_ < (ms) + 4000); \
	} while (0)

PEERCASE(rcvtimeo)
{
	char b[10];
	struct iovec v = { b, 10 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };
	struct timeval tv;
	socklen_t n = sizeof tv;

	set_timeo(s, SO_RCVTIMEO, 60);
	OK(getsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, &n));
	EQ(n, sizeof tv);
	CHECK(tv.tv_sec == 0 && tv.tv_usec >= 50000 && tv.tv_usec <= 70000);
	TAKES(60, FAILS(recv(s, b, 10, 0), EAGAIN));
	TAKES(60, FAILS(read(s, b, 10), EAGAIN));
	TAKES(60, FAILS(recvmsg(s, &m, 0), EAGAIN));
	TAKES(60, FAILS(recv(s, b, 10, MSG_PEEK), EAGAIN));
	set_timeo(s, SO_RCVTIMEO, 5000);
	peer_post("@send 10");
	EQ(recv(s, b, 10, 0), 10);
	SAME(b, 10, 0);
	EQ(peer_wait(), 10);
	/* 0 is for ever again. */
	set_timeo(s, SO_RCVTIMEO, 0);
	peer_post("@send 10");
	EQ(recv(s, b, 10, 0), 10);
	EQ(peer_wait(), 10);
	tv = (struct timeval){ 0, 1000000 };
	FAILS(setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv), EDOM);
	FAILS(setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, 4), EINVAL);
	OK(close(s));
}

PEERCASE(sndtimeo)
{
	static char b[8 << 20];
	struct pollfd p = { .fd = s, .events = POLLOUT };

	set_timeo(s, SO_SNDTIMEO, 60);
	/* More than fits: a part is taken, then time runs out. */
	fill(b, sizeof b, 0);
	ssize_t r, sum = 0;
	double t = now();
	while ((r = send(s, b + sum, sizeof b - (size_t)sum, 0)) > 0)
		sum += r;
	EQ(errno, EAGAIN);
	CHECK(sum > 0 && sum < (ssize_t)sizeof b);
	CHECK(now() - t > 0.05);
	TAKES(60, FAILS(write(s, b, 100000), EAGAIN));
	OK(poll(&p, 1, 0));
	EQ(peer("recv %zd", sum), sum);
	PUT(s, 10, (uint64_t)sum);
	EQ(peer("recv 10"), 10);
	OK(close(s));
}

CASE(accept_timeo)
{
	struct sockaddr_in a;
	int l = listener(&a);

	set_timeo(l, SO_RCVTIMEO, 60);
	TAKES(60, FAILS(accept(l, NULL, NULL), EAGAIN));
	int c = dial(&a), s = (int)OK(accept(l, NULL, NULL));
	OK(close(l));
	OK(close(c));
	OK(close(s));
}

/* A listener whose queue is full: connects to it hang. */
static int full_listener(struct sockaddr_in *a, int *filler)
{
	int l = listener(a);

	OK(listen(l, 0));
	*filler = dial(a);
	return l;
}

CASE(connect_timeo)
{
	struct sockaddr_in a;
	int filler, l = full_listener(&a, &filler), s = tcp_socket();

	set_timeo(s, SO_SNDTIMEO, 60);
	TAKES(60, FAILS(connect(s, (void *)&a, sizeof a), EINPROGRESS));
	FAILS(connect(s, (void *)&a, sizeof a), EALREADY);
	OK(close(s));
	OK(close(filler));
	OK(close(l));
}

CASE(connect_eintr)
{
	struct sockaddr_in a;
	int filler, l = full_listener(&a, &filler), s = tcp_socket();

	peer_start();
	on_signal(SIGUSR1, 0);
	peer_post("@signal %d", SIGUSR1);
	FAILS(connect(s, (void *)&a, sizeof a), EINTR);
	EQ(signals_seen, 1);
	EQ(peer_wait(), 0);
	set_nonblock(s, 1);
	FAILS(connect(s, (void *)&a, sizeof a), EALREADY);
	/* It goes on by itself: make room and it is connected after a SYN retransmission. */
	OK(close(OK(accept(l, NULL, NULL))));
	CHECK(wait_events(s, POLLOUT) & POLLOUT);
	EQ(int_opt(s, SOL_SOCKET, SO_ERROR), 0);
	OK(connect(s, (void *)&a, sizeof a));
	FAILS(connect(s, (void *)&a, sizeof a), EISCONN);
	OK(close(s));
	OK(close(filler));
	OK(close(l));
}

PEERCASE(recv_eintr)
{
	char b[10];
	struct iovec v = { b, 10 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };

	on_signal(SIGUSR1, 0);
	for (int i = 0; i < 4; i++) {
		ssize_t r = -2;

		peer_post("@signal %d", SIGUSR1);
		errno = 0;
		switch (i) {
		case 0: r = recv(s, b, 10, 0); break;
		case 1: r = read(s, b, 10); break;
		case 2: r = recvmsg(s, &m, 0); break;
		case 3: r = recv(s, b, 10, MSG_PEEK); break;
		}
		FAILS((errno = EINTR, r), EINTR);
		EQ(peer_wait(), 0);
	}
	EQ(signals_seen, 4);
	OK(close(s));
}

PEERCASE(recv_sa_restart)
{
	char b[10];

	if (CONF_TSAN)
		conf_skip("ThreadSanitizer delays signals");
	on_signal(SIGUSR1, SA_RESTART);
	peer_post("@signal %d", SIGUSR1);
	peer_post("@signal %d", SIGUSR1);
	peer_post("@send 10");
	EQ(recv(s, b, 10, 0), 10);
	EQ(signals_seen, 2);
	SAME(b, 10, 0);
	for (int i = 0; i < 3; i++)
		OK(peer_wait());
	/* With a time limit there is no restart. */
	set_timeo(s, SO_RCVTIMEO, 5000);
	peer_post("@signal %d", SIGUSR1);
	FAILS(recv(s, b, 10, 0), EINTR);
	EQ(signals_seen, 3);
	EQ(peer_wait(), 0);
	OK(close(s));
}

PEERCASE(recv_ignored_signal)
{
	char b[10];

	signal(SIGUSR1, SIG_IGN);
	peer_post("@signal %d", SIGUSR1);
	peer_post("@send 10");
	EQ(recv(s, b, 10, 0), 10);
	OK(peer_wait());
	OK(peer_wait());
	OK(close(s));
}

PEERCASE(send_eintr)
{
	if (want_ring())
		conf_skip("a full ring grows: the call finds room after all");
	static char b[1 << 20];
	size_t n = fill_up(s, 0);
	int eintr = 0;

	/* Nothing fits: EINTR, and not one byte got in. If some fits, that counts. */
	on_signal(SIGUSR1, 0);
	for (int i = 0; i < 10 && eintr < 2; i++) {
		peer_post("@signal %d", SIGUSR1);
		fill(b, sizeof b, n);
		ssize_t r = i & 1 ? write(s, b, sizeof b) : send(s, b, sizeof b, 0);
		if (r < 0) {
			EQ(errno, EINTR);
			eintr++;
		} else {
			CHECK(r > 0 && r < (ssize_t)sizeof b);
			n += (size_t)r;
		}
		EQ(peer_wait(), 0);
		EQ(signals_seen, i + 1);
	}
	EQ(eintr, 2);
	EQ(peer("recv %zu", n), n);
	PUT(s, 10, n);
	EQ(peer("recv 10"), 10);
	OK(close(s));
}

PEERCASE(send_interrupted_is_partial)
{
	size_t n = 64 << 20;
	char *b = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		       -1, 0);

	CHECK(b != MAP_FAILED);
	fill(b, 8 << 20, 0);
	on_signal(SIGUSR1, SA_RESTART);
	peer_post("@signal %d", SIGUSR1);
	ssize_t r = send(s, b, n, 0);
	CHECK(r > 0 && r < 8 << 20);
	EQ(signals_seen, 1);
	EQ(peer_wait(), 0);
	peer_post("recv %zd", r + 10);
	PUT(s, 10, (uint64_t)r);
	EQ(peer_wait(), r + 10);
	OK(close(s));
}

PEERCASE(send_sa_restart)
{
	static char b[300000];
	size_t n = fill_up(s, 0);

	on_signal(SIGUSR1, SA_RESTART);
	peer_post("@signal %d", SIGUSR1);
	peer_post("@recv %zu", n);
	fill(b, sizeof b, n);
	ssize_t r = send(s, b, sizeof b, 0);
	EQ(signals_seen, 1);
	/* All, but for the rare case that some had found room before the signal. */
	CHECK(r > 0);
	EQ(peer_wait(), 0);
	EQ(peer_wait(), n);
	EQ(peer("recv %zd", r), r);
	OK(close(s));
}

CASE(accept_eintr)
{
	struct sockaddr_in a;

	peer_start();
	int l = listener(&a);
	on_signal(SIGUSR1, 0);
	peer_post("@signal %d", SIGUSR1);
	FAILS(accept(l, NULL, NULL), EINTR);
	EQ(peer_wait(), 0);
	on_signal(SIGUSR1, SA_RESTART);
	peer_post("@signal %d", SIGUSR1);
	peer_post("@connect %d", ntohs(a.sin_port));
	int s = (int)OK(accept(l, NULL, NULL));
	EQ(signals_seen, 1);
	EQ(peer_wait(), 0);
	EQ(peer_wait(), 0);
	OK(close(s));
	OK(close(l));
}

/* The readiness calls are never restarted. */
PEERCASE(waits_eintr)
{
	struct pollfd p = { .fd = s, .events = POLLIN };
	struct epoll_event ev = { .events = EPOLLIN };
	int ep = (int)OK(epoll_create1(0));
	fd_set rd;

	OK(epoll_ctl(ep, EPOLL_CTL_ADD, s, &ev));
	on_signal(SIGUSR1, SA_RESTART);
	for (int i = 0; i < 6; i++) {
		int r = -2;

		FD_ZERO(&rd);
		FD_SET(s, &rd);
		peer_post("@signal %d", SIGUSR1);
		switch (i) {
		case 0: r = poll(&p, 1, -1); break;
		case 1: r = ppoll(&p, 1, NULL, NULL); break;
		case 2: r = select(s + 1, &rd, NULL, NULL, NULL); break;
		case 3: r = pselect(s + 1, &rd, NULL, NULL, NULL, NULL); break;
		case 4: r = epoll_wait(ep, &ev, 1, -1); break;
		case 5: r = epoll_pwait(ep, &ev, 1, 5000, NULL); break;
		}
		EQ(errno, EINTR);
		EQ(r, -1);
		EQ(peer_wait(), 0);
		EQ(signals_seen, i + 1);
	}
	OK(close(ep));
	OK(close(s));
}

/* A signal that is let in only while waiting. */
PEERCASE(waits_with_signal_mask)
{
	struct pollfd p = { .fd = s, .events = POLLIN };
	struct epoll_event ev = { .events = EPOLLIN };
	struct timespec limit = { .tv_sec = 5 };
	int ep = (int)OK(epoll_create1(0));
	sigset_t blocked, none;
	fd_set rd;

	if (CONF_TSAN)
		conf_skip("ThreadSanitizer delays signals");
	OK(epoll_ctl(ep, EPOLL_CTL_ADD, s, &ev));
	on_signal(SIGUSR1, 0);
	sigemptyset(&none);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR1);
	OK(sigprocmask(SIG_BLOCK, &blocked, NULL));
	for (int i = 0; i < 3; i++) {
		EQ(peer("signal %d", SIGUSR1), 0);
		EQ(signals_seen, i);
		/* Blocked: not even poll sees it. */
		EQ(poll(&p, 1, 10), 0);
		EQ(signals_seen, i);
		FD_ZERO(&rd);
		FD_SET(s, &rd);
		if (i == 0)
			FAILS(ppoll(&p, 1, &limit, &none), EINTR);
		if (i == 1)
			FAILS(pselect(s + 1, &rd, NULL, NULL, &limit, &none), EINTR);
		if (i == 2)
			FAILS(epoll_pwait(ep, &ev, 1, 5000, &none), EINTR);
		EQ(signals_seen, i + 1);
	}
	/* The mask is as it was. */
	sigset_t cur;
	OK(sigprocmask(SIG_BLOCK, NULL, &cur));
	EQ(sigismember(&cur, SIGUSR1), 1);
	OK(close(ep));
	OK(close(s));
}

PEERCASE(recv_under_interval_timer)
{
	struct timeval step = { .tv_usec = 2000 };
	char b[1000];
	size_t got = 0;

	/* A signal every 2 ms, restarted, beside a crash handler that is not: no byte lost or doubled. */
	on_signal(SIGALRM, SA_RESTART);
	on_signal(SIGTRAP, 0);
	OK(setitimer(ITIMER_REAL, &(struct itimerval){ step, step }, NULL));
	peer_post("send 2000000");
	while (got < 2000000) {
		ssize_t r = recv(s, b, sizeof b, 0);

		CHECK(r > 0);
		SAME(b, (size_t)r, got);
		got += (size_t)r;
	}
	EQ(peer_wait(), 2000000);
	peer_post("recv 2000000");
	PUT(s, 2000000, 0);
	EQ(peer_wait(), 2000000);
	OK(setitimer(ITIMER_REAL, &(struct itimerval){ { 0, 0 }, { 0, 0 } }, NULL));
	OK(close(s));
}
