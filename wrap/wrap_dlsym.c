/*
 * dlsym: who asks libc for one of our names gets our entry instead.  Only from
 * the program's own objects: RTLD_NEXT depends on the caller, which from here
 * is the executable.  An archive member of its own, for programs that use it:
 * in a static link dlsym brings half of the dynamic linker.
 */
#include "wrap.h"
#include <dlfcn.h>

void *__wrap_dlsym(void *handle, const char *name)
{
	void *p = __real_dlsym(handle, name), *ours = p ? roam_entry(name) : NULL;

	/* Something else of that name, as a plugin's own: as it is. */
	return ours && p == __real_dlsym(RTLD_NEXT, name) ? ours : p;
}
