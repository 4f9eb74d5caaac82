/*
 * The directory: which agents are there, and where?  Backends register
 * candidates; the agent dials them and learns host ids by KX.  A look-up in an
 * external store (etcd, consul ...) would be a third backend: it implements
 * `struct dir_ops` and nothing else changes.
 */
#ifndef ROAMD_DIR_H
#define ROAMD_DIR_H

#include "conf.h"

struct dir;

struct dir_ops {
	const char *name;
	/* Starts; NULL: it cannot, and has said why on stderr. found() is called for every agent, now or later, as often as it is heard of. */
	void *(*start)(struct dir *d);
	/* A descriptor to watch for reading, -1: none; and what to do when it is readable. */
	int (*fd)(void *self);
	void (*readable)(void *self);
	/* Time to do something by (ns, CLOCK_MONOTONIC), 0: none; and do it. */
	uint64_t (*due)(void *self);
	void (*tick)(void *self, uint64_t now);
	/* Where does this end live? An external store may know; false: no idea. (static, multicast: NULL) */
	bool (*locate)(void *self, const uint8_t gid[16], int role, uint8_t host[16], uint8_t *family,
		       uint8_t addr[16], uint16_t *port);
	/* This host now has this end (an external store would publish it). May be NULL. */
	void (*publish)(void *self, const uint8_t gid[16], int role, uint32_t epoch);
	/* The host's links or addresses changed. May be NULL. */
	void (*changed)(void *self);
	void (*stop)(void *self);
};

struct dir {
	const struct aconf *conf;
	const uint8_t *key, *host;	/* cluster key, our host id */
	uint16_t port;
	/* An agent may be at this address; host may be NULL (not known yet). */
	void (*found)(void *arg, const uint8_t *host, uint8_t family, const uint8_t addr[16], uint16_t port);
	void *arg;
};

extern const struct dir_ops dir_static, dir_multicast;

#endif
