/* Several processes on one connection: fork, servers, SCM_RIGHTS. */
#include "conf.h"

/* Parent and child take turns in sending and receiving on one stream. */
PEERCASE(fork_alternating)
{
	int turn[2][2];
	char t;

	OK(pipe(turn[0]));
	OK(pipe(turn[1]));
	for (int i = 0; i < 40; i++) {
		peer_post("recv 100");
		peer_post("send 50");
	}
	pid_t p = (pid_t)OK(fork());
	int me = !p;
	for (int i = me; i < 40; i += 2) {
		if (i)
			EQ(read(turn[me][0], &t, 1), 1);
		PUT(s, 100, (uint64_t)i * 100);
		GET(s, 50, (uint64_t)i * 50);
		EQ(write(turn[!me][1], "x", 1), 1);
	}
	if (!p)
		_exit(0);
	EQ(exit_of(p), 0);
	for (int i = 0; i < 40; i++) {
		EQ(peer_wait(), 100);
		EQ(peer_wait(), 50);
	}
	for (int i = 0; i < 4; i++)
		OK(close(turn[i / 2][i % 2]));
	OK(close(s));
	EQ(peer("drain"), 0);
}

PEERCASE(fork_child_closes)
{
	pid_t p = (pid_t)OK(fork());

	if (!p) {
		close(s);
		_exit(0);
	}
	EQ(exit_of(p), 0);
	/* No end, no reset: the parent still has it. */
	EQ(peer("eof_yet"), 0);
	PUT(s, 100, 0);
	EQ(peer("recv 100"), 100);
	OK(close(s));
	EQ(peer("drain"), 0);
}

PEERCASE(fork_child_exits_with_unread)
{
	EQ(peer("send 100"), 100);
	wait_unread(s, 100);
	pid_t p = (pid_t)OK(fork());
	if (!p)
		_exit(0);
	EQ(exit_of(p), 0);
	EQ(peer("eof_yet"), 0);
	GET(s, 100, 0);
	OK(close(s));
	EQ(peer("drain"), 0);
}

PEERCASE(fork_parent_closes)
{
	int go[2];
	char t;

	OK(pipe(go));
	pid_t p = (pid_t)OK(fork());
	if (!p) {
		close(go[1]);
		EQ(read(go[0], &t, 1), 0);
		PUT(s, 100, 0);
		GET(s, 100, 0);
		_exit(0);
	}
	OK(close(s));
	EQ(peer("eof_yet"), 0);
	OK(close(go[0]));
	OK(close(go[1]));
	EQ(peer("recv 100"), 100);
	EQ(peer("eof_yet"), 0);
	EQ(peer("send 100"), 100);
	EQ(peer("drain"), 0);
	EQ(exit_of(p), 0);
}

PEERCASE(fork_child_killed)
{
	pid_t p = (pid_t)OK(fork());

	if (!p) {
		PUT(s, 10, 0);
		for (;;)
			pause();
	}
	EQ(peer("recv 10"), 10);
	OK(kill(p, SIGKILL));
	EQ(exit_of(p), 1000 + SIGKILL);
	PUT(s, 10, 10);
	EQ(peer("recv 10"), 10);
	EQ(peer("send 10"), 10);
	GET(s, 10, 0);
	OK(close(s));
	EQ(peer("drain"), 0);
}

/* One process sends while the other receives. */
PEERCASE(fork_split_directions)
{
	size_t n = 3 << 20;
	pid_t p = (pid_t)OK(fork());

	if (!p) {
		PUT(s, n, 0);
		_exit(0);
	}
	EQ(peer("recv %zu", n), n);
	EQ(exit_of(p), 0);
	peer_post("send %zu", n);
	p = (pid_t)OK(fork());
	if (!p) {
		GET(s, n, 0);
		_exit(0);
	}
	EQ(exit_of(p), 0);
	EQ(peer_wait(), n);
	PUT(s, 10, n);
	EQ(peer("recv 10"), 10);
	OK(close(s));
}

PEERCASE(fork_shutdown_is_shared)
{
	pid_t p = (pid_t)OK(fork());

	if (!p)
		_exit(shutdown(s, SHUT_WR) != 0);
	EQ(exit_of(p), 0);
	FAILS(send(s, "x", 1, MSG_NOSIGNAL), EPIPE);
	EQ(peer("drain"), 0);
	OK(close(s));
}

PEERCASE(fork_grandchild)
{
	pid_t p = (pid_t)OK(fork());

	if (!p) {
		pid_t q = (pid_t)OK(fork());

		if (!q) {
			PUT(s, 1000, 0);
			GET(s, 1000, 0);
			_exit(0);
		}
		OK(close(s));
		_exit(exit_of(q));
	}
	EQ(peer("recv 1000"), 1000);
	EQ(peer("send 1000"), 1000);
	EQ(exit_of(p), 0);
	PUT(s, 10, 1000);
	EQ(peer("recv 10"), 10);
	OK(close(s));
}

static void echo_until_eof(int s)
{
	char b[4096];
	ssize_t r;

	while ((r = recv(s, b, sizeof b, 0)) > 0)
		for (ssize_t d = 0; d < r;)
			d += (ssize_t)OK(send(s, b + d, (size_t)(r - d), MSG_NOSIGNAL));
	EQ(r, 0);
}

static void echo_client(const struct sockaddr_in *a, int rounds)
{
	int c = dial(a);

	for (int i = 0; i < rounds; i++) {
		PUT(c, 500, (uint64_t)i * 500);
		GET(c, 500, (uint64_t)i * 500);
	}
	OK(shutdown(c, SHUT_WR));
	GET_EOF(c);
	OK(close(c));
}

/* accept, then a child per connection; the parent closes its copy. */
CASE(fork_server)
{
	struct sockaddr_in a;
	int l = listener(&a);
	pid_t srv = (pid_t)OK(fork());

	if (!srv) {
		for (int i = 0; i < 6; i++) {
			int s = (int)OK(accept(l, NULL, NULL));
			pid_t p = (pid_t)OK(fork());

			if (!p) {
				close(l);
				echo_until_eof(s);
				_exit(0);
			}
			OK(close(s));
		}
		for (int i = 0; i < 6; i++) {
			int st;

			OK(wait(&st));
			EQ(st, 0);
		}
		_exit(0);
	}
	OK(close(l));
	for (int i = 0; i < 6; i++)
		echo_client(&a, i == 5 ? 200 : 40);
	EQ(exit_of(srv), 0);
}

/* listen, then several that accept on the same listener. */
CASE(prefork_server)
{
	struct sockaddr_in a;
	int l = listener(&a);
	pid_t w[3];

	for (int i = 0; i < 3; i++) {
		w[i] = (pid_t)OK(fork());
		if (!w[i])
			for (;;) {
				int s = (int)OK(accept(l, NULL, NULL));

				echo_until_eof(s);
				OK(close(s));
			}
	}
	OK(close(l));
	for (int i = 0; i < 12; i++)
		echo_client(&a, 40);
	for (int i = 0; i < 3; i++) {
		OK(kill(w[i], SIGKILL));
		EQ(exit_of(w[i]), 1000 + SIGKILL);
	}
}

/* Three wait for the same connection, non-blocking: one gets it, two get EAGAIN. */
CASE(prefork_nonblocking)
{
	struct sockaddr_in a;
	int l = listener(&a), hold[2], ready[2], got = 0;
	pid_t w[3];
	char t;

	set_nonblock(l, 1);
	OK(pipe(hold));
	OK(pipe(ready));
	for (int i = 0; i < 3; i++) {
		w[i] = (pid_t)OK(fork());
		if (!w[i]) {
			OK(close(hold[1]));
			wait_readable(l);
			EQ(write(ready[1], "x", 1), 1);
			/* Until all have seen it. */
			EQ(read(hold[0], &t, 1), 0);
			int s = accept(l, NULL, NULL);
			if (s < 0)
				EQ(errno, EAGAIN);
			else
				GET(s, 10, 0);
			_exit(s < 0 ? 0 : 7);
		}
	}
	int c = dial(&a);
	PUT(c, 10, 0);
	for (int i = 0; i < 3; i++)
		EQ(read(ready[0], &t, 1), 1);
	OK(close(hold[1]));
	for (int i = 0; i < 3; i++) {
		int st = exit_of(w[i]);

		CHECK(st == 0 || st == 7);
		got += st == 7;
	}
	EQ(got, 1);
	OK(close(hold[0]));
	OK(close(ready[0]));
	OK(close(ready[1]));
	OK(close(c));
	OK(close(l));
}

static void pass(int via, int fd)
{
	char cb[CMSG_SPACE(sizeof fd)] = { 0 };
	struct iovec v = { (char[]){ "f" }, 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = cb,
			    .msg_controllen = sizeof cb };
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(c), &fd, sizeof fd);
	EQ(sendmsg(via, &m, 0), 1);
}

static int take(int via)
{
	char cb[CMSG_SPACE(sizeof(int))], b;
	struct iovec v = { &b, 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = cb,
			    .msg_controllen = sizeof cb };
	int fd;

	EQ(recvmsg(via, &m, 0), 1);
	CHECK(CMSG_FIRSTHDR(&m));
	EQ(CMSG_FIRSTHDR(&m)->cmsg_type, SCM_RIGHTS);
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof fd);
	return fd;
}

/* To a process that is older than the connection. */
CASE(scm_rights_moves_a_connection)
{
	int sv[2], fd[2];

	OK(socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
	pid_t p = (pid_t)OK(fork());
	if (!p) {
		int s = take(sv[1]);

		GET(s, 1000, 100);
		for (int i = 0; i < 20; i++) {
			PUT(s, 1000, (uint64_t)i * 1000);
			GET(s, 500, 1100 + (uint64_t)i * 500);
		}
		_exit(0);
	}
	pair(fd);
	PUT(fd[0], 100, 0);
	GET(fd[1], 100, 0);
	/* With bytes waiting in it. */
	PUT(fd[0], 1000, 100);
	wait_unread(fd[1], 1000);
	pass(sv[0], fd[1]);
	OK(close(fd[1]));
	for (int i = 0; i < 20; i++) {
		GET(fd[0], 1000, (uint64_t)i * 1000);
		PUT(fd[0], 500, 1100 + (uint64_t)i * 500);
	}
	GET_EOF(fd[0]);
	EQ(exit_of(p), 0);
	OK(close(fd[0]));
	OK(close(sv[0]));
	OK(close(sv[1]));
}

/* To a program that was never re-linked (where there is one), or our own. */
CASE(scm_rights_to_a_stranger)
{
	int fd[2];

	peer_start();
	pair(fd);
	PUT(fd[0], 77, 0);
	wait_unread(fd[1], 77);
	peer_post("takefd");
	pass(peer_ctl(), fd[1]);
	EQ(peer_wait(), 0);
	EQ(peer("recv 77"), 77);
	OK(close(fd[1]));
	for (int i = 0; i < 10; i++) {
		EQ(peer("send 1000"), 1000);
		GET(fd[0], 1000, (uint64_t)i * 1000);
		PUT(fd[0], 1000, 77 + (uint64_t)i * 1000);
		EQ(peer("recv 1000"), 1000);
	}
	EQ(peer("close"), 0);
	GET_EOF(fd[0]);
	OK(close(fd[0]));
}

CASE(scm_rights_sender_keeps_using)
{
	int fd[2], sv[2];

	/* Passed to ourselves: another descriptor of the same open file. */
	pair(fd);
	OK(socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
	pass(sv[0], fd[1]);
	int d = take(sv[1]);
	CHECK(d != fd[1]);
	PUT(fd[0], 20, 0);
	wait_unread(d, 20);
	GET(fd[1], 10, 0);
	GET(d, 10, 10);
	OK(close(fd[1]));
	EQ(events_now(fd[0], POLLIN | POLLRDHUP), 0);
	PUT(d, 10, 0);
	GET(fd[0], 10, 0);
	OK(close(d));
	GET_EOF(fd[0]);
	OK(close(fd[0]));
	/* Sent, never received: it ends with the queue it is in. */
	pair(fd);
	pass(sv[0], fd[1]);
	OK(close(fd[1]));
	EQ(events_now(fd[0], POLLIN | POLLRDHUP), 0);
	OK(close(sv[0]));
	OK(close(sv[1]));
	wait_readable(fd[0]);
	GET_EOF(fd[0]);
	OK(close(fd[0]));
}

CASE(scm_rights_listener)
{
	struct sockaddr_in a;
	int sv[2];

	OK(socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
	pid_t p = (pid_t)OK(fork());
	if (!p) {
		int l = take(sv[1]);

		for (int i = 0; i < 3; i++) {
			int s = (int)OK(accept(l, NULL, NULL));

			echo_until_eof(s);
			OK(close(s));
		}
		_exit(0);
	}
	int l = listener(&a);
	pass(sv[0], l);
	OK(close(l));
	for (int i = 0; i < 3; i++)
		echo_client(&a, 40);
	EQ(exit_of(p), 0);
	OK(close(sv[0]));
	OK(close(sv[1]));
}

/* Both ends in one process, then parted by fork: each side closes the other's. */
CASE(pair_parted_by_fork)
{
	int fd[2];

	pair(fd);
	pid_t p = (pid_t)OK(fork());
	if (!p) {
		OK(close(fd[0]));
		echo_until_eof(fd[1]);
		_exit(0);
	}
	OK(close(fd[1]));
	for (int i = 0; i < 100; i++) {
		PUT(fd[0], 333, (uint64_t)i * 333);
		GET(fd[0], 333, (uint64_t)i * 333);
	}
	OK(shutdown(fd[0], SHUT_WR));
	GET_EOF(fd[0]);
	EQ(exit_of(p), 0);
	OK(close(fd[0]));
}

CASE(daemonized)
{
	struct sockaddr_in a;
	int l = listener(&a);
	pid_t p = (pid_t)OK(fork());

	/* fork, setsid, fork, serve: the usual double fork. */
	if (!p) {
		OK(setsid());
		pid_t q = (pid_t)OK(fork());

		if (q)
			_exit(0);
		int s = (int)OK(accept(l, NULL, NULL));
		OK(close(l));
		echo_until_eof(s);
		_exit(0);
	}
	EQ(exit_of(p), 0);
	OK(close(l));
	echo_client(&a, 100);
}
