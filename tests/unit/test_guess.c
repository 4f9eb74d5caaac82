/* What is worth compressing: text, tables and code are, noise, archives and TLS are not. */
#include "guess.h"
#include "seed.h"
#include <check.h>
#include <string.h>
#include <zlib.h>

#define MUST(c) do { if (!(c)) ck_abort_msg("%s", #c); } while (0)
#define SIZE	(1u << 20)

static uint8_t text[SIZE], noise[SIZE], packed[2 * SIZE], mem[SIZE];
static size_t packed_len;

static void make(void)
{
	static const char *word[] = { "the ", "library ", "keeps ", "a ", "connection ", "alive. ", "offset ", "42, " };
	uint64_t rng = 4;
	uLongf len = sizeof(packed);
	size_t at = 0;

	while (at < SIZE) {
		const char *w = word[seed_below(&rng, 8)];

		while (*w && at < SIZE)
			text[at++] = (uint8_t)*w++;
	}
	for (at = 0; at < SIZE; at++) {
		noise[at] = (uint8_t)(seed_next(&rng) >> 20);
		/* 5 bits a byte of information: deflate makes something of it */
		mem[at] = (uint8_t)(seed_below(&rng, 96) * seed_below(&rng, 2));
	}
	MUST(compress2(packed, &len, mem, SIZE, 9) == Z_OK);
	packed_len = len;
}

static bool alone(const uint8_t *p, size_t n)
{
	struct guess g = { 0 };

	return guess_block(&g, p, n);
}

START_TEST(kinds)
{
	size_t n;

	make();
	for (n = 128; n <= 65536; n *= 2) {
		MUST(alone(text, n) && guess_sample(text, n) < 700);
		ck_assert_msg(!alone(noise, n), "noise of %zu", n);
		if (n >= 512)
			MUST(guess_sample(noise, n) == 1024);
		if (n >= 1024)
			MUST(!alone(packed + 2, n));	/* zlib has no magic number to speak of */
		MUST(alone(mem, n));
	}
	memset(mem, 0, SIZE);
	MUST(guess_sample(mem, 65536) < 20 && guess_sample(mem, 100) < 120);
	MUST(guess_sample(text, 63) == 1024);
}
END_TEST

/* Many samples of noise of each size: hardly one is taken for anything else, also by small ones. */
START_TEST(noise_is_noise)
{
	static const uint32_t size[] = { 128, 256, 511, 512, 1024, 4096, 65536 };
	uint64_t rng = seed_env("ROAM_SEED", 1);
	uint32_t i, k, wrong;

	make();
	for (i = 0; i < ARRAY_SIZE(size); i++) {
		for (wrong = k = 0; k < 500; k++)
			wrong += alone(noise + seed_below(&rng, SIZE - size[i]), size[i]);
		ck_assert_msg(wrong <= (15), "%u of 500 wrong, %u bytes", wrong, size[i]);
	}
}
END_TEST

START_TEST(magics)
{
	static const struct { const char *is; int len; } m[] = {
		{ "\x1f\x8b\x08", 3 }, { "\x28\xb5\x2f\xfd", 4 }, { "\xfd" "7zXZ", 6 }, { "BZh9", 4 }, { "PK\3\4", 4 },
		{ "\xff\xd8\xff\xe0", 4 }, { "\x89PNG\r\n\x1a\n", 8 }, { "RIFF1234WEBP", 12 }, { "1234ftypisom", 12 },
	};
	struct guess g;
	size_t i;

	make();
	for (i = 0; i < ARRAY_SIZE(m); i++) {
		memcpy(mem, noise, 65536);
		/* a thin header, such as dense formats have */
		memset(mem, 0, 600);
		memcpy(mem, m[i].is, (size_t)m[i].len);
		memset(&g, 0, sizeof(g));
		MUST(!guess_block(&g, mem, 8192) && g.why == GUESS_MAGIC);
	}
	/* a magic number before text is just text */
	memcpy(mem, text, 8192);
	memcpy(mem, "BZh9", 4);
	MUST(alone(mem, 8192));
}
END_TEST

static size_t record(size_t at, int type, size_t len, const uint8_t *body)
{
	mem[at] = (uint8_t)type;
	mem[at + 1] = 3;
	mem[at + 2] = 3;
	mem[at + 3] = (uint8_t)(len >> 8);
	mem[at + 4] = (uint8_t)len;
	memcpy(mem + at + 5, body, len);
	return at + 5 + len;
}

/* Records of any length cut into blocks of any length: not one goes to the codec, whatever is in them. */
START_TEST(tls)
{
	uint64_t rng = seed_env("ROAM_SEED", 1) + (uint64_t)_i;
	struct guess g = { 0 };
	size_t at = 0, n, pos, tried = 0;

	make();
	at = record(at, 22, 300, text);		/* hello: plain */
	while (at < SIZE - 20000)
		at = record(at, 23, 1 + seed_below(&rng, 16384), noise + seed_below(&rng, SIZE - 20000));
	for (pos = 0; pos < at; pos += n) {
		n = 5 + seed_below(&rng, _i ? 3000 : 60000);
		if (n > at - pos)
			n = at - pos;
		if (guess_block(&g, mem + pos, n)) {
			MUST(g.why == GUESS_TRIAL || n < 512);
			guess_saw(&g, n, n, true);
			tried += n;
		} else {
			guess_saw(&g, n, n, false);
		}
	}
	MUST(tried < at / 8);
	MUST(g.all > 1000);
	/* and it ends with the first byte that is none */
	memset(&g, 0, sizeof(g));
	n = record(0, 23, 1000, noise);
	MUST(!guess_block(&g, mem, n) && g.why == GUESS_TLS && g.tls);
	MUST(guess_block(&g, text, 4096) && !g.tls);
}
END_TEST

/* What looks good and does not shrink is let alone, tried again ever more rarely, and found when it changes. */
START_TEST(learns)
{
	struct guess g = { 0 };
	uint32_t i, tries = 0;

	make();
	for (i = 0; i < SIZE; i++)
		mem[i] = noise[i] & 0x7f;	/* 7 bits a byte, say that the codec fails */
	for (i = 0; i < 1600; i++) {
		bool t = guess_block(&g, mem, 65536);

		tries += t;
		guess_saw(&g, 65536, 65536, t);
	}
	ck_assert_msg(tries < 20, "%u tries", tries);
	MUST(g.all == 1024);
	/* other data is seen at once */
	MUST(guess_block(&g, text, 65536) && g.why == GUESS_GOOD);
	for (i = 0; i < 20; i++) {
		MUST(guess_block(&g, text, 65536));
		guess_saw(&g, 65536, 20000, true);
	}
	MUST(g.tried < 340 && g.all < 340);
	/* noise again: not a single block */
	MUST(!guess_block(&g, noise, 65536) && g.why == GUESS_DENSE);
	/* noise that repeats itself: found within a MiB and a block */
	memset(&g, 0, sizeof(g));
	for (i = tries = 0; i < 64; i++) {
		bool t = guess_block(&g, noise, 65536);

		tries += t;
		guess_saw(&g, 65536, t ? 3000 : 65536, t);
	}
	MUST(tries >= 47);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("guess");
	TCase *t = tcase_create("guess");
	SRunner *sr;
	int bad;

	suite_add_tcase(s, t);
	tcase_set_timeout(t, 60);
	tcase_add_test(t, kinds);
	tcase_add_test(t, noise_is_noise);
	tcase_add_test(t, magics);
	tcase_add_loop_test(t, tls, 0, 3);
	tcase_add_test(t, learns);
	sr = srunner_create(s);
	srunner_set_fork_status(sr, CK_FORK);
	srunner_run_all(sr, CK_NORMAL);
	bad = srunner_ntests_failed(sr);
	srunner_free(sr);
	return bad != 0;
}
