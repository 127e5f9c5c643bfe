/*
 * nbd_ping.c - what the page channel costs beside bare TCP: `nbd_ping ADDRESS PORT NAME MIB ROUNDS`.
 *
 * The server at ADDRESS exports at least MIB of memory. Each round measures, one right after the other:
 *
 *   bare    28 octets there and 16 + 4096 back, blocking, between two C programs over loopback: nanoseconds, median
 *   store   the same by store_nbd.c, spinning for a while as a fault does
 *   fault   a touch of a cold page of a region that has its pages there, to the next instruction
 *   stream  octets that one C program sends to another as fast as they go, read into 256 KiB: MB/s
 *   pull    all of MIB read by store_nbd.c, 4 requests of 64 KiB in flight: MB/s
 *   region  all of MIB brought into a region by prefetch, with everything that belongs to it: MB/s
 *
 * and prints a line of JSON. Built and run by bench/ping.ts.
 */
#include "../../native-src/region.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define ASK 28u
#define ANSWER (16u + 4096u)
#define PINGS 4000u
#define SPIN_NANOS 60000u
/* Pages that are asked for before they are touched, and how many at once. */
#define AHEAD 64u
#define AHEAD_STEP 32u
#define STREAM_SIZE (256u << 10)

static void need(int good, const char *what)
{
	if (good)
		return;
	fprintf(stderr, "nbd_ping: cannot %s\n", what);
	exit(1);
}

static uint64_t samples[PINGS];

static int by_size(const void *left, const void *right)
{
	uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;

	return a < b ? -1 : a > b;
}

static uint64_t median_of(uint32_t count_here)
{
	qsort(samples, count_here, sizeof(samples[0]), by_size);
	return samples[count_here / 2];
}

static void read_all(int fd, uint8_t *bytes, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t got = read(fd, bytes + done, size - done);

		if (got <= 0)
			_exit(0);
		done += (size_t)got;
	}
}

static void write_all(int fd, const uint8_t *bytes, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t sent = send(fd, bytes + done, size - done, MSG_NOSIGNAL);

		if (sent <= 0)
			_exit(0);
		done += (size_t)sent;
	}
}

/* A connection to a child that runs `play`; the child ends with it. */
static int with_child(void (*play)(int fd), pid_t *child)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(address);
	int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0), fd = socket(AF_INET, SOCK_STREAM, 0);

	need(listener >= 0 && bind(listener, (struct sockaddr *)&address, size) == 0 && listen(listener, 1) == 0 &&
		     getsockname(listener, (struct sockaddr *)&address, &size) == 0,
	     "listen");
	*child = fork();
	need(*child >= 0, "fork");
	if (*child == 0) {
		int peer = accept(listener, NULL, NULL);

		close(fd); /* else its end would never be seen */
		setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		play(peer);
		_exit(0);
	}
	need(connect(fd, (struct sockaddr *)&address, size) == 0, "connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	close(listener);
	return fd;
}

static uint8_t stream_bytes[STREAM_SIZE];

static void serve_pings(int fd)
{
	static uint8_t bytes[ANSWER];

	for (;;) {
		read_all(fd, bytes, ASK);
		write_all(fd, bytes, ANSWER);
	}
}

static void serve_stream(int fd)
{
	for (;;)
		write_all(fd, stream_bytes, STREAM_SIZE);
}

static uint64_t bare(void)
{
	static uint8_t bytes[ANSWER];
	pid_t child;
	int fd = with_child(serve_pings, &child);

	for (uint32_t i = 0; i < PINGS; i++) {
		uint64_t started = now();

		write_all(fd, bytes, ASK);
		read_all(fd, bytes, ANSWER);
		samples[i] = now() - started;
	}
	close(fd);
	waitpid(child, NULL, 0);
	return median_of(PINGS);
}

static double stream(uint64_t size)
{
	pid_t child;
	int fd = with_child(serve_stream, &child);
	uint64_t started = now();

	for (uint64_t done = 0; done < size; done += STREAM_SIZE)
		read_all(fd, stream_bytes, STREAM_SIZE);
	started = now() - started;
	close(fd);
	waitpid(child, NULL, 0);
	return (double)size * 1000 / (double)started;
}

static uint32_t reap(struct store *store, struct context *context, uint32_t *in_flight)
{
	struct completion completions[OPERATIONS];
	uint64_t spin_until = now() + SPIN_NANOS;
	uint32_t taken;

	while ((taken = store->calls->reap(store, context, 0, completions, OPERATIONS)) == 0 && now() < spin_until)
		pause_briefly();
	while (taken == 0)
		taken = store->calls->reap(store, context, 100000000, completions, OPERATIONS);
	for (uint32_t i = 0; i < taken; i++)
		need(completions[i].result > 0, "read a page");
	*in_flight -= taken;
	return taken;
}

static uint64_t store_pings(struct store *store, struct context *context, uint64_t pages)
{
	for (uint32_t i = 0; i < PINGS; i++) {
		uint64_t started = now();
		uint32_t in_flight = 1;

		store->calls->queue(store, context, 0, 0, context->buffer, PAGE, i * 7919ull % pages * PAGE, 1);
		store->calls->submit(store, context);
		while (in_flight > 0)
			reap(store, context, &in_flight);
		samples[i] = now() - started;
	}
	return median_of(PINGS);
}

static double pull(struct store *store, struct context *context, uint64_t size)
{
	uint64_t started = now();
	uint32_t in_flight = 0, part = 64u << 10;

	for (uint64_t at = 0; at < size || in_flight > 0;) {
		int queued = 0;

		while (at < size && in_flight < 4) {
			store->calls->queue(store, context, 0, 0, context->buffer + at % (4 * part), part, at, 1);
			at += part;
			in_flight++;
			queued = 1;
		}
		if (queued)
			store->calls->submit(store, context);
		reap(store, context, &in_flight);
	}
	return (double)size * 1000 / (double)(now() - started);
}

/* A region whose pages are all cold, and then are not. */
static void region(const struct drover_store_options *options, uint64_t *fault, double *pulled)
{
	const struct drover_region_options region_options = { .size = options->size, .limit = options->size, .spin_us = 60 };
	uint64_t pages = options->size / PAGE, *list = malloc(pages * sizeof(*list)), started;
	struct drover_region *opened;
	struct store store;
	volatile uint64_t *words;

	need(list != NULL && store_nbd_open(options, &store) == 0 && region_open(&region_options, &store, &opened) == 0,
	     "open a region");
	words = (volatile uint64_t *)opened->base;
	for (uint64_t page = 0; page < pages; page++) {
		list[page] = page;
		words[page * 512] = page + 1;
	}
	need(drover_region_evict(opened, list, pages, DROVER_EVICT_WAIT) == (int64_t)pages, "evict");
	for (uint32_t i = 0; i < PINGS; i++) {
		uint64_t page = i * 7919ull % pages;

		started = now();
		need(words[page * 512] == page + 1, "get the same back");
		samples[i] = now() - started;
	}
	*fault = median_of(PINGS);
	need(drover_region_evict(opened, list, pages, DROVER_EVICT_WAIT) >= 0, "evict");
	started = now();
	for (uint64_t page = 0, asked = 0; page < pages; page++) {
		/* As a program that reads on: what comes is asked for in good time, a part after the other. */
		while (page % AHEAD_STEP == 0 && asked < pages && asked < page + AHEAD) {
			uint64_t step = pages - asked < AHEAD_STEP ? pages - asked : AHEAD_STEP;

			need(drover_region_prefetch(opened, list + asked, step, 0) >= 0, "prefetch");
			asked += step;
		}
		need(words[page * 512] == page + 1, "get the same back");
	}
	*pulled = (double)options->size * 1000 / (double)(now() - started);
	drover_region_close(opened);
	free(list);
}

int main(int argument_count, char **arguments)
{
	struct drover_store_options options = { .kind = DROVER_STORE_NBD };
	struct context *context = aligned_alloc(64, sizeof(*context));
	struct store store;
	uint32_t rounds;

	need(argument_count == 6 && context != NULL, "go on: five arguments are needed");
	options.path = arguments[1];
	options.port = (uint32_t)atoi(arguments[2]);
	options.name = arguments[3];
	options.size = strtoull(arguments[4], NULL, 10) << 20;
	rounds = (uint32_t)atoi(arguments[5]);
	memset(context, 0, sizeof(*context));
	context->buffer = aligned_alloc(PAGE, BUFFER_PAGES * PAGE);
	need(context->buffer != NULL && store_nbd_open(&options, &store) == 0, "connect to the server");
	need(store.calls->attach(&store, context) == 0, "attach");
	for (uint32_t round = 0; round < rounds; round++) {
		uint64_t bare_nanos = bare();
		uint64_t store_nanos = store_pings(&store, context, options.size / PAGE), fault_nanos;
		double stream_rate = stream(options.size);
		double pull_rate = pull(&store, context, options.size), region_rate;

		region(&options, &fault_nanos, &region_rate);
		printf("{\"round\":%u,\"bare\":%llu,\"store\":%llu,\"fault\":%llu,\"stream\":%.0f,\"pull\":%.0f,\"region\":%.0f}\n",
		       round, (unsigned long long)bare_nanos, (unsigned long long)store_nanos, (unsigned long long)fault_nanos,
		       stream_rate, pull_rate, region_rate);
		fflush(stdout);
	}
	store.calls->detach(&store, context);
	store.calls->close(&store);
	free(context->buffer);
	free(context);
	return 0;
}
