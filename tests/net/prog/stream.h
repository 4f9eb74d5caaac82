/*
 * One connection of a walker: two pseudo-random streams, one each way, and a
 * check of every byte that comes in.
 *
 * The client's stream begins with a header of 24 bytes: its seed, how many
 * bytes the server is to send (all ones: until the client has ended), flags.
 * Everything else, and all of the server's, is the pattern of a seed.
 */
#ifndef NET_STREAM_H
#define NET_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include "digest.h"

#define STREAM_HEADER 24
#define STREAM_ENDLESS UINT64_MAX
#define STREAM_PINGPONG 1u	/* header flag: never send more than was received */

struct stream {
	int fd;
	bool client, echo;	/* echo: our own stream is expected back */
	bool known;		/* the header is complete */
	bool shut, eof, full;	/* full: the kernel took less than it was offered */
	uint32_t watched;	/* the walker's: its epoll events */
	uint64_t seed, flags, want;	/* want: what the header asks of the server */
	uint64_t to_send, sent, rcvd;
	double tokens;		/* bytes that may go now; see stream_refill */
	uint64_t refilled, born, last_rx, gap_max;
	struct digest tx, rx;
	unsigned char header[STREAM_HEADER];
	int err;
	const char *op;		/* what failed */
	uint64_t failed_at;
};

uint64_t stream_now(void);
void stream_client(struct stream *s, int fd, uint64_t seed, uint64_t bytes, uint64_t want, uint64_t flags);
void stream_server(struct stream *s, int fd);
void stream_refill(struct stream *s, double rate, uint64_t now);
/* How many bytes may go now, at most `chunk`. */
size_t stream_room(const struct stream *s, double rate, size_t chunk);
/* One call each; true: something moved. An error is kept in *s. */
bool stream_send(struct stream *s, double rate, size_t chunk);
bool stream_recv(struct stream *s, uint64_t gap_ns, FILE *samples);
/* Sends no more than was sent, ends the stream when that is out. */
void stream_finish(struct stream *s);
void stream_shut_if_done(struct stream *s);
bool stream_over(const struct stream *s);
/* One JSON line; true: it ended well. */
bool stream_report(const struct stream *s);

#endif
