/*
 * dir.c - a directory with the statx of each entry, a buffer full at a time: batches cross the border, not items.
 *
 * The kernel's own record (24 bytes and up, the name included) is shorter than ours (96 and up), never by more
 * than a factor of four. So asking getdents64 for a quarter of the caller's buffer means that all it gives will
 * fit, and the descriptor's position alone says where to go on: no seeking back, no state kept here.
 */
#include "internal.h"

#include <fcntl.h>
#include <string.h>

struct kernel_dirent {
	uint64_t inode;
	int64_t offset;
	uint16_t record_size;
	uint8_t type;
	char name[];
};

#define KERNEL_RECORD_MIN 24
#define EXPANSION 4

_Static_assert(offsetof(struct kernel_dirent, name) == 19, "as in linux/dirent.h");
/* name of n bytes: align8(20 + n) there, align8(88 + n) here; the quotient is largest for n = 1. */
_Static_assert((sizeof(struct drover_entry) + 8) <= EXPANSION * KERNEL_RECORD_MIN, "entries grow by four at most");

int64_t drover_dir_read(int fd, void *buffer, size_t size)
{
	_Alignas(8) char dents[32768];
	size_t dents_size = size / EXPANSION < sizeof(dents) ? size / EXPANSION : sizeof(dents);
	size_t used = 0;

	if (size < 4096 || ((uintptr_t)buffer & 7u) != 0)
		return -EINVAL;
	/* Again while a batch held nothing to show: 0 means the end to the caller. */
	while (used == 0) {
		long got = syscall(SYS_getdents64, fd, dents, dents_size);

		if (got < 0)
			return -errno;
		if (got == 0)
			return 0;
		for (long at = 0; at < got;) {
			const struct kernel_dirent *dirent = (const void *)(dents + at);
			struct drover_entry *entry = (void *)((char *)buffer + used);
			size_t name_size = strlen(dirent->name);
			size_t record_size = align8(sizeof(*entry) + name_size);
			int rc;

			at += dirent->record_size;
			if (strcmp(dirent->name, ".") == 0 || strcmp(dirent->name, "..") == 0)
				continue;
			if (record_size > size - used)
				return -EOVERFLOW;
			rc = stat_at(fd, dirent->name, 0, &entry->stat);
			if (rc == -ENOENT)
				continue;
			if (rc < 0)
				return rc;
			entry->record_size = (uint32_t)record_size;
			entry->name_size = (uint32_t)name_size;
			memcpy(entry + 1, dirent->name, name_size);
			used += record_size;
		}
	}
	return (int64_t)used;
}
