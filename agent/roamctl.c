/* The command line: options, the command, its arguments. */
#include "ctl.h"
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#ifndef ROAM_VERSION
#define ROAM_VERSION "unknown"
#endif

#define KEY_FILE CTL_KEY_FILE

static const char *key_file = KEY_FILE;

static int run_keygen(const struct opts *o, const char *file)
{
	(void)o;
	return ctl_keygen(file ? file : key_file);
}

static int run_top(const struct opts *o, uint32_t pid)
{
	(void)pid;
	return ctl_top(o);
}

static int run_peers(const struct opts *o, uint32_t pid)
{
	(void)pid;
	return ctl_peers(o);
}

static int run_hosts(const struct opts *o, uint32_t pid)
{
	(void)pid;
	return ctl_hosts(o);
}

static int run_stats(const struct opts *o, uint32_t pid)
{
	(void)pid;
	return ctl_stats(o);
}

enum { NO_ARG, MAY_ARG, MUST_ARG };

/* Which options go with a command. */
enum { O_JSON = 1, O_VERBOSE = 2, O_ONCE = 4, O_INTERVAL = 8, O_DIR = 16 };

/* THE list of commands: help, manual and tests/meta/agent_manual.py go by it. */
#define COMMAND(name, arg, ...) { name, arg, __VA_ARGS__ }
static const struct cmd {
	const char *name, *arg, *text;
	int needs, options;
	int (*by_pid)(const struct opts *o, uint32_t pid);
	int (*by_text)(const struct opts *o, const char *text);
} commands[] = {
	COMMAND("list", "[PID]", "the connections, of all processes or of one", MAY_ARG, O_DIR | O_JSON | O_VERBOSE,
		ctl_list, NULL),
	COMMAND("show", "GID", "everything about one connection; the beginning of its GID is enough", MUST_ARG,
		O_DIR | O_JSON, NULL, ctl_show),
	COMMAND("top", "", "what the connections carry now, the busiest first", NO_ARG, O_DIR | O_JSON | O_ONCE | O_INTERVAL,
		run_top, NULL),
	COMMAND("peers", "", "the agents of other hosts", NO_ARG, O_DIR | O_JSON, run_peers, NULL),
	COMMAND("hosts", "", "how fast the ways to other hosts are", NO_ARG, O_DIR | O_JSON, run_hosts, NULL),
	COMMAND("stats", "", "the agent's counters", NO_ARG, O_DIR | O_JSON, run_stats, NULL),
	COMMAND("freeze", "PID", "drain and cut the connections of a process, and stop it there", MUST_ARG, O_DIR,
		ctl_freeze, NULL),
	COMMAND("thaw", "PID", "let a frozen process go on", MUST_ARG, O_DIR, ctl_thaw, NULL),
	COMMAND("park", "PID", "hand the connections of a process to the next instance of its program", MUST_ARG, O_DIR,
		ctl_park, NULL),
	COMMAND("doctor", "[PROGRAM]", "what is wrong on this host, or with how a program was linked (file or PID)",
		MAY_ARG, O_DIR | O_JSON, NULL, ctl_doctor),
	COMMAND("keygen", "[FILE]", "make a cluster key (" KEY_FILE ")", MAY_ARG, 0, NULL, run_keygen),
};

static const struct option longs[] = {
	{ "json", no_argument, NULL, 'j' },
	{ "verbose", no_argument, NULL, 'v' },
	{ "once", no_argument, NULL, '1' },
	{ "interval", required_argument, NULL, 'i' },
	{ "dir", required_argument, NULL, 'd' },
	{ "help", no_argument, NULL, 'h' },
	{ "version", no_argument, NULL, 'V' },
	{ NULL, 0, NULL, 0 },
};

static int usage(const char *what, const char *arg)
{
	char copy[80];

	snprintf(copy, sizeof(copy), "%s", arg);
	fprintf(stderr, "roamctl: %s %s; see \"roamctl --help\"\n", what, ctl_clean(copy));
	return EXIT_USAGE;
}

static int help(void)
{
	size_t i;

	printf("usage: roamctl [--dir DIR] COMMAND [OPTION]... [ARGUMENT]\n\nCommands:\n");
	for (i = 0; i < ARRAY_SIZE(commands); i++)
		printf("  %-6s %-9s %s\n", commands[i].name, commands[i].arg, commands[i].text);
	printf("\nOptions:\n"
	       "  --json            list, show, top, peers, hosts, stats, doctor: for programs\n"
	       "  -v, --verbose     list: explain why a connection is not persistent\n"
	       "  --once            top: measure once, print, end\n"
	       "  --interval S      top: seconds between two looks (1)\n"
	       "  --dir DIR         the agent's directory (ROAM_DIR, else /run/roam or that of the user)\n"
	       "  --help, --version\n"
	       "\nExit status: 0 done, 1 refused or failed, 2 wrong usage, 3 no agent answers.\n");
	return EXIT_DONE;
}

static bool parse_interval(const char *s, double *out)
{
	char *end;

	*out = strtod(s, &end);
	return *s && !*end && *out >= 0.1 && *out <= 3600;
}

static bool parse_pid(const char *s, uint32_t *pid)
{
	unsigned long v;

	if (!*s || strlen(s) > 10 || strspn(s, "0123456789") != strlen(s))
		return false;
	v = strtoul(s, NULL, 10);
	*pid = (uint32_t)v;
	return v > 0 && v <= INT32_MAX;
}

static const struct cmd *find(const char *name)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(commands); i++)
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	return NULL;
}

static int run(const struct cmd *c, const struct opts *o, const char *arg)
{
	uint32_t pid = 0;

	if (c->by_text)
		return c->by_text(o, arg);
	if (arg && !parse_pid(arg, &pid))
		return usage("not a process id:", arg);
	return c->by_pid(o, pid);
}

int main(int argc, char **argv)
{
	struct opts o = { .interval = 1 };
	const char *dir = NULL, *arg;
	const struct cmd *c;
	int opt, given = 0;

	while ((opt = getopt_long(argc, argv, "vhV", longs, NULL)) != -1) {
		switch (opt) {
		case 'j':
			o.json = true;
			given |= O_JSON;
			break;
		case 'v':
			o.verbose = true;
			given |= O_VERBOSE;
			break;
		case '1':
			o.once = true;
			given |= O_ONCE;
			break;
		case 'i':
			if (!parse_interval(optarg, &o.interval))
				return usage("--interval wants seconds, 0.1 to 3600, not", optarg);
			given |= O_INTERVAL;
			break;
		case 'd':
			dir = optarg;
			given |= O_DIR;
			break;
		case 'h':
			return help();
		case 'V':
			printf("roamctl %s\n", ROAM_VERSION);
			return EXIT_DONE;
		default:
			return usage("wrong", "options");	/* getopt has said which */
		}
	}
	if (optind == argc)
		return usage("no", "command");
	c = find(argv[optind]);
	if (!c)
		return usage("no such command:", argv[optind]);
	arg = argv[optind + 1];
	if (c->needs == MUST_ARG && !arg)
		return usage(c->name, !strcmp(c->arg, "GID") ? "wants the beginning of a GID" : "wants a process id");
	if (arg && (c->needs == NO_ARG || argv[optind + 2]))
		return usage("too many arguments for", c->name);
	if (given & ~c->options)
		return usage("an option that does not go with", c->name);
	if (!ctl_find_dir(&o, dir))
		return usage("the directory's path is longer than 91 bytes:", dir ? dir : "ROAM_DIR");
	ctl_colour_init();
	opt = run(c, &o, arg);
	if (fflush(stdout) || ferror(stdout)) {
		perror("roamctl: standard output");
		return EXIT_REFUSED;
	}
	return opt;
}
