#include "peer.h"
#include "agent.h"
#include "dir.h"
#include "ends.h"
#include "markers.h"
#include "offer.h"
#include "parked.h"
#include "query.h"
#include "util.h"
#include <stdlib.h>
#include <string.h>

#define PEERS_MAX 4096
#define BACKLOG_MAX (256u << 10)
#define HEARD_NS (60 * SEC)		/* multicast: so long it counts as there */
#define DUPLICATE_NS (2 * SEC)		/* two sessions this close together crossed each other */

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

static void add_at(struct peer *p, uint8_t family, const uint8_t *addr, uint16_t port)
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

static void drop_at(struct peer *p, uint8_t family, const uint8_t *addr)
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
		if ((!host && !family) || !make_room())
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
	if (family)
		add_at(p, family, addr, port);
	return p;
}

/* The key exchange has said that `from` is the same host as `to`. */
static void merge(struct peer *to, struct peer *from)
{
	uint32_t i;

	to->why |= from->why;
	if (from->why & PEER_STATIC) {	/* the configured address comes first and stays */
		for (i = 0; i < to->nat; i++)
			if (to->at[i].port == from->at[0].port &&
			    addr_same(to->at[i].family, to->at[i].addr, from->at[0].family, from->at[0].addr)) {
				to->at[i] = to->at[0];
				break;
			}
		if (i == to->nat && to->nat < PEER_ADDRS)
			to->at[to->nat++] = to->at[0];
		to->at[0] = from->at[0];
		if (!to->nat)
			to->nat = 1;
	}
	for (i = 0; i < from->nat; i++)
		add_at(to, from->at[i].family, from->at[i].addr, from->at[i].port);
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
static struct peer *settle(struct session *s)
{
	struct peer *p = s->peer, *known = peer_by_host(s->host);

	if (known && p && known != p) {
		if (p->has_host) {	/* another host than was expected lives at that address */
			drop_at(p, s->family, s->addr);
			return known;
		}
		merge(known, p);
		return known;
	}
	if (known)
		return known;
	if (!p || p->has_host)
		return peer_get(s->host, 0, NULL, 0, PEER_CAME);
	p->has_host = true;
	memcpy(p->host, s->host, 16);
	return p;
}

/* ---- dialling */

static void drop_try(struct peer *p, struct session *s)
{
	uint32_t i = 0;

	while (i < p->ntries && p->tries[i] != s)
		i++;
	if (i == p->ntries)
		return;
	p->ntries--;
	memmove(&p->tries[i], &p->tries[i + 1], (p->ntries - i) * sizeof(p->tries[0]));
}

static void failed(struct peer *p, const char *why)
{
	bool news = strncmp(p->error, why, sizeof(p->error) - 1) != 0;

	snprintf(p->error, sizeof(p->error), "%s", why);
	p->failed_at = loop_now();
	if (news && p->nat)
		say_info("agent at %s: %s", where_text(p->at[0].family, p->at[0].addr, p->at[0].port), why);
	offer_peer_failed(p);
}

/* A fresh attempt; the oldest of too many is given up. */
static void dial(struct peer *p)
{
	struct session *s;
	uint32_t i;
	int e = 0;

	if (p->s || p->self || !p->nat || ending)
		return;
	if (p->ntries == PEER_TRIES) {
		s = p->tries[0];
		drop_try(p, s);
		s->peer = NULL;
		session_kill(s, NULL);
	}
	i = p->at_next++ % p->nat;
	s = session_dial(p, p->at[i].family, p->at[i].addr, p->at[i].port, &e);
	if (s)
		p->tries[p->ntries++] = s;
	else
		failed(p, strerror(e));
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

	if (p->s || p->self || ending)
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

/* ---- sessions come and go */

/* Which of two sessions with one host stays? */
static bool newer_stays(struct session *old, struct session *new)
{
	bool lower = memcmp(ag.host, new->host, 16) < 0;

	if (old->dead || old->sec.client == new->sec.client || new->began - old->began > DUPLICATE_NS)
		return true;
	return new->sec.client == lower;
}

static void marks(struct session *s, bool gone)
{
	uint32_t i;

	for (i = 0; i < s->naddrs; i++)
		(gone ? marker_host_gone : marker_host)(s->addrs[i].family, s->addrs[i].addr, s->host);
}

static void send_backlog(struct peer *p, struct session *s)
{
	uint8_t *b = p->backlog;
	uint32_t at, n;

	p->backlog = NULL;
	for (at = 0; at + 8 <= p->backlog_n; at += n) {
		n = b[at + 6] | (uint32_t)b[at + 7] << 8;
		session_send_raw(s, b + at, n, NULL, 0);
	}
	p->backlog_n = 0;
	free(b);
}

/* Nothing may point to it any more. */
static void session_over(struct session *s)
{
	offer_session_down(s);
	query_session_down(s);
	parked_session_down(s);
}

void peer_proven(struct session *s)
{
	struct session *old;
	struct peer *p, *dialled = s->peer;

	if (dialled)
		drop_try(dialled, s);
	p = settle(s);
	s->peer = p;
	if (!p) {
		session_kill(s, "too many agents are known");
		return;
	}
	add_at(p, s->family, s->addr, s->port);
	while (p->ntries) {	/* the others are too late */
		struct session *t = p->tries[--p->ntries];

		t->peer = NULL;
		if (t->state != S_HEAD)	/* else the other side may have chosen it */
			session_kill(t, NULL);
	}
	old = p->s;
	if (old && !newer_stays(old, s)) {
		session_retire(s);
		return;
	}
	if (old) {
		session_over(old);
		session_retire(old);
	}
	p->s = s;
	p->error[0] = 0;
	p->backoff_ms = 0;
	p->failed_at = 0;
	timer_stop(&p->t);
	COUNT(sessions_opened);
	say_info("session with host %s at %s (%s)", id_text(s->host), where_text(s->family, s->addr, s->port),
		 s->sec.client ? "dialled" : "accepted");
	send_backlog(p, s);
	ends_session_up(s);
	offer_session_up(s);
	query_session_up(s);
	parked_session_up(s);
	if (p->waiting)
		session_expect(s);
}

void peer_session_end(struct session *s, const char *why)
{
	struct peer *p = s->peer;

	if (!p)
		return;
	drop_try(p, s);
	if (p->s != s) {
		if (why && s->state != S_PROVEN && !p->s)
			failed(p, why);
		return;
	}
	p->s = NULL;
	if (ending)
		return;
	COUNT(sessions_lost);
	say_info("session with host %s at %s has ended: %s", id_text(s->host),
		 where_text(s->family, s->addr, s->port), why ? why : "?");
	snprintf(p->error, sizeof(p->error), "%s", why ? why : "");
	marks(s, true);
	session_over(s);
	p->waiting_since = loop_now();
	timer_at(&p->t, loop_now(), due);
}

void peer_drained(struct session *s)
{
	parked_drained(s);
}

void peer_message(struct session *s, const struct msg *m, const uint8_t *buf, size_t n, const uint8_t *more,
		  size_t nmore)
{
	struct peer *p;

	if (s->retired) {	/* still on its way when the other session took over */
		p = peer_by_host(s->host);
		if (!p || !p->s)
			return;
		s = p->s;
	}
	switch (m->type) {
	case MSG_ADDR:
		session_addr(s, m);
		if (addr_loopback(m->family, m->addr) || addr_linklocal(m->family, m->addr))
			break;
		if (m->flags & MSGF_GONE) {
			drop_at(s->peer, m->family, m->addr);
			marker_host_gone(m->family, m->addr, s->host);
		} else {
			add_at(s->peer, m->family, m->addr, s->port);
			marker_host(m->family, m->addr, s->host);
		}
		break;
	case MSG_OFFER: offer_remote(s, m); break;
	case MSG_HELLO: offer_remote_hello(s, m); break;
	case MSG_WELCOME: offer_remote_answer(s, m, buf, n); break;
	case MSG_REFUSE:
		/* One nonce space: it is an offer's or a query's. */
		if (!offer_remote_answer(s, m, buf, n))
			query_remote_refuse(s, m);
		break;
	case MSG_OWN: ends_remote_own(s, m); break;
	case MSG_RELEASE: ends_remote_release(s, m); break;
	case MSG_NOTICE: ends_remote_notice(s, m, buf, n); break;
	case MSG_QUERY: query_remote(s, m); break;
	case MSG_LOCATION: query_remote_location(s, m); break;
	case MSG_IMAGE: parked_remote_image(s, m); break;
	case MSG_CHUNK: parked_remote_chunk(s, m, more, nmore); break;
	case MSG_LISTEN: parked_remote_listen(s, m); break;
	case MSG_REPORT: parked_remote_report(s, m); break;
	default:
		COUNT(refused_garbage);
		say_seldom("host %s: a %s from an agent is not expected (another version of roamd?)",
			   id_text(s->host), wire_name(m->type));
	}
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
	struct msg m = { .type = MSG_ADDR, .family = family, .flags = gone ? MSGF_GONE : 0 };

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
			timer_at(&p->t, loop_now(), due);
		}
	}
}

/* ---- the directory's candidates */

static void found(void *arg, const uint8_t *host, uint8_t family, const uint8_t addr[16], uint16_t port)
{
	(void)arg;
	struct peer *p;

	if (host && !memcmp(host, ag.host, 16))
		return;
	p = peer_get(host, family, addr, port ? port : ag.port, host ? PEER_HEARD : PEER_STATIC);
	if (p)
		peer_dial(p);
}

struct source {
	const struct dir_ops *ops;
	void *self;
	struct watch w;
	struct timer t;
};
static struct source sources[2] = { { .ops = &dir_static }, { .ops = &dir_multicast } };

static void source_due(struct timer *t)
{
	struct source *s = container_of(t, struct source, t);
	uint64_t at = s->ops->due ? s->ops->due(s->self) : 0;

	if (at && at <= loop_now()) {
		s->ops->tick(s->self, loop_now());
		at = s->ops->due(s->self);
	}
	if (at)
		timer_at(&s->t, at > loop_now() ? at : loop_now() + MS, source_due);
}

static void source_readable(struct watch *w, uint32_t events)
{
	(void)events;
	struct source *s = container_of(w, struct source, w);

	s->ops->readable(s->self);
	source_due(&s->t);
}

void peer_start(void)
{
	static struct dir d;
	uint32_t i;
	int fd;

	d = (struct dir){ .conf = &ag.conf, .key = ag.key, .host = ag.host, .port = ag.port, .found = found };
	for (i = 0; i < 2; i++) {
		struct source *s = &sources[i];

		if (i == 1 && !ag.conf.multicast)
			continue;
		s->self = s->ops->start(&d);
		if (!s->self)
			continue;
		fd = s->ops->fd ? s->ops->fd(s->self) : -1;
		if (fd >= 0)
			watch_add(&s->w, fd, EPOLLIN, source_readable);
		source_due(&s->t);
	}
}

void peer_stop(void)
{
	uint32_t i;

	ending = true;
	for (i = 0; i < 2; i++) {
		timer_stop(&sources[i].t);
		watch_del(&sources[i].w);
		if (sources[i].self)
			sources[i].ops->stop(sources[i].self);
		sources[i].self = NULL;
	}
	session_free_all();
	while (peers)
		forget(peers);
}
