/* Established TCP sockets of this network namespace, through sock_diag. */
#ifndef TCPDIAG_H
#define TCPDIAG_H

#include <fcntl.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdint.h>

struct tcpsock {
	int family;
	uint32_t addr[2][4];	/* local, remote; network order */
	int sport, dport;
	uint32_t iface;
	uint32_t inode;		/* 0: not accepted yet, or closed */
	uint64_t cookie;	/* grows with each new socket */
};

struct inodes {
	size_t n;
	uint32_t inode[8192];
};

/* Each returns 0 or an errno value. */
int tcpdiag_open(void);
int tcpdiag_probe_destroy(void);
int tcpdiag_destroy(const struct tcpsock *s);

/* The established ones, and if asked those of which one direction has ended. */
size_t tcpdiag_dump(struct tcpsock *out, size_t max, int half_closed);
int tcpdiag_alive(const struct tcpsock *s);

/* Writes the local (which = 0) or remote address as text, without the IPv6
 * mapping; true when IPv4 packets carry the connection. */
int tcpsock_addr(const struct tcpsock *s, int which, char *text);

/* Both ends on this host? Anything else must never be touched by a test. */
int tcpsock_is_local(const struct tcpsock *s);

/* Are these the two ends of one connection? */
int tcpsock_are_ends(const struct tcpsock *a, const struct tcpsock *b);

void inodes_of_pid(struct inodes *set, int pid);
int inodes_have(const struct inodes *set, uint32_t inode);

#endif
