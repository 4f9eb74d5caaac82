/* Parked connections that go from one agent to another. */
#include "agent.h"
#include "ends.h"
#include "parked.h"
#include "peer.h"
#include "reason.h"
#include "util.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CHUNK 32000u
#define IN_FLIGHT (512u << 10)	/* so much is put into a session's queue at a time */
#define ANSWER_NS (2 * SEC)

struct far {			/* so many wait for the service at that agent */
	struct far *next;
	struct session *s;
	uint8_t svc[16];
	uint32_t n;
};

struct ask {			/* a LISTEN that is out */
	struct ask *next;
	struct session *s;
	struct wait *w;		/* NULL: nobody waits for the number */
	uint64_t nonce;		/* upper half: the user, lower half: a number */
	uint8_t svc[16];
	uint32_t uid;
	uint64_t expected, got;
	bool reported;
};

struct wait {			/* a process's LISTEN that has not been answered yet */
	struct wait *next;
	struct timer t;
	struct proc *p;
	uint64_t nonce;
	uint64_t count;
	uint32_t asks;
};

static struct far *fars;
static struct ask *asks;
static struct wait *waits;

/* ---- the process's answer */

static void report(struct wait *w)
{
	struct msg m = { .type = MSG_REPORT, .nonce = w->nonce, .pid = w->p->pid, .count = w->count };
	struct wait **p = &waits;
	struct ask *a;

	local_send(w->p, &m, -1);
	for (a = asks; a; a = a->next)
		if (a->w == w)
			a->w = NULL;
	while (*p != w)
		p = &(*p)->next;
	*p = w->next;
	timer_stop(&w->t);
	free(w);
}

static void too_late(struct timer *t)
{
	report(container_of(t, struct wait, t));
}

static void drop_ask(struct ask *a)
{
	struct ask **p = &asks;
	struct wait *w = a->w;

	while (*p != a)
		p = &(*p)->next;
	*p = a->next;
	free(a);
	if (w && !--w->asks)
		report(w);
}

static void send_ask(struct session *s, const uint8_t svc[16], uint32_t uid, struct wait *w)
{
	struct msg m = { .type = MSG_LISTEN, .nonce = (uint64_t)uid << 32 | (uint32_t)random64() };
	struct ask *a;

	for (a = asks; a; a = a->next)		/* the same question is on its way */
		if (!w && a->s == s && a->uid == uid && !a->reported && !memcmp(a->svc, svc, 16))
			return;
	a = calloc(1, sizeof(*a));
	if (!a)
		return;
	a->s = s;
	a->w = w;
	a->nonce = m.nonce;
	a->uid = uid;
	memcpy(a->svc, svc, 16);
	memcpy(m.svc, svc, 16);
	a->next = asks;
	asks = a;
	if (w)
		w->asks++;
	session_send(s, &m);
	session_expect(s);
}

void far_ask(struct proc *p, const struct msg *m, uint32_t given)
{
	struct wait *w = calloc(1, sizeof(*w));
	struct far *f;

	if (!w) {
		local_refuse(p, m->nonce, REASON_MEMORY);
		return;
	}
	w->p = p;
	w->nonce = m->nonce;
	w->count = given;
	w->next = waits;
	waits = w;
	for (f = fars; f && !m->port; f = f->next)
		if (f->n && !memcmp(f->svc, m->svc, 16))
			send_ask(f->s, m->svc, p->uid, w);
	if (!w->asks)
		report(w);
	else
		timer_at(&w->t, loop_now() + ANSWER_NS, too_late);
}

void far_proc_gone(struct proc *p)
{
	struct wait *w, *next;

	for (w = waits; w; w = next) {
		next = w->next;
		if (w->p == p)
			report(w);
	}
}

/* ---- announcements: IMAGE with count 0 */

static struct msg announcement(const struct service *v)
{
	struct msg m = { .type = MSG_IMAGE, .epoch = v->here };

	memcpy(m.svc, v->svc, 16);
	return m;
}

static void tell(void *arg, struct session *s)
{
	session_send(s, arg);
}

void far_announce(struct service *v)
{
	struct msg m = announcement(v);

	peer_sessions(tell, &m);
}

void parked_session_up(struct session *s)
{
	struct service *v;
	struct msg m;

	for (v = service_first(); v && !s->dead; v = v->next)
		if (v->here && !v->port) {
			m = announcement(v);
			session_send(s, &m);
		}
}

static void announced(struct session *s, const struct msg *m)
{
	struct service *v = service_get(m->svc, 0);
	struct far *f = fars;
	uint32_t uid, n = 0;

	while (f && (f->s != s || memcmp(f->svc, m->svc, 16)))
		f = f->next;
	if (!f && m->epoch && (f = calloc(1, sizeof(*f))) != NULL) {
		f->s = s;
		memcpy(f->svc, m->svc, 16);
		f->next = fars;
		fars = f;
	}
	if (!f || !v)
		return;
	v->far += m->epoch - f->n;
	f->n = m->epoch;
	service_news(v);
	while (f->n && service_listener(m->svc, &uid, &n))
		send_ask(s, m->svc, uid, NULL);
}

/* ---- giving images to another agent */

static void pump(void *arg, struct image *i)
{
	struct session *s = arg;
	static uint8_t data[CHUNK];
	uint8_t buf[WIRE_MAX];
	struct msg m = { .type = MSG_CHUNK, .flags = role_flag(i->role) };
	size_t n;

	if (i->state != IMG_GOING || i->s != s)
		return;
	memcpy(m.gid, i->gid, 16);
	while (i->done < i->size && !s->dead && session_backlog(s) < IN_FLIGHT) {
		n = i->size - i->done < CHUNK ? (size_t)(i->size - i->done) : CHUNK;
		if (pread(i->fd, data, n, (off_t)i->done) != (ssize_t)n) {
			i->done = i->size;	/* its memory went: never acknowledged, expires */
			return;
		}
		m.count = i->done;
		i->done += n;
		session_send_raw(s, buf, wire_encode(&m, NULL, buf), data, n);
	}
}

struct request { struct session *s; const struct msg *m; uint32_t n; };

static void start(void *arg, struct image *i)
{
	struct request *r = arg;
	struct msg m = { .type = MSG_IMAGE, .flags = role_flag(i->role), .epoch = i->epoch, .count = i->size };

	if (i->state != IMG_HERE || i->port || i->stays || i->uid != r->m->nonce >> 32 || memcmp(i->svc, r->m->svc, 16))
		return;
	image_state(i, IMG_GOING);
	i->s = r->s;
	i->done = 0;
	memcpy(m.gid, i->gid, 16);
	memcpy(m.svc, i->svc, 16);
	session_send(r->s, &m);
	r->n++;
}

void parked_remote_listen(struct session *s, const struct msg *m)
{
	struct request r = { s, m, 0 };
	struct msg rep = { .type = MSG_REPORT, .nonce = m->nonce };

	if (m->port)
		return;		/* by port: host only */
	image_each(start, &r);
	rep.count = r.n;
	session_send(s, &rep);
	if (r.n)
		say_info("%u parked connections go to host %s", r.n, id_text(s->host));
	image_each(pump, s);
}

void parked_drained(struct session *s)
{
	image_each(pump, s);
}

/* The other agent has all of it. */
static void arrived(struct session *s, struct image *i)
{
	struct gident *e = gid_find(ag.gids, i->gid);
	uint32_t epoch = i->epoch;
	int role = i->role;
	struct place at;

	COUNT(images_out);
	image_drop(i);
	if (!e || e->end[role].state != END_PARKED)
		return;
	session_place(s, &at);
	gid_set(ag.gids, e, role, END_NONE, 0, ends_now(), 0);
	ends_noted(e, role, epoch, &at);
}

/* ---- getting images */

static struct ask *ask_for(struct session *s, const uint8_t svc[16])
{
	struct ask *a = asks;

	while (a && (a->s != s || memcmp(a->svc, svc, 16) || a->reported))
		a = a->next;
	return a;
}

/* all: its size; 0: it was not taken */
static void ack(struct session *s, const uint8_t gid[16], int role, uint64_t all)
{
	struct msg m = { .type = MSG_CHUNK, .flags = role_flag(role), .count = all };

	memcpy(m.gid, gid, 16);
	session_send(s, &m);
}

void parked_remote_image(struct session *s, const struct msg *m)
{
	struct ask *a;
	struct image *i;

	if (!m->count) {
		announced(s, m);
		return;
	}
	a = ask_for(s, m->svc);
	i = a && !image_find(m->gid, role_of(m)) ? image_new(m->gid, role_of(m), m->count) : NULL;
	if (!i || (i->fd = memfd_create("roamd-image", MFD_CLOEXEC | MFD_ALLOW_SEALING)) < 0 ||
	    ftruncate(i->fd, (off_t)i->size) < 0) {
		say_seldom("host %s: a parked connection is not taken: %s; it stays there", id_text(s->host),
			   !a ? "it was not asked for" : i ? "no memory or descriptor is left" :
			   "too much is parked here (raise [limits] parked-bytes)");
		if (i)
			image_drop(i);
		if (a)
			a->got++;
		ack(s, m->gid, role_of(m), 0);
		return;
	}
	memcpy(i->svc, m->svc, 16);
	i->epoch = m->epoch;
	i->uid = a->uid;
	i->s = s;
}

/* All of it is here. */
static void complete(struct session *s, struct image *i)
{
	struct gident *e;

	fcntl(i->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
	if (gid_make(ag.gids, i->gid, i->uid, &e) != GID_OK || e->end[i->role].state == END_UP ||
	    e->end[i->role].epoch > i->epoch) {
		ack(s, i->gid, i->role, 0);
		image_drop(i);
		return;
	}
	e->end[i->role].epoch = i->epoch;
	gid_set(ag.gids, e, i->role, END_PARKED, REASON_PARKED, ends_now(), 0);
	ack(s, i->gid, i->role, i->size);
	COUNT(images_in);
	i->s = NULL;
	image_here(i);
}

static void one_more(struct ask *a)
{
	if (!a)
		return;
	a->got++;
	if (a->w)
		a->w->count++;
}

static void check_asks(void)
{
	struct ask *a, *next;

	for (a = asks; a; a = next) {
		next = a->next;
		if (a->reported && a->got >= a->expected)
			drop_ask(a);
	}
}

/* REPORT comes before the chunks: the asks are found by service until all are there. */
static struct ask *ask_of(const struct image *i)
{
	struct ask *a = asks;

	while (a && (a->s != i->s || memcmp(a->svc, i->svc, 16) || a->uid != i->uid ||
		     (a->reported && a->got >= a->expected)))
		a = a->next;
	return a;
}

void parked_remote_chunk(struct session *s, const struct msg *m, const uint8_t *data, size_t n)
{
	struct image *i = image_find(m->gid, role_of(m));
	struct ask *a;

	if (!i || i->s != s)
		return;
	if (i->state == IMG_GOING) {
		if (!n && m->count == i->size) {
			arrived(s, i);
		} else if (!n && !m->count) {
			i->s = NULL;
			i->stays = true;
			image_here(i);
		}
		return;
	}
	if (i->state != IMG_COMING || m->count != i->done || n > i->size - i->done ||
	    pwrite(i->fd, data, n, (off_t)i->done) != (ssize_t)n) {
		say_seldom("host %s: a parked connection's image came in disorder or does not fit: dropped",
			   id_text(s->host));
		ack(s, m->gid, role_of(m), 0);
		if (i->state == IMG_COMING)
			image_drop(i);
		return;
	}
	i->done += n;
	if (i->done < i->size)
		return;
	a = ask_of(i);
	complete(s, i);
	one_more(a);
	check_asks();
}

void parked_remote_report(struct session *s, const struct msg *m)
{
	struct ask *a = asks;

	while (a && (a->s != s || a->nonce != m->nonce || a->reported))
		a = a->next;
	if (!a)
		return;
	a->reported = true;
	a->expected = m->count;
	check_asks();
}

/* ---- the session ends: what came in part goes, what went in part stays */

static void session_lost(void *arg, struct image *i)
{
	if (i->s != arg)
		return;
	i->s = NULL;
	if (i->state == IMG_COMING)
		image_drop(i);
	else if (i->state == IMG_GOING)
		image_here(i);
}

void parked_session_down(struct session *s)
{
	struct far **p = &fars, *f;
	struct ask *a, *next;
	struct service *v;

	image_each(session_lost, s);
	for (a = asks; a; a = next) {
		next = a->next;
		if (a->s == s)
			drop_ask(a);
	}
	while ((f = *p) != NULL) {
		if (f->s != s) {
			p = &f->next;
			continue;
		}
		v = service_get(f->svc, 0);
		if (v) {
			v->far -= f->n;
			service_news(v);
		}
		*p = f->next;
		free(f);
	}
}

void far_stop(void)
{
	while (waits)
		report(waits);
	while (asks)
		drop_ask(asks);
	while (fars) {
		struct far *f = fars;

		fars = f->next;
		free(f);
	}
}
