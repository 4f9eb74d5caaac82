/*
 * roamctl's commands: passed on to the processes they are for, whose reports
 * are collected and made one answer.
 */
#ifndef ROAMD_COMMAND_H
#define ROAMD_COMMAND_H

#include "local.h"

/* From a roamctl. */
void command_ask(struct proc *ctl, const struct msg *m);
void command_gone(struct proc *ctl);
/* From a process. */
void command_report(struct proc *p, const struct msg *m, int fd);
void command_proc_gone(struct proc *p);

#endif
