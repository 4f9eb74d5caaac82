/*
 * Handover: moving a live byte stream from one link to the next at an exact
 * offset.  Pure: no descriptor, no clock, no memory of its own; the caller
 * feeds it events and messages and does what it answers.
 *
 * Words
 *	tx_base, tx_end	 the replay buffer's range: what may be sent again
 *	rx_off		 bytes the application has consumed
 *	unread		 bytes received behind rx_off, not yet consumed; a
 *			 resume gives them back to their sender, so that the
 *			 new link carries the stream from rx_off on and the
 *			 kernel's queue stays the only source of truth
 *	link		 a path with a beginning and an end; an end *commits* to
 *			 one when it will read it from its first byte
 *
 * A resume (the old link is dead)
 *
 *	asker                                answerer
 *	DRAIN -> READY
 *	ASKING  -- REQ rx_off,unread ------>  DRAIN -> READY (if it was UP)
 *	UP     <-- OK  rx_off,unread -------  UP, commits; may not trim yet
 *	commits -- DONE ------------------->  may trim
 *
 * A planned handover (both links live; MSGF_CUT): each side cuts what it sends
 * at its tx_end, reads the old leg up to the other's cut and the new one from
 * there; SWITCHED says "past the cut", only then may the other trim.
 *
 * Rules that make every crash point safe
 *  1. An end that stated rx_off+unread never again reads a byte off the links
 *     it read before; an end that committed to a link drains it to its end
 *     before it states anything new.
 *  2. Nothing is trimmed on the word of a link the other end may not have
 *     committed to (ho_trim_limit).
 *  3. An asker commits on OK only.  Whoever gives up a link that it did not
 *     commit to closes it unread; rule 2 kept the bytes.
 *  4. Both ask at once: the opener's request stands, the acceptor answers it
 *     and drops its own.
 *  5. attempt grows with every request of an incarnation (epoch): a replayed
 *     request is stale, also one that was turned away, and one that was given
 *     up before an OK (OK says how far its sender's attempts went).  A lower
 *     epoch is an old incarnation: fenced.
 *  6. Whoever asked for a planned handover and heard nothing cannot know
 *     whether the other end has cut: the link is broken, a resume finds out.
 */
#ifndef ROAM_HANDOVER_H
#define ROAM_HANDOVER_H

#include "reason.h"
#include "wire.h"

enum ho_role { HO_OPENER, HO_ACCEPTOR };

enum ho_state {
	HO_UP,		/* a link carries both directions */
	HO_CUTTING,	/* asked for a planned handover: sends are held back */
	HO_DRAIN,	/* the link is dead, what it brought is being counted */
	HO_READY,	/* counted; may ask, may answer */
	HO_ASKING,	/* REQ is out */
	HO_DEAD,	/* `reason` says why */
};

struct handover {
	uint8_t gid[WIRE_GID];
	uint8_t key[WIRE_KEY];
	uint8_t role, state;
	uint8_t confirmed;	/* the peer has committed to our link */
	uint8_t legs;		/* 2: the old leg is still read, up to rx_cut */
	uint8_t planned;	/* the present link came by a planned handover, not yet confirmed */
	uint32_t epoch, peer_epoch;
	uint32_t reason;
	uint32_t refused;	/* requests turned away: stale, fenced, forged */
	uint64_t gen;		/* links committed to so far */
	uint64_t attempt, peer_attempt;
	uint64_t peer_nonce;	/* of the peer's request peer_attempt */
	uint64_t nonce;		/* of our request that is out */
	uint64_t link_nonce;	/* of the request that made the present link */
	uint64_t rx_cut, tx_cut;
	uint64_t rx_off, unread;	/* last stated */
	uint64_t peer_rx_off;		/* last stated by the peer */
};

enum ho_verdict {
	HO_IGNORE,	/* nothing to do (out may hold a reply all the same) */
	HO_BREAK,	/* break the link, drain it, then feed the same message again */
	HO_COMMIT,	/* the link that came with the message is ours: see ho_plan */
	HO_RETRY,	/* our request failed: ask again, or wait for theirs */
	HO_OVER,	/* dead: h->reason */
};

/* What to do after HO_COMMIT. */
struct ho_plan {
	uint64_t resend_from;	/* first byte that the new link carries */
	uint64_t given_back;	/* bytes from there that the peer gives back */
	bool cancel;		/* our own request, and the link meant for it, are void */
};

void ho_init(struct handover *h, enum ho_role role, const uint8_t *gid, const uint8_t *key);

/* The link died (or its owner gave it up).  True when the state changed. */
bool ho_break(struct handover *h);
/* Every byte the dead links brought is accounted for. */
void ho_drained(struct handover *h, uint64_t rx_off, uint64_t unread);
/* Builds the request for a resume (READY) or a planned handover (UP).  False: not now. */
bool ho_ask(struct handover *h, uint64_t nonce, uint64_t tx_end, bool cut, struct msg *out);
/*
 * Our request could not be delivered or was not answered.  HO_BREAK: break the
 * link and drain it, the other end may have cut already.
 */
enum ho_verdict ho_ask_failed(struct handover *h);
/*
 * A message whose MAC is right.  out->type is 0 or a reply to send on the same
 * channel, before anything else is done.
 */
enum ho_verdict ho_input(struct handover *h, const struct msg *in, uint64_t tx_base,
			 uint64_t tx_end, struct msg *out, struct ho_plan *plan);
/* Two legs: the old one has been read up to the cut. Fills SWITCHED; false: not yet. */
bool ho_switched(struct handover *h, uint64_t rx_off, struct msg *out);
/* No byte at or above this offset may leave the replay buffer. */
uint64_t ho_trim_limit(const struct handover *h);
void ho_kill(struct handover *h, uint32_t reason);
/* A new incarnation of this end (it was restored or restarted). */
void ho_reincarnate(struct handover *h, uint32_t step);

#endif
