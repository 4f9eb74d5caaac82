/*
 * The table of keys is the list that the manual and the example are checked
 * against (tests/meta/agent_manual.py): one KEY(section, name, ...) a line.
 */
#include "conf.h"
#include "addr.h"
#include "conf_value.h"
#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MiB ((uint64_t)1 << 20)

static const char *const log_words[] = { "error", "info", "debug", NULL };

#define NUMBER(field, type, min, max) \
static bool set_##field(struct aconf *c, const char *value, char *why) \
{ \
	uint64_t v; \
\
	if (!conf_number(value, min, max, &v, why)) \
		return false; \
	c->field = (type)v; \
	return true; \
}

NUMBER(port, uint16_t, 1, 65535)
NUMBER(mcast_every_ms, uint32_t, 100, 3600000)
NUMBER(max_connections, uint32_t, 1, 100000000)
NUMBER(max_per_user, uint32_t, 1, 100000000)
NUMBER(parked_s, uint32_t, 1, 86400)
NUMBER(hold_s, uint32_t, 1, 3600)
NUMBER(probe_s, uint32_t, 10, 86400)

static bool set_dir(struct aconf *c, const char *value, char *why)
{
	return conf_path(value, c->dir, sizeof(c->dir), why);
}

static bool set_key(struct aconf *c, const char *value, char *why)
{
	return conf_path(value, c->key_file, sizeof(c->key_file), why);
}

static bool set_user(struct aconf *c, const char *value, char *why)
{
	return conf_user(value, c->user, sizeof(c->user), why);
}

static bool set_host(struct aconf *c, const char *value, char *why)
{
	return c->has_host = conf_host_id(value, c->host, why);
}

static bool set_listen(struct aconf *c, const char *value, char *why)
{
	return conf_listen(value, &c->listen_family, c->listen_addr, why);
}

static bool set_log(struct aconf *c, const char *value, char *why)
{
	return conf_word(value, log_words, &c->log, why);
}

static bool set_multicast(struct aconf *c, const char *value, char *why)
{
	return conf_bool(value, &c->multicast, why);
}

static bool set_group(struct aconf *c, const char *value, char *why)
{
	return conf_group(value, c->mcast_group, sizeof(c->mcast_group), why);
}

static bool set_max_parked(struct aconf *c, const char *value, char *why)
{
	return conf_size(value, 0, (uint64_t)1 << 50, &c->max_parked, why);
}

static bool set_probe(struct aconf *c, const char *value, char *why)
{
	return conf_bool(value, &c->probe, why);
}

static bool set_probe_bytes(struct aconf *c, const char *value, char *why)
{
	uint64_t v;

	if (!conf_size(value, 16384, 16 * MiB, &v, why))
		return false;
	c->probe_bytes = (uint32_t)v;
	return true;
}

static void no_networks(struct aconf *c)
{
	free(c->nets);
	c->nets = NULL;
	c->nnets = 0;
}

static void no_peers(struct aconf *c)
{
	free(c->peers);
	c->peers = NULL;
	c->npeers = 0;
}

#define KEY(section, name, ...) { section, name, __VA_ARGS__ }
static const struct key {
	const char *section, *name;
	conf_setter set;
	void (*clear)(struct aconf *c);	/* a list: may be given in several lines */
} keys[] = {
	KEY("agent", "directory", set_dir),
	KEY("agent", "key", set_key),
	KEY("agent", "user", set_user),
	KEY("agent", "port", set_port),
	KEY("agent", "host-id", set_host),
	KEY("agent", "listen", set_listen),
	KEY("agent", "log", set_log),
	KEY("discovery", "networks", conf_networks, no_networks),
	KEY("discovery", "peers", conf_peers, no_peers),
	KEY("discovery", "multicast", set_multicast),
	KEY("discovery", "group", set_group),
	KEY("discovery", "interval", set_mcast_every_ms),
	KEY("discovery", "probe", set_probe),
	KEY("limits", "connections", set_max_connections),
	KEY("limits", "connections-per-user", set_max_per_user),
	KEY("limits", "parked-bytes", set_max_parked),
	KEY("limits", "parked-seconds", set_parked_s),
	KEY("limits", "hold-seconds", set_hold_s),
	KEY("limits", "probe-bytes", set_probe_bytes),
	KEY("limits", "probe-seconds", set_probe_s),
};
#define NKEYS (sizeof(keys) / sizeof(keys[0]))

void aconf_init(struct aconf *c)
{
	memset(c, 0, sizeof(*c));
	strcpy(c->dir, "/run/roam");
	strcpy(c->key_file, "/etc/roam/cluster.key");
	strcpy(c->mcast_group, "239.255.76.26");
	c->port = AGENT_PORT;
	c->mcast_every_ms = 5000;
	c->max_connections = 1000000;
	c->max_per_user = 200000;
	c->max_parked = 256 * MiB;
	c->parked_s = 120;
	c->hold_s = 60;
	c->probe = true;
	c->probe_bytes = MiB;
	c->probe_s = 600;
}

/* The key's index, or -1 and why. */
static int find(const char *section, const char *name, char *why)
{
	bool there = false;
	size_t n, i;

	n = (size_t)snprintf(why, CONF_WHY, "no such key; [%s] has", section);
	for (i = 0; i < NKEYS; i++) {
		if (strcmp(section, keys[i].section))
			continue;
		if (!strcmp(name, keys[i].name))
			return (int)i;
		n += (size_t)snprintf(why + n, n < CONF_WHY ? CONF_WHY - n : 0, "%s %s", there ? "," : "",
				      keys[i].name);
		n = n < CONF_WHY ? n : CONF_WHY - 1;
		there = true;
	}
	if (!there)
		snprintf(why, CONF_WHY, "no such section; use [agent], [discovery] or [limits]");
	return -1;
}

/* What came from the file goes to a terminal or a log: no control characters, no end. */
static void complain(const char *where, int line, const char *section, const char *name, const char *value,
		     const char *why)
{
	char text[512], *p;

	if (line > 0)
		snprintf(text, sizeof(text), "%.200s:%d: [%.40s] %.60s = %.80s: %s", where, line, section, name, value,
			 why);
	else
		snprintf(text, sizeof(text), "%.200s: [%.40s] %.60s = %.80s: %s", where, section, name, value, why);
	for (p = text; *p; p++)
		if ((unsigned char)*p < ' ' || *p == 127)
			*p = '?';
	fprintf(stderr, "roamd: %s\n", text);
}

struct reading {
	struct aconf *c;
	const char *path;
	FILE *f;
	int line;		/* the last one read */
	int bad_line;		/* of the first complaint */
	bool split;		/* the last read did not end a line */
	bool bad;
	bool seen[NKEYS];
};

static int on_key(void *arg, const char *section, const char *name, const char *value)
{
	struct reading *r = arg;
	char why[CONF_WHY];
	int k = find(section, name, why);
	bool ok = k >= 0;

	if (ok && r->seen[k] && !keys[k].clear) {
		snprintf(why, sizeof(why), "given twice, or in two lines; leave only one");
		ok = false;
	}
	if (ok) {
		r->seen[k] = true;
		ok = keys[k].set(r->c, value, why);
	}
	if (!ok) {
		complain(r->path, r->line, section, name, value, why);
		if (!r->bad)
			r->bad_line = r->line;
		r->bad = true;
	}
	return ok;
}

static void line_error(struct reading *r, int line, const char *what)
{
	fprintf(stderr, "roamd: %s:%d: %s\n", r->path, line, what);
	r->bad = true;
}

/* As fgets, and counts; inih would take the rest of a long line for a line of its own. */
static char *read_line(char *buf, int n, void *arg)
{
	struct reading *r = arg;
	bool begin = !r->split;
	size_t len;

	if (r->bad && r->split)
		return NULL;
	if (!fgets(buf, n, r->f))
		return NULL;
	if (begin)
		r->line++;
	len = strlen(buf);
	r->split = !(len && buf[len - 1] == '\n') && !feof(r->f);
	if (r->split) {
		line_error(r, r->line, "the line is too long (or holds a NUL byte); a list may go on in further "
			   "lines that begin with a space");
		return NULL;
	}
	return buf;
}

static bool environment(struct aconf *c)
{
	const char *dir = getenv("ROAM_DIR");
	char why[CONF_WHY];

	if (!dir || !*dir || set_dir(c, dir, why))
		return true;
	fprintf(stderr, "roamd: ROAM_DIR: %s\n", why);
	return false;
}

bool aconf_read(struct aconf *c, const char *path, bool must)
{
	struct reading r = { .c = c, .path = path };
	size_t i;
	int e;

	r.f = fopen(path, "re");
	if (!r.f) {
		if (errno == ENOENT && !must)
			return environment(c);
		fprintf(stderr, "roamd: %s: %s\n", path, strerror(errno));
		return false;
	}
	for (i = 0; i < NKEYS; i++)
		if (keys[i].clear)
			keys[i].clear(c);
	e = ini_parse_stream(read_line, &r, on_key, &r);
	if (e < 0 || ferror(r.f)) {
		fprintf(stderr, "roamd: %s: %s\n", path, e < 0 ? "out of memory" : strerror(EIO));
		r.bad = true;
	} else if (e > 0 && (!r.bad_line || e < r.bad_line)) {
		line_error(&r, e, "neither [section] nor key = value");
	}
	fclose(r.f);
	return !r.bad && environment(c);
}

bool aconf_set(struct aconf *c, const char *assignment)
{
	const char *dot = strchr(assignment, '.'), *eq = strchr(assignment, '=');
	char section[32], name[32], why[CONF_WHY];
	int k;

	if (!dot || !eq || dot > eq || (size_t)(dot - assignment) >= sizeof(section) ||
	    (size_t)(eq - dot) > sizeof(name)) {
		fprintf(stderr, "roamd: %.80s: use SECTION.KEY=VALUE, as in discovery.multicast=yes\n", assignment);
		return false;
	}
	snprintf(section, sizeof(section), "%.*s", (int)(dot - assignment), assignment);
	snprintf(name, sizeof(name), "%.*s", (int)(eq - dot - 1), dot + 1);
	k = find(section, name, why);
	if (k >= 0 && keys[k].clear)
		keys[k].clear(c);
	if (k >= 0 && keys[k].set(c, eq + 1, why))
		return true;
	complain("command line", 0, section, name, eq + 1, why);
	return false;
}

void aconf_free(struct aconf *c)
{
	no_networks(c);
	no_peers(c);
}

bool aconf_in_nets(const struct aconf *c, uint8_t family, const uint8_t addr[16])
{
	static const uint8_t mapped[12] = { [10] = 255, 255 };
	uint8_t a[16] = { 0 };
	size_t i;

	memcpy(a, addr, family == 4 ? 4 : 16);
	if (family == 6 && !memcmp(a, mapped, sizeof(mapped))) {
		memmove(a, a + 12, 4);
		family = 4;
	}
	for (i = 0; i < c->nnets; i++)
		if (c->nets[i].family == family && addr_match(a, c->nets[i].addr, c->nets[i].bits))
			return true;
	return false;
}
