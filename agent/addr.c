#include "addr.h"
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool addr_parse(const char *s, uint8_t *family, uint8_t addr[16])
{
	static const uint8_t mapped[12] = { [10] = 255, 255 };
	uint8_t a[16] = { 0 };

	if (inet_pton(AF_INET, s, a) == 1) {
		*family = 4;
	} else if (inet_pton(AF_INET6, s, a) == 1) {
		*family = 6;
		if (!memcmp(a, mapped, sizeof(mapped))) {
			memmove(a, a + 12, 4);
			memset(a + 4, 0, 12);
			*family = 4;
		}
	} else {
		return false;
	}
	memcpy(addr, a, sizeof(a));
	return true;
}

static bool parse_port(const char *s, uint16_t *port)
{
	unsigned long v = 0;
	size_t n = strlen(s);

	if (!n || n > 5 || strspn(s, "0123456789") != n)
		return false;
	v = strtoul(s, NULL, 10);
	if (!v || v > 65535)
		return false;
	*port = (uint16_t)v;
	return true;
}

bool addr_parse_port(const char *s, uint8_t *family, uint8_t addr[16], uint16_t *port)
{
	char host[64];
	const char *end, *colon = strrchr(s, ':');
	size_t n;

	if (*s == '[') {
		end = strchr(++s, ']');
		if (!end || (end[1] && end[1] != ':'))
			return false;
		colon = end[1] ? end + 1 : NULL;
	} else {
		/* more than one colon: IPv6 without a port */
		if (colon && strchr(s, ':') != colon)
			colon = NULL;
		end = colon ? colon : s + strlen(s);
	}
	n = (size_t)(end - s);
	if (n >= sizeof(host))
		return false;
	memcpy(host, s, n);
	host[n] = 0;
	return addr_parse(host, family, addr) && (!colon || parse_port(colon + 1, port));
}

const char *addr_text(char text[ADDR_TEXT], uint8_t family, const uint8_t addr[16])
{
	if ((family != 4 && family != 6) ||
	    !inet_ntop(family == 4 ? AF_INET : AF_INET6, addr, text, ADDR_TEXT))
		memcpy(text, "?", 2);
	return text;
}

const char *addr_port_text(char text[ADDR_PORT_TEXT], uint8_t family, const uint8_t addr[16], uint16_t port)
{
	char a[ADDR_TEXT];

	snprintf(text, ADDR_PORT_TEXT, family == 6 ? "[%s]:%u" : "%s:%u", addr_text(a, family, addr), port);
	return text;
}

bool addr_is_host(uint8_t family, const uint8_t addr[16])
{
	static const uint8_t zero[16];

	if (!memcmp(addr, zero, sizeof(zero)))
		return false;
	return family == 4 ? addr[0] < 224 : addr[0] != 255;
}

bool addr_match(const uint8_t *a, const uint8_t *b, unsigned int bits)
{
	unsigned int whole = bits / 8, rest = bits % 8;

	if (bits > 128 || memcmp(a, b, whole))
		return false;
	return !rest || !((a[whole] ^ b[whole]) >> (8 - rest));
}
