/* Between the files that make up vs_io.h's functions. */
#ifndef ROAM_VS_INT_H
#define ROAM_VS_INT_H

#include "ep.h"
#include "helper.h"
#include "link_tcp.h"
#include "log.h"
#include "meet.h"
#include "vs_io.h"
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* vs_judge.c: what an odd result means. errno values; true: the link is broken, now known as such. */
bool vs_link_error(int e);
bool vs_peer_closed(struct vsock *v, struct vstate *st);
bool vs_judge_rx(struct vsock *v, int fd, ssize_t r, int err);
/*
 * A link that died after all was said: the peer has closed, its last byte was
 * read, and the error is none that the peer can have meant. It is the end of
 * the stream. (A reset can be meant: bytes of ours were thrown away unread.)
 */
bool vs_clean_end(struct vsock *v, int err);
bool vs_judge_tx(struct vsock *v, int err);
bool vs_nonblocking(int fd, int flags);
/* The end of SO_RCVTIMEO or SO_SNDTIMEO from now, CLOCK_MONOTONIC ns; 0: none. */
uint64_t vs_deadline(int fd, int opt);
/* Sets errno to what the link died with, once. */
bool vs_take_pending(struct vsock *v);
void vs_error_later(struct vsock *v, int err);

/* vs_op.c: the application's buffers. */
struct rest {			/* those behind the first `skip` bytes */
	struct iovec few[8], *iov;
	int cnt;
};
const struct iovec *vs_op_iov(const struct io_op *op, int *cnt);
size_t vs_op_want(const struct io_op *op);
bool vs_rest_of(const struct io_op *op, size_t skip, struct rest *r);	/* false: ENOMEM */
void vs_rest_free(struct rest *r);
int vs_op_refused(const struct io_op *op);	/* the errno of a call that the kernel would not have made, or 0 */
bool vs_op_early(const struct io_op *op, int fd, ssize_t *r);	/* a receive that no byte of the stream decides: *r, errno */
void vs_op_no_names(const struct io_op *op);	/* what the kernel says of a stream's sender */

/* vs_tx.c */
/* Up to n bytes behind `done` into the replay buffer; tx is held. How many: all, or 0. */
size_t vs_keep_unsent(struct vstate *st, const struct io_op *op, size_t done, size_t n);
int vs_wait_writable(int fd, uint64_t end);	/* 0, or an errno */

#endif
