#include "port.h"
#include "agent.h"
#include "local.h"
#include "loop.h"
#include "reason.h"
#include "session.h"
#include "trains.h"
#include "util.h"
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define WAITING_MAX 256
#define PER_SOURCE 32
#define FIRST_NS (2 * SEC)

struct waiting {
	struct watch w;
	struct timer t;
	struct waiting *next;
	uint8_t family, addr[16];
	uint16_t n;
	bool held;		/* a REQ for an end whose process may come back soon */
	bool refused;		/* told why; read until the other side has closed */
	uint8_t buf[WIRE_MAX];
};

static struct watch listener;
static struct timer pause_timer;
static char congestion[17];	/* the host's own congestion control; "": the listener has it */
static struct waiting *list;
static uint32_t count;

/*
 * Trains are sent in bursts.  A control that paces (bbr) leaves that behind when
 * it is exchanged on a connection, so it must not be there at its beginning: the
 * listener gets another one, and all that is no train gets the host's again.
 */
static void no_pacing(int fd)
{
	socklen_t l = sizeof(congestion) - 1;

	if (getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, congestion, &l) < 0 ||
	    !strcmp(congestion, "reno") || !strcmp(congestion, "cubic") ||
	    setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4) < 0)
		congestion[0] = 0;
}

static void as_usual(int fd)
{
	if (congestion[0])
		setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, congestion, (socklen_t)strlen(congestion));
}

static void take_out(struct waiting *c)
{
	struct waiting **p = &list;

	while (*p != c)
		p = &(*p)->next;
	*p = c->next;
	count--;
	watch_del(&c->w);
	timer_stop(&c->t);
}

static void end(struct waiting *c)
{
	take_out(c);
	close(c->w.fd);
	free(c);
}

static void too_late(struct timer *t)
{
	struct waiting *c = container_of(t, struct waiting, t);

	if (!c->refused) {
		COUNT(refused_slow);
		say_seldom("%s: closed: no complete message within 2 s", where_text(c->family, c->addr, 0));
	}
	end(c);
}

/* Says why, and lets it arrive: a close with unread bytes would be a reset that overtakes it. */
static void refuse(struct waiting *c, uint64_t nonce, uint32_t reason)
{
	struct msg m = { .type = MSG_REFUSE, .nonce = nonce, .reason = reason };
	uint8_t buf[WIRE_MAX];
	size_t n = wire_encode(&m, NULL, buf);

	COUNT(reconnects_refused);
	if (send(c->w.fd, buf, n, MSG_NOSIGNAL | MSG_DONTWAIT) < (ssize_t)n) {
		end(c);
		return;
	}
	shutdown(c->w.fd, SHUT_WR);
	c->refused = true;
	c->held = false;
	watch_mod(&c->w, EPOLLIN);
	timer_at(&c->t, loop_now() + FIRST_NS, too_late);
}

static void not_back(struct timer *t)
{
	struct waiting *c = container_of(t, struct waiting, t);
	struct msg m;

	wire_decode(&m, NULL, c->buf, c->n);
	refuse(c, m.nonce, REASON_UNKNOWN);
}

static void hand_over(struct waiting *c, struct gident *e, int role)
{
	struct proc *p = local_proc(gid_holder(ag.gids, e, role));

	if (!p)
		return;
	COUNT(reconnects_passed);
	say_debug("move %s step 5 RECONNECT: passed to process %u", id_text(e->gid), p->pid);
	local_send_raw(p, c->buf, c->n, c->w.fd);
	end(c);
}

static uint32_t why_not(const struct end *n)
{
	switch (n ? n->state : END_NONE) {
	case END_FROZEN: return REASON_FROZEN;
	case END_PARKED: return REASON_PARKED;
	case END_GONE: COUNT(refused_gone); return REASON_GONE;
	}
	COUNT(refused_unknown);
	return REASON_UNKNOWN;	/* also an end that is elsewhere: ask again where */
}

static void reconnect(struct waiting *c, const struct msg *m)
{
	struct gident *e = gid_find(ag.gids, m->gid);
	int role = !role_of(m);
	struct end *n = e ? &e->end[role] : NULL;

	if (n && n->state == END_UP) {
		hand_over(c, e, role);
		return;
	}
	if ((!n || n->state == END_NONE) && loop_now() < ag.began_ns + SETTLE_NS) {
		c->held = true;
		watch_mod(&c->w, 0);
		timer_at(&c->t, ag.began_ns + SETTLE_NS, not_back);
		return;
	}
	refuse(c, m->nonce, why_not(n));
}

void port_end_here(struct gident *e, int role)
{
	struct waiting *c, *next;
	struct msg m;

	for (c = list; c; c = next) {
		next = c->next;
		if (!c->held || wire_decode(&m, NULL, c->buf, c->n) != WIRE_OK)
			continue;
		if (!memcmp(m.gid, e->gid, 16) && role == !role_of(&m))
			hand_over(c, e, role);
	}
}

static void first_message(struct waiting *c)
{
	struct msg m;
	enum wire_error err = wire_decode(&m, NULL, c->buf, c->n);
	int fd = c->w.fd;

	if (err != WIRE_OK || m.type != MSG_TRAIN)
		as_usual(fd);
	if (err == WIRE_OK && m.type == MSG_REQ) {
		reconnect(c, &m);
		return;
	}
	if (err == WIRE_OK && m.type == MSG_KX) {
		take_out(c);
		session_accepted(fd, c->buf);
		free(c);
		return;
	}
	if (err == WIRE_OK && m.type == MSG_TRAIN) {
		take_out(c);
		if (!trains_accepted(fd, c->buf, c->n)) {
			COUNT(refused_garbage);
			say_seldom("%s: closed: a train that nobody asked for", where_text(c->family, c->addr, 0));
			close(fd);
		}
		free(c);
		return;
	}
	COUNT(refused_garbage);
	say_seldom("%s: closed: %s", where_text(c->family, c->addr, 0),
		   err == WIRE_OK ? "it begins neither with KX nor with REQ" : wire_strerror(err));
	end(c);
}

/* How long is the message that begins with these 8 bytes? 0: it is none. */
static size_t length(const uint8_t *b)
{
	size_t n = b[6] | (size_t)b[7] << 8;

	return memcmp(b, "roam", 4) || n < 8 || n > WIRE_MAX || (b[5] != MSG_KX && b[5] != MSG_REQ && b[5] != MSG_TRAIN) ? 0 : n;
}

static void ready(struct watch *w, uint32_t events)
{
	(void)events;
	struct waiting *c = container_of(w, struct waiting, w);
	uint8_t junk[4096];
	size_t want;
	ssize_t r;

	if (c->held) {		/* only its end can be told here */
		end(c);
		return;
	}
	for (;;) {
		want = c->n < 8 ? 8 : length(c->buf);
		if (want && c->n == want && !c->refused) {
			first_message(c);
			return;
		}
		if (!want && !c->refused) {
			COUNT(refused_garbage);
			say_seldom("%s: closed: it does not speak roam", where_text(c->family, c->addr, 0));
			end(c);
			return;
		}
		r = recv(c->w.fd, c->refused ? junk : c->buf + c->n, c->refused ? sizeof(junk) : want - c->n,
			 MSG_DONTWAIT);
		if (r < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (r <= 0) {
			end(c);
			return;
		}
		if (!c->refused)
			c->n += (uint16_t)r;
	}
}

/* ---- accepting */

static uint32_t from(uint8_t family, const uint8_t *addr)
{
	struct waiting *c;
	uint32_t n = 0;

	for (c = list; c; c = c->next)
		n += addr_same(family, addr, c->family, c->addr);
	return n;
}

static void welcome(int fd)
{
	struct waiting *c = calloc(1, sizeof(*c));
	uint16_t port;

	if (!c || !sock_remote(fd, &c->family, c->addr, &port)) {
		free(c);
		close(fd);
		return;
	}
	if (count >= WAITING_MAX || from(c->family, c->addr) >= PER_SOURCE) {
		COUNT(refused_limit);
		say_seldom("%s: refused: %u connections are waiting for their first message (%d in all, %d of one "
			   "address may)", where_text(c->family, c->addr, 0), count, WAITING_MAX, PER_SOURCE);
		free(c);
		close(fd);
		return;
	}
	c->next = list;
	list = c;
	count++;
	timer_at(&c->t, loop_now() + FIRST_NS, too_late);
	if (!watch_add(&c->w, fd, EPOLLIN, ready)) {
		c->w.fd = fd;
		end(c);
	}
}

static void resume(struct timer *t)
{
	(void)t;
	watch_mod(&listener, EPOLLIN);
}

static void incoming(struct watch *w, uint32_t events)
{
	(void)events;
	int i, fd;

	for (i = 0; i < 16; i++) {
		fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0) {
			welcome(fd);
			continue;
		}
		if (errno == ECONNABORTED || errno == EINTR)
			continue;
		if (errno != EAGAIN) {
			say_seldom("port %u: cannot accept: %s; existing sessions go on (raise the limit of open "
				   "files)", ag.port, strerror(errno));
			watch_mod(w, 0);
			timer_at(&pause_timer, loop_now() + 100 * MS, resume);
		}
		return;
	}
}

static int bound(uint8_t family, const uint8_t addr[16])
{
	struct sockaddr_storage ss;
	socklen_t l = addr_to(family, addr, ag.conf.port, &ss);
	int fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1, zero = 0, e;

	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (family == 6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
	if (bind(fd, (struct sockaddr *)&ss, l) == 0 && listen(fd, 1024) == 0)
		return fd;
	e = errno;
	close(fd);
	errno = e;
	return -1;
}

bool port_start(void)
{
	static const uint8_t any[16];
	uint8_t family, addr[16];
	int fd;

	if (ag.conf.listen_family) {
		fd = bound(ag.conf.listen_family, ag.conf.listen_addr);
	} else {
		fd = bound(6, any);	/* takes IPv4 as well */
		if (fd < 0 && errno != EADDRINUSE)
			fd = bound(4, any);
	}
	if (fd >= 0 && ag.conf.probe)
		no_pacing(fd);
	if (fd < 0 || !sock_local(fd, &family, addr, &ag.port) || !watch_add(&listener, fd, EPOLLIN, incoming)) {
		say_error("port %u: cannot listen: %s (another roamd, or set [agent] port and listen)", ag.conf.port,
			  strerror(errno));
		return false;
	}
	return true;
}

void port_stop(void)
{
	timer_stop(&pause_timer);
	while (list)
		end(list);
	if (!listener.on)
		return;
	watch_del(&listener);
	close(listener.fd);
}
