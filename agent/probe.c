/*
 * The agent that opened the session asks (PROBE, with a key), the other one
 * agrees or says `busy`, then the first one connects: whoever could open the
 * session can open that connection, and the other way may be closed.
 */
#include "probe.h"
#include "agent.h"
#include "rates.h"
#include "reason.h"
#include "trains.h"
#include "util.h"
#include <sodium.h>
#include <string.h>

#define SETTLE (200 * MS)	/* after the session has come up: it has other things to say */
#define AGAIN_MIN (500 * MS)	/* the other one is busy; up to twice this, and double each time */
#define AGAIN_MAX (60 * SEC)
#define ANSWER_NS (2 * SEC)
#define CHANGED_NS (60 * SEC)	/* between two, when the way is another one */
#define LEAST_NS (5 * SEC)	/* between two that one host asks for */

static struct timer timer;
static struct {
	struct trains_with with;
	uint64_t since;		/* 0: nobody is asked */
} asked;

static void due(struct timer *t);

static void look_at(uint64_t when)
{
	if (!timer.at || timer.due > when)
		timer_at(&timer, when, due);
}

static bool old(const struct peer *p)
{
	return !p->probed || loop_now() - p->probed >= ag.conf.probe_s * SEC;
}

void probe_session_up(struct session *s)
{
	uint8_t way[sizeof(s->peer->way)] = { s->self_family, s->family };

	memcpy(way + 2, s->self, 16);
	memcpy(way + 18, s->addr, 16);
	if (!memcmp(way, s->peer->way, sizeof(way)))
		return;
	memcpy(s->peer->way, way, sizeof(way));
	rates_forget(s->peer);
	/* A host that changes its address every moment is not measured each time. */
	if (s->peer->probed && loop_now() - s->peer->probed >= CHANGED_NS)
		s->peer->probed = 0;
}

void probe_consider(struct peer *p)
{
	if (!ag.conf.probe || !p->s || !p->s->probes || !p->s->sec.client || p->probe_due || !old(p))
		return;
	p->probe_due = loop_now() + SETTLE;
	look_at(p->probe_due);
}

static void later(struct peer *p)
{
	p->probe_wait = p->probe_wait ? p->probe_wait * 2 : AGAIN_MIN;
	if (p->probe_wait > AGAIN_MAX)
		p->probe_wait = AGAIN_MAX;
	p->probe_due = loop_now() + p->probe_wait + randombytes_uniform((uint32_t)(p->probe_wait / MS)) * MS;
	look_at(p->probe_due);
}

static void ask(struct peer *p, bool back)
{
	struct msg m = { .type = MSG_PROBE, .nonce = random64(), .flags = back ? MSGF_BACK : 0 };

	memcpy(asked.with.host, p->host, 16);
	randombytes_buf(asked.with.key, sizeof(asked.with.key));
	asked.with.nonce = m.nonce;
	asked.with.back = back;
	asked.since = loop_now();
	memcpy(m.key, asked.with.key, sizeof(m.key));
	p->probe_due = 0;
	p->probed = loop_now();
	session_send(p->s, &m);
	sodium_memzero(m.key, sizeof(m.key));
	look_at(loop_now() + ANSWER_NS);
}

static void forget_asked(void)
{
	sodium_memzero(&asked, sizeof(asked));
}

struct pick { struct peer *first; uint64_t next; };

static void pick(void *arg, struct peer *p)
{
	struct pick *k = arg;

	if (!p->probe_due)
		return;
	if (!p->s) {		/* when it is back it is considered again */
		p->probe_due = 0;
		return;
	}
	/* Meanwhile the other one has measured, or the session is now one that it has opened. */
	if (!p->s->sec.client || (!p->probe_back && !old(p))) {
		p->probe_due = 0;
		return;
	}
	if (p->waiting)		/* connections are being resumed: not now */
		p->probe_due = loop_now() + SEC;
	if (p->probe_due <= loop_now() && (!k->first || p->probe_due < k->first->probe_due))
		k->first = p;
	if (!k->next || p->probe_due < k->next)
		k->next = p->probe_due;
}

static void due(struct timer *t)
{
	struct pick k = { 0 };

	(void)t;
	if (asked.since && loop_now() - asked.since >= ANSWER_NS)
		forget_asked();
	if (asked.since) {
		look_at(asked.since + ANSWER_NS);
		return;
	}
	if (trains_busy())
		return;		/* probe_over looks again */
	peer_each(pick, &k);
	if (k.first)
		ask(k.first, k.first->probe_back);
	else if (k.next)
		look_at(k.next);
}

/* ---- answers */

static void refuse(struct session *s, uint64_t nonce, uint32_t reason)
{
	struct msg m = { .type = MSG_REFUSE, .nonce = nonce, .reason = reason };

	session_send(s, &m);
}

static bool from(const struct session *s, const struct msg *m)
{
	return asked.since && m->nonce == asked.with.nonce && !memcmp(s->host, asked.with.host, 16);
}

static void agreed(struct session *s)
{
	struct peer *p = s->peer;

	if (!trains_dial(&asked.with, s->family, s->addr, s->port) && p)
		later(p);
	forget_asked();
}

void probe_asked(struct session *s, const struct msg *m)
{
	struct msg yes = { .type = MSG_PROBE, .nonce = m->nonce, .flags = MSGF_ACCEPTOR };
	struct trains_with w = { .nonce = m->nonce, .back = m->flags & MSGF_BACK };
	uint64_t *last;

	if (m->flags & MSGF_ACCEPTOR) {
		if (from(s, m))
			agreed(s);
		return;
	}
	if (!ag.conf.probe) {
		refuse(s, m->nonce, REASON_DENIED);
		return;
	}
	last = !s->peer ? NULL : w.back ? &s->peer->probe_back_asked : &s->peer->probe_asked;
	if (trains_busy() || asked.since || !last || (*last && loop_now() - *last < LEAST_NS)) {
		refuse(s, m->nonce, REASON_BUSY);
		return;
	}
	*last = loop_now();
	memcpy(w.host, s->host, 16);
	memcpy(w.key, m->key, sizeof(w.key));
	trains_expect(&w);
	sodium_memzero(w.key, sizeof(w.key));
	session_send(s, &yes);
}

bool probe_refused(struct session *s, const struct msg *m)
{
	if (!from(s, m))
		return false;
	if (m->reason == REASON_BUSY && s->peer) {
		s->peer->probed = s->peer->probe_back ? s->peer->probed : 0;
		later(s->peer);
	}
	forget_asked();
	look_at(loop_now());
	return true;
}

void probe_session_down(struct session *s)
{
	if (asked.since && !memcmp(s->host, asked.with.host, 16)) {
		forget_asked();
		s->peer->probed = 0;
		look_at(loop_now());
	}
	if (trains_are(s->host)) {
		s->peer->probed = 0;
		trains_stop("the session has ended");
	}
}

void probe_stop(void)
{
	trains_stop(NULL);
	forget_asked();
	timer_stop(&timer);
}

/* ---- results */

void probe_measured(const uint8_t host[16], bool out, const struct train_seen *s, uint32_t rtt_us)
{
	struct peer *p = peer_by_host(host);

	say_debug("probe %s host %s: %llu bytes/s%s, confidence %u", out ? "to" : "from", id_text(host),
		  (unsigned long long)s->rate, s->at_least ? " or more" : "", s->confidence);
	if (p)
		rates_measured(p, out, s, rtt_us);
}

void probe_over(const struct trains_with *w, bool opener, bool cut, const char *why)
{
	struct peer *p = peer_by_host(w->host);

	if (!why)
		COUNT(probes);
	else if (!peer_ending()) {
		COUNT(probes_failed);
		say_debug("probe with host %s: %s", id_text(w->host), why);
	}
	if (peer_ending())
		return;
	look_at(loop_now());
	if (p && !opener && !why && !w->back)
		p->probed = loop_now();		/* whoever has asked: it is known now */
	if (!p || !opener)
		return;
	p->probe_wait = 0;
	p->probe_back = cut && !w->back;	/* what was cut off is no way to hear the other direction */
	if (p->probe_back) {
		p->probe_due = loop_now() + SETTLE;
		look_at(p->probe_due);
	}
}
