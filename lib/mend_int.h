/* The attempt to mend one connection, between the files that make up mend.h's functions. */
#ifndef ROAM_MEND_INT_H
#define ROAM_MEND_INT_H

#include "agent.h"
#include "conf.h"
#include "inband.h"
#include "link_tcp.h"
#include "log.h"
#include "mend.h"
#include "sys.h"
#include "vring.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

enum mend_state { M_IDLE, M_DIAL, M_QUERY, M_CONNECT, M_QUIET, M_ASKED, M_CONFIRM, M_FLUSH, M_FOLLOW, M_FROZEN };

#define MS UINT64_C(1000000)
#define ASK_NS		(1000u * MS)	/* the other helper answers within this, or is asked again */
#define ACCEPTOR_NS	(3u * MS)	/* the opener asks first; we only if it does not */
#define NOTICE_NS	(3u * MS)	/* the word that a stream has ended takes two agents' way */
#define QUIET_NS	(2000u * MS)	/* a thread that does not leave (longjmp) ends the connection */
#define GRACE_NS	(1000u * MS)	/* a forked sharer may still come forward */
#define FAR_NS		(2000u * MS)	/* without progress on a new link to another host */
#define CONNECT_NS	(300u * MS)	/* the agents have just said that the way is open */
#define QUERY_NS	(10000u * MS)	/* the agent answers when it can; if it is lost we ask the next one */
#define LOST_NS		(5000u * MS)	/* nobody has heard of the other end: it is gone */
#define BACKOFF_MAX	(200u * MS)

struct mend {
	struct vsock *v;
	struct mend *next;
	enum mend_state state;
	uint64_t due;			/* 0: nothing to do on time */
	uint64_t since, quiet_since;
	uint64_t backoff;
	bool shut, fin_ours;		/* we shut the old link; it could still send a FIN */
	/*
	 * The present link in the helper's own table: borrowed from the program
	 * while it is looked at, or not yet installed there, or not yet flushed.
	 */
	int own;
	uint64_t held;			/* a coded link: too little for a block waits until then, 0 nothing does */
	bool untold;			/* the program's queue was full */
	uint32_t told;			/* follower: the generation that was passed on */
	bool fin_theirs;		/* the kernel had seen the other end's */
	struct chan *chan;		/* where we asked */
	int cand;			/* our end of the link offered there */
	struct chan *in_chan;		/* where we were asked */
	int in_link, in_mem, in_ring;
	struct vring *ring;		/* our half of the one that is being made */
	bool coded;			/* the link that is being made carries blocks */
	struct msg in;			/* its MAC was right; type 0: answered */
	uint8_t *unread;		/* of the link being left */
	size_t nunread;
	/*
	 * What we gave back with an OK that may not have arrived: the other end
	 * has it for sure only after DONE.  From offset kept_off.
	 */
	uint8_t *kept;
	uint64_t kept_off;
	size_t nkept;
	/* The other end is on another host (mend_far.c). */
	struct inband ask, ans;		/* the new link we made, and the one that came */
	bool ans_ready;			/* the unread bytes behind its REQ are all here */
	struct ho_plan plan;		/* M_CONFIRM: what we committed to */
	uint64_t query;			/* nonce of the QUERY that is out, 0 none */
	uint64_t lost_since;		/* nobody knows where it is, since */
};

/* mend.c: the attempt's state. */
struct mend *mend_of(struct vsock *v);		/* NULL: no memory */
struct vstate *mend_state_of(struct mend *m);
int mend_own_fd(struct mend *m);		/* -1: closed past us */
void mend_drop_own(struct mend *m);
void mend_settle(struct mend *m);
void mend_tell(struct mend *m, int link);
void mend_drop_ask(struct mend *m);
void mend_drop_in(struct mend *m);
void mend_drop_ring(struct mend *m);
void mend_drop_unread(struct mend *m);
void mend_drop_kept(struct mend *m);
void mend_drop_lead(struct mend *m);
void mend_rest(struct mend *m);
bool mend_lead(struct mend *m);
void mend_give_up(struct mend *m, uint32_t reason, int err);
void mend_too_late(struct mend *m);		/* the deadline: ETIMEDOUT */
void mend_again(struct mend *m, uint64_t wait);	/* 0: the backoff's */

/* mend_link.c: what the old link carried, and the new one. */
int mend_quiet(struct mend *m);			/* 1 quiet and counted, 0 not yet, -1 given up */
/* Puts back what the peer gives back. False: it does not fit or fails; the tx lock is not held. */
bool mend_put_back_fd(struct mend *m, const struct ho_plan *plan, int mem);	/* false: given up */
bool mend_put_back(struct mend *m, const struct ho_plan *plan, const uint8_t *p, size_t size);
/*
 * The link is ours: to the helper's copy, the stream and the program. sent, received:
 * bytes that it carried before the stream. link is consumed.
 */
void mend_adopt(struct mend *m, int link, bool syn, const struct ho_plan *plan, uint64_t sent, uint64_t received);

/* mend_ask.c, mend_answer.c, mend_share.c */
int mend_unread_memfd(struct mend *m);		/* -1: nothing unread, or no memory */
void mend_say_codec(struct mend *m, struct msg *req);
void mend_answer_codec(struct mend *m, struct msg *ok);
void mend_dial(struct mend *m);
bool mend_dial_near(struct mend *m);		/* false: its process is not to be had on this host */
void mend_ask(struct mend *m);
void mend_answer(struct mend *m);
void mend_follow(struct mend *m);
void mend_say_refuse(struct chan *c, const struct msg *m, uint32_t reason);
void mend_say_no(struct chan *c, const struct msg *m, struct vstate *st, uint32_t reason);
/* The link was not broken after all: its end was announced just now. */
void mend_cancel(struct mend *m);

/* mend_where.c */
void mend_query(struct mend *m);
bool mend_fin_seen(struct mend *m);		/* on the link being left */
int mend_last_word(struct mend *m);		/* errno for the program when the other end is no more */
/* Nobody who was asked knows it (sure), or nobody can be asked. */
void mend_lost(struct mend *m, bool sure);

/* mend_far.c */
void mend_connect(struct mend *m);		/* to the agent where the other end is */
void mend_far_stop(struct mend *m);		/* leaves M_CONFIRM, one way or the other */
void mend_far_step(struct mend *m);		/* M_QUERY, M_CONNECT, M_ASKED, M_CONFIRM are due */
void mend_ask_far(struct mend *m);
void mend_commit_far(struct mend *m, const struct ho_plan *plan, const struct msg *ok);
void mend_drop_far_ask(struct mend *m);
void mend_drop_far_in(struct mend *m);
void mend_no_far(struct mend *m, const struct msg *no);

#endif
