/*
 * One connection that carries packet trains, first in one direction, then in
 * the other (docs/protocol.md, "Probes").  At most one at a time: two would
 * measure each other.  probe.c decides when; lib/train.h how long and how many.
 */
#ifndef ROAMD_TRAINS_H
#define ROAMD_TRAINS_H

#include "train.h"
#include "wire.h"

struct trains_with {
	uint8_t host[16], key[WIRE_KEY];
	uint64_t nonce;
	bool back;		/* only the acceptor sends */
};

bool trains_busy(void);
/* Is it with that host? */
bool trains_are(const uint8_t host[16]);
/* We connect to the other agent's port. False: not possible. */
bool trains_dial(const struct trains_with *w, uint8_t family, const uint8_t addr[16], uint16_t port);
/* The other agent will connect. */
void trains_expect(const struct trains_with *w);
/* A stranger's connection whose first message was this TRAIN. True: it is the expected one, fd is ours. */
bool trains_accepted(int fd, const uint8_t *buf, size_t n);
void trains_stop(const char *why);

/* To probe.c: what was found out, and that it is over (why NULL: in good order). */
void probe_measured(const uint8_t host[16], bool out, const struct train_seen *s, uint32_t rtt_us);
void probe_over(const struct trains_with *w, bool opener, bool cut, const char *why);

#endif
