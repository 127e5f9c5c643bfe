/*
 * verbs.c - finds libibverbs and librdmacm where the program runs, and the few things that both ends do alike.
 *
 * The libraries stay loaded until the process ends: their threads and handles have no end that could be waited for.
 */
#include "verbs.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

static struct verbs_library loaded;
static int loaded_rc = 1; /* 1: not tried */
static pthread_mutex_t loading = PTHREAD_MUTEX_INITIALIZER; /* guards the two above */

/* Where each function goes, and what it is called there. */
struct entry {
	size_t at;
	const char *name;
};

#define ENTRY(member, symbol) { offsetof(struct verbs_library, member), symbol }

static const struct entry verbs_entries[] = {
	ENTRY(alloc_pd, "ibv_alloc_pd"),
	ENTRY(dealloc_pd, "ibv_dealloc_pd"),
	ENTRY(reg_mr, "ibv_reg_mr"),
	ENTRY(dereg_mr, "ibv_dereg_mr"),
	ENTRY(create_comp_channel, "ibv_create_comp_channel"),
	ENTRY(destroy_comp_channel, "ibv_destroy_comp_channel"),
	ENTRY(create_cq, "ibv_create_cq"),
	ENTRY(destroy_cq, "ibv_destroy_cq"),
	ENTRY(get_cq_event, "ibv_get_cq_event"),
	ENTRY(ack_cq_events, "ibv_ack_cq_events"),
};
static const struct entry manager_entries[] = {
	ENTRY(create_event_channel, "rdma_create_event_channel"),
	ENTRY(destroy_event_channel, "rdma_destroy_event_channel"),
	ENTRY(create_id, "rdma_create_id"),
	ENTRY(destroy_id, "rdma_destroy_id"),
	ENTRY(bind_addr, "rdma_bind_addr"),
	ENTRY(listen, "rdma_listen"),
	ENTRY(get_src_port, "rdma_get_src_port"),
	ENTRY(resolve_addr, "rdma_resolve_addr"),
	ENTRY(resolve_route, "rdma_resolve_route"),
	ENTRY(create_qp, "rdma_create_qp"),
	ENTRY(destroy_qp, "rdma_destroy_qp"),
	ENTRY(connect, "rdma_connect"),
	ENTRY(accept, "rdma_accept"),
	ENTRY(reject, "rdma_reject"),
	ENTRY(disconnect, "rdma_disconnect"),
	ENTRY(get_cm_event, "rdma_get_cm_event"),
	ENTRY(ack_cm_event, "rdma_ack_cm_event"),
	ENTRY(set_option, "rdma_set_option"),
};

static int find_all(void *library, const struct entry *entries, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		void *symbol = dlsym(library, entries[i].name);

		if (symbol == NULL)
			return -EOPNOTSUPP;
		memcpy((uint8_t *)&loaded + entries[i].at, &symbol, sizeof(symbol));
	}
	return 0;
}

static int load(void)
{
	/* The names with a version: those without belong to the packages with headers. */
	void *verbs = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);
	void *manager = verbs == NULL ? NULL : dlopen("librdmacm.so.1", RTLD_NOW | RTLD_LOCAL);
	int rc;

	if (manager == NULL)
		return -EOPNOTSUPP;
	rc = find_all(verbs, verbs_entries, sizeof(verbs_entries) / sizeof(verbs_entries[0]));
	return rc < 0 ? rc : find_all(manager, manager_entries, sizeof(manager_entries) / sizeof(manager_entries[0]));
}

int verbs_load(const struct verbs_library **out)
{
	int rc;

	pthread_mutex_lock(&loading);
	if (loaded_rc > 0)
		loaded_rc = load();
	rc = loaded_rc;
	pthread_mutex_unlock(&loading);
	*out = &loaded;
	return rc;
}

int verbs_channel(const struct verbs_library *library, struct cm_channel **out)
{
	struct cm_channel *channel;
	int flags;

	errno = 0;
	channel = library->create_event_channel();
	if (channel == NULL)
		return errno == EACCES || errno == EPERM ? -EACCES : errno == ENOMEM || errno == EMFILE || errno == ENFILE ? -errno : -ENODEV;
	flags = fcntl(channel->fd, F_GETFL);
	if (flags < 0 || fcntl(channel->fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(channel->fd, F_SETFD, FD_CLOEXEC) < 0) {
		int rc = -errno;

		library->destroy_event_channel(channel);
		return rc;
	}
	*out = channel;
	return 0;
}

int verbs_address(const char *text, uint32_t port, struct sockaddr_storage *out)
{
	struct addrinfo wanted = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM }, *found;
	char service[16];

	if (text == NULL || port > 65535)
		return -EINVAL;
	snprintf(service, sizeof(service), "%u", port);
	/* Numeric: nobody is asked, but the scope of a link-local address is understood. */
	if (getaddrinfo(text, service, &wanted, &found) != 0)
		return -EINVAL;
	memset(out, 0, sizeof(*out));
	memcpy(out, found->ai_addr, found->ai_addrlen < sizeof(*out) ? found->ai_addrlen : sizeof(*out));
	freeaddrinfo(found);
	return 0;
}

int verbs_next_event(const struct verbs_library *library, struct cm_channel *channel, struct verbs_event *out)
{
	struct cm_event *event;

	if (library->get_cm_event(channel, &event) != 0)
		return 0;
	*out = (struct verbs_event){
		.id = event->id,
		.context = event->id->context,
		.kind = event->kind,
		.status = event->status,
	};
	if (event->kind == CM_CONNECT_REQUEST || event->kind == CM_ESTABLISHED || event->kind == CM_REJECTED) {
		out->initiator_depth = event->connect.initiator_depth;
		out->responder_resources = event->connect.responder_resources;
		if (event->connect.private_data != NULL)
			out->size = event->connect.private_data_size < sizeof(out->data) ? event->connect.private_data_size :
											   (uint32_t)sizeof(out->data);
		if (out->size > 0)
			memcpy(out->data, event->connect.private_data, out->size);
	}
	library->ack_cm_event(event);
	return 1;
}

int verbs_thread_start(pthread_t *thread, void *(*run)(void *), void *argument)
{
	sigset_t all, before;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = -pthread_create(thread, NULL, run, argument);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return rc;
}
