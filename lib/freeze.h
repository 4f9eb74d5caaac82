/*
 * Freezing: every link of the process is drained and given up, and what the
 * process holds is all there is, so that a checkpointer may move it.  The file
 * f.PID.START in the rendezvous directory means "frozen"; when it is gone (thaw, or the
 * process woke up where it never was) the process goes on from where it is
 * now.  In the helper thread.
 */
#ifndef ROAM_FREEZE_H
#define ROAM_FREEZE_H

#include "vsock.h"

void freeze_begin(uint64_t nonce);
void freeze_to_park(void);	/* any thread: drain all, then park_complete() */
bool freezing(void);		/* links are to be drained, not mended */
/* Goes on with a freeze; while frozen it returns only when the process is thawed. */
void freeze_timers(uint64_t now, uint64_t *next);
/* Something woke us up that may be a restore: are we still where we were? */
void freeze_check_place(void);
void freeze_fork_child(void);

#endif
