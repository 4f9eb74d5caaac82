/*
 * A program that would like to know, and need not: with roam and without it.
 * Prints what it is linked with, and what roam says of a new connection.
 */
#include <roam.h>
#include <stdio.h>
#include <sys/socket.h>

int main(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	if (!roam_linked()) {
		puts("without roam");
		return 0;
	}
	printf("with roam, version %d\n", roam_version());
	return roam_policy(fd, ROAM_POLICY_RING, 0) || roam_policy_get(fd, ROAM_POLICY_RING) != 0;
}
