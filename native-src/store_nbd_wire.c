/*
 * store_nbd_wire.c - requests of one context on one connection: sent in order, answered in any.
 *
 *   port_queue()     port_send()          port_receive()
 *   FREE -> in `order`, unsent -> in `order`, sent -> DONE -> FREE
 *
 * Replies are received where they belong: a server that answers in order, as most do, costs one recvmsg() for several
 * replies, header, data, header, data, into as many places. Where it answered otherwise, what lies in the wrong
 * places goes through `staging`. Wrong places are memory of other reads that wait, so nothing is overwritten that
 * somebody needs.
 */
#include "store_nbd.h"

#include <sys/epoll.h>

#define REPLY_MAGIC 0x67446698u
#define BACKOFF_MAX 2000000000ull

/* -- lists ------------------------------------------------------------------------------------------------ */

static void list_take(struct port *port, uint16_t at)
{
	struct request *request = &port->requests[at];

	port->requests[request->previous].next = request->next;
	port->requests[request->next].previous = request->previous;
}

static void list_append(struct port *port, uint32_t list, uint16_t at)
{
	struct request *end = &port->requests[list], *request = &port->requests[at];

	request->next = (uint16_t)list;
	request->previous = end->previous;
	port->requests[end->previous].next = at;
	end->previous = at;
}

void port_finish(struct port *port, uint16_t at, int32_t result)
{
	struct request *request = &port->requests[at];

	if (port->unsent == at)
		port->unsent = request->next;
	list_take(port, at);
	list_append(port, DONE, at);
	request->state = REQUEST_DONE;
	request->result = result;
}

uint32_t port_take_done(struct port *port, struct completion *out, uint32_t limit)
{
	uint32_t taken = 0;

	while (taken < limit && !list_is_empty(port, DONE)) {
		uint16_t at = port->requests[DONE].next;
		struct request *request = &port->requests[at];

		out[taken++] = (struct completion){ .id = request->id, .result = request->result };
		list_take(port, at);
		list_append(port, IDLE, at);
		request->state = REQUEST_FREE;
	}
	return taken;
}

/* -- queueing -------------------------------------------------------------------------------------------- */

/* A free entry. There is always one, or the store above has more in flight than it may: see REQUESTS. */
static uint16_t request_take(struct port *port)
{
	uint16_t at = port->requests[IDLE].next;

	if (at == IDLE) {
		if (port->used == REQUESTS)
			__builtin_trap();
		return (uint16_t)port->used++;
	}
	list_take(port, at);
	return at;
}

void port_queue(const struct nbd *nbd, struct port *port, const struct request *wanted)
{
	uint16_t at = request_take(port);
	struct request *request = &port->requests[at];
	uint32_t stamp = request->stamp + 1;

	*request = *wanted;
	request->started = now();
	request->stamp = stamp;
	request->state = REQUEST_UNSENT;
	list_append(port, ORDER, at);
	if (port->unsent == ORDER)
		port->unsent = at;
	if (request->size == 0 || request->size > NBD_PAYLOAD_MAX || request->offset > nbd->size ||
	    request->size > nbd->size - request->offset)
		port_finish(port, at, -EINVAL);
}

/* -- the connection --------------------------------------------------------------------------------------- */

/* Nothing of `order` is sent any more: it begins anew. */
static void rewind_order(struct port *port)
{
	for (uint16_t at = port->requests[ORDER].next; at != ORDER; at = port->requests[at].next)
		port->requests[at].state = REQUEST_UNSENT;
	port->unsent = port->requests[ORDER].next;
	port->current = NONE;
	port->sent = port->received = 0;
}

void port_init(struct port *port)
{
	port->backoff = NBD_BACKOFF_MIN;
	for (uint32_t list = ORDER; list < ENTRIES; list++)
		port->requests[list].next = port->requests[list].previous = (uint16_t)list;
	rewind_order(port);
}

void port_fail_all(struct port *port, int error)
{
	while (!list_is_empty(port, ORDER))
		port_finish(port, port->requests[ORDER].next, error);
}

/* Gives the connection up and says when it may be tried again. */
void port_hang_up(const struct nbd *nbd, struct port *port, int error)
{
	link_hang_up(&port->link);
	rewind_order(port);
	port->retry_at = now() + port->backoff;
	port->backoff = port->backoff * 2 < BACKOFF_MAX ? port->backoff * 2 : BACKOFF_MAX;
	if (!nbd->patient)
		port_fail_all(port, error);
}

/* Goes on with opening the connection: whether it is there. */
int port_connected(const struct nbd *nbd, struct port *port)
{
	int rc = 0;

	if (port->link.state == LINK_READY)
		return 1;
	if (port->link.state == LINK_DOWN) {
		if (now() < port->retry_at)
			return 0;
		rc = link_dial(nbd, &port->link);
	}
	if (rc == 0)
		rc = link_step(nbd, &port->link);
	if (rc < 0)
		port_hang_up(nbd, port, rc);
	else if (rc > 0)
		link_watch(&port->link, EPOLLIN);
	return rc > 0;
}

/* -- sending ---------------------------------------------------------------------------------------------- */

static uint32_t wire_size(const struct request *request)
{
	return NBD_HEADER_SIZE + (request->command == COMMAND_WRITE ? request->size : 0);
}

/* The pieces of the next unsent requests; returns how many. */
static uint32_t gather(struct port *port)
{
	uint32_t vector_count = 0, skip = port->sent;
	uint16_t at = port->unsent;

	for (uint32_t i = 0; i < GATHER && at != ORDER; i++, at = port->requests[at].next) {
		const struct request *request = &port->requests[at];
		uint8_t *header = port->headers[i];

		if (skip < NBD_HEADER_SIZE) {
			put32(header, NBD_REQUEST_MAGIC);
			put16(header + 4, 0);
			put16(header + 6, request->command);
			put64(header + 8, (uint64_t)request->stamp << 32 | at);
			put64(header + 16, request->offset);
			put32(header + 24, request->size);
			port->vectors[vector_count++] = (struct iovec){ header + skip, NBD_HEADER_SIZE - skip };
			skip = 0;
		} else {
			skip -= NBD_HEADER_SIZE;
		}
		if (request->command == COMMAND_WRITE)
			port->vectors[vector_count++] = (struct iovec){ request->memory + skip, request->size - skip };
		skip = 0;
	}
	return vector_count;
}

void port_send(const struct nbd *nbd, struct port *port)
{
	while (port->unsent != ORDER) {
		struct msghdr message = { .msg_iov = port->vectors, .msg_iovlen = gather(port) };
		ssize_t gone = sendmsg(port->link.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
		uint64_t total;

		if (gone < 0) {
			if (errno == EINTR)
				continue;
			if (errno == EAGAIN || errno == EWOULDBLOCK)
				break;
			port_hang_up(nbd, port, errno == EPIPE ? -ECONNRESET : -errno);
			return;
		}
		total = port->sent + (uint64_t)gone;
		while (port->unsent != ORDER && total >= wire_size(&port->requests[port->unsent])) {
			struct request *request = &port->requests[port->unsent];

			total -= wire_size(request);
			request->state = REQUEST_SENT;
			port->unsent = request->next;
		}
		port->sent = (uint32_t)total;
	}
	link_watch(&port->link, port->unsent == ORDER ? EPOLLIN : EPOLLIN | EPOLLOUT);
}

/* A server that does not take TRIM has nothing to do. Known only once there is a connection. */
void port_skip_discards(struct port *port)
{
	uint16_t at = port->sent == 0 ? port->unsent : port->requests[port->unsent].next, next;

	for (; at != ORDER; at = next) {
		next = port->requests[at].next;
		if (port->requests[at].command == COMMAND_TRIM)
			port_finish(port, at, (int32_t)port->requests[at].size);
	}
}

/* -- receiving -------------------------------------------------------------------------------------------- */

/* What the server's errors are here; the protocol has these numbers whatever the system. */
static int32_t error_of(uint32_t number)
{
	switch (number) {
	case 1:
		return -EPERM;
	case 5:
		return -EIO;
	case 12:
		return -ENOMEM;
	case 28:
		return -ENOSPC;
	case 75:
		return -EOVERFLOW;
	case 95:
		return -EOPNOTSUPP;
	case 108:
		return -ESHUTDOWN;
	default:
		return -EINVAL;
	}
}

/* Understands a reply's header: 0, or -EPROTO. A read with data becomes `current`; `*whose` is its request. */
static int on_answer(struct port *port, const uint8_t *header, uint16_t *whose)
{
	uint32_t error = get32(header + 4);
	uint64_t cookie = get64(header + 8);
	uint32_t at = (uint32_t)cookie;
	struct request *request;

	if (get32(header) != REPLY_MAGIC || at >= REQUESTS)
		return -EPROTO;
	request = &port->requests[at];
	if (request->state != REQUEST_SENT || request->stamp != (uint32_t)(cookie >> 32))
		return -EPROTO;
	*whose = (uint16_t)at;
	port->received = 0;
	if (error != 0)
		port_finish(port, (uint16_t)at, error_of(error));
	else if (request->command != COMMAND_READ)
		port_finish(port, (uint16_t)at, (int32_t)request->size);
	else
		port->current = (uint16_t)at;
	return 0;
}

/* `count` more bytes of `current` are in their place. */
static void on_data(struct port *port, uint32_t byte_count)
{
	struct request *request = &port->requests[port->current];

	port->received += byte_count;
	if (port->received < request->size)
		return;
	port_finish(port, port->current, (int32_t)request->size);
	port->current = NONE;
	port->received = 0;
}

/* Where the next bytes are to go, if the server answers in order. Returns how many pieces; `*room` bytes in all. */
static uint32_t guess(struct port *port, uint32_t *guess_count, uint64_t *room)
{
	uint32_t vector_count = 0, count_here = 0;
	uint64_t left = STAGING_SIZE, certain = 0;
	uint16_t at = port->requests[ORDER].next;

	if (port->current != NONE) {
		struct request *request = &port->requests[port->current];

		certain = request->size - port->received;
		port->vectors[vector_count++] = (struct iovec){ request->memory + port->received, certain };
	}
	for (; count_here < GATHER && left > NBD_ANSWER_SIZE && at != port->unsent && at != ORDER; at = port->requests[at].next) {
		const struct request *request = &port->requests[at];
		/* A header of which some bytes have come is certain to be the next. */
		uint32_t have = count_here == 0 && port->current == NONE ? port->received : 0;

		if (at == port->current)
			continue;
		memcpy(port->answers[count_here], port->answer, have);
		port->guesses[count_here] = at;
		port->vectors[vector_count++] = (struct iovec){ port->answers[count_here++] + have, NBD_ANSWER_SIZE - have };
		left -= NBD_ANSWER_SIZE - have;
		if (request->command == COMMAND_READ) {
			uint64_t part = request->size < left ? request->size : left;

			port->vectors[vector_count++] = (struct iovec){ request->memory, part };
			left -= part;
			if (part < request->size)
				break;
		}
	}
	*guess_count = count_here;
	*room = certain + STAGING_SIZE - left;
	return vector_count;
}

/* Understands bytes that are not where they belong: 0 or -EPROTO. */
static int on_staged(struct port *port, const uint8_t *bytes, uint64_t size)
{
	while (size > 0) {
		uint64_t rest = port->current != NONE ? port->requests[port->current].size - port->received :
							NBD_ANSWER_SIZE - port->received;
		uint32_t part = (uint32_t)(rest < size ? rest : size);
		uint16_t whose;

		if (port->current != NONE) {
			memcpy(port->requests[port->current].memory + port->received, bytes, part);
			on_data(port, part);
		} else {
			memcpy(port->answer + port->received, bytes, part);
			port->received += part;
			if (port->received == NBD_ANSWER_SIZE && on_answer(port, port->answer, &whose) < 0)
				return -EPROTO;
		}
		bytes += part;
		size -= part;
	}
	return 0;
}

/* The guess was wrong after vectors[0 … vector): the `size` bytes in the following ones go to where they belong. */
static int regroup(struct port *port, uint32_t vector, uint64_t size)
{
	uint64_t staged = 0;

	for (; staged < size; vector++) {
		uint64_t part = port->vectors[vector].iov_len < size - staged ? port->vectors[vector].iov_len : size - staged;

		memcpy(port->staging + staged, port->vectors[vector].iov_base, part);
		staged += part;
	}
	return on_staged(port, port->staging, staged);
}

/* Understands `size` bytes that came into the places that guess() chose: 0 or -EPROTO. */
static int on_received(struct port *port, uint32_t guess_count, uint64_t size)
{
	uint32_t vector = 0;

	if (port->current != NONE) {
		uint64_t part = port->vectors[0].iov_len < size ? port->vectors[0].iov_len : size;

		on_data(port, (uint32_t)part);
		size -= part;
		vector = 1;
	}
	for (uint32_t i = 0; i < guess_count && size > 0; i++) {
		uint16_t expected = port->guesses[i], whose = NONE;
		uint64_t missing = port->vectors[vector].iov_len, part;
		int has_data = port->requests[expected].command == COMMAND_READ;

		vector++;
		if (size < missing) {
			port->received = (uint32_t)(NBD_ANSWER_SIZE - missing + size);
			memcpy(port->answer, port->answers[i], port->received);
			return 0;
		}
		size -= missing;
		if (on_answer(port, port->answers[i], &whose) < 0)
			return -EPROTO;
		if (whose != expected || (has_data && port->current == NONE))
			return regroup(port, vector, size);
		if (!has_data)
			continue;
		part = port->vectors[vector].iov_len < size ? port->vectors[vector].iov_len : size;
		vector++;
		if (part > 0)
			on_data(port, (uint32_t)part);
		size -= part;
	}
	return 0;
}

void port_receive(const struct nbd *nbd, struct port *port)
{
	for (;;) {
		struct msghdr message = { .msg_iov = port->vectors };
		uint32_t guess_count;
		uint64_t room;
		ssize_t got;
		int rc;

		if (port->unsent == port->requests[ORDER].next) /* nothing is sent that could be answered */
			return;
		message.msg_iovlen = guess(port, &guess_count, &room);
		got = recvmsg(port->link.fd, &message, MSG_DONTWAIT);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return;
		rc = got < 0 ? -errno : got == 0 ? -ECONNRESET : on_received(port, guess_count, (uint64_t)got);
		if (rc < 0) {
			port_hang_up(nbd, port, rc);
			return;
		}
		if (!list_is_empty(port, DONE))
			port->backoff = NBD_BACKOFF_MIN; /* it works again */
		if ((uint64_t)got < room)
			return;
	}
}

/* Fails what has waited for too long, and with it the connection that kept it waiting. */
void port_expire(const struct nbd *nbd, struct port *port)
{
	uint16_t first = port->requests[ORDER].next;
	uint64_t time;

	if (first == ORDER)
		return;
	time = now();
	if (time - port->requests[first].started <= nbd->timeout_nanos)
		return;
	/* Who waited for a connection only must not cost the one that is being made. */
	if (port->link.state == LINK_READY)
		port_hang_up(nbd, port, -ETIMEDOUT);
	while ((first = port->requests[ORDER].next) != ORDER && time - port->requests[first].started > nbd->timeout_nanos)
		port_finish(port, first, -ETIMEDOUT);
}
