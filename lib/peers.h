/*
 * Who is at the other end of our rings, so that we hear when it is killed: a
 * sleeper on a futex is not woken by that.  One pidfd a process.  In the helper.
 */
#ifndef ROAM_PEERS_H
#define ROAM_PEERS_H

#include "vsock.h"

/* v is on a ring now. */
void peers_watch(struct vsock *v);
void peers_event(void *peer);
void peers_close_all(void);
void peers_fork_child(void);

#endif
