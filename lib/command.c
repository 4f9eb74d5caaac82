#include "command.h"
#include "agent.h"
#include "far.h"
#include "freeze.h"
#include "list.h"
#include "log.h"
#include "park.h"
#include "reason.h"
#include "sys.h"

bool command_report(uint64_t nonce, uint32_t reason, uint64_t count, int mem)
{
	struct msg m = { .type = MSG_REPORT, .nonce = nonce, .reason = reason, .count = count,
			 .pid = (uint32_t)sys_getpid() };

	bool ok = agent_send(&m, NULL, mem) == 0;

	helper_close(mem);
	return ok;
}

static void list(uint64_t nonce)
{
	uint64_t n = 0;
	int mem = list_memfd(&n);

	command_report(nonce, mem < 0 && n ? REASON_MEMORY : REASON_NONE, n, mem);
}

void command(const struct msg *m)
{
	switch (m->op) {
	case CMD_FREEZE:
		freeze_begin(m->nonce);
		break;
	case CMD_LIST:
		list(m->nonce);
		break;
	case CMD_PARK:
		park_command(m->nonce);
		break;
	case CMD_NETCHANGE:
		far_netchange();
		break;
	default:
		log_debug("agent: command %u is not known here", m->op);
		command_report(m->nonce, REASON_VERSION, 0, -1);
	}
}
