/*
 * Somebody else's program: no header of ours. A forked server echoes what the
 * client sends; the client checks it. Exit 0 when every byte came back.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROUNDS = 64, SIZE = 1000 };

static int serve(int l)
{
	char buf[4096];
	ssize_t n;
	int c = accept(l, NULL, NULL);

	if (c < 0)
		return 1;
	while ((n = recv(c, buf, sizeof buf, 0)) > 0)
		if (send(c, buf, (size_t)n, 0) != n)
			return 1;
	close(c);
	return n == 0 ? 0 : 1;
}

static int talk(const struct sockaddr_in *a)
{
	char out[SIZE], in[SIZE];
	int c = socket(AF_INET, SOCK_STREAM, 0);

	if (c < 0 || connect(c, (const struct sockaddr *)a, sizeof *a) < 0)
		return 1;
	for (int i = 0; i < ROUNDS; i++) {
		size_t have = 0;

		memset(out, 'a' + i % 26, sizeof out);
		if (write(c, out, sizeof out) != SIZE)
			return 1;
		while (have < SIZE) {
			ssize_t n = read(c, in + have, SIZE - have);

			if (n <= 0)
				return 1;
			have += (size_t)n;
		}
		if (memcmp(in, out, SIZE))
			return 1;
		/* An upgrade needs a moment of the other threads' time. */
		usleep(1000);
	}
	return close(c) ? 1 : 0;
}

int main(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	socklen_t len = sizeof a;
	int l = socket(AF_INET, SOCK_STREAM, 0), bad, st = 0;
	pid_t pid;

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (l < 0 || bind(l, (struct sockaddr *)&a, sizeof a) < 0 || listen(l, 1) < 0 ||
	    getsockname(l, (struct sockaddr *)&a, &len) < 0) {
		perror("listen");
		return 1;
	}
	pid = fork();
	if (pid < 0) {
		perror("fork");
		return 1;
	}
	if (pid == 0)
		return serve(l);
	close(l);
	bad = talk(&a);
	if (waitpid(pid, &st, 0) != pid || !WIFEXITED(st) || WEXITSTATUS(st))
		bad = 1;
	puts(bad ? "bytes are missing" : "every byte came back");
	return bad;
}
