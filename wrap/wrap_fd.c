/* Descriptors: closing, duplicating, controlling. */
#include "coding.h"
#include "wrap.h"
#include "ep.h"
#include "event.h"
#include "helper.h"
#include "log.h"
#include "vring.h"
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>

static int bad_fd(void)
{
	errno = EBADF;
	return -1;
}

/* Forgets what fd was to us, before the kernel closes it. */
static void forget(int fd, uintptr_t e)
{
	if ((e & FD_TAGS) == FD_EPSET)
		ep_close(fd);
	else if (!(e & FD_TAGS))
		vs_forget(fd);
}

int __wrap_close(int fd)
{
	uintptr_t e = fdtab_raw(fd);
	int r, err = errno;

	if (likely(!e) || roam_vfork_child)
		return sys_close(fd);
	if (e == FD_HIDDEN)
		return bad_fd();
	forget(fd, e);
	errno = err;
	r = sys_close(fd);
	return r;
}

/* `to` is a new number for what fd is. */
static void became(int fd, int to, uintptr_t e)
{
	if ((e & FD_TAGS) == FD_EPSET)
		ep_dup(fd, to);
	else if (!(e & FD_TAGS))
		vs_dup((struct vsock *)e, to);
}

/* A swap of the link between the kernel's dup and our note of it would miss the copy. */
static bool lock_live(uintptr_t e)
{
	return e && !(e & FD_TAGS) && vs_live((struct vsock *)e) && !roam_vfork_child &&
		shlock_take(&vs_fds_lock, -1, false) != SHLOCK_SELF;
}

#define DUP(fd, e, call) do {					\
	bool locked_ = lock_live(e);				\
	int r_ = (call), err_ = errno;				\
								\
	if (r_ >= 0 && (e) && !roam_vfork_child)		\
		became(fd, r_, e);				\
	if (locked_)						\
		shlock_drop(&vs_fds_lock);			\
	errno = err_;						\
	return r_;						\
} while (0)

int __wrap_dup(int fd)
{
	uintptr_t e = fdtab_raw(fd);

	if (e == FD_HIDDEN)
		return bad_fd();
	DUP(fd, e, sys_dup(fd));
}

static void moved(int from, int to)
{
	helper_moved(from, to);
	log_moved(from, to);
	event_moved(from, to);
}

/* Makes the number `to` free of what it was to us. False: fd is not open. */
static bool clear_target(int fd, int to)
{
	uintptr_t t = fdtab_raw(to);

	if (fdtab_hidden(fd))
		return false;
	if (!t || fd == to || roam_vfork_child)
		return true;
	if (sys_fcntl(fd, F_GETFD, 0) < 0)
		return false;
	if (t == FD_HIDDEN)
		fdtab_evict(to, moved);
	else
		forget(to, t);
	return true;
}

int __wrap_dup2(int fd, int to)
{
	uintptr_t e = fdtab_raw(fd);

	if (!clear_target(fd, to))
		return bad_fd();
	if (fd == to)
		return sys_dup2(fd, to);
	DUP(fd, e, sys_dup2(fd, to));
}

int __wrap_dup3(int fd, int to, int flags)
{
	uintptr_t e = fdtab_raw(fd);

	if (fd == to || flags & ~O_CLOEXEC)
		return sys_dup3(fd, to, flags);
	if (!clear_target(fd, to))
		return bad_fd();
	DUP(fd, e, sys_dup3(fd, to, flags));
}

/* On a ring the kernel is not there to know. */
static void nonblocking(struct vsock *v, bool on)
{
	struct vstate *st = vs_live(v) ? atomic_load(&v->st) : NULL;

	if (st)
		atomic_store(&st->nonblock, on);
}

/* A signal for each arrival: only the kernel can do that. */
static void asynchronous(struct vsock *v)
{
	v->no_ring |= NO_RING_SET;
	if (!vs_bare(v))
		vring_leave(v, true);
}

int __wrap_fcntl(int fd, int cmd, long arg)
{
	uintptr_t e = fdtab_raw(fd);
	int r;

	if (likely(!e))
		return sys_fcntl(fd, cmd, arg);
	if (e == FD_HIDDEN)
		return bad_fd();
	if (cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC)
		DUP(fd, e, sys_fcntl(fd, cmd, arg));
	if (cmd == F_SETFL && arg & O_ASYNC && !(e & FD_TAGS))
		asynchronous((struct vsock *)e);
	r = sys_fcntl(fd, cmd, arg);
	if (cmd == F_SETFL && r == 0 && !(e & FD_TAGS))
		nonblocking((struct vsock *)e, arg & O_NONBLOCK);
	return r;
}

int __wrap_fcntl64(int fd, int cmd, long arg)
{
	return __wrap_fcntl(fd, cmd, arg);
}

int __wrap_ioctl(int fd, unsigned long req, long arg)
{
	struct vsock *v = fdtab_vsock(fd);
	int r = sys_ioctl(fd, req, arg);

	if (likely(!v) || r != 0 || !vs_live(v))
		return r;
	if (req == FIOASYNC && *(int *)arg)
		asynchronous(v);
	/* What the new link has not taken yet is as unsent as what the kernel holds. */
	if (req == SIOCOUTQ)
		*(int *)arg += (int)vs_unsent(v);
	if (req == FIONBIO)
		nonblocking(v, *(int *)arg != 0);
	if (unlikely(vs_coded(v))) {
		if (req == FIONREAD)
			*(int *)arg = (int)coding_inq(v, fd);
		else if (req == SIOCOUTQ)
			*(int *)arg = (int)coding_outq(v, fd);
	}
	if (!vring_of(v))
		return r;
	/* The kernel counts doorbells. */
	if (req == FIONREAD)
		*(int *)arg = (int)vring_inq(v);
	else if (req == SIOCOUTQ)
		*(int *)arg = (int)vs_unsent(v);	/* what is in the ring is with the peer */
	return r;
}

/* Closes a range around the hidden descriptors in it. */
static int close_span(unsigned int first, unsigned int last, int flags)
{
	unsigned int top = (unsigned int)fdtab_top(), fd, from = first;
	int r = 0;

	/* CLOEXEC closes nothing now; what the kernel refuses closes nothing at all. */
	if (roam_vfork_child || first > last || flags & ~(int)CLOSE_RANGE_UNSHARE)
		return sys_close_range(first, last, flags);
	for (fd = first; fd < top && fd <= last; fd++) {
		uintptr_t e = fdtab_raw((int)fd);

		if (e == FD_HIDDEN) {
			if (fd > from)
				r |= sys_close_range(from, fd - 1, flags);
			from = fd + 1;
		} else if (e) {
			forget((int)fd, e);
		}
	}
	if (from <= last)
		r |= sys_close_range(from, last, flags);
	return r;
}

int __wrap_close_range(unsigned int first, unsigned int last, int flags)
{
	return close_span(first, last, flags);
}

/* OpenSSH brings its own closefrom; it then calls our close. */
void __wrap_closefrom(int low)
{
	close_span(low < 0 ? 0 : (unsigned int)low, ~0u, 0);
}

int __wrap_fstat(int fd, struct stat *st)
{
	struct vsock *v = fdtab_vsock(fd);
	int r = sys_fstat(fd, st);

	if (unlikely(v != NULL) && r == 0 && vs_live(v)) {
		struct vstate *s = atomic_load(&v->st);

		if (s && s->ino)
			st->st_ino = s->ino;
	}
	return r;
}

int __wrap_fstat64(int fd, struct stat *st)
{
	return __wrap_fstat(fd, st);
}

FILE *__wrap_fdopen(int fd, const char *mode)
{
	struct vsock *v = fdtab_vsock(fd);
	FILE *f;

	if (fdtab_hidden(fd)) {
		errno = EBADF;
		return NULL;
	}
	f = sys_fdopen(fd, mode);
	/* stdio reads, writes and closes inside libc, past us. */
	if (f && v) {
		vs_settle(v);
		vs_abandon(fd);
	}
	return f;
}
