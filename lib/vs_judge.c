#include "coding.h"
#include "event.h"
#include "vring.h"
#include "vs_int.h"

/*
 * ---- What an odd result means
 *
 * The kernel said "end of stream" or an error on a live connection.  It is
 * the real end when the peer announced it (pair->fin, pair->closed), when we
 * ended it ourselves, or when it has been looked into before (judged).
 * Everything else is a broken link, and the peer is asked (mend.c).
 */

bool vs_link_error(int e)
{
	switch (e) {
	case ECONNRESET: case EPIPE: case ETIMEDOUT: case ECONNABORTED: case ENOTCONN:
	case EHOSTUNREACH: case ENETUNREACH: case ENETDOWN: case EHOSTDOWN: case ECONNREFUSED:
		return true;
	}
	return false;
}

bool vs_peer_closed(struct vsock *v, struct vstate *st)
{
	return v->pair && atomic_load(&v->pair->side[!st->ho.role].closed);
}

bool vs_fin_announced(struct vsock *v, struct vstate *st, int fd)
{
	struct link_count c;
	uint64_t fin, want;
	int tries;

	if (!v->pair)
		return false;
	for (tries = 0; tries < 1000; tries++) {
		fin = atomic_load(&v->pair->side[!st->ho.role].fin);
		if (fin != PAIR_FIN_SOON)
			break;
		sys_nap_us(50);
	}
	if (fin >= PAIR_FIN_SOON)
		return false;
	if (link_count(fd, false, &c) < 0)
		return true;
	if (vs_coded(v))
		return coding_fin(v, st, fin, c.unread);
	/* Taken and waiting bytes of this link, its FIN counted or not. */
	want = st->link_rx + c.received + c.unread;
	return fin == want || fin + 1 == want;
}

bool vs_clean_end(struct vsock *v, int err)
{
	struct vstate *st = atomic_load(&v->st);
	struct pair_side *peer;
	uint64_t fin;

	if (!st || !v->pair || st->shut_rd)
		return false;
	peer = &v->pair->side[!st->ho.role];
	fin = atomic_load(&peer->fin);
	if (fin >= PAIR_FIN_SOON || (fin - vs_rx_off(v)) & RX_MASK)
		return false;
	return err != ECONNRESET || (st->shut_wr && atomic_load(&peer->closed) == PAIR_CLOSED_CLEAN);
}

/* True: the link is broken (now known as such); false: it is the real end. */
bool vs_judge_rx(struct vsock *v, int fd, ssize_t r, int err)
{
	struct vstate *st = atomic_load(&v->st);
	uint32_t ph;
	bool end;

	if (!st || !vs_live(v))
		return false;
	ph = atomic_load(&st->phase);
	if (ph & PH_NOREP || atomic_load(&st->judged))
		return false;
	/*
	 * A ring ends by a word of the peer's, not by what the base link says. And
	 * this may be said of the link that was left for the ring: read again, then.
	 */
	if (vring_of(v) && !st->shut_rd && vring_inq(v))
		return true;
	if (r == 0 && vring_of(v))
		return !st->shut_rd && !vs_peer_closed(v, st) && vring_fin(v, st) != atomic_load(&st->ring.rx_head);
	if (vs_mending(v)) {
		vs_break(v, r == 0 ? 0 : err, NULL);
		return true;
	}
	shlock_take(&st->mx, -1, false);
	if (r == 0)
		end = st->shut_rd || vs_peer_closed(v, st) || vs_fin_announced(v, st, fd);
	else
		end = vs_peer_closed(v, st) || (st->shut_rd && st->shut_wr);
	shlock_drop(&st->mx);
	if (end)
		return false;
	vs_break(v, r == 0 ? 0 : err, r == 0 ? "end" : strerrorname_np(err));
	return true;
}

bool vs_judge_tx(struct vsock *v, int err)
{
	struct vstate *st = atomic_load(&v->st);
	bool end;

	if (st->shut_wr || atomic_load(&st->judged))
		return false;
	shlock_take(&st->mx, -1, false);
	end = vs_peer_closed(v, st);
	shlock_drop(&st->mx);
	if (end)
		return false;
	vs_break(v, err, strerrorname_np(err));
	return true;
}

void vs_break(struct vsock *v, int err, const char *why)
{
	struct vstate *st = atomic_load(&v->st);
	uint32_t ph = atomic_load(&st->phase);
	char id[9];

	for (;;) {
		if (ph & PH_NOREP)
			return;
		if (ph & PH_MEND || !why)
			break;
		/* Before the phase says so: a receiver that sees it looks how long ago that was. */
		atomic_store(&st->broke_ns, sys_now_ns());
		if (atomic_compare_exchange_weak(&st->phase, &ph, ph | PH_MEND)) {
			int zero = 0;

			if (err)
				atomic_compare_exchange_strong(&st->pending_err, &zero, err);
			st->moving |= vring_peer_moves(v);
			vs_log_id(v, id);
			/* The notice of a clean end may just be on its way from another host. */
			atomic_store(&st->broke_end, !err && (!strcmp(why, "end") || !strcmp(why, "hangup")));
			if (st->moving) {
				log_debug("%s moving", id);
			} else if (atomic_load(&st->remote) && atomic_load(&st->broke_end)) {
				log_debug("%s end of the link, asking", id);
			} else {
				log_info("%s broken reason=%s", id, why);
				event_say(v, ROAM_EVENT_BROKEN, 0, 0);
			}
			break;
		}
	}
	if (vring_of(v))
		vring_kick(v);
	/* The helper's descriptors are not the program's: whoever wakes up next detaches. */
	if (!roam_in_helper)
		ep_detach(v);
	helper_want(v, WANT_MEND);
}

bool vs_ready_trouble(struct vsock *v, uint32_t events)
{
	struct vstate *st = atomic_load(&v->st);
	int fd = atomic_load(&v->fd);
	struct pollfd p;
	uint32_t ph;
	bool end;

	if (!st || !vs_live(v))
		return false;
	ph = atomic_load(&st->phase);
	if (ph & PH_NOREP || atomic_load(&st->judged))
		return false;
	vs_install();
	if (vs_mending(v)) {
		vs_break(v, 0, NULL);
		return true;
	}
	/* Told by a socket that has been exchanged since? */
	p = (struct pollfd){ fd, POLLIN | POLLRDHUP, 0 };
	if (sys_poll(&p, 1, 0) <= 0 || !(p.revents & (POLLERR | POLLHUP | POLLRDHUP)))
		return true;
	events = (uint32_t)p.revents;
	/* A base that we shut for reading says no more than that. */
	if (vring_of(v) && st->shut_rd && !(events & (EPOLLERR | EPOLLHUP)))
		return false;
	shlock_take(&st->mx, -1, false);
	end = vs_peer_closed(v, st) || (st->shut_rd && st->shut_wr);
	/* Only our side's or the peer's announced end shows as HUP or RDHUP without an error. */
	if (!end && !(events & EPOLLERR) && !vring_of(v))
		end = st->shut_rd || vs_fin_announced(v, st, fd);
	shlock_drop(&st->mx);
	if (end || (!(events & (EPOLLERR | EPOLLRDHUP)) && !link_dead(fd)))
		return false;
	/* The error stays on the old socket: if mending fails it is the kernel's to tell. */
	vs_break(v, 0, events & EPOLLERR ? "error" : "hangup");
	return true;
}

bool vs_ready_end(struct vsock *v, uint32_t events, bool asked)
{
	if (!asked && !(events & (EPOLLERR | EPOLLHUP)) && vs_live(v) && vs_bare(v) && !vs_mending(v) &&
	    sys_inq(atomic_load(&v->fd)) > 0)
		return false;
	return vs_ready_trouble(v, events);
}

int vs_wait_mend(struct vsock *v, uint64_t deadline_ns, bool installed)
{
	struct vstate *st = atomic_load(&v->st);

	for (;;) {
		uint32_t ph = atomic_load(&st->phase);
		int64_t left = 20000000;	/* look now and then: the leader may be killed */
		int r;

		if (ph & PH_NOREP)
			return 0;
		/* Another thread closed it under us. */
		if (!atomic_load(&v->nfd))
			return EBADF;
		if (!(ph & PH_MEND)) {
			vs_install();
			if (!installed || !vs_mending(v))
				return 0;
			/* On its way to us; a sharer asks the process that made it. */
			helper_want(v, WANT_MEND);
			left = 200000;
		}
		if (deadline_ns) {
			int64_t l = (int64_t)(deadline_ns - sys_now_ns());

			if (l <= 0)
				return EAGAIN;
			if (l < left)
				left = l;
		}
		r = sys_futex_wait(&st->phase, ph, left);
		/* With a time-out the kernel does not restart either. */
		if (r == EINTR && (deadline_ns || !sys_signals_restart()))
			return EINTR;
		if (r == ETIMEDOUT && atomic_load(&v->nfd))
			helper_want(v, WANT_MEND);
	}
}

bool vs_nonblocking(int fd, int flags)
{
	return flags & MSG_DONTWAIT || sys_fcntl(fd, F_GETFL, 0) & O_NONBLOCK;
}

/* The end of SO_RCVTIMEO or SO_SNDTIMEO from now; 0: none. */
uint64_t vs_deadline(int fd, int opt)
{
	struct timeval tv;
	socklen_t l = sizeof(tv);

	if (sys_getsockopt(fd, SOL_SOCKET, opt, &tv, &l) < 0 || (!tv.tv_sec && !tv.tv_usec))
		return 0;
	return sys_now_ns() + (uint64_t)tv.tv_sec * 1000000000u + (uint64_t)tv.tv_usec * 1000u;
}

/* An error that is real, and that the kernel tells once: for the next call, which has no bytes to tell of. */
void vs_error_later(struct vsock *v, int err)
{
	struct vstate *st = atomic_load(&v->st);
	int zero = 0;

	if (!st || !vs_live(v))
		return;
	atomic_compare_exchange_strong(&st->pending_err, &zero, err);
	atomic_store(&st->judged, 1);
	vs_phase(st, PH_NOREP, 0);
}

/* The errno that the link died with, told exactly once. */
bool vs_take_pending(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);
	int e = st && atomic_load(&st->phase) & PH_NOREP ? atomic_exchange(&st->pending_err, 0) : 0;

	if (!e)
		return false;
	errno = e;
	return true;
}

int vs_error(struct vsock *v, int err)
{
	struct vstate *st = atomic_load(&v->st);

	if (atomic_load(&st->phase) & PH_NOREP)
		return err ? err : atomic_exchange(&st->pending_err, 0);
	if (atomic_load(&st->phase) & PH_MEND)
		return 0;
	return err && vs_link_error(err) && vs_judge_tx(v, err) ? 0 : err;
}

void vs_install_all(void)
{
	int e = errno;

	if (!roam_vfork_child)
		helper_install();
	errno = e;
}
