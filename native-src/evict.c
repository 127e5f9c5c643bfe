/*
 * evict.c - who leaves, how, and the cap on RAM.
 *
 * Order: a clock over the page numbers. A page has a credit; the hand takes one off and passes, or, at none, sends the
 * page out. How much credit it gets when it comes back depends on how soon that is (fetch.c): there are no accessed
 * bits to be had, so the refault is what tells hot from cold. Going by page number makes victims neighbours
 * more often than not: one MOVE, one write, one flush of the TLB for several.
 *
 * Frames: every page in RAM counts as one, in the region or in the shadow, and one more while it is in both; also pages
 * whose read is in flight. A frame is reserved before anything that needs it, so the cap holds at every moment. Only
 * make_room() waits, and it gives up (-ENOMEM) rather than hang.
 *
 * A changed page is written from its shadow. WRITEBACK pages may be taken back at any time (serve() copies from the
 * shadow, which stays until the write is done): so nobody ever waits for a writer.
 */
#include "region.h"

#include <sched.h>
#include <string.h>

/* The hand moves by this many pages for one thread at a time. */
#define HAND_STEP 64u

/* A context's slice is counted in parts of a page: it grows by one part, and shrinks by half. */
#define SLICE_PAGE 8u

/* What becomes of a victim in demote(). */
enum fate {
	BACK = 0,    /* stays mapped */
	LOST,	     /* its memory is not there */
	DROP_MAPPED, /* clean, still in the region */
	DROP,	     /* clean, in the shadow */
	ZERO,	     /* nothing but zeros: needs no file */
	SEND,	     /* changed, in the shadow */
};

int try_reserve(struct drover_region *region, uint64_t frame_count)
{
	uint64_t before = atomic_fetch_add_explicit(&region->frames, frame_count, memory_order_relaxed);

	if (before + frame_count <= region_limit(region))
		return 1;
	atomic_fetch_sub_explicit(&region->frames, frame_count, memory_order_relaxed);
	return 0;
}

void unreserve(struct drover_region *region, uint64_t frame_count)
{
	atomic_fetch_sub_explicit(&region->frames, frame_count, memory_order_relaxed);
	atomic_fetch_add_explicit(&region->freed, frame_count, memory_order_relaxed);
}

int wants_eviction(struct drover_region *region)
{
	uint64_t frames = atomic_load_explicit(&region->frames, memory_order_relaxed);
	uint64_t leaving = atomic_load_explicit(&region->writeback, memory_order_relaxed);
	uint64_t limit = region_limit(region), headroom = region_batch(region);

	headroom = headroom < limit / 16 ? headroom : limit / 16;
	return frames + headroom > limit + leaving;
}

int make_room(struct drover_region *region, struct context *context, uint64_t frame_count)
{
	uint64_t freed = 0, since = 0;
	uint64_t errors = atomic_load(&region->write_errors);

	for (uint32_t idle = 0;;) {
		uint64_t budget = region->pages;
		uint64_t freed_now = atomic_load(&region->freed), time;
		uint32_t evicted;

		if (try_reserve(region, frame_count))
			return 0;
		evicted = wants_eviction(region) || idle > 16 ? evict_some(region, context, region_batch(region), &budget) : 0;
		if (context_reap(region, context, 0) + (evicted == 0 ? help(region) : 0) > 0)
			evicted++;
		time = now();
		if (since == 0 || freed_now != freed) {
			freed = freed_now;
			since = time;
			idle = 0;
		} else if (time - since > region->device_nanos ||
			   (time - since > region->room_nanos && (atomic_load(&region->writeback) == 0 ||
							      atomic_load(&region->write_errors) != errors))) {
			return -ENOMEM;
		}
		if (evicted > 0)
			continue;
		idle++;
		if (atomic_load_explicit(&context->in_flight, memory_order_relaxed) > 0)
			context_reap(region, context, 200000);
		else
			sched_yield();
	}
}

/* -- the clock -------------------------------------------------------------------------------------------- */

/* Insertion sort: victims come nearly sorted, and each context's list is short. */
void sort_victims(struct context *context, uint32_t victim_count)
{
	for (uint32_t i = 1; i < victim_count; i++) {
		uint64_t page = context->victims[i];
		uint32_t word = context->words[i], at = i;

		for (; at > 0 && context->victims[at - 1] > page; at--) {
			context->victims[at] = context->victims[at - 1];
			context->words[at] = context->words[at - 1];
		}
		context->victims[at] = page;
		context->words[at] = word;
	}
}

int may_leave(uint32_t word)
{
	switch (state_of(word)) {
	case DROVER_PAGE_CLEAN:
	case DROVER_PAGE_DIRTY:
	case DROVER_PAGE_STANDBY:
	case DROVER_PAGE_STANDBY_DIRTY:
		return (word & (PIN_MASK | SHADOW)) == 0;
	default:
		return 0;
	}
}

uint32_t evict_some(struct drover_region *region, struct context *context, uint32_t want, uint64_t *budget)
{
	uint32_t found = 0;

	want = want < BATCH_MAX ? want : BATCH_MAX;
	/* Neighbours cost little more than one of them. */
	while (*budget > 0 && (found < want || (found < BATCH_MAX && context->hand != context->hand_end &&
						context->hand == context->victims[found - 1] + 1))) {
		uint64_t page;
		uint32_t word;

		if (context->hand == context->hand_end) {
			uint64_t start = atomic_fetch_add_explicit(&region->hand, HAND_STEP, memory_order_relaxed) % region->pages;

			context->hand = start;
			context->hand_end = start + HAND_STEP < region->pages ? start + HAND_STEP : region->pages;
		}
		page = context->hand++;
		--*budget;
		word = word_at(region, page);
		if (!may_leave(word))
			continue;
		if ((word & CREDIT_MASK) != 0) {
			atomic_compare_exchange_strong_explicit(&region->words[page], &word, word - CREDIT_ONE,
								memory_order_relaxed, memory_order_relaxed);
			continue;
		}
		if (take(region, page, word)) {
			context->victims[found] = page;
			context->words[found++] = word;
		}
	}
	if (found == 0)
		return 0;
	sort_victims(context, found);
	return demote(region, context, found, 0);
}

void evict_meanwhile(struct drover_region *region, struct context *context, uint32_t id, uint32_t least)
{
	const struct operation *operation = &context->operations[id];
	uint64_t began = operation->started, budget = 16384;
	uint32_t most = region_batch(region) * SLICE_PAGE, slice = context->slice;

	if (!wants_eviction(region))
		return;
	slice = slice == 0 || slice > most ? most : slice;
	evict_some(region, context, slice / SLICE_PAGE > least ? slice / SLICE_PAGE : least, &budget);
	context_reap(region, context, 0);
	if (operation->kind == READ && operation->started == began)
		context->slice = slice + 1;
	else
		context->slice = slice / 2 > SLICE_PAGE ? slice / 2 : SLICE_PAGE;
}

/* -- demotion --------------------------------------------------------------------------------------------- */

/* Takes victims [first, end), neighbours and all DIRTY, out of the region; the fates of those that do not go. */
static void unmap_run(struct drover_region *region, struct context *context, uint32_t first, uint32_t end)
{
	while (first < end) {
		uint64_t done;
		int rc = memory_demote(region, context->victims[first], end - first, &done);

		for (uint64_t i = 0; i < done; i++)
			context->fates[first++] = SEND;
		if (rc < 0 && first < end)
			/* EBUSY: something holds the page, a system call for instance. EEXIST cannot be. */
			context->fates[first++] = rc == -ENOENT ? LOST : BACK;
	}
}

/* Decides between clean, zero and changed for a page in the shadow. */
static enum fate judge(struct drover_region *region, uint64_t page, uint32_t word, uint64_t *sum)
{
	uint64_t content = content_hash(region, region->shadow + page * PAGE);
	uint64_t old = region->hashes[page];
	int zero = content == region->zero_hash;
	int changed;

	*sum = page_hash(region, page, content);
	changed = zero ? old != 0 : *sum != old;
	/* Protection is lost by moving, so what the kernel knew of this epoch's writes is kept here. */
	if (region->written != NULL && state_of(word) == DROVER_PAGE_DIRTY && (changed || (word & REPORTED) != 0))
		atomic_fetch_or_explicit(&region->written[page / 64], 1ull << (page % 64), memory_order_relaxed);
	return zero ? ZERO : changed ? SEND : DROP;
}

static uint32_t stamped(struct drover_region *region, uint32_t word)
{
	uint64_t clock = atomic_load_explicit(&region->evictions, memory_order_relaxed) * 8 / region_limit(region);

	return (word & ~(STAMP_MASK | CREDIT_MASK | REPORTED)) | (uint32_t)clock << STAMP_SHIFT;
}

/* Drops all victims of this fate at once and says so. Returns how many. */
static uint32_t drop_all(struct drover_region *region, struct context *context, uint32_t victim_count, enum fate fate)
{
	uint32_t dropped = 0;

	for (uint32_t i = 0; i < victim_count; i++)
		if (context->fates[i] == fate)
			context->dropped[dropped++] = context->victims[i];
	if (dropped == 0)
		return 0;
	memory_drop(region, context->dropped, dropped, fate != DROP_MAPPED, context->drop_vectors);
	unreserve(region, dropped);
	for (uint32_t i = 0; i < victim_count; i++) {
		uint64_t page = context->victims[i];

		if (context->fates[i] != fate)
			continue;
		if (fate == ZERO) {
			region->hashes[page] = 0;
			store_forget(region, page);
		}
		publish(region, page, stamped(region, context->words[i]), fate == ZERO ? DROVER_PAGE_EMPTY : DROVER_PAGE_COLD);
	}
	count(&region->control->stats.evicted_clean, dropped);
	return dropped;
}

/* Queues the writes of changed victims, neighbours in one. Returns how many pages. */
static uint32_t send_all(struct drover_region *region, struct context *context, uint32_t victim_count)
{
	uint32_t sent = 0;

	for (uint32_t first = 0, end; first < victim_count; first = end) {
		uint64_t page = context->victims[first];
		int id;

		end = first + 1;
		if (context->fates[first] != SEND)
			continue;
		while (end < victim_count && context->fates[end] == SEND && context->victims[end] == page + (end - first))
			end++;
		id = operation_take(context, end - first, 0);
		if (id >= 0) {
			struct operation *operation = &context->operations[id];

			operation->page = page;
			operation->started = now();
			operation->kind = WRITE;
			atomic_fetch_add_explicit(&context->in_flight, 1, memory_order_relaxed);
			atomic_fetch_add_explicit(&region->writeback, end - first, memory_order_relaxed);
			sent += end - first;
		}
		for (uint32_t i = first; i < end; i++) {
			uint64_t at = context->victims[i];
			uint32_t word = stamped(region, context->words[i]) & ~STATE_MASK;

			if (id < 0) {
				publish(region, at, word, DROVER_PAGE_STANDBY_DIRTY);
				continue;
			}
			region->hashes[at] = context->sums[i];
			atomic_store_explicit(&region->words[at], word | DROVER_PAGE_WRITEBACK | SHADOW, memory_order_release);
		}
		if (id < 0)
			continue;
		count(&region->control->stats.write_calls, 1);
		count(&region->control->stats.written_bytes, (end - first) * PAGE);
		region->store.calls->queue(&region->store, context, (uint32_t)id, 1, region->shadow + page * PAGE,
					   (uint32_t)((end - first) * PAGE), page * PAGE, 0);
	}
	if (sent > 0)
		context_submit(region, context);
	count(&region->control->stats.evicted_dirty, sent);
	return sent;
}

/* Victims that do not leave go back where they were; with DROVER_EVICT_STANDBY most stay in the shadow. */
static uint32_t settle(struct drover_region *region, struct context *context, uint32_t victim_count, uint32_t flags)
{
	uint32_t settled = 0;

	for (uint32_t i = 0; i < victim_count; i++) {
		uint64_t page = context->victims[i];
		uint32_t word = context->words[i];

		switch (context->fates[i]) {
		case BACK:
			if (region->shared)
				memory_protect(region, page, 0);
			publish(region, page, word | CREDIT_ONE, state_of(word));
			break;
		case LOST:
			region_event(region, page, DROVER_EVENT_LOST, EFAULT);
			memory_poison(region, page);
			unreserve(region, 1);
			publish(region, page, word, DROVER_PAGE_POISON);
			break;
		case DROP:
		case SEND:
			if ((flags & DROVER_EVICT_STANDBY) == 0)
				break;
			publish(region, page, stamped(region, word),
				context->fates[i] == SEND ? DROVER_PAGE_STANDBY_DIRTY : DROVER_PAGE_STANDBY);
			context->fates[i] = BACK; /* settled */
			settled++;
			break;
		default:
			break;
		}
	}
	return settled;
}

uint32_t demote(struct drover_region *region, struct context *context, uint32_t victim_count, uint32_t flags)
{
	uint32_t left;

	if (region->shared)
		flags &= ~DROVER_EVICT_STANDBY;
	for (uint32_t i = 0, end; i < victim_count; i = end) {
		uint32_t state = state_of(context->words[i]);

		end = i + 1;
		if (state == DROVER_PAGE_DIRTY || (state == DROVER_PAGE_CLEAN && (flags & DROVER_EVICT_STANDBY) != 0)) {
			while (end < victim_count && state_of(context->words[end]) == state &&
			       context->victims[end] == context->victims[end - 1] + 1)
				end++;
			unmap_run(region, context, i, end);
		} else {
			context->fates[i] = state == DROVER_PAGE_CLEAN	 ? DROP_MAPPED :
					    state == DROVER_PAGE_STANDBY ? DROP :
									   SEND;
		}
	}
	for (uint32_t i = 0; i < victim_count; i++)
		if (context->fates[i] == SEND)
			context->fates[i] = (uint8_t)judge(region, context->victims[i], context->words[i], &context->sums[i]);
	left = settle(region, context, victim_count, flags);
	left += drop_all(region, context, victim_count, DROP_MAPPED);
	left += drop_all(region, context, victim_count, DROP);
	left += drop_all(region, context, victim_count, ZERO);
	left += send_all(region, context, victim_count);
	atomic_fetch_add_explicit(&region->evictions, left, memory_order_relaxed);
	return left;
}

/* -- the end of a write ----------------------------------------------------------------------------------- */

/* Frees the shadows that finish_write() collected: pages that are COLD then, and pages that were taken back. */
void finish_drops(struct drover_region *region, struct context *context, uint32_t *drop_count)
{
	uint64_t pages[BATCH_MAX];

	if (*drop_count == 0)
		return;
	for (uint32_t i = 0; i < *drop_count; i++)
		pages[i] = context->dropped[i] >> 1;
	memory_drop(region, pages, *drop_count, 1, context->drop_vectors);
	unreserve(region, *drop_count);
	for (uint32_t i = 0; i < *drop_count; i++) {
		if ((context->dropped[i] & 1) != 0)
			atomic_fetch_and_explicit(&region->words[pages[i]], ~SHADOW, memory_order_release);
		else
			atomic_store_explicit(&region->words[pages[i]],
					      (word_at(region, pages[i]) & ~(STATE_MASK | SHADOW)) | DROVER_PAGE_COLD,
					      memory_order_release);
	}
	*drop_count = 0;
}

void finish_write(struct drover_region *region, struct context *context, const struct operation *operation, int ok,
		  uint32_t *drop_count)
{
	atomic_fetch_sub_explicit(&region->writeback, operation->count, memory_order_relaxed);
	if (!ok)
		atomic_fetch_add(&region->write_errors, 1);
	for (uint32_t i = 0; i < operation->count; i++) {
		uint64_t page = operation->page + i;
		uint32_t word;

		if (*drop_count == BATCH_MAX)
			finish_drops(region, context, drop_count);
		/*
		 * BUSY here is a toucher that copies from the shadow: a microsecond, unless it was preempted. It waits for
		 * nothing meanwhile. Nobody holds a page BUSY across a reap while SHADOW is set.
		 */
		for (;;) {
			word = word_at(region, page);
			if (state_of(word) == DROVER_PAGE_BUSY)
				sched_yield();
			else if (state_of(word) != DROVER_PAGE_WRITEBACK || take(region, page, word))
				break;
		}
		if (state_of(word) != DROVER_PAGE_WRITEBACK) {
			/* Taken back. In a shared region it could change under the transfer: the file has neither version. */
			if (!ok || region->shared)
				region->hashes[page] = 0;
			if (region->shared)
				atomic_fetch_and_explicit(&region->words[page], ~SHADOW, memory_order_release);
			else
				context->dropped[(*drop_count)++] = page << 1 | 1;
		} else if (ok) {
			context->dropped[(*drop_count)++] = page << 1;
		} else {
			/* It stays in the shadow, and the clock comes back to it last. */
			region->hashes[page] = 0;
			atomic_store_explicit(&region->words[page],
					      (word & ~(STATE_MASK | SHADOW)) | CREDIT_MASK | REPORTED | DROVER_PAGE_STANDBY_DIRTY,
					      memory_order_release);
		}
	}
}
