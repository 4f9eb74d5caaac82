/* See sys.h.  Nothing here knows what a virtual socket is. */
#include "sys.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <linux/sockios.h>
#include <linux/time_types.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

bool sys_threads;

/*
 * Cancellation.  Once a second thread exists (our helper is one) libc makes
 * every blocking call a cancellation point with two more atomic instructions,
 * 8 ns here.  A program without threads of its own has nobody to cancel it: it
 * keeps the short way, for the four calls that are made most.  Sanitizers want
 * to see every call.
 */
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer) || __has_feature(address_sanitizer) || __has_feature(memory_sanitizer)
#define SANITIZED 1
#endif
#endif

#if defined(__x86_64__) && !defined(SANITIZED)
#define SHORT_WAY 1
static inline long short_call(long nr, long a, long b, long c, long d)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = 0;
	register long r9 __asm__("r9") = 0;
	long r;

	__asm__ volatile("syscall" : "=a"(r)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	if (r < 0 && r > -4096) {
		errno = (int)-r;
		return -1;
	}
	return r;
}
#elif defined(__aarch64__) && !defined(SANITIZED)
#define SHORT_WAY 1
static inline long short_call(long nr, long a, long b, long c, long d)
{
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = 0;
	register long x5 __asm__("x5") = 0;

	__asm__ volatile("svc #0" : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	if (x0 < 0 && x0 > -4096) {
		errno = (int)-x0;
		return -1;
	}
	return x0;
}
#endif

#ifdef SHORT_WAY
#define SHORT(name, nr, a, b, c, d) \
	if (likely(!sys_threads)) return short_call(nr, (long)(a), (long)(b), (long)(c), (long)(d))
#else
#define SHORT(name, nr, a, b, c, d) (void)0
#endif

/*
 * The real functions.  Normally __real_X is libc's X.  In a program that is
 * covered as a whole (wrap/cover.S) it is X as the executable defines it, which
 * leads back to us: then libc's is what the dynamic linker finds next.  Shared
 * libraries' constructors call before ours has run, so each pointer begins with
 * a function that looks all of them up.  Looking up at the first use of each
 * would be too late for a forked child: another thread may have held the dynamic
 * linker's lock.  Two threads that meet in here write the same.
 */
extern const char roam_cover_begin[] __attribute__((weak)), roam_cover_end[] __attribute__((weak));
void *roam_cover_next(const char *name) __attribute__((weak));

/*
 * lld before 15 looks into libc.a only for names that somebody mentions, not for
 * __real_X: so mention them, without a byte of it in the program.
 */
#if defined(__x86_64__)
#define MENTION(name) __asm__(".reloc ., R_X86_64_NONE, " #name);
#elif defined(__aarch64__)
#define MENTION(name) __asm__(".reloc ., R_AARCH64_NONE, " #name);
#else
#define MENTION(name)
#endif

static long missing(void)
{
	errno = ENOSYS;
	return -1;
}

static void *find(uintptr_t real, const char *name)
{
	void *p = NULL;

	if (!roam_cover_begin || real < (uintptr_t)roam_cover_begin || real >= (uintptr_t)roam_cover_end)
		return (void *)real;
	if (roam_cover_next)
		p = roam_cover_next(name);
	return p ? p : (void *)(uintptr_t)missing;
}

/* ISO C has no "return f();" for void functions; gcc and clang do. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#define NOSYS(fam, ret, name, params, args)
#define PROG NOSYS
#define WRAP(fam, ret, name, params, args)	\
	MENTION(name)				\
	ret __real_##name params;		\
	static ret first_##name params;		\
	static ret (*next_##name) params = first_##name;
#define PASS WRAP
#define HOT WRAP
#include "../wrap/wrap.def"
#undef WRAP

void sys_resolve(void)
{
#define WRAP(fam, ret, name, params, args)	\
	next_##name = (ret (*) params)(uintptr_t)find((uintptr_t)__real_##name, #name);
#include "../wrap/wrap.def"
#undef WRAP
	/* Without a dynamic linker nobody knows libc's any more; stdio has its own way. */
	if (next_read == (ssize_t (*)(int, void *, size_t))(uintptr_t)missing) {
		fputs("roam: libroam-cover.o is in a static program: link it with libroam.a alone\n", stderr);
		abort();
	}
}

#define WRAP(fam, ret, name, params, args)	\
	static ret first_##name params { sys_resolve(); return next_##name args; }
#include "../wrap/wrap.def"
#undef WRAP

#define WRAP(fam, ret, name, params, args)	\
	ret sys_##name params { return next_##name args; }
#undef HOT
#define HOT NOSYS
#include "../wrap/wrap.def"
#undef WRAP
#undef PASS
#undef HOT
#undef PROG
#undef NOSYS
#pragma GCC diagnostic pop

ssize_t sys_read(int fd, void *buf, size_t n)
{
	SHORT(read, SYS_read, fd, buf, n, 0);
	return next_read(fd, buf, n);
}

ssize_t sys_write(int fd, const void *buf, size_t n)
{
	SHORT(write, SYS_write, fd, buf, n, 0);
	return next_write(fd, buf, n);
}

ssize_t sys_recv(int fd, void *buf, size_t n, int flags)
{
	SHORT(recv, SYS_recvfrom, fd, buf, n, flags);
	return next_recv(fd, buf, n, flags);
}

ssize_t sys_send(int fd, const void *buf, size_t n, int flags)
{
	SHORT(send, SYS_sendto, fd, buf, n, flags);
	return next_send(fd, buf, n, flags);
}

static long raw(long nr, long a, long b, long c, long d, long e, long f)
{
	return sys_syscall(nr, a, b, c, d, e, f);
}

void sys_exit_now(int code)
{
	for (;;)
		raw(SYS_exit_group, code, 0, 0, 0, 0, 0);
}

int sys_memfd(const char *name, size_t size)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return -1;
	if (ftruncate(fd, (off_t)size) < 0 ||
	    sys_fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
		sys_close(fd);
		return -1;
	}
	return fd;
}

size_t sys_memfd_size(int fd)
{
	struct stat st;
	int seals = sys_fcntl(fd, F_GET_SEALS, 0);

	if (seals < 0 || !(seals & F_SEAL_SHRINK) || sys_fstat(fd, &st) < 0)
		return 0;
	return (size_t)st.st_size;
}

void *sys_map_shared(int fd, size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return p == MAP_FAILED ? NULL : p;
}

void *sys_map_fork_shared(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

void *sys_map_anon(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

void sys_unmap(void *p, size_t size)
{
	munmap(p, size);
}

void sys_discard(void *p, size_t size)
{
	madvise(p, size, MADV_REMOVE);
}

int sys_gettid(void)
{
	return (int)raw(SYS_gettid, 0, 0, 0, 0, 0, 0);
}

int sys_getpid(void)
{
	return (int)raw(SYS_getpid, 0, 0, 0, 0, 0, 0);
}

unsigned int sys_geteuid(void)
{
	return geteuid();
}

bool sys_alive(int tid)
{
	int e = errno;
	bool ok = kill(tid, 0) == 0 || errno == EPERM;

	errno = e;
	return ok;
}

bool sys_own_thread(int tid)
{
	int e = errno;
	bool ok = raw(SYS_tgkill, sys_getpid(), tid, 0, 0, 0, 0) == 0;

	errno = e;
	return ok;
}

uint64_t sys_starttime(int pid)
{
	char buf[512], path[40], *p;
	ssize_t n;
	int fd, i;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = sys_read(fd, buf, sizeof(buf) - 1);
	sys_close(fd);
	if (n <= 0)
		return 0;
	buf[n] = 0;
	/* The name may hold spaces and parentheses: count from the last ')'. */
	p = strrchr(buf, ')');
	for (i = 2; p && i < 22; i++)
		p = strchr(p + 1, ' ');
	return p ? strtoull(p + 1, NULL, 10) : 0;
}

static uint64_t ns_inode(const char *path)
{
	struct stat st;

	return stat(path, &st) < 0 ? 0 : (uint64_t)st.st_ino;
}

uint64_t sys_netns(void)
{
	return ns_inode("/proc/self/ns/net");
}

uint64_t sys_own_netns(void)
{
	return ns_inode("/proc/thread-self/ns/net");
}

int sys_follow_netns(void)
{
	int fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC), r;

	if (fd < 0)
		return -1;
	r = setns(fd, CLONE_NEWNET);
	sys_close(fd);
	return r;
}

uint64_t sys_timens(void)
{
	return ns_inode("/proc/self/ns/time");
}

void sys_raise_sigpipe(void)
{
	raw(SYS_tgkill, sys_getpid(), sys_gettid(), SIGPIPE, 0, 0, 0);
}

uint64_t sys_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void sys_nap_us(unsigned int us)
{
	struct timespec t = { us / 1000000, (long)(us % 1000000) * 1000 };

	raw(SYS_nanosleep, (long)&t, 0, 0, 0, 0, 0);
}

int sys_random(void *p, size_t n)
{
	char *c = p;

	while (n) {
		ssize_t r = getrandom(c, n, 0);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return -1;
		c += r;
		n -= (size_t)r;
	}
	return 0;
}

int sys_futex_wait(_Atomic uint32_t *w, uint32_t val, int64_t tmo_ns)
{
	struct timespec t = { tmo_ns / 1000000000, tmo_ns % 1000000000 };
	int e = errno, r = 0;

	if (raw(SYS_futex, (long)w, FUTEX_WAIT, (long)val,
		tmo_ns < 0 ? 0 : (long)&t, 0, 0) < 0)
		r = errno;
	errno = e;
	return r;
}

bool sys_signals_restart(void)
{
	struct sigaction sa;
	int s, e = errno;
	bool yes = true;

	/* A crash handler ends no sleep: its signal comes from the thread's own next instruction. */
	for (s = 1; yes && s < NSIG; s++)
		if (s != SIGSEGV && s != SIGBUS && s != SIGFPE && s != SIGILL && s != SIGTRAP &&
		    sigaction(s, NULL, &sa) == 0 && (sa.sa_flags & SA_SIGINFO ||
		    (sa.sa_handler != SIG_DFL && sa.sa_handler != SIG_IGN)))
			yes = sa.sa_flags & SA_RESTART;
	errno = e;
	return yes;
}

int sys_readable_word(const void *p)
{
	/* A wait that is over before it begins: the kernel reads the word, or says EFAULT. */
	struct timespec none = { 0, 0 };

	if ((uintptr_t)p & 3)
		return 0;
	raw(SYS_futex, (long)p, FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0, (long)&none, 0, 0);
	return errno == EFAULT ? -1 : 0;
}

void sys_futex_wake(_Atomic uint32_t *w, int n)
{
	int e = errno;

	raw(SYS_futex, (long)w, FUTEX_WAKE, n, 0, 0, 0);
	errno = e;
}

int sys_cpu(void)
{
	return sched_getcpu();		/* libc keeps it in rseq: no system call */
}

int sys_cpus(void)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) < 0)
		return 1024;		/* more CPUs than the set holds */
	return CPU_COUNT(&set);
}

void sys_yield(void)
{
	sched_yield();
}

int sys_barrier_join(void)
{
	return raw(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0, 0, 0, 0) < 0 ? -1 : 0;
}

int sys_barrier(void)
{
	return raw(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0, 0, 0, 0) < 0 ? -1 : 0;
}

int sys_outq(int fd)
{
	int n;

	return sys_ioctl(fd, SIOCOUTQ, (long)&n) < 0 ? -1 : n;
}

int sys_notsent(int fd)
{
	int n;

	return sys_ioctl(fd, SIOCOUTQNSD, (long)&n) < 0 ? -1 : n;
}

int sys_inq(int fd)
{
	int n;

	return sys_ioctl(fd, SIOCINQ, (long)&n) < 0 ? -1 : n;
}

int sys_tcp_family(int fd)
{
	int fam, type, proto;
	socklen_t l = sizeof(int);

	if (sys_getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &fam, &l) < 0)
		return 0;
	l = sizeof(int);
	if ((fam != AF_INET && fam != AF_INET6) ||
	    sys_getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &l) < 0 || type != SOCK_STREAM)
		return 0;
	l = sizeof(int);
	if (sys_getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &proto, &l) < 0 || proto != IPPROTO_TCP)
		return 0;
	return fam;
}

int sys_send_fds(int fd, const void *buf, size_t n, const int *fds, int nfds)
{
	union { struct cmsghdr h; char b[CMSG_SPACE(4 * sizeof(int))]; } c;
	struct iovec iov = { (void *)buf, n };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (nfds > 0) {
		m.msg_control = &c;
		m.msg_controllen = CMSG_SPACE((size_t)nfds * sizeof(int));
		memset(&c, 0, sizeof(c));
		c.h.cmsg_level = SOL_SOCKET;
		c.h.cmsg_type = SCM_RIGHTS;
		c.h.cmsg_len = CMSG_LEN((size_t)nfds * sizeof(int));
		memcpy(CMSG_DATA(&c.h), fds, (size_t)nfds * sizeof(int));
	}
	return sys_sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)n ? 0 : -1;
}

ssize_t sys_recv_fds(int fd, void *buf, size_t n, int *fds, int *nfds)
{
	union { struct cmsghdr h; char b[CMSG_SPACE(4 * sizeof(int))]; } c;
	struct iovec iov = { buf, n };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1,
			    .msg_control = &c, .msg_controllen = sizeof(c) };
	struct cmsghdr *h;
	ssize_t r;
	int max = *nfds;

	*nfds = 0;
	r = sys_recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	/* Said before what is still queued, once: the other side closed with something of ours unread. */
	if (r < 0 && errno == ECONNRESET)
		r = sys_recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (r < 0)
		return -1;
	for (h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
		size_t k, cnt;

		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		cnt = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (k = 0; k < cnt; k++) {
			int one;

			memcpy(&one, CMSG_DATA(h) + k * sizeof(int), sizeof(int));
			if (*nfds < max)
				fds[(*nfds)++] = one;
			else
				sys_close(one);
		}
	}
	if (m.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
		while (*nfds)
			sys_close(fds[--*nfds]);
		errno = EMSGSIZE;
		return -1;
	}
	return r;
}

int sys_peer_uid(int fd, unsigned int *uid)
{
	struct ucred c;
	socklen_t l = sizeof(c);

	if (sys_getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &l) < 0)
		return -1;
	*uid = c.uid;
	return 0;
}

uint32_t sys_peer_pid(int fd)
{
	struct ucred c;
	socklen_t l = sizeof(c);

	return sys_getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &l) < 0 || c.pid < 0 ? 0 : (uint32_t)c.pid;
}

int sys_eventfd(void)
{
	return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

int sys_socketpair(int fd[2])
{
	return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fd);
}

int sys_pidfd(int pid)
{
	return (int)raw(SYS_pidfd_open, pid, 0, 0, 0, 0, 0);
}

int sys_pidfd_self(void)
{
	return (int)raw(SYS_pidfd_open, sys_getpid(), 0, 0, 0, 0, 0);
}

int sys_pidfd_getfd(int pidfd, int fd)
{
	return (int)raw(SYS_pidfd_getfd, pidfd, fd, 0, 0, 0, 0);
}

int sys_unshare_fds(unsigned int first, unsigned int last)
{
	return sys_close_range(first, last, CLOSE_RANGE_UNSHARE);
}

int sys_seqpacket(void)
{
	return sys_socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

uint64_t sys_sock_ino(int fd)
{
	struct stat st;

	if (sys_fstat(fd, &st) < 0 || !S_ISSOCK(st.st_mode))
		return 0;
	return (uint64_t)st.st_ino;
}

int sys_mkdir(const char *path, unsigned int mode)
{
	return mkdir(path, mode);
}

int sys_lstat(const char *path, struct stat *st)
{
	return lstat(path, st);
}

int sys_symlink(const char *to, const char *path)
{
	return symlink(to, path);
}

ssize_t sys_readlink(const char *path, char *buf, size_t n)
{
	return readlink(path, buf, n);
}

int sys_unlink(const char *path)
{
	return unlink(path);
}

int sys_fchmod(int fd, unsigned int mode)
{
	return fchmod(fd, mode);
}

int sys_open_ro(const char *path)
{
	return open(path, O_RDONLY | O_CLOEXEC);
}

/*
 * getdents64 on a descriptor of our own instead of opendir: the latter
 * allocates, and its descriptor would stay low while we look around.
 */
void sys_list_dir(const char *path, int max, void (*fn)(const char *name))
{
	struct ent {
		uint64_t ino;
		int64_t off;
		unsigned short len;
		unsigned char type;
		char name[];
	};
	_Alignas(8) char buf[8192];
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	long n, at;

	if (fd < 0)
		return;
	while (max > 0 && (n = raw(SYS_getdents64, fd, (long)buf, sizeof(buf), 0, 0, 0)) > 0)
		for (at = 0; at < n && max > 0; max--) {
			struct ent *e = (struct ent *)(buf + at);

			fn(e->name);
			at += e->len;
		}
	sys_close(fd);
}

long sys_fd_limit(void)
{
	struct rlimit r;

	return getrlimit(RLIMIT_NOFILE, &r) < 0 || r.rlim_cur > (1 << 20) ?
		(1 << 20) : (long)r.rlim_cur;
}

off_t sys_lseek(int fd, off_t off, int whence)
{
	return lseek(fd, off, whence);
}

ssize_t sys_pread(int fd, void *buf, size_t n, off_t off)
{
	return pread(fd, buf, n, off);
}
