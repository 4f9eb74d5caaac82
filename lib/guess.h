/*
 * Is this block worth the codec?  A guess from a sample of its bytes and from
 * what became of the blocks before it.
 *
 * Pure.  One struct guess a direction, zero at first; every byte of the stream
 * passes guess_block in order (TLS records are followed from one to the next).
 */
#ifndef ROAM_GUESS_H
#define ROAM_GUESS_H

#include "types.h"

enum guess_why {
	GUESS_GOOD,		/* the sample has less than 7.6 bits a byte */
	GUESS_UNSURE,		/* less than 7.9: the codec will show */
	GUESS_DENSE,		/* the sample looks like noise: compressed or encrypted */
	GUESS_MAGIC,		/* a known compressed format begins here, and the rest is dense */
	GUESS_TLS,		/* TLS records */
	GUESS_SEEN,		/* the last blocks did not shrink */
	GUESS_TRIAL,		/* was let alone for long: one block, to see */
};

struct guess {
	uint8_t why;		/* of the last block */
	uint8_t tls;		/* the stream is in TLS records: */
	uint32_t tls_left;	/* bytes to the next one */
	uint32_t quiet;		/* bytes let alone since the last try */
	uint32_t back;		/* bytes to let alone before the next trial; 0: the first */
	uint32_t tried;		/* coded/raw of the blocks that were tried, in 1/1024; 0: none yet */
	uint16_t bits;		/* of the last sample, in 1/1024 a byte */
	uint16_t failed;	/* of the last block that was tried and did not shrink */
	uint32_t all;		/* the same of all blocks, those let alone count as 1024; 0: none yet */
};

/* Should these n bytes, the next of the stream, go to the codec? */
bool guess_block(struct guess *g, const uint8_t *p, size_t n);
/* What became of them: coded == raw also when they were not tried. */
void guess_saw(struct guess *g, size_t raw, size_t coded, bool tried);
/*
 * Coded size by the sample alone, in 1/1024 of the raw size: what the bytes'
 * frequencies allow, so deflate does not get worse.  1024: nothing to gain.
 * Needs 64 bytes to say anything.
 */
uint32_t guess_sample(const uint8_t *p, size_t n);

#endif
