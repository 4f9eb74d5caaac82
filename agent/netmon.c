#include "netmon.h"
#include "agent.h"
#include "loop.h"
#include "local.h"
#include "peer.h"
#include "sources.h"
#include "util.h"
#include <errno.h>
#include <ifaddrs.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX 64

static struct watch nl;
static struct timer timer;
static struct haddr mine[MAX];
static uint32_t nmine;
static bool poll_only;

const struct haddr *netmon_addrs(uint32_t *n)
{
	*n = nmine;
	return mine;
}

static bool known(const struct haddr *list, uint32_t n, const struct haddr *a)
{
	while (n--)
		if (addr_same(list[n].family, list[n].addr, a->family, a->addr))
			return true;
	return false;
}

bool netmon_is_self(uint8_t family, const uint8_t addr[16])
{
	struct haddr a = { .family = family };

	memcpy(a.addr, addr, 16);
	return addr_loopback(family, addr) || known(mine, nmine, &a);
}

static uint32_t collect(struct haddr *list)
{
	struct ifaddrs *all, *i;
	uint32_t n = 0;
	uint16_t port;

	if (getifaddrs(&all) < 0) {
		say_seldom("cannot read the host's addresses: %s", strerror(errno));
		memcpy(list, mine, sizeof(mine));
		return nmine;
	}
	for (i = all; i && n < MAX; i = i->ifa_next) {
		struct sockaddr_storage ss;
		struct haddr *a = &list[n];

		if (!i->ifa_addr || (i->ifa_addr->sa_family != AF_INET && i->ifa_addr->sa_family != AF_INET6))
			continue;
		memset(&ss, 0, sizeof(ss));
		memcpy(&ss, i->ifa_addr, i->ifa_addr->sa_family == AF_INET ? sizeof(struct sockaddr_in) :
		       sizeof(struct sockaddr_in6));
		a->family = addr_from(&ss, a->addr, &port);
		if (a->family && !addr_loopback(a->family, a->addr) && !addr_linklocal(a->family, a->addr) &&
		    !known(list, n, a))
			n++;
	}
	freeifaddrs(all);
	return n;
}

/* What is no longer there, what is new: told to the other agents. */
static bool compare(void)
{
	static struct haddr now[MAX], old[MAX];
	uint32_t n = collect(now), nold = nmine, i;
	bool news = false;

	memcpy(old, mine, sizeof(old));
	memcpy(mine, now, sizeof(mine));
	nmine = n;
	for (i = 0; i < nold; i++)
		if (!known(now, n, &old[i])) {
			news = true;
			say_info("the address %s is gone", where_text(old[i].family, old[i].addr, 0));
			peer_addr_changed(old[i].family, old[i].addr, true);
		}
	for (i = 0; i < n; i++)
		if (!known(old, nold, &now[i])) {
			news = true;
			say_info("the address %s is new", where_text(now[i].family, now[i].addr, 0));
			peer_addr_changed(now[i].family, now[i].addr, false);
		}
	return news;
}

static void tell(void *arg, struct proc *p)
{
	local_send(p, arg, -1);
}

static void changed(struct timer *t)
{
	struct msg m = { .type = MSG_COMMAND, .op = CMD_NETCHANGE };
	bool news = compare();

	if (poll_only)
		timer_at(t, loop_now() + 2 * SEC, changed);
	if (poll_only && !news)
		return;
	COUNT(netchanges);
	sources_changed();
	peer_net_changed();
	local_each(tell, &m);
}

static void ready(struct watch *w, uint32_t events)
{
	(void)events;
	char buf[16384];
	ssize_t r;
	bool any = false;

	/* What it says is not looked at: the addresses are read anew. ENOBUFS: so much has changed. */
	while ((r = recv(w->fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0 || (r < 0 && errno == ENOBUFS))
		any = true;
	/* A change comes as a handful of notices: one look for all of them. */
	if (any && !timer.at)
		timer_at(&timer, loop_now() + 2 * MS, changed);
}

bool netmon_start(void)
{
	struct sockaddr_nl a = { .nl_family = AF_NETLINK,
		.nl_groups = RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | RTMGRP_IPV4_ROUTE |
			     RTMGRP_IPV6_ROUTE };
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);

	nmine = collect(mine);
	if (fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && watch_add(&nl, fd, EPOLLIN, ready))
		return true;
	say_error("no notices of network changes: %s; addresses are looked at every 2 s", strerror(errno));
	if (fd >= 0)
		close(fd);
	poll_only = true;
	timer_at(&timer, loop_now() + 2 * SEC, changed);
	return false;
}

void netmon_stop(void)
{
	timer_stop(&timer);
	if (nl.on) {
		watch_del(&nl);
		close(nl.fd);
	}
}
