/* Urgent data. */
#include "conf.h"

#include <sys/epoll.h>
#include <sys/select.h>

static int at_mark(int s)
{
	int v = -1;

	OK(ioctl(s, SIOCATMARK, &v));
	return v;
}

PEERCASE(none)
{
	char b[4];

	FAILS(recv(s, b, 1, MSG_OOB), EINVAL);
	FAILS(recv(s, b, 1, MSG_OOB | MSG_DONTWAIT), EINVAL);
	EQ(at_mark(s), 0);
	EQ(events_now(s, POLLPRI), 0);
	OK(close(s));
}

PEERCASE(receive)
{
	char b[100];

	EQ(peer("send 10"), 10);
	EQ(peer("sendoob 65"), 1);
	EQ(peer("send 10"), 10);
	CHECK(wait_events(s, POLLPRI) == POLLPRI);
	EQ(at_mark(s), 0);
	EQ(recv(s, b, 1, MSG_OOB | MSG_PEEK), 1);
	EQ(b[0], 65);
	EQ(recv(s, b, 1, MSG_OOB), 1);
	EQ(b[0], 65);
	FAILS(recv(s, b, 1, MSG_OOB), EINVAL);
	/* A read stops at the mark, and the urgent byte is not in the stream. */
	wait_unread(s, 10);
	EQ(recv(s, b, 100, 0), 10);
	SAME(b, 10, 0);
	EQ(at_mark(s), 1);
	wait_readable(s);
	EQ(recv(s, b, 100, 0), 10);
	SAME(b, 10, 10);
	EQ(at_mark(s), 0);
	EQ(events_now(s, POLLPRI), 0);
	OK(close(s));
}

PEERCASE(skipped_when_not_read)
{
	char b[100];

	EQ(peer("send 10"), 10);
	EQ(peer("sendoob 66"), 1);
	EQ(peer("send 10"), 10);
	CHECK(wait_events(s, POLLPRI) == POLLPRI);
	EQ(recv(s, b, 10, MSG_WAITALL), 10);
	SAME(b, 10, 0);
	EQ(recv(s, b, 10, MSG_WAITALL), 10);
	SAME(b, 10, 10);
	OK(close(s));
}

PEERCASE(inline_)
{
	char b[100];
	int one = 1;

	OK(setsockopt(s, SOL_SOCKET, SO_OOBINLINE, &one, sizeof one));
	EQ(int_opt(s, SOL_SOCKET, SO_OOBINLINE), 1);
	EQ(peer("send 10"), 10);
	EQ(peer("sendoob 67"), 1);
	EQ(peer("send 10"), 10);
	CHECK(wait_events(s, POLLPRI) == POLLPRI);
	FAILS(recv(s, b, 1, MSG_OOB), EINVAL);
	wait_unread(s, 21);
	EQ(recv(s, b, 100, 0), 10);
	SAME(b, 10, 0);
	EQ(at_mark(s), 1);
	EQ(recv(s, b, 1, 0), 1);
	EQ(b[0], 67);
	EQ(at_mark(s), 0);
	EQ(recv(s, b, 10, MSG_WAITALL), 10);
	SAME(b, 10, 10);
	OK(close(s));
}

PEERCASE(send_)
{
	char b[1] = { 70 };

	PUT(s, 10, 0);
	EQ(send(s, b, 1, MSG_OOB), 1);
	PUT(s, 10, 10);
	/* It takes place in the remote's stream, out of band. */
	EQ(peer("recv 10"), 10);
	long r;
	do
		r = peer("recvoob");
	while (r < 0 && (peer_errno == EAGAIN || peer_errno == EINVAL));
	EQ(r, 70);
	EQ(peer("recv 10"), 10);
	OK(close(s));
}

PEERCASE(last_byte_is_urgent)
{
	char b[3];

	/* Three bytes sent urgent: two of data, the last out of band. */
	fill(b, 2, 0);
	b[2] = 71;
	EQ(send(s, b, 3, MSG_OOB), 3);
	EQ(peer("recv 2"), 2);
	EQ(peer("recvoob"), 71);
	PUT(s, 10, 2);
	EQ(peer("recv 10"), 10);
	OK(close(s));
}

PEERCASE(select_and_epoll)
{
	struct epoll_event ev = { .events = EPOLLPRI };
	struct timeval tv = { .tv_sec = 5 };
	char b[1];
	fd_set ex;
	int ep = (int)OK(epoll_create1(0));

	OK(epoll_ctl(ep, EPOLL_CTL_ADD, s, &ev));
	FD_ZERO(&ex);
	FD_SET(s, &ex);
	EQ(peer("sendoob 72"), 1);
	EQ(select(s + 1, NULL, NULL, &ex, &tv), 1);
	CHECK(FD_ISSET(s, &ex));
	EQ(epoll_wait(ep, &ev, 1, 5000), 1);
	CHECK(ev.events & EPOLLPRI);
	EQ(recv(s, b, 1, MSG_OOB), 1);
	EQ(b[0], 72);
	OK(close(ep));
	OK(close(s));
}

PEERCASE(sigurg)
{
	on_signal(SIGURG, 0);
	OK(fcntl(s, F_SETOWN, getpid()));
	EQ(fcntl(s, F_GETOWN), getpid());
	EQ(peer("sendoob 73"), 1);
	CHECK(wait_events(s, POLLPRI) & POLLPRI);
	EQ(signals_seen, 1);
	OK(close(s));
}

/* Two urgent bytes: the first, overtaken, becomes ordinary data. */
PEERCASE(second_overtakes_first)
{
	char b[100];

	EQ(peer("send 5"), 5);
	EQ(peer("sendoob 74"), 1);
	CHECK(wait_events(s, POLLPRI) & POLLPRI);
	EQ(peer("send 5"), 5);
	EQ(peer("sendoob 75"), 1);
	for (int i = 0; i < 2000; i++) {
		if (recv(s, b, 1, MSG_OOB | MSG_PEEK) == 1 && b[0] == 75)
			break;
		usleep(1000);
	}
	EQ(recv(s, b, 1, MSG_OOB), 1);
	EQ(b[0], 75);
	EQ(recv(s, b, 11, MSG_WAITALL), 11);
	SAME(b, 5, 0);
	EQ(b[5], 74);
	SAME(b + 6, 5, 5);
	OK(close(s));
}
