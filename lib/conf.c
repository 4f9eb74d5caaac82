#include "conf.h"
#include "spin.h"
#include "log.h"
#include "sys.h"
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

struct conf roam_conf;
_Atomic bool roam_conf_ready;

/* What the program has asked for (roam_set); the environment goes before it. */
static struct {
	const char *name;
	char value[sizeof(roam_conf.dir)];
} asked[] = {
	{ .name = "ROAM" }, { .name = "ROAM_DIR" }, { .name = "ROAM_LOG" }, { .name = "ROAM_LINK" },
	{ .name = "ROAM_SPIN" }, { .name = "ROAM_CODEC" }, { .name = "ROAM_DEADLINE" }, { .name = "ROAM_PARK" },
};

int conf_set(const char *name, const char *value)
{
	size_t i;

	if (atomic_load(&roam_conf_ready))
		return EBUSY;
	for (i = 0; i < ARRAY_SIZE(asked); i++)
		if (!strcmp(asked[i].name, name) && strlen(value) < sizeof(asked[i].value)) {
			strcpy(asked[i].value, value);
			return 0;
		}
	return EINVAL;
}

static const char *setting(const char *var)
{
	const char *v = getenv(var);
	size_t i;

	for (i = 0; !v && i < ARRAY_SIZE(asked); i++)
		if (!strcmp(asked[i].name, var) && *asked[i].value)
			v = asked[i].value;
	return v;
}

/* The index of the environment's word in `words`, or 0 with a complaint. */
static uint8_t choice(const char *var, const char *const *words)
{
	const char *v = setting(var);
	char list[80] = "";
	size_t n = 0;
	int i;

	if (!v || !*v)
		return 0;
	for (i = 0; words[i]; i++) {
		if (!strcmp(v, words[i]))
			return (uint8_t)i;
		n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%s", i ? ", " : "", words[i]);
	}
	log_error("%s=%s is not known (use one of %s); using %s", var, v, list, words[0]);
	return 0;
}

static uint64_t seconds(const char *var, uint64_t dflt, uint64_t max)
{
	const char *v = setting(var);
	char *end;
	unsigned long long n;

	if (!v || !*v)
		return dflt;
	n = strtoull(v, &end, 10);
	if (*end || end == v || !n || n > max) {
		log_error("%s=%s is not a number of seconds from 1 to %llu; using %llu", var, v,
			  (unsigned long long)max, (unsigned long long)dflt);
		return dflt;
	}
	return n;
}

static void find_dir(struct conf *c)
{
	const char *d = setting("ROAM_DIR"), *run = getenv("XDG_RUNTIME_DIR");
	int n;

	if (d && *d)
		n = snprintf(c->dir, sizeof(c->dir), "%s", d);
	else if (sys_geteuid() == 0)
		n = snprintf(c->dir, sizeof(c->dir), "/run/roam");
	else if (run && *run)
		n = snprintf(c->dir, sizeof(c->dir), "%s/roam", run);
	else
		n = snprintf(c->dir, sizeof(c->dir), "/tmp/roam-%u", sys_geteuid());
	if (n < 0 || (size_t)n >= sizeof(c->dir)) {
		log_error("ROAM_DIR is longer than %zu bytes: connections stay plain TCP",
			  sizeof(c->dir) - 1);
		c->dir[0] = 0;
	}
}

void conf_load(void)
{
	static const char *const onoff[] = { "on", "off", NULL };
	static const char *const link[] = { "auto", "tcp", "ring", "thick", NULL };
	static const char *const spin[] = { "auto", "off", "tcp", NULL };
	static const char *const codec[] = { "auto", "off", "zlib", NULL };
	static const char *const level[] = { "error", "info", "debug", NULL };
	static _Atomic int once;
	int zero = 0;

	if (!atomic_compare_exchange_strong(&once, &zero, 1)) {
		while (!atomic_load(&roam_conf_ready) && zero == 1)
			sys_nap_us(50);
		return;
	}
	/* The level first: the other complaints go through it. */
	roam_conf.log = choice("ROAM_LOG", level);
	roam_conf.off = choice("ROAM", onoff);
	roam_conf.link = choice("ROAM_LINK", link);
	roam_conf.spin = choice("ROAM_SPIN", spin);
	atomic_store(&spin_off, roam_conf.spin == CONF_SPIN_OFF);
	atomic_store(&spin_tcp, roam_conf.spin == CONF_SPIN_TCP);
	roam_conf.codec = choice("ROAM_CODEC", codec);
	roam_conf.deadline_ns = seconds("ROAM_DEADLINE", 60, 86400) * UINT64_C(1000000000);
	if (setting("ROAM_PARK"))
		snprintf(roam_conf.park, sizeof(roam_conf.park), "%s", setting("ROAM_PARK"));
	find_dir(&roam_conf);
	log_open();
	atomic_store(&roam_conf_ready, true);
}
