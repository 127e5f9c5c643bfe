/*
 * store_file.c - the file that cold pages are in: O_DIRECT, page n at offset n * 4096, asked through one io_uring per context.
 *
 * The rings are spoken to by raw system calls and the shared memory alone: no liburing, nothing that allocates. The
 * context's buffer is registered where the kernel lets us (RLIMIT_MEMLOCK may not), which saves a page-table walk per
 * read. Where io_uring is missing or forbidden, requests are done on the spot by pread and pwrite: slower, the same
 * otherwise.
 */
#include "region.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>

#define PREWRITE_SIZE (1u << 20)

_Static_assert(sizeof(struct io_uring_sqe) == 64 && sizeof(struct io_uring_cqe) == 16, "as the kernel has them");

/* One io_uring, or the results of synchronous calls where there is none. */
struct ring {
	int fd; /* -1: none */
	int fixed_buffer;
	int fixed_file;
	uint32_t queued;
	void *rings;
	size_t rings_size;
	void *entries;
	size_t entries_size;
	_Atomic uint32_t *submit_tail, *complete_head, *complete_tail, *submit_flags;
	uint32_t *submit_array;
	uint32_t submit_mask, complete_mask;
	void *completions;
	struct completion done[OPERATIONS]; /* without a ring */
	uint32_t done_count;
};

static struct ring *ring_of(const struct store *store, const struct context *context)
{
	return context->ports[store->at];
}

/* -- the ring --------------------------------------------------------------------------------------------- */

static void file_detach(struct store *store, struct context *context)
{
	struct ring *ring = ring_of(store, context);

	if (ring == NULL)
		return;
	if (ring->fd >= 0) {
		munmap(ring->entries, ring->entries_size);
		munmap(ring->rings, ring->rings_size);
		close(ring->fd);
	}
	munmap(ring, sizeof(*ring));
	context->ports[store->at] = NULL;
}

static int file_attach(struct store *store, struct context *context)
{
	struct ring *ring = mmap(NULL, sizeof(*ring), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct io_uring_params params = { 0 };
	struct iovec buffer = { context->buffer, BUFFER_PAGES * PAGE };
	size_t submit_size, complete_size;
	int fd = store->fd;

	if (ring == MAP_FAILED)
		return -ENOMEM;
	context->ports[store->at] = ring;
	madvise(ring, sizeof(*ring), MADV_DONTFORK);
	ring->fd = -1;
	if (store->plain)
		return 0;
	ring->fd = (int)syscall(SYS_io_uring_setup, OPERATIONS, &params);
	if (ring->fd < 0) /* forbidden or too old: pread and pwrite */
		return errno == ENOMEM || errno == EMFILE || errno == ENFILE ? -errno : 0;
	submit_size = params.sq_off.array + params.sq_entries * sizeof(uint32_t);
	complete_size = params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe);
	ring->rings_size = submit_size > complete_size ? submit_size : complete_size;
	ring->entries_size = params.sq_entries * sizeof(struct io_uring_sqe);
	ring->rings = mmap(NULL, ring->rings_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd,
			   IORING_OFF_SQ_RING);
	if (ring->rings == MAP_FAILED || (params.features & IORING_FEAT_SINGLE_MMAP) == 0)
		goto no_rings;
	ring->entries = mmap(NULL, ring->entries_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring->fd,
			     IORING_OFF_SQES);
	if (ring->entries == MAP_FAILED)
		goto no_entries;
	madvise(ring->rings, ring->rings_size, MADV_DONTFORK);
	madvise(ring->entries, ring->entries_size, MADV_DONTFORK);
	ring->submit_tail = (void *)((uint8_t *)ring->rings + params.sq_off.tail);
	ring->submit_flags = (void *)((uint8_t *)ring->rings + params.sq_off.flags);
	ring->submit_array = (void *)((uint8_t *)ring->rings + params.sq_off.array);
	ring->submit_mask = params.sq_entries - 1;
	ring->complete_head = (void *)((uint8_t *)ring->rings + params.cq_off.head);
	ring->complete_tail = (void *)((uint8_t *)ring->rings + params.cq_off.tail);
	ring->complete_mask = params.cq_entries - 1;
	ring->completions = (uint8_t *)ring->rings + params.cq_off.cqes;
	ring->fixed_buffer = syscall(SYS_io_uring_register, ring->fd, IORING_REGISTER_BUFFERS, &buffer, 1) == 0;
	ring->fixed_file = syscall(SYS_io_uring_register, ring->fd, IORING_REGISTER_FILES, &fd, 1) == 0;
	return 0;
no_entries:
	munmap(ring->rings, ring->rings_size);
	ring->rings = MAP_FAILED;
no_rings:
	if (ring->rings != MAP_FAILED)
		munmap(ring->rings, ring->rings_size);
	close(ring->fd);
	ring->fd = -1;
	return 0;
}

/* Without a ring: the whole request now. */
static int32_t do_now(int fd, int write, void *memory, uint32_t size, uint64_t offset)
{
	uint32_t done = 0;

	while (done < size) {
		ssize_t got = write ? pwrite(fd, (uint8_t *)memory + done, size - done, (off_t)(offset + done)) :
				      pread(fd, (uint8_t *)memory + done, size - done, (off_t)(offset + done));

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		done += (uint32_t)got;
	}
	return (int32_t)done;
}

static void file_queue(struct store *store, struct context *context, uint32_t id, int write, void *memory, uint32_t size,
		       uint64_t offset, int in_buffer)
{
	struct ring *ring = ring_of(store, context);
	struct io_uring_sqe *entry;
	uint32_t tail, at;
	int fixed = in_buffer && ring->fixed_buffer;

	if (ring->fd < 0) {
		ring->done[ring->done_count++] =
			(struct completion){ .id = id, .result = do_now(store->fd, write, memory, size, offset) };
		return;
	}
	/* As many entries as a context has operations: there is always one free. */
	tail = atomic_load_explicit(ring->submit_tail, memory_order_relaxed);
	at = tail & ring->submit_mask;
	entry = (struct io_uring_sqe *)ring->entries + at;
	memset(entry, 0, sizeof(*entry));
	entry->opcode = (uint8_t)(write ? (fixed ? IORING_OP_WRITE_FIXED : IORING_OP_WRITE) :
					  (fixed ? IORING_OP_READ_FIXED : IORING_OP_READ));
	entry->fd = ring->fixed_file ? 0 : store->fd;
	entry->flags = ring->fixed_file ? IOSQE_FIXED_FILE : 0;
	entry->addr = (uintptr_t)memory;
	entry->len = size;
	entry->off = offset;
	entry->user_data = id;
	ring->submit_array[at] = at;
	atomic_store_explicit(ring->submit_tail, tail + 1, memory_order_release);
	ring->queued++;
}

static void file_submit(struct store *store, struct context *context)
{
	struct ring *ring = ring_of(store, context);

	/* EAGAIN and EBUSY mean that the kernel is short of something: the next reap tries again. */
	while (ring->queued > 0) {
		long taken = syscall(SYS_io_uring_enter, ring->fd, ring->queued, 0, 0, NULL, 0);

		if (taken > 0)
			ring->queued -= (uint32_t)taken;
		else if (taken == 0 || errno != EINTR)
			return;
	}
}

static uint32_t file_take(struct ring *ring, struct completion *out, uint32_t limit)
{
	uint32_t head = atomic_load_explicit(ring->complete_head, memory_order_relaxed);
	uint32_t tail = atomic_load_explicit(ring->complete_tail, memory_order_acquire);
	uint32_t taken = 0;

	while (head != tail && taken < limit) {
		const struct io_uring_cqe *entry = (const struct io_uring_cqe *)ring->completions + (head & ring->complete_mask);

		out[taken++] = (struct completion){ .id = (uint32_t)entry->user_data, .result = entry->res };
		head++;
	}
	atomic_store_explicit(ring->complete_head, head, memory_order_release);
	return taken;
}

static uint32_t file_reap(struct store *store, struct context *context, uint64_t nanos, struct completion *out,
			  uint32_t limit)
{
	struct ring *ring = ring_of(store, context);
	uint32_t taken;

	if (ring->fd < 0) {
		taken = ring->done_count < limit ? ring->done_count : limit;
		memcpy(out, ring->done, taken * sizeof(*out));
		memmove(ring->done, ring->done + taken, (ring->done_count - taken) * sizeof(*out));
		ring->done_count -= taken;
		return taken;
	}
	if (ring->queued > 0)
		file_submit(store, context);
	taken = file_take(ring, out, limit);
	if (taken == 0 && nanos > 0) {
		struct __kernel_timespec timeout = { (int64_t)(nanos / 1000000000u), (int64_t)(nanos % 1000000000u) };
		struct io_uring_getevents_arg argument = { .ts = (uintptr_t)&timeout };

		syscall(SYS_io_uring_enter, ring->fd, 0, 1, IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG, &argument,
			sizeof(argument));
		taken = file_take(ring, out, limit);
	}
	return taken;
}

static int file_wait_fd(struct store *store, struct context *context)
{
	return ring_of(store, context)->fd;
}

static void file_close(struct store *store)
{
	if (store->fd < 0)
		return;
	/* The rings hold the file too, and the kernel takes them down when it has time: the lock must not wait for that. */
	flock(store->fd, LOCK_UN);
	close(store->fd);
	store->fd = -1;
}

static const struct store_calls file_calls = {
	.attach = file_attach,
	.detach = file_detach,
	.queue = file_queue,
	.submit = file_submit,
	.reap = file_reap,
	.wait_fd = file_wait_fd,
	.close = file_close,
};

/* -- the file --------------------------------------------------------------------------------------------- */

/* Writes the whole file once, so that no later write has to allocate or to convert an extent. */
static int prewrite(int fd, uint64_t size)
{
	void *zeros = mmap(NULL, PREWRITE_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t done = 0;
	int rc = 0;

	if (zeros == MAP_FAILED)
		return -ENOMEM;
	while (done < size) {
		uint64_t part = size - done < PREWRITE_SIZE ? size - done : PREWRITE_SIZE;
		ssize_t got = pwrite(fd, zeros, part, (off_t)done);

		if (got <= 0) {
			rc = got < 0 ? -errno : -EIO;
			break;
		}
		done += (uint64_t)got;
	}
	munmap(zeros, PREWRITE_SIZE);
	return rc;
}

/* Takes the file's name away, if it still is this file's. */
static void remove_name(int fd, const char *path)
{
	struct stat open_file, named;

	if (fstat(fd, &open_file) == 0 && lstat(path, &named) == 0 && S_ISREG(named.st_mode) && open_file.st_dev == named.st_dev &&
	    open_file.st_ino == named.st_ino)
		unlink(path);
}

/* A file or a block device, in `*created` whether it is new; -errno. */
static int open_path(const char *path, int flags, int *created)
{
	struct stat stat;
	int fd;

	*created = 0;
	if (lstat(path, &stat) == 0 && S_ISDIR(stat.st_mode))
		return result(open(path, O_TMPFILE | flags, 0600));
	fd = open(path, O_CREAT | O_EXCL | flags, 0600);
	if (fd >= 0)
		*created = 1;
	else if (errno == EEXIST)
		fd = open(path, O_NOFOLLOW | flags);
	return result(fd);
}

/* That nothing of value is overwritten, and that there is room for `size` bytes. */
static int make_size(int fd, uint64_t size)
{
	struct stat stat;
	uint64_t device_size;

	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return -errno;
	if (fstat(fd, &stat) < 0)
		return -errno;
	if (S_ISBLK(stat.st_mode)) {
		if (ioctl(fd, BLKGETSIZE64, &device_size) < 0)
			return -errno;
		return device_size < size ? -ENOSPC : 0;
	}
	if (!S_ISREG(stat.st_mode))
		return -EINVAL;
	if (stat.st_size != 0)
		return -EEXIST;
	if (fallocate(fd, 0, 0, (off_t)size) == 0)
		return 0;
	if (errno != EOPNOTSUPP)
		return -errno;
	return result(ftruncate(fd, (off_t)size));
}

int store_file_open(const char *path, uint64_t size, uint32_t flags, struct store *out)
{
	int open_flags = O_RDWR | O_CLOEXEC | (flags & DROVER_REGION_BUFFERED ? 0 : O_DIRECT);
	int created, rc;
	int fd = open_path(path, open_flags, &created);

	if (fd == -EINVAL && !(flags & DROVER_REGION_BUFFERED))
		return -EOPNOTSUPP;
	if (fd < 0)
		return fd;
	rc = make_size(fd, size);
	if (rc == 0 && (flags & DROVER_REGION_PREWRITE) != 0)
		rc = prewrite(fd, size);
	if (rc < 0) {
		if (created)
			remove_name(fd, path);
		close(fd);
		return rc;
	}
	if ((flags & DROVER_REGION_ANONYMOUS) != 0)
		remove_name(fd, path);
	*out = (struct store){ .calls = &file_calls, .fd = fd };
	return 0;
}
