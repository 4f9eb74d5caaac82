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
static int ep_fd = -1, wake_fd = -1, listen_fd = -1, pidfd = -1;
static int xfer_app = -1, xfer_hlp = -1;	/* between the two tables */
static bool own_table;
static int my_wake = -1;			/* wake_fd in the helper's table: the program's may move */
__thread bool roam_in_helper;
_Atomic uint32_t vs_to_install;
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

/* ---- two descriptor tables */

int helper_keep(int fd)
{
	return own_table ? fd : fdtab_hide(fd);
}

void helper_close(int fd)
{
	if (fd < 0)
		return;
	if (own_table)
		sys_close(fd);
	else
		fdtab_close_hidden(fd);
}

int helper_borrow(int fd)
{
	return own_table ? sys_pidfd_getfd(pidfd, fd) : fdtab_hide_copy(fd);
}

int helper_socket(void)
{
	return atomic_load(&state) == ON ? xfer_app : -1;
}

struct xfer {
	struct vsock *v;
	uint32_t birth, gen;
};

bool helper_tell(struct vsock *v, int link, uint32_t gen)
{
	struct xfer x = { v, atomic_load(&v->birth), gen };

	atomic_fetch_add(&vs_to_install, 1);
	if (sys_send_fds(xfer_hlp, &x, sizeof(x), &link, link >= 0) == 0)
		return true;
	atomic_fetch_sub(&vs_to_install, 1);
	return false;
}

bool helper_give(struct vsock *v, int fd)
{
	struct xfer x = { v, atomic_load(&v->birth), 0 };

	return helper_start() && sys_send_fds(xfer_app, &x, sizeof(x), &fd, 1) == 0;
}

/* The new link under every descriptor of v; vs_fds_lock is held. */
static void install(struct vsock *v, int link, uint32_t gen)
{
	int i, top = atomic_load(&v->nfd) > 1 ? fdtab_top() : 0;

	for (i = 0; i < top || (!top && i < 1); i++) {
		int fd = top ? i : atomic_load(&v->fd), flags;

		if (fdtab_vsock(fd) != v)
			continue;
		flags = sys_fcntl(fd, F_GETFD, 0);
		sys_dup3(link, fd, flags > 0 && flags & FD_CLOEXEC ? O_CLOEXEC : 0);
	}
	atomic_store(&v->phase_ok, gen * PH_GEN);
}

void helper_install(void)
{
	for (;;) {
		struct xfer x;
		int link = -1, n = 1;
		bool ours;
		ssize_t r;

		if (shlock_take(&vs_fds_lock, -1, false) == SHLOCK_SELF)
			return;
		r = sys_recv_fds(xfer_app, &x, sizeof(x), &link, &n);
		if (r != sizeof(x)) {
			shlock_drop(&vs_fds_lock);
			return;
		}
		atomic_fetch_sub(&vs_to_install, 1);
		ours = atomic_load(&x.v->birth) == x.birth && atomic_load(&x.v->nfd) && vs_live_now(x.v);
		if (ours && n == 1) {
			/* The kernel drops the old socket's registrations: note them first. */
			ep_detach(x.v);
			install(x.v, link, x.gen);
		}
		if (n == 1)
			sys_close(link);
		shlock_drop(&vs_fds_lock);
		if (ours) {
			ep_attach(x.v);
			vs_phase(atomic_load(&x.v->st), 0, 0);
			helper_want(x.v, WANT_FLUSH);
		}
	}
}

/* A socket the program closes with bytes still to deliver. */
static void take_given(void)
{
	struct xfer x;
	int fd = -1, n = 1;

	while (sys_recv_fds(xfer_hlp, &x, sizeof(x), &fd, &n) == sizeof(x)) {
		if (n == 1)
			fd = helper_keep(fd);
		if (n == 1 && atomic_load(&x.v->birth) == x.birth)
			mend_given(x.v, fd);
		else if (n == 1)
			helper_close(fd);
		fd = -1;
		n = 1;
	}
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
	helper_close(c->fd);
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
	fd = helper_keep(sys_seqpacket());
	if (fd < 0)
		return -1;
	if (sys_connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
		e = errno;
		/* A socket file whose process is gone. */
		if (e == ECONNREFUSED)
			sys_unlink(a.sun_path);
		helper_close(fd);
		errno = e;
		return -1;
	}
	if (!good_uid(fd)) {
		log_error("%s: belongs to another user: not used", a.sun_path);
		helper_close(fd);
		errno = EACCES;
		return -1;
	}
	return fd;
}

void helper_unwatch(int fd)
{
	sys_epoll_ctl(ep_fd, EPOLL_CTL_DEL, fd, NULL);
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
		fds[i] = helper_keep(fds[i]);
	if (orphaned(c))
		chan_close(c);
	else
		c->on_msg(c, buf, (size_t)n, fds, nfds);
	for (i = 0; i < nfds; i++)
		helper_close(fds[i]);	/* a handler that keeps one leaves -1 */
}

/* Strangers that connect and say nothing must not keep others out: the oldest goes. */
static void make_room(void)
{
	struct chan *c, *oldest = NULL;

	if (nchan < CHAN_MAX)
		return;
	for (c = chans; c; c = c->next)
		if (!c->dead && c->on_msg == first_msg)
			oldest = c;
	chan_close(oldest);
}

static void accept_all(void)
{
	int fd, i;

	/* Bounded: mending goes on between the bursts of a noisy neighbour. */
	for (i = 0; i < 64; i++) {
		struct chan *c;

		fd = sys_accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0)
			return;
		fd = helper_keep(fd);
		if (fd < 0)
			continue;
		make_room();
		if (nchan >= 2 * CHAN_MAX || !good_uid(fd)) {
			log_debug("rendezvous: refused a connection");
			helper_close(fd);
			continue;
		}
		c = chan_open(fd, sys_now_ns() + 2000000000u, NULL);
		if (c)
			c->on_msg = first_msg;
		else
			helper_close(fd);
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

/* Is a thread of this process in a send?  Other sharers go on with the mapping of their own. */
static bool ours_holds(struct vstate *st)
{
	uint32_t tid = atomic_load(&st->tx) & ~SHLOCK_WAITERS;

	return tid && (!atomic_load(&st->shared) || sys_own_thread((int)tid));
}

static void reap_timers(uint64_t now, uint64_t *next)
{
	struct reap **p = &reaps, *r;

	while ((r = *p)) {
		struct vstate *st = atomic_load(&r->v->st);

		if (r->due <= now && !RX_USERS(atomic_load(&r->v->rx0)) &&
		    !atomic_load(&r->v->inside) &&
		    (!st || (!RX_USERS(atomic_load(atomic_load(&r->v->rxc))) && !ours_holds(st)))) {
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

		if (!st || atomic_load(&st->phase) & PH_BITS)
			continue;
		if (shlock_take(&st->tx, 0, false) == SHLOCK_OK) {
			uint32_t cap = st->replay.cap;
			int fd;

			if (cap == st->replay.min) {
				shlock_drop(&st->tx);
				continue;
			}
			fd = helper_borrow(atomic_load(&v->fd));
			if (fd >= 0 && sys_sock_ino(fd) == st->link_ino)
				vs_trim_locked(st, fd);
			helper_close(fd);
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
	/* Ended; a thread that waits for it has not noticed yet. */
	if (vs_live(v) && !atomic_load(&v->nfd) && !v->orphan)
		return;
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
		uint32_t want, busy = WANT_BUSY;

		next = atomic_load(&v->qnext);
		/* While we are at it nobody queues it, and nobody gives it back. */
		do {
			want = atomic_exchange(&v->want, WANT_BUSY) & ~WANT_BUSY;
			serve(v, want);
			busy = WANT_BUSY;
		} while (!(want & WANT_REAP) &&
			 !atomic_compare_exchange_strong(&v->want, &busy, 0));
	}
}

static bool open_rendezvous(void);
static void leave_table(void);

static void *loop(void *arg)
{
	struct epoll_event ev[32];
	uint64_t now, next, t;
	int i, n, tmo;

	(void)arg;
	roam_in_helper = true;
	my_wake = wake_fd;
	leave_table();
	if (!open_rendezvous()) {
		atomic_store(&state, FAILED);
		return NULL;
	}
	atomic_store(&state, ON);
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
				if (sys_read(my_wake, &t, sizeof(t)) < 0)
					continue;
				/* Something happened: idle connections can be looked at later. */
				if (!relax_due)
					relax_due = sys_now_ns() + RELAX_NS;
			} else if (ev[i].data.ptr == &xfer_hlp) {
				take_given();
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

/* Out of the program's table, but for what we share with it. */
static void leave_table(void)
{
	int keep[3] = { wake_fd, xfer_hlp, log_descriptor() }, i, j, t;
	unsigned int from = 0;
	int probe;

	pidfd = sys_pidfd_self();
	probe = pidfd < 0 ? -1 : sys_pidfd_getfd(pidfd, wake_fd);
	if (probe < 0) {
		log_debug("pidfd_getfd: %s; the helper shares the program's descriptor table",
			  strerror(errno));
		if (pidfd >= 0)
			sys_close(pidfd);
		pidfd = -1;
		return;
	}
	sys_close(probe);
	sys_close(pidfd);
	for (i = 0; i < 3; i++)
		for (j = i + 1; j < 3; j++)
			if (keep[j] < keep[i]) {
				t = keep[i];
				keep[i] = keep[j];
				keep[j] = t;
			}
	/* The first call leaves the shared table, the others only close in ours. */
	own_table = true;
	for (i = 0; i < 3; i++) {
		if (keep[i] < 0)
			continue;
		if ((unsigned int)keep[i] > from && sys_unshare_fds(from, (unsigned int)keep[i] - 1) < 0) {
			own_table = false;
			return;
		}
		from = (unsigned int)keep[i] + 1;
	}
	sys_unshare_fds(from, ~0u);
	pidfd = sys_pidfd_self();
}

static bool watch(int fd, void *mark)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = mark };

	return sys_epoll_ctl(ep_fd, EPOLL_CTL_ADD, fd, &ev) == 0;
}

/* In the helper, which by now has a table of its own. */
static bool open_rendezvous(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	uint32_t me = (uint32_t)sys_getpid();

	start_time = sys_starttime((int)me);
	if (meet_rendezvous(a.sun_path, sizeof(a.sun_path), me, start_time) < 0)
		return false;
	sys_unlink(a.sun_path);		/* same pid and start time: left by nobody alive */
	ep_fd = helper_keep(sys_epoll_create1(EPOLL_CLOEXEC));
	listen_fd = helper_keep(sys_seqpacket());
	return ep_fd >= 0 && listen_fd >= 0 &&
	    sys_bind(listen_fd, (struct sockaddr *)&a, sizeof(a)) == 0 &&
	    sys_chmod(a.sun_path, 0600) == 0 && sys_listen(listen_fd, 4096) == 0 &&
	    watch(wake_fd, &wake_fd) && watch(listen_fd, &listen_fd) && watch(xfer_hlp, &xfer_hlp);
}

static void close_all(void)
{
	fdtab_close_hidden(wake_fd);
	fdtab_close_hidden(xfer_app);
	fdtab_close_hidden(xfer_hlp);
	wake_fd = xfer_app = xfer_hlp = -1;
}

static bool start_thread(void)
{
	sigset_t all, old;
	pthread_attr_t at;
	pthread_t t;
	int r, pair[2];

	wake_fd = fdtab_hide(sys_eventfd());
	if (wake_fd < 0 || sys_socketpair(pair) < 0)
		return false;
	xfer_app = fdtab_hide(pair[0]);
	xfer_hlp = fdtab_hide(pair[1]);
	if (xfer_app < 0 || xfer_hlp < 0 || sodium_init() < 0 || pthread_attr_init(&at))
		return false;
	pthread_attr_setdetachstate(&at, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&at, 256 << 10);
	/* The program's signal handlers are not for our thread. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = sys_pthread_create(&t, &at, loop, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&at);
	if (r)
		errno = r;
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
		if (start_thread())
			while (atomic_load(&state) == STARTING)
				sys_nap_us(20);
		if (atomic_load(&state) == ON) {
			/* Its copy is the one that counts: the program's may go. */
			if (own_table)
				fdtab_close_hidden(xfer_hlp);
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
	if (from == wake_fd)
		wake_fd = to;
	else if (from == xfer_app)
		xfer_app = to;
	else if (own_table)
		return;
	else if (from == listen_fd)
		listen_fd = to;
	else if (from == ep_fd)
		ep_fd = to;
	else if (from == xfer_hlp)
		xfer_hlp = to;
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
		vs_reserve_slot(v);
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
		else if (fdtab_vsock(fd))
			vs_fork_plain(fdtab_vsock(fd));
	ep_fd = wake_fd = listen_fd = xfer_app = xfer_hlp = pidfd = -1;
	own_table = false;
	atomic_store(&vs_to_install, 0);
	atomic_store(&queue, NULL);
	chans = NULL;
	nchan = 0;
	reaps = NULL;
	relax_due = 0;
	atomic_store(&state, OFF);
	mend_fork_child();
	meet_fork_child();
	vs_fork_child();
}

#define EXIT_NS UINT64_C(3000000000)

/*
 * The kernel goes on delivering after a process has ended; so must we when a
 * link is being mended just then.  The helper works on, for a while.
 */
static void deliver_last(void)
{
	uint64_t end = sys_now_ns() + EXIT_NS;
	struct vsock *v;
	bool busy = true;

	while (busy && sys_now_ns() < end && atomic_load(&vs_live_count)) {
		busy = false;
		if (shlock_take(&vs_fds_lock, 100000000, false) != SHLOCK_OK)
			return;
		for (v = vs_live_head; v; v = v->live_next) {
			struct vstate *st = atomic_load(&v->st);
			uint32_t ph = atomic_load(&st->phase);

			if (ph & PH_NOREP || !(ph & (PH_MEND | PH_UNSENT)) ||
			    !vs_last_sharer(v, st) || !replay_used(&st->replay))
				continue;
			vs_announce_fin(v, false);
			st->shut_wr = 1;
			busy = true;
		}
		shlock_drop(&vs_fds_lock);
		if (busy)
			sys_nap_us(500);
	}
}

void helper_exit(void)
{
	struct sockaddr_un a;
	struct vsock *v;

	if (roam_vfork_child)
		return;
	meet_exit();
	if (atomic_load(&state) == ON && !roam_in_helper)
		deliver_last();
	/* A forked child that never needed a helper ends connections like any other. */
	if (shlock_take(&vs_fds_lock, 100000000, false) == SHLOCK_OK) {
		for (v = vs_live_head; v; v = v->live_next) {
			struct vstate *st = atomic_load(&v->st);

			if (!(atomic_load(&st->phase) & PH_NOREP) && vs_last_sharer(v, st))
				vs_announce_fin(v, true);
			if (v->slot >= 0)
				atomic_store(&st->slot[v->slot].s.pid, 0);
		}
		shlock_drop(&vs_fds_lock);
	}
	if (atomic_load(&state) != ON)
		return;
	if (meet_rendezvous(a.sun_path, sizeof(a.sun_path), (uint32_t)sys_getpid(), start_time) > 0)
		sys_unlink(a.sun_path);
}
