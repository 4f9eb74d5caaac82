#include "replay.h"
#include <string.h>

void replay_init(struct replay *r, uint64_t off, uint32_t min, uint32_t max)
{
	*r = (struct replay){ .base = off, .end = off, .cap = min, .min = min, .max = max };
}

static bool pow2(uint32_t v)
{
	return v && !(v & (v - 1));
}

bool replay_sane(const struct replay *r)
{
	return pow2(r->cap) && pow2(r->max) && pow2(r->min) && r->min <= r->cap &&
		r->cap <= r->max && r->base <= r->end && replay_used(r) <= r->cap &&
		r->head < r->cap;
}

bool replay_reserve(struct replay *r, uint8_t *mem, uint64_t n)
{
	uint64_t used = replay_used(r), cap = r->cap;

	if (used == 0)
		r->head = 0;
	if (n <= cap - used)
		return true;
	if (n > r->max || used + n > r->max)
		return false;
	while (cap < used + n)
		cap *= 2;
	/*
	 * In the larger ring the wrapped part goes behind the old ring's end;
	 * it is no longer than the old ring, so it fits and lies contiguous.
	 */
	if (r->head + used > r->cap)
		memcpy(mem + r->cap, mem, (size_t)(r->head + used - r->cap));
	r->cap = (uint32_t)cap;
	return true;
}

static void put(uint8_t *mem, uint32_t cap, uint32_t pos, const uint8_t *src, size_t n)
{
	size_t first = cap - pos;

	if (n <= first) {
		memcpy(mem + pos, src, n);
		return;
	}
	memcpy(mem + pos, src, first);
	memcpy(mem, src + first, n - first);
}

void replay_append(struct replay *r, uint8_t *mem, const void *src, size_t n)
{
	if (!n)
		return;
	put(mem, r->cap, (r->head + (uint32_t)replay_used(r)) & (r->cap - 1), src, n);
	replay_set_end(r, r->end + n);
}

void replay_prepend(struct replay *r, uint8_t *mem, const void *src, size_t n)
{
	if (!n)
		return;
	r->head = (r->head - (uint32_t)n) & (r->cap - 1);
	put(mem, r->cap, r->head, src, n);
	r->base -= n;
}

void replay_trim(struct replay *r, uint64_t to)
{
	if (to > r->end)
		to = r->end;
	if (to <= r->base)
		return;
	r->head = (r->head + (uint32_t)(to - r->base)) & (r->cap - 1);
	r->base = to;
	if (r->base == r->end)
		r->head = 0;	/* start again at the front: those lines are in the cache */
}

size_t replay_at(const struct replay *r, uint8_t *mem, uint64_t off, const uint8_t **p)
{
	uint32_t pos;
	uint64_t left;

	if (off < r->base || off >= r->end)
		return 0;
	pos = (r->head + (uint32_t)(off - r->base)) & (r->cap - 1);
	left = r->end - off;
	*p = mem + pos;
	return left < r->cap - pos ? (size_t)left : r->cap - pos;
}

void replay_shrink(struct replay *r, uint8_t *mem, uint32_t cap)
{
	uint64_t used = replay_used(r);

	/* A wrapped piece waits for the next time: it will not stay wrapped. */
	if (r->cap <= cap || used > cap / 2 || r->head + used > r->cap)
		return;
	memmove(mem, mem + r->head, (size_t)used);
	r->head = 0;
	r->cap = cap;
}

bool replay_relax(struct replay *r)
{
	if (replay_used(r) || r->cap == r->min)
		return false;
	r->cap = r->min;
	r->head = 0;
	return true;
}
