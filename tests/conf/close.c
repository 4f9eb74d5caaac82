/* Ends of streams: FIN, RST, half-close, linger, a killed peer, SIGPIPE. */
#include "conf.h"

PEERCASE(fin_is_sticky)
{
	EQ(peer("send 10"), 10);
	EQ(peer("close"), 0);
	CHECK(wait_events(s, POLLRDHUP) & POLLRDHUP);
	EQ(events_now(s, POLLIN | POLLRDHUP | POLLOUT), POLLIN | POLLRDHUP | POLLOUT);
	GET(s, 10, 0);
	for (int i = 0; i < 3; i++)
		GET_EOF(s);
	EQ(int_opt(s, SOL_SOCKET, SO_ERROR), 0);
	EQ(events_now(s, POLLIN | POLLRDHUP), POLLIN | POLLRDHUP);
	OK(close(s));
}

PEERCASE(blocked_recv_gets_fin)
{
	peer_post("@close");
	GET_EOF(s);
	EQ(peer_wait(), 0);
	OK(close(s));
}

PEERCASE(blocked_recv_gets_reset)
{
	char b[10];

	peer_post("@rst");
	FAILS(recv(s, b, 10, 0), ECONNRESET);
	GET_EOF(s);
	EQ(peer_wait(), 0);
	OK(close(s));
}

PEERCASE(half_close_ours)
{
	PUT(s, 1000, 0);
	OK(shutdown(s, SHUT_WR));
	EQ(peer("drain"), 1000);
	FAILS(send(s, "x", 1, MSG_NOSIGNAL), EPIPE);
	/* The other direction goes on. */
	for (int i = 0; i < 5; i++) {
		EQ(peer("send 1000"), 1000);
		GET(s, 1000, (uint64_t)i * 1000);
	}
	EQ(events_now(s, POLLHUP | POLLRDHUP), 0);
	EQ(peer("close"), 0);
	GET_EOF(s);
	CHECK(events_now(s, 0) & POLLHUP);
	OK(close(s));
}

PEERCASE(half_close_theirs)
{
	EQ(peer("send 500"), 500);
	EQ(peer("shut 1"), 0);
	GET(s, 500, 0);
	GET_EOF(s);
	for (int i = 0; i < 5; i++) {
		PUT(s, 1000, (uint64_t)i * 1000);
		EQ(peer("recv 1000"), 1000);
	}
	EQ(events_now(s, POLLHUP), 0);
	OK(close(s));
	EQ(peer("drain"), 0);
}

PEERCASE(half_close_large)
{
	size_t n = 4 << 20;

	peer_post("send %zu", n);
	peer_post("shut 1");
	GET(s, n, 0);
	GET_EOF(s);
	EQ(peer_wait(), n);
	EQ(peer_wait(), 0);
	peer_post("drain");
	PUT(s, n, 0);
	OK(shutdown(s, SHUT_WR));
	EQ(peer_wait(), n);
	OK(close(s));
}

PEERCASE(shutdown_read)
{
	char b[10];

	/* Nothing goes over the wire; recv returns 0, yet data that comes is still there. */
	OK(shutdown(s, SHUT_RD));
	GET_EOF(s);
	EQ(events_now(s, POLLIN | POLLRDHUP | POLLOUT), POLLIN | POLLRDHUP | POLLOUT);
	EQ(peer("eof_yet"), 0);
	EQ(peer("send 10"), 10);
	wait_unread(s, 10);
	EQ(recv(s, b, 10, 0), 10);
	SAME(b, 10, 0);
	GET_EOF(s);
	PUT(s, 10, 0);
	EQ(peer("recv 10"), 10);
	OK(close(s));
}

PEERCASE(shutdown_both)
{
	PUT(s, 100, 0);
	OK(shutdown(s, SHUT_RDWR));
	FAILS(send(s, "x", 1, MSG_NOSIGNAL), EPIPE);
	GET_EOF(s);
	CHECK(events_now(s, 0) & POLLHUP);
	EQ(peer("drain"), 100);
	EQ(peer("close"), 0);
	OK(close(s));
}

PEERCASE(shutdown_twice)
{
	OK(shutdown(s, SHUT_WR));
	OK(shutdown(s, SHUT_WR));
	EQ(peer("drain"), 0);
	OK(shutdown(s, SHUT_RD));
	OK(shutdown(s, SHUT_RDWR));
	FAILS(shutdown(s, 3), EINVAL);
	FAILS(shutdown(s, -1), EINVAL);
	OK(close(s));
}

CASE(shutdown_unconnected)
{
	int s = tcp_socket();

	FAILS(shutdown(s, SHUT_WR), ENOTCONN);
	FAILS(shutdown(s, SHUT_RDWR), ENOTCONN);
	FAILS(shutdown(s, 7), EINVAL);
	OK(close(s));
}

PEERCASE(linger_zero_sends_reset)
{
	struct linger lg = { .l_onoff = 1, .l_linger = 0 };

	PUT(s, 10, 0);
	EQ(peer("unread 10"), 10);
	OK(setsockopt(s, SOL_SOCKET, SO_LINGER, &lg, sizeof lg));
	OK(close(s));
	EQ(peer("recv 10"), 10);
	EQ(peer("recv 1"), -1);
	EQ(peer_errno, ECONNRESET);
}

PEERCASE(linger_seconds)
{
	struct linger lg = { .l_onoff = 1, .l_linger = 5 };

	/* All is acknowledged soon: close does not wait out its time. */
	OK(setsockopt(s, SOL_SOCKET, SO_LINGER, &lg, sizeof lg));
	PUT(s, 10000, 0);
	double t = now();
	OK(close(s));
	CHECK(now() - t < 4);
	EQ(peer("drain"), 10000);
}

CASE(linger_times_out)
{
	int s = peer_open(CONNECTS);
	struct linger lg = { .l_onoff = 1, .l_linger = 1 };

	if (want_ring())
		conf_skip("on a ring sent bytes are with the peer: there is nothing to linger for");
	if (want_codec())
		conf_skip("on a coded link close leaves what is still to be sent to the library's thread");
	/* The peer does not read: close gives up after the time, the data stays on its way. */
	OK(setsockopt(s, SOL_SOCKET, SO_LINGER, &lg, sizeof lg));
	size_t n = fill_up(s, 0);
	double t = now();
	OK(close(s));
	CHECK(now() - t > 0.9);
	EQ(peer("drain"), n);
}

PEERCASE(reset_keeps_read_queue)
{
	char b[10];

	/* What had arrived before the RST can be read, then the error once, then 0. */
	EQ(peer("send 1000"), 1000);
	wait_unread(s, 1000);
	EQ(peer("rst"), 0);
	CHECK(wait_events(s, 0) & POLLERR);
	CHECK(events_now(s, POLLIN) & POLLHUP);
	GET(s, 1000, 0);
	FAILS(recv(s, b, 10, 0), ECONNRESET);
	GET_EOF(s);
	FAILS(send(s, b, 1, MSG_NOSIGNAL), EPIPE);
	OK(close(s));
}

PEERCASE(reset_then_so_error)
{
	EQ(peer("rst"), 0);
	CHECK(wait_events(s, 0) & POLLERR);
	EQ(int_opt(s, SOL_SOCKET, SO_ERROR), ECONNRESET);
	EQ(int_opt(s, SOL_SOCKET, SO_ERROR), 0);
	CHECK(!(events_now(s, 0) & POLLERR));
	GET_EOF(s);
	FAILS(send(s, "x", 1, MSG_NOSIGNAL), EPIPE);
	OK(close(s));
}

PEERCASE(reset_then_send)
{
	EQ(peer("rst"), 0);
	CHECK(wait_events(s, 0) & POLLERR);
	/* The first send is told the reset, later ones that the pipe is broken. */
	FAILS(send(s, "x", 1, MSG_NOSIGNAL), ECONNRESET);
	FAILS(send(s, "x", 1, MSG_NOSIGNAL), EPIPE);
	FAILS(send(s, "x", 1, MSG_NOSIGNAL), EPIPE);
	OK(close(s));
}

PEERCASE(close_with_unread_resets)
{
	EQ(peer("send 10"), 10);
	wait_unread(s, 10);
	OK(close(s));
	EQ(peer("recv 1"), -1);
	EQ(peer_errno, ECONNRESET);
}

PEERCASE(peer_closes_with_unread)
{
	char b[10];

	PUT(s, 10, 0);
	EQ(peer("unread 10"), 10);
	EQ(peer("close"), 0);
	CHECK(wait_events(s, 0) & POLLERR);
	FAILS(recv(s, b, 10, 0), ECONNRESET);
	OK(close(s));
}

PEERCASE(write_after_peer_closed)
{
	EQ(peer("close"), 0);
	CHECK(wait_events(s, POLLRDHUP) & POLLRDHUP);
	/* FIN only says that nothing more comes: the first write is taken, its answer is RST. */
	EQ(send(s, "x", 1, MSG_NOSIGNAL), 1);
	CHECK(wait_events(s, 0) & (POLLERR | POLLHUP));
	FAILS(send(s, "x", 1, MSG_NOSIGNAL), EPIPE);
	FAILS(send(s, "x", 1, MSG_NOSIGNAL), EPIPE);
	GET_EOF(s);
	OK(close(s));
}

PEERCASE(write_after_peer_closed_so_error)
{
	EQ(peer("close"), 0);
	CHECK(wait_events(s, POLLRDHUP) & POLLRDHUP);
	EQ(send(s, "x", 1, MSG_NOSIGNAL), 1);
	CHECK(wait_events(s, 0) & POLLERR);
	EQ(int_opt(s, SOL_SOCKET, SO_ERROR), EPIPE);
	EQ(int_opt(s, SOL_SOCKET, SO_ERROR), 0);
	OK(close(s));
}

PEERCASE(peer_killed)
{
	EQ(peer("send 100"), 100);
	peer_kill(SIGKILL);
	GET(s, 100, 0);
	GET_EOF(s);
	EQ(int_opt(s, SOL_SOCKET, SO_ERROR), 0);
	OK(close(s));
}

PEERCASE(peer_killed_with_unread)
{
	char b[10];

	EQ(peer("send 100"), 100);
	wait_unread(s, 100);
	PUT(s, 10, 0);
	EQ(peer("unread 10"), 10);
	peer_kill(SIGKILL);
	CHECK(wait_events(s, 0) & POLLERR);
	GET(s, 100, 0);
	FAILS(recv(s, b, 10, 0), ECONNRESET);
	OK(close(s));
}

PEERCASE(peer_exits_without_close)
{
	EQ(peer("send 100"), 100);
	peer_post("@exit 0");
	GET(s, 100, 0);
	GET_EOF(s);
	OK(close(s));
}

PEERCASE(peer_killed_under_blocked_send)
{
	size_t n = 64 << 20, sum = 0;
	char *b = malloc(n);
	ssize_t r;

	CHECK(b);
	memset(b, 0, n);
	pid_t me = getpid(), aide = (pid_t)OK(fork());
	if (!aide) {
		close(s);
		wait_sleeping(me, me);
		kill(peer_pid, SIGKILL);
		_exit(0);
	}
	while ((r = send(s, b, n, MSG_NOSIGNAL)) > 0)
		sum += (size_t)r;
	CHECK(sum < n);
	CHECK(errno == ECONNRESET || errno == EPIPE);
	FAILS(send(s, b, 1, MSG_NOSIGNAL), EPIPE);
	EQ(exit_of(aide), 0);
	EQ(waitpid(peer_pid, NULL, 0), peer_pid);
	peer_pid = 0;
	OK(close(s));
	free(b);
}

CASE(both_close_at_once)
{
	int fd[2];

	for (int i = 0; i < 20; i++) {
		pair(fd);
		PUT(fd[0], 10, 0);
		GET(fd[1], 10, 0);
		OK(close(fd[i & 1]));
		OK(close(fd[!(i & 1)]));
	}
}

CASE(double_close)
{
	int fd[2];

	pair(fd);
	OK(close(fd[0]));
	FAILS(close(fd[0]), EBADF);
	GET_EOF(fd[1]);
	OK(close(fd[1]));
	FAILS(close(fd[1]), EBADF);
	FAILS(close(-1), EBADF);
	FAILS(close(1 << 20), EBADF);
}

/* SIGPIPE */

PEERCASE(sigpipe_from_every_call)
{
	struct iovec v = { (char[]){ "x" }, 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };

	OK(shutdown(s, SHUT_WR));
	on_signal(SIGPIPE, 0);
	FAILS(send(s, "x", 1, 0), EPIPE);
	EQ(signals_seen, 1);
	FAILS(write(s, "x", 1), EPIPE);
	EQ(signals_seen, 2);
	FAILS(writev(s, &v, 1), EPIPE);
	EQ(signals_seen, 3);
	FAILS(sendmsg(s, &m, 0), EPIPE);
	EQ(signals_seen, 4);
	FAILS(sendto(s, "x", 1, 0, NULL, 0), EPIPE);
	EQ(signals_seen, 5);
	FAILS(send(s, "x", 1, MSG_NOSIGNAL), EPIPE);
	FAILS(sendmsg(s, &m, MSG_NOSIGNAL), EPIPE);
	EQ(signals_seen, 5);
	CHECK(dprintf(s, "x") < 0);
	EQ(signals_seen, 6);
	signal(SIGPIPE, SIG_IGN);
	FAILS(write(s, "x", 1), EPIPE);
	FAILS(send(s, "x", 1, 0), EPIPE);
	OK(close(s));
}

PEERCASE(sigpipe_blocked_stays_pending)
{
	sigset_t set, got;

	OK(shutdown(s, SHUT_WR));
	sigemptyset(&set);
	sigaddset(&set, SIGPIPE);
	OK(sigprocmask(SIG_BLOCK, &set, NULL));
	FAILS(send(s, "x", 1, MSG_NOSIGNAL), EPIPE);
	OK(sigpending(&got));
	EQ(sigismember(&got, SIGPIPE), 0);
	FAILS(send(s, "x", 1, 0), EPIPE);
	OK(sigpending(&got));
	EQ(sigismember(&got, SIGPIPE), 1);
	EQ(sigtimedwait(&set, NULL, &(struct timespec){ 0, 0 }), SIGPIPE);
	OK(close(s));
}

PEERCASE(sigpipe_kills_by_default)
{
	OK(shutdown(s, SHUT_WR));
	pid_t p = (pid_t)OK(fork());
	if (!p) {
		if (write(s, "x", 1)) {}
		_exit(0);
	}
	EQ(exit_of(p), 1000 + SIGPIPE);
	OK(close(s));
}

PEERCASE(sigpipe_after_reset)
{
	on_signal(SIGPIPE, 0);
	EQ(peer("rst"), 0);
	CHECK(wait_events(s, 0) & POLLERR);
	FAILS(send(s, "x", 1, 0), ECONNRESET);
	EQ(signals_seen, 0);
	FAILS(send(s, "x", 1, 0), EPIPE);
	EQ(signals_seen, 1);
	OK(close(s));
}
