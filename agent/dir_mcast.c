/*
 * Agents that say over UDP multicast that they are here. Every interval one HERE
 * goes out of every interface; TTL 1 keeps it on the link.
 *
 * A HERE is keyed under the cluster key, so only a member can have made it; who
 * recorded one may send it again. Its nonce is the time it was made: it must be
 * within a minute of ours, and newer than all that its host has sent before. What
 * is left to an attacker is to delay one and to give it another source address:
 * then we dial in vain, for at that address nobody passes the key exchange.
 */
#include "dir.h"
#include "addr.h"
#include "wire.h"
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SEC		((uint64_t)1000000000)
#define WINDOW		(60 * SEC)
#define MAX_IFACES	256
#define MAX_HOSTS	4096		/* that have been heard in the last minute */
#define BATCH		64		/* messages a call: others want the thread too */

struct heard {
	uint8_t host[16];
	uint64_t nonce;			/* 0: free */
};

struct mcast {
	struct dir *d;
	int fd;
	struct in_addr group;
	uint16_t udp_port;
	uint64_t due, said, last_nonce;
	int ifaces[MAX_IFACES], nifaces;
	struct heard heard[MAX_HOSTS];
};

static uint64_t clock_ns(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (uint64_t)t.tv_sec * SEC + (uint64_t)t.tv_nsec;
}

static void add_iface(struct mcast *m, const struct ifaddrs *a)
{
	int index, i;

	if (!a->ifa_addr || a->ifa_addr->sa_family != AF_INET ||
	    (a->ifa_flags & (IFF_UP | IFF_MULTICAST)) != (IFF_UP | IFF_MULTICAST))
		return;
	index = (int)if_nametoindex(a->ifa_name);
	for (i = 0; i < m->nifaces && m->ifaces[i] != index; i++)
		;
	if (index && i == m->nifaces && i < MAX_IFACES)
		m->ifaces[m->nifaces++] = index;
}

/* Joins where it is not joined yet: interfaces come, go, and come again under another number. */
static void join(struct mcast *m)
{
	struct ifaddrs *all, *a;
	struct ip_mreqn req;
	int i;

	if (getifaddrs(&all))
		return;		/* next time */
	m->nifaces = 0;
	for (a = all; a; a = a->ifa_next)
		add_iface(m, a);
	freeifaddrs(all);
	for (i = 0; i < m->nifaces; i++) {
		req = (struct ip_mreqn){ .imr_multiaddr = m->group, .imr_ifindex = m->ifaces[i] };
		/* EADDRINUSE: joined. Anything else: it went away, or is tried again */
		(void)!setsockopt(m->fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &req, sizeof(req));
	}
}

static void send_on(struct mcast *m, int iface, const uint8_t *buf, size_t n)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(m->udp_port), .sin_addr = m->group };
	union {
		struct cmsghdr align;
		uint8_t buf[CMSG_SPACE(sizeof(struct in_pktinfo))];
	} control = { 0 };
	struct iovec iov = { (void *)(uintptr_t)buf, n };
	struct msghdr h = {
		.msg_name = &to, .msg_namelen = sizeof(to), .msg_iov = &iov, .msg_iovlen = 1,
		.msg_control = control.buf, .msg_controllen = sizeof(control.buf),
	};
	struct in_pktinfo info = { .ipi_ifindex = iface };
	struct cmsghdr *c = CMSG_FIRSTHDR(&h);

	c->cmsg_level = IPPROTO_IP;
	c->cmsg_type = IP_PKTINFO;
	c->cmsg_len = CMSG_LEN(sizeof(info));
	memcpy(CMSG_DATA(c), &info, sizeof(info));
	/* a lost one is made up for by the next */
	(void)!sendmsg(m->fd, &h, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* A nonce each: whoever hears two of our interfaces learns both addresses. */
static void announce(struct mcast *m)
{
	struct msg here = { .type = MSG_HERE, .port = m->d->port };
	uint8_t buf[WIRE_MAX];
	uint64_t now;
	size_t n;
	int i;

	memcpy(here.host, m->d->host, sizeof(here.host));
	for (i = 0; i < m->nifaces; i++) {
		now = clock_ns(CLOCK_REALTIME);
		m->last_nonce = now > m->last_nonce ? now : m->last_nonce + 1;
		here.nonce = m->last_nonce;
		n = wire_encode(&here, m->d->key, buf);
		send_on(m, m->ifaces[i], buf, n);
	}
}

/* Is it new? Then it is the last one of that host. */
static bool fresh(struct mcast *m, const uint8_t host[16], uint64_t nonce, uint64_t now)
{
	struct heard *h, *room = NULL;

	if (nonce < now - WINDOW || nonce > now + WINDOW)
		return false;
	for (h = m->heard; h < m->heard + MAX_HOSTS; h++) {
		if (h->nonce && !memcmp(h->host, host, 16)) {
			if (nonce <= h->nonce)
				return false;
			h->nonce = nonce;
			return true;
		}
		/* older than the window: a repeat is refused without it */
		if (!room && h->nonce < now - WINDOW)
			room = h;
	}
	if (!room)
		return false;
	memcpy(room->host, host, 16);
	room->nonce = nonce;
	return true;
}

static void heard_one(struct mcast *m, const uint8_t *buf, size_t n, const struct sockaddr_in *from)
{
	uint8_t addr[16] = { 0 };
	struct msg here;

	if (wire_decode(&here, m->d->key, buf, n) != WIRE_OK || here.type != MSG_HERE || !here.port ||
	    !memcmp(here.host, m->d->host, sizeof(here.host)))
		return;
	memcpy(addr, &from->sin_addr, 4);
	if (addr_is_host(4, addr) && fresh(m, here.host, here.nonce, clock_ns(CLOCK_REALTIME)))
		m->d->found(m->d->arg, here.host, 4, addr, here.port);
}

static void readable(void *self)
{
	uint8_t buf[WIRE_MAX + 1];
	struct sockaddr_in from;
	struct mcast *m = self;
	socklen_t len;
	ssize_t n;
	int i;

	for (i = 0; i < BATCH; i++) {
		len = sizeof(from);
		n = recvfrom(m->fd, buf, sizeof(buf), MSG_DONTWAIT, (struct sockaddr *)&from, &len);
		if (n < 0 && errno != EINTR)
			return;
		if (n > 0 && len >= sizeof(from) && from.sin_family == AF_INET)
			heard_one(m, buf, (size_t)n, &from);
	}
}

/* Bound to the group, so that only what is sent to it comes in. */
static int open_socket(struct mcast *m)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons(m->udp_port), .sin_addr = m->group };
	int one = 1, zero = 0;

	m->fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (m->fd < 0)
		return -1;
	if (setsockopt(m->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
	    setsockopt(m->fd, IPPROTO_IP, IP_MULTICAST_TTL, &one, sizeof(one)) ||
	    setsockopt(m->fd, IPPROTO_IP, IP_MULTICAST_ALL, &zero, sizeof(zero)))
		return -1;
	return bind(m->fd, (struct sockaddr *)&at, sizeof(at));
}

static void *start(struct dir *d)
{
	struct mcast *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->d = d;
	m->udp_port = d->conf->port;
	m->due = 1;		/* at once */
	m->fd = -1;
	errno = EINVAL;
	if (inet_pton(AF_INET, d->conf->mcast_group, &m->group) != 1 || open_socket(m)) {
		fprintf(stderr, "roamd: multicast: group %s, port %u: %s\n", d->conf->mcast_group, m->udp_port,
			strerror(errno));
		if (m->fd >= 0)
			close(m->fd);
		free(m);
		return NULL;
	}
	join(m);
	return m;
}

static int get_fd(void *self)
{
	return ((struct mcast *)self)->fd;
}

static uint64_t due(void *self)
{
	return ((struct mcast *)self)->due;
}

static void tick(void *self, uint64_t now)
{
	struct mcast *m = self;
	uint64_t every = (uint64_t)m->d->conf->mcast_every_ms * 1000000;

	if (now < m->due)
		return;
	/* up to an eighth later: the hosts of a cluster start together and must not speak together */
	m->due = now + every + every / 1024 * randombytes_uniform(128);
	m->said = now;
	join(m);
	announce(m);
}

/* A new link: say so at once, but a link that flaps must not flood the others. */
static void changed(void *self)
{
	struct mcast *m = self;

	if (m->due > m->said + SEC / 4)
		m->due = m->said + SEC / 4;
}

static void stop(void *self)
{
	struct mcast *m = self;

	close(m->fd);
	free(m);
}

const struct dir_ops dir_multicast = {
	.name = "multicast", .start = start, .fd = get_fd, .readable = readable, .due = due, .tick = tick,
	.changed = changed, .stop = stop,
};
