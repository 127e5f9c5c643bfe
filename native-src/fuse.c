/*
 * fuse.c - one file that the kernel shows and TypeScript fills: what comes from /dev/fuse is answered here, or handed on.
 *
 * The root of the mount is a regular file, so there are no names and one inode. The thread `drv-fuse` reads every
 * request into a slot. What needs no content (INIT, GETATTR, OPEN, STATFS, RELEASE, …) it answers itself; READ, WRITE,
 * FSYNC, FALLOCATE and LSEEK wait in a queue for drover_fuse_wait() and end with drover_fuse_reply(). Ranges are
 * cut to the file's size before they are handed on.
 *
 *   slot       to        by
 *   FREE       LOADING   the thread, before it reads
 *   LOADING    QUEUED    the thread, with a request that is not its own to answer; else FREE again
 *   QUEUED     TAKEN     drover_fuse_wait()
 *   QUEUED     FREE      the thread, after the time-out: EIO
 *   TAKEN      REPLYING  drover_fuse_reply(), then FREE
 *   TAKEN      EXPIRED   the thread, after the time-out: EIO; the room is still its taker's
 *   EXPIRED    FREE      drover_fuse_reply(): too late, nothing is sent
 *
 * So every request is answered within the time-out, whatever TypeScript does: the thread waits for nobody longer than
 * that. When takers keep all slots beyond it, requests are refused with EIO from a slot that is the thread's own.
 *
 * One lock guards slots, queue and counters; it is never held over a system call that may wait.
 */
#include "internal.h"

#include <fcntl.h>
#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <time.h>

/* The data of a WRITE begins a page: its two heads come to lie before it. */
#define PAGE 4096u
#define HEAD (sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in))
#define ATTR_SECONDS 86400u
/* How often the thread looks for requests that are overdue, while there are any. */
#define LOOK_MILLIS 50
#define BACKGROUND_MAX 48u

/* Newer than the oldest header that this is compiled with. */
#define OPEN_PARALLEL_DIRECT_WRITES (1u << 6)
#define FLAG2_DIRECT_IO_ALLOW_MMAP (1u << (36 - 32))
#define FLAG2_REQUEST_TIMEOUT (1u << (42 - 32))

enum slot_state { FREE, LOADING, QUEUED, TAKEN, REPLYING, EXPIRED };

struct slot {
	uint64_t unique;
	uint64_t offset;
	uint64_t length;
	uint64_t deadline;
	uint32_t op;
	uint32_t state;
};

struct drover_fuse {
	struct drover_fuse_options options;
	int fd;
	int wake; /* eventfd: a slot is free again, or the end is near */
	uint8_t *room;
	size_t room_size;
	pthread_t thread;
	pthread_mutex_t lock; /* guards everything below */
	pthread_cond_t arrived;
	struct slot slots[DROVER_FUSE_SLOTS_MAX + 1]; /* the last one is the thread's own */
	uint32_t free[DROVER_FUSE_SLOTS_MAX];
	uint32_t queue[DROVER_FUSE_SLOTS_MAX];
	uint32_t free_count, queue_head, busy, expired;
	uint32_t queue_count; /* also read without the lock, by who spins */
	uint32_t waiters, starved;
	uint32_t ended, stopping; /* the kernel has let go; we have */
	uint64_t mtime_seconds;
	uint32_t mtime_nanos;
	struct drover_fuse_stats stats;
};

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static uint8_t *slot_data(const struct drover_fuse *fuse, uint32_t id)
{
	return fuse->room + (size_t)id * DROVER_FUSE_SLOT_SIZE + PAGE;
}

static void touch(struct drover_fuse *fuse)
{
	struct timespec time;

	clock_gettime(CLOCK_REALTIME_COARSE, &time);
	fuse->mtime_seconds = (uint64_t)time.tv_sec;
	fuse->mtime_nanos = (uint32_t)time.tv_nsec;
}

/* Sends an answer. A request that nobody waits for any more (ENOENT) has had its end. */
static void send_answer(const struct drover_fuse *fuse, uint64_t unique, int error, const void *data, size_t size)
{
	struct fuse_out_header head = {
		.len = (uint32_t)(sizeof(head) + (error == 0 ? size : 0)),
		.error = -error,
		.unique = unique,
	};
	struct iovec parts[2] = { { &head, sizeof(head) }, { (void *)(uintptr_t)data, size } };
	ssize_t rc;

	do
		rc = writev(fuse->fd, parts, error == 0 && size > 0 ? 2 : 1);
	while (rc < 0 && errno == EINTR);
}

/* -- slots; all of these with the lock held ----------------------------------------------------------------- */

static void give_back(struct drover_fuse *fuse, uint32_t id)
{
	uint64_t one = 1;

	fuse->slots[id].state = FREE;
	fuse->free[fuse->free_count++] = id;
	if (fuse->starved != 0) {
		fuse->starved = 0;
		if (write(fuse->wake, &one, sizeof(one)) < 0)
			return;
	}
}

/* Answers what is overdue. */
static void expire(struct drover_fuse *fuse, uint64_t time)
{
	uint32_t kept = 0;

	if (fuse->busy == 0)
		return;
	for (uint32_t id = 0; id < fuse->options.slots; id++) {
		struct slot *slot = &fuse->slots[id];

		if ((slot->state != QUEUED && slot->state != TAKEN) || slot->deadline > time)
			continue;
		send_answer(fuse, slot->unique, EIO, NULL, 0);
		fuse->stats.errors++;
		fuse->stats.timeouts++;
		fuse->busy--;
		if (slot->state == TAKEN) {
			slot->state = EXPIRED;
			fuse->expired++;
			continue;
		}
		give_back(fuse, id);
	}
	for (uint32_t i = 0; i < fuse->queue_count; i++) {
		uint32_t id = fuse->queue[(fuse->queue_head + i) % DROVER_FUSE_SLOTS_MAX];

		if (fuse->slots[id].state == QUEUED)
			fuse->queue[(fuse->queue_head + kept++) % DROVER_FUSE_SLOTS_MAX] = id;
	}
	__atomic_store_n(&fuse->queue_count, kept, __ATOMIC_RELAXED);
}

static void enqueue(struct drover_fuse *fuse, uint32_t id)
{
	struct slot *slot = &fuse->slots[id];

	slot->state = QUEUED;
	slot->deadline = now() + (uint64_t)fuse->options.timeout_ms * 1000000u;
	fuse->queue[(fuse->queue_head + fuse->queue_count) % DROVER_FUSE_SLOTS_MAX] = id;
	fuse->busy++;
	__atomic_store_n(&fuse->queue_count, fuse->queue_count + 1, __ATOMIC_RELEASE);
	if (fuse->waiters != 0)
		pthread_cond_signal(&fuse->arrived);
}

/* -- what needs no content ---------------------------------------------------------------------------------- */

/*
 * When the kernel itself ends the connection (Linux 6.14): if this process is killed while a thread of its own waits for
 * the file, that thread waits for ever and keeps the descriptor open; nobody else can answer. Far beyond our own time-out.
 */
static uint16_t abandon_seconds(const struct drover_fuse *fuse)
{
	uint32_t seconds = 2 * (fuse->options.timeout_ms / 1000) + 60;

	return (uint16_t)(seconds > UINT16_MAX ? UINT16_MAX : seconds);
}

static void answer_init(struct drover_fuse *fuse, uint64_t unique, const struct fuse_init_in *in)
{
	const uint32_t wanted = FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_ASYNC_DIO | FUSE_MAX_PAGES;
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION,
		.minor = in->minor < FUSE_KERNEL_MINOR_VERSION ? in->minor : FUSE_KERNEL_MINOR_VERSION,
		.max_readahead = DROVER_FUSE_DATA_MAX, /* the kernel takes its own where that is less */
		.flags = in->flags & wanted,
		.max_background = BACKGROUND_MAX,
		.congestion_threshold = BACKGROUND_MAX * 3 / 4,
		.max_write = DROVER_FUSE_DATA_MAX,
		.time_gran = 1,
		.max_pages = DROVER_FUSE_DATA_MAX / PAGE,
	};

	if (in->major > FUSE_KERNEL_VERSION) {
		/* The kernel asks again with our version. */
		out = (struct fuse_init_out){ .major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION };
	} else if (in->major < FUSE_KERNEL_VERSION || in->minor < 28) {
		/* Without FUSE_MAX_PAGES requests are small, and this is Linux before 4.20. */
		send_answer(fuse, unique, EPROTO, NULL, 0);
		return;
	} else if ((in->flags & FUSE_INIT_EXT) != 0 && in->minor >= 36) {
		out.flags |= FUSE_INIT_EXT;
		out.flags2 = in->flags2 & (FLAG2_DIRECT_IO_ALLOW_MMAP | FLAG2_REQUEST_TIMEOUT);
		/* struct fuse_init_out since 7.43: 32 bits for stacking, then 16 of seconds. */
		if ((out.flags2 & FLAG2_REQUEST_TIMEOUT) != 0)
			out.unused[1] = abandon_seconds(fuse);
	}
	send_answer(fuse, unique, 0, &out, sizeof(out));
}

static void answer_attributes(struct drover_fuse *fuse, uint64_t unique)
{
	const struct drover_fuse_options *options = &fuse->options;
	struct fuse_attr_out out = { .attr_valid = ATTR_SECONDS };

	pthread_mutex_lock(&fuse->lock);
	out.attr = (struct fuse_attr){
		.ino = FUSE_ROOT_ID,
		.size = options->size,
		.blocks = options->size / 512 + (options->size % 512 != 0),
		.atime = fuse->mtime_seconds,
		.mtime = fuse->mtime_seconds,
		.ctime = fuse->mtime_seconds,
		.atimensec = fuse->mtime_nanos,
		.mtimensec = fuse->mtime_nanos,
		.ctimensec = fuse->mtime_nanos,
		.mode = S_IFREG | options->mode,
		.nlink = 1,
		.uid = options->uid,
		.gid = options->gid,
		.blksize = PAGE,
	};
	pthread_mutex_unlock(&fuse->lock);
	send_answer(fuse, unique, 0, &out, sizeof(out));
}

/* The size is the backend's, mode and owner are what the mount was given; times may be set. */
static void answer_set_attributes(struct drover_fuse *fuse, uint64_t unique, const struct fuse_setattr_in *in)
{
	if (((in->valid & FATTR_SIZE) != 0 && in->size != fuse->options.size) ||
	    (in->valid & (FATTR_MODE | FATTR_UID | FATTR_GID)) != 0) {
		send_answer(fuse, unique, EPERM, NULL, 0);
		return;
	}
	pthread_mutex_lock(&fuse->lock);
	if ((in->valid & FATTR_MTIME_NOW) != 0) {
		touch(fuse);
	} else if ((in->valid & FATTR_MTIME) != 0) {
		fuse->mtime_seconds = in->mtime;
		fuse->mtime_nanos = in->mtimensec;
	}
	pthread_mutex_unlock(&fuse->lock);
	answer_attributes(fuse, unique);
}

static void answer_open(const struct drover_fuse *fuse, uint64_t unique, const struct fuse_open_in *in)
{
	struct fuse_open_out out = { 0 };

	if ((in->flags & O_DIRECT) != 0)
		out.open_flags = FOPEN_DIRECT_IO | OPEN_PARALLEL_DIRECT_WRITES;
	else if ((fuse->options.flags & DROVER_FUSE_KEEP_CACHE) != 0)
		out.open_flags = FOPEN_KEEP_CACHE;
	send_answer(fuse, unique, 0, &out, sizeof(out));
}

static void answer_statfs(const struct drover_fuse *fuse, uint64_t unique)
{
	struct fuse_statfs_out out = { .st = {
		.blocks = fuse->options.size / PAGE,
		.files = 1,
		.bsize = PAGE,
		.frsize = PAGE,
		.namelen = 255,
	} };

	send_answer(fuse, unique, 0, &out, sizeof(out));
}

/* -- what is handed on -------------------------------------------------------------------------------------- */

/* Fills in what is asked of TypeScript. 1 to hand it on, 0 when it is answered here. */
static int prepare_range(const struct drover_fuse *fuse, struct slot *slot, const struct fuse_in_header *head,
			 const void *body)
{
	const uint64_t size = fuse->options.size;
	const int read_only = (fuse->options.flags & DROVER_FUSE_READ_ONLY) != 0;

	slot->unique = head->unique;
	switch (head->opcode) {
	case FUSE_READ: {
		const struct fuse_read_in *in = body;

		slot->op = DROVER_FUSE_READ;
		slot->offset = in->offset;
		slot->length = in->size > DROVER_FUSE_DATA_MAX ? DROVER_FUSE_DATA_MAX : in->size;
		if (in->offset >= size || slot->length == 0) {
			send_answer(fuse, head->unique, 0, NULL, 0);
			return 0;
		}
		if (slot->length > size - in->offset)
			slot->length = size - in->offset;
		return 1;
	}
	case FUSE_WRITE: {
		const struct fuse_write_in *in = body;

		slot->op = DROVER_FUSE_WRITE;
		slot->offset = in->offset;
		slot->length = in->size;
		if (in->size > DROVER_FUSE_DATA_MAX || head->len != HEAD + in->size || read_only || in->offset >= size) {
			send_answer(fuse, head->unique, read_only ? EROFS : in->offset >= size ? ENOSPC : EINVAL, NULL, 0);
			return 0;
		}
		/* As at the end of a block device: a part is written, and the rest has no room. */
		if (slot->length > size - in->offset)
			slot->length = size - in->offset;
		return 1;
	}
	case FUSE_FSYNC:
		slot->op = DROVER_FUSE_FLUSH;
		slot->offset = slot->length = 0;
		return 1;
	case FUSE_FALLOCATE: {
		const struct fuse_fallocate_in *in = body;
		const uint32_t mode = in->mode & ~(uint32_t)FALLOC_FL_KEEP_SIZE;
		int error = 0;

		slot->op = mode == FALLOC_FL_PUNCH_HOLE ? DROVER_FUSE_PUNCH : DROVER_FUSE_ZERO;
		slot->offset = in->offset;
		slot->length = in->length;
		if (mode != 0 && mode != FALLOC_FL_PUNCH_HOLE && mode != FALLOC_FL_ZERO_RANGE)
			error = EOPNOTSUPP;
		else if (read_only)
			error = EROFS;
		else if (in->length > UINT64_MAX - in->offset)
			error = EFBIG;
		else if (mode != FALLOC_FL_PUNCH_HOLE && in->offset + in->length > size)
			error = ENOSPC;
		/* Room is there, or it is not ours to reserve; a hole behind the end is none. */
		if (error != 0 || mode == 0 || in->offset >= size) {
			send_answer(fuse, head->unique, error, NULL, 0);
			return 0;
		}
		if (slot->length > size - in->offset)
			slot->length = size - in->offset;
		return 1;
	}
	case FUSE_LSEEK: {
		const struct fuse_lseek_in *in = body;

		slot->op = in->whence == SEEK_DATA ? DROVER_FUSE_DATA : DROVER_FUSE_HOLE;
		slot->offset = in->offset;
		slot->length = in->offset < size ? size - in->offset : 0;
		if ((in->whence != SEEK_DATA && in->whence != SEEK_HOLE) || in->offset >= size) {
			send_answer(fuse, head->unique, in->offset >= size ? ENXIO : EINVAL, NULL, 0);
			return 0;
		}
		return 1;
	}
	default:
		return 0;
	}
}

/* The least that a body of this operation has. */
static size_t body_size(uint32_t opcode)
{
	switch (opcode) {
	case FUSE_INIT:
		return offsetof(struct fuse_init_in, flags2);
	case FUSE_SETATTR:
		return sizeof(struct fuse_setattr_in);
	case FUSE_OPEN:
		return sizeof(struct fuse_open_in);
	case FUSE_READ:
		return sizeof(struct fuse_read_in);
	case FUSE_WRITE:
		return sizeof(struct fuse_write_in);
	case FUSE_FALLOCATE:
		return sizeof(struct fuse_fallocate_in);
	case FUSE_LSEEK:
		return sizeof(struct fuse_lseek_in);
	default:
		return 0;
	}
}

/* One request of `size` bytes in a slot. 1 when it was handed on, and the slot with it. `own`: it must not be. */
static int dispatch(struct drover_fuse *fuse, uint32_t id, size_t size, int own)
{
	const struct fuse_in_header *head = (const void *)(slot_data(fuse, id) - HEAD);
	const void *body = head + 1;
	struct slot *slot = &fuse->slots[id];

	if (size < sizeof(*head) || head->len != size)
		return 0;
	if (size - sizeof(*head) < body_size(head->opcode)) {
		send_answer(fuse, head->unique, EINVAL, NULL, 0);
		return 0;
	}
	switch (head->opcode) {
	case FUSE_INIT:
		answer_init(fuse, head->unique, body);
		return 0;
	case FUSE_GETATTR:
		answer_attributes(fuse, head->unique);
		return 0;
	case FUSE_SETATTR:
		answer_set_attributes(fuse, head->unique, body);
		return 0;
	case FUSE_OPEN:
		answer_open(fuse, head->unique, body);
		return 0;
	case FUSE_STATFS:
		answer_statfs(fuse, head->unique);
		return 0;
	case FUSE_RELEASE:
	case FUSE_DESTROY:
		send_answer(fuse, head->unique, 0, NULL, 0);
		return 0;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT: /* it is answered in its time: programs expect no EINTR from a file */
		return 0;
	case FUSE_READ:
	case FUSE_WRITE:
	case FUSE_FSYNC:
	case FUSE_FALLOCATE:
	case FUSE_LSEEK:
		if (!prepare_range(fuse, slot, head, body))
			return 0;
		pthread_mutex_lock(&fuse->lock);
		if (own) {
			fuse->stats.errors++;
			fuse->stats.timeouts++;
		} else {
			enqueue(fuse, id);
		}
		pthread_mutex_unlock(&fuse->lock);
		if (own)
			send_answer(fuse, head->unique, EIO, NULL, 0);
		return !own;
	default: /* FLUSH, xattrs, ioctl, locks: the kernel does not ask for them again */
		send_answer(fuse, head->unique, ENOSYS, NULL, 0);
		return 0;
	}
}

/* -- the thread --------------------------------------------------------------------------------------------- */

/* A slot to read into: a free one, the thread's own when all are kept beyond the time-out, or -1 to wait. */
static int slot_for_next(struct drover_fuse *fuse, int *own)
{
	int id = -1;

	*own = 0;
	if (fuse->free_count > 0) {
		id = (int)fuse->free[--fuse->free_count];
		fuse->slots[id].state = LOADING;
	} else if (fuse->expired == fuse->options.slots) {
		id = (int)fuse->options.slots;
		*own = 1;
	} else {
		fuse->starved = 1;
	}
	return id;
}

static void sleep_until_something(struct drover_fuse *fuse, int for_request, int busy)
{
	struct pollfd fds[2] = { { fuse->wake, POLLIN, 0 }, { for_request ? fuse->fd : -1, POLLIN, 0 } };
	uint64_t count;

	if (poll(fds, 2, busy ? LOOK_MILLIS : -1) > 0 && (fds[0].revents & POLLIN) != 0 &&
	    read(fuse->wake, &count, sizeof(count)) < 0)
		return;
}

static void *serve(void *context)
{
	struct drover_fuse *fuse = context;
	uint64_t looked = 0;

	prctl(PR_SET_NAME, "drv-fuse");
	for (;;) {
		int id, own, busy, error = 0, handed = 0;
		uint64_t time = now();
		ssize_t size = -1;

		pthread_mutex_lock(&fuse->lock);
		if (time - looked >= (uint64_t)LOOK_MILLIS * 1000000u) {
			looked = time;
			expire(fuse, time);
		}
		if (fuse->stopping != 0) {
			pthread_mutex_unlock(&fuse->lock);
			return NULL;
		}
		id = slot_for_next(fuse, &own);
		busy = fuse->busy > 0;
		pthread_mutex_unlock(&fuse->lock);
		if (id >= 0) {
			size = read(fuse->fd, slot_data(fuse, (uint32_t)id) - HEAD, HEAD + DROVER_FUSE_DATA_MAX);
			error = size < 0 ? errno : 0;
			if (size > 0)
				handed = dispatch(fuse, (uint32_t)id, (size_t)size, own);
		}
		pthread_mutex_lock(&fuse->lock);
		if (id >= 0 && !handed && !own)
			give_back(fuse, (uint32_t)id);
		if (size > 0)
			fuse->stats.requests++;
		/* ENODEV: unmounted. ENOENT: a request that was given up before we had it. */
		if (error != 0 && error != EAGAIN && error != EINTR && error != ENOENT) {
			fuse->ended = 1;
			pthread_cond_broadcast(&fuse->arrived);
		}
		busy = busy || handed;
		error = fuse->ended != 0 ? ENODEV : error;
		pthread_mutex_unlock(&fuse->lock);
		if (error == ENODEV)
			sleep_until_something(fuse, 0, busy);
		else if (size <= 0 && error != EINTR && error != ENOENT)
			sleep_until_something(fuse, id >= 0, busy);
	}
}

/* -- calls -------------------------------------------------------------------------------------------------- */

static int start(struct drover_fuse *fuse)
{
	pthread_condattr_t clock;
	sigset_t all, before;
	int rc;

	fuse->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fuse->wake < 0)
		return -errno;
	fuse->room_size = (size_t)(fuse->options.slots + 1) * DROVER_FUSE_SLOT_SIZE;
	fuse->room = mmap(NULL, fuse->room_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (fuse->room == MAP_FAILED) {
		rc = -errno;
		close(fuse->wake);
		return rc;
	}
	for (uint32_t id = fuse->options.slots; id > 0; id--)
		fuse->free[fuse->free_count++] = id - 1;
	touch(fuse);
	pthread_mutex_init(&fuse->lock, NULL);
	pthread_condattr_init(&clock);
	pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
	pthread_cond_init(&fuse->arrived, &clock);
	pthread_condattr_destroy(&clock);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = -pthread_create(&fuse->thread, NULL, serve, fuse);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc < 0) {
		pthread_cond_destroy(&fuse->arrived);
		pthread_mutex_destroy(&fuse->lock);
		munmap(fuse->room, fuse->room_size);
		close(fuse->wake);
	}
	return rc;
}

int drover_fuse_open(const char *target, const char *source, const struct drover_fuse_options *options,
		     struct drover_fuse **out)
{
	const uint32_t known = DROVER_FUSE_READ_ONLY | DROVER_FUSE_KEEP_CACHE | DROVER_FUSE_ALLOW_OTHER | DROVER_FUSE_HELPER;
	struct drover_fuse *fuse;
	int rc;

	if (options->size > INT64_MAX || (options->mode & ~0777u) != 0 || (options->flags & ~known) != 0 ||
	    options->timeout_ms == 0 || options->timeout_ms > DROVER_FUSE_TIMEOUT_MS_MAX || options->slots == 0 ||
	    options->slots > DROVER_FUSE_SLOTS_MAX || target[0] != '/')
		return -EINVAL;
	fuse = calloc(1, sizeof(*fuse));
	if (fuse == NULL)
		return -ENOMEM;
	fuse->options = *options;
	fuse->fd = fuse_mount(target, source, options);
	rc = fuse->fd < 0 ? fuse->fd : start(fuse);
	if (rc == 0) {
		*out = fuse;
		return 0;
	}
	if (fuse->fd >= 0) {
		close(fuse->fd);
		drover_unmount(target, 1);
	}
	free(fuse);
	return rc;
}

uint64_t drover_fuse_room(struct drover_fuse *fuse)
{
	return (uint64_t)(uintptr_t)slot_data(fuse, 0);
}

/* A moment of looking before sleeping: a wake-up costs more than many a request takes. */
static void spin(const struct drover_fuse *fuse, uint32_t spin_us)
{
	uint64_t until = now() + (uint64_t)spin_us * 1000u;

	while (__atomic_load_n(&fuse->queue_count, __ATOMIC_ACQUIRE) == 0 && now() < until)
		for (int i = 0; i < 20; i++)
#if defined(__x86_64__)
			__builtin_ia32_pause();
#else
			__asm__ volatile("yield");
#endif
}

int drover_fuse_wait(struct drover_fuse *fuse, struct drover_fuse_request *requests, uint32_t count, uint32_t spin_us,
		     uint32_t timeout_ms)
{
	uint64_t until;
	struct timespec time;
	int found = 0;

	if (spin_us > 0)
		spin(fuse, spin_us > 1000 ? 1000 : spin_us);
	if (timeout_ms == 0 && __atomic_load_n(&fuse->queue_count, __ATOMIC_ACQUIRE) == 0 &&
	    __atomic_load_n(&fuse->ended, __ATOMIC_RELAXED) == 0)
		return 0;
	until = now() + (uint64_t)timeout_ms * 1000000u;
	time = (struct timespec){ .tv_sec = (time_t)(until / 1000000000u), .tv_nsec = (long)(until % 1000000000u) };
	pthread_mutex_lock(&fuse->lock);
	fuse->waiters++;
	while (fuse->queue_count == 0 && fuse->ended == 0 && timeout_ms > 0)
		if (pthread_cond_timedwait(&fuse->arrived, &fuse->lock, &time) != 0)
			break;
	fuse->waiters--;
	while (fuse->queue_count > 0 && (uint32_t)found < count) {
		uint32_t id = fuse->queue[fuse->queue_head];
		struct slot *slot = &fuse->slots[id];

		fuse->queue_head = (fuse->queue_head + 1) % DROVER_FUSE_SLOTS_MAX;
		__atomic_store_n(&fuse->queue_count, fuse->queue_count - 1, __ATOMIC_RELAXED);
		slot->state = TAKEN;
		requests[found++] = (struct drover_fuse_request){
			.offset = slot->offset,
			.length = slot->length,
			.slot = id,
			.op = slot->op,
		};
	}
	if (found == 0 && fuse->ended != 0)
		found = -ENODEV;
	pthread_mutex_unlock(&fuse->lock);
	return found;
}

/* What the kernel gets for a success. */
static void send_success(const struct drover_fuse *fuse, const struct slot *slot, const void *data, uint32_t size)
{
	struct fuse_write_out written = { .size = (uint32_t)slot->length };

	if (slot->op == DROVER_FUSE_WRITE)
		send_answer(fuse, slot->unique, 0, &written, sizeof(written));
	else
		send_answer(fuse, slot->unique, 0, data, size);
}

static void count_answer(struct drover_fuse *fuse, const struct slot *slot, int32_t error)
{
	struct drover_fuse_stats *stats = &fuse->stats;

	if (error != 0) {
		stats->errors += error != ENXIO;
	} else if (slot->op == DROVER_FUSE_READ) {
		stats->reads++;
		stats->read_bytes += slot->length;
	} else if (slot->op == DROVER_FUSE_FLUSH) {
		stats->flushes++;
	} else if (slot->op == DROVER_FUSE_WRITE) {
		stats->writes++;
		stats->written_bytes += slot->length;
	}
	if (error == 0 && (slot->op == DROVER_FUSE_WRITE || slot->op == DROVER_FUSE_ZERO || slot->op == DROVER_FUSE_PUNCH))
		touch(fuse);
}

int drover_fuse_reply(struct drover_fuse *fuse, uint32_t id, int32_t error, const void *data, uint32_t size)
{
	struct slot *slot;
	uint64_t expected;
	int rc = 0;

	if (id >= fuse->options.slots || error < 0 || error > 4095)
		return -EINVAL;
	slot = &fuse->slots[id];
	pthread_mutex_lock(&fuse->lock);
	if (slot->state == EXPIRED) {
		fuse->expired--;
		fuse->stats.late++;
		give_back(fuse, id);
		rc = -ETIMEDOUT;
	} else if (slot->state != TAKEN) {
		rc = -EINVAL;
	} else {
		expected = slot->op == DROVER_FUSE_READ ? slot->length :
			   slot->op == DROVER_FUSE_DATA || slot->op == DROVER_FUSE_HOLE ? sizeof(struct fuse_lseek_out) : 0;
		if (error == 0 && size != expected)
			rc = -EINVAL;
		else
			slot->state = REPLYING;
	}
	pthread_mutex_unlock(&fuse->lock);
	if (rc < 0)
		return rc;
	if (error != 0)
		send_answer(fuse, slot->unique, error, NULL, 0);
	else
		send_success(fuse, slot, data == NULL ? slot_data(fuse, id) : data, size);
	pthread_mutex_lock(&fuse->lock);
	count_answer(fuse, slot, error);
	fuse->busy--;
	give_back(fuse, id);
	pthread_mutex_unlock(&fuse->lock);
	return 0;
}

int drover_fuse_stats(struct drover_fuse *fuse, struct drover_fuse_stats *out)
{
	pthread_mutex_lock(&fuse->lock);
	*out = fuse->stats;
	out->pending = fuse->busy;
	pthread_mutex_unlock(&fuse->lock);
	return 0;
}

int drover_fuse_close(struct drover_fuse *fuse)
{
	uint64_t one = 1;
	int kept = 0;

	pthread_mutex_lock(&fuse->lock);
	fuse->stopping = 1;
	fuse->ended = 1;
	pthread_cond_broadcast(&fuse->arrived);
	pthread_mutex_unlock(&fuse->lock);
	if (write(fuse->wake, &one, sizeof(one)) < 0)
		return -errno;
	pthread_join(fuse->thread, NULL);
	for (uint32_t id = 0; id < fuse->options.slots; id++)
		kept += fuse->slots[id].state == TAKEN || fuse->slots[id].state == EXPIRED;
	/* What nobody has answered, the kernel ends now. */
	close(fuse->fd);
	close(fuse->wake);
	fuse->fd = -1;
	if (kept > 0)
		return kept;
	munmap(fuse->room, fuse->room_size);
	pthread_cond_destroy(&fuse->arrived);
	pthread_mutex_destroy(&fuse->lock);
	free(fuse);
	return 0;
}
