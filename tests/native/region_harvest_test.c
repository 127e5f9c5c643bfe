/*
 * region_harvest_test.c - no write is missed, whether its page stayed, left, came back or is on its way; and pages that
 * stayed and were not written are not named.
 */
#include "region_check.h"

#include <string.h>

#define SIZE (8 * MIB)
#define LIMIT (2 * MIB)
#define PAGES (SIZE / PAGE)

static int has(const uint64_t *bitmap, uint64_t page)
{
	return bitmap[page / 64] >> (page % 64) & 1;
}

static void exact_while_resident(const struct way *way)
{
	struct drover_region *region = open_way(way, SIZE, 2 * SIZE, NULL);
	volatile uint64_t *words = (volatile uint64_t *)drover_region_address(region);
	uint64_t bitmap[PAGES / 64];
	uint64_t sum = 0;

	CHECK_EQUAL(drover_region_harvest(region, bitmap, PAGES / 64 - 1), -EINVAL);
	CHECK_EQUAL(drover_region_harvest(region, bitmap, PAGES / 64), 0);
	for (uint64_t page = 0; page < PAGES; page++)
		sum += words[page * 512];
	CHECK_EQUAL(sum, 0);
	CHECK_EQUAL(drover_region_harvest(region, bitmap, PAGES / 64), 0);
	for (uint64_t page = 0; page < PAGES; page += 10)
		words[page * 512] = page + 1;
	CHECK_EQUAL(drover_region_harvest(region, bitmap, PAGES / 64), (PAGES + 9) / 10);
	for (uint64_t page = 0; page < PAGES; page++)
		CHECK_EQUAL(has(bitmap, page), page % 10 == 0);
	CHECK_EQUAL(drover_region_harvest(region, bitmap, PAGES / 64), 0);
	words[20 * 512] = 1;
	CHECK_EQUAL(drover_region_harvest(region, bitmap, PAGES / 64), 1);
	CHECK_EQUAL(has(bitmap, 20), 1);
	CHECK_EQUAL(drover_region_reset(region, 30, 1), 0);
	CHECK_EQUAL(drover_region_harvest(region, bitmap, PAGES / 64), 1);
	CHECK_EQUAL(has(bitmap, 30), 1);
	CHECK_EQUAL(drover_region_close(region), 0);
}

/* A -> B, harvested, -> A again, and out: the file always held A, yet the page was written. */
static void changed_back(const struct way *way)
{
	struct drover_region *region = open_way(way, SIZE, LIMIT, NULL);
	volatile uint64_t *words = (volatile uint64_t *)drover_region_address(region);
	uint64_t bitmap[PAGES / 64], page = 1;

	words[512] = 'A';
	CHECK_EQUAL(drover_region_evict(region, &page, 1, DROVER_EVICT_WAIT), 1);
	CHECK_EQUAL(drover_region_harvest(region, bitmap, PAGES / 64), 1);
	words[512] = 'B';
	CHECK_EQUAL(drover_region_harvest(region, bitmap, PAGES / 64), 1);
	words[512] = 'A';
	CHECK_EQUAL(drover_region_evict(region, &page, 1, DROVER_EVICT_WAIT), 1);
	CHECK_EQUAL(drover_region_harvest(region, bitmap, PAGES / 64), 1);
	CHECK_EQUAL(has(bitmap, 1), 1);
	/* Only read: not named, though it left and came back. */
	CHECK_EQUAL(words[512], 'A');
	CHECK_EQUAL(drover_region_evict(region, &page, 1, DROVER_EVICT_WAIT), 1);
	CHECK_EQUAL(words[512], 'A');
	CHECK_EQUAL(drover_region_harvest(region, bitmap, PAGES / 64), 0);
	CHECK_EQUAL(drover_region_close(region), 0);
}

struct evictor {
	struct drover_region *region;
	_Atomic int stop;
};

static void *evict_at_random(void *argument)
{
	struct evictor *evictor = argument;
	uint64_t seed = 3;

	while (!atomic_load(&evictor->stop)) {
		uint64_t pages[32];

		for (int i = 0; i < 32; i++) {
			seed = seed * 6364136223846793005ull + 1442695040888963407ull;
			pages[i] = (seed >> 33) % PAGES;
		}
		CHECK(drover_region_evict(evictor->region, pages, 32, seed >> 60 == 0 ? DROVER_EVICT_STANDBY : 0) >= 0);
	}
	return NULL;
}

/* A copy that is brought up to date from harvests alone equals the region at every stop. */
static void copy_keeps_up(const struct way *way)
{
	struct drover_region *region = open_way(way, SIZE, LIMIT, NULL);
	volatile uint64_t *words = (volatile uint64_t *)drover_region_address(region);
	static uint64_t copy[PAGES], truth[PAGES];
	uint64_t bitmap[PAGES / 64], seed = 11;
	struct evictor evictor = { .region = region };
	pthread_t thread;

	memset(copy, 0, sizeof(copy));
	memset(truth, 0, sizeof(truth));
	CHECK_EQUAL(pthread_create(&thread, NULL, evict_at_random, &evictor), 0);
	for (int epoch = 0; epoch < 30; epoch++) {
		for (int i = 0; i < 300; i++) {
			uint64_t page;

			seed = seed * 6364136223846793005ull + 1442695040888963407ull;
			page = (seed >> 33) % PAGES;
			/* Few values, so that pages often change back. */
			truth[page] = seed >> 40 & 1;
			words[page * 512 + 3] = truth[page];
		}
		CHECK(drover_region_harvest(region, bitmap, PAGES / 64) >= 0);
		for (uint64_t page = 0; page < PAGES; page++)
			if (has(bitmap, page))
				copy[page] = words[page * 512 + 3];
		CHECK_EQUAL(memcmp(copy, truth, sizeof(copy)), 0);
	}
	atomic_store(&evictor.stop, 1);
	pthread_join(thread, NULL);
	check_books(region);
	CHECK_EQUAL(drover_region_close(region), 0);
}

void suite_harvest(void)
{
	for (int i = 0; i < way_count; i++) {
		if (ways[i].dirty_mode != DROVER_DIRTY_ASYNC)
			continue;
		exact_while_resident(&ways[i]);
		changed_back(&ways[i]);
		copy_keeps_up(&ways[i]);
	}
}
