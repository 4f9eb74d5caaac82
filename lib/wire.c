#include "wire.h"
#include <sodium.h>
#include <string.h>

/* magic (4), version (1), type (1), length of the whole (2) */
#define HEAD 8
static const uint8_t magic[4] = { 'r', 'o', 'a', 'm' };

static uint8_t *put(uint8_t *p, uint64_t v, int n)
{
	while (n--) {
		*p++ = (uint8_t)v;
		v >>= 8;
	}
	return p;
}

static uint64_t get(const uint8_t *p, int n)
{
	uint64_t v = 0;

	while (n--)
		v = v << 8 | p[n];
	return v;
}

static size_t body_len(uint8_t type)
{
	switch (type) {
#define U8(f)	+ 1
#define U16(f)	+ 2
#define U32(f)	+ 4
#define U64(f)	+ 8
#define B16(f)	+ 16
#define B32(f)	+ 32
#define MSG(name, nr, keyed, fields) case nr: return 0 fields;
#include "wire.def"
#undef MSG
#undef U8
#undef U16
#undef U32
#undef U64
#undef B16
#undef B32
	}
	return 0;
}

bool wire_keyed(uint8_t type)
{
	switch (type) {
#define MSG(name, nr, keyed, fields) case nr: return keyed;
#include "wire.def"
#undef MSG
	}
	return false;
}

const char *wire_name(uint8_t type)
{
	switch (type) {
#define MSG(name, nr, keyed, fields) case nr: return #name;
#include "wire.def"
#undef MSG
	}
	return "?";
}

const char *wire_strerror(enum wire_error e)
{
	static const char *const s[] = {
		"ok", "truncated message", "over-long message", "not a roam message",
		"unknown protocol version", "unknown message type", "forged message",
	};

	return (unsigned int)e < ARRAY_SIZE(s) ? s[e] : "?";
}

static void mac(uint8_t *out, const uint8_t *key, const uint8_t *buf, size_t n)
{
	crypto_generichash(out, WIRE_MAC, buf, n, key, WIRE_KEY);
}

size_t wire_encode(const struct msg *m, const uint8_t *key, uint8_t *buf)
{
	uint8_t *p = buf + HEAD;
	size_t n = HEAD + body_len(m->type) + (wire_keyed(m->type) ? WIRE_MAC : 0);

	memcpy(buf, magic, 4);
	buf[4] = WIRE_VERSION;
	buf[5] = m->type;
	put(buf + 6, n, 2);
	switch (m->type) {
#define U8(f)	p = put(p, m->f, 1);
#define U16(f)	p = put(p, m->f, 2);
#define U32(f)	p = put(p, m->f, 4);
#define U64(f)	p = put(p, m->f, 8);
#define B16(f)	memcpy(p, m->f, 16); p += 16;
#define B32(f)	memcpy(p, m->f, 32); p += 32;
#define MSG(name, nr, keyed, fields) case nr: fields break;
#include "wire.def"
#undef MSG
#undef U8
#undef U16
#undef U32
#undef U64
#undef B16
#undef B32
	}
	if (wire_keyed(m->type))
		mac(p, key, buf, (size_t)(p - buf));
	return n;
}

enum wire_error wire_decode(struct msg *m, const uint8_t *key, const uint8_t *buf, size_t n)
{
	const uint8_t *p = buf + HEAD;
	uint8_t want[WIRE_MAC];
	size_t len;

	memset(m, 0, sizeof(*m));
	if (n < HEAD)
		return WIRE_SHORT;
	if (memcmp(buf, magic, 4))
		return WIRE_MAGIC;
	if (buf[4] != WIRE_VERSION)
		return WIRE_BADVERSION;
	len = body_len(buf[5]);
	if (!len)
		return WIRE_TYPE;
	len += HEAD + (wire_keyed(buf[5]) ? WIRE_MAC : 0);
	if (n < len)
		return WIRE_SHORT;
	if (n > len || get(buf + 6, 2) != len)
		return WIRE_LONG;
	if (key && wire_keyed(buf[5])) {
		mac(want, key, buf, n - WIRE_MAC);
		if (sodium_memcmp(want, buf + n - WIRE_MAC, WIRE_MAC))
			return WIRE_FORGED;
	}
	m->type = buf[5];
	switch (m->type) {
#define U8(f)	m->f = *p++;
#define U16(f)	m->f = (uint16_t)get(p, 2); p += 2;
#define U32(f)	m->f = (uint32_t)get(p, 4); p += 4;
#define U64(f)	m->f = get(p, 8); p += 8;
#define B16(f)	memcpy(m->f, p, 16); p += 16;
#define B32(f)	memcpy(m->f, p, 32); p += 32;
#define MSG(name, nr, keyed, fields) case nr: fields break;
#include "wire.def"
#undef MSG
#undef U8
#undef U16
#undef U32
#undef U64
#undef B16
#undef B32
	}
	return WIRE_OK;
}
