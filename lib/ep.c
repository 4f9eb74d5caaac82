#include "ep_int.h"
#include "coding.h"
#include "helper.h"
#include "sys.h"
#include "vring.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS 64u	/* of registrations by data; only searched when a link breaks */

/* The data of that socket's registration: no application's pointer. */
static char taint_mark;
_Atomic uint32_t ep_taints;

static struct epset *sets;		/* every set, also unused ones: never freed, used again */
static shlock sets_lock;

static void lock(struct epset *s)
{
	shlock_take(&s->lock, -1, false);
}

static void unlock(struct epset *s)
{
	shlock_drop(&s->lock);
}

void ep_new(int ep)
{
	struct epset *s;

	if (ep < 0 || roam_vfork_child)
		return;
	shlock_take(&sets_lock, -1, false);
	for (s = sets; s && atomic_load(&s->nfd); s = s->next)
		;
	if (!s) {
		s = calloc(1, sizeof(*s));
		if (s) {
			s->next = sets;
			sets = s;
		}
	}
	if (s) {
		atomic_store(&s->nfd, 1);
		atomic_store(&s->fd, ep);
		s->taint = -1;
		fdtab_set(ep, (uintptr_t)s | FD_EPSET);
	}
	shlock_drop(&sets_lock);
}

void ep_dup(int ep, int to)
{
	struct epset *s = fdtab_epset(ep);

	if (!s || to < 0 || roam_vfork_child)
		return;
	atomic_fetch_add(&s->nfd, 1);
	fdtab_set(to, (uintptr_t)s | FD_EPSET);
}

void ep_lock(struct epset *s)
{
	lock(s);
}

void ep_unlock(struct epset *s)
{
	unlock(s);
}

void ep_unlink_set(struct epset *s, struct epreg *r)
{
	struct epreg **p = ep_slot(s, ep_key(r));

	while (*p && *p != r)
		p = &(*p)->next_set;
	if (*p) {
		*p = r->next_set;
		s->nreg--;
	}
}

void ep_link_set(struct epset *s, struct epreg *r)
{
	struct epreg **p = ep_slot(s, ep_key(r));

	r->next_set = *p;
	*p = r;
	s->nreg++;
}

static bool make_room(struct epset *s)
{
	struct epreg **old = s->bucket, *r, *next;
	uint32_t n = s->nbucket, i, want = n ? n * 4 : BUCKETS;

	if (n && s->nreg < n)
		return true;
	s->bucket = calloc(want, sizeof(*s->bucket));
	if (!s->bucket) {
		s->bucket = old;
		return n != 0;
	}
	s->nbucket = want;
	s->nreg = 0;
	for (i = 0; i < n; i++)
		for (r = old[i]; r; r = next) {
			next = r->next_set;
			ep_link_set(s, r);
		}
	free(old);
	return true;
}

/*
 * Registrations come from chunks that are never given back: an event that the
 * kernel handed out just before a registration left the ring, or the set, has
 * its address as data, and must be told from the application's.
 */
#define REGS	256u
static struct epreg *reg_chunk[4096];
static _Atomic uint32_t reg_chunks;
static struct epreg *reg_free;
static shlock reg_lock;

static struct epreg *reg_new(void)
{
	struct epreg *r, *c;
	uint32_t n, i;

	shlock_take(&reg_lock, -1, false);
	n = atomic_load(&reg_chunks);
	if (!reg_free && n < ARRAY_SIZE(reg_chunk) && (c = sys_map_anon(REGS * sizeof(*c))) != NULL) {
		for (i = 0; i < REGS; i++) {
			c[i].next_v = reg_free;
			reg_free = &c[i];
		}
		reg_chunk[n] = c;
		atomic_store(&reg_chunks, n + 1);
	}
	r = reg_free;
	if (r)
		reg_free = r->next_v;
	shlock_drop(&reg_lock);
	return r;
}

static void reg_drop(struct epreg *r)
{
	if (!r)
		return;
	shlock_take(&reg_lock, -1, false);
	r->next_v = reg_free;
	reg_free = r;
	shlock_drop(&reg_lock);
}

/* Ours, whatever it stands for by now. */
static bool is_reg(const void *p)
{
	uint32_t i, n = atomic_load_explicit(&reg_chunks, memory_order_acquire);

	for (i = 0; i < n; i++)
		if ((uintptr_t)p - (uintptr_t)reg_chunk[i] < REGS * sizeof(struct epreg))
			return true;
	return false;
}

/* Registrations of a vsock hang on it; the sets' locks do not cover that list. */
static shlock regs_lock;

static void unlink_v(struct epreg *r)
{
	struct epreg **p = &r->v->regs;

	shlock_take(&regs_lock, -1, false);
	while (*p && *p != r)
		p = &(*p)->next_v;
	if (*p)
		*p = r->next_v;
	shlock_drop(&regs_lock);
}

static void link_v(struct epreg *r)
{
	shlock_take(&regs_lock, -1, false);
	r->next_v = r->v->regs;
	r->v->regs = r;
	shlock_drop(&regs_lock);
}

static struct epreg *find(struct epset *s, struct vsock *v, int fd)
{
	struct epreg *r;

	shlock_take(&regs_lock, -1, false);
	for (r = v->regs; r; r = r->next_v)
		if (r->set == s && r->fd == fd)
			break;
	shlock_drop(&regs_lock);
	return r;
}

void ep_close(int ep)
{
	struct epset *s = fdtab_epset(ep);
	struct epreg *r;
	uint32_t i;
	int fd, top;

	if (!s || roam_vfork_child)
		return;
	fdtab_set(ep, 0);
	lock(s);
	if (atomic_load(&s->nfd) > 1) {
		atomic_fetch_sub(&s->nfd, 1);
		if (atomic_load(&s->fd) == ep) {
			top = fdtab_top();
			for (fd = 0; fd < top; fd++)
				if (fdtab_epset(fd) == s)
					break;
			atomic_store(&s->fd, fd);
		}
		unlock(s);
		return;
	}
	for (i = 0; i < s->nbucket; i++)
		while ((r = s->bucket[i])) {
			s->bucket[i] = r->next_set;
			unlink_v(r);
			reg_drop(r);
		}
	s->nreg = 0;
	s->hot = NULL;
	s->nhot = 0;
	atomic_store(&s->nover, 0);
	atomic_store(&s->nested, false);
	if (s->taint >= 0)
		atomic_fetch_sub(&ep_taints, 1);
	s->taint = -1;
	unlock(s);
	atomic_store(&s->nfd, 0);
}

/*
 * Notes that a registration is out of the kernel's set.  Under regs_lock: ep_attach,
 * which begins after the link is whole, then either finds it, or we see the whole link.
 */
static bool take_out(struct epreg *r)
{
	shlock_take(&regs_lock, -1, false);
	r->out = vs_live(r->v) && vs_mending(r->v);
	shlock_drop(&regs_lock);
	return r->out;
}

static void taint(struct epset *s, int ep);

/*
 * What the kernel is asked for.  The end of a link that is only left looks like
 * bytes to who does not ask for RDHUP, so we always do where bytes are asked for.
 */
static uint32_t asked(uint32_t events)
{
	bool bytes = events & (EPOLLIN | EPOLLRDNORM) && !(events & EPOLLEXCLUSIVE);

	return events | (bytes ? EPOLLRDHUP : 0);
}

/* Is it memory of the program's? The kernel looks at it before it looks for the set. */
static bool readable(struct epoll_event *ev)
{
	return sys_epoll_ctl(-1, EPOLL_CTL_ADD, -1, ev) < 0 && errno != EFAULT;
}

static int ctl_out(struct epset *s, struct epreg *r, int op, struct epoll_event *ev)
{
	/* The kernel's registration is out while the link is mended: only the record changes. */
	switch (op) {
	case EPOLL_CTL_ADD:
		errno = EEXIST;
		return -1;
	case EPOLL_CTL_MOD:
		ep_unlink_set(s, r);
		r->events = ev->events;
		r->data = ev->data.u64;
		r->rearm = true;
		ep_link_set(s, r);
		return 0;
	default:
		ep_unlink_set(s, r);
		unlink_v(r);
		reg_drop(r);
		return 0;
	}
}

static int ask_anew(struct epset *s, struct epreg *r, uint32_t events, uint64_t data)
{
	r->events = events;
	r->data = data;
	r->fired = false;
	ep_over_mod(s, r);
	return 0;
}

/* A registration on a ring: the kernel's is only a waker. 1: not for us to say. */
static int ctl_ring(struct epset *s, struct epreg *r, int op, struct epoll_event *ev)
{
	uint32_t odd = EPOLLEXCLUSIVE;

	/* Programs take a socket out and put it back for each message: no calls for that. */
	if (r->ghost && op != EPOLL_CTL_ADD) {
		errno = ENOENT;
		return -1;
	}
	if (op == EPOLL_CTL_DEL) {
		ep_over_leave(s, r);
		return 0;
	}
	if (op == EPOLL_CTL_ADD && ev && r->ghost) {
		r->ghost = false;
		return ask_anew(s, r, ev->events & ~odd, ev->data.u64);
	}
	if (op == EPOLL_CTL_MOD && ev) {
		if ((r->events | ev->events) & odd) {
			errno = EINVAL;
			return -1;
		}
		return ask_anew(s, r, ev->events, ev->data.u64);
	}
	return 1;
}

int ep_ctl(int ep, struct epset *s, int op, int fd, struct vsock *v, struct epoll_event *ev)
{
	struct epreg *r, *fresh = NULL;
	struct epoll_event k;
	struct vring *vr;
	int ret, e;

	if (unlikely(op == EPOLL_CTL_ADD && atomic_load(&s->nested) && !vs_bare(v)))
		vring_leave(v, true);
	lock(s);
	r = find(s, v, fd);
	if (r && r->over && (ret = ctl_ring(s, r, op, ev)) <= 0) {
		e = errno;
		goto out;
	}
	if (r && r->out && (op == EPOLL_CTL_ADD || op == EPOLL_CTL_DEL || (op == EPOLL_CTL_MOD && ev))) {
		ret = ctl_out(s, r, op, ev);
		e = errno;
		goto out;
	}
	if (op == EPOLL_CTL_ADD && !r && make_room(s))
		fresh = reg_new();
	if (op != EPOLL_CTL_DEL && (fresh || r) && readable(ev)) {
		k = (struct epoll_event){ .events = asked(ev->events), .data = ev->data };
		ret = sys_epoll_ctl(ep, op, fd, &k);
	} else {
		ret = sys_epoll_ctl(ep, op, fd, ev);
	}
	e = errno;
	if (ret < 0) {
		reg_drop(fresh);
		goto out;
	}
	if (op == EPOLL_CTL_DEL && r) {
		ep_unlink_set(s, r);
		unlink_v(r);
		reg_drop(r);
	} else if (op == EPOLL_CTL_MOD && r) {
		ep_unlink_set(s, r);
		r->events = ev->events;
		r->data = ev->data.u64;
		ep_link_set(s, r);
	} else if (op == EPOLL_CTL_ADD && r) {
		/* The kernel knew better: a closed duplicate's record. */
		r->events = ev->events;
	} else if (op == EPOLL_CTL_ADD && fresh) {
		*fresh = (struct epreg){ .set = s, .v = v, .fd = fd, .events = ev->events,
					 .data = ev->data.u64 };
		ep_link_set(s, fresh);
		link_v(fresh);
		/* On a dead socket, which takes its registrations with it: put back with the others. */
		if (take_out(fresh)) {
			fresh->rearm = true;
			taint(s, ep);
			sys_epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL);
		} else {
			vr = vring_of(v);
			if (vr) {
				/* The kernel has checked the call; now it is put there our way. */
				sys_epoll_ctl(ep, EPOLL_CTL_DEL, fd, NULL);
				ep_over_add(s, fresh);
			}
		}
	} else if (op == EPOLL_CTL_ADD) {
		v->never = REASON_MEMORY;	/* we could not put it back after a break */
	}
out:
	unlock(s);
	errno = e;
	return ret;
}

#define TROUBLE (EPOLLERR | EPOLLHUP | EPOLLRDHUP)

/*
 * The next registration with the application's data, after `r` (NULL: the first).
 * Those on rings are kept by another key: an event of the old socket may come
 * in one batch with the word that it has been exchanged for a ring.
 */
static struct epreg *by_data(struct epset *s, struct epreg *r, uint64_t data)
{
	uint32_t i = 0;

	if (!s->nbucket)
		return NULL;
	if (!atomic_load(&s->nover)) {
		for (r = r ? r->next_set : *ep_slot(s, data); r && r->data != data; r = r->next_set)
			;
		return r;
	}
	if (r) {
		i = (uint32_t)(ep_slot(s, ep_key(r)) - s->bucket) + 1;
		for (r = r->next_set; r && r->data != data; r = r->next_set)
			;
	}
	for (; !r && i < s->nbucket; i++)
		for (r = s->bucket[i]; r && r->data != data; r = r->next_set)
			;
	return r;
}

/* The application does not see this event: a ONESHOT is as good as not fired. */
static void rearm(struct epset *s, struct vsock *v, uint64_t data)
{
	struct epreg *r;

	lock(s);
	for (r = by_data(s, NULL, data); r; r = by_data(s, r, data))
		if (r->v == v && r->events & EPOLLONESHOT) {
			struct epoll_event ev = { .events = asked(r->events), .data.u64 = r->data };

			if (r->over) {
				r->fired = false;
				ep_over_mod(s, r);
				continue;
			}
			r->rearm = true;
			/* Mended and put back already: armed by hand. */
			if (!r->out)
				sys_epoll_ctl(atomic_load(&s->fd), EPOLL_CTL_MOD, r->fd, &ev);
		}
	unlock(s);
}

/* Is one of the registrations with this data a live socket whose link is broken? */
static bool kept_back(struct epset *s, struct epoll_event *ev)
{
	struct vsock *broken[8];
	unsigned int n = 0, i;
	uint32_t wanted = 0;
	bool known = false;
	struct epreg *r;

	lock(s);
	for (r = by_data(s, NULL, ev->data.u64); r; r = by_data(s, r, ev->data.u64)) {
		wanted |= r->events;
		known = true;
		if (n < ARRAY_SIZE(broken) && atomic_load(&r->v->mode) == VS_LIVE)
			broken[n++] = r->v;
	}
	unlock(s);
	for (i = 0; i < n; i++)
		if (vs_ready_end(broken[i], ev->events, wanted & EPOLLRDHUP)) {
			rearm(s, broken[i], ev->data.u64);
			return true;
		}
	/* Asked for by us; the program calls it readable. */
	if (known && ev->events & EPOLLRDHUP && !(wanted & EPOLLRDHUP)) {
		ev->events &= ~(uint32_t)EPOLLRDHUP;
		ev->events |= wanted & (EPOLLIN | EPOLLRDNORM);
	}
	return false;
}

/* Readable by the kernel's word: on a coded link it may be the wire only. False: nothing is left. */
static bool read_right(struct epset *s, struct epoll_event *ev)
{
	struct vsock *v = NULL;
	struct epreg *r;
	int fd = -1, more = 0;

	lock(s);
	for (r = by_data(s, NULL, ev->data.u64); r; r = by_data(s, r, ev->data.u64)) {
		more += v && v != r->v;
		if (atomic_load(&r->v->mode) == VS_LIVE && vs_coded(r->v) && !r->out) {
			v = r->v;
			fd = r->fd;
		}
	}
	unlock(s);
	/* With one word for two sockets nobody knows whose it is. */
	if (!v || more || vs_mending(v) || coding_readable(v, fd))
		return true;
	ev->events &= ~(uint32_t)(EPOLLIN | EPOLLRDNORM);
	if (ev->events)
		return true;
	rearm(s, v, ev->data.u64);
	return false;
}

int ep_filter(int ep, struct epset *s, struct epoll_event *ev, int n)
{
	int i, k = 0;

	(void)ep;
	for (i = 0; i < n; i++) {
		if (unlikely(ev[i].data.ptr == &taint_mark)) {
			vs_install();
			continue;
		}
		/* A waker, or what was one when the kernel handed this out. */
		if (unlikely(is_reg(ev[i].data.ptr))) {
			ep_woken(s, &ev[i]);
			continue;
		}
		if (unlikely(atomic_load_explicit(&coding_count_now, memory_order_relaxed)) &&
		    ev[i].events & (EPOLLIN | EPOLLRDNORM) && !(ev[i].events & (EPOLLERR | EPOLLHUP)) &&
		    !read_right(s, &ev[i]))
			continue;
		if (unlikely(ev[i].events & TROUBLE) && kept_back(s, &ev[i]))
			continue;
		if (k != i)
			ev[k] = ev[i];
		k++;
	}
	return k;
}

/*
 * Has the kernel disarmed this ONESHOT registration?  Its own record in /proc
 * says so; without /proc we assume it is armed (an event too many, none too few).
 */
static bool disarmed(int ep, int fd)
{
	char path[48], buf[4096], *line;
	size_t have = 0;
	bool off = false;
	ssize_t n;
	int p;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", ep);
	p = sys_open_ro(path);
	if (p < 0)
		return false;
	while ((n = sys_read(p, buf + have, sizeof(buf) - 1 - have)) > 0) {
		char *end;

		have += (size_t)n;
		buf[have] = 0;
		for (line = buf; (end = strchr(line, '\n')); line = end + 1) {
			int tfd;
			unsigned int ev;

			if (sscanf(line, "tfd: %d events: %x", &tfd, &ev) == 2 && tfd == fd)
				off = !(ev & ~(unsigned int)(EPOLLONESHOT | EPOLLET | EPOLLEXCLUSIVE |
							     EPOLLWAKEUP));
		}
		have -= (size_t)(line - buf);
		memmove(buf, line, have);
	}
	sys_close(p);
	return off;
}

/*
 * The locks of sets come before regs_lock: walk by taking one at a time.  Only
 * the set's address is good without its lock; registrations may go meanwhile.
 */
static struct epreg *next_reg(struct vsock *v, struct epset **set, bool out)
{
	struct epreg *r;

	shlock_take(&regs_lock, -1, false);
	for (r = v->regs; r && (r->out == out || (*set && r->set != *set)); r = r->next_v)
		;
	if (r)
		*set = r->set;
	shlock_drop(&regs_lock);
	return r;
}

static void taint(struct epset *s, int ep)
{
	int fd = helper_socket();
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = &taint_mark };

	if (fd < 0 || s->taint == fd)
		return;
	if (sys_epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) == 0) {
		if (s->taint < 0)
			atomic_fetch_add(&ep_taints, 1);
		s->taint = fd;
	}
}

bool ep_tainted(const struct epset *s)
{
	return s->taint >= 0;
}

void ep_detach(struct vsock *v)
{
	struct epset *s = NULL;
	struct epreg *r;
	int ep;

	for (; next_reg(v, &s, true); unlock(s), s = NULL) {
		lock(s);
		r = next_reg(v, &s, true);
		if (!r)
			continue;
		ep = atomic_load(&s->fd);
		if (r->ghost) {
			sys_epoll_ctl(ep, EPOLL_CTL_DEL, r->fd, NULL);
			ep_over_gone(s, r);
			ep_unlink_set(s, r);
			unlink_v(r);
			reg_drop(r);
			continue;
		}
		if (r->over)
			r->rearm |= !r->fired;
		else if (r->events & EPOLLONESHOT && !r->rearm)
			r->rearm = !disarmed(ep, r->fd);
		/* Mended meanwhile: it is the new link's registration, and nobody would put it back. */
		if (!take_out(r)) {
			r->rearm = false;
			unlock(s);
			return;
		}
		ep_over_gone(s, r);
		taint(s, ep);
		sys_epoll_ctl(ep, EPOLL_CTL_DEL, r->fd, NULL);
	}
}

void ep_attach(struct vsock *v)
{
	struct epset *s = NULL;
	struct epreg *r;

	for (; next_reg(v, &s, false); unlock(s), s = NULL) {
		struct epoll_event ev;

		lock(s);
		r = next_reg(v, &s, false);
		if (!r)
			continue;
		/* Broken again: it stays out until that is mended. */
		if (take_out(r)) {
			unlock(s);
			return;
		}
		r->fired = r->events & EPOLLONESHOT && !r->rearm;
		if (vring_of(v)) {
			r->rearm = false;
			ep_over_add(s, r);
			continue;
		}
		ev = (struct epoll_event){ .events = asked(r->events), .data.u64 = r->data };
		if (r->events & EPOLLONESHOT && !r->rearm)
			ev.events = EPOLLONESHOT | (r->events & EPOLLET);
		r->rearm = false;
		sys_epoll_ctl(atomic_load(&s->fd), EPOLL_CTL_ADD, r->fd, &ev);
	}
}

/* The kernel finds a registration by its number: one that was closed is ours for a moment, if it is free. */
static void del_by_number(int ep, int num, int fd)
{
	int n = num == fd ? fd : sys_fcntl(fd, F_DUPFD_CLOEXEC, num), e = errno;

	if (n == num)
		sys_epoll_ctl(ep, EPOLL_CTL_DEL, num, NULL);
	if (n >= 0 && n != fd)
		sys_close(n);
	errno = e;
}

void ep_forget(struct vsock *v)
{
	struct vstate *st;
	struct epreg *r;
	struct epset *s;

	for (;;) {
		shlock_take(&regs_lock, -1, false);
		r = v->regs;
		if (r)
			v->regs = r->next_v;
		shlock_drop(&regs_lock);
		if (!r)
			return;
		s = r->set;
		lock(s);
		/*
		 * The kernel drops it with the last descriptor of the open file, and the
		 * helper may just have a copy: the program would be told of a socket that
		 * it has closed.  Not if a forked process may have the set, and the socket.
		 */
		st = atomic_load(&v->st);
		if (!r->out && st && !atomic_load(&st->shared))
			del_by_number(atomic_load(&s->fd), r->fd, atomic_load(&v->fd));
		ep_over_gone(s, r);
		ep_unlink_set(s, r);
		unlock(s);
		reg_drop(r);
	}
}

struct epreg *ep_next_over(struct vsock *v, struct epset **set)
{
	struct epset *s;
	struct epreg *r;

	for (;;) {
		shlock_take(&regs_lock, -1, false);
		for (r = v->regs; r && (!r->over || r->hot); r = r->next_v)
			;
		s = r ? r->set : NULL;
		shlock_drop(&regs_lock);
		if (!s)
			return NULL;
		lock(s);
		shlock_take(&regs_lock, -1, false);
		for (r = v->regs; r && (r->set != s || !r->over || r->hot); r = r->next_v)
			;
		shlock_drop(&regs_lock);
		if (r) {
			*set = s;
			return r;
		}
		unlock(s);
	}
}

void ep_pass(struct vsock *v)
{
	struct epset *s[16];
	struct epreg *r;
	unsigned int n = 0, i;

	shlock_take(&regs_lock, -1, false);
	for (r = v->regs; r && n < ARRAY_SIZE(s); r = r->next_v)
		s[n++] = r->set;
	shlock_drop(&regs_lock);
	for (i = 0; i < n; i++) {
		lock(s[i]);
		unlock(s[i]);
	}
}

bool ep_is_nested(const struct epset *s)
{
	return atomic_load_explicit(&s->nested, memory_order_relaxed);
}

bool ep_nested(struct vsock *v)
{
	struct epreg *r;
	bool yes = false;

	shlock_take(&regs_lock, -1, false);
	for (r = v->regs; r && !yes; r = r->next_v)
		yes = atomic_load(&r->set->nested);
	shlock_drop(&regs_lock);
	return yes;
}

/* Whoever waits for the set sees only what the kernel has: its sockets are to be the kernel's. */
void ep_nest(struct epset *s)
{
	struct vsock *v;
	struct epreg *r;
	uint32_t i;

	atomic_store(&s->nested, true);
	while (atomic_load(&s->nover)) {
		v = NULL;
		lock(s);
		for (i = 0; i < s->nbucket && !v; i++)
			for (r = s->bucket[i]; r && !v; r = r->next_set)
				v = r->over ? r->v : NULL;
		unlock(s);
		if (!v || !vring_leave(v, true))
			break;
	}
}

bool ep_has_rings(const struct epset *s)
{
	return atomic_load_explicit(&s->nover, memory_order_relaxed);
}

void ep_fork_prepare(void)
{
	struct epset *s;

	shlock_take(&sets_lock, -1, false);
	for (s = sets; s; s = s->next)
		lock(s);
	shlock_take(&regs_lock, -1, false);
	shlock_take(&reg_lock, -1, false);
}

void ep_fork_done(void)
{
	struct epset *s;

	/* In the child the owner is another thread id: store, do not drop. */
	atomic_store(&reg_lock, 0);
	atomic_store(&regs_lock, 0);
	for (s = sets; s; s = s->next)
		atomic_store(&s->lock, 0);
	atomic_store(&sets_lock, 0);
}
