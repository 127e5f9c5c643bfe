/*
 * bench.c - measures memory from C, so that what is measured is the memory and not the language above it.
 *
 * Every word of the memory says whose it is: word w of page p holds a tag of (p, w) whose low eight bits are a
 * version. All versions are 0 at first; a write raises the version of one of a page's eight writable words, at the
 * beginning of each 512 bytes, and notes it in `versions`, a byte per writable word that the caller keeps. So
 * every read is checked against what was written last, and a page that comes back stale, shifted or as another page
 * is a wrong word.
 *
 * A thread writes only pages whose number modulo the threads is its own: it alone knows their versions exactly.
 * Of another thread's page it checks the tag.
 *
 * Each access is timed, by one reading of the clock between two accesses; the time of a prefetch is part of the
 * access after it.
 */
#include "internal.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PAGE_SIZE DROVER_PAGE_SIZE
#define PAGE_WORDS (PAGE_SIZE / 8u)
#define PAGE_SECTORS (PAGE_WORDS / 64u)
#define VERSION_MASK 0xffull

/* Latencies in nanoseconds: exact below 64, then 64 steps for each power of two. */
#define STEPS 64u
#define BUCKETS (STEPS * 40u)

#define ZIPF_THETA 0.99
#define MONTH_NANOSECONDS (31ull * 86400ull * 1000000000ull)

struct zipf {
	double count;
	double sum;
	double eta;
	double alpha;
	double second;
};

struct run {
	struct drover_region *region;
	uint64_t *memory;
	uint8_t *versions;
	const struct drover_bench_options *options;
	uint64_t pages;
	struct zipf zipf;
	pthread_mutex_t gate; /* held until all threads exist; guards `go` */
	int go;
};

struct worker {
	struct run *run;
	uint32_t index;
	pthread_t thread;
	uint64_t random;
	uint64_t position;
	uint64_t begin;
	uint64_t end;
	uint64_t ops;
	uint64_t wrong;
	uint64_t wrong_offset;
	uint64_t sum;
	uint64_t slowest;
	uint64_t buckets[BUCKETS];
};

struct access {
	uint64_t page;
	uint32_t word;
	uint32_t write;
};

static uint64_t mix(uint64_t value)
{
	value += 0x9e3779b97f4a7c15ull;
	value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ull;
	value = (value ^ (value >> 27)) * 0x94d049bb133111ebull;
	return value ^ (value >> 31);
}

static uint64_t tag_of(uint64_t page, uint32_t word)
{
	return mix(page * PAGE_WORDS + word) & ~VERSION_MASK;
}

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000ull + (uint64_t)time.tv_nsec;
}

/* From 0 to below 1. */
static double real_of(uint64_t bits)
{
	return (double)(bits >> 11) * 0x1p-53;
}

static uint64_t next_random(struct worker *worker)
{
	return mix(worker->random++);
}

static uint32_t bucket_of(uint64_t nanoseconds)
{
	uint32_t top;

	if (nanoseconds < STEPS)
		return (uint32_t)nanoseconds;
	top = 63u - (uint32_t)__builtin_clzll(nanoseconds);
	if (top > 44u)
		return BUCKETS - 1;
	return (top - 5u) * STEPS + (uint32_t)(nanoseconds >> (top - 6u) & (STEPS - 1));
}

/* The middle of what falls into a bucket. */
static uint64_t bucket_value(uint32_t bucket)
{
	uint32_t top = bucket / STEPS + 5u;

	if (bucket < STEPS)
		return bucket;
	return (1ull << top) + ((uint64_t)(bucket % STEPS) << (top - 6u)) + (1ull << (top - 6u)) / 2;
}

/* Ranks with probability 1 / rank^theta, by Gray's method: no table. */
static void zipf_prepare(struct zipf *zipf, uint64_t count)
{
	zipf->count = (double)count;
	zipf->sum = 0;
	for (uint64_t rank = 1; rank <= count; rank++)
		zipf->sum += pow((double)rank, -ZIPF_THETA);
	zipf->second = 1.0 + pow(0.5, ZIPF_THETA);
	zipf->alpha = 1.0 / (1.0 - ZIPF_THETA);
	zipf->eta = (1.0 - pow(2.0 / zipf->count, 1.0 - ZIPF_THETA)) / (1.0 - zipf->second / zipf->sum);
}

static uint64_t zipf_rank(const struct zipf *zipf, double chance, uint64_t count)
{
	double scaled = chance * zipf->sum;
	uint64_t rank;

	if (scaled < 1.0)
		return 0;
	if (scaled < zipf->second)
		return 1 % count;
	rank = (uint64_t)(zipf->count * pow(zipf->eta * chance - zipf->eta + 1.0, zipf->alpha));
	return rank < count ? rank : count - 1;
}

static struct access next_access(struct worker *worker)
{
	const struct run *run = worker->run;
	const struct drover_bench_options *options = run->options;
	uint64_t bits = next_random(worker);
	struct access access = { .word = (uint32_t)(bits % PAGE_WORDS) };

	switch (options->pattern) {
	case DROVER_BENCH_ZIPF:
		/* The prime spreads the hot ranks over the memory; it shares no factor with the number of pages. */
		access.page = zipf_rank(&run->zipf, real_of(next_random(worker)), run->pages) * 2654435761ull % run->pages;
		break;
	case DROVER_BENCH_SCAN:
		access.page = worker->position;
		worker->position = worker->position + 1 == run->pages ? 0 : worker->position + 1;
		break;
	default:
		access.page = (uint64_t)((unsigned __int128)next_random(worker) * run->pages >> 64);
		break;
	}
	if (options->writes != 0 && (bits >> 32) % 1000u < options->writes) {
		uint64_t own = access.page - access.page % options->threads + worker->index;

		access.page = own < run->pages ? own : worker->index;
		access.word -= access.word % 64u;
		access.write = 1;
	}
	return access;
}

static void wrong(struct worker *worker, const struct access *access)
{
	if (worker->wrong++ == 0)
		worker->wrong_offset = access->page * PAGE_SIZE + access->word * 8u;
}

static void touch(struct worker *worker, const struct access *access)
{
	struct run *run = worker->run;
	volatile uint64_t *word = run->memory + access->page * PAGE_WORDS + access->word;
	uint64_t tag = tag_of(access->page, access->word);
	uint8_t *version = access->word % 64u == 0 ? &run->versions[access->page * PAGE_SECTORS + access->word / 64u] : NULL;
	uint64_t value;

	if (access->write) {
		*version = (uint8_t)(*version + 1);
		*word = tag | *version;
		return;
	}
	value = *word;
	worker->sum ^= value;
	if (version != NULL && run->options->writes != 0 && access->page % run->options->threads != worker->index)
		value &= ~VERSION_MASK;
	else if (version != NULL)
		tag |= *version;
	if (value != tag)
		wrong(worker, access);
}

/* Announces a batch of accesses. What is refused is only slower. */
static void announce(struct worker *worker, const struct access *batch, uint32_t count)
{
	uint64_t pages[DROVER_BENCH_HINTS_MAX];

	for (uint32_t i = 0; i < count; i++)
		pages[i] = batch[i].page;
	(void)drover_region_prefetch(worker->run->region, pages, count, 0);
}

static void *work(void *argument)
{
	struct worker *worker = argument;
	struct run *run = worker->run;
	const struct drover_bench_options *options = run->options;
	struct access batches[2][DROVER_BENCH_HINTS_MAX];
	uint32_t batch_size = options->hints == 0 ? 1 : options->hints;
	uint32_t current = 0;
	int hinting = options->hints != 0 && run->region != NULL;
	uint64_t limit, last;
	int go;

	pthread_mutex_lock(&run->gate);
	go = run->go;
	pthread_mutex_unlock(&run->gate);
	if (!go)
		return NULL;
	worker->begin = last = now();
	limit = last + options->nanoseconds;
	for (uint32_t i = 0; i < batch_size; i++)
		batches[0][i] = next_access(worker);
	if (hinting)
		announce(worker, batches[0], batch_size);
	for (;;) {
		const struct access *batch = batches[current];

		/* The batch after this one is announced before this one is used: its pages come meanwhile. */
		current ^= 1u;
		for (uint32_t i = 0; i < batch_size; i++)
			batches[current][i] = next_access(worker);
		if (hinting)
			announce(worker, batches[current], batch_size);
		for (uint32_t i = 0; i < batch_size; i++) {
			uint64_t time, took;

			touch(worker, &batch[i]);
			time = now();
			took = time - last;
			last = time;
			worker->buckets[bucket_of(took)]++;
			if (took > worker->slowest)
				worker->slowest = took;
			worker->ops++;
			if (time >= limit || worker->ops == options->ops) {
				worker->end = time;
				return NULL;
			}
		}
	}
}

static uint64_t percentile(const uint64_t *buckets, uint64_t count, uint32_t permille)
{
	uint64_t rank = count * permille / 1000u, seen = 0;

	for (uint32_t bucket = 0; bucket < BUCKETS; bucket++) {
		seen += buckets[bucket];
		if (seen > rank)
			return bucket_value(bucket);
	}
	return 0;
}

static void gather(struct worker *workers, uint32_t count, struct drover_bench_result *out)
{
	uint64_t *buckets = workers[0].buckets;
	uint64_t begin = workers[0].begin, end = workers[0].end;

	*out = (struct drover_bench_result){ 0 };
	for (uint32_t i = 0; i < count; i++) {
		const struct worker *worker = &workers[i];

		if (i != 0)
			for (uint32_t bucket = 0; bucket < BUCKETS; bucket++)
				buckets[bucket] += worker->buckets[bucket];
		begin = worker->begin < begin ? worker->begin : begin;
		end = worker->end > end ? worker->end : end;
		if (out->wrong == 0)
			out->wrong_offset = worker->wrong_offset;
		out->wrong += worker->wrong;
		out->ops += worker->ops;
		out->sum ^= worker->sum;
		out->slowest = worker->slowest > out->slowest ? worker->slowest : out->slowest;
	}
	out->nanoseconds = end - begin;
	out->p50 = percentile(buckets, out->ops, 500);
	out->p90 = percentile(buckets, out->ops, 900);
	out->p99 = percentile(buckets, out->ops, 990);
}

static int memory_check(const void *memory, uint64_t size, const uint8_t *versions)
{
	if (memory == NULL || versions == NULL || size == 0 || size % PAGE_SIZE != 0)
		return -EINVAL;
	return 0;
}

int drover_bench_fill(void *memory, uint64_t size, uint8_t *versions)
{
	uint64_t *words = memory;
	int rc = memory_check(memory, size, versions);

	if (rc < 0)
		return rc;
	memset(versions, 0, size / PAGE_SIZE * PAGE_SECTORS);
	for (uint64_t page = 0; page < size / PAGE_SIZE; page++)
		for (uint32_t word = 0; word < PAGE_WORDS; word++)
			words[page * PAGE_WORDS + word] = tag_of(page, word);
	return 0;
}

int drover_bench_verify(const void *memory, uint64_t size, const uint8_t *versions, uint64_t *wrong_out)
{
	const uint64_t *words = memory;
	uint64_t found = 0;
	int rc = memory_check(memory, size, versions);

	if (rc < 0)
		return rc;
	for (uint64_t page = 0; page < size / PAGE_SIZE; page++)
		for (uint32_t word = 0; word < PAGE_WORDS; word++) {
			uint64_t version = word % 64u == 0 ? versions[page * PAGE_SECTORS + word / 64u] : 0;

			found += words[page * PAGE_WORDS + word] != (tag_of(page, word) | version);
		}
	*wrong_out = found;
	return 0;
}

int drover_bench_touch(struct drover_region *region, void *memory, uint8_t *versions,
		       const struct drover_bench_options *options, struct drover_bench_result *out)
{
	struct run run = { .region = region, .memory = memory, .versions = versions, .options = options };
	struct worker *workers;
	uint32_t started = 0;
	int rc = memory_check(memory, options->size, versions);

	if (rc < 0)
		return rc;
	if (options->nanoseconds == 0 || options->nanoseconds > MONTH_NANOSECONDS || options->threads == 0 ||
	    options->threads > DROVER_BENCH_THREADS_MAX || options->hints > DROVER_BENCH_HINTS_MAX || options->writes > 1000 ||
	    options->pattern > DROVER_BENCH_SCAN || options->size / PAGE_SIZE < options->threads)
		return -EINVAL;
	run.pages = options->size / PAGE_SIZE;
	if (options->pattern == DROVER_BENCH_ZIPF)
		zipf_prepare(&run.zipf, run.pages);
	workers = calloc(options->threads, sizeof(*workers));
	if (workers == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < options->threads; i++) {
		workers[i].run = &run;
		workers[i].index = i;
		workers[i].random = mix(options->seed ^ mix(i + 1));
		workers[i].position = run.pages / options->threads * i;
	}
	/* The first worker is the caller's own thread. */
	pthread_mutex_init(&run.gate, NULL);
	pthread_mutex_lock(&run.gate);
	for (started = 1; started < options->threads; started++) {
		rc = -pthread_create(&workers[started].thread, NULL, work, &workers[started]);
		if (rc < 0)
			break;
	}
	run.go = rc == 0;
	pthread_mutex_unlock(&run.gate);
	work(&workers[0]);
	for (uint32_t i = 1; i < started; i++)
		pthread_join(workers[i].thread, NULL);
	pthread_mutex_destroy(&run.gate);
	if (rc == 0)
		gather(workers, options->threads, out);
	free(workers);
	return rc;
}
