#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <unistd.h>

#include "ev.h"
#include "util.h"

struct ev_item {
	int fd;
	unsigned want;
	void *data;
};

enum ev_mode ev_parse(const char *arg)
{
	static const char *const names[] = {
		"blocking", "poll", "select", "epoll", "epoll-et", "epoll-oneshot",
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		if (!strcmp(arg, names[i]))
			return (enum ev_mode)i;
	die("-e %s: unknown mode; use %s", arg, EV_MODES);
}

/* Edge-triggered: an edge is reported once, so everything must be taken. */
bool ev_greedy(enum ev_mode mode)
{
	return mode == EV_EPOLL_ET;
}

static bool is_epoll(const struct ev *ev)
{
	return ev->mode >= EV_EPOLL;
}

int ev_open(struct ev *ev, enum ev_mode mode)
{
	memset(ev, 0, sizeof(*ev));
	ev->mode = mode;
	ev->epfd = -1;
	if (is_epoll(ev))
		ev->epfd = epoll_create1(EPOLL_CLOEXEC);
	return is_epoll(ev) && ev->epfd < 0 ? -1 : 0;
}

void ev_close(struct ev *ev)
{
	if (ev->epfd >= 0)
		close(ev->epfd);
	free(ev->item);
	free(ev->index);
	free(ev->hit);
	free(ev->raw);
	memset(ev, 0, sizeof(*ev));
	ev->epfd = -1;
}

static void *grow(void *p, size_t n, size_t size)
{
	p = realloc(p, n * size);
	if (!p)
		die("out of memory for %zu connections; use fewer", n);
	return p;
}

static struct ev_item *find(struct ev *ev, int fd)
{
	if ((size_t)fd >= ev->index_cap || ev->index[fd] < 0)
		return NULL;
	return &ev->item[ev->index[fd]];
}

static struct ev_item *add(struct ev *ev, int fd)
{
	if (ev->n == ev->cap) {
		size_t raw = sizeof(struct pollfd) > sizeof(struct epoll_event) ?
			     sizeof(struct pollfd) : sizeof(struct epoll_event);

		ev->cap = ev->cap ? 2 * ev->cap : 16;
		ev->item = grow(ev->item, ev->cap, sizeof(*ev->item));
		ev->hit = grow(ev->hit, ev->cap, sizeof(*ev->hit));
		ev->raw = grow(ev->raw, ev->cap, raw);
	}
	if ((size_t)fd >= ev->index_cap) {
		size_t cap = ((size_t)fd + 1) * 2;

		ev->index = grow(ev->index, cap, sizeof(*ev->index));
		for (size_t i = ev->index_cap; i < cap; i++)
			ev->index[i] = -1;
		ev->index_cap = cap;
	}
	ev->index[fd] = (int)ev->n;
	ev->item[ev->n].fd = fd;
	return &ev->item[ev->n++];
}

int ev_set(struct ev *ev, int fd, unsigned want, void *data)
{
	struct ev_item *it = find(ev, fd);
	bool fresh = !it, changed = fresh || it->want != want || it->data != data;
	struct epoll_event e = { 0 };

	if (ev->mode == EV_SELECT && fd >= FD_SETSIZE) {
		errno = ERANGE;
		return -1;
	}
	if (fresh)
		it = add(ev, fd);
	it->want = want;
	it->data = data;
	if (!is_epoll(ev))
		return 0;

	e.data.fd = fd;
	switch (ev->mode) {
	case EV_EPOLL_ET:	/* registered once, for all edges */
		changed = fresh;
		want = EV_IN | EV_OUT;
		e.events = EPOLLET;
		break;
	case EV_EPOLL_ONESHOT:	/* disarmed by its hit, so always armed again */
		changed = true;
		e.events = EPOLLONESHOT;
		break;
	default:
		break;
	}
	if (!changed)
		return 0;
	e.events |= (want & EV_IN ? (unsigned)EPOLLIN : 0) |
		    (want & EV_OUT ? (unsigned)EPOLLOUT : 0);
	return epoll_ctl(ev->epfd, fresh ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &e);
}

void ev_del(struct ev *ev, int fd)
{
	struct ev_item *it = find(ev, fd), *last;

	if (!it)
		return;
	if (is_epoll(ev))
		epoll_ctl(ev->epfd, EPOLL_CTL_DEL, fd, NULL);
	last = &ev->item[--ev->n];
	ev->index[last->fd] = (int)(it - ev->item);
	*it = *last;
	ev->index[fd] = -1;
}

void *ev_pop(struct ev *ev)
{
	for (size_t i = 0; i < ev->n; i++) {
		void *data = ev->item[i].data;

		if (data) {
			ev_del(ev, ev->item[i].fd);
			return data;
		}
	}
	return NULL;
}

static int put_hit(struct ev *ev, int n, int fd, unsigned ready)
{
	struct ev_item *it = find(ev, fd);

	if (!ready || !it)
		return n;
	ev->hit[n] = (struct ev_hit){ .fd = fd, .ready = ready, .data = it->data };
	return n + 1;
}

static int wait_epoll(struct ev *ev, int timeout_ms)
{
	struct epoll_event *e = ev->raw;
	int hits = 0, n = epoll_wait(ev->epfd, e, (int)ev->cap, timeout_ms);

	/* An error or hang-up is found by the next recv or send: report both. */
	for (int i = 0; i < n; i++)
		hits = put_hit(ev, hits, e[i].data.fd,
			       (e[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP) ? EV_IN : 0) |
			       (e[i].events & (EPOLLOUT | EPOLLERR | EPOLLHUP) ? EV_OUT : 0));
	return n < 0 ? n : hits;
}

static int wait_poll(struct ev *ev, int timeout_ms)
{
	struct pollfd *p = ev->raw;
	int hits = 0, n;

	for (size_t i = 0; i < ev->n; i++) {
		unsigned want = ev->item[i].want;

		p[i].fd = ev->item[i].fd;
		p[i].events = (short)((want & EV_IN ? POLLIN : 0) |
				      (want & EV_OUT ? POLLOUT : 0));
	}
	n = poll(p, ev->n, timeout_ms);
	for (size_t i = 0; n > 0 && i < ev->n; i++)
		hits = put_hit(ev, hits, p[i].fd,
			       (p[i].revents & (POLLIN | POLLERR | POLLHUP) ? EV_IN : 0) |
			       (p[i].revents & (POLLOUT | POLLERR | POLLHUP) ? EV_OUT : 0));
	return n < 0 ? n : hits;
}

static int wait_select(struct ev *ev, int timeout_ms)
{
	struct timeval tv = { timeout_ms / 1000, timeout_ms % 1000 * 1000 };
	int hits = 0, n, max = -1;
	fd_set in, out;

	FD_ZERO(&in);
	FD_ZERO(&out);
	for (size_t i = 0; i < ev->n; i++) {
		int fd = ev->item[i].fd;

		if (ev->item[i].want & EV_IN)
			FD_SET(fd, &in);
		if (ev->item[i].want & EV_OUT)
			FD_SET(fd, &out);
		max = fd > max ? fd : max;
	}
	n = select(max + 1, &in, &out, NULL, timeout_ms < 0 ? NULL : &tv);
	for (size_t i = 0; n > 0 && i < ev->n; i++)
		hits = put_hit(ev, hits, ev->item[i].fd,
			       (FD_ISSET(ev->item[i].fd, &in) ? EV_IN : 0) |
			       (FD_ISSET(ev->item[i].fd, &out) ? EV_OUT : 0));
	return n < 0 ? n : hits;
}

int ev_wait(struct ev *ev, int timeout_ms)
{
	int n = is_epoll(ev) ? wait_epoll(ev, timeout_ms) :
		ev->mode == EV_POLL ? wait_poll(ev, timeout_ms) :
		wait_select(ev, timeout_ms);

	if (n < 0 && errno != EINTR)
		die("waiting for events: %s", strerror(errno));
	return n < 0 ? 0 : n;
}
