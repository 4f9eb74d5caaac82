/* The table of ends: owners, epochs, holders, tombstones, limits, size. */
#include "gid.h"
#include "reason.h"
#include <check.h>
#include <malloc.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t seed[16] = { 1, 2, 3 };
static struct { uint32_t fenced, left, proc; int role; uint8_t state; } seen;

static void on_fenced(void *arg, uint32_t proc, const struct gident *e, int role)
{
	(void)arg;
	(void)e;
	seen.fenced++;
	seen.proc = proc;
	seen.role = role;
}

static void on_left(void *arg, const struct gident *e, int role)
{
	(void)arg;
	seen.left++;
	seen.role = role;
	seen.state = e->end[role].state;
}

static const struct gid_ops ops = { .fenced = on_fenced, .left = on_left };
static struct gidtab *t;
static struct gident *e;

static void setup(void)
{
	ck_assert(sodium_init() >= 0);
	memset(&seen, 0, sizeof(seen));
	t = gid_new(100000, 50000, seed, &ops);
	ck_assert_ptr_nonnull(t);
}

static void teardown(void)
{
	gid_free(t);
}

static const uint8_t *id(uint32_t n)
{
	static uint8_t g[16];

	memset(g, 0, sizeof(g));
	memcpy(g, &n, sizeof(n));
	return g;
}

static struct place at(uint8_t n)
{
	struct place p = { .family = 4, .port = 7626, .addr = { 10, 0, 0, n }, .host = { n } };

	return p;
}

static enum gid_own own(uint32_t g, int role, uint32_t epoch, uint32_t uid, uint32_t proc)
{
	return gid_own(t, id(g), role, epoch, uid, proc, &e);
}

START_TEST(owners)
{
	ck_assert_int_eq(own(1, 0, 1, 1000, 5), GID_OK);
	ck_assert_int_eq(own(1, 0, 1, 1001, 6), GID_DENIED);
	ck_assert_int_eq(own(1, 1, 1, 1001, 6), GID_DENIED);
	ck_assert_int_eq(own(1, 1, 1, 1000, 6), GID_OK);
	ck_assert(gid_allowed(e, 1000) && !gid_allowed(e, 1001) && gid_allowed(e, 0) && gid_allowed(NULL, 7));
	ck_assert_uint_eq(gid_user_count(t, 1000), 1);
}
END_TEST

START_TEST(epochs)
{
	struct place b = at(2), c = at(3);

	own(1, 1, 3, 0, 5);
	ck_assert_int_eq(own(1, 1, 2, 0, 6), GID_FENCED);
	ck_assert_int_eq(own(1, 1, 4, 0, 6), GID_OK);
	ck_assert_uint_eq(seen.fenced, 1);
	ck_assert_uint_eq(seen.proc, 5);
	ck_assert(!gid_holds(t, e, 1, 5) && gid_holds(t, e, 1, 6));
	/* away: an old one is an echo, the same one too, a newer one takes it */
	ck_assert_int_eq(gid_away(t, e, 1, 3, &b), AWAY_OLD);
	ck_assert_int_eq(gid_away(t, e, 1, 4, &b), AWAY_OLD);
	ck_assert_int_eq(gid_away(t, e, 1, 5, &b), AWAY_NEWS);
	ck_assert_uint_eq(seen.fenced, 2);
	ck_assert_int_eq(gid_away(t, e, 1, 5, &b), AWAY_SAME);
	ck_assert_int_eq(gid_away(t, e, 1, 5, &c), AWAY_NEWS);
	ck_assert_int_eq(gid_away(t, e, 1, 4, &b), AWAY_OLD);
	ck_assert_int_eq(own(1, 1, 4, 0, 6), GID_FENCED);
	ck_assert_int_eq(own(1, 1, 6, 0, 6), GID_OK);
	ck_assert_uint_eq(seen.left, 0);
}
END_TEST

START_TEST(holders)
{
	uint32_t got[3], i;

	for (i = 0; i < 3; i++)
		own(1, 0, 1, 0, 10 + i);
	ck_assert_uint_eq(gid_ends(t), 3);
	for (i = 0; i < 3; i++)
		got[i] = gid_holder(t, e, 0);
	ck_assert(got[0] != got[1] && got[1] != got[2] && got[0] != got[2]);
	ck_assert_uint_eq(gid_holder(t, e, 0), got[0]);
	gid_proc_gone(t, 10, 1);
	ck_assert(gid_release(t, e, 0, 11, END_GONE, REASON_CLOSED, 1));
	ck_assert(!gid_release(t, e, 0, 11, END_GONE, REASON_CLOSED, 1));
	ck_assert_uint_eq(seen.left, 0);
	ck_assert_int_eq(e->end[0].state, END_UP);
	gid_proc_gone(t, 12, 1);
	ck_assert_uint_eq(seen.left, 1);
	ck_assert_int_eq(e->end[0].state, END_GONE);
	ck_assert_uint_eq(gid_holder(t, e, 0), GID_NOBODY);
	ck_assert_uint_eq(gid_ends(t), 0);
}
END_TEST

START_TEST(frozen_survives)
{
	own(1, 0, 1, 0, 10);
	own(1, 0, 1, 0, 11);
	gid_release(t, e, 0, 10, END_FROZEN, REASON_FROZEN, 1);
	gid_proc_gone(t, 10, 1);
	gid_proc_gone(t, 11, 1);	/* the other one just died: frozen is the stronger word */
	ck_assert_int_eq(e->end[0].state, END_FROZEN);
	gid_expire(t, 1 + GID_FROZEN_S - 1);
	ck_assert_int_eq(gid_find(t, id(1))->end[0].state, END_FROZEN);
	ck_assert_int_eq(own(1, 0, 2, 0, 12), GID_OK);
	ck_assert_int_eq(e->end[0].state, END_UP);
	gid_proc_gone(t, 12, 2);
	ck_assert_int_eq(e->end[0].state, END_GONE);
}
END_TEST

START_TEST(freezes)
{
	own(1, 0, 1, 0, 10);
	own(2, 1, 1, 0, 10);
	gid_proc_freezes(t, 10, true);
	gid_proc_freezes(t, 10, false);		/* thawed where it is */
	gid_proc_freezes(t, 99, true);
	own(3, 0, 1, 0, 11);
	gid_proc_freezes(t, 11, true);
	gid_proc_gone(t, 10, 1);
	gid_proc_gone(t, 11, 1);
	ck_assert_int_eq(gid_find(t, id(1))->end[0].state, END_GONE);
	ck_assert_int_eq(gid_find(t, id(2))->end[1].state, END_GONE);
	ck_assert_int_eq(gid_find(t, id(3))->end[0].state, END_FROZEN);
	/* it says that it has it: alive */
	own(3, 0, 1, 0, 11);
	gid_proc_freezes(t, 11, true);
	own(3, 0, 1, 0, 11);
	gid_proc_gone(t, 11, 2);
	ck_assert_int_eq(gid_find(t, id(3))->end[0].state, END_GONE);
}
END_TEST

START_TEST(tombs)
{
	struct place b = at(2);

	own(1, 0, 1, 0, 10);
	gid_away(t, e, 1, 1, &b);
	gid_expire(t, 1000);
	ck_assert_uint_eq(gid_count(t), 1);
	gid_proc_gone(t, 10, 1000);
	gid_expire(t, 1001);		/* the other end's place begins to fade */
	gid_expire(t, 1000 + GID_TOMB_S - 1);
	ck_assert_int_eq(gid_find(t, id(1))->end[0].state, END_GONE);
	gid_expire(t, 1001 + GID_TOMB_S);
	ck_assert_ptr_null(gid_find(t, id(1)));
	ck_assert_uint_eq(gid_count(t), 0);
	ck_assert_uint_eq(gid_user_count(t, 0), 0);
	/* and the memory is used again */
	ck_assert_int_eq(own(2, 1, 1, 7, 10), GID_OK);
	ck_assert_uint_eq(gid_count(t), 1);
}
END_TEST

START_TEST(limits)
{
	uint32_t i;

	gid_free(t);
	t = gid_new(10, 6, seed, &ops);
	for (i = 0; i < 6; i++)
		ck_assert_int_eq(own(i, 0, 1, 1, 1), GID_OK);
	ck_assert_int_eq(own(6, 0, 1, 1, 1), GID_FULL_USER);
	for (i = 6; i < 10; i++)
		ck_assert_int_eq(own(i, 0, 1, 2, 2), GID_OK);
	ck_assert_int_eq(own(10, 0, 1, 3, 3), GID_FULL);
	ck_assert_int_eq(own(3, 1, 1, 1, 1), GID_OK);
	gid_proc_gone(t, 1, 1);
	gid_expire(t, 100);
	gid_expire(t, 200);
	ck_assert_uint_eq(gid_count(t), 4);
	ck_assert_int_eq(own(10, 0, 1, 1, 3), GID_OK);
}
END_TEST

/* 10,000 idle connections to other hosts cost less than 3 MB. */
START_TEST(small)
{
	struct place b = at(2);
	size_t before, now;
	uint32_t i;

	before = mallinfo2().uordblks + mallinfo2().hblkhd;
	for (i = 0; i < 10000; i++) {
		own(i, 0, 1, 1000, i % 50);
		gid_away(t, e, 1, 1, &b);
	}
	now = mallinfo2().uordblks + mallinfo2().hblkhd;
	ck_assert_uint_le(sizeof(struct gident), 160);
	if (before)	/* 0: a sanitizer's allocator */
		ck_assert_uint_lt(now - before, 3000000);
}
END_TEST

/* Random operations against a simple model of one end. */
START_TEST(model)
{
	uint32_t epoch[64] = { 0 }, holder[64], i, g, p, k;
	uint64_t x = 88172645463325252u;

	for (g = 0; g < 64; g++)
		holder[g] = GID_NOBODY;
	for (i = 0; i < 200000; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		g = x >> 8 & 63;
		p = x >> 16 & 15;
		k = (uint32_t)(x >> 32 & 7);
		if (k < 4) {
			ck_assert_int_eq(own(g, 1, ++epoch[g], 9, p), GID_OK);
			holder[g] = p;
		} else if (k < 6) {
			e = gid_find(t, id(g));
			if (e && gid_release(t, e, 1, p, END_GONE, REASON_CLOSED, i)) {
				ck_assert_uint_eq(holder[g], p);
				holder[g] = GID_NOBODY;
			} else {
				ck_assert_uint_ne(holder[g], p);
			}
		} else if (k == 6) {
			gid_proc_gone(t, p, i);
			for (g = 0; g < 64; g++)
				if (holder[g] == p)
					holder[g] = GID_NOBODY;
		} else {
			gid_expire(t, i);
		}
	}
	for (g = 0, k = 0; g < 64; g++) {
		e = gid_find(t, id(g));
		k += holder[g] != GID_NOBODY;
		ck_assert_uint_eq(e ? gid_holder(t, e, 1) : GID_NOBODY, holder[g]);
	}
	ck_assert_uint_eq(gid_ends(t), k);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("gid");
	TCase *c = tcase_create("gid");
	SRunner *r;
	int bad;

	tcase_add_checked_fixture(c, setup, teardown);
	tcase_add_test(c, owners);
	tcase_add_test(c, epochs);
	tcase_add_test(c, holders);
	tcase_add_test(c, frozen_survives);
	tcase_add_test(c, freezes);
	tcase_add_test(c, tombs);
	tcase_add_test(c, limits);
	tcase_add_test(c, small);
	tcase_add_test(c, model);
	suite_add_tcase(s, c);
	r = srunner_create(s);
	srunner_run_all(r, CK_NORMAL);
	bad = srunner_ntests_failed(r);
	srunner_free(r);
	return bad != 0;
}
