/* main.c - runs one suite: `tests SUITE EMPTY_DIRECTORY`. Built with sanitizers by sanitize_test.ts. */
#include "check.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

int main(int count, char **arguments)
{
	static const struct {
		const char *name;
		void (*run)(const char *path, int dir);
	} suites[] = {
		{ "dir", test_dir },	 { "libc", test_libc },		  { "zstd", test_zstd },
		{ "probe", test_probe }, { "old_kernel", test_old_kernel }, { "delta", test_delta },
		{ "content", test_content },
	};
	int dir;

	CHECK_EQUAL(count, 3);
	dir = open(arguments[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CHECK(dir >= 0);
	for (size_t i = 0; i < sizeof(suites) / sizeof(suites[0]); i++) {
		if (strcmp(suites[i].name, arguments[1]) == 0) {
			suites[i].run(arguments[2], dir);
			close(dir);
			printf("%s: ok\n", arguments[1]);
			return 0;
		}
	}
	fprintf(stderr, "no suite \"%s\"\n", arguments[1]);
	return 2;
}
