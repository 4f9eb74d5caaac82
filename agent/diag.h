/* Is there an established TCP connection with these ends in our network namespace? */
#ifndef ROAMD_DIAG_H
#define ROAMD_DIAG_H

#include <stdbool.h>
#include <stdint.h>

bool diag_established(uint8_t family, const uint8_t self[16], uint16_t self_port, const uint8_t peer[16],
		      uint16_t peer_port);

#endif
