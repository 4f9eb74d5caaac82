/*
 * Two ends that met through their agents, and are on one host all the same: in
 * two network namespaces of one kernel.  They look for each other's rendezvous
 * socket, and from then on are like two that met there (mend_ask.c, vring.h): a
 * pair page, links by descriptor passing, and a ring.  In the helper.
 */
#ifndef ROAM_NEAR_H
#define ROAM_NEAR_H

#include "helper.h"
#include "wire.h"

/* WELCOME came through the agents: the opener says that it is this process of its host. */
void near_look(struct vsock *v, uint32_t pid, uint64_t start);
/* NEAR on a channel of ours. */
void near_asked(struct chan *c, const struct msg *req, const uint8_t *buf, size_t n);

/* A page for a pair, and the descriptor to be passed; NULL: no memory. */
struct pair *near_page(int *fd);
/* The page that a peer passed; NULL: it is none. */
struct pair *near_page_map(int fd);

#endif
