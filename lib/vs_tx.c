/* Sending. */
#include "adapt.h"
#include "coding.h"
#include "vring.h"
#include "vs_int.h"

bool vs_tx_enter_plain(struct vsock *v)
{
	for (;;) {
		atomic_fetch_add(&v->tx0, 1);
		switch (atomic_load(&v->mode)) {
		case VS_PLAIN:
		case VS_GONE:	/* lost a race with close: the kernel says EBADF */
			return true;
		case VS_LIVE:
			atomic_fetch_sub(&v->tx0, 1);
			return false;
		}
		/* Switching takes microseconds. */
		atomic_fetch_sub(&v->tx0, 1);
		sys_nap_us(10);
	}
}

/* The kernel has taken everything up to `sent`, of which q bytes are not acknowledged. */
static void trim_to(struct vstate *st, uint64_t sent, int q)
{
	uint64_t to, limit = atomic_load(&st->trim_limit);

	if (q < 0 || (uint64_t)q > sent - st->link_tx)
		return;
	to = sent - (uint64_t)q;
	replay_trim(&st->replay, to < limit ? to : limit);
}

/*
 * What the other kernel has not acknowledged; -1: that cannot be said.  A peer
 * that moves has counted what it has, and its kernel goes on taking bytes that
 * nobody will read: ask again then.
 */
static int not_acked(struct vsock *v, int fd)
{
	int q = sys_outq(fd);

	return vring_peer_moves(v) || atomic_load(&atomic_load(&v->st)->phase) & PH_MEND ? -1 : q;
}

void vs_trim_locked(struct vsock *v, int fd)
{
	struct vstate *st = atomic_load(&v->st);

	if (vs_coded(v)) {
		coding_trim(v, fd);
		return;
	}
	trim_to(st, st->tx_sent, not_acked(v, fd));
}

static uint8_t *replay_mem(struct vstate *st)
{
	return (uint8_t *)st + REPLAY_AT;
}

/*
 * The kernel took n bytes of op behind the first `done`: they may be asked for again.
 * True: nothing could be trimmed since the peer is moving, and that is enough; join_move() without tx.
 */
static bool keep(struct vsock *v, struct vstate *st, int fd, const struct io_op *op, size_t done, size_t n)
{
	const struct iovec *iov;
	size_t skip = done;
	int i, q = -1, cnt;

	st->untrimmed += (uint32_t)n;
	if (unlikely(st->untrimmed >= REPLAY_ASK)) {
		st->untrimmed = 0;
		if (atomic_load(&st->trim_limit) == UINT64_MAX && (q = not_acked(v, fd)) >= 0 && (size_t)q < n) {
			/* Some of this very send is on the other side already: keep the rest. */
			skip += n - (size_t)q;
			replay_trim(&st->replay, st->replay.end);
			replay_set_end(&st->replay, st->replay.end + n - (size_t)q);
			st->replay.base = st->replay.end;
			n = (size_t)q;
		} else {
			trim_to(st, st->replay.end + n, q);
		}
		replay_shrink(&st->replay, replay_mem(st), REPLAY_SOFT);
		adapt_sent(v);
	}
	if (unlikely(n > replay_room(&st->replay)) && !replay_reserve(&st->replay, replay_mem(st), n)) {
		vs_demote(v, REASON_BUFFER);
		return false;
	}
	iov = vs_op_iov(op, &cnt);
	for (i = 0; n && i < cnt; i++) {
		size_t len = iov[i].iov_len;

		if (skip >= len) {
			skip -= len;
			continue;
		}
		len -= skip;
		if (len > n)
			len = n;
		replay_append(&st->replay, replay_mem(st), (const char *)iov[i].iov_base + skip, len);
		n -= len;
		skip = 0;
	}
	st->tx_sent = st->replay.end;
	return unlikely(replay_used(&st->replay) > REPLAY_MAX / 2) && vring_peer_moves(v);
}

/* Its request will be here in a moment. */
static __attribute__((noinline, cold)) void join_move(struct vsock *v)
{
	vs_break(v, 0, "moving");
}

/*
 * To another host a large send goes in slices: one that sleeps in the kernel for
 * seconds could be neither looked at nor coded.
 */
#define SLICE (256u << 10)

static bool sliced(struct vstate *st, const struct io_op *op, size_t done)
{
	return unlikely(atomic_load_explicit(&st->remote, memory_order_relaxed)) &&
		(op->kind == IO_BUF || op->kind == IO_FROM) && op->one.iov_len - done > SLICE && !op->addr;
}

static ssize_t tx_kernel(int fd, const struct io_op *op, size_t done, int extra)
{
	struct msghdr m = { 0 };
	struct rest rest;
	ssize_t r;

	if (op->kind == IO_BUF && !done)
		return sys_send(fd, op->one.iov_base, op->one.iov_len, op->flags | extra);
	if (op->kind == IO_FROM && !done)
		return sys_sendto(fd, op->one.iov_base, op->one.iov_len, op->flags | extra,
				  op->addr, (socklen_t)op->cnt);
	if (op->kind == IO_MSG && !done)
		return sys_sendmsg(fd, op->msg, op->flags | extra);
	/* Too many for writev are an error of its own. */
	if (!done && (op->cnt < 0 || op->cnt > IOV_MAX))
		return sys_writev(fd, op->iov, op->cnt);
	if (!done) {
		m.msg_iov = (struct iovec *)(uintptr_t)op->iov;
		m.msg_iovlen = (size_t)op->cnt;
		return sys_sendmsg(fd, &m, op->flags | extra);
	}
	if (!vs_rest_of(op, done, &rest))
		return -1;
	m.msg_iov = rest.iov;
	m.msg_iovlen = (size_t)rest.cnt;
	r = sys_sendmsg(fd, &m, op->flags | extra);
	vs_rest_free(&rest);
	return r;
}

void vs_flush_locked(struct vsock *v, int fd)
{
	struct vstate *st = atomic_load(&v->st);

	if (vring_of(v)) {
		if (vring_flush_locked(v, fd))
			vs_phase(st, 0, PH_UNSENT);
		return;
	}
	if (vs_coded(v)) {
		if (coding_push(v, fd, true) != CODING_DONE)
			return;
		st->tx_sent = st->replay.end;
	}
	while (st->tx_sent < st->replay.end) {
		const uint8_t *p;
		size_t n = replay_at(&st->replay, replay_mem(st), st->tx_sent, &p);
		ssize_t r = sys_send(fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (r < 0)
			return;
		st->tx_sent += (uint64_t)r;
		if (atomic_load(&st->trim_limit) == UINT64_MAX && replay_used(&st->replay) > REPLAY_SOFT)
			vs_trim_locked(v, fd);
	}
	if (st->shut_wr)
		sys_shutdown(fd, SHUT_WR);
	vs_phase(st, 0, PH_UNSENT);
}

/* What may be taken from the application while no link can carry it. */
#define DOWN_LIMIT (256u << 10)

size_t vs_keep_unsent(struct vstate *st, const struct io_op *op, size_t done, size_t n)
{
	struct rest rest;
	size_t k = 0;
	int i;

	if (!replay_reserve(&st->replay, replay_mem(st), n) || !vs_rest_of(op, done, &rest))
		return 0;
	for (i = 0; i < rest.cnt && k < n; i++) {
		size_t len = rest.iov[i].iov_len < n - k ? rest.iov[i].iov_len : n - k;

		replay_append(&st->replay, replay_mem(st), rest.iov[i].iov_base, len);
		k += len;
	}
	vs_rest_free(&rest);
	return k;
}

static size_t append_down(struct vstate *st, const struct io_op *op, size_t done)
{
	uint64_t used = replay_used(&st->replay);
	size_t n = vs_op_want(op) - done;

	if (used >= DOWN_LIMIT)
		return 0;
	return vs_keep_unsent(st, op, done, n > DOWN_LIMIT - used ? DOWN_LIMIT - used : n);
}

static ssize_t broken_pipe(struct vsock *v, const struct io_op *op, size_t done, int e)
{
	if (done)
		return (ssize_t)done;
	if (e == EPIPE && vs_take_pending(v))
		return -1;
	errno = e;
	if (e == EPIPE && !(op->flags & MSG_NOSIGNAL)) {
		sys_raise_sigpipe();
		errno = EPIPE;
	}
	return -1;
}

/* The link cannot take bytes now (full): wait until it can. 0 or an errno. */
int vs_wait_writable(int fd, uint64_t end)
{
	struct pollfd p = { fd, POLLOUT, 0 };
	int tmo = 100, r;

	if (end) {
		int64_t left = (int64_t)(end - sys_now_ns());

		if (left <= 0)
			return EAGAIN;
		if (left / 1000000 < tmo)
			tmo = (int)(left / 1000000) + 1;
	}
	r = sys_poll(&p, 1, tmo);
	return r < 0 ? errno : 0;
}

/* The slow half of a send: the phase is odd, or the kernel said something odd. */
static ssize_t send_slower(struct vsock *v, int fd, const struct io_op *op, size_t done)
{
	struct vstate *st = atomic_load(&v->st);
	bool nb = vs_nonblocking(fd, op->flags);
	uint64_t end = nb ? 0 : vs_deadline(fd, SO_SNDTIMEO);

	for (;;) {
		enum shlock_result lr;
		uint32_t ph;
		ssize_t r;
		int e = 0;

		vs_install();
		lr = shlock_take(&st->tx, nb ? 1000000 : -1, true);
		if (lr == SHLOCK_INTR || lr == SHLOCK_BUSY || lr == SHLOCK_SELF) {
			errno = lr == SHLOCK_INTR ? EINTR : EAGAIN;
			return done ? (ssize_t)done : -1;
		}
		if (lr == SHLOCK_DIED && vs_coded(v) && !vs_mending(v))
			coding_mend_tx(v, fd);
		ph = atomic_load(&st->phase);
		if (ph & PH_NOREP && !(ph & PH_CODED)) {
			shlock_drop(&st->tx);
			r = tx_kernel(fd, op, done, MSG_NOSIGNAL);
			if (r >= 0)
				return (ssize_t)done + r;
			return broken_pipe(v, op, done, errno);
		}
		if (ph & PH_UNSENT && !vs_mending(v))
			vs_flush_locked(v, fd);
		ph = atomic_load(&st->phase);
		if (st->shut_wr) {
			shlock_drop(&st->tx);
			return broken_pipe(v, op, done, EPIPE);
		}
		if (vs_mending(v)) {
			/* A link that is up but not ours yet takes what the helper gave it, no more. */
			if (ph & PH_MEND && vring_to_replay(v))
				done += append_down(st, op, done);
			shlock_drop(&st->tx);
			if (done == vs_op_want(op))
				return (ssize_t)done;
			if (nb) {
				errno = EAGAIN;
				return done ? (ssize_t)done : -1;
			}
			e = vs_wait_mend(v, end, true);
		} else if (ph & PH_UNSENT) {
			shlock_drop(&st->tx);
			if (nb) {
				errno = EAGAIN;
				return done ? (ssize_t)done : -1;
			}
			if (vring_of(v))
				sys_nap_us(300);
			else
				e = vs_wait_writable(fd, end);
		} else if (ph & PH_CODED) {
			size_t had = done;
			bool left;

			done += coding_put(v, fd, op, done, &e);
			left = coding_left(st);
			shlock_drop(&st->tx);
			if (left && !(ph & PH_NOREP))
				helper_want(v, WANT_FLUSH);
			/* What the kernel refused was not sent. */
			if (e && (ph & PH_NOREP || !vs_link_error(e) || !vs_judge_tx(v, e)))
				return broken_pipe(v, op, had, e);
			if (done == vs_op_want(op))
				return (ssize_t)done;
			if (nb) {
				errno = EAGAIN;
				return done ? (ssize_t)done : -1;
			}
			e = e ? 0 : vs_wait_writable(fd, end);
			if (e == EINTR && !done && !end && sys_signals_restart())
				e = 0;
		} else if (vring_of(v)) {
			shlock_drop(&st->tx);
			bool moved = false;

			r = vring_send(v, vring_of(v), fd, op, done, &moved);
			if (r == IO_NOCALL)
				continue;
			if (r < 0)
				return broken_pipe(v, op, done, errno);
			done += (size_t)r;
			/* A signal or the time has ended it; or the ring has, and then it is to go on. */
			if (!moved || done == vs_op_want(op) || nb)
				return (ssize_t)done;
		} else {
			shlock *held VS_LOCK_GUARD = &st->tx;
			bool full = false;

			if (sliced(st, op, done))
				r = sys_send(fd, (const char *)op->one.iov_base + done, SLICE, op->flags | MSG_NOSIGNAL);
			else
				r = tx_kernel(fd, op, done, MSG_NOSIGNAL);
			held = NULL;
			e = r < 0 ? errno : 0;
			if (r > 0) {
				full = keep(v, st, fd, op, done, (size_t)r);
				done += (size_t)r;
			}
			shlock_drop(&st->tx);
			if (full)
				join_move(v);
			if (r >= 0 && (done == vs_op_want(op) || nb))
				return (ssize_t)done;
			if (r < 0 && !vs_link_error(e)) {
				errno = e;
				return done ? (ssize_t)done : -1;
			}
			if (r < 0 && !vs_judge_tx(v, e))
				return broken_pipe(v, op, done, e);
			e = 0;
		}
		if (e) {
			errno = e;
			return done ? (ssize_t)done : -1;
		}
	}
}

static ssize_t send_slow(struct vsock *v, int fd, const struct io_op *op, size_t done)
{
	_Atomic uint32_t *in VS_COUNT_GUARD = &v->inside;

	atomic_fetch_add(in, 1);
	return send_slower(v, fd, op, done);
}

ssize_t vs_send_rest(struct vsock *v, int fd, struct io_op op, size_t done)
{
	return send_slow(v, fd, &op, done);
}

static ssize_t send_ring(struct vsock *v, struct vring *vr, int fd, const struct io_op *op)
{
	bool moved = false;
	ssize_t r = vring_send(v, vr, fd, op, 0, &moved);

	if (likely(r >= 0 && !moved))
		return r;
	if (r >= 0)
		return send_slow(v, fd, op, (size_t)r);
	return r == IO_NOCALL ? send_slow(v, fd, op, 0) : broken_pipe(v, op, 0, errno);
}

ssize_t vs_send_live(struct vsock *v, int fd, struct io_op op_)
{
	const struct io_op *op = &op_;
	struct vstate *st = atomic_load(&v->st);
	struct vring *vr = vring_of(v);
	enum shlock_result lr;
	ssize_t r;
	int e;

	if (vr && likely(!(op->flags & MSG_OOB)))
		return send_ring(v, vr, fd, op);
	if (unlikely(op->flags & MSG_OOB)) {
		vs_settle(v);
		vs_demote(v, REASON_OOB);
		return send_slow(v, fd, op, 0);
	}
	if (vs_coded(v)) {
		e = vs_op_refused(op);
		if (!e)
			return send_slow(v, fd, op, 0);
		errno = e;
		return -1;
	}
	lr = shlock_take(&st->tx, 0, true);
	if (unlikely(lr != SHLOCK_OK)) {
		if (lr == SHLOCK_SELF) {
			/* Over a send that is giving the link what it lacks: not before that is done. */
			if (atomic_load(&st->phase) & (PH_MEND | PH_UNSENT)) {
				errno = EAGAIN;
				return -1;
			}
			/* A signal handler over a send: the order of bytes is the kernel's to say. */
			vs_demote(v, REASON_NESTED);
			return tx_kernel(fd, op, 0, 0);
		}
		return send_slow(v, fd, op, 0);
	}
	if (unlikely(atomic_load_explicit(&st->phase, memory_order_acquire) !=
		     atomic_load_explicit(&v->phase_ok, memory_order_relaxed))) {
		shlock_drop(&st->tx);
		return send_slow(v, fd, op, 0);
	}
	if (unlikely(sliced(st, op, 0))) {
		shlock_drop(&st->tx);
		return send_slow(v, fd, op, 0);
	}
	{
		shlock *held VS_LOCK_GUARD = &st->tx;

		r = tx_kernel(fd, op, 0, MSG_NOSIGNAL);
		held = NULL;
	}
	if (likely(r > 0)) {
		bool full = keep(v, st, fd, op, 0, (size_t)r);

		shlock_drop(&st->tx);
		if (unlikely(full))
			join_move(v);
		/* Cut short because the link ends: a call that blocks goes on with the next one. */
		if (unlikely(atomic_load_explicit(&st->phase, memory_order_acquire) !=
			     atomic_load_explicit(&v->phase_ok, memory_order_relaxed)) &&
		    (size_t)r < vs_op_want(op) && !vs_nonblocking(fd, op->flags))
			return send_slow(v, fd, op, (size_t)r);
		vring_count(v, (size_t)r);
		return r;
	}
	e = errno;
	shlock_drop(&st->tx);
	if (r == 0 || !vs_link_error(e)) {
		errno = e;
		return r;
	}
	if (!vs_judge_tx(v, e))
		return broken_pipe(v, op, 0, e);
	return send_slow(v, fd, op, 0);
}
