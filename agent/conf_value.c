#include "conf_value.h"
#include "addr.h"
#include <arpa/inet.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIST_MAX 4096		/* more networks or peers than anybody writes by hand */

__attribute__((format(printf, 2, 3)))
static bool bad(char *why, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, CONF_WHY, fmt, ap);
	va_end(ap);
	return false;
}

/* Digits only: strtoul would take signs and spaces. */
static bool digits(const char *s, size_t n, uint64_t *out)
{
	uint64_t v = 0;

	if (!n || n > 19)
		return false;
	for (; n; n--, s++) {
		if (*s < '0' || *s > '9')
			return false;
		v = v * 10 + (uint64_t)(*s - '0');
	}
	*out = v;
	return true;
}

bool conf_number(const char *value, uint64_t min, uint64_t max, uint64_t *out, char *why)
{
	uint64_t v;

	if (!digits(value, strlen(value), &v) || v < min || v > max)
		return bad(why, "use a number from %llu to %llu", (unsigned long long)min, (unsigned long long)max);
	*out = v;
	return true;
}

bool conf_size(const char *value, uint64_t min, uint64_t max, uint64_t *out, char *why)
{
	static const char units[] = "KMGT";
	size_t n = strlen(value);
	const char *u = n ? strchr(units, value[n - 1]) : NULL;
	unsigned int shift = u && *u ? 10 * (unsigned int)(u - units + 1) : 0;
	uint64_t v;

	if (!digits(value, n - !!shift, &v) || v > max >> shift || v << shift < min)
		return bad(why, "use a number of bytes from %llu to %llu, or with K, M, G, T behind it",
			   (unsigned long long)min, (unsigned long long)max);
	*out = v << shift;
	return true;
}

bool conf_bool(const char *value, bool *out, char *why)
{
	static const char *const words[] = { "no", "yes", NULL };
	int v;

	if (!conf_word(value, words, &v, why))
		return false;
	*out = v;
	return true;
}

bool conf_word(const char *value, const char *const *words, int *out, char *why)
{
	size_t n;
	int i;

	n = (size_t)snprintf(why, CONF_WHY, "use one of");
	for (i = 0; words[i]; i++) {
		if (!strcmp(value, words[i])) {
			*out = i;
			return true;
		}
		n += (size_t)snprintf(why + n, CONF_WHY - n, "%s %s", i ? "," : "", words[i]);
	}
	return false;
}

bool conf_path(const char *value, char *out, size_t n, char *why)
{
	if (*value != '/')
		return bad(why, "use an absolute path");
	if (strlen(value) >= n)
		return bad(why, "the path is longer than %zu bytes; use a shorter one", n - 1);
	strcpy(out, value);
	return true;
}

bool conf_user(const char *value, char *out, size_t n, char *why)
{
	if (strlen(value) >= n)
		return bad(why, "the name is longer than %zu bytes", n - 1);
	strcpy(out, value);
	return true;
}

bool conf_host_id(const char *value, uint8_t host[16], char *why)
{
	uint8_t id[16], any = 0;
	unsigned int v;
	size_t i;

	if (strlen(value) != 32 || strspn(value, "0123456789abcdefABCDEF") != 32)
		return bad(why, "use 32 hexadecimal digits");
	for (i = 0; i < sizeof(id); i++) {
		sscanf(value + 2 * i, "%2x", &v);
		id[i] = (uint8_t)v;
		any |= id[i];
	}
	if (!any)
		return bad(why, "use 32 hexadecimal digits that are not all 0");
	memcpy(host, id, sizeof(id));
	return true;
}

bool conf_listen(const char *value, uint8_t *family, uint8_t addr[16], char *why)
{
	static const uint8_t zero[16];
	uint8_t f, a[16];

	if (!strcmp(value, "any")) {
		*family = 0;
		memset(addr, 0, 16);
		return true;
	}
	if (!addr_parse(value, &f, a) || (memcmp(a, zero, 16) && !addr_is_host(f, a)))
		return bad(why, "use an address of this host (a name is not looked up), or any");
	*family = f;
	memcpy(addr, a, 16);
	return true;
}

bool conf_group(const char *value, char *out, size_t n, char *why)
{
	struct in_addr a;

	if (inet_pton(AF_INET, value, &a) != 1 || !IN_MULTICAST(ntohl(a.s_addr)) || strlen(value) >= n)
		return bad(why, "use an IPv4 multicast address, 224.0.0.0 to 239.255.255.255");
	strcpy(out, value);
	return true;
}

/* Room for one more in a list that doubles; the list, NULL: no memory. */
static void *grow(void *list, size_t n, size_t size)
{
	return n & (n - 1) ? list : realloc(list, (n ? 2 * n : 1) * size);
}

static bool network(const char *word, struct net *out, char *why)
{
	const char *slash = strchr(word, '/');
	char host[ADDR_TEXT], text[ADDR_TEXT];
	struct net net = { 0 };
	size_t n = slash ? (size_t)(slash - word) : strlen(word);
	uint64_t bits;
	unsigned int i;
	uint8_t all;

	if (n >= sizeof(host))
		return bad(why, "%.60s is not a network; use ADDRESS/BITS", word);
	memcpy(host, word, n);
	host[n] = 0;
	if (!addr_parse(host, &net.family, net.addr))
		return bad(why, "%.60s is not a network; use ADDRESS/BITS as in 10.0.0.0/8 or fd00::/8", word);
	all = net.family == 4 ? 32 : 128;
	bits = all;
	if (slash && (!digits(slash + 1, strlen(slash + 1), &bits) || bits > all))
		return bad(why, "%.60s: use a number of bits from 0 to %u", word, all);
	net.bits = (uint8_t)bits;
	*out = net;
	for (i = net.bits; i < all; i++)
		net.addr[i / 8] &= (uint8_t)~(0x80 >> i % 8);
	if (memcmp(out->addr, net.addr, sizeof(net.addr)))
		return bad(why, "%.60s has bits behind its prefix; use %s/%u", word,
			   addr_text(text, net.family, net.addr), net.bits);
	return true;
}

static bool add_network(struct aconf *c, const char *word, char *why)
{
	struct net net, *list;

	if (!network(word, &net, why))
		return false;
	if (c->nnets >= LIST_MAX)
		return bad(why, "more than %d networks; use larger ones", LIST_MAX);
	list = grow(c->nets, c->nnets, sizeof(*list));
	if (!list)
		return bad(why, "out of memory");
	c->nets = list;
	list[c->nnets++] = net;
	return true;
}

static bool add_peer(struct aconf *c, const char *word, char *why)
{
	struct peer_conf peer = { 0 }, *list;

	if (!addr_parse_port(word, &peer.family, peer.addr, &peer.port) || !addr_is_host(peer.family, peer.addr))
		return bad(why, "%.60s is not a host's address; use ADDRESS, ADDRESS:PORT or [IPV6]:PORT "
			   "(names are not looked up)", word);
	if (c->npeers >= LIST_MAX)
		return bad(why, "more than %d peers; use multicast", LIST_MAX);
	list = grow(c->peers, c->npeers, sizeof(*list));
	if (!list)
		return bad(why, "out of memory");
	c->peers = list;
	list[c->npeers++] = peer;
	return true;
}

static bool each_word(struct aconf *c, const char *value, char *why,
		      bool (*add)(struct aconf *, const char *, char *))
{
	char *copy = strdup(value), *save = NULL, *word;
	bool ok = true;

	if (!copy)
		return bad(why, "out of memory");
	for (word = strtok_r(copy, " \t,", &save); word && ok; word = strtok_r(NULL, " \t,", &save))
		ok = add(c, word, why);
	free(copy);
	return ok;
}

bool conf_networks(struct aconf *c, const char *value, char *why)
{
	return each_word(c, value, why, add_network);
}

bool conf_peers(struct aconf *c, const char *value, char *why)
{
	return each_word(c, value, why, add_peer);
}
