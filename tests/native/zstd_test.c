/*
 * zstd_test.c - frames through buffers of exactly their size: round trips, every truncation, every flipped byte,
 * random garbage, and several threads on the shared pool of contexts.
 */
#include "check.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

static uint32_t state = 1;

static unsigned char next_byte(unsigned spread)
{
	state = state * 1664525u + 1013904223u;
	return (unsigned char)((state >> 24) % spread);
}

static unsigned char *make_bytes(size_t size, unsigned spread)
{
	unsigned char *bytes = malloc(size == 0 ? 1 : size);

	CHECK(bytes != NULL);
	for (size_t i = 0; i < size; i++)
		bytes[i] = next_byte(spread);
	return bytes;
}

/* Compresses into memory of exactly the frame's size. */
static unsigned char *make_frame(const void *input, size_t size, const void *prefix, size_t prefix_size, int level,
				 size_t *frame_size)
{
	int64_t bound = drover_zstd_bound(size);
	unsigned char *room, *frame;
	int64_t used;

	CHECK(bound > 0);
	room = malloc((size_t)bound);
	CHECK(room != NULL);
	used = drover_zstd_compress(input, size, prefix, prefix_size, level, room, (size_t)bound);
	CHECK(used > 0);
	frame = malloc((size_t)used);
	CHECK(frame != NULL);
	memcpy(frame, room, (size_t)used);
	free(room);
	*frame_size = (size_t)used;
	return frame;
}

static void round_trip(size_t size, size_t prefix_size, int level)
{
	unsigned char *input = make_bytes(size, 40), *prefix = make_bytes(prefix_size, 40);
	unsigned char *output = malloc(size == 0 ? 1 : size);
	size_t frame_size;
	unsigned char *frame;

	CHECK(output != NULL);
	memcpy(input, prefix, size < prefix_size ? size : prefix_size);
	frame = make_frame(input, size, prefix, prefix_size, level, &frame_size);
	CHECK_EQUAL(drover_zstd_decompress(frame, frame_size, prefix, prefix_size, 27, output, size), size);
	CHECK(memcmp(input, output, size) == 0);
	free(input);
	free(prefix);
	free(output);
	free(frame);
}

static void test_damage(void)
{
	size_t size = 700, frame_size;
	unsigned char *input = make_bytes(size, 30), *output = malloc(size);
	unsigned char *frame = make_frame(input, size, NULL, 0, 3, &frame_size);

	CHECK(output != NULL);
	for (size_t cut = 0; cut < frame_size; cut++) {
		unsigned char *part = malloc(cut == 0 ? 1 : cut);

		memcpy(part, frame, cut);
		CHECK_EQUAL(drover_zstd_decompress(part, cut, NULL, 0, 27, output, size), -ENODATA);
		free(part);
	}
	for (size_t at = 0; at < frame_size; at++) {
		for (int flip = 1; flip < 256; flip += 13) {
			int64_t rc;

			frame[at] ^= (unsigned char)flip;
			rc = drover_zstd_decompress(frame, frame_size, NULL, 0, 27, output, size);
			CHECK(rc < 0 || memcmp(input, output, size) == 0);
			frame[at] ^= (unsigned char)flip;
		}
	}
	/* Garbage behind a valid header. */
	for (int round = 0; round < 3000; round++) {
		for (size_t at = 6; at < frame_size; at++)
			frame[at] = next_byte(256);
		CHECK(drover_zstd_decompress(frame, frame_size, NULL, 0, 27, output, size) < 0);
	}
	free(input);
	free(output);
	free(frame);
}

static void test_arguments(void)
{
	unsigned char *input = make_bytes(1000, 256), out[64];
	size_t frame_size;
	unsigned char *frame = make_frame(input, 1000, NULL, 0, 1, &frame_size);

	CHECK_EQUAL(drover_zstd_compress(input, 1000, NULL, 0, 0, out, sizeof(out)), -EINVAL);
	CHECK_EQUAL(drover_zstd_compress(input, 1000, NULL, 0, 20, out, sizeof(out)), -EINVAL);
	CHECK_EQUAL(drover_zstd_compress(input, 1000, NULL, 0, 3, out, sizeof(out)), -ENOBUFS);
	CHECK_EQUAL(drover_zstd_compress(input, (size_t)DROVER_ZSTD_SIZE_MAX + 1, NULL, 0, 3, out, 1), -EFBIG);
	CHECK_EQUAL(drover_zstd_bound((size_t)DROVER_ZSTD_SIZE_MAX + 1), -EFBIG);
	CHECK_EQUAL(drover_zstd_check(frame, frame_size, 1000, 9), -EINVAL);
	CHECK_EQUAL(drover_zstd_check(frame, frame_size, 1000, 27), 0);
	CHECK_EQUAL(drover_zstd_check(frame, frame_size, 999, 27), -EOVERFLOW);
	CHECK_EQUAL(drover_zstd_check(NULL, 0, 0, 27), -ENODATA);
	free(input);
	free(frame);
}

static void *hammer(void *argument)
{
	const unsigned char *input = argument;
	unsigned char room[8192], output[4096];

	for (int round = 0; round < 200; round++) {
		int64_t used = drover_zstd_compress(input, 4096, NULL, 0, 1 + round % 5, room, sizeof(room));

		CHECK(used > 0);
		CHECK_EQUAL(drover_zstd_decompress(room, (size_t)used, NULL, 0, 27, output, 4096), 4096);
		CHECK(memcmp(input, output, 4096) == 0);
	}
	return NULL;
}

static void test_threads(void)
{
	pthread_t threads[6];
	unsigned char *inputs[6];

	for (int i = 0; i < 6; i++) {
		inputs[i] = make_bytes(4096, 20u + (unsigned)i);
		CHECK_EQUAL(pthread_create(&threads[i], NULL, hammer, inputs[i]), 0);
	}
	for (int i = 0; i < 6; i++) {
		CHECK_EQUAL(pthread_join(threads[i], NULL), 0);
		free(inputs[i]);
	}
}

void test_zstd(const char *path, int dir)
{
	static const size_t sizes[] = { 0, 1, 4096, 70000, 1500000 };

	(void)path;
	(void)dir;
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		for (size_t j = 0; j < sizeof(sizes) / sizeof(sizes[0]); j++)
			for (int level = 1; level <= 9; level += 4)
				round_trip(sizes[i], sizes[j], level);
	test_damage();
	test_arguments();
	test_threads();
}
