/*
 * Meeting the other library on the same host, without an agent.
 *
 * In the rendezvous directory (only its owner or root can write there):
 *
 *	l.NETNS.PORT	symlink, "PID.START": a re-linked program listens here
 *	o.KEY		symlink, "PID.START.NONCE": the opener of the connection
 *			whose 4-tuple hashes to KEY would like to upgrade it
 *	r.PID.START	UNIX socket, SOCK_SEQPACKET: the process's rendezvous
 *
 * Symlinks because leaving and reading one is a single system call each and
 * needs no descriptor: a listener that never meets anyone opens nothing and
 * starts nothing.  The opener sees the marker and leaves an offer; the
 * acceptor, whichever process of a prefork server it is, looks for the offer
 * when its own counter says so, and dials the opener's rendezvous socket.
 */
#ifndef ROAM_MEET_H
#define ROAM_MEET_H

#include "vsock.h"

/* Calls on a connection before the opener, and the acceptor, think of upgrading. */
#define MEET_FIRST		6
#define MEET_FIRST_ACCEPTOR	8

#define MEET_SYSTEM_DIR "/run/roam"

/* The directories where an agent may be: ours, the system's; their number. */
int meet_dirs(const char *dir[2]);
/* The network namespace that names are made with; and look again, after a move. */
uint64_t meet_netns(void);
void meet_moved(void);
/* The rendezvous directory, checked (and made) once; NULL: unusable, and said so. */
const char *meet_dir(void);
void meet_mark(struct vsock *v, int fd);	/* listener: leave the marker */
void meet_unmark(struct vsock *v, int fd);
void meet_withdraw(struct vsock *v);		/* opener: take the offer back */
/* The connection's ends as both see them; false: not both on this host. */
bool meet_tuple(struct vsock *v, int fd, struct tuple *t);	/* also noted in v */
void meet_fork_child(void);
void meet_noted(struct vsock *v, struct tuple *t);	/* what meet_tuple noted */
/* Address and port of one end; a mapped v6 becomes v4. The family (4 or 6), 0: neither. */
int meet_addr(const struct sockaddr_storage *ss, uint8_t addr[16], uint16_t *port);
bool meet_local(const struct tuple *t);		/* both ends are on this host */
/* Reads the offer for an acceptor's connection; *far: an agent left it. */
bool meet_offer(struct vsock *v, uint32_t *pid, uint64_t *start, uint64_t *nonce, bool *far);
void meet_drop_offer(struct vsock *v);
/* "r.PID.START" in dir; the length of the path or -1. */
int meet_rendezvous(char *path, size_t n, uint32_t pid, uint64_t start);
/* The process ends: removes the markers of closed listeners. */
void meet_exit(void);
/* Removes what dead processes left behind. */
void meet_sweep(void);

#endif
