/* teller ADDR PORT SECONDS: sends as fast as it can, and prints what roam.h tells about the bandwidth. */
#include "roam.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	static char chunk[16384];
	struct roam_event ev;
	int s, efd = roam_events();
	time_t end;

	if (argc != 4 || efd < 0 || inet_pton(AF_INET, argv[1], &a.sin_addr) != 1)
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 0);
	a.sin_port = htons((uint16_t)atoi(argv[2]));
	end = time(NULL) + atoi(argv[3]);
	s = socket(AF_INET, SOCK_STREAM, 0);
	if (s < 0 || connect(s, (struct sockaddr *)&a, sizeof(a)) < 0) {
		perror("teller");
		return 1;
	}
	while (time(NULL) < end) {
		if (write(s, chunk, sizeof(chunk)) < 0) {
			perror("teller: write");
			return 1;
		}
		while (roam_event_read(efd, &ev, sizeof(ev)) == 1)
			if (ev.kind == ROAM_EVENT_BANDWIDTH)
				printf("bandwidth fd %d is %d, %llu\n", ev.fd, s, (unsigned long long)ev.value);
	}
	close(s);
	return 0;
}
