/* The cluster key's file: only a key that nobody else can read or write is one. */
#include "key.h"
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char dir[] = "/tmp/roam-key.XXXXXX", path[64], err[256];
static uint8_t key[KEY_BYTES];

static void setup(void)
{
	strcpy(dir + strlen(dir) - 6, "XXXXXX");
	if (!mkdtemp(dir))
		ck_abort_msg("%s", dir);
	snprintf(path, sizeof(path), "%s/key", dir);
	err[0] = 0;
}

static void teardown(void)
{
	char other[80];

	snprintf(other, sizeof(other), "%s/link", dir);
	unlink(other);
	unlink(path);
	rmdir(path);
	rmdir(dir);
}

static void put(const char *text, size_t n)
{
	FILE *f;

	unlink(path);		/* it may be one that its owner cannot write either */
	f = fopen(path, "w");
	if (!f || fwrite(text, 1, n, f) != n || fclose(f) || chmod(path, 0600))
		ck_abort_msg("%s", path);
}

/* It is refused, nothing of it is given out, and the message has the file and the words. */
static void refused(const char *file, const char *words)
{
	static const uint8_t zero[KEY_BYTES];

	memset(key, 1, sizeof(key));
	ck_assert(!key_load(file, key, err, sizeof(err)));
	ck_assert_mem_eq(key, zero, sizeof(key));
	ck_assert_msg(!strncmp(err, file, strlen(file)) && strstr(err, words), "said: %s", err);
}

#define HEX "00112233445566778899aabbccddeeff0123456789abcdef0123456789ABCDEF"

START_TEST(good)
{
	static const char *const texts[] = {
		HEX, HEX "\n", HEX "\r\n", "# one\n\n  # two\n \t" HEX " \t\n\n# three", "\n\n" HEX "\n",
	};
	size_t i;

	for (i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		put(texts[i], strlen(texts[i]));
		ck_assert_msg(key_load(path, key, err, sizeof(err)), "%zu: %s", i, err);
		ck_assert_uint_eq(key[1], 0x11);
		ck_assert_uint_eq(key[31], 0xef);
	}
	chmod(path, 0400);
	ck_assert(key_load(path, key, err, sizeof(err)));
}
END_TEST

START_TEST(garbage)
{
	static const struct { const char *text, *words; } bad[] = {
		{ "", "holds no key" },
		{ "# nothing\n\n", "holds no key" },
		{ "hello\n", ":1: not a key" },
		{ "# c\n" "0" HEX "\n", ":2: not a key" },
		{ HEX "0\n", ":1: not a key" },
		{ HEX " # comment\n", ":1: not a key" },
		{ "0x" HEX, ":1: not a key" },
		{ "g0112233445566778899aabbccddeeff0123456789abcdef0123456789ABCDEF\n", ":1: not a key" },
		{ "00112233445566778899aabbccddeeff\n0123456789abcdef0123456789ABCDEF\n", ":1: not a key" },
		{ HEX "\n" HEX "\n", ":2: a second key" },
		{ HEX "\nrest\n", ":2: not a key" },
		{ "0000000000000000000000000000000000000000000000000000000000000000\n", "all zeros" },
	};
	char big[5000];
	size_t i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		put(bad[i].text, strlen(bad[i].text));
		refused(path, bad[i].words);
	}
	put(HEX "\0\n", 66);
	refused(path, "not a key");
	memset(big, '#', sizeof(big));
	put(big, sizeof(big));
	refused(path, "larger than");
}
END_TEST

START_TEST(modes)
{
	char cmd[16];
	int m;

	for (m = 0; m < 07777; m++) {
		put(HEX "\n", 65);
		if (!(m & 0400) || m == 0600 || m == 0400)
			continue;
		chmod(path, (mode_t)m);
		snprintf(cmd, sizeof(cmd), "chmod 600");
		refused(path, cmd);
	}
}
END_TEST

START_TEST(owner)
{
	put(HEX "\n", 65);
	if (geteuid() != 0 || chown(path, 12345, 12345))
		return;		/* only root can give a file away */
	refused(path, "belongs to user 12345");
}
END_TEST

START_TEST(other_kinds)
{
	char other[80];

	refused(path, "roamctl keygen");		/* not there */
	snprintf(other, sizeof(other), "%s/link", dir);
	put(HEX "\n", 65);
	ck_assert(!symlink(path, other));
	refused(other, "symbolic link");
	unlink(path);
	ck_assert(!mkfifo(path, 0600));			/* must not block */
	refused(path, "not a regular file");
	unlink(path);
	ck_assert(!mkdir(path, 0700));
	refused(path, "not a regular file");
}
END_TEST

START_TEST(make)
{
	uint8_t first[KEY_BYTES];
	struct stat st;
	mode_t old;

	old = umask(0377);
	ck_assert_msg(key_make(path, err, sizeof(err)), "%s", err);
	umask(old);
	ck_assert(!stat(path, &st));
	ck_assert_uint_eq(st.st_mode & 07777, 0600);
	ck_assert_msg(key_load(path, first, err, sizeof(err)), "%s", err);
	/* never over another one */
	ck_assert(!key_make(path, err, sizeof(err)));
	ck_assert_ptr_nonnull(strstr(err, "not overwritten"));
	ck_assert(key_load(path, key, err, sizeof(err)));
	ck_assert_mem_eq(key, first, sizeof(key));
	unlink(path);
	ck_assert(key_make(path, err, sizeof(err)));
	ck_assert(key_load(path, key, err, sizeof(err)));
	ck_assert_mem_ne(key, first, sizeof(key));
	/* no directory, and a link that leads nowhere */
	ck_assert(!key_make("/nonexistent/key", err, sizeof(err)));
	unlink(path);
	ck_assert(!symlink("nowhere", path));
	ck_assert(!key_make(path, err, sizeof(err)));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("key");
	TCase *t = tcase_create("key");
	SRunner *sr;
	int bad;

	suite_add_tcase(s, t);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 30);
	tcase_add_test(t, good);
	tcase_add_test(t, garbage);
	tcase_add_test(t, modes);
	tcase_add_test(t, owner);
	tcase_add_test(t, other_kinds);
	tcase_add_test(t, make);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_NORMAL);
	bad = srunner_ntests_failed(sr);
	srunner_free(sr);
	return bad != 0;
}
