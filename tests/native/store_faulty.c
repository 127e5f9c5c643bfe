/* store_faulty.c - see the header. What will happen to a request is decided when it is queued, and travels in its id. */
#include "store_faulty.h"

#include <string.h>

#define ID_MASK 0xffffu

enum plan { GOOD, READ_ERROR, READ_CORRUPT, READ_SHORT, READ_LOST, READ_EMPTY, WRITE_ERROR, BROKEN };

static uint64_t draw(struct faulty *faulty)
{
	uint64_t x = atomic_fetch_add(&faulty->random, 0x9e3779b97f4a7c15ull);

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

static int one_in(struct faulty *faulty, const _Atomic uint32_t *rate)
{
	uint32_t n = atomic_load(rate);

	if (n == 0 || draw(faulty) % n != 0)
		return 0;
	atomic_fetch_add(&faulty->injected, 1);
	return 1;
}

static int faulty_attach(struct store *store, struct context *context)
{
	struct faulty *faulty = store->inner;

	faulty->real.plain = atomic_load(&faulty->no_ring);
	faulty->real.at = store->at;
	for (uint32_t i = 0; i < FAULTY_CONTEXTS; i++) {
		if (faulty->contexts[i] != NULL && faulty->contexts[i] != context)
			continue;
		faulty->contexts[i] = context;
		break;
	}
	return faulty->real.calls->attach(&faulty->real, context);
}

static void faulty_detach(struct store *store, struct context *context)
{
	struct faulty *faulty = store->inner;

	faulty->real.calls->detach(&faulty->real, context);
	for (uint32_t i = 0; i < FAULTY_CONTEXTS; i++)
		if (faulty->contexts[i] == context)
			faulty->contexts[i] = NULL;
}

static uint32_t number_of(const struct faulty *faulty, const struct context *context)
{
	uint32_t i = 0;

	while (faulty->contexts[i] != context)
		i++;
	return i;
}

static void faulty_queue(struct store *store, struct context *context, uint32_t id, int write, void *memory, uint32_t size,
			 uint64_t offset, int in_buffer)
{
	struct faulty *faulty = store->inner;
	enum plan plan = GOOD;
	uint32_t number = number_of(faulty, context);

	faulty->requests[number][id].memory = memory;
	faulty->requests[number][id].size = size;
	if (one_in(faulty, &faulty->broken)) {
		plan = BROKEN;
	} else if (write && atomic_load(&faulty->broken_after) > 0) {
		if (atomic_fetch_sub(&faulty->broken_after, 1) == 1)
			atomic_store(&faulty->broken, 1);
	} else if (write) {
		if (one_in(faulty, &faulty->write_error))
			plan = WRITE_ERROR;
		else if (one_in(faulty, &faulty->write_lost))
			write = 0; /* what is there is read into where it came from, and is the same or older */
	} else if (one_in(faulty, &faulty->read_error)) {
		plan = READ_ERROR;
	} else if (one_in(faulty, &faulty->read_corrupt)) {
		plan = READ_CORRUPT;
	} else if (one_in(faulty, &faulty->read_short)) {
		plan = READ_SHORT;
	} else if (one_in(faulty, &faulty->read_lost)) {
		plan = READ_LOST;
	} else if (one_in(faulty, &faulty->read_empty)) {
		plan = READ_EMPTY;
	} else if (one_in(faulty, &faulty->read_other)) {
		offset ^= PAGE;
	}
	if (plan == WRITE_ERROR)
		size /= 2;
	faulty->real.calls->queue(&faulty->real, context, id | (uint32_t)plan << 16, write, memory, size, offset, in_buffer);
}

static void faulty_submit(struct store *store, struct context *context)
{
	struct faulty *faulty = store->inner;

	faulty->real.calls->submit(&faulty->real, context);
}

static uint32_t faulty_reap(struct store *store, struct context *context, uint64_t nanos, struct completion *out,
			    uint32_t count)
{
	struct faulty *faulty = store->inner;
	uint32_t taken = faulty->real.calls->reap(&faulty->real, context, nanos, out, count), kept = 0;

	for (uint32_t i = 0; i < taken; i++) {
		uint32_t id = out[i].id & ID_MASK, number = number_of(faulty, context);
		uint8_t *memory = faulty->requests[number][id].memory;
		uint32_t size = faulty->requests[number][id].size;
		struct completion completion = { id, out[i].result };

		switch ((enum plan)(out[i].id >> 16)) {
		case READ_LOST:
			continue;
		case READ_ERROR:
			completion.result = -EIO;
			memset(memory, 0xee, PAGE);
			break;
		case READ_EMPTY:
			memset(memory, 0, size);
			break;
		case BROKEN:
			completion.result = -ENOTCONN;
			break;
		case WRITE_ERROR:
			completion.result = -ENOSPC;
			break;
		case READ_SHORT:
			completion.result /= 2;
			break;
		case READ_CORRUPT:
			memory[draw(faulty) % size] ^= (uint8_t)(1u << draw(faulty) % 8);
			break;
		default:
			break;
		}
		out[kept++] = completion;
	}
	return kept;
}

static int faulty_wait_fd(struct store *store, struct context *context)
{
	struct faulty *faulty = store->inner;

	return faulty->real.calls->wait_fd(&faulty->real, context);
}

static void faulty_close(struct store *store)
{
	struct faulty *faulty = store->inner;

	faulty->real.calls->close(&faulty->real);
}

struct store faulty_wrap(struct faulty *faulty, const struct store *real)
{
	static const struct store_calls calls = {
		.attach = faulty_attach,
		.detach = faulty_detach,
		.queue = faulty_queue,
		.submit = faulty_submit,
		.reap = faulty_reap,
		.wait_fd = faulty_wait_fd,
		.close = faulty_close,
	};

	faulty->real = *real;
	return (struct store){ .calls = &calls, .fd = real->fd, .inner = faulty };
}
