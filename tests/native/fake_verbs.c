/*
 * fake_verbs.c - libibverbs and librdmacm within one process, for what no adapter does on demand.
 *
 * Built as a shared object under both names and found by LD_LIBRARY_PATH, so that store_verbs.c and donor.c run as they are. A
 * posted request is a memcpy between two registered memories, after the checks that an adapter makes: the key belongs to the
 * protection domain of the other end, and the range is within it. fake_chaos() cuts connections, takes the adapter away, and
 * holds requests back; what is held when its queue pair goes scribbles over the local buffer at that moment, as an adapter may.
 */
#define _GNU_SOURCE
#include "../../native-src/verbs.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#define KEYS 65536u
#define RING 256u
#define EXPORT __attribute__((visibility("default")))

struct fake_mr {
	struct vb_mr base;
};

struct fake_channel { /* of completions */
	struct vb_channel base;
};

struct fake_cq {
	struct vb_cq base;
	struct fake_channel *channel;
	struct vb_wc ring[RING];
	uint32_t head, tail, told, acknowledged;
	int armed;
};

struct fake_qp {
	struct vb_qp base;
	int failed;
	struct vb_send_wr held[RING];
	struct vb_sge held_pieces[RING];
	uint32_t held_count;
};

struct fake_event {
	struct cm_event base;
	struct fake_event *next;
	uint8_t data[256];
};

struct fake_cm_channel {
	struct cm_channel base;
	struct fake_event *first;
};

struct fake_id {
	struct cm_id base;
	struct fake_id *next, *peer;
	uint16_t port;
	int listening, connected;
	uint8_t hello[64];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards everything here */
static struct fake_id *ids;
static struct fake_mr *keys[KEYS];
static uint32_t next_key = 1;
static uint16_t next_port = 20000;
static int holding;

static int fake_poll_cq(struct vb_cq *cq, int count, struct vb_wc *out);
static int fake_req_notify_cq(struct vb_cq *cq, int solicited_only);
static int fake_post_send(struct vb_qp *qp, struct vb_send_wr *first, struct vb_send_wr **bad);
static struct vb_context adapter = {
	.poll_cq = fake_poll_cq,
	.req_notify_cq = fake_req_notify_cq,
	.post_send = fake_post_send,
};

static void must(int condition, const char *what)
{
	if (condition)
		return;
	fprintf(stderr, "fake_verbs: not so: %s\n", what);
	abort();
}

static void *make(size_t size)
{
	void *made = calloc(1, size);

	must(made != NULL, "there is memory");
	return made;
}

static void ring(int fd)
{
	uint64_t one = 1;

	must(write(fd, &one, sizeof(one)) == sizeof(one), "an eventfd takes one more");
}

static int take_ring(int fd)
{
	uint64_t one;

	return read(fd, &one, sizeof(one)) == sizeof(one);
}

/* -- events of connections ---------------------------------------------------------------------------------- */

static void tell(struct fake_id *id, struct fake_id *listener, int kind, int status, const void *data, uint8_t size)
{
	struct fake_cm_channel *channel = (struct fake_cm_channel *)(listener == NULL ? id : listener)->base.channel;
	struct fake_event *event = make(sizeof(*event)), **at = &channel->first;

	event->base = (struct cm_event){ .id = &id->base, .listen_id = listener == NULL ? NULL : &listener->base, .kind = kind, .status = status };
	if (size > 0) {
		memcpy(event->data, data, size);
		event->base.connect.private_data = event->data;
		event->base.connect.private_data_size = size;
	}
	while (*at != NULL)
		at = &(*at)->next;
	*at = event;
	ring(channel->base.fd);
}

EXPORT struct cm_channel *rdma_create_event_channel(void)
{
	struct fake_cm_channel *channel = make(sizeof(*channel));

	channel->base.fd = eventfd(0, EFD_SEMAPHORE | EFD_CLOEXEC);
	return &channel->base;
}

EXPORT void rdma_destroy_event_channel(struct cm_channel *base)
{
	struct fake_cm_channel *channel = (struct fake_cm_channel *)base;

	must(channel->first == NULL, "no event is left when a channel goes");
	close(base->fd);
	free(channel);
}

EXPORT int rdma_get_cm_event(struct cm_channel *base, struct cm_event **out)
{
	struct fake_cm_channel *channel = (struct fake_cm_channel *)base;
	struct fake_event *event;

	pthread_mutex_lock(&lock);
	event = channel->first;
	if (event != NULL) {
		channel->first = event->next;
		must(take_ring(base->fd), "each event has rung");
	}
	pthread_mutex_unlock(&lock);
	if (event == NULL) {
		errno = EAGAIN;
		return -1;
	}
	*out = &event->base;
	return 0;
}

EXPORT int rdma_ack_cm_event(struct cm_event *event)
{
	free(event);
	return 0;
}

/* -- connections -------------------------------------------------------------------------------------------- */

static struct fake_id *make_id(struct cm_channel *channel, void *context)
{
	struct fake_id *id = make(sizeof(*id));

	id->base.channel = channel;
	id->base.context = context;
	id->next = ids;
	ids = id;
	return id;
}

EXPORT int rdma_create_id(struct cm_channel *channel, struct cm_id **out, void *context, int port_space)
{
	must(port_space == CM_PORT_SPACE_TCP, "connections are reliable ones");
	pthread_mutex_lock(&lock);
	*out = &make_id(channel, context)->base;
	pthread_mutex_unlock(&lock);
	return 0;
}

static void fail_qp(struct cm_id *id)
{
	if (id->qp != NULL)
		((struct fake_qp *)id->qp)->failed = 1;
}

/* Ends a connection for both ends. */
static void part(struct fake_id *id)
{
	struct fake_id *peer = id->peer;

	if (!id->connected)
		return;
	id->connected = peer->connected = 0;
	fail_qp(&id->base);
	fail_qp(&peer->base);
	tell(id, NULL, CM_DISCONNECTED, 0, NULL, 0);
	tell(peer, NULL, CM_DISCONNECTED, 0, NULL, 0);
}

EXPORT int rdma_destroy_id(struct cm_id *base)
{
	struct fake_id *id = (struct fake_id *)base, **at = &ids;
	struct fake_cm_channel *channel = (struct fake_cm_channel *)base->channel;
	struct fake_event **event = &channel->first;

	must(base->qp == NULL, "the queue pair goes before its connection");
	pthread_mutex_lock(&lock);
	part(id);
	if (id->peer != NULL) {
		id->peer->peer = NULL;
		/* Refused by dying: who asked hears of it. */
		if (!id->connected && id->peer->listening == 2)
			tell(id->peer, NULL, CM_REJECTED, CM_REJECTED_NO_LISTENER, NULL, 0);
	}
	while (*event != NULL) {
		struct fake_event *here = *event;

		if (here->base.id != base) {
			event = &here->next;
			continue;
		}
		*event = here->next;
		must(take_ring(channel->base.fd), "each event has rung");
		free(here);
	}
	while (*at != id)
		at = &(*at)->next;
	*at = id->next;
	pthread_mutex_unlock(&lock);
	free(id);
	return 0;
}

EXPORT int rdma_bind_addr(struct cm_id *base, struct sockaddr *address)
{
	struct fake_id *id = (struct fake_id *)base;
	uint16_t wanted = ntohs(((struct sockaddr_in *)address)->sin_port);

	id->port = wanted == 0 ? next_port++ : wanted;
	return 0;
}

EXPORT int rdma_listen(struct cm_id *base, int backlog)
{
	must(backlog > 0, "there is a backlog");
	pthread_mutex_lock(&lock);
	((struct fake_id *)base)->listening = 1;
	pthread_mutex_unlock(&lock);
	return 0;
}

EXPORT uint16_t rdma_get_src_port(struct cm_id *base)
{
	return htons(((struct fake_id *)base)->port);
}

EXPORT int rdma_resolve_addr(struct cm_id *base, struct sockaddr *source, struct sockaddr *target, int millis)
{
	struct fake_id *id = (struct fake_id *)base;

	must(source == NULL && millis > 0, "any source, some patience");
	pthread_mutex_lock(&lock);
	id->port = ntohs(((struct sockaddr_in *)target)->sin_port);
	base->verbs = &adapter;
	tell(id, NULL, CM_ADDR_RESOLVED, 0, NULL, 0);
	pthread_mutex_unlock(&lock);
	return 0;
}

EXPORT int rdma_resolve_route(struct cm_id *base, int millis)
{
	must(millis > 0, "some patience");
	pthread_mutex_lock(&lock);
	tell((struct fake_id *)base, NULL, CM_ROUTE_RESOLVED, 0, NULL, 0);
	pthread_mutex_unlock(&lock);
	return 0;
}

EXPORT int rdma_set_option(struct cm_id *id, int level, int name, void *value, size_t size)
{
	(void)id;
	return level == CM_OPTION_ID && name == CM_OPTION_ID_ACK_TIMEOUT && value != NULL && size == 1 ? 0 : -1;
}

EXPORT int rdma_connect(struct cm_id *base, struct cm_connect *connect)
{
	struct fake_id *id = (struct fake_id *)base, *server, *listener;

	must(connect->private_data_size <= 56, "a request has room for 56 bytes");
	pthread_mutex_lock(&lock);
	for (listener = ids; listener != NULL; listener = listener->next)
		if (listener->listening == 1 && listener->port == id->port)
			break;
	if (listener == NULL) {
		tell(id, NULL, CM_REJECTED, CM_REJECTED_NO_LISTENER, NULL, 0);
	} else {
		server = make_id(listener->base.channel, listener->base.context);
		server->base.verbs = &adapter;
		server->peer = id;
		id->peer = server;
		id->listening = 2; /* waits for an answer */
		memcpy(id->hello, connect->private_data, connect->private_data_size);
		tell(server, listener, CM_CONNECT_REQUEST, 0, id->hello, 56);
	}
	pthread_mutex_unlock(&lock);
	return 0;
}

EXPORT int rdma_accept(struct cm_id *base, struct cm_connect *connect)
{
	struct fake_id *id = (struct fake_id *)base;

	must(connect->private_data_size <= 196, "an answer has room for 196 bytes");
	pthread_mutex_lock(&lock);
	if (id->peer == NULL) {
		pthread_mutex_unlock(&lock);
		errno = ENOTCONN;
		return -1;
	}
	id->connected = id->peer->connected = 1;
	id->peer->listening = 0;
	tell(id->peer, NULL, CM_ESTABLISHED, 0, connect->private_data, connect->private_data_size);
	tell(id, NULL, CM_ESTABLISHED, 0, NULL, 0);
	pthread_mutex_unlock(&lock);
	return 0;
}

EXPORT int rdma_reject(struct cm_id *base, const void *private_data, uint8_t size)
{
	struct fake_id *id = (struct fake_id *)base;

	pthread_mutex_lock(&lock);
	if (id->peer != NULL) {
		id->peer->listening = 0;
		tell(id->peer, NULL, CM_REJECTED, CM_REJECTED_BY_PROGRAM, private_data, size);
	}
	pthread_mutex_unlock(&lock);
	return 0;
}

EXPORT int rdma_disconnect(struct cm_id *base)
{
	pthread_mutex_lock(&lock);
	part((struct fake_id *)base);
	pthread_mutex_unlock(&lock);
	return 0;
}

/* -- memory and queues -------------------------------------------------------------------------------------- */

EXPORT struct vb_pd *ibv_alloc_pd(struct vb_context *context)
{
	struct vb_pd *pd = make(sizeof(*pd));

	pd->context = context;
	return pd;
}

EXPORT int ibv_dealloc_pd(struct vb_pd *pd)
{
	pthread_mutex_lock(&lock);
	for (uint32_t key = 1; key < KEYS; key++)
		must(keys[key] == NULL || keys[key]->base.pd != pd, "memory is given back before its domain");
	pthread_mutex_unlock(&lock);
	free(pd);
	return 0;
}

EXPORT struct vb_mr *ibv_reg_mr(struct vb_pd *pd, void *address, size_t length, int access)
{
	struct fake_mr *mr = make(sizeof(*mr));

	must((access & VB_ACCESS_LOCAL_WRITE) != 0, "local writes are asked for");
	pthread_mutex_lock(&lock);
	while (keys[next_key] != NULL)
		next_key = next_key % (KEYS - 1) + 1;
	mr->base = (struct vb_mr){ .pd = pd, .address = address, .length = length, .lkey = next_key, .rkey = next_key };
	keys[next_key] = mr;
	next_key = next_key % (KEYS - 1) + 1;
	pthread_mutex_unlock(&lock);
	return &mr->base;
}

EXPORT int ibv_dereg_mr(struct vb_mr *mr)
{
	pthread_mutex_lock(&lock);
	keys[mr->lkey] = NULL;
	pthread_mutex_unlock(&lock);
	free(mr);
	return 0;
}

EXPORT struct vb_channel *ibv_create_comp_channel(struct vb_context *context)
{
	struct fake_channel *channel = make(sizeof(*channel));

	channel->base = (struct vb_channel){ .context = context, .fd = eventfd(0, EFD_SEMAPHORE | EFD_CLOEXEC) };
	return &channel->base;
}

EXPORT int ibv_destroy_comp_channel(struct vb_channel *channel)
{
	close(channel->fd);
	free(channel);
	return 0;
}

EXPORT struct vb_cq *ibv_create_cq(struct vb_context *context, int count, void *cq_context, struct vb_channel *channel, int vector)
{
	struct fake_cq *cq = make(sizeof(*cq));

	must(count > 0 && cq_context == NULL && vector == 0, "a plain queue");
	cq->base.context = context;
	cq->channel = (struct fake_channel *)channel;
	return &cq->base;
}

/* The real one waits for ever in this case. */
EXPORT int ibv_destroy_cq(struct vb_cq *base)
{
	struct fake_cq *cq = (struct fake_cq *)base;

	must(cq->channel == NULL || cq->acknowledged + (uint32_t)0 == cq->told, "every event taken was acknowledged");
	free(cq);
	return 0;
}

EXPORT int ibv_get_cq_event(struct vb_channel *channel, struct vb_cq **cq, void **cq_context)
{
	(void)cq;
	(void)cq_context;
	return take_ring(channel->fd) ? 0 : -1;
}

EXPORT void ibv_ack_cq_events(struct vb_cq *base, unsigned int count)
{
	struct fake_cq *cq = (struct fake_cq *)base;

	pthread_mutex_lock(&lock);
	cq->acknowledged += count;
	/* What nobody has taken from the channel goes with it. */
	while (cq->channel != NULL && cq->acknowledged < cq->told && take_ring(cq->channel->base.fd))
		cq->acknowledged++;
	pthread_mutex_unlock(&lock);
}

EXPORT int rdma_create_qp(struct cm_id *id, struct vb_pd *pd, struct vb_qp_init *init)
{
	struct fake_qp *qp = make(sizeof(*qp));

	must(init->type == VB_QPT_RC && init->send_cq != NULL && init->recv_cq != NULL, "a reliable queue pair");
	qp->base = (struct vb_qp){ .context = &adapter, .pd = pd, .send_cq = init->send_cq, .recv_cq = init->recv_cq };
	pthread_mutex_lock(&lock);
	id->qp = &qp->base;
	pthread_mutex_unlock(&lock);
	return 0;
}

EXPORT void rdma_destroy_qp(struct cm_id *id)
{
	struct fake_qp *qp = (struct fake_qp *)id->qp;

	pthread_mutex_lock(&lock);
	for (uint32_t i = 0; i < qp->held_count; i++)
		if (qp->held[i].opcode == VB_WR_RDMA_READ)
			memset((void *)(uintptr_t)qp->held_pieces[i].address, 0xaa, qp->held_pieces[i].length);
	id->qp = NULL;
	pthread_mutex_unlock(&lock);
	free(qp);
}

static void finish(struct fake_cq *cq, uint64_t id, int status)
{
	must(cq->tail - cq->head < RING, "a completion queue does not overflow");
	cq->ring[cq->tail++ % RING] = (struct vb_wc){ .id = id, .status = status };
	if (cq->armed && cq->channel != NULL) {
		cq->armed = 0;
		cq->told++;
		ring(cq->channel->base.fd);
	}
}

static int fake_poll_cq(struct vb_cq *base, int count, struct vb_wc *out)
{
	struct fake_cq *cq = (struct fake_cq *)base;
	int got = 0;

	pthread_mutex_lock(&lock);
	while (got < count && cq->head != cq->tail)
		out[got++] = cq->ring[cq->head++ % RING];
	pthread_mutex_unlock(&lock);
	return got;
}

static int fake_req_notify_cq(struct vb_cq *base, int solicited_only)
{
	must(solicited_only == 0, "every completion rings");
	pthread_mutex_lock(&lock);
	((struct fake_cq *)base)->armed = 1;
	pthread_mutex_unlock(&lock);
	return 0;
}

static struct fake_mr *registered(uint32_t key, const struct vb_pd *pd, uint64_t address, uint64_t size)
{
	struct fake_mr *mr = key < KEYS ? keys[key] : NULL;

	if (mr == NULL || mr->base.pd != pd || address < (uintptr_t)mr->base.address ||
	    address - (uintptr_t)mr->base.address > mr->base.length || size > mr->base.length - (address - (uintptr_t)mr->base.address))
		return NULL;
	return mr;
}

/* One request, as the two adapters do it together. */
static int carry(struct fake_id *id, const struct vb_send_wr *order, const struct vb_sge *piece)
{
	struct fake_qp *remote = id->peer == NULL ? NULL : (struct fake_qp *)id->peer->base.qp;
	void *here = (void *)(uintptr_t)piece->address, *there = (void *)(uintptr_t)order->remote_address;

	if (registered(piece->lkey, id->base.qp->pd, piece->address, piece->length) == NULL)
		return VB_WC_LOC_PROT_ERR;
	if (remote == NULL)
		return VB_WC_RETRY_EXC_ERR;
	if (registered(order->rkey, remote->base.pd, order->remote_address, piece->length) == NULL)
		return VB_WC_REM_ACCESS_ERR;
	if (order->opcode == VB_WR_RDMA_WRITE)
		memcpy(there, here, piece->length);
	else
		memcpy(here, there, piece->length);
	return VB_WC_SUCCESS;
}

static struct fake_id *id_of(const struct vb_qp *qp)
{
	struct fake_id *id = ids;

	while (id != NULL && id->base.qp != qp)
		id = id->next;
	must(id != NULL, "a queue pair that is used exists");
	return id;
}

static int fake_post_send(struct vb_qp *base, struct vb_send_wr *first, struct vb_send_wr **bad)
{
	struct fake_qp *qp = (struct fake_qp *)base;
	struct fake_cq *cq = (struct fake_cq *)base->send_cq;
	struct fake_id *id;

	(void)bad;
	pthread_mutex_lock(&lock);
	id = id_of(base);
	for (struct vb_send_wr *order = first; order != NULL; order = order->next) {
		int status = VB_WC_WR_FLUSH_ERR;

		must(order->piece_count == 1 && (order->flags & VB_SEND_SIGNALED) != 0, "one piece, and it is told");
		if (!qp->failed && holding) {
			must(qp->held_count < RING, "no more is posted than a queue pair has room for");
			qp->held_pieces[qp->held_count] = order->pieces[0];
			qp->held[qp->held_count++] = *order;
			continue;
		}
		if (!qp->failed)
			status = carry(id, order, order->pieces);
		qp->failed |= status != VB_WC_SUCCESS;
		finish(cq, order->id, status);
	}
	pthread_mutex_unlock(&lock);
	return 0;
}

/* -- what no adapter does on demand ------------------------------------------------------------------------------- */

/* 0 holds requests back, 1 lets them go, 2 cuts the `which`-th connection, 3 takes the adapter from everybody but listeners. */
EXPORT void fake_chaos(int kind, uint32_t which)
{
	uint32_t at = 0;

	pthread_mutex_lock(&lock);
	holding = kind == 0 ? 1 : kind == 1 ? 0 : holding;
	for (struct fake_id *id = ids; id != NULL && kind > 0; id = id->next) {
		struct fake_qp *qp = (struct fake_qp *)id->base.qp;

		if (kind == 1 && qp != NULL) {
			for (uint32_t i = 0; i < qp->held_count; i++) {
				int status = qp->failed ? VB_WC_WR_FLUSH_ERR : carry(id, &qp->held[i], &qp->held_pieces[i]);

				qp->failed |= status != VB_WC_SUCCESS;
				finish((struct fake_cq *)qp->base.send_cq, qp->held[i].id, status);
			}
			qp->held_count = 0;
		}
		if (kind == 2 && id->connected && at++ == which % 16)
			part(id);
		if (kind == 3 && id->connected) {
			fail_qp(&id->base);
			id->connected = 0;
			tell(id, NULL, CM_DEVICE_REMOVAL, 0, NULL, 0);
		}
	}
	pthread_mutex_unlock(&lock);
}
