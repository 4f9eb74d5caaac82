/* poll() of live sockets, and where some of them are on rings. */
#ifndef ROAM_POLL_RING_H
#define ROAM_POLL_RING_H

#include "types.h"

/*
 * A copy for the kernel: it is always asked for RDHUP where bytes are asked for, as
 * the end of a link that is only left looks like bytes to who does not.
 */
void poll_asked(struct pollfd *tmp, const struct pollfd *fds, nfds_t n);
/* One result, as the program may see it.  False: nothing is left of it. */
bool poll_sift(struct pollfd *p);
/*
 * As ppoll(2). All live sockets of the set are counted in their pollers, and no
 * link among them is being mended. *kept: nothing is ready, but a link broke, or
 * is to be exchanged: look again.
 */
int poll_rings(struct pollfd *fds, nfds_t n, const struct timespec *tmo, const sigset_t *mask, bool *kept);

#endif
