/* Other programs started beside or on a connection: vfork, exec, spawn. */
#include "conf.h"

#include <spawn.h>

extern char **environ;

/* vfork, close and dup2 in the child, exec; the parent is unaffected. */
PEERCASE(vfork_exec)
{
	int null = (int)OK(open("/dev/null", O_RDWR));

	for (int i = 0; i < 3; i++) {
		pid_t p = vfork();

		if (!p) {
			dup2(null, s);
			close(null);
			close(s);
			execl("/bin/true", "true", (char *)NULL);
			_exit(127);
		}
		CHECK(p > 0);
		EQ(exit_of(p), 0);
		PUT(s, 100, (uint64_t)i * 100);
		EQ(peer("recv 100"), 100);
		EQ(peer("send 100"), 100);
		GET(s, 100, (uint64_t)i * 100);
	}
	pid_t p = vfork();
	if (!p)
		_exit(9);
	EQ(exit_of(p), 9);
	PUT(s, 10, 300);
	EQ(peer("recv 10"), 10);
	OK(close(null));
	OK(close(s));
	EQ(peer("drain"), 0);
}

PEERCASE(vfork_foreign_program_writes)
{
	char want[5];

	/* What the remote checks is the pattern: the bytes go by a file. */
	fill(want, 5, 0);
	int f = (int)OK(memfd_create("conf", 0));
	EQ(write(f, want, 5), 5);
	EQ(lseek(f, 0, SEEK_SET), 0);
	pid_t p = vfork();
	if (!p) {
		dup2(f, 0);
		dup2(s, 1);
		execl("/bin/cat", "cat", (char *)NULL);
		_exit(127);
	}
	EQ(exit_of(p), 0);
	OK(close(f));
	EQ(peer("recv 5"), 5);
	PUT(s, 10, 5);
	EQ(peer("recv 10"), 10);
	EQ(peer("send 10"), 10);
	GET(s, 10, 0);
	OK(close(s));
	EQ(peer("drain"), 0);
}

CASE(exec_cat_as_echo)
{
	int fd[2];

	/* /bin/cat, which knows nothing, as an echo server on our connection. */
	pair(fd);
	pid_t p = (pid_t)OK(fork());
	if (!p) {
		dup2(fd[1], 0);
		dup2(fd[1], 1);
		close(fd[0]);
		close(fd[1]);
		execl("/bin/cat", "cat", (char *)NULL);
		_exit(127);
	}
	OK(close(fd[1]));
	for (int i = 0; i < 20; i++) {
		PUT(fd[0], 1000, (uint64_t)i * 1000);
		GET(fd[0], 1000, (uint64_t)i * 1000);
	}
	OK(shutdown(fd[0], SHUT_WR));
	GET_EOF(fd[0]);
	EQ(exit_of(p), 0);
	OK(close(fd[0]));
}

/* Data that waits unread, then exec: the new program finds it. */
CASE(exec_finds_unread_data)
{
	char b[64];
	int fd[2];

	pair(fd);
	PUT(fd[0], 40, 0);
	wait_unread(fd[1], 40);
	GET(fd[1], 10, 0);
	pid_t p = (pid_t)OK(fork());
	if (!p) {
		dup2(fd[1], 0);
		dup2(fd[1], 1);
		close(fd[0]);
		close(fd[1]);
		execl("/bin/sh", "sh", "-c", "exec head -c 30", (char *)NULL);
		_exit(127);
	}
	OK(close(fd[1]));
	EQ(recv(fd[0], b, 30, MSG_WAITALL), 30);
	SAME(b, 30, 10);
	GET_EOF(fd[0]);
	EQ(exit_of(p), 0);
	OK(close(fd[0]));
}

/* The parent goes on after a foreign child used the connection both ways. */
CASE(parent_goes_on_after_foreign_child)
{
	char b[64];
	int fd[2];

	pair(fd);
	for (int i = 0; i < 3; i++) {
		PUT(fd[0], 100, (uint64_t)i * 100);
		GET(fd[1], 100, (uint64_t)i * 100);
		EQ(send(fd[1], "ask\n", 4, 0), 4);
		pid_t p = (pid_t)OK(fork());
		if (!p) {
			dup2(fd[0], 0);
			dup2(fd[0], 1);
			execl("/bin/sh", "sh", "-c", "read x; echo got $x", (char *)NULL);
			_exit(127);
		}
		EQ(recv(fd[1], b, 8, MSG_WAITALL), 8);
		EQ(memcmp(b, "got ask\n", 8), 0);
		EQ(exit_of(p), 0);
		PUT(fd[1], 50, (uint64_t)i * 50);
		GET(fd[0], 50, (uint64_t)i * 50);
	}
	OK(close(fd[0]));
	GET_EOF(fd[1]);
	OK(close(fd[1]));
}

CASE(exec_closes_cloexec)
{
	int fd[2];

	pair(fd);
	OK(fcntl(fd[0], F_SETFD, FD_CLOEXEC));
	OK(fcntl(fd[1], F_SETFD, FD_CLOEXEC));
	pid_t p = (pid_t)OK(fork());
	if (!p) {
		execl("/bin/sh", "sh", "-c", "ls -l /proc/self/fd | grep -q socket: && exit 3; exit 0",
		      (char *)NULL);
		_exit(127);
	}
	/* Our own standard descriptors may be sockets: then the test says nothing. */
	int st = exit_of(p);
	struct stat sb;
	int std_socket = 0;
	for (int i = 0; i < 3; i++)
		std_socket |= !fstat(i, &sb) && S_ISSOCK(sb.st_mode);
	if (!std_socket)
		EQ(st, 0);
	PUT(fd[0], 10, 0);
	GET(fd[1], 10, 0);
	OK(close(fd[0]));
	GET_EOF(fd[1]);
	OK(close(fd[1]));
}

CASE(exec_of_the_last_holder_ends_the_stream)
{
	int fd[2];

	/* Close-on-exec is a close: the peer sees the end while the process lives on. */
	pair(fd);
	OK(fcntl(fd[0], F_SETFD, FD_CLOEXEC));
	int go[2];
	OK(pipe(go));
	pid_t p = (pid_t)OK(fork());
	if (!p) {
		close(fd[1]);
		close(go[1]);
		dup2(go[0], 0);
		execl("/bin/cat", "cat", (char *)NULL);
		_exit(127);
	}
	OK(close(fd[0]));
	GET_EOF(fd[1]);
	OK(close(go[0]));
	OK(close(go[1]));
	EQ(exit_of(p), 0);
	OK(close(fd[1]));
}

CASE(failed_exec_changes_nothing)
{
	int fd[2];

	pair(fd);
	OK(fcntl(fd[0], F_SETFD, FD_CLOEXEC));
	PUT(fd[0], 10, 0);
	FAILS(execl("/no/such/program", "x", (char *)NULL), ENOENT);
	FAILS(execl("/", "x", (char *)NULL), EACCES);
	GET(fd[1], 10, 0);
	PUT(fd[0], 1000, 10);
	GET(fd[1], 1000, 10);
	PUT(fd[1], 1000, 0);
	GET(fd[0], 1000, 0);
	OK(close(fd[0]));
	GET_EOF(fd[1]);
	OK(close(fd[1]));
}

CASE(posix_spawn_with_actions)
{
	char *argv[] = { (char[]){ "sh" }, (char[]){ "-c" }, (char[]){ "read x; echo $x $x" }, NULL };
	posix_spawn_file_actions_t fa;
	char b[16];
	int fd[2];
	pid_t p;

	pair(fd);
	EQ(posix_spawn_file_actions_init(&fa), 0);
	EQ(posix_spawn_file_actions_adddup2(&fa, fd[0], 0), 0);
	EQ(posix_spawn_file_actions_adddup2(&fa, fd[0], 1), 0);
	EQ(posix_spawn_file_actions_addclose(&fa, fd[0]), 0);
	EQ(posix_spawn_file_actions_addclose(&fa, fd[1]), 0);
	for (int i = 0; i < 2; i++) {
		EQ(send(fd[1], "hey\n", 4, 0), 4);
		EQ(i ? posix_spawnp(&p, "sh", &fa, NULL, argv, environ) :
		   posix_spawn(&p, "/bin/sh", &fa, NULL, argv, environ), 0);
		EQ(recv(fd[1], b, 8, MSG_WAITALL), 8);
		EQ(memcmp(b, "hey hey\n", 8), 0);
		EQ(exit_of(p), 0);
		PUT(fd[0], 10, 0);
		GET(fd[1], 10, 0);
	}
	EQ(posix_spawn(&p, "/no/such/program", &fa, NULL, argv, environ), ENOENT);
	EQ(posix_spawn_file_actions_destroy(&fa), 0);
	PUT(fd[0], 10, 10);
	GET(fd[1], 10, 10);
	OK(close(fd[0]));
	GET_EOF(fd[1]);
	OK(close(fd[1]));
}

PEERCASE(popen_and_system_beside)
{
	char line[16] = "";

	FILE *f = popen("echo hi", "r");
	CHECK(f && fgets(line, sizeof line, f));
	EQ(strcmp(line, "hi\n"), 0);
	EQ(pclose(f), 0);
	EQ(system("exit 3") >> 8, 3);
	PUT(s, 1000, 0);
	EQ(peer("recv 1000"), 1000);
	EQ(peer("send 1000"), 1000);
	GET(s, 1000, 0);
	OK(close(s));
	EQ(peer("drain"), 0);
}
