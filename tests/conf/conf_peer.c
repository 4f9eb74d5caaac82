/* The plain remote end: commands come on standard input, a SEQPACKET socket. */
#include "peer_loop.h"

int main(void)
{
	return peer_loop(0);
}
