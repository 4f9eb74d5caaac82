/*
 * Round trips and streams over one connection.
 *
 * A slice lasts a given time, not a given count: two spinning processes that
 * the scheduler puts on one CPU would otherwise take for ever. The client ends
 * it in band, with the last byte of its last message.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#include "node.h"

static char buf[MAX_SIZE];

int set_spin(int fd, bool spin)
{
	int fl = fcntl(fd, F_GETFL);

	if (fl < 0)
		return -1;
	return fcntl(fd, F_SETFL, spin ? fl | O_NONBLOCK : fl & ~O_NONBLOCK);
}

/*
 * EAGAIN is the spin of the non-blocking mode. A blocking socket never says it,
 * so the same loop serves both modes.
 */
static int send_whole(int fd, const char *p, size_t len)
{
	while (len) {
		ssize_t n = send(fd, p, len, MSG_NOSIGNAL);

		if (n < 0) {
			if (errno == EAGAIN || errno == EINTR)
				continue;
			return -1;
		}
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

static ssize_t recv_part(int fd, char *p, size_t len)
{
	for (;;) {
		ssize_t n = recv(fd, p, len, 0);

		if (n > 0)
			return n;
		if (n == 0) {
			errno = ECONNRESET;	/* the other node is gone */
			return -1;
		}
		if (errno != EAGAIN && errno != EINTR)
			return -1;
	}
}

static int recv_whole(int fd, char *p, size_t len)
{
	while (len) {
		ssize_t n = recv_part(fd, p, len);

		if (n < 0)
			return -1;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int exchange(int fd, size_t size, char flag)
{
	buf[size - 1] = flag;
	if (send_whole(fd, buf, size))
		return -1;
	return recv_whole(fd, buf, size);
}

int pingpong_client(int fd, const struct slice *s, struct result *r)
{
	uint64_t t0 = now_ns(), t = t0, n = 0;
	/* The clock costs 25 ns: look at it every fourth time, where that is much. */
	unsigned few = s->size <= 65536 ? 4 : 1;

	while (t - t0 < s->warm_ns) {
		for (unsigned i = 0; i < few; i++)
			if (exchange(fd, s->size, MORE))
				return -1;
		t = now_ns();
	}
	t0 = t;
	do {
		for (unsigned i = 0; i < few; i++)
			if (exchange(fd, s->size, MORE))
				return -1;
		n += few;
		t = now_ns();
	} while (t - t0 < s->run_ns || n < s->min_units);
	r->units = n;
	r->ns = t - t0;
	return exchange(fd, s->size, STOP);
}

int pingpong_server(int fd, const struct slice *s, struct result *r)
{
	char flag;

	do {
		if (recv_whole(fd, buf, s->size))
			return -1;
		flag = buf[s->size - 1];
		if (send_whole(fd, buf, s->size))
			return -1;
		r->units++;
	} while (flag == MORE);
	return 0;
}

/* Sends for the time given and waits until the last byte was received. */
static int stream_once(int fd, const struct slice *s, uint64_t run_ns, char end,
		       struct result *r)
{
	uint64_t t0, bytes = 0, look = 0;

	memset(buf, MORE, s->size);	/* no flag of an earlier command: the server looks where a recv ends */
	t0 = now_ns();
	for (;;) {
		if (bytes >= look) {
			if (now_ns() - t0 >= run_ns)
				break;
			look = bytes + 32768;
		}
		if (send_whole(fd, buf, s->size))
			return -1;
		bytes += s->size;
	}
	buf[s->size - 1] = end;
	if (send_whole(fd, buf, s->size) || recv_whole(fd, buf, 1))
		return -1;
	r->units = bytes + s->size;
	r->ns = now_ns() - t0;
	return 0;
}

int stream_client(int fd, const struct slice *s, struct result *r)
{
	if (s->warm_ns && stream_once(fd, s, s->warm_ns, ACK, r))
		return -1;
	return stream_once(fd, s, s->run_ns, STOP, r);
}

/* All bytes are MORE but the very last, so it ends what one recv returns. */
int stream_server(int fd, const struct slice *s, struct result *r)
{
	char flag;

	do {
		ssize_t n = recv_part(fd, buf, s->size);

		if (n < 0)
			return -1;
		r->units += (uint64_t)n;
		flag = buf[n - 1];
		if (flag != MORE && send_whole(fd, &flag, 1))
			return -1;
	} while (flag != STOP);
	return 0;
}

/* `window` messages under way at once: for each answer another one is sent. */
int window_client(int fd, const struct slice *s, unsigned window, struct result *r)
{
	uint64_t t0 = now_ns(), sent = 0, got = 0;

	buf[s->size - 1] = MORE;
	while (sent < window) {
		if (send_whole(fd, buf, s->size))
			return -1;
		sent++;
	}
	do {
		if (recv_whole(fd, buf, s->size))
			return -1;
		got++;
		if (send_whole(fd, buf, s->size))
			return -1;
		sent++;
	} while (got % 16 || now_ns() - t0 < s->run_ns || got < s->min_units);
	r->units = got;
	r->ns = now_ns() - t0;
	for (; got < sent; got++)
		if (recv_whole(fd, buf, s->size))
			return -1;
	return exchange(fd, s->size, STOP);
}

int push(int fd, uint64_t bytes)
{
	memset(buf, 0, sizeof(buf));
	while (bytes) {
		size_t n = bytes < 65536 ? bytes : 65536;

		if (send_whole(fd, buf, n))
			return -1;
		bytes -= n;
	}
	return 0;
}

int pull(int fd, uint64_t bytes)
{
	while (bytes) {
		ssize_t n = recv_part(fd, buf, bytes < 65536 ? bytes : 65536);

		if (n < 0)
			return -1;
		bytes -= (uint64_t)n;
	}
	return 0;
}
