/*
 *	opener                         acceptor
 *	  TRAIN 0, count ----------------->		who I am, how much I allow
 *	  <---------------------------- SEEN 0		... I
 *	  TRAIN 1, bytes ----------------->		notes when they arrive
 *	  <--------------------------- SEEN 1
 *	  TRAIN 2, bytes ... SEEN 2 ...
 *	  TRAIN n of 0 bytes, SEEN n ----->		what I make of it; your turn
 *	  <------------------ TRAIN 1, bytes ...
 *	  <---------- TRAIN n of 0 bytes, SEEN n	closed
 *
 * A connection of its own, not the agents' session: a train in front of other
 * messages would hold them up in our own send queue, and what is in there can be
 * taken back only by a reset.  That is what happens to a train that turns out to
 * be too long (SEEN with CUTOFF).
 */
#include "trains.h"
#include "agent.h"
#include "loop.h"
#include "util.h"
#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sodium.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define COME_NS (2 * SEC)	/* the connection, the first train */
#define ANSWER_NS (2 * SEC)	/* to one train */
#define ALL_NS (15 * SEC)
#define FAST_ENOUGH 250u	/* bytes a us, 2 Gbit/s */
#define HEAD_LEN (8 + 8 + 4 + 8 + WIRE_MAC)			/* TRAIN */
#define SEEN_LEN (8 + 8 + 4 + 1 + 8 + 8 + 1 + WIRE_MAC)
/* Small trains in small packets, so that there is something to compare: the kernel would send a lump. */
#define PIECE_SMALL 700u
#define PIECE 1400u
#define PIECE_LARGE 16384u
#define SLOW 40000000u		/* bytes a second: time enough to send single packets */

enum state { T_NONE, T_EXPECTED, T_CONNECTING, T_SENDING, T_WAITING, T_HEAD, T_DATA, T_VERDICT };

static struct {
	enum state state;
	struct watch w;
	struct timer t;
	struct trains_with with;
	bool opener, cut, done;		/* done: our direction is over */
	bool sends;			/* it is our turn; else the plan only keeps what we have seen */
	uint32_t budget;		/* bytes in one direction: what both allow */
	uint64_t began;
	/* sending */
	struct train_plan plan;
	uint8_t head[HEAD_LEN];
	uint32_t piece;			/* bytes given to the kernel at once */
	uint32_t n, at, len;		/* the train's number; sent of it with its head, of so much */
	uint64_t sent_at;
	uint32_t rtt_us;
	struct tcp_info before;		/* the train */
	bool stalled;
	/* receiving */
	uint8_t in[HEAD_LEN > SEEN_LEN ? HEAD_LEN : SEEN_LEN];
	uint32_t have, left, got, seen_n;
	bool answered, late;		/* the train has been reported; before its end */
	struct train train;
} c;

static uint8_t filler[PIECE_LARGE];	/* noise: a link that compresses has nothing to gain */

bool trains_busy(void)
{
	return c.state != T_NONE;
}

bool trains_are(const uint8_t host[16])
{
	return trains_busy() && !memcmp(c.with.host, host, 16);
}

static uint64_t wall(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (uint64_t)t.tv_sec * SEC + (uint64_t)t.tv_nsec;
}

/* One direction is over: what it came to. */
static void note(struct train_seen s)
{
	ag.stat[STAT_probe_bytes_out] += c.plan.sent;
	ag.stat[STAT_probe_bytes_in] += c.got;
	if (s.rate)
		probe_measured(c.with.host, c.sends, &s, c.rtt_us);
	memset(&c.plan, 0, sizeof(c.plan));
	c.got = 0;
}

static void over(const char *why)
{
	struct trains_with with = c.with;
	bool opener = c.opener, cut = c.cut;

	if (c.state == T_NONE)
		return;
	note(train_plan_result(&c.plan));
	if (c.state != T_EXPECTED) {
		watch_del(&c.w);
		close(c.w.fd);
	}
	timer_stop(&c.t);
	sodium_memzero(c.with.key, sizeof(c.with.key));
	c.state = T_NONE;
	probe_over(&with, opener, cut, why);
	sodium_memzero(with.key, sizeof(with.key));
}

void trains_stop(const char *why)
{
	over(why);
}

static void too_late(struct timer *t)
{
	(void)t;
	over(c.state == T_EXPECTED || c.state == T_CONNECTING ? "no connection" : "no answer to a train");
}

static void wait_for(enum state s, uint64_t ns)
{
	uint64_t until = loop_now() + ns, end = c.began + ALL_NS;

	c.state = s;
	timer_at(&c.t, until < end ? until : end, too_late);
}

static void begin(const struct trains_with *w, bool opener)
{
	memset(&c, 0, sizeof(c));
	c.with = *w;
	c.opener = opener;
	c.budget = ag.conf.probe_bytes;
	c.began = loop_now();
	if (is_zero(filler, 16))
		randombytes_buf(filler, sizeof(filler));
}

static void tune(int fd)
{
	int one = 1, room = TRAIN_LONGEST * 2;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	/* No pacing, no leaving slow start early: a train is one burst. Every kernel has it. */
	setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4);
}

/* ---- sending */

static bool say(const struct msg *m)
{
	uint8_t buf[WIRE_MAX];
	size_t n = wire_encode(m, c.with.key, buf);

	/* Nothing else is in the queue when one is sent. */
	if (send(c.w.fd, buf, n, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)n)
		return true;
	over(strerror(errno));
	return false;
}

static bool info(struct tcp_info *i)
{
	socklen_t l = sizeof(*i);

	memset(i, 0, sizeof(*i));
	/* What an older kernel does not know stays 0. */
	return getsockopt(c.w.fd, IPPROTO_TCP, TCP_INFO, i, &l) == 0;
}

/*
 * Takes the length of the next train, gives what makes all its packets alike: the
 * last gap may be the time of the last packet or, with other queues, of the one before.
 */
static uint32_t even(uint32_t n)
{
	const struct train_seen *s = c.plan.n ? &c.plan.seen[(c.plan.n - 1) % TRAIN_LAST] : NULL;
	bool slow = s && s->rate < SLOW && !s->at_least;
	uint32_t p;

	c.piece = n <= TRAIN_FIRST ? PIECE_SMALL : n <= (32u << 10) || slow ? PIECE : PIECE_LARGE;
	p = c.piece < PIECE ? c.piece : PIECE;
	return (n + HEAD_LEN) / p * p - HEAD_LEN;
}

static void push(void)
{
	struct tcp_info i;
	ssize_t r;

	while (c.at < c.len) {
		uint32_t n = c.len - c.at;
		struct iovec io[2] = { { c.head + c.at, c.at < HEAD_LEN ? HEAD_LEN - c.at : 0 }, { filler, 0 } };
		struct msghdr m = { .msg_iov = io, .msg_iovlen = 2 };

		n = n > c.piece ? c.piece : n;
		if (c.at >= HEAD_LEN)
			io[0].iov_base = c.head;
		io[0].iov_len = io[0].iov_len > n ? n : io[0].iov_len;
		io[1].iov_len = n - io[0].iov_len;
		/* EOR: what has to wait is not put together with the next piece. */
		r = sendmsg(c.w.fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT | (c.piece < PIECE_LARGE ? MSG_EOR : 0));
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0 && errno == EAGAIN) {
			watch_mod(&c.w, EPOLLIN | EPOLLOUT);
			return;
		}
		if (r < 0) {
			over(strerror(errno));
			return;
		}
		c.at += (uint32_t)r;
	}
	watch_mod(&c.w, EPOLLIN);
	/* The window has become smaller since (it was not used for a while): the rest waits for acknowledgements. */
	c.stalled = info(&i) && i.tcpi_notsent_bytes && i.tcpi_unacked >= i.tcpi_snd_cwnd;
	wait_for(T_WAITING, ANSWER_NS);
}

/* How much the kernel sends at once.  Its window counts packets, and ours are smaller than they could be. */
static uint32_t room(void)
{
	struct tcp_info i;
	uint64_t n, packet;

	if (!info(&i))
		return TRAIN_FIRST;
	if (i.tcpi_min_rtt && i.tcpi_min_rtt != UINT32_MAX)
		c.rtt_us = i.tcpi_min_rtt;
	packet = i.tcpi_snd_mss < PIECE ? i.tcpi_snd_mss : PIECE;
	n = i.tcpi_snd_cwnd > i.tcpi_unacked ? (i.tcpi_snd_cwnd - i.tcpi_unacked) * packet : 0;
	if (i.tcpi_snd_wnd && n > i.tcpi_snd_wnd)
		n = i.tcpi_snd_wnd;
	n = n > HEAD_LEN ? n - HEAD_LEN : 0;
	/* Acknowledgements that come so soon hold nothing up on a link whose rate we want to know. */
	if (c.rtt_us && n / c.rtt_us >= FAST_ENOUGH)
		n = TRAIN_LONGEST;
	c.before = i;
	return n < TRAIN_LONGEST ? (uint32_t)n : TRAIN_LONGEST;
}

/* Did something else than the link hold the train up? Lost packets; a window that was smaller than it seemed. */
static bool held_up(void)
{
	struct tcp_info i;
	uint32_t again;
	uint64_t us;

	if (!info(&i))
		return true;
	/* One that costs no window is the kernel's look after the tail, on a link that is slower than it knew. */
	again = i.tcpi_total_retrans - c.before.tcpi_total_retrans;
	if (again > 1 || (again && i.tcpi_snd_cwnd < c.before.tcpi_snd_cwnd))
		return true;
	if (c.rtt_us && c.len / c.rtt_us >= FAST_ENOUGH)
		return false;
	us = i.tcpi_rwnd_limited - c.before.tcpi_rwnd_limited + i.tcpi_sndbuf_limited - c.before.tcpi_sndbuf_limited;
	return c.stalled || us > 1000;
}

static void next_train(void)
{
	struct msg m = { .type = MSG_TRAIN, .nonce = c.with.nonce, .epoch = ++c.n };

	m.count = train_plan_next(&c.plan, room());
	if (!m.count) {
		struct train_seen s = train_plan_result(&c.plan);
		struct msg v = { .type = MSG_SEEN, .nonce = m.nonce, .epoch = m.epoch, .count = s.bytes, .took = s.took,
				 .confidence = s.confidence, .flags = s.steady ? MSGF_STEADY : 0 };

		note(s);
		c.sends = false;
		c.done = true;
		if (say(&m) && say(&v))
			wait_for(T_HEAD, COME_NS);	/* its trains, or its end */
		return;
	}
	m.count = even((uint32_t)m.count);
	wire_encode(&m, c.with.key, c.head);
	c.at = 0;
	c.len = (uint32_t)m.count + HEAD_LEN;
	c.sent_at = wall(CLOCK_MONOTONIC);
	wait_for(T_SENDING, ANSWER_NS);
	push();
}

static void first_train(void)
{
	c.n = 0;
	c.sends = true;
	train_plan_begin(&c.plan, c.budget);
	next_train();
}

/* What the kernel has not sent yet is taken back: a close would still send it. */
static void cut_off(void)
{
	struct linger l = { .l_onoff = 1 };

	setsockopt(c.w.fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	c.cut = true;
	over(NULL);
}

static void answer(const struct msg *m)
{
	uint64_t elapsed = wall(CLOCK_MONOTONIC) - c.sent_at, rtt = (uint64_t)c.rtt_us * 1000;
	bool cutoff = m->flags & MSGF_CUTOFF;
	struct train_seen s;
	int unsent = 0;

	if (m->type == MSG_SEEN && c.state == T_WAITING && !c.n && !m->epoch && m->nonce == c.with.nonce) {
		c.budget = m->count < c.budget ? (uint32_t)m->count : c.budget;
		first_train();
		return;
	}
	if (m->type != MSG_SEEN || m->nonce != c.with.nonce || m->epoch != c.n || (c.state == T_SENDING && !cutoff)) {
		over("an answer to another train");
		return;
	}
	s = train_heard(m->count, m->took, held_up() ? TRAIN_VOID : m->confidence, m->flags & MSGF_STEADY, c.len - HEAD_LEN,
			elapsed);
	train_plan_answer(&c.plan, &s, elapsed > rtt ? elapsed - rtt : 0, cutoff);
	if (cutoff && (c.at < c.len || ioctl(c.w.fd, TIOCOUTQ, &unsent) < 0 || unsent)) {
		cut_off();
		return;
	}
	next_train();
}

/* ---- receiving */

static void report(bool cutoff)
{
	struct train_seen s = cutoff ? train_cut(&c.train, wall(CLOCK_REALTIME)) : train_seen(&c.train);
	struct msg m = { .type = MSG_SEEN, .nonce = c.with.nonce, .epoch = c.seen_n, .count = s.bytes,
			 .took = s.took, .confidence = s.confidence,
			 .flags = (uint8_t)((s.steady ? MSGF_STEADY : 0) | (s.at_least ? MSGF_LEAST : 0) |
					    (cutoff ? MSGF_CUTOFF : 0)) };

	/* Our own plan, so that we know it too, whatever becomes of the connection. */
	train_plan_answer(&c.plan, &s, 0, cutoff);
	c.answered = true;
	c.late = cutoff;
	say(&m);
}

static bool receive(void);

static void takes_long(struct timer *t)
{
	int i;

	(void)t;
	/* We may have been kept from looking: what has come is no longer under way. */
	for (i = 0; i < 128 && c.state == T_DATA && receive(); i++)
		;
	if (c.state != T_DATA)
		return;
	wait_for(T_DATA, ANSWER_NS);
	report(true);
}

static void head(const struct msg *m)
{
	if (m->type != MSG_TRAIN || m->nonce != c.with.nonce || m->epoch != c.seen_n + 1 || m->epoch > TRAIN_MOST + 1 ||
	    m->count > TRAIN_LONGEST || m->count > c.budget - c.got) {
		over("a train that is not agreed on");
		return;
	}
	c.seen_n = m->epoch;
	if (m->count) {
		c.left = (uint32_t)m->count;
		c.answered = false;
		train_begin(&c.train);
		c.state = T_DATA;
		timer_at(&c.t, loop_now() + TRAIN_CUT, takes_long);
		return;
	}
	wait_for(T_VERDICT, COME_NS);
}

/* What the sender makes of its trains: it knows which of them something else has held up. */
static void verdict(const struct msg *m)
{
	struct train_seen s;

	if (m->type != MSG_SEEN || m->nonce != c.with.nonce || m->epoch != c.seen_n) {
		over("no end of the trains");
		return;
	}
	s = train_heard(m->count, m->took, m->confidence, m->flags & MSGF_STEADY, c.got, ALL_NS);
	s.confidence = m->confidence < TRAIN_SURE ? m->confidence : TRAIN_SURE;
	note(s);
	if (c.opener || c.with.back)
		over(NULL);
	else
		first_train();
}

static uint64_t arrival(struct msghdr *m)
{
	struct cmsghdr *h;
	struct timespec t;

	for (h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h))
		if (h->cmsg_level == SOL_SOCKET && h->cmsg_type == SO_TIMESTAMPNS) {
			memcpy(&t, CMSG_DATA(h), sizeof(t));
			return (uint64_t)t.tv_sec * SEC + (uint64_t)t.tv_nsec;
		}
	return wall(CLOCK_REALTIME);
}

/* False: nothing more now. */
static bool receive(void)
{
	static uint8_t sink[4096];
	union { struct cmsghdr h; char b[CMSG_SPACE(sizeof(struct timespec))]; } u;
	bool data = c.state == T_DATA;
	uint32_t want = data ? c.left : c.state == T_HEAD ? HEAD_LEN - c.have : SEEN_LEN - c.have;
	struct iovec io = { data ? sink : c.in + c.have, data && want > sizeof(sink) ? sizeof(sink) : want };
	struct msghdr h = { .msg_iov = &io, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof(u) };
	ssize_t r = recvmsg(c.w.fd, &h, MSG_DONTWAIT);
	struct msg m;

	if (r < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (r <= 0) {
		/* Our own cut-off has arrived there, or the other one is done. */
		bool well = r < 0 ? errno == ECONNRESET && c.late : !c.opener && c.done;

		over(well ? NULL : r ? strerror(errno) : "closed by the other agent");
		return false;
	}
	if (data) {
		train_arrived(&c.train, arrival(&h), (uint32_t)r);
		c.left -= (uint32_t)r;
		c.got += (uint32_t)r;
		if (!c.left) {
			wait_for(T_HEAD, COME_NS);
			if (!c.answered)
				report(false);
		}
		return true;
	}
	c.have += (uint32_t)r;
	if ((uint32_t)r < want)
		return true;
	r = c.have;
	c.have = 0;
	if (wire_decode(&m, c.with.key, c.in, (size_t)r) != WIRE_OK)
		over("not a message of this probe");
	else if (c.state == T_HEAD)
		head(&m);
	else if (c.state == T_VERDICT)
		verdict(&m);
	else
		answer(&m);
	return true;
}

/* ---- beginning */

static void ready(struct watch *w, uint32_t events)
{
	struct msg m = { .type = MSG_TRAIN, .nonce = c.with.nonce, .count = c.budget };
	socklen_t l = sizeof(int);
	int e = 0, i;

	(void)w;
	if (c.state == T_CONNECTING) {
		if (getsockopt(c.w.fd, SOL_SOCKET, SO_ERROR, &e, &l) < 0 || e) {
			over(strerror(e ? e : errno));
			return;
		}
		watch_mod(&c.w, EPOLLIN);
		if (!say(&m))
			return;
		wait_for(c.with.back ? T_HEAD : T_WAITING, COME_NS);
		return;
	}
	if (c.state == T_SENDING && events & EPOLLOUT)
		push();
	for (i = 0; i < 128 && c.state > T_CONNECTING && receive(); i++)
		;
}

bool trains_dial(const struct trains_with *w, uint8_t family, const uint8_t addr[16], uint16_t port)
{
	struct sockaddr_storage ss;
	socklen_t l = addr_to(family, addr, port, &ss);
	int fd;

	if (trains_busy())
		return false;
	fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return false;
	begin(w, true);
	tune(fd);
	if ((connect(fd, (struct sockaddr *)&ss, l) < 0 && errno != EINPROGRESS) ||
	    !watch_add(&c.w, fd, EPOLLOUT, ready)) {
		close(fd);
		return false;
	}
	wait_for(T_CONNECTING, COME_NS);
	return true;
}

void trains_expect(const struct trains_with *w)
{
	begin(w, false);
	wait_for(T_EXPECTED, COME_NS);
}

bool trains_accepted(int fd, const uint8_t *buf, size_t n)
{
	struct msg m;

	if (c.state != T_EXPECTED || wire_decode(&m, c.with.key, buf, n) != WIRE_OK || m.type != MSG_TRAIN ||
	    m.nonce != c.with.nonce || m.epoch)
		return false;
	tune(fd);
	if (!watch_add(&c.w, fd, EPOLLIN, ready))
		return false;
	c.budget = m.count < c.budget ? (uint32_t)m.count : c.budget;
	c.state = T_HEAD;
	if (c.with.back) {
		first_train();
		return true;
	}
	m = (struct msg){ .type = MSG_SEEN, .nonce = c.with.nonce, .count = c.budget };
	if (say(&m))	/* from now on arrivals have the kernel's time */
		wait_for(T_HEAD, COME_NS);
	return true;
}
