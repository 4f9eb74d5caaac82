/*
 * Looking again for a while before going to sleep: a sleeper costs its peer a
 * wake-up and itself 25 us and more, a look 50 ns.
 *
 *	if (spin_begin(&w, s, peer_cpu))
 *		do hit = look(); while (!hit && spin_more(&w, SPIN_MEMORY));
 *	if (!hit) sleep ...
 *	spin_end(&w);			only now: the sleep belongs to the wait
 *
 * As in KVM's halt polling, what counts is how long the whole wait was: one
 * that a longer window would have caught makes the window grow, one that no
 * window would have caught makes it shrink, one that was idleness makes it 0.
 *
 * Where spinning would keep the peer from running (one CPU only, or the peer
 * was last seen on ours) each look is followed by a yield: the peer runs at
 * once, for less than a sleep costs, and since both can run the scheduler puts
 * them on two CPUs when it has two.  What a process burns in vain, in all its
 * threads, has a budget.
 */
#ifndef ROAM_SPIN_H
#define ROAM_SPIN_H

#include "types.h"
#include <stdatomic.h>

#define SPIN_FIRST_NS	8000u		/* about what one sleep costs in work */
#define SPIN_MAX_NS	150000u		/* two that sleep answer each other in 60 us here */
#define SPIN_IDLE_NS	2000000u
#define SPIN_PERIOD_NS	100000000u	/* of the budget: */
#define SPIN_BURN_NS	20000000u	/* a fifth of one CPU */

#define SPIN_MEMORY	1u		/* what a look costs: a load, */
#define SPIN_SYSCALL	16u		/* or a system call */

struct spin {				/* of one direction of a connection; zero at first */
	_Atomic uint32_t window;	/* ns */
};

struct spin_wait {
	struct spin *s;
	uint64_t start, end;		/* ticks */
	uint32_t looks;
	bool yield;			/* the peer needs this CPU */
	bool missed;			/* the window went by */
};

extern _Atomic bool spin_off;		/* ROAM_SPIN=off */
extern _Atomic bool spin_tcp;		/* ROAM_SPIN=tcp: where the kernel has to be asked, too */

uint64_t spin_tick_slow(void);

static inline uint64_t spin_tick(void)
{
#ifdef __x86_64__
	return __builtin_ia32_rdtsc();
#else
	return spin_tick_slow();
#endif
}

static inline void spin_pause(void)
{
#ifdef __x86_64__
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("isb" ::: "memory");
#endif
}

/*
 * False: do not spin.  peer_cpu: where the peer was seen last, + 1; 0 not known.
 * *my_cpu, unless NULL, gets where we are, + 1, to be told to the peer.
 */
bool spin_begin(struct spin_wait *w, struct spin *s, uint32_t peer_cpu, uint32_t *my_cpu);
void spin_yield(void);

/* False: time to sleep. */
static inline bool spin_more(struct spin_wait *w, uint32_t cost)
{
	if (unlikely(w->yield)) {
		spin_yield();
		cost = SPIN_SYSCALL;
	} else {
		spin_pause();
	}
	w->looks += cost;
	if (w->looks < SPIN_SYSCALL)
		return true;
	w->looks = 0;
	if (spin_tick() < w->end)
		return true;
	w->missed = true;
	return false;
}

void spin_end(struct spin_wait *w);

#endif
