/* LIST: the records, checked, and as a table or JSON. */
#include "ctl.h"
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const links[] = { "plain", "tcp", "ring", "thick" };
static const char *const states[] = { "up", "broken", "asking", "frozen", "ended" };

/* Another version's record, or one that nobody sane has written. */
static bool sane(const struct listing *c)
{
	return c->size == sizeof(*c) && c->link < ARRAY_SIZE(links) && c->state < ARRAY_SIZE(states) &&
	       c->role < 2 && (c->family == 0 || c->family == 4 || c->family == 6) && c->pid > 0 &&
	       c->pid <= INT32_MAX && c->fd >= -1;
}

static int by_place(const void *a, const void *b)
{
	const struct listing *x = a, *y = b;

	if (x->pid != y->pid)
		return x->pid < y->pid ? -1 : 1;
	return x->fd == y->fd ? (int)x->role - (int)y->role : x->fd < y->fd ? -1 : 1;
}

int ctl_get_list(const struct opts *o, uint32_t pid, struct list *l)
{
	struct answer a;
	size_t i, n;
	int rc;

	memset(l, 0, sizeof(*l));
	rc = ctl_ask(o, CMD_LIST, pid, 10, &a);
	if (rc != EXIT_DONE)
		return rc;
	if (a.report.reason) {
		rc = ctl_refused("list", a.report.reason);
	} else if (a.report.count > a.len / sizeof(*l->v)) {
		fprintf(stderr, "roamctl: the agent's answer is shorter than it says; are roamd and roamctl of one "
			"version?\n");
		rc = EXIT_REFUSED;
	}
	if (rc != EXIT_DONE) {
		ctl_free(&a);
		return rc;
	}
	l->v = (struct listing *)(void *)a.data;	/* from malloc: aligned */
	for (i = n = 0; i < a.report.count; i++)
		if (sane(&l->v[i]))
			memmove(&l->v[n++], &l->v[i], sizeof(*l->v));
	l->n = n;
	l->skipped = i - n;
	if (n)
		qsort(l->v, n, sizeof(*l->v), by_place);
	return EXIT_DONE;
}

void ctl_free_list(struct list *l)
{
	free(l->v);
	l->v = NULL;
}

bool ctl_is_plain(const struct listing *c)
{
	return c->link == LISTING_PLAIN;
}

const char *ctl_link_word(const struct listing *c)
{
	return links[c->link];
}

const char *ctl_state_word(const struct listing *c)
{
	if (ctl_is_plain(c) && c->reason)
		return reason_word(c->reason);
	return states[c->state];
}

char *ctl_gid(char hex[33], const struct listing *c, size_t digits)
{
	static const uint8_t none[16];
	size_t i;

	if (!memcmp(c->gid, none, sizeof(none)))
		return strcpy(hex, "-");
	for (i = 0; i < sizeof(c->gid); i++)
		snprintf(hex + 2 * i, 3, "%02x", c->gid[i]);
	hex[digits] = 0;
	return hex;
}

const char *ctl_self(char text[ADDR_PORT_TEXT], const struct listing *c)
{
	return c->family ? addr_port_text(text, c->family, c->self, c->self_port) : strcpy(text, "-");
}

const char *ctl_peer(char text[ADDR_PORT_TEXT], const struct listing *c)
{
	return c->family ? addr_port_text(text, c->family, c->peer, c->peer_port) : strcpy(text, "-");
}

const char *ctl_comm(char name[20], uint32_t pid)
{
	char path[32];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/%u/comm", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? 0 : read(fd, name, 19);
	if (fd >= 0)
		close(fd);
	if (n > 0 && name[n - 1] == '\n')
		n--;
	if (n <= 0)
		return strcpy(name, "?");
	name[n] = 0;
	/* a name may hold a line end: it is one word here */
	return ctl_clean(name);
}

static enum colour colour_of(const struct listing *c)
{
	if (ctl_is_plain(c))
		return C_NONE;
	switch (c->state) {
	case LISTING_UP:
		return C_GREEN;
	case LISTING_ENDED:
		return C_RED;
	}
	return C_YELLOW;
}

static void row(struct table *t, const struct listing *c, bool verbose)
{
	char gid[33], pid[12], comm[20], fd[12], self[ADDR_PORT_TEXT], peer[ADDR_PORT_TEXT], epoch[12], times[24];
	char tx[12], rx[12], flight[12], stall[32], a[12], b[12];
	const char *cells[] = {
		gid, pid, comm, fd, self, peer, ctl_link_word(c), ctl_state_word(c), tx, rx, flight, epoch, times, stall,
	};

	ctl_gid(gid, c, 8);
	snprintf(pid, sizeof(pid), "%u", c->pid);
	ctl_comm(comm, c->pid);
	snprintf(fd, sizeof(fd), c->fd < 0 ? "-" : "%d", c->fd);
	ctl_self(self, c);
	ctl_peer(peer, c);
	ctl_bytes(tx, c->tx);
	ctl_bytes(rx, c->rx);
	ctl_bytes(flight, c->in_flight);
	snprintf(epoch, sizeof(epoch), "%u", c->epoch);
	snprintf(times, sizeof(times), "%" PRIu64, c->handovers);
	snprintf(stall, sizeof(stall), "%s, %s", ctl_time(a, c->stall_ns), ctl_time(b, c->stall_max_ns));
	if (!c->stall_ns)
		strcpy(stall, "-");
	table_row(t, colour_of(c), cells);
	if (verbose && c->reason)
		table_below(t, reason_text(c->reason));
}

static void print_table(const struct opts *o, const struct list *l)
{
	static const char *const head[] = {
		"GID", ">PID", "COMMAND", ">FD", "LOCAL", "REMOTE", "LINK", "STATE OR WHY NOT", ">SENT", ">RECEIVED",
		">IN FLIGHT", ">EPOCH", ">HANDOVERS", "STALL (ALL, LONGEST)", NULL,
	};
	struct table t;
	size_t i;

	if (!l->n) {
		printf("No connections.\n");
		return;
	}
	table_init(&t, head);
	for (i = 0; i < l->n; i++)
		row(&t, &l->v[i], o->verbose);
	table_print(&t, 0, 0);
}

static void member(const char *name, const char *value)
{
	printf(", \"%s\": ", name);
	ctl_json_string(value);
}

static void number(const char *name, uint64_t value)
{
	printf(", \"%s\": %" PRIu64, name, value);
}

void ctl_json_record(const struct listing *c)
{
	char gid[33], comm[20], text[ADDR_PORT_TEXT];

	printf("{\"gid\": ");
	if (*ctl_gid(gid, c, 32) == '-')
		printf("null");
	else
		ctl_json_string(gid);
	number("pid", c->pid);
	member("command", ctl_comm(comm, c->pid));
	printf(", \"fd\": %d", c->fd);
	member("role", c->role ? "acceptor" : "opener");
	member("local", ctl_self(text, c));
	member("peer", ctl_peer(text, c));
	printf(", \"remote\": %s", c->remote ? "true" : "false");
	member("link", ctl_link_word(c));
	member("state", states[c->state]);
	member("reason", reason_word(c->reason));
	member("explanation", reason_text(c->reason));
	number("epoch", c->epoch);
	number("peer_epoch", c->peer_epoch);
	number("sent", c->tx);
	number("received", c->rx);
	number("in_flight", c->in_flight);
	number("unread", c->unread);
	number("handovers", c->handovers);
	number("resent", c->resent);
	number("stall_ns", c->stall_ns);
	number("stall_max_ns", c->stall_max_ns);
	number("age_ns", c->age_ns);
	if (c->agent_family)
		member("peer_agent", addr_port_text(text, c->agent_family, c->agent_addr, c->agent_port));
}

static void print_json(const struct list *l)
{
	size_t i;

	printf("{\"connections\": [");
	for (i = 0; i < l->n; i++) {
		printf("%s\n  ", i ? "," : "");
		ctl_json_record(&l->v[i]);
		putchar('}');
	}
	printf("%s], \"not_shown\": %zu}\n", l->n ? "\n" : "", l->skipped);
}

int ctl_print_list(const struct opts *o, const struct list *l)
{
	if (o->json)
		print_json(l);
	else
		print_table(o, l);
	if (l->skipped && !o->json)
		fprintf(stderr, "roamctl: %zu records are not shown: they are of another version or make no sense\n",
			l->skipped);
	return EXIT_DONE;
}

int ctl_list(const struct opts *o, uint32_t pid)
{
	struct list l;
	int rc = ctl_get_list(o, pid, &l);

	if (rc == EXIT_DONE)
		rc = ctl_print_list(o, &l);
	ctl_free_list(&l);
	return rc;
}
