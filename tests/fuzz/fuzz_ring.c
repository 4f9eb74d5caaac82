/*
 * A hostile peer: the input says what it writes into our box, and what we do
 * between.  The box is a malloc of its exact size, so that a touch outside is
 * seen; what our calls return stays within what is possible.
 */
#include "ring.h"
#include "spin.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define SIZE	RING_MIN
#define MUST(c) do { if (!(c)) abort(); } while (0)

static int barrier(struct prov *p)
{
	return p->fd;		/* works, or does not */
}

static const struct prov_ops ops = { .direct = true, .barrier = barrier };

static uint64_t take(const uint8_t **d, const uint8_t *end, size_t n)
{
	uint64_t v = 0;

	while (n-- && *d < end)
		v = v << 8 | *(*d)++;
	return v;
}

int LLVMFuzzerTestOneInput(const uint8_t *d, size_t len)
{
	const uint8_t *end = d + len, *q;
	uint8_t mem[2 * SIZE];
	struct ring_ticket t = { 0 };
	struct prov p = { .ops = &ops };
	struct ring_end *e = aligned_alloc(128, sizeof(*e));
	struct iovec v[2] = { { mem, 7 }, { mem + 100, 5000 } };
	struct ring_box *in, *out;
	uint64_t at, tx, rx;
	struct ring r;
	uint32_t call;
	bool broken;
	long k;

	p.in = aligned_alloc(RING_DATA, ring_len(SIZE));
	p.out = aligned_alloc(RING_DATA, ring_len(SIZE));
	memset(p.in, 0, ring_len(SIZE));
	memset(p.out, 0, ring_len(SIZE));
	memset(mem, 1, sizeof(mem));
	p.joined = take(&d, end, 1) & 1;
	p.fd = (take(&d, end, 1) & 1) ? -1 : 0;
	tx = take(&d, end, 8);
	rx = take(&d, end, 8);
	ring_start(e, SIZE, tx, rx);
	ring_view(&r, e, &p);
	in = r.in;
	out = r.out;
	in->tail = rx;		/* the peer's ring_open */
	in->head = tx;
	ring_open(&r);
	while (d < end) {
		uint8_t op = *d++;
		enum ring_dir dir = op & 16 ? RING_TX : RING_RX;

		call = 0;
		tx = e->tail;
		rx = e->rx_head;
		broken = e->broken;
		at = take(&d, end, 2);
		switch (op & 15) {
		case 0:
			in->tail = op & 16 ? take(&d, end, 8) : e->rx_head + at - 100;
			break;
		case 1:
			in->head = op & 16 ? take(&d, end, 8) : e->tail - at + 100;
			break;
		case 2:
			in->rx_state = (uint32_t)take(&d, end, 4);
			in->tx_state = (uint32_t)take(&d, end, 4);
			break;
		case 3:
			in->rx_bell = op & 16 ? e->rx_sleep.state : (uint32_t)at;
			in->tx_bell = op & 32 ? e->tx_sleep.state : (uint32_t)at;
			break;
		case 4:
			in->mark = op & 16 ? take(&d, end, 8) : in->tail << 6 | (at & 63);
			in->word[at % 6] = at;
			break;
		case 5:
			memset(in->data + at % SIZE, (int)at, SIZE - at % SIZE);
			break;
		case 6:
		case 7:
			k = ring_put(&r, mem, op & 16 ? at & 63 : at % sizeof(mem), &call);
			MUST(broken ? k == RING_BROKEN : k >= RING_BROKEN && k <= (long)SIZE);
			MUST(e->tail == tx + (k > 0 ? (uint64_t)k : 0));
			break;
		case 8:
		case 9:
			k = ring_get(&r, mem, op & 16 ? at & 63 : at % sizeof(mem), &call);
			MUST(broken ? k == RING_BROKEN : k >= RING_BROKEN && k <= (long)sizeof(mem));
			MUST(e->rx_head == rx + (k > 0 ? (uint64_t)k : 0));
			break;
		case 10:
			k = op & 16 ? ring_putv(&r, v, 2, &call) : ring_getv(&r, v, 2, &call);
			MUST(k >= RING_BROKEN && k <= 5007);
			break;
		case 11:
			k = op & 16 ? ring_peek(&r, at, mem, sizeof(mem)) : ring_skip(&r, at, &call);
			MUST(k >= RING_BROKEN && k <= (long)SIZE);
			break;
		case 12:
			ring_arm(&r, dir, op & 32 ? RING_POLL : RING_FUTEX, &t);
			break;
		case 13:
			ring_disarm(&r, dir, &t);
			break;
		case 14:
			if (op & 16)
				ring_mend_tx(&r, &call);
			else
				ring_mend_rx(&r, &call);
			break;
		default:
			ring_unpoll(&r, dir);
			for (at = e->head; (k = (long)ring_unread(&r, at, &q)) > 0; at += (uint64_t)k)
				MUST(q >= out->data && q + k <= out->data + SIZE);
			MUST(at == e->tail);
		}
		MUST(e->tail - e->head <= SIZE && e->rx_tail - e->rx_head <= SIZE);
		MUST(!broken || e->broken);
	}
	free(p.in);
	free(p.out);
	free(e);
	return 0;
}
