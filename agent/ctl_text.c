/* PEERS, HOSTS and STATS: text, an item a line. */
#include "ctl.h"
#include <stdlib.h>
#include <string.h>

static int get_text(const struct opts *o, enum command op, const char *what, struct answer *a)
{
	int rc = ctl_ask(o, op, 0, 10, a);

	if (rc != EXIT_DONE || !a->report.reason)
		return rc;
	rc = ctl_refused(what, a->report.reason);
	ctl_free(a);
	return rc;
}

/* The next line of the text, cleaned; NULL: no more. A NUL byte ends the text. */
static char *next_line(char **p)
{
	char *line = *p, *end;

	if (!line || !*line)
		return NULL;
	end = strchr(line, '\n');
	if (end)
		*end = 0;
	*p = end ? end + 1 : NULL;
	return ctl_clean(line);
}

/* Cuts the line into words; the last one takes the rest. How many there are. */
static int split(char *line, char **word, int max)
{
	int n = 0;

	for (; n < max; n++) {
		line += strspn(line, " ");
		if (!*line)
			break;
		word[n] = line;
		if (n == max - 1)
			return max;
		line += strcspn(line, " ");
		if (*line)
			*line++ = 0;
	}
	return n;
}

static bool is_number(const char *s)
{
	return *s && strspn(s, "0123456789") == strlen(s) && strlen(s) < 20 && (*s != '0' || !s[1]);
}

static void json_value(const char *s)
{
	if (is_number(s))
		fputs(s, stdout);
	else
		ctl_json_string(s);
}

enum { P_HOST, P_ADDR, P_PORT, P_STATE, P_RTT, P_ERROR, P_WORDS };

static void peers_json(char *text)
{
	static const char *const names[] = { "host", "address", "port", "state", "rtt_us", "error" };
	char *word[P_WORDS], *line;
	int n, i, rows = 0;

	printf("{\"peers\": [");
	while ((line = next_line(&text))) {
		n = split(line, word, P_WORDS);
		if (n < P_RTT)
			continue;
		printf("%s\n  {", rows++ ? "," : "");
		for (i = 0; i < n; i++) {
			printf("%s\"%s\": ", i ? ", " : "", names[i]);
			/* a host id may be all digits, and is a name */
			if (i == P_PORT || i == P_RTT)
				json_value(word[i]);
			else
				ctl_json_string(word[i]);
		}
		putchar('}');
	}
	printf("%s]}\n", rows ? "\n" : "");
}

static void peers_table(char *text)
{
	static const char *const head[] = { "HOST", "ADDRESS", ">PORT", "STATE", ">RTT", "LAST ERROR", NULL };
	char *word[P_WORDS], *line, rtt[12];
	struct table t;
	int n;

	table_init(&t, head);
	while ((line = next_line(&text))) {
		n = split(line, word, P_WORDS);
		if (n < P_RTT)
			continue;
		if (strlen(word[P_HOST]) == 32)
			word[P_HOST][8] = 0;
		strcpy(rtt, "-");
		if (n > P_RTT && is_number(word[P_RTT]) && strcmp(word[P_RTT], "0") != 0)
			ctl_time(rtt, strtoull(word[P_RTT], NULL, 10) * 1000);
		table_row(&t, !strcmp(word[P_STATE], "up") ? C_GREEN : C_YELLOW,
			  (const char *[]){ word[P_HOST], word[P_ADDR], word[P_PORT], word[P_STATE], rtt,
					    n > P_ERROR ? word[P_ERROR] : "" });
	}
	if (!t.rows)
		printf("No other agents are known; name them under [discovery] in roamd.conf.\n");
	else
		table_print(&t, 0, 0);
}

int ctl_peers(const struct opts *o)
{
	struct answer a;
	int rc = get_text(o, CMD_PEERS, "peers", &a);

	if (rc != EXIT_DONE)
		return rc;
	(o->json ? peers_json : peers_table)(a.data);
	ctl_free(&a);
	return EXIT_DONE;
}

enum { H_HOST, H_ADDR, H_RTT, H_WAY, H_RATE, H_KIND, H_SURE, H_AGE, H_SOURCE, H_WORDS };

static void hosts_json(char *text)
{
	static const char *const names[] = { "host", "address", "rtt_us", "way", "rate", "kind", "confidence", "age_ms",
					     "source" };
	char *word[H_WORDS], *line;
	int i, rows = 0;

	printf("{\"hosts\": [");
	while ((line = next_line(&text))) {
		if (split(line, word, H_WORDS) < H_WORDS)
			continue;
		printf("%s\n  {", rows++ ? "," : "");
		for (i = 0; i < H_WORDS; i++) {
			printf("%s\"%s\": ", i ? ", " : "", names[i]);
			if (i == H_RTT || i == H_RATE || i == H_SURE || i == H_AGE)
				json_value(word[i]);
			else
				ctl_json_string(word[i]);
		}
		putchar('}');
	}
	printf("%s]}\n", rows ? "\n" : "");
}

/* Bytes a second, as networks are named: bits, powers of 1000. */
static void rate_text(char out[24], const char *bytes, bool least)
{
	static const char *const unit[] = { "", "k", "M", "G", "T" };
	double v = (double)strtoull(bytes, NULL, 10) * 8;
	size_t i = 0;

	for (; v >= 999.5 && i < ARRAY_SIZE(unit) - 1; i++)
		v /= 1000;
	snprintf(out, 24, "%s%.*f %sbit/s", least ? ">= " : "", v < 9.95 ? 1 : 0, v < 1e6 ? v : 1e6, unit[i]);
}

static void hosts_table(char *text)
{
	static const char *const head[] = { "HOST", "ADDRESS", ">RTT", "WAY", ">RATE", ">SURE", ">AGE", "SOURCE", NULL };
	char *word[H_WORDS], *line, rtt[12], age[12], rate[24], sure[8];
	struct table t;
	bool known;

	table_init(&t, head);
	while ((line = next_line(&text))) {
		if (split(line, word, H_WORDS) < H_WORDS || !is_number(word[H_RTT]) || !is_number(word[H_RATE]) ||
		    !is_number(word[H_SURE]) || !is_number(word[H_AGE]))
			continue;
		if (strlen(word[H_HOST]) == 32)
			word[H_HOST][8] = 0;
		strcpy(rtt, "-");
		if (strcmp(word[H_RTT], "0") != 0)
			ctl_time(rtt, strtoull(word[H_RTT], NULL, 10) * 1000);
		known = strcmp(word[H_RATE], "0") != 0;
		snprintf(rate, sizeof(rate), "-");
		snprintf(sure, sizeof(sure), "-");
		snprintf(age, sizeof(age), "-");
		if (known) {
			rate_text(rate, word[H_RATE], !strcmp(word[H_KIND], "least"));
			snprintf(sure, sizeof(sure), "%.3s%%", word[H_SURE]);
			ctl_time(age, strtoull(word[H_AGE], NULL, 10) * 1000000);
		}
		table_row(&t, C_NONE, (const char *[]){ word[H_HOST], word[H_ADDR], rtt, word[H_WAY], rate, sure, age,
							word[H_SOURCE] });
	}
	if (!t.rows)
		printf("No other hosts are known.\n");
	else
		table_print(&t, 0, 0);
}

int ctl_hosts(const struct opts *o)
{
	struct answer a;
	int rc = get_text(o, CMD_HOSTS, "hosts", &a);

	if (rc != EXIT_DONE)
		return rc;
	(o->json ? hosts_json : hosts_table)(a.data);
	ctl_free(&a);
	return EXIT_DONE;
}

int ctl_stats(const struct opts *o)
{
	char *word[2], *line, *text;
	struct answer a;
	int rc = get_text(o, CMD_STATS, "stats", &a), rows = 0;

	if (rc != EXIT_DONE)
		return rc;
	text = a.data;
	if (o->json)
		putchar('{');
	while ((line = next_line(&text))) {
		if (split(line, word, 2) != 2)
			continue;
		if (!o->json) {
			printf("%-28s %s\n", word[0], word[1]);
			continue;
		}
		fputs(rows++ ? ",\n  " : "\n  ", stdout);
		ctl_json_string(word[0]);
		fputs(": ", stdout);
		json_value(word[1]);
	}
	if (o->json)
		printf("%s}\n", rows ? "\n" : "");
	ctl_free(&a);
	return EXIT_DONE;
}
