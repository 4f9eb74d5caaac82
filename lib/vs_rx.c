/* Receiving. */
#include "coding.h"
#include "vring.h"
#include "vs_int.h"

static ssize_t rx_kernel(int fd, struct io_op *op, size_t done)
{
	struct msghdr m = { 0 };
	struct rest rest;
	ssize_t r;

	if (done) {
		if (!vs_rest_of(op, done, &rest))
			return -1;
		m.msg_iov = rest.iov;
		m.msg_iovlen = (size_t)rest.cnt;
		r = sys_recvmsg(fd, &m, op->flags);
		vs_rest_free(&rest);
		return r;
	}
	switch (op->kind) {
	case IO_VEC:
		return sys_readv(fd, op->iov, op->cnt);
	case IO_MSG:
		return sys_recvmsg(fd, op->msg, op->flags);
	case IO_FROM:
		return sys_recvfrom(fd, op->one.iov_base, op->one.iov_len, op->flags,
				    op->addr, op->len);
	default:
		return sys_recv(fd, op->one.iov_base, op->one.iov_len, op->flags);
	}
}

static ssize_t rx_call(struct vsock *v, int fd, struct io_op *op, size_t done, bool *moved)
{
	struct vring *vr = vring_of(v);
	_Atomic uint64_t *c VS_RX_GUARD = NULL;
	ssize_t r = IO_NOCALL;

	if (vr)
		return vring_recv(v, vr, fd, op, done, moved);
	if (vs_coded(v))
		return vs_mending(v) ? IO_NOCALL : coding_recv(v, fd, op, done, moved);
	c = vs_rx_enter(v);
	/* It may have become coded just now. */
	if (!vs_mending(v) && !vs_coded(v))
		r = rx_kernel(fd, op, done);
	vs_rx_took(c, vs_rx_consumed(r, op->flags));
	c = NULL;
	return r;
}

/*
 * A signal that comes while we look does not end the call, as one that came a moment
 * before it would not have.  Waiting for all there is to come is the kernel's.
 */
ssize_t vs_recv_spin(struct vsock *v, int fd, void *buf, size_t n, int flags)
{
	struct spin_wait w;
	bool hit = false;
	ssize_t r;

	if (flags & MSG_WAITALL)
		return sys_recv(fd, buf, n, flags);
	r = sys_recv(fd, buf, n, flags | MSG_DONTWAIT);
	if (r >= 0 || errno != EAGAIN || vs_nonblocking(fd, flags))
		return r;
	if (spin_begin(&w, &v->tcp_spin, 0, NULL)) {
		do {
			r = sys_recv(fd, buf, n, flags | MSG_DONTWAIT);
			hit = r >= 0 || errno != EAGAIN || !vs_rx_fast(v);
		} while (!hit && spin_more(&w, SPIN_SYSCALL));
	}
	/* A link that is being left: the caller looks again. */
	if (!hit)
		r = sys_recv(fd, buf, n, flags);
	else if (r < 0 && errno == EAGAIN)
		r = IO_NOCALL;
	spin_end(&w);
	return r;
}

/*
 * The number was closed where we do not see it (inside libc or a library) and
 * is something else now: it is not ours any more.
 */
static ssize_t vs_stale(struct vsock *v, int fd, struct io_op *op)
{
	if (fdtab_vsock(fd) == v)
		vs_abandon(fd);
	if (op->kind == IO_BUF && !op->flags)
		return sys_read(fd, op->one.iov_base, op->one.iov_len);
	return rx_kernel(fd, op, 0);
}

/*
 * What had arrived on the link before is on its way again.  A program that was told
 * of it may take EAGAIN for an error, as the kernel never says that then: so a
 * receive that does not block waits for it, too, for a moment after the break.
 */
#define OWED_NS	50000000

static bool owed(struct vsock *v, struct vstate *st, int fd)
{
	uint64_t more = (atomic_load(&st->owed) - vs_rx_off(v)) & RX_MASK;

	if (atomic_load(&st->owed) && more && more <= RX_MASK / 2)
		return true;
	/* The link being left may not have been counted yet. */
	return vs_mending(v) && (vring_of(v) ? vring_inq(v) > 0 : sys_inq(fd) > 0);
}

/* EAGAIN?  True: not yet, look again. */
static bool soon(struct vsock *v, int fd)
{
	struct vstate *st = atomic_load(&v->st);
	uint64_t now = sys_now_ns(), end;

	if (!st || atomic_load(&st->phase) & PH_NOREP)
		return false;
	end = atomic_load(&st->broke_ns) + OWED_NS;
	if (now >= end || !owed(v, st, fd)) {
		if (!vs_mending(v))
			atomic_store(&st->owed, 0);
		return false;
	}
	if (vs_mending(v))
		return vs_wait_mend(v, end, true) != EBADF;
	sys_nap_us(20);
	return true;
}

static ssize_t rx_post(struct vsock *v, int fd, struct io_op op, ssize_t r, bool moved)
{
	uint64_t end = 0;
	struct pollfd p;
	size_t done = 0;
	bool waited = false;
	int e;

	/* Being upgraded: microseconds, and then the one way or the other. */
	while (r == IO_NOCALL && atomic_load(&v->mode) == VS_SWITCHING)
		sys_nap_us(10);
	if (!vs_live(v)) {
		if (r == IO_NOCALL)
			r = rx_call(v, fd, &op, 0, &moved);
		if (r == -1 && errno == ENOTSOCK)
			return vs_stale(v, fd, &op);
		if (r != IO_NOCALL) {
			if (r >= 0)
				vs_count(v, r);
			return r;
		}
	}
	for (;;) {
		if (r > 0) {
			done += (size_t)r;
			if (!(op.flags & MSG_WAITALL) || op.flags & (MSG_PEEK | MSG_DONTWAIT) ||
			    done >= vs_op_want(&op) || !vs_live(v))
				return (ssize_t)done;
			/* Cut short: by a signal, a time-out, the end, or a broken link? */
			if (vs_mending(v) || moved) {
				r = IO_NOCALL;
				moved = false;
				continue;
			}
			if (!vs_bare(v))
				return (ssize_t)done;
			p = (struct pollfd){ fd, POLLIN | POLLRDHUP, 0 };
			if (sys_poll(&p, 1, 0) <= 0 || !vs_ready_trouble(v, (uint32_t)p.revents))
				return (ssize_t)done;
			r = IO_NOCALL;
		}
		if (r != IO_NOCALL) {
			e = errno;
			if (r == 0 && (!vs_op_want(&op) || op.flags & MSG_OOB))
				return 0;
			if (r < 0 && e == EAGAIN && !done && !(op.flags & (MSG_OOB | MSG_ERRQUEUE)) && soon(v, fd)) {
				r = vs_mending(v) ? IO_NOCALL : rx_call(v, fd, &op, 0, &moved);
				continue;
			}
			errno = e;
			if (r < 0 && !vs_link_error(e)) {
				if (e == ENOTSOCK && !done)
					return vs_stale(v, fd, &op);
				return done ? (ssize_t)done : r;
			}
			if (op.flags & (MSG_OOB | MSG_ERRQUEUE))
				return r;
			if (!vs_judge_rx(v, fd, r, e)) {
				bool clean = (r < 0 || vring_of(v)) && vs_clean_end(v, r < 0 ? e : 0);

				/* What was read comes first, as with the kernel. */
				if (done && r < 0 && !clean)
					vs_error_later(v, e);
				if (done || clean)
					return (ssize_t)done;
				if (vs_take_pending(v))
					return -1;
				/* A socket that we shut says so; to the application it was connected, and has ended. */
				if (r < 0 && e == ENOTCONN && atomic_load(atomic_load(&v->phasep)) & PH_NOREP)
					return (ssize_t)done;
				errno = e;
				return r;
			}
		}
		/* The link is being mended. */
		vs_install();
		if (!vs_mending(v)) {
			r = rx_call(v, fd, &op, done, &moved);
			continue;
		}
		if (vs_nonblocking(fd, op.flags)) {
			if (!done && soon(v, fd)) {
				r = IO_NOCALL;
				continue;
			}
			errno = EAGAIN;
			return done ? (ssize_t)done : -1;
		}
		if (!waited)
			end = vs_deadline(fd, SO_RCVTIMEO);
		waited = true;
		e = vs_wait_mend(v, end, true);
		if (e) {
			errno = e;
			return done ? (ssize_t)done : -1;
		}
		/* Nothing more to come: what the kernel has to say waits for the next call. */
		if (done && atomic_load(atomic_load(&v->phasep)) & PH_NOREP)
			return (ssize_t)done;
		r = rx_call(v, fd, &op, done, &moved);
	}
}

ssize_t vs_rx_post(struct vsock *v, int fd, struct io_op op, ssize_t r)
{
	_Atomic uint32_t *in VS_COUNT_GUARD = &v->inside;

	atomic_fetch_add(in, 1);
	return rx_post(v, fd, op, r, false);
}

ssize_t vs_recv_any(struct vsock *v, int fd, struct io_op op)
{
	_Atomic uint32_t *in VS_COUNT_GUARD = NULL;
	bool moved = false;
	ssize_t r = rx_call(v, fd, &op, 0, &moved);

	if (likely(r > 0 && !(op.flags & MSG_WAITALL))) {
		if (!vs_live(v))
			vs_count(v, r);
		return r;
	}
	if (r == -1 && errno == EAGAIN && !vs_rx_owed(v))
		return r;
	in = &v->inside;
	atomic_fetch_add(in, 1);
	return rx_post(v, fd, op, r, moved);
}
