/*
 * The sample: 16 bytes of every 256, 4096 bytes at most, as btrfs does it; all
 * of a small block.  Counted are the byte values.  Bits a byte by Shannon, with
 * the correction of Miller and Madow, (m - 1) / 2n: without it 1 KiB of noise
 * looks like 7.8 bits.  Below 2 KiB that does not hold well enough; there
 * the equal pairs are counted (Simpson's index), which is right for any n.
 *
 * What it cannot see is repetition of dense bytes; for that one block is tried
 * now and then.
 */
#include "guess.h"
#include <string.h>

#define SAMPLE		4096u
#define PIECE		16u
#define STRIDE		256u
#define FEW		2048u		/* bytes of sample that Shannon needs */
/*
 * The index scatters by 22.6/n for noise: 2.5 times that, in bits, is added, so
 * that one block of noise in a hundred is taken for something better, not half.
 */
#define SPREAD		83400u
#define LEAST		64u
/*
 * Bits a byte in 1/1024.  Noise has 7.95 to 8.0 in 4 KiB of sample, gzip and
 * xz files 7.93 and more, JPEG 7.9; machine code has 5.5 to 6.5 (bench/codec.c).
 */
#define DENSE		8090u		/* 7.90 */
#define UNSURE		7782u		/* 7.60 */
#define MAGIC_DENSE	6656u		/* 6.50: behind a magic number only the container's own text shrinks */
#define BACK_MIN	(1u << 20)	/* trials: one block of 64 KiB in a MiB, */
#define BACK_MAX	(16u << 20)	/* and then ever fewer */
#define BETTER		512u		/* half a bit less than what failed is other data */
#define GAIN		972u		/* 5 % saved are a success */

/* log2(v) in 1/1024, v > 0; the error is below 0.008. */
static uint32_t log2q(uint32_t v)
{
	uint32_t e = 31 - (uint32_t)__builtin_clz(v);
	uint32_t f = (uint32_t)(((uint64_t)v << 10) >> e) - 1024;

	/* log2(1 + f) is about f + 0.344 f (1 - f) */
	return (e << 10) + f + (352 * f / 1024) * (1024 - f) / 1024;
}

/* Bits a byte in 1/1024. */
static uint32_t bits(const uint8_t *p, size_t n)
{
	uint32_t count[256] = { 0 }, total = 0, values = 0, h, i;
	uint64_t sum = 0;
	size_t at, k, step = n <= SAMPLE ? PIECE : STRIDE;

	if (n > SAMPLE * (STRIDE / PIECE))
		step = (n / (SAMPLE / PIECE)) & ~(size_t)(PIECE - 1);
	for (at = 0; at < n && total < SAMPLE; at += step) {
		size_t len = n - at < PIECE ? n - at : PIECE;

		for (k = 0; k < len; k++)
			count[p[at + k]]++;
		total += (uint32_t)len;
	}
	if (total < FEW) {
		for (i = 0; i < 256; i++)
			sum += (uint64_t)count[i] * (count[i] ? count[i] - 1 : 0);
		/* Pairs of noise are equal once in 256. None at all: at least as dense as noise. */
		if (!sum)
			return 8192;
		sum = (uint64_t)total * (total - 1) * 1024 / sum;	/* 1 / probability, in 1/1024 */
		h = log2q((uint32_t)(sum < 1024 ? 1024 : sum));
		h = h < 10 * 1024 ? 0 : h - 10 * 1024;
		h += SPREAD / total;
		return h > 8192 ? 8192 : h;
	}
	for (i = 0; i < 256; i++) {
		if (!count[i])
			continue;
		values++;
		sum += (uint64_t)count[i] * log2q(count[i]);
	}
	h = log2q(total) - (uint32_t)(sum / total);
	h += (values - 1) * 1477 / (2 * total);		/* nats to bits, in 1/1024 */
	return h > 8192 ? 8192 : h;
}

uint32_t guess_sample(const uint8_t *p, size_t n)
{
	uint32_t h;

	if (n < LEAST)
		return 1024;
	h = bits(p, n);
	return h >= DENSE ? 1024 : h / 8;
}

/* What a TLS record begins with: a type, version 3.x, a length that is allowed. */
static bool record(const uint8_t *p, size_t n, uint32_t *len)
{
	if (n < 5 || p[0] < 20 || p[0] > 24 || p[1] != 3 || p[2] > 4)
		return false;
	*len = 5 + ((uint32_t)p[3] << 8 | p[4]);
	return *len > 5 && *len <= 5 + 16384 + 2048;
}

/*
 * Follows the records over this block; false: they are none.  Between two
 * blocks a head may be cut: what is left of it is taken on trust.
 */
static bool tls(struct guess *g, const uint8_t *p, size_t n)
{
	size_t at = g->tls ? g->tls_left : 0;
	uint32_t len, found = 0;

	while (at + 5 <= n) {
		if (!record(p + at, n - at, &len)) {
			g->tls = 0;
			return false;
		}
		at += len;
		found++;
	}
	if (!g->tls && !found)
		return false;
	/* A tail of 1 to 4 bytes: the next block begins inside a head, so the trace is lost. */
	if (at < n) {
		g->tls = 0;
		return true;
	}
	g->tls = 1;
	g->tls_left = (uint32_t)(at - n);
	return true;
}

static const struct {
	uint8_t at, len;
	char is[9];
} magic[] = {
	{ 0, 3, "\x1f\x8b\x08" },		/* gzip */
	{ 0, 4, "\x28\xb5\x2f\xfd" },		/* zstd */
	{ 0, 4, "\x04\x22\x4d\x18" },		/* lz4 */
	{ 0, 6, "\xfd" "7zXZ" },		/* xz */
	{ 0, 3, "BZh" },			/* bzip2 */
	{ 0, 4, "PK\x03\x04" },			/* zip, jar, docx */
	{ 0, 6, "7z\xbc\xaf\x27\x1c" },
	{ 0, 4, "Rar!" },
	{ 0, 8, "\x89PNG\r\n\x1a\n" },
	{ 0, 3, "\xff\xd8\xff" },		/* JPEG */
	{ 0, 4, "GIF8" },
	{ 8, 4, "WEBP" },
	{ 0, 4, "OggS" },
	{ 0, 4, "fLaC" },
	{ 4, 4, "ftyp" },			/* MP4, HEIF */
	{ 0, 4, "\x1a\x45\xdf\xa3" },		/* Matroska, WebM */
	{ 0, 4, "wOF2" },
	{ 0, 8, "!<arch>\n" },			/* .deb: its members are compressed; an archive of objects is not dense */
	{ 0, 4, "SSH-" },			/* what follows is encrypted */
};

static bool known(const uint8_t *p, size_t n)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(magic); i++)
		if (n >= (size_t)magic[i].at + magic[i].len && !memcmp(p + magic[i].at, magic[i].is, magic[i].len))
			return true;
	return false;
}

bool guess_block(struct guess *g, const uint8_t *p, size_t n)
{
	uint32_t h;

	if (tls(g, p, n)) {
		g->why = GUESS_TLS;
		return false;
	}
	if (n < LEAST) {
		/* Too few to tell: as the blocks before. */
		g->why = GUESS_UNSURE;
		return g->tried && g->tried < GAIN;
	}
	g->bits = (uint16_t)(h = bits(p, n));
	if (known(p, n) && h >= MAGIC_DENSE)
		g->why = GUESS_MAGIC;
	else if (h >= DENSE)
		g->why = GUESS_DENSE;
	else if (g->tried > GAIN && h + BETTER > g->failed && g->quiet < (g->back ? g->back : BACK_MIN))
		g->why = GUESS_SEEN;
	else
		g->why = h >= UNSURE ? GUESS_UNSURE : GUESS_GOOD;
	if (g->why == GUESS_GOOD || g->why == GUESS_UNSURE)
		return true;
	/* Dense bytes may repeat themselves: if the last trial said so, or to find out. */
	if (g->why == GUESS_DENSE && g->tried && g->tried < GAIN && g->back == BACK_MIN)
		return true;
	if (g->quiet >= (g->back ? g->back : BACK_MIN)) {
		g->why = GUESS_TRIAL;
		return true;
	}
	return false;
}

static uint32_t blend(uint32_t old, uint32_t now, size_t raw)
{
	/* A block of 64 KiB weighs a quarter, a small one its share of that. */
	uint32_t w = raw >= 65536 ? 256 : (uint32_t)(raw / 256);

	if (w < 8)
		w = 8;
	if (!old)
		return now ? now : 1;
	now = (old * (1024 - w) + now * w + 512) / 1024;
	return now ? now : 1;
}

void guess_saw(struct guess *g, size_t raw, size_t coded, bool tried)
{
	uint32_t r = raw && coded < raw ? (uint32_t)((uint64_t)coded * 1024 / raw) : 1024;

	if (!raw)
		return;
	g->all = blend(g->all, tried ? r : 1024, raw);
	if (!tried) {
		g->quiet = raw > UINT32_MAX - g->quiet ? UINT32_MAX : g->quiet + (uint32_t)raw;
		return;
	}
	if (r >= GAIN)
		g->failed = g->bits;
	if (g->why == GUESS_TRIAL || g->why == GUESS_DENSE) {
		/* One block decides: what was before says nothing about it. */
		g->tried = r;
		if (r < GAIN || !g->back)
			g->back = BACK_MIN;
		else
			g->back = g->back < BACK_MAX ? 2 * g->back : BACK_MAX;
	} else {
		g->tried = blend(g->tried, r, raw);
		if (r >= GAIN && g->tried > GAIN)
			g->back = g->back && g->back < BACK_MAX ? 2 * g->back : BACK_MIN;
	}
	g->quiet = 0;
}
