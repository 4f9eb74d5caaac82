/*
 * What the dynamic linker says of a name.  With cover.S in libroam-cover.o, not
 * in the archive: a static program shall not get the dynamic linker through us.
 */
#include "cover.h"
#include <dlfcn.h>

/* Without --wrap flags dlsym is itself; with them it would be our entry. */
void *__real_dlsym(void *handle, const char *name) __attribute__((weak));

static void *ask(void *handle, const char *name)
{
	return __real_dlsym ? __real_dlsym(handle, name) : dlsym(handle, name);
}

__attribute__((weak)) void *roam_cover_next(const char *name)
{
	return ask(RTLD_NEXT, name);
}

__attribute__((weak)) void *roam_cover_first(const char *name)
{
	return ask(RTLD_DEFAULT, name);
}
