/* Sending and receiving on a ring. See vring.h. */
#include "vring.h"
#include "vs_int.h"
#include <pthread.h>

#define SHARED_SLICE	100000000	/* a forked process has no helper that would tell of a killed peer */
#define ODD_RX		(MSG_PEEK | MSG_TRUNC | MSG_OOB | MSG_ERRQUEUE | MSG_WAITALL)

static inline bool current(struct vsock *v, struct vring *vr)
{
	return likely(atomic_load_explicit(atomic_load_explicit(&v->phasep, memory_order_acquire), memory_order_acquire) ==
		      atomic_load_explicit(&v->phase_ok, memory_order_relaxed)) && atomic_load(&v->ring) == vr;
}

/* What is left of a connection that is over: the ring is still to be read. */
static inline bool readable(struct vsock *v, struct vring *vr)
{
	return current(v, vr) || (atomic_load(&v->ring) == vr && vs_live(v) && !vs_mending(v));
}

static void unlook(struct vsock **v)
{
	if (*v)
		atomic_fetch_sub(&(*v)->lookers, 1);
}
#define LOOKER __attribute__((cleanup(unlook), unused))

/* ---- waiting */

struct wait {
	uint64_t end;		/* SO_RCVTIMEO, SO_SNDTIMEO: asked for before the first sleep */
	bool asked;
	bool some;		/* bytes have moved: a signal ends the call, whatever its handler's flags */
};
#define GROW_NS 5000000
#define RANG_SLICE 50000000
#define FOR_EVER INT64_C(3600000000000)		/* the kernel restarts a sleep without a time-out by itself */

/* The base link of a connection that has been forked died, and nobody told us? */
static void look_at_base(struct vsock *v, int fd)
{
	struct pollfd p = { fd, POLLRDHUP, 0 };

	if (sys_poll(&p, 1, 0) > 0 && p.revents & (POLLERR | POLLHUP | POLLRDHUP))
		vs_ready_trouble(v, (uint32_t)p.revents);
}

static bool over(struct vsock *v, struct vstate *st, enum ring_dir dir)
{
	if (dir == RING_TX)
		return st->shut_wr || vs_peer_closed(v, st);
	return st->shut_rd || vring_fin(v, st) == atomic_load(&st->ring.rx_head) || vs_peer_closed(v, st);
}

/* The sleep itself is where a thread is cancelled, as in the kernel's recv. */
static int doze(struct vring *vr, uint64_t word, uint32_t bell, int64_t ns)
{
	int type = 0, e;

	if (!sys_threads)
		return vr->prov.ops->wait(&vr->prov, word, bell, ns);
	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &type);
	e = vr->prov.ops->wait(&vr->prov, word, bell, ns);
	pthread_setcanceltype(type, NULL);
	return e;
}

static int sleep_on(struct vsock *v, struct vring *vr, struct vstate *st, int fd, enum ring_dir dir, struct wait *w)
{
	uint64_t word = dir == RING_RX ? offsetof(struct ring_box, rx_bell) : offsetof(struct ring_box, tx_bell);
	shlock *l = dir == RING_RX ? &st->rx : &st->tx;
	struct ring_ticket t;
	int64_t ns = -1;
	bool shared = atomic_load(&st->shared), armed, grow;
	/* A doorbell of ours may have been answered by a reset: the peer sleeps on, and the base tells only us. */
	bool rang = atomic_exchange(&v->rang, false);
	int e = 0;

	if (!w->asked)
		w->end = vs_deadline(fd, dir == RING_RX ? SO_RCVTIMEO : SO_SNDTIMEO);
	w->asked = true;
	if (w->end) {
		ns = (int64_t)(w->end - sys_now_ns());
		if (ns <= 0)
			return EAGAIN;
	}
	switch (shlock_take(l, 1000000, false)) {
	case SHLOCK_OK:
	case SHLOCK_DIED:
		break;
	case SHLOCK_SELF:
		return EAGAIN;
	default:
		return 0;
	}
	/* A ring that is being left is started anew: its end must not be touched. From here on it waits for us. */
	armed = current(v, vr) && ring_arm(&vr->r, dir, RING_FUTEX, &t);
	shlock_drop(l);
	if (!armed)
		return 0;
	/* Said after the phase, the end: whoever changed them knocks after that. */
	if (w->some && ns < 0)
		ns = FOR_EVER;
	grow = dir == RING_TX && vr->r.size < RING_GROW_MAX && (ns < 0 || ns > GROW_NS);
	if (grow)
		ns = GROW_NS;
	if (current(v, vr) && !over(v, st, dir)) {
		if (t.unsure && (ns < 0 || ns > 1000000))
			ns = 1000000;
		if (shared && (ns < 0 || ns > SHARED_SLICE))
			ns = SHARED_SLICE;
		if (rang && (ns < 0 || ns > RANG_SLICE))
			ns = RANG_SLICE;
		e = doze(vr, word, t.bell, ns);
	}
	if (shlock_take(l, -1, false) != SHLOCK_SELF) {
		ring_disarm(&vr->r, dir, &t);
		shlock_drop(l);
	}
	if (e == EINTR && !w->end && !w->some && sys_signals_restart())
		return 0;
	if (e == ETIMEDOUT && grow && !ring_look(&vr->r, RING_TX) && !(w->end && sys_now_ns() >= w->end))
		vring_grow(v, vr->r.size);
	if (e == ETIMEDOUT && (shared || rang))
		look_at_base(v, fd);
	return e == EINTR ? EINTR : 0;
}

/* Until there is something, or the phase changes; or EINTR, EAGAIN at a time-out. */
static int wait_for(struct vsock *v, struct vring *vr, int fd, enum ring_dir dir, struct wait *w)
{
	struct vstate *st = atomic_load(&v->st);
	struct vsock *look LOOKER = v;
	struct spin_wait s;
	uint32_t cpu;
	bool hit = false;
	int e = 0;

	atomic_fetch_add(&v->lookers, 1);
	if (atomic_load(&v->ring) != vr)
		return 0;
	if (ring_look(&vr->r, dir))
		return 0;
	if (spin_begin(&s, dir == RING_RX ? &vr->rx_spin : &vr->tx_spin, ring_peer_cpu(&vr->r), &cpu)) {
		ring_tell_cpu(&vr->r, cpu);
		do
			hit = ring_look(&vr->r, dir) || !current(v, vr) || over(v, st, dir);
		while (!hit && spin_more(&s, SPIN_MEMORY));
	} else {
		ring_tell_cpu(&vr->r, cpu);
	}
	if (!hit)
		e = sleep_on(v, vr, st, fd, dir, w);
	spin_end(&s);
	return e;
}

/*
 * The doorbell was rung in vain. (It is rung below the lock: afterwards the link
 * may be another one, and the byte would be one of its stream's.)
 */
static __attribute__((noinline, cold)) void unheard(struct vsock *v, struct vring *vr, struct vstate *st)
{
	/* Not if the base only ended since it is being left. */
	if (current(v, vr) && !vs_peer_closed(v, st))
		vs_break(v, ECONNRESET, "bell");
}

/* Closed under us by another thread: its number may be anything by now. */
static ssize_t gone(struct vsock *v)
{
	if (vs_live(v) && atomic_load(&v->nfd))
		return IO_NOCALL;
	errno = EBADF;
	return -1;
}

/* ---- receiving */

static long take(struct vring *vr, const struct io_op *op, size_t done, uint32_t *call)
{
	struct rest rest;
	size_t skip = done;
	long k, got = 0;
	int i;

	if (op->flags & MSG_TRUNC && !(op->flags & MSG_PEEK))
		return ring_skip(&vr->r, vs_op_want(op) - done, call);
	if (!(op->flags & MSG_PEEK) && (op->kind == IO_BUF || op->kind == IO_FROM))
		return ring_get(&vr->r, (char *)op->one.iov_base + done, op->one.iov_len - done, call);
	if (!vs_rest_of(op, op->flags & MSG_PEEK ? 0 : skip, &rest))
		return ring_avail(&vr->r) < 0 ? RING_BROKEN : 0;
	if (op->flags & MSG_PEEK) {
		for (i = 0; i < rest.cnt; i++) {
			k = ring_peek(&vr->r, (uint64_t)got, rest.iov[i].iov_base, rest.iov[i].iov_len);
			if (k < 0)
				got = k;
			if (k <= 0)
				break;
			got += k;
		}
	} else {
		got = ring_getv(&vr->r, rest.iov, rest.cnt, call);
	}
	vs_rest_free(&rest);
	return got;
}

/* The connection is over and the ring is empty: what does the kernel say? Doorbells are nobody's bytes. */
static ssize_t last_word(int fd, bool wait)
{
	char junk[64];
	ssize_t r;

	do
		r = sys_recv(fd, junk, sizeof(junk), wait ? 0 : MSG_DONTWAIT);
	while (r > 0);
	return r;
}

static ssize_t empty(struct vsock *v, struct vring *vr, struct vstate *st, int fd, const struct io_op *op)
{
	uint64_t fin = vring_fin(v, st);
	ssize_t r;

	if (st->shut_rd)
		return 0;
	if (atomic_load(&st->phase) & PH_NOREP) {
		if (fin == atomic_load(&st->ring.rx_head))
			return 0;
		r = last_word(fd, !vs_nonblocking(fd, op->flags));
		/* A doorbell that a killed peer left unread made a reset; bytes left unread would have made one, too. */
		return r < 0 && errno == ECONNRESET && ring_all_taken(&vr->r) ? 0 : r;
	}
	/* In order, or by a reset? The kernel knows; its word may still be on the way. */
	if (vs_peer_closed(v, st)) {
		r = last_word(fd, false);
		if (r < 0 && errno == ECONNRESET && fin == atomic_load(&st->ring.rx_head) && vring_orderly(v, st, vr))
			return 0;
		/* It had read all of ours: that can only be a FIN, and it may have been lost with the base. */
		return r < 0 && errno == EAGAIN && vring_clean(v, st) ? 0 : r;
	}
	if (fin == atomic_load(&st->ring.rx_head))
		return 0;
	errno = EAGAIN;
	return -1;
}

ssize_t vring_recv(struct vsock *v, struct vring *vr, int fd, struct io_op *op, size_t done, bool *moved)
{
	struct vstate *st = atomic_load(&v->st);
	size_t want, got = 0;
	uint64_t seen = RING_ANY;
	struct wait w = { 0 };
	enum shlock_result lr;
	bool all = op->flags & MSG_WAITALL && !(op->flags & MSG_PEEK), nb = false;
	bool peek_all = op->flags & MSG_WAITALL && op->flags & MSG_PEEK && !(op->flags & MSG_DONTWAIT);
	uint32_t call;
	ssize_t r;
	long k;
	int e;

	if (!st)
		return IO_NOCALL;
	if (vs_op_early(op, fd, &r))
		return r;
	want = vs_op_want(op);
	for (;;) {
		bool end, rang;

		call = 0;
		k = 0;
		r = -1;
		lr = shlock_take(&st->rx, 1000000, false);
		if (lr == SHLOCK_DIED)
			ring_mend_rx(&vr->r, &call);
		if (lr == SHLOCK_SELF) {		/* a signal handler over a receive */
			errno = EAGAIN;
			return got ? (ssize_t)got : -1;
		}
		if (lr == SHLOCK_OK || lr == SHLOCK_DIED) {
			if (!readable(v, vr)) {
				shlock_drop(&st->rx);
				*moved = true;
				return got ? (ssize_t)got : gone(v);
			}
			/* The end first: bytes that came before it are then there to be seen. */
			end = over(v, st, RING_RX) || atomic_load(&st->phase) & PH_NOREP;
			k = want ? take(vr, op, done + got, &call) : ring_avail(&vr->r);
			/* A peek that shall have it all looks again when there is more. */
			if (k > 0 && peek_all && (size_t)k < want && !end) {
				seen = st->ring.rx_tail;
				k = 0;
			}
			call = ring_call(&vr->r, call);
			/* Also where the end came in between. */
			r = k == 0 && (end || over(v, st, RING_RX)) && ring_avail(&vr->r) <= 0 ? 0 : -1;
			rang = !call || vring_bell(v, fd);
			shlock_drop(&st->rx);
			if (unlikely(!rang))
				unheard(v, vr, st);
			if (k < 0) {
				if (got)
					return (ssize_t)got;
				if (!(atomic_load(&st->phase) & PH_NOREP))
					vring_broken(v, fd);
				return last_word(fd, false);
			}
			if (k > 0) {
				vs_op_no_names(op);
				if (!want)
					return 0;
				got += (size_t)k;
				if (!all || done + got >= want)
					return (ssize_t)got;
				continue;
			}
			if (r == 0) {
				if (got)
					return (ssize_t)got;
				r = empty(v, vr, st, fd, op);
				if (r >= 0 || errno != EAGAIN) {
					vs_op_no_names(op);
					return r;
				}
				r = 0;		/* closed, and the kernel will say how in a moment */
			}
		}
		nb = op->flags & MSG_DONTWAIT || atomic_load_explicit(&st->nonblock, memory_order_relaxed);
		if (nb) {
			errno = EAGAIN;
			return got ? (ssize_t)got : -1;
		}
		if (unlikely(r == 0)) {
			struct pollfd p = { fd, POLLIN, 0 };

			if (sys_poll(&p, 1, 100) < 0)
				return got ? (ssize_t)got : -1;
			continue;
		}
		if (seen != RING_ANY) {
			/* Rare: a nap will do. */
			for (e = 0; e < 200 && st->ring.rx_tail == seen && ring_avail(&vr->r) >= 0 && readable(v, vr) &&
			     !over(v, st, RING_RX); e++)
				sys_nap_us(50);
			continue;
		}
		w.some = done + got > 0;
		e = wait_for(v, vr, fd, RING_RX, &w);
		if (e) {
			errno = e;
			return got ? (ssize_t)got : -1;
		}
	}
}

ssize_t vring_recv_fast(struct vsock *v, struct vring *vr, int fd, void *buf, size_t n, int flags)
{
	struct vstate *st = atomic_load_explicit(&v->st, memory_order_acquire);
	uint32_t call = 0;
	bool rang;
	long k = 0;

	if (likely(st && n && !(flags & ODD_RX) && shlock_take(&st->rx, 0, false) == SHLOCK_OK)) {
		if (likely(current(v, vr))) {
			k = ring_get(&vr->r, buf, n, &call);
			call = ring_call(&vr->r, call);
		}
		rang = likely(!call) || vring_bell(v, fd);
		shlock_drop(&st->rx);
		if (unlikely(!rang))
			unheard(v, vr, st);
		if (likely(k > 0))
			return k;
	}
	return vs_recv_any(v, fd, io_buf(buf, n, flags));
}

/* ---- sending */

static long give(struct vring *vr, const struct io_op *op, size_t done, uint32_t *call)
{
	struct rest rest;
	long k;

	if (op->kind == IO_BUF || op->kind == IO_FROM)
		return ring_put(&vr->r, (const char *)op->one.iov_base + done, op->one.iov_len - done, call);
	if (!vs_rest_of(op, done, &rest))
		return -2;
	k = ring_putv(&vr->r, rest.iov, rest.cnt, call);
	vs_rest_free(&rest);
	return k;
}

#define NOBODY_MAX (16u << 20)

/*
 * The peer has closed: it is the kernel who answers, as it would have, by a reset.
 * More than a kernel could hold, and no reset: it has not closed, it only says so.
 */
static ssize_t to_nobody(struct vsock *v, int fd, const struct io_op *op, size_t done)
{
	struct vstate *st = atomic_load(&v->st);
	size_t n = vs_op_want(op) - done;
	ssize_t r = sys_send(fd, "", 1, MSG_NOSIGNAL | MSG_DONTWAIT);

	if (r < 0)
		return r;
	if (atomic_fetch_add(&st->to_nobody, n) + n > NOBODY_MAX) {
		vring_broken(v, fd);
		errno = ECONNRESET;
		return -1;
	}
	return (ssize_t)n;
}

ssize_t vring_send(struct vsock *v, struct vring *vr, int fd, const struct io_op *op, size_t done, bool *moved)
{
	struct vstate *st = atomic_load(&v->st);
	size_t want, had = done;
	struct wait w = { 0 };
	bool nb = false;
	int e;

	if (!st)
		return IO_NOCALL;
	e = vs_op_refused(op);
	if (e) {
		errno = e;
		return -1;
	}
	want = vs_op_want(op);
	for (;;) {
		enum shlock_result lr = shlock_take(&st->tx, 0, true);
		uint32_t call = 0;
		bool rang;
		long k = 0;

		if (unlikely(lr != SHLOCK_OK)) {
			if (lr == SHLOCK_SELF) {	/* a signal handler over a send */
				errno = EAGAIN;
				return done > had ? (ssize_t)(done - had) : -1;
			}
			nb = op->flags & MSG_DONTWAIT || atomic_load(&st->nonblock);
			lr = shlock_take(&st->tx, nb ? 1000000 : -1, true);
			if (lr == SHLOCK_INTR || lr == SHLOCK_BUSY) {
				errno = lr == SHLOCK_INTR ? EINTR : EAGAIN;
				return done > had ? (ssize_t)(done - had) : -1;
			}
			if (lr == SHLOCK_DIED)
				ring_mend_tx(&vr->r, &call);
		}
		if (unlikely(!current(v, vr))) {
			shlock_drop(&st->tx);
			*moved = true;
			return done > had ? (ssize_t)(done - had) : gone(v);
		}
		if (unlikely(st->shut_wr)) {
			shlock_drop(&st->tx);
			errno = EPIPE;
			return done > had ? (ssize_t)(done - had) : -1;
		}
		if (unlikely(vs_peer_closed(v, st))) {
			ssize_t r = to_nobody(v, fd, op, done);

			shlock_drop(&st->tx);
			return r < 0 && done > had ? (ssize_t)(done - had) : r < 0 ? r : (ssize_t)(done - had) + r;
		}
		if (done < want) {
			k = give(vr, op, done, &call);
			call = ring_call(&vr->r, call);
		}
		rang = likely(!call) || vring_bell(v, fd);
		shlock_drop(&st->tx);
		if (unlikely(!rang))
			unheard(v, vr, st);
		if (unlikely(k < 0)) {
			if (done > had)
				return (ssize_t)(done - had);
			if (k == RING_BROKEN)
				vring_broken(v, fd);
			errno = k == RING_BROKEN ? ECONNRESET : ENOMEM;
			return -1;
		}
		done += (size_t)k;
		if (likely(done >= want))
			return (ssize_t)(done - had);
		nb = op->flags & MSG_DONTWAIT || atomic_load_explicit(&st->nonblock, memory_order_relaxed);
		if (nb) {
			/* EPOLLOUT is due when there is room again. */
			atomic_fetch_add(&v->full, 1);
			ep_hot(v);
			errno = EAGAIN;
			return done > had ? (ssize_t)(done - had) : -1;
		}
		if (k)
			continue;
		w.some = done > 0;
		e = wait_for(v, vr, fd, RING_TX, &w);
		if (e) {
			errno = e;
			return done > had ? (ssize_t)(done - had) : -1;
		}
	}
}

ssize_t vring_send_fast(struct vsock *v, struct vring *vr, int fd, const void *buf, size_t n, int flags)
{
	struct vstate *st = atomic_load_explicit(&v->st, memory_order_acquire);
	uint32_t call = 0;
	bool rang;
	long k = 0;

	if (likely(st && n && !(flags & MSG_OOB) && shlock_take(&st->tx, 0, true) == SHLOCK_OK)) {
		if (likely(current(v, vr) && !st->shut_wr && !vs_peer_closed(v, st))) {
			k = ring_put(&vr->r, buf, n, &call);
			call = ring_call(&vr->r, call);
		}
		rang = likely(!call) || vring_bell(v, fd);
		shlock_drop(&st->tx);
		if (unlikely(!rang))
			unheard(v, vr, st);
		if (likely(k == (long)n))
			return k;
		if (k > 0)
			return vs_send_rest(v, fd, io_buf(buf, n, flags), (size_t)k);
	}
	return vs_send_live(v, fd, io_buf(buf, n, flags));
}
