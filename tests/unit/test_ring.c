/* The ring as a stream, against a stream that is a function of its offset; and who is told to wake whom. */
#include "ring_world.h"
#include "seed.h"
#include <check.h>
#include <string.h>

#define MUST(c) do { if (!(c)) ck_abort_msg("%s", #c); } while (0)

static uint8_t buf[1 << 17], got[1 << 17];
static struct world w;
static uint32_t call;

static const uint64_t starts[] = {
	0, 1, 4095, 4096, UINT32_MAX - 3000, UINT64_C(1) << 32, (UINT64_C(1) << 58) - 2000,
	RING_OFF_MAX - 100000, (UINT64_C(1) << 63) - 2000,
};

/* Every offset of a small ring, messages of every kind of length, both providers. */
START_TEST(wraps)
{
	static const size_t len[] = { 1, 7, 8, 9, 16, 17, 32, 33, 47, 48, 49, 64, 65, 100, 1000, 4095, 4096 };
	bool direct = _i & 1;
	uint64_t at;
	size_t i;

	for (at = 0; at < 4096; at += direct ? 1 : 13) {
		world_make(&w, 4096, direct, at, 77);
		for (i = 0; i < ARRAY_SIZE(len); i++) {
			uint64_t off = w.e[0].tail;

			stream_fill(buf, off, len[i]);
			MUST(ring_put(&w.r[0], buf, len[i], &call) == (long)len[i]);
			MUST(ring_avail(&w.r[1]) == (long)len[i]);
			MUST(ring_get(&w.r[1], got, sizeof(got), &call) == (long)len[i]);
			MUST(stream_is(got, off, len[i]));
			MUST(ring_get(&w.r[1], got, 1, &call) == 0);
		}
		world_free(&w);
	}
}
END_TEST

static uint64_t vector(uint64_t *rng, struct iovec *v, int *cnt, uint8_t *mem, size_t max)
{
	size_t total = 0, n;

	for (*cnt = 0; *cnt < 5; ++*cnt) {
		n = seed_below(rng, 3) ? seed_below(rng, 70) : seed_below(rng, (uint32_t)max / 5);
		v[*cnt] = (struct iovec){ mem + total, n };
		total += n;
	}
	return total;
}

/* What the sender could still send again is what the receiver has not read, or more by less than a quarter. */
static void replay_agrees(struct ring *s, uint64_t rx, uint32_t size)
{
	uint64_t off, lost;
	const uint8_t *p;
	size_t n;

	ring_room(s);
	off = s->end->head;
	MUST(off <= rx && rx - off < size / 4);
	for (lost = s->end->tail - off; lost; lost -= n, off += n) {
		n = ring_unread(s, off, &p);
		MUST(n && n <= lost && p >= s->out->data && p + n <= s->out->data + size);
		MUST(stream_is(p, off, n));
	}
	MUST(ring_unread(s, off, &p) == 0);
	MUST(ring_unread(s, s->end->head - 1, &p) == 0);
}

START_TEST(model)
{
	uint64_t seed = seed_env("ROAM_SEED", 1) + (uint64_t)_i, rng = seed, tail[2], head[2];
	uint32_t size = RING_MIN << seed_below(&rng, 4), runs = (uint32_t)seed_env("ROAM_RUNS", 20000);
	uint64_t at = starts[seed_below(&rng, ARRAY_SIZE(starts))];
	struct iovec v[5];
	size_t n;
	long k;
	int side, cnt;

	world_make(&w, size, _i & 1, at, at / 2);
	tail[0] = head[1] = at;		/* head[x]: what x reads */
	tail[1] = head[0] = at / 2;
	while (runs--) {
		side = (int)seed_below(&rng, 2);
		n = seed_below(&rng, 2) ? seed_below(&rng, 60) : seed_below(&rng, size + 100);
		switch (seed_below(&rng, 7)) {
		case 0:
		case 1:
			stream_fill(buf, tail[side], n);
			k = ring_put(&w.r[side], buf, n, &call);
			MUST(k >= 0 && k <= (long)n);
			MUST(k == (long)n || tail[side] + (uint64_t)k - head[!side] > size - size / 4);
			tail[side] += (uint64_t)k;
			break;
		case 2:
			n = vector(&rng, v, &cnt, buf, size);
			stream_fill(buf, tail[side], n);
			k = ring_putv(&w.r[side], v, cnt, &call);
			MUST(k >= 0 && k <= (long)n);
			tail[side] += (uint64_t)k;
			break;
		case 3:
			n = vector(&rng, v, &cnt, got, size);
			k = ring_getv(&w.r[side], v, cnt, &call);
			MUST(k == (long)(n < tail[!side] - head[side] ? n : tail[!side] - head[side]));
			MUST(stream_is(got, head[side], (size_t)k));
			head[side] += (uint64_t)k;
			break;
		case 4:
			MUST(ring_avail(&w.r[side]) == (long)(tail[!side] - head[side]));
			k = ring_peek(&w.r[side], n / 2, got, n);
			MUST(k >= 0 && stream_is(got, head[side] + n / 2, (size_t)k));
			if (n & 1)
				break;
			k = ring_skip(&w.r[side], n / 3, &call);
			head[side] += (uint64_t)k;
			replay_agrees(&w.r[!side], head[side], size);
			break;
		default:
			k = ring_get(&w.r[side], got, n, &call);
			MUST(k == (long)(n < tail[!side] - head[side] ? n : tail[!side] - head[side]));
			MUST(stream_is(got, head[side], (size_t)k));
			head[side] += (uint64_t)k;
		}
		MUST(!w.e[0].broken && !w.e[1].broken);
	}
	ck_assert_msg(!call, "nobody sleeps, seed %llu", (unsigned long long)seed);
	world_free(&w);
}
END_TEST

START_TEST(full_and_empty)
{
	world_make(&w, 4096, _i & 1, 5, 9);
	memset(buf, 1, sizeof(buf));
	ck_assert_int_eq(ring_get(&w.r[0], got, 8, &call), 0);
	ck_assert_int_eq(ring_put(&w.r[0], buf, 0, &call), 0);
	ck_assert_int_eq(ring_get(&w.r[1], got, 0, &call), 0);
	ck_assert_int_eq(ring_put(&w.r[0], buf, 5000, &call), 4096);
	ck_assert_int_eq(ring_room(&w.r[0]), 0);
	ck_assert_int_eq(ring_put(&w.r[0], buf, 1, &call), 0);
	/* credit comes a quarter at a time */
	ck_assert_int_eq(ring_get(&w.r[1], got, 1000, &call), 1000);
	ck_assert_int_eq(ring_room(&w.r[0]), 0);
	ck_assert_int_eq(ring_get(&w.r[1], got, 24, &call), 24);
	ck_assert_int_eq(ring_room(&w.r[0]), 1024);
	ck_assert_int_eq(ring_put(&w.r[0], buf, 5000, &call), 1024);
	ck_assert_int_eq(ring_get(&w.r[1], got, 5000, &call), 4096);
	ck_assert_int_eq(ring_get(&w.r[1], got, 5000, &call), 0);
	ck_assert_int_eq(ring_room(&w.r[0]), 4096);
	ck_assert_uint_eq(call, 0);
	world_free(&w);
}
END_TEST

/* A request of every small length, taken in two reads, and an answer: the producer line is used. */
START_TEST(small)
{
	uint64_t x = 0;
	size_t n, cut;

	world_make(&w, 4096, _i & 1, 0, 0);
	for (n = 1; n <= RING_INLINE + 2; n++)
		for (cut = 1; cut <= n; cut++, x += n) {
			stream_fill(buf, x, n);
			for (int side = 0; side < 2; side++) {
				MUST(ring_put(&w.r[side], buf, n, &call) == (long)n);
				if (x && n <= RING_INLINE && w.r[0].direct)
					MUST(w.r[!side].in->mark == ((x + n) << 6 | n));
				MUST(ring_get(&w.r[!side], got, cut, &call) == (long)cut);
				MUST(n == cut || ring_get(&w.r[!side], got + cut, 99, &call) == (long)(n - cut));
				MUST(stream_is(got, x, n));
			}
		}
	world_free(&w);
}
END_TEST

static uint32_t put1(int side)
{
	uint32_t c = 0;

	ck_assert_int_eq(ring_put(&w.r[side], "x", 1, &c), 1);
	return c;
}

/* Who is woken, and how often. */
START_TEST(told)
{
	struct ring *s, *d;
	struct ring_ticket a, b, c;
	uint32_t was;

	world_make(&w, 4096, true, 0, 0);
	s = &w.r[0], d = &w.r[1];
	ck_assert_uint_eq(put1(0), 0);
	ck_assert(!ring_arm(d, RING_RX, RING_FUTEX, &a));	/* there is something */
	ck_assert_int_eq(ring_get(d, got, 9, &call), 1);
	ck_assert_uint_eq(put1(0), 0);			/* and nothing was left armed */
	ck_assert_int_eq(ring_get(d, got, 9, &call), 1);

	ck_assert(ring_arm(d, RING_RX, RING_FUTEX, &a));
	ck_assert_uint_eq(put1(0), RING_WAKE_RX);
	ck_assert_uint_ne(d->in->rx_bell, a.bell);	/* too late for the futex? it finds the bell changed */
	ck_assert_uint_eq(put1(0), 0);			/* once */
	ring_disarm(d, RING_RX, &a);
	ck_assert_int_eq(ring_get(d, got, 9, &call), 2);

	ck_assert(ring_arm(d, RING_RX, RING_POLL, &a));
	was = d->out->rx_state;
	ck_assert(ring_arm(d, RING_RX, RING_POLL, &b));	/* still armed: no new word */
	ck_assert_uint_eq(d->end->rx_sleep.state, was);
	ck_assert_uint_eq(put1(0), RING_DOORBELL);
	ck_assert_uint_eq(put1(0), 0);
	ck_assert(!ring_arm(d, RING_RX, RING_POLL, &b));
	ck_assert_uint_eq(put1(0), 0);
	ck_assert_int_eq(ring_get(d, got, 9, &call), 3);

	/* two kinds, one woken by time: the other is still rung for */
	ck_assert(ring_arm(d, RING_RX, RING_POLL, &a));
	ck_assert(ring_arm(d, RING_RX, RING_FUTEX, &b));
	ck_assert(ring_arm(d, RING_RX, RING_FUTEX, &c));
	ring_disarm(d, RING_RX, &b);
	ck_assert_uint_eq(put1(0), RING_DOORBELL | RING_WAKE_RX);
	/* a new sleeper is not hurt by a late disarm of an old one */
	ck_assert_int_eq(ring_get(d, got, 9, &call), 1);
	ck_assert(ring_arm(d, RING_RX, RING_FUTEX, &a));
	ring_disarm(d, RING_RX, &c);
	ck_assert_uint_eq(put1(0), RING_WAKE_RX);
	ck_assert_int_eq(ring_get(d, got, 9, &call), 1);
	/* disarmed by all: silence; a poller stays, until it is let go */
	ck_assert(ring_arm(d, RING_RX, RING_FUTEX, &a));
	ring_disarm(d, RING_RX, &a);
	ck_assert_uint_eq(put1(0), 0);
	ck_assert_int_eq(ring_get(d, got, 9, &call), 1);
	ck_assert(ring_arm(d, RING_RX, RING_POLL, &a));
	ck_assert(ring_arm(d, RING_RX, RING_FUTEX, &b));
	ring_disarm(d, RING_RX, &b);
	ring_unpoll(d, RING_RX);
	ck_assert_uint_eq(put1(0), 0);

	/* a killed sender's successor wakes once more */
	ck_assert_int_eq(ring_get(d, got, 9, &call), 1);
	ck_assert(ring_arm(d, RING_RX, RING_FUTEX, &a));
	ck_assert_uint_eq(put1(0), RING_WAKE_RX);
	call = 0;
	ring_mend_tx(s, &call);
	ck_assert_uint_eq(call, RING_WAKE_RX);

	/* room */
	call = 0;
	ck_assert_int_eq(ring_put(s, buf, 5000, &call), 4095);
	ck_assert(ring_arm(s, RING_TX, RING_FUTEX, &a));
	ck_assert_int_eq(ring_get(d, got, 1023, &call), 1023);
	ck_assert_uint_eq(call, 0);			/* not worth a wake-up */
	ck_assert_int_eq(ring_get(d, got, 8, &call), 8);
	ck_assert_uint_eq(call, RING_WAKE_TX);
	ring_disarm(s, RING_TX, &a);
	ck_assert(!ring_arm(s, RING_TX, RING_POLL, &a));
	ck_assert_int_eq(ring_put(s, buf, 5000, &call), 1031);
	ck_assert(ring_arm(s, RING_TX, RING_POLL, &a));
	call = 0;
	ck_assert_int_eq(ring_get(d, got, 4096, &call), 4096);
	ck_assert_uint_eq(call, RING_DOORBELL);
	world_free(&w);
}
END_TEST

/* The barrier is paid for by the first sleep only; a long time awake gives the light word back. */
START_TEST(light)
{
	struct ring_ticket t;
	int i;

	world_make(&w, 4096, true, 0, 0);
	if (!w.p[0].joined)
		return;			/* this kernel has no membarrier */
	for (i = 0; i < 5; i++) {
		ck_assert(ring_arm(&w.r[1], RING_RX, RING_FUTEX, &t));
		ck_assert(!t.unsure);
		ck_assert_uint_eq(put1(0), RING_WAKE_RX);
		ck_assert_int_eq(ring_get(&w.r[1], got, 9, &call), 1);
	}
	ck_assert_uint_eq(w.barriers, 1);
	for (i = 0; i < 300; i++) {
		ck_assert_uint_eq(put1(0), 0);
		ck_assert_int_eq(ring_get(&w.r[1], got, 9, &call), 1);
	}
	ck_assert(w.r[0].in->rx_state & RING_LIGHT);
	ck_assert(ring_arm(&w.r[1], RING_RX, RING_FUTEX, &t));
	ck_assert_uint_eq(w.barriers, 2);
	ck_assert_uint_eq(put1(0), RING_WAKE_RX);
	world_free(&w);
}
END_TEST

/* Every impossible tail and head breaks the ring for good, in both directions; the possible ones do not. */
START_TEST(lies)
{
	static const uint64_t bad[] = { 1, 4096 + 1, 1 << 20, UINT64_MAX / 2, UINT64_MAX, 0 };
	uint64_t at = 100000;
	size_t i;

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		world_make(&w, 4096, true, at, at);
		put1(0);
		ck_assert_int_eq(ring_avail(&w.r[1]), 1);
		/* one back, or beyond the ring; UINT64_MAX: one before */
		w.r[1].in->tail = bad[i] == 1 ? at : at + bad[i];
		ck_assert_int_eq(ring_avail(&w.r[1]), RING_BROKEN);
		ck_assert_uint_eq(w.e[1].broken, RING_BAD_TAIL);
		w.r[1].in->tail = at + 1;
		ck_assert_int_eq(ring_get(&w.r[1], got, 9, &call), RING_BROKEN);
		ck_assert_int_eq(ring_put(&w.r[1], got, 9, &call), RING_BROKEN);
		ck_assert_int_eq(ring_put(&w.r[1], buf, 900, &call), RING_BROKEN);
		ck_assert_int_eq(ring_peek(&w.r[1], 0, got, 9), RING_BROKEN);
		ck_assert(ring_look(&w.r[1], RING_RX) && ring_look(&w.r[1], RING_TX));
		world_free(&w);

		world_make(&w, 4096, true, at, at);
		ck_assert_int_eq(ring_put(&w.r[0], buf, 500, &call), 500);
		w.r[0].in->head = bad[i] == 1 ? at + 501 : bad[i] == 0 ? at - 1 : at + bad[i];
		ck_assert_int_eq(ring_room(&w.r[0]), RING_BROKEN);
		ck_assert_uint_eq(w.e[0].broken, RING_BAD_HEAD);
		ck_assert_int_eq(ring_get(&w.r[0], got, 9, &call), RING_BROKEN);
		world_free(&w);
	}
	world_make(&w, 4096, true, at, at);
	w.r[1].in->tail = at + 4096;		/* as far as can be */
	ck_assert_int_eq(ring_get(&w.r[1], got, 9999, &call), 4096);
	w.r[1].in->mark = UINT64_MAX;		/* nonsense in the producer line: the ring's bytes count */
	w.r[1].in->tail = at + 4100;
	ck_assert_int_eq(ring_get(&w.r[1], got, 9999, &call), 4);
	world_free(&w);
}
END_TEST

START_TEST(link_dies)
{
	world_make(&w, 4096, false, 0, 0);
	put1(0);
	ck_assert(w.notifies && w.puts > w.notifies);
	w.dead = true;
	ck_assert_int_eq(ring_put(&w.r[0], "abc", 3, &call), 3);	/* gone into the mirror, as into a socket */
	ck_assert_int_eq(ring_put(&w.r[0], "abc", 3, &call), RING_BROKEN);
	ck_assert_int_eq(ring_avail(&w.r[1]), RING_BROKEN);
	ck_assert_uint_eq(w.e[1].broken, RING_LINK_DEAD);
	world_free(&w);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("ring");
	TCase *t = tcase_create("ring");
	SRunner *sr;
	int bad;

	suite_add_tcase(s, t);
	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, wraps, 0, 2);
	tcase_add_loop_test(t, model, 0, 20);
	tcase_add_loop_test(t, full_and_empty, 0, 2);
	tcase_add_loop_test(t, small, 0, 2);
	tcase_add_test(t, told);
	tcase_add_test(t, light);
	tcase_add_test(t, lies);
	tcase_add_test(t, link_dies);
	sr = srunner_create(s);
	srunner_set_fork_status(sr, CK_FORK);
	srunner_run_all(sr, CK_NORMAL);
	bad = srunner_ntests_failed(sr);
	srunner_free(sr);
	return bad != 0;
}
