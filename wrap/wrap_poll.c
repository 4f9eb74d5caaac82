/* Readiness. */
#include "wrap.h"
#include "ep.h"
#include "sys.h"
#include "vs_poll.h"
#include <errno.h>
#include <signal.h>
#include <string.h>

static const struct timespec *ms(int tmo, struct timespec *t)
{
	if (tmo < 0)
		return NULL;
	*t = (struct timespec){ tmo / 1000, (long)(tmo % 1000) * 1000000 };
	return t;
}

static bool nobody_live(void)
{
	return likely(!atomic_load_explicit(&vs_live_count, memory_order_relaxed));
}

/*
 * Who sleeps in the kernel while the first connection goes live may be woken by the
 * end of a link that is only left: what the kernel has said is then looked at again.
 */
int __wrap_poll(struct pollfd *fds, nfds_t n, int tmo)
{
	struct timespec t;
	int r;

	if (nobody_live()) {
		r = sys_poll(fds, n, tmo);
		if (r <= 0 || nobody_live())
			return r;
	}
	return vs_poll(fds, n, ms(tmo, &t), NULL);
}

int __wrap_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *tmo, const sigset_t *mask)
{
	return vs_poll(fds, n, tmo, mask);
}

/* The sets as they were asked about, before the answer is written over them. */
struct sets {
	fd_set set[3];
};

/* The kernel touches no more of a set than the words that n bits need. */
static size_t size(int n)
{
	return ((size_t)n + 63) / 64 * 8;
}

static bool keep(struct sets *k, int n, const fd_set *r, const fd_set *w, const fd_set *e)
{
	const fd_set *from[3] = { r, w, e };
	int i;

	if (n <= 0 || n > FD_SETSIZE)
		return false;
	for (i = 0; i < 3; i++)
		if (from[i])
			memcpy(&k->set[i], from[i], size(n));
	return true;
}

static void put_back(const struct sets *k, int n, fd_set *r, fd_set *w, fd_set *e)
{
	fd_set *to[3] = { r, w, e };
	int i;

	for (i = 0; i < 3; i++)
		if (to[i])
			memcpy(to[i], &k->set[i], size(n));
}

int __wrap_select(int n, fd_set *r, fd_set *w, fd_set *e, struct timeval *tmo)
{
	struct timespec t;
	struct sets was;
	uint64_t start;
	int64_t left;
	int ret, err;

	if (tmo && (tmo->tv_sec < 0 || tmo->tv_usec < 0))
		return sys_select(n, r, w, e, tmo);
	if (nobody_live()) {
		bool kept = keep(&was, n, r, w, e);

		ret = sys_select(n, r, w, e, tmo);
		if (ret <= 0 || nobody_live() || !kept)
			return ret;
		put_back(&was, n, r, w, e);
	}
	if (!tmo)
		return vs_select(n, r, w, e, NULL, NULL);
	t = (struct timespec){ tmo->tv_sec + tmo->tv_usec / 1000000, tmo->tv_usec % 1000000 * 1000 };
	start = sys_now_ns();
	ret = vs_select(n, r, w, e, &t, NULL);
	err = errno;
	/* Linux's select leaves the time that was not slept. */
	left = t.tv_sec * INT64_C(1000000) + t.tv_nsec / 1000 - (int64_t)(sys_now_ns() - start) / 1000;
	if (left < 0)
		left = 0;
	*tmo = (struct timeval){ left / 1000000, left % 1000000 };
	errno = err;
	return ret;
}

int __wrap_pselect(int n, fd_set *r, fd_set *w, fd_set *e, const struct timespec *tmo, const sigset_t *mask)
{
	struct sets was;
	bool kept;
	int ret;

	if (nobody_live()) {
		kept = keep(&was, n, r, w, e);
		ret = sys_pselect(n, r, w, e, tmo, mask);
		if (ret <= 0 || nobody_live() || !kept)
			return ret;
		put_back(&was, n, r, w, e);
	}
	return vs_select(n, r, w, e, tmo, mask);
}

int __wrap_epoll_create(int size)
{
	int ep = sys_epoll_create(size);

	ep_new(ep);
	return ep;
}

int __wrap_epoll_create1(int flags)
{
	int ep = sys_epoll_create1(flags);

	ep_new(ep);
	return ep;
}

int __wrap_epoll_ctl(int ep, int op, int fd, struct epoll_event *ev)
{
	struct epset *s = fdtab_epset(ep);
	struct vsock *v;

	if (fdtab_hidden(fd) || fdtab_hidden(ep)) {
		errno = EBADF;
		return -1;
	}
	if (unlikely(op == EPOLL_CTL_ADD && fdtab_epset(fd)) && !roam_vfork_child)
		ep_nest(fdtab_epset(fd));
	if (!s || !(v = fdtab_vsock(fd)) || roam_vfork_child)
		return sys_epoll_ctl(ep, op, fd, ev);
	return ep_ctl(ep, s, op, fd, v, ev);
}

int __wrap_epoll_wait(int ep, struct epoll_event *evs, int max, int tmo)
{
	struct timespec t;
	int r;

	if (nobody_live() && !ep_any_tainted()) {
		r = sys_epoll_wait(ep, evs, max, tmo);
		if (r <= 0 || (r = vs_epoll_plain(ep, evs, r)))
			return r;
	}
	return vs_epoll(ep, evs, max, ms(tmo, &t), NULL);
}

int __wrap_epoll_pwait(int ep, struct epoll_event *evs, int max, int tmo, const sigset_t *mask)
{
	struct timespec t;
	int r;

	if (nobody_live() && !ep_any_tainted()) {
		r = sys_epoll_pwait(ep, evs, max, tmo, mask);
		if (r <= 0 || (r = vs_epoll_plain(ep, evs, r)))
			return r;
	}
	return vs_epoll(ep, evs, max, ms(tmo, &t), mask);
}

int __wrap_epoll_pwait2(int ep, struct epoll_event *evs, int max, const struct timespec *tmo, const sigset_t *mask)
{
	return vs_epoll(ep, evs, max, tmo, mask);
}
