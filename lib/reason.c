#include "reason.h"

const char *reason_word(uint32_t r)
{
	switch (r) {
#define REASON(name, nr, word, text) case nr: return word;
#include "reason.def"
#undef REASON
	}
	return "?";
}

const char *reason_text(uint32_t r)
{
	switch (r) {
#define REASON(name, nr, word, text) case nr: return text;
#include "reason.def"
#undef REASON
	}
	return "unknown reason";
}
