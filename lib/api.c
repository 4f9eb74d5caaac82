/* roam.h: what a program may ask of its connections, and forbid them. */
#include "api.h"
#include "coding.h"
#include "conf.h"
#include "helper.h"
#include "link_tcp.h"
#include "list.h"
#include "meet.h"
#include "sys.h"
#include "vring.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>

int roam_version(void)
{
	return ROAM_API_VERSION;
}

int roam_set(const char *name, const char *value)
{
	int e = conf_set(name, value);

	if (e)
		errno = e;
	return e ? -1 : 0;
}

const char *roam_reason_word(int reason)
{
	return reason_word((uint32_t)reason);
}

const char *roam_reason_text(int reason)
{
	return reason_text((uint32_t)reason);
}

/*
 * fd's virtual socket, which keeps its memory until leave(): the close of
 * another thread does not wait for us.
 */
static struct vsock *enter(int fd)
{
	struct vsock *v = fdtab_vsock(fd);

	if (v) {
		atomic_fetch_add(&v->inside, 1);
		if (fdtab_vsock(fd) == v)
			return v;
		atomic_fetch_sub(&v->inside, 1);
	}
	errno = fdtab_hidden(fd) || sys_fcntl(fd, F_GETFD, 0) < 0 ? EBADF : ENOTSOCK;
	return NULL;
}

static int leave(struct vsock *v, int e)
{
	atomic_fetch_sub(&v->inside, 1);
	if (e)
		errno = e;
	return e ? -1 : 0;
}

/* Live, and also when it was and is plain again. */
static struct vstate *state(struct vsock *v)
{
	return vs_live_now(v) ? atomic_load(&v->st) : NULL;
}

static uint32_t why(struct vsock *v, struct vstate *st)
{
	if (!st)
		return list_why(v);
	return atomic_load(&st->phase) & PH_NOREP ? atomic_load(&st->reason) : REASON_NONE;
}

int roam_gid(int fd, uint8_t gid[ROAM_GID_SIZE])
{
	struct vsock *v = enter(fd);
	struct vstate *st;

	if (!v)
		return -1;
	st = state(v);
	if (st)
		memcpy(gid, st->ho.gid, ROAM_GID_SIZE);
	return leave(v, st ? 0 : ENODATA);
}

int roam_reason(int fd)
{
	struct vsock *v = enter(fd);
	uint32_t r;

	if (!v)
		return -1;
	if (atomic_load(&v->kind) != VS_CONN)
		return leave(v, ENOTCONN);
	r = why(v, state(v));
	leave(v, 0);
	return (int)r;
}

/* ---- statistics */

/*
 * Written below the tx lock, which a sender in a full kernel may hold for long, or before anybody
 * knows the descriptor: not waited for, read as it stands.  A word is never torn.
 */
#define PEEK(type)							\
__attribute__((no_sanitize("thread")))					\
static type peek_##type(const type *p)					\
{									\
	return *(volatile const type *)p;				\
}
PEEK(uint64_t)
PEEK(uint32_t)
PEEK(uint8_t)

/*
 * What the kernel alone knows; st: it was persistent before.  A FIN counts as a byte there:
 * known by the state, but when all is over (LINK_CLOSED) nobody can tell any more.
 */
static bool count_plain(struct vsock *v, struct vstate *st, int fd, struct roam_stats *s)
{
	uint64_t tx = st ? peek_uint64_t(&st->link_tx) : 0;
	struct link_count c;

	if (link_count(fd, st ? peek_uint32_t(&st->link_syn) : peek_uint8_t(&v->role) == HO_OPENER, &c) < 0)
		return false;
	if ((c.state != LINK_ESTABLISHED && c.state != LINK_CLOSE_WAIT && c.state != LINK_CLOSED) ||
	    (c.state == LINK_CLOSED && st && tx + c.sent == vs_tx_off(st) + 1))
		c.sent--;
	s->sent = tx + c.sent;
	s->delivered = tx + (c.acked < c.sent ? c.acked : c.sent);
	s->unread = c.unread;
	return true;
}

/* On a ring, by what the peer says that it has read. */
static uint64_t ring_delivered(struct vsock *v, uint64_t sent)
{
	struct vring *vr;
	uint64_t n = sent;

	atomic_fetch_add(&v->lookers, 1);
	vr = atomic_load(&v->ring);
	if (vr)
		n = ring_taken(&vr->r);
	atomic_fetch_sub(&v->lookers, 1);
	return n < sent ? n : sent;
}

/*
 * Never too high: what was given to the link is read before what of it is still under way.
 * While the link is exchanged only the trimmed part is sure.
 */
static uint64_t delivered(struct vsock *v, struct vstate *st, int fd)
{
	uint64_t gave = peek_uint64_t(&st->tx_sent), sure = peek_uint64_t(&st->replay.base);
	uint32_t gen = vs_gen(st);
	int left;

	if (vs_mending(v) || atomic_load(&st->phase) & PH_UNSENT)
		return sure;
	/* The kernel counts coded bytes; what they stand for the stage knows, when nobody is sending. */
	if (vs_coded(v)) {
		if (shlock_take(&st->tx, 0, false) != SHLOCK_OK)
			return sure;
		if (vs_coded(v) && !vs_mending(v))
			coding_trim(v, fd);
		sure = st->replay.base;
		shlock_drop(&st->tx);
		return sure;
	}
	left = sys_outq(fd);
	if (left < 0 || (uint64_t)left > gave || gen != vs_gen(st) || vs_mending(v))
		return sure;
	return gave - (uint64_t)left;
}

static void count_live(struct vsock *v, struct vstate *st, int fd, struct roam_stats *s)
{
	bool ring;
	int n;

	s->sent = vs_tx_off(st);
	s->resumes = peek_uint32_t(&st->resumes);
	s->moves = peek_uint32_t(&st->moves);
	s->epoch = peek_uint32_t(&st->ho.epoch);
	s->remote = atomic_load(&st->remote);
	s->broken = vs_mending(v);
	s->resent = peek_uint64_t(&st->resent);
	s->stall_ns = peek_uint64_t(&st->stall_ns);
	s->stall_max_ns = peek_uint64_t(&st->stall_max_ns);
	s->age_ns = sys_now_ns() - st->live_ns;
	ring = vring_of(v) && !vs_mending(v);
	s->link = ring ? ROAM_LINK_RING : vs_coded(v) && !vs_mending(v) ? ROAM_LINK_CODEC : ROAM_LINK_TCP;
	if (atomic_load(&st->phase) & PH_NOREP && !ring && count_plain(v, st, fd, s))
		return;
	if (ring) {
		s->delivered = ring_delivered(v, s->sent);
		s->unread = vring_inq(v);
		return;
	}
	s->delivered = delivered(v, st, fd);
	n = s->link == ROAM_LINK_CODEC ? (int)coding_inq(v, fd) : sys_inq(fd);
	s->unread = n > 0 ? (uint64_t)n : 0;
	if (s->delivered > s->sent)
		s->delivered = s->sent;
}

/* Its first version: what a caller's structure holds at least. */
#define STATS_V1 88

int roam_stats(int fd, struct roam_stats *out, size_t size)
{
	struct roam_stats s = { .size = sizeof(s) };
	struct vstate *st;
	struct vsock *v;

	_Static_assert(sizeof(s) == STATS_V1, "a larger one goes on being filled for programs that know the first");
	if (size < STATS_V1) {
		errno = EINVAL;
		return -1;
	}
	v = enter(fd);
	if (!v)
		return -1;
	if (atomic_load(&v->kind) != VS_CONN)
		return leave(v, ENOTCONN);
	st = state(v);
	s.acceptor = peek_uint8_t(&v->role) == HO_ACCEPTOR;
	s.reason = (int32_t)why(v, st);
	s.received = vs_rx_off(v);
	if (st)
		count_live(v, st, fd, &s);
	else
		count_plain(v, NULL, fd, &s);
	if (s.reason)
		s.link = ROAM_LINK_PLAIN;
	memset(out, 0, size);
	memcpy(out, &s, size < sizeof(s) ? size : sizeof(s));
	out->size = (uint32_t)(size < sizeof(s) ? size : sizeof(s));
	return leave(v, 0);
}

/* ---- policy */

static int forbid_persistent(struct vsock *v)
{
	/* Nobody begins an upgrade from here on; one that is on its way is waited for. */
	atomic_store(&v->barred, true);
	if (v->offer_nonce)
		meet_withdraw(v);
	while (atomic_load(&v->mode) == VS_SWITCHING)
		sys_nap_us(20);
	if (vs_live_now(v)) {
		vs_settle(v);
		vs_demote(v, REASON_OFF);
	}
	return 0;
}

static int allow_persistent(struct vsock *v)
{
	struct vstate *st = state(v);

	if (conf()->off)
		return EPERM;
	if (v->never || (st && atomic_load(&st->phase) & PH_NOREP))
		return EALREADY;
	if (atomic_exchange(&v->barred, false) && !st)
		atomic_store(&v->next_try, atomic_load(&v->ops) + MEET_FIRST);
	return 0;
}

static int forbid_ring(struct vsock *v)
{
	v->no_ring |= NO_RING_POLICY;
	if (!vs_live_now(v))
		return 0;
	vring_say(v, PAIR_RING_NO);
	return vring_of(v) && !vring_leave(v, false) && vring_of(v) ? ETIMEDOUT : 0;
}

static int allow_ring(struct vsock *v)
{
	if (conf()->link == CONF_LINK_TCP)
		return EPERM;
	if (v->no_ring & NO_RING_POLICY) {
		v->no_ring &= (uint8_t)~NO_RING_POLICY;
		if (vs_live_now(v) && v->pair && !atomic_load(&atomic_load(&v->st)->remote))
			vring_begin_count(v);
	}
	return 0;
}

static int forbid_codec(struct vsock *v)
{
	atomic_store(&v->no_codec, true);
	return vs_live_now(v) && vs_coded(v) && !vring_leave(v, false) && vs_coded(v) ? ETIMEDOUT : 0;
}

static int allow_codec(struct vsock *v)
{
	if (conf()->codec == CONF_CODEC_OFF)
		return EPERM;
	if (atomic_exchange(&v->no_codec, false) && vs_live_now(v) && v->pair)
		vring_begin_count(v);
	return 0;
}

int roam_policy(int fd, int what, int value)
{
	struct vsock *v;
	int e;

	errno = EINVAL;
	if (what < ROAM_POLICY_PERSISTENT || what > ROAM_POLICY_THICK || value < 0 || value > 1)
		return -1;
	v = enter(fd);
	if (!v)
		return -1;
	if (what == ROAM_POLICY_PERSISTENT)
		e = value ? allow_persistent(v) : forbid_persistent(v);
	else if (what == ROAM_POLICY_RING)
		e = value ? allow_ring(v) : forbid_ring(v);
	else if (what == ROAM_POLICY_CODEC)
		e = value ? allow_codec(v) : forbid_codec(v);
	else
		e = ENOTSUP;
	return leave(v, e);
}

int roam_policy_get(int fd, int what)
{
	struct vsock *v;
	int r = 0;

	errno = EINVAL;
	if (what < ROAM_POLICY_PERSISTENT || what > ROAM_POLICY_THICK)
		return -1;
	v = enter(fd);
	if (!v)
		return -1;
	if (what == ROAM_POLICY_PERSISTENT)
		r = !atomic_load(&v->barred) && !conf()->off;
	else if (what == ROAM_POLICY_RING)
		r = !(v->no_ring & NO_RING_POLICY) && conf()->link != CONF_LINK_TCP;
	else if (what == ROAM_POLICY_CODEC)
		r = !atomic_load(&v->no_codec) && conf()->codec != CONF_CODEC_OFF;
	else
		return leave(v, ENOTSUP);
	leave(v, 0);
	return r;
}

void api_inherit(const struct vsock *l, struct vsock *v)
{
	atomic_store(&v->barred, atomic_load(&l->barred));
	atomic_store(&v->no_codec, atomic_load(&l->no_codec));
	v->no_ring |= l->no_ring & NO_RING_POLICY;
}
