/*
 * Two threads (three, one of them hostile) on one ring: no wake-up is lost, no
 * byte is wrong, and a liar gets nothing but a broken ring.
 */
#include "ring_world.h"
#include "seed.h"
#include "sys.h"
#include <check.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#define MUST(c) do { if (!(c)) ck_abort_msg("%s", #c); } while (0)
#define LOST_NS	(INT64_C(20) * 1000000000)	/* nobody waits so long for a bell that is rung */

#if defined(__SANITIZE_THREAD__)
#define TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TSAN 1
#endif
#endif
#ifndef TSAN
#define TSAN 0
#endif

static struct world w;
static struct spin spins[4];
static uint64_t rounds, seed;
static _Atomic bool over;

/* All of it, or until the ring breaks: then false. */
static bool send_all(int side, const uint8_t *p, size_t n)
{
	uint32_t call;
	long k;

	while (n) {
		call = 0;
		k = ring_put(&w.r[side], p, n, &call);
		ring_call(&w.r[side], call);
		if (k < 0 || atomic_load(&over))
			return false;
		p += k;
		n -= (size_t)k;
		if (!k)
			MUST(ring_wait(&w.r[side], RING_TX, &spins[side], LOST_NS) != ETIMEDOUT);
	}
	return true;
}

static bool recv_all(int side, uint8_t *p, size_t n)
{
	uint32_t call;
	long k;

	while (n) {
		call = 0;
		k = ring_get(&w.r[side], p, n, &call);
		ring_call(&w.r[side], call);
		if (k < 0 || atomic_load(&over))
			return false;
		p += k;
		n -= (size_t)k;
		if (!k)
			MUST(ring_wait(&w.r[side], RING_RX, &spins[2 + side], LOST_NS) != ETIMEDOUT);
	}
	return true;
}

static void *answers(void *arg)
{
	uint64_t i;

	(void)arg;
	for (i = 0; i < rounds; i++) {
		uint64_t x = 0;

		MUST(recv_all(1, (uint8_t *)&x, 8) && x == i);
		x = ~x;
		MUST(send_all(1, (uint8_t *)&x, 8));
		if (i % 4096 < 300 && i & 4096)	/* lets the light word come back, then sleeps again */
			sys_yield();
	}
	return NULL;
}

/* Each of these is two chances to lose a wake-up. */
START_TEST(pingpong)
{
	uint64_t i, x;
	pthread_t t;

	/* 0: always asleep; 1: as it comes; 2: asleep, through a provider */
	rounds = seed_env("ROAM_RUNS", (_i == 1 ? 700000 : _i == 0 ? 250000 : 50000) / (TSAN ? 10 : 1));
	atomic_store(&spin_off, _i != 1);
	world_make(&w, 4096, _i != 2, 0, 0);
	pthread_create(&t, NULL, answers, NULL);
	for (i = 0; i < rounds; i++) {
		MUST(send_all(0, (uint8_t *)&i, 8));
		MUST(recv_all(0, (uint8_t *)&x, 8) && x == ~i);
	}
	pthread_join(t, NULL);
	world_free(&w);
}
END_TEST

static void *writes(void *arg)
{
	uint64_t rng = seed, off = *(uint64_t *)arg, end = off + rounds;
	static uint8_t mem[20000];
	size_t n;

	while (off < end) {
		n = 1 + (seed_below(&rng, 2) ? seed_below(&rng, 80) : seed_below(&rng, sizeof(mem) - 1));
		if (n > end - off)
			n = end - off;
		stream_fill(mem, off, n);
		MUST(send_all(0, mem, n));
		off += n;
		if (!seed_below(&rng, 50))
			usleep(seed_below(&rng, 200));
	}
	return NULL;
}

/* A ring much smaller than the stream: both wait, for bytes and for room. */
START_TEST(stream)
{
	uint64_t rng, off = (UINT64_C(1) << 32) - 1000, at = off, end;
	static uint8_t mem[20000];
	uint32_t call;
	pthread_t t;
	long k;

	seed = seed_env("ROAM_SEED", 1) + (uint64_t)_i;
	rng = ~seed;
	rounds = seed_env("ROAM_RUNS", TSAN ? 1 << 20 : 8 << 20);
	atomic_store(&spin_off, !(_i & 1));
	world_make(&w, RING_MIN << (_i & 2), true, off, 0);
	end = off + rounds;
	pthread_create(&t, NULL, writes, &at);
	while (off < end) {
		call = 0;
		k = ring_get(&w.r[1], mem, 1 + seed_below(&rng, sizeof(mem) - 1), &call);
		ring_call(&w.r[1], call);
		MUST(k >= 0 && stream_is(mem, off, (size_t)k));
		off += (uint64_t)k;
		if (!k)
			MUST(ring_wait(&w.r[1], RING_RX, &spins[3], LOST_NS) != ETIMEDOUT);
		if (!seed_below(&rng, 50))
			usleep(seed_below(&rng, 200));
	}
	pthread_join(t, NULL);
	world_free(&w);
}
END_TEST

/* Any value, mostly one that could nearly be right, on any word that the peer may write, at any time. */
static void *scribbles(void *arg)
{
	uint64_t rng = seed * 77, v;
	int i;

	while (!atomic_load(&over)) {
		struct ring_box *b = (struct ring_box *)(void *)w.box[seed_below(&rng, 2)];
		uint64_t near = atomic_load_explicit(seed_below(&rng, 2) ? &b->tail : &b->head, memory_order_relaxed);

		v = seed_below(&rng, 4) ? near + seed_below(&rng, 9000) - 4500 : seed_next(&rng);
		switch (seed_below(&rng, *(int *)arg ? 12 : 8)) {
		case 0: case 1: case 2:
			atomic_store_explicit(&b->rx_state, (uint32_t)v, memory_order_relaxed);
			break;
		case 3: case 4:
			atomic_store_explicit(&b->tx_state, (uint32_t)v, memory_order_relaxed);
			break;
		case 5:
			atomic_store_explicit(&b->rx_bell, (uint32_t)v, memory_order_relaxed);
			atomic_store_explicit(&b->tx_bell, (uint32_t)(v >> 32), memory_order_relaxed);
			break;
		case 6:
			atomic_store_explicit(&b->mark, seed_below(&rng, 2) ? v << 6 | seed_below(&rng, 64) : v,
					      memory_order_relaxed);
			break;
		case 7:
			atomic_store_explicit(&b->cpu, (uint32_t)v, memory_order_relaxed);
			break;
		case 8:
			atomic_store_explicit(&b->word[seed_below(&rng, 6)], v, memory_order_relaxed);
			break;
		case 9:
			atomic_store_explicit(&b->tail, v, memory_order_relaxed);
			break;
		case 10:
			atomic_store_explicit(&b->head, v, memory_order_relaxed);
			break;
		default:
			for (i = 0; i < 64; i++)
				b->data[seed_below(&rng, 4096)] = (uint8_t)v;
			break;
		}
		for (i = (int)seed_below(&rng, 2000); i; i--)
			spin_pause();
	}
	return NULL;
}

/* Works on with a liar; every sleep has an end, as a virtual socket's base link gives it one. */
static void *victim(void *arg)
{
	int side = *(int *)arg;
	uint64_t rng = seed + (uint64_t)side;
	static __thread uint8_t mem[6000];
	const uint8_t *p;
	uint32_t call;
	size_t n;
	long k, j;

	while (!atomic_load(&over)) {
		call = 0;
		k = ring_put(&w.r[side], mem, seed_below(&rng, seed_below(&rng, 2) ? 60 : 6000), &call);
		n = ring_unread(&w.r[side], atomic_load(&w.e[side].head), &p);
		MUST(n <= 4096 && (!n || (p >= w.r[side].out->data && p + n <= w.r[side].out->data + 4096)));
		j = ring_get(&w.r[side], mem, seed_below(&rng, 2) ? 40 : sizeof(mem), &call);
		MUST(j <= (long)sizeof(mem) && k <= 6000);
		ring_call(&w.r[side], call);
		if (k < 0 || j < 0) {
			MUST(ring_put(&w.r[side], mem, 1, &call) == RING_BROKEN);
			MUST(ring_get(&w.r[side], mem, 1, &call) == RING_BROKEN);
			return NULL;
		}
		if (!k)
			ring_wait(&w.r[side], RING_TX, &spins[side], 200000);
		if (!j)
			ring_wait(&w.r[side], RING_RX, &spins[2 + side], 200000);
	}
	return NULL;
}

START_TEST(hostile)
{
	uint64_t runs = seed_env("ROAM_RUNS", 150), t0;
	pthread_t t[3];
	int side[2] = { 0, 1 }, all;

	atomic_store(&spin_off, false);
	for (seed = seed_env("ROAM_SEED", 1); runs--; seed++) {
		atomic_store(&over, false);
		world_make(&w, 4096, true, seed & 1 ? 0 : UINT64_MAX / 4, 0);
		/* a lie about positions makes both touch the same plain bytes: a race, and harmless */
		all = !TSAN && seed & 3;
		t0 = sys_now_ns();
		pthread_create(&t[0], NULL, victim, &side[0]);
		pthread_create(&t[1], NULL, victim, &side[1]);
		pthread_create(&t[2], NULL, scribbles, &all);
		usleep(5000);
		atomic_store(&over, true);
		for (int i = 0; i < 3; i++)
			pthread_join(t[i], NULL);
		ck_assert_msg(sys_now_ns() - t0 < UINT64_C(10000000000), "seed %llu hangs", (unsigned long long)seed);
		world_free(&w);
	}
}
END_TEST

/* What a wait of that length does to the window. */
static uint32_t after(struct spin *s, uint64_t waited_ns, bool missed)
{
	struct spin_wait x;

	spin_begin(&x, s, 0xffff, NULL);
	x.missed = missed;
	x.start = spin_tick() - waited_ns * 26 / 10;
	spin_end(&x);
	return atomic_load(&s->window);
}

START_TEST(window)
{
	struct spin s = { 0 };
	struct spin_wait x;
	uint32_t me, i, was;

	atomic_store(&spin_off, false);
	ck_assert(!spin_begin(&x, &s, 0xffff, &me));	/* none yet */
	ck_assert_uint_gt(me, 0);
	usleep(3000);					/* the rate of the ticks is measured */
	spin_begin(&x, &s, 0xffff, NULL);
	ck_assert_uint_eq(after(&s, 20000, false), SPIN_FIRST_NS);
	for (i = 0, was = 0; i < 8; i++) {
		ck_assert_uint_ge(after(&s, 20000, true), was);
		was = atomic_load(&s.window);
	}
	ck_assert_uint_eq(was, SPIN_MAX_NS);
	ck_assert(spin_begin(&x, &s, 0xffff, &me));
	ck_assert(spin_begin(&x, &s, me, &i));
	ck_assert(x.yield || i != me);			/* the peer needs this CPU */
	atomic_store(&spin_off, true);
	ck_assert(!spin_begin(&x, &s, 0xffff, NULL));
	atomic_store(&spin_off, false);
	ck_assert_uint_eq(after(&s, 1000000, true), SPIN_MAX_NS / 2);
	ck_assert_uint_eq(after(&s, 50000, true), SPIN_MAX_NS);
	for (i = 0; i < 6; i++)
		after(&s, 1000000, true);
	ck_assert_uint_eq(atomic_load(&s.window), 0);
	after(&s, 20000, false);
	ck_assert_uint_eq(after(&s, 20000000, true), 0);	/* idle: at once */
	ck_assert(!spin_begin(&x, &s, 0xffff, NULL));
	/* a spin that misses ends, and what all of them burn in vain has a limit */
	for (i = 0; i < 1000; i++) {
		atomic_store(&s.window, SPIN_MAX_NS);
		if (!spin_begin(&x, &s, 0xffff, NULL))
			break;
		while (spin_more(&x, SPIN_MEMORY))
			;
		ck_assert(x.missed);
		spin_end(&x);
	}
	ck_assert_uint_ge(i, SPIN_BURN_NS / SPIN_MAX_NS / 2);
	ck_assert_uint_lt(i, 1000);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("ring_wait");
	TCase *t = tcase_create("ring_wait");
	SRunner *sr;
	int bad;

	suite_add_tcase(s, t);
	tcase_set_timeout(t, 170);
	tcase_add_loop_test(t, pingpong, 0, 3);
	tcase_add_loop_test(t, stream, 0, 4);
	tcase_add_test(t, hostile);
	tcase_add_test(t, window);
	sr = srunner_create(s);
	srunner_set_fork_status(sr, CK_FORK);
	srunner_run_all(sr, CK_VERBOSE);
	bad = srunner_ntests_failed(sr);
	srunner_free(sr);
	return bad != 0;
}
