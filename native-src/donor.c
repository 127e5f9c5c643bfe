/*
 * donor.c - memory of this process lent to other hosts by RDMA.
 *
 * One thread, `drv-donor`, owns everything here: the listener, the leases and the connections. Calls hand it an order
 * and wait for the answer, so nothing else is shared. For data it does nothing at all: it accepts who shows the ticket of a
 * lease, tells where the memory is and by which key, and from then on the adapter serves reads and writes by itself.
 *
 * Each lease has memory of its own, the caller's or fresh from the kernel and so full of zeros, and a protection domain of its own: a
 * queue pair of one lease cannot use the key of another, whatever address it asks for. Memory is registered for an adapter
 * with its first connection (that pins it: all of it counts as resident from then on). Revoking a lease takes down its
 * connections first, then the registration, then gives the memory back; after the call nobody can reach it.
 *
 * The adapter may go away: its connections end, and the listener is made again until that works.
 */
#include "verbs.h"

#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>

_Static_assert(sizeof(struct drover_donor_stats) == 32, "struct drover_donor_stats crosses the border");
_Static_assert(VERBS_TICKET_SIZE == DROVER_TICKET_SIZE, "one ticket");

#define BACKLOG 64
#define ADAPTERS_MAX 8u /* of one lease */
#define RELISTEN_MILLIS 500

/* A lease as one adapter knows it. */
struct place {
	struct vb_context *adapter; /* NULL: unused */
	struct vb_pd *pd;
	struct vb_mr *mr;
	struct vb_cq *cq; /* a queue pair must have one; nothing ever completes here */
	uint32_t connections;
};

struct lease {
	struct lease *next;
	uint8_t ticket[VERBS_TICKET_SIZE];
	void *memory;
	uint64_t size;
	int ours; /* the memory */
	uint32_t connections;
	struct place places[ADAPTERS_MAX];
};

struct link {
	struct link *next;
	struct cm_id *id;
	struct lease *lease;
	struct place *place;
};

enum order_kind { LEND, REVOKE, END };

/* What a caller wants of the thread; on the caller's stack until `finished`. */
struct order {
	struct order *next;
	enum order_kind kind;
	const uint8_t *ticket;
	void *memory;
	uint64_t size;
	int rc, finished;
};

struct drover_donor {
	const struct verbs_library *library;
	struct cm_channel *events;
	int wake;
	pthread_t thread;
	pthread_mutex_t lock; /* guards `orders`, `closed` and the orders themselves */
	pthread_cond_t changed;
	struct order *orders;
	int closed;
	_Atomic uint64_t lent_bytes, accepted, refused;
	_Atomic uint32_t lease_count, link_count;
	_Atomic uint32_t port;
	/* the thread's */
	struct sockaddr_storage address;
	struct cm_id *listener; /* NULL: to be made again */
	struct lease *leases;
	struct link *links;
};

/* -- leases ------------------------------------------------------------------------------------------------- */

/* In the same time whatever differs. */
static int same_ticket(const uint8_t *one, const uint8_t *other)
{
	uint32_t difference = 0;

	for (uint32_t i = 0; i < VERBS_TICKET_SIZE; i++)
		difference |= (uint32_t)(one[i] ^ other[i]);
	return difference == 0;
}

static struct lease *find_lease(struct drover_donor *donor, const uint8_t *ticket)
{
	struct lease *found = NULL;

	for (struct lease *lease = donor->leases; lease != NULL; lease = lease->next)
		if (same_ticket(lease->ticket, ticket))
			found = lease;
	return found;
}

static void leave_place(const struct verbs_library *library, struct place *place)
{
	if (place->cq != NULL)
		library->destroy_cq(place->cq);
	if (place->mr != NULL)
		library->dereg_mr(place->mr);
	if (place->pd != NULL)
		library->dealloc_pd(place->pd);
	*place = (struct place){ 0 };
}

/* The lease on this adapter, registered there if it is not yet; NULL when that cannot be. */
static struct place *take_place(const struct verbs_library *library, struct lease *lease, struct vb_context *adapter)
{
	struct place *place = NULL;

	for (uint32_t i = 0; i < ADAPTERS_MAX; i++) {
		if (lease->places[i].adapter == adapter)
			return &lease->places[i];
		if (lease->places[i].adapter == NULL && place == NULL)
			place = &lease->places[i];
	}
	if (place == NULL)
		return NULL;
	place->pd = library->alloc_pd(adapter);
	if (place->pd != NULL)
		place->mr = library->reg_mr(place->pd, lease->memory, lease->size,
					    VB_ACCESS_LOCAL_WRITE | VB_ACCESS_REMOTE_READ | VB_ACCESS_REMOTE_WRITE);
	if (place->mr != NULL)
		place->cq = library->create_cq(adapter, 1, NULL, NULL, 0);
	if (place->cq == NULL) {
		leave_place(library, place);
		return NULL;
	}
	place->adapter = adapter;
	return place;
}

static int lend(struct drover_donor *donor, const struct order *order)
{
	struct lease *lease;
	void *memory = order->memory;

	if (find_lease(donor, order->ticket) != NULL)
		return -EEXIST;
	if (atomic_load(&donor->lease_count) >= DROVER_DONOR_LEASES_MAX)
		return -EMFILE;
	lease = calloc(1, sizeof(*lease));
	if (lease == NULL)
		return -ENOMEM;
	if (memory == NULL) {
		memory = mmap(NULL, order->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
		if (memory == MAP_FAILED) {
			free(lease);
			return -ENOMEM;
		}
		madvise(memory, order->size, MADV_DONTFORK);
		/* A tenant's pages are nobody's business, not even a core file's. */
		madvise(memory, order->size, MADV_DONTDUMP);
		lease->ours = 1;
	}
	memcpy(lease->ticket, order->ticket, sizeof(lease->ticket));
	lease->memory = memory;
	lease->size = order->size;
	lease->next = donor->leases;
	donor->leases = lease;
	atomic_fetch_add(&donor->lease_count, 1);
	atomic_fetch_add(&donor->lent_bytes, lease->size);
	return 0;
}

/* -- connections -------------------------------------------------------------------------------------------- */

static void cut(struct drover_donor *donor, struct link *gone)
{
	struct link **at = &donor->links;

	while (*at != gone)
		at = &(*at)->next;
	*at = gone->next;
	donor->library->disconnect(gone->id);
	donor->library->destroy_qp(gone->id);
	donor->library->destroy_id(gone->id);
	gone->lease->connections--;
	gone->place->connections--;
	/* An adapter that nobody comes from any more may be gone altogether: nothing of it is kept. */
	if (gone->place->connections == 0)
		leave_place(donor->library, gone->place);
	free(gone);
	atomic_fetch_sub(&donor->link_count, 1);
}

static void end_lease(struct drover_donor *donor, struct lease *lease)
{
	struct lease **at = &donor->leases;
	struct link *next;

	for (struct link *link = donor->links; link != NULL; link = next) {
		next = link->next;
		if (link->lease == lease)
			cut(donor, link);
	}
	for (uint32_t i = 0; i < ADAPTERS_MAX; i++)
		leave_place(donor->library, &lease->places[i]);
	while (*at != lease)
		at = &(*at)->next;
	*at = lease->next;
	atomic_fetch_sub(&donor->lease_count, 1);
	atomic_fetch_sub(&donor->lent_bytes, lease->size);
	if (lease->ours)
		munmap(lease->memory, lease->size);
	explicit_bzero(lease, sizeof(*lease));
	free(lease);
}

static int take_back(struct drover_donor *donor, const struct order *order)
{
	struct lease *lease = find_lease(donor, order->ticket);

	if (lease == NULL)
		return -ENOENT;
	end_lease(donor, lease);
	return 0;
}

static void refuse(struct drover_donor *donor, struct cm_id *id, uint32_t why)
{
	struct verbs_refusal refusal = { .magic = VERBS_REFUSAL_MAGIC, .why = why };

	donor->library->reject(id, &refusal, sizeof(refusal));
	donor->library->destroy_id(id);
	atomic_fetch_add(&donor->refused, 1);
}

/* Everything in the request comes from outside. */
static void on_request(struct drover_donor *donor, const struct verbs_event *event)
{
	const struct verbs_library *library = donor->library;
	struct vb_qp_init init = { .type = VB_QPT_RC, .send_max = 1, .receive_max = 1, .send_pieces_max = 1, .receive_pieces_max = 1 };
	struct verbs_welcome welcome = { .magic = VERBS_WELCOME_MAGIC };
	struct cm_connect connect = {
		.private_data = &welcome,
		.private_data_size = sizeof(welcome),
		.responder_resources = CM_DEPTH_MAX,
		.initiator_depth = CM_DEPTH_MAX,
	};
	struct cm_id *id = event->id;
	struct verbs_hello hello;
	struct lease *lease;
	struct place *place;
	struct link *link;
	uint32_t why = VERBS_REFUSED_MEMORY;

	if (event->size < sizeof(hello)) {
		refuse(donor, id, VERBS_REFUSED_HELLO);
		return;
	}
	memcpy(&hello, event->data, sizeof(hello));
	if (hello.magic != VERBS_HELLO_MAGIC || hello.reserved != 0) {
		refuse(donor, id, VERBS_REFUSED_HELLO);
		return;
	}
	lease = find_lease(donor, hello.ticket);
	if (lease == NULL) {
		refuse(donor, id, VERBS_REFUSED_TICKET);
		return;
	}
	if (lease->connections >= DROVER_DONOR_LINKS_PER_LEASE_MAX || atomic_load(&donor->link_count) >= DROVER_DONOR_LINKS_MAX) {
		refuse(donor, id, VERBS_REFUSED_FULL);
		return;
	}
	link = calloc(1, sizeof(*link));
	if (link == NULL)
		goto no_link;
	place = take_place(library, lease, id->verbs);
	if (place == NULL)
		goto no_place;
	init.send_cq = init.recv_cq = place->cq;
	if (library->create_qp(id, place->pd, &init) != 0)
		goto no_qp;
	welcome.address = (uintptr_t)lease->memory;
	welcome.size = lease->size;
	welcome.key = place->mr->rkey;
	if (library->accept(id, &connect) != 0)
		goto no_accept;
	*link = (struct link){ .next = donor->links, .id = id, .lease = lease, .place = place };
	donor->links = link;
	lease->connections++;
	place->connections++;
	atomic_fetch_add(&donor->link_count, 1);
	atomic_fetch_add(&donor->accepted, 1);
	return;
no_accept:
	library->destroy_qp(id);
no_qp:
	if (place->connections == 0)
		leave_place(library, place);
no_place:
	free(link);
no_link:
	refuse(donor, id, why);
}

static void listen_again(struct drover_donor *donor);

static void on_event(struct drover_donor *donor, const struct verbs_event *event)
{
	struct link *link = donor->links;

	if (event->kind == CM_CONNECT_REQUEST) {
		on_request(donor, event);
		return;
	}
	if (event->kind == CM_ESTABLISHED || event->kind == CM_TIMEWAIT_EXIT)
		return;
	if (event->id == donor->listener) {
		donor->library->destroy_id(donor->listener);
		donor->listener = NULL;
		listen_again(donor);
		return;
	}
	/* Disconnected, never confirmed, the adapter is gone: it is over with this one. */
	while (link != NULL && link->id != event->id)
		link = link->next;
	if (link != NULL)
		cut(donor, link);
}

/* -- the thread --------------------------------------------------------------------------------------------- */

/* Makes the listener; 0 or -errno. */
static int start_listening(struct drover_donor *donor)
{
	struct cm_id *id;
	int rc = result(donor->library->create_id(donor->events, &id, NULL, CM_PORT_SPACE_TCP));

	if (rc < 0)
		return rc;
	rc = result(donor->library->bind_addr(id, (struct sockaddr *)&donor->address));
	if (rc == 0)
		rc = result(donor->library->listen(id, BACKLOG));
	if (rc < 0) {
		donor->library->destroy_id(id);
		return rc;
	}
	donor->listener = id;
	/* The port that it got once is the one that people were told. */
	atomic_store(&donor->port, ntohs(donor->library->get_src_port(id)));
	if (donor->address.ss_family == AF_INET6)
		((struct sockaddr_in6 *)&donor->address)->sin6_port = htons((uint16_t)atomic_load(&donor->port));
	else
		((struct sockaddr_in *)&donor->address)->sin_port = htons((uint16_t)atomic_load(&donor->port));
	return 0;
}

static void listen_again(struct drover_donor *donor)
{
	if (donor->listener == NULL)
		start_listening(donor);
}

/* Does what was ordered; 0 when the thread shall end. */
static int obey(struct drover_donor *donor)
{
	int going_on = 1;

	pthread_mutex_lock(&donor->lock);
	while (donor->orders != NULL) {
		struct order *order = donor->orders;
		int rc = 0;

		donor->orders = order->next;
		pthread_mutex_unlock(&donor->lock);
		if (order->kind == LEND)
			rc = lend(donor, order);
		else if (order->kind == REVOKE)
			rc = take_back(donor, order);
		else
			going_on = 0;
		pthread_mutex_lock(&donor->lock);
		order->rc = rc;
		order->finished = 1;
		pthread_cond_broadcast(&donor->changed);
	}
	pthread_mutex_unlock(&donor->lock);
	return going_on;
}

static void *donor_thread(void *argument)
{
	struct drover_donor *donor = argument;

	pthread_setname_np(pthread_self(), "drv-donor");
	while (obey(donor)) {
		struct pollfd sources[2] = { { .fd = donor->events->fd, .events = POLLIN }, { .fd = donor->wake, .events = POLLIN } };
		struct verbs_event event;
		uint64_t rung;

		poll(sources, 2, donor->listener == NULL ? RELISTEN_MILLIS : -1);
		if (read(donor->wake, &rung, sizeof(rung)) < 0)
			rung = 0;
		while (verbs_next_event(donor->library, donor->events, &event))
			on_event(donor, &event);
		listen_again(donor);
	}
	while (donor->leases != NULL)
		end_lease(donor, donor->leases);
	if (donor->listener != NULL)
		donor->library->destroy_id(donor->listener);
	return NULL;
}

/* -- calls -------------------------------------------------------------------------------------------------- */

/* Has the thread do it, and waits. */
static int give_order(struct drover_donor *donor, struct order *order)
{
	struct order **at;
	uint64_t one = 1;

	if (donor == NULL)
		return -EBADF;
	pthread_mutex_lock(&donor->lock);
	if (donor->closed) {
		pthread_mutex_unlock(&donor->lock);
		return -EBADF;
	}
	donor->closed = order->kind == END;
	for (at = &donor->orders; *at != NULL; at = &(*at)->next)
		;
	*at = order;
	if (write(donor->wake, &one, sizeof(one)) < 0)
		order->rc = 0; /* it is full: it rings */
	while (!order->finished)
		pthread_cond_wait(&donor->changed, &donor->lock);
	pthread_mutex_unlock(&donor->lock);
	return order->rc;
}

int drover_donor_open(const char *address, uint32_t port, struct drover_donor **out)
{
	struct drover_donor *donor = calloc(1, sizeof(*donor));
	int rc;

	if (donor == NULL)
		return -ENOMEM;
	rc = verbs_address(address, port, &donor->address);
	if (rc == 0)
		rc = verbs_load(&donor->library);
	if (rc < 0)
		goto no_library;
	rc = verbs_channel(donor->library, &donor->events);
	if (rc < 0)
		goto no_library;
	rc = donor->wake = result(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
	if (rc < 0)
		goto no_wake;
	rc = start_listening(donor);
	if (rc < 0)
		goto no_listener;
	pthread_mutex_init(&donor->lock, NULL);
	pthread_cond_init(&donor->changed, NULL);
	rc = verbs_thread_start(&donor->thread, donor_thread, donor);
	if (rc < 0)
		goto no_thread;
	*out = donor;
	return 0;
no_thread:
	pthread_cond_destroy(&donor->changed);
	pthread_mutex_destroy(&donor->lock);
	donor->library->destroy_id(donor->listener);
no_listener:
	close(donor->wake);
no_wake:
	donor->library->destroy_event_channel(donor->events);
no_library:
	free(donor);
	return rc;
}

int drover_donor_port(struct drover_donor *donor)
{
	return donor == NULL ? -EBADF : (int)atomic_load(&donor->port);
}

int drover_donor_lend(struct drover_donor *donor, const uint8_t *ticket, void *memory, uint64_t size)
{
	struct order order = { .kind = LEND, .ticket = ticket, .memory = memory, .size = size };

	if (size == 0 || size % DROVER_PAGE_SIZE != 0 || size > DROVER_REGION_SIZE_MAX)
		return -EINVAL;
	return give_order(donor, &order);
}

int drover_donor_revoke(struct drover_donor *donor, const uint8_t *ticket)
{
	struct order order = { .kind = REVOKE, .ticket = ticket };

	return give_order(donor, &order);
}

int drover_donor_stats(struct drover_donor *donor, struct drover_donor_stats *out)
{
	if (donor == NULL)
		return -EBADF;
	*out = (struct drover_donor_stats){
		.lent_bytes = atomic_load(&donor->lent_bytes),
		.accepted = atomic_load(&donor->accepted),
		.refused = atomic_load(&donor->refused),
		.leases = atomic_load(&donor->lease_count),
		.links = atomic_load(&donor->link_count),
	};
	return 0;
}

int drover_donor_close(struct drover_donor *donor)
{
	struct order order = { .kind = END };
	int rc = give_order(donor, &order);

	if (rc < 0)
		return rc;
	pthread_join(donor->thread, NULL);
	donor->library->destroy_event_channel(donor->events);
	close(donor->wake);
	pthread_cond_destroy(&donor->changed);
	pthread_mutex_destroy(&donor->lock);
	free(donor);
	return 0;
}
