/* Sends patterned messages to an echo server and checks every byte that comes back. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#include <unistd.h>

#include "flow.h"

static void run_threads(struct flow **flow, unsigned n)
{
	pthread_t *t = xmalloc(n * sizeof(*t));

	for (unsigned i = 0; i < n; i++) {
		int e = pthread_create(&t[i], NULL, flow_run, flow[i]);

		if (e)
			die("cannot start a thread: %s; use fewer connections or -e epoll",
			    strerror(e));
	}
	for (unsigned i = 0; i < n; i++)
		pthread_join(t[i], NULL);
	free(t);
}

/* Returns whether the connection goes on. */
static bool step(struct ev *ev, struct flow *f, unsigned ready)
{
	int want = flow_pump(f, ready);

	if (want < 0)
		ev_del(ev, f->fd);
	else if (ev_set(ev, f->fd, (unsigned)want, f))
		die("cannot watch a connection: %s", strerror(errno));
	return want >= 0;
}

static void run_events(struct flow **flow, unsigned n, enum ev_mode mode)
{
	unsigned live = n;
	struct ev ev;

	if (ev_open(&ev, mode))
		die("cannot start: %s%s", strerror(errno), remedy(errno));
	for (unsigned i = 0; i < n; i++)
		if (ev_set(&ev, flow[i]->fd, EV_OUT, flow[i]))
			die("cannot watch descriptor %d: %s%s", flow[i]->fd, strerror(errno),
			    errno == ERANGE ? "; select() ends there, use -e poll or epoll" : "");
	while (live) {
		int delay = -1, hits;

		for (unsigned i = 0; flow[0]->opt->interval && i < n; i++) {
			int d = flow[i]->finished || flow[i]->err[0] ? -1 : flow_delay(flow[i]);

			if (d == 0)
				live -= !step(&ev, flow[i], 0);
			if (d >= 0 && (delay < 0 || d < delay))
				delay = d;
		}
		if (!live)
			break;
		hits = ev_wait(&ev, delay);
		for (int i = 0; i < hits; i++)
			live -= !step(&ev, ev.hit[i].data, ev.hit[i].ready);
	}
	ev_close(&ev);
}

static int report(struct flow **flow, unsigned n)
{
	struct hist *all = xmalloc(sizeof(*all));
	uint64_t bytes = 0;
	int bad = 0;

	for (unsigned i = 0; i < n; i++) {
		if (flow[i]->err[0]) {
			warn_msg("connection %u: %s", i, flow[i]->err);
			bad++;
		}
		bytes += flow[i]->rcvd;
		hist_merge(all, &flow[i]->rtt);
	}
	if (bad) {
		warn_msg("failed: %d of %u connections; %llu messages came back right",
			 bad, n, (unsigned long long)all->n);
	} else {
		printf("ok: %llu messages, %llu bytes, 0 wrong\n",
		       (unsigned long long)all->n, (unsigned long long)bytes);
		if (all->n)
			printf("round trip: mean %.1f us, p99 %.1f us, max %.1f us\n",
			       (double)all->sum / (double)all->n / 1e3,
			       (double)hist_quantile(all, 0.99) / 1e3,
			       (double)all->max / 1e3);
	}
	free(all);
	return bad ? 1 : 0;
}

static const char usage[] =
	"usage: %s [-a ADDR] -p PORT [-n MESSAGES] [-s BYTES] [-w WINDOW] [-i MS]\n"
	"       [-c CONNECTIONS] [-e MODE] [-d SEED]\n"
	"Sends patterned messages to an echo server and checks every byte that comes back.\n"
	"Exit 0: all came back right; 1: which byte, or which error, is on stderr.\n"
	"  -a ADDR   connect to this address (127.0.0.1)\n"
	"  -p PORT   connect to this port\n"
	"  -n N      messages on each connection; k, M, G may follow (1000)\n"
	"  -s BYTES  bytes of a message (1024)\n"
	"  -w WINDOW messages in flight at most (1)\n"
	"  -i MS     start a message every MS milliseconds; 0: at once (0)\n"
	"  -c N      connections at the same time (1)\n"
	"  -e MODE   how to wait: " EV_MODES "\n"
	"            (blocking: a thread for each connection, two with a large window)\n"
	"  -d SEED   another number, another pattern (1)\n"
	"  -h        this text\n";

int main(int argc, char **argv)
{
	struct flow_options opt = {
		.messages = 1000, .size = 1024, .window = 1, .seed = 1,
	};
	const char *addr = "127.0.0.1";
	unsigned port = 0, conns = 1;
	struct flow **flow;
	int o, rc;

	util_init(argv[0]);
	while ((o = getopt(argc, argv, "a:p:n:s:w:i:c:e:d:h")) != -1) {
		switch (o) {
		case 'a':
			addr = optarg;
			break;
		case 'p':
			port = (unsigned)parse_size('p', optarg, 1, 65535);
			break;
		case 'n':
			opt.messages = parse_size('n', optarg, 0, 1ull << 40);
			break;
		case 's':
			opt.size = parse_size('s', optarg, 1, 1 << 20);
			break;
		case 'w':
			opt.window = parse_size('w', optarg, 1, 1 << 20);
			break;
		case 'i':
			opt.interval = (uint64_t)(1e6 * parse_real('i', optarg, 0, 1e6));
			break;
		case 'c':
			conns = (unsigned)parse_size('c', optarg, 1, 100000);
			break;
		case 'e':
			opt.mode = ev_parse(optarg);
			break;
		case 'd':
			opt.seed = parse_size('d', optarg, 0, UINT64_MAX);
			break;
		case 'h':
			printf(usage, util_name());
			return 0;
		default:
			fprintf(stderr, usage, util_name());
			return 2;
		}
	}
	if (optind < argc)
		die("%s: no such argument; see -h", argv[optind]);
	if (!port)
		die("give the port that echo_server printed with -p; see -h");

	flow = xmalloc(conns * sizeof(struct flow *));
	for (unsigned i = 0; i < conns; i++)
		flow[i] = flow_new(&opt, i,
				   tcp_connect(addr, port, opt.mode != EV_BLOCKING));
	if (opt.mode == EV_BLOCKING)
		run_threads(flow, conns);
	else
		run_events(flow, conns, opt.mode);
	rc = report(flow, conns);
	for (unsigned i = 0; i < conns; i++)
		flow_free(flow[i]);
	free(flow);
	return rc;
}
