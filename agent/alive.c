/* Does the other agent still answer?  Asked only while somebody waits, or when the network has changed. */
#include "agent.h"
#include "peer.h"
#include "session.h"
#include "util.h"

static uint64_t patience(const struct session *s)
{
	uint64_t ns = (uint64_t)s->rtt_us * 4000;

	return ns < 100 * MS ? 100 * MS : ns > SEC ? SEC : ns;
}

static void ping(struct session *s)
{
	struct msg m = { .type = MSG_PING, .nonce = random64() };

	s->ping_nonce = m.nonce;
	s->ping_sent = loop_now();
	s->unanswered++;
	session_send(s, &m);
}

static void alive_check(struct timer *t)
{
	struct session *s = container_of(t, struct session, t);

	if (s->retired)
		return;
	if (s->unanswered >= 3) {
		session_kill(s, "no answer to three pings");
		return;
	}
	if (s->unanswered || s->asked || s->rapid || (s->peer->waiting && loop_now() - s->heard >= SEC)) {
		s->rapid = false;
		ping(s);
		if (s->unanswered == 2)
			peer_redial(s->peer);
		if (!s->dead)
			timer_at(&s->t, loop_now() + patience(s), alive_check);
	} else if (s->peer->waiting) {
		timer_at(&s->t, loop_now() + SEC, alive_check);
	}
}

void session_expect(struct session *s)
{
	if (s->dead || s->retired || s->state != S_PROVEN || s->asked)
		return;
	s->asked = loop_now();
	if (!s->t.at)
		timer_at(&s->t, loop_now() + patience(s), alive_check);
}

void session_check(struct session *s)
{
	if (s->dead || s->retired || s->state != S_PROVEN)
		return;
	if (s->self_family && !netmon_is_self(s->self_family, s->self)) {
		session_kill(s, "the address it was made from is gone");
		return;
	}
	if (s->unanswered)
		return;
	s->rapid = true;
	timer_at(&s->t, loop_now(), alive_check);
}

void session_pong(struct session *s, const struct msg *m)
{
	if (m->nonce != s->ping_nonce || !s->ping_sent)
		return;
	s->rtt_us = (uint32_t)((loop_now() - s->ping_sent) / 1000);
	s->ping_sent = 0;
	if (s->peer && s->peer->s == s && s->peer->ntries)
		peer_calm(s->peer);
}
