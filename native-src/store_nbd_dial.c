/*
 * store_nbd_dial.c - opens a connection to an NBD server: connect, fixed newstyle handshake, NBD_OPT_GO.
 *
 * A state machine that never waits, because a fault may be what drives it; link_wait() is for those who have time.
 * It reads exactly the bytes that the next step needs, so nothing is left over when transmission begins. What the
 * server may say is bounded: 64 option replies of 64 KiB, of which a few bytes are kept, within one time-out.
 */
#include "store_nbd.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>

#define GREETING_MAGIC 0x4e42444d41474943ull /* NBDMAGIC */
#define OPTION_MAGIC 0x49484156454f5054ull   /* IHAVEOPT */
#define REPLY_MAGIC 0x0003e889045565a9ull
#define FIXED_NEWSTYLE 1u
#define NO_ZEROES 2u

enum { OPTION_EXPORT_NAME = 1, OPTION_GO = 7 };
enum { INFO_EXPORT = 0, INFO_BLOCK_SIZE = 3 };
#define REPLY_ACK 1u
#define REPLY_INFO 3u
#define REPLY_ERROR (1u << 31)
#define REPLY_UNSUPPORTED (REPLY_ERROR | 1u)
#define REPLY_POLICY (REPLY_ERROR | 2u)
#define REPLY_TLS_REQUIRED (REPLY_ERROR | 5u)
#define REPLY_UNKNOWN (REPLY_ERROR | 6u)
#define REPLY_SHUTDOWN (REPLY_ERROR | 7u)

#define GREETING_SIZE 18u
#define OPTION_SIZE 16u
#define REPLY_SIZE 20u
#define REPLY_DATA_MAX 65536u
#define REPLY_KEPT_MAX 16u
#define REPLY_COUNT_MAX 64u
#define EXPORT_SIZE 10u
#define EXPORT_ZEROES 124u
/* The most bytes in one request of a region that was not made longer by a store above. */
#define REQUEST_MAX (BUFFER_PAGES * DROVER_PAGE_SIZE)

_Static_assert(EXPORT_SIZE + EXPORT_ZEROES <= sizeof(((struct link *)0)->bytes), "the longest message that is kept");

void link_watch(struct link *link, uint32_t events)
{
	struct epoll_event event = { .events = events };

	if (link->epoll < 0 || link->events == events)
		return;
	if (epoll_ctl(link->epoll, link->events == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, link->fd, &event) == 0)
		link->events = events;
}

void link_hang_up(struct link *link)
{
	if (link->fd >= 0)
		close(link->fd); /* and it leaves the epoll by itself */
	link->fd = -1;
	link->events = 0;
	link->state = LINK_DOWN;
}

static void expect(struct link *link, uint32_t state, uint32_t need)
{
	link->state = state;
	link->need = need;
	link->filled = 0;
}

int link_dial(const struct nbd *nbd, struct link *link)
{
	static const struct {
		int level, name, value;
	} options[] = {
		{ IPPROTO_TCP, TCP_NODELAY, 1 },
		/* A peer that vanished without a word is noticed while nothing is in flight, too. */
		{ SOL_SOCKET, SO_KEEPALIVE, 1 },
		{ IPPROTO_TCP, TCP_KEEPIDLE, 5 },
		{ IPPROTO_TCP, TCP_KEEPINTVL, 2 },
		{ IPPROTO_TCP, TCP_KEEPCNT, 3 },
	};
	int rc;

	link->fd = socket(nbd->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (link->fd < 0)
		return -errno;
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		if (setsockopt(link->fd, options[i].level, options[i].name, &options[i].value, sizeof(int)) < 0)
			goto failed;
	if (connect(link->fd, (const struct sockaddr *)&nbd->address, nbd->address_size) < 0 && errno != EINPROGRESS)
		goto failed;
	link->since = now();
	link->flags = link->reply_count = link->has_export = link->no_zeroes = 0;
	link->state = LINK_CONNECTING;
	link->events = 0;
	link_watch(link, EPOLLOUT);
	return 0;
failed:
	rc = -errno;
	link_hang_up(link);
	return rc;
}

/* Everything that is sent here fits into the buffer of a socket that was just opened. */
static int say(struct link *link, const uint8_t *bytes, size_t size)
{
	ssize_t sent = send(link->fd, bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (sent < 0)
		return errno == EPIPE ? -ECONNRESET : -errno;
	return (size_t)sent == size ? 0 : -EIO;
}

static size_t put_option(uint8_t *bytes, uint32_t option, uint32_t size)
{
	put64(bytes, OPTION_MAGIC);
	put32(bytes + 8, option);
	put32(bytes + 12, size);
	return OPTION_SIZE;
}

/* The answer to a greeting, and the question for the export. */
static int on_greeting(const struct nbd *nbd, struct link *link)
{
	uint8_t bytes[4 + OPTION_SIZE + 4 + NBD_NAME_MAX + 4];
	uint32_t offered = get16(link->bytes + 16);
	size_t at = 4;

	if (get64(link->bytes) != GREETING_MAGIC || get64(link->bytes + 8) != OPTION_MAGIC || (offered & FIXED_NEWSTYLE) == 0)
		return -EPROTO;
	link->no_zeroes = (offered & NO_ZEROES) != 0;
	put32(bytes, FIXED_NEWSTYLE | (link->no_zeroes ? NO_ZEROES : 0));
	at += put_option(bytes + at, OPTION_GO, 4 + nbd->name_size + 4);
	put32(bytes + at, nbd->name_size);
	memcpy(bytes + at + 4, nbd->name, nbd->name_size);
	at += 4 + nbd->name_size;
	put16(bytes + at, 1);
	put16(bytes + at + 2, INFO_BLOCK_SIZE);
	expect(link, LINK_REPLY, REPLY_SIZE);
	return say(link, bytes, at + 4);
}

static int ask_by_name(const struct nbd *nbd, struct link *link)
{
	uint8_t bytes[OPTION_SIZE + NBD_NAME_MAX];
	size_t at = put_option(bytes, OPTION_EXPORT_NAME, nbd->name_size);

	memcpy(bytes + at, nbd->name, nbd->name_size);
	expect(link, LINK_EXPORT, EXPORT_SIZE + (link->no_zeroes ? 0 : EXPORT_ZEROES));
	return say(link, bytes, at + nbd->name_size);
}

static int on_export(const struct nbd *nbd, struct link *link, uint64_t size, uint32_t flags)
{
	if ((flags & NBD_FLAG_READ_ONLY) != 0)
		return -EROFS;
	if (size < nbd->size)
		return -ENOSPC;
	link->flags = flags;
	link->has_export = 1;
	return 0;
}

static int on_reply(struct link *link)
{
	uint32_t size = get32(link->bytes + 16), kept = size < REPLY_KEPT_MAX ? size : REPLY_KEPT_MAX;

	link->reply_type = get32(link->bytes + 12);
	if (get64(link->bytes) != REPLY_MAGIC || get32(link->bytes + 8) != OPTION_GO || size > REPLY_DATA_MAX ||
	    ++link->reply_count > REPLY_COUNT_MAX)
		return -EPROTO;
	expect(link, LINK_REPLY_DATA, kept);
	link->skip = size - kept;
	return 0;
}

static int on_info(const struct nbd *nbd, struct link *link)
{
	uint32_t size = link->need + link->skip;

	if (size < 2)
		return -EPROTO;
	switch (get16(link->bytes)) {
	case INFO_EXPORT:
		return size == 12 ? on_export(nbd, link, get64(link->bytes + 2), get16(link->bytes + 10)) : -EPROTO;
	case INFO_BLOCK_SIZE:
		if (size != 14)
			return -EPROTO;
		return get32(link->bytes + 2) > DROVER_PAGE_SIZE || get32(link->bytes + 10) < REQUEST_MAX ? -EINVAL : 0;
	default:
		return 0;
	}
}

static int on_reply_data(const struct nbd *nbd, struct link *link)
{
	int rc;

	switch (link->reply_type) {
	case REPLY_ACK:
		if (!link->has_export)
			return -EPROTO;
		link->state = LINK_READY;
		return 0;
	case REPLY_INFO:
		rc = on_info(nbd, link);
		expect(link, LINK_REPLY, REPLY_SIZE);
		return rc;
	case REPLY_UNSUPPORTED:
		return ask_by_name(nbd, link);
	case REPLY_UNKNOWN:
		return -ENOENT;
	case REPLY_POLICY:
	case REPLY_TLS_REQUIRED:
		return -EACCES;
	case REPLY_SHUTDOWN:
		return -ESHUTDOWN;
	default:
		return -EPROTO;
	}
}

/* What the bytes of this state mean. */
static int on_bytes(const struct nbd *nbd, struct link *link)
{
	int rc;

	switch (link->state) {
	case LINK_GREETING:
		return on_greeting(nbd, link);
	case LINK_REPLY:
		return on_reply(link);
	case LINK_REPLY_DATA:
		return on_reply_data(nbd, link);
	default:
		rc = on_export(nbd, link, get64(link->bytes), get16(link->bytes + 8));
		link->state = LINK_READY;
		return rc;
	}
}

/* 1 when connected, 0 not yet. */
static int is_connected(const struct link *link)
{
	struct pollfd source = { .fd = link->fd, .events = POLLOUT };
	int error = 0;
	socklen_t size = sizeof(error);

	if (poll(&source, 1, 0) <= 0)
		return 0;
	if (getsockopt(link->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
		return -errno;
	return error == 0 ? 1 : -error;
}

/* Takes bytes until `need` are there, and after the kept ones of an option reply those that nobody wants: 1, 0, -errno. */
static int fill(struct link *link)
{
	uint8_t waste[256];

	for (;;) {
		uint32_t wanted = link->need - link->filled;
		int skips = link->state == LINK_REPLY_DATA && wanted == 0 && link->skip > 0;
		ssize_t got;

		if (wanted == 0 && !skips)
			return 1;
		if (skips)
			wanted = link->skip < sizeof(waste) ? link->skip : (uint32_t)sizeof(waste);
		got = recv(link->fd, skips ? waste : link->bytes + link->filled, wanted, MSG_DONTWAIT);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
		if (got == 0) /* the only way to say that there is no such export, before NBD_OPT_GO */
			return link->state == LINK_EXPORT && link->filled == 0 ? -ENOENT : -ECONNRESET;
		if (skips)
			link->skip -= (uint32_t)got;
		else
			link->filled += (uint32_t)got;
	}
}

int link_step(const struct nbd *nbd, struct link *link)
{
	int rc;

	if (link->state == LINK_CONNECTING) {
		rc = is_connected(link);
		if (rc > 0) {
			expect(link, LINK_GREETING, GREETING_SIZE);
			link_watch(link, EPOLLIN);
		} else if (rc < 0) {
			return rc;
		}
	}
	while (link->state > LINK_CONNECTING && link->state < LINK_READY) {
		rc = fill(link);
		if (rc == 0)
			break;
		if (rc > 0)
			rc = on_bytes(nbd, link);
		if (rc < 0)
			return rc;
	}
	if (link->state == LINK_READY)
		return 1;
	return now() - link->since > nbd->timeout_nanos ? -ETIMEDOUT : 0;
}

int link_wait(const struct nbd *nbd, struct link *link)
{
	for (;;) {
		struct pollfd source = { .fd = link->fd };
		int rc = link_step(nbd, link);
		uint64_t passed;

		if (rc != 0)
			return rc;
		source.events = link->state == LINK_CONNECTING ? POLLOUT : POLLIN;
		passed = now() - link->since;
		if (passed < nbd->timeout_nanos) {
			uint64_t left = nbd->timeout_nanos - passed;
			struct timespec time = { (time_t)(left / 1000000000u), (long)(left % 1000000000u) };

			ppoll(&source, 1, &time, NULL);
		}
	}
}
