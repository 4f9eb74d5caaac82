/* The life of a connection's ring in one process. See vring.h. */
#include "vring.h"
#include "vs_int.h"
#include <stdlib.h>
#include <string.h>

static struct vring *retired;		/* the helper's */

struct vring *vring_new(struct vsock *v, uint32_t size)
{
	struct vring *vr = aligned_alloc(128, (sizeof(*vr) + 127) & ~(size_t)127);

	if (!vr)
		return NULL;
	memset(vr, 0, sizeof(*vr));
	vr->v = v;
	vr->prov.ops = &prov_shm;
	vr->prov.fd = -1;
	if (vr->prov.ops->open(&vr->prov, ring_len(size)) < 0) {
		free(vr);
		return NULL;
	}
	return vr;
}

int vring_box(struct vring *vr, uint8_t *flags)
{
	struct prov_key k;

	vr->prov.ops->key(&vr->prov, &k);
	*flags = MSGF_RING | (k.flags & PROV_BARRIER ? MSGF_BARRIER : 0);
	return k.fd;
}

bool vring_join(struct vring *vr, int fd, uint8_t flags)
{
	struct prov_key k = { .kind = PROV_SHM, .flags = flags & MSGF_BARRIER ? PROV_BARRIER : 0,
			      .len = vr->prov.len, .fd = fd };

	return vr->prov.ops->join(&vr->prov, &k) == 0;
}

uint32_t vring_size_of(int fd)
{
	size_t len = sys_memfd_size(fd);
	size_t size = len > RING_DATA ? len - RING_DATA : 0;

	return size < RING_MIN || size > RING_MAX || size & (size - 1) ? 0 : (uint32_t)size;
}

void vring_free(struct vring *vr)
{
	if (!vr)
		return;
	vr->prov.ops->close(&vr->prov);
	free(vr);
}

void vring_begin(struct vsock *v, struct vring *vr, uint64_t tx, uint64_t rx, bool first)
{
	struct vstate *st = atomic_load(&v->st);

	ring_start(&st->ring, (uint32_t)(vr->prov.len - RING_DATA), tx, rx);
	ring_view(&vr->r, &st->ring, &vr->prov);
	if (first)
		ring_expect(&vr->r);
	ring_open(&vr->r);
	/* Nobody sleeps yet; whoever will may do so without looking. */
	ring_arm_poll(&vr->r, RING_RX, RING_ANY);
}

void vring_adopt(struct vsock *v, struct vring *vr)
{
	struct vstate *st = atomic_load(&v->st);
	struct vring *old = atomic_exchange(&v->ring, vr);

	atomic_store(&st->ring_tx, vr != NULL);
	atomic_store(&st->ring_rx, vr != NULL);
	if (old)
		vring_retire(v, old);
	if (vr && !old)
		atomic_fetch_add(&vs_ring_count, 1);
	else if (old && !vr)
		atomic_fetch_sub(&vs_ring_count, 1);
}

void vring_retire(struct vsock *v, struct vring *vr)
{
	vr->v = v;
	vr->due = sys_now_ns() + 10000000u;
	vr->next = retired;
	retired = vr;
}

/* Does a thread of this process hold it? Other sharers have mappings of their own. */
static bool held(shlock *l)
{
	uint32_t tid = atomic_load(l) & ~SHLOCK_WAITERS;

	return tid && sys_own_thread((int)tid);
}

static bool looked_at(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);

	return atomic_load(&v->lookers) || atomic_load(&v->pollers) || (st && (held(&st->tx) || held(&st->rx)));
}

void vring_timers(uint64_t now, uint64_t *next)
{
	struct vring **p = &retired, *vr;

	while ((vr = *p)) {
		if (vr->due <= now && !looked_at(vr->v)) {
			*p = vr->next;
			/* Walkers of a set that began before it was taken from the vsock. */
			ep_pass(vr->v);
			vring_free(vr);
			continue;
		}
		if (vr->due <= now)
			vr->due = now + 10000000u;
		if (!*next || vr->due < *next)
			*next = vr->due;
		p = &vr->next;
	}
}

void vring_fork_child(void)
{
	retired = NULL;		/* the parent's */
}

void vring_reap(struct vsock *v)
{
	struct vring **p = &retired, *vr = atomic_exchange(&v->ring, NULL);

	vring_free(vr);
	while ((vr = *p))
		if (vr->v == v) {
			*p = vr->next;
			vring_free(vr);
		} else {
			p = &vr->next;
		}
}

/* ---- what it carries */

static uint8_t *replay_mem(struct vstate *st)
{
	return (uint8_t *)st + REPLAY_AT;
}

bool vring_to_replay(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);
	struct vring *vr = atomic_load(&v->ring);
	uint64_t off, tail = atomic_load(&st->ring.tail), head = atomic_load(&st->ring.head);
	const uint8_t *p;
	size_t n;

	if (!atomic_load(&st->ring_tx))
		return true;
	if (!vr)
		return false;		/* a process that never had it */
	/* It may still hold the beginning (an OK that was not confirmed), or be behind or before the ring. */
	if (st->replay.end < head || st->replay.base > head) {
		replay_trim(&st->replay, st->replay.end);
		st->replay.base = head;
		replay_set_end(&st->replay, head);
	}
	if (st->replay.end < tail && !replay_reserve(&st->replay, replay_mem(st), tail - st->replay.end))
		return false;
	for (off = st->replay.end; off < tail && (n = ring_unread(&vr->r, off, &p)) != 0; off += n)
		replay_append(&st->replay, replay_mem(st), p, n);
	if (off < tail)
		return false;
	st->tx_sent = st->replay.end;
	atomic_store(&st->ring_tx, false);
	return true;
}

void vring_to_counters(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);

	if (!atomic_load(&st->ring_rx))
		return;
	atomic_fetch_add(atomic_load(&v->rxc), ((atomic_load(&st->ring.rx_head) - vs_rx_count(v)) & RX_MASK) << 16);
	atomic_store(&st->ring_rx, false);
}

bool vring_flush_locked(struct vsock *v, int fd)
{
	struct vstate *st = atomic_load(&v->st);
	struct vring *vr = atomic_load(&v->ring);
	uint32_t call = 0;

	/* It is being left, and what it held is in the replay buffer again: not to be trimmed. */
	if (!atomic_load(&st->ring_tx))
		return false;
	while (st->tx_sent < st->replay.end) {
		const uint8_t *p;
		size_t n = replay_at(&st->replay, replay_mem(st), st->tx_sent, &p);
		long k = ring_put(&vr->r, p, n, &call);

		if (k <= 0)
			break;
		st->tx_sent += (uint64_t)k;
	}
	if (ring_call(&vr->r, call))
		vring_bell(v, fd);
	if (st->tx_sent < st->replay.end)
		return false;
	/* The ring holds it now; an OK that may not have arrived still needs it. */
	if (atomic_load(&st->trim_limit) == UINT64_MAX)
		replay_trim(&st->replay, st->replay.end);
	return true;
}

/* ---- waking */

/*
 * As if the peer had answered the state that we told it last: a sleeper that saw
 * another bell wakes, and the next one arms anew.  The peer has not answered it,
 * and will, once in vain.  (Any other value would make a bell that was rung look
 * as if it were still to be rung, and nobody would ring it again.)
 */
static void knock(_Atomic uint32_t *bell, const struct ring_sleep *s)
{
	atomic_store(bell, __atomic_load_n(&s->state, __ATOMIC_RELAXED));
	sys_futex_wake(bell, INT32_MAX);
}

void vring_kick(struct vsock *v)
{
	struct vring *vr;

	atomic_fetch_add(&v->lookers, 1);
	vr = atomic_load(&v->ring);
	if (vr) {
		knock(&vr->r.in->rx_bell, &vr->r.end->rx_sleep);
		knock(&vr->r.in->tx_bell, &vr->r.end->tx_sleep);
	}
	atomic_fetch_sub(&v->lookers, 1);
}

static _Atomic bool bells;		/* some were rung since the helper looked last */

bool vring_bell(struct vsock *v, int fd)
{
	int e = errno;
	bool ok;

	atomic_store(&v->rang, true);
	atomic_store(&v->belled, true);
	if (!atomic_load(&bells) && !atomic_exchange(&bells, true))
		helper_want(v, WANT_BELL);
	/* Full: then there is more than one for the peer to find. */
	ok = sys_send(fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0 || !vs_link_error(errno);
	errno = e;
	return ok;
}

#define HEARD_NS UINT64_C(50000000)

/*
 * A doorbell may be dropped on its way, and answered by a reset when it is sent
 * again.  Whoever rang has gone on, or sleeps on a futex: the base of a ring is
 * looked at until the other kernel has the byte.
 */
void vring_heard(uint64_t now, uint64_t *next)
{
	static uint64_t due;
	struct vsock *v;
	bool again = false;

	if (likely(!atomic_load(&bells))) {
		due = 0;
		return;
	}
	if (!due)
		due = now + HEARD_NS;
	if (now >= due) {
		atomic_store(&bells, false);
		shlock_take(&vs_fds_lock, -1, false);
		for (v = vs_live_head; v; v = v->live_next) {
			struct vstate *st = atomic_load(&v->st);
			int fd;

			if (!atomic_load(&v->belled) || !atomic_exchange(&v->belled, false) || !vring_of(v) ||
			    vs_mending(v) || atomic_load(&st->phase) & PH_NOREP)
				continue;
			fd = helper_borrow(atomic_load(&v->fd));
			if (fd >= 0 && sys_sock_ino(fd) == st->link_ino) {
				if (link_dead(fd) && !vs_peer_closed(v, st)) {
					vs_break(v, 0, "bell");
				} else if (sys_outq(fd) > 0) {
					atomic_store(&v->belled, true);
					again = true;
				}
			}
			helper_close(fd);
		}
		shlock_drop(&vs_fds_lock);
		if (again)
			atomic_store(&bells, true);
		due = now + HEARD_NS;
	}
	if (atomic_load(&bells) && (!*next || due < *next))
		*next = due;
}

void vring_kick_peer(struct vsock *v, int fd)
{
	uint32_t call = 0;
	struct vring *vr;

	atomic_fetch_add(&v->lookers, 1);
	vr = atomic_load(&v->ring);
	if (vr) {
		ring_mend_tx(&vr->r, &call);
		if (ring_call(&vr->r, call))
			vring_bell(v, fd);
	}
	atomic_fetch_sub(&v->lookers, 1);
}

void vring_broken(struct vsock *v, int fd)
{
	/* By enum ring_fault. Fine: the ring itself is, and can still be read. */
	static const char *const what[] = { "it has not closed", "its tail", "its head", "the link" };
	struct vstate *st = atomic_load(&v->st);
	uint32_t why = atomic_load(&st->ring.broken);
	int zero = 0;
	char id[9];

	if (atomic_load(&st->phase) & PH_NOREP)
		return;
	vs_log_id(v, id);
	log_error("%s ended reason=%s (%s: %s)", id, reason_word(REASON_RING), reason_text(REASON_RING),
		  why < ARRAY_SIZE(what) ? what[why] : "?");
	atomic_compare_exchange_strong(&st->pending_err, &zero, ECONNRESET);
	atomic_store(&st->reason, REASON_RING);
	atomic_store(&st->judged, 1);
	vs_phase(st, PH_NOREP, 0);
	sys_shutdown(fd, SHUT_RDWR);
	vring_kick(v);
}

/* ---- sizes and the end */

void vring_tcp_state(struct vsock *v, uint8_t *state)
{
	struct vstate *st = atomic_load(&v->st);
	bool fin = vring_fin(v, st) < PAIR_FIN_SOON;

	if (st->shut_wr && vs_peer_closed(v, st))
		*state = LINK_CLOSED;
	if (*state != LINK_ESTABLISHED || vs_peer_closed(v, st))
		return;
	if (st->shut_wr)
		*state = fin ? LINK_CLOSED : LINK_FIN_WAIT2;
	else if (fin)
		*state = LINK_CLOSE_WAIT;
}

uint64_t vring_inq(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);
	struct vring *vr;
	uint64_t n = 0;

	atomic_fetch_add(&v->lookers, 1);
	vr = atomic_load(&v->ring);
	if (vr && st) {
		n = atomic_load(&vr->r.in->tail) - atomic_load(&st->ring.rx_head);
		if (n > vr->r.size)
			n = 0;		/* scribbled: the next receive says so */
	}
	atomic_fetch_sub(&v->lookers, 1);
	return n;
}

uint64_t vring_outq(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);
	struct vring *vr;
	uint64_t n = 0;

	atomic_fetch_add(&v->lookers, 1);
	vr = atomic_load(&v->ring);
	if (vr && st) {
		n = atomic_load(&st->ring.tail) - atomic_load(&vr->r.in->head);
		if (n > vr->r.size)
			n = 0;
	}
	atomic_fetch_sub(&v->lookers, 1);
	return n;
}

void vring_end(struct vsock *v, int fd)
{
	struct vstate *st = atomic_load(&v->st);

	if (!vring_of(v) || atomic_load(&st->phase) & PH_NOREP || !vs_last_sharer(v, st))
		return;
	vs_announce_fin(v, true);
	if (link_resets(fd))
		vs_reset_meant(v);
	vring_kick_peer(v, fd);
	if (vring_inq(v)) {
		/* Unread bytes are thrown away: the kernel tells the sender by a reset. */
		link_abort(fd);
		return;
	}
	/* A doorbell left in the queue would look like them. */
	link_drain(fd);
}
