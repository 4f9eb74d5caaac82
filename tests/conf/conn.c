/* connect, listen, accept, addresses. */
#include "conf.h"

static struct sockaddr_in closed_port(void)
{
	struct sockaddr_in a;

	OK(close(listener(&a)));
	return a;
}

CASE(refused)
{
	struct sockaddr_in a = closed_port();
	int s = tcp_socket();
	char b[1];

	FAILS(connect(s, (void *)&a, sizeof a), ECONNREFUSED);
	FAILS(send(s, "x", 1, MSG_NOSIGNAL), EPIPE);
	FAILS(recv(s, b, 1, 0), ENOTCONN);
	/* The same socket may try again. */
	FAILS(connect(s, (void *)&a, sizeof a), ECONNREFUSED);
	OK(close(s));
}

CASE(refused_then_connected)
{
	struct sockaddr_in a = closed_port(), b;
	int s = tcp_socket(), l = listener(&b);

	FAILS(connect(s, (void *)&a, sizeof a), ECONNREFUSED);
	OK(connect(s, (void *)&b, sizeof b));
	int t = (int)OK(accept(l, NULL, NULL));
	warm(s, t);
	PUT(s, 100, 0);
	GET(t, 100, 0);
	OK(close(l));
	OK(close(s));
	OK(close(t));
}

CASE(nonblocking_refused)
{
	struct sockaddr_in a = closed_port();
	int s = tcp_socket();

	set_nonblock(s, 1);
	FAILS(connect(s, (void *)&a, sizeof a), EINPROGRESS);
	CHECK(wait_events(s, POLLOUT) & POLLERR);
	EQ(int_opt(s, SOL_SOCKET, SO_ERROR), ECONNREFUSED);
	EQ(int_opt(s, SOL_SOCKET, SO_ERROR), 0);
	OK(close(s));
}

CASE(nonblocking_refused_by_connect)
{
	struct sockaddr_in a = closed_port();
	int s = tcp_socket();

	/* The second connect fetches the error instead. */
	set_nonblock(s, 1);
	FAILS(connect(s, (void *)&a, sizeof a), EINPROGRESS);
	CHECK(wait_events(s, POLLOUT) & POLLERR);
	FAILS(connect(s, (void *)&a, sizeof a), ECONNREFUSED);
	OK(close(s));
}

CASE(nonblocking_connect)
{
	struct sockaddr_in a;
	int l = listener(&a), s = (int)OK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));

	FAILS(connect(s, (void *)&a, sizeof a), EINPROGRESS);
	EQ(wait_events(s, POLLOUT), POLLOUT);
	EQ(int_opt(s, SOL_SOCKET, SO_ERROR), 0);
	/* The first connect after completion is a success, the next EISCONN. */
	OK(connect(s, (void *)&a, sizeof a));
	FAILS(connect(s, (void *)&a, sizeof a), EISCONN);
	int t = (int)OK(accept(l, NULL, NULL));
	PUT(s, 10, 0);
	GET(t, 10, 0);
	OK(close(l));
	OK(close(s));
	OK(close(t));
}

CASE(connect_in_progress)
{
	struct sockaddr_in a;
	int l = listener(&a), s = tcp_socket();
	char b[1];

	/* A full queue: the SYN is not answered. */
	OK(listen(l, 0));
	int filler = dial(&a);
	set_nonblock(s, 1);
	FAILS(connect(s, (void *)&a, sizeof a), EINPROGRESS);
	FAILS(connect(s, (void *)&a, sizeof a), EALREADY);
	FAILS(send(s, "x", 1, MSG_NOSIGNAL), EAGAIN);
	FAILS(recv(s, b, 1, 0), EAGAIN);
	EQ(events_now(s, POLLIN | POLLOUT), 0);
	EQ(int_opt(s, SOL_SOCKET, SO_ERROR), 0);
	struct sockaddr_in n;
	socklen_t len = sizeof n;
	FAILS(getpeername(s, (void *)&n, &len), ENOTCONN);
	OK(close(s));
	OK(close(filler));
	OK(close(l));
}

CASE(connect_twice)
{
	struct sockaddr_in a;
	int l = listener(&a), s = dial(&a);

	FAILS(connect(s, (void *)&a, sizeof a), EISCONN);
	int t = (int)OK(accept(l, NULL, NULL));
	FAILS(connect(t, (void *)&a, sizeof a), EISCONN);
	OK(close(l));
	OK(close(s));
	OK(close(t));
}

CASE(connect_bad_arguments)
{
	struct sockaddr_in a;
	int l = listener(&a), s = tcp_socket();

	FAILS(connect(s, (void *)&a, 4), EINVAL);
	FAILS(connect(s, bad_ptr(), sizeof a), EFAULT);
	FAILS(connect(s, (void *)&a, 1000000), EINVAL);
	a.sin_family = AF_UNIX;
	FAILS(connect(s, (void *)&a, sizeof a), EAFNOSUPPORT);
	a.sin_family = AF_INET;
	FAILS(connect(-1, (void *)&a, sizeof a), EBADF);
	OK(connect(s, (void *)&a, sizeof a));
	OK(close(s));
	OK(close(l));
}

/* connect(AF_UNSPEC) ends the connection; the socket can be used for another. */
PEERCASE(disconnect_and_reuse)
{
	struct sockaddr un = { .sa_family = AF_UNSPEC };
	struct sockaddr_in a, n;
	socklen_t len = sizeof n;

	PUT(s, 10, 0);
	EQ(peer("recv 10"), 10);
	OK(connect(s, &un, sizeof un));
	EQ(peer("recv 1"), -1);
	EQ(peer_errno, ECONNRESET);
	EQ(peer("close"), 0);
	FAILS(getpeername(s, (void *)&n, &len), ENOTCONN);
	/* Whatever error the reset left behind. */
	int_opt(s, SOL_SOCKET, SO_ERROR);

	int l = listener(&a);
	OK(connect(s, (void *)&a, sizeof a));
	int t = (int)OK(accept(l, NULL, NULL));
	warm(s, t);
	PUT(s, 500, 0);
	GET(t, 500, 0);
	PUT(t, 500, 0);
	GET(s, 500, 0);
	OK(close(l));
	OK(close(s));
	GET_EOF(t);
	OK(close(t));
}

CASE(unconnected_socket)
{
	char b[10];
	struct iovec v = { b, 10 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };
	struct sockaddr_in a;
	socklen_t n = sizeof a;
	int s = tcp_socket();

	FAILS(recv(s, b, 10, 0), ENOTCONN);
	FAILS(read(s, b, 10), ENOTCONN);
	FAILS(recvmsg(s, &m, 0), ENOTCONN);
	FAILS(recv(s, b, 10, MSG_DONTWAIT), ENOTCONN);
	FAILS(send(s, "x", 1, MSG_NOSIGNAL), EPIPE);
	on_signal(SIGPIPE, 0);
	FAILS(write(s, "x", 1), EPIPE);
	EQ(signals_seen, 1);
	FAILS(getpeername(s, (void *)&a, &n), ENOTCONN);
	OK(getsockname(s, (void *)&a, &n));
	EQ(a.sin_port, 0);
	EQ(events_now(s, POLLIN | POLLOUT), POLLOUT | POLLHUP);
	FAILS(accept(s, NULL, NULL), EINVAL);
	OK(close(s));
}

CASE(listening_socket)
{
	char b[10];
	struct sockaddr_in a, n;
	socklen_t len = sizeof n;
	int v, l = listener(&a);

	FAILS(recv(l, b, 10, 0), ENOTCONN);
	FAILS(send(l, b, 10, MSG_NOSIGNAL), EPIPE);
	FAILS(getpeername(l, (void *)&n, &len), ENOTCONN);
	FAILS(ioctl(l, FIONREAD, &v), EINVAL);
	FAILS(connect(l, (void *)&a, sizeof a), EISCONN);
	EQ(events_now(l, POLLIN | POLLOUT), 0);
	EQ(int_opt(l, SOL_SOCKET, SO_ACCEPTCONN), 1);
	OK(listen(l, 5));
	int c = dial(&a);
	EQ(wait_events(l, POLLIN | POLLOUT), POLLIN);
	OK(close(OK(accept(l, NULL, NULL))));
	EQ(events_now(l, POLLIN | POLLOUT), 0);
	OK(close(c));
	OK(close(l));
}

CASE(listen_errors)
{
	struct sockaddr_in a, n;
	socklen_t len = sizeof n;
	int l = listener(&a), s = tcp_socket();

	FAILS(bind(s, (void *)&a, sizeof a), EADDRINUSE);
	FAILS(bind(l, (void *)&a, sizeof a), EINVAL);
	OK(connect(s, (void *)&a, sizeof a));
	FAILS(listen(s, 5), EINVAL);
	OK(close(s));
	/* listen without bind takes a port of its own. */
	s = tcp_socket();
	OK(listen(s, 1));
	OK(getsockname(s, (void *)&n, &len));
	CHECK(n.sin_port != 0 && n.sin_addr.s_addr == htonl(INADDR_ANY));
	OK(close(s));
	OK(close(l));
}

CASE(accept_nonblocking)
{
	struct sockaddr_in a;
	int l = listener(&a);

	set_nonblock(l, 1);
	FAILS(accept(l, NULL, NULL), EAGAIN);
	int c = dial(&a);
	wait_readable(l);
	int s = (int)OK(accept(l, NULL, NULL));
	/* Linux: O_NONBLOCK is not inherited. */
	EQ(fcntl(s, F_GETFL) & O_NONBLOCK, 0);
	EQ(fcntl(s, F_GETFD), 0);
	FAILS(accept(l, NULL, NULL), EAGAIN);
	FAILS(accept4(l, NULL, NULL, 0), EAGAIN);
	OK(close(s));
	OK(close(c));
	OK(close(l));
}

CASE(accept4_flags)
{
	struct sockaddr_in a;
	int l = listener(&a), c[3], s[3];

	for (int i = 0; i < 3; i++)
		c[i] = dial(&a);
	s[0] = (int)OK(accept4(l, NULL, NULL, SOCK_CLOEXEC));
	s[1] = (int)OK(accept4(l, NULL, NULL, SOCK_NONBLOCK));
	FAILS(accept4(l, NULL, NULL, 0x40), EINVAL);
	s[2] = (int)OK(accept4(l, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC));
	for (int i = 0; i < 3; i++) {
		EQ(fcntl(s[i], F_GETFD), i == 1 ? 0 : FD_CLOEXEC);
		EQ(!!(fcntl(s[i], F_GETFL) & O_NONBLOCK), i > 0);
		OK(close(s[i]));
		OK(close(c[i]));
	}
	OK(close(l));
}

CASE(accept_addresses)
{
	struct sockaddr_in a, n, mine;
	unsigned char raw[64];
	int l = listener(&a), c, s;

	for (int i = 0; i < 4; i++) {
		socklen_t give[] = { sizeof n, 4, 0, sizeof raw }, len = give[i];
		socklen_t mlen = sizeof mine;

		c = dial(&a);
		OK(getsockname(c, (void *)&mine, &mlen));
		memset(raw, 0xee, sizeof raw);
		s = (int)OK(accept(l, (void *)raw, &len));
		/* The true length comes back; no more than was given is written. */
		EQ(len, sizeof n);
		EQ(memcmp(raw, &mine, give[i] < len ? give[i] : len), 0);
		for (size_t k = give[i] < len ? give[i] : len; k < sizeof raw; k++)
			EQ(raw[k], 0xee);
		OK(close(c));
		OK(close(s));
	}
	OK(close(l));
}

CASE(accept_bad_pointer_leaves_no_descriptor)
{
	struct sockaddr_in a;
	socklen_t len = sizeof a;
	int l = listener(&a), c = dial(&a);

	FAILS(accept(l, bad_ptr(), &len), EFAULT);
	/* That connection is gone with it. */
	GET_EOF(c);
	OK(close(c));
	c = dial(&a);
	len = (socklen_t)-1;
	FAILS(accept(l, (void *)&a, &len), EINVAL);
	OK(close(c));
	OK(close(l));
}

/* Reset while still in the queue: Linux hands it out, with the error inside. */
CASE(accept_of_a_reset_connection)
{
	struct linger lg = { .l_onoff = 1, .l_linger = 0 };
	struct sockaddr_in a;
	char b[1];
	int l = listener(&a), c = dial(&a);

	wait_readable(l);
	OK(setsockopt(c, SOL_SOCKET, SO_LINGER, &lg, sizeof lg));
	OK(close(c));
	c = dial(&a);
	int s = accept(l, NULL, NULL);
	if (s < 0) {
		EQ(errno, ECONNABORTED);
	} else {
		FAILS(recv(s, b, 1, 0), ECONNRESET);
		OK(close(s));
	}
	s = (int)OK(accept(l, NULL, NULL));
	PUT(c, 10, 0);
	GET(s, 10, 0);
	OK(close(s));
	OK(close(c));
	OK(close(l));
}

CASE(accept_of_a_closed_connection)
{
	struct sockaddr_in a;
	int l = listener(&a), c = dial(&a);

	/* Data and end of stream came before anybody accepted. */
	PUT(c, 2000, 0);
	OK(close(c));
	int s = (int)OK(accept(l, NULL, NULL));
	GET(s, 2000, 0);
	GET_EOF(s);
	OK(close(s));
	OK(close(l));
}

CASE(shutdown_listener_wakes_accept)
{
	struct sockaddr_in a;
	pid_t me = getpid();
	int l = listener(&a);
	pid_t p = (pid_t)OK(fork());

	if (!p) {
		wait_sleeping(me, me);
		_exit(shutdown(l, SHUT_RD) != 0);
	}
	FAILS(accept(l, NULL, NULL), EINVAL);
	EQ(exit_of(p), 0);
	/* Not listening any more; listen brings it back. */
	FAILS(accept(l, NULL, NULL), EINVAL);
	int c = tcp_socket();
	FAILS(connect(c, (void *)&a, sizeof a), ECONNREFUSED);
	OK(listen(l, 5));
	/* The port was not asked for by number, so it is another one now. */
	OK(getsockname(l, (void *)&a, &(socklen_t){ sizeof a }));
	OK(connect(c, (void *)&a, sizeof a));
	OK(close(OK(accept(l, NULL, NULL))));
	OK(close(c));
	OK(close(l));
}

CASE(close_listener_resets_queue)
{
	struct sockaddr_in a;
	char b[1];
	int l = listener(&a), c = dial(&a);

	wait_readable(l);
	OK(close(l));
	FAILS(recv(c, b, 1, 0), ECONNRESET);
	OK(close(c));
	c = tcp_socket();
	FAILS(connect(c, (void *)&a, sizeof a), ECONNREFUSED);
	OK(close(c));
}

CASE(accepted_survives_listener)
{
	struct sockaddr_in a, b;
	int l = listener(&a), c = dial(&a), s = (int)OK(accept(l, NULL, NULL));

	OK(close(l));
	warm(c, s);
	/* The port can be had again, with SO_REUSEADDR, while the connection lives. */
	int one = 1;
	l = tcp_socket();
	OK(setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
	b = a;
	OK(setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
	OK(bind(l, (void *)&b, sizeof b));
	OK(listen(l, 1));
	PUT(c, 10, 0);
	GET(s, 10, 0);
	OK(close(c));
	OK(close(s));
	OK(close(l));
}

CASE(names)
{
	struct sockaddr_in a, x, y;
	struct sockaddr_storage big;
	socklen_t n = sizeof x, m = sizeof y;
	int l = listener(&a), c = dial(&a), s = (int)OK(accept(l, NULL, NULL));

	warm(c, s);
	OK(getpeername(c, (void *)&x, &n));
	EQ(n, sizeof x);
	EQ(x.sin_port, a.sin_port);
	EQ(x.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
	OK(getsockname(c, (void *)&x, &n));
	OK(getpeername(s, (void *)&y, &m));
	EQ(memcmp(&x, &y, sizeof x), 0);
	OK(getsockname(s, (void *)&y, &m));
	EQ(y.sin_port, a.sin_port);
	n = 6;
	memset(&big, 0xee, sizeof big);
	OK(getsockname(c, (void *)&big, &n));
	EQ(n, sizeof x);
	EQ(memcmp(&big, &x, 6), 0);
	EQ(((unsigned char *)&big)[6], 0xee);
	n = 0;
	OK(getpeername(c, (void *)&big, &n));
	EQ(n, sizeof x);
	n = (socklen_t)-5;
	FAILS(getsockname(c, (void *)&big, &n), EINVAL);
	n = sizeof big;
	OK(getpeername(c, (void *)&big, &n));
	EQ(n, sizeof x);
	FAILS(getsockname(c, bad_ptr(), &n), EFAULT);
	/* The sanitizers' interceptors read the length first. */
	if (!CONF_ASAN && !CONF_TSAN)
		FAILS(getpeername(c, (void *)&x, bad_ptr()), EFAULT);
	OK(close(l));
	OK(close(c));
	OK(close(s));
}

PEERCASE(names_after_peer_closed)
{
	struct sockaddr_in x, y;
	socklen_t n = sizeof x;

	OK(getpeername(s, (void *)&x, &n));
	EQ(peer("close"), 0);
	GET_EOF(s);
	OK(getpeername(s, (void *)&y, &n));
	EQ(memcmp(&x, &y, sizeof x), 0);
	OK(close(s));
}

PEERCASE(names_after_reset)
{
	struct sockaddr_in x;
	socklen_t n = sizeof x;

	EQ(peer("rst"), 0);
	CHECK(wait_events(s, 0) & POLLERR);
	FAILS(getpeername(s, (void *)&x, &n), ENOTCONN);
	OK(getsockname(s, (void *)&x, &n));
	OK(close(s));
}

CASE(v6_names)
{
	struct sockaddr_in6 x;
	socklen_t n = sizeof x;
	int fd[2];

	if (!have_v6())
		conf_skip("no IPv6");
	pair_v6(fd);
	OK(getpeername(fd[1], (void *)&x, &n));
	EQ(n, sizeof x);
	EQ(x.sin6_family, AF_INET6);
	CHECK(IN6_IS_ADDR_LOOPBACK(&x.sin6_addr));
	EQ(int_opt(fd[1], SOL_SOCKET, SO_DOMAIN), AF_INET6);
	OK(close(fd[0]));
	OK(close(fd[1]));
}

/* An IPv4 client at a dual-stack listener shows as a mapped address. */
CASE(v4_mapped)
{
	struct sockaddr_in6 a = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT }, x;
	struct sockaddr_in b = { .sin_family = AF_INET };
	socklen_t n = sizeof a;
	int zero = 0;

	if (!have_v6())
		conf_skip("no IPv6");
	int l = (int)OK(socket(AF_INET6, SOCK_STREAM, 0));
	OK(setsockopt(l, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof zero));
	OK(bind(l, (void *)&a, sizeof a));
	OK(listen(l, 1));
	OK(getsockname(l, (void *)&a, &n));
	b.sin_port = a.sin6_port;
	b.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int c = dial(&b), s = (int)OK(accept(l, (void *)&x, &n));
	CHECK(IN6_IS_ADDR_V4MAPPED(&x.sin6_addr));
	warm(c, s);
	PUT(c, 1000, 0);
	GET(s, 1000, 0);
	OK(close(l));
	OK(close(c));
	OK(close(s));
}

CASE(bound_client)
{
	struct sockaddr_in a, b = { .sin_family = AF_INET }, x;
	socklen_t n = sizeof b;
	int l = listener(&a), c = tcp_socket();

	b.sin_addr.s_addr = htonl(0x7f000002);
	OK(bind(c, (void *)&b, sizeof b));
	OK(getsockname(c, (void *)&b, &n));
	CHECK(b.sin_port != 0);
	OK(connect(c, (void *)&a, sizeof a));
	int s = (int)OK(accept(l, (void *)&x, &n));
	EQ(memcmp(&x, &b, sizeof x), 0);
	warm(c, s);
	PUT(s, 10, 0);
	GET(c, 10, 0);
	OK(close(l));
	OK(close(c));
	OK(close(s));
}

/* One socket connected to itself: both ends are the same socket. */
CASE(self_connect)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	socklen_t n = sizeof a;
	int s = tcp_socket();

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	OK(bind(s, (void *)&a, sizeof a));
	OK(getsockname(s, (void *)&a, &n));
	OK(connect(s, (void *)&a, sizeof a));
	OK(setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &(int){ 1 }, sizeof(int)));
	for (int i = 0; i < 100; i++) {
		PUT(s, 100, (uint64_t)i * 100);
		GET(s, 100, (uint64_t)i * 100);
	}
	OK(shutdown(s, SHUT_WR));
	GET_EOF(s);
	OK(close(s));
}

CASE(many_connections)
{
	struct sockaddr_in a;
	int l = listener(&a), c[40], s[40];

	for (int i = 0; i < 40; i++) {
		c[i] = dial(&a);
		s[i] = (int)OK(accept(l, NULL, NULL));
	}
	for (int r = 0; r < 10; r++)
		for (int i = 0; i < 40; i++) {
			PUT(c[i], 50, (uint64_t)(i + r * 50));
			GET(s[i], 50, (uint64_t)(i + r * 50));
			PUT(s[i], 70, (uint64_t)(i * 3 + r * 70));
			GET(c[i], 70, (uint64_t)(i * 3 + r * 70));
		}
	for (int i = 0; i < 40; i++) {
		OK(close(c[i]));
		GET_EOF(s[i]);
		OK(close(s[i]));
	}
	OK(close(l));
}

CASE(short_connections)
{
	struct sockaddr_in a;
	int l = listener(&a);

	for (int i = 0; i < 200; i++) {
		int c = dial(&a), s = (int)OK(accept(l, NULL, NULL));

		PUT(c, 10, 0);
		GET(s, 10, 0);
		PUT(s, 10, 0);
		OK(close(s));
		GET(c, 10, 0);
		GET_EOF(c);
		OK(close(c));
	}
	OK(close(l));
}

CASE(fastopen_style_sendto)
{
	struct sockaddr_in a;
	int l = listener(&a), s = tcp_socket();
	char b[10];

	/* sendto connects only with MSG_FASTOPEN; without, it is EPIPE. */
	fill(b, 10, 0);
	FAILS(sendto(s, b, 10, MSG_NOSIGNAL, (void *)&a, sizeof a), EPIPE);
	ssize_t r = sendto(s, b, 10, MSG_FASTOPEN | MSG_NOSIGNAL, (void *)&a, sizeof a);
	if (r < 0) {
		EQ(errno, EOPNOTSUPP);
		OK(close(s));
		OK(close(l));
		conf_skip("TCP fast open is off");
	}
	EQ(r, 10);
	int t = (int)OK(accept(l, NULL, NULL));
	GET(t, 10, 0);
	PUT(s, 10, 10);
	GET(t, 10, 10);
	PUT(t, 10, 0);
	GET(s, 10, 0);
	OK(close(t));
	OK(close(s));
	OK(close(l));
}
