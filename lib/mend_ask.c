/* Asking the other end for a new link. */
#include "mend_int.h"
#include "coding.h"
#include "peers.h"

/* A request says what this end can, and wants. */
void mend_say_codec(struct mend *m, struct msg *req)
{
	if (coding_may(m->v))
		req->flags |= MSGF_CODEC | (coding_wanted(m->v) ? MSGF_CODED : 0);
}

int mend_unread_memfd(struct mend *m)
{
	void *p;
	int fd;

	if (!m->nunread)
		return -1;
	fd = helper_keep(sys_memfd("roam-unread", m->nunread));
	if (fd < 0)
		return -1;
	p = sys_map_shared(fd, m->nunread);
	if (!p) {
		helper_close(fd);
		return -1;
	}
	memcpy(p, m->unread, m->nunread);
	sys_unmap(p, m->nunread);
	return fd;
}

bool mend_put_back_fd(struct mend *m, const struct ho_plan *plan, int mem)
{
	size_t size = mem >= 0 && plan->given_back ? sys_memfd_size(mem) : 0;
	uint8_t *p = size ? sys_map_shared(mem, size) : NULL;
	bool ok = mend_put_back(m, plan, p, size);

	if (p)
		sys_unmap(p, size);
	if (!ok)
		mend_give_up(m, REASON_GAP, ECONNRESET);
	return ok;
}

static void on_answer(struct chan *c, const uint8_t *buf, size_t n, int *fds, int nfds)
{
	struct mend *m = c->v->mend;
	struct ho_plan plan;
	struct vstate *st;
	struct msg in, out;
	enum wire_error we;

	if (!m || m->chan != c)
		return;
	st = mend_state_of(m);
	we = wire_decode(&in, st->ho.key, buf, n);
	if (we == WIRE_OK && in.type == MSG_REFUSE) {
		/* The process is there, the connection is not; a sharer may still have it. */
		ho_ask_failed(&st->ho);
		if (atomic_load(&c->v->pair->side[!st->ho.role].forked) &&
		    sys_now_ns() - m->since < GRACE_NS)
			mend_again(m, 10 * MS);
		else
			/* Closed there, by a process that could not say so: the FIN was its word. */
			mend_give_up(m, REASON_GONE, m->fin_theirs ? 0 : ECONNRESET);
		return;
	}
	if (we != WIRE_OK) {
		log_error("resume: %s from the other end's process", wire_strerror(we));
		ho_ask_failed(&st->ho);
		mend_again(m, 0);
		return;
	}
	peers_prove(c->v, c->fd, 0, 0);
	switch (ho_input(&st->ho, &in, st->replay.base, replay_end(&st->replay), &out, &plan)) {
	case HO_COMMIT: {
		int link = m->cand, mem = in.unread && nfds ? 0 : -1, box = mem + 1;
		bool half = false;

		m->cand = -1;
		m->coded = in.flags & MSGF_CODED;
		if (!(in.flags & MSGF_RING)) {
			mend_drop_ring(m);
		} else if (m->ring && nfds > box) {
			int fd = fds[box];

			fds[box] = -1;
			half = !vring_join(m->ring, fd, in.flags);
		} else {
			half = true;
		}
		if (half)
			mend_drop_ring(m);
		else if (m->ring)
			vring_begin(m->v, m->ring, plan.resend_from, st->ho.rx_off, false);
		chan_send(c, &out, st->ho.key, NULL, 0);
		if (!mend_put_back_fd(m, &plan, mem < 0 ? -1 : fds[mem])) {
			helper_close(link);
			break;
		}
		mend_adopt(m, link, true, &plan, 0, 0);
		/* The other end is on a ring that we could not map: not one byte of it was read. */
		if (half) {
			atomic_store(&st->ring_never, true);
			vs_break(m->v, ECONNRESET, "ring");
		}
		break;
	}
	case HO_RETRY:
		/* Theirs is on the way, or they are busy. */
		mend_again(m, 2 * MS);
		break;
	case HO_OVER:
		mend_give_up(m, st->ho.reason, st->ho.reason == REASON_GONE ? 0 : ECONNRESET);
		break;
	default:
		break;
	}
}

static void on_answer_end(struct chan *c)
{
	struct mend *m = c->v->mend;

	if (!m || m->chan != c)
		return;
	ho_ask_failed(&mend_state_of(m)->ho);
	m->chan = NULL;		/* closed by the caller */
	mend_again(m, 0);
}

void mend_ask(struct mend *m)
{
	struct vstate *st = mend_state_of(m);
	uint32_t theirs = atomic_load(&m->v->pair->side[!st->ho.role].family);
	int family[2] = { m->v->family, theirs == 6 ? 6 : 4 }, pair[2], fds[3], nfds = 0;
	struct msg out;
	uint64_t nonce;
	int mem = -1, r;

	if (sys_random(&nonce, sizeof(nonce)) < 0 || link_pair(family, pair) < 0) {
		log_debug("no new link: %s", strerror(errno));
		mend_again(m, 0);
		return;
	}
	m->cand = helper_keep(pair[0]);
	pair[1] = helper_keep(pair[1]);
	if (!ho_ask(&st->ho, nonce, replay_end(&st->replay), false, &out)) {
		helper_close(pair[1]);
		mend_again(m, 2 * MS);
		return;
	}
	mend_drop_ring(m);
	mend_say_codec(m, &out);
	if (vring_wanted(m->v))
		m->ring = vring_new(m->v, vring_size(m->v));
	fds[nfds++] = pair[1];
	if (m->nunread) {
		mem = mend_unread_memfd(m);
		if (mem >= 0)
			fds[nfds++] = mem;
	}
	if (m->ring) {
		uint8_t flags;

		fds[nfds++] = vring_box(m->ring, &flags);
		out.flags |= flags;
	}
	r = m->cand < 0 || pair[1] < 0 || (m->nunread && mem < 0) ? -1 : chan_send(m->chan, &out, st->ho.key, fds, nfds);
	helper_close(pair[1]);
	helper_close(mem);
	if (r < 0) {
		ho_ask_failed(&st->ho);
		mend_again(m, 0);
		return;
	}
	m->state = M_ASKED;
	m->due = 0;
	m->chan->due = sys_now_ns() + ASK_NS;
}

static int dial(uint32_t pid, uint64_t start, bool *refused)
{
	int fd;

	if (!pid || pid > INT32_MAX)
		return -1;
	fd = chan_dial(pid, start);
	if (fd < 0 && errno != ECONNREFUSED && errno != ENOENT && errno != EACCES)
		*refused = false;
	return fd;
}

/*
 * Those that have shown who they are first.  A process that is only named in the
 * page is asked for a second only: it may be a forked one that we never heard of,
 * and it may be anybody, whom a hostile peer would have us wait for.
 */
static int dial_first(struct mend *m, bool *refused)
{
	struct pair_side *side = &m->v->pair->side[!mend_state_of(m)->ho.role];
	bool patient = sys_now_ns() - m->since <= GRACE_NS;
	int i, fd = -1;

	for (i = 0; i < NPROC && fd < 0; i++)
		if (m->v->peer[i].proved)
			fd = dial(m->v->peer[i].pid, m->v->peer[i].start, refused);
	for (i = 0; i < NPROC && fd < 0 && patient; i++) {
		uint32_t pid = atomic_load(&side->proc[i].pid);
		uint64_t start = atomic_load(&side->proc[i].start);

		if (!peers_proved(m->v, pid, start))
			fd = dial(pid, start, refused);
	}
	return fd;
}

/* True: somebody there takes connections; asked as soon as our old link is quiet. */
static bool dial_any(struct mend *m, bool *refused)
{
	uint64_t now = sys_now_ns();
	int fd = dial_first(m, refused);

	if (fd < 0)
		return false;
	m->chan = chan_open(fd, now + ASK_NS, m->v);
	if (!m->chan) {
		helper_close(fd);
		*refused = false;
		return false;
	}
	m->chan->on_msg = on_answer;
	m->chan->on_end = on_answer_end;
	m->state = M_QUIET;
	m->due = now;
	return true;
}

bool mend_dial_near(struct mend *m)
{
	bool refused = true;

	return dial_any(m, &refused);
}

void mend_dial(struct mend *m)
{
	struct vstate *st = mend_state_of(m);
	struct pair_side *side = &m->v->pair->side[!st->ho.role];
	uint64_t now = sys_now_ns();
	bool refused = true;

	if (atomic_load(&st->remote)) {
		mend_query(m);
		return;
	}
	if (!dial_any(m, &refused)) {
		if (refused && (!atomic_load(&side->forked) || now - m->since > GRACE_NS)) {
			/* It may only have moved. */
			if (agent_up() || atomic_load(&st->near))
				mend_query(m);
			else
				mend_give_up(m, REASON_GONE, 0);
			return;
		}
		mend_again(m, refused ? 10 * MS : 0);
		return;
	}
}
