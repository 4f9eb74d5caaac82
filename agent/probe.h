/*
 * When is the way to another host measured?  On first contact, and when a new
 * connection begins and the last result is old: never by itself, never more than
 * [probe] interval says, never towards anyone but a proven agent.
 */
#ifndef ROAMD_PROBE_H
#define ROAMD_PROBE_H

#include "peer.h"

/* Another way than before: what is known of it is void. */
void probe_session_up(struct session *s);
/* The session is up and its agent knows PROBE; or a connection with that host has begun. */
void probe_consider(struct peer *p);
void probe_asked(struct session *s, const struct msg *m);
/* REFUSE came; true: it was ours. */
bool probe_refused(struct session *s, const struct msg *m);
void probe_session_down(struct session *s);
void probe_stop(void);

#endif
