/* The connections of this process, for roamctl list (listing.h).  In the helper thread. */
#ifndef ROAM_LIST_H
#define ROAM_LIST_H

#include "types.h"

/* A sealed memfd of *n records; -1 when there are none, or no memory (then *n > 0). */
int list_memfd(uint64_t *n);

#endif
