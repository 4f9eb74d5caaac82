/* The agent's configuration: every key, every error, and where the error says it is. */
#include "addr.h"
#include "conf.h"
#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static struct aconf c;
static char said[8192];		/* what went to stderr */

static void setup(void)
{
	unsetenv("ROAM_DIR");
	aconf_init(&c);
}

static void teardown(void)
{
	aconf_free(&c);
}

static int memory_file(const char *text, size_t n)
{
	int fd = memfd_create("conf", 0);

	if (fd < 0 || write(fd, text, n) != (ssize_t)n)
		ck_abort_msg("memfd_create");
	return fd;
}

/* Keeps what is written to stderr meanwhile. */
static int hush_fd, hush_old;

static void hush(void)
{
	fflush(stderr);
	hush_fd = memory_file("", 0);
	hush_old = dup(2);
	dup2(hush_fd, 2);
}

static void hush_end(void)
{
	ssize_t n;

	fflush(stderr);
	dup2(hush_old, 2);
	n = pread(hush_fd, said, sizeof(said) - 1, 0);
	said[n < 0 ? 0 : n] = 0;
	close(hush_fd);
	close(hush_old);
}

static bool read_n(const char *text, size_t n)
{
	int fd = memory_file(text, n);
	char path[32];
	bool ok;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	hush();
	ok = aconf_read(&c, path, true);
	hush_end();
	close(fd);
	return ok;
}

static bool set(const char *assignment)
{
	bool ok;

	hush();
	ok = aconf_set(&c, assignment);
	hush_end();
	return ok;
}

START_TEST(everything)
{
	static const char text[] =
		"# a comment\n"
		"[agent]\n"
		"directory = /tmp/x\n"
		"key=/k\n"
		"user = nobody ; inline\n"
		"port = 7000\n"
		"host-id = 000102030405060708090A0b0c0d0e0f\n"
		"listen = fd00::5\n"
		"log = debug\n"
		"\n"
		"[discovery]\n"
		"networks = 10.0.0.0/8, fd00::/8\n"
		"   192.168.7.0/25 1.2.3.4\n"
		"networks = ::ffff:9.9.9.9\n"
		"peers = 10.0.0.2 10.0.0.3:7001\n"
		"\t[fd00::1]:7626 fd00::2 [fd00::3]\n"
		"multicast = yes\n"
		"group = 239.1.2.3\n"
		"interval = 100\n"
		"probe = no\n"
		"[limits]\n"
		"connections = 17\n"
		"connections-per-user = 16\n"
		"parked-bytes = 3G\n"
		"parked-seconds = 9\n"
		"hold-seconds = 8\n"
		"probe-bytes = 64K\n"
		"probe-seconds = 30\n";
	static const uint16_t ports[] = { 0, 7001, 7626, 0, 0 };
	static const uint8_t bits[] = { 8, 8, 25, 32, 32 };
	char t[ADDR_PORT_TEXT];
	size_t i;

	ck_assert_msg(read_n(text, strlen(text)), "%s", said);
	ck_assert_str_eq(said, "");
	ck_assert_str_eq(c.dir, "/tmp/x");
	ck_assert_str_eq(c.key_file, "/k");
	ck_assert_str_eq(c.user, "nobody");
	ck_assert_uint_eq(c.port, 7000);
	ck_assert(c.has_host);
	for (i = 0; i < 16; i++)
		ck_assert_uint_eq(c.host[i], i);
	ck_assert_str_eq(addr_port_text(t, c.listen_family, c.listen_addr, 1), "[fd00::5]:1");
	ck_assert_int_eq(c.log, 2);
	ck_assert_uint_eq(c.nnets, 5);
	for (i = 0; i < 5; i++)
		ck_assert_uint_eq(c.nets[i].bits, bits[i]);
	ck_assert_uint_eq(c.nets[4].family, 4);
	ck_assert_uint_eq(c.npeers, 5);
	for (i = 0; i < 5; i++)
		ck_assert_uint_eq(c.peers[i].port, ports[i]);
	ck_assert_str_eq(addr_port_text(t, c.peers[2].family, c.peers[2].addr, 1), "[fd00::1]:1");
	ck_assert(c.multicast);
	ck_assert_str_eq(c.mcast_group, "239.1.2.3");
	ck_assert_uint_eq(c.mcast_every_ms, 100);
	ck_assert_uint_eq(c.max_connections, 17);
	ck_assert_uint_eq(c.max_per_user, 16);
	ck_assert_uint_eq(c.max_parked, 3ull << 30);
	ck_assert_uint_eq(c.parked_s, 9);
	ck_assert_uint_eq(c.hold_s, 8);
	ck_assert(!c.probe);
	ck_assert_uint_eq(c.probe_bytes, 65536);
	ck_assert_uint_eq(c.probe_s, 30);
}
END_TEST

START_TEST(defaults)
{
	ck_assert(read_n("", 0));
	ck_assert_str_eq(c.dir, "/run/roam");
	ck_assert_str_eq(c.key_file, "/etc/roam/cluster.key");
	ck_assert_uint_eq(c.port, 7626);
	ck_assert(!c.multicast && !c.has_host && !c.nnets && !c.npeers && !c.listen_family && !c.user[0]);
	ck_assert_str_eq(c.mcast_group, "239.255.76.26");
	ck_assert_uint_eq(c.max_parked, 256ull << 20);
	ck_assert(c.probe);
	ck_assert_uint_eq(c.probe_bytes, 1 << 20);
	ck_assert_uint_eq(c.probe_s, 600);
	hush();
	ck_assert(aconf_read(&c, "/nonexistent/roamd.conf", false));
	ck_assert(!aconf_read(&c, "/nonexistent/roamd.conf", true));
	hush_end();
	ck_assert_ptr_nonnull(strstr(said, "/nonexistent/roamd.conf: No such file"));
}
END_TEST

#define D100 "1111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111111"
static const struct {
	const char *text;
	int line;		/* where it must say it is */
	const char *words;
} errors[] = {
	{ "port = 1\n", 1, "no such section; use [agent], [discovery] or [limits]" },
	{ "[Agent]\nport = 1\n", 2, "no such section" },
	{ "[agent]\nprot = 1\n", 2, "no such key; [agent] has directory, key, user, port" },
	{ "[discovery]\nport = 1\n", 2, "no such key; [discovery] has networks" },
	{ "[limits]\nport = 1\n", 2, "no such key; [limits] has connections" },
	{ "[agent]\nhello\n", 2, "neither [section] nor key = value" },
	{ "[agent\n", 1, "neither [section] nor key = value" },
	{ "[agent]\nport = 0\n", 2, "use a number from 1 to 65535" },
	{ "[agent]\nport = 65536\n", 2, "use a number from 1 to 65535" },
	{ "[agent]\nport = -1\n", 2, "use a number" },
	{ "[agent]\nport = 0x10\n", 2, "use a number" },
	{ "[agent]\nport =\n", 2, "use a number" },
	{ "[agent]\nport = 99999999999999999999999\n", 2, "use a number" },
	{ "[agent]\nport = 1\nport = 2\n", 3, "given twice" },
	{ "[agent]\nport = 1\n 2\n", 3, "two lines" },
	{ "[agent]\ndirectory = run\n", 2, "absolute path" },
	{ "[agent]\ndirectory = /" D100 "\n", 2, "longer than 91 bytes" },
	{ "[agent]\nkey =\n", 2, "absolute path" },
	{ "[agent]\nuser = abcdefghijklmnopqrstuvwxyzabcdefg\n", 2, "longer than 32" },
	{ "[agent]\nhost-id = 12\n", 2, "use 32 hexadecimal digits" },
	{ "[agent]\nhost-id = 0001020304050607 8090A0b0c0d0e0f\n", 2, "use 32 hexadecimal digits" },
	{ "[agent]\nhost-id = 00000000000000000000000000000000\n", 2, "not all 0" },
	{ "[agent]\nlisten = localhost\n", 2, "use an address of this host" },
	{ "[agent]\nlisten = 224.0.0.1\n", 2, "use an address of this host" },
	{ "[agent]\nlog = loud\n", 2, "use one of error, info, debug" },
	{ "[discovery]\nmulticast = true\n", 2, "use one of no, yes" },
	{ "[discovery]\ngroup = 10.0.0.1\n", 2, "multicast address" },
	{ "[discovery]\ngroup = ff02::1\n", 2, "multicast address" },
	{ "[discovery]\ninterval = 99\n", 2, "use a number from 100 to 3600000" },
	{ "[discovery]\nnetworks = 10.0.0.0/33\n", 2, "from 0 to 32" },
	{ "[discovery]\nnetworks = fd00::/129\n", 2, "from 0 to 128" },
	{ "[discovery]\nnetworks = 10.0.0.0/\n", 2, "from 0 to 32" },
	{ "[discovery]\nnetworks = 10.0.0.0/-1\n", 2, "from 0 to 32" },
	{ "[discovery]\nnetworks = 10.1.2.3/8\n", 2, "use 10.0.0.0/8" },
	{ "[discovery]\nnetworks = 10.0.0.0/8\n fd00::1/8\n", 3, "use fd00::/8" },
	{ "[discovery]\nnetworks = everywhere\n", 2, "use ADDRESS/BITS" },
	{ "[discovery]\nnetworks = " D100 "\n", 2, "use ADDRESS/BITS" },
	{ "[discovery]\npeers = node1\n", 2, "names are not looked up" },
	{ "[discovery]\npeers = 10.0.0.1:0\n", 2, "not a host's address" },
	{ "[discovery]\npeers = 10.0.0.1:65536\n", 2, "not a host's address" },
	{ "[discovery]\npeers = 10.0.0.1:\n", 2, "not a host's address" },
	{ "[discovery]\npeers = [fd00::1\n", 2, "not a host's address" },
	{ "[discovery]\npeers = [fd00::1]7626\n", 2, "not a host's address" },
	{ "[discovery]\npeers = 0.0.0.0\n", 2, "not a host's address" },
	{ "[discovery]\npeers = 239.0.0.1\n", 2, "not a host's address" },
	{ "[discovery]\npeers = ff02::1\n", 2, "not a host's address" },
	{ "[discovery]\npeers = " D100 "\n", 2, "not a host's address" },
	{ "[limits]\nconnections = 0\n", 2, "use a number from 1" },
	{ "[limits]\nconnections-per-user = 0\n", 2, "use a number from 1" },
	{ "[limits]\nparked-bytes = 1X\n", 2, "K, M, G, T" },
	{ "[limits]\nparked-bytes = M\n", 2, "K, M, G, T" },
	{ "[limits]\nparked-bytes = 2048T\n", 2, "K, M, G, T" },
	{ "[limits]\nparked-seconds = 0\n", 2, "use a number from 1" },
	{ "[limits]\nhold-seconds = 3601\n", 2, "use a number from 1 to 3600" },
	{ "[discovery]\nprobe = maybe\n", 2, "no" },
	{ "[limits]\nprobe-bytes = 16383\n", 2, "16384" },
	{ "[limits]\nprobe-bytes = 17M\n", 2, "16777216" },
	{ "[limits]\nprobe-seconds = 9\n", 2, "use a number from 10 to 86400" },
	{ "[discovery]\npeers = 10.0.0.1 " D100 D100 "\n", 2, "the line is too long" },
	{ "# " D100 D100 "\n[agent]\nport = 1\n", 1, "the line is too long" },
};

START_TEST(error)
{
	char where[32];

	ck_assert_msg(!read_n(errors[_i].text, strlen(errors[_i].text)), "accepted: %s", errors[_i].text);
	snprintf(where, sizeof(where), ":%d: ", errors[_i].line);
	ck_assert_msg(!strncmp(said, "roamd: /proc/self/fd/", 21) && strstr(said, where) &&
		      strstr(said, errors[_i].words), "%s\nsaid: %s", errors[_i].text, said);
	ck_assert_msg(strchr(said, '\n') == said + strlen(said) - 1, "more than a line: %s", said);
}
END_TEST

/* Several errors are told at once; what a file holds does not get to the terminal as it is. */
START_TEST(many)
{
	static const char text[] = "[agent]\nport = a\nlog = \033[2Jb\nx = 1\n", nul[] = "[agent]\nport = 1\0\n";

	ck_assert(!read_n(text, strlen(text)));
	ck_assert(strstr(said, ":2: ") && strstr(said, ":3: ") && strstr(said, ":4: "));
	ck_assert_ptr_null(strchr(said, '\033'));
	ck_assert(!read_n(nul, sizeof(nul) - 1));
	ck_assert_ptr_nonnull(strstr(said, "NUL"));
}
END_TEST

START_TEST(command_line)
{
	static const char *const bad[] = {
		"", "port=1", "agent.port", "agent.port=0", "agent=1.2", "agent.nothing=1", "nothing.port=1",
		".=", "agent.=1", D100 ".port=1", "agent." D100 "=1",
	};
	size_t i;

	ck_assert(read_n("[discovery]\nnetworks = 10.0.0.0/8\n", 34));
	ck_assert(set("discovery.networks=fd00::/8 1.0.0.0/8"));
	ck_assert_uint_eq(c.nnets, 2);		/* in the place of the file's */
	ck_assert_uint_eq(c.nets[0].family, 6);
	ck_assert(set("discovery.networks="));
	ck_assert_uint_eq(c.nnets, 0);
	ck_assert(set("agent.port=9") && c.port == 9);
	ck_assert(set("agent.user=") && !c.user[0]);
	ck_assert(set("agent.listen=127.0.0.1") && c.listen_family == 4);
	ck_assert(set("agent.listen=any") && !c.listen_family);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		ck_assert_msg(!set(bad[i]), "accepted: %s", bad[i]);
		ck_assert_msg(!strncmp(said, "roamd: ", 7), "said: %s", said);
	}
}
END_TEST

START_TEST(environment)
{
	setenv("ROAM_DIR", "/somewhere", 1);
	ck_assert(read_n("[agent]\ndirectory = /else\n", 26));
	ck_assert_str_eq(c.dir, "/somewhere");
	ck_assert(set("agent.directory=/third"));
	ck_assert_str_eq(c.dir, "/third");
	setenv("ROAM_DIR", "here", 1);
	ck_assert(!read_n("", 0));
	ck_assert_str_eq(said, "roamd: ROAM_DIR: use an absolute path\n");
}
END_TEST

/* What the example shows without being a default. */
static void no_defaults(struct aconf *conf)
{
	aconf_free(conf);
	memset(conf->host, 0, sizeof(conf->host));
	memset(conf->user, 0, sizeof(conf->user));
	conf->has_host = false;
}

/* The example as it is says nothing; with every line in force it says the defaults, where there are some. */
START_TEST(example)
{
	static char text[16384], bare[16384];
	FILE *f = fopen(EXAMPLE, "r");
	struct aconf d;
	char *p, *to = bare;
	size_t n;

	if (!f)
		ck_abort_msg("%s", EXAMPLE);
	n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	aconf_init(&d);
	ck_assert_msg(read_n(text, n), "%s", said);
	ck_assert_mem_eq(&c, &d, sizeof(c));
	for (p = text; *p; p++)
		if (*p != '#' || p[1] == ' ')
			*to++ = *p;
	ck_assert_msg(read_n(bare, (size_t)(to - bare)), "%s", said);
	ck_assert_uint_eq(c.nnets, 2);
	ck_assert_uint_eq(c.npeers, 3);
	ck_assert_str_eq(c.user, "roam");
	no_defaults(&c);
	ck_assert_mem_eq(&c, &d, sizeof(c));
}
END_TEST

static bool in_nets(const char *text)
{
	uint8_t family, addr[16];

	ck_assert(addr_parse(text, &family, addr));
	return aconf_in_nets(&c, family, addr);
}

START_TEST(nets)
{
	static const uint8_t mapped[16] = { [10] = 255, [11] = 255, [12] = 10, [15] = 1 };
	static const uint8_t loose[16] = { 10, 0, 0, 1, 99, 99 };

	ck_assert(!in_nets("10.0.0.1"));
	ck_assert(set("discovery.networks=10.0.0.0/8 192.168.1.128/25 fd00::/9 1.2.3.4"));
	ck_assert(in_nets("10.0.0.1") && in_nets("10.255.255.255"));
	ck_assert(!in_nets("11.0.0.0") && !in_nets("9.255.255.255"));
	ck_assert(in_nets("192.168.1.128") && in_nets("192.168.1.255") && !in_nets("192.168.1.127"));
	ck_assert(in_nets("fd7f::1") && !in_nets("fd80::1") && !in_nets("fe80::1"));
	ck_assert(in_nets("1.2.3.4") && !in_nets("1.2.3.5"));
	ck_assert(!in_nets("a00::1"));		/* begins with the same byte as 10.0.0.0 */
	ck_assert(aconf_in_nets(&c, 6, mapped));
	ck_assert(aconf_in_nets(&c, 4, loose));
	ck_assert(!aconf_in_nets(&c, 0, loose) && !aconf_in_nets(&c, 9, loose));
	ck_assert(set("discovery.networks=0.0.0.0/0"));
	ck_assert(in_nets("8.8.8.8") && !in_nets("::1"));
}
END_TEST

START_TEST(too_many)
{
	char *text = malloc(5000 * 16), *p = text;
	int i;

	p += sprintf(p, "[discovery]\n");
	for (i = 0; i < 4097; i++)
		p += sprintf(p, "peers=10.0.0.1\n");
	ck_assert(!read_n(text, (size_t)(p - text)));
	ck_assert_uint_eq(c.npeers, 4096);
	ck_assert_ptr_nonnull(strstr(said, ":4098: "));
	free(text);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("conf");
	TCase *t = tcase_create("conf");
	SRunner *sr;
	int bad;

	suite_add_tcase(s, t);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, everything);
	tcase_add_test(t, defaults);
	tcase_add_loop_test(t, error, 0, sizeof(errors) / sizeof(errors[0]));
	tcase_add_test(t, many);
	tcase_add_test(t, command_line);
	tcase_add_test(t, environment);
	tcase_add_test(t, example);
	tcase_add_test(t, nets);
	tcase_add_test(t, too_many);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	bad = srunner_ntests_failed(sr);
	srunner_free(sr);
	return bad != 0;
}
