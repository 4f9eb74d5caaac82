/* The estimate of a link's rate over made-up traces. Time is a number here. */
#include "rate.h"
#include "seed.h"
#include <check.h>
#include <string.h>

#define MUST(c) do { if (!(c)) ck_abort_msg("%s", #c); } while (0)
#define MS	1000000ull
#define MBIT	125000ull

/* A sender on a link of `rate`; offered: bytes a second that the application has, 0: always more. */
struct world {
	struct rate r;
	struct rate_sample s;
	uint64_t rng;
	double acked;
};

static void run(struct world *w, uint64_t ns, uint64_t step, uint64_t rate, uint64_t offered, uint32_t noise)
{
	uint64_t end = w->s.now + ns, got = offered && offered < rate ? offered : rate;

	while (w->s.now < end) {
		double f = noise ? 1 + ((double)seed_below(&w->rng, 2 * noise) - noise) / 100.0 : 1;

		w->s.now += step;
		w->acked += (double)got * (double)step / 1e9 * f;
		w->s.acked = (uint64_t)w->acked;
		w->s.app_limited = got < rate;
		w->s.notsent = got < rate ? 0 : 100000;
		w->s.delivery = (uint64_t)((double)got * f);
		w->s.rtt_us = w->s.min_rtt_us = 1000;
		rate_passive(&w->r, &w->s);
	}
}

static uint64_t now(struct world *w)
{
	return rate_now(&w->r, w->s.now).rate;
}

static bool near(uint64_t a, uint64_t b, uint32_t percent)
{
	return a <= b + b * percent / 100 && a >= b - b * percent / 100;
}

static struct world fresh(uint64_t seed)
{
	return (struct world){ .s.now = 5000 * MS, .rng = seed };
}

START_TEST(steady)
{
	static const uint64_t rate[] = { MBIT / 4, MBIT, 10 * MBIT, 100 * MBIT, 1000 * MBIT, 40000 * MBIT };
	static const uint64_t step[] = { 1, 10, 20, 50, 100 };
	size_t i, k;

	for (i = 0; i < ARRAY_SIZE(rate); i++)
		for (k = 0; k < ARRAY_SIZE(step); k++) {
			struct world w = fresh(i * 100 + k);
			struct rate_est e;

			run(&w, 4000 * MS, step[k] * MS, rate[i], 0, 20);
			e = rate_now(&w.r, w.s.now);
			ck_assert_msg(near(e.rate, rate[i], step[k] < 50 ? 15 : 25), "%lu for %lu, step %lu", e.rate, rate[i], step[k]);
			MUST(!e.at_least && !e.active && e.confidence >= 80 && e.rtt_us == 1000 && e.age < 250 * MS);
		}
}
END_TEST

/* 1 Gbit/s to 10 Mbit/s and back: seen within half a second each time. */
START_TEST(drops)
{
	struct world w = fresh(7 + (uint64_t)_i);
	int i;

	run(&w, 1000 * MS, 10 * MS, 1000 * MBIT, 0, 15);
	for (i = 0; i < 5; i++) {
		run(&w, 450 * MS, (10 + (uint64_t)_i * 20) * MS, 10 * MBIT, 0, 15);
		ck_assert_msg(near(now(&w), 10 * MBIT, 25), "%lu", now(&w));
		run(&w, 1000 * MS, 10 * MS, 10 * MBIT, 0, 15);
		run(&w, 450 * MS, (10 + (uint64_t)_i * 20) * MS, 1000 * MBIT, 0, 15);
		ck_assert_msg(near(now(&w), 1000 * MBIT, 25), "%lu", now(&w));
		run(&w, 1000 * MS, 10 * MS, 1000 * MBIT, 0, 15);
	}
}
END_TEST

/* An application that sends little says little about the link. */
START_TEST(app_limited)
{
	struct world w = fresh(3);
	struct rate_est e;

	run(&w, 2000 * MS, 20 * MS, 1000 * MBIT, 5 * MBIT, 10);
	e = rate_now(&w.r, w.s.now);
	MUST(e.at_least && e.rate < 8 * MBIT && e.rate > 4 * MBIT);
	run(&w, 1000 * MS, 20 * MS, 1000 * MBIT, 0, 10);
	MUST(near(now(&w), 1000 * MBIT, 15) && !rate_now(&w.r, w.s.now).at_least);
	/* known, and not forgotten, but older */
	run(&w, 20000 * MS, 20 * MS, 1000 * MBIT, 5 * MBIT, 10);
	e = rate_now(&w.r, w.s.now);
	MUST(near(e.rate, 1000 * MBIT, 15) && e.age > 19000 * MS && e.confidence < 30);
	/* slower, but nobody can see it: still the old one; then it is used again */
	run(&w, 2000 * MS, 20 * MS, 100 * MBIT, 5 * MBIT, 10);
	MUST(now(&w) > 800 * MBIT);
	run(&w, 600 * MS, 20 * MS, 100 * MBIT, 0, 10);
	MUST(near(now(&w), 100 * MBIT, 20));
	/* faster than was thought: shown also by an application that does not fill it */
	run(&w, 1000 * MS, 20 * MS, 1000 * MBIT, 400 * MBIT, 5);
	e = rate_now(&w.r, w.s.now);
	MUST(e.at_least && e.rate > 380 * MBIT && e.rate < 450 * MBIT);
}
END_TEST

/* The peer does not read: that is not the link. */
START_TEST(receiver_limited)
{
	struct world w = fresh(3);
	int i;

	run(&w, 1000 * MS, 20 * MS, 100 * MBIT, 0, 10);
	for (i = 0; i < 100; i++) {
		w.s.rwnd_us += 15000;
		run(&w, 20 * MS, 20 * MS, 2 * MBIT, 0, 0);
	}
	MUST(near(now(&w), 100 * MBIT, 15));
}
END_TEST

/* A lost segment: nothing is acknowledged for a while, then much at once. */
START_TEST(stalls)
{
	struct world w = fresh(3);
	uint64_t held;
	int i;

	run(&w, 1000 * MS, 10 * MS, 100 * MBIT, 0, 5);
	for (i = 0; i < 20; i++) {
		held = w.s.acked;
		while (w.s.acked == held && w.s.now % (90 * MS) != 0) {
			w.s.now += 10 * MS;
			rate_passive(&w.r, &w.s);
			ck_assert_msg(near(now(&w), 100 * MBIT, 35), "%lu", now(&w));
			w.acked += 100.0 * MBIT / 100;
			if (w.s.now % (90 * MS) < 10 * MS)
				break;
		}
		run(&w, 500 * MS, 10 * MS, 100 * MBIT, 0, 5);
		ck_assert_msg(near(now(&w), 100 * MBIT, 15), "%lu", now(&w));
	}
}
END_TEST

/* Anything at all: no crash, and time that goes back does no harm. */
START_TEST(nonsense)
{
	uint64_t rng = seed_env("ROAM_SEED", 1);
	struct rate r = { 0 };
	int i;

	for (i = 0; i < 200000; i++) {
		struct rate_sample s = {
			.now = seed_next(&rng) >> seed_below(&rng, 64), .acked = seed_next(&rng) >> seed_below(&rng, 64),
			.delivery = seed_next(&rng) >> seed_below(&rng, 64), .notsent = seed_below(&rng, 3),
			.rwnd_us = seed_next(&rng) >> seed_below(&rng, 64), .app_limited = seed_below(&rng, 2),
		};

		rate_passive(&r, &s);
		MUST(r.n <= RATE_HIST && rate_now(&r, s.now).confidence <= 100);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("rate");
	TCase *t = tcase_create("rate");
	SRunner *sr;
	int bad;

	suite_add_tcase(s, t);
	tcase_set_timeout(t, 60);
	tcase_add_test(t, steady);
	tcase_add_loop_test(t, drops, 0, 3);
	tcase_add_test(t, app_limited);
	tcase_add_test(t, receiver_limited);
	tcase_add_test(t, stalls);
	tcase_add_test(t, nonsense);
	sr = srunner_create(s);
	srunner_set_fork_status(sr, CK_FORK);
	srunner_run_all(sr, CK_NORMAL);
	bad = srunner_ntests_failed(sr);
	srunner_free(sr);
	return bad != 0;
}
