/* A session between two agents: what arrives is what was sent, or nothing is. */
#include "secure.h"
#include <check.h>
#include <sodium.h>
#include <string.h>

#define MUST(c) do { if (!(c)) ck_abort_msg("%s", #c); } while (0)

static const uint8_t cluster[32] = "the cluster key of a test, 32 b";
static const uint8_t host_a[16] = "host a", host_b[16] = "host b";

struct pair {
	struct secure a, b;			/* a connected to b */
	uint8_t kx_a[KX_LEN], kx_b[KX_LEN], head_a[STREAM_HEAD], head_b[STREAM_HEAD];
	struct msg of_a, of_b;
};

static void begin(struct pair *p)
{
	secure_begin(&p->a, true, cluster, host_a, 1000, p->kx_a);
	secure_begin(&p->b, false, cluster, host_b, 2000, p->kx_b);
}

static void met(struct pair *p)
{
	begin(p);
	MUST(secure_kx(&p->a, p->kx_b, KX_LEN, &p->of_b, p->head_a) == WIRE_OK);
	MUST(secure_kx(&p->b, p->kx_a, KX_LEN, &p->of_a, p->head_b) == WIRE_OK);
}

static void up(struct pair *p)
{
	met(p);
	MUST(secure_head(&p->a, p->head_b));
	MUST(secure_head(&p->b, p->head_a));
}

static void fill(uint8_t *buf, size_t n, uint8_t seed)
{
	while (n--)
		*buf++ = seed += 29;
}

/* Sends one text; true: it came as it was. */
static bool passes(struct secure *from, struct secure *to, size_t n)
{
	static uint8_t text[FRAME_TEXT], frame[FRAME_MAX], out[FRAME_TEXT];
	size_t len;

	fill(text, n, (uint8_t)n);
	len = secure_seal(from, text, n, frame);
	MUST(len == n + 19 && secure_frame_len(frame) == len);
	return secure_open(to, frame, len, out) == (long)n && !memcmp(text, out, n);
}

START_TEST(round_trip)
{
	struct pair p;
	size_t n;

	up(&p);
	ck_assert_mem_eq(p.of_a.host, host_a, 16);
	ck_assert_mem_eq(p.of_b.host, host_b, 16);
	ck_assert_uint_eq(p.of_a.port, 1000);
	ck_assert_uint_eq(p.of_b.port, 2000);
	for (n = 1; n < 600; n++) {
		MUST(passes(&p.a, &p.b, n));
		MUST(passes(&p.b, &p.a, n));
	}
	MUST(passes(&p.a, &p.b, FRAME_TEXT));
	MUST(passes(&p.b, &p.a, FRAME_TEXT));
	MUST(passes(&p.a, &p.b, 1));
}
END_TEST

/* Nothing in the clear, and the same text twice is two frames. */
START_TEST(secret)
{
	static const uint8_t text[] = "the quick brown fox jumps over the lazy dog";
	uint8_t one[128], two[128];
	struct pair p;
	size_t n;

	up(&p);
	n = secure_seal(&p.a, text, sizeof(text), one);
	MUST(secure_seal(&p.a, text, sizeof(text), two) == n);
	ck_assert_ptr_null(memmem(one, n, text, 4));
	MUST(memcmp(one + 2, two + 2, n - 2));
	/* the secrets that are no longer needed are gone */
	MUST(sodium_is_zero(p.a.sk, sizeof(p.a.sk)) && sodium_is_zero(p.a.cluster, sizeof(p.a.cluster)));
	secure_wipe(&p.a);
	MUST(sodium_is_zero((const uint8_t *)&p.a, sizeof(p.a)));
}
END_TEST

START_TEST(kx_flipped)
{
	uint8_t head[STREAM_HEAD];
	struct secure b;
	struct pair p;
	struct msg m;
	size_t k;
	int bit;

	begin(&p);
	for (k = 0; k < KX_LEN; k++)
		for (bit = 0; bit < 8; bit++) {
			b = p.b;
			p.kx_a[k] ^= (uint8_t)(1 << bit);
			MUST(secure_kx(&b, p.kx_a, KX_LEN, &m, head) != WIRE_OK);
			MUST(!b.open && !m.type);
			p.kx_a[k] ^= (uint8_t)(1 << bit);
		}
	for (k = 0; k < KX_LEN; k++) {
		b = p.b;
		MUST(secure_kx(&b, p.kx_a, k, &m, head) == WIRE_SHORT);
	}
	MUST(secure_kx(&p.b, p.kx_a, KX_LEN, &m, head) == WIRE_OK);
}
END_TEST

START_TEST(another_cluster)
{
	uint8_t other[32], kx[KX_LEN], head[STREAM_HEAD];
	struct secure c;
	struct pair p;
	struct msg m;

	begin(&p);
	memcpy(other, cluster, 32);
	other[31] ^= 1;
	secure_begin(&c, true, other, host_a, 1, kx);
	ck_assert_int_eq(secure_kx(&p.b, kx, KX_LEN, &m, head), WIRE_FORGED);
	ck_assert_int_eq(secure_kx(&c, p.kx_b, KX_LEN, &m, head), WIRE_FORGED);
}
END_TEST

/* A message of another type is no KX, even with a right MAC. */
START_TEST(another_type)
{
	struct msg m = { .type = MSG_HERE, .nonce = 1 };
	uint8_t buf[WIRE_MAX], head[STREAM_HEAD];
	struct pair p;

	begin(&p);
	ck_assert_int_eq(secure_kx(&p.b, buf, wire_encode(&m, cluster, buf), &m, head), WIRE_TYPE);
}
END_TEST

static size_t kx_with(uint8_t *buf, const uint8_t key[32])
{
	struct msg m = { .type = MSG_KX, .nonce = 77 };

	memcpy(m.key, key, 32);
	return wire_encode(&m, cluster, buf);
}

START_TEST(mirror)
{
	uint8_t head[STREAM_HEAD], buf[WIRE_MAX];
	struct pair p;
	struct msg m;

	begin(&p);
	ck_assert_int_eq(secure_kx(&p.a, p.kx_a, KX_LEN, &m, head), WIRE_FORGED);
	ck_assert_int_eq(secure_kx(&p.b, p.kx_b, KX_LEN, &m, head), WIRE_FORGED);
	/* our public key in a KX of its own */
	ck_assert_int_eq(secure_kx(&p.a, buf, kx_with(buf, p.a.pk), &m, head), WIRE_FORGED);
	/* a session goes on after it has begun: no second KX */
	met(&p);
	ck_assert_int_eq(secure_kx(&p.a, p.kx_b, KX_LEN, &m, head), WIRE_FORGED);
}
END_TEST

/* Frames sent back to their sender do not open: each direction has its key. */
START_TEST(frame_mirror)
{
	uint8_t frame[64], out[64];
	struct pair p;
	size_t n;

	met(&p);
	MUST(secure_head(&p.a, p.head_a));
	n = secure_seal(&p.a, (const uint8_t *)"hello", 5, frame);
	ck_assert_int_eq(secure_open(&p.a, frame, n, out), -1);
	/* both sides as the client: no session either */
	secure_begin(&p.a, true, cluster, host_a, 1, p.kx_a);
	secure_begin(&p.b, true, cluster, host_b, 2, p.kx_b);
	MUST(secure_kx(&p.a, p.kx_b, KX_LEN, &p.of_b, p.head_a) == WIRE_OK);
	MUST(secure_kx(&p.b, p.kx_a, KX_LEN, &p.of_a, p.head_b) == WIRE_OK);
	MUST(secure_head(&p.b, p.head_a));
	n = secure_seal(&p.a, (const uint8_t *)"hello", 5, frame);
	ck_assert_int_eq(secure_open(&p.b, frame, n, out), -1);
}
END_TEST

START_TEST(weak_key)
{
	static const uint8_t zero[32], one[32] = { 1 };
	uint8_t head[STREAM_HEAD], buf[WIRE_MAX];
	struct pair p;
	struct msg m;

	begin(&p);
	ck_assert_int_eq(secure_kx(&p.b, buf, kx_with(buf, zero), &m, head), WIRE_FORGED);
	ck_assert_int_eq(secure_kx(&p.b, buf, kx_with(buf, one), &m, head), WIRE_FORGED);
}
END_TEST

/* Who sends a recorded KX again has no key for what follows. */
START_TEST(kx_again)
{
	uint8_t frame[64], out[64];
	struct pair p, q;
	size_t n;

	up(&p);
	n = secure_seal(&p.a, (const uint8_t *)"hello", 5, frame);
	begin(&q);
	MUST(secure_kx(&q.b, p.kx_a, KX_LEN, &q.of_a, q.head_b) == WIRE_OK);
	MUST(secure_head(&q.b, p.head_a));
	ck_assert_int_eq(secure_open(&q.b, frame, n, out), -1);
}
END_TEST

START_TEST(head_flipped)
{
	uint8_t frame[64], out[64];
	struct secure b;
	struct pair p;
	size_t n, k;
	int bit;

	met(&p);
	n = secure_seal(&p.a, (const uint8_t *)"hello", 5, frame);
	for (k = 0; k < STREAM_HEAD; k++)
		for (bit = 0; bit < 8; bit++) {
			b = p.b;
			p.head_a[k] ^= (uint8_t)(1 << bit);
			MUST(!secure_head(&b, p.head_a) || secure_open(&b, frame, n, out) == -1);
			p.head_a[k] ^= (uint8_t)(1 << bit);
		}
	MUST(secure_head(&p.b, p.head_a));
	MUST(!secure_head(&p.b, p.head_a));
	MUST(secure_open(&p.b, frame, n, out) == 5);
}
END_TEST

START_TEST(frame_flipped)
{
	uint8_t text[40], frame[64], out[FRAME_TEXT];
	struct secure b;
	struct pair p;
	size_t n, k;
	int bit;

	up(&p);
	fill(text, sizeof(text), 1);
	n = secure_seal(&p.a, text, sizeof(text), frame);
	for (k = 0; k < n; k++)
		for (bit = 0; bit < 8; bit++) {
			b = p.b;
			frame[k] ^= (uint8_t)(1 << bit);
			MUST(secure_open(&b, frame, n, out) == -1);
			frame[k] ^= (uint8_t)(1 << bit);
			/* and it stays over, whatever comes */
			MUST(secure_open(&b, frame, n, out) == -1 && !b.open);
		}
	MUST(secure_open(&p.b, frame, n, out) == (long)sizeof(text));
}
END_TEST

/* Cut, also with the length made to fit; one byte moved from one frame to the next. */
START_TEST(frame_cut)
{
	uint8_t text[40], frame[128], cut[128], out[FRAME_TEXT];
	struct secure b;
	struct pair p;
	size_t n, k;

	up(&p);
	fill(text, sizeof(text), 1);
	n = secure_seal(&p.a, text, sizeof(text), frame);
	for (k = 0; k < n; k++) {
		b = p.b;
		MUST(secure_open(&b, frame, k, out) == -1);
		if (k < 2)
			continue;
		b = p.b;
		memcpy(cut, frame, k);
		cut[0] = (uint8_t)(k - 2);
		MUST(secure_open(&b, cut, k, out) == -1);
	}
	b = p.b;
	MUST(secure_open(&b, frame, n + 1, out) == -1);
	b = p.b;
	frame[0]++;
	MUST(secure_open(&b, frame, n + 1, out) == -1);
}
END_TEST

START_TEST(order)
{
	uint8_t frame[3][64], out[64];
	struct secure b;
	struct pair p;
	size_t n = 0, i;

	up(&p);
	for (i = 0; i < 3; i++)
		n = secure_seal(&p.a, (const uint8_t *)"abc" + i, 1, frame[i]);
	b = p.b;	/* again */
	MUST(secure_open(&b, frame[0], n, out) == 1);
	MUST(secure_open(&b, frame[0], n, out) == -1);
	b = p.b;	/* swapped */
	MUST(secure_open(&b, frame[1], n, out) == -1);
	b = p.b;	/* one left out */
	MUST(secure_open(&b, frame[0], n, out) == 1);
	MUST(secure_open(&b, frame[2], n, out) == -1);
	for (i = 0; i < 3; i++)
		MUST(secure_open(&p.b, frame[i], n, out) == 1 && out[0] == "abc"[i]);
}
END_TEST

START_TEST(lengths)
{
	unsigned int i, want;
	uint8_t two[2];

	for (i = 0; i < 65536; i++) {
		two[0] = (uint8_t)i;
		two[1] = (uint8_t)(i >> 8);
		want = i >= 18 && i <= 32768 + 256 ? i + 2 : 0;
		MUST(secure_frame_len(two) == want);
	}
	MUST(FRAME_MAX == 32768 + 256 + 2);
}
END_TEST

/* Before the keys are there nothing can be sent or read. */
START_TEST(too_early)
{
	static uint8_t text[FRAME_TEXT + 1], frame[FRAME_MAX + 1];
	struct pair p;

	begin(&p);
	MUST(!secure_seal(&p.a, text, 5, frame));
	MUST(!secure_head(&p.a, frame));
	MUST(secure_open(&p.a, frame, 24, text) == -1);
	met(&p);
	MUST(secure_open(&p.a, frame, 24, text) == -1);
	MUST(!secure_seal(&p.a, text, 0, frame));
	MUST(!secure_seal(&p.a, text, FRAME_TEXT + 1, frame));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("secure");
	TCase *t = tcase_create("secure");
	SRunner *sr;
	int bad;

	suite_add_tcase(s, t);
	tcase_set_timeout(t, 60);
	tcase_add_test(t, round_trip);
	tcase_add_test(t, secret);
	tcase_add_test(t, kx_flipped);
	tcase_add_test(t, another_cluster);
	tcase_add_test(t, another_type);
	tcase_add_test(t, mirror);
	tcase_add_test(t, frame_mirror);
	tcase_add_test(t, weak_key);
	tcase_add_test(t, kx_again);
	tcase_add_test(t, head_flipped);
	tcase_add_test(t, frame_flipped);
	tcase_add_test(t, frame_cut);
	tcase_add_test(t, order);
	tcase_add_test(t, lengths);
	tcase_add_test(t, too_early);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	bad = srunner_ntests_failed(sr);
	srunner_free(sr);
	return bad != 0;
}
