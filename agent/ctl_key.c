/* keygen: the cluster key, and the directory it is in. */
#include "ctl.h"
#include "key.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool make_parent(const char *path)
{
	char *dir = strdup(path), *slash;
	bool ok = true;

	slash = dir ? strrchr(dir, '/') : NULL;
	if (slash && slash != dir) {
		*slash = 0;
		/* the configuration is in it too: to be read by all */
		ok = !mkdir(dir, 0755) || errno == EEXIST;
		if (!ok)
			fprintf(stderr, "roamctl: %s: %s; make this directory first, or name another file\n", dir,
				strerror(errno));
	}
	free(dir);
	return ok;
}

int ctl_keygen(const char *path)
{
	char err[512];

	if (!make_parent(path))
		return EXIT_REFUSED;
	if (!key_make(path, err, sizeof(err))) {
		fprintf(stderr, "roamctl: %s\n", err);
		return EXIT_REFUSED;
	}
	printf("%s is the new cluster key. Copy it to every host of the cluster, mode 0600, and start roamd there.\n",
	       path);
	return EXIT_DONE;
}
