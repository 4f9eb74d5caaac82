#include "vs_io.h"
#include "ep.h"
#include "helper.h"
#include "link_tcp.h"
#include "log.h"
#include "meet.h"
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/*
 * ---- What an odd result means
 *
 * The kernel said "end of stream" or an error on a live connection.  It is
 * the real end when the peer announced it (pair->fin, pair->closed), when we
 * ended it ourselves, or when it has been looked into before (judged).
 * Everything else is a broken link, and the peer is asked (mend.c).
 */

static bool link_error(int e)
{
	switch (e) {
	case ECONNRESET: case EPIPE: case ETIMEDOUT: case ECONNABORTED: case ENOTCONN:
	case EHOSTUNREACH: case ENETUNREACH: case ENETDOWN: case EHOSTDOWN: case ECONNREFUSED:
		return true;
	}
	return false;
}

static bool peer_closed(struct vsock *v, struct vstate *st)
{
	return v->pair && atomic_load(&v->pair->side[!st->ho.role].closed);
}

/* Is an end of stream here the one the peer announced? */
static bool fin_announced(struct vsock *v, struct vstate *st, int fd)
{
	struct link_count c;
	uint64_t fin, want;
	int tries;

	if (!v->pair)
		return false;
	for (tries = 0; tries < 1000; tries++) {
		fin = atomic_load(&v->pair->side[!st->ho.role].fin);
		if (fin != PAIR_FIN_SOON)
			break;
		sys_nap_us(50);
	}
	if (fin >= PAIR_FIN_SOON)
		return false;
	if (link_count(fd, false, &c) < 0)
		return true;
	/* Taken and waiting bytes of this link, its FIN counted or not. */
	want = st->link_rx + c.received + c.unread;
	return fin == want || fin + 1 == want;
}

/* True: the link is broken (now known as such); false: it is the real end. */
static bool judge_rx(struct vsock *v, int fd, ssize_t r, int err)
{
	struct vstate *st = atomic_load(&v->st);
	uint32_t ph;
	bool end;

	if (!st || !vs_live(v))
		return false;
	ph = atomic_load(&st->phase);
	if (ph & PH_NOREP || atomic_load(&st->judged))
		return false;
	if (vs_mending(v)) {
		vs_break(v, r == 0 ? 0 : err, NULL);
		return true;
	}
	shlock_take(&st->mx, -1, false);
	if (r == 0)
		end = st->shut_rd || peer_closed(v, st) || fin_announced(v, st, fd);
	else
		end = peer_closed(v, st);
	shlock_drop(&st->mx);
	if (end)
		return false;
	vs_break(v, r == 0 ? 0 : err, r == 0 ? "end" : strerrorname_np(err));
	return true;
}

static bool judge_tx(struct vsock *v, int err)
{
	struct vstate *st = atomic_load(&v->st);
	bool end;

	if (st->shut_wr || atomic_load(&st->judged))
		return false;
	shlock_take(&st->mx, -1, false);
	end = peer_closed(v, st);
	shlock_drop(&st->mx);
	if (end)
		return false;
	vs_break(v, err, strerrorname_np(err));
	return true;
}

void vs_break(struct vsock *v, int err, const char *why)
{
	struct vstate *st = atomic_load(&v->st);
	uint32_t ph = atomic_load(&st->phase);
	char id[9];

	for (;;) {
		if (ph & PH_NOREP)
			return;
		if (ph & PH_MEND || !why)
			break;
		if (atomic_compare_exchange_weak(&st->phase, &ph, ph | PH_MEND)) {
			int zero = 0;

			if (err)
				atomic_compare_exchange_strong(&st->pending_err, &zero, err);
			st->broke_ns = sys_now_ns();
			vs_log_id(v, id);
			log_info("%s broken reason=%s", id, why);
			break;
		}
	}
	/* The helper's descriptors are not the program's: whoever wakes up next detaches. */
	if (!roam_in_helper)
		ep_detach(v);
	helper_want(v, WANT_MEND);
}

bool vs_ready_trouble(struct vsock *v, uint32_t events)
{
	struct vstate *st = atomic_load(&v->st);
	int fd = atomic_load(&v->fd);
	struct pollfd p;
	uint32_t ph;
	bool end;

	if (!st || !vs_live(v))
		return false;
	ph = atomic_load(&st->phase);
	if (ph & PH_NOREP || atomic_load(&st->judged))
		return false;
	vs_install();
	if (vs_mending(v)) {
		vs_break(v, 0, NULL);
		return true;
	}
	/* Told by a socket that has been exchanged since? */
	p = (struct pollfd){ fd, POLLIN | POLLRDHUP, 0 };
	if (sys_poll(&p, 1, 0) <= 0 || !(p.revents & (POLLERR | POLLHUP | POLLRDHUP)))
		return true;
	events = (uint32_t)p.revents;
	shlock_take(&st->mx, -1, false);
	end = peer_closed(v, st);
	/* Only our side's or the peer's announced end shows as HUP or RDHUP without an error. */
	if (!end && !(events & EPOLLERR))
		end = st->shut_rd || fin_announced(v, st, fd);
	shlock_drop(&st->mx);
	if (end || (!(events & (EPOLLERR | EPOLLRDHUP)) && !link_dead(fd)))
		return false;
	/* The error stays on the old socket: if mending fails it is the kernel's to tell. */
	vs_break(v, 0, events & EPOLLERR ? "error" : "hangup");
	return true;
}

int vs_wait_mend(struct vsock *v, uint64_t deadline_ns, bool installed)
{
	struct vstate *st = atomic_load(&v->st);

	for (;;) {
		uint32_t ph = atomic_load(&st->phase);
		int64_t left = 20000000;	/* look now and then: the leader may be killed */
		int r;

		if (ph & PH_NOREP)
			return 0;
		/* Another thread closed it under us. */
		if (!atomic_load(&v->nfd))
			return EBADF;
		if (!(ph & PH_MEND)) {
			vs_install();
			if (!installed || !vs_mending(v))
				return 0;
			/* On its way to us; a sharer asks the process that made it. */
			helper_want(v, WANT_MEND);
			left = 200000;
		}
		if (deadline_ns) {
			int64_t l = (int64_t)(deadline_ns - sys_now_ns());

			if (l <= 0)
				return EAGAIN;
			if (l < left)
				left = l;
		}
		r = sys_futex_wait(&st->phase, ph, left);
		/* With a time-out the kernel does not restart either. */
		if (r == EINTR && (deadline_ns || !sys_signals_restart()))
			return EINTR;
		if (r == ETIMEDOUT && atomic_load(&v->nfd))
			helper_want(v, WANT_MEND);
	}
}

static bool nonblocking(int fd, int flags)
{
	return flags & MSG_DONTWAIT || sys_fcntl(fd, F_GETFL, 0) & O_NONBLOCK;
}

/* The end of SO_RCVTIMEO or SO_SNDTIMEO from now; 0: none. */
static uint64_t deadline(int fd, int opt)
{
	struct timeval tv;
	socklen_t l = sizeof(tv);

	if (sys_getsockopt(fd, SOL_SOCKET, opt, &tv, &l) < 0 || (!tv.tv_sec && !tv.tv_usec))
		return 0;
	return sys_now_ns() + (uint64_t)tv.tv_sec * 1000000000u + (uint64_t)tv.tv_usec * 1000u;
}

/* The errno that the link died with, told exactly once. */
static bool take_pending(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);
	int e = st && atomic_load(&st->phase) & PH_NOREP ? atomic_exchange(&st->pending_err, 0) : 0;

	if (!e)
		return false;
	errno = e;
	return true;
}

/* ---- the application's buffers */

static const struct iovec *op_iov(const struct io_op *op, int *cnt)
{
	const struct msghdr *m = op->msg;

	*cnt = op->kind == IO_MSG ? (int)m->msg_iovlen : op->kind == IO_VEC ? op->cnt : 1;
	return op->kind == IO_MSG ? m->msg_iov : op->kind == IO_VEC ? op->iov : &op->one;
}

static size_t op_want(const struct io_op *op)
{
	const struct iovec *iov;
	size_t n = 0;
	int i, cnt;

	iov = op_iov(op, &cnt);
	for (i = 0; i < cnt; i++)
		n += iov[i].iov_len;
	return n;
}

/* The buffers behind the first `skip` bytes. */
struct rest {
	struct iovec few[8], *iov;
	int cnt;
};

static bool rest_of(const struct io_op *op, size_t skip, struct rest *r)
{
	const struct iovec *iov;
	int i, cnt;

	iov = op_iov(op, &cnt);
	r->iov = r->few;
	r->cnt = 0;
	if (cnt > 8 && !(r->iov = malloc((size_t)cnt * sizeof(*iov)))) {
		errno = ENOMEM;
		return false;
	}
	for (i = 0; i < cnt; i++) {
		size_t len = iov[i].iov_len;

		if (skip >= len) {
			skip -= len;
			continue;
		}
		r->iov[r->cnt].iov_base = (char *)iov[i].iov_base + skip;
		r->iov[r->cnt++].iov_len = len - skip;
		skip = 0;
	}
	return true;
}

static void rest_free(struct rest *r)
{
	int e = errno;

	if (r->iov != r->few)
		free(r->iov);
	errno = e;
}

/* ---- receiving */

static ssize_t rx_kernel(int fd, struct io_op *op, size_t done, int extra)
{
	struct msghdr m = { 0 };
	struct rest rest;
	ssize_t r;

	if (done) {
		if (!rest_of(op, done, &rest))
			return -1;
		m.msg_iov = rest.iov;
		m.msg_iovlen = (size_t)rest.cnt;
		r = sys_recvmsg(fd, &m, op->flags | extra);
		rest_free(&rest);
		return r;
	}
	switch (op->kind) {
	case IO_VEC:
		if (!extra)
			return sys_readv(fd, op->iov, op->cnt);
		m.msg_iov = (struct iovec *)(uintptr_t)op->iov;
		m.msg_iovlen = (size_t)op->cnt;
		return sys_recvmsg(fd, &m, op->flags | extra);
	case IO_MSG:
		return sys_recvmsg(fd, op->msg, op->flags | extra);
	case IO_FROM:
		return sys_recvfrom(fd, op->one.iov_base, op->one.iov_len, op->flags | extra,
				    op->addr, op->len);
	default:
		return sys_recv(fd, op->one.iov_base, op->one.iov_len, op->flags | extra);
	}
}

static ssize_t rx_call(struct vsock *v, int fd, struct io_op *op, size_t done, int extra)
{
	_Atomic uint64_t *c VS_RX_GUARD = vs_rx_enter(v);
	ssize_t r = IO_NOCALL;

	if (!vs_mending(v))
		r = rx_kernel(fd, op, done, extra);
	vs_rx_took(c, vs_rx_consumed(r, op->flags));
	c = NULL;
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
	return rx_kernel(fd, op, 0, 0);
}

static ssize_t rx_post(struct vsock *v, int fd, struct io_op op, ssize_t r)
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
			r = rx_call(v, fd, &op, 0, 0);
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
			    done >= op_want(&op) || !vs_live(v))
				return (ssize_t)done;
			/* Cut short: by a signal, a time-out, the end, or a broken link? */
			p = (struct pollfd){ fd, POLLIN | POLLRDHUP, 0 };
			if (sys_poll(&p, 1, 0) <= 0 || !vs_ready_trouble(v, (uint32_t)p.revents))
				return (ssize_t)done;
			r = IO_NOCALL;
		}
		if (r != IO_NOCALL) {
			e = errno;
			if (r == 0 && (!op_want(&op) || op.flags & MSG_OOB))
				return 0;
			if (r < 0 && !link_error(e)) {
				if (e == ENOTSOCK && !done)
					return vs_stale(v, fd, &op);
				return done ? (ssize_t)done : r;
			}
			if (op.flags & (MSG_OOB | MSG_ERRQUEUE))
				return r;
			if (!judge_rx(v, fd, r, e)) {
				if (take_pending(v))
					return -1;
				errno = e;
				return r;
			}
		}
		/* The link is being mended. */
		vs_install();
		if (!vs_mending(v)) {
			r = rx_call(v, fd, &op, done, 0);
			continue;
		}
		if (nonblocking(fd, op.flags)) {
			errno = EAGAIN;
			return done ? (ssize_t)done : -1;
		}
		if (!waited)
			end = deadline(fd, SO_RCVTIMEO);
		waited = true;
		e = vs_wait_mend(v, end, true);
		if (e) {
			errno = e;
			return done ? (ssize_t)done : -1;
		}
		/* Nothing more to come: what the kernel has to say waits for the next call. */
		if (done && atomic_load(atomic_load(&v->phasep)) & PH_NOREP)
			return (ssize_t)done;
		r = rx_call(v, fd, &op, done, 0);
	}
}

ssize_t vs_rx_post(struct vsock *v, int fd, struct io_op op, ssize_t r)
{
	_Atomic uint32_t *in VS_COUNT_GUARD = &v->inside;

	atomic_fetch_add(in, 1);
	return rx_post(v, fd, op, r);
}

ssize_t vs_recv_any(struct vsock *v, int fd, struct io_op op)
{
	ssize_t r = rx_call(v, fd, &op, 0, 0);

	if (likely(r > 0 && !(op.flags & MSG_WAITALL))) {
		if (!vs_live(v))
			vs_count(v, r);
		return r;
	}
	if (r == -1 && errno == EAGAIN)
		return r;
	return vs_rx_post(v, fd, op, r);
}

/* ---- sending */

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

void vs_trim_locked(struct vstate *st, int fd)
{
	trim_to(st, st->tx_sent, sys_outq(fd));
}

static uint8_t *replay_mem(struct vstate *st)
{
	return (uint8_t *)st + REPLAY_AT;
}

/* The kernel took n bytes of op behind the first `done`: they may be asked for again. */
static void keep(struct vsock *v, struct vstate *st, int fd, const struct io_op *op, size_t done, size_t n)
{
	const struct iovec *iov;
	size_t skip = done;
	int i, q = -1, cnt;

	st->untrimmed += (uint32_t)n;
	if (unlikely(st->untrimmed >= REPLAY_ASK)) {
		st->untrimmed = 0;
		if (atomic_load(&st->trim_limit) == UINT64_MAX && (q = sys_outq(fd)) >= 0 && (size_t)q < n) {
			/* Some of this very send is on the other side already: keep the rest. */
			skip += n - (size_t)q;
			replay_trim(&st->replay, st->replay.end);
			st->replay.base = st->replay.end += n - (size_t)q;
			n = (size_t)q;
		} else {
			trim_to(st, st->replay.end + n, q);
		}
		replay_shrink(&st->replay, replay_mem(st), REPLAY_SOFT);
	}
	if (unlikely(n > replay_room(&st->replay)) && !replay_reserve(&st->replay, replay_mem(st), n)) {
		vs_demote(v, REASON_BUFFER);
		return;
	}
	iov = op_iov(op, &cnt);
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
	if (!rest_of(op, done, &rest))
		return -1;
	m.msg_iov = rest.iov;
	m.msg_iovlen = (size_t)rest.cnt;
	r = sys_sendmsg(fd, &m, op->flags | extra);
	rest_free(&rest);
	return r;
}

void vs_flush_locked(struct vsock *v, int fd)
{
	struct vstate *st = atomic_load(&v->st);

	while (st->tx_sent < st->replay.end) {
		const uint8_t *p;
		size_t n = replay_at(&st->replay, replay_mem(st), st->tx_sent, &p);
		ssize_t r = sys_send(fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (r < 0)
			return;
		st->tx_sent += (uint64_t)r;
		if (atomic_load(&st->trim_limit) == UINT64_MAX && replay_used(&st->replay) > REPLAY_SOFT)
			vs_trim_locked(st, fd);
	}
	if (st->shut_wr)
		sys_shutdown(fd, SHUT_WR);
	vs_phase(st, 0, PH_UNSENT);
}

/* What may be taken from the application while no link can carry it. */
#define DOWN_LIMIT (256u << 10)

static size_t append_down(struct vstate *st, const struct io_op *op, size_t done)
{
	uint64_t used = replay_used(&st->replay);
	size_t n = op_want(op) - done, k = 0;
	struct rest rest;
	int i;

	if (used >= DOWN_LIMIT)
		return 0;
	if (n > DOWN_LIMIT - used)
		n = DOWN_LIMIT - used;
	if (!replay_reserve(&st->replay, replay_mem(st), n) || !rest_of(op, done, &rest))
		return 0;
	for (i = 0; i < rest.cnt && k < n; i++) {
		size_t len = rest.iov[i].iov_len < n - k ? rest.iov[i].iov_len : n - k;

		replay_append(&st->replay, replay_mem(st), rest.iov[i].iov_base, len);
		k += len;
	}
	rest_free(&rest);
	return k;
}

static ssize_t broken_pipe(struct vsock *v, const struct io_op *op, size_t done, int e)
{
	if (done)
		return (ssize_t)done;
	if (e == EPIPE && take_pending(v))
		return -1;
	errno = e;
	if (e == EPIPE && !(op->flags & MSG_NOSIGNAL)) {
		sys_raise_sigpipe();
		errno = EPIPE;
	}
	return -1;
}

/* The link cannot take bytes now (full): wait until it can. 0 or an errno. */
static int wait_writable(int fd, uint64_t end)
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

#define SETTLE_NS UINT64_C(10000000000)

/*
 * Bytes are about to pass us by: what no link has taken yet must go first.  It
 * waits, also for a non-blocking caller: there is no other way to keep the
 * order.  If it takes too long the connection ends.
 */
void vs_settle(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);
	uint64_t end = sys_now_ns() + SETTLE_NS;
	int fd = atomic_load(&v->fd), zero = 0, e = errno;

	while (st && vs_live(v)) {
		uint32_t ph = atomic_load(&st->phase);
		bool away;
		enum shlock_result lr;

		vs_install();
		away = vs_mending(v);
		ph = atomic_load(&st->phase);
		if (ph & PH_NOREP || !(away || ph & PH_UNSENT))
			break;
		if (sys_now_ns() >= end) {
			atomic_compare_exchange_strong(&st->pending_err, &zero, ECONNRESET);
			atomic_store(&st->reason, REASON_TIMEOUT);
			atomic_store(&st->judged, 1);
			sys_shutdown(fd, SHUT_RDWR);
			vs_phase(st, PH_NOREP, 0);
			break;
		}
		if (away) {
			if (vs_wait_mend(v, end, true) == EBADF)
				break;
			continue;
		}
		lr = shlock_take(&st->tx, 100000000, false);
		if (lr == SHLOCK_OK || lr == SHLOCK_DIED) {
			vs_flush_locked(v, fd);
			shlock_drop(&st->tx);
		}
		if (atomic_load(&st->phase) & PH_UNSENT)
			wait_writable(fd, end);
	}
	errno = e;
}

/* The slow half of a send: the phase is odd, or the kernel said something odd. */
static ssize_t send_slower(struct vsock *v, int fd, const struct io_op *op, size_t done)
{
	struct vstate *st = atomic_load(&v->st);
	bool nb = nonblocking(fd, op->flags);
	uint64_t end = nb ? 0 : deadline(fd, SO_SNDTIMEO);

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
		ph = atomic_load(&st->phase);
		if (ph & PH_NOREP) {
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
			if (ph & PH_MEND)
				done += append_down(st, op, done);
			shlock_drop(&st->tx);
			if (done == op_want(op))
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
			e = wait_writable(fd, end);
		} else {
			shlock *held VS_LOCK_GUARD = &st->tx;

			r = tx_kernel(fd, op, done, MSG_NOSIGNAL);
			held = NULL;
			e = r < 0 ? errno : 0;
			if (r > 0) {
				keep(v, st, fd, op, done, (size_t)r);
				done += (size_t)r;
			}
			shlock_drop(&st->tx);
			if (r >= 0 && (done == op_want(op) || nb))
				return (ssize_t)done;
			if (r < 0 && !link_error(e)) {
				errno = e;
				return done ? (ssize_t)done : -1;
			}
			if (r < 0 && !judge_tx(v, e))
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

ssize_t vs_send_live(struct vsock *v, int fd, struct io_op op_)
{
	const struct io_op *op = &op_;
	struct vstate *st = atomic_load(&v->st);
	enum shlock_result lr;
	ssize_t r;
	int e;

	if (unlikely(op->flags & MSG_OOB)) {
		vs_settle(v);
		vs_demote(v, REASON_OOB);
		return send_slow(v, fd, op, 0);
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
	{
		shlock *held VS_LOCK_GUARD = &st->tx;

		r = tx_kernel(fd, op, 0, MSG_NOSIGNAL);
		held = NULL;
	}
	if (likely(r > 0)) {
		keep(v, st, fd, op, 0, (size_t)r);
		shlock_drop(&st->tx);
		return r;
	}
	e = errno;
	shlock_drop(&st->tx);
	if (r == 0 || !link_error(e)) {
		errno = e;
		return r;
	}
	if (!judge_tx(v, e))
		return broken_pipe(v, op, 0, e);
	return send_slow(v, fd, op, 0);
}

int vs_error(struct vsock *v, int err)
{
	struct vstate *st = atomic_load(&v->st);

	if (atomic_load(&st->phase) & PH_NOREP)
		return err ? err : atomic_exchange(&st->pending_err, 0);
	if (atomic_load(&st->phase) & PH_MEND)
		return 0;
	return err && link_error(err) && judge_tx(v, err) ? 0 : err;
}

uint64_t vs_unsent(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);
	uint64_t n = 0;

	if (atomic_load(&st->phase) & (PH_MEND | PH_UNSENT) && shlock_take(&st->tx, 1000000, false) == SHLOCK_OK) {
		n = st->replay.end - st->tx_sent;
		shlock_drop(&st->tx);
	}
	return n;
}

void vs_install_all(void)
{
	int e = errno;

	if (!roam_vfork_child)
		helper_install();
	errno = e;
}

int vs_shutdown(struct vsock *v, int fd, int how)
{
	struct vstate *st = atomic_load(&v->st);
	uint32_t ph;
	enum shlock_result lr;
	int r = 0, e;

	if (!vs_live(v) || how < 0 || how > SHUT_RDWR)
		return sys_shutdown(fd, how);
	if (how != SHUT_WR)
		st->shut_rd = 1;
	if (how == SHUT_RD)
		return sys_shutdown(fd, how);
	/* A sender blocked in the kernel holds the lock: shutdown must wake it, not wait for it. */
	lr = shlock_take(&st->tx, 0, false);
	if (lr == SHLOCK_BUSY || lr == SHLOCK_SELF) {
		/* What it has sent is known when it is out: the peer waits for that. */
		if (v->pair)
			atomic_store(&v->pair->side[st->ho.role].fin, PAIR_FIN_SOON);
		st->shut_wr = 1;
		r = sys_shutdown(fd, how);
		e = errno;
		lr = shlock_take(&st->tx, 20000000, false);
		if (lr != SHLOCK_BUSY)
			vs_announce_fin(v, false);
		if (lr == SHLOCK_OK || lr == SHLOCK_DIED)
			shlock_drop(&st->tx);
		errno = e;
		return r;
	}
	st->shut_wr = 1;
	atomic_store(&v->pair->side[st->ho.role].fin, st->replay.end);
	ph = atomic_load(&st->phase);
	/* While the link is mended the FIN follows the last byte (vs_flush_locked). */
	if (!(ph & (PH_MEND | PH_UNSENT)) || ph & PH_NOREP) {
		vs_install();
		r = sys_shutdown(fd, how);
	} else if (how == SHUT_RDWR) {
		sys_shutdown(fd, SHUT_RD);
	}
	e = errno;
	shlock_drop(&st->tx);
	/* The link has died and nobody noticed: the FIN follows on the next one. */
	if (r < 0 && link_error(e) && !(ph & PH_NOREP) && !atomic_load(&st->judged) && !peer_closed(v, st)) {
		vs_break(v, ECONNRESET, "shutdown");
		r = 0;
	}
	errno = e;
	return r;
}

/*
 * The kernel would send straight from the file, out of our sight.  Read and
 * send instead; a file offset only moves by what was really sent.
 */
ssize_t vs_sendfile(struct vsock *v, int out, int in, off_t *off, size_t n)
{
	size_t done = 0, max = 64 << 10;
	char *buf = malloc(max);

	if (!buf) {
		errno = ENOMEM;
		return -1;
	}
	while (done < n) {
		off_t pos = off ? *off : sys_lseek(in, 0, SEEK_CUR);
		size_t want = n - done < max ? n - done : max;
		ssize_t r, s;

		if (pos < 0) {
			ssize_t k = -1;

			/* Not a file, but it may be something the kernel can send from. */
			if (!off && errno == ESPIPE) {
				vs_settle(v);
				vs_demote(v, REASON_SPLICE);
			}
			free(buf);
			k = sys_sendfile(out, in, off, n - done);
			return done ? (ssize_t)done : k;
		}
		r = sys_pread(in, buf, want, pos);
		if (r < 0) {
			free(buf);
			return done ? (ssize_t)done : -1;
		}
		if (r == 0)
			break;
		s = vs_send_live(v, out, io_buf(buf, (size_t)r, 0));
		if (s < 0) {
			int e = errno;

			free(buf);
			errno = e;
			return done ? (ssize_t)done : -1;
		}
		if (off)
			*off += s;
		else
			sys_lseek(in, pos + s, SEEK_SET);
		done += (size_t)s;
		if (s < r)
			break;
	}
	free(buf);
	return (ssize_t)done;
}
