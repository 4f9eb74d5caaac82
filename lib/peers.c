#include "peers.h"
#include "meet.h"
#include "vring.h"
#include "vs_int.h"
#include <stdlib.h>

#define SWEEP_EVERY 256u

struct peer {
	uint32_t pid;
	uint64_t start;
	int fd;
	struct peer *next;
};
static struct peer *peers;
static unsigned int calls;

static struct peer *find(uint32_t pid, uint64_t start)
{
	struct peer *p;

	for (p = peers; p && (p->pid != pid || p->start != start); p = p->next)
		;
	return p;
}

/* Noted among those of v; one that is only named gives way to one that is proved. */
static void note(struct vsock *v, uint32_t pid, uint64_t start, bool proved)
{
	int i, at = -1;

	for (i = 0; i < NPROC; i++) {
		if (v->peer[i].pid == pid && v->peer[i].start == start) {
			v->peer[i].proved |= proved;
			return;
		}
		if (v->peer[i].proved ? proved && !sys_alive((int)v->peer[i].pid) : at < 0 || v->peer[at].pid)
			at = i;
	}
	if (at < 0)
		return;
	v->peer[at].pid = pid;
	v->peer[at].start = start;
	v->peer[at].proved = proved;
}

void peers_prove(struct vsock *v, int chan_fd, uint32_t pid, uint64_t start)
{
	uint32_t real = sys_peer_pid(chan_fd);

	if (real) {
		pid = real;
		start = sys_starttime((int)real);
	}
	if (pid && pid <= INT32_MAX && start)
		note(v, pid, start, true);
}

bool peers_proved(const struct vsock *v, uint32_t pid, uint64_t start)
{
	int i;

	for (i = 0; i < NPROC; i++)
		if (v->peer[i].pid == pid && v->peer[i].start == start)
			return v->peer[i].proved;
	return false;
}

static bool frozen(uint32_t pid, uint64_t start)
{
	const char *d = meet_dir();
	char path[160], to[24];

	return d && snprintf(path, sizeof(path), "%s/f.%u.%llu", d, pid, (unsigned long long)start) < (int)sizeof(path) &&
		sys_readlink(path, to, sizeof(to)) > 0;
}

bool peers_dead(const struct vsock *v)
{
	bool any = false;
	int i;

	for (i = 0; i < NPROC; i++) {
		if (!v->peer[i].proved)
			continue;
		any = true;
		if (sys_starttime((int)v->peer[i].pid) == v->peer[i].start || frozen(v->peer[i].pid, v->peer[i].start))
			return false;
	}
	return any;
}

/* Is this one of v's other end, and the link a ring? */
static bool speaks(struct vsock *v, uint32_t pid, uint64_t start)
{
	int i;

	if (!atomic_load(&v->st) || !vring_of(v))
		return false;
	for (i = 0; i < NPROC; i++)
		if (v->peer[i].pid == pid && v->peer[i].start == start)
			return true;
	return false;
}

static void drop(struct peer *p)
{
	struct peer **q = &peers;

	while (*q && *q != p)
		q = &(*q)->next;
	if (*q)
		*q = p->next;
	helper_unwatch(p->fd);
	helper_close(p->fd);
	free(p);
}

/* Those nobody is on a ring with any more. */
static void sweep(void)
{
	struct peer *p, *next;
	struct vsock *v;

	for (p = peers; p; p = next) {
		next = p->next;
		shlock_take(&vs_fds_lock, -1, false);
		for (v = vs_live_head; v && !speaks(v, p->pid, p->start); v = v->live_next)
			;
		shlock_drop(&vs_fds_lock);
		if (!v)
			drop(p);
	}
}

/* The base link of a connection with a dead process: has another one still got it? */
static void look(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);
	int fd = helper_borrow(atomic_load(&v->fd));
	struct pollfd p = { fd, POLLRDHUP, 0 };

	if (fd < 0 || sys_poll(&p, 1, 0) > 0) {
		if (!vs_peer_closed(v, st))
			vs_break(v, 0, "end");
		else
			vring_kick(v);
	}
	helper_close(fd);
}

static void died(uint32_t pid, uint64_t start)
{
	struct vsock *v;

	shlock_take(&vs_fds_lock, -1, false);
	for (v = vs_live_head; v; v = v->live_next)
		if (speaks(v, pid, start))
			look(v);
	shlock_drop(&vs_fds_lock);
}

void peers_event(void *peer)
{
	struct peer *p = peer;
	uint32_t pid = p->pid;
	uint64_t start = p->start;

	drop(p);
	died(pid, start);
}

static void watch(struct vsock *v, uint32_t pid, uint64_t start)
{
	struct peer *p;

	if (find(pid, start))
		return;
	p = malloc(sizeof(*p));
	if (!p)
		return;
	*p = (struct peer){ .pid = pid, .start = start, .fd = helper_keep(sys_pidfd((int)pid)) };
	if (p->fd < 0 || !helper_watch_peer(p, p->fd) || sys_starttime((int)pid) != start) {
		log_debug("peer %u cannot be watched: %s", pid, strerror(errno));
		helper_close(p->fd);
		free(p);
		/* Gone already? Then the base link says so. */
		if (!sys_alive((int)pid))
			look(v);
		return;
	}
	p->next = peers;
	peers = p;
}

void peers_watch(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);
	struct pair_side *side = &v->pair->side[!st->ho.role];
	int i;

	if (++calls % SWEEP_EVERY == 0)
		sweep();
	for (i = 0; i < NPROC; i++) {
		uint32_t pid = atomic_load(&side->proc[i].pid);
		uint64_t start = atomic_load(&side->proc[i].start);

		/* Not of our pid namespace, or a lie: nothing that could be watched. */
		if (pid && pid <= INT32_MAX && start && sys_starttime((int)pid) == start)
			note(v, pid, start, false);
	}
	for (i = 0; i < NPROC; i++)
		if (v->peer[i].pid)
			watch(v, v->peer[i].pid, v->peer[i].start);
}

void peers_close_all(void)
{
	while (peers)
		drop(peers);
}

void peers_fork_child(void)
{
	peers = NULL;
	calls = 0;
}
