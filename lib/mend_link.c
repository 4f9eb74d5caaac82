/* What did the old link carry?  And the new one takes its place. */
#include "mend_int.h"
#include "coding.h"
#include "event.h"
#include "peers.h"

/* What we gave back may not have arrived (kept): it is stated again, behind the bytes that the link brought. */
static uint32_t state_unread(struct mend *m, int fd, const uint8_t *p, uint64_t got, uint64_t unread)
{
	struct vstate *st = mend_state_of(m);
	uint64_t end = got + unread, more;

	mend_drop_unread(m);
	more = m->nkept && m->kept_off + m->nkept > end && m->kept_off <= end ?
		m->kept_off + m->nkept - end : 0;
	if (unread + more) {
		m->unread = malloc(unread + more);
		if (!m->unread)
			return REASON_MEMORY;
		if (p) {
			memcpy(m->unread, p, unread);
		} else if (unread && link_peek(fd, m->unread, unread) != (ssize_t)unread) {
			log_debug("count: %llu unread bytes cannot be read: %s", (unsigned long long)unread, strerror(errno));
			return REASON_COUNT;
		}
		memcpy(m->unread + unread, m->kept + (end - m->kept_off), more);
	}
	m->nunread = unread + more;
	mend_drop_kept(m);
	ho_break(&st->ho);
	ho_drained(&st->ho, got, m->nunread);
	atomic_store(&st->owed, m->nunread ? got + m->nunread : 0);
	return REASON_NONE;
}

/* A ring's unread bytes are the peer's to send again, and ours are still in the memory that we wrote them to. */
static uint32_t count_ring(struct mend *m)
{
	struct vstate *st = mend_state_of(m);
	uint64_t there = vring_inq(m->v);
	uint32_t bad;

	if (atomic_load(&st->ring.broken) == RING_BAD_TAIL || atomic_load(&st->ring.broken) == RING_BAD_HEAD)
		return REASON_RING;
	if (!vring_to_replay(m->v))
		return REASON_MEMORY;
	vring_to_counters(m->v);
	/* A peer that is gone and had read everything ended like any other. */
	m->fin_theirs = vring_of(m->v) && ring_all_taken(&vring_of(m->v)->r);
	bad = state_unread(m, -1, NULL, atomic_load(&st->ring.rx_head), 0);
	/* A hint for receivers: whatever the peer has written there, they wait for it a moment at most. */
	if (!bad && there)
		atomic_store(&st->owed, atomic_load(&st->ring.rx_head) + there);
	return bad;
}

static uint32_t count_coded(struct mend *m)
{
	uint8_t *p = NULL;
	uint64_t got = 0;
	size_t n = 0;
	uint32_t bad = coding_count(m->v, mend_own_fd(m), m->fin_ours, &m->fin_theirs, &got, &p, &n);

	if (!bad)
		bad = state_unread(m, -1, p, got, n);
	free(p);
	return bad;
}

static uint32_t count_old(struct mend *m)
{
	struct vstate *st = mend_state_of(m);
	struct link_count c;
	uint64_t w, got, lib;
	int fd = mend_own_fd(m);

	if (link_count(fd, st->link_syn, &c) < 0) {
		log_debug("count: the old link cannot be asked: %s", strerror(errno));
		return REASON_COUNT;
	}
	/* Every byte the kernel was given is in the replay buffer, or was. A FIN counts as one. */
	w = st->link_tx + c.sent;
	if (w != st->tx_sent && !(w == st->tx_sent + 1 && (m->fin_ours || st->shut_wr))) {
		log_debug("count: kernel sent %llu, library %llu, state %u", (unsigned long long)w,
			  (unsigned long long)st->tx_sent, c.state);
		return REASON_COUNT;
	}
	/* The kernel counts a FIN as a byte received, the library does not: that tells. */
	got = st->link_rx + c.received;
	lib = vs_rx_count(m->v);
	if (((got - lib) & RX_MASK) > 1) {
		log_debug("count: kernel received %llu, library %llu, state %u", (unsigned long long)got,
			  (unsigned long long)lib, c.state);
		return REASON_COUNT;
	}
	m->fin_theirs = ((got - lib) & RX_MASK) == 1;
	got -= m->fin_theirs;
	return state_unread(m, fd, NULL, got, c.unread);
}

/* 1: quiet and counted; 0: not yet (due is set); -1: given up. */
int mend_quiet(struct mend *m)
{
	struct vstate *st = mend_state_of(m);
	uint64_t now = sys_now_ns();
	int fd, i;
	uint32_t bad;

	if (st->ho.state != HO_UP && st->ho.state != HO_CUTTING)
		return 1;
	fd = mend_own_fd(m);
	if (fd < 0) {
		mend_give_up(m, REASON_GONE, 0);
		return -1;
	}
	if (!m->shut) {
		struct link_count c;

		m->fin_ours = link_count(fd, false, &c) == 0 &&
			(c.state == LINK_ESTABLISHED || c.state == LINK_CLOSE_WAIT);
		/* Said before we count: from then on the other end must not trim by what our kernel acknowledges. */
		st->moving = st->moving && vring_follow(m->v);
		/* A link that is only left is not ended: no FIN, and no TIME_WAIT that would hold its port. */
		sys_shutdown(fd, st->moving ? SHUT_RD : SHUT_RDWR);
		m->shut = true;
		m->quiet_since = now;
		if (vring_of(m->v))
			vring_kick(m->v);
	}
	for (i = 0; i < 20; i++) {
		if (shlock_take(&st->tx, 0, false) == SHLOCK_OK) {
			bool ring = atomic_load(&st->ring_tx) || atomic_load(&st->ring_rx);
			bool coded = atomic_load(&st->phase) & PH_CODED;

			if (!vs_rx_busy(m->v) && !atomic_load(&m->v->pollers) &&
			    !atomic_load(&m->v->lookers) && (!(ring || coded) || shlock_take(&st->rx, 0, false) == SHLOCK_OK)) {
				bad = ring ? count_ring(m) : coded ? count_coded(m) : count_old(m);
				if (ring || coded)
					shlock_drop(&st->rx);
				shlock_drop(&st->tx);
				if (bad) {
					mend_give_up(m, bad, ECONNRESET);
					return -1;
				}
				return 1;
			}
			shlock_drop(&st->tx);
		}
		sys_nap_us(10);
	}
	/* A sender that sleeps in a full buffer is woken by nothing less. */
	if (st->moving)
		sys_shutdown(fd, SHUT_RDWR);
	if (now - m->quiet_since > QUIET_NS) {
		mend_give_up(m, REASON_BUSY, ECONNRESET);
		return -1;
	}
	m->due = now + MS;
	return 0;
}

/* Puts back what the peer has not consumed.  False: it does not fit or fails. */
bool mend_put_back(struct mend *m, const struct ho_plan *plan, const uint8_t *p, size_t size)
{
	struct vstate *st = mend_state_of(m);
	uint64_t need;
	bool ok = true;

	/* Senders only hold it to append to the replay buffer now. */
	shlock_take(&st->tx, -1, false);
	need = plan->resend_from < st->replay.base ? st->replay.base - plan->resend_from : 0;
	if (need) {
		ok = p && need <= plan->given_back && need <= size && need <= REPLAY_MAX &&
			replay_reserve(&st->replay, (uint8_t *)st + REPLAY_AT, need);
		if (ok)
			replay_prepend(&st->replay, (uint8_t *)st + REPLAY_AT, p, need);
	}
	shlock_drop(&st->tx);
	return ok;
}

void mend_adopt(struct mend *m, int link, bool syn, const struct ho_plan *plan, uint64_t sent, uint64_t received)
{
	struct vsock *v = m->v;
	struct vstate *st = mend_state_of(m);
	uint64_t stall, resent;
	bool moved, was, coded = m->coded && !m->ring, good;
	char id[9];

	shlock_take(&st->tx, -1, false);
	shlock_take(&st->rx, -1, false);
	was = !vs_bare(v);
	vring_adopt(v, m->ring);
	m->ring = NULL;
	if (mend_own_fd(m) >= 0)
		link_copy_options(m->own, link);
	coding_kept_options(st, link, vs_coded(v), coded);
	good = !coded || coding_begin(st, link, plan->resend_from, st->ho.rx_off, sent, received);
	shlock_drop(&st->rx);
	/* The old one goes without a trace. */
	link_abort(m->own);
	if (!was)
		atomic_store(&st->nodelay, link_nodelay(link));
	link_set_nodelay(link, vring_of(v) || coded || atomic_load(&st->nodelay));
	mend_drop_own(m);
	m->own = link;
	st->link_ino = sys_sock_ino(link);
	st->link_syn = syn;
	/* May be below zero: these are compared modulo 2^64. */
	st->link_tx = plan->resend_from - sent;
	st->link_rx = st->ho.rx_off - received;
	st->tx_sent = plan->resend_from;
	/* Nothing before it is ever asked for again; and on a ring that is never empty nobody else trims. */
	replay_trim(&st->replay, plan->resend_from);
	atomic_store(&st->trim_limit, ho_trim_limit(&st->ho));
	atomic_store(&st->pending_err, 0);
	resent = st->replay.end - plan->resend_from;
	stall = sys_now_ns() - atomic_load(&st->broke_ns);
	st->resent += resent;
	st->stall_ns += stall;
	if (stall > st->stall_max_ns)
		st->stall_max_ns = stall;
	if (st->shut_rd)
		sys_shutdown(link, SHUT_RD);
	/* Said again: an agent that had nobody to tell, while the other end moved, has forgotten it. */
	if (vs_by_agents(st))
		agent_notice(v);
	moved = st->moving;
	moved ? st->moves++ : st->resumes++;
	st->moving = false;
	if (atomic_load(&st->ring_never) || v->no_ring)
		vring_say(v, PAIR_RING_NO);
	else if (v->pair && atomic_load(&v->pair->side[st->ho.role].ring) != PAIR_RING_NO)
		vring_say(v, PAIR_RING_MAY);
	if (vring_of(v)) {
		/* What the kernel would say of the open file, without asking it for each call. */
		atomic_store(&st->nonblock, sys_fcntl(link, F_GETFL, 0) & O_NONBLOCK);
		peers_watch(v);
	} else if (atomic_load(&v->until_ring) != UINT32_MAX || (atomic_load(&st->ring_want) && vring_may(v))) {
		atomic_store(&v->until_ring, 64);
	}
	vs_phase_next(st, PH_UNSENT | (coded ? PH_CODED : 0), PH_MEND | PH_CODED);
	vs_flush_locked(v, link);
	shlock_drop(&st->tx);
	vs_log_id(v, id);
	log_debug("%s adopt from=%llu rx_off=%llu unread=%llu given=%llu hs_tx=%llu hs_rx=%llu syn=%d", id, (unsigned long long)plan->resend_from, (unsigned long long)st->ho.rx_off, (unsigned long long)st->ho.unread, (unsigned long long)plan->given_back, (unsigned long long)sent, (unsigned long long)received, syn);
	log_info("%s %s gen=%u resent=%llu stall_us=%llu%s", id, moved ? "moved" : "resumed", vs_gen(st),
		 (unsigned long long)resent, (unsigned long long)stall / 1000,
		 vring_of(v) ? " link=ring" : coded ? " link=codec" : moved ? " link=tcp" : "");
	if (!good)
		coding_broken(v, link);
	event_say(v, moved ? ROAM_EVENT_LINK : ROAM_EVENT_MENDED, 0, stall);
	mend_rest(m);
	mend_drop_lead(m);
	/* After the phase: what the program hears from the new socket it may act upon. */
	mend_tell(m, link);
	if (atomic_load(&st->phase) & PH_UNSENT) {
		m->state = M_FLUSH;
		m->due = sys_now_ns() + 100 * MS;
		helper_watch(v, link);
	} else if (v->orphan) {
		helper_want(v, WANT_FLUSH);
	}
}
