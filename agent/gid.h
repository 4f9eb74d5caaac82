/*
 * Where is each end of each connection?  Pure: no descriptor, no clock; time
 * is passed in (seconds), processes are numbers.
 *
 * A connection is a GID with two ends, 0 the opener's and 1 the acceptor's.
 * An end is held by processes of this host, or is away at another agent, or
 * keeps its place without a process:
 *
 *	NONE	nothing is known
 *	UP	processes here hold it (several after a fork)
 *	FROZEN	its process is stopped for a checkpoint
 *	PARKED	its image waits here for the next instance of its program
 *	GONE	closed or killed: a tombstone, so that askers learn it at once
 *	AWAY	at another agent
 *
 * A connection belongs to the user who named it first.  Epochs only grow: an
 * OWN with a lower one is fenced, one with a higher one fences the holders.
 * Pointers to entries are valid until the next gid_own or gid_make.
 */
#ifndef ROAMD_GID_H
#define ROAMD_GID_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GID_TOMB_S	60u		/* tombstones, and what is known of nobody's connection */
#define GID_FROZEN_S	86400u
#define GID_NOBODY	UINT32_MAX	/* no process */

enum end_state { END_NONE, END_UP, END_FROZEN, END_PARKED, END_GONE, END_AWAY };

struct place {			/* an agent: who, and where it was reached */
	uint8_t host[16];
	uint8_t addr[16];
	uint16_t port;
	uint8_t family;		/* 4, 6, 0: address not known */
	uint8_t pad;
};

struct end {
	uint32_t epoch;
	uint32_t holder;	/* first holder, 0: none */
	uint32_t expires;	/* s, 0: not by time */
	uint8_t state;		/* enum end_state */
	uint8_t leaving;	/* what to become without a holder: FROZEN, PARKED or GONE */
	uint8_t reason;		/* of GONE: REASON_* */
	uint8_t pad;
	struct place place;	/* of AWAY */
};

struct gident {
	uint8_t gid[16];
	uint32_t next;
	uint32_t uid;
	struct end end[2];
};

struct gidtab;

struct gid_ops {
	/* A newer incarnation has taken the end from this process. */
	void (*fenced)(void *arg, uint32_t proc, const struct gident *e, int role);
	/* The end is no longer UP (its last process left), or expired: see its state. */
	void (*left)(void *arg, const struct gident *e, int role);
	void *arg;
};

enum gid_own { GID_OK, GID_DENIED, GID_FENCED, GID_FULL, GID_FULL_USER };
enum gid_away { AWAY_NEWS, AWAY_SAME, AWAY_OLD };

/* seed: random, so that nobody can choose colliding GIDs. NULL: no memory. */
struct gidtab *gid_new(uint32_t max, uint32_t max_user, const uint8_t seed[16], const struct gid_ops *ops);
void gid_free(struct gidtab *t);
struct gident *gid_find(struct gidtab *t, const uint8_t gid[16]);
/* May this user speak of it? (Unknown: yes.) */
bool gid_allowed(const struct gident *e, uint32_t uid);

/* The entry, made for uid if there is none; checks owner and limits. */
enum gid_own gid_make(struct gidtab *t, const uint8_t gid[16], uint32_t uid, struct gident **e);
/* A process says that it holds an end. */
enum gid_own gid_own(struct gidtab *t, const uint8_t gid[16], int role, uint32_t epoch, uint32_t uid,
		     uint32_t proc, struct gident **e);
/* Another agent says that it has the end. Holders here are fenced if it is newer. */
enum gid_away gid_away(struct gidtab *t, struct gident *e, int role, uint32_t epoch, const struct place *at);
/*
 * A process gives its part of an end up: to is FROZEN, PARKED or GONE, and holds
 * when it was the last. False: it did not hold it.
 */
bool gid_release(struct gidtab *t, struct gident *e, int role, uint32_t proc, enum end_state to,
		 uint8_t reason, uint32_t now);
/* Sets the state of an end without holders. lasts: seconds, 0: for ever */
void gid_set(struct gidtab *t, struct gident *e, int role, enum end_state to, uint8_t reason, uint32_t now,
	     uint32_t lasts);
/* The process has stopped for a checkpoint: its ends are FROZEN when it has gone. Or it goes on after all. */
void gid_proc_freezes(struct gidtab *t, uint32_t proc, bool yes);
/* The process has ended. */
void gid_proc_gone(struct gidtab *t, uint32_t proc, uint32_t now);
/* A process that holds the end, another one each time; GID_NOBODY. */
uint32_t gid_holder(struct gidtab *t, struct gident *e, int role);
bool gid_holds(struct gidtab *t, const struct gident *e, int role, uint32_t proc);
/* Calls fn with every holder. */
void gid_holders(struct gidtab *t, const struct gident *e, int role, void (*fn)(void *arg, uint32_t proc), void *arg);
/* Forgets what has expired; cheap when nothing can have. */
void gid_expire(struct gidtab *t, uint32_t now);
/* fn may not add or remove. */
void gid_each(struct gidtab *t, void (*fn)(void *arg, struct gident *e), void *arg);
uint32_t gid_count(const struct gidtab *t);	/* connections */
uint32_t gid_ends(const struct gidtab *t);	/* (end, process) pairs held here */
uint32_t gid_user_count(struct gidtab *t, uint32_t uid);

#endif
