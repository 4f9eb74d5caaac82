/*
 * The event loop: epoll and timers.  One thread.  An object may be freed in
 * any handler after watch_del and timer_stop: no event of it is delivered
 * afterwards.
 */
#ifndef ROAMD_LOOP_H
#define ROAMD_LOOP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

struct watch {
	int fd;
	uint32_t events;
	bool on;
	void (*ready)(struct watch *w, uint32_t events);
};

struct timer {
	uint64_t due;
	uint32_t at;		/* place in the heap + 1; 0: not set */
	void (*fire)(struct timer *t);
};

#define container_of(p, type, member) ((type *)(void *)((char *)(p) - offsetof(type, member)))

bool loop_init(void);
bool watch_add(struct watch *w, int fd, uint32_t events, void (*ready)(struct watch *, uint32_t));
void watch_mod(struct watch *w, uint32_t events);
void watch_del(struct watch *w);		/* does not close */
void timer_at(struct timer *t, uint64_t due, void (*fire)(struct timer *));
void timer_stop(struct timer *t);
uint64_t loop_now(void);			/* CLOCK_MONOTONIC, ns; read once a round */
void loop_run(void);				/* until loop_stop */
void loop_stop(void);
void loop_free(void);				/* after the last timer_stop */

#endif
