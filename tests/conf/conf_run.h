/* Between the driver and the assertions: one shared page per run. */
#ifndef CONF_RUN_H
#define CONF_RUN_H

enum conf_outcome { PASSED, FAILED, SKIPPED };

struct conf_result {
	enum conf_outcome outcome;
	char text[1000];
};

extern struct conf_result *conf_result;

#endif
