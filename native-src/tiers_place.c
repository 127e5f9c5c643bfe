/*
 * tiers_place.c - where the copies of a page go, and which of them is read.
 *
 * Reads go to the copy that answers fastest, by what its store took lately. A store that is down is asked only where
 * nobody else has the page, and no more often than its back-off allows. New copies go to the better of two donors drawn at
 * random: the one with the smaller latency per share of free room, which spreads pages without anybody knowing all donors.
 *
 * Two copies of a page never share a donor, so room is worth something only while there is as much elsewhere: where one
 * donor has half of all that is free, it gets one copy of each page, and so there is a second place for the last page too.
 */
#include "tiers.h"

/* What a store is taken to need before it has been asked, in nanoseconds. */
#define FILE_NANOS 60000u
#define DONOR_NANOS 30000u
/* One read in so many asks another copy than the fastest, so that a store which became fast is noticed. */
#define CURIOUS 128u
/* So many failures in a row, and the copies there are made anew elsewhere. */
#define HOPELESS 8u
#define RETRY_NANOS_MIN 100000000ull
/* Copies that others may be placing at this moment. */
#define SLACK (4 * RUN_MAX)
/* Pages that are looked at for a slot to be had. */
#define LOOKS_MAX 1024u

/* -- seats ------------------------------------------------------------------------------------------------ */

static uint32_t seat(uint32_t tier, uint32_t slot)
{
	return (tier + 1) << 28 | slot;
}

static _Atomic uint32_t *seats_at(const struct tiers *tiers, uint64_t page)
{
	return tiers->seats + page * SEATS;
}

static uint32_t load(const struct tiers *tiers, uint64_t page, uint32_t i)
{
	return atomic_load(seats_at(tiers, page) + i);
}

uint32_t seat_of(const struct tiers *tiers, uint64_t page, uint32_t tier)
{
	for (uint32_t i = 0; i < SEATS; i++) {
		uint32_t is = load(tiers, page, i);

		if (is >> 28 == tier + 1)
			return is & (SLOTS_MAX - 1);
	}
	return NO_SLOT;
}

uint32_t seats_of(const struct tiers *tiers, uint64_t page)
{
	uint32_t bits = 0;

	for (uint32_t i = 0; i < SEATS; i++) {
		uint32_t is = load(tiers, page, i);

		if (is != 0)
			bits |= 1u << ((is >> 28) - 1);
	}
	return bits;
}

static int seat_put(struct tiers *tiers, uint64_t page, uint32_t tier, uint32_t slot)
{
	for (uint32_t i = 0; i < SEATS; i++) {
		if (load(tiers, page, i) != 0)
			continue;
		/* In one order with the state: either this is seen by who retires the tier, or the caller sees that it retires. */
		atomic_store(seats_at(tiers, page) + i, seat(tier, slot));
		return 1;
	}
	return 0;
}

void seat_forget(struct tiers *tiers, uint64_t page, uint32_t tier)
{
	for (uint32_t i = 0; i < SEATS; i++)
		if (load(tiers, page, i) >> 28 == tier + 1)
			atomic_store_explicit(seats_at(tiers, page) + i, 0, memory_order_relaxed);
}

void seat_drop(struct tiers *tiers, uint64_t page, uint32_t tier)
{
	uint32_t slot = seat_of(tiers, page, tier);

	if (slot == NO_SLOT)
		return;
	seat_forget(tiers, page, tier);
	slots_give(&tiers->tiers[tier].slots, slot, 1);
}

/* -- tiers ------------------------------------------------------------------------------------------------ */

static uint32_t state(struct tier *tier)
{
	return atomic_load_explicit(&tier->state, memory_order_acquire);
}

int tier_answers(struct tier *tier, uint64_t time)
{
	uint64_t retry_at;

	if (state(tier) != DROVER_STORE_DOWN)
		return state(tier) != DROVER_STORE_GONE;
	retry_at = atomic_load_explicit(&tier->retry_at, memory_order_relaxed);
	/* One asks, and the others wait for what it learns. */
	return time >= retry_at && atomic_compare_exchange_strong(&tier->retry_at, &retry_at, time + RETRY_NANOS_MIN);
}

int tier_hold(struct tier *tier)
{
	atomic_fetch_add(&tier->under_way, 1);
	if (atomic_load(&tier->state) != DROVER_STORE_GONE)
		return 1;
	atomic_fetch_sub(&tier->under_way, 1);
	return 0;
}

void tier_release(struct tier *tier)
{
	atomic_fetch_sub(&tier->under_way, 1);
}

uint64_t tier_latency(const struct tier *tier)
{
	uint64_t nanos = atomic_load_explicit(&tier->latency, memory_order_relaxed);

	return nanos != 0 ? nanos : tier->donor ? DONOR_NANOS : FILE_NANOS;
}

static uint64_t draw(struct desk *desk)
{
	desk->random ^= desk->random << 13;
	desk->random ^= desk->random >> 7;
	desk->random ^= desk->random << 17;
	return desk->random;
}

static uint64_t free_slots(const struct tier *tier)
{
	uint64_t used = atomic_load_explicit(&tier->slots.used, memory_order_relaxed);

	return used < tier->slots.count ? tier->slots.count - used : 0;
}

/* Smaller is better: how long it takes, per share of it that is free. */
static double cost(const struct tier *tier)
{
	return (double)tier_latency(tier) * (double)tier->slots.count / (double)free_slots(tier);
}

/* How many more copies can go there: never two of a page. */
static uint64_t useful_slots(const struct tiers *tiers, const struct tier *tier)
{
	uint64_t used = atomic_load_explicit(&tier->slots.used, memory_order_relaxed);
	uint64_t lacking = used < tiers->pages ? tiers->pages - used : 0;

	return free_slots(tier) < lacking ? free_slots(tier) : lacking;
}

/* Donors that could take a copy. */
struct offers {
	uint32_t count;
	uint32_t tiers[TIERS_MAX];
	uint64_t useful[TIERS_MAX];
	double costs[TIERS_MAX];
	uint64_t total; /* useful slots, those of the excluded ones too */
};

static void collect_offers(struct tiers *tiers, uint32_t exclude, struct offers *offers)
{
	uint32_t tier_count = atomic_load_explicit(&tiers->count, memory_order_acquire);

	offers->count = 0;
	offers->total = 0;
	for (uint32_t t = 0; t < tier_count; t++) {
		struct tier *tier = &tiers->tiers[t];

		if (!tier_hold(tier))
			continue;
		if (tier->donor && state(tier) == DROVER_STORE_UP && free_slots(tier) > 0) {
			uint64_t useful = useful_slots(tiers, tier);

			offers->total += useful;
			if ((exclude >> t & 1) == 0) {
				offers->useful[offers->count] = useful;
				offers->costs[offers->count] = cost(tier);
				offers->tiers[offers->count++] = t;
			}
		}
		tier_release(tier);
	}
	/* Without a file there is no other place: somebody who was down may be back. */
	for (uint32_t t = 0; t < tier_count && offers->count == 0 && tiers->file == NO_TIER; t++) {
		struct tier *tier = &tiers->tiers[t];

		if ((exclude >> t & 1) != 0 || !tier_hold(tier))
			continue;
		if (state(tier) == DROVER_STORE_DOWN && free_slots(tier) > 0 && tier_answers(tier, now()))
			offers->tiers[offers->count++] = t;
		tier_release(tier);
	}
}

/*
 * The roomiest donor, where the second copies of `*run` pages at any other one would leave room there that no page could
 * use; NO_TIER where there is no danger of that. Takes so much off `*run` that the others keep theirs.
 */
static uint32_t roomiest_donor(const struct offers *offers, uint32_t *run)
{
	/* So many pages can still have two copies, these included, while no donor has more free slots than that. */
	uint64_t pairs = (offers->total + *run) / 2, next = 0;
	uint32_t best = 0;

	for (uint32_t i = 1; i < offers->count; i++)
		if (offers->useful[i] > offers->useful[best])
			best = i;
	if (offers->useful[best] + *run + SLACK <= pairs)
		return NO_TIER;
	for (uint32_t i = 0; i < offers->count; i++)
		if (i != best && offers->useful[i] > next)
			next = offers->useful[i];
	if (next + *run > pairs)
		*run = next < pairs ? (uint32_t)(pairs - next) : 1;
	return offers->tiers[best];
}

/*
 * The better of two donors that are none of `exclude`; NO_TIER when there is none with room. It is to get `*run` pages,
 * or fewer afterwards, and it is their last copy or not.
 */
static uint32_t choose_donor(struct tiers *tiers, struct desk *desk, uint32_t exclude, int is_second, uint32_t *run)
{
	struct offers offers;
	uint32_t first, second, t;

	collect_offers(tiers, exclude, &offers);
	if (offers.count == 0)
		return NO_TIER;
	if (offers.count == 1)
		return offers.tiers[0];
	t = is_second ? roomiest_donor(&offers, run) : NO_TIER;
	if (t != NO_TIER)
		return t;
	first = (uint32_t)(draw(desk) % offers.count);
	second = (first + 1 + (uint32_t)(draw(desk) % (offers.count - 1))) % offers.count;
	return offers.costs[first] <= offers.costs[second] ? offers.tiers[first] : offers.tiers[second];
}

int is_thin(struct tiers *tiers, uint64_t page)
{
	uint32_t held = seats_of(tiers, page), tier_count = atomic_load(&tiers->count), donors = 0, room = 0;
	int in_file = tiers->file != NO_TIER && (held >> tiers->file & 1) != 0;

	if (held == 0) /* lost: nothing to copy from */
		return 0;
	for (uint32_t t = 0; t < tier_count; t++) {
		struct tier *tier = &tiers->tiers[t];

		if ((held >> t & 1) != 0) {
			donors += tier->donor && is_worth(tier);
		} else if (tier_hold(tier)) {
			room += tier->donor && state(tier) == DROVER_STORE_UP && free_slots(tier) > 0;
			tier_release(tier);
		}
	}
	if (tiers->file != NO_TIER && !in_file && (tiers->file_first || tiers->copies < 2 || donors < tiers->copies))
		return 1;
	return !(tiers->file_first && in_file) && donors < tiers->copies && room > 0;
}

uint32_t crowded_at(struct tiers *tiers, uint64_t page)
{
	uint32_t held = seats_of(tiers, page), tier_count = atomic_load(&tiers->count), donors = 0, room = NO_TIER, others = 0;

	if (held == 0 || tiers->file != NO_TIER)
		return NO_TIER;
	for (uint32_t t = 0; t < tier_count; t++) {
		struct tier *tier = &tiers->tiers[t];

		if (!tier_hold(tier))
			continue;
		if (state(tier) == DROVER_STORE_UP && (held >> t & 1) == 0)
			others |= free_slots(tier) > 0 ? 2u : 1u;
		else if (state(tier) == DROVER_STORE_UP && free_slots(tier) > 0)
			room = t;
		if ((held >> t & 1) != 0)
			donors += (uint32_t)is_worth(tier);
		tier_release(tier);
	}
	return donors < tiers->copies && others == 1u ? room : NO_TIER;
}

/* One bit per donor that has the page and answers. */
static uint32_t answering_donors(struct tiers *tiers, uint64_t page)
{
	uint32_t bits = 0, held = seats_of(tiers, page);

	for (uint32_t t = 0; held >> t != 0; t++)
		if ((held >> t & 1) != 0 && tiers->tiers[t].donor && state(&tiers->tiers[t]) == DROVER_STORE_UP)
			bits |= 1u << t;
	return bits;
}

int can_make_way(struct tiers *tiers, uint64_t page, uint32_t t)
{
	return seat_of(tiers, page, t) == NO_SLOT &&
	       (uint32_t)__builtin_popcount(answering_donors(tiers, page)) >= tiers->copies;
}

/* -- writes ----------------------------------------------------------------------------------------------- */

/* One bit per tier that page `i` of the task has, will have, or has failed to get a copy at. */
static uint32_t taken_by(const struct task *task, uint32_t i)
{
	uint32_t bits = 0;

	for (uint32_t t = 0; t < TIERS_MAX; t++)
		bits |= (uint32_t)((task->planned[t] | task->busy[t] | task->good[t] | task->tried[t]) >> i & 1) << t;
	return bits;
}

/* How many copies at donors page `i` has or will have. */
static uint32_t donor_copies(const struct tiers *tiers, const struct task *task, uint32_t i)
{
	uint32_t copies = 0;

	for (uint32_t t = 0; t < TIERS_MAX; t++)
		if (((task->planned[t] | task->busy[t] | task->good[t]) >> i & 1) != 0)
			copies += tiers->tiers[t].donor;
	return copies;
}

static uint64_t run_of(uint32_t first, uint32_t run)
{
	return (run >= 64 ? ~0ull : (1ull << run) - 1) << first;
}

/* Plans a copy of pages [i, i + run) at the tier, as far as it has slots. Returns how many pages. */
static uint32_t plan_at(struct tiers *tiers, struct task *task, uint32_t t, uint32_t i, uint32_t run)
{
	struct tier *tier = &tiers->tiers[t];
	uint32_t slot = (uint32_t)task->page + i, got = run;

	if (!tier_hold(tier)) {
		task->tried[t] |= run_of(i, run);
		return run;
	}
	if (tier->slots.words != NULL)
		got = slots_take(&tier->slots, run, &slot);
	else
		atomic_fetch_add_explicit(&tier->slots.used, run, memory_order_relaxed);
	for (uint32_t k = 0; k < got; k++) {
		uint64_t bit = 1ull << (i + k);

		if (!seat_put(tiers, task->page + i + k, t, slot + k)) {
			task->tried[t] |= bit;
			slots_give(&tier->slots, slot + k, 1);
		} else if (atomic_load(&tier->state) > DROVER_STORE_DOWN) {
			task->tried[t] |= bit;
			seat_drop(tiers, task->page + i + k, t);
		} else {
			task->planned[t] |= bit;
		}
	}
	tier_release(tier);
	return got;
}

/*
 * All slots are taken: page `i` gets that of another page's second copy, as one copy of each comes before two of some. Looks
 * at so many pages only, from anywhere on; whether it found one.
 */
static int take_second_copy(struct tiers *tiers, struct desk *desk, struct task *task, uint32_t i)
{
	struct drover_region *region = atomic_load_explicit(&tiers->region, memory_order_acquire);
	uint32_t exclude = taken_by(task, i) | seats_of(tiers, task->page + i);
	uint64_t other = draw(desk) % tiers->pages;

	for (uint32_t looks = 0; region != NULL && looks < LOOKS_MAX; looks++, other = (other + 1) % tiers->pages) {
		uint32_t held = answering_donors(tiers, other), word, t;

		if (__builtin_popcount(held) < 2 || (held & ~exclude) == 0)
			continue;
		word = word_at(region, other);
		if (state_of(word) != DROVER_PAGE_COLD || !take(region, other, word))
			continue;
		held = answering_donors(tiers, other);
		t = (held & ~exclude) != 0 ? (uint32_t)__builtin_ctz(held & ~exclude) : NO_TIER;
		if (__builtin_popcount(held) >= 2 && t != NO_TIER)
			seat_drop(tiers, other, t);
		else
			t = NO_TIER;
		publish(region, other, word, DROVER_PAGE_COLD);
		if (t != NO_TIER && plan_at(tiers, task, t, i, 1) == 1)
			return 1;
	}
	return 0;
}

/* Looks for donors until each page of `mask` has `want` copies there, or nobody has room. */
static void plan_donors(struct tiers *tiers, struct desk *desk, struct task *task, uint64_t mask, uint32_t want)
{
	while (mask != 0) {
		uint32_t i = (uint32_t)__builtin_ctzll(mask), run = 1, t, got;
		uint32_t exclude = taken_by(task, i) | seats_of(tiers, task->page + i);
		uint32_t copies = donor_copies(tiers, task, i);

		if (copies >= want) {
			mask &= mask - 1;
			continue;
		}
		while (run < RUN_MAX && i + run < 64 && (mask >> (i + run) & 1) != 0 &&
		       (taken_by(task, i + run) | seats_of(tiers, task->page + i + run)) == exclude)
			run++;
		do {
			t = choose_donor(tiers, desk, exclude, copies > 0, &run);
			if (t == NO_TIER)
				break;
			got = plan_at(tiers, task, t, i, run);
			exclude |= 1u << t;
		} while (got == 0);
		if (t == NO_TIER && copies == 0 && task->kind == TASK_WRITE && tiers->file == NO_TIER &&
		    take_second_copy(tiers, desk, task, i))
			mask &= ~(1ull << i);
		else if (t == NO_TIER)
			mask &= ~(((1ull << run) - 1) << i);
	}
}

/* Which of the old copies are written over, and which are given up. */
static void reuse_seats(struct tiers *tiers, struct task *task, uint32_t i)
{
	uint64_t page = task->page + i, bit = 1ull << i;
	uint32_t held = seats_of(tiers, page), donors = 0;

	for (uint32_t t = 0; held >> t != 0; t++) {
		struct tier *tier = &tiers->tiers[t];

		if ((held >> t & 1) == 0)
			continue;
		if (tier->donor && !tiers->file_first && state(tier) == DROVER_STORE_UP && donors < tiers->copies) {
			task->planned[t] |= bit;
			donors++;
		} else {
			seat_drop(tiers, page, t);
		}
	}
}

/* Pages of `mask` that are to be in the file and are not. */
static uint64_t without_file(const struct tiers *tiers, const struct task *task, uint64_t mask)
{
	uint32_t f = tiers->file;
	uint64_t wanting = 0;

	if (f == NO_TIER)
		return 0;
	mask &= ~(task->planned[f] | task->busy[f] | task->good[f] | task->tried[f]);
	if (tiers->file_first || tiers->copies < 2)
		return mask;
	for (uint32_t i = 0; i < 64; i++)
		if ((mask >> i & 1) != 0 && donor_copies(tiers, task, i) < tiers->copies)
			wanting |= 1ull << i;
	return wanting;
}

static void plan_file(struct tiers *tiers, struct task *task, uint64_t mask)
{
	for (uint64_t left = mask; left != 0; left &= left - 1)
		plan_at(tiers, task, tiers->file, (uint32_t)__builtin_ctzll(left), 1);
}

int is_worth(struct tier *tier)
{
	return state(tier) == DROVER_STORE_UP ||
	       (state(tier) == DROVER_STORE_DOWN && atomic_load_explicit(&tier->failures, memory_order_relaxed) < HOPELESS);
}

static void plan_move(struct tiers *tiers, struct desk *desk, struct task *task, uint64_t mask)
{
	uint32_t t = task->target;
	uint64_t with_file = 0;

	if (t != ANY_TIER) {
		mask &= ~(task->planned[t] | task->busy[t] | task->good[t] | task->tried[t]);
		for (uint64_t left = mask; left != 0; left &= left - 1) {
			uint32_t i = (uint32_t)__builtin_ctzll(left);

			if (seat_of(tiers, task->page + i, t) != NO_SLOT)
				task->good[t] |= 1ull << i;
			else if (plan_at(tiers, task, t, i, 1) == 0)
				task->tried[t] |= 1ull << i;
		}
		return;
	}
	for (uint64_t left = mask; left != 0; left &= left - 1) {
		uint32_t i = (uint32_t)__builtin_ctzll(left), held = seats_of(tiers, task->page + i);

		for (t = 0; held >> t != 0; t++)
			if ((held >> t & 1) != 0 && ((task->busy[t] | task->planned[t]) >> i & 1) == 0 &&
			    is_worth(&tiers->tiers[t]))
				task->good[t] |= 1ull << i;
		if (tiers->file != NO_TIER && (task->good[tiers->file] >> i & 1) != 0)
			with_file |= 1ull << i;
	}
	plan_donors(tiers, desk, task, tiers->file_first ? mask & ~with_file : mask, tiers->copies);
	plan_file(tiers, task, without_file(tiers, task, mask));
}

void plan_writes(struct tiers *tiers, struct desk *desk, struct task *task, uint64_t mask)
{
	uint64_t fresh = mask;

	if (task->kind == TASK_MOVE) {
		plan_move(tiers, desk, task, mask);
		return;
	}
	for (uint32_t t = 0; t < TIERS_MAX; t++)
		fresh &= ~(task->planned[t] | task->busy[t] | task->good[t] | task->tried[t]);
	for (; fresh != 0; fresh &= fresh - 1)
		reuse_seats(tiers, task, (uint32_t)__builtin_ctzll(fresh));
	if (!tiers->file_first)
		plan_donors(tiers, desk, task, mask, tiers->copies);
	plan_file(tiers, task, without_file(tiers, task, mask));
	/* The file failed: what is left is donors. */
	if (tiers->file_first && tiers->copies >= 2)
		plan_donors(tiers, desk, task, mask & task->tried[tiers->file], tiers->copies);
}

uint64_t pages_safe(struct tiers *tiers, const struct task *task)
{
	uint64_t one = 0, two = 0, answering = 0, safe;

	for (uint32_t t = 0; t < TIERS_MAX; t++) {
		uint32_t is = state(&tiers->tiers[t]);

		if (task->good[t] == 0 || !tiers->tiers[t].donor || is == DROVER_STORE_GONE)
			continue;
		two |= one & task->good[t];
		one |= task->good[t];
		/* It took the page, and went away before another one did: not enough. */
		if (is != DROVER_STORE_DOWN)
			answering |= task->good[t];
	}
	safe = tiers->file != NO_TIER ? task->good[tiers->file] : answering;
	return tiers->copies < 2 ? safe : safe | two;
}

void drop_surplus(struct tiers *tiers, uint64_t page, uint32_t target)
{
	uint32_t held = seats_of(tiers, page), kept = 0;

	/* First those that are going away, then those that were there before the target. */
	for (uint32_t t = 0; held >> t != 0; t++) {
		uint32_t is = state(&tiers->tiers[t]);

		if ((held >> t & 1) == 0 || !tiers->tiers[t].donor)
			continue;
		if (target == tiers->file || (t != target && (is == DROVER_STORE_RETIRING || is == DROVER_STORE_GONE)))
			seat_drop(tiers, page, t);
		else
			kept++;
	}
	for (uint32_t t = 0; held >> t != 0 && kept > tiers->copies; t++) {
		if (t == target || !tiers->tiers[t].donor || seat_of(tiers, page, t) == NO_SLOT)
			continue;
		seat_drop(tiers, page, t);
		kept--;
	}
}

/* -- reads ------------------------------------------------------------------------------------------------ */

/* Whom to ask for a page; NO_TIER for nobody now, and then whether perhaps later. */
static uint32_t pick(struct tiers *tiers, struct desk *desk, const struct task *task, uint32_t i, uint64_t time,
		     int *later)
{
	uint32_t held = seats_of(tiers, task->page + i), best = NO_TIER, second = NO_TIER;

	*later = 0;
	for (uint32_t t = 0; held >> t != 0; t++) {
		struct tier *tier = &tiers->tiers[t];

		if ((held >> t & 1) == 0 || state(tier) == DROVER_STORE_GONE)
			continue;
		if (state(tier) == DROVER_STORE_DOWN) {
			*later = 1;
			continue;
		}
		if ((task->tried[t] >> i & 1) != 0)
			continue;
		if (best == NO_TIER || tier_latency(tier) < tier_latency(&tiers->tiers[best])) {
			second = best;
			best = t;
		} else {
			second = t;
		}
	}
	if (second != NO_TIER && draw(desk) % CURIOUS == 0)
		return second;
	for (uint32_t t = 0; held >> t != 0 && best == NO_TIER; t++)
		if ((held >> t & 1) != 0 && (task->tried[t] >> i & 1) == 0 && state(&tiers->tiers[t]) == DROVER_STORE_DOWN &&
		    tier_answers(&tiers->tiers[t], time))
			best = t;
	return best;
}

uint64_t plan_reads(struct tiers *tiers, struct desk *desk, struct task *task, uint64_t mask, uint64_t *later)
{
	uint64_t nobody = 0, time = now();

	*later = 0;
	for (; mask != 0; mask &= mask - 1) {
		uint32_t i = (uint32_t)__builtin_ctzll(mask);
		int maybe;
		uint32_t t = pick(tiers, desk, task, i, time, &maybe);

		if (t != NO_TIER)
			task->planned[t] |= 1ull << i;
		else
			nobody |= 1ull << i;
		if (t == NO_TIER && maybe)
			*later |= 1ull << i;
	}
	return nobody;
}
