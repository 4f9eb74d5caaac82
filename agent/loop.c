#include "loop.h"
#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64

static int ep = -1;
static bool stop;
static uint64_t now;
static struct epoll_event batch[BATCH];
static int batch_at, batch_n;
static struct timer **heap;		/* binary, by due */
static uint32_t heap_n, heap_cap;

static void tick(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	now = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t loop_now(void)
{
	if (!now)
		tick();
	return now;
}

bool loop_init(void)
{
	tick();
	ep = epoll_create1(EPOLL_CLOEXEC);
	return ep >= 0;
}

bool watch_add(struct watch *w, int fd, uint32_t events, void (*ready)(struct watch *, uint32_t))
{
	struct epoll_event ev = { .events = events, .data.ptr = w };

	w->fd = fd;
	w->events = events;
	w->ready = ready;
	w->on = epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) == 0;
	return w->on;
}

void watch_mod(struct watch *w, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = w };

	if (!w->on || w->events == events)
		return;
	w->events = events;
	epoll_ctl(ep, EPOLL_CTL_MOD, w->fd, &ev);
}

void watch_del(struct watch *w)
{
	int i;

	if (!w->on)
		return;
	w->on = false;
	epoll_ctl(ep, EPOLL_CTL_DEL, w->fd, NULL);
	for (i = batch_at; i < batch_n; i++)
		if (batch[i].data.ptr == w)
			batch[i].data.ptr = NULL;
}

static void put(uint32_t i, struct timer *t)
{
	heap[i] = t;
	t->at = i + 1;
}

static void sift(uint32_t i)
{
	struct timer *t = heap[i];
	uint32_t c;

	for (; i && heap[(i - 1) / 2]->due > t->due; i = (i - 1) / 2)
		put(i, heap[(i - 1) / 2]);
	for (;; i = c) {
		c = 2 * i + 1;
		if (c + 1 < heap_n && heap[c + 1]->due < heap[c]->due)
			c++;
		if (c >= heap_n || heap[c]->due >= t->due)
			break;
		put(i, heap[c]);
	}
	put(i, t);
}

void timer_stop(struct timer *t)
{
	uint32_t i = t->at;

	if (!i--)
		return;
	t->at = 0;
	if (i == --heap_n)
		return;
	put(i, heap[heap_n]);
	sift(i);
}

void timer_at(struct timer *t, uint64_t due, void (*fire)(struct timer *))
{
	t->due = due;
	t->fire = fire;
	if (t->at) {
		sift(t->at - 1);
		return;
	}
	if (heap_n == heap_cap) {
		uint32_t cap = heap_cap ? 2 * heap_cap : 64;
		struct timer **h = realloc(heap, cap * sizeof(*h));

		if (!h)
			abort();	/* a timer that never fires would leak what it guards */
		heap = h;
		heap_cap = cap;
	}
	put(heap_n, t);
	sift(heap_n++);
}

static int timeout(void)
{
	uint64_t ms;

	if (!heap_n)
		return -1;
	if (heap[0]->due <= now)
		return 0;
	ms = (heap[0]->due - now + 999999) / 1000000;
	return ms > 3600000 ? 3600000 : (int)ms;
}

static void fire(void)
{
	/* Those that are due now; one that sets itself again waits for the next round. */
	uint64_t until = now;

	while (heap_n && heap[0]->due <= until && !stop) {
		struct timer *t = heap[0];

		timer_stop(t);
		t->fire(t);
	}
}

void loop_run(void)
{
	while (!stop) {
		batch_at = 0;
		batch_n = epoll_wait(ep, batch, BATCH, timeout());
		tick();
		for (; batch_at < batch_n && !stop;) {
			struct epoll_event *e = &batch[batch_at++];
			struct watch *w = e->data.ptr;

			if (w)
				w->ready(w, e->events);
		}
		batch_at = batch_n = 0;
		fire();
	}
}

void loop_free(void)
{
	free(heap);
	heap = NULL;
	heap_n = heap_cap = 0;
	close(ep);
}

void loop_stop(void)
{
	stop = true;
}
