/*
 * Messages to bytes and back.  Pure.  Every byte that comes in is hostile
 * until wire_decode has said otherwise; what it returns has been range-checked
 * as far as the message alone allows.
 */
#ifndef ROAM_WIRE_H
#define ROAM_WIRE_H

#include "types.h"

#define WIRE_VERSION	1
#define WIRE_MAC	16
#define WIRE_KEY	32
#define WIRE_GID	16
#define WIRE_MAX	256	/* no message is longer */

enum msg_type {
#define MSG(name, nr, keyed, fields) MSG_##name = nr,
#include "wire.def"
#undef MSG
};

/* msg.flags */
#define MSGF_CUT	1	/* a planned handover: the old link still lives */
#define MSGF_ACCEPTOR	2	/* the acceptor sent it: a reflected message gives itself away */
#define MSGF_CLOSED	4	/* NOTICE: closed, or plain again: believe the kernel */
#define MSGF_MOVED	8	/* OWN: the end was elsewhere before */
#define MSGF_CODEC	8	/* REQ: blocks of the codecs 0 and 1 would be understood (docs/codec.md) */
#define MSGF_CODED	16	/* REQ: wanted, OK: so it is: the link carries blocks */
#define MSGF_FIN	32	/* REQ, OK: the sender's stream ends at tx_end */
#define MSGF_RING	64	/* REQ, OK: the link is a ring, and this is my box */
#define MSGF_BARRIER	128	/* ... my process takes part in sys_barrier */
#define MSGF_GONE	16	/* ADDR: the address is no longer the host's */
#define MSGF_PROBES	1	/* ADDR: its agent knows PROBE and RATE */
#define MSGF_BACK	1	/* PROBE: the acceptor of the connection sends first, or only */
#define MSGF_LEAST	1	/* SEEN, RATE: the way was not filled, it may be faster */
#define MSGF_TRAIN	4	/* RATE: from a packet train, not from a connection */
#define MSGF_STEADY	4	/* SEEN: the two halves of the train say the same */
#define MSGF_CUTOFF	8	/* SEEN: the train has not ended yet: send no more of it */

/* COMMAND.op */
enum command { CMD_FREEZE = 1, CMD_THAW, CMD_PARK, CMD_LIST, CMD_PEERS, CMD_STATS, CMD_NETCHANGE, CMD_HOSTS };

struct msg {
	uint8_t type;
	uint8_t flags;
	uint8_t family;			/* 4 or 6, of the addresses; 0: none known */
	uint8_t op;			/* enum command */
	uint16_t oport, aport;		/* ports of opener and acceptor, host order */
	uint16_t port;
	uint32_t epoch, reason, pid;
	uint8_t confidence;		/* percent */
	uint32_t rtt_us, age_ms;
	uint64_t nonce, netns, start, attempt, rx_off, unread, tx_end, gen, fin, count;
	uint64_t rate, took;		/* bytes a second; ns */
	uint8_t gid[WIRE_GID], oaddr[16], aaddr[16], addr[16], host[16], svc[16];
	uint8_t key[WIRE_KEY];
};

enum wire_error {
	WIRE_OK,
	WIRE_SHORT,		/* shorter than its type says */
	WIRE_LONG,		/* longer than its type says */
	WIRE_MAGIC,		/* not ours */
	WIRE_BADVERSION,
	WIRE_TYPE,		/* a type this version does not know */
	WIRE_FORGED,		/* the MAC is wrong */
};
const char *wire_strerror(enum wire_error e);

/* Encodes m into buf (at least WIRE_MAX bytes); the length.  key as for decode. */
size_t wire_encode(const struct msg *m, const uint8_t *key, uint8_t *buf);
/*
 * Decodes.  key: the connection's key, or NULL to leave the MAC unchecked (to
 * learn whose key it is: decode again with it before believing a field).
 */
enum wire_error wire_decode(struct msg *m, const uint8_t *key, const uint8_t *buf, size_t n);
bool wire_keyed(uint8_t type);
const char *wire_name(uint8_t type);

#endif
