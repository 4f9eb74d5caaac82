/* Connections to other hosts: is the link still good?  In the helper thread. */
#ifndef ROAM_FAR_H
#define ROAM_FAR_H

#include "vsock.h"

/*
 * Looks at the links that have bytes in flight: a path that swallows them, or a
 * kernel that has forgotten the connection somewhere, shows only as silence.
 */
void far_watch(uint64_t now, uint64_t *next);
/* The host's addresses or links have changed: look now. */
void far_netchange(void);

#endif
