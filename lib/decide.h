/*
 * Compress or not, in one direction of one connection, and at which level.
 *
 * Pure and deterministic: the caller brings the time and what was measured.
 *
 *	   plain --(worth it)--> on --(not worth it)--> off --(for 0.5 s)--> plain
 *	                          ^                      |
 *	                          +------(worth it)------+
 *
 * plain: no stage.  on: blocks are coded at `level`.  off: the stage is there,
 * its blocks are stored.  on <-> off costs nothing and needs nobody's leave;
 * plain <-> stage is a handover.
 *
 * The rule is in docs/codec.md.  How calm it is:
 *  - a gain must have been there for DECIDE_SURE, and what takes it in
 *    (DECIDE_IN) is more than what takes it out (DECIDE_OUT);
 *  - every switch between on and not on costs a token: DECIDE_TOKENS at most,
 *    a new one every DECIDE_REFILL.  So at most 12 switches in any minute,
 *    whatever comes, and 6 a minute in the long run;
 *  - a small gain may not take the last three, so a large one finds some.
 */
#ifndef ROAM_DECIDE_H
#define ROAM_DECIDE_H

#include "rate.h"

#define DECIDE_LEVELS	10
#define DECIDE_MS	1000000ull

#define DECIDE_IN	125u		/* percent of the plain link */
#define DECIDE_OUT	108u
#define DECIDE_SURE	(150 * DECIDE_MS)
#define DECIDE_DWELL	(400 * DECIDE_MS)	/* between two switches */
#define DECIDE_CALM	(2000 * DECIDE_MS)	/* the same, for a small gain */
#define DECIDE_TOKENS	6u
#define DECIDE_REFILL	(10000 * DECIDE_MS)
#define DECIDE_LINGER	(500 * DECIDE_MS)	/* off, then plain */
#define DECIDE_EXPLORE	(260 * DECIDE_MS)	/* off for a look: a window of rate.h and a little */
#define DECIDE_LOOK_MIN	(2000 * DECIDE_MS)	/* between two looks; doubles when they find nothing */
#define DECIDE_LOOK_MAX	(32000 * DECIDE_MS)
#define DECIDE_RELEVEL	(500 * DECIDE_MS)

/* How fast the codec is on this machine. One a process; decide_speed_init gives figures to start with. */
struct codec_speed {
	uint32_t ns[DECIDE_LEVELS];	/* per KiB of raw bytes; [0] copies */
	uint32_t fixed;			/* per block, on top of that */
	uint32_t back;			/* decoding, per KiB of raw bytes */
	uint32_t seen;			/* blocks measured */
};

enum decide_state { DECIDE_PLAIN, DECIDE_ON, DECIDE_STORED };

struct decide_in {
	uint64_t now;
	struct rate_est link;
	uint32_t ratio;		/* coded/raw in 1/1024: when on, as observed at the present level; else a guess */
	uint8_t busy;		/* percent of the time since the last call that bytes waited to be sent */
	uint8_t starved;	/* percent that the link had nothing to send while bytes waited for the codec */
	uint8_t cpu;		/* percent of one CPU that is idle, 100 at most */
};

struct decide {
	uint8_t state, level;
	uint8_t exploring, tokens;
	uint8_t want;		/* the state that the evidence speaks for, */
	uint64_t since;		/* and since when; 0: the present one */
	uint64_t begun, switched, releveled, refilled, looked;
	uint64_t look_wait;
	uint32_t gain;		/* last: percent of the plain link */
	uint32_t switches;	/* between on and not on, all in all */
};

void decide_speed_init(struct codec_speed *s);
/* A block of raw bytes took ns at this level, in elapsed time. */
void decide_speed_saw(struct codec_speed *s, int level, size_t raw, uint64_t ns);

void decide_init(struct decide *d, uint64_t now);
/* Every 20 to 100 ms while the connection sends. True: state or level changed. */
bool decide(struct decide *d, const struct codec_speed *s, const struct decide_in *in);

/*
 * The level for one block, 0: stored.  Coding a block that nothing is queued
 * before takes longer than it saves when it is small or the link is fast.
 */
int decide_level(const struct decide *d, const struct codec_speed *s, uint64_t link, uint32_t ratio,
		 size_t raw, uint64_t queued);
/* Percent of the plain link's throughput that this level would give. */
uint32_t decide_gain(const struct codec_speed *s, const struct decide_in *in, int now_level, int level);

#endif
