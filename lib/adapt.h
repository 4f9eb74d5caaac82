/*
 * Does compression pay on this link? The helper watches the connections to
 * other hosts that send much (rate.h), decides (decide.h), and asks for the
 * codec stage or lets it go (coding.h); the sender's thread asks which level
 * a block is worth.
 *
 * A connection is watched from its first 64 KiB on until nothing was sent for
 * a second; then nothing of this costs anything.
 */
#ifndef ROAM_ADAPT_H
#define ROAM_ADAPT_H

#include "decide.h"
#include "vsock.h"

/* ---- senders; tx is held */

/* This much was sent: is it being watched, and does the watcher ask what it looks like? */
void adapt_sent_slow(struct vsock *v);
static inline void adapt_sent(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);

	if (unlikely(atomic_load_explicit(&st->remote, memory_order_relaxed)) &&
	    (!atomic_load_explicit(&v->rated, memory_order_relaxed) ||
	     atomic_load_explicit(&st->code_ratio, memory_order_relaxed) == CODE_ASKED))
		adapt_sent_slow(v);
}
/* The level for the next block of n bytes with `queued` bytes before it, 0: stored. */
int adapt_level(struct vsock *v, size_t n, uint64_t queued);
/* A block of raw bytes took so long, in elapsed time. */
void adapt_saw(int level, size_t raw, uint64_t ns);

/* ---- the helper */
void adapt_watch(struct vsock *v);
void adapt_forget(struct vsock *v);
void adapt_timers(uint64_t now, uint64_t *next);
void adapt_fork_child(void);

#endif
