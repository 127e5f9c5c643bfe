/*
 * fuse_test.c - native-src/fuse.c under sanitizers: options, replies that cannot be, time-outs, and many threads that
 * use the file while others answer. Its own program: fuse_test DIRECTORY; prints "fuse: ok", or why it is skipped.
 */
#define _GNU_SOURCE
#include "../../native-src/drover.h"
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE (8u << 20)
#define CLIENTS 4u
#define SERVERS 2u
#define ROUNDS 300u

static char target[4096];
static uint8_t *disk; /* what is behind the file; each client has its own stripe */
static pthread_mutex_t disk_lock = PTHREAD_MUTEX_INITIALIZER; /* guards its octets; the kernel's order is not seen here */
static uint32_t slow; /* every so manieth request is answered after the time-out */

static const struct drover_fuse_options standard = {
	.size = SIZE,
	.mode = 0600,
	.timeout_ms = 10000,
	.slots = 8,
};

static struct drover_fuse *mount_it(const struct drover_fuse_options *options)
{
	struct drover_fuse *fuse = NULL;
	int rc = drover_fuse_open(target, "fuse_test", options, &fuse);

	if (rc < 0) {
		fprintf(stderr, "mount: %s\n", strerror(-rc));
		exit(1);
	}
	return fuse;
}

/* -- answering ---------------------------------------------------------------------------------------------- */

struct server {
	struct drover_fuse *fuse;
	pthread_t thread;
	unsigned int seed;
};

static uint8_t *slot_of(struct drover_fuse *fuse, uint32_t slot)
{
	return (uint8_t *)(uintptr_t)drover_fuse_room(fuse) + (size_t)slot * DROVER_FUSE_SLOT_SIZE;
}

static void answer(struct server *server, const struct drover_fuse_request *request)
{
	struct drover_fuse *fuse = server->fuse;
	uint8_t *room = slot_of(fuse, request->slot);
	uint32_t size = 0;
	int late = slow != 0 && (uint32_t)rand_r(&server->seed) % slow == 0, rc;

	CHECK(request->offset <= SIZE && request->length <= SIZE - request->offset);
	CHECK(request->op != DROVER_FUSE_WRITE || request->length <= DROVER_FUSE_DATA_MAX);
	if (late)
		usleep(400000);
	pthread_mutex_lock(&disk_lock);
	if (request->op == DROVER_FUSE_READ) {
		size = (uint32_t)request->length;
		memcpy(room, disk + request->offset, size);
	} else if (request->op == DROVER_FUSE_WRITE && !late) {
		memcpy(disk + request->offset, room, request->length);
	} else if (request->op == DROVER_FUSE_ZERO || request->op == DROVER_FUSE_PUNCH) {
		memset(disk + request->offset, 0, request->length);
	}
	pthread_mutex_unlock(&disk_lock);
	rc = drover_fuse_reply(fuse, request->slot, 0, NULL, size);
	/* Others of a batch wait for the late one. */
	CHECK(rc == 0 || (rc == -ETIMEDOUT && slow != 0));
}

static void *serve(void *context)
{
	struct server *server = context;
	struct drover_fuse_request requests[4];

	for (;;) {
		int count = drover_fuse_wait(server->fuse, requests, 1 + (uint32_t)rand_r(&server->seed) % 4, 20, 100);

		if (count == -ENODEV)
			return NULL;
		CHECK(count >= 0);
		for (int i = 0; i < count; i++)
			answer(server, &requests[i]);
	}
}

static void start(struct server *servers, struct drover_fuse *fuse)
{
	for (uint32_t i = 0; i < SERVERS; i++) {
		servers[i] = (struct server){ .fuse = fuse, .seed = i + 1 };
		CHECK(pthread_create(&servers[i].thread, NULL, serve, &servers[i]) == 0);
	}
}

static void stop(struct server *servers, struct drover_fuse *fuse)
{
	CHECK(drover_unmount(target, 0) == 0);
	for (uint32_t i = 0; i < SERVERS; i++)
		CHECK(pthread_join(servers[i].thread, NULL) == 0);
	CHECK(drover_fuse_close(fuse) == 0);
}

/* -- using -------------------------------------------------------------------------------------------------- */

/*
 * Programs that use the file are processes of their own: when this one ends, by a failed check or a sanitizer, the kernel
 * lets them go. A thread of the process that serves would wait for an answer that nobody can give any more.
 */
static pid_t run_apart(int (*work)(uint32_t), uint32_t argument)
{
	pid_t pid = fork();

	CHECK(pid >= 0);
	if (pid == 0)
		_exit(work(argument));
	return pid;
}

static int result_of(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		CHECK(errno == EINTR);
	CHECK(WIFEXITED(status));
	return WEXITSTATUS(status);
}

/* What a client ends with when it has read something else than was there. */
#define WRONG 255

/* Writes and reads its own stripe, and knows what must be there. */
static int use(uint32_t own)
{
	unsigned int seed = own + 100;
	uint32_t errors = 0;
	const size_t stripe = SIZE / CLIENTS;
	uint8_t *model = calloc(1, stripe), *buffer = NULL;
	int fd = open(target, O_RDWR | O_CLOEXEC | (own % 2 == 1 ? O_DIRECT : 0));
	const off_t base = (off_t)(own * stripe);

	CHECK(fd >= 0 && model != NULL && posix_memalign((void **)&buffer, 4096, 256 << 10) == 0);
	for (uint32_t round = 0; round < ROUNDS; round++) {
		size_t length = 4096u * (1 + (size_t)rand_r(&seed) % 60);
		size_t offset = 4096u * ((size_t)rand_r(&seed) % ((stripe - length) / 4096));
		ssize_t rc;

		switch (rand_r(&seed) % 8) {
		case 0:
			errors += fsync(fd) < 0;
			break;
		case 1:
			rc = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, base + (off_t)offset, (off_t)length);
			if (rc == 0)
				memset(model + offset, 0, length);
			else
				errors++;
			break;
		case 2:
		case 3:
		case 4:
			memset(buffer, rand_r(&seed), length);
			rc = pwrite(fd, buffer, length, base + (off_t)offset);
			if (rc > 0)
				memcpy(model + offset, buffer, (size_t)rc);
			errors += rc != (ssize_t)length;
			break;
		default:
			rc = pread(fd, buffer, length, base + (off_t)offset);
			if (rc == (ssize_t)length && slow == 0 && memcmp(buffer, model + offset, length) != 0)
				return WRONG;
			errors += rc != (ssize_t)length;
		}
	}
	close(fd);
	free(model);
	free(buffer);
	return errors < WRONG - 1 ? (int)errors : WRONG - 1;
}

static int use_by_all(void)
{
	pid_t clients[CLIENTS];
	int errors = 0;

	pthread_mutex_lock(&disk_lock);
	memset(disk, 0, SIZE);
	pthread_mutex_unlock(&disk_lock);
	for (uint32_t i = 0; i < CLIENTS; i++)
		clients[i] = run_apart(use, i);
	for (uint32_t i = 0; i < CLIENTS; i++) {
		int found = result_of(clients[i]);

		CHECK(found != WRONG);
		errors += found;
	}
	return errors;
}

/* -- suites ------------------------------------------------------------------------------------------------- */

static void options_that_cannot_be(void)
{
	struct drover_fuse *fuse;
	const struct drover_fuse_options wrong[] = {
		{ .size = UINT64_MAX, .timeout_ms = 1, .slots = 1 },
		{ .size = 1, .timeout_ms = 1, .slots = 0 },
		{ .size = 1, .timeout_ms = 1, .slots = DROVER_FUSE_SLOTS_MAX + 1 },
		{ .size = 1, .timeout_ms = 0, .slots = 1 },
		{ .size = 1, .timeout_ms = DROVER_FUSE_TIMEOUT_MS_MAX + 1, .slots = 1 },
		{ .size = 1, .timeout_ms = 1, .slots = 1, .mode = 010000 },
		{ .size = 1, .timeout_ms = 1, .slots = 1, .flags = 16 },
	};

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		CHECK(drover_fuse_open(target, "x", &wrong[i], &fuse) == -EINVAL);
	CHECK(drover_fuse_open("relative", "x", &standard, &fuse) == -EINVAL);
	CHECK(drover_fuse_open("/nonexistent/x", "x", &standard, &fuse) == -ENOENT);
}

/* A program that reads one byte, for who answers by hand. */
static int read_byte(uint32_t offset)
{
	char byte;
	int fd = open(target, O_RDONLY | O_DIRECT | O_CLOEXEC);

	return pread(fd, &byte, 1, offset) == 1 ? 0 : errno;
}

static void replies_that_cannot_be(void)
{
	struct drover_fuse *fuse = mount_it(&standard);
	struct drover_fuse_request request;
	struct drover_fuse_stats stats;
	pid_t client;

	CHECK(drover_fuse_wait(fuse, &request, 1, 0, 0) == 0);
	CHECK(drover_fuse_wait(fuse, &request, 1, 5000, 10) == 0);
	for (uint32_t slot = 0; slot < standard.slots + 2; slot++)
		CHECK(drover_fuse_reply(fuse, slot, 0, NULL, 0) == -EINVAL);
	client = run_apart(read_byte, 0);
	while (drover_fuse_wait(fuse, &request, 1, 0, 1000) == 0)
		continue;
	CHECK(request.op == DROVER_FUSE_READ && request.offset == 0 && request.length == 1);
	CHECK(drover_fuse_reply(fuse, request.slot, 0, NULL, 2) == -EINVAL);
	CHECK(drover_fuse_reply(fuse, request.slot, 0, NULL, 0) == -EINVAL);
	CHECK(drover_fuse_reply(fuse, request.slot, -5, NULL, 1) == -EINVAL);
	CHECK(drover_fuse_reply(fuse, request.slot, 4096, NULL, 1) == -EINVAL);
	CHECK(drover_fuse_reply(fuse, request.slot, 0, "x", 1) == 0);
	CHECK(drover_fuse_reply(fuse, request.slot, 0, "x", 1) == -EINVAL);
	CHECK(result_of(client) == 0);
	CHECK(drover_fuse_stats(fuse, &stats) == 0 && stats.reads == 1 && stats.read_bytes == 1 && stats.pending == 0);
	CHECK(drover_unmount(target, 0) == 0);
	CHECK(drover_fuse_wait(fuse, &request, 1, 0, 5000) == -ENODEV);
	CHECK(drover_fuse_close(fuse) == 0);
}

/* Kept in reach: what is taken at the end is never given back. */
static struct drover_fuse *kept;

static void nobody_answers(void)
{
	struct drover_fuse_options options = standard;
	struct drover_fuse_request requests[4];
	struct drover_fuse_stats stats;
	pid_t clients[4];

	options.timeout_ms = 200;
	options.slots = 2;
	kept = mount_it(&options);
	for (uint32_t i = 0; i < 4; i++)
		clients[i] = run_apart(read_byte, i);
	while (drover_fuse_wait(kept, requests, 1, 0, 1000) == 0)
		continue;
	for (int i = 0; i < 4; i++)
		CHECK(result_of(clients[i]) == EIO);
	CHECK(drover_fuse_stats(kept, &stats) == 0 && stats.timeouts >= 4 && stats.pending == 0);
	/* The one that was taken still is; others are answered. */
	clients[0] = run_apart(read_byte, 0);
	while (drover_fuse_wait(kept, &requests[1], 1, 0, 1000) == 0)
		continue;
	CHECK(requests[1].slot != requests[0].slot);
	CHECK(drover_fuse_reply(kept, requests[1].slot, ENOSPC, NULL, 0) == 0);
	CHECK(result_of(clients[0]) == ENOSPC);
	CHECK(drover_unmount(target, 0) == 0);
	CHECK(drover_fuse_close(kept) == 1);
	slot_of(kept, requests[0].slot)[0] = 1;
	CHECK(drover_fuse_reply(kept, requests[0].slot, 0, NULL, 1) == -ETIMEDOUT);
}

int main(int argc, char **argv)
{
	struct server servers[SERVERS];
	struct drover_fuse_options impatient = standard;
	struct drover_fuse *fuse;
	struct drover_identity identity;
	int fd;

	if (argc != 2)
		return 2;
	fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fd < 0 || drover_identity(&identity) < 0 || identity.can_mount == 0) {
		printf("skipped: cannot mount by /dev/fuse\n");
		return 0;
	}
	close(fd);
	snprintf(target, sizeof(target), "%s/disk", argv[1]);
	fd = open(target, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	CHECK(fd >= 0);
	close(fd);
	disk = calloc(1, SIZE);
	CHECK(disk != NULL);

	options_that_cannot_be();
	replies_that_cannot_be();
	nobody_answers();

	fuse = mount_it(&standard);
	start(servers, fuse);
	CHECK(use_by_all() == 0);
	stop(servers, fuse);

	slow = 150;
	impatient.timeout_ms = 200;
	fuse = mount_it(&impatient);
	start(servers, fuse);
	CHECK(use_by_all() > 0);
	stop(servers, fuse);

	free(disk);
	printf("fuse: ok\n");
	return 0;
}
