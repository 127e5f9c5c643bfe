/*
 * store_nbd.h - what the files of the NBD store share: store_nbd_dial.c opens connections, store_nbd_wire.c sends requests
 * and understands replies, store_nbd.c is the store.
 */
#ifndef DROVER_STORE_NBD_H
#define DROVER_STORE_NBD_H

#include "region.h"

#include <endian.h>
#include <string.h>
#include <sys/socket.h>

#ifndef DROVER_STORE_PATIENT
#define DROVER_STORE_PATIENT 2u
#endif

/* Bytes of an export's name. */
#define NBD_NAME_MAX 255u
/* Without another word in the options. */
#define NBD_TIMEOUT_NANOS 5000000000ull
/* The most bytes of one request: what a server takes that has not said otherwise. */
#define NBD_PAYLOAD_MAX (32u << 20)

/* Bits of an export's transmission flags. */
#define NBD_FLAG_READ_ONLY (1u << 1)
#define NBD_FLAG_SEND_TRIM (1u << 5)

/* What all connections of one store have in common; nothing of it changes after store_nbd_open() but `spare`. */
struct nbd {
	struct sockaddr_storage address;
	socklen_t address_size;
	uint32_t name_size;
	uint8_t name[NBD_NAME_MAX];
	uint32_t patient; /* DROVER_STORE_PATIENT */
	uint64_t size, timeout_nanos;
	int spare;	      /* the connection of store_nbd_open(), for the first context; -1 */
	uint32_t spare_flags; /* its export's */
	_Atomic uint32_t impatient; /* an attach() has waited in vain: the next ones do not */
};

/*
 *   DOWN -> CONNECTING -> GREETING -> REPLY <-> REPLY_DATA -> READY
 *                                       |                       ^
 *                                       '------> EXPORT --------'   a server without NBD_OPT_GO
 *
 * and from each back to DOWN when something is wrong or takes too long.
 */
enum link_state { LINK_DOWN = 0, LINK_CONNECTING, LINK_GREETING, LINK_REPLY, LINK_REPLY_DATA, LINK_EXPORT, LINK_READY };

/* One connection. */
struct link {
	int fd;	   /* -1: none */
	int epoll; /* watches fd: one descriptor to wait on, whatever becomes of the connection; -1: nobody watches */
	uint32_t events;      /* what it watches for */
	uint32_t state;	      /* enum link_state */
	uint32_t flags;	      /* the export's transmission flags */
	uint32_t reply_type;  /* REPLY_DATA: of which option reply */
	uint32_t skip;	      /* REPLY_DATA: bytes of it beyond those that are kept */
	uint32_t reply_count; /* option replies so far */
	uint32_t has_export;  /* INFO_EXPORT has come */
	uint32_t no_zeroes;
	uint64_t since; /* when it was dialled, nanoseconds */
	uint32_t need, filled; /* of bytes[] */
	uint8_t bytes[160];
};

static inline uint16_t get16(const uint8_t *bytes)
{
	uint16_t value;

	memcpy(&value, bytes, sizeof(value));
	return be16toh(value);
}

static inline uint32_t get32(const uint8_t *bytes)
{
	uint32_t value;

	memcpy(&value, bytes, sizeof(value));
	return be32toh(value);
}

static inline uint64_t get64(const uint8_t *bytes)
{
	uint64_t value;

	memcpy(&value, bytes, sizeof(value));
	return be64toh(value);
}

static inline void put16(uint8_t *bytes, uint16_t value)
{
	value = htobe16(value);
	memcpy(bytes, &value, sizeof(value));
}

static inline void put32(uint8_t *bytes, uint32_t value)
{
	value = htobe32(value);
	memcpy(bytes, &value, sizeof(value));
}

static inline void put64(uint8_t *bytes, uint64_t value)
{
	value = htobe64(value);
	memcpy(bytes, &value, sizeof(value));
}

/* -- store_nbd_dial.c ------------------------------------------------------------------------------------------------- */

/* Begins to connect, without waiting: 0, or -errno and the link is DOWN as before. */
int link_dial(const struct nbd *nbd, struct link *link);

/*
 * Goes as far as it can without waiting: 1 when READY, 0 when the peer has to say something first, or -errno, and the
 * caller hangs up. -ENOENT is an export that is not there, -ENOSPC one that is too small, -EROFS one that cannot be
 * written, -EACCES one that we may not have, -EPROTO a peer that does not speak NBD, -ETIMEDOUT one that is too slow.
 */
int link_step(const struct nbd *nbd, struct link *link);

/* The same, waiting up to the time-out. */
int link_wait(const struct nbd *nbd, struct link *link);

/* Closes; afterwards DOWN. */
void link_hang_up(struct link *link);

/* What poll(2) on link->epoll is to report: EPOLLIN, EPOLLOUT. */
void link_watch(struct link *link, uint32_t events);

/* -- requests --------------------------------------------------------------------------------------------------------- */

#define NBD_REQUEST_MAGIC 0x25609513u
#define NBD_HEADER_SIZE 28u
#define NBD_ANSWER_SIZE 16u

/*
 * The most requests of a context from queue() to the reap() that gives them back: as many as its operations have
 * pages, for a store above may ask for each of them alone.
 */
#define REQUESTS (OPERATIONS * BATCH_MAX)
/* Requests in one sendmsg() and replies in one recvmsg(). */
#define GATHER 16u
#define STAGING_SIZE (256u << 10)
#define NBD_BACKOFF_MIN 10000000ull

enum { COMMAND_READ = 0, COMMAND_WRITE = 1, COMMAND_DISCONNECT = 2, COMMAND_TRIM = 4 };
enum request_state { REQUEST_FREE = 0, REQUEST_UNSENT, REQUEST_SENT, REQUEST_DONE };

struct request {
	uint64_t offset;
	uint8_t *memory;
	uint64_t started;
	uint32_t size;
	uint32_t id;	/* the caller's */
	uint32_t stamp; /* changes with each use: an old cookie is none of ours */
	int32_t result;
	uint16_t next, previous;
	uint8_t command, state;
};

/* Ends of the lists are entries of the table too, which spares every case at the ends. */
#define ORDER REQUESTS	     /* unfinished requests as they were queued: first the sent ones */
#define DONE (REQUESTS + 1u) /* finished ones that nobody has taken */
#define IDLE (REQUESTS + 2u) /* free ones that were in use before */
#define ENTRIES (REQUESTS + 3u)
#define NONE UINT16_MAX
_Static_assert(ENTRIES < NONE, "indexes have 16 bits");

/* What a context has here. Several hundred KiB of addresses, of which few are ever touched. */
struct port {
	struct link link;
	uint64_t backoff, retry_at;
	uint32_t used;	     /* entries from here on were never in use */
	uint16_t unsent;     /* the first of `order` that is not completely sent; ORDER: none */
	uint16_t current;    /* the read whose data is next on the connection; NONE: a header is */
	uint32_t sent;	     /* bytes of `unsent` that are gone, with its header */
	uint32_t received;   /* bytes of `current`, or of `answer` */
	uint8_t answer[NBD_ANSWER_SIZE];
	uint8_t headers[GATHER][NBD_HEADER_SIZE];
	uint8_t answers[GATHER][NBD_ANSWER_SIZE];
	uint16_t guesses[GATHER]; /* whose reply answers[i] should be */
	struct iovec vectors[2 * GATHER + 1];
	struct request requests[ENTRIES];
	uint8_t staging[STAGING_SIZE];
};

static inline int list_is_empty(const struct port *port, uint32_t list)
{
	return port->requests[list].next == list;
}

/* -- store_nbd_wire.c: one context's requests and its connection; nothing of it waits ------------------------------- */

/* For a port whose memory is all zeros but its link. */
void port_init(struct port *port);

/* Appends to `order` what has id, command, memory, size and offset; one that cannot be is DONE at once. */
void port_queue(const struct nbd *nbd, struct port *port, const struct request *wanted);
void port_finish(struct port *port, uint16_t at, int32_t result);
void port_fail_all(struct port *port, int error);

/* Hands over what is DONE; returns how many. */
uint32_t port_take_done(struct port *port, struct completion *out, uint32_t limit);

/* Goes on with opening the connection: whether it is there. */
int port_connected(const struct nbd *nbd, struct port *port);

/* Gives the connection up and says when it may be tried again. */
void port_hang_up(const struct nbd *nbd, struct port *port, int error);

/* A server that does not take TRIM has nothing to do. Known only once there is a connection. */
void port_skip_discards(struct port *port);

void port_send(const struct nbd *nbd, struct port *port);
void port_receive(const struct nbd *nbd, struct port *port);

/* Fails what has waited for too long, and with it the connection that kept it waiting. */
void port_expire(const struct nbd *nbd, struct port *port);

#endif
