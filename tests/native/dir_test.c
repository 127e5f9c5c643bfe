/*
 * dir_test.c - drover_dir_read with buffers of every awkward size. The buffer is malloced at exactly the size that
 * is passed on, so that one byte too many is the address sanitizer's.
 */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILES 700

/* Reads the whole directory through a buffer of `size`; how many entries, every name once. */
static int read_all(int dir, size_t size)
{
	char *buffer = aligned_alloc(8, (size + 7) & ~(size_t)7);
	static char seen[FILES];
	int64_t used;
	int count = 0;

	CHECK(buffer != NULL);
	memset(seen, 0, sizeof(seen));
	CHECK_EQUAL(drover_seek(dir, 0, SEEK_SET), 0);
	while ((used = drover_dir_read(dir, buffer, size)) > 0) {
		int64_t at = 0;

		CHECK(used <= (int64_t)size);
		while (at < used) {
			const struct drover_entry *entry = (const void *)(buffer + at);
			const char *name = (const char *)(entry + 1);
			/* Four digits, and no NUL: behind them may stand anything. */
			int number = (name[0] - '0') * 1000 + (name[1] - '0') * 100 + (name[2] - '0') * 10 + (name[3] - '0');

			CHECK(entry->record_size % 8 == 0 && entry->record_size >= sizeof(*entry) + entry->name_size);
			CHECK(at + entry->record_size <= used);
			CHECK(number >= 0 && number < FILES && seen[number] == 0);
			CHECK_EQUAL(entry->name_size, number % 250 < 4 ? 4 : number % 250);
			CHECK_EQUAL(entry->stat.size, 0);
			CHECK_EQUAL(entry->stat.mode, S_IFREG | 0600);
			CHECK_EQUAL(entry->stat.reserved, 0);
			seen[number] = 1;
			count++;
			at += entry->record_size;
		}
		CHECK_EQUAL(at, used);
	}
	CHECK_EQUAL(used, 0);
	CHECK_EQUAL(drover_dir_read(dir, buffer, size), 0);
	free(buffer);
	return count;
}

void test_dir(const char *path, int dir)
{
	static const size_t sizes[] = { 4096, 4097, 4104, 5000, 8191, 40000, 131072, 1 << 20 };
	char name[256], path_buffer[4352];
	_Alignas(8) char small[4096];
	int fd;

	CHECK_EQUAL(read_all(dir, 4096), 0);
	for (int i = 0; i < FILES; i++) {
		int length = i % 250 < 4 ? 4 : i % 250;

		snprintf(name, sizeof(name), "%04d", i);
		memset(name + 4, 'x', sizeof(name) - 4);
		name[length] = '\0';
		fd = drover_open(dir, name, O_WRONLY | O_CREAT | O_EXCL, 0600);
		CHECK(fd >= 0);
		CHECK_EQUAL(drover_close(fd), 0);
	}
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		CHECK_EQUAL(read_all(dir, sizes[i]), FILES);
	CHECK_EQUAL(drover_dir_read(dir, small, 4095), -EINVAL);
	CHECK_EQUAL(drover_dir_read(dir, small + 4, 4096), -EINVAL);
	CHECK_EQUAL(drover_dir_read(-1, small, 4096), -EBADF);
	snprintf(path_buffer, sizeof(path_buffer), "%s/0000", path);
	fd = open(path_buffer, O_RDONLY);
	CHECK(fd >= 0);
	CHECK_EQUAL(drover_dir_read(fd, small, 4096), -ENOTDIR);
	close(fd);
}
