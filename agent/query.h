/*
 * Where is that end?  Questions of processes and of other agents, held until
 * somebody knows.  A process's question is always put to the other agent, also
 * when the answer seems known: it is at the same time the test of the way.
 */
#ifndef ROAMD_QUERY_H
#define ROAMD_QUERY_H

#include "gid.h"
#include "local.h"
#include "session.h"

struct peer;

void query_local(struct proc *p, const struct msg *m);
void query_remote(struct session *s, const struct msg *m);
void query_remote_location(struct session *s, const struct msg *m);
void query_remote_refuse(struct session *s, const struct msg *m);
/* The end is UP here now. */
void query_here(const struct gident *e, int role);
/* The agent at `at` has just said that it has the end. */
void query_away(const uint8_t gid[16], int role, uint32_t epoch, const struct place *at);
/* The end is gone, frozen or parked. */
void query_left(const struct gident *e, int role, uint32_t reason);
void query_session_up(struct session *s);
void query_session_down(struct session *s);
void query_proc_gone(struct proc *p);
void query_peer_merged(struct peer *to, struct peer *from);
uint32_t query_count(void);
void query_stop(void);

#endif
