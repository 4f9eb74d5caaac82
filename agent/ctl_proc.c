/* freeze, thaw, park: to one process, through its agent. */
#include "ctl.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PATIENCE 60		/* seconds: a process drains its links first */

uint64_t ctl_start_time(uint32_t pid)
{
	char path[32], buf[1024], *p;
	ssize_t n = -1;
	int fd, i;

	snprintf(path, sizeof(path), "/proc/%u/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	buf[n < 0 ? 0 : n] = 0;
	/* the name, field 2, may hold anything: count from the last parenthesis; field 22 */
	p = strrchr(buf, ')');
	for (i = 2; p && i < 22; i++)
		p = strchr(p + 1, ' ');
	return p ? strtoull(p + 1, NULL, 10) : 0;
}

static const char *plural(uint64_t n)
{
	return n == 1 ? "" : "s";
}

static bool process_is_there(uint32_t pid)
{
	if (ctl_start_time(pid))
		return true;
	fprintf(stderr, "roamctl: there is no process %u\n", pid);
	return false;
}

static int command(const struct opts *o, enum command op, const char *name, uint32_t pid, uint64_t *count)
{
	struct answer a;
	char what[40];
	int rc;

	rc = ctl_ask(o, op, pid, PATIENCE, &a);
	if (rc != EXIT_DONE)
		return rc;
	snprintf(what, sizeof(what), "%s %u", name, pid);
	if (a.report.reason)
		rc = ctl_refused(what, a.report.reason);
	*count = a.report.count;
	ctl_free(&a);
	return rc;
}

int ctl_freeze(const struct opts *o, uint32_t pid)
{
	char comm[20];
	uint64_t n;
	int rc;

	if (!process_is_there(pid))
		return EXIT_REFUSED;
	rc = command(o, CMD_FREEZE, "freeze", pid, &n);
	if (rc == EXIT_DONE)
		printf("Process %u (%s) is frozen, with %" PRIu64 " connection%s; \"roamctl thaw %u\" lets it go on.\n",
		       pid, ctl_comm(comm, pid), n, plural(n), pid);
	return rc;
}

int ctl_park(const struct opts *o, uint32_t pid)
{
	char comm[20];
	uint64_t n;
	int rc;

	if (!process_is_there(pid))
		return EXIT_REFUSED;
	/* it may be gone afterwards */
	ctl_comm(comm, pid);
	rc = command(o, CMD_PARK, "park", pid, &n);
	if (rc == EXIT_DONE)
		printf("%" PRIu64 " connection%s of process %u (%s) %s parked for the next instance of its program.\n",
		       n, plural(n), pid, comm, n == 1 ? "is" : "are");
	return rc;
}

/* "f.PID.START" of this process. */
static bool freeze_file(const char *name, uint32_t pid, uint64_t start)
{
	char want[64];

	if (start)
		snprintf(want, sizeof(want), "f.%u.%" PRIu64, pid, start);
	else
		snprintf(want, sizeof(want), "f.%u.", pid);
	return start ? !strcmp(name, want) : !strncmp(name, want, strlen(want));
}

/* The file is the switch; who may write to the directory may thaw. */
static int thaw_by_hand(const struct opts *o, uint32_t pid)
{
	uint64_t start = ctl_start_time(pid);
	int n = 0, e = ENOENT;
	struct dirent *d;
	DIR *dir = opendir(o->dir);

	if (!dir) {
		fprintf(stderr, "roamctl: %s: %s; name the directory that process %u uses with --dir\n", o->dir,
			strerror(errno), pid);
		return EXIT_NOAGENT;
	}
	while ((d = readdir(dir))) {
		if (!freeze_file(d->d_name, pid, start))
			continue;
		if (!unlinkat(dirfd(dir), d->d_name, 0))
			n++;
		else
			e = errno;
	}
	closedir(dir);
	if (n && start) {
		printf("Process %u is thawed (no agent answers; its file in %s is removed).\n", pid, o->dir);
		return EXIT_DONE;
	}
	if (n)
		fprintf(stderr, "roamctl: there is no process %u; what it left in %s is removed\n", pid, o->dir);
	else if (e == ENOENT)
		fprintf(stderr, "roamctl: process %u is not frozen, as far as %s tells, and no agent answers\n", pid,
			o->dir);
	else
		fprintf(stderr, "roamctl: %s: %s; try as the user of process %u\n", o->dir, strerror(e), pid);
	return EXIT_REFUSED;
}

int ctl_thaw(const struct opts *o, uint32_t pid)
{
	struct opts quiet = *o;
	char comm[20];
	uint64_t n;
	int rc;

	quiet.quiet = true;	/* that nobody answers is no error here */
	rc = command(&quiet, CMD_THAW, "thaw", pid, &n);
	if (rc == EXIT_NOAGENT)
		return thaw_by_hand(o, pid);
	if (rc == EXIT_DONE)
		printf("Process %u (%s) is thawed.\n", pid, ctl_comm(comm, pid));
	return rc;
}
