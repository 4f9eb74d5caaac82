/* Sending on a coded link. See coding.h. */
#include "adapt.h"
#include "coding.h"
#include "vring.h"
#include "vs_int.h"

#define ASK_EVERY (256u << 10)	/* raw bytes, then the kernel is asked what arrived */

static uint8_t *replay_mem(struct vstate *st)
{
	return (uint8_t *)st + REPLAY_AT;
}

bool coding_left(struct vstate *st)
{
	return atomic_load(&coding_of(st)->left);
}

/* Before tx is dropped. */
static void say_left(struct vstate *st, struct coding *c)
{
	struct stage_enc *e = coding_enc(c);

	atomic_store(&c->left, e->end != e->at || e->off != st->replay.end);
}

void coding_trim(struct vsock *v, int fd)
{
	struct vstate *st = atomic_load(&v->st);
	struct stage_enc *e = coding_enc(coding_of(st));
	uint64_t to, limit = atomic_load(&st->trim_limit), sent = e->wire - (e->end - e->at);
	int q = sys_outq(fd);

	if (q < 0 || (uint64_t)q > sent || vring_peer_moves(v) || atomic_load(&st->phase) & PH_MEND)
		return;
	to = stage_acked(e, sent - (uint64_t)q);
	replay_trim(&st->replay, to < limit ? to : limit);
}

/* The next bytes to be coded, in at most two pieces. */
static int pieces(struct vstate *st, uint64_t off, size_t n, struct iovec iov[2])
{
	int cnt = 0;

	while (n && cnt < 2) {
		const uint8_t *p;
		size_t k = replay_at(&st->replay, replay_mem(st), off, &p);

		if (k > n)
			k = n;
		iov[cnt++] = (struct iovec){ (void *)(uintptr_t)p, k };
		off += k;
		n -= k;
	}
	return cnt;
}

/* Every byte passes the guess, in order; the larger piece's word counts. */
static bool worth(struct guess *g, const struct iovec *iov, int cnt)
{
	bool first = guess_block(g, iov[0].iov_base, iov[0].iov_len);
	bool second = cnt > 1 && guess_block(g, iov[1].iov_base, iov[1].iov_len);

	return cnt > 1 && iov[1].iov_len > iov[0].iov_len ? second : first;
}

/* How far is the other end's reader? Its notes come in the other direction. */
static bool far_ahead(struct vsock *v, struct vstate *st, struct coding *c, int fd)
{
	uint64_t off = coding_enc(c)->off;

	if (off - atomic_load(&c->peer_off) > CODING_AHEAD / 2 && off - c->looked > CODING_NOTE / 2) {
		c->looked = off;
		coding_look_for_notes(v, st, fd);
	}
	return off - atomic_load(&c->peer_off) > CODING_AHEAD;
}

static long code_block(struct vsock *v, struct vstate *st, struct coding *c, int fd, size_t n, uint64_t queued)
{
	struct stage_enc *e = coding_enc(c);
	struct iovec iov[2];
	int cnt = pieces(st, e->off, n, iov), level;
	bool good = worth(&c->guess, iov, cnt);
	uint64_t t;
	long k;

	level = good && !far_ahead(v, st, c, fd) ? adapt_level(v, n, queued) : 0;
	t = sys_now_ns();
	k = stage_encode(e, iov, cnt, n, level, 0);
	if (k < 0)
		return k;
	t = sys_now_ns() - t;
	atomic_fetch_add(&c->code_ns, t);
	/* What is stored for a look at the link tells nothing about the bytes. */
	if (level || !good || atomic_load(&st->code_level))
		guess_saw(&c->guess, n, (size_t)k > n ? n : (size_t)k, level > 0);
	if (level)
		adapt_saw(level, n, t);
	return k;
}

/*
 * Too little for a block, and the link is busy: it waits for more, or for the
 * link.  A note is begun, so that nobody takes an end here for the stream's.
 */
static void hold(struct coding *c, struct stage_enc *e, int fd)
{
	const uint8_t *p;

	if (stage_note(e, c->noted, 0) && stage_wire(e, &p) > 0 && sys_send(fd, p, 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1)
		stage_taken(e, 1);
}

/* To the kernel what it takes. errno, EAGAIN: it is full; 0: nothing is left. */
static int push(struct vsock *v, struct vstate *st, struct coding *c, int fd, bool all)
{
	struct stage_enc *e = coding_enc(c);
	const uint8_t *p;
	uint64_t waiting, queued = STAGE_ENOUGH;
	size_t n;

	for (;;) {
		bool held = e->end - e->at == STAGE_HEAD + STAGE_NOTE - 1;

		waiting = st->replay.end - e->off;
		/* A note that was begun to hold back what waits behind it. */
		if (held && !all && waiting && waiting < STAGE_ENOUGH && sys_notsent(fd) >= (int)STAGE_IDLE)
			return EAGAIN;
		while ((n = stage_wire(e, &p)) != 0) {
			ssize_t r = sys_send(fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);

			if (r < 0)
				return errno;
			stage_taken(e, (size_t)r);
		}
		if (!waiting)
			return 0;
		n = waiting < STAGE_BLOCK ? (size_t)waiting : STAGE_BLOCK;
		if (n < STAGE_ENOUGH)
			queued = (uint64_t)sys_notsent(fd);
		if (n < STAGE_ENOUGH && !all)
			n = stage_share(e, waiting, queued);
		if (!n) {
			hold(c, e, fd);
			return EAGAIN;
		}
		if (code_block(v, st, c, fd, n, queued) < 0)
			return EPROTO;		/* somebody died in the codec: a fresh stage is due */
		if (e->wire - c->asked >= ASK_EVERY || replay_used(&st->replay) > ASK_EVERY) {
			c->asked = e->wire;
			coding_trim(v, fd);
			adapt_sent(v);
		}
	}
}

enum coding_pushed coding_push(struct vsock *v, int fd, bool all)
{
	struct vstate *st = atomic_load(&v->st);
	struct coding *c = coding_of(st);
	int r = push(v, st, c, fd, all);

	say_left(st, c);
	if (!r)
		return CODING_DONE;
	return r == EAGAIN && coding_enc(c)->end - coding_enc(c)->at < STAGE_HEAD + STAGE_NOTE ? CODING_HELD : CODING_FULL;
}

void coding_note(struct vsock *v, int fd, uint64_t rx_off)
{
	struct vstate *st = atomic_load(&v->st);
	struct coding *c = coding_of(st);

	/* A sender is at it: with one of the next reads, then. */
	if (shlock_take(&st->tx, 0, false) != SHLOCK_OK)
		return;
	if (vs_coded(v) && !(atomic_load(&st->phase) & (PH_MEND | PH_NOREP)) && !vs_mending(v) && !coding_left(st) &&
	    !vs_peer_closed(v, st) && stage_note(coding_enc(c), rx_off, 0)) {
		c->noted = rx_off;
		push(v, st, c, fd, false);
		say_left(st, c);
	}
	shlock_drop(&st->tx);
}

size_t coding_put(struct vsock *v, int fd, const struct io_op *op, size_t done, int *err)
{
	struct vstate *st = atomic_load(&v->st);
	struct coding *c = coding_of(st);
	struct stage_enc *e = coding_enc(c);
	size_t want = vs_op_want(op), had = done;
	int r;

	*err = 0;
	for (;;) {
		uint64_t waiting = st->replay.end - e->off;
		size_t n = want - done;

		/* Nothing is taken that cannot begin to go. */
		r = push(v, st, c, fd, false);
		if (r && (r != EAGAIN || waiting >= STAGE_BLOCK || e->end - e->at > STAGE_HEAD + STAGE_NOTE))
			break;
		if (done == want)
			break;
		waiting = st->replay.end - e->off;
		if (n > STAGE_BLOCK - waiting)
			n = STAGE_BLOCK - (size_t)waiting;
		n = vs_keep_unsent(st, op, done, n);
		if (!n) {
			r = EAGAIN;
			break;
		}
		done += n;
	}
	if (r && r != EAGAIN)
		*err = r == EPROTO ? ECONNRESET : r;
	say_left(st, c);
	return done - had;
}

/*
 * Somebody was killed between the kernel and our count of it: the kernel's is
 * right.  In the codec itself: only a fresh stage knows how to go on.
 */
void coding_mend_tx(struct vsock *v, int fd)
{
	struct vstate *st = atomic_load(&v->st);
	struct coding *c = coding_of(st);
	struct stage_enc *e = coding_enc(c);
	struct link_count k;
	uint64_t left;

	if (link_count(fd, st->link_syn, &k) < 0)
		return;
	left = e->wire + c->wire_base - k.sent;
	if (e->inside || left > e->end)
		vs_break(v, ECONNRESET, "torn");
	else
		e->at = e->end - (uint32_t)left;
}

void coding_last(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);

	if (!vs_coded(v) || atomic_load(&st->phase) & PH_NOREP || !coding_left(st))
		return;
	vs_phase(st, PH_UNSENT, 0);
	helper_want(v, WANT_FLUSH);
}

uint64_t coding_outq(struct vsock *v, int fd)
{
	struct vstate *st = atomic_load(&v->st);
	uint64_t n;

	if (shlock_take(&st->tx, 100000000, false) != SHLOCK_OK)
		return replay_end(&st->replay) - st->replay.base;
	if (vs_coded(v) && !vs_mending(v))
		coding_trim(v, fd);
	n = replay_used(&st->replay);
	shlock_drop(&st->tx);
	return n;
}
