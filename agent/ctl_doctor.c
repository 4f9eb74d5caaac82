/* doctor: what on this host keeps connections from being persistent, and what to do about it. */
#include "ctl.h"
#include "key.h"
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#define PORT 7626

enum verdict { FINE, NOTE, WRONG };

static const struct opts *opts;
static int said, wrong;

/* One finding; text and remedy ("" or NULL: none) are cleaned. */
static void __attribute__((format(printf, 4, 5))) say(enum verdict v, const char *check, const char *remedy,
						      const char *fmt, ...)
{
	static const char *const words[] = { "ok", "note", "wrong" };
	static const enum colour colours[] = { C_GREEN, C_YELLOW, C_RED };
	char text[400], todo[400];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	snprintf(todo, sizeof(todo), "%s", remedy ? remedy : "");
	ctl_clean(text);
	ctl_clean(todo);
	wrong += v == WRONG;
	if (opts->json) {
		printf("%s\n  {\"verdict\": \"%s\", \"check\": \"%s\", \"text\": ", said++ ? "," : "", words[v], check);
		ctl_json_string(text);
		fputs(", \"remedy\": ", stdout);
		ctl_json_string(todo);
		putchar('}');
		return;
	}
	printf("%s%-5s%s  %-9s  %s\n", ctl_colour(colours[v]), words[v], ctl_colour(C_NONE), check, text);
	if (*todo)
		printf("%18sDo: %s\n", "", todo);
}

static void directory(void)
{
	char todo[200];
	struct stat st;

	if (lstat(opts->dir, &st)) {
		snprintf(todo, sizeof(todo), "start roamd; it makes the directory. A program makes its own: none has run here yet");
		say(errno == ENOENT ? NOTE : WRONG, "directory", todo, "%s: %s", opts->dir, strerror(errno));
		return;
	}
	if (!S_ISDIR(st.st_mode)) {
		say(WRONG, "directory", "remove it, or name another one with ROAM_DIR", "%s is no directory", opts->dir);
	} else if (st.st_mode & (S_IWGRP | S_IWOTH)) {
		snprintf(todo, sizeof(todo), "chmod go-w %s", opts->dir);
		say(WRONG, "directory", todo, "%s: others may write to it, so nobody trusts it", opts->dir);
	} else if (st.st_uid != 0 && st.st_uid != geteuid() && geteuid() != 0) {
		say(WRONG, "directory", "name one of your own with ROAM_DIR, or use the host's agent in /run/roam",
		    "%s belongs to user %u: your programs do not trust it", opts->dir, st.st_uid);
	} else {
		say(FINE, "directory", NULL, "%s", opts->dir);
	}
}

static bool agent(void)
{
	struct opts quiet = *opts;
	struct list l;
	size_t i, plain = 0;
	int rc;

	quiet.quiet = true;
	rc = ctl_get_list(&quiet, 0, &l);
	if (rc != EXIT_DONE) {
		say(WRONG, "agent", "\"systemctl start roamd\" or \"roamd\"; if it runs elsewhere name its directory with --dir",
		    "none answers in %s: connections to other hosts stay plain, those on this host do not need it", opts->dir);
		return false;
	}
	for (i = 0; i < l.n; i++)
		plain += ctl_is_plain(&l.v[i]);
	say(FINE, "agent", plain ? "\"roamctl list -v\" says why they are plain" : NULL,
	    "answers in %s; %zu connections are known to it, %zu of them plain", opts->dir, l.n, plain);
	ctl_free_list(&l);
	return true;
}

static void key(void)
{
	uint8_t k[KEY_BYTES];
	char err[300];

	if (access(CTL_KEY_FILE, F_OK) && errno == ENOENT)
		say(NOTE, "key", "\"roamctl keygen\" on one host, and copy the file to the others; on a single host: nothing",
		    "there is no %s: this host has no others, or [agent] key names another file", CTL_KEY_FILE);
	else if (access(CTL_KEY_FILE, R_OK))
		say(NOTE, "key", "ask again as root", "%s: %s", CTL_KEY_FILE, strerror(errno));
	else if (!key_load(CTL_KEY_FILE, k, err, sizeof(err)))
		say(WRONG, "key", "the file must hold 64 hex digits, be root's or the agent's, mode 0600", "%s", err);
	else
		say(FINE, "key", NULL, "%s; it must be the same on every host", CTL_KEY_FILE);
	explicit_bzero(k, sizeof(k));
}

/* Does anything listen on the agents' TCP port in this network namespace? */
static bool listened(const char *file)
{
	FILE *f = fopen(file, "re");
	unsigned int port, state;
	char line[300];
	bool yes = false;

	while (f && !yes && fgets(line, sizeof(line), f))
		yes = sscanf(line, " %*u: %*[0-9A-F]:%4X %*[0-9A-F]:%*4X %2X", &port, &state) == 2 &&
			port == PORT && state == 10;
	if (f)
		fclose(f);
	return yes;
}

static void port(bool answers)
{
	if (listened("/proc/net/tcp") || listened("/proc/net/tcp6"))
		say(FINE, "port", "let the firewall pass TCP port 7626 between the hosts", "TCP port %d is open on this host", PORT);
	else
		say(answers ? NOTE : WRONG, "port", answers ? "if [agent] port names another one: nothing" : "start roamd",
		    "nothing listens on TCP port %d", PORT);
}

static void peers(void)
{
	char *at, *line, host[40], addr[64], port_[8], state[24], error[200];
	struct opts quiet = *opts;
	int up = 0, n = 0;
	struct answer a;

	quiet.quiet = true;
	if (ctl_ask(&quiet, CMD_PEERS, 0, 10, &a) != EXIT_DONE)
		return;
	if (a.report.reason) {
		say(NOTE, "peers", "ask again as root", "the agent tells you nothing of other agents");
		ctl_free(&a);
		return;
	}
	for (at = a.data; at && (line = strsep(&at, "\n")); ) {
		*error = 0;
		if (sscanf(line, "%39s %63s %7s %23s %*s %199[^\n]", host, addr, port_, state, error) < 4)
			continue;
		n++;
		up += !strcmp(state, "up");
		if (strcmp(state, "up") != 0)
			say(WRONG, "peers", "is roamd up there, has it the same cluster key, does a firewall stop the port?",
			    "%s port %s: %s %s", addr, port_, state, error);
	}
	ctl_free(&a);
	if (!n)
		say(NOTE, "peers", "name them under [discovery] in roamd.conf, or allow their networks there",
		    "no other agents are known: connections to other hosts stay plain");
	else if (up)
		say(FINE, "peers", NULL, "%d of %d other agents are up", up, n);
}

static void system_(void)
{
	unsigned int major = 0, minor = 0;
	struct rlimit rl = { 0 };
	struct utsname u;

	if (uname(&u) || sscanf(u.release, "%u.%u", &major, &minor) != 2 || major < 5 || (major == 5 && minor < 11))
		say(WRONG, "kernel", "use Linux 5.11 or newer", "Linux %u.%u", major, minor);
	else
		say(FINE, "kernel", NULL, "Linux %u.%u", major, minor);
	if (!getrlimit(RLIMIT_NOFILE, &rl) && rl.rlim_cur < 256)
		say(WRONG, "limits", "raise \"ulimit -n\"", "%llu descriptors are few: the library needs up to 64 of them",
		    (unsigned long long)rl.rlim_cur);
}

static void program(const char *what)
{
	char path[300], env[4096], *p;
	bool is_pid = *what && strspn(what, "0123456789") == strlen(what);
	size_t n = 0;
	FILE *f;

	snprintf(path, sizeof(path), is_pid ? "/proc/%s/exe" : "%s", what);
	errno = 0;
	switch (ctl_how_linked(path)) {
	case CTL_NO_PROGRAM:
		say(WRONG, "program", "name a program's file or a process id", "%s: %s", what,
		    errno ? strerror(errno) : "no 64-bit ELF program (a script? name its interpreter)");
		return;
	case CTL_NOT_LINKED:
		say(WRONG, "program", "link it again with roam's flags: roam(7), LINKING; check with nm that it is this file",
		    "%s has no roam in it", what);
		return;
	case CTL_STATIC:
		say(FINE, "program", NULL, "%s is re-linked, static: its own calls are all there are", what);
		break;
	case CTL_WRAP_ONLY:
		say(NOTE, "program", "if its shared libraries use its connections (TLS, event loops) link with -lroam",
		    "%s is re-linked, for its own calls only", what);
		break;
	case CTL_WHOLE:
		say(FINE, "program", NULL, "%s is re-linked, for the whole process", what);
		break;
	}
	if (!is_pid)
		return;
	snprintf(path, sizeof(path), "/proc/%s/environ", what);
	f = fopen(path, "re");
	if (f) {
		n = fread(env, 1, sizeof(env) - 1, f);
		fclose(f);
	}
	env[n] = 0;
	for (p = env; p < env + n; p += strlen(p) + 1) {
		if (!strcmp(p, "ROAM=off"))
			say(WRONG, "program", "start it without ROAM=off", "process %s was started with ROAM=off", what);
		if (!strncmp(p, "ROAM_DIR=", 9) && strcmp(p + 9, opts->dir) != 0)
			say(NOTE, "program", "both ends of a connection need the same directory, or an agent each",
			    "process %s has its own ROAM_DIR: %s", what, p + 9);
	}
}

int ctl_doctor(const struct opts *o, const char *what)
{
	bool answers;

	opts = o;
	if (o->json)
		printf("{\"findings\": [");
	directory();
	answers = agent();
	key();
	port(answers);
	if (answers)
		peers();
	system_();
	if (what)
		program(what);
	if (o->json)
		printf("\n]}\n");
	else if (wrong)
		printf("\n%d %s wrong.\n", wrong, wrong == 1 ? "thing is" : "things are");
	else
		printf("\nNothing is wrong.\n");
	return wrong ? EXIT_REFUSED : EXIT_DONE;
}
