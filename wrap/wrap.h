/* Prototypes made from the list: the entries and the functions they stand for. */
#ifndef ROAM_WRAP_H
#define ROAM_WRAP_H

#include "types.h"

#define ROAM_PUBLIC __attribute__((visibility("default")))

#define WRAP(fam, ret, name, params, args)	\
	ROAM_PUBLIC ret __wrap_##name params;	\
	ret __real_##name params;
#define PASS WRAP
#define HOT WRAP
#define NOSYS WRAP
#define PROG WRAP
#include "wrap.def"
#undef WRAP
#undef PASS
#undef HOT
#undef NOSYS
#undef PROG

/* The entry of that name, NULL when there is none. */
ROAM_PUBLIC void *roam_entry(const char *name);

#endif
