/* Being asked. */
#include "mend_int.h"
#include "coding.h"
#include "peers.h"

static void on_confirm(struct chan *c, const uint8_t *buf, size_t n, int *fds, int nfds)
{
	struct mend *m = c->v->mend;
	struct ho_plan plan;
	struct vstate *st;
	struct msg in, out;

	(void)fds;
	(void)nfds;
	if (!m || m->in_chan != c)
		return;
	st = mend_state_of(m);
	if (wire_decode(&in, st->ho.key, buf, n) != WIRE_OK)
		return;
	ho_input(&st->ho, &in, st->replay.base, replay_end(&st->replay), &out, &plan);
	if (st->ho.confirmed) {
		atomic_store(&st->trim_limit, UINT64_MAX);
		mend_drop_kept(m);
		m->in_chan = NULL;
		chan_close(c);
	}
}

static void on_confirm_end(struct chan *c)
{
	struct mend *m = c->v->mend;
	struct vstate *st;

	if (!m || m->in_chan != c)
		return;
	st = mend_state_of(m);
	m->in_chan = NULL;
	/* It may never have heard our OK: the link it gave us leads nowhere. */
	if (!st->ho.confirmed && st->ho.state == HO_UP && !(atomic_load(&st->phase) & PH_MEND))
		vs_break(c->v, ECONNRESET, "unconfirmed");
}

/* Our half of the ring that was asked for; without it the link is TCP. */
static void answer_ring(struct mend *m)
{
	struct vstate *st = mend_state_of(m);
	uint32_t size = m->in_ring < 0 ? 0 : vring_size_of(m->in_ring);

	mend_drop_ring(m);
	if (!size || !vring_may(m->v))
		return;
	m->ring = vring_new(m->v, size);
	if (m->ring)
		atomic_store(&st->ring_want, true);
}

/* Both understand it, and one of them wants it. */
void mend_answer_codec(struct mend *m, struct msg *ok)
{
	m->coded = !m->ring && m->in.flags & MSGF_CODEC && coding_may(m->v) &&
		(m->in.flags & MSGF_CODED || coding_wanted(m->v));
	if (m->coded)
		ok->flags |= MSGF_CODED;
}

void mend_answer(struct mend *m)
{
	struct vstate *st = mend_state_of(m);
	struct ho_plan plan;
	struct msg out;
	uint64_t base = 0, end = 0;
	int mem, link, fds[2], nfds = 0, box = -1;

	/* Only looked at when the old link is quiet; until then a sender may sleep in the kernel with it. */
	if (st->ho.state == HO_READY || st->ho.state == HO_ASKING) {
		shlock_take(&st->tx, -1, false);
		base = st->replay.base;
		end = st->replay.end;
		shlock_drop(&st->tx);
	}
	switch (ho_input(&st->ho, &m->in, base, end, &out, &plan)) {
	case HO_BREAK:
		st->moving |= m->in.flags & (MSGF_RING | MSGF_CODED) && vs_bare(m->v) && !atomic_load(&st->remote);
		vs_break(m->v, ECONNRESET, "asked");
		if (!m->since)
			m->since = sys_now_ns();
		m->state = M_QUIET;
		m->due = sys_now_ns();
		return;
	case HO_COMMIT:
		mend_drop_ask(m);
		if (m->ans.fd >= 0) {
			mend_commit_far(m, &plan, &out);
			return;
		}
		mem = mend_unread_memfd(m);
		if (m->nunread && mem < 0) {
			mend_give_up(m, REASON_MEMORY, ECONNRESET);
			return;
		}
		if (mem >= 0)
			fds[nfds++] = mem;
		if (m->in.flags & MSGF_RING)
			answer_ring(m);
		if (m->ring) {
			uint8_t flags;

			/* Before OK: the asker may use it from then on. */
			box = sys_fcntl(vring_box(m->ring, &flags), F_DUPFD_CLOEXEC, 0);
			if (box < 0)
				sys_close(m->in_ring);
			if (box >= 0 && vring_join(m->ring, m->in_ring, m->in.flags)) {
				vring_begin(m->v, m->ring, plan.resend_from, st->ho.rx_off, true);
				out.flags |= flags;
				fds[nfds++] = box;
			} else {
				mend_drop_ring(m);
			}
			m->in_ring = -1;
		}
		mend_answer_codec(m, &out);
		/* If this is not delivered the link breaks, and we mend again. */
		chan_send(m->in_chan, &out, st->ho.key, fds, nfds);
		helper_close(mem);
		if (box >= 0)
			sys_close(box);
		m->in_chan->on_msg = on_confirm;
		m->in_chan->on_end = on_confirm_end;
		m->in_chan->due = sys_now_ns() + ASK_NS;
		mend_drop_kept(m);
		m->kept = m->unread;
		m->nkept = m->nunread;
		m->kept_off = st->ho.rx_off;
		m->unread = NULL;
		m->nunread = 0;
		link = m->in_link;
		m->in_link = -1;
		m->in.type = 0;
		if (mend_put_back_fd(m, &plan, m->in_mem))
			mend_adopt(m, link, false, &plan, 0, 0);
		else
			helper_close(link);
		helper_close(m->in_mem);
		m->in_mem = -1;
		return;
	case HO_OVER:
		if (m->ans.fd >= 0)
			mend_no_far(m, &out);
		else
			chan_send(m->in_chan, &out, st->ho.key, NULL, 0);
		mend_give_up(m, st->ho.reason, ECONNRESET);
		return;
	default:
		if (m->ans.fd >= 0)
			mend_no_far(m, &out);
		else if (out.type)
			chan_send(m->in_chan, &out, st->ho.key, NULL, 0);
		mend_drop_in(m);
	}
}

/* Without the connection's key nothing can be said that the asker must believe. */
void mend_say_refuse(struct chan *c, const struct msg *m, uint32_t reason)
{
	struct msg no = { .type = MSG_REFUSE, .nonce = m->nonce, .reason = reason };

	chan_send(c, &no, NULL, NULL, 0);
	chan_close(c);
}

void mend_say_no(struct chan *c, const struct msg *m, struct vstate *st, uint32_t reason)
{
	struct msg no = { .type = MSG_NO, .nonce = m->nonce, .reason = reason,
			  .flags = st->ho.role == HO_ACCEPTOR ? MSGF_ACCEPTOR : 0 };

	memcpy(no.gid, m->gid, WIRE_GID);
	chan_send(c, &no, st->ho.key, NULL, 0);
	chan_close(c);
}

/* A request speaks to the other role, a sharer to its own. */
struct vsock *mend_live_by_gid(const uint8_t *gid, enum ho_role role)
{
	struct vsock *v;

	shlock_take(&vs_fds_lock, -1, false);
	v = vs_by_gid(gid, role);
	shlock_drop(&vs_fds_lock);
	return v;
}

static void in_end(struct chan *c)
{
	struct mend *m = c->v->mend;

	/* The asker hung up before we were quiet. */
	if (m && m->in_chan == c) {
		m->in_chan = NULL;
		mend_drop_in(m);
		if (m->state == M_QUIET && !m->chan) {
			m->state = M_DIAL;
			m->due = sys_now_ns() + ACCEPTOR_NS;
		}
	}
}

static void in_more(struct chan *c, const uint8_t *buf, size_t n, int *fds, int nfds)
{
	(void)buf;
	(void)n;
	(void)fds;
	(void)nfds;
	in_end(c);		/* nothing may come before we have answered */
	chan_close(c);
}

void mend_request(struct chan *c, const struct msg *req, const uint8_t *buf, size_t n,
		  int *fds, int nfds)
{
	struct vsock *v = mend_live_by_gid(req->gid, req->flags & MSGF_ACCEPTOR ? HO_OPENER : HO_ACCEPTOR);
	struct vstate *st = v ? atomic_load(&v->st) : NULL;
	struct msg checked;
	struct mend *m;
	int box = 1;

	if (!st) {
		mend_say_refuse(c, req, REASON_GONE);
		return;
	}
	if (wire_decode(&checked, st->ho.key, buf, n) != WIRE_OK) {
		log_error("resume: forged request refused");
		st->ho.refused++;
		chan_close(c);
		return;
	}
	if (atomic_load(&st->phase) & PH_NOREP) {
		uint32_t r = atomic_load(&st->reason);

		/* A parked one goes on elsewhere: a reason would end its asker. */
		mend_say_no(c, req, st, r == REASON_PARKED ? REASON_BUSY : r);
		return;
	}
	peers_prove(v, c->fd, 0, 0);
	m = mend_of(v);
	if (!m || nfds < 1 || fds[0] < 0 || m->state == M_FROZEN || !mend_lead(m)) {
		mend_say_no(c, req, st, REASON_BUSY);
		return;
	}
	mend_far_stop(m);		/* its DONE may be here */
	mend_drop_in(m);
	m->in_chan = c;
	c->v = v;
	c->birth = atomic_load(&v->birth);
	c->on_msg = in_more;
	c->on_end = in_end;
	m->in_link = fds[0];
	fds[0] = -1;
	if (checked.unread && nfds > box) {
		m->in_mem = fds[box];
		fds[box++] = -1;
	}
	if (checked.flags & MSGF_RING && nfds > box) {
		m->in_ring = fds[box];
		fds[box] = -1;
	}
	m->in = checked;
	if (!m->since)
		m->since = sys_now_ns();
	mend_answer(m);
}
