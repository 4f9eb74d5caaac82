/* Two libraries meet: a plain connection becomes live.  In the helper thread. */
#ifndef ROAM_UPGRADE_H
#define ROAM_UPGRADE_H

#include "helper.h"
#include "wire.h"

void upgrade_dial(struct vsock *v);		/* acceptor: an offer is there */
void upgrade_offered(struct vsock *v);		/* opener: an offer is out */
void upgrade_hello(struct chan *c, const struct msg *m);
void upgrade_forget(struct vsock *v);

#endif
