/* Built into the program (CALLS is own_calls) and into a shared library (lib_calls). */
#include "calls.h"
#include <netinet/in.h>
#include <unistd.h>

/* Each in a function: a call, not an address that somebody hands out. */
static int c_socket(int a, int b, int c) { return socket(a, b, c); }
static int c_connect(int a, const struct sockaddr *b, socklen_t c) { return connect(a, b, c); }
static int c_bind(int a, const struct sockaddr *b, socklen_t c) { return bind(a, b, c); }
static int c_listen(int a, int b) { return listen(a, b); }
static int c_accept(int a, struct sockaddr *b, socklen_t *c) { return accept(a, b, c); }
static ssize_t c_recv(int a, void *b, size_t c, int d) { return recv(a, b, c, d); }
static ssize_t c_read(int a, void *b, size_t c) { return read(a, b, c); }
static ssize_t c_send(int a, const void *b, size_t c, int d) { return send(a, b, c, d); }
static ssize_t c_write(int a, const void *b, size_t c) { return write(a, b, c); }
static int c_close(int a) { return close(a); }
#ifndef NO_EPOLL
static int c_epoll_create1(int a) { return epoll_create1(a); }
static int c_epoll_ctl(int a, int b, int c, struct epoll_event *d) { return epoll_ctl(a, b, c, d); }
static int c_epoll_wait(int a, struct epoll_event *b, int c, int d) { return epoll_wait(a, b, c, d); }
#endif

extern const struct calls CALLS;
const struct calls CALLS = {
	c_socket, c_connect, c_bind, c_listen, c_accept, c_recv, c_read, c_send, c_write, c_close,
#ifndef NO_EPOLL
	c_epoll_create1, c_epoll_ctl, c_epoll_wait,
#endif
};

#ifdef SHARED
/* Before the executable's constructors, and after its destructors. */
static void use(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0), two = dup(fd);

	close(fd);
	close(two);
	if (write(-1, "", 1) != -1)
		_exit(3);
}

__attribute__((constructor)) static void early(void)
{
	use();
}

__attribute__((destructor)) static void late(void)
{
	use();
}
#endif
