/*
 * A peer that scribbles: it holds a real ring connection, and writes anything at
 * any time into all that it shares with its victim: both boxes and the pair
 * page.  The victim waits in every way there is, with its buffers at the end of
 * a page before nothing.  It must not crash, hang, or burn a CPU when the
 * scribbling is over; what it gets is ECONNRESET, an end, or wrong bytes.  TAP.
 *
 *	ring_hostile [-s seed] [-m ms of scribbling] [-k cases] [substring]
 */
#include "helper.h"
#include "vring.h"
#include "vs_int.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct shared {
	_Atomic uint16_t port;
	_Atomic int began, over;	/* the scribbling */
	_Atomic int error;		/* what the victim saw, -1: end of stream */
	_Atomic uint64_t bytes;
	_Atomic uint64_t wild;		/* words written */
	_Atomic uint32_t other;		/* somebody else, who is stopped */
	_Atomic uint64_t other_start;
	char last[128];
} *sh;
static uint64_t seed = 1, scribble_ms = 60;
static int listener;

static uint64_t rnd(void)
{
	static __thread uint64_t x;

	if (!x)
		x = seed * UINT64_C(0x9e3779b97f4a7c15) ^ (uint64_t)(uintptr_t)&x >> 4 ^ 1;
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x >> 3;
}

static uint64_t ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void nap_us(long us)
{
	struct timespec t = { us / 1000000, us % 1000000 * 1000 };

	nanosleep(&t, NULL);
}

static int connected(bool server)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) }, .sin_port = htons(sh->port) };
	uint64_t end = ms() + 5000;
	char mine = 0, theirs = 0;
	struct vsock *v;
	int fd, one = 1;

	fd = server ? accept(listener, NULL, NULL) : socket(AF_INET, SOCK_STREAM, 0);
	if (fd < 0 || (!server && connect(fd, (void *)&a, sizeof(a)) < 0))
		_exit(3);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	while (!(mine && theirs)) {
		v = fdtab_vsock(fd);
		mine = v && vring_of(v) && !vs_mending(v);
		if (ms() > end || (!server && send(fd, &mine, 1, 0) != 1) || recv(fd, &theirs, 1, 0) != 1 ||
		    (server && send(fd, &mine, 1, 0) != 1))
			_exit(3);
		if (!(mine && theirs))
			nap_us(1000);
	}
	return fd;
}

/* ---- the victim */

#define BUF 65536u

/* The end of a mapping, and nothing behind it. */
static uint8_t *guarded(void)
{
	uint8_t *p = mmap(NULL, BUF + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	mprotect(p + 4096, BUF, PROT_READ | PROT_WRITE);
	return p + 4096;
}

static void note(ssize_t r)
{
	int none = 0;

	atomic_compare_exchange_strong(&sh->error, &none, r == 0 ? -1 : errno);
}

enum { W_BLOCK, W_POLL, W_SELECT, W_LT, W_ET, W_ONESHOT, W_RECV, W_SEND, W_WAITALL, W_PEEK, WAYS };
static const char *const way_name[] = { "recv and send", "poll", "select", "epoll", "epoll ET", "epoll ONESHOT", "recv",
	"send", "recv WAITALL", "peek" };

static void *block_recv(void *arg)
{
	uint8_t *buf = guarded();
	ssize_t r;

	for (;;) {
		size_t n = 1 + rnd() % BUF;

		r = recv(*(int *)arg, buf + BUF - n, n, 0);
		if (r <= 0)
			break;
		if ((size_t)r > n)
			abort();
		atomic_fetch_add(&sh->bytes, (uint64_t)r);
	}
	note(r);
	return NULL;
}

static void *block_send(void *arg)
{
	uint8_t *buf = guarded();
	ssize_t r;

	do {
		size_t n = 1 + rnd() % BUF;

		if (atomic_load(&sh->over))
			nap_us(2000);
		r = send(*(int *)arg, buf + BUF - n, n, MSG_NOSIGNAL);
		if (r > (ssize_t)n)
			abort();
	} while (r > 0);
	note(r);
	return NULL;
}

/* False: it has ended. */
static bool both_nb(int fd, bool in, bool out, bool all)
{
	static uint8_t *buf;
	ssize_t r;
	size_t n;

	if (!buf)
		buf = guarded();
	out = out && !atomic_load(&sh->over);
	do {
		n = 1 + rnd() % BUF;
		r = in ? recv(fd, buf + BUF - n, n, MSG_DONTWAIT) : -2;
		if (in && (r == 0 || (r < 0 && errno != EAGAIN))) {
			note(r);
			return false;
		}
		if (r > (ssize_t)n)
			abort();
		if (r > 0)
			atomic_fetch_add(&sh->bytes, (uint64_t)r);
	} while (r > 0 && all);
	do {
		n = 1 + rnd() % BUF;
		r = out ? send(fd, buf + BUF - n, n, MSG_DONTWAIT | MSG_NOSIGNAL) : -2;
		if (out && r < 0 && errno != EAGAIN) {
			note(r);
			return false;
		}
	} while (r > 0 && all);
	return true;
}

static void victim(uint32_t way)
{
	int fd = connected(true), ep = epoll_create1(0);
	struct epoll_event ev = { .events = EPOLLIN | EPOLLOUT };
	uint8_t *buf = guarded();
	struct pollfd p;
	pthread_t t[2];
	fd_set i, o;
	ssize_t r;

	ev.events |= way == W_ET ? EPOLLET | EPOLLRDHUP : way == W_ONESHOT ? EPOLLONESHOT : 0;
	epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
	switch (way) {
	case W_BLOCK:
		pthread_create(&t[0], NULL, block_recv, &fd);
		pthread_create(&t[1], NULL, block_send, &fd);
		pthread_join(t[0], NULL);
		pthread_join(t[1], NULL);
		break;
	case W_RECV:
		block_recv(&fd);
		break;
	case W_SEND:
		block_send(&fd);
		break;
	case W_WAITALL:
		while ((r = recv(fd, buf, BUF, MSG_WAITALL)) > 0)
			;
		note(r);
		break;
	case W_PEEK:
		while ((r = recv(fd, buf, BUF, MSG_PEEK)) > 0 && (r = recv(fd, buf, (size_t)r, 0)) > 0)
			;
		note(r);
		break;
	case W_POLL:
		do {
			p = (struct pollfd){ fd, atomic_load(&sh->over) ? POLLIN : POLLIN | POLLOUT, 0 };
			poll(&p, 1, -1);
		} while (both_nb(fd, p.revents & (POLLIN | POLLHUP | POLLERR), p.revents & POLLOUT, false));
		break;
	case W_SELECT:
		do {
			FD_ZERO(&i);
			FD_SET(fd, &i);
			o = i;
			if (atomic_load(&sh->over))
				FD_ZERO(&o);
			select(fd + 1, &i, &o, NULL, NULL);
		} while (both_nb(fd, FD_ISSET(fd, &i), FD_ISSET(fd, &o), false));
		break;
	default:
		do {
			if (way == W_ONESHOT || (way == W_LT && atomic_load(&sh->over))) {
				/* A liar that takes all we send may keep us busy: later we only read. */
				ev.events = EPOLLIN | (atomic_load(&sh->over) ? 0 : EPOLLOUT) | (way == W_ONESHOT ? EPOLLONESHOT : 0);
				epoll_ctl(ep, EPOLL_CTL_MOD, fd, &ev);
			}
			ev.events = 0;
			epoll_wait(ep, &ev, 1, -1);
		} while (both_nb(fd, ev.events & (EPOLLIN | EPOLLHUP | EPOLLERR), ev.events & EPOLLOUT, way == W_ET));
	}
	close(fd);
	exit(0);
}

/* ---- the other one */

enum { S_ONE, S_BOX, S_PAIR, S_ALL, S_NEAR, S_DATA, S_CLOSED, S_FIN, S_PIDS, STYLES };
static const char *const style_name[] = { "one word once", "the box", "the pair page", "everything", "offsets near the truth",
	"only bytes", "closed, said falsely", "fin, said falsely", "another process's pid" };

static uint64_t value(struct ring *r, bool near)
{
	uint64_t tail = atomic_load(&r->end->tail), head = atomic_load(&r->end->rx_head);
	uint64_t base = rnd() % 2 ? tail : head;

	switch (near ? rnd() % 5 : rnd() % 12) {
	case 0: return base + rnd() % 70000;
	case 1: return base - rnd() % 70000;
	case 2: return base + r->size + rnd() % 3 - 1;
	case 3: return base - r->size + rnd() % 3 - 1;
	case 4: return base + rnd() % 3 - 1;
	case 5: return 0;
	case 6: return UINT64_MAX - rnd() % 3;
	case 7: return UINT64_C(1) << rnd() % 64;
	case 8: return INT64_MAX;
	case 9: return rnd() % 16;
	default: return rnd() << 32 ^ rnd();
	}
}

static void wild32(volatile void *base, size_t len, struct ring *r, const char *what)
{
	size_t at = rnd() % (len / 4);

	((volatile uint32_t *)base)[at] = (uint32_t)(value(r, false) >> (rnd() % 2 ? 0 : 32));
	atomic_fetch_add(&sh->wild, 1);
	snprintf(sh->last, sizeof(sh->last), "%s+%zu", what, at * 4);
}

static void wild_box(struct ring *r, struct ring_box *b, bool near, const char *what)
{
	_Atomic uint64_t *w[] = { &b->tail, &b->head, &b->tail, &b->mark, &b->taken };

	if (near || rnd() % 2) {
		size_t k = rnd() % (near ? 3 : ARRAY_SIZE(w));

		atomic_store(w[k], value(r, near));
		atomic_fetch_add(&sh->wild, 1);
		snprintf(sh->last, sizeof(sh->last), "%s word %zu", what, k);
	} else {
		wild32((void *)b, sizeof(*b) < 1024 ? sizeof(*b) : 1024, r, what);
	}
}

static void *feed(void *arg)
{
	static uint8_t buf[30000];

	while (!atomic_load(&sh->over) && send(*(int *)arg, buf, 1 + rnd() % sizeof(buf), MSG_NOSIGNAL) > 0)
		if (!(rnd() % 8))
			nap_us(200);
	return NULL;
}

static void *eat(void *arg)
{
	static uint8_t buf[30000];

	while (!atomic_load(&sh->over) && recv(*(int *)arg, buf, 1 + rnd() % sizeof(buf), 0) > 0)
		if (!(rnd() % 8))
			nap_us(200);
	return NULL;
}

static void hostile(uint32_t style)
{
	int fd = connected(false);
	struct vsock *v = fdtab_vsock(fd);
	struct vring *vr = vring_of(v);
	struct vstate *st = atomic_load(&v->st);
	/* a view of our own: the library may drop its one */
	struct ring r = vr->r;
	struct pair_side *us = &v->pair->side[st->ho.role];
	uint64_t end;
	pthread_t t;
	int i;

	atomic_fetch_add(&v->lookers, 1);	/* nothing is unmapped */
	pthread_create(&t, NULL, feed, &fd);
	pthread_create(&t, NULL, eat, &fd);
	nap_us(5000);
	atomic_store(&sh->began, 1);
	end = ms() + scribble_ms;
	do {
		switch (style) {
		case S_ONE: wild_box(&r, r.out, false, "their box"); break;
		case S_BOX: wild_box(&r, rnd() % 4 ? r.out : r.in, false, "box"); break;
		case S_PAIR: wild32(v->pair, sizeof(*v->pair), &r, "pair"); break;
		case S_ALL:
			if (rnd() % 3)
				wild_box(&r, rnd() % 2 ? r.out : r.in, rnd() % 2, "box");
			else
				wild32(v->pair, rnd() % 2 ? sizeof(*v->pair) : PAIR_SIZE, &r, "pair");
			break;
		case S_NEAR: wild_box(&r, r.out, true, "their box"); break;
		case S_DATA: wild32(r.out->data, r.size, &r, "data"); break;
		case S_CLOSED: atomic_store(&us->closed, 1 + (uint32_t)rnd() % 2); break;
		case S_FIN: atomic_store(&us->fin, value(&r, true)); break;
		case S_PIDS:
			for (i = 0; i < NPROC; i++) {
				atomic_store(&us->proc[i].start, sh->other_start);
				atomic_store(&us->proc[i].pid, sh->other);
			}
			break;
		}
		nap_us(style == S_DATA ? 20 : (long)(rnd() % 3000));
	} while (ms() < end && style != S_ONE);
	atomic_store(&sh->over, 1);
	pause();
	for (;;)
		pause();
}

/* Of our user, and with a rendezvous socket that takes connections; nothing answers there. */
static void bystander(void)
{
	if (!helper_start())
		_exit(3);
	sh->other_start = helper_start_time();
	sh->other = (uint32_t)getpid();
	for (;;)
		raise(SIGSTOP);
}

/* ---- a case */

static uint64_t cpu_ns(pid_t pid)
{
	struct timespec t;
	clockid_t c;

	if (clock_getcpuclockid(pid, &c) || clock_gettime(c, &t) < 0)
		return 0;
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static const char *run(uint32_t way, uint32_t style)
{
	static char why[200];
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t l = sizeof(a);
	pid_t v, h, other = -1;
	int st = -1;
	uint64_t end, c, t;
	bool ended = false;

	memset(sh, 0, sizeof(*sh));
	if (style == S_PIDS) {
		other = fork();
		if (!other) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			bystander();
		}
		waitpid(other, NULL, WUNTRACED);
	}
	v = fork();
	if (!v) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		listener = socket(AF_INET, SOCK_STREAM, 0);
		if (bind(listener, (void *)&a, sizeof(a)) < 0 || listen(listener, 1) < 0 ||
		    getsockname(listener, (void *)&a, &l) < 0)
			_exit(3);
		sh->port = ntohs(a.sin_port);
		victim(way);
	}
	h = fork();
	if (!h) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (!sh->port)
			nap_us(500);
		freopen("/dev/null", "w", stderr);	/* what it says of itself is of no interest */
		hostile(style);
	}
	end = ms() + 8000;
	while (!atomic_load(&sh->over) && ms() < end && !ended && waitpid(h, NULL, WNOHANG) == 0)
		nap_us(1000);
	why[0] = 0;
	if (!atomic_load(&sh->over)) {
		snprintf(why, sizeof(why), "the hostile end did not get to its end");
	} else {
		/* It holds still now. */
		nap_us(100000);
		c = cpu_ns(v);
		t = ms();
		nap_us(150000);
		if (waitpid(v, &st, WNOHANG) == v)
			ended = true;
		else if ((cpu_ns(v) - c) / 1000000 > (ms() - t) * 6 / 10)
			snprintf(why, sizeof(why), "burns %llu ms of CPU in %llu ms", (unsigned long long)(cpu_ns(v) - c) / 1000000,
				 (unsigned long long)(ms() - t));
	}
	kill(h, SIGKILL);
	waitpid(h, NULL, 0);
	end = ms() + 4000;
	while (!ended && ms() < end) {
		ended = waitpid(v, &st, WNOHANG) == v;
		nap_us(1000);
	}
	if (!ended) {
		snprintf(why + strlen(why), sizeof(why) - strlen(why), "%sstill there 4 s after the death of its peer",
			 why[0] ? "; " : "");
		if (getenv("RING_HOSTILE_STAY"))
			pause();
		kill(v, SIGKILL);
		waitpid(v, NULL, 0);
	} else if (st) {
		snprintf(why, sizeof(why), "victim ended with %s %d", WIFSIGNALED(st) ? "signal" : "status",
			 WIFSIGNALED(st) ? WTERMSIG(st) : WEXITSTATUS(st));
	}
	if (other > 0) {
		kill(other, SIGKILL);
		waitpid(other, NULL, 0);
	}
	return why[0] ? why : NULL;
}

int main(int argc, char **argv)
{
	uint32_t way, style, n = 0, bad = 0, resets = 0, rounds = 1, k;
	const char *only = "";
	char name[100];
	int o;

	while ((o = getopt(argc, argv, "s:m:k:")) != -1) {
		switch (o) {
		case 's': seed = strtoull(optarg, NULL, 0); break;
		case 'm': scribble_ms = strtoull(optarg, NULL, 0); break;
		case 'k': rounds = (uint32_t)atoi(optarg); break;
		default: return 2;
		}
	}
	if (optind < argc)
		only = argv[optind];
	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (k = 0; k < rounds; k++)
		for (style = 0; style < STYLES; style++)
			for (way = 0; way < WAYS; way++) {
				const char *why;

				snprintf(name, sizeof(name), "%s, victim in %s", style_name[style], way_name[way]);
				/* A second each, and a way to wait is not what it is about. */
				if (!strstr(name, only) || (style == S_PIDS && way != W_RECV && way != W_POLL && way != W_ET))
					continue;
				why = run(way, style);
				seed = seed * 3 + 1;
				bad += why != NULL;
				resets += sh->error == ECONNRESET;
				printf("%s %u - %s: %llu words, %s\n", why ? "not ok" : "ok", ++n, name,
				       (unsigned long long)sh->wild, sh->error == -1 ? "end" : sh->error ? strerror(sh->error) : "no error");
				if (why)
					printf("# %s; last %s\n", why, sh->last);
			}
	printf("1..%u\n# %u resets, %u failed\n", n, resets, bad);
	return bad ? 1 : 0;
}
