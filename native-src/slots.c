/*
 * slots.c - which slots of a store are taken. One bit per slot in words of 64, and one bit per word that says whether it may
 * have a free one, so that a search among 2^28 slots looks at 2^16 words at most.
 *
 * Lock-free: a slot is taken by whoever sets its bit. A search that finds nothing may have missed a slot that was given
 * back meanwhile; one that finds something owns it. Giving back releases, taking acquires, so what belongs to a slot
 * (its seal) passes from one owner to the next.
 */
#include "tiers.h"

#include <sys/mman.h>

/* Words that are searched for a run before any single slot will do. */
#define PATIENT_WORDS 32u

static uint64_t word_count(const struct slots *slots)
{
	return (slots->count + 63) / 64;
}

static uint64_t open_count(const struct slots *slots)
{
	return (word_count(slots) + 63) / 64;
}

static void *map_bits(uint64_t words)
{
	void *memory = mmap(NULL, words * sizeof(uint64_t), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return memory == MAP_FAILED ? NULL : memory;
}

int slots_open(struct slots *slots, uint64_t count, int own_place)
{
	*slots = (struct slots){ .count = count };
	if (own_place)
		return 0;
	slots->words = map_bits(word_count(slots));
	slots->open = map_bits(open_count(slots));
	if (slots->words == NULL || slots->open == NULL) {
		slots_close(slots);
		return -ENOMEM;
	}
	for (uint64_t word = 0; word < word_count(slots); word++)
		slots->open[word / 64] |= 1ull << (word % 64);
	if (count % 64 != 0)
		slots->words[count / 64] = ~0ull << (count % 64);
	return 0;
}

void slots_close(struct slots *slots)
{
	if (slots->words != NULL)
		munmap((void *)slots->words, word_count(slots) * sizeof(uint64_t));
	if (slots->open != NULL)
		munmap((void *)slots->open, open_count(slots) * sizeof(uint64_t));
	slots->words = slots->open = NULL;
}

static uint64_t run_of(uint32_t first, uint32_t run)
{
	return (run >= 64 ? ~0ull : (1ull << run) - 1) << first;
}

/* The first of `run` neighbouring set bits; -1 when there are not so many. */
static int find(uint64_t bits, uint32_t run)
{
	for (uint32_t i = 1; i < run && bits != 0; i++)
		bits &= bits >> 1;
	return bits == 0 ? -1 : __builtin_ctzll(bits);
}

/* Takes exactly `run` slots of this word; whether it could. */
static int take_in(struct slots *slots, uint64_t at, uint32_t run, uint32_t *slot)
{
	uint64_t taken = atomic_load_explicit(&slots->words[at], memory_order_relaxed);

	for (;;) {
		int first = find(~taken, run);

		if (first < 0)
			break;
		if (atomic_compare_exchange_weak_explicit(&slots->words[at], &taken, taken | run_of((uint32_t)first, run),
							  memory_order_acquire, memory_order_relaxed)) {
			*slot = (uint32_t)(at * 64 + (uint64_t)first);
			return 1;
		}
	}
	if (~taken == 0) {
		/* Full; should one be given back just now, the second look sees it. */
		atomic_fetch_and(&slots->open[at / 64], ~(1ull << (at % 64)));
		if (atomic_load(&slots->words[at]) != ~0ull)
			atomic_fetch_or(&slots->open[at / 64], 1ull << (at % 64));
	}
	return 0;
}

uint32_t slots_take(struct slots *slots, uint32_t want, uint32_t *slot)
{
	uint64_t summaries = open_count(slots), start = atomic_load_explicit(&slots->hand, memory_order_relaxed);
	uint32_t seen = 0;

	if (slots->words == NULL || atomic_load_explicit(&slots->used, memory_order_relaxed) >= slots->count)
		return 0;
	want = want < 64 ? want : 64;
	/* Twice around: if need be, anything will do the second time. */
	for (uint64_t i = 0; i < 2 * summaries; i++) {
		uint64_t summary = (start + i) % summaries;
		uint64_t words = atomic_load_explicit(&slots->open[summary], memory_order_relaxed);

		for (; words != 0; words &= words - 1) {
			uint64_t at = summary * 64 + (uint64_t)__builtin_ctzll(words);
			uint32_t run = want, least = ++seen <= PATIENT_WORDS ? want : 1;

			for (; run >= least && run > 0; run /= 2) {
				if (!take_in(slots, at, run, slot))
					continue;
				atomic_fetch_add_explicit(&slots->used, run, memory_order_relaxed);
				atomic_store_explicit(&slots->hand, summary, memory_order_relaxed);
				return run;
			}
		}
		if (i + 1 == summaries)
			seen = PATIENT_WORDS;
	}
	return 0;
}

void slots_give(struct slots *slots, uint32_t slot, uint32_t slot_count)
{
	for (uint32_t i = 0; i < slot_count && slots->words != NULL; i++) {
		uint64_t at = (slot + i) / 64;

		/* In this order: who clears the word's bit in `open` looks at the word afterwards. */
		atomic_fetch_and(&slots->words[at], ~(1ull << ((slot + i) % 64)));
		atomic_fetch_or(&slots->open[at / 64], 1ull << (at % 64));
	}
	/* Last: a store without a used slot may be taken away. */
	atomic_fetch_sub_explicit(&slots->used, slot_count, memory_order_release);
}
