#include "park.h"
#include "agent.h"
#include "conf.h"
#include "command.h"
#include "freeze.h"
#include "image.h"
#include "link_tcp.h"
#include "log.h"
#include "meet.h"
#include "mend_int.h"
#include <netinet/in.h>
#include <sodium.h>

#define LEAVE_NS UINT64_C(3000000000)
#define EXPECT_NS UINT64_C(30000000000)	/* the listener's backlog may be long */

struct parked {			/* an image that has come for a listener of ours */
	struct parked *next;
	struct image im;
	uint8_t *mem;
	size_t size;
	uint8_t family, addr[16];	/* our connection to the listener, as accept() will name it */
	uint16_t port;
	int fd;
	uint64_t due;
};

_Atomic uint32_t park_waiting, park_hoped;
static struct parked *list;	/* below list_lock */
static shlock list_lock;
static _Atomic bool on_exit_park;
static _Atomic uint32_t leaving;	/* 1 asked for, 2 done */

static bool wanted(void)
{
	return conf()->park[0] || atomic_load(&on_exit_park);
}

/* The name under which the next instance asks: chosen by the user, or the port. */
static void service(uint8_t svc[16], uint16_t port)
{
	char text[80];
	int n;

	if (conf()->park[0])
		n = snprintf(text, sizeof(text), "name %s", conf()->park);
	else
		n = snprintf(text, sizeof(text), "port %u", port);
	crypto_generichash(svc, 16, (const uint8_t *)text, (size_t)n, NULL, 0);
}

static uint16_t port_of(int fd, bool peer)
{
	struct sockaddr_storage ss;
	socklen_t l = sizeof(ss);

	if ((peer ? sys_getpeername : sys_getsockname)(fd, (struct sockaddr *)&ss, &l) < 0)
		return 0;
	return ((struct sockaddr_in *)&ss)->sin_port;	/* the same place in both families */
}

/* ---- leaving */

void park_command(uint64_t nonce)
{
	atomic_store(&on_exit_park, true);
	log_info("connections will be parked when the program ends");
	command_report(nonce, REASON_NONE, atomic_load(&vs_live_count), -1);
}

/* Only what the next instance can go on with: accepted, open on our side, at a clean point. */
static bool can_leave(struct vsock *v, struct vstate *st)
{
	return st->ho.role == HO_ACCEPTOR && !(atomic_load(&st->phase) & PH_NOREP) && !st->shut_wr &&
		mend_frozen(v) && st->ho.state == HO_READY && vs_last_sharer(v, st);
}

static int build(struct vsock *v, struct vstate *st, struct mend *m, size_t *size)
{
	struct image im = { .ho = st->ho, .family = v->family, .shut_rd = st->shut_rd,
			    .peer_fin = atomic_load(&v->pair->side[!st->ho.role].fin),
			    .agent_family = st->where.family, .agent_port = st->where.port,
			    .tx_base = st->replay.base, .tx_end = st->replay.end,
			    .unread = m->nunread, .rx = m->unread };
	uint64_t off = st->replay.base, n = replay_used(&st->replay), done = 0;
	uint8_t *flat = n ? malloc(n) : NULL, *p;
	int mem;

	if (n && !flat)
		return -1;
	while (done < n) {
		const uint8_t *part;
		size_t k = replay_at(&st->replay, (uint8_t *)st + REPLAY_AT, off + done, &part);

		memcpy(flat + done, part, k);
		done += k;
	}
	im.replay = flat;
	memcpy(im.agent_host, st->where.host, 16);
	memcpy(im.agent_addr, st->where.addr, 16);
	im.self_family = (uint8_t)meet_addr(&st->names.self, im.self_addr, &im.self_port);
	im.peer_family = (uint8_t)meet_addr(&st->names.peer, im.peer_addr, &im.peer_port);
	*size = image_size(&im);
	mem = helper_keep(sys_memfd("roam-image", *size));
	p = mem < 0 ? NULL : sys_map_shared(mem, *size);
	if (p) {
		image_build(&im, p);
		sys_unmap(p, *size);
	}
	free(flat);
	return p ? mem : -1;
}

static bool leave_one(struct vsock *v, struct vstate *st)
{
	struct msg m = { .type = MSG_IMAGE, .epoch = st->ho.epoch, .flags = MSGF_ACCEPTOR };
	uint8_t a[16];
	uint16_t port;
	size_t size = 0;
	int mem, r;

	meet_addr(&st->names.self, a, &port);
	memcpy(m.gid, st->ho.gid, WIRE_GID);
	service(m.svc, port);
	m.port = conf()->park[0] ? 0 : port;	/* 0: the name decides, on any host */
	mem = build(v, st, v->mend, &size);
	m.count = size;
	r = mem < 0 ? -1 : agent_send(&m, NULL, mem);
	helper_close(mem);
	return r == 0;
}

void park_complete(void)
{
	struct vsock *v;
	int n = 0;

	shlock_take(&vs_fds_lock, -1, false);
	for (v = vs_live_head; v; v = v->live_next) {
		struct vstate *st = atomic_load(&v->st);

		if (!can_leave(v, st) || !leave_one(v, st))
			continue;
		n++;
		/* The next instance reads what is unread: a thread that still runs here must not. */
		while (mend_own_fd(v->mend) >= 0 && sys_recv(v->mend->own, NULL, 1 << 20, MSG_DONTWAIT | MSG_TRUNC) > 0)
			;
		mend_drop_own(v->mend);
		/* Ours no more: nobody is to say that it is closed. */
		ho_kill(&st->ho, REASON_PARKED);
		atomic_store(&st->reason, REASON_PARKED);
		atomic_store(&st->judged, 1);
		vs_phase(st, PH_NOREP, PH_MEND | PH_UNSENT);
	}
	shlock_drop(&vs_fds_lock);
	log_info("parked connections=%d", n);
	atomic_store(&leaving, 2);
}

void park_leave(void)
{
	uint64_t end;

	if (!wanted() || !helper_running() || roam_in_helper || !atomic_load(&vs_live_count))
		return;
	end = sys_now_ns() + LEAVE_NS;
	atomic_store(&leaving, 1);
	freeze_to_park();
	while (atomic_load(&leaving) != 2 && sys_now_ns() < end)
		sys_nap_us(200);
}

/* ---- coming back */

void park_listen(struct vsock *v, int fd)
{
	const char *dir[2];
	char path[160], to[24], hex[33];
	uint8_t svc[16];
	uint16_t port = ntohs(port_of(fd, false));
	int i, n;
	bool there = conf()->park[0];

	if (!port || conf()->off || sodium_init() < 0)
		return;
	service(svc, port);
	sodium_bin2hex(hex, sizeof(hex), svc, sizeof(svc));
	n = there ? 0 : meet_dirs(dir);
	for (i = 0; i < n && !there; i++) {
		snprintf(path, sizeof(path), "%s/p.%llu.%s", dir[i], (unsigned long long)meet_netns(), hex);
		there = sys_readlink(path, to, sizeof(to)) > 0;
	}
	if (there) {
		atomic_store(&park_hoped, 1);
		helper_want(v, WANT_UNPARK);
	}
}

void park_want_listen(struct vsock *v)
{
	struct msg m = { .type = MSG_LISTEN };
	int fd = helper_borrow(atomic_load(&v->fd));

	agent_want();
	if (fd < 0)
		return;
	m.port = ntohs(port_of(fd, false));
	helper_close(fd);
	if (sys_random(&m.nonce, sizeof(m.nonce)) < 0)
		m.nonce = 1;
	service(m.svc, m.port);
	if (conf()->park[0])
		m.port = 0;
	agent_send(&m, NULL, -1);
}

void park_agent_up(void)
{
	int fd, top = fdtab_top();

	for (fd = 0; fd < top; fd++) {
		struct vsock *v = fdtab_vsock(fd);

		if (v && atomic_load(&v->kind) == VS_LISTEN && atomic_load(&v->fd) == fd && conf()->park[0])
			park_want_listen(v);
	}
}

/* A listener of ours for this port, or any if the service has a name. */
static int listener(uint16_t port)
{
	int fd, top = fdtab_top(), any = -1;

	for (fd = 0; fd < top; fd++) {
		struct vsock *v = fdtab_vsock(fd);
		int own;
		uint16_t p;

		if (!v || atomic_load(&v->kind) != VS_LISTEN)
			continue;
		own = helper_borrow(fd);
		p = own < 0 ? 0 : ntohs(port_of(own, false));
		if (p == port) {
			helper_close(any);
			return own;
		}
		if (p && any < 0 && conf()->park[0])
			any = own;
		else
			helper_close(own);
	}
	return any;
}

/* The whole address: a client elsewhere may have any port. */
static bool peer_name(int fd, bool peer, uint8_t *family, uint8_t addr[16], uint16_t *port)
{
	struct sockaddr_storage ss;
	socklen_t l = sizeof(ss);

	if ((peer ? sys_getpeername : sys_getsockname)(fd, (struct sockaddr *)&ss, &l) < 0)
		return false;
	*family = (uint8_t)meet_addr(&ss, addr, port);
	return *family != 0;
}

/* Makes the listener readable: a connection to it, known by its name. */
static int knock(int lfd, struct parked *d)
{
	struct sockaddr_storage ss;
	socklen_t l = sizeof(ss);
	int fd, r;

	if (sys_getsockname(lfd, (struct sockaddr *)&ss, &l) < 0)
		return -1;
	fd = helper_keep(link_open(ss.ss_family == AF_INET6 ? 6 : 4));
	if (fd < 0)
		return -1;
	/* A listener on any address is at the loopback's, too; connect() means that by 0. */
	r = sys_connect(fd, (struct sockaddr *)&ss, l);
	if ((r < 0 && errno != EINPROGRESS) || !peer_name(fd, false, &d->family, d->addr, &d->port)) {
		helper_close(fd);
		return -1;
	}
	return fd;
}

static void expire(uint64_t now)
{
	struct parked **p = &list, *d;

	while ((d = *p)) {
		if (d->due > now) {
			p = &d->next;
			continue;
		}
		*p = d->next;
		atomic_fetch_sub(&park_waiting, 1);
		log_error("a parked connection was never accepted: lost");
		helper_close(d->fd);
		sys_unmap(d->mem, d->size);
		free(d);
	}
}

void park_timers(uint64_t now, uint64_t *next)
{
	struct parked *d;

	if (likely(!atomic_load(&park_waiting)) || shlock_take(&list_lock, 0, false) != SHLOCK_OK)
		return;
	expire(now);
	for (d = list; d; d = d->next)
		if (!*next || d->due < *next)
			*next = d->due;
	shlock_drop(&list_lock);
}

void park_image(const struct msg *m, int *fds, int nfds)
{
	struct parked *d = calloc(1, sizeof(*d));
	int lfd = -1;

	if (d)
		d->size = nfds == 1 ? sys_memfd_size(fds[0]) : 0;
	if (d && d->size && d->size == m->count)
		d->mem = sys_map_shared(fds[0], d->size);
	if (!d || !d->mem || !image_parse(&d->im, d->mem, d->size) || memcmp(d->im.ho.gid, m->gid, WIRE_GID)) {
		log_error("agent: a parked connection's image cannot be used");
		goto fail;
	}
	lfd = listener(m->port);
	shlock_take(&list_lock, -1, false);
	expire(sys_now_ns());
	/* Before accept() can return it: who sees no image waiting does not take the lock. */
	atomic_fetch_add(&park_waiting, 1);
	d->fd = lfd < 0 ? -1 : knock(lfd, d);
	helper_close(lfd);
	if (d->fd < 0) {
		atomic_fetch_sub(&park_waiting, 1);
		shlock_drop(&list_lock);
		log_error("no listener for a parked connection: %s", strerror(errno));
		goto fail;
	}
	d->due = sys_now_ns() + EXPECT_NS;
	d->next = list;
	list = d;
	shlock_drop(&list_lock);
	return;
fail:
	if (d && d->mem)
		sys_unmap(d->mem, d->size);
	free(d);
}

static socklen_t name(struct sockaddr_storage *ss, uint8_t as, uint8_t family, const uint8_t *addr, uint16_t port)
{
	uint8_t mapped[16] = { [10] = 255, 255 };

	/* The application sees the family that its socket had. */
	if (as == 6 && family == 4) {
		memcpy(mapped + 12, addr, 4);
		return link_sockaddr(ss, 6, mapped, port);
	}
	return link_sockaddr(ss, family, addr, port);
}

static bool revive(struct vsock *v, int fd, struct parked *d)
{
	struct image *im = &d->im;
	struct vstate *st = vs_revive(v, fd, &im->ho, im->tx_base);
	size_t n = (size_t)(im->tx_end - im->tx_base);
	uint32_t rnd = 0;

	if (!st)
		return false;
	st->shut_rd = im->shut_rd;
	st->names.self_len = name(&st->names.self, im->family, im->self_family, im->self_addr, im->self_port);
	st->names.peer_len = name(&st->names.peer, im->family, im->peer_family, im->peer_addr, im->peer_port);
	memcpy(st->where.host, im->agent_host, 16);
	memcpy(st->where.addr, im->agent_addr, 16);
	st->where.family = im->agent_family;
	st->where.port = im->agent_port;
	atomic_store(&st->own_pair.side[!im->ho.role].fin, im->peer_fin);
	if (n && replay_reserve(&st->replay, (uint8_t *)st + REPLAY_AT, n))
		replay_append(&st->replay, (uint8_t *)st + REPLAY_AT, im->replay, n);
	st->tx_sent = st->replay.end;
	if (sys_random(&rnd, sizeof(rnd)) < 0)
		rnd = 0;
	ho_reincarnate(&st->ho, 1 + rnd % 1024);
	st->moved = true;
	return true;
}

bool park_accepted(struct vsock *v, int fd)
{
	struct parked **p, *d;
	uint8_t family, addr[16];
	uint16_t port;
	bool ok;

	if (!peer_name(fd, true, &family, addr, &port))
		return false;
	shlock_take(&list_lock, -1, false);
	for (p = &list; (d = *p); p = &d->next)
		if (d->port == port && d->family == family && !memcmp(d->addr, addr, 16))
			break;
	if (d)
		*p = d->next;
	shlock_drop(&list_lock);
	if (!d)
		return false;
	atomic_fetch_sub(&park_waiting, 1);
	shlock_take(&vs_fds_lock, -1, false);
	ok = revive(v, fd, d);
	if (ok)
		v->parked = d;
	shlock_drop(&vs_fds_lock);
	if (ok)
		helper_want(v, WANT_MEND);
	return ok;
}

void park_take(struct mend *m)
{
	struct parked *d = m->v->parked;
	char id[9];

	if (!d)
		return;
	m->v->parked = NULL;
	m->unread = d->im.unread ? malloc((size_t)d->im.unread) : NULL;
	if (m->unread) {
		memcpy(m->unread, d->im.rx, (size_t)d->im.unread);
		m->nunread = (size_t)d->im.unread;
	} else if (d->im.unread) {
		mend_give_up(m, REASON_MEMORY, ECONNRESET);
	}
	vs_log_id(m->v, id);
	log_info("%s taken over from a parked instance", id);
	helper_close(d->fd);
	sys_unmap(d->mem, d->size);
	free(d);
	agent_own(m->v, true);
}

void park_table_gone(void)
{
	struct parked *d;

	shlock_take(&list_lock, -1, false);
	for (d = list; d; d = d->next)
		d->fd = -1;
	shlock_drop(&list_lock);
}

void park_fork_child(void)
{
	list_lock = 0;
	list = NULL;
	atomic_store(&park_waiting, 0);
	atomic_store(&leaving, 0);
}
