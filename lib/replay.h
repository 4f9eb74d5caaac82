/*
 * The replay buffer: sent bytes that the other side may still ask for.
 *
 * Pure: a ring over memory that the caller owns (shared between processes, so
 * no pointer is kept), offsets are those of the stream, 64 bits, from 0.
 *
 *	base                                end
 *	 |<------- held: replay_used ------->|
 *
 * The ring uses the first `cap` bytes of the memory, a power of two that grows
 * with what is in flight and goes back to the smallest when it is idle, so
 * that the copy stays in the cache.  Not thread-safe: the caller's send lock
 * covers every call but replay_end().
 */
#ifndef ROAM_REPLAY_H
#define ROAM_REPLAY_H

#include "types.h"

struct replay {
	uint64_t base;
	uint64_t end;
	uint32_t cap;
	uint32_t min;		/* smallest capacity, a power of two */
	uint32_t max;		/* size of the memory, a power of two */
	uint32_t head;		/* where `base` lies in the ring */
};

/* min and max are powers of two, min <= max. */
void replay_init(struct replay *r, uint64_t off, uint32_t min, uint32_t max);

/* `end` as a thread without the send lock may ask for it: a bound that only grows. */
static inline uint64_t replay_end(const struct replay *r)
{
	return __atomic_load_n(&r->end, __ATOMIC_RELAXED);
}

static inline void replay_set_end(struct replay *r, uint64_t end)
{
	__atomic_store_n(&r->end, end, __ATOMIC_RELAXED);
}

static inline uint64_t replay_used(const struct replay *r)
{
	return r->end - r->base;
}

static inline uint64_t replay_room(const struct replay *r)
{
	return r->cap - replay_used(r);
}

/* True when the numbers make sense; false on memory that was scribbled on. */
bool replay_sane(const struct replay *r);

/* Makes room for n more bytes; false when they would not fit into `max`. */
bool replay_reserve(struct replay *r, uint8_t *mem, uint64_t n);
/* n <= replay_room(). */
void replay_append(struct replay *r, uint8_t *mem, const void *src, size_t n);
/* Puts back n bytes before `base`; n <= replay_room(), n <= base. */
void replay_prepend(struct replay *r, uint8_t *mem, const void *src, size_t n);
/* Forgets everything below `to`; an offset outside what is held is clamped. */
void replay_trim(struct replay *r, uint64_t to);
/* Contiguous bytes from offset `off`: their number, 0 at the end. */
size_t replay_at(const struct replay *r, uint8_t *mem, uint64_t off, const uint8_t **p);
/*
 * A ring that grew for a burst goes back to `cap` bytes (a power of two) when
 * what is held fits into half of it: a stream that wanders over megabytes
 * misses the cache with every byte.
 */
void replay_shrink(struct replay *r, uint8_t *mem, uint32_t cap);
/* Back to the smallest ring when nothing is held; true when cap changed. */
bool replay_relax(struct replay *r);

#endif
