/*
 * The decision, with the estimator of rate.c, in a world where a sender with a
 * codec feeds a link whose rate changes.  Time is a number here.
 */
#include "decide.h"
#include "seed.h"
#include <check.h>
#include <string.h>

#define MUST(c) do { if (!(c)) ck_abort_msg("%s", #c); } while (0)
#define MS	1000000ull
#define MBIT	125000ull
#define STEP	(20 * MS)

struct world {
	struct decide d;
	struct codec_speed believed;
	uint32_t ns[DECIDE_LEVELS];	/* what the machine really needs */
	struct rate r;
	struct rate_sample s;
	uint64_t rng, now;
	uint64_t link;			/* bytes a second */
	uint64_t offered;		/* raw bytes a second, 0: always more */
	uint32_t ratio;			/* of level 1, in 1/1024 */
	uint32_t noise;			/* percent */
	uint8_t cpu;
	double acked, raw;		/* all the raw bytes that were carried */
	uint32_t changes;		/* of the stage's being there */
};

static struct world fresh(uint64_t link, uint32_t ratio)
{
	struct world w = { .link = link, .ratio = ratio, .now = 9000 * MS, .cpu = 100, .rng = 42 };

	decide_speed_init(&w.believed);
	memcpy(w.ns, w.believed.ns, sizeof(w.ns));
	decide_init(&w.d, w.now);
	return w;
}

static uint32_t ratio_at(const struct world *w, int level)
{
	static const uint32_t of[] = { 100, 100, 94, 90, 85, 82, 80, 79, 79, 79 };

	if (!level || w->ratio >= 1024)
		return w->ratio;
	if (w->ratio > 500)	/* dense data: the levels differ little */
		return 1024 - (1024 - w->ratio) * (100 + (uint32_t)level) / 100;
	return w->ratio * of[level] / 100;
}

/* What is the best that could be carried, in raw bytes a second? */
static double best(const struct world *w)
{
	double top = (double)w->link;
	int l;

	for (l = 1; l < DECIDE_LEVELS; l++) {
		double e = 1024e9 / w->ns[l], c = (double)w->link * 1024 / ratio_at(w, l);

		e = e < c ? e : c;
		top = e > top ? e : top;
	}
	return top;
}

static void step(struct world *w)
{
	int level = w->d.state == DECIDE_ON ? w->d.level : 0, was = w->d.state == DECIDE_PLAIN;
	double f = w->noise ? 1 + ((double)seed_below(&w->rng, 2 * w->noise + 1) - w->noise) / 100.0 : 1;
	double r = level ? ratio_at(w, level) / 1024.0 : 1;
	double link = (double)w->link * f, enc = level ? 1024e9 / w->ns[level] : 1e12, raw, wire;
	struct decide_in in = { .cpu = w->cpu };
	int i;

	if (r > 1)
		r = 1;
	raw = link / r < enc ? link / r : enc;
	in.busy = 100;
	if (w->offered && (double)w->offered < raw) {
		in.busy = (uint8_t)(100.0 * (double)w->offered / raw);
		raw = (double)w->offered;
	}
	wire = raw * r;
	in.starved = wire < 0.95 * link && in.busy == 100 ? 100 : 0;
	w->now += STEP;
	w->raw += raw * STEP / 1e9;
	w->acked += wire * STEP / 1e9;
	w->s.now = w->now;
	w->s.acked = (uint64_t)w->acked;
	w->s.app_limited = wire < 0.95 * link;
	w->s.notsent = w->s.app_limited ? 0 : 50000;
	w->s.delivery = (uint64_t)wire;
	rate_passive(&w->r, &w->s);
	/* blocks of 64 KiB, as many as there were, eight at most */
	for (i = 0; level && i < 8 && i * 65536.0 < raw * STEP / 1e9; i++)
		decide_speed_saw(&w->believed, level, 65536, (uint64_t)w->ns[level] * 64 + w->believed.fixed);
	in.now = w->now;
	in.link = rate_now(&w->r, w->now);
	/* a guess is careful; what was observed is right */
	in.ratio = level ? ratio_at(w, level) : w->ratio < 1024 ? w->ratio + (1024 - w->ratio) / 4 : 1024;
	decide(&w->d, &w->believed, &in);
	w->changes += was != (w->d.state == DECIDE_PLAIN);
}

static double run(struct world *w, uint64_t ms)
{
	double raw = w->raw;
	uint64_t n;

	for (n = ms * MS / STEP; n; n--)
		step(w);
	return (w->raw - raw) * 1000 / (double)ms;
}

/* Text, 10 Mbit/s to 1 Gbit/s: in when it pays, with what is near the best, and there it stays. */
START_TEST(steady)
{
	static const struct { uint64_t link; uint32_t ratio; int in; } t[] = {
		{ 1 * MBIT, 330, 1 }, { 10 * MBIT, 330, 1 }, { 100 * MBIT, 330, 1 }, { 300 * MBIT, 330, 1 },
		{ 10000 * MBIT, 330, 0 }, { 100000 * MBIT, 330, 0 },
		{ 10 * MBIT, 1024, 0 }, { 100 * MBIT, 1000, 0 }, { 10 * MBIT, 600, 1 },
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(t); i++) {
		struct world w = fresh(t[i].link, t[i].ratio);
		double got;

		w.noise = 10;
		run(&w, 1000);
		ck_assert_msg((w.d.state == DECIDE_ON) == t[i].in, "case %zu after a second", i);
		run(&w, 1000);
		got = run(&w, 60000);
		ck_assert_msg(got > 0.88 * best(&w), "case %zu: %.3g of %.3g", i, got, best(&w));
		ck_assert_msg(w.d.switches <= 1, "case %zu: %u switches", i, w.d.switches);
		if (!t[i].in)
			MUST(!w.changes);
	}
}
END_TEST

/* Where the model would take it out again the first hint of it is not followed for long. */
START_TEST(wrong_guess)
{
	struct world w = fresh(10 * MBIT, 300);

	run(&w, 1000);
	MUST(w.d.state == DECIDE_ON);
	w.ratio = 1024;		/* the text is over, an archive follows */
	run(&w, 1000);
	MUST(w.d.state != DECIDE_ON);
	run(&w, 1000);
	MUST(w.d.state == DECIDE_PLAIN);
	w.ratio = 300;
	run(&w, 1000);
	MUST(w.d.state == DECIDE_ON && w.d.switches == 3);
}
END_TEST

/* 1 Gbit/s (there the codec of a slow machine does not pay) to 10 Mbit/s and back, each within a second. */
START_TEST(reacts)
{
	struct world w = fresh(2000 * MBIT, 330);
	double got;
	int i;

	w.noise = 10;
	w.rng = (uint64_t)_i;
	run(&w, 3000);
	MUST(w.d.state == DECIDE_PLAIN);
	for (i = 0; i < 3; i++) {
		w.link = 10 * MBIT;
		run(&w, 1000);
		MUST(w.d.state == DECIDE_ON);
		run(&w, 1000);
		got = run(&w, 6000);
		MUST(got > 0.9 * best(&w));
		w.link = 2000 * MBIT;
		run(&w, 1000);
		ck_assert_msg(w.d.state != DECIDE_ON, "round %d", i);
		run(&w, 700);
		MUST(w.d.state == DECIDE_PLAIN);
		got = run(&w, 6000);
		MUST(got > 0.95 * best(&w));
	}
	MUST(w.d.switches == 6);
}
END_TEST

/* Anything random around the break-even, for ten minutes: calm. And the bound for any minute. */
START_TEST(calm)
{
	struct world w = fresh(900 * MBIT, 330);
	uint64_t at[4096] = { 0 };
	uint32_t n = 0, was, i, k;

	w.rng = seed_env("ROAM_SEED", 1) * 100 + (uint64_t)_i;
	w.noise = 20;
	for (i = 0; i < 600 * 50; i++) {
		if (_i % 4 == 0)		/* around where E = 1.08 .. 1.25 R */
			w.link = (800 + seed_below(&w.rng, 500)) * MBIT;
		if (_i % 4 == 1)		/* a ratio around it */
			w.link = 10 * MBIT, w.ratio = 780 + seed_below(&w.rng, 240);
		if (_i % 4 == 2 && !seed_below(&w.rng, 40))	/* wild: every 0.8 s from one end to the other */
			w.link = seed_below(&w.rng, 2) ? 10 * MBIT : 4000 * MBIT;
		if (_i % 4 == 3 && !seed_below(&w.rng, 10)) {	/* all at once */
			w.link = (1 + seed_below(&w.rng, 2000)) * MBIT;
			w.ratio = 200 + seed_below(&w.rng, 900);
			w.offered = seed_below(&w.rng, 2) ? 0 : seed_below(&w.rng, 1000) * MBIT + 1;
			w.cpu = (uint8_t)seed_below(&w.rng, 101);
		}
		was = w.d.switches;
		step(&w);
		if (w.d.switches != was && n < 4096)
			at[n++] = w.now;
	}
	for (i = 0; i < n; i++) {
		for (k = i; k < n && at[k] - at[i] < 60000 * MS; k++)
			;
		MUST(k - i <= 12);
	}
	MUST(n <= 6 + 60 + 1);
	if (_i % 4 < 2)
		ck_assert_msg(n <= 20, "%u switches in ten minutes near the break-even", n);
}
END_TEST

/* Steady just at each break-even, also with a noisy link: at most one way in and one out. */
START_TEST(on_the_edge)
{
	uint32_t p;

	for (p = 60; p <= 140; p += 5) {
		struct world w = fresh(1, 330);

		w.link = 1024ull * 1000000000 / w.ns[1] * p / 100;
		w.noise = 10;
		run(&w, 300000);
		ck_assert_msg(w.d.switches <= 2, "%u switches at %u %%", w.d.switches, p);
	}
	for (p = 700; p < 1024; p += 25) {
		struct world w = fresh(10 * MBIT, p);

		w.noise = 10;
		run(&w, 300000);
		ck_assert_msg(w.d.switches <= 2, "%u switches at ratio %u", w.d.switches, p);
	}
}
END_TEST

/* Nobody waits for the link: nothing is done about it. */
START_TEST(idle)
{
	struct world w = fresh(10 * MBIT, 300);

	w.offered = 2 * MBIT;
	run(&w, 60000);
	MUST(w.d.state == DECIDE_PLAIN && !w.d.switches);
	/* in, and then little to do: stays, whatever it is that waits */
	w.offered = 0;
	run(&w, 2000);
	MUST(w.d.state == DECIDE_ON);
	w.offered = MBIT;
	run(&w, 60000);
	MUST(w.d.switches == 1);
}
END_TEST

/* A machine that is full: only a large gain, only level 1. A slow one is measured while it runs. */
START_TEST(cpu)
{
	struct world w = fresh(100 * MBIT, 330);
	int i;

	w.cpu = 5;
	run(&w, 5000);
	MUST(w.d.state == DECIDE_PLAIN);
	w.cpu = 100;
	run(&w, 1000);
	MUST(w.d.state == DECIDE_ON);
	/* ten times slower than believed: 14 MB/s is not more than the link's 12.5, at level 1 */
	w = fresh(100 * MBIT, 330);
	for (i = 1; i < DECIDE_LEVELS; i++)
		w.ns[i] *= 12;
	run(&w, 5000);
	MUST(w.d.state != DECIDE_ON);
	/* a slow link on a full machine still gains much by the cheapest level */
	w = fresh(MBIT, 330);
	w.cpu = 20;
	run(&w, 1000);
	MUST(w.d.state == DECIDE_ON && w.d.level == 1);
	w = fresh(10 * MBIT, 330);
	w.cpu = 0;
	run(&w, 1000);
	MUST(w.d.state == DECIDE_ON && w.d.level == 1);
}
END_TEST

START_TEST(levels)
{
	static const uint32_t mbit[] = { 10, 50, 100, 200, 400 };
	uint32_t i;
	int was = 10;

	for (i = 0; i < ARRAY_SIZE(mbit); i++) {
		struct world w = fresh(mbit[i] * MBIT, 330);

		run(&w, 5000);
		ck_assert_msg(w.d.state == DECIDE_ON && w.d.level <= was, "%u: level %u", mbit[i], w.d.level);
		was = w.d.level;
	}
	MUST(was <= 2);
}
END_TEST

START_TEST(blocks)
{
	struct codec_speed s;
	struct decide d;

	decide_speed_init(&s);
	decide_init(&d, 1);
	MUST(!decide_level(&d, &s, 10 * MBIT, 300, 65536, 0));
	d.state = DECIDE_ON;
	d.level = 6;
	MUST(decide_level(&d, &s, 10 * MBIT, 300, 65536, 0) == 6);
	MUST(decide_level(&d, &s, 10 * MBIT, 300, 512, 0) == 6);	/* saves 290 us for 15 */
	MUST(!decide_level(&d, &s, 10 * MBIT, 1020, 512, 0));
	MUST(!decide_level(&d, &s, 10000 * MBIT, 300, 512, 0));
	MUST(decide_level(&d, &s, 10000 * MBIT, 300, 512, 9999) == 6);	/* it waits in any case */
	d.level = 0;
	MUST(!decide_level(&d, &s, 10 * MBIT, 300, 65536, 9));
}
END_TEST

START_TEST(speed)
{
	struct codec_speed s;
	int i;

	decide_speed_init(&s);
	decide_speed_saw(&s, 0, 65536, 1);
	decide_speed_saw(&s, 99, 65536, 1);
	decide_speed_saw(&s, 1, 10, 1);
	MUST(!s.seen);
	decide_speed_saw(&s, 1, 65536, 1000000000);	/* one interruption */
	MUST(s.ns[1] < 14000);
	for (i = 0; i < 100; i++)
		decide_speed_saw(&s, 1, 65536, 20000 * 64);
	MUST(s.ns[1] > 19500 && s.ns[1] < 20500);
	MUST(s.ns[6] > 55000 && s.ns[6] < 75000);	/* the machine is slower for that as well */
	decide_speed_saw(&s, 1, 65536, 0);
	MUST(s.ns[1] > 10000);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("decide");
	TCase *t = tcase_create("decide");
	SRunner *sr;
	int bad;

	suite_add_tcase(s, t);
	tcase_set_timeout(t, 60);
	tcase_add_test(t, steady);
	tcase_add_test(t, wrong_guess);
	tcase_add_loop_test(t, reacts, 0, 5);
	tcase_add_loop_test(t, calm, 0, 16);
	tcase_add_test(t, on_the_edge);
	tcase_add_test(t, idle);
	tcase_add_test(t, cpu);
	tcase_add_test(t, levels);
	tcase_add_test(t, blocks);
	tcase_add_test(t, speed);
	sr = srunner_create(s);
	srunner_set_fork_status(sr, CK_FORK);
	srunner_run_all(sr, CK_NORMAL);
	bad = srunner_ntests_failed(sr);
	srunner_free(sr);
	return bad != 0;
}
