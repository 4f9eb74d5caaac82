#include "ends.h"
#include "agent.h"
#include "parked.h"
#include "peer.h"
#include "port.h"
#include "query.h"
#include "rates.h"
#include "reason.h"
#include "util.h"
#include <sodium.h>
#include <string.h>

#define CHILD_S 3

static struct timer sweep;
static bool ending;

uint32_t ends_now(void)
{
	return (uint32_t)(loop_now() / SEC);
}

static const char *role_name(int role)
{
	return role ? "acceptor" : "opener";
}

/* ---- messages about an end */

static struct msg about(uint8_t type, const uint8_t gid[16], int role, uint32_t epoch)
{
	struct msg m = { .type = type, .flags = role_flag(role), .epoch = epoch };

	memcpy(m.gid, gid, 16);
	return m;
}

static void set_place(struct msg *m, const struct place *at)
{
	memcpy(m->host, at->host, 16);
	memcpy(m->addr, at->addr, 16);
	m->family = at->family;
	m->port = at->port;
}

void ends_self(struct place *at)
{
	memset(at, 0, sizeof(*at));
	memcpy(at->host, ag.host, 16);
	at->port = ag.port;
	at->family = ag.conf.listen_family;
	memcpy(at->addr, ag.conf.listen_addr, 16);
	if (!at->family || is_zero(at->addr, 16)) {
		at->family = 4;
		memcpy(at->addr, (uint8_t[16]){ 127, 0, 0, 1 }, 16);
	}
}

bool ends_location(const struct gident *e, int role, uint64_t nonce, struct msg *m)
{
	const struct end *n = &e->end[role];
	struct place self;

	*m = about(MSG_LOCATION, e->gid, role, n->epoch);
	m->nonce = nonce;
	if (n->state == END_UP) {
		ends_self(&self);
		set_place(m, &self);
		return true;
	}
	if (n->state != END_AWAY || !n->epoch)
		return false;	/* epoch 0: only what a process once heard */
	set_place(m, &n->place);
	return true;
}

static void send_one(void *arg, uint32_t id)
{
	struct proc *p = local_proc(id);

	if (p)
		local_send(p, arg, -1);
}

/* Tells the processes of an end where the other end, `role`, is. */
static void tell_location(const struct gident *e, int role)
{
	struct msg m;

	if (ends_location(e, role, 0, &m))
		gid_holders(ag.gids, e, !role, send_one, &m);
	rates_place(NULL, e, role);
}

void ends_tell(const struct gident *e, int role, const struct msg *m)
{
	const struct end *n = &e->end[role];
	uint8_t buf[WIRE_MAX];
	struct peer *p;

	if (n->state != END_AWAY)
		return;
	p = peer_get(n->place.host, n->place.family, n->place.addr, n->place.port, PEER_KNOWN);
	if (p)
		peer_send_or_keep(p, buf, wire_encode(m, NULL, buf));
}

static struct msg own_msg(const struct gident *e, int role, bool moved)
{
	struct msg m = about(MSG_OWN, e->gid, role, e->end[role].epoch);

	if (moved)
		m.flags |= MSGF_MOVED;
	if (e->end[!role].state == END_AWAY)
		set_place(&m, &e->end[!role].place);
	return m;
}

/* Who does not hear it keeps the end's old place: a session that only seems to live is found out now. */
static void send_session(void *arg, struct session *s)
{
	session_send(s, arg);
	session_expect(s);
}

static void release(struct proc *p, const uint8_t gid[16], int role, uint32_t epoch, uint32_t reason)
{
	struct msg m = about(MSG_RELEASE, gid, role, epoch);

	m.reason = reason;
	local_send(p, &m, -1);
}

/* ---- what the table tells */

static void fenced(void *arg, uint32_t id, const struct gident *e, int role)
{
	(void)arg;
	struct proc *p = local_proc(id);

	COUNT(fenced);
	if (!p)
		return;
	say_info("move %s step 3 RELEASE: process %u no longer has the %s's end", id_text(e->gid), p->pid,
		 role_name(role));
	release(p, e->gid, role, e->end[role].epoch, REASON_FENCED);
}

static uint32_t why_left(const struct end *n)
{
	return n->state == END_FROZEN ? REASON_FROZEN : n->state == END_PARKED ? REASON_PARKED :
	       n->reason ? n->reason : REASON_GONE;
}

static void left(void *arg, const struct gident *e, int role)
{
	(void)arg;
	struct msg m = about(MSG_RELEASE, e->gid, role, e->end[role].epoch);

	if (ending)
		return;
	m.reason = why_left(&e->end[role]);
	say_debug("%s: the %s's end is %s", id_text(e->gid), role_name(role), reason_word(m.reason));
	ends_tell(e, !role, &m);
	query_left(e, role, m.reason);
}

void ends_lost(struct gident *e, int role)
{
	gid_set(ag.gids, e, role, END_GONE, REASON_GONE, ends_now(), GID_TOMB_S);
	left(NULL, e, role);
}

static void sweep_now(struct timer *t)
{
	gid_expire(ag.gids, ends_now());
	timer_at(t, loop_now() + 5 * SEC, sweep_now);
}

bool ends_start(void)
{
	static const struct gid_ops ops = { .fenced = fenced, .left = left };
	uint8_t seed[16];

	randombytes_buf(seed, sizeof(seed));
	ag.gids = gid_new(ag.conf.max_connections, ag.conf.max_per_user, seed, &ops);
	timer_at(&sweep, loop_now() + 5 * SEC, sweep_now);
	return ag.gids != NULL;
}

void ends_stop(void)
{
	ending = true;
	timer_stop(&sweep);
}

/* ---- OWN */

static void refused_own(struct proc *p, const struct msg *m, enum gid_own why, const struct gident *e)
{
	int role = role_of(m);

	if (why == GID_FENCED) {
		COUNT(fenced);
		say_info("move %s step 3 RELEASE: process %u comes with an old incarnation (epoch %u, now %u)",
			 id_text(m->gid), p->pid, m->epoch, e->end[role].epoch);
		release(p, m->gid, role, e->end[role].epoch, REASON_FENCED);
		return;
	}
	if (why == GID_DENIED) {
		COUNT(refused_uid);
		say_seldom("process %u (user %u) claims connection %s, which is user %u's: refused", p->pid, p->uid,
			   id_text(m->gid), e->uid);
	} else {
		COUNT(refused_limit);
		say_seldom("process %u (user %u): connection %s is not registered: %s", p->pid, p->uid, id_text(m->gid),
			   why == GID_FULL_USER ? "the user has too many (raise [limits] connections-per-user)" :
			   "too many, or no memory (raise [limits] connections)");
	}
	release(p, m->gid, role, m->epoch, REASON_DENIED);
}

/* Where a process believes the other end to be; until somebody knows better. */
static void hearsay(struct gident *e, int role, const struct msg *m)
{
	struct place at = { .port = m->port, .family = m->family };

	if (e->end[role].state != END_NONE || (m->family != 4 && m->family != 6) || !memcmp(m->host, ag.host, 16))
		return;
	memcpy(at.host, m->host, 16);
	memcpy(at.addr, m->addr, 16);
	gid_away(ag.gids, e, role, 0, &at);
}

/* The other end's agent, or all if the end has moved, hear of it. */
static void spread_own(struct gident *e, int role, bool moved)
{
	const struct end *other = &e->end[!role];
	struct msg m = own_msg(e, role, moved);
	struct peer *p;

	if (moved)
		peer_sessions(send_session, &m);
	if (other->state != END_AWAY)
		return;
	p = peer_get(other->place.host, other->place.family, other->place.addr, other->place.port, PEER_KNOWN);
	if (!p)
		return;
	if (!p->s)
		peer_dial(p);	/* ends_session_up sends it */
	else if (!moved)
		session_send(p->s, &m);
}

void ends_own(struct proc *p, const struct msg *m)
{
	int role = role_of(m);
	bool moved = m->flags & MSGF_MOVED;
	struct gident *e = gid_find(ag.gids, m->gid);
	bool had = e && gid_holds(ag.gids, e, role, p->id);
	enum gid_own r = gid_own(ag.gids, m->gid, role, m->epoch, p->uid, p->id, &e);
	struct msg loc;

	if (r != GID_OK) {
		refused_own(p, m, r, e);
		return;
	}
	p->owns += !had;
	hearsay(e, !role, m);
	parked_taken(e, role);
	if (moved) {
		COUNT(moves);
		say_info("move %s step 1 REQUEST-QUERY: process %u has the %s's end, epoch %u; the other end was at %s",
			 id_text(m->gid), p->pid, role_name(role), m->epoch,
			 where_text(m->family, m->addr, m->port));
	}
	spread_own(e, role, moved);
	if (ends_location(e, !role, 0, &loc)) {
		local_send(p, &loc, -1);
		rates_place(p, e, !role);
	}
	if (e->end[!role].state == END_UP)
		tell_location(e, role);
	query_here(e, role);
	port_end_here(e, role);
}

void ends_remote_own(struct session *s, const struct msg *m)
{
	struct gident *e = gid_find(ag.gids, m->gid);
	int role = role_of(m);
	struct place at;
	struct msg r;

	session_place(s, &at);
	if (!e) {
		query_away(m->gid, role, m->epoch, &at);
		return;
	}
	if (e->end[role].state != END_NONE && m->epoch < e->end[role].epoch) {
		r = about(MSG_RELEASE, e->gid, role, e->end[role].epoch);
		r.reason = REASON_FENCED;
		session_send(s, &r);
		return;
	}
	if (m->flags & MSGF_MOVED && (e->end[role].state != END_AWAY || e->end[role].epoch != m->epoch))
		say_info("move %s step 4 LOCATE: the %s's end is now at host %s, %s", id_text(m->gid), role_name(role),
			 id_text(s->host), where_text(at.family, at.addr, at.port));
	ends_noted(e, role, m->epoch, &at);
	if (e->end[!role].state == END_GONE) {
		r = about(MSG_RELEASE, e->gid, !role, e->end[!role].epoch);
		r.reason = why_left(&e->end[!role]);
		session_send(s, &r);
	} else if (m->flags & MSGF_MOVED && e->end[!role].state == END_UP && ends_location(e, !role, 0, &r)) {
		session_send(s, &r);
	}
}

void ends_noted(struct gident *e, int role, uint32_t epoch, const struct place *at)
{
	enum gid_away r = gid_away(ag.gids, e, role, epoch, at);

	if (r == AWAY_OLD)
		return;
	parked_taken(e, role);
	if (r == AWAY_NEWS)
		tell_location(e, role);
	query_away(e->gid, role, epoch, at);
}

void ends_remote_location(struct session *s, const struct msg *m)
{
	struct gident *e = gid_find(ag.gids, m->gid);
	struct place at;

	session_place(s, &at);
	if (e && !memcmp(m->host, s->host, 16))
		ends_noted(e, role_of(m), m->epoch, &at);
}

void ends_met(struct proc *p, const uint8_t gid[16], int role, const struct session *s)
{
	struct gident *e;
	struct place at;

	session_place(s, &at);
	/* Every connection begins with epoch 1. */
	if (gid_make(ag.gids, gid, p->uid, &e) == GID_OK)
		ends_noted(e, role, 1, &at);
}

/* ---- RELEASE */

void ends_release(struct proc *p, const struct msg *m)
{
	struct gident *e = gid_find(ag.gids, m->gid);
	int role = role_of(m);
	enum end_state to = m->reason == REASON_FROZEN ? END_FROZEN : m->reason == REASON_PARKED ? END_PARKED :
			    END_GONE;

	/*
	 * Not its any more, perhaps a forked child's that has not come to us yet: it
	 * will when its link breaks.
	 */
	if (e && m->reason == REASON_NONE) {
		if (gid_release(ag.gids, e, role, p->id, END_FROZEN, REASON_FROZEN, ends_now()) &&
		    e->end[role].state == END_FROZEN)
			e->end[role].expires = ends_now() + CHILD_S;
		return;
	}
	/* Who does not hold it has nothing to say. */
	if (e && m->epoch == e->end[role].epoch)
		gid_release(ag.gids, e, role, p->id, to, (uint8_t)m->reason, ends_now());
}

void ends_proc_gone(struct proc *p)
{
	if (!ending)
		gid_proc_gone(ag.gids, p->id, ends_now());
}

void ends_remote_release(struct session *s, const struct msg *m)
{
	struct gident *e = gid_find(ag.gids, m->gid);
	int role = role_of(m);
	struct place at;
	struct end *n;

	if (!e)
		return;
	n = &e->end[role];
	if (m->reason == REASON_FENCED) {
		session_place(s, &at);
		if (m->epoch > n->epoch)
			gid_away(ag.gids, e, role, m->epoch, &at);
		return;
	}
	if (n->state != END_AWAY || m->epoch < n->epoch || memcmp(n->place.host, s->host, 16))
		return;
	if (m->reason == REASON_FROZEN || m->reason == REASON_PARKED) {
		query_left(e, role, m->reason);
		return;
	}
	gid_set(ag.gids, e, role, END_GONE, (uint8_t)m->reason, ends_now(), GID_TOMB_S);
	query_left(e, role, m->reason);
}

/* ---- NOTICE */

struct raw { const uint8_t *buf; size_t n; };

static void send_raw(void *arg, uint32_t id)
{
	struct proc *p = local_proc(id);
	struct raw *r = arg;

	if (p)
		local_send_raw(p, r->buf, r->n, -1);
}

void ends_notice(struct proc *p, const struct msg *m, const uint8_t *buf, size_t n)
{
	struct gident *e = gid_find(ag.gids, m->gid);
	struct raw r = { buf, n };
	int role = role_of(m);
	struct peer *to;
	const struct place *at;

	if (!e || !gid_holds(ag.gids, e, role, p->id))
		return;
	gid_holders(ag.gids, e, !role, send_raw, &r);
	if (e->end[!role].state != END_AWAY)
		return;
	at = &e->end[!role].place;
	to = peer_get(at->host, at->family, at->addr, at->port, PEER_KNOWN);
	if (to)
		peer_send_or_keep(to, buf, n);
}

void ends_remote_notice(struct session *s, const struct msg *m, const uint8_t *buf, size_t n)
{
	(void)s;
	struct gident *e = gid_find(ag.gids, m->gid);
	struct raw r = { buf, n };

	if (e)
		gid_holders(ag.gids, e, !role_of(m), send_raw, &r);
}

/* ---- sessions */

static void announce(void *arg, struct gident *e)
{
	struct session *s = arg;
	struct msg m;
	int r;

	for (r = 0; r < 2 && !s->dead; r++) {
		/* It may have moved while the other agent could not be told, be it the other end's or the old site's. */
		bool moved = e->end[r].epoch > 1;

		if (e->end[r].state != END_UP ||
		    (!moved && (e->end[!r].state != END_AWAY || memcmp(e->end[!r].place.host, s->host, 16))))
			continue;
		m = own_msg(e, r, moved);
		session_send(s, &m);
	}
}

void ends_session_up(struct session *s)
{
	gid_each(ag.gids, announce, s);
}
