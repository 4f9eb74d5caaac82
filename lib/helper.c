#include "helper.h"
#include "conf.h"
#include "ep.h"
#include "log.h"
#include "meet.h"
#include "mend.h"
#include "sys.h"
#include "upgrade.h"
#include "vs_io.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

enum { OFF, STARTING, ON, FAILED };
static _Atomic uint32_t state;			/* of the helper in this process */
static int ep_fd = -1, wake_fd = -1, listen_fd = -1;
static uint64_t start_time;
static _Atomic(struct vsock *) queue;		/* stack of vsocks that want something */
static struct chan *chans;
static unsigned int nchan;

/* Strangers of our own user can connect as often as they like: bounded. */
#define CHAN_MAX 1024

/* A late thread may still look at an ended connection's memory: leave it for this long. */
#define REAP_NS 200000000u
struct reap { struct vsock *v; uint64_t due; struct reap *next; };
static struct reap *reaps;

uint64_t helper_start_time(void)
{
	return start_time;
}

/* ---- channels */

struct chan *chan_open(int fd, uint64_t due_ns, struct vsock *v)
{
	struct chan *c = calloc(1, sizeof(*c));
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = c };

	if (!c || sys_epoll_ctl(ep_fd, EPOLL_CTL_ADD, fd, &ev) < 0) {
		free(c);
		return NULL;
	}
	c->fd = fd;
	c->due = due_ns;
	c->v = v;
	c->birth = v ? atomic_load(&v->birth) : 0;
	c->next = chans;
	chans = c;
	nchan++;
	return c;
}

void chan_close(struct chan *c)
{
	if (!c || c->dead)
		return;
	c->dead = true;		/* freed by the loop: its events may be at hand */
	fdtab_close_hidden(c->fd);
}

static bool orphaned(struct chan *c)
{
	return c->v && atomic_load(&c->v->birth) != c->birth;
}

static void chan_end(struct chan *c)
{
	if (c->dead)
		return;
	if (c->on_end && !orphaned(c))
		c->on_end(c);
	chan_close(c);
}

int chan_send(struct chan *c, const struct msg *m, const uint8_t *key, const int *fds, int nfds)
{
	uint8_t buf[WIRE_MAX];
	size_t n = wire_encode(m, key, buf);

	return sys_send_fds(c->fd, buf, n, fds, nfds);
}

static bool good_uid(int fd)
{
	unsigned int uid;

	return sys_peer_uid(fd, &uid) == 0 && (uid == sys_geteuid() || uid == 0);
}

int chan_dial(uint32_t pid, uint64_t start)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd, e;

	if (meet_rendezvous(a.sun_path, sizeof(a.sun_path), pid, start) < 0) {
		errno = ENOENT;
		return -1;
	}
	fd = fdtab_hide(sys_seqpacket());
	if (fd < 0)
		return -1;
	if (sys_connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
		e = errno;
		/* A socket file whose process is gone. */
		if (e == ECONNREFUSED)
			sys_unlink(a.sun_path);
		fdtab_close_hidden(fd);
		errno = e;
		return -1;
	}
	if (!good_uid(fd)) {
		log_error("%s: belongs to another user: not used", a.sun_path);
		fdtab_close_hidden(fd);
		errno = EACCES;
		return -1;
	}
	return fd;
}

/* The first message on an accepted channel says what it is about. */
static void first_msg(struct chan *c, const uint8_t *buf, size_t n, int *fds, int nfds)
{
	struct msg m;
	enum wire_error we = wire_decode(&m, NULL, buf, n);

	if (we != WIRE_OK) {
		log_debug("rendezvous: %s (%zu bytes)", wire_strerror(we), n);
		chan_close(c);
		return;
	}
	switch (m.type) {
	case MSG_HELLO:
		upgrade_hello(c, &m);
		break;
	case MSG_REQ:
		mend_request(c, &m, buf, n, fds, nfds);
		break;
	case MSG_PULL:
		mend_pull(c, &m, buf, n);
		break;
	default:
		log_debug("rendezvous: unexpected %s", wire_name(m.type));
		chan_close(c);
	}
}

static void chan_readable(struct chan *c)
{
	uint8_t buf[WIRE_MAX + 1];
	int fds[2] = { -1, -1 }, nfds = 2, i;
	ssize_t n = sys_recv_fds(c->fd, buf, sizeof(buf), fds, &nfds);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		chan_end(c);
		return;
	}
	for (i = 0; i < nfds; i++)
		fds[i] = fdtab_hide(fds[i]);
	if (orphaned(c))
		chan_close(c);
	else
		c->on_msg(c, buf, (size_t)n, fds, nfds);
	for (i = 0; i < nfds; i++)
		fdtab_close_hidden(fds[i]);	/* a handler that keeps one leaves -1 */
}

static void accept_all(void)
{
	int fd, i;

	/* Bounded: mending goes on between the bursts of a noisy neighbour. */
	for (i = 0; i < 16; i++) {
		struct chan *c;

		fd = sys_accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0)
			return;
		fd = fdtab_hide(fd);
		if (fd < 0)
			continue;
		if (nchan >= CHAN_MAX || !good_uid(fd)) {
			log_debug("rendezvous: refused a connection");
			fdtab_close_hidden(fd);
			continue;
		}
		c = chan_open(fd, sys_now_ns() + 2000000000u, NULL);
		if (c)
			c->on_msg = first_msg;
		else
			fdtab_close_hidden(fd);
	}
}

static void chans_sweep(uint64_t now, uint64_t *next)
{
	struct chan **p = &chans, *c;

	for (c = chans; c; c = c->next)
		if (!c->dead && c->due && c->due <= now)
			chan_end(c);
	while ((c = *p)) {
		if (c->dead) {
			*p = c->next;
			nchan--;
			free(c);
			continue;
		}
		if (c->due && (!*next || c->due < *next))
			*next = c->due;
		p = &c->next;
	}
}

/* ---- ended connections */

static void reap_later(struct vsock *v)
{
	struct reap *r = malloc(sizeof(*r));

	if (!r)
		return;		/* a leak of one connection's memory, when there is none */
	r->v = v;
	r->due = sys_now_ns() + REAP_NS;
	r->next = reaps;
	reaps = r;
}

static void reap_timers(uint64_t now, uint64_t *next)
{
	struct reap **p = &reaps, *r;

	while ((r = *p)) {
		struct vstate *st = atomic_load(&r->v->st);

		if (r->due <= now && !RX_USERS(atomic_load(&r->v->rx0)) &&
		    (!st || (!RX_USERS(atomic_load(atomic_load(&r->v->rxc))) &&
			     (atomic_load(&st->shared) || !atomic_load(&st->tx))))) {
			*p = r->next;
			vs_reap(r->v);
			free(r);
			continue;
		}
		if (r->due <= now)
			r->due = now + REAP_NS;
		if (!*next || r->due < *next)
			*next = r->due;
		p = &r->next;
	}
}

/* ---- the replay buffers of idle connections go back to their smallest */

#define RELAX_NS 500000000u
static uint64_t relax_due;

static void relax(uint64_t now, uint64_t *next)
{
	struct vsock *v;
	bool more = false;

	if (!relax_due || now < relax_due)
		goto out;
	shlock_take(&vs_fds_lock, -1, false);
	for (v = vs_live_head; v; v = v->live_next) {
		struct vstate *st = atomic_load(&v->st);

		if (!st || st->replay.cap == st->replay.min || atomic_load(&st->phase) & PH_BITS)
			continue;
		if (shlock_take(&st->tx, 0, false) == SHLOCK_OK) {
			uint32_t cap = st->replay.cap;

			vs_trim_locked(st, atomic_load(&v->fd));
			if (replay_relax(&st->replay))
				sys_discard((char *)st + REPLAY_AT + REPLAY_MIN, cap - REPLAY_MIN);
			else
				more = true;
			shlock_drop(&st->tx);
		} else {
			more = true;
		}
	}
	shlock_drop(&vs_fds_lock);
	relax_due = more ? now + RELAX_NS : 0;
out:
	if (relax_due && (!*next || relax_due < *next))
		*next = relax_due;
}

/* ---- the loop */

static void serve(struct vsock *v, uint32_t want)
{
	if (want & WANT_REAP) {
		mend_forget(v);
		upgrade_forget(v);
		reap_later(v);
		return;
	}
	if (want & WANT_OFFERED)
		upgrade_offered(v);
	if (want & WANT_MEET)
		upgrade_dial(v);
	if (want & (WANT_MEND | WANT_FLUSH))
		mend_poke(v);
}

static void drain_queue(void)
{
	struct vsock *v = atomic_exchange(&queue, NULL), *next;

	for (; v; v = next) {
		uint32_t want;

		next = atomic_load(&v->qnext);
		want = atomic_exchange(&v->want, 0);
		if (want)
			serve(v, want);
	}
}

static void *loop(void *arg)
{
	struct epoll_event ev[32];
	uint64_t now, next, t;
	int i, n, tmo;

	(void)arg;
	meet_sweep();
	for (;;) {
		drain_queue();
		now = sys_now_ns();
		next = mend_timers(now);
		chans_sweep(now, &next);
		reap_timers(now, &next);
		relax(now, &next);
		now = sys_now_ns();
		tmo = -1;
		if (next)
			tmo = next <= now ? 0 : (int)((next - now + 999999) / 1000000);
		if (atomic_load(&queue))
			tmo = 0;
		n = sys_epoll_wait(ep_fd, ev, ARRAY_SIZE(ev), tmo);
		for (i = 0; i < n; i++) {
			if (ev[i].data.ptr == &wake_fd) {
				if (sys_read(wake_fd, &t, sizeof(t)) < 0)
					continue;
				/* Something happened: idle connections can be looked at later. */
				if (!relax_due)
					relax_due = sys_now_ns() + RELAX_NS;
			} else if (ev[i].data.ptr == &listen_fd) {
				accept_all();
			} else if ((uintptr_t)ev[i].data.ptr & 1) {
				struct vsock *v = (struct vsock *)((uintptr_t)ev[i].data.ptr & ~(uintptr_t)1);

				mend_poke(v);
			} else {
				struct chan *c = ev[i].data.ptr;

				if (!c->dead)
					chan_readable(c);
			}
		}
	}
	return NULL;
}

void helper_watch(struct vsock *v, int fd)
{
	struct epoll_event ev = { .events = EPOLLOUT | EPOLLONESHOT,
				  .data.ptr = (void *)((uintptr_t)v | 1) };

	if (sys_epoll_ctl(ep_fd, EPOLL_CTL_MOD, fd, &ev) < 0)
		sys_epoll_ctl(ep_fd, EPOLL_CTL_ADD, fd, &ev);
}

static bool open_rendezvous(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct epoll_event ev = { .events = EPOLLIN };
	uint32_t me = (uint32_t)sys_getpid();

	start_time = sys_starttime((int)me);
	if (meet_rendezvous(a.sun_path, sizeof(a.sun_path), me, start_time) < 0)
		return false;
	sys_unlink(a.sun_path);		/* same pid and start time: left by nobody alive */
	ep_fd = fdtab_hide(sys_epoll_create1(EPOLL_CLOEXEC));
	wake_fd = fdtab_hide(sys_eventfd());
	listen_fd = fdtab_hide(sys_seqpacket());
	if (ep_fd < 0 || wake_fd < 0 || listen_fd < 0 ||
	    sys_bind(listen_fd, (struct sockaddr *)&a, sizeof(a)) < 0 ||
	    sys_chmod(a.sun_path, 0600) < 0 || sys_listen(listen_fd, 4096) < 0)
		return false;
	ev.data.ptr = &wake_fd;
	if (sys_epoll_ctl(ep_fd, EPOLL_CTL_ADD, wake_fd, &ev) < 0)
		return false;
	ev.data.ptr = &listen_fd;
	return sys_epoll_ctl(ep_fd, EPOLL_CTL_ADD, listen_fd, &ev) == 0;
}

static void close_all(void)
{
	fdtab_close_hidden(ep_fd);
	fdtab_close_hidden(wake_fd);
	fdtab_close_hidden(listen_fd);
	ep_fd = wake_fd = listen_fd = -1;
}

static bool start_thread(void)
{
	sigset_t all, old;
	pthread_attr_t at;
	pthread_t t;
	int r;

	if (sodium_init() < 0 || pthread_attr_init(&at))
		return false;
	pthread_attr_setdetachstate(&at, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&at, 256 << 10);
	/* The program's signal handlers are not for our thread. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&t, &at, loop, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&at);
	return r == 0;
}

bool helper_start(void)
{
	uint32_t s = atomic_load(&state);

	while (s != ON) {
		if (s == FAILED)
			return false;
		if (s == STARTING) {
			sys_nap_us(20);
			s = atomic_load(&state);
			continue;
		}
		if (!atomic_compare_exchange_strong(&state, &s, STARTING))
			continue;
		if (open_rendezvous() && start_thread()) {
			atomic_store(&state, ON);
			break;
		}
		log_error("no rendezvous socket or thread for upgrades (%s): connections stay plain TCP",
			  strerror(errno));
		close_all();
		atomic_store(&state, FAILED);
		return false;
	}
	return true;
}

bool helper_running(void)
{
	return atomic_load(&state) == ON;
}

bool helper_want(struct vsock *v, uint32_t bits)
{
	uint32_t old;
	uint64_t one = 1;
	int e = errno;

	if (roam_vfork_child || !helper_start())
		return false;
	old = atomic_fetch_or(&v->want, bits);
	if (!old) {
		struct vsock *h = atomic_load(&queue);

		do
			atomic_store(&v->qnext, h);
		while (!atomic_compare_exchange_weak(&queue, &h, v));
	}
	if ((old & bits) != bits && sys_write(wake_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
		log_debug("helper: cannot wake: %s", strerror(errno));
	errno = e;
	return true;
}

void helper_moved(int from, int to)
{
	if (from == listen_fd)
		listen_fd = to;
	else if (from == wake_fd)
		wake_fd = to;
	else if (from == ep_fd)
		ep_fd = to;
	/* Channels that lose their number end, and are tried again. */
}

/* ---- fork and exit */

void helper_fork_prepare(void)
{
	struct vsock *v;

	shlock_take(&vs_fds_lock, -1, false);
	ep_fork_prepare();
	for (v = vs_live_head; v; v = v->live_next) {
		struct vstate *st = atomic_load(&v->st);

		atomic_store(&st->shared, 1);
		if (v->pair)
			atomic_store(&v->pair->side[st->ho.role].forked, 1);
	}
}

void helper_fork_parent(void)
{
	ep_fork_done();
	shlock_drop(&vs_fds_lock);
}

void helper_fork_child(void)
{
	int fd, top = fdtab_top();

	ep_fork_done();
	/* The parent's rendezvous and channels are the parent's. */
	for (fd = 0; fd < top; fd++)
		if (fdtab_hidden(fd) && fd != log_descriptor())
			fdtab_close_hidden(fd);
	ep_fd = wake_fd = listen_fd = -1;
	atomic_store(&queue, NULL);
	chans = NULL;
	nchan = 0;
	reaps = NULL;
	relax_due = 0;
	atomic_store(&state, OFF);
	mend_fork_child();
	vs_fork_child();
}

void helper_exit(void)
{
	struct sockaddr_un a;
	struct vsock *v;

	if (roam_vfork_child)
		return;
	meet_exit();
	if (atomic_load(&state) != ON)
		return;
	if (shlock_take(&vs_fds_lock, 100000000, false) == SHLOCK_OK) {
		for (v = vs_live_head; v; v = v->live_next) {
			struct vstate *st = atomic_load(&v->st);

			if (!(atomic_load(&st->phase) & PH_NOREP) && !atomic_load(&st->shared))
				vs_announce_fin(v, true);
		}
		shlock_drop(&vs_fds_lock);
	}
	if (meet_rendezvous(a.sun_path, sizeof(a.sun_path), (uint32_t)sys_getpid(), start_time) > 0)
		sys_unlink(a.sun_path);
}
