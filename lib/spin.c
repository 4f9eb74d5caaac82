/* See spin.h. */
#include "spin.h"
#include "sys.h"

#define LOOK_AGAIN	256u		/* waits between two looks at the affinity mask */

_Atomic bool spin_off, spin_tcp;

/*
 * Ticks of the time stamp counter in a nanosecond, times 1024.  Measured
 * against the clock between the first wait and the first one a millisecond
 * later; until then 1 GHz, which only makes the first windows shorter.
 */
static _Atomic uint64_t first_tick, first_ns;
static _Atomic uint32_t rate = 1024;
static _Atomic bool measured;

/* The budget: a period's start in ticks, and what was burnt since. */
static _Atomic uint64_t period, burnt_ns;

static __thread uint32_t waits, cpus;

uint64_t spin_tick_slow(void)
{
	return sys_now_ns();
}

void spin_yield(void)
{
	sys_yield();
}

static void measure(uint64_t now)
{
#ifdef __x86_64__
	uint64_t ns = sys_now_ns(), was = 0, d;

	if (atomic_compare_exchange_strong(&first_tick, &was, now)) {
		atomic_store(&first_ns, ns);
		return;
	}
	d = ns - atomic_load(&first_ns);
	if (!atomic_load(&first_ns) || d < 1000000 || now <= was)
		return;
	d = (now - was) / (d / 1024);
	/* a counter that stands still or runs wild is no clock; nor is one after a restore elsewhere */
	if (d >= 100 && d <= 16 * 1024)
		atomic_store(&rate, (uint32_t)d);
#endif
	atomic_store(&measured, true);
}

static uint64_t ticks(uint64_t ns)
{
	return ns * atomic_load_explicit(&rate, memory_order_relaxed) / 1024;
}

static uint64_t nanoseconds(uint64_t t)
{
	return t * 1024 / atomic_load_explicit(&rate, memory_order_relaxed);
}

static bool broke(uint64_t now)
{
	uint64_t p = atomic_load_explicit(&period, memory_order_relaxed);

	if (now - p > ticks(SPIN_PERIOD_NS)) {
		atomic_store_explicit(&period, now, memory_order_relaxed);
		atomic_store_explicit(&burnt_ns, 0, memory_order_relaxed);
		return false;
	}
	return atomic_load_explicit(&burnt_ns, memory_order_relaxed) > SPIN_BURN_NS;
}

bool spin_begin(struct spin_wait *w, struct spin *s, uint32_t peer_cpu, uint32_t *my_cpu)
{
	uint32_t window = atomic_load_explicit(&s->window, memory_order_relaxed);
	uint32_t me = (uint32_t)(sys_cpu() + 1);

	if (my_cpu)
		*my_cpu = me;
	w->s = s;
	w->looks = 0;
	w->missed = false;
	w->start = spin_tick();
	if (unlikely(!atomic_load_explicit(&measured, memory_order_relaxed)))
		measure(w->start);
	if (waits++ % LOOK_AGAIN == 0)
		cpus = (uint32_t)sys_cpus();
	/* a thread that is pinned may still have a peer that runs elsewhere, when that is known */
	w->yield = peer_cpu ? peer_cpu == me : cpus < 2;
	if (!window || atomic_load_explicit(&spin_off, memory_order_relaxed) || broke(w->start))
		return false;
	w->end = w->start + ticks(window);
	return true;
}

void spin_end(struct spin_wait *w)
{
	struct spin *s = w->s;
	uint32_t window = atomic_load_explicit(&s->window, memory_order_relaxed), was = window;
	uint64_t ns;

	if (likely(!w->missed && window == SPIN_MAX_NS))
		return;
	ns = nanoseconds(spin_tick() - w->start);
	if (w->missed)
		atomic_fetch_add_explicit(&burnt_ns, window < ns ? window : ns, memory_order_relaxed);
	if (ns <= SPIN_MAX_NS) {
		window = window ? window * 2 : SPIN_FIRST_NS;
		if (window > SPIN_MAX_NS)
			window = SPIN_MAX_NS;
	} else if (ns >= SPIN_IDLE_NS) {
		window = 0;
	} else {
		window = window / 2 < SPIN_FIRST_NS ? 0 : window / 2;
	}
	if (window != was)
		atomic_store_explicit(&s->window, window, memory_order_relaxed);
}
