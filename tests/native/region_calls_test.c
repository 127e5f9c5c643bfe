/* region_calls_test.c - each call does what its comment in drover.h says. */
#include "region_check.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define SIZE (4 * MIB)
#define LIMIT (2 * MIB)
#define PAGES (SIZE / PAGE)

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

static void fill(struct drover_region *region, uint64_t version)
{
	for (uint64_t page = 0; page < PAGES; page++)
		for (uint32_t i = 0; i < 512; i += 511)
			words_of(region)[page * 512 + i] = word_of(page, i, version);
}

static void evict_all(struct drover_region *region)
{
	uint64_t pages[PAGES], cold = 0;

	for (uint64_t i = 0; i < PAGES; i++)
		pages[i] = i;
	/* A fault thread may still be answering faults that have become none, and brings their pages back: cold twice. */
	for (int round = 0, good = 0; round < 5000 && good < 2; round++) {
		struct timespec pause = { 0, 2000000 };

		CHECK(drover_region_evict(region, pages, PAGES, DROVER_EVICT_WAIT) >= 0);
		for (cold = 0; cold < PAGES; cold++)
			if (sampled(region, cold) != DROVER_PAGE_COLD && sampled(region, cold) != DROVER_PAGE_EMPTY)
				break;
		good = cold == PAGES ? good + 1 : 0;
		nanosleep(&pause, NULL);
	}
	CHECK_EQUAL(cold, PAGES);
	CHECK_EQUAL(present_pages(region), 0);
}

static void pins(const struct way *way)
{
	struct drover_region *region = open_way(way, SIZE, LIMIT, NULL);
	uint8_t *bytes = (uint8_t *)drover_region_address(region);
	struct drover_region_stats stats;
	uint64_t page = 5, value;
	int pipes[2], inline_mode = way->fault_mode == DROVER_FAULT_INLINE;

	fill(region, 1);
	evict_all(region);
	CHECK_EQUAL(pipe(pipes), 0);
	CHECK_EQUAL(write(pipes[1], "abcdefgh", 8), 8);
	if (inline_mode) {
		CHECK_EQUAL(read(pipes[0], bytes + 5 * PAGE, 8), -1);
		CHECK_EQUAL(errno, EFAULT);
	} else {
		CHECK_EQUAL(read(pipes[0], bytes + 5 * PAGE, 8), 8);
		CHECK_EQUAL(memcmp(bytes + 5 * PAGE, "abcdefgh", 8), 0);
		CHECK_EQUAL(write(pipes[1], "ABCDEFGH", 8), 8);
	}
	CHECK_EQUAL(drover_region_pin(region, 5, 3), 0);
	CHECK_EQUAL(drover_region_pin(region, 6, 1), 0);
	CHECK_EQUAL(read(pipes[0], bytes + 5 * PAGE, 8), 8);
	CHECK_EQUAL(memcmp(bytes + 5 * PAGE, inline_mode ? "abcdefgh" : "ABCDEFGH", 8), 0);
	/* A pinned page stays, whatever happens around it. */
	CHECK_EQUAL(drover_region_evict(region, &page, 1, DROVER_EVICT_WAIT), 0);
	fill(region, 2);
	CHECK(drover_region_reclaim(region, 0) >= 3);
	CHECK_EQUAL(sampled(region, 5), DROVER_PAGE_DIRTY);
	CHECK_EQUAL(sampled(region, 7), DROVER_PAGE_DIRTY);
	CHECK_EQUAL(drover_region_stats(region, &stats), 0);
	CHECK_EQUAL(stats.pinned_pages, 3);
	CHECK_EQUAL(drover_region_reset(region, 4, 2), -EBUSY);
	CHECK_EQUAL(drover_region_poison(region, 4, 2), -EBUSY);
	CHECK_EQUAL(drover_region_flush(region) >= 0, 1);
	CHECK_EQUAL(drover_region_unpin(region, 4, 2), -EINVAL);
	CHECK_EQUAL(drover_region_unpin(region, 5, 3), 0);
	CHECK_EQUAL(drover_region_unpin(region, 5, 1), -EINVAL);
	CHECK_EQUAL(drover_region_unpin(region, 6, 1), 0);
	CHECK_EQUAL(drover_region_evict(region, &page, 1, DROVER_EVICT_WAIT), 1);
	/* Not more than 7/8 of the limit, and nothing stays pinned when it does not work. */
	CHECK_EQUAL(drover_region_pin(region, 0, PAGES), -ENOMEM);
	CHECK_EQUAL(drover_region_pin(region, 0, LIMIT / PAGE / 8 * 7), 0);
	CHECK_EQUAL(drover_region_pin(region, LIMIT / PAGE, 1), -ENOMEM);
	for (uint64_t i = 0; i < PAGES; i++)
		CHECK_EQUAL(words_of(region)[i * 512 + 511], word_of(i, 511, 2));
	CHECK_EQUAL(drover_region_unpin(region, 0, LIMIT / PAGE / 8 * 7), 0);
	for (int i = 0; i < 255; i++)
		CHECK_EQUAL(drover_region_pin(region, 9, 1), 0);
	CHECK_EQUAL(drover_region_pin(region, 9, 1), -EOVERFLOW);
	for (int i = 0; i < 255; i++)
		CHECK_EQUAL(drover_region_unpin(region, 9, 1), 0);
	CHECK_EQUAL(touch(&words_of(region)[9 * 512], 0, &value), 1);
	CHECK_EQUAL(value, word_of(9, 0, 2));
	CHECK_EQUAL(drover_region_stats(region, &stats), 0);
	CHECK_EQUAL(stats.pinned_pages, 0);
	check_books(region);
	close(pipes[0]);
	close(pipes[1]);
	CHECK_EQUAL(drover_region_close(region), 0);
}

static void moves(const struct way *way)
{
	struct drover_region *region = open_way(way, SIZE, LIMIT, NULL);
	struct drover_region_stats before, stats;
	uint64_t pages[64];
	int64_t started;

	fill(region, 1);
	evict_all(region);
	/* populate brings exactly the range; what is there costs nothing. */
	CHECK_EQUAL(drover_region_populate(region, 10, 100), 100);
	CHECK_EQUAL(drover_region_populate(region, 10, 100), 0);
	CHECK_EQUAL(drover_region_stats(region, &stats), 0);
	CHECK_EQUAL(stats.resident_pages, 100);
	/* populate of more than the limit ends with the last pages in. */
	CHECK(drover_region_populate(region, 0, PAGES) > 0);
	CHECK(present_pages(region) <= LIMIT / PAGE);
	evict_all(region);

	for (uint64_t i = 0; i < 64; i++)
		pages[i] = i * 7 % PAGES;
	CHECK_EQUAL(drover_region_stats(region, &before), 0);
	started = drover_region_prefetch(region, pages, 64, DROVER_PREFETCH_WAIT);
	CHECK_EQUAL(started, 64);
	for (int i = 0; i < 64; i++)
		CHECK_EQUAL(words_of(region)[pages[i] * 512], word_of(pages[i], 0, 1));
	CHECK_EQUAL(drover_region_stats(region, &stats), 0);
	CHECK_EQUAL(stats.fetches, before.fetches);
	CHECK_EQUAL(stats.prefetched, before.prefetched + 64);
	CHECK_EQUAL(drover_region_prefetch(region, pages, 64, 0), 0);
	evict_all(region);
	/* Without waiting: the touch waits. */
	CHECK(drover_region_prefetch(region, pages, 64, 0) > 0);
	for (int i = 0; i < 64; i++)
		CHECK_EQUAL(words_of(region)[pages[i] * 512 + 511], word_of(pages[i], 511, 1));

	/* Standby: out of the region, not out of RAM. */
	if (!way->shared) {
		uint64_t page = 700;

		CHECK_EQUAL(words_of(region)[page * 512], word_of(page, 0, 1));
		CHECK_EQUAL(drover_region_evict(region, &page, 1, DROVER_EVICT_STANDBY), 1);
		CHECK_EQUAL(sampled(region, page), DROVER_PAGE_STANDBY);
		CHECK_EQUAL(drover_region_stats(region, &before), 0);
		CHECK_EQUAL(words_of(region)[page * 512], word_of(page, 0, 1));
		words_of(region)[page * 512] = 77;
		CHECK_EQUAL(drover_region_evict(region, &page, 1, DROVER_EVICT_STANDBY), 1);
		CHECK_EQUAL(sampled(region, page), DROVER_PAGE_STANDBY_DIRTY);
		CHECK_EQUAL(words_of(region)[page * 512], 77);
		CHECK_EQUAL(drover_region_stats(region, &stats), 0);
		CHECK_EQUAL(stats.promotions, before.promotions + 2);
		CHECK_EQUAL(stats.read_calls, before.read_calls);
		CHECK_EQUAL(drover_region_evict(region, &page, 1, DROVER_EVICT_STANDBY), 1);
		CHECK(drover_region_flush(region) >= 1);
		CHECK_EQUAL(sampled(region, page), DROVER_PAGE_COLD);
		CHECK_EQUAL(words_of(region)[page * 512], 77);
		CHECK_EQUAL(drover_region_evict(region, &page, 1, DROVER_EVICT_STANDBY), 1);
		CHECK_EQUAL(drover_region_evict(region, &page, 1, DROVER_EVICT_WAIT), 1);
		CHECK_EQUAL(sampled(region, page), DROVER_PAGE_COLD);
		words_of(region)[page * 512] = word_of(page, 0, 1);
	}
	/* reclaim goes down to what is asked for. */
	CHECK(drover_region_populate(region, 0, 256) >= 0);
	CHECK(drover_region_reclaim(region, 100) <= 100);
	CHECK_EQUAL(drover_region_reclaim(region, 0), 0);
	CHECK_EQUAL(present_pages(region), 0);

	/* Heat keeps. */
	CHECK(drover_region_populate(region, 0, 200) == 200);
	CHECK_EQUAL(drover_region_heat(region, 0, 20, 15), 0);
	CHECK_EQUAL(drover_region_heat(region, 20, 180, 0), 0);
	CHECK(drover_region_reclaim(region, 100) <= 100);
	for (uint64_t i = 0; i < 20; i++)
		CHECK(sampled(region, i) == DROVER_PAGE_DIRTY || sampled(region, i) == DROVER_PAGE_CLEAN);

	/* reset makes zeros, wherever the page was. */
	evict_all(region);
	CHECK_EQUAL(words_of(region)[3 * 512], word_of(3, 0, 1));
	CHECK_EQUAL(drover_region_reset(region, 2, 3), 0);
	for (uint64_t page = 2; page < 5; page++) {
		CHECK_EQUAL(sampled(region, page), DROVER_PAGE_EMPTY);
		for (uint32_t i = 0; i < 512; i++)
			CHECK_EQUAL(words_of(region)[page * 512 + i], 0);
	}
	CHECK_EQUAL(words_of(region)[5 * 512], word_of(5, 0, 1));
	check_books(region);
	CHECK_EQUAL(drover_region_close(region), 0);
}

/* What reading `address` does to a child, to which the region is closed: the number of the signal, 0 for none. */
static int in_child(struct drover_region *region, volatile uint64_t *address)
{
	uint64_t value;
	int status;
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0)
		_exit(touch(address, 0, &value) ? 0 : drover_region_reclaim(region, 0) == -EBADF ? touch_signal : 101);
	CHECK_EQUAL(waitpid(child, &status, 0), child);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 100;
}

static void ends(const struct way *way)
{
	struct drover_region *region = open_way(way, SIZE, LIMIT, NULL);
	volatile uint64_t *words = words_of(region);
	struct drover_region_stats stats;
	struct drover_region_event event;
	uint64_t page = 0, value, bitmap[PAGES / 64];
	uint8_t byte;

	fill(region, 1);
	/* A child has nothing there, and the parent's pages stay exclusive. */
	CHECK_EQUAL(in_child(region, words), SIGSEGV);
	fill(region, 2);
	CHECK_EQUAL(words[0], word_of(0, 0, 2));
	if (way->shared) {
		int fd = drover_region_fd(region);
		uint64_t *other = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);

		CHECK(other != MAP_FAILED);
		CHECK_EQUAL(drover_region_pin(region, 0, 1), 0);
		CHECK_EQUAL(other[0], word_of(0, 0, 2));
		CHECK_EQUAL(drover_region_unpin(region, 0, 1), 0);
		munmap(other, SIZE);
	} else {
		CHECK_EQUAL(drover_region_fd(region), -EINVAL);
	}
	CHECK_EQUAL(drover_region_close(region), 0);
	/* Late calls and touches. */
	CHECK_EQUAL(touch(words, 0, &value), 0);
	CHECK_EQUAL(touch_signal, SIGSEGV);
	CHECK_EQUAL(drover_region_close(region), -EBADF);
	CHECK_EQUAL(drover_region_address(region), 0);
	CHECK_EQUAL(drover_region_control(region), 0);
	CHECK_EQUAL(drover_region_fd(region), -EBADF);
	CHECK_EQUAL(drover_region_pin(region, 0, 1), -EBADF);
	CHECK_EQUAL(drover_region_unpin(region, 0, 1), -EBADF);
	CHECK_EQUAL(drover_region_populate(region, 0, 1), -EBADF);
	CHECK_EQUAL(drover_region_prefetch(region, &page, 1, 0), -EBADF);
	CHECK_EQUAL(drover_region_evict(region, &page, 1, 0), -EBADF);
	CHECK_EQUAL(drover_region_reclaim(region, 0), -EBADF);
	CHECK_EQUAL(drover_region_heat(region, 0, 1, 1), -EBADF);
	CHECK_EQUAL(drover_region_flush(region), -EBADF);
	CHECK_EQUAL(drover_region_sample(region, 0, 1, &byte), -EBADF);
	CHECK_EQUAL(drover_region_harvest(region, bitmap, PAGES / 64), -EBADF);
	CHECK_EQUAL(drover_region_poison(region, 0, 1), -EBADF);
	CHECK_EQUAL(drover_region_reset(region, 0, 1), -EBADF);
	CHECK_EQUAL(drover_region_stats(region, &stats), -EBADF);
	CHECK_EQUAL(drover_region_events(region, &event, 1), -EBADF);
	CHECK_EQUAL(drover_region_close(NULL), -EBADF);
}

static void many_at_once(void)
{
	static struct drover_region *regions[DROVER_REGIONS_MAX];
	struct drover_region_options options = { .size = MIB, .limit = MIB, .contexts = 1 };
	struct drover_region *one_more;

	for (uint32_t i = 0; i < DROVER_REGIONS_MAX; i++) {
		CHECK_EQUAL(drover_region_open(region_directory, &options, &regions[i]), 0);
		words_of(regions[i])[17] = i;
	}
	CHECK_EQUAL(drover_region_open(region_directory, &options, &one_more), -EMFILE);
	for (uint32_t i = 0; i < DROVER_REGIONS_MAX; i++) {
		CHECK_EQUAL(words_of(regions[i])[17], i);
		CHECK_EQUAL(drover_region_close(regions[i]), 0);
	}
}

void suite_calls(void)
{
	for (int i = 0; i < way_count; i++) {
		pins(&ways[i]);
		moves(&ways[i]);
		ends(&ways[i]);
	}
	many_at_once();
}
