/* Many connections between a client and a server that watches them with epoll. */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "node.h"

static int *fds, ep = -1;
static unsigned nfds;

/* As many descriptors as there may be: a ring has some of its own. */
static void raise_limit(void)
{
	struct rlimit rl;

	if (getrlimit(RLIMIT_NOFILE, &rl) == 0) {
		rl.rlim_cur = rl.rlim_max;
		setrlimit(RLIMIT_NOFILE, &rl);
	}
}

int many_first(void)
{
	return nfds ? fds[0] : -1;
}

/* Each one is warmed up before the next is made: the library upgrades it then. */
int many_dial(const struct endpoint *e, unsigned count, unsigned exchanges)
{
	int *more = realloc(fds, (nfds + count) * sizeof(*fds));

	if (!more || !count)
		return -1;
	fds = more;
	raise_limit();
	for (unsigned i = 0; i < count; i++) {
		int fd = node_connect(e);

		if (fd < 0)
			return -1;
		fds[nfds++] = fd;
		for (unsigned k = 0; k < exchanges; k++)
			if (exchange(fd, MANY_SIZE, MORE))
				return -1;
	}
	return exchange(fds[nfds - 1], MANY_SIZE, STOP);
}

int many_sweep(const struct slice *s, struct result *r)
{
	uint64_t t0 = now_ns();
	char msg[MANY_SIZE] = { 0 };

	do {
		for (unsigned i = 0; i < nfds; i++)
			if (send(fds[i], msg, MANY_SIZE, MSG_NOSIGNAL) != MANY_SIZE)
				return -1;
		for (unsigned i = 0; i < nfds; i++)
			if (recv(fds[i], msg, MANY_SIZE, MSG_WAITALL) != MANY_SIZE)
				return -1;
		r->units += nfds;
	} while (now_ns() - t0 < s->run_ns);
	r->ns = now_ns() - t0;
	return exchange(fds[0], MANY_SIZE, STOP);
}

static int watch(int fd)
{
	struct epoll_event e = { .events = EPOLLIN, .data.fd = fd };

	return epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
}

/* Answers each message with itself; the one that says so is the last of this command. */
static int answer(int fd, struct result *r)
{
	char msg[MANY_SIZE];
	ssize_t n = recv(fd, msg, MANY_SIZE, MSG_WAITALL);

	if (n != MANY_SIZE) {
		if (n >= 0)
			errno = ECONNRESET;
		return -1;
	}
	r->units++;
	return send(fd, msg, MANY_SIZE, MSG_NOSIGNAL) == MANY_SIZE ? msg[MANY_SIZE - 1] : -1;
}

int many_server(int lfd, const struct endpoint *e, struct result *r)
{
	struct epoll_event ev[64];
	int flag = MORE;

	if (ep < 0) {
		raise_limit();
		ep = epoll_create1(EPOLL_CLOEXEC);
		if (ep < 0 || watch(lfd))
			return -1;
	}
	while (flag == MORE) {
		int n = epoll_wait(ep, ev, 64, -1);

		for (int i = 0; i < n; i++) {
			int got = MORE, fd;

			if (ev[i].data.fd == lfd) {
				fd = node_accept(lfd, e);
				if (fd < 0 || watch(fd))
					return -1;
			} else {
				got = answer(ev[i].data.fd, r);
			}
			if (got < 0)
				return -1;
			flag = got == MORE ? flag : got;
		}
	}
	return 0;
}
