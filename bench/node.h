/* roam-bench-node: one process of the bench; run.py tells it what to do. */
#ifndef BENCH_NODE_H
#define BENCH_NODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define MAX_SIZE (16u << 20)
#define MAX_CONN_SIZE 4096u

/* The last byte of a message tells the server whether more follows; ACK: answer and go on. */
enum { MORE = 0, STOP = 1, ACK = 2 };

struct result {
	uint64_t units, ns;
};

struct slice {
	size_t size;
	bool spin;			/* non-blocking, no sleep */
	uint64_t warm_ns, run_ns;	/* untimed, then timed */
	uint64_t min_units;		/* at least this many, however long it takes */
};

struct endpoint {
	const char *addr;
	uint16_t port;
	bool nagle;
	int bufs;	/* SO_SNDBUF and SO_RCVBUF; 0: the kernel tunes them */
};

static inline uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* rt.c: over one connection, each returns 0 or -1 with errno */
int set_spin(int fd, bool spin);
int exchange(int fd, size_t size, char flag);
int pingpong_client(int fd, const struct slice *s, struct result *r);
int pingpong_server(int fd, const struct slice *s, struct result *r);
int stream_client(int fd, const struct slice *s, struct result *r);
int stream_server(int fd, const struct slice *s, struct result *r);
int window_client(int fd, const struct slice *s, unsigned window, struct result *r);
int push(int fd, uint64_t bytes);			/* sends zeros, says nothing */
int pull(int fd, uint64_t bytes);			/* reads so many */

/* many.c: one server, many connections; its messages are MANY_SIZE bytes */
#define MANY_SIZE 64u
int many_dial(const struct endpoint *e, unsigned count, unsigned exchanges);
int many_sweep(const struct slice *s, struct result *r);	/* a message on each, then an answer on each */
int many_server(int lfd, const struct endpoint *e, struct result *r);
int many_first(void);				/* the first of them, for pingpong_client */

/* conn.c: many short connections; size 0 is connect and close only */
int node_listen(struct endpoint *e);		/* fills in the port */
int node_accept(int lfd, const struct endpoint *e);
int node_connect(const struct endpoint *e);
int conn_client(const struct endpoint *e, const struct slice *s, struct result *r);
int conn_server(int lfd, const struct endpoint *e, const struct slice *s,
		struct result *r);

/* fdcall.c: ns for one call on a file, the fastest of many batches */
int fdcall(const char *kind, unsigned batches, unsigned calls, double *ns);

#endif
