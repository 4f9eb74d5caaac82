#include "peers.h"
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

/* Does one of the processes that speak for v's other end have this number? */
static bool speaks(struct vsock *v, uint32_t pid, uint64_t start)
{
	struct vstate *st = atomic_load(&v->st);
	struct pair_side *side;
	int i;

	if (!st || !v->pair || !vring_of(v))
		return false;
	/* What we saw when we looked: the page may say anything by now. */
	for (i = 0; i < NPROC; i++)
		if (pid && v->watched[i] == pid)
			return true;
	side = &v->pair->side[!st->ho.role];
	for (i = 0; i < NPROC; i++)
		if (atomic_load(&side->proc[i].pid) == pid && atomic_load(&side->proc[i].start) == start)
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

void peers_watch(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);
	struct pair_side *side = &v->pair->side[!st->ho.role];
	struct peer *p;
	int i;

	if (++calls % SWEEP_EVERY == 0)
		sweep();
	for (i = 0; i < NPROC; i++) {
		uint32_t pid = atomic_load(&side->proc[i].pid);
		uint64_t start = atomic_load(&side->proc[i].start);

		v->watched[i] = pid > INT32_MAX ? 0 : pid;
		if (!pid || pid > INT32_MAX || find(pid, start))
			continue;
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
			continue;
		}
		p->next = peers;
		peers = p;
	}
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
