/* The replay buffer against a model that simply remembers every byte. */
#include "replay.h"
#include "seed.h"
#include <check.h>
#include <string.h>

/* check's own assertions tell the parent about every success: too slow for a hot loop */
#define MUST(c) do { if (!(c)) ck_abort_msg("%s", #c); } while (0)
#define TOP	(1u << 16)		/* the model's stream: offsets 0 .. TOP */

static uint8_t stream[TOP];
static uint8_t mem[64 + 32];

static void fill_stream(uint64_t seed)
{
	uint32_t i;

	for (i = 0; i < TOP; i++)
		stream[i] = (uint8_t)(seed_next(&seed) >> 32);
}

/* Everything held, from every offset, is what the model says; nothing else is held. */
static void agree(const struct replay *r, uint64_t base, uint64_t end)
{
	const uint8_t *p = NULL;
	uint64_t off, at;
	size_t n;
	uint32_t i;

	MUST(replay_sane(r));
	MUST(r->base == base);
	MUST(r->end == end);
	MUST(replay_used(r) == end - base);
	MUST(replay_room(r) == (r->cap - (end - base)));
	for (off = base; off < end; off++) {
		for (at = off; at < end; at += n) {
			n = replay_at(r, mem, at, &p);
			MUST(n > 0);
			MUST(n <= end - at);
			MUST(p >= mem && p + n <= mem + r->cap);
			MUST(!memcmp(p, stream + at, n));
		}
		if (off > base + 2 && off + 3 < end)
			off++;		/* the middle need not be tried at every offset */
	}
	MUST(replay_at(r, mem, end, &p) == 0);
	MUST(replay_at(r, mem, end + 1, &p) == 0);
	MUST(replay_at(r, mem, UINT64_MAX, &p) == 0);
	if (base)
		MUST(replay_at(r, mem, base - 1, &p) == 0);
	for (i = r->max; i < sizeof(mem); i++)
		MUST(mem[i] == 0xee);
}

static void model_run(uint64_t *rng, uint32_t min, uint32_t max)
{
	uint64_t base = seed_below(rng, 200), end = base, to;
	uint32_t n, ops = 400, cap;
	struct replay r;
	bool ok;

	memset(mem, 0xee, sizeof(mem));
	replay_init(&r, base, min, max);
	agree(&r, base, end);
	while (ops-- && end < TOP - 2 * max) {
		switch (seed_below(rng, 6)) {
		case 0:
		case 1:
			n = seed_below(rng, max + 3);
			cap = r.cap;
			ok = replay_reserve(&r, mem, n);
			MUST(ok == (end - base + n <= max));
			agree(&r, base, end);
			if (!ok) {
				MUST(r.cap == cap);
				break;
			}
			MUST(replay_room(&r) >= n);
			/* no larger than needed */
			MUST(r.cap == cap || r.cap / 2 < end - base + n);
			replay_append(&r, mem, stream + end, n);
			end += n;
			break;
		case 2:		/* only what fits without growing */
			n = seed_below(rng, (uint32_t)replay_room(&r) + 1);
			replay_append(&r, mem, stream + end, n);
			end += n;
			break;
		case 3:
			n = seed_below(rng, max + 3);
			if (n > base || !replay_reserve(&r, mem, n))
				break;
			base -= n;
			replay_prepend(&r, mem, stream + base, n);
			break;
		case 4:
			to = base + seed_below(rng, max + 8);
			if (seed_below(rng, 8) == 0)
				to = seed_below(rng, 2) ? UINT64_MAX : base ? base - 1 : 0;
			replay_trim(&r, to);
			if (to > end)
				to = end;
			if (to > base)
				base = to;
			break;
		default:
			cap = r.cap;
			ok = replay_relax(&r);
			MUST(ok == (base == end && cap != min));
			MUST(r.cap == (ok ? min : cap));
			break;
		}
		agree(&r, base, end);
	}
}

START_TEST(model)
{
	uint64_t seed = seed_env("ROAM_SEED", 1) + (uint64_t)_i, rng = seed;
	uint32_t lo, hi, k;

	fill_stream(seed);
	for (k = 0; k < 40; k++)
		for (lo = 4; lo <= 64; lo *= 2)
			for (hi = lo; hi <= 64; hi *= 2)
				model_run(&rng, lo, hi);
}
END_TEST

/* Every head position, every length, grown, prepended and trimmed by every amount. */
START_TEST(wraps)
{
	uint32_t cap, head, len, n;
	struct replay r;

	fill_stream(7);
	for (cap = 4; cap <= 32; cap *= 2)
		for (head = 0; head < cap; head++)
			for (len = 0; len <= cap; len++)
				for (n = 0; n <= 2 * cap; n++) {
					memset(mem, 0xee, sizeof(mem));
					replay_init(&r, 100, cap, 2 * cap);
					/* one byte stays behind, or the ring starts again at 0 */
					replay_append(&r, mem, stream + 100, head);
					if (len && head) {
						replay_trim(&r, 100 + head - 1);
						replay_append(&r, mem, stream + 100 + head, 1);
						replay_trim(&r, 100 + head);
						replay_append(&r, mem, stream + 101 + head, len - 1);
					}
					agree(&r, r.base, r.end);
					if (replay_reserve(&r, mem, n)) {
						agree(&r, r.base, r.end);
						if (n <= r.base && n % 2)
							replay_prepend(&r, mem, stream + r.base - n, n);
						else
							replay_append(&r, mem, stream + r.end, n);
					}
					agree(&r, r.base, r.end);
					replay_trim(&r, r.base + n);
					agree(&r, r.base, r.end);
				}
}
END_TEST

START_TEST(limits)
{
	struct replay r;

	memset(mem, 0xee, sizeof(mem));
	fill_stream(1);
	replay_init(&r, 0, 4, 16);
	ck_assert(!replay_reserve(&r, mem, 17));
	ck_assert(!replay_reserve(&r, mem, UINT64_MAX));
	ck_assert(!replay_reserve(&r, mem, (uint64_t)1 << 32));
	ck_assert_uint_eq(r.cap, 4);
	ck_assert(replay_reserve(&r, mem, 16));
	ck_assert_uint_eq(r.cap, 16);
	replay_append(&r, mem, stream, 16);
	ck_assert(replay_reserve(&r, mem, 0));
	ck_assert(!replay_reserve(&r, mem, 1));
	ck_assert(!replay_reserve(&r, mem, UINT64_MAX));
	ck_assert(!replay_reserve(&r, mem, UINT64_MAX - 15));	/* used + n wraps */
	ck_assert(!replay_relax(&r));
	agree(&r, 0, 16);
	replay_trim(&r, 3);
	replay_trim(&r, 2);			/* below base: nothing */
	agree(&r, 3, 16);
	replay_trim(&r, 99);
	agree(&r, 16, 16);
	ck_assert_uint_eq(r.head, 0);
	ck_assert(replay_relax(&r));
	ck_assert(!replay_relax(&r));
	ck_assert_uint_eq(r.cap, 4);
}
END_TEST

/* A stream that has gone far: the ring does not depend on the offset's low bits. */
START_TEST(far)
{
	uint64_t off = ((uint64_t)1 << 40) + 3;
	const uint8_t *p = NULL;
	struct replay r;
	int i;

	memset(mem, 0xee, sizeof(mem));
	replay_init(&r, off, 8, 8);
	for (i = 0; i < 100; i++) {
		ck_assert(replay_reserve(&r, mem, 5));
		replay_append(&r, mem, "abcde", 5);
		ck_assert_uint_ge(replay_at(&r, mem, off, &p), 1);
		ck_assert_int_eq(*p, 'a');
		off += 3;
		replay_trim(&r, off);
		ck_assert_uint_ge(replay_at(&r, mem, off, &p), 1);
		ck_assert_int_eq(*p, 'd');
		off += 2;
		replay_trim(&r, off);
	}
	ck_assert_uint_eq(r.end, off);
}
END_TEST

START_TEST(insane)
{
	static const struct { size_t at; int size; uint64_t bad[6]; int n; } field[] = {
		{ offsetof(struct replay, base), 8, { 26, UINT64_MAX, 0, 8 }, 4 },
		{ offsetof(struct replay, end), 8, { 0, 19, 37, UINT64_MAX }, 4 },
		{ offsetof(struct replay, cap), 4, { 0, 3, 4, 17, 64, UINT32_MAX }, 6 },
		{ offsetof(struct replay, min), 4, { 0, 3, 32, UINT32_MAX }, 4 },
		{ offsetof(struct replay, max), 4, { 0, 3, 8, UINT32_MAX }, 4 },
		{ offsetof(struct replay, head), 4, { 16, 17, UINT32_MAX }, 3 },
	};
	struct replay good = { .base = 20, .end = 25, .cap = 16, .min = 8, .max = 32, .head = 15 }, r;
	size_t i;
	int k;

	ck_assert(replay_sane(&good));
	for (i = 0; i < ARRAY_SIZE(field); i++)
		for (k = 0; k < field[i].n; k++) {
			r = good;
			/* both are little-endian here and in the layout of the target */
			memcpy((char *)&r + field[i].at, &field[i].bad[k], (size_t)field[i].size);
			ck_assert_msg(!replay_sane(&r), "field %zu value %d passes", i, k);
		}
	r = good;
	r.end = r.base + r.cap;			/* full is fine, one more is not */
	ck_assert(replay_sane(&r));
	r.end++;
	ck_assert(!replay_sane(&r));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("replay");
	TCase *t = tcase_create("replay");
	SRunner *sr;
	int bad;

	suite_add_tcase(s, t);
	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, model, 0, 8);
	tcase_add_test(t, wraps);
	tcase_add_test(t, limits);
	tcase_add_test(t, far);
	tcase_add_test(t, insane);
	sr = srunner_create(s);
	srunner_set_fork_status(sr, CK_FORK);
	srunner_run_all(sr, CK_NORMAL);
	bad = srunner_ntests_failed(sr);
	srunner_free(sr);
	return bad != 0;
}
