/* Readiness. */
#include "wrap.h"
#include "ep.h"
#include "sys.h"
#include "vs_poll.h"
#include <errno.h>
#include <signal.h>

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

int __wrap_poll(struct pollfd *fds, nfds_t n, int tmo)
{
	struct timespec t;

	if (nobody_live())
		return sys_poll(fds, n, tmo);
	return vs_poll(fds, n, ms(tmo, &t), NULL);
}

int __wrap_ppoll(struct pollfd *fds, nfds_t n, const struct timespec *tmo, const sigset_t *mask)
{
	return vs_poll(fds, n, tmo, mask);
}

int __wrap_select(int n, fd_set *r, fd_set *w, fd_set *e, struct timeval *tmo)
{
	struct timespec t;
	uint64_t start;
	int64_t left;
	int ret, err;

	if (nobody_live() || (tmo && (tmo->tv_sec < 0 || tmo->tv_usec < 0)))
		return sys_select(n, r, w, e, tmo);
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
	if (nobody_live())
		return sys_pselect(n, r, w, e, tmo, mask);
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

	if (nobody_live() && !ep_any_tainted())
		return sys_epoll_wait(ep, evs, max, tmo);
	return vs_epoll(ep, evs, max, ms(tmo, &t), NULL);
}

int __wrap_epoll_pwait(int ep, struct epoll_event *evs, int max, int tmo, const sigset_t *mask)
{
	struct timespec t;

	if (nobody_live() && !ep_any_tainted())
		return sys_epoll_pwait(ep, evs, max, tmo, mask);
	return vs_epoll(ep, evs, max, ms(tmo, &t), mask);
}

int __wrap_epoll_pwait2(int ep, struct epoll_event *evs, int max, const struct timespec *tmo, const sigset_t *mask)
{
	return vs_epoll(ep, evs, max, tmo, mask);
}
