/* Hostile bytes into the decoder; what it accepts must say the same when encoded again. */
#include "wire.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static const uint8_t key[WIRE_KEY] = "the key of a test, 32 bytes long";
	uint8_t buf[WIRE_MAX];
	struct msg m, k;
	size_t len;

	if (wire_decode(&m, NULL, data, n) != WIRE_OK) {
		if (m.type || wire_decode(&k, key, data, n) == WIRE_OK)
			abort();
		return 0;
	}
	len = wire_encode(&m, key, buf);
	if (len != n || memcmp(buf, data, wire_keyed(m.type) ? n - WIRE_MAC : n))
		abort();
	if (wire_decode(&k, key, buf, len) != WIRE_OK || memcmp(&m, &k, sizeof(m)))
		abort();
	if (wire_decode(&k, key, data, n) == WIRE_OK && memcmp(buf, data, n))
		abort();
	return 0;
}
