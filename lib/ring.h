/*
 * The ring link's core: a stream of bytes in each direction, in memory that
 * the other end writes.  Pure: no descriptor, no clock, no system call; who
 * has to be woken is returned, and ring_wait.c does it.
 *
 * Each end owns one box (a provider's region, provider.h).  Only the peer
 * writes to it, only its owner reads it (but for `taken`):
 *
 *	       0   taken					the owner has read: for a post mortem
 *	     128   tail      mark      word[6]		the peer sends:  producer line
 *	     256   head					the peer has read: consumer line (credit)
 *	     384   rx_state  tx_state  cpu		how the peer waits
 *	     512   rx_bell   tx_bell			the peer rings: what we sleep on
 *	    4096   data[size]				size: a power of two, 4 KiB to 16 MiB
 *
 * 128 bytes apart, since processors fetch lines in pairs.  In steady state
 * one line travels for a small message (below), two or more for a larger one;
 * head, states and bells only travel when something changes.
 *
 * Positions are the stream's own 64-bit offsets; byte x lies at data[x % size].
 *
 *	head (ours)     tail (the peer's)               head + size
 *	  |<--- to be read --->|<------- room ------------>|
 *
 * What is sent and not yet credited, [tx.head, tx.tail), stays in the ring and
 * can be read back: it is the replay buffer.
 *
 * Small messages: up to 48 bytes also travel inside the producer line, if the
 * last thing that happened was a receive (a request, an answer; in a one-way
 * stream it would only cost).  The receiver then needs no second line.  (Shm only.)  A
 * seqlock: mark = (the tail this message makes << 6 | its length) is stored
 * before the words, the tail after them; the words are right if mark still
 * says so after they were read.
 *
 * Credit: the receiver tells its head when a quarter of the ring is free since
 * it last did, and before it sleeps.  So a sender that reads "full" waits for
 * a receiver that has three quarters of the ring to read, and is then woken
 * with room worth being woken for.
 *
 * A provider that must be told (not direct): tail, mark and word stay unused;
 * the tail comes as the imm of the put_notify that brings the bytes.
 *
 * Trust.  The positions that count are in struct ring_end, in memory the peer
 * cannot write.  What is in the box may be anything at any time: each word is
 * read once, a tail or head must lie within what is possible and never go
 * back; if not, the ring is broken for good (RING_BROKEN), in both directions.
 * Every index is masked, so nothing outside is touched even then.
 *
 * Locks: sending calls below the caller's send lock, receiving ones below its
 * receive lock; a send and a receive may run at once.  Several processes may
 * share one end: struct ring_end lies in memory that they share.
 */
#ifndef ROAM_RING_H
#define ROAM_RING_H

#include "provider.h"
#include <stdatomic.h>

#define RING_MIN	4096u
#define RING_MAX	(16u << 20)
#define RING_DATA	4096u
#define RING_INLINE	48u
#define RING_BROKEN	(-1L)
#define RING_OFF_MAX	(UINT64_C(1) << 62)	/* no stream gets that far */

/* What the caller has to do after a call, or-ed into *call. */
#define RING_WAKE_RX	1u	/* prov->wake(rx_bell): ring_call() */
#define RING_WAKE_TX	2u	/* prov->wake(tx_bell): ring_call() */
#define RING_DOORBELL	4u	/* make the peer's base socket readable: it polls for bytes or for room */

/* Kinds of sleep, as told to the peer. */
#define RING_FUTEX	1u
#define RING_POLL	2u
#define RING_LIGHT	4u	/* "you need no fence" (ring.c, Sleeping) */
#define RING_GEN	8u	/* the rest counts */

struct ring_box {
	/* The exception: the owner's own word, on a line that nobody else looks at while it lives. */
	_Alignas(128) _Atomic uint64_t taken;
	_Alignas(128) _Atomic uint64_t tail;
	_Atomic uint64_t mark;
	_Atomic uint64_t word[RING_INLINE / 8];
	_Alignas(128) _Atomic uint64_t head;
	_Alignas(128) _Atomic uint32_t rx_state;
	_Atomic uint32_t tx_state;
	_Atomic uint32_t cpu;		/* where the peer last ran, + 1; 0 unknown */
	_Alignas(128) _Atomic uint32_t rx_bell;
	_Atomic uint32_t tx_bell;
	_Alignas(RING_DATA) uint8_t data[];
};
_Static_assert(offsetof(struct ring_box, data) == RING_DATA, "the head is one page");

struct ring_sleep {		/* one direction's sleepers of this end */
	uint32_t state;		/* what the peer was told last */
	uint32_t base;		/* `armed` counts those from this generation on */
	uint32_t armed;
};

struct ring_end {		/* one end, trusted; all zero but for the positions at the start */
	/* below the send lock */
	_Alignas(128) _Atomic uint64_t tail;	/* offset of the next byte we send */
	_Atomic uint64_t head;			/* the peer's, last seen and checked */
	uint64_t echo;				/* rx_head at the last put */
	uint32_t answered;			/* the peer's rx_state that was last acted upon */
	uint32_t quiet;				/* the same, if with it there is nothing to do */
	struct ring_sleep tx_sleep;
	/* below the receive lock */
	_Alignas(128) _Atomic uint64_t rx_head;	/* offset of the next byte we read */
	uint64_t rx_tail;			/* the peer's, last seen and checked */
	uint64_t told;				/* rx_head as the peer knows it */
	uint32_t rx_answered;
	uint32_t calm;				/* receives since somebody last slept */
	struct ring_sleep rx_sleep;
	/* both */
	_Alignas(128) _Atomic uint32_t broken;	/* what was wrong, enum ring_fault */
	uint32_t size;
	_Atomic uint32_t light;			/* the provider has barriers */
};

enum ring_fault { RING_FINE, RING_BAD_TAIL, RING_BAD_HEAD, RING_LINK_DEAD };

struct ring {			/* one process's view of one end */
	struct ring_box *in, *out;
	struct ring_end *end;
	struct prov *prov;
	uint32_t size;
	uint32_t small;			/* messages up to this go the short way; 0 unless direct */
	bool direct;
};

enum ring_dir { RING_RX, RING_TX };	/* waiting for bytes, for room */

struct ring_ticket {
	uint32_t gen, bell;
	bool unsure;		/* no barrier could be had: sleep a millisecond at most */
};

static inline size_t ring_len(uint32_t size)	/* of a provider's region */
{
	return RING_DATA + (size_t)size;
}

/*
 * The end's state before its first byte: offsets of the next byte to send and
 * to receive.  Once an end, before any ring_view, by whoever made the memory.
 */
void ring_start(struct ring_end *e, uint32_t size, uint64_t tx, uint64_t rx);
/* This process's view; the provider has joined. */
void ring_view(struct ring *r, struct ring_end *e, struct prov *p);
/* Then once an end, when both regions are there: puts our positions into the peer's box. */
void ring_open(struct ring *r);
/* Before that, by the end that opens first: what the peer's ring_open will put into our box. */
void ring_expect(struct ring *r);

/*
 * Bytes taken or given, at most n; 0: full, or empty; RING_BROKEN.
 * A receive may give less than there is, like recv().
 */
long ring_put(struct ring *r, const void *p, size_t n, uint32_t *call);
long ring_putv(struct ring *r, const struct iovec *v, int cnt, uint32_t *call);
long ring_get(struct ring *r, void *p, size_t n, uint32_t *call);
long ring_getv(struct ring *r, const struct iovec *v, int cnt, uint32_t *call);
/* Copies from `skip` bytes behind the next one on, and leaves them there. */
long ring_peek(struct ring *r, uint64_t skip, void *p, size_t n);
long ring_skip(struct ring *r, size_t n, uint32_t *call);
/* Bytes that can be read, room there is to write: as ring_put and ring_get would find it now. */
long ring_avail(struct ring *r);
long ring_room(struct ring *r);

/* Had a peer that was killed read all that we sent? (direct) */
bool ring_all_taken(const struct ring *r);
/* Up to where the peer says that it has read our stream; within what is possible. */
uint64_t ring_taken(const struct ring *r);
/* Sending: sent bytes the peer has not credited, contiguous from `off`; 0 at the end. */
size_t ring_unread(const struct ring *r, uint64_t off, const uint8_t **p);
/* After a lock was taken over from a dead owner: what it sent is told, sleepers are woken once more. */
void ring_mend_tx(struct ring *r, uint32_t *call);
void ring_mend_rx(struct ring *r, uint32_t *call);

/*
 * Going to sleep, below the direction's lock: true: sleep now, until woken
 * (FUTEX: while the bell is t->bell; POLL: in poll, the doorbell stays armed
 * until it was rung).  False: something is there already, or the ring is broken.
 * disarm: after a sleep on FUTEX, below the lock again.
 */
bool ring_arm(struct ring *r, enum ring_dir dir, uint32_t kind, struct ring_ticket *t);
/*
 * POLL, and it stays armed whatever is found: there may be other sleepers.
 * seen: bytes up to this tail are known of, RING_ANY: none.
 */
#define RING_ANY UINT64_MAX
bool ring_arm_poll(struct ring *r, enum ring_dir dir, uint64_t seen);
void ring_disarm(struct ring *r, enum ring_dir dir, const struct ring_ticket *t);
/* A poll for it is over, and what it waited for was found without: no doorbell. */
void ring_unpoll(struct ring *r, enum ring_dir dir);

bool ring_look_slow(struct ring *r, enum ring_dir dir);

/* Is there something new, without a verdict?  For spinning; with shm without a lock. */
static inline bool ring_look(struct ring *r, enum ring_dir dir)
{
	const struct ring_end *e = r->end;

	if (unlikely(!r->direct))
		return ring_look_slow(r, dir);
	if (dir == RING_RX)
		return atomic_load_explicit(&r->in->tail, memory_order_relaxed) !=
			atomic_load_explicit(&e->rx_head, memory_order_relaxed) ||
			atomic_load_explicit(&e->broken, memory_order_relaxed);
	return atomic_load_explicit(&r->in->head, memory_order_relaxed) !=
		atomic_load_explicit(&e->tail, memory_order_relaxed) - r->size ||
		atomic_load_explicit(&e->broken, memory_order_relaxed);
}

/* Hints for spinning: a word in the box, that only says where not to spin. */
static inline uint32_t ring_peer_cpu(const struct ring *r)
{
	return atomic_load_explicit(&r->in->cpu, memory_order_relaxed);
}

void ring_tell_cpu(struct ring *r, uint32_t cpu_plus_1);
/* Breaks it from our side: the link is gone. */
void ring_break(struct ring *r, enum ring_fault why);

#endif
