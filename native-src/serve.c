/*
 * serve.c - makes one page present, whatever state it is in: fill, fetch, promote, steal, unprotect, or wait.
 *
 * Runs in the SIGBUS handler, in the fault thread and in calls alike: no allocation, no lock, no big frame. Each step
 * tries one move; who loses the race for it looks at the state again. Every loop is bounded by the device, by the room
 * (make_room) or by a number of tries, so a touch ends with the page or with an error.
 */
#include "region.h"

#include <sched.h>

/* Present by our books and missing by the kernel's, so often in a row for one thread: somebody took it away. */
#define REPEATS_MAX 64u
/* A fetched page that does not get mapped: so many tries. */
#define TRIES_MAX 4u

static const _Alignas(DROVER_PAGE_SIZE) uint8_t zeros[DROVER_PAGE_SIZE];

/* Pages that this thread was called for though they are mapped by our books, and how often in a row. */
#define SUSPECTS 4u
static __thread struct {
	uint64_t page;
	uint32_t times;
} suspects[SUSPECTS] __attribute__((tls_model("initial-exec")));

static int protects(const struct drover_region *region)
{
	return region->dirty_mode == DROVER_DIRTY_ASYNC;
}

/* Reserves a frame without a context at hand. */
static int reserve_one(struct drover_region *region)
{
	struct context *context;
	int rc;

	if (try_reserve(region, 1))
		return 0;
	context = claim(region);
	rc = make_room(region, context, 1);
	release(context);
	return rc;
}

static void refuse(struct drover_region *region, uint64_t page, uint32_t why, int rc)
{
	region_event(region, page, why, -rc);
}

/* EMPTY: a page of zeros. 1 when somebody else was faster. */
static int fill(struct drover_region *region, uint64_t page, uint32_t word)
{
	uint64_t done;
	int rc = reserve_one(region);

	if (rc < 0) {
		refuse(region, page, DROVER_EVENT_ROOM, rc);
		return rc;
	}
	if (!take(region, page, word)) {
		unreserve(region, 1);
		return 1;
	}
	rc = memory_fill(region, page, zeros, 1, protects(region), &done);
	if (rc < 0) {
		refuse(region, page, DROVER_EVENT_KERNEL, rc);
		unreserve(region, 1);
		publish(region, page, word, DROVER_PAGE_EMPTY);
		return rc;
	}
	count(&region->control->stats.fills, 1);
	region_trace(region, page, DROVER_TRACE_FILL);
	publish(region, page, word, DROVER_PAGE_DIRTY);
	return 0;
}

/* Takes neighbours along: COLD ones of the same aligned group, as far as they are in one piece. */
static uint64_t read_around(struct drover_region *region, uint64_t page, uint32_t *page_count)
{
	uint32_t around = knob(&region->control->read_around);
	uint64_t first = page, low, high;

	*page_count = 1;
	if (around < 2 || around > 16)
		return page;
	low = page & ~(uint64_t)(around - 1);
	high = low + around < region->pages ? low + around : region->pages;
	for (uint64_t next = page + 1; next < high; next++) {
		uint32_t word = word_at(region, next);

		if (state_of(word) != DROVER_PAGE_COLD || !try_reserve(region, 1))
			break;
		if (!take(region, next, word)) {
			unreserve(region, 1);
			break;
		}
		++*page_count;
	}
	while (first > low) {
		uint32_t word = word_at(region, first - 1);

		if (state_of(word) != DROVER_PAGE_COLD || !try_reserve(region, 1))
			break;
		if (!take(region, first - 1, word)) {
			unreserve(region, 1);
			break;
		}
		first--;
		++*page_count;
	}
	return first;
}

/* COLD: reads it. 1 when somebody else was faster; 0 says only that the page was tried. */
static int fetch(struct drover_region *region, uint64_t page, uint32_t word, int write, int quiet, uint64_t started)
{
	struct context *context = claim(region);
	uint64_t first;
	uint32_t page_count;
	int id, rc;

	if (!take(region, page, word)) {
		release(context);
		return 1;
	}
	if (!try_reserve(region, 1)) {
		rc = make_room(region, context, 1);
		if (rc < 0) {
			refuse(region, page, DROVER_EVENT_ROOM, rc);
			publish(region, page, word, DROVER_PAGE_COLD);
			release(context);
			return rc;
		}
	}
	first = read_around(region, page, &page_count);
	/* Prefetches may have the whole buffer: they come back, or expire. */
	while ((id = operation_take(context, page_count, 1)) < 0)
		context_reap(region, context, 1000000);
	fetch_queue(region, context, (uint32_t)id, first, page_count, write, quiet ? 255 : (uint32_t)(page - first),
		    write ? DROVER_TRACE_WRITE : DROVER_TRACE_READ);
	context_submit(region, context);
	evict_meanwhile(region, context, (uint32_t)id, page_count);
	context_wait(region, context, (uint32_t)id, started);
	release(context);
	return 0;
}

/* A touched page on standby is in use: it will stay longer. */
static uint32_t warmer(struct drover_region *region, uint32_t word)
{
	uint32_t level = (word & LEVEL_MASK) >> LEVEL_SHIFT, credit = knob(&region->control->heat_max);

	level = level < LEVEL_MAX ? level + 1 : LEVEL_MAX;
	credit = credit < level ? credit : level;
	return (word & ~(LEVEL_MASK | CREDIT_MASK)) | level << LEVEL_SHIFT | credit << CREDIT_SHIFT;
}

/* WRITEBACK in a private region: a copy of the shadow, which the write keeps. 1 when it has to wait. */
static int steal(struct drover_region *region, uint64_t page, uint32_t word)
{
	uint64_t done;
	int rc;

	if (!try_reserve(region, 1)) {
		/* No waiting for room here: the write's own end makes the page COLD. */
		if (help(region) == 0)
			sched_yield();
		return 1;
	}
	if (!take(region, page, word)) {
		unreserve(region, 1);
		return 1;
	}
	rc = memory_fill(region, page, region->shadow + page * PAGE, 1, protects(region), &done);
	if (rc < 0) {
		refuse(region, page, DROVER_EVENT_KERNEL, rc);
		unreserve(region, 1);
		publish(region, page, word, DROVER_PAGE_WRITEBACK);
		return rc;
	}
	count(&region->control->stats.promotions, 1);
	region_trace(region, page, DROVER_TRACE_PROMOTE);
	publish(region, page, warmer(region, word), DROVER_PAGE_DIRTY);
	return 0;
}

/* STANDBY, STANDBY_DIRTY, and WRITEBACK of a shared region: back where it was. 1 when somebody else was faster. */
static int promote(struct drover_region *region, uint64_t page, uint32_t word)
{
	struct iovec vector;
	uint64_t done;
	int rc;

	if (!take(region, page, word))
		return 1;
	rc = memory_promote(region, page, 1, &done);
	if (rc == -ENOENT) {
		lose(region, page, DROVER_EVENT_LOST, EFAULT);
		return 1;
	}
	if (rc < 0) {
		/* EBUSY: something still holds the frame. For a moment it is in RAM twice, and over the cap if need be. */
		rc = memory_fill(region, page, region->shadow + page * PAGE, 1, protects(region), &done);
		if (rc == 0)
			memory_drop(region, &page, 1, 1, &vector);
	}
	if (rc < 0) {
		refuse(region, page, DROVER_EVENT_KERNEL, rc);
		publish(region, page, word, state_of(word));
		return rc;
	}
	count(&region->control->stats.promotions, 1);
	region_trace(region, page, DROVER_TRACE_PROMOTE);
	publish(region, page, warmer(region, word), DROVER_PAGE_DIRTY);
	return 0;
}

/* Whether this thread keeps being called for a page that should be there. */
static int is_suspect(uint64_t page)
{
	uint32_t at = (uint32_t)(page % SUSPECTS);

	if (suspects[at].page != page)
		suspects[at].times = 0;
	suspects[at].page = page;
	return ++suspects[at].times % REPEATS_MAX == 0;
}

/*
 * Asks the kernel's page tables about a mapped page that we have BUSY. Where our books are wrong they give way: what is in
 * the shadow is on standby, and what is nowhere is lost.
 */
static void look_closer(struct drover_region *region, uint64_t page, uint32_t word)
{
	if (region->shared || memory_is_mapped(region, page))
		publish(region, page, word, state_of(word));
	else if (memory_is_shadowed(region, page))
		publish(region, page, word, DROVER_PAGE_STANDBY_DIRTY);
	else
		lose(region, page, DROVER_EVENT_LOST, EFAULT);
}

int serve(struct drover_region *region, uint64_t page, int write, int protection, uint64_t touched)
{
	struct drover_region_stats *stats = &region->control->stats;
	uint64_t started = touched == QUIET ? now() : touched;
	int quiet = touched == QUIET;
	uint32_t round = 0, tries = 0;
	int served = 0, rc = 0;

	for (;;) {
		uint32_t word = word_at(region, page);

		switch (state_of(word)) {
		case DROVER_PAGE_EMPTY:
			rc = fill(region, page, word);
			served = 1;
			break;
		case DROVER_PAGE_COLD:
			rc = tries++ < TRIES_MAX ? fetch(region, page, word, write, quiet, started) : -EIO;
			served = 1;
			break;
		case DROVER_PAGE_BUSY:
			if (round == 0)
				count(&stats->waits, 1);
			wait_while_busy(region, page, &round);
			served = 1;
			break;
		case DROVER_PAGE_WRITEBACK:
			if (!region->shared) {
				rc = steal(region, page, word);
				if (rc == 0)
					goto done;
				break;
			}
			/* fall through */
		case DROVER_PAGE_STANDBY:
		case DROVER_PAGE_STANDBY_DIRTY:
			rc = promote(region, page, word);
			if (rc == 0)
				goto done;
			break;
		case DROVER_PAGE_CLEAN:
			if (protection || (quiet && write)) {
				/* Through BUSY: so the page cannot leave and come back protected in between. */
				if (!take(region, page, word))
					continue;
				memory_protect(region, page, 0);
				count(&stats->protect_faults, 1);
				publish(region, page, word, DROVER_PAGE_DIRTY);
				goto done;
			}
			/* fall through */
		case DROVER_PAGE_DIRTY:
			if (!served && !quiet && !protection && (word & SHADOW) == 0 && is_suspect(page) &&
			    take(region, page, word)) {
				look_closer(region, page, word);
				if (!is_mapped(word_at(region, page)))
					continue;
			}
			goto done;
		default: /* POISON */
			if (!quiet)
				region_event(region, page, DROVER_EVENT_POISONED, EIO);
			return -EIO;
		}
		if (rc < 0)
			return rc;
	}
done:
	if (!quiet) {
		uint64_t nanos = now() - started;

		count(&stats->faults, 1);
		count(&stats->stall_nanos, nanos);
		histogram_add(region->control->fault_histogram, nanos);
	}
	return 0;
}

uint32_t start_reads(struct drover_region *region, struct context *context, const uint64_t *pages, uint64_t page_count,
		     int demand, int writable, uint64_t *looked)
{
	uint64_t at = 0, budget = 16384;
	uint32_t started = 0;

	while (at < page_count) {
		uint64_t first = pages[at];
		uint32_t run = 0;
		int id;

		while (at < page_count && run < 16 && pages[at] == first + run && (run == 0 || !demand)) {
			uint32_t word = word_at(region, pages[at]);

			if (state_of(word) != DROVER_PAGE_COLD)
				break;
			if (!try_reserve(region, 1)) {
				/* One try to make room; it is best effort. */
				if (budget == 0 || (evict_some(region, context, region_batch(region), &budget) == 0 &&
						    context_reap(region, context, 0) == 0))
					budget = 0;
				if (!try_reserve(region, 1))
					break;
			}
			if (!take(region, pages[at], word)) {
				unreserve(region, 1);
				break;
			}
			at++;
			run++;
		}
		if (run == 0) {
			if (budget == 0)
				break;
			at++;
			continue;
		}
		id = operation_take(context, run, 1);
		if (id < 0) {
			for (uint32_t i = 0; i < run; i++)
				publish(region, first + i, word_at(region, first + i), DROVER_PAGE_COLD);
			unreserve(region, run);
			at -= run;
			break;
		}
		fetch_queue(region, context, (uint32_t)id, first, run, writable, demand ? 0 : 255,
			    writable ? DROVER_TRACE_WRITE : DROVER_TRACE_READ);
		started += run;
	}
	*looked = at;
	if (started > 0)
		context_submit(region, context);
	return started;
}
