/*
 * Raw deflate by zlib.
 *
 * A block ends with a sync flush, so it can be decoded as soon as it is there.
 * The four bytes that such a flush always ends with (an empty stored block,
 * 00 00 ff ff) are not sent; the decoder puts them back, as in RFC 7692.
 *
 * zlib's memory comes out of the piece given at open, and is never given back
 * to it: zlib allocates at init, and its inflate once more for the window.
 */
#include "codec.h"
#include <string.h>
#include <zlib.h>

#define WINDOW_BITS	15
#define MEM_LEVEL	8
#define ALIGN		64u
/*
 * zlib 1.2.13 takes 268,288 and 40,100 bytes, this struct included; the room
 * beyond is for other versions (zlib-ng). Pages that nobody touches cost nothing.
 */
#define ENC_MEM		(400u << 10)
#define DEC_MEM		(64u << 10)

static const uint8_t tail[4] = { 0x00, 0x00, 0xff, 0xff };

struct zcodec {
	z_stream z;
	enum codec_dir dir;
	int level;
	uint32_t at, size;	/* of the memory, from its beginning */
	uint32_t tail;		/* decoder: bytes of the tail given to zlib */
	bool open;		/* encoder: in the middle of a block */
	bool over;		/* encoder: the block has outgrown its room */
};

static void *take(void *opaque, uInt items, uInt size)
{
	struct zcodec *c = opaque;
	uint64_t n = (((uint64_t)items * size) + ALIGN - 1) & ~(uint64_t)(ALIGN - 1);
	void *p;

	if (n > c->size - c->at)
		return NULL;
	p = (uint8_t *)c + c->at;
	c->at += (uint32_t)n;
	return p;
}

static void drop(void *opaque, void *p)
{
	(void)opaque;
	(void)p;
}

static void *zopen(enum codec_dir dir, void *mem, size_t len)
{
	struct zcodec *c = mem;
	int r;

	if (len < sizeof(*c) + ALIGN || (uintptr_t)mem % ALIGN)
		return NULL;
	memset(c, 0, sizeof(*c));
	c->dir = dir;
	c->at = (sizeof(*c) + ALIGN - 1) & ~(ALIGN - 1);
	c->size = len > UINT32_MAX ? UINT32_MAX : (uint32_t)len;
	c->level = 1;
	c->z.zalloc = take;
	c->z.zfree = drop;
	c->z.opaque = c;
	if (dir == CODEC_ENC)
		r = deflateInit2(&c->z, c->level, Z_DEFLATED, -WINDOW_BITS, MEM_LEVEL, Z_DEFAULT_STRATEGY);
	else
		r = inflateInit2(&c->z, -WINDOW_BITS);
	return r == Z_OK ? c : NULL;
}

/* All of the input; what does not fit is thrown away, but zlib has to be asked for it. */
static int deflate_all(struct zcodec *c, struct codec_io *io, int flush)
{
	uint8_t waste[512];
	bool spill;
	int r;

	c->z.next_in = (Bytef *)(uintptr_t)io->in;
	c->z.avail_in = (uInt)io->in_len;
	do {
		spill = !io->out_len;
		c->z.next_out = spill ? waste : io->out;
		c->z.avail_out = spill ? sizeof(waste) : (uInt)io->out_len;
		r = deflate(&c->z, flush);
		if (r != Z_OK && r != Z_BUF_ERROR)
			return CODEC_BAD;
		if (spill) {
			c->over |= c->z.next_out != waste;
		} else {
			io->out = c->z.next_out;
			io->out_len = c->z.avail_out;
		}
	} while (!c->z.avail_out);
	io->in += io->in_len;
	io->in_len = 0;
	return CODEC_GO;
}

static int encode(struct zcodec *c, struct codec_io *io, enum codec_step step, int level)
{
	bool over;

	if (!c->open) {
		c->open = true;
		c->over = false;
		if (level != c->level) {
			/* Everything is flushed: this writes nothing, but zlib looks for room. */
			c->z.next_in = (Bytef *)(uintptr_t)io->in;
			c->z.avail_in = 0;
			c->z.next_out = io->out;
			c->z.avail_out = (uInt)io->out_len;
			if (deflateParams(&c->z, level, Z_DEFAULT_STRATEGY) != Z_OK || c->z.next_out != io->out)
				return CODEC_BAD;
			c->level = level;
		}
	}
	if (deflate_all(c, io, step == CODEC_END ? Z_SYNC_FLUSH : Z_NO_FLUSH) != CODEC_GO)
		return CODEC_BAD;
	if (step == CODEC_MORE)
		return CODEC_GO;
	over = c->over;
	c->open = false;
	if (over)
		return CODEC_FULL;
	if (memcmp(io->out - sizeof(tail), tail, sizeof(tail)))
		return CODEC_BAD;
	io->out -= sizeof(tail);
	return CODEC_DONE;
}

/* One call of inflate on a piece; false: the stream is not what it should be. */
static bool inflate_some(struct zcodec *c, const uint8_t **in, size_t *in_len, struct codec_io *io)
{
	uint8_t excess;
	int r;

	c->z.next_in = (Bytef *)(uintptr_t)*in;
	c->z.avail_in = (uInt)*in_len;
	c->z.next_out = io->out_len ? io->out : &excess;
	c->z.avail_out = io->out_len ? (uInt)io->out_len : 1;
	r = inflate(&c->z, Z_SYNC_FLUSH);
	/* Z_STREAM_END too: a stream that ends itself is not one of ours. */
	if (r != Z_OK && r != Z_BUF_ERROR)
		return false;
	*in += *in_len - c->z.avail_in;
	*in_len = c->z.avail_in;
	if (!io->out_len)
		return c->z.avail_out == 1;
	io->out = c->z.next_out;
	io->out_len = c->z.avail_out;
	return true;
}

static int decode(struct zcodec *c, struct codec_io *io, enum codec_step step)
{
	bool all = io->out_len == 0;
	const uint8_t *in;
	size_t n;

	if (step == CODEC_LEARN) {
		if (inflateSetDictionary(&c->z, io->in, (uInt)io->in_len) != Z_OK)
			return CODEC_BAD;
		io->in += io->in_len;
		io->in_len = 0;
		return CODEC_GO;
	}
	/* Also without input: a match may have been cut short by lack of room. */
	if (!c->tail && !inflate_some(c, &io->in, &io->in_len, io))
		return CODEC_BAD;
	if (io->in_len)
		return io->out_len || all ? CODEC_BAD : CODEC_GO;
	if (step == CODEC_MORE || (!io->out_len && !all))
		return CODEC_GO;
	in = tail + c->tail;
	n = sizeof(tail) - c->tail;
	if (!inflate_some(c, &in, &n, io))
		return CODEC_BAD;
	c->tail = (uint32_t)(in - tail);
	if (n)
		return io->out_len || all ? CODEC_BAD : CODEC_GO;
	/* Between two deflate blocks, on a byte: 128, nothing left in zlib's bits (data_type, zlib.h). */
	if (c->z.data_type != 128)
		return CODEC_BAD;
	c->tail = 0;
	return CODEC_DONE;
}

static int zcode(void *codec, struct codec_io *io, enum codec_step step, int level)
{
	struct zcodec *c = codec;

	if (step == CODEC_FRESH) {
		c->open = false;
		c->tail = 0;
		return (c->dir == CODEC_ENC ? deflateReset(&c->z) : inflateReset(&c->z)) == Z_OK ?
			CODEC_GO : CODEC_BAD;
	}
	return c->dir == CODEC_ENC ? encode(c, io, step, level) : decode(c, io, step);
}

static void zclose(void *codec)
{
	struct zcodec *c = codec;

	if (c->dir == CODEC_ENC)
		deflateEnd(&c->z);
	else
		inflateEnd(&c->z);
}

const struct codec_ops codec_zlib = {
	.id = CODEC_DEFLATE,
	.min_level = 1,
	.max_level = 9,
	.name = "zlib",
	.mem = { [CODEC_ENC] = ENC_MEM, [CODEC_DEC] = DEC_MEM },
	.open = zopen,
	.code = zcode,
	.close = zclose,
};
