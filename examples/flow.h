/* One connection of echo_client: what it sent, what came back, what was wrong. */
#ifndef EXAMPLES_FLOW_H
#define EXAMPLES_FLOW_H

#include <pthread.h>

#include "ev.h"
#include "hist.h"
#include "util.h"

#define FLOW_BUF 65536u

struct flow_options {
	uint64_t messages, size, window, seed;
	uint64_t interval;		/* ns between the starts of two messages */
	enum ev_mode mode;
};

struct flow {
	const struct flow_options *opt;
	int fd;
	unsigned id;
	uint64_t total, t0;
	uint64_t sent, rcvd;		/* bytes */
	uint64_t done;			/* messages that are back, whole */
	uint64_t *t_sent;		/* of the messages in flight, a ring */
	pthread_mutex_t lock;		/* done, t_sent, err between two threads */
	pthread_cond_t moved;
	struct hist rtt;
	bool connecting, shut, finished;
	char err[256];			/* the first thing that went wrong, or "" */
	unsigned char out[FLOW_BUF], in[FLOW_BUF];
	size_t out_len;			/* made but not sent */
};

struct flow *flow_new(const struct flow_options *opt, unsigned id, int fd);
void flow_free(struct flow *f);
/* Event modes: what is wanted next, or -1 when finished or failed. */
int flow_pump(struct flow *f, unsigned ready);
/* Milliseconds until the interval allows the next message, -1: nothing waits for it. */
int flow_delay(struct flow *f);
/* Blocking mode, a thread's whole life. */
void *flow_run(void *flow);

#endif
