/* The same calls through syscall(2), as some event libraries make them. */
#include "conf.h"

#include <sys/epoll.h>
#include <sys/select.h>

PEERCASE(read_write)
{
	char b[100];

	fill(b, 100, 0);
	EQ(syscall(SYS_write, s, b, 50), 50);
	EQ(syscall(SYS_sendto, s, b + 50, 50, MSG_NOSIGNAL, NULL, 0), 50);
	EQ(peer("recv 100"), 100);
	EQ(peer("send 100"), 100);
	wait_unread(s, 100);
	EQ(syscall(SYS_recvfrom, s, b, 10, MSG_PEEK, NULL, NULL), 10);
	EQ(syscall(SYS_read, s, b, 50), 50);
	EQ(syscall(SYS_recvfrom, s, b + 50, 50, 0, NULL, NULL), 50);
	SAME(b, 100, 0);
	FAILS(syscall(SYS_recvfrom, s, b, 10, MSG_DONTWAIT, NULL, NULL), EAGAIN);
	/* Mixed with the ordinary ones the order stays. */
	fill(b, 30, 100);
	EQ(syscall(SYS_write, s, b, 10), 10);
	PUT(s, 10, 110);
	EQ(syscall(SYS_write, s, b + 20, 10), 10);
	EQ(peer("recv 30"), 30);
	EQ(syscall(SYS_close, s), 0);
	FAILS(syscall(SYS_write, s, b, 1), EBADF);
	EQ(peer("drain"), 0);
}

PEERCASE(vectors_and_messages)
{
	char b[100];
	struct iovec v[2] = { { b, 40 }, { b + 40, 60 } };
	struct msghdr m = { .msg_iov = v, .msg_iovlen = 2 };
	struct mmsghdr mm = { .msg_hdr = m, .msg_len = 0 };

	fill(b, 100, 0);
	EQ(syscall(SYS_writev, s, v, 2), 100);
	EQ(peer("recv 100"), 100);
	fill(b, 100, 100);
	EQ(syscall(SYS_sendmsg, s, &m, 0), 100);
	EQ(peer("recv 100"), 100);
	fill(b, 100, 200);
	EQ(syscall(SYS_sendmmsg, s, &mm, 1, 0), 1);
	EQ(mm.msg_len, 100);
	EQ(peer("recv 100"), 100);
	for (int i = 0; i < 3; i++) {
		EQ(peer("send 100"), 100);
		wait_unread(s, 100);
		memset(b, 0, sizeof b);
		if (i == 0)
			EQ(syscall(SYS_readv, s, v, 2), 100);
		if (i == 1)
			EQ(syscall(SYS_recvmsg, s, &m, 0), 100);
		if (i == 2)
			EQ(syscall(SYS_recvmmsg, s, &mm, 1, 0, NULL), 1);
		SAME(b, 100, (uint64_t)i * 100);
	}
	EQ(syscall(SYS_close, s), 0);
}

PEERCASE(dup_and_close)
{
	long d = OK(syscall(SYS_dup3, s, 70, O_CLOEXEC));

	EQ(d, 70);
	EQ(fcntl(70, F_GETFD), FD_CLOEXEC);
	PUT(70, 10, 0);
	EQ(syscall(SYS_close, s), 0);
	EQ(peer("recv 10"), 10);
	EQ(peer("eof_yet"), 0);
	EQ(syscall(SYS_fcntl, 70, F_DUPFD, 75), 75);
	EQ(syscall(SYS_close, 70), 0);
	PUT(75, 10, 10);
	EQ(peer("recv 10"), 10);
	d = OK(syscall(SYS_dup, 75));
	EQ(syscall(SYS_close, 75), 0);
	EQ(peer("eof_yet"), 0);
	EQ(syscall(SYS_close_range, d, d, 0), 0);
	EQ(peer("drain"), 0);
}

PEERCASE(readiness)
{
	struct { uintptr_t mask, size; } none = { 0, 8 };
	struct timespec t = { 5, 0 };
	struct timeval tv = { 5, 0 };
	struct epoll_event ev = { .events = EPOLLIN, .data.u64 = 77 };
	fd_set r;
	int ep = (int)OK(syscall(SYS_epoll_create1, 0));

	EQ(syscall(SYS_epoll_ctl, ep, EPOLL_CTL_ADD, s, &ev), 0);
	for (uint64_t i = 0; i < 12; i++) {
		struct pollfd p = { .fd = s, .events = POLLIN };

		peer_post("@send 10");
		FD_ZERO(&r);
		FD_SET(s, &r);
		memset(&ev, 0, sizeof ev);
		t.tv_sec = tv.tv_sec = 5;
		switch (i % 4) {
		case 0: EQ(syscall(SYS_pselect6, s + 1, &r, NULL, NULL, &t, &none), 1); break;
		case 1: EQ(syscall(SYS_ppoll, &p, 1, &t, NULL, 8), 1); break;
		case 2: EQ(syscall(SYS_epoll_pwait2, ep, &ev, 1, &t, NULL, 8), 1); break;
#ifdef SYS_select
		case 3: EQ(syscall(SYS_select, s + 1, &r, NULL, NULL, &tv), 1); break;
#else
		case 3: EQ(syscall(SYS_epoll_pwait, ep, &ev, 1, 5000, NULL, 8), 1); break;
#endif
		}
		CHECK(FD_ISSET(s, &r));
		GET(s, 10, i * 10);
		EQ(peer_wait(), 10);
	}
	OK(close(ep));
	OK(close(s));
}

CASE(whole_connection)
{
	struct sockaddr_in a;
	int l = listener(&a), n;

	long c = OK(syscall(SYS_socket, AF_INET, SOCK_STREAM, 0));
	EQ(syscall(SYS_connect, c, &a, sizeof a), 0);
	long s = OK(syscall(SYS_accept4, l, NULL, NULL, SOCK_CLOEXEC));
	EQ(fcntl((int)s, F_GETFD), FD_CLOEXEC);
	warm((int)c, (int)s);
	PUT((int)c, 100, 0);
	GET((int)s, 100, 0);
	PUT((int)s, 50, 0);
	wait_unread((int)c, 50);
	EQ(syscall(SYS_ioctl, c, FIONREAD, &n), 0);
	EQ(n, 50);
	GET((int)c, 50, 0);
	EQ(syscall(SYS_shutdown, c, SHUT_WR), 0);
	GET_EOF((int)s);
	EQ(syscall(SYS_close, c), 0);
	EQ(syscall(SYS_close, s), 0);
	EQ(syscall(SYS_close, l), 0);
}

/* syscall(2) itself, on things that are no sockets. */
CASE(other_calls_pass)
{
	EQ(syscall(SYS_getpid), getpid());
	FAILS(syscall(SYS_close, -1), EBADF);
	FAILS(syscall(100000), ENOSYS);
	int pp[2];
	char b[4];
	OK(pipe(pp));
	EQ(syscall(SYS_write, pp[1], "abc", 3), 3);
	EQ(syscall(SYS_read, pp[0], b, 4), 3);
	EQ(syscall(SYS_close, pp[0]), 0);
	EQ(syscall(SYS_close, pp[1]), 0);
}

PEERCASE(fortified)
{
	/* Calls of a size unknown to the compiler: the __*_chk forms when fortified. */
	volatile size_t n = 10;
	char b[64];
	struct pollfd p[1] = { { .fd = s, .events = POLLIN, .revents = 0 } };
	volatile nfds_t one = 1;

	EQ(peer("send 30"), 30);
	EQ(poll(p, one, 5000), 1);
	EQ(ppoll(p, one, NULL, NULL), 1);
	wait_unread(s, 30);
	EQ(read(s, b, n), 10);
	EQ(recv(s, b + 10, n, 0), 10);
	EQ(recvfrom(s, b + 20, n, 0, NULL, NULL), 10);
	SAME(b, 30, 0);
	EQ(dprintf(s, "%s", ""), 0);
	OK(close(s));
}
