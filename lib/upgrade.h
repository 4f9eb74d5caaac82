/* Two libraries meet: a plain connection becomes live.  In the helper thread. */
#ifndef ROAM_UPGRADE_H
#define ROAM_UPGRADE_H

#include "helper.h"
#include "wire.h"

void upgrade_dial(struct vsock *v);		/* acceptor: an offer is there */
void upgrade_offered(struct vsock *v);		/* opener: an offer is out */
void upgrade_hello(struct chan *c, const struct msg *m);
void upgrade_forget(struct vsock *v);

/* Through the agents. */
void upgrade_hello_far(const struct msg *m);	/* the acceptor took our offer */
bool upgrade_answer_far(const struct msg *m);	/* WELCOME, REFUSE: true when it was about an offer */
void upgrade_offers_again(void);		/* the agent has been restarted */
/* Any thread: the connection with this offer is closed. */
void upgrade_withdraw_far(uint64_t nonce);
void upgrade_say_withdrawn(void);		/* and tells the agent so */

void upgrade_fork_child(void);

#endif
