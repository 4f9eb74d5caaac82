/* What the remote end needs; no harness, so that conf_peer can be built alone. */
#ifndef PEER_LOOP_H
#define PEER_LOOP_H

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

unsigned char pattern(uint64_t off);
int peer_sleeping(pid_t pid, pid_t tid, int limit_ms);
void warm_half(int s, int first);
/* Is its link a ring, and does this run want one? */
int is_ring(int s);
int want_ring(void);
int want_codec(void);
int is_coded(int s);
int peer_loop(int ctl);

#endif
