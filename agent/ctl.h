/* roamctl: one question to the agent of this host, and its answer for people or programs. */
#ifndef ROAMCTL_H
#define ROAMCTL_H

#include "addr.h"
#include "listing.h"
#include "reason.h"
#include "wire.h"

enum { EXIT_DONE, EXIT_REFUSED, EXIT_USAGE, EXIT_NOAGENT };

struct opts {
	char dir[92];			/* where the agent is looked for */
	bool json, verbose, once;
	bool quiet;			/* no agent: say nothing */
	double interval;		/* top, seconds */
};

/* ctl_ask.c: the conversation */
struct answer {
	struct msg report;
	char *data;			/* of the memfd, ends with a 0 behind len; NULL: none came */
	size_t len;
};
/* Where is the agent? Fills in opts.dir; false: the path is too long. */
bool ctl_find_dir(struct opts *o, const char *dir);
/* EXIT_DONE, or an error was written to stderr. Free with ctl_free. */
int ctl_ask(const struct opts *o, enum command op, uint32_t pid, int seconds, struct answer *a);
void ctl_free(struct answer *a);
/* Says what a reason other than 0 means, and returns EXIT_REFUSED. */
int ctl_refused(const char *what, uint32_t reason);

/* ctl_list.c: connections */
struct list {
	struct listing *v;
	size_t n, skipped;		/* records; those that are not shown */
};
int ctl_get_list(const struct opts *o, uint32_t pid, struct list *l);
void ctl_free_list(struct list *l);
/* As a table, or JSON. */
int ctl_print_list(const struct opts *o, const struct list *l);
int ctl_list(const struct opts *o, uint32_t pid);
/* One of them, as a JSON object without its closing brace. */
void ctl_json_record(const struct listing *c);
const char *ctl_link_word(const struct listing *c);
/* up, broken ..., or for a plain connection why it is plain */
const char *ctl_state_word(const struct listing *c);
bool ctl_is_plain(const struct listing *c);
char *ctl_gid(char hex[33], const struct listing *c, size_t digits);
/* The address as an application writes it; - without one. */
const char *ctl_self(char text[ADDR_PORT_TEXT], const struct listing *c);
const char *ctl_peer(char text[ADDR_PORT_TEXT], const struct listing *c);
/* The name of a process, fit for a terminal; "?" when it is gone. */
const char *ctl_comm(char name[20], uint32_t pid);

/* ctl_show.c, ctl_top.c, ctl_text.c, ctl_proc.c, ctl_key.c */
int ctl_show(const struct opts *o, const char *prefix);
int ctl_top(const struct opts *o);
int ctl_peers(const struct opts *o);
int ctl_hosts(const struct opts *o);
int ctl_stats(const struct opts *o);
int ctl_freeze(const struct opts *o, uint32_t pid);
int ctl_thaw(const struct opts *o, uint32_t pid);
int ctl_park(const struct opts *o, uint32_t pid);
int ctl_keygen(const char *path);
#define CTL_KEY_FILE "/etc/roam/cluster.key"
/* ctl_doctor.c, ctl_elf.c. what: a program's file or process, or NULL. */
int ctl_doctor(const struct opts *o, const char *what);
enum ctl_linked { CTL_NO_PROGRAM, CTL_NOT_LINKED, CTL_STATIC, CTL_WRAP_ONLY, CTL_WHOLE };
enum ctl_linked ctl_how_linked(const char *path);	/* CTL_NO_PROGRAM: errno, or 0 */
/* The start time of a process, as in the rendezvous files; 0: there is none. */
uint64_t ctl_start_time(uint32_t pid);

/* ctl_out.c: words on paper */
extern bool ctl_colours;
enum colour { C_NONE, C_BOLD, C_RED, C_GREEN, C_YELLOW };
void ctl_colour_init(void);
const char *ctl_colour(enum colour c);

/* What other processes said: printable ASCII only, the rest becomes '?'. In place. */
char *ctl_clean(char *s);
/* Bytes for people: 17, 4.2K, 310M. */
char *ctl_bytes(char out[12], uint64_t n);
/* A time for people: 0, 1.2ms, 3.4s. */
char *ctl_time(char out[12], uint64_t ns);
/* A string with its quotes, escaped. */
void ctl_json_string(const char *s);

#define TABLE_COLS 16
struct table {
	const char *head[TABLE_COLS];	/* a leading '>' aligns to the right */
	int cols;
	size_t rows, room;
	char *(*cell)[TABLE_COLS];
	uint8_t *colour;		/* of each row */
	char **below;			/* a line under the row, or NULL */
};
void table_init(struct table *t, const char *const *head);
/* A row of t->cols copied strings. */
void table_row(struct table *t, enum colour c, const char *const *cells);
/* An explanation under the last row. */
void table_below(struct table *t, const char *text);
/* Prints it: at most `lines` lines (0: all), `width` columns (0: all). Frees it. */
void table_print(struct table *t, size_t lines, size_t width);

#endif
