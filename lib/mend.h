/* Making a live connection whole again, in the helper thread.  See mend.c. */
#ifndef ROAM_MEND_H
#define ROAM_MEND_H

#include "helper.h"
#include "wire.h"

void mend_poke(struct vsock *v);		/* WANT_MEND or WANT_FLUSH */
void mend_request(struct chan *c, const struct msg *m, const uint8_t *buf, size_t n,
		  int *fds, int nfds);		/* REQ came in; takes what it uses of fds */
void mend_pull(struct chan *c, const struct msg *m, const uint8_t *buf, size_t n);
/* Does what is due; the time of the next thing to do, 0 none. */
uint64_t mend_timers(uint64_t now);
void mend_given(struct vsock *v, int fd);	/* closed by the program, bytes to deliver */
void mend_forget(struct vsock *v);
void mend_proc_add(struct vsock *v);		/* tells the peer that this process speaks for the end */
void mend_fork_child(void);

#endif
