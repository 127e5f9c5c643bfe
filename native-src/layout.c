/*
 * layout.c - the library's version and the offsets of every struct that crosses, for the loader to compare.
 */
#include "internal.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <string.h>

struct line {
	const char *name;
	size_t offset;
	size_t size;
};

#define STRUCT(name) { #name, 0, sizeof(struct name) }
#define FIELD(name, field) { #name "." #field, offsetof(struct name, field), sizeof(((struct name *)0)->field) }

static const struct line lines[] = {
	STRUCT(drover_stat),
	FIELD(drover_stat, size),
	FIELD(drover_stat, blocks),
	FIELD(drover_stat, inode),
	FIELD(drover_stat, mtime_seconds),
	FIELD(drover_stat, ctime_seconds),
	FIELD(drover_stat, mtime_nanos),
	FIELD(drover_stat, ctime_nanos),
	FIELD(drover_stat, mode),
	FIELD(drover_stat, uid),
	FIELD(drover_stat, gid),
	FIELD(drover_stat, nlink),
	FIELD(drover_stat, device),
	FIELD(drover_stat, rdev_major),
	FIELD(drover_stat, rdev_minor),
	FIELD(drover_stat, reserved),
	STRUCT(drover_entry),
	FIELD(drover_entry, stat),
	FIELD(drover_entry, record_size),
	FIELD(drover_entry, name_size),
	STRUCT(drover_xattr),
	FIELD(drover_xattr, record_size),
	FIELD(drover_xattr, name_size),
	FIELD(drover_xattr, value_size),
	FIELD(drover_xattr, reserved),
	STRUCT(drover_statfs),
	FIELD(drover_statfs, available),
	FIELD(drover_statfs, type),
	FIELD(drover_statfs, block_size),
	STRUCT(drover_identity),
	FIELD(drover_identity, uid),
	FIELD(drover_identity, gid),
	FIELD(drover_identity, can_mount),
	FIELD(drover_identity, in_user_namespace),
};

int drover_version(char *buffer, size_t size)
{
	if (size < sizeof(DROVER_VERSION))
		return -ERANGE;
	memcpy(buffer, DROVER_VERSION, sizeof(DROVER_VERSION));
	return (int)sizeof(DROVER_VERSION) - 1;
}

int drover_layout(char *buffer, size_t size)
{
	size_t used = 0;

	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		int length = snprintf(buffer + used, size - used, "%s %zu %zu\n", lines[i].name, lines[i].offset, lines[i].size);

		if (length < 0 || (size_t)length >= size - used)
			return -ERANGE;
		used += (size_t)length;
	}
	return (int)used;
}

/* Whether /proc/self/uid_map is anything but the initial namespace's "0 0 4294967295". */
static uint32_t in_user_namespace(void)
{
	char text[128];
	unsigned long inside, outside, count;
	ssize_t size;
	int fd = open("/proc/self/uid_map", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return 0;
	size = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (size < 0)
		return 0;
	text[size] = '\0';
	if (sscanf(text, "%lu %lu %lu", &inside, &outside, &count) != 3)
		return 1; /* an empty map: a namespace that nobody has set up yet */
	return inside == 0 && outside == 0 && count == 4294967295ul ? 0 : 1;
}

int drover_identity(struct drover_identity *out)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { { 0 } };

	if (syscall(SYS_capget, &header, data) < 0)
		return -errno;
	*out = (struct drover_identity){
		.uid = geteuid(),
		.gid = getegid(),
		.can_mount = data[0].effective >> CAP_SYS_ADMIN & 1u,
		.in_user_namespace = in_user_namespace(),
	};
	return 0;
}
