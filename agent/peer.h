/*
 * The other agents: whom to dial, when, and which session stays.
 *
 * A peer is an agent that we know of: by configuration, multicast, because it
 * came to us, or because a process named it.  At first it may be only an
 * address; its host id comes with the key exchange, and two peers that turn
 * out to be one host are made one.
 */
#ifndef ROAMD_PEER_H
#define ROAMD_PEER_H

#include "gid.h"
#include "loop.h"
#include "path.h"
#include "session.h"

#define PEER_ADDRS 8
#define PEER_TRIES 8

enum peer_why { PEER_STATIC = 1, PEER_HEARD = 2, PEER_ASKED = 4, PEER_KNOWN = 8, PEER_CAME = 16 };

struct peer {
	struct peer *next;
	struct timer t;
	uint32_t why;			/* enum peer_why */
	bool has_host, self;
	uint8_t host[16];
	struct { uint8_t family, addr[16]; uint16_t port; } at[PEER_ADDRS];
	uint32_t nat, at_next;
	struct session *s;		/* proven */
	struct session *tries[PEER_TRIES];	/* oldest first */
	uint32_t ntries;
	uint32_t waiting;		/* queries that want it */
	uint64_t waiting_since, heard;
	uint32_t backoff_ms;
	uint64_t failed_at;		/* 0: not yet */
	char error[72];
	uint8_t *backlog;		/* frames to send when it is back */
	uint32_t backlog_n;
	struct path out, in;		/* how fast the way there is, and the way back */
	uint32_t rate_stamp;		/* counts the news of `out` */
	uint64_t rate_sent;		/* the other agent was told what our connections see */
	uint64_t probed, probe_due, probe_wait;		/* last begun by us; the next one (0: none); when it is busy */
	uint64_t probe_asked, probe_back_asked;		/* begun by the other agent */
	bool probe_back;		/* the next one is for the other direction only */
	uint8_t way[34];		/* the addresses that all this is about */
};

void peer_stop(void);
/* The peer with this host id (may be NULL or zero) or address; made if need be. NULL: not to be had. */
struct peer *peer_get(const uint8_t *host, uint8_t family, const uint8_t addr[16], uint16_t port, uint32_t why);
struct peer *peer_by_host(const uint8_t host[16]);
/* The session whose host has this address. */
struct session *peer_session_with(uint8_t family, const uint8_t addr[16]);
/* Queries wait for it: dial fast, ping. Calls are counted. */
void peer_want(struct peer *p);
void peer_unwant(struct peer *p);
/* Dial now, if there is no session and no attempt under way. */
void peer_dial(struct peer *p);
/* Sends now, or keeps it (bounded) until the peer is back. */
void peer_send_or_keep(struct peer *p, const uint8_t *buf, size_t n);
void peer_each(void (*fn)(void *arg, struct peer *p), void *arg);
void peer_sessions(void (*fn)(void *arg, struct session *s), void *arg);	/* proven ones */
uint32_t peer_session_count(void);
const char *peer_state(const struct peer *p);	/* a word for PEERS */
/* The host's addresses changed: tell, ping, dial. */
void peer_addr_changed(uint8_t family, const uint8_t addr[16], bool gone);
void peer_net_changed(void);

/* From session.c. */
void peer_proven(struct session *s);
void peer_message(struct session *s, const struct msg *m, const uint8_t *buf, size_t n, const uint8_t *more,
		  size_t nmore);
void peer_drained(struct session *s);		/* the queue has become short */
void peer_session_end(struct session *s, const char *why);

/* Between peer.c, peer_up.c and relay.c. */
void peer_add_at(struct peer *p, uint8_t family, const uint8_t *addr, uint16_t port);
void peer_drop_at(struct peer *p, uint8_t family, const uint8_t *addr);
void peer_drop_try(struct peer *p, struct session *s);
void peer_failed(struct peer *p, const char *why);
struct peer *peer_settle(struct session *s);	/* the peer of a session whose host is now known */
void peer_redial(struct peer *p);		/* at once; also beside a session that does not answer */
void peer_calm(struct peer *p);			/* no more attempts */
bool peer_ending(void);

#endif
