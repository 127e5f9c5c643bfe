/*
 * store_nbd.c - slots in a donor's memory: an NBD client, one connection per context.
 *
 * Invariants:
 * - Whatever the peer does or leaves out, a request comes back by reap() no later than a time-out after it was queued:
 *   with all of its bytes, or -errno. -ENOTCONN: there was no connection, the request was not sent. -ETIMEDOUT,
 *   -ECONNRESET, -EPROTO (the peer breaks the protocol) and others of the socket: the connection broke, and with it
 *   everything in flight fails at once. Anything else is the server's own answer; the connection goes on.
 * - After that nobody touches the request's memory any more. Until then a read's memory may hold anything.
 * - Requests in flight have no order, and a write that failed by a broken connection may still happen, later: its
 *   slot must not be used for something else before the server is known to have let go of that connection.
 * - A broken connection is opened again by the next submit() or tend() after a back-off, a step at a time, never
 *   waiting. Until it is there requests fail at once, so that the caller can go to another copy; with
 *   DROVER_STORE_PATIENT, for pages that have no other copy, they wait for it, and what was in flight is sent again.
 */
#include "store_nbd.h"

#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>

static struct nbd *nbd_of(const struct store *store)
{
	return store->inner;
}

static struct port *port_of(const struct store *store, const struct context *context)
{
	return context->ports[store->at];
}

/* -- the calls of a store --------------------------------------------------------------------------------- */

static void nbd_detach(struct store *store, struct context *context)
{
	struct port *port = port_of(store, context);
	uint8_t farewell[NBD_HEADER_SIZE] = { 0 };

	if (port == NULL)
		return;
	if (port->link.state == LINK_READY && port->sent == 0) {
		put32(farewell, NBD_REQUEST_MAGIC);
		put16(farewell + 6, COMMAND_DISCONNECT);
		send(port->link.fd, farewell, sizeof(farewell), MSG_DONTWAIT | MSG_NOSIGNAL);
	}
	link_hang_up(&port->link);
	if (port->link.epoll >= 0)
		close(port->link.epoll);
	munmap(port, sizeof(*port));
	context->ports[store->at] = NULL;
}

/* Opens the connection in advance. A donor that does not answer now is like one that went away later. */
static int nbd_attach(struct store *store, struct context *context)
{
	struct nbd *nbd = nbd_of(store);
	struct port *port = mmap(NULL, sizeof(*port), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int rc = 0;

	if (port == MAP_FAILED)
		return -ENOMEM;
	madvise(port, sizeof(*port), MADV_DONTFORK);
	port->link.fd = -1;
	port->link.epoll = epoll_create1(EPOLL_CLOEXEC);
	if (port->link.epoll < 0) {
		rc = -errno;
		munmap(port, sizeof(*port));
		return rc;
	}
	context->ports[store->at] = port;
	port_init(port);
	if (nbd->spare >= 0) {
		port->link.fd = nbd->spare;
		port->link.flags = nbd->spare_flags;
		port->link.state = LINK_READY;
		nbd->spare = -1;
	} else {
		rc = link_dial(nbd, &port->link);
		if (rc == 0 && atomic_load(&nbd->impatient) == 0)
			rc = link_wait(nbd, &port->link);
	}
	if (rc < 0) {
		atomic_store(&nbd->impatient, 1);
		port_hang_up(nbd, port, rc);
	} else if (port->link.state == LINK_READY) {
		link_watch(&port->link, EPOLLIN);
	}
	return 0;
}

static void queue_request(struct store *store, struct context *context, uint32_t id, uint8_t command, void *memory,
			  uint32_t size, uint64_t offset)
{
	port_queue(nbd_of(store), port_of(store, context),
		   &(struct request){ .id = id, .command = command, .memory = memory, .size = size, .offset = offset });
}

static void nbd_queue(struct store *store, struct context *context, uint32_t id, int write, void *memory, uint32_t size,
		      uint64_t offset, int in_buffer)
{
	(void)in_buffer;
	queue_request(store, context, id, write ? COMMAND_WRITE : COMMAND_READ, memory, size, offset);
}

static void nbd_discard(struct store *store, struct context *context, uint32_t id, uint32_t size, uint64_t offset)
{
	queue_request(store, context, id, COMMAND_TRIM, NULL, size, offset);
}

static void nbd_submit(struct store *store, struct context *context)
{
	const struct nbd *nbd = nbd_of(store);
	struct port *port = port_of(store, context);

	if (!port_connected(nbd, port)) {
		if (!nbd->patient)
			port_fail_all(port, -ENOTCONN);
		return;
	}
	if ((port->link.flags & NBD_FLAG_SEND_TRIM) == 0)
		port_skip_discards(port);
	port_send(nbd, port);
}

/* One look at everything that can go on. */
static void progress(struct store *store, struct context *context)
{
	const struct nbd *nbd = nbd_of(store);
	struct port *port = port_of(store, context);

	if (port->link.state == LINK_READY)
		port_receive(nbd, port);
	if (port->unsent != ORDER)
		nbd_submit(store, context);
	port_expire(nbd, port);
}

static uint32_t nbd_reap(struct store *store, struct context *context, uint64_t nanos, struct completion *out,
			 uint32_t limit)
{
	const struct nbd *nbd = nbd_of(store);
	struct port *port = port_of(store, context);
	uint64_t until = nanos > 0 ? now() + nanos : 0;

	for (;;) {
		struct pollfd source = { .fd = port->link.epoll, .events = POLLIN };
		uint64_t time, end;
		uint32_t taken;
		struct timespec pause;

		progress(store, context);
		taken = port_take_done(port, out, limit);
		if (taken > 0 || nanos == 0 || list_is_empty(port, ORDER))
			return taken;
		time = now();
		if (time >= until)
			return 0;
		/* No later than what has waited longest runs out of time, or the connection may be tried again. */
		end = port->requests[port->requests[ORDER].next].started + nbd->timeout_nanos + 1;
		end = until < end ? until : end;
		if (port->link.state == LINK_DOWN && port->retry_at < end)
			end = port->retry_at;
		pause = (struct timespec){ 0 };
		if (end > time) {
			pause.tv_sec = (time_t)((end - time) / 1000000000u);
			pause.tv_nsec = (long)((end - time) % 1000000000u);
		}
		ppoll(&source, 1, &pause, NULL);
	}
}

static int nbd_wait_fd(struct store *store, struct context *context)
{
	return port_of(store, context)->link.epoll;
}

static void nbd_tend(struct store *store, struct context *context)
{
	const struct nbd *nbd = nbd_of(store);
	struct port *port = port_of(store, context);
	uint8_t byte;

	if (port->link.state == LINK_READY && list_is_empty(port, ORDER)) {
		ssize_t got = recv(port->link.fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK);

		/* Nobody was asked, so there is nothing to hear but the end. */
		if (got >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
			port_hang_up(nbd, port, -ECONNRESET);
	}
	port_connected(nbd, port);
	progress(store, context);
}

static void nbd_close(struct store *store)
{
	struct nbd *nbd = nbd_of(store);

	if (nbd == NULL)
		return;
	if (nbd->spare >= 0)
		close(nbd->spare);
	free(nbd);
	store->inner = NULL;
}

static const struct store_calls nbd_calls = {
	.attach = nbd_attach,
	.detach = nbd_detach,
	.queue = nbd_queue,
	.submit = nbd_submit,
	.reap = nbd_reap,
	.wait_fd = nbd_wait_fd,
	.close = nbd_close,
	.discard = nbd_discard,
	.tend = nbd_tend,
};

/* -- opening ---------------------------------------------------------------------------------------------- */

static int parse_address(struct nbd *nbd, const char *text, uint32_t port)
{
	const struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM };
	struct addrinfo *found;
	char service[8];

	if (port == 0 || port > 65535)
		return -EINVAL;
	snprintf(service, sizeof(service), "%u", port);
	if (getaddrinfo(text, service, &hints, &found) != 0)
		return -EINVAL;
	memcpy(&nbd->address, found->ai_addr, found->ai_addrlen);
	nbd->address_size = found->ai_addrlen;
	freeaddrinfo(found);
	return 0;
}

int store_nbd_open(const struct drover_store_options *options, struct store *out)
{
	struct link link = { .fd = -1, .epoll = -1 };
	size_t name_size = options->name == NULL ? 0 : strnlen(options->name, NBD_NAME_MAX + 1);
	struct nbd *nbd;
	int rc;

	if (options->path == NULL || name_size > NBD_NAME_MAX || options->size == 0 || options->size % PAGE != 0)
		return -EINVAL;
	nbd = calloc(1, sizeof(*nbd));
	if (nbd == NULL)
		return -ENOMEM;
	nbd->size = options->size;
	nbd->timeout_nanos = options->timeout_nanos == 0 ? NBD_TIMEOUT_NANOS : options->timeout_nanos;
	nbd->patient = (options->flags & DROVER_STORE_PATIENT) != 0;
	nbd->name_size = (uint32_t)name_size;
	if (name_size > 0)
		memcpy(nbd->name, options->name, name_size);
	rc = parse_address(nbd, options->path, options->port);
	if (rc == 0)
		rc = link_dial(nbd, &link);
	if (rc == 0)
		rc = link_wait(nbd, &link);
	if (rc < 0) {
		link_hang_up(&link);
		free(nbd);
		return rc;
	}
	nbd->spare = link.fd;
	nbd->spare_flags = link.flags;
	*out = (struct store){ .calls = &nbd_calls, .fd = -1, .inner = nbd };
	return 0;
}
