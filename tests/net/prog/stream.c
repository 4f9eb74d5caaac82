#include "stream.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#define BURST_S 0.02		/* a paced stream catches up on this much, not on a whole outage */
#define RECV_MAX 65536

uint64_t stream_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void init(struct stream *s, int fd)
{
	memset(s, 0, sizeof(*s));
	s->fd = fd;
	s->born = s->last_rx = s->refilled = stream_now();
	digest_init(&s->tx);
	digest_init(&s->rx);
}

void stream_client(struct stream *s, int fd, uint64_t seed, uint64_t bytes, uint64_t want, uint64_t flags)
{
	init(s, fd);
	s->client = s->known = true;
	s->seed = seed;
	s->flags = flags;
	s->want = want;
	s->to_send = bytes < STREAM_HEADER ? STREAM_HEADER : bytes;
	memcpy(s->header, &seed, 8);
	memcpy(s->header + 8, &want, 8);
	memcpy(s->header + 16, &flags, 8);
}

void stream_server(struct stream *s, int fd)
{
	init(s, fd);
}

void stream_refill(struct stream *s, double rate, uint64_t now)
{
	double most = rate * BURST_S < 16384 ? 16384 : rate * BURST_S;

	s->tokens += rate * (double)(now - s->refilled) / 1e9;
	if (s->tokens > most)
		s->tokens = most;
	s->refilled = now;
}

size_t stream_room(const struct stream *s, double rate, size_t chunk)
{
	uint64_t n = s->to_send - s->sent;

	if (!s->known || s->shut || s->err)
		return 0;
	if (s->flags & STREAM_PINGPONG) {
		/* the client is one message ahead, the server never is */
		uint64_t may = s->rcvd + (s->client ? chunk : 0);

		n = may <= s->sent ? 0 : n < may - s->sent ? n : may - s->sent;
	} else if (rate > 0 && (double)n > s->tokens) {
		n = s->tokens > 0 ? (uint64_t)s->tokens : 0;
	}
	return n < chunk ? (size_t)n : chunk;
}

/* What stands in a stream at this offset. */
static void fill(const struct stream *s, bool of_client, unsigned char *buf, uint64_t off, size_t len)
{
	pattern_fill(buf, of_client ? s->seed : ~s->seed, off, len);
	if (of_client && off < STREAM_HEADER) {
		size_t n = STREAM_HEADER - (size_t)off;

		memcpy(buf, s->header + off, n < len ? n : len);
	}
}

static void fail(struct stream *s, int err, const char *op)
{
	if (s->err)
		return;
	s->err = err;
	s->op = op;
	s->failed_at = stream_now();
}

static bool passing(int err)
{
	return err == EAGAIN || err == EWOULDBLOCK || err == EINTR;
}

bool stream_send(struct stream *s, double rate, size_t chunk)
{
	static unsigned char buf[1 << 20];
	size_t room = stream_room(s, rate, chunk < sizeof(buf) ? chunk : sizeof(buf));
	ssize_t n;

	if (!room) {
		s->full = false;
		return false;
	}
	fill(s, s->client, buf, s->sent, room);
	n = send(s->fd, buf, room, MSG_NOSIGNAL);
	s->full = n < (ssize_t)room;
	if (n < 0) {
		if (!passing(errno))
			fail(s, errno, "send");
		return false;
	}
	digest_add(&s->tx, buf, (size_t)n);
	s->sent += (uint64_t)n;
	s->tokens -= (double)n;
	return true;
}

/* The server learns the seed from the first bytes; how many of buf they were. */
static size_t take_header(struct stream *s, const unsigned char *buf, size_t n)
{
	size_t have = (size_t)s->rcvd, take = STREAM_HEADER - have;

	if (take > n)
		take = n;
	memcpy(s->header + have, buf, take);
	if (have + take < STREAM_HEADER)
		return take;
	memcpy(&s->seed, s->header, 8);
	memcpy(&s->want, s->header + 8, 8);
	memcpy(&s->flags, s->header + 16, 8);
	s->to_send = s->want;
	s->known = true;
	return take;
}

/* What came instead?  Bytes of another place of the stream tell how many are missing or twice. */
static void complain(const struct stream *s, const unsigned char *buf, uint64_t off, size_t n)
{
	unsigned char good[16];
	size_t len = n < sizeof(good) ? n : sizeof(good), i;
	long d;

	fprintf(stderr, "walker: stream %016llx: byte %llu received is wrong:", (unsigned long long)s->seed,
		(unsigned long long)off);
	for (i = 0; i < n && i < 32; i++)
		fprintf(stderr, " %02x", buf[i]);
	for (d = -4000000; len >= 8 && d < 4000000; d++) {
		if ((long)off + d < 0)
			continue;
		fill(s, s->client == s->echo, good, (uint64_t)((long)off + d), len);
		if (!memcmp(good, buf, len)) {
			fprintf(stderr, " (these belong %ld bytes later)", d);
			break;
		}
	}
	fprintf(stderr, "\n");
}

static void check(struct stream *s, const unsigned char *buf, size_t n)
{
	static unsigned char good[RECV_MAX];
	uint64_t off = s->rcvd;
	size_t i;

	if (!s->known) {
		i = take_header(s, buf, n);
		buf += i;
		off += i;
		n -= i;
	}
	fill(s, s->client == s->echo, good, off, n);
	if (!memcmp(buf, good, n))
		return;
	for (i = 0; buf[i] == good[i]; i++)
		;
	complain(s, buf + i, off + i, n - i);
	fail(s, EBADMSG, "check");
}

bool stream_recv(struct stream *s, uint64_t gap_ns, FILE *samples)
{
	static unsigned char buf[RECV_MAX];
	ssize_t n;
	uint64_t now;

	if (s->eof || s->err)
		return false;
	n = recv(s->fd, buf, sizeof(buf), 0);
	if (n < 0) {
		if (!passing(errno))
			fail(s, errno, "recv");
		return false;
	}
	now = stream_now();
	if (now - s->last_rx > gap_ns) {
		if (samples)
			fprintf(samples, "gap %016llx %llu %llu\n", (unsigned long long)s->seed,
				(unsigned long long)s->last_rx, (unsigned long long)now);
		if (s->rcvd && now - s->last_rx > s->gap_max)
			s->gap_max = now - s->last_rx;
	}
	s->last_rx = now;
	if (n == 0) {
		s->eof = true;
		if (s->flags & STREAM_PINGPONG)
			s->to_send = s->client ? s->sent : s->rcvd;
		else if (s->to_send == STREAM_ENDLESS)
			s->to_send = s->sent;
		if (!s->known)		/* it ended before it said anything */
			s->to_send = s->sent;
		stream_shut_if_done(s);
		return true;
	}
	check(s, buf, (size_t)n);
	digest_add(&s->rx, buf, (size_t)n);
	s->rcvd += (uint64_t)n;
	return true;
}

void stream_finish(struct stream *s)
{
	if (s->known && s->to_send > s->sent)
		s->to_send = s->sent < STREAM_HEADER && s->client ? STREAM_HEADER : s->sent;
	stream_shut_if_done(s);
}

void stream_shut_if_done(struct stream *s)
{
	if (s->shut || s->err || (s->known && s->sent < s->to_send) || (!s->known && !s->eof))
		return;
	if (shutdown(s->fd, SHUT_WR))
		fail(s, errno, "shutdown");
	s->shut = true;
}

bool stream_over(const struct stream *s)
{
	return s->err || (s->eof && s->shut);
}

bool stream_report(const struct stream *s)
{
	const char *name = s->err ? strerrorname_np(s->err) : NULL;

	printf("{\"seed\": \"%016llx\", \"sent\": %llu, \"sent_digest\": \"%016llx\", \"received\": %llu, "
	       "\"received_digest\": \"%016llx\", \"ended\": %s, \"longest_gap_ms\": %.1f, "
	       "\"error\": %s%s%s, \"op\": \"%s\", \"failed_at\": %llu}\n",
	       (unsigned long long)s->seed, (unsigned long long)s->sent,
	       (unsigned long long)digest_value(&s->tx), (unsigned long long)s->rcvd,
	       (unsigned long long)digest_value(&s->rx), s->eof && s->shut ? "true" : "false",
	       (double)s->gap_max / 1e6, name ? "\"" : "", name ? name : "null", name ? "\"" : "",
	       s->op ? s->op : "", (unsigned long long)s->failed_at);
	return !s->err && s->eof && s->shut;
}
