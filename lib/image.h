/*
 * A parked connection as bytes: identity, offsets, names, the replay buffer
 * and the unread bytes.  What leaves a process at its end and enters the next
 * instance of its program, perhaps on another host.  Pure.
 */
#ifndef ROAM_IMAGE_H
#define ROAM_IMAGE_H

#include "handover.h"

struct image {
	struct handover ho;
	uint8_t family, shut_rd;
	uint64_t peer_fin;		/* the other end's final offset; all ones: none */
	uint8_t agent_host[16], agent_family, agent_addr[16];
	uint16_t agent_port;
	uint8_t self_family, self_addr[16], peer_family, peer_addr[16];
	uint16_t self_port, peer_port;
	uint64_t tx_base, tx_end, unread;
	/* image_parse: into the bytes given; image_build: from anywhere. */
	const uint8_t *replay, *rx;
};

size_t image_size(const struct image *i);
/* Into p, image_size() bytes. */
void image_build(const struct image *i, uint8_t *p);
/* False: not an image of this version, cut, or its numbers contradict each other. */
bool image_parse(struct image *i, const uint8_t *p, size_t n);

#endif
