#include "poll_ring.h"
#include "coding.h"
#include "ep.h"
#include "vring.h"
#include "vs_int.h"

#define ALWAYS (POLLERR | POLLHUP | POLLNVAL)
#define TROUBLE (POLLERR | POLLHUP | POLLRDHUP)
#define BYTES	(POLLIN | POLLRDNORM)
#define KERNEL_EVERY 16u	/* looks at the rings, then one into the kernel while spinning */

static __thread struct spin poll_spin;

void poll_asked(struct pollfd *tmp, const struct pollfd *fds, nfds_t n)
{
	nfds_t i;

	memcpy(tmp, fds, n * sizeof(*tmp));
	for (i = 0; i < n; i++) {
		struct vsock *v = tmp[i].fd < 0 || !(tmp[i].events & BYTES) ? NULL : fdtab_vsock(tmp[i].fd);

		if (v && vs_live(v))
			tmp[i].events |= POLLRDHUP;
	}
}

bool poll_sift(struct pollfd *p)
{
	bool asked = p->events & POLLRDHUP;
	struct vsock *v;

	if (!coding_sift(p))
		return false;
	v = p->revents & TROUBLE && p->fd >= 0 ? fdtab_vsock(p->fd) : NULL;
	if (v && vs_ready_end(v, (uint32_t)p->revents, asked)) {
		p->revents = 0;
	} else if (p->revents & POLLRDHUP && !asked) {
		/* Asked for by us; the program calls it readable. */
		p->revents &= ~POLLRDHUP;
		p->revents |= p->events & BYTES;
	}
	return p->revents;
}

static struct vsock *ringed(int fd, struct vring **vr)
{
	struct vsock *v = fd < 0 ? NULL : fdtab_vsock(fd);

	*vr = v ? vring_of(v) : NULL;
	return *vr ? v : NULL;
}

/* What the rings say: entries that are ready; *rings: how many there are. */
static int look(struct pollfd *fds, nfds_t n, nfds_t *rings)
{
	struct vring *vr;
	struct vsock *v;
	int ready = 0;
	nfds_t i;

	*rings = 0;
	for (i = 0; i < n; i++) {
		fds[i].revents = 0;
		v = ringed(fds[i].fd, &vr);
		if (!v)
			continue;
		++*rings;
		fds[i].revents = (short)(vring_events(v, vr) & (fds[i].events | ALWAYS));
		ready += fds[i].revents != 0;
	}
	return ready;
}

/* For the kernel: of a ring's base only doorbells and the end count. */
static void translate(struct pollfd *tmp, const struct pollfd *fds, nfds_t n)
{
	struct vring *vr;
	nfds_t i;

	poll_asked(tmp, fds, n);
	for (i = 0; i < n; i++)
		if (ringed(tmp[i].fd, &vr))
			tmp[i].events = POLLIN | POLLRDHUP;
}

/* The kernel's results into fds; entries that are ready. */
static int merge(struct pollfd *fds, const struct pollfd *tmp, nfds_t n, bool *kept)
{
	struct vring *vr;
	struct vsock *v;
	int ready = 0;
	nfds_t i;

	for (i = 0; i < n; i++) {
		v = ringed(fds[i].fd, &vr);
		fds[i].revents = tmp[i].revents;
		if (v) {
			bool over = atomic_load(atomic_load(&v->phasep)) & PH_NOREP;

			fds[i].revents = (short)(vring_events(v, vr) & (fds[i].events | ALWAYS));
			if (tmp[i].revents & TROUBLE && vs_ready_trouble(v, (uint32_t)tmp[i].revents)) {
				*kept |= vs_mending(v);
				continue;
			}
			if (over || !(tmp[i].revents & POLLERR && vring_orderly(v, atomic_load(&v->st), vr)))
				fds[i].revents |= (short)(tmp[i].revents & (over ? fds[i].events | ALWAYS : ALWAYS));
			if (over && fds[i].events & POLLOUT)
				fds[i].revents |= POLLOUT;
		} else if (fds[i].revents && !poll_sift(&fds[i])) {
			*kept = true;
		}
		ready += fds[i].revents != 0;
	}
	return ready;
}

struct armed {			/* what vring_arm has allowed, until the sleep is over */
	struct pollfd *fds;
	struct vsock *few[32], **v;
	nfds_t n;
};

static short rx(const struct pollfd *p)
{
	return p->events & (POLLIN | POLLRDNORM);
}

static short tx(const struct pollfd *p)
{
	return p->events & (POLLOUT | POLLWRNORM);
}

/* Also on the way of a cancelled thread. */
static void unarm(struct armed *a)
{
	for (; a->n; a->n--)
		if (a->v[a->n - 1])
			vring_unarm(a->v[a->n - 1], rx(&a->fds[a->n - 1]), tx(&a->fds[a->n - 1]));
	if (a->v != a->few)
		free(a->v);
	a->v = a->few;
}

/* Every ring that is waited for will wake us; false: one has something. */
static bool arm(struct armed *a, struct pollfd *fds, nfds_t n)
{
	struct vring *vr;
	struct vsock *v;
	nfds_t i, rings;

	a->fds = fds;
	if (n > ARRAY_SIZE(a->few)) {
		struct vsock **more = malloc(n * sizeof(*more));

		if (!more)
			return false;
		a->v = more;
	}
	for (i = 0; i < n; i++) {
		v = ringed(fds[i].fd, &vr);
		if (v && !vring_arm(v, vr, fds[i].fd, rx(&fds[i]), RING_ANY, tx(&fds[i])))
			return false;
		a->v[a->n++] = v;
	}
	return look(fds, n, &rings) == 0;
}

static bool broken(struct pollfd *fds, nfds_t n)
{
	struct vring *vr;
	struct vsock *v;
	nfds_t i;

	for (i = 0; i < n; i++) {
		v = ringed(fds[i].fd, &vr);
		if (v && vs_mending(v))
			return true;
	}
	return atomic_load(&vs_to_install);
}

/* True: something is ready. */
static bool spin(struct pollfd *fds, struct pollfd *tmp, nfds_t n, struct spin_wait *w)
{
	static const struct timespec zero;
	unsigned int looks = 0;
	bool ready;
	nfds_t rings;

	do {
		ready = look(fds, n, &rings) != 0;
		if (!ready && rings < n && ++looks % KERNEL_EVERY == 0) {
			translate(tmp, fds, n);
			ready = sys_ppoll(tmp, n, &zero, NULL) > 0;
		}
	} while (!ready && !broken(fds, n) && spin_more(w, SPIN_SYSCALL / 4));
	return ready;
}

int poll_rings(struct pollfd *fds, nfds_t n, const struct timespec *tmo, const sigset_t *mask, bool *kept)
{
	static const struct timespec zero;
	struct pollfd few[32], *tmp = n > ARRAY_SIZE(few) ? malloc(n * sizeof(*tmp)) : few;
	struct armed a __attribute__((cleanup(unarm))) = { .v = a.few };
	bool ready = tmo && !tmo->tv_sec && !tmo->tv_nsec, spun;
	struct spin_wait w;
	nfds_t rings;
	int r, e;

	if (!tmp) {
		errno = ENOMEM;
		return -1;
	}
	ready = look(fds, n, &rings) != 0 || ready;
	spun = !ready && rings;
	if (spun)
		ready = (spin_begin(&w, &poll_spin, 0, NULL) && spin(fds, tmp, n, &w)) || broken(fds, n) || !arm(&a, fds, n);
	translate(tmp, fds, n);
	/* Something is there, or may be: what else is? */
	r = sys_ppoll(tmp, n, ready ? &zero : tmo, mask);
	e = errno;
	unarm(&a);
	if (spun)
		spin_end(&w);
	if (r >= 0)
		r = merge(fds, tmp, n, kept);
	if (tmp != few)
		free(tmp);
	/* Woken by a doorbell for nothing, or a link to be exchanged. */
	if (r == 0)
		*kept = true;
	errno = e;
	return r;
}
