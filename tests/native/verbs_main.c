/*
 * verbs_main.c - a donor or a borrower that does what it reads from its input, one command a line, one answer a line.
 *
 * tests/vm drives two of them, in two machines that an emulated cable connects. The bytes of page `n` written with
 * `seed` follow from both, so each read is checked in full; seed 0 is a page of zeros.
 *
 *   donor ADDRESS PORT            lend TICKET SIZE | revoke TICKET | stats
 *   borrower                      open ADDRESS PORT TICKET SIZE TIMEOUT_MS CONTEXTS | close
 *                                 write FIRST COUNT PAGES SEED | read FIRST COUNT PAGES SEED   (COUNT requests of PAGES pages, all at once)
 *                                 raw OFFSET SIZE | forge KEY ADDRESS | welcome | state | until-up MS
 *   both                          quit
 *
 * An answer is "ok MILLISECONDS ..." or "error -ERRNO MILLISECONDS".
 */
#include "check.h"

/* What a connection knows is looked at and falsified here. */
#include "../../native-src/store_verbs.c"

#include <inttypes.h>
#include <stdarg.h>

#define CONTEXTS_MAX_HERE 8
#define LINE 512

static struct store store;
static struct context contexts[CONTEXTS_MAX_HERE];
static uint32_t context_count;
static uint8_t *shadow_memory; /* what requests outside of the context's buffer use */

static uint64_t word_at_index(uint64_t page, uint32_t index, uint64_t seed)
{
	uint64_t x = page * 0x9e3779b97f4a7c15ull + index * 0xbf58476d1ce4e5b9ull + seed * 0x94d049bb133111ebull;

	return seed == 0 ? 0 : x ^ x >> 29;
}

/* "ok MILLISECONDS ..." for a `rc` that is none of an error, else "error -ERRNO MILLISECONDS". */
static void answer(int rc, uint64_t started, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void answer(int rc, uint64_t started, const char *format, ...)
{
	double millis = started == 0 ? 0 : (double)(now() - started) / 1e6;
	va_list values;

	if (rc < 0) {
		printf("error %d %.1f\n", rc, millis);
	} else {
		printf("ok %.1f ", millis);
		va_start(values, format);
		vprintf(format, values);
		va_end(values);
		putchar('\n');
	}
	fflush(stdout);
}

/* -- donor -------------------------------------------------------------------------------------------------- */

static int run_donor(const char *address, uint32_t port)
{
	struct drover_donor *donor;
	char line[LINE], ticket_text[LINE];
	uint8_t ticket[DROVER_TICKET_SIZE];
	uint64_t size;
	int rc = drover_donor_open(address, port, &donor);

	answer(rc, 0, "%d", rc < 0 ? 0 : drover_donor_port(donor));
	if (rc < 0)
		return 0;
	while (fgets(line, sizeof(line), stdin) != NULL) {
		if (sscanf(line, "lend %s %" SCNu64, ticket_text, &size) == 2) {
			CHECK_EQUAL(parse_ticket(ticket_text, ticket), 0);
			rc = drover_donor_lend(donor, ticket, NULL, size);
			answer(rc, 0, "lent");
		} else if (sscanf(line, "revoke %s", ticket_text) == 1) {
			uint64_t started = now();

			CHECK_EQUAL(parse_ticket(ticket_text, ticket), 0);
			rc = drover_donor_revoke(donor, ticket);
			answer(rc, started, "revoked");
		} else if (strcmp(line, "stats\n") == 0) {
			struct drover_donor_stats stats;

			CHECK_EQUAL(drover_donor_stats(donor, &stats), 0);
			answer(0, 0, "leases %u links %u accepted %" PRIu64 " refused %" PRIu64 " lent %" PRIu64, stats.leases, stats.links,
			       stats.accepted, stats.refused, stats.lent_bytes);
		} else if (strcmp(line, "quit\n") == 0) {
			break;
		} else {
			answer(-ENOSYS, 0, " ");
		}
	}
	answer(drover_donor_close(donor), 0, "closed");
	return 0;
}

/* -- borrower ----------------------------------------------------------------------------------------------- */

static void close_store(void)
{
	for (uint32_t i = 0; i < context_count; i++) {
		store.calls->detach(&store, &contexts[i]);
		munmap(contexts[i].buffer, BUFFER_SIZE);
	}
	if (store.calls != NULL)
		store.calls->close(&store);
	store = (struct store){ 0 };
	context_count = 0;
}

static int open_store(const struct drover_store_options *options, uint32_t wanted)
{
	int rc = store_verbs_open(options, &store);

	if (rc < 0)
		return rc;
	memset(contexts, 0, sizeof(contexts));
	while (context_count < wanted && rc == 0) {
		struct context *context = &contexts[context_count++];

		context->buffer = mmap(NULL, BUFFER_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		CHECK(context->buffer != MAP_FAILED);
		rc = store.calls->attach(&store, context);
	}
	if (rc < 0)
		close_store();
	return rc;
}

/* Waits for `wanted` completions, by turns through reap() and poll(2) on the descriptor; counts bytes, keeps the first error. */
static int collect(struct context *context, uint32_t wanted, uint64_t limit_nanos, uint64_t *bytes)
{
	struct completion done[OPERATIONS];
	uint64_t started = now();
	int error = 0;

	for (uint32_t round = 0; wanted > 0; round++) {
		uint32_t got;

		if (now() - started > limit_nanos)
			return -ETIME;
		if (round % 2 == 0) {
			struct pollfd source = { .fd = store.calls->wait_fd(&store, context), .events = POLLIN };

			poll(&source, 1, 20);
			got = store.calls->reap(&store, context, 0, done, OPERATIONS);
		} else {
			got = store.calls->reap(&store, context, 50000000, done, OPERATIONS);
		}
		for (uint32_t i = 0; i < got; i++) {
			if (done[i].result < 0)
				error = error == 0 ? done[i].result : error;
			else
				*bytes += (uint64_t)done[i].result;
		}
		wanted -= got;
	}
	return error;
}

/* `requests` at once of `pages` pages each: some of them in the context's buffer, as far as that reaches. */
static int transfer(int write, uint64_t first, uint32_t requests, uint32_t pages, uint64_t seed, uint64_t *wrong)
{
	uint32_t size = pages * (uint32_t)PAGE, left = requests;
	uint64_t next = first, bytes = 0;
	uint32_t turn = 0;

	*wrong = 0;
	while (left > 0) {
		struct context *context = &contexts[turn++ % context_count];
		uint32_t part = left < OPERATIONS ? left : OPERATIONS, direct = (uint32_t)(BUFFER_PAGES / pages);
		int rc;

		direct = direct < part / 2 ? direct : part / 2;
		for (uint32_t i = 0; i < part; i++) {
			uint8_t *memory = i < direct ? context->buffer + i * size : shadow_memory + i * size;
			uint64_t *words = (uint64_t *)memory;

			for (uint32_t at = 0; at < size / 8; at++)
				words[at] = write ? word_at_index(next + i * pages + at / 512, at % 512, seed) : ~0ull;
			store.calls->queue(&store, context, i << 8 | 0x5a, write, memory, size, (next + i * pages) * PAGE, i < direct);
		}
		store.calls->submit(&store, context);
		rc = collect(context, part, 60000000000ull, &bytes);
		if (rc < 0)
			return rc;
		for (uint32_t i = 0; i < part && !write; i++) {
			const uint64_t *words = (const uint64_t *)(i < direct ? context->buffer + i * size : shadow_memory + i * size);

			for (uint32_t at = 0; at < size / 8; at++)
				*wrong += words[at] != word_at_index(next + i * pages + at / 512, at % 512, seed);
		}
		left -= part;
		next += (uint64_t)part * pages;
	}
	return bytes == (uint64_t)requests * size ? 0 : -EIO;
}

static int one_request(uint64_t offset, uint32_t size)
{
	uint64_t bytes = 0;

	store.calls->queue(&store, &contexts[0], 7, 0, shadow_memory, size, offset, 0);
	store.calls->submit(&store, &contexts[0]);
	return collect(&contexts[0], 1, 60000000000ull, &bytes);
}

static int all_up(void)
{
	for (uint32_t i = 0; i < context_count; i++)
		if (atomic_load(&port_of(&store, &contexts[i])->state) != UP)
			return 0;
	return 1;
}

static int run_borrower(void)
{
	static char address[LINE], ticket[LINE];
	struct drover_store_options options = { .path = address, .name = ticket, .kind = DROVER_STORE_VERBS };
	char line[LINE];

	shadow_memory = mmap(NULL, OPERATIONS * BUFFER_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(shadow_memory != MAP_FAILED);
	answer(0, 0, "ready");
	while (fgets(line, sizeof(line), stdin) != NULL) {
		uint64_t first, count_or_size, seed, timeout, wrong = 0, started = now();
		uint32_t pages, port, wanted, key;
		int rc;

		if (sscanf(line, "open %s %u %s %" SCNu64 " %" SCNu64 " %u", address, &port, ticket, &count_or_size, &timeout, &wanted) == 6) {
			options.port = port;
			options.size = count_or_size;
			options.timeout_nanos = timeout * 1000000u;
			CHECK(wanted <= CONTEXTS_MAX_HERE);
			rc = open_store(&options, wanted);
			answer(rc, started, "open");
		} else if (sscanf(line, "write %" SCNu64 " %" SCNu64 " %u %" SCNu64, &first, &count_or_size, &pages, &seed) == 4 ||
			   sscanf(line, "read %" SCNu64 " %" SCNu64 " %u %" SCNu64, &first, &count_or_size, &pages, &seed) == 4) {
			CHECK(context_count > 0);
			rc = transfer(line[0] == 'w', first, (uint32_t)count_or_size, pages, seed, &wrong);
			answer(rc, started, "wrong %" PRIu64, wrong);
		} else if (sscanf(line, "raw %" SCNu64 " %u", &first, &pages) == 2) {
			rc = one_request(first, pages);
			answer(rc, started, "read");
		} else if (sscanf(line, "forge %u %" SCNu64, &key, &first) == 2) {
			struct port *forged = port_of(&store, &contexts[0]);

			CHECK_EQUAL(atomic_load(&forged->state), UP);
			forged->connection.remote_key = key;
			forged->connection.remote_address = first;
			answer(0, 0, "forged");
		} else if (strcmp(line, "welcome\n") == 0) {
			struct port *known = port_of(&store, &contexts[0]);

			answer(0, 0, "%u %" PRIu64, known->connection.remote_key, known->connection.remote_address);
		} else if (strcmp(line, "state\n") == 0) {
			struct port *asked = port_of(&store, &contexts[0]);

			answer(0, 0, "state %u attempts %u failure %d", atomic_load(&asked->state), asked->attempts, asked->failure);
		} else if (sscanf(line, "until-up %" SCNu64, &timeout) == 1) {
			while (!all_up() && now() - started < timeout * 1000000u)
				usleep(1000);
			answer(all_up() ? 0 : -ETIME, started, "up");
		} else if (strcmp(line, "close\n") == 0) {
			close_store();
			answer(0, started, "closed");
		} else if (strcmp(line, "quit\n") == 0) {
			break;
		} else {
			answer(-ENOSYS, 0, " ");
		}
	}
	close_store();
	munmap(shadow_memory, OPERATIONS * BUFFER_SIZE);
	answer(0, 0, "bye");
	return 0;
}

int main(int count_of, char **arguments)
{
	if (count_of == 4 && strcmp(arguments[1], "donor") == 0)
		return run_donor(arguments[2], (uint32_t)atoi(arguments[3]));
	if (count_of == 2 && strcmp(arguments[1], "borrower") == 0)
		return run_borrower();
	fprintf(stderr, "usage: verbs_main donor ADDRESS PORT | borrower\n");
	return 2;
}
