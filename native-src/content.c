/*
 * content.c - deltas of whole files: each as ranges of up to four other files plus what is new.
 *
 * The method, and the ops that come out, are those of lib/version/delta.ts (class DeltaEncoder), which stays the reference
 * and does what this leaves: sparse files, parts of files, and everything that is not as the caller thought. Read
 * the method there; names are the same here.
 *
 * The difference is where it runs: a call opens, reads and compares many files without an engine in between, on any
 * thread, while the caller's thread feeds a connection.
 */
#include "internal.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>

#define COPY_MIN 16u
#define WINDOW 32u
#define DENSE_STEP 16u
#define MEDIUM_STEP 32u
#define MEDIUM_FROM (8u << 20)
#define SPARSE_STEP 64u
#define SPARSE_FROM (64u << 20)
#define TABLE_BITS_MIN 8u
#define TABLE_BITS_MAX 22u
#define SLOT_MASK 0xffffffu
#define BORED_AFTER (1u << 20)
#define BORED_SCAN 4096u
#define BORED_SKIP 12288u
#define VERY_BORED_AFTER (1u << 22)
#define VERY_BORED_SKIP 61440u
#define SCATTERED_COPY_MAX 512u

#define BASES_MAX DROVER_CONTENT_BASES_MAX

struct span {
	const uint8_t *bytes;
	size_t size;
};

/* One target at work. */
struct work {
	struct span target;
	struct span bases[BASES_MAX];
	uint64_t starts[BASES_MAX];
	uint32_t base_count;
	uint32_t expected_base;
	uint64_t expected_place;
	struct drover_content_op *ops;
	size_t op_count, op_max;
	int full; /* an op found no room */
};

/* What a call allocates, and uses for one file after the other. */
struct scratch {
	uint8_t *bytes;
	size_t size;
	uint32_t *table;
	uint32_t bits, shift;
	uint32_t gear[256];
};

static void make_gear(uint32_t *gear)
{
	uint32_t seed = 0x9e3779b9u;

	for (int i = 0; i < 256; i++) {
		uint32_t mixed;

		seed += 0x6d2b79f5u;
		mixed = (seed ^ seed >> 15) * (seed | 1u);
		mixed ^= mixed + (mixed ^ mixed >> 7) * (mixed | 61u);
		gear[i] = mixed ^ mixed >> 14;
	}
}

static size_t same_forward(const uint8_t *left, const uint8_t *right, size_t max)
{
	size_t at = 0;

	while (at + 8 <= max) {
		uint64_t a, b;

		memcpy(&a, left + at, 8);
		memcpy(&b, right + at, 8);
		if (a != b)
			return at + (size_t)__builtin_ctzll(a ^ b) / 8;
		at += 8;
	}
	while (at < max && left[at] == right[at])
		at++;
	return at;
}

/* Before the two pointers. */
static size_t same_backward(const uint8_t *left, const uint8_t *right, size_t max)
{
	size_t at = 0;

	while (at + 8 <= max) {
		uint64_t a, b;

		memcpy(&a, left - at - 8, 8);
		memcpy(&b, right - at - 8, 8);
		if (a != b)
			return at + (size_t)__builtin_clzll(a ^ b) / 8;
		at += 8;
	}
	while (at < max && left[-1 - (ptrdiff_t)at] == right[-1 - (ptrdiff_t)at])
		at++;
	return at;
}

static size_t less(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* -- ops -------------------------------------------------------------------------------------------------- */

static void push(struct work *work, uint32_t kind, uint32_t base, uint64_t offset, uint64_t length)
{
	struct drover_content_op *last = work->op_count > 0 ? &work->ops[work->op_count - 1] : NULL;
	uint32_t what = kind | base << 8;

	if (length == 0)
		return;
	if (last != NULL && (last->what & 0xff) == kind &&
	    (kind != DROVER_CONTENT_COPY || (last->what == what && last->offset + last->length == offset))) {
		last->length += (uint32_t)length;
		return;
	}
	if (work->op_count == work->op_max) {
		work->full = 1;
		return;
	}
	work->ops[work->op_count++] = (struct drover_content_op){ .offset = offset, .length = (uint32_t)length, .what = what };
}

/* Where copies are few and short they cost more than they save. */
static void collapse(struct work *work)
{
	size_t op_count = work->op_count;
	uint64_t copied = 0;

	for (size_t i = 0; i < op_count; i++)
		if ((work->ops[i].what & 0xff) == DROVER_CONTENT_COPY)
			copied += work->ops[i].length;
	if (copied == 0 || copied * 10 >= work->target.size)
		return;
	/* In place: an op never goes behind where it was. */
	work->op_count = 0;
	for (size_t i = 0; i < op_count; i++) {
		struct drover_content_op op = work->ops[i];
		uint32_t kind = op.what & 0xff;

		if (kind == DROVER_CONTENT_COPY && op.length < SCATTERED_COPY_MAX)
			push(work, DROVER_CONTENT_LITERAL, 0, 0, op.length);
		else
			push(work, kind, op.what >> 8, op.offset, op.length);
	}
}

/* -- the index -------------------------------------------------------------------------------------------- */

static void index_dense(const struct scratch *scratch, struct span base, uint64_t start)
{
	const uint32_t *gear = scratch->gear;
	uint32_t hash = 0;

	/* At the top of the loop `hash` covers the 16 bytes before `at`; the step makes it the window from at - 16. */
	for (size_t i = 0; i < DENSE_STEP && i < base.size; i++)
		hash = (hash << 1) + gear[base.bytes[i]];
	for (size_t at = DENSE_STEP; at + DENSE_STEP <= base.size; at += DENSE_STEP) {
		for (size_t i = at; i < at + DENSE_STEP; i++)
			hash = (hash << 1) + gear[base.bytes[i]];
		scratch->table[hash >> scratch->shift] = hash << 24 | (uint32_t)((start + at) / DENSE_STEP);
	}
}

static void index_sparse(const struct scratch *scratch, struct span base, uint64_t start, size_t step)
{
	for (size_t at = 0; at + WINDOW <= base.size; at += step) {
		uint32_t hash = 0;

		for (size_t i = at; i < at + WINDOW; i++)
			hash = (hash << 1) + scratch->gear[base.bytes[i]];
		scratch->table[hash >> scratch->shift] = hash << 24 | (uint32_t)((start + at) / DENSE_STEP + 1);
	}
}

/* 0 or -ENOMEM. */
static int make_index(struct scratch *scratch, struct work *work)
{
	uint64_t total = 0, start = 0, positions, slots;
	uint32_t step, bits = TABLE_BITS_MIN;

	for (uint32_t i = 0; i < work->base_count; i++)
		total += work->bases[i].size;
	step = total > SPARSE_FROM ? SPARSE_STEP : total > MEDIUM_FROM ? MEDIUM_STEP : DENSE_STEP;
	positions = (total + step - 1) / step;
	slots = positions * (step == DENSE_STEP ? 2 : 1);
	while (bits < TABLE_BITS_MAX && (uint64_t)1 << bits < slots)
		bits++;
	if (scratch->bits < bits) {
		free(scratch->table);
		scratch->bits = 0;
		scratch->table = malloc(sizeof(uint32_t) << bits);
		if (scratch->table == NULL)
			return -ENOMEM;
		scratch->bits = bits;
	}
	memset(scratch->table, 0, sizeof(uint32_t) << bits);
	scratch->shift = 32 - bits;
	for (uint32_t i = 0; i < work->base_count; i++) {
		work->starts[i] = start;
		start += (work->bases[i].size + DENSE_STEP - 1) / DENSE_STEP * DENSE_STEP;
	}
	/* The first base goes in last: where contents are the same, it wins. */
	for (uint32_t i = work->base_count; i-- > 0;) {
		if (step == DENSE_STEP)
			index_dense(scratch, work->bases[i], work->starts[i]);
		else
			index_sparse(scratch, work->bases[i], work->starts[i], step);
	}
	return 0;
}

/* -- the scan --------------------------------------------------------------------------------------------- */

/* Extends a match both ways and emits it with the literal from `at` up to it; where it ends in the target. */
static size_t emit(struct work *work, size_t at, size_t start, uint32_t base_at, uint64_t place)
{
	struct span target = work->target, base = work->bases[base_at];
	size_t back = same_backward(target.bytes + start, base.bytes + place, less(start - at, place));
	size_t forth = same_forward(target.bytes + start, base.bytes + place, less(target.size - start, base.size - place));

	push(work, DROVER_CONTENT_LITERAL, 0, 0, start - back - at);
	push(work, DROVER_CONTENT_COPY, base_at, place - back, back + forth);
	work->expected_base = base_at;
	work->expected_place = place + forth;
	return start + forth;
}

/* The next match at or after `at`, with the literal before it: where it ends; without one all is literal. */
static size_t scan(const struct scratch *scratch, struct work *work, size_t at)
{
	const uint8_t *bytes = work->target.bytes;
	const uint32_t *gear = scratch->gear, *table = scratch->table;
	struct span expected = work->bases[work->expected_base];
	int64_t drift = (int64_t)work->expected_place - (int64_t)at;
	int64_t reach = (int64_t)expected.size - drift;
	size_t to = work->target.size;
	size_t in_place_end = reach < 0 ? 0 : less(to, (size_t)reach);
	size_t bored_at = at + BORED_AFTER, i = at, run = 0;
	uint32_t hash = 0;

	while (i < to) {
		size_t warm_end = less(to, i + WINDOW - 1), scan_end;

		for (; i < warm_end; i++) {
			hash = (hash << 1) + gear[bytes[i]];
			run = i < in_place_end && bytes[i] == expected.bytes[(int64_t)i + drift] ? run + 1 : 0;
		}
		scan_end = less(to, bored_at);
		for (; i < scan_end; i++) {
			uint32_t candidate;

			hash = (hash << 1) + gear[bytes[i]];
			if (i < in_place_end && bytes[i] == expected.bytes[(int64_t)i + drift]) {
				if (++run >= WINDOW) {
					size_t start = i + 1 - run;

					return emit(work, at, start, work->expected_base, (uint64_t)((int64_t)start + drift));
				}
			} else {
				run = 0;
			}
			candidate = table[hash >> scratch->shift];
			if (candidate != 0 && candidate >> 24 == (hash & 0xff)) {
				size_t start = i - (WINDOW - 1);
				uint64_t position = (uint64_t)((candidate & SLOT_MASK) - 1) * DENSE_STEP;
				uint32_t base = 0;

				while (base + 1 < work->base_count && position >= work->starts[base + 1])
					base++;
				position -= work->starts[base];
				if (position + WINDOW <= work->bases[base].size &&
				    memcmp(bytes + start, work->bases[base].bytes + position, WINDOW) == 0)
					return emit(work, at, start, base, position);
			}
		}
		if (i >= to)
			break;
		/* Nothing matched for long: skip ahead, and warm the hash up again there. */
		i = less(to, i + (i - at > VERY_BORED_AFTER ? VERY_BORED_SKIP : BORED_SKIP));
		bored_at = i + BORED_SCAN;
		run = 0;
	}
	push(work, DROVER_CONTENT_LITERAL, 0, 0, to - at);
	work->expected_place += to - at;
	return to;
}

/* 0 or -ENOMEM. */
static int make_ops(struct scratch *scratch, struct work *work)
{
	size_t to = work->target.size, at = 0;
	int indexed = 0;

	while (at < to) {
		/* Everything before `at` has its op. First what continues at the expected place ... */
		struct span base = work->bases[work->expected_base];
		uint64_t place = work->expected_place;

		if (place < base.size) {
			size_t same = same_forward(work->target.bytes + at, base.bytes + place, less(to - at, base.size - place));

			if (same >= COPY_MIN) {
				push(work, DROVER_CONTENT_COPY, work->expected_base, place, same);
				work->expected_place += same;
				at += same;
				if (at == to)
					break;
			}
		}
		if (to - at < WINDOW)
			break;
		/* ... then the common end, which saves most appends and single edits the index. */
		if (!indexed) {
			uint64_t free_from = work->expected_place < base.size ? work->expected_place : base.size;
			size_t max = less(to - at, base.size - free_from);
			size_t tail = same_backward(work->target.bytes + to, base.bytes + base.size, max);
			int rc;

			if (tail >= COPY_MIN && to - at - tail < WINDOW) {
				push(work, DROVER_CONTENT_LITERAL, 0, 0, to - at - tail);
				push(work, DROVER_CONTENT_COPY, work->expected_base, base.size - tail, tail);
				at = to;
				break;
			}
			rc = make_index(scratch, work);
			if (rc < 0)
				return rc;
			indexed = 1;
		}
		at = scan(scratch, work, at);
	}
	if (at < to)
		push(work, DROVER_CONTENT_LITERAL, 0, 0, to - at);
	collapse(work);
	return 0;
}

/* -- files ------------------------------------------------------------------------------------------------ */

/* All of a file into `out`: whether it is there, as large as was thought and without holes. */
static int read_file(const struct drover_content_file *file, const char *names, uint8_t *out)
{
	int fd = drover_open_beneath(file->dir, names + file->name, O_RDONLY | O_NONBLOCK | O_NOFOLLOW, 0);
	struct stat stat;
	int good;

	if (fd < 0)
		return 0;
	good = fstat(fd, &stat) == 0 && S_ISREG(stat.st_mode) && (uint64_t)stat.st_size == file->size &&
	       (uint64_t)stat.st_blocks * 512 >= file->size && drover_pread(fd, out, file->size, 0) == (int64_t)file->size;
	close(fd);
	return good;
}

static int make_room(struct scratch *scratch, uint64_t size)
{
	uint8_t *bytes;

	if (size <= scratch->size)
		return 0;
	bytes = realloc(scratch->bytes, size + size / 8);
	if (bytes == NULL)
		return -ENOMEM;
	scratch->bytes = bytes;
	scratch->size = size + size / 8;
	return 0;
}

/* One piece: how many literal bytes were written, -1 where it is left to the caller, -ENOMEM. */
static int64_t do_piece(struct scratch *scratch, struct drover_content_piece *piece, const char *names,
			struct drover_content_op *ops, size_t op_max, uint8_t *literals, uint64_t literal_max)
{
	struct work work = { .target.size = piece->target.size, .base_count = piece->base_count, .ops = ops, .op_max = op_max };
	uint64_t total = piece->target.size, written = 0;
	uint8_t *at;
	int rc;

	if (op_max == 0)
		return -1;
	if (piece->base_count == 0) {
		if (literal_max < piece->target.size || !read_file(&piece->target, names, literals))
			return -1;
		ops[0] = (struct drover_content_op){ .length = (uint32_t)piece->target.size, .what = DROVER_CONTENT_LITERAL };
		piece->op_count = 1;
		return (int64_t)piece->target.size;
	}
	for (uint32_t i = 0; i < piece->base_count; i++)
		total += piece->bases[i].size;
	rc = make_room(scratch, total);
	if (rc < 0)
		return rc;
	if (!read_file(&piece->target, names, scratch->bytes))
		return -1;
	work.target.bytes = scratch->bytes;
	at = scratch->bytes + piece->target.size;
	for (uint32_t i = 0; i < piece->base_count; i++) {
		if (!read_file(&piece->bases[i], names, at))
			return -1;
		work.bases[i] = (struct span){ at, piece->bases[i].size };
		at += piece->bases[i].size;
	}
	rc = make_ops(scratch, &work);
	if (rc < 0)
		return rc;
	if (work.full)
		return -1;
	at = scratch->bytes;
	for (size_t i = 0; i < work.op_count; i++) {
		if ((ops[i].what & 0xff) == DROVER_CONTENT_LITERAL) {
			if (literal_max - written < ops[i].length)
				return -1;
			memcpy(literals + written, at, ops[i].length);
			written += ops[i].length;
		}
		at += ops[i].length;
	}
	piece->op_count = (uint32_t)work.op_count;
	return (int64_t)written;
}

static int check_file(const struct drover_content_file *file, size_t names_size)
{
	return file->size >= 1 && file->size <= DROVER_CONTENT_SIZE_MAX && file->name < names_size ? 0 : -EINVAL;
}

int64_t drover_content_delta(struct drover_content_piece *pieces, size_t count, const char *names, size_t names_size,
			     struct drover_content_op *ops, size_t op_max, uint8_t *literals, size_t literal_max)
{
	struct scratch scratch = { 0 };
	uint64_t op_count = 0, literal_count = 0;
	int64_t rc = 0;

	if (names_size == 0 || names[names_size - 1] != '\0')
		return -EINVAL;
	for (size_t i = 0; i < count; i++) {
		if (pieces[i].base_count > BASES_MAX || check_file(&pieces[i].target, names_size) < 0)
			return -EINVAL;
		for (uint32_t k = 0; k < pieces[i].base_count; k++)
			if (check_file(&pieces[i].bases[k], names_size) < 0)
				return -EINVAL;
	}
	make_gear(scratch.gear);
	for (size_t i = 0; i < count; i++) {
		rc = do_piece(&scratch, &pieces[i], names, ops + op_count, op_max - op_count, literals + literal_count,
			      literal_max - literal_count);
		if (rc == -ENOMEM)
			break;
		if (rc < 0) {
			pieces[i].op_count = DROVER_CONTENT_LEFT;
			continue;
		}
		op_count += pieces[i].op_count;
		literal_count += (uint64_t)rc;
	}
	free(scratch.bytes);
	free(scratch.table);
	return rc == -ENOMEM ? rc : (int64_t)literal_count;
}
