/*
 * See ring.h for the layout.  Here the three movements: put, get, credit.  Who
 * sleeps and who is woken is in ring_sleep.c.
 */
#include "ring_int.h"
#include <string.h>

#define RING_CHUNK	8192u		/* a long put shows itself in pieces: both ends copy at once */

void ring_start(struct ring_end *e, uint32_t size, uint64_t tx, uint64_t rx)
{
	memset(e, 0, sizeof(*e));
	e->size = size;
	store(&e->tail, tx);
	store(&e->head, tx);
	store(&e->rx_head, rx);
	e->rx_tail = e->told = e->echo = rx;
	e->quiet = RING_LOUD;
}

void ring_view(struct ring *r, struct ring_end *e, struct prov *p)
{
	r->in = (struct ring_box *)(void *)p->in;
	r->out = (struct ring_box *)(void *)p->out;
	r->end = e;
	r->prov = p;
	r->size = e->size;
	r->direct = p->ops->direct;
	r->small = r->direct ? RING_INLINE : 0;
}

void ring_break(struct ring *r, enum ring_fault why)
{
	uint32_t fine = RING_FINE;

	atomic_compare_exchange_strong(&r->end->broken, &fine, (uint32_t)why);
}

/* The mirror's bytes [from, to), the last piece with the new tail. */
static __attribute__((noinline, cold)) void send_slow(struct ring *r, uint64_t from, uint64_t to)
{
	const struct prov_ops *ops = r->prov->ops;
	uint32_t at = (uint32_t)from & (r->size - 1);
	size_t n = (size_t)(to - from), first = r->size - at;
	int bad = 0;

	if (n > first) {
		bad = ops->put(r->prov, RING_DATA + at, first);
		at = 0;
		n -= first;
	}
	if (bad < 0 || ops->put_notify(r->prov, RING_DATA + at, n, (uint32_t)to & PROV_IMM) < 0)
		ring_break(r, RING_LINK_DEAD);
}

static void progress(struct ring *r)
{
	if (unlikely(!r->direct) && r->prov->ops->progress(r->prov) < 0)
		ring_break(r, RING_LINK_DEAD);
}

void ring_expect(struct ring *r)
{
	store(&r->out->taken, load(&r->end->tail));
	store(&r->in->tail, r->end->rx_tail);
	store(&r->in->head, load(&r->end->tail));
}

void ring_open(struct ring *r)
{
	struct ring_end *e = r->end;

	store(&e->light, r->prov->joined && r->prov->ops->barrier);
	if (load(&e->light))
		e->rx_sleep.state = RING_LIGHT;
	store(&r->in->taken, load(&e->rx_head));
	store(&r->out->rx_state, e->rx_sleep.state);
	store(&r->out->tx_state, 0);
	store(&r->out->mark, 0);
	store(&r->out->head, e->told);
	atomic_store_explicit(&r->out->tail, load(&e->tail), memory_order_release);
	r->prov->imm = (uint32_t)e->rx_tail & PROV_IMM;
	if (!r->direct && r->prov->ops->put(r->prov, offsetof(struct ring_box, head), sizeof(r->out->head)) < 0)
		ring_break(r, RING_LINK_DEAD);
}

void ring_tell_cpu(struct ring *r, uint32_t cpu)
{
	if (r->direct && load(&r->out->cpu) != cpu)
		store(&r->out->cpu, cpu);
}

/* A call of the C library for a few bytes costs more than the bytes; n <= 64. Two halves that overlap. */
static inline void copy_small(uint8_t *d, const uint8_t *s, size_t n)
{
#define HALVES(k) do { memcpy(d, s, k); memcpy(d + n - k, s + n - k, k); } while (0)
	if (n == 8)
		memcpy(d, s, 8);
	else if (n > 32)
		HALVES(32);
	else if (n > 16)
		HALVES(16);
	else if (n > 8)
		HALVES(8);
	else if (n >= 4)
		HALVES(4);
	else if (n)
		for (d[0] = s[0]; --n;)
			d[n] = s[n];
#undef HALVES
}

static inline void copy(uint8_t *d, const uint8_t *s, size_t n)
{
	if (n <= 64) {
		copy_small(d, s, n);
	} else {
		/* the compiler, if it knew n, would make "rep movs" of it, which starts slowly */
		__asm__ volatile("" : "+r"(n));
		memcpy(d, s, n);
	}
}

static inline void copy_in(struct ring *r, uint64_t off, const uint8_t *p, size_t n)
{
	uint32_t at = (uint32_t)off & (r->size - 1);
	size_t first = r->size - at;

	if (n > first) {
		copy(r->out->data + at, p, first);
		p += first;
		n -= first;
		at = 0;
	}
	copy(r->out->data + at, p, n);
	}

static inline void copy_out(const struct ring *r, uint64_t off, uint8_t *p, size_t n)
{
	uint32_t at = (uint32_t)off & (r->size - 1);
	size_t first = r->size - at;

	if (n > first) {
		copy(p, r->in->data + at, first);
		p += first;
		n -= first;
		at = 0;
	}
	copy(p, r->in->data + at, n);
}

/*
 * Our own tail first: if we are killed between the two, the next put of a
 * process that shares this end tells about these bytes.
 */
static inline void publish(struct ring *r, uint64_t from, uint64_t to)
{
	store(&r->end->tail, to);
	if (unlikely(!r->direct))
		send_slow(r, from, to);
	else
		atomic_store_explicit(&r->out->tail, to, memory_order_release);
}

/* n, after the reader was woken if it has to be. */
static __attribute__((noinline)) long woken(struct ring *r, uint32_t s, long n, uint32_t *call)
{
	ring_wake_slow(r, s, call);
	return n;
}

static inline long wake_reader(struct ring *r, long n, uint32_t *call)
{
	uint32_t s;

	atomic_signal_fence(memory_order_seq_cst);
	s = load(&r->in->rx_state);
	if (unlikely(s != r->end->quiet))
		return woken(r, s, n, call);
	return n;
}

/* Reads the peer's head, once; room, or RING_BROKEN. */
static long refresh(struct ring *r)
{
	struct ring_end *e = r->end;
	uint64_t h, tail = load(&e->tail), old = load(&e->head);

	progress(r);
	h = atomic_load_explicit(&r->in->head, memory_order_acquire);
	if (unlikely(h - old > tail - old))
		ring_break(r, RING_BAD_HEAD);
	if (unlikely(load(&e->broken)))
		return RING_BROKEN;
	if (h != old)
		store(&e->head, h);
	return (long)(r->size - (tail - h));
}

/* A copy in the producer line: what we got before this was an answer, or a request. */
static void put_inline(struct ring *r, uint64_t tail, const uint8_t *p, size_t n)
{
	struct ring_box *o = r->out;
	uint64_t w[RING_INLINE / 8];
	size_t i;

	r->end->echo = load(&r->end->rx_head);
	w[(n - 1) / 8] = 0;
	copy_small((uint8_t *)w, p, n);
	store(&o->mark, (tail + n) << 6 | n);
	atomic_thread_fence(memory_order_release);
	for (i = 0; i * 8 < n; i++)
		store(&o->word[i], w[i]);
}

static __attribute__((noinline)) long put_slow(struct ring *r, const uint8_t *p, size_t n, uint32_t *call)
{
	struct ring_end *e = r->end;
	uint64_t tail = load(&e->tail), to;
	size_t room = (size_t)(r->size - (tail - load(&e->head)));
	long left;

	if (load(&e->broken))
		return RING_BROKEN;
	if (n > room) {
		left = refresh(r);
		if (left <= 0)
			return left;
		if (n > (size_t)left)
			n = (size_t)left;
	}
	if (!n)
		return 0;
	if (n <= r->small && e->echo != load(&e->rx_head))
		put_inline(r, tail, p, n);
	for (to = tail + n; to - tail >= 2 * RING_CHUNK; tail += RING_CHUNK) {
		copy_in(r, tail, p, RING_CHUNK);
		p += RING_CHUNK;
		publish(r, tail, tail + RING_CHUNK);
	}
	copy_in(r, tail, p, (size_t)(to - tail));
	publish(r, tail, to);
	return wake_reader(r, (long)n, call);
}

static __attribute__((noinline)) long put_answer(struct ring *r, const uint8_t *p, size_t n, uint32_t *call)
{
	uint64_t tail = load(&r->end->tail);

	put_inline(r, tail, p, n);
	copy_small(r->out->data + ((uint32_t)tail & (r->size - 1)), p, n);
	publish(r, tail, tail + n);
	return wake_reader(r, (long)n, call);
}

/* What is rare is called last, by a jump: so this saves no registers. */
long ring_put(struct ring *r, const void *p, size_t n, uint32_t *call)
{
	struct ring_end *e = r->end;
	uint64_t tail = load(&e->tail);
	uint32_t at = (uint32_t)tail & (r->size - 1);

	if (unlikely(n - 1 >= r->small || n > r->size - at || n > r->size - (tail - load(&e->head)) ||
		     load(&e->broken)))
		return put_slow(r, p, n, call);
	if (e->echo != load(&e->rx_head))
		return put_answer(r, p, n, call);
	copy_small(r->out->data + at, p, n);
	store(&e->tail, tail + n);
	atomic_store_explicit(&r->out->tail, tail + n, memory_order_release);
	return wake_reader(r, (long)n, call);
}

long ring_putv(struct ring *r, const struct iovec *v, int cnt, uint32_t *call)
{
	struct ring_end *e = r->end;
	uint64_t from = load(&e->tail), tail = from, shown = from;
	size_t n, want = 0;
	long room;
	int i;

	for (i = 0; i < cnt; i++)
		want += v[i].iov_len;
	room = ring_room(r);
	if (room <= 0)
		return room;
	if (want > (size_t)room)
		want = (size_t)room;
	for (i = 0; want; i++) {
		n = v[i].iov_len < want ? v[i].iov_len : want;
		if (n)
			copy_in(r, tail, v[i].iov_base, n);
		tail += n;
		want -= n;
		if (tail - shown >= RING_CHUNK && want) {
			publish(r, shown, tail);
			shown = tail;
		}
	}
	if (tail == from)
		return 0;
	publish(r, shown, tail);
	return wake_reader(r, (long)(tail - from), call);
}

/* Reads the peer's tail, once; bytes to be read, or RING_BROKEN. */
static inline long look(struct ring *r)
{
	struct ring_end *e = r->end;
	uint64_t t, head = load(&e->rx_head);

	if (likely(r->direct)) {
		t = atomic_load_explicit(&r->in->tail, memory_order_acquire);
	} else {
		progress(r);
		t = e->rx_tail + ((r->prov->imm - (uint32_t)e->rx_tail) & PROV_IMM);
	}
	if (unlikely(t - e->rx_tail > r->size - (e->rx_tail - head)))
		ring_break(r, RING_BAD_TAIL);
	if (unlikely(load(&e->broken)))
		return RING_BROKEN;
	if (t != e->rx_tail) {
		e->rx_tail = t;
		if (unlikely(++e->calm >= RING_CALM))
			ring_calm(r);
	}
	return (long)(t - head);
}

void ring_tell(struct ring *r, uint64_t head)
{
	r->end->told = head;
	atomic_store_explicit(&r->out->head, head, memory_order_release);
	if (unlikely(!r->direct) && r->prov->ops->put_notify(r->prov, offsetof(struct ring_box, head),
							     sizeof(head), PROV_POKE) < 0)
		ring_break(r, RING_LINK_DEAD);
}

static void credit(struct ring *r, uint64_t head, uint32_t *call)
{
	uint32_t s;

	ring_tell(r, head);
	if (unlikely(!r->direct))
		return;
	atomic_thread_fence(memory_order_seq_cst);
	s = load(&r->in->tx_state);
	if (s != r->end->rx_answered)
		ring_answer(r, RING_TX, s, &r->end->rx_answered, call);
}

static inline void consume(struct ring *r, uint64_t head, uint32_t *call)
{
	struct ring_end *e = r->end;

	store(&e->rx_head, head);
	store(&r->in->taken, head);
	if (unlikely(head - e->told >= r->size / 4))
		credit(r, head, call);
}

/* The bytes before `tail` from the producer line; false: they are not, or no longer, there. */
static inline bool get_inline(struct ring *r, uint64_t tail, size_t avail, uint8_t *p, size_t n)
{
	struct ring_box *b = r->in;
	uint64_t w[RING_INLINE / 8], mark = load(&b->mark);
	size_t len = (size_t)(mark & 63), i;

	if (mark >> 6 != (tail & (UINT64_MAX >> 6)) || len != avail || len > RING_INLINE)
		return false;
	for (i = 0; i * 8 < len; i++)
		w[i] = load(&b->word[i]);
	atomic_thread_fence(memory_order_acquire);
	if (load(&b->mark) != mark)
		return false;
	copy_small(p, (const uint8_t *)w, n);
	return true;
}

static __attribute__((noinline)) long get_slow(struct ring *r, uint8_t *p, size_t n, uint32_t *call)
{
	struct ring_end *e = r->end;
	uint64_t head = load(&e->rx_head);
	size_t avail = (size_t)(e->rx_tail - head), got = 0;
	long there;

	if (load(&e->broken))
		return RING_BROKEN;
	if (avail == 0) {
		there = look(r);
		if (there <= 0)
			return there;
		avail = (size_t)there;
		if (avail <= r->small && get_inline(r, e->rx_tail, avail, p, n < avail ? n : avail)) {
			got = n < avail ? n : avail;
			consume(r, head + got, call);
			return (long)got;
		}
	}
	for (;;) {
		if (avail > n - got)
			avail = n - got;
		copy_out(r, head, p + got, avail);
		got += avail;
		head += avail;
		consume(r, head, call);
		if (got == n)
			return (long)got;
		/* what came while we copied: a long message is sent in pieces */
		there = look(r);
		if (there <= 0)
			return (long)got;
		avail = (size_t)there;
	}
}

long ring_get(struct ring *r, void *p, size_t n, uint32_t *call)
{
	struct ring_end *e = r->end;
	uint64_t head = load(&e->rx_head);
	uint32_t at = (uint32_t)head & (r->size - 1);

	if (unlikely(n > RING_INLINE || n > r->size - at || n > e->rx_tail - head || load(&e->broken)))
		return get_slow(r, p, n, call);
	copy_small(p, r->in->data + at, n);
	consume(r, head + n, call);
	return (long)n;
}

long ring_getv(struct ring *r, const struct iovec *v, int cnt, uint32_t *call)
{
	size_t got = 0;
	long k;
	int i;

	for (i = 0; i < cnt; i++) {
		k = v[i].iov_len ? ring_get(r, v[i].iov_base, v[i].iov_len, call) : 0;
		if (k < 0)
			return got ? (long)got : k;
		got += (size_t)k;
		if ((size_t)k < v[i].iov_len)
			break;
	}
	return (long)got;
}

long ring_peek(struct ring *r, uint64_t skip, void *p, size_t n)
{
	long there = ring_avail(r);

	if (there < 0)
		return there;
	if (skip >= (uint64_t)there)
		return 0;
	if (n > (uint64_t)there - skip)
		n = (size_t)((uint64_t)there - skip);
	copy_out(r, load(&r->end->rx_head) + skip, p, n);
	return (long)n;
}

long ring_skip(struct ring *r, size_t n, uint32_t *call)
{
	long there = ring_avail(r);

	if (there <= 0)
		return there;
	if (n > (size_t)there)
		n = (size_t)there;
	consume(r, load(&r->end->rx_head) + n, call);
	return (long)n;
}

long ring_avail(struct ring *r)
{
	return load(&r->end->broken) ? RING_BROKEN : look(r);
}

long ring_room(struct ring *r)
{
	return load(&r->end->broken) ? RING_BROKEN : refresh(r);
}

bool ring_look_slow(struct ring *r, enum ring_dir dir)
{
	return (dir == RING_RX ? ring_avail(r) : ring_room(r)) != 0;
}

bool ring_all_taken(const struct ring *r)
{
	return r->direct && load(&r->out->taken) == load(&r->end->tail);
}

uint64_t ring_taken(const struct ring *r)
{
	/* In this order: what was taken was sent before. */
	uint64_t t = r->direct ? load(&r->out->taken) : load(&r->in->head);
	uint64_t head = load(&r->end->head), tail = load(&r->end->tail);

	return t - head <= tail - head ? t : head;
}

size_t ring_unread(const struct ring *r, uint64_t off, const uint8_t **p)
{
	uint64_t tail = load(&r->end->tail), head = load(&r->end->head);
	uint32_t at = (uint32_t)off & (r->size - 1);

	if (off - head >= tail - head)
		return 0;
	*p = r->out->data + at;
	return tail - off < r->size - at ? (size_t)(tail - off) : r->size - at;
}

void ring_mend_tx(struct ring *r, uint32_t *call)
{
	publish(r, load(&r->end->head), load(&r->end->tail));	/* twice does no harm */
	r->end->answered = 0;
	r->end->quiet = RING_LOUD;
	atomic_thread_fence(memory_order_seq_cst);
	wake_reader(r, 0, call);
}

void ring_mend_rx(struct ring *r, uint32_t *call)
{
	r->end->rx_answered = 0;
	credit(r, load(&r->end->rx_head), call);
}
