#include "tcpdiag.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int nl = -1;

struct request {
	struct nlmsghdr h;
	struct inet_diag_req_v2 r;
};

int tcpdiag_open(void)
{
	struct timeval limit = { .tv_sec = 2 };

	nl = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	if (nl < 0)
		return errno;
	setsockopt(nl, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	return 0;
}

static uint32_t ask(int type, int flags, const struct inet_diag_req_v2 *r)
{
	static uint32_t seq;
	struct request q = {
		.h = {
			.nlmsg_len = sizeof q,
			.nlmsg_type = (uint16_t)type,
			.nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags),
			.nlmsg_seq = ++seq,
		},
		.r = *r,
	};

	return send(nl, &q, sizeof q, 0) == sizeof q ? seq : 0;
}

static void convert(struct tcpsock *s, const struct inet_diag_msg *m)
{
	memset(s, 0, sizeof *s);
	s->family = m->idiag_family;
	memcpy(s->addr[0], m->id.idiag_src, 16);
	memcpy(s->addr[1], m->id.idiag_dst, 16);
	s->sport = ntohs(m->id.idiag_sport);
	s->dport = ntohs(m->id.idiag_dport);
	s->iface = m->id.idiag_if;
	s->inode = m->idiag_inode;
	s->cookie = (uint64_t)m->id.idiag_cookie[1] << 32 |
		    m->id.idiag_cookie[0];
}

/*
 * Reads answers to request `seq`. With `out` it collects up to `max` sockets
 * of a dump and returns their number; without, it returns the errno value
 * that the kernel acknowledged with, or -1 when the answer was a socket.
 */
static long answers(uint32_t seq, struct tcpsock *out, size_t max)
{
	static _Alignas(struct nlmsghdr) char buf[65536];
	size_t n = 0;

	for (;;) {
		ssize_t got = recv(nl, buf, sizeof buf, 0);
		size_t len;

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return out ? (long)n : EIO;
		len = (size_t)got;
		for (struct nlmsghdr *h = (void *)buf; NLMSG_OK(h, len);
		     h = NLMSG_NEXT(h, len)) {
			if (h->nlmsg_seq != seq)
				continue;
			if (h->nlmsg_type == NLMSG_ERROR)
				return out ? (long)n :
				       -((struct nlmsgerr *)NLMSG_DATA(h))->error;
			if (h->nlmsg_type == NLMSG_DONE)
				return (long)n;
			if (!out)
				return -1;
			if (n < max)
				convert(&out[n++], NLMSG_DATA(h));
		}
	}
}

static void request_for(struct inet_diag_req_v2 *r, const struct tcpsock *s)
{
	memset(r, 0, sizeof *r);
	r->sdiag_family = (uint8_t)s->family;
	r->sdiag_protocol = IPPROTO_TCP;
	r->idiag_states = ~0u;
	memcpy(r->id.idiag_src, s->addr[0], 16);
	memcpy(r->id.idiag_dst, s->addr[1], 16);
	r->id.idiag_sport = htons((uint16_t)s->sport);
	r->id.idiag_dport = htons((uint16_t)s->dport);
	r->id.idiag_if = s->iface;
	r->id.idiag_cookie[0] = (uint32_t)s->cookie;
	r->id.idiag_cookie[1] = (uint32_t)(s->cookie >> 32);
}

size_t tcpdiag_dump(struct tcpsock *out, size_t max, int half_closed)
{
	static const int families[] = { AF_INET, AF_INET6 };
	size_t n = 0;

	for (int i = 0; i < 2; i++) {
		struct inet_diag_req_v2 r = {
			.sdiag_family = (uint8_t)families[i],
			.sdiag_protocol = IPPROTO_TCP,
			.idiag_states = 1u << TCP_ESTABLISHED |
				(half_closed ? 1u << TCP_FIN_WAIT1 |
					       1u << TCP_FIN_WAIT2 |
					       1u << TCP_CLOSE_WAIT : 0),
		};
		uint32_t seq = ask(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, &r);

		if (seq)
			n += (size_t)answers(seq, out + n, max - n);
	}
	return n;
}

int tcpdiag_alive(const struct tcpsock *s)
{
	static struct tcpsock all[4096];
	size_t n = tcpdiag_dump(all, sizeof all / sizeof all[0], 1);

	for (size_t i = 0; i < n; i++)
		if (all[i].cookie == s->cookie)
			return 1;
	return 0;
}

int tcpdiag_destroy(const struct tcpsock *s)
{
	struct inet_diag_req_v2 r;
	uint32_t seq;

	request_for(&r, s);
	seq = ask(SOCK_DESTROY, NLM_F_ACK, &r);
	return seq ? (int)answers(seq, NULL, 0) : EIO;
}

int tcpdiag_probe_destroy(void)
{
	/* Nobody has port 0; the permission is checked before the look-up. */
	struct tcpsock nobody = { .family = AF_INET };
	int err;

	nobody.addr[0][0] = nobody.addr[1][0] = htonl(INADDR_LOOPBACK);
	err = tcpdiag_destroy(&nobody);
	return err == ENOENT ? 0 : err;
}

static int mapped(const uint32_t *a)
{
	return a[0] == 0 && a[1] == 0 && a[2] == htonl(0xffff);
}

static int v4(const struct tcpsock *s)
{
	return s->family == AF_INET || mapped(s->addr[0]);
}

int tcpsock_addr(const struct tcpsock *s, int which, char *text)
{
	const uint32_t *a = s->addr[which];

	if (!v4(s))
		inet_ntop(AF_INET6, a, text, INET6_ADDRSTRLEN);
	else
		inet_ntop(AF_INET, s->family == AF_INET ? a : a + 3, text,
			  INET6_ADDRSTRLEN);
	return v4(s);
}

int tcpsock_is_local(const struct tcpsock *s)
{
	char a[INET6_ADDRSTRLEN], b[INET6_ADDRSTRLEN];
	int four = tcpsock_addr(s, 0, a);

	tcpsock_addr(s, 1, b);
	if (strcmp(a, b) == 0)
		return 1;
	return four && strncmp(a, "127.", 4) == 0 && strncmp(b, "127.", 4) == 0;
}

int tcpsock_are_ends(const struct tcpsock *a, const struct tcpsock *b)
{
	char x[INET6_ADDRSTRLEN], y[INET6_ADDRSTRLEN];

	if (a->sport != b->dport || a->dport != b->sport)
		return 0;
	for (int i = 0; i < 2; i++) {
		tcpsock_addr(a, i, x);
		tcpsock_addr(b, !i, y);
		if (strcmp(x, y) != 0)
			return 0;
	}
	return 1;
}

void inodes_of_pid(struct inodes *set, int pid)
{
	char dir[32], target[64];
	struct dirent *e;
	DIR *d;

	set->n = 0;
	snprintf(dir, sizeof dir, "/proc/%d/fd", pid);
	d = opendir(dir);
	if (!d)
		return;		/* it has ended: it owns nothing */
	while ((e = readdir(d)) != NULL &&
	       set->n < sizeof set->inode / sizeof set->inode[0]) {
		ssize_t len = readlinkat(dirfd(d), e->d_name, target,
					 sizeof target - 1);

		if (len <= 0)
			continue;
		target[len] = 0;
		if (sscanf(target, "socket:[%u]", &set->inode[set->n]) == 1)
			set->n++;
	}
	closedir(d);
}

int inodes_have(const struct inodes *set, uint32_t inode)
{
	for (size_t i = 0; inode && i < set->n; i++)
		if (set->inode[i] == inode)
			return 1;
	return 0;
}
