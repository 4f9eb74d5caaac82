/* Images of parked connections: what goes in comes out, and nothing else is believed. */
#include "image.h"
#include "seed.h"
#include <check.h>
#include <stdlib.h>
#include <string.h>

#define MUST(c) do { if (!(c)) ck_abort_msg("%s", #c); } while (0)

static uint8_t replay[300], rx[77];

static struct image sample(void)
{
	static const uint8_t gid[WIRE_GID] = "a gid of a test", key[WIRE_KEY] = "and a key of 32 bytes for it...";
	struct image i = { .family = 6, .shut_rd = 1, .peer_fin = 12345, .agent_family = 4, .agent_port = 7626,
			   .self_family = 4, .peer_family = 6, .self_port = 80, .peer_port = 40000,
			   .tx_base = UINT64_C(1) << 40, .tx_end = (UINT64_C(1) << 40) + sizeof(replay),
			   .unread = sizeof(rx), .replay = replay, .rx = rx };
	size_t k;

	for (k = 0; k < sizeof(replay); k++)
		replay[k] = (uint8_t)(k * 7);
	for (k = 0; k < sizeof(rx); k++)
		rx[k] = (uint8_t)(k * 13);
	ho_init(&i.ho, HO_ACCEPTOR, gid, key);
	i.ho.epoch = 7;
	i.ho.peer_epoch = 3;
	i.ho.attempt = 99;
	i.ho.peer_attempt = 98;
	i.ho.peer_nonce = 0x123456789;
	i.ho.gen = 5;
	i.ho.rx_off = UINT64_C(1) << 33;
	i.ho.peer_rx_off = UINT64_C(1) << 32;
	memset(i.agent_host, 0x11, 16);
	memset(i.agent_addr, 0x22, 16);
	memset(i.self_addr, 0x33, 16);
	memset(i.peer_addr, 0x44, 16);
	return i;
}

START_TEST(round_trip)
{
	struct image in = sample(), out;
	size_t n = image_size(&in);
	uint8_t *p = malloc(n);

	image_build(&in, p);
	ck_assert(image_parse(&out, p, n));
	ck_assert_mem_eq(out.ho.gid, in.ho.gid, WIRE_GID);
	ck_assert_mem_eq(out.ho.key, in.ho.key, WIRE_KEY);
#define SAME(f) ck_assert_uint_eq(out.f, in.f)
	SAME(ho.role);
	SAME(ho.epoch);
	SAME(ho.peer_epoch);
	SAME(ho.attempt);
	SAME(ho.peer_attempt);
	SAME(ho.peer_nonce);
	SAME(ho.gen);
	SAME(ho.rx_off);
	SAME(ho.peer_rx_off);
	SAME(family);
	SAME(shut_rd);
	SAME(peer_fin);
	SAME(agent_family);
	SAME(agent_port);
	SAME(self_family);
	SAME(self_port);
	SAME(peer_family);
	SAME(peer_port);
	SAME(tx_base);
	SAME(tx_end);
	SAME(unread);
	ck_assert_mem_eq(out.agent_host, in.agent_host, 16);
	ck_assert_mem_eq(out.agent_addr, in.agent_addr, 16);
	ck_assert_mem_eq(out.self_addr, in.self_addr, 16);
	ck_assert_mem_eq(out.peer_addr, in.peer_addr, 16);
	ck_assert_mem_eq(out.replay, replay, sizeof(replay));
	ck_assert_mem_eq(out.rx, rx, sizeof(rx));
	/* It goes on from there: counted, ready to ask. */
	ck_assert_uint_eq(out.ho.state, HO_READY);
	ck_assert_uint_eq(out.ho.unread, sizeof(rx));
	free(p);
}
END_TEST

START_TEST(every_length)
{
	struct image in = sample(), out;
	size_t n = image_size(&in), k;
	uint8_t *p = malloc(n + 1);

	image_build(&in, p);
	p[n] = 0;
	for (k = 0; k <= n + 1; k++) {
		/* Its own memory, so that a byte read too far is seen. */
		uint8_t *q = malloc(k ? k : 1);

		memcpy(q, p, k);
		MUST(image_parse(&out, q, k) == (k == n));
		free(q);
	}
	free(p);
}
END_TEST

START_TEST(hostile)
{
	struct image in = sample(), out;
	size_t n = image_size(&in);
	uint8_t *p = malloc(n);
	uint64_t s = seed_env("ROAM_SEED", 1);
	int round, k;

	for (round = 0; round < 200000; round++) {
		image_build(&in, p);
		for (k = 0; k < 1 + round % 5; k++)
			p[seed_next(&s) % 320] = (uint8_t)seed_next(&s);
		if (!image_parse(&out, p, n))
			continue;
		MUST(out.replay >= p && out.replay + (out.tx_end - out.tx_base) == out.rx);
		MUST(out.rx + out.unread == p + n);
		MUST(out.ho.role <= HO_ACCEPTOR && out.ho.state == HO_READY);
	}
	free(p);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("image");
	TCase *t = tcase_create("image");
	SRunner *r;
	int bad;

	tcase_add_test(t, round_trip);
	tcase_add_test(t, every_length);
	tcase_add_test(t, hostile);
	suite_add_tcase(s, t);
	r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	bad = srunner_ntests_failed(r);
	srunner_free(r);
	return bad != 0;
}
