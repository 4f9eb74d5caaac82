#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "util.h"

static const char *name = "example";

void util_init(const char *argv0)
{
	const char *slash = strrchr(argv0, '/');

	name = slash ? slash + 1 : argv0;
	signal(SIGPIPE, SIG_IGN);
}

const char *util_name(void)
{
	return name;
}

static void say(const char *fmt, va_list ap)
{
	char line[512];

	/* One write per line: threads and a shared terminal keep it whole. */
	vsnprintf(line, sizeof(line), fmt, ap);
	fprintf(stderr, "%s: %s\n", name, line);
}

void warn_msg(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(fmt, ap);
	va_end(ap);
}

void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(fmt, ap);
	va_end(ap);
	exit(1);
}

const char *remedy(int err)
{
	switch (err) {
	case ECONNREFUSED:
		return "; nobody listens there: start the server first, or check -a and -p";
	case ECONNRESET:
	case ECONNABORTED:
	case EPIPE:
		return "; the connection broke or the other program ended";
	case EADDRINUSE:
		return "; another program has that port: choose another -p, or 0 for any";
	case EADDRNOTAVAIL:
		return "; the address is not of this host, or all its ports are in use: check -a, or wait a minute";
	case EACCES:
	case EPERM:
		return "; not allowed: use a port above 1023, or check the firewall";
	case EMFILE:
	case ENFILE:
		return "; too many open descriptors: raise `ulimit -n`, or use fewer connections";
	case EHOSTUNREACH:
	case ENETUNREACH:
	case ETIMEDOUT:
		return "; the host cannot be reached: check -a and the network";
	default:
		return "";
	}
}

uint64_t parse_size(char opt, const char *arg, uint64_t min, uint64_t max)
{
	char *end;
	uint64_t v, unit = 1;

	errno = 0;
	v = strtoull(arg, &end, 10);
	if (end == arg || *arg == '-' || errno)
		die("-%c %s: not a number", opt, arg);
	switch (*end) {
	case 'k': case 'K':
		unit = 1 << 10;
		break;
	case 'm': case 'M':
		unit = 1 << 20;
		break;
	case 'g': case 'G':
		unit = 1 << 30;
		break;
	}
	if (unit > 1)
		end++;
	if (*end)
		die("-%c %s: only k, M or G may follow the number", opt, arg);
	if (v > UINT64_MAX / unit || v * unit < min || v * unit > max)
		die("-%c %s: must be from %llu to %llu", opt, arg,
		    (unsigned long long)min, (unsigned long long)max);
	return v * unit;
}

double parse_real(char opt, const char *arg, double min, double max)
{
	char *end;
	double v = strtod(arg, &end);

	if (end == arg || *end)
		die("-%c %s: not a number", opt, arg);
	if (!(v >= min && v <= max))
		die("-%c %s: must be from %g to %g", opt, arg, min, max);
	return v;
}

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void sleep_until(uint64_t ns)
{
	struct timespec ts = {
		.tv_sec = (time_t)(ns / 1000000000u),
		.tv_nsec = (long)(ns % 1000000000u),
	};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR)
		;
}

int set_nonblock(int fd)
{
	int fl = fcntl(fd, F_GETFL);

	return fl < 0 ? -1 : fcntl(fd, F_SETFL, fl | O_NONBLOCK);
}

static struct addrinfo *resolve(const char *addr, unsigned port, int flags)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = flags };
	struct addrinfo *ai;
	char service[8];
	int e;

	snprintf(service, sizeof(service), "%u", port % 65536);
	e = getaddrinfo(addr, service, &hints, &ai);
	if (e)
		die("address %s: %s; give -a a host name or an IP address", addr,
		    gai_strerror(e));
	return ai;
}

int tcp_listen(const char *addr, unsigned port)
{
	struct addrinfo *ai = resolve(addr, port, AI_PASSIVE | AI_NUMERICSERV);
	int fd = socket(ai->ai_family, SOCK_STREAM, 0), one = 1;

	if (fd < 0)
		die("socket: %s%s", strerror(errno), remedy(errno));
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) || listen(fd, 512))
		die("cannot listen on %s:%u: %s%s", addr, port, strerror(errno),
		    remedy(errno));
	freeaddrinfo(ai);
	return fd;
}

int tcp_connect(const char *addr, unsigned port, bool nonblock)
{
	struct addrinfo *ai = resolve(addr, port, AI_NUMERICSERV);
	int fd = socket(ai->ai_family, SOCK_STREAM, 0), one = 1, rc;

	if (fd < 0)
		die("socket: %s%s", strerror(errno), remedy(errno));
	if (nonblock && set_nonblock(fd))
		die("fcntl(O_NONBLOCK): %s", strerror(errno));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	do
		rc = connect(fd, ai->ai_addr, ai->ai_addrlen);
	while (rc && errno == EINTR && !nonblock);
	if (rc && !(nonblock && errno == EINPROGRESS))
		die("cannot connect to %s:%u: %s%s", addr, port, strerror(errno),
		    remedy(errno));
	freeaddrinfo(ai);
	return fd;
}

void peer_name(int fd, bool local, char out[PEER_LEN])
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	char host[48], port[8];
	int rc;

	rc = local ? getsockname(fd, (struct sockaddr *)&ss, &len) :
		     getpeername(fd, (struct sockaddr *)&ss, &len);
	if (rc || getnameinfo((struct sockaddr *)&ss, len, host, sizeof(host), port,
			      sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV))
		snprintf(out, PEER_LEN, "(gone)");
	else
		snprintf(out, PEER_LEN, ss.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s",
			 host, port);
}

void *xmalloc(size_t n)
{
	void *p = calloc(1, n);

	if (!p)
		die("out of memory for %zu bytes; use smaller sizes or fewer connections", n);
	return p;
}
