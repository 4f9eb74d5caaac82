/*
 * A lock in shared memory: one word, the owner's thread id, the top bit set
 * when somebody sleeps.  It works between processes that share the mapping,
 * notices an owner that died, and tells a signal handler that interrupted
 * its own owner apart from a contender.
 *
 * Not pthread_mutex_t: the uncontended pair costs two atomic instructions
 * (a robust process-shared mutex costs about three times that here), and the
 * word's layout does not depend on the libc of the other process.
 */
#ifndef ROAM_SHLOCK_H
#define ROAM_SHLOCK_H

#include "types.h"
#include <stdatomic.h>

#define SHLOCK_WAITERS 0x80000000u

typedef _Atomic uint32_t shlock;

enum shlock_result {
	SHLOCK_OK,
	SHLOCK_BUSY,		/* trylock, or the time is over */
	SHLOCK_INTR,		/* a signal handler ran */
	SHLOCK_SELF,		/* we are a signal handler over our own critical section */
	SHLOCK_DIED,		/* taken over from a dead owner: the state may be torn */
};

extern __thread uint32_t roam_tid_cache;
uint32_t roam_tid_slow(void);

static inline uint32_t roam_tid(void)
{
	return likely(roam_tid_cache) ? roam_tid_cache : roam_tid_slow();
}

/* tmo_ns: 0 tries once, < 0 waits for ever.  intr: give up on a signal. */
enum shlock_result shlock_take_slow(shlock *l, int64_t tmo_ns, bool intr);
void shlock_drop_slow(shlock *l);

static inline enum shlock_result shlock_take(shlock *l, int64_t tmo_ns, bool intr)
{
	uint32_t z = 0;

	if (likely(atomic_compare_exchange_strong_explicit(l, &z, roam_tid(),
			memory_order_acquire, memory_order_relaxed)))
		return SHLOCK_OK;
	return shlock_take_slow(l, tmo_ns, intr);
}

static inline void shlock_drop(shlock *l)
{
	uint32_t old = atomic_exchange_explicit(l, 0, memory_order_release);

	if (unlikely(old & SHLOCK_WAITERS))
		shlock_drop_slow(l);
}

#endif
