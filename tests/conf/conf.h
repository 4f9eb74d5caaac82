/*
 * Conformance of TCP socket semantics: the harness.
 *
 * Plain POSIX/Linux code, no header of the library. The same sources are built
 * plain (the kernel is the reference) and re-linked; every assertion must hold
 * in both. A case runs in a process of its own, with a time limit, and must
 * leave the descriptors below 100 as it found them.
 */
#ifndef CONF_H
#define CONF_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Sanitizers' own interceptors change a few things: those cases are skipped under them. */
#if defined(__has_feature)
#define CONF_HAS(f) __has_feature(f)
#else
#define CONF_HAS(f) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || CONF_HAS(address_sanitizer)
#define CONF_ASAN 1
#else
#define CONF_ASAN 0
#endif
#if defined(__SANITIZE_THREAD__) || CONF_HAS(thread_sanitizer)
#define CONF_TSAN 1
#else
#define CONF_TSAN 0
#endif

enum conf_mode { PLAIN, PLAINPEER, UPGRADED };	/* and UPGRADED with want_ring(): on a ring; want_codec(): coded */
extern enum conf_mode conf_mode;

enum conf_role { NO_PEER, CONNECTS, ACCEPTS };

struct conf_case {
	const char *file, *name;
	enum conf_role role;
	void (*fn)(void);
	void (*peer_fn)(int s);
	struct conf_case *next;
};

void conf_register(struct conf_case *c);
extern struct conf_case *conf_cases;

/* A case that makes its own sockets. */
#define CASE(n) \
	static void n##_case(void); \
	static struct conf_case n##_reg = { __FILE__, #n, NO_PEER, n##_case, NULL, NULL }; \
	__attribute__((constructor)) static void n##_ctor(void) { conf_register(&n##_reg); } \
	static void n##_case(void)

/*
 * A case handed s, connected to the remote process; it runs twice, as the
 * connecting and as the accepted end, and must close s.
 */
#define PEERCASE(n) \
	static void n##_case(int s); \
	static struct conf_case n##_con = { __FILE__, #n, CONNECTS, NULL, n##_case, NULL }; \
	static struct conf_case n##_acc = { __FILE__, #n, ACCEPTS, NULL, n##_case, NULL }; \
	__attribute__((constructor)) static void n##_ctor(void) \
	{ \
		conf_register(&n##_con); \
		conf_register(&n##_acc); \
	} \
	static void n##_case(int s)

/* Assertions: the first failure ends the case. They work in threads and children too. */
__attribute__((noreturn, format(printf, 3, 4)))
void conf_fail(const char *file, int line, const char *fmt, ...);
__attribute__((noreturn, format(printf, 1, 2)))
void conf_skip(const char *fmt, ...);
void conf_true(int v, const char *expr, const char *file, int line);
void conf_eq(long long a, long long b, const char *expr, const char *file, int line);
long conf_ok(long long r, const char *expr, const char *file, int line);
void conf_fails(long long r, int want, const char *expr, const char *file, int line);

#define CHECK(e) conf_true(!!(e), #e, __FILE__, __LINE__)
#define EQ(a, b) conf_eq((long long)(a), (long long)(b), #a " == " #b, __FILE__, __LINE__)
#define OK(e) conf_ok((long long)(e), #e, __FILE__, __LINE__)
#define FAILS(e, err) (errno = 0, conf_fails((long long)(e), (err), #e, __FILE__, __LINE__))

/* Every stream carries the same pattern, so a byte out of place shows. */
unsigned char pattern(uint64_t off);
void fill(void *buf, size_t n, uint64_t off);
void conf_check_pattern(const void *buf, size_t n, uint64_t off, const char *file, int line);
#define SAME(buf, n, off) conf_check_pattern((buf), (n), (off), __FILE__, __LINE__)

/* Send / receive exactly n bytes of the pattern from stream offset off. */
void conf_put(int s, size_t n, uint64_t off, const char *file, int line);
void conf_get(int s, size_t n, uint64_t off, const char *file, int line);
void conf_eof(int s, const char *file, int line);
#define PUT(s, n, off) conf_put((s), (n), (off), __FILE__, __LINE__)
#define GET(s, n, off) conf_get((s), (n), (off), __FILE__, __LINE__)
#define GET_EOF(s) conf_eof((s), __FILE__, __LINE__)
uint64_t fnv(uint64_t h, const void *buf, size_t n);

/* Sockets. pair: fd[0] connected, fd[1] was accepted; both are warmed up. */
int listener(struct sockaddr_in *a);
int tcp_socket(void);
int dial(const struct sockaddr_in *a);
void pair_raw(int fd[2]);
void pair(int fd[2]);
void pair_v6(int fd[2]);
void pair_nb(int fd[2]);
void warm(int a, int b);
int have_v6(void);

/* Facts to wait for; each fails the case when it does not come true in time. */
int wait_events(int s, int events);
void wait_unread(int s, int n);
void wait_sleeping(pid_t pid, pid_t tid);
void wait_readable(int s);

/* Send until EAGAIN; the number of bytes, pattern from offset off. */
size_t fill_up(int s, uint64_t off);
void set_nonblock(int s, int on);
int int_opt(int s, int level, int opt);
int unread(int s);
int events_now(int s, int events);
double now(void);
void *bad_ptr(void);
char *guarded(size_t n);
int exit_of(pid_t pid);
void on_signal(int sig, int flags);
extern volatile sig_atomic_t signals_seen;

/*
 * The remote end: another process that obeys one-line commands (see peer_loop.c).
 * In mode plainpeer it is the program of CONF_PEER, never re-linked.
 * A command that starts with @ waits until this process's main thread sleeps.
 */
extern pid_t peer_pid;
extern int peer_errno;
void peer_start(void);
int peer_open(enum conf_role role);
int peer_open_slot(enum conf_role role, int slot);
__attribute__((format(printf, 1, 2))) long peer(const char *fmt, ...);
__attribute__((format(printf, 1, 2))) void peer_post(const char *fmt, ...);
long peer_wait(void);
int peer_ctl(void);
void peer_kill(int sig);
void peer_finish(void);

int peer_loop(int ctl);
void warm_half(int s, int first);
int is_ring(int s);
int want_ring(void);
int want_codec(void);
int is_coded(int s);

#endif
