/* Every call that moves bytes, in many sizes, against the remote end. */
#include "conf.h"

#include <sys/sendfile.h>

/* One call each, partial results allowed: the loop is the same for all. */
typedef ssize_t send_fn(int s, char *b, size_t n);

static ssize_t by_write(int s, char *b, size_t n) { return write(s, b, n); }
static ssize_t by_send(int s, char *b, size_t n) { return send(s, b, n, 0); }
static ssize_t by_sendto(int s, char *b, size_t n) { return sendto(s, b, n, 0, NULL, 0); }

/* Three pieces, the middle one empty. */
static int split(struct iovec v[3], char *b, size_t n)
{
	v[0] = (struct iovec){ b, n / 3 };
	v[1] = (struct iovec){ b, 0 };
	v[2] = (struct iovec){ b + n / 3, n - n / 3 };
	return 3;
}

static ssize_t by_writev(int s, char *b, size_t n)
{
	struct iovec v[3];

	return writev(s, v, split(v, b, n));
}

static ssize_t by_pwritev2(int s, char *b, size_t n)
{
	struct iovec v[3];

	return pwritev2(s, v, split(v, b, n), -1, 0);
}

static ssize_t by_sendmsg(int s, char *b, size_t n)
{
	struct iovec v[3];
	struct msghdr m = { .msg_iov = v };

	m.msg_iovlen = (size_t)split(v, b, n);
	return sendmsg(s, &m, 0);
}

static ssize_t by_sendmmsg(int s, char *b, size_t n)
{
	struct iovec v[2] = { { b, n / 2 }, { b + n / 2, n - n / 2 } };
	struct mmsghdr m[2] = { { .msg_hdr = { .msg_iov = &v[0], .msg_iovlen = 1 } },
				{ .msg_hdr = { .msg_iov = &v[1], .msg_iovlen = 1 } } };
	int r = sendmmsg(s, m, 2, 0);

	if (r <= 0)
		return r;
	EQ(m[0].msg_len, n / 2);
	return r == 1 ? (ssize_t)m[0].msg_len : (ssize_t)(m[0].msg_len + m[1].msg_len);
}

static int temp_file(const char *b, size_t n)
{
	int f = (int)OK(memfd_create("conf", 0));

	EQ(pwrite(f, b, n, 0), n);
	return f;
}

static ssize_t by_sendfile(int s, char *b, size_t n)
{
	int f = temp_file(b, n);
	off_t off = 0;
	ssize_t r = sendfile(s, f, &off, n);

	if (r >= 0)
		EQ(off, r);
	OK(close(f));
	return r;
}

static ssize_t by_splice(int s, char *b, size_t n)
{
	int p[2];
	size_t k = n < 4096 ? n : 4096, done = 0;

	OK(pipe(p));
	EQ(write(p[1], b, k), k);
	while (done < k)
		done += (size_t)OK(splice(p[0], NULL, s, NULL, k - done, SPLICE_F_MOVE));
	OK(close(p[0]));
	OK(close(p[1]));
	return (ssize_t)k;
}

static ssize_t by_dprintf(int s, char *b, size_t n)
{
	size_t k = 0;

	/* %.*s stops at a NUL: send those by write() */
	while (k < n && b[k])
		k++;
	return k ? dprintf(s, "%.*s", (int)k, b) : write(s, b, 1);
}

static ssize_t by_stdio(int s, char *b, size_t n)
{
	FILE *f = fdopen((int)OK(dup(s)), "w");

	CHECK(f);
	EQ(fwrite(b, 1, n, f), n);
	EQ(fclose(f), 0);
	return (ssize_t)n;
}

static const size_t sizes[] = { 1, 2, 3, 7, 16, 100, 1000, 1460, 4095, 4096, 4097, 16384, 65536,
				65537, 200000 };

static void send_all_sizes(int s, send_fn *fn)
{
	static char b[200000];
	uint64_t off = 0;

	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		peer_post("recv %zu", sizes[i]);
		fill(b, sizes[i], off);
		for (size_t done = 0; done < sizes[i];) {
			ssize_t r = fn(s, b + done, sizes[i] - done);

			CHECK(r > 0 && (size_t)r <= sizes[i] - done);
			done += (size_t)r;
		}
		EQ(peer_wait(), sizes[i]);
		off += sizes[i];
	}
	OK(close(s));
	EQ(peer("recv 1"), 0);
}

PEERCASE(send_write) { send_all_sizes(s, by_write); }
PEERCASE(send_send) { send_all_sizes(s, by_send); }
PEERCASE(send_sendto) { send_all_sizes(s, by_sendto); }
PEERCASE(send_writev) { send_all_sizes(s, by_writev); }
PEERCASE(send_pwritev2) { send_all_sizes(s, by_pwritev2); }
PEERCASE(send_sendmsg) { send_all_sizes(s, by_sendmsg); }
PEERCASE(send_sendmmsg) { send_all_sizes(s, by_sendmmsg); }
PEERCASE(send_sendfile) { send_all_sizes(s, by_sendfile); }
PEERCASE(send_splice) { send_all_sizes(s, by_splice); }
PEERCASE(send_dprintf) { send_all_sizes(s, by_dprintf); }
PEERCASE(send_stdio) { send_all_sizes(s, by_stdio); }

static ssize_t rd_read(int s, char *b, size_t n) { return read(s, b, n); }
static ssize_t rd_recv(int s, char *b, size_t n) { return recv(s, b, n, 0); }
static ssize_t rd_waitall(int s, char *b, size_t n) { return recv(s, b, n, MSG_WAITALL); }

static ssize_t rd_recvfrom(int s, char *b, size_t n)
{
	struct sockaddr_in a;
	socklen_t len = sizeof a;

	memset(&a, 0x55, sizeof a);
	ssize_t r = recvfrom(s, b, n, 0, (void *)&a, &len);
	/* TCP names no sender: the length is set to 0, the address not written. */
	EQ(len, 0);
	EQ(a.sin_family, 0x5555);
	return r;
}

static ssize_t rd_readv(int s, char *b, size_t n)
{
	struct iovec v[3];

	return readv(s, v, split(v, b, n));
}

static ssize_t rd_preadv2(int s, char *b, size_t n)
{
	struct iovec v[3];

	return preadv2(s, v, split(v, b, n), -1, 0);
}

static ssize_t rd_recvmsg(int s, char *b, size_t n)
{
	struct sockaddr_in a;
	struct iovec v[3];
	char ctl[64];
	struct msghdr m = { .msg_iov = v, .msg_name = &a, .msg_namelen = sizeof a,
			    .msg_control = ctl, .msg_controllen = sizeof ctl, .msg_flags = -1 };

	m.msg_iovlen = (size_t)split(v, b, n);
	ssize_t r = recvmsg(s, &m, 0);
	EQ(m.msg_namelen, 0);
	EQ(m.msg_controllen, 0);
	EQ(m.msg_flags, 0);
	return r;
}

static ssize_t rd_recvmmsg(int s, char *b, size_t n)
{
	struct iovec v[2] = { { b, n }, { NULL, 0 } };
	struct mmsghdr m[1] = { { .msg_hdr = { .msg_iov = v, .msg_iovlen = 2 } } };

	EQ(recvmmsg(s, m, 1, 0, NULL), 1);
	return m[0].msg_len;
}

static ssize_t rd_splice(int s, char *b, size_t n)
{
	int p[2];
	size_t k = n < 4096 ? n : 4096;

	OK(pipe(p));
	ssize_t r = splice(s, NULL, p[1], NULL, k, SPLICE_F_MOVE);
	CHECK(r > 0);
	EQ(read(p[0], b, k), r);
	OK(close(p[0]));
	OK(close(p[1]));
	return r;
}

static void recv_all_sizes(int s, send_fn *fn)
{
	static char b[200000];
	uint64_t off = 0;

	for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		peer_post("send %zu", sizes[i]);
		for (size_t done = 0; done < sizes[i];) {
			ssize_t r = fn(s, b + done, sizes[i] - done);

			CHECK(r > 0 && (size_t)r <= sizes[i] - done);
			done += (size_t)r;
		}
		SAME(b, sizes[i], off);
		EQ(peer_wait(), sizes[i]);
		off += sizes[i];
	}
	EQ(peer("close"), 0);
	EQ(fn == rd_splice ? 0 : fn(s, b, 10), 0);
	OK(close(s));
}

PEERCASE(recv_read) { recv_all_sizes(s, rd_read); }
PEERCASE(recv_recv) { recv_all_sizes(s, rd_recv); }
PEERCASE(recv_waitall) { recv_all_sizes(s, rd_waitall); }
PEERCASE(recv_recvfrom) { recv_all_sizes(s, rd_recvfrom); }
PEERCASE(recv_readv) { recv_all_sizes(s, rd_readv); }
PEERCASE(recv_preadv2) { recv_all_sizes(s, rd_preadv2); }
PEERCASE(recv_recvmsg) { recv_all_sizes(s, rd_recvmsg); }
PEERCASE(recv_recvmmsg) { recv_all_sizes(s, rd_recvmmsg); }
PEERCASE(recv_splice) { recv_all_sizes(s, rd_splice); }

/* Each way to send against each way to receive, both ends here. */
CASE(all_against_all)
{
	send_fn *snd[] = { by_write, by_send, by_sendto, by_writev, by_pwritev2, by_sendmsg,
			   by_sendmmsg, by_sendfile, by_splice, by_dprintf, by_stdio };
	send_fn *rcv[] = { rd_read, rd_recv, rd_waitall, rd_recvfrom, rd_readv, rd_preadv2,
			   rd_recvmsg, rd_recvmmsg, rd_splice };
	size_t some[] = { 1, 5, 777, 4096 };
	uint64_t off[2] = { 0 };
	char b[4096];
	int fd[2];

	pair(fd);
	for (size_t i = 0; i < sizeof snd / sizeof *snd; i++)
		for (size_t j = 0; j < sizeof rcv / sizeof *rcv; j++)
			for (int k = 0; k < 4; k++) {
				int way = (int)(i + j) & 1;
				size_t n = some[k], done = 0;

				fill(b, n, off[way]);
				while (done < n)
					done += (size_t)OK(snd[i](fd[way], b + done, n - done));
				memset(b, 0, n);
				for (done = 0; done < n;)
					done += (size_t)OK(rcv[j](fd[!way], b + done, n - done));
				SAME(b, n, off[way]);
				off[way] += n;
			}
	OK(close(fd[0]));
	GET_EOF(fd[1]);
	OK(close(fd[1]));
}

CASE(v6_pair)
{
	int fd[2];

	if (!have_v6())
		conf_skip("no IPv6");
	pair_v6(fd);
	PUT(fd[0], 3000, 0);
	GET(fd[1], 3000, 0);
	PUT(fd[1], 5000, 0);
	GET(fd[0], 5000, 0);
	OK(close(fd[1]));
	GET_EOF(fd[0]);
	OK(close(fd[0]));
}

CASE(nonblocking_pair)
{
	int fd[2];
	char b[10];

	pair_nb(fd);
	FAILS(recv(fd[0], b, 10, 0), EAGAIN);
	FAILS(read(fd[1], b, 10), EAGAIN);
	PUT(fd[0], 300, 0);
	wait_unread(fd[1], 300);
	GET(fd[1], 300, 0);
	FAILS(recv(fd[1], b, 10, 0), EAGAIN);
	OK(close(fd[0]));
	wait_readable(fd[1]);
	GET_EOF(fd[1]);
	OK(close(fd[1]));
}

/* A blocking send takes all, however slow the reader is. */
PEERCASE(large_blocking_send)
{
	size_t n = 12 << 20;
	char *b = malloc(n);

	CHECK(b);
	fill(b, n, 0);
	peer_post("@recv %zu", n);
	EQ(send(s, b, n, 0), n);
	EQ(peer_wait(), n);
	free(b);
	OK(close(s));
}

PEERCASE(large_recv_after_close)
{
	peer_post("send %d", 3 << 20);
	peer_post("close");
	GET(s, 3 << 20, 0);
	GET_EOF(s);
	GET_EOF(s);
	OK(close(s));
	EQ(peer_wait(), 3 << 20);
	EQ(peer_wait(), 0);
}

PEERCASE(large_send_then_close)
{
	PUT(s, 100000, 0);
	OK(close(s));
	EQ(peer("drain"), 100000);
}

PEERCASE(nonblocking_send_is_partial)
{
	size_t n = 64 << 20;
	char *b = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
		       -1, 0);

	CHECK(b != MAP_FAILED);
	set_nonblock(s, 1);
	fill(b, 8 << 20, 0);
	ssize_t r = send(s, b, n, 0);
	CHECK(r > 0 && r < 8 << 20);
	uint64_t sum = (uint64_t)r + fill_up(s, (uint64_t)r);
	for (int i = 0; i < 3; i++) {
		struct iovec v = { b, 1 };

		/* Should it have found room again, one byte more. */
		do {
			fill(b, 1, sum);
			r = i == 0 ? send(s, b, 1, 0) : i == 1 ? write(s, b, 1) : writev(s, &v, 1);
			sum += r == 1;
		} while (r == 1);
		EQ(errno, EAGAIN);
		EQ(r, -1);
	}
	EQ(peer("recv %zu", (size_t)sum), sum);
	CHECK(wait_events(s, POLLOUT) == POLLOUT);
	PUT(s, 10, sum);
	OK(close(s));
	EQ(peer("drain"), 10);
}

CASE(many_iovecs)
{
	static char b[IOV_MAX * 20];
	struct iovec v[IOV_MAX + 1];
	volatile int negative = -1;	/* volatile: the compiler would warn */
	int fd[2];

	pair(fd);
	fill(b, sizeof b, 0);
	for (int i = 0; i <= IOV_MAX; i++)
		v[i] = (struct iovec){ b + 20 * (i % IOV_MAX), 20 };
	EQ(writev(fd[0], v, IOV_MAX), sizeof b);
	wait_unread(fd[1], sizeof b);
	memset(b, 0, sizeof b);
	EQ(readv(fd[1], v, IOV_MAX), sizeof b);
	SAME(b, sizeof b, 0);
	FAILS(writev(fd[0], v, IOV_MAX + 1), EINVAL);
	FAILS(readv(fd[0], v, IOV_MAX + 1), EINVAL);
	FAILS(sendmsg(fd[0], &(struct msghdr){ .msg_iov = v, .msg_iovlen = IOV_MAX + 1 }, 0),
	      EMSGSIZE);
	FAILS(recvmsg(fd[0], &(struct msghdr){ .msg_iov = v, .msg_iovlen = IOV_MAX + 1 }, 0),
	      EMSGSIZE);
	FAILS(writev(fd[0], v, negative), EINVAL);
	FAILS(readv(fd[0], v, negative), EINVAL);
	OK(close(fd[0]));
	OK(close(fd[1]));
}

CASE(sendfile_offsets)
{
	char b[1000];
	int fd[2];
	off_t off = 100;

	pair(fd);
	fill(b, sizeof b, 0);
	int f = temp_file(b, sizeof b);
	/* With an offset the file position stays; past the end it is short, then 0. */
	EQ(sendfile(fd[0], f, &off, 50), 50);
	EQ(off, 150);
	EQ(lseek(f, 0, SEEK_CUR), 0);
	GET(fd[1], 50, 100);
	EQ(lseek(f, 900, SEEK_SET), 900);
	EQ(sendfile(fd[0], f, NULL, 5000), 100);
	EQ(lseek(f, 0, SEEK_CUR), 1000);
	EQ(sendfile(fd[0], f, NULL, 5000), 0);
	GET(fd[1], 100, 900);
	FAILS(sendfile(fd[0], -1, NULL, 10), EBADF);
	off = -5;
	FAILS(sendfile(fd[0], f, &off, 10), EINVAL);
	OK(close(f));
	OK(close(fd[0]));
	GET_EOF(fd[1]);
	OK(close(fd[1]));
}

CASE(splice_nonblocking)
{
	int fd[2], p[2];
	char b[100];
	loff_t off = 0;

	pair(fd);
	OK(pipe(p));
	/* SPLICE_F_NONBLOCK speaks of the pipe; the socket has its own O_NONBLOCK. */
	set_nonblock(fd[1], 1);
	FAILS(splice(fd[1], NULL, p[1], NULL, 100, 0), EAGAIN);
	set_nonblock(fd[1], 0);
	FAILS(splice(fd[1], &off, p[1], NULL, 100, 0), EINVAL);
	PUT(fd[0], 100, 0);
	wait_unread(fd[1], 100);
	EQ(splice(fd[1], NULL, p[1], NULL, 60, SPLICE_F_NONBLOCK), 60);
	EQ(recv(fd[1], b + 60, 40, 0), 40);
	EQ(read(p[0], b, 100), 60);
	SAME(b, 100, 0);
	/* The end of the stream is 0 for splice too. */
	OK(close(fd[0]));
	EQ(splice(fd[1], NULL, p[1], NULL, 60, 0), 0);
	OK(close(fd[1]));
	OK(close(p[0]));
	OK(close(p[1]));
}

CASE(splice_both_ways)
{
	int a[2], b[2], p[2];

	/* A proxy: from one connection through a pipe to the next. */
	pair(a);
	pair(b);
	OK(pipe(p));
	for (int i = 0; i < 20; i++) {
		size_t n = 1000;

		PUT(a[0], n, (uint64_t)i * 1000);
		wait_unread(a[1], (int)n);
		EQ(splice(a[1], NULL, p[1], NULL, n, 0), n);
		for (size_t done = 0; done < n;)
			done += (size_t)OK(splice(p[0], NULL, b[0], NULL, n - done, 0));
		GET(b[1], n, (uint64_t)i * 1000);
	}
	for (int i = 0; i < 2; i++) {
		OK(close(a[i]));
		OK(close(b[i]));
		OK(close(p[i]));
	}
}

CASE(stdio_streams)
{
	int fd[2];
	char line[64];

	pair(fd);
	FILE *in = fdopen(fd[0], "r"), *out = fdopen((int)OK(dup(fd[0])), "w");
	CHECK(in && out);
	EQ(fileno(in), fd[0]);
	for (int i = 0; i < 10; i++) {
		CHECK(fprintf(out, "line %d\n", i) > 0);
		EQ(fflush(out), 0);
		int n = snprintf(line, sizeof line, "line %d\n", i);
		char got[64] = "";
		EQ(recv(fd[1], got, (size_t)n, MSG_WAITALL), n);
		EQ(strcmp(line, got), 0);
		EQ(dprintf(fd[1], "reply %d\n", i), 8);
		CHECK(fgets(line, sizeof line, in));
		EQ(line[6], '0' + i);
	}
	/* Two lines in one segment come out one by one. */
	EQ(dprintf(fd[1], "one\ntwo\n"), 8);
	CHECK(fgets(line, sizeof line, in) && !strcmp(line, "one\n"));
	CHECK(fgets(line, sizeof line, in) && !strcmp(line, "two\n"));
	EQ(fclose(out), 0);
	EQ(events_now(fd[1], POLLIN | POLLRDHUP), 0);
	OK(shutdown(fd[1], SHUT_WR));
	CHECK(!fgets(line, sizeof line, in));
	CHECK(feof(in) && !ferror(in));
	EQ(fclose(in), 0);
	GET_EOF(fd[1]);
	OK(close(fd[1]));
}

CASE(stdio_getc_putc)
{
	int fd[2];

	pair(fd);
	FILE *a = fdopen(fd[0], "w"), *b = fdopen(fd[1], "r");
	CHECK(a && b);
	for (int i = 0; i < 20000; i++)
		EQ(putc(pattern((uint64_t)i), a), pattern((uint64_t)i));
	EQ(fclose(a), 0);
	for (int i = 0; i < 20000; i++)
		EQ(getc(b), pattern((uint64_t)i));
	EQ(getc(b), EOF);
	EQ(fclose(b), 0);
}

PEERCASE(msg_more_and_cork)
{
	char b[100];
	int one = 1;

	fill(b, 100, 0);
	EQ(send(s, b, 30, MSG_MORE), 30);
	EQ(send(s, b + 30, 30, 0), 30);
	EQ(peer("recv 60"), 60);
	OK(setsockopt(s, IPPROTO_TCP, TCP_CORK, &one, sizeof one));
	EQ(send(s, b + 60, 20, 0), 20);
	EQ(send(s, b + 80, 20, 0), 20);
	one = 0;
	OK(setsockopt(s, IPPROTO_TCP, TCP_CORK, &one, sizeof one));
	EQ(peer("recv 40"), 40);
	/* Even with MSG_MORE a close pushes it out. */
	fill(b, 10, 100);
	EQ(send(s, b, 10, MSG_MORE), 10);
	OK(close(s));
	EQ(peer("drain"), 10);
}

CASE(sendmmsg_recvmmsg_vectors)
{
	char b[90], c[90];
	struct iovec v[9];
	struct mmsghdr m[9];
	int fd[2];

	pair(fd);
	fill(b, 90, 0);
	memset(m, 0, sizeof m);
	for (int i = 0; i < 9; i++) {
		v[i] = (struct iovec){ b + 10 * i, 10 };
		m[i].msg_hdr.msg_iov = &v[i];
		m[i].msg_hdr.msg_iovlen = 1;
	}
	EQ(sendmmsg(fd[0], m, 9, 0), 9);
	for (int i = 0; i < 9; i++)
		EQ(m[i].msg_len, 10);
	EQ(sendmmsg(fd[0], m, 0, 0), 0);
	wait_unread(fd[1], 90);
	/* 85 of 90 read before: three messages of 10 each find only 5 bytes. */
	EQ(recv(fd[1], c, 65, 0), 65);
	SAME(c, 65, 0);
	for (int i = 0; i < 9; i++)
		v[i].iov_base = c + 10 * i;
	EQ(recvmmsg(fd[1], m, 9, MSG_DONTWAIT, NULL), 3);
	EQ(m[0].msg_len, 10);
	EQ(m[1].msg_len, 10);
	EQ(m[2].msg_len, 5);
	SAME(c, 25, 65);
	FAILS(recvmmsg(fd[1], m, 9, MSG_DONTWAIT, NULL), EAGAIN);
	/* WAITFORONE: blocks for the first message only. */
	PUT(fd[0], 15, 90);
	wait_unread(fd[1], 15);
	EQ(recvmmsg(fd[1], m, 9, MSG_WAITFORONE, NULL), 2);
	EQ(m[1].msg_len, 5);
	SAME(c, 15, 90);
	OK(close(fd[0]));
	EQ(recvmmsg(fd[1], m, 1, 0, NULL), 1);
	EQ(m[0].msg_len, 0);
	OK(close(fd[1]));
}

/* A stream socket has no position. */
CASE(positions_are_espipe)
{
	char b[4] = { 0 };
	struct iovec v = { b, 4 };
	int fd[2];

	pair(fd);
	FAILS(lseek(fd[0], 0, SEEK_CUR), ESPIPE);
	FAILS(pread(fd[0], b, 4, 0), ESPIPE);
	FAILS(pwrite(fd[0], b, 4, 0), ESPIPE);
	FAILS(preadv(fd[0], &v, 1, 0), ESPIPE);
	FAILS(pwritev(fd[0], &v, 1, 0), ESPIPE);
	FAILS(ftruncate(fd[0], 0), EINVAL);
	FAILS(fsync(fd[0]), EINVAL);
	EQ(unread(fd[1]), 0);
	OK(close(fd[0]));
	OK(close(fd[1]));
}
