/* Partial and zero-length calls, MSG_* flags, bad pointers. */
#include "conf.h"

PEERCASE(partial_reads)
{
	char b[1000];

	EQ(peer("send 100"), 100);
	for (int i = 0; i < 10; i++) {
		EQ(recv(s, b, 10, 0), 10);
		SAME(b, 10, (uint64_t)i * 10);
	}
	EQ(peer("send 100"), 100);
	wait_unread(s, 100);
	EQ(recv(s, b, sizeof b, 0), 100);
	SAME(b, 100, 100);
	EQ(peer("send 3"), 3);
	EQ(read(s, b, 1), 1);
	EQ(read(s, b + 1, 1), 1);
	EQ(read(s, b + 2, 1), 1);
	SAME(b, 3, 200);
	OK(close(s));
}

PEERCASE(zero_length_send)
{
	struct iovec none = { NULL, 0 };
	struct msghdr m = { .msg_iov = &none, .msg_iovlen = 1 };

	EQ(send(s, "", 0, 0), 0);
	EQ(write(s, "", 0), 0);
	EQ(sendto(s, "", 0, 0, NULL, 0), 0);
	EQ(writev(s, &none, 0), 0);
	EQ(writev(s, &none, 1), 0);
	EQ(sendmsg(s, &m, 0), 0);
	m.msg_iovlen = 0;
	EQ(sendmsg(s, &m, 0), 0);
	PUT(s, 5, 0);
	EQ(peer("recv 5"), 5);
	EQ(peer("eof_yet"), 0);
	OK(close(s));
}

PEERCASE(zero_length_recv)
{
	struct iovec none = { NULL, 0 };
	char b[10];

	/* read() of nothing never blocks; recv() of nothing waits for something. */
	EQ(read(s, b, 0), 0);
	EQ(readv(s, &none, 0), 0);
	EQ(readv(s, &none, 1), 0);
	FAILS(recv(s, b, 0, MSG_DONTWAIT), EAGAIN);
	EQ(peer("send 5"), 5);
	wait_unread(s, 5);
	EQ(recv(s, b, 0, 0), 0);
	EQ(recv(s, NULL, 0, 0), 0);
	EQ(read(s, b, 0), 0);
	EQ(unread(s), 5);
	GET(s, 5, 0);
	EQ(peer("close"), 0);
	EQ(recv(s, b, 0, 0), 0);
	EQ(read(s, b, 0), 0);
	GET_EOF(s);
	OK(close(s));
}

PEERCASE(zero_length_recv_waits)
{
	char b[1];

	peer_post("@send 4");
	EQ(recv(s, b, 0, 0), 0);
	EQ(unread(s), 4);
	EQ(peer_wait(), 4);
	GET(s, 4, 0);
	OK(close(s));
}

PEERCASE(peek)
{
	char b[100];

	EQ(peer("send 50"), 50);
	wait_unread(s, 50);
	for (int i = 0; i < 3; i++) {
		memset(b, 0, sizeof b);
		EQ(recv(s, b, sizeof b, MSG_PEEK), 50);
		SAME(b, 50, 0);
		EQ(recv(s, b, 7, MSG_PEEK), 7);
		EQ(unread(s), 50);
	}
	EQ(recv(s, b, 20, 0), 20);
	EQ(recv(s, b, sizeof b, MSG_PEEK), 30);
	SAME(b, 30, 20);
	EQ(peer("send 10"), 10);
	wait_unread(s, 40);
	EQ(recv(s, b, sizeof b, MSG_PEEK), 40);
	SAME(b, 40, 20);
	GET(s, 40, 20);
	FAILS(recv(s, b, 1, MSG_PEEK | MSG_DONTWAIT), EAGAIN);
	EQ(peer("close"), 0);
	EQ(recv(s, b, 1, MSG_PEEK), 0);
	EQ(recv(s, b, 1, MSG_PEEK), 0);
	GET_EOF(s);
	OK(close(s));
}

PEERCASE(peek_blocks)
{
	char b[10];

	peer_post("@send 10");
	CHECK(recv(s, b, 10, MSG_PEEK) == 10);
	SAME(b, 10, 0);
	EQ(peer_wait(), 10);
	GET(s, 10, 0);
	OK(close(s));
}

PEERCASE(peek_recvmsg)
{
	char b[30];
	struct iovec v[2] = { { b, 10 }, { b + 10, 20 } };
	struct msghdr m = { .msg_iov = v, .msg_iovlen = 2 };

	EQ(peer("send 25"), 25);
	wait_unread(s, 25);
	EQ(recvmsg(s, &m, MSG_PEEK), 25);
	SAME(b, 25, 0);
	EQ(v[0].iov_len, 10);
	EQ(recvfrom(s, b, 30, MSG_PEEK, NULL, NULL), 25);
	EQ(recvmsg(s, &m, 0), 25);
	SAME(b, 25, 0);
	EQ(unread(s), 0);
	OK(close(s));
}

PEERCASE(peek_waitall)
{
	char b[20];

	EQ(peer("send 10"), 10);
	wait_unread(s, 10);
	peer_post("@send 10");
	EQ(recv(s, b, 20, MSG_PEEK | MSG_WAITALL), 20);
	SAME(b, 20, 0);
	EQ(unread(s), 20);
	EQ(peer_wait(), 10);
	GET(s, 20, 0);
	OK(close(s));
}

PEERCASE(peek_large)
{
	static char b[60000];

	EQ(peer("send 60000"), 60000);
	EQ(recv(s, b, sizeof b, MSG_PEEK | MSG_WAITALL), sizeof b);
	SAME(b, sizeof b, 0);
	GET(s, sizeof b, 0);
	OK(close(s));
}

PEERCASE(waitall_complete)
{
	char b[60];
	struct iovec v[2] = { { b, 25 }, { b + 25, 35 } };
	struct msghdr m = { .msg_iov = v, .msg_iovlen = 2 };

	peer_post("@send 10");
	peer_post("@send 20");
	peer_post("@send 30");
	EQ(recv(s, b, 60, MSG_WAITALL), 60);
	SAME(b, 60, 0);
	for (int i = 1; i < 4; i++)
		EQ(peer_wait(), i * 10);
	peer_post("@send 20");
	peer_post("@send 40");
	EQ(recvmsg(s, &m, MSG_WAITALL), 60);
	SAME(b, 60, 60);
	EQ(peer_wait(), 20);
	EQ(peer_wait(), 40);
	OK(close(s));
}

PEERCASE(waitall_cut_by_eof)
{
	char b[100];

	peer_post("@send 10");
	peer_post("@close");
	EQ(recv(s, b, 100, MSG_WAITALL), 10);
	SAME(b, 10, 0);
	EQ(recv(s, b, 100, MSG_WAITALL), 0);
	EQ(peer_wait(), 10);
	EQ(peer_wait(), 0);
	OK(close(s));
}

PEERCASE(waitall_cut_by_reset)
{
	char b[100];

	peer_post("@send 10");
	peer_post("@rst");
	EQ(recv(s, b, 100, MSG_WAITALL), 10);
	FAILS(recv(s, b, 100, MSG_WAITALL), ECONNRESET);
	EQ(recv(s, b, 100, MSG_WAITALL), 0);
	EQ(peer_wait(), 10);
	EQ(peer_wait(), 0);
	OK(close(s));
}

PEERCASE(waitall_cut_by_signal)
{
	char b[100];

	on_signal(SIGUSR1, 0);
	peer_post("@send 10");
	peer_post("@signal %d", SIGUSR1);
	EQ(recv(s, b, 100, MSG_WAITALL), 10);
	EQ(signals_seen, 1);
	SAME(b, 10, 0);
	EQ(peer_wait(), 10);
	EQ(peer_wait(), 0);
	/* Even SA_RESTART: some bytes are there, so they are returned. */
	on_signal(SIGUSR1, SA_RESTART);
	peer_post("@send 10");
	peer_post("@signal %d", SIGUSR1);
	EQ(recv(s, b, 100, MSG_WAITALL), 10);
	SAME(b, 10, 10);
	EQ(peer_wait(), 10);
	EQ(peer_wait(), 0);
	OK(close(s));
}

PEERCASE(waitall_cut_by_timeout)
{
	struct timeval tv = { .tv_usec = 50000 };
	char b[100];

	OK(setsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
	peer_post("send 10");
	EQ(recv(s, b, 100, MSG_WAITALL), 10);
	SAME(b, 10, 0);
	FAILS(recv(s, b, 100, MSG_WAITALL), EAGAIN);
	EQ(peer_wait(), 10);
	OK(close(s));
}

PEERCASE(waitall_dontwait)
{
	char b[100];

	FAILS(recv(s, b, 100, MSG_WAITALL | MSG_DONTWAIT), EAGAIN);
	EQ(peer("send 10"), 10);
	wait_unread(s, 10);
	EQ(recv(s, b, 100, MSG_WAITALL | MSG_DONTWAIT), 10);
	SAME(b, 10, 0);
	set_nonblock(s, 1);
	FAILS(recv(s, b, 100, MSG_WAITALL), EAGAIN);
	OK(close(s));
}

PEERCASE(dontwait)
{
	char b[10];
	struct iovec v = { b, 10 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };

	FAILS(recv(s, b, 10, MSG_DONTWAIT), EAGAIN);
	FAILS(recvfrom(s, b, 10, MSG_DONTWAIT, NULL, NULL), EAGAIN);
	FAILS(recvmsg(s, &m, MSG_DONTWAIT), EAGAIN);
	/* The flag was for those calls only. */
	EQ(fcntl(s, F_GETFL) & O_NONBLOCK, 0);
	peer_post("@send 10");
	EQ(recv(s, b, 10, 0), 10);
	EQ(peer_wait(), 10);
	OK(close(s));
}

/* On TCP MSG_TRUNC discards, and writes nothing. */
PEERCASE(trunc_discards)
{
	char b[20];

	EQ(peer("send 30"), 30);
	wait_unread(s, 30);
	memset(b, 0x77, sizeof b);
	EQ(recv(s, b, 10, MSG_TRUNC), 10);
	for (int i = 0; i < 10; i++)
		EQ(b[i], 0x77);
	EQ(recv(s, NULL, 10, MSG_TRUNC), 10);
	EQ(recv(s, b, 20, 0), 10);
	SAME(b, 10, 20);
	OK(close(s));
}

PEERCASE(errqueue_is_empty)
{
	char b[10];

	EQ(peer("send 5"), 5);
	wait_unread(s, 5);
	FAILS(recv(s, b, 10, MSG_ERRQUEUE), EAGAIN);
	GET(s, 5, 0);
	OK(close(s));
}

PEERCASE(ignored_flags)
{
	char b[10];
	struct iovec v = { b, 10 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_flags = -1 };

	fill(b, 10, 0);
	EQ(send(s, b, 10, MSG_DONTROUTE | MSG_EOR | MSG_CONFIRM), 10);
	EQ(peer("recv 10"), 10);
	fill(b, 10, 10);
	/* msg_flags is output only. */
	EQ(sendmsg(s, &m, 0), 10);
	EQ(peer("recv 10"), 10);
	FAILS(preadv2(s, &v, 1, -1, 0x40000000), EOPNOTSUPP);
	FAILS(pwritev2(s, &v, 1, -1, 0x40000000), EOPNOTSUPP);
	OK(close(s));
}

/* An address given on a connected stream is not looked at. */
PEERCASE(sendto_with_address)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(9) };
	char b[10];

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	fill(b, 10, 0);
	EQ(sendto(s, b, 10, 0, (void *)&a, sizeof a), 10);
	EQ(peer("recv 10"), 10);
	FAILS(sendto(s, b, 10, 0, (void *)&a, 100000), EINVAL);
	FAILS(sendto(s, b, 10, 0, bad_ptr(), sizeof a), EFAULT);
	OK(close(s));
}

PEERCASE(efault_send)
{
	struct iovec v = { bad_ptr(), 10 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };

	if (want_ring() || want_codec())
		conf_skip("a ring or a codec copies without the kernel: a bad pointer is a SIGSEGV");
	FAILS(send(s, bad_ptr(), 10, 0), EFAULT);
	FAILS(write(s, bad_ptr(), 10), EFAULT);
	FAILS(sendto(s, bad_ptr(), 10, 0, NULL, 0), EFAULT);
	FAILS(writev(s, &v, 1), EFAULT);
	FAILS(writev(s, bad_ptr(), 1), EFAULT);
	FAILS(sendmsg(s, &m, 0), EFAULT);
	FAILS(sendmsg(s, bad_ptr(), 0), EFAULT);
	m.msg_iov = bad_ptr();
	FAILS(sendmsg(s, &m, 0), EFAULT);
	FAILS(sendmmsg(s, bad_ptr(), 1, 0), EFAULT);
	/* Nothing of it got into the stream. */
	PUT(s, 10, 0);
	OK(close(s));
	EQ(peer("drain"), 10);
}

PEERCASE(efault_recv)
{
	struct iovec v = { bad_ptr(), 10 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };
	char b[10];

	if (want_ring() || want_codec())
		conf_skip("a ring or a codec copies without the kernel: a bad pointer is a SIGSEGV");
	EQ(peer("send 10"), 10);
	wait_unread(s, 10);
	FAILS(recv(s, bad_ptr(), 10, 0), EFAULT);
	FAILS(read(s, bad_ptr(), 10), EFAULT);
	FAILS(recvfrom(s, bad_ptr(), 10, 0, NULL, NULL), EFAULT);
	FAILS(recv(s, bad_ptr(), 10, MSG_PEEK), EFAULT);
	FAILS(readv(s, &v, 1), EFAULT);
	FAILS(readv(s, bad_ptr(), 1), EFAULT);
	FAILS(recvmsg(s, &m, 0), EFAULT);
	FAILS(recvmsg(s, bad_ptr(), 0), EFAULT);
	FAILS(ioctl(s, FIONREAD, bad_ptr()), EFAULT);
	EQ(unread(s), 10);
	EQ(recv(s, b, 10, 0), 10);
	SAME(b, 10, 0);
	OK(close(s));
}

/* Good bytes that end at a bad page: whatever is returned is what was sent. */
PEERCASE(efault_send_partly_bad)
{
	char *p = guarded(100);
	uint64_t off = 0;

	if (want_ring() || want_codec())
		conf_skip("a ring or a codec copies without the kernel: a bad pointer is a SIGSEGV");
	fill(p, 100, 0);
	ssize_t r = send(s, p, 200, 0);
	if (r < 0)
		EQ(errno, EFAULT);
	else
		off = (uint64_t)r;
	CHECK(off <= 100);
	PUT(s, 50, off);
	OK(close(s));
	EQ(peer("drain"), off + 50);
}

PEERCASE(efault_recv_partly_bad)
{
	char *p = guarded(40);

	if (want_ring() || want_codec())
		conf_skip("a ring or a codec copies without the kernel: a bad pointer is a SIGSEGV");
	EQ(peer("send 100"), 100);
	wait_unread(s, 100);
	FAILS(recv(s, p, 100, 0), EFAULT);
	EQ(unread(s), 100);
	GET(s, 100, 0);
	OK(close(s));
}

PEERCASE(fionread_siocoutq)
{
	int n = -1;

	EQ(unread(s), 0);
	EQ(peer("send 1000"), 1000);
	wait_unread(s, 1000);
	GET(s, 400, 0);
	EQ(unread(s), 600);
	GET(s, 600, 400);
	EQ(unread(s), 0);
	PUT(s, 5000, 0);
	EQ(peer("unread 5000"), 5000);
	/* Acknowledged by the remote kernel, unread there. */
	for (int i = 0; i < 5000 && n; i++) {
		OK(ioctl(s, TIOCOUTQ, &n));
		usleep(n ? 1000 : 0);
	}
	EQ(n, 0);
	EQ(peer("recv 5000"), 5000);
	/* With an end of stream behind the data: only the data is counted. */
	EQ(peer("send 7"), 7);
	EQ(peer("close"), 0);
	CHECK(wait_events(s, POLLRDHUP) & POLLRDHUP);
	EQ(unread(s), 7);
	GET(s, 7, 1000);
	GET_EOF(s);
	EQ(unread(s), 0);
	OK(close(s));
}

PEERCASE(siocoutq_grows)
{
	int n = 0;

	if (want_ring())
		conf_skip("on a ring sent bytes are with the peer");
	/* The peer does not read: what its window does not take stays queued here. */
	size_t sum = fill_up(s, 0);
	OK(ioctl(s, TIOCOUTQ, &n));
	CHECK(n > 0 && (size_t)n <= sum);
	EQ(peer("recv %zu", sum), sum);
	OK(close(s));
}

PEERCASE(rcvlowat)
{
	int v = 50;
	char b[100];

	OK(setsockopt(s, SOL_SOCKET, SO_RCVLOWAT, &v, sizeof v));
	EQ(int_opt(s, SOL_SOCKET, SO_RCVLOWAT), 50);
	EQ(peer("send 20"), 20);
	wait_unread(s, 20);
	EQ(events_now(s, POLLIN), 0);
	EQ(peer("send 40"), 40);
	CHECK(wait_events(s, POLLIN) == POLLIN);
	EQ(recv(s, b, 100, 0), 60);
	SAME(b, 60, 0);
	/* A blocked receiver sleeps until the mark is reached, at one go. */
	peer_post("@send 10");
	peer_post("@send 50");
	EQ(recv(s, b, 100, 0), 60);
	SAME(b, 60, 60);
	EQ(peer_wait(), 10);
	EQ(peer_wait(), 50);
	/* Fewer are returned when fewer are asked for. */
	EQ(peer("send 20"), 20);
	EQ(recv(s, b, 20, 0), 20);
	OK(close(s));
}
