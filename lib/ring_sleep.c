/*
 * Sleeping on a ring, and why no wake-up is lost.
 *
 * A receiver that finds nothing says in rx_state how it will sleep,
 * looks once more, and sleeps.  A sender stores the tail, then looks at
 * rx_state.  Dekker: each stores its word and then reads the other's, so one
 * of them sees the other's store, if between store and read of both there is a
 * full fence:
 *
 *	receiver:  rx_state = asleep;  FENCE;  tail?  -> sleep
 *	sender:    tail = new;         FENCE;  rx_state?  -> ring
 *
 * The sender's fence waits until the tail's line has come back from the
 * receiver, who is reading it: 50 ns and more for each message.  So it is
 * left out while the receiver says RING_LIGHT.  A receiver that wants to sleep
 * takes that word back and then pays for both: prov->barrier() (membarrier)
 * is a full fence on every CPU that runs a sender.  A sender that was before
 * that point has its tail out, and the receiver's look finds it; one that is
 * after it reads rx_state without LIGHT, fences, and reads again.  From then on
 * sleeps cost the receiver only a fence of its own, until it has not slept for
 * RING_CALM receives.  So neither a stream nor a conversation of sleepers pays
 * for the barrier each time.
 *
 * For room it is the same the other way round, but heads are told so rarely
 * that the receiver always fences.
 *
 * Who was woken.  rx_state carries a generation, new with each sleeper.  The
 * sender answers a generation once (`answered`) and leaves it in the bell,
 * which is also the word that is slept on: a sleeper that comes too late finds
 * the bell changed.  So nothing has to be taken back after a wake-up, and a
 * sleeper that was killed costs one vain wake-up.  Kinds of sleepers not yet
 * woken add up (FUTEX and POLL); the bell tells the next one what to forget.
 * tests/unit/test_ring_model.c tries all this in every interleaving.
 *
 * A provider that is not direct has none of it: each put_notify is an event
 * over there, arm() says that the next one shall wake us, and what came before
 * it is found by looking once more.
 */
#include "ring_int.h"

/* Below the lock; a knock (vring.c) looks without it. */
static void set_state(struct ring_sleep *s, uint32_t state)
{
	__atomic_store_n(&s->state, state, __ATOMIC_RELAXED);
}

void ring_answer(struct ring *r, enum ring_dir who, uint32_t s, uint32_t *answered, uint32_t *call)
{
	_Atomic uint32_t *bell = who == RING_RX ? &r->out->rx_bell : &r->out->tx_bell;

	*answered = s;
	if (!(s & (RING_FUTEX | RING_POLL)))
		return;
	/* the sleeper that finds the bell changed must find the bytes, too */
	atomic_store_explicit(bell, s, memory_order_release);
	if (s & RING_FUTEX)
		*call |= who == RING_RX ? RING_WAKE_RX : RING_WAKE_TX;
	if (s & RING_POLL)
		*call |= RING_DOORBELL;
}

void ring_wake_slow(struct ring *r, uint32_t s, uint32_t *call)
{
	struct ring_end *e = r->end;

	if (!r->direct)
		return;		/* the provider wakes */
	if (!(s & RING_LIGHT)) {
		atomic_thread_fence(memory_order_seq_cst);
		s = load(&r->in->rx_state);
	}
	if (s != e->answered)
		ring_answer(r, RING_RX, s, &e->answered, call);
	e->quiet = s & RING_LIGHT ? s : RING_LOUD;
}

void ring_calm(struct ring *r)
{
	struct ring_end *e = r->end;
	struct ring_sleep *s = &e->rx_sleep;

	e->calm = 0;
	if (!load(&e->light) || (s->state & RING_LIGHT))
		return;
	/* somebody still waits for the bell: leave the word as it is */
	if (s->state & (RING_FUTEX | RING_POLL) && load(&r->in->rx_bell) != s->state)
		return;
	s->armed = 0;
	set_state(s, ((s->state & ~(RING_GEN - 1)) + RING_GEN) | RING_LIGHT);
	s->base = s->state & ~(RING_GEN - 1);
	store(&r->out->rx_state, s->state);
}

static uint32_t gen_of(uint32_t state)
{
	return state & ~(RING_GEN - 1);
}

static void say(struct ring *r, enum ring_dir dir, uint32_t state)
{
	_Atomic uint32_t *w = dir == RING_RX ? &r->out->rx_state : &r->out->tx_state;

	store(w, state);
}

/* Nothing there that the sleeper does not know of? */
static bool nothing(struct ring *r, enum ring_dir dir, uint64_t seen)
{
	long n = dir == RING_RX ? ring_avail(r) : ring_room(r);

	if (n < 0)
		return false;
	return dir == RING_RX && seen != RING_ANY ? r->end->rx_tail == seen : n == 0;
}

static bool arm(struct ring *r, enum ring_dir dir, uint32_t kind, uint64_t seen, struct ring_ticket *t)
{
	struct ring_end *e = r->end;
	struct ring_sleep *s = dir == RING_RX ? &e->rx_sleep : &e->tx_sleep;
	uint32_t bell = load(dir == RING_RX ? &r->in->rx_bell : &r->in->tx_bell);
	uint32_t old = s->state, waiting = bell == old ? 0 : old & (RING_FUTEX | RING_POLL);
	uint64_t head;

	if (dir == RING_RX) {
		e->calm = 0;
		head = load(&e->rx_head);
		if (e->told != head)
			ring_tell(r, head);	/* no fence: less than a quarter wakes nobody */
	}
	if (!r->direct) {
		*t = (struct ring_ticket){ 0 };
		if (r->prov->ops->arm(r->prov) < 0)
			ring_break(r, RING_LINK_DEAD);
		return nothing(r, dir, seen);
	}
	*t = (struct ring_ticket){ .gen = gen_of(old), .bell = bell };
	if (!(kind & RING_FUTEX) && (waiting & RING_POLL))	/* armed and not yet rung */
		return nothing(r, dir, seen);
	t->gen += RING_GEN;
	if (!waiting) {
		s->base = t->gen;
		s->armed = 0;
	}
	s->armed += kind & RING_FUTEX;
	set_state(s, t->gen | waiting | kind);
	say(r, dir, s->state);
	if (old & RING_LIGHT)
		t->unsure = r->prov->ops->barrier(r->prov) < 0;
	if (t->unsure)
		store(&e->light, 0);
	atomic_thread_fence(memory_order_seq_cst);
	return nothing(r, dir, seen);
}

bool ring_arm(struct ring *r, enum ring_dir dir, uint32_t kind, struct ring_ticket *t)
{
	if (arm(r, dir, kind, RING_ANY, t))
		return true;
	if (!r->direct)
		return false;
	if (kind & RING_FUTEX)
		ring_disarm(r, dir, t);
	else
		ring_unpoll(r, dir);
	return false;
}

bool ring_arm_poll(struct ring *r, enum ring_dir dir, uint64_t seen)
{
	struct ring_ticket t;

	return arm(r, dir, RING_POLL, seen, &t) && !t.unsure;
}

void ring_disarm(struct ring *r, enum ring_dir dir, const struct ring_ticket *t)
{
	struct ring_end *e = r->end;
	struct ring_sleep *s = dir == RING_RX ? &e->rx_sleep : &e->tx_sleep;
	uint32_t bell = load(dir == RING_RX ? &r->in->rx_bell : &r->in->tx_bell);

	/* rung, or of a generation that was: nothing of ours is out there */
	if (!r->direct || bell == s->state || (int32_t)(t->gen - s->base) < 0 || !s->armed || --s->armed)
		return;
	set_state(s, (gen_of(s->state) + RING_GEN) | (s->state & RING_POLL));
	say(r, dir, s->state);
}

void ring_unpoll(struct ring *r, enum ring_dir dir)
{
	struct ring_end *e = r->end;
	struct ring_sleep *s = dir == RING_RX ? &e->rx_sleep : &e->tx_sleep;

	if (!r->direct || !(s->state & RING_POLL))
		return;
	set_state(s, (gen_of(s->state) + RING_GEN) | (s->state & RING_FUTEX));
	say(r, dir, s->state);
}
