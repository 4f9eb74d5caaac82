/*
 * Epoll registrations of virtual sockets.  The kernel's set stays the real
 * one; we only remember what the application asked for, so that a
 * registration survives the exchange of the socket under its descriptor.
 */
#ifndef ROAM_EP_H
#define ROAM_EP_H

#include "vsock.h"

/* A descriptor of a new epoll set. */
void ep_new(int ep);
void ep_dup(int ep, int to);
void ep_close(int ep);
/* epoll_ctl for a descriptor with a vsock; kernel semantics. */
int ep_ctl(int ep, struct epset *s, int op, int fd, struct vsock *v, struct epoll_event *ev);
/*
 * Looks at n events that the kernel returned; those that tell of a broken live
 * link are kept back, and of an end only those are told that asked.  How many remain.
 */
int ep_filter(int ep, struct epset *s, struct epoll_event *ev, int n);
/* The same for events of a time when nobody was live. */
static inline int ep_filter_plain(int ep, struct epset *s, struct epoll_event *ev, int n)
{
	int i;

	for (i = 0; i < n; i++)
		if (unlikely(ev[i].events & EPOLLRDHUP))
			return ep_filter(ep, s, ev, n);
	return n;
}
/*
 * Does the kernel's set hold the helper's socket?  It is put there when the
 * first registration is taken out, so that a thread in epoll_wait is woken to
 * install the new link.
 */
bool ep_tainted(const struct epset *s);
extern _Atomic uint32_t ep_taints;
static inline bool ep_any_tainted(void)
{
	return unlikely(atomic_load_explicit(&ep_taints, memory_order_relaxed));
}
/* Takes every registration of v out of the kernel's sets, puts them back. */
void ep_detach(struct vsock *v);
void ep_attach(struct vsock *v);
/* v goes: so do its registrations (the kernel drops its own). */
void ep_forget(struct vsock *v);
/*
 * ---- sockets on rings (ep_ring.c): their readiness is in memory, the kernel's
 * set only wakes us.
 */
bool ep_has_rings(const struct epset *s);
/* As epoll_pwait2(2), for a set that has some. */
int ep_wait(int ep, struct epset *s, struct epoll_event *ev, int max, const struct timespec *tmo, const sigset_t *mask);
/* A send found the ring full: room is to be told. */
void ep_hot(struct vsock *v);
/* The kernel's event is of one of them: noted, not the application's to see. */
bool ep_woken(struct epset *s, const struct epoll_event *ev);
/* Somebody waits for the set itself (another set, poll): none of its sockets may be on a ring. */
void ep_nest(struct epset *s);
bool ep_is_nested(const struct epset *s);
bool ep_nested(struct vsock *v);		/* is one of v's sets such a one? */
/* Until every walk through a set that has v, begun before, is over. */
void ep_pass(struct vsock *v);
void ep_lock(struct epset *s);
void ep_unlock(struct epset *s);
/* The next registration of v on a ring that is not hot, its set locked; NULL: no more. */
struct epreg *ep_next_over(struct vsock *v, struct epset **set);
/* fork: no set may be half changed in the child. */
void ep_fork_prepare(void);
void ep_fork_done(void);

#endif
