/*
 * region_moves_test.c - pages that move between stores: by move, mend and retire, while others touch them, and while the
 * stores fail. No byte is ever wrong, no slot is lost or taken twice.
 *
 * DROVER_STRESS_SECONDS is how long the last part takes (default 3).
 */
#include "tiers_check.h"

#include <sched.h>
#include <string.h>

static volatile uint64_t *words_of(struct drover_region *region)
{
	return (volatile uint64_t *)drover_region_address(region);
}

static int64_t move_all(struct drover_region *region, uint32_t store)
{
	static uint64_t pages[TIERED_PAGES];

	for (uint64_t page = 0; page < TIERED_PAGES; page++)
		pages[page] = page;
	return drover_region_move(region, pages, TIERED_PAGES, store);
}

static int64_t retire_all(struct drover_region *region, uint32_t store, uint32_t flags)
{
	int64_t left = 1;

	for (int round = 0; round < 100 && left > 0; round++) {
		int64_t before = left;

		left = drover_region_retire(region, store, flags, 100);
		CHECK(round == 0 || left <= before);
	}
	return left;
}

static void there_and_back(const struct way *way)
{
	struct drover_region *region =
		open_shape(way, &(struct shape){ .count = 3, .copies = 1, .sizes = { TIERED_SIZE, 2 * MIB, 3 * MIB }, .is_file = { 1 } });
	uint64_t beyond = TIERED_PAGES;

	fill_pages(region, 0, TIERED_PAGES, 1);
	CHECK_EQUAL(drover_region_move(region, &beyond, 1, 1), -EINVAL);
	CHECK_EQUAL(drover_region_move(region, &beyond, 0, 3), -EINVAL);
	/* As many as there is room for. The file keeps what it has. */
	CHECK_EQUAL(move_all(region, 1), 2 * MIB / PAGE);
	CHECK_EQUAL(pages_in(region, 1), 2 * MIB / PAGE);
	CHECK_EQUAL(pages_in(region, 0), TIERED_PAGES);
	/* From donor to donor: one copy is enough. */
	CHECK_EQUAL(move_all(region, 2), 3 * MIB / PAGE);
	CHECK(pages_in(region, 1) <= MIB / PAGE);
	verify_pages(region, 0, TIERED_PAGES, 1);
	CHECK_EQUAL(move_all(region, 0), TIERED_PAGES);
	CHECK_EQUAL(pages_in(region, 1) + pages_in(region, 2), 0);
	verify_pages(region, 0, TIERED_PAGES, 1);
	/* What is in RAM does not move. */
	CHECK_EQUAL(words_of(region)[9 * 512 + 1], word_of(9, 1, 1));
	CHECK_EQUAL(drover_region_move(region, (const uint64_t[]){ 9, 10 }, 2, 1), 1);
	close_tiered(region);
}

/* Two donors without a file, and all pages of one have to go to the other two. */
static void a_donor_takes_its_memory_back(const struct way *way, uint32_t flags)
{
	struct drover_region *region =
		open_shape(way, &(struct shape){ .count = 3, .copies = 2, .sizes = { 5 * MIB, 5 * MIB, 5 * MIB }, .sealed = { 0, 1, 0 } });
	struct drover_store_options another = { .path = region_directory, .size = 2 * MIB };
	uint8_t places[200];

	fill_pages(region, 0, TIERED_PAGES, 1);
	/* Some are in RAM, unchanged: they will leave without a write. */
	for (uint64_t page = 0; page < 200; page++)
		CHECK_EQUAL(words_of(region)[page * 512 + 1], word_of(page, 1, 1));
	CHECK(pages_in(region, 0) > 0);
	if ((flags & DROVER_RETIRE_LOST) != 0)
		atomic_store(&tier_faults[0].broken, 1);
	CHECK_EQUAL(retire_all(region, 0, flags), 0);
	CHECK_EQUAL(stats_of(region, 0).state, DROVER_STORE_GONE);
	CHECK_EQUAL(stats_of(region, 0).used, 0);
	evict_all(region);
	/* They were written all the same where a copy was missing. */
	CHECK_EQUAL(drover_region_places(region, 0, 200, places), 0);
	for (uint64_t page = 0; page < 200; page++)
		CHECK_EQUAL(places[page], 6);
	while (drover_region_mend(region, 0, TIERED_PAGES) > 0)
		;
	CHECK_EQUAL(pages_in(region, 1), TIERED_PAGES);
	CHECK_EQUAL(pages_in(region, 2), TIERED_PAGES);
	verify_pages(region, 0, TIERED_PAGES, 1);
	fill_pages(region, 0, 100, 2);
	CHECK_EQUAL(pages_in(region, 0), 0);
	/* Another one takes its place. */
	CHECK_EQUAL(drover_region_add_store(region, &another), 0);
	CHECK_EQUAL(stats_of(region, 0).state, DROVER_STORE_UP);
	CHECK_EQUAL(stats_of(region, 0).slots, 2 * MIB / PAGE);
	CHECK_EQUAL(drover_region_add_store(region, &another), 3);
	CHECK(move_all(region, 0) > 0);
	CHECK(pages_in(region, 0) > 0);
	verify_pages(region, 0, 100, 2);
	verify_pages(region, 100, TIERED_PAGES, 1);
	close_tiered(region);
}

/* Nothing else has room: the pages stay, and are not lost. */
static void no_room_anywhere(const struct way *way)
{
	struct drover_region *region =
		open_shape(way, &(struct shape){ .count = 2, .copies = 1, .sizes = { 3 * MIB, 3 * MIB } });
	int64_t left;

	fill_pages(region, 0, TIERED_PAGES, 1);
	left = retire_all(region, 0, 0);
	CHECK(left > 0);
	CHECK_EQUAL(left + (int64_t)pages_in(region, 1), TIERED_PAGES);
	CHECK_EQUAL(stats_of(region, 0).state, DROVER_STORE_RETIRING);
	verify_pages(region, 0, TIERED_PAGES, 1);
	close_tiered(region);
}

static void *evict_some_pages(void *region)
{
	static const uint64_t pages[] = { 3, 4, 5, 9 };

	CHECK(drover_region_evict(region, pages, 4, 0) >= 0);
	return NULL;
}

/* A write in flight in a context that nobody uses: who waits for the page ends it. */
static void a_donor_is_left_while_pages_are_written(const struct way *way)
{
	struct drover_region *region =
		open_shape(way, &(struct shape){ .count = 3, .copies = 2, .sizes = { 5 * MIB, 5 * MIB, 5 * MIB } });
	struct context *kept;
	pthread_t thread;

	fill_pages(region, 0, 64, 1);
	for (uint64_t page = 0; page < 16; page++) {
		words_of(region)[page * 512 + 1] = word_of(page, 1, 2);
		words_of(region)[page * 512 + 511] = word_of(page, 511, 2);
	}
	/* So that the thread takes another one than this thread will. */
	kept = claim(region);
	CHECK_EQUAL(pthread_create(&thread, NULL, evict_some_pages, region), 0);
	pthread_join(thread, NULL);
	release(kept);
	for (uint32_t t = 0; t < 2; t++)
		CHECK_EQUAL(retire_all(region, t, DROVER_RETIRE_LOST * t), 0);
	evict_all(region);
	verify_pages(region, 0, 16, 2);
	verify_pages(region, 16, 64, 1);
	close_tiered(region);
}

/* A read that never comes back ends the move and nothing else. */
static void a_move_that_hangs_is_given_up(const struct way *way)
{
	struct drover_region *region =
		open_shape(way, &(struct shape){ .count = 2, .copies = 1, .sizes = { TIERED_SIZE, TIERED_SIZE }, .is_file = { 1 } });

	fill_pages(region, 0, TIERED_PAGES, 1);
	region->device_nanos = 300000000;
	atomic_store(&tier_faults[0].read_lost, 1);
	CHECK_EQUAL(drover_region_move(region, (const uint64_t[]){ 3, 4, 5 }, 3, 1), 0);
	atomic_store(&tier_faults[0].read_lost, 0);
	CHECK_EQUAL(words_of(region)[4 * 512 + 1], word_of(4, 1, 1));
	/* A write that never comes back: its slot stays taken, and nobody reads there. */
	atomic_store(&tier_faults[1].write_error, 1);
	CHECK_EQUAL(drover_region_move(region, (const uint64_t[]){ 7 }, 1, 1), 0);
	atomic_store(&tier_faults[1].write_error, 0);
	CHECK_EQUAL(drover_region_move(region, (const uint64_t[]){ 7 }, 1, 1), 1);
	CHECK_EQUAL(words_of(region)[7 * 512 + 1], word_of(7, 1, 1));
	CHECK_EQUAL(drover_region_close(region), 0);
}

/* -- all at once ------------------------------------------------------------------------------------------ */

static struct {
	struct drover_region *region;
	_Atomic int stop;
	_Atomic uint64_t accesses, moved;
	_Atomic uint32_t locks[TIERED_PAGES];
	uint64_t versions[TIERED_PAGES]; /* owned with the lock */
} play;

static uint64_t next(uint64_t *seed)
{
	uint64_t x = *seed += 0x9e3779b97f4a7c15ull;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

static void use_page(uint64_t page, uint64_t *seed)
{
	volatile uint64_t *words = words_of(play.region) + page * 512;
	uint64_t version = play.versions[page], value;

	for (int i = 0; i < 3; i++) {
		uint32_t index = (uint32_t)(next(seed) % 512);

		CHECK(touch(&words[index], 0, &value));
		CHECK_EQUAL(value, word_of(page, index, version));
	}
	if (next(seed) % 3 != 0)
		return;
	for (uint32_t i = 0; i < 512; i++) {
		value = word_of(page, i, version + 1);
		CHECK(touch(&words[i], 1, &value));
	}
	play.versions[page] = version + 1;
}

static void *use_pages(void *argument)
{
	uint64_t seed = (uintptr_t)argument;

	while (!atomic_load_explicit(&play.stop, memory_order_relaxed)) {
		uint64_t page = next(&seed) % TIERED_PAGES;
		uint32_t open = 0;

		if (!atomic_compare_exchange_strong_explicit(&play.locks[page], &open, 1, memory_order_acquire,
							     memory_order_relaxed))
			continue;
		use_page(page, &seed);
		atomic_store_explicit(&play.locks[page], 0, memory_order_release);
		atomic_fetch_add_explicit(&play.accesses, 1, memory_order_relaxed);
	}
	return NULL;
}

static void *move_pages(void *argument)
{
	uint64_t seed = (uintptr_t)argument;
	struct drover_store_options another = { .path = region_directory, .size = 2 * MIB, .flags = DROVER_STORE_SEALED };
	static __thread uint8_t places[TIERED_PAGES];

	while (!atomic_load_explicit(&play.stop, memory_order_relaxed)) {
		uint64_t pages[64], first = next(&seed) % (TIERED_PAGES - 64);
		int64_t rc;

		for (uint64_t i = 0; i < 64; i++)
			pages[i] = next(&seed) % 8 == 0 ? next(&seed) % TIERED_PAGES : first + i;
		switch (next(&seed) % 8) {
		case 0:
			CHECK(drover_region_mend(play.region, first, 64) >= 0);
			break;
		case 1:
			if (next(&seed) % 8 != 0)
				break;
			/* The last donor comes and goes. */
			rc = drover_region_retire(play.region, 2, next(&seed) % 2 == 0 ? DROVER_RETIRE_LOST : 0, 1 << 20);
			CHECK(rc >= 0);
			if (rc == 0) {
				rc = drover_region_add_store(play.region, &another);
				CHECK(rc == 2 || rc == 3 || rc == -EBUSY || rc == -EMFILE || rc == 4 || rc == 5 || rc == 6 || rc == 7);
			}
			break;
		case 2:
			CHECK(drover_region_evict(play.region, pages, 64, 0) >= 0);
			break;
		case 3:
			CHECK_EQUAL(drover_region_places(play.region, 0, TIERED_PAGES, places), 0);
			CHECK(drover_region_stores(play.region, NULL, 0) >= 3);
			break;
		default:
			rc = drover_region_move(play.region, pages, 64, (uint32_t)(next(&seed) % 3));
			CHECK(rc >= 0 || rc == -EINVAL); /* the store may be gone */
			if (rc > 0)
				atomic_fetch_add(&play.moved, (uint64_t)rc);
			break;
		}
	}
	return NULL;
}

static void everything_at_once(const struct way *way, const struct shape *shape, int failing, uint64_t nanos)
{
	pthread_t threads[4];
	uint64_t end = now() + nanos;

	memset(&play, 0, sizeof(play));
	play.region = open_shape(way, shape);
	for (uint32_t t = 0; t < shape->count && failing; t++) {
		if (shape->is_file[t])
			continue;
		/* Donors fail in every way that another copy makes up for. */
		atomic_store(&tier_faults[t].read_corrupt, shape->copies == 1 ? 50 : 0);
		atomic_store(&tier_faults[t].read_error, 100);
		atomic_store(&tier_faults[t].write_error, 50);
		atomic_store(&tier_faults[t].broken, shape->copies == 1 ? 100 : 0);
	}
	for (uintptr_t i = 0; i < 4; i++)
		CHECK_EQUAL(pthread_create(&threads[i], NULL, i < 2 ? use_pages : move_pages, (void *)(i + 1)), 0);
	while (now() < end) {
		struct timespec pause = { 0, 20000000 };

		nanosleep(&pause, NULL);
		CHECK(atomic_load(&play.region->frames) <= TIERED_LIMIT / PAGE + 4);
	}
	atomic_store(&play.stop, 1);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	for (uint32_t t = 0; t < shape->count; t++)
		tier_faults[t].read_corrupt = tier_faults[t].read_error = tier_faults[t].write_error = tier_faults[t].broken = 0;
	for (uint64_t page = 0; page < TIERED_PAGES; page++)
		for (uint32_t i = 0; i < 512; i++)
			CHECK_EQUAL(words_of(play.region)[page * 512 + i], word_of(page, i, play.versions[page]));
	fprintf(stderr, "moves %s%s: %llu accesses, %llu pages moved, %u faults injected\n", way->name, failing ? ", failing donors" : "",
		(unsigned long long)atomic_load(&play.accesses), (unsigned long long)atomic_load(&play.moved),
		atomic_load(&tier_faults[0].injected) + atomic_load(&tier_faults[1].injected) + atomic_load(&tier_faults[2].injected));
	close_tiered(play.region);
}

void suite_moves(void)
{
	static const struct shape with_file = {
		.count = 3, .copies = 1, .sizes = { 2 * MIB, TIERED_SIZE, 3 * MIB }, .is_file = { 0, 1, 0 }, .sealed = { 0, 0, 1 }
	};
	static const struct shape file_first = {
		.count = 3, .copies = 1, .sizes = { TIERED_SIZE, 2 * MIB, 3 * MIB }, .is_file = { 1, 0, 0 }, .sealed = { 0, 1, 0 }
	};
	static const struct shape donors_alone = { .count = 3, .copies = 2, .sizes = { 5 * MIB, 5 * MIB, 5 * MIB } };
	static const int some[] = { 0, 1, 4 };
	const char *seconds = getenv("DROVER_STRESS_SECONDS");
	uint64_t nanos = (seconds ? strtoull(seconds, NULL, 0) : 3) * 1000000000u / 9;

	for (int i = 0; i < 3; i++) {
		const struct way *way = &ways[some[i]];

		there_and_back(way);
		a_donor_takes_its_memory_back(way, 0);
		a_donor_takes_its_memory_back(way, DROVER_RETIRE_LOST);
		no_room_anywhere(way);
		a_donor_is_left_while_pages_are_written(way);
		a_move_that_hangs_is_given_up(way);
		everything_at_once(way, &with_file, 1, nanos);
		everything_at_once(way, &file_first, 1, nanos);
		everything_at_once(way, &donors_alone, 0, nanos);
	}
}
