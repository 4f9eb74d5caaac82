/*
 * lib/sys.h for programs that are not re-linked and want a few of the
 * library's modules: only what the ring needs.
 */
#include "sys.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

int sys_close(int fd)
{
	return close(fd);
}

int sys_memfd(const char *name, size_t size)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd >= 0 && (ftruncate(fd, (off_t)size) < 0 ||
			fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

size_t sys_memfd_size(int fd)
{
	struct stat st;
	int seals = fcntl(fd, F_GET_SEALS, 0);

	return seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &st) < 0 ? 0 : (size_t)st.st_size;
}

void *sys_map_shared(int fd, size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return p == MAP_FAILED ? NULL : p;
}

void *sys_map_fork_shared(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

void sys_unmap(void *p, size_t size)
{
	munmap(p, size);
}

uint64_t sys_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int sys_futex_wait(_Atomic uint32_t *w, uint32_t val, int64_t tmo_ns)
{
	struct timespec t = { tmo_ns / 1000000000, tmo_ns % 1000000000 };

	return syscall(SYS_futex, w, FUTEX_WAIT, val, tmo_ns < 0 ? NULL : &t, NULL, 0) < 0 ? errno : 0;
}

void sys_futex_wake(_Atomic uint32_t *w, int n)
{
	syscall(SYS_futex, w, FUTEX_WAKE, n, NULL, NULL, 0);
}

int sys_cpu(void)
{
	return sched_getcpu();
}

int sys_cpus(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) < 0 ? 1024 : CPU_COUNT(&set);
}

void sys_yield(void)
{
	sched_yield();
}

int sys_barrier_join(void)
{
	return syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) < 0 ? -1 : 0;
}

int sys_barrier(void)
{
	return syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0) < 0 ? -1 : 0;
}
