/*
 * One TCP connection to another agent: key exchange, then encrypted frames
 * (secure.h does the cryptography).  peer.c decides whom to connect to and
 * which of several sessions stays.
 *
 *	CONNECTING -> KX -> HEAD -> PROVEN
 *
 * A recorded KX would be accepted, so a session counts only once a frame of
 * the other side has opened: PROVEN.  Until then nothing it says has effect.
 */
#ifndef ROAMD_SESSION_H
#define ROAMD_SESSION_H

#include "loop.h"
#include "netmon.h"
#include "secure.h"

#define SESSION_ADDRS 32		/* addresses of one host that are kept */

enum session_state { S_CONNECTING, S_KX, S_HEAD, S_PROVEN };

struct session {
	struct watch w;
	struct timer t;			/* handshake's end; then: pings; then: to be freed */
	struct session *next;		/* of all */
	struct peer *peer;		/* dialled: whose attempt; proven: whose session */
	enum session_state state;
	bool probes;			/* the other agent knows PROBE and RATE */
	bool dead, retired;		/* retired: another session has taken over; still read for 1 s */
	struct secure sec;
	uint8_t host[16];		/* the other's, from its KX */
	uint16_t port;
	uint8_t family, addr[16];	/* where it was reached */
	uint8_t self_family, self[16];	/* our address there */
	uint8_t *in, *out;
	uint32_t in_n, out_at, out_n, out_cap;
	uint64_t began, proven, heard, asked;	/* asked: when something was sent that wants an answer, 0: nothing open */
	uint64_t ping_nonce, ping_sent;
	uint32_t unanswered, rtt_us;
	bool rapid;			/* the network changed: ping now */
	struct haddr addrs[SESSION_ADDRS];
	uint32_t naddrs;
};

/* NULL: *err says why. */
struct session *session_dial(struct peer *p, uint8_t family, const uint8_t addr[16], uint16_t port, int *err);
/* A stranger's connection whose first message was this KX; takes fd. */
void session_accepted(int fd, const uint8_t kx[KX_LEN]);
void session_send(struct session *s, const struct msg *m);
/* A message with a MAC of somebody else's, or one with something behind it. */
void session_send_raw(struct session *s, const uint8_t *buf, size_t n, const uint8_t *more, size_t nmore);
/* Bytes that wait to be sent. */
uint32_t session_backlog(const struct session *s);
/* why: for the log and the peer's last error; NULL: nothing worth a line. */
void session_kill(struct session *s, const char *why);
void session_retire(struct session *s);
/* Somebody waits for an answer from there: make sure that it is alive. */
void session_expect(struct session *s);
/* The network changed: ping at once; end it if our address is gone. */
void session_check(struct session *s);
void session_pong(struct session *s, const struct msg *m);
void session_free_all(void);
struct place;
void session_addr(struct session *s, const struct msg *m);	/* ADDR came */
void session_place(const struct session *s, struct place *at);
bool session_has_addr(const struct session *s, uint8_t family, const uint8_t addr[16]);

#endif
