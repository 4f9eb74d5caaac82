/*
 * How fast the ways to other hosts are: put together from trains (probe.c) and
 * from what processes and other agents report, and told to the processes that
 * have connections there.
 */
#ifndef ROAMD_RATES_H
#define ROAMD_RATES_H

#include "local.h"
#include "peer.h"
#include <stdio.h>

void rates_measured(struct peer *p, bool out, const struct train_seen *s, uint32_t rtt_us);
/* RATE from a process, about one of its connections; from an agent, about its way to us. */
void rates_report(struct proc *p, const struct msg *m);
void rates_remote(struct session *s, const struct msg *m);
/* The end `role` is AWAY: who has the other end hears of the way there. One process, or all of them (NULL). */
void rates_place(struct proc *p, const struct gident *e, int role);
/* Another way leads to that host now. */
void rates_forget(struct peer *p);
void rates_print(FILE *f, const struct peer *p);

#endif
