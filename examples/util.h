/* What the example programs share: messages, numbers, addresses, time. */
#ifndef EXAMPLES_UTIL_H
#define EXAMPLES_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PEER_LEN 64		/* "255.255.255.255:65535", or IPv6 with brackets */

void util_init(const char *argv0);	/* names the program, ignores SIGPIPE */
const char *util_name(void);

void warn_msg(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

/* What a person can do about an errno of a socket call; "" when nothing is known. */
const char *remedy(int err);

/* "-s 64k": a number with an optional k, M or G (powers of 1024), in range or death. */
uint64_t parse_size(char opt, const char *arg, uint64_t min, uint64_t max);
double parse_real(char opt, const char *arg, double min, double max);

uint64_t now_ns(void);
void sleep_until(uint64_t ns);

int set_nonblock(int fd);
int tcp_listen(const char *addr, unsigned port);	/* dies on error */
/* A connection, or with nonblock perhaps one still being made; dies on error. */
int tcp_connect(const char *addr, unsigned port, bool nonblock);
void peer_name(int fd, bool local, char out[PEER_LEN]);
void *xmalloc(size_t n);

#endif
