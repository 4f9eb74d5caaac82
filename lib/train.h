/*
 * Packet trains: how fast is a link that nobody uses yet?
 *
 * Pure.  The receiver notes when the bytes of a train arrived (struct train); the
 * sender learns what that came to and decides what to send next (struct train_plan).
 * A train is one burst: never more than the kernel sends without waiting for an
 * acknowledgement, so its bytes arrive as fast as the narrowest place lets them.
 *
 * Trains grow until one is long enough to be measured.  So a slow link is seen
 * with the first bytes.  A token bucket lets its contents through at once, and
 * the train that empties it fills the link: up to TRAIN_CAREFUL trains grow so
 * slowly that this one is 4 KiB and an eighth of the bucket, then they double.
 */
#ifndef ROAM_TRAIN_H
#define ROAM_TRAIN_H

#include "types.h"

#define TRAIN_MS	1000000ull
#define TRAIN_POINTS	64u
#define TRAIN_FIRST	4096u			/* bytes: 128 ms at 256 kbit/s */
#define TRAIN_LONGEST	(256u << 10)		/* 2 ms at 1 Gbit/s */
#define TRAIN_ENOUGH	(20 * TRAIN_MS)		/* a train that took so long needs no longer one */
#define TRAIN_FILL	(30 * TRAIN_MS)		/* no train is meant to fill the link for longer */
#define TRAIN_CAREFUL	(64u << 10)		/* bytes that pass before trains double */
#define TRAIN_CUT	(150 * TRAIN_MS)	/* then the receiver says what it has seen, the sender stops */
#define TRAIN_MOST	24u			/* trains in one direction */
#define TRAIN_HELD	4u			/* so many are sent once more because something held them up */
#define TRAIN_LAST	3u			/* so many of the final length */
#define TRAIN_VOID	15u			/* confidence of what was too short, or held up by something else */
#define TRAIN_SURE	75u			/* no result is surer than that */
#define TRAIN_TOP	(1ull << 50)		/* bytes a second; nothing is faster */

struct train {
	struct { uint64_t t; uint32_t bytes; } at[TRAIN_POINTS];	/* bytes: all that had come by then */
	uint32_t n, bytes;
	uint32_t step, skipped;		/* arrivals that make one point, when there are many */
	bool bad;			/* more bytes than can be */
};

struct train_seen {
	uint64_t rate;			/* bytes a second, 0: the train says nothing */
	uint64_t took;			/* ns of the part that was judged */
	uint32_t bytes;			/* of that part */
	uint8_t confidence;		/* percent */
	bool steady;			/* its two halves say the same */
	bool at_least;			/* faster than can be told */
};

struct train_plan {
	struct train_seen seen[TRAIN_LAST];	/* the latest */
	uint32_t n;			/* trains seen */
	uint32_t sent;			/* bytes of all */
	uint32_t budget, longest;	/* bytes: of all, of one */
	uint32_t next, last;		/* bytes of trains; next 0: no more */
	uint32_t again;			/* trains that were not longer than the one before */
	uint32_t held;			/* that were sent once more because something held them up */
	bool cut;
};

void train_begin(struct train *t);
/* when: any clock that goes forward, ns. */
void train_arrived(struct train *t, uint64_t when, uint32_t bytes);
struct train_seen train_seen(const struct train *t);
/* The same of one that has not ended by now. */
struct train_seen train_cut(struct train *t, uint64_t now);
/* The same from what the receiver says: bounded by what was sent, and by how long that can have taken. */
struct train_seen train_heard(uint64_t bytes, uint64_t took, uint8_t confidence, bool steady, uint32_t sent,
			      uint64_t elapsed);

void train_plan_begin(struct train_plan *p, uint32_t budget);
/* The length of the next train; room: what the kernel would send at once. 0: it is over. */
uint32_t train_plan_next(struct train_plan *p, uint32_t room);
/* The answer to it.  filled: ns from its first byte to the answer, less a round trip.  cut: it was not finished. */
void train_plan_answer(struct train_plan *p, const struct train_seen *s, uint64_t filled, bool cut);
/* What all of them say together; rate 0: nothing. */
struct train_seen train_plan_result(const struct train_plan *p);

#endif
