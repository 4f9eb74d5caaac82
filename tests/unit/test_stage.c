/* The codec stage: both ends against each other, golden blocks, and a hostile peer. */
#include "seed.h"
#include "stage.h"
#include <check.h>
#include <string.h>
#include <zlib.h>

#define MUST(c) do { if (!(c)) ck_abort_msg("%s", #c); } while (0)
#define TOP	(1u << 20)

static uint8_t raw[TOP], wire[2 * TOP], out[TOP + STAGE_BLOCK];
static struct stage_enc *e;
static struct stage_dec *d;

static void *memory(size_t n)
{
	void *p = aligned_alloc(STAGE_ALIGN, (n + STAGE_ALIGN - 1) & ~(size_t)(STAGE_ALIGN - 1));

	MUST(p);
	memset(p, 0xa5, n);
	return p;
}

static void both(uint8_t codec, uint64_t off)
{
	free(e);
	free(d);
	e = stage_enc_open(memory(stage_enc_size(codec)), stage_enc_size(codec), codec, off);
	d = stage_dec_open(memory(stage_dec_size(codec)), stage_dec_size(codec), codec, off);
	MUST(e && d);
}

/* Some text, some noise, some runs. */
static void fill(uint64_t *rng)
{
	static const char *word[] = { "connection ", "the ", "offset", " = ", "0123456789", "\n", "agent ", "handover " };
	uint32_t at = 0, n, i;

	while (at < TOP) {
		uint32_t kind = seed_below(rng, 8);

		n = 1 + seed_below(rng, 1u << (1 + seed_below(rng, 16)));
		if (n > TOP - at)
			n = TOP - at;
		if (kind == 0)
			memset(raw + at, (int)seed_below(rng, 256), n);
		for (i = 0; kind == 1 && i < n; i++)
			raw[at + i] = (uint8_t)seed_next(rng);
		if (kind == 2 && at > n)
			memmove(raw + at, raw + at - n, n);
		for (i = 0; (kind > 2 || (kind == 2 && at <= n)) && i < n; ) {
			const char *w = word[seed_below(rng, ARRAY_SIZE(word))];

			while (*w && i < n)
				raw[at + i++] = (uint8_t)*w++;
		}
		at += n;
	}
}

/* All of the box onto the wire. */
static size_t take(size_t w)
{
	const uint8_t *p;
	size_t n = stage_wire(e, &p);

	MUST(w + n <= sizeof(wire));
	memcpy(wire + w, p, n);
	stage_taken(e, n);
	MUST(stage_wire(e, &p) == 0);
	return w + n;
}

static long block(size_t at, size_t n, int level, unsigned flags)
{
	/* in three pieces, as from a ring that wraps */
	struct iovec v[3] = { { raw + at, n / 3 }, { raw + at + n / 3, 0 }, { raw + at + n / 3, n } };

	return stage_encode(e, v, 3, n, level, flags);
}

START_TEST(model)
{
	uint64_t rng = seed_env("ROAM_SEED", 1) + (uint64_t)_i, off = seed_next(&rng) >> 1, acked;
	struct stage_mark last = { 0, off };
	size_t at = 0, w = 0, used = 0, given = 0, n, cap;
	uint32_t notes = 0;

	fill(&rng);
	both(_i % 5 == 4 ? CODEC_STORED : CODEC_DEFLATE, off);
	while (at < TOP || used < w) {
		if (at < TOP && seed_below(&rng, 2)) {
			long k;

			n = 1 + seed_below(&rng, seed_below(&rng, 3) ? 3000 : STAGE_BLOCK);
			if (n > TOP - at)
				n = TOP - at;
			if (!seed_below(&rng, 50))
				stage_refresh(e);
			k = block(at, n, (int)seed_below(&rng, 11) - 1, 0);
			MUST(k > 0 && (size_t)k <= n + STAGE_HEAD);
			at += n;
			MUST(e->off == off + at && e->wire == w + (size_t)k);
			MUST(stage_encode(e, &(struct iovec){ raw, 1 }, 1, 1, 1, 0) == STAGE_BAD && !e->bad);
			if (!seed_below(&rng, 8))
				MUST(stage_note(e, ++notes, 0));
			w = take(w);
			MUST(e->wire == w);
		}
		n = seed_below(&rng, 4) ? seed_below(&rng, 40) : seed_below(&rng, 20000);
		if (n > w - used)
			n = w - used;
		cap = seed_below(&rng, 4) ? seed_below(&rng, 60) : seed_below(&rng, 200000);
		if (cap > TOP - given)
			cap = TOP - given;
		if (!seed_below(&rng, 4) && stage_ready(d)) {
			size_t none = 0, one = 1;

			MUST(stage_decode(d, wire, &none, out + given, &one) == STAGE_OK && one == 1 && !none);
			given++;
			continue;
		}
		if (!seed_below(&rng, 16)) {
			size_t whole;
			uint64_t k = stage_count(d, wire + used, w - used, &whole);

			/* everything made so far is on the wire */
			MUST(whole == w - used && k == at - given);
		}
		MUST(stage_decode(d, wire + used, &n, out + given, &cap) == STAGE_OK);
		used += n;
		given += cap;
		MUST(d->off == off + given && d->wire == used);
		/* What has been used holds at least what may be forgotten. */
		acked = stage_acked(e, used);
		MUST(acked >= last.off && acked <= off + at && acked <= off + given + STAGE_BLOCK);
		if (used == w)
			MUST(acked == off + at);
		last.off = acked;
	}
	if (given < TOP) {
		n = 0;
		cap = TOP - given;
		MUST(stage_decode(d, wire, &n, out + given, &cap) == STAGE_OK);
		given += cap;
	}
	MUST(given == TOP && !memcmp(raw, out, TOP) && d->peer_off == notes && !stage_ready(d));
}
END_TEST

/* The end of each block is there as soon as its bytes are. */
START_TEST(prompt)
{
	uint64_t rng = 3;
	size_t at, n, cap, w;

	fill(&rng);
	both(CODEC_DEFLATE, 0);
	for (at = 0; at < TOP / 4; at += n) {
		n = 1 + seed_below(&rng, 2000);
		MUST(block(at, n, 1 + (int)seed_below(&rng, 9), 0) > 0);
		w = take(0);
		cap = n;
		MUST(stage_decode(d, wire, &w, out, &cap) == STAGE_OK && cap == n);
		MUST(!memcmp(raw + at, out, n));
		MUST(!d->body && !stage_ready(d));	/* and nothing is left behind */
		MUST(stage_need(d) == STAGE_HEAD);
	}
}
END_TEST

START_TEST(bounds)
{
	uint64_t rng = 9;
	size_t i, n, cap, w = 0;
	const uint8_t *p;

	for (i = 0; i < TOP; i++)
		raw[i] = (uint8_t)(seed_next(&rng) >> 30);
	both(CODEC_DEFLATE, 0);
	/* A dictionary first: after that noise is learned, not coded. */
	memset(raw, 'x', 1000);
	MUST(block(0, 1000, 6, 0) < 40);
	w = take(w);
	for (i = 1000; i < TOP; i += n) {
		n = TOP - i < STAGE_BLOCK ? TOP - i : STAGE_BLOCK;
		MUST(block(i, n, 6, 0) == (long)(n + STAGE_HEAD));
		stage_wire(e, &p);
		MUST(p[0] == CODEC_STORED && p[1] == STAGE_LEARN);
		w = take(w);
	}
	/* ... and the same noise again, from the dictionary: the decoder has it too. */
	MUST(block(TOP - 30000, 20000, 6, 0) < 400);
	w = take(w);
	n = w;
	cap = TOP + 20000;
	MUST(stage_decode(d, wire, &n, out, &cap) == STAGE_OK && n == w && cap == TOP + 20000);
	MUST(!memcmp(raw, out, TOP) && !memcmp(raw + TOP - 30000, out + TOP, 20000));
	/* small ones */
	for (n = 1; n < 300; n++) {
		MUST(block(5000 + n, n, 1, 0) <= (long)(n + STAGE_HEAD));
		take(0);
	}
	/* refused, and no harm done */
	MUST(stage_encode(e, NULL, 0, 1, 1, 0) == STAGE_BAD);
	MUST(block(0, 0, 1, 0) == STAGE_BAD);
	MUST(stage_encode(e, &(struct iovec){ raw, TOP }, 1, STAGE_BLOCK + 1, 1, 0) == STAGE_BAD);
	MUST(stage_encode(e, &(struct iovec){ raw, 5 }, 1, 6, 1, 0) == STAGE_BAD);
	MUST(block(0, 9, 1, STAGE_FRESH) == STAGE_BAD && !e->bad);
	MUST(block(0, 9, 1, 0) > 0);
	/* too little memory, no such codec */
	MUST(!stage_enc_open(e, stage_enc_size(CODEC_DEFLATE) - 1, CODEC_DEFLATE, 0));
	MUST(!stage_dec_size(7) && !stage_enc_size(CODEC_NOTE) && !stage_dec_open(d, 1 << 20, 7, 0));
}
END_TEST

START_TEST(memory_is_bounded)
{
	size_t ne = stage_enc_size(CODEC_DEFLATE), nd = stage_dec_size(CODEC_DEFLATE), i, n, cap, high = 0;
	uint8_t *me = memory(ne + 64), *md = memory(nd + 64);
	uint64_t rng = 5;

	memset(me, 0xa5, ne + 64);
	memset(md, 0xa5, nd + 64);
	e = stage_enc_open(me, ne, CODEC_DEFLATE, 0);
	d = stage_dec_open(md, nd, CODEC_DEFLATE, 0);
	fill(&rng);
	for (i = 0; i < 40; i++) {
		MUST(block(i * 20000, 60000, 1 + (int)(i % 9), 0) > 0);
		n = take(0);
		cap = sizeof(out);
		MUST(stage_decode(d, wire, &n, out, &cap) == STAGE_OK && cap == 60000);
		stage_refresh(e);
	}
	for (i = 0; i < 64; i++)
		MUST(me[ne + i] == 0xa5 && md[nd + i] == 0xa5);
	for (i = 0; i < ne; i++)
		if (me[i] != 0xa5)
			high = i;
	MUST(high < 340 * 1024);	/* docs/codec.md; the rest is for other versions of zlib */
	for (high = i = 0; i < nd; i++)
		if (md[i] != 0xa5)
			high = i;
	MUST(high < 48 * 1024);
	MUST(nd < 72 * 1024);
}
END_TEST

START_TEST(marks)
{
	uint64_t w[1000], o[1000], got, want;
	int i, k;

	both(CODEC_STORED, 500);
	MUST(stage_acked(e, 0) == 500);
	for (i = 0; i < 1000; i++) {
		MUST(block(0, 1 + (size_t)i % 70, 0, 0) > 0);
		take(0);
		w[i] = e->wire;
		o[i] = e->off;
		MUST(e->marks <= STAGE_MARKS);
	}
	MUST(stage_acked(e, e->wire + 1) == 500);	/* nonsense: nothing is forgotten */
	for (i = 0; i < 1000; i++) {
		got = stage_acked(e, w[i] - 1);
		want = i ? o[i - 1] : 500;
		MUST(got <= want);
		/* never too much, and not far behind: the marks are spread over all */
		for (k = 0; k < 1000 && o[k] <= got; k++)
			;
		MUST(i - k < 1000 / (int)(STAGE_MARKS / 4));
	}
	MUST(stage_acked(e, e->wire) == e->off && !e->marks);
	MUST(stage_acked(e, 0) == e->off);		/* never back */
}
END_TEST

START_TEST(share)
{
	both(CODEC_DEFLATE, 0);
	ck_assert_uint_eq(stage_share(e, 1, 0), 1);
	ck_assert_uint_eq(stage_share(e, 1000000, 0), STAGE_BLOCK);
	ck_assert_uint_eq(stage_share(e, 100, 100000), 0);
	ck_assert_uint_eq(stage_share(e, 16384, 100000), 16384);
	MUST(block(0, 100, 1, 0) > 0);
	ck_assert_uint_eq(stage_share(e, 100, 0), 0);	/* the box is in the way */
}
END_TEST

START_TEST(last)
{
	size_t n, cap, w;

	memset(raw, 'a', 5000);
	both(CODEC_DEFLATE, 0);
	MUST(block(0, 5000, 1, STAGE_LAST) > 0);
	MUST(!stage_note(e, 1, 0));
	w = take(0);
	MUST(block(0, 1, 1, 0) == STAGE_BAD && !e->bad);
	memcpy(wire + w, "plain bytes", 11);
	n = w + 11;
	cap = 4999;
	MUST(stage_decode(d, wire, &n, out, &cap) == STAGE_OK && cap == 4999);
	MUST(stage_ready(d) && stage_ready(d));
	w = w + 11 - n;
	cap = 0;
	MUST(stage_decode(d, wire + n, &w, out, &cap) == STAGE_OK && !cap);
	cap = 9;
	n += w;
	w = sizeof("plain bytes");
	MUST(stage_decode(d, wire + n, &w, out, &cap) == STAGE_END && cap == 1);
	MUST(!memcmp(wire + n + w, "plain bytes", 11));
	n = 5;
	cap = 5;
	MUST(stage_decode(d, wire, &n, out, &cap) == STAGE_END && !n && !cap);
	/* by a note */
	both(CODEC_DEFLATE, 0);
	MUST(stage_note(e, 77, STAGE_LAST));
	n = take(0) + 3;
	cap = 9;
	MUST(stage_decode(d, wire, &n, out, &cap) == STAGE_END && n == STAGE_HEAD + STAGE_NOTE && d->peer_off == 77);
}
END_TEST

/* Somebody died in a call (a process that shares the stage was killed). */
START_TEST(died_inside)
{
	size_t n = 0, cap = 1;

	both(CODEC_DEFLATE, 0);
	e->inside = d->inside = 1;
	MUST(block(0, 100, 1, 0) == STAGE_BAD && e->bad);
	MUST(stage_decode(d, wire, &n, out, &cap) == STAGE_BAD && d->bad);
	MUST(!stage_ready(d));
}
END_TEST

/* ---- golden blocks ---- */

static size_t unhex(const char *s, uint8_t *p)
{
	size_t n = 0;
	unsigned v;

	for (; *s; s++) {
		if (*s == ' ')
			continue;
		MUST(sscanf(s, "%2x", &v) == 1);
		p[n++] = (uint8_t)v;
		s++;
	}
	return n;
}

static size_t golden(const char *name, uint8_t *p, size_t max)
{
	char path[512], line[512];
	size_t n = 0;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", GOLDEN_DIR, name);
	f = fopen(path, "r");
	MUST(f);
	while (fgets(line, sizeof(line), f)) {
		line[strcspn(line, "#\n")] = 0;
		n += unhex(line, p + n);
		MUST(n <= max);
	}
	fclose(f);
	return n;
}

/* What was published decodes, for ever. That the encoder makes the same is zlib's affair. */
START_TEST(golden_blocks)
{
	size_t n = golden("stage/blocks.hex", wire, sizeof(wire)), used, cap, i, given;
	size_t want = golden("stage/blocks.raw.hex", raw, sizeof(raw));

	memset(raw + want, 0, STAGE_BLOCK);
	want += STAGE_BLOCK;

	both(CODEC_DEFLATE, 0);
	used = n;
	cap = sizeof(out);
	MUST(stage_decode(d, wire, &used, out, &cap) == STAGE_END);
	MUST(used == n && cap == want && !memcmp(out, raw, want));
	MUST(d->peer_off == 0x0102030405060708);
	/* byte by byte */
	both(CODEC_DEFLATE, 0);
	for (i = given = 0; i < n; i++) {
		used = 1;
		cap = sizeof(out) - given;
		MUST(stage_decode(d, wire + i, &used, out + given, &cap) == (i + 1 == n ? STAGE_END : STAGE_OK));
		MUST(used == 1);
		given += cap;
	}
	MUST(given == want && !memcmp(out, raw, want));
}
END_TEST

/* The heads that the encoder makes, byte for byte. */
START_TEST(golden_heads)
{
	static const uint8_t stored[] = { 0, 0, 4, 0, 4, 0, 'h', 'e', 'l', 'l', 'o' };
	static const uint8_t note[] = { 255, 0, 0, 0, 7, 0, 8, 7, 6, 5, 4, 3, 2, 1 };
	const uint8_t *p;

	both(CODEC_DEFLATE, 0);
	memcpy(raw, "hello", 5);
	MUST(block(0, 5, 6, 0) == sizeof(stored) && stage_wire(e, &p) == sizeof(stored));
	MUST(!memcmp(p, stored, sizeof(stored)));
	take(0);
	MUST(stage_note(e, 0x0102030405060708, 0) && stage_wire(e, &p) == sizeof(note));
	MUST(!memcmp(p, note, sizeof(note)));
	take(0);
	memset(raw, 0, STAGE_BLOCK);
	MUST(block(0, STAGE_BLOCK, 6, 0) > 0);
	stage_wire(e, &p);
	MUST(p[0] == 1 && p[1] == STAGE_FRESH && p[2] == 255 && p[3] == 255);
	take(0);
	MUST(block(0, 256, 6, STAGE_LAST) > 0);
	stage_wire(e, &p);
	MUST(p[0] == 1 && p[1] == STAGE_LAST && p[2] == 255 && p[3] == 0);
}
END_TEST

/* ---- a hostile peer ---- */

/* Feeds n bytes; what came out, -1 when it was found bad. A bad one stays bad. */
static long feed(const uint8_t *p, size_t n, size_t piece, size_t room)
{
	size_t at = 0, given = 0, k, cap;
	enum stage_result r;

	for (;;) {
		k = n - at < piece ? n - at : piece;
		cap = sizeof(out) - given < room ? sizeof(out) - given : room;
		r = stage_decode(d, p + at, &k, out + given, &cap);
		at += k;
		given += cap;
		if (r == STAGE_BAD) {
			k = n;
			cap = room;
			MUST(stage_decode(d, p, &k, out, &cap) == STAGE_BAD && !k && !cap && !stage_ready(d));
			return -1;
		}
		if (r == STAGE_END || (!k && !cap))
			return (long)given;
	}
}

static bool bad(const char *hex)
{
	uint8_t p[256];

	both(CODEC_DEFLATE, 0);
	return feed(p, unhex(hex, p), 1000, 100000) < 0;
}

START_TEST(bad_heads)
{
	MUST(!bad("00 00 0000 0000 41"));
	MUST(bad("02 00 0100 0000 41"));		/* no such codec */
	MUST(bad("fe 00 0000 0000 41"));
	MUST(bad("00 00 0100 0000 41"));		/* stored: lengths differ */
	MUST(bad("00 08 0000 0000 41"));		/* flags nobody knows */
	MUST(bad("00 80 0000 0000 41"));
	MUST(bad("00 01 0000 0000 41"));		/* stored and fresh */
	MUST(bad("00 02 0000 0000 41"));		/* nothing to learn into */
	MUST(bad("01 00 0400 0000 41"));		/* no dictionary yet */
	MUST(bad("01 03 0400 0000 41"));		/* coded and learn */
	MUST(bad("01 01 0400 0400 4141414141"));	/* did not shrink */
	MUST(bad("01 01 0400 0500 4141414141"));
	MUST(bad("ff 00 0100 0700 0000000000000000"));	/* a note of another size */
	MUST(bad("ff 00 0000 0600 00000000000000"));
	MUST(bad("ff 01 0000 0700 0000000000000000"));
	MUST(!bad("ff 00 0000 0700 0500000000000000"));
	MUST(bad("ff 00 0000 0700 0500000000000000 ff 00 0000 0700 0400000000000000"));	/* back */
	/* a decoder without codec */
	both(CODEC_STORED, 0);
	MUST(feed((const uint8_t *)"\1\1\4\0\0\0A", 7, 9, 9) < 0);
}
END_TEST

/* A deflate stream of our own making as one block that claims `claim` bytes. */
static size_t forge(uint8_t *p, const uint8_t *src, size_t n, uint32_t claim, int flush, size_t cut, size_t pad)
{
	z_stream z = { 0 };
	size_t len;

	MUST(deflateInit2(&z, 9, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY) == Z_OK);
	z.next_in = (Bytef *)(uintptr_t)src;
	z.avail_in = (uInt)n;
	z.next_out = p + 6;
	z.avail_out = 70000;
	MUST(deflate(&z, flush) >= 0);
	len = 70000 - z.avail_out - cut;
	memset(p + 6 + len, 0, pad);
	len += pad;
	deflateEnd(&z);
	p[0] = 1;
	p[1] = STAGE_FRESH;
	p[2] = (uint8_t)(claim - 1);
	p[3] = (uint8_t)((claim - 1) >> 8);
	p[4] = (uint8_t)(len - 1);
	p[5] = (uint8_t)((len - 1) >> 8);
	return len + 6;
}

START_TEST(bombs)
{
	size_t n;

	memset(raw, 0, TOP);
	/* right */
	both(CODEC_DEFLATE, 0);
	n = forge(wire, raw, 65536, 65536, Z_SYNC_FLUSH, 4, 0);
	MUST(feed(wire, n, 1 << 20, 1 << 20) == 65536);
	/* 1 MiB in a block that claims 64 KiB, 1 KiB, 200 bytes: never a byte more than claimed */
	for (uint32_t claim = 65536; claim > 1100; claim /= 2) {
		both(CODEC_DEFLATE, 0);
		memset(out, 0xee, sizeof(out));
		n = forge(wire, raw, TOP, claim, Z_SYNC_FLUSH, 4, 0);
		MUST(feed(wire, n, 1 << 20, 1 << 20) < 0);
		MUST(out[claim] == 0xee);
		both(CODEC_DEFLATE, 0);
		MUST(feed(wire, n, 1, 7) < 0);
	}
	/* fewer than claimed, a byte more, an end of stream, cut, padded, the tail left on */
	static const struct { uint32_t n, claim; int flush; size_t cut, pad; } f[] = {
		{ 5000, 5001, Z_SYNC_FLUSH, 4, 0 }, { 5000, 65536, Z_SYNC_FLUSH, 4, 0 },
		{ 5000, 4999, Z_SYNC_FLUSH, 4, 0 }, { 5000, 5000, Z_FINISH, 0, 0 },
		{ 5000, 5000, Z_FINISH, 0, 4 }, { 5000, 5000, Z_SYNC_FLUSH, 6, 0 }, { 5000, 5000, Z_SYNC_FLUSH, 12, 0 },
		{ 5000, 5000, Z_SYNC_FLUSH, 4, 3 }, { 5000, 5000, Z_SYNC_FLUSH, 2, 0 }, { 5000, 5000, Z_SYNC_FLUSH, 1, 0 },
	};
	for (size_t i = 0; i < ARRAY_SIZE(f); i++) {
		n = forge(wire, raw, f[i].n, f[i].claim, f[i].flush, f[i].cut, f[i].pad);
		both(CODEC_DEFLATE, 0);
		ck_assert_msg(feed(wire, n, 1 << 20, 1 << 20) < 0, "case %zu passes", i);
		both(CODEC_DEFLATE, 0);
		ck_assert_msg(feed(wire, n, 1, 13) < 0, "case %zu passes byte by byte", i);
	}
	/* a distance before the beginning of the dictionary: 'a', then a match 2 back */
	{
		uint8_t p[] = { 1, 1, 9, 0, 2, 0, 0x4b, 0x84, 0x02 };

		both(CODEC_DEFLATE, 0);
		MUST(feed(p, sizeof(p), 100, 100) < 0);
	}
}
END_TEST

static size_t valid(uint64_t *rng, size_t total, size_t most)
{
	size_t at, n, w = 0;

	fill(rng);
	both(CODEC_DEFLATE, 0);
	for (at = 0; at < total; at += n) {
		n = 1 + seed_below(rng, (uint32_t)most);
		if (n > total - at)
			n = total - at;
		MUST(block(at, n, (int)seed_below(rng, 10), 0) > 0);
		w = take(w);
	}
	return w;
}

/* Every prefix of a valid stream gives a prefix of its bytes, and then waits. */
START_TEST(prefixes)
{
	uint64_t rng = 11;
	size_t w = valid(&rng, 12000, 1500), i;
	long k, was = 0;

	for (i = 0; i <= w; i++) {
		both(CODEC_DEFLATE, 0);
		k = feed(wire, i, 1 + seed_below(&rng, 300), 1 + seed_below(&rng, 3000));
		MUST(k >= was && !memcmp(raw, out, (size_t)k));
		was = k;
		MUST(i == w || stage_need(d) > 0);
	}
	MUST(was == 12000);
}
END_TEST

/* Flipped bits: bad, or other bytes, but never more than the heads say, and it ends. */
START_TEST(flips)
{
	uint64_t rng = seed_env("ROAM_SEED", 1);
	size_t w = valid(&rng, 8000, 1500), i, bads = 0;
	long k;

	for (i = 0; i < 8 * w; i++) {
		wire[i / 8] ^= (uint8_t)(1 << i % 8);
		both(CODEC_DEFLATE, 0);
		k = feed(wire, w, 1 + seed_below(&rng, 4000), 1 + seed_below(&rng, 9000));
		MUST(k <= (long)(w / STAGE_HEAD * STAGE_BLOCK));
		bads += k < 0;
		wire[i / 8] ^= (uint8_t)(1 << i % 8);
	}
	MUST(bads > w);		/* most of them show */
}
END_TEST

START_TEST(garbage)
{
	uint64_t rng = seed_env("ROAM_SEED", 1) + (uint64_t)_i;
	size_t w = valid(&rng, 100000, 9000), n, i, r;

	for (r = 0; r < 1000; r++) {
		n = 1 + seed_below(&rng, 3000);
		if (r % 2) {
			/* a valid stream with a hole or a scar in it */
			size_t at = seed_below(&rng, (uint32_t)(w - 4000));
			uint8_t *p = malloc(n + 4000);

			MUST(p);
			memcpy(p, wire + at, n + 1000 < w - at ? n + 1000 : w - at);
			both(CODEC_DEFLATE, 0);
			feed(wire, seed_below(&rng, (uint32_t)w), 5000, 5000);
			if (!d->bad)
				feed(p, n, 5000, 5000);
			free(p);
			continue;
		}
		for (i = 0; i < n; i++)
			out[STAGE_BLOCK + i] = (uint8_t)seed_next(&rng);
		out[STAGE_BLOCK] &= 1;
		out[STAGE_BLOCK + 1] &= 7;
		uint8_t *p = malloc(n);

		MUST(p);
		memcpy(p, out + STAGE_BLOCK, n);
		both(CODEC_DEFLATE, 0);
		feed(p, n, 1 + seed_below(&rng, 3000), 1 + seed_below(&rng, 70000));
		free(p);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("stage");
	TCase *t = tcase_create("stage");
	SRunner *sr;
	int bad_tests;

	suite_add_tcase(s, t);
	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, model, 0, 10);
	tcase_add_test(t, prompt);
	tcase_add_test(t, bounds);
	tcase_add_test(t, memory_is_bounded);
	tcase_add_test(t, marks);
	tcase_add_test(t, share);
	tcase_add_test(t, last);
	tcase_add_test(t, died_inside);
	tcase_add_test(t, golden_blocks);
	tcase_add_test(t, golden_heads);
	tcase_add_test(t, bad_heads);
	tcase_add_test(t, bombs);
	tcase_add_test(t, prefixes);
	tcase_add_test(t, flips);
	tcase_add_loop_test(t, garbage, 0, 3);
	sr = srunner_create(s);
	srunner_set_fork_status(sr, CK_FORK);
	srunner_run_all(sr, CK_NORMAL);
	bad_tests = srunner_ntests_failed(sr);
	srunner_free(sr);
	return bad_tests != 0;
}
