/*
 * The server side of the examples: accepts connections and runs each in a
 * thread (blocking) or in one readiness loop, until SIGTERM or SIGINT.
 */
#ifndef EXAMPLES_SERVE_H
#define EXAMPLES_SERVE_H

#include <stdbool.h>

#include "ev.h"

struct serve_ops {
	/* A new connection; the object owns fd until finish closes it. */
	void *(*start)(int fd, enum ev_mode mode);
	/* Event modes: move data; what is wanted next (EV_IN | EV_OUT), or -1: done. */
	int (*pump)(void *conn);
	/* Blocking mode: the connection from beginning to end. */
	void (*run)(void *conn);
	/* Report, close, free. */
	void (*finish)(void *conn);
};

/* Prints "listening on ADDR:PORT"; returns on a signal, or after one connection. */
void serve(const char *addr, unsigned port, enum ev_mode mode, bool once,
	   const struct serve_ops *ops);

#endif
