/* Sessions come and go: which one of two stays, and who hears of it. */
#include "agent.h"
#include "ends.h"
#include "markers.h"
#include "offer.h"
#include "parked.h"
#include "peer.h"
#include "probe.h"
#include "query.h"
#include "util.h"
#include <stdlib.h>
#include <string.h>

#define CROSSED_NS (250 * MS)	/* begun so soon after the other one came up: they crossed on the way */

/* Which of two sessions with one host stays? */
static bool newer_stays(struct session *old, struct session *new)
{
	bool lower = memcmp(ag.host, new->host, 16) < 0;

	/* Later than that: the other side has dialled because it has lost the old one. */
	if (old->dead || old->sec.client == new->sec.client || new->began > old->proven + CROSSED_NS)
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
	probe_session_down(s);
}

void peer_proven(struct session *s)
{
	struct session *old;
	struct peer *p, *dialled = s->peer;

	if (dialled)
		peer_drop_try(dialled, s);
	p = peer_settle(s);
	s->peer = p;
	if (!p) {
		session_kill(s, "too many agents are known");
		return;
	}
	peer_add_at(p, s->family, s->addr, s->port);
	peer_calm(p);		/* the others are too late */
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
	probe_session_up(s);
	if (p->waiting)
		session_expect(s);
}

/* A session that was replaced goes: what the new one did not name is no longer the host's. */
static void forget_addrs(struct session *s)
{
	struct peer *p = peer_by_host(s->host);
	uint32_t i;

	for (i = 0; i < s->naddrs; i++) {
		if (p && p->s && session_has_addr(p->s, s->addrs[i].family, s->addrs[i].addr))
			continue;
		marker_host_gone(s->addrs[i].family, s->addrs[i].addr, s->host);
		if (p)
			peer_drop_at(p, s->addrs[i].family, s->addrs[i].addr);
	}
}

void peer_session_end(struct session *s, const char *why)
{
	struct peer *p = s->peer;

	if (s->retired)
		forget_addrs(s);
	if (!p)
		return;
	peer_drop_try(p, s);
	if (p->s != s) {
		if (why && s->state != S_PROVEN && !p->s)
			peer_failed(p, why);
		return;
	}
	p->s = NULL;
	if (peer_ending())
		return;
	COUNT(sessions_lost);
	say_info("session with host %s at %s has ended: %s", id_text(s->host),
		 where_text(s->family, s->addr, s->port), why ? why : "?");
	snprintf(p->error, sizeof(p->error), "%s", why ? why : "");
	marks(s, true);
	session_over(s);
	p->waiting_since = loop_now();
	peer_redial(p);
}

void peer_drained(struct session *s)
{
	parked_drained(s);
}
