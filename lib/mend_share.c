/* Several processes hold one end: one mends, the others get the link from it. */
#include "mend_int.h"

void mend_pull(struct chan *c, const struct msg *req, const uint8_t *buf, size_t n)
{
	struct vsock *v = mend_live_by_gid(req->gid, req->flags & MSGF_ACCEPTOR ? HO_ACCEPTOR : HO_OPENER);
	struct vstate *st = v ? atomic_load(&v->st) : NULL;
	struct msg m, out = { .type = MSG_LINK, .nonce = req->nonce, .flags = req->flags };
	struct mend *d;
	int fd;

	if (!st || wire_decode(&m, st->ho.key, buf, n) != WIRE_OK) {
		mend_say_refuse(c, req, REASON_GONE);
		return;
	}
	d = mend_of(v);
	/* Somebody who shares it found it broken, or leaves it, and waits for us. */
	if (d && atomic_load(&st->phase) & PH_MEND)
		mend_poke(v);
	fd = d ? mend_own_fd(d) : -1;
	if (fd < 0 || vs_gen(st) < m.gen || atomic_load(&st->phase) & PH_MEND) {
		mend_say_no(c, req, st, REASON_BUSY);
		return;
	}
	out.gen = vs_gen(st);
	memcpy(out.gid, req->gid, WIRE_GID);
	chan_send(c, &out, st->ho.key, &fd, 1);
	chan_close(c);
	mend_settle(d);
}

static void on_link(struct chan *c, const uint8_t *buf, size_t n, int *fds, int nfds)
{
	struct mend *m = c->v->mend;
	struct vstate *st;
	struct msg in;

	if (!m || m->chan != c)
		return;
	st = mend_state_of(m);
	if (wire_decode(&in, st->ho.key, buf, n) == WIRE_OK && in.type == MSG_LINK && nfds == 1 &&
	    in.gen == vs_gen(st)) {
		/* A new link of a shared connection is never a ring. */
		if (vring_of(c->v) && !atomic_load(&st->ring_tx))
			vring_adopt(c->v, NULL);
		if (helper_tell(c->v, fds[0], (uint32_t)in.gen))
			m->told = (uint32_t)in.gen;
	}
	mend_drop_ask(m);
	m->due = sys_now_ns() + 5 * MS;
}

static void on_link_end(struct chan *c)
{
	struct mend *m = c->v->mend;

	if (m && m->chan == c) {
		m->chan = NULL;
		m->due = sys_now_ns() + 5 * MS;
	}
}

void mend_follow(struct mend *m)
{
	struct vstate *st = mend_state_of(m);
	struct pair_side *side = &m->v->pair->side[st->ho.role];
	uint32_t ph = atomic_load(&st->phase), me = (uint32_t)sys_getpid();
	struct msg out = { .type = MSG_PULL, .flags = st->ho.role == HO_ACCEPTOR ? MSGF_ACCEPTOR : 0 };
	int i, fd = -1;

	m->due = sys_now_ns() + 2 * MS;
	if (ph & PH_NOREP || !vs_mending(m->v)) {
		mend_rest(m);
		mend_tell(m, -1);
		return;
	}
	if (ph & PH_MEND) {
		if (mend_lead(m)) {		/* whoever did it is gone */
			m->state = M_DIAL;
			m->due = 1;
			return;
		}
		/* A link that only we leave: the leader may not know. Our PULL, turned away, tells it. */
		if (!st->moving || m->chan || sys_now_ns() - m->since < m->backoff)
			return;
		m->backoff += 20 * MS;
	}
	/* Passed on: the program's threads install it when they come by. */
	if (m->told == vs_gen(st) && !(ph & PH_MEND)) {
		m->due = sys_now_ns() + 50 * MS;
		return;
	}
	/* Nobody of this process may sleep on the old socket when it is exchanged. */
	if (m->chan || atomic_load(&m->v->pollers))
		return;
	for (i = 0; i < NPROC && fd < 0; i++) {
		uint32_t pid = atomic_load(&side->proc[i].pid);

		if (pid && pid != me && pid <= INT32_MAX)
			fd = chan_dial(pid, atomic_load(&side->proc[i].start));
	}
	if (fd < 0) {
		/* Nobody holds the new link any more: that is a break of its own. */
		if (sys_now_ns() - m->since > GRACE_NS)
			vs_break(m->v, ECONNRESET, "sibling gone");
		return;
	}
	m->chan = chan_open(fd, sys_now_ns() + ASK_NS, m->v);
	if (!m->chan) {
		helper_close(fd);
		return;
	}
	m->chan->on_msg = on_link;
	m->chan->on_end = on_link_end;
	out.gen = vs_gen(st);
	memcpy(out.gid, st->ho.gid, WIRE_GID);
	chan_send(m->chan, &out, st->ho.key, NULL, 0);
}

void mend_proc_add(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);
	uint32_t me = (uint32_t)sys_getpid();
	struct pair_side *side;
	int i;

	if (!st || !v->pair)
		return;
	side = &v->pair->side[st->ho.role];
	for (i = 0; i < NPROC; i++) {
		uint32_t pid = atomic_load(&side->proc[i].pid);

		if (pid == me && atomic_load(&side->proc[i].start) == helper_start_time())
			return;
		if (pid && sys_alive((int)pid))
			continue;
		atomic_store(&side->proc[i].start, helper_start_time());
		atomic_store(&side->proc[i].pid, me);
		return;
	}
}
