/* Several threads on one connection. */
#include "conf.h"

#include <sys/epoll.h>

struct job {
	pthread_t thread;
	int fd;
	size_t n;
	uint64_t digest;
	pid_t tid;		/* set when the thread runs */
	ssize_t result;
	int error;
};

static void start(struct job *j, void *(*fn)(void *))
{
	EQ(pthread_create(&j->thread, NULL, fn, j), 0);
}

static void join(struct job *j)
{
	EQ(pthread_join(j->thread, NULL), 0);
}

static void running(struct job *j)
{
	__atomic_store_n(&j->tid, (pid_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
}

/* Wait until the thread blocks. */
static void wait_blocked(struct job *j)
{
	while (!__atomic_load_n(&j->tid, __ATOMIC_ACQUIRE))
		usleep(100);
	wait_sleeping(getpid(), j->tid);
}

static void *send_job(void *arg)
{
	struct job *j = arg;
	static _Thread_local char b[30000];

	j->digest = 1;
	for (size_t done = 0; done < j->n;) {
		size_t k = 1 + (done * 7919) % sizeof b;

		if (k > j->n - done)
			k = j->n - done;
		fill(b, k, done);
		ssize_t r = send(j->fd, b, k, MSG_NOSIGNAL);
		CHECK(r > 0);
		j->digest = fnv(j->digest, b, (size_t)r);
		done += (size_t)r;
	}
	return NULL;
}

static void *recv_job(void *arg)
{
	struct job *j = arg;
	static _Thread_local char b[40000];

	j->digest = 1;
	for (size_t done = 0; done < j->n;) {
		ssize_t r = recv(j->fd, b, sizeof b, 0);

		CHECK(r > 0);
		j->digest = fnv(j->digest, b, (size_t)r);
		done += (size_t)r;
	}
	return NULL;
}

static void *one_recv(void *arg)
{
	struct job *j = arg;
	static _Thread_local char b[1000];

	running(j);
	j->result = recv(j->fd, b, sizeof b, 0);
	j->error = errno;
	return NULL;
}

static void *one_accept(void *arg)
{
	struct job *j = arg;

	running(j);
	j->result = accept(j->fd, NULL, NULL);
	j->error = errno;
	return NULL;
}

CASE(full_duplex_both_ends)
{
	struct job j[4];
	size_t n = 6 << 20;
	int fd[2];

	pair(fd);
	for (int i = 0; i < 4; i++) {
		j[i].fd = fd[i & 1];
		j[i].n = n + (size_t)((i ^ (i >> 1)) & 1);
		start(&j[i], i < 2 ? send_job : recv_job);
	}
	for (int i = 0; i < 4; i++)
		join(&j[i]);
	/* 0 sends to 3, 1 sends to 2 */
	EQ(j[0].digest, j[3].digest);
	EQ(j[1].digest, j[2].digest);
	OK(close(fd[0]));
	GET_EOF(fd[1]);
	OK(close(fd[1]));
}

PEERCASE(send_while_other_receives)
{
	struct job snd = { .fd = s, .n = 3 << 20 };

	/* The remote sends all first, then receives: both directions fill here. */
	peer_post("send %d", 3 << 20);
	peer_post("recv %d", 3 << 20);
	start(&snd, send_job);
	GET(s, 3 << 20, 0);
	join(&snd);
	EQ(peer_wait(), 3 << 20);
	EQ(peer_wait(), 3 << 20);
	OK(close(s));
}

/* Two threads read one stream: each byte goes to exactly one of them. */
CASE(two_receivers_share)
{
	struct job j[2];
	int fd[2];

	pair(fd);
	memset(j, 0, sizeof j);
	for (int i = 0; i < 2; i++) {
		j[i].fd = fd[1];
		start(&j[i], one_recv);
		wait_blocked(&j[i]);
	}
	/* Two blocked; one byte wakes one, a second the other. */
	EQ(send(fd[0], "a", 1, 0), 1);
	while (unread(fd[1]))
		usleep(100);
	EQ(send(fd[0], "b", 1, 0), 1);
	for (int i = 0; i < 2; i++) {
		join(&j[i]);
		EQ(j[i].result, 1);
	}
	OK(close(fd[0]));
	GET_EOF(fd[1]);
	OK(close(fd[1]));
}

/*
 * close() by another thread: the kernel's open file lives until the blocked
 * call returns. It stays blocked, gets the data, and only then the peer sees
 * the end.
 */
PEERCASE(close_under_blocked_recv)
{
	struct job j = { .fd = s };

	if (want_ring() || want_codec())
		conf_skip("on a ring or a coded link close ends the blocked call with EBADF");
	if (CONF_TSAN)
		conf_skip("ThreadSanitizer calls this a race");
	start(&j, one_recv);
	wait_blocked(&j);
	OK(close(s));
	FAILS(fcntl(s, F_GETFD), EBADF);
	EQ(peer("eof_yet"), 0);
	EQ(peer("send 10"), 10);
	join(&j);
	EQ(j.result, 10);
	EQ(peer("drain"), 0);
}

PEERCASE(close_under_blocked_recv_then_fin)
{
	struct job j = { .fd = s };

	if (want_ring() || want_codec())
		conf_skip("on a ring or a coded link close ends the blocked call with EBADF");
	if (CONF_TSAN)
		conf_skip("ThreadSanitizer calls this a race");
	start(&j, one_recv);
	wait_blocked(&j);
	OK(close(s));
	EQ(peer("close"), 0);
	join(&j);
	EQ(j.result, 0);
}

PEERCASE(number_reused_under_blocked_recv)
{
	struct job j = { .fd = s };
	int spare[2], n = 0, other;

	if (want_ring() || want_codec())
		conf_skip("on a ring or a coded link close ends the blocked call with EBADF");
	if (CONF_TSAN)
		conf_skip("ThreadSanitizer calls this a race");
	/* The blocked call belongs to the old socket, whatever has its number now. */
	start(&j, one_recv);
	wait_blocked(&j);
	OK(close(s));
	while ((other = tcp_socket()) < s && n < 2)
		spare[n++] = other;
	EQ(other, s);
	EQ(peer("send 10"), 10);
	join(&j);
	EQ(j.result, 10);
	while (n)
		OK(close(spare[--n]));
	OK(close(other));
	EQ(peer("drain"), 0);
}

PEERCASE(shutdown_wakes_blocked_recv)
{
	struct job j = { .fd = s };

	start(&j, one_recv);
	wait_blocked(&j);
	OK(shutdown(s, SHUT_RD));
	join(&j);
	EQ(j.result, 0);
	PUT(s, 10, 0);
	EQ(peer("recv 10"), 10);
	OK(close(s));
}

PEERCASE(shutdown_both_wakes_blocked_recv)
{
	struct job j = { .fd = s };

	start(&j, one_recv);
	wait_blocked(&j);
	OK(shutdown(s, SHUT_RDWR));
	join(&j);
	EQ(j.result, 0);
	EQ(peer("drain"), 0);
	OK(close(s));
}

static void *blocked_send(void *arg)
{
	struct job *j = arg;
	static char b[1 << 20];

	/* Large: it still blocks if some finds room. */
	fill(b, sizeof b, j->n);
	running(j);
	j->result = send(j->fd, b, sizeof b, MSG_NOSIGNAL);
	j->error = errno;
	return NULL;
}

PEERCASE(shutdown_wakes_blocked_send)
{
	size_t n = fill_up(s, 0);
	struct job j = { .fd = s, .n = n };

	start(&j, blocked_send);
	wait_blocked(&j);
	OK(shutdown(s, SHUT_WR));
	join(&j);
	if (j.result < 0)
		EQ(j.error, EPIPE);
	else
		n += (size_t)j.result;
	FAILS(send(s, "x", 1, MSG_NOSIGNAL), EPIPE);
	/* What was taken still arrives. */
	EQ(peer("drain"), n);
	OK(close(s));
}

static void *blocked_poll(void *arg)
{
	struct job *j = arg;
	struct pollfd p = { .fd = j->fd, .events = POLLIN };

	running(j);
	j->result = poll(&p, 1, -1);
	j->error = p.revents;
	return NULL;
}

PEERCASE(poll_in_one_thread_shutdown_in_another)
{
	struct job j = { .fd = s };

	start(&j, blocked_poll);
	wait_blocked(&j);
	OK(shutdown(s, SHUT_RD));
	join(&j);
	EQ(j.result, 1);
	EQ(j.error, POLLIN);
	OK(close(s));
}

static void *blocked_epoll(void *arg)
{
	struct job *j = arg;
	struct epoll_event ev = { 0 };

	running(j);
	j->result = epoll_wait(j->fd, &ev, 1, -1);
	j->error = (int)ev.events;
	return NULL;
}

/* A set that changes while another thread waits on it. */
PEERCASE(epoll_ctl_under_wait)
{
	struct epoll_event ev = { .events = EPOLLIN };
	struct job j = { .fd = (int)OK(epoll_create1(0)) };

	start(&j, blocked_epoll);
	wait_blocked(&j);
	OK(epoll_ctl(j.fd, EPOLL_CTL_ADD, s, &ev));
	EQ(peer("send 5"), 5);
	join(&j);
	EQ(j.result, 1);
	EQ(j.error, EPOLLIN);
	GET(s, 5, 0);
	/* Armed for nothing, then for POLLOUT, by MOD. */
	ev.events = 0;
	OK(epoll_ctl(j.fd, EPOLL_CTL_MOD, s, &ev));
	j.tid = 0;
	start(&j, blocked_epoll);
	wait_blocked(&j);
	ev.events = EPOLLOUT;
	OK(epoll_ctl(j.fd, EPOLL_CTL_MOD, s, &ev));
	join(&j);
	EQ(j.error, EPOLLOUT);
	OK(close(j.fd));
	OK(close(s));
}

CASE(accept_in_four_threads)
{
	struct sockaddr_in a;
	int l = listener(&a), c[4];
	struct job j[4];

	memset(j, 0, sizeof j);
	for (int i = 0; i < 4; i++) {
		j[i].fd = l;
		start(&j[i], one_accept);
	}
	for (int i = 0; i < 4; i++)
		wait_blocked(&j[i]);
	for (int i = 0; i < 4; i++) {
		c[i] = dial(&a);
		PUT(c[i], 10, 0);
	}
	for (int i = 0; i < 4; i++) {
		join(&j[i]);
		CHECK(j[i].result >= 0);
		for (int k = 0; k < i; k++)
			CHECK(j[k].result != j[i].result);
		GET((int)j[i].result, 10, 0);
		PUT((int)j[i].result, 10, 0);
	}
	for (int i = 0; i < 4; i++) {
		GET(c[i], 10, 0);
		OK(close((int)j[i].result));
		OK(close(c[i]));
	}
	OK(close(l));
}

static void *accept_many(void *arg)
{
	struct job *j = arg;

	for (;;) {
		int s = accept(j->fd, NULL, NULL);

		if (s < 0) {
			CHECK(errno == EAGAIN || errno == ECONNABORTED || errno == EINVAL);
			if (errno == EINVAL)
				return NULL;
			wait_events(j->fd, POLLIN | POLLOUT);
			continue;
		}
		set_nonblock(s, 0);
		GET(s, 20, 0);
		PUT(s, 20, 0);
		GET_EOF(s);
		OK(close(s));
		j->n++;
	}
}

/* Non-blocking accept races between threads; shutdown of the listener ends them. */
CASE(accept_race)
{
	struct sockaddr_in a;
	int l = listener(&a);
	struct job j[3];
	size_t sum = 0;

	set_nonblock(l, 1);
	memset(j, 0, sizeof j);
	for (int i = 0; i < 3; i++) {
		j[i].fd = l;
		start(&j[i], accept_many);
	}
	for (int i = 0; i < 60; i++) {
		int c = dial(&a);

		PUT(c, 20, 0);
		GET(c, 20, 0);
		OK(close(c));
	}
	OK(shutdown(l, SHUT_RDWR));
	for (int i = 0; i < 3; i++) {
		join(&j[i]);
		sum += j[i].n;
	}
	EQ(sum, 60);
	OK(close(l));
}

PEERCASE(cancel_blocked_recv)
{
	struct job j = { .fd = s };

	if (CONF_ASAN && (want_ring() || want_codec()))
		conf_skip("AddressSanitizer does not follow an asynchronous cancellation");
	void *r;

	start(&j, one_recv);
	wait_blocked(&j);
	EQ(pthread_cancel(j.thread), 0);
	EQ(pthread_join(j.thread, &r), 0);
	CHECK(r == PTHREAD_CANCELED);
	/* Nothing of the stream went with it. */
	EQ(peer("send 10"), 10);
	GET(s, 10, 0);
	PUT(s, 10, 0);
	EQ(peer("recv 10"), 10);
	/* And again, for locks left behind. */
	j.tid = 0;
	start(&j, one_recv);
	wait_blocked(&j);
	EQ(pthread_cancel(j.thread), 0);
	EQ(pthread_join(j.thread, &r), 0);
	EQ(peer("send 10"), 10);
	GET(s, 10, 10);
	OK(close(s));
	EQ(peer("drain"), 0);
}

PEERCASE(cancel_blocked_send)
{
	if (CONF_ASAN && (want_ring() || want_codec()))
		conf_skip("AddressSanitizer does not follow an asynchronous cancellation");
	/* It does not notice that forced unwinding has left our frames. */
	if (CONF_ASAN && conf_mode == UPGRADED)
		conf_skip("AddressSanitizer does not follow pthread_cancel through cleanups");

	size_t n = fill_up(s, 0);
	struct job j = { .fd = s, .n = n };
	void *r;

	start(&j, blocked_send);
	wait_blocked(&j);
	EQ(pthread_cancel(j.thread), 0);
	EQ(pthread_join(j.thread, &r), 0);
	CHECK(r == PTHREAD_CANCELED);
	/* The socket is usable; how much of the cancelled call went in is not told. */
	EQ(peer("recv %zu", n), n);
	EQ(peer("send 10"), 10);
	GET(s, 10, 0);
	OK(shutdown(s, SHUT_WR));
	long rest = peer("drain");
	CHECK(rest >= 0 && rest < 1 << 20);
	OK(close(s));
}

CASE(cancel_blocked_accept)
{
	struct sockaddr_in a;
	int l = listener(&a);
	struct job j = { .fd = l };
	void *r;

	start(&j, one_accept);
	wait_blocked(&j);
	EQ(pthread_cancel(j.thread), 0);
	EQ(pthread_join(j.thread, &r), 0);
	CHECK(r == PTHREAD_CANCELED);
	int c = dial(&a), s = (int)OK(accept(l, NULL, NULL));
	PUT(c, 10, 0);
	GET(s, 10, 0);
	OK(close(c));
	OK(close(s));
	OK(close(l));
}

static void *open_close(void *arg)
{
	struct job *j = arg;
	struct sockaddr_in a;
	int l = listener(&a);

	for (int i = 0; i < 40; i++) {
		int c = dial(&a), s = (int)OK(accept(l, NULL, NULL));

		for (int k = 0; k < 20; k++) {
			PUT(c, 30, (uint64_t)k * 30);
			GET(s, 30, (uint64_t)k * 30);
			PUT(s, 30, (uint64_t)k * 30);
			GET(c, 30, (uint64_t)k * 30);
		}
		OK(close(i & 1 ? c : s));
		GET_EOF(i & 1 ? s : c);
		OK(close(i & 1 ? s : c));
		j->n++;
	}
	OK(close(l));
	return NULL;
}

/* Connections come and go in four threads: numbers are reused at once. */
CASE(churn_in_threads)
{
	struct job j[4];

	memset(j, 0, sizeof j);
	for (int i = 0; i < 4; i++)
		start(&j[i], open_close);
	for (int i = 0; i < 4; i++) {
		join(&j[i]);
		EQ(j[i].n, 40);
	}
}

/* fork while another thread transfers; the child leaves by _exit at once. */
CASE(fork_under_transfer)
{
	struct job snd, rcv;
	int fd[2];

	pair(fd);
	snd = (struct job){ .fd = fd[0], .n = 8 << 20 };
	rcv = (struct job){ .fd = fd[1], .n = 8 << 20 };
	start(&rcv, recv_job);
	start(&snd, send_job);
	for (int i = 0; i < 8; i++) {
		pid_t p = (pid_t)OK(fork());

		if (!p)
			_exit(0);
		EQ(exit_of(p), 0);
	}
	join(&snd);
	join(&rcv);
	EQ(snd.digest, rcv.digest);
	OK(close(fd[0]));
	GET_EOF(fd[1]);
	OK(close(fd[1]));
}

/* Threads that send whole small records at once: none is torn. */
static void *record_job(void *arg)
{
	struct job *j = arg;
	char b[64];

	for (int i = 0; i < 500; i++) {
		memset(b, (int)j->n, sizeof b);
		EQ(send(j->fd, b, sizeof b, MSG_NOSIGNAL), sizeof b);
	}
	return NULL;
}

CASE(small_records_are_not_torn)
{
	struct job j[3];
	int fd[2], count[3] = { 0 };
	char b[64];

	pair(fd);
	memset(j, 0, sizeof j);
	for (int i = 0; i < 3; i++) {
		j[i].fd = fd[0];
		j[i].n = (size_t)i;
		start(&j[i], record_job);
	}
	for (int i = 0; i < 1500; i++) {
		EQ(recv(fd[1], b, sizeof b, MSG_WAITALL), sizeof b);
		CHECK(b[0] >= 0 && b[0] < 3);
		for (size_t k = 1; k < sizeof b; k++)
			EQ(b[k], b[0]);
		count[(int)b[0]]++;
	}
	for (int i = 0; i < 3; i++) {
		join(&j[i]);
		EQ(count[i], 500);
	}
	OK(close(fd[0]));
	OK(close(fd[1]));
}
