/* Processes: fork, exec, exit. */
#include "wrap.h"
#include "cover.h"
#include "fdtab.h"
#include "helper.h"
#include "sys.h"
#include "vring.h"
#include <pthread.h>
#include <stdlib.h>
#include <sys/single_threaded.h>

/* fork() is also called inside libraries: the handlers see those too. */
__attribute__((constructor)) static void at_start(void)
{
	/* Threads that started before us, in the constructors of libraries. */
	if (!__libc_single_threaded)
		sys_threads = true;
	sys_resolve();
	cover_check();
	pthread_atfork(helper_fork_prepare, helper_fork_parent, helper_fork_child);
}

__attribute__((destructor)) static void at_end(void)
{
	helper_exit();
}

void __wrap__exit(int code)
{
	helper_exit();
	sys_exit_now(code);
}

void __wrap__Exit(int code)
{
	__wrap__exit(code);
}

int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *at, void *(*fn)(void *), void *arg)
{
	sys_threads = true;
	return sys_pthread_create(t, at, fn, arg);
}

/*
 * vfork returns twice into the same frame, so no C function can stand for it:
 * keep the return address in a register over the system call, and mark the
 * child, which runs in the parent's memory, so that it leaves our tables alone.
 */
void roam_vfork_mark(long in_child);
void roam_vfork_mark(long in_child)
{
	if (in_child)
		vring_leave_inherited();
	roam_vfork_child = (int)in_child;
}

/* AddressSanitizer must know when a vfork child leaves its frames in the parent's stack. */
#if defined(__SANITIZE_ADDRESS__)
#define PLAIN_FORK 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PLAIN_FORK 1
#endif
#endif

#if defined(__x86_64__) && !defined(PLAIN_FORK)
__asm__(
	".text\n"
	".globl __wrap_vfork\n"
	".type __wrap_vfork, @function\n"
	"__wrap_vfork:\n"
	"	.cfi_startproc\n"
	/* The child sees the flag from its first instruction on; the parent sleeps meanwhile. */
	"	subq $8, %rsp\n"
	"	movl $1, %edi\n"
	"	call roam_vfork_mark\n"
	"	addq $8, %rsp\n"
	"	popq %rdx\n"
	"	movl $58, %eax\n"
	"	syscall\n"
	"	pushq %rdx\n"
	"	testq %rax, %rax\n"
	"	jz 1f\n"
	"	pushq %rax\n"
	"	xorl %edi, %edi\n"
	"	call roam_vfork_mark\n"
	"	popq %rax\n"
	"	cmpq $-4095, %rax\n"
	"	jae 2f\n"
	"1:	ret\n"
	"2:	negl %eax\n"
	"	pushq %rax\n"
	"	call __errno_location@PLT\n"
	"	popq %rcx\n"
	"	movl %ecx, (%rax)\n"
	"	movq $-1, %rax\n"
	"	ret\n"
	"	.cfi_endproc\n"
	".size __wrap_vfork, .-__wrap_vfork\n"
);
#elif defined(__aarch64__) && !defined(PLAIN_FORK)
__asm__(
	".text\n"
	".globl __wrap_vfork\n"
	".type __wrap_vfork, %function\n"
	"__wrap_vfork:\n"
	/* No call in between may use the child's stack below: keep x30 in x19's place on the stack. */
	"	stp x29, x30, [sp, #-16]!\n"
	"	mov x0, #1\n"
	"	bl roam_vfork_mark\n"
	"	ldp x29, x30, [sp], #16\n"
	"	mov x9, x30\n"
	"	mov x0, #0x4111\n"		/* CLONE_VM | CLONE_VFORK | SIGCHLD */
	"	mov x1, #0\n"
	"	mov x8, #220\n"
	"	svc #0\n"
	"	mov x30, x9\n"
	"	cbz x0, 1f\n"
	"	stp x0, x30, [sp, #-16]!\n"
	"	mov x0, #0\n"
	"	bl roam_vfork_mark\n"
	"	ldp x0, x30, [sp], #16\n"
	"	cmn x0, #4095\n"
	"	b.cs 2f\n"
	"1:	ret\n"
	"2:	neg w0, w0\n"
	"	stp x0, x30, [sp, #-16]!\n"
	"	bl __errno_location\n"
	"	ldp x1, x30, [sp], #16\n"
	"	str w1, [x0]\n"
	"	mov x0, #-1\n"
	"	ret\n"
	".size __wrap_vfork, .-__wrap_vfork\n"
);
#else
pid_t __wrap_vfork(void)
{
	return sys_fork();	/* allowed by POSIX, only slower */
}
#endif

/* What comes after exec does not speak for our connections: nobody shall wait for its word. */
#define EXEC(name, params, args)		\
	int __wrap_##name params		\
	{					\
		int r_;				\
						\
		vring_leave_inherited();	\
		vs_exec(true);			\
		r_ = sys_##name args;		\
		vs_exec(false);			\
		return r_;			\
	}
EXEC(execve, (const char *path, char *const argv[], char *const envp[]), (path, argv, envp))
EXEC(execv, (const char *path, char *const argv[]), (path, argv))
EXEC(execvp, (const char *file, char *const argv[]), (file, argv))
EXEC(execvpe, (const char *file, char *const argv[], char *const envp[]), (file, argv, envp))
EXEC(fexecve, (int fd, char *const argv[], char *const envp[]), (fd, argv, envp))
EXEC(execveat, (int dir, const char *path, char *const argv[], char *const envp[], int flags),
     (dir, path, argv, envp, flags))

/* libc's own spawn and exec are behind these. */
int __wrap_system(const char *cmd)
{
	vring_leave_inherited();
	return sys_system(cmd);
}

FILE *__wrap_popen(const char *cmd, const char *mode)
{
	vring_leave_inherited();
	return sys_popen(cmd, mode);
}

int __wrap_posix_spawn(pid_t *pid, const char *path, const posix_spawn_file_actions_t *fa,
		       const posix_spawnattr_t *at, char *const argv[], char *const envp[])
{
	vring_leave_inherited();
	return sys_posix_spawn(pid, path, fa, at, argv, envp);
}

int __wrap_posix_spawnp(pid_t *pid, const char *file, const posix_spawn_file_actions_t *fa,
			const posix_spawnattr_t *at, char *const argv[], char *const envp[])
{
	vring_leave_inherited();
	return sys_posix_spawnp(pid, file, fa, at, argv, envp);
}

/* The open argument lists become arrays; then they go the way of the others. */
#define COLLECT(first, last)						\
	va_list ap_;							\
	size_t n_ = 1, i_;						\
	const char **argv_;						\
									\
	va_start(ap_, last);						\
	while (va_arg(ap_, const char *))				\
		n_++;							\
	va_end(ap_);							\
	argv_ = __builtin_alloca((n_ + 1) * sizeof(*argv_));		\
	va_start(ap_, last);						\
	argv_[0] = first;						\
	for (i_ = 1; i_ <= n_; i_++)					\
		argv_[i_] = va_arg(ap_, const char *)

int __wrap_execl(const char *path, const char *arg, ...)
{
	COLLECT(arg, arg);
	va_end(ap_);
	return __wrap_execv(path, (char *const *)argv_);
}

int __wrap_execlp(const char *file, const char *arg, ...)
{
	COLLECT(arg, arg);
	va_end(ap_);
	return __wrap_execvp(file, (char *const *)argv_);
}

int __wrap_execle(const char *path, const char *arg, ...)
{
	char *const *envp;

	COLLECT(arg, arg);
	envp = va_arg(ap_, char *const *);
	va_end(ap_);
	return __wrap_execve(path, (char *const *)argv_, envp);
}

/* ---- listed, and so far only passed on */
#define WRAP(fam, ret, name, params, args)
#define HOT WRAP
#define NOSYS(fam, ret, name, params, args)
#define PROG NOSYS
#define PASS(fam, ret, name, params, args) \
	ret __wrap_##name params { return sys_##name args; }
#include "wrap.def"
#undef WRAP
#undef NOSYS
#undef PROG
#undef PASS
#undef HOT
