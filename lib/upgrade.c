#include "upgrade.h"
#include "agent.h"
#include "conf.h"
#include "event.h"
#include "log.h"
#include "meet.h"
#include "mend.h"
#include "near.h"
#include "peers.h"
#include "sys.h"
#include "vs_io.h"
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

/*
 *	acceptor                               opener
 *	finds the offer
 *	HELLO nonce, tuple, who  ----------->  is that offer ours, this its tuple?
 *	                                       goes live
 *	goes live  <-------------  WELCOME gid, key, who + the pair page
 *
 * If the second half fails the opener is live and the acceptor plain: no harm,
 * a later break then ends the connection as it would have without roam.
 */

#define HELLO_NS 1000000000u

static struct vsock *offered[4096];	/* by offer nonce, the next free place; full: forgets the first */

/* Where this offer is, or else where it could be. */
static struct vsock **slot_of(uint64_t nonce)
{
	struct vsock **room = NULL;
	size_t i;

	for (i = 0; i < 64; i++) {
		struct vsock **p = &offered[(nonce + i) % ARRAY_SIZE(offered)];

		if (*p && (*p)->offer_nonce == nonce)
			return p;
		/* An offer that was withdrawn leaves its place. */
		if (!room && (!*p || !(*p)->offer_nonce))
			room = p;
	}
	return room ? room : &offered[nonce % ARRAY_SIZE(offered)];
}

static void offer_far(struct vsock *v);

void upgrade_offered(struct vsock *v)
{
	if (!v->offer_nonce)
		return;
	*slot_of(v->offer_nonce) = v;
	if (v->offer_far)
		offer_far(v);
}

void upgrade_forget(struct vsock *v)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(offered); i++)
		if (offered[i] == v)
			offered[i] = NULL;
}

static void try_later(struct vsock *v)
{
	uint32_t n = atomic_load(&v->ops);

	if (!v->never)
		atomic_store(&v->next_try, n + 32);
}

#define BOUNCE UINT32_MAX	/* a phase_ok that no phase equals: receivers go the slow way and wait */
#define SWITCH_US 5000

static void switch_end(struct vsock *v)
{
	atomic_store(&v->phase_ok, 0);
	atomic_store(&v->mode, VS_PLAIN);
}

/*
 * Keeps new sends and receives out for a moment and waits for those inside.
 * A sender must leave; a receiver may sleep in the kernel, then its counter
 * stands still.  False: a sender stays, perhaps for long.
 */
static bool switch_begin(struct vsock *v)
{
	uint8_t plain = VS_PLAIN;
	int us;

	if (!atomic_compare_exchange_strong(&v->mode, &plain, VS_SWITCHING))
		return false;
	atomic_store(&v->phase_ok, BOUNCE);
	for (us = 0; us < SWITCH_US; us += 20) {
		if (!atomic_load(&v->tx0) && (us > 500 || !RX_USERS(atomic_load(&v->rx0))))
			return true;
		sys_nap_us(20);
	}
	switch_end(v);
	return false;
}

#define TRIES 8			/* 25 ms, with what is waited between them */

/* Live, or the reason why not. */
static uint32_t go_live(struct vsock *v, uint32_t birth, enum ho_role role, const uint8_t *gid,
			const uint8_t *key, struct pair *pair)
{
	uint32_t r = REASON_BUSY;
	int i, fd;

	/* The program has forbidden it while the offer was out. */
	if (atomic_load(&v->barred))
		return REASON_OFF;
	for (i = 0; i < TRIES; i++) {
		if (!switch_begin(v))
			continue;
		shlock_take(&vs_fds_lock, -1, false);
		fd = helper_borrow(atomic_load(&v->fd));
		r = fd < 0 ? REASON_MEMORY : REASON_CLOSED;
		if (fd >= 0 && atomic_load(&v->birth) == birth && atomic_load(&v->nfd))
			r = (uint32_t)vs_go_live(v, fd, role, gid, key, pair);
		helper_close(fd);
		shlock_drop(&vs_fds_lock);
		if (!r)
			return 0;
		switch_end(v);
		if (r != REASON_COUNT)
			break;
		sys_nap_us(100u << i);	/* a reader was between the kernel and its count, and perhaps lost its CPU there */
	}
	return r;
}

static void log_live(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);
	const struct sockaddr_storage *p = &st->names.peer;
	char id[9], a[INET6_ADDRSTRLEN] = "?";
	uint16_t port = 0;

	vs_log_id(v, id);
	if (p->ss_family == AF_INET) {
		inet_ntop(AF_INET, &((const struct sockaddr_in *)p)->sin_addr, a, sizeof(a));
		port = ntohs(((const struct sockaddr_in *)p)->sin_port);
	} else if (p->ss_family == AF_INET6) {
		inet_ntop(AF_INET6, &((const struct sockaddr_in6 *)p)->sin6_addr, a, sizeof(a));
		port = ntohs(((const struct sockaddr_in6 *)p)->sin6_port);
	}
	log_info("%s upgraded peer=%s%s%s:%u role=%s", id, p->ss_family == AF_INET6 ? "[" : "", a,
		 p->ss_family == AF_INET6 ? "]" : "", port,
		 st->ho.role == HO_OPENER ? "opener" : "acceptor");
	event_say(v, ROAM_EVENT_PERSISTENT, 0, 0);
}

static bool same_tuple(const struct msg *m, const struct tuple *t)
{
	return m->family == t->family && m->oport == t->oport && m->aport == t->aport &&
		!memcmp(m->oaddr, t->oaddr, 16) && !memcmp(m->aaddr, t->aaddr, 16);
}

/* ---- opener */

static void refuse(struct chan *c, uint64_t nonce, uint32_t reason)
{
	struct msg m = { .type = MSG_REFUSE, .nonce = nonce, .reason = reason };

	chan_send(c, &m, NULL, NULL, 0);
	chan_close(c);
}

/* The offer is answered; unless v was closed meanwhile, and is another connection now. */
static void answered(struct vsock *v, uint32_t birth, uint64_t nonce, uint32_t never)
{
	shlock_take(&vs_fds_lock, -1, false);
	if (atomic_load(&v->birth) == birth && atomic_load(&v->nfd) && v->offer_nonce == nonce) {
		if (never)
			v->never = (uint8_t)never;
		*slot_of(nonce) = NULL;
		meet_withdraw(v);
	}
	shlock_drop(&vs_fds_lock);
}

void upgrade_hello(struct chan *c, const struct msg *m)
{
	struct vsock *v = *slot_of(m->nonce);
	struct msg w = { .type = MSG_WELCOME, .nonce = m->nonce };
	struct pair *pair = NULL;
	struct tuple t;
	uint32_t r, birth = v ? atomic_load(&v->birth) : 0;
	int fd;

	if (!v || v->offer_nonce != m->nonce || !m->nonce || v->offer_far || atomic_load(&v->mode) != VS_PLAIN) {
		refuse(c, m->nonce, REASON_GONE);
		return;
	}
	meet_noted(v, &t);
	if (m->netns != sys_netns() || !same_tuple(m, &t)) {
		refuse(c, m->nonce, REASON_TUPLE);
		return;
	}
	pair = near_page(&fd);
	if (!pair || sys_random(w.gid, WIRE_GID) < 0 || sys_random(w.key, WIRE_KEY) < 0) {
		r = REASON_MEMORY;
		goto fail;
	}
	r = go_live(v, birth, HO_OPENER, w.gid, w.key, pair);
	if (r)
		goto fail;
	answered(v, birth, m->nonce, 0);
	mend_proc_add(v);
	peers_prove(v, c->fd, m->pid, m->start);
	w.pid = (uint32_t)sys_getpid();
	w.start = helper_start_time();
	chan_send(c, &w, NULL, &fd, 1);
	helper_close(fd);
	log_live(v);
	agent_own(v, false);
	chan_close(c);
	return;
fail:
	if (pair)
		sys_unmap(pair, PAIR_SIZE);
	helper_close(fd);
	refuse(c, m->nonce, r);
	/* A busy sender is worth another try; the offer stays. */
	if (r != REASON_BUSY && r != REASON_COUNT)
		answered(v, birth, m->nonce, r);
}

/* ---- acceptor */

static void on_welcome(struct chan *c, const uint8_t *buf, size_t n, int *fds, int nfds)
{
	struct vsock *v = c->v;
	struct pair *pair = NULL;
	struct msg m;
	uint32_t r = REASON_VERSION;

	if (wire_decode(&m, NULL, buf, n) != WIRE_OK || (m.type != MSG_WELCOME && m.type != MSG_REFUSE))
		goto out;
	if (m.type == MSG_REFUSE) {
		r = m.reason;
		log_debug("upgrade refused: %s", reason_word(r));
		goto out;
	}
	r = REASON_MEMORY;
	pair = nfds == 1 ? near_page_map(fds[0]) : NULL;
	if (!pair)
		goto out;
	r = go_live(v, c->birth, HO_ACCEPTOR, m.gid, m.key, pair);
	/* The opener is live already: it is to believe its kernel, as if we were plain again (stay_plain_far). */
	if (r) {
		log_debug("welcome, but it stays plain: %s", reason_word(r));
		atomic_store(&pair->side[HO_ACCEPTOR].closed, PAIR_CLOSED);
	} else {
		mend_proc_add(v);
		peers_prove(v, c->fd, m.pid, m.start);
		log_live(v);
		agent_own(v, false);
		pair = NULL;
	}
out:
	if (pair)
		sys_unmap(pair, PAIR_SIZE);
	if (r == REASON_BUSY || r == REASON_COUNT)
		try_later(v);
	else if (r)
		v->never = (uint8_t)r;
	chan_close(c);
}

static void hello_end(struct chan *c)
{
	try_later(c->v);
}

static void take_far(struct vsock *v, uint64_t nonce);

void upgrade_dial(struct vsock *v)
{
	struct msg m = { .type = MSG_HELLO };
	struct tuple t;
	uint32_t birth = atomic_load(&v->birth);
	struct chan *c;
	bool far;
	int fd;

	if (atomic_load(&v->mode) != VS_PLAIN || !meet_offer(v, &m.pid, &m.start, &m.nonce, &far)) {
		try_later(v);
		return;
	}
	if (far) {
		/* One at a time: the opener may refuse a first HELLO (busy) and welcome a second, and we would have given up. */
		if (!v->offer_far || v->offer_nonce != m.nonce || *slot_of(m.nonce) != v)
			take_far(v, m.nonce);
		return;
	}
	fd = chan_dial(m.pid, m.start);
	if (fd < 0) {
		if (errno == EACCES)
			v->never = REASON_UID;
		else if (errno == ECONNREFUSED || errno == ENOENT)
			meet_drop_offer(v);
		try_later(v);
		return;
	}
	c = chan_open(fd, sys_now_ns() + HELLO_NS, v);
	if (!c) {
		helper_close(fd);
		try_later(v);
		return;
	}
	c->on_msg = on_welcome;
	c->on_end = hello_end;
	c->birth = birth;
	meet_noted(v, &t);
	m.netns = sys_netns();
	m.family = t.family;
	m.oport = t.oport;
	m.aport = t.aport;
	memcpy(m.oaddr, t.oaddr, 16);
	memcpy(m.aaddr, t.aaddr, 16);
	m.pid = (uint32_t)sys_getpid();
	m.start = helper_start_time();
	if (chan_send(c, &m, NULL, NULL, 0) < 0) {
		hello_end(c);
		chan_close(c);
	}
}

/* ---- through the agents: no pair page, and the socket itself proves whose the connection is */

static void far_msg(struct vsock *v, struct msg *m)
{
	struct tuple t;

	meet_noted(v, &t);
	m->family = t.family;
	m->oport = t.oport;
	m->aport = t.aport;
	memcpy(m->oaddr, t.oaddr, 16);
	memcpy(m->aaddr, t.aaddr, 16);
}

static bool send_with_socket(struct vsock *v, struct msg *m)
{
	int fd = helper_borrow(atomic_load(&v->fd));
	bool sent;

	agent_want();
	sent = fd >= 0 && agent_send(m, NULL, fd) >= 0;
	if (!sent)
		try_later(v);
	helper_close(fd);
	return sent;
}

static void offer_far(struct vsock *v)
{
	struct msg m = { .type = MSG_OFFER, .nonce = v->offer_nonce };

	far_msg(v, &m);
	send_with_socket(v, &m);
}

static void take_far(struct vsock *v, uint64_t nonce)
{
	struct msg m = { .type = MSG_HELLO, .nonce = nonce };

	v->offer_far = true;
	v->offer_nonce = nonce;
	*slot_of(nonce) = v;
	far_msg(v, &m);
	if (!send_with_socket(v, &m)) {
		*slot_of(nonce) = NULL;
		v->offer_nonce = 0;
	}
}

/* Every look-up by nonce: NULL when it is not about a plain connection of ours. */
static struct vsock *far_of(const struct msg *m, enum ho_role role)
{
	struct vsock *v = *slot_of(m->nonce);

	return v && m->nonce && v->offer_nonce == m->nonce && v->offer_far && v->role == role ? v : NULL;
}

static void far_live(struct vsock *v)
{
	*slot_of(v->offer_nonce) = NULL;
	v->offer_nonce = 0;
	log_live(v);
	agent_own(v, false);
}

void upgrade_hello_far(const struct msg *m)
{
	struct vsock *v = far_of(m, HO_OPENER);
	struct msg w = { .type = MSG_WELCOME, .nonce = m->nonce };
	struct tuple t;
	uint32_t r = REASON_GONE;

	if (v && atomic_load(&v->mode) == VS_PLAIN) {
		meet_noted(v, &t);
		r = REASON_TUPLE;
		if (same_tuple(m, &t))
			r = sys_random(w.gid, WIRE_GID) < 0 || sys_random(w.key, WIRE_KEY) < 0 ? REASON_MEMORY :
				go_live(v, atomic_load(&v->birth), HO_OPENER, w.gid, w.key, NULL);
	}
	if (r) {
		w.type = MSG_REFUSE;
		w.reason = r;
	} else {
		w.pid = (uint32_t)sys_getpid();
		w.start = helper_start_time();
	}
	agent_send(&w, NULL, -1);
	if (!r)
		far_live(v);
	else if (v && r != REASON_BUSY && r != REASON_COUNT && r != REASON_GONE)
		v->never = (uint8_t)r;
}

/*
 * The opener is live already and we are not: it must not ask for us when our FIN
 * comes, but believe its kernel.
 */
static void stay_plain_far(const struct msg *m)
{
	struct msg o = { .flags = MSGF_ACCEPTOR, .epoch = 1, .fin = PAIR_NO_FIN, .reason = REASON_CLOSED };

	memcpy(o.gid, m->gid, WIRE_GID);
	o.type = MSG_OWN;
	if (agent_send(&o, NULL, -1) < 0)
		return;
	o.type = MSG_NOTICE;
	o.flags |= MSGF_CLOSED;
	agent_send(&o, m->key, -1);
	o.type = MSG_RELEASE;
	o.flags = MSGF_ACCEPTOR;
	agent_send(&o, NULL, -1);
}

bool upgrade_answer_far(const struct msg *m)
{
	struct vsock *v = far_of(m, HO_ACCEPTOR);
	uint32_t r = m->type == MSG_REFUSE ? m->reason : REASON_NONE;

	if (!v)
		v = m->type == MSG_REFUSE ? far_of(m, HO_OPENER) : NULL;
	if (!v) {
		if (m->type == MSG_WELCOME)
			stay_plain_far(m);	/* it was closed meanwhile */
		return false;
	}
	if (!r) {
		r = go_live(v, atomic_load(&v->birth), HO_ACCEPTOR, m->gid, m->key, NULL);
		if (r)
			stay_plain_far(m);
	}
	if (!r) {
		far_live(v);
		near_look(v, m->pid, m->start);
		return true;
	}
	log_debug("upgrade through the agents refused: %s", reason_word(r));
	*slot_of(m->nonce) = NULL;
	v->offer_nonce = 0;
	v->why_far = (uint8_t)r;
	try_later(v);
	return true;
}

void upgrade_offers_again(void)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(offered); i++) {
		struct vsock *v = offered[i];

		if (!v || !v->offer_nonce || !v->offer_far || atomic_load(&v->mode) != VS_PLAIN)
			continue;
		if (v->role == HO_OPENER)
			offer_far(v);
		else
			take_far(v, v->offer_nonce);
	}
}

/* Withdrawals made by the program's threads, for the helper to send. */
static _Atomic uint64_t withdrawn[64];

void upgrade_withdraw_far(uint64_t nonce)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(withdrawn); i++) {
		uint64_t zero = 0;

		if (atomic_compare_exchange_strong(&withdrawn[i], &zero, nonce))
			return;
	}
	/* Full: the agent forgets the offer by itself, later. */
}

/* The offers are the parent's, to make and to withdraw. */
void upgrade_fork_child(void)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(offered); i++)
		offered[i] = NULL;
	for (i = 0; i < ARRAY_SIZE(withdrawn); i++)
		atomic_store(&withdrawn[i], 0);
}

void upgrade_say_withdrawn(void)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(withdrawn); i++) {
		struct msg m = { .type = MSG_REFUSE, .reason = REASON_CLOSED,
				 .nonce = atomic_load(&withdrawn[i]) };

		if (!m.nonce)
			continue;
		agent_send(&m, NULL, -1);
		atomic_store(&withdrawn[i], 0);
	}
}
