/*
 * The remote end: obeys one-line commands that come on a SEQPACKET socket,
 * answers each with "result errno". Also built alone, plain, as conf_peer.
 *
 * listen | unlisten | accept | connect PORT | use SLOT | warm FIRST | send N |
 * recv N | drain | sendoob C | recvoob | seek OFF | shut HOW | close | rst |
 * rcvbuf N | unread N | eof_yet | signal SIG | takefd | exit CODE | nop
 */
#include "peer_loop.h"
#include "roam.h"

#define SLOTS 16

static struct slot {
	int fd;
	uint64_t tx, rx;	/* stream offsets, warm-up not counted */
} slots[SLOTS];

unsigned char pattern(uint64_t off)
{
	return (unsigned char)(off * 31 + (off >> 8) * 17 + (off >> 16) * 7 + 5);
}

/* Asleep = the same context switch count, in state S, three looks in a row. */
int peer_sleeping(pid_t pid, pid_t tid, int limit_ms)
{
	long last = -1;
	int same = 0;

	for (int i = 0; i < limit_ms; i++) {
		char path[64], line[128], state = 0;
		long sw = -1;

		snprintf(path, sizeof path, "/proc/%d/task/%d/status", pid, tid);
		FILE *f = fopen(path, "re");
		if (!f)
			return 0;
		while (fgets(line, sizeof line, f)) {
			if (!strncmp(line, "State:", 6))
				sscanf(line + 6, " %c", &state);
			sscanf(line, "voluntary_ctxt_switches: %ld", &sw);
		}
		fclose(f);
		same = state == 'S' && sw == last ? same + 1 : 0;
		last = sw;
		if (same == 3)
			return 1;
		usleep(1000);
	}
	return 0;
}

/* As the library says; the plain programs have none. */
int is_ring(int s)
{
	struct roam_stats st;

	return roam_linked() && roam_stats(s, &st, sizeof st) == 0 && st.link == ROAM_LINK_RING && !st.broken;
}

int want_ring(void)
{
	return getenv("CONF_RING") != NULL;
}

int want_codec(void)
{
	return getenv("CONF_CODEC") != NULL;
}

/* No other link has this TCP_NOTSENT_LOWAT (lib/coding.h). */
int is_coded(int s)
{
	unsigned int low = 0;
	socklen_t l = sizeof low;

	return getsockopt(s, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &low, &l) == 0 && low == 128u << 10;
}

/* Modes ring and codec: on until both ends have seen it. */
static void until_moved(int s, int first)
{
	char mine, theirs = 'g';

	for (int i = 0; i < 2000; i++) {
		usleep(500);
		mine = (want_ring() ? is_ring(s) : is_coded(s)) ? 'r' : 'g';
		if (first && (send(s, &mine, 1, MSG_NOSIGNAL) != 1 || recv(s, &theirs, 1, 0) != 1))
			return;
		if (!first && (recv(s, &theirs, 1, 0) != 1 || send(s, &mine, 1, MSG_NOSIGNAL) != 1))
			return;
		if (mine == 'r' && theirs == 'r')
			return;
	}
	fprintf(stderr, "no %s in time\n", want_ring() ? "ring" : "codec");
	abort();
}

void warm_half(int s, int first)
{
	char b[16], zero[16] = { 0 };
	int one = 1;

	/* Or Nagle holds back what comes next until a delayed acknowledgement. */
	setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	/* 32 rounds opened by one end, a pause for the asynchronous upgrade, 32 by the other. */
	for (int i = 0; i < 64; i++) {
		int mine = (i < 32) == first;

		if (i == 32)
			usleep(5000);
		if (mine && send(s, zero, 16, MSG_NOSIGNAL) != 16)
			return;
		if (recv(s, b, 16, MSG_WAITALL) != 16)
			return;
		if (!mine && send(s, zero, 16, MSG_NOSIGNAL) != 16)
			return;
	}
	if (want_ring() || want_codec())
		until_moved(s, first);
}

static long do_send(struct slot *c, long n)
{
	static unsigned char b[65536];
	long done = 0;

	while (done < n) {
		size_t k = n - done < (long)sizeof b ? (size_t)(n - done) : sizeof b;

		for (size_t i = 0; i < k; i++)
			b[i] = pattern(c->tx + i);
		ssize_t r = send(c->fd, b, k, MSG_NOSIGNAL);
		if (r < 0)
			return -1;
		c->tx += (uint64_t)r;
		done += r;
	}
	return done;
}

/* Receive n bytes or up to the end of the stream; -1 EBADMSG when a byte is wrong. */
static long do_recv(struct slot *c, long n)
{
	static unsigned char b[65536];
	long done = 0;

	while (n < 0 || done < n) {
		size_t k = n >= 0 && n - done < (long)sizeof b ? (size_t)(n - done) : sizeof b;
		ssize_t r = recv(c->fd, b, k, 0);

		if (r < 0)
			return -1;
		if (!r)
			break;
		for (ssize_t i = 0; i < r; i++)
			if (b[i] != pattern(c->rx + (uint64_t)i)) {
				errno = EBADMSG;
				return -1;
			}
		c->rx += (uint64_t)r;
		done += r;
	}
	return done;
}

static long do_listen(int *l)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	socklen_t n = sizeof a;

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	*l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (*l < 0 || bind(*l, (void *)&a, sizeof a) || listen(*l, 64) ||
	    getsockname(*l, (void *)&a, &n))
		return -1;
	return ntohs(a.sin_port);
}

static long do_connect(struct slot *c, int port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	c->tx = c->rx = 0;
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		return -1;
	return connect(c->fd, (void *)&a, sizeof a);
}

static long do_close(struct slot *c, int linger)
{
	struct linger lg = { .l_onoff = 1, .l_linger = linger };
	int fd = c->fd;

	c->fd = -1;
	if (linger >= 0)
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &lg, sizeof lg);
	return close(fd);
}

/* A descriptor that comes by SCM_RIGHTS becomes this slot's connection. */
static long do_takefd(struct slot *c, int ctl)
{
	char byte, cb[CMSG_SPACE(sizeof(int))];
	struct iovec iov = { &byte, 1 };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = cb,
			    .msg_controllen = sizeof cb };

	if (recvmsg(ctl, &m, MSG_CMSG_CLOEXEC) != 1 || !CMSG_FIRSTHDR(&m))
		return -1;
	memcpy(&c->fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(int));
	c->tx = c->rx = 0;
	return 0;
}

static long wait_unread_here(int fd, int n)
{
	int have = 0;

	for (int i = 0; i < 5000; i++) {
		if (ioctl(fd, FIONREAD, &have))
			return -1;
		if (have >= n)
			break;
		usleep(1000);
	}
	return have;
}

int peer_loop(int ctl)
{
	int l = -1, cur = 0;
	pid_t owner = getppid();
	char line[128];
	ssize_t n;

	for (int i = 0; i < SLOTS; i++)
		slots[i].fd = -1;
	while ((n = recv(ctl, line, sizeof line - 1, 0)) > 0) {
		struct slot *c = &slots[cur];
		char verb[32] = "", *p = line;
		long arg = 0, r = 0;

		line[n] = 0;
		if (*p == '@') {
			peer_sleeping(owner, owner, 2000);
			p++;
		}
		sscanf(p, "%31s %ld", verb, &arg);
		errno = 0;
		if (!strcmp(verb, "listen")) {
			r = do_listen(&l);
		} else if (!strcmp(verb, "accept")) {
			c->tx = c->rx = 0;
			c->fd = accept4(l, NULL, NULL, SOCK_CLOEXEC);
			r = c->fd < 0 ? -1 : 0;
		} else if (!strcmp(verb, "unlisten")) {
			r = close(l);
			l = -1;
		} else if (!strcmp(verb, "connect")) {
			r = do_connect(c, (int)arg);
		} else if (!strcmp(verb, "use")) {
			cur = (int)arg % SLOTS;
		} else if (!strcmp(verb, "warm")) {
			warm_half(c->fd, (int)arg);
		} else if (!strcmp(verb, "send")) {
			r = do_send(c, arg);
		} else if (!strcmp(verb, "recv")) {
			r = do_recv(c, arg);
		} else if (!strcmp(verb, "drain")) {
			r = do_recv(c, -1);
		} else if (!strcmp(verb, "sendoob")) {
			char b = (char)arg;

			r = send(c->fd, &b, 1, MSG_OOB | MSG_NOSIGNAL);
		} else if (!strcmp(verb, "recvoob")) {
			char b = 0;

			r = recv(c->fd, &b, 1, MSG_OOB) == 1 ? b : -1;
		} else if (!strcmp(verb, "seek")) {
			c->tx = c->rx = (uint64_t)arg;
		} else if (!strcmp(verb, "shut")) {
			r = shutdown(c->fd, (int)arg);
		} else if (!strcmp(verb, "close")) {
			r = do_close(c, -1);
		} else if (!strcmp(verb, "rst")) {
			r = do_close(c, 0);
		} else if (!strcmp(verb, "rcvbuf")) {
			int v = (int)arg;

			r = setsockopt(l >= 0 ? l : c->fd, SOL_SOCKET, SO_RCVBUF, &v, sizeof v);
		} else if (!strcmp(verb, "unread")) {
			r = wait_unread_here(c->fd, (int)arg);
		} else if (!strcmp(verb, "eof_yet")) {
			/* 1 = an end (or error) is there, 0 = nothing to read, no end */
			char b;
			ssize_t k = recv(c->fd, &b, 1, MSG_PEEK | MSG_DONTWAIT);

			r = k >= 0 ? k == 0 : errno != EAGAIN;
		} else if (!strcmp(verb, "signal")) {
			r = syscall(SYS_tgkill, owner, owner, (int)arg);
		} else if (!strcmp(verb, "takefd")) {
			r = do_takefd(c, ctl);
		} else if (!strcmp(verb, "exit")) {
			_exit((int)arg);
		} else if (strcmp(verb, "nop")) {
			errno = ENOSYS;
			r = -1;
		}
		int e = errno;
		n = snprintf(line, sizeof line, "%ld %d", r, r < 0 ? e : 0);
		if (send(ctl, line, (size_t)n, MSG_NOSIGNAL) != n)
			break;
	}
	return 0;
}
