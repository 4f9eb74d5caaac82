/* The connections of this process, for roamctl list (listing.h).  In the helper thread. */
#ifndef ROAM_LIST_H
#define ROAM_LIST_H

#include "vsock.h"

/* A sealed memfd of *n records; -1 when there are none, or no memory (then *n > 0). */
int list_memfd(uint64_t *n);
/* Why is this plain connection not persistent (yet)? REASON_...; in any thread. */
uint32_t list_why(struct vsock *v);

#endif
