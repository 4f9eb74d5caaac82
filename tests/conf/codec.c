/* What only a coded link can be told: wire that makes no sense. */
#include "conf.h"
#include <sys/syscall.h>

/* Past the library: the program of a peer that wants to do harm. */
static long raw_send(int fd, const void *p, size_t n)
{
#ifdef __x86_64__
	register long flags __asm__("r10") = MSG_NOSIGNAL;
	register long addr __asm__("r8") = 0;
	register long len __asm__("r9") = 0;
	long r;

	__asm__ volatile("syscall" : "=a"(r)
			 : "a"(SYS_sendto), "D"((long)fd), "S"(p), "d"(n), "r"(flags), "r"(addr), "r"(len)
			 : "rcx", "r11", "memory");
	return r;
#else
	(void)fd;
	(void)p;
	(void)n;
	conf_skip("not written for this processor");
#endif
}

static void hostile(const unsigned char *wire, size_t n)
{
	int fd[2];
	char b[100];

	if (!want_codec())
		conf_skip("only a coded link has such wire");
	pair(fd);
	/* What was said before stands. */
	PUT(fd[0], 10, 0);
	wait_unread(fd[1], 10);
	EQ(raw_send(fd[0], wire, n), n);
	GET(fd[1], 10, 0);
	FAILS(recv(fd[1], b, sizeof b, 0), ECONNRESET);
	EQ(recv(fd[1], b, sizeof b, 0), 0);
	FAILS(send(fd[1], b, 1, MSG_NOSIGNAL), EPIPE);
	OK(close(fd[0]));
	OK(close(fd[1]));
}

CASE(unknown_codec)
{
	static const unsigned char w[64] = { 0x77, 0x77, 0x77, 0x77, 0x77, 0x77 };

	hostile(w, sizeof w);
}

CASE(stored_that_grows)
{
	static const unsigned char w[] = { 0, 0, 0xff, 0xff, 0, 0, 'x' };

	hostile(w, sizeof w);
}

CASE(garbage_for_deflate)
{
	static const unsigned char w[] = { 1, 1, 0xff, 0xff, 7, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

	hostile(w, sizeof w);
}

CASE(note_that_goes_back)
{
	static const unsigned char w[] = { 255, 0, 0, 0, 7, 0, 9, 0, 0, 0, 0, 0, 0, 0,
					   255, 0, 0, 0, 7, 0, 8, 0, 0, 0, 0, 0, 0, 0 };

	hostile(w, sizeof w);
}
