/*
 * What is known of the way to other hosts: told by the agent, and seen by this
 * process's connections, to be told to the agent.  Any thread; memory only.
 *
 * A lock that is only tried: who does not get it goes without (a signal handler
 * may have interrupted its owner), so nothing here waits.
 */
#ifndef ROAM_HOSTS_H
#define ROAM_HOSTS_H

#include "rate.h"
#include "wire.h"

#define HOSTS_MAX	64u			/* the one that was not spoken of for the longest goes */
#define HOSTS_EVERY	1000000000ull		/* between two reports of one host, ns */

/* RATE came. */
void hosts_told(const struct msg *m, uint64_t now);
/* The rate to that host, with its age by now. False: not known. */
bool hosts_rate(const uint8_t host[16], uint64_t now, struct rate_est *e);
/* The connection with this GID sees this on its way to that host. */
void hosts_saw(const uint8_t host[16], const uint8_t gid[16], bool acceptor, uint64_t now, const struct rate_est *e);
/* A report that is due, as a message for the agent. False: none is. */
bool hosts_report(uint64_t now, struct msg *m);
void hosts_fork_child(void);

/* Between an estimate and the fields of RATE. */
void hosts_pack(struct msg *m, const struct rate_est *e);
struct rate_est hosts_unpack(const struct msg *m);

#endif
