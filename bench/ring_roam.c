/* The library's ring, as a virtual socket will use it: spinning, waiting, sleeping only. */
#include "provider.h"
#include "ring_wait.h"
#include "ring.h"
#include "sys.h"
#include <errno.h>
#include <unistd.h>

#include "bench_ring.h"

static struct prov prov[2];
static struct ring ring;
static struct ring_end *end;
static struct spin spin_rx, spin_tx;
static bool busy;

static int ring_before(unsigned arg)
{
	uint32_t size = arg ? arg : 256u << 10;
	struct prov_key k[2];
	int i;

	end = sys_map_fork_shared(2 * sizeof(*end));
	for (i = 0; i < 2; i++) {
		prov[i].ops = &prov_shm;
		if (prov_shm.open(&prov[i], ring_len(size)) || prov_shm.key(&prov[i], &k[i]))
			return -1;
		k[i].fd = dup(k[i].fd);
		ring_start(&end[i], size, 0, 0);
	}
	return prov_shm.join(&prov[0], &k[1]) || prov_shm.join(&prov[1], &k[0]);
}

static int wait_open(int side)
{
	if (side)
		sys_barrier_join();
	ring_view(&ring, &end[side], &prov[side]);
	ring_open(&ring);
	return 0;
}

static int busy_open(int side)
{
	busy = true;
	return wait_open(side);
}

static int sleep_open(int side)
{
	atomic_store(&spin_off, true);
	return wait_open(side);
}

static void ring_send(const void *p, size_t n)
{
	const char *s = p;
	uint32_t call;
	long k;

	for (;;) {
		call = 0;
		k = ring_put(&ring, s, n, &call);
		ring_call(&ring, call);
		if (k < 0) {
			errno = ECONNRESET;
			die("ring broken");
		}
		if ((n -= (size_t)k) == 0)
			return;
		s += k;
		if (!busy)
			ring_wait(&ring, RING_TX, &spin_tx, -1);
	}
}

static void ring_recv(void *p, size_t n)
{
	char *d = p;
	uint32_t call;
	long k;

	for (;;) {
		call = 0;
		k = ring_get(&ring, d, n, &call);
		ring_call(&ring, call);
		if (k < 0) {
			errno = ECONNRESET;
			die("ring broken");
		}
		if ((n -= (size_t)k) == 0)
			return;
		d += k;
		if (!busy && !k)
			ring_wait(&ring, RING_RX, &spin_rx, -1);
	}
}

const struct way ring_ways[] = {
	{ "ring-busy", 0, true, ring_before, busy_open, ring_send, ring_recv, NULL, NULL },
	{ "ring", 0, true, ring_before, wait_open, ring_send, ring_recv, NULL, NULL },
	{ "ring-sleep", 0, true, ring_before, sleep_open, ring_send, ring_recv, NULL, NULL },
	{ NULL, 0, false, NULL, NULL, NULL, NULL, NULL, NULL },
};
