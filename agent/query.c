#include "query.h"
#include "agent.h"
#include "ends.h"
#include "peer.h"
#include "reason.h"
#include "util.h"
#include <stdlib.h>
#include <string.h>

#define QUERIES_MAX 65536u
#define PER_PROC 16384u
#define BUCKETS 1024u
#define HOPS 4		/* "ask there": so often */

struct query {
	struct query *next;		/* of the bucket */
	uint8_t gid[16];
	int role;			/* of the end that is looked for */
	uint32_t slot;
	uint64_t id;			/* nonce between agents */
	uint64_t nonce;			/* the asker's */
	struct proc *p;			/* the asker: a process, or */
	struct session *s;		/* an agent */
	struct peer *peer;		/* is being asked, and wanted */
	uint64_t until;
	uint8_t hops;
	bool broad;			/* all are asked */
};

static struct query *bucket[BUCKETS];
static struct query **slots;
static uint32_t nslots, count;
static struct timer sweep;

uint32_t query_count(void)
{
	return count;
}

static struct query **chain(const uint8_t gid[16])
{
	uint32_t v;

	memcpy(&v, gid, sizeof(v));
	return &bucket[v % BUCKETS];
}

/* ---- made and ended */

static void drop(struct query *q)
{
	struct query **p = chain(q->gid);

	while (*p != q)
		p = &(*p)->next;
	*p = q->next;
	slots[q->slot] = NULL;
	count--;
	if (q->peer)
		peer_unwant(q->peer);
	if (q->p)
		q->p->queries--;
	free(q);
}

static void refuse(struct query *q, uint32_t reason)
{
	struct msg m = { .type = MSG_REFUSE, .nonce = q->nonce, .reason = reason };

	if (q->p)
		local_send(q->p, &m, -1);
	else
		session_send(q->s, &m);
	drop(q);
}

static void sweep_now(struct timer *t)
{
	uint32_t i;

	for (i = 0; i < nslots; i++) {
		struct query *q = slots[i];

		if (!q || q->until > loop_now())
			continue;
		COUNT(refused_unknown);
		if (q->p)
			say_info("move %s: nobody could say where the %s's end is (%s)", id_text(q->gid),
				 q->role ? "acceptor" : "opener",
				 q->peer && !q->peer->s ? "its agent cannot be reached" : "no agent knows it");
		refuse(q, REASON_UNKNOWN);
	}
	if (count)
		timer_at(t, loop_now() + 250 * MS, sweep_now);
}

static bool place(struct query *q)
{
	static uint32_t hand;
	struct query **s;
	uint32_t n, i;

	if (count >= QUERIES_MAX)
		return false;
	if (count == nslots) {
		n = nslots ? 2 * nslots : 64;
		s = realloc(slots, n * sizeof(*s));
		if (!s)
			return false;
		memset(s + nslots, 0, (n - nslots) * sizeof(*s));
		slots = s;
		nslots = n;
	}
	for (i = hand % nslots; slots[i]; i = (i + 1) % nslots)
		;
	hand = i + 1;
	slots[i] = q;
	q->slot = i;
	q->id = (random64() & ~UINT64_C(0xffffffff)) | i;
	count++;
	return true;
}

static struct query *make(const struct msg *m, struct proc *p, struct session *s)
{
	struct query *q = calloc(1, sizeof(*q)), **c = chain(m->gid);

	if (!q || !place(q)) {
		free(q);
		return NULL;
	}
	memcpy(q->gid, m->gid, 16);
	q->role = !role_of(m);
	q->nonce = m->nonce;
	q->p = p;
	q->s = s;
	if (p)
		p->queries++;
	q->until = p ? loop_now() + ag.conf.hold_s * SEC : ag.began_ns + SETTLE_NS;
	q->next = *c;
	*c = q;
	if (!sweep.at)
		timer_at(&sweep, loop_now() + 250 * MS, sweep_now);
	return q;
}

static struct query *by_id(uint64_t id)
{
	uint32_t i = (uint32_t)id;

	return i < nslots && slots[i] && slots[i]->id == id ? slots[i] : NULL;
}

/* ---- asking */

static void ask_session(struct query *q, struct session *s)
{
	struct msg m = { .type = MSG_QUERY, .flags = role_flag(!q->role), .nonce = q->id };

	memcpy(m.gid, q->gid, 16);
	session_send(s, &m);
	session_expect(s);
}

static void ask_one_of_all(void *arg, struct session *s)
{
	struct query *q = arg;

	if (!q->peer || q->peer->s != s)
		ask_session(q, s);
}

static void ask_all(struct query *q)
{
	if (q->broad)
		return;
	q->broad = true;
	COUNT(queries_held);
	peer_sessions(ask_one_of_all, q);
}

static void ask_at(struct query *q, const struct place *at)
{
	struct peer *p = NULL;

	if (at->family && memcmp(at->host, ag.host, 16))
		p = peer_get(at->host, at->family, at->addr, at->port, PEER_KNOWN);
	if (p != q->peer) {
		if (q->peer)
			peer_unwant(q->peer);
		q->peer = p;
		if (p)
			peer_want(p);
	}
	if (!p) {
		ask_all(q);
		return;
	}
	say_info("move %s step 2 COORDINATE: asking host %s at %s", id_text(q->gid), id_text(p->host),
		 where_text(at->family, at->addr, at->port));
	if (p->s)
		ask_session(q, p->s);
	else
		COUNT(queries_held);
}

/* ---- what is known here; true: it was answered */

static uint32_t kept_reason(const struct end *n)
{
	switch (n->state) {
	case END_FROZEN: return REASON_FROZEN;
	case END_PARKED: return REASON_PARKED;
	case END_GONE: return n->reason ? n->reason : REASON_GONE;
	}
	return 0;
}

void query_local(struct proc *p, const struct msg *m)
{
	struct gident *e = gid_find(ag.gids, m->gid);
	int role = !role_of(m);
	struct place at = { .family = m->family, .port = m->port };
	struct end *n = e ? &e->end[role] : NULL;
	struct query *q;
	struct msg loc;

	COUNT(queries);
	if (!gid_allowed(e, p->uid)) {
		COUNT(refused_uid);
		say_seldom("process %u (user %u) asks for connection %s, which is user %u's: refused", p->pid, p->uid,
			   id_text(m->gid), e->uid);
		local_refuse(p, m->nonce, REASON_DENIED);
		return;
	}
	if (n && n->state == END_UP && ends_location(e, role, m->nonce, &loc)) {
		local_send(p, &loc, -1);
		return;
	}
	if (n && kept_reason(n)) {
		COUNT(refused_gone);
		local_refuse(p, m->nonce, kept_reason(n));
		return;
	}
	q = p->queries < PER_PROC ? make(m, p, NULL) : NULL;
	if (!q) {
		COUNT(refused_limit);
		local_refuse(p, m->nonce, REASON_BUSY);
		return;
	}
	if (at.family != 4 && at.family != 6)
		at.family = 0;
	memcpy(at.host, m->host, 16);
	memcpy(at.addr, m->addr, 16);
	ask_at(q, n && n->state == END_AWAY ? &n->place : &at);
}

/* Another agent asks. */
void query_remote(struct session *s, const struct msg *m)
{
	struct gident *e = gid_find(ag.gids, m->gid);
	int role = !role_of(m);
	struct msg r = { .type = MSG_REFUSE, .nonce = m->nonce, .reason = REASON_UNKNOWN };
	struct end *n = e ? &e->end[role] : NULL;
	struct msg loc;

	COUNT(queries);
	if (n && (n->state == END_UP || (n->state == END_AWAY && memcmp(n->place.host, s->host, 16))) &&
	    ends_location(e, role, m->nonce, &loc)) {
		if (n->state == END_UP) {	/* its address is where the session reaches us */
			loc.family = 0;
			memset(loc.addr, 0, 16);
		}
		session_send(s, &loc);
		return;
	}
	if (n && kept_reason(n)) {
		COUNT(refused_gone);
		r.reason = kept_reason(n);
	} else if (loop_now() < ag.began_ns + SETTLE_NS && make(m, NULL, s)) {
		return;		/* its process may be on its way back to us */
	}
	session_send(s, &r);
}

/* ---- answers of other agents */

static bool asked(const struct query *q, const struct session *s)
{
	return q && q->p && (q->broad || (q->peer && q->peer->s == s));
}

void query_remote_location(struct session *s, const struct msg *m)
{
	struct query *q = by_id(m->nonce);
	struct gident *e = gid_find(ag.gids, m->gid);
	struct place at = { .family = m->family, .port = m->port };

	if (!m->nonce) {
		ends_remote_location(s, m);
		return;
	}
	if (!asked(q, s) || memcmp(q->gid, m->gid, 16) || q->role != role_of(m))
		return;
	if (memcmp(m->host, s->host, 16)) {	/* not there: it has moved on */
		memcpy(at.host, m->host, 16);
		memcpy(at.addr, m->addr, 16);
		if (q->hops++ < HOPS && (at.family == 4 || at.family == 6))
			ask_at(q, &at);
		return;
	}
	session_place(s, &at);
	/* Answers all who ask for it, this one among them. */
	if (e)
		ends_noted(e, q->role, m->epoch, &at);
	query_away(m->gid, role_of(m), m->epoch, &at);
}

void query_remote_refuse(struct session *s, const struct msg *m)
{
	struct query *q = by_id(m->nonce);

	if (!asked(q, s))
		return;
	if (m->reason == REASON_UNKNOWN) {
		ask_all(q);
		return;
	}
	if (q->p && !q->broad && (m->reason == REASON_FROZEN || m->reason == REASON_PARKED)) {
		struct msg wait = { .type = MSG_REFUSE, .nonce = q->nonce, .reason = m->reason };

		/* As far as its old site knows; it may be up elsewhere already, and that agent was not heard. */
		local_send(q->p, &wait, -1);
		ask_all(q);
		return;
	}
	if (m->reason == REASON_GONE || m->reason == REASON_CLOSED)
		COUNT(refused_gone);
	refuse(q, m->reason);
}

/* ---- news */

static void answer(struct query *q, const struct msg *m)
{
	struct msg r = *m;

	r.nonce = q->nonce;
	if (q->p)
		local_send(q->p, &r, -1);
	else
		session_send(q->s, &r);
	drop(q);
}

void query_here(const struct gident *e, int role)
{
	struct query *q, *next;
	struct msg m;

	if (!count || !ends_location(e, role, 0, &m))
		return;
	for (q = *chain(e->gid); q; q = next) {
		next = q->next;
		if (q->role != role || memcmp(q->gid, e->gid, 16))
			continue;
		if (q->s)
			m.family = 0;	/* where the session reaches us */
		answer(q, &m);
	}
}

void query_away(const uint8_t gid[16], int role, uint32_t epoch, const struct place *at)
{
	struct msg m = { .type = MSG_LOCATION, .flags = role_flag(role), .epoch = epoch, .family = at->family,
			 .port = at->port };
	struct query *q, *next;

	if (!count)
		return;
	memcpy(m.gid, gid, 16);
	memcpy(m.host, at->host, 16);
	memcpy(m.addr, at->addr, 16);
	for (q = *chain(gid); q; q = next) {
		next = q->next;
		if (q->role == role && !memcmp(q->gid, gid, 16) && !(q->s && !memcmp(q->s->host, at->host, 16)))
			answer(q, &m);
	}
}

void query_left(const struct gident *e, int role, uint32_t reason)
{
	struct query *q, *next;

	for (q = count ? *chain(e->gid) : NULL; q; q = next) {
		next = q->next;
		if (q->role == role && !memcmp(q->gid, e->gid, 16))
			refuse(q, reason);
	}
}

void query_session_up(struct session *s)
{
	uint32_t i;

	for (i = 0; i < nslots && !s->dead; i++)
		if (slots[i] && asked(slots[i], s))
			ask_session(slots[i], s);
}

void query_session_down(struct session *s)
{
	uint32_t i;

	for (i = 0; i < nslots; i++)
		if (slots[i] && slots[i]->s == s)
			drop(slots[i]);
}

void query_proc_gone(struct proc *p)
{
	uint32_t i;

	for (i = 0; i < nslots && p->queries; i++)
		if (slots[i] && slots[i]->p == p)
			drop(slots[i]);
}

void query_peer_merged(struct peer *to, struct peer *from)
{
	uint32_t i;

	for (i = 0; i < nslots; i++)
		if (slots[i] && slots[i]->peer == from)
			slots[i]->peer = to;
}

void query_stop(void)
{
	uint32_t i;

	timer_stop(&sweep);
	for (i = 0; i < nslots; i++)
		if (slots[i])
			drop(slots[i]);
	free(slots);
	slots = NULL;
	nslots = 0;
}
