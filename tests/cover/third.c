/*
 * A program that makes its connection itself and leaves the rest to a library:
 *
 *	third-tls | third-event  server	| client PORT
 *
 * As prog.c: the client goes on until SIGTERM; both ends check what comes.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SIZE = 3000 };

static volatile sig_atomic_t stop;

static void on_term(int sig)
{
	(void)sig;
	stop = 1;
}

static void fail(const char *what)
{
	fprintf(stderr, "third: %s: %s\n", what, strerror(errno));
	exit(2);
}

static void fill(char *buf, long round)
{
	int i;

	for (i = 0; i < SIZE; i++)
		buf[i] = (char)(round * 31 + i * 7 + i / 256);
}

static void same(const char *buf, long round)
{
	char want[SIZE];

	fill(want, round);
	if (memcmp(buf, want, SIZE))
		fail("wrong bytes");
}

#ifdef TLS
#include <openssl/err.h>
#include <openssl/ssl.h>

static int all(SSL *ssl, char *buf)
{
	int have = 0, n;

	for (; have < SIZE; have += n)
		if ((n = SSL_read(ssl, buf + have, SIZE - have)) <= 0)
			return 0;
	return 1;
}

static void run(int fd, int server)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_method());
	struct timespec ms = { 0, 1000000 };
	char buf[SIZE];
	SSL *ssl;
	long r;

	/* Nobody has to prove who he is: no certificate. */
	SSL_CTX_set_max_proto_version(ctx, TLS1_2_VERSION);
	SSL_CTX_set_cipher_list(ctx, "AECDH-AES128-SHA:@SECLEVEL=0");
	ssl = SSL_new(ctx);
	SSL_set_fd(ssl, fd);
	if ((server ? SSL_accept(ssl) : SSL_connect(ssl)) != 1) {
		ERR_print_errors_fp(stderr);
		exit(2);
	}
	for (r = 0; server || (!stop && r < 60000); r++) {
		if (server) {
			if (!all(ssl, buf))
				break;
			same(buf, r);
		} else {
			fill(buf, r);
		}
		if (SSL_write(ssl, buf, SIZE) != SIZE)
			fail("SSL_write");
		if (!server) {
			if (!all(ssl, buf))
				fail("SSL_read");
			same(buf, r);
			nanosleep(&ms, NULL);
		}
	}
	SSL_shutdown(ssl);
	close(fd);
	printf("ok %ld rounds\n", r);
}
#else
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>

static struct event_base *base;
static long rounds;
static int is_server, ended;

static void ask(struct bufferevent *b)
{
	char buf[SIZE];

	fill(buf, rounds);
	bufferevent_write(b, buf, SIZE);
}

static void on_read(struct bufferevent *b, void *arg)
{
	struct evbuffer *in = bufferevent_get_input(b);
	struct timespec ms = { 0, 1000000 };
	char buf[SIZE];

	(void)arg;
	while (evbuffer_get_length(in) >= SIZE) {
		evbuffer_remove(in, buf, SIZE);
		same(buf, rounds);
		if (is_server)
			bufferevent_write(b, buf, SIZE);
		rounds++;
		if (!is_server && (stop || rounds > 60000)) {
			ended = 1;
			event_base_loopbreak(base);
			return;
		}
		if (!is_server) {
			nanosleep(&ms, NULL);
			ask(b);
		}
	}
}

static void on_event(struct bufferevent *b, short what, void *arg)
{
	(void)b;
	(void)arg;
	if (what & BEV_EVENT_EOF && is_server)
		ended = 1;
	event_base_loopbreak(base);
}

static void run(int fd, int server)
{
	struct bufferevent *b;

	is_server = server;
	base = event_base_new();
	evutil_make_socket_nonblocking(fd);
	b = bufferevent_socket_new(base, fd, BEV_OPT_CLOSE_ON_FREE);
	bufferevent_setcb(b, on_read, NULL, on_event, NULL);
	bufferevent_enable(b, EV_READ | EV_WRITE);
	if (!server)
		ask(b);
	event_base_dispatch(base);
	bufferevent_free(b);
	event_base_free(base);
	if (!ended)
		fail("the connection");
	printf("ok %ld rounds\n", rounds);
}
#endif

int main(int argc, char **argv)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_STREAM, 0), server = argc == 2;
	socklen_t len = sizeof(a);

	signal(SIGTERM, on_term);
	signal(SIGPIPE, SIG_IGN);
	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (!server) {
		a.sin_port = htons((unsigned short)atoi(argv[2]));
		if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
			fail("connect");
	} else {
		if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 1) < 0 ||
		    getsockname(fd, (struct sockaddr *)&a, &len) < 0)
			fail("listen");
		printf("listening on %d\n", ntohs(a.sin_port));
		fflush(stdout);
		fd = accept(fd, NULL, NULL);
	}
	run(fd, server);
	return 0;
}
