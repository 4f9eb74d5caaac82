#include "offer.h"
#include "agent.h"
#include "diag.h"
#include "ends.h"
#include "markers.h"
#include "peer.h"
#include "reason.h"
#include "util.h"
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define BUCKETS 4096u
#define OFFERS_MAX 262144u
#define PER_PROC 16384u
#define FAILED_NS (60 * SEC)	/* an address where no agent answered is not asked again for so long */

struct offer {
	struct offer *next;
	uint64_t nonce;
	struct tuple t;
	bool out;			/* of a process here; else of another agent's */
	struct proc *p;			/* out: the opener; in: the acceptor, once it has said HELLO */
	struct session *s;		/* the other side; out: NULL until there is one */
	struct peer *peer;		/* out: is being dialled */
	uint32_t hellos;		/* in: not answered yet */
};

static struct offer *bucket[BUCKETS];
static uint32_t count;

uint32_t offer_count(void)
{
	return count;
}

static struct offer **find(uint64_t nonce, bool out)
{
	struct offer **o = &bucket[nonce % BUCKETS];

	while (*o && ((*o)->nonce != nonce || (*o)->out != out))
		o = &(*o)->next;
	return o;
}

static struct offer *get(uint64_t nonce, bool out)
{
	return *find(nonce, out);
}

static struct offer *make(const struct msg *m, const struct tuple *t, bool out)
{
	struct offer *o = count < OFFERS_MAX ? calloc(1, sizeof(*o)) : NULL;

	if (!o)
		return NULL;
	o->nonce = m->nonce;
	o->t = *t;
	o->out = out;
	o->next = bucket[m->nonce % BUCKETS];
	bucket[m->nonce % BUCKETS] = o;
	count++;
	return o;
}

static void drop(struct offer *o)
{
	struct offer **at = find(o->nonce, o->out);

	*at = o->next;
	count--;
	if (!o->out)
		marker_offer_gone(&o->t, o->nonce);
	else if (o->p)
		o->p->offers--;
	free(o);
}

static void refuse_out(struct offer *o, uint32_t reason)
{
	COUNT(offers_refused);
	if (o->p)
		local_refuse(o->p, o->nonce, reason);
	drop(o);
}

static void each(void (*fn)(struct offer *o, void *arg), void *arg)
{
	struct offer *o, *next;
	uint32_t i;

	for (i = 0; count && i < BUCKETS; i++)
		for (o = bucket[i]; o; o = next) {
			next = o->next;
			fn(o, arg);
		}
}

/* ---- tuples */

static bool tuple_from(const struct msg *m, struct tuple *t)
{
	memset(t, 0, sizeof(*t));
	t->family = m->family;
	t->oport = m->oport;
	t->aport = m->aport;
	memcpy(t->oaddr, m->oaddr, 16);
	memcpy(t->aaddr, m->aaddr, 16);
	if (m->family == 4)	/* the rest is hashed, too */
		return is_zero(t->oaddr + 4, 12) && is_zero(t->aaddr + 4, 12);
	return m->family == 6;
}

static void tuple_to(struct msg *m, const struct tuple *t)
{
	m->family = t->family;
	m->oport = t->oport;
	m->aport = t->aport;
	memcpy(m->oaddr, t->oaddr, 16);
	memcpy(m->aaddr, t->aaddr, 16);
}

/* Is fd a TCP socket with these ends, ours being the opener's or the acceptor's? */
static bool proves(int fd, const struct tuple *t, bool opener)
{
	uint8_t sf, pf, self[16], peer[16];
	uint16_t sp, pp;
	int proto = 0;
	socklen_t l = sizeof(proto);

	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &proto, &l) < 0 || proto != IPPROTO_TCP ||
	    !sock_local(fd, &sf, self, &sp) || !sock_remote(fd, &pf, peer, &pp))
		return false;
	return addr_same(t->family, opener ? t->oaddr : t->aaddr, sf, self) &&
	       addr_same(t->family, opener ? t->aaddr : t->oaddr, pf, peer) &&
	       sp == (opener ? t->oport : t->aport) && pp == (opener ? t->aport : t->oport);
}

/* ---- the opener's side */

static void send_offer(struct offer *o, struct session *s)
{
	struct msg m = { .type = MSG_OFFER, .nonce = o->nonce };

	o->s = s;
	tuple_to(&m, &o->t);
	session_send(s, &m);
	session_expect(s);
}

/* Somebody has to be found first: only where the configuration allows it. */
static void search(struct offer *o)
{
	struct peer *p;

	if (!aconf_in_nets(&ag.conf, o->t.family, o->t.aaddr)) {
		refuse_out(o, REASON_REMOTE);
		return;
	}
	p = peer_get(NULL, o->t.family, o->t.aaddr, ag.port, PEER_ASKED);
	if (!p || p->self || (p->failed_at && loop_now() - p->failed_at < FAILED_NS)) {
		refuse_out(o, REASON_REMOTE);
		return;
	}
	o->peer = p;
	peer_dial(p);
}

void offer_local(struct proc *p, const struct msg *m, int fd)
{
	struct offer *o = get(m->nonce, true);
	struct session *s;
	struct tuple t;

	COUNT(offers);
	if (!m->nonce || !tuple_from(m, &t) || !proves(fd, &t, true)) {
		COUNT(refused_uid);
		say_seldom("process %u (user %u) offers a connection without showing its socket: refused", p->pid,
			   p->uid);
		local_refuse(p, m->nonce, REASON_TUPLE);
		return;
	}
	if (o || p->offers >= PER_PROC || !(o = make(m, &t, true))) {
		COUNT(refused_limit);
		local_refuse(p, m->nonce, o ? REASON_DENIED : REASON_MEMORY);
		return;
	}
	o->p = p;
	p->offers++;
	s = peer_session_with(t.family, t.aaddr);
	if (s)
		send_offer(o, s);
	else
		search(o);
}

void offer_remote_hello(struct session *s, const struct msg *m)
{
	struct offer *o = get(m->nonce, true);
	struct msg r = { .type = MSG_REFUSE, .nonce = m->nonce };
	struct tuple t;

	if (o && o->p && o->s == s && tuple_from(m, &t) && !memcmp(&t, &o->t, sizeof(t))) {
		r = *m;
		r.pid = 0;
		r.start = r.netns = 0;
		local_send(o->p, &r, -1);
		return;
	}
	r.reason = o ? REASON_TUPLE : REASON_GONE;
	session_send(s, &r);
}

static bool for_later(uint32_t reason)
{
	return reason == REASON_BUSY || reason == REASON_COUNT;
}

/* The opener's process answers a HELLO, or withdraws; or the acceptor's cannot go on. */
void offer_answer(struct proc *p, const struct msg *m, const uint8_t *buf, size_t n)
{
	struct offer *o = get(m->nonce, true);

	if (!o || o->p != p) {
		o = get(m->nonce, false);
		if (m->type == MSG_REFUSE && o && o->p == p) {
			session_send_raw(o->s, buf, n, NULL, 0);
			o->p = NULL;
		}
		return;
	}
	if (o->s)
		session_send_raw(o->s, buf, n, NULL, 0);
	if (m->type == MSG_WELCOME && o->s) {
		COUNT(upgrades);
		ends_met(p, m->gid, 1, o->s);
	}
	if (m->type == MSG_WELCOME || !for_later(m->reason))
		drop(o);
}

/* ---- the acceptor's side */

static uint32_t look_at(const struct tuple *t)
{
	if (!netmon_is_self(t->family, t->aaddr) || !diag_established(t->family, t->aaddr, t->aport, t->oaddr, t->oport))
		return REASON_NAT;
	return 0;
}

void offer_remote(struct session *s, const struct msg *m)
{
	struct msg r = { .type = MSG_REFUSE, .nonce = m->nonce };
	struct offer *o = get(m->nonce, false);
	struct tuple t;

	COUNT(offers_remote);
	if (o && o->s == s)
		return;		/* sent again after a change of sessions */
	if (!m->nonce || !tuple_from(m, &t) || o)
		r.reason = REASON_TUPLE;
	else
		r.reason = look_at(&t);
	if (r.reason == REASON_NAT) {
		COUNT(refused_nat);
		say_info("an offer of host %s names %s and %s, which is no connection here: address translation in "
			 "between; it stays plain TCP", id_text(s->host), where_text(t.family, t.oaddr, t.oport),
			 where_text(t.family, t.aaddr, t.aport));
	}
	if (!r.reason) {
		o = make(m, &t, false);
		if (!o)
			r.reason = REASON_MEMORY;
		else if (!marker_offer(&t, m->nonce))
			r.reason = REASON_DIR;
		if (o && r.reason)
			drop(o);
	}
	if (r.reason) {
		session_send(s, &r);
		return;
	}
	o->s = s;
}

void offer_hello(struct proc *p, const struct msg *m, int fd)
{
	struct offer *o = get(m->nonce, false);
	struct msg r = *m;
	struct tuple t;
	uint32_t reason = 0;

	if (!o)
		reason = REASON_GONE;
	else if (!tuple_from(m, &t) || memcmp(&t, &o->t, sizeof(t)) || !proves(fd, &t, false))
		reason = REASON_TUPLE;
	else if (o->p && o->p != p)
		reason = REASON_BUSY;
	if (reason) {
		local_refuse(p, m->nonce, reason);
		return;
	}
	o->p = p;
	o->hellos++;
	r.pid = 0;
	r.start = r.netns = 0;
	session_send(o->s, &r);
	session_expect(o->s);
}

bool offer_remote_answer(struct session *s, const struct msg *m, const uint8_t *buf, size_t n)
{
	struct offer *o = get(m->nonce, false);

	if (o && o->s == s) {
		if (o->p)
			local_send_raw(o->p, buf, n, -1);
		if (m->type == MSG_WELCOME && o->p) {
			COUNT(upgrades);
			ends_met(o->p, m->gid, 0, s);
		}
		if (o->hellos)
			o->hellos--;
		/* Who has asked again may be welcome yet. */
		if (m->type != MSG_REFUSE || !for_later(m->reason))
			drop(o);
		else if (!o->hellos)
			o->p = NULL;
		return true;
	}
	o = get(m->nonce, true);
	if (!o || o->s != s || m->type != MSG_REFUSE)
		return false;
	if (!for_later(m->reason))
		refuse_out(o, m->reason);
	else if (o->p)
		local_send_raw(o->p, buf, n, -1);
	return true;
}

/* ---- who is no longer there */

static void withdraw(struct offer *o, void *p)
{
	struct msg m = { .type = MSG_REFUSE, .nonce = o->nonce, .reason = REASON_CLOSED };

	if (o->p != p)
		return;
	if (!o->out) {
		o->p = NULL;
		return;
	}
	if (o->s)
		session_send(o->s, &m);
	drop(o);
}

void offer_proc_gone(struct proc *p)
{
	each(withdraw, p);
}

static void down(struct offer *o, void *s)
{
	if (o->s != s)
		return;
	o->s = NULL;
	if (o->out) {	/* sent again when the agent is back */
		o->peer = ((struct session *)s)->peer;
		return;
	}
	if (o->p)
		local_refuse(o->p, o->nonce, REASON_BUSY);
	drop(o);
}

void offer_session_down(struct session *s)
{
	each(down, s);
}

static void up(struct offer *o, void *arg)
{
	struct session *s = arg;

	if (o->out && !o->s && o->peer == s->peer)
		send_offer(o, s);
}

void offer_session_up(struct session *s)
{
	each(up, s);
}

static void failed(struct offer *o, void *p)
{
	if (o->out && !o->s && o->peer == p)
		refuse_out(o, REASON_REMOTE);
}

void offer_peer_failed(struct peer *p)
{
	each(failed, p);
}

void offer_peer_merged(struct peer *to, struct peer *from)
{
	uint32_t i;
	struct offer *o;

	for (i = 0; count && i < BUCKETS; i++)
		for (o = bucket[i]; o; o = o->next)
			if (o->peer == from) {
				o->peer = to;
				if (to->s && !o->s)
					send_offer(o, to->s);
			}
}

static void end(struct offer *o, void *arg)
{
	(void)arg;
	drop(o);
}

void offer_stop(void)
{
	each(end, NULL);
}
