/*
 * harvest.c - which pages were written since the last time: PAGEMAP_SCAN, united with the sticky bits.
 *
 * A mapped page that was not written carries the write-protection bit, which WP_ASYNC takes off at the first
 * write; the scan collects the pages without and protects them again, both at once. A page that left meanwhile says by
 * its sticky bit whether it was written (evict.c). The order makes the two meet: first the scan, then every page that
 * is BUSY now is waited for, since it may be one that left before the scan came by, then the sticky bits. REPORTED
 * tells a later demotion that the file's copy is older than what was harvested, so that comparing with it proves nothing.
 */
#include "region.h"

#include <string.h>
#include <sys/ioctl.h>

struct scan_range {
	uint64_t start, end, categories;
};

/* linux/fs.h of Linux 6.7. */
struct scan_argument {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define PAGEMAP_SCAN_REQUEST _IOWR('f', 16, struct scan_argument)
#define PAGE_IS_WRITTEN_BIT (1ull << 1)
#define PAGE_IS_PRESENT_BIT (1ull << 3)
#define SCAN_PROTECT (1ull << 0)
#define SCAN_CHECK (1ull << 1)

#define RANGES 256u

/* Sets the bits [first, end). */
static void set_bits(uint64_t *bitmap, uint64_t first, uint64_t end)
{
	for (; first < end && first % 64 != 0; first++)
		bitmap[first / 64] |= 1ull << (first % 64);
	for (; first + 64 <= end; first += 64)
		bitmap[first / 64] = ~0ull;
	for (; first < end; first++)
		bitmap[first / 64] |= 1ull << (first % 64);
}

/* Collects and protects again the mapped pages that were written. */
static int scan(struct drover_region *region, int pagemap, uint64_t *bitmap)
{
	struct scan_range ranges[RANGES];
	struct scan_argument argument = {
		.size = sizeof(argument),
		.flags = SCAN_PROTECT | SCAN_CHECK,
		.start = (uintptr_t)region->base,
		.end = (uintptr_t)region->base + region->size,
		.vec = (uintptr_t)ranges,
		.vec_len = RANGES,
		/* PRESENT keeps holes out, which would be protected too. */
		.category_mask = PAGE_IS_WRITTEN_BIT | PAGE_IS_PRESENT_BIT,
		.return_mask = PAGE_IS_WRITTEN_BIT,
	};

	while (argument.start < argument.end) {
		int found = ioctl(pagemap, PAGEMAP_SCAN_REQUEST, &argument);

		if (found < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		for (int i = 0; i < found; i++)
			set_bits(bitmap, (ranges[i].start - (uintptr_t)region->base) / PAGE,
				 (ranges[i].end - (uintptr_t)region->base) / PAGE);
		argument.start = argument.walk_end;
	}
	return 0;
}

/* Marks the reported page, unless it left meanwhile: then demotion has compared it, and said so if it differs. */
static void mark(struct drover_region *region, uint64_t page)
{
	uint32_t round = 0;

	for (;;) {
		uint32_t word = word_at(region, page);

		if (state_of(word) == DROVER_PAGE_BUSY) {
			wait_while_busy(region, page, &round);
			continue;
		}
		if (!is_mapped(word) || (word & REPORTED) != 0 ||
		    atomic_compare_exchange_strong(&region->words[page], &word, word | REPORTED))
			return;
	}
}

int64_t drover_region_harvest(struct drover_region *region, uint64_t *bitmap, size_t words)
{
	sigset_t saved;
	int64_t found = 0;
	int rc = region_begin(region, &saved);

	if (rc < 0)
		return rc;
	if (region->dirty_mode != DROVER_DIRTY_ASYNC)
		rc = -EOPNOTSUPP;
	else if (words != (region->pages + 63) / 64)
		rc = -EINVAL;
	if (rc < 0)
		goto refused;
	memset(bitmap, 0, words * sizeof(uint64_t));
	rc = scan(region, region->pagemap, bitmap);
	/* Part of the epoch is in the bitmap only by now: it is not lost, but reported with the next harvest. */
	for (size_t i = 0; rc < 0 && i < words; i++)
		atomic_fetch_or(&region->written[i], bitmap[i]);
	if (rc < 0)
		goto refused;
	for (uint64_t page = 0; page < region->pages; page++) {
		uint32_t round = 0;

		if ((bitmap[page / 64] >> (page % 64) & 1) != 0)
			mark(region, page);
		while (state_of(word_at(region, page)) == DROVER_PAGE_BUSY)
			wait_while_busy(region, page, &round);
	}
	for (size_t i = 0; i < words; i++) {
		if (atomic_load_explicit(&region->written[i], memory_order_relaxed) != 0)
			bitmap[i] |= atomic_exchange(&region->written[i], 0);
		found += __builtin_popcountll(bitmap[i]);
	}
	region_end(region, &saved);
	return found;
refused:
	region_end(region, &saved);
	return rc;
}
