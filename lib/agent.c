#include "agent.h"
#include "command.h"
#include "conf.h"
#include "log.h"
#include "meet.h"
#include "mend.h"
#include "park.h"
#include "sys.h"
#include "upgrade.h"
#include "vs_io.h"
#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#define MS UINT64_C(1000000)
#define RETRY_MIN (5u * MS)		/* an agent that restarts is back within this or a few of it */
#define RETRY_MAX (500u * MS)
#define RETRY_IDLE (5000u * MS)		/* nobody of ours depends on it */

static struct chan *chan;
static bool up, wanted;
static uint64_t due, backoff;
/* Ends are named anew to every agent that we connect to; its socket takes some 200 at a time. */
static uint32_t generation;
static bool own_left;

/*
 * What must arrive (NOTICE, RELEASE, OWN and whatever follows them, in order) waits
 * here while the agent's queue is full, or, about ended connections, while it is away.
 */
struct later { struct later *next; uint16_t n; uint8_t buf[WIRE_MAX]; };
static struct later *later, **later_end = &later;
static uint32_t nlater;
#define LATER_MAX 65536u

static bool keep(const struct msg *m, const uint8_t *key)
{
	struct later *l = nlater < LATER_MAX ? malloc(sizeof(*l)) : NULL;

	if (!l)
		return false;
	l->n = (uint16_t)wire_encode(m, key, l->buf);
	l->next = NULL;
	*later_end = l;
	later_end = &l->next;
	nlater++;
	return true;
}

/* True: nothing waits any more. */
static bool say_later(void)
{
	struct later *l;

	while (up && (l = later)) {
		if (sys_send_fds(chan->fd, l->buf, l->n, NULL, 0) < 0 && (errno == EAGAIN || errno == ENOBUFS))
			return false;
		later = l->next;
		if (!later)
			later_end = &later;
		nlater--;
		free(l);
	}
	return !later;
}

bool agent_up(void)
{
	return up;
}

void agent_want(void)
{
	if (wanted && (chan || due))
		return;
	wanted = true;
	if (!chan && !due)
		due = 1;
}

int agent_send(const struct msg *m, const uint8_t *key, int fd)
{
	if (!up)
		return -1;
	if (fd >= 0)
		return say_later() ? chan_send(chan, m, key, &fd, 1) : -1;
	if (say_later()) {
		if (chan_send(chan, m, key, NULL, 0) == 0)
			return 0;
		if (errno != EAGAIN && errno != ENOBUFS)
			return -1;
	}
	return keep(m, key) ? 0 : -1;
}

static struct msg about(struct vsock *v, uint8_t type)
{
	struct vstate *st = atomic_load(&v->st);
	struct msg m = { .type = type, .epoch = st->ho.epoch,
			 .flags = st->ho.role == HO_ACCEPTOR ? MSGF_ACCEPTOR : 0 };

	memcpy(m.gid, st->ho.gid, WIRE_GID);
	return m;
}

static struct msg own(struct vsock *v, bool moved)
{
	struct vstate *st = atomic_load(&v->st);
	struct msg m = about(v, MSG_OWN);

	m.flags |= moved ? MSGF_MOVED : 0;
	memcpy(m.host, st->where.host, 16);
	m.family = st->where.family;
	memcpy(m.addr, st->where.addr, 16);
	m.port = st->where.port;
	return m;
}

/* False: there is nothing to tell. */
static bool notice(struct vsock *v, struct msg *m)
{
	struct pair_side *me;

	if (!v->pair)
		return false;
	me = &v->pair->side[atomic_load(&v->st)->ho.role];
	*m = about(v, MSG_NOTICE);
	m->fin = atomic_load(&me->fin);
	if (atomic_load(&me->closed))
		m->flags |= MSGF_CLOSED;
	return m->fin < PAIR_FIN_SOON || m->flags & MSGF_CLOSED;
}

void agent_own(struct vsock *v, bool moved)
{
	struct vstate *st = atomic_load(&v->st);
	struct msg m;

	agent_want();
	if (!up || atomic_load(&st->phase) & PH_NOREP)
		return;
	m = own(v, moved);
	if (agent_send(&m, NULL, -1) < 0) {
		own_left = true;
		return;
	}
	v->owned = generation;
	if (vs_by_agents(st))
		agent_notice(v);
}

void agent_release(struct vsock *v, uint32_t reason)
{
	struct vstate *st = atomic_load(&v->st);
	struct msg m, o;

	m = about(v, MSG_RELEASE);
	m.reason = reason;
	if (up) {
		agent_send(&m, NULL, -1);
		return;
	}
	/* An agent that we hung up on (frozen) keeps its place for ever; one that restarts knows nothing. */
	o = own(v, st->moved);
	if (v->owned && keep(&o, NULL)) {
		if (vs_by_agents(st) && notice(v, &o))
			keep(&o, st->ho.key);
		keep(&m, NULL);
	}
}

void agent_notice(struct vsock *v)
{
	struct msg m;

	if (up && notice(v, &m))
		agent_send(&m, atomic_load(&v->st)->ho.key, -1);
}

static void own_rest(void)
{
	struct vsock *v;

	own_left = false;
	shlock_take(&vs_fds_lock, -1, false);
	for (v = vs_live_head; v && !own_left; v = v->live_next)
		if (v->owned != generation)
			agent_own(v, atomic_load(&v->st)->moved);
	shlock_drop(&vs_fds_lock);
}

static void on_msg(struct chan *c, const uint8_t *buf, size_t n, int *fds, int nfds)
{
	struct msg m;
	enum wire_error we = wire_decode(&m, NULL, buf, n);

	(void)c;
	if (we != WIRE_OK) {
		log_error("agent: %s", wire_strerror(we));
		return;
	}
	if (!up) {
		if (m.type != MSG_AGENT) {
			log_error("agent: %s instead of AGENT: refused (%s)", wire_name(m.type),
				  reason_text(m.reason));
			agent_hang_up();
			backoff = RETRY_IDLE;
			return;
		}
		up = true;
		backoff = 0;
		log_debug("agent: connected");
		generation++;
		own_rest();
		upgrade_offers_again();
		mend_agent_up();
		park_agent_up();
		return;
	}
	switch (m.type) {
	case MSG_HELLO:
		upgrade_hello_far(&m);
		break;
	case MSG_WELCOME:
		upgrade_answer_far(&m);
		break;
	case MSG_REFUSE:
		if (!upgrade_answer_far(&m))
			mend_refused(&m);
		break;
	case MSG_LOCATION:
		mend_location(&m);
		break;
	case MSG_RELEASE:
		mend_fenced(&m);
		break;
	case MSG_NOTICE:
		mend_notice(&m, buf, n);
		break;
	case MSG_REQ:
		mend_request_far(&m, buf, n, fds, nfds);
		break;
	case MSG_IMAGE:
		park_image(&m, fds, nfds);
		break;
	case MSG_REPORT:
		break;
	case MSG_RATE:
		hosts_told(&m, sys_now_ns());
		log_debug("agent: rate=%llu confidence=%u to host %02x%02x%02x%02x", (unsigned long long)m.rate,
			  m.confidence, m.host[0], m.host[1], m.host[2], m.host[3]);
		break;
	case MSG_COMMAND:
		command(&m);
		break;
	default:
		log_debug("agent: unexpected %s", wire_name(m.type));
	}
}

static void on_end(struct chan *c)
{
	(void)c;
	log_debug("agent: connection lost");
	chan = NULL;
	up = false;
	due = sys_now_ns() + RETRY_MIN;
}

void agent_hang_up(void)
{
	chan_close(chan);
	chan = NULL;
	up = false;
	due = wanted ? sys_now_ns() + RETRY_MIN : 0;
}

/* "a.NETNS" in the rendezvous directory, then in the system's. */
static int dial(void)
{
	const char *dir[2];
	int i, n = meet_dirs(dir), fd, e = ENOENT;

	for (i = 0; i < n; i++) {
		struct sockaddr_un a = { .sun_family = AF_UNIX };

		if (snprintf(a.sun_path, sizeof(a.sun_path), "%s/a.%llu", dir[i],
			     (unsigned long long)meet_netns()) >= (int)sizeof(a.sun_path))
			continue;
		fd = chan_connect(&a);
		if (fd >= 0)
			return fd;
		e = errno;
	}
	errno = e;
	return -1;
}

void agent_timers(uint64_t now, uint64_t *next)
{
	struct msg m = { .type = MSG_REGISTER };
	int fd;

	if (wanted && !chan && due && due <= now) {
		backoff = backoff ? backoff * 2 : RETRY_MIN;
		if (backoff > RETRY_MAX)
			backoff = atomic_load(&vs_remote_count) ? RETRY_MAX : RETRY_IDLE;
		due = now + backoff;
		fd = dial();
		chan = fd < 0 ? NULL : chan_open(fd, 0, NULL);
		if (fd >= 0 && !chan)
			helper_close(fd);
		if (chan) {
			due = 0;
			chan->on_msg = on_msg;
			chan->on_end = on_end;
			m.pid = (uint32_t)sys_getpid();
			m.start = helper_start_time();
			chan_send(chan, &m, NULL, NULL, 0);
		}
	}
	if (up && !say_later() && (!*next || *next > now + MS))
		*next = now + MS;
	if (up && own_left) {
		own_rest();
		if (own_left && (!*next || *next > now + MS))
			*next = now + MS;
	}
	/* The watch over links that carry something (far.c) wakes us often enough for this. */
	while (up && !later && hosts_report(now, &m))
		agent_send(&m, NULL, -1);
	if (due && wanted && !chan && (!*next || due < *next))
		*next = due;
}

void agent_fork_child(void)
{
	chan = NULL;		/* the parent's */
	later = NULL;
	later_end = &later;
	nlater = 0;
	up = wanted = own_left = false;
	due = backoff = 0;
	hosts_fork_child();
}

/* ---- the way to other hosts */

static const struct vstate *far_state(const struct vsock *v)
{
	const struct vstate *st = atomic_load(&v->st);

	return st && atomic_load(&st->remote) && st->where.family ? st : NULL;
}

bool agent_rate_of(const struct vsock *v, struct rate_est *e)
{
	const struct vstate *st = far_state(v);

	/* The helper may just be writing it: then no host has that id. */
	return st && hosts_rate(st->where.host, sys_now_ns(), e);
}

void agent_rate_saw(const struct vsock *v, const struct rate_est *e)
{
	const struct vstate *st = far_state(v);

	if (st)
		hosts_saw(st->where.host, st->ho.gid, st->ho.role == HO_ACCEPTOR, sys_now_ns(), e);
}

/* ---- what can be seen without a connection */

static bool in_net(const char *net, uint8_t family, const uint8_t addr[16])
{
	char text[64];
	uint8_t a[16];
	const char *slash = strchr(net, '/');
	size_t n = slash ? (size_t)(slash - net) : 0;
	int bits = slash ? atoi(slash + 1) : -1, i;

	if (!n || n >= sizeof(text) || bits < 0 || bits > (family == 4 ? 32 : 128))
		return false;
	memcpy(text, net, n);
	text[n] = 0;
	if (inet_pton(family == 4 ? AF_INET : AF_INET6, text, a) != 1)
		return false;
	for (i = 0; i < bits; i++)
		if ((a[i / 8] ^ addr[i / 8]) & (0x80 >> i % 8))
			return false;
	return true;
}

bool agent_knows(uint8_t family, const uint8_t addr[16])
{
	const char *dir[2];
	char path[160], to[1024], hex[33], *p, *save = NULL;
	int i, k, n = meet_dirs(dir);
	ssize_t len;

	for (k = 0; k < (family == 4 ? 4 : 16); k++)
		snprintf(hex + 2 * k, 3, "%02x", addr[k]);
	for (i = 0; i < n; i++) {
		unsigned long long ns = (unsigned long long)meet_netns();

		snprintf(path, sizeof(path), "%s/h.%llu.%s", dir[i], ns, hex);
		if (sys_readlink(path, to, sizeof(to)) > 0)
			return true;
		snprintf(path, sizeof(path), "%s/n.%llu", dir[i], ns);
		len = sys_readlink(path, to, sizeof(to) - 1);
		if (len <= 0)
			continue;
		to[len] = 0;
		for (p = strtok_r(to, " ", &save); p; p = strtok_r(NULL, " ", &save))
			if (in_net(p, family, addr))
				return true;
	}
	return false;
}
