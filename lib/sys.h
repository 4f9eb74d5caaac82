/*
 * The only door to the kernel.
 *
 * The --wrap linker flags rewrite the library's own calls too, so no other
 * file may call the kernel: tests/meta/doors.py checks the undefined symbols
 * of every other object.  sys_NAME is the unwrapped NAME for every call of
 * wrap.def; what the library needs beside them is declared below.
 */
#ifndef ROAM_SYS_H
#define ROAM_SYS_H

#include "types.h"

#define WRAP(fam, ret, name, params, args) ret sys_##name params;
#define PASS WRAP
#define HOT WRAP
#define NOSYS(fam, ret, name, params, args)
#define PROG NOSYS
#include "../wrap/wrap.def"
#undef WRAP
#undef PASS
#undef HOT
#undef NOSYS
#undef PROG

void sys_resolve(void);		/* finds the real functions; early calls do it by themselves */

/* The program has threads of its own: system calls must stay cancellation points. */
extern bool sys_threads;

void sys_exit_now(int code) __attribute__((noreturn));

/* Memory that processes share. */
int sys_memfd(const char *name, size_t size);	/* sealed against shrinking; -1/errno */
size_t sys_memfd_size(int fd);			/* 0 when it is not such a sealed memfd */
void *sys_map_shared(int fd, size_t size);	/* NULL/errno */
void *sys_map_fork_shared(size_t size);		/* no file behind it; children share it */
void *sys_map_anon(size_t size);		/* private, lazily filled; NULL/errno */
void sys_unmap(void *p, size_t size);
void sys_discard(void *p, size_t size);		/* give a shared mapping's pages back */

/* Threads, processes, time. */
int sys_gettid(void);
int sys_getpid(void);
unsigned int sys_geteuid(void);
bool sys_alive(int tid);
bool sys_own_thread(int tid);			/* of this process */
uint64_t sys_starttime(int pid);		/* 0 when there is no such process */
uint64_t sys_netns(void);			/* inode of the main thread's network namespace, 0 unknown */
uint64_t sys_own_netns(void);			/* of this thread's */
int sys_follow_netns(void);			/* this thread goes where the main thread is; 0 or -1 */
uint64_t sys_timens(void);			/* inode of the time namespace: another one after a restore */
void sys_raise_sigpipe(void);
uint64_t sys_now_ns(void);			/* CLOCK_MONOTONIC */
void sys_nap_us(unsigned int us);
int sys_random(void *p, size_t n);		/* 0 or -1 */
/*
 * After EINTR: has every handler that is installed SA_RESTART, those of crashes
 * aside?  Then the kernel would have gone on.  Who ran is not known; with others beside it, EINTR.
 */
bool sys_signals_restart(void);
/*
 * Shared futexes: they work between processes.  wait returns 0, or an errno
 * (EAGAIN EINTR ETIMEDOUT); tmo_ns < 0 waits for ever.
 */
int sys_futex_wait(_Atomic uint32_t *w, uint32_t val, int64_t tmo_ns);
/* Can the word at p be read? 0, or -1/EFAULT. */
int sys_readable_word(const void *p);
void sys_futex_wake(_Atomic uint32_t *w, int n);
int sys_cpu(void);				/* where we run now, -1 unknown */
int sys_cpus(void);				/* on how many this thread may run */
void sys_yield(void);
/*
 * A full barrier on every CPU that runs a process which has joined; then those
 * need none of their own.  join: 0 or -1, once a process.
 */
int sys_barrier_join(void);
int sys_barrier(void);				/* 0 or -1 */

/* Sockets. */
int sys_outq(int fd);				/* unacknowledged bytes, -1 */
int sys_notsent(int fd);			/* bytes that have not been sent once, -1 */
int sys_inq(int fd);				/* unread bytes, -1 */
int sys_tcp_family(int fd);			/* AF_INET, AF_INET6, 0: not TCP */
int sys_send_fds(int fd, const void *buf, size_t n, const int *fds, int nfds);
ssize_t sys_recv_fds(int fd, void *buf, size_t n, int *fds, int *nfds);
int sys_peer_uid(int fd, unsigned int *uid);
uint32_t sys_peer_pid(int fd);			/* 0: none, or not of our pid namespace */
int sys_eventfd(void);
int sys_socketpair(int fd[2]);			/* seqpacket, non-blocking */
int sys_pidfd_self(void);
int sys_pidfd(int pid);				/* -1/errno */
int sys_pidfd_getfd(int pidfd, int fd);
int sys_unshare_fds(unsigned int first, unsigned int last);	/* leave the shared table, close a range */
int sys_seqpacket(void);
uint64_t sys_sock_ino(int fd);			/* inode, 0 when it is no socket */

/* The rendezvous directory. */
int sys_mkdir(const char *path, unsigned int mode);
int sys_lstat(const char *path, struct stat *st);
int sys_symlink(const char *to, const char *path);
ssize_t sys_readlink(const char *path, char *buf, size_t n);
int sys_unlink(const char *path);
int sys_fchmod(int fd, unsigned int mode);
int sys_open_ro(const char *path);
/* Calls fn with every name in the directory, at most `max` of them. */
void sys_list_dir(const char *path, int max, void (*fn)(const char *name));
long sys_fd_limit(void);
off_t sys_lseek(int fd, off_t off, int whence);
ssize_t sys_pread(int fd, void *buf, size_t n, off_t off);

#endif
