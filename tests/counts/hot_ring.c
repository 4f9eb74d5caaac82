/*
 * The ring's core with both ends in one process: hot_ring OP COUNT, as counts.py
 * runs hot. valgrind 3.19 has no pidfd_open(2); under it a connection did not get on
 * a ring, so the virtual sockets above are not counted here.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "provider.h"
#include "ring.h"
#include "sys.h"

enum { SIZE = 64, ROOM = 256 << 10 };

static struct prov prov[2];
static struct ring_end end[2];
static struct ring ring[2];

static int open_both(void)
{
	struct prov_key k[2];
	int i;

	for (i = 0; i < 2; i++) {
		prov[i].ops = &prov_shm;
		if (prov_shm.open(&prov[i], ring_len(ROOM)) || prov_shm.key(&prov[i], &k[i]))
			return -1;
		k[i].fd = dup(k[i].fd);
		ring_start(&end[i], ROOM, 0, 0);
	}
	if (prov_shm.join(&prov[0], &k[1]) || prov_shm.join(&prov[1], &k[0]))
		return -1;
	for (i = 0; i < 2; i++) {
		ring_view(&ring[i], &end[i], &prov[i]);
		ring_open(&ring[i]);
	}
	return 0;
}

static int put(int n)
{
	char b[SIZE] = { 0 };
	uint32_t call = 0;

	for (int i = 0; i < n; i++)
		if (ring_put(&ring[0], b, SIZE, &call) != SIZE)
			return -1;
	return 0;
}

static int get(int n)
{
	char b[SIZE];
	uint32_t call = 0;

	for (int i = 0; i < n; i++)
		if (ring_get(&ring[1], b, SIZE, &call) != SIZE)
			return -1;
	return 0;
}

/* As a poll that finds nothing, and one that finds something. */
static int look(int n, bool something)
{
	int found = 0;

	for (int i = 0; i < n; i++)
		found += ring_look(&ring[1], RING_RX) && ring_avail(&ring[1]) > 0;
	return found == (something ? n : 0) ? 0 : -1;
}

int main(int argc, char **argv)
{
	int n = argc > 2 ? atoi(argv[2]) : 0, rc;

	if (!n || n > ROOM / SIZE || open_both()) {
		fprintf(stderr, "usage: hot_ring put|get|look|empty COUNT: %s\n", strerror(errno));
		return 2;
	}
	if (!strcmp(argv[1], "put"))
		rc = put(n);
	else if (!strcmp(argv[1], "get"))
		rc = put(ROOM / SIZE) || get(n);
	else if (!strcmp(argv[1], "look"))
		rc = put(1) || look(n, true);
	else
		rc = look(n, false);
	return rc ? 1 : 0;
}
