/*
 * Virtual sockets.
 *
 * A vsock stands behind every TCP stream descriptor that this process made by
 * socket() or accept().  It begins *plain*: the kernel does everything, we
 * count.  Once the two libraries have met (meet.c) it is *live*: sent bytes
 * are kept in a replay buffer, and a broken link is mended (mend.c).
 *
 * Three kinds of memory
 *	struct vsock	private to the process; type-stable: never unmapped, so a
 *			thread that lost a race against close() reads stale, not
 *			foreign, memory
 *	struct vstate	shared with forked children: locks, offsets, replay
 *			buffer; trusted
 *	struct pair	memfd, shared with the peer: who to ask, final offsets;
 *			hostile: every field is read once and checked
 *
 * Phases (a word in vstate).  The fast path is right when the word equals the
 * process's own phase_ok: no bit set, and the generation that its descriptors
 * refer to.
 *	MEND	the link is broken, a new one is being made
 *	UNSENT	the replay buffer holds bytes the new link has not taken yet
 *	NOREP	given up: the kernel's socket is all there is
 *	CODED	the link carries blocks of the codec stage (coding.h)
 *
 * Lock order:  vs_fds_lock -> sets_lock -> epset.lock -> vstate.tx -> vstate.rx -> vstate.mx;
 * regs_lock is innermost.
 * vstate.tx is held over a blocking send in the kernel; nobody holding another
 * lock may wait for it without limit.
 */
#ifndef ROAM_VSOCK_H
#define ROAM_VSOCK_H

#include "fdtab.h"
#include "handover.h"
#include "reason.h"
#include "replay.h"
#include "ring.h"
#include "shlock.h"
#include "spin.h"

#define PH_MEND		1u
#define PH_UNSENT	2u
#define PH_NOREP	4u
#define PH_CODED	8u
#define PH_BITS		15u
#define PH_GEN		16u	/* the rest of the word is the link's generation */

struct tuple {			/* a connection's ends, as both sides see them */
	uint8_t family;		/* 4 or 6; mapped addresses count as 4 */
	uint16_t oport, aport;
	uint8_t oaddr[16], aaddr[16];
};

#define NPROC		8	/* processes that can share one live connection */

/*
 * Users and bytes in one word, so that leaving a receive is one instruction:
 * the low 16 bits count threads inside, the upper 48 the bytes they took.
 */
#define RX_BYTES(w)	((w) >> 16)
#define RX_USERS(w)	((w) & 0xffff)
#define RX_MASK		((UINT64_C(1) << 48) - 1)

struct vslot {
	_Atomic uint32_t pid;
	_Atomic uint32_t pad;
	_Atomic uint64_t start;
	_Atomic uint64_t rx;
};

struct names {			/* what getsockname and getpeername said first */
	struct sockaddr_storage self, peer;
	socklen_t self_len, peer_len;
};

struct pair_side {
	_Atomic uint64_t fin;		/* final offset, PAIR_NO_FIN: not ended */
	_Atomic uint32_t closed;	/* PAIR_CLOSED...: closed, or plain again: believe the kernel */
	_Atomic uint32_t forked;	/* others may speak for it soon */
	_Atomic uint32_t family;	/* 4 or 6: what the end's sockets are */
	_Atomic uint32_t ring;		/* PAIR_RING_...: what the end thinks of a ring */
	_Atomic uint64_t first;		/* where its stream was when it went live: what is before cannot be sent again */
	struct { _Atomic uint32_t pid, pad; _Atomic uint64_t start; } proc[NPROC];
};
#define PAIR_NO_FIN	UINT64_MAX
#define PAIR_FIN_SOON	(UINT64_MAX - 1)	/* ended; a sender still counts */
#define PAIR_CLOSED	1u
#define PAIR_CLOSED_CLEAN 2u		/* the other stream had ended and was read: no reset is ours */
#define PAIR_CLOSED_RESET 3u		/* closed by a reset (SO_LINGER, connect to AF_UNSPEC), whatever was read */
#define PAIR_RING_NO	0u
#define PAIR_RING_MAY	1u		/* may be asked to move to one */
#define PAIR_RING_NOW	2u		/* is about to ask for one */
#define PAIR_RING_LEAVE	3u		/* is about to ask for TCP again */
#define PAIR_RING_CODEC	5u		/* is about to ask for a coded link, or for a bare one again */
#define PAIR_RING_FOLLOW 4u		/* leaves the link as well: what it acknowledges is not what it has */
#define PAIR_MAGIC	0x726d6131u
#define PAIR_SIZE	4096u
struct pair {
	uint32_t magic, pad;
	struct pair_side side[2];	/* by enum ho_role */
};

struct place {			/* an agent */
	uint8_t host[16];
	uint8_t family;			/* 4 or 6; 0: not known */
	uint16_t port;
	uint8_t addr[16];
};

#define REPLAY_AT	4096u		/* replay memory begins here in the mapping */
#define REPLAY_MIN	4096u
#define CODE_ASKED	UINT16_MAX
#define REPLAY_SOFT	(128u << 10)	/* the ring's size in the steady state; see vs_tx.c, keep() */
#define REPLAY_ASK	(64u << 10)	/* so often the kernel is asked what may go (~240 ns) */
#define REPLAY_MAX	(16u << 20)
#define CODING_AT	(REPLAY_AT + REPLAY_MAX)	/* and the codec stage's memory behind it */
#define CODING_MAX	(1u << 20)
#define VSTATE_SIZE	(CODING_AT + CODING_MAX)

struct vstate {
	/* line 0: senders */
	shlock tx;
	_Atomic uint8_t shut_wr, shut_rd;	/* the application shut that side */
	struct replay replay;
	uint32_t untrimmed;		/* bytes kept since the kernel was last asked */
	uint64_t tx_sent;		/* offset given to the kernel so far; < replay.end only if UNSENT or MEND */
	_Atomic uint64_t trim_limit;
	/* line 1: everybody reads, few write */
	_Alignas(64) _Atomic uint32_t phase;
	_Atomic uint32_t reason;	/* of NOREP */
	_Atomic int32_t pending_err;	/* the errno the link died with, to be told once */
	_Atomic uint32_t shared;	/* more than one process has had it */
	_Atomic uint32_t judged;	/* the end of the stream is real */
	_Atomic uint32_t lead;		/* slot + 1 of the process that mends */
	_Atomic uint64_t owed;		/* so far the stream had arrived when the last link was left; 0: nothing is owed */
	_Atomic uint64_t broke_ns;	/* when the break was noticed */
	/* receivers, a line per process */
	struct { _Alignas(64) struct vslot s; } slot[NPROC];
	/* below mx */
	_Alignas(64) shlock mx;
	uint32_t link_syn;		/* the link's SYN counts as one acknowledged byte */
	uint64_t link_tx;		/* offset of the link's first sent byte */
	uint64_t link_rx;		/* offset of the link's first received byte */
	uint64_t ino;			/* fstat's st_ino of the first kernel socket */
	uint64_t link_ino;		/* and of the present one */
	uint64_t relaxed_end;		/* nothing was sent since the replay memory was given back */
	struct handover ho;
	struct names names;
	/* what the listing shows */
	uint64_t live_ns, resent, stall_ns, stall_max_ns;
	uint32_t resumes, moves;
	/* The other end is on another host, or was: the two meet through their agents. */
	_Atomic uint8_t remote;
	_Atomic bool near;		/* they met so, but are on one host (near.h) */
	_Atomic bool silent_end;	/* ended in good order, but it was us who shut the socket */
	_Atomic bool broke_end;		/* the link ended without an error: perhaps in good order */
	bool moved;			/* we were elsewhere before, and the agents do not know yet */
	struct place where;		/* the other end's agent, last known */
	struct pair own_pair;		/* instead of a page shared with the peer */
	/* The ring (vring.h), while the link is one. */
	_Atomic bool ring_tx;		/* ring.tail is where our stream ends (below tx) */
	_Atomic bool ring_rx;		/* ring.rx_head is what was consumed, not the counters (below rx) */
	_Atomic bool ring_want;		/* the next link shall be a ring, if the peer wants */
	_Atomic bool ring_never;	/* the application does what a ring cannot carry */
	_Atomic bool code_want;		/* the next link shall be coded, if the peer agrees */
	_Atomic uint16_t code_ratio;	/* coded/raw, 1/1024, as a sender saw it; or CODE_ASKED, 0: see adapt.c */
	_Atomic uint8_t code_level;	/* of our direction, as decided; 0: stored */
	_Atomic uint64_t code_rate;	/* bytes a second that the link is worth; 0 not known */
	_Atomic bool code_never;	/* the application does what a coded link cannot carry */
	uint32_t notsent;		/* TCP_NOTSENT_LOWAT as the application set it, while the link is coded */
	_Atomic bool nonblock;		/* O_NONBLOCK of the open file, as last set through us */
	_Atomic bool nodelay;		/* TCP_NODELAY as the application set it; doorbells always have it */
	uint32_t ring_size;		/* the next ring is to have at least this */
	_Atomic uint64_t to_nobody;	/* bytes sent since the peer said that it closed (below tx) */
	uint64_t first;			/* what was sent before it cannot be sent again */
	_Atomic bool moving;		/* the link is left for another kind, it is not broken */
	_Alignas(64) shlock rx;		/* receivers on the ring */
	struct ring_end ring;
};
_Static_assert(sizeof(struct vstate) <= REPLAY_AT, "the head must fit before the replay memory");

enum vs_kind { VS_FRESH, VS_LISTEN, VS_CONN };
enum vs_mode { VS_PLAIN, VS_SWITCHING, VS_LIVE, VS_GONE };

struct epreg {			/* one descriptor in one epoll set, as the application asked */
	struct epset *set;
	struct vsock *v;
	int fd;
	uint32_t events;
	uint64_t data;
	bool out;		/* taken out of the kernel's set while the link is mended */
	bool rearm;		/* an event of a ONESHOT was kept from the application */
	/* On a ring (ep_ring.c). */
	bool over;		/* the kernel only wakes us; readiness is told by the ring */
	bool waits_in, waits_out;	/* armed (vring_arm) */
	bool hot, fired;	/* in the set's list; a ONESHOT that has fired */
	bool ghost;		/* taken out by the application, still the kernel's: it may come back */
	uint32_t native;	/* what the kernel said of the base link */
	uint32_t full_seen;	/* ET: v->full when EPOLLOUT was told last */
	uint32_t told;		/* ET: level events that were told */
	uint64_t tail_seen;	/* ET: the tail that was told */
	struct vring *vr;	/* the ring it was put on, and where its two ends are told */
	_Atomic uint64_t *tailp, *headp;
	uint32_t idle;		/* looks since it was ready */
	uint64_t last;		/* tick of that */
	struct epreg *next_v, *next_set, *next_hot;
};

struct mend;

struct vsock {
	/* line 0: what the fast path reads */
	_Atomic(_Atomic uint64_t *) rxc;	/* receive counter in use */
	_Atomic(_Atomic uint32_t *) phasep;	/* phase word in use */
	_Atomic uint32_t phase_ok;		/* what it must be for the fast path */
	_Atomic(struct vstate *) st;
	_Atomic uint8_t mode, kind;
	uint8_t role, family;
	_Atomic uint8_t never;				/* reason not to upgrade, 0: may */
	_Atomic uint32_t ops, next_try;		/* calls so far (listener: connections) */
	_Atomic(struct vring *) ring;		/* this process's view of the ring; NULL: the link is TCP */
	struct spin tcp_spin;			/* of receivers on TCP, if they spin */
	_Atomic uint32_t until_ring;		/* live: sends left before a ring pays */
	/* line 1: counters of the plain time */
	_Alignas(64) _Atomic uint64_t rx0;
	_Atomic uint32_t tx0;
	_Atomic uint32_t inside;		/* threads in the slow paths, which look at st */
	_Atomic uint32_t pollers;		/* threads in the kernel's poll with it */
	_Atomic uint32_t lookers;		/* threads that look at the ring, or sleep on it, without a lock */
	_Atomic bool belled;			/* the same, for the helper */
	_Atomic bool rang;			/* a doorbell was sent since the base was last looked at */
	_Atomic uint32_t full;			/* sends that found the ring full */
	_Atomic uint32_t waits[2];		/* by ring_dir: those armed for a doorbell, in poll or in an epoll set */
	_Atomic uint32_t nfd;
	_Atomic int fd;				/* one of its descriptors */
	_Atomic uint32_t free_next;		/* free list */
	uint32_t index;
	_Atomic uint32_t birth;			/* counts the connections this memory has stood for */
	int slot, child_slot;
	struct pair *_Atomic pair;
	struct epreg *regs;
	uint32_t marked_pid;			/* listener: who left the marker */
	struct tuple tuple;			/* once it was looked at for an upgrade */
	_Atomic uint64_t offer_nonce;			/* our offer that is out (acceptor: that we took), 0 none */
	_Atomic uint8_t no_ring;			/* NO_RING_...: a ring cannot do what the application set, or may not be */
	_Atomic bool barred, no_codec;			/* roam_policy: it stays, or becomes, plain; is not compressed */
	_Atomic bool offer_far;				/* it goes through the agents */
	_Atomic uint8_t why_far;			/* what they said */
	/* the helper's */
	_Atomic uint32_t want;
	_Atomic(struct vsock *) qnext;
	struct vsock *live_next, *live_prev, *gid_next;
	struct mend *mend;
	_Atomic bool rated;			/* watched (adapt.h), or about to be */
	bool far_counted;			/* in vs_remote_count */
	uint32_t owned;				/* the connection to the agent that knows of it */
	/* Who speaks for the other end: seen, not what the pair page says by now (peers.h). */
	struct { uint32_t pid; bool proved; uint64_t start; } peer[NPROC];
	struct parked *parked;			/* what it goes on from, until the helper has taken it */
	_Atomic bool orphan;				/* closed by the application, not yet delivered */
};

/* vsock.no_ring */
#define NO_RING_SET	1u	/* something that only the kernel does */
#define NO_RING_POLICY	2u	/* roam_policy */

/* vsock.want */
#define WANT_MEET	1u	/* the offer was found: dial the opener */
#define WANT_OFFERED	2u	/* our offer is out: expect a HELLO */
#define WANT_MEND	4u
#define WANT_FLUSH	8u
#define WANT_REAP	16u
#define WANT_NOTICE	64u	/* tell the other host where our stream ends */
#define WANT_UNPARK	128u	/* a listener: ask for parked connections */
#define WANT_RATE	256u	/* it sends: watch it */
#define WANT_BELL	512u	/* a doorbell was rung: see that it arrives */
#define WANT_BUSY	32u	/* the helper is at it: not to be given back */

extern _Atomic uint32_t vs_live_count;	/* live vsocks in this process */
extern _Atomic uint8_t vs_plain_reason;	/* why new ones stay plain, 0: they need not */
extern _Atomic uint32_t vs_ring_count;	/* those on a ring */
extern _Atomic uint32_t vs_remote_count;	/* those whose other end is on another host (at most) */
extern shlock vs_fds_lock;
extern struct vsock *vs_live_head;	/* under vs_fds_lock */

struct vsock *vs_new(int fd, int family, enum vs_kind kind);	/* NULL: no memory, stays foreign */
/* The application's descriptors; v may be NULL.  vs_forget is to be called before the kernel's close. */
void vs_dup(struct vsock *v, int to);
void vs_forget(int fd);
/* fd passes out of our sight: foreign from now on, the kernel's socket stays as it is. */
void vs_abandon(int fd);
struct vsock *vs_by_gid(const uint8_t *gid, enum ho_role role);	/* vs_fds_lock is held */
/* Those whose gid begins with these bytes, and others; by gid_next. */
struct vsock *vs_gid_chain(uint16_t first_two);
/* Counting every visible receive, modulo 2^48. */
uint64_t vs_rx_count(struct vsock *v);
/* Offsets of the next byte to consume and to send, whatever the link. The first modulo 2^48. */
uint64_t vs_rx_off(struct vsock *v);
uint64_t vs_tx_off(struct vstate *st);
bool vs_rx_busy(struct vsock *v);
void vs_phase(struct vstate *st, uint32_t set, uint32_t clear);	/* and wakes the waiters */
void vs_phase_next(struct vstate *st, uint32_t set, uint32_t clear);	/* the next link's generation, too */

static inline bool vs_live_now(struct vsock *v)
{
	return atomic_load(&v->mode) == VS_LIVE && atomic_load(&v->st);
}

static inline uint32_t vs_gen(struct vstate *st)
{
	return atomic_load(&st->phase) / PH_GEN;
}

/* Is the link broken, or is the new one not yet under this process's descriptors? */
static inline bool vs_mending(struct vsock *v)
{
	uint32_t p = atomic_load(atomic_load(&v->phasep));

	return !(p & PH_NOREP) && (p & ~(PH_UNSENT | PH_CODED)) != atomic_load(&v->phase_ok);
}
/* Does the link carry blocks of the codec stage? */
static inline bool vs_coded(struct vsock *v)
{
	return unlikely(atomic_load_explicit(atomic_load_explicit(&v->phasep, memory_order_acquire),
					     memory_order_acquire) & PH_CODED);
}

void vs_demote(struct vsock *v, uint32_t reason);	/* healthy link: plain from now on */
void vs_log_id(const struct vsock *v, char out[9]);
/* Makes it live; the caller has excluded senders (mode SWITCHING). pair NULL: the peer is on another host. */
int vs_go_live(struct vsock *v, int fd, enum ho_role role, const uint8_t *gid, const uint8_t *key,
	       struct pair *pair);
/*
 * v becomes a connection that lives on, without a link; vs_fds_lock is held.
 * Names and replay buffer (empty, from tx_base) are the caller's to fill in. NULL: no memory.
 */
struct vstate *vs_revive(struct vsock *v, int fd, const struct handover *ho, uint64_t tx_base);
void vs_end(struct vsock *v);	/* the last descriptor is gone; vs_fds_lock is held */
void vs_reap(struct vsock *v);
bool vs_last_sharer(struct vsock *v, struct vstate *st);
void vs_claim_slot(struct vsock *v);
void vs_reserve_slot(struct vsock *v);	/* fork: for the child, before the parent can close */
void vs_announce_fin(struct vsock *v, bool closed);
/* The end that comes is a reset, and that is meant. */
void vs_reset_meant(struct vsock *v);
/* The two ends meet through their agents from now on. */
void vs_set_remote(struct vsock *v);
/* The agents carry word of its end (NOTICE). */
static inline bool vs_by_agents(struct vstate *st)
{
	return atomic_load(&st->remote) || atomic_load(&st->near);
}
/* The peer's side of the pair page says that its stream ends exactly where this link stands. */
bool vs_fin_announced(struct vsock *v, struct vstate *st, int fd);
void vs_fork_child(void);
void vs_exec(bool before);	/* exec is about to be tried; it failed */
void vs_fork_plain(struct vsock *v);

#endif
