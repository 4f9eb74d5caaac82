/*
 * Codecs: how the bytes of one block are made smaller, behind three calls.
 *
 * Pure: all memory is the caller's, given once at open.  So it can lie in the
 * mapping that forked processes share (at the same address in all of them),
 * its size is known, and close has nothing to give back.  One direction each;
 * not thread-safe, the caller's lock covers every call.
 *
 * Encoder and decoder keep a dictionary over the blocks of a link's life.
 * CODEC_FRESH forgets it.  Both sides do so at the same block, or the stream
 * is lost; who says when is the stage (stage.h).
 */
#ifndef ROAM_CODEC_H
#define ROAM_CODEC_H

#include "types.h"

/* Frozen: these numbers are on the wire (docs/codec.md). */
enum codec_id {
	CODEC_STORED = 0,	/* the bytes as they are; needs no code */
	CODEC_DEFLATE = 1,	/* raw deflate (RFC 1951), window of 32 KiB, each block ends on a byte */
	CODEC_NOTE = 255,	/* no data: see stage.h */
};

enum codec_dir { CODEC_ENC, CODEC_DEC };

enum codec_step {
	CODEC_MORE,	/* more of this block follows */
	CODEC_END,	/* this is the rest of it */
	CODEC_LEARN,	/* decoder: bytes that came as they are belong to the dictionary */
	CODEC_FRESH,	/* forget the dictionary (io: NULL) */
};

enum codec_result {
	CODEC_BAD = -1,		/* final */
	CODEC_GO = 0,		/* as far as input and room went */
	CODEC_DONE = 1,		/* END: the block is complete */
	CODEC_FULL = 2,		/* encoder, END: it did not fit; the bytes are in the dictionary all the same */
};

struct codec_io {		/* moves on as bytes are used */
	const uint8_t *in;
	size_t in_len;
	uint8_t *out;
	size_t out_len;
};

struct codec_ops {
	uint8_t id, min_level, max_level;
	const char *name;
	uint32_t mem[2];	/* per direction, what open needs at most */
	/* mem is aligned to 64 bytes; NULL: it does not suffice. */
	void *(*open)(enum codec_dir dir, void *mem, size_t len);
	/*
	 * Encoder: uses all input, whatever the room; a block's `out` is one
	 * piece, from the first MORE to END.  The level (of the whole block) may
	 * change with each block.
	 * Decoder: DONE when the block's last byte was used and all it stands for
	 * is out.  out_len 0 says that no more may come: if more does, BAD.
	 */
	int (*code)(void *codec, struct codec_io *io, enum codec_step step, int level);
	void (*close)(void *codec);
};

/* NULL: no code for it (CODEC_STORED, CODEC_NOTE), or not known. */
const struct codec_ops *codec_find(uint8_t id);

extern const struct codec_ops codec_zlib;

#endif
