/*
 * Parked connections: images that a stopping process leaves with its agent,
 * for the next instance of its program, here or at another agent.
 */
#ifndef ROAMD_PARKED_H
#define ROAMD_PARKED_H

#include "gid.h"
#include "local.h"
#include "session.h"

void parked_image(struct proc *p, const struct msg *m, int fd);
void parked_listen(struct proc *p, const struct msg *m);
void parked_proc_gone(struct proc *p);
/* The end is UP somewhere: its image is of no more use. */
void parked_taken(const struct gident *e, int role);
void parked_remote_image(struct session *s, const struct msg *m);
void parked_remote_chunk(struct session *s, const struct msg *m, const uint8_t *data, size_t n);
void parked_remote_listen(struct session *s, const struct msg *m);
void parked_remote_report(struct session *s, const struct msg *m);
void parked_session_up(struct session *s);
void parked_session_down(struct session *s);
void parked_drained(struct session *s);
uint32_t parked_count(void);
uint64_t parked_bytes(void);
void parked_stop(void);

#endif
