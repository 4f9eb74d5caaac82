/*
 * Sleeping, in every interleaving: the protocol of lib/ring.c as two small
 * programs over a memory in which each processor's stores wait in a buffer of
 * their own (total store order, what x86 promises; a store that must not wait
 * has a fence behind it, so a weaker machine differs in nothing the proof
 * uses).  All states are visited.  Wrong is one in which the sender has sent
 * everything, nothing is on its way, and the receiver sleeps over unread bytes.
 *
 * A model proves something only if it can fail: the same with one step left
 * out must find a lost wake-up.
 */
#include <check.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { TAIL, STATE, BELL, WORDS };
#define LIGHT	1
#define ASLEEP	2
#define GEN	4
#define PUTS	4
#define BUF	4

enum flaw { NONE, NO_BARRIER, NO_FENCE_RX, NO_FENCE_TX, NO_SECOND_READ, NO_BELL, NEVER_LIGHT_BUT_NO_FENCE, FLAWS };

struct cpu {
	uint8_t pc, n;			/* n stores wait */
	struct { uint8_t at, v; } buf[BUF];
};

struct state {
	uint8_t mem[WORDS];
	struct cpu c[2];		/* sender, receiver */
	uint8_t sent, answered, seen;	/* the sender's */
	uint8_t got, said, bell, sleeps;	/* the receiver's */
};

/* Sender */
enum { S_STORE, S_LOOK, S_FENCE, S_LOOK2, S_ANSWER, S_WAKE, S_DONE };
/* Receiver */
enum { R_GET, R_ARM, R_FENCE, R_CHECK, R_FUTEX, R_ASLEEP, R_WOKEN, R_LIGHT };

static struct state *seen, *todo;
static uint32_t nseen, ntodo, lost;
#define SLOTS	(1u << 20)

static void visit(const struct state *s)
{
	uint32_t h = 2166136261u, i;
	const uint8_t *p = (const uint8_t *)s;

	for (i = 0; i < sizeof(*s); i++)
		h = (h ^ p[i]) * 16777619u;
	/* mem[BELL] of an empty slot is 0xff, which no state has */
	for (h &= SLOTS - 1; seen[h].mem[BELL] != 0xff; h = (h + 1) & (SLOTS - 1))
		if (!memcmp(&seen[h], s, sizeof(*s)))
			return;
	ck_assert(++nseen < SLOTS - 1000 && ntodo < SLOTS);
	seen[h] = *s;
	todo[ntodo++] = *s;
}

static uint8_t load(const struct state *s, int cpu, int at)
{
	int i;

	for (i = s->c[cpu].n; i--;)
		if (s->c[cpu].buf[i].at == at)
			return s->c[cpu].buf[i].v;
	return s->mem[at];
}

static void store(struct state *s, int cpu, int at, uint8_t v)
{
	struct cpu *c = &s->c[cpu];

	c->buf[c->n].at = (uint8_t)at;
	c->buf[c->n++].v = v;
}

static void drain1(struct state *s, int cpu)
{
	struct cpu *c = &s->c[cpu];

	s->mem[c->buf[0].at] = c->buf[0].v;
	memmove(c->buf, c->buf + 1, sizeof(c->buf) - sizeof(c->buf[0]));
	memset(&c->buf[--c->n], 0, sizeof(c->buf[0]));
}

/* One step of the sender; false: it cannot move (a fence, a full buffer, the end). */
static bool sender(struct state *s, enum flaw f)
{
	struct cpu *c = &s->c[0];

	if (c->n >= BUF - 1 && (c->pc == S_STORE || c->pc == S_ANSWER))
		return false;
	switch (c->pc) {
	case S_STORE:
		store(s, 0, TAIL, ++s->sent);
		c->pc = S_LOOK;
		return true;
	case S_LOOK:
		s->seen = load(s, 0, STATE);
		c->pc = s->seen & LIGHT || f == NEVER_LIGHT_BUT_NO_FENCE ? S_ANSWER : f == NO_FENCE_TX ? S_LOOK2 : S_FENCE;
		return true;
	case S_FENCE:
		if (c->n)
			return false;
		c->pc = f == NO_SECOND_READ ? S_ANSWER : S_LOOK2;
		return true;
	case S_LOOK2:
		s->seen = load(s, 0, STATE);
		c->pc = S_ANSWER;
		return true;
	case S_ANSWER:
		c->pc = s->sent == PUTS ? S_DONE : S_STORE;
		if (s->seen != s->answered && s->seen & ASLEEP) {
			if (f != NO_BELL)
				store(s, 0, BELL, s->seen);
			c->pc = S_WAKE;
		}
		s->answered = s->seen;
		return true;
	case S_WAKE:		/* a system call that takes a lock: a fence */
		if (c->n)
			return false;
		if (s->c[1].pc == R_ASLEEP)
			s->c[1].pc = R_WOKEN;
		c->pc = s->sent == PUTS ? S_DONE : S_STORE;
		return true;
	}
	return false;
}

static bool receiver(struct state *s, enum flaw f)
{
	struct cpu *c = &s->c[1];

	if (c->n >= BUF - 1 && (c->pc == R_ARM || c->pc == R_WOKEN || c->pc == R_LIGHT))
		return false;
	switch (c->pc) {
	case R_GET:
		if (load(s, 1, TAIL) != s->got) {
			s->got = load(s, 1, TAIL);
			c->pc = R_LIGHT;
		} else {
			c->pc = R_ARM;
		}
		return true;
	case R_LIGHT:		/* now and then; the other choice is made in explore() */
		if (!(s->said & LIGHT)) {
			s->said = (uint8_t)((s->said / GEN + 1) * GEN) | LIGHT;
			store(s, 1, STATE, s->said);
		}
		c->pc = R_GET;
		return true;
	case R_ARM:
		s->bell = load(s, 1, BELL);
		c->pc = (s->said & LIGHT) && f != NO_BARRIER ? R_FENCE + 10 : R_FENCE;
		s->said = (uint8_t)((s->said / GEN + 1) * GEN) | ASLEEP;
		store(s, 1, STATE, s->said);
		s->sleeps++;
		return true;
	case R_FENCE + 10:	/* the barrier: our stores are out, and the sender's up to here */
		if (c->n)
			return false;
		while (s->c[0].n)
			drain1(s, 0);
		c->pc = R_CHECK;
		return true;
	case R_FENCE:
		if (c->n && f != NO_FENCE_RX)
			return false;
		c->pc = R_CHECK;
		return true;
	case R_CHECK:
		c->pc = load(s, 1, TAIL) != s->got ? R_WOKEN : R_FUTEX;
		return true;
	case R_FUTEX:		/* compares and queues in one step; its lock is a fence */
		if (c->n && f != NO_FENCE_RX)
			return false;
		c->pc = load(s, 1, BELL) != s->bell ? R_WOKEN : R_ASLEEP;
		return true;
	case R_WOKEN:		/* disarm, unless it was rung */
		if (load(s, 1, BELL) != s->said) {
			s->said = (uint8_t)((s->said / GEN + 1) * GEN);
			store(s, 1, STATE, s->said);
		}
		c->pc = R_GET;
		return true;
	}
	return false;
}

static void explore(enum flaw f)
{
	struct state s, t;
	int cpu;

	memset(seen, 0xff, SLOTS * sizeof(*seen));
	memset(&s, 0, sizeof(s));
	s.said = s.mem[STATE] = f == NEVER_LIGHT_BUT_NO_FENCE ? 0 : LIGHT;
	nseen = ntodo = lost = 0;
	visit(&s);
	while (ntodo && !lost) {
		s = todo[--ntodo];
		if (s.c[0].pc == S_DONE && s.c[1].pc == R_ASLEEP && !s.c[0].n && s.got != PUTS)
			lost++;
		for (cpu = 0; cpu < 2; cpu++) {
			t = s;
			if (t.c[cpu].n) {
				drain1(&t, cpu);
				visit(&t);
			}
			t = s;
			if (cpu == 1 && t.c[1].pc == R_LIGHT) {		/* not yet */
				t.c[1].pc = R_GET;
				visit(&t);
				t = s;
			}
			/* a sleep may also end for no reason: twice is enough to try */
			if (cpu == 1 && t.c[1].pc == R_ASLEEP && t.sleeps < 3) {
				t.c[1].pc = R_WOKEN;
				visit(&t);
			}
			t = s;
			/* all read: the receiver need not go on for ever */
			if (cpu == 1 && t.got == PUTS)
				continue;
			if (cpu == 1 && t.c[1].pc == R_ARM && t.sleeps >= 7)
				continue;
			if (cpu ? receiver(&t, f) : sender(&t, f))
				visit(&t);
		}
	}
}

START_TEST(all)
{
	explore((enum flaw)_i);
	if (_i == NONE) {
		ck_assert_uint_gt(nseen, 10000);
		ck_assert_msg(!lost, "a wake-up is lost (%u states)", nseen);
	} else {
		ck_assert_msg(lost, "flaw %d is not found in %u states", _i, nseen);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("ring_model");
	TCase *t = tcase_create("ring_model");
	SRunner *sr;
	int bad;

	seen = malloc(SLOTS * sizeof(*seen));
	todo = malloc(SLOTS * sizeof(*todo));
	suite_add_tcase(s, t);
	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, all, NONE, FLAWS);
	sr = srunner_create(s);
	srunner_set_fork_status(sr, CK_FORK);
	srunner_run_all(sr, CK_NORMAL);
	bad = srunner_ntests_failed(sr);
	srunner_free(sr);
	free(seen);
	free(todo);
	return bad != 0;
}
