/*
 * verbs.h - what store_verbs.c and donor.c need of RDMA: the libraries by dlopen, and what the two ends say to each other.
 *
 * libibverbs and librdmacm are neither linked nor included. A build must not depend on whether their headers happen to be
 * there, and a library built anywhere must find RDMA where it runs; so the part of their binary interface that is used
 * stands below (stable since IBVERBS_1.1 and RDMACM_1.0), with the same members under names of our own.
 * tests/native/verbs_abi_test.c compares each of them with the real headers.
 *
 * One connection is one reliable queue pair made by rdma_cm. Who dials (the borrower) sends struct verbs_hello as private
 * data of the connect request; the donor accepts with struct verbs_welcome or rejects with struct verbs_refusal. From then on the
 * borrower reads and writes the lent memory by one-sided RDMA; no message is ever sent, and the donor posts nothing.
 * All numbers are little-endian, as this library is. A field that is reserved is 0, or the message is refused.
 */
#ifndef DROVER_VERBS_H
#define DROVER_VERBS_H

#include "internal.h"

#include <netinet/in.h>
#include <pthread.h>
#include <stdint.h>

/* -- what is said when connecting ------------------------------------------------------------------------- */

#define VERBS_TICKET_SIZE 32u
#define VERBS_HELLO_MAGIC 0x31636d6472727664ull	  /* "dvrrdmc1" */
#define VERBS_WELCOME_MAGIC 0x31646d6472727664ull /* "dvrrdmd1" */
#define VERBS_REFUSAL_MAGIC 0x31786d6472727664ull /* "dvrrdmx1" */

/* A request has room for 56 bytes on InfiniBand and RoCE; what is not used of them arrives as zeros. */
struct verbs_hello {
	uint64_t magic;
	uint8_t ticket[VERBS_TICKET_SIZE];
	uint64_t reserved;
};

struct verbs_welcome {
	uint64_t magic;
	uint64_t address; /* of the lent memory, as RDMA counts */
	uint64_t size;	  /* bytes lent */
	uint32_t key;	  /* what RDMA must show to use it */
	uint32_t reserved;
};

#define VERBS_REFUSED_HELLO 1u	/* not what a borrower says */
#define VERBS_REFUSED_TICKET 2u /* nothing is lent for this ticket, or not any more */
#define VERBS_REFUSED_FULL 3u	/* too many connections */
#define VERBS_REFUSED_MEMORY 4u /* the memory cannot be registered */

struct verbs_refusal {
	uint64_t magic;
	uint32_t why; /* VERBS_REFUSED_… */
	uint32_t reserved;
};

_Static_assert(sizeof(struct verbs_hello) == 48 && sizeof(struct verbs_welcome) == 32 && sizeof(struct verbs_refusal) == 16,
	       "they cross the border");

/* -- libibverbs: structures ------------------------------------------------------------------------------- */

struct vb_qp;
struct vb_cq;
struct vb_wc;
struct vb_send_wr;

/* struct ibv_context; of its table of calls only the three that have no symbol. */
struct vb_context {
	void *device;
	void *calls_0_10[11];
	int (*poll_cq)(struct vb_cq *cq, int count, struct vb_wc *out);
	int (*req_notify_cq)(struct vb_cq *cq, int solicited_only);
	void *calls_13_24[12];
	int (*post_send)(struct vb_qp *qp, struct vb_send_wr *first, struct vb_send_wr **bad);
	void *calls_26_31[6];
	int cmd_fd;
	int async_fd;
};

struct vb_pd {
	struct vb_context *context;
};

struct vb_mr {
	struct vb_context *context;
	struct vb_pd *pd;
	void *address;
	size_t length;
	uint32_t handle;
	uint32_t lkey;
	uint32_t rkey;
};

struct vb_channel { /* struct ibv_comp_channel */
	struct vb_context *context;
	int fd;
};

struct vb_cq {
	struct vb_context *context;
};

struct vb_qp {
	struct vb_context *context;
	void *qp_context;
	struct vb_pd *pd;
	struct vb_cq *send_cq;
	struct vb_cq *recv_cq;
	void *srq;
	uint32_t handle;
	uint32_t number;
};

struct vb_sge {
	uint64_t address;
	uint32_t length;
	uint32_t lkey;
};

#define VB_WR_RDMA_WRITE 0
#define VB_WR_RDMA_READ 4
#define VB_SEND_SIGNALED 2u

struct vb_send_wr {
	uint64_t id;
	struct vb_send_wr *next;
	struct vb_sge *pieces;
	int piece_count;
	int opcode;
	unsigned int flags;
	uint32_t immediate;
	uint64_t remote_address;
	uint32_t rkey;
	uint32_t unused[19]; /* other opcodes' */
};

#define VB_WC_SUCCESS 0
#define VB_WC_LOC_PROT_ERR 4
#define VB_WC_WR_FLUSH_ERR 5
#define VB_WC_REM_ACCESS_ERR 10
#define VB_WC_RETRY_EXC_ERR 12

struct vb_wc {
	uint64_t id;
	int status;
	int opcode;
	uint32_t vendor_error;
	uint32_t byte_length;
	uint32_t immediate;
	uint32_t qp_number;
	uint32_t source_qp;
	unsigned int flags;
	uint16_t pkey_index;
	uint16_t slid;
	uint8_t sl;
	uint8_t dlid_path_bits;
};

#define VB_QPT_RC 2

struct vb_qp_init { /* struct ibv_qp_init_attr */
	void *qp_context;
	struct vb_cq *send_cq;
	struct vb_cq *recv_cq;
	void *srq;
	uint32_t send_max;
	uint32_t receive_max;
	uint32_t send_pieces_max;
	uint32_t receive_pieces_max;
	uint32_t inline_max;
	int type;
	int signal_all;
};

#define VB_ACCESS_LOCAL_WRITE 1
#define VB_ACCESS_REMOTE_WRITE 2
#define VB_ACCESS_REMOTE_READ 4

/* -- librdmacm: structures ---------------------------------------------------------------------------------- */

#define CM_ADDR_RESOLVED 0
#define CM_ADDR_ERROR 1
#define CM_ROUTE_RESOLVED 2
#define CM_ROUTE_ERROR 3
#define CM_CONNECT_REQUEST 4
#define CM_CONNECT_ERROR 6
#define CM_UNREACHABLE 7
#define CM_REJECTED 8
#define CM_ESTABLISHED 9
#define CM_DISCONNECTED 10
#define CM_DEVICE_REMOVAL 11
#define CM_ADDR_CHANGE 14
#define CM_TIMEWAIT_EXIT 15

#define CM_PORT_SPACE_TCP 0x0106
#define CM_DEPTH_MAX 0xffu
#define CM_OPTION_ID 0
#define CM_OPTION_ID_ACK_TIMEOUT 3
#define CM_REJECTED_NO_LISTENER 8 /* status of a rejection, as InfiniBand numbers them */
#define CM_REJECTED_BY_PROGRAM 28

struct cm_channel { /* struct rdma_event_channel */
	int fd;
};

/* struct rdma_cm_id: its first members. */
struct cm_id {
	struct vb_context *verbs;
	struct cm_channel *channel;
	void *context;
	struct vb_qp *qp;
};

struct cm_connect { /* struct rdma_conn_param */
	const void *private_data;
	uint8_t private_data_size;
	uint8_t responder_resources;
	uint8_t initiator_depth;
	uint8_t flow_control;
	uint8_t retry_count;
	uint8_t rnr_retry_count;
	uint8_t srq;
	uint32_t qp_number;
};

struct cm_event { /* struct rdma_cm_event; of its union what belongs to connections */
	struct cm_id *id;
	struct cm_id *listen_id;
	int kind;
	int status;
	struct cm_connect connect;
};

/* -- their functions ------------------------------------------------------------------------------------------ */

/* Pointers come back NULL, and ints -1, with errno; where libibverbs returns an int it is a positive errno. */
struct verbs_library {
	struct vb_pd *(*alloc_pd)(struct vb_context *context);
	int (*dealloc_pd)(struct vb_pd *pd);
	struct vb_mr *(*reg_mr)(struct vb_pd *pd, void *address, size_t length, int access);
	int (*dereg_mr)(struct vb_mr *mr);
	struct vb_channel *(*create_comp_channel)(struct vb_context *context);
	int (*destroy_comp_channel)(struct vb_channel *channel);
	struct vb_cq *(*create_cq)(struct vb_context *context, int count, void *cq_context, struct vb_channel *channel, int vector);
	int (*destroy_cq)(struct vb_cq *cq);
	int (*get_cq_event)(struct vb_channel *channel, struct vb_cq **cq, void **cq_context);
	void (*ack_cq_events)(struct vb_cq *cq, unsigned int count);
	struct cm_channel *(*create_event_channel)(void);
	void (*destroy_event_channel)(struct cm_channel *channel);
	int (*create_id)(struct cm_channel *channel, struct cm_id **id, void *context, int port_space);
	int (*destroy_id)(struct cm_id *id);
	int (*bind_addr)(struct cm_id *id, struct sockaddr *address);
	int (*listen)(struct cm_id *id, int backlog);
	uint16_t (*get_src_port)(struct cm_id *id); /* big-endian */
	int (*resolve_addr)(struct cm_id *id, struct sockaddr *source, struct sockaddr *target, int millis);
	int (*resolve_route)(struct cm_id *id, int millis);
	int (*create_qp)(struct cm_id *id, struct vb_pd *pd, struct vb_qp_init *init);
	void (*destroy_qp)(struct cm_id *id);
	int (*connect)(struct cm_id *id, struct cm_connect *connect);
	int (*accept)(struct cm_id *id, struct cm_connect *connect);
	int (*reject)(struct cm_id *id, const void *private_data, uint8_t private_data_size);
	int (*disconnect)(struct cm_id *id);
	int (*get_cm_event)(struct cm_channel *channel, struct cm_event **event);
	int (*ack_cm_event)(struct cm_event *event);
	int (*set_option)(struct cm_id *id, int level, int name, void *value, size_t size);
};

/* -- verbs.c ------------------------------------------------------------------------------------------------------ */

/* The libraries, loaded with the first call and for good; -EOPNOTSUPP when this machine lacks them. */
int verbs_load(const struct verbs_library **out);

/*
 * A channel for events of rdma_cm that never blocks and is not inherited; -ENODEV without an RDMA device, -EACCES
 * without the right to it. The caller destroys it.
 */
int verbs_channel(const struct verbs_library *library, struct cm_channel **out);

/* A numeric address and a port; -EINVAL. */
int verbs_address(const char *text, uint32_t port, struct sockaddr_storage *out);

/* One event as it was, acknowledged, so that nothing that destroys its id waits for it. Private data is cut to `room`. */
struct verbs_event {
	struct cm_id *id;
	void *context;
	int kind;
	int status;
	uint32_t size;
	uint8_t initiator_depth, responder_resources;
	_Alignas(8) uint8_t data[64];
};

/* The next event: 1, or 0 for none now. */
int verbs_next_event(const struct verbs_library *library, struct cm_channel *channel, struct verbs_event *out);

/* A thread with all signals blocked: handlers belong to the program's own threads. */
int verbs_thread_start(pthread_t *thread, void *(*run)(void *), void *argument);

#endif
