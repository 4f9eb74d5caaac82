/* What the user asked for, in the environment, or else the program.  Read once, at first use. */
#ifndef ROAM_CONF_H
#define ROAM_CONF_H

#include "types.h"

enum conf_log { CONF_LOG_ERROR, CONF_LOG_INFO, CONF_LOG_DEBUG };
enum conf_spin { CONF_SPIN_AUTO, CONF_SPIN_OFF, CONF_SPIN_TCP };
enum conf_codec { CONF_CODEC_AUTO, CONF_CODEC_OFF, CONF_CODEC_ZLIB };
enum conf_link { CONF_LINK_AUTO, CONF_LINK_TCP, CONF_LINK_RING, CONF_LINK_THICK };

struct conf {
	bool off;			/* ROAM=off */
	uint8_t link, log, codec;
	uint8_t spin;
	uint64_t deadline_ns;		/* ROAM_DEADLINE, seconds: a break is mended within this */
	char park[64];			/* ROAM_PARK: the service's name, "" no parking */
	char dir[92];			/* leaves room for a name in sun_path */
};

extern struct conf roam_conf;
extern _Atomic bool roam_conf_ready;
void conf_load(void);
int conf_set(const char *name, const char *value);	/* roam_set; 0 or an errno */

static inline const struct conf *conf(void)
{
	if (unlikely(!__atomic_load_n((bool *)&roam_conf_ready, __ATOMIC_ACQUIRE)))
		conf_load();
	return &roam_conf;
}

#endif
