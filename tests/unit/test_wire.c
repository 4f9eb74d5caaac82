/*
 * The wire format: golden bytes, and nothing but the exact bytes gets through.
 * `test_wire --golden DIR` writes the golden files: a changed one is a new
 * protocol version.
 */
#include "wire.h"
#include "seed.h"
#include <check.h>
#include <string.h>

/* check's own assertions tell the parent about every success: too slow for a hot loop */
#define MUST(c) do { if (!(c)) ck_abort_msg("%s", #c); } while (0)

static const uint8_t types[] = {
#define MSG(name, nr, keyed, fields) nr,
#include "wire.def"
#undef MSG
};

static const uint8_t key[WIRE_KEY] = "the key of a test, 32 bytes long";

/* Every field has bytes of its own, so that a swapped pair shows. */
static struct msg sample(uint8_t type)
{
	struct msg m = {
		.type = type, .flags = 0x01, .family = 6, .oport = 0x1234, .aport = 0x5678,
		.epoch = 0x9abcdef0, .reason = 0x11223344, .pid = 0x55667788,
		.nonce = 0x0102030405060708, .netns = 0x1112131415161718,
		.start = 0x2122232425262728, .attempt = 0x3132333435363738,
		.rx_off = 0x4142434445464748, .unread = 0x5152535455565758,
		.tx_end = 0x6162636465666768, .gen = 0x7172737475767778,
		.fin = 0x8182838485868788, .count = 0x9192939495969798, .op = 0x5a, .port = 0x9abc,
		.rate = 0xa1a2a3a4a5a6a7a8, .took = 0xb1b2b3b4b5b6b7b8, .rtt_us = 0x99aabbcc,
		.age_ms = 0xddeeff01, .confidence = 0x3c,
	};
	int i;

	for (i = 0; i < 16; i++) {
		m.gid[i] = (uint8_t)(0x80 + i);
		m.oaddr[i] = (uint8_t)(0x90 + i);
		m.aaddr[i] = (uint8_t)(0xa0 + i);
		m.addr[i] = (uint8_t)(0xb0 + i);
		m.host[i] = (uint8_t)(0x20 + i);
		m.svc[i] = (uint8_t)(0x30 + i);
	}
	for (i = 0; i < WIRE_KEY; i++)
		m.key[i] = (uint8_t)(0xc0 + i);
	return m;
}

static void path_of(char *buf, size_t n, const char *dir, uint8_t type)
{
	snprintf(buf, n, "%s/%s.hex", dir, wire_name(type));
}

static int write_golden(const char *dir)
{
	uint8_t buf[WIRE_MAX];
	char path[4096];
	struct msg m;
	size_t i, k, n;
	FILE *f;

	for (i = 0; i < ARRAY_SIZE(types); i++) {
		m = sample(types[i]);
		n = wire_encode(&m, key, buf);
		path_of(path, sizeof(path), dir, types[i]);
		f = fopen(path, "w");
		if (!f) {
			perror(path);
			return 1;
		}
		for (k = 0; k < n; k++)
			fprintf(f, "%02x%c", buf[k], k % 16 == 15 || k == n - 1 ? '\n' : ' ');
		fclose(f);
	}
	return 0;
}

static size_t read_golden(uint8_t type, uint8_t *buf)
{
	char path[4096];
	unsigned int b;
	size_t n = 0;
	FILE *f;

	path_of(path, sizeof(path), GOLDEN_DIR, type);
	f = fopen(path, "r");
	if (!f)
		ck_abort_msg("%s is missing", path);
	while (n < WIRE_MAX && fscanf(f, "%x", &b) == 1)
		buf[n++] = (uint8_t)b;
	fclose(f);
	return n;
}

START_TEST(golden)
{
	uint8_t type = types[_i], want[WIRE_MAX], got[WIRE_MAX], again[WIRE_MAX];
	struct msg m = sample(type), back;
	size_t n = read_golden(type, want);

	ck_assert_uint_eq(wire_encode(&m, key, got), n);
	ck_assert_mem_eq(got, want, n);
	ck_assert_int_eq(wire_decode(&back, key, want, n), WIRE_OK);
	ck_assert_uint_eq(back.type, type);
	/* what was decoded says the same again: no field is lost or invented */
	ck_assert_uint_eq(wire_encode(&back, key, again), n);
	ck_assert_mem_eq(again, want, n);
	/* without the key it can be read all the same, to learn whose it is */
	ck_assert_int_eq(wire_decode(&m, NULL, want, n), WIRE_OK);
	ck_assert_mem_eq(&m, &back, sizeof(m));
}
END_TEST

/* A field that the message does not carry stays 0, one that it carries comes back. */
START_TEST(fields)
{
	struct msg in = sample(types[_i]), m, zero;
	uint8_t buf[WIRE_MAX];
	size_t n = wire_encode(&in, key, buf);

	memset(&zero, 0, sizeof(zero));
	ck_assert_int_eq(wire_decode(&m, key, buf, n), WIRE_OK);
#define SAME(f) if (has_##f) ck_assert_mem_eq(&m.f, &in.f, sizeof(m.f)); \
		else ck_assert_mem_eq(&m.f, &zero.f, sizeof(m.f));
#define ALL(X) X(flags) X(family) X(oport) X(aport) X(epoch) X(reason) X(pid) X(nonce) X(netns) \
	X(start) X(attempt) X(rx_off) X(unread) X(tx_end) X(gen) X(gid) X(oaddr) X(aaddr) X(key) \
	X(op) X(port) X(fin) X(count) X(addr) X(host) X(svc) \
	X(rate) X(took) X(rtt_us) X(age_ms) X(confidence)
#define VAR(f) bool has_##f = false;
	ALL(VAR)
	switch (types[_i]) {
#define U8(f)	has_##f = true;
#define U16(f)	has_##f = true;
#define U32(f)	has_##f = true;
#define U64(f)	has_##f = true;
#define B16(f)	has_##f = true;
#define B32(f)	has_##f = true;
#define MSG(name, nr, keyed, list) case nr: list break;
#include "wire.def"
#undef MSG
	}
	ALL(SAME)
}
END_TEST

START_TEST(cut_and_stretched)
{
	struct msg in = sample(types[_i]), m;
	uint8_t buf[2 * WIRE_MAX] = { 0 };
	size_t n = wire_encode(&in, key, buf), k;

	for (k = 0; k < n; k++) {
		MUST(wire_decode(&m, key, buf, k) == WIRE_SHORT);
		MUST(wire_decode(&m, NULL, buf, k) == WIRE_SHORT);
		MUST(m.type == 0);
		/* the length in the header cut along */
		buf[6] = (uint8_t)k;
		MUST(wire_decode(&m, NULL, buf, k) != WIRE_OK);
		MUST(wire_decode(&m, NULL, buf, n) != WIRE_OK);
		buf[6] = (uint8_t)n;
	}
	for (k = n + 1; k < sizeof(buf); k++) {
		MUST(wire_decode(&m, key, buf, k) == WIRE_LONG);
		MUST(wire_decode(&m, NULL, buf, k) == WIRE_LONG);
	}
}
END_TEST

START_TEST(flipped)
{
	struct msg in = sample(types[_i]), m;
	uint8_t buf[WIRE_MAX], other[WIRE_KEY];
	size_t n = wire_encode(&in, key, buf), k;
	enum wire_error e;
	int bit;

	for (k = 0; k < n; k++)
		for (bit = 0; bit < 8; bit++) {
			buf[k] ^= (uint8_t)(1 << bit);
			e = wire_decode(&m, key, buf, n);
			if (wire_keyed(types[_i]) || k < 8)
				MUST(e != WIRE_OK || m.type != types[_i]);
			if (wire_keyed(types[_i]) && k >= 8)
				MUST(e == WIRE_FORGED);
			if (e != WIRE_OK)
				MUST(m.type == 0);
			buf[k] ^= (uint8_t)(1 << bit);
		}
	if (!wire_keyed(types[_i]))
		return;
	memcpy(other, key, sizeof(other));
	for (k = 0; k < WIRE_KEY; k++) {
		other[k] ^= 1;
		MUST(wire_decode(&m, other, buf, n) == WIRE_FORGED);
		other[k] ^= 1;
	}
}
END_TEST

/* What steers a connection must not be forgeable. */
START_TEST(steering_is_keyed)
{
	ck_assert(wire_keyed(MSG_REQ));
	ck_assert(wire_keyed(MSG_OK));
	ck_assert(wire_keyed(MSG_DONE));
	ck_assert(wire_keyed(MSG_SWITCHED));
	ck_assert(wire_keyed(MSG_NO));
}
END_TEST

START_TEST(unknown)
{
	struct msg in = sample(MSG_REQ), m;
	uint8_t buf[WIRE_MAX];
	size_t n = wire_encode(&in, key, buf), i;
	int v;

	for (v = 0; v < 256; v++) {
		buf[4] = (uint8_t)v;
		ck_assert_int_eq(wire_decode(&m, key, buf, n), v == WIRE_VERSION ? WIRE_OK : WIRE_BADVERSION);
	}
	buf[4] = WIRE_VERSION;
	for (v = 0; v < 256; v++) {
		for (i = 0; i < ARRAY_SIZE(types) && types[i] != v; i++)
			;
		if (i < ARRAY_SIZE(types))
			continue;
		buf[5] = (uint8_t)v;
		ck_assert_int_eq(wire_decode(&m, key, buf, n), WIRE_TYPE);
		ck_assert(!wire_keyed((uint8_t)v));
		ck_assert_str_eq(wire_name((uint8_t)v), "?");
	}
	ck_assert_str_eq(wire_name(MSG_REQ), "REQ");
	ck_assert_str_eq(wire_strerror((enum wire_error)99), "?");
	ck_assert_str_eq(wire_strerror(WIRE_FORGED), "forged message");
}
END_TEST

START_TEST(garbage)
{
	uint64_t seed = seed_env("ROAM_SEED", 1), runs = seed_env("ROAM_RUNS", 1000000), rng = seed;
	uint8_t buf[WIRE_MAX + 8];
	uint32_t n, k;
	struct msg m;

	while (runs--) {
		n = seed_below(&rng, sizeof(buf));
		for (k = 0; k < n; k++)
			buf[k] = (uint8_t)(seed_next(&rng) >> 56);
		if (n >= 8 && seed_below(&rng, 4)) {	/* let some come past the header */
			memcpy(buf, "roam\1", 5);
			buf[5] = (uint8_t)seed_below(&rng, 13);
			buf[6] = (uint8_t)n;
			buf[7] = 0;
		}
		if (wire_decode(&m, key, buf, n) == WIRE_OK)
			MUST(!wire_keyed(m.type));
		if (wire_decode(&m, NULL, buf, n) != WIRE_OK)
			MUST(m.type == 0);
	}
}
END_TEST

START_TEST(fits)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(types); i++) {
		struct msg m = sample(types[i]);
		uint8_t buf[WIRE_MAX];

		ck_assert_uint_le(wire_encode(&m, key, buf), WIRE_MAX);
	}
}
END_TEST

int main(int argc, char **argv)
{
	int bad, n = ARRAY_SIZE(types);
	SRunner *sr;
	Suite *s;
	TCase *t;

	if (argc == 3 && !strcmp(argv[1], "--golden"))
		return write_golden(argv[2]);
	s = suite_create("wire");
	t = tcase_create("wire");
	suite_add_tcase(s, t);
	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, golden, 0, n);
	tcase_add_loop_test(t, fields, 0, n);
	tcase_add_loop_test(t, cut_and_stretched, 0, n);
	tcase_add_loop_test(t, flipped, 0, n);
	tcase_add_test(t, steering_is_keyed);
	tcase_add_test(t, unknown);
	tcase_add_test(t, garbage);
	tcase_add_test(t, fits);
	sr = srunner_create(s);
	srunner_set_fork_status(sr, CK_FORK);
	srunner_run_all(sr, CK_NORMAL);
	bad = srunner_ntests_failed(sr);
	srunner_free(sr);
	return bad != 0;
}
