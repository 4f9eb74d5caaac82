/*
 * What a process says of its connections to LIST: an array of these records in
 * a memfd.  Fixed size, native byte order (it never leaves the host).  The
 * reader trusts no field: a record of another `size` is not shown.
 */
#ifndef ROAM_LISTING_H
#define ROAM_LISTING_H

#include "types.h"

enum listing_link { LISTING_PLAIN, LISTING_TCP, LISTING_RING, LISTING_THICK, LISTING_CODEC };
enum listing_state { LISTING_UP, LISTING_BROKEN, LISTING_ASKING, LISTING_FROZEN, LISTING_ENDED };

struct listing {
	uint32_t size;			/* sizeof(struct listing) */
	uint32_t pid;
	int32_t fd;
	uint8_t link, state, role;	/* role: 0 opener, 1 acceptor */
	uint8_t remote;			/* the other end is on another host */
	uint8_t family;			/* 4 or 6 */
	uint8_t pad0[3];
	uint32_t reason;		/* why not persistent, REASON_* */
	uint32_t epoch, peer_epoch;
	uint16_t self_port, peer_port;
	uint8_t gid[16];		/* all 0: plain */
	uint8_t self[16], peer[16];	/* as the application sees them */
	uint64_t tx, rx;		/* offsets: bytes sent and consumed since it is counted */
	uint64_t in_flight;		/* held in the replay buffer */
	uint64_t unread;
	uint64_t handovers;		/* links so far, less one */
	uint64_t resent;		/* bytes sent again */
	uint64_t stall_ns, stall_max_ns;	/* all together, the longest */
	uint64_t age_ns;		/* since it became persistent */
	uint8_t agent_family;		/* the other end's agent, last known; 0: none */
	uint8_t pad1;
	uint16_t agent_port;
	uint32_t pad2;
	uint8_t agent_addr[16];
	uint8_t agent_host[16];
};

#endif
