/*
 * Which processes are at the other end, and are they alive?  In the helper.
 *
 * The pair page names them, but whoever shares it may write there what he likes
 * at any time.  So v->peer has what was seen: a process is *proved* when it
 * was at the other end of a channel in which the two met, or which it answered
 * with the connection's key; then the kernel has said its pid.  Others (forked
 * ones, that only the page names) are copied when we look, and believed less.
 *
 * Of those behind our rings we hold a pidfd, one a process: who sleeps on a futex
 * is not woken when they are killed.
 */
#ifndef ROAM_PEERS_H
#define ROAM_PEERS_H

#include "vsock.h"

/*
 * The process at the other end of this channel holds v's other end. pid, start: as
 * it calls itself, where the kernel cannot say (another pid namespace); or 0.
 */
void peers_prove(struct vsock *v, int chan_fd, uint32_t pid, uint64_t start);
bool peers_proved(const struct vsock *v, uint32_t pid, uint64_t start);
/* All that were proved have ended, and not to go on elsewhere: none left the mark of a frozen process. */
bool peers_dead(const struct vsock *v);
/* v is on a ring now. */
void peers_watch(struct vsock *v);
void peers_event(void *peer);
void peers_close_all(void);
void peers_fork_child(void);

#endif
