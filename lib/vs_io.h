/*
 * Sending and receiving on a virtual socket.
 *
 * The fast paths are inline: one table look-up, two atomic instructions and
 * (live, sending) one copy around the kernel's own call.  Everything unusual
 * (end of stream, errors, a link being mended) is decided in vs_judge.c.
 *
 * The return value and errno of every function are the kernel's for the same
 * call on a TCP socket.
 */
#ifndef ROAM_VS_IO_H
#define ROAM_VS_IO_H

#include "vsock.h"
#include "sys.h"
#include <errno.h>

/*
 * One call as the application made it.  Its pointers are the kernel's to check:
 * nothing behind them is touched before the kernel has said that it could.
 */
struct io_op {
	enum { IO_BUF, IO_VEC, IO_MSG, IO_FROM } kind;
	int flags;
	struct iovec one;		/* IO_BUF, IO_FROM */
	const struct iovec *iov;	/* IO_VEC */
	int cnt;
	void *msg;			/* IO_MSG: struct msghdr */
	struct sockaddr *addr;		/* IO_FROM */
	socklen_t *len;
};

static inline struct io_op io_buf(const void *buf, size_t n, int flags)
{
	return (struct io_op){ .kind = IO_BUF, .flags = flags, .one = { (void *)(uintptr_t)buf, n } };
}

#define IO_NOCALL (-2)		/* the kernel has not been asked yet */

static inline _Atomic uint64_t *vs_rx_enter(struct vsock *v)
{
	_Atomic uint64_t *c = atomic_load_explicit(&v->rxc, memory_order_acquire);

	atomic_fetch_add(c, 1);
	return c;
}

/* One thread leaves, r bytes were consumed. */
static inline void vs_rx_took(_Atomic uint64_t *c, ssize_t r)
{
	atomic_fetch_add(c, ((uint64_t)(r > 0 ? r : 0) << 16) - 1);
}

/* A cancelled thread leaves its counters on the way out (built with -fexceptions). */
static inline void vs_rx_unwind(_Atomic uint64_t **c)
{
	if (unlikely(*c != NULL))
		atomic_fetch_sub(*c, 1);
}
#define VS_RX_GUARD __attribute__((cleanup(vs_rx_unwind)))

static inline void vs_count_unwind(_Atomic uint32_t **c)
{
	if (unlikely(*c != NULL))
		atomic_fetch_sub(*c, 1);
}
#define VS_COUNT_GUARD __attribute__((cleanup(vs_count_unwind)))

static inline void vs_lock_unwind(shlock **l)
{
	if (unlikely(*l != NULL))
		shlock_drop(*l);
}
#define VS_LOCK_GUARD __attribute__((cleanup(vs_lock_unwind)))

static inline bool vs_rx_fast(struct vsock *v)
{
	return likely(atomic_load_explicit(atomic_load_explicit(&v->phasep, memory_order_acquire),
					   memory_order_acquire) ==
		      atomic_load_explicit(&v->phase_ok, memory_order_relaxed));
}

void vs_try_meet(struct vsock *v);

/* Lazy upgrade: after enough calls or bytes, and then ever more rarely. */
static inline void vs_count(struct vsock *v, ssize_t r)
{
	uint32_t n = atomic_load_explicit(&v->ops, memory_order_relaxed) + 1 + (uint32_t)(r >> 14);

	atomic_store_explicit(&v->ops, n, memory_order_relaxed);
	if (unlikely(n >= atomic_load_explicit(&v->next_try, memory_order_relaxed)))
		vs_try_meet(v);
}

static inline bool vs_live(const struct vsock *v)
{
	return atomic_load_explicit(&((struct vsock *)(uintptr_t)v)->mode, memory_order_acquire) == VS_LIVE;
}

/* Bytes that a receive with these flags takes out of the stream. */
static inline ssize_t vs_rx_consumed(ssize_t r, int flags)
{
	return unlikely(flags & (MSG_PEEK | MSG_OOB | MSG_ERRQUEUE)) ? 0 : r;
}

/* The link has nothing; but had more of the stream arrived on the last one? */
static inline bool vs_rx_owed(struct vsock *v)
{
	struct vstate *st = atomic_load_explicit(&v->st, memory_order_acquire);

	return unlikely(st && atomic_load_explicit(&st->owed, memory_order_relaxed));
}

/* Finishes a receive: r is what the kernel said (errno set), or IO_NOCALL. */
ssize_t vs_rx_post(struct vsock *v, int fd, struct io_op op, ssize_t r);

/* On a ring; the rest is in vring.h. */
ssize_t vring_recv_fast(struct vsock *v, struct vring *vr, int fd, void *buf, size_t n, int flags);

/* A receive that looks again before it sleeps (spin.h). */
ssize_t vs_recv_spin(struct vsock *v, int fd, void *buf, size_t n, int flags);

static inline ssize_t vs_recv_tcp(struct vsock *v, int fd, void *buf, size_t n, int flags)
{
	_Atomic uint64_t *c VS_RX_GUARD = vs_rx_enter(v);
	ssize_t r = IO_NOCALL;

	if (vs_rx_fast(v))
		r = likely(!atomic_load_explicit(&spin_tcp, memory_order_relaxed)) ?
			sys_recv(fd, buf, n, flags) : vs_recv_spin(v, fd, buf, n, flags);
	vs_rx_took(c, vs_rx_consumed(r, flags));
	c = NULL;
	if (likely(r > 0 && !(flags & MSG_WAITALL))) {
		if (unlikely(!vs_live(v)))
			vs_count(v, r);
		return r;
	}
	if (r == -1 && errno == EAGAIN && !vs_rx_owed(v))
		return r;
	return vs_rx_post(v, fd, io_buf(buf, n, flags), r);
}

static inline ssize_t vs_recv(struct vsock *v, int fd, void *buf, size_t n, int flags)
{
	struct vring *vr = atomic_load_explicit(&v->ring, memory_order_acquire);

	if (vr)
		return vring_recv_fast(v, vr, fd, buf, n, flags);
	return vs_recv_tcp(v, fd, buf, n, flags);
}

/* Any other receive. */
ssize_t vs_recv_any(struct vsock *v, int fd, struct io_op op);

/* Every send.  raises SIGPIPE unless MSG_NOSIGNAL. */
ssize_t vs_send_live(struct vsock *v, int fd, struct io_op op);
bool vs_tx_enter_plain(struct vsock *v);

/* The rest of a send of which `done` bytes are on their way: all that went. */
ssize_t vs_send_rest(struct vsock *v, int fd, struct io_op op, size_t done);
ssize_t vring_send_fast(struct vsock *v, struct vring *vr, int fd, const void *buf, size_t n, int flags);

/* Of a live socket. */
static inline ssize_t vs_send(struct vsock *v, int fd, const void *buf, size_t n, int flags)
{
	struct vring *vr = atomic_load_explicit(&v->ring, memory_order_acquire);

	if (vr)
		return vring_send_fast(v, vr, fd, buf, n, flags);
	return vs_send_live(v, fd, io_buf(buf, n, flags));
}

static inline void vs_tx_leave_plain(struct vsock *v, ssize_t r)
{
	atomic_fetch_sub(&v->tx0, 1);
	vs_count(v, r);
}

/*
 * Readiness told of trouble (HUP, ERR, RDHUP in epoll's or poll's bits) on a
 * live socket.  True: the link is broken and being mended; tell nobody.
 */
bool vs_ready_trouble(struct vsock *v, uint32_t events);
/*
 * The same, when only we may have asked for RDHUP: bytes before the end are then
 * told first, and without it.
 */
bool vs_ready_end(struct vsock *v, uint32_t events, bool asked);
/*
 * Puts new links that the helper has made under this process's descriptors.
 * Cheap when there are none.  Called by the application's threads only.
 */
extern _Atomic uint32_t vs_to_install;
void vs_install_all(void);

static inline void vs_install(void)
{
	if (unlikely(atomic_load_explicit(&vs_to_install, memory_order_acquire)))
		vs_install_all();
}

/* The link is broken; err is what the kernel said, 0 for an end of stream. */
void vs_break(struct vsock *v, int err, const char *why);
/* Waits until the link is no longer being mended; 0, or an errno (EINTR, EAGAIN on time-out). */
int vs_wait_mend(struct vsock *v, uint64_t deadline_ns, bool installed);
/* Gives the kernel what a new link has not taken yet; the tx lock is held. */
void vs_flush_locked(struct vsock *v, int fd);
/* Drops what the peer's kernel has acknowledged; the tx lock is held. */
void vs_trim_locked(struct vsock *v, int fd);
/* Before somebody else sends on the socket: nothing unsent is left behind. */
void vs_settle(struct vsock *v);
/* SO_ERROR as the application may see it, from the kernel's. */
int vs_error(struct vsock *v, int err);
/* Bytes in the replay buffer that no link has taken yet. */
uint64_t vs_unsent(struct vsock *v);
/* Every connection of the process, also those to come: plain from now on. */
void vs_all_plain(uint32_t reason);
int vs_shutdown(struct vsock *v, int fd, int how);
ssize_t vs_sendfile(struct vsock *v, int out, int in, off_t *off, size_t n);

#endif
