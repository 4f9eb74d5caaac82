/* Data in and out. */
#include "coding.h"
#include "wrap.h"
#include "vs_io.h"
#include <stdlib.h>
#include <string.h>

/* ---- in */

ssize_t __wrap_read(int fd, void *buf, size_t n)
{
	struct vsock *v = fdtab_vsock(fd);

	/* read of nothing returns at once, where recv of nothing waits. */
	if (likely(!v) || unlikely(!n))
		return sys_read(fd, buf, n);
	return vs_recv(v, fd, buf, n, 0);
}

ssize_t __wrap_recv(int fd, void *buf, size_t n, int flags)
{
	struct vsock *v = fdtab_vsock(fd);

	if (likely(!v))
		return sys_recv(fd, buf, n, flags);
	return vs_recv(v, fd, buf, n, flags);
}

/* offset -1: as readv and writev. The flags but NOWAIT say nothing about sockets. */
ssize_t __wrap_preadv2(int fd, const struct iovec *iov, int cnt, off_t off, int flags)
{
	struct vsock *v = fdtab_vsock(fd);

	if (likely(!v) || off != -1 || flags & ~(RWF_NOWAIT | RWF_HIPRI))
		return sys_preadv2(fd, iov, cnt, off, flags);
	return vs_recv_any(v, fd, (struct io_op){ .kind = IO_VEC, .iov = iov, .cnt = cnt,
						  .flags = flags & RWF_NOWAIT ? MSG_DONTWAIT : 0 });
}

ssize_t __wrap_preadv64v2(int fd, const struct iovec *iov, int cnt, off_t off, int flags)
{
	return __wrap_preadv2(fd, iov, cnt, off, flags);
}

ssize_t __wrap_readv(int fd, const struct iovec *iov, int cnt)
{
	struct vsock *v = fdtab_vsock(fd);

	if (likely(!v))
		return sys_readv(fd, iov, cnt);
	return vs_recv_any(v, fd, (struct io_op){ .kind = IO_VEC, .iov = iov, .cnt = cnt });
}

ssize_t __wrap_recvmsg(int fd, struct msghdr *msg, int flags)
{
	struct vsock *v = fdtab_vsock(fd);

	if (likely(!v))
		return sys_recvmsg(fd, msg, flags);
	return vs_recv_any(v, fd, (struct io_op){ .kind = IO_MSG, .flags = flags, .msg = msg });
}

ssize_t __wrap_recvfrom(int fd, void *buf, size_t n, int flags, struct sockaddr *addr, socklen_t *len)
{
	struct vsock *v = fdtab_vsock(fd);

	if (likely(!v))
		return sys_recvfrom(fd, buf, n, flags, addr, len);
	if (!addr)
		return vs_recv(v, fd, buf, n, flags);
	return vs_recv_any(v, fd, (struct io_op){ .kind = IO_FROM, .flags = flags, .one = { buf, n },
						  .addr = addr, .len = len });
}

static bool expired(uint64_t end)
{
	return end && sys_now_ns() >= end;
}

int __wrap_recvmmsg(int fd, struct mmsghdr *vec, unsigned int n, int flags, struct timespec *tmo)
{
	struct vsock *v = fdtab_vsock(fd);
	uint64_t end = 0;
	unsigned int i;

	if (likely(!v))
		return sys_recvmmsg(fd, vec, n, flags, tmo);
	if (tmo)
		end = sys_now_ns() + (uint64_t)tmo->tv_sec * 1000000000u + (uint64_t)tmo->tv_nsec;
	for (i = 0; i < n && i < UIO_MAXIOV; i++) {
		int f = flags & ~MSG_WAITFORONE;
		ssize_t r = __wrap_recvmsg(fd, &vec[i].msg_hdr,
					   f | (i && flags & MSG_WAITFORONE ? MSG_DONTWAIT : 0));

		if (r < 0)
			return i ? (int)i : -1;
		vec[i].msg_len = (unsigned int)r;
		if (expired(end))
			return (int)i + 1;
	}
	return (int)i;
}

/* ---- out: the plain time costs two atomic instructions around the kernel's call */

#define PLAIN_SEND(v, call) do {			\
	if (!vs_live(v) && vs_tx_enter_plain(v)) {	\
		_Atomic uint32_t *in_ VS_COUNT_GUARD = &v->tx0; \
		ssize_t r_ = (call);			\
		int e_ = errno;				\
							\
		in_ = NULL;				\
							\
		vs_tx_leave_plain(v, r_ > 0 ? r_ : 0);	\
		errno = e_;				\
		return r_;				\
	}						\
} while (0)

ssize_t __wrap_write(int fd, const void *buf, size_t n)
{
	struct vsock *v = fdtab_vsock(fd);

	if (likely(!v))
		return sys_write(fd, buf, n);
	PLAIN_SEND(v, sys_write(fd, buf, n));
	return vs_send(v, fd, buf, n, 0);
}

ssize_t __wrap_send(int fd, const void *buf, size_t n, int flags)
{
	struct vsock *v = fdtab_vsock(fd);

	if (likely(!v))
		return sys_send(fd, buf, n, flags);
	PLAIN_SEND(v, sys_send(fd, buf, n, flags));
	return vs_send(v, fd, buf, n, flags);
}

ssize_t __wrap_writev(int fd, const struct iovec *iov, int cnt)
{
	struct vsock *v = fdtab_vsock(fd);

	if (likely(!v))
		return sys_writev(fd, iov, cnt);
	PLAIN_SEND(v, sys_writev(fd, iov, cnt));
	return vs_send_live(v, fd, (struct io_op){ .kind = IO_VEC, .iov = iov, .cnt = cnt });
}

ssize_t __wrap_pwritev2(int fd, const struct iovec *iov, int cnt, off_t off, int flags)
{
	struct vsock *v = fdtab_vsock(fd);

	if (likely(!v) || off != -1 || flags & ~(RWF_NOWAIT | RWF_HIPRI | RWF_DSYNC | RWF_SYNC))
		return sys_pwritev2(fd, iov, cnt, off, flags);
	PLAIN_SEND(v, sys_pwritev2(fd, iov, cnt, off, flags));
	return vs_send_live(v, fd, (struct io_op){ .kind = IO_VEC, .iov = iov, .cnt = cnt,
						   .flags = flags & RWF_NOWAIT ? MSG_DONTWAIT : 0 });
}

ssize_t __wrap_pwritev64v2(int fd, const struct iovec *iov, int cnt, off_t off, int flags)
{
	return __wrap_pwritev2(fd, iov, cnt, off, flags);
}

ssize_t __wrap_sendto(int fd, const void *buf, size_t n, int flags, const struct sockaddr *addr, socklen_t len)
{
	struct vsock *v = fdtab_vsock(fd);

	if (likely(!v) || flags & MSG_FASTOPEN)
		return sys_sendto(fd, buf, n, flags, addr, len);
	PLAIN_SEND(v, sys_sendto(fd, buf, n, flags, addr, len));
	return vs_send_live(v, fd, (struct io_op){ .kind = IO_FROM, .flags = flags,
						   .one = { (void *)(uintptr_t)buf, n },
						   .addr = (struct sockaddr *)(uintptr_t)addr, .cnt = (int)len });
}

/* A descriptor of ours given to a stranger: his bytes would pass us by. */
static void passed(const struct msghdr *msg)
{
	struct cmsghdr *c;

	for (c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR((struct msghdr *)(uintptr_t)msg, c)) {
		size_t i, n;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS ||
		    c->cmsg_len < CMSG_LEN(0))
			continue;
		n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (i = 0; i < n; i++) {
			struct vsock *v;
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			v = fdtab_vsock(fd);
			if (v && atomic_load(&v->kind) != VS_LISTEN) {
				vs_settle(v);
				vs_demote(v, REASON_PASSED);
			}
		}
	}
}

/*
 * Before it goes: what is passed must be the connection, not the base of a ring.
 * The kernel has not checked the pointer yet; only who has rings pays for that.
 */
static void about_to_pass(const struct msghdr *msg)
{
	if (unlikely(atomic_load_explicit(&vs_ring_count, memory_order_relaxed) ||
		     atomic_load_explicit(&coding_count_now, memory_order_relaxed)) &&
	    sys_readable_word(&msg->msg_controllen) == 0 && msg->msg_controllen)
		passed(msg);
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *msg, int flags)
{
	struct vsock *v = fdtab_vsock(fd);
	ssize_t r;

	if (likely(!v)) {
		about_to_pass(msg);
		r = sys_sendmsg(fd, msg, flags);
		if (unlikely(r >= 0 && msg->msg_controllen))
			passed(msg);
		return r;
	}
	if (flags & MSG_FASTOPEN)
		return sys_sendmsg(fd, msg, flags);
	PLAIN_SEND(v, sys_sendmsg(fd, msg, flags));
	return vs_send_live(v, fd, (struct io_op){ .kind = IO_MSG, .flags = flags,
						   .msg = (struct msghdr *)(uintptr_t)msg });
}

int __wrap_sendmmsg(int fd, struct mmsghdr *vec, unsigned int n, int flags)
{
	struct vsock *v = fdtab_vsock(fd);
	unsigned int i;
	int k, r;

	if (likely(!v)) {
		for (i = 0; i < n; i++)
			about_to_pass(&vec[i].msg_hdr);
		r = sys_sendmmsg(fd, vec, n, flags);
		for (k = 0; k < r; k++)
			if (vec[k].msg_hdr.msg_controllen)
				passed(&vec[k].msg_hdr);
		return r;
	}
	for (i = 0; i < n && i < UIO_MAXIOV; i++) {
		ssize_t s = __wrap_sendmsg(fd, &vec[i].msg_hdr, flags);

		if (s < 0)
			return i ? (int)i : -1;
		vec[i].msg_len = (unsigned int)s;
	}
	return (int)i;
}

ssize_t __wrap_sendfile(int out, int in, off_t *off, size_t n)
{
	struct vsock *v = fdtab_vsock(out);

	if (likely(!v))
		return sys_sendfile(out, in, off, n);
	PLAIN_SEND(v, sys_sendfile(out, in, off, n));
	return vs_sendfile(v, out, in, off, n);
}

ssize_t __wrap_sendfile64(int out, int in, off_t *off, size_t n)
{
	return __wrap_sendfile(out, in, off, n);	/* off_t has 64 bits where we build */
}

ssize_t __wrap_splice(int in, off_t *ioff, int out, off_t *ooff, size_t n, unsigned int flags)
{
	struct vsock *v = fdtab_vsock(in), *w = fdtab_vsock(out);

	if (v) {
		vs_settle(v);
		vs_demote(v, REASON_SPLICE);
	}
	if (w) {
		vs_settle(w);
		vs_demote(w, REASON_SPLICE);
	}
	return sys_splice(in, ioff, out, ooff, n, flags);
}

int __wrap_vdprintf(int fd, const char *fmt, va_list ap)
{
	struct vsock *v = fdtab_vsock(fd);
	char *s = NULL, *p;
	int n, left, e;

	if (likely(!v))
		return sys_vdprintf(fd, fmt, ap);
	n = vasprintf(&s, fmt, ap);
	if (n < 0)
		return -1;
	for (p = s, left = n; left > 0;) {
		ssize_t r = __wrap_write(fd, p, (size_t)left);

		if (r < 0) {
			e = errno;
			free(s);
			errno = e;
			return -1;
		}
		p += r;
		left -= (int)r;
	}
	free(s);
	return n;
}

int __wrap_dprintf(int fd, const char *fmt, ...)
{
	va_list ap;
	int r;

	va_start(ap, fmt);
	r = __wrap_vdprintf(fd, fmt, ap);
	va_end(ap);
	return r;
}

/* ---- fortified names: the check is theirs, the call is ours */

static void check(size_t n, size_t size)
{
	if (n > size) {
		static const char msg[] = "*** buffer overflow detected ***: terminated\n";

		if (sys_write(2, msg, sizeof(msg) - 1) < 0)
			abort();
		abort();
	}
}

ssize_t __wrap___read_chk(int fd, void *buf, size_t n, size_t size)
{
	check(n, size);
	return __wrap_read(fd, buf, n);
}

ssize_t __wrap___recv_chk(int fd, void *buf, size_t n, size_t size, int flags)
{
	check(n, size);
	return __wrap_recv(fd, buf, n, flags);
}

ssize_t __wrap___recvfrom_chk(int fd, void *buf, size_t n, size_t size, int flags,
			      struct sockaddr *addr, socklen_t *len)
{
	check(n, size);
	return __wrap_recvfrom(fd, buf, n, flags, addr, len);
}

int __wrap___poll_chk(struct pollfd *fds, nfds_t n, int tmo, size_t size)
{
	check(n, size / sizeof(*fds));
	return __wrap_poll(fds, n, tmo);
}

int __wrap___ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *tmo,
		       const sigset_t *mask, size_t size)
{
	check(n, size / sizeof(*fds));
	return __wrap_ppoll(fds, n, tmo, mask);
}

int __wrap___vdprintf_chk(int fd, int flag, const char *fmt, va_list ap)
{
	(void)flag;
	return __wrap_vdprintf(fd, fmt, ap);
}

int __wrap___dprintf_chk(int fd, int flag, const char *fmt, ...)
{
	va_list ap;
	int r;

	(void)flag;
	va_start(ap, fmt);
	r = __wrap_vdprintf(fd, fmt, ap);
	va_end(ap);
	return r;
}
