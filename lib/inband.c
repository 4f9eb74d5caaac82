#include "inband.h"
#include "log.h"
#include "sys.h"
#include "vsock.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

void inband_init(struct inband *b, int fd)
{
	memset(b, 0, sizeof(*b));
	b->fd = fd;
}

void inband_drop(struct inband *b)
{
	free(b->out);
	free(b->body);
	inband_init(b, -1);
}

bool inband_written(const struct inband *b)
{
	return b->out_at == b->nout;
}

bool inband_put(struct inband *b, const struct msg *m, const uint8_t *key, const uint8_t *extra, size_t n)
{
	uint8_t *p = realloc(b->out, b->nout + WIRE_MAX + n);

	if (!p)
		return false;
	b->out = p;
	b->nout += wire_encode(m, key, p + b->nout);
	if (n)
		memcpy(p + b->nout, extra, n);
	b->nout += n;
	return true;
}

static bool write_some(struct inband *b)
{
	while (b->out_at < b->nout) {
		ssize_t r = sys_send(b->fd, b->out + b->out_at, b->nout - b->out_at,
				     MSG_DONTWAIT | MSG_NOSIGNAL);

		if (r < 0)
			return errno == EAGAIN || errno == EINTR;
		b->out_at += (size_t)r;
		b->sent += (uint64_t)r;
	}
	return true;
}

void inband_flush(struct inband *b)
{
	write_some(b);
}

/* Reads up to n bytes in all; 1 complete, 0 not yet, -1 dead. */
static int read_to(struct inband *b, uint8_t *buf, size_t *have, size_t n)
{
	while (*have < n) {
		ssize_t r = sys_recv(b->fd, buf + *have, n - *have, MSG_DONTWAIT);

		if (r == 0)
			return -1;
		if (r < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -1;
		*have += (size_t)r;
		b->received += (uint64_t)r;
	}
	return 1;
}

static int read_body(struct inband *b)
{
	return read_to(b, b->body, &b->body_at, b->nbody);
}

static bool begin_body(struct inband *b, uint64_t n)
{
	free(b->body);
	b->body = NULL;
	b->nbody = b->body_at = 0;
	if (n > REPLAY_MAX)
		return false;
	b->body = n ? malloc(n) : NULL;
	if (n && !b->body)
		return false;
	b->nbody = n;
	b->is_body = true;
	return true;
}

bool inband_expect(struct inband *b, size_t message, uint64_t unread)
{
	b->received = message;
	return begin_body(b, unread);
}

enum inband_result inband_pump(struct inband *b, const uint8_t *key, struct msg *m)
{
	enum wire_error we;
	bool writable;
	size_t len;
	int r;

	/* The other side may have answered and closed before it had read all: the answer is still there. */
	writable = write_some(b);
	if (!b->is_body) {
		r = read_to(b, b->in, &b->nin, 8);
		if (r <= 0)
			return r < 0 || !writable ? INBAND_DEAD : INBAND_WAIT;
		len = (size_t)b->in[6] | (size_t)b->in[7] << 8;
		if (len < 8 || len > WIRE_MAX)
			return INBAND_DEAD;
		r = read_to(b, b->in, &b->nin, len);
		if (r <= 0)
			return r < 0 || !writable ? INBAND_DEAD : INBAND_WAIT;
		/* Checked before a byte behind it is believed. */
		we = wire_decode(m, key, b->in, b->nin);
		if (we != WIRE_OK) {
			log_error("resume: %s in a new link: not used", wire_strerror(we));
			return INBAND_DEAD;
		}
		if (!begin_body(b, m->type == MSG_REQ || m->type == MSG_OK ? m->unread : 0))
			return INBAND_DEAD;
	}
	r = read_body(b);
	if (r <= 0)
		return r < 0 || !writable ? INBAND_DEAD : INBAND_WAIT;
	b->is_body = false;
	if (b->nin && wire_decode(m, key, b->in, b->nin) != WIRE_OK)
		return INBAND_DEAD;
	b->nin = 0;
	return INBAND_MSG;
}
