/*
 * The agent's configuration: /etc/roam/roamd.conf (INI, read with inih), the
 * environment's ROAM_DIR, and the command line, in this order.  An unknown
 * key or a value out of range is an error that names file, line and remedy.
 */
#ifndef ROAMD_CONF_H
#define ROAMD_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <netinet/in.h>

#define AGENT_PORT 7626

struct net {			/* a network, for "may this address be asked?" */
	uint8_t family;		/* 4 or 6 */
	uint8_t bits;
	uint8_t addr[16];
};

struct peer_conf {		/* a static peer */
	uint8_t family;
	uint8_t addr[16];
	uint16_t port;		/* 0: the same as our own */
};

struct aconf {
	char dir[92];			/* [agent] directory */
	char key_file[256];		/* [agent] key = /etc/roam/cluster.key */
	char user[33];			/* [agent] user: dropped to when started by root; "" stays */
	uint16_t port;			/* [agent] port */
	uint8_t host[16];		/* [agent] host-id, 32 hex digits; has_host */
	bool has_host;
	uint8_t listen_family;		/* [agent] listen: an address to bind to; 0: any */
	uint8_t listen_addr[16];
	struct net *nets;		/* [discovery] networks = 10.0.0.0/8 fd00::/8 */
	size_t nnets;
	struct peer_conf *peers;	/* [discovery] peers = 10.0.0.2 10.0.0.3:7000 [fd00::1]:7626 */
	size_t npeers;
	bool multicast;			/* [discovery] multicast = yes|no (default no) */
	char mcast_group[46];		/* [discovery] group, default 239.255.76.26 */
	uint32_t mcast_every_ms;	/* [discovery] interval in ms, default 5000 */
	uint32_t max_connections;	/* [limits] connections: GIDs, default 1000000 */
	uint32_t max_per_user;		/* [limits] connections-per-user, default 200000 */
	uint64_t max_parked;		/* [limits] parked-bytes, default 256 MiB */
	uint32_t parked_s;		/* [limits] parked-seconds, default 120: then the connection ends */
	bool probe;			/* [discovery] probe = yes|no (default yes) */
	uint32_t probe_bytes;		/* [limits] probe-bytes, default 1 MiB: of one probe in one direction */
	uint32_t probe_s;		/* [limits] probe-seconds, default 600: between two of one host */
	uint32_t hold_s;		/* [limits] hold-seconds, default 60: unanswered queries */
	int log;			/* [agent] log = error|info|debug */
};

/* Fills in the defaults. */
void aconf_init(struct aconf *c);
/*
 * Reads the file, then ROAM_DIR; false: an error was written to stderr. A missing
 * file is an error only if `must`.
 */
bool aconf_read(struct aconf *c, const char *path, bool must);
/* Overrides from the command line: "key=value" as in [section] key: "discovery.networks=10.0.0.0/8". */
bool aconf_set(struct aconf *c, const char *assignment);
void aconf_free(struct aconf *c);
/* Is the address in one of the networks? */
bool aconf_in_nets(const struct aconf *c, uint8_t family, const uint8_t addr[16]);

#endif
