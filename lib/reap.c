/* What the helper does about ended and idle connections: their memory. */
#include "helper_int.h"
#include "sys.h"
#include "vring.h"
#include <stdlib.h>

/* A late thread may still look at an ended connection's memory: leave it for this long. */
#define REAP_NS 200000000u
struct reap { struct vsock *v; uint64_t due; struct reap *next; };
static struct reap *reaps;

void reap_later(struct vsock *v)
{
	struct reap *r = malloc(sizeof(*r));

	if (!r)
		return;		/* a leak of one connection's memory, when there is none */
	r->v = v;
	r->due = sys_now_ns() + REAP_NS;
	r->next = reaps;
	reaps = r;
}

/* Is a thread of this process in a send?  Other sharers go on with the mapping of their own. */
static bool ours_holds(struct vstate *st)
{
	uint32_t tid = atomic_load(&st->tx) & ~SHLOCK_WAITERS, rid = atomic_load(&st->rx) & ~SHLOCK_WAITERS;

	if (!atomic_load(&st->shared))
		return tid || rid;
	return (tid && sys_own_thread((int)tid)) || (rid && sys_own_thread((int)rid));
}

void reap_timers(uint64_t now, uint64_t *next)
{
	struct reap **p = &reaps, *r;

	while ((r = *p)) {
		struct vstate *st = atomic_load(&r->v->st);

		if (r->due <= now && !RX_USERS(atomic_load(&r->v->rx0)) &&
		    !atomic_load(&r->v->inside) && !atomic_load(&r->v->lookers) && !atomic_load(&r->v->pollers) &&
		    (!st || (!RX_USERS(atomic_load(atomic_load(&r->v->rxc))) && !ours_holds(st)))) {
			*p = r->next;
			vs_reap(r->v);
			free(r);
			continue;
		}
		if (r->due <= now)
			r->due = now + REAP_NS;
		if (!*next || r->due < *next)
			*next = r->due;
		p = &r->next;
	}
}

/* ---- the replay buffers of idle connections go back to their smallest */

#define RELAX_NS 500000000u
static uint64_t relax_due;

/*
 * Gives an idle connection's replay memory back, to the last page: ten
 * thousand idle ones are ten thousand pages.  True: something is still held.
 */
static bool relax_one(struct vsock *v, struct vstate *st)
{
	uint32_t cap = st->replay.cap;
	int fd;

	/* On a ring it is empty, but for an OK that may not have arrived, and for what the ring has no room for. */
	if (atomic_load(&st->ring_tx)) {
		if (atomic_load(&st->trim_limit) == UINT64_MAX)
			replay_trim(&st->replay, st->tx_sent);
	} else if (replay_used(&st->replay)) {
		fd = helper_borrow(atomic_load(&v->fd));
		if (fd >= 0 && sys_sock_ino(fd) == st->link_ino)
			vs_trim_locked(v, fd);
		helper_close(fd);
	}
	if (replay_used(&st->replay))
		return true;
	replay_relax(&st->replay);
	sys_discard((char *)st + REPLAY_AT, cap);
	st->relaxed_end = st->replay.end;
	return false;
}

void relax_idle(uint64_t now, uint64_t *next)
{
	struct vsock *v;
	bool more = false;

	if (!relax_due || now < relax_due)
		goto out;
	shlock_take(&vs_fds_lock, -1, false);
	for (v = vs_live_head; v; v = v->live_next) {
		struct vstate *st = atomic_load(&v->st);

		if (!st || atomic_load(&st->phase) & PH_BITS)
			continue;
		if (shlock_take(&st->tx, 0, false) != SHLOCK_OK) {
			more = true;
			continue;
		}
		if (st->relaxed_end != st->replay.end)
			more |= relax_one(v, st);
		shlock_drop(&st->tx);
	}
	shlock_drop(&vs_fds_lock);
	relax_due = more ? now + RELAX_NS : 0;
out:
	if (relax_due && (!*next || relax_due < *next))
		*next = relax_due;
}

void relax_soon(uint64_t now)
{
	/* Something happened: idle connections can be looked at later. */
	if (!relax_due)
		relax_due = now + RELAX_NS;
}

void reap_fork_child(void)
{
	reaps = NULL;
	relax_due = 0;
}
