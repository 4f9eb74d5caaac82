#include "ctl.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool ctl_colours;

void ctl_colour_init(void)
{
	const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

	ctl_colours = isatty(1) && !(no && *no) && term && *term && strcmp(term, "dumb") != 0;
}

const char *ctl_colour(enum colour c)
{
	static const char *const codes[] = { "\033[0m", "\033[1m", "\033[31m", "\033[32m", "\033[33m" };

	return ctl_colours ? codes[c] : "";
}

char *ctl_clean(char *s)
{
	char *p;

	for (p = s; *p; p++)
		if (*p < ' ' || *p > '~')
			*p = '?';
	return s;
}

char *ctl_bytes(char out[12], uint64_t n)
{
	static const char units[] = "KMGTPE";
	double v = (double)n;
	int u = -1;

	while (v >= 999.5 && u < 5) {
		v /= 1024;
		u++;
	}
	if (u < 0)
		snprintf(out, 12, "%u", (unsigned int)n);
	else
		snprintf(out, 12, v < 9.95 ? "%.1f%c" : "%.0f%c", v, units[u]);
	return out;
}

char *ctl_time(char out[12], uint64_t ns)
{
	double s = (double)ns / 1e9;

	if (!ns)
		snprintf(out, 12, "0");
	else if (s < 1e-3)
		snprintf(out, 12, "%.0fus", s * 1e6);
	else if (s < 1)
		snprintf(out, 12, s < 0.01 ? "%.1fms" : "%.0fms", s * 1e3);
	else if (s < 120)
		snprintf(out, 12, "%.1fs", s);
	else if (s < 7200)
		snprintf(out, 12, "%.0fmin", s / 60);
	else
		snprintf(out, 12, "%.0fh", s / 3600);
	return out;
}

void ctl_json_string(const char *s)
{
	putchar('"');
	for (; *s; s++) {
		if (*s == '"' || *s == '\\')
			printf("\\%c", *s);
		else
			putchar(*s < ' ' || *s > '~' ? '?' : *s);
	}
	putchar('"');
}

static void *must(void *p)
{
	if (!p) {
		fprintf(stderr, "roamctl: out of memory\n");
		exit(EXIT_REFUSED);
	}
	return p;
}

void table_init(struct table *t, const char *const *head)
{
	memset(t, 0, sizeof(*t));
	while (head[t->cols]) {
		t->head[t->cols] = head[t->cols];
		t->cols++;
	}
}

void table_row(struct table *t, enum colour c, const char *const *cells)
{
	int i;

	if (t->rows == t->room) {
		t->room = t->room ? 2 * t->room : 16;
		t->cell = must(realloc(t->cell, t->room * sizeof(*t->cell)));
		t->colour = must(realloc(t->colour, t->room));
		t->below = must(realloc(t->below, t->room * sizeof(*t->below)));
	}
	for (i = 0; i < t->cols; i++)
		t->cell[t->rows][i] = ctl_clean(must(strdup(cells[i])));
	t->colour[t->rows] = (uint8_t)c;
	t->below[t->rows++] = NULL;
}

void table_below(struct table *t, const char *text)
{
	t->below[t->rows - 1] = must(strdup(text));
}

static void print_row(const struct table *t, const int *wide, const char *const *cell, size_t width)
{
	char line[1024];
	size_t n = 0;
	int i, right, pad;

	for (i = 0; i < t->cols; i++) {
		right = t->head[i][0] == '>';
		pad = i == t->cols - 1 && !right ? 0 : wide[i];
		n += (size_t)snprintf(line + n, sizeof(line) - n, "%s%*s", i ? "  " : "", right ? pad : -pad, cell[i]);
		if (n >= sizeof(line))
			n = sizeof(line) - 1;
	}
	if (width && n > width)
		n = width;
	while (n && line[n - 1] == ' ')
		n--;
	line[n] = 0;
	fputs(line, stdout);
}

static void table_widths(const struct table *t, size_t rows, int *wide)
{
	size_t r;
	int i;

	for (i = 0; i < t->cols; i++) {
		wide[i] = (int)strlen(t->head[i]) - (t->head[i][0] == '>');
		for (r = 0; r < rows; r++)
			if ((int)strlen(t->cell[r][i]) > wide[i])
				wide[i] = (int)strlen(t->cell[r][i]);
	}
}

static void table_free(struct table *t)
{
	size_t r;
	int i;

	for (r = 0; r < t->rows; r++) {
		for (i = 0; i < t->cols; i++)
			free(t->cell[r][i]);
		free(t->below[r]);
	}
	free(t->cell);
	free(t->colour);
	free(t->below);
}

void table_print(struct table *t, size_t lines, size_t width)
{
	size_t r, rows = lines && t->rows > lines - 1 ? lines - 1 : t->rows;
	const char *head[TABLE_COLS] = { 0 };
	int wide[TABLE_COLS], i;

	table_widths(t, rows, wide);
	for (i = 0; i < t->cols; i++)
		head[i] = t->head[i] + (t->head[i][0] == '>');
	fputs(ctl_colour(C_BOLD), stdout);
	print_row(t, wide, head, width);
	printf("%s\n", ctl_colour(C_NONE));
	for (r = 0; r < rows; r++) {
		if (t->colour[r] != C_NONE)
			fputs(ctl_colour(t->colour[r]), stdout);
		print_row(t, wide, (const char *const *)t->cell[r], width);
		printf("%s\n", t->colour[r] != C_NONE ? ctl_colour(C_NONE) : "");
		if (t->below[r])
			printf("    %s\n", t->below[r]);
	}
	table_free(t);
}
