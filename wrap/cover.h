/*
 * How much of the process goes through us, found out at start.
 *
 *	whole		the executable defines libc's names (cover.S), and they win
 *	wrap-only	only the objects of the program's own link are seen; that
 *			was chosen, or the link was static and nothing else is there
 *	lost		cover.S is linked, but a name of it is not exported, or it is
 *			not linked and a shared library uses epoll: calls that we do
 *			not see may use any socket, so all stay plain TCP
 */
#ifndef ROAM_COVER_H
#define ROAM_COVER_H

#include "types.h"

extern bool cover_lost;
extern _Atomic bool cover_said;

void cover_check(void);		/* in the constructor */
void cover_say(void);		/* at the first TCP socket: nobody else wants to know */

/* In libroam-cover.o; not there when the program was linked for wrap-only. */
extern const char roam_cover_begin[] __attribute__((weak)), roam_cover_end[] __attribute__((weak));
void *roam_cover_next(const char *name) __attribute__((weak));	/* behind the executable */
void *roam_cover_first(const char *name) __attribute__((weak));	/* what a shared library gets */

#endif
