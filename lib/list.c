#include "list.h"
#include "conf.h"
#include "helper.h"
#include "link_tcp.h"
#include "listing.h"
#include "mend_int.h"
#include "vring.h"
#include "meet.h"
#include "sys.h"
#include <string.h>

static void name_of(const struct sockaddr_storage *ss, struct listing *l, bool self)
{
	uint16_t port;
	int f = meet_addr(ss, self ? l->self : l->peer, &port);

	l->family = (uint8_t)f;
	if (self)
		l->self_port = port;
	else
		l->peer_port = port;
}

static uint8_t state_of(struct vsock *v, uint32_t ph)
{
	if (ph & PH_NOREP)
		return LISTING_ENDED;
	if (v->mend && v->mend->state == M_FROZEN)
		return LISTING_FROZEN;
	if (!(ph & PH_MEND))
		return LISTING_UP;
	return v->mend && v->mend->state == M_ASKED ? LISTING_ASKING : LISTING_BROKEN;
}

static void fill_live(struct vsock *v, struct vstate *st, struct listing *l)
{
	uint32_t ph = atomic_load(&st->phase);

	memcpy(l->gid, st->ho.gid, 16);
	l->link = ph & PH_NOREP ? LISTING_PLAIN : vring_of(v) ? LISTING_RING :
		ph & PH_CODED ? LISTING_CODEC : LISTING_TCP;
	l->state = state_of(v, ph);
	l->role = st->ho.role;
	l->remote = atomic_load(&st->remote);
	l->reason = ph & PH_NOREP ? atomic_load(&st->reason) : 0;
	l->epoch = st->ho.epoch;
	l->peer_epoch = st->ho.peer_epoch;
	name_of(&st->names.self, l, true);
	name_of(&st->names.peer, l, false);
	l->tx = vs_tx_off(st);
	l->rx = vs_rx_off(v);
	l->in_flight = vring_of(v) ? vring_outq(v) : replay_used(&st->replay);
	if (vring_of(v))
		l->unread = vring_inq(v);
	l->handovers = vs_gen(st) - 1;
	l->resent = st->resent;
	l->stall_ns = st->stall_ns;
	l->stall_max_ns = st->stall_max_ns;
	l->age_ns = sys_now_ns() - st->live_ns;
	l->agent_family = st->where.family;
	l->agent_port = st->where.port;
	memcpy(l->agent_addr, st->where.addr, 16);
	memcpy(l->agent_host, st->where.host, 16);
}

uint32_t list_why(struct vsock *v)
{
	struct tuple t;

	if (atomic_load(&v->barred) || conf()->off)
		return REASON_OFF;
	if (v->never)
		return v->never;
	if (v->why_far)
		return v->why_far;
	meet_noted(v, &t);
	if (!t.family)
		return REASON_YOUNG;
	return meet_local(&t) ? REASON_NOPEER : REASON_REMOTE;
}

static void fill_plain(struct vsock *v, int fd, struct listing *l)
{
	struct sockaddr_storage ss;
	socklen_t n = sizeof(ss);
	struct link_count c;

	l->link = LISTING_PLAIN;
	l->role = v->role;
	l->reason = list_why(v);
	if (sys_getsockname(fd, (struct sockaddr *)&ss, &n) == 0)
		name_of(&ss, l, true);
	n = sizeof(ss);
	if (sys_getpeername(fd, (struct sockaddr *)&ss, &n) == 0)
		name_of(&ss, l, false);
	if (link_count(fd, v->role == HO_OPENER, &c) == 0) {
		l->tx = c.sent;
		l->rx = c.received;
		l->in_flight = c.sent - c.acked;
		l->unread = c.unread;
	}
}

static void fill(struct vsock *v, int fd, struct listing *l)
{
	int own = helper_borrow(fd), n = own >= 0 ? sys_inq(own) : -1;

	memset(l, 0, sizeof(*l));
	l->size = sizeof(*l);
	l->pid = (uint32_t)sys_getpid();
	l->fd = fd;
	l->unread = n > 0 ? (uint64_t)n : 0;
	if (vs_live_now(v))
		fill_live(v, atomic_load(&v->st), l);
	else
		fill_plain(v, own, l);
	helper_close(own);
}

static bool shown(int fd, struct vsock **v)
{
	*v = fdtab_vsock(fd);
	return *v && atomic_load(&(*v)->kind) == VS_CONN && atomic_load(&(*v)->fd) == fd;
}

int list_memfd(uint64_t *n)
{
	struct listing *l;
	struct vsock *v;
	int fd, mem, top;
	uint64_t max = 0;

	shlock_take(&vs_fds_lock, -1, false);
	top = fdtab_top();
	for (fd = 0; fd < top; fd++)
		max += shown(fd, &v);
	*n = max;
	mem = max ? helper_keep(sys_memfd("roam-list", max * sizeof(*l))) : -1;
	l = mem < 0 ? NULL : sys_map_shared(mem, max * sizeof(*l));
	if (l) {
		for (fd = 0, *n = 0; fd < top && *n < max; fd++)
			if (shown(fd, &v))
				fill(v, fd, &l[(*n)++]);
		sys_unmap(l, max * sizeof(*l));
	}
	shlock_drop(&vs_fds_lock);
	if (mem >= 0 && !l) {
		helper_close(mem);
		mem = -1;
	}
	return mem;
}
