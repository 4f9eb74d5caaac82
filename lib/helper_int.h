/* Between the files that make up the helper thread. */
#ifndef ROAM_HELPER_INT_H
#define ROAM_HELPER_INT_H

#include "helper.h"

extern int helper_ep;			/* its epoll set */

/* For freeze.c: nothing is open that a checkpointer could not move; open it again, here. */
void helper_close_all(void);
void helper_open_again(void);
/* The process comes from a checkpoint: our own descriptor table is gone, what it held is void. */
void helper_restored(void);

/* chan.c */
void chan_close_all(void);
void chan_table_gone(void);
void chan_accept(int listen_fd);
void chan_readable(struct chan *c);
/* Ends what is overdue, frees what is dead. */
void chan_sweep(uint64_t now);
void chan_due(uint64_t *next);		/* *next: the earliest time of those there are */
void chan_fork_child(void);

/* reap.c */
void reap_later(struct vsock *v);
void reap_timers(uint64_t now, uint64_t *next);
void relax_idle(uint64_t now, uint64_t *next);	/* replay buffers back to their smallest */
void relax_soon(uint64_t now);
void reap_fork_child(void);

#endif
