/*
 * The whole process: libc's names, defined by the executable.
 *
 * --wrap rewrites the references of the objects in one link.  A call that a
 * shared library makes is bound at run time, to the first definition in the
 * search order, and the executable comes first: linked, dlopened and
 * dlsym(RTLD_DEFAULT) alike.  (libc's own calls do not go through these names.)
 *
 * Every name only jumps on, so that registers, open argument lists and vfork's
 * return address stay as the caller left them.  They are weak: a program may
 * bring its own closefrom.  __real_X is there for a link without --wrap flags;
 * with them lib/sys.c finds X itself.  Both are libc's only after sys_resolve.
 */
#if defined(__has_include)
#if __has_include(<cet.h>)
#include <cet.h>
#endif
#endif

#if defined(__x86_64__)
#ifndef _CET_ENDBR
#define _CET_ENDBR
#endif
#define LANDING _CET_ENDBR
#define JUMP jmp
#define FUNC @function
#define REL32 R_X86_64_PC32
#elif defined(__aarch64__)
#define LANDING hint #34	/* bti c */
#define JUMP b
#define FUNC %function
#define REL32 R_AARCH64_PREL32
#else
#error "say how to jump on this machine"
#endif

#define NAME(name)			\
	.weak name;			\
	.weak __real_##name;		\
	.type name, FUNC;		\
	.type __real_##name, FUNC;	\
name:					\
__real_##name:				\
	LANDING;			\
	JUMP __wrap_##name;		\
	.size name, . - name;		\
	.size __real_##name, . - name;

	.text
	/* Weak as well: this object may be named twice on a command line. */
	.weak roam_cover_begin
	.weak roam_cover_end
	.hidden roam_cover_begin
	.hidden roam_cover_end
roam_cover_begin:
#define WRAP(fam, ret, name, params, args) NAME(name)
#define PASS WRAP
#define HOT WRAP
#define NOSYS WRAP
#define PROG(fam, ret, name, params, args)
#include "wrap.def"
roam_cover_end:
	/*
	 * In a shared library there would be two of us in the process, each the
	 * other's libc.  This makes its link fail, with a name that says why.
	 */
	.weak roam_is_for_the_program_not_for_its_shared_libraries
roam_is_for_the_program_not_for_its_shared_libraries:
	.reloc ., REL32, roam_is_for_the_program_not_for_its_shared_libraries
	.long 0
	.section .note.GNU-stack, "", %progbits
