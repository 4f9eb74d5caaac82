/*
 * A resume with an end on another host: the agents say where it is (QUERY), the
 * new link is a connection to its agent's port, which passes it on, and the
 * messages travel in it before the stream (inband.h).
 *
 *	asker	QUERY -> CONNECT -> QUIET -> ASKED -> adopted
 *	answerer	(REQ and the link from the agent) QUIET -> CONFIRM -> adopted
 *
 * Until the agents have said that the other end lives, and the way to it is
 * open, the old link is not touched: if the end is gone the kernel's own word
 * about it stands.
 */
#include "mend_int.h"
#include "peers.h"
#include "helper_int.h"
#include <netinet/in.h>

void mend_drop_far_ask(struct mend *m)
{
	if (m->ask.fd >= 0) {
		helper_unwatch(m->ask.fd);
		helper_close(m->ask.fd);
	}
	inband_drop(&m->ask);
	m->query = 0;
}

void mend_drop_far_in(struct mend *m)
{
	if (m->ans.fd >= 0) {
		helper_unwatch(m->ans.fd);
		helper_close(m->ans.fd);
	}
	inband_drop(&m->ans);
	m->ans_ready = false;
}

/*
 * The resume says it, too: a notice may be lost with an agent, and an end that
 * nobody announced would be taken for a break again and again.
 */
static void note_fin(struct mend *m, const struct msg *in)
{
	if (in->flags & MSGF_FIN)
		atomic_store(&m->v->pair->side[!mend_state_of(m)->ho.role].fin, in->tx_end);
}

/* Not by shut_wr: the program may have sent more since tx_end was looked at. */
static void say_fin(struct mend *m, struct msg *out)
{
	if (atomic_load(&m->v->pair->side[mend_state_of(m)->ho.role].fin) == out->tx_end)
		out->flags |= MSGF_FIN;
}

/* ---- asking */

static void again(struct mend *m)
{
	ho_ask_failed(&mend_state_of(m)->ho);
	mend_again(m, 0);
}

static void watch(struct mend *m, struct inband *b)
{
	helper_watch_far(m->v, b->fd, inband_written(b) ? EPOLLIN : EPOLLIN | EPOLLOUT);
}

void mend_connect(struct mend *m)
{
	struct vstate *st = mend_state_of(m);
	struct sockaddr_storage ss;
	socklen_t len;
	int fd;

	mend_drop_far_ask(m);
	len = link_sockaddr(&ss, st->where.family, st->where.addr, st->where.port);
	fd = helper_keep(link_open(st->where.family));
	if (fd < 0 || (sys_connect(fd, (struct sockaddr *)&ss, len) < 0 && errno != EINPROGRESS)) {
		int e = errno;

		helper_close(fd);
		if (e == ECONNREFUSED)
			mend_lost(m, false);
		else
			mend_again(m, 0);
		return;
	}
	inband_init(&m->ask, fd);
	m->state = M_CONNECT;
	m->due = sys_now_ns() + CONNECT_NS;
	helper_watch_far(m->v, fd, EPOLLOUT);
}

static void connected(struct mend *m)
{
	int e = 0;
	socklen_t l = sizeof(e);

	if (sys_getsockopt(m->ask.fd, SOL_SOCKET, SO_ERROR, &e, &l) < 0 || e) {
		if (e == ECONNREFUSED)
			mend_lost(m, false);
		else
			mend_again(m, 0);
		return;
	}
	m->state = M_QUIET;
	m->due = sys_now_ns();
}

/* Our FIN counts as a byte that the link carried, and is none of the stream. */
static void shut(struct inband *b)
{
	struct link_count c;

	if (link_count(b->fd, false, &c) == 0 && (c.state == LINK_ESTABLISHED || c.state == LINK_CLOSE_WAIT))
		b->sent++;
	sys_shutdown(b->fd, SHUT_RDWR);
}

static void adopt_asked(struct mend *m, const struct ho_plan *plan, const struct msg *done)
{
	struct vstate *st = mend_state_of(m);
	struct inband b = m->ask;
	bool whole;

	if (!mend_put_back(m, plan, b.body, b.nbody)) {
		mend_give_up(m, REASON_GAP, ECONNRESET);
		return;
	}
	vs_set_remote(m->v);
	m->ask.out = m->ask.body = NULL;
	m->ask.fd = -1;
	helper_unwatch(b.fd);
	/* Without a whole DONE nothing may follow: the link breaks, and is mended. */
	whole = inband_put(&b, done, st->ho.key, NULL, 0);
	inband_flush(&b);
	whole = whole && inband_written(&b);
	if (!whole)
		shut(&b);
	mend_adopt(m, b.fd, true, plan, b.sent, b.received);
	if (!whole)
		vs_break(m->v, ECONNRESET, "unconfirmed");
	inband_drop(&b);
}

static void pump_ask(struct mend *m)
{
	struct vstate *st = mend_state_of(m);
	struct ho_plan plan;
	struct msg in, out;

	switch (inband_pump(&m->ask, st->ho.key, &in)) {
	case INBAND_DEAD:
		again(m);
		return;
	case INBAND_WAIT:
		m->due = sys_now_ns() + FAR_NS;
		watch(m, &m->ask);
		return;
	case INBAND_MSG:
		break;
	}
	if (in.type == MSG_REFUSE) {
		/* Said without a key: the agents are asked before it is believed, if there is one to ask. */
		log_debug("resume: refused by the other agent: %s", reason_word(in.reason));
		if (agent_up()) {
			ho_ask_failed(&st->ho);
			/* Its agent never heard of it, and the kernel has seen its end: it was hardly there. */
			if (in.reason == REASON_UNKNOWN && mend_fin_seen(m))
				mend_lost(m, true);
			else
				mend_again(m, 0);
			return;
		}
		ho_ask_failed(&st->ho);
		if (in.reason == REASON_GONE || in.reason == REASON_CLOSED) {
			mend_give_up(m, in.reason, mend_last_word(m));
		} else if (in.reason == REASON_FROZEN || in.reason == REASON_PARKED) {
			m->since = sys_now_ns();
			mend_again(m, 0);
		} else {
			mend_lost(m, true);
		}
		return;
	}
	if (in.type != MSG_OK && in.type != MSG_NO) {
		again(m);
		return;
	}
	switch (ho_input(&st->ho, &in, st->replay.base, replay_end(&st->replay), &out, &plan)) {
	case HO_COMMIT:
		note_fin(m, &in);
		m->coded = in.flags & MSGF_CODED;
		adopt_asked(m, &plan, &out);
		break;
	case HO_RETRY:
		mend_again(m, 2 * MS);
		break;
	case HO_OVER:
		/* It has nobody either, and left the old link to the kernel. */
		if (st->ho.reason == REASON_GONE || st->ho.reason == REASON_UNKNOWN || st->ho.reason == REASON_CLOSED)
			mend_give_up(m, st->ho.reason, mend_last_word(m));
		else
			mend_give_up(m, st->ho.reason, ECONNRESET);
		break;
	default:
		again(m);
	}
}

void mend_ask_far(struct mend *m)
{
	struct vstate *st = mend_state_of(m);
	struct msg out;
	uint64_t nonce;

	if (sys_random(&nonce, sizeof(nonce)) < 0 ||
	    !ho_ask(&st->ho, nonce, replay_end(&st->replay), false, &out)) {
		mend_again(m, 2 * MS);
		return;
	}
	say_fin(m, &out);
	mend_say_codec(m, &out);
	m->state = M_ASKED;
	if (!inband_put(&m->ask, &out, st->ho.key, m->unread, m->nunread)) {
		again(m);
		return;
	}
	pump_ask(m);
}

/* ---- being asked */

void mend_no_far(struct mend *m, const struct msg *no)
{
	if (no->type && inband_put(&m->ans, no, mend_state_of(m)->ho.key, NULL, 0))
		inband_flush(&m->ans);
}

static void adopt_confirmed(struct mend *m, const struct msg *done)
{
	struct vstate *st = mend_state_of(m);
	struct inband b = m->ans;
	struct ho_plan none;
	struct msg out;

	ho_input(&st->ho, done, st->replay.base, replay_end(&st->replay), &out, &none);
	m->ans.out = m->ans.body = NULL;
	m->ans.fd = -1;
	helper_unwatch(b.fd);
	mend_drop_far_in(m);
	mend_adopt(m, b.fd, false, &m->plan, b.sent, b.received);
	inband_drop(&b);
}

/*
 * No DONE.  Perhaps it is on its way: shut the link, so that the kernel
 * acknowledges nothing more, and look once again.
 */
static void unconfirmed(struct mend *m)
{
	struct vstate *st = mend_state_of(m);
	struct msg in;

	shut(&m->ans);
	if (inband_pump(&m->ans, st->ho.key, &in) == INBAND_MSG && in.type == MSG_DONE &&
	    in.nonce == st->ho.link_nonce) {
		/* Ours now, with all that came in it; but nothing goes out any more. */
		adopt_confirmed(m, &in);
		vs_break(m->v, ECONNRESET, "unconfirmed");
		return;
	}
	mend_drop_far_in(m);
	ho_break(&st->ho);
	ho_drained(&st->ho, st->ho.rx_off, st->ho.unread);
	mend_again(m, 0);
}

static void pump_ans(struct mend *m)
{
	struct vstate *st = mend_state_of(m);
	struct msg in;

	switch (inband_pump(&m->ans, st->ho.key, &in)) {
	case INBAND_DEAD:
		if (m->state == M_CONFIRM) {
			unconfirmed(m);
		} else {
			mend_drop_in(m);
			if (m->state == M_QUIET && m->ask.fd < 0 && !m->chan)
				mend_again(m, ACCEPTOR_NS);
		}
		return;
	case INBAND_WAIT:
		if (m->state == M_CONFIRM)
			m->due = sys_now_ns() + FAR_NS;
		watch(m, &m->ans);
		return;
	case INBAND_MSG:
		break;
	}
	if (m->state == M_CONFIRM) {
		if (in.type == MSG_DONE && in.nonce == st->ho.link_nonce)
			adopt_confirmed(m, &in);
		else
			unconfirmed(m);
		return;
	}
	m->ans_ready = true;
	if (m->in.type)
		mend_answer(m);
}

void mend_commit_far(struct mend *m, const struct ho_plan *plan, const struct msg *ok)
{
	struct vstate *st = mend_state_of(m);
	struct msg say = *ok;

	/* At once, and for good: the asker forgets its copy when it has heard OK. */
	if (!mend_put_back(m, plan, m->ans.body, m->ans.nbody)) {
		mend_give_up(m, REASON_GAP, ECONNRESET);
		return;
	}
	atomic_store(&st->trim_limit, ho_trim_limit(&st->ho));
	note_fin(m, &m->in);
	mend_answer_codec(m, &say);
	m->in.type = 0;
	m->plan = *plan;
	m->state = M_CONFIRM;
	m->due = sys_now_ns() + FAR_NS;
	say_fin(m, &say);
	if (inband_put(&m->ans, &say, st->ho.key, m->unread, m->nunread))
		pump_ans(m);
	else
		unconfirmed(m);
}

static void refuse_fd(int *fd, const struct msg *req, struct vstate *st, uint32_t reason)
{
	struct msg no = { .type = st ? MSG_NO : MSG_REFUSE, .nonce = req->nonce, .reason = reason };
	struct inband b;

	inband_init(&b, *fd);
	memcpy(no.gid, req->gid, WIRE_GID);
	no.flags = req->flags & MSGF_ACCEPTOR ? 0 : MSGF_ACCEPTOR;
	if (inband_put(&b, &no, st ? st->ho.key : NULL, NULL, 0))
		inband_flush(&b);
	inband_drop(&b);
}

void mend_request_far(const struct msg *req, const uint8_t *buf, size_t n, int *fds, int nfds)
{
	struct vsock *v = mend_live_by_gid(req->gid, req->flags & MSGF_ACCEPTOR ? HO_OPENER : HO_ACCEPTOR);
	struct vstate *st = v ? atomic_load(&v->st) : NULL;
	struct msg checked;
	struct mend *m;

	if (nfds < 1 || fds[0] < 0)
		return;
	sys_fcntl(fds[0], F_SETFL, sys_fcntl(fds[0], F_GETFL, 0) | O_NONBLOCK);
	if (!st) {
		/* A process of the tree may have it still; the agent shall ask us no more. */
		struct msg drop = { .type = MSG_RELEASE, .flags = ~req->flags & MSGF_ACCEPTOR,
				    .reason = REASON_NONE };

		memcpy(drop.gid, req->gid, WIRE_GID);
		agent_send(&drop, NULL, -1);
		refuse_fd(fds, req, NULL, REASON_GONE);
		return;
	}
	if (wire_decode(&checked, st->ho.key, buf, n) != WIRE_OK) {
		log_error("resume: forged request refused");
		st->ho.refused++;
		return;
	}
	if (atomic_load(&st->phase) & PH_NOREP) {
		uint32_t r = atomic_load(&st->reason);

		/* A parked one goes on elsewhere: nothing that its asker would have to believe. */
		refuse_fd(fds, req, r == REASON_PARKED ? NULL : st, r);
		return;
	}
	m = mend_of(v);
	if (!m || m->state == M_FROZEN || !mend_lead(m)) {
		refuse_fd(fds, req, st, REASON_BUSY);
		return;
	}
	vs_set_remote(v);
	if (m->state == M_CONFIRM)
		unconfirmed(m);
	mend_drop_in(m);
	if (!m->since)
		m->since = sys_now_ns();
	m->in = checked;
	inband_init(&m->ans, fds[0]);
	fds[0] = -1;
	if (!inband_expect(&m->ans, n, checked.unread)) {
		mend_drop_in(m);
		return;
	}
	pump_ans(m);
}

void mend_far_stop(struct mend *m)
{
	if (m->state == M_CONFIRM)
		unconfirmed(m);
}

/* ---- what drives it */

void mend_far_event(struct vsock *v)
{
	struct mend *m = v->mend;

	if (!m || !atomic_load(&v->st))
		return;
	if (m->ans.fd >= 0 && !m->ans_ready)
		pump_ans(m);
	if (m->ans.fd >= 0 && m->state == M_CONFIRM)
		pump_ans(m);
	if (m->ask.fd >= 0 && m->state == M_CONNECT)
		connected(m);
	else if (m->ask.fd >= 0 && m->state == M_ASKED)
		pump_ask(m);
}

void mend_far_step(struct mend *m)
{
	switch (m->state) {
	case M_CONFIRM:
		unconfirmed(m);
		break;
	case M_ASKED:
		if (m->ask.fd >= 0)
			again(m);
		break;
	case M_CONNECT:
		/* No answer from there: is it still there? */
		mend_drop_far_ask(m);
		mend_query(m);
		break;
	case M_QUERY:
		/* It was on this host, is no more, and no agent has heard of it elsewhere. */
		if (atomic_load(&mend_state_of(m)->near) && sys_now_ns() >= m->since + LOST_NS && peers_dead(m->v))
			mend_give_up(m, REASON_GONE, mend_last_word(m));
		else if (m->query && mend_state_of(m)->where.family && mend_fin_seen(m))
			mend_connect(m);
		else
			mend_query(m);
		break;
	default:
		mend_query(m);
	}
}
