/* A histogram of times with 3 % wide bins: memory does not grow with the run. */
#ifndef EXAMPLES_HIST_H
#define EXAMPLES_HIST_H

#include <stdint.h>

struct hist {
	uint64_t bin[60 * 32];
	uint64_t n, sum, max;
};

static inline unsigned hist_index(uint64_t ns)
{
	unsigned shift = ns < 32 ? 0 : 63 - (unsigned)__builtin_clzll(ns) - 5;

	return shift * 32 + (unsigned)(ns >> shift);
}

static inline void hist_add(struct hist *h, uint64_t ns)
{
	h->bin[hist_index(ns)]++;
	h->n++;
	h->sum += ns;
	if (ns > h->max)
		h->max = ns;
}

static inline void hist_merge(struct hist *to, const struct hist *from)
{
	for (unsigned i = 0; i < 60 * 32; i++)
		to->bin[i] += from->bin[i];
	to->n += from->n;
	to->sum += from->sum;
	if (from->max > to->max)
		to->max = from->max;
}

/* The upper edge of the bin that holds the quantile q. */
static inline uint64_t hist_quantile(const struct hist *h, double q)
{
	uint64_t seen = 0;

	for (unsigned i = 0; i < 60 * 32; i++) {
		unsigned shift = i < 64 ? 0 : i / 32 - 1;
		uint64_t edge = ((uint64_t)(i - shift * 32) + 1) << shift;

		seen += h->bin[i];
		if (seen && (double)seen >= q * (double)h->n)
			return edge < h->max ? edge : h->max;
	}
	return h->max;
}

#endif
