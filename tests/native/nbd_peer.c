/* nbd_peer.c - see the header. Written from the protocol's document alone; shares nothing with the client under test. */
#include "nbd_peer.h"

#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HELD_MAX 64u

struct held {
	uint64_t cookie, offset;
	uint32_t length;
	uint16_t type;
};

static uint64_t draw(struct peer *peer)
{
	uint64_t x = peer->seed += 0x9e3779b97f4a7c15ull;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

static void nap(long millis)
{
	struct timespec time = { millis / 1000, millis % 1000 * 1000000 };

	nanosleep(&time, NULL);
}

/* All of it, or 0: the client went away. */
static int take(int fd, void *bytes, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t got = recv(fd, (uint8_t *)bytes + done, size - done, 0);

		if (got <= 0)
			return 0;
		done += (size_t)got;
	}
	return 1;
}

static int give(int fd, const void *bytes, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t sent = send(fd, (const uint8_t *)bytes + done, size - done, MSG_NOSIGNAL);

		if (sent <= 0)
			return 0;
		done += (size_t)sent;
	}
	return 1;
}

static int give_slowly(struct peer *peer, int fd, const void *bytes, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		if (atomic_load(&peer->closing) || !give(fd, (const uint8_t *)bytes + i, 1))
			return 0;
		nap(20);
	}
	return 1;
}

static size_t put(uint8_t *at, uint64_t value, size_t size)
{
	for (size_t i = 0; i < size; i++)
		at[i] = (uint8_t)(value >> 8 * (size - 1 - i));
	return size;
}

static uint64_t get(const uint8_t *at, size_t size)
{
	uint64_t value = 0;

	for (size_t i = 0; i < size; i++)
		value = value << 8 | at[i];
	return value;
}

/* -- handshake -------------------------------------------------------------------------------------------- */

static int reply(int fd, uint64_t magic, uint32_t option, uint32_t type, const void *data, uint32_t size)
{
	uint8_t head[20];

	put(head, magic, 8);
	put(head + 8, option, 4);
	put(head + 12, type, 4);
	put(head + 16, size, 4);
	return give(fd, head, sizeof(head)) && give(fd, data, size);
}

#define REPLY_MAGIC 0x0003e889045565a9ull

/* Answers NBD_OPT_GO: whether transmission begins. */
static int answer_go(struct peer *peer, int fd, enum greeting greeting)
{
	uint8_t export_info[12], block_info[14], text[300] = { 0, 2 };
	uint64_t size = greeting == GREET_SMALL ? peer->size - 4096 : peer->size;

	put(export_info, 0, 2);
	put(export_info + 2, size, 8);
	put(export_info + 10, peer->flags | (greeting == GREET_READ_ONLY ? 2u : 0u), 2);
	put(block_info, 3, 2);
	put(block_info + 2, greeting == GREET_LARGE_BLOCKS ? 65536 : 1, 4);
	put(block_info + 6, 65536, 4);
	put(block_info + 10, 32u << 20, 4);
	switch (greeting) {
	case GREET_NEVER_ENDING:
		while (reply(fd, REPLY_MAGIC, 7, 3, export_info, 12))
			;
		return 0;
	case GREET_TRICKLE:
		reply(fd, REPLY_MAGIC, 7, 3, NULL, 0);
		return give_slowly(peer, fd, text, sizeof(text));
	case GREET_HUGE_REPLY:
		put(text, REPLY_MAGIC, 8);
		put(text + 8, 7, 4);
		put(text + 12, 3, 4);
		put(text + 16, UINT32_MAX, 4);
		return give(fd, text, 20) && take(fd, text, 1);
	case GREET_WRONG_REPLY_MAGIC:
		return reply(fd, REPLY_MAGIC + 1, 7, 3, export_info, 12) && take(fd, text, 1);
	case GREET_WRONG_OPTION:
		return reply(fd, REPLY_MAGIC, 6, 3, export_info, 12) && take(fd, text, 1);
	case GREET_SHORT_EXPORT:
		return reply(fd, REPLY_MAGIC, 7, 3, export_info, 11) && take(fd, text, 1);
	case GREET_ERROR:
		return reply(fd, REPLY_MAGIC, 7, 1u << 31 | peer->number, "no", 2) && take(fd, text, 1);
	case GREET_ACK_ONLY:
		return reply(fd, REPLY_MAGIC, 7, 1, NULL, 0) && take(fd, text, 1);
	case GREET_WORDY:
		if (!reply(fd, REPLY_MAGIC, 7, 3, text, sizeof(text)) || !reply(fd, REPLY_MAGIC, 7, 3, "\x12\x34", 2))
			return 0;
		break;
	default:
		break;
	}
	return reply(fd, REPLY_MAGIC, 7, 3, block_info, 14) && reply(fd, REPLY_MAGIC, 7, 3, export_info, 12) &&
	       reply(fd, REPLY_MAGIC, 7, 1, NULL, 0);
}

/* Whether transmission begins. */
static int greet(struct peer *peer, int fd)
{
	enum greeting greeting = atomic_load(&peer->well) ? GREET_WELL : peer->greeting;
	uint8_t bytes[1024];
	int zeroes = greeting == GREET_BY_NAME_ZEROES;

	if (greeting == GREET_NOT_AT_ALL)
		return take(fd, bytes, 1) && 0;
	if (greeting == GREET_AND_HANG_UP)
		return 0;
	put(bytes, 0x4e42444d41474943ull, 8);
	put(bytes + 8, greeting == GREET_GARBAGE ? 0 : 0x49484156454f5054ull, 8);
	put(bytes + 16, greeting == GREET_OLDSTYLE ? 0 : zeroes ? 1 : 3, 2);
	if (greeting == GREET_BYTEWISE) {
		for (size_t i = 0; i < 18; i++) {
			if (!give(fd, bytes + i, 1))
				return 0;
			nap(1);
		}
	} else if (!give(fd, bytes, 18)) {
		return 0;
	}
	if (!take(fd, bytes, 4))
		return 0;
	CHECK_EQUAL(get(bytes, 4), zeroes ? 1 : 3);
	for (;;) {
		uint32_t option, size;

		if (!take(fd, bytes, 16))
			return 0;
		CHECK(get(bytes, 8) == 0x49484156454f5054ull);
		option = (uint32_t)get(bytes + 8, 4);
		size = (uint32_t)get(bytes + 12, 4);
		CHECK(size <= sizeof(bytes));
		if (!take(fd, bytes, size))
			return 0;
		if (option == 7) {
			uint32_t name_size = (uint32_t)get(bytes, 4);

			CHECK(name_size + 6 <= size && get(bytes + 4 + name_size, 2) * 2 + name_size + 6 == size);
			if (greeting >= GREET_BY_NAME && greeting <= GREET_BY_NAME_UNKNOWN) {
				if (!reply(fd, REPLY_MAGIC, 7, 1u << 31 | 1, "what?", 5))
					return 0;
				continue;
			}
			return answer_go(peer, fd, greeting);
		}
		CHECK_EQUAL(option, 1);
		if (greeting == GREET_BY_NAME_UNKNOWN)
			return 0;
		memset(bytes, 0, sizeof(bytes));
		put(bytes, peer->size, 8);
		put(bytes + 8, peer->flags, 2);
		return give(fd, bytes, zeroes ? 134 : 10);
	}
}

/* -- transmission ----------------------------------------------------------------------------------------- */

static void do_now(struct peer *peer, int fd, const struct held *held, int *alive)
{
	CHECK(held->offset <= peer->size && held->length <= peer->size - held->offset);
	if (held->type == 1) {
		*alive = take(fd, peer->memory + held->offset, held->length);
	} else if (held->type == 4) {
		memset(peer->memory + held->offset, 0, held->length);
		atomic_fetch_add(&peer->trimmed, 1);
	}
}

/* The answer as it should be. Returns its size; `bytes` has room for any. */
static size_t put_answer(struct peer *peer, uint8_t *bytes, uint64_t cookie, const struct held *held)
{
	put(bytes, 0x67446698, 4);
	put(bytes + 4, 0, 4);
	put(bytes + 8, cookie, 8);
	if (held->type != 0)
		return 16;
	memcpy(bytes + 16, peer->memory + held->offset, held->length);
	return 16 + held->length;
}

/* Sends the answer, with what is wrong with it: whether the connection goes on. */
static int answer(struct peer *peer, int fd, enum service service, const struct held *held)
{
	static _Thread_local uint8_t bytes[16 + 64 * 4096];
	static _Thread_local uint64_t first_cookie;
	uint32_t nth = atomic_fetch_add(&peer->answered, 1);
	uint64_t cookie = held->cookie;
	size_t size;

	if (nth == 0)
		first_cookie = cookie;
	if (service == SERVE_BAD_COOKIE)
		cookie ^= 1ull << draw(peer) % 64;
	if (service == SERVE_OLD_COOKIE && nth == 1)
		cookie = first_cookie;
	size = put_answer(peer, bytes, cookie, held);
	switch (service) {
	case SERVE_BAD_MAGIC:
		bytes[draw(peer) % 4] ^= 0x10;
		break;
	case SERVE_ERROR:
		put(bytes + 4, peer->number, 4);
		size = 16;
		break;
	case SERVE_TRICKLE:
		return give_slowly(peer, fd, bytes, size);
	case SERVE_HALF_HEADER:
		give(fd, bytes, 9);
		return 0;
	case SERVE_HALF_DATA:
		give(fd, bytes, 16 + (size - 16) / 2);
		return 0;
	case SERVE_TWICE:
		return give(fd, bytes, size) && give(fd, bytes, size);
	case SERVE_AND_HANG_UP:
		return nth % peer->number != peer->number - 1 && give(fd, bytes, size);
	case SERVE_SHUFFLED:
		for (size_t done = 0; done < size;) {
			size_t part = draw(peer) % 4 == 0 ? 1 + draw(peer) % 40 : 1 + draw(peer) % 9000;

			part = part < size - done ? part : size - done;
			if (!give(fd, bytes + done, part))
				return 0;
			done += part;
		}
		return 1;
	default:
		break;
	}
	return give(fd, bytes, size);
}

static int is_readable(int fd)
{
	struct pollfd source = { .fd = fd, .events = POLLIN };

	return poll(&source, 1, 0) > 0;
}

static void transmit(struct peer *peer, int fd)
{
	struct held held[HELD_MAX];
	uint32_t held_count = 0;
	int alive = 1;

	if (!atomic_load(&peer->well) && peer->service == SERVE_UNASKED) {
		uint8_t bytes[16] = { 0x67, 0x44, 0x66, 0x98 };

		give(fd, bytes, sizeof(bytes));
	}
	while (alive) {
		enum service service = atomic_load(&peer->well) ? SERVE_WELL : peer->service;

		if (service == SERVE_SLOWLY) {
			nap(300);
			peer->service = SERVE_WELL;
		}
		/* Shuffled: as many as there are, and then some of them are answered in any order. */
		if (held_count == 0 || (service == SERVE_SHUFFLED && held_count < HELD_MAX && is_readable(fd))) {
			struct held *next = &held[held_count];
			uint8_t head[28];

			if (!take(fd, head, sizeof(head)))
				return;
			CHECK_EQUAL(get(head, 4), 0x25609513);
			*next = (struct held){
				.type = (uint16_t)get(head + 6, 2),
				.cookie = get(head + 8, 8),
				.offset = get(head + 16, 8),
				.length = (uint32_t)get(head + 24, 4),
			};
			if (next->type == 2)
				return;
			do_now(peer, fd, next, &alive);
			held_count++;
			if (service == SERVE_SILENT)
				held_count = 0;
			continue;
		}
		if (held_count > 0) {
			uint32_t at = service == SERVE_SHUFFLED ? (uint32_t)(draw(peer) % held_count) : 0;

			alive = answer(peer, fd, service, &held[at]);
			held[at] = held[--held_count];
		}
	}
}

static void *run(void *argument)
{
	struct peer *peer = argument;

	while (!atomic_load(&peer->closing)) {
		int one = 1, fd = accept(peer->listener, NULL, NULL);

		if (fd < 0)
			continue;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		atomic_store(&peer->connection, fd);
		if (greet(peer, fd)) {
			atomic_fetch_add(&peer->entered, 1);
			transmit(peer, fd);
		}
		atomic_store(&peer->connection, -1);
		close(fd);
	}
	return NULL;
}

void peer_open(struct peer *peer)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htobe32(INADDR_LOOPBACK) };
	socklen_t size = sizeof(address);

	peer->memory = calloc(1, peer->size);
	peer->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(peer->memory != NULL && peer->listener >= 0);
	if (peer->receive_buffer > 0)
		CHECK_EQUAL(setsockopt(peer->listener, SOL_SOCKET, SO_RCVBUF, &peer->receive_buffer, sizeof(int)), 0);
	CHECK_EQUAL(bind(peer->listener, (struct sockaddr *)&address, sizeof(address)), 0);
	CHECK_EQUAL(listen(peer->listener, 64), 0);
	CHECK_EQUAL(getsockname(peer->listener, (struct sockaddr *)&address, &size), 0);
	peer->port = be16toh(address.sin_port);
	atomic_store(&peer->connection, -1);
	CHECK_EQUAL(pthread_create(&peer->thread, NULL, run, peer), 0);
}

void peer_cut(struct peer *peer)
{
	int fd = atomic_load(&peer->connection);

	if (fd >= 0)
		shutdown(fd, SHUT_RDWR);
}

void peer_close(struct peer *peer)
{
	atomic_store(&peer->closing, 1);
	shutdown(peer->listener, SHUT_RDWR);
	peer_cut(peer);
	pthread_join(peer->thread, NULL);
	close(peer->listener);
	free(peer->memory);
}
