#include "command.h"
#include "agent.h"
#include "listing.h"
#include "markers.h"
#include "offer.h"
#include "parked.h"
#include "peer.h"
#include "query.h"
#include "rates.h"
#include "reason.h"
#include "util.h"
#include "ends.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LIST_MAX (256u << 20)	/* bytes of one answer */
#define JOBS_MAX 64

struct job {
	struct job *next;
	struct timer t;
	struct proc *ctl;
	uint64_t nonce, id;		/* roamctl's, ours */
	uint8_t op;
	uint32_t pid, reason;
	uint64_t count;
	uint32_t *wait, nwait;		/* processes that have not reported */
	uint8_t *data;
	size_t size;
};

static struct job *jobs;
static uint32_t njobs;

static void report(struct proc *ctl, const struct job *j, int fd)
{
	struct msg m = { .type = MSG_REPORT, .nonce = j->nonce, .pid = j->pid, .reason = j->reason,
			 .count = j->count };

	local_send(ctl, &m, fd);
}

/* The answer with what was collected, as a memfd. */
static void report_data(struct proc *ctl, struct job *j, const void *data, size_t n)
{
	int fd = memfd_with("roamd-report", data, n);

	if (fd < 0) {
		j->reason = REASON_MEMORY;
		j->count = 0;
	}
	report(ctl, j, fd);
	if (fd >= 0)
		close(fd);
}

static void drop(struct job *j)
{
	struct job **p = &jobs;

	while (*p != j)
		p = &(*p)->next;
	*p = j->next;
	njobs--;
	timer_stop(&j->t);
	free(j->wait);
	free(j->data);
	free(j);
}

static void finish(struct job *j)
{
	if (j->op == CMD_LIST)
		report_data(j->ctl, j, j->data, j->size);
	else
		report(j->ctl, j, -1);
	drop(j);
}

static void too_late(struct timer *t)
{
	struct job *j = container_of(t, struct job, t);

	/* A list without those who do not answer is a list; a freeze is all or nothing. */
	if (j->op != CMD_LIST)
		j->reason = REASON_TIMEOUT;
	say_info("%u processes did not answer roamctl in time", j->nwait);
	finish(j);
}

/* ---- text */

static void print_peer(void *arg, struct peer *p)
{
	char host[33] = "-";
	FILE *f = arg;

	if (p->has_host)
		hex_text(host, p->host, 16);
	fprintf(f, "%s %s %u %s %u%s%s\n", host,
		p->s ? where_text(p->s->family, p->s->addr, 0) :
		p->nat ? where_text(p->at[0].family, p->at[0].addr, 0) : "-",
		p->s ? p->s->port : p->nat ? p->at[0].port : 0, peer_state(p), p->s ? p->s->rtt_us : 0,
		p->error[0] ? " " : "", p->error);
}

static void print_rates(void *arg, struct peer *p)
{
	rates_print(arg, p);
}

static void print_stats(FILE *f)
{
	static const char *const names[] = {
#define STAT(name) #name,
#include "stats.def"
#undef STAT
	};
	uint32_t i;

	fprintf(f, "uptime_s %llu\n", (unsigned long long)((loop_now() - ag.began_ns) / SEC));
	fprintf(f, "processes %u\nconnections %u\nends %u\nsessions %u\n", local_count(), gid_count(ag.gids),
		gid_ends(ag.gids), peer_session_count());
	fprintf(f, "offers_open %u\nqueries_open %u\nparked %u\nparked_bytes %llu\n", offer_count(), query_count(),
		parked_count(), (unsigned long long)parked_bytes());
	for (i = 0; i < STAT_COUNT; i++)
		fprintf(f, "%s %llu\n", names[i], (unsigned long long)ag.stat[i]);
}

static void answer_text(struct proc *ctl, struct job *j)
{
	char *text = NULL;
	size_t n = 0;
	FILE *f = open_memstream(&text, &n);

	if (f) {
		if (j->op == CMD_PEERS)
			peer_each(print_peer, f);
		else if (j->op == CMD_HOSTS)
			peer_each(print_rates, f);
		else
			print_stats(f);
		fclose(f);
	}
	report_data(ctl, j, text ? text : "", n);
	free(text);
}

/* ---- to the processes */

struct choice { struct job *j; const struct proc *ctl; uint32_t cap; };

static void choose(void *arg, struct proc *p)
{
	struct choice *c = arg;
	struct job *j = c->j;
	uint32_t *w;

	if ((j->pid && p->pid != j->pid) || (c->ctl->uid && c->ctl->uid != geteuid() && c->ctl->uid != p->uid))
		return;
	if (j->nwait == c->cap) {
		c->cap = c->cap ? 2 * c->cap : 16;
		w = realloc(j->wait, c->cap * sizeof(*w));
		if (!w) {
			c->cap = j->nwait;
			return;
		}
		j->wait = w;
	}
	j->wait[j->nwait++] = p->id;
}

static void forward(struct proc *ctl, const struct msg *m)
{
	struct msg cmd = { .type = MSG_COMMAND, .nonce = random64(), .op = m->op, .pid = m->pid };
	struct job *j = njobs < JOBS_MAX ? calloc(1, sizeof(*j)) : NULL;
	struct choice c = { j, ctl, 0 };
	uint32_t i;

	if (!j) {
		local_refuse(ctl, m->nonce, REASON_MEMORY);
		return;
	}
	j->ctl = ctl;
	j->nonce = m->nonce;
	j->id = cmd.nonce;
	j->op = m->op;
	j->pid = m->pid;
	j->next = jobs;
	jobs = j;
	njobs++;
	local_each(choose, &c);
	for (i = 0; i < j->nwait; i++)
		local_send(local_proc(j->wait[i]), &cmd, -1);
	if (j->nwait) {
		timer_at(&j->t, loop_now() + (m->op == CMD_LIST ? 2 : 30) * SEC, too_late);
		return;
	}
	if (m->pid)
		j->reason = pid_start(m->pid) ? REASON_NOPEER : REASON_GONE;
	finish(j);
}

static uint32_t uid_of(uint32_t pid)
{
	struct stat st;
	char path[40];

	snprintf(path, sizeof(path), "/proc/%u", pid);
	return stat(path, &st) < 0 ? UINT32_MAX : st.st_uid;
}

/* A frozen process is not connected; its file is the switch. */
static void thaw(struct proc *ctl, const struct msg *m, struct job *j)
{
	if (local_by_pid(m->pid, NULL)) {
		forward(ctl, m);
		return;
	}
	j->reason = marker_thaw(m->pid) ? 0 : REASON_UNKNOWN;
	report(ctl, j, -1);
}

static bool may(const struct proc *ctl, const struct msg *m)
{
	if (ctl->uid == 0 || ctl->uid == geteuid())
		return true;
	if (m->op == CMD_PEERS || m->op == CMD_STATS || m->op == CMD_HOSTS)
		return false;
	/* A list of all is a list of the user's own. */
	return m->pid ? uid_of(m->pid) == ctl->uid : m->op == CMD_LIST;
}

void command_ask(struct proc *ctl, const struct msg *m)
{
	struct job j = { .nonce = m->nonce, .op = m->op, .pid = m->pid };

	if (!may(ctl, m)) {
		COUNT(refused_uid);
		local_refuse(ctl, m->nonce, REASON_DENIED);
		return;
	}
	switch (m->op) {
	case CMD_PEERS:
	case CMD_STATS:
	case CMD_HOSTS:
		answer_text(ctl, &j);
		return;
	case CMD_LIST:
	case CMD_FREEZE:
	case CMD_PARK:
		forward(ctl, m);
		return;
	case CMD_THAW:
		thaw(ctl, m, &j);
		return;
	}
	local_refuse(ctl, m->nonce, REASON_VERSION);
}

/* ---- the answers */

static bool waits_for(struct job *j, uint32_t id)
{
	uint32_t i;

	for (i = 0; i < j->nwait; i++)
		if (j->wait[i] == id) {
			j->wait[i] = j->wait[--j->nwait];
			return true;
		}
	return false;
}

/* The process may write to its memfd at any time: copied first, looked at by roamctl. */
static void add_records(struct job *j, const struct proc *p, uint64_t count, int fd)
{
	size_t have = fd >= 0 ? memfd_size(fd) : 0, n, i;
	uint8_t *d;

	if (!count)
		return;
	if (count > have / sizeof(struct listing) || j->size + count * sizeof(struct listing) > LIST_MAX) {
		COUNT(refused_garbage);
		say_seldom("process %u: its list is not a sealed memfd of the size it says: left out", p->pid);
		return;
	}
	n = count * sizeof(struct listing);
	d = realloc(j->data, j->size + n);
	if (!d)
		return;
	j->data = d;
	if (pread(fd, d + j->size, n, 0) != (ssize_t)n)
		return;
	for (i = 0; i < count; i++)	/* whose it is says the kernel, not the process */
		memcpy(d + j->size + i * sizeof(struct listing) + offsetof(struct listing, pid), &p->pid,
		       sizeof(uint32_t));
	j->size += n;
	j->count += count;
}

void command_report(struct proc *p, const struct msg *m, int fd)
{
	struct job *j = jobs;

	while (j && j->id != m->nonce)
		j = j->next;
	if (!j || !waits_for(j, p->id))
		return;
	if (j->op == CMD_LIST)
		add_records(j, p, m->count, fd);
	else
		j->count += m->count;
	if (m->reason && !j->reason)
		j->reason = m->reason;
	if ((j->op == CMD_FREEZE || j->op == CMD_THAW) && !m->reason)
		gid_proc_freezes(ag.gids, p->id, j->op == CMD_FREEZE);
	if (!j->nwait)
		finish(j);
}

void command_proc_gone(struct proc *p)
{
	struct job *j, *next;

	for (j = jobs; j; j = next) {
		next = j->next;
		if (!waits_for(j, p->id))
			continue;
		if (j->op != CMD_LIST && !j->reason)
			j->reason = REASON_GONE;
		if (!j->nwait)
			finish(j);
	}
}

void command_gone(struct proc *ctl)
{
	struct job *j, *next;

	for (j = jobs; j; j = next) {
		next = j->next;
		if (j->ctl == ctl)
			drop(j);
	}
}
