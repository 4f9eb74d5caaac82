/*
 * The TCP link: a kernel socket without framing.  What it carried is known
 * from the kernel's own counters.
 */
#ifndef ROAM_LINK_TCP_H
#define ROAM_LINK_TCP_H

#include "types.h"

enum {				/* tcpi_state */
	LINK_ESTABLISHED = 1, LINK_FIN_WAIT1 = 4, LINK_FIN_WAIT2 = 5,
	LINK_CLOSED = 7, LINK_CLOSE_WAIT = 8,
};

struct link_count {
	uint64_t sent;		/* bytes (and a FIN) handed to the kernel on this link */
	uint64_t acked;		/* of those, acknowledged by the other kernel */
	uint64_t received;	/* bytes (and a FIN) the application has taken */
	uint64_t unread;	/* bytes in the receive queue */
	uint64_t sndbuf;
	uint8_t state;
};

/* syn: this end's connect() made the link. 0 or -1/errno. */
int link_count(int fd, bool syn, struct link_count *c);
/* Is the kernel's connection beyond use (reset, timed out, both sides shut)? */
bool link_dead(int fd);
struct link_silence {
	uint32_t unacked;	/* segments under way */
	uint32_t retransmits;	/* of the oldest, without an answer */
	uint8_t state;
	uint32_t quiet_ms, rtt_ms;	/* since the last acknowledgement; as measured */
};
int link_silence(int fd, struct link_silence *s);	/* 0 or -1/errno */
struct rate_sample;
/* What rate.h wants to know; the time is the caller's to fill in. 0 or -1/errno. */
int link_sample(int fd, struct rate_sample *s);
/* Is the socket's own address still one of this host's? */
bool link_addr_here(int fd);
/*
 * A connected pair over loopback for two ends of these families (4 or 6):
 * fd[0] connected, fd[1] accepted; both non-blocking, close-on-exec. 0 or -1/errno.
 */
int link_pair(const int family[2], int fd[2]);
socklen_t link_sockaddr(struct sockaddr_storage *ss, int family, const uint8_t addr[16], uint16_t port);
int link_open(int family);	/* 4 or 6: a TCP socket, non-blocking, close-on-exec; -1/errno */
/* Copies what the application can have set from one socket to another. */
void link_copy_options(int from, int to);
/* Takes away the bytes that are there; a pending error stays. */
void link_drain(int fd);
/* When it is closed it ends by a reset: nothing of it stays in the kernel. */
void link_abort(int fd);
bool link_resets(int fd);
bool link_nodelay(int fd);
void link_set_nodelay(int fd, bool on);
/* Copies the unread bytes without taking them; the number, or -1. */
ssize_t link_peek(int fd, uint8_t *buf, size_t n);

#endif
