/* What roamctl asks of this process, by way of the agent.  In the helper thread. */
#ifndef ROAM_COMMAND_H
#define ROAM_COMMAND_H

#include "wire.h"

void command(const struct msg *m);
/* Answers the agent (false: its queue is full); mem: a memfd or -1, closed here. */
bool command_report(uint64_t nonce, uint32_t reason, uint64_t count, int mem);

#endif
