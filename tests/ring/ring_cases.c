/*
 * What processes do with a socket whose link is a ring: die, stop, fork, exec,
 * pass it on, close it with bytes unread, sleep for long.  Each case is two
 * fresh processes, A and B, and an end in time.  TAP.
 *
 *	ring_cases [substring]
 */
#include "vring.h"
#include "vs_int.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MANY 100

static struct shared {
	_Atomic int step[8];
	_Atomic uint16_t port;
	_Atomic int pid[2];
	char why[256];
} *sh;

static uint64_t ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void nap(unsigned int m)
{
	struct timespec t = { m / 1000, (long)(m % 1000) * 1000000 };

	while (nanosleep(&t, &t) < 0 && errno == EINTR)
		;
}

static void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *f, ...)
{
	int e = errno;
	va_list ap;
	char b[200];

	va_start(ap, f);
	vsnprintf(b, sizeof(b), f, ap);
	va_end(ap);
	if (!sh->why[0])
		snprintf(sh->why, sizeof(sh->why), "%s (errno %d)", b, e);
	_exit(1);
}
#define NEED(x) do { if (!(x)) fail("line %d: %s", __LINE__, #x); } while (0)

static void say(int i)
{
	atomic_store(&sh->step[i], 1);
}

static void await(int i)
{
	while (!atomic_load(&sh->step[i]))
		nap(1);
}

static int listener = -1;

static int one(bool server)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	int fd, yes = 1;

	if (server) {
		fd = accept(listener, NULL, NULL);
	} else {
		a.sin_port = htons(sh->port);
		fd = socket(AF_INET, SOCK_STREAM, 0);
		NEED(connect(fd, (void *)&a, sizeof(a)) == 0);
	}
	NEED(fd >= 0);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	return fd;
}

static void get(int fd, void *p, size_t n)
{
	size_t k;
	ssize_t r;

	for (k = 0; k < n; k += (size_t)r) {
		r = recv(fd, (char *)p + k, n - k, 0);
		if (r <= 0)
			fail("recv gave %zd after %zu of %zu", r, k, n);
	}
}

static void put(int fd, const void *p, size_t n)
{
	size_t k;
	ssize_t r;

	for (k = 0; k < n; k += (size_t)r) {
		r = send(fd, (const char *)p + k, n - k, MSG_NOSIGNAL);
		if (r <= 0)
			fail("send gave %zd after %zu of %zu", r, k, n);
	}
}

static bool on_ring(int fd)
{
	struct vsock *v = fdtab_vsock(fd);

	return v && vring_of(v) && !vs_mending(v);
}

/* Ping-pong until both ends are on a ring: two bytes, what I say of it. */
static void to_ring(int fd, bool first)
{
	uint64_t end = ms() + 5000;
	char mine = 0, theirs = 0;

	while (!(mine && theirs)) {
		if (ms() > end)
			fail("no ring");
		mine = on_ring(fd);
		if (first) {
			put(fd, &mine, 1);
			get(fd, &theirs, 1);
		} else {
			get(fd, &theirs, 1);
			put(fd, &mine, 1);
		}
		if (!(mine && theirs))
			nap(1);
	}
}

static int ring_pair(bool server)
{
	int fd = one(server);

	to_ring(fd, !server);
	return fd;
}

static void pingpong(int fd, bool first, int rounds)
{
	char a[300], b[300];
	int i;

	for (i = 0; i < rounds; i++) {
		memset(a, i, sizeof(a));
		if (first) {
			put(fd, a, sizeof(a));
			get(fd, b, sizeof(b));
		} else {
			get(fd, b, sizeof(b));
			put(fd, b, sizeof(b));
		}
		if (memcmp(a, b, sizeof(a)))
			fail("wrong bytes in round %d", i);
	}
}

/* ---- death */

static const char *way;

static void fill(int fd)
{
	static char big[1 << 16];

	while (send(fd, big, sizeof(big), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
		;
	NEED(errno == EAGAIN);
}

/* Sleeps until the other end is gone; what the socket says then. */
static void sleep_till_end(int fd)
{
	struct pollfd p = { fd, POLLIN, 0 };
	struct epoll_event ev = { .events = EPOLLIN, .data.fd = fd };
	char b[64];
	ssize_t r;
	fd_set s;
	int ep;

	if (!strcmp(way, "poll")) {
		NEED(poll(&p, 1, 5000) == 1);
	} else if (!strcmp(way, "select")) {
		FD_ZERO(&s);
		FD_SET(fd, &s);
		NEED(select(fd + 1, &s, NULL, NULL, &(struct timeval){ 5, 0 }) == 1);
	} else if (!strncmp(way, "epoll", 5)) {
		if (!strcmp(way, "epoll-et"))
			ev.events |= EPOLLET;
		if (!strcmp(way, "epoll-oneshot"))
			ev.events |= EPOLLONESHOT;
		if (!strcmp(way, "epoll-rdhup"))
			ev.events = EPOLLRDHUP;
		ep = epoll_create1(0);
		NEED(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) == 0);
		NEED(epoll_wait(ep, &ev, 1, 5000) == 1);
	} else if (!strcmp(way, "send")) {
		char big[65536] = { 0 };

		fill(fd);
		while ((r = send(fd, big, sizeof(big), MSG_NOSIGNAL)) > 0)
			;
		NEED(r < 0 && (errno == ECONNRESET || errno == EPIPE));
		return;
	} else if (!strcmp(way, "poll-out")) {
		fill(fd);
		p.events = POLLOUT;
		NEED(poll(&p, 1, 5000) == 1);
		return;
	}
	r = recv(fd, b, sizeof(b), 0);
	if (!(r == 0 || (r < 0 && errno == ECONNRESET)))
		fail("recv gave %zd", r);
}

static void killed_a(void)
{
	int fd = ring_pair(true);
	uint64_t t;

	atomic_store(&sh->pid[0], getpid());
	say(0);
	sleep_till_end(fd);
	t = ms();
	NEED(atomic_load(&sh->step[1]));
	/* pid[1]: when, in ms of the clock's low bits */
	if ((uint32_t)t - (uint32_t)sh->pid[1] > 300)
		fail("noticed after %u ms", (uint32_t)t - (uint32_t)sh->pid[1]);
}

static void killed_b(void)
{
	ring_pair(false);
	await(0);
	nap(150);		/* it sleeps, for all we know */
	atomic_store(&sh->pid[1], (int)(uint32_t)ms());
	say(1);
	kill(getpid(), SIGKILL);
}

/* ---- stop */

static void stopped_a(void)
{
	int fd = ring_pair(true), i;
	char b[1000] = { 0 };

	await(0);
	for (i = 0; i < 5; i++) {
		NEED(kill(sh->pid[1], SIGSTOP) == 0);
		nap(100);
		put(fd, b, sizeof(b));
		nap(50);
		NEED(on_ring(fd));
		NEED(kill(sh->pid[1], SIGCONT) == 0);
		get(fd, b, sizeof(b));
	}
}

static void stopped_b(void)
{
	int fd = ring_pair(false), i;
	char b[1000];

	atomic_store(&sh->pid[1], getpid());
	say(0);
	for (i = 0; i < 5; i++) {
		get(fd, b, sizeof(b));
		put(fd, b, sizeof(b));
	}
}

/* ---- idle */

static uint64_t cpu_us(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000 +
		(uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static int fds[MANY];

static void many(bool server)
{
	int i;

	for (i = 0; i < MANY; i++)
		fds[i] = ring_pair(server);
}

static void *reader(void *arg)
{
	char b;

	recv(*(int *)arg, &b, 1, 0);
	return NULL;
}

static void idle_a(void)
{
	static struct pollfd p[MANY];
	struct epoll_event ev;
	pthread_t t[MANY];
	uint64_t c;
	int i, ep = epoll_create1(0);

	many(true);
	nap(300);
	if (!strcmp(way, "recv"))
		for (i = 0; i < MANY; i++)
			pthread_create(&t[i], NULL, reader, &fds[i]);
	for (i = 0; i < MANY; i++) {
		p[i] = (struct pollfd){ fds[i], POLLIN, 0 };
		ev = (struct epoll_event){ .events = EPOLLIN, .data.fd = fds[i] };
		if (!strcmp(way, "epoll-et"))
			ev.events |= EPOLLET | EPOLLOUT;
		epoll_ctl(ep, EPOLL_CTL_ADD, fds[i], &ev);
		if (!strcmp(way, "epoll-et"))
			NEED(epoll_wait(ep, &ev, 1, 1000) == 1);
	}
	say(0);
	for (i = 0; i < 2; i++) {
		/* the first sleep settles */
		c = cpu_us();
		if (!strcmp(way, "poll"))
			NEED(poll(p, MANY, i ? 2000 : 700) == 0);
		else if (!strcmp(way, "recv"))
			nap(i ? 2000 : 700);
		else
			NEED(epoll_wait(ep, &ev, 1, i ? 2000 : 700) == 0);
		c = cpu_us() - c;
	}
	fprintf(stderr, "# idle in %s: %llu us of CPU in 2 s\n", way, (unsigned long long)c);
	if (c > 10000)
		fail("%llu us of CPU in 2 s", (unsigned long long)c);
	/* and it still wakes */
	say(1);
	if (!strcmp(way, "recv"))
		pthread_join(t[MANY / 2], NULL);
	else if (!strcmp(way, "poll"))
		NEED(poll(p, MANY, 2000) == 1 && p[MANY / 2].revents);
	else
		NEED(epoll_wait(ep, &ev, 1, 2000) == 1 && ev.data.fd == fds[MANY / 2]);
	say(2);
}

static void idle_b(void)
{
	many(false);
	await(1);
	put(fds[MANY / 2], "x", 1);
	await(2);
}

/* ---- fork */

static void echo_until_end(int fd)
{
	char b[4096];
	ssize_t r;

	while ((r = recv(fd, b, sizeof(b), 0)) > 0)
		put(fd, b, (size_t)r);
	if (r < 0)
		fail("echo: recv");
}

static void echo_b(void)
{
	echo_until_end(ring_pair(false));
}

static void wait_ok(pid_t pid)
{
	int st;

	NEED(pid > 0 && waitpid(pid, &st, 0) == pid);
	if (!WIFEXITED(st) || WEXITSTATUS(st))
		fail("a child ended with %x", (unsigned)st);
}

static void fork_child_uses(void)
{
	int fd = ring_pair(true);
	pid_t pid = fork();

	if (!pid) {
		pingpong(fd, true, 200);
		_exit(0);
	}
	wait_ok(pid);
	pingpong(fd, true, 200);	/* and so does the parent, after it */
}

static void fork_parent_closes(void)
{
	int fd = ring_pair(true);
	pid_t pid = fork();

	if (!pid) {
		nap(50);
		pingpong(fd, true, 200);
		_exit(0);
	}
	close(fd);
	wait_ok(pid);
}

static void fork_turns(void)
{
	int fd = ring_pair(true), i, p[2], q[2];
	char c;
	pid_t pid;

	NEED(pipe(p) == 0 && pipe(q) == 0);
	pid = fork();
	if (!pid) {
		for (i = 0; i < 50; i++) {
			NEED(read(p[0], &c, 1) == 1);
			pingpong(fd, true, 5);
			NEED(write(q[1], "x", 1) == 1);
		}
		_exit(0);
	}
	for (i = 0; i < 50; i++) {
		NEED(write(p[1], "x", 1) == 1);
		NEED(read(q[0], &c, 1) == 1);
		pingpong(fd, true, 5);
	}
	wait_ok(pid);
	pingpong(fd, true, 50);
}

static void fork_grandchild(void)
{
	int fd = ring_pair(true);
	pid_t pid = fork(), g;

	if (!pid) {
		g = fork();
		if (!g) {
			close(open("/dev/null", O_RDONLY));
			pingpong(fd, true, 200);
			_exit(0);
		}
		close(fd);
		wait_ok(g);
		_exit(0);
	}
	wait_ok(pid);
	pingpong(fd, true, 100);
}

/* The child sleeps in recv on the ring when the peer is killed: it has no helper. */
static void fork_kill_a(void)
{
	int fd = ring_pair(true);
	pid_t pid = fork();
	char b;

	if (!pid) {
		ssize_t r = recv(fd, &b, 1, 0);

		NEED(r == 0 || (r < 0 && errno == ECONNRESET));
		_exit((uint32_t)ms() - (uint32_t)sh->pid[1] > 1500);
	}
	close(fd);
	say(0);
	wait_ok(pid);
}

/* ---- foreign programs */

static void echo_check(int fd, int rounds)
{
	pingpong(fd, true, rounds);
	shutdown(fd, SHUT_WR);
	{
		char b;

		NEED(recv(fd, &b, 1, 0) == 0);
	}
}

static void peer_of_cat(void)
{
	echo_check(ring_pair(false), 300);
}

static void exec_cat(void)
{
	int fd = ring_pair(true);

	dup2(fd, 0);
	dup2(fd, 1);
	if (fd > 1)
		close(fd);
	execl("/bin/cat", "cat", (char *)NULL);
	fail("exec");
}

static void fork_exec_cat(void)
{
	int fd = ring_pair(true);
	pid_t pid = fork();

	if (!pid) {
		dup2(fd, 0);
		dup2(fd, 1);
		execl("/bin/cat", "cat", (char *)NULL);
		_exit(9);
	}
	close(fd);
	wait_ok(pid);
}

static void vfork_exec_cat(void)
{
	int fd = ring_pair(true);
	pid_t pid = vfork();

	if (!pid) {
		dup2(fd, 0);
		dup2(fd, 1);
		execl("/bin/cat", "cat", (char *)NULL);
		_exit(9);
	}
	close(fd);
	wait_ok(pid);
}

static void spawn_cat(void)
{
	int fd = ring_pair(true);
	char *argv[] = { (char *)(uintptr_t)"cat", NULL };
	posix_spawn_file_actions_t fa;
	pid_t pid;

	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, fd, 0);
	posix_spawn_file_actions_adddup2(&fa, fd, 1);
	NEED(posix_spawn(&pid, "/bin/cat", &fa, NULL, argv, NULL) == 0);
	close(fd);
	wait_ok(pid);
}

static void popen_cat(void)
{
	int fd = ring_pair(true);
	char cmd[64];
	FILE *f;

	snprintf(cmd, sizeof(cmd), "cat <&%d >&%d", fd, fd);
	f = popen(cmd, "r");
	NEED(f);
	close(fd);
	NEED(pclose(f) == 0);
}

static void system_then_go_on(void)
{
	int fd = ring_pair(true);
	char cmd[64];

	snprintf(cmd, sizeof(cmd), "head -c 300 <&%d >/dev/null; printf '%%300s' '' >&%d", fd, fd);
	NEED(system(cmd) == 0);
	pingpong(fd, true, 100);
}

static void peer_of_system(void)
{
	int fd = ring_pair(false);
	char b[300] = { 0 };

	put(fd, b, 300);
	get(fd, b, 300);
	pingpong(fd, false, 100);
}

/* ---- SCM_RIGHTS */

static int give_fd(int s, int fd)
{
	char c = 'x', cb[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec v = { &c, 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = cb, .msg_controllen = sizeof(cb) };
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);

	h->cmsg_level = SOL_SOCKET;
	h->cmsg_type = SCM_RIGHTS;
	h->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(h), &fd, sizeof(int));
	return sendmsg(s, &m, 0) == 1 ? 0 : -1;
}

static int take_fd(int s)
{
	char c, cb[CMSG_SPACE(sizeof(int))];
	struct iovec v = { &c, 1 };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = cb, .msg_controllen = sizeof(cb) };
	int fd;

	if (recvmsg(s, &m, 0) != 1 || !CMSG_FIRSTHDR(&m))
		return -1;
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(int));
	return fd;
}

static void rights(void)
{
	int s[2], fd;
	pid_t pid;

	NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
	pid = fork();		/* a stranger to the connection */
	if (!pid) {
		fd = take_fd(s[1]);
		NEED(fd >= 0);
		pingpong(fd, true, 200);
		_exit(0);
	}
	fd = ring_pair(true);
	pingpong(fd, true, 20);
	NEED(give_fd(s[0], fd) == 0);
	close(fd);
	wait_ok(pid);
}

/* ---- ends */

static void unread_a(void)
{
	int fd = ring_pair(true);
	char b[100];
	ssize_t r;

	put(fd, b, 100);
	say(0);
	await(1);
	r = recv(fd, b, 1, 0);
	if (!(r < 0 && errno == ECONNRESET))
		fail("recv gave %zd after a close with unread bytes", r);
}

static void unread_b(void)
{
	int fd = ring_pair(false);

	await(0);
	nap(20);
	close(fd);
	say(1);
	nap(100);
}

static void half_a(void)
{
	int fd = ring_pair(true), i;
	char b[1000];

	memset(b, 7, sizeof(b));
	NEED(shutdown(fd, SHUT_WR) == 0);
	for (i = 0; i < 500; i++) {
		get(fd, b, sizeof(b));
		NEED(b[0] == 9 && b[999] == 9);
	}
	NEED(recv(fd, b, 1, 0) == 0);
}

static void half_b(void)
{
	int fd = ring_pair(false), i;
	char b[1000];

	NEED(recv(fd, b, 1, 0) == 0);
	memset(b, 9, sizeof(b));
	for (i = 0; i < 500; i++)
		put(fd, b, sizeof(b));
	NEED(close(fd) == 0);
}

static void big_then_close_a(void)
{
	int fd = ring_pair(true);
	static char b[1 << 20];

	memset(b, 5, sizeof(b));
	put(fd, b, sizeof(b));
	close(fd);
}

static void slow_reader_b(void)
{
	int fd = ring_pair(false);
	static char b[1 << 20];
	size_t i;

	nap(100);
	get(fd, b, sizeof(b));
	for (i = 0; i < sizeof(b); i++)
		NEED(b[i] == 5);
	NEED(recv(fd, b, 1, 0) == 0);
}

/* Breaks, one after the other, of a ring that is never empty: what was read is kept by nobody. */
#define LAG_MIB 40

static void lag_a(void)
{
	int fd = ring_pair(true), i;
	static char b[1 << 20];

	for (i = 0; i < LAG_MIB; i++) {
		memset(b, i, sizeof(b));
		put(fd, b, sizeof(b));
	}
	NEED(shutdown(fd, SHUT_WR) == 0 && recv(fd, b, 1, 0) == 0);
}

static void lag_b(void)
{
	int fd = ring_pair(false), i, k, step = 64 << 10;
	static char b[64 << 10];

	nap(100);		/* full, and as large as it gets */
	for (i = 0; i < LAG_MIB << 20; i += step) {
		get(fd, b, sizeof(b));
		for (k = 0; k < step; k++)
			NEED(b[k] == (char)(i >> 20));
		if (i < (LAG_MIB - 8) << 20)
			vs_break(fdtab_vsock(fd), ECONNRESET, "test");
	}
	NEED(recv(fd, b, 1, 0) == 0);
}

/* A doorbell that comes when the peer has closed is answered by a reset; to the program it is an end all the same. */
static void late_bell_a(void)
{
	int fd = ring_pair(true), ep = epoll_create1(0);
	struct vsock *v = fdtab_vsock(fd);
	struct epoll_event ev = { .events = EPOLLIN | EPOLLRDHUP }, got;
	struct pollfd p = { fd, POLLIN | POLLRDHUP, 0 };
	char b[8];

	NEED(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) == 0);
	await(0);
	nap(20);
	if (!strcmp(way, "end")) {
		NEED(vring_bell(v, fd));
		nap(20);
		NEED(epoll_wait(ep, &got, 1, 1000) == 1);
		if (got.events != (EPOLLIN | EPOLLRDHUP))
			fail("epoll says %x", got.events);
		NEED(poll(&p, 1, 1000) == 1);
		if (p.revents != (POLLIN | POLLRDHUP))
			fail("poll says %x", p.revents);
		NEED(recv(fd, b, 4, 0) == 4 && recv(fd, b, 1, 0) == 0);
	} else {
		NEED(recv(fd, b, 4, 0) == 4 && recv(fd, b, 1, 0) < 0 && errno == ECONNRESET);
	}
}

static void late_bell_b(void)
{
	struct linger now = { .l_onoff = 1 };
	int fd = ring_pair(false);

	put(fd, "abcd", 4);
	if (!strcmp(way, "reset"))
		NEED(setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now)) == 0);
	NEED(close(fd) == 0);
	say(0);
	nap(100);
}

/* A receive that waits for all of it has some when the link is left; then the stream ends. */
static void all_a(void)
{
	int fd = ring_pair(true), i;
	char b[1000];
	ssize_t r;

	put(fd, b, 1);		/* unread over there: its close is then a reset */
	say(0);
	for (i = 0; i < 2; i++) {
		r = recv(fd, b, sizeof(b), MSG_WAITALL);
		if (r != (i ? 0 : 300))
			break;
	}
	if (!strcmp(way, "end") ? i < 2 : !(i == 1 && r < 0 && errno == ECONNRESET))
		fail("receive %d gave %zd", i + 1, r);
}

static void all_b(void)
{
	int fd = ring_pair(false);
	char b[300] = { 0 };

	await(0);
	put(fd, b, sizeof(b));
	nap(50);		/* it has them, for all we know */
	NEED(vring_leave(fdtab_vsock(fd), false));
	nap(50);
	if (!strcmp(way, "end"))
		NEED(shutdown(fd, SHUT_WR) == 0 && recv(fd, b, 2, 0) == 1 && recv(fd, b, 1, 0) == 0);
	else
		close(fd);
}

/* One receiver and one sender, each in its own poll: neither takes the other's doorbell. */
static void *poll_in(void *arg)
{
	int fd = *(int *)arg;
	static char b[65536];
	ssize_t r = 1;

	while (r) {
		struct pollfd p = { fd, POLLIN, 0 };

		r = recv(fd, b, 1 + (size_t)rand() % 3000, MSG_DONTWAIT);
		if (r < 0 && errno == EAGAIN)
			NEED(poll(&p, 1, 4000) == 1);
		else
			NEED(r >= 0);
	}
	return NULL;
}

static void both_ways(void)
{
	bool server = getpid() == sh->pid[0];
	int fd = ring_pair(server), i, ep = epoll_create1(0);
	struct epoll_event ev = { .events = EPOLLOUT | EPOLLONESHOT };
	static char b[100000];
	pthread_t t;

	NEED(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) == 0);
	pthread_create(&t, NULL, poll_in, &fd);
	for (i = 0; i < 20000; i++) {
		struct pollfd p = { fd, POLLOUT, 0 };

		if (send(fd, b, 1 + (size_t)rand() % sizeof(b), MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
			continue;
		NEED(errno == EAGAIN);
		if (!strcmp(way, "poll")) {
			NEED(poll(&p, 1, 4000) == 1);
		} else {
			ev.events = EPOLLOUT | EPOLLONESHOT;
			NEED(epoll_ctl(ep, EPOLL_CTL_MOD, fd, &ev) == 0);
			NEED(epoll_wait(ep, &ev, 1, 4000) == 1);
		}
	}
	NEED(shutdown(fd, SHUT_WR) == 0);
	pthread_join(t, NULL);
}

/* ---- readiness over the move */

/* Whoever was told of bytes finds some, as with the kernel: wrk takes EAGAIN for an error. */
static char told(int ep, int fd)
{
	struct pollfd p = { fd, POLLIN, 0 };
	struct epoll_event ev;
	fd_set s;
	char c;

	if (!strcmp(way, "poll")) {
		NEED(poll(&p, 1, 4000) == 1 && p.revents & POLLIN);
	} else if (!strcmp(way, "select")) {
		FD_ZERO(&s);
		FD_SET(fd, &s);
		NEED(select(fd + 1, &s, NULL, NULL, &(struct timeval){ 4, 0 }) == 1);
	} else {
		int n = epoll_wait(ep, &ev, 1, 4000);

		if (n != 1 || !(ev.events & EPOLLIN))
			fail("epoll_wait gave %d, events %x", n, ev.events);
	}
	NEED(recv(fd, &c, 1, MSG_DONTWAIT) == 1);
	return c;
}

static void told_over_moves(bool server)
{
	struct epoll_event ev = { .events = EPOLLIN | (!strcmp(way, "epoll-et") ? EPOLLET : 0) };
	uint64_t end = ms() + 6000;
	int i, fd, ep = epoll_create1(0);
	char mine, theirs;

	for (i = 0; i < 60 && ms() < end; i++) {
		fd = one(server);
		NEED(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) == 0);
		for (mine = theirs = 0; !(mine && theirs);) {
			mine = on_ring(fd);
			if (!server)
				put(fd, &mine, 1);
			theirs = told(ep, fd);
			if (server)
				put(fd, &mine, 1);
		}
		close(fd);
	}
	NEED(i > 5);
}

static void told_a(void)
{
	told_over_moves(true);
	close(listener);
}

static void told_b(void)
{
	told_over_moves(false);
}

static const struct {
	const char *name;
	void (*a)(void), (*b)(void);
	const char *way;
	bool b_dies;
} cases[] = {
	{ "kill -9 of the peer, asleep in recv", killed_a, killed_b, "recv", true },
	{ "kill -9 of the peer, asleep in poll", killed_a, killed_b, "poll", true },
	{ "kill -9 of the peer, asleep in select", killed_a, killed_b, "select", true },
	{ "kill -9 of the peer, asleep in epoll", killed_a, killed_b, "epoll", true },
	{ "kill -9 of the peer, asleep in epoll, ET", killed_a, killed_b, "epoll-et", true },
	{ "kill -9 of the peer, asleep in epoll, ONESHOT", killed_a, killed_b, "epoll-oneshot", true },
	{ "kill -9 of the peer, asleep in epoll, RDHUP only", killed_a, killed_b, "epoll-rdhup", true },
	{ "kill -9 of the peer, asleep in send", killed_a, killed_b, "send", true },
	{ "kill -9 of the peer, asleep in poll for room", killed_a, killed_b, "poll-out", true },
	{ "SIGSTOP and SIGCONT of the peer", stopped_a, stopped_b, NULL, false },
	{ "idle in epoll, 100 connections", idle_a, idle_b, "epoll", false },
	{ "idle in epoll ET IN|OUT, 100 connections", idle_a, idle_b, "epoll-et", false },
	{ "idle in poll, 100 connections", idle_a, idle_b, "poll", false },
	{ "idle in recv, 100 connections", idle_a, idle_b, "recv", false },
	{ "fork: the child uses it, then the parent", fork_child_uses, echo_b, NULL, false },
	{ "fork: the parent closes, the child goes on", fork_parent_closes, echo_b, NULL, false },
	{ "fork: in turns", fork_turns, echo_b, NULL, false },
	{ "fork: child of a child", fork_grandchild, echo_b, NULL, false },
	{ "fork: the peer is killed, the child asleep in recv", fork_kill_a, killed_b, NULL, true },
	{ "exec of cat over it", exec_cat, peer_of_cat, NULL, false },
	{ "fork and exec of cat", fork_exec_cat, peer_of_cat, NULL, false },
	{ "vfork and exec of cat", vfork_exec_cat, peer_of_cat, NULL, false },
	{ "posix_spawn of cat", spawn_cat, peer_of_cat, NULL, false },
	{ "popen of cat", popen_cat, peer_of_cat, NULL, false },
	{ "system() with it, and on", system_then_go_on, peer_of_system, NULL, false },
	{ "SCM_RIGHTS to a stranger", rights, echo_b, NULL, false },
	{ "close with unread bytes is a reset", unread_a, unread_b, NULL, false },
	{ "half-close", half_a, half_b, NULL, false },
	{ "close, and a doorbell behind it", late_bell_a, late_bell_b, "end", false },
	{ "close that means a reset, all was read", late_bell_a, late_bell_b, "reset", false },
	{ "receiver that lags behind, breaks", lag_a, lag_b, NULL, false },
	{ "receiver of all there is to come, a move, the end", all_a, all_b, "end", false },
	{ "receiver of all there is to come, a move, a reset", all_a, all_b, "reset", false },
	{ "close behind a MiB for a slow reader", big_then_close_a, slow_reader_b, NULL, false },
	{ "told of bytes, and there are some: epoll", told_a, told_b, "epoll", false },
	{ "told of bytes, and there are some: epoll ET", told_a, told_b, "epoll-et", false },
	{ "told of bytes, and there are some: poll", told_a, told_b, "poll", false },
	{ "told of bytes, and there are some: select", told_a, told_b, "select", false },
	{ "receiver in poll, sender in poll", both_ways, both_ways, "poll", false },
	{ "receiver in poll, sender in epoll", both_ways, both_ways, "epoll", false },
};

static int bind_any(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t l = sizeof(a);

	listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0 || bind(listener, (void *)&a, sizeof(a)) < 0 || listen(listener, 16) < 0 ||
	    getsockname(listener, (void *)&a, &l) < 0)
		return -1;
	return ntohs(a.sin_port);
}

/* Two processes that know nothing of each other; true: both well. */
static bool run(unsigned int i, uint64_t limit)
{
	uint64_t end = ms() + limit;
	int st[2] = { -1, -1 }, left = 2, k;
	pid_t pid[2];

	memset(sh, 0, sizeof(*sh));
	way = cases[i].way;
	for (k = 0; k < 2; k++) {
		pid[k] = fork();
		if (pid[k] == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			setpgid(0, 0);
			if (k == 0) {
				int p = bind_any();

				NEED(p > 0);
				atomic_store(&sh->pid[0], getpid());
				atomic_store(&sh->port, (uint16_t)p);
				cases[i].a();
			} else {
				while (!atomic_load(&sh->port))
					nap(1);
				cases[i].b();
			}
			exit(0);
		}
	}
	while (left && ms() < end) {
		for (k = 0; k < 2; k++)
			if (pid[k] && waitpid(pid[k], &st[k], WNOHANG) == pid[k]) {
				kill(-pid[k], SIGKILL);
				pid[k] = 0;
				left--;
			}
		nap(2);
	}
	for (k = 0; k < 2; k++)
		if (pid[k]) {
			if (!sh->why[0])
				snprintf(sh->why, sizeof(sh->why), "%s hangs", k ? "B" : "A");
			kill(-pid[k], SIGKILL);
			waitpid(pid[k], NULL, 0);
		}
	if (left)
		return false;
	return st[0] == 0 && (cases[i].b_dies || st[1] == 0);
}

int main(int argc, char **argv)
{
	unsigned int i, n = 0, bad = 0;

	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (i = 0; i < ARRAY_SIZE(cases); i++)
		n += argc < 2 || strstr(cases[i].name, argv[1]);
	printf("1..%u\n", n);
	for (n = i = 0; i < ARRAY_SIZE(cases); i++) {
		uint64_t t = ms();
		bool ok;

		if (argc >= 2 && !strstr(cases[i].name, argv[1]))
			continue;
		ok = run(i, 20000);
		bad += !ok;
		printf("%s %u - %s (%.1f s)\n", ok ? "ok" : "not ok", ++n, cases[i].name, (double)(ms() - t) / 1000);
		if (!ok)
			printf("# %s\n", sh->why);
	}
	return bad ? 1 : 0;
}
