/* The host's own addresses, and what rtnetlink says of changes. */
#ifndef ROAMD_NETMON_H
#define ROAMD_NETMON_H

#include <stdbool.h>
#include <stdint.h>

struct haddr {
	uint8_t family;
	uint8_t addr[16];
};

/* False: the kernel's notices cannot be had; addresses are then looked at every 2 s. */
bool netmon_start(void);
void netmon_stop(void);
/* The global ones: no loopback, no link-local. */
const struct haddr *netmon_addrs(uint32_t *n);
/* Any address of ours, loopback included? */
bool netmon_is_self(uint8_t family, const uint8_t addr[16]);

#endif
