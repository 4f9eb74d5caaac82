/*
 * What is known of the way from one host to another, in one direction: from the
 * connections that use it (passive) and from packet trains (active).
 *
 * Pure.  The agent has one for each direction of each pair of hosts; libraries
 * get what path_now says.  All zero: nothing is known.
 *
 * The two are wrong in different ways.  A train sees what a bucket lets through
 * and cannot tell a fast link from a faster one; a connection sees its share of
 * the link, and only while it keeps it busy.  So what a busy connection measured
 * stands as long as it is the more certain one, "at least" only raises, and two
 * that agree are worth more than one.
 */
#ifndef ROAM_PATH_H
#define ROAM_PATH_H

#include "rate.h"
#include "train.h"

struct path {
	struct path_side { uint64_t rate, at; uint8_t base; bool at_least; } passive, train;
	uint64_t rtt_at;
	uint32_t rtt_us;
};

/* A connection's estimate, as rate_now says, perhaps from another process: nothing of it is believed unchecked. */
void path_passive(struct path *p, uint64_t now, const struct rate_est *e);
void path_train(struct path *p, uint64_t now, const struct train_seen *s);
void path_rtt(struct path *p, uint64_t now, uint32_t us);
struct rate_est path_now(const struct path *p, uint64_t now);
/*
 * Of a connection's own estimate and its host's.  What the connection has measured
 * itself counts while nobody has newer evidence: the host's speaks of the time before.
 */
struct rate_est path_better(const struct rate_est *own, const struct rate_est *host);

#endif
