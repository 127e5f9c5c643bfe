/*
 * verbs_fake_test.c - store_verbs.c and donor.c over fake_verbs.c, with everything going wrong while they work.
 *
 * Goal: whatever happens to connections, each request comes back exactly once and in bounded time; what was acknowledged is
 * there; a write that failed may or may not have happened, and nothing else is there; and no memory that a request named changes after
 * its completion. Method: threads, each with a context and pages of its own, write and read at random against a model,
 * while another thread cuts connections, takes the adapter away and holds requests back past their time-out.
 */
#include "check.h"
#include "../../native-src/region.h"

#include <dlfcn.h>
#include <poll.h>
#include <string.h>

#define THREADS 3u
#define PAGES 64u /* of each thread */
#define BATCH 24u

static const char ticket[] = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
static const char stranger[] = "ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
static uint8_t ticket_bytes[DROVER_TICKET_SIZE];
static void (*chaos)(int kind, uint32_t which);
static struct store store;
static _Atomic int ending;
static _Atomic uint64_t good_requests, failed_requests;

struct worker {
	pthread_t thread;
	uint32_t number;
	uint64_t random;
	struct context context;
	uint8_t *memory;		       /* BATCH pages */
	uint32_t acknowledged[PAGES], latest[PAGES]; /* versions */
	struct request {
		uint32_t id, page;
		int write, out;
	} requests[BATCH];
};

static uint64_t draw(uint64_t *state)
{
	*state = *state * 6364136223846793005ull + 1442695040888963407ull;
	return *state >> 33;
}

static void fill(uint8_t *memory, uint32_t worker, uint32_t page, uint32_t version)
{
	uint32_t *words = (uint32_t *)(void *)memory;

	for (uint32_t i = 0; i < PAGE / 4; i++)
		words[i] = version == 0 ? 0 : version + i * 2654435761u + (worker * PAGES + page) * 40503u;
}

/* The version that a page read back has; all of it. */
static uint32_t version_of(const uint8_t *memory, uint32_t worker, uint32_t page)
{
	static __thread uint8_t expected[4096] __attribute__((aligned(8)));
	uint32_t first;
	uint32_t version = 0;

	memcpy(&first, memory, sizeof(first));
	if (first != 0)
		version = first - (worker * PAGES + page) * 40503u;
	fill(expected, worker, page, version);
	CHECK(memcmp(memory, expected, PAGE) == 0);
	return version;
}

static void settle(struct worker *worker, struct request *request, uint32_t slot, int32_t result)
{
	uint8_t *memory = worker->memory + slot * PAGE;
	uint32_t version;

	atomic_fetch_add(result < 0 ? &failed_requests : &good_requests, 1);
	if (result < 0) {
		CHECK(result == -EIO || result == -ENOTCONN || result == -ETIMEDOUT);
	} else if (request->write) {
		CHECK_EQUAL(result, PAGE);
		version = version_of(memory, worker->number, request->page);
		worker->acknowledged[request->page] = version;
	} else {
		CHECK_EQUAL(result, PAGE);
		version = version_of(memory, worker->number, request->page);
		CHECK(version >= worker->acknowledged[request->page] && version <= worker->latest[request->page]);
		worker->acknowledged[request->page] = version;
	}
	/* From here on it is ours alone. */
	memset(memory, 0x5a, PAGE);
	request->out = 0;
}

/* One batch of distinct pages, to the last completion. Returns how many failed. */
static uint32_t run_batch(struct worker *worker, uint32_t batch, int writes)
{
	struct completion done[OPERATIONS];
	uint32_t left = batch, first = (uint32_t)(draw(&worker->random) % PAGES), failures = 0;
	uint64_t started = now();

	for (uint32_t i = 0; i < batch; i++) {
		struct request *request = &worker->requests[i];
		uint8_t *memory = worker->memory + i * PAGE;

		for (uint32_t at = 0; at < PAGE; at++)
			CHECK(memory[at] == 0x5a);
		*request = (struct request){
			.id = (uint32_t)draw(&worker->random) << 8 | i, .page = (first + i) % PAGES, .write = writes && draw(&worker->random) % 2 == 0, .out = 1
		};
		if (request->write)
			fill(memory, worker->number, request->page, ++worker->latest[request->page]);
		store.calls->queue(&store, &worker->context, request->id, request->write, memory, PAGE,
				   (worker->number * PAGES + request->page) * PAGE, 0);
	}
	store.calls->submit(&store, &worker->context);
	for (uint32_t round = 0; left > 0; round++) {
		uint32_t got;

		CHECK(now() - started < 20000000000ull);
		if (round % 2 == 0) {
			struct pollfd source = { .fd = store.calls->wait_fd(&store, &worker->context), .events = POLLIN };

			poll(&source, 1, 10);
			got = store.calls->reap(&store, &worker->context, 0, done, 5);
		} else {
			got = store.calls->reap(&store, &worker->context, 10000000, done, OPERATIONS);
		}
		for (uint32_t i = 0; i < got; i++) {
			uint32_t slot = done[i].id & 0xffu;

			CHECK(slot < batch && worker->requests[slot].id == done[i].id && worker->requests[slot].out);
			failures += done[i].result < 0;
			settle(worker, &worker->requests[slot], slot, done[i].result);
		}
		CHECK(got <= left);
		left -= got;
	}
	return failures;
}

static void *work(void *argument)
{
	struct worker *worker = argument;

	while (!atomic_load(&ending))
		if (run_batch(worker, 1 + (uint32_t)(draw(&worker->random) % BATCH), 1) > 0)
			usleep(500);
	return NULL;
}

static void run_chaos(uint64_t seed, uint64_t nanos)
{
	uint64_t until = now() + nanos;

	while (now() < until) {
		usleep(2000 + (useconds_t)(draw(&seed) % 20000));
		switch (draw(&seed) % 4) {
		case 0: /* sometimes longer than the time-out */
			chaos(0, 0);
			usleep(5000 + (useconds_t)(draw(&seed) % 120000));
			chaos(1, 0);
			break;
		case 1:
			chaos(3, 0);
			break;
		default:
			chaos(2, (uint32_t)draw(&seed));
			break;
		}
	}
	chaos(1, 0);
}

/* Until a batch of reads gets through. */
static void until_up(struct worker *worker)
{
	uint64_t started = now();

	while (run_batch(worker, 4, 0) > 0) {
		CHECK(now() - started < 20000000000ull);
		usleep(10000);
	}
}

static int open_with(const char *name, uint32_t port, uint64_t size)
{
	struct drover_store_options options = { .path = "127.0.0.1", .name = name, .size = size, .port = port, .timeout_nanos = 60000000, .kind = DROVER_STORE_VERBS };
	static struct context context;
	struct store tried;
	int rc = store_verbs_open(&options, &tried);

	if (rc < 0)
		return rc;
	memset(&context, 0, sizeof(context));
	rc = tried.calls->attach(&tried, &context);
	if (rc == 0)
		tried.calls->detach(&tried, &context);
	tried.calls->close(&tried);
	return rc;
}

int main(int count_of, char **arguments)
{
	uint64_t seed = count_of > 1 ? strtoull(arguments[1], NULL, 10) : 1, millis = count_of > 2 ? strtoull(arguments[2], NULL, 10) : 2000;
	uint64_t size = THREADS * PAGES * PAGE;
	struct drover_store_options options = { .path = "127.0.0.1", .name = ticket, .size = size, .timeout_nanos = 60000000, .kind = DROVER_STORE_VERBS };
	static struct worker workers[THREADS];
	struct drover_donor_stats stats;
	struct drover_donor *donor;
	uint8_t *own;
	void *fake = dlopen("libibverbs.so.1", RTLD_NOW);
	void *symbol = fake == NULL ? NULL : dlsym(fake, "fake_chaos");

	CHECK(symbol != NULL);
	memcpy(&chaos, &symbol, sizeof(chaos));
	for (uint32_t i = 0; i < DROVER_TICKET_SIZE; i++)
		ticket_bytes[i] = (uint8_t)((i % 16) * 0x11);
	CHECK_EQUAL(drover_donor_open("nowhere", 0, &donor), -EINVAL);
	CHECK_EQUAL(drover_donor_open("127.0.0.1", 0, &donor), 0);
	options.port = (uint32_t)drover_donor_port(donor);
	CHECK_EQUAL(drover_donor_lend(donor, ticket_bytes, NULL, size + 1), -EINVAL);
	CHECK_EQUAL(drover_donor_lend(donor, ticket_bytes, NULL, size), 0);
	CHECK_EQUAL(drover_donor_lend(donor, ticket_bytes, NULL, size), -EEXIST);

	/* Who is refused is told why, and nothing stays of him. */
	CHECK_EQUAL(open_with(stranger, options.port, size), -EACCES);
	CHECK_EQUAL(open_with(ticket, options.port + 1, size), -ECONNREFUSED);
	CHECK_EQUAL(open_with(ticket, options.port, size + PAGE), -ENOSPC);
	CHECK_EQUAL(open_with(ticket, options.port, size + 1), -EINVAL);
	CHECK_EQUAL(open_with(ticket, 0, size), -EINVAL);
	CHECK_EQUAL(open_with("abc", options.port, size), -EINVAL);
	CHECK_EQUAL(open_with(ticket, options.port, size), 0);

	CHECK_EQUAL(store_verbs_open(&options, &store), 0);
	for (uint32_t i = 0; i < THREADS; i++) {
		workers[i].number = i;
		workers[i].random = seed * 1000 + i;
		workers[i].memory = malloc(BATCH * PAGE);
		CHECK(workers[i].memory != NULL);
		memset(workers[i].memory, 0x5a, BATCH * PAGE);
		CHECK_EQUAL(store.calls->attach(&store, &workers[i].context), 0);
		CHECK_EQUAL(run_batch(&workers[i], BATCH, 1), 0);
	}
	for (uint32_t i = 0; i < THREADS; i++)
		CHECK_EQUAL(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
	run_chaos(seed, millis * 1000000u);
	atomic_store(&ending, 1);
	for (uint32_t i = 0; i < THREADS; i++) {
		pthread_join(workers[i].thread, NULL);
		until_up(&workers[i]);
		for (uint32_t round = 0; round < 8; round++)
			CHECK_EQUAL(run_batch(&workers[i], BATCH, 0), 0);
	}
	CHECK(atomic_load(&good_requests) > 100 && atomic_load(&failed_requests) > 10);

	/* What never comes back is given up, and the connection is made again. */
	chaos(0, 0);
	CHECK_EQUAL(run_batch(&workers[0], 8, 1), 8);
	chaos(1, 0);
	until_up(&workers[0]);

	/* A lease that ends takes its memory with it; the next one for the same ticket is zeros, here the caller's. */
	CHECK_EQUAL(drover_donor_revoke(donor, ticket_bytes), 0);
	CHECK_EQUAL(drover_donor_revoke(donor, ticket_bytes), -ENOENT);
	CHECK_EQUAL(drover_donor_stats(donor, &stats), 0);
	CHECK(stats.leases == 0 && stats.links == 0 && stats.lent_bytes == 0);
	CHECK_EQUAL(run_batch(&workers[0], 8, 0), 8);
	own = calloc(1, size);
	CHECK(own != NULL);
	CHECK_EQUAL(drover_donor_lend(donor, ticket_bytes, own, size), 0);
	for (uint32_t i = 0; i < THREADS; i++) {
		memset(workers[i].acknowledged, 0, sizeof(workers[i].acknowledged));
		memset(workers[i].latest, 0, sizeof(workers[i].latest));
		until_up(&workers[i]);
		CHECK_EQUAL(run_batch(&workers[i], BATCH, 0), 0);
		CHECK_EQUAL(run_batch(&workers[i], BATCH, 1), 0);
	}
	for (uint32_t page = 0; page < PAGES; page++)
		CHECK_EQUAL(version_of(own + page * PAGE, 0, page), workers[0].acknowledged[page]);
	for (uint32_t i = 0; i < THREADS; i++) {
		store.calls->detach(&store, &workers[i].context);
		free(workers[i].memory);
	}
	store.calls->close(&store);
	CHECK_EQUAL(drover_donor_close(donor), 0);
	free(own);
	printf("ok %llu good, %llu failed\n", (unsigned long long)atomic_load(&good_requests),
	       (unsigned long long)atomic_load(&failed_requests));
	return 0;
}
