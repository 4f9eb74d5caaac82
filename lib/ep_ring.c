/*
 * Epoll readiness of sockets on rings.
 *
 * In the kernel's set such a registration is only a waker: edge-triggered, for
 * the doorbell and the end of the base link, with our record as its data.  Once
 * woken it is *hot*: every epoll_wait looks at the ring itself, level- or
 * edge-triggered as the application asked, without a system call, and without
 * the peer ringing again.  Before a sleep all hot ones are armed (vring_arm) and
 * the list is empty: idle connections cost nothing.
 *
 *	kernel's event -> hot -> told, again and again (LT) or once a change (ET)
 *	nothing for a while, or nobody has anything -> armed -> not hot
 */
#include "ep_int.h"
#include "sys.h"
#include "vring.h"
#include "vs_poll.h"
#include <errno.h>

#define LOOK_TICKS	20000u	/* some 10 us: so often the kernel's own events are asked for while rings are busy */
/*
 * One that has nothing while others are busy costs a look (some 10 ns) in each
 * call; armed it costs three system calls, and its peer one, when it has
 * something again.  So it stays hot for about as long as that costs.
 */
#define COOL_LOOKS	1024u
#define COOL_TICKS	400000u	/* and some 200 us: a thread that spins looks fast */
#define COOL_MAX	2u	/* that many in one call */
#define ARM_TICKS	6000u
#define FULL_LOOK	8u	/* each so many-th look is for the end of the stream, too */

#define INTEREST (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLRDNORM | EPOLLWRNORM | EPOLLRDBAND | EPOLLWRBAND)

static void unarm(struct epreg *r)
{
	if (r->waits_in || r->waits_out)
		vring_unarm(r->v, r->waits_in, r->waits_out);
	r->waits_in = r->waits_out = false;
}

static void heat(struct epset *s, struct epreg *r)
{
	unarm(r);
	if (r->hot || r->ghost)
		return;
	s->nhot++;
	r->hot = true;
	r->idle = 0;
	r->last = spin_tick();
	r->next_hot = s->hot;
	s->hot = r;
}

void ep_over_gone(struct epset *s, struct epreg *r)
{
	struct epreg **p = &s->hot;

	unarm(r);
	if (r->hot) {
		while (*p && *p != r)
			p = &(*p)->next_hot;
		if (*p)
			*p = r->next_hot;
		s->nhot--;
	}
	r->hot = false;
	if (r->over) {
		ep_unlink_set(s, r);
		r->over = false;
		ep_link_set(s, r);
		atomic_fetch_sub(&s->nover, 1);
	}
}

void ep_over_leave(struct epset *s, struct epreg *r)
{
	struct epreg **p = &s->hot;

	unarm(r);
	r->ghost = true;
	if (!r->hot)
		return;
	while (*p && *p != r)
		p = &(*p)->next_hot;
	if (*p)
		*p = r->next_hot;
	r->hot = false;
	s->nhot--;
}

static struct epoll_event waker(const struct epreg *r)
{
	return (struct epoll_event){ .events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = (void *)(uintptr_t)r };
}

int ep_over_add(struct epset *s, struct epreg *r)
{
	struct epoll_event ev = waker(r);

	if (sys_epoll_ctl(atomic_load(&s->fd), EPOLL_CTL_ADD, r->fd, &ev) < 0)
		return -1;
	ep_unlink_set(s, r);
	r->over = true;
	ep_link_set(s, r);
	atomic_fetch_add(&s->nover, 1);
	r->native = 0;
	r->vr = vring_of(r->v);
	r->tailp = r->vr ? &r->vr->r.in->tail : NULL;
	r->headp = &atomic_load(&r->v->st)->ring.rx_head;
	ep_over_mod(s, r);
	return 0;
}

void ep_over_mod(struct epset *s, struct epreg *r)
{
	struct epoll_event ev = waker(r);

	/* As the kernel's MOD: what is there is told once more. */
	r->told = 0;
	r->tail_seen = RING_ANY;
	r->full_seen = atomic_load(&r->v->full) - 1;
	heat(s, r);
	/* A thread that sleeps is woken by an edge: the base can always be written to. */
	if (atomic_load(&s->waiting)) {
		ev.events |= EPOLLOUT;
		sys_epoll_ctl(atomic_load(&s->fd), EPOLL_CTL_MOD, r->fd, &ev);
		ev.events &= ~(uint32_t)EPOLLOUT;
	}
}

void ep_hot(struct vsock *v)
{
	struct epset *s = NULL;
	struct epreg *r;

	while ((r = ep_next_over(v, &s)) != NULL) {
		/* s is locked */
		heat(s, r);
		ep_unlock(s);
	}
}

/* ---- what is ready */

/* The application's bits that are due now; 0 none. */
static uint32_t due(struct epreg *r, struct vring *vr, bool tell)
{
	struct vstate *st = atomic_load(&r->v->st);
	uint32_t have, level, full, want = (r->events & INTEREST) | EPOLLERR | EPOLLHUP;
	uint64_t tail;

	if (!st || r->fired || r->ghost)
		return 0;
	tail = atomic_load(&vr->r.in->tail);
	full = atomic_load(&r->v->full);
	have = (uint32_t)vring_events(r->v, vr);
	if (!(r->native & EPOLLERR && vring_orderly(r->v, st, vr)))
		have |= r->native & (EPOLLERR | EPOLLHUP);
	if (atomic_load(&st->phase) & PH_NOREP)
		have |= r->native | EPOLLOUT | EPOLLWRNORM;
	/* The end is an edge also to who asked for bytes only. */
	level = have & (EPOLLRDHUP | EPOLLHUP | EPOLLERR);
	have &= want;
	if (!have)
		return 0;
	if (!(r->events & EPOLLET))
		return have;
	/* An edge: new bytes, room after there was none, an end that was not told. */
	if ((have & EPOLLIN && (tail != r->tail_seen || level & ~r->told)) ||
	    (have & EPOLLOUT && full != r->full_seen) || level & ~r->told) {
		if (!tell)
			return have;
		r->tail_seen = tail;
		if (have & EPOLLOUT)
			r->full_seen = full;
		r->told |= level;
		return have;
	}
	return 0;
}

/* Without a verdict, and only as far as bytes are concerned if no more is asked for: two words. */
static inline bool may_be(const struct epreg *r, const struct vring *vr)
{
	return r->vr != vr || r->native || r->events & (EPOLLOUT | EPOLLWRNORM) ||
		atomic_load_explicit(r->tailp, memory_order_relaxed) != atomic_load_explicit(r->headp, memory_order_relaxed);
}

/* Sleeps and cools: armed, and out of the list. False: it has something after all. */
static bool cool(struct epset *s, struct epreg *r, struct vring *vr)
{
	bool in = r->events & (EPOLLIN | EPOLLRDNORM) && !r->fired;
	bool out = r->events & (EPOLLOUT | EPOLLWRNORM) && !r->fired;
	struct vstate *st = atomic_load(&r->v->st);

	(void)s;
	if (!st)
		return true;
	/* An edge for room was told: only a send that fails asks again, and makes it hot. */
	if (out && (r->events & EPOLLET) && atomic_load(&r->v->full) == r->full_seen)
		out = false;
	if (in && (r->fired || atomic_load(&st->phase) & PH_NOREP))
		in = false;
	unarm(r);
	if (!vring_arm(r->v, vr, r->fd, in, r->events & EPOLLET && ring_look(&vr->r, RING_RX) ? r->tail_seen : RING_ANY, out))
		return false;
	r->waits_in = in;
	r->waits_out = out;
	if (!due(r, vr, false))
		return true;
	r->idle = 0;		/* to be looked at in full, next */
	unarm(r);
	return false;
}

static int collect(struct epset *s, struct epoll_event *ev, int max)
{
	uint64_t now = spin_tick();
	struct epreg *r, **p = &s->hot;
	unsigned int cooled = 0;
	int n = 0;

	ep_lock(s);
	while ((r = *p) && n < max) {
		struct vring *vr = vring_of(r->v);
		uint32_t have = vr && (may_be(r, vr) || r->idle % FULL_LOOK == 0) ? due(r, vr, true) : 0;

		r->idle++;
		if (have) {
			r->last = now;
			r->idle = 0;
			ev[n].events = have;
			ev[n++].data.u64 = r->data;
			r->fired = r->events & EPOLLONESHOT;
		} else if (!vr || (r->idle > COOL_LOOKS && now - r->last > COOL_TICKS && cooled++ < COOL_MAX &&
				   cool(s, r, vr))) {
			*p = r->next_hot;
			r->hot = false;
			s->nhot--;
			continue;
		}
		p = &r->next_hot;
	}
	/* More than fit: the others first, next time. */
	if (r && s->hot != r) {
		struct epreg *first = s->hot, *last = r;

		while (last->next_hot)
			last = last->next_hot;
		last->next_hot = first;
		s->hot = r;
		*p = NULL;
	}
	ep_unlock(s);
	return n;
}

static bool to_sleep(struct epset *s)
{
	struct epreg *r;
	bool ok = true;

	atomic_fetch_add(&s->waiting, 1);
	ep_lock(s);
	while (ok && (r = s->hot)) {
		struct vring *vr = vring_of(r->v);

		ok = !vr || cool(s, r, vr);
		if (ok) {
			s->hot = r->next_hot;
			r->hot = false;
			s->nhot--;
		}
	}
	ep_unlock(s);
	if (!ok)
		atomic_fetch_sub(&s->waiting, 1);
	return ok;
}

static void awake(struct epset *s)
{
	atomic_fetch_sub(&s->waiting, 1);
}

bool ep_woken(struct epset *s, const struct epoll_event *ev)
{
	struct vsock *v = NULL;
	struct epreg *r;
	uint32_t bits = 0;

	ep_lock(s);
	for (r = s->nbucket ? *ep_slot(s, ev->data.u64) : NULL; r; r = r->next_set)
		if (r->over && (uintptr_t)r == ev->data.u64)
			break;
	if (r) {
		heat(s, r);
		bits = ev->events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP);
		v = bits ? r->v : NULL;
	}
	ep_unlock(s);
	if (!r)
		return false;
	/* The base ended: is the stream broken, or did the peer say so before? */
	if (v && !vs_ready_trouble(v, bits)) {
		ep_lock(s);
		/* It may have gone meanwhile: only if it is still there. */
		for (r = s->nbucket ? *ep_slot(s, ev->data.u64) : NULL; r; r = r->next_set)
			if (r->over && (uintptr_t)r == ev->data.u64)
				r->native |= (ev->events & ~(uint32_t)EPOLLIN) | (bits & EPOLLRDHUP ? EPOLLIN : 0);
		ep_unlock(s);
	}
	return true;
}

/* ---- the wait */

static struct timespec until(uint64_t end)
{
	int64_t d = (int64_t)(end - sys_now_ns());

	if (d < 0)
		d = 0;
	return (struct timespec){ d / 1000000000, d % 1000000000 };
}

/* What the kernel has to say, besides doorbells. */
static int look(int ep, struct epset *s, struct epoll_event *ev, int max)
{
	static const struct timespec zero;
	int r = sys_epoll_pwait2(ep, ev, max, &zero, NULL);

	s->looked = spin_tick();
	return r > 0 ? ep_filter(ep, s, ev, r) : 0;
}

/*
 * Until a ring is ready; 0: time to sleep.  Sleeping costs some 3 us for each
 * hot one, here and again at its peer: so long it pays to look on in any case.
 */
static int spin(int ep, struct epset *s, struct epoll_event *ev, int max, struct spin_wait *w)
{
	uint64_t until = spin_tick() + (uint64_t)s->nhot * ARM_TICKS;
	int n;

	do {
		n = collect(s, ev, max);
		if (!n && spin_tick() - s->looked > LOOK_TICKS)
			n = look(ep, s, ev, max);
	} while (!n && s->hot && !atomic_load_explicit(&vs_to_install, memory_order_relaxed) &&
		 (spin_more(w, SPIN_SYSCALL / 4) || spin_tick() < until));
	return n;
}

/* Hints for both sides' spinning: one ring stands for the set. */
static uint32_t peer_cpu(struct epset *s)
{
	struct vring *vr;
	uint32_t cpu = 0;

	ep_lock(s);
	vr = s->hot ? vring_of(s->hot->v) : NULL;
	if (vr) {
		cpu = ring_peer_cpu(&vr->r);
		ring_tell_cpu(&vr->r, (uint32_t)(sys_cpu() + 1));
	}
	ep_unlock(s);
	return cpu;
}

int ep_wait(int ep, struct epset *s, struct epoll_event *ev, int max, const struct timespec *tmo, const sigset_t *mask)
{
	bool zero = tmo && !tmo->tv_sec && !tmo->tv_nsec;
	unsigned int vain = 0;
	uint64_t end = tmo && !zero ? sys_now_ns() + (uint64_t)tmo->tv_sec * 1000000000u + (uint64_t)tmo->tv_nsec : 0;

	if (max <= 0 || !ev)
		return sys_epoll_pwait2(ep, ev, max, tmo, mask);
	for (;;) {
		struct spin_wait w;
		struct timespec t;
		bool may;
		int n, r, e;

		vs_install();
		n = s->hot ? collect(s, ev, max) : 0;
		if (n) {
			/* The kernel's own are not forgotten while rings are busy. */
			if (n < max && (zero || spin_tick() - s->looked > LOOK_TICKS))
				n += look(ep, s, ev + n, max - n);
			return n;
		}
		if (zero) {
			n = look(ep, s, ev, max);
			return n < max ? n + collect(s, ev + n, max - n) : n;
		}
		may = spin_begin(&w, &s->spin, s->hot ? peer_cpu(s) : 0, NULL);
		if (may && s->hot && (n = spin(ep, s, ev, max, &w)) != 0) {
			spin_end(&w);
			return n;
		}
		if (!to_sleep(s)) {
			spin_end(&w);
			/* Another sleeper has to see the doorbell first (vs_ring_poll.c). */
			if (++vain > 2)
				sys_nap_us(vain < 20 ? vain * 50 : 1000);
			continue;
		}
		if (end)
			t = until(end);
		{
			/* A cancelled thread sleeps no more. */
			_Atomic uint32_t *in VS_COUNT_GUARD = &s->waiting;

			r = sys_epoll_pwait2(ep, ev, max, end ? &t : NULL, mask);
			e = errno;
			in = NULL;
		}
		awake(s);
		spin_end(&w);
		s->looked = spin_tick();
		errno = e;
		if (r < 0)
			return r;
		n = r ? ep_filter(ep, s, ev, r) : 0;
		if (n < max)
			n += collect(s, ev + n, max - n);
		if (n)
			return n;
		if (end && (t = until(end), !t.tv_sec && !t.tv_nsec))
			return 0;
	}
}
