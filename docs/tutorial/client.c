/* A plain client: a number every 10 ms, and says whenever another process answers.  client ADDRESS PORT COUNT */
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	int64_t i, m[2], last = 0;

	if (argc < 4 || !inet_aton(argv[1], &a.sin_addr))
		return 2;
	a.sin_port = htons((uint16_t)atoi(argv[2]));
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
		perror("client");
		return 1;
	}
	for (i = 1; i <= atoi(argv[3]); i++) {
		if (send(fd, &i, 8, 0) != 8 || recv(fd, m, 16, MSG_WAITALL) != 16) {
			perror("client: the connection is lost");
			return 1;
		}
		if (m[0] != i) {
			printf("answer %d to number %d\n", (int)m[0], (int)i);
			return 1;
		}
		if (m[1] != last)
			printf("number %d: process %d answers\n", (int)i, (int)m[1]);
		last = m[1];
		usleep(10000);
	}
	printf("%d numbers, %d answers\n", (int)i - 1, (int)i - 1);
	return 0;
}
