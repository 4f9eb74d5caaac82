#include "vs_poll.h"
#include "coding.h"
#include "ep.h"
#include "poll_ring.h"
#include "sys.h"
#include "vring.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>


static uint64_t until(const struct timespec *t)
{
	return sys_now_ns() + (uint64_t)t->tv_sec * 1000000000u + (uint64_t)t->tv_nsec;
}

static struct timespec left(uint64_t end)
{
	int64_t d = (int64_t)(end - sys_now_ns());

	if (d < 0)
		d = 0;
	return (struct timespec){ d / 1000000000, d % 1000000000 };
}

static bool valid(const struct timespec *t)
{
	return t->tv_sec >= 0 && t->tv_nsec >= 0 && t->tv_nsec < 1000000000;
}

/* Is this a live socket whose link is being mended? */
static bool mending(int fd)
{
	struct vsock *v = fd < 0 ? NULL : fdtab_vsock(fd);

	return v && vs_live(v) && vs_mending(v);
}

/* The kernel's results into fds, without the trouble of broken links: how many are ready, and whether something was kept back. */
static int sift(struct pollfd *fds, const struct pollfd *tmp, nfds_t n, bool *kept)
{
	nfds_t i;
	int ready = 0;

	for (i = 0; i < n; i++) {
		fds[i].revents = tmp[i].revents;
		if (!fds[i].revents)
			continue;
		if (poll_sift(&fds[i]))
			ready++;
		else
			*kept = true;
	}
	return ready;
}

/*
 * Threads inside the kernel's poll are counted per live socket, and a link is
 * only exchanged when none is inside: poll looks the descriptor up again each
 * time it wakes, but stays on the wait queues it began with, so a thread that
 * slept over the exchange would sleep on a dead socket for ever.
 */
struct held {
	struct vsock *few[32], **v;
	nfds_t n;
};

static void leave(struct held *h)
{
	while (h->n)
		atomic_fetch_sub(&h->v[--h->n]->pollers, 1);
	if (h->v != h->few)
		free(h->v);
	h->v = h->few;
}

static void unwind(struct held **h)
{
	if (*h)
		leave(*h);
}

/* 1: inside; 0: a link of the set is being mended; -1: no memory. */
static int enter(struct held *h, const struct pollfd *fds, nfds_t n)
{
	nfds_t i, max = ARRAY_SIZE(h->few);

	h->n = 0;
	h->v = h->few;
	for (i = 0; i < n; i++) {
		struct vsock *v = fds[i].fd < 0 ? NULL : fdtab_vsock(fds[i].fd);

		if (!v || !vs_live(v))
			continue;
		if (h->n == max) {
			struct vsock **more = malloc(n * sizeof(*more));

			if (!more) {
				leave(h);
				return -1;
			}
			memcpy(more, h->few, sizeof(h->few));
			h->v = more;
			max = n;
		}
		atomic_fetch_add(&v->pollers, 1);
		h->v[h->n++] = v;
		if (unlikely(mending(fds[i].fd))) {
			leave(h);
			return 0;
		}
	}
	return 1;
}

/*
 * Some links are being mended: their descriptors are still the dead sockets.
 * Wait for the others for a moment; an outage is rare, and looking again at
 * growing intervals needs no second descriptor per socket.
 */
static int nap_without(const struct pollfd *fds, nfds_t n, struct pollfd *tmp, int64_t nap, const sigset_t *mask)
{
	struct timespec t = { 0, nap };
	nfds_t i;

	poll_asked(tmp, fds, n);
	for (i = 0; i < n; i++)
		if (mending(tmp[i].fd))
			tmp[i].fd = -1;
	return sys_ppoll(tmp, n, &t, mask);
}

/* Sets that somebody waits for: their sockets are to be the kernel's. Before we count as being inside. */
static void nest(const struct pollfd *fds, nfds_t n)
{
	nfds_t i;

	for (i = 0; i < n; i++) {
		struct epset *s = fds[i].fd < 0 ? NULL : fdtab_epset(fds[i].fd);

		if (unlikely(s != NULL) && !ep_is_nested(s))
			ep_nest(s);
	}
}

#define NAP_MIN 100000
#define NAP_MAX 10000000

static void drop_copy(struct pollfd **tmp)
{
	free(*tmp);
}

int vs_poll(struct pollfd *fds, nfds_t n, const struct timespec *tmo, const sigset_t *mask)
{
	struct pollfd few[32], *tmp = few, *more __attribute__((cleanup(drop_copy))) = NULL;
	uint64_t end = 0;
	int64_t nap = NAP_MIN;
	struct held h;
	int r, e;

	if (!n || !fds || (tmo && !valid(tmo)))
		return sys_ppoll(fds, n, tmo, mask);
	if (likely(!atomic_load_explicit(&vs_live_count, memory_order_relaxed))) {
		r = sys_ppoll(fds, n, tmo, mask);
		if (likely(r <= 0 || !atomic_load_explicit(&vs_live_count, memory_order_relaxed)))
			return r;
		/* Told by a link that has been left meanwhile? Looked at again. */
	}
	if (n > ARRAY_SIZE(few)) {
		tmp = more = malloc(n * sizeof(*more));
		if (!more) {
			errno = ENOMEM;
			return -1;
		}
	}
	if (tmo && (tmo->tv_sec || tmo->tv_nsec))
		end = until(tmo);
	nest(fds, n);
	for (;;) {
		struct timespec t = { 0, 0 };
		bool kept = false, over = false;
		int in;

		vs_install();
		in = enter(&h, fds, n);

		if (tmo) {
			t = end ? left(end) : t;
			over = !t.tv_sec && !t.tv_nsec;
		}
		if (in < 0) {
			errno = ENOMEM;
			return -1;
		}
		if (in && atomic_load_explicit(&vs_ring_count, memory_order_relaxed)) {
			struct held *guard __attribute__((cleanup(unwind))) = &h;

			r = poll_rings(fds, n, tmo ? &t : NULL, mask, &kept);
			e = errno;
			guard = NULL;
			leave(&h);
			errno = e;
			if (r || over || !kept)
				return r;
			continue;
		} else if (in) {
			struct held *guard __attribute__((cleanup(unwind))) = &h;

			poll_asked(tmp, fds, n);
			r = sys_ppoll(tmp, n, tmo ? &t : NULL, mask);
			e = errno;
			guard = NULL;
			leave(&h);
			errno = e;
		} else {
			int64_t most = tmo && !t.tv_sec && t.tv_nsec < nap ? t.tv_nsec : nap;

			r = nap_without(fds, n, tmp, most, mask);
			if (nap < NAP_MAX)
				nap += nap / 2;
		}
		if (r >= 0)
			r = sift(fds, tmp, n, &kept);
		if (r || over || (in && !kept))
			return r;
	}
}

/* FD_ISSET and FD_CLR, for sets of any size: programs make their own where FD_SETSIZE is too small. */
static bool has(const fd_set *s, int fd)
{
	return s && ((const unsigned long *)s)[fd / 64] >> fd % 64 & 1;
}

static void drop(fd_set *s, int fd)
{
	((unsigned long *)s)[fd / 64] &= ~(1ul << fd % 64);
}

int vs_select(int n, fd_set *r, fd_set *w, fd_set *e, const struct timespec *tmo, const sigset_t *mask)
{
	struct pollfd *p;
	nfds_t k = 0, i;
	int fd, ret, bits = 0;

	/* No descriptor is above the limit, nor is there a bit to be looked at. */
	if (n > FD_SETSIZE && sys_fd_limit() < n)
		n = (int)sys_fd_limit();
	if (n < 0 || (tmo && !valid(tmo)) || !(p = malloc((size_t)(n + 1) * sizeof(*p))))
		return sys_pselect(n, r, w, e, tmo, mask);
	for (fd = 0; fd < n; fd++) {
		short ev = 0;

		/* As the kernel maps them: man 2 select, "Correspondence". */
		if (has(r, fd))
			ev |= POLLIN | POLLRDNORM | POLLRDBAND;
		if (has(w, fd))
			ev |= POLLOUT | POLLWRNORM | POLLWRBAND;
		if (has(e, fd))
			ev |= POLLPRI;
		if (ev)
			p[k++] = (struct pollfd){ fd, ev, 0 };
	}
	ret = vs_poll(p, k, tmo, mask);
	for (i = 0; ret >= 0 && i < k; i++)
		if (p[i].revents & POLLNVAL) {
			ret = -1;
			errno = EBADF;
		}
	if (ret >= 0) {
		for (i = 0; i < k; i++) {
			short got = p[i].revents;

			fd = p[i].fd;
			if (has(r, fd)) {
				if (got & (POLLIN | POLLRDNORM | POLLRDBAND | POLLHUP | POLLERR))
					bits++;
				else
					drop(r, fd);
			}
			if (has(w, fd)) {
				if (got & (POLLOUT | POLLWRNORM | POLLWRBAND | POLLERR))
					bits++;
				else
					drop(w, fd);
			}
			if (has(e, fd)) {
				if (got & POLLPRI)
					bits++;
				else
					drop(e, fd);
			}
		}
		ret = bits;
	}
	fd = errno;
	free(p);
	errno = fd;
	return ret;
}

int vs_epoll_plain(int ep, struct epoll_event *ev, int n)
{
	struct epset *s = fdtab_epset(ep);

	if (!s)
		return n;
	/* Some may be of a link that has been left meanwhile. */
	if (unlikely(atomic_load_explicit(&vs_live_count, memory_order_relaxed)))
		return ep_filter(ep, s, ev, n);
	return ep_filter_plain(ep, s, ev, n);
}

int vs_epoll(int ep, struct epoll_event *ev, int max, const struct timespec *tmo, const sigset_t *mask)
{
	struct epset *s = fdtab_epset(ep);
	uint64_t end = 0;
	int r;

	if (!s || (tmo && !valid(tmo)))
		return sys_epoll_pwait2(ep, ev, max, tmo, mask);
	if (!atomic_load_explicit(&vs_live_count, memory_order_relaxed) && !ep_tainted(s)) {
		r = sys_epoll_pwait2(ep, ev, max, tmo, mask);
		if (r <= 0 || (r = vs_epoll_plain(ep, ev, r)))
			return r;
	}
	if (tmo && (tmo->tv_sec || tmo->tv_nsec))
		end = until(tmo);
	for (;;) {
		struct timespec l;
		int k;

		vs_install();
		if (end)
			l = left(end);
		if (unlikely(ep_has_rings(s)))
			return ep_wait(ep, s, ev, max, end ? &l : tmo, mask);
		r = sys_epoll_pwait2(ep, ev, max, end ? &l : tmo, mask);
		if (r <= 0)
			return r;
		k = ep_filter(ep, s, ev, r);
		/* Something else may be ready at once: a zero time-out is asked again as such. */
		if (k > 0 || (tmo && !end) || (end && (l = left(end), !l.tv_sec && !l.tv_nsec)))
			return k;
	}
}
