/* Making, naming and ending connections. */
#include "wrap.h"
#include "api.h"
#include "conf.h"
#include "cover.h"
#include "ep.h"
#include "link_tcp.h"
#include "meet.h"
#include "park.h"
#include "vring.h"
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>

static struct vsock *fresh(int fd, int family, enum vs_kind kind)
{
	struct vsock *v = vs_new(fd, family, kind);

	if (unlikely(!atomic_load_explicit(&cover_said, memory_order_relaxed)))
		cover_say();
	/* Calls that we do not see may use it. */
	if (unlikely(cover_lost) && v)
		vs_demote(v, REASON_COVER);
	return v;
}

int __wrap_socket(int domain, int type, int protocol)
{
	int fd = sys_socket(domain, type, protocol);

	if (fd >= 0 && (domain == AF_INET || domain == AF_INET6) && (type & 0xf) == SOCK_STREAM &&
	    (protocol == 0 || protocol == IPPROTO_TCP) && !roam_vfork_child)
		fresh(fd, domain, VS_FRESH);
	else if (unlikely(fdtab_vsock(fd) != NULL))
		vs_abandon(fd);		/* its number was closed where we do not see it */
	return fd;
}

int __wrap_listen(int fd, int backlog)
{
	struct vsock *v = fdtab_vsock(fd);
	int r = sys_listen(fd, backlog), e = errno;

	if (v && r == 0 && !roam_vfork_child) {
		atomic_store(&v->kind, VS_LISTEN);
		if (!cover_lost) {
			meet_mark(v, fd);
			park_listen(v, fd);
		}
	}
	errno = e;
	return r;
}

/* A connection came out of a listener; the listener may be inherited, unknown to us. */
static int accepted(int lfd, int fd)
{
	struct vsock *l = fdtab_vsock(lfd), *v;
	int e = errno, family = 0;

	if (fd < 0 || roam_vfork_child)
		return fd;
	if (!l && (family = sys_tcp_family(lfd)) != 0) {
		l = fresh(lfd, family, VS_LISTEN);
	} else if (l) {
		family = l->family == 6 ? AF_INET6 : AF_INET;
		atomic_store(&l->kind, VS_LISTEN);
	}
	if (family) {
		/* Who accepts is not always who listened: daemons fork in between. */
		if (l && !cover_lost) {
			meet_mark(l, lfd);
			atomic_store(&l->ops, 1);
		}
		v = fresh(fd, family, VS_CONN);
		if (v) {
			v->role = HO_ACCEPTOR;
			if (unlikely(l && (atomic_load(&l->barred) || atomic_load(&l->no_codec) || l->no_ring & NO_RING_POLICY)))
				api_inherit(l, v);
			if (!conf()->off && !v->never && !cover_lost)
				atomic_store(&v->next_try, MEET_FIRST_ACCEPTOR);
			if (unlikely(atomic_load(&park_waiting)))
				park_accepted(v, fd);
		}
	}
	errno = e;
	return fd;
}

/* The kernel checks these pointers; they are looked at only when there may be a name to put there. */
static socklen_t accept_room(const struct sockaddr *addr, const socklen_t *len)
{
	/* It may come while this accept() sleeps. */
	return unlikely(atomic_load(&park_hoped)) && addr && len ? *len : 0;
}

/* A parked connection has the name of the peer that it had before. */
static int named(int fd, struct sockaddr *addr, socklen_t *len, socklen_t room)
{
	struct vsock *v = fdtab_vsock(fd);
	struct vstate *st = v && vs_live(v) ? atomic_load(&v->st) : NULL;

	if (likely(!st) || !room)
		return fd;
	memcpy(addr, &st->names.peer, room < st->names.peer_len ? room : st->names.peer_len);
	*len = st->names.peer_len;
	return fd;
}

int __wrap_accept(int fd, struct sockaddr *addr, socklen_t *len)
{
	socklen_t room = accept_room(addr, len);

	return named(accepted(fd, sys_accept(fd, addr, len)), addr, len, room);
}

int __wrap_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	socklen_t room = accept_room(addr, len);

	return named(accepted(fd, sys_accept4(fd, addr, len, flags)), addr, len, room);
}

int __wrap_connect(int fd, const struct sockaddr *addr, socklen_t len)
{
	struct vsock *v = fdtab_vsock(fd);
	int r, e;

	if (unlikely(fdtab_hidden(fd)))
		return errno = EBADF, -1;
	r = sys_connect(fd, addr, len);
	e = errno;
	if (!v || roam_vfork_child)
		return r;
	if (r == 0 && len >= sizeof(addr->sa_family) && addr->sa_family == AF_UNSPEC) {
		/* Disconnected: the socket begins a new life. */
		int family = v->family == 6 ? AF_INET6 : AF_INET;

		vs_reset_meant(v);
		vs_forget(fd);
		fresh(fd, family, VS_FRESH);
	} else if (r == 0 || e == EINPROGRESS || e == EINTR) {
		atomic_store(&v->kind, VS_CONN);
	}
	errno = e;
	return r;
}

int __wrap_shutdown(int fd, int how)
{
	struct vsock *v = fdtab_vsock(fd);

	return v ? vs_shutdown(v, fd, how) : sys_shutdown(fd, how);
}

/* After the first link the kernel's names are not the connection's. */
static const struct names *logged(int fd)
{
	struct vsock *v = fdtab_vsock(fd);
	struct vstate *st = v && vs_live(v) ? atomic_load(&v->st) : NULL;

	return st && (vs_gen(st) > 1 || atomic_load(&st->phase) & PH_MEND) ? &st->names : NULL;
}

/* The kernel's getsockname checks the pointers; then its answer is replaced. */
static int tell(int fd, bool peer, const struct sockaddr_storage *ss, socklen_t n, struct sockaddr *addr, socklen_t *len)
{
	socklen_t room;

	/* The kernel looks at the length without harm; ours would be a crash. */
	if (sys_readable_word(len) < 0)
		return -1;
	room = *len;
	if ((peer ? sys_getpeername(fd, addr, len) : sys_getsockname(fd, addr, len)) < 0)
		return -1;
	memcpy(addr, ss, room < n ? room : n);
	*len = n;
	return 0;
}

int __wrap_getsockname(int fd, struct sockaddr *addr, socklen_t *len)
{
	const struct names *n = logged(fd);

	return n ? tell(fd, false, &n->self, n->self_len, addr, len) : sys_getsockname(fd, addr, len);
}

int __wrap_getpeername(int fd, struct sockaddr *addr, socklen_t *len)
{
	const struct names *n = logged(fd);

	return n ? tell(fd, !vs_mending(fdtab_vsock(fd)), &n->peer, n->peer_len, addr, len) : sys_getpeername(fd, addr, len);
}

/* Options by which the kernel does something to the stream that a ring would not do. */
static bool not_on_a_ring(int level, int name, const void *val, socklen_t len)
{
	int n = 0;

	if (len >= sizeof(n))
		memcpy(&n, val, sizeof(n));
	return (level == SOL_SOCKET && ((name == SO_RCVLOWAT && n > 1) || (name == SO_ZEROCOPY && n))) ||
		(level == IPPROTO_TCP && (name == TCP_ULP || name == TCP_REPAIR));
}

int __wrap_setsockopt(int fd, int level, int name, const void *val, socklen_t len)
{
	struct vsock *v = fdtab_vsock(fd);
	int r;

	/* Doorbells and blocks go at once, whatever the application wants for its bytes. */
	if (v && level == IPPROTO_TCP && name == TCP_NODELAY && !vs_bare(v)) {
		int on;

		r = sys_setsockopt(fd, level, name, val, len);
		if (r == 0) {
			memcpy(&on, val, sizeof(on));
			atomic_store(&atomic_load(&v->st)->nodelay, on != 0);
			link_set_nodelay(fd, true);
		}
		return r;
	}
	r = sys_setsockopt(fd, level, name, val, len);
	/* The kernel has checked the call. On the link that takes the ring's place it is made again. */
	if (v && r == 0 && not_on_a_ring(level, name, val, len)) {
		v->no_ring |= NO_RING_SET;
		if (!vs_bare(v)) {
			vring_leave(v, true);
			r = sys_setsockopt(fd, level, name, val, len);
		}
	}
	return r;
}

int __wrap_getsockopt(int fd, int level, int name, void *val, socklen_t *len)
{
	struct vsock *v = fdtab_vsock(fd);
	int r = sys_getsockopt(fd, level, name, val, len);

	/* The base of a ring is up until both streams have ended. */
	if (v && r == 0 && level == IPPROTO_TCP && name == TCP_INFO && *len >= 1 && vring_of(v))
		vring_tcp_state(v, val);
	if (v && r == 0 && level == IPPROTO_TCP && name == TCP_NODELAY && *len == sizeof(int) && !vs_bare(v)) {
		int on = atomic_load(&atomic_load(&v->st)->nodelay);

		memcpy(val, &on, sizeof(on));
	}
	/* An error that only the old link has is not the connection's. */
	if (v && r == 0 && level == SOL_SOCKET && name == SO_ERROR && *len == sizeof(int) && vs_live(v)) {
		int err;

		memcpy(&err, val, sizeof(err));
		err = vs_error(v, err);
		memcpy(val, &err, sizeof(err));
	}
	return r;
}
