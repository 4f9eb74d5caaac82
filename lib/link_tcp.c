#include "link_tcp.h"
#include "rate.h"
#include "sys.h"
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <linux/tcp.h>
#include <string.h>

static int info(int fd, struct tcp_info *ti)
{
	socklen_t l = sizeof(*ti);

	memset(ti, 0, sizeof(*ti));
	return sys_getsockopt(fd, IPPROTO_TCP, TCP_INFO, ti, &l);
}

int link_count(int fd, bool syn, struct link_count *c)
{
	struct tcp_info a, b;
	int out, in, tries, snd;
	socklen_t l = sizeof(snd);

	/* Two calls that must speak of the same moment: repeat until they do. */
	for (tries = 0; tries < 100; tries++) {
		if (info(fd, &a) < 0)
			return -1;
		out = sys_outq(fd);
		in = sys_inq(fd);
		if (out < 0 || in < 0 || info(fd, &b) < 0)
			return -1;
		if (a.tcpi_bytes_acked == b.tcpi_bytes_acked &&
		    a.tcpi_bytes_received == b.tcpi_bytes_received)
			break;
	}
	if (sys_getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &snd, &l) < 0)
		return -1;
	c->acked = b.tcpi_bytes_acked - (b.tcpi_bytes_acked ? syn : 0);
	c->sent = c->acked + (uint64_t)out;
	c->unread = (uint64_t)in;
	c->received = b.tcpi_bytes_received - (uint64_t)in;
	c->sndbuf = (uint64_t)snd;
	c->state = b.tcpi_state;
	return 0;
}

int link_sample(int fd, struct rate_sample *s)
{
	struct tcp_info ti;

	if (info(fd, &ti) < 0)
		return -1;
	s->acked = ti.tcpi_bytes_acked;
	s->delivery = ti.tcpi_delivery_rate;
	s->notsent = ti.tcpi_notsent_bytes;
	s->rwnd_us = ti.tcpi_rwnd_limited;
	s->rtt_us = ti.tcpi_rtt;
	s->min_rtt_us = ti.tcpi_min_rtt;
	s->app_limited = ti.tcpi_delivery_rate_app_limited;
	return 0;
}

int link_silence(int fd, struct link_silence *s)
{
	struct tcp_info ti;

	if (info(fd, &ti) < 0)
		return -1;
	s->unacked = ti.tcpi_unacked;
	/*
	 * With nothing in flight it may be the peer's program that does not read: probes
	 * of a closed window grow the backoff also when each is answered.
	 */
	s->retransmits = !ti.tcpi_unacked ? ti.tcpi_probes :
		ti.tcpi_retransmits > ti.tcpi_backoff ? ti.tcpi_retransmits : ti.tcpi_backoff;
	s->state = ti.tcpi_state;
	s->quiet_ms = ti.tcpi_last_ack_recv;
	s->rtt_ms = ti.tcpi_rtt / 1000;
	return 0;
}

bool link_addr_here(int fd)
{
	struct sockaddr_storage ss;
	socklen_t l = sizeof(ss);
	int probe, r;

	if (sys_getsockname(fd, (struct sockaddr *)&ss, &l) < 0)
		return false;
	((struct sockaddr_in *)&ss)->sin_port = 0;	/* the same place in both families */
	probe = sys_socket(ss.ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (probe < 0)
		return true;
	r = sys_bind(probe, (struct sockaddr *)&ss, l);
	sys_close(probe);
	return r == 0 || errno != EADDRNOTAVAIL;
}

bool link_dead(int fd)
{
	struct tcp_info ti;

	return info(fd, &ti) < 0 || ti.tcpi_state == LINK_CLOSED;
}

static socklen_t loopback(struct sockaddr_storage *ss, int family, uint16_t port)
{
	memset(ss, 0, sizeof(*ss));
	if (family == 4) {
		struct sockaddr_in *a = (struct sockaddr_in *)ss;

		a->sin_family = AF_INET;
		a->sin_port = port;
		a->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		return sizeof(*a);
	} else {
		/* Mapped, so that a v6 and a v4 socket can meet. */
		struct sockaddr_in6 *a = (struct sockaddr_in6 *)ss;
		static const uint8_t v4[16] = { [10] = 255, 255, 127, 0, 0, 1 };

		a->sin6_family = AF_INET6;
		a->sin6_port = port;
		memcpy(&a->sin6_addr, v4, 16);
		return sizeof(*a);
	}
}

socklen_t link_sockaddr(struct sockaddr_storage *ss, int family, const uint8_t addr[16], uint16_t port)
{
	memset(ss, 0, sizeof(*ss));
	if (family == 4) {
		struct sockaddr_in *a = (struct sockaddr_in *)ss;

		a->sin_family = AF_INET;
		a->sin_port = htons(port);
		memcpy(&a->sin_addr, addr, 4);
		return sizeof(*a);
	} else {
		struct sockaddr_in6 *a = (struct sockaddr_in6 *)ss;

		a->sin6_family = AF_INET6;
		a->sin6_port = htons(port);
		memcpy(&a->sin6_addr, addr, 16);
		return sizeof(*a);
	}
}

static uint16_t port_of(int fd, bool peer)
{
	struct sockaddr_storage ss;
	socklen_t l = sizeof(ss);

	if ((peer ? sys_getpeername : sys_getsockname)(fd, (struct sockaddr *)&ss, &l) < 0)
		return 0;
	/* Same place in both families. */
	return ((struct sockaddr_in *)&ss)->sin_port;
}

int link_open(int family)
{
	return sys_socket(family == 6 ? AF_INET6 : AF_INET,
			  SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

int link_pair(const int family[2], int fd[2])
{
	struct sockaddr_storage ss;
	socklen_t len;
	int l = link_open(family[1]), c = -1, s = -1, tries, e, zero = 0;

	if (l < 0)
		return -1;
	if (family[1] == 6)
		sys_setsockopt(l, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
	len = loopback(&ss, family[1], 0);
	if (sys_bind(l, (struct sockaddr *)&ss, len) < 0 || sys_listen(l, 1) < 0)
		goto fail;
	c = link_open(family[0]);
	if (c < 0)
		goto fail;
	len = loopback(&ss, family[0], port_of(l, false));
	if (sys_connect(c, (struct sockaddr *)&ss, len) < 0 && errno != EINPROGRESS)
		goto fail;
	/* Loopback: the handshake is over before connect returns, unless somebody filters. */
	for (tries = 0; tries < 20; tries++) {
		struct pollfd p = { l, POLLIN, 0 };

		if (sys_poll(&p, 1, 5) <= 0)
			continue;
		s = sys_accept4(l, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (s < 0)
			continue;
		if (port_of(s, true) == port_of(c, false))
			break;
		sys_close(s);		/* a stranger was faster */
		s = -1;
	}
	if (s < 0) {
		errno = ETIMEDOUT;
		goto fail;
	}
	sys_close(l);
	fd[0] = c;
	fd[1] = s;
	return 0;
fail:
	e = errno;
	sys_close(l);
	if (c >= 0)
		sys_close(c);
	errno = e;
	return -1;
}

void link_copy_options(int from, int to)
{
	static const struct { int level, name; } opt[] = {
		{ SOL_SOCKET, SO_KEEPALIVE }, { SOL_SOCKET, SO_OOBINLINE },
		{ SOL_SOCKET, SO_LINGER }, { SOL_SOCKET, SO_RCVTIMEO },
		{ SOL_SOCKET, SO_SNDTIMEO }, { SOL_SOCKET, SO_RCVLOWAT },
		{ SOL_SOCKET, SO_PRIORITY },
		{ SOL_SOCKET, SO_TIMESTAMP }, { SOL_SOCKET, SO_BUSY_POLL },
		{ IPPROTO_TCP, TCP_NODELAY }, { IPPROTO_TCP, TCP_KEEPIDLE },
		{ IPPROTO_TCP, TCP_KEEPINTVL }, { IPPROTO_TCP, TCP_KEEPCNT },
		{ IPPROTO_TCP, TCP_USER_TIMEOUT }, { IPPROTO_TCP, TCP_CONGESTION },
		{ IPPROTO_TCP, TCP_NOTSENT_LOWAT }, { IPPROTO_TCP, TCP_LINGER2 },
		{ IPPROTO_TCP, TCP_CORK },
		{ IPPROTO_IP, IP_TOS }, { IPPROTO_IP, IP_TTL }, { IPPROTO_IPV6, IPV6_TCLASS },
		{ IPPROTO_IPV6, IPV6_UNICAST_HOPS },
	};
	char val[64];
	socklen_t len;
	size_t i;
	int own, set;

	for (i = 0; i < ARRAY_SIZE(opt); i++) {
		len = sizeof(val);
		if (sys_getsockopt(from, opt[i].level, opt[i].name, val, &len) == 0)
			sys_setsockopt(to, opt[i].level, opt[i].name, val, len);
	}
	/*
	 * Only ever switched on: a link from an agent's port has it, and without it the
	 * next agent could not listen there while the link lives.
	 */
	len = sizeof(set);
	if (sys_getsockopt(from, SOL_SOCKET, SO_REUSEADDR, &set, &len) == 0 && set)
		sys_setsockopt(to, SOL_SOCKET, SO_REUSEADDR, &set, sizeof(set));
	/* Buffer sizes only where the application fixed them: the kernel says twice the value. */
	len = sizeof(set);
	if (sys_getsockopt(from, SOL_SOCKET, SO_BUF_LOCK, &set, &len) == 0) {
		static const struct { int bit, name; } buf[] = {
			{ SOCK_SNDBUF_LOCK, SO_SNDBUF }, { SOCK_RCVBUF_LOCK, SO_RCVBUF },
		};

		for (i = 0; i < ARRAY_SIZE(buf); i++) {
			len = sizeof(own);
			if (!(set & buf[i].bit) ||
			    sys_getsockopt(from, SOL_SOCKET, buf[i].name, &own, &len) < 0)
				continue;
			own /= 2;
			sys_setsockopt(to, SOL_SOCKET, buf[i].name, &own, sizeof(own));
		}
	}
	sys_fcntl(to, F_SETFL, sys_fcntl(from, F_GETFL, 0));
	sys_fcntl(to, F_SETOWN, sys_fcntl(from, F_GETOWN, 0));
	sys_fcntl(to, F_SETSIG, sys_fcntl(from, F_GETSIG, 0));
}

ssize_t link_peek(int fd, uint8_t *buf, size_t n)
{
	return sys_recv(fd, buf, n, MSG_PEEK | MSG_DONTWAIT);
}

bool link_nodelay(int fd)
{
	int on = 0;
	socklen_t len = sizeof(on);

	return sys_getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, &len) == 0 && on;
}

void link_set_nodelay(int fd, bool on)
{
	int v = on;

	sys_setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &v, sizeof(v));
}

void link_drain(int fd)
{
	char junk[64];
	int n;

	/* recv of what is there, and no more: an error is left for whom it concerns. */
	while ((n = sys_inq(fd)) > 0 &&
	       sys_recv(fd, junk, (size_t)n < sizeof(junk) ? (size_t)n : sizeof(junk), MSG_DONTWAIT) > 0)
		;
}

void link_abort(int fd)
{
	struct linger now = { .l_onoff = 1 };

	if (fd >= 0)
		sys_setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
}

bool link_resets(int fd)
{
	struct linger l = { 0 };
	socklen_t n = sizeof(l);

	return sys_getsockopt(fd, SOL_SOCKET, SO_LINGER, &l, &n) == 0 && l.l_onoff && !l.l_linger;
}
