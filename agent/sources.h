/* Where candidates come from: the backends of dir.h. */
#ifndef ROAMD_SOURCES_H
#define ROAMD_SOURCES_H

void sources_start(void);
void sources_changed(void);	/* the network */
void sources_stop(void);

#endif
