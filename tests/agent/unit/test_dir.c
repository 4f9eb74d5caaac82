/*
 * Discovery: static peers, and HERE over multicast in a network namespace of the
 * test's own (skipped where there is none to be had).
 */
#include "dir.h"
#include "wire.h"
#include <arpa/inet.h>
#include <check.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SEC 1000000000ull

static const uint8_t cluster[32] = "the cluster key of a test, 32 b";
static struct aconf conf;

struct seen {
	int n;
	uint8_t host[16], addr[16], family;
	bool has_host;
	uint16_t port;
};

static void found(void *arg, const uint8_t *host, uint8_t family, const uint8_t addr[16], uint16_t port)
{
	struct seen *s = arg;

	s->n++;
	s->has_host = host;
	if (host)
		memcpy(s->host, host, 16);
	memcpy(s->addr, addr, 16);
	s->family = family;
	s->port = port;
}

static struct dir dir_of(const uint8_t *host, struct seen *s)
{
	memset(s, 0, sizeof(*s));
	return (struct dir){ &conf, cluster, host, conf.port, found, s };
}

static void setup(void)
{
	aconf_init(&conf);
}

static void teardown(void)
{
	aconf_free(&conf);
}

START_TEST(static_peers)
{
	struct seen s;
	struct dir d = dir_of((const uint8_t *)"0123456789abcdef", &s);
	void *self;

	ck_assert(aconf_set(&conf, "discovery.peers=10.0.0.1:5 10.0.0.2"));
	ck_assert(aconf_set(&conf, "agent.port=99"));
	self = dir_static.start(&d);
	ck_assert_ptr_nonnull(self);
	ck_assert_int_eq(s.n, 2);
	ck_assert_uint_eq(s.port, 99);
	ck_assert_uint_eq(s.family, 4);
	ck_assert_uint_eq(s.addr[3], 2);
	ck_assert(!s.has_host);
	ck_assert_int_eq(dir_static.fd(self), -1);
	ck_assert_uint_eq(dir_static.due(self), 0);
	dir_static.stop(self);
}
END_TEST

/*
 * A namespace with nothing but a loopback interface that takes multicast, and has an
 * address that is not 127: the kernel takes no multicast from there.
 */
static bool own_network(void)
{
	struct ifreq r = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_MULTICAST | IFF_LOOPBACK };
	struct ifreq a = { .ifr_name = "lo" };
	struct sockaddr_in at = { .sin_family = AF_INET };
	int fd;

	if (unshare(CLONE_NEWNET) && unshare(CLONE_NEWUSER | CLONE_NEWNET))
		return false;
	fd = socket(AF_INET, SOCK_DGRAM, 0);
	inet_pton(AF_INET, "10.9.9.9", &at.sin_addr);
	memcpy(&a.ifr_addr, &at, sizeof(at));
	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &r) || ioctl(fd, SIOCSIFADDR, &a))
		return false;
	close(fd);
	return true;
}

static uint64_t real_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * SEC + (uint64_t)t.tv_nsec;
}

/* Delivery over loopback is done when sendto returns. */
static void drain(void *self)
{
	struct pollfd p = { dir_multicast.fd(self), POLLIN, 0 };

	while (poll(&p, 1, 0) == 1)
		dir_multicast.readable(self);
}

static int raw_fd;

static void raw(const uint8_t *buf, size_t n)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(conf.port) };
	struct ip_mreqn lo = { .imr_ifindex = 1 };

	if (!raw_fd) {
		raw_fd = socket(AF_INET, SOCK_DGRAM, 0);
		setsockopt(raw_fd, IPPROTO_IP, IP_MULTICAST_IF, &lo, sizeof(lo));
	}
	inet_pton(AF_INET, conf.mcast_group, &to.sin_addr);
	ck_assert_int_eq(sendto(raw_fd, buf, n, 0, (struct sockaddr *)&to, sizeof(to)), n);
}

/* Sends a HERE made by hand; how often was it believed? */
static int here(void *self, struct seen *s, const char *host, uint64_t nonce, const uint8_t *key)
{
	struct msg m = { .type = MSG_HERE, .port = 7, .nonce = nonce };
	uint8_t buf[WIRE_MAX];
	int before = s->n;

	memcpy(m.host, host, strlen(host));
	raw(buf, wire_encode(&m, key, buf));
	drain(self);
	return s->n - before;
}

START_TEST(two_agents)
{
	static const uint8_t host_a[16] = "a", host_b[16] = "b";
	struct seen sa, sb;
	struct dir da = dir_of(host_a, &sa), db = dir_of(host_b, &sb);
	uint64_t due;
	void *a, *b;

	if (!own_network()) {
		printf("skipped: no network namespace to be had\n");
		return;
	}
	da.port = 4711;
	a = dir_multicast.start(&da);
	b = dir_multicast.start(&db);
	ck_assert(a && b && dir_multicast.fd(a) >= 0);
	ck_assert_uint_ne(dir_multicast.due(a), 0);
	dir_multicast.tick(a, 1000 * SEC);
	due = dir_multicast.due(a);
	ck_assert(due >= 1005 * SEC && due < 1006 * SEC);
	drain(a);
	drain(b);
	ck_assert_int_eq(sa.n, 0);		/* not its own */
	ck_assert_int_eq(sb.n, 1);
	ck_assert_mem_eq(sb.host, host_a, 16);
	ck_assert_uint_eq(sb.port, 4711);
	ck_assert_uint_eq(sb.family, 4);
	/* too early: nothing */
	dir_multicast.tick(a, due - 1);
	drain(b);
	ck_assert_int_eq(sb.n, 1);
	dir_multicast.tick(a, due);
	drain(b);
	ck_assert_int_eq(sb.n, 2);
	/* the network changed: sooner, but not at once again */
	dir_multicast.changed(a);
	ck_assert(dir_multicast.due(a) > due && dir_multicast.due(a) <= due + SEC);
	dir_multicast.stop(a);
	dir_multicast.stop(b);
}
END_TEST

START_TEST(hostile)
{
	static const uint8_t host_b[16] = "b";
	uint8_t other[32], buf[WIRE_MAX + 1000] = { 0 };
	struct msg kx = { .type = MSG_KX, .port = 7, .nonce = 1 };
	struct seen s;
	struct dir d = dir_of(host_b, &s);
	uint64_t now = real_ns();
	char name[16];
	void *b;
	int i, n;

	if (!own_network()) {
		printf("skipped: no network namespace to be had\n");
		return;
	}
	b = dir_multicast.start(&d);
	ck_assert_ptr_nonnull(b);
	ck_assert_int_eq(here(b, &s, "x", now, cluster), 1);
	ck_assert_int_eq(here(b, &s, "x", now, cluster), 0);		/* again */
	ck_assert_int_eq(here(b, &s, "x", now - 1, cluster), 0);	/* an older one */
	ck_assert_int_eq(here(b, &s, "x", now + 1, cluster), 1);
	ck_assert_int_eq(here(b, &s, "y", now - 61 * SEC, cluster), 0);	/* a minute away */
	ck_assert_int_eq(here(b, &s, "y", now + 63 * SEC, cluster), 0);
	ck_assert_int_eq(here(b, &s, "y", 0, cluster), 0);
	ck_assert_int_eq(here(b, &s, "y", UINT64_MAX, cluster), 0);
	ck_assert_int_eq(here(b, &s, "y", now - 50 * SEC, cluster), 1);
	ck_assert_int_eq(here(b, &s, "b", now + 2, cluster), 0);	/* says it is us */
	memcpy(other, cluster, 32);
	other[0] ^= 1;
	ck_assert_int_eq(here(b, &s, "z", now, other), 0);
	n = s.n;
	memcpy(kx.host, "z", 1);
	raw(buf, wire_encode(&kx, cluster, buf));			/* another message */
	for (i = 0; i < (int)sizeof(buf); i += 7)
		raw(buf, (size_t)i);
	drain(b);
	ck_assert_int_eq(s.n, n);
	/* a member that makes up hosts: the table is bounded, the next minute is as before */
	for (i = 0; i < 5000; i++) {
		snprintf(name, sizeof(name), "h%d", i);
		n += here(b, &s, name, now, cluster);
	}
	ck_assert(n > 4000 && n < 4200);
	ck_assert_int_eq(here(b, &s, "x", now + 3, cluster), 1);
	dir_multicast.stop(b);
}
END_TEST

START_TEST(cannot)
{
	struct seen s;
	struct dir d = dir_of((const uint8_t *)"0123456789abcdef", &s);

	strcpy(conf.mcast_group, "nonsense");
	ck_assert_ptr_null(dir_multicast.start(&d));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("dir");
	TCase *t = tcase_create("dir");
	SRunner *sr;
	int bad;

	suite_add_tcase(s, t);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 60);
	tcase_add_test(t, static_peers);
	tcase_add_test(t, two_agents);
	tcase_add_test(t, hostile);
	tcase_add_test(t, cannot);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	bad = srunner_ntests_failed(sr);
	srunner_free(sr);
	return bad != 0;
}
