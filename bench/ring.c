/*
 * roam-bench-ring WAY: the client reads commands on stdin, and its server, the
 * other process, sleeps in a read of a control socket between two slices.
 *	pin C S | pp SIZE US | stream SIZE US | idle MS | quit
 * Answers: "ok UNITS NS" (round trips, messages; idle: CPU ns of the server, ns).
 */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "bench_ring.h"

struct order {
	char op;		/* p s i, c: pin, q */
	int64_t arg;
};

static unsigned char buf[RB_MAX], last[RB_MAX];
static const struct way *way;
static int ctl;

void die(const char *what)
{
	fprintf(stderr, "roam-bench-ring: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t clock_ns(clockid_t c)
{
	struct timespec t;

	clock_gettime(c, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	for (int i = 0; i < CPU_SETSIZE; i++)
		if (cpu < 0 || i == cpu)
			CPU_SET(i, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

static void exchange(size_t n, unsigned char flag)
{
	buf[n - 1] = flag;
	way->send(buf, n);
	way->recv(buf, n);
}

static void client_pp(size_t n, uint64_t run, uint64_t *units, uint64_t *ns)
{
	uint64_t t0 = clock_ns(CLOCK_MONOTONIC), t;
	int i;

	do {		/* an eighth to warm up */
		for (i = 0; i < 4; i++)
			exchange(n, 0);
	} while ((t = clock_ns(CLOCK_MONOTONIC)) - t0 < run / 8);
	t0 = t;
	do {
		for (i = 0; i < 8; i++)
			exchange(n, 0);
		*units += 8;
	} while ((t = clock_ns(CLOCK_MONOTONIC)) - t0 < run);
	*ns = t - t0;
	exchange(n, 1);
}

static void server_pp(size_t n)
{
	do {
		way->recv(buf, n);
		way->send(buf, n);
	} while (!buf[n - 1]);
}

static void client_stream(size_t n, uint64_t run, uint64_t *units, uint64_t *ns)
{
	uint64_t t0 = clock_ns(CLOCK_MONOTONIC);
	bool stop;
	int i;

	buf[n - 1] = 0;
	do {
		stop = clock_ns(CLOCK_MONOTONIC) - t0 >= run;
		last[n - 1] = stop;
		if (way->sends) {
			way->sends(buf, last, n);
		} else {
			for (i = 0; i < RB_BATCH - 1; i++)
				way->send(buf, n);
			way->send(last, n);
		}
		*units += RB_BATCH;
	} while (!stop);
	way->recv(last, 8);
	*ns = clock_ns(CLOCK_MONOTONIC) - t0;
}

static void server_stream(size_t n)
{
	int i;

	do {
		if (way->recvs) {
			way->recvs(buf, last, n);
		} else {
			for (i = 0; i < RB_BATCH - 1; i++)
				way->recv(buf, n);
			way->recv(last, n);
		}
	} while (!last[n - 1]);
	way->send(last, 8);
}

static void server_idle(void)
{
	uint64_t t0 = clock_ns(CLOCK_THREAD_CPUTIME_ID), d;

	way->recv(buf, 8);
	d = clock_ns(CLOCK_THREAD_CPUTIME_ID) - t0;
	memcpy(buf, &d, 8);
	way->send(buf, 8);
}

static void server(void)
{
	struct order o;

	while (read(ctl, &o, sizeof(o)) == sizeof(o) && o.op != 'q') {
		if (o.op == 'c')
			pin((int)o.arg);
		else if (o.op == 'p')
			server_pp((size_t)o.arg);
		else if (o.op == 's')
			server_stream((size_t)o.arg);
		else
			server_idle();
	}
}

static void tell(char op, int64_t arg)
{
	struct order o = { op, arg };

	if (write(ctl, &o, sizeof(o)) != sizeof(o))
		die("control");
}

static void client(void)
{
	char line[100], op[10];
	long long a, b;
	uint64_t units, ns, t;

	while (fgets(line, sizeof(line), stdin)) {
		a = b = 0;
		units = ns = 0;
		if (sscanf(line, "%9s %lld %lld", op, &a, &b) < 1 || !strcmp(op, "quit"))
			break;
		if (!strcmp(op, "pin")) {
			pin((int)a);
			tell('c', b);
		} else if (!strcmp(op, "idle")) {
			struct timespec nap = { a / 1000, a % 1000 * 1000000 };

			tell('i', 0);
			t = clock_ns(CLOCK_MONOTONIC);
			nanosleep(&nap, NULL);
			exchange(8, 0);
			memcpy(&units, buf, 8);
			ns = clock_ns(CLOCK_MONOTONIC) - t;
		} else if (a < 1 || a > RB_MAX || (way->max && (size_t)a > way->max)) {
			puts("error size");
			fflush(stdout);
			continue;
		} else if (!strcmp(op, "pp")) {
			tell('p', a);
			client_pp((size_t)a, (uint64_t)b * 1000, &units, &ns);
		} else if (!strcmp(op, "stream") && way->oneway) {
			tell('s', a);
			client_stream((size_t)a, (uint64_t)b * 1000, &units, &ns);
		} else {
			puts("error command");
			fflush(stdout);
			continue;
		}
		printf("ok %llu %llu\n", (unsigned long long)units, (unsigned long long)ns);
		fflush(stdout);
	}
	tell('q', 0);
}

#ifdef WITH_MPI
/* The two were started by mpirun: a socket named by the parent's id of both. */
static void meet(int rank)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int l = socket(AF_UNIX, SOCK_STREAM, 0), i;

	snprintf(a.sun_path + 1, sizeof(a.sun_path) - 1, "roam-bench-%d", getppid());
	if (rank == 1) {
		if (bind(l, (void *)&a, sizeof(a)) || listen(l, 1) || (ctl = accept(l, NULL, NULL)) < 0)
			die("meet");
		return;
	}
	for (i = 0; connect(l, (void *)&a, sizeof(a)); i++) {
		struct timespec nap = { 0, 10000000 };

		if (i > 500)
			die("meet");
		nanosleep(&nap, NULL);
	}
	ctl = l;
}

int main(int argc, char **argv)
{
	int rank;

	mpi_start(&argc, &argv, &rank);
	way = &mpi_way;
	meet(rank);
	rank ? server() : client();
	mpi_stop();
	return 0;
}
#else
static const struct way *find(const char *name)
{
#ifdef ONLY_SOCKETS
	const struct way *all[] = { sock_ways };
#else
	const struct way *all[] = { mem_ways, ring_ways, sock_ways };
#endif

	for (size_t i = 0; i < 3; i++)
		for (const struct way *w = all[i]; w->name; w++)
			if (!strcmp(w->name, name))
				return w;
	return NULL;
}

int main(int argc, char **argv)
{
	int sv[2];
	pid_t pid;

	way = argc > 1 ? find(argv[1]) : NULL;
	if (!way) {
		fprintf(stderr, "usage: roam-bench-ring WAY [ARG]; see bench/part_core.py\n");
		return 2;
	}
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, sv) || way->before(argc > 2 ? (unsigned)atoi(argv[2]) : 0))
		die(way->name);
	pid = fork();
	if (pid < 0)
		die("fork");
	ctl = sv[!pid];
	close(sv[!!pid]);
	if (way->open(!pid))
		die(way->name);
	if (pid)
		client();
	else
		server();
	return 0;
}
#endif
