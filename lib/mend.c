/*
 * Mending: from a broken link to a new one.  All of it runs in the helper.
 *
 *	DIAL	find a process that speaks for the other end: connect to its
 *		rendezvous socket.  Refused by all of them: the other end is
 *		gone, and the kernel's own word about the old link stands; up
 *		to here the old link has not been touched.
 *	QUIET	no thread is inside a receive or a send (shutdown() wakes those
 *		that sleep in the kernel); the old link's counters are checked
 *		and its unread bytes are copied.
 *	ASKED	REQ is out, with our end's unread bytes and a candidate link.
 *	FLUSH	the new link is full before all was sent again.
 *	FOLLOW	another process that shares the connection mends it; get the
 *		new link's descriptor from it (PULL) when it is done.
 *
 * An incoming REQ enters at QUIET; after our OK nothing is trimmed before DONE.  What may be answered when is decided by
 * handover.c alone.
 */
#include "mend_int.h"
#include "coding.h"
#include "vs_int.h"
#include "event.h"
#include "freeze.h"
#include "park.h"

static struct mend *mends;

struct mend *mend_of(struct vsock *v)
{
	struct mend *m = v->mend;

	if (m)
		return m;
	m = calloc(1, sizeof(*m));
	if (!m)
		return NULL;
	m->v = v;
	m->own = m->cand = m->in_link = m->in_mem = m->in_ring = -1;
	inband_init(&m->ask, -1);
	inband_init(&m->ans, -1);
	m->next = mends;
	mends = m;
	v->mend = m;
	/* A request may be here before our own turn: its unread bytes are part of the answer. */
	park_take(m);
	return m;
}

struct vstate *mend_state_of(struct mend *m)
{
	return atomic_load(&m->v->st);
}

/* -1: the program has closed it past us, the number may be anything by now. */
int mend_own_fd(struct mend *m)
{
	if (m->own < 0)
		m->own = helper_borrow(atomic_load(&m->v->fd));
	if (m->own >= 0 && sys_sock_ino(m->own) != mend_state_of(m)->link_ino) {
		helper_close(m->own);
		m->own = -1;
	}
	return m->own;
}

void mend_drop_own(struct mend *m)
{
	if (m->own >= 0)
		helper_unwatch(m->own);
	helper_close(m->own);
	m->own = -1;
}

/* Once the program has it (and nothing is left to flush) it is the program's alone. */
void mend_settle(struct mend *m)
{
	if (!m->untold && !m->v->orphan && !vs_mending(m->v) &&
	    !(atomic_load(&mend_state_of(m)->phase) & PH_UNSENT))
		mend_drop_own(m);
}

/* Hands the present link to the program's threads; again later if their queue is full. */
void mend_tell(struct mend *m, int link)
{
	m->untold = !m->v->orphan && !helper_tell(m->v, link, vs_gen(mend_state_of(m)));
	if (m->untold)
		m->due = sys_now_ns() + 5 * MS;
}

void mend_drop_ask(struct mend *m)
{
	mend_drop_ring(m);
	chan_close(m->chan);
	m->chan = NULL;
	helper_close(m->cand);
	m->cand = -1;
	mend_drop_far_ask(m);
}

/* The helper's own table: it closes the memfd in there. */
void mend_drop_ring(struct mend *m)
{
	vring_free(m->ring);
	m->ring = NULL;
}

void mend_drop_in(struct mend *m)
{
	chan_close(m->in_chan);
	m->in_chan = NULL;
	helper_close(m->in_link);
	helper_close(m->in_mem);
	helper_close(m->in_ring);
	m->in_link = m->in_mem = m->in_ring = -1;
	m->in.type = 0;
	mend_drop_far_in(m);
}

void mend_drop_unread(struct mend *m)
{
	free(m->unread);
	m->unread = NULL;
	m->nunread = 0;
}

void mend_drop_kept(struct mend *m)
{
	free(m->kept);
	m->kept = NULL;
	m->nkept = 0;
}

void mend_drop_lead(struct mend *m)
{
	struct vstate *st = mend_state_of(m);
	uint32_t me = (uint32_t)m->v->slot + 1;

	atomic_compare_exchange_strong(&st->lead, &me, 0);
}

/* Idle again; the memory stays until the connection ends. */
void mend_rest(struct mend *m)
{
	mend_drop_ask(m);
	mend_drop_unread(m);
	m->state = M_IDLE;
	m->due = 0;
	m->shut = false;
	m->since = m->quiet_since = m->lost_since = 0;
	m->backoff = 0;
}

/* Are we the process of this end that mends?  Takes the job if nobody alive has it. */
bool mend_lead(struct mend *m)
{
	struct vstate *st = mend_state_of(m);
	uint32_t l = atomic_load(&st->lead), me = (uint32_t)m->v->slot + 1;
	uint32_t pid;

	if (m->v->slot < 0)
		return false;
	if (l == me)
		return true;
	if (l > NPROC)
		l = 0;
	pid = l ? atomic_load(&st->slot[l - 1].s.pid) : 0;
	if (pid && sys_alive((int)pid))
		return false;
	return atomic_compare_exchange_strong(&st->lead, &l, me);
}

/* ---- the end of the attempt */

/*
 * No more mending.  If the old link was not touched the kernel's socket goes
 * on as it is; else what it would have said is told from pending_err.
 */
void mend_give_up(struct mend *m, uint32_t reason, int err)
{
	struct vsock *v = m->v;
	struct vstate *st = mend_state_of(m);
	int zero = 0, own = 0;
	socklen_t l = sizeof(own);
	char id[9];

	if (m->shut) {
		/* Told once: what the kernel still holds, or else our own. */
		sys_getsockopt(mend_own_fd(m), SOL_SOCKET, SO_ERROR, &own, &l);
		/* A doorbell that nobody read makes a reset; bytes that nobody read would be the peer's word. */
		if (own == ECONNRESET && !err && m->fin_theirs && vring_of(v))
			own = 0;
		atomic_store(&st->silent_end, !own && !err);
		if (own || err)
			atomic_compare_exchange_strong(&st->pending_err, &zero, own ? own : err);
	}
	vs_log_id(v, id);
	/* An orderly end, of which the kernel's word came first, is nothing to report. */
	if (reason == REASON_CLOSED)
		log_debug("%s closed by the other end", id);
	else
		log_info("%s ended reason=%s (%s)", id, reason_word(reason), reason_text(reason));
	/* An end in good order is told as an end, by the next receive. */
	if (reason != REASON_CLOSED)
		event_say(v, ROAM_EVENT_PLAIN, reason, 0);
	atomic_store(&st->reason, reason);
	atomic_store(&st->judged, 1);
	ho_kill(&st->ho, reason);
	vs_phase(st, PH_NOREP, PH_MEND | PH_UNSENT);
	mend_drop_in(m);
	mend_rest(m);
	mend_drop_lead(m);
	mend_state_of(m)->moving = false;
	if (vring_of(v))
		vring_kick(v);
	/* A link that the program never saw dies with us; its sockets are looked at again. */
	mend_drop_own(m);
	mend_tell(m, -1);
	if (v->orphan)
		helper_want(v, WANT_FLUSH);
}

void mend_too_late(struct mend *m)
{
	/* A kernel that waits for ever for a silent path has no word of its own. */
	if (!m->shut && mend_own_fd(m) >= 0) {
		sys_shutdown(m->own, SHUT_RDWR);
		m->shut = true;
	}
	mend_give_up(m, REASON_TIMEOUT, ETIMEDOUT);
}

void mend_again(struct mend *m, uint64_t wait)
{
	uint64_t now = sys_now_ns();

	mend_drop_ask(m);
	if (now - m->since > conf()->deadline_ns) {
		mend_too_late(m);
		return;
	}
	if (!wait) {
		m->backoff = m->backoff ? m->backoff * 2 : 2 * MS;
		if (m->backoff > BACKOFF_MAX)
			m->backoff = BACKOFF_MAX;
		wait = m->backoff;
	}
	m->state = M_DIAL;
	m->due = now + wait;
}

/* ---- what drives it */

/* What a coded link holds back: true, it is not all gone yet. */
static bool coding_flush(struct mend *m)
{
	struct vsock *v = m->v;
	struct vstate *st = mend_state_of(m);
	bool left = coding_left(st);
	int fd = left ? mend_own_fd(m) : -1;
	enum coding_pushed pushed = CODING_FULL;
	uint64_t now = sys_now_ns();
	enum shlock_result lr;

	if (!left) {
		m->held = 0;
		return false;
	}
	lr = fd >= 0 ? shlock_take(&st->tx, MS, false) : SHLOCK_BUSY;
	if (lr == SHLOCK_DIED && vs_coded(v))
		coding_mend_tx(v, fd);
	if (lr == SHLOCK_OK || lr == SHLOCK_DIED) {
		if (!vs_coded(v) || atomic_load(&st->phase) & PH_MEND)
			pushed = CODING_DONE;
		else
			pushed = coding_push(v, fd, m->held && now >= m->held);
		shlock_drop(&st->tx);
	}
	if (pushed != CODING_HELD)
		m->held = 0;
	if (pushed == CODING_DONE)
		return false;
	if (pushed == CODING_HELD) {
		if (!m->held)
			m->held = now + CODING_HOLD_NS;
		m->state = M_FLUSH;
		m->due = m->held;
		return true;
	}
	if (fd >= 0 && link_dead(fd) && !vs_judge_tx(v, ECONNRESET))
		return false;		/* its end is real: nobody will read it */
	m->state = M_FLUSH;
	m->due = now + 100 * MS;
	if (fd < 0)
		vs_break(v, ECONNRESET, "reset");
	else
		helper_watch(v, fd);
	return true;
}

#define LINGER_NS	(5 * MS)

/* Closed, and delivered, but its notes would meet a closed socket: true, not yet. */
static bool coding_linger(struct mend *m)
{
	struct vsock *v = m->v;
	int fd = mend_own_fd(m);

	/* No descriptor: it is on its way to us (mend_given). */
	if (fd >= 0 && coding_over(v, fd))
		return false;
	if (fd >= 0 && link_dead(fd)) {
		if (!vs_judge_tx(v, ECONNRESET))
			return false;
		vs_break(v, ECONNRESET, "reset");
	}
	m->state = M_FLUSH;
	m->due = sys_now_ns() + LINGER_NS;
	return true;
}

static void flush(struct mend *m)
{
	struct vsock *v = m->v;
	struct vstate *st = mend_state_of(m);
	uint32_t ph = atomic_load(&st->phase);

	if (ph & PH_MEND && !(ph & PH_NOREP))
		return;
	if (ph & PH_UNSENT && !(ph & PH_NOREP)) {
		int fd = mend_own_fd(m);

		enum shlock_result lr = fd >= 0 ? shlock_take(&st->tx, MS, false) : SHLOCK_BUSY;

		if (lr == SHLOCK_OK || lr == SHLOCK_DIED) {
			vs_flush_locked(v, fd);
			shlock_drop(&st->tx);
		}
		if (atomic_load(&st->phase) & PH_UNSENT) {
			m->state = M_FLUSH;
			m->due = sys_now_ns() + 100 * MS;
			if (fd < 0 || link_dead(fd))
				vs_break(v, ECONNRESET, "reset");
			else if (vring_of(v))
				m->due = sys_now_ns() + 2 * MS;
			else
				helper_watch(v, fd);
			return;
		}
	}
	if (ph & PH_CODED && !(ph & PH_NOREP) && !vs_mending(v) && (coding_flush(m) || (v->orphan && coding_linger(m))))
		return;
	m->state = M_IDLE;
	m->due = 0;
	if (m->untold)
		mend_tell(m, vs_mending(v) ? m->own : -1);
	mend_settle(m);
	if (v->orphan) {
		/* Closed by the application long ago, delivered now. */
		coding_end(v, m->own);
		vring_end(v, m->own);
		shlock_take(&vs_fds_lock, -1, false);
		v->orphan = false;
		vs_end(v);
		shlock_drop(&vs_fds_lock);
		mend_drop_own(m);
	}
}

void mend_cancel(struct mend *m)
{
	struct vstate *st = mend_state_of(m);

	mend_rest(m);
	mend_drop_lead(m);
	atomic_store(&st->pending_err, 0);
	/* What the program has sent meanwhile is in the replay buffer only. */
	vs_phase(st, PH_UNSENT, PH_MEND);
	mend_tell(m, -1);
	flush(m);
}

void mend_given(struct vsock *v, int fd)
{
	/* Delivered already, by way of the helper's own copy: nobody would close this one. */
	struct mend *m = atomic_load(&v->orphan) ? mend_of(v) : NULL;

	if (m && m->own < 0)
		m->own = fd;
	else
		helper_close(fd);
}

/* Both may notice at once. The opener, but the one that moves knows already, and the other follows. */
static bool asks_first(struct vsock *v, struct vstate *st)
{
	bool ours = v->pair && atomic_load(&v->pair->side[st->ho.role].ring) >= PAIR_RING_NOW;
	bool theirs = vring_peer_moves(v);

	/* Only we know that a link to another host is left. */
	if (atomic_load(&st->remote) && st->moving)
		return true;
	return ours != theirs ? ours : st->ho.role == HO_OPENER;
}

void mend_poke(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);
	struct mend *m = st ? mend_of(v) : NULL;
	uint32_t ph;

	if (!m)
		return;
	park_take(m);
	ph = atomic_load(&st->phase);
	mend_proc_add(v);
	if (!(ph & PH_MEND) && (!vs_mending(v) || m->own >= 0)) {
		/* Up; perhaps not yet installed, but that is for the program's threads. */
		if (m->state == M_IDLE || m->state == M_FLUSH)
			flush(m);
		return;
	}
	if (m->state != M_IDLE && m->state != M_FLUSH)
		return;
	m->since = sys_now_ns();
	if (freezing()) {
		mend_freeze(v);
		return;
	}
	/* Mended long ago by a sharer, and only now noticed here: nothing to lead. */
	if (!(ph & PH_MEND) || !mend_lead(m)) {
		m->state = M_FOLLOW;
		m->due = m->since;
		return;
	}
	m->state = M_DIAL;
	m->due = m->since + (asks_first(v, st) ? 0 : ACCEPTOR_NS);
	if (atomic_load(&st->remote) && atomic_load(&st->broke_end))
		m->due += NOTICE_NS;
}

void mend_freeze(struct vsock *v)
{
	struct mend *m = mend_of(v);

	if (!m || m->state == M_FROZEN || atomic_load(&mend_state_of(m)->phase) & PH_NOREP)
		return;
	mend_far_stop(m);
	if (atomic_load(&mend_state_of(m)->phase) & PH_NOREP)
		return;
	/* A link that was only just adopted is frozen like any other: the program may not read from it. */
	if (!(atomic_load(&mend_state_of(m)->phase) & PH_MEND))
		vs_break(v, 0, "freeze");
	if (m->state == M_ASKED)
		ho_ask_failed(&mend_state_of(m)->ho);
	mend_drop_ask(m);
	mend_drop_in(m);
	/* Another process of a tree leads: it is frozen by itself. */
	m->state = mend_lead(m) ? M_QUIET : M_FROZEN;
	m->due = m->state == M_QUIET;
}

bool mend_frozen(struct vsock *v)
{
	return v->mend && v->mend->state == M_FROZEN;
}

void mend_thaw(struct vsock *v, bool moved)
{
	struct vstate *st = atomic_load(&v->st);
	struct mend *m = mend_of(v);
	uint32_t rnd = 0;

	if (!m || atomic_load(&st->phase) & PH_NOREP)
		return;
	if (moved) {
		/* Two copies of one image differ in their epoch: the higher one stays. */
		if (sys_random(&rnd, sizeof(rnd)) < 0)
			rnd = 0;
		ho_reincarnate(&st->ho, 1 + rnd % 1024);
		st->moved = true;
		vs_set_remote(v);
	}
	if (m->state != M_FROZEN && m->state != M_QUIET)
		return;
	m->since = sys_now_ns();
	m->state = m->state == M_QUIET ? M_QUIET : M_DIAL;
	m->due = m->since;
	if (!mend_lead(m))
		m->state = M_FOLLOW;
}

void mend_restored(struct vsock *v, bool moved)
{
	struct mend *m = mend_of(v);

	(void)moved;
	if (!m || atomic_load(&mend_state_of(m)->phase) & PH_NOREP || m->state == M_FROZEN)
		return;
	mend_give_up(m, REASON_MOVED, ECONNRESET);
}

static void step(struct mend *m)
{
	int q;

	m->due = 0;
	switch (m->state) {
	case M_DIAL:
		mend_dial(m);
		break;
	case M_QUIET:
		q = mend_quiet(m);
		if (q <= 0)
			break;
		if (freezing()) {
			mend_drop_in(m);
			mend_drop_own(m);
			m->state = M_FROZEN;
			break;
		}
		if (m->in.type && (m->in_chan || m->ans_ready))
			mend_answer(m);
		if (m->state == M_QUIET) {
			if (m->chan)
				mend_ask(m);
			else if (m->ask.fd >= 0)
				mend_ask_far(m);
			else
				mend_again(m, ACCEPTOR_NS);
		}
		break;
	case M_QUERY:
	case M_CONNECT:
	case M_ASKED:
	case M_CONFIRM:
		mend_far_step(m);
		break;
	case M_FLUSH:
		flush(m);
		break;
	case M_FOLLOW:
		mend_follow(m);
		break;
	default:
		if (m->untold)
			mend_tell(m, m->own);
		mend_settle(m);
		break;
	}
}

uint64_t mend_timers(uint64_t now)
{
	uint64_t next = 0;
	struct mend *m;

	for (m = mends; m; m = m->next)
		if (m->due && m->due <= now)
			step(m);
	for (m = mends; m; m = m->next)
		if (m->due && (!next || m->due < next))
			next = m->due;
	return next;
}

void mend_forget(struct vsock *v)
{
	struct mend **p = &mends, *m = v->mend;

	if (!m)
		return;
	while (*p && *p != m)
		p = &(*p)->next;
	if (*p)
		*p = m->next;
	mend_drop_in(m);
	mend_drop_ask(m);
	mend_drop_unread(m);
	mend_drop_kept(m);
	mend_drop_own(m);
	v->mend = NULL;
	free(m);
}

void mend_table_gone(void)
{
	struct mend *m;

	for (m = mends; m; m = m->next) {
		m->own = m->cand = m->in_link = m->in_mem = m->in_ring = -1;
		m->chan = m->in_chan = NULL;
		m->in.type = 0;
		m->ans_ready = m->untold = false;
		inband_drop(&m->ask);
		inband_drop(&m->ans);
	}
}

void mend_fork_child(void)
{
	mends = NULL;	/* the parent's; the memory is lost to the child */
}
