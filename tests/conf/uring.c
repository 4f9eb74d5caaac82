/* io_uring on a connection: the kernel moves the bytes, and no library sees it. */
#include "conf.h"

#include <linux/io_uring.h>

/* The smallest ring there is, by raw calls: one operation at a time. */
struct uring {
	int fd;
	unsigned char *sq, *cq;
	struct io_uring_sqe *sqe;
	struct io_uring_params p;
};

static void uring_open(struct uring *u)
{
	memset(u, 0, sizeof *u);
	u->fd = (int)syscall(SYS_io_uring_setup, 1, &u->p);
	if (u->fd < 0)
		conf_skip("io_uring_setup: %s", strerror(errno));
	u->sq = mmap(NULL, u->p.sq_off.array + u->p.sq_entries * sizeof(unsigned int), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_POPULATE, u->fd, IORING_OFF_SQ_RING);
	u->cq = mmap(NULL, u->p.cq_off.cqes + u->p.cq_entries * sizeof(struct io_uring_cqe), PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_POPULATE, u->fd, IORING_OFF_CQ_RING);
	u->sqe = mmap(NULL, u->p.sq_entries * sizeof(*u->sqe), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
		      u->fd, IORING_OFF_SQES);
	CHECK(u->sq != MAP_FAILED && u->cq != MAP_FAILED && (void *)u->sqe != MAP_FAILED);
}

static int uring_do(struct uring *u, int op, int s, void *buf, unsigned int n)
{
	unsigned int *tail = (unsigned int *)(u->sq + u->p.sq_off.tail);
	unsigned int *head = (unsigned int *)(u->cq + u->p.cq_off.head);
	unsigned int mask = *(unsigned int *)(u->cq + u->p.cq_off.ring_mask);
	struct io_uring_cqe *cqe;

	memset(u->sqe, 0, sizeof(*u->sqe));
	u->sqe->opcode = (unsigned char)op;
	u->sqe->fd = s;
	u->sqe->addr = (uintptr_t)buf;
	u->sqe->len = n;
	*(unsigned int *)(u->sq + u->p.sq_off.array) = 0;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	EQ(syscall(SYS_io_uring_enter, u->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0), 1);
	cqe = (struct io_uring_cqe *)(u->cq + u->p.cq_off.cqes) + (*head & mask);
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	return cqe->res;
}

static void uring_close(struct uring *u)
{
	munmap(u->sqe, u->p.sq_entries * sizeof(*u->sqe));
	munmap(u->cq, u->p.cq_off.cqes + u->p.cq_entries * sizeof(struct io_uring_cqe));
	munmap(u->sq, u->p.sq_off.array + u->p.sq_entries * sizeof(unsigned int));
	OK(close(u->fd));
}

/* Opened when the connection has long been in use: what it carried stays in order. */
PEERCASE(in_the_middle)
{
	struct uring u;
	char b[100];

	PUT(s, 50, 0);
	EQ(peer("recv 50"), 50);
	EQ(peer("send 50"), 50);
	wait_unread(s, 50);
	uring_open(&u);
	fill(b, 100, 50);
	EQ(uring_do(&u, IORING_OP_SEND, s, b, 100), 100);
	EQ(peer("recv 100"), 100);
	EQ(uring_do(&u, IORING_OP_RECV, s, b, 20), 20);
	SAME(b, 20, 0);
	GET(s, 30, 20);
	EQ(peer("send 100"), 100);
	EQ(uring_do(&u, IORING_OP_RECV, s, b, 100), 100);
	SAME(b, 100, 50);
	PUT(s, 10, 150);
	EQ(peer("recv 10"), 10);
	uring_close(&u);
	OK(close(s));
	EQ(peer("drain"), 0);
}

/* A receive that waits in the kernel, and the end of the stream. */
CASE(waits_and_ends)
{
	struct uring u;
	char b[100];
	int fd[2];

	pair(fd);
	uring_open(&u);
	for (int i = 0; i < 10; i++) {
		PUT(fd[0], 100, (uint64_t)i * 100);
		EQ(uring_do(&u, IORING_OP_RECV, fd[1], b, 100), 100);
		SAME(b, 100, (uint64_t)i * 100);
		fill(b, 100, (uint64_t)i * 100);
		EQ(uring_do(&u, IORING_OP_SEND, fd[1], b, 100), 100);
		GET(fd[0], 100, (uint64_t)i * 100);
	}
	OK(shutdown(fd[0], SHUT_WR));
	EQ(uring_do(&u, IORING_OP_RECV, fd[1], b, 100), 0);
	uring_close(&u);
	OK(close(fd[0]));
	OK(close(fd[1]));
}
