/*
 * region_tiers_test.c - several stores below one region: where pages go, which copy is read, and what a store that fails
 * costs: nothing as long as there is another copy. Also the slots of a store, alone and from many threads.
 */
#include "tiers_check.h"

#include <sched.h>
#include <string.h>
#include <sys/mman.h>

struct faulty tier_faults[4];

static volatile uint64_t *words_of(struct drover_region *region)
{
	return (volatile uint64_t *)drover_region_address(region);
}

struct drover_region *open_shape(const struct way *way, const struct shape *shape)
{
	struct drover_region_options options = { .size = TIERED_SIZE,
						 .limit = TIERED_LIMIT,
						 .fault_mode = way->fault_mode,
						 .dirty_mode = way->dirty_mode,
						 .shared = way->shared,
						 .spin_us = 30,
						 .contexts = 4 };
	struct tier_options parts[4];
	struct drover_region *region;
	struct store store;

	memset(tier_faults, 0, sizeof(tier_faults));
	for (uint32_t t = 0; t < shape->count; t++) {
		struct store file;

		CHECK_EQUAL(store_file_open(region_directory, shape->sizes[t], 0, &file), 0);
		tier_faults[t].random = t + 1;
		tier_faults[t].no_ring = shape->no_ring;
		parts[t] = (struct tier_options){ .store = faulty_wrap(&tier_faults[t], &file),
						  .size = shape->sizes[t],
						  .donor = !shape->is_file[t],
						  .sealed = shape->sealed[t] };
		if (shape->sealed[t])
			CHECK_EQUAL(store_seal_open(&parts[t].store, shape->sizes[t], TIER_INNER_AT(t), &parts[t].store), 0);
	}
	CHECK_EQUAL(store_tiers_open(parts, shape->count, TIERED_PAGES, shape->copies,
				     shape->patience == 0 ? 2000000000u : shape->patience, &store),
		    0);
	CHECK_EQUAL(region_open(&options, &store, &region), 0);
	atomic_store(&tiers_of(&store)->region, region);
	return region;
}

void evict_all(struct drover_region *region)
{
	for (int round = 0; round < 200 && drover_region_reclaim(region, 0) > 0; round++) {
		struct timespec pause = { 0, 3000000 };

		nanosleep(&pause, NULL);
	}
	CHECK_EQUAL(atomic_load(&region->frames), 0);
}

void fill_pages(struct drover_region *region, uint64_t first, uint64_t end, uint64_t version)
{
	for (uint64_t page = first; page < end; page++) {
		words_of(region)[page * 512 + 1] = word_of(page, 1, version);
		words_of(region)[page * 512 + 511] = word_of(page, 511, version);
	}
	evict_all(region);
}

void verify_pages(struct drover_region *region, uint64_t first, uint64_t end, uint64_t version)
{
	for (uint64_t page = first; page < end; page++) {
		CHECK_EQUAL(words_of(region)[page * 512 + 1], word_of(page, 1, version));
		CHECK_EQUAL(words_of(region)[page * 512 + 511], word_of(page, 511, version));
	}
	evict_all(region);
}

uint64_t pages_in(struct drover_region *region, uint32_t t)
{
	static uint8_t places[TIERED_PAGES];
	uint64_t held = 0;

	CHECK_EQUAL(drover_region_places(region, 0, TIERED_PAGES, places), 0);
	for (uint64_t page = 0; page < TIERED_PAGES; page++)
		held += (uint64_t)places[page] >> t & 1u;
	return held;
}

struct drover_store_stats stats_of(struct drover_region *region, uint32_t t)
{
	struct drover_store_stats stats[DROVER_STORES_MAX];

	CHECK(drover_region_stores(region, stats, DROVER_STORES_MAX) > (int)t);
	return stats[t];
}

void close_tiered(struct drover_region *region)
{
	struct tiers *tiers = tiers_of(&region->store);
	static uint8_t seen[TIERED_PAGES + 1];

	check_books(region);
	for (uint32_t t = 0; t < atomic_load(&tiers->count); t++) {
		uint64_t held = 0;

		memset(seen, 0, sizeof(seen));
		for (uint64_t page = 0; page < TIERED_PAGES; page++) {
			uint32_t slot = seat_of(tiers, page, t);

			if (slot == NO_SLOT)
				continue;
			CHECK(slot < tiers->tiers[t].slots.count && slot < TIERED_PAGES);
			CHECK_EQUAL(seen[slot]++, 0);
			held++;
		}
		CHECK_EQUAL(held, atomic_load(&tiers->tiers[t].slots.used));
		CHECK_EQUAL(atomic_load(&tiers->tiers[t].under_way), 0);
	}
	CHECK_EQUAL(drover_region_close(region), 0);
}

/* -- slots ------------------------------------------------------------------------------------------------ */

static void slots_are_taken_once(void)
{
	struct slots slots;
	static uint8_t taken[5000];
	uint32_t slot, total = 0;

	CHECK_EQUAL(slots_open(&slots, 5000, 0), 0);
	memset(taken, 0, sizeof(taken));
	for (uint32_t want = 1;; want = want % 16 + 1) {
		uint32_t got = slots_take(&slots, want, &slot);

		CHECK(got <= want);
		if (got == 0)
			break;
		for (uint32_t i = 0; i < got; i++) {
			CHECK(slot + i < 5000);
			CHECK_EQUAL(taken[slot + i]++, 0);
		}
		total += got;
	}
	CHECK_EQUAL(total, 5000);
	/* Full: one given back, in the last and not full word, is found again. */
	slots_give(&slots, 4999, 1);
	CHECK_EQUAL(slots_take(&slots, 16, &slot), 1);
	CHECK_EQUAL(slot, 4999);
	/* A whole run is preferred to what lies nearer. */
	slots_give(&slots, 10, 3);
	slots_give(&slots, 704, 16);
	CHECK_EQUAL(slots_take(&slots, 16, &slot), 16);
	CHECK_EQUAL(slot, 704);
	CHECK_EQUAL(slots_take(&slots, 3, &slot), 3);
	CHECK_EQUAL(slot, 10);
	slots_close(&slots);
}

static struct slots shared_slots;
static _Atomic uint8_t owners[1000];

static void *take_and_give(void *argument)
{
	uint64_t seed = (uintptr_t)argument;

	for (int round = 0; round < 20000; round++) {
		uint32_t slot, got = slots_take(&shared_slots, (uint32_t)(seed >> 33) % 8 + 1, &slot);

		for (uint32_t i = 0; i < got; i++)
			CHECK_EQUAL(atomic_exchange(&owners[slot + i], 1), 0);
		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		for (uint32_t i = 0; i < got; i++)
			CHECK_EQUAL(atomic_exchange(&owners[slot + i], 0), 1);
		slots_give(&shared_slots, slot, got);
	}
	return NULL;
}

static void slots_have_one_owner(void)
{
	pthread_t threads[4];
	uint32_t slot;

	CHECK_EQUAL(slots_open(&shared_slots, 1000, 0), 0);
	for (uintptr_t i = 0; i < 4; i++)
		CHECK_EQUAL(pthread_create(&threads[i], NULL, take_and_give, (void *)(i * 77 + 1)), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	CHECK_EQUAL(atomic_load(&shared_slots.used), 0);
	for (uint32_t left = 1000; left > 0;) {
		uint32_t got = slots_take(&shared_slots, 64, &slot);

		CHECK(got > 0);
		left -= got;
	}
	slots_close(&shared_slots);
}

/* -- where pages go --------------------------------------------------------------------------------------- */

static void file_first_keeps_to_the_file(const struct way *way)
{
	struct drover_region *region =
		open_shape(way, &(struct shape){ .count = 2, .copies = 1, .sizes = { TIERED_SIZE, MIB }, .is_file = { 1, 0 } });

	fill_pages(region, 0, TIERED_PAGES, 1);
	CHECK_EQUAL(pages_in(region, 0), TIERED_PAGES);
	CHECK_EQUAL(pages_in(region, 1), 0);
	verify_pages(region, 0, TIERED_PAGES, 1);
	CHECK_EQUAL(stats_of(region, 1).reads + stats_of(region, 1).writes, 0);
	close_tiered(region);
}

static void donor_first_fills_the_donor(const struct way *way)
{
	struct drover_region *region =
		open_shape(way, &(struct shape){ .count = 2, .copies = 1, .sizes = { MIB, TIERED_SIZE }, .is_file = { 0, 1 } });

	fill_pages(region, 0, TIERED_PAGES, 1);
	/* All it has, and everything is in the file too. */
	CHECK_EQUAL(pages_in(region, 0), MIB / PAGE);
	CHECK_EQUAL(stats_of(region, 0).used, MIB / PAGE);
	CHECK_EQUAL(stats_of(region, 0).slots, MIB / PAGE);
	CHECK_EQUAL(pages_in(region, 1), TIERED_PAGES);
	for (uint64_t version = 2; version < 5; version++) {
		fill_pages(region, 0, TIERED_PAGES, version);
		verify_pages(region, 0, TIERED_PAGES, version);
	}
	CHECK(stats_of(region, 0).reads > 0);
	CHECK(stats_of(region, 0).latency_nanos > 0);
	/* Zeros need no place anywhere. */
	for (uint64_t page = 0; page < TIERED_PAGES; page++)
		words_of(region)[page * 512 + 1] = words_of(region)[page * 512 + 511] = 0;
	evict_all(region);
	CHECK_EQUAL(pages_in(region, 0) + pages_in(region, 1), 0);
	CHECK_EQUAL(stats_of(region, 0).used, 0);
	fill_pages(region, 0, 64, 9);
	CHECK_EQUAL(drover_region_reset(region, 0, 64), 0);
	CHECK_EQUAL(pages_in(region, 0) + pages_in(region, 1), 0);
	close_tiered(region);
}

static void two_copies_at_two_donors(const struct way *way)
{
	struct drover_region *region = open_shape(
		way, &(struct shape){ .count = 3, .copies = 2, .sizes = { 3 * MIB, 3 * MIB, 3 * MIB }, .is_file = { 0, 0, 0 } });

	fill_pages(region, 0, TIERED_PAGES, 1);
	CHECK_EQUAL(pages_in(region, 0) + pages_in(region, 1) + pages_in(region, 2), 2 * TIERED_PAGES);
	/* By room: none is left out, none is full. */
	for (uint32_t t = 0; t < 3; t++)
		CHECK(pages_in(region, t) > TIERED_PAGES / 3 && pages_in(region, t) < 3 * MIB / PAGE);
	verify_pages(region, 0, TIERED_PAGES, 1);
	close_tiered(region);
}

static void full_donors_and_a_file(const struct way *way)
{
	struct drover_region *region = open_shape(way, &(struct shape){ .count = 3,
									.copies = 2,
									.sizes = { 2 * MIB, 2 * MIB, TIERED_SIZE },
									.is_file = { 0, 0, 1 } });
	static uint8_t places[TIERED_PAGES];

	fill_pages(region, 0, TIERED_PAGES, 1);
	CHECK_EQUAL(drover_region_places(region, 0, TIERED_PAGES, places), 0);
	/* At both donors, or in the file: never at one donor alone. */
	for (uint64_t page = 0; page < TIERED_PAGES; page++)
		CHECK((places[page] & 3u) == 3u || (places[page] & 4u) != 0);
	CHECK(pages_in(region, 2) > 0 && pages_in(region, 2) < TIERED_PAGES);
	verify_pages(region, 0, TIERED_PAGES, 1);
	close_tiered(region);
}

/* Pages of [first, end) that are not at two donors. */
static uint64_t lone_pages(struct drover_region *region, uint64_t first, uint64_t end)
{
	static uint8_t places[TIERED_PAGES];
	uint64_t lone = 0;

	CHECK_EQUAL(drover_region_places(region, 0, TIERED_PAGES, places), 0);
	for (uint64_t page = first; page < end; page++)
		lone += __builtin_popcount(places[page]) != 2;
	return lone;
}

/* Every page can be had while any one of the donors is away. */
static void verify_without_each(struct drover_region *region, uint32_t donors, uint64_t end)
{
	for (uint32_t t = 0; t < donors; t++) {
		atomic_store(&tier_faults[t].broken, 1);
		verify_pages(region, 0, end, 1);
		atomic_store(&tier_faults[t].broken, 0);
		for (int round = 0; round < 1000 && stats_of(region, t).state == DROVER_STORE_DOWN; round++) {
			struct timespec pause = { 0, 10000000 };

			CHECK(drover_region_mend(region, 0, 1) >= 0);
			nanosleep(&pause, NULL);
		}
	}
	CHECK_EQUAL(events_of(region, DROVER_EVENT_READ), 0);
	CHECK_EQUAL(events_of(region, DROVER_EVENT_CHECKSUM), 0);
}

/* As much room as the copies need and not a slot more, and one donor that nobody would choose. */
static void exact_room_holds_two_copies(const struct way *way, const uint64_t *slots, uint32_t slow)
{
	struct shape shape = { .count = 3, .copies = 2 };
	struct drover_region *region;

	for (uint32_t t = 0; t < 3; t++)
		shape.sizes[t] = slots[t] * PAGE;
	region = open_shape(way, &shape);
	atomic_store(&tiers_of(&region->store)->tiers[slow].latency, 1000000000000u);
	fill_pages(region, 0, TIERED_PAGES, 1);
	CHECK_EQUAL(lone_pages(region, 0, TIERED_PAGES), 0);
	verify_without_each(region, 3, TIERED_PAGES);
	close_tiered(region);
}

/* A donor is away from the beginning on. There is room for each page once, and for some twice. */
static void first_copies_come_before_second_ones(const struct way *way)
{
	struct shape shape = { .count = 3, .copies = 2, .sizes = { 683 * PAGE, 683 * PAGE, 682 * PAGE }, .patience = 50000000u };
	struct drover_region *region = open_shape(way, &shape);

	atomic_store(&tier_faults[0].broken, 1);
	fill_pages(region, 0, TIERED_PAGES, 1);
	CHECK_EQUAL(pages_in(region, 1) + pages_in(region, 2), 683 + 682);
	verify_pages(region, 0, TIERED_PAGES, 1);
	atomic_store(&tier_faults[0].broken, 0);
	for (int round = 0; round < 1000 && lone_pages(region, 0, TIERED_PAGES) > 0; round++) {
		struct timespec pause = { 0, 10000000 };

		CHECK(drover_region_mend(region, 0, TIERED_PAGES) >= 0);
		nanosleep(&pause, NULL);
	}
	CHECK_EQUAL(lone_pages(region, 0, TIERED_PAGES), 0);
	verify_without_each(region, 3, TIERED_PAGES);
	close_tiered(region);
}

static void *let_go(void *tiers)
{
	struct timespec pause = { 0, 50000000 };

	nanosleep(&pause, NULL);
	atomic_store(&((struct tiers *)tiers)->changing, 0);
	return NULL;
}

static void a_store_waits_to_be_added(const struct way *way)
{
	struct drover_store_options another = { .path = region_directory, .size = 2 * MIB };
	struct drover_region *region =
		open_shape(way, &(struct shape){ .count = 2, .copies = 2, .sizes = { TIERED_SIZE, TIERED_SIZE } });
	struct tiers *tiers = tiers_of(&region->store);
	pthread_t thread;

	atomic_store(&tiers->changing, 1);
	CHECK_EQUAL(pthread_create(&thread, NULL, let_go, tiers), 0);
	CHECK_EQUAL(drover_region_add_store(region, &another), 2);
	pthread_join(thread, NULL);
	another.timeout_nanos = 1000000;
	atomic_store(&tiers->changing, 1);
	CHECK_EQUAL(drover_region_add_store(region, &another), -EBUSY);
	atomic_store(&tiers->changing, 0);
	close_tiered(region);
}

/* Two donors were full before the third one came: what it has room for has no second place until others make way. */
static void pages_make_way_for_a_second_copy(const struct way *way)
{
	struct shape shape = { .count = 3, .copies = 2, .sizes = { MIB, MIB, 2 * MIB } };
	uint64_t full = MIB / PAGE, end = 2 * full;
	struct drover_region *region = open_shape(way, &shape);
	_Atomic uint32_t *state = &tiers_of(&region->store)->tiers[2].state;

	atomic_store(state, DROVER_STORE_RETIRING);
	fill_pages(region, 0, full, 1);
	CHECK_EQUAL(lone_pages(region, 0, full), 0);
	atomic_store(state, DROVER_STORE_UP);
	fill_pages(region, full, end, 1);
	CHECK_EQUAL(lone_pages(region, 0, end), full);
	for (int round = 0; round < 100 && drover_region_mend(region, 0, TIERED_PAGES) > 0; round++)
		;
	CHECK_EQUAL(lone_pages(region, 0, end), 0);
	verify_without_each(region, 3, end);
	close_tiered(region);
}

/* -- what fails ------------------------------------------------------------------------------------------- */

static const struct shape donor_and_file = { .count = 2, .copies = 1, .sizes = { TIERED_SIZE, TIERED_SIZE }, .is_file = { 0, 1 } };
static const struct shape two_donors = { .count = 2, .copies = 2, .sizes = { 5 * MIB, 5 * MIB } };

static void broken_donor_costs_nothing(const struct way *way, const struct shape *shape)
{
	struct drover_region *region = open_shape(way, shape);
	int64_t thin = 1;

	fill_pages(region, 0, TIERED_PAGES, 1);
	atomic_store(&tier_faults[0].broken, 1);
	verify_pages(region, 0, TIERED_PAGES, 1);
	fill_pages(region, 0, TIERED_PAGES / 2, 2);
	verify_pages(region, 0, TIERED_PAGES / 2, 2);
	CHECK_EQUAL(stats_of(region, 0).state, DROVER_STORE_DOWN);
	CHECK_EQUAL(events_of(region, DROVER_EVENT_STORE_DOWN), 1);
	CHECK_EQUAL(pages_in(region, 0), TIERED_PAGES / 2);
	/* It is back: what it missed is made anew. */
	atomic_store(&tier_faults[0].broken, 0);
	for (int round = 0; round < 1000 && thin != 0; round++) {
		struct timespec pause = { 0, 10000000 };

		thin = drover_region_mend(region, 0, TIERED_PAGES);
		CHECK(thin >= 0);
		if (stats_of(region, 0).state == DROVER_STORE_DOWN)
			thin = 1;
		nanosleep(&pause, NULL);
	}
	CHECK_EQUAL(thin, 0);
	CHECK_EQUAL(stats_of(region, 0).state, DROVER_STORE_UP);
	CHECK_EQUAL(events_of(region, DROVER_EVENT_STORE_UP), 1);
	CHECK_EQUAL(pages_in(region, 0), TIERED_PAGES);
	/* And believed again: the other one may go. */
	atomic_store(&tier_faults[1].read_error, 1);
	verify_pages(region, 0, TIERED_PAGES / 2, 2);
	verify_pages(region, TIERED_PAGES / 2, TIERED_PAGES, 1);
	CHECK_EQUAL(events_of(region, DROVER_EVENT_READ), 0);
	close_tiered(region);
}

static void bad_copies_are_not_believed(const struct way *way, _Atomic uint32_t *rate)
{
	struct drover_region *region = open_shape(way, &donor_and_file);

	fill_pages(region, 0, TIERED_PAGES, 1);
	/* It is asked first. */
	atomic_store(&tiers_of(&region->store)->tiers[0].latency, 1);
	atomic_store(rate, 1);
	verify_pages(region, 0, TIERED_PAGES, 1);
	atomic_store(rate, 0);
	CHECK(stats_of(region, 0).refused + stats_of(region, 0).errors > 0);
	CHECK(pages_in(region, 0) < TIERED_PAGES);
	CHECK_EQUAL(pages_in(region, 1), TIERED_PAGES);
	while (drover_region_mend(region, 0, TIERED_PAGES) > 0)
		;
	CHECK_EQUAL(pages_in(region, 0), TIERED_PAGES);
	verify_pages(region, 0, TIERED_PAGES, 1);
	CHECK_EQUAL(events_of(region, DROVER_EVENT_CHECKSUM), 0);
	close_tiered(region);
}

static void last_copy_is_poison(const struct way *way)
{
	struct drover_region *region = open_shape(way, &two_donors);
	uint64_t value;
	uint8_t state;

	fill_pages(region, 0, TIERED_PAGES, 1);
	atomic_store(&tier_faults[0].read_corrupt, 1);
	atomic_store(&tier_faults[1].read_corrupt, 1);
	CHECK_EQUAL(touch(words_of(region) + 7 * 512 + 1, 0, &value), 0);
	CHECK_EQUAL(touch_signal, SIGBUS);
	CHECK_EQUAL(drover_region_sample(region, 7, 1, &state), 0);
	CHECK_EQUAL(state & 15u, DROVER_PAGE_POISON);
	CHECK(events_of(region, DROVER_EVENT_CHECKSUM) >= 1);
	atomic_store(&tier_faults[0].read_corrupt, 0);
	atomic_store(&tier_faults[1].read_corrupt, 0);
	verify_pages(region, 8, TIERED_PAGES, 1);
	CHECK_EQUAL(drover_region_reset(region, 7, 1), 0);
	close_tiered(region);
}

static void file_that_fails_keeps_pages_in_ram(const struct way *way)
{
	struct drover_region *region = open_shape(way, &donor_and_file);

	fill_pages(region, 0, 64, 1);
	atomic_store(&tier_faults[1].write_error, 1);
	/* The donor has it, and that is not enough: it promised nothing. */
	words_of(region)[3 * 512 + 1] = word_of(3, 1, 2);
	words_of(region)[3 * 512 + 511] = word_of(3, 511, 2);
	drover_region_evict(region, (const uint64_t[]){ 3 }, 1, DROVER_EVICT_WAIT);
	CHECK(events_of(region, DROVER_EVENT_WRITE) >= 1);
	CHECK(atomic_load(&region->frames) > 0);
	CHECK_EQUAL(words_of(region)[3 * 512 + 1], word_of(3, 1, 2));
	atomic_store(&tier_faults[1].write_error, 0);
	evict_all(region);
	verify_pages(region, 3, 4, 2);
	verify_pages(region, 4, 64, 1);
	close_tiered(region);
}

/* The donor that took the page went away before the other one said that it cannot have it. */
static void a_copy_that_is_away_is_not_enough(const struct way *way)
{
	struct shape shape = two_donors;
	struct drover_region *region;

	shape.patience = 50000000u;
	shape.no_ring = 1;
	region = open_shape(way, &shape);
	fill_pages(region, 0, 64, 1);
	for (uint64_t page = 3; page <= 9; page += 6) {
		words_of(region)[page * 512 + 1] = word_of(page, 1, 2);
		words_of(region)[page * 512 + 511] = word_of(page, 511, 2);
	}
	atomic_store(&tier_faults[0].broken_after, 1);
	atomic_store(&tier_faults[1].broken, 1);
	drover_region_evict(region, (const uint64_t[]){ 3, 9 }, 2, DROVER_EVICT_WAIT);
	CHECK_EQUAL(stats_of(region, 0).state, DROVER_STORE_DOWN);
	CHECK(atomic_load(&region->frames) >= 2);
	for (uint64_t page = 3; page <= 9; page += 6)
		CHECK_EQUAL(words_of(region)[page * 512 + 1], word_of(page, 1, 2));
	for (uint32_t t = 0; t < 2; t++)
		atomic_store(&tier_faults[t].broken, 0);
	evict_all(region);
	verify_pages(region, 3, 4, 2);
	verify_pages(region, 4, 9, 1);
	verify_pages(region, 9, 10, 2);
	close_tiered(region);
}

static void *mend_later(void *argument)
{
	struct timespec pause = { 0, 300000000 };

	(void)argument;
	nanosleep(&pause, NULL);
	atomic_store(&tier_faults[0].broken, 0);
	atomic_store(&tier_faults[1].broken, 0);
	return NULL;
}

static void donors_that_come_back_are_waited_for(const struct way *way)
{
	struct shape shape = two_donors;
	struct drover_region *region;
	pthread_t thread;
	uint64_t value;

	shape.patience = 5000000000u;
	region = open_shape(way, &shape);
	fill_pages(region, 0, TIERED_PAGES, 1);
	for (uint32_t t = 0; t < 2; t++)
		atomic_store(&tier_faults[t].broken, 1);
	CHECK_EQUAL(pthread_create(&thread, NULL, mend_later, NULL), 0);
	CHECK_EQUAL(words_of(region)[5 * 512 + 1], word_of(5, 1, 1));
	pthread_join(thread, NULL);
	/* The same for what leaves. */
	for (uint32_t t = 0; t < 2; t++)
		atomic_store(&tier_faults[t].broken, 1);
	CHECK_EQUAL(pthread_create(&thread, NULL, mend_later, NULL), 0);
	fill_pages(region, 5, 6, 2);
	pthread_join(thread, NULL);
	verify_pages(region, 5, 6, 2);
	close_tiered(region);

	shape.patience = 50000000u;
	region = open_shape(way, &shape);
	fill_pages(region, 0, 64, 1);
	for (uint32_t t = 0; t < 2; t++)
		atomic_store(&tier_faults[t].broken, 1);
	CHECK_EQUAL(touch(words_of(region) + 5 * 512 + 1, 0, &value), 0);
	CHECK(events_of(region, DROVER_EVENT_READ) >= 1);
	for (uint32_t t = 0; t < 2; t++)
		atomic_store(&tier_faults[t].broken, 0);
	CHECK_EQUAL(drover_region_reset(region, 5, 1), 0);
	verify_pages(region, 6, 64, 1);
	close_tiered(region);
}

/* -- options ---------------------------------------------------------------------------------------------- */

static void options_that_cannot_be(void)
{
	const struct drover_region_options options = { .size = TIERED_SIZE, .limit = TIERED_LIMIT };
	const struct drover_store_options file = { .path = region_directory };
	struct drover_store_options stores[9];
	struct drover_region_options bad = options;
	struct drover_region *region = NULL;

	CHECK_EQUAL(drover_region_open_stores(&file, 0, &options, &region), -EINVAL);
	for (int i = 0; i < 9; i++)
		stores[i] = (struct drover_store_options){ .path = region_directory, .size = TIERED_SIZE };
	CHECK_EQUAL(drover_region_open_stores(stores, 9, &options, &region), -EINVAL);
	bad.copies = 3;
	CHECK_EQUAL(drover_region_open_stores(stores, 2, &bad, &region), -EINVAL);
#define REFUSED(field, value)                                                                  \
	do {                                                                                   \
		struct drover_store_options wrong = stores[0];                                 \
		wrong.field = value;                                                           \
		CHECK_EQUAL(drover_region_open_stores(&wrong, 1, &options, &region), -EINVAL); \
		CHECK(region == NULL);                                                         \
	} while (0)
	REFUSED(path, NULL);
	REFUSED(kind, 3);
	REFUSED(flags, 2);
	REFUSED(reserved, 1);
	REFUSED(size, TIERED_SIZE + 1);
	REFUSED(size, TIERED_SIZE - PAGE);
	REFUSED(kind, DROVER_STORE_NBD); /* no name, no port */
	REFUSED(timeout_nanos, UINT64_MAX);
	/* Donors alone must have room for everything. */
	stores[0] = (struct drover_store_options){ .path = "127.0.0.1", .name = "x", .port = 1, .kind = DROVER_STORE_NBD, .size = 2 * MIB };
	stores[1] = stores[0];
	CHECK_EQUAL(drover_region_open_stores(stores, 1, &options, &region), -ENOSPC);
	bad.copies = 2;
	stores[0].size = stores[1].size = TIERED_SIZE - PAGE;
	CHECK_EQUAL(drover_region_open_stores(stores, 2, &bad, &region), -ENOSPC);
	CHECK(region == NULL);
	/* One file alone is what it always was; its calls for several stores are refused. */
	CHECK_EQUAL(drover_region_open_stores(&file, 1, &options, &region), 0);
	CHECK_EQUAL(drover_region_move(region, NULL, 0, 0), -EINVAL);
	CHECK_EQUAL(drover_region_mend(region, 0, 1), -EINVAL);
	CHECK_EQUAL(drover_region_retire(region, 0, 0, 1), -EINVAL);
	CHECK_EQUAL(drover_region_add_store(region, &file), -EINVAL);
	((volatile uint64_t *)drover_region_address(region))[1] = 7;
	CHECK(drover_region_reclaim(region, 0) <= 1);
	CHECK_EQUAL(stats_of(region, 0).slots, TIERED_PAGES);
	CHECK_EQUAL(drover_region_close(region), 0);
}

static void two_files_by_options(void)
{
	struct drover_store_options stores[2] = { { .path = region_directory, .size = 2 * MIB, .flags = DROVER_STORE_SEALED },
						  { .path = region_directory } };
	const struct drover_region_options options = { .size = TIERED_SIZE, .limit = TIERED_LIMIT };
	struct drover_region *region;

	/* The first file has to hold all pages. */
	CHECK_EQUAL(drover_region_open_stores(stores, 2, &options, &region), -EINVAL);
	stores[1] = stores[0];
	stores[0] = (struct drover_store_options){ .path = region_directory };
	CHECK_EQUAL(drover_region_open_stores(stores, 2, &options, &region), 0);
	fill_pages(region, 0, TIERED_PAGES, 1);
	for (uint64_t page = 0; page < 100; page++)
		CHECK_EQUAL(drover_region_move(region, &page, 1, 1), 1);
	CHECK_EQUAL(pages_in(region, 1), 100);
	atomic_store(&tiers_of(&region->store)->tiers[1].latency, 1);
	verify_pages(region, 0, TIERED_PAGES, 1);
	CHECK(stats_of(region, 1).reads > 0);
	close_tiered(region);
}

void suite_tiers(void)
{
	slots_are_taken_once();
	slots_have_one_owner();
	options_that_cannot_be();
	two_files_by_options();
	for (int i = 0; i < way_count; i += 3) {
		file_first_keeps_to_the_file(&ways[i]);
		donor_first_fills_the_donor(&ways[i]);
		two_copies_at_two_donors(&ways[i]);
		full_donors_and_a_file(&ways[i]);
		for (uint32_t slow = 0; slow < 3; slow++) {
			exact_room_holds_two_copies(&ways[i], (const uint64_t[]){ 683, 683, 682 }, slow);
			exact_room_holds_two_copies(&ways[i], (const uint64_t[]){ 1023, 501, 524 }, slow);
		}
		first_copies_come_before_second_ones(&ways[i]);
		pages_make_way_for_a_second_copy(&ways[i]);
		a_store_waits_to_be_added(&ways[i]);
		a_copy_that_is_away_is_not_enough(&ways[i]);
		broken_donor_costs_nothing(&ways[i], &donor_and_file);
		broken_donor_costs_nothing(&ways[i], &two_donors);
		file_that_fails_keeps_pages_in_ram(&ways[i]);
	}
	/* A touch that fails ends by a signal only where the toucher fetches. */
	donors_that_come_back_are_waited_for(&ways[0]);
	for (int i = 0; i < 2; i++) {
		bad_copies_are_not_believed(&ways[i], &tier_faults[0].read_corrupt);
		bad_copies_are_not_believed(&ways[i], &tier_faults[0].read_empty);
		bad_copies_are_not_believed(&ways[i], &tier_faults[0].read_other);
		last_copy_is_poison(&ways[i]);
	}
}
