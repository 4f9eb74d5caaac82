/* The ring's edge to the kernel: waking, and waiting by spinning and then on a futex. */
#ifndef ROAM_RING_WAIT_H
#define ROAM_RING_WAIT_H

#include "ring.h"
#include "spin.h"

/* Does what a call of ring.h asked for; what is left is RING_DOORBELL, which is the caller's. */
void ring_wake(struct ring *r, uint32_t call);

static inline uint32_t ring_call(struct ring *r, uint32_t call)
{
	if (unlikely(call))
		ring_wake(r, call);
	return call & RING_DOORBELL;
}

/*
 * Below the direction's lock: until there is something to read, or room, or
 * the ring is broken: 0.  Or EINTR, ETIMEDOUT (tmo_ns >= 0); may come back
 * with 0 and nothing, then look and call again.
 */
int ring_wait(struct ring *r, enum ring_dir dir, struct spin *s, int64_t tmo_ns);
/* Only the spinning: true when there may be something. To be followed by ring_spun once all waiting is over. */
bool ring_spin(struct ring *r, enum ring_dir dir, struct spin *s, struct spin_wait *w);

#endif
