/* region_main.c - runs one suite of the region tests: `region_tests SUITE EMPTY_DIRECTORY`. */
#include "region_check.h"

#include <fcntl.h>
#include <string.h>

const char *region_directory;
__thread int touch_signal;

static __thread sigjmp_buf *landing;

const struct way ways[] = {
	{ "inline/hash", DROVER_FAULT_INLINE, DROVER_DIRTY_HASH, 0 },	{ "inline/wp", DROVER_FAULT_INLINE, DROVER_DIRTY_WP, 0 },
	{ "inline/async", DROVER_FAULT_INLINE, DROVER_DIRTY_ASYNC, 0 }, { "thread/hash", DROVER_FAULT_THREAD, DROVER_DIRTY_HASH, 0 },
	{ "thread/wp", DROVER_FAULT_THREAD, DROVER_DIRTY_WP, 0 },	{ "thread/async", DROVER_FAULT_THREAD, DROVER_DIRTY_ASYNC, 0 },
	{ "shared", DROVER_FAULT_THREAD, DROVER_DIRTY_HASH, 1 },
};
const int way_count = sizeof(ways) / sizeof(ways[0]);

static void on_signal(int number)
{
	if (landing == NULL)
		_exit(99);
	touch_signal = number;
	siglongjmp(*landing, 1);
}

void catch_signals(void)
{
	struct sigaction action = { .sa_handler = on_signal };

	CHECK_EQUAL(sigaction(SIGBUS, &action, NULL), 0);
	CHECK_EQUAL(sigaction(SIGSEGV, &action, NULL), 0);
}

__attribute__((noinline, no_sanitize("thread", "address"))) int touch(volatile uint64_t *word, int write, uint64_t *value)
{
	sigjmp_buf here;
	sigjmp_buf *outer = landing;

	if (sigsetjmp(here, 1) != 0) {
		landing = outer;
		return 0;
	}
	landing = &here;
	if (write)
		*word = *value;
	else
		*value = *word;
	landing = outer;
	return 1;
}

static struct drover_region_options options_of(const struct way *way, uint64_t size, uint64_t limit)
{
	return (struct drover_region_options){
		.size = size,
		.limit = limit,
		.fault_mode = way->fault_mode,
		.dirty_mode = way->dirty_mode,
		.shared = way->shared,
		.spin_us = 30,
		.contexts = 4,
	};
}

void skip_unless_possible(void)
{
	struct drover_region_options options = options_of(&ways[0], MIB, MIB);
	struct drover_region *region;
	int rc = drover_region_open(region_directory, &options, &region);

	if (rc == -EPERM || rc == -EOPNOTSUPP) {
		printf("skipped: drover_region_open says %d\n", rc);
		exit(0);
	}
	CHECK_EQUAL(rc, 0);
	CHECK_EQUAL(drover_region_close(region), 0);
}

struct drover_region *open_way(const struct way *way, uint64_t size, uint64_t limit, struct faulty *faulty)
{
	struct drover_region_options options = options_of(way, size, limit);
	struct drover_region *region;
	struct store store;

	if (faulty == NULL) {
		CHECK_EQUAL(drover_region_open(region_directory, &options, &region), 0);
		return region;
	}
	CHECK_EQUAL(store_file_open(region_directory, size, 0, &store), 0);
	store = faulty_wrap(faulty, &store);
	CHECK_EQUAL(region_open(&options, &store, &region), 0);
	return region;
}

static uint64_t present_in(int pagemap, const uint8_t *base, uint64_t pages)
{
	uint64_t entries[512], present = 0;

	for (uint64_t page = 0; page < pages; page += 512) {
		uint64_t part = pages - page < 512 ? pages - page : 512;

		CHECK_EQUAL(pread(pagemap, entries, part * 8, (off_t)(((uintptr_t)base / PAGE + page) * 8)), part * 8);
		for (uint64_t i = 0; i < part; i++)
			present += entries[i] >> 63;
	}
	return present;
}

uint64_t present_pages(struct drover_region *region)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t present;

	CHECK(pagemap >= 0);
	present = present_in(pagemap, region->base, region->pages);
	if (!region->shared) /* there the second mapping shows the same pages */
		present += present_in(pagemap, region->shadow, region->pages);
	close(pagemap);
	return present;
}

static int is_under_way(uint32_t word)
{
	return state_of(word) == DROVER_PAGE_BUSY || state_of(word) == DROVER_PAGE_WRITEBACK || (word & SHADOW) != 0;
}

void check_books(struct drover_region *region)
{
	uint64_t in_ram = 0;

	/* What a fault thread has in flight, or between two steps, it finishes itself, soon; on a busy disk later. */
	for (int round = 0; round < 20000; round++) {
		struct timespec pause = { 0, 1000000 };
		uint32_t under_way = 0;

		help(region);
		for (uint32_t i = 0; i < region->context_count; i++)
			under_way += atomic_load(&region->contexts[i].in_flight);
		for (uint64_t page = 0; page < region->pages && under_way == 0; page++)
			under_way += (uint32_t)is_under_way(word_at(region, page));
		if (under_way == 0)
			break;
		nanosleep(&pause, NULL);
	}
	for (uint64_t page = 0; page < region->pages; page++) {
		uint32_t word = word_at(region, page);

		CHECK(!is_under_way(word));
		in_ram += state_of(word) >= DROVER_PAGE_CLEAN && state_of(word) <= DROVER_PAGE_STANDBY_DIRTY;
	}
	CHECK_EQUAL(in_ram, atomic_load(&region->frames));
	if (!region->shared)
		CHECK_EQUAL(in_ram, present_pages(region));
	else
		CHECK(present_pages(region) <= in_ram);
	CHECK_EQUAL(atomic_load(&region->writeback), 0);
	CHECK(in_ram <= region_limit(region));
}

uint32_t events_of(struct drover_region *region, uint32_t why)
{
	struct drover_region_event events[16];
	uint32_t found = 0;
	int got;

	while ((got = drover_region_events(region, events, 16)) > 0)
		for (int i = 0; i < got; i++)
			found += events[i].why == why;
	CHECK_EQUAL(got, 0);
	return found;
}

uint64_t word_of(uint64_t page, uint32_t index, uint64_t version)
{
	uint64_t x = page * 0x9e3779b97f4a7c15ull + index * 0xbf58476d1ce4e5b9ull + version * 0x94d049bb133111ebull;

	return version == 0 ? 0 : x ^ x >> 29;
}

int main(int count, char **arguments)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} suites[] = {
		{ "basic", suite_basic },   { "calls", suite_calls },	  { "errors", suite_errors },
		{ "faults", suite_faults }, { "harvest", suite_harvest }, { "stress", suite_stress },
		{ "tiers", suite_tiers },   { "seal", suite_seal },	  { "moves", suite_moves },
	};

	CHECK_EQUAL(count, 3);
	region_directory = arguments[2];
	catch_signals();
	skip_unless_possible();
	for (size_t i = 0; i < sizeof(suites) / sizeof(suites[0]); i++) {
		if (strcmp(suites[i].name, arguments[1]) == 0) {
			suites[i].run();
			printf("%s: ok\n", arguments[1]);
			return 0;
		}
	}
	fprintf(stderr, "no suite \"%s\"\n", arguments[1]);
	return 2;
}
