/* Control channels: UNIX seqpacket connections of the helper. */
#include "helper_int.h"
#include "log.h"
#include "meet.h"
#include "mend.h"
#include "near.h"
#include "sys.h"
#include "upgrade.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

static struct chan *chans;
static unsigned int nchan;

/* Strangers of our own user can connect as often as they like: bounded. */
#define CHAN_MAX 1024

struct chan *chan_open(int fd, uint64_t due_ns, struct vsock *v)
{
	struct chan *c = calloc(1, sizeof(*c));
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = c };

	if (!c || sys_epoll_ctl(helper_ep, EPOLL_CTL_ADD, fd, &ev) < 0) {
		free(c);
		return NULL;
	}
	c->fd = fd;
	c->due = due_ns;
	c->v = v;
	c->birth = v ? atomic_load(&v->birth) : 0;
	c->next = chans;
	chans = c;
	nchan++;
	return c;
}

void chan_close(struct chan *c)
{
	if (!c || c->dead)
		return;
	c->dead = true;		/* freed by the loop: its events may be at hand */
	helper_close(c->fd);
}

static bool orphaned(struct chan *c)
{
	return c->v && atomic_load(&c->v->birth) != c->birth;
}

static void chan_end(struct chan *c)
{
	if (c->dead)
		return;
	if (c->on_end && !orphaned(c))
		c->on_end(c);
	chan_close(c);
}

int chan_send(struct chan *c, const struct msg *m, const uint8_t *key, const int *fds, int nfds)
{
	uint8_t buf[WIRE_MAX];
	size_t n = wire_encode(m, key, buf);

	return sys_send_fds(c->fd, buf, n, fds, nfds);
}

static bool good_uid(int fd)
{
	unsigned int uid;

	return sys_peer_uid(fd, &uid) == 0 && (uid == sys_geteuid() || uid == 0);
}

int chan_connect(const struct sockaddr_un *a)
{
	int fd = helper_keep(sys_seqpacket()), e;
	unsigned int uid;
	struct stat st;

	if (fd < 0)
		return -1;
	if (sys_connect(fd, (const struct sockaddr *)a, sizeof(*a)) < 0) {
		e = errno;
		helper_close(fd);
		errno = e;
		return -1;
	}
	/* The system's directory is root's to give away. */
	if (!good_uid(fd) && !(sys_peer_uid(fd, &uid) == 0 && sys_lstat(MEET_SYSTEM_DIR, &st) == 0 &&
			       !strncmp(a->sun_path, MEET_SYSTEM_DIR "/", sizeof(MEET_SYSTEM_DIR)) &&
			       st.st_uid == uid && !(st.st_mode & 022))) {
		log_error("%s: belongs to another user: not used", a->sun_path);
		helper_close(fd);
		errno = EACCES;
		return -1;
	}
	return fd;
}

int chan_dial(uint32_t pid, uint64_t start)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd, e;

	if (meet_rendezvous(a.sun_path, sizeof(a.sun_path), pid, start) < 0) {
		errno = ENOENT;
		return -1;
	}
	fd = helper_keep(sys_seqpacket());
	if (fd < 0)
		return -1;
	if (sys_connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
		e = errno;
		/* A socket file whose process is gone. */
		if (e == ECONNREFUSED)
			sys_unlink(a.sun_path);
		helper_close(fd);
		errno = e;
		return -1;
	}
	if (!good_uid(fd)) {
		log_error("%s: belongs to another user: not used", a.sun_path);
		helper_close(fd);
		errno = EACCES;
		return -1;
	}
	return fd;
}

/* The first message on an accepted channel says what it is about. */
static void first_msg(struct chan *c, const uint8_t *buf, size_t n, int *fds, int nfds)
{
	struct msg m;
	enum wire_error we = wire_decode(&m, NULL, buf, n);

	if (we != WIRE_OK) {
		log_debug("rendezvous: %s (%zu bytes)", wire_strerror(we), n);
		chan_close(c);
		return;
	}
	switch (m.type) {
	case MSG_HELLO:
		upgrade_hello(c, &m);
		break;
	case MSG_REQ:
		mend_request(c, &m, buf, n, fds, nfds);
		break;
	case MSG_PULL:
		mend_pull(c, &m, buf, n);
		break;
	case MSG_NEAR:
		near_asked(c, &m, buf, n);
		break;
	default:
		log_debug("rendezvous: unexpected %s", wire_name(m.type));
		chan_close(c);
	}
}

void chan_readable(struct chan *c)
{
	uint8_t buf[WIRE_MAX + 1];
	int fds[3] = { -1, -1, -1 }, nfds = ARRAY_SIZE(fds), i;
	ssize_t n = sys_recv_fds(c->fd, buf, sizeof(buf), fds, &nfds);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		chan_end(c);
		return;
	}
	for (i = 0; i < nfds; i++)
		fds[i] = helper_keep(fds[i]);
	if (orphaned(c))
		chan_close(c);
	else
		c->on_msg(c, buf, (size_t)n, fds, nfds);
	for (i = 0; i < nfds; i++)
		helper_close(fds[i]);	/* a handler that keeps one leaves -1 */
}

/* Strangers that connect and say nothing must not keep others out: the oldest goes. */
static void make_room(void)
{
	struct chan *c, *oldest = NULL;

	if (nchan < CHAN_MAX)
		return;
	for (c = chans; c; c = c->next)
		if (!c->dead && c->on_msg == first_msg)
			oldest = c;
	chan_close(oldest);
}

void chan_accept(int listen_fd)
{
	int fd, i;

	/* Bounded: mending goes on between the bursts of a noisy neighbour. */
	for (i = 0; i < 64; i++) {
		struct chan *c;

		fd = sys_accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0)
			return;
		fd = helper_keep(fd);
		if (fd < 0)
			continue;
		make_room();
		if (nchan >= 2 * CHAN_MAX || !good_uid(fd)) {
			log_debug("rendezvous: refused a connection");
			helper_close(fd);
			continue;
		}
		c = chan_open(fd, sys_now_ns() + 2000000000u, NULL);
		if (c)
			c->on_msg = first_msg;
		else
			helper_close(fd);
	}
}

void chan_sweep(uint64_t now)
{
	struct chan **p = &chans, *c;

	for (c = chans; c; c = c->next)
		if (!c->dead && c->due && c->due <= now)
			chan_end(c);
	while ((c = *p)) {
		if (c->dead) {
			*p = c->next;
			nchan--;
			free(c);
			continue;
		}
		p = &c->next;
	}
}

void chan_due(uint64_t *next)
{
	struct chan *c;

	for (c = chans; c; c = c->next)
		if (!c->dead && c->due && (!*next || c->due < *next))
			*next = c->due;
}

void chan_table_gone(void)
{
	struct chan *c;

	for (c = chans; c; c = c->next) {
		c->fd = -1;
		c->dead = true;
	}
}

void chan_close_all(void)
{
	struct chan *c;

	for (c = chans; c; c = c->next)
		chan_end(c);
}

void chan_fork_child(void)
{
	chans = NULL;		/* the parent's */
	nchan = 0;
}
