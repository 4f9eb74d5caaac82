/* Is a ring ready? And what must be done before sleeping on it in the kernel. */
#include "vring.h"
#include "vs_int.h"

static short base_events(struct vsock *v, struct vstate *st, struct vring *vr)
{
	struct pollfd p = { atomic_load(&v->fd), POLLIN | POLLRDNORM | POLLRDHUP, 0 };

	/* Its FIN, behind doorbells. */
	if (sys_poll(&p, 1, 0) <= 0 || !(p.revents & (POLLRDHUP | POLLHUP | POLLERR)))
		return 0;
	return p.revents & POLLERR && vring_orderly(v, st, vr) ? POLLIN | POLLRDNORM | POLLRDHUP : p.revents;
}

short vring_events(struct vsock *v, struct vring *vr)
{
	struct vstate *st = atomic_load(&v->st);
	uint64_t fin;
	uint32_t ph;
	bool closed;
	short ev = 0;

	if (!st)
		return 0;
	ph = atomic_load(atomic_load(&v->phasep));
	if (vs_mending(v))
		return 0;
	/* The end before the bytes: those that came before it are then seen. */
	fin = vring_fin(v, st);
	/* Where the bytes do not end it is not yet true, or a lie that would keep a poller busy for ever. */
	if (fin != atomic_load(&vr->r.in->tail))
		fin = PAIR_NO_FIN;
	if (ring_look(&vr->r, RING_RX))
		ev |= POLLIN | POLLRDNORM;
	if (ph & PH_NOREP)		/* the rest is the kernel's to say; but not whether there was an end before the base's */
		return ev | (fin < PAIR_FIN_SOON ? POLLIN | POLLRDNORM | POLLRDHUP : 0);
	/* Closed: how, is the kernel's to say. */
	closed = vs_peer_closed(v, st);
	if (unlikely(closed))
		ev |= (vring_clean(v, st) ? POLLIN | POLLRDNORM | POLLRDHUP : 0) | base_events(v, st, vr);
	else if (st->shut_rd || fin < PAIR_FIN_SOON)
		ev |= POLLIN | POLLRDNORM | POLLRDHUP;
	if (closed && fin < PAIR_FIN_SOON && ev & POLLHUP)
		ev |= POLLRDHUP;
	if (st->shut_wr || closed || (!(ph & PH_UNSENT) && ring_look(&vr->r, RING_TX)))
		ev |= POLLOUT | POLLWRNORM;
	if (st->shut_wr && (fin < PAIR_FIN_SOON || st->shut_rd))
		ev |= POLLHUP;
	return ev;
}

/* Was the doorbell rung for room? */
static bool room_rung(struct vring *vr, struct vstate *st)
{
	uint32_t s = __atomic_load_n(&st->ring.tx_sleep.state, __ATOMIC_RELAXED);

	return s & RING_POLL && atomic_load(&vr->r.in->tx_bell) == s;
}

/*
 * Doorbells are taken away, but not another sleeper's. False: not now. What is
 * counted first was rung before that, so a ring that is not seen is a byte that is not taken.
 */
static bool take_bell(struct vsock *v, struct vring *vr, struct vstate *st, int fd, bool in, bool out)
{
	char junk[64];
	int n = sys_inq(fd);

	if (n <= 0)
		return true;
	if ((atomic_load(&v->waits[RING_TX]) > out && room_rung(vr, st)) ||
	    (atomic_load(&v->waits[RING_RX]) > in && ring_look(&vr->r, RING_RX)))
		return false;
	while (n > 0) {
		ssize_t r = sys_recv(fd, junk, (size_t)n < sizeof(junk) ? (size_t)n : sizeof(junk), MSG_DONTWAIT);

		if (r <= 0)
			break;
		n -= (int)r;
	}
	return true;
}

static bool arm_rx(struct vsock *v, struct vring *vr, struct vstate *st, int fd, bool in, uint64_t seen, bool out)
{
	enum shlock_result lr = shlock_take(&st->rx, 1000000, false);
	uint64_t known;
	bool ok;

	if (lr != SHLOCK_OK && lr != SHLOCK_DIED)
		return false;
	if (atomic_load(&v->ring) != vr || vs_mending(v) || ring_avail(&vr->r) < 0) {
		shlock_drop(&st->rx);
		return false;
	}
	known = in ? seen == RING_ANY ? atomic_load(&st->ring.rx_head) : seen : st->ring.rx_tail;
	ok = st->ring.rx_tail == known;
	/* Not while there is something to read: the byte is how others in the kernel know. */
	if (ok && (!in || known == atomic_load(&st->ring.rx_head)))
		ok = take_bell(v, vr, st, fd, in, out);
	ok = ok && ring_arm_poll(&vr->r, RING_RX, known);
	shlock_drop(&st->rx);
	return ok;
}

static bool arm_tx(struct vsock *v, struct vring *vr, struct vstate *st, int fd)
{
	enum shlock_result lr = shlock_take(&st->tx, 0, false);
	bool ok;

	if (lr != SHLOCK_OK && lr != SHLOCK_DIED)
		return false;
	if (atomic_load(&v->ring) != vr || vs_mending(v)) {
		shlock_drop(&st->tx);
		return false;
	}
	if (atomic_load(&st->phase) & PH_UNSENT)
		vs_flush_locked(v, fd);
	ok = ring_arm_poll(&vr->r, RING_TX, RING_ANY);
	shlock_drop(&st->tx);
	return ok;
}

static void fewer(_Atomic uint32_t *n)
{
	uint32_t old = atomic_load(n);

	/* Closed and begun anew meanwhile: then it counts from 0. */
	while (old && !atomic_compare_exchange_weak(n, &old, old - 1))
		;
}

void vring_unarm(struct vsock *v, bool in, bool out)
{
	if (in)
		fewer(&v->waits[RING_RX]);
	if (out)
		fewer(&v->waits[RING_TX]);
}

bool vring_arm(struct vsock *v, struct vring *vr, int fd, bool in, uint64_t seen, bool out)
{
	struct vstate *st = atomic_load(&v->st);
	int e = errno;
	bool ok;

	if (!st)
		return false;
	if (atomic_load(&st->phase) & PH_NOREP) {
		ok = !in || !ring_look(&vr->r, RING_RX);
		atomic_fetch_add(&v->waits[RING_RX], ok && in);
		atomic_fetch_add(&v->waits[RING_TX], ok && out);
		return ok;
	}
	atomic_fetch_add(&v->waits[RING_RX], in);
	atomic_fetch_add(&v->waits[RING_TX], out);
	ok = arm_rx(v, vr, st, fd, in, seen, out) && (!out || arm_tx(v, vr, st, fd));
	if (!ok)
		vring_unarm(v, in, out);
	errno = e;
	return ok;
}
