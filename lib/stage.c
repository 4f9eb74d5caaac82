/* The encoder: bytes into blocks, and wire offsets back into stream offsets. */
#include "stage.h"
#include <string.h>

/*
 * Below this a busy link waits for more.  A block of 16 KiB is within 3 % of
 * the size of what 64 KiB blocks make (bench/codec.c), and takes 13 ms at
 * 10 Mbit/s uncoded, 4 ms at a third: no more than what is queued before it.
 */
#define ENOUGH		STAGE_ENOUGH
/* Less than this before us is an idle link: two segments, the least that keeps an acknowledgement coming. */
#define IDLE		STAGE_IDLE
/* A head costs 6 bytes and a call 5 us and more; below this nothing is gained on any link. */
#define SMALL		64u

size_t stage_enc_size(uint8_t codec)
{
	const struct codec_ops *ops = codec_find(codec);

	if (!ops && codec != CODEC_STORED)
		return 0;
	return sizeof(struct stage_enc) + (ops ? ops->mem[CODEC_ENC] : 0);
}

struct stage_enc *stage_enc_open(void *mem, size_t len, uint8_t codec, uint64_t off)
{
	const struct codec_ops *ops = codec_find(codec);
	size_t need = stage_enc_size(codec);
	struct stage_enc *e = mem;

	if (!need || len < need || (uintptr_t)mem % STAGE_ALIGN)
		return NULL;
	memset(e, 0, offsetof(struct stage_enc, box));
	e->codec = codec;
	e->fresh = 1;
	e->off = e->acked_off = off;
	if (ops && !(e->state = ops->open(CODEC_ENC, e->mem, len - sizeof(*e))))
		return NULL;
	return e;
}

void stage_enc_close(struct stage_enc *e)
{
	const struct codec_ops *ops = codec_find(e->codec);

	if (ops && e->state)
		ops->close(e->state);
	e->state = NULL;
	e->bad = 1;
}

static void put_head(uint8_t *p, uint8_t id, unsigned flags, size_t raw, size_t coded)
{
	p[0] = id;
	p[1] = (uint8_t)flags;
	p[2] = (uint8_t)(raw - 1);
	p[3] = (uint8_t)((raw - 1) >> 8);
	p[4] = (uint8_t)(coded - 1);
	p[5] = (uint8_t)((coded - 1) >> 8);
}

/*
 * One mark for `stride` blocks; when the table is full every other mark goes,
 * and the stride doubles.  A mark that is gone only makes the trimming wait for
 * the next one: for a 32nd of what is under way.
 */
static void add_mark(struct stage_enc *e)
{
	uint32_t i;

	if (!e->marks)
		e->stride = 1;
	if (e->marks && e->run < e->stride) {
		e->run++;
		e->mark[e->marks - 1] = (struct stage_mark){ e->wire, e->off };
		return;
	}
	if (e->marks == STAGE_MARKS) {
		for (i = 0; i < STAGE_MARKS / 2; i++)
			e->mark[i] = e->mark[2 * i + 1];
		e->marks = STAGE_MARKS / 2;
		e->stride = e->stride < 1u << 20 ? 2 * e->stride : e->stride;
	}
	e->mark[e->marks++] = (struct stage_mark){ e->wire, e->off };
	e->run = 1;
}

uint64_t stage_acked(struct stage_enc *e, uint64_t wire)
{
	uint32_t i;

	if (wire > e->wire)
		return e->acked_off;	/* the caller's count is wrong: forget nothing */
	for (i = 0; i < e->marks && e->mark[i].wire <= wire; i++)
		e->acked_off = e->mark[i].off;
	e->marks -= i;
	memmove(e->mark, e->mark + i, e->marks * sizeof(e->mark[0]));
	return e->acked_off;
}

size_t stage_share(const struct stage_enc *e, uint64_t waiting, uint64_t queued)
{
	if (e->at < e->end || e->last || e->bad)
		return 0;
	if (queued >= IDLE && waiting < ENOUGH)
		return 0;
	return waiting < STAGE_BLOCK ? (size_t)waiting : STAGE_BLOCK;
}

/* The coded form behind the head: its length, 0: it does not shrink, or STAGE_BAD. */
static long code(struct stage_enc *e, const struct iovec *iov, int cnt, size_t n, int level)
{
	const struct codec_ops *ops = codec_find(e->codec);
	/* One byte less than it was, and deflate's tail, which is not sent. */
	struct codec_io io = { .out = e->box + STAGE_HEAD, .out_len = n - 1 + 4 };
	int i, r = CODEC_BAD;

	if (level < ops->min_level)
		level = ops->min_level;
	if (level > ops->max_level)
		level = ops->max_level;
	if (e->fresh && ops->code(e->state, NULL, CODEC_FRESH, 0) == CODEC_BAD)
		return STAGE_BAD;
	for (i = 0; n && i < cnt; i++) {
		io.in = iov[i].iov_base;
		io.in_len = iov[i].iov_len < n ? iov[i].iov_len : n;
		n -= io.in_len;
		if (!io.in_len)
			continue;
		r = ops->code(e->state, &io, n ? CODEC_MORE : CODEC_END, level);
		if (r == CODEC_BAD)
			return STAGE_BAD;
	}
	if (r == CODEC_FULL)
		return 0;
	return r == CODEC_DONE ? io.out - (e->box + STAGE_HEAD) : STAGE_BAD;
}

static void store(struct stage_enc *e, const struct iovec *iov, int cnt, size_t n)
{
	uint8_t *p = e->box + STAGE_HEAD;
	int i;

	for (i = 0; n && i < cnt; i++) {
		size_t len = iov[i].iov_len < n ? iov[i].iov_len : n;

		if (!len)
			continue;
		memcpy(p, iov[i].iov_base, len);
		p += len;
		n -= len;
	}
}

static bool enough(const struct iovec *iov, int cnt, size_t n)
{
	int i;

	for (i = 0; i < cnt; i++) {
		if (iov[i].iov_len >= n)
			return true;
		n -= iov[i].iov_len;
	}
	return false;
}

long stage_encode(struct stage_enc *e, const struct iovec *iov, int cnt, size_t n, int level, unsigned flags)
{
	uint8_t id = CODEC_STORED;
	long coded = 0;

	if (e->inside)
		e->bad = 1;	/* somebody died in here: the dictionary is anywhere */
	if (e->bad || e->last || e->at < e->end || !n || n > STAGE_BLOCK || flags & ~STAGE_LAST ||
	    !enough(iov, cnt, n))
		return STAGE_BAD;
	e->inside = 1;
	if (level > 0 && e->state && n >= SMALL) {
		coded = code(e, iov, cnt, n, level);
		if (coded < 0) {
			e->bad = 1;
			return STAGE_BAD;
		}
		/*
		 * One that does not shrink is in the encoder's dictionary all
		 * the same.  A stored block can tell the decoder so, but not
		 * that its dictionary is to be emptied.
		 */
		if (coded) {
			id = e->codec;
			flags |= e->fresh ? STAGE_FRESH : 0;
			e->fresh = 0;
		} else if (!e->fresh) {
			flags |= STAGE_LEARN;
		}
	}
	if (!coded) {
		store(e, iov, cnt, n);
		coded = (long)n;
		e->stored++;
	}
	put_head(e->box, id, flags, n, (size_t)coded);
	e->at = 0;
	e->end = STAGE_HEAD + (uint32_t)coded;
	e->wire += e->end;
	e->off += n;
	e->blocks++;
	e->last = !!(flags & STAGE_LAST);
	add_mark(e);
	e->inside = 0;
	return (long)e->end;
}

bool stage_note(struct stage_enc *e, uint64_t rx_off, unsigned flags)
{
	uint8_t *p;
	int i;

	if (e->at == e->end)
		e->at = e->end = 0;
	if (e->bad || e->inside || e->last || flags & ~STAGE_LAST ||
	    sizeof(e->box) - e->end < STAGE_HEAD + STAGE_NOTE)
		return false;
	p = e->box + e->end;
	put_head(p, CODEC_NOTE, flags, 1, STAGE_NOTE);
	for (i = 0; i < (int)STAGE_NOTE; i++)
		p[STAGE_HEAD + i] = (uint8_t)(rx_off >> 8 * i);
	e->end += STAGE_HEAD + STAGE_NOTE;
	e->wire += STAGE_HEAD + STAGE_NOTE;
	e->last = !!(flags & STAGE_LAST);
	return true;
}

void stage_taken(struct stage_enc *e, size_t n)
{
	e->at += n < e->end - e->at ? (uint32_t)n : e->end - e->at;
}

void stage_refresh(struct stage_enc *e)
{
	e->fresh = 1;
}
