/*
 * The session between two agents: key exchange and encrypted frames.  Pure:
 * bytes in, bytes out; no descriptor, no clock (docs/protocol.md, "Between
 * agents").  libsodium does the cryptography.
 */
#ifndef ROAMD_SECURE_H
#define ROAMD_SECURE_H

#include "wire.h"

#define FRAME_TEXT	(32768 + 256 - 17)	/* longest plain text of a frame */
#define FRAME_MAX	(2 + FRAME_TEXT + 17)	/* longest frame on the wire */
#define KX_LEN		(8 + 16 + 2 + 8 + 32 + 16)	/* a KX message */
#define STREAM_HEAD	24

struct secure {
	bool client;			/* we connected */
	bool open;			/* keys are there */
	uint8_t cluster[32];
	uint8_t pk[32], sk[32];
	uint8_t ours[KX_LEN], theirs[KX_LEN];
	uint8_t tx_state[64], rx_state[64];	/* crypto_secretstream state, checked by _Static_assert */
	bool rx_started;
	uint8_t head[STREAM_HEAD];	/* what we send first */
};

/* Begins; fills kx with what is to be sent first. */
void secure_begin(struct secure *s, bool client, const uint8_t cluster[32], const uint8_t host[16],
		  uint16_t port, uint8_t kx[KX_LEN]);
/*
 * The other side's KX (a whole one).  WIRE_OK: *peer holds its host and port, and head
 * (STREAM_HEAD bytes) is to be sent next, in the clear.  WIRE_FORGED: another cluster
 * key, or a mirror.  A recorded KX is accepted too, but no frame of its sender will
 * open: only a frame that opened proves who is there.
 */
enum wire_error secure_kx(struct secure *s, const uint8_t *buf, size_t n, struct msg *peer,
			  uint8_t head[STREAM_HEAD]);
/* The other side's stream header. False: unusable. */
bool secure_head(struct secure *s, const uint8_t head[STREAM_HEAD]);
/* Encrypts text (1 <= n <= FRAME_TEXT) into out (n + 19 bytes); the frame's length, 0: not possible. */
size_t secure_seal(struct secure *s, const uint8_t *text, size_t n, uint8_t *out);
/* Length of the frame that begins with these two bytes, 0: impossible. */
size_t secure_frame_len(const uint8_t two[2]);
/*
 * Decrypts a whole frame into out (FRAME_TEXT bytes); the text's length or -1: forged
 * or cut, and the session is over: nothing opens or is sealed any more.
 */
long secure_open(struct secure *s, const uint8_t *frame, size_t n, uint8_t *out);
void secure_wipe(struct secure *s);

#endif
