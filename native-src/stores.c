/*
 * stores.c - from options to stores: which kind, sealed or not, alone or as one of several; and what is told about them.
 *
 * Opening a donor's store may wait for the network, at most its time-out; nothing here runs in a fault.
 */
#include "tiers.h"

#include <string.h>

#define TIMEOUT_NANOS_DEFAULT 5000000000ull
#define TIMEOUT_NANOS_MAX 60000000000ull

/* A library, or a test, may be built without them. */
extern int store_nbd_open(const struct drover_store_options *options, struct store *out) __attribute__((weak));
extern int store_verbs_open(const struct drover_store_options *options, struct store *out) __attribute__((weak));

static uint64_t patience_of(const struct drover_store_options *options)
{
	return options->timeout_nanos == 0 ? TIMEOUT_NANOS_DEFAULT : options->timeout_nanos;
}

static int check_store(const struct drover_store_options *options)
{
	if (options->path == NULL || options->kind > DROVER_STORE_VERBS || (options->flags & ~DROVER_STORE_SEALED) != 0 ||
	    options->reserved != 0 || options->size % PAGE != 0 || options->size / PAGE > SLOTS_MAX ||
	    options->timeout_nanos > TIMEOUT_NANOS_MAX)
		return -EINVAL;
	if (options->kind == DROVER_STORE_FILE)
		return 0;
	return options->name == NULL || options->size == 0 || options->port == 0 || options->port > 65535 ? -EINVAL : 0;
}

/* Opens one store, to be the `index`-th. */
static int open_one(const struct drover_store_options *options, const struct drover_region_options *region_options,
		    uint32_t index, int donor, struct tier_options *out)
{
	struct drover_store_options sized = *options;
	int rc;

	if (sized.size == 0)
		sized.size = region_options->ssd_size == 0 ? region_options->size : region_options->ssd_size;
	*out = (struct tier_options){ .size = sized.size, .kind = sized.kind, .donor = donor != 0 };
	switch (sized.kind) {
	case DROVER_STORE_FILE:
		rc = store_file_open(sized.path, sized.size, region_options->flags, &out->store);
		break;
	case DROVER_STORE_NBD:
		rc = store_nbd_open != NULL ? store_nbd_open(&sized, &out->store) : -EOPNOTSUPP;
		break;
	default:
		rc = store_verbs_open != NULL ? store_verbs_open(&sized, &out->store) : -EOPNOTSUPP;
		break;
	}
	if (rc < 0 || (sized.flags & DROVER_STORE_SEALED) == 0)
		return rc;
	out->sealed = 1;
	return store_seal_open(&out->store, sized.size, TIER_INNER_AT(index), &out->store);
}

/* Whether there is a place for every page and copy, whatever happens to be where. */
static int check_room(const struct drover_store_options *stores, uint32_t store_count, uint64_t size, uint32_t copies)
{
	uint64_t room = 0;
	uint32_t files = 0;

	for (uint32_t i = 0; i < store_count; i++) {
		int rc = check_store(&stores[i]);

		if (rc < 0)
			return rc;
		files += stores[i].kind == DROVER_STORE_FILE;
		room += stores[i].size < size ? stores[i].size : size;
	}
	return files == 0 && room < copies * size ? -ENOSPC : 0;
}

int drover_region_open_stores(const struct drover_store_options *stores, uint32_t store_count,
			      const struct drover_region_options *options, struct drover_region **out)
{
	struct tier_options parts[TIERS_MAX];
	struct store store;
	struct tiers *tiers;
	uint32_t opened = 0, copies = options->copies == 0 ? 1 : options->copies, file = NO_TIER;
	uint64_t patience = 0;
	int rc = region_check(options);

	if (rc < 0)
		return rc;
	if (store_count == 0 || store_count > TIERS_MAX || copies > 2)
		return -EINVAL;
	rc = check_room(stores, store_count, options->size, copies);
	for (; rc == 0 && opened < store_count; opened++) {
		const struct drover_store_options *one = &stores[opened];
		int donor = one->kind != DROVER_STORE_FILE || file != NO_TIER;

		if (!donor && one->size != 0 && one->size < options->size) {
			rc = -EINVAL;
			break;
		}
		rc = open_one(one, options, opened, donor, &parts[opened]);
		if (rc < 0)
			break;
		if (!donor)
			file = opened;
		else
			patience = patience_of(one) > patience ? patience_of(one) : patience;
	}
	if (rc < 0) {
		while (opened-- > 0)
			parts[opened].store.calls->close(&parts[opened].store);
		return rc;
	}
	/* Nothing to choose from: as drover_region_open() does it. */
	if (store_count == 1 && file == 0 && !parts[0].sealed)
		return region_open(options, &parts[0].store, out);
	rc = store_tiers_open(parts, store_count, options->size / PAGE, copies, patience, &store);
	if (rc < 0)
		return rc;
	tiers = tiers_of(&store);
	rc = region_open(options, &store, out);
	if (rc == 0)
		atomic_store_explicit(&tiers->region, *out, memory_order_release);
	return rc;
}

/* -- one more --------------------------------------------------------------------------------------------- */

/* A number for it; -1 when all are taken. */
static int find_place(struct tiers *tiers)
{
	uint32_t tier_count = atomic_load(&tiers->count);

	for (uint32_t t = 0; t < tier_count; t++)
		if (atomic_load(&tiers->tiers[t].state) == DROVER_STORE_GONE &&
		    atomic_load(&tiers->tiers[t].slots.used) == 0 && atomic_load(&tiers->tiers[t].under_way) == 0)
			return (int)t;
	return tier_count < TIERS_MAX ? (int)tier_count : -1;
}

static int add_at(struct drover_region *region, struct tiers *tiers, uint32_t t, const struct drover_store_options *options)
{
	struct drover_region_options region_options = { .size = region->size, .flags = region->flags };
	struct tier *tier = &tiers->tiers[t];
	struct tier_options part;
	int is_new = t == atomic_load(&tiers->count);
	int rc = open_one(options, &region_options, t, 1, &part);

	if (rc < 0)
		return rc;
	if (!is_new) {
		for (uint32_t i = 0; i < region->context_count; i++)
			tier->store.calls->detach(&tier->store, &region->contexts[i]);
		tier->store.calls->close(&tier->store);
	}
	/* Nobody looks at it before it is UP, so its ports may be filled beside those who own the contexts. */
	atomic_store(&tier->state, DROVER_STORE_GONE);
	rc = tier_open(tiers, t, &part);
	for (uint32_t i = 0; rc == 0 && i < region->context_count; i++)
		rc = tier->store.calls->attach(&tier->store, &region->contexts[i]);
	if (is_new)
		atomic_store(&tiers->count, t + 1);
	if (rc == 0)
		atomic_store(&tier->state, DROVER_STORE_UP);
	return rc < 0 ? rc : (int)t;
}

int drover_region_add_store(struct drover_region *region, const struct drover_store_options *options)
{
	struct tiers *tiers;
	uint64_t until;
	int rc = region_enter(region), place;

	if (rc < 0)
		return rc;
	tiers = tiers_of(&region->store);
	if (tiers == NULL || check_store(options) < 0 || (options->kind == DROVER_STORE_FILE && options->size == 0)) {
		region_leave(region);
		return -EINVAL;
	}
	/* Somebody asks a store that is down, for a moment, or adds another one. */
	until = now() + 2 * patience_of(options);
	while (atomic_exchange(&tiers->changing, 1) != 0) {
		struct timespec pause = { 0, 1000000 };

		if (now() > until) {
			region_leave(region);
			return -EBUSY;
		}
		nanosleep(&pause, NULL);
	}
	place = find_place(tiers);
	rc = place < 0 ? -EMFILE : add_at(region, tiers, (uint32_t)place, options);
	atomic_store(&tiers->changing, 0);
	region_leave(region);
	return rc;
}

/* -- looking ---------------------------------------------------------------------------------------------- */

int drover_region_stores(struct drover_region *region, struct drover_store_stats *out, uint32_t limit)
{
	struct tiers *tiers;
	uint32_t tier_count = 1;
	int rc = region_enter(region);

	if (rc < 0)
		return rc;
	tiers = tiers_of(&region->store);
	if (tiers == NULL) {
		if (limit > 0)
			*out = (struct drover_store_stats){ .slots = region->pages,
							    .errors = __atomic_load_n(&region->control->stats.errors, __ATOMIC_RELAXED) };
	} else {
		tier_count = atomic_load(&tiers->count);
	}
	for (uint32_t t = 0; tiers != NULL && t < tier_count && t < limit; t++) {
		struct tier *tier = &tiers->tiers[t];
		int held = tier_hold(tier);

		out[t] = (struct drover_store_stats){ .slots = held ? tier->slots.count : 0,
						      .used = atomic_load(&tier->slots.used),
						      .reads = atomic_load(&tier->reads),
						      .writes = atomic_load(&tier->writes),
						      .errors = atomic_load(&tier->errors),
						      .refused = atomic_load(&tier->refused),
						      .latency_nanos = atomic_load(&tier->latency),
						      .kind = atomic_load(&tier->kind),
						      .state = atomic_load(&tier->state) };
		if (held)
			tier_release(tier);
	}
	region_leave(region);
	return (int)tier_count;
}

int drover_region_places(struct drover_region *region, uint64_t first, uint64_t page_count, uint8_t *out)
{
	struct tiers *tiers;
	int rc = region_enter(region);

	if (rc < 0)
		return rc;
	if (first > region->pages || page_count > region->pages - first) {
		region_leave(region);
		return -EINVAL;
	}
	tiers = tiers_of(&region->store);
	for (uint64_t i = 0; i < page_count; i++)
		out[i] = tiers != NULL ? (uint8_t)seats_of(tiers, first + i) :
					 (uint8_t)(state_of(word_at(region, first + i)) == DROVER_PAGE_COLD);
	region_leave(region);
	return 0;
}
