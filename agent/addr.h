/*
 * Addresses as text and as the messages have them: family 4 (the first 4 bytes,
 * the rest 0) or 6, network order. An IPv4-mapped address is IPv4.
 */
#ifndef ROAMD_ADDR_H
#define ROAMD_ADDR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ADDR_TEXT 46
#define ADDR_PORT_TEXT (ADDR_TEXT + 8)

/* No names are looked up: an agent must start without a name server. */
bool addr_parse(const char *s, uint8_t *family, uint8_t addr[16]);
/* ADDRESS, ADDRESS:PORT, [ADDRESS]:PORT; the port is left alone when none is given. */
bool addr_parse_port(const char *s, uint8_t *family, uint8_t addr[16], uint16_t *port);
/* The text; "?" for another family. */
const char *addr_text(char text[ADDR_TEXT], uint8_t family, const uint8_t addr[16]);
/* With the port, IPv6 in brackets. */
const char *addr_port_text(char text[ADDR_PORT_TEXT], uint8_t family, const uint8_t addr[16], uint16_t port);
/* Can somebody be there? Not: unspecified, multicast, broadcast. */
bool addr_is_host(uint8_t family, const uint8_t addr[16]);
/* Are the first `bits` the same? */
bool addr_match(const uint8_t *a, const uint8_t *b, unsigned int bits);

#endif
