/*
 * How fast is the link in this direction?  One estimate from what the kernel
 * says about a connection.  (From packet trains: train.h.)
 *
 * Pure: the caller brings samples with their time.  Rates are bytes a second
 * of wire, times nanoseconds.  One struct rate a direction; zero at first.
 *
 * A link that is not kept busy shows how fast it is at least, no more.  So a
 * sample counts fully only if the sender had bytes waiting all the time and the
 * receiver's window did not hold it back; else it can only raise the estimate.
 */
#ifndef ROAM_RATE_H
#define ROAM_RATE_H

#include "types.h"

#define RATE_HIST	64u

/* As in struct tcp_info; every 5 to 50 ms while the connection sends. */
struct rate_sample {
	uint64_t now;
	uint64_t acked;		/* tcpi_bytes_acked */
	uint64_t delivery;	/* tcpi_delivery_rate */
	uint32_t notsent;	/* tcpi_notsent_bytes, and what waits above the kernel */
	uint64_t rwnd_us;	/* tcpi_rwnd_limited, a sum */
	uint32_t rtt_us, min_rtt_us;
	bool app_limited;	/* tcpi_delivery_rate_app_limited */
};

struct rate_est {
	uint64_t rate;		/* 0: not known */
	uint64_t age;		/* of the newest evidence */
	uint32_t rtt_us;	/* the smallest of late */
	uint8_t confidence;	/* percent, with the age */
	bool at_least;		/* the link was not filled: it may be faster */
	bool active;		/* from a train */
};

struct rate {
	struct { uint64_t t, acked; } hist[RATE_HIST];	/* of the busy run */
	uint32_t n, first;	/* entries, the oldest one */
	uint64_t last_t, last_acked, last_rwnd;
	uint64_t rate, at;	/* the estimate, and when it was last supported */
	uint32_t rtt_us;
	uint8_t base;		/* confidence when it was made */
	uint8_t at_least, active, any, busy;
};

void rate_passive(struct rate *r, const struct rate_sample *s);
struct rate_est rate_now(const struct rate *r, uint64_t now);
/* Another connection between the same hosts: its counters begin anew, the estimate holds. */
void rate_new_link(struct rate *r);
/* Another link: nothing of before holds. */
void rate_reset(struct rate *r);

#endif
