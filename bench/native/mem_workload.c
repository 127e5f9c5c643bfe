/*
 * mem_workload.c - one process of `deno task bench mem`: memory of one kind, and the loop over it.
 *
 *     mem_workload plain SIZE
 *     mem_workload region SIZE LIMIT PATH FAULTS DIRTY
 *     mem_workload remote SIZE LIMIT ADDRESS PORT TICKET LENT SEALED
 *     mem_workload device SIZE PATH
 *
 * plain is anonymous memory, which the kernel swaps when the process is in a group that says so, and which is
 * just memory when it is in none. region is a drover region with a file, remote one with LENT bytes of a donor's memory in its
 * place, which get ciphertext where SEALED is 1. The loop is drover_bench_touch() for all. device is a file read by
 * O_DIRECT, one page at a time.
 *
 * Orders come as lines on stdin; each is answered by one line of JSON on stdout. Nothing is allocated before the
 * first order, so that the process can be put into its group first.
 *
 *     fill                                             every word gets its value (device: the file is written)
 *     warm                                             reads a word of every page, in order
 *     run PATTERN WRITES THREADS HINTS SECONDS SEED     (device: run SECONDS SEED)
 *     harvest DIRTY SEED                                writes DIRTY pages of 1000 and times the scan for them
 *     verify                                           counts the words that are not what was written last
 *
 * It dies with its parent.
 */
#define _GNU_SOURCE
#include "../../native-src/drover.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define PAGE_SIZE DROVER_PAGE_SIZE
#define DEVICE_OPS_MAX 1000000u
#define SPIN_US 60u

enum kind { PLAIN, REGION, DEVICE };

struct counters {
	uint64_t faults;
	uint64_t resident;
	uint64_t read_bytes;
	uint64_t written_bytes;
};

static enum kind kind;
static uint64_t size;
static uint8_t *memory;
static uint8_t *versions;
static struct drover_region *region;
static int device = -1;
static uint32_t donor_port; /* 0: no donor */
static char **arguments;

static void fail(const char *what, int error)
{
	printf("{\"error\": \"%s: %s\"}\n", what, strerror(error));
	exit(1);
}

static void check(int rc, const char *what)
{
	if (rc < 0)
		fail(what, -rc);
}

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000ull + (uint64_t)time.tv_nsec;
}

static uint64_t number(const char *text)
{
	char *end;
	uint64_t value = strtoull(text, &end, 10);

	if (*text == '\0' || *end != '\0')
		fail(text, EINVAL);
	return value;
}

/* A counter of /proc/vmstat, which counts for the whole machine: nothing else should be swapping. */
static uint64_t vmstat(const char *name)
{
	FILE *file = fopen("/proc/vmstat", "re");
	char word[64];
	uint64_t value, found = 0;

	if (file == NULL)
		return 0;
	while (fscanf(file, "%63s %" SCNu64, word, &value) == 2)
		if (strcmp(word, name) == 0)
			found = value;
	fclose(file);
	return found;
}

static uint64_t resident_plain(void)
{
	FILE *file = fopen("/proc/self/statm", "re");
	uint64_t total, resident = 0;

	if (file == NULL)
		return 0;
	if (fscanf(file, "%" SCNu64 " %" SCNu64, &total, &resident) != 2)
		resident = 0;
	fclose(file);
	return resident * PAGE_SIZE;
}

static struct counters count(void)
{
	struct counters counters = { 0 };

	if (kind == REGION) {
		struct drover_region_stats stats;

		check(drover_region_stats(region, &stats), "drover_region_stats");
		counters.faults = stats.faults;
		counters.resident = stats.resident_pages * PAGE_SIZE;
		counters.read_bytes = stats.read_bytes;
		counters.written_bytes = stats.written_bytes;
	} else {
		struct rusage usage;

		getrusage(RUSAGE_SELF, &usage);
		counters.faults = (uint64_t)usage.ru_majflt;
		counters.resident = resident_plain();
		counters.read_bytes = vmstat("pswpin") * PAGE_SIZE;
		counters.written_bytes = vmstat("pswpout") * PAGE_SIZE;
	}
	return counters;
}

static void open_region(void)
{
	struct drover_region_options options = {
		.size = size,
		.limit = number(arguments[3]),
		.flags = DROVER_REGION_PREWRITE | DROVER_REGION_ANONYMOUS,
		.spin_us = SPIN_US,
	};

	if (donor_port != 0) {
		struct drover_store_options store = {
			.path = arguments[4],
			.name = arguments[6],
			.size = number(arguments[7]),
			.kind = DROVER_STORE_NBD,
			.port = donor_port,
			.flags = number(arguments[8]) != 0 ? DROVER_STORE_SEALED : 0,
		};

		options.fault_mode = DROVER_FAULT_INLINE;
		options.dirty_mode = DROVER_DIRTY_HASH;
		options.flags = 0;
		options.copies = 1;
		check(drover_region_open_stores(&store, 1, &options, &region), "drover_region_open_stores");
	} else {
		options.fault_mode = (uint32_t)number(arguments[5]);
		options.dirty_mode = (uint32_t)number(arguments[6]);
		check(drover_region_open(arguments[4], &options, &region), "drover_region_open");
	}
	memory = (uint8_t *)(uintptr_t)drover_region_address(region);
}

static void open_plain(void)
{
	memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		fail("mmap", errno);
	/* As a region has it: no read-around that random accesses cannot use, no huge pages. */
	madvise(memory, size, MADV_RANDOM);
	madvise(memory, size, MADV_NOHUGEPAGE);
}

static void open_memory(void)
{
	if (kind == REGION)
		open_region();
	else
		open_plain();
	versions = calloc(size / 512, 1);
	if (versions == NULL)
		fail("calloc", ENOMEM);
}

static void open_device(void)
{
	device = open(arguments[3], O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
	if (device < 0)
		fail(arguments[3], errno);
}

static void fill_device(void)
{
	uint8_t *block = aligned_alloc(PAGE_SIZE, 1u << 20);

	if (block == NULL)
		fail("aligned_alloc", ENOMEM);
	memset(block, 0x5a, 1u << 20);
	for (uint64_t at = 0; at < size; at += 1u << 20)
		if (pwrite(device, block, 1u << 20, (off_t)at) != 1 << 20)
			fail("pwrite", errno);
	if (fsync(device) < 0)
		fail("fsync", errno);
	free(block);
}

static int compare(const void *left, const void *right)
{
	uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;

	return (a > b) - (a < b);
}

static void run_device(uint64_t seconds_micro, uint64_t seed)
{
	uint32_t *latencies = malloc(DEVICE_OPS_MAX * sizeof(*latencies));
	uint8_t *page = aligned_alloc(PAGE_SIZE, PAGE_SIZE);
	uint64_t begin = now(), last = begin, end = begin + seconds_micro * 1000u;
	uint32_t ops = 0;

	if (latencies == NULL || page == NULL)
		fail("malloc", ENOMEM);
	while (last < end && ops < DEVICE_OPS_MAX) {
		uint64_t time;

		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		if (pread(device, page, PAGE_SIZE, (off_t)((seed >> 20) % (size / PAGE_SIZE) * PAGE_SIZE)) != (ssize_t)PAGE_SIZE)
			fail("pread", errno);
		time = now();
		latencies[ops++] = (uint32_t)(time - last);
		last = time;
	}
	qsort(latencies, ops, sizeof(*latencies), compare);
	printf("{\"ops\": %u, \"nanoseconds\": %" PRIu64 ", \"p50\": %u, \"p90\": %u, \"p99\": %u}\n", ops, last - begin,
	       latencies[ops / 2], latencies[(uint64_t)ops * 9 / 10], latencies[(uint64_t)ops * 99 / 100]);
	free(latencies);
	free(page);
}

static void run_memory(char *const *words)
{
	static const char *const patterns[] = { "uniform", "zipf", "scan" };
	struct drover_bench_options options = {
		.size = size,
		.writes = (uint32_t)number(words[2]),
		.threads = (uint32_t)number(words[3]),
		.hints = (uint32_t)number(words[4]),
		.nanoseconds = number(words[5]) * 1000u,
		.seed = number(words[6]),
		.pattern = 3,
	};
	struct drover_bench_result result;
	struct counters before = count(), after;

	for (uint32_t i = 0; i < 3; i++)
		if (strcmp(words[1], patterns[i]) == 0)
			options.pattern = i;
	check(drover_bench_touch(region, memory, versions, &options, &result), "drover_bench_touch");
	after = count();
	printf("{\"ops\": %" PRIu64 ", \"nanoseconds\": %" PRIu64 ", \"p50\": %" PRIu64 ", \"p90\": %" PRIu64
	       ", \"p99\": %" PRIu64 ", \"slowest\": %" PRIu64 ", \"wrong\": %" PRIu64 ", \"sum\": \"%016" PRIx64
	       "\", \"faults\": %" PRIu64 ", \"resident\": %" PRIu64 ", \"readBytes\": %" PRIu64
	       ", \"writtenBytes\": %" PRIu64 "}\n",
	       result.ops, result.nanoseconds, result.p50, result.p90, result.p99, result.slowest, result.wrong, result.sum,
	       after.faults - before.faults, after.resident, after.read_bytes - before.read_bytes,
	       after.written_bytes - before.written_bytes);
}

/* Orders of pages are announced to a region and unknown to the kernel, which reads around by itself. */
static void warm(void)
{
	struct drover_bench_options options = {
		.size = size,
		.threads = 1,
		.pattern = DROVER_BENCH_SCAN,
		.hints = DROVER_BENCH_HINTS_MAX,
		.nanoseconds = 600000000000ull,
		.ops = size / PAGE_SIZE,
	};
	struct drover_bench_result result;

	if (kind == PLAIN)
		madvise(memory, size, MADV_NORMAL);
	check(drover_bench_touch(region, memory, versions, &options, &result), "drover_bench_touch");
	if (kind == PLAIN)
		madvise(memory, size, MADV_RANDOM);
	printf("{\"nanoseconds\": %" PRIu64 ", \"wrong\": %" PRIu64 "}\n", result.nanoseconds, result.wrong);
}

static void harvest(uint64_t permille, uint64_t seed)
{
	uint64_t pages = size / PAGE_SIZE, words = (pages + 63) / 64, dirty = 0, expected = 0, begin, took;
	uint64_t *bitmap = calloc(words, 8), *wanted = calloc(words, 8);

	if (bitmap == NULL || wanted == NULL)
		fail("calloc", ENOMEM);
	check((int)drover_region_harvest(region, bitmap, words), "drover_region_harvest");
	for (uint64_t page = 0; page < pages; page++) {
		uint8_t *version = &versions[page * 8];

		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		if ((seed >> 33) % 1000 >= permille)
			continue;
		*version = (uint8_t)(*version + 1);
		memory[page * PAGE_SIZE] = *version;
		wanted[page / 64] |= 1ull << page % 64;
		expected++;
	}
	begin = now();
	check((int)drover_region_harvest(region, bitmap, words), "drover_region_harvest");
	took = now() - begin;
	for (uint64_t word = 0; word < words; word++) {
		dirty += (uint64_t)__builtin_popcountll(bitmap[word]);
		if ((wanted[word] & ~bitmap[word]) != 0)
			fail("drover_region_harvest: a written page is not in it", EILSEQ);
	}
	printf("{\"nanoseconds\": %" PRIu64 ", \"written\": %" PRIu64 ", \"dirty\": %" PRIu64 "}\n", took, expected, dirty);
	free(bitmap);
	free(wanted);
}

static void verify(void)
{
	uint64_t wrong = 0, begin = now();

	check(drover_bench_verify(memory, size, versions, &wrong), "drover_bench_verify");
	printf("{\"wrong\": %" PRIu64 ", \"nanoseconds\": %" PRIu64 "}\n", wrong, now() - begin);
}

/* Obeys one order. The words that are missing are empty, and no number. */
static void obey(char *line)
{
	char *words[8] = { "", "", "", "", "", "", "", "" };
	uint32_t found = 0;

	for (char *word = strtok(line, " \n"); word != NULL && found < 8; word = strtok(NULL, " \n"))
		words[found++] = word;
	if (kind == DEVICE && device < 0)
		open_device();
	else if (kind != DEVICE && memory == NULL)
		open_memory();
	if (strcmp(words[0], "fill") == 0 && kind == DEVICE) {
		fill_device();
		printf("{}\n");
	} else if (strcmp(words[0], "fill") == 0) {
		uint64_t begin = now();

		check(drover_bench_fill(memory, size, versions), "drover_bench_fill");
		printf("{\"nanoseconds\": %" PRIu64 "}\n", now() - begin);
	} else if (strcmp(words[0], "run") == 0 && kind == DEVICE) {
		run_device(number(words[1]), number(words[2]));
	} else if (strcmp(words[0], "run") == 0) {
		run_memory(words);
	} else if (strcmp(words[0], "warm") == 0 && kind != DEVICE) {
		warm();
	} else if (strcmp(words[0], "harvest") == 0 && kind == REGION) {
		harvest(number(words[1]), number(words[2]));
	} else if (strcmp(words[0], "verify") == 0 && kind != DEVICE) {
		verify();
	} else {
		fail("order", EINVAL);
	}
	fflush(stdout);
}

int main(int count_of, char **values)
{
	char line[256];

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	arguments = values;
	if (count_of == 3 && strcmp(values[1], "plain") == 0)
		kind = PLAIN;
	else if (count_of == 7 && strcmp(values[1], "region") == 0)
		kind = REGION;
	else if (count_of == 9 && strcmp(values[1], "remote") == 0)
		kind = REGION;
	else if (count_of == 4 && strcmp(values[1], "device") == 0)
		kind = DEVICE;
	else
		fail("arguments", EINVAL);
	size = number(values[2]);
	if (strcmp(values[1], "remote") == 0)
		donor_port = (uint32_t)number(values[5]);
	if (size == 0 || size % (1u << 20) != 0)
		fail("size", EINVAL);
	while (fgets(line, sizeof(line), stdin) != NULL)
		obey(line);
	if (region != NULL)
		check(drover_region_close(region), "drover_region_close");
	return 0;
}
