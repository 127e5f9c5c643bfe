/*
 * store_tiers.c - several stores as one: a file and donors of memory.
 *
 * A request of the region becomes a task; a task becomes requests to tiers, each for a run of pages that lie beside each
 * other there. What fails at one tier is tried at the next; a task comes back when every page is where it must be, or
 * when nobody is left to ask. A page that nobody can be asked for just now, because its donors are down, is
 * waited for, `patience` at most.
 *
 *   planned ──sent──> busy ──> good                 per page and tier; `planned` of a write has its slot already
 *                       └────> tried ──> planned at another tier
 *
 * Everything is kept per context and bounded: OPERATIONS tasks, and OPERATIONS requests to each tier. What does not fit
 * stays planned until something comes back. A copy that does not match its checksum is not believed as long as there
 * is another one, and its seat is given up, so that it is made anew.
 */
#include "tiers.h"

#include <poll.h>
#include <string.h>
#include <sys/mman.h>

#define RETRY_NANOS_MIN 100000000ull
#define RETRY_NANOS_MAX 5000000000ull
/* How often a task looks whether a donor is back. */
#define WAIT_NANOS 20000000ull
/* Reads of so many pages say something about the latency of a tier. */
#define SMALL_RUN 4u

static struct tiers *tiers_in(const struct store *store)
{
	return store->inner;
}

static struct desk *desk_of(const struct store *store, const struct context *context)
{
	return context->ports[store->at];
}

static uint64_t run_bits(uint32_t first, uint32_t run)
{
	return (run >= 64 ? ~0ull : (1ull << run) - 1) << first;
}

static uint64_t under_way(const struct task *task)
{
	uint64_t bits = 0;

	for (uint32_t t = 0; t < TIERS_MAX; t++)
		bits |= task->planned[t] | task->busy[t];
	return bits;
}

/* -- what a tier's answers say about it ------------------------------------------------------------------- */

static void say(struct tiers *tiers, uint32_t t, uint32_t why, int error)
{
	struct drover_region *region = atomic_load_explicit(&tiers->region, memory_order_acquire);

	if (region != NULL)
		region_event(region, t, why, error);
}

static void answered(struct tiers *tiers, uint32_t t)
{
	struct tier *tier = &tiers->tiers[t];
	uint32_t down = DROVER_STORE_DOWN;

	if (!tier->donor || atomic_load_explicit(&tier->state, memory_order_relaxed) != DROVER_STORE_DOWN)
		return;
	atomic_store(&tier->failures, 0);
	if (atomic_compare_exchange_strong(&tier->state, &down, DROVER_STORE_UP))
		say(tiers, t, DROVER_EVENT_STORE_UP, 0);
}

/* Pages of it are asked of others until it answers again. */
static void broke(struct tiers *tiers, uint32_t t, int error)
{
	struct tier *tier = &tiers->tiers[t];
	uint64_t back_off, time = now();
	uint32_t up = DROVER_STORE_UP;

	/* One event of a burst counts: the others were under way already. */
	if (time < atomic_load(&tier->retry_at) && atomic_load(&tier->state) == DROVER_STORE_DOWN)
		return;
	back_off = RETRY_NANOS_MIN << (atomic_load(&tier->failures) < 6 ? atomic_load(&tier->failures) : 6);
	atomic_store(&tier->retry_at, time + (back_off < RETRY_NANOS_MAX ? back_off : RETRY_NANOS_MAX));
	atomic_fetch_add(&tier->failures, 1);
	if (atomic_compare_exchange_strong(&tier->state, &up, DROVER_STORE_DOWN))
		say(tiers, t, DROVER_EVENT_STORE_DOWN, error);
}

static void judge_tier(struct tiers *tiers, uint32_t t, const struct sub *sub, int error)
{
	struct tier *tier = &tiers->tiers[t];
	uint64_t nanos, smooth;

	if (error == 0 || error == EBADMSG || error == ENOSPC)
		answered(tiers, t);
	if (error != 0) {
		count((uint64_t *)(error == EBADMSG ? &tier->refused : &tier->errors), 1);
		if (tier->donor && error != EBADMSG && error != ENOSPC)
			broke(tiers, t, error);
		return;
	}
	count((uint64_t *)(sub->write ? &tier->writes : &tier->reads), sub->count);
	if (sub->write || sub->count > SMALL_RUN)
		return;
	nanos = now() - sub->started;
	smooth = tier_latency(tier);
	/* Down fast and up slowly: what is slow may be the reader, who looked late, and what is fast cannot be an error. */
	if (nanos < smooth)
		smooth -= (smooth - nanos) / 8;
	else
		smooth += ((nanos < 4 * smooth ? nanos : 4 * smooth) - smooth) / 32;
	atomic_store_explicit(&tier->latency, smooth > 0 ? smooth : 1, memory_order_relaxed);
}

/* -- sending ---------------------------------------------------------------------------------------------- */

static uint32_t slot_for(const struct tiers *tiers, const struct task *task, uint32_t i, uint32_t t)
{
	return task->kind == TASK_PROBE ? 0 : seat_of(tiers, task->page + i, t);
}

/* Sends what is planned, as far as there is room for requests. */
static void issue(struct tiers *tiers, struct context *context, struct desk *desk, struct task *task)
{
	for (uint32_t t = 0; t < TIERS_MAX; t++) {
		struct tier *tier = &tiers->tiers[t];

		while (task->planned[t] != 0 && desk->sub_free[t] != 0) {
			uint32_t first = (uint32_t)__builtin_ctzll(task->planned[t]), run = 1;
			uint32_t slot = slot_for(tiers, task, first, t);
			uint32_t at = (uint32_t)__builtin_ctzll(desk->sub_free[t]);
			int write = task->kind == TASK_WRITE || task->writing;

			while (run < tier->run_max && first + run < 64 && (task->planned[t] >> (first + run) & 1) != 0 &&
			       ((task->alone >> first | task->alone >> (first + run)) & 1) == 0 &&
			       slot_for(tiers, task, first + run, t) == slot + run)
				run++;
			desk->sub_free[t] &= desk->sub_free[t] - 1;
			desk->subs[t][at] = (struct sub){ .started = now(), .slot = slot, .task = (uint8_t)(task - desk->tasks),
							  .first = (uint8_t)first, .count = (uint8_t)run, .write = write != 0 };
			task->planned[t] &= ~run_bits(first, run);
			task->busy[t] |= run_bits(first, run);
			atomic_fetch_add_explicit(&tier->under_way, 1, memory_order_relaxed);
			tier->store.calls->queue(&tier->store, context, at, write, task->memory + first * PAGE,
						 (uint32_t)(run * PAGE), slot * PAGE, task->in_buffer);
			desk->unsent |= 1u << t;
		}
	}
}

static void submit(struct tiers *tiers, struct context *context, struct desk *desk)
{
	for (; desk->unsent != 0; desk->unsent &= desk->unsent - 1) {
		struct tier *tier = &tiers->tiers[__builtin_ctz(desk->unsent)];

		tier->store.calls->submit(&tier->store, context);
	}
}

/* -- one step of a task ----------------------------------------------------------------------------------- */

static int is_stale(const struct tiers *tiers, const struct task *task)
{
	struct drover_region *region = atomic_load_explicit(&tiers->region, memory_order_acquire);

	/* The region may have given the request up by then, and the pages may be somebody else's. */
	return region != NULL && now() - task->started > region->device_nanos - region->device_nanos / 4;
}

static int has_patience(const struct tiers *tiers, const struct task *task)
{
	return now() - task->started < tiers->patience;
}

static void wait_a_little(struct desk *desk, struct task *task)
{
	task->retry_at = now() + WAIT_NANOS;
	desk->waiting |= 1ull << (task - desk->tasks);
}

/* Lets donors that were down be asked again. */
static void forgive(struct tiers *tiers, struct task *task, uint64_t mask)
{
	for (uint32_t t = 0; t < TIERS_MAX; t++)
		if ((task->tried[t] & mask) != 0 && tiers->tiers[t].donor)
			task->tried[t] &= ~mask;
}

/* Plans reads of what has not arrived; 1 when there is something to wait for, 0 when the reading is over. */
static int go_on_reading(struct tiers *tiers, struct desk *desk, struct task *task)
{
	uint64_t left = task->all & ~(task->arrived | task->failed | under_way(task)), nobody, later;

	if (task->kind == TASK_PROBE) {
		task->failed |= left;
		return under_way(task) != 0;
	}
	if (left != 0) {
		nobody = plan_reads(tiers, desk, task, left, &later);
		if (later != 0 && has_patience(tiers, task) && !task->cancelled) {
			forgive(tiers, task, later);
			nobody &= ~later;
			wait_a_little(desk, task);
		}
		task->failed |= nobody;
		if (task->retry_at != 0)
			return 1;
	}
	return under_way(task) != 0;
}

static int go_on_writing(struct tiers *tiers, struct desk *desk, struct task *task)
{
	uint64_t mask = task->kind == TASK_MOVE ? task->arrived : task->all, unsafe;

	if (task->plan)
		plan_writes(tiers, desk, task, mask);
	task->plan = 0;
	if (under_way(task) != 0)
		return 1;
	unsafe = mask & ~pages_safe(tiers, task);
	if (task->kind == TASK_MOVE || unsafe == 0 || !has_patience(tiers, task) || tiers->file != NO_TIER)
		return 0;
	/* Nobody but donors, and all of them are down. */
	forgive(tiers, task, unsafe);
	task->plan = 1;
	wait_a_little(desk, task);
	return 1;
}

/* The end of a move: which copies the pages keep. */
static void settle_move(struct tiers *tiers, struct task *task)
{
	for (uint64_t left = task->arrived; left != 0; left &= left - 1) {
		uint32_t i = (uint32_t)__builtin_ctzll(left);
		uint64_t bit = 1ull << i;
		int done = task->target == ANY_TIER ? (pages_safe(tiers, task) & bit) != 0 :
						      (task->good[task->target] & bit) != 0;

		if (done)
			drop_surplus(tiers, task->page + i, task->target);
		else
			task->failed |= bit;
	}
}

/* Does what can be done for a task now, and hands it over when nothing is left. */
static void advance(struct tiers *tiers, struct context *context, struct desk *desk, struct task *task)
{
	uint64_t bit = 1ull << (task - desk->tasks);

	desk->waiting &= ~bit;
	task->retry_at = 0;
	if (task->cancelled) {
		if (under_way(task) == 0)
			desk->done |= bit;
		return;
	}
	if (task->kind != TASK_WRITE && !task->writing) {
		if (go_on_reading(tiers, desk, task))
			goto more;
		if (task->kind != TASK_MOVE) {
			desk->done |= bit;
			return;
		}
		task->writing = task->plan = 1;
		memset(task->tried, 0, sizeof(task->tried));
		memset(task->good, 0, sizeof(task->good));
	}
	if (!go_on_writing(tiers, desk, task)) {
		if (task->kind == TASK_MOVE)
			settle_move(tiers, task);
		desk->done |= bit;
		return;
	}
more:
	issue(tiers, context, desk, task);
	for (uint32_t t = 0; t < TIERS_MAX; t++)
		if (task->planned[t] != 0)
			desk->waiting |= bit; /* no request is free */
}

/* -- answers ---------------------------------------------------------------------------------------------- */

/* Whether the bytes of page `i` are what its checksum says. */
static int is_good(const struct tiers *tiers, const struct task *task, uint32_t i)
{
	struct drover_region *region = atomic_load_explicit(&tiers->region, memory_order_acquire);
	uint64_t page = task->page + i;

	return region == NULL ||
	       page_hash(region, page, content_hash(region, task->memory + i * PAGE)) == region->hashes[page];
}

/* Pages came from tier `t`; those that are not believed are read elsewhere. */
static void take_in(struct tiers *tiers, struct task *task, uint32_t t, const struct sub *sub)
{
	if (task->kind == TASK_PROBE) {
		task->arrived |= 1;
		return;
	}
	for (uint32_t i = sub->first; i < sub->first + (uint32_t)sub->count; i++) {
		uint64_t bit = 1ull << i;
		int alone = seats_of(tiers, task->page + i) == 1u << t;

		/* The only copy of a read is judged by the region, which says so where it is bad. */
		if ((alone && task->kind == TASK_READ) || is_good(tiers, task, i)) {
			task->arrived |= bit;
			continue;
		}
		task->tried[t] |= bit;
		task->error = EBADMSG;
		count((uint64_t *)&tiers->tiers[t].refused, 1);
		if (!alone && !is_stale(tiers, task))
			seat_drop(tiers, task->page + i, t);
	}
}

static void read_failed(struct tiers *tiers, struct task *task, uint32_t t, const struct sub *sub, int error)
{
	uint64_t bits = run_bits(sub->first, sub->count);

	task->error = error;
	if (sub->count > 1 && (error == EBADMSG || !tiers->tiers[t].donor)) {
		/* Perhaps only one of them is bad. */
		task->alone |= bits;
		return;
	}
	task->tried[t] |= bits;
	if (error == EBADMSG && task->kind != TASK_PROBE && seats_of(tiers, task->page + sub->first) != 1u << t &&
	    !is_stale(tiers, task))
		seat_drop(tiers, task->page + sub->first, t);
}

static void write_failed(struct tiers *tiers, struct task *task, uint32_t t, const struct sub *sub, int error)
{
	task->error = error;
	task->plan = 1;
	task->tried[t] |= run_bits(sub->first, sub->count);
	for (uint32_t i = sub->first; i < sub->first + (uint32_t)sub->count; i++)
		if (!is_stale(tiers, task))
			seat_drop(tiers, task->page + i, t);
}

static void answer(struct tiers *tiers, struct context *context, struct desk *desk, uint32_t t,
		   const struct completion *completion)
{
	struct sub sub = desk->subs[t][completion->id];
	struct task *task = &desk->tasks[sub.task];
	uint64_t bits = run_bits(sub.first, sub.count);
	int error = completion->result == (int32_t)(sub.count * PAGE) ? 0 :
		    completion->result < 0			      ? -completion->result :
									EIO;

	desk->sub_free[t] |= 1ull << completion->id;
	task->busy[t] &= ~bits;
	judge_tier(tiers, t, &sub, error);
	if (task->cancelled) {
		if (sub.write)
			slots_give(&tiers->tiers[t].slots, sub.slot, sub.count);
	} else if (sub.write && error != 0) {
		write_failed(tiers, task, t, &sub, error);
	} else if (sub.write) {
		task->good[t] |= bits;
	} else if (error != 0) {
		read_failed(tiers, task, t, &sub, error);
	} else {
		take_in(tiers, task, t, &sub);
	}
	tier_release(&tiers->tiers[t]);
	advance(tiers, context, desk, task);
}

/* -- the calls of a store --------------------------------------------------------------------------------- */

static void begin(struct store *store, struct context *context, const struct task *start)
{
	struct tiers *tiers = tiers_in(store);
	struct desk *desk = desk_of(store, context);
	/* A context has as many tasks as operations: there is always one free. */
	struct task *task = &desk->tasks[__builtin_ctzll(desk->task_free)];

	desk->task_free &= desk->task_free - 1;
	*task = *start;
	task->started = now();
	advance(tiers, context, desk, task);
}

static void tiers_queue(struct store *store, struct context *context, uint32_t id, int write, void *memory, uint32_t size,
			uint64_t offset, int in_buffer)
{
	struct task start = { .page = offset / PAGE,
			      .memory = memory,
			      .all = run_bits(0, (uint32_t)(size / PAGE)),
			      .id = id,
			      .kind = write ? TASK_WRITE : TASK_READ,
			      .plan = 1,
			      .in_buffer = in_buffer != 0 };

	begin(store, context, &start);
}

void tiers_move(struct store *store, struct context *context, uint32_t id, uint64_t page, uint32_t page_count, void *memory,
		uint32_t target)
{
	struct task start = { .page = page,
			      .memory = memory,
			      .all = run_bits(0, page_count),
			      .id = id,
			      .kind = TASK_MOVE,
			      .target = (uint8_t)target,
			      .in_buffer = 1 };

	begin(store, context, &start);
}

void tiers_probe(struct store *store, struct context *context, uint32_t id, void *memory, uint32_t tier)
{
	struct task start = { .memory = memory, .all = 1, .id = id, .kind = TASK_PROBE, .in_buffer = 1 };

	start.planned[tier] = 1;
	begin(store, context, &start);
}

void tiers_cancel(struct store *store, struct context *context, uint32_t id)
{
	struct tiers *tiers = tiers_in(store);
	struct desk *desk = desk_of(store, context);

	for (uint32_t at = 0; at < OPERATIONS; at++) {
		struct task *task = &desk->tasks[at];

		if ((desk->task_free >> at & 1) != 0 || (desk->done >> at & 1) != 0 || task->id != id || task->cancelled)
			continue;
		for (uint32_t t = 0; task->writing && t < TIERS_MAX; t++) {
			for (uint32_t i = 0; i < 64; i++) {
				if ((task->planned[t] >> i & 1) != 0)
					seat_drop(tiers, task->page + i, t);
				/* That slot is written until the request comes back. */
				if ((task->busy[t] >> i & 1) != 0)
					seat_forget(tiers, task->page + i, t);
			}
		}
		memset(task->planned, 0, sizeof(task->planned));
		task->cancelled = 1;
		advance(tiers, context, desk, task);
	}
}

static void tiers_submit(struct store *store, struct context *context)
{
	submit(tiers_in(store), context, desk_of(store, context));
}

/* What the region gets to hear. */
static int32_t result_of(struct tiers *tiers, struct task *task)
{
	int32_t size = (int32_t)((uint32_t)__builtin_popcountll(task->all) * PAGE);

	if (task->cancelled)
		return -ECANCELED;
	if (task->kind == TASK_WRITE)
		return (task->all & ~pages_safe(tiers, task)) == 0 ? size : task->error != 0 ? -task->error : -ENOSPC;
	if (task->failed == 0)
		return size;
	if (task->failed == task->all || task->kind != TASK_READ)
		return task->error != 0 ? -task->error : task->kind == TASK_READ ? -ENODATA : -ENOSPC;
	/* Some came. The others hold what no checksum will take for theirs. */
	for (uint64_t left = task->failed; left != 0; left &= left - 1)
		memset(task->memory + (uint64_t)__builtin_ctzll(left) * PAGE, 0xa5, PAGE);
	return size;
}

static uint32_t hand_over(struct tiers *tiers, struct desk *desk, struct completion *out, uint32_t limit)
{
	uint32_t taken = 0;

	for (; desk->done != 0 && taken < limit; desk->done &= desk->done - 1) {
		uint32_t at = (uint32_t)__builtin_ctzll(desk->done);
		struct task *task = &desk->tasks[at];

		out[taken++] = (struct completion){ .id = task->id, .result = result_of(tiers, task) };
		desk->task_free |= 1ull << at;
	}
	return taken;
}

/* Takes what has come from all tiers; one of them may wait `nanos`. */
static void look_around(struct tiers *tiers, struct context *context, struct desk *desk, uint64_t nanos)
{
	uint64_t waiting = desk->waiting, time = waiting != 0 ? now() : 0;

	for (uint32_t t = 0; t < TIERS_MAX; t++) {
		struct tier *tier = &tiers->tiers[t];
		uint32_t taken;

		if (desk->sub_free[t] == ~0ull)
			continue;
		taken = tier->store.calls->reap(&tier->store, context, nanos, desk->completions, OPERATIONS);
		for (uint32_t i = 0; i < taken; i++)
			answer(tiers, context, desk, t, &desk->completions[i]);
	}
	for (; waiting != 0; waiting &= waiting - 1) {
		uint32_t at = (uint32_t)__builtin_ctzll(waiting);

		if ((desk->waiting >> at & 1) != 0 && time >= desk->tasks[at].retry_at)
			advance(tiers, context, desk, &desk->tasks[at]);
	}
	submit(tiers, context, desk);
}

/* Until something may have come, or `nanos`. */
static void sleep_until_news(struct tiers *tiers, struct context *context, struct desk *desk, uint64_t nanos)
{
	struct pollfd sources[TIERS_MAX];
	struct timespec timeout;
	nfds_t source_count = 0;

	nanos = desk->waiting != 0 && nanos > WAIT_NANOS ? WAIT_NANOS : nanos;
	for (uint32_t t = 0; t < TIERS_MAX; t++) {
		struct store *store = &tiers->tiers[t].store;
		int fd;

		if (desk->sub_free[t] == ~0ull)
			continue;
		fd = store->calls->wait_fd != NULL ? store->calls->wait_fd(store, context) : -1;
		if (fd >= 0)
			sources[source_count++] = (struct pollfd){ .fd = fd, .events = POLLIN };
		else
			nanos = nanos < 200000 ? nanos : 200000; /* it has no means to wake us */
	}
	timeout = (struct timespec){ (time_t)(nanos / 1000000000u), (long)(nanos % 1000000000u) };
	ppoll(sources, source_count, &timeout, NULL);
}

static uint32_t tiers_reap(struct store *store, struct context *context, uint64_t nanos, struct completion *out,
			   uint32_t limit)
{
	struct tiers *tiers = tiers_in(store);
	struct desk *desk = desk_of(store, context);
	uint32_t asked = 0;

	if (desk->done == 0) {
		look_around(tiers, context, desk, 0);
		for (uint32_t t = 0; t < TIERS_MAX; t++)
			asked += desk->sub_free[t] != ~0ull;
		if (desk->done == 0 && nanos > 0 && asked == 1 && desk->waiting == 0) {
			look_around(tiers, context, desk, nanos);
		} else if (desk->done == 0 && nanos > 0 && (asked > 0 || desk->waiting != 0)) {
			sleep_until_news(tiers, context, desk, nanos);
			look_around(tiers, context, desk, 0);
		}
	}
	return hand_over(tiers, desk, out, limit);
}

static void tiers_forget(struct store *store, uint64_t page)
{
	struct tiers *tiers = tiers_in(store);

	for (uint32_t t = 0, held = seats_of(tiers, page); held >> t != 0; t++)
		if ((held >> t & 1) != 0)
			seat_drop(tiers, page, t);
}

static void tiers_tend(struct store *store, struct context *context)
{
	struct tiers *tiers = tiers_in(store);

	for (uint32_t t = 0; t < atomic_load_explicit(&tiers->count, memory_order_acquire); t++) {
		struct tier *tier = &tiers->tiers[t];

		if (!tier_hold(tier))
			continue;
		if (tier->store.calls->tend != NULL)
			tier->store.calls->tend(&tier->store, context);
		tier_release(tier);
	}
}

/* -- opening and closing ---------------------------------------------------------------------------------- */

static void tiers_detach(struct store *store, struct context *context)
{
	struct tiers *tiers = tiers_in(store);
	struct desk *desk = desk_of(store, context);

	if (desk == NULL)
		return;
	for (uint32_t t = 0; t < atomic_load(&tiers->count); t++)
		tiers->tiers[t].store.calls->detach(&tiers->tiers[t].store, context);
	munmap(desk, sizeof(*desk));
	context->ports[store->at] = NULL;
}

static int tiers_attach(struct store *store, struct context *context)
{
	struct tiers *tiers = tiers_in(store);
	struct desk *desk = mmap(NULL, sizeof(*desk), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int rc = 0;

	if (desk == MAP_FAILED)
		return -ENOMEM;
	madvise(desk, sizeof(*desk), MADV_DONTFORK);
	context->ports[store->at] = desk;
	desk->task_free = ~0ull;
	memset(desk->sub_free, 0xff, sizeof(desk->sub_free));
	desk->random = (uintptr_t)desk | 1;
	for (uint32_t t = 0; rc == 0 && t < atomic_load(&tiers->count); t++)
		rc = tiers->tiers[t].store.calls->attach(&tiers->tiers[t].store, context);
	return rc;
}

static void tiers_close(struct store *store)
{
	struct tiers *tiers = tiers_in(store);

	for (uint32_t t = 0; t < atomic_load(&tiers->count); t++) {
		tiers->tiers[t].store.calls->close(&tiers->tiers[t].store);
		slots_close(&tiers->tiers[t].slots);
	}
	if (tiers->seats != NULL)
		munmap((void *)tiers->seats, tiers->pages * SEATS * sizeof(uint32_t));
	munmap(tiers, sizeof(*tiers));
	store->inner = NULL;
}

static const struct store_calls tiers_calls = {
	.attach = tiers_attach,
	.detach = tiers_detach,
	.queue = tiers_queue,
	.submit = tiers_submit,
	.reap = tiers_reap,
	.forget = tiers_forget,
	.tend = tiers_tend,
	.close = tiers_close,
};

struct tiers *tiers_of(const struct store *store)
{
	return store->calls == &tiers_calls ? store->inner : NULL;
}

int tier_open(struct tiers *tiers, uint32_t t, const struct tier_options *options)
{
	struct tier *tier = &tiers->tiers[t];
	uint64_t slot_count = options->size / PAGE;

	tier->store = options->store;
	tier->store.at = TIER_AT(t);
	atomic_store(&tier->kind, options->kind);
	if (tier->donor != options->donor)
		tier->donor = options->donor;
	tier->run_max = options->donor || options->sealed ? RUN_MAX : 64;
	atomic_store(&tier->failures, 0);
	atomic_store(&tier->latency, 0);
	slots_close(&tier->slots);
	return slots_open(&tier->slots, slot_count < SLOTS_MAX ? slot_count : SLOTS_MAX, slot_count >= tiers->pages);
}

int store_tiers_open(const struct tier_options *options, uint32_t tier_count, uint64_t pages, uint32_t copies,
		     uint64_t patience, struct store *out)
{
	struct tiers *tiers = mmap(NULL, sizeof(*tiers), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int rc = -ENOMEM;

	if (tiers == MAP_FAILED) {
		for (uint32_t t = 0; t < tier_count; t++) {
			struct store unused = options[t].store;

			unused.calls->close(&unused);
		}
		return rc;
	}
	*out = (struct store){ .calls = &tiers_calls, .fd = -1, .at = TIERS_AT, .inner = tiers };
	tiers->pages = pages;
	tiers->copies = copies;
	tiers->patience = patience;
	tiers->file = NO_TIER;
	atomic_store(&tiers->count, tier_count);
	for (uint32_t t = 0; t < tier_count; t++) {
		tiers->tiers[t].store = options[t].store;
		if (!options[t].donor)
			tiers->file = t;
	}
	tiers->file_first = tiers->file == 0;
	tiers->seats = mmap(NULL, pages * SEATS * sizeof(uint32_t), PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (tiers->seats == MAP_FAILED) {
		tiers->seats = NULL;
	} else {
		rc = 0;
		for (uint32_t t = 0; rc == 0 && t < tier_count; t++)
			rc = tier_open(tiers, t, &options[t]);
	}
	if (rc < 0)
		tiers_close(out);
	return rc;
}
