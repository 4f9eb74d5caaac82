/*
 * Our side of the host's agent (docs/protocol.md, "Agents"): one seqpacket
 * connection per process, kept by the helper thread.  All of it runs there,
 * but for the look-ups that say so.  Nothing here waits.
 */
#ifndef ROAM_AGENT_H
#define ROAM_AGENT_H

#include "helper.h"
#include "hosts.h"
#include "wire.h"

/* A connection to the agent would be of use: made when there is one, and kept. */
void agent_want(void);
bool agent_up(void);
/* Sends; -1 when there is no agent or its queue is full. fd -1: none. */
int agent_send(const struct msg *m, const uint8_t *key, int fd);
/* "This process holds that end"; moved: it was elsewhere before. */
void agent_own(struct vsock *v, bool moved);
void agent_release(struct vsock *v, uint32_t reason);
/* Tells the other end where the stream ends, if it is not on this host. */
void agent_notice(struct vsock *v);
/* Connects when it is time to; *next: the earliest time to be called again. */
void agent_timers(uint64_t now, uint64_t *next);
/* The connection is given up (the process moves); a new one is made when wanted. */
void agent_hang_up(void);
void agent_fork_child(void);

/*
 * Any thread, no system call but the clock's.  How fast is the way to v's other
 * host, in our direction?  What the agent knows: trains, and what the connections
 * of this host have seen.  False: nothing is known, or the other end is here.
 */
bool agent_rate_of(const struct vsock *v, struct rate_est *e);
/* What v sees of it, for the connections that come after; sent at most once a second a host. */
void agent_rate_saw(const struct vsock *v, const struct rate_est *e);

/*
 * Any thread, a system call or two: is there an agent that knows one at this
 * address, or may ask?
 */
bool agent_knows(uint8_t family, const uint8_t addr[16]);

#endif
