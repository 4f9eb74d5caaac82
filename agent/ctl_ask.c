/*
 * One packet to the agent, one back. The answer's memory is read, not mapped: what
 * was read stays as it was checked.
 */
#include "ctl.h"
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define ANSWER_MAX ((off_t)1 << 30)	/* 4 million connections */

static uint64_t net_namespace(void)
{
	struct stat st;

	return stat("/proc/self/ns/net", &st) ? 0 : (uint64_t)st.st_ino;
}

static int socket_path(char *path, size_t n, const char *dir)
{
	return snprintf(path, n, "%s/a.%llu", dir, (unsigned long long)net_namespace());
}

static bool agent_in(const char *dir)
{
	struct stat st;
	char path[128];

	socket_path(path, sizeof(path), dir);
	return !stat(path, &st) && S_ISSOCK(st.st_mode);
}

/* Where the library of this user looks, in lib/conf.c. */
static void users_dir(char *dir, size_t n)
{
	const char *run = getenv("XDG_RUNTIME_DIR");

	if (run && *run)
		snprintf(dir, n, "%s/roam", run);
	else
		snprintf(dir, n, "/tmp/roam-%u", (unsigned int)geteuid());
}

bool ctl_find_dir(struct opts *o, const char *dir)
{
	static const char host[] = "/run/roam";
	struct stat st;

	if (!dir || !*dir)
		dir = getenv("ROAM_DIR");
	if (dir && *dir) {
		snprintf(o->dir, sizeof(o->dir), "%s", dir);
		return strlen(dir) < sizeof(o->dir);
	}
	/* the host's agent; else this user's; when there is none, the place where one should be */
	users_dir(o->dir, sizeof(o->dir));
	if (agent_in(host) || (!agent_in(o->dir) && (geteuid() == 0 || !stat(host, &st))))
		strcpy(o->dir, host);
	return true;
}

static int no_agent(const struct opts *o, const char *path, int e)
{
	if (o->quiet)
		return EXIT_NOAGENT;
	if (e == ENOENT || e == ECONNREFUSED)
		fprintf(stderr, "roamctl: no agent answers at %s; start one with \"systemctl start roamd\" or "
			"\"roamd\", or name its directory with --dir\n", path);
	else if (e == EACCES || e == EPERM)
		fprintf(stderr, "roamctl: %s: permission denied; only the agent's user may use it (try as root)\n",
			path);
	else if (e == EPROTOTYPE)
		fprintf(stderr, "roamctl: %s is no agent's socket; name the agent's directory with --dir\n", path);
	else
		fprintf(stderr, "roamctl: %s: %s; is %s the agent's directory?\n", path, strerror(e), o->dir);
	return EXIT_NOAGENT;
}

static int dial(const struct opts *o, int seconds, int *fd)
{
	struct timeval tv = { .tv_sec = seconds };
	struct sockaddr_un un = { .sun_family = AF_UNIX };
	int n = socket_path(un.sun_path, sizeof(un.sun_path), o->dir), e;

	if (n < 0 || (size_t)n >= sizeof(un.sun_path)) {
		fprintf(stderr, "roamctl: the directory's path is too long; use a shorter one\n");
		return EXIT_USAGE;
	}
	*fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (*fd < 0) {
		fprintf(stderr, "roamctl: %s\n", strerror(errno));
		return EXIT_REFUSED;
	}
	setsockopt(*fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	setsockopt(*fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
	if (!connect(*fd, (struct sockaddr *)&un, sizeof(un)))
		return EXIT_DONE;
	e = errno;
	close(*fd);
	return no_agent(o, un.sun_path, e);
}

/* Takes the first descriptor of a packet, closes the others. */
static int take_fd(struct msghdr *h)
{
	struct cmsghdr *c;
	int fd = -1, got;
	size_t i, n;

	for (c = CMSG_FIRSTHDR(h); c; c = CMSG_NXTHDR(h, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (i = 0; i < n; i++) {
			memcpy(&got, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (fd < 0)
				fd = got;
			else
				close(got);
		}
	}
	return fd;
}

/* A packet and its descriptor (-1: none); its length, 0: closed, -1: errno. */
static ssize_t receive(int sock, uint8_t *buf, size_t n, int *fd)
{
	union {
		struct cmsghdr align;
		uint8_t buf[CMSG_SPACE(8 * sizeof(int))];
	} control;
	struct iovec iov = { buf, n };
	struct msghdr h = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof(control.buf),
	};
	ssize_t got;

	*fd = -1;
	do
		got = recvmsg(sock, &h, MSG_CMSG_CLOEXEC);
	while (got < 0 && errno == EINTR);
	if (got >= 0)
		*fd = take_fd(&h);
	return got;
}

static int odd(const char *what)
{
	fprintf(stderr, "roamctl: the agent's answer %s; are roamd and roamctl of one version?\n", what);
	return EXIT_REFUSED;
}

/* Everything in the memfd. It must not shrink: then it is what the agent meant to say. */
static int read_memory(int fd, struct answer *a)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct stat st;
	size_t got = 0;
	ssize_t n;

	if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &st))
		return odd("is not in sealed memory");
	if (st.st_size < 0 || st.st_size > ANSWER_MAX)
		return odd("is too large");
	a->data = malloc((size_t)st.st_size + 1);
	if (!a->data) {
		fprintf(stderr, "roamctl: out of memory\n");
		return EXIT_REFUSED;
	}
	while (got < (size_t)st.st_size) {
		n = pread(fd, a->data + got, (size_t)st.st_size - got, (off_t)got);
		if (n <= 0)
			break;
		got += (size_t)n;
	}
	a->len = got;
	a->data[got] = 0;
	return EXIT_DONE;
}

static int silent(int seconds, ssize_t got)
{
	if (!got)
		fprintf(stderr, "roamctl: the agent hung up; its log says why\n");
	else if (errno == EAGAIN)
		fprintf(stderr, "roamctl: the agent did not answer within %d s; a process that is stopped keeps it "
			"waiting\n", seconds);
	else
		fprintf(stderr, "roamctl: the agent: %s\n", strerror(errno));
	return EXIT_REFUSED;
}

static int converse(int sock, enum command op, uint32_t pid, int seconds, struct answer *a)
{
	struct msg m = { .type = MSG_COMMAND, .op = (uint8_t)op, .pid = pid };
	uint8_t buf[WIRE_MAX + 1];
	int fd, rc, tries;
	ssize_t n;

	randombytes_buf(&m.nonce, sizeof(m.nonce));
	if (send(sock, buf, wire_encode(&m, NULL, buf), MSG_NOSIGNAL) < 0)
		return silent(seconds, -1);
	/* something else may come first, but not without end */
	for (tries = 0; tries < 16; tries++) {
		n = receive(sock, buf, sizeof(buf), &fd);
		if (n <= 0)
			return silent(seconds, n);
		if (wire_decode(&a->report, NULL, buf, (size_t)n) == WIRE_OK &&
		    ((a->report.type == MSG_REPORT && a->report.nonce == m.nonce) ||
		     (a->report.type == MSG_REFUSE && (a->report.nonce == m.nonce || !a->report.nonce)))) {
			rc = fd < 0 ? EXIT_DONE : read_memory(fd, a);
			if (fd >= 0)
				close(fd);
			return rc;
		}
		if (fd >= 0)
			close(fd);
	}
	return odd("does not fit the question");
}

int ctl_ask(const struct opts *o, enum command op, uint32_t pid, int seconds, struct answer *a)
{
	int sock, rc;

	memset(a, 0, sizeof(*a));
	rc = dial(o, seconds, &sock);
	if (rc != EXIT_DONE)
		return rc;
	rc = converse(sock, op, pid, seconds, a);
	close(sock);
	if (rc != EXIT_DONE)
		ctl_free(a);
	return rc;
}

void ctl_free(struct answer *a)
{
	free(a->data);
	a->data = NULL;
	a->len = 0;
}

int ctl_refused(const char *what, uint32_t reason)
{
	/* Of a process this reason means less than its general text says. */
	if (reason == REASON_NOPEER)
		fprintf(stderr, "roamctl: %s: refused, no-peer: the process is not registered with this agent: it is not re-linked, had no "
			"connection worth it so far, or has just been thawed and is back in a moment\n", what);
	else
		fprintf(stderr, "roamctl: %s: refused, %s: %s\n", what, reason_word(reason), reason_text(reason));
	return EXIT_REFUSED;
}
