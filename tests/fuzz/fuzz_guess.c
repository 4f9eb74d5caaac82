/* Any bytes, in blocks of any size: the guess touches nothing outside and stays in its range. */
#include "guess.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct guess g = { 0 };

	while (n > 2) {
		size_t len = 1 + (data[0] | data[1] << 8) % (n - 2);
		uint8_t *p = malloc(len);
		bool try;

		if (!p)
			return 0;
		memcpy(p, data + 2, len);
		try = guess_block(&g, p, len);
		guess_saw(&g, len, len - len * (data[0] & 7) / 8, try);
		if (guess_sample(p, len) > 1024 || g.all > 1024 || g.tried > 1024 || !g.all)
			abort();
		free(p);
		data += 2 + len;
		n -= 2 + len;
	}
	return 0;
}
