/*
 * content_test.c - deltas of files in memory of exactly the right size: under the sanitizers, what reads or writes one byte
 * too many ends the program. Targets are put together again from what comes out. That the ops are those of the
 * reference is tests/ffi/content_test.ts's business.
 */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROUNDS 150
#define FILES 5u /* of a round: a target and up to four bases */

static uint32_t state = 7;

static uint32_t below(uint32_t bound)
{
	state = state * 1664525u + 1013904223u;
	return (uint32_t)((uint64_t)(state >> 8) * bound >> 24);
}

struct content {
	unsigned char *bytes;
	uint32_t size;
};

static void write_file(int dir, const char *name, const struct content *content)
{
	int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	CHECK(fd >= 0);
	CHECK_EQUAL(write(fd, content->bytes, content->size), content->size);
	close(fd);
}

static struct content make(uint32_t size)
{
	struct content content = { malloc(size), size };
	uint32_t letters = below(3) == 0 ? 256 : 3;

	CHECK(content.bytes != NULL);
	for (uint32_t i = 0; i < size; i++)
		content.bytes[i] = (unsigned char)below(letters);
	return content;
}

/* Parts of the bases and new bytes, in some order. */
static struct content mix(const struct content *bases, uint32_t base_count)
{
	struct content content = { malloc(1), 0 };

	for (uint32_t part = 1 + below(6); part > 0; part--) {
		const struct content *base = &bases[below(base_count)];
		uint32_t from = below(base->size), length = 1 + below(base->size - from), fresh = below(40);

		content.bytes = realloc(content.bytes, content.size + length + fresh);
		CHECK(content.bytes != NULL);
		memcpy(content.bytes + content.size, base->bytes + from, length);
		for (uint32_t i = 0; i < fresh; i++)
			content.bytes[content.size + length + i] = (unsigned char)below(256);
		content.size += length + fresh;
	}
	return content;
}

static void rebuild(const struct content *target, const struct content *bases, const struct drover_content_op *ops,
		    uint32_t op_count, const unsigned char *literals, uint64_t literal_count)
{
	uint64_t at = 0, taken = 0;

	for (uint32_t i = 0; i < op_count; i++) {
		uint32_t kind = ops[i].what & 0xff, base = ops[i].what >> 8;

		CHECK(at + ops[i].length <= target->size);
		if (kind == DROVER_CONTENT_COPY) {
			CHECK(base < FILES - 1 && ops[i].offset + ops[i].length <= bases[base].size);
			CHECK(memcmp(target->bytes + at, bases[base].bytes + ops[i].offset, ops[i].length) == 0);
		} else {
			CHECK_EQUAL(kind, DROVER_CONTENT_LITERAL);
			CHECK(taken + ops[i].length <= literal_count);
			CHECK(memcmp(target->bytes + at, literals + taken, ops[i].length) == 0);
			taken += ops[i].length;
		}
		at += ops[i].length;
	}
	CHECK_EQUAL(at, target->size);
	CHECK_EQUAL(taken, literal_count);
}

static void one_round(int dir)
{
	static const char names[] = "target\0base0\0base1\0base2\0base3";
	uint32_t base_count = below(FILES);
	struct content bases[FILES - 1] = { { NULL, 0 } }, target;
	struct drover_content_piece piece = { .target = { .dir = dir }, .base_count = base_count };
	struct drover_content_op *ops;
	unsigned char *literals;
	size_t op_max, literal_max;
	int64_t got;

	for (uint32_t i = 0; i < base_count; i++) {
		bases[i] = make(1 + below(below(2) == 0 ? 60 : 9000));
		write_file(dir, names + 7 + 6 * i, &bases[i]);
		piece.bases[i] = (struct drover_content_file){ .size = bases[i].size, .dir = dir, .name = 7 + 6 * i };
	}
	target = base_count == 0 ? make(1 + below(5000)) : mix(bases, base_count);
	write_file(dir, names, &target);
	piece.target.size = target.size;
	op_max = 1 + target.size;
	literal_max = target.size;
	ops = malloc(op_max * sizeof(*ops));
	literals = malloc(literal_max);
	CHECK(ops != NULL && literals != NULL);
	got = drover_content_delta(&piece, 1, names, sizeof(names), ops, op_max, literals, literal_max);
	CHECK(got >= 0);
	CHECK(piece.op_count != DROVER_CONTENT_LEFT);
	rebuild(&target, bases, ops, piece.op_count, literals, (uint64_t)got);
	/* One less of what it needs, and it is left. */
	if (piece.op_count > 1 || got > 0) {
		unsigned char *tight = malloc(got > 0 ? (size_t)got - 1 : 0);
		uint32_t op_count = piece.op_count;

		CHECK_EQUAL(drover_content_delta(&piece, 1, names, sizeof(names), ops, got > 0 ? op_max : op_count - 1, tight,
						 got > 0 ? (size_t)got - 1 : 0), 0);
		CHECK_EQUAL(piece.op_count, DROVER_CONTENT_LEFT);
		free(tight);
	}
	free(ops);
	free(literals);
	free(target.bytes);
	for (uint32_t i = 0; i < base_count; i++)
		free(bases[i].bytes);
}

static void refusals(int dir)
{
	static const char names[] = "target\0gone\0link\0holes\0../up";
	struct content content = make(100);
	struct drover_content_op ops[100];
	unsigned char literals[100];
	static const struct {
		uint32_t name;
		uint64_t size;
	} left[] = { { 7, 100 }, { 12, 100 }, { 17, 1 << 20 }, { 23, 100 }, { 0, 99 }, { 0, 101 } };

	write_file(dir, "target", &content);
	CHECK_EQUAL(symlinkat("target", dir, "link"), 0);
	CHECK_EQUAL(mknodat(dir, "holes", S_IFREG | 0600, 0), 0);
	{
		int fd = openat(dir, "holes", O_WRONLY);

		CHECK_EQUAL(ftruncate(fd, 1 << 20), 0);
		close(fd);
	}
	for (size_t i = 0; i < sizeof(left) / sizeof(left[0]); i++) {
		struct drover_content_piece piece = { .target = { .size = left[i].size, .dir = dir, .name = left[i].name } };
		unsigned char *room = malloc(left[i].size);

		CHECK_EQUAL(drover_content_delta(&piece, 1, names, sizeof(names), ops, 100, room, left[i].size), 0);
		CHECK_EQUAL(piece.op_count, DROVER_CONTENT_LEFT);
		free(room);
	}
	{
		struct drover_content_piece good = { .target = { .size = 100, .dir = dir } }, bad;

		CHECK_EQUAL(drover_content_delta(&good, 1, names, sizeof(names), ops, 100, literals, 100), 100);
		CHECK_EQUAL(good.op_count, 1);
		bad = good;
		bad.base_count = 5;
		CHECK_EQUAL(drover_content_delta(&bad, 1, names, sizeof(names), ops, 100, literals, 100), -EINVAL);
		bad = good;
		bad.target.size = 0;
		CHECK_EQUAL(drover_content_delta(&bad, 1, names, sizeof(names), ops, 100, literals, 100), -EINVAL);
		bad = good;
		bad.target.size = (uint64_t)DROVER_CONTENT_SIZE_MAX + 1;
		CHECK_EQUAL(drover_content_delta(&bad, 1, names, sizeof(names), ops, 100, literals, 100), -EINVAL);
		bad = good;
		bad.target.name = sizeof(names);
		CHECK_EQUAL(drover_content_delta(&bad, 1, names, sizeof(names), ops, 100, literals, 100), -EINVAL);
		CHECK_EQUAL(drover_content_delta(&good, 1, names, 3, ops, 100, literals, 100), -EINVAL);
		CHECK_EQUAL(drover_content_delta(&good, 1, names, 0, ops, 100, literals, 100), -EINVAL);
		CHECK_EQUAL(drover_content_delta(&good, 0, names, sizeof(names), ops, 100, literals, 100), 0);
	}
	free(content.bytes);
}

void test_content(const char *path, int dir)
{
	(void)path;
	for (int round = 0; round < ROUNDS; round++)
		one_round(dir);
	refusals(dir);
}
