/*
 * First byte odd: the input is the dice of the simulated world (tests/unit/sim.c),
 * with every fault on; nothing may be read wrong, and all of it arrives.
 * Even: the rest are events and messages of any content, MAC unchecked, fed to
 * one end: the core stays within its states.
 */
#include "sim.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void world(const uint8_t *data, size_t n)
{
	static struct sim s;
	const char *why;

	sim_init(&s, 1);
	s.data = data + 1;
	s.len = n - 1;
	why = sim_run(&s, 3000, data[0] & 2);
	if (why) {
		fprintf(stderr, "%s\n", why);
		abort();
	}
}

static void one_end(const uint8_t *data, size_t n)
{
	static const uint8_t gid[WIRE_GID], key[WIRE_KEY];
	const uint8_t *end = data + n;
	struct handover h, was;
	struct ho_plan plan;
	struct msg m, out;
	enum ho_verdict v = HO_IGNORE;
	uint64_t tx = 50;

	ho_init(&h, data[0] & 2 ? HO_ACCEPTOR : HO_OPENER, gid, key);
	for (data++; data < end; data++) {
		tx += *data >> 4;
		was = h;
		switch (*data & 7) {
		case 0:
			ho_break(&h);
			break;
		case 1:
			ho_drained(&h, tx / 2, *data >> 4);
			break;
		case 2:
		case 3:
			ho_ask(&h, 1 + (*data >> 4), tx, *data & 1, &out);
			break;
		case 4:
			ho_ask_failed(&h);
			break;
		case 5:
			ho_switched(&h, tx, &out);
			break;
		default:
			memset(&m, 0, sizeof(m));
			if (end - data < 10)
				return;
			m.type = data[1] % 12;
			m.flags = data[2];
			m.epoch = data[3] % 4;
			m.attempt = data[4];
			m.nonce = data[5] & 31;
			m.rx_off = data[6] == 255 ? UINT64_MAX - 3 : data[6];
			m.unread = data[7];
			m.tx_end = tx + data[8] - 128;
			m.reason = data[9];
			data += 9;
			v = ho_input(&h, &m, tx - 20, tx, &out, &plan);
			if (v == HO_COMMIT && (h.state != HO_UP || h.gen != was.gen + 1 ||
					       plan.resend_from > tx || (was.state == HO_UP && h.legs != 2)))
				abort();
			if (v == HO_BREAK && was.state != HO_UP && was.state != HO_CUTTING &&
			    was.state != HO_DRAIN)
				abort();
			if (v == HO_OVER && h.state != HO_DEAD)
				abort();
			break;
		}
		if (h.state > HO_DEAD || h.legs < 1 || h.legs > 2 || h.peer_epoch < was.peer_epoch ||
		    (was.state == HO_DEAD && h.state != HO_DEAD) ||
		    (h.peer_epoch == was.peer_epoch && h.peer_attempt < was.peer_attempt))
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	if (n < 2 || n > 1 << 16)
		return 0;
	(data[0] & 1 ? world : one_end)(data, n);
	return 0;
}
