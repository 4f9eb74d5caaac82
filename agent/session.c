#include "session.h"
#include "agent.h"
#include "peer.h"
#include "util.h"
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define OUT_MAX (64u << 20)	/* more than this unsent: the session has failed */
#define OUT_LOW (256u << 10)

static struct session *all;

void session_place(const struct session *s, struct place *at)
{
	memset(at, 0, sizeof(*at));
	memcpy(at->host, s->host, 16);
	memcpy(at->addr, s->addr, 16);
	at->family = s->family;
	at->port = s->port;
}

bool session_has_addr(const struct session *s, uint8_t family, const uint8_t addr[16])
{
	uint32_t i;

	for (i = 0; i < s->naddrs; i++)
		if (addr_same(family, addr, s->addrs[i].family, s->addrs[i].addr))
			return true;
	return addr_same(family, addr, s->family, s->addr);
}

/* ---- its end */

static void reap(struct timer *t)
{
	struct session *s = container_of(t, struct session, t), **p = &all;

	while (*p != s)
		p = &(*p)->next;
	*p = s->next;
	timer_stop(&s->t);
	secure_wipe(&s->sec);
	free(s->in);
	free(s->out);
	free(s);
}

void session_kill(struct session *s, const char *why)
{
	if (s->dead)
		return;
	s->dead = true;
	watch_del(&s->w);
	close(s->w.fd);
	timer_at(&s->t, loop_now(), reap);
	peer_session_end(s, why);
}

void session_free_all(void)
{
	while (all) {
		session_kill(all, NULL);
		reap(&all->t);
	}
}

static void too_late(struct timer *t)
{
	struct session *s = container_of(t, struct session, t);

	session_kill(s, s->state == S_CONNECTING ? "no connection within 5 s" :
			"no key exchange within 2 s (is that a roamd?)");
}

static void retired(struct timer *t)
{
	session_kill(container_of(t, struct session, t), NULL);
}

void session_retire(struct session *s)
{
	s->retired = true;
	s->peer = NULL;
	timer_at(&s->t, loop_now() + SEC, retired);
}

/* ---- out */

static void flush(struct session *s)
{
	bool was = s->out_n > OUT_LOW;
	ssize_t r;

	while (s->out_n) {
		r = send(s->w.fd, s->out + s->out_at, s->out_n, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (r < 0 && (errno == EAGAIN || errno == EINTR || errno == ENOBUFS))
			break;
		if (r < 0) {
			session_kill(s, strerror(errno));
			return;
		}
		ag.stat[STAT_bytes_out] += (uint64_t)r;
		s->out_at += (uint32_t)r;
		s->out_n -= (uint32_t)r;
	}
	if (!s->out_n) {
		s->out_at = 0;
		if (s->out_cap > OUT_LOW) {	/* a burst's memory is not kept */
			free(s->out);
			s->out = NULL;
			s->out_cap = 0;
		}
	}
	watch_mod(&s->w, EPOLLIN | (s->out_n || s->state == S_CONNECTING ? EPOLLOUT : 0u));
	if (was && s->out_n <= OUT_LOW && s->state == S_PROVEN)
		peer_drained(s);
}

/* Room for n more bytes; NULL: the session is dead. */
static uint8_t *room(struct session *s, size_t n)
{
	size_t need = s->out_n + n, c = s->out_cap ? s->out_cap : 4096;
	uint8_t *b;

	if (s->out_at && s->out_at + need > s->out_cap) {
		memmove(s->out, s->out + s->out_at, s->out_n);
		s->out_at = 0;
	}
	while (c < need)
		c *= 2;
	b = need > OUT_MAX ? NULL : c == s->out_cap ? s->out : realloc(s->out, c);
	if (!b) {
		session_kill(s, "the other agent does not read, or memory ran out");
		return NULL;
	}
	s->out = b;
	s->out_cap = (uint32_t)c;
	return b + s->out_at + s->out_n;
}

static void send_plain(struct session *s, const uint8_t *buf, size_t n)
{
	uint8_t *b = room(s, n);

	if (!b)
		return;
	memcpy(b, buf, n);
	s->out_n += (uint32_t)n;
	flush(s);
}

void session_send_raw(struct session *s, const uint8_t *buf, size_t n, const uint8_t *more, size_t nmore)
{
	static uint8_t text[FRAME_TEXT];
	size_t len;
	uint8_t *b;

	if (s->dead || s->state < S_HEAD || n + nmore > sizeof(text))
		return;
	memcpy(text, buf, n);
	if (nmore)
		memcpy(text + n, more, nmore);
	b = room(s, n + nmore + 19);
	if (!b)
		return;
	len = secure_seal(&s->sec, text, n + nmore, b);
	if (!len) {
		session_kill(s, "encryption failed");
		return;
	}
	s->out_n += (uint32_t)len;
	/* In the next round, with what else this one brings. */
	watch_mod(&s->w, EPOLLIN | EPOLLOUT);
}

void session_send(struct session *s, const struct msg *m)
{
	uint8_t buf[WIRE_MAX];

	session_send_raw(s, buf, wire_encode(m, NULL, buf), NULL, 0);
}

uint32_t session_backlog(const struct session *s)
{
	return s->out_n;
}

/* ---- in */

void session_addr(struct session *s, const struct msg *m)
{
	uint32_t i = 0;

	if (m->flags & MSGF_PROBES)
		s->probes = true;
	while (i < s->naddrs && !addr_same(m->family, m->addr, s->addrs[i].family, s->addrs[i].addr))
		i++;
	if (m->flags & MSGF_GONE) {
		if (i < s->naddrs)
			s->addrs[i] = s->addrs[--s->naddrs];
	} else if (i == s->naddrs && i < SESSION_ADDRS) {
		s->addrs[i].family = m->family;
		memcpy(s->addrs[i].addr, m->addr, 16);
		s->naddrs++;
	}
}

/* One frame's text. */
static void message(struct session *s, const uint8_t *text, size_t n)
{
	struct msg m;
	size_t len = n >= 8 ? (size_t)text[6] | (size_t)text[7] << 8 : n;

	if (len > n || (len < n && text[5] != MSG_CHUNK))
		len = n;	/* wire_decode says what is wrong */
	if (wire_decode(&m, NULL, text, len) != WIRE_OK) {
		COUNT(refused_garbage);
		session_kill(s, "it sent something that is no message (another version of roamd?)");
		return;
	}
	if (s->state != S_PROVEN) {
		s->state = S_PROVEN;
		s->proven = loop_now();
		timer_stop(&s->t);
		peer_proven(s);
		if (s->dead)
			return;
	}
	s->heard = loop_now();
	s->unanswered = 0;
	s->asked = 0;
	switch (m.type) {
	case MSG_PING:
		m.type = MSG_PONG;
		session_send(s, &m);
		return;
	case MSG_PONG:
		session_pong(s, &m);
		return;
	case MSG_ADDR:
		if (m.family != 4 && m.family != 6)
			return;
		break;
	}
	peer_message(s, &m, text, len, text + len, n - len);
}

static void hello(struct session *s)
{
	struct msg m = { .type = MSG_PING, .nonce = random64() };
	const struct haddr *a;
	uint32_t n, i;

	/* Something at once: the other side believes in the session when a frame opens. */
	s->ping_nonce = m.nonce;
	s->ping_sent = loop_now();
	session_send(s, &m);
	a = netmon_addrs(&n);
	for (i = 0; i < n && !s->dead; i++) {
		m = (struct msg){ .type = MSG_ADDR, .family = a[i].family, .flags = MSGF_PROBES };
		memcpy(m.addr, a[i].addr, 16);
		session_send(s, &m);
	}
}

/* ours: our KX, if it is not out yet. Who does not know the cluster key does not get it. */
static bool take_kx(struct session *s, const uint8_t *kx, const uint8_t *ours)
{
	uint8_t head[STREAM_HEAD];
	struct msg peer;
	enum wire_error e = secure_kx(&s->sec, kx, KX_LEN, &peer, head);

	if (e == WIRE_FORGED) {
		COUNT(refused_forged_kx);
		say_seldom("%s: refused: its cluster key is another one (copy the key file, or it is no agent of "
			   "this cluster)", where_text(s->family, s->addr, 0));
		session_kill(s, "another cluster key");
		return false;
	}
	if (e != WIRE_OK) {
		COUNT(refused_garbage);
		session_kill(s, wire_strerror(e));
		return false;
	}
	memcpy(s->host, peer.host, 16);
	s->port = peer.port;
	s->state = S_HEAD;
	if (!memcmp(s->host, ag.host, 16)) {
		if (s->peer)
			s->peer->self = true;
		session_kill(s, "it has our own host id: this agent itself, or a copied host (set [agent] host-id)");
		return false;
	}
	if (ours)
		send_plain(s, ours, KX_LEN);
	if (!s->dead)
		send_plain(s, head, sizeof(head));
	if (!s->dead)
		hello(s);
	return !s->dead;
}

/* Takes one piece from the front of the input; its length, 0: not yet. */
static uint32_t piece(struct session *s, const uint8_t *p, uint32_t n)
{
	static uint8_t text[FRAME_TEXT];
	size_t len;
	long r;

	if (s->state == S_KX)
		return n < KX_LEN || !take_kx(s, p, NULL) ? 0 : KX_LEN;
	if (s->state == S_HEAD && !s->sec.rx_started) {
		if (n < STREAM_HEAD)
			return 0;
		if (!secure_head(&s->sec, p)) {
			session_kill(s, "an unusable stream header");
			return 0;
		}
		return STREAM_HEAD;
	}
	if (n < 2)
		return 0;
	len = secure_frame_len(p);
	if (len && n < len)
		return 0;
	r = len ? secure_open(&s->sec, p, len, text) : -1;
	if (r < 0) {
		COUNT(refused_garbage);
		session_kill(s, "a frame does not open (changed on the way, or a recorded key exchange)");
		return 0;
	}
	message(s, text, (size_t)r);
	return (uint32_t)len;
}

static void input(struct session *s)
{
	uint32_t at, n, rounds;
	ssize_t r;

	for (rounds = 0; rounds < 8 && !s->dead; rounds++) {
		r = recv(s->w.fd, s->in + s->in_n, FRAME_MAX - s->in_n, MSG_DONTWAIT);
		if (r < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (r <= 0) {
			session_kill(s, r ? strerror(errno) : s->state == S_PROVEN ? "the other agent closed it" :
				     "closed during the key exchange (another cluster key there?)");
			return;
		}
		ag.stat[STAT_bytes_in] += (uint64_t)r;
		s->in_n += (uint32_t)r;
		for (at = 0; !s->dead; at += n) {
			n = piece(s, s->in + at, s->in_n - at);
			if (!n)
				break;
		}
		if (s->dead)
			return;
		s->in_n -= at;
		memmove(s->in, s->in + at, s->in_n);
	}
}

/* ---- its beginning */

static void tune(int fd)
{
	int one = 1, idle = 15, ms = 5000;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof(ms));
}

static void connected(struct session *s)
{
	uint8_t kx[KX_LEN];
	uint16_t port;
	socklen_t l = sizeof(int);
	int e = 0;

	if (getsockopt(s->w.fd, SOL_SOCKET, SO_ERROR, &e, &l) < 0 || e) {
		session_kill(s, strerror(e ? e : errno));
		return;
	}
	sock_local(s->w.fd, &s->self_family, s->self, &port);
	s->state = S_KX;
	secure_begin(&s->sec, true, ag.key, ag.host, ag.port, kx);
	timer_at(&s->t, loop_now() + 2 * SEC, too_late);
	send_plain(s, kx, sizeof(kx));
}

static void ready(struct watch *w, uint32_t events)
{
	struct session *s = container_of(w, struct session, w);

	if (s->state == S_CONNECTING) {
		connected(s);
		return;
	}
	if (events & EPOLLOUT)
		flush(s);
	if (!s->dead && events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		input(s);
}

static struct session *make(int fd, uint32_t events)
{
	struct session *s = calloc(1, sizeof(*s));

	if (s)
		s->in = malloc(FRAME_MAX);
	if (!s || !s->in || !watch_add(&s->w, fd, events, ready)) {
		if (s)
			free(s->in);
		free(s);
		return NULL;
	}
	s->began = s->heard = loop_now();
	s->next = all;
	all = s;
	return s;
}

struct session *session_dial(struct peer *p, uint8_t family, const uint8_t addr[16], uint16_t port, int *err)
{
	struct sockaddr_storage ss;
	socklen_t l = addr_to(family, addr, port, &ss);
	struct session *s;
	int fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	COUNT(dials);
	if (fd < 0) {
		*err = errno;
		return NULL;
	}
	tune(fd);
	if (connect(fd, (struct sockaddr *)&ss, l) < 0 && errno != EINPROGRESS) {
		*err = errno;
		close(fd);
		return NULL;
	}
	s = make(fd, EPOLLOUT);
	if (!s) {
		*err = ENOMEM;
		close(fd);
		return NULL;
	}
	s->peer = p;
	s->family = family;
	memcpy(s->addr, addr, 16);
	s->port = port;
	timer_at(&s->t, loop_now() + 5 * SEC, too_late);
	return s;
}

void session_accepted(int fd, const uint8_t kx[KX_LEN])
{
	struct session *s = make(fd, EPOLLIN);
	uint8_t ours[KX_LEN];
	uint16_t port;

	if (!s) {
		close(fd);
		return;
	}
	tune(fd);
	sock_remote(fd, &s->family, s->addr, &port);
	sock_local(fd, &s->self_family, s->self, &port);
	s->state = S_KX;
	timer_at(&s->t, loop_now() + 2 * SEC, too_late);
	secure_begin(&s->sec, false, ag.key, ag.host, ag.port, ours);
	take_kx(s, kx, ours);
}
