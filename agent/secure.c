/*
 * One session: KX both ways, then one stream of frames each way.
 *
 * The keys come from the two ephemeral keys (crypto_kx), so a recorded session
 * stays closed when the cluster key leaks later; and from the cluster key and
 * both KX messages, so that whoever does not know the cluster key, or changed a
 * byte of a KX, has other keys than we and his first frame does not open.
 *
 * A recorded KX has a right MAC, but whoever sends it again has no secret key
 * for it. So a peer is only known to be the host it names when its first frame
 * has opened; until then it must not replace a session that works.
 */
#include "secure.h"
#include <sodium.h>
#include <string.h>

#define SEAL	crypto_secretstream_xchacha20poly1305_ABYTES

_Static_assert(SEAL == 17, "FRAME_TEXT and FRAME_MAX count with it");
_Static_assert(STREAM_HEAD == crypto_secretstream_xchacha20poly1305_HEADERBYTES, "stream header");
_Static_assert(sizeof(crypto_secretstream_xchacha20poly1305_state) <= 64, "tx_state, rx_state");
_Static_assert(_Alignof(crypto_secretstream_xchacha20poly1305_state) == 1, "they are byte arrays");
_Static_assert(crypto_kx_PUBLICKEYBYTES == 32 && crypto_kx_SECRETKEYBYTES == 32, "pk, sk");
_Static_assert(crypto_kx_SESSIONKEYBYTES == 32, "session keys");
_Static_assert(crypto_secretstream_xchacha20poly1305_KEYBYTES == 32, "stream keys");

typedef crypto_secretstream_xchacha20poly1305_state stream;

void secure_begin(struct secure *s, bool client, const uint8_t cluster[32], const uint8_t host[16],
		  uint16_t port, uint8_t kx[KX_LEN])
{
	struct msg m = { .type = MSG_KX, .port = port };

	(void)!sodium_init();
	memset(s, 0, sizeof(*s));
	s->client = client;
	memcpy(s->cluster, cluster, sizeof(s->cluster));
	crypto_kx_keypair(s->pk, s->sk);
	randombytes_buf(&m.nonce, sizeof(m.nonce));
	memcpy(m.host, host, sizeof(m.host));
	memcpy(m.key, s->pk, sizeof(m.key));
	wire_encode(&m, cluster, s->ours);
	memcpy(kx, s->ours, KX_LEN);
}

/* The key of one direction: nobody can make the other's from it. */
static void direction_key(uint8_t key[32], const struct secure *s, const uint8_t session[32], bool from_client)
{
	const uint8_t *client = s->client ? s->ours : s->theirs, *server = s->client ? s->theirs : s->ours;
	uint8_t dir = from_client ? 'c' : 's';
	crypto_generichash_state h;

	crypto_generichash_init(&h, s->cluster, sizeof(s->cluster), 32);
	crypto_generichash_update(&h, session, 32);
	crypto_generichash_update(&h, client, KX_LEN);
	crypto_generichash_update(&h, server, KX_LEN);
	crypto_generichash_update(&h, &dir, 1);
	crypto_generichash_final(&h, key, 32);
	sodium_memzero(&h, sizeof(h));
}

static bool session_keys(const struct secure *s, const uint8_t theirs[32], uint8_t rx[32], uint8_t tx[32])
{
	/* refuses a public key of small order */
	return !(s->client ? crypto_kx_client_session_keys : crypto_kx_server_session_keys)
		(rx, tx, s->pk, s->sk, theirs);
}

enum wire_error secure_kx(struct secure *s, const uint8_t *buf, size_t n, struct msg *peer,
			  uint8_t head[STREAM_HEAD])
{
	uint8_t rx[32], tx[32], key[32];
	enum wire_error e;

	e = wire_decode(peer, s->cluster, buf, n);
	if (e == WIRE_OK && peer->type != MSG_KX)
		e = WIRE_TYPE;
	/* our own KX, or our key in another one: somebody holds up a mirror */
	if (e == WIRE_OK && (s->open || !memcmp(buf, s->ours, KX_LEN) || !memcmp(peer->key, s->pk, 32) ||
			     !session_keys(s, peer->key, rx, tx)))
		e = WIRE_FORGED;
	if (e != WIRE_OK) {
		memset(peer, 0, sizeof(*peer));
		return e;
	}
	memcpy(s->theirs, buf, KX_LEN);
	direction_key(key, s, tx, s->client);
	crypto_secretstream_xchacha20poly1305_init_push((stream *)s->tx_state, s->head, key);
	memcpy(head, s->head, STREAM_HEAD);
	/* the receiving stream begins with the other's header: keep its key until then */
	direction_key(s->rx_state, s, rx, !s->client);
	s->open = true;
	sodium_memzero(rx, sizeof(rx));
	sodium_memzero(tx, sizeof(tx));
	sodium_memzero(key, sizeof(key));
	sodium_memzero(s->sk, sizeof(s->sk));
	sodium_memzero(s->cluster, sizeof(s->cluster));
	return WIRE_OK;
}

bool secure_head(struct secure *s, const uint8_t head[STREAM_HEAD])
{
	uint8_t key[32];

	if (!s->open || s->rx_started)
		return false;
	memcpy(key, s->rx_state, sizeof(key));
	s->rx_started = !crypto_secretstream_xchacha20poly1305_init_pull((stream *)s->rx_state, head, key);
	sodium_memzero(key, sizeof(key));
	return s->rx_started;
}

size_t secure_seal(struct secure *s, const uint8_t *text, size_t n, uint8_t *out)
{
	if (!s->open || !n || n > FRAME_TEXT)
		return 0;
	out[0] = (uint8_t)(n + SEAL);
	out[1] = (uint8_t)((n + SEAL) >> 8);
	crypto_secretstream_xchacha20poly1305_push((stream *)s->tx_state, out + 2, NULL, text, n, out, 2,
						   crypto_secretstream_xchacha20poly1305_TAG_MESSAGE);
	return 2 + n + SEAL;
}

size_t secure_frame_len(const uint8_t two[2])
{
	size_t n = two[0] | (size_t)two[1] << 8;

	return n > SEAL && n <= FRAME_TEXT + SEAL ? 2 + n : 0;
}

static bool pull(struct secure *s, const uint8_t *frame, size_t n, uint8_t *out)
{
	uint8_t tag;

	return n > 2 && secure_frame_len(frame) == n &&
	       !crypto_secretstream_xchacha20poly1305_pull((stream *)s->rx_state, out, NULL, &tag,
							   frame + 2, n - 2, frame, 2) &&
	       tag == crypto_secretstream_xchacha20poly1305_TAG_MESSAGE;
}

long secure_open(struct secure *s, const uint8_t *frame, size_t n, uint8_t *out)
{
	if (!s->rx_started)
		return -1;
	if (pull(s, frame, n, out))
		return (long)(n - 2 - SEAL);
	/* Behind a bad frame nothing is in its place: the session is over. */
	s->open = s->rx_started = false;
	sodium_memzero(s->rx_state, sizeof(s->rx_state));
	sodium_memzero(s->tx_state, sizeof(s->tx_state));
	return -1;
}

void secure_wipe(struct secure *s)
{
	sodium_memzero(s, sizeof(*s));
}
