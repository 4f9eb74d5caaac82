/*
 * breaker: breaks established TCP connections on loopback, in the current
 * network namespace, the way the world does: the kernel socket dies under
 * the program (SOCK_DESTROY, what `ss -K` does), or a packet filter answers
 * with a reset.
 *
 * A connection is a victim when one of its ports is --port, or when one of
 * its sockets is a descriptor of one of the --pid processes. Only the second
 * finds a connection again after the library has moved it to other ports.
 *
 * Exit status: 0 done, 1 failure, 2 usage, 77 not permitted on this host.
 */
#include "tcpdiag.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_SKIP = 77, MAX_PIDS = 64, LOOK_MS = 3 };

enum how { HOW_KILL, HOW_NFT, HOW_BOTH };
enum side { SIDE_RANDOM, SIDE_CLIENT, SIDE_SERVER };

static struct {
	int port;
	int pids[MAX_PIDS];
	size_t npids;
	long count;		/* 0: until told otherwise */
	long min_ms, max_ms;	/* pause before each break */
	long window_ms;		/* how long an nft rule stays */
	long max_seconds;	/* the bound of everything */
	unsigned long long rng;
	enum how how;
	enum side side;
	int until_fd;		/* pidfd of --until-pid, or -1 */
	int half_closed;	/* also where one direction has ended */
	int quiet;
} opt = {
	.min_ms = 20, .max_ms = 100, .window_ms = 100, .max_seconds = 120,
	.rng = 1, .until_fd = -1,
};

static volatile sig_atomic_t stop;
static int table_up;		/* our nft table may exist */

static void on_signal(int sig)
{
	(void)sig;
	stop = 1;
}

static void __attribute__((format(printf, 2, 3), noreturn))
die(int status, const char *fmt, ...)
{
	va_list ap;

	fputs("breaker: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(status);
}

static long long now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000LL + ts.tv_nsec / 1000000;
}

/* splitmix64: the same seed gives the same choices everywhere */
static unsigned long long rnd(unsigned long long below)
{
	unsigned long long z = opt.rng += 0x9e3779b97f4a7c15ULL;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	z ^= z >> 31;
	return below ? z % below : 0;
}

/* Waits; the end of --until-pid or a signal ends the wait, and the run. */
static void pause_ms(long ms)
{
	long long end = now_ms() + ms;
	struct pollfd p = { .fd = opt.until_fd, .events = POLLIN };

	do {
		long long left = end - now_ms();

		if (poll(&p, 1, left > 0 ? (int)left : 0) > 0)
			stop = 1;
	} while (!stop && now_ms() < end);
}

/* ---- nft ---------------------------------------------------------- */

static int run_nft(const char *script)
{
	int pipefd[2], status;
	pid_t pid;

	if (pipe2(pipefd, O_CLOEXEC) < 0)
		die(1, "pipe: %s", strerror(errno));
	pid = fork();
	if (pid < 0)
		die(1, "fork: %s", strerror(errno));
	if (pid == 0) {
		/* Ctrl-C must not kill the nft that cleans up. */
		signal(SIGINT, SIG_IGN);
		signal(SIGTERM, SIG_IGN);
		signal(SIGHUP, SIG_IGN);
		dup2(pipefd[0], 0);
		execlp("nft", "nft", "-f", "-", (char *)NULL);
		execl("/usr/sbin/nft", "nft", "-f", "-", (char *)NULL);
		_exit(127);
	}
	close(pipefd[0]);
	/* far below the pipe's capacity, so it cannot block or be short */
	if (write(pipefd[1], script, strlen(script)) < 0)
		perror("breaker: write to nft");
	close(pipefd[1]);
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void table_remove(void)
{
	char script[96];

	if (!table_up)
		return;
	/* "add" first: deleting what does not exist is an error */
	snprintf(script, sizeof script,
		 "add table inet roam_break_%d\n"
		 "delete table inet roam_break_%d\n", getpid(), getpid());
	if (run_nft(script) == 0)
		table_up = 0;
}

static void probe_nft(void)
{
	char script[96];
	int rc;

	snprintf(script, sizeof script, "add table inet roam_break_%d\n",
		 getpid());
	table_up = 1;
	rc = run_nft(script);
	if (rc != 0) {
		table_up = 0;
		die(EXIT_SKIP, "nft cannot be used here (%s)",
		    rc == 127 ? "not installed" : "not permitted");
	}
	table_remove();
}

static void rule(char *buf, size_t size, const struct tcpsock *s, int swap)
{
	char a[INET6_ADDRSTRLEN], b[INET6_ADDRSTRLEN];
	int v4 = tcpsock_addr(s, 0, a), sport = s->sport, dport = s->dport;

	tcpsock_addr(s, 1, b);
	snprintf(buf, size,
		 "%s saddr %s %s daddr %s tcp sport %d tcp dport %d "
		 /* the reset passes this hook too: let it through */
		 "tcp flags & rst == 0 reject with tcp reset\n",
		 v4 ? "ip" : "ip6", swap ? b : a, v4 ? "ip" : "ip6",
		 swap ? a : b, swap ? dport : sport, swap ? sport : dport);
}

/* True when one of the ends is dead now. A silent connection does not notice
 * the rule: then nothing broke and nothing is counted. */
static int break_nft(const struct tcpsock *s, const struct tcpsock *mate)
{
	char out[256], in[256] = "", script[768];
	long long end;
	int gone;

	rule(out, sizeof out, s, 0);
	if (opt.side == SIDE_RANDOM)
		rule(in, sizeof in, s, 1);
	snprintf(script, sizeof script,
		 "table inet roam_break_%d {\n"
		 "chain out { type filter hook output priority 0;\n%s%s}\n}\n",
		 getpid(), out, in);
	table_up = 1;
	if (run_nft(script) != 0)
		die(1, "nft refused the rule:\n%s", script);
	end = now_ms() + opt.window_ms;
	do {
		gone = !tcpdiag_alive(s) || !tcpdiag_alive(mate);
		if (!gone)
			usleep(1000);
	} while (!gone && !stop && now_ms() < end);
	table_remove();
	return gone;
}

/* ---- victims ------------------------------------------------------ */

/* 'c', 's', or 0 when this socket is none of ours */
static int role(const struct tcpsock *s, size_t npids, struct inodes *owned)
{
	if (opt.port && s->sport == opt.port)
		return 's';
	if (opt.port && s->dport == opt.port)
		return 'c';
	/* With pids alone the first one listed counts as the server. */
	for (size_t i = 0; i < npids; i++)
		if (inodes_have(&owned[i], s->inode))
			return i == 0 ? 's' : 'c';
	return 0;
}

static int by_age(const void *a, const void *b)
{
	const struct tcpsock *x = a, *y = b;

	return (x->cookie > y->cookie) - (x->cookie < y->cookie);
}

static const struct tcpsock *other_end(const struct tcpsock *s,
				       const struct tcpsock *all, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (tcpsock_are_ends(s, &all[i]))
			return &all[i];
	return NULL;
}

/* Picks one at random; 0 when there is none. */
static int pick(struct tcpsock *victim, struct tcpsock *mate)
{
	static struct tcpsock all[4096], found[4096];
	static struct inodes owned[MAX_PIDS];
	size_t n, k = 0;

	for (size_t i = 0; i < opt.npids; i++)
		inodes_of_pid(&owned[i], opt.pids[i]);
	n = tcpdiag_dump(all, sizeof all / sizeof all[0],
			 opt.half_closed);
	for (size_t i = 0; i < n; i++) {
		int r = role(&all[i], opt.npids, owned);

		if (!r || !tcpsock_is_local(&all[i]) ||
		    (opt.side == SIDE_CLIENT && r != 'c') ||
		    (opt.side == SIDE_SERVER && r != 's') ||
		    /* half a connection is broken already: no new break */
		    !other_end(&all[i], all, n))
			continue;
		found[k++] = all[i];
	}
	if (k == 0)
		return 0;
	/* sorted, so that the choice depends on the seed only */
	qsort(found, k, sizeof found[0], by_age);
	*victim = found[rnd(k)];
	*mate = *other_end(victim, all, n);
	return 1;
}

static int break_one(const struct tcpsock *s, const struct tcpsock *mate)
{
	int nft = opt.how == HOW_NFT || (opt.how == HOW_BOTH && rnd(2));
	char a[INET6_ADDRSTRLEN], b[INET6_ADDRSTRLEN];

	if (nft ? !break_nft(s, mate) : tcpdiag_destroy(s) != 0)
		return 0;
	tcpsock_addr(s, 0, a);
	tcpsock_addr(s, 1, b);
	if (!opt.quiet)
		printf("broke %s:%d -> %s:%d (%s)\n", a, s->sport, b, s->dport,
		       nft ? "reset" : "destroy");
	return 1;
}

/* ---- command line ------------------------------------------------- */

static const char usage_text[] =
"usage: breaker (--port PORT | --pid PID[,PID...])... [options]\n"
"  --count N              stop after N breaks (default: no limit)\n"
"  --interval-ms MIN:MAX  pause before each break (default 20:100)\n"
"  --how kill|nft|both    destroy the socket, or reset by packet filter\n"
"  --side random|client|server   whose socket dies (default random)\n"
"  --window-ms MS         longest time an nft rule stays (default 100)\n"
"  --seed S               random seed (default 1)\n"
"  --until-pid PID        stop when PID ends\n"
"  --max-seconds S        stop after S seconds in any case (default 120)\n"
"  --probe                only say whether --how works here (0 or 77)\n"
"  --half-closed          also connections of which one direction has ended\n"
"  --quiet                no line per break\n";

static void __attribute__((noreturn)) usage(void)
{
	fputs(usage_text, stderr);
	exit(2);
}

static long number(const char *s, long max)
{
	char *end;
	long v;

	errno = 0;
	v = strtol(s, &end, 10);
	if (errno || end == s || *end || v < 0 || v > max)
		die(2, "not a number from 0 to %ld: %s", max, s);
	return v;
}

static int choice(const char *s, const char *const *names)
{
	for (int i = 0; names[i]; i++)
		if (strcmp(s, names[i]) == 0)
			return i;
	die(2, "unknown value: %s", s);
}

static void parse_pids(char *list)
{
	char *save = NULL;

	for (char *p = strtok_r(list, ",", &save); p;
	     p = strtok_r(NULL, ",", &save)) {
		if (opt.npids == MAX_PIDS)
			die(2, "too many pids");
		opt.pids[opt.npids++] = (int)number(p, 1 << 30);
	}
}

static void parse_interval(char *s)
{
	char *colon = strchr(s, ':');

	if (colon)
		*colon = 0;
	opt.min_ms = number(s, 3600000);
	opt.max_ms = colon ? number(colon + 1, 3600000) : opt.min_ms;
	if (opt.max_ms < opt.min_ms)
		die(2, "--interval-ms: MAX is less than MIN");
}

static void until(int pid)
{
	opt.until_fd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (opt.until_fd >= 0)
		return;
	if (errno != ESRCH)
		die(1, "pidfd_open(%d): %s", pid, strerror(errno));
	stop = 1;	/* it has ended already: zero breaks, no error */
}

static int parse(int argc, char **argv)
{
	static const char *const hows[] = { "kill", "nft", "both", NULL };
	static const char *const sides[] = { "random", "client", "server",
					     NULL };
	static const struct option longs[] = {
		{ "port", 1, 0, 'p' }, { "pid", 1, 0, 'P' },
		{ "count", 1, 0, 'n' }, { "interval-ms", 1, 0, 'i' },
		{ "seed", 1, 0, 's' }, { "how", 1, 0, 'h' },
		{ "side", 1, 0, 'S' }, { "until-pid", 1, 0, 'u' },
		{ "window-ms", 1, 0, 'w' }, { "max-seconds", 1, 0, 'm' },
		{ "probe", 0, 0, 'x' }, { "quiet", 0, 0, 'q' },
		{ "half-closed", 0, 0, 'c' },
		{ "help", 0, 0, '?' }, { 0 },
	};
	int c, probe = 0;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (c) {
		case 'p': opt.port = (int)number(optarg, 65535); break;
		case 'P': parse_pids(optarg); break;
		case 'n': opt.count = number(optarg, 1L << 30); break;
		case 'i': parse_interval(optarg); break;
		case 's': opt.rng = strtoull(optarg, NULL, 0); break;
		case 'h': opt.how = (enum how)choice(optarg, hows); break;
		case 'S': opt.side = (enum side)choice(optarg, sides); break;
		case 'u': until((int)number(optarg, 1 << 30)); break;
		case 'w': opt.window_ms = number(optarg, 60000); break;
		case 'm': opt.max_seconds = number(optarg, 86400); break;
		case 'x': probe = 1; break;
		case 'c': opt.half_closed = 1; break;
		case 'q': opt.quiet = 1; break;
		default: usage();
		}
	}
	if (optind != argc || (!probe && !opt.port && !opt.npids))
		usage();
	return probe;
}

int main(int argc, char **argv)
{
	struct sigaction sa = { .sa_handler = on_signal };
	struct tcpsock victim, mate;
	long long end;
	long done = 0;
	int probe, err;

	setvbuf(stdout, NULL, _IOLBF, 0);
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
	signal(SIGPIPE, SIG_IGN);
	probe = parse(argc, argv);

	err = tcpdiag_open();
	if (err)
		die(EXIT_SKIP, "no sock_diag here: %s", strerror(err));
	if (opt.how != HOW_NFT && (err = tcpdiag_probe_destroy()) != 0)
		die(EXIT_SKIP, "SOCK_DESTROY cannot be used here: %s%s",
		    strerror(err), err == EPERM ? " (needs CAP_NET_ADMIN)" :
		    err == EOPNOTSUPP ? " (needs CONFIG_INET_DIAG_DESTROY)" :
		    "");
	atexit(table_remove);
	if (opt.how != HOW_KILL)
		probe_nft();
	if (probe)
		return 0;

	end = now_ms() + opt.max_seconds * 1000;
	while (!stop && (!opt.count || done < opt.count) && now_ms() < end) {
		pause_ms(opt.min_ms +
			 (long)rnd((unsigned long long)(opt.max_ms -
							opt.min_ms) + 1));
		/* Between a break and the resume there is nothing to hit. */
		while (!stop && now_ms() < end && !pick(&victim, &mate))
			pause_ms(LOOK_MS);
		if (!stop && now_ms() < end)
			done += break_one(&victim, &mate);
	}
	printf("%ld breaks\n", done);
	return 0;
}
