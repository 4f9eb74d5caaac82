#include "peer.h"
#include "agent.h"
#include "offer.h"
#include "query.h"
#include "util.h"
#include <stdlib.h>
#include <string.h>

#define PEERS_MAX 4096
#define FOLLOW_MAX 100			/* a second */
#define BACKLOG_MAX (256u << 10)
#define HEARD_NS (60 * SEC)		/* multicast: so long it counts as there */

static struct peer *peers;
static uint32_t npeers;
static bool ending;

static void due(struct timer *t);

void peer_each(void (*fn)(void *arg, struct peer *p), void *arg)
{
	struct peer *p, *next;

	for (p = peers; p; p = next) {
		next = p->next;
		fn(arg, p);
	}
}

void peer_sessions(void (*fn)(void *arg, struct session *s), void *arg)
{
	struct peer *p;

	for (p = peers; p; p = p->next)
		if (p->s && !p->s->dead)
			fn(arg, p->s);
}

uint32_t peer_session_count(void)
{
	uint32_t n = 0;
	struct peer *p;

	for (p = peers; p; p = p->next)
		n += p->s != NULL;
	return n;
}

const char *peer_state(const struct peer *p)
{
	return p->s ? "up" : p->self ? "self" : p->ntries ? "dialling" : p->t.at ? "waiting" : "idle";
}

/* ---- who is who */

struct peer *peer_by_host(const uint8_t host[16])
{
	struct peer *p = peers;

	while (p && !(p->has_host && !memcmp(p->host, host, 16)))
		p = p->next;
	return p;
}

static bool has_at(const struct peer *p, uint8_t family, const uint8_t *addr, uint16_t port)
{
	uint32_t i;

	for (i = 0; i < p->nat; i++)
		if (p->at[i].port == port && addr_same(family, addr, p->at[i].family, p->at[i].addr))
			return true;
	return false;
}

void peer_add_at(struct peer *p, uint8_t family, const uint8_t *addr, uint16_t port)
{
	uint32_t i = p->nat;

	if (!family || !port || has_at(p, family, addr, port))
		return;
	if (i == PEER_ADDRS)
		i = 1 + p->at_next % (PEER_ADDRS - 1);	/* the first is the configured one, or the oldest */
	else
		p->nat++;
	p->at[i].family = family;
	memcpy(p->at[i].addr, addr, 16);
	p->at[i].port = port;
}

void peer_drop_at(struct peer *p, uint8_t family, const uint8_t *addr)
{
	uint32_t i;

	for (i = p->why & PEER_STATIC ? 1 : 0; i < p->nat; i++)
		if (addr_same(family, addr, p->at[i].family, p->at[i].addr)) {
			p->at[i] = p->at[--p->nat];
			return;
		}
}

static void forget(struct peer *p)
{
	struct peer **q = &peers;

	while (*q != p)
		q = &(*q)->next;
	*q = p->next;
	npeers--;
	timer_stop(&p->t);
	free(p->backlog);
	free(p);
}

static bool idle(const struct peer *p)
{
	return !p->s && !p->ntries && !p->waiting && !(p->why & PEER_STATIC) && !p->backlog_n;
}

/* Room for one more: one that nobody needs goes. */
static bool make_room(void)
{
	struct peer *p;

	if (npeers < PEERS_MAX)
		return true;
	for (p = peers; p; p = p->next)
		if (idle(p)) {
			forget(p);
			return true;
		}
	say_seldom("more than %d agents are known; another one is not looked for", PEERS_MAX);
	return false;
}

/* Addresses that processes name are dialled at a bounded rate. */
static bool may_follow(void)
{
	static uint64_t second;
	static uint32_t n;

	if (loop_now() - second >= SEC) {
		second = loop_now();
		n = 0;
	}
	return n++ < FOLLOW_MAX;
}

struct peer *peer_get(const uint8_t *host, uint8_t family, const uint8_t addr[16], uint16_t port, uint32_t why)
{
	struct peer *p = NULL;

	if (host && is_zero(host, 16))
		host = NULL;
	if (host)
		p = peer_by_host(host);
	else
		for (p = peers; p && !(family && has_at(p, family, addr, port)); p = p->next)
			;
	if (!p) {
		if ((!host && !family) || !make_room() || (why == PEER_KNOWN && !may_follow()))
			return NULL;
		p = calloc(1, sizeof(*p));
		if (!p)
			return NULL;
		p->next = peers;
		peers = p;
		npeers++;
		if (host) {
			p->has_host = true;
			memcpy(p->host, host, 16);
		}
	}
	p->why |= why;
	if (why & PEER_HEARD)
		p->heard = loop_now();
	/* A process's word does not crowd out what agents have said themselves. */
	if (family && (why != PEER_KNOWN || p->nat < 2))
		peer_add_at(p, family, addr, port);
	return p;
}

/* The configured address comes first and stays. */
static void take_configured(struct peer *to, const struct peer *from)
{
	uint32_t i;

	for (i = 0; i < to->nat; i++)
		if (to->at[i].port == from->at[0].port &&
		    addr_same(to->at[i].family, to->at[i].addr, from->at[0].family, from->at[0].addr)) {
			to->at[i] = to->at[0];
			break;
		}
	if (i == to->nat && to->nat && to->nat < PEER_ADDRS)
		to->at[to->nat++] = to->at[0];
	to->at[0] = from->at[0];
	if (!to->nat)
		to->nat = 1;
	to->why |= PEER_STATIC;
}

/* The key exchange has said that `from` is the same host as `to`. */
static void merge(struct peer *to, struct peer *from)
{
	uint32_t i;

	to->why |= from->why;
	if (from->why & PEER_STATIC)
		take_configured(to, from);
	for (i = 0; i < from->nat; i++)
		peer_add_at(to, from->at[i].family, from->at[i].addr, from->at[i].port);
	for (i = 0; i < from->ntries; i++)
		if (to->ntries < PEER_TRIES) {
			from->tries[i]->peer = to;
			to->tries[to->ntries++] = from->tries[i];
		} else {
			from->tries[i]->peer = NULL;
			session_kill(from->tries[i], NULL);
		}
	from->ntries = 0;
	if (from->waiting) {
		to->waiting += from->waiting;
		to->waiting_since = from->waiting_since;
	}
	query_peer_merged(to, from);
	offer_peer_merged(to, from);
	forget(from);
}

/* The peer of a session whose host is now known. */
struct peer *peer_settle(struct session *s)
{
	struct peer *p = s->peer, *known = peer_by_host(s->host);

	if (!p)		/* it came to us: perhaps from where we have been looking */
		for (p = peers; p && (p->has_host || !has_at(p, s->family, s->addr, s->port)); p = p->next)
			;
	if (!known && (!p || p->has_host))
		known = peer_get(s->host, 0, NULL, 0, PEER_CAME);
	if (known && p && known != p) {
		if (!p->has_host) {
			merge(known, p);
			return known;
		}
		/*
		 * Another host than was expected lives at that address. A configured one is
		 * its from now on: else it would be dialled for the old one for ever, and each
		 * time replace the session with the new one.
		 */
		if (p->why & PEER_STATIC && p->at[0].port == s->port && addr_same(p->at[0].family, p->at[0].addr, s->family, s->addr)) {
			take_configured(known, p);
			p->why &= ~(uint32_t)PEER_STATIC;
		}
		peer_drop_at(p, s->family, s->addr);
		return known;
	}
	if (known || !p)
		return known;
	p->has_host = true;
	memcpy(p->host, s->host, 16);
	return p;
}

/* ---- dialling */

void peer_drop_try(struct peer *p, struct session *s)
{
	uint32_t i = 0;

	while (i < p->ntries && p->tries[i] != s)
		i++;
	if (i == p->ntries)
		return;
	p->ntries--;
	memmove(&p->tries[i], &p->tries[i + 1], (p->ntries - i) * sizeof(p->tries[0]));
}

void peer_failed(struct peer *p, const char *why)
{
	bool news = strncmp(p->error, why, sizeof(p->error) - 1) != 0;

	snprintf(p->error, sizeof(p->error), "%s", why);
	p->failed_at = loop_now();
	if (news && p->nat)
		say_info("agent at %s: %s", where_text(p->at[0].family, p->at[0].addr, p->at[0].port), why);
	offer_peer_failed(p);
}

/* A session that answers. One that does not gets a rival before it is given up. */
static bool settled(const struct peer *p)
{
	return p->s && !p->s->unanswered;
}

/* A fresh attempt; the oldest of too many is given up. */
static void dial(struct peer *p)
{
	struct session *s;
	uint32_t i;
	int e = 0;

	if (settled(p) || p->self || !p->nat || ending)
		return;
	if (p->ntries == PEER_TRIES) {
		s = p->tries[0];
		peer_drop_try(p, s);
		s->peer = NULL;
		session_kill(s, NULL);
	}
	i = p->at_next++ % p->nat;
	s = session_dial(p, p->at[i].family, p->at[i].addr, p->at[i].port, &e);
	if (s)
		p->tries[p->ntries++] = s;
	else
		peer_failed(p, strerror(e));
}

/* When is the next attempt due? 0: no need. */
static uint64_t interval(struct peer *p)
{
	uint64_t waited;

	if (p->waiting) {
		waited = loop_now() - p->waiting_since;
		return waited < 30 * SEC ? 25 * MS : waited < 60 * SEC ? 250 * MS : SEC;
	}
	if (p->why & PEER_STATIC || (p->why & PEER_HEARD && loop_now() - p->heard < HEARD_NS) || p->backlog_n) {
		p->backoff_ms = p->backoff_ms ? p->backoff_ms * 2 : 100;
		if (p->backoff_ms > 5000)
			p->backoff_ms = 5000;
		return p->backoff_ms * MS;
	}
	return 0;
}

static void due(struct timer *t)
{
	struct peer *p = container_of(t, struct peer, t);
	uint64_t in;

	if (settled(p) || p->self || ending)
		return;
	/* Without somebody who waits one attempt at a time is enough. */
	if (p->waiting || !p->ntries)
		dial(p);
	in = interval(p);
	if (in)
		timer_at(&p->t, loop_now() + in, due);
	else if (p->backlog_n && !p->ntries)
		p->backlog_n = 0;
}

void peer_dial(struct peer *p)
{
	if (p->s || p->self || p->t.at)
		return;
	due(&p->t);
	if (!p->t.at && !p->s && (p->why & PEER_STATIC))
		timer_at(&p->t, loop_now() + 100 * MS, due);
}

void peer_redial(struct peer *p)
{
	timer_at(&p->t, loop_now(), due);
}

void peer_calm(struct peer *p)
{
	struct session *t;

	while (p->ntries) {
		t = p->tries[--p->ntries];
		t->peer = NULL;
		if (t->state != S_HEAD)		/* else the other side may have chosen it */
			session_kill(t, NULL);
	}
}

bool peer_ending(void)
{
	return ending;
}

void peer_want(struct peer *p)
{
	if (!p->waiting++) {
		p->waiting_since = loop_now();
		if (!p->s)
			timer_at(&p->t, loop_now(), due);
	}
	if (p->s)
		session_expect(p->s);
}

void peer_unwant(struct peer *p)
{
	if (p->waiting)
		p->waiting--;
}

struct session *peer_session_with(uint8_t family, const uint8_t addr[16])
{
	struct peer *p;

	for (p = peers; p; p = p->next)
		if (p->s && !p->s->dead && session_has_addr(p->s, family, addr))
			return p->s;
	return NULL;
}

void peer_send_or_keep(struct peer *p, const uint8_t *buf, size_t n)
{
	uint8_t *b;

	if (p->s && !p->s->dead) {
		session_send_raw(p->s, buf, n, NULL, 0);
		return;
	}
	if (p->backlog_n + n > BACKLOG_MAX)
		return;		/* the other end will ask when it misses something */
	b = realloc(p->backlog, p->backlog_n + n);
	if (!b)
		return;
	memcpy(b + p->backlog_n, buf, n);
	p->backlog = b;
	p->backlog_n += (uint32_t)n;
	peer_dial(p);
}

/* ---- the network changed */

static void tell_addr(void *arg, struct session *s)
{
	session_send(s, arg);
}

void peer_addr_changed(uint8_t family, const uint8_t addr[16], bool gone)
{
	struct msg m = { .type = MSG_ADDR, .family = family, .flags = MSGF_PROBES | (gone ? MSGF_GONE : 0) };

	memcpy(m.addr, addr, 16);
	peer_sessions(tell_addr, &m);
}

void peer_net_changed(void)
{
	struct peer *p;

	for (p = peers; p; p = p->next) {
		if (p->s)
			session_check(p->s);
		else if (p->waiting || p->why & (PEER_STATIC | PEER_HEARD)) {
			p->backoff_ms = 0;
			peer_redial(p);
		}
	}
}

void peer_stop(void)
{
	ending = true;
	session_free_all();
	while (peers)
		forget(peers);
}
