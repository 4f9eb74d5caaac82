#include "util.h"
#include "agent.h"
#include "loop.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

struct agent ag;

static char *buffer(void)
{
	static char b[8][80];
	static unsigned int i;

	return b[i++ % 8];
}

const char *where_text(uint8_t family, const uint8_t addr[16], uint16_t port)
{
	char *b = buffer(), a[INET6_ADDRSTRLEN];

	if (!family || !inet_ntop(family == 4 ? AF_INET : AF_INET6, addr, a, sizeof(a)))
		return "(no address)";
	if (!port)
		snprintf(b, 80, "%s", a);
	else
		snprintf(b, 80, family == 4 ? "%s:%u" : "[%s]:%u", a, port);
	return b;
}

void hex_text(char *out, const uint8_t *in, size_t n)
{
	sodium_bin2hex(out, 2 * n + 1, in, n);
}

const char *id_text(const uint8_t *id)
{
	char *b = buffer();

	hex_text(b, id, 4);
	return b;
}

bool is_zero(const uint8_t *p, size_t n)
{
	return sodium_is_zero(p, n);
}

uint8_t addr_from(const struct sockaddr_storage *ss, uint8_t addr[16], uint16_t *port)
{
	static const uint8_t mapped[12] = { [10] = 255, 255 };

	memset(addr, 0, 16);
	if (ss->ss_family == AF_INET) {
		const struct sockaddr_in *a = (const struct sockaddr_in *)ss;

		memcpy(addr, &a->sin_addr, 4);
		*port = ntohs(a->sin_port);
		return 4;
	}
	if (ss->ss_family == AF_INET6) {
		const struct sockaddr_in6 *a = (const struct sockaddr_in6 *)ss;

		*port = ntohs(a->sin6_port);
		memcpy(addr, &a->sin6_addr, 16);
		if (memcmp(addr, mapped, 12))
			return 6;
		memmove(addr, addr + 12, 4);
		memset(addr + 4, 0, 12);
		return 4;
	}
	return 0;
}

socklen_t addr_to(uint8_t family, const uint8_t addr[16], uint16_t port, struct sockaddr_storage *ss)
{
	struct sockaddr_in *a4 = (struct sockaddr_in *)ss;
	struct sockaddr_in6 *a6 = (struct sockaddr_in6 *)ss;

	memset(ss, 0, sizeof(*ss));
	if (family == 4) {
		a4->sin_family = AF_INET;
		a4->sin_port = htons(port);
		memcpy(&a4->sin_addr, addr, 4);
		return sizeof(*a4);
	}
	a6->sin6_family = AF_INET6;
	a6->sin6_port = htons(port);
	memcpy(&a6->sin6_addr, addr, 16);
	return sizeof(*a6);
}

bool addr_loopback(uint8_t family, const uint8_t addr[16])
{
	static const uint8_t one[16] = { [15] = 1 };

	return family == 4 ? addr[0] == 127 : !memcmp(addr, one, 16);
}

bool addr_linklocal(uint8_t family, const uint8_t addr[16])
{
	return family == 4 ? addr[0] == 169 && addr[1] == 254 : addr[0] == 0xfe && (addr[1] & 0xc0) == 0x80;
}

bool addr_same(uint8_t fa, const uint8_t *a, uint8_t fb, const uint8_t *b)
{
	return fa == fb && !memcmp(a, b, fa == 4 ? 4 : 16);
}

bool sock_local(int fd, uint8_t *family, uint8_t addr[16], uint16_t *port)
{
	struct sockaddr_storage ss;
	socklen_t l = sizeof(ss);

	if (getsockname(fd, (struct sockaddr *)&ss, &l) < 0)
		return false;
	*family = addr_from(&ss, addr, port);
	return *family != 0;
}

bool sock_remote(int fd, uint8_t *family, uint8_t addr[16], uint16_t *port)
{
	struct sockaddr_storage ss;
	socklen_t l = sizeof(ss);

	if (getpeername(fd, (struct sockaddr *)&ss, &l) < 0)
		return false;
	*family = addr_from(&ss, addr, port);
	return *family != 0;
}

uint64_t pid_start(uint32_t pid)
{
	char buf[512], path[40], *p;
	ssize_t n;
	int fd, i;

	snprintf(path, sizeof(path), "/proc/%u/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, buf, sizeof(buf) - 1);
	close(fd);
	if (n <= 0)
		return 0;
	buf[n] = 0;
	/* The name may hold spaces and parentheses: count from the last ')'. */
	p = strrchr(buf, ')');
	for (i = 2; p && i < 22; i++)
		p = strchr(p + 1, ' ');
	return p ? strtoull(p + 1, NULL, 10) : 0;
}

uint64_t netns_inode(void)
{
	struct stat st;

	return stat("/proc/self/ns/net", &st) < 0 ? 0 : st.st_ino;
}

size_t memfd_size(int fd)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct stat st;

	if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &st) < 0)
		return 0;
	return (size_t)st.st_size;
}

int memfd_with(const char *name, const void *p, size_t n)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING), e;
	size_t done = 0;
	ssize_t r;

	if (fd < 0)
		return -1;
	while (done < n) {
		r = write(fd, (const char *)p + done, n - done);
		if (r <= 0)
			goto fail;
		done += (size_t)r;
	}
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) == 0)
		return fd;
fail:
	e = errno;
	close(fd);
	errno = e;
	return -1;
}

uint64_t random64(void)
{
	uint64_t v;

	do
		randombytes_buf(&v, sizeof(v));
	while (!v);
	return v;
}

/* ---- log lines */

static void line(const char *fmt, va_list ap)
{
	char buf[512];
	size_t n = (size_t)snprintf(buf, sizeof(buf), "roamd[%u]: ", ag.pid);
	int e = errno, r = vsnprintf(buf + n, sizeof(buf) - n - 1, fmt, ap);

	if (r > 0)
		n += (size_t)r < sizeof(buf) - n - 1 ? (size_t)r : sizeof(buf) - n - 2;
	buf[n++] = '\n';
	if (write(2, buf, n) < 0) {
		/* A full disk under the log must not stop the agent. */
	}
	errno = e;
}

#define SAY(name, level) \
void name(const char *fmt, ...) \
{ \
	va_list ap; \
\
	if (ag.conf.log < (level)) \
		return; \
	va_start(ap, fmt); \
	line(fmt, ap); \
	va_end(ap); \
}
SAY(say_error, 0)
SAY(say_info, 1)
SAY(say_debug, 2)

bool say_may(uint64_t *last)
{
	uint64_t now = loop_now();

	if (*last && now - *last < SEC)
		return false;
	*last = now;
	return true;
}
