#include "freeze.h"
#include "agent.h"
#include "command.h"
#include "event.h"
#include "helper_int.h"
#include "log.h"
#include "meet.h"
#include "mend.h"
#include "park.h"
#include "sys.h"
#include "vs_io.h"
#include <errno.h>
#include <string.h>

#define FREEZE_NS UINT64_C(5000000000)
#define REPORT_TRIES 1000	/* ms */
#define NAP_US 10000u		/* while frozen: how soon a thaw is noticed */

static bool on;
static _Atomic bool to_park;
static uint64_t nonce, until;
static uint64_t here_net, here_time;	/* inodes of the namespaces we know to be in */

bool freezing(void)
{
	return on;
}

static bool marker(char *path, size_t n)
{
	const char *d = meet_dir();

	return d && snprintf(path, n, "%s/f.%d.%llu", d, sys_getpid(),
			     (unsigned long long)helper_start_time()) < (int)n;
}

static void begin(void);

void freeze_begin(uint64_t n)
{
	if (on) {
		command_report(n, REASON_BUSY, 0, -1);
		return;
	}
	log_info("freezing");
	nonce = n;
	begin();
}

void freeze_to_park(void)
{
	atomic_store(&to_park, true);
	helper_wake();
}

/* Every link is to be drained. */
static void begin(void)
{
	struct vsock *v;

	on = true;
	until = sys_now_ns() + FREEZE_NS;
	shlock_take(&vs_fds_lock, -1, false);
	for (v = vs_live_head; v; v = v->live_next) {
		vs_break(v, 0, "freeze");
		mend_freeze(v);
	}
	shlock_drop(&vs_fds_lock);
}

/* Connections that are quiet now; -1: not all are. */
static int64_t quiet(void)
{
	struct vsock *v;
	int64_t n = 0;

	shlock_take(&vs_fds_lock, -1, false);
	for (v = vs_live_head; v && n >= 0; v = v->live_next) {
		if (atomic_load(&atomic_load(&v->st)->phase) & PH_NOREP)
			continue;
		n = mend_frozen(v) ? n + 1 : -1;
	}
	shlock_drop(&vs_fds_lock);
	return n;
}

static void each(void (*fn)(struct vsock *v, bool moved), bool moved)
{
	struct vsock *v;

	shlock_take(&vs_fds_lock, -1, false);
	for (v = vs_live_head; v; v = v->live_next)
		fn(v, moved);
	shlock_drop(&vs_fds_lock);
}

/* Where are we now?  True: not where we were. */
static bool place_changed(void)
{
	uint64_t net = sys_netns(), tm = sys_timens();
	bool moved = here_net && (net != here_net || tm != here_time);

	if (here_net && tm != here_time) {
		log_info("restored from a checkpoint");
		helper_restored();
	}
	if (net != sys_own_netns() && sys_follow_netns() < 0)
		log_error("cannot follow the program into its network namespace: %s", strerror(errno));
	here_net = net;
	here_time = tm;
	return moved;
}

static void thaw(void)
{
	bool moved = place_changed();

	on = false;
	log_info("thawed%s", moved ? " in another place" : "");
	helper_open_again();
	event_say(NULL, ROAM_EVENT_THAWED, 0, moved);
	meet_moved();
	each(mend_thaw, moved);
	agent_want();
}

/* The process may be stopped, copied and started again anywhere in here. */
static void stay_frozen(void)
{
	char path[160], to[8];

	while (marker(path, sizeof(path)) && sys_readlink(path, to, sizeof(to)) > 0)
		sys_nap_us(NAP_US);
	thaw();
}

static void complete(int64_t n)
{
	char path[160], to[24];
	int i;

	snprintf(to, sizeof(to), "%llu", (unsigned long long)meet_netns());
	if (!marker(path, sizeof(path)) || (sys_symlink(to, path) < 0 && errno != EEXIST)) {
		log_error("freeze: cannot leave the mark in the rendezvous directory: %s", strerror(errno));
		command_report(nonce, REASON_DIR, 0, -1);
		on = false;
		each(mend_thaw, false);
		return;
	}
	log_info("frozen connections=%lld", (long long)n);
	event_say(NULL, ROAM_EVENT_FROZEN, 0, (uint64_t)n);
	/* With this word the agent keeps our ends' places when we hang up: it must arrive. */
	for (i = 0; i < REPORT_TRIES && !command_report(nonce, REASON_NONE, (uint64_t)n, -1); i++)
		sys_nap_us(1000);
	helper_close_all();
	stay_frozen();
}

void freeze_timers(uint64_t now, uint64_t *next)
{
	int64_t n;

	if (!here_net)
		place_changed();
	if (!on && atomic_load(&to_park))
		begin();
	if (!on)
		return;
	n = quiet();
	if (n >= 0 && atomic_load(&to_park)) {
		park_complete();
		on = false;
		atomic_store(&to_park, false);
		each(mend_thaw, false);
		return;
	}
	if (n >= 0) {
		complete(n);
		return;
	}
	if (now > until) {
		log_error("freeze: a thread does not leave its call: given up");
		command_report(nonce, REASON_BUSY, 0, -1);
		on = false;
		atomic_store(&to_park, false);
		each(mend_thaw, false);
		return;
	}
	if (!*next || *next > now + 1000000)
		*next = now + 1000000;
}

void freeze_check_place(void)
{
	/* Without our epoll set we are in another table, in whatever time namespace: else we would spin. */
	bool lost = errno == EBADF || errno == EINVAL;

	if (here_net && (lost || sys_timens() != here_time)) {
		log_info("restored from a checkpoint");
		helper_restored();
		here_time = sys_timens();
		/* Nobody told us: what was in the kernel's queues is lost. The count will tell. */
		each(mend_restored, true);
		thaw();
	}
}

void freeze_fork_child(void)
{
	on = false;
	atomic_store(&to_park, false);
	here_net = here_time = 0;
}
