#include "helper_int.h"
#include "adapt.h"
#include "conf.h"
#include "agent.h"
#include "ep.h"
#include "event.h"
#include "far.h"
#include "freeze.h"
#include "log.h"
#include "meet.h"
#include "park.h"
#include "mend.h"
#include "peers.h"
#include "sys.h"
#include "upgrade.h"
#include "vring.h"
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
static int wake_fd = -1, listen_fd = -1, pidfd = -1;
int helper_ep = -1;
static int xfer_app = -1, xfer_hlp = -1;	/* between the two tables */
static bool own_table;
static int my_wake = -1;			/* wake_fd in the helper's table: the program's may move */
__thread bool roam_in_helper;
_Atomic uint32_t vs_to_install;
static uint64_t start_time;
static _Atomic(struct vsock *) queue;		/* stack of vsocks that want something */

bool helper_own_table(void)
{
	return own_table;
}

bool helper_watch_peer(void *p, int fd)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLONESHOT, .data.ptr = (void *)((uintptr_t)p | 3) };

	return sys_epoll_ctl(helper_ep, EPOLL_CTL_ADD, fd, &ev) == 0;
}

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

/* ---- the loop */

/* The agent hears of it from the last process that had it. */
static void ended(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);

	if (!st || !v->pair)
		return;
	/* Given up: its end is announced to nobody, but the agent need not remember it.  A parked one is its. */
	if (!atomic_load(&v->pair->side[st->ho.role].closed) &&
	    (!(atomic_load(&st->phase) & PH_NOREP) || atomic_load(&st->reason) == REASON_PARKED))
		return;
	if (vs_by_agents(st))
		agent_notice(v);
	agent_release(v, REASON_CLOSED);
}

static void serve(struct vsock *v, uint32_t want)
{
	if (want & WANT_REAP) {
		ended(v);
		mend_forget(v);
		upgrade_forget(v);
		adapt_forget(v);
		reap_later(v);
		return;
	}
	/* Ended; a thread that waits for it has not noticed yet. */
	if (vs_live(v) && !atomic_load(&v->nfd) && !v->orphan)
		return;
	if (want & WANT_UNPARK)
		park_want_listen(v);
	if (want & WANT_OFFERED)
		upgrade_offered(v);
	if (want & WANT_MEET)
		upgrade_dial(v);
	if (want & WANT_RATE && vs_live_now(v))
		adapt_watch(v);
	if (want & WANT_NOTICE && vs_live_now(v))
		agent_notice(v);
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
	agent_want();
	for (;;) {
		drain_queue();
		now = sys_now_ns();
		/* The end of a channel may set a timer of its connection, and that may open another channel. */
		chan_sweep(now);
		next = mend_timers(now);
		chan_due(&next);
		reap_timers(now, &next);
		relax_idle(now, &next);
		vring_get_ready();
		vring_timers(now, &next);
		vring_heard(now, &next);
		adapt_timers(now, &next);
		upgrade_say_withdrawn();
		agent_timers(now, &next);
		far_watch(now, &next);
		park_timers(now, &next);
		freeze_timers(now, &next);
		now = sys_now_ns();
		tmo = -1;
		if (next)
			tmo = next <= now ? 0 : (int)((next - now + 999999) / 1000000);
		if (atomic_load(&queue))
			tmo = 0;
		n = sys_epoll_wait(helper_ep, ev, ARRAY_SIZE(ev), tmo);
		if (n < 0)
			freeze_check_place();
		for (i = 0; i < n; i++) {
			if (ev[i].data.ptr == &wake_fd) {
				if (sys_read(my_wake, &t, sizeof(t)) < 0)
					continue;
				/* Something happened: idle connections can be looked at later. */
				relax_soon(sys_now_ns());
			} else if (ev[i].data.ptr == &xfer_hlp) {
				take_given();
			} else if (ev[i].data.ptr == &listen_fd) {
				chan_accept(listen_fd);
			} else if (((uintptr_t)ev[i].data.ptr & 3) == 3) {
				peers_event((void *)((uintptr_t)ev[i].data.ptr & ~(uintptr_t)3));
			} else if ((uintptr_t)ev[i].data.ptr & 1) {
				struct vsock *v = (struct vsock *)((uintptr_t)ev[i].data.ptr & ~(uintptr_t)1);

				mend_poke(v);
			} else if ((uintptr_t)ev[i].data.ptr & 2) {
				mend_far_event((struct vsock *)((uintptr_t)ev[i].data.ptr & ~(uintptr_t)2));
			} else {
				struct chan *c = ev[i].data.ptr;

				if (!c->dead)
					chan_readable(c);
			}
		}
	}
	return NULL;
}

void helper_watch_far(struct vsock *v, int fd, uint32_t events)
{
	struct epoll_event ev = { .events = events | EPOLLONESHOT,
				  .data.ptr = (void *)((uintptr_t)v | 2) };

	if (sys_epoll_ctl(helper_ep, EPOLL_CTL_MOD, fd, &ev) < 0)
		sys_epoll_ctl(helper_ep, EPOLL_CTL_ADD, fd, &ev);
}

void helper_unwatch(int fd)
{
	sys_epoll_ctl(helper_ep, EPOLL_CTL_DEL, fd, NULL);
}

void helper_watch(struct vsock *v, int fd)
{
	struct epoll_event ev = { .events = EPOLLOUT | EPOLLONESHOT,
				  .data.ptr = (void *)((uintptr_t)v | 1) };

	if (sys_epoll_ctl(helper_ep, EPOLL_CTL_MOD, fd, &ev) < 0)
		sys_epoll_ctl(helper_ep, EPOLL_CTL_ADD, fd, &ev);
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

	return sys_epoll_ctl(helper_ep, EPOLL_CTL_ADD, fd, &ev) == 0;
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
	helper_ep = helper_keep(sys_epoll_create1(EPOLL_CLOEXEC));
	listen_fd = helper_keep(sys_seqpacket());
	/* The mode before the name: a path could be exchanged in between. */
	return helper_ep >= 0 && listen_fd >= 0 && sys_fchmod(listen_fd, 0600) == 0 &&
	    sys_bind(listen_fd, (struct sockaddr *)&a, sizeof(a)) == 0 && sys_listen(listen_fd, 4096) == 0 &&
	    watch(wake_fd, &wake_fd) && watch(listen_fd, &listen_fd) && watch(xfer_hlp, &xfer_hlp);
}

void helper_close_all(void)
{
	struct sockaddr_un a;

	agent_hang_up();
	peers_close_all();
	chan_close_all();
	helper_close(listen_fd);
	listen_fd = -1;
	if (meet_rendezvous(a.sun_path, sizeof(a.sun_path), (uint32_t)sys_getpid(), start_time) > 0)
		sys_unlink(a.sun_path);
	helper_close(helper_ep);
	helper_ep = -1;
	if (own_table)
		sys_close(pidfd);
}

void helper_open_again(void)
{
	if (own_table)
		pidfd = sys_pidfd_self();
	if (!open_rendezvous())
		log_error("no rendezvous socket after the thaw (%s): broken links stay broken", strerror(errno));
}

/*
 * A checkpointer sees one table per process: ours is gone, and this thread is
 * in the program's again.  What we had open is not even to be closed.
 */
void helper_restored(void)
{
	int pair[2];

	if (!own_table)
		return;
	/* Their numbers are the program's now: to be forgotten before anything is closed. */
	mend_table_gone();
	chan_table_gone();
	park_table_gone();
	peers_fork_child();
	agent_hang_up();
	own_table = false;
	helper_ep = listen_fd = pidfd = -1;
	fdtab_close_hidden(xfer_app);
	if (sys_socketpair(pair) < 0)
		return;
	xfer_app = fdtab_hide(pair[0]);
	xfer_hlp = fdtab_hide(pair[1]);
	my_wake = wake_fd;
	leave_table();
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

void helper_wake(void)
{
	uint64_t one = 1;

	if (helper_running() && sys_write(wake_fd, &one, sizeof(one)) < 0)
		log_debug("helper: cannot wake: %s", strerror(errno));
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
	else if (from == helper_ep)
		helper_ep = to;
	else if (from == xfer_hlp)
		xfer_hlp = to;
	/* Channels that lose their number end, and are tried again. */
}

/* ---- fork */

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
	helper_ep = wake_fd = listen_fd = xfer_app = xfer_hlp = pidfd = -1;
	own_table = false;
	atomic_store(&vs_to_install, 0);
	atomic_store(&queue, NULL);
	chan_fork_child();
	agent_fork_child();
	upgrade_fork_child();
	adapt_fork_child();
	freeze_fork_child();
	park_fork_child();
	reap_fork_child();
	event_fork_child();
	vring_fork_child();
	peers_fork_child();
	atomic_store(&state, OFF);
	mend_fork_child();
	meet_fork_child();
	vs_fork_child();
}
