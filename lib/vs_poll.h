/* Readiness: the kernel's poll, with broken live links kept from the caller. */
#ifndef ROAM_VS_POLL_H
#define ROAM_VS_POLL_H

#include "types.h"

/* As ppoll(2); tmo NULL waits for ever. */
int vs_poll(struct pollfd *fds, nfds_t n, const struct timespec *tmo, const sigset_t *mask);
/* As pselect(2), by way of vs_poll; used when live sockets may be in the sets. */
int vs_select(int n, fd_set *r, fd_set *w, fd_set *e, const struct timespec *tmo, const sigset_t *mask);
/* As epoll_pwait2(2). */
int vs_epoll(int ep, struct epoll_event *ev, int max, const struct timespec *tmo, const sigset_t *mask);
/* What the kernel said while nobody was live; perhaps somebody is by now. How many events are left. */
int vs_epoll_plain(int ep, struct epoll_event *ev, int n);

#endif
