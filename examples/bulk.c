#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bulk.h"

void bulk_init(struct bulk *b, int fd)
{
	b->fd = fd;
	b->t0 = now_ns();
	b->out = xmalloc(b->chunk);
	b->in = xmalloc(b->chunk);
	digest_init(&b->tx);
	digest_init(&b->rx);
	peer_name(fd, false, b->peer);
}

static bool again(int err)
{
	return err == EAGAIN || err == EWOULDBLOCK || err == EINTR;
}

static void fail(struct bulk *b, const char *op)
{
	if (!b->err) {
		b->err = errno;
		b->op = op;
	}
}

/* When the next byte may go, as a time; the past when there is no limit. */
static uint64_t due(const struct bulk *b)
{
	if (b->rate <= 0)
		return 0;
	return b->t0 + (uint64_t)((double)b->sent / b->rate * 1e9);
}

static bool send_some(struct bulk *b)
{
	ssize_t n;

	if (b->out_off == b->out_len) {
		uint64_t left = b->to_send - b->sent;

		b->out_len = left < b->chunk ? (size_t)left : b->chunk;
		b->out_off = 0;
		pattern_fill(b->out, b->seed, b->sent, b->out_len);
	}
	n = send(b->fd, b->out + b->out_off, b->out_len - b->out_off, 0);
	b->full = n < 0;
	if (n < 0) {
		if (!again(errno))
			fail(b, "send");
		return false;
	}
	digest_add(&b->tx, b->out + b->out_off, (size_t)n);
	b->out_off += (size_t)n;
	b->sent += (uint64_t)n;
	return true;
}

static bool recv_some(struct bulk *b)
{
	ssize_t n = recv(b->fd, b->in, b->chunk, 0);

	if (n < 0) {
		if (!again(errno))
			fail(b, "recv");
		return false;
	}
	if (n == 0)
		b->eof = true;
	digest_add(&b->rx, b->in, (size_t)n);
	b->rcvd += (uint64_t)n;
	return true;
}

static void end_sending(struct bulk *b)
{
	if (shutdown(b->fd, SHUT_WR))
		fail(b, "shutdown");
	b->shut = true;
}

/* The only one to touch the sending half of *b while it runs. */
static void *send_all(void *arg)
{
	struct bulk *b = arg;
	struct bulk s = *b;

	while (s.sent < s.to_send && !s.err) {
		sleep_until(due(&s));
		send_some(&s);
	}
	if (!s.err)
		end_sending(&s);
	else
		shutdown(s.fd, SHUT_RDWR);	/* wakes the receiving thread */
	b->sent = s.sent;
	b->tx = s.tx;
	b->shut = s.shut;
	if (s.err) {
		b->err = s.err;
		b->op = s.op;
	}
	return NULL;
}

static void receive_all(struct bulk *b)
{
	while (!b->eof && !b->err)
		recv_some(b);
}

void bulk_run(struct bulk *b)
{
	struct bulk r;
	pthread_t t;
	int e;

	if (!b->sends || !b->receives) {
		if (b->sends)
			send_all(b);
		if (!b->err)
			receive_all(b);
		return;
	}
	r = *b;
	e = pthread_create(&t, NULL, send_all, b);
	if (e)
		die("cannot start a thread: %s; use another mode (-e)", strerror(e));
	receive_all(&r);
	if (r.err)
		shutdown(r.fd, SHUT_RDWR);	/* wakes the sending thread */
	pthread_join(t, NULL);
	b->rcvd = r.rcvd;
	b->rx = r.rx;
	b->eof = r.eof;
	if (r.err) {	/* seen first-hand; the sender's may be its echo */
		b->err = r.err;
		b->op = r.op;
	}
}

int bulk_pump(struct bulk *b)
{
	bool moved;

	do {
		moved = false;
		if (!b->eof)
			moved = recv_some(b);
		if (b->sends && b->sent < b->to_send && !b->err && due(b) <= now_ns())
			moved |= send_some(b);
		if (b->sends && b->sent == b->to_send && !b->shut && !b->err)
			end_sending(b);
	} while (moved && !b->err && ev_greedy(b->mode));
	if (b->err || (b->eof && (b->shut || !b->sends)))
		return -1;
	return (!b->eof ? (int)EV_IN : 0) |
	       (b->sends && b->sent < b->to_send && due(b) <= now_ns() ? (int)EV_OUT : 0);
}

int bulk_delay(const struct bulk *b)
{
	uint64_t now = now_ns(), when = due(b);

	/* When the socket is full, its readiness comes first. */
	if (!b->sends || b->sent == b->to_send || when == 0 || b->full)
		return -1;
	return when <= now ? 0 : (int)((when - now) / 1000000 + 1);
}

static void print_line(const struct bulk *b, const char *what, uint64_t n,
		       const struct digest *d)
{
	double s = (double)(now_ns() - b->t0) / 1e9;

	printf("%s %llu bytes, digest %016llx, %.2f s, %.0f MB/s\n", what,
	       (unsigned long long)n, (unsigned long long)digest_value(d), s,
	       (double)n / 1e6 / (s > 0 ? s : 1));
}

bool bulk_finish(struct bulk *b)
{
	bool ok = !b->err && b->eof && b->sent == b->to_send;

	if (b->err)
		warn_msg("connection with %s: %s failed after %llu bytes sent and %llu received: %s (errno %d)%s",
			 b->peer, b->op, (unsigned long long)b->sent,
			 (unsigned long long)b->rcvd, strerror(b->err), b->err,
			 remedy(b->err));
	else if (!ok)
		warn_msg("connection with %s: given up after %llu of %llu bytes sent and %llu received",
			 b->peer, (unsigned long long)b->sent,
			 (unsigned long long)b->to_send, (unsigned long long)b->rcvd);
	if (b->sends)
		print_line(b, "sent", b->sent, &b->tx);
	if (b->receives)
		print_line(b, "received", b->rcvd, &b->rx);
	if (!b->receives && b->rcvd) {
		warn_msg("the other end sent %llu bytes, none were expected: give -x to both ends, or to neither",
			 (unsigned long long)b->rcvd);
		ok = false;
	}
	fflush(stdout);
	close(b->fd);
	free(b->out);
	free(b->in);
	return ok;
}
