#include "markers.h"
#include "agent.h"
#include <dirent.h>
#include <errno.h>
#include <pwd.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Static_assert(sizeof(struct tuple) == 38, "the offer's hash goes over these bytes");

bool markers_dir(void)
{
	const char *d = ag.conf.dir;
	/* An earlier start may have given it to the user that we become. */
	struct passwd *pw = geteuid() || !ag.conf.user[0] ? NULL : getpwnam(ag.conf.user);
	struct stat st;

	if (mkdir(d, geteuid() ? 0700 : 0755) < 0 && errno != EEXIST) {
		say_error("%s: cannot make the directory: %s; create it, or set [agent] directory or ROAM_DIR",
			  d, strerror(errno));
		return false;
	}
	if (lstat(d, &st) < 0 || !S_ISDIR(st.st_mode)) {
		say_error("%s: not a directory; remove it, or set [agent] directory or ROAM_DIR", d);
		return false;
	}
	if ((st.st_uid != geteuid() && st.st_uid != 0 && !(pw && st.st_uid == pw->pw_uid)) || st.st_mode & 022) {
		say_error("%s: others can write there (owner %u, mode %o); it must belong to root or to the agent's "
			  "user and not be writable by group or others", d, st.st_uid, st.st_mode & 07777);
		return false;
	}
	return true;
}

bool marker_path(char *path, size_t n, const char *fmt, ...)
{
	int r = snprintf(path, n, "%s/", ag.conf.dir), k;
	va_list ap;

	if (r < 0 || (size_t)r >= n)
		return false;
	va_start(ap, fmt);
	k = vsnprintf(path + r, n - (size_t)r, fmt, ap);
	va_end(ap);
	return k > 0 && (size_t)k < n - (size_t)r;
}

static bool target(const char *path, char *to, size_t n)
{
	ssize_t r = readlink(path, to, n - 1);

	to[r > 0 ? r : 0] = 0;
	return r > 0;
}

static bool put(const char *path, const char *to)
{
	char old[1200];

	if (symlink(to, path) == 0)
		return true;
	if (errno == EEXIST) {
		if (target(path, old, sizeof(old)) && !strcmp(old, to))
			return true;
		unlink(path);
		if (symlink(to, path) == 0)
			return true;
	}
	say_seldom("%s: cannot make the marker: %s; new connections to that host stay plain TCP "
		   "(free space or inodes, check the directory's owner)", path, strerror(errno));
	return false;
}

static unsigned long long ns(void)
{
	return (unsigned long long)ag.netns;
}

/* ---- h. and n. */

static bool host_path(char *path, size_t n, uint8_t family, const uint8_t addr[16])
{
	char a[33];

	hex_text(a, addr, family == 4 ? 4 : 16);
	return marker_path(path, n, "h.%llu.%s", ns(), a);
}

void marker_host(uint8_t family, const uint8_t addr[16], const uint8_t host[16])
{
	char path[200], id[33];

	hex_text(id, host, 16);
	if (host_path(path, sizeof(path), family, addr))
		put(path, id);
}

void marker_host_gone(uint8_t family, const uint8_t addr[16], const uint8_t host[16])
{
	char path[200], id[33], now[40];

	hex_text(id, host, 16);
	if (host_path(path, sizeof(path), family, addr) && target(path, now, sizeof(now)) && !strcmp(now, id))
		unlink(path);
}

void marker_nets(void)
{
	char path[200], to[1000] = "-";
	size_t i, n = 0;

	for (i = 0; i < ag.conf.nnets && n < sizeof(to) - 60; i++)
		n += (size_t)snprintf(to + n, sizeof(to) - n, "%s%s/%u", n ? " " : "",
				      where_text(ag.conf.nets[i].family, ag.conf.nets[i].addr, 0),
				      ag.conf.nets[i].bits);
	if (i < ag.conf.nnets)
		say_error("too many networks: libraries know only the first %zu (join some)", i);
	if (marker_path(path, sizeof(path), "n.%llu", ns()))
		put(path, to);
}

/* ---- p. */

void marker_parked(const uint8_t svc[16], uint32_t n)
{
	char path[200], id[33], to[16];

	hex_text(id, svc, 16);
	snprintf(to, sizeof(to), "%u", n);
	if (!marker_path(path, sizeof(path), "p.%llu.%s", ns(), id))
		return;
	if (n)
		put(path, to);
	else
		unlink(path);
}

/* ---- o. */

/* As lib/meet.c does it, byte for byte. */
static bool offer_path(const struct tuple *t, char *path, size_t n)
{
	struct { uint64_t ns; struct tuple t; } in;
	uint8_t h[16];
	char hex[33];

	memset(&in, 0, sizeof(in));
	in.ns = ag.netns;
	in.t = *t;
	crypto_generichash(h, sizeof(h), (const uint8_t *)&in, sizeof(in), NULL, 0);
	hex_text(hex, h, 16);
	return marker_path(path, n, "o.%s", hex);
}

static void offer_target(char *to, size_t n, uint64_t nonce)
{
	snprintf(to, n, "%u.%llu.%llx", ag.pid, (unsigned long long)ag.start, (unsigned long long)nonce);
}

bool marker_offer(const struct tuple *t, uint64_t nonce)
{
	char path[200], to[80];

	offer_target(to, sizeof(to), nonce);
	return offer_path(t, path, sizeof(path)) && put(path, to);
}

void marker_offer_gone(const struct tuple *t, uint64_t nonce)
{
	char path[200], to[80], now[80];

	offer_target(to, sizeof(to), nonce);
	if (offer_path(t, path, sizeof(path)) && target(path, now, sizeof(now)) && !strcmp(now, to))
		unlink(path);
}

/* ---- f. */

bool marker_thaw(uint32_t pid)
{
	char path[200];

	return marker_path(path, sizeof(path), "f.%u.%llu", pid, (unsigned long long)pid_start(pid)) &&
	       unlink(path) == 0;
}

/* ---- all of them */

/* Of this network namespace's agent, whichever made it; end: also those of a living one, us. */
static bool ours(const char *path, const char *name, bool end)
{
	unsigned long long n, start, nonce;
	char to[80];
	unsigned int pid;

	if (strchr("hp", name[0]))
		return sscanf(name + 1, ".%llu.", &n) == 1 && n == ns();
	if (name[0] == 'n')
		return sscanf(name + 1, ".%llu", &n) == 1 && n == ns();
	if (name[0] != 'o' || !target(path, to, sizeof(to)) ||
	    sscanf(to, "%u.%llu.%llx", &pid, &start, &nonce) != 3)
		return false;
	if (pid == ag.pid && start == ag.start)
		return end;
	return pid_start(pid) != start;
}

static void sweep(bool end)
{
	DIR *d = opendir(ag.conf.dir);
	struct dirent *e;
	char path[400];

	while (d && (e = readdir(d)) != NULL) {
		if (e->d_name[0] && e->d_name[1] == '.' && strchr("hpno", e->d_name[0]) &&
		    marker_path(path, sizeof(path), "%s", e->d_name) && ours(path, e->d_name, end))
			unlink(path);
	}
	if (d)
		closedir(d);
}

void markers_sweep(void)
{
	sweep(false);
}

void markers_end(void)
{
	sweep(true);
}
