/*
 * region_basic_test.c - in every mode: a region four times its limit keeps every byte, stays under the cap, and lets go
 * of everything.
 */
#include "region_check.h"

#include <string.h>

#define SIZE (8 * MIB)
#define LIMIT (2 * MIB)
#define PAGES (SIZE / PAGE)

static void write_all(volatile uint64_t *words, uint64_t version)
{
	for (uint64_t page = 0; page < PAGES; page++)
		for (uint32_t i = 0; i < 512; i += 73)
			words[page * 512 + i] = word_of(page, i, version);
}

static void verify_all(const volatile uint64_t *words, uint64_t version)
{
	for (uint64_t page = 0; page < PAGES; page++)
		for (uint32_t i = 0; i < 512; i++)
			CHECK_EQUAL(words[page * 512 + i], i % 73 == 0 ? word_of(page, i, version) : 0);
}

static void keeps_every_byte(const struct way *way)
{
	struct drover_region *region = open_way(way, SIZE, LIMIT, NULL);
	volatile uint64_t *words = (volatile uint64_t *)drover_region_address(region);
	struct drover_region_stats stats;

	/* Zeros first: they need no file. */
	for (uint64_t page = 0; page < PAGES; page++)
		CHECK_EQUAL(words[page * 512 + page % 512], 0);
	CHECK_EQUAL(drover_region_stats(region, &stats), 0);
	CHECK_EQUAL(stats.written_bytes, 0);
	CHECK(stats.fills >= PAGES && stats.resident_pages <= LIMIT / PAGE);
	check_books(region);

	for (uint64_t version = 1; version < 4; version++) {
		write_all(words, version);
		CHECK(present_pages(region) <= LIMIT / PAGE);
		verify_all(words, version);
		check_books(region);
	}
	CHECK_EQUAL(drover_region_stats(region, &stats), 0);
	CHECK(stats.fetches > 0 && stats.evicted_dirty > 0);
	/* What was only read leaves without being written. */
	verify_all(words, 3);
	CHECK_EQUAL(drover_region_flush(region) >= 0, 1);
	CHECK_EQUAL(drover_region_stats(region, &stats), 0);
	uint64_t written = stats.written_bytes;

	verify_all(words, 3);
	CHECK_EQUAL(drover_region_stats(region, &stats), 0);
	CHECK_EQUAL(stats.written_bytes, written);
	CHECK_EQUAL(stats.errors, 0);
	CHECK_EQUAL(stats.limit_pages, LIMIT / PAGE);
	CHECK_EQUAL(drover_region_close(region), 0);
}

static void random_order(const struct way *way)
{
	struct drover_region *region = open_way(way, SIZE, LIMIT, NULL);
	volatile uint64_t *words = (volatile uint64_t *)drover_region_address(region);
	struct drover_region_control *control = (struct drover_region_control *)drover_region_control(region);
	static uint64_t versions[PAGES];
	uint64_t seed = 7;

	memset(versions, 0, sizeof(versions));
	control->read_around = way->shared ? 1 : 4;
	for (uint32_t step = 0; step < 6000; step++) {
		uint64_t page, index;

		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		page = (seed >> 33) % PAGES;
		index = (seed >> 20) % 512;
		if (step % 1000 == 0) /* the knobs move while it runs */
			control->limit_pages = LIMIT / PAGE - seed % (LIMIT / PAGE / 2);
		CHECK_EQUAL(words[page * 512 + index], word_of(page, (uint32_t)index, versions[page]));
		if (seed % 3 != 0)
			continue;
		versions[page]++;
		for (uint32_t i = 0; i < 512; i++)
			words[page * 512 + i] = word_of(page, i, versions[page]);
	}
	check_books(region);
	CHECK_EQUAL(drover_region_close(region), 0);
}

void suite_basic(void)
{
	for (int i = 0; i < way_count; i++) {
		keeps_every_byte(&ways[i]);
		random_order(&ways[i]);
	}
}
