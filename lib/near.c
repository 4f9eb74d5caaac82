/*
 *	acceptor                                     opener
 *	WELCOME came by the agents, with PID.START
 *	r.PID.START is here: dials it
 *	NEAR gid, nonce, who  -------------------->  knows gid and key: page made, used
 *	page used  <----------- NEAR gid, nonce, who + the pair page
 *
 * A UNIX socket is only reached within one kernel, whatever the network
 * namespaces, and only by who sees the directory; the MAC says that it is not
 * just somebody with the same numbers.  So nothing else is to be compared.
 *
 * If the answer is lost one end is near and the other is not.  No harm: the
 * agents go on carrying NOTICEs of a near end (vs_by_agents), a resume that
 * either asks for in its way is answered in that way, and without the other's
 * half of the page there is no ring.
 */
#include "near.h"
#include "conf.h"
#include "freeze.h"
#include "link_tcp.h"
#include "log.h"
#include "mend.h"
#include "peers.h"
#include "sys.h"
#include "vring.h"
#include <errno.h>
#include <string.h>

#define NEAR_NS		UINT64_C(1000000000)

struct pair *near_page(int *fd)
{
	struct pair *p;

	*fd = helper_keep(sys_memfd("roam-pair", PAIR_SIZE));
	p = *fd < 0 ? NULL : sys_map_shared(*fd, PAIR_SIZE);
	if (!p)
		return NULL;
	p->magic = PAIR_MAGIC;
	atomic_store(&p->side[0].fin, PAIR_NO_FIN);
	atomic_store(&p->side[1].fin, PAIR_NO_FIN);
	return p;
}

struct pair *near_page_map(int fd)
{
	struct pair *p = sys_memfd_size(fd) < PAIR_SIZE ? NULL : sys_map_shared(fd, PAIR_SIZE);

	if (p && p->magic != PAIR_MAGIC) {
		sys_unmap(p, PAIR_SIZE);
		p = NULL;
	}
	return p;
}

/* New links of such a connection are made over the asker's loopback, and it may be either. */
static bool has_loopback(struct vsock *v)
{
	int family[2] = { v->family, v->family }, pair[2];

	if (link_pair(family, pair) < 0)
		return false;
	helper_close(helper_keep(pair[0]));
	helper_close(helper_keep(pair[1]));
	return true;
}

/* Worth it, and nothing in the way. */
static bool may(struct vsock *v, struct vstate *st)
{
	return st && vs_live_now(v) && conf()->link != CONF_LINK_TCP && helper_own_table() &&
		atomic_load(&vring_allowed) && !v->no_ring && !freezing() && atomic_load(&st->remote) &&
		v->pair == &st->own_pair && !st->moved && !(atomic_load(&st->phase) & PH_BITS);
}

static bool untold(const struct pair_side *s)
{
	return atomic_load(&s->fin) == PAIR_NO_FIN && !atomic_load(&s->closed);
}

/*
 * The page takes the place of the private one.  A shutdown in the middle of it is
 * written to both (vs_announce_fin looks again): its lock is a blocked sender's.
 */
static bool use(struct vsock *v, struct vstate *st, uint32_t birth, struct pair *page)
{
	struct pair_side *old = &st->own_pair.side[st->ho.role], *mine = &page->side[st->ho.role];
	bool ok;

	shlock_take(&vs_fds_lock, -1, false);
	shlock_take(&st->mx, -1, false);
	ok = atomic_load(&v->birth) == birth && atomic_load(&v->nfd) && may(v, st) && !atomic_load(&st->shared) &&
		!st->shut_wr && !st->shut_rd && untold(old) && untold(&st->own_pair.side[!st->ho.role]);
	if (ok) {
		atomic_store(&mine->family, atomic_load(&old->family));
		atomic_store(&mine->first, atomic_load(&old->first));
		atomic_store(&st->near, true);
		v->pair = page;
		atomic_store(&st->remote, 0);
		if (atomic_load(&old->fin) != PAIR_NO_FIN)
			atomic_store(&mine->fin, atomic_load(&old->fin));
		if (atomic_load(&old->closed))
			atomic_store(&mine->closed, atomic_load(&old->closed));
	}
	shlock_drop(&st->mx);
	shlock_drop(&vs_fds_lock);
	return ok;
}

static void begin(struct vsock *v, struct chan *c, const struct msg *m)
{
	char id[9];

	mend_proc_add(v);
	peers_prove(v, c->fd, m->pid, m->start);
	vring_begin_count(v);
	vs_log_id(v, id);
	log_debug("%s near: its other end is process %u of this host", id, m->pid);
}

static void fill(struct vstate *st, struct msg *m, uint64_t nonce)
{
	*m = (struct msg){ .type = MSG_NEAR, .nonce = nonce, .flags = st->ho.role == HO_ACCEPTOR ? MSGF_ACCEPTOR : 0,
			   .pid = (uint32_t)sys_getpid(), .start = helper_start_time() };
	memcpy(m->gid, st->ho.gid, WIRE_GID);
}

/* Pids that mean nothing here cannot be watched, nor their files be told from those of the dead. */
static bool same_pids(struct vsock *v, int fd, uint32_t pid)
{
	char id[9];

	if (sys_peer_pid(fd) == pid)
		return true;
	vs_log_id(v, id);
	log_info("%s stays on TCP: its other end is on this host, but in another pid namespace", id);
	return false;
}

/* ---- the acceptor */

static void on_answer(struct chan *c, const uint8_t *buf, size_t n, int *fds, int nfds)
{
	struct vsock *v = c->v;
	struct vstate *st = atomic_load(&v->st);
	struct pair *page = NULL;
	struct msg m;

	/* REFUSE: it is somebody else, or has other things to do. */
	if (st && wire_decode(&m, st->ho.key, buf, n) == WIRE_OK && m.type == MSG_NEAR && m.nonce == c->nonce &&
	    !memcmp(m.gid, st->ho.gid, WIRE_GID) && !(m.flags & MSGF_ACCEPTOR) == (st->ho.role == HO_ACCEPTOR) && nfds == 1)
		page = near_page_map(fds[0]);
	if (page && use(v, st, c->birth, page)) {
		begin(v, c, &m);
		page = NULL;
	}
	if (page)
		sys_unmap(page, PAIR_SIZE);
	chan_close(c);
}

void near_look(struct vsock *v, uint32_t pid, uint64_t start)
{
	struct vstate *st = atomic_load(&v->st);
	struct chan *c;
	struct msg m;
	int fd;

	if (!pid || pid > INT32_MAX || !may(v, st) || atomic_load(&st->shared))
		return;
	fd = chan_dial(pid, start);
	if (fd < 0)
		return;		/* on another host, or not to be seen from here */
	c = same_pids(v, fd, pid) && has_loopback(v) ? chan_open(fd, sys_now_ns() + NEAR_NS, v) : NULL;
	if (!c) {
		helper_close(fd);
		return;
	}
	c->on_msg = on_answer;
	if (sys_random(&c->nonce, sizeof(c->nonce)) < 0)
		c->nonce = sys_now_ns();
	fill(st, &m, c->nonce);
	if (chan_send(c, &m, st->ho.key, NULL, 0) < 0)
		chan_close(c);
}

/* ---- the opener */

void near_asked(struct chan *c, const struct msg *req, const uint8_t *buf, size_t n)
{
	struct vsock *v = mend_live_by_gid(req->gid, req->flags & MSGF_ACCEPTOR ? HO_OPENER : HO_ACCEPTOR);
	struct vstate *st = v ? atomic_load(&v->st) : NULL;
	struct msg m;
	uint32_t birth = v ? atomic_load(&v->birth) : 0;
	struct pair *page = NULL;
	int fd = -1;

	if (st && wire_decode(&m, st->ho.key, buf, n) != WIRE_OK) {
		log_error("near: forged, refused");
		st->ho.refused++;
		chan_close(c);
		return;
	}
	if (may(v, st) && same_pids(v, c->fd, req->pid) && has_loopback(v))
		page = near_page(&fd);
	/* It says so itself, when it has the page. */
	if (page)
		atomic_store(&page->side[!st->ho.role].family, v->family);
	if (page && use(v, st, birth, page)) {
		begin(v, c, req);
		fill(st, &m, req->nonce);
		chan_send(c, &m, st->ho.key, &fd, 1);
		page = NULL;
	} else {
		m = (struct msg){ .type = MSG_REFUSE, .nonce = req->nonce, .reason = st ? REASON_BUSY : REASON_GONE };
		chan_send(c, &m, NULL, NULL, 0);
	}
	if (page)
		sys_unmap(page, PAIR_SIZE);
	helper_close(fd);
	chan_close(c);
}
