/* tiers_check.h - regions over a file and donors that are files too, each of which can be made to fail. */
#ifndef DROVER_TESTS_TIERS_CHECK_H
#define DROVER_TESTS_TIERS_CHECK_H

#include "../../native-src/tiers.h"
#include "region_check.h"

#define TIERED_SIZE (4 * MIB)
#define TIERED_LIMIT (2 * MIB)
#define TIERED_PAGES (TIERED_SIZE / PAGE)

/* What a region is made of, in this order: `sizes` in bytes, `is_file` for the one that holds every page. */
struct shape {
	uint32_t count, copies;
	uint64_t sizes[4];
	uint32_t is_file[4];
	uint32_t sealed[4];
	uint64_t patience;
	uint32_t no_ring; /* answers come in the order of the requests */
};

/* The faults of each store; cleared by open_shape(). */
extern struct faulty tier_faults[4];

struct drover_region *open_shape(const struct way *way, const struct shape *shape);

/* Writes version `version` of every page in [first, end), and sends them all out. */
void fill_pages(struct drover_region *region, uint64_t first, uint64_t end, uint64_t version);
void evict_all(struct drover_region *region);

/* Every page in [first, end) has that version; all are out of RAM afterwards. */
void verify_pages(struct drover_region *region, uint64_t first, uint64_t end, uint64_t version);

/* How many pages of the region are at store `t`. */
uint64_t pages_in(struct drover_region *region, uint32_t t);

struct drover_store_stats stats_of(struct drover_region *region, uint32_t t);

/* The slots that are taken are those of the pages that are there, each once; then closes the region. */
void close_tiered(struct drover_region *region);

#endif
