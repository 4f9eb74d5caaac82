/*
 * Parked connections: images that a stopping process leaves with its agent,
 * for the next instance of its program.  By name they may go to another
 * agent (parked_far.c); by port they stay.
 *
 * An image is dropped when its end is UP again somewhere, not before: a
 * process that dies with it in its hands has not lost it.
 */
#ifndef ROAMD_PARKED_H
#define ROAMD_PARKED_H

#include "gid.h"
#include "local.h"
#include "session.h"

enum image_state {
	IMG_HERE,		/* waits for a listener */
	IMG_GIVEN,		/* a process has it, but does not hold the end yet */
	IMG_COMING,		/* from another agent */
	IMG_GOING,		/* to another agent */
};

struct image {
	struct image *next;		/* of the bucket */
	enum image_state state;
	uint8_t gid[16], svc[16];
	int role, fd;
	uint32_t epoch, uid;
	uint16_t port;			/* 0: by name */
	uint64_t size, done;		/* done: bytes that came or went */
	uint32_t from, to;		/* processes' ids: who parked it, who was given it */
	struct session *s;
	bool stays;			/* another agent has no room for it */
	uint64_t expires;
};

struct service {
	struct service *next;
	uint8_t svc[16];
	uint16_t port;
	uint32_t here;			/* images that wait here */
	uint32_t far;			/* and at other agents */
	uint32_t told;			/* what the other agents were told of `here` */
	bool news;			/* the marker, and perhaps the other agents */
};

void parked_image(struct proc *p, const struct msg *m, int fd);
void parked_listen(struct proc *p, const struct msg *m);
void parked_proc_gone(struct proc *p);
/* The end is UP somewhere: its image is of no more use. */
void parked_taken(const struct gident *e, int role);
uint32_t parked_count(void);
uint64_t parked_bytes(void);
void parked_stop(void);

/* Between agents. */
void parked_remote_image(struct session *s, const struct msg *m);
void parked_remote_chunk(struct session *s, const struct msg *m, const uint8_t *data, size_t n);
void parked_remote_listen(struct session *s, const struct msg *m);
void parked_remote_report(struct session *s, const struct msg *m);
void parked_session_up(struct session *s);
void parked_session_down(struct session *s);
void parked_drained(struct session *s);

/* Between parked.c and parked_far.c. */
struct image *image_new(const uint8_t gid[16], int role, uint64_t size);	/* NULL: over the limit */
struct image *image_find(const uint8_t gid[16], int role);
void image_drop(struct image *i);
void image_state(struct image *i, enum image_state to);		/* keeps the services' counts */
void image_here(struct image *i);				/* it waits here now: is there a listener? */
void image_each(void (*fn)(void *arg, struct image *i), void *arg);	/* fn may drop its image */
struct service *service_get(const uint8_t svc[16], uint16_t port);
void service_news(struct service *s);
struct service *service_first(void);
bool service_listener(const uint8_t svc[16], uint32_t *uid, uint32_t *n);	/* the n-th one; false: no more */
void far_ask(struct proc *p, const struct msg *m, uint32_t given);	/* LISTEN of a process: ask other agents, then REPORT */
void far_announce(struct service *s);
void far_proc_gone(struct proc *p);
void far_stop(void);

#endif
