/*
 * The handover core in a simulated world (sim.c).  Property: what is read is
 * what was written, all of it, in order; an end dies only when a fault was
 * injected that leaves no other way.
 *
 * ROAM_SEED: first seed (a failure prints the one to repeat), ROAM_RUNS: how
 * many random worlds.
 */
#include "sim.h"
#include "seed.h"
#include <check.h>
#include <string.h>

#define TICKS	2000

static struct sim w;

static void worlds(const char *what, uint64_t runs, bool rollback)
{
	uint64_t seed = seed_env("ROAM_SEED", 1), resumes = 0, planned = 0, forged = 0, dead = 0, i;
	const char *why;

	runs = seed_env("ROAM_RUNS", runs);
	for (i = 0; i < runs; i++) {
		sim_init(&w, seed + i);
		why = sim_run(&w, TICKS, rollback);
		resumes += w.resumes;
		planned += w.planned;
		forged += w.forged;
		dead += w.dead;
		if (why)
			ck_abort_msg("%s: %s (ROAM_SEED=%llu ROAM_RUNS=1)", what, why,
				     (unsigned long long)(seed + i));
	}
	printf("%s: %llu runs, %llu handovers (%llu resumes, %llu planned), %llu forgeries, %llu ends dead\n",
	       what, (unsigned long long)runs, (unsigned long long)(resumes + planned),
	       (unsigned long long)resumes, (unsigned long long)planned,
	       (unsigned long long)forged, (unsigned long long)dead);
	fflush(stdout);
	if (!rollback && runs >= 4000)
		ck_assert_uint_ge(resumes + planned, 100000);
}

START_TEST(random_worlds)
{
	worlds("faults, attacks, moves", 6000, false);
}
END_TEST

START_TEST(rolled_back)
{
	worlds("old copies come back", 4000, true);
}
END_TEST

/*
 * Small scenarios: `na` bytes of A and `nb` of B are on their way when the
 * link breaks or a planned handover is asked for; then the fault strikes at
 * one step of the protocol.
 */
enum stage { BEFORE_REQ, REQ_FLIES, OK_FLIES, DONE_FLIES, DONE_HERE, SWITCHING, ASKED_TWICE, STAGES };
enum fault { NO_FAULT, CHANNEL, NEW_LINK, OLD_LINK, ALL, FAULTS };

static void strike(enum fault f, int chan, int fresh)
{
	if ((f == CHANNEL || f == ALL) && w.c[chan].used)
		sim_kill_chan(&w, chan);
	if ((f == NEW_LINK || f == ALL) && fresh >= 0)
		sim_kill_link(&w, fresh);
	if (f == OLD_LINK || f == ALL)
		sim_kill_link(&w, 0);
}

static void scenario(uint32_t na, uint32_t nb, int asker, bool cut, enum stage stage, enum fault fault)
{
	int chan, fresh, other = !asker, i;
	const uint32_t n[2] = { na, nb };

	for (i = 0; i < 2; i++) {
		w.e[i].limit = SIM_LIMIT;
		w.e[i].total = 40;
		w.l[0].h[i].sndcap = w.l[0].h[i].rcvcap = SIM_Q;
		sim_write(&w, i, 40);
		/* all handed to the kernel, n of them arrived and were acknowledged, half of those were read */
		sim_pump(&w, i, 40);
		sim_move(&w, 0, i, n[i]);
		sim_ack(&w, 0, i, n[i]);
		sim_read(&w, !i, n[i] / 2);
		sim_trim(&w, i);
	}
	if (!cut) {
		sim_kill_link(&w, 0);
		sim_break(&w, asker);
		sim_drain(&w, asker);
	}
	if (!sim_ask(&w, asker, cut)) {
		snprintf(w.why, sizeof(w.why), "cannot ask");
		longjmp(w.fail, 1);
	}
	chan = w.e[asker].ask;
	fresh = w.e[asker].cand;
	for (i = BEFORE_REQ; i < (int)stage; i++)
		switch (i) {
		case BEFORE_REQ:
			/* the other end may know by itself, or learn it from the request */
			if (!cut && (na + nb) % 2) {
				sim_break(&w, other);
				sim_drain(&w, other);
			}
			break;
		case REQ_FLIES:
			sim_deliver(&w, chan, 0);
			sim_pump(&w, other, 40);	/* before the asker has committed */
			sim_move(&w, fresh, 1, 40);
			sim_ack(&w, fresh, 1, 40);
			sim_trim(&w, other);
			break;
		case OK_FLIES:
			sim_deliver(&w, chan, 1);
			sim_pump(&w, asker, 40);
			sim_move(&w, fresh, 0, 40);
			sim_ack(&w, fresh, 0, 40);
			sim_trim(&w, asker);
			sim_trim(&w, other);
			break;
		case DONE_FLIES:
			sim_deliver(&w, chan, 0);
			sim_trim(&w, other);
			break;
		case DONE_HERE:
			sim_move(&w, 0, 0, 40);
			sim_ack(&w, 0, 0, 40);
			sim_trim(&w, 0);
			sim_read(&w, 1, 40);		/* B may be past the cut, A is not */
			sim_read(&w, 1, 40);
			sim_trim(&w, 1);
			break;
		case SWITCHING:
			sim_deliver(&w, chan, 0);
			sim_deliver(&w, chan, 1);
			sim_trim(&w, 0);
			sim_trim(&w, 1);
			break;
		}
	if (stage == ASKED_TWICE) {		/* both at once: the other one asks, too */
		sim_break(&w, other);
		sim_drain(&w, other);
		sim_ask(&w, other, false);
		sim_break(&w, asker);
		sim_drain(&w, asker);
		sim_ask(&w, asker, false);
	}
	strike(fault, chan, fresh);
	sim_finish(&w);
}

static bool holds(uint32_t na, uint32_t nb, int asker, bool cut, enum stage stage, enum fault fault)
{
	sim_init(&w, na * 41 + nb);
	if (setjmp(w.fail))
		return false;
	scenario(na, nb, asker, cut, stage, fault);
	return true;
}

START_TEST(every_offset)
{
	uint32_t na, nb, count = 0;
	int asker, cut, stage, fault;

	for (na = 0; na <= 40; na++)
		for (nb = 0; nb <= 40; nb++)
			for (asker = 0; asker < 2; asker++)
				for (cut = 0; cut < 2; cut++)
					for (stage = 0; stage < STAGES; stage++) {
						fault = _i;
						if (!holds(na, nb, asker, cut, (enum stage)stage,
							   (enum fault)fault))
							ck_abort_msg("%u %u asker %d cut %d stage %d fault %d: %s",
								     na, nb, asker, cut, stage, _i, w.why);
						count++;
					}
	printf("every offset, fault %d: %u scenarios\n", _i, count);
	fflush(stdout);
}
END_TEST

/* The core by itself: who may ask when, and what is never accepted. */

static void pair(struct handover *a, struct handover *b)
{
	static const uint8_t gid[WIRE_GID] = "gid", key[WIRE_KEY] = "key";

	ho_init(a, HO_OPENER, gid, key);
	ho_init(b, HO_ACCEPTOR, gid, key);
}

START_TEST(order)
{
	struct handover a, b;
	struct ho_plan plan;
	struct msg req, ok, done, no;

	pair(&a, &b);
	ck_assert_uint_eq(ho_trim_limit(&a), UINT64_MAX);
	ck_assert(!ho_ask(&a, 1, 10, false, &req));	/* up: nothing to resume */
	ck_assert(ho_break(&a) && !ho_break(&a));
	ck_assert(!ho_ask(&a, 1, 10, false, &req));	/* not counted yet */
	ck_assert(!ho_ask(&a, 1, 10, true, &req));
	ho_drained(&a, 3, 2);
	ck_assert(!ho_ask(&a, 1, 10, true, &req));
	ck_assert(ho_ask(&a, 1, 10, false, &req));
	ck_assert(!ho_ask(&a, 2, 10, false, &no));
	ck_assert_int_eq(ho_input(&b, &req, 0, 7, &ok, &plan), HO_BREAK);
	ck_assert(ho_break(&b));
	ck_assert_int_eq(ho_input(&b, &req, 0, 7, &ok, &plan), HO_BREAK);
	ho_drained(&b, 6, 1);
	ck_assert_int_eq(ho_input(&b, &req, 0, 7, &ok, &plan), HO_COMMIT);
	ck_assert_uint_eq(plan.resend_from, 3);
	ck_assert_uint_eq(plan.given_back, 2);
	ck_assert_uint_eq(ho_trim_limit(&b), 0);
	ck_assert(!ho_ask(&b, 5, 7, true, &no));	/* not confirmed */
	ck_assert_int_eq(ok.type, MSG_OK);
	ck_assert_int_eq(ho_input(&a, &ok, 0, 10, &done, &plan), HO_COMMIT);
	ck_assert_uint_eq(plan.resend_from, 6);
	ck_assert_uint_eq(plan.given_back, 1);
	ck_assert_uint_eq(ho_trim_limit(&a), UINT64_MAX);
	ck_assert_int_eq(ho_input(&b, &done, 0, 7, &no, &plan), HO_IGNORE);
	ck_assert_uint_eq(ho_trim_limit(&b), UINT64_MAX);
	/* again: nothing happens, and the asker is told nothing that kills it */
	ck_assert_int_eq(ho_input(&b, &req, 0, 7, &no, &plan), HO_IGNORE);
	ck_assert_int_eq(no.type, 0);
	ck_assert_int_eq(ho_input(&a, &ok, 0, 10, &no, &plan), HO_IGNORE);
	ck_assert_uint_eq(b.refused, 1);
	ho_kill(&b, REASON_CLOSED);
	ho_kill(&b, REASON_GAP);
	ck_assert_uint_eq(b.reason, REASON_CLOSED);	/* the first reason stands */
	ck_assert(!ho_break(&b));
	ck_assert_int_eq(ho_ask_failed(&b), HO_OVER);
	ck_assert_int_eq(ho_ask_failed(&a), HO_IGNORE);
}
END_TEST

/* Offsets that contradict each other end the connection, each with its reason. */
START_TEST(contradictions)
{
	static const struct { uint64_t rx_off, unread, tx_end, base; uint32_t reason; } c[] = {
		{ 100, 10, 50, 110, REASON_NONE },
		{ 100, 9, 50, 110, REASON_GAP },
		{ 100, 0, 50, 101, REASON_GAP },
		{ 90, 31, 50, 90, REASON_MISMATCH },	/* more than was sent */
		{ UINT64_MAX, 2, 50, 90, REASON_MISMATCH },	/* wraps */
		{ 79, 30, 50, 90, REASON_MISMATCH },	/* less than it had stated before */
		{ 100, 10, 49, 100, REASON_MISMATCH },	/* it sent less than we have */
	};
	struct handover a, b;
	struct ho_plan plan;
	struct msg req, out;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(c); i++) {
		pair(&a, &b);
		ho_break(&a);
		ho_drained(&a, c[i].rx_off, c[i].unread);
		ck_assert(ho_ask(&a, 9, c[i].tx_end, false, &req));
		ho_break(&b);
		ho_drained(&b, 40, 10);
		b.peer_rx_off = 80;
		ck_assert_int_eq(ho_input(&b, &req, c[i].base, 120, &out, &plan),
				 c[i].reason ? HO_OVER : HO_COMMIT);
		ck_assert_uint_eq(b.reason, c[i].reason);
		if (!c[i].reason)
			continue;
		ck_assert_int_eq(out.type, MSG_NO);
		ck_assert_int_eq(ho_input(&a, &out, 0, c[i].tx_end, &req, &plan), HO_OVER);
		ck_assert_uint_eq(a.reason, c[i].reason);
	}
}
END_TEST

START_TEST(fenced)
{
	struct handover a, b, old;
	struct ho_plan plan;
	struct msg req, out;

	pair(&a, &b);
	old = a;
	ho_reincarnate(&a, 1);
	ho_drained(&a, 0, 0);
	ck_assert(ho_ask(&a, 1, 0, false, &req));
	ho_break(&b);
	ho_drained(&b, 0, 0);
	ck_assert_int_eq(ho_input(&b, &req, 0, 0, &out, &plan), HO_COMMIT);
	ho_break(&old);
	ho_drained(&old, 0, 0);
	ck_assert(ho_ask(&old, 2, 0, false, &req));
	ck_assert_int_eq(ho_input(&b, &req, 0, 0, &out, &plan), HO_IGNORE);
	ck_assert_uint_eq(out.reason, REASON_FENCED);
	ck_assert_int_eq(ho_input(&old, &out, 0, 0, &req, &plan), HO_OVER);
	ck_assert_uint_eq(old.reason, REASON_FENCED);
	ck_assert_uint_eq(b.state, HO_UP);
}
END_TEST

/* Turned away once is turned away for good; silence after a cut breaks the link. */
START_TEST(cut_refused)
{
	struct handover a, b;
	struct ho_plan plan;
	struct msg ra, rb, no, out;

	pair(&a, &b);
	ck_assert(ho_ask(&a, 1, 10, true, &ra));
	ck_assert(ho_ask(&b, 2, 20, true, &rb));
	ck_assert_int_eq(ho_input(&a, &rb, 0, 10, &no, &plan), HO_IGNORE);
	ck_assert_uint_eq(no.reason, REASON_CROSSED);
	ck_assert_int_eq(ho_input(&b, &no, 0, 20, &out, &plan), HO_RETRY);
	ck_assert_uint_eq(b.state, HO_UP);
	ck_assert_int_eq(ho_ask_failed(&a), HO_BREAK);
	ck_assert(ho_break(&a));
	a.state = HO_UP;		/* as if a resume had gone by */
	ck_assert_int_eq(ho_input(&a, &rb, 0, 10, &out, &plan), HO_IGNORE);
	ck_assert_uint_eq(a.legs, 1);
}
END_TEST

/* Two cuts at once: the opener's stands, the acceptor answers it and drops its own. */
START_TEST(cut_crossed)
{
	struct handover a, b;
	struct ho_plan plan;
	struct msg ra, rb, ok, no, done, sa, sb;

	pair(&a, &b);
	ck_assert(ho_ask(&a, 1, 10, true, &ra));
	ck_assert(ho_ask(&b, 2, 20, true, &rb));
	ck_assert_int_eq(ho_input(&b, &ra, 0, 20, &ok, &plan), HO_COMMIT);
	ck_assert(plan.cancel);
	ck_assert_uint_eq(plan.resend_from, 20);
	ck_assert_uint_eq(ho_trim_limit(&b), 20);
	ck_assert_int_eq(ho_input(&a, &rb, 0, 10, &no, &plan), HO_IGNORE);
	ck_assert_int_eq(ho_input(&b, &no, 0, 20, &done, &plan), HO_IGNORE);
	ck_assert_int_eq(ho_input(&a, &ok, 0, 10, &done, &plan), HO_COMMIT);
	ck_assert_uint_eq(plan.resend_from, 10);
	ck_assert_uint_eq(ho_trim_limit(&a), 10);
	ck_assert(!ho_switched(&a, 19, &sa));
	ck_assert(ho_switched(&a, 20, &sa));
	ck_assert(!ho_switched(&a, 20, &sa));
	ck_assert(ho_switched(&b, 10, &sb));
	ho_input(&b, &sa, 0, 20, &no, &plan);
	ck_assert_uint_eq(ho_trim_limit(&b), UINT64_MAX);
	ck_assert_uint_eq(ho_trim_limit(&a), 10);
	ho_input(&a, &sb, 0, 10, &no, &plan);
	ck_assert_uint_eq(ho_trim_limit(&a), UINT64_MAX);
	ck_assert(ho_ask(&b, 3, 30, true, &rb));
}
END_TEST

/* Two resumes at once: one link comes of it, and the loser's request is spent. */
START_TEST(resume_crossed)
{
	struct handover a, b;
	struct ho_plan plan;
	struct msg ra, rb, ok, no, done, out;

	pair(&a, &b);
	ho_break(&a);
	ho_break(&b);
	ho_drained(&a, 0, 0);
	ho_drained(&b, 0, 0);
	ck_assert(ho_ask(&a, 1, 0, false, &ra));
	ck_assert(ho_ask(&b, 2, 0, false, &rb));
	ck_assert_int_eq(ho_input(&a, &rb, 0, 0, &no, &plan), HO_IGNORE);
	ck_assert_int_eq(no.type, MSG_NO);
	ck_assert_uint_eq(no.reason, REASON_CROSSED);
	ck_assert_int_eq(ho_input(&b, &ra, 0, 0, &ok, &plan), HO_COMMIT);
	ck_assert(plan.cancel);
	ck_assert_int_eq(ho_input(&b, &no, 0, 0, &out, &plan), HO_IGNORE);
	ck_assert_int_eq(ho_input(&a, &ok, 0, 0, &done, &plan), HO_COMMIT);
	ck_assert_int_eq(ho_input(&a, &rb, 0, 0, &out, &plan), HO_IGNORE);
	ck_assert_uint_eq(a.state, HO_UP);

	pair(&a, &b);			/* the opener's own request fails meanwhile */
	ho_break(&a);
	ho_drained(&a, 0, 0);
	ck_assert(ho_ask(&a, 1, 0, false, &ra));
	ck_assert_int_eq(ho_input(&a, &rb, 0, 0, &no, &plan), HO_IGNORE);
	ck_assert_int_eq(ho_ask_failed(&a), HO_RETRY);
	ck_assert_int_eq(ho_input(&a, &rb, 0, 0, &out, &plan), HO_IGNORE);
	ck_assert_uint_eq(a.state, HO_READY);
}
END_TEST

/* An end's own messages come back to it. */
START_TEST(reflected)
{
	struct handover a, b;
	struct ho_plan plan;
	struct msg req, ok, done, sw, out;

	pair(&a, &b);
	ho_break(&b);
	ho_drained(&b, 0, 0);
	ck_assert(ho_ask(&b, 1, 0, false, &req));
	ck_assert_int_eq(ho_input(&b, &req, 0, 0, &out, &plan), HO_IGNORE);
	ck_assert_int_eq(out.type, 0);
	ck_assert_uint_eq(b.state, HO_ASKING);

	pair(&a, &b);
	ck_assert(ho_ask(&a, 1, 10, true, &req));
	ck_assert_int_eq(ho_input(&b, &req, 0, 20, &ok, &plan), HO_COMMIT);
	ck_assert_int_eq(ho_input(&a, &ok, 0, 10, &done, &plan), HO_COMMIT);
	ck_assert(ho_switched(&a, 20, &sw));
	ho_input(&a, &sw, 0, 10, &out, &plan);
	ck_assert_uint_eq(ho_trim_limit(&a), 10);	/* b has not said a word */
}
END_TEST

int main(void)
{
	Suite *s = suite_create("handover");
	TCase *core = tcase_create("core"), *t = tcase_create("worlds");
	SRunner *sr;
	int bad;

	suite_add_tcase(s, core);
	tcase_add_test(core, order);
	tcase_add_test(core, contradictions);
	tcase_add_test(core, fenced);
	tcase_add_test(core, cut_refused);
	tcase_add_test(core, cut_crossed);
	tcase_add_test(core, resume_crossed);
	tcase_add_test(core, reflected);
	suite_add_tcase(s, t);
	tcase_set_timeout(t, 600);
	tcase_add_loop_test(t, every_offset, 0, FAULTS);
	tcase_add_test(t, random_worlds);
	tcase_add_test(t, rolled_back);
	sr = srunner_create(s);
	srunner_set_fork_status(sr, CK_FORK);
	srunner_run_all(sr, CK_NORMAL);
	bad = srunner_ntests_failed(sr);
	srunner_free(sr);
	return bad != 0;
}
