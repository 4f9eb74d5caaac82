#include "sim.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void fail(struct sim *s, const char *fmt, ...) __attribute__((format(printf, 2, 3), noreturn));
static void fail(struct sim *s, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(s->why, sizeof(s->why), fmt, ap);
	va_end(ap);
	longjmp(s->fail, 1);
}

static uint64_t next64(struct sim *s)
{
	uint64_t z = (s->rng += 0x9e3779b97f4a7c15u);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

uint32_t sim_rnd(struct sim *s, uint32_t n)
{
	if (s->len) {
		s->len--;
		return *s->data++ % n;
	}
	return (uint32_t)((next64(s) >> 32) * n >> 32);
}

static bool one_in(struct sim *s, uint32_t n)
{
	return n && !sim_rnd(s, n);
}

static uint32_t least(uint64_t a, uint64_t b)
{
	return (uint32_t)(a < b ? a : b);
}

/* The byte that `side` writes at `off`: no period that a ring's size could hide. */
static uint8_t pattern(int side, uint64_t off)
{
	uint32_t v = ((uint32_t)off * 2 + (uint32_t)side + 1) * 2654435761u;

	return (uint8_t)(v >> 24 ^ v >> 13);
}

/* links */

static int link_new(struct sim *s, int a, int b)
{
	struct sim_link *l;
	int i, k;

	for (i = 0; i < SIM_LINKS && s->l[i].used; i++)
		;
	if (i == SIM_LINKS)
		return -1;
	l = &s->l[i];
	memset(l, 0, sizeof(*l));
	l->used = true;
	l->end[0] = a;
	l->end[1] = b;
	for (k = 0; k < 2; k++) {
		l->h[k].sndcap = 1 + sim_rnd(s, SIM_Q);
		l->h[k].rcvcap = 1 + sim_rnd(s, SIM_Q);
	}
	return i;
}

static int side_of(const struct sim_link *l, int a)
{
	return l->end[0] == a ? 0 : 1;
}

/* This end gives it up: what it has not read is gone, what it sent may still arrive. */
static void link_close(struct sim *s, int i, int side)
{
	struct sim_link *l = &s->l[i];

	l->closed[side] = true;
	l->h[!side].deaf = true;
	if (sim_rnd(s, 2))
		l->dead = true;
	if (l->closed[0] && l->closed[1])
		l->used = false;
}

void sim_kill_link(struct sim *s, int i)
{
	s->l[i].dead = true;
}

void sim_move(struct sim *s, int i, int side, uint32_t n)
{
	struct sim_link *l = &s->l[i];
	struct sim_half *h = &l->h[side];
	uint32_t at = (uint32_t)(h->moved - h->acked);

	if (!l->used || l->dead || h->deaf)
		return;
	n = least(n, least(h->nsnd - at, h->rcvcap - h->nrcv));
	memcpy(h->rcv + h->nrcv, h->snd + at, n);
	h->nrcv += n;
	h->moved += n;
}

void sim_ack(struct sim *s, int i, int side, uint32_t n)
{
	struct sim_half *h = &s->l[i].h[side];

	if (!s->l[i].used || s->l[i].dead)
		return;
	n = least(n, h->moved - h->acked);
	memmove(h->snd, h->snd + n, h->nsnd - n);
	h->nsnd -= n;
	h->acked += n;
}

static uint32_t take(struct sim_half *h, uint8_t *buf, uint32_t n)
{
	n = least(n, h->nrcv);
	memcpy(buf, h->rcv, n);
	memmove(h->rcv, h->rcv + n, h->nrcv - n);
	h->nrcv -= n;
	return n;
}

static struct sim_half *rx_half(struct sim *s, int a, int link)
{
	return &s->l[link].h[!side_of(&s->l[link], a)];
}

static struct sim_half *tx_half(struct sim *s, int a, int link)
{
	return &s->l[link].h[side_of(&s->l[link], a)];
}

static void leg_close(struct sim *s, int a, struct sim_leg *g)
{
	if (g->link >= 0)
		link_close(s, g->link, side_of(&s->l[g->link], a));
	g->link = -1;
}

/* channels */

static void see(struct sim *s, const struct sim_pkt *p)
{
	s->seen[s->nseen++ % SIM_SEEN] = *p;
}

static void chan_free(struct sim *s, int i)
{
	struct sim_chan *c = &s->c[i];

	if (!c->used || !c->let[0] || !c->let[1] || c->n[0] || c->n[1])
		return;
	if (c->link >= 0)
		link_close(s, c->link, 1);
	c->used = false;
}

void sim_kill_chan(struct sim *s, int i)
{
	struct sim_chan *c = &s->c[i];
	int k, n;

	c->dead = true;
	for (k = 0; k < 2; k++) {
		for (n = 0; n < c->n[k]; n++)
			see(s, &c->q[k][n]);
		c->n[k] = 0;
	}
	/* nobody took the candidate: it goes with the channel */
	if (c->link >= 0) {
		s->l[c->link].dead = true;
		link_close(s, c->link, 1);
	}
	c->link = -1;
	chan_free(s, i);
}

static void let_go(struct sim *s, int a, int *ci)
{
	struct sim_chan *c;

	if (*ci < 0)
		return;
	c = &s->c[*ci];
	c->let[c->end[0] == a ? 0 : 1] = true;
	chan_free(s, *ci);
	*ci = -1;
}

static void post(struct sim *s, int a, int ci, const struct msg *m, const struct sim_end *gb)
{
	struct sim_pkt p = { .n = 0 };
	uint8_t buf[WIRE_MAX];
	struct sim_chan *c = NULL;
	int k = 0;

	p.n = (uint32_t)wire_encode(m, s->key, buf);
	memcpy(p.buf, buf, p.n);
	if (gb) {
		memcpy(p.gb, gb->gb, gb->ngb);
		p.ngb = gb->ngb;
	}
	if (ci >= 0) {
		c = &s->c[ci];
		k = c->end[0] == a ? 0 : 1;
	}
	if (!c || c->dead || c->n[k] == 4) {
		see(s, &p);
		return;
	}
	c->q[k][c->n[k]++] = p;
}

/* the glue */

static void drop_ask(struct sim *s, int a)
{
	struct sim_end *e = &s->e[a];

	let_go(s, a, &e->ask);
	if (e->cand >= 0)
		link_close(s, e->cand, 0);
	e->cand = -1;
}

static void all_closed(struct sim *s, int a)
{
	struct sim_end *e = &s->e[a];

	drop_ask(s, a);
	leg_close(s, a, &e->old);
	leg_close(s, a, &e->cur);
	let_go(s, a, &e->chan);
}

static void dead(struct sim *s, int a)
{
	struct sim_end *e = &s->e[a];

	s->dead++;
	if (!s->may_die)
		fail(s, "end %d is dead without cause: %s", a, reason_word(e->h.reason));
	if (e->h.reason != REASON_GAP && e->h.reason != REASON_MISMATCH &&
	    e->h.reason != REASON_FENCED)
		fail(s, "end %d is dead for a wrong reason: %s", a, reason_word(e->h.reason));
	all_closed(s, a);
}

void sim_break(struct sim *s, int a)
{
	if (!ho_break(&s->e[a].h))
		return;
	drop_ask(s, a);
	let_go(s, a, &s->e[a].chan);
}

static uint64_t acked(struct sim *s, int a)
{
	struct sim_end *e = &s->e[a];
	uint64_t off;

	if (e->old.link >= 0) {
		off = e->old.from + tx_half(s, a, e->old.link)->acked;
		if (off < e->cur.from)
			return off;
	}
	return e->cur.link < 0 ? 0 : e->cur.from + tx_half(s, a, e->cur.link)->acked;
}

void sim_trim(struct sim *s, int a)
{
	struct sim_end *e = &s->e[a];
	uint64_t lim = ho_trim_limit(&e->h), off = acked(s, a);

	replay_trim(&e->r, off < lim ? off : lim);
	replay_relax(&e->r);
}

/*
 * Counts what the dead legs brought.  Bytes we gave back earlier, on a link
 * that nobody ever wrote to, are ours again.
 */
void sim_drain(struct sim *s, int a)
{
	struct sim_end *e = &s->e[a];
	uint64_t gend = e->gb_off + e->ngb, end;
	uint8_t buf[SIM_GB];
	uint32_t n = 0;

	if (e->h.state != HO_DRAIN)
		return;
	if (sim_rnd(s, 2))
		sim_trim(s, a);		/* a last look at the old link's acknowledgements */
	if (e->h.legs == 2) {
		if (e->old.link >= 0 && e->read < e->h.rx_cut)
			n = take(rx_half(s, a, e->old.link), buf, least(SIM_GB, e->h.rx_cut - e->read));
		if (e->cur.link >= 0 && e->read + n >= e->h.rx_cut)
			n += take(rx_half(s, a, e->cur.link), buf + n, SIM_GB - n);
	} else if (e->cur.link >= 0) {
		n = take(rx_half(s, a, e->cur.link), buf, SIM_GB);
	}
	end = e->read + n;
	if (e->ngb && gend > end) {
		memcpy(buf + n, e->gb + (end - e->gb_off), gend - end);
		n += (uint32_t)(gend - end);
	}
	memcpy(e->gb, buf, n);
	e->ngb = n;
	e->gb_off = e->read;
	leg_close(s, a, &e->old);
	leg_close(s, a, &e->cur);
	ho_drained(&e->h, e->read, n);
}

static int peer_of(struct sim *s, int a)
{
	int b[SIM_ENDS], n = 0, i;

	for (i = 0; i < SIM_ENDS; i++)
		if (s->e[i].exists && s->e[i].side != s->e[a].side)
			b[n++] = i;
	return n ? b[sim_rnd(s, (uint32_t)n)] : -1;
}

bool sim_ask(struct sim *s, int a, bool cut)
{
	struct sim_end *e = &s->e[a];
	int c, l, b = peer_of(s, a);
	struct msg m;

	for (c = 0; c < SIM_CHANS && s->c[c].used; c++)
		;
	if (b < 0 || c == SIM_CHANS)
		return false;
	if (!ho_ask(&e->h, next64(s) | 1, e->r.end, cut, &m))
		return false;
	/* a failed dial is a failed request */
	l = link_new(s, a, b);
	if (l < 0)
		fail(s, "out of links");
	s->c[c] = (struct sim_chan){ .used = true, .end = { a, b }, .link = l, .let = { false, true } };
	e->ask = c;
	e->cand = l;
	post(s, a, c, &m, cut ? NULL : e);
	return true;
}

static void ask_failed(struct sim *s, int a)
{
	enum ho_verdict v = ho_ask_failed(&s->e[a].h);

	drop_ask(s, a);
	if (v == HO_BREAK)
		sim_break(s, a);
}

static void adopt(struct sim *s, int a, int link, int chan, const struct ho_plan *plan, bool cut,
		  const struct sim_pkt *p)
{
	struct sim_end *e = &s->e[a];
	uint64_t need = 0, i;

	if (cut) {
		leg_close(s, a, &e->old);
		e->old = e->cur;
		if (plan->given_back || plan->resend_from > e->r.end)
			fail(s, "end %d: a planned handover from %llu", a, (unsigned long long)plan->resend_from);
	} else {
		if (e->r.base > plan->resend_from)
			need = e->r.base - plan->resend_from;
		if (plan->given_back != p->ngb || need > p->ngb)
			fail(s, "end %d needs %llu bytes back, got %u", a, (unsigned long long)need, p->ngb);
		if (plan->resend_from > e->r.end)
			fail(s, "end %d would send from behind its end", a);
		for (i = 0; i < p->ngb; i++)
			if (p->gb[i] != pattern(e->side, plan->resend_from + i))
				fail(s, "end %d: wrong byte given back at %llu", a, (unsigned long long)i);
		if (!replay_reserve(&e->r, e->mem, need))
			fail(s, "end %d: no room for what is given back", a);
		replay_prepend(&e->r, e->mem, p->gb, need);
		leg_close(s, a, &e->old);
		leg_close(s, a, &e->cur);
	}
	e->cur = (struct sim_leg){ link, plan->resend_from, plan->resend_from };
	let_go(s, a, &e->chan);
	e->chan = chan;
	if (e->h.confirmed)
		e->ngb = 0;
}

/* A packet arrives.  link: the candidate that came with a request; ci < 0: the attacker's channel. */
static void input(struct sim *s, int a, const struct sim_pkt *p, int ci, int link)
{
	struct sim_end *e = &s->e[a];
	bool tried = false, cut;
	struct ho_plan plan;
	enum ho_verdict v;
	struct msg in, out;
	int was;

	if (!e->exists || wire_decode(&in, s->key, p->buf, p->n) != WIRE_OK) {
		if (link >= 0)
			link_close(s, link, 1);
		return;
	}
	if (s->bound && (in.type == MSG_OK || in.type == MSG_NO) && (ci < 0 || ci != e->ask))
		return;
	cut = in.flags & MSGF_CUT;
again:
	was = e->h.state;
	v = ho_input(&e->h, &in, e->r.base, e->r.end, &out, &plan);
	if (v == HO_BREAK) {
		if (tried)
			fail(s, "end %d: break asked for twice", a);
		tried = true;
		sim_break(s, a);
		sim_drain(s, a);
		goto again;
	}
	/* OK may have come by another way; DONE goes where the request went */
	if (out.type)
		post(s, a, v == HO_COMMIT && in.type == MSG_OK ? e->ask : ci, &out,
		     v == HO_COMMIT && in.type == MSG_REQ && !cut ? e : NULL);
	switch (v) {
	case HO_COMMIT:
		if (in.type == MSG_REQ) {
			if (plan.cancel)
				drop_ask(s, a);
			if (ci >= 0)
				s->c[ci].let[1] = false;
			adopt(s, a, link, ci, &plan, cut, p);
			return;
		}
		if (in.type != MSG_OK || e->cand < 0)
			fail(s, "end %d commits to nothing", a);
		link = e->cand;
		ci = e->ask;
		e->cand = e->ask = -1;
		cut ? s->planned++ : s->resumes++;
		adopt(s, a, link, ci, &plan, cut, p);
		return;
	case HO_RETRY:
		drop_ask(s, a);
		break;
	case HO_OVER:
		dead(s, a);
		break;
	default:
		if (was != HO_DEAD && e->h.state == HO_DEAD)
			dead(s, a);
		if (e->h.confirmed && e->h.state == HO_UP)
			e->ngb = 0;
		break;
	}
	if (in.type == MSG_REQ && link >= 0)
		link_close(s, link, 1);
}

bool sim_deliver(struct sim *s, int ci, int from)
{
	struct sim_chan *c = &s->c[ci];
	struct sim_pkt p;
	int link = -1, a = c->end[!from];

	if (!c->used || !c->n[from])
		return false;
	p = c->q[from][0];
	see(s, &p);
	memmove(&c->q[from][0], &c->q[from][1], sizeof(p) * --c->n[from]);
	if (from == 0 && c->link >= 0) {
		link = c->link;
		c->link = -1;
	}
	input(s, a, &p, ci, link);
	chan_free(s, ci);
	return true;
}

/* applications */

void sim_write(struct sim *s, int a, uint32_t n)
{
	struct sim_end *e = &s->e[a];
	uint64_t used = replay_used(&e->r);
	uint8_t buf[SIM_LIMIT];
	uint32_t i;

	if (e->h.state == HO_DEAD || used >= e->limit)
		return;
	n = least(n, least(e->limit - used, e->total - e->r.end));
	for (i = 0; i < n; i++)
		buf[i] = pattern(e->side, e->r.end + i);
	if (!replay_reserve(&e->r, e->mem, n))
		fail(s, "end %d: no room below the limit", a);
	replay_append(&e->r, e->mem, buf, n);
	if (!replay_sane(&e->r))
		fail(s, "end %d: insane replay buffer", a);
}

static uint32_t hand_over(struct sim *s, int a, struct sim_leg *g, uint64_t to, uint32_t n)
{
	struct sim_end *e = &s->e[a];
	struct sim_half *h = tx_half(s, a, g->link);
	const uint8_t *p = NULL;
	uint32_t sum = 0, k;

	while (n && g->next < to && h->nsnd < h->sndcap) {
		k = (uint32_t)replay_at(&e->r, e->mem, g->next, &p);
		if (!k)
			fail(s, "end %d: byte %llu is gone from the replay buffer", a,
			     (unsigned long long)g->next);
		k = least(least(k, n), least(to - g->next, h->sndcap - h->nsnd));
		memcpy(h->snd + h->nsnd, p, k);
		h->nsnd += k;
		g->next += k;
		sum += k;
		n -= k;
	}
	return sum;
}

void sim_pump(struct sim *s, int a, uint32_t n)
{
	struct sim_end *e = &s->e[a];

	if (e->h.state != HO_UP && e->h.state != HO_CUTTING)
		return;
	if (e->old.link >= 0)
		n -= hand_over(s, a, &e->old, e->cur.from, n);
	if (e->cur.link >= 0)
		hand_over(s, a, &e->cur, e->h.state == HO_CUTTING ? e->h.tx_cut : e->r.end, n);
}

static void check_bytes(struct sim *s, int a, const uint8_t *buf, uint32_t n)
{
	struct sim_end *e = &s->e[a];
	uint32_t i;

	for (i = 0; i < n; i++, e->read++)
		if (buf[i] != pattern(!e->side, e->read))
			fail(s, "end %d read a wrong byte at %llu", a, (unsigned long long)e->read);
}

void sim_read(struct sim *s, int a, uint32_t n)
{
	struct sim_end *e = &s->e[a];
	uint8_t buf[SIM_Q];
	struct msg m;
	uint32_t k;

	if (e->h.state != HO_UP && e->h.state != HO_CUTTING)
		return;
	n = least(n, SIM_Q);
	if (e->h.legs == 2) {
		if (e->old.link >= 0 && e->read < e->h.rx_cut) {
			k = take(rx_half(s, a, e->old.link), buf, least(n, e->h.rx_cut - e->read));
			check_bytes(s, a, buf, k);
		}
		if (!ho_switched(&e->h, e->read, &m))
			return;
		post(s, a, e->chan, &m, NULL);
		return;
	}
	if (e->cur.link < 0)
		return;
	k = take(rx_half(s, a, e->cur.link), buf, n);
	check_bytes(s, a, buf, k);
}

/* faults */

static void vanish(struct sim *s, int a)
{
	all_closed(s, a);
	s->e[a].exists = false;
}

static void reincarnate(struct sim *s, int a)
{
	struct sim_end *e = &s->e[a];

	if (e->h.state == HO_DEAD)
		return;
	if (e->h.state == HO_ASKING)
		ask_failed(s, a);
	sim_break(s, a);
	sim_drain(s, a);
	ho_reincarnate(&e->h, 1);
}

/* An old image of an end comes back; the kernel's queues were not in it. */
static void restore(struct sim *s)
{
	struct sim_end *e = &s->e[2];

	*e = s->snap;
	s->restored = s->may_die = true;
	e->cur.link = e->old.link = e->ask = e->cand = e->chan = -1;
	if (sim_rnd(s, 2))
		vanish(s, e->side);
	if (e->h.state == HO_ASKING || e->h.state == HO_CUTTING)
		ask_failed(s, 2);
	if (sim_rnd(s, 2))
		reincarnate(s, 2);
	else
		sim_break(s, 2);
}

static void replayed(struct sim *s, bool forge)
{
	struct sim_pkt p;
	uint8_t key[WIRE_KEY], buf[WIRE_MAX];
	struct msg m;
	int a = (int)sim_rnd(s, SIM_ENDS), link = -1;

	if (!s->nseen || !s->e[a].exists)
		return;
	p = s->seen[sim_rnd(s, least(s->nseen, SIM_SEEN))];
	if (wire_decode(&m, NULL, p.buf, p.n) != WIRE_OK)
		return;
	if (forge) {
		s->forged++;
		memset(key, (int)sim_rnd(s, 256), sizeof(key));
		switch (sim_rnd(s, 4)) {
		case 0:		/* spoilt on the way */
			p.buf[sim_rnd(s, p.n)] ^= (uint8_t)(1u << sim_rnd(s, 8));
			break;
		case 1:		/* our own: right identity and nonce, no key */
			m.type = (uint8_t)(MSG_REQ + sim_rnd(s, 5));
			m.reason = sim_rnd(s, 40);
			m.flags = (uint8_t)sim_rnd(s, 8);
			if (s->e[a].h.nonce && sim_rnd(s, 2))
				m.nonce = s->e[a].h.nonce;
			m.attempt += sim_rnd(s, 100);
			m.epoch += sim_rnd(s, 3);
			m.tx_end = sim_rnd(s, 2) ? m.tx_end + 9 : next64(s);
			break;
		case 2:
			m.rx_off = next64(s);
			m.unread = next64(s);
			break;
		default:
			m.nonce = next64(s);
			m.attempt = next64(s);
			break;
		}
		if (memcmp(p.buf, "roam", 4) == 0 && sim_rnd(s, 2)) {
			p.n = (uint32_t)wire_encode(&m, key, buf);
			memcpy(p.buf, buf, p.n);
		}
	}
	if (p.buf[5] == MSG_REQ) {
		link = link_new(s, -1, a);
		if (link < 0)
			return;
		s->l[link].dead = true;		/* swallows, acknowledges nothing */
		s->l[link].closed[0] = true;
	}
	input(s, a, &p, -1, link);
}

/* the clock */

static bool link_bad(struct sim *s, int a, int i)
{
	return i >= 0 && (s->l[i].dead || s->l[i].closed[!side_of(&s->l[i], a)]);
}

static bool chan_bad(struct sim *s, int a, int i)
{
	struct sim_chan *c;
	int other;

	if (i < 0)
		return false;
	c = &s->c[i];
	other = c->end[0] == a ? 1 : 0;
	return c->dead || (c->let[other] && !c->n[other] && !c->n[!other]);
}

static void tick_end(struct sim *s, int a)
{
	struct sim_end *e = &s->e[a];
	uint32_t slow = s->quiet ? 4 : 12;

	if (!e->exists || e->h.state == HO_DEAD)
		return;
	if (one_in(s, e->wspeed))
		sim_write(s, a, 1 + sim_rnd(s, 40));
	if (sim_rnd(s, 2))
		sim_pump(s, a, 1 + sim_rnd(s, 40));
	if (one_in(s, e->rspeed))
		sim_read(s, a, 1 + sim_rnd(s, 40));
	switch (e->h.state) {
	case HO_UP:
	case HO_CUTTING:
		if (one_in(s, 3))
			sim_trim(s, a);
		if (e->h.legs == 1 && e->h.confirmed) {
			leg_close(s, a, &e->old);
			let_go(s, a, &e->chan);
		}
		/* the old leg matters only as long as we read it */
		if (link_bad(s, a, e->cur.link) || (e->h.legs == 2 && link_bad(s, a, e->old.link))) {
			if (one_in(s, slow))
				sim_break(s, a);
		} else if (!s->quiet && one_in(s, s->p_giveup)) {
			sim_break(s, a);
		}
		if (chan_bad(s, a, e->chan) && one_in(s, slow)) {
			/* what confirms our link can come no more */
			if (!e->h.confirmed || e->h.legs == 2)
				sim_break(s, a);
			else
				let_go(s, a, &e->chan);
		}
		if (!s->quiet && one_in(s, s->p_cut) && e->h.state == HO_UP)
			sim_ask(s, a, true);
		break;
	case HO_DRAIN:
		if (one_in(s, 3))
			sim_drain(s, a);
		break;
	case HO_READY:
		if (one_in(s, 5))
			sim_ask(s, a, false);
		break;
	}
	if (e->ask >= 0 && ((chan_bad(s, a, e->ask) && one_in(s, slow)) ||
			    one_in(s, s->quiet ? 1000 : s->p_timeout)))
		ask_failed(s, a);
	if (!s->quiet && one_in(s, s->p_move))
		reincarnate(s, a);
}

static void tick(struct sim *s)
{
	struct sim_link *l;
	int i, k;

	s->ticks++;
	for (i = 0; i < SIM_ENDS; i++)
		tick_end(s, i);
	for (i = 0; i < SIM_LINKS; i++) {
		l = &s->l[i];
		if (!l->used)
			continue;
		for (k = 0; k < 2; k++) {
			if (l->h[k].nsnd && sim_rnd(s, 2))
				sim_move(s, i, k, 1 + sim_rnd(s, SIM_Q));
			if (l->h[k].moved != l->h[k].acked && sim_rnd(s, 2))
				sim_ack(s, i, k, 1 + sim_rnd(s, SIM_Q));
		}
		if (!s->quiet && !l->dead && one_in(s, s->p_death))
			l->dead = true;
	}
	for (i = 0; i < SIM_CHANS; i++) {
		if (!s->c[i].used)
			continue;
		if (!s->quiet && !s->c[i].dead && one_in(s, s->p_chandeath))
			sim_kill_chan(s, i);
		if (one_in(s, 4))
			sim_deliver(s, i, (int)sim_rnd(s, 2));
	}
	if (s->quiet)
		return;
	if (one_in(s, s->p_replay))
		replayed(s, false);
	if (one_in(s, s->p_forge))
		replayed(s, true);
	if (one_in(s, s->p_rollback)) {
		if (!s->have_snap) {
			s->snap = s->e[sim_rnd(s, 2)];
			s->have_snap = true;
		} else if (!s->restored) {
			restore(s);
		}
	}
}

static bool complete(const struct sim *s)
{
	const struct sim_end *a, *b;
	bool alive[2] = { false, false };
	int i, j;

	for (i = 0; i < SIM_ENDS; i++) {
		a = &s->e[i];
		if (!a->exists || a->h.state == HO_DEAD)
			continue;
		alive[a->side] = true;
		for (j = 0; j < SIM_ENDS; j++) {
			b = &s->e[j];
			if (b->exists && b->h.state != HO_DEAD && b->side != a->side &&
			    a->r.end == a->total && b->r.end == b->total &&
			    a->read == b->total && b->read == a->total)
				return true;
		}
	}
	return s->may_die && (!alive[0] || !alive[1]);
}

void sim_finish(struct sim *s)
{
	struct sim_end *e;
	int i, n = 0;
	uint64_t top[2] = { 0, 0 };

	s->quiet = true;
	for (i = 0; i < SIM_ENDS; i++) {
		e = &s->e[i];
		if (e->exists && e->r.end > top[e->side])
			top[e->side] = e->r.end;
	}
	for (i = 0; i < SIM_ENDS; i++)
		if (s->e[i].exists && s->e[i].total == UINT64_MAX)
			s->e[i].total = top[s->e[i].side] + 7;
	while (!complete(s)) {
		if (++n > 20000)
			fail(s, "stuck: states %u %u, read %llu of %llu and %llu of %llu",
			     s->e[0].h.state, s->e[1].h.state,
			     (unsigned long long)s->e[0].read, (unsigned long long)s->e[1].total,
			     (unsigned long long)s->e[1].read, (unsigned long long)s->e[0].total);
		tick(s);
	}
}

void sim_init(struct sim *s, uint64_t seed)
{
	struct sim_end *e;
	uint32_t min;
	int i;

	memset(s, 0, offsetof(struct sim, fail));
	s->rng = seed;
	for (i = 0; i < WIRE_GID; i++)
		s->gid[i] = (uint8_t)next64(s);
	for (i = 0; i < WIRE_KEY; i++)
		s->key[i] = (uint8_t)next64(s);
	link_new(s, 0, 1);
	for (i = 0; i < SIM_ENDS; i++) {
		e = &s->e[i];
		e->exists = i < 2;
		e->side = i & 1;
		e->ask = e->cand = e->chan = e->old.link = -1;
		e->cur = (struct sim_leg){ 0, 0, 0 };
		e->limit = 8 + sim_rnd(s, SIM_LIMIT - 8);
		e->wspeed = 1 + sim_rnd(s, 6);
		e->rspeed = 1 + sim_rnd(s, 6);
		e->total = UINT64_MAX;
		min = 4u << sim_rnd(s, 5);
		replay_init(&e->r, 0, min, SIM_MEM);
		ho_init(&e->h, i ? HO_ACCEPTOR : HO_OPENER, s->gid, s->key);
	}
}

/* 0: never; else one in 2^k, k at random. */
static uint32_t odds(struct sim *s, uint32_t lo, uint32_t hi)
{
	return sim_rnd(s, 4) ? 1u << (lo + sim_rnd(s, hi - lo + 1)) : 0;
}

static void run(struct sim *s, uint32_t ticks, bool rollback)
{
	s->p_death = odds(s, 4, 9);
	s->p_chandeath = odds(s, 4, 9);
	s->p_cut = odds(s, 2, 7);
	s->p_giveup = odds(s, 5, 9);
	s->p_timeout = odds(s, 3, 8);
	s->p_replay = odds(s, 2, 6);
	s->p_forge = odds(s, 2, 6);
	s->p_move = one_in(s, 3) ? odds(s, 6, 9) : 0;
	s->bound = rollback || sim_rnd(s, 2);
	s->p_rollback = rollback ? 1u << (4 + sim_rnd(s, 5)) : 0;
	while (ticks-- && (!s->data || s->len))
		tick(s);
	s->len = 0;
	sim_finish(s);
}

const char *sim_run(struct sim *s, uint32_t ticks, bool rollback)
{
	if (setjmp(s->fail))
		return s->why;
	run(s, ticks, rollback);
	return NULL;
}
