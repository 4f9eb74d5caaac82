#include "shlock.h"
#include "sys.h"
#include <errno.h>

/* How often a waiter looks whether the owner still lives. */
#define CHECK_NS 20000000

__thread uint32_t roam_tid_cache;

uint32_t roam_tid_slow(void)
{
	return roam_tid_cache = (uint32_t)sys_gettid();
}

enum shlock_result shlock_take_slow(shlock *l, int64_t tmo_ns, bool intr)
{
	uint32_t me = roam_tid(), v = atomic_load(l);
	uint64_t start = 0;
	int spins = 0;

	for (;;) {
		uint32_t owner = v & ~SHLOCK_WAITERS;
		int64_t nap = CHECK_NS;
		int r;

		if (!owner) {
			/* Whoever slept sleeps no more for sure: keep the bit. */
			if (atomic_compare_exchange_strong(l, &v, me | (start ? SHLOCK_WAITERS : 0)))
				return SHLOCK_OK;
			continue;
		}
		if (owner == me)
			return SHLOCK_SELF;
		if (tmo_ns == 0)
			return SHLOCK_BUSY;
		if (spins++ < 50) {
			v = atomic_load(l);
			continue;
		}
		if (!start)
			start = sys_now_ns();
		if (tmo_ns > 0) {
			int64_t left = tmo_ns - (int64_t)(sys_now_ns() - start);

			if (left <= 0)
				return SHLOCK_BUSY;
			if (left < nap)
				nap = left;
		}
		if (!(v & SHLOCK_WAITERS) &&
		    !atomic_compare_exchange_strong(l, &v, v | SHLOCK_WAITERS))
			continue;
		r = sys_futex_wait(l, owner | SHLOCK_WAITERS, nap);
		if (r == EINTR && intr && !sys_signals_restart())
			return SHLOCK_INTR;
		v = atomic_load(l);
		if (r == ETIMEDOUT && (v & ~SHLOCK_WAITERS) == owner && !sys_alive((int)owner) &&
		    atomic_compare_exchange_strong(l, &v, me | SHLOCK_WAITERS))
			return SHLOCK_DIED;
	}
}

void shlock_drop_slow(shlock *l)
{
	sys_futex_wake(l, 1);
}
