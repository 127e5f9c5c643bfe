/* region_errors_test.c - what cannot be is refused, and a refused call leaves nothing behind. */
#include "region_check.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define SIZE (4 * MIB)
#define LIMIT (2 * MIB)
#define PAGES (SIZE / PAGE)

static int open_fds(void)
{
	int open_count = 0;

	for (int fd = 0; fd < 256; fd++)
		open_count += fcntl(fd, F_GETFD) >= 0;
	return open_count;
}

static void options_that_cannot_be(void)
{
	const struct drover_region_options good = { .size = SIZE, .limit = LIMIT };
	struct drover_region *region = NULL;
	int before = open_fds();

#define REFUSED(field, value)                                                             \
	do {                                                                              \
		struct drover_region_options bad = good;                                  \
		bad.field = value;                                                        \
		CHECK_EQUAL(drover_region_open(region_directory, &bad, &region), -EINVAL); \
		CHECK(region == NULL);                                                    \
	} while (0)
	REFUSED(size, 0);
	REFUSED(size, SIZE + 1);
	REFUSED(size, SIZE + 512);
	REFUSED(size, DROVER_REGION_SIZE_MAX + PAGE);
	REFUSED(size, UINT64_MAX - PAGE + 1);
	REFUSED(limit, 0);
	REFUSED(limit, DROVER_REGION_LIMIT_MIN - 1);
	REFUSED(ssd_size, SIZE - 1);
	REFUSED(ssd_size, UINT64_MAX);
	REFUSED(fault_mode, 2);
	REFUSED(dirty_mode, 3);
	REFUSED(shared, 1); /* with inline faults */
	REFUSED(shared, 2);
	REFUSED(flags, 16);
	REFUSED(spin_us, 1001);
	REFUSED(evict_batch, DROVER_REGION_BATCH_MAX + 1);
	REFUSED(read_around, 3);
	REFUSED(read_around, 32);
	REFUSED(contexts, 65);
	CHECK_EQUAL(open_fds(), before);
}

static void files_that_cannot_be(void)
{
	const struct drover_region_options options = { .size = SIZE, .limit = LIMIT };
	struct drover_region_options anonymous = options;
	struct drover_region *region = NULL, *second = NULL;
	struct rlimit limit, small;
	struct stat stat;
	char path[4200], link[4200];
	int fd, before = open_fds();

	snprintf(path, sizeof(path), "%s/missing/file", region_directory);
	CHECK_EQUAL(drover_region_open(path, &options, &region), -ENOENT);
	CHECK(drover_region_open("/dev/null", &options, &region) < 0);

	/* A file with content is not ours. */
	snprintf(path, sizeof(path), "%s/full", region_directory);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	CHECK(fd >= 0);
	CHECK_EQUAL(write(fd, "precious", 8), 8);
	close(fd);
	CHECK_EQUAL(drover_region_open(path, &options, &region), -EEXIST);
	CHECK_EQUAL(lstat(path, &stat), 0);
	CHECK_EQUAL(stat.st_size, 8);
	snprintf(link, sizeof(link), "%s/link", region_directory);
	CHECK_EQUAL(symlink(path, link), 0);
	CHECK_EQUAL(drover_region_open(link, &options, &region), -ELOOP);

	/* One region a file; the name stays after close unless it is anonymous. */
	snprintf(path, sizeof(path), "%s/store", region_directory);
	CHECK_EQUAL(drover_region_open(path, &options, &region), 0);
	CHECK_EQUAL(drover_region_open(path, &options, &second), -EWOULDBLOCK);
	CHECK_EQUAL(drover_region_close(region), 0);
	CHECK_EQUAL(lstat(path, &stat), 0);
	CHECK_EQUAL(stat.st_size, SIZE);
	CHECK_EQUAL(drover_region_open(path, &options, &region), -EEXIST);
	CHECK_EQUAL(unlink(path), 0);
	anonymous.flags = DROVER_REGION_ANONYMOUS | DROVER_REGION_PREWRITE;
	CHECK_EQUAL(drover_region_open(path, &anonymous, &region), 0);
	CHECK_EQUAL(lstat(path, &stat), -1);
	CHECK_EQUAL(drover_region_close(region), 0);

	/* No room: nothing of the file stays. */
	CHECK_EQUAL(getrlimit(RLIMIT_FSIZE, &limit), 0);
	small = limit;
	small.rlim_cur = SIZE / 2;
	signal(SIGXFSZ, SIG_IGN);
	CHECK_EQUAL(setrlimit(RLIMIT_FSIZE, &small), 0);
	CHECK_EQUAL(drover_region_open(path, &options, &region), -EFBIG);
	CHECK_EQUAL(setrlimit(RLIMIT_FSIZE, &limit), 0);
	CHECK_EQUAL(lstat(path, &stat), -1);
	CHECK_EQUAL(open_fds(), before);
}

static void ranges_that_cannot_be(void)
{
	struct drover_region *region = open_way(&ways[0], SIZE, LIMIT, NULL);
	uint64_t bad = PAGES, bitmap[PAGES / 64];
	struct drover_region_stats stats;
	uint8_t bytes[8];

	static const struct {
		uint64_t first, count;
	} ranges[] = { { PAGES, 1 }, { 0, PAGES + 1 }, { 1, PAGES }, { UINT64_MAX, 1 }, { 1, UINT64_MAX }, { UINT64_MAX, 2 } };

	for (size_t i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
		CHECK_EQUAL(drover_region_pin(region, ranges[i].first, ranges[i].count), -EINVAL);
		CHECK_EQUAL(drover_region_unpin(region, ranges[i].first, ranges[i].count), -EINVAL);
		CHECK_EQUAL(drover_region_populate(region, ranges[i].first, ranges[i].count), -EINVAL);
		CHECK_EQUAL(drover_region_heat(region, ranges[i].first, ranges[i].count, 1), -EINVAL);
		CHECK_EQUAL(drover_region_sample(region, ranges[i].first, ranges[i].count, bytes), -EINVAL);
		CHECK_EQUAL(drover_region_poison(region, ranges[i].first, ranges[i].count), -EINVAL);
		CHECK_EQUAL(drover_region_reset(region, ranges[i].first, ranges[i].count), -EINVAL);
	}
	CHECK_EQUAL(drover_region_heat(region, 0, 1, 16), -EINVAL);
	CHECK_EQUAL(drover_region_prefetch(region, &bad, 1, 0), -EINVAL);
	CHECK_EQUAL(drover_region_prefetch(region, &bad, 0, 2), -EINVAL);
	CHECK_EQUAL(drover_region_evict(region, &bad, 1, 0), -EINVAL);
	CHECK_EQUAL(drover_region_evict(region, &bad, 0, 4), -EINVAL);
	CHECK_EQUAL(drover_region_harvest(region, bitmap, PAGES / 64), -EOPNOTSUPP);
	CHECK_EQUAL(drover_region_populate(region, PAGES, 0), 0);
	CHECK_EQUAL(drover_region_pin(region, 0, 0), 0);
	CHECK_EQUAL(drover_region_stats(region, &stats), 0);
	CHECK_EQUAL(stats.fills + stats.faults + stats.resident_pages + stats.errors, 0);
	CHECK_EQUAL(drover_region_close(region), 0);
}

void suite_errors(void)
{
	options_that_cannot_be();
	files_that_cannot_be();
	ranges_that_cannot_be();
}
