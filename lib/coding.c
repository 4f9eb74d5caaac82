/* The life of a coded link. See coding.h. */
#include "coding.h"
#include "conf.h"
#include "link_tcp.h"
#include "log.h"
#include "vring.h"
#include "vs_int.h"
#include <netinet/in.h>
#include <netinet/tcp.h>

_Atomic uint32_t coding_count_now;

bool coding_may(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);

	return conf()->codec != CONF_CODEC_OFF && st && v->pair && !(v->no_ring & NO_RING_SET) &&
		!atomic_load(&v->no_codec) && !atomic_load(&st->code_never) &&
		!ep_nested(v);
}

bool coding_wanted(struct vsock *v)
{
	return coding_may(v) && (atomic_load(&atomic_load(&v->st)->code_want) || conf()->codec == CONF_CODEC_ZLIB);
}

static void move(struct vsock *v, struct vstate *st)
{
	vring_say(v, PAIR_RING_CODEC);
	st->moving = true;
	vs_break(v, 0, "codec");
}

bool coding_propose(struct vsock *v, int fd)
{
	struct vstate *st = atomic_load(&v->st);

	if (vs_coded(v) || vring_of(v) || !coding_may(v) || st->shut_wr || st->shut_rd || !vring_still(v, fd))
		return false;
	atomic_store(&st->code_want, true);
	move(v, st);
	return true;
}

bool coding_leave(struct vsock *v, int fd)
{
	struct vstate *st = atomic_load(&v->st);

	if (!vs_coded(v) || st->shut_wr || st->shut_rd || !vring_still(v, fd))
		return false;
	move(v, st);
	return true;
}

static int notsent(int link)
{
	int n = 0;
	socklen_t l = sizeof(n);

	return sys_getsockopt(link, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &n, &l) < 0 ? 0 : n;
}

bool coding_begin(struct vstate *st, int link, uint64_t tx, uint64_t rx, uint64_t sent, uint64_t received)
{
	struct coding *c = coding_of(st);
	int low = CODING_LOWAT;

	if (!stage_enc_open(c->enc, sizeof(c->enc), CODEC_DEFLATE, tx) ||
	    !stage_dec_open(c->dec, sizeof(c->dec), CODEC_DEFLATE, rx))
		return false;
	atomic_store(&coding_count_now, 1);
	c->wire_base = sent;
	c->asked = 0;
	atomic_store(&c->left, true);
	c->looked = tx;
	c->wire_rx_base = received;
	c->kept = c->at = c->have = 0;
	c->err = 0;
	c->noted = rx;
	atomic_store(&c->peer_off, tx);
	sys_setsockopt(link, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &low, sizeof(low));
	return true;
}

void coding_kept_options(struct vstate *st, int link, bool was, bool is)
{
	if (!was && is)
		st->notsent = (uint32_t)notsent(link);
	if (was)
		sys_setsockopt(link, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &st->notsent, sizeof(st->notsent));
}

void coding_broken(struct vsock *v, int fd)
{
	struct vstate *st = atomic_load(&v->st);
	int zero = 0;
	char id[9];

	if (atomic_load(&st->phase) & PH_NOREP)
		return;
	vs_log_id(v, id);
	log_error("%s ended reason=%s (%s)", id, reason_word(REASON_CODEC), reason_text(REASON_CODEC));
	atomic_compare_exchange_strong(&st->pending_err, &zero, ECONNRESET);
	atomic_store(&st->reason, REASON_CODEC);
	atomic_store(&st->judged, 1);
	vs_phase(st, PH_NOREP, 0);
	sys_shutdown(fd, SHUT_RDWR);
}

/* ---- what the link carried */

struct raw {
	uint8_t *p;
	size_t n, cap;
};

static bool room(struct raw *r, size_t more)
{
	size_t cap = r->cap ? r->cap : CODING_BUF;
	uint8_t *p;

	if (r->n + more > REPLAY_MAX)
		return false;
	while (cap < r->n + more)
		cap *= 2;
	if (cap == r->cap)
		return true;
	p = realloc(r->p, cap);
	if (!p)
		return false;
	r->p = p;
	r->cap = cap;
	return true;
}

/* Everything that whole and partial blocks in the queue stand for. */
static uint32_t decode_all(struct stage_dec *d, const uint8_t *wire, size_t len, struct raw *r)
{
	for (;;) {
		size_t n = len, cap = CODING_BUF;

		if (!room(r, cap))
			return REASON_CODEC;	/* no end of ours sends so much ahead of its reader */
		if (stage_decode(d, wire, &n, r->p + r->n, &cap) != STAGE_OK)
			return REASON_CODEC;
		wire += n;
		len -= n;
		r->n += cap;
		if (!cap && !n)
			return REASON_NONE;
	}
}

static uint32_t unread(struct coding *c, int fd, size_t queue, struct raw *r)
{
	uint8_t *wire = malloc(queue ? queue : 1), *before = malloc(sizeof(c->dec));
	uint32_t bad = REASON_MEMORY;

	/* If the link is not left after all the application reads on: the decoder must not have moved. */
	if (wire && before && room(r, c->have - c->at)) {
		memcpy(r->p, c->buf + c->at, c->have - c->at);
		r->n = c->have - c->at;
		memcpy(before, c->dec, sizeof(c->dec));
		bad = REASON_COUNT;
		if (!queue || link_peek(fd, wire, queue) == (ssize_t)queue)
			bad = decode_all(coding_dec(c), wire + c->kept, queue - c->kept, r);
		memcpy(c->dec, before, sizeof(c->dec));
	}
	free(wire);
	free(before);
	return bad;
}

uint32_t coding_count(struct vsock *v, int fd, bool fin_ours, bool *fin_theirs, uint64_t *got, uint8_t **p, size_t *n)
{
	struct vstate *st = atomic_load(&v->st);
	struct coding *c = coding_of(st);
	struct stage_enc *e = coding_enc(c);
	struct stage_dec *d = coding_dec(c);
	struct raw r = { 0 };
	struct link_count k;
	uint64_t w, taken;
	uint32_t bad;

	if (link_count(fd, st->link_syn, &k) < 0)
		return REASON_COUNT;
	w = c->wire_base + e->wire - (e->end - e->at);
	taken = c->wire_rx_base + d->wire - c->kept;
	/* A FIN counts as a byte. */
	if ((k.sent != w && !(k.sent == w + 1 && (fin_ours || st->shut_wr))) || k.received - taken > 1 ||
	    (k.unread && k.unread < c->kept)) {
		log_debug("count: coded: kernel sent %llu, stage %llu; received %llu, stage %llu, unread %llu, state %u",
			  (unsigned long long)k.sent, (unsigned long long)w, (unsigned long long)k.received,
			  (unsigned long long)taken, (unsigned long long)k.unread, k.state);
		return REASON_COUNT;
	}
	*fin_theirs = k.received - taken == 1;
	*got = d->off - (c->have - c->at);
	/* What somebody took who was killed before he said so. */
	atomic_fetch_add(atomic_load(&v->rxc), ((*got - vs_rx_count(v)) & RX_MASK) << 16);
	bad = unread(c, fd, k.unread, &r);
	if (bad) {
		free(r.p);
		return bad;
	}
	*p = r.p;
	*n = r.n;
	return REASON_NONE;
}
