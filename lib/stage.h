/*
 * The codec stage of one direction of a link: application bytes become blocks
 * on the wire, and bytes again.  docs/codec.md has the format.
 *
 * Pure: no descriptor, no clock, no memory of its own.
 *
 *	replay buffer            stage_enc               link
 *	base ........ off ... end     box: at .... end
 *	      (encoded)  (not yet)         (made, not taken)
 *
 * Encoding is block by block: stage_encode makes one block of the bytes at
 * `off`, complete and decodable by itself when it has arrived.  So there is no
 * flush; what is to be coalesced simply stays in the replay buffer a little
 * longer (stage_share says how much to take now), and a resume drops the stage
 * and opens a fresh one at any stream offset.
 *
 * The bytes given to stage_encode are read twice, so they must be the copy in
 * the replay buffer, never the application's own memory.
 *
 * Offsets: `off` counts the stream, as everywhere.  `wire` counts the bytes of
 * this stage's blocks, from 0.  stage_acked turns the second into the first.
 *
 * Decoding takes the wire in any pieces and stops when the caller's room is
 * full.  An error is final.  Memory does not depend on what comes.
 */
#ifndef ROAM_STAGE_H
#define ROAM_STAGE_H

#include "codec.h"

#define STAGE_HEAD	6u		/* of a block, on the wire */
#define STAGE_BLOCK	65536u		/* raw bytes of a block, at most */
#define STAGE_NOTE	8u		/* payload of a CODEC_NOTE */
#define STAGE_MARKS	64u		/* even */
#define STAGE_ALIGN	64u
#define STAGE_ENOUGH	16384u	/* raw bytes of a block, when the link is busy; see stage.c for both */
#define STAGE_IDLE	2920u	/* queued wire bytes: less is an idle link */

/* Flags of a block. */
#define STAGE_FRESH	1u	/* deflate: the dictionary is empty at its beginning */
#define STAGE_LEARN	2u	/* stored: its bytes go into the dictionary */
#define STAGE_LAST	4u	/* the link carries plain bytes behind it */
#define STAGE_FLAGS	7u

enum stage_result {
	STAGE_BAD = -1,		/* final */
	STAGE_OK = 0,
	STAGE_END = 1,		/* a LAST block is behind us: the rest is plain */
};

struct stage_mark {
	uint64_t wire, off;	/* this much wire holds everything below this stream offset */
};

struct stage_enc {
	uint8_t codec;		/* id; CODEC_STORED: no state */
	uint8_t fresh;		/* the next coded block begins a dictionary */
	uint8_t last, bad;
	uint8_t inside;		/* a call is under way: set by one who died in it */
	uint32_t at, end;	/* of the box: made, not taken by the link */
	uint64_t off;		/* stream: everything below is in a block */
	uint64_t wire;		/* wire: bytes made */
	uint64_t blocks, stored;
	uint64_t acked_off;	/* last answer of stage_acked */
	uint32_t marks;
	uint32_t stride, run;	/* blocks of a mark, of the newest one */
	struct stage_mark mark[STAGE_MARKS];
	void *state;		/* of the codec, in mem */
	/* One block with the four bytes that deflate leaves out, and a note. */
	uint8_t box[STAGE_HEAD + STAGE_BLOCK + 4 + STAGE_HEAD + STAGE_NOTE];
	_Alignas(STAGE_ALIGN) uint8_t mem[];
};

struct stage_dec {
	uint8_t codec;
	uint8_t bad, last;
	uint8_t inside;
	uint8_t started;	/* a FRESH block has come */
	uint8_t finish;		/* all coded bytes were given to the codec, it is not done */
	uint8_t has_ahead, ahead;	/* a byte that stage_ready has taken out */
	uint8_t have;		/* of head, then of note */
	uint8_t head[STAGE_HEAD], note[STAGE_NOTE];
	uint8_t body;		/* inside a block */
	uint8_t id, flags;	/* of the block */
	uint32_t raw, coded;	/* of the block: still to come */
	uint64_t off;		/* stream: bytes given out */
	uint64_t wire;		/* wire: bytes used */
	uint64_t peer_off;	/* the other end's reader was here (CODEC_NOTE); only grows */
	void *state;
	_Alignas(STAGE_ALIGN) uint8_t mem[];
};

/* Memory for one direction with this codec, 0: no such codec. To be aligned to STAGE_ALIGN. */
size_t stage_enc_size(uint8_t codec);
size_t stage_dec_size(uint8_t codec);

/* A stage whose first byte is the stream's at `off`. NULL: no such codec, or too little memory. */
struct stage_enc *stage_enc_open(void *mem, size_t len, uint8_t codec, uint64_t off);
struct stage_dec *stage_dec_open(void *mem, size_t len, uint8_t codec, uint64_t off);
void stage_enc_close(struct stage_enc *e);
void stage_dec_close(struct stage_dec *d);

/* Bytes of the box that the link has not taken. */
static inline size_t stage_wire(const struct stage_enc *e, const uint8_t **p)
{
	*p = e->box + e->at;
	return e->end - e->at;
}

/*
 * How many of `waiting` bytes (not yet encoded) are worth a block now, when
 * the link has `queued` wire bytes before them: all when it is idle, none
 * before there are enough for a good block when it is busy.
 */
size_t stage_share(const struct stage_enc *e, uint64_t waiting, uint64_t queued);

/*
 * One block of the n bytes (1 .. STAGE_BLOCK) at e->off, in up to cnt pieces,
 * into the empty box.  level 0: stored, without a look at them; else as the
 * codec says.  flags: STAGE_LAST or 0.  Its length on the wire, or STAGE_BAD:
 * not now (the box is not empty, n is wrong) when !e->bad, else final.
 */
long stage_encode(struct stage_enc *e, const struct iovec *iov, int cnt, size_t n, int level, unsigned flags);
/* Tells the other end how far its stream was read here. False: no room in the box. */
bool stage_note(struct stage_enc *e, uint64_t rx_off, unsigned flags);
/* The link took n bytes of the box. */
void stage_taken(struct stage_enc *e, size_t n);
/* The peer's kernel has `wire` bytes: everything below the result may be forgotten. */
uint64_t stage_acked(struct stage_enc *e, uint64_t wire);
/* Before a change of codec memory on the same link: the next coded block starts a dictionary. */
void stage_refresh(struct stage_enc *e);

/*
 * Takes *n bytes of the wire and gives up to *cap bytes of the stream; sets
 * both to what was used and given.  STAGE_END: a LAST block has been given out
 * whole; nothing behind it was used.
 */
enum stage_result stage_decode(struct stage_dec *d, const uint8_t *in, size_t *n, uint8_t *out, size_t *cap);
/* True when stage_decode would give at least a byte without more of the wire. May find the stream bad. */
bool stage_ready(struct stage_dec *d);

/* Wire bytes that are surely needed before anything new can come out (a head), or to the end of the block. */
static inline uint32_t stage_need(const struct stage_dec *d)
{
	return d->body ? d->coded : STAGE_HEAD - d->have;
}

/*
 * The stream bytes in n bytes of wire, by the heads alone: what whole blocks
 * behind the present one promise, and *used, the wire up to there.  For FIONREAD
 * and for counting; it believes the heads, as far as they can be true.
 */
uint64_t stage_count(const struct stage_dec *d, const uint8_t *wire, size_t n, size_t *used);

/* The last note among the blocks that begin in these bytes: its *off. It believes the heads, too. */
bool stage_find_note(const struct stage_dec *d, const uint8_t *wire, size_t n, uint64_t *off);

#endif
