/* See ring_wait.h. */
#include "ring_wait.h"
#include <errno.h>

#define UNSURE_NS	1000000

void ring_wake(struct ring *r, uint32_t call)
{
	if (call & RING_WAKE_RX)
		r->prov->ops->wake(r->prov, offsetof(struct ring_box, rx_bell));
	if (call & RING_WAKE_TX)
		r->prov->ops->wake(r->prov, offsetof(struct ring_box, tx_bell));
}

bool ring_spin(struct ring *r, enum ring_dir dir, struct spin *s, struct spin_wait *w)
{
	uint32_t cpu;
	bool may = spin_begin(w, s, ring_peer_cpu(r), &cpu);

	ring_tell_cpu(r, cpu);
	if (!may)
		return false;
	do {
		if (ring_look(r, dir))
			return true;
	} while (spin_more(w, SPIN_MEMORY));
	return false;
}

int ring_wait(struct ring *r, enum ring_dir dir, struct spin *s, int64_t tmo_ns)
{
	uint64_t word = dir == RING_RX ? offsetof(struct ring_box, rx_bell) : offsetof(struct ring_box, tx_bell);
	struct ring_ticket t;
	struct spin_wait w;
	int e = 0;

	if (ring_look(r, dir))
		return 0;
	if (!ring_spin(r, dir, s, &w) && ring_arm(r, dir, RING_FUTEX, &t)) {
		if (t.unsure && (tmo_ns < 0 || tmo_ns > UNSURE_NS)) {
			e = r->prov->ops->wait(r->prov, word, t.bell, UNSURE_NS);
			e = e == ETIMEDOUT ? 0 : e;
		} else {
			e = r->prov->ops->wait(r->prov, word, t.bell, tmo_ns);
		}
		ring_disarm(r, dir, &t);
	}
	spin_end(&w);
	return e == EAGAIN ? 0 : e;
}
