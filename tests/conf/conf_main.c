/* The driver: each case in a forked process of its own, results as TAP. */
#include "conf.h"
#include "conf_run.h"

#include <dirent.h>

#define CASE_LIMIT 10	/* seconds */
#define LOW_FD 100	/* the library may keep descriptors above */

static const char *only[256];
static int n_only;

static void full_name(const struct conf_case *c, char *out, size_t size)
{
	const char *base = strrchr(c->file, '/');
	const char *dot;

	base = base ? base + 1 : c->file;
	dot = strchr(base, '.');
	snprintf(out, size, "%.*s.%s%s", (int)(dot - base), base, c->name,
		 c->role == ACCEPTS ? "@accepted" : "");
}

static int wanted(const char *name)
{
	for (int i = 0; i < n_only; i++)
		if (!strncmp(name, only[i], strlen(only[i])))
			return 1;
	return !n_only;
}

static void list_fds(char open[LOW_FD])
{
	for (int i = 0; i < LOW_FD; i++)
		open[i] = fcntl(i, F_GETFD) >= 0;
}

/* /proc as the witness: it sees what wrapped calls might hide. */
static int proc_fds(char open[LOW_FD])
{
	DIR *d = opendir("/proc/self/fd");
	struct dirent *e;

	if (!d)
		return 0;
	memset(open, 0, LOW_FD);
	while ((e = readdir(d))) {
		int fd = atoi(e->d_name);

		if (e->d_name[0] != '.' && fd < LOW_FD && fd != dirfd(d))
			open[fd] = 1;
	}
	closedir(d);
	return 1;
}

static void count_fds(char open[LOW_FD])
{
	if (!proc_fds(open))
		list_fds(open);
}

__attribute__((noreturn)) static void run_case(const struct conf_case *c)
{
	char before[LOW_FD], after[LOW_FD];

	count_fds(before);
	if (c->peer_fn)
		c->peer_fn(peer_open(c->role));
	else
		c->fn();
	peer_finish();
	/* An upgrade under way may hold a number for microseconds (docs/design.md). */
	for (int tries = 0; tries < 40; tries++) {
		count_fds(after);
		if (!memcmp(before, after, sizeof before))
			break;
		usleep(5000);
	}
	for (int i = 0; i < LOW_FD; i++)
		if (before[i] != after[i])
			conf_fail(c->file, 0, "descriptor %d was %s the case", i,
				  after[i] ? "left open by" : "closed by");
	_exit(0);
}

/* Status of the child, or -1 when it had to be killed. */
static int await(pid_t pid)
{
	struct timespec limit = { .tv_sec = CASE_LIMIT };
	double end = now() + CASE_LIMIT;
	sigset_t chld;
	int st;

	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	for (;;) {
		if (waitpid(pid, &st, WNOHANG) == pid)
			break;
		double left = end - now();
		if (left <= 0) {
			kill(-pid, SIGKILL);
			waitpid(pid, &st, 0);
			return -1;
		}
		limit.tv_sec = (time_t)left;
		limit.tv_nsec = (long)((left - (double)limit.tv_sec) * 1e9);
		sigtimedwait(&chld, NULL, &limit);
	}
	/* Helpers that a failed case left behind. */
	kill(-pid, SIGKILL);
	return st;
}

static enum conf_outcome one(const struct conf_case *c, int number, const char *name)
{
	memset(conf_result, 0, sizeof *conf_result);
	fflush(stdout);

	pid_t pid = fork();
	if (pid < 0) {
		perror("fork");
		exit(2);
	}
	if (!pid) {
		sigset_t none;

		setpgid(0, 0);
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		run_case(c);
	}
	setpgid(pid, pid);

	int st = await(pid);
	enum conf_outcome o = conf_result->outcome;
	char *text = conf_result->text;

	if (st == -1) {
		if (o != FAILED)
			snprintf(text, sizeof conf_result->text, "no end within %d s", CASE_LIMIT);
		o = FAILED;
	} else if (WIFSIGNALED(st)) {
		if (o != FAILED)
			snprintf(text, sizeof conf_result->text, "killed by signal %d (%s)",
				 WTERMSIG(st), strsignal(WTERMSIG(st)));
		o = FAILED;
	} else if (WEXITSTATUS(st) && o != FAILED) {
		snprintf(text, sizeof conf_result->text, "exit status %d", WEXITSTATUS(st));
		o = FAILED;
	}
	for (char *p = text; *p; p++)
		if (*p == '\n' || *p == '#')
			*p = ' ';
	if (o == SKIPPED)
		printf("ok %d - %s # SKIP %s\n", number, name, text);
	else if (o == FAILED)
		printf("not ok %d - %s # %s\n", number, name, text);
	else
		printf("ok %d - %s\n", number, name);
	return o;
}

__attribute__((noreturn)) static void usage(void)
{
	fprintf(stderr, "usage: conf [--list] [--mode plain|plainpeer|upgraded|ring|codec] "
			"[--only NAME|PREFIX]...\n");
	exit(2);
}

static enum conf_mode mode_of(const char *s)
{
	if (!strcmp(s, "plain"))
		return PLAIN;
	if (!strcmp(s, "plainpeer"))
		return PLAINPEER;
	setenv("ROAM_LINK", "tcp", 1);
	if (!strcmp(s, "upgraded"))
		return UPGRADED;
	if (!strcmp(s, "ring")) {
		setenv("ROAM_LINK", "ring", 1);
		setenv("CONF_RING", "1", 1);
		return UPGRADED;
	}
	if (!strcmp(s, "codec")) {
		setenv("ROAM_CODEC", "zlib", 1);
		setenv("CONF_CODEC", "1", 1);
		return UPGRADED;
	}
	usage();
}

static void remove_dir(const char *path)
{
	DIR *d = opendir(path);
	struct dirent *e;

	while (d && (e = readdir(d))) {
		char p[1024];

		snprintf(p, sizeof p, "%s/%s", path, e->d_name);
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && unlink(p))
			remove_dir(p);
	}
	if (d)
		closedir(d);
	rmdir(path);
}

int main(int argc, char **argv)
{
	char dir[] = "/tmp/conf-XXXXXX", name[128];
	int count[3] = { 0 }, list = 0, total = 0, number = 0;
	struct conf_case *c;
	sigset_t chld;

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--list"))
			list = 1;
		else if (!strcmp(argv[i], "--mode") && i + 1 < argc)
			conf_mode = mode_of(argv[++i]);
		else if (!strcmp(argv[i], "--only") && i + 1 < argc && n_only < 256)
			only[n_only++] = argv[++i];
		else
			usage();
	}
	for (c = conf_cases; c; c = c->next) {
		full_name(c, name, sizeof name);
		if (!wanted(name))
			continue;
		total++;
		if (list)
			puts(name);
	}
	if (list)
		return 0;
	conf_result = mmap(NULL, sizeof *conf_result, PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (conf_result == MAP_FAILED || !mkdtemp(dir) || setenv("ROAM_DIR", dir, 1)) {
		perror("conf");
		return 2;
	}
	/* Blocked, for sigtimedwait(); default dispositions whatever we inherited. */
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, NULL);
	signal(SIGCHLD, SIG_DFL);
	signal(SIGPIPE, SIG_DFL);

	printf("1..%d\n", total);
	for (c = conf_cases; c; c = c->next) {
		full_name(c, name, sizeof name);
		if (wanted(name))
			count[one(c, ++number, name)]++;
	}
	remove_dir(dir);
	printf("# %d passed, %d failed, %d skipped\n", count[PASSED], count[FAILED],
	       count[SKIPPED]);
	return count[FAILED] ? 1 : 0;
}
