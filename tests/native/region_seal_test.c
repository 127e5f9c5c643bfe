/*
 * region_seal_test.c - a sealed store sees ciphertext only, and what it gives back is believed only if it is what was written
 * last: altered, exchanged, old and empty slots are refused.
 */
#include "tiers_check.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

static volatile uint64_t *words_of(struct drover_region *region)
{
	return (volatile uint64_t *)drover_region_address(region);
}

/* How many of the words of a page lie in the file as they are. */
static uint64_t plain_words(const char *path)
{
	uint64_t found = 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	const uint64_t *content;

	CHECK(fd >= 0);
	content = mmap(NULL, TIERED_SIZE, PROT_READ, MAP_SHARED, fd, 0);
	CHECK(content != MAP_FAILED);
	for (uint64_t page = 0; page < TIERED_PAGES; page++)
		for (uint64_t i = 0; i < 512; i++)
			found += content[page * 512 + i] == word_of(page, 1, 1) || content[page * 512 + i] == word_of(page, 511, 1);
	munmap((void *)content, TIERED_SIZE);
	close(fd);
	return found;
}

static void only_ciphertext_leaves(uint32_t flags)
{
	const struct drover_region_options options = { .size = TIERED_SIZE, .limit = TIERED_LIMIT };
	struct drover_store_options store = { .flags = flags };
	struct drover_region *region;
	char path[4200];

	snprintf(path, sizeof(path), "%s/sealed-%u", region_directory, flags);
	store.path = path;
	CHECK_EQUAL(drover_region_open_stores(&store, 1, &options, &region), 0);
	fill_pages(region, 0, TIERED_PAGES, 1);
	CHECK_EQUAL(plain_words(path), flags == 0 ? 2 * TIERED_PAGES : 0);
	verify_pages(region, 0, TIERED_PAGES, 1);
	CHECK_EQUAL(drover_region_close(region), 0);
	CHECK_EQUAL(unlink(path), 0);
}

static void read_slot(struct drover_region *region, uint8_t *out)
{
	uint32_t slot = seat_of(tiers_of(&region->store), 3, 0);

	CHECK_EQUAL(pread(tier_faults[0].real.fd, out, PAGE, (off_t)(slot * PAGE)), PAGE);
}

/* The same content at the same place is another ciphertext each time: no nonce comes twice. */
static void no_ciphertext_comes_twice(const struct shape *shape)
{
	struct drover_region *region = open_shape(&ways[0], shape);
	uint8_t *first = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint8_t *second = first + PAGE;

	CHECK(first != MAP_FAILED);
	fill_pages(region, 3, 4, 1);
	read_slot(region, first);
	fill_pages(region, 3, 4, 2);
	fill_pages(region, 3, 4, 1);
	read_slot(region, second);
	CHECK(memcmp(first, second, PAGE) != 0);
	munmap(first, 2 * PAGE);
	close_tiered(region);
}

static const struct shape sealed_donor_and_file = {
	.count = 2, .copies = 1, .sizes = { TIERED_SIZE, TIERED_SIZE }, .is_file = { 0, 1 }, .sealed = { 1, 0 }
};
static const struct shape sealed_donor = { .count = 1, .copies = 1, .sizes = { 5 * MIB }, .sealed = { 1 } };

static void bad_slots_are_refused(const struct way *way, _Atomic uint32_t *rate)
{
	struct drover_region *region = open_shape(way, &sealed_donor_and_file);

	fill_pages(region, 0, TIERED_PAGES, 1);
	if (rate == &tier_faults[0].write_lost) {
		/* The donor keeps version 1 of everything. */
		atomic_store(rate, 1);
		fill_pages(region, 0, TIERED_PAGES, 2);
	} else {
		atomic_store(rate, 1);
	}
	atomic_store(&tiers_of(&region->store)->tiers[0].latency, 1);
	verify_pages(region, 0, TIERED_PAGES, rate == &tier_faults[0].write_lost ? 2 : 1);
	CHECK(stats_of(region, 0).refused > 0);
	/* A store that answers is not down, whatever it answers. */
	CHECK_EQUAL(stats_of(region, 0).state, DROVER_STORE_UP);
	CHECK_EQUAL(events_of(region, DROVER_EVENT_CHECKSUM), 0);
	close_tiered(region);
}

static void last_copy_is_poison(const struct way *way, _Atomic uint32_t *rate)
{
	struct drover_region *region = open_shape(way, &sealed_donor);
	struct drover_region_event event;
	uint64_t value;
	uint8_t state;

	fill_pages(region, 0, TIERED_PAGES, 1);
	atomic_store(rate, 1);
	if (rate == &tier_faults[0].write_lost)
		fill_pages(region, 0, TIERED_PAGES, 2);
	CHECK_EQUAL(touch(words_of(region) + 7 * 512 + 1, 0, &value), 0);
	CHECK_EQUAL(touch_signal, SIGBUS);
	CHECK_EQUAL(drover_region_sample(region, 7, 1, &state), 0);
	CHECK_EQUAL(state & 15u, DROVER_PAGE_POISON);
	CHECK(drover_region_events(region, &event, 1) == 1);
	CHECK_EQUAL(event.why, DROVER_EVENT_READ);
	CHECK_EQUAL(event.error, EBADMSG);
	CHECK_EQUAL(event.page, 7);
	atomic_store(rate, 0);
	CHECK_EQUAL(drover_region_reset(region, 7, 1), 0);
	if (rate != &tier_faults[0].write_lost)
		verify_pages(region, 8, TIERED_PAGES, 1);
	close_tiered(region);
}

/* One bad page among those that were read together is the only one that is lost. */
static void neighbours_are_not_lost(const struct way *way)
{
	struct drover_region *region = open_shape(way, &sealed_donor);
	struct tiers *tiers = tiers_of(&region->store);
	uint64_t value, pages[16];

	fill_pages(region, 0, TIERED_PAGES, 1);
	for (uint64_t i = 0; i < 16; i++)
		pages[i] = 32 + i;
	/* The donor alters one slot for good: it is read beside its own place in the file below. */
	struct store *file = &tier_faults[0].real;
	uint8_t *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(page != MAP_FAILED);
	CHECK_EQUAL(pread(file->fd, page, PAGE, (off_t)(seat_of(tiers, 40, 0) * PAGE)), PAGE);
	page[100] ^= 1;
	CHECK_EQUAL(pwrite(file->fd, page, PAGE, (off_t)(seat_of(tiers, 40, 0) * PAGE)), PAGE);
	munmap(page, PAGE);
	CHECK(drover_region_prefetch(region, pages, 16, DROVER_PREFETCH_WAIT) >= 1);
	for (uint64_t at = 32; at < 48; at++)
		CHECK_EQUAL(touch(words_of(region) + at * 512 + 1, 0, &value), at != 40);
	CHECK_EQUAL(drover_region_reset(region, 40, 1), 0);
	verify_pages(region, 0, 40, 1);
	verify_pages(region, 41, TIERED_PAGES, 1);
	close_tiered(region);
}

void suite_seal(void)
{
	only_ciphertext_leaves(DROVER_STORE_SEALED);
	only_ciphertext_leaves(0); /* the search can find something */
	no_ciphertext_comes_twice(&sealed_donor);
	for (int i = 0; i < 2; i++) {
		bad_slots_are_refused(&ways[i], &tier_faults[0].read_corrupt);
		bad_slots_are_refused(&ways[i], &tier_faults[0].read_other);
		bad_slots_are_refused(&ways[i], &tier_faults[0].read_empty);
		bad_slots_are_refused(&ways[i], &tier_faults[0].write_lost);
		last_copy_is_poison(&ways[i], &tier_faults[0].read_corrupt);
		last_copy_is_poison(&ways[i], &tier_faults[0].read_other);
		last_copy_is_poison(&ways[i], &tier_faults[0].write_lost);
		neighbours_are_not_lost(&ways[i]);
	}
}
