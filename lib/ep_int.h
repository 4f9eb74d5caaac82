/* Between ep.c (registrations) and ep_ring.c (readiness that the ring tells). */
#ifndef ROAM_EP_INT_H
#define ROAM_EP_INT_H

#include "ep.h"
#include "spin.h"

struct epset {
	shlock lock;
	_Atomic uint32_t nfd;		/* descriptors of this set */
	_Atomic int fd;
	struct epset *next;
	uint32_t nbucket, nreg;
	struct epreg **bucket;		/* by ep_key() */
	int taint;			/* the helper's socket in the kernel's set, -1 */
	/* ep_ring.c; below lock */
	struct epreg *hot;		/* to be looked at by each epoll_wait */
	uint32_t nhot;
	_Atomic uint32_t nover;		/* registrations on rings */
	_Atomic uint32_t waiting;	/* threads that sleep, or are about to, in the kernel */
	_Atomic bool nested;		/* somebody waits for the set itself */
	uint64_t looked;		/* tick of the last look into the kernel */
	struct spin spin;
};

/* What the kernel knows the registration by: the application's data, or on a ring the record. */
static inline uint64_t ep_key(const struct epreg *r)
{
	return r->over ? (uintptr_t)r : r->data;
}

static inline struct epreg **ep_slot(struct epset *s, uint64_t key)
{
	return &s->bucket[(key ^ key >> 17 ^ key >> 33) * 0x9e3779b1u % s->nbucket];
}

void ep_link_set(struct epset *s, struct epreg *r);
void ep_unlink_set(struct epset *s, struct epreg *r);

/* ---- ep_ring.c; the set's lock is held */

/* Into the kernel's set, as a waker. 0 or -1/errno. */
int ep_over_add(struct epset *s, struct epreg *r);
/* It has new events, or is new: to be looked at, also by a thread that sleeps. */
void ep_over_mod(struct epset *s, struct epreg *r);
/* The application takes it out; its place in the kernel's set is kept. */
void ep_over_leave(struct epset *s, struct epreg *r);
/* It leaves the set, or the ring: out of the list. */
void ep_over_gone(struct epset *s, struct epreg *r);

#endif
