/* roamd: the agent of one host.  Start, end, and what both must get right. */
#include "agent.h"
#include "ends.h"
#include "key.h"
#include "local.h"
#include "loop.h"
#include "markers.h"
#include "netmon.h"
#include "offer.h"
#include "parked.h"
#include "peer.h"
#include "port.h"
#include "probe.h"
#include "query.h"
#include "sources.h"
#include "util.h"
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#ifndef ROAM_VERSION
#define ROAM_VERSION "?"
#endif
#define CONF_FILE "/etc/roam/roamd.conf"

static const char help[] =
	"usage: roamd [--config FILE] [--set section.key=value]... [--foreground]\n"
	"\n"
	"The agent of this host: introduces connections to those of other hosts.\n"
	"\n"
	"  --config FILE     read FILE instead of " CONF_FILE "\n"
	"  --set KEY=VALUE   as in the file: --set discovery.peers=10.0.0.2; goes before it\n"
	"  --foreground      stay in the foreground (there is no other mode)\n"
	"  --version         print the version\n"
	"  --help            print this\n"
	"\n"
	"SIGTERM and SIGINT end it; connections go on without it.\n";

/* 0: go on; else the exit status + 1. */
static int options(int argc, char **argv)
{
	static const struct option opts[] = {
		{ "config", required_argument, NULL, 'c' }, { "set", required_argument, NULL, 's' },
		{ "foreground", no_argument, NULL, 'f' }, { "version", no_argument, NULL, 'v' },
		{ "help", no_argument, NULL, 'h' }, { 0 },
	};
	const char *file = NULL, *set[64];
	int c, nset = 0, i;

	while ((c = getopt_long(argc, argv, "", opts, NULL)) != -1) {
		switch (c) {
		case 'c': file = optarg; break;
		case 'f': break;
		case 'v': printf("roamd %s\n", ROAM_VERSION); return 1;
		case 'h': fputs(help, stdout); return 1;
		case 's':
			if (nset < (int)ARRAY_SIZE(set)) {
				set[nset++] = optarg;
				break;
			}
			fprintf(stderr, "roamd: too many --set (put them into a file)\n");
			return 3;
		default:
			fputs("try roamd --help\n", stderr);
			return 3;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "roamd: %s: not an option; try roamd --help\n", argv[optind]);
		return 3;
	}
	if (!aconf_read(&ag.conf, file ? file : CONF_FILE, file != NULL))
		return 3;
	for (i = 0; i < nset; i++)
		if (!aconf_set(&ag.conf, set[i]))
			return 3;
	return 0;
}

/* The same after a restart, another one in each network namespace and on each port. */
static void host_id(void)
{
	struct { char id[64]; uint64_t ns; uint16_t port; } in;
	int fd = open("/etc/machine-id", O_RDONLY | O_CLOEXEC);
	ssize_t n;

	memset(&in, 0, sizeof(in));
	n = fd < 0 ? -1 : read(fd, in.id, sizeof(in.id));
	if (fd >= 0)
		close(fd);
	in.ns = ag.netns;
	in.port = ag.port;
	if (ag.conf.has_host)
		memcpy(ag.host, ag.conf.host, 16);
	else if (n > 0)
		crypto_generichash(ag.host, 16, (const uint8_t *)&in, sizeof(in), NULL, 0);
	else
		randombytes_buf(ag.host, 16);
}

static bool drop_root(void)
{
	const char *user = ag.conf.user;
	struct passwd *pw;

	if (geteuid() || !user[0])
		return true;
	pw = getpwnam(user);
	if (!pw) {
		say_error("there is no user %s (create it, or change [agent] user)", user);
		return false;
	}
	/* The markers are made later, as that user. */
	if (chown(ag.conf.dir, pw->pw_uid, pw->pw_gid) < 0) {
		say_error("%s: cannot give it to %s: %s", ag.conf.dir, user, strerror(errno));
		return false;
	}
	if (setgroups(0, NULL) < 0 || setgid(pw->pw_gid) < 0 || setuid(pw->pw_uid) < 0) {
		say_error("cannot become %s: %s", user, strerror(errno));
		return false;
	}
	return true;
}

static void many_files(void)
{
	struct rlimit r;

	if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
		r.rlim_cur = r.rlim_max;
		setrlimit(RLIMIT_NOFILE, &r);
	}
}

static void ended(struct watch *w, uint32_t events)
{
	(void)events;
	struct signalfd_siginfo si;

	if (read(w->fd, &si, sizeof(si)) == sizeof(si))
		say_info("%s: the agent ends; connections go on without it", strsignal((int)si.ssi_signo));
	loop_stop();
}

static bool signals(struct watch *w)
{
	sigset_t set;
	int fd;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigprocmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return fd >= 0 && watch_add(w, fd, EPOLLIN, ended);
}

static bool start(struct watch *sig)
{
	char err[512];

	if (!key_load(ag.conf.key_file, ag.key, err, sizeof(err))) {
		say_error("%s", err);
		return false;
	}
	if (!loop_init() || !signals(sig)) {
		say_error("cannot start: %s", strerror(errno));
		return false;
	}
	ag.began_ns = loop_now();
	if (!markers_dir() || !local_start())
		return false;
	if (!port_start())
		return false;
	host_id();
	if (!drop_root() || !ends_start())
		return false;
	markers_sweep();
	marker_nets();
	netmon_start();
	sources_start();
	return true;
}

static void finish(struct watch *sig)
{
	ends_stop();
	port_stop();
	netmon_stop();
	/* What refers to sessions and processes goes before them. */
	probe_stop();
	query_stop();
	offer_stop();
	parked_stop();
	sources_stop();
	peer_stop();
	local_stop();
	local_free();
	if (ag.gids)
		markers_end();
	gid_free(ag.gids);
	if (sig->on) {
		watch_del(sig);
		close(sig->fd);
	}
	loop_free();
	sodium_memzero(ag.key, sizeof(ag.key));
}

int main(int argc, char **argv)
{
	struct watch sig = { 0 };
	int r;

	aconf_init(&ag.conf);
	ag.pid = (uint32_t)getpid();
	ag.start = pid_start(ag.pid);
	ag.netns = netns_inode();
	r = options(argc, argv);
	if (!r && sodium_init() < 0) {
		say_error("no randomness to be had");
		r = 2;
	}
	if (!r) {
		many_files();
		r = start(&sig) ? 1 : 2;
		if (r == 1) {
			say_info("host %s is here: port %u, %s, %zu static peers, multicast %s", id_text(ag.host),
				 ag.port, ag.conf.dir, ag.conf.npeers, ag.conf.multicast ? "on" : "off");
			loop_run();
		}
		finish(&sig);
	}
	aconf_free(&ag.conf);
	return r - 1;
}
