#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "digest.h"
#include "flow.h"

struct flow *flow_new(const struct flow_options *opt, unsigned id, int fd)
{
	struct flow *f = xmalloc(sizeof(*f));

	f->opt = opt;
	f->id = id;
	f->fd = fd;
	f->total = opt->messages * opt->size;
	f->t0 = now_ns();
	f->t_sent = xmalloc(opt->window * sizeof(*f->t_sent));
	f->connecting = opt->mode != EV_BLOCKING;
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->moved, NULL);
	return f;
}

void flow_free(struct flow *f)
{
	close(f->fd);
	pthread_mutex_destroy(&f->lock);
	pthread_cond_destroy(&f->moved);
	free(f->t_sent);
	free(f);
}

static uint64_t flow_seed(const struct flow *f)
{
	return f->opt->seed + 1000003ull * f->id;
}

/* Keeps the first error and wakes whoever waits on this connection. */
__attribute__((format(printf, 2, 3)))
static void fail(struct flow *f, const char *fmt, ...)
{
	va_list ap;

	pthread_mutex_lock(&f->lock);
	if (!f->err[0]) {
		va_start(ap, fmt);
		vsnprintf(f->err, sizeof(f->err), fmt, ap);
		va_end(ap);
	}
	pthread_cond_broadcast(&f->moved);
	pthread_mutex_unlock(&f->lock);
	shutdown(f->fd, SHUT_RDWR);
}

static void fail_errno(struct flow *f, const char *op, uint64_t off)
{
	int e = errno;

	fail(f, "%s failed at byte %llu of %llu: %s (errno %d)%s", op,
	     (unsigned long long)off, (unsigned long long)f->total, strerror(e), e,
	     remedy(e));
}

static bool failed(struct flow *f)
{
	bool bad;

	pthread_mutex_lock(&f->lock);
	bad = f->err[0];
	pthread_mutex_unlock(&f->lock);
	return bad;
}

static bool again(int err)
{
	return err == EAGAIN || err == EWOULDBLOCK || err == EINTR;
}

static uint64_t start_time(const struct flow *f, uint64_t msg)
{
	return f->t0 + msg * f->opt->interval;
}

/*
 * The bytes that window and interval allow to be sent now, without those that
 * were sent already. Call with the lock held.
 */
static size_t allowed(const struct flow *f)
{
	const struct flow_options *o = f->opt;
	uint64_t msgs = f->done + o->window, n;

	if (msgs > o->messages)
		msgs = o->messages;
	if (o->interval) {
		uint64_t now = now_ns();
		uint64_t started = now < f->t0 ? 0 : 1 + (now - f->t0) / o->interval;

		msgs = msgs < started ? msgs : started;
	}
	n = msgs * o->size;
	n = n > f->sent ? n - f->sent : 0;
	return n < FLOW_BUF ? (size_t)n : FLOW_BUF;
}

/* Sends up to n bytes in one call; false when nothing moved. */
static bool send_some(struct flow *f, size_t n)
{
	const struct flow_options *o = f->opt;
	uint64_t first = (f->sent + o->size - 1) / o->size;
	uint64_t last = (f->sent + n - 1) / o->size;
	ssize_t put;

	/* A try that moves nothing will set these again. */
	pthread_mutex_lock(&f->lock);
	for (uint64_t m = first, now = now_ns(); m <= last; m++)
		f->t_sent[m % o->window] = now;
	pthread_mutex_unlock(&f->lock);

	if (f->out_len < n) {
		pattern_fill(f->out, flow_seed(f), f->sent, n);
		f->out_len = n;
	}
	put = send(f->fd, f->out, n, 0);
	if (put < 0) {
		if (!again(errno))
			fail_errno(f, "send", f->sent);
		return false;
	}
	f->sent += (uint64_t)put;
	f->out_len = 0;
	return true;
}

static void take(struct flow *f, size_t n)
{
	const struct flow_options *o = f->opt;
	size_t good = pattern_check(f->in, flow_seed(f), f->rcvd, n);
	uint64_t now;

	if (good < n) {
		uint64_t at = f->rcvd + good;
		unsigned char want;

		pattern_fill(&want, flow_seed(f), at, 1);
		fail(f, "wrong byte at offset %llu (message %llu, byte %llu): expected 0x%02x, got 0x%02x; the stream was damaged, or this is not an echo server",
		     (unsigned long long)at, (unsigned long long)(at / o->size),
		     (unsigned long long)(at % o->size), want, f->in[good]);
		return;
	}
	f->rcvd += n;
	if (f->rcvd / o->size == f->done)
		return;
	now = now_ns();
	pthread_mutex_lock(&f->lock);
	for (; f->done < f->rcvd / o->size; f->done++)
		hist_add(&f->rtt, now - f->t_sent[f->done % o->window]);
	pthread_cond_broadcast(&f->moved);
	pthread_mutex_unlock(&f->lock);
}

static bool recv_some(struct flow *f)
{
	ssize_t n = recv(f->fd, f->in, FLOW_BUF, 0);

	if (n < 0) {
		if (!again(errno))
			fail_errno(f, "recv", f->rcvd);
		return false;
	}
	if (n == 0 && f->rcvd < f->total) {
		fail(f, "the server closed after %llu of %llu bytes; was it stopped?",
		     (unsigned long long)f->rcvd, (unsigned long long)f->total);
	} else if (n == 0) {
		f->finished = true;
	} else if (f->rcvd + (uint64_t)n > f->total) {
		fail(f, "%llu bytes came back, only %llu were sent; this is not an echo server",
		     (unsigned long long)f->rcvd + (unsigned long long)n,
		     (unsigned long long)f->total);
	} else {
		take(f, (size_t)n);
	}
	return true;
}

static void end_sending(struct flow *f)
{
	if (shutdown(f->fd, SHUT_WR))
		fail_errno(f, "shutdown", f->sent);
	f->shut = true;
}

static bool connected(struct flow *f, unsigned ready)
{
	socklen_t len = sizeof(int);
	int err = 0;

	if (!f->connecting)
		return true;
	if (!(ready & EV_OUT))
		return false;
	getsockopt(f->fd, SOL_SOCKET, SO_ERROR, &err, &len);
	if (err)
		fail(f, "cannot connect: %s%s", strerror(err), remedy(err));
	f->connecting = false;
	f->t0 = now_ns();
	return true;
}

int flow_pump(struct flow *f, unsigned ready)
{
	bool moved;
	size_t n;

	if (!connected(f, ready))
		return (int)EV_OUT;
	do {
		moved = false;
		n = f->err[0] ? 0 : allowed(f);
		if (n)
			moved = send_some(f, n);
		if (f->sent == f->total && !f->shut && !f->err[0])
			end_sending(f);
		if (!f->err[0] && !f->finished)
			moved |= recv_some(f);
	} while (moved && !f->err[0] && !f->finished && ev_greedy(f->opt->mode));
	if (f->err[0] || f->finished)
		return -1;
	return (int)EV_IN | (allowed(f) ? (int)EV_OUT : 0);
}

int flow_delay(struct flow *f)
{
	uint64_t now, when, next = (f->sent + f->opt->size - 1) / f->opt->size;

	if (f->connecting || !f->opt->interval || next >= f->opt->messages ||
	    f->sent % f->opt->size || next >= f->done + f->opt->window)
		return -1;
	now = now_ns();
	when = start_time(f, next);
	return when <= now ? 0 : (int)((when - now) / 1000000 + 1);
}

/* Sends until all is sent, or (with one thread) until an answer must come first. */
static void send_allowed(struct flow *f, bool wait)
{
	while (f->sent < f->total) {
		uint64_t msg = f->sent / f->opt->size;
		size_t n;

		if (f->opt->interval && f->sent % f->opt->size == 0)
			sleep_until(start_time(f, msg));
		pthread_mutex_lock(&f->lock);
		while (!(n = allowed(f)) && wait && !f->err[0])
			pthread_cond_wait(&f->moved, &f->lock);
		if (f->err[0])
			n = 0;
		pthread_mutex_unlock(&f->lock);
		if (!n)
			return;
		send_some(f, n);
	}
	if (!f->shut && !failed(f))
		end_sending(f);
}

static void *send_thread(void *flow)
{
	send_allowed(flow, true);
	return NULL;
}

void *flow_run(void *flow)
{
	struct flow *f = flow;
	/* What may wait in full socket buffers needs a thread for each direction. */
	bool two = f->opt->window > 1 || f->opt->size > 32768;
	pthread_t t;
	int e;

	if (two) {
		e = pthread_create(&t, NULL, send_thread, f);
		if (e)
			die("cannot start a thread: %s; use fewer connections or -e epoll",
			    strerror(e));
	}
	while (!f->finished && !failed(f)) {
		if (!two)
			send_allowed(f, false);
		if (!failed(f))
			recv_some(f);
	}
	if (two)
		pthread_join(t, NULL);
	return NULL;
}
