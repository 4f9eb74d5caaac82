/*
 * The agent's files in the rendezvous directory (docs/protocol.md, "Files"):
 * symbolic links that libraries read with one system call.
 */
#ifndef ROAMD_MARKERS_H
#define ROAMD_MARKERS_H

#include "util.h"

/* Makes and checks the directory; false: said why. */
bool markers_dir(void);
/* Removes what an earlier agent of this network namespace left. */
void markers_sweep(void);
/* A clean end: removes everything of ours but the socket. */
void markers_end(void);

/* path: the name in the directory; false: too long. */
bool marker_path(char *path, size_t n, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void marker_host(uint8_t family, const uint8_t addr[16], const uint8_t host[16]);
void marker_host_gone(uint8_t family, const uint8_t addr[16], const uint8_t host[16]);
void marker_nets(void);
void marker_parked(const uint8_t svc[16], uint32_t n);	/* 0 removes it */
/* The offer's file, exactly as lib/meet.c names it. */
bool marker_offer(const struct tuple *t, uint64_t nonce);
void marker_offer_gone(const struct tuple *t, uint64_t nonce);
/* The process is no longer frozen. */
bool marker_thaw(uint32_t pid);

#endif
