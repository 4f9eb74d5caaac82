/*
 * roam.h as a program uses it: it knows nothing else of the library.  Each case
 * is two fresh processes with a connection between them, and an end in time.  TAP.
 *
 *	api_cases [substring]
 *	api_cases --watch		prints its events, for api.py, which breaks and freezes
 */
#include <roam.h>

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define OFF 1		/* reason.def: frozen numbers */
#define YOUNG 2
#define LIMIT 20	/* seconds for a case */

static struct shared {
	_Atomic int step[8];
	_Atomic int port;
	char why[2][200];
} *sh;
static int side;

static uint64_t ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void nap(unsigned int us)
{
	struct timespec t = { us / 1000000, (long)(us % 1000000) * 1000 };

	nanosleep(&t, NULL);
}

static void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *f, ...)
{
	int e = errno;
	va_list ap;
	char b[160];

	va_start(ap, f);
	vsnprintf(b, sizeof(b), f, ap);
	va_end(ap);
	snprintf(sh->why[side], sizeof(sh->why[side]), "%s: %s (errno %d)", side ? "server" : "client", b, e);
	_exit(1);
}
#define NEED(x) do { if (!(x)) fail("line %d: %s", __LINE__, #x); } while (0)
#define IS(a, b) do { long long a_ = (long long)(a), b_ = (long long)(b); \
	if (a_ != b_) fail("line %d: %s is %lld, not %lld", __LINE__, #a, a_, b_); } while (0)
#define ERR(x, e) do { errno = 0; IS((x), -1); IS(errno, e); } while (0)
/* A fact that another process or thread makes true. */
#define UNTIL(x) do { uint64_t end_ = ms() + 8000; \
	while (!(x)) { if (ms() > end_) fail("line %d: never: %s", __LINE__, #x); nap(500); } } while (0)

static void say(int i)
{
	atomic_store(&sh->step[i], 1);
}

static void await(int i)
{
	while (!atomic_load(&sh->step[i]))
		nap(200);
}

static int new_listener(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t n = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM, 0);

	NEED(l >= 0 && bind(l, (void *)&a, sizeof(a)) == 0 && listen(l, 16) == 0 &&
	     getsockname(l, (void *)&a, &n) == 0);
	atomic_store(&sh->port, ntohs(a.sin_port));
	return l;
}

static int nodelay(int fd)
{
	int yes = 1;

	NEED(fd >= 0 && setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes)) == 0);
	return fd;
}

static void dial(int fd)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };

	UNTIL(atomic_load(&sh->port));
	a.sin_port = htons((uint16_t)atomic_load(&sh->port));
	NEED(connect(fd, (void *)&a, sizeof(a)) == 0);
	nodelay(fd);
}

static int client(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	dial(fd);
	return fd;
}

static int server(void)
{
	int l = new_listener(), fd = nodelay(accept(l, NULL, NULL));

	close(l);
	return fd;
}

static int one(void)
{
	return side ? server() : client();
}

static void put(int fd, const void *p, size_t n)
{
	IS(send(fd, p, n, MSG_NOSIGNAL), n);
}

static void get(int fd, void *p, size_t n)
{
	size_t k = 0;

	while (k < n) {
		ssize_t r = recv(fd, (char *)p + k, n - k, 0);

		if (r <= 0)
			fail("recv gave %zd after %zu of %zu", r, k, n);
		k += (size_t)r;
	}
}

/* A byte there and back; both ends call it. */
static void round_trip(int fd)
{
	static unsigned char next;
	unsigned char c = ++next, d = 0;

	if (!side)
		put(fd, &c, 1);
	get(fd, &d, 1);
	NEED(d == c);
	if (side)
		put(fd, &d, 1);
}

static struct roam_stats stats(int fd)
{
	struct roam_stats s;

	memset(&s, 0xa5, sizeof(s));
	IS(roam_stats(fd, &s, sizeof(s)), 0);
	IS(s.size, sizeof(s));
	return s;
}

/*
 * Round trips until both ends say the same: two bytes, what I say of it.
 * link: an enum roam_link; both have it then.
 */
static void until_link(int fd, int link)
{
	uint64_t end = ms() + 8000;
	char mine = 0, theirs = 0;

	while (!(mine && theirs)) {
		if (ms() > end)
			fail("no link %d, it is %d, reason %s", link, stats(fd).link, roam_reason_word(roam_reason(fd)));
		mine = stats(fd).link == link;
		if (!side)
			put(fd, &mine, 1);
		get(fd, &theirs, 1);
		if (side)
			put(fd, &mine, 1);
		/* An end that finds somebody between the kernel and its count five times stays plain: leave it room. */
		nap(stats(fd).link == ROAM_LINK_PLAIN && !side ? 2000 : 100);
	}
}

static struct roam_event next_event(int efd)
{
	struct roam_event e;
	struct pollfd p = { efd, POLLIN, 0 };

	if (poll(&p, 1, 8000) != 1 || roam_event_read(efd, &e, sizeof(e)) != 1)
		fail("no event");
	IS(e.size, sizeof(e));
	NEED(e.time_ns / 1000000 <= ms() && e.time_ns / 1000000 + 20000 > ms());
	return e;
}

/* The next one must be this. */
static struct roam_event expect(int efd, uint32_t kind, int fd)
{
	struct roam_event e = next_event(efd);

	IS(e.kind, kind);
	IS(e.fd, fd);
	return e;
}

static bool silent(int efd)
{
	struct roam_event e;

	return roam_event_read(efd, &e, sizeof(e)) == 0;
}

/* ---- the cases: both sides run them */

static void not_ours(void)
{
	struct roam_stats s;
	struct roam_event e;
	uint8_t gid[16];
	int p[2], u, l, i, fd;

	IS(roam_version(), ROAM_API_VERSION);
	NEED(roam_linked());
	NEED(!strcmp(roam_reason_word(YOUNG), "young") && !strcmp(roam_reason_word(9999), "?"));
	NEED(roam_reason_text(OFF)[0] && roam_reason_text(-1)[0]);
	NEED(pipe(p) == 0);
	u = socket(AF_INET, SOCK_DGRAM, 0);
	l = side ? -1 : new_listener();
	for (i = 0; i < 3; i++) {
		int why = i == 2 ? EBADF : ENOTSOCK;

		fd = i == 0 ? p[0] : i == 1 ? u : 999;
		ERR(roam_gid(fd, gid), why);
		ERR(roam_reason(fd), why);
		ERR(roam_stats(fd, &s, sizeof(s)), why);
		ERR(roam_policy(fd, ROAM_POLICY_RING, 0), why);
		ERR(roam_policy_get(fd, ROAM_POLICY_RING), why);
	}
	ERR(roam_stats(-1, &s, sizeof(s)), EBADF);
	ERR(roam_event_read(p[0], &e, sizeof(e)), ENOTSOCK);
	if (side)
		return;
	ERR(roam_reason(l), ENOTCONN);
	ERR(roam_stats(l, &s, sizeof(s)), ENOTCONN);
	ERR(roam_gid(l, gid), ENODATA);
	ERR(roam_event_read(l, &e, sizeof(e)), EINVAL);
	ERR(roam_policy(l, 0, 1), EINVAL);
	ERR(roam_policy(l, ROAM_POLICY_THICK + 1, 1), EINVAL);
	ERR(roam_policy(l, ROAM_POLICY_RING, 2), EINVAL);
	ERR(roam_policy(l, ROAM_POLICY_RING, -1), EINVAL);
	for (i = 0; i < 2; i++) {
		ERR(roam_policy(l, ROAM_POLICY_THICK, i), ENOTSUP);
	}
	ERR(roam_policy_get(l, ROAM_POLICY_THICK), ENOTSUP);
	IS(roam_policy_get(l, ROAM_POLICY_CODEC), 1);
	IS(roam_policy_get(l, ROAM_POLICY_PERSISTENT), 1);
	IS(roam_policy_get(l, ROAM_POLICY_RING), 1);
	ERR(roam_stats(l, &s, sizeof(s) - 8), EINVAL);
	ERR(roam_event_read(p[0], &e, sizeof(e) - 8), EINVAL);
	ERR(roam_set("ROAM_LINK", "tcp"), EBUSY);
}

static void young(void)
{
	int fd = one();
	struct roam_stats s;
	uint8_t gid[16];
	char b[3000] = "";

	ERR(roam_gid(fd, gid), ENODATA);
	IS(roam_reason(fd), YOUNG);
	if (!side) {
		put(fd, b, 3000);
		get(fd, b, 7);
	} else {
		get(fd, b, 1000);
		UNTIL(stats(fd).unread == 2000);
		get(fd, b, 2000);
		put(fd, b, 7);
	}
	s = stats(fd);
	IS(s.link, ROAM_LINK_PLAIN);
	IS(s.reason, YOUNG);
	IS(s.acceptor, side);
	IS(s.sent, side ? 7 : 3000);
	IS(s.received, side ? 3000 : 7);
	IS(s.epoch, 0);
	IS(s.age_ns, 0);
	UNTIL(stats(fd).delivered == (side ? 7u : 3000u));
	say(side);
	await(!side);
}

static void persistent(void)
{
	int efd = roam_events(), fd = one(), ep = epoll_create1(0), flags = fcntl(efd, F_GETFL, 0);
	struct epoll_event ev = { .events = EPOLLIN };
	struct roam_stats s, t;
	struct roam_event e;
	uint8_t gid[16], theirs[16];
	char b[4096] = "";

	NEED(efd >= 0 && flags & O_NONBLOCK && fcntl(efd, F_GETFD, 0) == FD_CLOEXEC);
	NEED(silent(efd));
	NEED(epoll_ctl(ep, EPOLL_CTL_ADD, efd, &ev) == 0);
	IS(epoll_wait(ep, &ev, 1, 0), 0);
	until_link(fd, ROAM_LINK_TCP);
	IS(epoll_wait(ep, &ev, 1, 5000), 1);
	e = expect(efd, ROAM_EVENT_PERSISTENT, fd);
	IS(e.link, ROAM_LINK_TCP);
	IS(e.lost, 0);
	NEED(silent(efd));
	IS(roam_gid(fd, gid), 0);
	NEED(!memcmp(gid, e.gid, 16));
	put(fd, gid, 16);
	get(fd, theirs, 16);
	NEED(!memcmp(gid, theirs, 16));
	IS(roam_reason(fd), 0);
	s = stats(fd);
	IS(s.reason, 0);
	IS(s.epoch, 1);
	IS(s.remote, 0);
	IS(s.broken, 0);
	IS(s.resumes, 0);
	/* The counts go on from the plain time. */
	put(fd, b, 4000);
	UNTIL(stats(fd).delivered == s.sent + 4000);
	say(side);
	await(!side);
	t = stats(fd);
	IS(t.sent, s.sent + 4000);
	UNTIL(stats(fd).unread == 4000);
	get(fd, b, 1500);
	t = stats(fd);
	IS(t.received, s.received + 1500);
	IS(t.unread, 2500);
	NEED(t.age_ns > s.age_ns);
	say(side + 2);
	await(!side + 2);
}

static void ring(void)
{
	int efd, fd = one(), i;
	struct roam_stats s;
	struct roam_event e;
	char b[1000] = "";

	until_link(fd, ROAM_LINK_TCP);
	efd = roam_events();
	until_link(fd, ROAM_LINK_RING);
	e = expect(efd, ROAM_EVENT_LINK, fd);
	IS(e.link, ROAM_LINK_RING);
	NEED(e.stall_ns > 0);
	s = stats(fd);
	IS(s.moves, 1);
	IS(s.resumes, 0);
	NEED(s.stall_ns == e.stall_ns && s.stall_max_ns == e.stall_ns);
	/* Delivered is what the other program has read. */
	if (!side) {
		put(fd, b, 1000);
		IS(stats(fd).delivered, s.sent);
		IS(stats(fd).sent, s.sent + 1000);
		say(0);
		await(1);
		IS(stats(fd).delivered, s.sent + 1000);
	} else {
		await(0);
		IS(stats(fd).unread, 1000);
		get(fd, b, 1000);
		say(1);
	}
	/* Away from it by policy of one end, and it stays away. */
	if (!side) {
		IS(roam_policy(fd, ROAM_POLICY_RING, 0), 0);
		IS(stats(fd).link, ROAM_LINK_TCP);
		IS(roam_policy_get(fd, ROAM_POLICY_RING), 0);
	}
	until_link(fd, ROAM_LINK_TCP);
	e = expect(efd, ROAM_EVENT_LINK, fd);
	IS(e.link, ROAM_LINK_TCP);
	for (i = 0; i < 400; i++)
		round_trip(fd);
	IS(stats(fd).link, ROAM_LINK_TCP);
	IS(stats(fd).moves, 2);
	NEED(silent(efd));
	say(2 + side);
	await(3 - side);
	if (!side)
		IS(roam_policy(fd, ROAM_POLICY_RING, 1), 0);
	until_link(fd, ROAM_LINK_RING);
	IS(stats(fd).moves, 3);
	IS(stats(fd).resumes, 0);
	/* And plain from the ring: for good. */
	if (side)
		IS(roam_policy(fd, ROAM_POLICY_PERSISTENT, 0), 0);
	for (i = 0; i < 200; i++)
		round_trip(fd);
	if (side) {
		IS(roam_reason(fd), OFF);
		ERR(roam_policy(fd, ROAM_POLICY_PERSISTENT, 1), EALREADY);
	}
}

/* ROAM_CODEC=zlib: every link is coded, in blocks that the kernel's counters know nothing of. */
static void codec(void)
{
	int fd, efd, i;
	struct roam_event e;
	struct roam_stats s;
	static char b[200000];

	setenv("ROAM_CODEC", "zlib", 1);
	fd = one();
	until_link(fd, ROAM_LINK_CODEC);
	efd = roam_events();
	s = stats(fd);
	IS(s.reason, 0);
	/* Much, that is little on the wire. */
	if (!side) {
		put(fd, b, sizeof(b));
		IS(stats(fd).sent, s.sent + sizeof(b));
		NEED(stats(fd).delivered <= s.sent + sizeof(b));
		UNTIL(stats(fd).delivered == s.sent + sizeof(b));
	} else {
		UNTIL(stats(fd).unread > 0);
		get(fd, b, sizeof(b));
		IS(stats(fd).received, s.received + sizeof(b));
	}
	say(side);
	await(!side);
	if (!side) {
		IS(roam_policy(fd, ROAM_POLICY_CODEC, 0), 0);
		IS(roam_policy_get(fd, ROAM_POLICY_CODEC), 0);
		IS(stats(fd).link, ROAM_LINK_TCP);
	}
	until_link(fd, ROAM_LINK_TCP);
	e = expect(efd, ROAM_EVENT_LINK, fd);
	IS(e.link, ROAM_LINK_TCP);
	for (i = 0; i < 300; i++)
		round_trip(fd);
	IS(stats(fd).link, ROAM_LINK_TCP);
	say(2 + side);
	await(3 - side);
	if (!side)
		IS(roam_policy(fd, ROAM_POLICY_CODEC, 1), 0);
	until_link(fd, ROAM_LINK_CODEC);
	/* Meanwhile the other end may have asked for a coded link, and got a bare one. */
	do
		e = expect(efd, ROAM_EVENT_LINK, fd);
	while (e.link == ROAM_LINK_TCP);
	IS(e.link, ROAM_LINK_CODEC);
}

static void no_ring_from_the_listener(void)
{
	int l = side ? new_listener() : -1, fd, i;

	if (side) {
		IS(roam_policy(l, ROAM_POLICY_RING, 0), 0);
		fd = nodelay(accept(l, NULL, NULL));
		IS(roam_policy_get(fd, ROAM_POLICY_RING), 0);
	} else {
		fd = client();
		IS(roam_policy_get(fd, ROAM_POLICY_RING), 1);
	}
	until_link(fd, ROAM_LINK_TCP);
	for (i = 0; i < 500; i++)
		round_trip(fd);
	IS(stats(fd).link, ROAM_LINK_TCP);
	IS(stats(fd).moves, 0);
}

static void demoted(void)
{
	int fd = one(), efd, i;
	struct roam_event e;
	struct roam_stats s;
	uint8_t gid[16];

	until_link(fd, ROAM_LINK_TCP);
	efd = roam_events();
	s = stats(fd);
	if (!side) {
		IS(roam_policy(fd, ROAM_POLICY_PERSISTENT, 0), 0);
		e = expect(efd, ROAM_EVENT_PLAIN, fd);
		IS(e.reason, OFF);
		IS(e.link, ROAM_LINK_PLAIN);
		IS(roam_reason(fd), OFF);
		IS(roam_policy_get(fd, ROAM_POLICY_PERSISTENT), 0);
		IS(stats(fd).link, ROAM_LINK_PLAIN);
		IS(roam_gid(fd, gid), 0);
		NEED(!memcmp(gid, e.gid, 16));
		ERR(roam_policy(fd, ROAM_POLICY_PERSISTENT, 1), EALREADY);
	}
	for (i = 0; i < 100; i++)
		round_trip(fd);
	IS(stats(fd).sent, s.sent + 100);
	IS(stats(fd).received, s.received + 100);
}

static void forbidden_from_the_start(void)
{
	int fd, i, l;

	if (side) {
		l = new_listener();
		fd = nodelay(accept(l, NULL, NULL));
	} else {
		fd = socket(AF_INET, SOCK_STREAM, 0);
		IS(roam_policy(fd, ROAM_POLICY_PERSISTENT, 0), 0);
		dial(fd);
	}
	for (i = 0; i < 300; i++)
		round_trip(fd);
	IS(stats(fd).link, ROAM_LINK_PLAIN);
	if (!side)
		IS(roam_reason(fd), OFF);
	/* Young as it was for the library, it may still. */
	if (!side)
		IS(roam_policy(fd, ROAM_POLICY_PERSISTENT, 1), 0);
	until_link(fd, ROAM_LINK_TCP);
	IS(roam_reason(fd), 0);
}

static void forbidden_by_the_listener(void)
{
	int fd, i, l;

	if (side) {
		l = new_listener();
		IS(roam_policy(l, ROAM_POLICY_PERSISTENT, 0), 0);
		fd = nodelay(accept(l, NULL, NULL));
		IS(roam_reason(fd), OFF);
		IS(roam_policy_get(fd, ROAM_POLICY_PERSISTENT), 0);
	} else {
		fd = client();
	}
	for (i = 0; i < 300; i++)
		round_trip(fd);
	IS(stats(fd).link, ROAM_LINK_PLAIN);
}

/* While the other end is about to upgrade it: whatever comes of it, the bytes are right and it is plain. */
static void forbidden_in_the_middle(void)
{
	int l = side ? new_listener() : -1, fd, n, i;

	for (n = 0; n < 60; n++) {
		fd = side ? nodelay(accept(l, NULL, NULL)) : client();
		for (i = 0; i < 6 + n % 8; i++)
			round_trip(fd);
		IS(roam_policy(fd, ROAM_POLICY_PERSISTENT, 0), 0);
		for (i = 0; i < 40; i++)
			round_trip(fd);
		IS(stats(fd).link, ROAM_LINK_PLAIN);
		IS(roam_reason(fd), OFF);
		round_trip(fd);
		if (!side)
			get(fd, &(char){ 0 }, 1);
		else
			put(fd, "x", 1);
		close(fd);
	}
}

static void switched_off(void)
{
	int fd, i;

	if (!side)
		IS(roam_set("ROAM", "off"), 0);
	fd = one();
	for (i = 0; i < 100; i++)
		round_trip(fd);
	IS(stats(fd).link, ROAM_LINK_PLAIN);
	if (!side) {
		IS(roam_reason(fd), OFF);
		ERR(roam_policy(fd, ROAM_POLICY_PERSISTENT, 1), EPERM);
		IS(roam_policy_get(fd, ROAM_POLICY_PERSISTENT), 0);
	}
}

/* ROAM_SPIN is in the environment of this case, ROAM_LINK is not. */
static void settings(void)
{
	char much[100];
	int fd, i;

	memset(much, 'x', sizeof(much) - 1);
	much[99] = 0;
	ERR(roam_set("ROAM_NONSENSE", "1"), EINVAL);
	ERR(roam_set("ROAM_DIR", much), EINVAL);
	if (!side)
		IS(roam_set("ROAM_LINK", "tcp"), 0);
	fd = one();
	ERR(roam_set("ROAM_LINK", "tcp"), EBUSY);
	until_link(fd, ROAM_LINK_TCP);
	for (i = 0; i < 500; i++)
		round_trip(fd);
	IS(stats(fd).link, ROAM_LINK_TCP);
	if (!side) {
		ERR(roam_policy(fd, ROAM_POLICY_RING, 1), EPERM);
		IS(roam_policy_get(fd, ROAM_POLICY_RING), 0);
	}
}

/* What the user says goes before what the program says. */
static void environment_first(void)
{
	int fd, i;

	setenv("ROAM_LINK", "tcp", 1);
	IS(roam_set("ROAM_LINK", "ring"), 0);
	fd = one();
	until_link(fd, ROAM_LINK_TCP);
	for (i = 0; i < 300; i++)
		round_trip(fd);
	IS(stats(fd).moves, 0);
}

static int many_events(int fd, int n)
{
	int i, moves = 0;

	for (i = 0; i < n; i++) {
		if (!side)
			IS(roam_policy(fd, ROAM_POLICY_RING, 0), 0);
		until_link(fd, ROAM_LINK_TCP);
		if (!side)
			IS(roam_policy(fd, ROAM_POLICY_RING, 1), 0);
		until_link(fd, ROAM_LINK_RING);
		moves += 2;
	}
	return moves;
}

/* Nobody reads: bounded, counted, and the connection does not care. */
static void overflow(void)
{
	int fd = one(), a, b, moves, n, all = 0;
	struct roam_event e;
	uint32_t lost = 0;

	until_link(fd, ROAM_LINK_RING);
	a = roam_events();
	b = roam_events();
	close(b);			/* and one that has gone without a word */
	moves = many_events(fd, 200);
	while (roam_event_read(a, &e, sizeof(e)) == 1) {
		all++;
		IS(e.lost, 0);
	}
	NEED(all > 100 && all < moves);
	many_events(fd, 1);
	for (n = 0; roam_event_read(a, &e, sizeof(e)) == 1; n++)
		lost += e.lost;
	IS(n, 2);
	IS(lost, moves - all);
}

static void eight(void)
{
	int fd = one(), efd[8], i, n;

	for (i = 0; i < 8; i++)
		NEED((efd[i] = roam_events()) >= 0);
	ERR(roam_events(), EMFILE);
	close(efd[3]);
	efd[3] = roam_events();
	NEED(efd[3] >= 0);
	ERR(roam_events(), EMFILE);
	until_link(fd, ROAM_LINK_TCP);
	for (i = 0; i < 8; i++)
		expect(efd[i], ROAM_EVENT_PERSISTENT, fd);
	for (n = 0; n < 8; n++)
		close(efd[n]);
	NEED(roam_events() >= 0);
}

/* The program takes the numbers that the library has hidden. */
static void evicted(void)
{
	int fd = one(), efd = roam_events(), n, lim, taken = 0;
	struct rlimit rl;

	NEED(getrlimit(RLIMIT_NOFILE, &rl) == 0);
	lim = (int)rl.rlim_cur;
	until_link(fd, ROAM_LINK_TCP);
	expect(efd, ROAM_EVENT_PERSISTENT, fd);
	for (n = lim - 64; n < lim; n++) {
		char path[40], to[64];
		ssize_t k;

		snprintf(path, sizeof(path), "/proc/self/fd/%d", n);
		k = readlink(path, to, sizeof(to));
		if (k > 7 && !strncmp(to, "socket:", 7)) {
			NEED(dup2(0, n) == n);
			taken++;
			break;
		}
	}
	NEED(taken);
	IS(roam_policy(fd, ROAM_POLICY_PERSISTENT, 0), 0);
	expect(efd, ROAM_EVENT_PLAIN, fd);
}

static void forked(void)
{
	int fd = one(), efd = roam_events(), st;
	struct roam_event e;
	pid_t pid;

	until_link(fd, ROAM_LINK_TCP);
	expect(efd, ROAM_EVENT_PERSISTENT, fd);
	pid = fork();
	if (pid == 0) {
		int own = roam_events();

		NEED(own >= 0);
		NEED(silent(efd));
		IS(roam_reason(fd), 0);
		round_trip(fd);
		IS(roam_policy(fd, ROAM_POLICY_PERSISTENT, 0), 0);
		expect(own, ROAM_EVENT_PLAIN, fd);
		NEED(silent(efd));	/* the parent's */
		_exit(0);
	}
	NEED(waitpid(pid, &st, 0) == pid);
	if (!WIFEXITED(st) || WEXITSTATUS(st))
		fail("the child ended with %x: %s", st, sh->why[side]);
	NEED(silent(efd));
	/* A child outlives its parent's descriptor. */
	say(side);
	await(!side);
	pid = fork();
	if (pid == 0) {
		int inherited = efd, up[2];

		NEED(pipe(up) == 0);
		pid = fork();
		if (pid) {
			close(up[1]);
			_exit(read(up[0], &(char){ 0 }, 1) == 1 ? 0 : 1);
		}
		e.size = 0;
		IS(roam_event_read(inherited, &e, sizeof(e)), 0);
		_exit(write(up[1], "x", 1) == 1 ? 0 : 1);
	}
	NEED(waitpid(pid, &st, 0) == pid && WIFEXITED(st) && !WEXITSTATUS(st));
}

static _Atomic bool enough;
static _Atomic int now_fd;

static void *asks(void *arg)
{
	struct roam_stats s;
	struct roam_event e;
	uint8_t gid[16];
	int efd = roam_events();
	long *n = arg;

	while (!atomic_load(&enough)) {
		int fd = atomic_load(&now_fd);

		*n += roam_stats(fd, &s, sizeof(s)) == 0;
		if (roam_reason(fd) >= 0)
			roam_gid(fd, gid);
		/* now and then, or it would never be on the ring */
		if (*n % 97 == 0)
			roam_policy(fd, ROAM_POLICY_RING, (int)(*n / 97 % 2));
		while (roam_event_read(efd, &e, sizeof(e)) == 1)
			;
	}
	close(efd);
	return NULL;
}

/* Threads that ask, while connections come, move and go under them. */
static void races(void)
{
	int l = side ? new_listener() : -1, n, i;
	pthread_t t[3];
	long asked[3] = { 0 };
	struct roam_stats s;

	atomic_store(&now_fd, -1);
	for (i = 0; i < 3; i++)
		NEED(pthread_create(&t[i], NULL, asks, &asked[i]) == 0);
	for (n = 0; n < 40; n++) {
		int fd = side ? nodelay(accept(l, NULL, NULL)) : client();

		atomic_store(&now_fd, fd);
		for (i = 0; i < 60; i++)
			round_trip(fd);
		s = stats(fd);
		IS(s.sent, 60);
		IS(s.received, 60);
		NEED(s.delivered <= s.sent);
		close(fd);
	}
	atomic_store(&enough, true);
	for (i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	NEED(asked[0] + asked[1] + asked[2] > 100);
}

/* Delivered is never more than what the other end has, and all of it in the end. */
static void delivered(void)
{
	static _Atomic uint64_t *had;
	int fd, i, r;
	char b[9000] = "";

	had = (_Atomic uint64_t *)(void *)&sh->step[6];
	fd = one();
	until_link(fd, side ? ROAM_LINK_TCP : ROAM_LINK_TCP);
	if (side) {
		atomic_store(had, stats(fd).received);
		say(0);
		while ((r = (int)recv(fd, b, sizeof(b), 0)) > 0)
			if (r)
				nap(200);
		return;
	}
	await(0);
	for (i = 0; i < 400; i++) {
		struct roam_stats s;

		put(fd, b, 500 + (size_t)i * 20);
		s = stats(fd);
		NEED(s.delivered <= s.sent);
	}
	UNTIL(stats(fd).delivered == stats(fd).sent);
	shutdown(fd, SHUT_WR);
	IS(recv(fd, b, 1, 0), 0);
}

static struct test {
	const char *name, *link;
	void (*fn)(void);
} tests[] = {
	{ "descriptors that are not ours, and arguments that make no sense", "auto", not_ours },
	{ "a young connection", "auto", young },
	{ "a persistent one: GID, statistics, event", "tcp", persistent },
	{ "the ring: statistics, event, policy", "auto", ring },
	{ "the codec: statistics, event, policy", "tcp", codec },
	{ "no ring: from the listener", "auto", no_ring_from_the_listener },
	{ "persistence forbidden later", "tcp", demoted },
	{ "persistence forbidden from the start, then allowed", "tcp", forbidden_from_the_start },
	{ "persistence forbidden: from the listener", "tcp", forbidden_by_the_listener },
	{ "persistence forbidden in the middle of the upgrade", "auto", forbidden_in_the_middle },
	{ "roam_set: off", "auto", switched_off },
	{ "roam_set", "", settings },
	{ "roam_set: the environment goes before it", "", environment_first },
	{ "a queue that nobody reads", "auto", overflow },
	{ "eight subscribers", "tcp", eight },
	{ "the program wants a hidden number", "tcp", evicted },
	{ "fork", "tcp", forked },
	{ "delivered", "tcp", delivered },
	{ "threads that ask, connections that go", "auto", races },
};

static bool run(const struct test *t)
{
	bool ok = true;
	pid_t pid[2];
	int i, st;

	memset(sh, 0, sizeof(*sh));
	if (*t->link)
		setenv("ROAM_LINK", t->link, 1);
	else
		unsetenv("ROAM_LINK");
	fflush(stdout);
	for (i = 0; i < 2; i++) {
		pid[i] = fork();
		if (pid[i] == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			alarm(LIMIT);
			side = i;
			t->fn();
			exit(0);
		}
	}
	for (i = 0; i < 2; i++) {
		if (waitpid(pid[i], &st, 0) != pid[i] || !WIFEXITED(st) || WEXITSTATUS(st)) {
			if (ok && !sh->why[i][0])
				snprintf(sh->why[i], sizeof(sh->why[i]), "%s: %s %d", i ? "server" : "client",
					 WIFSIGNALED(st) ? "signal" : "status",
					 WIFSIGNALED(st) ? WTERMSIG(st) : WEXITSTATUS(st));
			ok = false;
			/* Its peer may wait for it for ever. */
			if (i == 0 && sh->why[0][0])
				kill(pid[1], SIGKILL);
		}
	}
	return ok;
}

/* ---- for api.py */

static void watch(void)
{
	static const char *const kinds[] = { "?", "persistent", "plain", "broken", "mended", "link", "frozen", "thawed" };
	int efd, fd, i;
	uint64_t end = ms() + 60000;
	struct roam_event e;
	struct roam_stats s;
	pid_t pid;

	setvbuf(stdout, NULL, _IOLBF, 0);
	pid = fork();
	side = pid == 0;
	if (side) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		fd = server();
		for (;;) {
			char c;

			if (recv(fd, &c, 1, 0) <= 0)
				_exit(0);
			put(fd, &c, 1);
		}
	}
	fd = client();
	efd = roam_events();
	for (i = 0; ms() < end; i++) {
		char c = (char)i, d;

		put(fd, &c, 1);
		get(fd, &d, 1);
		NEED(c == d);
		while (roam_event_read(efd, &e, sizeof(e)) == 1) {
			s = stats(fd);
			printf("event %s fd=%d reason=%s stall_us=%llu value=%llu resumes=%u broken=%u resent=%llu\n",
			       e.kind < 8 ? kinds[e.kind] : "?", e.fd == fd ? 0 : e.fd, roam_reason_word(e.reason),
			       (unsigned long long)e.stall_ns / 1000, (unsigned long long)e.value, s.resumes, s.broken,
			       (unsigned long long)s.resent);
		}
		nap(300);
	}
}

int main(int argc, char **argv)
{
	size_t i, n = sizeof(tests) / sizeof(tests[0]);
	int bad = 0, nr = 0;

	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	signal(SIGPIPE, SIG_DFL);
	if (argc > 1 && !strcmp(argv[1], "--watch")) {
		watch();
		return 0;
	}
	for (i = 0; i < n; i++)
		if (argc < 2 || strstr(tests[i].name, argv[1])) {
			bool ok = run(&tests[i]);

			printf("%s %d - %s\n", ok ? "ok" : "not ok", ++nr, tests[i].name);
			if (!ok)
				printf("# %s%s%s\n", sh->why[0], sh->why[0][0] && sh->why[1][0] ? "; " : "", sh->why[1]);
			bad += !ok;
		}
	printf("1..%d\n", nr);
	return bad || !nr;
}
