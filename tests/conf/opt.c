/* Socket options, ioctl and fcntl state. */
#include "conf.h"

static void round_trip(int s, int level, int opt, int set, int want)
{
	OK(setsockopt(s, level, opt, &set, sizeof set));
	EQ(int_opt(s, level, opt), want);
}

static void common_options(int s)
{
	round_trip(s, IPPROTO_TCP, TCP_NODELAY, 1, 1);
	round_trip(s, IPPROTO_TCP, TCP_NODELAY, 0, 0);
	round_trip(s, IPPROTO_TCP, TCP_NODELAY, 77, 1);
	round_trip(s, SOL_SOCKET, SO_KEEPALIVE, 1, 1);
	round_trip(s, IPPROTO_TCP, TCP_KEEPIDLE, 33, 33);
	round_trip(s, IPPROTO_TCP, TCP_KEEPINTVL, 11, 11);
	round_trip(s, IPPROTO_TCP, TCP_KEEPCNT, 4, 4);
	round_trip(s, IPPROTO_TCP, TCP_USER_TIMEOUT, 12345, 12345);
	round_trip(s, IPPROTO_TCP, TCP_CORK, 1, 1);
	round_trip(s, IPPROTO_TCP, TCP_CORK, 0, 0);
	round_trip(s, IPPROTO_TCP, TCP_QUICKACK, 1, 1);
	round_trip(s, IPPROTO_TCP, TCP_LINGER2, 7, 7);
	round_trip(s, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 4096, 4096);
	round_trip(s, IPPROTO_IP, IP_TOS, 0x10, 0x10);
	round_trip(s, IPPROTO_IP, IP_TTL, 33, 33);
	round_trip(s, SOL_SOCKET, SO_PRIORITY, 3, 3);
	round_trip(s, SOL_SOCKET, SO_OOBINLINE, 1, 1);
	round_trip(s, SOL_SOCKET, SO_OOBINLINE, 0, 0);
	/* The kernel doubles buffer sizes for its own overhead. */
	round_trip(s, SOL_SOCKET, SO_RCVBUF, 30000, 60000);
	round_trip(s, SOL_SOCKET, SO_SNDBUF, 40000, 80000);
	round_trip(s, SOL_SOCKET, SO_RCVLOWAT, 5, 5);
	round_trip(s, SOL_SOCKET, SO_RCVLOWAT, 1, 1);
	EQ(int_opt(s, SOL_SOCKET, SO_TYPE), SOCK_STREAM);
	EQ(int_opt(s, SOL_SOCKET, SO_DOMAIN), AF_INET);
	EQ(int_opt(s, SOL_SOCKET, SO_PROTOCOL), IPPROTO_TCP);
	EQ(int_opt(s, SOL_SOCKET, SO_ACCEPTCONN), 0);
	EQ(int_opt(s, SOL_SOCKET, SO_ERROR), 0);
	EQ(int_opt(s, SOL_SOCKET, SO_SNDLOWAT), 1);
}

CASE(unconnected_round_trips)
{
	int s = tcp_socket();

	common_options(s);
	OK(close(s));
}

PEERCASE(connected_round_trips)
{
	common_options(s);
	/* And it still works. */
	PUT(s, 1000, 0);
	EQ(peer("recv 1000"), 1000);
	EQ(peer("send 1000"), 1000);
	GET(s, 1000, 0);
	OK(close(s));
}

PEERCASE(linger_and_timeouts)
{
	struct linger lg = { .l_onoff = 1, .l_linger = 17 };
	struct timeval tv = { .tv_sec = 3 };
	socklen_t n = sizeof lg;

	OK(setsockopt(s, SOL_SOCKET, SO_LINGER, &lg, sizeof lg));
	memset(&lg, 0, sizeof lg);
	OK(getsockopt(s, SOL_SOCKET, SO_LINGER, &lg, &n));
	EQ(n, sizeof lg);
	EQ(lg.l_onoff, 1);
	EQ(lg.l_linger, 17);
	lg.l_onoff = 0;
	OK(setsockopt(s, SOL_SOCKET, SO_LINGER, &lg, sizeof lg));
	FAILS(setsockopt(s, SOL_SOCKET, SO_LINGER, &lg, 4), EINVAL);
	OK(setsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv));
	memset(&tv, 0, sizeof tv);
	n = sizeof tv;
	OK(getsockopt(s, SOL_SOCKET, SO_SNDTIMEO, &tv, &n));
	EQ(tv.tv_sec, 3);
	n = sizeof tv;
	OK(getsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, &n));
	EQ(tv.tv_sec, 0);
	OK(close(s));
}

PEERCASE(errors)
{
	int v = 1;
	socklen_t n = sizeof v;

	FAILS(setsockopt(s, SOL_SOCKET, 9999, &v, sizeof v), ENOPROTOOPT);
	FAILS(getsockopt(s, SOL_SOCKET, 9999, &v, &n), ENOPROTOOPT);
	FAILS(setsockopt(s, IPPROTO_TCP, 9999, &v, sizeof v), ENOPROTOOPT);
	FAILS(getsockopt(s, IPPROTO_TCP, 9999, &v, &n), ENOPROTOOPT);
	FAILS(getsockopt(s, 4242, 1, &v, &n), EOPNOTSUPP);
	FAILS(setsockopt(s, SOL_SOCKET, SO_KEEPALIVE, &v, 1), EINVAL);
	FAILS(setsockopt(s, SOL_SOCKET, SO_KEEPALIVE, bad_ptr(), sizeof v), EFAULT);
	FAILS(getsockopt(s, SOL_SOCKET, SO_TYPE, bad_ptr(), &n), EFAULT);
	FAILS(getsockopt(s, SOL_SOCKET, SO_TYPE, &v, bad_ptr()), EFAULT);
	n = (socklen_t)-1;
	FAILS(getsockopt(s, SOL_SOCKET, SO_TYPE, &v, &n), EINVAL);
	/* Read-only ones. */
	FAILS(setsockopt(s, SOL_SOCKET, SO_TYPE, &v, sizeof v), ENOPROTOOPT);
	FAILS(setsockopt(s, SOL_SOCKET, SO_ERROR, &v, sizeof v), ENOPROTOOPT);
	FAILS(setsockopt(s, SOL_SOCKET, SO_ACCEPTCONN, &v, sizeof v), ENOPROTOOPT);
	OK(close(s));
}

PEERCASE(short_option_lengths)
{
	unsigned char b[8];
	socklen_t n = 2;

	memset(b, 0xee, sizeof b);
	OK(getsockopt(s, SOL_SOCKET, SO_TYPE, b, &n));
	EQ(n, 2);
	EQ(b[0], SOCK_STREAM);
	EQ(b[2], 0xee);
	n = sizeof b;
	OK(getsockopt(s, SOL_SOCKET, SO_TYPE, b, &n));
	EQ(n, 4);
	EQ(b[4], 0xee);
	n = 0;
	OK(getsockopt(s, SOL_SOCKET, SO_TYPE, b, &n));
	EQ(n, 0);
	OK(close(s));
}

/* What an accepted socket takes over from its listener. */
CASE(inherited_from_listener)
{
	struct linger lg = { .l_onoff = 1, .l_linger = 9 };
	struct timeval tv = { .tv_sec = 7 };
	struct sockaddr_in a = { .sin_family = AF_INET };
	socklen_t n = sizeof a;
	int one = 1, buf = 50000, idle = 55, l = tcp_socket();

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	OK(setsockopt(l, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one));
	OK(setsockopt(l, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one));
	OK(setsockopt(l, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle));
	OK(setsockopt(l, SOL_SOCKET, SO_RCVBUF, &buf, sizeof buf));
	OK(setsockopt(l, SOL_SOCKET, SO_SNDBUF, &buf, sizeof buf));
	OK(setsockopt(l, SOL_SOCKET, SO_LINGER, &lg, sizeof lg));
	OK(setsockopt(l, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
	OK(bind(l, (void *)&a, sizeof a));
	OK(listen(l, 1));
	OK(getsockname(l, (void *)&a, &n));
	int c = dial(&a), s = (int)OK(accept(l, NULL, NULL));
	EQ(int_opt(s, SOL_SOCKET, SO_KEEPALIVE), 1);
	EQ(int_opt(s, IPPROTO_TCP, TCP_NODELAY), 1);
	EQ(int_opt(s, IPPROTO_TCP, TCP_KEEPIDLE), 55);
	EQ(int_opt(s, SOL_SOCKET, SO_RCVBUF), 100000);
	EQ(int_opt(s, SOL_SOCKET, SO_SNDBUF), 100000);
	EQ(int_opt(s, SOL_SOCKET, SO_ACCEPTCONN), 0);
	n = sizeof lg;
	memset(&lg, 0, sizeof lg);
	OK(getsockopt(s, SOL_SOCKET, SO_LINGER, &lg, &n));
	EQ(lg.l_linger, 9);
	n = sizeof tv;
	memset(&tv, 0, sizeof tv);
	OK(getsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, &n));
	EQ(tv.tv_sec, 7);
	EQ(int_opt(c, SOL_SOCKET, SO_KEEPALIVE), 0);
	/* The same after traffic, which may have put something else beneath. */
	warm(c, s);
	EQ(int_opt(s, SOL_SOCKET, SO_KEEPALIVE), 1);
	EQ(int_opt(s, IPPROTO_TCP, TCP_KEEPIDLE), 55);
	EQ(int_opt(s, SOL_SOCKET, SO_RCVBUF), 100000);
	n = sizeof tv;
	OK(getsockopt(s, SOL_SOCKET, SO_RCVTIMEO, &tv, &n));
	EQ(tv.tv_sec, 7);
	OK(close(c));
	OK(close(s));
	OK(close(l));
}

/* A small SO_SNDBUF bounds what a sender gets rid of. */
CASE(small_buffers_bound_the_queue)
{
	int fd[2], small = 4096;

	pair(fd);
	OK(setsockopt(fd[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small));
	size_t n = fill_up(fd[0], 0);
	CHECK(n < 1 << 20);
	EQ(events_now(fd[0], POLLOUT), 0);
	set_nonblock(fd[1], 1);
	for (size_t got = 0; got < n;) {
		char b[8192];

		wait_readable(fd[1]);
		size_t r = (size_t)OK(recv(fd[1], b, sizeof b, 0));
		SAME(b, r, got);
		got += r;
	}
	CHECK(wait_events(fd[0], POLLOUT) & POLLOUT);
	OK(close(fd[0]));
	OK(close(fd[1]));
}

static int tcp_state(int s)
{
	struct tcp_info ti;
	socklen_t n = sizeof ti;

	OK(getsockopt(s, IPPROTO_TCP, TCP_INFO, &ti, &n));
	return ti.tcpi_state;
}

static void wait_state(int s, int state)
{
	double t = now();

	while (tcp_state(s) != state && now() - t < 5)
		usleep(500);
	EQ(tcp_state(s), state);
}

CASE(tcp_info_states)
{
	struct sockaddr_in a;
	int l = listener(&a), c = tcp_socket();

	EQ(tcp_state(l), TCP_LISTEN);
	EQ(tcp_state(c), TCP_CLOSE);
	OK(connect(c, (void *)&a, sizeof a));
	int s = (int)OK(accept(l, NULL, NULL));
	EQ(tcp_state(c), TCP_ESTABLISHED);
	EQ(tcp_state(s), TCP_ESTABLISHED);
	warm(c, s);
	EQ(tcp_state(c), TCP_ESTABLISHED);
	EQ(tcp_state(s), TCP_ESTABLISHED);
	OK(shutdown(c, SHUT_WR));
	GET_EOF(s);
	wait_state(c, TCP_FIN_WAIT2);
	wait_state(s, TCP_CLOSE_WAIT);
	OK(close(s));
	/* TIME_WAIT is no more a socket's state: it shows CLOSE. */
	GET_EOF(c);
	wait_state(c, TCP_CLOSE);
	OK(close(c));
	OK(close(l));
}

PEERCASE(tcp_info_sizes)
{
	unsigned char b[1024];
	struct tcp_info ti;
	socklen_t n = 1;

	memset(b, 0xee, sizeof b);
	OK(getsockopt(s, IPPROTO_TCP, TCP_INFO, b, &n));
	EQ(n, 1);
	EQ(b[0], TCP_ESTABLISHED);
	EQ(b[1], 0xee);
	n = sizeof b;
	OK(getsockopt(s, IPPROTO_TCP, TCP_INFO, b, &n));
	CHECK(n >= sizeof ti && n < sizeof b);
	n = sizeof ti;
	OK(getsockopt(s, IPPROTO_TCP, TCP_INFO, &ti, &n));
	EQ(n, sizeof ti);
	CHECK(ti.tcpi_snd_mss > 0 && ti.tcpi_rcv_mss > 0 && ti.tcpi_rto > 0);
	EQ(peer("rst"), 0);
	CHECK(wait_events(s, 0) & POLLERR);
	wait_state(s, TCP_CLOSE);
	OK(close(s));
}

CASE(congestion_and_maxseg)
{
	char name[32] = "", again[32] = "";
	socklen_t n = sizeof name;
	int fd[2];

	pair(fd);
	OK(getsockopt(fd[0], IPPROTO_TCP, TCP_CONGESTION, name, &n));
	CHECK(strlen(name) > 0);
	OK(setsockopt(fd[0], IPPROTO_TCP, TCP_CONGESTION, "reno", 4));
	n = sizeof again;
	OK(getsockopt(fd[0], IPPROTO_TCP, TCP_CONGESTION, again, &n));
	EQ(strcmp(again, "reno"), 0);
	CHECK(int_opt(fd[0], IPPROTO_TCP, TCP_MAXSEG) > 500);
	FAILS(setsockopt(fd[0], IPPROTO_TCP, TCP_CONGESTION, "no-such", 7), ENOENT);
	OK(close(fd[0]));
	OK(close(fd[1]));
}

CASE(nonblock_by_every_way)
{
	int on = 1, off = 0;
	char b[1];
	int fd[2];

	pair(fd);
	EQ(fcntl(fd[0], F_GETFL), O_RDWR);
	OK(ioctl(fd[0], FIONBIO, &on));
	EQ(fcntl(fd[0], F_GETFL), O_RDWR | O_NONBLOCK);
	FAILS(recv(fd[0], b, 1, 0), EAGAIN);
	OK(ioctl(fd[0], FIONBIO, &off));
	EQ(fcntl(fd[0], F_GETFL), O_RDWR);
	OK(fcntl(fd[0], F_SETFL, O_NONBLOCK));
	FAILS(read(fd[0], b, 1), EAGAIN);
	/* The access mode cannot be changed by F_SETFL, O_APPEND can. */
	OK(fcntl(fd[0], F_SETFL, O_WRONLY));
	EQ(fcntl(fd[0], F_GETFL), O_RDWR);
	OK(fcntl(fd[0], F_SETFL, O_APPEND | O_NONBLOCK));
	EQ(fcntl(fd[0], F_GETFL), O_RDWR | O_APPEND | O_NONBLOCK);
	/* The flags belong to the open file: a dup shares them. */
	int d = (int)OK(dup(fd[0]));
	OK(fcntl(d, F_SETFL, 0));
	EQ(fcntl(fd[0], F_GETFL), O_RDWR);
	OK(fcntl(fd[0], F_SETFL, O_NONBLOCK));
	FAILS(recv(d, b, 1, 0), EAGAIN);
	OK(close(d));
	int s = (int)OK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
	EQ(fcntl(s, F_GETFL), O_RDWR | O_NONBLOCK);
	EQ(fcntl(s, F_GETFD), FD_CLOEXEC);
	OK(ioctl(s, FIONCLEX));
	EQ(fcntl(s, F_GETFD), 0);
	OK(ioctl(s, FIOCLEX));
	EQ(fcntl(s, F_GETFD), FD_CLOEXEC);
	OK(close(s));
	OK(close(fd[0]));
	OK(close(fd[1]));
}

PEERCASE(sigio)
{
	on_signal(SIGIO, 0);
	OK(fcntl(s, F_SETOWN, getpid()));
	OK(fcntl(s, F_SETFL, O_ASYNC));
	EQ(fcntl(s, F_GETFL), O_RDWR | O_ASYNC);
	EQ(signals_seen, 0);
	EQ(peer("send 10"), 10);
	wait_unread(s, 10);
	CHECK(signals_seen >= 1);
	OK(fcntl(s, F_SETFL, 0));
	GET(s, 10, 0);
	OK(close(s));
}

CASE(ioctl_errors)
{
	int fd[2], v;

	pair(fd);
	FAILS(ioctl(fd[0], 0x12345678, &v), ENOTTY);
	FAILS(ioctl(fd[0], TIOCGWINSZ, &v), ENOTTY);
	FAILS(ioctl(fd[0], FIONREAD, bad_ptr()), EFAULT);
	FAILS(fcntl(fd[0], 9999), EINVAL);
	FAILS(fcntl(fd[0], F_DUPFD, -1), EINVAL);
	EQ(isatty(fd[0]), 0);
	OK(close(fd[0]));
	OK(close(fd[1]));
}

CASE(socket_errors)
{
	FAILS(socket(AF_INET, 99, 0), EINVAL);
	FAILS(socket(12345, SOCK_STREAM, 0), EAFNOSUPPORT);
	FAILS(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP), EPROTONOSUPPORT);
	FAILS(socket(AF_INET, SOCK_STREAM | 0x100000, 0), EINVAL);
	int s = (int)OK(socket(AF_INET, SOCK_STREAM, IPPROTO_TCP));
	EQ(int_opt(s, SOL_SOCKET, SO_PROTOCOL), IPPROTO_TCP);
	OK(close(s));
	FAILS(socketpair(AF_INET, SOCK_STREAM, 0, (int[2]){ 0, 0 }), EOPNOTSUPP);
}
