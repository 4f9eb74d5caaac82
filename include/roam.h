/*
 * roam.h: for programs that want to know what becomes of their connections.
 *
 * Nothing of this is needed: a re-linked program is persistent without a line
 * of it.  And nothing of it needs roam: every function is a weak symbol, so a
 * program that includes this file also links and runs without the library.
 * Then the functions are not there, and must not be called:
 *
 *	if (roam_linked())
 *		roam_stats(fd, &st, sizeof(st));
 *
 * Every function may be called from any thread, and from several at once.
 * None of them blocks, but for roam_policy, which says when.  None is
 * async-signal-safe.  Unless it says otherwise a function returns 0, or -1 with
 * errno; EBADF: fd is not open; ENOTSOCK: it is no TCP socket that the library
 * stands behind (another kind of descriptor, one that was made where the
 * library does not see it, or one that it has given up, as by fdopen).
 *
 * Structures grow at their end.  The caller says how large its own is; what the
 * library does not know is 0 in it.  The manual is roam(3).
 */
#ifndef ROAM_H
#define ROAM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Of this file.  It grows by one when something is added; nothing is taken away. */
#define ROAM_API_VERSION 1

#ifndef ROAM_API
#define ROAM_API __attribute__((weak))
#endif

/* The ROAM_API_VERSION that the linked library has. */
ROAM_API int roam_version(void);

/* Is the library in this program, and does it know all of this file? */
static inline int roam_linked(void)
{
	return roam_version && roam_version() >= ROAM_API_VERSION;
}

/*
 * The program's own default for a setting: the name and the words are those of
 * the environment variable (ROAM, ROAM_DIR, ROAM_LINK, ROAM_SPIN, ROAM_CODEC,
 * ROAM_LOG, ROAM_DEADLINE, ROAM_PARK), and the environment goes before it.
 * EINVAL: no such name, or a value of 92 bytes or more; EBUSY: too late, the
 * settings have been read: call it before the first TCP socket is made.
 */
ROAM_API int roam_set(const char *name, const char *value);

/* ---- one connection */

#define ROAM_GID_SIZE 16

/*
 * Its global identity: the same at both ends, and after every move.
 * ENODATA: it has none, for it has never been persistent.
 */
ROAM_API int roam_gid(int fd, uint8_t gid[ROAM_GID_SIZE]);

/*
 * Why is it plain TCP?  0: it is persistent.  Otherwise a code of REASONS in
 * roam(7), such as 2 "young": it has had too few exchanges yet.
 * ENOTCONN: it is no connection (a listener, a new socket).
 */
ROAM_API int roam_reason(int fd);
/* A code as a word, and as an explanation; both are static, and there for any number. */
ROAM_API const char *roam_reason_word(int reason);
ROAM_API const char *roam_reason_text(int reason);

/* What carries it now. */
enum roam_link {
	ROAM_LINK_PLAIN = 0,		/* kernel TCP, not persistent */
	ROAM_LINK_TCP = 1,		/* persistent, over TCP */
	ROAM_LINK_RING = 2,		/* over memory shared with the peer */
	ROAM_LINK_THICK = 3,		/* by the agents; not built yet */
	ROAM_LINK_CODEC = 4		/* persistent, over TCP, compressed where that pays */
};

struct roam_stats {
	uint32_t size;			/* of this structure, in bytes: what the library filled in */
	uint8_t link;			/* enum roam_link */
	uint8_t broken;			/* 1: the link is gone or being left, a new one is being made */
	uint8_t acceptor;		/* 1: the end that accept() gave, 0: that called connect() */
	uint8_t remote;			/* 1: the other end is on another host, or was */
	int32_t reason;			/* as roam_reason */
	uint32_t resumes;		/* breaks that were mended */
	uint32_t moves;			/* moves to another kind of link, or another ring */
	uint32_t epoch;			/* incarnations of this end, from 1; 0: plain */
	uint64_t sent, received;	/* bytes of the application, since the connection began */
	/*
	 * Of those sent, bytes that have arrived: on TCP the kernel of the other end has
	 * acknowledged them, on a ring the program has read them.  Never too high.
	 */
	uint64_t delivered;
	uint64_t unread;		/* bytes that have arrived here, and were not read yet */
	uint64_t resent;		/* bytes sent again after breaks */
	uint64_t stall_ns;		/* how long it has stood still for breaks and moves, in all */
	uint64_t stall_max_ns;		/* the longest of them */
	uint64_t age_ns;		/* since it became persistent; 0: plain */
};

/*
 * Where it stands.  size is sizeof(struct roam_stats); EINVAL: smaller than that of version 1.
 * The numbers are read one by one while others send and receive: each is right,
 * but not all of one moment.  It makes a system call or two.
 */
ROAM_API int roam_stats(int fd, struct roam_stats *st, size_t size);

enum roam_what {
	ROAM_POLICY_PERSISTENT = 1,	/* may become persistent */
	ROAM_POLICY_RING = 2,		/* may go over shared memory, if the peer is on this host */
	ROAM_POLICY_CODEC = 3,		/* may be compressed, if the link is slow */
	ROAM_POLICY_THICK = 4		/* not supported yet */
};

/*
 * Allows (1, the default) or forbids (0) something to one socket.  Set on a
 * listener it holds for the connections that it gives from then on.
 *
 * Forbidding PERSISTENT makes a persistent connection plain TCP for good, at once; forbidding
 * RING makes a ring TCP again, CODEC a compressed link a bare one.  All go on without a break in the stream, and
 * wait until that is done: half a millisecond, or as long as a link is being
 * mended, 10 s at most.
 *
 * ENOTSUP: not supported by this library; EINVAL: no such policy or value;
 * EPERM: allowed, but the user has forbidden it (ROAM=off, ROAM_LINK=tcp, ROAM_CODEC=off);
 * EALREADY: persistence cannot be allowed any more, the connection has become plain for
 * good; ETIMEDOUT: the connection is still on its ring.
 */
ROAM_API int roam_policy(int fd, int what, int value);
/* 1 or 0, as set; -1/errno as above. */
ROAM_API int roam_policy_get(int fd, int what);

/* ---- events */

enum roam_event_kind {
	ROAM_EVENT_PERSISTENT = 1,	/* the connection has become persistent */
	ROAM_EVENT_PLAIN = 2,		/* it is plain TCP from now on, or has ended: reason */
	ROAM_EVENT_BROKEN = 3,		/* the link is gone; a new one is being made */
	ROAM_EVENT_MENDED = 4,		/* it goes on, on the link named: stall_ns (also without a BROKEN before) */
	ROAM_EVENT_LINK = 5,		/* it has moved to another link, unbroken: stall_ns */
	ROAM_EVENT_FROZEN = 6,		/* all connections stand still, the process may be moved; value: how many */
	ROAM_EVENT_THAWED = 7,		/* they go on; value 1: in another place */
	ROAM_EVENT_BANDWIDTH = 8	/* what the link can carry is known, or has changed by a quarter: value */
};

struct roam_event {
	uint32_t size;			/* of this structure, in bytes: what the library filled in */
	uint32_t kind;			/* enum roam_event_kind; skip those that you do not know */
	int32_t fd;			/* one of the connection's descriptors; -1: of the whole process */
	int32_t reason;			/* PLAIN: as roam_reason */
	uint8_t gid[ROAM_GID_SIZE];
	uint32_t link;			/* enum roam_link, from now on */
	uint32_t lost;			/* events before this one that found the queue full */
	uint64_t time_ns;		/* CLOCK_MONOTONIC */
	uint64_t stall_ns;		/* MENDED, LINK: how long the connection stood still */
	uint64_t value;			/* FROZEN: connections; THAWED: 1 in another place; BANDWIDTH: bytes a second, sending */
};

/*
 * A new descriptor for the events of this process, non-blocking and
 * close-on-exec: readable (poll, select, epoll) when there is one.  It queues some 200;
 * roam_event_read takes them out, close() ends it.  It is the program's, also by its number;
 * the library keeps another one, at the end of the descriptor limit.  A
 * forked child gets no events from its parent's: it opens its own.
 * EMFILE: 8 are open, or no descriptors are left.
 */
ROAM_API int roam_events(void);
/*
 * The next event: 1, or 0 when there is none now, or -1/errno.  size is sizeof(struct roam_event);
 * EINVAL: smaller than that of version 1, or efd is no descriptor of roam_events; EPIPE: it is
 * that of a parent that has ended.
 */
ROAM_API int roam_event_read(int efd, struct roam_event *ev, size_t size);

#ifdef __cplusplus
}
#endif

#endif
