/*
 * The agent's TCP port: agents (KX) and reconnects (REQ).  The first message
 * decides; whoever has not sent it after 2 s is closed.  Not a byte more than
 * it is read: what follows a REQ belongs to the process that gets it.
 */
#ifndef ROAMD_PORT_H
#define ROAMD_PORT_H

#include "gid.h"

bool port_start(void);
void port_stop(void);
/* An end has come (back) here: a reconnect may wait for it. */
void port_end_here(struct gident *e, int role);

#endif
