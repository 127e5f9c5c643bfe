/*
 * delta_test.c - page deltas at every level in memory of exactly the right size, at odd addresses: under the
 * sanitizers, what reads or writes one byte too many ends the program. What the octets mean is tests/ffi/delta_test.ts's
 * business; here the levels are compared with each other.
 */
#include "check.h"

#include <errno.h>
#include <string.h>

#define PAGE 4096u
#define ROUNDS 400
#define GUARD 64u

static uint32_t state = 1;

static uint32_t below(uint32_t bound)
{
	state = state * 1664525u + 1013904223u;
	return (uint32_t)((uint64_t)(state >> 8) * bound >> 24);
}

/* Memory of `size` bytes that ends where its allocation ends, at an address that is not aligned; *memory is to be freed. */
static unsigned char *exactly(size_t size, size_t shift, unsigned char **memory)
{
	*memory = malloc(size + shift);
	CHECK(*memory != NULL);
	return *memory + shift;
}

static void change(const unsigned char *olds, unsigned char *pages, size_t count)
{
	static const uint32_t densities[] = { 0, 1, 5, 50, 100, 500, 2000, 9000 };

	for (size_t page = 0; page < count; page++) {
		unsigned char *here = pages + page * PAGE;

		if (below(2) == 0) {
			for (uint32_t i = densities[below(8)]; i > 0; i--)
				here[below(PAGE)] ^= (unsigned char)(1 + below(255));
		} else {
			for (uint32_t i = below(4); i > 0; i--) {
				uint32_t first = below(PAGE), size = below(1100);

				for (uint32_t at = first; at < first + size && at < PAGE; at++)
					here[at] ^= (unsigned char)(1 + below(255));
			}
		}
	}
	/* All words but a few near the end: as long as can be, and short runs at the end of the room. */
	if (below(4) == 0) {
		unsigned char *last = pages + (count - 1) * PAGE;
		uint32_t same = PAGE / 4 - 2 - below(8), end = PAGE / 4 - below(4);

		for (uint32_t at = 0; at < PAGE; at++)
			last[at] = (unsigned char)(olds[(count - 1) * PAGE + at] ^ (at / 4 == same || at / 4 >= end ? 0 : 0xa5));
		return;
	}
	/* The end of the last page is where reading on would leave the buffer. */
	if (below(2) == 0)
		pages[count * PAGE - 1 - below(20)] ^= 1;
}

static void round_trip(uint32_t codec)
{
	size_t count = 1 + below(4), shift = below(9);
	size_t capacity = count * (codec == DROVER_DELTA_REMUS ? 4105u : 4097u);
	unsigned char *freed[5];
	unsigned char *olds = exactly(count * PAGE, shift, &freed[0]);
	unsigned char *news = exactly(count * PAGE, below(9), &freed[1]);
	unsigned char *first = exactly(capacity, 0, &freed[2]);
	unsigned char *pages = exactly(count * PAGE, below(9), &freed[3]);
	int64_t used = -1;

	for (size_t at = 0; at < count * PAGE; at++)
		olds[at] = (unsigned char)below(256);
	memcpy(news, olds, count * PAGE);
	change(olds, news, count);
	for (uint32_t level = 0; level <= (uint32_t)drover_delta_level(); level++) {
		/* A guard behind the room: the sanitizer does not see all of an unaligned store. */
		unsigned char *out = exactly(capacity + GUARD, below(9), &freed[4]);
		int64_t size;
		unsigned char *memory, *input;
		uint64_t at = 0;

		memset(out + capacity, 0xee, GUARD);
		size = drover_delta_encode(codec, level, olds, count, NULL, news, count, out, capacity);
		CHECK(size > 0 && size <= (int64_t)capacity);
		for (size_t byte = 0; byte < GUARD; byte++)
			CHECK_EQUAL(out[capacity + byte], 0xee);
		if (level == 0) {
			used = size;
			memcpy(first, out, (size_t)size);
		}
		CHECK_EQUAL(size, used);
		CHECK(memcmp(out, first, (size_t)size) == 0);
		input = exactly((size_t)size, below(9), &memory);
		memcpy(input, out, (size_t)size);
		memcpy(pages, olds, count * PAGE);
		CHECK_EQUAL(drover_delta_check(codec, input, (size_t)size, count, &at), 0);
		CHECK_EQUAL(at, size);
		CHECK_EQUAL(drover_delta_decode(codec, level, input, (size_t)size, count, pages), 0);
		CHECK(memcmp(pages, news, count * PAGE) == 0);
		free(memory);
		free(freed[4]);
	}
	for (size_t i = 0; i < 4; i++)
		free(freed[i]);
}

/* Damages an encoding and cuts it: every level gives the same verdict, and a refused batch changes nothing. */
static void hostile(uint32_t codec)
{
	static const unsigned char tricky[] = { 0, 1, 2, 3, 4, 0x7f, 0x80, 0x81, 0xff };
	unsigned char olds[2 * PAGE] = { 0 }, news[2 * PAGE], out[2 * 4105u], pages[2 * PAGE], others[2 * PAGE];
	int64_t size;
	unsigned char *memory, *input;
	uint64_t at = UINT64_MAX;
	int verdict;

	memcpy(news, olds, sizeof(news));
	change(olds, news, 2);
	size = drover_delta_encode(codec, 0, olds, 2, NULL, news, 2, out, sizeof(out));
	CHECK(size > 0);
	for (uint32_t i = below(5); i > 0; i--)
		out[below((uint32_t)size)] = tricky[below(sizeof(tricky))];
	if (below(2) == 0)
		size = below((uint32_t)size + 1);
	input = exactly((size_t)size, below(9), &memory);
	memcpy(input, out, (size_t)size);
	verdict = drover_delta_check(codec, input, (size_t)size, 2, &at);
	CHECK(verdict >= 0 && verdict <= DROVER_DELTA_BITMAP_TRUNCATED);
	CHECK(at <= (uint64_t)size);
	for (uint32_t level = 0; level <= (uint32_t)drover_delta_level(); level++) {
		int rc;

		memcpy(pages, olds, sizeof(pages));
		rc = drover_delta_decode(codec, level, input, (size_t)size, 2, pages);
		CHECK_EQUAL(rc, verdict == 0 ? 0 : -EBADMSG);
		if (rc < 0)
			CHECK(memcmp(pages, olds, sizeof(pages)) == 0);
		if (level == 0)
			memcpy(others, pages, sizeof(pages));
		CHECK(memcmp(pages, others, sizeof(pages)) == 0);
	}
	free(memory);
}

/* Nothing but octets: whatever they are. */
static void noise(uint32_t codec)
{
	size_t size = below(200);
	unsigned char *memory, *input = exactly(size, below(9), &memory), pages[3 * PAGE] = { 0 };
	uint64_t at;

	for (size_t i = 0; i < size; i++)
		input[i] = (unsigned char)(below(3) == 0 ? below(4) : below(256));
	CHECK(drover_delta_check(codec, input, size, 3, &at) >= 0);
	CHECK(at <= size);
	for (uint32_t level = 0; level <= (uint32_t)drover_delta_level(); level++)
		drover_delta_decode(codec, level, input, size, 3, pages);
	free(memory);
}

/* Each fault at the very end of the memory, one byte short. */
static void one_short(void)
{
	static const struct {
		uint32_t codec;
		size_t size;
		unsigned char start[3];
		int finding;
	} cases[] = {
		{ DROVER_DELTA_REMUS, 4096, { 0x80 }, DROVER_DELTA_FULL_SHORT },
		{ DROVER_DELTA_REGION, 4096, { 1 }, DROVER_DELTA_FULL_SHORT },
		{ DROVER_DELTA_REMUS, 8, { 2 }, DROVER_DELTA_RUN_PAST_BUFFER },
		{ DROVER_DELTA_REGION, 9, { 2, 2 }, DROVER_DELTA_RUN_PAST_BUFFER },
		{ DROVER_DELTA_REGION, 128, { 3 }, DROVER_DELTA_BITMAP_TRUNCATED },
		{ DROVER_DELTA_REGION, 129 + 7, { 3, 0x81 }, DROVER_DELTA_BITMAP_TRUNCATED },
		{ DROVER_DELTA_REMUS, 0, { 0 }, DROVER_DELTA_MISSING },
		{ DROVER_DELTA_REGION, 1, { 2 }, DROVER_DELTA_TRUNCATED },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		unsigned char page[PAGE] = { 0 }, *memory, *input = exactly(cases[i].size, 1, &memory);
		uint64_t at;

		for (size_t byte = 0; byte < cases[i].size; byte++)
			input[byte] = byte < 3 ? cases[i].start[byte] : 0;
		CHECK_EQUAL(drover_delta_check(cases[i].codec, input, cases[i].size, 1, &at), cases[i].finding);
		CHECK_EQUAL(at, 0);
		CHECK_EQUAL(drover_delta_decode(cases[i].codec, 0, input, cases[i].size, 1, page), -EBADMSG);
		free(memory);
	}
}

static void slots(void)
{
	unsigned char bases[2 * PAGE], pages[4 * PAGE], out[4 * 4105u];
	uint32_t wanted[4] = { DROVER_DELTA_MISS | 1, 1, DROVER_DELTA_NO_SLOT, 0 };

	memset(bases, 7, sizeof(bases));
	memset(pages, 7, sizeof(pages));
	pages[PAGE] = 8;
	/* Whole, one word of it, whole, nothing. */
	CHECK_EQUAL(drover_delta_encode(DROVER_DELTA_REMUS, 0, bases, 2, wanted, pages, 4, out, sizeof(out)),
		    4097 + 14 + 4097 + 1);
	CHECK_EQUAL(bases[PAGE], 8);
	wanted[3] = 2;
	memset(bases, 9, sizeof(bases));
	CHECK_EQUAL(drover_delta_encode(DROVER_DELTA_REMUS, 0, bases, 2, wanted, pages, 4, out, sizeof(out)), -EINVAL);
	CHECK_EQUAL(bases[PAGE], 9);
}

static void refusals(void)
{
	unsigned char page[PAGE] = { 0 }, out[4105];
	uint64_t at;

	CHECK_EQUAL(drover_delta_encode(2, 0, page, 1, NULL, page, 1, out, sizeof(out)), -EINVAL);
	CHECK_EQUAL(drover_delta_encode(0, 3, page, 1, NULL, page, 1, out, sizeof(out)), -EOPNOTSUPP);
	CHECK_EQUAL(drover_delta_encode(0, 0, page, 1, NULL, page, 1, out, sizeof(out) - 1), -ENOBUFS);
	CHECK_EQUAL(drover_delta_encode(1, 0, page, 1, NULL, page, 1, out, 4096), -ENOBUFS);
	CHECK_EQUAL(drover_delta_encode(0, 0, page, 2, NULL, page, 1, out, sizeof(out)), -EINVAL);
	CHECK_EQUAL(drover_delta_encode(0, 0, page, 1, NULL, page, DROVER_DELTA_PAGES_MAX + 1u, out, sizeof(out)), -EFBIG);
	CHECK_EQUAL(drover_delta_decode(2, 0, out, 1, 1, page), -EINVAL);
	CHECK_EQUAL(drover_delta_decode(0, 99, out, 1, 1, page), -EOPNOTSUPP);
	CHECK_EQUAL(drover_delta_check(0, out, 1, DROVER_DELTA_PAGES_MAX + 1u, &at), -EFBIG);
	CHECK_EQUAL(drover_pages_zero(3, page, 1, out), -EOPNOTSUPP);
}

static void zero_pages(void)
{
	unsigned char *memory, *pages = exactly(3 * PAGE, 1, &memory);

	for (uint32_t level = 0; level <= (uint32_t)drover_delta_level(); level++) {
		for (uint32_t at = 0; at < PAGE; at += 1 + below(40)) {
			unsigned char zero[3] = { 9, 9, 9 };

			memset(pages, 0, 3 * PAGE);
			pages[2 * PAGE + at] = 1;
			CHECK_EQUAL(drover_pages_zero(level, pages, 3, zero), 2);
			CHECK(zero[0] == 1 && zero[1] == 1 && zero[2] == 0);
		}
	}
	free(memory);
}

void test_delta(const char *path, int dir)
{
	(void)path;
	(void)dir;
	for (uint32_t codec = DROVER_DELTA_REMUS; codec <= DROVER_DELTA_REGION; codec++) {
		for (int round = 0; round < ROUNDS; round++) {
			round_trip(codec);
			for (int time = 0; time < 10; time++) {
				hostile(codec);
				noise(codec);
			}
		}
	}
	one_short();
	slots();
	refusals();
	zero_pages();
}
