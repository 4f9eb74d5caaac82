/* See adapt.h. */
#include "adapt.h"
#include "agent.h"
#include "coding.h"
#include "conf.h"
#include "event.h"
#include "helper.h"
#include "link_tcp.h"
#include "log.h"
#include "path.h"
#include "sys.h"
#include "vring.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TICK_NS	UINT64_C(20000000)
#define IDLE_NS	UINT64_C(1000000000)	/* nothing sent for so long: not watched any more */
#define CPU_NS	UINT64_C(250000000)
#define OUT_NS	UINT64_C(10000000000)	/* neither direction has coded anything: the stage goes */
#define TELL_NS	UINT64_C(200000000)	/* ROAM_EVENT_BANDWIDTH: between two; and what makes it worth a word */
#define TELL_CONFIDENCE	50
#define SAMPLE	(16u << 10)		/* of the live bytes; guess.c looks at 4 KiB of it */

struct adapt {				/* the helper's */
	struct vsock *v;
	struct adapt *next;
	uint64_t ino;			/* of the link that the rate is of */
	struct rate rate;
	struct decide decide;
	struct rate_est est;
	uint64_t at, end, moved;	/* last tick; the stream's end then; when it last moved */
	uint64_t code_ns, coded_at;	/* of coding, then; when either direction coded last */
	uint64_t rx_gain;
	uint64_t told, told_at;		/* the rate that the program was told, and when */
	uint32_t busy, starved, ratio;	/* smoothed, percent; 1/1024, 0 not known */
};

static struct adapt *all;
static uint64_t due;
static struct codec_speed speed;	/* of this machine, below speed_lock, for which nobody waits */
static bool speed_known;
static shlock speed_lock;
static uint64_t cpu_at, cpu_ticks;
static uint8_t cpu_idle = 100;

/* What was seen so far; false: another thread is at it. */
static bool speed_take(void)
{
	if (shlock_take(&speed_lock, 0, false) != SHLOCK_OK)
		return false;
	if (!speed_known)
		decide_speed_init(&speed);
	speed_known = true;
	return true;
}

void adapt_saw(int level, size_t raw, uint64_t ns)
{
	if (!speed_take())
		return;
	decide_speed_saw(&speed, level, raw, ns);
	shlock_drop(&speed_lock);
}

int adapt_level(struct vsock *v, size_t n, uint64_t queued)
{
	struct vstate *st = atomic_load(&v->st);
	struct decide d = { .state = DECIDE_ON, .level = atomic_load(&st->code_level) };
	struct coding *c = coding_of(st);
	int level = d.level;

	if (conf()->codec == CONF_CODEC_ZLIB)
		return 1;
	if (!level || !speed_take())
		return level;
	level = decide_level(&d, &speed, atomic_load(&st->code_rate), c->guess.tried ? c->guess.tried : 512, n, queued);
	shlock_drop(&speed_lock);
	return level;
}

/* What coding makes, or would make, of the bytes: coded/raw in 1/1024, 0 not known. tx is held. */
static uint16_t ratio_of(struct vstate *st)
{
	uint64_t used = replay_used(&st->replay), back = used < SAMPLE ? used : SAMPLE;
	const uint8_t *p;
	size_t n;

	/* Stored blocks, those of a look at the link too, tell nothing. */
	if (atomic_load(&st->phase) & PH_CODED && atomic_load(&st->code_level))
		return (uint16_t)coding_of(st)->guess.all;
	if (!used)
		return 0;
	n = replay_at(&st->replay, (uint8_t *)st + REPLAY_AT, st->replay.end - back, &p);
	return n >= 256 ? (uint16_t)guess_sample(p, n) : 0;
}

void adapt_sent_slow(struct vsock *v)
{
	struct vstate *st = atomic_load(&v->st);
	uint16_t ratio;

	if (conf()->codec != CONF_CODEC_AUTO && !atomic_load(&event_subscribers))
		return;
	if (atomic_load(&st->code_ratio) == CODE_ASKED && (ratio = ratio_of(st)))
		atomic_store(&st->code_ratio, ratio);
	if (!atomic_exchange(&v->rated, true))
		helper_want(v, WANT_RATE);
}

void adapt_watch(struct vsock *v)
{
	struct adapt *a = calloc(1, sizeof(*a));

	if (!a)
		return;
	a->v = v;
	decide_init(&a->decide, sys_now_ns());
	/* It was watched before, and the link is coded still. */
	if (atomic_load(&atomic_load(&v->st)->phase) & PH_CODED)
		a->decide.state = atomic_load(&atomic_load(&v->st)->code_level) ? DECIDE_ON : DECIDE_STORED;
	a->decide.level = atomic_load(&atomic_load(&v->st)->code_level);
	a->moved = a->coded_at = sys_now_ns();
	a->next = all;
	all = a;
	due = a->moved;
}

static void drop(struct adapt **p)
{
	struct adapt *a = *p;

	*p = a->next;
	atomic_store(&a->v->rated, false);
	free(a);
}

void adapt_forget(struct vsock *v)
{
	struct adapt **p = &all;

	while (*p && (*p)->v != v)
		p = &(*p)->next;
	if (*p)
		drop(p);
}

void adapt_fork_child(void)
{
	all = NULL;		/* the parent's */
	due = 0;
}

/* How much of one CPU nobody uses. */
static void look_at_cpu(uint64_t now)
{
	unsigned long long user, nice, system, idle, wait;
	char buf[256];
	ssize_t n;
	int fd;

	if (now - cpu_at < CPU_NS)
		return;
	fd = sys_open_ro("/proc/stat");
	n = fd < 0 ? -1 : sys_read(fd, buf, sizeof(buf) - 1);
	if (fd >= 0)
		sys_close(fd);
	if (n <= 0)
		return;
	buf[n] = 0;
	if (sscanf(buf, "cpu %llu %llu %llu %llu %llu", &user, &nice, &system, &idle, &wait) != 5)
		return;
	idle += wait;
	if (cpu_at) {
		uint64_t percent = (idle - cpu_ticks) * UINT64_C(1000000000) / (now - cpu_at);	/* a tick is 10 ms */

		cpu_idle = percent > 100 ? 100 : (uint8_t)percent;
	}
	cpu_at = now;
	cpu_ticks = idle;
}

static uint32_t smooth(uint32_t was, uint32_t is)
{
	return (was * 3 + is) / 4;
}

/*
 * What the senders' side shows; false: one of them is at it. One that sleeps in the
 * kernel with tx held is asked, and answers at its next turn.
 */
static bool look_at_stream(struct adapt *a, struct vstate *st, uint64_t dt)
{
	bool coded = atomic_load(&st->phase) & PH_CODED, ours = shlock_take(&st->tx, 0, false) == SHLOCK_OK;
	bool looking = a->decide.exploring;
	uint64_t spent = coded ? atomic_load(&coding_of(st)->code_ns) : 0;
	uint32_t ratio;

	if (ours) {
		ratio = ratio_of(st);
		shlock_drop(&st->tx);
	} else {
		ratio = atomic_exchange(&st->code_ratio, CODE_ASKED);
		ratio = ratio == CODE_ASKED ? 0 : ratio;
	}
	if (ratio && !looking)
		a->ratio = coded || !a->ratio ? ratio : smooth(a->ratio, ratio);
	if (coded) {
		uint64_t share = spent < a->code_ns ? 0 : (spent - a->code_ns) * 100 / dt;

		a->starved = smooth(a->starved, share > 100 ? 100 : (uint32_t)share);
	} else {
		a->starved = 0;
	}
	a->code_ns = spent;
	return ours;
}

/* Is the other direction the better for it? */
static void look_at_other(struct adapt *a, struct vstate *st, uint64_t now)
{
	struct coding *c = coding_of(st);
	struct stage_dec *d = coding_dec(c);
	uint64_t gain;

	if (shlock_take(&st->rx, 0, false) != SHLOCK_OK)
		return;
	gain = d->off > d->wire ? d->off - d->wire : 0;
	shlock_drop(&st->rx);
	if (gain > a->rx_gain)
		a->coded_at = now;
	a->rx_gain = gain;
}

static void act(struct adapt *a, struct vstate *st, int fd, uint64_t now, const struct rate_est *link, bool changed)
{
	struct vsock *v = a->v;
	bool coded = atomic_load(&st->phase) & PH_CODED;
	char id[9];

	atomic_store(&st->code_rate, link->rate);
	atomic_store(&st->code_level, a->decide.state == DECIDE_ON ? a->decide.level : 0);
	if (changed) {
		vs_log_id(v, id);
		log_info("%s codec %s level=%d link=%llu kB/s ratio=%u%% gain=%u%%", id,
			 a->decide.state == DECIDE_ON ? "on" : a->decide.state == DECIDE_STORED ? "stored" : "off",
			 a->decide.level, (unsigned long long)link->rate / 1000, a->ratio * 100 / 1024, a->decide.gain);
	}
	if (!coded && a->decide.state == DECIDE_ON) {
		a->coded_at = now;
		coding_propose(v, fd);
	} else if (coded && a->decide.state == DECIDE_ON) {
		a->coded_at = now;
		atomic_store(&st->code_want, true);
	} else if (coded && a->decide.state == DECIDE_PLAIN && now - a->coded_at > OUT_NS) {
		atomic_store(&st->code_want, false);
		a->coded_at = now;
		coding_leave(v, fd);
	}
}

/* A program that wants to know. */
static void tell(struct adapt *a, const struct rate_est *r, uint64_t now)
{
	uint64_t less = a->told - a->told / 5, more = a->told + a->told / 4;

	if (r->at_least || r->confidence < TELL_CONFIDENCE || (a->told && r->rate > less && r->rate < more) ||
	    (a->told && now - a->told_at < TELL_NS))
		return;
	a->told = r->rate;
	a->told_at = now;
	event_say(a->v, ROAM_EVENT_BANDWIDTH, 0, r->rate);
}

/* True: it is still worth watching. */
static bool tick(struct adapt *a, uint64_t now)
{
	struct vsock *v = a->v;
	struct vstate *st = atomic_load(&v->st);
	uint64_t end, dt = now - a->at;
	struct decide_in in = { .now = now };
	struct rate_est host;
	struct rate_sample s = { 0 };
	bool ok, free_tx;
	int fd;

	if (!st || !vs_live_now(v) || atomic_load(&st->phase) & PH_NOREP)
		return false;
	if (vs_mending(v))
		return true;
	end = replay_end(&st->replay);
	free_tx = look_at_stream(a, st, dt ? dt : 1);
	if (end != a->end || !free_tx)
		a->moved = now;
	a->end = end;
	if (now - a->moved > IDLE_NS)
		return false;
	fd = helper_borrow(atomic_load(&v->fd));
	ok = fd >= 0 && sys_sock_ino(fd) == st->link_ino && link_sample(fd, &s) == 0;
	if (ok && a->ino != st->link_ino) {
		/* Another link of the same pair of hosts, most often: the estimate stays, its history does not. */
		rate_new_link(&a->rate);
		a->ino = st->link_ino;
	}
	if (ok && a->at) {
		bool coded = atomic_load(&st->phase) & PH_CODED;

		s.now = now;
		/* Blocks that wait above the kernel count, too. */
		if (coded && coding_left(st))
			s.notsent += 1;
		a->busy = smooth(a->busy, s.notsent || !free_tx ? 100 : 0);
		rate_passive(&a->rate, &s);
		if (coded)
			look_at_other(a, st, now);
		a->est = in.link = rate_now(&a->rate, now);
		agent_rate_saw(v, &a->est);
		tell(a, &a->est, now);
		if (agent_rate_of(v, &host))
			in.link = path_better(&a->est, &host);
		in.ratio = a->ratio ? a->ratio : 1024;
		in.busy = (uint8_t)a->busy;
		in.starved = s.notsent ? 0 : (uint8_t)a->starved;
		in.cpu = cpu_idle;
		if (conf()->codec == CONF_CODEC_AUTO && speed_take()) {
			bool changed = decide(&a->decide, &speed, &in);

			shlock_drop(&speed_lock);
			act(a, st, fd, now, &in.link, changed);
		}
	}
	helper_close(fd);
	a->at = now;
	return true;
}

void adapt_timers(uint64_t now, uint64_t *next)
{
	struct adapt **p = &all;

	if (!all)
		return;
	if (now >= due) {
		look_at_cpu(now);
		while (*p)
			if (tick(*p, now))
				p = &(*p)->next;
			else
				drop(p);
		due = now + TICK_NS;
	}
	if (all && (!*next || due < *next))
		*next = due;
}
