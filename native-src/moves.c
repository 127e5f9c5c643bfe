/*
 * moves.c - calls that move cold pages between stores: move, mend, retire.
 *
 * A page that moves is BUSY from the read at its old place until the write at the new one is done, and COLD afterwards,
 * wherever that failed: so a toucher waits as long as two requests take, and never reads from a place that is being given
 * up. Its bytes pass through the context's buffer and count against no limit. Whoever moves keeps the context until all
 * its moves are over, so that only it decides when one has taken too long.
 */
#include "tiers.h"

#include <string.h>

#define MOVE_PAGES_MAX (1u << 20)
#define MEND_PAGES_MAX 256u
#define NOT_MOVED(context) ((context)->failures)

/* Pages in work by one call. */
struct mover {
	struct drover_region *region;
	struct tiers *tiers;
	struct context *context;
	uint32_t target;
	uint32_t run; /* pages that are BUSY and not queued yet, from `first` on */
	uint64_t first;
	uint64_t started, failed;
};

static struct tiers *begin(struct drover_region *region, sigset_t *saved, int *rc)
{
	struct tiers *tiers;

	*rc = region_begin(region, saved);
	if (*rc < 0)
		return NULL;
	tiers = tiers_of(&region->store);
	if (tiers == NULL) {
		region_end(region, saved);
		*rc = -EINVAL;
	}
	return tiers;
}

/* -- moves in flight -------------------------------------------------------------------------------------- */

/* Gives up what has taken too long: the pages are where they were. */
static void expire_moves(struct mover *mover)
{
	struct context *context = mover->context;

	for (uint32_t id = 0; id < OPERATIONS; id++) {
		struct operation *operation = &context->operations[id];

		if ((context->operation_free >> id & 1) != 0 || operation->kind != MOVE ||
		    now() - operation->started < mover->region->device_nanos)
			continue;
		tiers_cancel(&mover->region->store, context, id);
		finish_move(mover->region, context, operation, -ETIMEDOUT);
		operation->kind = ABANDONED;
	}
}

static uint32_t moves_in_flight(const struct context *context)
{
	uint32_t found = 0;

	for (uint32_t id = 0; id < OPERATIONS; id++)
		found += (context->operation_free >> id & 1) == 0 && context->operations[id].kind == MOVE;
	return found;
}

static void wait_one(struct mover *mover)
{
	if (context_reap(mover->region, mover->context, 100000000) == 0)
		expire_moves(mover);
}

static void open_mover(struct mover *mover)
{
	mover->context = claim(mover->region);
	NOT_MOVED(mover->context) = 0;
}

static void send_run(struct mover *mover)
{
	struct context *context = mover->context;
	struct operation *operation;
	int id;

	if (mover->run == 0)
		return;
	while ((id = operation_take(context, mover->run, 1)) < 0)
		wait_one(mover);
	operation = &context->operations[id];
	operation->page = mover->first;
	operation->started = now();
	operation->kind = MOVE;
	operation->demand = (uint8_t)mover->target;
	atomic_fetch_add_explicit(&context->in_flight, 1, memory_order_relaxed);
	mover->started += mover->run;
	tiers_move(&mover->region->store, context, (uint32_t)id, mover->first, mover->run,
		   context->buffer + operation->buffer * PAGE, mover->target);
	context_submit(mover->region, context);
	mover->run = 0;
}

/* Takes the page and moves it, if it is COLD now. */
static int move_page(struct mover *mover, uint64_t page)
{
	uint32_t word = word_at(mover->region, page);

	if (mover->run > 0 && (page != mover->first + mover->run || mover->run == RUN_MAX))
		send_run(mover);
	if (state_of(word) != DROVER_PAGE_COLD || !take(mover->region, page, word))
		return 0;
	if (mover->run == 0)
		mover->first = page;
	mover->run++;
	return 1;
}

static void close_mover(struct mover *mover)
{
	send_run(mover);
	while (moves_in_flight(mover->context) > 0)
		wait_one(mover);
	mover->failed += NOT_MOVED(mover->context);
	release(mover->context);
}

/* -- move ------------------------------------------------------------------------------------------------- */

int64_t drover_region_move(struct drover_region *region, const uint64_t *pages, size_t page_count, uint32_t store)
{
	struct mover mover = { .region = region, .target = store };
	sigset_t saved;
	int64_t there = 0;
	int rc;

	if (page_count > MOVE_PAGES_MAX)
		return -EINVAL;
	mover.tiers = begin(region, &saved, &rc);
	if (mover.tiers == NULL)
		return rc;
	if (store >= atomic_load(&mover.tiers->count) || atomic_load(&mover.tiers->tiers[store].state) > DROVER_STORE_DOWN)
		rc = -EINVAL;
	for (size_t i = 0; i < page_count && rc == 0; i++)
		if (pages[i] >= region->pages)
			rc = -EINVAL;
	/* A context at a time for so many pages, that others get one too. */
	for (size_t at = 0; at < page_count && rc == 0;) {
		uint64_t before = mover.failed;

		open_mover(&mover);
		for (uint32_t i = 0; i < BUFFER_PAGES && at < page_count; i++, at++)
			move_page(&mover, pages[at]);
		close_mover(&mover);
		/* The store refuses: the rest would only fail too. */
		if (mover.failed - before == BUFFER_PAGES)
			break;
	}
	for (size_t i = 0; i < page_count && rc == 0; i++)
		there += state_of(word_at(region, pages[i])) == DROVER_PAGE_COLD && (seats_of(mover.tiers, pages[i]) >> store & 1) != 0;
	region_end(region, &saved);
	return rc < 0 ? rc : there;
}

/* -- mend ------------------------------------------------------------------------------------------------- */

/* Whether the copies that are left are enough for a page to leave RAM without being written. */
static int is_covered(struct tiers *tiers, uint64_t page)
{
	uint32_t held = seats_of(tiers, page), donors = 0;

	for (uint32_t t = 0; held >> t != 0; t++) {
		if ((held >> t & 1) == 0)
			continue;
		if (!tiers->tiers[t].donor)
			return 1;
		donors += (uint32_t)is_worth(&tiers->tiers[t]);
	}
	return donors >= tiers->copies && (tiers->file == NO_TIER || tiers->copies >= 2);
}

/* A BUSY page in RAM loses a copy: when it leaves it has to be written, unless there are others. */
static void unsettle(struct drover_region *region, struct tiers *tiers, uint64_t page, uint32_t word)
{
	uint32_t state = state_of(word);

	if (is_covered(tiers, page) || state == DROVER_PAGE_POISON || state == DROVER_PAGE_EMPTY) {
		publish(region, page, word, state);
		return;
	}
	region->hashes[page] = 0;
	if (state == DROVER_PAGE_CLEAN) {
		memory_protect(region, page, 0);
		state = DROVER_PAGE_DIRTY;
	} else if (state == DROVER_PAGE_STANDBY) {
		state = DROVER_PAGE_STANDBY_DIRTY;
	}
	publish(region, page, word, state);
}

/* Asks those that are down and due whether they answer again. */
static void probe_tiers(struct drover_region *region, struct tiers *tiers)
{
	struct context *context = claim(region);

	if (region->store.calls->tend != NULL)
		region->store.calls->tend(&region->store, context);
	for (uint32_t t = 0; t < atomic_load(&tiers->count); t++) {
		uint64_t time = now();
		struct operation *operation;
		int id;

		if (atomic_load(&tiers->tiers[t].state) != DROVER_STORE_DOWN || !tier_answers(&tiers->tiers[t], time))
			continue;
		id = operation_take(context, 1, 1);
		if (id < 0)
			break;
		/* Nobody waits for it: whoever has the context next hears the answer. */
		operation = &context->operations[id];
		operation->started = time;
		operation->kind = ABANDONED;
		atomic_fetch_add_explicit(&context->in_flight, 1, memory_order_relaxed);
		tiers_probe(&region->store, context, (uint32_t)id, context->buffer + operation->buffer * PAGE, t);
	}
	context_submit(region, context);
	context_reap(region, context, 1000000);
	release(context);
}

/* A page in RAM with too few copies is not to leave as one that needs no writing. */
static void write_again(struct drover_region *region, struct tiers *tiers, uint64_t page)
{
	uint32_t word = word_at(region, page);

	if ((is_mapped(word) || state_of(word) == DROVER_PAGE_STANDBY) && (word & SHADOW) == 0 && take(region, page, word))
		unsettle(region, tiers, page, word);
}

/*
 * Where only the donor that has a page anyway has room, a page of other donors moves there. Nobody keeps that page from
 * being the next to lack a copy, so this is done for as many as lack one now. Returns how many were begun to be moved.
 */
static uint64_t make_way(struct drover_region *region, struct tiers *tiers, uint64_t first, uint64_t page_count)
{
	struct mover mover = { .region = region, .tiers = tiers, .target = NO_TIER };
	uint64_t other = 0, moved = 0;

	for (uint64_t page = first; page < first + page_count && moved < MEND_PAGES_MAX; page++) {
		uint32_t room = crowded_at(tiers, page);

		if (room == NO_TIER || (mover.target != NO_TIER && room != mover.target))
			continue;
		if (mover.target == NO_TIER) {
			mover.target = room;
			open_mover(&mover);
		}
		while (other < region->pages && !(can_make_way(tiers, other, room) && move_page(&mover, other)))
			other++;
		if (other++ >= region->pages)
			break;
		moved++;
	}
	if (mover.target != NO_TIER)
		close_mover(&mover);
	return moved > mover.failed ? moved - mover.failed : 0;
}

int64_t drover_region_mend(struct drover_region *region, uint64_t first, uint64_t page_count)
{
	struct mover mover = { .region = region, .target = ANY_TIER };
	uint64_t made;
	sigset_t saved;
	int64_t thin = 0;
	int rc;

	mover.tiers = begin(region, &saved, &rc);
	if (mover.tiers == NULL)
		return rc;
	if (first > region->pages || page_count > region->pages - first) {
		region_end(region, &saved);
		return -EINVAL;
	}
	if (atomic_exchange(&mover.tiers->changing, 1) == 0) {
		probe_tiers(region, mover.tiers);
		atomic_store(&mover.tiers->changing, 0);
	}
	made = make_way(region, mover.tiers, first, page_count);
	open_mover(&mover);
	for (uint64_t page = first; page < first + page_count && mover.started + mover.run < MEND_PAGES_MAX; page++) {
		if (!is_thin(mover.tiers, page))
			continue;
		if (state_of(word_at(region, page)) == DROVER_PAGE_COLD)
			move_page(&mover, page);
		else
			write_again(region, mover.tiers, page);
	}
	close_mover(&mover);
	for (uint64_t page = first; page < first + page_count; page++)
		thin += state_of(word_at(region, page)) == DROVER_PAGE_COLD &&
			(is_thin(mover.tiers, page) || (made > 0 && crowded_at(mover.tiers, page) != NO_TIER));
	region_end(region, &saved);
	return thin;
}

/* -- retire ----------------------------------------------------------------------------------------------- */

/* Until nobody moves the page; then it is BUSY by us. The word it had. */
static uint32_t take_settled(struct mover *mover, uint64_t page)
{
	for (uint32_t round = 0;; round++) {
		uint32_t word = word_at(mover->region, page);

		if (state_of(word) != DROVER_PAGE_BUSY && state_of(word) != DROVER_PAGE_WRITEBACK && (word & SHADOW) == 0) {
			if (take(mover->region, page, word))
				return word;
			continue;
		}
		/* Perhaps by this very call, or by what the context had in flight before. */
		send_run(mover);
		context_reap(mover->region, mover->context, 0);
		wait_while_busy(mover->region, page, &round);
		/* Its write is in flight, perhaps where nobody else looks. */
		if (state_of(word_at(mover->region, page)) != DROVER_PAGE_BUSY && help(mover->region) == 0)
			wait_one(mover);
	}
}

/* Takes the page's copy at `t` away. Whether it has to be moved, and was begun to be. */
static void retire_page(struct mover *mover, uint64_t page, uint32_t t, int lost)
{
	struct tiers *tiers = mover->tiers;

	for (;;) {
		uint32_t word;

		if (!lost && state_of(word_at(mover->region, page)) == DROVER_PAGE_COLD) {
			if (move_page(mover, page))
				return;
			continue;
		}
		word = take_settled(mover, page);
		if (!lost && state_of(word) == DROVER_PAGE_COLD) {
			publish(mover->region, page, word, DROVER_PAGE_COLD);
			continue;
		}
		seat_drop(tiers, page, t);
		if (state_of(word) == DROVER_PAGE_COLD)
			publish(mover->region, page, word, DROVER_PAGE_COLD);
		else
			unsettle(mover->region, tiers, page, word);
		return;
	}
}

static uint64_t pages_at(struct drover_region *region, const struct tiers *tiers, uint32_t t)
{
	uint64_t held = 0;

	for (uint64_t page = 0; page < region->pages; page++)
		held += seats_of(tiers, page) >> t & 1;
	return held;
}

int64_t drover_region_retire(struct drover_region *region, uint32_t store, uint32_t flags, uint64_t limit)
{
	struct mover mover = { .region = region, .target = ANY_TIER };
	int lost = (flags & DROVER_RETIRE_LOST) != 0;
	sigset_t saved;
	uint64_t left, done = 0;
	struct tier *tier;
	int rc;

	if ((flags & ~DROVER_RETIRE_LOST) != 0)
		return -EINVAL;
	mover.tiers = begin(region, &saved, &rc);
	if (mover.tiers == NULL)
		return rc;
	tier = &mover.tiers->tiers[store < TIERS_MAX ? store : 0];
	if (store >= atomic_load(&mover.tiers->count) || !tier->donor) {
		region_end(region, &saved);
		return -EINVAL;
	}
	if (lost)
		atomic_store(&tier->state, DROVER_STORE_GONE);
	else if (atomic_load(&tier->state) != DROVER_STORE_GONE)
		atomic_store(&tier->state, DROVER_STORE_RETIRING);
	for (uint64_t page = 0; page < region->pages && done < limit;) {
		uint64_t before = mover.failed;

		open_mover(&mover);
		for (uint32_t i = 0; i < BUFFER_PAGES && page < region->pages && done < limit; page++) {
			if ((seats_of(mover.tiers, page) >> store & 1) == 0)
				continue;
			retire_page(&mover, page, store, lost);
			done++;
			i++;
		}
		close_mover(&mover);
		if (mover.failed - before == BUFFER_PAGES)
			break; /* no room anywhere */
	}
	left = pages_at(region, mover.tiers, store);
	if (left == 0)
		atomic_store(&tier->state, DROVER_STORE_GONE);
	region_end(region, &saved);
	return (int64_t)left;
}
