/*
 * When does a connection move to a ring, and back?
 *
 * Making one costs about half a millisecond in which nothing moves, and up to
 * half a MiB of memory: not for a connection that ends after a few exchanges.
 * So the opener waits for AUTO_SENDS of its own sends, and the acceptor, who
 * may do all the sending, for four times as many; 16 KiB count as another one.
 */
#include "coding.h"
#include "conf.h"
#include "vring.h"
#include "vs_int.h"

#define AUTO_SENDS	32u
#define SIZE_SMALL	(64u << 10)	/* small messages: what lies in the cache */
#define SIZE_BULK	(256u << 10)
#define BULK_BYTES	(1u << 20)
#define RINGS_MAX	12288u		/* of one process: 4 mappings each, of 65,530 */
#define LEAVE_NS	UINT64_C(10000000000)

/*
 * Joining sys_barrier takes the kernel 10 to 20 ms in a process with threads
 * (it waits for every CPU): once, and not while a connection stands still.
 */
static _Atomic bool wanted, ready;

void vring_get_ready(void)
{
	struct vsock *v;

	if (likely(!atomic_load(&wanted)) || atomic_load(&ready))
		return;
	sys_barrier_join();
	atomic_store(&ready, true);
	shlock_take(&vs_fds_lock, -1, false);
	for (v = vs_live_head; v; v = v->live_next)
		if (atomic_load(&v->until_ring) != UINT32_MAX)
			vring_say(v, PAIR_RING_MAY);
	shlock_drop(&vs_fds_lock);
}

_Atomic bool vring_allowed = true;

void vring_say(struct vsock *v, uint32_t what)
{
	struct vstate *st = atomic_load(&v->st);

	if (v->pair && v->pair != &st->own_pair)
		atomic_store(&v->pair->side[st->ho.role].ring, what);
}

bool vring_peer_moves(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);

	return v->pair && v->pair != &st->own_pair &&
		atomic_load(&v->pair->side[!st->ho.role].ring) >= PAIR_RING_NOW;
}

bool vring_follow(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);
	uint32_t ours = v->pair && v->pair != &st->own_pair ? atomic_load(&v->pair->side[st->ho.role].ring) : PAIR_RING_NO;

	if (ours == PAIR_RING_MAY)
		vring_say(v, PAIR_RING_FOLLOW);
	return ours != PAIR_RING_NO;
}

bool vring_wanted(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);
	uint32_t theirs = v->pair ? atomic_load(&v->pair->side[!st->ho.role].ring) : PAIR_RING_NO;

	return vring_may(v) && theirs != PAIR_RING_LEAVE && (atomic_load(&st->ring_want) || theirs == PAIR_RING_NOW);
}

void vring_begin_count(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);
	uint8_t link = conf()->link;
	bool yes = link != CONF_LINK_TCP && !v->no_ring, coded = conf()->codec == CONF_CODEC_ZLIB;

	if (!yes && coded)
		vring_say(v, PAIR_RING_MAY);
	else if (yes && atomic_load(&ready))
		vring_say(v, PAIR_RING_MAY);
	else if (yes)
		atomic_store(&wanted, true);
	if (yes || coded)
		atomic_store(&v->until_ring, (link == CONF_LINK_RING || coded ? 1 : AUTO_SENDS) * (st->ho.role == HO_OPENER ? 1 : 4));
}

uint32_t vring_size(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);

	uint32_t size = vs_tx_off(st) + vs_rx_off(v) > BULK_BYTES ? SIZE_BULK : SIZE_SMALL;

	return size > st->ring_size ? size : st->ring_size;
}

/* Nothing stands against a handover now. */
static bool still(struct vsock *v, struct vstate *st)
{
	return vs_live_now(v) && !(atomic_load(&st->phase) & (PH_BITS & ~PH_CODED)) && !vs_peer_closed(v, st) &&
		atomic_load(&st->trim_limit) == UINT64_MAX;
}

static bool may_move(struct vsock *v, struct vstate *st)
{
	return still(v, st) && vring_may(v) && !vs_coded(v);
}

/* The link is left for a new ring. */
static void move(struct vsock *v, struct vstate *st, const char *why)
{
	atomic_store(&st->ring_want, true);
	vring_say(v, PAIR_RING_NOW);
	st->moving = true;
	vs_break(v, 0, why);
}

/*
 * A kernel's buffers take megabytes before a sender has to wait, and there are
 * programs that rely on it (both ends send first, and read then).  So a ring
 * whose sender has slept on it without any room for GROW_NS becomes larger.
 */
bool vring_grow(struct vsock *v, uint32_t size)
{
	struct vstate *st = atomic_load(&v->st);

	if (size >= RING_GROW_MAX || !may_move(v, st))
		return false;
	st->ring_size = size * 4 < RING_GROW_MAX ? size * 4 : RING_GROW_MAX;
	move(v, st, "grow");
	return true;
}

bool vring_may(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);
	return atomic_load(&ready) && conf()->link != CONF_LINK_TCP && !atomic_load(&st->remote) &&
		v->pair && v->pair != &st->own_pair && !atomic_load(&st->ring_never) && !v->no_ring &&
		/* The others of a tree could not map it. */
		(!atomic_load(&st->shared) || vs_last_sharer(v, st)) &&
		atomic_load(&v->pair->side[!st->ho.role].ring) != PAIR_RING_NO &&
		atomic_load(&vs_ring_count) < RINGS_MAX && helper_own_table() && atomic_load(&vring_allowed) && !ep_nested(v);
}

/*
 * Bytes from before the two libraries met are in no replay buffer: a break
 * that catches them on their way ends the connection, and so would a move.
 */
static bool all_arrived(struct vsock *v, struct vstate *st, int fd)
{
	struct link_count c;

	if (vs_gen(st) > 1)
		return true;
	return link_count(fd, st->link_syn, &c) == 0 && c.acked >= st->first &&
		c.received + c.unread >= atomic_load(&v->pair->side[!st->ho.role].first);
}

/* Both helpers have said where they can be asked. */
static bool introduced(struct vsock *v, struct vstate *st)
{
	bool known[2] = { false, false };
	int i;

	for (i = 0; i < 2 * NPROC; i++)
		known[i % 2] |= atomic_load(&v->pair->side[i % 2].proc[i / 2].pid) != 0;
	return atomic_load(&st->remote) || (known[0] && known[1]);
}

bool vring_still(struct vsock *v, int fd)
{
	struct vstate *st = atomic_load(&v->st);

	return still(v, st) && introduced(v, st) && all_arrived(v, st, fd);
}

bool vring_propose(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);

	if (vring_of(v) || !may_move(v, st) || st->shut_wr || st->shut_rd || !introduced(v, st) ||
	    !all_arrived(v, st, atomic_load(&v->fd)))
		return false;
	move(v, st, "ring");
	return true;
}

void vring_due(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);

	if (conf()->codec == CONF_CODEC_ZLIB && coding_may(v)) {
		if (!coding_propose(v, atomic_load(&v->fd)) && !vs_coded(v))
			atomic_store(&v->until_ring, 64);
		return;
	}
	/* The peer may not be ready, or the link only just made. */
	if (!vring_propose(v) && st && vs_live(v) && !atomic_load(&st->remote) && !vring_of(v) && !st->shut_wr &&
	    !st->shut_rd && !atomic_load(&st->ring_never) && !v->no_ring)
		atomic_store(&v->until_ring, 64);
}

/* A process that is about to exec must not be the one that has the new link: another sharer shall mend. */
static void lead_elsewhere(struct vsock *v, struct vstate *st)
{
	uint32_t none = 0;
	int i;

	for (i = 0; i < NPROC; i++) {
		uint32_t pid = atomic_load(&st->slot[i].s.pid);

		if (i != v->slot && pid && pid != (uint32_t)sys_getpid() && sys_alive((int)pid)) {
			atomic_compare_exchange_strong(&st->lead, &none, (uint32_t)i + 1);
			return;
		}
	}
}

bool vring_leave(struct vsock *v, bool never)
{
	struct vstate *st = atomic_load(&v->st);
	uint64_t end = sys_now_ns() + LEAVE_NS;
	int e = errno;

	if (!st)
		return false;
	if (never) {
		atomic_store(&st->ring_never, true);
		atomic_store(&st->code_never, true);
	}
	atomic_store(&st->ring_want, false);
	atomic_store(&st->code_want, false);
	while (vs_live(v) && !vs_bare(v)) {
		if (atomic_load(&st->phase) & PH_NOREP || sys_now_ns() >= end)
			break;
		if (!(atomic_load(&st->phase) & PH_MEND)) {
			vs_install();
			if (vs_bare(v))
				break;
			if (!vs_mending(v)) {
				st->moving = true;
				if (atomic_load(&st->shared))
					lead_elsewhere(v, st);
				vring_say(v, PAIR_RING_LEAVE);
				vs_break(v, 0, "tcp");
			}
		}
		vs_wait_mend(v, end, true);
	}
	if (vs_live(v) && vs_mending(v))
		vs_wait_mend(v, end, true);
	errno = e;
	return vs_live(v) && vs_bare(v);
}

void vring_leave_inherited(void)
{
	int fd, top, flags, e = errno;
	struct vsock *v;

	if (likely(!atomic_load(&vs_live_count)) || roam_vfork_child)
		return;
	top = fdtab_top();
	for (fd = 0; fd < top; fd++) {
		v = fdtab_vsock(fd);
		if (!v || !vs_live_now(v))
			continue;
		flags = sys_fcntl(fd, F_GETFD, 0);
		if (flags < 0 || flags & FD_CLOEXEC)
			continue;
		/* For good: nobody would answer there, and a link that works would end by being moved. */
		vring_leave(v, true);
		vring_say(v, PAIR_RING_NO);
	}
	errno = e;
}
