/*
 * The ring in a virtual socket: a link whose bytes go through shared memory
 * (ring.h), over a *base*: a TCP socket, under the application's descriptor as
 * ever, that carries no byte of the stream.  It is there for what a kernel
 * socket is good for: readiness, and the death of the other end.
 *
 * A connection moves from TCP to the ring and back by the same handover as a
 * resume (mend.c): REQ and OK carry the ends' boxes, the new TCP link is the
 * base.  So at every moment it has one link, and all of a stream's bytes from
 * an exact offset on are in one place.
 *
 * Doorbells.  A byte in the base wakes whoever sleeps in poll or epoll.  At any
 * time either the peer was told to ring (RING_POLL is armed), or a doorbell
 * byte waits in the base, or is on its way.  So nobody can fall asleep in the
 * kernel over a stream that has something.  The byte is taken away only below
 * the rx lock, when the ring is empty, and then the bell is armed again at once.
 * While a busy program leaves it there, the peer rings no more: no system call
 * at either end.
 *
 * One byte serves all who sleep here, for bytes and for room.  So it is not
 * taken away either while another one sleeps (v->waits) for what it was rung
 * for: who would sleep, but may not take it, naps until the other has woken.
 *
 * Who may touch the mapping: holders of tx or rx that have found v->ring below
 * the lock, threads counted in v->lookers that have found it after that, and
 * walkers of an epoll set below its lock.  vring_retire waits for all of them.
 */
#ifndef ROAM_VRING_H
#define ROAM_VRING_H

#include "ring_wait.h"
#include "vs_io.h"

struct vring {			/* one process's view; the end's state is in the vstate */
	struct ring r;
	struct prov prov;
	struct spin rx_spin, tx_spin;
	struct vsock *v;
	struct vring *next;	/* retired */
	uint64_t due;
};

/* ---- its life: the helper's (vring.c) */

/* Both regions are still to be opened and joined. NULL/errno. */
struct vring *vring_new(struct vsock *v, uint32_t size);
/* Our box for the peer: a descriptor that stays the ring's; *flags: MSGF_RING... */
int vring_box(struct vring *vr, uint8_t *flags);
/* The peer's box; fd is taken over. False/errno: it makes no sense, or no memory. */
bool vring_join(struct vring *vr, int fd, uint8_t flags);
uint32_t vring_size_of(int fd);		/* of a box that was sent to us; 0: it is none */
void vring_free(struct vring *vr);
/*
 * Both boxes are there: from these offsets on. first: the answerer's, before it
 * says OK; what the peer has not written yet is put there for it.
 */
void vring_begin(struct vsock *v, struct vring *vr, uint64_t tx, uint64_t rx, bool first);
/* The new link is this ring (NULL: plain TCP). tx and rx are held, nobody is inside the old one. */
void vring_adopt(struct vsock *v, struct vring *vr);
/* Unmapped when nobody looks any more. */
void vring_retire(struct vsock *v, struct vring *vr);
void vring_timers(uint64_t now, uint64_t *next);
/* Doorbells that were rung: has the other kernel got them? */
void vring_heard(uint64_t now, uint64_t *next);
void vring_fork_child(void);
/* tcpi_state as it would be without a ring; *state: the base's. */
void vring_tcp_state(struct vsock *v, uint8_t *state);
/* What of a ring is still to be freed when the connection's memory is. */
void vring_reap(struct vsock *v);
/* Our sent bytes are in the replay buffer again; tx is held, and the phase keeps senders out. */
bool vring_to_replay(struct vsock *v);
/* The consumed bytes are in the counters again; rx is held. */
void vring_to_counters(struct vsock *v);
/* Gives the ring what it lacks of the replay buffer; tx is held. False: it is full. */
bool vring_flush_locked(struct vsock *v, int fd);

/* ---- anybody */

/* Threads that sleep on the ring's futexes, here and in sharers, look at the phase. */
void vring_kick(struct vsock *v);
/* The stream's end or a close was announced: the peer's sleepers look. tx is held or nobody sends. */
void vring_kick_peer(struct vsock *v, int fd);
/* One byte through the base. False: the base is dead; vs_break() then, without tx. */
bool vring_bell(struct vsock *v, int fd);
/* Scribbled memory: ECONNRESET for good. */
void vring_broken(struct vsock *v, int fd);
/* Unread bytes, and sent ones that the peer has not read; 0 when the link is no ring. */
uint64_t vring_inq(struct vsock *v);
uint64_t vring_outq(struct vsock *v);
/* The last close, or exit: our end is announced on a ring, and the base ends as the stream should. */
void vring_end(struct vsock *v, int fd);

static inline struct vring *vring_of(struct vsock *v)
{
	return atomic_load_explicit(&v->ring, memory_order_acquire);
}

/* Does the kernel's socket carry the stream's own bytes, and nothing else? */
static inline bool vs_bare(struct vsock *v)
{
	return !vring_of(v) && !vs_coded(v);
}

/* Announced by the peer, not yet judged. */
static inline uint64_t vring_fin(struct vsock *v, struct vstate *st)
{
	return v->pair ? atomic_load(&v->pair->side[!st->ho.role].fin) : PAIR_NO_FIN;
}

/* Closed over there, all of ours was read, and all of theirs is here. */
static inline bool vring_clean(struct vsock *v, struct vstate *st)
{
	return atomic_load(&v->pair->side[!st->ho.role].closed) == PAIR_CLOSED_CLEAN &&
		vring_fin(v, st) == atomic_load(&st->ring.rx_head);
}

/*
 * Closed over there, and all of ours was read: if the base says that it was reset, it
 * was a doorbell of ours that did it, which came too late to be read.
 */
static inline bool vring_orderly(struct vsock *v, struct vstate *st, struct vring *vr)
{
	uint32_t closed = atomic_load(&v->pair->side[!st->ho.role].closed);

	return (closed == PAIR_CLOSED || closed == PAIR_CLOSED_CLEAN) && !atomic_load(&st->to_nobody) &&
		ring_all_taken(&vr->r);
}

/* ---- calls (vs_ring.c); IO_NOCALL: not on this ring now, the phase says why */
ssize_t vring_recv(struct vsock *v, struct vring *vr, int fd, struct io_op *op, size_t done, bool *moved);
/* *moved: the call ends early because the ring does; what is left goes another way. */
ssize_t vring_send(struct vsock *v, struct vring *vr, int fd, const struct io_op *op, size_t done, bool *moved);

/* ---- readiness (vs_ring_poll.c) */

/* In poll's bits. The caller is a looker, or holds an epoll set's lock. */
short vring_events(struct vsock *v, struct vring *vr);
/*
 * Before a sleep in the kernel: takes the doorbell away and arms it, for bytes
 * behind `seen` (or any, UINT64_MAX) and, if asked, for room. False: there is
 * something already, or another thread is inside.
 */
bool vring_arm(struct vsock *v, struct vring *vr, int fd, bool in, uint64_t seen, bool out);
/* The sleep that vring_arm allowed is over, or is not slept. */
void vring_unarm(struct vsock *v, bool in, bool out);

/* ---- to the ring and back (ring_move.c) */

/* False: calls of this process that we do not see may read or write its sockets. */
extern _Atomic bool vring_allowed;
/* May the link become one, as far as both ends have said? And shall the next one? */
bool vring_may(struct vsock *v);
bool vring_wanted(struct vsock *v);
/* PAIR_RING_..., to the peer; and is the peer about to move, so that the link's end is no break? */
void vring_say(struct vsock *v, uint32_t what);
bool vring_peer_moves(struct vsock *v);
/* The link is being left; false: we have no way to say so. */
bool vring_follow(struct vsock *v);
/* A connection has gone live, on one host: when is a ring looked for? */
void vring_begin_count(struct vsock *v);
void vring_due(struct vsock *v);
void vring_get_ready(void);		/* in the helper; slow, once */
/* A send of n bytes on TCP: is it time? 16 KiB count as another one. */
static inline void vring_count(struct vsock *v, size_t n)
{
	uint32_t left = atomic_load_explicit(&v->until_ring, memory_order_relaxed), cost = 1 + (uint32_t)(n >> 14);

	if (likely(left == UINT32_MAX))
		return;
	atomic_store_explicit(&v->until_ring, left > cost ? left - cost : UINT32_MAX, memory_order_relaxed);
	if (unlikely(left <= cost))
		vring_due(v);
}

/* Could the link be left for another kind now, without losing anything? */
bool vring_still(struct vsock *v, int fd);
/* Asks for the ring now; false: not possible. */
bool vring_propose(struct vsock *v);
uint32_t vring_size(struct vsock *v);	/* for a new one, by what the connection has sent */
/* A sender waits for room in a ring of this size: a larger one instead. False: not now. */
#define RING_GROW_MAX	(4u << 20)
bool vring_grow(struct vsock *v, uint32_t size);
/* Back to bare TCP from a ring or the codec stage, for good (never) or not; waits until it is done. False: the connection has ended. */
bool vring_leave(struct vsock *v, bool never);
/* Another program is about to run with what is inherited: those descriptors must be plain sockets. */
void vring_leave_inherited(void);

#endif
