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
struct vsock *mend_live_by_gid(const uint8_t *gid, enum ho_role role);
void mend_fork_child(void);
void mend_table_gone(void);	/* the helper's descriptors are void, and no longer its to close */

/* What the agent says (mend_where.c, mend_far.c). */
void mend_agent_up(void);
void mend_refused(const struct msg *m);
void mend_location(const struct msg *m);
void mend_fenced(const struct msg *m);
void mend_notice(const struct msg *m, const uint8_t *buf, size_t n);
void mend_request_far(const struct msg *m, const uint8_t *buf, size_t n, int *fds, int nfds);
/* Freezing (freeze.c); vs_fds_lock is held. */
void mend_freeze(struct vsock *v);
bool mend_frozen(struct vsock *v);
void mend_thaw(struct vsock *v, bool moved);
void mend_restored(struct vsock *v, bool moved);	/* without having been frozen */
void mend_far_event(struct vsock *v);		/* its new link can be read or written */

#endif
