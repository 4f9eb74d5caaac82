/* Receiving on a coded link. See coding.h. */
#include "coding.h"
#include "vring.h"
#include "vs_int.h"

static bool rx_taken(struct vstate *st)
{
	enum shlock_result lr = shlock_take(&st->rx, 1000000, false);

	return lr == SHLOCK_OK || lr == SHLOCK_DIED;
}

/* The kernel forgets n bytes at the front of the queue. */
static void consume(int fd, uint32_t n)
{
	while (n) {
		ssize_t r = sys_recv(fd, NULL, n, MSG_TRUNC | MSG_DONTWAIT);

		if (r <= 0)
			return;
		n -= (uint32_t)r;
	}
}

/* Readiness is the kernel's to tell: a byte stays while we have something, and none when we have not. */
static void settle(struct coding *c, int fd)
{
	uint32_t hold = c->have > c->at || stage_ready(coding_dec(c));

	if (c->kept > hold) {
		consume(fd, c->kept - hold);
		c->kept = hold;
	}
}

enum pull { PULL_BAD = -3, PULL_ERROR = -2, PULL_DRY = -1, PULL_END = 0 };

/* Decodes what has come into out: a number of bytes > 0, or enum pull (PULL_ERROR: errno). */
static long pull(struct coding *c, int fd, uint8_t *out, size_t cap)
{
	struct stage_dec *d = coding_dec(c);
	size_t got = 0;

	if (c->err) {
		errno = c->err;
		c->err = 0;
		return PULL_ERROR;
	}
	while (got < cap) {
		size_t room = cap - got, n, want = c->kept + room + 64;
		ssize_t r;

		if (want > sizeof(c->wire))
			want = sizeof(c->wire);
		r = sys_recv(fd, c->wire, want, MSG_PEEK | MSG_DONTWAIT);
		if (r < 0 && errno != EAGAIN) {
			/* The kernel says it once; those who read on shall hear it. */
			if (!got)
				return PULL_ERROR;
			c->err = errno;
			break;
		}
		n = r > (ssize_t)c->kept ? (size_t)r - c->kept : 0;
		/* Also without new bytes: the decoder may hold some. */
		if (stage_decode(d, c->wire + c->kept, &n, out + got, &room) != STAGE_OK)
			return got ? (long)got : PULL_BAD;
		if (d->peer_off > atomic_load(&c->peer_off))
			atomic_store(&c->peer_off, d->peer_off);
		c->kept += (uint32_t)n;
		got += room;
		/* Less than was asked for, and nothing of it left. */
		if (got && r < (ssize_t)want && (r < 0 || (size_t)r == c->kept) && room < cap - (got - room))
			break;
		if (n || room) {
			/* The window behind what is kept must not become empty. */
			if (c->kept > CODING_BUF / 2) {
				consume(fd, c->kept - 1);
				c->kept = 1;
			}
			continue;
		}
		if (got)
			break;
		/* Nothing: the byte that was left for readiness hides whether the stream has ended. */
		if (c->kept) {
			consume(fd, c->kept);
			c->kept = 0;
			continue;
		}
		return r == 0 ? PULL_END : PULL_DRY;
	}
	return (long)got;
}

/* Somebody was killed between the kernel and our count of it. */
static void mend_rx(struct vsock *v, struct vstate *st, struct coding *c, int fd)
{
	struct link_count k;
	uint64_t kept;

	if (!vs_coded(v) || vs_mending(v) || link_count(fd, st->link_syn, &k) < 0)
		return;
	kept = c->wire_rx_base + coding_dec(c)->wire - k.received;
	if (kept <= sizeof(c->wire))
		c->kept = (uint32_t)kept;
	else
		vs_break(v, ECONNRESET, "torn");
}

static bool here(struct vsock *v)
{
	return vs_coded(v) && vs_live(v) && !vs_mending(v);
}

/* Into buf, which is empty. */
static long fill(struct coding *c, int fd)
{
	long k = pull(c, fd, c->buf, sizeof(c->buf));

	if (k > 0) {
		c->at = 0;
		c->have = (uint32_t)k;
	} else if (k == PULL_ERROR) {
		c->err = errno;
	}
	return k;
}

/* One piece of the application's: from buf, or straight from the decoder. */
static long take_piece(struct coding *c, int fd, uint8_t *p, size_t len)
{
	long k;

	if (c->have == c->at) {
		if (len >= 4096)
			return pull(c, fd, p, len);
		k = fill(c, fd);
		if (k == PULL_ERROR)
			c->err = 0;
		if (k <= 0)
			return k;
	}
	if (len > c->have - c->at)
		len = c->have - c->at;
	if (p)
		memcpy(p, c->buf + c->at, len);
	c->at += (uint32_t)len;
	return (long)len;
}

static long take(struct coding *c, int fd, const struct io_op *op, size_t done)
{
	bool drop = op->flags & MSG_TRUNC;
	struct rest rest;
	long k = 0, got = 0;
	int i;

	if (!vs_rest_of(op, done, &rest)) {
		errno = ENOMEM;
		return PULL_ERROR;
	}
	for (i = 0; i < rest.cnt; i++) {
		uint8_t *p = rest.iov[i].iov_base;
		size_t len = rest.iov[i].iov_len, n = 0;

		while (n < len) {
			/* Thrown away by way of buf. */
			k = take_piece(c, fd, drop ? NULL : p + n, drop && len - n > 4095 ? 4095 : len - n);
			if (k <= 0)
				break;
			n += (size_t)k;
			got += k;
		}
		if (n < len)
			break;
	}
	if (got && k == PULL_ERROR)
		c->err = errno;
	vs_rest_free(&rest);
	return got ? got : k;
}

/* Up to a block can be seen. */
static long look(struct coding *c, int fd, const struct io_op *op)
{
	struct rest rest;
	uint32_t at;
	long k = 0;
	int i;

	/* What is there already may be less than there is. */
	if (c->at) {
		memmove(c->buf, c->buf + c->at, c->have - c->at);
		c->have -= c->at;
		c->at = 0;
	}
	if (c->have < sizeof(c->buf) && c->have < vs_op_want(op)) {
		k = pull(c, fd, c->buf + c->have, sizeof(c->buf) - c->have);
		if (k > 0)
			c->have += (uint32_t)k;
	} else if (!c->have) {
		k = fill(c, fd);
		if (k == PULL_ERROR)
			c->err = 0;
	}
	if (!c->have)
		return k;
	if (!vs_rest_of(op, 0, &rest)) {
		errno = ENOMEM;
		return PULL_ERROR;
	}
	for (i = 0, at = 0; i < rest.cnt && at < c->have; i++) {
		size_t n = rest.iov[i].iov_len < c->have - at ? rest.iov[i].iov_len : c->have - at;

		memcpy(rest.iov[i].iov_base, c->buf + at, n);
		at += (uint32_t)n;
	}
	vs_rest_free(&rest);
	return at;
}

void coding_look_for_notes(struct vsock *v, struct vstate *st, int fd)
{
	struct coding *c = coding_of(st);
	uint64_t off;
	ssize_t r;

	/* tx is held; a receiver inside sees them itself. */
	if (shlock_take(&st->rx, 0, false) != SHLOCK_OK)
		return;
	if (here(v)) {
		if (c->have == c->at) {
			fill(c, fd);
			settle(c, fd);
		}
		r = sys_recv(fd, c->wire, sizeof(c->wire), MSG_PEEK | MSG_DONTWAIT);
		if (r > (ssize_t)c->kept &&
		    stage_find_note(coding_dec(c), c->wire + c->kept, (size_t)r - c->kept, &off) &&
		    off > atomic_load(&c->peer_off))
			atomic_store(&c->peer_off, off);
	}
	shlock_drop(&st->rx);
}

/* ---- the calls */

static void outside(struct vsock **v)
{
	if (*v)
		atomic_fetch_sub(&(*v)->pollers, 1);
}

/* Until the kernel has something; 0, or EINTR, EAGAIN at the end of SO_RCVTIMEO. */
static int wait_readable(struct vsock *v, int fd, uint64_t end, bool some)
{
	struct vsock *in __attribute__((cleanup(outside), unused)) = v;
	struct pollfd p = { fd, POLLIN | POLLRDHUP, 0 };
	int tmo = -1, r;

	atomic_fetch_add(&v->pollers, 1);
	if (!here(v))
		return 0;
	if (end) {
		int64_t left = (int64_t)(end - sys_now_ns());

		if (left <= 0)
			return EAGAIN;
		tmo = (int)((left + 999999) / 1000000);
	}
	r = sys_poll(&p, 1, tmo);
	if (r < 0)
		return errno == EINTR && !end && !some && sys_signals_restart() ? 0 : errno;
	return 0;
}

static ssize_t result(struct vsock *v, int fd, long k)
{
	switch (k) {
	case PULL_END:
		return 0;
	case PULL_BAD:
		coding_broken(v, fd);
		/* Told once, as by the kernel. */
		return vs_take_pending(v) ? -1 : 0;
	default:
		return -1;
	}
}

ssize_t coding_recv(struct vsock *v, int fd, struct io_op *op, size_t done, bool *moved)
{
	struct vstate *st = atomic_load(&v->st);
	struct coding *c = coding_of(st);
	bool all = op->flags & MSG_WAITALL && !(op->flags & MSG_PEEK), nb, timed = false;
	bool peek_all = op->flags & MSG_WAITALL && op->flags & MSG_PEEK && !(op->flags & MSG_DONTWAIT);
	size_t want, got = 0;
	uint64_t end = 0;
	ssize_t r;
	int e;

	if (vs_op_early(op, fd, &r))
		return r;
	want = vs_op_want(op);
	nb = vs_nonblocking(fd, op->flags);
	for (;;) {
		_Atomic uint64_t *in VS_RX_GUARD = vs_rx_enter(v);
		enum shlock_result lr = shlock_take(&st->rx, 1000000, false);
		uint64_t off = 0, noted = 0;
		long k = PULL_DRY;

		if (lr == SHLOCK_SELF) {		/* a signal handler over a receive */
			vs_rx_took(in, 0);
			in = NULL;
			errno = EAGAIN;
			return got ? (ssize_t)got : -1;
		}
		if (lr == SHLOCK_OK || lr == SHLOCK_DIED) {
			bool ours;

			if (lr == SHLOCK_DIED)
				mend_rx(v, st, c, fd);
			ours = here(v);
			if (ours) {
				k = op->flags & MSG_PEEK ? look(c, fd, op) : want ? take(c, fd, op, done + got) :
					c->have > c->at ? 1 : fill(c, fd);
				e = errno;
				if (got && k == PULL_ERROR)
					c->err = e;
				settle(c, fd);
				errno = e;
				off = coding_dec(c)->off - (c->have - c->at);
				noted = c->noted;
			}
			shlock_drop(&st->rx);
			vs_rx_took(in, k > 0 && want && !(op->flags & MSG_PEEK) ? k : 0);
			in = NULL;
			if (!ours) {
				*moved = true;
				return got ? (ssize_t)got : IO_NOCALL;
			}
		} else {
			vs_rx_took(in, 0);
			in = NULL;
		}
		/* One that shall see it all looks again until it is there. */
		if (k > 0 && peek_all && (size_t)k < want && (size_t)k < CODING_BUF && !st->shut_rd) {
			struct pollfd p = { fd, POLLRDHUP, 0 };

			if (sys_poll(&p, 1, 0) == 0) {
				sys_nap_us(500);
				continue;
			}
		}
		if (k > 0) {
			vs_op_no_names(op);
			if (!want)
				return 0;
			got += (size_t)k;
			if (off - noted > CODING_NOTE && off > noted)
				coding_note(v, fd, off);
			if (!all || done + got >= want)
				return (ssize_t)got;
			continue;
		}
		if (k != PULL_DRY) {
			if (got)
				return (ssize_t)got;
			vs_op_no_names(op);
			return result(v, fd, k);
		}
		if (nb) {
			errno = EAGAIN;
			return got ? (ssize_t)got : -1;
		}
		if (!timed)
			end = vs_deadline(fd, SO_RCVTIMEO);
		timed = true;
		e = wait_readable(v, fd, end, done + got > 0);
		if (e) {
			errno = e;
			return got ? (ssize_t)got : -1;
		}
	}
}

bool coding_readable(struct vsock *v, int fd)
{
	struct vstate *st = atomic_load(&v->st);
	struct coding *c = coding_of(st);
	long k = 1;
	int e = errno;

	/* A receiver is inside: it is for it to say, and what it leaves is told again. */
	if (!rx_taken(st))
		return true;
	if (here(v) && c->have == c->at) {
		k = fill(c, fd);
		settle(c, fd);
	}
	shlock_drop(&st->rx);
	errno = e;
	return k != PULL_DRY;
}

#define READ_BITS (POLLIN | POLLRDNORM)

bool coding_sift(struct pollfd *p)
{
	/* An error is the kernel's to tell, and reading would take it. */
	struct vsock *v = p->revents & READ_BITS && !(p->revents & (POLLERR | POLLHUP)) && p->fd >= 0 ? fdtab_vsock(p->fd) : NULL;

	if (unlikely(v && vs_live(v) && vs_coded(v)) && !vs_mending(v) && !coding_readable(v, p->fd))
		p->revents &= (short)~READ_BITS;
	return p->revents;
}

uint64_t coding_inq(struct vsock *v, int fd)
{
	struct vstate *st = atomic_load(&v->st);
	struct coding *c = coding_of(st);
	uint64_t n = 0;
	size_t used;
	ssize_t r;

	if (!rx_taken(st))
		return 0;
	if (here(v)) {
		if (c->have == c->at) {
			fill(c, fd);
			settle(c, fd);
		}
		n = c->have - c->at;
		r = sys_recv(fd, c->wire, sizeof(c->wire), MSG_PEEK | MSG_DONTWAIT);
		if (r > (ssize_t)c->kept)
			n += stage_count(coding_dec(c), c->wire + c->kept, (size_t)r - c->kept, &used);
	}
	shlock_drop(&st->rx);
	return n;
}

bool coding_fin(struct vsock *v, struct vstate *st, uint64_t fin, uint64_t unread)
{
	struct coding *c = coding_of(st);

	/* Blocks that nobody has decoded: the next look is behind them. */
	return unread > c->kept || ((fin - vs_rx_off(v)) & RX_MASK) == c->have - c->at;
}

bool coding_over(struct vsock *v, int fd)
{
	struct vstate *st = atomic_load(&v->st);
	struct coding *c = coding_of(st);
	bool over = true;

	if (!vs_coded(v) || atomic_load(&st->phase) & PH_NOREP || vs_mending(v) || link_resets(fd))
		return true;
	if (!rx_taken(st))
		return false;
	/* What is more than a note was for the application, and a reset is right. */
	if (c->have == c->at && fill(c, fd) == PULL_DRY) {
		vs_announce_fin(v, false);
		st->shut_wr = 1;
		sys_shutdown(fd, SHUT_WR);
		over = sys_outq(fd) <= 0;
	}
	settle(c, fd);
	shlock_drop(&st->rx);
	return over;
}

void coding_end(struct vsock *v, int fd)
{
	struct vstate *st = atomic_load(&v->st);
	struct coding *c = coding_of(st);

	if (!vs_coded(v) || atomic_load(&st->phase) & PH_NOREP || !vs_last_sharer(v, st) ||
	    !rx_taken(st))
		return;
	/* Unread bytes are thrown away: the kernel tells the sender by a reset. */
	if (c->have == c->at && fill(c, fd) <= 0)
		consume(fd, c->kept);
	else
		link_abort(fd);
	shlock_drop(&st->rx);
}
