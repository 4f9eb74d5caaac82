/* One configuration value, from text: what conf.c's table of keys is made of. */
#ifndef ROAMD_CONF_VALUE_H
#define ROAMD_CONF_VALUE_H

#include "conf.h"

#define CONF_WHY 160

/* Returns false and fills why (CONF_WHY bytes): what is wrong, and what is allowed. */
typedef bool (*conf_setter)(struct aconf *c, const char *value, char *why);

bool conf_number(const char *value, uint64_t min, uint64_t max, uint64_t *out, char *why);
bool conf_size(const char *value, uint64_t min, uint64_t max, uint64_t *out, char *why);
bool conf_bool(const char *value, bool *out, char *why);
/* The index of the value in words (ends with NULL). */
bool conf_word(const char *value, const char *const *words, int *out, char *why);
/* Copies it; it must begin with '/' and fit. */
bool conf_path(const char *value, char *out, size_t n, char *why);
bool conf_user(const char *value, char *out, size_t n, char *why);
bool conf_host_id(const char *value, uint8_t host[16], char *why);
bool conf_listen(const char *value, uint8_t *family, uint8_t addr[16], char *why);
bool conf_group(const char *value, char *out, size_t n, char *why);
/* These add to the list. */
bool conf_networks(struct aconf *c, const char *value, char *why);
bool conf_peers(struct aconf *c, const char *value, char *why);

#endif
