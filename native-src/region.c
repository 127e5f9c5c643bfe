/*
 * region.c - opening and closing regions, and looking at them.
 *
 * A region's struct is never freed: a call or a fault that comes after close finds `open` 0 and goes away. `users`
 * counts those inside; close waits until there are none, then takes everything else down. The struct is wiped in a
 * child after fork (MADV_WIPEONFORK), so there the region is closed too: its userfaultfd would move the parent's pages.
 */
#include "region.h"

#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#define CONTEXTS_DEFAULT 8u
#define CONTEXTS_MAX 64u
#define BATCH_DEFAULT 16u
#define AROUND_MAX 16u
#define SPIN_US_MAX 1000u
#define HEAT_MAX 15u
#define FLAGS_ALL (DROVER_REGION_PREWRITE | DROVER_REGION_ANONYMOUS | DROVER_REGION_BUFFERED | DROVER_REGION_SAY)

/* All open regions, for the handler to search. */
static _Atomic(struct drover_region *) regions[DROVER_REGIONS_MAX];

/* -- counters --------------------------------------------------------------------------------------------- */

void histogram_add(uint64_t *histogram, uint64_t nanos)
{
	uint32_t bucket = (uint32_t)nanos;

	if (nanos >= 8) {
		uint32_t top = 63u - (uint32_t)__builtin_clzll(nanos);

		bucket = 8 * (top - 2) + (uint32_t)(nanos >> (top - 3) & 7);
	}
	count(&histogram[bucket < DROVER_HISTOGRAM_BUCKETS ? bucket : DROVER_HISTOGRAM_BUCKETS - 1], 1);
}

void region_trace(struct drover_region *region, uint64_t page, uint32_t kind)
{
	struct drover_region_control *control = region->control;
	uint64_t at = __atomic_fetch_add(&control->trace_head, 1, __ATOMIC_RELAXED) % DROVER_TRACE_ENTRIES;
	uint64_t millis = (now() - region->opened) / 1000000u;

	__atomic_store_n(&control->trace[at], page | (uint64_t)kind << 40 | (millis & 0xfffffu) << 44, __ATOMIC_RELAXED);
}

/* A bounded queue of many writers and many readers; when it is full the event is only counted. */
void region_event(struct drover_region *region, uint64_t page, uint32_t why, int error)
{
	uint64_t head = atomic_load_explicit(&region->event_head, memory_order_relaxed);

	count(&region->control->stats.errors, 1);
	for (;;) {
		struct event_slot *slot = &region->events[head % EVENTS];
		uint64_t turn = atomic_load_explicit(&slot->turn, memory_order_acquire);

		if (turn == head) {
			if (!atomic_compare_exchange_weak(&region->event_head, &head, head + 1))
				continue;
			slot->event = (struct drover_region_event){
				.page = page, .nanos = now() - region->opened, .error = (uint32_t)error, .why = why
			};
			atomic_store_explicit(&slot->turn, head + 1, memory_order_release);
			return;
		}
		if (turn < head) {
			count(&region->control->stats.events_lost, 1);
			return;
		}
		head = atomic_load_explicit(&region->event_head, memory_order_relaxed);
	}
}

void publish(struct drover_region *region, uint64_t page, uint32_t word, uint32_t state)
{
	uint32_t is = atomic_load_explicit(&region->words[page], memory_order_relaxed);
	uint32_t next;

	if ((PAGE_MOVES_FROM_BUSY >> state & 1u) == 0 || state_of(is) != DROVER_PAGE_BUSY)
		__builtin_trap(); /* the program is wrong, and going on would be somebody's data */
	do
		next = (word & ~(STATE_MASK | SHADOW)) | (is & SHADOW) | state;
	while (!atomic_compare_exchange_weak_explicit(&region->words[page], &is, next, memory_order_release,
						      memory_order_relaxed));
	if (region->fault_mode == DROVER_FAULT_THREAD && state != DROVER_PAGE_COLD && state != DROVER_PAGE_EMPTY)
		memory_wake(region, page, 1);
}

uint64_t region_limit(struct drover_region *region)
{
	uint64_t limit = __atomic_load_n(&region->control->limit_pages, __ATOMIC_RELAXED);
	uint64_t least = DROVER_REGION_LIMIT_MIN / PAGE;

	limit = limit < region->limit_max ? limit : region->limit_max;
	return limit > least ? limit : least;
}

uint32_t region_batch(struct drover_region *region)
{
	uint32_t batch = knob(&region->control->evict_batch);

	return batch == 0 ? BATCH_DEFAULT : batch < BATCH_MAX ? batch : BATCH_MAX;
}

/* -- who is inside ---------------------------------------------------------------------------------------- */

int region_enter(struct drover_region *region)
{
	if (region == NULL)
		return -EBADF;
	atomic_fetch_add(&region->users, 1);
	if (atomic_load(&region->open))
		return 0;
	atomic_fetch_sub(&region->users, 1);
	return -EBADF;
}

void region_leave(struct drover_region *region)
{
	atomic_fetch_sub_explicit(&region->users, 1, memory_order_release);
}

int region_begin(struct drover_region *region, sigset_t *saved)
{
	static const int synchronous[] = { SIGBUS, SIGSEGV, SIGILL, SIGFPE, SIGTRAP, SIGABRT };
	sigset_t blocked;
	int rc = region_enter(region);

	if (rc < 0)
		return rc;
	sigfillset(&blocked);
	for (size_t i = 0; i < sizeof(synchronous) / sizeof(synchronous[0]); i++)
		sigdelset(&blocked, synchronous[i]);
	pthread_sigmask(SIG_SETMASK, &blocked, saved);
	return 0;
}

void region_end(struct drover_region *region, const sigset_t *saved)
{
	region_leave(region);
	pthread_sigmask(SIG_SETMASK, saved, NULL);
}

struct drover_region *region_at(const void *address)
{
	for (uint32_t i = 0; i < DROVER_REGIONS_MAX; i++) {
		struct drover_region *region = atomic_load_explicit(&regions[i], memory_order_acquire);

		if (region == NULL || region_enter(region) < 0)
			continue;
		if ((uintptr_t)address - (uintptr_t)region->base < region->size)
			return region;
		region_leave(region);
	}
	return NULL;
}

static int enlist(struct drover_region *region)
{
	for (uint32_t i = 0; i < DROVER_REGIONS_MAX; i++) {
		struct drover_region *none = NULL;

		if (atomic_compare_exchange_strong(&regions[i], &none, region))
			return 0;
	}
	return -EMFILE;
}

static void delist(struct drover_region *region)
{
	for (uint32_t i = 0; i < DROVER_REGIONS_MAX; i++) {
		struct drover_region *ours = region;

		atomic_compare_exchange_strong(&regions[i], &ours, NULL);
	}
}

/* -- open and close --------------------------------------------------------------------------------------- */

int region_check(const struct drover_region_options *options)
{
	uint64_t size = options->size;

	if (size == 0 || size % PAGE != 0 || size > DROVER_REGION_SIZE_MAX)
		return -EINVAL;
	if (options->limit < DROVER_REGION_LIMIT_MIN || (options->ssd_size != 0 && options->ssd_size < size) ||
	    options->ssd_size > 4 * DROVER_REGION_SIZE_MAX)
		return -EINVAL;
	if (options->fault_mode > DROVER_FAULT_THREAD || options->dirty_mode > DROVER_DIRTY_ASYNC || options->shared > 1 ||
	    (options->flags & ~FLAGS_ALL) != 0)
		return -EINVAL;
	/* In a shared region write protection belongs to demotion. */
	if (options->shared != 0 && (options->fault_mode != DROVER_FAULT_THREAD || options->dirty_mode != DROVER_DIRTY_HASH))
		return -EINVAL;
	if (options->spin_us > SPIN_US_MAX || options->evict_batch > BATCH_MAX || options->contexts > CONTEXTS_MAX)
		return -EINVAL;
	if (options->read_around > AROUND_MAX || (options->read_around & (options->read_around - 1)) != 0)
		return -EINVAL;
	return sysconf(_SC_PAGESIZE) == (long)PAGE ? 0 : -EOPNOTSUPP;
}

static void *map_zeros(uint64_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (memory == MAP_FAILED)
		return NULL;
	madvise(memory, size, MADV_NOHUGEPAGE);
	return memory;
}

static uint64_t words_size(const struct drover_region *region)
{
	return (region->pages * sizeof(uint32_t) + PAGE - 1) & ~(PAGE - 1);
}

static uint64_t hashes_size(const struct drover_region *region)
{
	return (region->pages * sizeof(uint64_t) + PAGE - 1) & ~(PAGE - 1);
}

static uint64_t written_size(const struct drover_region *region)
{
	return ((region->pages + 63) / 64 * sizeof(uint64_t) + PAGE - 1) & ~(PAGE - 1);
}

static uint64_t struct_size(void)
{
	return (sizeof(struct drover_region) + PAGE - 1) & ~(PAGE - 1);
}

static uint64_t control_size(void)
{
	return (sizeof(struct drover_region_control) + PAGE - 1) & ~(PAGE - 1);
}

/* Everything but threads and handlers, also of a half-open region. */
static void take_down(struct drover_region *region)
{
	contexts_close(region);
	memory_close(region);
	if (region->words != NULL)
		munmap(region->words, words_size(region));
	if (region->hashes != NULL)
		munmap(region->hashes, hashes_size(region));
	if (region->written != NULL)
		munmap(region->written, written_size(region));
	if (region->control != NULL)
		munmap(region->control, control_size());
	region->words = NULL;
	region->hashes = NULL;
	region->written = NULL;
	region->control = NULL;
	if (region->store.calls != NULL)
		region->store.calls->close(&region->store);
	region->store.calls = NULL;
}

static int set_up(struct drover_region *region, const struct drover_region_options *options)
{
	static const _Alignas(DROVER_PAGE_SIZE) uint8_t zeros[DROVER_PAGE_SIZE];
	int rc;

	if (getrandom(region->secret, sizeof(region->secret), 0) != (ssize_t)sizeof(region->secret))
		return -EIO;
	region->zero_hash = content_hash(region, zeros);
	region->words = map_zeros(words_size(region));
	region->hashes = map_zeros(hashes_size(region));
	region->control = map_zeros(control_size());
	if (region->words == NULL || region->hashes == NULL || region->control == NULL)
		return -ENOMEM;
	if (region->dirty_mode == DROVER_DIRTY_ASYNC) {
		region->written = map_zeros(written_size(region));
		if (region->written == NULL)
			return -ENOMEM;
	}
	region->control->limit_pages = region->limit_max;
	region->control->spin_us = options->spin_us;
	region->control->evict_batch = options->evict_batch == 0 ? BATCH_DEFAULT : options->evict_batch;
	region->control->read_around = options->read_around == 0 ? 1 : options->read_around;
	region->control->heat_max = HEAT_MAX;
	rc = memory_open(region);
	if (rc < 0)
		return rc;
	return contexts_open(region);
}

int region_open(const struct drover_region_options *options, const struct store *store, struct drover_region **out)
{
	struct drover_region *region = map_zeros(struct_size());
	int rc;

	if (region == NULL || madvise(region, struct_size(), MADV_WIPEONFORK) < 0) {
		struct store unused = *store;

		unused.calls->close(&unused);
		if (region != NULL)
			munmap(region, struct_size());
		return -ENOMEM;
	}
	region->store = *store;
	region->size = options->size;
	region->pages = options->size / PAGE;
	/* More than every page in region and shadow at once there cannot be. */
	region->limit_max = options->limit / PAGE < 2 * region->pages + 256 ? options->limit / PAGE : 2 * region->pages + 256;
	region->fault_mode = options->fault_mode;
	region->dirty_mode = options->dirty_mode;
	region->shared = options->shared;
	region->flags = options->flags;
	region->context_count = options->contexts == 0 ? CONTEXTS_DEFAULT : options->contexts;
	if (region->fault_mode == DROVER_FAULT_THREAD)
		region->context_count++; /* the thread keeps one */
	region->uffd = region->memfd = region->pidfd = region->pagemap = region->wake = -1;
	region->device_nanos = DEVICE_NANOS_MAX;
	region->room_nanos = ROOM_NANOS_MAX;
	region->opened = now();
	for (uint32_t i = 0; i < EVENTS; i++)
		region->events[i].turn = i;
	rc = set_up(region, options);
	if (rc < 0)
		goto no_set_up;
	rc = enlist(region);
	if (rc < 0)
		goto no_set_up;
	atomic_store(&region->open, 1);
	rc = faults_open(region);
	if (rc < 0)
		goto no_faults;
	*out = region;
	return 0;
no_faults:
	atomic_store(&region->open, 0);
	delist(region);
no_set_up:
	take_down(region);
	munmap(region, struct_size());
	return rc;
}

int drover_region_open(const char *ssd_path, const struct drover_region_options *options, struct drover_region **out)
{
	struct store store;
	int rc = region_check(options);

	if (rc < 0)
		return rc;
	rc = store_file_open(ssd_path, options->ssd_size == 0 ? options->size : options->ssd_size, options->flags, &store);
	if (rc < 0)
		return rc;
	return region_open(options, &store, out);
}

int drover_region_close(struct drover_region *region)
{
	uint32_t yes = 1;

	if (region == NULL || !atomic_compare_exchange_strong(&region->open, &yes, 0))
		return -EBADF;
	delist(region);
	faults_close(region);
	while (atomic_load_explicit(&region->users, memory_order_acquire) > 0) {
		struct timespec pause = { 0, 100000 };

		nanosleep(&pause, NULL);
	}
	for (uint32_t i = 0; i < region->context_count; i++)
		context_drain(region, &region->contexts[i]);
	take_down(region);
	return 0;
}

/* -- looking ---------------------------------------------------------------------------------------------- */

uint64_t drover_region_address(struct drover_region *region)
{
	uint64_t address;

	if (region_enter(region) < 0)
		return 0;
	address = (uintptr_t)region->base;
	region_leave(region);
	return address;
}

uint64_t drover_region_control(struct drover_region *region)
{
	uint64_t address;

	if (region_enter(region) < 0)
		return 0;
	address = (uintptr_t)region->control;
	region_leave(region);
	return address;
}

int drover_region_fd(struct drover_region *region)
{
	int fd = region_enter(region);

	if (fd < 0)
		return fd;
	fd = region->shared ? region->memfd : -EINVAL;
	region_leave(region);
	return fd;
}

int drover_region_sample(struct drover_region *region, uint64_t first, uint64_t page_count, uint8_t *out)
{
	int rc = region_enter(region);

	if (rc < 0)
		return rc;
	if (first > region->pages || page_count > region->pages - first) {
		region_leave(region);
		return -EINVAL;
	}
	for (uint64_t i = 0; i < page_count; i++) {
		uint32_t word = atomic_load_explicit(&region->words[first + i], memory_order_relaxed);
		uint32_t heat = (word & LEVEL_MASK) >> LEVEL_SHIFT << 1 | ((word & CREDIT_MASK) != 0);

		out[i] = (uint8_t)(state_of(word) | heat << 4);
	}
	region_leave(region);
	return 0;
}

int drover_region_heat(struct drover_region *region, uint64_t first, uint64_t page_count, uint32_t heat)
{
	int rc = region_enter(region);

	if (rc < 0)
		return rc;
	if (first > region->pages || page_count > region->pages - first || heat > HEAT_MAX) {
		region_leave(region);
		return -EINVAL;
	}
	for (uint64_t page = first; page < first + page_count; page++) {
		uint32_t word = word_at(region, page), next;

		do
			next = (word & ~(LEVEL_MASK | CREDIT_MASK)) | heat / 2 << LEVEL_SHIFT | heat << CREDIT_SHIFT;
		while (state_of(word) != DROVER_PAGE_BUSY && !atomic_compare_exchange_weak(&region->words[page], &word, next));
	}
	region_leave(region);
	return 0;
}

int drover_region_stats(struct drover_region *region, struct drover_region_stats *out)
{
	int rc = region_enter(region);
	struct drover_region_stats *stats;

	if (rc < 0)
		return rc;
	stats = &region->control->stats;
	__atomic_store_n(&stats->resident_pages, atomic_load(&region->frames), __ATOMIC_RELAXED);
	__atomic_store_n(&stats->pinned_pages, atomic_load(&region->pinned), __ATOMIC_RELAXED);
	__atomic_store_n(&stats->writeback_pages, atomic_load(&region->writeback), __ATOMIC_RELAXED);
	__atomic_store_n(&stats->limit_pages, region_limit(region), __ATOMIC_RELAXED);
	for (size_t i = 0; i < sizeof(*stats) / sizeof(uint64_t); i++)
		((uint64_t *)out)[i] = __atomic_load_n((uint64_t *)stats + i, __ATOMIC_RELAXED);
	region_leave(region);
	return 0;
}

int drover_region_events(struct drover_region *region, struct drover_region_event *events, size_t limit)
{
	int taken = 0, rc = region_enter(region);

	if (rc < 0)
		return rc;
	while ((size_t)taken < limit && taken < (int)EVENTS) {
		uint64_t tail = atomic_load(&region->event_tail);
		struct event_slot *slot = &region->events[tail % EVENTS];
		uint64_t turn = atomic_load_explicit(&slot->turn, memory_order_acquire);

		if (turn < tail + 1)
			break;
		if (turn > tail + 1 || !atomic_compare_exchange_strong(&region->event_tail, &tail, tail + 1))
			continue;
		events[taken++] = slot->event;
		atomic_store_explicit(&slot->turn, tail + EVENTS, memory_order_release);
	}
	region_leave(region);
	return taken;
}
