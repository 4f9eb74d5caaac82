/*
 * A stream of pictures over a link that becomes slow: what is less important is
 * not sent, so that what is sent is not late.
 *
 *	frames recv [-s FROM:TO:RATE]	prints "listening on 127.0.0.1:PORT", takes one
 *					stream; between FROM and TO ms it takes RATE bytes a second
 *	frames send PORT SECONDS	60 pictures a second
 *
 * Twelve pictures are a group: one whole (I), three that need those before them
 * in the group (P), eight that nothing else needs (B).  The sender asks
 * roam_stats how much of what it sent is still under way, and how fast it
 * arrives: that is how late the next picture would be.  Without roam it cannot
 * know, sends everything, and all of it is late.
 */
#include "util.h"
#include <roam.h>

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FPS		60
#define P_LATE		400	/* ms: what needs a later one is left out ... */
#define B_LATE		150	/* ... and what nothing needs, sooner */
#define MAX_FRAME	6000

static const char group[] = "IBBPBBPBBPBB";
enum { GROUP = sizeof(group) - 1 };

struct frame {			/* both ends are of one build and one host */
	char type;
	uint32_t number, size;
	uint64_t made_ns;
};

static uint32_t size_of(char type)
{
	return type == 'I' ? MAX_FRAME : type == 'P' ? 2500 : 800;
}

/* ---- the sender */

struct speed {			/* of the link, as delivered bytes say */
	uint64_t at_ns, delivered;
	double rate;		/* bytes a second, 0: not known yet */
};

/* Milliseconds until the next byte would arrive; 0 when there is nobody to ask. */
static double late_ms(int fd, struct speed *s)
{
	struct roam_stats st;
	uint64_t now = now_ns();
	double rate, waiting;

	if (!roam_linked() || roam_stats(fd, &st, sizeof(st)) < 0)
		return 0;
	waiting = (double)(st.sent - st.delivered);
	if (now - s->at_ns >= 100000000) {
		rate = (double)(st.delivered - s->delivered) * 1e9 / (double)(now - s->at_ns);
		/* With nothing left over the link may be faster than what it was given. */
		if (waiting > 0 || rate > s->rate)
			s->rate = s->rate > 0 && waiting > 0 ? (s->rate + rate) / 2 : rate;
		s->at_ns = now;
		s->delivered = st.delivered;
	}
	return waiting <= 0 ? 0 : s->rate > 0 ? waiting * 1000 / s->rate : 0;
}

static void show_events(int efd)
{
	static const char *const links[] = { "plain TCP", "persistent, over TCP", "a ring", "the agents",
						 "persistent, over TCP, compressed" };
	struct roam_event e;

	while (efd >= 0 && roam_event_read(efd, &e, sizeof(e)) == 1)
		if (e.kind == ROAM_EVENT_PERSISTENT || e.kind == ROAM_EVENT_LINK || e.kind == ROAM_EVENT_MENDED)
			fprintf(stderr, "the link is %s, stalled for %.1f ms\n", links[e.link % 5], (double)e.stall_ns / 1e6);
}

static void put(int fd, const void *p, size_t n)
{
	while (n) {
		ssize_t r = send(fd, p, n, MSG_NOSIGNAL);

		if (r < 0)
			die("send: %s", strerror(errno));
		p = (const char *)p + r;
		n -= (size_t)r;
	}
}

static int send_stream(int port, double seconds)
{
	int fd = tcp_connect("127.0.0.1", (unsigned int)port, false), yes = 1, efd = roam_linked() ? roam_events() : -1;
	uint32_t i, frames = (uint32_t)(seconds * FPS), sent[128] = { 0 }, left_out[128] = { 0 };
	static char picture[sizeof(struct frame) + MAX_FRAME];
	uint64_t begin = now_ns();
	struct speed speed = { .at_ns = begin };
	bool broken_group = false;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
	for (i = 0; i < frames; i++) {
		char type = group[i % GROUP];
		struct frame f = { .type = type, .number = i, .size = size_of(type) };
		double late;

		sleep_until(begin + (uint64_t)i * (1000000000u / FPS));
		show_events(efd);
		late = late_ms(fd, &speed);
		if (type == 'I')
			broken_group = false;
		else if (type == 'P' && late > P_LATE)
			broken_group = true;		/* nothing up to the next I can be shown */
		if (broken_group || (type == 'B' && late > B_LATE)) {
			left_out[(int)type]++;
			continue;
		}
		f.made_ns = now_ns();
		memcpy(picture, &f, sizeof(f));
		memset(picture + sizeof(f), (int)i, f.size);
		put(fd, picture, sizeof(f) + f.size);
		sent[(int)type]++;
	}
	close(fd);
	printf("sent I=%u P=%u B=%u left out P=%u B=%u\n", sent['I'], sent['P'], sent['B'], left_out['P'], left_out['B']);
	return 0;
}

/* ---- the receiver */

static bool get(int fd, void *p, size_t n, uint64_t begin, const unsigned long slow[3])
{
	size_t k = 0;

	while (k < n) {
		uint64_t t = (now_ns() - begin) / 1000000;
		bool slowly = t >= slow[0] && t < slow[1];
		ssize_t r = recv(fd, (char *)p + k, slowly && n - k > 400 ? 400 : n - k, 0);

		if (r < 0)
			die("recv: %s", strerror(errno));
		if (r == 0)
			return false;
		k += (size_t)r;
		if (slowly)
			sleep_until(now_ns() + (uint64_t)r * 1000000000u / slow[2]);
	}
	return true;
}

static int receive(const unsigned long slow[3])
{
	int l = tcp_listen("127.0.0.1", 0), fd, small = 4096;
	uint32_t got[128] = { 0 }, last = 0, j;
	static char picture[MAX_FRAME];
	uint64_t begin, late, longest = 0;
	char name[PEER_LEN];
	struct frame f;

	/* What waits here has arrived, for the sender: little, then. */
	setsockopt(l, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	peer_name(l, true, name);
	printf("listening on %s\n", name);
	fflush(stdout);
	fd = accept(l, NULL, NULL);
	if (fd < 0)
		die("accept: %s", strerror(errno));
	begin = now_ns();
	while (get(fd, &f, sizeof(f), begin, slow)) {
		if (f.size > MAX_FRAME || f.size != size_of(f.type) || (last && f.number <= last) ||
		    !get(fd, picture, f.size, begin, slow)) {
			fprintf(stderr, "frames: the stream is damaged\n");
			return 1;
		}
		for (j = 0; j < f.size; j++)
			if (picture[j] != (char)f.number) {
				fprintf(stderr, "frames: picture %u is damaged\n", f.number);
				return 1;
			}
		late = now_ns() - f.made_ns;
		longest = late > longest ? late : longest;
		last = f.number;
		got[(int)f.type]++;
	}
	printf("got I=%u P=%u B=%u latest %.0f ms\n", got['I'], got['P'], got['B'], (double)longest / 1e6);
	return 0;
}

int main(int argc, char **argv)
{
	unsigned long slow[3] = { 0, 0, 1 };

	util_init(argv[0]);
	if (argc == 4 && !strcmp(argv[1], "send"))
		return send_stream(atoi(argv[2]), atof(argv[3]));
	if (argc >= 2 && !strcmp(argv[1], "recv") && (argc == 2 || (argc == 4 && !strcmp(argv[2], "-s") &&
	    sscanf(argv[3], "%lu:%lu:%lu", &slow[0], &slow[1], &slow[2]) == 3 && slow[2])))
		return receive(slow);
	fprintf(stderr, "usage: frames recv [-s FROM:TO:RATE] | frames send PORT SECONDS\n");
	return 2;
}
