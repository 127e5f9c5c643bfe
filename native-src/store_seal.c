/*
 * store_seal.c - encryption around another store: what leaves is ciphertext, and what comes back is believed only if it is what
 * was written last to that slot.
 *
 * AES-256-GCM (libsodium) with a key that is random for each store and stays in this process; XChaCha20-Poly1305 where the
 * processor has no AES. The nonce is the slot's number and a counter that every write of the slot raises, so none comes
 * twice. Counter and tag of a slot stay here, 24 bytes of RAM for 4096 lent: a slot that was altered, exchanged with another
 * or is an older version of itself does not match, and its read is -EBADMSG.
 *
 * A write goes out from a buffer of the context's: every request has its own RUN_MAX pages of it, so nothing is ever
 * short of room, and pages that are not needed are never touched. A read is opened in place. Counter and tag of a slot belong
 * to who has the page that lives there.
 */
#include "tiers.h"

#include <sodium.h>
#include <string.h>
#include <sys/mman.h>

#define TAG_SIZE 16u

_Static_assert(crypto_aead_aes256gcm_ABYTES == TAG_SIZE && crypto_aead_xchacha20poly1305_ietf_ABYTES == TAG_SIZE,
	       "both tags have one size");
_Static_assert(crypto_aead_aes256gcm_NPUBBYTES == 12 && crypto_aead_xchacha20poly1305_ietf_NPUBBYTES == 24,
	       "counter and slot fit both nonces");

/* What is known of a slot. */
struct mark {
	uint64_t counter; /* 0: never written */
	uint8_t tag[TAG_SIZE];
};

struct sealer {
	struct store inner;
	uint64_t slots;
	uint32_t has_aes;
	struct mark *marks;
	_Alignas(16) crypto_aead_aes256gcm_state state;
	uint8_t key[crypto_aead_xchacha20poly1305_ietf_KEYBYTES];
};

struct request {
	uint8_t *memory; /* of a read: where the ciphertext arrives */
	uint32_t id;
	uint32_t slot;
	uint32_t count; /* pages */
};

/* What a context keeps: as many requests as it has operations. */
struct port {
	uint64_t free;
	struct request requests[OPERATIONS];
	uint8_t *buffer; /* RUN_MAX pages for each */
	struct completion completions[OPERATIONS];
};

#define PORT_BUFFER (OPERATIONS * RUN_MAX * PAGE)

static struct sealer *sealer_of(const struct store *store)
{
	return store->inner;
}

static struct port *port_of(const struct store *store, const struct context *context)
{
	return context->ports[store->at];
}

static void make_nonce(uint8_t nonce[24], uint32_t slot, uint64_t counter)
{
	memset(nonce, 0, 24);
	memcpy(nonce, &counter, sizeof(counter));
	memcpy(nonce + sizeof(counter), &slot, sizeof(slot));
}

static void seal_page(struct sealer *sealer, uint32_t slot, uint8_t *out, const uint8_t *page)
{
	struct mark *mark = &sealer->marks[slot];
	uint8_t nonce[24];

	make_nonce(nonce, slot, ++mark->counter);
	if (sealer->has_aes)
		crypto_aead_aes256gcm_encrypt_detached_afternm(out, mark->tag, NULL, page, PAGE, NULL, 0, NULL, nonce,
							       (const crypto_aead_aes256gcm_state *)&sealer->state);
	else
		crypto_aead_xchacha20poly1305_ietf_encrypt_detached(out, mark->tag, NULL, page, PAGE, NULL, 0, NULL, nonce,
								    sealer->key);
}

/* In place; whether it is what was written last. */
static int open_page(struct sealer *sealer, uint32_t slot, uint8_t *page)
{
	const struct mark *mark = &sealer->marks[slot];
	uint8_t nonce[24];

	if (mark->counter == 0)
		return 0;
	make_nonce(nonce, slot, mark->counter);
	if (sealer->has_aes)
		return crypto_aead_aes256gcm_decrypt_detached_afternm(page, NULL, page, PAGE, mark->tag, NULL, 0, nonce,
								      (const crypto_aead_aes256gcm_state *)&sealer->state) == 0;
	return crypto_aead_xchacha20poly1305_ietf_decrypt_detached(page, NULL, page, PAGE, mark->tag, NULL, 0, nonce,
								   sealer->key) == 0;
}

/* -- the calls of a store --------------------------------------------------------------------------------- */

static void seal_queue(struct store *store, struct context *context, uint32_t id, int write, void *memory, uint32_t size,
		       uint64_t offset, int in_buffer)
{
	struct sealer *sealer = sealer_of(store);
	struct port *port = port_of(store, context);
	uint32_t at = (uint32_t)__builtin_ctzll(port->free);
	struct request *request = &port->requests[at];
	uint8_t *sealed = port->buffer + (uint64_t)at * RUN_MAX * PAGE;

	port->free &= port->free - 1;
	*request = (struct request){ .id = id, .slot = (uint32_t)(offset / PAGE), .count = (uint32_t)(size / PAGE) };
	if (!write) {
		request->memory = memory;
		sealer->inner.calls->queue(&sealer->inner, context, at, 0, memory, size, offset, in_buffer);
		return;
	}
	for (uint32_t i = 0; i < request->count; i++)
		seal_page(sealer, request->slot + i, sealed + i * PAGE, (const uint8_t *)memory + i * PAGE);
	sealer->inner.calls->queue(&sealer->inner, context, at, 1, sealed, size, offset, 0);
}

static void seal_submit(struct store *store, struct context *context)
{
	struct sealer *sealer = sealer_of(store);

	sealer->inner.calls->submit(&sealer->inner, context);
}

static uint32_t seal_reap(struct store *store, struct context *context, uint64_t nanos, struct completion *out,
			  uint32_t limit)
{
	struct sealer *sealer = sealer_of(store);
	struct port *port = port_of(store, context);
	uint32_t taken;

	limit = limit < OPERATIONS ? limit : OPERATIONS;
	taken = sealer->inner.calls->reap(&sealer->inner, context, nanos, port->completions, limit);
	for (uint32_t i = 0; i < taken; i++) {
		struct completion *completion = &port->completions[i];
		struct request *request = &port->requests[completion->id];
		int32_t result = completion->result;

		for (uint32_t page = 0; request->memory != NULL && result > 0 && page < (uint32_t)result / PAGE; page++)
			if (!open_page(sealer, request->slot + page, request->memory + page * PAGE))
				result = -EBADMSG;
		out[i] = (struct completion){ .id = request->id, .result = result };
		port->free |= 1ull << completion->id;
	}
	return taken;
}

static int seal_wait_fd(struct store *store, struct context *context)
{
	struct sealer *sealer = sealer_of(store);

	return sealer->inner.calls->wait_fd != NULL ? sealer->inner.calls->wait_fd(&sealer->inner, context) : -1;
}

static void seal_tend(struct store *store, struct context *context)
{
	struct sealer *sealer = sealer_of(store);

	if (sealer->inner.calls->tend != NULL)
		sealer->inner.calls->tend(&sealer->inner, context);
}

/* -- opening and closing ---------------------------------------------------------------------------------- */

static void seal_detach(struct store *store, struct context *context)
{
	struct sealer *sealer = sealer_of(store);
	struct port *port = port_of(store, context);

	sealer->inner.calls->detach(&sealer->inner, context);
	if (port == NULL)
		return;
	if (port->buffer != NULL)
		munmap(port->buffer, PORT_BUFFER);
	munmap(port, sizeof(*port));
	context->ports[store->at] = NULL;
}

static int seal_attach(struct store *store, struct context *context)
{
	struct sealer *sealer = sealer_of(store);
	struct port *port = mmap(NULL, sizeof(*port), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void *buffer;

	if (port == MAP_FAILED)
		return -ENOMEM;
	context->ports[store->at] = port;
	port->free = ~0ull;
	buffer = mmap(NULL, PORT_BUFFER, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (buffer == MAP_FAILED)
		return -ENOMEM;
	port->buffer = buffer;
	madvise(buffer, PORT_BUFFER, MADV_DONTFORK);
	return sealer->inner.calls->attach(&sealer->inner, context);
}

static uint64_t marks_size(const struct sealer *sealer)
{
	return sealer->slots * sizeof(struct mark);
}

static void seal_close(struct store *store)
{
	struct sealer *sealer = sealer_of(store);

	sealer->inner.calls->close(&sealer->inner);
	munmap(sealer->marks, marks_size(sealer));
	sodium_memzero(sealer, sizeof(*sealer));
	munmap(sealer, sizeof(*sealer));
	store->inner = NULL;
}

static const struct store_calls seal_calls = {
	.attach = seal_attach,
	.detach = seal_detach,
	.queue = seal_queue,
	.submit = seal_submit,
	.reap = seal_reap,
	.wait_fd = seal_wait_fd,
	.tend = seal_tend,
	.close = seal_close,
};

int store_seal_open(const struct store *inner, uint64_t size, uint32_t inner_at, struct store *out)
{
	struct store owned = *inner;
	struct sealer *sealer = MAP_FAILED;
	void *marks;

	if (sodium_init() < 0)
		goto failed;
	sealer = mmap(NULL, sizeof(*sealer), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (sealer == MAP_FAILED)
		goto failed;
	sealer->slots = size / PAGE;
	marks = mmap(NULL, marks_size(sealer), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (marks == MAP_FAILED)
		goto failed;
	/* Neither a core dump nor a child has the key. */
	madvise(sealer, sizeof(*sealer), MADV_DONTDUMP);
	madvise(sealer, sizeof(*sealer), MADV_WIPEONFORK);
	sealer->marks = marks;
	sealer->inner = owned;
	sealer->inner.at = inner_at;
	sealer->has_aes = crypto_aead_aes256gcm_is_available() != 0;
	randombytes_buf(sealer->key, sizeof(sealer->key));
	if (sealer->has_aes)
		crypto_aead_aes256gcm_beforenm(&sealer->state, sealer->key);
	*out = (struct store){ .calls = &seal_calls, .fd = -1, .inner = sealer };
	return 0;
failed:
	if (sealer != MAP_FAILED)
		munmap(sealer, sizeof(*sealer));
	owned.calls->close(&owned);
	return -ENOMEM;
}
