/* Everything about one connection, in words. */
#include "ctl.h"
#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char *link_text(const struct listing *c)
{
	switch (c->link) {
	case LISTING_PLAIN:
		return "plain TCP, not persistent";
	case LISTING_TCP:
		return "persistent, over TCP";
	case LISTING_CODEC:
		return "persistent, over TCP, compressed";
	case LISTING_RING:
		return "persistent, over a ring in shared memory";
	}
	return "persistent, carried by the agents (thick)";
}

static const char *state_text(const struct listing *c)
{
	switch (c->state) {
	case LISTING_UP:
		return "up";
	case LISTING_BROKEN:
		return "broken; a new link is being prepared";
	case LISTING_ASKING:
		return "broken; the other end is being asked for a new link";
	case LISTING_FROZEN:
		return "frozen; it goes on when the process is thawed, here or elsewhere";
	}
	return "ended";
}

static void line(const char *name, const char *value)
{
	printf("%s%-12s%s %s\n", ctl_colour(C_BOLD), name, ctl_colour(C_NONE), value);
}

static void bytes_line(const char *name, uint64_t n, const char *what)
{
	char text[80], b[12];

	snprintf(text, sizeof(text), n < 1000 ? "%" PRIu64 " bytes%s" : "%" PRIu64 " bytes%s (%s)", n, what,
		 ctl_bytes(b, n));
	line(name, text);
}

static void who(const struct listing *c)
{
	char text[128], comm[20], a[ADDR_PORT_TEXT];

	snprintf(text, sizeof(text), "process %u (%s), descriptor %d, the end that %s", c->pid,
		 ctl_comm(comm, c->pid), c->fd, c->role ? "accepted" : "connected");
	line("Held by:", text);
	line("Local:", ctl_self(a, c));
	snprintf(text, sizeof(text), "%s, on %s host", ctl_peer(a, c), c->remote ? "another" : "this");
	line("Remote:", text);
	if (!c->agent_family)
		return;
	snprintf(text, sizeof(text), "%s",
		 addr_port_text(a, c->agent_family, c->agent_addr, c->agent_port));
	line("Its agent:", text);
}

static void history(const struct listing *c)
{
	char text[160], a[12], b[12];

	snprintf(text, sizeof(text), "this end's incarnation is %u, the other end's %u", c->epoch, c->peer_epoch);
	line("Epoch:", text);
	snprintf(text, sizeof(text), "%" PRIu64 " times on a new link, %" PRIu64 " bytes sent again", c->handovers,
		 c->resent);
	line("Handovers:", text);
	snprintf(text, sizeof(text), "stood still for %s all together, %s at most", ctl_time(a, c->stall_ns),
		 ctl_time(b, c->stall_max_ns));
	line("Stalls:", c->stall_ns ? text : "none");
	snprintf(text, sizeof(text), "persistent for %s", ctl_time(a, c->age_ns));
	line("Age:", text);
}

static void show_one(const struct listing *c)
{
	char gid[33], text[200];

	line("Connection:", ctl_is_plain(c) ? "without identity: it is plain TCP" : ctl_gid(gid, c, 32));
	who(c);
	line("Link:", link_text(c));
	line("State:", state_text(c));
	if (c->reason) {
		snprintf(text, sizeof(text), "%s: %s", reason_word(c->reason), reason_text(c->reason));
		line("Reason:", text);
	}
	bytes_line("Sent:", c->tx, "");
	bytes_line("Received:", c->rx, "");
	bytes_line("In flight:", c->in_flight, " held until the other side has them");
	bytes_line("Unread:", c->unread, "");
	if (!ctl_is_plain(c))
		history(c);
}

static bool matches(const struct listing *c, const char *prefix)
{
	char gid[33];

	return !strncmp(ctl_gid(gid, c, 32), prefix, strlen(prefix));
}

/* Keeps what matches: a connection has two ends, and each may be shared by processes. */
static bool select_gid(struct list *l, const char *prefix)
{
	bool one = true;
	size_t i, n = 0;

	for (i = 0; i < l->n; i++) {
		if (!matches(&l->v[i], prefix))
			continue;
		if (n && memcmp(l->v[0].gid, l->v[i].gid, sizeof(l->v[0].gid)) != 0)
			one = false;
		memmove(&l->v[n++], &l->v[i], sizeof(l->v[0]));
	}
	l->n = n;
	return one;
}

static int print(const struct opts *o, const struct list *l)
{
	size_t i;

	if (o->json)
		return ctl_print_list(o, l);
	for (i = 0; i < l->n; i++) {
		if (i)
			putchar('\n');
		show_one(&l->v[i]);
	}
	return EXIT_DONE;
}

int ctl_show(const struct opts *o, const char *prefix)
{
	char want[33];
	struct list l;
	size_t i;
	int rc;

	if (!*prefix || strlen(prefix) > 32 || strspn(prefix, "0123456789abcdefABCDEF") != strlen(prefix)) {
		fprintf(stderr, "roamctl: show wants the beginning of a GID, up to 32 hexadecimal digits; \"roamctl "
			"list\" shows them\n");
		return EXIT_USAGE;
	}
	for (i = 0; i <= strlen(prefix); i++)
		want[i] = (char)tolower((unsigned char)prefix[i]);
	rc = ctl_get_list(o, 0, &l);
	if (rc != EXIT_DONE)
		return rc;
	if (!select_gid(&l, want)) {
		fprintf(stderr, "roamctl: %s fits more than one connection; give more digits\n", want);
		rc = EXIT_REFUSED;
	} else if (!l.n) {
		fprintf(stderr, "roamctl: there is no connection %s on this host; \"roamctl list\" shows them\n", want);
		rc = EXIT_REFUSED;
	} else {
		rc = print(o, &l);
	}
	ctl_free_list(&l);
	return rc;
}
