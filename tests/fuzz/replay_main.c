/* Without libFuzzer: feeds the files given as arguments, once each. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int main(int argc, char **argv)
{
	static uint8_t buf[1 << 20];
	uint8_t *exact;
	size_t n;
	FILE *f;
	int i;

	for (i = 1; i < argc; i++) {
		f = fopen(argv[i], "rb");
		if (!f) {
			perror(argv[i]);
			return 1;
		}
		n = fread(buf, 1, sizeof(buf), f);
		fclose(f);
		exact = malloc(n ? n : 1);	/* a read past the end shows under ASan */
		if (!exact)
			return 1;
		for (size_t k = 0; k < n; k++)
			exact[k] = buf[k];
		LLVMFuzzerTestOneInput(exact, n);
		free(exact);
	}
	printf("%d inputs\n", argc - 1);
	return 0;
}
