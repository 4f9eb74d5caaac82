/*
 * The provider between processes of one host: a region is a memfd, sealed
 * against shrinking, so that nobody can take the pages away and make an access
 * a SIGBUS; both ends map it.  There is nothing to do for a put.
 */
#include "provider.h"
#include "sys.h"
#include <errno.h>

static void shm_close(struct prov *p)
{
	if (p->in)
		sys_unmap(p->in, p->len);
	if (p->out)
		sys_unmap(p->out, p->len);
	if (p->fd >= 0)
		sys_close(p->fd);
	p->in = p->out = NULL;
	p->fd = -1;
}

static int shm_open_region(struct prov *p, size_t len)
{
	int e;

	p->out = NULL;
	p->len = len;
	p->fd = sys_memfd("roam-ring", len);
	p->in = p->fd < 0 ? NULL : sys_map_shared(p->fd, len);
	if (!p->in) {
		e = errno;
		shm_close(p);
		errno = e;
		return -1;
	}
	p->joined = sys_barrier_join() == 0;
	return 0;
}

static int shm_key(struct prov *p, struct prov_key *k)
{
	*k = (struct prov_key){ .kind = PROV_SHM, .flags = p->joined ? PROV_BARRIER : 0,
				.len = p->len, .fd = p->fd };
	return 0;
}

static int shm_join(struct prov *p, const struct prov_key *k)
{
	int e = EPROTO;

	if (k->kind == PROV_SHM && k->len == p->len && k->addr == 0 && k->fd >= 0 &&
	    sys_memfd_size(k->fd) == p->len) {
		p->out = sys_map_shared(k->fd, p->len);
		e = errno;
	}
	if (k->fd >= 0)
		sys_close(k->fd);
	if (!p->out) {
		errno = e;
		return -1;
	}
	if (p->fd >= 0)
		sys_close(p->fd);
	p->fd = -1;
	p->joined = p->joined && (k->flags & PROV_BARRIER);
	return 0;
}

static void shm_wake(struct prov *p, uint64_t word)
{
	sys_futex_wake((_Atomic uint32_t *)(p->out + word), INT32_MAX);
}

static int shm_wait(struct prov *p, uint64_t word, uint32_t val, int64_t tmo_ns)
{
	return sys_futex_wait((_Atomic uint32_t *)(p->in + word), val, tmo_ns);
}

static int shm_barrier(struct prov *p)
{
	return p->joined ? sys_barrier() : -1;
}

const struct prov_ops prov_shm = {
	.kind = PROV_SHM,
	.direct = true,
	.open = shm_open_region,
	.key = shm_key,
	.join = shm_join,
	.wake = shm_wake,
	.wait = shm_wait,
	.barrier = shm_barrier,
	.close = shm_close,
};
