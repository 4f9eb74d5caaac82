/* Agents named in the configuration. */
#include "dir.h"

static void *start(struct dir *d)
{
	const struct peer_conf *p = d->conf->peers;
	size_t i;

	for (i = 0; i < d->conf->npeers; i++)
		d->found(d->arg, NULL, p[i].family, p[i].addr, p[i].port ? p[i].port : d->conf->port);
	return d;
}

static int no_fd(void *self)
{
	(void)self;
	return -1;
}

static void nothing(void *self)
{
	(void)self;
}

static uint64_t never(void *self)
{
	(void)self;
	return 0;
}

static void no_tick(void *self, uint64_t now)
{
	(void)self;
	(void)now;
}

const struct dir_ops dir_static = {
	.name = "static", .start = start, .fd = no_fd, .readable = nothing, .due = never, .tick = no_tick,
	.stop = nothing,
};
