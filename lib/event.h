/*
 * Events for the program (roam_events in roam.h).
 *
 * A subscriber is a socket pair: the program has one end, we hide the other.
 * Not an eventfd with a queue behind it: an event is told by whichever thread it happens in,
 * the program's or the helper's, and the helper has a table of descriptors of its
 * own; a message in a socket is order, waking and limit in one, and the program may
 * close its end without a word.
 */
#ifndef ROAM_EVENT_H
#define ROAM_EVENT_H

#include "roam.h"
#include "vsock.h"

extern _Atomic uint32_t event_subscribers;

void event_send(struct vsock *v, uint32_t kind, uint32_t reason, uint64_t n);

/* ROAM_EVENT_...; v NULL: of the whole process. n: nanoseconds, or what the kind says. Any lock may be held. */
static inline void event_say(struct vsock *v, uint32_t kind, uint32_t reason, uint64_t n)
{
	if (unlikely(atomic_load_explicit(&event_subscribers, memory_order_relaxed)))
		event_send(v, kind, reason, n);
}

void event_moved(int from, int to);	/* the application wants a hidden descriptor's number */
void event_fork_child(void);

#endif
