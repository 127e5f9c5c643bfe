/*
 * store_verbs.c - slots in a donor's registered memory, read and written by one-sided RDMA.
 *
 * Each context has a connection of its own: a reliable queue pair, a completion queue, and a registered buffer that all data go
 * through. Whoever holds the context posts and polls; the donor's processor is not asked. The memory that requests name is never
 * registered: a page of the region would be pinned by that, and a pinned page cannot be moved. The copy costs a tenth of a
 * microsecond, and buys that a request can fail at any time: the adapter may still write to the buffer, which rests until
 * the queue pair is gone, and to nothing else.
 *
 * Connections are made and taken down by the thread `drv-verbs` alone, one per store, because that allocates and waits:
 *
 *   DOWN --(its time has come)--> DIALLING --(donor's welcome)--> UP --(any failure)--> BROKEN --(taken down)--> DOWN
 *                                     `----(refused, timed out)---------------------------------------------------^
 *
 * UP to BROKEN is done by whoever notices: the holder by a failed completion or one that is late, the thread by an event. From
 * then on the holder does not touch the connection; `inside` says that it still does. Requests while it is not UP fail
 * at once: -ENOTCONN those that were not posted, -EIO those that were, -ETIMEDOUT those that were with a late one.
 *
 * A late request (timeout_nanos) breaks the connection, so a cut link costs a fault that long and no longer.
 */
#include "region.h"
#include "verbs.h"

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#define TIMEOUT_DEFAULT 5000000000ull
#define TIMEOUT_MIN 1000000ull
#define TIMEOUT_MAX 600000000000ull
/* Between two attempts to connect: the first comes at once, the others after this, doubled each time. */
#define BACKOFF_NANOS_MIN 100000000ull
#define BACKOFF_NANOS_MAX 5000000000ull
#define SETTLED_NANOS 1000000000ull
/* 4.096 us * 2^n until the adapter sends again, seven times. */
#define ACK_TIMEOUT 14u
#define RETRIES 7u
#define BUFFER_SIZE (BUFFER_PAGES * PAGE)
#define POLLED_AT_ONCE 16

enum port_state { DOWN, DIALLING, UP, BROKEN };
enum request_state { UNUSED, WAITING, POSTED };

struct request {
	uint64_t offset, posted; /* nanoseconds */
	void *memory;
	uint32_t id, size;
	uint16_t buffer, buffer_count; /* pages of the port's buffer; count 0: none yet */
	uint8_t write, state;	       /* enum request_state */
};

/* What the thread makes and destroys; the holder uses it between enter() and leave(). */
struct connection {
	const struct verbs_library *library;
	struct cm_id *id;
	struct vb_pd *pd;
	struct vb_channel *channel;
	struct vb_cq *cq;
	struct vb_mr *buffer;
	uint32_t events; /* taken from the channel and not acknowledged */
	uint64_t remote_address;
	uint32_t remote_key;
};

/* Of one context. */
struct port {
	_Atomic uint32_t state;	 /* enum port_state */
	_Atomic uint32_t inside; /* the holder is using the connection */
	uint64_t number;	 /* of the connection, from 1; written while it is DIALLING */
	struct connection connection;
	int kick;  /* an eventfd: something for the holder that is no completion */
	int epoll; /* `kick` and the completion channel */
	/* the holder's */
	uint8_t *buffer;
	uint64_t buffer_free; /* pages */
	uint64_t seen;	      /* the connection that the posted requests belong to */
	uint64_t requests_free;
	struct request requests[OPERATIONS];
	uint8_t waiting[OPERATIONS]; /* request numbers, in order */
	uint32_t waiting_first, waiting_count;
	uint32_t posted_count;
	struct completion done[OPERATIONS];
	uint32_t done_count;
	/* the thread's */
	uint64_t dial_at, dial_until, up_since, backoff;
	/* under the store's lock */
	struct port *next;
	int wanted, gone;
	int failure; /* of the last attempt: -errno */
	uint32_t attempts;
};

struct verbs {
	const struct verbs_library *library;
	struct cm_channel *events;
	struct sockaddr_storage address;
	uint8_t ticket[VERBS_TICKET_SIZE];
	uint64_t size, timeout_nanos;
	int wake; /* an eventfd for the thread */
	pthread_t thread;
	pthread_mutex_t lock; /* guards `ports`, `ending` and the last fields of each port; never taken by a fault */
	pthread_cond_t changed;
	struct port *ports;
	int ending;
};

static struct port *port_of(const struct store *store, const struct context *context)
{
	return context->ports[store->at];
}

static void ring_bell(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) < 0)
		return; /* it is full: it rings */
}

static void silence(int fd)
{
	uint64_t count_so_far;

	if (read(fd, &count_so_far, sizeof(count_so_far)) < 0)
		return;
}

/* -- the holder's side: nothing here allocates or locks ------------------------------------------------------- */

/* Whether the connection may be used; then leave() must follow soon. */
static int enter(struct port *port)
{
	atomic_store(&port->inside, 1);
	if (atomic_load(&port->state) == UP)
		return 1;
	atomic_store_explicit(&port->inside, 0, memory_order_release);
	return 0;
}

static void leave(struct port *port)
{
	atomic_store_explicit(&port->inside, 0, memory_order_release);
}

static void break_up(struct verbs *verbs, struct port *port)
{
	uint32_t up = UP;

	if (atomic_compare_exchange_strong(&port->state, &up, BROKEN))
		ring_bell(verbs->wake);
}

static uint64_t run_bits(uint32_t first, uint32_t run)
{
	return (run >= 64 ? ~0ull : (1ull << run) - 1) << first;
}

static void complete(struct port *port, uint32_t number, int32_t rc)
{
	struct request *request = &port->requests[number];

	if (request->state == POSTED) {
		port->posted_count--;
		if (rc > 0 && !request->write)
			memcpy(request->memory, port->buffer + request->buffer * PAGE, request->size);
		/* After a failure the adapter may still be at it, but nothing is posted before the queue pair is gone. */
		port->buffer_free |= run_bits(request->buffer, request->buffer_count);
	}
	request->state = UNUSED;
	port->requests_free |= 1ull << number;
	port->done[port->done_count++] = (struct completion){ .id = request->id, .result = rc };
}

/* Room in the buffer, with the bytes of a write in it: 0 when there is none now. */
static int make_ready(struct port *port, struct request *request)
{
	uint32_t run = (request->size + (uint32_t)PAGE - 1) / (uint32_t)PAGE;
	uint64_t starts = port->buffer_free;

	for (uint32_t i = 1; i < run && starts != 0; i++)
		starts &= port->buffer_free >> i;
	if (starts == 0)
		return 0;
	request->buffer = (uint16_t)__builtin_ctzll(starts);
	request->buffer_count = (uint16_t)run;
	port->buffer_free &= ~run_bits(request->buffer, run);
	if (request->write)
		memcpy(port->buffer + request->buffer * PAGE, request->memory, request->size);
	return 1;
}

/* What was posted on a connection that is no more. */
static void fail_posted(struct port *port, int32_t rc)
{
	for (uint32_t i = 0; i < OPERATIONS && port->posted_count > 0; i++)
		if (port->requests[i].state == POSTED)
			complete(port, i, rc);
}

/* Inside, first thing: what was posted on the connection before this one will not come back. */
static void renew(struct port *port)
{
	if (port->seen == port->number)
		return;
	fail_posted(port, -EIO);
	port->seen = port->number;
}

static void drop_waiting(struct port *port, int32_t rc)
{
	while (port->waiting_count > 0) {
		complete(port, port->waiting[port->waiting_first], rc);
		port->waiting_first = (port->waiting_first + 1) % OPERATIONS;
		port->waiting_count--;
	}
}

/* Posts what waits, as far as the buffer reaches, by one call. Inside. */
static int post(struct port *port)
{
	struct connection *connection = &port->connection;
	struct vb_send_wr orders[POLLED_AT_ONCE], *bad;
	struct vb_sge pieces[POLLED_AT_ONCE];
	uint64_t time = now();
	uint32_t made = 0;

	while (made < POLLED_AT_ONCE && port->waiting_count > 0) {
		uint32_t number = port->waiting[port->waiting_first];
		struct request *request = &port->requests[number];

		if (!make_ready(port, request))
			break;
		pieces[made] = (struct vb_sge){
			.address = (uintptr_t)(port->buffer + request->buffer * PAGE),
			.length = request->size,
			.lkey = connection->buffer->lkey,
		};
		orders[made] = (struct vb_send_wr){
			.id = number,
			.pieces = &pieces[made],
			.piece_count = 1,
			.opcode = request->write ? VB_WR_RDMA_WRITE : VB_WR_RDMA_READ,
			.flags = VB_SEND_SIGNALED,
			.remote_address = connection->remote_address + request->offset,
			.rkey = connection->remote_key,
		};
		if (made > 0)
			orders[made - 1].next = &orders[made];
		request->state = POSTED;
		request->posted = time;
		port->posted_count++;
		port->waiting_first = (port->waiting_first + 1) % OPERATIONS;
		port->waiting_count--;
		made++;
	}
	if (made == 0)
		return 0;
	/* After a failure all of them go the way of those that were taken. */
	if (connection->id->verbs->post_send(connection->id->qp, orders, &bad) != 0)
		return -EIO;
	return (int)made;
}

static int32_t error_of(int status)
{
	switch (status) {
	case VB_WC_LOC_PROT_ERR:
	case VB_WC_REM_ACCESS_ERR:
		return -EACCES;
	case VB_WC_RETRY_EXC_ERR:
		return -ETIMEDOUT;
	default:
		return -EIO;
	}
}

/* Takes what the adapter has finished. Inside. Whether the connection is still good. */
static int take_finished(struct port *port)
{
	struct connection *connection = &port->connection;
	struct vb_wc finished[POLLED_AT_ONCE];
	int got;

	do {
		got = connection->id->verbs->poll_cq(connection->cq, POLLED_AT_ONCE, finished);
		for (int i = 0; i < got; i++) {
			struct request *request = &port->requests[finished[i].id % OPERATIONS];

			if (request->state != POSTED)
				return 0;
			if (finished[i].status == VB_WC_SUCCESS) {
				complete(port, (uint32_t)finished[i].id, (int32_t)request->size);
				continue;
			}
			complete(port, (uint32_t)finished[i].id, error_of(finished[i].status));
			return 0;
		}
	} while (got == POLLED_AT_ONCE);
	return got >= 0;
}

static int is_late(const struct verbs *verbs, const struct port *port)
{
	uint64_t time = now();

	for (uint32_t i = 0; i < OPERATIONS; i++)
		if (port->requests[i].state == POSTED && time - port->requests[i].posted > verbs->timeout_nanos)
			return 1;
	return 0;
}

/* One look: finishes, posts, notices what is late. */
static void work(struct verbs *verbs, struct port *port)
{
	int32_t why = -EIO;
	int good = 0, posted;

	if (!enter(port))
		goto over;
	renew(port);
	good = take_finished(port);
	do
		posted = good ? post(port) : 0;
	while (posted == POLLED_AT_ONCE);
	if (posted < 0)
		good = 0;
	if (good && port->posted_count > 0 && is_late(verbs, port)) {
		why = -ETIMEDOUT;
		good = 0;
	}
	leave(port);
	if (good)
		return;
	break_up(verbs, port);
over:
	fail_posted(port, why);
	drop_waiting(port, -ENOTCONN);
}

static void verbs_queue(struct store *store, struct context *context, uint32_t id, int write, void *memory, uint32_t size,
			uint64_t offset, int in_buffer)
{
	const struct verbs *verbs = store->inner;
	struct port *port = port_of(store, context);
	uint32_t number;

	(void)in_buffer;
	/* As many as a context has operations: there is always one free. */
	number = (uint32_t)__builtin_ctzll(port->requests_free);
	port->requests_free &= ~(1ull << number);
	port->requests[number] = (struct request){
		.id = id, .write = write != 0, .memory = memory, .size = size, .offset = offset, .state = WAITING
	};
	if (size == 0 || size > BUFFER_SIZE || offset > verbs->size || size > verbs->size - offset) {
		complete(port, number, -EINVAL);
		return;
	}
	port->waiting[(port->waiting_first + port->waiting_count++) % OPERATIONS] = (uint8_t)number;
}

static void verbs_submit(struct store *store, struct context *context)
{
	struct port *port = port_of(store, context);

	work(store->inner, port);
	if (port->done_count > 0)
		ring_bell(port->kick);
}

static uint32_t hand_over(struct port *port, struct completion *out, uint32_t limit)
{
	uint32_t taken = port->done_count < limit ? port->done_count : limit;

	memcpy(out, port->done, taken * sizeof(*out));
	memmove(port->done, port->done + taken, (port->done_count - taken) * sizeof(*out));
	port->done_count -= taken;
	return taken;
}

/* Makes the next completion ring, and forgets what has rung: look again after this, and sleep after that. */
static void arm(struct port *port)
{
	struct connection *connection = &port->connection;
	struct vb_cq *cq;
	void *unused;

	silence(port->kick);
	if (!enter(port))
		return;
	while (connection->library->get_cq_event(connection->channel, &cq, &unused) == 0)
		connection->events++;
	connection->id->verbs->req_notify_cq(connection->cq, 0);
	leave(port);
}

static uint32_t verbs_reap(struct store *store, struct context *context, uint64_t nanos, struct completion *out,
			   uint32_t limit)
{
	struct port *port = port_of(store, context);

	work(store->inner, port);
	if (port->done_count == 0 && nanos > 0 && port->posted_count + port->waiting_count > 0) {
		arm(port);
		work(store->inner, port);
		if (port->done_count == 0) {
			struct pollfd source = { .fd = port->epoll, .events = POLLIN };
			struct timespec patience = { (time_t)(nanos / 1000000000u), (long)(nanos % 1000000000u) };

			ppoll(&source, 1, &patience, NULL);
			work(store->inner, port);
		}
	}
	return hand_over(port, out, limit);
}

static int verbs_wait_fd(struct store *store, struct context *context)
{
	struct port *port = port_of(store, context);

	arm(port);
	work(store->inner, port);
	if (port->done_count > 0)
		ring_bell(port->kick);
	return port->epoll;
}

/* -- the thread: connections ------------------------------------------------------------------------------------ */

/* Takes down what there is of a connection; from here on the adapter does not touch the buffer. */
static void destroy(const struct verbs_library *library, struct port *port)
{
	struct connection *connection = &port->connection;

	if (connection->id != NULL && connection->id->qp != NULL) {
		library->disconnect(connection->id);
		library->destroy_qp(connection->id);
	}
	if (connection->cq != NULL) {
		library->ack_cq_events(connection->cq, connection->events);
		library->destroy_cq(connection->cq);
	}
	if (connection->channel != NULL) {
		epoll_ctl(port->epoll, EPOLL_CTL_DEL, connection->channel->fd, NULL);
		library->destroy_comp_channel(connection->channel);
	}
	if (connection->buffer != NULL)
		library->dereg_mr(connection->buffer);
	if (connection->pd != NULL)
		library->dealloc_pd(connection->pd);
	if (connection->id != NULL)
		library->destroy_id(connection->id);
	*connection = (struct connection){ .library = library };
}

/* Says how the last attempt or connection ended, and when the next may begin. */
static void go_down(struct verbs *verbs, struct port *port, int failure)
{
	int was_up = atomic_load(&port->state) != DIALLING;
	uint64_t time = now();

	destroy(verbs->library, port);
	atomic_store(&port->state, DOWN);
	ring_bell(port->kick);
	if (was_up)
		/* What broke as soon as it was there may do so again. */
		port->backoff = time - port->up_since > SETTLED_NANOS ? 0 : BACKOFF_NANOS_MIN;
	else
		port->backoff = port->backoff == 0		      ? BACKOFF_NANOS_MIN :
				port->backoff < BACKOFF_NANOS_MAX / 2 ? port->backoff * 2 :
									BACKOFF_NANOS_MAX;
	port->dial_at = time + port->backoff;
	pthread_mutex_lock(&verbs->lock);
	port->failure = failure;
	port->attempts++;
	pthread_cond_broadcast(&verbs->changed);
	pthread_mutex_unlock(&verbs->lock);
}

/* Ends a connection that is UP or BROKEN, once its holder is out of it. */
static void bury(struct verbs *verbs, struct port *port)
{
	struct timespec pause = { 0, 20000 };

	atomic_store(&port->state, BROKEN);
	ring_bell(port->kick);
	while (atomic_load(&port->inside))
		nanosleep(&pause, NULL);
	go_down(verbs, port, -ECONNRESET);
}

/* The address is known, and with it the adapter. */
static int prepare(struct verbs *verbs, struct port *port)
{
	const struct verbs_library *library = verbs->library;
	struct connection *connection = &port->connection;
	struct vb_context *adapter = connection->id->verbs;
	struct vb_qp_init init = { .type = VB_QPT_RC, .send_max = OPERATIONS, .receive_max = 1, .send_pieces_max = 1, .receive_pieces_max = 1 };
	struct verbs_hello hello = { .magic = VERBS_HELLO_MAGIC };
	struct cm_connect connect = {
		.private_data = &hello,
		.private_data_size = sizeof(hello),
		.initiator_depth = CM_DEPTH_MAX,
		.retry_count = RETRIES,
	};
	struct epoll_event readable = { .events = EPOLLIN };
	int flags;

	if (adapter == NULL)
		return -ENODEV;
	connection->pd = library->alloc_pd(adapter);
	if (connection->pd == NULL)
		return -errno;
	connection->buffer = library->reg_mr(connection->pd, port->buffer, BUFFER_SIZE, VB_ACCESS_LOCAL_WRITE);
	if (connection->buffer == NULL)
		return -errno;
	connection->channel = library->create_comp_channel(adapter);
	if (connection->channel == NULL)
		return -errno;
	flags = fcntl(connection->channel->fd, F_GETFL);
	if (flags < 0 || fcntl(connection->channel->fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
	    epoll_ctl(port->epoll, EPOLL_CTL_ADD, connection->channel->fd, &readable) < 0)
		return -errno;
	connection->cq = library->create_cq(adapter, OPERATIONS + 1, NULL, connection->channel, 0);
	if (connection->cq == NULL)
		return -errno;
	init.send_cq = init.recv_cq = connection->cq;
	if (library->create_qp(connection->id, connection->pd, &init) != 0)
		return -errno;
	memcpy(hello.ticket, verbs->ticket, sizeof(hello.ticket));
	return result(library->connect(connection->id, &connect));
}

static void dial(struct verbs *verbs, struct port *port)
{
	uint8_t ack_timeout = ACK_TIMEOUT;
	int millis = (int)(verbs->timeout_nanos / 1000000u);
	int rc;

	port->number++;
	port->dial_until = now() + verbs->timeout_nanos;
	atomic_store(&port->state, DIALLING);
	rc = result(verbs->library->create_id(verbs->events, &port->connection.id, port, CM_PORT_SPACE_TCP));
	if (rc == 0) {
		/* Best effort: without it a lost packet takes the subnet's time to be sent again. */
		verbs->library->set_option(port->connection.id, CM_OPTION_ID, CM_OPTION_ID_ACK_TIMEOUT, &ack_timeout,
					   sizeof(ack_timeout));
		rc = result(verbs->library->resolve_addr(port->connection.id, NULL, (struct sockaddr *)&verbs->address, millis));
	}
	if (rc < 0)
		go_down(verbs, port, rc);
}

/* What a rejection means to who asked. */
static int rejection(const struct verbs_event *event)
{
	struct verbs_refusal refusal;

	if (event->status == CM_REJECTED_NO_LISTENER)
		return -ECONNREFUSED;
	if (event->size < sizeof(refusal))
		return -ECONNREFUSED;
	memcpy(&refusal, event->data, sizeof(refusal));
	if (refusal.magic != VERBS_REFUSAL_MAGIC)
		return -ECONNREFUSED;
	switch (refusal.why) {
	case VERBS_REFUSED_TICKET:
		return -EACCES;
	case VERBS_REFUSED_FULL:
		return -EBUSY;
	case VERBS_REFUSED_MEMORY:
		return -ENOMEM;
	default:
		return -EPROTO;
	}
}

/* The donor's answer; what it says of its memory is used only by its own adapter, which checks it again. */
static int established(struct verbs *verbs, struct port *port, const struct verbs_event *event)
{
	struct verbs_welcome welcome;

	if (event->size < sizeof(welcome))
		return -EPROTO;
	memcpy(&welcome, event->data, sizeof(welcome));
	if (welcome.magic != VERBS_WELCOME_MAGIC || welcome.reserved != 0 || welcome.address + welcome.size < welcome.address)
		return -EPROTO;
	if (welcome.size < verbs->size)
		return -ENOSPC;
	port->connection.remote_address = welcome.address;
	port->connection.remote_key = welcome.key;
	port->up_since = now();
	port->backoff = 0;
	atomic_store(&port->state, UP);
	ring_bell(port->kick);
	pthread_mutex_lock(&verbs->lock);
	port->failure = 0;
	port->attempts++;
	pthread_cond_broadcast(&verbs->changed);
	pthread_mutex_unlock(&verbs->lock);
	return 0;
}

static void on_event(struct verbs *verbs, const struct verbs_event *event)
{
	struct port *port = event->context;
	uint32_t state = atomic_load(&port->state);
	int rc = 0;

	if (event->kind == CM_TIMEWAIT_EXIT)
		return;
	if (state == UP || state == BROKEN) {
		/* Disconnected, the adapter is gone, the address moved: whatever it is, it is over. */
		bury(verbs, port);
		return;
	}
	switch (event->kind) {
	case CM_ADDR_RESOLVED:
		rc = result(verbs->library->resolve_route(event->id, (int)(verbs->timeout_nanos / 1000000u)));
		break;
	case CM_ROUTE_RESOLVED:
		rc = prepare(verbs, port);
		break;
	case CM_ESTABLISHED:
		rc = established(verbs, port, event);
		break;
	case CM_REJECTED:
		rc = rejection(event);
		break;
	case CM_UNREACHABLE:
	case CM_ADDR_ERROR:
	case CM_ROUTE_ERROR:
		rc = event->status < 0 ? event->status : -EHOSTUNREACH;
		break;
	default:
		rc = -ECONNABORTED;
		break;
	}
	if (rc < 0)
		go_down(verbs, port, rc);
}

/* What is due for one port; returns when something will be, at the latest. Under the lock, but for the work. */
static uint64_t tend(struct verbs *verbs, struct port *port, int wanted)
{
	uint64_t time = now();
	uint32_t state = atomic_load(&port->state);

	if (state == BROKEN || (state == UP && !wanted)) {
		bury(verbs, port);
		state = DOWN;
	}
	if (state == DIALLING && (!wanted || time >= port->dial_until)) {
		go_down(verbs, port, -ETIMEDOUT);
		state = DOWN;
	}
	if (!wanted)
		return UINT64_MAX;
	if (state == DOWN && time >= port->dial_at) {
		dial(verbs, port);
		state = atomic_load(&port->state);
	}
	return state == DOWN ? port->dial_at : state == DIALLING ? port->dial_until : UINT64_MAX;
}

/* One round over all ports; 0 when the thread shall end. */
static int tend_all(struct verbs *verbs, uint64_t *due)
{
	struct port **link = &verbs->ports, *port;
	int ending;

	*due = UINT64_MAX;
	pthread_mutex_lock(&verbs->lock);
	while ((port = *link) != NULL) {
		int wanted = port->wanted;
		uint64_t next;

		/* Only this thread takes ports off the list, and new ones come in front: the link stays. */
		pthread_mutex_unlock(&verbs->lock);
		next = tend(verbs, port, wanted);
		pthread_mutex_lock(&verbs->lock);
		*due = next < *due ? next : *due;
		if (wanted) {
			link = &port->next;
			continue;
		}
		while (*link != port)
			link = &(*link)->next;
		*link = port->next;
		port->gone = 1;
		pthread_cond_broadcast(&verbs->changed);
	}
	ending = verbs->ending;
	pthread_mutex_unlock(&verbs->lock);
	return !ending;
}

static void *verbs_thread(void *argument)
{
	struct verbs *verbs = argument;
	uint64_t due;

	pthread_setname_np(pthread_self(), "drv-verbs");
	while (tend_all(verbs, &due)) {
		struct pollfd sources[2] = { { .fd = verbs->events->fd, .events = POLLIN }, { .fd = verbs->wake, .events = POLLIN } };
		struct timespec patience;
		struct verbs_event event;
		uint64_t time = now(), nanos = due > time ? due - time : 0;

		patience = (struct timespec){ (time_t)(nanos / 1000000000u), (long)(nanos % 1000000000u) };
		ppoll(sources, 2, due == UINT64_MAX ? NULL : &patience, NULL);
		silence(verbs->wake);
		while (verbs_next_event(verbs->library, verbs->events, &event))
			on_event(verbs, &event);
	}
	return NULL;
}

/* -- attach, detach, open, close ----------------------------------------------------------------------------------- */

static void free_port(struct port *port)
{
	if (port->epoll >= 0)
		close(port->epoll);
	if (port->kick >= 0)
		close(port->kick);
	if (port->buffer != NULL)
		munmap(port->buffer, BUFFER_SIZE);
	munmap(port, sizeof(*port));
}

static struct port *make_port(struct verbs *verbs)
{
	struct port *port = mmap(NULL, sizeof(*port), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct epoll_event readable = { .events = EPOLLIN };
	void *buffer;

	if (port == MAP_FAILED)
		return NULL;
	port->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	port->epoll = epoll_create1(EPOLL_CLOEXEC);
	buffer = mmap(NULL, BUFFER_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	port->buffer = buffer == MAP_FAILED ? NULL : buffer;
	if (port->kick < 0 || port->epoll < 0 || port->buffer == NULL ||
	    epoll_ctl(port->epoll, EPOLL_CTL_ADD, port->kick, &readable) < 0) {
		free_port(port);
		return NULL;
	}
	madvise(port->buffer, BUFFER_SIZE, MADV_DONTFORK);
	port->buffer_free = port->requests_free = ~0ull;
	port->connection.library = verbs->library;
	port->wanted = 1;
	return port;
}

static void verbs_detach(struct store *store, struct context *context)
{
	struct verbs *verbs = store->inner;
	struct port *port = port_of(store, context);

	if (port == NULL)
		return;
	pthread_mutex_lock(&verbs->lock);
	port->wanted = 0;
	ring_bell(verbs->wake);
	while (!port->gone)
		pthread_cond_wait(&verbs->changed, &verbs->lock);
	pthread_mutex_unlock(&verbs->lock);
	free_port(port);
	context->ports[store->at] = NULL;
}

static int verbs_attach(struct store *store, struct context *context)
{
	struct verbs *verbs = store->inner;
	struct port *port = make_port(verbs);
	int failure;

	if (port == NULL)
		return -ENOMEM;
	context->ports[store->at] = port;
	pthread_mutex_lock(&verbs->lock);
	port->next = verbs->ports;
	verbs->ports = port;
	ring_bell(verbs->wake);
	while (port->attempts == 0)
		pthread_cond_wait(&verbs->changed, &verbs->lock);
	failure = port->failure;
	pthread_mutex_unlock(&verbs->lock);
	if (failure < 0)
		verbs_detach(store, context);
	return failure;
}

static void verbs_close(struct store *store)
{
	struct verbs *verbs = store->inner;

	if (verbs == NULL)
		return;
	pthread_mutex_lock(&verbs->lock);
	verbs->ending = 1;
	for (struct port *port = verbs->ports; port != NULL; port = port->next)
		port->wanted = 0;
	ring_bell(verbs->wake);
	pthread_mutex_unlock(&verbs->lock);
	pthread_join(verbs->thread, NULL);
	pthread_cond_destroy(&verbs->changed);
	pthread_mutex_destroy(&verbs->lock);
	close(verbs->wake);
	verbs->library->destroy_event_channel(verbs->events);
	explicit_bzero(verbs, sizeof(*verbs));
	free(verbs);
	store->inner = NULL;
}

static const struct store_calls verbs_calls = {
	.attach = verbs_attach,
	.detach = verbs_detach,
	.queue = verbs_queue,
	.submit = verbs_submit,
	.reap = verbs_reap,
	.wait_fd = verbs_wait_fd,
	.close = verbs_close,
};

/* 64 hexadecimal digits, small ones; -EINVAL. */
static int parse_ticket(const char *text, uint8_t *out)
{
	static const char digits[] = "0123456789abcdef";

	if (text == NULL || strnlen(text, 2 * VERBS_TICKET_SIZE + 1) != 2 * VERBS_TICKET_SIZE)
		return -EINVAL;
	for (uint32_t i = 0; i < 2 * VERBS_TICKET_SIZE; i++) {
		const char *digit = strchr(digits, text[i]);

		if (digit == NULL)
			return -EINVAL;
		out[i / 2] = (uint8_t)(out[i / 2] << 4 | (uint8_t)(digit - digits));
	}
	return 0;
}

int store_verbs_open(const struct drover_store_options *options, struct store *out)
{
	struct verbs *verbs = calloc(1, sizeof(*verbs));
	int rc;

	if (verbs == NULL)
		return -ENOMEM;
	verbs->size = options->size;
	verbs->timeout_nanos = options->timeout_nanos == 0 ? TIMEOUT_DEFAULT : options->timeout_nanos;
	rc = parse_ticket(options->name, verbs->ticket);
	if (rc == 0)
		rc = verbs_address(options->path, options->port, &verbs->address);
	if (rc == 0 && (options->size == 0 || options->size % PAGE != 0 || options->port == 0 ||
			verbs->timeout_nanos < TIMEOUT_MIN || verbs->timeout_nanos > TIMEOUT_MAX))
		rc = -EINVAL;
	if (rc == 0)
		rc = verbs_load(&verbs->library);
	if (rc < 0)
		goto no_library;
	rc = verbs_channel(verbs->library, &verbs->events);
	if (rc < 0)
		goto no_library;
	verbs->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (verbs->wake < 0) {
		rc = -errno;
		goto no_wake;
	}
	pthread_mutex_init(&verbs->lock, NULL);
	pthread_cond_init(&verbs->changed, NULL);
	rc = verbs_thread_start(&verbs->thread, verbs_thread, verbs);
	if (rc < 0)
		goto no_thread;
	*out = (struct store){ .calls = &verbs_calls, .fd = -1, .inner = verbs };
	return 0;
no_thread:
	pthread_cond_destroy(&verbs->changed);
	pthread_mutex_destroy(&verbs->lock);
	close(verbs->wake);
no_wake:
	verbs->library->destroy_event_channel(verbs->events);
no_library:
	free(verbs);
	return rc;
}
