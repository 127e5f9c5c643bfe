/*
 * fetch.c - contexts, and reads in flight: who may speak to the store, and what happens when it answers.
 *
 * A context is claimed for one fault or one call, not owned by a thread: a thread that ends leaves nothing behind.
 * What it submitted may still be in flight when it is released; whoever claims it next, or waits for one of
 * its pages, finishes that (help). So every completion is finished inside context_reap() and nowhere else, whoever
 * started it: the read of a fault too, even when the reap happened in the middle of an eviction.
 *
 * Pages of a READ are BUSY and their frames reserved until it is finished.
 */
#include "region.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* The context that this thread used last. In the static block, since a handler may not allocate one. */
static __thread uint32_t last_context __attribute__((tls_model("initial-exec")));

/* The context that this thread keeps: of the fault thread alone. It is at hand wherever the thread claims or helps. */
static __thread struct context *kept_context __attribute__((tls_model("initial-exec")));

int contexts_open(struct drover_region *region)
{
	size_t size = region->context_count * sizeof(struct context);

	region->contexts = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (region->contexts == MAP_FAILED) {
		region->contexts = NULL;
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < region->context_count; i++) {
		struct context *context = &region->contexts[i];
		int rc;

		context->buffer_free = context->operation_free = ~0ull;
		context->buffer = mmap(NULL, BUFFER_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (context->buffer == MAP_FAILED) {
			context->buffer = NULL;
			return -ENOMEM;
		}
		madvise(context->buffer, BUFFER_PAGES * PAGE, MADV_DONTFORK);
		rc = region->store.calls->attach(&region->store, context);
		if (rc < 0)
			return rc;
	}
	return 0;
}

void contexts_close(struct drover_region *region)
{
	if (region->contexts == NULL)
		return;
	for (uint32_t i = 0; i < region->context_count; i++) {
		struct context *context = &region->contexts[i];

		region->store.calls->detach(&region->store, context);
		/* A transfer that never came back may still write here: better lost than given to somebody else. */
		if (context->buffer != NULL && atomic_load(&context->in_flight) == 0)
			munmap(context->buffer, BUFFER_PAGES * PAGE);
	}
	munmap(region->contexts, region->context_count * sizeof(struct context));
	region->contexts = NULL;
}

static int claim_this(struct context *context)
{
	uint32_t nobody = 0;

	return atomic_load_explicit(&context->claimed, memory_order_relaxed) == 0 &&
	       atomic_compare_exchange_strong_explicit(&context->claimed, &nobody, 1, memory_order_acquire,
						       memory_order_relaxed);
}

struct context *try_claim(struct drover_region *region)
{
	if (kept_context != NULL && kept_context >= region->contexts && kept_context < region->contexts + region->context_count)
		return kept_context;
	for (uint32_t i = 0; i < region->context_count; i++) {
		uint32_t at = (last_context + i) % region->context_count;

		if (claim_this(&region->contexts[at])) {
			last_context = at;
			return &region->contexts[at];
		}
	}
	return NULL;
}

struct context *claim(struct drover_region *region)
{
	for (uint32_t round = 0;; round++) {
		struct context *context = try_claim(region);

		if (context != NULL)
			return context;
		if (round < 100) {
			sched_yield();
		} else {
			struct timespec pause = { 0, 50000 };

			nanosleep(&pause, NULL);
		}
	}
}

void release(struct context *context)
{
	if (context != kept_context)
		atomic_store_explicit(&context->claimed, 0, memory_order_release);
}

struct context *keep(struct drover_region *region)
{
	return kept_context = claim(region);
}

void give_up(struct context *context)
{
	kept_context = NULL;
	release(context);
}

/* `count` neighbouring ones of the free bits: the first, or -1. */
static int find_run(uint64_t free_bits, uint32_t run)
{
	uint64_t starts = free_bits;

	for (uint32_t i = 1; i < run && starts != 0; i++)
		starts &= free_bits >> i;
	return starts == 0 ? -1 : __builtin_ctzll(starts);
}

static uint64_t run_bits(uint32_t first, uint32_t run)
{
	return (run >= 64 ? ~0ull : (1ull << run) - 1) << first;
}

int operation_take(struct context *context, uint32_t page_count, int with_buffer)
{
	int id = find_run(context->operation_free, 1);
	int buffer = with_buffer ? find_run(context->buffer_free, page_count) : 0;

	if (id < 0 || buffer < 0)
		return -1;
	context->operation_free &= ~run_bits((uint32_t)id, 1);
	if (with_buffer)
		context->buffer_free &= ~run_bits((uint32_t)buffer, page_count);
	context->operations[id] = (struct operation){ .buffer = (uint16_t)buffer, .count = (uint16_t)page_count };
	return id;
}

void operation_free(struct context *context, uint32_t id, int with_buffer)
{
	struct operation *operation = &context->operations[id];

	if (with_buffer)
		context->buffer_free |= run_bits(operation->buffer, operation->count);
	operation->kind = FREE;
	context->operation_free |= run_bits(id, 1);
}

void fetch_queue(struct drover_region *region, struct context *context, uint32_t id, uint64_t page, uint32_t page_count,
		 int writable, uint32_t demand, uint32_t trace)
{
	struct operation *operation = &context->operations[id];

	operation->page = page;
	operation->started = now();
	operation->kind = READ;
	operation->writable = writable != 0;
	operation->demand = (uint8_t)demand;
	operation->trace = (uint8_t)trace;
	context->reads++;
	atomic_fetch_add_explicit(&context->in_flight, 1, memory_order_relaxed);
	count(&region->control->stats.read_calls, 1);
	count(&region->control->stats.read_bytes, page_count * PAGE);
	region->store.calls->queue(&region->store, context, id, 0, context->buffer + operation->buffer * PAGE,
				   (uint32_t)(page_count * PAGE), page * PAGE, 1);
}

void context_submit(struct drover_region *region, struct context *context)
{
	region->store.calls->submit(&region->store, context);
}

/* -- completions ------------------------------------------------------------------------------------------ */

/* The bits of a page that comes in: how long it may stay, judged by how long it was away. */
static uint32_t bits_of_arrival(struct drover_region *region, uint32_t word, int demand)
{
	static const uint8_t credits[LEVEL_MAX + 1] = { 0, 1, 2, 3, 5, 8, 11, 15 };
	uint64_t limit = region_limit(region);
	uint32_t clock = (uint32_t)(atomic_load_explicit(&region->evictions, memory_order_relaxed) * 8 / limit);
	uint32_t away = (clock - (word >> STAMP_SHIFT)) & 0x7ffu;
	uint32_t level = (word & LEVEL_MASK) >> LEVEL_SHIFT;
	uint32_t credit, credit_max = knob(&region->control->heat_max);

	if (demand && away <= 8)
		count(&region->control->stats.refaults, 1);
	if (demand && away <= 2)
		level = away == 0 && level + 2 <= LEVEL_MAX ? level + 2 : level < LEVEL_MAX ? level + 1 : LEVEL_MAX;
	else if (away > 16)
		level /= 2;
	else if (away > 4 && level > 0)
		level--;
	credit = demand ? credits[level] : 1;
	credit = credit < credit_max ? credit : credit_max;
	return (word & ~(STATE_MASK | CREDIT_MASK | LEVEL_MASK)) | credit << CREDIT_SHIFT | level << LEVEL_SHIFT;
}

/* A BUSY page that cannot be had: SIGBUS from now on. */
void lose(struct drover_region *region, uint64_t page, uint32_t why, int error)
{
	region_event(region, page, why, error);
	memory_poison(region, page);
	unreserve(region, 1);
	publish(region, page, word_at(region, page), DROVER_PAGE_POISON);
}

/* Maps `page_count` verified pages. */
static void arrive(struct drover_region *region, const struct operation *operation, uint32_t first, uint32_t page_count,
		   const uint8_t *bytes)
{
	int protect = region->dirty_mode == DROVER_DIRTY_ASYNC ||
		      (region->dirty_mode == DROVER_DIRTY_WP && !operation->writable);
	uint32_t state = protect && region->dirty_mode == DROVER_DIRTY_WP ? DROVER_PAGE_CLEAN : DROVER_PAGE_DIRTY;
	uint32_t end = first + page_count;

	while (first < end) {
		uint64_t done;
		int rc = memory_fill(region, operation->page + first, bytes + first * PAGE, end - first, protect, &done);

		for (uint64_t i = 0; i < done; i++) {
			uint64_t page = operation->page + first + i;
			int demand = first + i == operation->demand;

			region_trace(region, page, demand ? operation->trace : DROVER_TRACE_PREFETCH);
			count(demand ? &region->control->stats.fetches : &region->control->stats.prefetched, 1);
			publish(region, page, bits_of_arrival(region, word_at(region, page), demand), state);
		}
		first += (uint32_t)done;
		if (rc < 0 && first < end) {
			uint64_t page = operation->page + first;

			if (region->fault_mode == DROVER_FAULT_THREAD) {
				/* Nobody counts the tries of a toucher that the kernel holds. */
				lose(region, page, DROVER_EVENT_KERNEL, -rc);
			} else {
				region_event(region, page, DROVER_EVENT_KERNEL, -rc);
				unreserve(region, 1);
				publish(region, page, word_at(region, page), DROVER_PAGE_COLD);
			}
			first++;
		}
	}
}

static void finish_read(struct drover_region *region, struct context *context, const struct operation *operation,
			int32_t got)
{
	const uint8_t *bytes = context->buffer + operation->buffer * PAGE;
	uint32_t good = 0; /* pages before this one that are verified and not mapped yet */

	histogram_add(region->control->device_histogram, now() - operation->started);
	for (uint32_t i = 0; i < operation->count; i++) {
		uint64_t page = operation->page + i;
		uint32_t why = 0;
		int error = 0;

		if (got < 0) {
			why = DROVER_EVENT_READ;
			error = -got;
		} else if ((uint64_t)got < (i + 1) * PAGE) {
			why = DROVER_EVENT_SHORT;
			error = ENODATA;
		} else if (page_hash(region, page, content_hash(region, bytes + i * PAGE)) != region->hashes[page]) {
			why = DROVER_EVENT_CHECKSUM;
			error = EBADMSG;
		} else {
			good++;
			continue;
		}
		if (good > 0)
			arrive(region, operation, i - good, good, bytes);
		good = 0;
		lose(region, page, why, error);
	}
	if (good > 0)
		arrive(region, operation, operation->count - good, good, bytes);
}

/* Copies of mapped pages are in the file now, or not. */
static void finish_flush(struct drover_region *region, struct context *context, const struct operation *operation, int ok,
			 int error)
{
	for (uint32_t i = 0; i < operation->count; i++) {
		uint64_t page = operation->page + i;
		uint32_t word = word_at(region, page), state = DROVER_PAGE_DIRTY;

		if (!ok) {
			region->hashes[page] = 0;
			context->failures++;
			region_event(region, page, DROVER_EVENT_WRITE, error);
			if (region->dirty_mode == DROVER_DIRTY_WP)
				memory_protect(region, page, 0);
		} else if (region->dirty_mode == DROVER_DIRTY_WP && (word & PIN_MASK) == 0) {
			state = DROVER_PAGE_CLEAN;
		}
		publish(region, page, word, state);
	}
}

void finish_move(struct drover_region *region, struct context *context, const struct operation *operation, int32_t got)
{
	for (uint32_t i = 0; i < operation->count; i++) {
		uint64_t page = operation->page + i;

		if (got < 0)
			context->failures++;
		publish(region, page, word_at(region, page), DROVER_PAGE_COLD);
	}
}

static void finish(struct drover_region *region, struct context *context, const struct completion *completion,
		   uint32_t *drop_count)
{
	struct operation operation = context->operations[completion->id];
	int ok = completion->result == (int32_t)(operation.count * PAGE);
	int error = completion->result < 0 ? -completion->result : EIO;

	switch (operation.kind) {
	case READ:
		context->reads--;
		finish_read(region, context, &operation, completion->result);
		break;
	case WRITE:
		if (!ok)
			for (uint32_t i = 0; i < operation.count; i++)
				region_event(region, operation.page + i, DROVER_EVENT_WRITE, error);
		finish_write(region, context, &operation, ok, drop_count);
		break;
	case FLUSH:
		finish_flush(region, context, &operation, ok, error);
		break;
	case MOVE:
		finish_move(region, context, &operation, completion->result);
		break;
	default: /* given up long ago */
		break;
	}
	operation_free(context, completion->id, operation.kind != WRITE);
	atomic_fetch_sub_explicit(&context->in_flight, 1, memory_order_release);
}

uint32_t context_reap(struct drover_region *region, struct context *context, uint64_t nanos)
{
	uint32_t drop_count = 0;
	uint32_t taken = region->store.calls->reap(&region->store, context, nanos, context->completions, OPERATIONS);

	for (uint32_t i = 0; i < taken; i++)
		finish(region, context, &context->completions[i], &drop_count);
	finish_drops(region, context, &drop_count);
	return taken;
}

/* Gives up what the device has had for too long. A write keeps its shadow: the page can be taken back from there. */
static void expire(struct drover_region *region, struct context *context)
{
	uint64_t time = now();

	for (uint32_t id = 0; id < OPERATIONS; id++) {
		struct operation *operation = &context->operations[id];

		if ((context->operation_free >> id & 1) != 0 || operation->kind == ABANDONED ||
		    time - operation->started < region->device_nanos)
			continue;
		operation->started = time;
		if (operation->kind == READ) {
			context->reads--;
			for (uint32_t i = 0; i < operation->count; i++)
				lose(region, operation->page + i, DROVER_EVENT_READ, ETIMEDOUT);
			operation->kind = ABANDONED;
		} else if (operation->kind == FLUSH) {
			finish_flush(region, context, operation, 0, ETIMEDOUT);
			operation->kind = ABANDONED;
		} else {
			region_event(region, operation->page, DROVER_EVENT_WRITE, ETIMEDOUT);
		}
	}
}

/*
 * A spinning thread that did not run for so long has lost its processor to others. Who spins uses its share up and waits
 * for whole slices of the others' time (4 ms); who blocks is let in at once. So it blocks for some reads then, for
 * twice as many each time it happens again soon.
 */
#define STOLEN_NANOS 300000u
#define PENALTY_MIN 32u
#define PENALTY_MAX 4096u

/* One look at the ring: spins until `spin_until`, blocks from then on. */
static void wait_step(struct drover_region *region, struct context *context, uint64_t spin_until)
{
	if (context_reap(region, context, 0) > 0)
		return;
	if (now() < spin_until) {
		for (int i = 0; i < 4; i++)
			pause_briefly();
	} else if (context_reap(region, context, 100000000u) == 0) {
		expire(region, context);
	}
}

void context_wait(struct drover_region *region, struct context *context, uint32_t id, uint64_t started)
{
	const struct operation *operation = &context->operations[id];
	uint64_t began = operation->started, last = now();
	uint64_t spin_until = started + knob(&region->control->spin_us) * 1000ull;

	if (context->crowded > 0) {
		context->crowded--;
		spin_until = 0;
	} else {
		context->penalty -= (context->penalty + 63) / 64;
	}
	while (operation->kind == READ && operation->started == began) {
		uint64_t time;

		wait_step(region, context, spin_until);
		time = now();
		if (last < spin_until && time - last > STOLEN_NANOS) {
			context->penalty = context->penalty < PENALTY_MAX ? 2 * context->penalty + PENALTY_MIN : PENALTY_MAX;
			context->crowded = context->penalty;
			spin_until = 0;
		}
		last = time;
	}
}

void context_wait_reads(struct drover_region *region, struct context *context)
{
	uint64_t spin_until = now() + knob(&region->control->spin_us) * 1000ull;

	while (context->reads > 0)
		wait_step(region, context, spin_until);
}

void context_drain(struct drover_region *region, struct context *context)
{
	uint64_t started = now();

	while (atomic_load_explicit(&context->in_flight, memory_order_acquire) > 0) {
		if (context_reap(region, context, 100000000u) > 0)
			continue;
		expire(region, context);
		if (now() - started > region->device_nanos + region->device_nanos / 8)
			return;
	}
}

uint32_t help(struct drover_region *region)
{
	uint32_t finished = 0;

	for (uint32_t i = 0; i < region->context_count; i++) {
		struct context *context = &region->contexts[i];

		if (atomic_load_explicit(&context->in_flight, memory_order_relaxed) == 0 ||
		    (context != kept_context && !claim_this(context)))
			continue;
		finished += context_reap(region, context, 0);
		if (finished == 0)
			expire(region, context);
		release(context);
	}
	return finished;
}

void wait_while_busy(struct drover_region *region, uint64_t page, uint32_t *round)
{
	for (int i = 0; i < 32 && state_of(word_at(region, page)) == DROVER_PAGE_BUSY; i++)
		pause_briefly();
	++*round;
	if (state_of(word_at(region, page)) != DROVER_PAGE_BUSY || help(region) > 0)
		return;
	if (*round < 200) {
		sched_yield();
	} else {
		struct timespec pause = { 0, 50000 };

		nanosleep(&pause, NULL);
	}
}
