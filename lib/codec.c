/* The table of codecs. */
#include "codec.h"

const struct codec_ops *codec_find(uint8_t id)
{
	return id == CODEC_DEFLATE ? &codec_zlib : NULL;
}
