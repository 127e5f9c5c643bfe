/*
 * page.c - the memory of pages: userfaultfd, madvise, checksums.
 *
 * Private regions: two anonymous mappings of one size, region and shadow, both registered. A page lives in one of the
 * two, or in both while it was taken back during its write. UFFDIO_MOVE carries it across without a copy; the kernel
 * refuses (EBUSY) while anything holds a reference, a transfer in flight for instance, and forgets write
 * protection, so a moved page counts as perhaps changed.
 *
 * Shared regions: two mappings of one memfd. Only the first is registered. To demote is to write-protect; the
 * "shadow" address of a page is the second mapping, which must never be touched where the memfd has a hole.
 *
 * Nothing here wakes a toucher but memory_wake(), which publish() calls: who sees a page sees it in its books too.
 *
 * Both: neither mapping is inherited by fork (a child would read zeros), and neither uses huge pages.
 */
#include "region.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

/* What Debian 12's headers lack. */
#define FEATURE_POISON (1ull << 14)
#define FEATURE_WP_ASYNC (1ull << 15)
#define FEATURE_MOVE (1ull << 16)
#define FEATURE_WP_UNPOPULATED (1ull << 13)

struct move_argument {
	uint64_t dst, src, len, mode;
	int64_t move;
};
#define MOVE_REQUEST _IOWR(0xAA, 0x05, struct move_argument)
#define MOVE_DONTWAKE 1u

struct poison_argument {
	struct uffdio_range range;
	uint64_t mode;
	int64_t updated;
};
#define POISON_REQUEST _IOWR(0xAA, 0x08, struct poison_argument)

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

/* EAGAIN of userfaultfd means "again": so often at most. */
#define AGAIN_MAX 1000

/* Inline faults need no kernel faults, so that an ordinary user may open it too. */
static int open_uffd(int inline_faults)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | (inline_faults ? UFFD_USER_MODE_ONLY : 0));

	if (fd < 0 && errno == EPERM) {
		int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

		if (device < 0)
			return -EPERM;
		fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		close(device);
		if (fd < 0)
			return -EPERM;
	}
	return fd < 0 ? -errno : fd;
}

static void *map(struct drover_region *region)
{
	int flags = region->shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	void *memory = mmap(NULL, region->size, PROT_READ | PROT_WRITE, flags, region->memfd, 0);

	if (memory == MAP_FAILED)
		return NULL;
	madvise(memory, region->size, MADV_NOHUGEPAGE); /* EINVAL where the kernel has none */
	if (madvise(memory, region->size, MADV_DONTFORK) < 0) {
		munmap(memory, region->size);
		return NULL;
	}
	return memory;
}

static int register_range(struct drover_region *region, void *memory, uint64_t mode)
{
	struct uffdio_register range = { .range = { (uintptr_t)memory, region->size }, .mode = mode };

	return result(ioctl(region->uffd, UFFDIO_REGISTER, &range));
}

int memory_open(struct drover_region *region)
{
	struct uffdio_api api = { .api = UFFD_API, .features = FEATURE_POISON };
	uint64_t mode = UFFDIO_REGISTER_MODE_MISSING;
	int rc;

	if (region->fault_mode == DROVER_FAULT_INLINE)
		api.features |= UFFD_FEATURE_SIGBUS;
	api.features |= region->shared ? UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_WP_HUGETLBFS_SHMEM : FEATURE_MOVE;
	if (region->dirty_mode == DROVER_DIRTY_ASYNC)
		api.features |= FEATURE_WP_ASYNC | FEATURE_WP_UNPOPULATED;
	if (region->shared || region->dirty_mode != DROVER_DIRTY_HASH) {
		api.features |= UFFD_FEATURE_PAGEFAULT_FLAG_WP;
		mode |= UFFDIO_REGISTER_MODE_WP;
	}
	region->uffd = open_uffd(region->fault_mode == DROVER_FAULT_INLINE);
	if (region->uffd < 0)
		return region->uffd == -ENOSYS ? -EOPNOTSUPP : region->uffd;
	/* One call only: asking for a feature that is not there is EINVAL. */
	if (ioctl(region->uffd, UFFDIO_API, &api) < 0)
		return -EOPNOTSUPP;
	region->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (region->pagemap < 0)
		return -errno;
	if (region->shared) {
		region->memfd = memfd_create("drover-region", MFD_CLOEXEC);
		if (region->memfd < 0)
			return -errno;
		if (ftruncate(region->memfd, (off_t)region->size) < 0)
			return -errno;
	}
	region->base = map(region);
	if (region->base == NULL)
		return -ENOMEM;
	region->shadow = map(region);
	if (region->shadow == NULL)
		return -ENOMEM;
	rc = register_range(region, region->base, mode);
	if (rc == 0 && !region->shared)
		rc = register_range(region, region->shadow, UFFDIO_REGISTER_MODE_MISSING);
	if (rc < 0)
		return rc == -EINVAL ? -EOPNOTSUPP : rc;
	region->pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	atomic_store(&region->vectored, region->pidfd >= 0);
	return 0;
}

/* The region's own range stays reserved, so that a late touch cannot meet other memory. */
void memory_close(struct drover_region *region)
{
	if (region->base != NULL)
		mmap(region->base, region->size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
	if (region->shadow != NULL)
		munmap(region->shadow, region->size);
	region->base = region->shadow = NULL;
	if (region->uffd >= 0)
		close(region->uffd);
	if (region->memfd >= 0)
		close(region->memfd);
	if (region->pidfd >= 0)
		close(region->pidfd);
	if (region->pagemap >= 0)
		close(region->pagemap);
	region->uffd = region->memfd = region->pidfd = region->pagemap = -1;
}

int memory_fill(struct drover_region *region, uint64_t page, const void *bytes, uint64_t page_count, int protect,
		uint64_t *done)
{
	struct uffdio_copy copy = { .mode = UFFDIO_COPY_MODE_DONTWAKE | (protect ? UFFDIO_COPY_MODE_WP : 0) };

	*done = 0;
	for (int round = 0; round < AGAIN_MAX; round++) {
		copy.dst = (uintptr_t)region->base + (page + *done) * PAGE;
		copy.src = (uintptr_t)bytes + *done * PAGE;
		copy.len = (page_count - *done) * PAGE;
		copy.copy = 0;
		if (ioctl(region->uffd, UFFDIO_COPY, &copy) == 0) {
			*done = page_count;
			return 0;
		}
		if (errno != EAGAIN)
			return -errno;
		if (copy.copy > 0)
			*done += (uint64_t)copy.copy / PAGE;
		if (*done == page_count)
			return 0;
	}
	return -EAGAIN;
}

/* Whether the kernel's page tables have a page there. */
static int is_present(struct drover_region *region, uint64_t address)
{
	uint64_t entry = 0;

	return pread(region->pagemap, &entry, sizeof(entry), (off_t)(address / PAGE * sizeof(entry))) == sizeof(entry) &&
	       entry >> 63 != 0;
}

/*
 * Seen on Linux 6.18 when another thread faults beside: the page has moved, and the kernel tries again and says EEXIST.
 * Its place is the target then, and nothing else could have put it there: the page is ours.
 */
static int has_moved(struct drover_region *region, const struct move_argument *argument)
{
	return is_present(region, argument->dst) && !is_present(region, argument->src);
}

static int move(struct drover_region *region, uint8_t *target, uint8_t *source, uint64_t page, uint64_t page_count,
		uint64_t *done)
{
	struct move_argument argument = { .mode = MOVE_DONTWAKE };
	int error;

	*done = 0;
	for (int round = 0; round < AGAIN_MAX; round++) {
		argument.dst = (uintptr_t)target + (page + *done) * PAGE;
		argument.src = (uintptr_t)source + (page + *done) * PAGE;
		argument.len = (page_count - *done) * PAGE;
		argument.move = 0;
		if (ioctl(region->uffd, MOVE_REQUEST, &argument) == 0) {
			*done = page_count;
			return 0;
		}
		if (argument.move > 0)
			*done += (uint64_t)argument.move / PAGE;
		if (*done == page_count)
			return 0;
		/* After a part was moved the kernel says EAGAIN, and the next round says what is in the way. */
		if (errno == EAGAIN)
			continue;
		error = errno;
		if ((error != EEXIST && error != ENOENT) || !has_moved(region, &argument))
			return -error;
		if (++*done == page_count)
			return 0;
	}
	return -EAGAIN;
}

int memory_is_mapped(struct drover_region *region, uint64_t page)
{
	return is_present(region, (uintptr_t)region->base + page * PAGE);
}

int memory_is_shadowed(struct drover_region *region, uint64_t page)
{
	return is_present(region, (uintptr_t)region->shadow + page * PAGE);
}

int memory_demote(struct drover_region *region, uint64_t page, uint64_t page_count, uint64_t *done)
{
	if (!region->shared)
		return move(region, region->shadow, region->base, page, page_count, done);
	*done = 0;
	while (*done < page_count) {
		int rc = memory_protect(region, page + *done, 1);

		if (rc < 0)
			return rc;
		++*done;
	}
	return 0;
}

int memory_promote(struct drover_region *region, uint64_t page, uint64_t page_count, uint64_t *done)
{
	if (!region->shared)
		return move(region, region->base, region->shadow, page, page_count, done);
	*done = 0;
	while (*done < page_count) {
		int rc = memory_protect(region, page + *done, 0);

		if (rc < 0)
			return rc;
		++*done;
	}
	return 0;
}

static void drop_one(struct drover_region *region, const struct iovec *vector)
{
	if (region->shared)
		fallocate(region->memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			  (off_t)((uint8_t *)vector->iov_base - region->base), (off_t)vector->iov_len);
	else
		madvise(vector->iov_base, vector->iov_len, MADV_DONTNEED);
}

void memory_drop(struct drover_region *region, const uint64_t *pages, uint32_t page_count, int from_shadow,
		 struct iovec *vectors)
{
	uint8_t *from = from_shadow && !region->shared ? region->shadow : region->base;
	uint32_t vector_count = 0, first = 0;

	for (uint32_t i = 0; i < page_count; i++) {
		uint8_t *address = from + pages[i] * PAGE;
		struct iovec *last = vector_count > 0 ? &vectors[vector_count - 1] : NULL;

		if (last != NULL && (uint8_t *)last->iov_base + last->iov_len == address)
			last->iov_len += PAGE;
		else
			vectors[vector_count++] = (struct iovec){ address, PAGE };
	}
	/* One TLB flush for all of them: a scattered single drop costs several microseconds when others run. */
	if (vector_count > 1 && !region->shared && atomic_load_explicit(&region->vectored, memory_order_relaxed)) {
		long size = syscall(SYS_process_madvise, region->pidfd, vectors, (size_t)vector_count, MADV_DONTNEED, 0u);

		if (size < 0) /* before Linux 6.13 one may not advise oneself so */
			atomic_store_explicit(&region->vectored, errno == EAGAIN || errno == EINTR ? 1u : 0u,
					      memory_order_relaxed);
		while (size > 0 && first < vector_count && (size_t)size >= vectors[first].iov_len)
			size -= (long)vectors[first++].iov_len;
	}
	for (; first < vector_count; first++)
		drop_one(region, &vectors[first]);
}

int memory_protect(struct drover_region *region, uint64_t page, int protect)
{
	struct uffdio_writeprotect argument = {
		.range = { (uintptr_t)region->base + page * PAGE, PAGE },
		.mode = protect ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	for (int round = 0; round < AGAIN_MAX; round++) {
		if (ioctl(region->uffd, UFFDIO_WRITEPROTECT, &argument) == 0)
			return 0;
		if (errno != EAGAIN)
			break;
	}
	return -errno;
}

/* The marker makes the kernel itself refuse the page: SIGBUS for a touch, EFAULT for a system call. */
void memory_poison(struct drover_region *region, uint64_t page)
{
	struct poison_argument argument = { .range = { (uintptr_t)region->base + page * PAGE, PAGE } };

	/* Punching a hole leaves the mark of write protection behind, and poison wants an empty place. */
	if (region->shared)
		memory_protect(region, page, 0);
	for (int round = 0; round < AGAIN_MAX; round++) {
		if (ioctl(region->uffd, POISON_REQUEST, &argument) == 0 || errno != EAGAIN)
			return;
	}
}

void memory_wake(struct drover_region *region, uint64_t page, uint64_t page_count)
{
	struct uffdio_range range = { (uintptr_t)region->base + page * PAGE, page_count * PAGE };

	ioctl(region->uffd, UFFDIO_WAKE, &range);
}

/* -- checksums -------------------------------------------------------------------------------------------- */

/* The product's halves folded: each bit of the result depends on all bits of both factors. */
static inline uint64_t fold(uint64_t left, uint64_t right)
{
	unsigned __int128 product = (unsigned __int128)left * right;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/*
 * Four independent chains of multiplications, so that they overlap: about 0.1 us for a page in the cache. The secret is
 * random for each region, so that no content can be made to collide.
 */
__attribute__((no_sanitize("thread", "address"))) uint64_t content_hash(const struct drover_region *region,
									const void *bytes)
{
	const uint64_t *word = bytes;
	const uint64_t *secret = region->secret;
	uint64_t a = secret[0], b = secret[1], c = secret[2], d = secret[3];

	for (uint32_t i = 0; i < PAGE / 8; i += 8) {
		a = fold(word[i] ^ secret[1], word[i + 1] ^ a);
		b = fold(word[i + 2] ^ secret[2], word[i + 3] ^ b);
		c = fold(word[i + 4] ^ secret[3], word[i + 5] ^ c);
		d = fold(word[i + 6] ^ secret[0], word[i + 7] ^ d);
	}
	return fold(a ^ secret[4], b) ^ fold(c ^ secret[4], d ^ secret[0]);
}

uint64_t page_hash(const struct drover_region *region, uint64_t page, uint64_t content)
{
	uint64_t sum = fold(content ^ region->secret[2], (page * 2 + 1) ^ region->secret[3]);

	return sum == 0 ? 1 : sum;
}
