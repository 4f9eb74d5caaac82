#include "fdtab.h"
#include "sys.h"
#include <errno.h>
#include <fcntl.h>

_Atomic uintptr_t roam_fdtab[FDTAB_MAX];
__thread int roam_vfork_child;
static _Atomic int top;

int fdtab_top(void)
{
	return atomic_load_explicit(&top, memory_order_relaxed);
}

void fdtab_set(int fd, uintptr_t e)
{
	int t = fdtab_top();

	if ((unsigned int)fd >= FDTAB_MAX)
		return;
	while (e && fd >= t && !atomic_compare_exchange_weak(&top, &t, fd + 1))
		;
	atomic_store_explicit(&roam_fdtab[fd], e, memory_order_release);
}

int fdtab_hide_copy(int fd)
{
	/* The top 64 numbers; if those are taken, the upper half, then any. */
	long lim = sys_fd_limit(), from[] = { lim - 64, lim / 2, 3 };
	size_t i;

	for (i = 0; i < ARRAY_SIZE(from); i++) {
		int n;

		if (from[i] < 3)
			continue;
		n = sys_fcntl(fd, F_DUPFD_CLOEXEC, from[i]);
		if (n >= 0) {
			fdtab_set(n, FD_HIDDEN);
			return n;
		}
		if (errno != EMFILE && errno != EINVAL)
			return -1;
	}
	return -1;
}

int fdtab_hide(int fd)
{
	int n, e;

	if (fd < 0)
		return -1;
	n = fdtab_hide_copy(fd);
	e = errno;
	sys_close(fd);
	errno = e;
	return n;
}

void fdtab_close_hidden(int fd)
{
	if (fd < 0)
		return;
	fdtab_set(fd, 0);
	sys_close(fd);
}

int fdtab_evict(int fd, void (*moved)(int from, int to))
{
	int n = fdtab_hide_copy(fd);

	if (n < 0)
		return -1;
	moved(fd, n);
	fdtab_set(fd, 0);
	return n;
}
