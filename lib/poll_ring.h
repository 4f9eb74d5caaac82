/* poll() where sockets on rings are among the descriptors. */
#ifndef ROAM_POLL_RING_H
#define ROAM_POLL_RING_H

#include "types.h"

/*
 * As ppoll(2). All live sockets of the set are counted in their pollers, and no
 * link among them is being mended. *kept: nothing is ready, but a link broke, or
 * is to be exchanged: look again.
 */
int poll_rings(struct pollfd *fds, nfds_t n, const struct timespec *tmo, const sigset_t *mask, bool *kept);

#endif
