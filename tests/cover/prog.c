/*
 * Somebody else's program, C or C++.  One connection for each way of calling:
 *
 *	prog server WAY...		prints "listening on PORT", serves, ends
 *	prog client PORT WAY...		until SIGTERM; "ok N rounds"
 *
 * own		the program's own objects
 * linked	inside a shared library that it is linked with
 * dlopen	inside a library that it loads (the file in $COVER_PLUGIN)
 * deep		the same with RTLD_DEEPBIND: libc's names come before the program's
 * default next libc	by pointers from dlsym: RTLD_DEFAULT, RTLD_NEXT, libc's handle
 * mixed	made by the program, used by the library
 *
 * Both ends check every byte.  Exit 0: all was right.
 */
#include "calls.h"
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef __cplusplus
#include <thread>
#define C extern "C"
#else
#define C extern
#endif

C const struct calls own_calls;
#ifdef LINKED
C const struct calls lib_calls;
#endif

enum { MAX = 16, SIZE = 700 };

static struct way {
	struct calls c;
	int fd, ep;
} ways[MAX];
static int nways, status = 1;
static volatile sig_atomic_t stop;

static void fail(const char *what)
{
	fprintf(stderr, "prog: %s: %s\n", what, strerror(errno));
	exit(2);
}

static void on_term(int sig)
{
	(void)sig;
	stop = 1;
}

#ifndef STATIC
static void by_name(struct calls *c, void *handle)
{
	static const char *const names[] = { "socket", "connect", "bind", "listen", "accept", "recv", "read",
		"send", "write", "close", "epoll_create1", "epoll_ctl", "epoll_wait" };
	void *p[sizeof(names) / sizeof(names[0])];
	size_t i;

	for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!(p[i] = dlsym(handle, names[i])))
			fail(names[i]);
	memcpy(c, p, sizeof(p));
}

static void *load(const char *file, int deep)
{
	void *h = file ? dlopen(file, RTLD_NOW | RTLD_LOCAL | deep) : NULL;

	if (!h)
		fail(file ? dlerror() : "COVER_PLUGIN");
	return h;
}
#endif

static void choose(struct way *w, const char *name)
{
	w->c = own_calls;
#ifndef STATIC
	if (!strcmp(name, "dlopen"))
		w->c = *(const struct calls *)dlsym(load(getenv("COVER_PLUGIN"), 0), "lib_calls");
	if (!strcmp(name, "deep"))
		w->c = *(const struct calls *)dlsym(load(getenv("COVER_DEEP"), RTLD_DEEPBIND), "lib_calls");
	if (!strcmp(name, "default"))
		by_name(&w->c, RTLD_DEFAULT);
	if (!strcmp(name, "next"))
		by_name(&w->c, RTLD_NEXT);
	if (!strcmp(name, "libc"))
		by_name(&w->c, load("libc.so.6", 0));
#endif
#ifdef LINKED
	if (!strcmp(name, "linked") || !strcmp(name, "mixed"))
		w->c = lib_calls;
	if (!strcmp(name, "mixed")) {
		w->c.socket = own_calls.socket;
		w->c.connect = own_calls.connect;
		w->c.accept = own_calls.accept;
	}
#endif
}

static void watch(struct way *w)
{
	struct epoll_event ev;

	if (!w->c.epoll_wait) {		/* the library does not wait */
		w->c.epoll_create1 = own_calls.epoll_create1;
		w->c.epoll_ctl = own_calls.epoll_ctl;
		w->c.epoll_wait = own_calls.epoll_wait;
	}

	memset(&ev, 0, sizeof(ev));
	ev.events = EPOLLIN;
	w->ep = w->c.epoll_create1(0);
	if (w->ep < 0 || w->c.epoll_ctl(w->ep, EPOLL_CTL_ADD, w->fd, &ev) < 0)
		fail("epoll");
}

static void fill(char *buf, int way, long round)
{
	unsigned long x = (unsigned long)round * 2654435761u + (unsigned long)way;
	int i;

	for (i = 0; i < SIZE; i++)
		buf[i] = (char)((x = x * 6364136223846793005ul + 1442695040888963407ul) >> 56);
}

/* A whole message, woken by epoll, by recv and read in turn; 0: the end. */
static int get(int i, long round)
{
	struct way *w = &ways[i];
	char buf[SIZE], want[SIZE];
	size_t have = 0;

	while (have < SIZE) {
		struct epoll_event ev;
		ssize_t n = w->c.epoll_wait(w->ep, &ev, 1, 20000);

		if (n < 0 && errno == EINTR)
			continue;
		if (n != 1)
			fail("nothing came");
		n = round & 1 ? w->c.recv(w->fd, buf + have, SIZE - have, MSG_DONTWAIT) :
				w->c.read(w->fd, buf + have, SIZE - have);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (n < 0)
			fail("receive");
		if (n == 0) {
			if (have)
				fail("cut short");
			return 0;
		}
		have += (size_t)n;
	}
	fill(want, i, round);
	if (memcmp(buf, want, SIZE)) {
		errno = 0;
		fail("wrong bytes");
	}
	return 1;
}

static void put(int i, long round)
{
	struct way *w = &ways[i];
	char buf[SIZE];
	ssize_t n;

	fill(buf, i, round);
	n = round & 1 ? w->c.send(w->fd, buf, SIZE, MSG_NOSIGNAL) : w->c.write(w->fd, buf, SIZE);
	if (n != SIZE)
		fail("send");
}

static void end(void)
{
	int i;

	for (i = 0; i < nways; i++) {
		ways[i].c.close(ways[i].ep);
		ways[i].c.close(ways[i].fd);
	}
	status = 0;
}

static void serve(void)
{
	struct sockaddr_in a;
	socklen_t len = sizeof(a);
	int l[MAX], i;
	long r;

	/* A port for each way, that the way's own listen is used; told in one line. */
	for (i = 0; i < nways; i++) {
		memset(&a, 0, sizeof(a));
		a.sin_family = AF_INET;
		a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		l[i] = ways[i].c.socket(AF_INET, SOCK_STREAM, 0);
		if (l[i] < 0 || ways[i].c.bind(l[i], (struct sockaddr *)&a, sizeof(a)) < 0 ||
		    ways[i].c.listen(l[i], 8) < 0 || getsockname(l[i], (struct sockaddr *)&a, &len) < 0)
			fail("listen");
		printf("%s%d", i ? "," : "listening on ", ntohs(a.sin_port));
	}
	putchar('\n');
	fflush(stdout);
	for (i = 0; i < nways; i++) {
		ways[i].fd = ways[i].c.accept(l[i], NULL, NULL);
		if (ways[i].fd < 0)
			fail("accept");
		watch(&ways[i]);
	}
	for (r = 0;; r++)
		for (i = 0; i < nways; i++) {
			if (!get(i, r)) {
				end();
				printf("ok %ld rounds\n", r);
				return;
			}
			put(i, r);
		}
}

static void talk(char *ports)
{
	struct timespec ms = { 0, 1000000 };
	struct sockaddr_in a;
	int i;
	long r;

	for (i = 0; i < nways; i++) {
		memset(&a, 0, sizeof(a));
		a.sin_family = AF_INET;
		a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		a.sin_port = htons((unsigned short)strtoul(ports, &ports, 10));
		ports += *ports == ',';
		ways[i].fd = ways[i].c.socket(AF_INET, SOCK_STREAM, 0);
		if (ways[i].c.connect(ways[i].fd, (struct sockaddr *)&a, sizeof(a)) < 0)
			fail("connect");
		watch(&ways[i]);
	}
	for (r = 0; !stop && r < 60000; r++) {
		for (i = 0; i < nways; i++) {
			put(i, r);
			if (!get(i, r))
				fail("the server closed");
		}
		if (r == 200) {
			puts("200 rounds");
			fflush(stdout);
		}
		nanosleep(&ms, NULL);
	}
	end();
	printf("ok %ld rounds\n", r);
}

int main(int argc, char **argv)
{
	int server = argc > 1 && !strcmp(argv[1], "server"), i;

	if (argc < 4 && !(server && argc > 2))
		return 2;
	signal(SIGTERM, on_term);
	for (i = server ? 2 : 3; i < argc && nways < MAX; i++)
		choose(&ways[nways++], argv[i]);
#ifdef __cplusplus
	std::thread([=] { server ? serve() : talk(argv[2]); }).join();
#else
	server ? serve() : talk(argv[2]);
#endif
	return status;
}
