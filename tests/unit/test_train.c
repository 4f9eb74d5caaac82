/*
 * Packet trains over made-up links, what they come to, and what is kept of it
 * (train.h, path.h, hosts.h).  Time is a number here.
 */
#include "hosts.h"
#include "path.h"
#include "seed.h"
#include "train.h"
#include <check.h>
#include <string.h>

#define MUST(c) do { if (!(c)) ck_abort_msg("%s", #c); } while (0)
#define MS	1000000ull
#define SEC	(1000 * MS)
#define MBIT	125000ull
#define KBIT	125ull

static bool near(uint64_t a, uint64_t b, uint32_t percent)
{
	return a <= b + b * percent / 100 && a >= b - b * percent / 100;
}

/* A link with a token bucket before its narrow place. */
struct link {
	uint64_t rng, now;
	uint64_t rate;		/* bytes a second */
	uint64_t peak;		/* how fast the bucket lets through what is in it */
	double bucket, tokens, free_at;
	uint64_t rtt, jitter;	/* ns; jitter: of each packet, 0 to this */
	uint64_t lump;		/* packets arrive together every so many ns: interrupts */
	uint32_t window;	/* bytes: what the kernel sends at once */
	/* what it came to */
	uint64_t filled;	/* ns for which the longest train kept the narrow place busy beyond its bucket */
	uint64_t sent, trains;
};

/* One train, in packets: what the receiver notes. */
static bool carry(struct link *l, uint32_t bytes, struct train *t)
{
	uint64_t begin = l->now, at, last = 0;
	double busy = l->free_at > (double)begin ? l->free_at : (double)begin, end;
	uint32_t left = bytes, n;

	/* The bucket has filled up since. */
	if ((double)begin > l->free_at)
		l->tokens += ((double)begin - l->free_at) * (double)l->rate / 1e9;
	l->tokens = l->tokens < l->bucket ? l->tokens : l->bucket;
	end = busy;
	train_begin(t);
	while (left) {
		n = left < 1400 ? left : 1400;
		left -= n;
		if (l->tokens >= n) {
			l->tokens -= n;
			end += (double)n * 1e9 / (double)l->peak;
			l->tokens += (double)n * (double)l->rate / (double)l->peak;
		} else {
			end += ((double)n - l->tokens) * 1e9 / (double)l->rate;
			l->tokens = 0;
		}
		at = (uint64_t)end + l->rtt / 2 + (l->jitter ? seed_next(&l->rng) % l->jitter : 0);
		if (l->lump)
			at = (at / l->lump + 1) * l->lump;
		at = at < last ? last : at;
		if (last && at > (last > begin + l->rtt / 2 ? begin + l->rtt / 2 : last) + TRAIN_CUT)
			break;
		last = at;
		train_arrived(t, at, n);
	}
	l->free_at = end;
	l->filled = (uint64_t)end - begin > l->filled ? (uint64_t)end - begin : l->filled;
	l->now = (left ? begin + l->rtt / 2 + TRAIN_CUT : last) + l->rtt / 2;
	l->sent += bytes;
	l->trains++;
	return !left;
}

static struct train_seen probe(struct link *l, uint32_t budget)
{
	struct train_plan p;
	struct train_seen s, heard;
	struct train t;
	uint64_t begin;
	uint32_t n;
	bool whole;

	l->now = 1000 * SEC;
	l->tokens = l->bucket;
	train_plan_begin(&p, budget);
	while ((n = train_plan_next(&p, l->window))) {
		begin = l->now;
		whole = carry(l, n, &t);
		s = whole ? train_seen(&t) : train_cut(&t, begin + l->rtt / 2 + TRAIN_CUT);
		heard = train_heard(s.bytes, s.took, s.confidence, s.steady, n, l->now - begin);
		MUST(heard.rate == s.rate && heard.confidence == s.confidence);
		train_plan_answer(&p, &heard, l->now - begin - l->rtt, !whole);
		if (l->window < UINT32_MAX / 2)
			l->window *= 2;
		MUST(l->trains < 100);
	}
	MUST(l->sent <= budget);
	return train_plan_result(&p);
}

static const uint64_t rates[] = { 256 * KBIT, MBIT, 10 * MBIT, 100 * MBIT, 1000 * MBIT };

/* A plain queue, near and far. */
START_TEST(plain)
{
	static const uint64_t rtts[] = { MS / 10, MS, 20 * MS, 200 * MS };
	size_t i, k;

	for (i = 0; i < ARRAY_SIZE(rates); i++)
		for (k = 0; k < ARRAY_SIZE(rtts); k++) {
			struct link l = { .rate = rates[i], .peak = 1250 * MBIT * 8, .rtt = rtts[k], .window = 14480 };
			struct train_seen s = probe(&l, 1 << 20);

			MUST(near(s.rate, rates[i], 10));
			MUST(s.confidence >= 40);
			MUST(!s.at_least);
			MUST(l.filled <= 150 * MS);
		}
}
END_TEST

/* What a bucket holds goes through at once; it is not what counts. */
START_TEST(bucket)
{
	static const uint32_t holds[] = { 1600, 4096, 16384, 32768, 65536, 131072, 262144 };
	size_t i, k;
	int good = 0;

	for (i = 0; i < ARRAY_SIZE(rates); i++)
		for (k = 0; k < ARRAY_SIZE(holds); k++) {
			struct link l = { .rate = rates[i], .peak = 10000 * MBIT, .rtt = MS, .window = UINT32_MAX / 2,
					  .bucket = holds[k] };
			struct train_seen s = probe(&l, 1 << 20);
			uint64_t drain = holds[k] * SEC / rates[i];

			/* Right, or it says that it does not know (below 30 decide.c does nothing). */
			MUST(s.confidence < 30 || near(s.rate, rates[i], 25));
			good += near(s.rate, rates[i], 25);
			/* The link is busy for a train that is meant to, or for an eighth of what its bucket takes; past
			 * TRAIN_CAREFUL for as long as that. */
			MUST(l.filled <= 160 * MS + (holds[k] < TRAIN_CAREFUL ? drain / 4 : 2 * drain));
		}
	ck_assert_int_ge(good, 30);	/* of 35 */
}
END_TEST

/* Jitter and arrivals in lumps: right, or it says so. */
START_TEST(noisy)
{
	uint64_t seed = seed_env("ROAM_SEED", 1), r, n = seed_env("ROAM_RUNS", 20000), good = 0, sure = 0, wrong = 0;

	for (r = 0; r < n; r++) {
		uint64_t x = seed + r * 7919;
		struct link l = { .rng = x, .rate = rates[seed_below(&x, 5)], .peak = 10000 * MBIT,
				  .rtt = (1 + seed_below(&x, 300)) * MS / 10, .window = 14480,
				  .bucket = seed_below(&x, 2) ? 0 : seed_below(&x, 65536),
				  .jitter = seed_below(&x, 2) ? 0 : 1 + seed_next(&x) % (2 * MS),
				  .lump = seed_below(&x, 2) ? 0 : 1 + seed_next(&x) % MS };
		struct train_seen s = probe(&l, 1 << 20);

		MUST(s.rate && s.confidence <= 75);
		good += near(s.rate, l.rate, 25);
		sure += s.confidence >= 30;
		wrong += s.confidence >= 30 && !near(s.rate, l.rate, 25);
	}
	if (getenv("ROAM_VERBOSE"))
		printf("of %llu: %llu right, %llu sure, %llu sure and wrong\n", (unsigned long long)n,
		       (unsigned long long)good, (unsigned long long)sure, (unsigned long long)wrong);
	/* Sure and wrong: rarely. */
	if (wrong * 50 > n || good * 100 < 85 * n || sure * 100 < 70 * n)
		ck_abort_msg("seed %llu: of %llu %llu are right, %llu sure, %llu sure and wrong", (unsigned long long)seed,
			     (unsigned long long)n, (unsigned long long)good, (unsigned long long)sure,
			     (unsigned long long)wrong);
}
END_TEST

/* A link too fast to be told costs no more than the budget, and says only "at least". */
START_TEST(fast)
{
	struct link l = { .rate = 40000 * MBIT, .peak = 40000 * MBIT, .rtt = MS / 50, .window = UINT32_MAX / 2 };
	struct train_seen s = probe(&l, 1 << 20);

	MUST(s.at_least && s.confidence < 30);
	MUST(l.sent <= 600u << 10);
	MUST(l.filled < MS);
}
END_TEST

/* A train whose end does not come says how slow it is at least. */
START_TEST(cut)
{
	struct train t;
	struct train_seen s;

	train_begin(&t);
	s = train_cut(&t, SEC);
	MUST(!s.rate);
	train_arrived(&t, SEC, 1400);
	s = train_cut(&t, SEC + 150 * MS);
	MUST(s.rate && s.rate < 20000 && s.confidence < 30);
	train_begin(&t);
	train_arrived(&t, SEC, 30000);
	train_arrived(&t, SEC + 1, 30000);
	train_arrived(&t, SEC + 60 * MS, 1400);
	train_arrived(&t, SEC + 100 * MS, 1400);
	s = train_cut(&t, SEC + 150 * MS);
	MUST(s.rate < 40000 && s.confidence < 30);
}
END_TEST

/* Many points: merged, nothing lost; time that goes back: no division by anything odd. */
START_TEST(points)
{
	struct train t;
	struct train_seen s;
	uint64_t x = 1;
	uint32_t i;

	train_begin(&t);
	for (i = 0; i < 100000; i++)
		train_arrived(&t, SEC + i * 1000, 100);
	MUST(t.bytes == 10000000 && t.n <= TRAIN_POINTS);
	s = train_seen(&t);
	MUST(near(s.rate, 100000000, 3) && s.steady);
	train_begin(&t);
	for (i = 0; i < 1000; i++)
		train_arrived(&t, seed_next(&x), seed_below(&x, 4000));
	s = train_seen(&t);
	MUST(s.rate <= TRAIN_TOP);
	train_begin(&t);
	MUST(!train_seen(&t).rate);
	train_arrived(&t, 5, UINT32_MAX);
	train_arrived(&t, 6, 1);
	MUST(!train_seen(&t).rate);
}
END_TEST

/* What the other agent says is bounded by what we know ourselves. */
START_TEST(hostile)
{
	uint64_t x = seed_env("ROAM_SEED", 1), i;
	struct train_seen s;
	struct train_plan p;
	uint32_t n, sum;

	s = train_heard(UINT64_MAX, 0, 255, true, 65536, 10 * MS);
	MUST(s.bytes == 65536 && s.at_least && s.confidence < 30 && s.rate == 131072000);
	s = train_heard(65536, UINT64_MAX, 255, true, 65536, 10 * MS);
	MUST(s.took == 10 * MS);
	s = train_heard(0, 5, 255, true, 65536, 10 * MS);
	MUST(!s.rate && !s.confidence);
	for (i = 0; i < 20000; i++) {
		train_plan_begin(&p, 16384 + seed_below(&x, 1 << 20));
		for (sum = 0; (n = train_plan_next(&p, (uint32_t)seed_next(&x) >> seed_below(&x, 32)));) {
			MUST(n <= TRAIN_LONGEST && n <= p.longest);
			sum += n;
			s = train_heard(seed_next(&x) >> seed_below(&x, 64), seed_next(&x) >> seed_below(&x, 64),
					(uint8_t)seed_next(&x), seed_next(&x) & 1, n, seed_next(&x) >> seed_below(&x, 64));
			MUST(s.confidence <= 65 && s.rate <= TRAIN_TOP && s.bytes <= n);
			train_plan_answer(&p, &s, seed_next(&x) >> seed_below(&x, 64), !seed_below(&x, 20));
		}
		MUST(sum <= p.budget && p.n <= TRAIN_MOST);
		MUST(train_plan_result(&p).confidence <= 75);
	}
}
END_TEST

/* ---- path */

static struct rate_est est(uint64_t rate, uint8_t confidence, bool at_least)
{
	return (struct rate_est){ .rate = rate, .confidence = confidence, .at_least = at_least };
}

static struct train_seen seen(uint64_t rate, uint8_t confidence, bool at_least)
{
	return (struct train_seen){ .rate = rate, .confidence = confidence, .at_least = at_least };
}

START_TEST(together)
{
	struct path p = { 0 };
	struct rate_est e, r;
	struct train_seen s = seen(10 * MBIT, 65, false);
	uint64_t t = 100 * SEC;

	MUST(!path_now(&p, t).rate && !path_now(&p, t).confidence);
	path_train(&p, t, &s);
	r = path_now(&p, t);
	MUST(r.rate == 10 * MBIT && r.confidence == 65 && r.active && !r.at_least && !r.age);
	/* "at least" less than that is no news; more than that is. */
	e = est(MBIT, 60, true);
	path_passive(&p, t, &e);
	MUST(path_now(&p, t).rate == 10 * MBIT);
	e = est(50 * MBIT, 60, true);
	path_passive(&p, t, &e);
	r = path_now(&p, t);
	MUST(r.rate == 50 * MBIT && r.at_least && !r.active);
	/* A busy connection measures: it is believed, more so when the train has said the same. */
	e = est(9 * MBIT, 90, false);
	path_passive(&p, t, &e);
	r = path_now(&p, t);
	MUST(r.rate == 9 * MBIT && !r.active && r.confidence > 90 && r.confidence <= 95);
	/* Something else than the train: believed a little less. */
	e = est(2 * MBIT, 90, false);
	path_passive(&p, t + 3 * SEC, &e);
	r = path_now(&p, t + 3 * SEC);
	MUST(r.rate == 2 * MBIT && r.confidence < 90 && r.confidence > 60);
	/* It fades; a new train then is better. */
	r = path_now(&p, t + 900 * SEC);
	MUST(r.confidence < 10 && r.age >= 897 * SEC);
	path_train(&p, t + 900 * SEC, &s);
	r = path_now(&p, t + 900 * SEC);
	MUST(r.rate == 10 * MBIT && r.active && r.confidence >= 60);
}
END_TEST

/* A bucket let the train through: the passive estimate takes over. And a link that has become fast again. */
START_TEST(taken_over)
{
	struct path p = { 0 };
	struct train_seen s = seen(250 * MBIT, 15, true);
	struct rate_est e = est(10 * MBIT, 90, false), r;
	uint64_t t = 100 * SEC;

	path_train(&p, t, &s);
	MUST(path_now(&p, t).at_least && path_now(&p, t).confidence < 30);
	path_passive(&p, t + SEC, &e);
	r = path_now(&p, t + SEC);
	MUST(r.rate == 10 * MBIT && !r.at_least && !r.active && r.confidence >= 80);
	path_train(&p, t + 1200 * SEC, &s);
	r = path_now(&p, t + 1200 * SEC);
	MUST(r.rate == 250 * MBIT && r.at_least);
}
END_TEST

/* Several connections: the one that has most of the link tells its rate; but not for ever. */
START_TEST(shared)
{
	struct path p = { 0 };
	struct rate_est a = est(60 * MBIT, 90, false), b = est(40 * MBIT, 90, false);
	uint64_t t = 100 * SEC;

	path_passive(&p, t, &a);
	path_passive(&p, t + SEC, &b);
	MUST(path_now(&p, t + SEC).rate == 60 * MBIT);
	path_passive(&p, t + 3 * SEC, &b);
	MUST(path_now(&p, t + 3 * SEC).rate == 40 * MBIT);
	/* evidence older than what is there */
	a.age = 60 * SEC;
	path_passive(&p, t + 4 * SEC, &a);
	MUST(path_now(&p, t + 4 * SEC).rate == 40 * MBIT);
}
END_TEST

START_TEST(path_hostile)
{
	uint64_t x = seed_env("ROAM_SEED", 1), i, t = 0;
	struct path p = { 0 };
	struct rate_est r;

	for (i = 0; i < 200000; i++) {
		struct rate_est e = { .rate = seed_next(&x) >> seed_below(&x, 64), .age = seed_next(&x) >> seed_below(&x, 64),
				      .rtt_us = (uint32_t)seed_next(&x), .confidence = (uint8_t)seed_next(&x),
				      .at_least = seed_next(&x) & 1, .active = seed_next(&x) & 1 };
		struct train_seen s = seen(e.rate, e.confidence, e.at_least);

		t += seed_next(&x) >> (20 + seed_below(&x, 44));
		if (seed_next(&x) & 1)
			path_passive(&p, t, &e);
		else
			path_train(&p, t, &s);
		r = path_now(&p, t);
		MUST(r.rate <= TRAIN_TOP && r.confidence <= 95);
		MUST(r.age <= t);
	}
}
END_TEST

START_TEST(better)
{
	struct rate_est own = est(5 * MBIT, 90, false), host = est(10 * MBIT, 65, false), none = { 0 };

	MUST(path_better(&own, &host).rate == 5 * MBIT);
	MUST(path_better(&none, &host).rate == 10 * MBIT);
	MUST(path_better(&own, &none).rate == 5 * MBIT);
	/* Less certain, but newer: the link has just changed. */
	own.confidence = 40;
	host.age = SEC;
	MUST(path_better(&own, &host).rate == 5 * MBIT);
	/* Older and less certain. */
	own.age = 5 * SEC;
	MUST(path_better(&own, &host).rate == 10 * MBIT);
	/* A floor is no measurement. */
	own = est(5 * MBIT, 60, true);
	MUST(path_better(&own, &host).rate == 10 * MBIT);
	own = est(20 * MBIT, 10, true);
	MUST(path_better(&own, &host).rate == 20 * MBIT);
}
END_TEST

/* ---- hosts */

static struct msg rate_of(uint8_t host, uint64_t rate, uint32_t age_ms)
{
	struct msg m = { .type = MSG_RATE, .rate = rate, .age_ms = age_ms, .confidence = 70, .rtt_us = 350,
			 .flags = MSGF_TRAIN };

	m.host[0] = host;
	return m;
}

START_TEST(told)
{
	uint8_t id[16] = { 7 }, other[16] = { 8 };
	struct msg m = rate_of(7, 10 * MBIT, 2000), out;
	struct rate_est e;
	uint32_t i;

	hosts_told(&m, 100 * SEC);
	MUST(hosts_rate(id, 103 * SEC, &e));
	MUST(e.rate == 10 * MBIT && e.age == 5 * SEC && e.active && !e.at_least && e.rtt_us == 350 && e.confidence == 70);
	MUST(!hosts_rate(other, 103 * SEC, &e));
	MUST(!hosts_report(103 * SEC, &out));
	/* More hosts than there is room for: the ones last spoken of stay. */
	for (i = 0; i < 200; i++) {
		m = rate_of((uint8_t)(10 + i), MBIT, 0);
		hosts_told(&m, (200 + i) * SEC);
		hosts_rate(id, (200 + i) * SEC, &e);
	}
	MUST(hosts_rate(id, 500 * SEC, &e));
	id[0] = 209;
	MUST(hosts_rate(id, 500 * SEC, &e));
	id[0] = 10;
	MUST(!hosts_rate(id, 500 * SEC, &e));
}
END_TEST

START_TEST(reports)
{
	uint8_t id[16] = { 99 }, gid[16] = { 1 }, gid2[16] = { 2 };
	struct rate_est e = est(3 * MBIT, 60, true), back;
	struct msg m;

	e.age = SEC;
	hosts_saw(id, gid, true, 1000 * SEC, &e);
	e = est(2 * MBIT, 90, false);
	hosts_saw(id, gid2, false, 1000 * SEC, &e);	/* measured: goes before */
	e = est(9 * MBIT, 60, true);
	hosts_saw(id, gid, true, 1000 * SEC, &e);
	MUST(hosts_report(1000 * SEC, &m));
	back = hosts_unpack(&m);
	MUST(m.type == MSG_RATE && !memcmp(m.gid, gid2, 16) && !(m.flags & MSGF_ACCEPTOR) && back.rate == 2 * MBIT &&
	     !back.at_least && back.confidence == 90);
	MUST(!hosts_report(1000 * SEC, &m));
	hosts_saw(id, gid, true, 1000 * SEC + MS, &e);
	MUST(!hosts_report(1000 * SEC + MS, &m));	/* once a second */
	MUST(hosts_report(1001 * SEC, &m) && m.flags & MSGF_ACCEPTOR && m.flags & MSGF_LEAST);
	e.rate = 0;
	hosts_saw(id, gid, true, 1010 * SEC, &e);
	MUST(!hosts_report(1010 * SEC, &m));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("train");
	TCase *t = tcase_create("train");
	SRunner *r;
	int bad;

	tcase_set_timeout(t, 120);
	tcase_add_test(t, plain);
	tcase_add_test(t, bucket);
	tcase_add_test(t, noisy);
	tcase_add_test(t, fast);
	tcase_add_test(t, cut);
	tcase_add_test(t, points);
	tcase_add_test(t, hostile);
	tcase_add_test(t, together);
	tcase_add_test(t, taken_over);
	tcase_add_test(t, shared);
	tcase_add_test(t, path_hostile);
	tcase_add_test(t, better);
	tcase_add_test(t, told);
	tcase_add_test(t, reports);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	bad = srunner_ntests_failed(r);
	srunner_free(r);
	return bad ? 1 : 0;
}
