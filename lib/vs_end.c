/* Ending: shutdown, demotion with bytes unsent; and sendfile. */
#include "coding.h"
#include "vring.h"
#include "vs_int.h"

uint64_t vs_unsent(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);
	uint64_t n = 0;

	if (atomic_load(&st->phase) & (PH_MEND | PH_UNSENT) && shlock_take(&st->tx, 1000000, false) == SHLOCK_OK) {
		n = st->replay.end - st->tx_sent;
		shlock_drop(&st->tx);
	}
	return n;
}

#define SETTLE_NS UINT64_C(10000000000)

/*
 * Bytes are about to pass us by: what no link has taken yet must go first.  It
 * waits, also for a non-blocking caller: there is no other way to keep the
 * order.  If it takes too long the connection ends.
 */
void vs_settle(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);
	uint64_t end = sys_now_ns() + SETTLE_NS;
	int fd = atomic_load(&v->fd), zero = 0, e = errno;

	if (!vs_bare(v))
		vring_leave(v, true);
	while (st && vs_live(v)) {
		enum shlock_result lr;
		uint32_t ph;
		bool away;

		vs_install();
		away = vs_mending(v);
		ph = atomic_load(&st->phase);
		if (ph & PH_NOREP || !(away || ph & PH_UNSENT))
			break;
		if (sys_now_ns() >= end) {
			atomic_compare_exchange_strong(&st->pending_err, &zero, ECONNRESET);
			atomic_store(&st->reason, REASON_TIMEOUT);
			atomic_store(&st->judged, 1);
			sys_shutdown(fd, SHUT_RDWR);
			vs_phase(st, PH_NOREP, 0);
			break;
		}
		if (away) {
			if (vs_wait_mend(v, end, true) == EBADF)
				break;
			continue;
		}
		lr = shlock_take(&st->tx, 100000000, false);
		if (lr == SHLOCK_OK || lr == SHLOCK_DIED) {
			vs_flush_locked(v, fd);
			shlock_drop(&st->tx);
		}
		if (atomic_load(&st->phase) & PH_UNSENT)
			vs_wait_writable(fd, end);
	}
	errno = e;
}

/*
 * On a ring a stream ends by its announced offset; the base goes on, for the
 * other direction needs its doorbells. False: no ring any more.
 */
static bool vring_shutdown(struct vsock *v, int fd, int how)
{
	struct vstate *st = atomic_load(&v->st);
	int e = errno;

	if (how != SHUT_RD) {
		/* A sender on the ring holds it for a moment only. */
		if (shlock_take(&st->tx, 100000000, false) == SHLOCK_SELF)
			return false;
		st->shut_wr = 1;
		if (!vring_of(v) || atomic_load(&st->phase) & (PH_MEND | PH_NOREP)) {
			shlock_drop(&st->tx);
			return false;
		}
		vs_announce_fin(v, (how == SHUT_RDWR || st->shut_rd) && !(atomic_load(&st->phase) & PH_UNSENT));
		/* Below the lock: it writes our tail, and the helper may be giving the ring what it lacks. */
		vring_kick_peer(v, fd);
		shlock_drop(&st->tx);
	}
	/* Readers here, in the kernel's poll or on the ring, are told. Without streams there are no doorbells. */
	if (how != SHUT_WR)
		sys_shutdown(fd, st->shut_wr ? SHUT_RDWR : SHUT_RD);
	vring_kick(v);
	ep_hot(v);
	errno = e;
	return true;
}

void vs_all_plain(uint32_t reason)
{
	int fd, top = fdtab_top(), e = errno;
	struct vsock *v;

	if (roam_vfork_child)
		return;
	atomic_store(&vs_plain_reason, (uint8_t)reason);
	for (fd = 0; fd < top; fd++) {
		v = fdtab_vsock(fd);
		if (!v)
			continue;
		vs_settle(v);
		vs_demote(v, reason);
	}
	errno = e;
}

int vs_shutdown(struct vsock *v, int fd, int how)
{
	struct vstate *st = atomic_load(&v->st);
	uint32_t ph;
	enum shlock_result lr;
	int r = 0, e;

	if (!vs_live(v) || how < 0 || how > SHUT_RDWR)
		return sys_shutdown(fd, how);
	if (how != SHUT_WR)
		st->shut_rd = 1;
	if (vring_of(v) && vring_shutdown(v, fd, how))
		return 0;
	if (how == SHUT_RD) {
		e = errno;
		r = sys_shutdown(fd, how);
		/* Of a link that was just left: the next one is shut when it comes. */
		if (r < 0 && errno == ENOTCONN && vs_mending(v)) {
			errno = e;
			r = 0;
		}
		return r;
	}
	/* A sender blocked in the kernel holds the lock: shutdown must wake it, not wait for it. (On a coded link nobody sleeps with it.) */
	lr = shlock_take(&st->tx, vs_coded(v) ? 1000000000 : 0, false);
	if (lr == SHLOCK_BUSY || lr == SHLOCK_SELF) {
		/* What it has sent is known when it is out: the peer waits for that. */
		atomic_store(&v->pair->side[st->ho.role].fin, PAIR_FIN_SOON);
		st->shut_wr = 1;
		r = sys_shutdown(fd, how);
		e = errno;
		/* The helper, giving the link what it lacked, saw shut_wr first, and by now all is over. */
		if (r < 0 && e == ENOTCONN && !(atomic_load(&st->phase) & PH_NOREP))
			r = 0;
		lr = shlock_take(&st->tx, 20000000, false);
		if (lr != SHLOCK_BUSY)
			vs_announce_fin(v, how == SHUT_RDWR && !(atomic_load(&st->phase) & (PH_MEND | PH_UNSENT)));
		if (lr == SHLOCK_OK || lr == SHLOCK_DIED)
			shlock_drop(&st->tx);
		errno = e;
		return r;
	}
	st->shut_wr = 1;
	coding_last(v);
	ph = atomic_load(&st->phase);
	/* Whoever sends to us from now on gets a reset: that is the kernel's word, as after a close. */
	vs_announce_fin(v, how == SHUT_RDWR && !(ph & (PH_MEND | PH_UNSENT)));
	/* While the link is mended the FIN follows the last byte (vs_flush_locked). */
	if (!(ph & (PH_MEND | PH_UNSENT)) || ph & PH_NOREP) {
		vs_install();
		r = sys_shutdown(fd, how);
	} else if (how == SHUT_RDWR) {
		sys_shutdown(fd, SHUT_RD);
	}
	e = errno;
	shlock_drop(&st->tx);
	/* The link has died and nobody noticed: the FIN follows on the next one. */
	if (r < 0 && vs_link_error(e) && !(ph & PH_NOREP) && !atomic_load(&st->judged) && !vs_peer_closed(v, st)) {
		vs_break(v, ECONNRESET, "shutdown");
		r = 0;
	}
	/* To the application the stream has ended, no more: the socket was shut by the mending. */
	if (r < 0 && e == ENOTCONN && ph & PH_NOREP && atomic_load(&st->silent_end))
		r = 0;
	errno = e;
	return r;
}

/*
 * The kernel would send straight from the file, out of our sight.  Read and
 * send instead; a file offset only moves by what was really sent.
 */
ssize_t vs_sendfile(struct vsock *v, int out, int in, off_t *off, size_t n)
{
	size_t done = 0, max = 64 << 10;
	char *buf = malloc(max);

	if (!buf) {
		errno = ENOMEM;
		return -1;
	}
	while (done < n) {
		off_t pos = off ? *off : sys_lseek(in, 0, SEEK_CUR);
		size_t want = n - done < max ? n - done : max;
		ssize_t r, s;

		if (pos < 0) {
			ssize_t k;

			/* Not a file, but it may be something the kernel can send from. */
			if (!off && errno == ESPIPE) {
				vs_settle(v);
				vs_demote(v, REASON_SPLICE);
			}
			free(buf);
			k = sys_sendfile(out, in, off, n - done);
			return done ? (ssize_t)done : k;
		}
		r = sys_pread(in, buf, want, pos);
		if (r < 0) {
			free(buf);
			return done ? (ssize_t)done : -1;
		}
		if (r == 0)
			break;
		s = vs_send_live(v, out, io_buf(buf, (size_t)r, 0));
		if (s < 0) {
			int e = errno;

			free(buf);
			errno = e;
			return done ? (ssize_t)done : -1;
		}
		if (off)
			*off += s;
		else
			sys_lseek(in, pos + s, SEEK_SET);
		done += (size_t)s;
		if (s < r)
			break;
	}
	free(buf);
	return (ssize_t)done;
}
