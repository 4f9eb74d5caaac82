/*
 * The model.  Encoder, link and decoder work at the same time, so the slowest
 * of them counts:
 *
 *	with codec:    min(E(level), R / ratio(level), D)     raw bytes a second
 *	without:       R
 *	gain         = min(E / R, 1 / ratio, D / R)
 *
 * E is elapsed, not CPU time, so when it was measured with the machine full it
 * is slow already; when the codec is not running, what is idle of one CPU is
 * the share it would get.
 */
#include "decide.h"
#include <string.h>

/*
 * bench/codec.c, this project's machine (AMD EPYC, 2 vCPU, zlib 1.2.13), text,
 * blocks of 64 KiB.  Speeds are replaced by what is measured; of the ratios
 * only the proportion between two levels is used.
 */
static const uint32_t first_ns[DECIDE_LEVELS] = { 24, 7320, 8060, 10860, 11300, 16440, 26130, 31080, 40120, 43170 };
static const uint32_t first_ratio[DECIDE_LEVELS] = { 1024, 324, 305, 293, 275, 264, 259, 257, 256, 256 };
#define FIRST_FIXED	1000u		/* a flush and its trees: 128 B take 1.6 us, of which 0.9 are the bytes' */
#define FIRST_BACK	2700u		/* 380 MB/s */

#define SURE_ENOUGH	30u		/* percent of confidence */
#define BUSY		50u		/* below that the link is not what the sender waits for */
#define IDLE		15u
#define STARVED		60u
#define LARGE_IN	160u		/* a large gain, a large loss */
#define LARGE_OUT	90u
#define BETTER		10u		/* percent that another level must be better */
#define SAME		3u
#define POOR		25u		/* percent of a CPU: then only the cheapest level, and only for a large gain */
#define FAIR		10u		/* who sleeps most of the time gets that much of a full CPU, too */
#define MIN_SEEN	256u		/* bytes of a block that tell a speed */

void decide_speed_init(struct codec_speed *s)
{
	memset(s, 0, sizeof(*s));
	memcpy(s->ns, first_ns, sizeof(s->ns));
	s->fixed = FIRST_FIXED;
	s->back = FIRST_BACK;
}

void decide_speed_saw(struct codec_speed *s, int level, size_t raw, uint64_t ns)
{
	uint64_t per, old, all;
	int i;

	if (level < 1 || level >= DECIDE_LEVELS || raw < MIN_SEEN)
		return;
	ns = ns > s->fixed ? ns - s->fixed : 1;
	per = ns * 1024 / raw;
	old = s->ns[level];
	/* A block that was interrupted for long is one block, not a slow machine. */
	if (per > 8 * old)
		per = 8 * old;
	if (per < 10)
		per = 10;
	/* Small blocks weigh less. */
	all = raw >= 16384 ? 8 : 64;
	s->ns[level] = (uint32_t)((old * (all - 1) + per) / all);
	/* Levels that are not in use: the machine is as much faster or slower for them. Slowly. */
	for (i = 1; i < DECIDE_LEVELS; i++)
		if (i != level)
			s->ns[i] = (uint32_t)(((uint64_t)s->ns[i] * 63 +
					       (uint64_t)first_ns[i] * s->ns[level] / first_ns[level]) / 64);
	s->seen++;
}

void decide_init(struct decide *d, uint64_t now)
{
	memset(d, 0, sizeof(*d));
	d->tokens = DECIDE_TOKENS;
	d->refilled = d->begun = now;
	d->look_wait = DECIDE_LOOK_MIN;
}

/*
 * What the ratio at one level says about another: the coded bytes change as
 * they do for text, or the saved ones do; the truth is near the worse of the
 * two (text both, dense data the second, very redundant data the first).
 */
static uint32_t ratio_at(uint32_t ratio, int from, int to)
{
	uint32_t a = ratio * first_ratio[to] / first_ratio[from];
	uint32_t saved = (1024 - ratio) * (1024 - first_ratio[to]) / (1024 - first_ratio[from]);
	uint32_t b = saved < 1024 ? 1024 - saved : 1;

	return a > b ? a : b > 0 ? b : 1;
}

uint32_t decide_gain(const struct codec_speed *s, const struct decide_in *in, int now_level, int level)
{
	uint64_t ratio = in->ratio ? in->ratio : 1, r = in->link.rate ? in->link.rate : 1, e, d, g;

	if (level < 1 || ratio >= 1024)
		return 100;
	/* What was guessed stands for level 1: the guess is a careful one. */
	ratio = ratio_at((uint32_t)ratio, now_level > 0 ? now_level : 1, level);
	e = 1024ull * 1000000000 / s->ns[level];
	if (now_level == 0)
		e = e * (in->cpu > 100 ? 100 : in->cpu < FAIR ? FAIR : in->cpu) / 100;
	d = 1024ull * 1000000000 / s->back;
	g = 100 * 1024 / ratio;
	if (e * 100 / r < g)
		g = e * 100 / r;
	if (d * 100 / r < g)
		g = d * 100 / r;
	return (uint32_t)g;
}

/* The best level, and what it gains; a cheaper one that is as good is better. */
static int best_level(const struct decide *d, const struct codec_speed *s, const struct decide_in *in, uint32_t *gain)
{
	int now_level = d->state != DECIDE_ON ? 0 : d->exploring ? d->exploring : d->level, top, l, best = 1;
	uint32_t g;

	top = in->cpu < POOR ? 1 : DECIDE_LEVELS - 1;
	*gain = decide_gain(s, in, now_level, 1);
	for (l = 2; l <= top; l++) {
		g = decide_gain(s, in, now_level, l);
		if (g > *gain + *gain * SAME / 100) {
			*gain = g;
			best = l;
		}
	}
	return best;
}

static void refill(struct decide *d, uint64_t now)
{
	while (now - d->refilled >= DECIDE_REFILL) {
		d->refilled += DECIDE_REFILL;
		if (d->tokens < DECIDE_TOKENS)
			d->tokens++;
	}
}

static bool may_switch(const struct decide *d, uint64_t now, bool large)
{
	uint64_t dwell = large ? DECIDE_DWELL : DECIDE_CALM;

	if (d->tokens < (large ? 1 : DECIDE_TOKENS / 2 + 1))
		return false;
	return !d->switched || now - d->switched >= dwell;
}

static void go(struct decide *d, uint64_t now, uint8_t state, int level)
{
	d->state = state;
	d->level = (uint8_t)level;
	d->exploring = 0;
	d->since = 0;
	d->switched = d->releveled = now;
	d->look_wait = DECIDE_LOOK_MIN;
	d->looked = now;
	d->tokens--;
	d->switches++;
}

/* Has the evidence spoken for `want` long enough? */
static bool sure(struct decide *d, uint64_t now, uint8_t want)
{
	if (!d->since || d->want != want) {
		d->want = want;
		d->since = now ? now : 1;
	}
	return now - d->since >= DECIDE_SURE;
}

/*
 * The codec is what all wait for, so nobody knows how fast the link is: send
 * stored blocks for a moment and see.
 */
static bool explore(struct decide *d, const struct decide_in *in)
{
	uint64_t wait = d->look_wait == DECIDE_LOOK_MIN ? DECIDE_SURE : d->look_wait;

	if (!in->link.at_least && in->link.age < DECIDE_LOOK_MIN / 4)
		return false;
	if (in->busy < BUSY || in->starved < STARVED || in->now - d->looked < wait)
		return false;
	d->exploring = d->level;
	d->level = 0;
	d->looked = in->now;
	d->since = 0;
	return true;
}

/* The moment is over, or has shown enough already. */
static bool explored(struct decide *d, const struct codec_speed *s, const struct decide_in *in)
{
	bool known = !in->link.at_least && in->link.age < in->now - d->looked;
	uint32_t gain;
	int level;

	if (in->now - d->looked < DECIDE_EXPLORE && !known)
		return false;
	level = best_level(d, s, in, &gain);
	if ((known || in->link.at_least) && gain <= DECIDE_OUT && d->tokens) {
		go(d, in->now, DECIDE_STORED, 0);
		return true;
	}
	d->level = known ? (uint8_t)level : d->exploring;
	d->exploring = 0;
	d->looked = in->now;
	d->releveled = in->now;
	d->look_wait = d->look_wait < DECIDE_LOOK_MAX ? 2 * d->look_wait : DECIDE_LOOK_MAX;
	return true;
}

static bool when_on(struct decide *d, const struct codec_speed *s, const struct decide_in *in)
{
	uint32_t gain;
	int level;

	if (d->exploring)
		return explored(d, s, in);
	if (in->busy < IDLE) {
		d->since = 0;	/* nobody waits: neither good nor bad */
		return false;
	}
	level = best_level(d, s, in, &gain);
	d->gain = gain;
	if (in->link.rate && gain <= DECIDE_OUT) {
		if (sure(d, in->now, DECIDE_STORED) && may_switch(d, in->now, gain <= LARGE_OUT || in->ratio >= 1000)) {
			go(d, in->now, DECIDE_STORED, 0);
			return true;
		}
		return false;
	}
	d->since = 0;
	if (explore(d, in))
		return true;
	if (level == d->level || in->now - d->releveled < DECIDE_RELEVEL)
		return false;
	/* Down when nothing is lost by it, else only for a real gain. */
	if (level > d->level && gain < decide_gain(s, in, d->level, d->level) * (100 + BETTER) / 100)
		return false;
	d->level = (uint8_t)level;
	d->releveled = in->now;
	return true;
}

static bool when_not(struct decide *d, const struct codec_speed *s, const struct decide_in *in)
{
	uint32_t gain;
	int level = best_level(d, s, in, &gain);
	bool good = in->link.rate && !in->link.at_least && in->link.confidence >= SURE_ENOUGH &&
		in->busy >= BUSY && gain >= (in->cpu < POOR ? LARGE_IN : DECIDE_IN);

	d->gain = gain;
	if (!good)
		d->since = 0;
	else if (sure(d, in->now, DECIDE_ON) && may_switch(d, in->now, gain >= LARGE_IN)) {
		go(d, in->now, DECIDE_ON, level);
		return true;
	}
	if (d->state == DECIDE_STORED && in->now - d->switched >= DECIDE_LINGER && !d->since) {
		d->state = DECIDE_PLAIN;
		return true;
	}
	return false;
}

bool decide(struct decide *d, const struct codec_speed *s, const struct decide_in *in)
{
	refill(d, in->now);
	return d->state == DECIDE_ON ? when_on(d, s, in) : when_not(d, s, in);
}

int decide_level(const struct decide *d, const struct codec_speed *s, uint64_t link, uint32_t ratio,
		 size_t raw, uint64_t queued)
{
	uint64_t cost, saved;

	if (d->state != DECIDE_ON || !d->level)
		return 0;
	if (queued)
		return d->level;
	cost = s->fixed + ((uint64_t)s->ns[d->level] + s->back) * raw / 1024;
	saved = ratio < 1024 ? (uint64_t)raw * (1024 - ratio) / 1024 * 1000000000 / (link ? link : 1) : 0;
	return cost < saved ? d->level : 0;
}
