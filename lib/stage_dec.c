/*
 * The decoder.  Everything that comes in is hostile.
 *
 * A head is checked when it is whole.  After that the block's own numbers
 * bound what it may do: never more than `raw` bytes out, never more than
 * `coded` bytes in, and both exactly.
 */
#include "stage.h"
#include <string.h>

size_t stage_dec_size(uint8_t codec)
{
	const struct codec_ops *ops = codec_find(codec);

	if (!ops && codec != CODEC_STORED)
		return 0;
	return sizeof(struct stage_dec) + (ops ? ops->mem[CODEC_DEC] : 0);
}

struct stage_dec *stage_dec_open(void *mem, size_t len, uint8_t codec, uint64_t off)
{
	const struct codec_ops *ops = codec_find(codec);
	size_t need = stage_dec_size(codec);
	struct stage_dec *d = mem;

	if (!need || len < need || (uintptr_t)mem % STAGE_ALIGN)
		return NULL;
	memset(d, 0, sizeof(*d));
	d->codec = codec;
	d->off = off;
	if (ops && !(d->state = ops->open(CODEC_DEC, d->mem, len - sizeof(*d))))
		return NULL;
	return d;
}

void stage_dec_close(struct stage_dec *d)
{
	const struct codec_ops *ops = codec_find(d->codec);

	if (ops && d->state)
		ops->close(d->state);
	d->state = NULL;
	d->bad = 1;
}

struct head {
	uint8_t id, flags;
	uint32_t raw, coded;
};

static struct head get_head(const uint8_t *p)
{
	return (struct head){
		.id = p[0], .flags = p[1],
		.raw = (uint32_t)(p[2] | p[3] << 8) + 1,
		.coded = (uint32_t)(p[4] | p[5] << 8) + 1,
	};
}

/* started: there is a dictionary already. */
static bool head_right(const struct head *h, uint8_t codec, bool started)
{
	if (h->flags & ~STAGE_FLAGS)
		return false;
	switch (h->id) {
	case CODEC_STORED:
		return h->raw == h->coded && !(h->flags & STAGE_FRESH) && (started || !(h->flags & STAGE_LEARN));
	case CODEC_NOTE:
		return h->raw == 1 && h->coded == STAGE_NOTE && !(h->flags & ~STAGE_LAST);
	default:
		return h->id == codec && h->coded < h->raw && !(h->flags & STAGE_LEARN) &&
			(started || h->flags & STAGE_FRESH);
	}
}

static bool begin(struct stage_dec *d)
{
	struct head h = get_head(d->head);

	if (!head_right(&h, d->codec, d->started))
		return false;
	d->have = 0;
	d->body = 1;
	d->finish = 0;
	d->id = h.id;
	d->flags = h.flags;
	d->raw = h.id == CODEC_NOTE ? 0 : h.raw;
	d->coded = h.coded;
	if (h.flags & STAGE_FRESH) {
		d->started = 1;
		return codec_find(d->codec)->code(d->state, NULL, CODEC_FRESH, 0) != CODEC_BAD;
	}
	return true;
}

static void finish(struct stage_dec *d)
{
	d->body = 0;
	d->last = !!(d->flags & STAGE_LAST);
}

static uint64_t get_note(const uint8_t *p)
{
	uint64_t v = 0;
	int i;

	for (i = STAGE_NOTE - 1; i >= 0; i--)
		v = v << 8 | p[i];
	return v;
}

static bool take_note(struct stage_dec *d, struct codec_io *io)
{
	uint64_t v;

	while (io->in_len && d->coded) {
		d->note[d->have++] = *io->in++;
		io->in_len--;
		d->coded--;
	}
	if (d->coded)
		return true;
	v = get_note(d->note);
	d->have = 0;
	if (v < d->peer_off)
		return false;
	d->peer_off = v;
	finish(d);
	return true;
}

static bool take_stored(struct stage_dec *d, struct codec_io *io)
{
	size_t n = io->in_len < d->raw ? io->in_len : d->raw;
	struct codec_io learn;

	if (n > io->out_len)
		n = io->out_len;
	if (!n)
		return true;
	memcpy(io->out, io->in, n);
	if (d->flags & STAGE_LEARN) {
		learn = (struct codec_io){ .in = io->in, .in_len = n };
		if (codec_find(d->codec)->code(d->state, &learn, CODEC_LEARN, 0) == CODEC_BAD)
			return false;
	}
	io->in += n;
	io->in_len -= n;
	io->out += n;
	io->out_len -= n;
	d->raw -= (uint32_t)n;
	d->coded -= (uint32_t)n;
	if (!d->raw)
		finish(d);
	return true;
}

static bool take_coded(struct stage_dec *d, struct codec_io *io)
{
	struct codec_io b = {
		.in = io->in, .in_len = io->in_len < d->coded ? io->in_len : d->coded,
		.out = io->out, .out_len = io->out_len < d->raw ? io->out_len : d->raw,
	};
	size_t in = b.in_len, out = b.out_len;
	int r;

	/* No room, and there is more to come out: the input waits where it is. */
	if (!b.out_len && d->raw)
		return true;
	r = codec_find(d->codec)->code(d->state, &b, in == d->coded ? CODEC_END : CODEC_MORE, 0);
	if (r == CODEC_BAD)
		return false;
	in -= b.in_len;
	out -= b.out_len;
	io->in += in;
	io->in_len -= in;
	io->out += out;
	io->out_len -= out;
	d->coded -= (uint32_t)in;
	d->raw -= (uint32_t)out;
	d->finish = !d->coded;
	if (r != CODEC_DONE)
		return true;
	if (d->raw || d->coded)
		return false;
	finish(d);
	return true;
}

static bool take_head(struct stage_dec *d, struct codec_io *io)
{
	while (io->in_len && d->have < STAGE_HEAD) {
		d->head[d->have++] = *io->in++;
		io->in_len--;
	}
	return d->have < STAGE_HEAD || begin(d);
}

static bool step(struct stage_dec *d, struct codec_io *io)
{
	if (!d->body)
		return take_head(d, io);
	switch (d->id) {
	case CODEC_NOTE:
		return take_note(d, io);
	case CODEC_STORED:
		return take_stored(d, io);
	default:
		return take_coded(d, io);
	}
}

/* Until nothing moves: no input that can be used, or no room. */
static void run(struct stage_dec *d, struct codec_io *io)
{
	d->inside = 1;
	while (!d->last) {
		size_t in = io->in_len, out = io->out_len;
		uint8_t body = d->body;

		if (!step(d, io)) {
			d->bad = 1;
			break;
		}
		if (in == io->in_len && out == io->out_len && body == d->body)
			break;
	}
	d->inside = 0;
}

enum stage_result stage_decode(struct stage_dec *d, const uint8_t *in, size_t *n, uint8_t *out, size_t *cap)
{
	struct codec_io io = { .in = in, .in_len = *n, .out = out, .out_len = *cap };

	*n = *cap = 0;
	if (d->inside)
		d->bad = 1;
	if (d->bad)
		return STAGE_BAD;
	if (d->has_ahead && io.out_len) {
		*io.out++ = d->ahead;
		io.out_len--;
		d->has_ahead = 0;
	}
	if (!d->has_ahead)
		run(d, &io);
	*n = (size_t)(io.in - in);
	*cap = (size_t)(io.out - out);
	d->wire += *n;
	d->off += *cap;
	/* What came before the error is right, and is given out. */
	if (d->bad && !*cap)
		return STAGE_BAD;
	return d->last && !d->has_ahead ? STAGE_END : STAGE_OK;
}

bool stage_ready(struct stage_dec *d)
{
	struct codec_io io = { .in = &d->ahead, .out = &d->ahead, .out_len = 1 };

	if (d->has_ahead)
		return true;
	if (d->bad || d->inside || !d->body || !d->raw || d->id != d->codec || d->id == CODEC_STORED)
		return false;
	run(d, &io);
	d->has_ahead = !io.out_len;
	return d->has_ahead;
}

struct walk {			/* over the heads, without decoding */
	const uint8_t *wire;
	size_t n, at, have;	/* have: of the next head, in d */
	bool started, last;
	struct head h;
	size_t body;		/* where the block that was found has its bytes */
};

static bool walk_begin(struct walk *w, const struct stage_dec *d, const uint8_t *wire, size_t n)
{
	*w = (struct walk){ .wire = wire, .n = n, .at = d->body ? d->coded : 0, .have = d->body ? 0 : d->have,
			    .started = d->started, .last = d->last || (d->body && d->flags & STAGE_LAST) };
	return !d->bad && w->at <= n;
}

/* The next whole block. */
static bool walk_on(struct walk *w, const struct stage_dec *d)
{
	uint8_t p[STAGE_HEAD];

	if (w->last || w->n - w->at < STAGE_HEAD - w->have)
		return false;
	memcpy(p, d->head, w->have);
	memcpy(p + w->have, w->wire + w->at, STAGE_HEAD - w->have);
	w->h = get_head(p);
	w->body = w->at + STAGE_HEAD - w->have;
	if (!head_right(&w->h, d->codec, w->started) || w->n - w->body < w->h.coded)
		return false;
	w->have = 0;
	w->at = w->body + w->h.coded;
	w->started |= !!(w->h.flags & STAGE_FRESH);
	w->last = !!(w->h.flags & STAGE_LAST);
	return true;
}

uint64_t stage_count(const struct stage_dec *d, const uint8_t *wire, size_t n, size_t *used)
{
	uint64_t raw = (uint64_t)d->has_ahead + (d->body ? d->raw : 0);
	struct walk w;

	*used = 0;
	if (!walk_begin(&w, d, wire, n))
		return 0;
	for (*used = w.at; walk_on(&w, d); *used = w.at)
		raw += w.h.id == CODEC_NOTE ? 0 : w.h.raw;
	return raw;
}

bool stage_find_note(const struct stage_dec *d, const uint8_t *wire, size_t n, uint64_t *off)
{
	bool found = false;
	struct walk w;

	if (!walk_begin(&w, d, wire, n))
		return false;
	while (walk_on(&w, d))
		if (w.h.id == CODEC_NOTE) {
			*off = get_note(wire + w.body);
			found = true;
		}
	return found;
}
