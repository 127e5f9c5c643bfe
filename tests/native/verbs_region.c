/*
 * verbs_region.c - a region whose cold pages are in a donor's memory by RDMA, through the library's own calls.
 *
 *   verbs_region ADDRESS PORT TICKET LENT SIZE LIMIT SEALED OPERATIONS
 *
 * Writes a word of every page, touches pages at random, a quarter of them to write, and reads all of them at the end;
 * what it reads must be what it wrote. Says "ok" or what is not so.
 */
#include "check.h"


static uint64_t value_of(uint64_t page, uint32_t version)
{
	uint64_t x = page * 0x9e3779b97f4a7c15ull + version * 0xbf58476d1ce4e5b9ull;

	return x ^ x >> 29;
}

int main(int count, char **arguments)
{
	struct drover_store_options store = { .kind = DROVER_STORE_VERBS };
	struct drover_region_options options = { .spin_us = 50, .contexts = 2, .copies = 1 };
	struct drover_region *region;
	uint64_t pages, random = 42, operations;
	uint8_t *base;
	uint32_t *versions;

	CHECK_EQUAL(count, 9);
	store.path = arguments[1];
	store.port = (uint32_t)strtoul(arguments[2], NULL, 10);
	store.name = arguments[3];
	store.size = strtoull(arguments[4], NULL, 10);
	store.flags = arguments[7][0] == '1' ? DROVER_STORE_SEALED : 0;
	options.size = strtoull(arguments[5], NULL, 10);
	options.limit = strtoull(arguments[6], NULL, 10);
	operations = strtoull(arguments[8], NULL, 10);
	CHECK_EQUAL(drover_region_open_stores(&store, 1, &options, &region), 0);
	base = (uint8_t *)(uintptr_t)drover_region_address(region);
	pages = options.size / DROVER_PAGE_SIZE;
	versions = calloc(pages, sizeof(*versions));
	CHECK(versions != NULL);
	for (uint64_t page = 0; page < pages; page++)
		((uint64_t *)(base + page * DROVER_PAGE_SIZE))[page % 512] = value_of(page, 0);
	for (; operations > 0; operations--) {
		uint64_t page, *word;

		random = random * 6364136223846793005ull + 1442695040888963407ull;
		page = (random >> 33) % pages;
		word = (uint64_t *)(base + page * DROVER_PAGE_SIZE) + page % 512;
		CHECK_EQUAL(*word, value_of(page, versions[page]));
		if ((random >> 20) % 4 == 0)
			*word = value_of(page, ++versions[page]);
	}
	for (uint64_t page = 0; page < pages; page++)
		CHECK_EQUAL(((uint64_t *)(base + page * DROVER_PAGE_SIZE))[page % 512], value_of(page, versions[page]));
	CHECK_EQUAL(drover_region_close(region), 0);
	free(versions);
	puts("ok");
	return 0;
}
