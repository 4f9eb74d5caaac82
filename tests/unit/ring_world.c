#include "ring_world.h"
#include "sys.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* A provider without shared memory: what RDMA would do, copied by hand. */
static int copy_put(struct prov *p, uint64_t off, size_t len)
{
	struct world *w = p->priv;
	struct prov *peer = p == &w->p[0] ? &w->p[1] : &w->p[0];

	w->puts++;
	if (w->dead || off + len > p->len) {
		errno = ECONNRESET;
		return -1;
	}
	if (off >= RING_DATA) {
		memcpy(peer->in + off, p->out + off, len);
		return 0;
	}
	/* control words: the reader may look at any time */
	for (; len >= 8; off += 8, len -= 8)
		atomic_store((_Atomic uint64_t *)(void *)(peer->in + off), *(uint64_t *)(void *)(p->out + off));
	if (len)
		atomic_store((_Atomic uint32_t *)(void *)(peer->in + off), *(uint32_t *)(void *)(p->out + off));
	return 0;
}

static int copy_notify(struct prov *p, uint64_t off, size_t len, uint32_t imm)
{
	struct world *w = p->priv;
	int to = p == &w->p[0];

	w->notifies++;
	if (copy_put(p, off, len) < 0)
		return -1;
	if (imm != PROV_POKE)
		atomic_store(&w->imm[to], imm);
	w->events[to]++;
	sys_futex_wake(&w->events[to], 1);
	return 0;
}

static int copy_progress(struct prov *p)
{
	struct world *w = p->priv;

	p->imm = atomic_load(&w->imm[p == &w->p[1]]);
	return w->dead ? -1 : 0;
}

static int copy_arm(struct prov *p)
{
	struct world *w = p->priv;
	int us = p == &w->p[1];

	w->armed[us] = w->events[us];
	return 0;
}

static int copy_wait(struct prov *p, uint64_t word, uint32_t val, int64_t tmo_ns)
{
	struct world *w = p->priv;
	int us = p == &w->p[1];

	(void)word;
	(void)val;
	return sys_futex_wait(&w->events[us], w->armed[us], tmo_ns);
}

static void mem_wake(struct prov *p, uint64_t word)
{
	struct world *w = p->priv;
	struct prov *peer = p == &w->p[0] ? &w->p[1] : &w->p[0];

	sys_futex_wake((_Atomic uint32_t *)(void *)(peer->in + word), INT32_MAX);
}

static int mem_wait(struct prov *p, uint64_t word, uint32_t val, int64_t tmo_ns)
{
	return sys_futex_wait((_Atomic uint32_t *)(void *)(p->in + word), val, tmo_ns);
}

static int mem_barrier(struct prov *p)
{
	((struct world *)p->priv)->barriers++;
	return sys_barrier();
}

static const struct prov_ops direct_ops = {
	.direct = true, .wake = mem_wake, .wait = mem_wait, .barrier = mem_barrier,
};

static const struct prov_ops copy_ops = {
	.put = copy_put, .put_notify = copy_notify, .progress = copy_progress,
	.arm = copy_arm, .wait = copy_wait,
};

static uint8_t *guarded(size_t len)
{
	uint8_t *p = mmap(NULL, len + 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED || mprotect(p + 4096, len, PROT_READ | PROT_WRITE))
		abort();
	return p + 4096;
}

void world_make(struct world *w, uint32_t size, bool direct, uint64_t ab, uint64_t ba)
{
	int i;

	memset(w, 0, sizeof(*w));
	w->len = ring_len(size);
	w->e = aligned_alloc(128, 2 * sizeof(*w->e));
	for (i = 0; i < 2; i++)
		w->box[i] = guarded(w->len);
	for (i = 0; i < 2; i++) {
		w->p[i].ops = direct ? &direct_ops : &copy_ops;
		w->p[i].priv = w;
		w->p[i].len = w->len;
		w->p[i].in = w->box[i];
		w->p[i].out = direct ? w->box[!i] : guarded(w->len);
		w->p[i].joined = sys_barrier_join() == 0;
		ring_start(&w->e[i], size, i ? ba : ab, i ? ab : ba);
		ring_view(&w->r[i], &w->e[i], &w->p[i]);
	}
	for (i = 0; i < 2; i++) {
		ring_open(&w->r[i]);
		atomic_store(&w->imm[i], w->p[i].imm);
	}
}

void world_free(struct world *w)
{
	int i;

	for (i = 0; i < 2; i++) {
		if (!w->p[i].ops->direct)
			munmap(w->p[i].out - 4096, w->len + 8192);
		munmap(w->box[i] - 4096, w->len + 8192);
	}
	free(w->e);
}
