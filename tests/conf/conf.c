/* The harness's helpers: assertions, sockets, facts to wait for. */
#include "conf.h"
#include "conf_run.h"
#include "peer_loop.h"

#include <linux/sockios.h>
#include <stdarg.h>

enum conf_mode conf_mode;
struct conf_case *conf_cases;
struct conf_result *conf_result;
volatile sig_atomic_t signals_seen;

void conf_register(struct conf_case *c)
{
	struct conf_case **p = &conf_cases;

	while (*p)
		p = &(*p)->next;
	*p = c;
}

static void report(enum conf_outcome o, const char *file, int line, const char *fmt, va_list ap)
{
	const char *base = strrchr(file, '/');
	int n = 0;

	/* The first failure counts: a child's says more than its parent's. */
	if (conf_result->outcome == FAILED)
		_exit(1);
	conf_result->outcome = o;
	if (line)
		n = snprintf(conf_result->text, sizeof conf_result->text, "%s:%d ",
			     base ? base + 1 : file, line);
	vsnprintf(conf_result->text + n, sizeof conf_result->text - (size_t)n, fmt, ap);
	_exit(o == FAILED);
}

void conf_fail(const char *file, int line, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	report(FAILED, file, line, fmt, ap);
	va_end(ap);
	_exit(1);
}

void conf_skip(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	report(SKIPPED, "", 0, fmt, ap);
	va_end(ap);
	_exit(0);
}

void conf_true(int v, const char *expr, const char *file, int line)
{
	int e = errno;

	if (!v)
		conf_fail(file, line, "%s [errno %d %s]", expr, e, strerror(e));
}

void conf_eq(long long a, long long b, const char *expr, const char *file, int line)
{
	int e = errno;

	if (a != b)
		conf_fail(file, line, "%s: %lld, not %lld [errno %d %s]", expr, a, b, e,
			  strerror(e));
}

long conf_ok(long long r, const char *expr, const char *file, int line)
{
	int e = errno;

	if (r < 0)
		conf_fail(file, line, "%s: %lld [errno %d %s]", expr, r, e, strerror(e));
	return (long)r;
}

void conf_fails(long long r, int want, const char *expr, const char *file, int line)
{
	int e = errno;

	if (r != -1)
		conf_fail(file, line, "%s: %lld, not -1 %s", expr, r, strerror(want));
	if (e != want)
		conf_fail(file, line, "%s: errno %d %s, not %d %s", expr, e, strerror(e), want,
			  strerror(want));
}

void fill(void *buf, size_t n, uint64_t off)
{
	unsigned char *b = buf;

	for (size_t i = 0; i < n; i++)
		b[i] = pattern(off + i);
}

void conf_check_pattern(const void *buf, size_t n, uint64_t off, const char *file, int line)
{
	const unsigned char *b = buf;

	for (size_t i = 0; i < n; i++)
		if (b[i] != pattern(off + i))
			conf_fail(file, line, "wrong byte at stream offset %llu: %02x, not %02x",
				  (unsigned long long)(off + i), b[i], pattern(off + i));
}

void conf_put(int s, size_t n, uint64_t off, const char *file, int line)
{
	unsigned char b[16384];

	while (n) {
		size_t k = n < sizeof b ? n : sizeof b;

		fill(b, k, off);
		ssize_t r = send(s, b, k, MSG_NOSIGNAL);
		if (r <= 0)
			conf_fail(file, line, "send(%d, %zu): %zd [errno %d %s]", s, k, r, errno,
				  strerror(errno));
		off += (uint64_t)r;
		n -= (size_t)r;
	}
}

void conf_get(int s, size_t n, uint64_t off, const char *file, int line)
{
	unsigned char b[16384];

	while (n) {
		ssize_t r = recv(s, b, n < sizeof b ? n : sizeof b, 0);

		if (r <= 0)
			conf_fail(file, line, "recv(%d), %zu bytes to come: %zd [errno %d %s]", s, n,
				  r, errno, strerror(errno));
		conf_check_pattern(b, (size_t)r, off, file, line);
		off += (uint64_t)r;
		n -= (size_t)r;
	}
}

void conf_eof(int s, const char *file, int line)
{
	char b[64];
	ssize_t r = recv(s, b, sizeof b, 0);

	if (r)
		conf_fail(file, line, "recv(%d): %zd, not end of stream [errno %d %s]", s, r, errno,
			  strerror(errno));
}

uint64_t fnv(uint64_t h, const void *buf, size_t n)
{
	const unsigned char *b = buf;

	for (size_t i = 0; i < n; i++)
		h = (h ^ b[i]) * 1099511628211u;
	return h;
}

int tcp_socket(void)
{
	return (int)OK(socket(AF_INET, SOCK_STREAM, 0));
}

int listener(struct sockaddr_in *a)
{
	int l = tcp_socket();
	socklen_t n = sizeof *a;

	memset(a, 0, sizeof *a);
	a->sin_family = AF_INET;
	a->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	OK(bind(l, (void *)a, sizeof *a));
	OK(listen(l, 64));
	OK(getsockname(l, (void *)a, &n));
	return l;
}

int dial(const struct sockaddr_in *a)
{
	int s = tcp_socket();

	OK(connect(s, (const void *)a, sizeof *a));
	return s;
}

/* Both halves of warm_half() in one thread. */
void warm(int a, int b)
{
	int one = 1;

	OK(setsockopt(a, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one));
	OK(setsockopt(b, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one));
	/* Without the remote program both ends are ours: mode plainpeer tests them cold. */
	if (conf_mode == PLAINPEER)
		return;
	for (int i = 0; i < 64; i++) {
		int x = i < 32 ? a : b, y = i < 32 ? b : a;
		char buf[16] = { 0 };

		if (i == 32)
			usleep(5000);
		EQ(send(x, buf, 16, MSG_NOSIGNAL), 16);
		EQ(recv(y, buf, 16, MSG_WAITALL), 16);
		EQ(send(y, buf, 16, MSG_NOSIGNAL), 16);
		EQ(recv(x, buf, 16, MSG_WAITALL), 16);
	}
	for (int i = 0; (want_ring() && !(is_ring(a) && is_ring(b))) ||
	     (want_codec() && !(is_coded(a) && is_coded(b))); i++) {
		char c = 0;

		CHECK(i < 2000);
		usleep(500);
		EQ(send(a, &c, 1, MSG_NOSIGNAL), 1);
		EQ(recv(b, &c, 1, 0), 1);
		EQ(send(b, &c, 1, MSG_NOSIGNAL), 1);
		EQ(recv(a, &c, 1, 0), 1);
	}
}

void pair_raw(int fd[2])
{
	struct sockaddr_in a;
	int l = listener(&a);

	fd[0] = dial(&a);
	fd[1] = (int)OK(accept(l, NULL, NULL));
	OK(close(l));
}

void pair(int fd[2])
{
	pair_raw(fd);
	warm(fd[0], fd[1]);
}

int have_v6(void)
{
	struct sockaddr_in6 a = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	int s = socket(AF_INET6, SOCK_STREAM, 0);
	int ok = s >= 0 && !bind(s, (void *)&a, sizeof a);

	if (s >= 0)
		close(s);
	return ok;
}

void pair_v6(int fd[2])
{
	struct sockaddr_in6 a = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	socklen_t n = sizeof a;
	int l = (int)OK(socket(AF_INET6, SOCK_STREAM, 0));

	OK(bind(l, (void *)&a, sizeof a));
	OK(listen(l, 1));
	OK(getsockname(l, (void *)&a, &n));
	fd[0] = (int)OK(socket(AF_INET6, SOCK_STREAM, 0));
	OK(connect(fd[0], (void *)&a, sizeof a));
	fd[1] = (int)OK(accept(l, NULL, NULL));
	OK(close(l));
	warm(fd[0], fd[1]);
}

/* A pair made by a non-blocking connect; the sockets stay non-blocking. */
void pair_nb(int fd[2])
{
	struct sockaddr_in a;
	int l = listener(&a);

	fd[0] = (int)OK(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
	if (connect(fd[0], (void *)&a, sizeof a))
		EQ(errno, EINPROGRESS);
	fd[1] = (int)OK(accept(l, NULL, NULL));
	CHECK(wait_events(fd[0], POLLOUT) & POLLOUT);
	EQ(int_opt(fd[0], SOL_SOCKET, SO_ERROR), 0);
	OK(close(l));
	set_nonblock(fd[0], 0);
	warm(fd[0], fd[1]);
	set_nonblock(fd[0], 1);
	set_nonblock(fd[1], 1);
}

int wait_events(int s, int events)
{
	struct pollfd p = { .fd = s, .events = (short)events };

	EQ(poll(&p, 1, 5000), 1);
	return p.revents;
}

void wait_readable(int s)
{
	CHECK(wait_events(s, POLLIN) & POLLIN);
}

int unread(int s)
{
	int n = -1;

	OK(ioctl(s, FIONREAD, &n));
	return n;
}

void wait_unread(int s, int n)
{
	double t = now();

	while (unread(s) < n && now() - t < 5)
		usleep(200);
	EQ(unread(s), n);
}

void wait_sleeping(pid_t pid, pid_t tid)
{
	peer_sleeping(pid, tid, 2000);
}

void set_nonblock(int s, int on)
{
	int fl = (int)OK(fcntl(s, F_GETFL));

	OK(fcntl(s, F_SETFL, on ? fl | O_NONBLOCK : fl & ~O_NONBLOCK));
}

int int_opt(int s, int level, int opt)
{
	int v = -1;
	socklen_t n = sizeof v;

	OK(getsockopt(s, level, opt, &v, &n));
	EQ(n, sizeof v);
	return v;
}

int events_now(int s, int events)
{
	struct pollfd p = { .fd = s, .events = (short)events };

	OK(poll(&p, 1, 0));
	return p.revents;
}

/* Sent and not yet acknowledged: an acknowledgement will make room again. */
static int in_flight(int s)
{
	int queued = 0, unsent = 0;

	OK(ioctl(s, SIOCOUTQ, &queued));
	OK(ioctl(s, SIOCOUTQNSD, &unsent));
	return queued != unsent;
}

/*
 * Full is when it stays so: a delayed acknowledgement (40 ms) makes room once
 * more. A probe of the closed window may do so again, 200 ms later: callers
 * that block in a send must stand that.
 */
size_t fill_up(int s, uint64_t off)
{
	static unsigned char b[65536];
	size_t sum = 0;

	for (int tries = 0, quiet = 0; quiet < 3 && tries < 400; tries++) {
		int busy = in_flight(s);

		fill(b, sizeof b, off + sum);
		ssize_t r = send(s, b, sizeof b, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (r > 0) {
			sum += (size_t)r;
			quiet = 0;
			continue;
		}
		EQ(errno, EAGAIN);
		EQ(r, -1);
		quiet = busy ? 0 : quiet + 1;
		usleep(1000);
	}
	return sum;
}

double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Never mapped; through a volatile, for the compiler knows too much. */
void *bad_ptr(void)
{
	static void *volatile p = (void *)16;

	return p;
}

/* n good bytes that end at a page nobody may touch. */
char *guarded(size_t n)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), len = (n + page - 1) / page * page;
	char *p = mmap(NULL, len + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(p != MAP_FAILED);
	OK(mprotect(p + len, page, PROT_NONE));
	return p + len - n;
}

int exit_of(pid_t pid)
{
	int st;

	EQ(waitpid(pid, &st, 0), pid);
	return WIFEXITED(st) ? WEXITSTATUS(st) : 1000 + WTERMSIG(st);
}

static void count_signal(int sig)
{
	(void)sig;
	signals_seen++;
}

void on_signal(int sig, int flags)
{
	struct sigaction sa = { .sa_handler = count_signal, .sa_flags = flags };

	signals_seen = 0;
	OK(sigaction(sig, &sa, NULL));
}
