/*
 * A seeded world for the handover core: ends with applications that write and
 * read at random, links that behave like TCP, control channels that lose and
 * delay, an attacker that records, replays, reflects and forges.  The glue
 * around the core is what the library does with descriptors.
 */
#ifndef ROAM_TESTS_SIM_H
#define ROAM_TESTS_SIM_H

#include "handover.h"
#include "replay.h"
#include <setjmp.h>

#define SIM_Q		48		/* largest kernel queue, one side of one direction */
#define SIM_GB		(3 * SIM_Q)	/* unread bytes: two legs' queues */
#define SIM_MEM		512		/* replay memory */
#define SIM_LIMIT	128		/* the application's share of it */
#define SIM_LINKS	32
#define SIM_CHANS	32
#define SIM_SEEN	32
#define SIM_ENDS	3		/* opener, acceptor, a restored copy of one of them */

/* One direction of a link.  snd: unacknowledged, of which moved - acked are in rcv or beyond. */
struct sim_half {
	uint8_t snd[SIM_Q], rcv[SIM_Q];
	uint32_t nsnd, nrcv, sndcap, rcvcap;
	uint64_t moved, acked;
	bool deaf;			/* the receiver has given it up */
};

struct sim_link {
	bool used, dead, closed[2];
	int end[2];
	struct sim_half h[2];		/* by sender's side */
};

struct sim_pkt {
	uint8_t buf[128];
	uint8_t gb[SIM_GB];		/* given back, travels behind REQ and OK */
	uint32_t n, ngb;
};

struct sim_chan {
	bool used, dead, let[2];	/* let: this end looks at it no more */
	int end[2];			/* 0: the asker */
	int link;			/* candidate that the answerer has not taken yet, or -1 */
	struct sim_pkt q[2][4];
	uint8_t n[2];
};

struct sim_leg {
	int link;			/* -1: none */
	uint64_t from, next;		/* stream offsets: its first byte, the next to hand over */
};

struct sim_end {
	bool exists;
	int side;
	struct handover h;
	struct replay r;
	uint8_t mem[SIM_MEM];
	uint64_t total, read;		/* to write, consumed so far */
	struct sim_leg cur, old;
	uint8_t gb[SIM_GB];		/* what we gave back, until the peer surely has it */
	uint64_t gb_off;
	uint32_t ngb, limit, wspeed, rspeed;
	int ask, cand;			/* channel and link of our request */
	int chan;			/* channel of the present link */
};

struct sim {
	uint64_t rng;
	const uint8_t *data;		/* fuzzing: the dice */
	size_t len;
	uint8_t gid[WIRE_GID], key[WIRE_KEY];
	struct sim_end e[SIM_ENDS];
	struct sim_link l[SIM_LINKS];
	struct sim_chan c[SIM_CHANS];
	struct sim_pkt seen[SIM_SEEN];
	uint32_t nseen;
	/* one in n ticks, 0 never */
	uint32_t p_death, p_chandeath, p_cut, p_giveup, p_timeout, p_replay, p_forge, p_move;
	uint32_t p_rollback;
	bool quiet;			/* no more faults */
	bool may_die;			/* an end was set back to an old state */
	/*
	 * OK and NO count only on the request's own channel, as in the library.
	 * Needed when two copies of an end live: both may answer a request, but
	 * the candidate link leads to one of them.  The core alone holds without.
	 */
	bool bound;
	struct sim_end snap;
	bool have_snap, restored;
	uint64_t resumes, planned, ticks, dead, forged;
	jmp_buf fail;
	char why[200];
};

void sim_init(struct sim *s, uint64_t seed);
/* Runs with the faults that the dice choose.  NULL or what went wrong. */
const char *sim_run(struct sim *s, uint32_t ticks, bool rollback);
/* No more faults: everything must arrive. */
void sim_finish(struct sim *s);

/* Single steps, for scenarios; on failure they longjmp to s->fail. */
void sim_write(struct sim *s, int a, uint32_t n);
void sim_pump(struct sim *s, int a, uint32_t n);
void sim_move(struct sim *s, int link, int side, uint32_t n);
void sim_ack(struct sim *s, int link, int side, uint32_t n);
void sim_read(struct sim *s, int a, uint32_t n);
void sim_trim(struct sim *s, int a);
void sim_break(struct sim *s, int a);
void sim_drain(struct sim *s, int a);
bool sim_ask(struct sim *s, int a, bool cut);
bool sim_deliver(struct sim *s, int chan, int from);
void sim_kill_link(struct sim *s, int link);
void sim_kill_chan(struct sim *s, int chan);
uint32_t sim_rnd(struct sim *s, uint32_t n);

#endif
