/*
 * region_stress_test.c - many threads, every kind of move at once, and no wrong byte.
 *
 * Writers and readers own a page by a lock of the test's own, one per page, and know its version; every access verifies
 * words of the page against it. Others evict, prefetch, pin, flush, harvest, sample and move the knobs without
 * any lock. A monitor holds the kernel's count of present pages against the cap. In the rounds with a failing device
 * a SIGBUS must have left the page POISON; then it is reset and begins again at version 0.
 *
 * DROVER_STRESS_SECONDS is how long in all (default 6), DROVER_STRESS_ACCESSES how many verified accesses in all if that
 * takes longer (default 0), DROVER_STRESS_SEED replays the choices of each thread.
 */
#include "region_check.h"

#include <sched.h>
#include <string.h>

#define SIZE (8 * MIB)
#define PAGES (SIZE / PAGE)
#define LIMIT (2 * MIB)
#define WORKERS 4
#define MOVERS 2

struct round {
	const struct way *way;
	struct drover_region *region;
	struct faulty faulty;
	int failing;
	_Atomic int stop;
	_Atomic uint64_t accesses, lost;
	uint64_t seed;
	uint64_t versions[PAGES];	/* owned with the lock */
	_Atomic uint32_t locks[PAGES];
};

static uint64_t next(uint64_t *seed)
{
	uint64_t x = *seed += 0x9e3779b97f4a7c15ull;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

static void lock(struct round *round, uint64_t page)
{
	uint32_t open;

	do {
		open = 0;
		if (atomic_compare_exchange_weak_explicit(&round->locks[page], &open, 1, memory_order_acquire,
							  memory_order_relaxed))
			return;
		sched_yield();
	} while (1);
}

static void unlock(struct round *round, uint64_t page)
{
	atomic_store_explicit(&round->locks[page], 0, memory_order_release);
}

/* The page is ours and was refused: it must have been declared lost, or have found no room. */
static void start_again(struct round *round, uint64_t page)
{
	uint8_t state;

	CHECK(round->failing);
	CHECK_EQUAL(drover_region_sample(round->region, page, 1, &state), 0);
	if ((state & 15u) != DROVER_PAGE_POISON)
		return;
	atomic_fetch_add(&round->lost, 1);
	CHECK_EQUAL(drover_region_reset(round->region, page, 1), 0);
	round->versions[page] = 0;
}

static void access_page(struct round *round, uint64_t page, uint64_t *seed)
{
	volatile uint64_t *words = (volatile uint64_t *)round->region->base + page * 512;
	uint64_t version = round->versions[page], value;

	for (int i = 0; i < 4; i++) {
		uint32_t index = (uint32_t)(next(seed) % 512);

		if (!touch(&words[index], 0, &value)) {
			start_again(round, page);
			return;
		}
		CHECK_EQUAL(value, word_of(page, index, version));
	}
	if (next(seed) % 3 != 0)
		return;
	/* A write that fails half-way leaves the page lost, or found no room at its first word. */
	for (uint32_t i = 0; i < 512; i++) {
		value = word_of(page, i, version + 1);
		if (touch(&words[i], 1, &value))
			continue;
		/* Refused in the middle: a later word finds it in, since a page is whole or not there. */
		start_again(round, page);
		if (round->versions[page] == 0 && version != 0)
			return;
		i--;
	}
	round->versions[page] = version + 1;
}

static void *work(void *argument)
{
	struct round *round = argument;
	uint64_t seed = atomic_fetch_add(&round->accesses, 0) + (uintptr_t)pthread_self() + round->seed;

	while (!atomic_load_explicit(&round->stop, memory_order_relaxed)) {
		/* Half of the accesses go to an eighth of the pages. */
		uint64_t page = next(&seed) % (next(&seed) % 2 == 0 ? PAGES / 8 : PAGES);

		lock(round, page);
		access_page(round, page, &seed);
		unlock(round, page);
		atomic_fetch_add_explicit(&round->accesses, 4, memory_order_relaxed);
	}
	return NULL;
}

static void pin_some(struct round *round, uint64_t page, uint64_t page_count)
{
	uint64_t version;
	int rc = drover_region_pin(round->region, page, page_count);

	CHECK(rc == 0 || (rc == -EIO && round->failing) || rc == -ENOMEM || rc == -EBUSY);
	if (rc < 0)
		return;
	/* What is pinned may be handed to the kernel. */
	CHECK(write(-1, round->region->base + page * PAGE, PAGE) == -1 && errno == EBADF);
	lock(round, page);
	version = round->versions[page];
	CHECK_EQUAL(((volatile uint64_t *)round->region->base)[page * 512 + 7], word_of(page, 7, version));
	unlock(round, page);
	CHECK_EQUAL(drover_region_unpin(round->region, page, page_count), 0);
}

static void *move_about(void *argument)
{
	struct round *round = argument;
	struct drover_region *region = round->region;
	struct drover_region_control *control = region->control;
	uint64_t seed = (uintptr_t)pthread_self() + round->seed;

	while (!atomic_load_explicit(&round->stop, memory_order_relaxed)) {
		uint64_t pages[64], page = next(&seed) % (PAGES - 64), bitmap[PAGES / 64];
		uint8_t bytes[64];
		int64_t rc;

		for (int i = 0; i < 64; i++)
			pages[i] = next(&seed) % 4 == 0 ? next(&seed) % PAGES : page + (uint64_t)i;
		switch (next(&seed) % 12) {
		case 0:
		case 1:
			rc = drover_region_evict(region, pages, 64, (uint32_t)(next(&seed) % 4));
			CHECK(rc >= 0);
			break;
		case 2:
		case 3:
			rc = drover_region_prefetch(region, pages, next(&seed) % 64, (uint32_t)(next(&seed) % 2));
			CHECK(rc >= 0);
			break;
		case 4:
			pin_some(round, page, 1 + next(&seed) % 32);
			break;
		case 5:
			rc = drover_region_populate(region, page, next(&seed) % 64);
			CHECK(rc >= 0 || round->failing);
			break;
		case 6:
			if (next(&seed) % 8 == 0) {
				rc = drover_region_flush(region);
				CHECK(rc >= 0 || round->failing);
			}
			break;
		case 7:
			rc = drover_region_reclaim(region, LIMIT / PAGE / 2 + next(&seed) % (LIMIT / PAGE / 2));
			CHECK(rc >= 0);
			break;
		case 8:
			if (round->way->dirty_mode == DROVER_DIRTY_ASYNC)
				CHECK(drover_region_harvest(region, bitmap, PAGES / 64) >= 0);
			break;
		case 9:
			CHECK_EQUAL(drover_region_heat(region, page, 64, (uint32_t)(next(&seed) % 16)), 0);
			break;
		case 10:
			CHECK_EQUAL(drover_region_sample(region, page, 64, bytes), 0);
			for (int i = 0; i < 64; i++)
				CHECK((bytes[i] & 15u) <= DROVER_PAGE_POISON);
			break;
		default:
			__atomic_store_n(&control->limit_pages, LIMIT / PAGE - next(&seed) % (LIMIT / PAGE / 4), __ATOMIC_RELAXED);
			__atomic_store_n(&control->read_around, 1u << next(&seed) % 5, __ATOMIC_RELAXED);
			__atomic_store_n(&control->evict_batch, (uint32_t)(next(&seed) % 70), __ATOMIC_RELAXED);
			__atomic_store_n(&control->spin_us, (uint32_t)(next(&seed) % 100), __ATOMIC_RELAXED);
			break;
		}
	}
	return NULL;
}

static void run(struct round *round, const struct way *way, int failing, uint64_t nanos, uint64_t least)
{
	pthread_t threads[WORKERS + MOVERS];
	uint64_t end = now() + nanos, at = 0;

	memset(round, 0, sizeof(*round));
	round->way = way;
	round->failing = failing;
	round->seed = getenv("DROVER_STRESS_SEED") ? strtoull(getenv("DROVER_STRESS_SEED"), NULL, 0) : 1;
	round->faulty.random = round->seed;
	round->region = open_way(way, SIZE, LIMIT, &round->faulty);
	round->region->room_nanos = 200000000;
	if (failing) {
		atomic_store(&round->faulty.read_error, 2000);
		atomic_store(&round->faulty.read_corrupt, 2000);
		atomic_store(&round->faulty.read_short, 2000);
		atomic_store(&round->faulty.write_error, 20);
	}
	for (int i = 0; i < WORKERS + MOVERS; i++)
		CHECK_EQUAL(pthread_create(&threads[i], NULL, i < WORKERS ? work : move_about, round), 0);
	while (now() < end || atomic_load(&round->accesses) < least) {
		struct timespec pause = { 0, 20000000 };

		nanosleep(&pause, NULL);
		/* Not one moment's count: the walk takes a while, and pages move from behind it to before it. */
		CHECK(present_pages(round->region) <= LIMIT / PAGE + LIMIT / PAGE / 20);
		CHECK(atomic_load(&round->region->frames) <= LIMIT / PAGE + WORKERS);
	}
	atomic_store(&round->stop, 1);
	for (int i = 0; i < WORKERS + MOVERS; i++)
		pthread_join(threads[i], NULL);
	atomic_store(&round->faulty.read_error, 0);
	atomic_store(&round->faulty.read_corrupt, 0);
	atomic_store(&round->faulty.read_short, 0);
	atomic_store(&round->faulty.write_error, 0);
	/* The last word: all pages, all bytes. */
	for (uint64_t page = 0; page < PAGES; page++) {
		uint64_t value;

		for (uint32_t i = 0; i < 512; i++) {
			if (!touch((volatile uint64_t *)round->region->base + page * 512 + i, 0, &value)) {
				start_again(round, page);
				i--;
				continue;
			}
			CHECK_EQUAL(value, word_of(page, i, round->versions[page]));
		}
		at += 512;
	}
	check_books(round->region);
	fprintf(stderr, "stress %s%s: %llu accesses verified, %u faults injected, %llu pages lost\n", way->name,
		failing ? ", failing device" : "", (unsigned long long)(atomic_load(&round->accesses) + at),
		atomic_load(&round->faulty.injected), (unsigned long long)atomic_load(&round->lost));
	CHECK_EQUAL(drover_region_close(round->region), 0);
}

void suite_stress(void)
{
	static struct round round;
	const char *seconds = getenv("DROVER_STRESS_SECONDS"), *accesses = getenv("DROVER_STRESS_ACCESSES");
	uint64_t nanos = (seconds ? strtoull(seconds, NULL, 0) : 6) * 1000000000u / ((uint64_t)way_count * 2);
	uint64_t least = (accesses ? strtoull(accesses, NULL, 0) : 0) / ((uint64_t)way_count * 2);

	for (int i = 0; i < way_count; i++) {
		run(&round, &ways[i], 0, nanos, least);
		run(&round, &ways[i], 1, nanos, least);
	}
}
