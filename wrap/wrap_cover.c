/* See cover.h. */
#include "wrap.h"
#include "cover.h"
#include "conf.h"
#include "log.h"
#include "reason.h"
#include "vring.h"
#include "sys.h"
#include <link.h>
#include <string.h>

bool cover_lost;
_Atomic bool cover_said;

static bool checked;
static char missing[40];	/* the first name that is not exported */
static int nmissing;
static bool epolls;		/* one of them waits by epoll, past us */
static bool bytes;		/* one of them sends or receives */
static char unseen[200];	/* shared libraries that make such calls */

static const struct entry { const char *name; uintptr_t entry; const char *family; } entries[] = {
#define WRAP(fam, ret, name, params, args) { #name, (uintptr_t)__wrap_##name, #fam },
#define PASS WRAP
#define HOT WRAP
#define NOSYS WRAP
#define PROG(fam, ret, name, params, args)	/* roam-dlsym.o may not be linked */
#include "wrap.def"
#undef WRAP
#undef PASS
#undef HOT
#undef NOSYS
#undef PROG
};

static const struct entry *entry(const char *name)
{
	size_t i;

	for (i = 0; i < ARRAY_SIZE(entries); i++)
		if (entries[i].name[0] == name[0] && !strcmp(entries[i].name, name))
			return &entries[i];
	return NULL;
}

void *roam_entry(const char *name)
{
	const struct entry *e = entry(name);

	return e ? (void *)e->entry : NULL;
}

/* libc knows its own; the others' descriptors are files, terminals and random numbers. */
static bool harmless(const char *file)
{
	static const char *const list[] = {
		"ld-", "libc.so", "libc.musl", "libstdc++.so", "libc++", "libsodium.so", NULL };
	int i;

	if (!strncmp(file, "lib", 3) && strstr(file, "san.so"))
		return true;
	for (i = 0; list[i]; i++)
		if (!strncmp(file, list[i], strlen(list[i])))
			return true;
	return false;
}

/* musl leaves the addresses in the dynamic section as they are in the file. */
static const void *at(const struct dl_phdr_info *o, ElfW(Addr) p)
{
	return (const void *)(p < o->dlpi_addr ? p + o->dlpi_addr : p);
}

static bool calls_us(const struct dl_phdr_info *o, const ElfW(Dyn) *d)
{
	const ElfW(Sym) *sym = NULL;
	const char *str = NULL;
	const uint32_t *gnu = NULL, *sysv = NULL;
	uint32_t i, n = 0;
	const struct entry *e;
	bool found = false;

	for (; d->d_tag != DT_NULL; d++)
		switch (d->d_tag) {
		case DT_SYMTAB: sym = at(o, d->d_un.d_ptr); break;
		case DT_STRTAB: str = at(o, d->d_un.d_ptr); break;
		case DT_GNU_HASH: gnu = at(o, d->d_un.d_ptr); break;
		case DT_HASH: sysv = at(o, d->d_un.d_ptr); break;
		}
	/* What is not defined comes before the first hashed symbol. */
	if (gnu)
		n = gnu[1];
	else if (sysv)
		n = sysv[1];
	for (i = 1; sym && str && i < n; i++) {
		const char *name = str + sym[i].st_name;

		if (sym[i].st_shndx != SHN_UNDEF)
			continue;
		e = entry(name);
		if (!e)
			continue;
		found = true;
		epolls = epolls || !strcmp(name, "epoll_ctl");
		bytes = bytes || !strcmp(e->family, "IO") || !strcmp(e->family, "FORTIFY");
	}
	return found;
}

static int look(struct dl_phdr_info *o, size_t size, void *arg)
{
	const char *file = o->dlpi_name ? strrchr(o->dlpi_name, '/') : NULL;
	int i;

	(void)size;
	(void)arg;
	/* The executable has no name here, and the kernel's own page no path. */
	if (!file || harmless(++file))
		return 0;
	for (i = 0; i < o->dlpi_phnum; i++) {
		size_t have = strlen(unseen);

		if (o->dlpi_phdr[i].p_type == PT_DYNAMIC &&
		    calls_us(o, (const ElfW(Dyn) *)(o->dlpi_addr + o->dlpi_phdr[i].p_vaddr)))
			snprintf(unseen + have, sizeof(unseen) - have, "%s%s", have ? "," : "", file);
	}
	return 0;
}

/* A name that a shared library would find in libc, past us. */
static bool passes(const char *name)
{
	uintptr_t first = (uintptr_t)roam_cover_first(name);

	/* Neither ours nor libc's: the program's own function, whose calls we see. */
	return (first < (uintptr_t)roam_cover_begin || first >= (uintptr_t)roam_cover_end) &&
		first && first == (uintptr_t)roam_cover_next(name);
}

void cover_check(void)
{
	size_t i;

	if (checked)
		return;
	checked = true;
	for (i = 0; roam_cover_first && i < ARRAY_SIZE(entries); i++)
		if (passes(entries[i].name) && !nmissing++)
			snprintf(missing, sizeof(missing), "%s", entries[i].name);
	cover_lost = nmissing > 0;
	if (cover_lost || !roam_cover_first)
		dl_iterate_phdr(look, NULL);
	/*
	 * Bytes that pass us by are counted by the kernel, and keep a connection
	 * plain or end its persistence (reason count).  A registration in an epoll
	 * set that we do not know would be gone with the old link, and somebody
	 * wait for ever.
	 */
	if (epolls)
		cover_lost = true;
	/* On the ring the socket is silent, or says things that are no data. */
	if (bytes)
		atomic_store(&vring_allowed, false);
}

void cover_say(void)
{
	const char *word = reason_word(REASON_COVER), *who;

	cover_said = true;
	if (conf()->off)
		return;
	cover_check();
	who = *unseen ? unseen : "none";
	if (nmissing)
		log_error("cover lost reason=%s missing=%s others=%d unseen=%s: linked with a version script that "
			  "hides them; connections stay plain TCP", word, missing, nmissing - 1, who);
	else if (cover_lost)
		log_error("cover lost reason=%s unseen=%s: linked with libroam.a alone, and a library uses epoll; "
			  "connections stay plain TCP (link with -lroam)", word, who);
	else if (roam_cover_first)
		log_info("cover whole");
	else
		log_info("cover wrap-only unseen=%s", who);
}
