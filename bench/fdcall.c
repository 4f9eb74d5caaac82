/* The cost of read and write on a descriptor that is no socket. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "node.h"

static int batch_read(int fd, unsigned calls)
{
	char c;

	for (unsigned i = 0; i < calls; i++)
		if (read(fd, &c, 1) != 1)
			return -1;
	return 0;
}

static int batch_write(int fd, unsigned calls)
{
	for (unsigned i = 0; i < calls; i++)
		if (write(fd, "x", 1) != 1)
			return -1;
	return 0;
}

int fdcall(const char *kind, unsigned batches, unsigned calls, double *ns)
{
	bool is_read = !strcmp(kind, "read");
	int fd = is_read ? open("/dev/zero", O_RDONLY) : open("/dev/null", O_WRONLY);
	uint64_t best = UINT64_MAX;

	if (fd < 0)
		return -1;
	for (unsigned b = 0; b < batches; b++) {
		uint64_t t0 = now_ns(), t;

		if (is_read ? batch_read(fd, calls) : batch_write(fd, calls))
			return -1;
		t = now_ns() - t0;
		best = t < best ? t : best;
	}
	*ns = (double)best / calls;
	return close(fd);
}
