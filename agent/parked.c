#include "parked.h"
#include "agent.h"
#include "ends.h"
#include "markers.h"
#include "reason.h"
#include "util.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BUCKETS 1024u
#define IMAGES_MAX 65536u
#define SUBS_MAX 4096u

struct sub {			/* a listener of a process */
	struct sub *next;
	struct proc *p;
	uint8_t svc[16];
	uint16_t port;
};

static struct image *bucket[BUCKETS];
static struct service *services;
static struct sub *subs;
static uint32_t count, nsubs;
static uint64_t bytes;
static struct timer sweep, news;

uint32_t parked_count(void)
{
	return count;
}

uint64_t parked_bytes(void)
{
	return bytes;
}

/* ---- images */

static struct image **chain(const uint8_t gid[16])
{
	uint32_t v;

	memcpy(&v, gid, sizeof(v));
	return &bucket[v % BUCKETS];
}

struct image *image_find(const uint8_t gid[16], int role)
{
	struct image *i = count ? *chain(gid) : NULL;

	while (i && (memcmp(i->gid, gid, 16) || i->role != role))
		i = i->next;
	return i;
}

void image_each(void (*fn)(void *arg, struct image *i), void *arg)
{
	struct image *i, *next;
	uint32_t b;

	for (b = 0; count && b < BUCKETS; b++)
		for (i = bucket[b]; i; i = next) {
			next = i->next;
			fn(arg, i);
		}
}

static void expire(void *arg, struct image *i)
{
	struct gident *e;
	int role = i->role;

	(void)arg;
	if (i->expires > loop_now() || i->state == IMG_COMING)
		return;
	COUNT(images_expired);
	say_info("%s: parked for %u s and nobody came: the connection ends", id_text(i->gid), ag.conf.parked_s);
	e = gid_find(ag.gids, i->gid);
	image_drop(i);
	if (e && e->end[role].state == END_PARKED)
		ends_lost(e, role);
}

static void sweep_now(struct timer *t)
{
	image_each(expire, NULL);
	if (count)
		timer_at(t, loop_now() + SEC, sweep_now);
}

struct image *image_new(const uint8_t gid[16], int role, uint64_t size)
{
	struct image *i, **c = chain(gid);

	if (count >= IMAGES_MAX || size > ag.conf.max_parked || bytes > ag.conf.max_parked - size)
		return NULL;
	i = calloc(1, sizeof(*i));
	if (!i)
		return NULL;
	memcpy(i->gid, gid, 16);
	i->role = role;
	i->size = size;
	i->fd = -1;
	i->from = i->to = GID_NOBODY;
	i->state = IMG_COMING;
	i->expires = loop_now() + ag.conf.parked_s * SEC;
	i->next = *c;
	*c = i;
	count++;
	bytes += size;
	if (!sweep.at)
		timer_at(&sweep, loop_now() + SEC, sweep_now);
	return i;
}

void image_state(struct image *i, enum image_state to)
{
	struct service *s = service_get(i->svc, i->port);

	if (s && (i->state == IMG_HERE) != (to == IMG_HERE)) {
		s->here += to == IMG_HERE ? 1u : -1u;
		service_news(s);
	}
	i->state = to;
}

void image_drop(struct image *i)
{
	struct image **p = chain(i->gid);

	if (i->state == IMG_HERE)
		image_state(i, IMG_GIVEN);
	while (*p != i)
		p = &(*p)->next;
	*p = i->next;
	count--;
	bytes -= i->size;
	if (i->fd >= 0)
		close(i->fd);
	free(i);
}

/* ---- services: what waits for whom */

struct service *service_first(void)
{
	return services;
}

struct service *service_get(const uint8_t svc[16], uint16_t port)
{
	struct service *s = services;

	while (s && memcmp(s->svc, svc, 16))
		s = s->next;
	if (s)
		return s;
	s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	memcpy(s->svc, svc, 16);
	s->port = port;
	s->next = services;
	services = s;
	return s;
}

static void tell_news(struct timer *t)
{
	struct service **p = &services, *s;

	(void)t;
	while ((s = *p) != NULL) {
		if (s->news) {
			marker_parked(s->svc, s->here + s->far);
			if (!s->port && s->told != s->here)
				far_announce(s);
			s->told = s->here;
			s->news = false;
		}
		if (s->here || s->far) {
			p = &s->next;
			continue;
		}
		*p = s->next;
		free(s);
	}
}

void service_news(struct service *s)
{
	s->news = true;
	if (!news.at)		/* a process parks all its connections at once */
		timer_at(&news, loop_now() + 5 * MS, tell_news);
}

bool service_listener(const uint8_t svc[16], uint32_t *uid, uint32_t *n)
{
	struct sub *s;
	uint32_t i = 0;

	for (s = subs; s; s = s->next)
		if (!memcmp(s->svc, svc, 16) && !s->port && i++ == *n) {
			*uid = s->p->uid;
			++*n;
			return true;
		}
	return false;
}

/* ---- giving */

static bool fits(const struct image *i, const struct proc *p, const uint8_t svc[16], uint16_t port)
{
	return i->state == IMG_HERE && i->uid == p->uid && i->port == port && !memcmp(i->svc, svc, 16);
}

static void give(struct image *i, struct proc *p)
{
	struct msg m = { .type = MSG_IMAGE, .flags = role_flag(i->role), .epoch = i->epoch, .port = i->port,
			 .count = i->size };

	memcpy(m.gid, i->gid, 16);
	memcpy(m.svc, i->svc, 16);
	COUNT(images_out);
	image_state(i, IMG_GIVEN);
	i->to = p->id;
	local_send(p, &m, i->fd);
}

void image_here(struct image *i)
{
	struct sub *s;

	image_state(i, IMG_HERE);
	for (s = subs; s; s = s->next)
		if (!s->p->dead && s->p->id != i->from && fits(i, s->p, s->svc, s->port)) {
			give(i, s->p);
			return;
		}
}

struct giving { struct proc *p; const struct msg *m; uint32_t n; };

static void give_one(void *arg, struct image *i)
{
	struct giving *g = arg;

	if (g->p->dead || i->from == g->p->id || !fits(i, g->p, g->m->svc, g->m->port))
		return;
	give(i, g->p);
	g->n++;
}

void parked_listen(struct proc *p, const struct msg *m)
{
	struct giving g = { p, m, 0 };
	struct sub *s = subs;

	while (s && (s->p != p || memcmp(s->svc, m->svc, 16)))
		s = s->next;
	if (!s && nsubs < SUBS_MAX && (s = calloc(1, sizeof(*s))) != NULL) {
		s->p = p;
		s->port = m->port;
		memcpy(s->svc, m->svc, 16);
		s->next = subs;
		subs = s;
		nsubs++;
	}
	image_each(give_one, &g);
	if (g.n)
		say_info("process %u takes %u parked connections", p->pid, g.n);
	far_ask(p, m, g.n);
}

/* ---- parking */

static void refuse(struct proc *p, const struct msg *m, const char *why)
{
	struct msg r = { .type = MSG_RELEASE, .flags = m->flags, .epoch = m->epoch, .reason = REASON_DENIED };

	COUNT(refused_limit);
	say_seldom("process %u (user %u): connection %s cannot be parked: %s", p->pid, p->uid, id_text(m->gid), why);
	memcpy(r.gid, m->gid, 16);
	local_send(p, &r, -1);
}

void parked_image(struct proc *p, const struct msg *m, int fd)
{
	struct gident *e = gid_find(ag.gids, m->gid);
	int role = role_of(m);
	struct image *i;

	if (!e || !gid_allowed(e, p->uid) ||
	    !(gid_holds(ag.gids, e, role, p->id) || e->end[role].state == END_PARKED) || image_find(m->gid, role)) {
		refuse(p, m, "it is not the process's to park");
		return;
	}
	if (fd < 0 || !m->count || memfd_size(fd) < m->count) {
		refuse(p, m, "its image is not a sealed memfd of the size it says (or no descriptor is left for it)");
		return;
	}
	i = image_new(m->gid, role, m->count);
	if (!i) {
		refuse(p, m, "too much is parked already (raise [limits] parked-bytes)");
		return;
	}
	i->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	if (i->fd < 0) {
		image_drop(i);
		refuse(p, m, "no descriptor is left (raise the limit of open files)");
		return;
	}
	memcpy(i->svc, m->svc, 16);
	i->port = m->port;
	i->epoch = m->epoch;
	i->uid = p->uid;
	i->from = p->id;
	COUNT(images_in);
	gid_release(ag.gids, e, role, p->id, END_PARKED, REASON_PARKED, ends_now());
	image_here(i);
}

void parked_taken(const struct gident *e, int role)
{
	struct image *i = image_find(e->gid, role);

	if (i)
		image_drop(i);
}

static void back(void *arg, struct image *i)
{
	struct proc *p = arg;

	if (i->from == p->id)
		i->from = GID_NOBODY;
	if (i->state != IMG_GIVEN || i->to != p->id)
		return;
	i->to = GID_NOBODY;
	image_here(i);
}

void parked_proc_gone(struct proc *p)
{
	struct sub **s = &subs, *x;

	while ((x = *s) != NULL) {
		if (x->p != p) {
			s = &x->next;
			continue;
		}
		*s = x->next;
		nsubs--;
		free(x);
	}
	image_each(back, p);
	far_proc_gone(p);
}

static void drop_one(void *arg, struct image *i)
{
	(void)arg;
	image_drop(i);
}

void parked_stop(void)
{
	struct service *s;

	if (count)
		say_error("%u parked connections end with the agent", count);
	far_stop();
	image_each(drop_one, NULL);
	timer_stop(&sweep);
	timer_stop(&news);
	while ((s = services) != NULL) {
		services = s->next;
		free(s);
	}
	while (subs) {
		struct sub *x = subs;

		subs = x->next;
		free(x);
	}
}
