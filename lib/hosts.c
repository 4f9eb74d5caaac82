#include "hosts.h"
#include <stdatomic.h>
#include <string.h>

#define MS 1000000ull

struct host {
	uint8_t id[16], gid[16];
	struct rate_est told, saw;	/* .age: when the evidence was new, by our clock */
	uint64_t used, reported;
	bool acceptor, due;
};

static struct host hosts[HOSTS_MAX];
static uint32_t nhosts;
static atomic_flag lock = ATOMIC_FLAG_INIT;

static bool take(void)
{
	return !atomic_flag_test_and_set_explicit(&lock, memory_order_acquire);
}

static void drop(void)
{
	atomic_flag_clear_explicit(&lock, memory_order_release);
}

void hosts_fork_child(void)
{
	drop();		/* another thread of the parent may have had it: at worst one host's figures are torn */
}

static struct host *find(const uint8_t id[16])
{
	uint32_t i = 0;

	while (i < nhosts && memcmp(hosts[i].id, id, 16))
		i++;
	return i < nhosts ? &hosts[i] : NULL;
}

static struct host *make(const uint8_t id[16], uint64_t now)
{
	struct host *h = find(id);
	uint32_t i;

	if (!h) {
		if (nhosts < HOSTS_MAX)
			nhosts++;
		h = &hosts[nhosts - 1];
		for (i = 0; i < nhosts; i++)
			if (hosts[i].used < h->used)
				h = &hosts[i];
		memset(h, 0, sizeof(*h));
		memcpy(h->id, id, 16);
	}
	h->used = now;
	return h;
}

void hosts_pack(struct msg *m, const struct rate_est *e)
{
	m->rate = e->rate;
	m->rtt_us = e->rtt_us;
	m->age_ms = e->age / MS < UINT32_MAX ? (uint32_t)(e->age / MS) : UINT32_MAX;
	m->confidence = e->confidence;
	m->flags |= (e->at_least ? MSGF_LEAST : 0) | (e->active ? MSGF_TRAIN : 0);
}

struct rate_est hosts_unpack(const struct msg *m)
{
	return (struct rate_est){ .rate = m->rate, .rtt_us = m->rtt_us, .age = m->age_ms * MS,
				  .confidence = m->confidence < 100 ? m->confidence : 100,
				  .at_least = m->flags & MSGF_LEAST, .active = m->flags & MSGF_TRAIN };
}

void hosts_told(const struct msg *m, uint64_t now)
{
	struct host *h;
	int i;

	for (i = 0; i < 1000; i++)	/* who has the lock has it for some 100 ns */
		if (take()) {
			h = make(m->host, now);
			h->told = hosts_unpack(m);
			h->told.age = now > h->told.age ? now - h->told.age : 0;
			drop();
			return;
		}
}

bool hosts_rate(const uint8_t host[16], uint64_t now, struct rate_est *e)
{
	struct host *h;

	memset(e, 0, sizeof(*e));
	if (!take())
		return false;
	h = find(host);
	if (h) {
		*e = h->told;
		h->used = now;
	}
	drop();
	e->age = now > e->age ? now - e->age : 0;
	return e->rate;
}

void hosts_saw(const uint8_t host[16], const uint8_t gid[16], bool acceptor, uint64_t now, const struct rate_est *e)
{
	struct host *h;

	if (!e->rate || !e->confidence || !take())
		return;
	h = make(host, now);
	/* One connection a second speaks for all: the one that measured, else the fastest. */
	if (!h->due || (h->saw.at_least && !e->at_least) ||
	    (h->saw.at_least == e->at_least && e->rate > h->saw.rate)) {
		h->saw = *e;
		h->saw.age = now > e->age ? now - e->age : 0;
		memcpy(h->gid, gid, 16);
		h->acceptor = acceptor;
		h->due = true;
	}
	drop();
}

bool hosts_report(uint64_t now, struct msg *m)
{
	bool found = false;
	struct rate_est e;
	uint32_t i;

	if (!take())
		return false;
	for (i = 0; i < nhosts && !found; i++) {
		struct host *h = &hosts[i];

		if (!h->due || (h->reported && now - h->reported < HOSTS_EVERY))
			continue;
		h->due = false;
		h->reported = now;
		*m = (struct msg){ .type = MSG_RATE, .flags = h->acceptor ? MSGF_ACCEPTOR : 0 };
		memcpy(m->gid, h->gid, 16);
		memcpy(m->host, h->id, 16);
		e = h->saw;
		e.age = now > e.age ? now - e.age : 0;
		hosts_pack(m, &e);
		found = true;
	}
	drop();
	return found;
}
