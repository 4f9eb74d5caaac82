/*
 * The processes of this host: one SEQPACKET connection each.  A packet is a
 * message.  Sends never block: what a process does not take is queued, and while
 * much is queued nothing more is read from it.  A process that takes nothing of
 * what others send loses its connection (1024 messages, two more for each end).
 */
#ifndef ROAMD_LOCAL_H
#define ROAMD_LOCAL_H

#include "gid.h"
#include "loop.h"
#include "wire.h"

struct packet;

struct proc {
	struct watch w;
	struct timer t;			/* must register by; then: to be freed */
	uint32_t id;			/* in the GID table */
	uint32_t pid, uid;		/* SO_PEERCRED */
	bool registered, control, dead;
	bool wants_out;
	uint32_t queued, offers, queries, owns;
	uint32_t rate_stamp;		/* what it was last told of rates: which news, */
	uint8_t rate_host[16];		/* of which host, */
	uint64_t rate_told;		/* and when */
	struct packet *first, **last;
};

/* False: said why. */
bool local_start(void);
/* Stops listening and removes the socket; the processes' connections stay until the end. */
void local_stop(void);
void local_free(void);

struct proc *local_proc(uint32_t id);		/* NULL: gone */
struct proc *local_by_pid(uint32_t pid, struct proc *after);	/* several may have the pid's connection */
/* fd (or -1) is copied, not taken. */
void local_send(struct proc *p, const struct msg *m, int fd);
void local_send_raw(struct proc *p, const uint8_t *buf, size_t n, int fd);
void local_refuse(struct proc *p, uint64_t nonce, uint32_t reason);
void local_drop(struct proc *p, const char *why);
void local_each(void (*fn)(void *arg, struct proc *p), void *arg);	/* registered ones */
uint32_t local_count(void);

#endif
