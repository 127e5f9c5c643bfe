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

/* -- the library itself ------------------------------------------------------------------------------- */

/* Writes DROVER_VERSION with its NUL; returns its length without, -ERANGE when `size` is too small. */
DROVER_API int drover_version(char *buffer, size_t size);

/*
 * Writes one line `struct.field offset size` for each field and `struct 0 size` for each struct above,
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

#ifdef __cplusplus
}
#endif

#endif
