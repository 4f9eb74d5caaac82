/* Addresses, names, identities: small things with one right answer. */
#ifndef ROAMD_UTIL_H
#define ROAMD_UTIL_H

#include <netinet/in.h>
#include "wire.h"

struct tuple {			/* as in lib/vsock.h: hashed byte by byte, see offer_path */
	uint8_t family;
	uint16_t oport, aport;
	uint8_t oaddr[16], aaddr[16];
};

/* Text in one of eight static buffers. */
const char *where_text(uint8_t family, const uint8_t addr[16], uint16_t port);
const char *id_text(const uint8_t *id);			/* first 8 digits of a GID or host id */
void hex_text(char *out, const uint8_t *in, size_t n);	/* 2n + 1 bytes */
bool is_zero(const uint8_t *p, size_t n);

/* The family (4 or 6; mapped addresses are 4), 0: neither. */
uint8_t addr_from(const struct sockaddr_storage *ss, uint8_t addr[16], uint16_t *port);
socklen_t addr_to(uint8_t family, const uint8_t addr[16], uint16_t port, struct sockaddr_storage *ss);
bool addr_loopback(uint8_t family, const uint8_t addr[16]);
bool addr_linklocal(uint8_t family, const uint8_t addr[16]);
bool addr_same(uint8_t fa, const uint8_t *a, uint8_t fb, const uint8_t *b);
bool sock_local(int fd, uint8_t *family, uint8_t addr[16], uint16_t *port);
bool sock_remote(int fd, uint8_t *family, uint8_t addr[16], uint16_t *port);

uint64_t pid_start(uint32_t pid);	/* 0: no such process */
uint64_t netns_inode(void);
size_t memfd_size(int fd);		/* 0: not a memfd sealed against shrinking */
int memfd_with(const char *name, const void *p, size_t n);	/* sealed; -1/errno */
uint64_t random64(void);		/* never 0 */

static inline int role_of(const struct msg *m)
{
	return m->flags & MSGF_ACCEPTOR ? 1 : 0;
}

static inline uint8_t role_flag(int role)
{
	return role ? MSGF_ACCEPTOR : 0;
}

#endif
