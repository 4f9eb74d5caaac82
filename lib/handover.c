#include "handover.h"
#include <string.h>

void ho_init(struct handover *h, enum ho_role role, const uint8_t *gid, const uint8_t *key)
{
	memset(h, 0, sizeof(*h));
	memcpy(h->gid, gid, WIRE_GID);
	memcpy(h->key, key, WIRE_KEY);
	h->role = (uint8_t)role;
	h->epoch = h->peer_epoch = 1;
	h->gen = 1;
	h->legs = 1;
	h->confirmed = 1;
	h->state = HO_UP;
}

void ho_kill(struct handover *h, uint32_t reason)
{
	if (h->state == HO_DEAD)
		return;
	h->state = HO_DEAD;
	h->reason = reason;
}

void ho_reincarnate(struct handover *h, uint32_t step)
{
	h->epoch += step;
	h->attempt = 0;
	h->nonce = 0;		/* an answer to the old incarnation is not for us */
	if (h->state == HO_ASKING)
		h->state = HO_READY;
	ho_break(h);
}

bool ho_break(struct handover *h)
{
	if (h->state != HO_UP && h->state != HO_CUTTING)
		return false;
	h->state = HO_DRAIN;
	return true;
}

void ho_drained(struct handover *h, uint64_t rx_off, uint64_t unread)
{
	if (h->state != HO_DRAIN)
		return;
	h->rx_off = rx_off;
	h->unread = unread;
	h->legs = 1;
	h->state = HO_READY;
}

static void fill(const struct handover *h, struct msg *out, uint8_t type, uint64_t nonce)
{
	memset(out, 0, sizeof(*out));
	out->type = type;
	out->nonce = nonce;
	out->epoch = h->epoch;
	out->flags = h->role == HO_ACCEPTOR ? MSGF_ACCEPTOR : 0;
	memcpy(out->gid, h->gid, WIRE_GID);
}

static void refuse(const struct handover *h, struct msg *out, uint64_t nonce, uint32_t reason)
{
	fill(h, out, MSG_NO, nonce);
	out->reason = reason;
}

bool ho_ask(struct handover *h, uint64_t nonce, uint64_t tx_end, bool cut, struct msg *out)
{
	if (cut ? h->state != HO_UP || !h->confirmed || h->legs != 1 : h->state != HO_READY)
		return false;
	fill(h, out, MSG_REQ, nonce);
	h->nonce = nonce;
	out->attempt = ++h->attempt;
	out->tx_end = tx_end;
	if (cut) {
		out->flags |= MSGF_CUT;
		h->state = HO_CUTTING;
		h->tx_cut = tx_end;
	} else {
		out->rx_off = h->rx_off;
		out->unread = h->unread;
		h->state = HO_ASKING;
	}
	return true;
}

enum ho_verdict ho_ask_failed(struct handover *h)
{
	if (h->state != HO_ASKING && h->state != HO_CUTTING)
		return h->state == HO_DEAD ? HO_OVER : HO_IGNORE;
	h->nonce = 0;
	if (h->state == HO_CUTTING)
		return HO_BREAK;
	h->state = HO_READY;
	return HO_RETRY;
}

/*
 * Can the stream go on where the peer says it stands?  Catches lost bytes, and
 * an end that was set back to an earlier state of itself.
 */
static uint32_t check_offsets(const struct handover *h, const struct msg *in,
			      uint64_t tx_base, uint64_t tx_end)
{
	uint64_t has = in->rx_off + in->unread;

	if (has < in->rx_off || has > tx_end || in->rx_off < h->peer_rx_off)
		return REASON_MISMATCH;
	if (in->tx_end < h->rx_off + h->unread)
		return REASON_MISMATCH;
	return has < tx_base ? REASON_GAP : REASON_NONE;
}

static void commit(struct handover *h, const struct msg *in, bool cut, uint64_t tx_end,
		   struct ho_plan *plan)
{
	h->state = HO_UP;
	h->gen++;
	h->link_nonce = in->nonce;
	h->nonce = 0;
	if (cut) {
		h->legs = 2;
		h->rx_cut = in->tx_end;
		h->tx_cut = tx_end;
		h->confirmed = 0;
		h->planned = 1;
		plan->resend_from = tx_end;
		plan->given_back = 0;
	} else {
		h->peer_rx_off = in->rx_off;
		h->planned = 0;
		plan->resend_from = in->rx_off;
		plan->given_back = in->unread;
	}
}

static enum ho_verdict over(struct handover *h, struct msg *out, uint64_t nonce, uint32_t reason)
{
	ho_kill(h, reason);
	refuse(h, out, nonce, reason);
	return HO_OVER;
}

/* Requests up to this one are stale from now on. */
static void note(struct handover *h, uint32_t epoch, uint64_t attempt, uint64_t nonce)
{
	if (epoch == h->peer_epoch && attempt <= h->peer_attempt)
		return;
	h->peer_epoch = epoch;
	h->peer_attempt = attempt;
	h->peer_nonce = nonce;
}

static enum ho_verdict on_req(struct handover *h, const struct msg *in, uint64_t tx_base,
			      uint64_t tx_end, struct msg *out, struct ho_plan *plan)
{
	bool cut = in->flags & MSGF_CUT;
	bool asking = h->state == HO_ASKING || h->state == HO_CUTTING;
	uint32_t bad;

	if (h->state == HO_DEAD) {
		refuse(h, out, in->nonce, h->reason);
		return HO_IGNORE;
	}
	if (in->epoch < h->peer_epoch) {
		h->refused++;
		refuse(h, out, in->nonce, REASON_FENCED);
		return HO_IGNORE;
	}
	if (in->epoch == h->peer_epoch && in->attempt <= h->peer_attempt) {
		h->refused++;
		/* a copy of the last one gets no answer: "stale" would kill its asker */
		if (in->attempt != h->peer_attempt || in->nonce != h->peer_nonce)
			refuse(h, out, in->nonce, REASON_STALE);
		return HO_IGNORE;
	}
	if (cut) {
		if (h->state == HO_CUTTING ? h->role == HO_OPENER :
		    h->state != HO_UP || !h->confirmed || h->legs != 1) {
			note(h, in->epoch, in->attempt, in->nonce);
			refuse(h, out, in->nonce, asking ? REASON_CROSSED : REASON_BUSY);
			return HO_IGNORE;
		}
	} else {
		if (h->state == HO_UP || h->state == HO_CUTTING || h->state == HO_DRAIN)
			return HO_BREAK;
		if (h->state == HO_ASKING && h->role == HO_OPENER) {
			note(h, in->epoch, in->attempt, in->nonce);
			refuse(h, out, in->nonce, REASON_CROSSED);
			return HO_IGNORE;
		}
		bad = check_offsets(h, in, tx_base, tx_end);
		if (bad)
			return over(h, out, in->nonce, bad);
	}
	note(h, in->epoch, in->attempt, in->nonce);
	plan->cancel = asking;
	commit(h, in, cut, tx_end, plan);
	h->confirmed = 0;
	fill(h, out, MSG_OK, in->nonce);
	out->flags |= in->flags & MSGF_CUT;
	out->attempt = h->attempt;
	out->tx_end = tx_end;
	if (!cut) {
		out->rx_off = h->rx_off;
		out->unread = h->unread;
	}
	return HO_COMMIT;
}

static enum ho_verdict on_ok(struct handover *h, const struct msg *in, uint64_t tx_base,
			     uint64_t tx_end, struct msg *out, struct ho_plan *plan)
{
	bool cut = in->flags & MSGF_CUT;
	uint32_t bad;

	if (in->nonce != h->nonce || h->state != (cut ? HO_CUTTING : HO_ASKING))
		return HO_IGNORE;
	if (in->epoch < h->peer_epoch) {
		h->refused++;
		return HO_IGNORE;
	}
	note(h, in->epoch, in->attempt, 0);
	if (!cut) {
		bad = check_offsets(h, in, tx_base, tx_end);
		if (bad)
			return over(h, out, in->nonce, bad);
	}
	commit(h, in, cut, cut ? h->tx_cut : tx_end, plan);
	if (!cut)
		h->confirmed = 1;	/* it said OK: it has committed */
	fill(h, out, MSG_DONE, in->nonce);
	return HO_COMMIT;
}

static enum ho_verdict on_no(struct handover *h, const struct msg *in)
{
	if (in->nonce != h->nonce || (h->state != HO_ASKING && h->state != HO_CUTTING))
		return HO_IGNORE;
	if (in->reason == REASON_CROSSED || in->reason == REASON_BUSY) {
		h->state = h->state == HO_CUTTING ? HO_UP : HO_READY;
		h->nonce = 0;
		return HO_RETRY;
	}
	/* "Stale": somebody with our identity asked later than we did. */
	ho_kill(h, in->reason == REASON_STALE ? REASON_FENCED : in->reason);
	return HO_OVER;
}

enum ho_verdict ho_input(struct handover *h, const struct msg *in, uint64_t tx_base,
			 uint64_t tx_end, struct msg *out, struct ho_plan *plan)
{
	memset(plan, 0, sizeof(*plan));
	out->type = 0;
	if (memcmp(in->gid, h->gid, WIRE_GID))
		return HO_IGNORE;
	if (!(in->flags & MSGF_ACCEPTOR) == (h->role == HO_OPENER)) {
		h->refused++;		/* our own words, reflected */
		return HO_IGNORE;
	}
	switch (in->type) {
	case MSG_REQ:
		return on_req(h, in, tx_base, tx_end, out, plan);
	case MSG_OK:
		return on_ok(h, in, tx_base, tx_end, out, plan);
	case MSG_NO:
		return on_no(h, in);
	case MSG_DONE:		/* of a resume; a planned handover waits for SWITCHED */
		if (h->state == HO_UP && in->nonce == h->link_nonce && !h->planned)
			h->confirmed = 1;
		return HO_IGNORE;
	case MSG_SWITCHED:
		if (h->state == HO_UP && in->nonce == h->link_nonce && h->planned) {
			h->confirmed = 1;
			h->planned = 0;
		}
		return HO_IGNORE;
	}
	return HO_IGNORE;
}

bool ho_switched(struct handover *h, uint64_t rx_off, struct msg *out)
{
	if (h->state != HO_UP || h->legs != 2 || rx_off < h->rx_cut)
		return false;
	h->legs = 1;
	fill(h, out, MSG_SWITCHED, h->link_nonce);
	return true;
}

uint64_t ho_trim_limit(const struct handover *h)
{
	if (h->confirmed)
		return UINT64_MAX;
	return h->planned ? h->tx_cut : 0;
}
