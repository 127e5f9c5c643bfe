/* region_check.h - what the region suites share. */
#ifndef DROVER_TESTS_REGION_CHECK_H
#define DROVER_TESTS_REGION_CHECK_H

#include "check.h"
#include "store_faulty.h"

#include <setjmp.h>

#define MIB (1ull << 20)

/* One way to open a region. */
struct way {
	const char *name;
	uint32_t fault_mode, dirty_mode, shared;
};
extern const struct way ways[];
extern const int way_count;

/* Where regions put their files. */
extern const char *region_directory;

/* Ends the program with "skipped" when this machine cannot open a region at all. */
void skip_unless_possible(void);

/* Opens over a store that can be made to fail; `faulty` may be NULL. */
struct drover_region *open_way(const struct way *way, uint64_t size, uint64_t limit, struct faulty *faulty);

/*
 * Whether touching `word` worked; the value goes to `*value`, or comes from it for a write. 0 after SIGBUS or SIGSEGV,
 * whose number is in `touch_signal`.
 */
int touch(volatile uint64_t *word, int write, uint64_t *value);
extern __thread int touch_signal;

/* Installs what touch() needs; before the first region is opened. */
void catch_signals(void);

/* The pages of region and shadow that are in RAM now, from the kernel's books. */
uint64_t present_pages(struct drover_region *region);

/* With nothing in flight and nobody else inside: our books agree with each other and with the kernel's. */
void check_books(struct drover_region *region);

/* The events so far that say `why`, and takes them all. */
uint32_t events_of(struct drover_region *region, uint32_t why);

/* The word that page `page` holds at `index` in version `version`; version 0 is all zeros. */
uint64_t word_of(uint64_t page, uint32_t index, uint64_t version);

void suite_basic(void);
void suite_calls(void);
void suite_errors(void);
void suite_faults(void);
void suite_harvest(void);
void suite_stress(void);
void suite_tiers(void);
void suite_seal(void);
void suite_moves(void);

#endif
