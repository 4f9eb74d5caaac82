/*
 * Hostile wire bytes into the decoder.  Two bytes say how they are cut and how
 * much room there is.  Cut in another way they must give the same stream; an
 * error is final; memory is a malloc of the stated size.
 */
#include "stage.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define MUST(c) do { if (!(c)) abort(); } while (0)
#define MOST	(1u << 20)		/* of output that is compared */

static uint8_t *one, *two;

static size_t run(const uint8_t *p, size_t n, size_t piece, size_t room, uint8_t *out, bool *bad)
{
	size_t size = (stage_dec_size(CODEC_DEFLATE) + 63) & ~(size_t)63, at = 0, given = 0, k, cap, whole;
	struct stage_dec *d = stage_dec_open(aligned_alloc(64, size), size, CODEC_DEFLATE, 0);
	enum stage_result r;
	uint64_t promised;

	MUST(d);
	promised = stage_count(d, p, n, &whole);
	MUST(whole <= n && promised <= (n / STAGE_HEAD + 1) * STAGE_BLOCK);
	*bad = false;
	while (given < MOST) {
		k = n - at < piece ? n - at : piece;
		cap = MOST - given < room ? MOST - given : room;
		r = stage_decode(d, p + at, &k, out + given, &cap);
		at += k;
		given += cap;
		MUST(at <= n && d->wire == at && d->off == given);
		if (r == STAGE_BAD) {
			k = cap = 1;
			MUST(stage_decode(d, p, &k, out, &cap) == STAGE_BAD && !k && !cap);
			*bad = true;
			break;
		}
		if (room % 3 == 0)
			stage_ready(d);
		if (r == STAGE_END || (!k && !cap))
			break;
	}
	free(d);
	return given;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	bool b1, b2;
	size_t n1, n2;

	if (!one) {
		one = malloc(MOST);
		two = malloc(MOST);
		MUST(one && two);
	}
	if (n < 2)
		return 0;
	n1 = run(data + 2, n - 2, MOST, MOST, one, &b1);
	n2 = run(data + 2, n - 2, 1 + data[0] % 64u, 1 + data[1] * 37u, two, &b2);
	if (n1 < MOST && n2 < MOST)
		MUST(b1 == b2);
	/* How much of a bad block comes out before it shows depends on the cuts. */
	if (!b1 && n1 < MOST)
		MUST(n1 == n2);
	MUST(!memcmp(one, two, n1 < n2 ? n1 : n2));
	return 0;
}
