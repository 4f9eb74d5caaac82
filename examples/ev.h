/*
 * One small readiness loop over poll, select and the three kinds of epoll, so
 * that each example runs in every mode.
 *
 * The contract that makes one program right in all of them: on each hit move
 * data until nothing moves (ev_greedy) or once (else), then call ev_set with
 * what is wanted next, even when that did not change.
 */
#ifndef EXAMPLES_EV_H
#define EXAMPLES_EV_H

#include <stdbool.h>
#include <stddef.h>

enum ev_mode {
	EV_BLOCKING,		/* no loop: threads and blocking calls */
	EV_POLL,
	EV_SELECT,
	EV_EPOLL,
	EV_EPOLL_ET,
	EV_EPOLL_ONESHOT,
};

#define EV_IN  1u
#define EV_OUT 2u

#define EV_MODES "blocking, poll, select, epoll, epoll-et or epoll-oneshot"

struct ev_hit {
	int fd;
	unsigned ready;
	void *data;
};

struct ev_item;

struct ev {
	enum ev_mode mode;
	int epfd;
	size_t n, cap;		/* items, unordered */
	struct ev_item *item;
	int *index;		/* descriptor -> item, or -1 */
	size_t index_cap;
	struct ev_hit *hit;	/* of the last ev_wait */
	void *raw;		/* pollfd or epoll_event array */
};

enum ev_mode ev_parse(const char *arg);		/* dies on an unknown name */
bool ev_greedy(enum ev_mode mode);

int ev_open(struct ev *ev, enum ev_mode mode);
void ev_close(struct ev *ev);
/* Add or change; -1 with errno (ERANGE: the descriptor does not fit select). */
int ev_set(struct ev *ev, int fd, unsigned want, void *data);
void ev_del(struct ev *ev, int fd);
/* The number of hits in ev->hit; 0 after timeout_ms (-1: never) or a signal. */
int ev_wait(struct ev *ev, int timeout_ms);
/* Removes one item whose data is not NULL and returns that: for closing what is left. */
void *ev_pop(struct ev *ev);

#endif
