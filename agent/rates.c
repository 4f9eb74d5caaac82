#include "rates.h"
#include "agent.h"
#include "hosts.h"
#include "probe.h"
#include "util.h"
#include <string.h>

#define TOLD_NS SEC		/* the same to the same process */
#define FORWARD_NS SEC		/* to the other agent */

static struct msg rate_msg(const struct rate_est *e, const uint8_t host[16])
{
	struct msg m = { .type = MSG_RATE };

	memcpy(m.host, host, 16);
	hosts_pack(&m, e);
	return m;
}

static void tell(struct proc *p, const struct peer *to)
{
	struct rate_est e = path_now(&to->out, loop_now());
	struct msg m = rate_msg(&e, to->host);

	if (!e.rate || (p->rate_stamp == to->rate_stamp && !memcmp(p->rate_host, to->host, 16) &&
			loop_now() - p->rate_told < TOLD_NS))
		return;
	p->rate_stamp = to->rate_stamp;
	memcpy(p->rate_host, to->host, 16);
	p->rate_told = loop_now();
	local_send(p, &m, -1);
}

struct telling { const struct peer *to; };

static void tell_holder(void *arg, uint32_t id)
{
	struct telling *t = arg;
	struct proc *p = local_proc(id);

	if (p)
		tell(p, t->to);
}

static void tell_end(void *arg, struct gident *e)
{
	struct telling *t = arg;
	int r;

	for (r = 0; r < 2; r++)
		if (e->end[r].state == END_UP && e->end[!r].state == END_AWAY &&
		    !memcmp(e->end[!r].place.host, t->to->host, 16))
			gid_holders(ag.gids, e, r, tell_holder, t);
}

void rates_measured(struct peer *p, bool out, const struct train_seen *s, uint32_t rtt_us)
{
	struct telling t = { p };

	path_train(out ? &p->out : &p->in, loop_now(), s);
	path_rtt(&p->out, loop_now(), rtt_us);
	path_rtt(&p->in, loop_now(), rtt_us);
	if (!out)
		return;
	p->rate_stamp++;
	gid_each(ag.gids, tell_end, &t);
}

void rates_forget(struct peer *p)
{
	memset(&p->out, 0, sizeof(p->out));
	memset(&p->in, 0, sizeof(p->in));
	p->rate_stamp++;
}

/* ---- reports */

static void forward(struct peer *p, const struct rate_est *e)
{
	struct msg m = rate_msg(e, ag.host);

	if (!p->s || p->s->dead || !p->s->probes || loop_now() - p->rate_sent < FORWARD_NS)
		return;
	p->rate_sent = loop_now();
	session_send(p->s, &m);
}

void rates_report(struct proc *p, const struct msg *m)
{
	struct gident *e = gid_find(ag.gids, m->gid);
	struct rate_est est = hosts_unpack(m);
	int role = role_of(m);
	struct peer *to;

	/* Only of its own connections, and only where we know them to lead. */
	if (!e || !gid_holds(ag.gids, e, role, p->id) || e->end[!role].state != END_AWAY)
		return;
	to = peer_by_host(e->end[!role].place.host);
	if (!to)
		return;
	COUNT(rate_reports);
	est.active = false;
	path_passive(&to->out, loop_now(), &est);
	forward(to, &est);
}

void rates_remote(struct session *s, const struct msg *m)
{
	struct rate_est est = hosts_unpack(m);

	if (s->peer)
		path_passive(&s->peer->in, loop_now(), &est);
}

void rates_place(struct proc *p, const struct gident *e, int role)
{
	struct telling t = { NULL };
	struct peer *to;

	if (e->end[role].state != END_AWAY)
		return;
	to = peer_by_host(e->end[role].place.host);
	if (!to)
		return;
	probe_consider(to);
	t.to = to;
	if (p)
		tell(p, to);
	else
		gid_holders(ag.gids, e, !role, tell_holder, &t);
}

/* ---- for roamctl */

static void print_way(FILE *f, const struct peer *p, const char *host, const char *way, const struct path *path)
{
	struct rate_est e = path_now(path, loop_now());

	fprintf(f, "%s %s %u %s %llu %s %u %llu %s\n", host,
		p->s ? where_text(p->s->family, p->s->addr, 0) :
		p->nat ? where_text(p->at[0].family, p->at[0].addr, 0) : "-",
		e.rtt_us ? e.rtt_us : p->s ? p->s->rtt_us : 0, way, (unsigned long long)e.rate,
		!e.rate ? "-" : e.at_least ? "least" : "measured", e.confidence, (unsigned long long)(e.age / MS),
		!e.rate ? "-" : e.active ? "train" : "connections");
}

void rates_print(FILE *f, const struct peer *p)
{
	char host[33];

	if (!p->has_host || p->self)
		return;
	hex_text(host, p->host, 16);
	print_way(f, p, host, "to", &p->out);
	print_way(f, p, host, "from", &p->in);
}
