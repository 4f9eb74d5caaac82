/*
 * The passive estimate is the median of three: the rate of the older half of a
 * window of busy samples, that of the newer half, and the estimate so far.
 *  - The link became slower or faster: both halves say so after one window.
 *  - A stall (a lost segment waits for its repetition) makes one half too slow,
 *    the jump of the acknowledgement behind it one half too fast: neither counts.
 * Thus a change shows after one window of 200 ms, and no single event does.
 */
#include "rate.h"
#include <string.h>

#define MS		1000000ull
/* Several round trips of most networks, and two of them within the second that a change may take. */
#define WINDOW		(200 * MS)
#define STEP		(4 * MS)	/* samples closer than this tell nothing new */
#define LONGEST		(2000 * MS)	/* of a window on a link that is too slow for: */
#define ENOUGH		14600u		/* ten segments */
#define TOP		(1ull << 50)	/* a petabyte a second: no sum of two overflows */
#define STALE		(2000 * MS)	/* then a train is better than what the connection said */
#define HALF_LIFE	(5000 * MS)	/* of the confidence, after the first second */

#define CONF_BUSY	90u	/* half of the window may be wrong, see above */
#define CONF_SAMPLE	40u	/* the kernel's own: one round trip */
#define CONF_LEAST	60u

void rate_reset(struct rate *r)
{
	memset(r, 0, sizeof(*r));
}

void rate_new_link(struct rate *r)
{
	r->n = r->first = 0;
	r->last_t = r->last_acked = r->last_rwnd = 0;
	r->any = r->busy = 0;
}

static void set(struct rate *r, uint64_t now, uint64_t rate, unsigned conf, bool at_least, bool active)
{
	r->rate = rate > TOP ? TOP : rate ? rate : 1;
	r->at = now;
	r->base = (uint8_t)conf;
	r->at_least = at_least;
	r->active = active;
}

static uint64_t per_second(uint64_t bytes, uint64_t ns)
{
	double rate = ns ? (double)bytes * 1e9 / (double)ns : 0;

	return rate < (double)TOP ? (uint64_t)rate : TOP;
}

static uint64_t median(uint64_t a, uint64_t b, uint64_t c)
{
	if (a > b) {
		uint64_t t = a;

		a = b;
		b = t;
	}
	return c < a ? a : c > b ? b : c;
}

static uint32_t slot(const struct rate *r, uint32_t i)
{
	return (r->first + i) % RATE_HIST;
}

/* The busy run up to now. True: it was long enough to say something. */
static bool window(struct rate *r, uint64_t now)
{
	uint32_t i, last = slot(r, r->n - 1), from, mid;
	uint64_t span, a, b;

	/* The shortest end of the run that is long enough in time and in bytes. */
	for (i = r->n - 1; i > 0; i--) {
		from = slot(r, i - 1);
		span = now - r->hist[from].t;
		if (span >= LONGEST || (span >= WINDOW && r->hist[last].acked - r->hist[from].acked >= ENOUGH))
			break;
	}
	if (!i)
		return false;
	from = slot(r, i - 1);
	for (; i < r->n - 1 && now - r->hist[slot(r, i)].t > span / 2; i++)
		;
	mid = slot(r, i);
	if (mid == last)
		return false;
	a = per_second(r->hist[mid].acked - r->hist[from].acked, r->hist[mid].t - r->hist[from].t);
	b = per_second(r->hist[last].acked - r->hist[mid].acked, now - r->hist[mid].t);
	if (!r->rate || r->at_least || r->base < CONF_BUSY)
		set(r, now, per_second(r->hist[last].acked - r->hist[from].acked, span), CONF_BUSY, false, false);
	else
		set(r, now, median(a, b, r->rate), CONF_BUSY, false, false);
	return true;
}

static void push(struct rate *r, uint64_t t, uint64_t acked)
{
	uint32_t i;

	if (r->n == RATE_HIST && acked - r->hist[r->first].acked < ENOUGH) {
		/* A slow link needs a long window: every other entry makes room for it. */
		for (i = 0; i < RATE_HIST / 2; i++)
			r->hist[slot(r, i)] = r->hist[slot(r, 2 * i)];
		r->n = RATE_HIST / 2;
	} else if (r->n == RATE_HIST) {
		r->first = slot(r, 1);
		r->n--;
	}
	r->hist[slot(r, r->n)].t = t;
	r->hist[slot(r, r->n)].acked = acked;
	r->n++;
}

void rate_passive(struct rate *r, const struct rate_sample *s)
{
	uint64_t dt = s->now - r->last_t, rwnd = s->rwnd_us - r->last_rwnd, low;
	bool busy = s->notsent && !s->app_limited, known = r->any;

	if (s->min_rtt_us || s->rtt_us)
		r->rtt_us = s->min_rtt_us ? s->min_rtt_us : s->rtt_us;
	if (known && (s->now <= r->last_t || s->acked < r->last_acked)) {
		/* Another socket, or no order in the samples. */
		r->n = 0;
		r->any = 0;
		return;
	}
	if (known && busy && r->busy && dt < STEP)
		return;
	/* The receiver's window was shut for a fifth of the time: this is its pace, not the link's. */
	if (known && rwnd * 1000 > dt / 5)
		busy = false;
	r->any = 1;
	r->last_t = s->now;
	r->last_rwnd = s->rwnd_us;
	low = known ? per_second(s->acked - r->last_acked, dt) : 0;
	r->last_acked = s->acked;
	if (!busy)
		r->n = 0;
	r->busy = busy;
	if (busy) {
		push(r, s->now, s->acked);
		if (window(r, s->now))
			return;
		/* Until there is a window: the kernel's own measurement, if nothing better is at hand. */
		if (s->delivery && (!r->rate || s->now - r->at > STALE))
			set(r, s->now, s->delivery, CONF_SAMPLE, false, false);
		return;
	}
	/*
	 * 10 % more is news.  Not by the kernel's own measurement, which is of one round
	 * trip: what a token bucket lets through at once was seen as 360 MB/s at 10 Mbit/s.
	 */
	if (low && (!r->rate || low > r->rate + r->rate / 10))
		set(r, s->now, low, CONF_LEAST, true, false);
}

struct rate_est rate_now(const struct rate *r, uint64_t now)
{
	struct rate_est e = { .rate = r->rate, .rtt_us = r->rtt_us, .at_least = r->at_least, .active = r->active };
	uint64_t old;

	if (!r->rate)
		return e;
	e.age = now > r->at ? now - r->at : 0;
	e.confidence = r->base;
	for (old = e.age > 1000 * MS ? e.age - 1000 * MS : 0; old >= HALF_LIFE && e.confidence; old -= HALF_LIFE)
		e.confidence /= 2;
	e.confidence -= (uint8_t)(e.confidence * (old < HALF_LIFE ? old : 0) / (2 * HALF_LIFE));
	return e;
}
