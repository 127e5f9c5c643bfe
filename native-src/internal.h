/*
 * internal.h - what the files of libdrover.so share and nobody else sees.
 *
 * There are no locks that a fault could meet, and no threads but the fault threads of regions (fault.c), those that make
 * RDMA connections (store_verbs.c), donors (donor.c) and FUSE mounts (fuse.c); the last three have a lock each for calls.
 * Shared state: the pool of zstd contexts (zstd.c), lock-free; two remembered answers "this kernel has no such call"
 * (libc.c); and the regions, whose order of claiming things is at the top of region.h.
 */
#ifndef DROVER_INTERNAL_H
#define DROVER_INTERNAL_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "drover.h"

#include <errno.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The layout below is read by TypeScript as 64-bit little-endian. */
_Static_assert(sizeof(void *) == 8, "libdrover.so is for 64-bit machines");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "libdrover.so is for little-endian machines");

_Static_assert(sizeof(struct drover_stat) == 80, "struct drover_stat crosses the border");
_Static_assert(sizeof(struct drover_entry) == 88, "struct drover_entry crosses the border");
_Static_assert(sizeof(struct drover_xattr) == 16, "struct drover_xattr crosses the border");
_Static_assert(sizeof(struct drover_statfs) == 24, "struct drover_statfs crosses the border");
_Static_assert(sizeof(struct drover_identity) == 16, "struct drover_identity crosses the border");
_Static_assert(sizeof(struct drover_fuse_options) == 32, "struct drover_fuse_options crosses the border");
_Static_assert(sizeof(struct drover_fuse_request) == 24, "struct drover_fuse_request crosses the border");
_Static_assert(sizeof(struct drover_fuse_stats) == 80, "struct drover_fuse_stats crosses the border");

/* System calls are numbered alike on x86-64 and arm64 from 424 on; older headers lack the names. */
#ifndef SYS_move_mount
#define SYS_move_mount 429
#define SYS_fsopen 430
#define SYS_fsconfig 431
#define SYS_fsmount 432
#define SYS_fspick 433
#endif
#ifndef SYS_openat2
#define SYS_openat2 437
#endif
#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif
#ifndef SYS_setxattrat
#define SYS_setxattrat 463
#define SYS_getxattrat 464
#define SYS_listxattrat 465
#define SYS_removexattrat 466
#endif

/* The result of a libc call that sets errno, as this library returns it. */
static inline int result(long rc)
{
	return rc < 0 ? -errno : (int)rc;
}

static inline int64_t result64(int64_t rc)
{
	return rc < 0 ? -(int64_t)errno : rc;
}

/* Rounds up to the 8 bytes that packed records are aligned to. */
static inline size_t align8(size_t size)
{
	return (size + 7u) & ~(size_t)7u;
}

/*
 * Page states of a region, DROVER_PAGE_… in drover.h. Every move goes through BUSY, which one thread at a time owns:
 * it has won the compare-and-swap into BUSY, and only it says where the page goes next. There is no exception. Who
 * loses a compare-and-swap reads the state again.
 *
 *   from            to BUSY by                          from BUSY to, by
 *   EMPTY           first touch, poison                 EMPTY           eviction of a page of zeros, reset
 *   COLD            fetch, reset, poison                COLD            drop after eviction or write-back
 *   CLEAN           eviction, first write, flush        CLEAN           fetch for a read, flush (dirty mode wp)
 *   DIRTY           eviction, flush, reset, poison      DIRTY           fetch, fill, promotion, first write, steal
 *   STANDBY         touch (promotion), drop             STANDBY         demotion with DROVER_EVICT_STANDBY
 *   STANDBY_DIRTY   touch (promotion), eviction         STANDBY_DIRTY   the same, no room to queue, a failed write
 *   WRITEBACK       touch (steal), its completion       WRITEBACK       eviction of a changed page
 *   POISON          reset                               POISON          failed fetch, poison, lost memory
 */
#define PAGE_MOVES_FROM_BUSY 0x1fbu /* bit n: BUSY may become state n; every state but BUSY may become BUSY */

/* fuse_mount.c: a mounted, nonblocking descriptor of /dev/fuse, or -errno. */
int fuse_mount(const char *target, const char *source, const struct drover_fuse_options *options);

/* libc.c: statx into our struct; 0 or -errno. */
int stat_at(int dir, const char *path, int flags, struct drover_stat *out);

/*
 * overlay.c: the mount itself, with nothing but system calls and the stack (about 20 KiB of it), so that a
 * child forked from a program with many threads may use it. `*how` names the interface that worked.
 */
int overlay_mount(const char *lower, uint32_t lower_count, const char *upper, const char *work, const char *target,
		  uint32_t flags, const char **how);

#endif
