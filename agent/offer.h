/*
 * Offers: the opener's agent takes one to the acceptor's, which leaves it in
 * its directory as lib/meet.c would; HELLO, WELCOME and REFUSE go back and
 * forth by the offer's nonce.
 */
#ifndef ROAMD_OFFER_H
#define ROAMD_OFFER_H

#include "local.h"
#include "session.h"

struct peer;

void offer_local(struct proc *p, const struct msg *m, int fd);
void offer_hello(struct proc *p, const struct msg *m, int fd);
void offer_answer(struct proc *p, const struct msg *m, const uint8_t *buf, size_t n);
void offer_remote(struct session *s, const struct msg *m);
void offer_remote_hello(struct session *s, const struct msg *m);
/* False: not an offer's nonce. */
bool offer_remote_answer(struct session *s, const struct msg *m, const uint8_t *buf, size_t n);
void offer_proc_gone(struct proc *p);
void offer_session_up(struct session *s);
void offer_session_down(struct session *s);
void offer_peer_failed(struct peer *p);
void offer_peer_merged(struct peer *to, struct peer *from);
uint32_t offer_count(void);
void offer_stop(void);

#endif
