/*
 * What counts of a train is the last two thirds of its time.  By time, not by
 * bytes: what a token bucket lets through comes at once, however much it is.
 * The two halves of that part must agree; if they do not, something else (the
 * end of a bucket, other traffic, a host that was busy) was measured as well.
 */
#include "train.h"
#include <string.h>

#define TELLABLE	(TRAIN_MS / 2)	/* shorter than this: clocks and interrupts, not the link */
#define FAST		TRAIN_MS	/* the longest train in less: no need to know better */
#define PACKET		1400u
#define GUARD		(60 * TRAIN_MS)	/* of the sender's own clock: whatever the receiver saw, that was long */

#define CONF_UNSTEADY	20u
#define CONF_SHORT	40u
#define CONF_FAIR	55u		/* 2 ms */
#define CONF_GOOD	65u		/* 8 ms */
#define CONF_AGREED	10u		/* more, when trains agree */

void train_begin(struct train *t)
{
	memset(t, 0, sizeof(*t));
}

void train_arrived(struct train *t, uint64_t when, uint32_t bytes)
{
	uint32_t i;

	if (bytes > UINT32_MAX - t->bytes) {
		t->bad = true;
		return;
	}
	/* No order: the clock was set, or the beginning came before the kernel was asked for times. */
	if (t->n && when < t->at[t->n - 1].t)
		when = t->at[t->n - 1].t;
	t->bytes += bytes;
	if (t->n == TRAIN_POINTS) {
		/* The first one stays, and every other. */
		for (i = 1; i < TRAIN_POINTS / 2; i++)
			t->at[i] = t->at[2 * i];
		t->n = TRAIN_POINTS / 2;
		t->step = t->step ? 2 * t->step : 2;
	}
	/* The last one is always the last arrival; the first is never touched but by what came with it. */
	if (!t->n || (when != t->at[t->n - 1].t && (t->n == 1 || ++t->skipped >= t->step))) {
		t->n++;
		t->skipped = 0;
	}
	t->at[t->n - 1].t = when;
	t->at[t->n - 1].bytes = t->bytes;
}

static uint64_t per_second(uint64_t bytes, uint64_t ns)
{
	double rate = ns ? (double)bytes * 1e9 / (double)ns : (double)TRAIN_TOP;

	return rate < 1 ? 1 : rate < (double)TRAIN_TOP ? (uint64_t)rate : TRAIN_TOP;
}

static bool near(uint64_t a, uint64_t b, unsigned percent)
{
	uint64_t hi = a > b ? a : b, lo = a > b ? b : a;

	return hi - lo <= lo / 100 * percent;
}

static uint8_t trust(uint64_t took, bool steady)
{
	return took < TELLABLE ? TRAIN_VOID : !steady ? CONF_UNSTEADY : took < 2 * TRAIN_MS ? CONF_SHORT :
	       took < 8 * TRAIN_MS ? CONF_FAIR : CONF_GOOD;
}

static void judge(struct train_seen *s)
{
	s->at_least = s->took < TELLABLE;
	s->rate = s->bytes ? per_second(s->bytes, s->at_least ? TELLABLE : s->took) : 0;
	s->confidence = s->rate ? trust(s->took, s->steady) : 0;
}

/* The first point at that time or later. */
static uint32_t point(const struct train *t, uint64_t when)
{
	uint32_t i = 0;

	while (i < t->n - 1 && t->at[i].t < when)
		i++;
	return i;
}

struct train_seen train_seen(const struct train *t)
{
	struct train_seen s = { 0 };
	uint32_t k, m, l = t->n - 1;
	uint64_t all;

	if (t->bad || !t->n)
		return s;
	if (t->n < 3) {		/* one or two lumps: at most that it was not slow */
		s.bytes = t->at[l].bytes - (l ? t->at[0].bytes : 0);
		s.took = t->at[l].t - t->at[0].t;
		judge(&s);
		return s;
	}
	all = t->at[l].t - t->at[0].t;
	k = point(t, t->at[0].t + all / 3);
	if (k == l)
		k = l - 1;
	m = point(t, t->at[k].t + (t->at[l].t - t->at[k].t) / 2);
	/* The one before may be nearer to the middle. */
	if (m - k > 1 && t->at[m].t - t->at[k].t > t->at[l].t - t->at[m - 1].t)
		m--;
	s.bytes = t->at[l].bytes - t->at[k].bytes;
	s.took = t->at[l].t - t->at[k].t;
	/* A queue may wait before a packet as long as that one takes, or as the one before it did (htb). */
	s.steady = m > k && m < l && near(s.bytes, t->at[l - 1].bytes - (k ? t->at[k - 1].bytes : 0), 25) &&
		near(per_second(t->at[m].bytes - t->at[k].bytes, t->at[m].t - t->at[k].t),
		     per_second(t->at[l].bytes - t->at[m].bytes, t->at[l].t - t->at[m].t), 40);
	judge(&s);
	return s;
}

struct train_seen train_cut(struct train *t, uint64_t now)
{
	struct train_seen s;

	if (!t->n)
		return (struct train_seen){ 0 };
	/* That nothing more has come by now says something, too: at most another packet was on its way. */
	train_arrived(t, now, 0);
	s = train_seen(t);
	if (!s.bytes) {
		s.bytes = PACKET;
		s.steady = false;
		judge(&s);
	}
	return s;
}

struct train_seen train_heard(uint64_t bytes, uint64_t took, uint8_t confidence, bool steady, uint32_t sent,
			      uint64_t elapsed)
{
	struct train_seen s = { .took = took < elapsed ? took : elapsed, .steady = steady,
				.bytes = bytes < sent ? (uint32_t)bytes : sent };

	judge(&s);
	if (s.confidence > confidence)
		s.confidence = confidence;
	return s;
}

/* ---- what to send */

void train_plan_begin(struct train_plan *p, uint32_t budget)
{
	memset(p, 0, sizeof(*p));
	p->budget = budget;
	/* The last ones are repeated: that must be possible, too. */
	p->longest = budget / 4 < TRAIN_LONGEST ? budget / 4 : TRAIN_LONGEST;
	p->next = budget < TRAIN_FIRST ? 0 : TRAIN_FIRST;
	if (p->longest < TRAIN_FIRST)
		p->longest = TRAIN_FIRST;
}

uint32_t train_plan_next(struct train_plan *p, uint32_t room)
{
	uint32_t n = p->next;

	if (!n || p->cut || p->n >= TRAIN_MOST)
		return 0;
	n = n > room ? room : n;
	n = n < TRAIN_FIRST ? TRAIN_FIRST : n;
	if (n > p->budget - p->sent)
		return 0;
	p->again += n <= p->last;
	p->last = n;
	p->sent += n;
	return n;
}

void train_plan_answer(struct train_plan *p, const struct train_seen *s, uint64_t filled, bool cut)
{
	const struct train_seen *before = p->n ? &p->seen[(p->n - 1) % TRAIN_LAST] : NULL;
	uint64_t all = s->took + s->took / 2, fill;
	/* Each is too coarse to be steady (a few packets on a slow link), but they agree. */
	bool twice = before && s->took >= 8 * TRAIN_MS && before->took >= 8 * TRAIN_MS &&
		near(s->rate, before->rate, 25);

	p->seen[p->n++ % TRAIN_LAST] = *s;
	p->cut = cut;
	if (!cut && s->took >= TELLABLE && s->confidence <= TRAIN_VOID) {	/* held up: once more */
		p->next = p->held++ < TRAIN_HELD ? p->last : 0;
		p->last = 0;
		return;
	}
	if (filled > GUARD && filled > all)
		all = filled;
	if (cut || p->again + 1 >= TRAIN_LAST || (all >= TRAIN_ENOUGH && (s->steady || twice)) ||
	    (p->last == p->longest && s->took && all < FAST)) {
		p->next = 0;
		return;
	}
	p->next = all >= TRAIN_ENOUGH ? p->last : p->sent < TRAIN_CAREFUL ? TRAIN_FIRST + p->sent / 8 :
		  p->last < TRAIN_CAREFUL / 4 ? TRAIN_CAREFUL / 4 : 2 * p->last;
	if (s->took >= TELLABLE && s->rate) {
		/* It is known how long a train takes: as long as it may, or no longer. */
		fill = (uint64_t)((double)s->rate * TRAIN_FILL / 1e9);
		if (p->next > fill || (s->steady && s->took >= 2 * TRAIN_MS && all < TRAIN_ENOUGH))
			p->next = fill < TRAIN_FIRST ? TRAIN_FIRST : fill < TRAIN_LONGEST ? (uint32_t)fill :
				  TRAIN_LONGEST;
	}
	if (p->next > p->longest)
		p->next = p->longest;
	/* Longer than expected although it looked fast: not a longer one. */
	if (all > GUARD && p->next > p->last)
		p->next = p->last;
}

/* Those that took long (a bucket's contents went by in the others) and are surer than that, by rate; how many. */
static uint32_t pick(const struct train_plan *p, const struct train_seen *good[TRAIN_LAST], uint32_t least)
{
	uint32_t have = p->n < TRAIN_LAST ? p->n : TRAIN_LAST, i, k, n = 0;
	const struct train_seen *s;
	uint64_t longest = 0;

	for (i = 0; i < have; i++)
		if (p->seen[i].rate && (p->seen[i].confidence > TRAIN_VOID || !least) && p->seen[i].took > longest)
			longest = p->seen[i].took;
	for (i = 0; i < have; i++) {
		s = &p->seen[i];
		if (!s->rate || s->confidence <= least || s->took < longest / 3)
			continue;
		for (k = n++; k && good[k - 1]->rate > s->rate; k--)
			good[k] = good[k - 1];
		good[k] = s;
	}
	return n;
}

struct train_seen train_plan_result(const struct train_plan *p)
{
	const struct train_seen *good[TRAIN_LAST];
	struct train_seen r = { 0 };
	uint32_t n;

	if (p->cut)
		return p->seen[(p->n - 1) % TRAIN_LAST];
	n = pick(p, good, CONF_UNSTEADY);
	if (!n)
		n = pick(p, good, TRAIN_VOID);
	if (!n)
		n = pick(p, good, 0);
	if (!n)
		return r;
	r = *good[n / 2];
	if (n == 2 && good[0]->took > good[1]->took)
		r = *good[0];
	if (n == 1 || r.at_least)
		return r;
	if (r.confidence > CONF_UNSTEADY)
		r.confidence = near(good[0]->rate, good[n - 1]->rate, n == 2 ? 40 : 80) ?
			(uint8_t)(r.confidence + CONF_AGREED) : CONF_UNSTEADY;
	else if (r.confidence > TRAIN_VOID && near(good[0]->rate, good[n - 1]->rate, 25))
		r.confidence = r.took >= 8 * TRAIN_MS ? CONF_FAIR : CONF_SHORT;	/* each too coarse by itself */
	return r;
}
