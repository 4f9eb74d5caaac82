/* Connections made and closed, one after the other. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "node.h"

/* More than a slice makes: a full queue drops a SYN, and that costs a second. */
#define BACKLOG 4096

static int fill(const struct endpoint *e, struct sockaddr_in *sin)
{
	memset(sin, 0, sizeof(*sin));
	sin->sin_family = AF_INET;
	sin->sin_port = htons(e->port);
	if (inet_pton(AF_INET, e->addr, &sin->sin_addr) == 1)
		return 0;
	errno = EINVAL;
	return -1;
}

static int set_options(int fd, const struct endpoint *e)
{
	int one = 1;

	if (e->bufs && (setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &e->bufs, sizeof(int)) ||
			setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &e->bufs, sizeof(int))))
		return -1;
	if (e->nagle)
		return 0;
	return setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

int node_listen(struct endpoint *e)
{
	struct sockaddr_in sin;
	socklen_t len = sizeof(sin);
	int fd;

	if (fill(e, &sin))
		return -1;
	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&sin, sizeof(sin)) ||
	    listen(fd, BACKLOG) || getsockname(fd, (struct sockaddr *)&sin, &len))
		return -1;
	e->port = ntohs(sin.sin_port);
	return fd;
}

int node_accept(int lfd, const struct endpoint *e)
{
	int fd = accept(lfd, NULL, NULL);

	return fd < 0 || set_options(fd, e) ? -1 : fd;
}

int node_connect(const struct endpoint *e)
{
	struct sockaddr_in sin;
	int fd;

	if (fill(e, &sin))
		return -1;
	fd = socket(AF_INET, SOCK_STREAM, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&sin, sizeof(sin)))
		return -1;
	return set_options(fd, e) ? -1 : fd;
}

static int recv_all(int fd, char *p, size_t len)
{
	while (len) {
		ssize_t n = recv(fd, p, len, 0);

		if (n == 0)
			errno = ECONNRESET;	/* too early */
		if (n <= 0)
			return -1;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

/*
 * One connection. With size 0 nothing is sent, so the client may run far ahead
 * of the server; a flag that is not MORE makes it wait until the server, which
 * accepts in order, has caught up.
 */
static int one(const struct endpoint *e, size_t size, char flag)
{
	char msg[MAX_CONN_SIZE] = { 0 };
	size_t len = size ? size : flag != MORE;
	int fd = node_connect(e);

	if (fd < 0)
		return -1;
	if (len) {
		msg[len - 1] = flag;
		if (send(fd, msg, len, MSG_NOSIGNAL) != (ssize_t)len ||
		    recv_all(fd, msg, len))
			return -1;
	}
	return close(fd);
}

static int many(const struct endpoint *e, const struct slice *s, uint64_t run_ns,
		char end, struct result *r)
{
	uint64_t t0 = now_ns(), n = 0;

	do {
		if (one(e, s->size, MORE))
			return -1;
		n++;
	} while (now_ns() - t0 < run_ns || n < s->min_units);
	if (one(e, s->size, end))
		return -1;
	r->units = n + 1;
	r->ns = now_ns() - t0;
	return 0;
}

int conn_client(const struct endpoint *e, const struct slice *s, struct result *r)
{
	if (s->warm_ns && many(e, s, s->warm_ns, ACK, r))
		return -1;
	return many(e, s, s->run_ns, STOP, r);
}

/* The client closes first, so the TIME_WAITs are on its side, as usual. */
int conn_server(int lfd, const struct endpoint *e, const struct slice *s,
		struct result *r)
{
	char msg[MAX_CONN_SIZE], flag = MORE;

	while (flag != STOP) {
		size_t len = s->size ? s->size : 1;
		int fd = node_accept(lfd, e);
		int n;

		if (fd < 0)
			return -1;
		n = recv_all(fd, msg, len);
		if (n < 0 && s->size)
			return -1;
		if (n == 0) {	/* else: closed without a byte, as size 0 does */
			flag = msg[len - 1];
			if (send(fd, msg, len, MSG_NOSIGNAL) != (ssize_t)len ||
			    recv(fd, msg, 1, 0) != 0)
				return -1;
		}
		if (close(fd))
			return -1;
		r->units++;
	}
	return 0;
}
