/*
 * The ends of connections: what processes and agents say of them (OWN,
 * RELEASE, NOTICE), put into the table of gid.h and passed on to whom it
 * concerns.
 */
#ifndef ROAMD_ENDS_H
#define ROAMD_ENDS_H

#include "gid.h"
#include "local.h"
#include "session.h"

bool ends_start(void);
void ends_stop(void);		/* from now on processes that leave are not gone: the agent ends */
uint32_t ends_now(void);	/* the table's clock, s */

/* From processes. */
void ends_own(struct proc *p, const struct msg *m);
void ends_release(struct proc *p, const struct msg *m);
void ends_notice(struct proc *p, const struct msg *m, const uint8_t *buf, size_t n);
void ends_proc_gone(struct proc *p);
/* From agents. */
void ends_remote_own(struct session *s, const struct msg *m);
void ends_remote_release(struct session *s, const struct msg *m);
void ends_remote_notice(struct session *s, const struct msg *m, const uint8_t *buf, size_t n);
void ends_remote_location(struct session *s, const struct msg *m);
void ends_session_up(struct session *s);

/* The ends have met through this agent: the other one, `role`, is at s. */
void ends_met(struct proc *p, const uint8_t gid[16], int role, const struct session *s);
/* The end is said to be `at`: noted, and told to the other end if it is here. */
void ends_noted(struct gident *e, int role, uint32_t epoch, const struct place *at);
/* What was kept of the end is no more: gone, and told. */
void ends_lost(struct gident *e, int role);
/* LOCATION of an end that is UP here or AWAY; false: it is neither. */
bool ends_location(const struct gident *e, int role, uint64_t nonce, struct msg *m);
/* This agent as a local process reaches it. */
void ends_self(struct place *at);
/* Tells an end's agent (the end is AWAY there), later if it cannot be reached now. */
void ends_tell(const struct gident *e, int role, const struct msg *m);

#endif
