#include "far.h"
#include "helper_int.h"
#include "link_tcp.h"
#include "sys.h"
#include "vring.h"
#include "vs_io.h"

#define MS UINT64_C(1000000)
#define TICK_MIN (100u * MS)		/* something is in flight */
#define TICK_MAX (3000u * MS)		/* nothing has been for a while */
/*
 * Retransmissions without an answer: the third is out some 0.6 s after the
 * first byte (200 ms, doubling).  A link that was only slow loses nothing by a
 * resume, so this may be early.
 */
#define SILENT_RTX 2
#define SILENT_MS 300u		/* one, and nothing heard for so long */
/*
 * The network has changed, and for longer than an acknowledgement can be delayed
 * (40 ms) there was none: the kernel would wait for its timer (200 ms and more).
 */
#define CHANGED_MS 50u

/* So many at a time: close and dup wait for the lock. */
#define PORTION 256u

/* After a change of the network it is looked at for a while: so long can an acknowledgement take. */
#define CHANGED_NS (150u * MS)
#define TICK_CHANGED (25u * MS)

static uint64_t due, tick = TICK_MIN, changed_until;
static bool changed, fresh;

/* True: bytes are under way. */
static bool look(struct vsock *v, uint64_t now)
{
	struct vstate *st = atomic_load(&v->st);
	struct link_silence s;
	bool flying = false;
	int fd;

	/* A near end's first link is as long as any other. */
	if (!st || !vs_by_agents(st) || vring_of(v) || atomic_load(&st->phase) & (PH_BITS & ~PH_CODED))
		return false;
	if (!replay_used(&st->replay) && !changed)
		return false;
	fd = helper_borrow(atomic_load(&v->fd));
	if (fd >= 0 && sys_sock_ino(fd) == st->link_ino && link_silence(fd, &s) == 0) {
		flying = s.unacked;
		if (s.state == LINK_ESTABLISHED || s.state == LINK_CLOSE_WAIT || s.state == LINK_FIN_WAIT1) {
			if (s.retransmits >= SILENT_RTX || (changed && s.retransmits) ||
			    (s.retransmits && s.quiet_ms > SILENT_MS + 4 * s.rtt_ms) ||
			    (changed && s.unacked && s.quiet_ms > CHANGED_MS + 4 * s.rtt_ms))
				vs_break(v, 0, "silent");
			else if (changed && !link_addr_here(fd))
				vs_break(v, 0, "address gone");
		}
		if (!flying && shlock_take(&st->tx, 0, false) == SHLOCK_OK) {
			vs_trim_locked(v, fd);
			shlock_drop(&st->tx);
			relax_soon(now);
		}
	}
	helper_close(fd);
	return flying;
}

void far_watch(uint64_t now, uint64_t *next)
{
	static bool flying;
	static uint32_t cursor;
	struct vsock *v;
	uint32_t i = 0;

	if (!atomic_load(&vs_remote_count))
		return;
	if (!due || due <= now || fresh) {
		shlock_take(&vs_fds_lock, -1, false);
		for (v = vs_live_head; v && i < cursor + PORTION; v = v->live_next)
			if (i++ >= cursor)
				flying |= look(v, now);
		shlock_drop(&vs_fds_lock);
		cursor = v ? i : 0;
		if (!cursor) {
			fresh = false;
			changed = now < changed_until;
			tick = changed ? TICK_CHANGED : flying ? TICK_MIN : tick * 2 > TICK_MAX ? TICK_MAX : tick * 2;
			flying = false;
		}
		due = now + (cursor ? MS : tick);
	}
	if (!*next || due < *next)
		*next = due;
}

void far_netchange(void)
{
	changed = fresh = true;
	changed_until = sys_now_ns() + CHANGED_NS;
}
