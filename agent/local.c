#include "local.h"
#include "agent.h"
#include "command.h"
#include "ends.h"
#include "markers.h"
#include "offer.h"
#include "parked.h"
#include "query.h"
#include "rates.h"
#include "reason.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define QUEUE_MAX 1024		/* and two for every end that it holds */
#define QUEUE_FULL 256		/* its answers are not read: nor are its questions */
#define PER_USER 4096		/* connections of one user */
#define FDS 4			/* more than any message has; all are closed */

struct packet {
	struct packet *next;
	int fd;
	uint16_t n;
	uint8_t buf[];
};

static struct watch listener;
static struct timer pause_timer;
static char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
static struct proc **procs;		/* by id */
static uint32_t cap, count;

/* ---- sending */

static ssize_t send_one(int sock, const uint8_t *buf, size_t n, int fd)
{
	union { struct cmsghdr h; char b[CMSG_SPACE(sizeof(int))]; } c;
	struct iovec io = { (void *)(uintptr_t)buf, n };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1 };

	if (fd >= 0) {
		memset(&c, 0, sizeof(c));
		c.h.cmsg_level = SOL_SOCKET;
		c.h.cmsg_type = SCM_RIGHTS;
		c.h.cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(&c.h), &fd, sizeof(int));
		m.msg_control = &c;
		m.msg_controllen = sizeof(c);
	}
	return sendmsg(sock, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static bool later(int e)
{
	/* ETOOMANYREFS: descriptors in flight; a slow reader's, so wait for it. */
	return e == EAGAIN || e == ENOBUFS || e == ENOMEM || e == ETOOMANYREFS || e == EINTR;
}

static void unqueue(struct proc *p)
{
	struct packet *k = p->first;

	p->first = k->next;
	if (!p->first)
		p->last = &p->first;
	p->queued--;
	if (k->fd >= 0)
		close(k->fd);
	free(k);
}

static void want(struct proc *p)
{
	watch_mod(&p->w, (p->queued < QUEUE_FULL ? EPOLLIN : 0u) | (p->first ? EPOLLOUT : 0u));
}

static void flush(struct proc *p)
{
	while (p->first && !p->dead) {
		if (send_one(p->w.fd, p->first->buf, p->first->n, p->first->fd) < 0) {
			if (later(errno))
				break;
			/* It has hung up: what it said before is still to be read, then comes the end. */
		}
		unqueue(p);
	}
	want(p);
}

static void queue(struct proc *p, const uint8_t *buf, size_t n, int fd)
{
	struct packet *k = p->queued < QUEUE_MAX + 2 * p->owns ? malloc(sizeof(*k) + n) : NULL;

	if (!k) {
		COUNT(dropped_slow);
		local_drop(p, "it does not read what the agent sends");
		return;
	}
	k->next = NULL;
	k->n = (uint16_t)n;
	k->fd = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3);
	memcpy(k->buf, buf, n);
	*p->last = k;
	p->last = &k->next;
	p->queued++;
	want(p);
}

void local_send_raw(struct proc *p, const uint8_t *buf, size_t n, int fd)
{
	if (p->dead)
		return;
	if (p->first) {
		queue(p, buf, n, fd);
		return;
	}
	if (send_one(p->w.fd, buf, n, fd) >= 0)
		return;
	if (later(errno))
		queue(p, buf, n, fd);
}

void local_send(struct proc *p, const struct msg *m, int fd)
{
	uint8_t buf[WIRE_MAX];

	local_send_raw(p, buf, wire_encode(m, NULL, buf), fd);
}

void local_refuse(struct proc *p, uint64_t nonce, uint32_t reason)
{
	struct msg m = { .type = MSG_REFUSE, .nonce = nonce, .reason = reason };

	local_send(p, &m, -1);
}

/* ---- the table of processes */

struct proc *local_proc(uint32_t id)
{
	return id < cap && procs[id] && !procs[id]->dead ? procs[id] : NULL;
}

struct proc *local_by_pid(uint32_t pid, struct proc *after)
{
	uint32_t i;

	for (i = after ? after->id + 1 : 0; i < cap; i++)
		if (procs[i] && !procs[i]->dead && procs[i]->registered && procs[i]->pid == pid)
			return procs[i];
	return NULL;
}

void local_each(void (*fn)(void *arg, struct proc *p), void *arg)
{
	uint32_t i;

	for (i = 0; i < cap; i++)
		if (procs[i] && !procs[i]->dead && procs[i]->registered)
			fn(arg, procs[i]);
}

uint32_t local_count(void)
{
	return count;
}

static bool place(struct proc *p)
{
	uint32_t i = 0, more;
	struct proc **q;

	while (i < cap && procs[i])
		i++;
	if (i == cap) {
		more = cap ? 2 * cap : 32;
		q = realloc(procs, more * sizeof(*q));
		if (!q)
			return false;
		memset(q + cap, 0, (more - cap) * sizeof(*q));
		procs = q;
		cap = more;
	}
	procs[i] = p;
	p->id = i;
	count++;
	return true;
}

static void reap(struct timer *t)
{
	struct proc *p = container_of(t, struct proc, t);

	/* Those who look for the process find it dead, so the order does not matter. */
	if (p->control)
		command_gone(p);
	if (p->registered) {
		command_proc_gone(p);
		offer_proc_gone(p);
		query_proc_gone(p);
		parked_proc_gone(p);
		ends_proc_gone(p);
	}
	while (p->first)
		unqueue(p);
	timer_stop(&p->t);
	procs[p->id] = NULL;
	count--;
	free(p);
}

void local_drop(struct proc *p, const char *why)
{
	if (p->dead)
		return;
	if (why)
		say_seldom("process %u (user %u): connection closed: %s", p->pid, p->uid, why);
	p->dead = true;
	watch_del(&p->w);
	close(p->w.fd);
	/* Not now: the caller may be in the middle of a list. */
	timer_at(&p->t, loop_now(), reap);
}

/* ---- receiving */

static void registered(struct proc *p, const struct msg *m)
{
	struct msg a = { .type = MSG_AGENT, .port = ag.port };

	if (m->pid != p->pid) {
		COUNT(refused_uid);
		local_refuse(p, 0, REASON_DENIED);
		local_drop(p, "it registers as another process");
		return;
	}
	p->registered = true;
	timer_stop(&p->t);
	memcpy(a.host, ag.host, 16);
	local_send(p, &a, -1);
	say_debug("process %u (user %u) is here", p->pid, p->uid);
}

static void dispatch(struct proc *p, const struct msg *m, const uint8_t *buf, size_t n, int fd)
{
	if (!p->registered) {
		if (m->type == MSG_REGISTER && !p->control) {
			registered(p, m);
		} else if (m->type == MSG_COMMAND) {
			p->control = true;
			timer_stop(&p->t);
			command_ask(p, m);
		} else {
			COUNT(refused_garbage);
			local_drop(p, "it does not begin with REGISTER");
		}
		return;
	}
	switch (m->type) {
	case MSG_OFFER: offer_local(p, m, fd); break;
	case MSG_HELLO: offer_hello(p, m, fd); break;
	case MSG_WELCOME:
	case MSG_REFUSE: offer_answer(p, m, buf, n); break;
	case MSG_OWN: ends_own(p, m); break;
	case MSG_RELEASE: ends_release(p, m); break;
	case MSG_NOTICE: ends_notice(p, m, buf, n); break;
	case MSG_QUERY: query_local(p, m); break;
	case MSG_REPORT: command_report(p, m, fd); break;
	case MSG_IMAGE: parked_image(p, m, fd); break;
	case MSG_LISTEN: parked_listen(p, m); break;
	case MSG_RATE: rates_report(p, m); break;
	default:
		COUNT(refused_garbage);
		local_drop(p, "a message that is not for an agent");
	}
}

static ssize_t receive(int sock, uint8_t *buf, size_t n, int *fds, int *nfds)
{
	union { struct cmsghdr h; char b[CMSG_SPACE(FDS * sizeof(int))]; } c;
	struct iovec io = { buf, n };
	struct msghdr m = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof(c) };
	ssize_t r = recvmsg(sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *h;

	*nfds = 0;
	if (r < 0)
		return r;
	for (h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h)) {
		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		*nfds = (int)((h->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(h), (size_t)*nfds * sizeof(int));
	}
	return r;
}

static void ready(struct watch *w, uint32_t events)
{
	struct proc *p = container_of(w, struct proc, w);
	uint8_t buf[WIRE_MAX + 1];
	int fds[FDS], nfds, i, rounds;
	enum wire_error err;
	struct msg m;
	ssize_t r;

	if (events & EPOLLOUT)
		flush(p);
	/* A few at a time: one process may not keep the others waiting. */
	for (rounds = 0; rounds < 32 && !p->dead && p->queued < QUEUE_FULL; rounds++) {
		r = receive(p->w.fd, buf, sizeof(buf), fds, &nfds);
		/* It went with a message of ours unread; what it said before that still counts. */
		if (r < 0 && errno == ECONNRESET)
			continue;
		if (r < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (r <= 0) {
			local_drop(p, NULL);
			return;
		}
		err = wire_decode(&m, NULL, buf, (size_t)r);
		if (err != WIRE_OK) {
			COUNT(refused_garbage);
			local_drop(p, wire_strerror(err));
		} else {
			dispatch(p, &m, buf, (size_t)r, nfds ? fds[0] : -1);
		}
		for (i = 0; i < nfds; i++)
			close(fds[i]);
	}
}

static void too_late(struct timer *t)
{
	COUNT(refused_slow);
	local_drop(container_of(t, struct proc, t), "it said nothing for 2 s");
}

/* ---- the socket */

static uint32_t of_user(uint32_t uid)
{
	uint32_t i, n = 0;

	for (i = 0; i < cap; i++)
		n += procs[i] && !procs[i]->dead && procs[i]->uid == uid;
	return n;
}

static void welcome(int fd)
{
	struct ucred c;
	socklen_t l = sizeof(c);
	struct proc *p = NULL;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &l) == 0) {
		if (of_user(c.uid) >= PER_USER) {
			COUNT(refused_limit);
			say_seldom("user %u has %d connections to the agent already: refused", c.uid, PER_USER);
		} else {
			p = calloc(1, sizeof(*p));
		}
	}
	if (!p || !place(p)) {
		free(p);
		close(fd);
		return;
	}
	p->pid = (uint32_t)c.pid;
	p->uid = c.uid;
	p->last = &p->first;
	if (!watch_add(&p->w, fd, EPOLLIN, ready)) {
		p->w.fd = fd;
		local_drop(p, "no memory to watch it");
		return;
	}
	timer_at(&p->t, loop_now() + 2 * SEC, too_late);
}

static void resume(struct timer *t)
{
	(void)t;
	watch_mod(&listener, EPOLLIN);
}

static void incoming(struct watch *w, uint32_t events)
{
	(void)events;
	int i, fd;

	for (i = 0; i < 16; i++) {
		fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0) {
			welcome(fd);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
			say_seldom("cannot take a process's connection: %s; those that are connected go on "
				   "(raise the limit of open files)", strerror(errno));
			watch_mod(w, 0);
			timer_at(&pause_timer, loop_now() + 100 * MS, resume);
		}
		return;
	}
}

/* A socket file that nobody answers at is an earlier agent's. */
static bool somebody_there(const struct sockaddr_un *a)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	bool there = fd >= 0 && (connect(fd, (const struct sockaddr *)a, sizeof(*a)) == 0 || errno == EAGAIN);

	if (fd >= 0)
		close(fd);
	return there;
}

bool local_start(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd;

	if (!marker_path(path, sizeof(path), "a.%llu", (unsigned long long)ag.netns)) {
		say_error("%s: the directory's name is too long for a socket; choose a shorter one", ag.conf.dir);
		return false;
	}
	memcpy(a.sun_path, path, sizeof(path));
	if (somebody_there(&a)) {
		say_error("%s: another agent of this network namespace answers there; stop it first", path);
		path[0] = 0;
		return false;
	}
	unlink(path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ||
	    chmod(path, geteuid() ? 0600 : 0666) < 0 || listen(fd, 1024) < 0 ||
	    !watch_add(&listener, fd, EPOLLIN, incoming)) {
		say_error("%s: cannot listen: %s; check the directory's owner and space", path, strerror(errno));
		if (fd >= 0)
			close(fd);
		return false;
	}
	return true;
}

void local_stop(void)
{
	timer_stop(&pause_timer);
	if (!listener.on)
		return;
	watch_del(&listener);
	close(listener.fd);
	unlink(path);
}

void local_free(void)
{
	uint32_t i;

	for (i = 0; i < cap; i++)
		if (procs[i]) {
			local_drop(procs[i], NULL);
			reap(&procs[i]->t);
		}
	free(procs);
	procs = NULL;
	cap = 0;
}
