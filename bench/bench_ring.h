/* roam-bench-ring: two processes and one way of moving bytes between them. */
#ifndef BENCH_RING_H
#define BENCH_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RB_MAX	(1u << 20)
#define RB_BATCH 64		/* messages of a stream between two looks at the clock */

struct way {
	const char *name;
	size_t max;				/* largest message, 0: any */
	bool oneway;				/* can stream */
	int (*before)(unsigned arg);		/* fork: what both will share */
	int (*open)(int side);			/* 0 client, 1 server */
	void (*send)(const void *p, size_t n);	/* all of it */
	void (*recv)(void *p, size_t n);
	/* A batch of a stream; NULL: sends and receives one by one. The last one has its own memory. */
	void (*sends)(const void *p, const void *last, size_t n);
	void (*recvs)(void *p, void *last, size_t n);
};

extern const struct way mem_ways[], ring_ways[], sock_ways[];
#ifdef WITH_MPI
extern const struct way mpi_way;
void mpi_start(int *argc, char ***argv, int *rank);
void mpi_stop(void);
#endif

void die(const char *what) __attribute__((noreturn));

#endif
