/*
 * First byte even: the rest is a KX of any content, the frames behind it too.
 * Odd: two ends have met; the rest is what somebody on the way does to their frames,
 * four bytes a step. A frame opens only when it is the next one, untouched.
 */
#include "secure.h"
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define MUST(c) do { if (!(c)) abort(); } while (0)
#define KEEP 8

static const uint8_t cluster[32] = "the cluster key of a test, 32 b", host[16] = "host";
static uint64_t dice;

/* The same input, the same keys. */
static void fixed_buf(void *buf, size_t n)
{
	uint8_t *p = buf;

	while (n--) {
		dice = dice * 6364136223846793005u + 1442695040888963407u;
		*p++ = (uint8_t)(dice >> 56);
	}
}

static uint32_t fixed(void)
{
	uint32_t v;

	fixed_buf(&v, sizeof(v));
	return v;
}

static const char *fixed_name(void)
{
	return "fixed";
}

static void start(void)
{
	static struct randombytes_implementation impl = {
		.implementation_name = fixed_name, .random = fixed, .buf = fixed_buf,
	};
	static int once;

	dice = 1;
	if (once++)
		return;
	randombytes_set_implementation(&impl);
	MUST(sodium_init() >= 0);
}

static void hostile(const uint8_t *data, size_t n)
{
	static uint8_t out[FRAME_TEXT];
	uint8_t kx[KX_LEN], head[STREAM_HEAD];
	size_t first = n < KX_LEN ? n : KX_LEN, len;
	struct secure s, t;
	struct msg m;

	secure_begin(&s, data[0] & 2, cluster, host, 1, kx);
	/* nobody without the cluster key gets through */
	MUST(secure_kx(&s, data, first, &m, head) != WIRE_OK && !s.open && !m.type);
	secure_begin(&t, !(data[0] & 2), cluster, host, 1, kx);
	MUST(secure_kx(&s, kx, KX_LEN, &m, head) == WIRE_OK);
	data += first;
	n -= first;
	if (n < STREAM_HEAD || !secure_head(&s, data))
		return;
	data += STREAM_HEAD;
	n -= STREAM_HEAD;
	if (n < 2)
		return;
	len = secure_frame_len(data);
	MUST(len <= FRAME_MAX);
	MUST(secure_open(&s, data, len && len <= n ? len : n, out) == -1);
}

static void man_between(const uint8_t *data, size_t n)
{
	static uint8_t out[FRAME_TEXT], frame[KEEP][64], text[32];
	uint8_t kx_a[KX_LEN], kx_b[KX_LEN], head_a[STREAM_HEAD], head_b[STREAM_HEAD];
	size_t sent = 0, opened = 0, which, len[KEEP], l;
	struct secure a, b;
	struct msg m;
	bool dead = false, same;
	long got;

	secure_begin(&a, true, cluster, host, 1, kx_a);
	secure_begin(&b, false, cluster, host, 1, kx_b);
	MUST(secure_kx(&a, kx_b, KX_LEN, &m, head_a) == WIRE_OK);
	MUST(secure_kx(&b, kx_a, KX_LEN, &m, head_b) == WIRE_OK);
	MUST(secure_head(&b, head_a));
	for (; n >= 4; data += 4, n -= 4) {
		if (data[0] & 1 || !sent) {
			memset(text, data[1], sizeof(text));
			len[sent % KEEP] = secure_seal(&a, text, 1 + data[2] % 32, frame[sent % KEEP]);
			MUST(len[sent++ % KEEP] == 20u + data[2] % 32);
			continue;
		}
		which = data[0] >> 1;
		if (which >= sent || which + KEEP < sent)
			which = opened < sent ? opened : 0;
		if (which + KEEP < sent)
			continue;	/* overwritten */
		l = len[which % KEEP];
		memcpy(out, frame[which % KEEP], l);
		out[data[1] % l] ^= data[2];
		same = !data[2] && !data[3];
		got = secure_open(&b, memcpy(frame[which % KEEP], out, l), l - (data[3] < l ? data[3] : l), out);
		if (data[2])
			frame[which % KEEP][data[1] % l] ^= data[2];
		MUST((got >= 0) == (!dead && same && which == opened));
		dead |= got < 0;
		opened += got >= 0;
		MUST(got < 0 || got == (long)(l - 19));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	if (n < 2)
		return 0;
	start();
	(data[0] & 1 ? man_between : hostile)(data + 1, n - 1);
	return 0;
}
