/*
 * A streaming 64-bit digest and a pseudo-random stream, for the examples.
 *
 * The digest depends on every byte and its position, and not on how the
 * stream was cut into pieces. Four independent lanes keep the multiplier busy,
 * so it runs faster than any socket. It finds errors, not attackers.
 */
#ifndef EXAMPLES_DIGEST_H
#define EXAMPLES_DIGEST_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define DIGEST_K1 0x9e3779b97f4a7c15ull
#define DIGEST_K2 0xbf58476d1ce4e5b9ull

struct digest {
	uint64_t lane[4];
	uint64_t len;
	unsigned char part[32];		/* a block that is not yet complete */
};

static inline uint64_t digest_rotl(uint64_t x, int n)
{
	return x << n | x >> (64 - n);
}

static inline void digest_init(struct digest *d)
{
	memset(d, 0, sizeof(*d));
	for (int i = 0; i < 4; i++)
		d->lane[i] = DIGEST_K1 * (uint64_t)(i + 1);
}

static inline const unsigned char *digest_blocks(struct digest *d,
						 const unsigned char *p,
						 size_t blocks)
{
	uint64_t a = d->lane[0], b = d->lane[1], c = d->lane[2], e = d->lane[3];
	uint64_t w[4];

	for (; blocks; blocks--, p += 32) {
		memcpy(w, p, 32);
		a = (digest_rotl(a, 29) ^ w[0]) * DIGEST_K1;
		b = (digest_rotl(b, 29) ^ w[1]) * DIGEST_K1;
		c = (digest_rotl(c, 29) ^ w[2]) * DIGEST_K1;
		e = (digest_rotl(e, 29) ^ w[3]) * DIGEST_K1;
	}
	d->lane[0] = a;
	d->lane[1] = b;
	d->lane[2] = c;
	d->lane[3] = e;
	return p;
}

static inline void digest_add(struct digest *d, const void *data, size_t len)
{
	const unsigned char *p = data;
	size_t have = d->len % 32;

	d->len += len;
	if (have) {
		size_t take = len < 32 - have ? len : 32 - have;

		memcpy(d->part + have, p, take);
		if (have + take < 32)
			return;
		digest_blocks(d, d->part, 1);
		p += take;
		len -= take;
	}
	p = digest_blocks(d, p, len / 32);
	memcpy(d->part, p, len % 32);
}

/* The digest of what was added so far; adding may go on afterwards. */
static inline uint64_t digest_value(const struct digest *d)
{
	struct digest t = *d;
	uint64_t h = d->len * DIGEST_K2;

	memset(t.part + d->len % 32, 0, 32 - d->len % 32);
	digest_blocks(&t, t.part, 1);
	for (int i = 0; i < 4; i++) {
		h = (h ^ t.lane[i]) * DIGEST_K2;
		h ^= h >> 31;
	}
	return h;
}

/* A seed whose first byte is this, or its complement, makes something like text: deflate finds a third. */
#define PATTERN_TEXT	UINT64_C(0xa500000000000000)

/* One of 256 words of five letters, two digits, and a blank. */
static inline uint64_t pattern_text(uint64_t x)
{
	static const char digits[] = "0123456789abcdef";
	uint32_t h = (uint32_t)(x & 255) * 2654435761u;
	unsigned char c[8];
	uint64_t w;

	for (int i = 0; i < 5; i++)
		c[i] = (unsigned char)('a' + (h >> 5 * i & 31) % 26);
	c[5] = (unsigned char)digits[x >> 8 & 15];
	c[6] = (unsigned char)digits[x >> 12 & 15];
	c[7] = ' ';
	memcpy(&w, c, sizeof(w));
	return w;
}

/* Word i of the pseudo-random stream of a seed: any part can be made alone. */
static inline uint64_t pattern_word(uint64_t seed, uint64_t i)
{
	uint64_t x = (seed * DIGEST_K2 + i) * DIGEST_K1;

	x = (x ^ x >> 32) * DIGEST_K2;
	x ^= x >> 29;
	return seed >> 56 == PATTERN_TEXT >> 56 || ~seed >> 56 == PATTERN_TEXT >> 56 ? pattern_text(x) : x;
}

static inline void pattern_fill(void *buf, uint64_t seed, uint64_t off,
				size_t len)
{
	unsigned char *p = buf;

	while (len) {
		uint64_t w = pattern_word(seed, off / 8);
		size_t skip = off % 8;
		size_t take = len < 8 - skip ? len : 8 - skip;

		if (take == 8)
			memcpy(p, &w, 8);
		else
			memcpy(p, (unsigned char *)&w + skip, take);
		p += take;
		off += take;
		len -= take;
	}
}

/* The index of the first wrong byte, or len when all are right. */
static inline size_t pattern_check(const void *buf, uint64_t seed, uint64_t off,
				   size_t len)
{
	const unsigned char *p = buf;

	for (size_t i = 0; i < len;) {
		uint64_t w = pattern_word(seed, (off + i) / 8);
		size_t skip = (off + i) % 8;
		size_t take = len - i < 8 - skip ? len - i : 8 - skip;
		const unsigned char *q = (unsigned char *)&w + skip;

		if (take == 8 && !memcmp(p + i, &w, 8)) {
			i += 8;
			continue;
		}
		if (memcmp(p + i, q, take)) {
			while (p[i] == *q)
				i++, q++;
			return i;
		}
		i += take;
	}
	return len;
}

#endif
