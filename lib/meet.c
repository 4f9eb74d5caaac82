#include "meet.h"
#include "agent.h"
#include "conf.h"
#include "helper.h"
#include "log.h"
#include "sys.h"
#include "upgrade.h"
#include "vs_io.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

static const char *check_dir(void)
{
	const char *d = conf()->dir;
	struct stat st;

	if (!*d)
		return NULL;
	if (sys_mkdir(d, 0700) < 0 && errno != EEXIST) {
		log_error("%s: cannot make the rendezvous directory: %s; connections stay plain TCP "
			  "(create it, or set ROAM_DIR)", d, strerror(errno));
		return NULL;
	}
	if (sys_lstat(d, &st) < 0 || !S_ISDIR(st.st_mode)) {
		log_error("%s: the rendezvous directory is not a directory; connections stay plain TCP", d);
		return NULL;
	}
	/* Root's agent may have given the system's directory to its own user. */
	if (st.st_uid != sys_geteuid() && st.st_uid != 0 && (sys_geteuid() || strcmp(d, MEET_SYSTEM_DIR))) {
		log_error("%s: the rendezvous directory belongs to user %u; connections stay plain TCP "
			  "(it must be yours or root's)", d, st.st_uid);
		return NULL;
	}
	if (st.st_mode & 022) {
		log_error("%s: others can write to the rendezvous directory; connections stay plain TCP "
			  "(chmod go-w it)", d);
		return NULL;
	}
	return d;
}

const char *meet_dir(void)
{
	static _Atomic(const char *) dir;
	static _Atomic int state;	/* 0 not looked at, 1 looking, 2 done */
	int s = 0;

	if (atomic_load(&state) == 2)
		return atomic_load(&dir);
	if (atomic_compare_exchange_strong(&state, &s, 1)) {
		atomic_store(&dir, check_dir());
		atomic_store(&state, 2);
	}
	/* Another thread is looking; a signal handler over it must not wait for ever. */
	for (s = 0; atomic_load(&state) != 2 && s < 100; s++)
		sys_nap_us(100);
	return atomic_load(&state) == 2 ? atomic_load(&dir) : NULL;
}

int meet_rendezvous(char *path, size_t n, uint32_t pid, uint64_t start)
{
	const char *d = meet_dir();
	int r = d ? snprintf(path, n, "%s/r.%u.%llu", d, pid, (unsigned long long)start) : -1;

	return r < 0 || (size_t)r >= n ? -1 : r;
}

int meet_dirs(const char *dir[2])
{
	const char *own = meet_dir();
	struct stat st;
	int n = 0;

	if (own)
		dir[n++] = own;
	if ((!own || strcmp(own, MEET_SYSTEM_DIR)) && sys_lstat(MEET_SYSTEM_DIR, &st) == 0 &&
	    S_ISDIR(st.st_mode) && !(st.st_mode & 022))
		dir[n++] = MEET_SYSTEM_DIR;
	return n;
}

static _Atomic uint64_t ns;

uint64_t meet_netns(void)
{
	if (!atomic_load(&ns))
		atomic_store(&ns, sys_netns());
	return atomic_load(&ns);
}

void meet_moved(void)
{
	atomic_store(&ns, sys_netns());
}

int meet_addr(const struct sockaddr_storage *ss, uint8_t addr[16], uint16_t *port)
{
	static const uint8_t mapped[12] = { [10] = 255, 255 };

	memset(addr, 0, 16);
	if (ss->ss_family == AF_INET) {
		const struct sockaddr_in *a = (const struct sockaddr_in *)ss;

		memcpy(addr, &a->sin_addr, 4);
		*port = ntohs(a->sin_port);
		return 4;
	}
	if (ss->ss_family == AF_INET6) {
		const struct sockaddr_in6 *a = (const struct sockaddr_in6 *)ss;

		*port = ntohs(a->sin6_port);
		memcpy(addr, &a->sin6_addr, 16);
		if (!memcmp(addr, mapped, 12)) {
			memmove(addr, addr + 12, 4);
			memset(addr + 4, 0, 12);
			return 4;
		}
		return 6;
	}
	return 0;
}

static bool local(int family, const uint8_t *self, const uint8_t *peer)
{
	static const uint8_t one[16] = { [15] = 1 };

	if (!memcmp(self, peer, 16))
		return true;	/* the kernel uses the destination as source on its own addresses */
	return family == 4 ? peer[0] == 127 : !memcmp(peer, one, 16);
}

bool meet_local(const struct tuple *t)
{
	return local(t->family, t->oaddr, t->aaddr);
}

/* The helper may look at a connection that another one has just replaced. */
static shlock tuple_lock;

void meet_fork_child(void)
{
	atomic_store(&tuple_lock, 0);	/* whoever held it is a thread of the parent */
}

void meet_noted(struct vsock *v, struct tuple *t)
{
	shlock_take(&tuple_lock, -1, false);
	*t = v->tuple;
	shlock_drop(&tuple_lock);
}

bool meet_tuple(struct vsock *v, int fd, struct tuple *t)
{
	struct sockaddr_storage self, peer;
	socklen_t sl = sizeof(self), pl = sizeof(peer);
	bool o = v->role == HO_OPENER;
	int a, b;

	memset(t, 0, sizeof(*t));
	if (sys_getsockname(fd, (struct sockaddr *)&self, &sl) < 0 ||
	    sys_getpeername(fd, (struct sockaddr *)&peer, &pl) < 0)
		return false;
	a = meet_addr(&self, o ? t->oaddr : t->aaddr, o ? &t->oport : &t->aport);
	b = meet_addr(&peer, o ? t->aaddr : t->oaddr, o ? &t->aport : &t->oport);
	t->family = a == b ? (uint8_t)a : 0;
	shlock_take(&tuple_lock, -1, false);
	v->tuple = *t;
	shlock_drop(&tuple_lock);
	return t->family && local(a, o ? t->oaddr : t->aaddr, o ? t->aaddr : t->oaddr);
}

static bool offer_path(const char *d, const struct tuple *t, char *path, size_t n)
{
	struct { uint64_t ns; struct tuple t; } in;
	uint8_t h[16];
	char hex[33];
	int r;

	if (!d)
		return false;
	memset(&in, 0, sizeof(in));
	in.ns = meet_netns();
	in.t = *t;
	crypto_generichash(h, sizeof(h), (const uint8_t *)&in, sizeof(in), NULL, 0);
	sodium_bin2hex(hex, sizeof(hex), h, sizeof(h));
	r = snprintf(path, n, "%s/o.%s", d, hex);
	return r > 0 && (size_t)r < n;
}

static bool marker_path(uint16_t port, char *path, size_t n)
{
	const char *d = meet_dir();
	int r = d ? snprintf(path, n, "%s/l.%llu.%u", d, (unsigned long long)meet_netns(), port) : -1;

	return r > 0 && (size_t)r < n;
}

/* Reads "PID.START[.NONCE]" and asks whether that process lives. */
static bool read_link(const char *path, uint32_t *pid, uint64_t *start, uint64_t *nonce)
{
	char buf[80];
	ssize_t n = sys_readlink(path, buf, sizeof(buf) - 1);
	unsigned long long s = 0, x = 0;
	unsigned int p = 0;

	if (n <= 0)
		return false;
	buf[n] = 0;
	if (sscanf(buf, "%u.%llu.%llx", &p, &s, &x) < 2 || !p || p > INT32_MAX)
		return false;
	*pid = p;
	*start = s;
	if (nonce)
		*nonce = x;
	return sys_starttime((int)p) == s;
}

static uint16_t local_port(int fd)
{
	struct sockaddr_storage ss;
	socklen_t l = sizeof(ss);
	uint8_t a[16];
	uint16_t port = 0;

	if (sys_getsockname(fd, (struct sockaddr *)&ss, &l) < 0 || !meet_addr(&ss, a, &port))
		return 0;
	return port;
}

void meet_mark(struct vsock *v, int fd)
{
	uint32_t me = (uint32_t)sys_getpid(), pid;
	uint64_t start;
	char path[128], to[64];
	uint16_t port;
	int tries;

	if (v->marked_pid == me || conf()->off)
		return;
	v->marked_pid = me;
	port = local_port(fd);
	if (!port || !marker_path(port, path, sizeof(path)))
		return;
	snprintf(to, sizeof(to), "%u.%llu", me, (unsigned long long)sys_starttime((int)me));
	for (tries = 0; tries < 3 && sys_symlink(to, path) < 0 && errno == EEXIST; tries++) {
		/* Another listener on the port (SO_REUSEPORT, a parent) serves as well, if it lives. */
		if (read_link(path, &pid, &start, NULL) && pid != me)
			return;
		sys_unlink(path);
	}
}

/* Markers that outlive their listener, to be removed when the process ends. */
static _Atomic bool left_behind;

void meet_unmark(struct vsock *v, int fd)
{
	uint32_t pid;
	uint64_t start;
	char path[128];

	if (v->marked_pid != (uint32_t)sys_getpid())
		return;
	/* Its connections may still be upgraded: servers of one client close the listener first. */
	if (atomic_load(&v->ops)) {
		atomic_store(&left_behind, true);
		return;
	}
	if (marker_path(local_port(fd), path, sizeof(path)) &&
	    read_link(path, &pid, &start, NULL) && pid == v->marked_pid)
		sys_unlink(path);
	v->marked_pid = 0;
}

static bool path_of(struct vsock *v, char *path, size_t n)
{
	struct tuple t;

	meet_noted(v, &t);
	return t.family && offer_path(meet_dir(), &t, path, n);
}

void meet_withdraw(struct vsock *v)
{
	uint64_t mine = v->offer_nonce, start, nonce;
	char path[128];
	uint32_t pid;

	v->offer_nonce = 0;
	if (v->offer_far) {
		if (mine)
			upgrade_withdraw_far(mine);
		return;
	}
	if (mine && path_of(v, path, sizeof(path)) &&
	    read_link(path, &pid, &start, &nonce) && nonce == mine)
		sys_unlink(path);
}

bool meet_offer(struct vsock *v, uint32_t *pid, uint64_t *start, uint64_t *nonce, bool *far)
{
	const char *dir[2];
	struct tuple t;
	char path[128];
	int i, n = 1;

	meet_noted(v, &t);
	*far = t.family && !local(t.family, t.oaddr, t.aaddr);
	if (*far)
		n = meet_dirs(dir);
	else
		dir[0] = meet_dir();
	for (i = 0; i < n && t.family; i++)
		if (offer_path(dir[i], &t, path, sizeof(path)) && read_link(path, pid, start, nonce) && *nonce)
			return true;
	return false;
}

void meet_drop_offer(struct vsock *v)
{
	char path[128];

	if (path_of(v, path, sizeof(path)))
		sys_unlink(path);
}

static void make_offer(struct vsock *v, const struct tuple *t)
{
	char path[128], to[80];
	uint32_t me = (uint32_t)sys_getpid();
	uint64_t nonce;

	if (!offer_path(meet_dir(), t, path, sizeof(path)) || sys_random(&nonce, sizeof(nonce)) < 0 || !nonce ||
	    !helper_start()) {
		v->never = REASON_MEMORY;
		return;
	}
	v->offer_far = false;
	v->offer_nonce = nonce;
	/* In the helper's table before anyone can dial. */
	helper_want(v, WANT_OFFERED);
	snprintf(to, sizeof(to), "%u.%llu.%llx", me, (unsigned long long)sys_starttime((int)me),
		 (unsigned long long)nonce);
	if (sys_symlink(to, path) < 0 && errno == EEXIST) {
		sys_unlink(path);	/* of an earlier connection with the same ends */
		if (sys_symlink(to, path) < 0)
			v->offer_nonce = 0;
	}
}

/* The opener looks after 6 calls, then after these. */
#define FAR_SECOND	64u
#define FAR_STEP	16u

/* The acceptor looks for an offer soon after the opener may have made one, then less and less often. */
static uint32_t acceptor_next(uint32_t n)
{
	uint32_t base = FAR_SECOND, next;

	if (n < FAR_SECOND)
		return n + 8;
	while (base < 1u << 24 && base * FAR_STEP <= n)
		base *= FAR_STEP;
	next = n + (n - base < 8 ? 8 : n - base);
	return n < base * FAR_STEP && next > base * FAR_STEP ? base * FAR_STEP + 8 : next;
}

/* The other end is on another host: is an agent there that could introduce us? */
static void try_far(struct vsock *v, const struct tuple *t, uint32_t n)
{
	uint32_t pid;
	uint64_t start, nonce;
	bool far, acceptor = v->role == HO_ACCEPTOR;

	atomic_store(&v->next_try, acceptor ? acceptor_next(n) : n < FAR_SECOND ? FAR_SECOND : n * FAR_STEP);
	if (v->offer_nonce && !acceptor)
		return;		/* it is out already */
	/* Again although it was said: what is lost with an agent or a session is said by nobody else. */
	if (acceptor) {
		if (meet_offer(v, &pid, &start, &nonce, &far) && helper_start())
			helper_want(v, WANT_MEET);
		return;
	}
	if (!agent_knows(t->family, t->aaddr) || sys_random(&nonce, sizeof(nonce)) < 0 || !nonce || !helper_start())
		return;
	v->offer_far = true;
	v->offer_nonce = nonce;
	helper_want(v, WANT_OFFERED);
}

void vs_try_meet(struct vsock *v)
{
	uint32_t n = atomic_load(&v->ops), pid;
	int fd = atomic_load(&v->fd), e = errno;
	uint64_t start, nonce;
	struct tuple t;
	char path[128];
	bool far;

	/* Another thread, or a signal handler, is at it. */
	if (atomic_exchange(&v->next_try, UINT32_MAX) == UINT32_MAX)
		return;
	if (v->never || atomic_load(&v->barred) || conf()->off || roam_vfork_child || atomic_load(&v->kind) != VS_CONN ||
	    atomic_load(&v->mode) != VS_PLAIN)
		goto out;
	if (!meet_tuple(v, fd, &t)) {
		if (t.family)
			try_far(v, &t, n);
		else
			v->never = REASON_REMOTE;
		goto out;
	}
	if (!meet_dir()) {
		v->never = REASON_DIR;
		goto out;
	}
	if (v->role == HO_ACCEPTOR) {
		if (meet_offer(v, &pid, &start, &nonce, &far))
			helper_want(v, WANT_MEET);
		else
			atomic_store(&v->next_try, n + (n < 8 ? 4 : n / 2));
		goto out;
	}
	if (!marker_path(t.aport, path, sizeof(path)) || !read_link(path, &pid, &start, NULL)) {
		/* Nobody there speaks roam; ask again when it has become a long conversation. */
		atomic_store(&v->next_try, n < 64 ? 64 : n * 16);
		goto out;
	}
	make_offer(v, &t);
out:
	errno = e;
}

/* A socket of another pid namespace has a number that is nobody's here. */
static bool nobody_there(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = strlen(path) < sizeof(a.sun_path) ? helper_keep(sys_seqpacket()) : -1;
	bool none;

	if (fd < 0)
		return false;
	strcpy(a.sun_path, path);
	none = sys_connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0 && errno == ECONNREFUSED;
	helper_close(fd);
	return none;
}

/* Files of dead processes: their name or, for links, their target says whose they are. */
static void sweep_one(const char *name)
{
	const char *d = meet_dir();
	unsigned long long start;
	char path[300];
	uint32_t p32;
	uint64_t s64;
	unsigned int pid;
	bool dead = false;

	if (snprintf(path, sizeof(path), "%s/%s", d, name) >= (int)sizeof(path))
		return;
	if (sscanf(name, "r.%u.%llu", &pid, &start) == 2)
		dead = pid <= INT32_MAX && sys_starttime((int)pid) != start && nobody_there(path);
	else if ((name[0] == 'o' || name[0] == 'l') && name[1] == '.')
		dead = !read_link(path, &p32, &s64, NULL);
	if (dead)
		sys_unlink(path);
}

static void sweep_mine(const char *name)
{
	char path[300];
	uint32_t pid;
	uint64_t start;

	if (name[0] == 'l' && name[1] == '.' &&
	    snprintf(path, sizeof(path), "%s/%s", meet_dir(), name) < (int)sizeof(path) &&
	    read_link(path, &pid, &start, NULL) && pid == (uint32_t)sys_getpid())
		sys_unlink(path);
}

void meet_exit(void)
{
	const char *d = atomic_load(&left_behind) ? meet_dir() : NULL;

	if (d)
		sys_list_dir(d, 4096, sweep_mine);
}

void meet_sweep(void)
{
	const char *d = meet_dir();

	/* Bounded: the rest is for the next process. */
	if (d)
		sys_list_dir(d, 4096, sweep_one);
}
