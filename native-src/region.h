/*
 * region.h - what the files of a region share: its structures and the calls between them.
 *
 *   region.c    open, close, gauges, sampling             page.c   one page's memory: copy, move, drop, protect, hash
 *   fault.c     SIGBUS handler, fault thread              serve.c  one page made present
 *   range.c     pin, populate, prefetch, evict lists ...  fetch.c  reads in flight, their completion, contexts
 *   harvest.c   dirty epochs                              evict.c  clock, demotion, write-back, room under the cap
 *   moves.c     copies between stores: move, mend, retire   stores.c, tiers.h  regions with several stores
 *   store_file.c  the file and its rings              store_nbd*.c  a donor's memory over TCP
 *   store_verbs.c  a donor's memory by RDMA
 *
 * No function that a fault can reach allocates, takes a lock or calls into libc's stateful parts.
 * A thread claims in this order and never waits for an earlier kind while it holds a later one:
 *   1. a context (fetch.c), 2. pages (BUSY), 3. frames (the count under the cap).
 * Waiting for a BUSY page or for room always helps: whoever waits reaps the completions of idle contexts, so nothing
 * depends on the thread that submitted a request. All signals but the synchronous ones are blocked meanwhile, so
 * no signal handler on the same thread can wait for what its own thread holds.
 */
#ifndef DROVER_REGION_H
#define DROVER_REGION_H

#include "internal.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/uio.h>
#include <time.h>

#define PAGE ((uint64_t)DROVER_PAGE_SIZE)
#define BATCH_MAX DROVER_REGION_BATCH_MAX
#define BUFFER_PAGES 64u /* per context: the bits of one word */
#define OPERATIONS 64u	 /* the same */
#define EVENTS 256u
#define ENDPOINTS_MAX 64u
#define STORES_MAX 17u /* one that is made of DROVER_STORES_MAX others, each of which may wrap one */

/* A read that takes longer is given up and its page poisoned; it keeps its buffer until it comes back, if ever. */
#define DEVICE_NANOS_MAX 30000000000ull
/* No frame became free for so long, though nothing is being written or writes fail: the toucher gets SIGBUS. */
#define ROOM_NANOS_MAX 1000000000ull

/*
 * One page's word. While the state is BUSY only the owner changes it, but for SHADOW, which the completion of
 * a write may clear at any time but under BUSY (it waits). A page is mapped in CLEAN and DIRTY; pins are 0 in
 * all other states but BUSY.
 *
 *   bits  0-3  state       bits  4-11 pins       bits 12-15 credit: passes of the clock that it still survives
 *   bits 16-18 level: how often it came back soon                bit 19 SHADOW: its shadow is being written from
 *   bit  20 REPORTED: differs from the file, and a harvest has said so
 *   bits 21-31 stamp: when it left, in eighths of a limit's worth of evictions
 */
#define STATE_MASK 0xfu
#define PIN_SHIFT 4
#define PIN_ONE (1u << PIN_SHIFT)
#define PIN_MASK (0xffu << PIN_SHIFT)
#define CREDIT_SHIFT 12
#define CREDIT_ONE (1u << CREDIT_SHIFT)
#define CREDIT_MASK (0xfu << CREDIT_SHIFT)
#define LEVEL_SHIFT 16
#define LEVEL_MASK (7u << LEVEL_SHIFT)
#define LEVEL_MAX 7u
#define SHADOW (1u << 19)
#define REPORTED (1u << 20)
#define STAMP_SHIFT 21
#define STAMP_MASK (0x7ffu << STAMP_SHIFT)

enum operation_kind { FREE = 0, READ, WRITE, FLUSH, ABANDONED, MOVE };

/* One request in flight: `count` neighbouring pages. */
struct operation {
	uint64_t page;
	uint64_t started; /* nanoseconds */
	uint16_t count;
	uint16_t buffer; /* first page in the context's buffer; unused for WRITE */
	uint8_t kind;	 /* enum operation_kind */
	uint8_t writable; /* READ: map without write protection */
	uint8_t demand;	 /* READ: which page of them was touched; 255 for none. MOVE: the store it goes to */
	uint8_t trace;	 /* READ: DROVER_TRACE_… of that page */
};

/* A finished request as a store hands it over. */
struct completion {
	uint32_t id;
	int32_t result; /* bytes or -errno */
};

/* What a thread claims to talk to the store. Its fields belong to who holds `claimed`. */
struct context {
	_Alignas(64) _Atomic uint32_t claimed;
	_Atomic uint32_t in_flight; /* operations; read by others */
	void *ports[STORES_MAX]; /* what the store, or each of several, keeps per context: at store->at */
	uint8_t *buffer; /* BUFFER_PAGES */
	uint64_t buffer_free;
	uint64_t operation_free;
	struct operation operations[OPERATIONS];
	uint32_t reads;	    /* operations of them that are READ */
	uint64_t failures;  /* failed FLUSH and MOVE pages since the caller set it to 0 */
	uint32_t slice;	    /* how much is evicted while a read flies, in parts of a page; 0: not known yet */
	uint32_t crowded;   /* so many reads are waited for without spinning, as other threads want the processor */
	uint32_t penalty;   /* ... and so many it was lately, less those that went well since */
	uint64_t hand, hand_end; /* the clock's pages that this context took and has not looked at */
	/* scratch of an eviction */
	uint64_t victims[BATCH_MAX];
	uint32_t words[BATCH_MAX];
	uint8_t fates[BATCH_MAX];
	uint64_t sums[BATCH_MAX];
	struct iovec vectors[BATCH_MAX];
	/* scratch of a reap: its own, because one can happen within the other */
	struct completion completions[OPERATIONS];
	uint64_t dropped[BATCH_MAX]; /* page << 1 | 1 when it is mapped again */
	struct iovec drop_vectors[BATCH_MAX];
};

/* Where cold pages are. The second implementation, a store that fails on demand, is in tests/native. */
struct store;
struct store_calls {
	int (*attach)(struct store *store, struct context *context);
	void (*detach)(struct store *store, struct context *context);
	/* Remembers one request; never fails. `memory` stays valid until its completion. `id` comes back as it is. */
	void (*queue)(struct store *store, struct context *context, uint32_t id, int write, void *memory, uint32_t size,
		      uint64_t offset, int in_buffer);
	/* Hands the queued ones to the device. They come back by reap() in any case. */
	void (*submit)(struct store *store, struct context *context);
	/* Takes what has finished; waits up to `nanos` for the first. Returns how many. */
	uint32_t (*reap)(struct store *store, struct context *context, uint64_t nanos, struct completion *out, uint32_t count);
	/* What poll(2) can wait on for the next completion; -1: reap() never waits. NULL is -1. */
	int (*wait_fd)(struct store *store, struct context *context);
	/* The content of a page is not needed any more; the caller has it BUSY. NULL where that changes nothing. */
	void (*forget)(struct store *store, uint64_t page);
	void (*close)(struct store *store);
	/* The content of these bytes no longer matters: like queue(), result `size`. NULL: nothing would come of it. */
	void (*discard)(struct store *store, struct context *context, uint32_t id, uint32_t size, uint64_t offset);
	/* Now and then, whether or not something is in flight: what no request should have to wait for. May be NULL. */
	void (*tend)(struct store *store, struct context *context);
};
struct store {
	const struct store_calls *calls;
	int fd;
	uint32_t at;    /* its place in a context's ports */
	uint32_t plain; /* a file: pread and pwrite, no io_uring */
	void *inner;	/* of a store that is no file */
};

struct drover_region {
	_Atomic uint32_t users; /* threads inside a call or a fault */
	_Atomic uint32_t open;
	uint64_t size, pages;
	uint8_t *base, *shadow; /* of a shared region `shadow` is the second mapping of the memfd */
	_Atomic uint32_t *words;
	uint64_t *hashes;	   /* of what the file holds; 0: nothing valid. Owned with BUSY, and with SHADOW by the writer */
	_Atomic uint64_t *written; /* DROVER_DIRTY_ASYNC: sticky bits of pages that left changed */
	struct drover_region_control *control;
	struct context *contexts;
	uint32_t context_count;
	int uffd, memfd, pidfd, pagemap, wake;
	uint32_t fault_mode, dirty_mode, shared, flags;
	_Atomic uint32_t vectored; /* process_madvise(self) works */
	struct store store;
	uint64_t limit_max;
	uint64_t device_nanos, room_nanos; /* DEVICE_NANOS_MAX and ROOM_NANOS_MAX; tests have less patience */
	uint64_t secret[5];
	uint64_t zero_hash;
	uint64_t opened; /* nanoseconds */
	_Alignas(64) _Atomic uint64_t frames; /* pages of RAM in use: never above the limit, unless it was lowered */
	_Atomic uint64_t pinned;
	_Atomic uint64_t writeback;
	_Alignas(64) _Atomic uint64_t hand;
	_Atomic uint64_t evictions; /* pages that left */
	_Atomic uint64_t freed;	    /* frames that became free */
	_Atomic uint64_t write_errors;
	pthread_t thread;
	/* ring of events: a slot's turn says who may use it, as in a bounded queue of many writers */
	_Atomic uint64_t event_head, event_tail;
	struct event_slot {
		_Atomic uint64_t turn;
		struct drover_region_event event;
	} events[EVENTS];
};

/* -- small things --------------------------------------------------------------------------------------- */

static inline uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static inline void pause_briefly(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#else
	__asm__ volatile("" ::: "memory");
#endif
}

static inline uint32_t state_of(uint32_t word)
{
	return word & STATE_MASK;
}

static inline int is_mapped(uint32_t word)
{
	return state_of(word) == DROVER_PAGE_CLEAN || state_of(word) == DROVER_PAGE_DIRTY;
}

static inline uint32_t word_at(struct drover_region *region, uint64_t page)
{
	return atomic_load_explicit(&region->words[page], memory_order_acquire);
}

/* Takes the page out of the state that `word` says; whether it is ours now. */
static inline int take(struct drover_region *region, uint64_t page, uint32_t word)
{
	return atomic_compare_exchange_strong_explicit(&region->words[page], &word, (word & ~STATE_MASK) | DROVER_PAGE_BUSY,
						       memory_order_acq_rel, memory_order_relaxed);
}

static inline void count(uint64_t *counter, uint64_t by)
{
	__atomic_fetch_add(counter, by, __ATOMIC_RELAXED);
}

static inline uint32_t knob(const uint32_t *field)
{
	return __atomic_load_n(field, __ATOMIC_RELAXED);
}

/* What the store has of a BUSY page is not needed any more. */
static inline void store_forget(struct drover_region *region, uint64_t page)
{
	if (region->store.calls->forget != NULL)
		region->store.calls->forget(&region->store, page);
}

/* -- region.c --------------------------------------------------------------------------------------------- */

/* Opens over `store`, which the region then owns; drover_region_open() with the file already open. */
int region_open(const struct drover_region_options *options, const struct store *store, struct drover_region **out);

/* Why an option cannot be, or 0. */
int region_check(const struct drover_region_options *options);

/* Holds the region open during a call: 0 or -EBADF. */
int region_enter(struct drover_region *region);
void region_leave(struct drover_region *region);

/* The same with signals blocked, for calls that hold pages. */
int region_begin(struct drover_region *region, sigset_t *saved);
void region_end(struct drover_region *region, const sigset_t *saved);

/* The open region that `address` is in, held; NULL for none. Safe in a signal handler. */
struct drover_region *region_at(const void *address);

uint64_t region_limit(struct drover_region *region);
uint32_t region_batch(struct drover_region *region);

/* Gives back a BUSY page in another state, with these bits; keeps SHADOW as it is by then. */
void publish(struct drover_region *region, uint64_t page, uint32_t word, uint32_t state);

void region_event(struct drover_region *region, uint64_t page, uint32_t why, int error);
void region_trace(struct drover_region *region, uint64_t page, uint32_t kind);
void histogram_add(uint64_t *histogram, uint64_t nanos);

/* -- page.c: memory of pages that the caller has BUSY; all return 0 or -errno ------------------------------- */

int memory_open(struct drover_region *region);
void memory_close(struct drover_region *region);

/* Maps `count` pages with these bytes; `*done` are there even on failure. */
int memory_fill(struct drover_region *region, uint64_t page, const void *bytes, uint64_t count, int protect,
		uint64_t *done);

/* Between region and shadow without a copy; `*done` as above. */
int memory_demote(struct drover_region *region, uint64_t page, uint64_t count, uint64_t *done);
int memory_promote(struct drover_region *region, uint64_t page, uint64_t count, uint64_t *done);

/* Frees pages of the region (`from_shadow` 0) or of the shadow. Fails only if the mapping is gone. */
void memory_drop(struct drover_region *region, const uint64_t *pages, uint32_t page_count, int from_shadow,
		 struct iovec *vectors);
int memory_protect(struct drover_region *region, uint64_t page, int protect);
void memory_poison(struct drover_region *region, uint64_t page);
void memory_wake(struct drover_region *region, uint64_t page, uint64_t page_count);

/* What the kernel's page tables say. */
int memory_is_mapped(struct drover_region *region, uint64_t page);
int memory_is_shadowed(struct drover_region *region, uint64_t page);

/* Sum of a page's bytes alone, and of them and where they belong (never 0). */
uint64_t content_hash(const struct drover_region *region, const void *bytes);
uint64_t page_hash(const struct drover_region *region, uint64_t page, uint64_t content);

/* -- store_file.c ---------------------------------------------------------------------------------------------- */

int store_file_open(const char *path, uint64_t size, uint32_t flags, struct store *out);

/* -- store_nbd.c ----------------------------------------------------------------------------------------------- */

/*
 * Connects once, so that a wrong address, ticket or size is told here; waits up to the time-out. -EINVAL: options or
 * block sizes that cannot be; -ENOENT, -EACCES: no such export, or not for us; -EROFS, -ENOSPC: it is read-only or
 * smaller than `size`; -EPROTO: no NBD server; -ETIMEDOUT and what connect(2) says.
 */
int store_nbd_open(const struct drover_store_options *options, struct store *out);

/* -- store_verbs.c ----------------------------------------------------------------------------------------------- */

/*
 * A donor's registered memory by RDMA. Each context connects when it is attached, and that says what is wrong: -EACCES no such ticket,
 * -ECONNREFUSED no donor there, -EBUSY too many connections, -ENOMEM the donor cannot register it, -ENOSPC it lends less than `size`,
 * -ETIMEDOUT, -EHOSTUNREACH. From here: -EOPNOTSUPP without libibverbs and librdmacm, -ENODEV without an adapter, -EACCES
 * without the right to it, -EINVAL.
 */
int store_verbs_open(const struct drover_store_options *options, struct store *out);

/* -- fetch.c ---------------------------------------------------------------------------------------------- */

int contexts_open(struct drover_region *region);
void contexts_close(struct drover_region *region);

/* Waits until a context is free. */
struct context *claim(struct drover_region *region);
struct context *try_claim(struct drover_region *region);
void release(struct context *context);

/* For a thread that lives off faults: claims one for good, which it gets by each claim() until it gives it up. */
struct context *keep(struct drover_region *region);
void give_up(struct context *context);

/* Room for `count` pages in the buffer, and a free operation: the id, or -1. */
int operation_take(struct context *context, uint32_t count, int with_buffer);
void operation_free(struct context *context, uint32_t id, int with_buffer);

/* Queues a read of `count` BUSY pages whose frames are reserved, into operation `id`. */
void fetch_queue(struct drover_region *region, struct context *context, uint32_t id, uint64_t page, uint32_t count,
		 int writable, uint32_t demand, uint32_t trace);
void context_submit(struct drover_region *region, struct context *context);

/* Takes completions and finishes them; waits up to `nanos` for the first. Returns how many. */
uint32_t context_reap(struct drover_region *region, struct context *context, uint64_t nanos);

/* Until operation `id` is done: spins, then blocks. Gives it up after DEVICE_NANOS_MAX. */
void context_wait(struct drover_region *region, struct context *context, uint32_t id, uint64_t started);

/* The same until no read is in flight there. */
void context_wait_reads(struct drover_region *region, struct context *context);

/* Pages that were copied from store to store (moves.c), or could not be, are COLD again. */
void finish_move(struct drover_region *region, struct context *context, const struct operation *operation, int32_t got);

/* A BUSY page that cannot be had: event, POISON, and its frame is free. */
void lose(struct drover_region *region, uint64_t page, uint32_t why, int error);

/* Until nothing is in flight there, or DEVICE_NANOS_MAX. */
void context_drain(struct drover_region *region, struct context *context);

/* Finishes what idle contexts have in their rings; returns how many requests. */
uint32_t help(struct drover_region *region);

/* Waits a little, helping, while the page is BUSY. `*round` begins at 0. */
void wait_while_busy(struct drover_region *region, uint64_t page, uint32_t *round);

/* -- evict.c ---------------------------------------------------------------------------------------------- */

int try_reserve(struct drover_region *region, uint64_t frame_count);
void unreserve(struct drover_region *region, uint64_t frame_count);

/* Reserves, evicting as long as it takes: 0 or -ENOMEM. */
int make_room(struct drover_region *region, struct context *context, uint64_t frame_count);

/* Whether it is time for a batch to go. */
int wants_eviction(struct drover_region *region);

/* Sends up to `want` pages out by the clock's order; looks at `*budget` pages at most. Returns how many. */
uint32_t evict_some(struct drover_region *region, struct context *context, uint32_t want, uint64_t *budget);

/*
 * While read `id` flies: evicts if it is time to, `least` pages or more, and as many as have lately left the read
 * waiting for the device and not for the eviction.
 */
void evict_meanwhile(struct drover_region *region, struct context *context, uint32_t id, uint32_t least);

/* Sends out the `count` BUSY pages in context->victims (ascending) with their former words. Returns how many left. */
int may_leave(uint32_t word);
void sort_victims(struct context *context, uint32_t victim_count);
uint32_t demote(struct drover_region *region, struct context *context, uint32_t victim_count, uint32_t flags);

void finish_write(struct drover_region *region, struct context *context, const struct operation *operation, int ok,
		  uint32_t *drop_count);
void finish_drops(struct drover_region *region, struct context *context, uint32_t *drop_count);

/* -- serve.c ---------------------------------------------------------------------------------------------- */

/*
 * Makes the page present for a read or a write: 0, or -errno after an event. `protection` says that it was there but
 * write-protected. `touched` is when, or QUIET for a call that leaves no trace and no latency; a QUIET write
 * unprotects too.
 */
#define QUIET 0u
int serve(struct drover_region *region, uint64_t page, int write, int protection, uint64_t touched);

/*
 * Starts reads of those of `pages` that are COLD, in as few requests as their order allows, without waiting. Returns
 * how many pages were started; `*looked` says how far it came before operations, buffers or room ran out.
 */
uint32_t start_reads(struct drover_region *region, struct context *context, const uint64_t *pages, uint64_t page_count,
		     int demand, int writable, uint64_t *looked);

/* -- fault.c ---------------------------------------------------------------------------------------------- */

int faults_open(struct drover_region *region);
void faults_close(struct drover_region *region);

#endif
