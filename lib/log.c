#include "log.h"
#include "fdtab.h"
#include "helper.h"
#include "sys.h"
#include <errno.h>
#include <stdarg.h>
#include <string.h>

/* A copy of the standard error that the program began with; -1: use 2 itself. */
static int log_fd = -1;

void log_open(void)
{
	/* Errors only: not worth a descriptor in every program. */
	if (roam_conf.log >= CONF_LOG_INFO)
		log_fd = fdtab_hide_copy(2);
}

int log_descriptor(void)
{
	return log_fd;
}

void log_moved(int from, int to)
{
	if (log_fd == from)
		log_fd = to;
}

void log_line(const char *fmt, ...)
{
	char buf[512];
	int e = errno, fd = log_fd >= 0 ? log_fd : 2, own = -1;
	va_list ap;
	size_t n;
	int r;

	if (fd == 2 && fdtab_raw(2))
		return;
	/* The helper has no standard error of its own. */
	if (fd == 2 && roam_in_helper)
		fd = own = helper_borrow(2);
	n = (size_t)snprintf(buf, sizeof(buf), "roam[%d]: ", sys_getpid());
	va_start(ap, fmt);
	r = vsnprintf(buf + n, sizeof(buf) - n - 1, fmt, ap);
	va_end(ap);
	if (r > 0)
		n += (size_t)r < sizeof(buf) - n - 1 ? (size_t)r : sizeof(buf) - n - 2;
	buf[n++] = '\n';
	if (sys_write(fd, buf, n) < 0) {
		/* Nowhere left to complain to. */
	}
	helper_close(own);
	errno = e;
}
