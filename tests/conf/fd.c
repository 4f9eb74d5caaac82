/* Descriptors: numbers, dup, flags, fstat, close_range, wrong kinds. */
#include "conf.h"

#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/sendfile.h>

CASE(lowest_number)
{
	struct sockaddr_in a;
	int low = (int)OK(dup(0));

	/* Sockets take the lowest free number, always. */
	OK(close(low));
	int l = listener(&a);
	EQ(l, low);
	int c = dial(&a);
	CHECK(c > l);
	int s = (int)OK(accept(l, NULL, NULL));
	EQ(s, c + 1);
	warm(c, s);
	/* An upgrade takes none of the low ones. */
	int d = (int)OK(dup(0));
	EQ(d, s + 1);
	OK(close(d));
	OK(close(c));
	EQ(tcp_socket(), c);
	EQ(tcp_socket(), s + 1);
	OK(close(c));
	OK(close(s + 1));
	OK(close(l));
	EQ(dup(s), l);
	OK(close(l));
	OK(close(s));
}

CASE(dup_shares_the_stream)
{
	int fd[2];

	pair(fd);
	int d = (int)OK(dup(fd[0])), e = (int)OK(fcntl(fd[0], F_DUPFD, 50));
	CHECK(e >= 50);
	int f = (int)OK(fcntl(fd[0], F_DUPFD_CLOEXEC, 60));
	CHECK(f >= 60);
	EQ(fcntl(e, F_GETFD), 0);
	EQ(fcntl(f, F_GETFD), FD_CLOEXEC);
	PUT(fd[0], 10, 0);
	PUT(d, 10, 10);
	PUT(e, 10, 20);
	PUT(f, 10, 30);
	GET(fd[1], 40, 0);
	PUT(fd[1], 40, 0);
	wait_unread(f, 40);
	GET(d, 10, 0);
	GET(fd[0], 10, 10);
	GET(f, 10, 20);
	GET(e, 10, 30);
	/* No end before the last one is closed. */
	OK(close(fd[0]));
	OK(close(e));
	OK(close(d));
	EQ(events_now(fd[1], POLLIN | POLLRDHUP), 0);
	PUT(f, 10, 40);
	GET(fd[1], 10, 40);
	OK(close(f));
	GET_EOF(fd[1]);
	OK(close(fd[1]));
}

PEERCASE(shutdown_through_a_dup)
{
	int d = (int)OK(dup(s));

	PUT(s, 10, 0);
	OK(shutdown(d, SHUT_WR));
	EQ(peer("drain"), 10);
	FAILS(send(s, "x", 1, MSG_NOSIGNAL), EPIPE);
	OK(close(d));
	EQ(peer("send 10"), 10);
	GET(s, 10, 0);
	OK(close(s));
}

CASE(dup2_onto_itself)
{
	int fd[2];

	pair(fd);
	OK(fcntl(fd[0], F_SETFD, FD_CLOEXEC));
	EQ(dup2(fd[0], fd[0]), fd[0]);
	EQ(fcntl(fd[0], F_GETFD), FD_CLOEXEC);
	FAILS(dup3(fd[0], fd[0], 0), EINVAL);
	FAILS(dup3(fd[0], 50, 0x1234), EINVAL);
	FAILS(dup2(fd[0], -1), EBADF);
	FAILS(dup2(99, 99), EBADF);
	FAILS(dup2(99, fd[0]), EBADF);
	PUT(fd[0], 10, 0);
	GET(fd[1], 10, 0);
	OK(close(fd[0]));
	OK(close(fd[1]));
}

CASE(dup2_onto_an_open_socket)
{
	int a[2], b[2];

	pair(a);
	pair(b);
	EQ(dup2(a[0], b[0]), b[0]);
	/* b's connection has ended; b[0] is now a's. */
	GET_EOF(b[1]);
	PUT(b[0], 10, 0);
	GET(a[1], 10, 0);
	OK(close(a[0]));
	PUT(b[0], 10, 10);
	GET(a[1], 10, 10);
	PUT(a[1], 10, 0);
	GET(b[0], 10, 0);
	OK(close(b[0]));
	GET_EOF(a[1]);
	OK(close(a[1]));
	OK(close(b[1]));
}

CASE(dup3_flags)
{
	int fd[2];

	pair(fd);
	EQ(dup3(fd[0], 40, O_CLOEXEC), 40);
	EQ(fcntl(40, F_GETFD), FD_CLOEXEC);
	EQ(fcntl(fd[0], F_GETFD), 0);
	EQ(dup3(fd[0], 40, 0), 40);
	EQ(fcntl(40, F_GETFD), 0);
	OK(close(fd[0]));
	PUT(40, 10, 0);
	GET(fd[1], 10, 0);
	OK(close(40));
	GET_EOF(fd[1]);
	OK(close(fd[1]));
}

/* A file over a socket, and a socket over a file. */
CASE(dup2_between_kinds)
{
	int fd[2], f = (int)OK(memfd_create("conf", 0)), pp[2];
	char b[10];

	pair(fd);
	OK(pipe(pp));
	EQ(dup2(f, fd[0]), fd[0]);
	GET_EOF(fd[1]);
	EQ(write(fd[0], "abc", 3), 3);
	EQ(pread(f, b, 10, 0), 3);
	FAILS(send(fd[0], "x", 1, 0), ENOTSOCK);
	FAILS(recv(fd[0], b, 1, 0), ENOTSOCK);
	OK(close(fd[0]));
	OK(close(fd[1]));
	pair(fd);
	EQ(dup2(fd[1], f), f);
	EQ(dup2(fd[1], pp[0]), pp[0]);
	PUT(fd[0], 20, 0);
	GET(f, 10, 0);
	GET(pp[0], 10, 10);
	OK(close(fd[1]));
	OK(close(f));
	OK(close(pp[0]));
	GET_EOF(fd[0]);
	OK(close(fd[0]));
	OK(close(pp[1]));
}

PEERCASE(as_standard_streams)
{
	int in = (int)OK(dup(0)), out = (int)OK(dup(1));
	char line[32] = "";

	/* inetd's way */
	EQ(dup2(s, 0), 0);
	EQ(dup2(s, 1), 1);
	OK(close(s));
	PUT(1, 100, 0);
	EQ(peer("recv 100"), 100);
	EQ(peer("send 20"), 20);
	EQ(read(0, line, 20), 20);
	SAME(line, 20, 0);
	EQ(dup2(in, 0), 0);
	EQ(peer("eof_yet"), 0);
	EQ(dup2(out, 1), 1);
	EQ(peer("drain"), 0);
	OK(close(in));
	OK(close(out));
}

CASE(cloexec_flag)
{
	int fd[2];

	pair(fd);
	EQ(fcntl(fd[0], F_GETFD), 0);
	OK(fcntl(fd[0], F_SETFD, FD_CLOEXEC));
	EQ(fcntl(fd[0], F_GETFD), FD_CLOEXEC);
	/* Belongs to the descriptor: a dup does not have it. */
	int d = (int)OK(dup(fd[0]));
	EQ(fcntl(d, F_GETFD), 0);
	OK(fcntl(fd[0], F_SETFD, 0));
	EQ(fcntl(fd[0], F_GETFD), 0);
	OK(close(d));
	OK(close(fd[0]));
	OK(close(fd[1]));
}

PEERCASE(fstat_)
{
	struct stat a, b;
	int d = (int)OK(dup(s));

	OK(fstat(s, &a));
	CHECK(S_ISSOCK(a.st_mode));
	EQ(a.st_size, 0);
	PUT(s, 1000, 0);
	EQ(peer("recv 1000"), 1000);
	OK(fstat(s, &b));
	EQ(a.st_ino, b.st_ino);
	EQ(a.st_dev, b.st_dev);
	OK(fstat(d, &b));
	EQ(a.st_ino, b.st_ino);
	int t = tcp_socket();
	OK(fstat(t, &b));
	CHECK(a.st_ino != b.st_ino);
	OK(close(t));
	OK(close(d));
	FAILS(fstat(d, &b), EBADF);
	FAILS(fstat(s, bad_ptr()), EFAULT);
	OK(close(s));
}

/* st_ino is the same before the first byte and after traffic. */
CASE(fstat_across_warm_up)
{
	struct stat a[2], b;
	int fd[2];

	pair_raw(fd);
	OK(fstat(fd[0], &a[0]));
	OK(fstat(fd[1], &a[1]));
	CHECK(a[0].st_ino != a[1].st_ino);
	warm(fd[0], fd[1]);
	for (int i = 0; i < 2; i++) {
		OK(fstat(fd[i], &b));
		EQ(a[i].st_ino, b.st_ino);
		OK(close(fd[i]));
	}
}

CASE(proc_self_fd)
{
	char path[64], target[64] = "";
	int fd[2];

	pair(fd);
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd[0]);
	CHECK(readlink(path, target, sizeof target - 1) > 0);
	EQ(strncmp(target, "socket:[", 8), 0);
	FAILS(open(path, O_RDWR), ENXIO);
	OK(close(fd[0]));
	OK(close(fd[1]));
}

CASE(closed_descriptor)
{
	char b[10] = { 0 };
	struct iovec v = { b, 10 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };
	struct sockaddr_in a = { .sin_family = AF_INET };
	socklen_t n = sizeof a;
	int s = tcp_socket(), x;

	OK(close(s));
	FAILS(read(s, b, 10), EBADF);
	FAILS(write(s, b, 10), EBADF);
	FAILS(readv(s, &v, 1), EBADF);
	FAILS(writev(s, &v, 1), EBADF);
	FAILS(send(s, b, 10, 0), EBADF);
	FAILS(recv(s, b, 10, 0), EBADF);
	FAILS(sendto(s, b, 10, 0, NULL, 0), EBADF);
	FAILS(recvfrom(s, b, 10, 0, NULL, NULL), EBADF);
	FAILS(sendmsg(s, &m, 0), EBADF);
	FAILS(recvmsg(s, &m, 0), EBADF);
	FAILS(connect(s, (void *)&a, n), EBADF);
	FAILS(bind(s, (void *)&a, n), EBADF);
	FAILS(listen(s, 1), EBADF);
	FAILS(accept(s, NULL, NULL), EBADF);
	FAILS(accept4(s, NULL, NULL, 0), EBADF);
	FAILS(shutdown(s, SHUT_WR), EBADF);
	FAILS(getsockname(s, (void *)&a, &n), EBADF);
	FAILS(getpeername(s, (void *)&a, &n), EBADF);
	FAILS(getsockopt(s, SOL_SOCKET, SO_TYPE, &x, &n), EBADF);
	FAILS(setsockopt(s, SOL_SOCKET, SO_KEEPALIVE, &x, sizeof x), EBADF);
	FAILS(fcntl(s, F_GETFL), EBADF);
	FAILS(fcntl(s, F_DUPFD, 0), EBADF);
	FAILS(ioctl(s, FIONREAD, &x), EBADF);
	FAILS(dup(s), EBADF);
	FAILS(dup2(s, 50), EBADF);
	FAILS(close(s), EBADF);
	FAILS(sendfile(s, 0, NULL, 10), EBADF);
	CHECK(!fdopen(s, "r") && errno == EBADF);
	CHECK(dprintf(s, "x") < 0 && errno == EBADF);
	EQ(events_now(s, POLLIN), POLLNVAL);
	/* -1 is a closed descriptor like any other. */
	FAILS(read(-1, b, 10), EBADF);
	FAILS(send(-1, b, 10, 0), EBADF);
	FAILS(recv(INT_MAX, b, 10, 0), EBADF);
	FAILS(accept(INT_MIN, NULL, NULL), EBADF);
}

CASE(not_a_socket)
{
	char b[10];
	struct iovec v = { b, 10 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };
	struct sockaddr_in a = { .sin_family = AF_INET };
	socklen_t n = sizeof a;
	int kinds[3], pp[2], x;

	OK(pipe(pp));
	kinds[0] = pp[0];
	kinds[1] = (int)OK(memfd_create("conf", 0));
	kinds[2] = (int)OK(epoll_create1(0));
	for (int i = 0; i < 3; i++) {
		int s = kinds[i];

		FAILS(send(s, b, 1, 0), ENOTSOCK);
		FAILS(recv(s, b, 1, 0), ENOTSOCK);
		FAILS(sendto(s, b, 1, 0, NULL, 0), ENOTSOCK);
		FAILS(recvfrom(s, b, 1, 0, NULL, NULL), ENOTSOCK);
		FAILS(sendmsg(s, &m, 0), ENOTSOCK);
		FAILS(recvmsg(s, &m, 0), ENOTSOCK);
		FAILS(connect(s, (void *)&a, sizeof a), ENOTSOCK);
		FAILS(bind(s, (void *)&a, sizeof a), ENOTSOCK);
		FAILS(listen(s, 1), ENOTSOCK);
		FAILS(accept(s, NULL, NULL), ENOTSOCK);
		FAILS(shutdown(s, SHUT_RD), ENOTSOCK);
		FAILS(getsockname(s, (void *)&a, &n), ENOTSOCK);
		FAILS(getpeername(s, (void *)&a, &n), ENOTSOCK);
		FAILS(getsockopt(s, SOL_SOCKET, SO_TYPE, &x, &n), ENOTSOCK);
		FAILS(setsockopt(s, SOL_SOCKET, SO_TYPE, &x, sizeof x), ENOTSOCK);
		OK(close(s));
	}
	OK(close(pp[1]));
}

/* Other sockets are none of the library's business. */
CASE(unix_and_udp_sockets)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	socklen_t n = sizeof a;
	int sv[2];

	OK(socketpair(AF_UNIX, SOCK_STREAM, 0, sv));
	PUT(sv[0], 10000, 0);
	GET(sv[1], 10000, 0);
	OK(close(sv[0]));
	GET_EOF(sv[1]);
	OK(close(sv[1]));

	int u = (int)OK(socket(AF_INET, SOCK_DGRAM, 0)), w = (int)OK(socket(AF_INET, SOCK_DGRAM, 0));
	char b[20];
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	OK(bind(u, (void *)&a, sizeof a));
	OK(getsockname(u, (void *)&a, &n));
	OK(connect(w, (void *)&a, sizeof a));
	EQ(send(w, "one", 3, 0), 3);
	EQ(send(w, "", 0, 0), 0);
	EQ(send(w, "three", 5, 0), 5);
	EQ(recv(u, b, 20, MSG_TRUNC), 3);
	EQ(recv(u, b, 20, 0), 0);
	EQ(recv(u, b, 2, MSG_TRUNC), 5);
	OK(close(u));
	OK(close(w));
}

PEERCASE(close_range_closes)
{
	int d = (int)OK(fcntl(s, F_DUPFD, 80));

	PUT(s, 10, 0);
	OK(close_range((unsigned)d, (unsigned)d, 0));
	FAILS(fcntl(d, F_GETFD), EBADF);
	EQ(peer("recv 10"), 10);
	EQ(peer("eof_yet"), 0);
	OK(close_range((unsigned)s, (unsigned)s, CLOSE_RANGE_CLOEXEC));
	EQ(fcntl(s, F_GETFD), FD_CLOEXEC);
	PUT(s, 10, 10);
	EQ(peer("recv 10"), 10);
	OK(close_range((unsigned)s, (unsigned)s, 0));
	FAILS(send(s, "x", 1, MSG_NOSIGNAL), EBADF);
	EQ(peer("drain"), 0);
	FAILS(close_range(5, 4, 0), EINVAL);
}

/* A daemon's start: close all there is, hidden or not, then make connections. */
static void after_everything_is_closed(void)
{
	int fd[2];

	EQ(tcp_socket(), 3);
	OK(close(3));
	for (int i = 0; i < 3; i++) {
		pair(fd);
		PUT(fd[0], 20000, 0);
		GET(fd[1], 20000, 0);
		OK(close(fd[0]));
		GET_EOF(fd[1]);
		OK(close(fd[1]));
	}
}

CASE(close_range_everything)
{
	int fd[2];

	pair(fd);
	pid_t p = (pid_t)OK(fork());
	if (!p) {
		OK(close_range(3, ~0U, 0));
		after_everything_is_closed();
		_exit(0);
	}
	EQ(exit_of(p), 0);
	PUT(fd[0], 10, 0);
	GET(fd[1], 10, 0);
	OK(close(fd[0]));
	GET_EOF(fd[1]);
	OK(close(fd[1]));
}

CASE(closefrom_everything)
{
	int fd[2];

	pair(fd);
	pid_t p = (pid_t)OK(fork());
	if (!p) {
		closefrom(3);
		after_everything_is_closed();
		_exit(0);
	}
	EQ(exit_of(p), 0);
	PUT(fd[1], 10, 0);
	GET(fd[0], 10, 0);
	OK(close(fd[0]));
	OK(close(fd[1]));
}

CASE(close_loop_up_to_the_limit)
{
	int fd[2];

	pair(fd);
	pid_t p = (pid_t)OK(fork());
	if (!p) {
		for (int i = 3; i < 5000; i++)
			close(i);
		after_everything_is_closed();
		_exit(0);
	}
	EQ(exit_of(p), 0);
	PUT(fd[1], 10, 0);
	GET(fd[0], 10, 0);
	OK(close(fd[0]));
	OK(close(fd[1]));
}

/* Wiping all descriptors but the connection must not break the connection. */
PEERCASE(close_all_others)
{
	pid_t p = (pid_t)OK(fork());

	if (!p) {
		EQ(dup2(s, 3), 3);
		OK(close_range(4, ~0U, 0));
		for (int i = 0; i < 10; i++) {
			PUT(3, 1000, (uint64_t)i * 1000);
			GET(3, 1000, (uint64_t)i * 1000);
		}
		_exit(0);
	}
	for (int i = 0; i < 10; i++) {
		EQ(peer("recv 1000"), 1000);
		EQ(peer("send 1000"), 1000);
	}
	EQ(exit_of(p), 0);
	PUT(s, 10, 10000);
	EQ(peer("recv 10"), 10);
	OK(close(s));
	EQ(peer("drain"), 0);
}

CASE(descriptor_limit)
{
	struct sockaddr_in a;
	int l = listener(&a), c = dial(&a), n = 0, used[64];

	/* accept at the limit: EMFILE, and the connection waits in the queue. */
	pid_t p = (pid_t)OK(fork());
	if (!p) {
		struct rlimit rl = { 32, 32 };

		OK(setrlimit(RLIMIT_NOFILE, &rl));
		while (n < 64 && (used[n] = dup(0)) >= 0)
			n++;
		EQ(errno, EMFILE);
		FAILS(accept(l, NULL, NULL), EMFILE);
		FAILS(socket(AF_INET, SOCK_STREAM, 0), EMFILE);
		FAILS(dup(l), EMFILE);
		OK(close(used[--n]));
		int s = (int)OK(accept(l, NULL, NULL));
		PUT(c, 10, 0);
		GET(s, 10, 0);
		_exit(0);
	}
	EQ(exit_of(p), 0);
	OK(close(c));
	OK(close(l));
}
