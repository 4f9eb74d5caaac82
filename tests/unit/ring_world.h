/* Two ends of a ring in one process: straight, and through a provider that must be told of each put. */
#ifndef ROAM_TESTS_RING_WORLD_H
#define ROAM_TESTS_RING_WORLD_H

#include "ring_wait.h"

struct world {
	struct prov p[2];
	struct ring_end *e;		/* two */
	struct ring r[2];
	uint8_t *box[2];		/* each between two pages nobody may touch */
	size_t len;
	_Atomic unsigned puts, notifies, barriers;	/* of the provider that copies */
	_Atomic uint32_t imm[2], events[2];	/* by who gets them */
	uint32_t armed[2];
	bool dead;			/* it says so from now on */
};

void world_make(struct world *w, uint32_t size, bool direct, uint64_t ab, uint64_t ba);
void world_free(struct world *w);

/* Byte x of a stream. */
static inline uint8_t stream_byte(uint64_t off)
{
	return (uint8_t)((off * 0x9e3779b97f4a7c15u) >> 56);
}

static inline void stream_fill(uint8_t *p, uint64_t off, size_t n)
{
	for (size_t i = 0; i < n; i++)
		p[i] = stream_byte(off + i);
}

static inline bool stream_is(const uint8_t *p, uint64_t off, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != stream_byte(off + i))
			return false;
	return true;
}

#endif
