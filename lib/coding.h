/*
 * The codec stage in a virtual socket: a link whose TCP socket carries blocks
 * (stage.h) instead of the stream's own bytes, in both directions.
 *
 * It comes and goes by the same handover as any new link (mend.c): REQ and OK
 * say whether the next one is coded, its first byte is the first of a fresh
 * stage.  PH_CODED in the phase word says that the present one is; no phase_ok
 * has that bit, so every call goes the slow way and is sent here.
 *
 *	send	-> replay buffer -> stage_enc -> box -> kernel		below tx
 *	recv	<- [buf] <- stage_dec <- the kernel's queue, peeked	below rx
 *
 * What the stream counts is raw bytes everywhere; only this file knows wire.
 *
 * Sending.  Bytes are accepted while the box is empty, or less than a block
 * waits behind it.  What is left when the call returns is the helper's to push
 * (WANT_FLUSH).  While accepted bytes are held back here the wire is inside a
 * block: a process that is killed then ends in the middle of one, which its
 * peer takes for a reset, not for an end.  (Except when the kernel is full
 * exactly at the end of a block.)
 *
 * Receiving.  The kernel's queue stays the only source of readiness: it is
 * empty when nothing can be given to the application, and while something can
 * (in buf, or inside the decoder) at least one byte that was decoded already is
 * left in it (`kept`).
 *
 * A receiver notes now and then how far its reader is.  Unread bytes are given
 * back to the sender when a link is left, and they must fit: more than AHEAD
 * before the other end's reader the blocks are stored, and then the kernel's
 * own window bounds them.
 */
#ifndef ROAM_CODING_H
#define ROAM_CODING_H

#include "decide.h"
#include "guess.h"
#include "stage.h"
#include "vs_io.h"

#define CODING_BUF	STAGE_BLOCK
#define CODING_AHEAD	(8u << 20)
#define CODING_NOTE	(2u << 20)	/* read since the last note */
#define CODING_ENC	(576u << 10)	/* both checked when the stage is opened */
#define CODING_DEC	(128u << 10)
#define CODING_LOWAT	(128u << 10)	/* TCP_NOTSENT_LOWAT: decisions are made late, on what is not in the kernel yet */

struct coding {				/* in the vstate's mapping, at CODING_AT */
	_Atomic bool left;		/* something waits for the kernel */
	/* below tx */
	struct guess guess;
	uint64_t wire_base;		/* what the link had sent before the first block */
	uint64_t asked;			/* wire bytes when the kernel was last asked what arrived */
	uint64_t looked;		/* stream offset when notes were last looked for */
	_Atomic uint64_t code_ns;		/* spent in the codec */
	uint64_t noted;			/* our reader was here in the last note */
	/* below rx */
	_Alignas(64) uint64_t wire_rx_base;
	uint32_t kept;			/* decoded bytes at the front of the kernel's queue */
	int err;			/* the kernel said it when there were still bytes to give */
	uint32_t at, have;		/* raw bytes in buf, for the application */
	_Atomic uint64_t peer_off;	/* the other end's reader was here */
	uint8_t buf[CODING_BUF];
	uint8_t wire[CODING_BUF + 64];	/* of the queue, as peeked */
	_Alignas(STAGE_ALIGN) uint8_t enc[CODING_ENC];
	_Alignas(STAGE_ALIGN) uint8_t dec[CODING_DEC];
};
_Static_assert(sizeof(struct coding) <= CODING_MAX, "fits behind the replay memory");

static inline struct coding *coding_of(struct vstate *st)
{
	return (struct coding *)(void *)((uint8_t *)st + CODING_AT);
}

static inline struct stage_enc *coding_enc(struct coding *c)
{
	return (struct stage_enc *)(void *)c->enc;
}

static inline struct stage_dec *coding_dec(struct coding *c)
{
	return (struct stage_dec *)(void *)c->dec;
}

/* ---- life (coding.c) */

/* Could the next link be coded, as far as this end goes?  And does it want it to be? */
bool coding_may(struct vsock *v);
bool coding_wanted(struct vsock *v);
/* Leaves the link (fd, in the caller's table) for a coded one, or for a bare one. False: not now. */
bool coding_propose(struct vsock *v, int fd);
bool coding_leave(struct vsock *v, int fd);
/*
 * The new link begins at these stream offsets, behind sent and received bytes of its
 * own. tx and rx are held. False: not one byte of it may be used.
 */
bool coding_begin(struct vstate *st, int link, uint64_t tx, uint64_t rx, uint64_t sent, uint64_t received);
/* TCP_NOTSENT_LOWAT is the application's again on a link that is not coded. tx is held. */
void coding_kept_options(struct vstate *st, int link, bool was, bool is);
/* The wire makes no sense: ECONNRESET for good. */
void coding_broken(struct vsock *v, int fd);
/*
 * The unread bytes of the link being left, raw, in memory to be freed; *got: the offset
 * of the first. tx and rx are held, the decoder stays where it is. A reason, or REASON_NONE.
 */
uint32_t coding_count(struct vsock *v, int fd, bool fin_ours, bool *fin_theirs, uint64_t *got, uint8_t **p, size_t *n);
/*
 * Closed, and all was given to the kernel. A note of the other end's reader that finds
 * no socket would be answered by a reset, and what is under way would be lost: so the
 * socket stays, and takes notes, until its FIN has been acknowledged (true).
 */
bool coding_over(struct vsock *v, int fd);
/* The last close: nothing of ours is left in the queue that the kernel would take for unread bytes. */
void coding_end(struct vsock *v, int fd);

extern _Atomic uint32_t coding_count_now;	/* more than 0: a link of this process is, or was, coded */

/* ---- calls; the phase was seen to be coded */

/*
 * Accepts some of op behind `done`; tx is held. *err: what the link said, if it is odd.
 * What is left is for the helper (coding_left).
 */
size_t coding_put(struct vsock *v, int fd, const struct io_op *op, size_t done, int *err);
/*
 * Gives the kernel what waits; tx is held.  all: also what is too little for a
 * block while the link is busy; else that is held for a moment (CODING_HOLD_NS).
 */
enum coding_pushed { CODING_DONE, CODING_FULL, CODING_HELD };
#define CODING_HOLD_NS	UINT64_C(5000000)	/* what is queued before it takes 2.3 ms at 10 Mbit/s, at least */
enum coding_pushed coding_push(struct vsock *v, int fd, bool all);
/* Does something wait for the kernel, since tx was dropped last? */
bool coding_left(struct vstate *st);
/* The lock was taken over from a dead process. */
void coding_mend_tx(struct vsock *v, int fd);
/* No more will be sent: what is left is pushed before the FIN (UNSENT), by the helper. */
void coding_last(struct vsock *v);
/* Drops what has arrived; tx is held. */
void coding_trim(struct vsock *v, int fd);
/* Tells the other end how far our reader is, unless a sender is at it; and looks for such a word of its (tx is held). */
void coding_note(struct vsock *v, int fd, uint64_t rx_off);
void coding_look_for_notes(struct vsock *v, struct vstate *st, int fd);
ssize_t coding_recv(struct vsock *v, int fd, struct io_op *op, size_t done, bool *moved);
/* Would a receive return at once? Takes what is no stream byte out of the kernel's queue. */
bool coding_readable(struct vsock *v, int fd);
/* A result of the kernel's poll: no readiness that only the wire has. False: nothing is left of it. */
bool coding_sift(struct pollfd *p);
uint64_t coding_inq(struct vsock *v, int fd);		/* unread, */
uint64_t coding_outq(struct vsock *v, int fd);		/* not acknowledged; raw bytes */
/* The announced end is not behind what this link brought. */
bool coding_fin(struct vsock *v, struct vstate *st, uint64_t fin, uint64_t unread);

#endif
