/*
 * region_faults_test.c - a device that fails: the toucher gets SIGBUS and an event says why; other pages are not touched
 * by it; data that is still in RAM is never given up; nothing hangs.
 */
#include "region_check.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#define SIZE (4 * MIB)
#define LIMIT (2 * MIB)
#define PAGES (SIZE / PAGE)

static struct faulty faulty;

static volatile uint64_t *words_of(struct drover_region *region)
{
	return (volatile uint64_t *)drover_region_address(region);
}

static uint32_t sampled(struct drover_region *region, uint64_t page)
{
	uint8_t byte;

	CHECK_EQUAL(drover_region_sample(region, page, 1, &byte), 0);
	return byte & 15u;
}

static struct drover_region *open_full(const struct way *way)
{
	struct drover_region *region;

	uint32_t no_ring = atomic_load(&faulty.no_ring);

	memset(&faulty, 0, sizeof(faulty));
	atomic_store(&faulty.no_ring, no_ring);
	region = open_way(way, SIZE, LIMIT, &faulty);
	for (uint64_t page = 0; page < PAGES; page++)
		words_of(region)[page * 512 + 1] = word_of(page, 1, 1);
	/* A fault thread may still be answering faults that have become none, and brings their pages back. */
	for (int round = 0; round < 5000; round++) {
		struct timespec pause = { 0, way->fault_mode == DROVER_FAULT_THREAD ? 3000000 : 0 };

		CHECK(drover_region_reclaim(region, 0) >= 0);
		nanosleep(&pause, NULL);
		if (drover_region_reclaim(region, 0) == 0)
			break;
	}
	CHECK_EQUAL(present_pages(region), 0);
	return region;
}

/* Every page but `but` has what was written. */
static void verify_but(struct drover_region *region, uint64_t but)
{
	for (uint64_t page = 0; page < PAGES; page++)
		if (page != but)
			CHECK_EQUAL(words_of(region)[page * 512 + 1], word_of(page, 1, 1));
}

static void read_fails(const struct way *way, _Atomic uint32_t *rate, uint32_t why)
{
	struct drover_region *region = open_full(way);
	volatile uint64_t *word = words_of(region) + 9 * 512 + 1;
	uint64_t value = 5;

	atomic_store(rate, 1);
	CHECK_EQUAL(touch(word, 0, &value), 0);
	CHECK_EQUAL(touch_signal, SIGBUS);
	atomic_store(rate, 0);
	CHECK_EQUAL(sampled(region, 9), DROVER_PAGE_POISON);
	CHECK_EQUAL(events_of(region, why), 1);
	/* For good: a second touch, a write, a pin, a system call. */
	CHECK_EQUAL(touch(word, 0, &value), 0);
	CHECK_EQUAL(touch(word, 1, &value), 0);
	CHECK_EQUAL(drover_region_pin(region, 8, 3), -EIO);
	CHECK_EQUAL(drover_region_populate(region, 9, 1), -EIO);
	CHECK_EQUAL(write(-1, (const void *)word, 8), -1);
	CHECK_EQUAL(events_of(region, DROVER_EVENT_POISONED), 2);
	verify_but(region, 9);
	check_books(region);
	/* Until somebody says that zeros will do. */
	CHECK_EQUAL(drover_region_reset(region, 9, 1), 0);
	CHECK_EQUAL(touch(word, 0, &value), 1);
	CHECK_EQUAL(value, 0);
	*word = word_of(9, 1, 1);
	verify_but(region, PAGES);
	check_books(region);
	CHECK_EQUAL(drover_region_close(region), 0);
}

static void writes_fail(const struct way *way)
{
	struct drover_region *region = open_full(way);
	volatile uint64_t *words = words_of(region);
	struct drover_region_stats stats;
	uint64_t value, refused = 0, page;

	region->room_nanos = 50000000;
	for (page = 0; page < 64; page++)
		words[page * 512 + 2] = word_of(page, 2, 1);
	atomic_store(&faulty.write_error, 1);
	/* Pages that cannot be written stay; the clean ones make room as long as there are some. */
	for (page = 64; page < 300; page++)
		CHECK_EQUAL(words[page * 512 + 1], word_of(page, 1, 1));
	/* All of RAM changed, none can leave: the toucher of one more is told, and nothing is lost. */
	for (page = 0; page < PAGES && refused == 0; page++)
		refused += !touch(&words[page * 512 + 2], 1, &(uint64_t){ word_of(page, 2, 1) });
	CHECK_EQUAL(refused, 1);
	CHECK_EQUAL(touch_signal, SIGBUS);
	CHECK(present_pages(region) <= LIMIT / PAGE);
	CHECK(drover_region_flush(region) < 0);
	CHECK_EQUAL(drover_region_stats(region, &stats), 0);
	CHECK(stats.errors > 0);
	CHECK(events_of(region, DROVER_EVENT_WRITE) + events_of(region, DROVER_EVENT_ROOM) > 0);
	atomic_store(&faulty.write_error, 0);
	/* It recovers by itself: the refused page is what it was, all the others are new. */
	refused = page - 1;
	for (page = 0; page < PAGES; page++) {
		CHECK_EQUAL(words[page * 512 + 1], word_of(page, 1, 1));
		CHECK_EQUAL(touch(&words[page * 512 + 2], 0, &value), 1);
		CHECK_EQUAL(value, page < refused ? word_of(page, 2, 1) : 0);
	}
	CHECK(drover_region_flush(region) >= 0);
	CHECK_EQUAL(drover_region_reclaim(region, 0), 0);
	for (page = 0; page < PAGES; page++)
		CHECK_EQUAL(words[page * 512 + 2], page < refused ? word_of(page, 2, 1) : 0);
	check_books(region);
	CHECK_EQUAL(drover_region_close(region), 0);
}

static void device_never_answers(const struct way *way)
{
	struct drover_region *region = open_full(way);
	volatile uint64_t *words = words_of(region);
	uint64_t value;

	region->device_nanos = 200000000;
	atomic_store(&faulty.read_lost, 1);
	CHECK_EQUAL(touch(&words[3 * 512], 0, &value), 0);
	CHECK_EQUAL(touch_signal, SIGBUS);
	atomic_store(&faulty.read_lost, 0);
	CHECK_EQUAL(events_of(region, DROVER_EVENT_READ), 1);
	CHECK_EQUAL(sampled(region, 3), DROVER_PAGE_POISON);
	verify_but(region, 3);
	CHECK_EQUAL(drover_region_close(region), 0);
}

/* What the caller can do to the file behind our back. */
static void file_is_cut(const struct way *way)
{
	struct drover_region *region = open_full(way);
	volatile uint64_t *words = words_of(region);
	uint64_t value, other = ~0ull;
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", region->store.fd);
	fd = open(path, O_RDWR);
	CHECK(fd >= 0);
	/* One byte of page 2, then everything from page 600 on. */
	CHECK_EQUAL(pwrite(fd, &other, 1, 2 * PAGE + 100), 1);
	CHECK_EQUAL(fsync(fd), 0);
	CHECK_EQUAL(ftruncate(fd, 600 * PAGE), 0);
	close(fd);
	CHECK_EQUAL(touch(&words[2 * 512], 0, &value), 0);
	CHECK_EQUAL(events_of(region, DROVER_EVENT_CHECKSUM), 1);
	CHECK_EQUAL(touch(&words[600 * 512], 0, &value), 0);
	CHECK_EQUAL(events_of(region, DROVER_EVENT_SHORT), 1);
	CHECK_EQUAL(words[599 * 512 + 1], word_of(599, 1, 1));
	CHECK_EQUAL(drover_region_close(region), 0);
}

/* Each has a good page's bytes, but not its own. */
static void pages_are_exchanged(const struct way *way)
{
	struct drover_region *region = open_full(way);
	uint64_t value;
	char path[64], first[4096], second[4096];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", region->store.fd);
	fd = open(path, O_RDWR);
	CHECK(fd >= 0);
	CHECK_EQUAL(pread(fd, first, PAGE, 4 * PAGE), PAGE);
	CHECK_EQUAL(pread(fd, second, PAGE, 5 * PAGE), PAGE);
	CHECK_EQUAL(pwrite(fd, second, PAGE, 4 * PAGE), PAGE);
	CHECK_EQUAL(pwrite(fd, first, PAGE, 5 * PAGE), PAGE);
	CHECK_EQUAL(fsync(fd), 0);
	close(fd);
	CHECK_EQUAL(touch(&words_of(region)[4 * 512], 0, &value), 0);
	CHECK_EQUAL(touch(&words_of(region)[5 * 512], 0, &value), 0);
	CHECK_EQUAL(events_of(region, DROVER_EVENT_CHECKSUM), 2);
	CHECK_EQUAL(drover_region_close(region), 0);
}

static void poison_call(const struct way *way)
{
	struct drover_region *region = open_full(way);
	volatile uint64_t *words = words_of(region);
	uint64_t value;

	words[0] = 1;
	CHECK_EQUAL(drover_region_poison(region, 0, 2), 0); /* one mapped, one cold */
	for (uint64_t page = 0; page < 2; page++) {
		CHECK_EQUAL(touch(&words[page * 512], 0, &value), 0);
		CHECK_EQUAL(touch_signal, SIGBUS);
	}
	CHECK_EQUAL(events_of(region, DROVER_EVENT_POISONED), 2);
	CHECK_EQUAL(drover_region_reset(region, 0, 2), 0);
	CHECK_EQUAL(words[0], 0);
	CHECK_EQUAL(words[512 + 1], 0);
	check_books(region);
	CHECK_EQUAL(drover_region_close(region), 0);
}

/* Somebody frees our memory: no endless loop of faults, no zeros. */
static void memory_taken_away(void)
{
	struct drover_region *region = open_full(&ways[0]);
	volatile uint64_t *words = words_of(region);
	uint64_t value;

	words[0] = 1;
	CHECK_EQUAL(madvise(region->base, PAGE, MADV_DONTNEED), 0);
	CHECK_EQUAL(touch(words, 0, &value), 0);
	CHECK_EQUAL(touch_signal, SIGBUS);
	CHECK_EQUAL(events_of(region, DROVER_EVENT_LOST), 1);
	words[512] = 1;
	CHECK_EQUAL(madvise(region->base + PAGE, PAGE, MADV_DONTNEED), 0);
	CHECK_EQUAL(drover_region_evict(region, (uint64_t[]){ 1 }, 1, DROVER_EVICT_WAIT), 0);
	CHECK_EQUAL(touch(&words[512], 0, &value), 0);
	CHECK_EQUAL(events_of(region, DROVER_EVENT_LOST), 1);
	words[1024] = 1;
	CHECK_EQUAL(madvise(region->base + 2 * PAGE, PAGE, MADV_DONTNEED), 0);
	CHECK(drover_region_flush(region) >= 0);
	CHECK_EQUAL(events_of(region, DROVER_EVENT_LOST), 1);
	for (uint64_t page = 3; page < PAGES; page++)
		CHECK_EQUAL(words[page * 512 + 1], word_of(page, 1, 1));
	CHECK_EQUAL(drover_region_close(region), 0);
}

/* Where io_uring is forbidden everything works as well, one request at a time. */
static void without_io_uring(const struct way *way)
{
	struct drover_region *region;

	atomic_store(&faulty.no_ring, 1);
	region = open_full(way);
	verify_but(region, PAGES);
	for (uint64_t page = 0; page < PAGES; page++)
		words_of(region)[page * 512] = page;
	CHECK(drover_region_flush(region) >= 0);
	for (uint64_t page = 0; page < PAGES; page++)
		CHECK_EQUAL(words_of(region)[page * 512], page);
	check_books(region);
	CHECK_EQUAL(drover_region_close(region), 0);
	read_fails(way, &faulty.read_corrupt, DROVER_EVENT_CHECKSUM);
	writes_fail(way);
	atomic_store(&faulty.no_ring, 0);
}

void suite_faults(void)
{
	for (int i = 0; i < way_count; i++) {
		const struct way *way = &ways[i];

		read_fails(way, &faulty.read_error, DROVER_EVENT_READ);
		read_fails(way, &faulty.read_corrupt, DROVER_EVENT_CHECKSUM);
		read_fails(way, &faulty.read_short, DROVER_EVENT_SHORT);
		writes_fail(way);
		device_never_answers(way);
		file_is_cut(way);
		pages_are_exchanged(way);
		poison_call(way);
		without_io_uring(way);
	}
	memory_taken_away();
}
