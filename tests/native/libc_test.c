/* libc_test.c - the loops and packings of libc.c, with buffers that end exactly where the call may write to. */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void test_read_write(int dir)
{
	int fd = drover_open(dir, "data", O_RDWR | O_CREAT | O_EXCL, 0600);
	int other = drover_open(dir, "copy", O_RDWR | O_CREAT | O_EXCL, 0600);
	size_t size = 300001;
	unsigned char *out = malloc(size), *in = malloc(size);

	CHECK(fd >= 0 && other >= 0 && out != NULL && in != NULL);
	for (size_t i = 0; i < size; i++)
		out[i] = (unsigned char)(i * 31u + (i >> 9));
	CHECK_EQUAL(drover_pwrite(fd, out, size, 0), size);
	CHECK_EQUAL(drover_pread(fd, in, size, 0), size);
	CHECK(memcmp(in, out, size) == 0);
	CHECK_EQUAL(drover_pread(fd, in, size, 300000), 1);
	CHECK_EQUAL(drover_pread(fd, in, 1, 300001), 0);
	CHECK_EQUAL(drover_pread(fd, in, 1, -1), -EINVAL);
	CHECK_EQUAL(drover_pread(fd, in, 2, INT64_MAX - 1), -EINVAL);
	CHECK_EQUAL(drover_pwrite(fd, out, SIZE_MAX, 0), -EINVAL);
	CHECK_EQUAL(drover_pread(-1, in, 1, 0), -EBADF);

	/* Aligned with a block beyond the clone threshold, unaligned, and through every fallback. */
	CHECK_EQUAL(drover_copy_range(fd, 0, other, 0, 262144), 262144);
	CHECK_EQUAL(drover_copy_range(fd, 262144, other, 262144, 37857), 37857);
	CHECK_EQUAL(drover_pread(other, in, size, 0), size);
	CHECK(memcmp(in, out, size) == 0);
	CHECK_EQUAL(drover_copy_range(fd, 300000, other, 0, 2), -ENODATA);
	CHECK_EQUAL(drover_copy_range(fd, -1, other, 0, 2), -EINVAL);
	CHECK_EQUAL(drover_copy_range(fd, 0, other, INT64_MAX, 2), -EINVAL);
	CHECK_EQUAL(drover_copy_range(fd, 0, fd, 99, 100), -EINVAL);
	CHECK_EQUAL(drover_copy_range(fd, 0, fd, 100, 100), 100);
	CHECK_EQUAL(drover_copy_range(fd, 0, -1, 100, 100), -EBADF);

	/* /proc and pipes refuse copy_file_range or pread: what cannot be copied is an error, not a hang. */
	{
		int proc = drover_open(AT_FDCWD, "/proc/self/stat", O_RDONLY, 0);

		CHECK(proc >= 0);
		CHECK_EQUAL(drover_copy_range(proc, 0, other, 0, 10), 10);
		CHECK_EQUAL(drover_copy_range(proc, 0, other, 0, 100000), -ENODATA);
		CHECK_EQUAL(drover_close(proc), 0);
	}
	/* A hole keeps the size and reads as zeros; its neighbours stay. */
	CHECK_EQUAL(drover_punch(fd, 4096, 8192), 0);
	CHECK_EQUAL(drover_pread(fd, in, size, 0), size);
	CHECK(in[4095] == out[4095] && in[4096] == 0 && in[12287] == 0 && in[12288] == out[12288]);
	CHECK_EQUAL(drover_punch(fd, 0, 0), -EINVAL);
	CHECK_EQUAL(drover_punch(-1, 0, 1), -EBADF);
	CHECK_EQUAL(drover_pipe_grow(fd, 1 << 20), -EBADF);
	{
		int ends[2];

		CHECK_EQUAL(pipe(ends), 0);
		CHECK_EQUAL(drover_pipe_grow(ends[1], 1 << 18), 1 << 18);
		CHECK_EQUAL(drover_pipe_grow(ends[0], 4096), 1 << 18);
		close(ends[0]);
		close(ends[1]);
	}
	CHECK_EQUAL(drover_ftruncate(fd, -1), -EINVAL);
	CHECK_EQUAL(drover_close(fd), 0);
	CHECK_EQUAL(drover_close(fd), -EBADF);
	CHECK_EQUAL(drover_close(other), 0);
	free(out);
	free(in);
}

static void test_readlink(int dir)
{
	char *exact;
	char wide[16];

	CHECK_EQUAL(drover_symlink("0123456789", dir, "link"), 0);
	for (size_t size = 1; size <= 10; size++) {
		exact = malloc(size);
		CHECK_EQUAL(drover_readlink(dir, "link", exact, size), -ERANGE);
		free(exact);
	}
	CHECK_EQUAL(drover_readlink(dir, "link", wide, 11), 10);
	CHECK(memcmp(wide, "0123456789", 10) == 0);
}

/* Every buffer size from nothing to enough: either -ERANGE, or all of it; never a byte beyond. */
static void test_xattrs(int dir)
{
	int fd = drover_open(dir, "attributes", O_WRONLY | O_CREAT | O_EXCL, 0600);
	int fits = 0;
	char value[100];

	CHECK(fd >= 0);
	CHECK_EQUAL(drover_close(fd), 0);
	memset(value, 'v', sizeof(value));
	for (int i = 0; i < 3; i++) {
		char name[] = "user.0";

		name[5] = (char)('0' + i);
		/* A file system without attributes leaves nothing to test here. */
		if (drover_set_xattr(dir, "attributes", name, value, (size_t)i * 33) == -EOPNOTSUPP)
			return;
	}
	for (size_t size = 0; size < 256; size++) {
		char *buffer = aligned_alloc(8, size == 0 ? 8 : (size + 7) & ~(size_t)7);
		int64_t used = drover_xattrs(dir, "attributes", buffer, size);

		CHECK(buffer != NULL);
		CHECK(used == -ERANGE || (used == 24 + 56 + 88 && used <= (int64_t)size));
		fits += used > 0;
		free(buffer);
	}
	CHECK(fits > 0);
	for (size_t size = 0; size < 70; size++) {
		char *buffer = malloc(size == 0 ? 1 : size);

		CHECK_EQUAL(drover_get_xattr(dir, "attributes", "user.2", buffer, size), size < 66 ? -ERANGE : 66);
		free(buffer);
	}
	CHECK_EQUAL(drover_get_xattr(dir, "attributes", "user.none", value, sizeof(value)), -ENODATA);
	CHECK_EQUAL(drover_remove_xattr(dir, "attributes", "user.0"), 0);
	CHECK_EQUAL(drover_remove_xattr(dir, "attributes", "user.0"), -ENODATA);
	CHECK_EQUAL(drover_set_xattr(dir, "attributes", "user.0", value, 65537), -E2BIG);
	CHECK_EQUAL(drover_xattrs(dir, "attributes", value + 1, 8), -EINVAL);
	CHECK_EQUAL(drover_xattrs(-7, "", value, 8), -EBADF);
}

static void test_long_paths(int dir)
{
	char path[5000];
	_Alignas(8) char room[64];
	struct drover_stat stat;

	memset(path, 'a', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	CHECK_EQUAL(drover_stat(dir, path, &stat), -ENAMETOOLONG);
	CHECK_EQUAL(drover_xattrs(dir, path, room, sizeof(room)), -ENAMETOOLONG);
	CHECK_EQUAL(drover_set_xattr(dir, path, "user.a", room, 1), -ENAMETOOLONG);
	CHECK_EQUAL(drover_open_beneath(dir, path, O_RDONLY, 0), -ENAMETOOLONG);
}

static void test_rest(int dir)
{
	struct drover_stat stat;
	struct drover_statfs room;
	struct drover_identity identity;
	char small[3], text[65536];
	char handle[132];

	CHECK_EQUAL(drover_fstat(-100, &stat), -EBADF);
	CHECK_EQUAL(drover_stat(dir, "", &stat), 0);
	CHECK_EQUAL(stat.mode & S_IFMT, S_IFDIR);
	CHECK_EQUAL(drover_set_mtime(dir, "data", 1, 1000000000u), -EINVAL);
	CHECK_EQUAL(drover_set_mtime(dir, "data", -5, 999999999u), 0);
	CHECK_EQUAL(drover_stat(dir, "data", &stat), 0);
	CHECK_EQUAL(stat.mtime_seconds, -5);
	CHECK_EQUAL(stat.mtime_nanos, 999999999);
	CHECK_EQUAL(drover_open_beneath(dir, "../x", O_RDONLY, 0), -EXDEV);
	CHECK_EQUAL(drover_statfs(dir, &room), 0);
	CHECK(room.available > 0 && room.block_size > 0);
	CHECK_EQUAL(drover_identity(&identity), 0);
	CHECK_EQUAL(identity.uid, geteuid());
	CHECK_EQUAL(drover_version(small, sizeof(small)), -ERANGE);
	CHECK_EQUAL(drover_version(text, sizeof(text)), strlen(DROVER_VERSION));
	for (size_t size = 0; size < 200; size++) {
		char *exact = malloc(size == 0 ? 1 : size);

		CHECK_EQUAL(drover_layout(exact, size), -ERANGE);
		free(exact);
	}
	CHECK(drover_layout(text, sizeof(text)) > 500);
	{
		int rc = drover_file_handle(dir, "data", handle, sizeof(handle));

		CHECK(rc > 4 || rc == -EOPNOTSUPP);
		if (rc > 0)
			CHECK_EQUAL(drover_file_handle(dir, "data", handle, (size_t)rc - 1), -ERANGE);
	}
}

void test_libc(const char *path, int dir)
{
	(void)path;
	test_read_write(dir);
	test_readlink(dir);
	test_xattrs(dir);
	test_long_paths(dir);
	test_rest(dir);
}
