#include "command.h"
#include "reason.h"

void command_ask(struct proc *ctl, const struct msg *m) { local_refuse(ctl, m->nonce, REASON_DENIED); }
void command_gone(struct proc *ctl) {}
void command_report(struct proc *p, const struct msg *m, int fd) {}
void command_proc_gone(struct proc *p) {}
