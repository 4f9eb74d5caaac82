#include "key.h"
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX 4096		/* a key and some comments */

__attribute__((format(printf, 3, 4)))
static bool fail(char *err, unsigned long n, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(err, n, fmt, ap);
	va_end(ap);
	return false;
}

static bool cannot_open(const char *path, int e, char *err, unsigned long n)
{
	if (e == ELOOP)
		return fail(err, n, "%s: is a symbolic link; name the key file itself", path);
	if (e == ENOENT)
		return fail(err, n, "%s: there is no key file; make one with \"roamctl keygen %s\", or copy it "
			    "from another host of the cluster", path, path);
	if (e == EACCES)
		return fail(err, n, "%s: permission denied; the key must belong to the user that roamd is "
			    "started by", path);
	return fail(err, n, "%s: %s", path, strerror(e));
}

/* Whoever else can read the key is an agent; whoever can write it chooses the cluster. */
static bool check_file(int fd, const char *path, char *err, unsigned long n)
{
	struct stat st;

	if (fstat(fd, &st))
		return fail(err, n, "%s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return fail(err, n, "%s: not a regular file; name the key file itself", path);
	if (st.st_uid != 0 && st.st_uid != geteuid())
		return fail(err, n, "%s: belongs to user %u; chown it to root, or to the user that roamd is "
			    "started by", path, (unsigned int)st.st_uid);
	if (st.st_mode & 07177)
		return fail(err, n, "%s: mode is %04o, others may use it; chmod 600 %s", path,
			    (unsigned int)st.st_mode & 07777, path);
	if (st.st_size > FILE_MAX)
		return fail(err, n, "%s: larger than %d bytes, this is no key file", path, FILE_MAX);
	return true;
}

static ssize_t read_all(int fd, char *buf, size_t n)
{
	size_t got = 0;
	ssize_t r;

	while (got < n) {
		r = read(fd, buf + got, n - got);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return -1;
		if (!r)
			break;
		got += (size_t)r;
	}
	return (ssize_t)got;
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

/* One line; -1: not a key, 0: nothing in it, 1: the key. */
static int key_line(const char *p, size_t n, uint8_t key[KEY_BYTES])
{
	size_t got;

	while (n && is_blank(*p))
		p++, n--;
	while (n && is_blank(p[n - 1]))
		n--;
	if (!n || *p == '#')
		return 0;
	if (n != 2 * KEY_BYTES || sodium_hex2bin(key, KEY_BYTES, p, n, NULL, &got, NULL) || got != KEY_BYTES)
		return -1;
	return 1;
}

static bool parse(const char *buf, size_t n, const char *path, uint8_t key[KEY_BYTES], char *err, unsigned long en)
{
	const char *p = buf, *end = buf + n, *nl;
	int line = 0, keys = 0, r;

	for (; p < end; p = nl + 1) {
		line++;
		nl = memchr(p, '\n', (size_t)(end - p));
		if (!nl)
			nl = end;
		r = keys ? key_line(p, (size_t)(nl - p), (uint8_t[KEY_BYTES]){ 0 }) :
			   key_line(p, (size_t)(nl - p), key);
		if (r < 0)
			return fail(err, en, "%s:%d: not a key: it is one line of %d hexadecimal digits; copy it "
				    "again, or make one with \"roamctl keygen\"", path, line, 2 * KEY_BYTES);
		keys += r;
		if (keys > 1)
			return fail(err, en, "%s:%d: a second key; leave only one", path, line);
	}
	if (!keys)
		return fail(err, en, "%s: holds no key: it is one line of %d hexadecimal digits", path, 2 * KEY_BYTES);
	if (sodium_is_zero(key, KEY_BYTES))
		return fail(err, en, "%s: the key is all zeros; make one with \"roamctl keygen\"", path);
	return true;
}

bool key_load(const char *path, uint8_t key[KEY_BYTES], char *err, unsigned long n)
{
	/* not blocking: the path may name a FIFO */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
	char buf[FILE_MAX];
	ssize_t got;
	bool ok;

	memset(key, 0, KEY_BYTES);
	if (fd < 0)
		return cannot_open(path, errno, err, n);
	ok = check_file(fd, path, err, n);
	if (ok) {
		got = read_all(fd, buf, sizeof(buf));
		ok = got < 0 ? fail(err, n, "%s: %s", path, strerror(errno)) :
			       parse(buf, (size_t)got, path, key, err, n);
	}
	if (!ok)
		sodium_memzero(key, KEY_BYTES);
	sodium_memzero(buf, sizeof(buf));
	close(fd);
	return ok;
}

static bool write_all(int fd, const char *p, size_t n)
{
	ssize_t r;

	while (n) {
		r = write(fd, p, n);
		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			return false;
		p += r;
		n -= (size_t)r;
	}
	return true;
}

bool key_make(const char *path, char *err, unsigned long n)
{
	char hex[2 * KEY_BYTES + 1], text[256];
	uint8_t key[KEY_BYTES];
	int fd, e;
	bool ok;

	if (sodium_init() < 0)
		return fail(err, n, "%s: libsodium does not start", path);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 && errno == EEXIST)
		return fail(err, n, "%s: is there already, and is not overwritten; remove it first if the cluster "
			    "is to have a new key", path);
	if (fd < 0)
		return fail(err, n, "%s: %s; choose a place that you may write to", path, strerror(errno));
	randombytes_buf(key, sizeof(key));
	sodium_bin2hex(hex, sizeof(hex), key, sizeof(key));
	snprintf(text, sizeof(text), "# The key of a roam cluster: the same on every host, mode 0600, secret.\n%s\n",
		 hex);
	/* a umask may have taken bits away */
	ok = !fchmod(fd, 0600) && write_all(fd, text, strlen(text)) && !fsync(fd);
	e = errno;
	ok = !close(fd) && ok;
	if (!ok) {
		unlink(path);
		fail(err, n, "%s: %s", path, strerror(e));
	}
	sodium_memzero(key, sizeof(key));
	sodium_memzero(hex, sizeof(hex));
	sodium_memzero(text, sizeof(text));
	return ok;
}
