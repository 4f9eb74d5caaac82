/* What agents say, to whom it concerns. */
#include "agent.h"
#include "ends.h"
#include "markers.h"
#include "offer.h"
#include "parked.h"
#include "peer.h"
#include "probe.h"
#include "query.h"
#include "rates.h"
#include "util.h"

void peer_message(struct session *s, const struct msg *m, const uint8_t *buf, size_t n, const uint8_t *more,
		  size_t nmore)
{
	struct peer *p;

	if (s->retired) {	/* still on its way when the other session took over */
		p = peer_by_host(s->host);
		if (!p || !p->s)
			return;
		s = p->s;
	}
	switch (m->type) {
	case MSG_ADDR:
		session_addr(s, m);
		probe_consider(s->peer);
		if (addr_loopback(m->family, m->addr) || addr_linklocal(m->family, m->addr))
			break;
		if (m->flags & MSGF_GONE) {
			peer_drop_at(s->peer, m->family, m->addr);
			marker_host_gone(m->family, m->addr, s->host);
		} else {
			peer_add_at(s->peer, m->family, m->addr, s->port);
			marker_host(m->family, m->addr, s->host);
		}
		break;
	case MSG_OFFER: offer_remote(s, m); break;
	case MSG_HELLO: offer_remote_hello(s, m); break;
	case MSG_WELCOME: offer_remote_answer(s, m, buf, n); break;
	case MSG_REFUSE:
		/* One nonce space: it is a probe's, an offer's or a query's. */
		if (!probe_refused(s, m) && !offer_remote_answer(s, m, buf, n))
			query_remote_refuse(s, m);
		break;
	case MSG_OWN: ends_remote_own(s, m); break;
	case MSG_RELEASE: ends_remote_release(s, m); break;
	case MSG_NOTICE: ends_remote_notice(s, m, buf, n); break;
	case MSG_QUERY: query_remote(s, m); break;
	case MSG_LOCATION: query_remote_location(s, m); break;
	case MSG_IMAGE: parked_remote_image(s, m); break;
	case MSG_CHUNK: parked_remote_chunk(s, m, more, nmore); break;
	case MSG_LISTEN: parked_remote_listen(s, m); break;
	case MSG_REPORT: parked_remote_report(s, m); break;
	case MSG_PROBE: probe_asked(s, m); break;
	case MSG_RATE: rates_remote(s, m); break;
	default:
		COUNT(refused_garbage);
		say_seldom("host %s: a %s from an agent is not expected (another version of roamd?)",
			   id_text(s->host), wire_name(m->type));
	}
}
