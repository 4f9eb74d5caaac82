#include "diag.h"
#include "agent.h"
#include "util.h"
#include <arpa/inet.h>
#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define ESTABLISHED 1
#define CLOSE_WAIT 8	/* the other side has sent its last byte; ours may go on */

/* IPv4 as the kernel keeps it in an AF_INET6 socket. */
static void mapped(uint8_t out[16], const uint8_t in[16])
{
	memset(out, 0, 10);
	out[10] = out[11] = 255;
	memcpy(out + 12, in, 4);
}

static int ask(int nl, bool v6_socket, uint8_t family, const uint8_t *self, uint16_t self_port,
	       const uint8_t *peer, uint16_t peer_port)
{
	struct { struct nlmsghdr h; struct inet_diag_req_v2 r; } q;
	_Alignas(struct nlmsghdr) char buf[4096];
	struct nlmsghdr *h = (struct nlmsghdr *)buf;
	struct sockaddr_nl k = { .nl_family = AF_NETLINK };
	ssize_t n;

	memset(&q, 0, sizeof(q));
	q.h.nlmsg_len = sizeof(q);
	q.h.nlmsg_type = SOCK_DIAG_BY_FAMILY;
	q.h.nlmsg_flags = NLM_F_REQUEST;
	q.r.sdiag_family = v6_socket ? AF_INET6 : AF_INET;
	q.r.sdiag_protocol = IPPROTO_TCP;
	q.r.idiag_states = 0xffffffff;
	q.r.id.idiag_sport = htons(self_port);
	q.r.id.idiag_dport = htons(peer_port);
	q.r.id.idiag_cookie[0] = q.r.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
	if (v6_socket && family == 4) {
		mapped((uint8_t *)q.r.id.idiag_src, self);
		mapped((uint8_t *)q.r.id.idiag_dst, peer);
	} else {
		memcpy(q.r.id.idiag_src, self, family == 4 ? 4 : 16);
		memcpy(q.r.id.idiag_dst, peer, family == 4 ? 4 : 16);
	}
	if (sendto(nl, &q, sizeof(q), 0, (struct sockaddr *)&k, sizeof(k)) < 0)
		return -1;
	n = recv(nl, buf, sizeof(buf), 0);
	if (n < (ssize_t)sizeof(*h) || !NLMSG_OK(h, (size_t)n))
		return -1;
	if (h->nlmsg_type == NLMSG_ERROR) {
		struct nlmsgerr *e = NLMSG_DATA(h);

		return e->error == -ENOENT ? 0 : -1;
	}
	if (h->nlmsg_type == SOCK_DIAG_BY_FAMILY) {
		struct inet_diag_msg *d = NLMSG_DATA(h);

		return d->idiag_state == ESTABLISHED || d->idiag_state == CLOSE_WAIT;
	}
	return -1;
}

/* /proc/net/tcp shows addresses as 32-bit words of the host. */
static bool line_matches(const char *line, const uint8_t *self, uint16_t self_port, const uint8_t *peer,
			 uint16_t peer_port, size_t n)
{
	char sa[33], pa[33];
	unsigned int sp, pp, state, i;
	uint32_t w;
	char hex[33], hex2[33];

	if (sscanf(line, " %*u: %32[0-9A-F]:%4X %32[0-9A-F]:%4X %2X", sa, &sp, pa, &pp, &state) != 5)
		return false;
	for (i = 0; i < n / 4; i++) {
		memcpy(&w, self + 4 * i, 4);
		snprintf(hex + 8 * i, 9, "%08X", w);
		memcpy(&w, peer + 4 * i, 4);
		snprintf(hex2 + 8 * i, 9, "%08X", w);
	}
	return sp == self_port && pp == peer_port && (state == ESTABLISHED || state == CLOSE_WAIT) &&
	       !strcmp(sa, hex) && !strcmp(pa, hex2);
}

static bool in_proc(bool v6_socket, uint8_t family, const uint8_t *self, uint16_t self_port, const uint8_t *peer,
		    uint16_t peer_port)
{
	FILE *f = fopen(v6_socket ? "/proc/net/tcp6" : "/proc/net/tcp", "re");
	uint8_t s[16], p[16];
	char line[300];
	bool found = false;

	if (!f)
		return false;
	if (v6_socket && family == 4) {
		mapped(s, self);
		mapped(p, peer);
	} else {
		memcpy(s, self, 16);
		memcpy(p, peer, 16);
	}
	while (!found && fgets(line, sizeof(line), f))
		found = line_matches(line, s, self_port, p, peer_port, v6_socket ? 16 : 4);
	fclose(f);
	return found;
}

bool diag_established(uint8_t family, const uint8_t self[16], uint16_t self_port, const uint8_t peer[16],
		      uint16_t peer_port)
{
	struct timeval tmo = { .tv_usec = 200000 };
	int nl = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG), i, r = -1;

	if (nl >= 0)
		setsockopt(nl, SOL_SOCKET, SO_RCVTIMEO, &tmo, sizeof(tmo));
	/* An IPv4 connection may belong to an IPv6 socket; the kernel finds it either way or by one of both. */
	for (i = family == 6; i < 2; i++) {
		if (nl >= 0)
			r = ask(nl, i == 1, family, self, self_port, peer, peer_port);
		if (r < 0)
			r = in_proc(i == 1, family, self, self_port, peer, peer_port);
		if (r > 0)
			break;
	}
	if (nl >= 0)
		close(nl);
	return r > 0;
}
