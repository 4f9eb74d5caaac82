/* top: two LISTs, and what happened between them. */
#include "ctl.h"
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

struct rate {
	const struct listing *c;
	double tx, rx;			/* bytes a second */
};

static volatile sig_atomic_t over;

static void on_signal(int sig)
{
	(void)sig;
	over = 1;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* The same connection? A descriptor's number alone is used again. */
static int same_order(const void *a, const void *b)
{
	const struct listing *x = a, *y = b;
	int d;

	if (x->pid != y->pid)
		return x->pid < y->pid ? -1 : 1;
	if (x->fd != y->fd)
		return x->fd < y->fd ? -1 : 1;
	d = (int)x->self_port - (int)y->self_port;
	if (!d)
		d = (int)x->peer_port - (int)y->peer_port;
	if (!d)
		d = (int)x->role - (int)y->role;
	return d ? d : memcmp(x->peer, y->peer, sizeof(x->peer));
}

static int by_rate(const void *a, const void *b)
{
	const struct rate *x = a, *y = b;
	double d = y->tx + y->rx - x->tx - x->rx;

	return d > 0 ? 1 : d < 0 ? -1 : same_order(x->c, y->c);
}

static double per_second(uint64_t before, uint64_t after, double seconds)
{
	return after > before && seconds > 0 ? (double)(after - before) / seconds : 0;
}

/* Both sorted by same_order. */
static struct rate *rates(const struct list *before, const struct list *after, double seconds)
{
	struct rate *v = calloc(after->n + 1, sizeof(*v));
	const struct listing *was;
	size_t i;

	for (i = 0; v && i < after->n; i++) {
		v[i].c = &after->v[i];
		was = before->n ? bsearch(v[i].c, before->v, before->n, sizeof(*before->v), same_order) : NULL;
		/* the counters begin again when a connection becomes persistent */
		if (was && ctl_is_plain(was) == ctl_is_plain(v[i].c)) {
			v[i].tx = per_second(was->tx, v[i].c->tx, seconds);
			v[i].rx = per_second(was->rx, v[i].c->rx, seconds);
		}
	}
	if (v && after->n)
		qsort(v, after->n, sizeof(*v), by_rate);
	return v;
}

static void print_head(const struct opts *o, const struct rate *v, size_t n)
{
	size_t i, persistent = 0, broken = 0;
	char clock[16], a[12], b[12];
	double tx = 0, rx = 0;
	time_t t = time(NULL);
	struct tm tm;

	for (i = 0; i < n; i++) {
		persistent += !ctl_is_plain(v[i].c);
		broken += !ctl_is_plain(v[i].c) && v[i].c->state != LISTING_UP;
		tx += v[i].tx;
		rx += v[i].rx;
	}
	strftime(clock, sizeof(clock), "%H:%M:%S", localtime_r(&t, &tm));
	printf("roam %s  %s: %zu connections, %zu persistent, %zu of them not up;  sending %s/s, receiving %s/s\n\n",
	       clock, o->dir, n, persistent, broken, ctl_bytes(a, (uint64_t)tx), ctl_bytes(b, (uint64_t)rx));
}

static void row(struct table *t, const struct rate *r)
{
	char gid[33], pid[12], comm[20], peer[ADDR_PORT_TEXT], tx[12], rx[12], flight[12], times[24], stall[12];
	const struct listing *c = r->c;
	const char *cells[] = {
		gid, pid, comm, peer, ctl_link_word(c), ctl_state_word(c), tx, rx, flight, times, stall,
	};
	bool down = !ctl_is_plain(c) && c->state != LISTING_UP;

	ctl_gid(gid, c, 8);
	snprintf(pid, sizeof(pid), "%u", c->pid);
	ctl_comm(comm, c->pid);
	ctl_peer(peer, c);
	ctl_bytes(tx, (uint64_t)r->tx);
	ctl_bytes(rx, (uint64_t)r->rx);
	ctl_bytes(flight, c->in_flight);
	snprintf(times, sizeof(times), "%" PRIu64, c->handovers);
	ctl_time(stall, c->stall_max_ns);
	table_row(t, down ? C_YELLOW : C_NONE, cells);
}

static void print_rates(const struct opts *o, const struct rate *v, size_t n, size_t lines, size_t width)
{
	static const char *const head[] = {
		"GID", ">PID", "COMMAND", "REMOTE", "LINK", "STATE", ">SENT/S", ">RECEIVED/S", ">IN FLIGHT",
		">HANDOVERS", ">LONGEST STALL", NULL,
	};
	struct table t;
	size_t i;

	print_head(o, v, n);
	table_init(&t, head);
	/* no need to look up the names of a million */
	for (i = 0; i < n && (!lines || i + 3 < lines); i++)
		row(&t, &v[i]);
	table_print(&t, 0, width);
	fflush(stdout);
}

/* A line for each look. */
static void json_rates(const struct rate *v, size_t n, double seconds)
{
	size_t i;

	printf("{\"seconds\": %.3f, \"connections\": [", seconds);
	for (i = 0; i < n; i++) {
		fputs(i ? ", " : "", stdout);
		ctl_json_record(v[i].c);
		printf(", \"sent_per_second\": %.0f, \"received_per_second\": %.0f}", v[i].tx, v[i].rx);
	}
	puts("]}");
	fflush(stdout);
}

static int take(const struct opts *o, struct list *l, double *when)
{
	int rc = ctl_get_list(o, 0, l);

	*when = now();
	if (rc == EXIT_DONE && l->n)
		qsort(l->v, l->n, sizeof(*l->v), same_order);
	return rc;
}

/* Waits; true: the user wants to stop. */
static bool wait_or_key(double seconds, bool keys)
{
	struct pollfd p = { .fd = keys ? 0 : -1, .events = POLLIN };
	double end = now() + seconds, left;
	char c;

	while (!over && (left = end - now()) > 0) {
		if (poll(&p, 1, (int)(left * 1000) + 1) == 1 && (read(0, &c, 1) != 1 || c == 'q' || c == 'Q' || c == 4))
			return true;
	}
	return over;
}

static void window(bool live, size_t *lines, size_t *width)
{
	struct winsize w = { 0 };

	*lines = *width = 0;
	if (!live)
		return;
	ioctl(1, TIOCGWINSZ, &w);
	*lines = w.ws_row > 4 ? w.ws_row - 1u : 23;
	*width = w.ws_col > 20 ? w.ws_col : 80;
}

static int watch(const struct opts *o, bool live, bool keys)
{
	struct list before, after;
	size_t lines, width;
	double t0, t1;
	struct rate *v;
	int rc;

	rc = take(o, &before, &t0);
	while (rc == EXIT_DONE && !wait_or_key(o->interval, keys)) {
		rc = take(o, &after, &t1);
		if (rc != EXIT_DONE)
			break;
		v = rates(&before, &after, t1 - t0);
		window(live, &lines, &width);
		if (live)
			fputs("\033[H\033[J", stdout);
		if (v && o->json)
			json_rates(v, after.n, t1 - t0);
		else if (v)
			print_rates(o, v, after.n, lines, width);
		free(v);
		ctl_free_list(&before);
		before = after;
		t0 = t1;
		if (o->once)
			break;
		if (!live && !o->json)
			putchar('\n');
	}
	ctl_free_list(&before);
	return rc;
}

int ctl_top(const struct opts *o)
{
	const char *term = getenv("TERM");
	bool live = !o->once && !o->json && isatty(1) && term && *term && strcmp(term, "dumb") != 0;
	bool keys = live && isatty(0);
	struct sigaction sa = { .sa_handler = on_signal };
	struct termios old, raw;
	int rc;

	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	keys = keys && !tcgetattr(0, &old);
	if (keys) {
		raw = old;
		raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
		tcsetattr(0, TCSANOW, &raw);
	}
	rc = watch(o, live, keys);
	if (keys)
		tcsetattr(0, TCSANOW, &old);
	return rc;
}
