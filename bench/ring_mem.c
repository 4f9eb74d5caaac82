/* The bounds: two words that change hands, awake and asleep, and a ring that checks nothing and never sleeps. */
#include <linux/futex.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bench_ring.h"

#define SIZE	(256u << 10)

struct lane {
	_Alignas(128) _Atomic uint64_t tail;
	_Alignas(128) _Atomic uint64_t head;
	_Alignas(128) _Atomic uint32_t word;
	_Alignas(128) unsigned char data[SIZE];
};

static struct lane *lane, *out, *in;
static uint64_t otail, ohead, itail, ihead;

static int mem_before(unsigned arg)
{
	(void)arg;
	lane = mmap(NULL, 2 * sizeof(*lane), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return lane == MAP_FAILED ? -1 : 0;
}

static int mem_open(int side)
{
	out = &lane[side];
	in = &lane[!side];
	return 0;
}

/* One word: a count, and the last byte of the message, which says whether more follow. */
static void bare_send(const void *p, size_t n)
{
	otail++;
	atomic_store_explicit(&out->tail, otail << 8 | ((const unsigned char *)p)[n - 1], memory_order_release);
}

static void bare_recv(void *p, size_t n)
{
	uint64_t t;

	ihead++;
	while ((t = atomic_load_explicit(&in->tail, memory_order_acquire)) >> 8 != ihead)
		;
	((unsigned char *)p)[n - 1] = (unsigned char)t;
}

/* The least that two sleepers can do. */
static void futex_send(const void *p, size_t n)
{
	bare_send(p, n);
	atomic_fetch_add(&out->word, 1);
	syscall(SYS_futex, &out->word, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void futex_recv(void *p, size_t n)
{
	uint64_t t;

	ihead++;
	for (;;) {
		uint32_t was = atomic_load(&in->word);

		t = atomic_load_explicit(&in->tail, memory_order_acquire);
		if (t >> 8 == ihead)
			break;
		syscall(SYS_futex, &in->word, FUTEX_WAIT, was, NULL, NULL, 0);
	}
	((unsigned char *)p)[n - 1] = (unsigned char)t;
}

static void spsc_send(const void *p, size_t n)
{
	const unsigned char *s = p;

	while (n) {
		size_t k = n < SIZE / 4 ? n : SIZE / 4, at = otail % SIZE;

		if (k > SIZE - at)
			k = SIZE - at;
		while (SIZE - (otail - ohead) < k)
			ohead = atomic_load_explicit(&out->head, memory_order_acquire);
		if (k == 8)
			memcpy(out->data + at, s, 8);
		else
			memcpy(out->data + at, s, k);
		otail += k;
		atomic_store_explicit(&out->tail, otail, memory_order_release);
		s += k;
		n -= k;
	}
}

static void spsc_recv(void *p, size_t n)
{
	unsigned char *d = p;

	while (n) {
		size_t k, at = ihead % SIZE;

		while (itail == ihead)
			itail = atomic_load_explicit(&in->tail, memory_order_acquire);
		k = n < itail - ihead ? n : itail - ihead;
		if (k > SIZE - at)
			k = SIZE - at;
		if (k == 8)
			memcpy(d, in->data + at, 8);
		else
			memcpy(d, in->data + at, k);
		ihead += k;
		atomic_store_explicit(&in->head, ihead, memory_order_release);
		d += k;
		n -= k;
	}
}

const struct way mem_ways[] = {
	{ "bare", 8, false, mem_before, mem_open, bare_send, bare_recv, NULL, NULL },
	{ "futex", 8, false, mem_before, mem_open, futex_send, futex_recv, NULL, NULL },
	{ "spsc", 0, true, mem_before, mem_open, spsc_send, spsc_recv, NULL, NULL },
	{ NULL, 0, false, NULL, NULL, NULL, NULL, NULL, NULL },
};
