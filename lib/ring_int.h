/* Between ring.c and ring_sleep.c. */
#ifndef ROAM_RING_INT_H
#define ROAM_RING_INT_H

#include "ring.h"

#define RELAXED	memory_order_relaxed
#define load(p)		atomic_load_explicit((p), RELAXED)
#define store(p, v)	atomic_store_explicit((p), (v), RELAXED)

/* ThreadSanitizer does not know fences; what they order here are atomics, which it need not be told of. */
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wtsan"
#endif

/* The sender's half of sleeping: rx_state was s, and that is not what it was when there was nothing to do. */
void ring_wake_slow(struct ring *r, uint32_t s, uint32_t *call);
/* The answer to a state word that was not there before: each generation is answered once. */
void ring_answer(struct ring *r, enum ring_dir who, uint32_t s, uint32_t *answered, uint32_t *call);
/* Nobody has slept for a while. */
void ring_calm(struct ring *r);
#define RING_LOUD	UINT32_MAX	/* no state: look at each one */
#define RING_CALM	256u	/* receives without a sleep, then LIGHT again */

/* Our head, to the peer. */
void ring_tell(struct ring *r, uint64_t head);

#endif
