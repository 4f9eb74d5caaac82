/*
 * What each descriptor of this process is to us.  One word a descriptor, in
 * .bss: there before any constructor runs, and untouched pages cost nothing.
 *
 *	0			foreign: not ours
 *	pointer			a virtual socket
 *	pointer | FD_EPSET	an epoll set, for its registrations
 *	FD_HIDDEN		the library's own: the application must not touch it
 */
#ifndef ROAM_FDTAB_H
#define ROAM_FDTAB_H

#include "types.h"
#include <stdatomic.h>

#define FDTAB_MAX	(1u << 20)	/* descriptors above stay foreign, that is plain */
#define FD_EPSET	1u
#define FD_HIDDEN	2u
#define FD_TAGS		3u

struct vsock;
struct epset;

extern _Atomic uintptr_t roam_fdtab[FDTAB_MAX];

static inline uintptr_t fdtab_raw(int fd)
{
	if (unlikely((unsigned int)fd >= FDTAB_MAX))
		return 0;
	return atomic_load_explicit(&roam_fdtab[fd], memory_order_acquire);
}

static inline struct vsock *fdtab_vsock(int fd)
{
	uintptr_t e = fdtab_raw(fd);

	return unlikely(e & FD_TAGS) ? NULL : (struct vsock *)e;
}

static inline struct epset *fdtab_epset(int fd)
{
	uintptr_t e = fdtab_raw(fd);

	return (e & FD_TAGS) == FD_EPSET ? (struct epset *)(e & ~(uintptr_t)FD_TAGS) : NULL;
}

static inline bool fdtab_hidden(int fd)
{
	return fdtab_raw(fd) == FD_HIDDEN;
}

/* One past the highest descriptor that ever had an entry. */
int fdtab_top(void);
void fdtab_set(int fd, uintptr_t e);

/*
 * Hidden descriptors live at the top of the descriptor limit, where neither
 * lowest-number rules nor habits reach.  hide moves fd there (and closes it),
 * hide_copy copies; both return the hidden number, -1/errno.
 */
int fdtab_hide(int fd);
int fdtab_hide_copy(int fd);
void fdtab_close_hidden(int fd);
/* Moves a hidden descriptor off the number that the application wants. */
int fdtab_evict(int fd, void (*moved)(int from, int to));

/* In a vfork child the memory is the parent's: change nothing there. */
extern __thread int roam_vfork_child;

#endif
