/*
 * First byte odd: the rest is a configuration file; even: an assignment of the command
 * line. What is accepted is in range.
 */
#include "conf.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define MUST(c) do { if (!(c)) abort(); } while (0)

static void check(const struct aconf *c)
{
	size_t i;

	MUST(memchr(c->dir, 0, sizeof(c->dir)) && c->dir[0] == '/');
	MUST(memchr(c->key_file, 0, sizeof(c->key_file)) && c->key_file[0] == '/');
	MUST(memchr(c->user, 0, sizeof(c->user)) && memchr(c->mcast_group, 0, sizeof(c->mcast_group)));
	MUST(c->port && c->mcast_every_ms >= 100 && c->max_connections && c->max_per_user);
	MUST(c->parked_s && c->hold_s && c->log >= 0 && c->log <= 2);
	MUST(c->listen_family == 0 || c->listen_family == 4 || c->listen_family == 6);
	for (i = 0; i < c->nnets; i++) {
		MUST(c->nets[i].family == 4 || c->nets[i].family == 6);
		MUST(c->nets[i].bits <= (c->nets[i].family == 4 ? 32 : 128));
		MUST(aconf_in_nets(c, c->nets[i].family, c->nets[i].addr));
	}
	for (i = 0; i < c->npeers; i++)
		MUST(c->peers[i].family == 4 || c->peers[i].family == 6);
}

static bool file(struct aconf *c, const uint8_t *data, size_t n)
{
	int fd = memfd_create("conf", 0);
	char path[32];
	bool ok;

	MUST(fd >= 0 && write(fd, data, n) == (ssize_t)n);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	ok = aconf_read(c, path, true);
	close(fd);
	return ok;
}

static bool assignment(struct aconf *c, const uint8_t *data, size_t n)
{
	char *text = strndup((const char *)data, n);
	bool ok = text && aconf_set(c, text);

	free(text);
	return ok;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	static int once;
	struct aconf c;

	if (!n || n > 1 << 16)
		return 0;
	if (!once++) {
		/* the complaints are not what is looked for; a sanitizer writes to the descriptor */
		stderr = fopen("/dev/null", "w");
		unsetenv("ROAM_DIR");
	}
	aconf_init(&c);
	if ((data[0] & 1 ? file : assignment)(&c, data + 1, n - 1))
		check(&c);
	aconf_free(&c);
	return 0;
}
