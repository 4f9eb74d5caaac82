/*
 * What the codec stage costs here: MB/s and ratio for each level, and the
 * price of a guess.
 *
 *	roam-bench-codec [-b BLOCK] [-t SECONDS] [FILE...]
 *
 * The files are read as "text"; without one, the program makes words up.
 * Figures are raw bytes over the thread's CPU time; the best of the rounds.
 */
#include "guess.h"
#include "stage.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SIZE	(4u << 20)

static uint8_t text[SIZE], noise[SIZE], packed[SIZE], tiny[SIZE], wire[2 * SIZE], back[SIZE];
static void *enc_mem, *dec_mem;
static double limit = 0.4;
static size_t block = STAGE_BLOCK;

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static uint64_t dice(void)
{
	static uint64_t x = 88172645463325252u;

	x ^= x << 13;
	x ^= x >> 7;
	return x ^= x << 17;
}

static void make_text(char **file, int n)
{
	size_t have = 0, got;
	FILE *f;
	int i;

	for (i = 0; i < n && have < SIZE; i++) {
		f = fopen(file[i], "rb");
		if (!f) {
			fprintf(stderr, "%s: %s\n", file[i], strerror(errno));
			exit(1);
		}
		while ((got = fread(text + have, 1, SIZE - have, f)) > 0)
			have += got;
		fclose(f);
	}
	for (got = have; got && have < SIZE; have++)
		text[have] = text[have - got];
	while (have < SIZE) {
		uint64_t w = dice() % 4000, len = 2 + w % 9;

		while (len-- && have < SIZE - 1) {
			text[have++] = (uint8_t)("etaoinshrdlucmfwypvbgk"[(w * 7 + len * len * (w % 5)) % 22]);
		}
		text[have++] = dice() % 12 ? ' ' : '\n';
	}
}

/* All of src in blocks of len; the wire bytes made. coded: how many blocks the codec made smaller. */
static size_t once(const uint8_t *src, size_t len, int level, double *enc, double *dec)
{
	struct stage_enc *e = stage_enc_open(enc_mem, stage_enc_size(CODEC_DEFLATE), CODEC_DEFLATE, 0);
	struct stage_dec *d = stage_dec_open(dec_mem, stage_dec_size(CODEC_DEFLATE), CODEC_DEFLATE, 0);
	size_t at, n, w = 0, got, used;
	double t = now();
	const uint8_t *p;

	for (at = 0; at < SIZE; at += n) {
		struct iovec v = { (void *)(uintptr_t)(src + at), n = SIZE - at < len ? SIZE - at : len };
		long k = stage_encode(e, &v, 1, n, level, 0);

		if (k < 0 || w + (size_t)k > sizeof(wire))
			exit(1);
		stage_wire(e, &p);
		memcpy(wire + w, p, (size_t)k);
		stage_taken(e, (size_t)k);
		w += (size_t)k;
	}
	*enc = now() - t;
	t = now();
	for (at = used = 0; at < SIZE; at += got) {
		n = w - used;
		got = SIZE - at;
		if (stage_decode(d, wire + used, &n, back + at, &got) == STAGE_BAD || (!n && !got))
			exit(1);
		used += n;
	}
	*dec = now() - t;
	if (memcmp(src, back, SIZE))
		exit(1);
	return w;
}

static void row(const char *name, const uint8_t *src, size_t len, int level)
{
	double enc = 1e9, dec = 1e9, e, d, end = now() + limit;
	size_t w;

	do {
		w = once(src, len, level, &e, &d);
		enc = e < enc ? e : enc;
		dec = d < dec ? d : dec;
	} while (now() < end);
	printf("%-10s %6zu %5d %8.1f %8.1f %8.3f %10.0f %9.2f\n", name, len, level, SIZE / enc / 1e6,
	       SIZE / dec / 1e6, (double)w / SIZE, enc * 1e9 / (SIZE / 1024.0), enc * 1e6 / (SIZE / (double)len));
	fflush(stdout);
}

static void guesses(const char *name, const uint8_t *src, size_t len, bool shrinks)
{
	double best = 1e9, t;
	size_t at, yes = 0, all = 0;
	struct guess g;
	int i;

	for (i = 0; i < 5; i++) {
		memset(&g, 0, sizeof(g));
		yes = all = 0;
		t = now();
		for (at = 0; at + len <= SIZE; at += len, all++) {
			bool tried = guess_block(&g, src + at, len);

			yes += tried;
			guess_saw(&g, len, tried ? shrinks ? len / 2 : len : len, tried);
		}
		t = now() - t;
		best = t < best ? t : best;
	}
	printf("guess %-10s %6zu: %6.1f ns/KiB, %zu of %zu blocks to the codec, sample %u/1024\n", name, len,
	       best * 1e9 / (SIZE / 1024.0), yes, all, guess_sample(src, len));
}

int main(int argc, char **argv)
{
	struct stage_enc *e;
	double t, d;
	size_t i, w;
	int c;

	while ((c = getopt(argc, argv, "b:t:")) != -1) {
		if (c == 'b')
			block = (size_t)atol(optarg);
		else if (c == 't')
			limit = atof(optarg);
		else
			return 2;
	}
	if (block < 1 || block > STAGE_BLOCK)
		return 2;
	enc_mem = aligned_alloc(STAGE_ALIGN, (stage_enc_size(CODEC_DEFLATE) + 63) & ~(size_t)63);
	dec_mem = aligned_alloc(STAGE_ALIGN, (stage_dec_size(CODEC_DEFLATE) + 63) & ~(size_t)63);
	e = stage_enc_open(enc_mem, stage_enc_size(CODEC_DEFLATE), CODEC_DEFLATE, 0);
	if (!e || !dec_mem)
		return 1;
	make_text(argv + optind, argc - optind);
	for (i = 0; i < SIZE; i += 8)
		memcpy(noise + i, &(uint64_t){ dice() * 0x9e3779b97f4a7c15u }, 8);
	w = once(text, STAGE_BLOCK, 9, &t, &d);
	for (i = 0; i < SIZE; i++)
		packed[i] = wire[i % w];
	for (i = 0; i < SIZE; i += 128) {
		char line[256];

		snprintf(line, sizeof(line), "{\"id\":%06lu,\"name\":\"user-%04lu\",\"state\":\"active\",\"score\":%05lu,"
			 "\"tags\":[\"a%lu\",\"b%lu\"],\"when\":\"2026-11-23T18:%02lu\"} %40s", (unsigned long)(i / 128),
			 (unsigned long)(dice() % 9999), (unsigned long)(dice() % 99999), (unsigned long)(dice() % 9),
			 (unsigned long)(dice() % 9), (unsigned long)(dice() % 60), "");
		memcpy(tiny + i, line, 127);
		tiny[i + 127] = '\n';
	}
	printf("%-10s %6s %5s %8s %8s %8s %10s %9s\n", "data", "block", "level", "enc MB/s", "dec MB/s", "ratio",
	       "enc ns/KiB", "us/block");
	for (c = 0; c <= 9; c++)
		row("text", text, block, c);
	for (c = 1; c <= 9; c += c == 1 ? 5 : 3) {
		row("noise", noise, block, c);
		row("packed", packed, block, c);
	}
	for (c = 0; c <= 6; c += c ? 5 : 1) {
		row("json", tiny, 128, c);
		row("json", tiny, 1024, c);
		row("json", tiny, 16384, c);
		row("text", text, 4096, c);
		row("text", text, 16384, c);
	}
	guesses("text", text, block, true);
	guesses("noise", noise, block, false);
	guesses("packed", packed, block, false);
	guesses("json", tiny, 1024, true);
	guesses("json", tiny, 128, true);
	guesses("noise", noise, 1024, false);
	guesses("noise", noise, 128, false);
	return 0;
}
