#ifndef ROAM_REASON_H
#define ROAM_REASON_H

#include <stdint.h>

enum reason {
#define REASON(name, nr, word, text) REASON_##name = nr,
#include "reason.def"
#undef REASON
};

const char *reason_word(uint32_t r);
const char *reason_text(uint32_t r);

#endif
