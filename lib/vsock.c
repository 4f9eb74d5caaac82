#include "vsock.h"
#include "coding.h"
#include "ep.h"
#include "event.h"
#include "helper.h"
#include "link_tcp.h"
#include "log.h"
#include "meet.h"
#include "sys.h"
#include "vring.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

_Atomic uint32_t vs_live_count;
_Atomic uint32_t vs_remote_count;
_Atomic uint32_t vs_ring_count;
_Atomic uint8_t vs_plain_reason;
shlock vs_fds_lock;
struct vsock *vs_live_head;

/*
 * Virtual sockets come from chunks that are never given back, found by index.
 * The free list is a stack of indices with a counter against ABA: socket() and
 * close() may be called from a signal handler, so no lock.
 */
#define CHUNK 256u
#define NCHUNK (FDTAB_MAX / CHUNK)
static _Atomic(struct vsock *) chunks[NCHUNK];
static _Atomic uint32_t used;
static _Atomic uint64_t free_head;	/* count << 32 | index + 1 */

static _Atomic uint32_t no_phase;

#define GID_BUCKETS 4096u
static struct vsock *by_gid[GID_BUCKETS];	/* under vs_fds_lock */

/* Mappings of ended connections, kept for the next: a late thread may still look. */
#define SPARE_MAX 64
static struct vstate *spare[SPARE_MAX];		/* under vs_fds_lock */
static unsigned int nspare;

static struct vsock *at(uint32_t i)
{
	struct vsock *c = atomic_load(&chunks[i / CHUNK]);

	return c ? &c[i % CHUNK] : NULL;
}

static struct vsock *take(uint32_t *index)
{
	uint64_t h = atomic_load(&free_head);
	struct vsock *v, *c, *none = NULL;
	uint32_t i;

	while ((uint32_t)h) {
		i = (uint32_t)h - 1;
		v = at(i);
		if (atomic_compare_exchange_weak(&free_head, &h,
				((h >> 32) + 1) << 32 | atomic_load(&v->free_next))) {
			*index = i;
			return v;
		}
	}
	i = atomic_fetch_add(&used, 1);
	if (i >= FDTAB_MAX)
		return NULL;
	if (!at(i)) {
		c = sys_map_anon(CHUNK * sizeof(*c));
		if (!c)
			return NULL;
		if (!atomic_compare_exchange_strong(&chunks[i / CHUNK], &none, c))
			sys_unmap(c, CHUNK * sizeof(*c));
	}
	*index = i;
	return at(i);
}

static void give(struct vsock *v)
{
	uint64_t h = atomic_load(&free_head);
	uint32_t i = v->index;

	do
		atomic_store(&v->free_next, (uint32_t)h);
	while (!atomic_compare_exchange_weak(&free_head, &h, ((h >> 32) + 1) << 32 | (i + 1)));
}

struct vsock *vs_new(int fd, int family, enum vs_kind kind)
{
	uint32_t i;
	struct vsock *v;

	if ((unsigned int)fd >= FDTAB_MAX)
		return NULL;
	/* The number was closed where we do not see it. */
	vs_abandon(fd);
	v = take(&i);
	if (!v)
		return NULL;
	/* rx0 and tx0 are not reset: a thread that raced with close may still be inside. */
	atomic_fetch_and(&v->rx0, UINT64_C(0xffff));
	atomic_store(&v->st, NULL);
	atomic_store(&v->rxc, &v->rx0);
	atomic_store(&v->phasep, &no_phase);
	atomic_fetch_add(&v->birth, 1);
	atomic_store(&v->kind, kind);
	v->family = family == AF_INET6 ? 6 : 4;
	v->role = HO_OPENER;
	v->never = atomic_load(&vs_plain_reason);
	atomic_store(&v->ops, 0);
	atomic_store(&v->next_try, conf()->off || v->never ? UINT32_MAX : MEET_FIRST);
	atomic_store(&v->nfd, 1);
	atomic_store(&v->fd, fd);
	v->slot = v->child_slot = -1;
	atomic_store(&v->phase_ok, 0);
	v->pair = NULL;
	v->regs = NULL;
	atomic_store(&v->ring, NULL);
	atomic_store(&v->until_ring, UINT32_MAX);
	v->index = i;
	v->marked_pid = 0;
	atomic_store(&v->rated, false);
	v->offer_nonce = 0;
	v->offer_far = false;
	v->why_far = 0;
	v->no_ring = 0;
	atomic_store(&v->barred, false);
	atomic_store(&v->no_codec, false);
	atomic_store(&v->want, 0);
	v->mend = NULL;
	v->orphan = false;
	v->parked = NULL;
	v->owned = 0;
	v->far_counted = false;
	memset(v->peer, 0, sizeof(v->peer));
	atomic_store(&v->mode, VS_PLAIN);
	fdtab_set(fd, (uintptr_t)v);
	return v;
}

void vs_log_id(const struct vsock *v, char out[9])
{
	struct vstate *st = atomic_load(&((struct vsock *)(uintptr_t)v)->st);
	int i;

	strcpy(out, "--------");
	for (i = 0; st && i < 4; i++)
		snprintf(out + 2 * i, 3, "%02x", st->ho.gid[i]);
}

void vs_dup(struct vsock *v, int to)
{
	if (!v || to < 0 || roam_vfork_child)
		return;
	atomic_fetch_add(&v->nfd, 1);
	fdtab_set(to, (uintptr_t)v);
}

static void phase_change(struct vstate *st, uint32_t set, uint32_t clear, uint32_t step)
{
	uint32_t p = atomic_load(&st->phase);

	while (!atomic_compare_exchange_weak(&st->phase, &p, ((p & ~clear) | set) + step))
		;
	sys_futex_wake(&st->phase, INT32_MAX);
}

void vs_phase(struct vstate *st, uint32_t set, uint32_t clear)
{
	phase_change(st, set, clear, 0);
}

void vs_phase_next(struct vstate *st, uint32_t set, uint32_t clear)
{
	phase_change(st, set, clear, PH_GEN);
}

uint64_t vs_rx_count(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);
	uint64_t n = RX_BYTES(atomic_load(&v->rx0));
	int i;

	for (i = 0; st && i < NPROC; i++)
		n += RX_BYTES(atomic_load(&st->slot[i].s.rx));
	return n & RX_MASK;
}

uint64_t vs_rx_off(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);

	return st && atomic_load(&st->ring_rx) ? atomic_load(&st->ring.rx_head) & RX_MASK : vs_rx_count(v);
}

uint64_t vs_tx_off(struct vstate *st)
{
	uint64_t ring = atomic_load(&st->ring_tx) ? atomic_load(&st->ring.tail) : 0;
	uint64_t end = replay_end(&st->replay);

	/* The ring may still lack what the replay buffer holds. */
	return ring > end ? ring : end;
}

bool vs_rx_busy(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);
	int i;

	if (RX_USERS(atomic_load(&v->rx0)))
		return true;
	for (i = 0; st && i < NPROC; i++) {
		uint32_t pid = atomic_load(&st->slot[i].s.pid);

		if (RX_USERS(atomic_load(&st->slot[i].s.rx)) && pid && sys_alive((int)pid))
			return true;
	}
	return false;
}

/* Reading /proc for every connection would make fork slow. */
static uint64_t self_start(uint32_t me)
{
	static _Atomic uint64_t start;
	static _Atomic uint32_t of;

	if (atomic_load(&of) != me) {
		atomic_store(&start, sys_starttime((int)me));
		atomic_store(&of, me);
	}
	return atomic_load(&start);
}

static bool slot_take(struct vslot *s, uint32_t me)
{
	uint32_t pid = atomic_load(&s->pid);

	if (pid && sys_alive((int)pid))
		return false;
	if (!atomic_compare_exchange_strong(&s->pid, &pid, me))
		return false;
	/* Bytes that a dead owner counted stay counted; its threads are gone. */
	atomic_fetch_and(&s->rx, ~UINT64_C(0xffff));
	atomic_store(&s->start, self_start(me));
	return true;
}

/*
 * Held under the parent's name until the child puts its own there; if the
 * fork fails it is freed with the parent.
 */
void vs_reserve_slot(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);
	int i;

	v->child_slot = -1;
	for (i = 0; i < NPROC && v->child_slot < 0; i++)
		if (slot_take(&st->slot[i].s, (uint32_t)sys_getpid()))
			v->child_slot = i;
}

void vs_claim_slot(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);
	int i;

	if (v->child_slot >= 0) {
		v->slot = v->child_slot;
		v->child_slot = -1;
		atomic_store(&st->slot[v->slot].s.start, self_start((uint32_t)sys_getpid()));
		atomic_store(&st->slot[v->slot].s.pid, (uint32_t)sys_getpid());
		atomic_store(&v->rxc, &st->slot[v->slot].s.rx);
		return;
	}
	for (i = 0; i < NPROC; i++) {
		if (!slot_take(&st->slot[i].s, (uint32_t)sys_getpid()))
			continue;
		v->slot = i;
		atomic_store(&v->rxc, &st->slot[i].s.rx);
		return;
	}
	v->slot = -1;
	/* On a ring it can go on as one of many, until the ring ends. */
	if (!vring_of(v))
		vs_demote(v, REASON_SHARERS);
}

static struct vstate *state_new(void)
{
	struct vstate *st;

	if (nspare) {
		st = spare[--nspare];
		st->shut_wr = st->shut_rd = 0;
		/* The replay memory was given back; the head may be looked at: keep it mapped. */
		memset((char *)st + offsetof(struct vstate, replay), 0,
		       sizeof(*st) - offsetof(struct vstate, replay));
		return st;
	}
	/* Shared by fork; no descriptor, so an upgrade takes none of the program's numbers for it. */
	return sys_map_fork_shared(VSTATE_SIZE);
}

static void state_drop(struct vstate *st)
{
	if (atomic_load(&st->shared) || nspare == SPARE_MAX) {
		sys_unmap(st, VSTATE_SIZE);
		return;
	}
	sys_discard((char *)st + REPLAY_AT, REPLAY_MAX + CODING_MAX);
	spare[nspare++] = st;
}

static uint32_t gid_bucket(const uint8_t *gid)
{
	return (uint32_t)(gid[0] | gid[1] << 8) % GID_BUCKETS;
}

struct vsock *vs_by_gid(const uint8_t *gid, enum ho_role role)
{
	struct vsock *v;

	/* A process can be both ends. */
	for (v = by_gid[gid_bucket(gid)]; v; v = v->gid_next)
		if (atomic_load(&v->st)->ho.role == role &&
		    !memcmp(atomic_load(&v->st)->ho.gid, gid, WIRE_GID))
			return v;
	return NULL;
}

struct vsock *vs_gid_chain(uint16_t first_two)
{
	return by_gid[first_two % GID_BUCKETS];
}

/* Among the live ones; its descriptors refer to the link with this phase. */
static void join(struct vsock *v, struct vstate *st, uint32_t phase)
{
	uint32_t b = gid_bucket(st->ho.gid);

	vs_claim_slot(v);
	/* Readers inside: the word first, then what it must be, would send them the slow way. */
	atomic_store(&v->phase_ok, phase);
	atomic_store(&v->phasep, &st->phase);
	v->gid_next = by_gid[b];
	by_gid[b] = v;
	v->live_prev = NULL;
	v->live_next = vs_live_head;
	if (vs_live_head)
		vs_live_head->live_prev = v;
	vs_live_head = v;
	atomic_fetch_add(&vs_live_count, 1);
	atomic_store(&v->mode, VS_LIVE);
}

int vs_go_live(struct vsock *v, int fd, enum ho_role role, const uint8_t *gid, const uint8_t *key,
	       struct pair *pair)
{
	struct vstate *st;
	struct link_count c;
	bool ended = false;
	uint64_t t, seen;

	/* Somebody may read while we look: the counters must agree with each other. */
	seen = atomic_load(&v->rx0);
	if (link_count(fd, v->role == HO_OPENER, &c) < 0)
		return REASON_COUNT;
	/* Half-closed is as good; the FIN counts as a byte. */
	switch (c.state) {
	case LINK_ESTABLISHED:
		break;
	case LINK_CLOSE_WAIT:
		c.received--;
		break;
	case LINK_FIN_WAIT1:
	case LINK_FIN_WAIT2:
		c.sent--;
		ended = true;
		break;
	default:
		return REASON_GONE;
	}
	if (RX_BYTES(seen) != (c.received & RX_MASK) || RX_BYTES(atomic_load(&v->rx0)) != RX_BYTES(seen))
		return REASON_COUNT;
	if (c.sndbuf > REPLAY_MAX / 2)
		return REASON_BUFFER;
	t = c.sent;
	st = state_new();
	if (!st)
		return REASON_MEMORY;
	st->names.self_len = sizeof(st->names.self);
	st->names.peer_len = sizeof(st->names.peer);
	sys_getsockname(fd, (struct sockaddr *)&st->names.self, &st->names.self_len);
	sys_getpeername(fd, (struct sockaddr *)&st->names.peer, &st->names.peer_len);
	st->ino = st->link_ino = sys_sock_ino(fd);
	replay_init(&st->replay, t, REPLAY_MIN, REPLAY_MAX);
	st->tx_sent = st->first = t;
	st->link_tx = 0;
	st->link_rx = 0;
	st->link_syn = v->role == HO_OPENER;
	st->shut_wr = ended;
	atomic_store(&st->phase, PH_GEN);
	ho_init(&st->ho, role, gid, key);
	atomic_store(&st->trim_limit, UINT64_MAX);
	st->live_ns = sys_now_ns();
	atomic_store(&v->st, st);
	if (pair) {
		v->pair = pair;
	} else {
		v->pair = pair = &st->own_pair;
		atomic_store(&pair->side[0].fin, PAIR_NO_FIN);
		atomic_store(&pair->side[1].fin, PAIR_NO_FIN);
		vs_set_remote(v);
	}
	atomic_store(&pair->side[role].family, v->family);
	atomic_store(&pair->side[role].first, t);
	if (pair != &st->own_pair)
		vring_begin_count(v);
	if (ended)
		atomic_store(&pair->side[role].fin, t);
	join(v, st, PH_GEN);
	return 0;
}

struct vstate *vs_revive(struct vsock *v, int fd, const struct handover *ho, uint64_t tx_base)
{
	struct vstate *st = state_new();

	if (!st)
		return NULL;
	st->ino = st->link_ino = sys_sock_ino(fd);
	replay_init(&st->replay, tx_base, REPLAY_MIN, REPLAY_MAX);
	st->ho = *ho;
	/* What the earlier instance took counts as taken. */
	atomic_fetch_add(&v->rx0, (ho->rx_off & RX_MASK) << 16);
	/* Nothing is read from the link that fd stands for: no phase that it equals. */
	atomic_store(&st->phase, 2 * PH_GEN | PH_MEND);
	atomic_store(&st->trim_limit, UINT64_MAX);
	st->live_ns = sys_now_ns();
	atomic_store(&st->broke_ns, st->live_ns);
	atomic_store(&v->st, st);
	v->pair = &st->own_pair;
	atomic_store(&v->pair->side[0].fin, PAIR_NO_FIN);
	atomic_store(&v->pair->side[1].fin, PAIR_NO_FIN);
	vs_set_remote(v);
	join(v, st, PH_GEN);
	return st;
}

/* The peer's stream has ended, and the application has read all of it. */
static bool had_all(struct vsock *v, struct vstate *st)
{
	uint64_t fin = atomic_load(&v->pair->side[!st->ho.role].fin);

	return fin < PAIR_FIN_SOON && ((fin - vs_rx_off(v)) & RX_MASK) == 0;
}

void vs_announce_fin(struct vsock *v, bool closed)
{
	struct vstate *st = atomic_load(&v->st);
	struct pair_side *me;

	if (!st || !v->pair)
		return;
	do {
		me = &v->pair->side[st->ho.role];
		if (atomic_load(&me->fin) >= PAIR_FIN_SOON)
			atomic_store(&me->fin, vs_tx_off(st));
		if (closed && atomic_load(&me->closed) != PAIR_CLOSED_RESET)
			atomic_store(&me->closed, had_all(v, st) ? PAIR_CLOSED_CLEAN : PAIR_CLOSED);
		/* The helper may just exchange the page (near.c). */
	} while (me != &v->pair->side[st->ho.role]);
	if (vs_by_agents(st) && helper_running())
		helper_want(v, WANT_NOTICE);
}

void vs_reset_meant(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);

	if (vs_live_now(v) && v->pair)
		atomic_store(&v->pair->side[st->ho.role].closed, PAIR_CLOSED_RESET);
}

void vs_set_remote(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);

	atomic_store(&st->remote, 1);
	atomic_store(&st->near, false);
	/* Counted by each process for itself. */
	if (!v->far_counted) {
		v->far_counted = true;
		atomic_fetch_add(&vs_remote_count, 1);
	}
}

/* True when no other living process holds the connection. */
bool vs_last_sharer(struct vsock *v, struct vstate *st)
{
	int i;

	if (!atomic_load(&st->shared))
		return true;
	for (i = 0; i < NPROC; i++) {
		uint32_t pid = atomic_load(&st->slot[i].s.pid);

		if (i != v->slot && pid && sys_alive((int)pid))
			return false;
	}
	return true;
}

/* The last descriptor in this process goes; vs_fds_lock is held. */
static void unlive(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);
	struct vsock **p = &by_gid[gid_bucket(st->ho.gid)];

	while (*p && *p != v)
		p = &(*p)->gid_next;
	if (*p)
		*p = v->gid_next;
	if (v->live_prev)
		v->live_prev->live_next = v->live_next;
	else if (vs_live_head == v)
		vs_live_head = v->live_next;
	if (v->live_next)
		v->live_next->live_prev = v->live_prev;
	atomic_fetch_sub(&vs_live_count, 1);
	if (v->far_counted)
		atomic_fetch_sub(&vs_remote_count, 1);
	v->far_counted = false;
}

void vs_end(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);

	if (!(atomic_load(&st->phase) & PH_NOREP) && vs_last_sharer(v, st))
		vs_announce_fin(v, true);
	if (vring_of(v)) {
		/* Threads that wait on it find the descriptor closed. */
		vring_kick(v);
		atomic_fetch_sub(&vs_ring_count, 1);
	}
	unlive(v);
	/* The slot's bytes stay counted: its next owner goes on from them. */
	if (v->slot >= 0)
		atomic_store(&st->slot[v->slot].s.pid, 0);
	/*
	 * A forked child without a helper of its own starts none just to tidy
	 * up: what it inherited goes when it ends.
	 */
	if (helper_running())
		helper_want(v, WANT_REAP);
}

static void last_close(struct vsock *v, int fd)
{
	struct vstate *st = atomic_load(&v->st);
	uint32_t ph;

	coding_last(v);
	ph = atomic_load(&st->phase);
	/* What the broken ring holds is as little delivered as what the replay buffer does. */
	if (ph & PH_MEND && vring_of(v) && shlock_take(&st->tx, 100000000, false) == SHLOCK_OK) {
		vring_to_replay(v);
		shlock_drop(&st->tx);
	}
	/* Bytes the kernel has not taken go on being delivered after close; a coded link lingers (coding_over). */
	if (!(ph & PH_NOREP) && vs_last_sharer(v, st) &&
	    (ph & (PH_MEND | PH_UNSENT) ? replay_used(&st->replay) > 0 : ph & PH_CODED && !coding_over(v, fd))) {
		vs_announce_fin(v, false);
		st->shut_wr = 1;
		v->orphan = true;
		if (helper_give(v, fd)) {
			helper_want(v, WANT_FLUSH);
			return;
		}
		v->orphan = false;
	}
	coding_end(v, fd);
	vring_end(v, fd);
	vs_end(v);
}

void vs_forget(int fd)
{
	struct vsock *v = fdtab_vsock(fd);
	uint8_t mode = VS_PLAIN;
	bool live;
	int i, top;

	if (!v || roam_vfork_child)
		return;
	vs_install();
	/* The helper may be switching it: then it is live in a moment, or plain again. */
	while ((mode = atomic_load(&v->mode)) == VS_SWITCHING ||
	       (mode == VS_PLAIN && atomic_load(&v->nfd) == 1 &&
		!atomic_compare_exchange_strong(&v->mode, &mode, VS_GONE)))
		sys_nap_us(10);
	live = mode == VS_LIVE;
	if (live)
		shlock_take(&vs_fds_lock, -1, false);
	fdtab_set(fd, 0);
	if (atomic_fetch_sub(&v->nfd, 1) > 1) {
		if (atomic_load(&v->fd) == fd) {
			top = fdtab_top();
			for (i = 0; i < top; i++)
				if (fdtab_vsock(i) == v)
					break;
			if (i < top)
				atomic_store(&v->fd, i);
		}
		if (live)
			shlock_drop(&vs_fds_lock);
		return;
	}
	/* Two closed a duplicate each, and neither saw that it was the last. */
	while (!live && (mode = atomic_load(&v->mode)) != VS_GONE) {
		uint8_t plain = VS_PLAIN;

		if (mode == VS_LIVE) {
			shlock_take(&vs_fds_lock, -1, false);
			live = true;
		} else if (mode != VS_PLAIN || !atomic_compare_exchange_strong(&v->mode, &plain, VS_GONE)) {
			sys_nap_us(10);
		}
	}
	if (v->regs)
		ep_forget(v);
	if (atomic_load(&v->kind) == VS_LISTEN)
		meet_unmark(v, fd);
	if (v->offer_nonce)
		meet_withdraw(v);
	if (live) {
		last_close(v, fd);
		shlock_drop(&vs_fds_lock);
	} else if (!atomic_load(&v->want)) {
		give(v);
	} else {
		/* The helper has it in its queue, or in hand: it gives it back. */
		helper_want(v, WANT_REAP);
	}
}

void vs_abandon(int fd)
{
	struct vsock *v = fdtab_vsock(fd);

	if (!v || roam_vfork_child)
		return;
	/* NOREP: no final offset is announced, the stream does not end here. */
	vs_demote(v, REASON_STDIO);
	vs_forget(fd);
}

/* In the helper, when nobody can be inside any more. */
void vs_reap(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);

	shlock_take(&vs_fds_lock, -1, false);
	atomic_store(&v->rxc, &v->rx0);
	atomic_store(&v->phasep, &no_phase);
	atomic_store(&v->phase_ok, 0);
	if (v->pair && v->pair != &st->own_pair)
		sys_unmap(v->pair, PAIR_SIZE);
	v->pair = NULL;
	vring_reap(v);
	if (st) {
		atomic_store(&v->st, NULL);
		state_drop(st);
	}
	atomic_store(&v->want, 0);
	shlock_drop(&vs_fds_lock);
	give(v);
}

void vs_demote(struct vsock *v, uint32_t reason)
{
	struct vstate *st = atomic_load(&v->st);
	char id[9];

	v->never = (uint8_t)reason;
	atomic_store(&v->next_try, UINT32_MAX);
	if (!st || atomic_load(&v->mode) != VS_LIVE || (atomic_load(&st->phase) & PH_NOREP))
		return;
	vs_log_id(v, id);
	log_info("%s demoted reason=%s (%s)", id, reason_word(reason), reason_text(reason));
	atomic_store(&st->reason, reason);
	/* We announce no end any more: the other side shall believe its kernel. */
	shlock_take(&st->mx, -1, false);
	if (v->pair)
		atomic_store(&v->pair->side[st->ho.role].closed, PAIR_CLOSED);
	shlock_drop(&st->mx);
	vs_phase(st, PH_NOREP, 0);
	event_say(v, ROAM_EVENT_PLAIN, reason, 0);
	if (vs_by_agents(st))
		helper_want(v, WANT_NOTICE);
}

void vs_exec(bool before)
{
	uint32_t me = (uint32_t)sys_getpid();
	int e = errno;
	struct vsock *v;

	if (roam_vfork_child || !atomic_load(&vs_live_count) ||
	    shlock_take(&vs_fds_lock, 100000000, false) != SHLOCK_OK)
		return;
	for (v = vs_live_head; v; v = v->live_next) {
		struct vstate *st = atomic_load(&v->st);
		uint32_t was = before ? me : 0;

		if (v->slot >= 0 &&
		    !atomic_compare_exchange_strong(&st->slot[v->slot].s.pid, &was, before ? 0 : me) && !before)
			vs_claim_slot(v);
	}
	shlock_drop(&vs_fds_lock);
	errno = e;
}

/* The other threads, and what they and the helper were doing, are the parent's. */
void vs_fork_plain(struct vsock *v)
{
	uint8_t mode = VS_SWITCHING;

	/* The parent's helper was about to upgrade it: here nobody will finish that. */
	if (atomic_compare_exchange_strong(&v->mode, &mode, VS_PLAIN))
		atomic_store(&v->phase_ok, 0);
	atomic_store(&v->want, 0);
	atomic_store(&v->rated, false);
	atomic_store(&v->tx0, 0);
	atomic_store(&v->pollers, 0);
	atomic_store(&v->waits[0], 0);
	atomic_store(&v->waits[1], 0);
	atomic_fetch_and(&v->rx0, ~UINT64_C(0xffff));
	if (v->offer_far) {
		v->offer_far = false;
		v->offer_nonce = 0;
	}
}

void vs_fork_child(void)
{
	struct vsock *v;

	roam_tid_cache = 0;
	vs_fds_lock = 0;
	for (v = vs_live_head; v; v = v->live_next) {
		struct vstate *st = atomic_load(&v->st);

		atomic_store(&st->shared, 1);
		atomic_store(&v->want, 0);
		atomic_store(&v->rx0, atomic_load(&v->rx0) & ~UINT64_C(0xffff));
		v->mend = NULL;
		atomic_store(&v->inside, 0);
		atomic_store(&v->lookers, 0);
		vs_claim_slot(v);
	}
}
