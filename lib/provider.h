/*
 * What the ring link asks of the hardware: one-sided writes into memory that
 * the other end has registered, with RDMA's semantics.
 *
 * Each end opens one region.  Only the peer writes to it, only its owner reads
 * it.  The other end's region is `out`: what we write there, and where it lies
 * at the same offset in ours, is the ring's business (ring.h).
 *
 *	we                                    the peer
 *	in  <----------- puts ------------    its out
 *	out ------------ puts ----------->    its in
 *
 * direct:  `out` IS the peer's memory (shm): plain stores arrive, and put,
 *	put_notify and progress are never called: the ring makes no call at all.
 * else:  `out` is registered memory of our own, a mirror that is put to the
 *	same offset of the peer's region.  The mirror stays as it is until the
 *	peer returns credit: it is the send buffer and the replay buffer at once.
 *
 * Order: all that was put before and with a put_notify is in the peer's memory
 * when the peer's progress() hands out its imm.  Nothing else is promised, but
 * that an aligned word arrives whole.  (Shm has more: release stores.)
 * docs/ring.md says for each call what it is in verbs.
 *
 * Every call is made below the caller's lock of that direction or, for open,
 * key, join and close, by one thread.  0 or -1/errno, unless it says otherwise.
 */
#ifndef ROAM_PROVIDER_H
#define ROAM_PROVIDER_H

#include "types.h"

struct prov;

#define PROV_SHM	1u
#define PROV_VERBS	2u

#define PROV_IMM	0x7fffffffu	/* what an imm may say */
#define PROV_POKE	0x80000000u	/* or this: an event, p->imm stays what it is */

#define PROV_BARRIER	1u	/* key flag: this end's process has joined sys_barrier */

struct prov_key {		/* all the other end must know; a message carries it */
	uint32_t kind, flags;
	uint64_t len;		/* of the region */
	uint64_t addr;		/* shm: offset in the file; verbs: its virtual address */
	uint32_t rkey, qpn;	/* verbs */
	uint8_t gid[16];
	int fd;			/* shm: the memfd, sent beside the message; -1 */
};

struct prov_ops {
	uint32_t kind;
	bool direct;
	/* Registers a zeroed region of len bytes: sets p->in (and p->out, if not direct). */
	int (*open)(struct prov *p, size_t len);
	/* k->fd stays the provider's, until join has succeeded or close. */
	int (*key)(struct prov *p, struct prov_key *k);
	/* The peer's key, which is hostile: EPROTO when it makes no sense. Takes k->fd over. */
	int (*join)(struct prov *p, const struct prov_key *k);
	/* Not direct: out[off, off + len) to the peer's region.  ECONNRESET: the link is dead. */
	int (*put)(struct prov *p, uint64_t off, size_t len);
	/* The same, and the peer's progress() learns of it; len may be 0. */
	int (*put_notify)(struct prov *p, uint64_t off, size_t len, uint32_t imm);
	/* Reaps completions of both kinds, the peer's last imm goes to p->imm; never blocks. */
	int (*progress)(struct prov *p);
	/*
	 * Sleeping.  direct: the word is one of our region that the peer stores to
	 * and then calls wake; wait sleeps while it is val.  Else: wait sleeps until
	 * there is a put_notify that progress() had not seen when arm() was called;
	 * event is a descriptor that is readable then, for whoever polls.  wait
	 * returns 0 or an errno (EAGAIN EINTR ETIMEDOUT), and may for no reason.
	 */
	void (*wake)(struct prov *p, uint64_t word);
	int (*arm)(struct prov *p);
	int (*event)(struct prov *p);
	int (*wait)(struct prov *p, uint64_t word, uint32_t val, int64_t tmo_ns);
	/* direct: a full fence on every CPU that runs a process of either end; NULL: cannot. */
	int (*barrier)(struct prov *p);
	void (*close)(struct prov *p);
};

struct prov {
	const struct prov_ops *ops;
	uint8_t *in, *out;
	size_t len;
	uint32_t imm;		/* not direct: the last the peer sent; the ring sets what it is before that */
	bool joined;		/* this process takes part in barriers */
	int fd;			/* shm: our memfd, -1 once it is not needed */
	void *priv;		/* verbs: queue pair, completion queues, channel */
};

extern const struct prov_ops prov_shm;

#endif
