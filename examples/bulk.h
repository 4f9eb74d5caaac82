/* One end of a bulk transfer: sends a pseudo-random stream, receives until EOF. */
#ifndef EXAMPLES_BULK_H
#define EXAMPLES_BULK_H

#include "digest.h"
#include "ev.h"
#include "util.h"

#define BULK_MAX_CHUNK (16u << 20)

struct bulk {
	int fd;
	enum ev_mode mode;
	bool sends, receives;	/* data; the end of stream is always awaited */
	uint64_t to_send, seed;
	size_t chunk;		/* bytes a call */
	double rate;		/* bytes a second, 0: no limit */

	uint64_t sent, rcvd, t0;
	struct digest tx, rx;
	unsigned char *out, *in;
	size_t out_off, out_len;
	bool shut, eof, full;
	int err;
	const char *op;
	char peer[PEER_LEN];
};

void bulk_init(struct bulk *b, int fd);
/* Blocking mode: all of it; two threads when data goes both ways. */
void bulk_run(struct bulk *b);
/* Event modes: what is wanted next, or -1 when done or broken. */
int bulk_pump(struct bulk *b);
/* Milliseconds until the rate allows more, -1: no limit is waiting. */
int bulk_delay(const struct bulk *b);
/* Prints the result, closes, frees the buffers; false: it was not complete. */
bool bulk_finish(struct bulk *b);

#endif
