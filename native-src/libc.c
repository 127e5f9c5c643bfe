/*
 * libc.c - file calls on byte paths, each a thin wrapper that returns -errno itself.
 *
 * Why a wrapper at all: errno is not reliable once a call ran on another thread, and Deno's own file calls know
 * neither names that are not UTF-8 nor nanoseconds. What is more than one system call here is the loop over short
 * reads and writes, drover_copy_range, and the packing of extended attributes.
 */
#include "internal.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

/* The most that one read or write moves; the kernel's own bound is a page below 2 GiB. */
#define TRANSFER_SIZE_MAX ((size_t)1 << 30)

/* The smallest range worth asking the file system to clone. */
#define CLONE_SIZE_MIN 65536
#define CLONE_ALIGNMENT 4096

/* openat2 with RESOLVE_BENEATH says EAGAIN when a rename raced with a `..`; that many are tried. */
#define OPEN_ATTEMPTS_MAX 16

#define XATTR_SIZE_MAX 65536

/* struct xattr_args of the kernel, which older headers lack. */
struct xattr_value {
	_Alignas(8) uint64_t value;
	uint32_t size;
	uint32_t flags;
};

static const char *self_or(const char *path)
{
	return path[0] == '\0' ? "." : path;
}

int drover_open(int dir, const char *path, int flags, uint32_t mode)
{
	int fd;

	do
		fd = openat(dir, self_or(path), flags | O_CLOEXEC, (mode_t)mode);
	while (fd < 0 && errno == EINTR);
	return result(fd);
}

int drover_open_beneath(int dir, const char *path, int flags, uint32_t mode)
{
	struct open_how how = {
		.flags = (uint64_t)(uint32_t)(flags | O_CLOEXEC),
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS,
	};

	/* openat2 refuses a mode that cannot take effect. */
	if ((flags & O_CREAT) != 0 || (flags & O_TMPFILE) == O_TMPFILE)
		how.mode = mode & 07777u;
	for (int attempt = 1;; attempt++) {
		long fd = syscall(SYS_openat2, dir, self_or(path), &how, sizeof(how));

		if (fd >= 0 || attempt >= OPEN_ATTEMPTS_MAX || (errno != EAGAIN && errno != EINTR))
			return result(fd);
	}
}

int drover_close(int fd)
{
	int rc = close(fd);

	/* Linux has released the descriptor when close is interrupted; a second close could hit another file. */
	return rc < 0 && errno == EINTR ? 0 : result(rc);
}

int64_t drover_pread(int fd, void *buffer, size_t size, int64_t offset)
{
	size_t done = 0;

	if (size > INT64_MAX || offset < 0 || offset > INT64_MAX - (int64_t)size)
		return -EINVAL;
	while (done < size) {
		size_t want = size - done < TRANSFER_SIZE_MAX ? size - done : TRANSFER_SIZE_MAX;
		ssize_t got = pread(fd, (char *)buffer + done, want, offset + (int64_t)done);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		if (got == 0)
			break;
		done += (size_t)got;
	}
	return (int64_t)done;
}

int64_t drover_pwrite(int fd, const void *buffer, size_t size, int64_t offset)
{
	size_t done = 0;

	if (size > INT64_MAX || offset < 0 || offset > INT64_MAX - (int64_t)size)
		return -EINVAL;
	while (done < size) {
		size_t want = size - done < TRANSFER_SIZE_MAX ? size - done : TRANSFER_SIZE_MAX;
		ssize_t put = pwrite(fd, (const char *)buffer + done, want, offset + (int64_t)done);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return -errno;
		if (put == 0)
			return -EIO;
		done += (size_t)put;
	}
	return (int64_t)done;
}

int drover_ftruncate(int fd, int64_t size)
{
	int rc;

	do
		rc = ftruncate(fd, size);
	while (rc < 0 && errno == EINTR);
	return result(rc);
}

int drover_punch(int fd, int64_t offset, int64_t size)
{
	int rc;

	do
		rc = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, size);
	while (rc < 0 && errno == EINTR);
	return rc < 0 ? -errno : 0;
}

int drover_pipe_grow(int fd, int size)
{
	int now = fcntl(fd, F_GETPIPE_SZ);

	if (now >= 0 && now < size)
		now = fcntl(fd, F_SETPIPE_SZ, size);
	return now < 0 ? -errno : now;
}

int64_t drover_seek(int fd, int64_t offset, int whence)
{
	return result64(lseek(fd, offset, whence));
}

/* Copies by read and write; for what copy_file_range cannot do. */
static int64_t copy_through_buffer(int source, int64_t source_offset, int target, int64_t target_offset, int64_t size)
{
	char buffer[65536];
	int64_t done = 0;

	while (done < size) {
		size_t want = size - done < (int64_t)sizeof(buffer) ? (size_t)(size - done) : sizeof(buffer);
		int64_t got = drover_pread(source, buffer, want, source_offset + done);
		int64_t put;

		if (got < 0)
			return got;
		if (got == 0)
			return -ENODATA;
		put = drover_pwrite(target, buffer, (size_t)got, target_offset + done);
		if (put < 0)
			return put;
		done += got;
	}
	return done;
}

int64_t drover_copy_range(int source, int64_t source_offset, int target, int64_t target_offset, int64_t size)
{
	int64_t done = 0;

	if (source_offset < 0 || target_offset < 0 || size < 0 || source_offset > INT64_MAX - size ||
	    target_offset > INT64_MAX - size)
		return -EINVAL;
	if (source == target && source_offset < target_offset + size && target_offset < source_offset + size && size > 0)
		return -EINVAL;
	if (size >= CLONE_SIZE_MIN && ((source_offset | target_offset | size) & (CLONE_ALIGNMENT - 1)) == 0) {
		struct file_clone_range range = {
			.src_fd = source,
			.src_offset = (uint64_t)source_offset,
			.src_length = (uint64_t)size,
			.dest_offset = (uint64_t)target_offset,
		};

		/* Every failure just means that the next way is tried; that one says what is really wrong. */
		if (ioctl(target, FICLONERANGE, &range) == 0)
			return size;
	}
	while (done < size) {
		off_t from = source_offset + done;
		off_t to = target_offset + done;
		size_t want = size - done < (int64_t)TRANSFER_SIZE_MAX ? (size_t)(size - done) : TRANSFER_SIZE_MAX;
		ssize_t got = copy_file_range(source, &from, target, &to, want, 0);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0) {
			int64_t rest;

			if (got < 0 && (errno == ENOSPC || errno == EDQUOT || errno == EIO))
				return -errno;
			/* Also after 0: some file systems say 0 for what read(2) can read. */
			rest = copy_through_buffer(source, from, target, to, size - done);
			return rest < 0 ? rest : done + rest;
		}
		done += got;
	}
	return done;
}

int drover_clone(int source, int target)
{
	return result(ioctl(target, FICLONE, source));
}

int drover_fsync(int fd)
{
	return result(fsync(fd));
}

int drover_syncfs(int fd)
{
	return result(syncfs(fd));
}

int stat_at(int dir, const char *path, int flags, struct drover_stat *out)
{
	struct statx sx;

	if (statx(dir, path, flags | AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_BASIC_STATS, &sx) < 0)
		return -errno;
	*out = (struct drover_stat){
		.size = sx.stx_size,
		.blocks = sx.stx_blocks,
		.inode = sx.stx_ino,
		.mtime_seconds = sx.stx_mtime.tv_sec,
		.ctime_seconds = sx.stx_ctime.tv_sec,
		.mtime_nanos = sx.stx_mtime.tv_nsec,
		.ctime_nanos = sx.stx_ctime.tv_nsec,
		.mode = sx.stx_mode,
		.uid = sx.stx_uid,
		.gid = sx.stx_gid,
		.nlink = sx.stx_nlink,
		.device = sx.stx_dev_major << 20 | sx.stx_dev_minor,
		.rdev_major = sx.stx_rdev_major,
		.rdev_minor = sx.stx_rdev_minor,
	};
	return 0;
}

int drover_stat(int dir, const char *path, struct drover_stat *out)
{
	return stat_at(dir, path, AT_EMPTY_PATH, out);
}

int drover_fstat(int fd, struct drover_stat *out)
{
	/* AT_FDCWD is a directory, not an open file. */
	return fd < 0 ? -EBADF : stat_at(fd, "", AT_EMPTY_PATH, out);
}

int64_t drover_readlink(int dir, const char *path, char *buffer, size_t size)
{
	ssize_t length = readlinkat(dir, path, buffer, size);

	if (length >= 0 && (size_t)length == size)
		return -ERANGE;
	return result64(length);
}

int drover_symlink(const char *target, int dir, const char *path)
{
	return result(symlinkat(target, dir, path));
}

int drover_link(int source_dir, const char *source, int dir, const char *path)
{
	return result(linkat(source_dir, source, dir, path, 0));
}

int drover_mknod(int dir, const char *path, uint32_t mode, uint32_t major, uint32_t minor)
{
	return result(mknodat(dir, path, (mode_t)mode, makedev(major, minor)));
}

int drover_mkdir(int dir, const char *path, uint32_t mode)
{
	return result(mkdirat(dir, path, (mode_t)mode));
}

int drover_unlink(int dir, const char *path)
{
	return result(unlinkat(dir, path, 0));
}

int drover_rmdir(int dir, const char *path)
{
	return result(unlinkat(dir, path, AT_REMOVEDIR));
}

int drover_rename(int source_dir, const char *source, int dir, const char *path, uint32_t flags)
{
	return result(renameat2(source_dir, source, dir, path, flags));
}

int drover_chown(int dir, const char *path, uint32_t uid, uint32_t gid)
{
	return result(fchownat(dir, path, uid, gid, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH));
}

int drover_chmod(int dir, const char *path, uint32_t mode)
{
	/* 1 once the kernel said that it has no fchmodat2; a stale 0 costs one more refused call. */
	static atomic_int missing;

	if (atomic_load_explicit(&missing, memory_order_relaxed) == 0) {
		int rc = result(syscall(SYS_fchmodat2, dir, self_or(path), mode, AT_SYMLINK_NOFOLLOW));

		if (rc != -ENOSYS)
			return rc;
		atomic_store_explicit(&missing, 1, memory_order_relaxed);
	}
	return result(fchmodat(dir, self_or(path), (mode_t)mode, 0));
}

static int mtime_only(int64_t seconds, uint32_t nanos, struct timespec times[2])
{
	/* Larger values are UTIME_NOW and UTIME_OMIT, which the caller cannot mean. */
	if (nanos > 999999999u)
		return -EINVAL;
	times[0] = (struct timespec){ .tv_nsec = UTIME_OMIT };
	times[1] = (struct timespec){ .tv_sec = seconds, .tv_nsec = (long)nanos };
	return 0;
}

int drover_set_mtime(int dir, const char *path, int64_t seconds, uint32_t nanos)
{
	struct timespec times[2];
	int rc = mtime_only(seconds, nanos, times);

	if (rc < 0)
		return rc;
	return result(utimensat(dir, self_or(path), times, AT_SYMLINK_NOFOLLOW));
}

int drover_fchown(int fd, uint32_t uid, uint32_t gid)
{
	return result(fchown(fd, uid, gid));
}

int drover_fchmod(int fd, uint32_t mode)
{
	return result(fchmod(fd, (mode_t)mode));
}

int drover_fset_mtime(int fd, int64_t seconds, uint32_t nanos)
{
	struct timespec times[2];
	int rc = mtime_only(seconds, nanos, times);

	return rc < 0 ? rc : result(futimens(fd, times));
}

/*
 * How an extended attribute is reached. Linux 6.13 has *xattrat calls; before, a path below a descriptor goes
 * through /proc/self/fd (4.1 us a call against 1.8). For the empty path it always does: the link itself is followed then,
 * and leads straight to the inode and no further, also if that is a symlink or was opened with O_PATH.
 */
struct xattr_place {
	int follow;
	const char *path;
	char buffer[4096 + 64];
};

/* 1 once the kernel said that it has no *xattrat; a stale 0 costs one more refused call. */
static atomic_int no_xattrat;

/* Whether to ask the new way first. A filter may say EPERM to it, which the old way then confirms or not. */
static int may_xattrat(const char *path)
{
	return path[0] != '\0' && atomic_load_explicit(&no_xattrat, memory_order_relaxed) == 0;
}

/* Whether the answer of the new way counts. */
static int xattrat_answered(int64_t rc)
{
	if (rc == -ENOSYS)
		atomic_store_explicit(&no_xattrat, 1, memory_order_relaxed);
	return rc != -ENOSYS && rc != -EPERM;
}

static int xattr_place(int dir, const char *path, struct xattr_place *place)
{
	int length;

	place->follow = 0;
	if (path[0] == '/' || (dir == AT_FDCWD && path[0] != '\0')) {
		place->path = path;
		return 0;
	}
	place->path = place->buffer;
	if (dir == AT_FDCWD) {
		place->buffer[0] = '.';
		place->buffer[1] = '\0';
		return 0;
	}
	if (dir < 0)
		return -EBADF;
	place->follow = path[0] == '\0';
	length = snprintf(place->buffer, sizeof(place->buffer), "/proc/self/fd/%d%s%s", dir, place->follow ? "" : "/", path);
	return length < 0 || (size_t)length >= sizeof(place->buffer) ? -ENAMETOOLONG : 0;
}

static int64_t xattr_list(int dir, const char *path, char *names, size_t size)
{
	struct xattr_place place;
	int64_t rc;

	if (may_xattrat(path)) {
		rc = result64(syscall(SYS_listxattrat, dir, path, AT_SYMLINK_NOFOLLOW, names, size));
		if (xattrat_answered(rc))
			return rc;
	}
	rc = xattr_place(dir, path, &place);
	if (rc < 0)
		return rc;
	return result64(place.follow ? listxattr(place.path, names, size) : llistxattr(place.path, names, size));
}

static int64_t xattr_get(int dir, const char *path, const char *name, void *value, size_t size)
{
	struct xattr_place place;
	int64_t rc;

	if (may_xattrat(path)) {
		struct xattr_value args = { .value = (uintptr_t)value, .size = (uint32_t)size };

		rc = result64(syscall(SYS_getxattrat, dir, path, AT_SYMLINK_NOFOLLOW, name, &args, sizeof(args)));
		if (xattrat_answered(rc))
			return rc;
	}
	rc = xattr_place(dir, path, &place);
	if (rc < 0)
		return rc;
	return result64(place.follow ? getxattr(place.path, name, value, size) :
				       lgetxattr(place.path, name, value, size));
}

int64_t drover_xattrs(int dir, const char *path, void *buffer, size_t size)
{
	char names[65536]; /* XATTR_LIST_MAX */
	int64_t names_size;
	size_t used = 0;

	if (((uintptr_t)buffer & 7u) != 0)
		return -EINVAL;
	names_size = xattr_list(dir, path, names, sizeof(names));
	if (names_size < 0)
		return names_size == -EOPNOTSUPP ? 0 : names_size;
	for (const char *name = names; name < names + names_size; name += strlen(name) + 1) {
		size_t name_size = strlen(name);
		char *record = (char *)buffer + used;
		char *value = record + sizeof(struct drover_xattr) + name_size;
		size_t room, record_size;
		int64_t value_size;

		/* One byte of room is kept for the value: a size of 0 would ask for its length only. */
		if (size - used <= sizeof(struct drover_xattr) + name_size)
			return -ERANGE;
		room = size - used - sizeof(struct drover_xattr) - name_size;
		value_size = xattr_get(dir, path, name, value, room < XATTR_SIZE_MAX ? room : XATTR_SIZE_MAX);
		if (value_size == -ENODATA || value_size == -EACCES || value_size == -EPERM)
			continue;
		if (value_size < 0)
			return value_size;
		record_size = align8(sizeof(struct drover_xattr) + name_size + (size_t)value_size);
		if (record_size > size - used)
			return -ERANGE;
		*(struct drover_xattr *)(void *)record = (struct drover_xattr){
			.record_size = (uint32_t)record_size,
			.name_size = (uint32_t)name_size,
			.value_size = (uint32_t)value_size,
		};
		memcpy(record + sizeof(struct drover_xattr), name, name_size);
		used += record_size;
	}
	return (int64_t)used;
}

int64_t drover_get_xattr(int dir, const char *path, const char *name, void *buffer, size_t size)
{
	/* To the kernel a size of 0 is a question for the length. */
	if (size == 0)
		return -ERANGE;
	return xattr_get(dir, path, name, buffer, size < XATTR_SIZE_MAX ? size : XATTR_SIZE_MAX);
}

int drover_set_xattr(int dir, const char *path, const char *name, const void *value, size_t size)
{
	struct xattr_place place;
	int rc;

	if (size > XATTR_SIZE_MAX)
		return -E2BIG;
	if (may_xattrat(path)) {
		struct xattr_value args = { .value = (uintptr_t)value, .size = (uint32_t)size };

		rc = result(syscall(SYS_setxattrat, dir, path, AT_SYMLINK_NOFOLLOW, name, &args, sizeof(args)));
		if (xattrat_answered(rc))
			return rc;
	}
	rc = xattr_place(dir, path, &place);
	if (rc < 0)
		return rc;
	return result(place.follow ? setxattr(place.path, name, value, size, 0) :
				     lsetxattr(place.path, name, value, size, 0));
}

int drover_remove_xattr(int dir, const char *path, const char *name)
{
	struct xattr_place place;
	int rc;

	if (may_xattrat(path)) {
		rc = result(syscall(SYS_removexattrat, dir, path, AT_SYMLINK_NOFOLLOW, name));
		if (xattrat_answered(rc))
			return rc;
	}
	rc = xattr_place(dir, path, &place);
	if (rc < 0)
		return rc;
	return result(place.follow ? removexattr(place.path, name) : lremovexattr(place.path, name));
}

int drover_file_handle(int dir, const char *path, void *buffer, size_t size)
{
	union {
		struct file_handle handle;
		char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	} it = { .handle = { .handle_bytes = MAX_HANDLE_SZ } };
	int mount_id;

	if (name_to_handle_at(dir, path, &it.handle, &mount_id, AT_EMPTY_PATH) < 0)
		return -errno;
	if (it.handle.handle_bytes > MAX_HANDLE_SZ || size < 4 + it.handle.handle_bytes)
		return -ERANGE;
	memcpy(buffer, &it.handle.handle_type, 4);
	memcpy((char *)buffer + 4, it.handle.f_handle, it.handle.handle_bytes);
	return (int)(4 + it.handle.handle_bytes);
}

int drover_try_lock(int fd, int exclusive)
{
	int rc;

	do
		rc = flock(fd, (exclusive != 0 ? LOCK_EX : LOCK_SH) | LOCK_NB);
	while (rc < 0 && errno == EINTR);
	return result(rc);
}

int drover_statfs(int fd, struct drover_statfs *out)
{
	struct statfs fs;

	if (fstatfs(fd, &fs) < 0)
		return -errno;
	*out = (struct drover_statfs){
		.available = fs.f_bavail * (uint64_t)(fs.f_frsize > 0 ? fs.f_frsize : fs.f_bsize),
		.type = (uint32_t)fs.f_type,
		.block_size = (uint64_t)fs.f_bsize,
	};
	return 0;
}
