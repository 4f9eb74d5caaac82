/*
 * The resume's messages in a new TCP link itself, before its first byte of
 * stream: a message, then the unread bytes that it announces (REQ, OK).  Not a
 * byte more is read: what follows is the program's.  Non-blocking.
 */
#ifndef ROAM_INBAND_H
#define ROAM_INBAND_H

#include "wire.h"

struct inband {
	int fd;			/* -1: none */
	uint8_t *out;		/* still to be written */
	size_t nout, out_at;
	uint8_t in[WIRE_MAX];	/* the message that is being read */
	size_t nin;
	uint8_t *body;		/* unread bytes behind it */
	size_t nbody, body_at;
	bool is_body;
	uint64_t sent, received;	/* bytes of the link that are not stream */
};

enum inband_result { INBAND_DEAD = -1, INBAND_WAIT, INBAND_MSG };

void inband_init(struct inband *b, int fd);
/* Frees what it holds, not the descriptor. */
void inband_drop(struct inband *b);
/* Queues a message and the bytes behind it; false: no memory. */
bool inband_put(struct inband *b, const struct msg *m, const uint8_t *key, const uint8_t *extra, size_t n);
/*
 * Writes and reads what goes.  INBAND_MSG: a message with a right MAC (or one that
 * has none) is in *m, the bytes behind it in b->body; the next call begins the next one.
 */
enum inband_result inband_pump(struct inband *b, const uint8_t *key, struct msg *m);
/* The REQ was read by the agent: expect only the bytes behind it. */
bool inband_expect(struct inband *b, size_t message, uint64_t unread);
/* Writes only: after the last message of ours what comes in is the program's. */
void inband_flush(struct inband *b);
/* Everything that was queued is in the kernel. */
bool inband_written(const struct inband *b);

#endif
