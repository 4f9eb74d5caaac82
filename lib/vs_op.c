#include "vs_int.h"

/* ---- the application's buffers */

const struct iovec *vs_op_iov(const struct io_op *op, int *cnt)
{
	const struct msghdr *m = op->msg;

	*cnt = op->kind == IO_MSG ? (int)m->msg_iovlen : op->kind == IO_VEC ? op->cnt : 1;
	return op->kind == IO_MSG ? m->msg_iov : op->kind == IO_VEC ? op->iov : &op->one;
}

size_t vs_op_want(const struct io_op *op)
{
	const struct iovec *iov;
	size_t n = 0;
	int i, cnt;

	iov = vs_op_iov(op, &cnt);
	for (i = 0; i < cnt; i++)
		n += iov[i].iov_len;
	return n;
}

bool vs_rest_of(const struct io_op *op, size_t skip, struct rest *r)
{
	const struct iovec *iov;
	int i, cnt;

	iov = vs_op_iov(op, &cnt);
	r->iov = r->few;
	r->cnt = 0;
	if (cnt > 8 && !(r->iov = malloc((size_t)cnt * sizeof(*iov)))) {
		errno = ENOMEM;
		return false;
	}
	for (i = 0; i < cnt; i++) {
		size_t len = iov[i].iov_len;

		if (skip >= len) {
			skip -= len;
			continue;
		}
		r->iov[r->cnt].iov_base = (char *)iov[i].iov_base + skip;
		r->iov[r->cnt++].iov_len = len - skip;
		skip = 0;
	}
	return true;
}

void vs_rest_free(struct rest *r)
{
	int e = errno;

	if (r->iov != r->few)
		free(r->iov);
	errno = e;
}

/* The calls that the kernel would not have made. */
int vs_op_refused(const struct io_op *op)
{
	const struct msghdr *m = op->msg;

	if (op->kind == IO_VEC && (op->cnt < 0 || op->cnt > IOV_MAX))
		return EINVAL;
	if (op->kind == IO_MSG && m->msg_iovlen > IOV_MAX)
		return EMSGSIZE;
	if (op->kind == IO_FROM && op->addr && !op->len && (op->cnt < 0 || (size_t)op->cnt > sizeof(struct sockaddr_storage)))
		return EINVAL;
	if (op->kind == IO_FROM && op->addr && !op->len && op->cnt && sys_readable_word(op->addr) < 0)
		return EFAULT;
	return 0;
}

void vs_op_no_names(const struct io_op *op)
{
	struct msghdr *m = op->msg;

	if (op->kind == IO_MSG) {
		m->msg_namelen = 0;
		m->msg_controllen = 0;
		m->msg_flags = 0;
	} else if (op->kind == IO_FROM && op->len) {
		*op->len = 0;
	}
}

bool vs_op_early(const struct io_op *op, int fd, ssize_t *r)
{
	int e = vs_op_refused(op);

	if (e) {
		errno = e;
		*r = -1;
		return true;
	}
	/* readv of nothing returns at once, where recv of nothing waits. */
	if (op->kind == IO_VEC && !vs_op_want(op)) {
		*r = 0;
		return true;
	}
	if (likely(!(op->flags & (MSG_OOB | MSG_ERRQUEUE))))
		return false;
	*r = sys_recv(fd, NULL, 0, op->flags | MSG_DONTWAIT);
	return true;
}
