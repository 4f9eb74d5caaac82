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
#include "mend.h"
#include "conf.h"
#include "link_tcp.h"
#include "log.h"
#include "sys.h"
#include "vs_io.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

enum mend_state { M_IDLE, M_DIAL, M_QUIET, M_ASKED, M_FLUSH, M_FOLLOW };

#define MS 1000000u
#define ASK_NS		(1000u * MS)	/* the other helper answers within this, or is asked again */
#define ACCEPTOR_NS	(3u * MS)	/* the opener asks first; we only if it does not */
#define QUIET_NS	(2000u * MS)	/* a thread that does not leave (longjmp) ends the connection */
#define GRACE_NS	(1000u * MS)	/* a forked sharer may still come forward */
#define DEADLINE_NS	(UINT64_C(60000) * MS)	/* then ETIMEDOUT, as TCP would */
#define BACKOFF_MAX	(200u * MS)

struct mend {
	struct vsock *v;
	struct mend *next;
	enum mend_state state;
	uint64_t due;			/* 0: nothing to do on time */
	uint64_t since, quiet_since;
	uint64_t backoff;
	bool shut, fin_ours;		/* we shut the old link; it could still send a FIN */
	/*
	 * The present link in the helper's own table: borrowed from the program
	 * while it is looked at, or not yet installed there, or not yet flushed.
	 */
	int own;
	bool untold;			/* the program's queue was full */
	uint32_t told;			/* follower: the generation that was passed on */
	bool fin_theirs;		/* the kernel had seen the other end's */
	struct chan *chan;		/* where we asked */
	int cand;			/* our end of the link offered there */
	struct chan *in_chan;		/* where we were asked */
	int in_link, in_mem;
	size_t in_len;
	uint8_t in[WIRE_MAX];
	uint8_t *unread;		/* of the link being left */
	size_t nunread;
	/*
	 * What we gave back with an OK that may not have arrived: the other end
	 * has it for sure only after DONE.  From offset kept_off.
	 */
	uint8_t *kept;
	uint64_t kept_off;
	size_t nkept;
};

static struct mend *mends;

static struct mend *mend_of(struct vsock *v)
{
	struct mend *m = v->mend;

	if (m)
		return m;
	m = calloc(1, sizeof(*m));
	if (!m)
		return NULL;
	m->v = v;
	m->own = m->cand = m->in_link = m->in_mem = -1;
	m->next = mends;
	mends = m;
	return v->mend = m;
}

static struct vstate *state_of(struct mend *m)
{
	return atomic_load(&m->v->st);
}

/* -1: the program has closed it past us, the number may be anything by now. */
static int own_fd(struct mend *m)
{
	if (m->own < 0)
		m->own = helper_borrow(atomic_load(&m->v->fd));
	if (m->own >= 0 && sys_sock_ino(m->own) != state_of(m)->link_ino) {
		helper_close(m->own);
		m->own = -1;
	}
	return m->own;
}

static void drop_own(struct mend *m)
{
	if (m->own >= 0)
		helper_unwatch(m->own);
	helper_close(m->own);
	m->own = -1;
}

/* Once the program has it (and nothing is left to flush) it is the program's alone. */
static void settle(struct mend *m)
{
	if (!m->untold && !m->v->orphan && !vs_mending(m->v) &&
	    !(atomic_load(&state_of(m)->phase) & PH_UNSENT))
		drop_own(m);
}

/* Hands the present link to the program's threads; again later if their queue is full. */
static void tell(struct mend *m, int link)
{
	m->untold = !m->v->orphan && !helper_tell(m->v, link, vs_gen(state_of(m)));
	if (m->untold)
		m->due = sys_now_ns() + 5 * MS;
}

static void drop_ask(struct mend *m)
{
	chan_close(m->chan);
	m->chan = NULL;
	helper_close(m->cand);
	m->cand = -1;
}

static void drop_in(struct mend *m)
{
	chan_close(m->in_chan);
	m->in_chan = NULL;
	helper_close(m->in_link);
	helper_close(m->in_mem);
	m->in_link = m->in_mem = -1;
	m->in_len = 0;
}

static void drop_unread(struct mend *m)
{
	free(m->unread);
	m->unread = NULL;
	m->nunread = 0;
}

static void drop_kept(struct mend *m)
{
	free(m->kept);
	m->kept = NULL;
	m->nkept = 0;
}

static void drop_lead(struct mend *m)
{
	struct vstate *st = state_of(m);
	uint32_t me = (uint32_t)m->v->slot + 1;

	atomic_compare_exchange_strong(&st->lead, &me, 0);
}

/* Idle again; the memory stays until the connection ends. */
static void rest(struct mend *m)
{
	drop_ask(m);
	drop_unread(m);
	m->state = M_IDLE;
	m->due = 0;
	m->shut = false;
	m->since = m->quiet_since = 0;
	m->backoff = 0;
}

/* Are we the process of this end that mends?  Takes the job if nobody alive has it. */
static bool lead(struct mend *m)
{
	struct vstate *st = state_of(m);
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
static void give_up(struct mend *m, uint32_t reason, int err)
{
	struct vsock *v = m->v;
	struct vstate *st = state_of(m);
	int zero = 0, own = 0;
	socklen_t l = sizeof(own);
	char id[9];

	if (m->shut) {
		/* Told once: what the kernel still holds, or else our own. */
		sys_getsockopt(own_fd(m), SOL_SOCKET, SO_ERROR, &own, &l);
		if (own || err)
			atomic_compare_exchange_strong(&st->pending_err, &zero, own ? own : err);
	}
	vs_log_id(v, id);
	log_info("%s ended reason=%s (%s)", id, reason_word(reason), reason_text(reason));
	atomic_store(&st->reason, reason);
	atomic_store(&st->judged, 1);
	ho_kill(&st->ho, reason);
	vs_phase(st, PH_NOREP, PH_MEND | PH_UNSENT);
	drop_in(m);
	rest(m);
	drop_lead(m);
	/* A link that the program never saw dies with us; its sockets are looked at again. */
	drop_own(m);
	tell(m, -1);
	if (v->orphan)
		helper_want(v, WANT_FLUSH);
}

static void again(struct mend *m, uint64_t wait)
{
	uint64_t now = sys_now_ns();

	drop_ask(m);
	if (now - m->since > DEADLINE_NS) {
		give_up(m, REASON_TIMEOUT, ETIMEDOUT);
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

/* ---- quiet: what did the old link carry? */

static uint32_t count_old(struct mend *m)
{
	struct vstate *st = state_of(m);
	struct link_count c;
	uint64_t w, got, lib, end, more;
	int fd = own_fd(m);

	if (link_count(fd, st->link_syn, &c) < 0)
		return REASON_COUNT;
	/* Every byte the kernel was given is in the replay buffer, or was. A FIN counts as one. */
	w = st->link_tx + c.sent;
	if (w != st->tx_sent && !(w == st->tx_sent + 1 && (m->fin_ours || st->shut_wr)))
		return REASON_COUNT;
	/* The kernel counts a FIN as a byte received, the library does not: that tells. */
	got = st->link_rx + c.received;
	lib = vs_rx_count(m->v);
	if (((got - lib) & RX_MASK) > 1)
		return REASON_COUNT;
	m->fin_theirs = ((got - lib) & RX_MASK) == 1;
	got -= m->fin_theirs;
	drop_unread(m);
	end = got + c.unread;
	more = m->nkept && m->kept_off + m->nkept > end && m->kept_off <= end ?
		m->kept_off + m->nkept - end : 0;
	if (c.unread + more) {
		m->unread = malloc(c.unread + more);
		if (!m->unread)
			return REASON_MEMORY;
		if (c.unread && link_peek(fd, m->unread, c.unread) != (ssize_t)c.unread)
			return REASON_COUNT;
		memcpy(m->unread + c.unread, m->kept + (end - m->kept_off), more);
	}
	m->nunread = c.unread + more;
	drop_kept(m);
	ho_break(&st->ho);
	ho_drained(&st->ho, got, m->nunread);
	return REASON_NONE;
}

/* 1: quiet and counted; 0: not yet (due is set); -1: given up. */
static int quiet(struct mend *m)
{
	struct vstate *st = state_of(m);
	uint64_t now = sys_now_ns();
	int fd, i;
	uint32_t bad;

	if (st->ho.state != HO_UP && st->ho.state != HO_CUTTING)
		return 1;
	fd = own_fd(m);
	if (fd < 0) {
		give_up(m, REASON_GONE, 0);
		return -1;
	}
	if (!m->shut) {
		struct link_count c;

		m->fin_ours = link_count(fd, false, &c) == 0 &&
			(c.state == LINK_ESTABLISHED || c.state == LINK_CLOSE_WAIT);
		sys_shutdown(fd, SHUT_RDWR);
		m->shut = true;
		m->quiet_since = now;
	}
	for (i = 0; i < 20; i++) {
		if (shlock_take(&st->tx, 0, false) == SHLOCK_OK) {
			if (!vs_rx_busy(m->v) && !atomic_load(&m->v->pollers)) {
				bad = count_old(m);
				shlock_drop(&st->tx);
				if (bad) {
					give_up(m, bad, ECONNRESET);
					return -1;
				}
				return 1;
			}
			shlock_drop(&st->tx);
		}
		sys_nap_us(10);
	}
	if (now - m->quiet_since > QUIET_NS) {
		give_up(m, REASON_BUSY, ECONNRESET);
		return -1;
	}
	m->due = now + MS;
	return 0;
}

/* ---- the new link */

/* Puts back what the peer has not consumed.  False: it does not fit or fails. */
static bool put_back(struct vstate *st, const struct ho_plan *plan, int mem)
{
	uint64_t need = plan->resend_from < st->replay.base ? st->replay.base - plan->resend_from : 0;
	size_t size = mem >= 0 ? sys_memfd_size(mem) : 0;
	uint8_t *p;

	if (!need)
		return true;
	if (need > plan->given_back || need > size || need > REPLAY_MAX)
		return false;
	p = sys_map_shared(mem, size);
	if (!p)
		return false;
	if (!replay_reserve(&st->replay, (uint8_t *)st + REPLAY_AT, need)) {
		sys_unmap(p, size);
		return false;
	}
	replay_prepend(&st->replay, (uint8_t *)st + REPLAY_AT, p, need);
	sys_unmap(p, size);
	return true;
}

/* The link is ours: give it the stream and the program.  link is consumed. */
static void adopt(struct mend *m, int link, bool syn, const struct ho_plan *plan, int mem)
{
	struct vsock *v = m->v;
	struct vstate *st = state_of(m);
	uint64_t stall, resent;
	char id[9];

	/* Senders only hold it to append to the replay buffer now. */
	shlock_take(&st->tx, -1, false);
	if (!put_back(st, plan, mem)) {
		shlock_drop(&st->tx);
		helper_close(link);
		give_up(m, REASON_GAP, ECONNRESET);
		return;
	}
	if (own_fd(m) >= 0)
		link_copy_options(m->own, link);
	drop_own(m);
	m->own = link;
	st->link_ino = sys_sock_ino(link);
	st->link_syn = syn;
	st->link_tx = plan->resend_from;
	st->link_rx = st->ho.rx_off;
	st->tx_sent = plan->resend_from;
	atomic_store(&st->trim_limit, ho_trim_limit(&st->ho));
	atomic_store(&st->pending_err, 0);
	resent = st->replay.end - plan->resend_from;
	stall = sys_now_ns() - st->broke_ns;
	st->mends++;
	st->resent += resent;
	st->stall_ns += stall;
	if (st->shut_rd)
		sys_shutdown(link, SHUT_RD);
	vs_phase_next(st, PH_UNSENT, PH_MEND);
	vs_flush_locked(v, link);
	shlock_drop(&st->tx);
	vs_log_id(v, id);
	log_info("%s resumed gen=%u resent=%llu stall_us=%llu", id, vs_gen(st),
		 (unsigned long long)resent, (unsigned long long)stall / 1000);
	rest(m);
	drop_lead(m);
	/* After the phase: what the program hears from the new socket it may act upon. */
	tell(m, link);
	if (atomic_load(&st->phase) & PH_UNSENT) {
		m->state = M_FLUSH;
		m->due = sys_now_ns() + 100 * MS;
		helper_watch(v, link);
	} else if (v->orphan) {
		helper_want(v, WANT_FLUSH);
	}
}

/* ---- asking */

static int unread_memfd(struct mend *m)
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

static void on_answer(struct chan *c, const uint8_t *buf, size_t n, int *fds, int nfds)
{
	struct mend *m = c->v->mend;
	struct vstate *st = state_of(m);
	struct ho_plan plan;
	struct msg in, out;
	enum wire_error we;

	if (!m || m->chan != c)
		return;
	we = wire_decode(&in, st->ho.key, buf, n);
	if (we == WIRE_OK && in.type == MSG_REFUSE) {
		/* The process is there, the connection is not; a sharer may still have it. */
		ho_ask_failed(&st->ho);
		if (atomic_load(&c->v->pair->side[!st->ho.role].forked) &&
		    sys_now_ns() - m->since < GRACE_NS)
			again(m, 10 * MS);
		else
			/* Closed there, by a process that could not say so: the FIN was its word. */
			give_up(m, REASON_GONE, m->fin_theirs ? 0 : ECONNRESET);
		return;
	}
	if (we != WIRE_OK) {
		log_error("resume: %s from the other end's process", wire_strerror(we));
		ho_ask_failed(&st->ho);
		again(m, 0);
		return;
	}
	switch (ho_input(&st->ho, &in, st->replay.base, st->replay.end, &out, &plan)) {
	case HO_COMMIT: {
		int link = m->cand;

		m->cand = -1;
		chan_send(c, &out, st->ho.key, NULL, 0);
		adopt(m, link, true, &plan, nfds ? fds[0] : -1);
		break;
	}
	case HO_RETRY:
		/* Theirs is on the way, or they are busy. */
		again(m, 2 * MS);
		break;
	case HO_OVER:
		give_up(m, st->ho.reason, st->ho.reason == REASON_GONE ? 0 : ECONNRESET);
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
	ho_ask_failed(&state_of(m)->ho);
	m->chan = NULL;		/* closed by the caller */
	again(m, 0);
}

static void ask(struct mend *m)
{
	struct vstate *st = state_of(m);
	uint32_t theirs = atomic_load(&m->v->pair->side[!st->ho.role].family);
	int family[2] = { m->v->family, theirs == 6 ? 6 : 4 }, pair[2], fds[2], nfds = 0;
	struct msg out;
	uint64_t nonce;
	int mem = -1, r;

	if (sys_random(&nonce, sizeof(nonce)) < 0 || link_pair(family, pair) < 0) {
		log_debug("no new link: %s", strerror(errno));
		again(m, 0);
		return;
	}
	m->cand = helper_keep(pair[0]);
	pair[1] = helper_keep(pair[1]);
	if (!ho_ask(&st->ho, nonce, st->replay.end, false, &out)) {
		helper_close(pair[1]);
		again(m, 2 * MS);
		return;
	}
	fds[nfds++] = pair[1];
	if (m->nunread) {
		mem = unread_memfd(m);
		if (mem >= 0)
			fds[nfds++] = mem;
	}
	r = m->cand < 0 || pair[1] < 0 || (m->nunread && mem < 0) ? -1 : chan_send(m->chan, &out, st->ho.key, fds, nfds);
	helper_close(pair[1]);
	helper_close(mem);
	if (r < 0) {
		ho_ask_failed(&st->ho);
		again(m, 0);
		return;
	}
	m->state = M_ASKED;
	m->due = 0;
	m->chan->due = sys_now_ns() + ASK_NS;
}

static void dial(struct mend *m)
{
	struct vstate *st = state_of(m);
	struct pair_side *side = &m->v->pair->side[!st->ho.role];
	uint64_t now = sys_now_ns();
	bool refused = true;
	int i, fd = -1;

	for (i = 0; i < NPROC && fd < 0; i++) {
		uint32_t pid = atomic_load(&side->proc[i].pid);
		uint64_t start = atomic_load(&side->proc[i].start);

		if (!pid || pid > INT32_MAX)
			continue;
		fd = chan_dial(pid, start);
		if (fd < 0 && errno != ECONNREFUSED && errno != ENOENT && errno != EACCES)
			refused = false;
	}
	if (fd < 0) {
		if (refused && (!atomic_load(&side->forked) || now - m->since > GRACE_NS)) {
			give_up(m, REASON_GONE, 0);
			return;
		}
		again(m, refused ? 10 * MS : 0);
		return;
	}
	m->chan = chan_open(fd, now + ASK_NS, m->v);
	if (!m->chan) {
		helper_close(fd);
		again(m, 0);
		return;
	}
	m->chan->on_msg = on_answer;
	m->chan->on_end = on_answer_end;
	m->state = M_QUIET;
	m->due = now;
}

/* ---- being asked */

static void answer(struct mend *m);

static void on_confirm(struct chan *c, const uint8_t *buf, size_t n, int *fds, int nfds)
{
	struct mend *m = c->v->mend;
	struct vstate *st = state_of(m);
	struct ho_plan plan;
	struct msg in, out;

	(void)fds;
	(void)nfds;
	if (!m || m->in_chan != c || wire_decode(&in, st->ho.key, buf, n) != WIRE_OK)
		return;
	ho_input(&st->ho, &in, st->replay.base, st->replay.end, &out, &plan);
	if (st->ho.confirmed) {
		atomic_store(&st->trim_limit, UINT64_MAX);
		drop_kept(m);
		m->in_chan = NULL;
		chan_close(c);
	}
}

static void on_confirm_end(struct chan *c)
{
	struct mend *m = c->v->mend;
	struct vstate *st = state_of(m);

	if (!m || m->in_chan != c)
		return;
	m->in_chan = NULL;
	/* It may never have heard our OK: the link it gave us leads nowhere. */
	if (!st->ho.confirmed && st->ho.state == HO_UP && !(atomic_load(&st->phase) & PH_MEND))
		vs_break(c->v, ECONNRESET, "unconfirmed");
}

static void answer(struct mend *m)
{
	struct vstate *st = state_of(m);
	struct ho_plan plan;
	struct msg in, out;
	int mem, link;

	if (wire_decode(&in, st->ho.key, m->in, m->in_len) != WIRE_OK) {
		log_error("resume: forged request refused");
		st->ho.refused++;
		drop_in(m);
		return;
	}
	switch (ho_input(&st->ho, &in, st->replay.base, st->replay.end, &out, &plan)) {
	case HO_BREAK:
		vs_break(m->v, ECONNRESET, "asked");
		if (!m->since)
			m->since = sys_now_ns();
		m->state = M_QUIET;
		m->due = sys_now_ns();
		return;
	case HO_COMMIT:
		drop_ask(m);
		mem = unread_memfd(m);
		if (m->nunread && mem < 0) {
			give_up(m, REASON_MEMORY, ECONNRESET);
			return;
		}
		/* If this is not delivered the link breaks, and we mend again. */
		chan_send(m->in_chan, &out, st->ho.key, &mem, mem >= 0);
		helper_close(mem);
		m->in_chan->on_msg = on_confirm;
		m->in_chan->on_end = on_confirm_end;
		m->in_chan->due = sys_now_ns() + ASK_NS;
		drop_kept(m);
		m->kept = m->unread;
		m->nkept = m->nunread;
		m->kept_off = st->ho.rx_off;
		m->unread = NULL;
		m->nunread = 0;
		link = m->in_link;
		m->in_link = -1;
		m->in_len = 0;
		adopt(m, link, false, &plan, m->in_mem);
		helper_close(m->in_mem);
		m->in_mem = -1;
		return;
	case HO_OVER:
		chan_send(m->in_chan, &out, st->ho.key, NULL, 0);
		give_up(m, st->ho.reason, ECONNRESET);
		return;
	default:
		if (out.type)
			chan_send(m->in_chan, &out, st->ho.key, NULL, 0);
		drop_in(m);
	}
}

/* Without the connection's key nothing can be said that the asker must believe. */
static void say_refuse(struct chan *c, const struct msg *m, uint32_t reason)
{
	struct msg no = { .type = MSG_REFUSE, .nonce = m->nonce, .reason = reason };

	chan_send(c, &no, NULL, NULL, 0);
	chan_close(c);
}

static void say_no(struct chan *c, const struct msg *m, struct vstate *st, uint32_t reason)
{
	struct msg no = { .type = MSG_NO, .nonce = m->nonce, .reason = reason,
			  .flags = st->ho.role == HO_ACCEPTOR ? MSGF_ACCEPTOR : 0 };

	memcpy(no.gid, m->gid, WIRE_GID);
	chan_send(c, &no, st->ho.key, NULL, 0);
	chan_close(c);
}

/* A request speaks to the other role, a sharer to its own. */
static struct vsock *live_by_gid(const uint8_t *gid, enum ho_role role)
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
		drop_in(m);
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
	struct vsock *v = live_by_gid(req->gid, req->flags & MSGF_ACCEPTOR ? HO_OPENER : HO_ACCEPTOR);
	struct vstate *st = v ? atomic_load(&v->st) : NULL;
	struct msg checked;
	struct mend *m;

	if (!st) {
		say_refuse(c, req, REASON_GONE);
		return;
	}
	if (wire_decode(&checked, st->ho.key, buf, n) != WIRE_OK) {
		log_error("resume: forged request refused");
		st->ho.refused++;
		chan_close(c);
		return;
	}
	if (atomic_load(&st->phase) & PH_NOREP) {
		say_no(c, req, st, atomic_load(&st->reason));
		return;
	}
	m = mend_of(v);
	if (!m || nfds < 1 || fds[0] < 0 || !lead(m)) {
		say_no(c, req, st, REASON_BUSY);
		return;
	}
	drop_in(m);
	m->in_chan = c;
	c->v = v;
	c->birth = atomic_load(&v->birth);
	c->on_msg = in_more;
	c->on_end = in_end;
	m->in_link = fds[0];
	fds[0] = -1;
	if (nfds > 1) {
		m->in_mem = fds[1];
		fds[1] = -1;
	}
	memcpy(m->in, buf, n);
	m->in_len = n;
	if (!m->since)
		m->since = sys_now_ns();
	answer(m);
}

/* ---- sharing processes */

void mend_pull(struct chan *c, const struct msg *req, const uint8_t *buf, size_t n)
{
	struct vsock *v = live_by_gid(req->gid, req->flags & MSGF_ACCEPTOR ? HO_ACCEPTOR : HO_OPENER);
	struct vstate *st = v ? atomic_load(&v->st) : NULL;
	struct msg m, out = { .type = MSG_LINK, .nonce = req->nonce, .flags = req->flags };
	struct mend *d;
	int fd;

	if (!st || wire_decode(&m, st->ho.key, buf, n) != WIRE_OK) {
		say_refuse(c, req, REASON_GONE);
		return;
	}
	d = mend_of(v);
	fd = d ? own_fd(d) : -1;
	if (fd < 0 || vs_gen(st) < m.gen || atomic_load(&st->phase) & PH_MEND) {
		say_no(c, req, st, REASON_BUSY);
		return;
	}
	out.gen = vs_gen(st);
	memcpy(out.gid, req->gid, WIRE_GID);
	chan_send(c, &out, st->ho.key, &fd, 1);
	chan_close(c);
	settle(d);
}

static void on_link(struct chan *c, const uint8_t *buf, size_t n, int *fds, int nfds)
{
	struct mend *m = c->v->mend;
	struct vstate *st = state_of(m);
	struct msg in;

	if (!m || m->chan != c)
		return;
	if (wire_decode(&in, st->ho.key, buf, n) == WIRE_OK && in.type == MSG_LINK && nfds == 1 &&
	    in.gen == vs_gen(st)) {
		if (helper_tell(c->v, fds[0], (uint32_t)in.gen))
			m->told = (uint32_t)in.gen;
	}
	drop_ask(m);
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

static void follow(struct mend *m)
{
	struct vstate *st = state_of(m);
	struct pair_side *side = &m->v->pair->side[st->ho.role];
	uint32_t ph = atomic_load(&st->phase), me = (uint32_t)sys_getpid();
	struct msg out = { .type = MSG_PULL, .flags = st->ho.role == HO_ACCEPTOR ? MSGF_ACCEPTOR : 0 };
	int i, fd = -1;

	m->due = sys_now_ns() + 2 * MS;
	if (ph & PH_NOREP || !vs_mending(m->v)) {
		rest(m);
		tell(m, -1);
		return;
	}
	if (ph & PH_MEND) {
		if (lead(m)) {		/* whoever did it is gone */
			m->state = M_DIAL;
			m->due = 1;
		}
		return;
	}
	/* Passed on: the program's threads install it when they come by. */
	if (m->told == vs_gen(st)) {
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

/* ---- what drives it */

static void flush(struct mend *m)
{
	struct vsock *v = m->v;
	struct vstate *st = state_of(m);
	uint32_t ph = atomic_load(&st->phase);

	if (ph & PH_MEND && !(ph & PH_NOREP))
		return;
	if (ph & PH_UNSENT && !(ph & PH_NOREP)) {
		int fd = own_fd(m);

		if (fd >= 0 && shlock_take(&st->tx, MS, false) == SHLOCK_OK) {
			vs_flush_locked(v, fd);
			shlock_drop(&st->tx);
		}
		if (atomic_load(&st->phase) & PH_UNSENT) {
			m->state = M_FLUSH;
			m->due = sys_now_ns() + 100 * MS;
			if (fd < 0 || link_dead(fd))
				vs_break(v, ECONNRESET, "reset");
			else
				helper_watch(v, fd);
			return;
		}
	}
	m->state = M_IDLE;
	m->due = 0;
	if (m->untold)
		tell(m, m->own);
	settle(m);
	if (v->orphan) {
		/* Closed by the application long ago, delivered now. */
		shlock_take(&vs_fds_lock, -1, false);
		v->orphan = false;
		vs_end(v);
		shlock_drop(&vs_fds_lock);
		drop_own(m);
	}
}

void mend_given(struct vsock *v, int fd)
{
	struct mend *m = mend_of(v);

	if (m && m->own < 0)
		m->own = fd;
	else
		helper_close(fd);
}

void mend_poke(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);
	struct mend *m = st ? mend_of(v) : NULL;
	uint32_t ph;

	if (!m)
		return;
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
	if (!lead(m)) {
		m->state = M_FOLLOW;
		m->due = m->since;
		return;
	}
	m->state = M_DIAL;
	m->due = m->since + (st->ho.role == HO_OPENER ? 0 : ACCEPTOR_NS);
}

static void step(struct mend *m)
{
	int q;

	m->due = 0;
	switch (m->state) {
	case M_DIAL:
		dial(m);
		break;
	case M_QUIET:
		q = quiet(m);
		if (q <= 0)
			break;
		if (m->in_chan && m->in_len)
			answer(m);
		if (m->state == M_QUIET) {
			if (m->chan)
				ask(m);
			else
				again(m, ACCEPTOR_NS);
		}
		break;
	case M_FLUSH:
		flush(m);
		break;
	case M_FOLLOW:
		follow(m);
		break;
	default:
		if (m->untold)
			tell(m, m->own);
		settle(m);
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
	drop_in(m);
	drop_ask(m);
	drop_unread(m);
	drop_kept(m);
	drop_own(m);
	v->mend = NULL;
	free(m);
}

void mend_fork_child(void)
{
	mends = NULL;	/* the parent's; the memory is lost to the child */
}
