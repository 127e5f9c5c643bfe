/*
 * overlay.c - mounting, unmounting and remounting an overlay.
 *
 * Every option that a distribution or a module parameter may set otherwise is passed explicitly:
 *
 *   redirect_dir  on, or `follow` when off: redirects are not made, but those that an earlier mount left in a
 *                 lower layer are still obeyed. (`off` follows or not by a kernel build option, and `nofollow`
 *                 would show a renamed directory empty.) Only root can write the xattr, so following is safe.
 *   metacopy      on or off. The kernel wants redirect_dir=on with it, and refuses to read through a metacopy
 *                 file in a lower layer when off.
 *   index         on or off.      nfs_export  off.      xino  auto.
 *   userxattr     instead of redirect_dir and metacopy, which the kernel refuses then.
 *
 * How paths are passed differs, and so does what has to be escaped in them (tried on Linux 6.18):
 *
 *   interface            since   lower                          upper, work      longest value
 *   fsconfig lowerdir+   6.7     one call each, taken literally  \ : , escaped    255 bytes; longer: by descriptor (6.13)
 *   fsconfig lowerdir    5.2     joined by `:`, \ : , escaped    \ : , escaped    255 bytes
 *   mount(2)             2.4     joined by `:`, \ : , escaped    \ : , escaped    one page for all options
 *
 * They are tried in this order while the kernel says EINVAL, ENOSYS or EPERM (a container that filters the new
 * calls); what the last one says counts. Before 6.5 the new calls collect options as text and see a wrong one only at
 * the end, which is why EINVAL from the whole attempt decides. Until move_mount or mount nothing is visible to anybody.
 *
 * The mount takes over nosuid, nodev and noexec from the file system of its top layer: it is put where a plain
 * directory of that file system was, and must not give more rights than that did.
 *
 * Nothing here allocates or takes a lock: probe.c runs it in a child forked from a program with threads.
 */
#include "internal.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/statfs.h>

/* Same values as in linux/mount.h, which cannot be included beside sys/mount.h and which may be older. */
enum {
	fsconfig_set_flag = 0,
	fsconfig_set_string = 1,
	fsconfig_set_fd = 5,
	fsconfig_create = 6,
	fsconfig_reconfigure = 7,
	fsopen_cloexec = 1,
	fsmount_cloexec = 1,
	fspick_cloexec = 1,
	fspick_nofollow = 2,
	move_from_empty_path = 4,
	move_beneath = 0x200,
};

/* MS_*, ST_* and MOUNT_ATTR_* agree in these three: nosuid, nodev, noexec. */
#define RESTRICTING_FLAGS 14l

#define OVERLAY_MAGIC 0x794c7630l
#define STRING_SIZE_MAX 256  /* of one fsconfig value, the NUL included */
#define OPTIONS_SIZE_MAX 4096 /* of mount(2)'s data, the NUL included */

struct request {
	const char *lower;
	uint32_t lower_count;
	const char *upper;
	const char *work;
	const char *target;
	uint32_t flags;
	long restricting;
};

/* A bounded string; `full` once something did not fit. */
struct text {
	char *start;
	size_t size;
	size_t used;
	int full;
};

static void append_byte(struct text *text, char byte)
{
	if (text->used + 1 >= text->size) {
		text->full = 1;
		return;
	}
	text->start[text->used++] = byte;
	text->start[text->used] = '\0';
}

static void append(struct text *text, const char *string)
{
	for (; *string != '\0'; string++)
		append_byte(text, *string);
}

static void append_escaped(struct text *text, const char *path)
{
	for (; *path != '\0'; path++) {
		if (*path == '\\' || *path == ':' || *path == ',')
			append_byte(text, '\\');
		append_byte(text, *path);
	}
}

static void append_lowers(struct text *text, const struct request *request)
{
	const char *path = request->lower;

	for (uint32_t i = 0; i < request->lower_count; i++, path += strlen(path) + 1) {
		if (i > 0)
			append_byte(text, ':');
		append_escaped(text, path);
	}
}

static int configure(int context, unsigned command, const char *key, const void *value, int aux)
{
	return syscall(SYS_fsconfig, context, command, key, value, aux) < 0 ? -errno : 0;
}

/* A path as a string, or by descriptor when the string does not fit. */
static int configure_path(int context, const char *key, const char *path, int escape)
{
	char room[STRING_SIZE_MAX];
	struct text text = { .start = room, .size = sizeof(room) };
	int fd, rc;

	if (escape != 0)
		append_escaped(&text, path);
	else
		append(&text, path);
	if (text.full == 0)
		return configure(context, fsconfig_set_string, key, room, 0);
	fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	rc = configure(context, fsconfig_set_fd, key, NULL, fd);
	close(fd);
	return rc;
}

static int configure_lowers(int context, const struct request *request, int joined)
{
	const char *path = request->lower;
	char room[STRING_SIZE_MAX];
	struct text text = { .start = room, .size = sizeof(room) };

	if (joined != 0) {
		append_lowers(&text, request);
		return text.full != 0 ? -EINVAL : configure(context, fsconfig_set_string, "lowerdir", room, 0);
	}
	for (uint32_t i = 0; i < request->lower_count; i++, path += strlen(path) + 1) {
		int rc = configure_path(context, "lowerdir+", path, 0);

		if (rc < 0)
			return rc;
	}
	return 0;
}

/* Features in the order in which the kernel shows them; userxattr excludes the first two. */
static int configure_features(int context, uint32_t flags)
{
	const struct {
		const char *key;
		const char *value;
	} options[] = {
		{ "source", "overlay" },
		{ "xino", "auto" },
		{ "nfs_export", "off" },
		{ "index", (flags & DROVER_OVERLAY_INDEX) != 0 ? "on" : "off" },
		{ "redirect_dir", (flags & DROVER_OVERLAY_REDIRECT_DIR) != 0 ? "on" : "follow" },
		{ "metacopy", (flags & DROVER_OVERLAY_METACOPY) != 0 ? "on" : "off" },
	};
	size_t count = sizeof(options) / sizeof(options[0]);
	int rc;

	if ((flags & DROVER_OVERLAY_USERXATTR) != 0) {
		rc = configure(context, fsconfig_set_flag, "userxattr", NULL, 0);
		if (rc < 0)
			return rc;
		count -= 2;
	}
	if ((flags & DROVER_OVERLAY_READ_ONLY) != 0) {
		rc = configure(context, fsconfig_set_flag, "ro", NULL, 0);
		if (rc < 0)
			return rc;
	}
	for (size_t i = 0; i < count; i++) {
		rc = configure(context, fsconfig_set_string, options[i].key, options[i].value, 0);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int mount_by_context(const struct request *request, int joined)
{
	int context = (int)syscall(SYS_fsopen, "overlay", fsopen_cloexec);
	unsigned move = move_from_empty_path | ((request->flags & DROVER_OVERLAY_BENEATH) != 0 ? move_beneath : 0u);
	int mount_fd = -1;
	int rc;

	if (context < 0)
		return -errno;
	rc = configure_features(context, request->flags);
	if (rc == 0)
		rc = configure_lowers(context, request, joined);
	if (rc == 0 && request->upper != NULL)
		rc = configure_path(context, "upperdir", request->upper, 1);
	if (rc == 0 && request->upper != NULL)
		rc = configure_path(context, "workdir", request->work, 1);
	if (rc == 0)
		rc = configure(context, fsconfig_create, NULL, NULL, 0);
	if (rc < 0)
		goto close_context;
	mount_fd = (int)syscall(SYS_fsmount, context, fsmount_cloexec, request->restricting);
	if (mount_fd < 0) {
		rc = -errno;
		goto close_context;
	}
	if (syscall(SYS_move_mount, mount_fd, "", AT_FDCWD, request->target, move) < 0)
		rc = -errno;
	/* The mount that was not moved anywhere goes with its descriptor. */
	close(mount_fd);
close_context:
	close(context);
	return rc;
}

static int mount_by_text(const struct request *request)
{
	char room[OPTIONS_SIZE_MAX];
	struct text text = { .start = room, .size = sizeof(room) };
	unsigned long ms = (unsigned long)request->restricting;
	uint32_t flags = request->flags;

	append(&text, "xino=auto,nfs_export=off,index=");
	append(&text, (flags & DROVER_OVERLAY_INDEX) != 0 ? "on" : "off");
	if ((flags & DROVER_OVERLAY_USERXATTR) != 0) {
		append(&text, ",userxattr");
	} else {
		append(&text, ",redirect_dir=");
		append(&text, (flags & DROVER_OVERLAY_REDIRECT_DIR) != 0 ? "on" : "follow");
		append(&text, ",metacopy=");
		append(&text, (flags & DROVER_OVERLAY_METACOPY) != 0 ? "on" : "off");
	}
	append(&text, ",lowerdir=");
	append_lowers(&text, request);
	if (request->upper != NULL) {
		append(&text, ",upperdir=");
		append_escaped(&text, request->upper);
		append(&text, ",workdir=");
		append_escaped(&text, request->work);
	}
	if (text.full != 0)
		return -ENAMETOOLONG;
	if ((flags & DROVER_OVERLAY_READ_ONLY) != 0)
		ms |= MS_RDONLY;
	return mount("overlay", request->target, "overlay", ms, room) < 0 ? -errno : 0;
}

/* Whether another interface may do what this one refused. */
static int try_next(int rc)
{
	return rc == -EINVAL || rc == -ENOSYS || rc == -EPERM || rc == -EOPNOTSUPP;
}

int overlay_mount(const char *lower, uint32_t lower_count, const char *upper, const char *work, const char *target,
		  uint32_t flags, const char **how)
{
	struct request request = { lower, lower_count, upper, work, target, flags, 0 };
	struct drover_stat stat;
	struct statfs fs;
	int rc;

	*how = "nothing";
	if (lower_count == 0 || (upper == NULL) != (work == NULL) || (flags & ~63u) != 0)
		return -EINVAL;
	if ((flags & DROVER_OVERLAY_USERXATTR) != 0 &&
	    (flags & (DROVER_OVERLAY_REDIRECT_DIR | DROVER_OVERLAY_METACOPY)) != 0)
		return -EINVAL;
	/* mount(2) would follow a symlink, move_mount would not: say no in both cases. */
	rc = stat_at(AT_FDCWD, target, 0, &stat);
	if (rc < 0)
		return rc;
	if ((stat.mode & S_IFMT) != S_IFDIR)
		return -ENOTDIR;
	if (statfs(upper != NULL ? upper : lower, &fs) < 0)
		return -errno;
	request.restricting = fs.f_flags & RESTRICTING_FLAGS;

	*how = "fsconfig lowerdir+";
	rc = mount_by_context(&request, 0);
	if (!try_next(rc))
		return rc;
	*how = "fsconfig lowerdir";
	rc = mount_by_context(&request, 1);
	if (!try_next(rc) || (flags & DROVER_OVERLAY_BENEATH) != 0)
		return rc == -ENOSYS ? -EOPNOTSUPP : rc;
	*how = "mount(2)";
	return mount_by_text(&request);
}

int drover_overlay_mount(const char *lower, uint32_t lower_count, const char *upper, const char *work,
			 const char *target, uint32_t flags)
{
	const char *how;

	return overlay_mount(lower, lower_count, upper, work, target, flags, &how);
}

int drover_unmount(const char *target, int detach)
{
	return result(umount2(target, UMOUNT_NOFOLLOW | (detach != 0 ? MNT_DETACH : 0)));
}

/*
 * The superblock is what turns read-only, not one mount of it: the kernel then counts the writers of all mounts
 * that show it, and says EBUSY while there is one. A file that is only mapped counts too, although its descriptor
 * may be closed: what is mapped is the overlay's backing file, and opening that for writing took a write reference on
 * the overlay mount (both tried here on 6.18; a test repeats it). mount_setattr would look at a single mount, and
 * mount(2) with MS_REMOUNT, the fallback, resets the mount's own flags, so they have to be given again.
 */
int drover_remount(const char *target, int read_only)
{
	struct statfs fs;
	int context, rc;

	if (statfs(target, &fs) < 0)
		return -errno;
	/* Otherwise a directory where the overlay is not mounted would turn the disk below it read-only. */
	if (fs.f_type != OVERLAY_MAGIC)
		return -EINVAL;
	context = (int)syscall(SYS_fspick, AT_FDCWD, target, fspick_cloexec | fspick_nofollow);
	if (context < 0) {
		unsigned long flags = MS_REMOUNT | (unsigned long)(fs.f_flags & RESTRICTING_FLAGS);

		if (errno != ENOSYS && errno != EPERM)
			return -errno;
		return result(mount(NULL, target, NULL, read_only != 0 ? flags | MS_RDONLY : flags, NULL));
	}
	rc = configure(context, fsconfig_set_flag, read_only != 0 ? "ro" : "rw", NULL, 0);
	if (rc == 0)
		rc = configure(context, fsconfig_reconfigure, NULL, NULL, 0);
	close(context);
	return rc;
}
