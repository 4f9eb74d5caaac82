#include "parked.h"

void parked_image(struct proc *p, const struct msg *m, int fd) {}
void parked_listen(struct proc *p, const struct msg *m) {}
void parked_proc_gone(struct proc *p) {}
void parked_taken(const struct gident *e, int role) {}
void parked_remote_image(struct session *s, const struct msg *m) {}
void parked_remote_chunk(struct session *s, const struct msg *m, const uint8_t *data, size_t n) {}
void parked_remote_listen(struct session *s, const struct msg *m) {}
void parked_remote_report(struct session *s, const struct msg *m) {}
void parked_session_up(struct session *s) {}
void parked_session_down(struct session *s) {}
void parked_drained(struct session *s) {}
uint32_t parked_count(void) { return 0; }
uint64_t parked_bytes(void) { return 0; }
void parked_stop(void) {}
