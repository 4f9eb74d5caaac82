/*
 * One line an event, to standard error:  roam[PID]: TEXT
 * Never to a descriptor 2 that has become one of our sockets.
 */
#ifndef ROAM_LOG_H
#define ROAM_LOG_H

#include "conf.h"

void log_open(void);
int log_descriptor(void);	/* the hidden one it writes to, -1 */
void log_moved(int from, int to);
void log_line(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#define log_error(...) log_line(__VA_ARGS__)
#define log_info(...) do { if (unlikely(roam_conf.log >= CONF_LOG_INFO)) log_line(__VA_ARGS__); } while (0)
#define log_debug(...) do { if (unlikely(roam_conf.log >= CONF_LOG_DEBUG)) log_line(__VA_ARGS__); } while (0)

#endif
