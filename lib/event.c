#include "event.h"
#include "helper.h"
#include "sys.h"
#include "vring.h"
#include <errno.h>
#include <string.h>

#define MAX 8

_Atomic uint32_t event_subscribers;

/* Innermost of all locks: taken with any other one held, and nothing is waited for below it. */
static shlock lock;
static struct subscriber {
	int fd;			/* + 1; 0: free */
	uint32_t lost;
} subs[MAX];

static void describe(struct vsock *v, struct roam_event *e)
{
	struct vstate *st = v ? atomic_load(&v->st) : NULL;

	e->fd = v ? atomic_load(&v->fd) : -1;
	if (!st)
		return;
	memcpy(e->gid, st->ho.gid, sizeof(e->gid));
	e->link = e->kind == ROAM_EVENT_PLAIN ? ROAM_LINK_PLAIN : vring_of(v) ? ROAM_LINK_RING :
		atomic_load(&st->phase) & PH_CODED ? ROAM_LINK_CODEC : ROAM_LINK_TCP;
}

static void send_to(struct subscriber *s, struct roam_event *e)
{
	int fd = s->fd - 1, own = -1;

	if (roam_in_helper)
		fd = own = helper_borrow(fd);
	e->lost = s->lost;
	if (fd < 0 || sys_send(fd, e, sizeof(*e), MSG_NOSIGNAL | MSG_DONTWAIT) != sizeof(*e))
		s->lost++;
	else
		s->lost = 0;
	helper_close(own);
}

void event_send(struct vsock *v, uint32_t kind, uint32_t reason, uint64_t n)
{
	struct roam_event e = { .size = sizeof(e), .kind = kind, .reason = (int32_t)reason };
	int i, err = errno;

	if (roam_vfork_child)
		return;
	e.time_ns = sys_now_ns();
	if (kind == ROAM_EVENT_MENDED || kind == ROAM_EVENT_LINK)
		e.stall_ns = n;
	else
		e.value = n;
	describe(v, &e);
	/* A signal handler over ourselves: an event less, but no deadlock. */
	if (shlock_take(&lock, -1, false) != SHLOCK_SELF) {
		for (i = 0; i < MAX; i++)
			if (subs[i].fd)
				send_to(&subs[i], &e);
		shlock_drop(&lock);
	}
	errno = err;
}

/* Those whose other end was closed; the lock is held, and this is the program's table. */
static void sweep(void)
{
	int i;

	for (i = 0; i < MAX; i++) {
		struct pollfd p = { subs[i].fd - 1, 0, 0 };

		if (!subs[i].fd || sys_poll(&p, 1, 0) <= 0 || !(p.revents & (POLLHUP | POLLERR)))
			continue;
		fdtab_close_hidden(subs[i].fd - 1);
		subs[i].fd = 0;
		atomic_fetch_sub(&event_subscribers, 1);
	}
}

int roam_events(void)
{
	int i, pair[2], hidden, e;

	if (roam_vfork_child || shlock_take(&lock, -1, false) == SHLOCK_SELF) {
		errno = EDEADLK;
		return -1;
	}
	sweep();
	for (i = 0; i < MAX && subs[i].fd; i++)
		;
	errno = EMFILE;
	if (i == MAX || sys_socketpair(pair) < 0)
		goto fail;
	hidden = fdtab_hide(pair[1]);
	if (hidden < 0) {
		e = errno;
		sys_close(pair[0]);
		errno = e;
		goto fail;
	}
	subs[i] = (struct subscriber){ .fd = hidden + 1 };
	atomic_fetch_add(&event_subscribers, 1);
	shlock_drop(&lock);
	return pair[0];
fail:
	shlock_drop(&lock);
	return -1;
}

/* Its first version: what a caller's structure holds at least. */
#define EVENT_V1 64

int roam_event_read(int efd, struct roam_event *ev, size_t size)
{
	struct roam_event e;
	ssize_t n;

	_Static_assert(sizeof(e) == EVENT_V1, "a larger one goes on being read by programs that know the first");
	if (size < EVENT_V1 || fdtab_raw(efd)) {
		errno = EINVAL;
		return -1;
	}
	n = sys_recv(efd, &e, sizeof(e), MSG_DONTWAIT);
	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n != sizeof(e) || e.size != sizeof(e)) {
		errno = n < 0 ? errno : n == 0 ? EPIPE : EINVAL;
		return -1;
	}
	memset(ev, 0, size);
	memcpy(ev, &e, size < sizeof(e) ? size : sizeof(e));
	ev->size = (uint32_t)(size < sizeof(e) ? size : sizeof(e));
	return 1;
}

void event_moved(int from, int to)
{
	int i;

	if (shlock_take(&lock, -1, false) == SHLOCK_SELF)
		return;
	for (i = 0; i < MAX; i++)
		if (subs[i].fd == from + 1)
			subs[i].fd = to + 1;
	shlock_drop(&lock);
}

void event_fork_child(void)
{
	/* Hidden descriptors are closed already (helper_fork_child). */
	memset(subs, 0, sizeof(subs));
	lock = 0;
	atomic_store(&event_subscribers, 0);
}
