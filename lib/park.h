/*
 * Restart as migration: a server that stops leaves its connections with the
 * agent, the next instance of it, here or on another host, gets them from
 * accept().
 *
 *	old instance	exit -> park_leave -> every acceptor's connection is drained
 *			as for a freeze, its image goes to the agent
 *	new instance	listen -> park_listen -> the agent hands out images
 *			-> the helper connects to the listener, so that it becomes
 *			readable; accept() knows that connection by its port and makes
 *			it the parked one (park_accepted)
 */
#ifndef ROAM_PARK_H
#define ROAM_PARK_H

#include "vsock.h"
#include "wire.h"

/* Program's threads. */
void park_listen(struct vsock *v, int fd);		/* it listens now */
/* Was fd made for a parked connection?  Then v is that one from now on. */
bool park_accepted(struct vsock *v, int fd);
extern _Atomic uint32_t park_waiting;			/* images that wait for an accept() */
extern _Atomic uint32_t park_hoped;			/* some may still come */
/* The process ends: leaves what can be left, waits for it, 3 s at most. */
void park_leave(void);

/* Helper. */
void park_command(uint64_t nonce);			/* roamctl park: when it ends */
void park_want_listen(struct vsock *v);			/* WANT_UNPARK */
void park_image(const struct msg *m, int *fds, int nfds);
void park_agent_up(void);
void park_timers(uint64_t now, uint64_t *next);	/* images that nobody accepts */
void park_complete(void);				/* everything is drained (freeze.c) */
void park_fork_child(void);
void park_table_gone(void);
struct mend;
void park_take(struct mend *m);				/* the unread bytes of its image, for mend.c */

#endif
