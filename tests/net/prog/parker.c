/*
 * parker: an echo server that can be replaced.
 *
 *	parker ADDR:PORT
 *
 * SIGTERM: it stops reading, sends back what it has read, and exits without a
 * close.  Started with ROAM_PARK=NAME its connections wait with the agent, and
 * the next instance with that name gets them from accept(): it need not know.
 * It keeps nothing about a connection but what it has read and not yet sent.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

struct talk {
	int fd;
	size_t have, sent;
	char buf[16384];
};

static volatile sig_atomic_t stop;
static struct talk *talks[65536];	/* by descriptor */
static int epfd;

static void die(const char *what)
{
	fprintf(stderr, "parker: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void on_term(int sig)
{
	(void)sig;
	stop = 1;
}

static void end(struct talk *t, int err)
{
	if (err)
		fprintf(stderr, "parker: connection %d: %s\n", t->fd, strerror(err));
	talks[t->fd] = NULL;
	close(t->fd);
	free(t);
}

static void want(struct talk *t, int op)
{
	struct epoll_event e = { .events = t->have > t->sent ? EPOLLOUT : EPOLLIN, .data.ptr = t };

	if (epoll_ctl(epfd, op, t->fd, &e))
		die("epoll_ctl");
}

/* False: it is over. */
static int give_back(struct talk *t)
{
	while (t->sent < t->have) {
		ssize_t n = send(t->fd, t->buf + t->sent, t->have - t->sent, MSG_NOSIGNAL);

		if (n < 0) {
			if (errno == EAGAIN || errno == EINTR)
				return 1;
			end(t, errno);
			return 0;
		}
		t->sent += (size_t)n;
	}
	return 1;
}

static void serve(struct talk *t)
{
	if (t->sent == t->have) {
		ssize_t n = recv(t->fd, t->buf, sizeof(t->buf), 0);

		if (n <= 0) {
			if (n < 0 && (errno == EAGAIN || errno == EINTR))
				return;
			end(t, n ? errno : 0);
			return;
		}
		t->have = (size_t)n;
		t->sent = 0;
	}
	if (give_back(t))
		want(t, EPOLL_CTL_MOD);
}

static void welcome(int listener)
{
	int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct talk *t;

	if (fd < 0)
		return;
	t = (size_t)fd < sizeof(talks) / sizeof(*talks) ? calloc(1, sizeof(*t)) : NULL;
	if (!t) {
		close(fd);
		return;
	}
	t->fd = fd;
	talks[fd] = t;
	want(t, EPOLL_CTL_ADD);
}

/* What was read belongs to nobody else now: out with it. */
static void last_words(void)
{
	size_t i, kept = 0;

	for (i = 0; i < sizeof(talks) / sizeof(*talks); i++) {
		while (talks[i] && talks[i]->sent < talks[i]->have) {
			struct epoll_event e;

			if (!give_back(talks[i]))
				break;
			if (talks[i]->sent < talks[i]->have)
				epoll_wait(epfd, &e, 1, 1);	/* full: the others' readiness is as good a pause */
		}
		kept += !!talks[i];
	}
	printf("left %zu connections\n", kept);
	fflush(stdout);
}

static int start(char *arg)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	struct epoll_event e = { .events = EPOLLIN };
	char *colon = strrchr(arg, ':');
	int yes = 1, l = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (!colon)
		die(arg);
	*colon = 0;
	a.sin_port = htons((uint16_t)atoi(colon + 1));
	if (inet_pton(AF_INET, arg, &a.sin_addr) != 1)
		die(arg);
	setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (bind(l, (struct sockaddr *)&a, sizeof(a)) || listen(l, 4096))
		die("listen");
	if (epoll_ctl(epfd, EPOLL_CTL_ADD, l, &e))
		die("epoll_ctl");
	printf("listening on %u\n", ntohs(a.sin_port));
	fflush(stdout);
	return l;
}

int main(int argc, char **argv)
{
	struct sigaction sa = { .sa_handler = on_term };
	struct epoll_event hits[64];
	sigset_t term, none;
	int i, n, listener;

	if (argc != 2) {
		fprintf(stderr, "usage: parker ADDRESS:PORT\n");
		return 2;
	}
	epfd = epoll_create1(EPOLL_CLOEXEC);
	sigaction(SIGTERM, &sa, NULL);
	sigemptyset(&none);
	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	sigprocmask(SIG_BLOCK, &term, NULL);
	listener = start(argv[1]);
	while (!stop) {
		n = epoll_pwait(epfd, hits, 64, -1, &none);
		if (n < 0 && errno != EINTR)
			die("epoll_pwait");
		for (i = 0; i < n; i++) {
			if (hits[i].data.ptr)
				serve(hits[i].data.ptr);
			else
				welcome(listener);
		}
	}
	last_words();
	return 0;
}
