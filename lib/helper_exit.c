/* The process ends: the peers hear of it, and bytes that a link lacks are delivered. */
#include "coding.h"
#include "helper.h"
#include "link_tcp.h"
#include "meet.h"
#include "park.h"
#include "sys.h"
#include "vring.h"
#include <sys/un.h>

#define EXIT_NS UINT64_C(3000000000)

/* One of the program's, which is ours now, or the helper's. */
static bool lingers(struct vsock *v)
{
	int fd = atomic_load(&v->fd);

	return v->orphan || (!coding_over(v, fd) && !link_dead(fd));
}

/*
 * The kernel goes on delivering after a process has ended; so must we when a
 * link is being mended just then.  The helper works on, for a while.
 */
static void deliver_last(void)
{
	uint64_t end = sys_now_ns() + EXIT_NS;
	struct vsock *v;
	bool busy = true;

	while (busy && sys_now_ns() < end && atomic_load(&vs_live_count)) {
		busy = false;
		if (shlock_take(&vs_fds_lock, 100000000, false) != SHLOCK_OK)
			return;
		for (v = vs_live_head; v; v = v->live_next) {
			struct vstate *st = atomic_load(&v->st);
			uint32_t ph;

			coding_last(v);
			ph = atomic_load(&st->phase);
			if (ph & PH_NOREP || !vs_last_sharer(v, st))
				continue;
			if (!(ph & (PH_MEND | PH_UNSENT))) {
				busy |= ph & PH_CODED && lingers(v);
				continue;
			}
			/* A broken ring may hold some, too. */
			if (vs_tx_off(st) == st->replay.base)
				continue;
			vs_announce_fin(v, false);
			st->shut_wr = 1;
			busy = true;
		}
		shlock_drop(&vs_fds_lock);
		if (busy)
			sys_nap_us(500);
	}
}

#define NOTICES_NS UINT64_C(50000000)

/* The other hosts hear where our streams end before we are gone. */
static void notices_out(void)
{
	uint64_t end = sys_now_ns() + NOTICES_NS;
	struct vsock *v;
	bool busy = atomic_load(&vs_remote_count);

	while (busy && sys_now_ns() < end) {
		busy = false;
		if (shlock_take(&vs_fds_lock, 10000000, false) != SHLOCK_OK)
			return;
		for (v = vs_live_head; v && !busy; v = v->live_next)
			busy = atomic_load(&v->want);
		shlock_drop(&vs_fds_lock);
		if (busy)
			sys_nap_us(50);
	}
}

void helper_exit(void)
{
	struct sockaddr_un a;
	struct vsock *v;

	if (roam_vfork_child)
		return;
	meet_exit();
	park_leave();
	if (helper_running() && !roam_in_helper)
		deliver_last();
	/* A forked child that never needed a helper ends connections like any other. */
	if (shlock_take(&vs_fds_lock, 100000000, false) == SHLOCK_OK) {
		for (v = vs_live_head; v; v = v->live_next) {
			struct vstate *st = atomic_load(&v->st);

			if (!(atomic_load(&st->phase) & PH_NOREP) && vs_last_sharer(v, st))
				vs_announce_fin(v, true);
			coding_end(v, atomic_load(&v->fd));
			vring_end(v, atomic_load(&v->fd));
			if (v->slot >= 0)
				atomic_store(&st->slot[v->slot].s.pid, 0);
		}
		shlock_drop(&vs_fds_lock);
	}
	if (!helper_running())
		return;
	if (!roam_in_helper)
		notices_out();
	if (meet_rendezvous(a.sun_path, sizeof(a.sun_path), (uint32_t)sys_getpid(), helper_start_time()) > 0)
		sys_unlink(a.sun_path);
}
