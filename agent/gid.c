#include "gid.h"
#include "reason.h"
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

/* A process holds an end. Lists: of the end (one way), of the process (both ways). */
struct holder {
	uint32_t entry;		/* index << 1 | role */
	uint32_t proc;
	uint32_t next_end;
	uint32_t next, prev;	/* of the process */
};

struct user { uint32_t uid, count; };

struct gidtab {
	struct gident *ent;	/* [0] is not used: 0 is "none" */
	uint32_t ent_n, ent_cap, ent_free, count;
	struct holder *hold;
	uint32_t hold_n, hold_cap, hold_free, holds;
	uint32_t *bucket, buckets;	/* a power of two */
	uint32_t *proc, procs;		/* first holder of each process */
	struct user *user;
	uint32_t users;
	uint32_t max, max_user;
	bool may_expire;
	uint8_t seed[16];
	struct gid_ops ops;
};

struct gidtab *gid_new(uint32_t max, uint32_t max_user, const uint8_t seed[16], const struct gid_ops *ops)
{
	struct gidtab *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	t->max = max;
	t->max_user = max_user;
	t->ent_n = t->hold_n = 1;
	t->buckets = 64;
	t->bucket = calloc(t->buckets, sizeof(*t->bucket));
	memcpy(t->seed, seed, sizeof(t->seed));
	if (ops)
		t->ops = *ops;
	if (!t->bucket) {
		free(t);
		t = NULL;
	}
	return t;
}

void gid_free(struct gidtab *t)
{
	if (!t)
		return;
	free(t->ent);
	free(t->hold);
	free(t->bucket);
	free(t->proc);
	free(t->user);
	free(t);
}

static uint32_t slot(const struct gidtab *t, const uint8_t gid[16])
{
	uint8_t h[crypto_shorthash_BYTES];
	uint32_t v;

	crypto_shorthash(h, gid, 16, t->seed);
	memcpy(&v, h, sizeof(v));
	return v & (t->buckets - 1);
}

static uint32_t look(const struct gidtab *t, const uint8_t gid[16])
{
	uint32_t i = t->bucket[slot(t, gid)];

	while (i && memcmp(t->ent[i].gid, gid, 16))
		i = t->ent[i].next;
	return i;
}

struct gident *gid_find(struct gidtab *t, const uint8_t gid[16])
{
	uint32_t i = look(t, gid);

	return i ? &t->ent[i] : NULL;
}

bool gid_allowed(const struct gident *e, uint32_t uid)
{
	return !e || e->uid == uid || uid == 0;
}

/* One more element in an array of *cap; grows by half, so that little is left idle. */
static bool room(void **p, uint32_t *cap, uint32_t need, size_t size)
{
	uint32_t c = *cap;
	void *q;

	if (need <= c)
		return true;
	c = c < 64 ? 64 : c + c / 2;
	if (c < need)
		c = need;
	q = realloc(*p, c * size);
	if (!q)
		return false;
	*p = q;
	*cap = c;
	return true;
}

static void rehash(struct gidtab *t)
{
	uint32_t n = t->buckets * 2, i, s;
	uint32_t *b = calloc(n, sizeof(*b));

	if (!b)
		return;		/* longer chains, nothing worse */
	free(t->bucket);
	t->bucket = b;
	t->buckets = n;
	for (i = 1; i < t->ent_n; i++) {
		if (t->ent[i].uid == UINT32_MAX)
			continue;	/* free */
		s = slot(t, t->ent[i].gid);
		t->ent[i].next = b[s];
		b[s] = i;
	}
}

static struct user *user(struct gidtab *t, uint32_t uid, bool make)
{
	struct user *u;
	uint32_t i;

	for (i = 0; i < t->users; i++)
		if (t->user[i].uid == uid)
			return &t->user[i];
	if (!make)
		return NULL;
	u = realloc(t->user, (t->users + 1) * sizeof(*u));
	if (!u)
		return NULL;
	t->user = u;
	u += t->users++;
	*u = (struct user){ .uid = uid };
	return u;
}

enum gid_own gid_make(struct gidtab *t, const uint8_t gid[16], uint32_t uid, struct gident **e)
{
	struct user *u;
	uint32_t i = look(t, gid), s;

	*e = i ? &t->ent[i] : NULL;
	if (i)
		return gid_allowed(*e, uid) ? GID_OK : GID_DENIED;
	u = user(t, uid, true);
	if (!u || t->count >= t->max)
		return GID_FULL;
	if (u->count >= t->max_user)
		return GID_FULL_USER;
	i = t->ent_free;
	if (i)
		t->ent_free = t->ent[i].next;
	else if (room((void **)&t->ent, &t->ent_cap, t->ent_n + 1, sizeof(*t->ent)))
		i = t->ent_n++;
	else
		return GID_FULL;
	*e = &t->ent[i];
	memset(*e, 0, sizeof(**e));
	memcpy((*e)->gid, gid, 16);
	(*e)->uid = uid;
	s = slot(t, gid);
	(*e)->next = t->bucket[s];
	t->bucket[s] = i;
	t->may_expire = true;
	u->count++;
	if (++t->count > t->buckets)
		rehash(t);
	return GID_OK;
}

static void forget(struct gidtab *t, uint32_t i)
{
	struct gident *e = &t->ent[i];
	uint32_t *p = &t->bucket[slot(t, e->gid)];
	struct user *u = user(t, e->uid, false);

	while (*p != i)
		p = &t->ent[*p].next;
	*p = e->next;
	if (u)
		u->count--;
	e->uid = UINT32_MAX;	/* free; rehash looks at it */
	e->end[0].state = e->end[1].state = END_NONE;
	e->next = t->ent_free;
	t->ent_free = i;
	t->count--;
}

/* ---- holders */

static uint32_t *find_hold(struct gidtab *t, struct gident *e, int role, uint32_t proc)
{
	uint32_t *p = &e->end[role].holder;

	while (*p && t->hold[*p].proc != proc)
		p = &t->hold[*p].next_end;
	return p;		/* of a 0 when it does not hold it */
}

static bool know_proc(struct gidtab *t, uint32_t proc)
{
	uint32_t old = t->procs;

	if (proc < old)
		return true;
	if (!room((void **)&t->proc, &t->procs, proc + 1, sizeof(*t->proc)))
		return false;
	memset(t->proc + old, 0, (t->procs - old) * sizeof(*t->proc));
	return true;
}

static bool hold(struct gidtab *t, struct gident *e, int role, uint32_t proc)
{
	struct holder *h;
	uint32_t i = t->hold_free;

	if (gid_holds(t, e, role, proc))
		return true;
	if (!know_proc(t, proc))
		return false;
	if (i)
		t->hold_free = t->hold[i].next;
	else if (room((void **)&t->hold, &t->hold_cap, t->hold_n + 1, sizeof(*t->hold)))
		i = t->hold_n++;
	else
		return false;
	h = &t->hold[i];
	*h = (struct holder){ .entry = (uint32_t)(e - t->ent) << 1 | (uint32_t)role, .proc = proc,
			      .next_end = e->end[role].holder, .next = t->proc[proc] };
	if (h->next)
		t->hold[h->next].prev = i;
	t->proc[proc] = i;
	e->end[role].holder = i;
	t->holds++;
	return true;
}

/* Takes holder i, whose predecessor's link in the end's list is at `from`, out of both lists. */
static void unhold(struct gidtab *t, uint32_t *from)
{
	uint32_t i = *from;
	struct holder *h = &t->hold[i];

	*from = h->next_end;
	if (h->next)
		t->hold[h->next].prev = h->prev;
	if (h->prev)
		t->hold[h->prev].next = h->next;
	else
		t->proc[h->proc] = h->next;
	h->next = t->hold_free;
	t->hold_free = i;
	t->holds--;
}

bool gid_holds(struct gidtab *t, const struct gident *e, int role, uint32_t proc)
{
	return *find_hold(t, (struct gident *)(uintptr_t)e, role, proc) != 0;
}

uint32_t gid_holder(struct gidtab *t, struct gident *e, int role)
{
	uint32_t *p = &e->end[role].holder, first = *p;

	if (!first)
		return GID_NOBODY;
	if (t->hold[first].next_end) {		/* to the end of the list: the next one's turn */
		*p = t->hold[first].next_end;
		while (*p)
			p = &t->hold[*p].next_end;
		*p = first;
		t->hold[first].next_end = 0;
	}
	return t->hold[first].proc;
}

void gid_holders(struct gidtab *t, const struct gident *e, int role, void (*fn)(void *arg, uint32_t proc), void *arg)
{
	uint32_t i;

	for (i = e->end[role].holder; i; i = t->hold[i].next_end)
		fn(arg, t->hold[i].proc);
}

static void fence(struct gidtab *t, struct gident *e, int role)
{
	while (e->end[role].holder) {
		uint32_t proc = t->hold[e->end[role].holder].proc;

		unhold(t, &e->end[role].holder);
		if (t->ops.fenced)
			t->ops.fenced(t->ops.arg, proc, e, role);
	}
}

/* ---- what happens to an end */

enum gid_own gid_own(struct gidtab *t, const uint8_t gid[16], int role, uint32_t epoch, uint32_t uid,
		     uint32_t proc, struct gident **e)
{
	enum gid_own r = gid_make(t, gid, uid, e);
	struct end *n;

	if (r != GID_OK)
		return r;
	n = &(*e)->end[role];
	if (n->state != END_NONE && epoch < n->epoch)
		return GID_FENCED;
	if (epoch > n->epoch)
		fence(t, *e, role);
	/* Alone with it, and alive: whatever was said of freezing is over. */
	if (!n->holder || (t->hold[n->holder].proc == proc && !t->hold[n->holder].next_end))
		n->leaving = n->reason = 0;
	if (!hold(t, *e, role, proc))
		return GID_FULL;
	n->epoch = epoch;
	n->state = END_UP;
	n->expires = 0;
	return GID_OK;
}

enum gid_away gid_away(struct gidtab *t, struct gident *e, int role, uint32_t epoch, const struct place *at)
{
	struct end *n = &e->end[role];
	bool same = n->state == END_AWAY && n->epoch == epoch && !memcmp(&n->place, at, sizeof(*at));

	if (n->state != END_NONE && epoch < n->epoch)
		return AWAY_OLD;
	/* What is here with the same epoch stays: one of the two would be an echo. */
	if (epoch == n->epoch && (n->state == END_UP || n->state == END_FROZEN || n->state == END_PARKED))
		return AWAY_OLD;
	fence(t, e, role);
	n->state = END_AWAY;
	n->epoch = epoch;
	n->place = *at;
	n->expires = 0;
	t->may_expire = true;
	return same ? AWAY_SAME : AWAY_NEWS;
}

void gid_set(struct gidtab *t, struct gident *e, int role, enum end_state to, uint8_t reason, uint32_t now,
	     uint32_t lasts)
{
	struct end *n = &e->end[role];

	n->state = (uint8_t)to;
	n->reason = reason;
	n->expires = lasts ? now + lasts : 0;
	n->leaving = END_NONE;
	t->may_expire = true;
}

/* The last process has left. */
static void left(struct gidtab *t, struct gident *e, int role, uint32_t now)
{
	struct end *n = &e->end[role];
	enum end_state to = n->leaving ? (enum end_state)n->leaving : END_GONE;

	gid_set(t, e, role, to, n->reason ? n->reason : REASON_GONE, now,
		to == END_GONE ? GID_TOMB_S : to == END_FROZEN ? GID_FROZEN_S : 0);
	if (t->ops.left)
		t->ops.left(t->ops.arg, e, role);
}

/* Parked is more than frozen, frozen more than gone: one of several processes may just have died. */
static int weight(enum end_state s)
{
	return s == END_PARKED ? 3 : s == END_FROZEN ? 2 : s == END_GONE ? 1 : 0;
}

bool gid_release(struct gidtab *t, struct gident *e, int role, uint32_t proc, enum end_state to,
		 uint8_t reason, uint32_t now)
{
	uint32_t *p = find_hold(t, e, role, proc);
	struct end *n = &e->end[role];

	if (!*p)
		return false;
	unhold(t, p);
	if (weight(to) > weight(n->leaving)) {
		n->leaving = (uint8_t)to;
		n->reason = reason;
	}
	if (!n->holder)
		left(t, e, role, now);
	return true;
}

void gid_proc_gone(struct gidtab *t, uint32_t proc, uint32_t now)
{
	while (proc < t->procs && t->proc[proc]) {
		uint32_t where = t->hold[t->proc[proc]].entry;

		gid_release(t, &t->ent[where >> 1], (int)(where & 1), proc, END_GONE, REASON_GONE, now);
	}
}

void gid_proc_freezes(struct gidtab *t, uint32_t proc, bool yes)
{
	uint32_t i = proc < t->procs ? t->proc[proc] : 0;

	for (; i; i = t->hold[i].next) {
		struct end *n = &t->ent[t->hold[i].entry >> 1].end[t->hold[i].entry & 1];

		if (yes ? n->leaving != END_PARKED : n->leaving == END_FROZEN) {
			n->leaving = yes ? END_FROZEN : END_NONE;
			n->reason = yes ? REASON_FROZEN : REASON_NONE;
		}
	}
}

static bool living(const struct end *n)
{
	return n->state == END_UP || n->state == END_FROZEN || n->state == END_PARKED;
}

/* True: there may be something to do later. */
static bool expire_end(struct gidtab *t, struct gident *e, int role, uint32_t now)
{
	struct end *n = &e->end[role];

	if (n->state == END_AWAY && living(&e->end[!role])) {
		n->expires = 0;
		return false;
	}
	if (n->state == END_AWAY && !n->expires)
		n->expires = now + GID_TOMB_S;
	if (!n->expires || n->expires > now)
		return n->expires != 0;
	if (n->state == END_FROZEN || n->state == END_PARKED) {
		gid_set(t, e, role, END_GONE, REASON_GONE, now, GID_TOMB_S);
		if (t->ops.left)
			t->ops.left(t->ops.arg, e, role);
		return true;
	}
	n->state = END_NONE;
	n->expires = 0;
	return true;
}

void gid_expire(struct gidtab *t, uint32_t now)
{
	bool again = false;
	uint32_t i;

	if (!t->may_expire)
		return;
	for (i = 1; i < t->ent_n; i++) {
		struct gident *e = &t->ent[i];

		if (e->uid == UINT32_MAX)
			continue;
		again |= expire_end(t, e, 0, now);
		again |= expire_end(t, e, 1, now);
		if (e->end[0].state == END_NONE && e->end[1].state == END_NONE)
			forget(t, i);
	}
	t->may_expire = again;
}

void gid_each(struct gidtab *t, void (*fn)(void *arg, struct gident *e), void *arg)
{
	uint32_t i;

	for (i = 1; i < t->ent_n; i++)
		if (t->ent[i].uid != UINT32_MAX)
			fn(arg, &t->ent[i]);
}

uint32_t gid_count(const struct gidtab *t) { return t->count; }
uint32_t gid_ends(const struct gidtab *t) { return t->holds; }

uint32_t gid_user_count(struct gidtab *t, uint32_t uid)
{
	struct user *u = user(t, uid, false);

	return u ? u->count : 0;
}
