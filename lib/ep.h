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
 * link are kept back.  How many remain.
 */
int ep_filter(int ep, struct epset *s, struct epoll_event *ev, int n);
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
/* fork: no set may be half changed in the child. */
void ep_fork_prepare(void);
void ep_fork_done(void);

#endif
