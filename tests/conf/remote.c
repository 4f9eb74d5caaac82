/* This end of the remote end's strings: start it, send it commands. */
#include "conf.h"

#include <stdarg.h>

pid_t peer_pid;
int peer_errno;
static int ctl = -1;

void peer_start(void)
{
	int sv[2];

	OK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv));
	peer_pid = (pid_t)OK(fork());
	if (!peer_pid) {
		close(sv[0]);
		if (conf_mode == PLAINPEER) {
			const char *prog = getenv("CONF_PEER");

			if (!prog)
				conf_fail(__FILE__, __LINE__, "CONF_PEER is not set");
			dup2(sv[1], 0);
			execl(prog, prog, (char *)NULL);
			conf_fail(__FILE__, __LINE__, "exec %s: %s", prog, strerror(errno));
		}
		_exit(peer_loop(sv[1]));
	}
	OK(close(sv[1]));
	ctl = sv[0];
}

static void post(const char *fmt, va_list ap)
{
	char line[128];
	int n = vsnprintf(line, sizeof line, fmt, ap);

	EQ(send(ctl, line, (size_t)n, MSG_NOSIGNAL), n);
}

void peer_post(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	post(fmt, ap);
	va_end(ap);
}

long peer_wait(void)
{
	char line[128];
	long r = -1;
	ssize_t n;

	do
		n = recv(ctl, line, sizeof line - 1, 0);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		conf_fail(__FILE__, __LINE__, "the remote end is gone");
	line[n] = 0;
	EQ(sscanf(line, "%ld %d", &r, &peer_errno), 2);
	return r;
}

long peer(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	post(fmt, ap);
	va_end(ap);
	return peer_wait();
}

int peer_ctl(void)
{
	return ctl;
}

int peer_open_slot(enum conf_role role, int slot)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	int s;

	EQ(peer("use %d", slot), 0);
	if (role == CONNECTS) {
		a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		a.sin_port = htons((uint16_t)OK(peer("listen")));
		s = dial(&a);
		EQ(peer("accept"), 0);
		EQ(peer("unlisten"), 0);
	} else {
		int l = listener(&a);

		EQ(peer("connect %d", ntohs(a.sin_port)), 0);
		s = (int)OK(accept(l, NULL, NULL));
		OK(close(l));
	}
	peer_post("warm %d", role == CONNECTS);
	warm_half(s, role != CONNECTS);
	EQ(peer_wait(), 0);
	EQ(unread(s), 0);
	return s;
}

int peer_open(enum conf_role role)
{
	peer_start();
	return peer_open_slot(role, 0);
}

void peer_kill(int sig)
{
	OK(kill(peer_pid, sig));
	EQ(waitpid(peer_pid, NULL, 0), peer_pid);
	peer_pid = 0;
}

void peer_finish(void)
{
	if (ctl >= 0)
		OK(close(ctl));
	ctl = -1;
	if (peer_pid)
		EQ(exit_of(peer_pid), 0);
	peer_pid = 0;
}
