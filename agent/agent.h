/*
 * What all parts of the agent share: who it is, its settings, its counters,
 * its voice.  One agent a process, so this is one object.
 *
 * Layers, calls go down (and come back up through the few functions named in
 * the headers):
 *
 *	roamd				start, end, signals
 *	local  port  netmon  command	what comes in: processes, TCP, kernel, roamctl
 *	offer  ends  query  parked	what it means
 *	peer  session			other agents
 *	gid  markers  loop  util	a table, a directory, an event loop
 */
#ifndef ROAMD_AGENT_H
#define ROAMD_AGENT_H

#include "conf.h"
#include "wire.h"

#define MS UINT64_C(1000000)		/* in ns */
#define SEC UINT64_C(1000000000)

#define SETTLE_NS (3 * SEC)		/* a fresh agent waits so long for its processes to come back */

enum stat_nr {
#define STAT(name) STAT_##name,
#include "stats.def"
#undef STAT
	STAT_COUNT
};

struct agent {
	struct aconf conf;
	uint8_t key[32];		/* the cluster's */
	uint8_t host[16];
	uint16_t port;
	uint32_t pid;
	uint64_t start;			/* field 22 of /proc/self/stat */
	uint64_t netns;
	uint64_t began_ns;
	struct gidtab *gids;
	uint64_t stat[STAT_COUNT];
};
extern struct agent ag;

#define COUNT(name) ((void)ag.stat[STAT_##name]++)

/* Log lines on stderr: what happened, why, what helps. */
void say_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void say_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void say_debug(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* At most one line a second from each place: strangers can cause them. */
#define say_seldom(...) do { \
	static uint64_t said_; \
	if (say_may(&said_)) \
		say_error(__VA_ARGS__); \
} while (0)
bool say_may(uint64_t *last);

#endif
