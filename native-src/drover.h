/*
 * drover.h - what libdrover.so offers; the only public header.
 *
 * Rules that hold for every function here:
 *  - It returns 0 or a count on success and -errno on failure. errno itself means nothing afterwards.
 *  - Results go through out-pointers, which come last, and are written only on success.
 *  - A pointer is read or written during the call only. Nothing keeps a caller's buffer, and nothing
 *    returned has to be freed.
 *  - There is no global state to set up. Any thread may call anything at any time; two threads must not
 *    use one file descriptor's position (drover_dir_read, drover_seek) at once.
 *  - No call waits for another process or thread, except where its comment says so.
 *  - `dir` is a directory descriptor or AT_FDCWD, `path` a NUL-terminated byte string relative to it.
 *    The final symlink is never followed. The empty path names `dir` itself.
 *  - Structs that cross have fixed-width fields, no hidden padding, and are listed by drover_layout().
 */
#ifndef DROVER_H
#define DROVER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Raised with every change of this header; ffi/symbols.ts names the version it was written for. */
#define DROVER_VERSION "0.1.0"

#define DROVER_API __attribute__((visibility("default")))

/* One statx(2) result. `mode` holds type and permissions as st_mode does. `device` is (major << 20) | minor. */
struct drover_stat {
	uint64_t size;
	uint64_t blocks;
	uint64_t inode;
	int64_t mtime_seconds;
	int64_t ctime_seconds;
	uint32_t mtime_nanos;
	uint32_t ctime_nanos;
	uint32_t mode;
	uint32_t uid;
	uint32_t gid;
	uint32_t nlink;
	uint32_t device;
	uint32_t rdev_major;
	uint32_t rdev_minor;
	uint32_t reserved;
};

/* Head of one packed directory entry. The name follows without NUL; the next head is `record_size` bytes on. */
struct drover_entry {
	struct drover_stat stat;
	uint32_t record_size; /* head, name and padding: a multiple of 8 */
	uint32_t name_size;
};

/* Head of one packed extended attribute: name without NUL, then value, then padding to 8. */
struct drover_xattr {
	uint32_t record_size;
	uint32_t name_size;
	uint32_t value_size;
	uint32_t reserved;
};

/* What statfs(2) says about room. */
struct drover_statfs {
	uint64_t available; /* bytes an ordinary user may still write */
	uint64_t type;      /* magic number of the file system */
	uint64_t block_size;
};

/* Who this process is to the kernel. */
struct drover_identity {
	uint32_t uid; /* effective */
	uint32_t gid;
	uint32_t can_mount;         /* 1 with CAP_SYS_ADMIN in its own user namespace */
	uint32_t in_user_namespace; /* 1 when that is not the initial one */
};

/* Flags of drover_overlay_mount(). */
#define DROVER_OVERLAY_REDIRECT_DIR 1u
#define DROVER_OVERLAY_METACOPY 2u
#define DROVER_OVERLAY_INDEX 4u
#define DROVER_OVERLAY_USERXATTR 8u
#define DROVER_OVERLAY_READ_ONLY 16u
#define DROVER_OVERLAY_BENEATH 32u

/* The largest input, prefix or output of a zstd call: 1 GiB. */
#define DROVER_ZSTD_SIZE_MAX (1u << 30)

/* Codecs of drover_delta_encode(): Remus's markers, or the page deltas of a region. */
#define DROVER_DELTA_REMUS 0u
#define DROVER_DELTA_REGION 1u

/* What drover_delta_level() answers; every lower level is there too, and all give the same octets. */
#define DROVER_DELTA_SCALAR 0
#define DROVER_DELTA_AVX2 1
#define DROVER_DELTA_AVX512 2

/* The most pages of a call, and the most bases: 4 GiB of them. */
#define DROVER_DELTA_PAGES_MAX (1u << 20)

/* In a slot of drover_delta_encode(): write the whole page, and put it there. Alone: write it, there is no slot. */
#define DROVER_DELTA_MISS 0x80000000u
#define DROVER_DELTA_NO_SLOT 0xffffffffu

/* What drover_delta_check() finds. */
#define DROVER_DELTA_MISSING 1          /* the input ends before an encoding begins */
#define DROVER_DELTA_TRUNCATED 2        /* before its page is covered */
#define DROVER_DELTA_RUN_PAST_BUFFER 3  /* within the words of a run */
#define DROVER_DELTA_FULL_SHORT 4       /* within a whole page */
#define DROVER_DELTA_ZERO_MARKER 5      /* a marker counts no words */
#define DROVER_DELTA_RUN_PAST_PAGE 6    /* a run goes over the page's end */
#define DROVER_DELTA_SKIP_PAST_PAGE 7   /* a skip goes over the page's end */
#define DROVER_DELTA_TRAILING 8         /* something is behind the last encoding */
#define DROVER_DELTA_CODEC 9            /* the first octet is none of a region's codecs */
#define DROVER_DELTA_BITMAP_TRUNCATED 10 /* within a bitmap or its words */

/* -- the library itself ------------------------------------------------------------------------------- */

/* Writes DROVER_VERSION with its NUL; returns its length without, -ERANGE when `size` is too small. */
DROVER_API int drover_version(char *buffer, size_t size);

/*
 * Writes one line `struct.field offset size` for each field and `struct 0 size` for each struct here,
 * each ended by \n, and a final NUL. Returns the length without the NUL; -ERANGE when `size` is too small.
 */
DROVER_API int drover_layout(char *buffer, size_t size);

/* Fills `out`; cannot fail but for a missing /proc (then in_user_namespace is 0). */
DROVER_API int drover_identity(struct drover_identity *out);

/* -- files (libc.c): one system call each unless said otherwise ---------------------------------------- */

/* openat(2) with O_CLOEXEC added. Returns the descriptor; the caller closes it. */
DROVER_API int drover_open(int dir, const char *path, int flags, uint32_t mode);

/* openat2(2) with RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS and O_CLOEXEC. */
DROVER_API int drover_open_beneath(int dir, const char *path, int flags, uint32_t mode);

/* close(2). The descriptor is gone even on failure. */
DROVER_API int drover_close(int fd);

/* Reads until `size` bytes or the end of the file; returns the number of bytes read. */
DROVER_API int64_t drover_pread(int fd, void *buffer, size_t size, int64_t offset);

/* Writes all `size` bytes and returns that number, or fails; then some may have been written. */
DROVER_API int64_t drover_pwrite(int fd, const void *buffer, size_t size, int64_t offset);

DROVER_API int drover_ftruncate(int fd, int64_t size);

/* fallocate(2), FALLOC_FL_PUNCH_HOLE: the range reads as zeros and takes no room; the file keeps its size. */
DROVER_API int drover_punch(int fd, int64_t offset, int64_t size);

/* fcntl(2), F_SETPIPE_SZ: lets a pipe hold at least `size` bytes; returns what it holds now. -EBADF for what is no pipe. */
DROVER_API int drover_pipe_grow(int fd, int size);

/* lseek(2); returns the new position. */
DROVER_API int64_t drover_seek(int fd, int64_t offset, int whence);

/*
 * Copies exactly `size` bytes: FICLONERANGE when aligned, else copy_file_range(2), else read and write.
 * Holes are copied as zeros unless the range was cloned. -ENODATA when the source ends before; -EINVAL
 * for two overlapping ranges of one descriptor.
 */
DROVER_API int64_t drover_copy_range(int source, int64_t source_offset, int target, int64_t target_offset,
				     int64_t size);

/* FICLONE: makes `target` share all blocks of `source`. */
DROVER_API int drover_clone(int source, int target);

/* fsync(2); waits for the disk. */
DROVER_API int drover_fsync(int fd);

/* syncfs(2) of the file system that holds `fd`; waits for the disk. */
DROVER_API int drover_syncfs(int fd);

/* statx(2), without automounting. */
DROVER_API int drover_stat(int dir, const char *path, struct drover_stat *out);

/* statx(2) of an open file, also of one opened with O_PATH. */
DROVER_API int drover_fstat(int fd, struct drover_stat *out);

/* readlinkat(2) without NUL; returns the length. -ERANGE when `size` may have cut it. */
DROVER_API int64_t drover_readlink(int dir, const char *path, char *buffer, size_t size);

DROVER_API int drover_symlink(const char *target, int dir, const char *path);

/* linkat(2) with flags 0. */
DROVER_API int drover_link(int source_dir, const char *source, int dir, const char *path);

/* mknodat(2); `mode` holds the type too. As with open and mkdir, the umask applies. */
DROVER_API int drover_mknod(int dir, const char *path, uint32_t mode, uint32_t major, uint32_t minor);

DROVER_API int drover_mkdir(int dir, const char *path, uint32_t mode);
DROVER_API int drover_unlink(int dir, const char *path);
DROVER_API int drover_rmdir(int dir, const char *path);

/* renameat2(2). */
DROVER_API int drover_rename(int source_dir, const char *source, int dir, const char *path, uint32_t flags);

/* fchownat(2), not following; an id of 0xffffffff stays as it is. */
DROVER_API int drover_chown(int dir, const char *path, uint32_t uid, uint32_t gid);

/* fchmodat2(2) not following, or fchmodat(2) before Linux 6.6, which follows: keep it off symlinks. */
DROVER_API int drover_chmod(int dir, const char *path, uint32_t mode);

/* utimensat(2), not following; the access time stays (UTIME_OMIT). -EINVAL for nanos above 999999999. */
DROVER_API int drover_set_mtime(int dir, const char *path, int64_t seconds, uint32_t nanos);

DROVER_API int drover_fchown(int fd, uint32_t uid, uint32_t gid);
DROVER_API int drover_fchmod(int fd, uint32_t mode);
DROVER_API int drover_fset_mtime(int fd, int64_t seconds, uint32_t nanos);

/*
 * Packs all extended attributes of `path` (of the symlink itself if it is one), each behind a struct
 * drover_xattr, in the kernel's order; returns the bytes used, 0 where the file system has none. An attribute
 * that vanishes meanwhile, or that the caller may list but not read, is left out. -ERANGE when it does not fit: call again
 * with a larger buffer. `buffer` must be aligned to 8.
 */
DROVER_API int64_t drover_xattrs(int dir, const char *path, void *buffer, size_t size);

/* Returns the size of the value; -ERANGE when it does not fit, -ENODATA when there is none. */
DROVER_API int64_t drover_get_xattr(int dir, const char *path, const char *name, void *buffer, size_t size);

DROVER_API int drover_set_xattr(int dir, const char *path, const char *name, const void *value, size_t size);
DROVER_API int drover_remove_xattr(int dir, const char *path, const char *name);

/* name_to_handle_at(2): the handle's type in four bytes, then the handle; returns the sum of the sizes. */
DROVER_API int drover_file_handle(int dir, const char *path, void *buffer, size_t size);

/* flock(2) with LOCK_NB; -EWOULDBLOCK when another open file holds it. */
DROVER_API int drover_try_lock(int fd, int exclusive);

DROVER_API int drover_statfs(int fd, struct drover_statfs *out);

/* -- directories (dir.c) -------------------------------------------------------------------------------- */

/*
 * Packs the next entries of the open directory `fd` with their statx, without `.` and `..`: as many as one
 * getdents64(2) gives. Returns the bytes used, and 0 at the end. Entries that vanish between the two system
 * calls are left out. `buffer` must be aligned to 8 and hold at least 4096 bytes, else -EINVAL.
 */
DROVER_API int64_t drover_dir_read(int fd, void *buffer, size_t size);

/* -- mounts (overlay.c) --------------------------------------------------------------------------------- */

/*
 * Mounts an overlay on the directory `target`. `lower` holds `lower_count` NUL-terminated absolute paths one
 * behind the other, topmost first; `upper` and `work` are NULL for a mount that cannot be written. With
 * DROVER_OVERLAY_BENEATH the new mount goes under the one that is on `target`: -EINVAL or -EOPNOTSUPP where
 * the kernel cannot (before 6.5). Nothing is mounted on failure.
 */
DROVER_API int drover_overlay_mount(const char *lower, uint32_t lower_count, const char *upper, const char *work,
				    const char *target, uint32_t flags);

/* umount2(2) with UMOUNT_NOFOLLOW, and MNT_DETACH when `detach` is not 0. */
DROVER_API int drover_unmount(const char *target, int detach);

/*
 * Makes the overlay on `target` read-only or writable. To read-only: -EBUSY while a file in it is open for
 * writing or mapped shared and writable, and then nothing has changed.
 */
DROVER_API int drover_remount(const char *target, int read_only);

/* -- what this machine can do (probe.c) ----------------------------------------------------------------- */

/*
 * Writes one line per item, `id TAB ok TAB errno TAB detail`, ended by \n, and a final NUL. Tries things in `dir`
 * (overlay, O_DIRECT, reflink) and leaves nothing behind. Forks two short-lived children and waits for them,
 * ten seconds at most. Returns the length without the NUL; -ERANGE when `size` is too small (16 KiB is plenty).
 */
DROVER_API int drover_probe(const char *dir, char *buffer, size_t size);

/* -- deltas of files (content.c) ------------------------------------------------------------------------ */

/* The most files that one may be made of, and the largest of them. */
#define DROVER_CONTENT_BASES_MAX 4u
#define DROVER_CONTENT_SIZE_MAX (64u << 20)

/* What an op does, in the low eight bits of `what`; above them stands the base of a copy. */
#define DROVER_CONTENT_LITERAL 0u
#define DROVER_CONTENT_COPY 1u

/* In `op_count`: not done, for the caller to do otherwise. */
#define DROVER_CONTENT_LEFT 0xffffffffu

/* A file below a directory, opened as drover_open_beneath() does; `name` is where its path begins in `names`. */
struct drover_content_file {
	uint64_t size;
	int32_t dir;
	uint32_t name;
};

struct drover_content_piece {
	struct drover_content_file target;
	struct drover_content_file bases[DROVER_CONTENT_BASES_MAX]; /* the likeliest first */
	uint32_t base_count;
	uint32_t op_count; /* written: how many of `ops` are this piece's, or DROVER_CONTENT_LEFT */
};

struct drover_content_op {
	uint64_t offset; /* of a copy, in its base */
	uint32_t length;
	uint32_t what;
};

/*
 * Expresses each target by ranges of its bases and literals: the ops of all pieces go to `ops` in order, their literals
 * to `literals`. A piece is left (DROVER_CONTENT_LEFT) when a file is not there, not of that size, sparse, or
 * what it gives finds no room. `names` holds NUL-terminated paths and ends in NUL. Returns the number of literal bytes;
 * -EINVAL, -ENOMEM.
 */
DROVER_API int64_t drover_content_delta(struct drover_content_piece *pieces, size_t count, const char *names,
					size_t names_size, struct drover_content_op *ops, size_t op_max,
					uint8_t *literals, size_t literal_max);

/* -- compression (zstd.c) ------------------------------------------------------------------------------- */

/* The room drover_zstd_compress() needs at most for `size` bytes; -EFBIG above DROVER_ZSTD_SIZE_MAX. */
DROVER_API int64_t drover_zstd_bound(size_t size);

/*
 * Compresses into one frame with content size and checksum. `prefix` (or NULL) is what matches may also refer
 * to; it is not part of the frame and must be given again to decompress. Returns the size of the frame;
 * -ENOBUFS when `capacity` is too small, -EINVAL for a level outside 1..19, -EFBIG, -ENOMEM.
 */
DROVER_API int64_t drover_zstd_compress(const void *input, size_t input_size, const void *prefix, size_t prefix_size,
					int level, void *output, size_t capacity);

/*
 * Looks at the frame without decoding: 0 when it is exactly one whole frame that may hold `size` bytes and
 * wants no window above 2^window_log_max. Otherwise -EBADMSG not a frame or malformed, -ENODATA cut short,
 * -EMSGSIZE bytes behind the frame, -EOVERFLOW announces another size, -E2BIG window too large.
 */
DROVER_API int drover_zstd_check(const void *frame, size_t frame_size, size_t size, int window_log_max);

/*
 * Decodes one frame of exactly `size` bytes. Everything drover_zstd_check() refuses is refused first; also
 * -EOVERFLOW when it holds more or fewer bytes, -EILSEQ when the checksum does not match (a wrong prefix shows
 * here too). Never writes beyond `size`; on failure the content of `output` is undefined.
 */
DROVER_API int64_t drover_zstd_decompress(const void *frame, size_t frame_size, const void *prefix, size_t prefix_size,
					  int window_log_max, void *output, size_t size);

/*
 * -- page deltas (delta.c) ------------------------------------------------------------------------------
 *
 * A page is 4096 bytes. No pointer needs to be aligned. Nobody may write to an input during the call.
 */

/* The best level of this machine, of the DROVER_DELTA_ numbers above. */
DROVER_API int drover_delta_level(void);

/*
 * Encodes `count` pages one behind the other. Without `slots`, page i is encoded against base i, base_count is
 * `count`, and the bases are only read. With `slots`, page i is encoded against base slots[i] and then stored there,
 * in order, so that a slot may come again. `bases` and `pages` do not overlap.
 * Returns the bytes written; what is behind them in `output` is undefined. -ENOBUFS unless `capacity` has 4105
 * (Remus) or 4097 bytes (region) for each page, -EOPNOTSUPP for a level that the machine has not, -EINVAL for a codec
 * or slot that there is not, -EFBIG. After a failure nothing has changed.
 */
DROVER_API int64_t drover_delta_encode(uint32_t codec, uint32_t level, void *bases, size_t base_count,
				       const uint32_t *slots, const void *pages, size_t count, void *output,
				       size_t capacity);

/*
 * Looks whether `input` is exactly `count` encodings. Returns 0, or what is wrong, of the DROVER_DELTA_ findings
 * above, or -errno. `at` gets where: the marker of findings 5 to 7, else the first octet of the encoding.
 */
DROVER_API int drover_delta_check(uint32_t codec, const void *input, size_t size, size_t count, uint64_t *at);

/*
 * Decodes `count` encodings onto `pages`, which hold what the pages were. -EBADMSG for what drover_delta_check()
 * finds fault with; then no page has changed.
 */
DROVER_API int drover_delta_decode(uint32_t codec, uint32_t level, const void *input, size_t size, size_t count,
				   void *pages);

/* Writes for each page 1 where it is all zeros and 0 where not; returns how many are. */
DROVER_API int64_t drover_pages_zero(uint32_t level, const void *pages, size_t count, uint8_t *zero);

/* -- regions (region.c and its neighbours) ---------------------------------------------------------------- */

/*
 * A region is a range of memory larger than the RAM it may use. Its cold pages live in a file, fetched on touch.
 * Pages are DROVER_PAGE_SIZE bytes and named by their number from the region's start. Every page begins as zeros.
 *
 *  - At most `limit` bytes are in RAM, pages on their way out and copies in write-back included; C keeps that
 *    alone. The bookkeeping comes on top: about 13 bytes a page of `size`, and 256 KiB per context.
 *  - A touch of a cold page blocks the toucher until the page is there. If it cannot be had, the toucher gets SIGBUS
 *    (the handler that was installed before ours is called) and an event says why. It never waits for ever, and
 *    never sees another page's bytes: each page's 64-bit checksum stays in RAM and is verified at every fetch.
 *  - With DROVER_FAULT_INLINE the touching thread fetches in the SIGBUS handler. The kernel itself cannot touch a
 *    cold page then: read(2) into it fails with EFAULT. drover_region_pin() it first.
 *  - In a child after fork the region is closed: a touch is SIGSEGV, a call -EBADF.
 *  - One thread may be in drover_region_close() while others call in: they get -EBADF. A handle stays readable for
 *    the life of the process (some 12 KiB), so a late call is an error and never a crash.
 *  - Functions that take pages or ranges check them all first: -EINVAL and nothing has happened.
 */
struct drover_region;

#define DROVER_PAGE_SIZE 4096u
#define DROVER_REGION_SIZE_MAX (1ull << 40)
/* limit below this is -EINVAL, unless it covers the whole size. */
#define DROVER_REGION_LIMIT_MIN (1u << 20)
#define DROVER_REGIONS_MAX 64u
#define DROVER_REGION_BATCH_MAX 64u

/* fault_mode: who fetches. */
#define DROVER_FAULT_INLINE 0u /* the toucher, in the SIGBUS handler; private regions only */
#define DROVER_FAULT_THREAD 1u /* a thread `drv-fault` of the region; system calls on cold pages work */

/* dirty_mode: how a changed page is told from an unchanged one when it leaves. */
#define DROVER_DIRTY_HASH 0u  /* by its checksum: no cost for the writer, 0.2 us at eviction */
#define DROVER_DIRTY_WP 1u    /* write-protected until the first write, which costs a fault (about 4 us) */
#define DROVER_DIRTY_ASYNC 2u /* as HASH, and the kernel tracks writes for drover_region_harvest() */

/* flags of struct drover_region_options. */
#define DROVER_REGION_PREWRITE 1u  /* write zeros over the whole file first: later reads and writes are steadier */
#define DROVER_REGION_ANONYMOUS 2u /* remove the file's name once it is open: nothing stays after a crash */
#define DROVER_REGION_BUFFERED 4u  /* where the file system has no O_DIRECT, go through the page cache */
#define DROVER_REGION_SAY 8u       /* one line on stderr before a toucher gets SIGBUS */

struct drover_region_options {
	uint64_t size;        /* bytes, a multiple of DROVER_PAGE_SIZE, at most DROVER_REGION_SIZE_MAX */
	uint64_t limit;       /* bytes of RAM, rounded down to pages; may be above `size` */
	uint64_t ssd_size;    /* bytes of the file; 0 is `size`; less than `size` is -EINVAL */
	uint32_t fault_mode;  /* DROVER_FAULT_… */
	uint32_t dirty_mode;  /* DROVER_DIRTY_… */
	uint32_t shared;      /* 1: a memfd that others may map (drover_region_fd); needs DROVER_FAULT_THREAD */
	uint32_t flags;       /* DROVER_REGION_… */
	uint32_t spin_us;     /* spin so long for a read before blocking; at most 1000 */
	uint32_t evict_batch; /* pages per eviction; 0 is the default, 16; at most DROVER_REGION_BATCH_MAX */
	uint32_t read_around; /* pages per fault, a power of two up to 16; 0 is 1 */
	uint32_t contexts;    /* how many threads may fetch at once, 1 to 64; 0 is 8 */
	uint32_t copies;      /* of a page at donors, 1 or 2; 0 is 1. Only of a region with several stores */
	uint32_t reserved;    /* 0 */
};

/* kind of struct drover_store_options: what sort of place cold pages have. */
#define DROVER_STORE_FILE 0u  /* a file or block device */
#define DROVER_STORE_NBD 1u   /* a donor's memory, over TCP */
#define DROVER_STORE_VERBS 2u /* a donor's registered memory, by RDMA */

/* flags of struct drover_store_options. */
#define DROVER_STORE_SEALED 1u /* what leaves is encrypted, and what comes back is believed only if it is that */

/* The most stores of one region. */
#define DROVER_STORES_MAX 8u

/* state of struct drover_store_stats. */
#define DROVER_STORE_UP 0u
#define DROVER_STORE_DOWN 1u     /* it failed; it is asked again from time to time */
#define DROVER_STORE_RETIRING 2u /* its pages are moving away; nothing new goes there */
#define DROVER_STORE_GONE 3u     /* it holds nothing any more and is not asked again */

/* One place for cold pages. The strings are read during the call only. */
struct drover_store_options {
	const char *path;       /* FILE: as drover_region_open() says. Else the donor's numeric IPv4 or IPv6 address */
	const char *name;       /* FILE: NULL. NBD: the export's name. VERBS: the ticket */
	uint64_t size;          /* bytes lent, a multiple of DROVER_PAGE_SIZE; FILE: 0 is the region's size */
	uint64_t timeout_nanos; /* of one request; 0 is the default, 5 seconds. FILE: unused */
	uint32_t kind;          /* DROVER_STORE_… */
	uint32_t port;          /* NBD, VERBS: 1 to 65535 */
	uint32_t flags;         /* DROVER_STORE_SEALED */
	uint32_t reserved;      /* 0 */
};

/* One store of a region, as it is now. */
struct drover_store_stats {
	uint64_t slots;         /* pages that it can hold */
	uint64_t used;          /* of them, in use */
	uint64_t reads;         /* pages */
	uint64_t writes;        /* pages */
	uint64_t errors;        /* requests that failed */
	uint64_t refused;       /* copies that were not what had been written, and were not believed */
	uint64_t latency_nanos; /* of a small read, smoothed; 0 before the first */
	uint32_t kind;          /* DROVER_STORE_FILE … */
	uint32_t state;         /* DROVER_STORE_UP … */
};

/* What drover_region_sample() says of a page in the low four bits; the high four are its heat, 0 to 15. */
#define DROVER_PAGE_EMPTY 0u         /* zeros, stored nowhere */
#define DROVER_PAGE_COLD 1u          /* in the file only */
#define DROVER_PAGE_BUSY 2u          /* a thread is moving it */
#define DROVER_PAGE_CLEAN 3u         /* mapped, write-protected, equal to the file */
#define DROVER_PAGE_DIRTY 4u         /* mapped, perhaps changed */
#define DROVER_PAGE_STANDBY 5u       /* in RAM but unmapped, equal to the file: a touch costs no read */
#define DROVER_PAGE_STANDBY_DIRTY 6u /* the same, not written yet */
#define DROVER_PAGE_WRITEBACK 7u     /* the same, being written */
#define DROVER_PAGE_POISON 8u        /* lost: a touch is SIGBUS */

/* Counters since the region was opened, then gauges. */
struct drover_region_stats {
	uint64_t faults;          /* touches that had to be served, all kinds below */
	uint64_t fetches;         /* ... from the file */
	uint64_t fills;           /* ... with zeros */
	uint64_t promotions;      /* ... from RAM: standby pages and pages in write-back */
	uint64_t waits;           /* ... by waiting for another thread's move */
	uint64_t protect_faults;  /* ... first writes, DROVER_DIRTY_WP */
	uint64_t refaults;        /* fetches of pages that left less than one limit's worth of evictions ago */
	uint64_t prefetched;      /* pages read without a touch: prefetch, populate, pin, read-around */
	uint64_t evicted_clean;
	uint64_t evicted_dirty;   /* pages that left and had to be written */
	uint64_t read_calls;      /* requests to the device */
	uint64_t read_bytes;
	uint64_t write_calls;
	uint64_t written_bytes;
	uint64_t stall_nanos;     /* time that touching threads spent in faults */
	uint64_t errors;          /* events of all kinds */
	uint64_t events_lost;     /* of those, never seen by drover_region_events() */
	uint64_t resident_pages;  /* gauge: everything that counts against the limit */
	uint64_t pinned_pages;    /* gauge */
	uint64_t writeback_pages; /* gauge */
	uint64_t limit_pages;     /* gauge: the limit in force */
};

/*
 * Buckets of a histogram of nanoseconds: v < 8 is bucket v; above, with b the highest set bit of v, it is
 * 8 * (b - 2) + the three bits below b. So each is at most an eighth wide.
 */
#define DROVER_HISTOGRAM_BUCKETS 304u
#define DROVER_TRACE_ENTRIES 8192u

/* One entry of the trace: page | kind << 40 | milliseconds since open << 44 (20 bits, wrapping). Never 0. */
#define DROVER_TRACE_READ 1u     /* a read fetched it from the file */
#define DROVER_TRACE_WRITE 2u    /* a write fetched it from the file */
#define DROVER_TRACE_FILL 3u     /* first touch */
#define DROVER_TRACE_PROMOTE 4u  /* touched while on standby or in write-back */
#define DROVER_TRACE_PREFETCH 5u /* brought in without a touch */

/*
 * What TypeScript and C share, in one block of memory for as long as the region is open. The first
 * six fields are knobs: anybody may store into them at any time, C reads them at the next fault and clamps them to
 * what the options allow. The rest is C's. All words are written atomically, each for itself.
 */
struct drover_region_control {
	uint64_t limit_pages; /* lowering takes effect with the next faults, or at once by drover_region_reclaim() */
	uint32_t spin_us;
	uint32_t evict_batch;
	uint32_t read_around;
	uint32_t heat_max;   /* rounds of the clock that the hottest pages survive: 0 (plain FIFO) to 15, default 15 */
	uint64_t trace_head; /* entries ever written; entry n is trace[n % DROVER_TRACE_ENTRIES] */
	struct drover_region_stats stats;                      /* as drover_region_stats() copies */
	uint64_t fault_histogram[DROVER_HISTOGRAM_BUCKETS];    /* whole faults, without kernel entry and exit */
	uint64_t device_histogram[DROVER_HISTOGRAM_BUCKETS];   /* reads, from submission to completion seen */
	uint64_t trace[DROVER_TRACE_ENTRIES];
};

/* why of struct drover_region_event */
#define DROVER_EVENT_READ 1u     /* reading failed; the page is POISON */
#define DROVER_EVENT_CHECKSUM 2u /* the file gave other bytes than were written; the page is POISON */
#define DROVER_EVENT_SHORT 3u    /* the file is shorter than it was; the page is POISON */
#define DROVER_EVENT_WRITE 4u    /* writing failed; the page stays in RAM and is tried again when its turn comes */
#define DROVER_EVENT_ROOM 5u     /* nothing could be evicted; the toucher got SIGBUS, the page is as it was */
#define DROVER_EVENT_POISONED 6u /* somebody touched a POISON page and got SIGBUS */
#define DROVER_EVENT_LOST 7u     /* the memory was taken away behind our back (madvise); the page is POISON */
#define DROVER_EVENT_KERNEL 8u   /* userfaultfd refused; the toucher got SIGBUS */
#define DROVER_EVENT_STORE_DOWN 9u /* a store failed; `page` is its number. Its pages come from other copies */
#define DROVER_EVENT_STORE_UP 10u  /* it answers again */

struct drover_region_event {
	uint64_t page;
	uint64_t nanos; /* since the region was opened */
	uint32_t error; /* a positive errno */
	uint32_t why;   /* DROVER_EVENT_… */
};

/*
 * Opens a region over the file `ssd_path` (absolute, or relative to the working directory): a new or empty
 * file, which is extended to ssd_size, a block device, or a directory, which then holds an unnamed file. The
 * file is locked (flock) until close and its former content is lost. A named file stays after close.
 * Errors: -EINVAL options that cannot be; -EEXIST the file has content; -EWOULDBLOCK another region has it;
 * -ENOSPC; -EOPNOTSUPP this kernel or file system cannot (userfaultfd features, O_DIRECT; see the flags);
 * -EPERM no right to userfaultfd; -EMFILE more than DROVER_REGIONS_MAX. May take a second per GiB with
 * DROVER_REGION_PREWRITE. The caller closes *out with drover_region_close().
 */
DROVER_API int drover_region_open(const char *ssd_path, const struct drover_region_options *options,
				  struct drover_region **out);

/*
 * The same over `count` stores. At most one FILE, and it holds every page, so that its size is at least the region's; any
 * other store is a donor, a second FILE too, and may be of any size. With the file first, a page that leaves RAM goes to
 * the file, and to donors only by drover_region_move(). With donors first it goes to `copies` donors at once, and to
 * the file too unless `copies` is 2 and there were two with room. Reads come from the copy that answers fastest, and from the next
 * one when it fails. Without a file the donors must have room for `copies` times the region, else -ENOSPC.
 * Errors as above, and -EOPNOTSUPP for a kind of store that this library was built without; what connecting to a donor says.
 */
DROVER_API int drover_region_open_stores(const struct drover_store_options *stores, uint32_t count,
					 const struct drover_region_options *options, struct drover_region **out);

/*
 * Gives memory and file back. Writes nothing. Waits until calls and faults in other threads are done, which is
 * bounded by the device. The address range stays reserved: a later touch is SIGSEGV, never other memory.
 */
DROVER_API int drover_region_close(struct drover_region *region);

/* Where the region starts; 0 when it is closed. */
DROVER_API uint64_t drover_region_address(struct drover_region *region);

/* Where its struct drover_region_control is, readable until close; 0 when it is closed. */
DROVER_API uint64_t drover_region_control(struct drover_region *region);

/* The memfd of a shared region, which the region keeps; -EINVAL for a private one. */
DROVER_API int drover_region_fd(struct drover_region *region);

/*
 * Brings pages in and keeps them: mapped, writable, safe for system calls, until as many drover_region_unpin() calls.
 * -ENOMEM when more than 7/8 of the limit would be pinned; -EOVERFLOW above 255 pins of a page; -EIO when
 * a page cannot be had. On failure nothing is pinned.
 */
DROVER_API int drover_region_pin(struct drover_region *region, uint64_t first, uint64_t count);

/* -EINVAL when a page is not pinned, and then nothing has changed. */
DROVER_API int drover_region_unpin(struct drover_region *region, uint64_t first, uint64_t count);

/* Brings all pages of the range in, evicting others; returns how many had to be. Waits for the reads. */
DROVER_API int64_t drover_region_populate(struct drover_region *region, uint64_t first, uint64_t count);

#define DROVER_PREFETCH_WAIT 1u /* return when all have arrived */

/*
 * Starts reading the cold pages among `pages` all at once; empty and poisoned ones are left alone. A touch before
 * arrival waits for it. Best effort: what no context or no room is there for is left out. Returns how many reads
 * were started. At most 2^20 pages at a time.
 */
DROVER_API int64_t drover_region_prefetch(struct drover_region *region, const uint64_t *pages, size_t count,
					  uint32_t flags);

#define DROVER_EVICT_STANDBY 1u /* only unmap: the next touch is cheap, and says that the page is in use */
#define DROVER_EVICT_WAIT 2u    /* also pages on the move; return when the writes are done */

/* Sends these pages out now, whatever their heat; not pinned ones. Returns how many left or are being written. */
DROVER_API int64_t drover_region_evict(struct drover_region *region, const uint64_t *pages, size_t count,
				       uint32_t flags);

/* Evicts by the clock until `resident` pages or fewer are in RAM. Returns how many are; waits for the writes. */
DROVER_API int64_t drover_region_reclaim(struct drover_region *region, uint64_t resident);

/* How hot these pages count: 0 leaves at the clock's next pass, 15 stays longest. */
DROVER_API int drover_region_heat(struct drover_region *region, uint64_t first, uint64_t count, uint32_t heat);

/*
 * Writes every changed page to the file; pages stay where they are. Returns how many were written. -EIO when some
 * could not be; the events name them. What others write meanwhile may or may not be included.
 */
DROVER_API int64_t drover_region_flush(struct drover_region *region);

/* One byte per page of the range: DROVER_PAGE_… | heat << 4. */
DROVER_API int drover_region_sample(struct drover_region *region, uint64_t first, uint64_t count, uint8_t *out);

/*
 * DROVER_DIRTY_ASYNC: sets in `bitmap` one bit per page written since the last harvest (first word, lowest bit is
 * page 0), clears the others, and begins the next epoch. `words` must be size / page / 64, rounded up. Returns
 * how many are set. A page may be reported though it was not written (after demotion), never the other way round.
 * A write that happens while the call runs is in this harvest or in the next. -EOPNOTSUPP in other modes.
 */
DROVER_API int64_t drover_region_harvest(struct drover_region *region, uint64_t *bitmap, size_t words);

/* Declares pages lost: a touch is SIGBUS from now on. -EBUSY when one is pinned; then none is changed. */
DROVER_API int drover_region_poison(struct drover_region *region, uint64_t first, uint64_t count);

/* Makes pages zero again, POISON ones too, and frees what they held. -EBUSY when one is pinned; then none is changed. */
DROVER_API int drover_region_reset(struct drover_region *region, uint64_t first, uint64_t count);

/* One byte per page of the range: bit n says that store n has a copy. It may be old while the page is in RAM. */
DROVER_API int drover_region_places(struct drover_region *region, uint64_t first, uint64_t count, uint8_t *out);

/*
 * Copies the cold ones among `pages` to a store, and gives back their slots where they need none any more: all at donors when
 * it is the file, those above `copies` when it is a donor. Returns how many are there now. A touch meanwhile waits
 * for its page, as long as a read and a write take. At most 2^20 pages. -EINVAL for a region with one store.
 */
DROVER_API int64_t drover_region_move(struct drover_region *region, const uint64_t *pages, size_t count, uint32_t store);

/*
 * Makes missing copies of the cold pages of a range, at most 256 of them, and asks stores that are down whether they answer
 * again. Pages in RAM that have too few are written when they leave. Returns how many cold pages of the range still have
 * fewer copies than they should and could have.
 */
DROVER_API int64_t drover_region_mend(struct drover_region *region, uint64_t first, uint64_t count);

#define DROVER_RETIRE_LOST 1u /* it has lost everything: do not try to read from it */

/*
 * Moves all that a donor holds elsewhere, `limit` pages in one call; nothing new goes there from the first call on. Returns how many
 * pages it still holds; at 0 it is GONE, and its place can be taken by another one. What has no other copy and no other room
 * stays there. -EINVAL for the file.
 */
DROVER_API int64_t drover_region_retire(struct drover_region *region, uint32_t store, uint32_t flags, uint64_t limit);

/* One more donor, in the place of one that is GONE if there is such; returns its number. -EMFILE above DROVER_STORES_MAX. */
DROVER_API int drover_region_add_store(struct drover_region *region, const struct drover_store_options *store);

/* Fills `out` for the first `count` stores; returns how many there are. */
DROVER_API int drover_region_stores(struct drover_region *region, struct drover_store_stats *out, uint32_t count);

DROVER_API int drover_region_stats(struct drover_region *region, struct drover_region_stats *out);

/* Takes up to `count` of the oldest events; returns how many. The ring holds 256; newer ones are lost and counted. */
DROVER_API int drover_region_events(struct drover_region *region, struct drover_region_event *events, size_t count);

/* -- lending memory by RDMA (donor.c) --------------------------------------------------------------------- */

/* 32 random bytes that name a lease to whoever may use it; the borrower has them as 64 hexadecimal digits. */
#define DROVER_TICKET_SIZE 32u

#define DROVER_DONOR_LEASES_MAX 1024u
#define DROVER_DONOR_LINKS_MAX 4096u
#define DROVER_DONOR_LINKS_PER_LEASE_MAX 80u

struct drover_donor_stats {
	uint64_t lent_bytes; /* gauge */
	uint64_t accepted;   /* connections since it was opened */
	uint64_t refused;    /* attempts: no such ticket, too many, not a borrower */
	uint32_t leases;     /* gauge */
	uint32_t links;      /* gauge: connections now */
};

struct drover_donor;

/*
 * Listens for borrowers on an RDMA adapter, in a thread of its own: `address` is a numeric IPv4 or IPv6 address of
 * the adapter, or 0.0.0.0 or :: for all of them; `port` 0 takes a free one. -EOPNOTSUPP without libibverbs and
 * librdmacm, -ENODEV without an adapter at that address, -EACCES without the right to use it, -EADDRINUSE.
 * The caller closes *out with drover_donor_close().
 */
DROVER_API int drover_donor_open(const char *address, uint32_t port, struct drover_donor **out);

/* The port that borrowers dial. */
DROVER_API int drover_donor_port(struct drover_donor *donor);

/*
 * Lends `size` bytes (whole pages) to whoever shows this ticket: those at `memory`, which the caller keeps where they are until
 * drover_donor_revoke() returns, or for NULL memory of the library's own, all zeros. They take RAM, and are pinned, from the
 * first connection on. -EEXIST when the ticket has a lease already; -EMFILE more than DROVER_DONOR_LEASES_MAX; -ENOMEM.
 */
DROVER_API int drover_donor_lend(struct drover_donor *donor, const uint8_t *ticket, void *memory, uint64_t size);

/*
 * Ends a lease: when this returns, its connections are cut, nobody can reach the memory, and the library's own is the system's again.
 * -ENOENT when there is none. Takes as long as registering memory on another adapter may take, at most.
 */
DROVER_API int drover_donor_revoke(struct drover_donor *donor, const uint8_t *ticket);

DROVER_API int drover_donor_stats(struct drover_donor *donor, struct drover_donor_stats *out);

/* Revokes everything and ends the thread. The handle is gone then. */
DROVER_API int drover_donor_close(struct drover_donor *donor);

/* -- measuring memory (bench.c) ------------------------------------------------------------------------- */

/* Values of drover_bench_options.pattern. */
#define DROVER_BENCH_UNIFORM 0u
#define DROVER_BENCH_ZIPF 1u /* exponent 0.99, the hot pages spread over the memory */
#define DROVER_BENCH_SCAN 2u /* one word of each page, in order, around and around */

#define DROVER_BENCH_THREADS_MAX 64u
#define DROVER_BENCH_HINTS_MAX 64u

/* What drover_bench_touch() does. It ends with whichever of `nanoseconds` and `ops` comes first. */
struct drover_bench_options {
	uint64_t size;        /* of the memory: whole pages */
	uint64_t nanoseconds; /* at least 1 */
	uint64_t ops;         /* of each thread; 0: no bound */
	uint64_t seed;
	uint32_t pattern;
	uint32_t threads; /* 1 to DROVER_BENCH_THREADS_MAX */
	uint32_t writes;  /* of 1000 accesses */
	uint32_t hints;   /* accesses announced at once to drover_region_prefetch(); 0: none */
};

/* What it did. Latencies in nanoseconds, of every access, within 1.6 percent. */
struct drover_bench_result {
	uint64_t ops;
	uint64_t nanoseconds;
	uint64_t p50;
	uint64_t p90;
	uint64_t p99;
	uint64_t slowest;
	uint64_t wrong;        /* reads that were not what was written last */
	uint64_t wrong_offset; /* of one of them */
	uint64_t sum;          /* of all that was read */
};

/*
 * Gives every word of `memory` its value, and sets `versions`, size / 512 bytes that the caller keeps, to zero. `memory`
 * may be a region's or any other; 64-bit aligned, whole pages.
 */
DROVER_API int drover_bench_fill(void *memory, uint64_t size, uint8_t *versions);

/*
 * Touches 8-byte words of `memory`, filled before, on the caller's thread and options->threads - 1 others that end
 * with the call. Takes as long as the options say. `region` is what hints go to, or NULL. -EINVAL for options out
 * of their range; -ENOMEM or -EAGAIN when a thread cannot be had.
 */
DROVER_API int drover_bench_touch(struct drover_region *region, void *memory, uint8_t *versions,
				  const struct drover_bench_options *options, struct drover_bench_result *out);

/* Compares every word with what was written last; writes how many differ. */
DROVER_API int drover_bench_verify(const void *memory, uint64_t size, const uint8_t *versions, uint64_t *wrong_out);

/* -- a file by FUSE (fuse.c) ----------------------------------------------------------------------------- */

#define DROVER_FUSE_READ_ONLY 1u   /* nobody writes */
#define DROVER_FUSE_KEEP_CACHE 2u  /* what the page cache holds stays good when the file is opened again */
#define DROVER_FUSE_ALLOW_OTHER 4u /* other users come as far as `mode` lets them */
#define DROVER_FUSE_HELPER 8u      /* mounted by fusermount3: no privilege needed */

#define DROVER_FUSE_DATA_MAX (1u << 20)             /* the most bytes of one read or write */
#define DROVER_FUSE_SLOT_SIZE ((1u << 20) + 4096u)  /* from the data of one slot to that of the next */
#define DROVER_FUSE_SLOTS_MAX 256u
#define DROVER_FUSE_TIMEOUT_MS_MAX 3600000u

struct drover_fuse_options {
	uint64_t size;       /* of the file, which never changes */
	uint32_t mode;       /* permissions, at most 0777 */
	uint32_t uid;
	uint32_t gid;
	uint32_t flags;      /* DROVER_FUSE_… */
	uint32_t timeout_ms; /* a request that has no reply by then is answered with EIO; 1 to an hour */
	uint32_t slots;      /* requests under way at once: 1 to DROVER_FUSE_SLOTS_MAX */
};

/* op of struct drover_fuse_request */
#define DROVER_FUSE_READ 1u
#define DROVER_FUSE_WRITE 2u
#define DROVER_FUSE_FLUSH 3u
#define DROVER_FUSE_ZERO 4u  /* the range reads as zeros and keeps its room */
#define DROVER_FUSE_PUNCH 5u /* the range reads as zeros and gives its room back */
#define DROVER_FUSE_DATA 6u  /* where data begins, at or behind offset: a 64-bit number, or ENXIO */
#define DROVER_FUSE_HOLE 7u  /* the same for a hole; the file's end is one */

struct drover_fuse_request {
	uint64_t offset; /* the range is inside of the file */
	uint64_t length;
	uint32_t slot;
	uint32_t op; /* DROVER_FUSE_… */
};

struct drover_fuse_stats {
	uint64_t requests; /* of any kind */
	uint64_t reads;
	uint64_t read_bytes;
	uint64_t writes;
	uint64_t written_bytes;
	uint64_t flushes;
	uint64_t errors;   /* answers that were errors */
	uint64_t timeouts; /* those for want of a reply */
	uint64_t late;     /* replies that came after that */
	uint64_t pending;  /* requests that are under way now */
};

struct drover_fuse;

/*
 * Shows a file of options->size bytes at `target`, an absolute path at which there is a regular file, and starts the
 * thread that serves it. `source` is what the list of mounts shows. With DROVER_FUSE_HELPER it waits for fusermount3,
 * ten seconds at most, which says on stderr why it does not mount (-EPERM). -EINVAL options that cannot be; -ENOENT no
 * /dev/fuse, no target or no helper; and what mount(2) says. On failure nothing is mounted. The caller ends it with
 * drover_unmount(), or its like, and drover_fuse_close().
 */
DROVER_API int drover_fuse_open(const char *target, const char *source, const struct drover_fuse_options *options,
				struct drover_fuse **out);

/* The data of slot 0; that of slot n is n * DROVER_FUSE_SLOT_SIZE behind it. There until close. */
DROVER_API uint64_t drover_fuse_room(struct drover_fuse *fuse);

/*
 * Takes up to `count` requests; each of them wants a drover_fuse_reply(). Looks for spin_us microseconds (at most
 * 1000), then sleeps for timeout_ms. 0 when there are none; -ENODEV when there will be no more: it is unmounted.
 */
DROVER_API int drover_fuse_wait(struct drover_fuse *fuse, struct drover_fuse_request *requests, uint32_t count,
				uint32_t spin_us, uint32_t timeout_ms);

/*
 * Ends a request and gives its slot back: with `error` (a positive errno), or with `size` bytes of `data` (NULL for the
 * slot's own room): what was to be read, eight bytes for DATA and HOLE, else none. -ETIMEDOUT when EIO was answered
 * before; the slot is given back all the same. -EINVAL for a slot that is not taken, or another size; nothing is done.
 */
DROVER_API int drover_fuse_reply(struct drover_fuse *fuse, uint32_t slot, int32_t error, const void *data,
				 uint32_t size);

DROVER_API int drover_fuse_stats(struct drover_fuse *fuse, struct drover_fuse_stats *out);

/*
 * Ends the thread and the connection: what is still mounted answers ENOTCONN from now on. Returns how many taken slots
 * have had no reply; if there are any, their room stays readable for ever, because its takers may still use it.
 * No other call may be under way but a drover_fuse_wait(), which ends first with -ENODEV and must have returned.
 */
DROVER_API int drover_fuse_close(struct drover_fuse *fuse);

#ifdef __cplusplus
}
#endif

#endif
