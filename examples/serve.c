#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve.h"
#include "util.h"

static const struct serve_ops *ops;
static int stop_pipe[2];

/* -1: nothing to accept now; -2: out of descriptors or memory. */
static int take(int lfd)
{
	int fd = accept(lfd, NULL, NULL);

	if (fd >= 0)
		return fd;
	switch (errno) {
	case EAGAIN:
	case EINTR:
	case ECONNABORTED:
	case EPROTO:
		return -1;
	case EMFILE:
	case ENFILE:
	case ENOBUFS:
	case ENOMEM:
		warn_msg("accept: %s%s", strerror(errno), remedy(errno));
		return -2;
	default:
		die("accept: %s%s", strerror(errno), remedy(errno));
	}
}

static void *conn_thread(void *conn)
{
	ops->run(conn);
	ops->finish(conn);
	return NULL;
}

static void *accept_thread(void *arg)
{
	int lfd = *(int *)arg;

	for (;;) {
		int fd = take(lfd);
		pthread_t t;
		void *conn;
		int e;

		if (fd < 0) {
			if (fd == -2)	/* until some connection ends */
				sleep_until(now_ns() + 100000000);
			continue;
		}
		conn = ops->start(fd, EV_BLOCKING);
		e = pthread_create(&t, NULL, conn_thread, conn);
		if (e) {
			warn_msg("cannot start a thread: %s; use fewer connections or -e epoll",
				 strerror(e));
			ops->finish(conn);
			continue;
		}
		pthread_detach(t);
	}
	return NULL;
}

static void serve_blocking(int lfd, bool once)
{
	pthread_t t;
	sigset_t set;
	int sig, fd, e;

	if (once) {
		do
			fd = take(lfd);
		while (fd == -1);
		if (fd < 0)
			exit(1);
		conn_thread(ops->start(fd, EV_BLOCKING));
		return;
	}
	/* The threads inherit the mask, so the signal comes to sigwait only. */
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	e = pthread_create(&t, NULL, accept_thread, &lfd);
	if (e)
		die("cannot start a thread: %s", strerror(e));
	sigwait(&set, &sig);
}

static void on_signal(int sig)
{
	int e = errno;
	ssize_t n;

	(void)sig;
	n = write(stop_pipe[1], "", 1);
	(void)n;	/* full: the loop has been told already */
	errno = e;
}

static void add_conn(struct ev *ev, int fd)
{
	void *conn;

	if (set_nonblock(fd)) {
		warn_msg("fcntl(O_NONBLOCK): %s", strerror(errno));
		close(fd);
		return;
	}
	conn = ops->start(fd, ev->mode);
	if (ev_set(ev, fd, EV_IN, conn)) {
		if (errno == ERANGE)
			warn_msg("descriptor %d is too large for select(); use -e poll or epoll", fd);
		else
			warn_msg("cannot watch a connection: %s", strerror(errno));
		ev_del(ev, fd);
		ops->finish(conn);
	}
}

static void accept_all(struct ev *ev, int lfd)
{
	int fd;

	while ((fd = take(lfd)) >= 0)
		add_conn(ev, fd);
	/* Out of descriptors: do not spin; the end of a connection resumes. */
	if (fd == -2)
		ev_del(ev, lfd);
	else
		ev_set(ev, lfd, EV_IN, NULL);
}

static void serve_events(int lfd, enum ev_mode mode, bool once)
{
	struct sigaction sa = { .sa_handler = on_signal };
	struct ev ev;
	void *conn;

	if (pipe(stop_pipe) || set_nonblock(stop_pipe[1]) || set_nonblock(lfd) ||
	    ev_open(&ev, mode))
		die("cannot start: %s%s", strerror(errno), remedy(errno));
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGINT, &sa, NULL);
	if (ev_set(&ev, stop_pipe[0], EV_IN, NULL) || ev_set(&ev, lfd, EV_IN, NULL))
		die("cannot watch the listener: %s", strerror(errno));

	for (bool stop = false; !stop;) {
		int n = ev_wait(&ev, -1);
		bool listening = false;

		for (int i = 0; i < n && !stop; i++) {
			struct ev_hit h = ev.hit[i];
			int want;

			if (h.fd == lfd) {
				listening = true;
				continue;
			}
			if (h.fd == stop_pipe[0]) {
				stop = true;
				continue;
			}
			want = ops->pump(h.data);
			if (want >= 0) {
				ev_set(&ev, h.fd, (unsigned)want, h.data);
				continue;
			}
			ev_del(&ev, h.fd);
			ops->finish(h.data);
			ev_set(&ev, lfd, EV_IN, NULL);
			stop = once;
		}
		if (listening)	/* last: new items may move ev.hit */
			accept_all(&ev, lfd);
	}
	while ((conn = ev_pop(&ev)))
		ops->finish(conn);
	ev_close(&ev);
}

void serve(const char *addr, unsigned port, enum ev_mode mode, bool once,
	   const struct serve_ops *o)
{
	int lfd = tcp_listen(addr, port);
	char where[PEER_LEN];

	ops = o;
	peer_name(lfd, true, where);
	printf("listening on %s\n", where);
	fflush(stdout);
	if (mode == EV_BLOCKING)
		serve_blocking(lfd, once);
	else
		serve_events(lfd, mode, once);
}
