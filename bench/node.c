/*
 * The command loop: a line on stdin, one line back on stdout, "ok ..." or
 * "error TEXT". The same source is linked plain and with roam.
 */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "node.h"

static const char usage[] =
	"usage: roam-bench-node [-N] [-B BYTES]\n"
	"One process of the bench; run.py starts it and writes commands to its stdin:\n"
	"  listen ADDR | accept | connect ADDR PORT      the connection\n"
	"  address ADDR PORT                             where conn connects to\n"
	"  pin CPU                                       -1: any CPU\n"
	"  pingpong|stream SIZE SPIN WARM_US RUN_US MIN  the client's side of a slice\n"
	"  pingpong-server|stream-server SIZE SPIN       the server's side\n"
	"  conn SIZE 0 WARM_US RUN_US MIN, conn-server SIZE 0\n"
	"  window SIZE SPIN WINDOW RUN_US MIN            so many messages under way; with pingpong-server\n"
	"  dial COUNT EXCHANGES                          connections of 64-byte messages to a many-server\n"
	"  sweep 64 0 0 RUN_US MIN | one 64 0 WARM_US RUN_US MIN   on all of them; on the first\n"
	"  many-server 64 0                              accepts and answers all of them\n"
	"  push BYTES | pull BYTES                       one way, without a word\n"
	"  fdcall read|write BATCHES CALLS\n"
	"  version | quit\n"
	"Answers: ok UNITS NS CPU_NS SWITCHES NOW_NS (round trips, bytes, connections; what this process used\n"
	"for the whole command, warming up too; the clock at its end), or: error TEXT\n"
	"  -N        leave Nagle's algorithm on\n"
	"  -B BYTES  socket buffers of this size (the kernel tunes them)\n"
	"  -h        this text\n";

static struct endpoint ep = { .addr = "127.0.0.1" };
static char addr[64];
static int lfd = -1, fd = -1;

/* A bad command is a bug of the caller: EINVAL. */
static int bad(void)
{
	errno = EINVAL;
	return -1;
}

static int pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	if (cpu >= 0)
		CPU_SET(cpu, &set);
	else
		for (int i = 0; i < CPU_SETSIZE; i++)
			CPU_SET(i, &set);
	return sched_setaffinity(0, sizeof(set), &set);
}

/* What this process, with all its threads, has used. */
static void usage_now(uint64_t *cpu_ns, uint64_t *switches)
{
	struct timespec ts;
	struct rusage ru;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	*cpu_ns = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
	getrusage(RUSAGE_SELF, &ru);
	*switches = (uint64_t)(ru.ru_nvcsw + ru.ru_nivcsw);
}

static int run_slice(const char *cmd, struct slice *s, struct result *r)
{
	if (!strcmp(cmd, "conn") || !strcmp(cmd, "conn-server")) {
		if (s->size > MAX_CONN_SIZE)
			return bad();
		return cmd[4] ? conn_server(lfd, &ep, s, r) : conn_client(&ep, s, r);
	}
	if (!strcmp(cmd, "sweep"))
		return many_sweep(s, r);
	if (!strcmp(cmd, "one"))
		return pingpong_client(many_first(), s, r);
	if (!strcmp(cmd, "many-server"))
		return many_server(lfd, &ep, r);
	if (!strcmp(cmd, "push") || !strcmp(cmd, "pull")) {
		r->units = s->size;
		return cmd[2] == 's' ? push(fd, s->size) : pull(fd, s->size);
	}
	if (!s->size || s->size > MAX_SIZE || set_spin(fd, s->spin))
		return s->size ? -1 : bad();
	if (!strcmp(cmd, "pingpong"))
		return pingpong_client(fd, s, r);
	if (!strcmp(cmd, "pingpong-server"))
		return pingpong_server(fd, s, r);
	if (!strcmp(cmd, "stream"))
		return stream_client(fd, s, r);
	if (!strcmp(cmd, "stream-server"))
		return stream_server(fd, s, r);
	if (!strcmp(cmd, "window"))
		return window_client(fd, s, (unsigned)(s->warm_ns / 1000), r);
	return bad();
}

static int set_endpoint(const char *a, unsigned port)
{
	snprintf(addr, sizeof(addr), "%s", a);
	ep.addr = addr;
	ep.port = (uint16_t)port;
	return 0;
}

static int command(char *line, char *out, size_t outlen)
{
	char cmd[32] = "", arg[64] = "";
	unsigned a = 0, b = 0, spin = 0;
	unsigned long long warm = 0, run = 0, min = 0;
	struct slice s = { 0 };
	struct result r = { 0 };
	uint64_t cpu, cpu0, switches, switches0;
	double ns;

	sscanf(line, "%31s %63s %u %u", cmd, arg, &a, &b);
	snprintf(out, outlen, "ok");
	if (!strcmp(cmd, "listen")) {
		set_endpoint(arg, 0);
		lfd = node_listen(&ep);
		snprintf(out, outlen, "ok %u", ep.port);
		return lfd < 0 ? -1 : 0;
	}
	if (!strcmp(cmd, "accept"))
		return (fd = node_accept(lfd, &ep)) < 0 ? -1 : 0;
	if (!strcmp(cmd, "address"))	/* for conn: where to connect, not yet */
		return set_endpoint(arg, a);
	if (!strcmp(cmd, "connect")) {
		set_endpoint(arg, a);
		return (fd = node_connect(&ep)) < 0 ? -1 : 0;
	}
	if (!strcmp(cmd, "pin"))
		return pin(atoi(arg));
	if (!strcmp(cmd, "version")) {
#ifdef __clang__
		snprintf(out, outlen, "ok %s", __VERSION__);
#else
		snprintf(out, outlen, "ok gcc %s", __VERSION__);
#endif
		return 0;
	}
	if (!strcmp(cmd, "fdcall")) {
		if (!a || !b)
			return bad();
		if (fdcall(arg, a, b, &ns))
			return -1;
		snprintf(out, outlen, "ok %.3f", ns);
		return 0;
	}
	if (!strcmp(cmd, "dial"))
		return many_dial(&ep, (unsigned)atoi(arg), a);
	if (sscanf(line, "%*s %zu %u %llu %llu %llu", &s.size, &spin, &warm, &run,
		   &min) < 1)
		return bad();
	s.spin = spin;
	s.warm_ns = warm * 1000;
	s.run_ns = run * 1000;
	s.min_units = min;
	usage_now(&cpu0, &switches0);
	if (run_slice(cmd, &s, &r))
		return -1;
	usage_now(&cpu, &switches);
	snprintf(out, outlen, "ok %llu %llu %llu %llu %llu", (unsigned long long)r.units,
		 (unsigned long long)r.ns, (unsigned long long)(cpu - cpu0),
		 (unsigned long long)(switches - switches0), (unsigned long long)now_ns());
	return 0;
}

int main(int argc, char **argv)
{
	char line[256], out[256];
	int o;

	while ((o = getopt(argc, argv, "NB:h")) != -1) {
		if (o == 'N') {
			ep.nagle = true;
			continue;
		}
		if (o == 'B') {
			ep.bufs = atoi(optarg);
			continue;
		}
		fputs(usage, o == 'h' ? stdout : stderr);
		return o == 'h' ? 0 : 2;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (fgets(line, sizeof(line), stdin) && strncmp(line, "quit", 4)) {
		if (command(line, out, sizeof(out))) {
			line[strcspn(line, "\n")] = 0;
			printf("error %s: %s\n", line, strerror(errno));
		} else {
			puts(out);
		}
	}
	return 0;
}
