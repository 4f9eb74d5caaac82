/* What roam.h's functions leave in virtual sockets; the functions are in api.c. */
#ifndef ROAM_API_H
#define ROAM_API_H

#include "roam.h"
#include "vsock.h"

/* A connection came out of a listener with a policy; nobody else has seen it yet. */
void api_inherit(const struct vsock *listener, struct vsock *v);

#endif
