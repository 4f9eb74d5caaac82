/*
 * The helper thread: one per process, started with the first upgrade.  It owns
 * the rendezvous socket, meets peers, mends links, and cleans up.  All signals
 * are blocked in it; it sleeps in epoll_wait and uses no CPU when idle.
 */
#ifndef ROAM_HELPER_H
#define ROAM_HELPER_H

#include "vsock.h"

/* Starts it if need be; false: no thread or descriptor to be had. */
bool helper_start(void);
bool helper_running(void);
void helper_wake(void);		/* it looks at what there is to do */
extern __thread bool roam_in_helper;
/* Queues work for a vsock (WANT_*); callable from anywhere, never blocks. */
bool helper_want(struct vsock *v, uint32_t bits);
void helper_fork_prepare(void);
void helper_fork_parent(void);
void helper_fork_child(void);
/* The process ends: say so to the peers, remove what we left in the directory. */
void helper_exit(void);
/* The application wants a hidden descriptor's number. */
void helper_moved(int from, int to);

/*
 * The helper leaves the program's descriptor table as it starts: the program
 * keeps its lowest-number rule, and the kernel its cheap look-up for a table
 * with one user (28 ns a system call, measured).  So there are two tables:
 *
 *	helper_borrow	a copy, in the helper's table, of a descriptor of ours
 *	helper_tell	a new link (or -1: only "look again") for the program's
 *			threads to install; false: their queue is full, later
 *	helper_install	the program's side of it
 *	helper_give	the program's side: a socket that is being closed, to be
 *			finished by the helper
 *
 * Where pidfd_getfd is forbidden the helper stays in the program's table.
 */
int helper_borrow(int fd);
int helper_keep(int fd);		/* a descriptor made in the helper, hidden if need be */
void helper_close(int fd);
bool helper_tell(struct vsock *v, int link, uint32_t gen);
void helper_install(void);
bool helper_give(struct vsock *v, int fd);
int helper_socket(void);		/* what the program's epoll sets are woken by, -1 */

/* For the modules that run in the helper. */
struct chan {			/* a control channel: one UNIX seqpacket connection */
	int fd;
	uint64_t due;		/* give up at; 0: never */
	void (*on_msg)(struct chan *c, const uint8_t *buf, size_t n, int *fds, int nfds);
	void (*on_end)(struct chan *c);		/* closed or too late; the channel is freed after */
	struct vsock *v;
	uint32_t birth;		/* v stands for another connection when they differ */
	uint64_t nonce;		/* of what was asked there (near.c) */
	struct chan *next;
	bool dead;
};
struct chan *chan_open(int fd, uint64_t due_ns, struct vsock *v);
void chan_close(struct chan *c);		/* without on_end */
/* Connects to a process's rendezvous socket and checks whose it is; -1/errno. */
int chan_dial(uint32_t pid, uint64_t start);
struct sockaddr_un;
/* Connects; the other side must be our user's, root's, or own the system's directory. -1/errno. */
int chan_connect(const struct sockaddr_un *a);
struct msg;
int chan_send(struct chan *c, const struct msg *m, const uint8_t *key, const int *fds, int nfds);
/* Watches a descriptor for room to write, once; `v` is poked when there is. */
void helper_watch(struct vsock *v, int fd);
void helper_unwatch(int fd);
/* Once; mend_far_event(v) is called. */
void helper_watch_far(struct vsock *v, int fd, uint32_t events);
uint64_t helper_start_time(void);
/* Has it a descriptor table of its own?  Else no rings: their memfds would show in the program's. */
bool helper_own_table(void);
/* A process's end shows on its pidfd; peers_event(p) is called. p is aligned to 4. False/errno. */
bool helper_watch_peer(void *p, int pidfd);

#endif
