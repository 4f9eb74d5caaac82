/* Reproducible dice for the unit tests. */
#ifndef ROAM_TESTS_SEED_H
#define ROAM_TESTS_SEED_H

#include <stdint.h>
#include <stdlib.h>

static inline uint64_t seed_next(uint64_t *x)
{
	uint64_t z = (*x += 0x9e3779b97f4a7c15u);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static inline uint32_t seed_below(uint64_t *x, uint32_t n)
{
	return (uint32_t)((seed_next(x) >> 32) * n >> 32);
}

static inline uint64_t seed_env(const char *name, uint64_t def)
{
	const char *v = getenv(name);

	return v && *v ? strtoull(v, NULL, 0) : def;
}

#endif
