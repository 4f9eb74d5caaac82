/*
 * Where is the other end, and is it still there?  What the agents say, and what
 * the application hears when nobody knows.
 */
#include "mend_int.h"

static bool touched(const struct mend *m)
{
	return m->shut || m->state == M_QUIET || m->state == M_ASKED || m->state == M_CONFIRM;
}

/* We shut the link, and then the other end closed: had we all that it sent? */
static bool ended_well(struct mend *m)
{
	struct vstate *st = mend_state_of(m);
	uint64_t fin = atomic_load(&m->v->pair->side[!st->ho.role].fin);

	return st->ho.state != HO_UP && st->ho.state != HO_CUTTING && st->ho.state != HO_DRAIN &&
		fin < PAIR_FIN_SOON && fin == st->ho.rx_off + st->ho.unread;
}

/*
 * An end of stream, and no more: after an error (a close with unread bytes makes
 * a reset) the kernel's word stands, and it was told, or is told, only once.
 */
static bool only_ended(struct vstate *st, int fd)
{
	struct pollfd p = { fd, 0, 0 };

	return !atomic_load(&st->pending_err) && sys_poll(&p, 1, 0) >= 0 && !(p.revents & POLLERR);
}

/* Has the kernel seen the other end's FIN on the link being left? */
bool mend_fin_seen(struct mend *m)
{
	struct link_count c;
	int fd;

	if (m->shut)
		return m->fin_theirs;
	fd = mend_own_fd(m);
	/* Closed: it answered our own. */
	return fd >= 0 && link_count(fd, false, &c) == 0 &&
		(c.state == LINK_CLOSE_WAIT || (c.state == LINK_CLOSED && only_ended(mend_state_of(m), fd)));
}

/* The other end is no more: what shall be told, if we have shut the link and the kernel cannot? */
int mend_last_word(struct mend *m)
{
	bool unsaid = atomic_load(&m->v->pair->side[!mend_state_of(m)->ho.role].fin) >= PAIR_FIN_SOON;

	return !m->shut || ended_well(m) || (m->fin_theirs && unsaid) ? 0 : ECONNRESET;
}

/* ---- where is it? */

/* Nobody who was asked knows it, or nobody can be asked. */
void mend_lost(struct mend *m, bool sure)
{
	uint64_t now = sys_now_ns();
	int fd = mend_own_fd(m);
	struct link_count c;
	bool ended = fd < 0 || link_count(fd, false, &c) < 0 || c.state != LINK_ESTABLISHED;

	if (!m->lost_since)
		m->lost_since = now;
	/* The kernel has said that it is over; nobody contradicts. */
	if ((sure || ended) && now - m->lost_since > LOST_NS) {
		mend_give_up(m, REASON_UNKNOWN, mend_last_word(m));
		return;
	}
	mend_again(m, 0);
}

void mend_query(struct mend *m)
{
	struct vstate *st = mend_state_of(m);
	struct msg q = { .type = MSG_QUERY, .epoch = st->ho.epoch,
			 .flags = st->ho.role == HO_ACCEPTOR ? MSGF_ACCEPTOR : 0 };

	if (sys_now_ns() - m->since > conf()->deadline_ns) {
		mend_too_late(m);
		return;
	}
	agent_want();
	if (!agent_up()) {
		if (st->where.family)
			mend_connect(m);
		else
			mend_lost(m, false);
		return;
	}
	/* A refusal has nothing but the nonce: the low bits find the connection among ten thousand. */
	if (sys_random(&q.nonce, sizeof(q.nonce)) < 0 || !(q.nonce >> 16))
		q.nonce = sys_now_ns() << 16;
	q.nonce = (q.nonce & ~UINT64_C(0xffff)) | (uint64_t)(st->ho.gid[0] | st->ho.gid[1] << 8);
	m->query = q.nonce;
	memcpy(q.gid, st->ho.gid, WIRE_GID);
	memcpy(q.host, st->where.host, 16);
	q.family = st->where.family;
	memcpy(q.addr, st->where.addr, 16);
	q.port = st->where.port;
	if (agent_send(&q, NULL, -1) < 0) {
		mend_again(m, 0);
		return;
	}
	m->state = M_QUERY;
	/* After a FIN the other host itself is asked soon: an end whose agent is down cannot say that it closed. */
	m->due = sys_now_ns() + (mend_fin_seen(m) ? ASK_NS : QUERY_NS);
	/* A near one's process can be seen to be dead. */
	if (atomic_load(&st->near) && sys_now_ns() < m->since + LOST_NS && m->due > m->since + LOST_NS)
		m->due = m->since + LOST_NS;
	if (m->due > m->since + conf()->deadline_ns)
		m->due = m->since + conf()->deadline_ns + 1;
}

void mend_location(const struct msg *in)
{
	struct vsock *v = mend_live_by_gid(in->gid, in->flags & MSGF_ACCEPTOR ? HO_OPENER : HO_ACCEPTOR);
	struct vstate *st = v ? atomic_load(&v->st) : NULL;
	struct mend *m;

	if (!st || (in->family != 4 && in->family != 6))
		return;
	st->moved = false;
	/* Elsewhere than where we met. */
	if (atomic_load(&st->near) && in->epoch > st->ho.peer_epoch)
		vs_set_remote(v);
	memcpy(st->where.host, in->host, 16);
	st->where.family = in->family;
	st->where.port = in->port;
	memcpy(st->where.addr, in->addr, 16);
	m = v->mend;
	if (!m || m->state != M_QUERY)
		return;
	m->lost_since = 0;
	if (!atomic_load(&st->near) || !mend_dial_near(m))
		mend_connect(m);
}

void mend_refused(const struct msg *in)
{
	struct vsock *v;
	struct mend *m = NULL;
	bool well;

	shlock_take(&vs_fds_lock, -1, false);
	for (v = vs_gid_chain((uint16_t)in->nonce); v && !m; v = v->gid_next)
		if (v->mend && v->mend->query && v->mend->query == in->nonce)
			m = v->mend;
	shlock_drop(&vs_fds_lock);
	if (!m || m->state != M_QUERY)
		return;
	v = m->v;
	m->query = 0;
	switch (in->reason) {
	case REASON_FROZEN:
	case REASON_PARKED:
		/* It comes back; how long that takes is not for us to say. */
		m->since = sys_now_ns();
		m->due = m->since + ASK_NS;	/* LOCATION comes unasked */
		break;
	case REASON_FENCED:
		mend_give_up(m, REASON_FENCED, ECONNRESET);
		break;
	case REASON_GONE:
	case REASON_CLOSED:
		well = m->shut ? ended_well(m) : vs_fin_announced(v, mend_state_of(m), mend_own_fd(m));
		mend_give_up(m, well ? REASON_CLOSED : in->reason, mend_last_word(m));
		break;
	case REASON_UNKNOWN:
		mend_lost(m, true);
		break;
	default:
		mend_again(m, 0);
	}
}

void mend_fenced(const struct msg *in)
{
	struct vsock *v = mend_live_by_gid(in->gid, in->flags & MSGF_ACCEPTOR ? HO_ACCEPTOR : HO_OPENER);
	struct vstate *st = v ? atomic_load(&v->st) : NULL;
	struct mend *m = st ? mend_of(v) : NULL;

	if (!m || in->reason != REASON_FENCED || in->epoch <= st->ho.epoch)
		return;
	vs_break(v, ECONNRESET, "fenced");
	if (mend_own_fd(m) >= 0)
		sys_shutdown(m->own, SHUT_RDWR);
	m->shut = true;
	mend_give_up(m, REASON_FENCED, ECONNRESET);
}

/* Where the other end's stream ends, said by its library. */
void mend_notice(const struct msg *in, const uint8_t *buf, size_t n)
{
	enum ho_role theirs = in->flags & MSGF_ACCEPTOR ? HO_ACCEPTOR : HO_OPENER;
	struct vsock *v = mend_live_by_gid(in->gid, !theirs);
	struct vstate *st = v ? atomic_load(&v->st) : NULL;
	struct pair_side *side;
	uint32_t open = 0;
	struct mend *m;
	struct msg checked;
	int fd;

	if (!st || !vs_by_agents(st))
		return;
	if (wire_decode(&checked, st->ho.key, buf, n) != WIRE_OK) {
		st->ho.refused++;
		log_error("notice: forged, refused");
		return;
	}
	side = &v->pair->side[theirs];
	if (checked.fin < PAIR_FIN_SOON)
		atomic_store(&side->fin, checked.fin);
	/* A near one has written it there itself, and more (PAIR_CLOSED_CLEAN). */
	if (checked.flags & MSGF_CLOSED)
		atomic_compare_exchange_strong(&side->closed, &open, PAIR_CLOSED);
	m = v->mend;
	if (!m || touched(m) || !(atomic_load(&st->phase) & PH_MEND) || m->in.type)
		return;
	if (m->state != M_DIAL && m->state != M_QUERY && m->state != M_CONNECT)
		return;
	/* We took the end of the stream for a break: it came before this did. */
	fd = mend_own_fd(m);
	if (fd >= 0 && only_ended(st, fd) && vs_fin_announced(v, st, fd))
		mend_cancel(m);
	else if (checked.flags & MSGF_CLOSED)
		mend_give_up(m, REASON_CLOSED, 0);
}

/* The agent is back: whoever waited for it need not wait longer. */
void mend_agent_up(void)
{
	struct vsock *v;

	shlock_take(&vs_fds_lock, -1, false);
	for (v = vs_live_head; v; v = v->live_next)
		if (v->mend && (v->mend->state == M_QUERY || v->mend->state == M_DIAL))
			v->mend->due = 1;
	shlock_drop(&vs_fds_lock);
}
