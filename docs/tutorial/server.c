/* A plain server: answers each number with the number and its own process id.  server PORT */
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static volatile sig_atomic_t over;

static void on_term(int sig)
{
	(void)sig;
	over = 1;
}

int main(int argc, char **argv)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argc > 1 ? argv[1] : "7000")) };
	struct pollfd p[64] = { { .events = POLLIN } };
	int n = 1, i, yes = 1;
	int64_t m[2];

	p[0].fd = socket(AF_INET, SOCK_STREAM, 0);
	setsockopt(p[0].fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
	if (bind(p[0].fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(p[0].fd, 8) < 0) {
		perror("server");
		return 1;
	}
	sigaction(SIGTERM, &(struct sigaction){ .sa_handler = on_term }, NULL);
	while (!over) {
		if (poll(p, (nfds_t)n, 100) <= 0)
			continue;
		if (p[0].revents && n < 64)
			p[n++] = (struct pollfd){ .fd = accept(p[0].fd, NULL, NULL), .events = POLLIN };
		for (i = 1; i < n; i++) {
			if (!p[i].revents)
				continue;
			/* Whole numbers only: what is read is answered before this process ends. */
			ssize_t r = recv(p[i].fd, m, 8, MSG_PEEK);

			if (r == 8 && recv(p[i].fd, m, 8, 0) == 8) {
				m[1] = getpid();
				send(p[i].fd, m, 16, 0);
			} else if (r <= 0) {
				close(p[i].fd);
				p[i--] = p[--n];
			}
		}
	}
	return 0;
}
