/*
 * syscall(2): programs that bring their own wrappers (libuv, libevent) use it
 * on sockets.  What has an entry goes there; errno and -1 are alike.
 */
#include "wrap.h"
#include "sys.h"
#include "vs_io.h"
#include <sys/syscall.h>

long __wrap_syscall(long nr, long a, long b, long c, long d, long e, long f)
{
#define P(type, x) ((type)(uintptr_t)(x))
	switch (nr) {
	case SYS_read: return __wrap_read((int)a, P(void *, b), (size_t)c);
	case SYS_write: return __wrap_write((int)a, P(void *, b), (size_t)c);
	case SYS_readv: return __wrap_readv((int)a, P(struct iovec *, b), (int)c);
	case SYS_writev: return __wrap_writev((int)a, P(struct iovec *, b), (int)c);
	case SYS_recvfrom:
		return __wrap_recvfrom((int)a, P(void *, b), (size_t)c, (int)d, P(struct sockaddr *, e), P(socklen_t *, f));
	case SYS_sendto:
		return __wrap_sendto((int)a, P(void *, b), (size_t)c, (int)d, P(struct sockaddr *, e), (socklen_t)f);
	case SYS_recvmsg: return __wrap_recvmsg((int)a, P(struct msghdr *, b), (int)c);
	case SYS_sendmsg: return __wrap_sendmsg((int)a, P(struct msghdr *, b), (int)c);
	case SYS_recvmmsg:
		return __wrap_recvmmsg((int)a, P(struct mmsghdr *, b), (unsigned int)c, (int)d, P(struct timespec *, e));
	case SYS_sendmmsg: return __wrap_sendmmsg((int)a, P(struct mmsghdr *, b), (unsigned int)c, (int)d);
	case SYS_sendfile: return __wrap_sendfile((int)a, (int)b, P(off_t *, c), (size_t)d);
	case SYS_splice:
		return __wrap_splice((int)a, P(off_t *, b), (int)c, P(off_t *, d), (size_t)e, (unsigned int)f);
	case SYS_socket: return __wrap_socket((int)a, (int)b, (int)c);
	case SYS_connect: return __wrap_connect((int)a, P(struct sockaddr *, b), (socklen_t)c);
	case SYS_listen: return __wrap_listen((int)a, (int)b);
	case SYS_accept: return __wrap_accept((int)a, P(struct sockaddr *, b), P(socklen_t *, c));
	case SYS_accept4: return __wrap_accept4((int)a, P(struct sockaddr *, b), P(socklen_t *, c), (int)d);
	case SYS_shutdown: return __wrap_shutdown((int)a, (int)b);
	case SYS_getsockname: return __wrap_getsockname((int)a, P(struct sockaddr *, b), P(socklen_t *, c));
	case SYS_getpeername: return __wrap_getpeername((int)a, P(struct sockaddr *, b), P(socklen_t *, c));
	case SYS_getsockopt: return __wrap_getsockopt((int)a, (int)b, (int)c, P(void *, d), P(socklen_t *, e));
	case SYS_close: return __wrap_close((int)a);
	case SYS_close_range: return __wrap_close_range((unsigned int)a, (unsigned int)b, (int)c);
	case SYS_dup: return __wrap_dup((int)a);
	case SYS_dup3: return __wrap_dup3((int)a, (int)b, (int)c);
	case SYS_fcntl: return __wrap_fcntl((int)a, (int)b, c);
	case SYS_ioctl: return __wrap_ioctl((int)a, (unsigned long)b, c);
	case SYS_epoll_create1: return __wrap_epoll_create1((int)a);
	case SYS_epoll_ctl: return __wrap_epoll_ctl((int)a, (int)b, (int)c, P(struct epoll_event *, d));
#ifdef SYS_dup2
	case SYS_dup2: return __wrap_dup2((int)a, (int)b);
#endif
#ifdef SYS_poll
	case SYS_poll: return __wrap_poll(P(struct pollfd *, a), (nfds_t)b, (int)c);
#endif
#ifdef SYS_epoll_create
	case SYS_epoll_create: return __wrap_epoll_create((int)a);
#endif
#ifdef SYS_epoll_wait
	case SYS_epoll_wait: return __wrap_epoll_wait((int)a, P(struct epoll_event *, b), (int)c, (int)d);
#endif
	/* The raw signal mask is shorter than sigset_t but for reading lies at the same place. */
	case SYS_epoll_pwait:
		return __wrap_epoll_pwait((int)a, P(struct epoll_event *, b), (int)c, (int)d, P(sigset_t *, e));
	case SYS_epoll_pwait2:
		return __wrap_epoll_pwait2((int)a, P(struct epoll_event *, b), (int)c, P(struct timespec *, d),
					   P(sigset_t *, e));
	case SYS_pselect6: {
		/* The last argument is a pointer to the mask and its size. */
		struct timespec t, *tmo = P(struct timespec *, e);
		const uintptr_t *mask = P(const uintptr_t *, f);

		/* Unlike libc's the kernel's writes the time that is left: not into what the caller keeps. */
		if (tmo)
			t = *tmo;
		return __wrap_pselect((int)a, P(fd_set *, b), P(fd_set *, c), P(fd_set *, d), tmo ? &t : NULL,
				      mask ? P(sigset_t *, *mask) : NULL);
	}
#ifdef SYS_select
	case SYS_select:
		return __wrap_select((int)a, P(fd_set *, b), P(fd_set *, c), P(fd_set *, d), P(struct timeval *, e));
#endif
	case SYS_execve: return __wrap_execve(P(char *, a), P(char **, b), P(char **, c));
	case SYS_execveat: return __wrap_execveat((int)a, P(char *, b), P(char **, c), P(char **, d), (int)e);
	case SYS_ppoll:
		return __wrap_ppoll(P(struct pollfd *, a), (nfds_t)b, P(struct timespec *, c), P(sigset_t *, d));
	case SYS_setsockopt: return __wrap_setsockopt((int)a, (int)b, (int)c, P(void *, d), (socklen_t)e);
	case SYS_io_uring_setup: vs_all_plain(REASON_IOURING); break;
	case SYS_exit_group: __wrap__exit((int)a); break;
	}
	return sys_syscall(nr, a, b, c, d, e, f);
}
