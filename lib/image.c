#include "image.h"
#include <string.h>

#define MAGIC	0x316d6972u	/* "rim1" */
#define HEAD	320u
#define MAX	(16u << 20)	/* of either buffer */

/* One walk for both directions, so that they cannot differ. */
struct walk {
	uint8_t *w;
	const uint8_t *r;
	size_t at;
};

static void num(struct walk *k, void *field, size_t size)
{
	uint64_t v = 0;
	size_t i;

	if (k->w) {
		memcpy(&v, field, size);	/* little-endian in memory, as everywhere here */
		for (i = 0; i < size; i++)
			k->w[k->at + i] = (uint8_t)(v >> 8 * i);
	} else {
		for (i = 0; i < size; i++)
			v |= (uint64_t)k->r[k->at + i] << 8 * i;
		memcpy(field, &v, size);
	}
	k->at += size;
}

static void bytes(struct walk *k, void *field, size_t size)
{
	if (k->w)
		memcpy(k->w + k->at, field, size);
	else
		memcpy(field, k->r + k->at, size);
	k->at += size;
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "num() takes the low bytes first");

static void head(struct walk *k, struct image *i, uint32_t *magic)
{
	struct handover *h = &i->ho;

	num(k, magic, 4);
	bytes(k, h->gid, WIRE_GID);
	bytes(k, h->key, WIRE_KEY);
	num(k, &h->role, 1);
	num(k, &h->epoch, 4);
	num(k, &h->peer_epoch, 4);
	num(k, &h->gen, 8);
	num(k, &h->attempt, 8);
	num(k, &h->peer_attempt, 8);
	num(k, &h->peer_nonce, 8);
	num(k, &h->rx_off, 8);
	num(k, &h->peer_rx_off, 8);
	num(k, &i->family, 1);
	num(k, &i->shut_rd, 1);
	num(k, &i->peer_fin, 8);
	bytes(k, i->agent_host, 16);
	num(k, &i->agent_family, 1);
	bytes(k, i->agent_addr, 16);
	num(k, &i->agent_port, 2);
	num(k, &i->self_family, 1);
	bytes(k, i->self_addr, 16);
	num(k, &i->self_port, 2);
	num(k, &i->peer_family, 1);
	bytes(k, i->peer_addr, 16);
	num(k, &i->peer_port, 2);
	num(k, &i->tx_base, 8);
	num(k, &i->tx_end, 8);
	num(k, &i->unread, 8);
}

size_t image_size(const struct image *i)
{
	return HEAD + (size_t)(i->tx_end - i->tx_base) + (size_t)i->unread;
}

void image_build(const struct image *i, uint8_t *p)
{
	struct walk k = { .w = p };
	struct image copy = *i;
	uint32_t magic = MAGIC;
	size_t n = (size_t)(i->tx_end - i->tx_base);

	memset(p, 0, HEAD);
	head(&k, &copy, &magic);
	if (n)
		memcpy(p + HEAD, i->replay, n);
	if (i->unread)
		memcpy(p + HEAD + n, i->rx, (size_t)i->unread);
}

static bool family_ok(uint8_t f)
{
	return f == 4 || f == 6;
}

bool image_parse(struct image *i, const uint8_t *p, size_t n)
{
	struct walk k = { .r = p };
	uint32_t magic;

	memset(i, 0, sizeof(*i));
	if (n < HEAD)
		return false;
	head(&k, i, &magic);
	if (magic != MAGIC || i->ho.role > HO_ACCEPTOR || !family_ok(i->family) ||
	    !family_ok(i->self_family) || !family_ok(i->peer_family) ||
	    (i->agent_family && !family_ok(i->agent_family)) || !i->ho.epoch || !i->ho.gen ||
	    i->tx_end < i->tx_base || i->tx_end - i->tx_base > MAX || i->unread > MAX ||
	    i->ho.rx_off + i->unread < i->ho.rx_off || n != image_size(i))
		return false;
	i->ho.unread = i->unread;
	i->ho.legs = 1;
	i->ho.confirmed = 1;
	i->ho.state = HO_READY;
	i->replay = p + HEAD;
	i->rx = p + HEAD + (i->tx_end - i->tx_base);
	return true;
}
