/* The directory's candidates: a few backends (dir.h), watched and ticked. */
#include "sources.h"
#include "agent.h"
#include "dir.h"
#include "loop.h"
#include "peer.h"
#include <string.h>

static void found(void *arg, const uint8_t *host, uint8_t family, const uint8_t addr[16], uint16_t port)
{
	(void)arg;
	struct peer *p;

	if (host && !memcmp(host, ag.host, 16))
		return;
	p = peer_get(host, family, addr, port ? port : ag.port, host ? PEER_HEARD : PEER_STATIC);
	if (p)
		peer_dial(p);
}

struct source {
	const struct dir_ops *ops;
	void *self;
	struct watch w;
	struct timer t;
};
static struct source sources[2] = { { .ops = &dir_static }, { .ops = &dir_multicast } };

static void source_due(struct timer *t)
{
	struct source *s = container_of(t, struct source, t);
	uint64_t at = s->ops->due ? s->ops->due(s->self) : 0;

	if (at && at <= loop_now()) {
		s->ops->tick(s->self, loop_now());
		at = s->ops->due(s->self);
	}
	if (at)
		timer_at(&s->t, at > loop_now() ? at : loop_now() + MS, source_due);
}

static void source_readable(struct watch *w, uint32_t events)
{
	(void)events;
	struct source *s = container_of(w, struct source, w);

	s->ops->readable(s->self);
	source_due(&s->t);
}

void sources_start(void)
{
	static struct dir d;
	uint32_t i;
	int fd;

	d = (struct dir){ .conf = &ag.conf, .key = ag.key, .host = ag.host, .port = ag.port, .found = found };
	for (i = 0; i < 2; i++) {
		struct source *s = &sources[i];

		if (i == 1 && !ag.conf.multicast)
			continue;
		s->self = s->ops->start(&d);
		if (!s->self)
			continue;
		fd = s->ops->fd ? s->ops->fd(s->self) : -1;
		if (fd >= 0)
			watch_add(&s->w, fd, EPOLLIN, source_readable);
		source_due(&s->t);
	}
}

void sources_changed(void)
{
	uint32_t i;

	for (i = 0; i < 2; i++)
		if (sources[i].self && sources[i].ops->changed) {
			sources[i].ops->changed(sources[i].self);
			source_due(&sources[i].t);
		}
}

void sources_stop(void)
{
	uint32_t i;

	for (i = 0; i < 2; i++) {
		timer_stop(&sources[i].t);
		watch_del(&sources[i].w);
		if (sources[i].self)
			sources[i].ops->stop(sources[i].self);
		sources[i].self = NULL;
	}
}
