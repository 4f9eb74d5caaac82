/* The cluster key: 32 bytes in a file of mode 0600 or 0400 that root or the agent's user owns. */
#ifndef ROAMD_KEY_H
#define ROAMD_KEY_H

#include <stdbool.h>
#include <stdint.h>

#define KEY_BYTES 32

/*
 * Reads it: one line of 64 hex digits, comments (#) allowed. False: an error
 * that names the file, the cause and the remedy is in err (n bytes).
 */
bool key_load(const char *path, uint8_t key[KEY_BYTES], char *err, unsigned long n);
/* Makes a new one with O_EXCL, mode 0600. Never overwrites. */
bool key_make(const char *path, char *err, unsigned long n);

#endif
