/*
 * Connections between two processes that move between TCP and the ring at
 * random moments, from either end, while bytes go both ways in every way there
 * is to wait.  Every byte is compared; a stream that stands still is a failure,
 * and for that nobody waits with a time-out and the moves are held meanwhile,
 * as each of them would wake a sleeper that was forgotten.
 *
 *	ring_move [-n handovers] [-c connections] [-r per round] [-s seed] [-t seconds]
 *
 * Prints "handovers N ..." and "bytes ...".  Exit 0: all right, 1: not.
 */
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
#include <sys/select.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CONNS	32
#define PERIOD	65521u			/* prime: no ring's size, nor a piece of one */
#define BIG	(96u << 10)
#define STILL_MS 1500			/* so long without a byte: the moves are held */
#define DEAD_MS	6000			/* ... and then: it hangs */

struct stream {				/* one direction */
	_Atomic uint64_t sent, got;
	_Atomic uint32_t tx_way, rx_way;	/* where the threads are, for a post mortem */
	_Atomic bool ended;		/* sent is final */
};

static struct shared {
	_Atomic bool stop, hold, failed;
	_Atomic uint32_t round;		/* that has been set up, by the acceptor */
	_Atomic uint32_t ended;		/* processes that are through with a round */
	_Atomic uint32_t quit;
	_Atomic uint64_t gens[2][CONNS];
	_Atomic uint64_t to_ring[2], to_tcp[2];
	_Atomic uint32_t dump;
	struct stream s[CONNS][2];	/* by the sender's side */
} *sh;

static uint8_t pattern[PERIOD + BIG + 1];
static int side, conns = 6;
static uint64_t seed = 1;
static uint16_t port;
static int listener;

static struct conn {
	int fd, i;
	struct vsock *v;
	pthread_t tx, rx;
} conn[CONNS];
static _Atomic bool movers_stop;

static uint64_t rnd(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	*x ^= *x << 17;
	return *x >> 11;
}

static uint64_t ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void nap(unsigned int us)
{
	struct timespec t = { us / 1000000, us % 1000000 * 1000 };

	nanosleep(&t, NULL);
}

static void dump(void)
{
	int i;

	for (i = 0; i < conns; i++) {
		struct vsock *v = conn[i].v;
		struct vstate *st = v ? atomic_load(&v->st) : NULL;
		struct stream *o = &sh->s[i][side], *n = &sh->s[i][!side];
		struct vring *vr = v ? vring_of(v) : NULL;
		struct pollfd p = { conn[i].fd, POLLIN | POLLRDHUP, 0 };

		if (!st)
			continue;
		sys_poll(&p, 1, 0);
		fprintf(stderr, "side %d conn %d: sent %llu way %u, got %llu of %llu way %u; phase %x ok %x mode %d lookers %u pollers %u"
			" tx %x rx %x base %x\n", side, i, (unsigned long long)o->sent, o->tx_way, (unsigned long long)n->got,
			(unsigned long long)n->sent, n->rx_way, st->phase, v->phase_ok, v->mode, v->lookers, v->pollers,
			(unsigned)st->tx, (unsigned)st->rx, (unsigned)p.revents);
		if (vr)
			fprintf(stderr, "  ring: end tail %llx head %llx rx_head %llx rx_tail %llx told %llx broken %u rx_sleep %x/%u tx_sleep %x/%u"
				" answered %x rx_answered %x; in tail %llx head %llx rx_state %x tx_state %x rx_bell %x tx_bell %x\n",
				(unsigned long long)st->ring.tail, (unsigned long long)st->ring.head,
				(unsigned long long)st->ring.rx_head, (unsigned long long)st->ring.rx_tail,
				(unsigned long long)st->ring.told, st->ring.broken, st->ring.rx_sleep.state, st->ring.rx_sleep.armed,
				st->ring.tx_sleep.state, st->ring.tx_sleep.armed, st->ring.answered, st->ring.rx_answered,
				(unsigned long long)vr->r.in->tail, (unsigned long long)vr->r.in->head, vr->r.in->rx_state,
				vr->r.in->tx_state, vr->r.in->rx_bell, vr->r.in->tx_bell);
	}
}

static void fail(const char *what, int i, uint64_t at)
{
	if (!atomic_exchange(&sh->failed, true))
		fprintf(stderr, "FAILED side %d conn %d at byte %llu: %s (%s)\n", side, i, (unsigned long long)at, what,
			strerror(errno));
	atomic_store(&sh->stop, true);
}

static size_t some_size(uint64_t *x)
{
	uint64_t r = rnd(x);

	switch (r & 7) {
	case 0: case 1: case 2:
		return 1 + (r >> 3) % 64;
	case 3: case 4:
		return 1 + (r >> 3) % 2048;
	case 5: case 6:
		return 1 + (r >> 3) % 16384;
	}
	return 1 + (r >> 3) % BIG;
}

/* ---- sending */

enum { TX_BLOCK, TX_WRITEV, TX_POLL, TX_SELECT, TX_LT, TX_ET, TX_ONESHOT, TX_WAYS };

static int epset(int fd, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.fd = fd };
	int ep = epoll_create1(EPOLL_CLOEXEC);

	if (ep < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) < 0)
		return -1;
	return ep;
}

/* Waits in this way; 0, or -1. */
static int wait_in(uint32_t way, int fd, bool out, const int *ep)
{
	struct pollfd p = { fd, out ? POLLOUT : POLLIN, 0 };
	struct epoll_event ev;
	fd_set set;
	int n;

	switch (way) {
	case TX_POLL:
		return poll(&p, 1, -1);
	case TX_SELECT:
		FD_ZERO(&set);
		FD_SET(fd, &set);
		return out ? select(fd + 1, NULL, &set, NULL, NULL) : select(fd + 1, &set, NULL, NULL, NULL);
	case TX_ONESHOT:
		ev = (struct epoll_event){ .events = (out ? EPOLLOUT : EPOLLIN) | EPOLLONESHOT, .data.fd = fd };
		n = epoll_ctl(ep[2], EPOLL_CTL_MOD, fd, &ev);
		return n < 0 ? n : epoll_wait(ep[2], &ev, 1, -1);
	default:
		n = epoll_wait(ep[way == TX_ET], &ev, 1, -1);
		return n;
	}
}

static void *sender(void *arg)
{
	struct conn *c = arg;
	struct stream *s = &sh->s[c->i][side];
	uint64_t off = 0, x = seed * 77 + (uint64_t)c->i * 1000003 + (uint64_t)side * 7919 + 1;
	int ep[3] = { epset(c->fd, EPOLLOUT), epset(c->fd, EPOLLOUT | EPOLLET), epset(c->fd, EPOLLOUT | EPOLLONESHOT) };

	while (!atomic_load(&sh->stop)) {
		uint64_t r = rnd(&x);
		uint32_t way = r % 100 < 30 ? TX_BLOCK : (uint32_t)(r >> 8) % TX_WAYS;
		size_t n = some_size(&x);
		const uint8_t *p = pattern + off % PERIOD;
		struct iovec v[3];
		ssize_t k;

		atomic_store(&s->tx_way, way + 1);
		switch (way) {
		case TX_BLOCK:
			k = send(c->fd, p, n, MSG_NOSIGNAL);
			break;
		case TX_WRITEV:
			v[0] = (struct iovec){ (void *)(uintptr_t)p, n / 3 };
			v[1] = (struct iovec){ (void *)(uintptr_t)(p + n / 3), 0 };
			v[2] = (struct iovec){ (void *)(uintptr_t)(p + n / 3), n - n / 3 };
			k = writev(c->fd, v, 3);
			break;
		default:
			k = send(c->fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);
			if (k < 0 && errno == EAGAIN) {
				if (wait_in(way, c->fd, true, ep) < 0 && errno != EINTR) {
					fail("wait for room", c->i, off);
					break;
				}
				continue;
			}
		}
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0) {
			fail("send", c->i, off);
			break;
		}
		off += (uint64_t)k;
		atomic_store(&s->sent, off);
		if (!(rnd(&x) & 63)) {
			atomic_store(&s->tx_way, 100);
			nap((unsigned int)rnd(&x) % 3000);
		}
	}
	atomic_store(&s->ended, true);
	if (shutdown(c->fd, SHUT_WR) < 0)
		fail("shutdown", c->i, off);
	atomic_store(&s->tx_way, 101);
	close(ep[0]);
	close(ep[1]);
	close(ep[2]);
	return NULL;
}

/* ---- receiving */

enum { RX_POLL = TX_POLL, RX_SELECT, RX_LT, RX_ET, RX_ONESHOT, RX_BLOCK, RX_READV, RX_PEEK, RX_WAITALL, RX_WAYS };

static bool check(struct conn *c, uint64_t off, const uint8_t *p, size_t n)
{
	if (!memcmp(p, pattern + off % PERIOD, n))
		return true;
	while (*p == pattern[off % PERIOD]) {
		p++;
		off++;
	}
	errno = 0;
	fail("wrong byte", c->i, off);
	return false;
}

static void *receiver(void *arg)
{
	struct conn *c = arg;
	struct stream *s = &sh->s[c->i][!side];
	uint64_t off = 0, x = seed * 99 + (uint64_t)c->i * 1000033 + (uint64_t)side * 104729 + 1;
	int ep[3] = { epset(c->fd, EPOLLIN), epset(c->fd, EPOLLIN | EPOLLET | EPOLLRDHUP), epset(c->fd, EPOLLIN | EPOLLONESHOT) };
	uint8_t *buf = malloc(BIG), *peek = malloc(BIG);

	for (;;) {
		uint64_t r = rnd(&x);
		uint32_t way = r % 100 < 30 ? RX_BLOCK : RX_POLL + (uint32_t)(r >> 8) % (RX_WAYS - RX_POLL);
		size_t n = some_size(&x);
		struct iovec v[2];
		ssize_t k, k2;

		atomic_store(&s->rx_way, way + 1);
		switch (way) {
		case RX_BLOCK:
			k = recv(c->fd, buf, n, 0);
			break;
		case RX_READV:
			v[0] = (struct iovec){ buf, n / 2 };
			v[1] = (struct iovec){ buf + n / 2, n - n / 2 };
			k = readv(c->fd, v, 2);
			break;
		case RX_WAITALL:
			k = recv(c->fd, buf, 1 + n % 4096, MSG_WAITALL);
			break;
		case RX_PEEK:
			k2 = recv(c->fd, peek, n, MSG_PEEK);
			if (k2 < 0 && errno == EINTR)
				continue;
			k = k2 < 0 ? k2 : recv(c->fd, buf, k2 ? (size_t)k2 : n, 0);
			if (k > 0 && k2 > 0 && memcmp(buf, peek, (size_t)(k < k2 ? k : k2)))
				fail("peeked bytes differ", c->i, off);
			break;
		default:
			k = recv(c->fd, buf, n, MSG_DONTWAIT);
			if (k < 0 && errno == EAGAIN) {
				if (wait_in(way, c->fd, false, ep) < 0 && errno != EINTR) {
					fail("wait for bytes", c->i, off);
					k = 0;
					break;
				}
				continue;
			}
		}
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			fail("recv", c->i, off);
		if (k <= 0)
			break;
		if (!check(c, off, buf, (size_t)k))
			break;
		off += (uint64_t)k;
		atomic_store(&s->got, off);
		if (!(rnd(&x) & 63)) {
			atomic_store(&s->rx_way, 100);
			nap((unsigned int)rnd(&x) % 2000);
		}
	}
	atomic_store(&s->rx_way, 101);
	if (!atomic_load(&s->ended) || atomic_load(&s->sent) != off) {
		errno = 0;
		fail(atomic_load(&s->ended) ? "end of stream too early" : "end of stream out of nothing", c->i, off);
	}
	close(ep[0]);
	close(ep[1]);
	close(ep[2]);
	free(buf);
	free(peek);
	return NULL;
}

/* ---- moving */

static uint64_t gens(struct conn *c)
{
	struct vstate *st = atomic_load(&c->v->st);

	return st ? vs_gen(st) : 0;
}

static void *mover(void *arg)
{
	uint64_t x = seed * 13 + (uint64_t)side * 31 + 5;

	(void)arg;
	while (!atomic_load(&movers_stop)) {
		struct conn *c = &conn[rnd(&x) % (unsigned int)conns];

		nap((unsigned int)rnd(&x) % 1500);
		if (atomic_load(&sh->hold) || !vs_live(c->v))
			continue;
		if (vring_of(c->v)) {
			if (vring_leave(c->v, false))
				atomic_fetch_add(&sh->to_tcp[side], 1);
		} else if (vring_propose(c->v)) {
			atomic_fetch_add(&sh->to_ring[side], 1);
		}
		atomic_store(&sh->gens[side][c->i], gens(c));
	}
	return NULL;
}

/* ---- a round */

static bool make(int i)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = { htonl(INADDR_LOOPBACK) } };
	struct timeval patience = { 0, 0 };
	char b = (char)i;
	int fd, one = 1, at = i;

	(void)patience;
	if (side) {
		fd = socket(AF_INET, SOCK_STREAM, 0);
		if (fd < 0 || connect(fd, (void *)&a, sizeof(a)) < 0 || send(fd, &b, 1, 0) != 1)
			return false;
	} else {
		fd = accept(listener, NULL, NULL);
		if (fd < 0 || recv(fd, &b, 1, 0) != 1)
			return false;
		at = b;
	}
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	conn[at] = (struct conn){ .fd = fd, .i = at, .v = fdtab_vsock(fd) };
	return conn[at].v != NULL;
}

static bool run_round(void)
{
	pthread_t m[2];
	int i;

	for (i = 0; i < conns; i++)
		if (!make(i)) {
			fail("connect", i, 0);
			return false;
		}
	atomic_store(&movers_stop, false);
	for (i = 0; i < conns; i++) {
		pthread_create(&conn[i].tx, NULL, sender, &conn[i]);
		pthread_create(&conn[i].rx, NULL, receiver, &conn[i]);
	}
	for (i = 0; i < 2; i++)
		pthread_create(&m[i], NULL, mover, NULL);
	for (i = 0; i < conns; i++) {
		pthread_join(conn[i].tx, NULL);
		pthread_join(conn[i].rx, NULL);
	}
	atomic_store(&movers_stop, true);
	for (i = 0; i < 2; i++)
		pthread_join(m[i], NULL);
	for (i = 0; i < conns; i++) {
		atomic_store(&sh->gens[side][i], gens(&conn[i]));
		close(conn[i].fd);
		conn[i].v = NULL;
	}
	return !atomic_load(&sh->failed);
}

static void *dumper(void *arg)
{
	(void)arg;
	for (;;) {
		if (atomic_load(&sh->dump) & 1u << side) {
			dump();
			atomic_fetch_and(&sh->dump, ~(1u << side));
		}
		nap(20000);
	}
	return NULL;
}

/* ---- the watch, in the acceptor's process */

static uint64_t want = 400, per_round = 2000, before;
static uint64_t limit_ms = 60000;

static uint64_t sum_gens(void)
{
	uint64_t n = 0;
	int i;

	for (i = 0; i < conns; i++) {
		uint64_t a = atomic_load(&sh->gens[0][i]), b = atomic_load(&sh->gens[1][i]);

		n += a > b ? a : b;
	}
	return n;
}

static void *watch(void *arg)
{
	static uint64_t last[CONNS][2], since[CONNS][2];
	uint64_t began = ms();

	(void)arg;
	for (;;) {
		bool hold = false;
		uint32_t none = 0;
		int i, d;

		nap(10000);
		/* Not over main's 2, which ends the other process. */
		if (before + sum_gens() >= want || ms() - began > limit_ms)
			atomic_compare_exchange_strong(&sh->quit, &none, 1);
		if (sum_gens() >= per_round || atomic_load(&sh->quit))
			atomic_store(&sh->stop, true);
		for (i = 0; i < conns; i++)
			for (d = 0; d < 2; d++) {
				struct stream *s = &sh->s[i][d];
				uint64_t n = atomic_load(&s->sent) + atomic_load(&s->got);
				bool done = s->tx_way == 101 && s->rx_way == 101;

				if (n != last[i][d] || done || !s->tx_way) {
					last[i][d] = n;
					since[i][d] = ms();
					continue;
				}
				hold |= ms() - since[i][d] > STILL_MS;
				if (ms() - since[i][d] > STILL_MS + DEAD_MS) {
					fprintf(stderr, "HANGS: conn %d, sender's side %d\n", i, d);
					atomic_store(&sh->failed, true);
					atomic_store(&sh->dump, 3);
					nap(300000);
					if (getenv("RING_MOVE_STAY"))
						pause();
					kill(0, SIGKILL);
				}
			}
		atomic_store(&sh->hold, hold);
	}
	return NULL;
}

static int child(uint32_t round)
{
	pthread_t t;

	pthread_create(&t, NULL, dumper, NULL);
	for (;; round++) {
		while (atomic_load(&sh->round) <= round)
			nap(500);
		if (atomic_load(&sh->quit) == 2)
			return 0;
		if (!run_round())
			return 1;
		atomic_fetch_add(&sh->ended, 1);
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	uint64_t began = ms(), bytes = 0, rounds = 0;
	socklen_t l = sizeof(a);
	int o, i, d, status;
	pthread_t t;
	uint32_t j;
	pid_t pid;

	while ((o = getopt(argc, argv, "n:c:r:s:t:")) != -1) {
		switch (o) {
		case 'n': want = strtoull(optarg, NULL, 0); break;
		case 'c': conns = atoi(optarg); break;
		case 'r': per_round = strtoull(optarg, NULL, 0); break;
		case 's': seed = strtoull(optarg, NULL, 0) | 1; break;
		case 't': limit_ms = strtoull(optarg, NULL, 0) * 1000; break;
		default: return 2;
		}
	}
	if (conns < 1 || conns > CONNS)
		return 2;
	setpgid(0, 0);		/* a hang ends both */
	for (j = 0; j < sizeof(pattern); j++) {
		uint64_t z = (j % PERIOD + 1) * UINT64_C(0x9e3779b97f4a7c15);

		pattern[j] = (uint8_t)(z >> 40 ^ z >> 17);
	}
	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	listener = socket(AF_INET, SOCK_STREAM, 0);
	if (sh == MAP_FAILED || listener < 0 || bind(listener, (void *)&a, sizeof(a)) < 0 || listen(listener, CONNS) < 0 ||
	    getsockname(listener, (void *)&a, &l) < 0)
		return 2;
	port = ntohs(a.sin_port);
	pid = fork();
	if (pid < 0)
		return 2;
	if (!pid) {
		side = 1;
		close(listener);
		_exit(child(0));
	}
	pthread_create(&t, NULL, dumper, NULL);
	atomic_store(&sh->round, 1);
	pthread_create(&t, NULL, watch, NULL);
	for (;;) {
		bool ok = run_round();

		for (i = 0; i < conns; i++)
			for (d = 0; d < 2; d++)
				bytes += sh->s[i][d].got;
		while (ok && atomic_load(&sh->ended) < rounds + 1 && !atomic_load(&sh->failed) && waitpid(pid, &status, WNOHANG) == 0)
			nap(1000);
		rounds++;
		if (!ok || atomic_load(&sh->failed) || atomic_load(&sh->quit))
			break;
		before += sum_gens();
		memset(sh->gens, 0, sizeof(sh->gens));
		memset(sh->s, 0, sizeof(sh->s));
		seed += 2;
		atomic_store(&sh->stop, false);
		atomic_fetch_add(&sh->round, 1);
	}
	atomic_store(&sh->quit, 2);
	atomic_fetch_add(&sh->round, 1);
	waitpid(pid, &status, 0);
	printf("handovers %llu of %llu in %llu ms, asked: to ring %llu + %llu, to tcp %llu + %llu\n",
	       (unsigned long long)(before + sum_gens()), (unsigned long long)want, (unsigned long long)(ms() - began),
	       (unsigned long long)sh->to_ring[0], (unsigned long long)sh->to_ring[1], (unsigned long long)sh->to_tcp[0],
	       (unsigned long long)sh->to_tcp[1]);
	printf("bytes %llu, connections %llu\n", (unsigned long long)bytes, (unsigned long long)rounds * (unsigned int)conns);
	if (atomic_load(&sh->failed) || !WIFEXITED(status) || WEXITSTATUS(status))
		return 1;
	return before + sum_gens() >= want ? 0 : 1;
}
