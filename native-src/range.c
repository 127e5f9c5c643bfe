/*
 * range.c - calls for many pages at once: pin, populate, prefetch, evict, reclaim, flush, poison, reset.
 *
 * They work through windows of at most BATCH_MAX pages, so that a context and its pages are never held for long, and
 * signals are blocked meanwhile. They may be made from any thread at any time, beside faults.
 */
#include "region.h"

#include <sched.h>
#include <string.h>

#define WINDOW 32u
#define PREFETCH_MAX (1u << 20)
#define FLUSH_RUN 16u
/* A page that is there whenever we look and gone whenever we pin it: so often. */
#define PIN_TRIES_MAX 1000u

static int in_range(const struct drover_region *region, uint64_t first, uint64_t page_count)
{
	return first <= region->pages && page_count <= region->pages - first;
}

/* Begins and checks the range; -errno and nothing to end. */
static int begin(struct drover_region *region, uint64_t first, uint64_t page_count, sigset_t *saved)
{
	int rc = region_begin(region, saved);

	if (rc == 0 && !in_range(region, first, page_count)) {
		region_end(region, saved);
		rc = -EINVAL;
	}
	return rc;
}

/* Waits, helping, a little longer each round. */
static void wait_round(struct drover_region *region, uint32_t round)
{
	if (help(region) > 0)
		return;
	if (round < 100) {
		sched_yield();
	} else {
		struct timespec pause = { 0, 50000 };

		nanosleep(&pause, NULL);
	}
}

/* Until the page is not being written any more; at most as long as a device may take. */
static void wait_written(struct drover_region *region, uint64_t page)
{
	uint64_t deadline = 0;

	for (uint32_t round = 0; state_of(word_at(region, page)) == DROVER_PAGE_WRITEBACK; round++) {
		if (deadline == 0)
			deadline = now() + region->device_nanos;
		if (now() > deadline)
			return;
		wait_round(region, round);
	}
}

/* -- bringing in ------------------------------------------------------------------------------------------ */

/* Reads the cold ones of a window together and waits for them. Returns how many. */
static uint32_t read_window(struct drover_region *region, const uint64_t *pages, uint32_t page_count)
{
	struct context *context = claim(region);
	uint64_t looked, budget = 16384;
	uint32_t started = start_reads(region, context, pages, page_count, 0, 0, &looked);

	if (started > 0) {
		if (wants_eviction(region))
			evict_some(region, context, BATCH_MAX, &budget);
		context_wait_reads(region, context);
	}
	release(context);
	return started;
}

/* Brings the window in. With `write` the pages are writable without a further fault. */
static int64_t bring(struct drover_region *region, uint64_t first, uint32_t page_count, int write)
{
	uint64_t pages[WINDOW];
	int64_t brought = 0;

	for (uint32_t i = 0; i < page_count; i++) {
		pages[i] = first + i;
		brought += !is_mapped(word_at(region, first + i));
	}
	if (brought == 0 && !write)
		return 0;
	read_window(region, pages, page_count);
	for (uint32_t i = 0; i < page_count; i++) {
		int rc = serve(region, first + i, write, 0, QUIET);

		if (rc < 0)
			return rc;
	}
	return brought;
}

int64_t drover_region_populate(struct drover_region *region, uint64_t first, uint64_t page_count)
{
	sigset_t saved;
	int64_t brought = 0;
	int rc = begin(region, first, page_count, &saved);

	if (rc < 0)
		return rc;
	for (uint64_t at = 0; at < page_count; at += WINDOW) {
		uint32_t part = page_count - at < WINDOW ? (uint32_t)(page_count - at) : WINDOW;
		int64_t got = bring(region, first + at, part, 0);

		if (got < 0) {
			brought = got;
			break;
		}
		brought += got;
	}
	region_end(region, &saved);
	return brought;
}

int64_t drover_region_prefetch(struct drover_region *region, const uint64_t *pages, size_t page_count, uint32_t flags)
{
	sigset_t saved;
	int64_t started = 0;
	size_t at = 0;
	int rc;

	if (page_count > PREFETCH_MAX || (flags & ~DROVER_PREFETCH_WAIT) != 0)
		return -EINVAL;
	rc = region_begin(region, &saved);
	if (rc < 0)
		return rc;
	for (size_t i = 0; i < page_count; i++) {
		if (pages[i] >= region->pages) {
			region_end(region, &saved);
			return -EINVAL;
		}
	}
	while (at < page_count) {
		struct context *context;
		uint64_t looked = 0, budget = 16384;
		uint32_t got;

		/* Nothing to do for pages that are there: no context either. */
		while (at < page_count && state_of(word_at(region, pages[at])) != DROVER_PAGE_COLD)
			at++;
		if (at == page_count)
			break;
		context = try_claim(region);
		if (context == NULL)
			break;
		got = start_reads(region, context, pages + at, page_count - at, 0, 0, &looked);
		if (wants_eviction(region))
			evict_some(region, context, region_batch(region), &budget);
		if ((flags & DROVER_PREFETCH_WAIT) != 0)
			context_wait_reads(region, context);
		release(context);
		started += got;
		at += looked;
		if (got == 0 && looked == 0)
			break;
	}
	region_end(region, &saved);
	return started;
}

/* -- pins ------------------------------------------------------------------------------------------------- */

/* One more pin, if the page is mapped and writable; 1 when it is not. */
static int pin_one(struct drover_region *region, uint64_t page)
{
	for (;;) {
		uint32_t word = word_at(region, page);

		if (state_of(word) != DROVER_PAGE_DIRTY)
			return 1;
		if ((word & PIN_MASK) == PIN_MASK)
			return -EOVERFLOW;
		if ((word & PIN_MASK) == 0 &&
		    atomic_fetch_add(&region->pinned, 1) >= region_limit(region) - region_limit(region) / 8) {
			atomic_fetch_sub(&region->pinned, 1);
			return -ENOMEM;
		}
		if (atomic_compare_exchange_strong(&region->words[page], &word, word + PIN_ONE))
			return 0;
		if ((word & PIN_MASK) == 0)
			atomic_fetch_sub(&region->pinned, 1);
	}
}

/* Pins are kept while BUSY (a flush), but only its owner may change the word then. */
static int unpin_one(struct drover_region *region, uint64_t page)
{
	uint32_t round = 0;

	for (;;) {
		uint32_t word = word_at(region, page);

		if ((word & PIN_MASK) == 0)
			return -EINVAL;
		if (state_of(word) == DROVER_PAGE_BUSY) {
			wait_while_busy(region, page, &round);
			continue;
		}
		if (!atomic_compare_exchange_strong(&region->words[page], &word, word - PIN_ONE))
			continue;
		if ((word & PIN_MASK) == PIN_ONE)
			atomic_fetch_sub(&region->pinned, 1);
		return 0;
	}
}

static int pin_window(struct drover_region *region, uint64_t first, uint32_t page_count, uint32_t *pinned)
{
	int64_t got = bring(region, first, page_count, 1);

	*pinned = 0;
	if (got < 0)
		return got == -ENOMEM ? -ENOMEM : -EIO;
	for (uint32_t tries = 0; *pinned < page_count && tries < PIN_TRIES_MAX;) {
		int rc = pin_one(region, first + *pinned);

		if (rc < 0)
			return rc;
		if (rc == 0) {
			++*pinned;
			tries = 0;
			continue;
		}
		tries++;
		rc = serve(region, first + *pinned, 1, 0, QUIET);
		if (rc < 0)
			return rc == -ENOMEM ? -ENOMEM : -EIO;
	}
	return *pinned == page_count ? 0 : -EBUSY;
}

int drover_region_pin(struct drover_region *region, uint64_t first, uint64_t page_count)
{
	sigset_t saved;
	uint64_t done = 0;
	int rc = begin(region, first, page_count, &saved);

	if (rc < 0)
		return rc;
	while (done < page_count && rc == 0) {
		uint32_t part = page_count - done < WINDOW ? (uint32_t)(page_count - done) : WINDOW, pinned;

		rc = pin_window(region, first + done, part, &pinned);
		done += pinned;
	}
	if (rc < 0)
		while (done > 0)
			unpin_one(region, first + --done);
	region_end(region, &saved);
	return rc;
}

int drover_region_unpin(struct drover_region *region, uint64_t first, uint64_t page_count)
{
	sigset_t saved;
	int rc = begin(region, first, page_count, &saved);

	if (rc < 0)
		return rc;
	for (uint64_t i = 0; i < page_count && rc == 0; i++)
		if ((word_at(region, first + i) & PIN_MASK) == 0)
			rc = -EINVAL;
	for (uint64_t i = 0; i < page_count && rc == 0; i++)
		rc = unpin_one(region, first + i);
	region_end(region, &saved);
	return rc;
}

/* -- sending out ------------------------------------------------------------------------------------------ */

static int is_unsettled(uint32_t word)
{
	return state_of(word) == DROVER_PAGE_BUSY || (is_mapped(word) && (word & SHADOW) != 0);
}

int64_t drover_region_evict(struct drover_region *region, const uint64_t *pages, size_t page_count, uint32_t flags)
{
	struct context *context;
	sigset_t saved;
	int64_t left = 0;
	int rc;

	if ((flags & ~(DROVER_EVICT_STANDBY | DROVER_EVICT_WAIT)) != 0)
		return -EINVAL;
	rc = region_begin(region, &saved);
	if (rc < 0)
		return rc;
	for (size_t i = 0; i < page_count; i++) {
		if (pages[i] >= region->pages) {
			region_end(region, &saved);
			return -EINVAL;
		}
	}
	context = claim(region);
	for (size_t at = 0; at < page_count;) {
		uint32_t found = 0;

		for (; at < page_count && found < BATCH_MAX; at++) {
			uint32_t word = word_at(region, pages[at]), round = 0;

			/* Being moved, or taken back from its write: it can leave when that is done. */
			if ((flags & DROVER_EVICT_WAIT) != 0 && is_unsettled(word)) {
				if (found > 0)
					break; /* after those that are held already */
				while (is_unsettled(word)) {
					context_reap(region, context, 0);
					wait_round(region, round++);
					word = word_at(region, pages[at]);
				}
			}
			if (!may_leave(word) || ((flags & DROVER_EVICT_STANDBY) != 0 && !is_mapped(word)))
				continue;
			if (take(region, pages[at], word)) {
				context->victims[found] = pages[at];
				context->words[found++] = word;
			}
		}
		if (found == 0)
			continue;
		sort_victims(context, found);
		left += demote(region, context, found, flags);
		context_reap(region, context, 0);
		/* Each batch may need as many operations as it has pages. */
		while (OPERATIONS - (uint32_t)__builtin_popcountll(context->operation_free) > OPERATIONS / 2)
			context_reap(region, context, 1000000);
	}
	if ((flags & DROVER_EVICT_WAIT) != 0)
		context_drain(region, context);
	release(context);
	/* Some may have been on their way already, by other contexts. */
	for (size_t at = 0; at < page_count && (flags & DROVER_EVICT_WAIT) != 0; at++)
		wait_written(region, pages[at]);
	region_end(region, &saved);
	return left;
}

/* One pass: evicts until `resident` or until nobody is left to go, then waits for the writes. */
static void reclaim_pass(struct drover_region *region, struct context *context, uint64_t resident)
{
	uint64_t deadline = now() + region->device_nanos;
	uint32_t fruitless = 0;

	/* As many laps without a victim as the hottest page has credit: then there is none. */
	while (atomic_load(&region->frames) > resident + atomic_load(&region->writeback) && fruitless < 18) {
		uint64_t budget = region->pages;

		fruitless = evict_some(region, context, BATCH_MAX, &budget) > 0 ? 0 : fruitless + 1;
		context_reap(region, context, 0);
		while (OPERATIONS - (uint32_t)__builtin_popcountll(context->operation_free) > OPERATIONS / 2)
			context_reap(region, context, 1000000);
	}
	context_drain(region, context);
	for (uint32_t round = 0; atomic_load(&region->frames) > resident && atomic_load(&region->writeback) > 0; round++) {
		if (now() > deadline)
			break;
		wait_round(region, round);
	}
}

int64_t drover_region_reclaim(struct drover_region *region, uint64_t resident)
{
	struct context *context;
	sigset_t saved;
	int64_t left;
	int rc = region_begin(region, &saved);

	if (rc < 0)
		return rc;
	context = claim(region);
	/* A page that was taken back from its write can leave only after it: hence a second pass, and one for luck. */
	for (int pass = 0; pass < 3 && atomic_load(&region->frames) > resident; pass++)
		reclaim_pass(region, context, resident);
	release(context);
	left = (int64_t)atomic_load(&region->frames);
	region_end(region, &saved);
	return left;
}

/* -- flush ------------------------------------------------------------------------------------------------ */

/*
 * Copies a mapped BUSY page by system call: should its memory have been taken away behind our back, this fails, while a
 * touch would wait for a page that this very thread holds.
 */
static int copy_out(struct drover_region *region, uint64_t page, uint8_t *out)
{
	struct iovec target = { out, PAGE }, source = { region->base + page * PAGE, PAGE };

	if (region->shared) {
		memcpy(out, region->shadow + page * PAGE, PAGE);
		return 0;
	}
	return syscall(SYS_process_vm_readv, getpid(), &target, 1ul, &source, 1ul, 0ul) == (long)PAGE ? 0 : -EFAULT;
}

/* Whether the page was taken, copied into the buffer and differs from the file: then it stays BUSY. */
static int flush_take(struct drover_region *region, uint64_t page, uint8_t *out)
{
	uint32_t word = word_at(region, page), state = DROVER_PAGE_DIRTY;
	int protect = region->dirty_mode == DROVER_DIRTY_WP && (word & PIN_MASK) == 0;
	uint64_t sum;

	if (state_of(word) != DROVER_PAGE_DIRTY || (word & SHADOW) != 0 || !take(region, page, word))
		return 0;
	if (protect)
		memory_protect(region, page, 1);
	if (copy_out(region, page, out) < 0) {
		lose(region, page, DROVER_EVENT_LOST, EFAULT);
		return 0;
	}
	sum = page_hash(region, page, content_hash(region, out));
	if (sum == region->hashes[page]) {
		if (protect)
			state = DROVER_PAGE_CLEAN;
		publish(region, page, word, state);
		return 0;
	}
	region->hashes[page] = sum;
	return 1;
}

/* Writes the run of changed pages at `*at`, if there is one, and moves on. Returns how many pages. */
static uint32_t flush_run(struct drover_region *region, struct context *context, uint64_t *at)
{
	uint64_t first = *at;
	uint32_t run = 0;
	struct operation *operation;
	uint64_t surplus;
	int id;

	/* Cheap first, so that no buffer is taken for a page that needs none. */
	if (state_of(word_at(region, first)) != DROVER_PAGE_DIRTY || (word_at(region, first) & SHADOW) != 0) {
		++*at;
		return 0;
	}
	while ((id = operation_take(context, FLUSH_RUN, 1)) < 0)
		context_reap(region, context, 1000000);
	operation = &context->operations[id];
	while (run < FLUSH_RUN && first + run < region->pages &&
	       flush_take(region, first + run, context->buffer + (operation->buffer + run) * PAGE))
		run++;
	*at += run + (run < FLUSH_RUN); /* the one after the run was looked at too */
	if (run == 0) {
		operation_free(context, (uint32_t)id, 1);
		return 0;
	}
	/* What is left of the buffer goes back at once. */
	surplus = ((1ull << FLUSH_RUN) - 1) & ~((1ull << run) - 1);
	context->buffer_free |= surplus << operation->buffer;
	operation->count = (uint16_t)run;
	operation->page = first;
	operation->started = now();
	operation->kind = FLUSH;
	atomic_fetch_add_explicit(&context->in_flight, 1, memory_order_relaxed);
	count(&region->control->stats.write_calls, 1);
	count(&region->control->stats.written_bytes, run * PAGE);
	region->store.calls->queue(&region->store, context, (uint32_t)id, 1, context->buffer + operation->buffer * PAGE,
				   (uint32_t)(run * PAGE), first * PAGE, 1);
	context_submit(region, context);
	return run;
}

/* Writes what is unmapped and changed, and waits for what is being written. Returns how many were sent. */
static int64_t flush_shadow(struct drover_region *region, struct context *context)
{
	int64_t sent = 0;
	uint32_t found = 0;

	for (uint64_t page = 0; page <= region->pages; page++) {
		uint32_t word = page < region->pages ? word_at(region, page) : 0;

		if (state_of(word) == DROVER_PAGE_STANDBY_DIRTY && take(region, page, word)) {
			context->victims[found] = page;
			context->words[found++] = word;
		}
		if (found == BATCH_MAX / 2 || (page == region->pages && found > 0)) {
			context_drain(region, context);
			sent += demote(region, context, found, 0);
			found = 0;
		}
	}
	context_drain(region, context);
	for (uint64_t page = 0; page < region->pages; page++)
		wait_written(region, page);
	return sent;
}

int64_t drover_region_flush(struct drover_region *region)
{
	struct context *context;
	sigset_t saved;
	uint64_t errors;
	int64_t written = 0;
	int rc = region_begin(region, &saved);

	if (rc < 0)
		return rc;
	context = claim(region);
	context->failures = 0;
	errors = atomic_load(&region->write_errors);
	for (uint64_t page = 0; page < region->pages;) {
		uint32_t round = 0;

		/* A page that was taken back from its write: that ends first. Not to be waited for while holding others. */
		while ((word_at(region, page) & SHADOW) != 0 && is_mapped(word_at(region, page))) {
			context_reap(region, context, 0);
			wait_round(region, round++);
		}
		written += flush_run(region, context, &page);
		context_reap(region, context, 0);
	}
	context_drain(region, context);
	written += flush_shadow(region, context);
	if (context->failures > 0 || atomic_load(&region->write_errors) != errors)
		written = -EIO;
	release(context);
	region_end(region, &saved);
	return written;
}

/* -- forgetting ------------------------------------------------------------------------------------------- */

/* Makes the page BUSY when nothing is in flight for it, whatever its state; -EBUSY when it is pinned. */
static int take_any(struct drover_region *region, uint64_t page, uint32_t *word)
{
	for (uint32_t round = 0;; round++) {
		*word = word_at(region, page);
		if ((*word & PIN_MASK) != 0)
			return -EBUSY;
		if (state_of(*word) == DROVER_PAGE_BUSY || (*word & SHADOW) != 0)
			wait_round(region, round);
		else if (take(region, page, *word))
			return 0;
	}
}

/* Frees what the pages hold and gives them the new state. */
static int forget(struct drover_region *region, uint64_t first, uint64_t page_count, uint32_t state)
{
	uint64_t mapped[WINDOW], shadowed[WINDOW];
	struct iovec vectors[WINDOW];
	sigset_t saved;
	int rc = begin(region, first, page_count, &saved);

	if (rc < 0)
		return rc;
	for (uint64_t i = 0; i < page_count && rc == 0; i++)
		if ((word_at(region, first + i) & PIN_MASK) != 0)
			rc = -EBUSY;
	for (uint64_t at = 0; at < page_count && rc == 0; at += WINDOW) {
		uint32_t part = page_count - at < WINDOW ? (uint32_t)(page_count - at) : WINDOW;
		uint32_t mapped_count = 0, shadowed_count = 0, taken = 0, marker_count = 0;

		while (taken < part && rc == 0) {
			uint64_t page = first + at + taken;
			uint32_t word;

			rc = take_any(region, page, &word);
			if (rc < 0)
				break;
			taken++;
			if (state_of(word) == DROVER_PAGE_POISON)
				marker_count++;
			if (is_mapped(word) || state_of(word) == DROVER_PAGE_POISON)
				mapped[mapped_count++] = page;
			else if (state_of(word) >= DROVER_PAGE_STANDBY)
				shadowed[shadowed_count++] = page;
		}
		memory_drop(region, mapped, mapped_count, 0, vectors);
		memory_drop(region, shadowed, shadowed_count, 1, vectors);
		unreserve(region, mapped_count - marker_count + shadowed_count);
		for (uint32_t i = 0; i < taken; i++) {
			uint64_t page = first + at + i;

			region->hashes[page] = 0;
			store_forget(region, page);
			if (region->written != NULL)
				atomic_fetch_or(&region->written[page / 64], 1ull << (page % 64));
			if (state == DROVER_PAGE_POISON)
				memory_poison(region, page);
			publish(region, page, 0, state);
		}
	}
	region_end(region, &saved);
	return rc;
}

int drover_region_poison(struct drover_region *region, uint64_t first, uint64_t page_count)
{
	return forget(region, first, page_count, DROVER_PAGE_POISON);
}

int drover_region_reset(struct drover_region *region, uint64_t first, uint64_t page_count)
{
	return forget(region, first, page_count, DROVER_PAGE_EMPTY);
}
