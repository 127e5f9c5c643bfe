/*
 * store_nbd_test.c - the NBD store against peers of every kind: `store_nbd_tests SUITE [ADDRESS PORT NAME]`.
 *
 *   handshake, broken, recovery   peers of nbd_peer.c, in threads of this program
 *   model                         the same, or the server that is named
 *   region, unknown               the server that is named
 */
#include "nbd_peer.h"

#include "../../native-src/region.h"
#include "../../native-src/store_nbd.h"

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <sys/mman.h>

#define MIB (1ull << 20)
#define SIZE (4 * MIB)
#define TIMEOUT 300000000ull

static const char *server_address, *server_name;
static uint32_t server_port;

static struct context *new_context(void)
{
	struct context *context = aligned_alloc(64, sizeof(*context));

	CHECK(context != NULL);
	memset(context, 0, sizeof(*context));
	context->buffer = aligned_alloc(PAGE, BUFFER_PAGES * PAGE);
	CHECK(context->buffer != NULL);
	return context;
}

static void free_context(struct context *context)
{
	free(context->buffer);
	free(context);
}

static struct drover_store_options options_of(const struct peer *peer, uint32_t flags)
{
	return (struct drover_store_options){
		.kind = DROVER_STORE_NBD,
		.path = "127.0.0.1",
		.port = peer->port,
		.name = "0123456789abcdef",
		.size = peer->size,
		.timeout_nanos = TIMEOUT,
		.flags = flags,
	};
}

/* A peer, a store on it, and a context. */
struct fixture {
	struct peer peer;
	uint64_t timeout; /* nanoseconds; 0: TIMEOUT */
	struct store store;
	struct context *context;
};

static void fixture_open(struct fixture *fixture, uint32_t flags)
{
	struct drover_store_options options;

	if (fixture->peer.size == 0)
		fixture->peer.size = SIZE;
	if (fixture->peer.flags == 0)
		fixture->peer.flags = 1 | NBD_FLAG_SEND_TRIM;
	peer_open(&fixture->peer);
	options = options_of(&fixture->peer, flags);
	if (fixture->timeout != 0)
		options.timeout_nanos = fixture->timeout;
	CHECK_EQUAL(store_nbd_open(&options, &fixture->store), 0);
	fixture->store.at = 3;
	fixture->context = new_context();
	CHECK_EQUAL(fixture->store.calls->attach(&fixture->store, fixture->context), 0);
	CHECK(fixture->context->ports[3] != NULL);
}

static void fixture_close(struct fixture *fixture)
{
	fixture->store.calls->detach(&fixture->store, fixture->context);
	CHECK(fixture->context->ports[3] == NULL);
	fixture->store.calls->close(&fixture->store);
	free_context(fixture->context);
	peer_close(&fixture->peer);
}

static void queue(struct fixture *fixture, uint32_t id, int write, void *memory, uint32_t size, uint64_t offset)
{
	fixture->store.calls->queue(&fixture->store, fixture->context, id, write, memory, size, offset, 0);
}

static void submit(struct fixture *fixture)
{
	fixture->store.calls->submit(&fixture->store, fixture->context);
}

static uint32_t reap(struct fixture *fixture, uint64_t nanos, struct completion *out, uint32_t limit)
{
	return fixture->store.calls->reap(&fixture->store, fixture->context, nanos, out, limit);
}

/* One request from its beginning to its end, within twice the time-out. */
static int32_t one(struct fixture *fixture, int write, void *memory, uint32_t size, uint64_t offset)
{
	struct completion completion;
	uint64_t started = now();

	queue(fixture, 77, write, memory, size, offset);
	submit(fixture);
	while (reap(fixture, 50000000, &completion, 1) == 0)
		CHECK(now() - started < 2 * TIMEOUT + 1000000000);
	CHECK_EQUAL(completion.id, 77);
	CHECK_EQUAL(reap(fixture, 0, &completion, 1), 0);
	return completion.result;
}

/* Tries until the connection is there again. */
static void recovers(struct fixture *fixture)
{
	uint8_t page[PAGE];
	uint64_t started = now();
	int32_t result;

	while ((result = one(fixture, 0, page, PAGE, 0)) != (int32_t)PAGE) {
		struct timespec pause = { 0, 1000000 };

		CHECK(result < 0);
		CHECK(now() - started < 10000000000ull);
		nanosleep(&pause, NULL);
	}
}

static int open_fds(void)
{
	int open_count = 0;

	for (int fd = 0; fd < 256; fd++)
		open_count += fcntl(fd, F_GETFD) >= 0;
	return open_count;
}

/* -- handshake -------------------------------------------------------------------------------------------- */

static void handshakes(void)
{
	static const struct {
		enum greeting greeting;
		uint32_t number;
		int result;
	} cases[] = {
		{ GREET_WELL, 0, 0 },
		{ GREET_BY_NAME, 0, 0 },
		{ GREET_BY_NAME_ZEROES, 0, 0 },
		{ GREET_BY_NAME_UNKNOWN, 0, -ENOENT },
		{ GREET_BYTEWISE, 0, 0 },
		{ GREET_WORDY, 0, 0 },
		{ GREET_NOT_AT_ALL, 0, -ETIMEDOUT },
		{ GREET_AND_HANG_UP, 0, -ECONNRESET },
		{ GREET_GARBAGE, 0, -EPROTO },
		{ GREET_OLDSTYLE, 0, -EPROTO },
		{ GREET_NEVER_ENDING, 0, -EPROTO },
		{ GREET_TRICKLE, 0, -EPROTO }, /* its first reply is an INFO without any: seen before the rest is waited for */
		{ GREET_HUGE_REPLY, 0, -EPROTO },
		{ GREET_WRONG_REPLY_MAGIC, 0, -EPROTO },
		{ GREET_WRONG_OPTION, 0, -EPROTO },
		{ GREET_ACK_ONLY, 0, -EPROTO },
		{ GREET_SHORT_EXPORT, 0, -EPROTO },
		{ GREET_READ_ONLY, 0, -EROFS },
		{ GREET_SMALL, 0, -ENOSPC },
		{ GREET_LARGE_BLOCKS, 0, -EINVAL },
		{ GREET_ERROR, 2, -EACCES },
		{ GREET_ERROR, 3, -EPROTO },
		{ GREET_ERROR, 5, -EACCES },
		{ GREET_ERROR, 6, -ENOENT },
		{ GREET_ERROR, 7, -ESHUTDOWN },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct peer peer = { .greeting = cases[i].greeting, .number = cases[i].number, .size = SIZE, .flags = 1 };
		struct drover_store_options options;
		struct store store;
		int before = open_fds(), rc;
		uint64_t started = now();

		peer_open(&peer);
		options = options_of(&peer, 0);
		rc = store_nbd_open(&options, &store);
		if (rc != cases[i].result)
			fprintf(stderr, "case %zu:\n", i);
		CHECK_EQUAL(rc, cases[i].result);
		CHECK(now() - started < TIMEOUT + 1000000000);
		if (rc == 0)
			store.calls->close(&store);
		peer_close(&peer);
		CHECK_EQUAL(open_fds(), before);
	}
}

static void options_that_cannot_be(void)
{
	struct peer peer = { .size = SIZE, .flags = 1 };
	char name[300];
	struct store store;
	int before = open_fds();

	peer_open(&peer);
	memset(name, 'x', sizeof(name));
	name[sizeof(name) - 1] = '\0';
#define REFUSED(field, value, error)                                   \
	do {                                                           \
		struct drover_store_options bad = options_of(&peer, 0); \
		bad.field = value;                                     \
		CHECK_EQUAL(store_nbd_open(&bad, &store), error);      \
	} while (0)
	REFUSED(path, NULL, -EINVAL);
	REFUSED(path, "localhost", -EINVAL);
	REFUSED(path, "1.2.3.4.5", -EINVAL);
	REFUSED(port, 0, -EINVAL);
	REFUSED(port, 65536, -EINVAL);
	REFUSED(size, 0, -EINVAL);
	REFUSED(size, PAGE + 1, -EINVAL);
	REFUSED(name, name, -EINVAL);
	REFUSED(path, "::1", -ECONNREFUSED);
	peer_close(&peer);
	REFUSED(size, SIZE, -ECONNREFUSED);
	CHECK_EQUAL(open_fds(), before);
}

/* The connections after the first are opened by attach(), and a donor that is gone then is no error. */
static void late_contexts(void)
{
	struct fixture fixture = { 0 };
	struct context *second;
	struct completion completion;
	uint8_t page[PAGE];
	uint64_t started;

	fixture_open(&fixture, 0);
	peer_close(&fixture.peer);
	second = new_context();
	started = now();
	CHECK_EQUAL(fixture.store.calls->attach(&fixture.store, second), 0);
	CHECK(now() - started < TIMEOUT + 1000000000);
	fixture.store.calls->queue(&fixture.store, second, 5, 0, page, PAGE, 0, 0);
	fixture.store.calls->submit(&fixture.store, second);
	CHECK_EQUAL(fixture.store.calls->reap(&fixture.store, second, 0, &completion, 1), 1);
	CHECK_EQUAL(completion.id, 5);
	CHECK(completion.result == -ENOTCONN || completion.result == -ECONNREFUSED);
	fixture.store.calls->detach(&fixture.store, second);
	fixture.store.calls->detach(&fixture.store, second);
	free_context(second);
	peer_open(&fixture.peer);
	fixture_close(&fixture);
}

static void suite_handshake(void)
{
	handshakes();
	options_that_cannot_be();
	late_contexts();
}

/* -- broken peers ----------------------------------------------------------------------------------------- */

/* Four requests in flight when something is wrong: each fails once and soon, and afterwards it goes on. */
static void broken_peers(void)
{
	static const struct {
		enum service service;
		uint32_t number;
		int result; /* of the first request that fails */
	} cases[] = {
		{ SERVE_SILENT, 0, -ETIMEDOUT },	{ SERVE_TRICKLE, 0, -ETIMEDOUT },      { SERVE_BAD_MAGIC, 0, -EPROTO },
		{ SERVE_BAD_COOKIE, 0, -EPROTO },	{ SERVE_OLD_COOKIE, 0, -EPROTO },      { SERVE_TWICE, 0, -EPROTO },
		{ SERVE_UNASKED, 0, -EPROTO },		{ SERVE_HALF_HEADER, 0, -ECONNRESET }, { SERVE_HALF_DATA, 0, -ECONNRESET },
		{ SERVE_AND_HANG_UP, 1, -ECONNRESET },	{ SERVE_AND_HANG_UP, 3, -ECONNRESET },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct fixture fixture = { .peer = { .service = cases[i].service, .number = cases[i].number, .seed = i } };
		struct completion completions[8];
		uint64_t seen = 0, started;
		uint32_t failed = 0;
		int first = 0;

		fixture_open(&fixture, 0);
		for (uint32_t id = 0; id < 4; id++)
			queue(&fixture, 100 + id, 0, fixture.context->buffer + id * PAGE, PAGE, id * PAGE);
		submit(&fixture);
		started = now();
		while (seen != 15) {
			uint32_t taken = reap(&fixture, 50000000, completions, 8);

			CHECK(now() - started < TIMEOUT + 1000000000);
			for (uint32_t n = 0; n < taken; n++) {
				CHECK(completions[n].id >= 100 && completions[n].id < 104);
				CHECK((seen >> (completions[n].id - 100) & 1) == 0);
				seen |= 1ull << (completions[n].id - 100);
				if (completions[n].result == (int32_t)PAGE)
					continue;
				if (failed++ == 0)
					first = completions[n].result;
			}
		}
		if (first != cases[i].result)
			fprintf(stderr, "case %zu:\n", i);
		CHECK_EQUAL(first, cases[i].result);
		/* Nobody touches the memory of a request that came back. */
		memset(fixture.context->buffer, 0xaa, 4 * PAGE);
		CHECK_EQUAL(one(&fixture, 0, fixture.context->buffer + 4 * PAGE, PAGE, 0), -ENOTCONN);
		atomic_store(&fixture.peer.well, 1);
		recovers(&fixture);
		for (uint32_t at = 0; at < 4 * PAGE; at++)
			CHECK(fixture.context->buffer[at] == 0xaa);
		fixture_close(&fixture);
	}
}

/* The answer to a request that is over is not one to the request that has its place now. */
static void old_answers(void)
{
	struct fixture fixture = { .peer = { .service = SERVE_OLD_COOKIE } };

	fixture_open(&fixture, 0);
	CHECK_EQUAL(one(&fixture, 0, fixture.context->buffer, PAGE, 0), PAGE);
	CHECK_EQUAL(one(&fixture, 0, fixture.context->buffer, PAGE, 0), -EPROTO);
	fixture_close(&fixture);
}

/* An error that the server says is not an error of the connection. */
static void errors_of_the_server(void)
{
	static const struct {
		uint32_t number;
		int32_t result;
	} cases[] = { { 1, -EPERM },	   { 5, -EIO },	      { 12, -ENOMEM },	    { 22, -EINVAL },	  { 28, -ENOSPC },
		      { 75, -EOVERFLOW }, { 95, -EOPNOTSUPP }, { 108, -ESHUTDOWN }, { 0x80000000u, -EINVAL } };

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct fixture fixture = { .peer = { .service = SERVE_ERROR, .number = cases[i].number } };
		struct completion completions[16];
		uint32_t taken = 0;

		fixture_open(&fixture, 0);
		for (uint32_t id = 0; id < 16; id++)
			queue(&fixture, id, id % 3 == 0, fixture.context->buffer + id * PAGE, PAGE, id * PAGE);
		submit(&fixture);
		while (taken < 16) {
			uint32_t more = reap(&fixture, 100000000, completions + taken, 16 - taken);

			CHECK(more > 0);
			taken += more;
		}
		for (uint32_t n = 0; n < 16; n++)
			CHECK_EQUAL(completions[n].result, cases[i].result);
		atomic_store(&fixture.peer.well, 1);
		CHECK_EQUAL(one(&fixture, 0, fixture.context->buffer, PAGE, 0), PAGE);
		CHECK_EQUAL(atomic_load(&fixture.peer.entered), 1);
		fixture_close(&fixture);
	}
}

static void requests_that_cannot_be(void)
{
	struct fixture fixture = { 0 };
	uint8_t *page;

	fixture_open(&fixture, 0);
	page = fixture.context->buffer;
	CHECK_EQUAL(one(&fixture, 0, page, 0, 0), -EINVAL);
	CHECK_EQUAL(one(&fixture, 0, page, PAGE, SIZE), -EINVAL);
	CHECK_EQUAL(one(&fixture, 1, page, 2 * PAGE, SIZE - PAGE), -EINVAL);
	CHECK_EQUAL(one(&fixture, 0, page, PAGE, UINT64_MAX - PAGE + 1), -EINVAL);
	CHECK_EQUAL(one(&fixture, 0, page, PAGE, SIZE - PAGE), PAGE);
	CHECK_EQUAL(atomic_load(&fixture.peer.answered), 1);
	fixture_close(&fixture);
}

static void suite_broken(void)
{
	broken_peers();
	old_answers();
	errors_of_the_server();
	requests_that_cannot_be();
}

/* -- connections that come and go ------------------------------------------------------------------------- */

/* With DROVER_STORE_PATIENT a donor that drops each connection after a few requests costs time and nothing else. */
static void patience(void)
{
	struct fixture fixture = { .peer = { .service = SERVE_AND_HANG_UP, .number = 7 } };
	uint64_t values[512];

	fixture_open(&fixture, 2);
	for (uint64_t page = 0; page < 40; page++) {
		for (uint64_t i = 0; i < 512; i++)
			values[i] = page * 512 + i + 1;
		CHECK_EQUAL(one(&fixture, 1, values, PAGE, page * PAGE), PAGE);
	}
	for (uint64_t page = 0; page < 40; page++) {
		CHECK_EQUAL(one(&fixture, 0, values, PAGE, page * PAGE), PAGE);
		for (uint64_t i = 0; i < 512; i++)
			CHECK_EQUAL(values[i], page * 512 + i + 1);
	}
	CHECK(atomic_load(&fixture.peer.entered) > 80 / 7);
	fixture_close(&fixture);
}

/* But it ends: a donor that is gone fails each request by its time-out, and not before. */
static void patience_ends(void)
{
	struct fixture fixture = { 0 };
	uint64_t started;

	fixture_open(&fixture, 2);
	peer_close(&fixture.peer);
	started = now();
	CHECK_EQUAL(one(&fixture, 0, fixture.context->buffer, PAGE, 0), -ETIMEDOUT);
	CHECK(now() - started >= TIMEOUT);
	CHECK(now() - started < 2 * TIMEOUT + 1000000000);
	peer_open(&fixture.peer);
	fixture_close(&fixture);
}

/* tend() notices the end of an idle connection and has a new one before anybody asks for something. */
static void tending(void)
{
	struct fixture fixture = { 0 };
	uint64_t started = now();
	struct timespec pause = { 0, 1000000 };

	fixture_open(&fixture, 0);
	CHECK_EQUAL(one(&fixture, 0, fixture.context->buffer, PAGE, 0), PAGE);
	peer_cut(&fixture.peer);
	while (atomic_load(&fixture.peer.entered) < 2) {
		CHECK(now() - started < 10000000000ull);
		fixture.store.calls->tend(&fixture.store, fixture.context);
		nanosleep(&pause, NULL);
	}
	for (int i = 0; i < 50; i++) {
		fixture.store.calls->tend(&fixture.store, fixture.context);
		nanosleep(&pause, NULL);
	}
	CHECK_EQUAL(one(&fixture, 0, fixture.context->buffer, PAGE, 0), PAGE);
	CHECK_EQUAL(atomic_load(&fixture.peer.entered), 2);
	fixture_close(&fixture);
}

/* Until so many requests of so many bytes are done, with nothing but wait_fd() to say when to look. */
static void wait_by_poll(struct fixture *fixture, uint32_t request_count, int32_t size)
{
	struct completion completions[OPERATIONS];
	uint32_t finished = 0;

	for (;;) {
		struct pollfd source = { .events = POLLIN,
					 .fd = fixture->store.calls->wait_fd(&fixture->store, fixture->context) };
		uint32_t taken = reap(fixture, 0, completions, OPERATIONS);

		for (uint32_t n = 0; n < taken; n++)
			CHECK_EQUAL(completions[n].result, size);
		finished += taken;
		if (finished == request_count)
			return;
		CHECK(poll(&source, 1, 5000) > 0);
	}
}

/* More than the sockets hold, to a peer that does not read for a while; wait_fd() alone says when to go on. */
static void full_sockets(void)
{
	struct fixture fixture = { .peer = { .service = SERVE_SLOWLY, .size = 16 * MIB, .receive_buffer = 8192 },
				   .timeout = 30000000000ull };
	uint8_t *bytes = malloc(16 * MIB);

	fixture_open(&fixture, 0);
	CHECK(bytes != NULL);
	for (uint64_t i = 0; i < 16 * MIB; i++)
		bytes[i] = (uint8_t)(i * 7 + i / 4096);
	for (uint32_t id = 0; id < OPERATIONS; id++)
		queue(&fixture, id, 1, bytes + id * (256u << 10), 256u << 10, id * (256u << 10));
	submit(&fixture);
	wait_by_poll(&fixture, OPERATIONS, 256u << 10);
	CHECK(memcmp(bytes, fixture.peer.memory, 16 * MIB) == 0);
	/* In one piece: no answer to anything else says that there is room again. */
	for (uint64_t i = 0; i < 16 * MIB; i++)
		bytes[i] ^= 0xff;
	queue(&fixture, 1, 1, bytes, 16u << 20, 0);
	submit(&fixture);
	wait_by_poll(&fixture, 1, 16u << 20);
	CHECK(memcmp(bytes, fixture.peer.memory, 16 * MIB) == 0);
	free(bytes);
	fixture_close(&fixture);
}

static void discards(void)
{
	for (uint16_t flags = 1; flags <= 33; flags += 32) {
		struct fixture fixture = { .peer = { .flags = flags } };
		struct completion completion;

		fixture_open(&fixture, 0);
		memset(fixture.context->buffer, 0x55, PAGE);
		CHECK_EQUAL(one(&fixture, 1, fixture.context->buffer, PAGE, 8 * PAGE), PAGE);
		fixture.store.calls->discard(&fixture.store, fixture.context, 9, PAGE, 8 * PAGE);
		submit(&fixture);
		CHECK_EQUAL(reap(&fixture, 1000000000, &completion, 1), 1);
		CHECK_EQUAL(completion.id, 9);
		CHECK_EQUAL(completion.result, PAGE);
		CHECK_EQUAL(atomic_load(&fixture.peer.trimmed), flags >> 5);
		CHECK_EQUAL(fixture.peer.memory[8 * PAGE], flags == 1 ? 0x55 : 0);
		fixture_close(&fixture);
	}
}

static void suite_recovery(void)
{
	patience();
	patience_ends();
	tending();
	full_sockets();
	discards();
}

/* -- random requests against a model ---------------------------------------------------------------------- */

static uint64_t random_state;

static uint64_t draw(uint64_t below)
{
	uint64_t x = random_state += 0x9e3779b97f4a7c15ull;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return (x ^ x >> 31) % below;
}

struct model_request {
	uint8_t *memory;
	uint64_t page;
	uint32_t count;
	uint8_t kind; /* 0 free, 1 read, 2 write, 3 trim */
};

/* Up to 64 requests in flight that do not overlap; what is read must be what the model has. */
static void model(struct store *store, struct context *context, uint64_t pages, uint32_t request_count, uint64_t seed)
{
	struct model_request requests[OPERATIONS] = { 0 };
	uint8_t *bytes = calloc(pages, PAGE), *known = calloc(pages, 1), *busy = calloc(pages, 1);
	uint8_t *buffers = malloc(OPERATIONS * 16 * PAGE);
	uint32_t started = 0, finished = 0, in_flight = 0;

	CHECK(bytes != NULL && known != NULL && busy != NULL && buffers != NULL);
	random_state = seed;
	while (finished < request_count) {
		struct completion completions[OPERATIONS];
		uint32_t taken, depth = (uint32_t)(1 + draw(OPERATIONS));

		while (in_flight < depth && started < request_count) {
			uint64_t page = draw(pages);
			uint32_t page_count = (uint32_t)(draw(3) == 0 ? 1 + draw(16) : 1), id = 0, fits = 1;
			struct model_request *request;

			while (requests[id].kind != 0)
				id++;
			request = &requests[id];
			fits = page + page_count <= pages;
			for (uint64_t p = page; fits && p < page + page_count; p++)
				fits = busy[p] == 0;
			if (!fits) {
				if (in_flight > 0)
					break;
				continue;
			}
			memset(busy + page, 1, page_count);
			*request = (struct model_request){ buffers + id * 16 * PAGE, page, page_count, (uint8_t)(1 + draw(40) % 3) };
			if (request->kind == 3 && draw(4) != 0)
				request->kind = 1;
			if (request->kind == 2) {
				for (uint32_t i = 0; i < page_count * PAGE; i += 8) {
					uint64_t value = draw(UINT64_MAX);

					memcpy(request->memory + i, &value, 8);
				}
				memcpy(bytes + page * PAGE, request->memory, page_count * PAGE);
				memset(known + page, 1, page_count);
			} else if (request->kind == 3) {
				memset(known + page, 0, page_count); /* anything, but not an error */
			} else {
				memset(request->memory, 0xdb, page_count * PAGE);
			}
			if (request->kind == 3)
				store->calls->discard(store, context, id, page_count * (uint32_t)PAGE, page * PAGE);
			else
				store->calls->queue(store, context, id, request->kind == 2, request->memory,
						    page_count * (uint32_t)PAGE, page * PAGE, 0);
			started++;
			in_flight++;
			if (draw(3) == 0)
				store->calls->submit(store, context);
		}
		store->calls->submit(store, context);
		taken = store->calls->reap(store, context, draw(2) * 100000000, completions, (uint32_t)(1 + draw(OPERATIONS)));
		for (uint32_t n = 0; n < taken; n++) {
			struct model_request *request = &requests[completions[n].id];

			CHECK(request->kind != 0);
			CHECK_EQUAL(completions[n].result, request->count * PAGE);
			for (uint32_t i = 0; i < request->count; i++) {
				uint64_t page = request->page + i;

				if (request->kind == 1 && known[page])
					CHECK(memcmp(bytes + page * PAGE, request->memory + i * PAGE, PAGE) == 0);
				busy[page] = 0;
			}
			request->kind = 0;
			in_flight--;
			finished++;
		}
	}
	free(bytes);
	free(known);
	free(busy);
	free(buffers);
}

static void suite_model(void)
{
	struct drover_store_options options = { .kind = DROVER_STORE_NBD,
						.path = server_address,
						.port = server_port,
						.name = server_name,
						.size = SIZE };
	struct context *contexts[3];
	struct store store;

	if (server_address == NULL) {
		for (uint64_t seed = 1; seed <= 6; seed++) {
			struct fixture fixture = { .peer = { .service = seed % 3 == 0 ? SERVE_WELL : SERVE_SHUFFLED,
							     .seed = seed,
							     .receive_buffer = seed % 2 == 0 ? 4096 : 0 } };

			fixture_open(&fixture, 0);
			model(&fixture.store, fixture.context, SIZE / PAGE, 3000, seed);
			fixture_close(&fixture);
		}
		return;
	}
	CHECK_EQUAL(store_nbd_open(&options, &store), 0);
	for (int i = 0; i < 3; i++) {
		contexts[i] = new_context();
		CHECK_EQUAL(store.calls->attach(&store, contexts[i]), 0);
	}
	for (int i = 0; i < 3; i++)
		model(&store, contexts[i], SIZE / PAGE, 5000, (uint64_t)i + 11);
	for (int i = 0; i < 3; i++) {
		store.calls->detach(&store, contexts[i]);
		free_context(contexts[i]);
	}
	store.calls->close(&store);
}

/* A server that has another name only. */
static void suite_unknown(void)
{
	const struct drover_store_options options = {
		.path = server_address, .port = server_port, .name = "no such export", .size = SIZE
	};
	struct store store;

	CHECK_EQUAL(store_nbd_open(&options, &store), -ENOENT);
}

/* -- a region ---------------------------------------------------------------------------------------------- */

static __thread sigjmp_buf *volatile landing; /* volatile: the store before the touch is for the handler */

static void on_signal(int number)
{
	(void)number;
	if (landing == NULL)
		_exit(99);
	siglongjmp(*landing, 1);
}

/* Whether reading the word worked. */
__attribute__((noinline, no_sanitize("thread", "address"))) static int touch(const volatile uint64_t *word, uint64_t *value)
{
	sigjmp_buf here;

	if (sigsetjmp(here, 1) != 0) {
		landing = NULL;
		return 0;
	}
	landing = &here;
	*value = *word;
	landing = NULL;
	return 1;
}

__attribute__((no_sanitize("thread", "address"))) static void put_word(volatile uint64_t *word, uint64_t value)
{
	*word = value;
}

static uint64_t word_of(uint64_t page)
{
	return page * 0x9e3779b97f4a7c15ull | 1;
}

static struct drover_region *region_on(const struct drover_store_options *options, uint32_t fault_mode)
{
	const struct drover_region_options region_options = {
		.size = options->size, .limit = 1 * MIB, .fault_mode = fault_mode, .spin_us = 30, .contexts = 3
	};
	struct drover_region *region;
	struct store store;
	int rc;

	CHECK_EQUAL(store_nbd_open(options, &store), 0);
	rc = region_open(&region_options, &store, &region);
	if (rc == -EPERM || rc == -EOPNOTSUPP) {
		printf("skipped: region_open says %d\n", rc);
		exit(0);
	}
	CHECK_EQUAL(rc, 0);
	return region;
}

/* Everything is written, pushed out and read again in another order. */
static void whole_region(uint32_t fault_mode)
{
	const struct drover_store_options options = {
		.path = server_address, .port = server_port, .name = server_name, .size = SIZE
	};
	struct drover_region *region = region_on(&options, fault_mode);
	volatile uint64_t *words = (volatile uint64_t *)region->base;

	for (int pass = 0; pass < 3; pass++) {
		for (uint64_t page = 0; page < SIZE / PAGE; page++)
			put_word(&words[page * 512 + page % 512], word_of(page) + (uint64_t)pass);
		for (uint64_t i = 0; i < SIZE / PAGE; i++) {
			uint64_t page = i * 37 % (SIZE / PAGE), value;

			CHECK(touch(&words[page * 512 + page % 512], &value));
			CHECK(value == word_of(page) + (uint64_t)pass);
		}
	}
	CHECK(__atomic_load_n(&region->control->stats.fetches, __ATOMIC_RELAXED) > SIZE / PAGE);
	CHECK_EQUAL(drover_region_close(region), 0);
}

/* The donor dies under a region: what was there is told as lost, soon; the rest lives, and the region closes. */
static void dead_donor(uint32_t fault_mode)
{
	struct peer peer = { .size = SIZE, .flags = 1 };
	struct drover_store_options options;
	struct drover_region *region;
	volatile uint64_t *words;
	struct drover_region_event event;
	uint64_t pages[128], started, lost = 0;

	/* One connection at a time is all that this peer serves, and the region has three contexts: the others wait. */
	peer_open(&peer);
	options = options_of(&peer, 0);
	region = region_on(&options, fault_mode);
	words = (volatile uint64_t *)region->base;
	for (uint64_t page = 0; page < 128; page++) {
		put_word(&words[page * 512], word_of(page));
		pages[page] = page;
	}
	CHECK_EQUAL(drover_region_evict(region, pages, 128, DROVER_EVICT_WAIT), 128);
	peer_close(&peer);
	started = now();
	for (uint64_t page = 0; page < 128; page++) {
		uint64_t value;

		if (touch(&words[page * 512], &value))
			CHECK(value == word_of(page));
		else
			lost++;
	}
	/* What was in flight may take its time-out, once. */
	CHECK(now() - started < 2 * TIMEOUT + 5000000000ull);
	CHECK(lost > 0);
	CHECK_EQUAL(drover_region_events(region, &event, 1), 1);
	put_word(&words[200 * 512], 5);
	CHECK_EQUAL(words[200 * 512], 5);
	CHECK_EQUAL(drover_region_close(region), 0);
}

static void suite_region(void)
{
	struct sigaction action = { .sa_handler = on_signal };

	CHECK_EQUAL(sigaction(SIGBUS, &action, NULL), 0);
	CHECK_EQUAL(sigaction(SIGSEGV, &action, NULL), 0);
	whole_region(DROVER_FAULT_INLINE);
	whole_region(DROVER_FAULT_THREAD);
	dead_donor(DROVER_FAULT_INLINE);
}

int main(int count, char **arguments)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} suites[] = {
		{ "handshake", suite_handshake }, { "broken", suite_broken }, { "recovery", suite_recovery },
		{ "model", suite_model },	  { "region", suite_region }, { "unknown", suite_unknown },
	};

	CHECK(count == 2 || count == 5);
	if (count == 5) {
		server_address = arguments[2];
		server_port = (uint32_t)atoi(arguments[3]);
		server_name = arguments[4];
	}
	for (size_t i = 0; i < sizeof(suites) / sizeof(suites[0]); i++) {
		if (strcmp(suites[i].name, arguments[1]) == 0) {
			suites[i].run();
			printf("%s: ok\n", arguments[1]);
			return 0;
		}
	}
	fprintf(stderr, "no suite \"%s\"\n", arguments[1]);
	return 2;
}
