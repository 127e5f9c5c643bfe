/*
 * tiers.h - what the files of a store made of several stores share.
 *
 *   slots.c        which slots of a lent memory are taken       store_tiers.c  requests: split, sent, tried elsewhere
 *   tiers_place.c  where copies go and which one is read        moves.c        calls that move pages between stores
 *   stores.c       opening them from options                    store_seal.c   encryption around one of them
 *
 * Each page has up to SEATS copies. A seat names a tier and a slot there. The seats of a page belong to who has a request
 * for that page in flight, or has it BUSY; anybody may look at them, nobody else changes them. What a seat
 * says is worth nothing while the page is in RAM and changed: its state and its checksum, which the region keeps, decide.
 *
 * Two kinds of tiers. The *file* (at most one) has a place for every page. *Donors* are all others: memory of
 * other hosts, which may go away, or a second file. A page that left RAM is
 *   - in the file, or
 *   - at `copies` donors when that is two, or
 *   - where there is no file: at one donor at least, at `copies` as soon as so many have room.
 */
#ifndef DROVER_TIERS_H
#define DROVER_TIERS_H

#include "region.h"

#define TIERS_MAX DROVER_STORES_MAX
#define SEATS 4u
#define SLOTS_MAX (1u << 28)
#define NO_SLOT 0xffffffffu
#define NO_TIER 0xffu
/* Pages of one request to a donor. */
#define RUN_MAX 16u
/* As `target` of a move: as many copies as there should be, wherever there is room. */
#define ANY_TIER 0xfeu

/* Slots of one store: a bit per slot, a bit per word of them that is not full. Lock-free. */
struct slots {
	_Atomic uint64_t *words; /* 1: taken. NULL: every page has its own slot, and nothing is to be found */
	_Atomic uint64_t *open;	 /* 1: that word may have a free one */
	uint64_t count;
	_Atomic uint64_t used;
	_Atomic uint64_t hand; /* the word of `open` where the last one was found */
};

/* One store below. */
struct tier {
	struct store store;
	_Atomic uint32_t kind; /* DROVER_STORE_FILE … */
	uint32_t donor;	       /* 0: the file */
	uint32_t run_max;
	struct slots slots;
	_Atomic uint32_t state;	   /* DROVER_STORE_UP … */
	_Atomic uint32_t failures; /* in a row */
	_Atomic uint64_t retry_at;
	_Atomic uint64_t latency; /* of small reads, nanoseconds, smoothed */
	_Atomic uint64_t reads, writes, errors, refused;
	_Atomic uint32_t under_way; /* requests, and those who look at it; a tier that is GONE is replaced when there are none */
};

/* All of them. */
struct tiers {
	_Atomic(struct drover_region *) region; /* whose checksums say whether a copy is good */
	uint64_t pages;
	uint32_t copies;
	uint32_t file;	    /* index of the file, NO_TIER without one */
	uint32_t file_first; /* pages that leave go to the file alone, and to donors only by drover_region_move() */
	uint64_t patience;  /* nanoseconds to wait for a copy whose store is down */
	_Atomic uint32_t count;
	_Atomic uint32_t changing; /* somebody adds a store, or asks one that is down */
	struct tier tiers[TIERS_MAX];
	_Atomic uint32_t *seats; /* SEATS a page: 0, or (tier + 1) << 28 | slot */
};

/* One request to one tier. */
struct sub {
	uint64_t started;
	uint32_t slot;
	uint8_t task;
	uint8_t first; /* page of the task */
	uint8_t count;
	uint8_t write;
};

enum task_kind { TASK_READ, TASK_WRITE, TASK_MOVE, TASK_PROBE };

/* One request of the region. Masks have one bit for each of its pages. */
struct task {
	uint64_t page;
	uint8_t *memory;
	uint64_t started;
	uint64_t all, arrived, failed;
	uint64_t alone; /* to be asked for one by one */
	uint64_t planned[TIERS_MAX], busy[TIERS_MAX], good[TIERS_MAX], tried[TIERS_MAX];
	uint64_t retry_at; /* 0, or when to look again at pages that nobody has at present */
	uint32_t id;
	int error;
	uint8_t kind;
	uint8_t writing; /* second half of a move */
	uint8_t target;
	uint8_t cancelled;
	uint8_t in_buffer;
	uint8_t plan; /* something is to be planned anew */
};

/* What a context keeps. */
struct desk {
	uint64_t task_free, done, waiting; /* bits of tasks; `waiting` have something to be done that could not be yet */
	uint64_t sub_free[TIERS_MAX];
	uint64_t random;
	uint32_t unsent; /* bits of tiers that have queued requests */
	struct task tasks[OPERATIONS];
	struct sub subs[TIERS_MAX][OPERATIONS];
	struct completion completions[OPERATIONS];
};

/* -- slots.c -------------------------------------------------------------------------------------------------- */

int slots_open(struct slots *slots, uint64_t count, int own_place);
void slots_close(struct slots *slots);

/* Up to `want` (at most 64) neighbouring free ones; returns how many and the first in `*slot`, 0 when there is none. */
uint32_t slots_take(struct slots *slots, uint32_t want, uint32_t *slot);
void slots_give(struct slots *slots, uint32_t slot, uint32_t slot_count);

/* -- tiers_place.c: only for pages that the caller may change the seats of -------------------------------------- */

uint32_t seat_of(const struct tiers *tiers, uint64_t page, uint32_t tier);

/* Takes the copy's slot back. */
void seat_drop(struct tiers *tiers, uint64_t page, uint32_t tier);

/* Takes the seat away and leaves its slot taken: a request is still under way there. */
void seat_forget(struct tiers *tiers, uint64_t page, uint32_t tier);

/* One bit per tier that has a copy. */
uint32_t seats_of(const struct tiers *tiers, uint64_t page);

/* Whether the tier is one; if so, it stays one until it is released. Not needed where a page has a seat there. */
int tier_hold(struct tier *tier);
void tier_release(struct tier *tier);

/* Of a small read, in nanoseconds, as far as it is known. */
uint64_t tier_latency(const struct tier *tier);

/* Whether the tier answers, or may be asked whether it does again. */
int tier_answers(struct tier *tier, uint64_t time);

/* Whether a copy there counts: one that can be had, now or soon. */
int is_worth(struct tier *tier);

/* Whether the page, which is on the stores, has fewer copies than it should and could have. */
int is_thin(struct tiers *tiers, uint64_t page);

/*
 * The one donor with room, where a page that lacks a copy has one already: other pages have to make way elsewhere. NO_TIER
 * where that is not so.
 */
uint32_t crowded_at(struct tiers *tiers, uint64_t page);

/* Whether one of the page's copies could as well be at donor `t`. */
int can_make_way(struct tiers *tiers, uint64_t page, uint32_t t);

/* Plans the writes of pages `mask`: for TASK_WRITE all copies anew, for TASK_MOVE what is missing. */
void plan_writes(struct tiers *tiers, struct desk *desk, struct task *task, uint64_t mask);

/* Plans the reads of pages `mask`. Returns those that nobody can be asked for; of these, `*later` perhaps later. */
uint64_t plan_reads(struct tiers *tiers, struct desk *desk, struct task *task, uint64_t mask, uint64_t *later);

/* Pages of the task that have the copies which they must have. */
uint64_t pages_safe(struct tiers *tiers, const struct task *task);

/* After a move: takes back what the page has more than it should. */
void drop_surplus(struct tiers *tiers, uint64_t page, uint32_t target);

/* -- store_tiers.c -------------------------------------------------------------------------------------------- */

/* One store to be made part. */
struct tier_options {
	struct store store; /* its `at` is given here */
	uint64_t size;	    /* bytes */
	uint32_t kind;
	uint32_t donor;
	uint32_t sealed;
};

/* Places in a context's ports: the whole, then two for each part. */
#define TIERS_AT 0u
#define TIER_AT(index) (1u + 2u * (index))
#define TIER_INNER_AT(index) (2u + 2u * (index))

/*
 * Makes one store of `count` stores, the fastest to fill first: with a file first, pages go to donors by
 * drover_region_move() only. Owns the stores, also on failure.
 */
int store_tiers_open(const struct tier_options *options, uint32_t count, uint64_t pages, uint32_t copies,
		     uint64_t patience, struct store *out);

/* Makes the store the `t`-th. */
int tier_open(struct tiers *tiers, uint32_t t, const struct tier_options *options);

/* The tiers of a region's store; NULL for any other store. */
struct tiers *tiers_of(const struct store *store);

/*
 * Queues a move of `count` COLD pages that the caller has BUSY: read into `memory`, verified, written to `target` or where
 * copies are missing. Comes back as any request; the result is bytes or -errno, and then some may have moved.
 */
void tiers_move(struct store *store, struct context *context, uint32_t id, uint64_t page, uint32_t page_count, void *memory,
		uint32_t target);

/* Queues the read of a slot of `tier`, into `memory`, to learn whether it answers. */
void tiers_probe(struct store *store, struct context *context, uint32_t id, void *memory, uint32_t tier);

/* Gives up a move: from now on it changes nothing. It still comes back. */
void tiers_cancel(struct store *store, struct context *context, uint32_t id);

/* -- store_seal.c --------------------------------------------------------------------------------------------- */

/* Wraps `inner`, of `size` bytes, which it then owns, also on failure. */
int store_seal_open(const struct store *inner, uint64_t size, uint32_t inner_at, struct store *out);

#endif
