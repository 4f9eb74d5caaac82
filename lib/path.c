#include "path.h"

#define SEC		1000000000ull
#define FRESH		(10 * SEC)	/* confidence does not fade before */
#define HALF_LIFE	(120 * SEC)	/* a way between hosts changes more rarely than what a connection gets */
#define SHARED		(2 * SEC)	/* of several connections the fastest tells most about the link */
#define RTT_KEPT	(60 * SEC)	/* the smallest one */
#define CONF_PASSIVE	90u
#define CONF_MOST	95u

static uint64_t ago(uint64_t now, uint64_t at)
{
	return now > at ? now - at : 0;
}

static uint8_t faded(const struct path_side *s, uint64_t now)
{
	uint64_t old = ago(now, s->at);
	unsigned c = s->rate ? s->base : 0;

	for (old = old > FRESH ? old - FRESH : 0; old >= HALF_LIFE && c; old -= HALF_LIFE)
		c /= 2;
	return (uint8_t)(c - c * (old < HALF_LIFE ? old : 0) / (2 * HALF_LIFE));
}

void path_passive(struct path *p, uint64_t now, const struct rate_est *e)
{
	struct path_side s = { .rate = e->rate < TRAIN_TOP ? e->rate : TRAIN_TOP, .at_least = e->at_least,
			       .at = now > e->age ? now - e->age : 0,
			       .base = e->confidence < CONF_PASSIVE ? e->confidence : CONF_PASSIVE };
	const struct path_side *old = &p->passive;

	if (e->rtt_us)
		path_rtt(p, now, e->rtt_us);
	if (!s.rate || !s.base || (old->rate && s.at < old->at))
		return;
	if (s.at_least && old->rate && s.rate <= old->rate + old->rate / 10 && faded(old, now) >= s.base / 2) {
		if (old->at_least && s.rate >= old->rate - old->rate / 10)
			p->passive.at = s.at;	/* it says the same */
		return;
	}
	if (!s.at_least && old->rate > s.rate && !old->at_least && s.at - old->at < SHARED)
		return;
	p->passive = s;
}

void path_train(struct path *p, uint64_t now, const struct train_seen *s)
{
	if (!s->rate)
		return;
	p->train.rate = s->rate < TRAIN_TOP ? s->rate : TRAIN_TOP;
	p->train.at = now;
	p->train.base = s->confidence < CONF_PASSIVE ? s->confidence : CONF_PASSIVE;
	p->train.at_least = s->at_least;
}

void path_rtt(struct path *p, uint64_t now, uint32_t us)
{
	if (!us || (p->rtt_us && p->rtt_us < us && ago(now, p->rtt_at) < RTT_KEPT))
		return;
	p->rtt_us = us;
	p->rtt_at = now;
}

static struct rate_est as_est(const struct path *p, const struct path_side *s, uint64_t now)
{
	return (struct rate_est){ .rate = s->rate, .age = s->rate ? ago(now, s->at) : 0, .rtt_us = p->rtt_us,
				  .confidence = faded(s, now), .at_least = s->at_least, .active = s == &p->train };
}

static bool near(uint64_t a, uint64_t b)
{
	return a > b ? a - b <= b / 4 : b - a <= a / 4;
}

struct rate_est path_now(const struct path *p, uint64_t now)
{
	struct rate_est a = as_est(p, &p->passive, now), b = as_est(p, &p->train, now), r;
	unsigned other, c;

	if (!a.rate || !b.rate)
		return a.rate ? a : b;
	if (a.at_least && b.at_least)
		return a.rate > b.rate ? a : b;
	if (a.at_least)		/* a connection got that much: it is no less, and when that is more, it is not what the train saw */
		return a.rate > b.rate + b.rate / 4 && a.confidence ? a : b;
	r = a.confidence >= b.confidence ? a : b;
	other = a.confidence >= b.confidence ? b.confidence : a.confidence;
	if (b.at_least) {
		/* A bucket let the train through; or the link is faster now. */
		if (b.rate < a.rate || a.confidence >= b.confidence)
			return a;
		return b;
	}
	c = near(a.rate, b.rate) ? r.confidence + other / 4 : r.confidence - other / 4;
	r.confidence = (uint8_t)(c < CONF_MOST ? c : CONF_MOST);
	return r;
}

struct rate_est path_better(const struct rate_est *own, const struct rate_est *host)
{
	if (!host->rate || !own->rate)
		return own->rate ? *own : *host;
	/* What got through here is no less than that; of how much more it could be the host may know. */
	if (own->at_least && own->confidence)
		return own->rate >= host->rate || own->confidence >= host->confidence ? *own : *host;
	return own->confidence >= host->confidence || own->age <= host->age ? *own : *host;
}
