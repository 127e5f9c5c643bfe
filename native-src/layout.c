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
	STRUCT(drover_content_file),
	FIELD(drover_content_file, size),
	FIELD(drover_content_file, dir),
	FIELD(drover_content_file, name),
	STRUCT(drover_content_piece),
	FIELD(drover_content_piece, target),
	FIELD(drover_content_piece, bases),
	FIELD(drover_content_piece, base_count),
	FIELD(drover_content_piece, op_count),
	STRUCT(drover_content_op),
	FIELD(drover_content_op, offset),
	FIELD(drover_content_op, length),
	FIELD(drover_content_op, what),
	STRUCT(drover_region_options),
	FIELD(drover_region_options, size),
	FIELD(drover_region_options, limit),
	FIELD(drover_region_options, ssd_size),
	FIELD(drover_region_options, fault_mode),
	FIELD(drover_region_options, dirty_mode),
	FIELD(drover_region_options, shared),
	FIELD(drover_region_options, flags),
	FIELD(drover_region_options, spin_us),
	FIELD(drover_region_options, evict_batch),
	FIELD(drover_region_options, read_around),
	FIELD(drover_region_options, contexts),
	FIELD(drover_region_options, copies),
	FIELD(drover_region_options, reserved),
	STRUCT(drover_store_options),
	FIELD(drover_store_options, path),
	FIELD(drover_store_options, name),
	FIELD(drover_store_options, size),
	FIELD(drover_store_options, timeout_nanos),
	FIELD(drover_store_options, kind),
	FIELD(drover_store_options, port),
	FIELD(drover_store_options, flags),
	FIELD(drover_store_options, reserved),
	STRUCT(drover_store_stats),
	FIELD(drover_store_stats, slots),
	FIELD(drover_store_stats, used),
	FIELD(drover_store_stats, reads),
	FIELD(drover_store_stats, writes),
	FIELD(drover_store_stats, errors),
	FIELD(drover_store_stats, refused),
	FIELD(drover_store_stats, latency_nanos),
	FIELD(drover_store_stats, kind),
	FIELD(drover_store_stats, state),
	STRUCT(drover_region_stats),
	FIELD(drover_region_stats, faults),
	FIELD(drover_region_stats, fetches),
	FIELD(drover_region_stats, fills),
	FIELD(drover_region_stats, promotions),
	FIELD(drover_region_stats, waits),
	FIELD(drover_region_stats, protect_faults),
	FIELD(drover_region_stats, refaults),
	FIELD(drover_region_stats, prefetched),
	FIELD(drover_region_stats, evicted_clean),
	FIELD(drover_region_stats, evicted_dirty),
	FIELD(drover_region_stats, read_calls),
	FIELD(drover_region_stats, read_bytes),
	FIELD(drover_region_stats, write_calls),
	FIELD(drover_region_stats, written_bytes),
	FIELD(drover_region_stats, stall_nanos),
	FIELD(drover_region_stats, errors),
	FIELD(drover_region_stats, events_lost),
	FIELD(drover_region_stats, resident_pages),
	FIELD(drover_region_stats, pinned_pages),
	FIELD(drover_region_stats, writeback_pages),
	FIELD(drover_region_stats, limit_pages),
	STRUCT(drover_region_control),
	FIELD(drover_region_control, limit_pages),
	FIELD(drover_region_control, spin_us),
	FIELD(drover_region_control, evict_batch),
	FIELD(drover_region_control, read_around),
	FIELD(drover_region_control, heat_max),
	FIELD(drover_region_control, trace_head),
	FIELD(drover_region_control, stats),
	FIELD(drover_region_control, fault_histogram),
	FIELD(drover_region_control, device_histogram),
	FIELD(drover_region_control, trace),
	STRUCT(drover_region_event),
	FIELD(drover_region_event, page),
	FIELD(drover_region_event, nanos),
	FIELD(drover_region_event, error),
	FIELD(drover_region_event, why),
	STRUCT(drover_donor_stats),
	FIELD(drover_donor_stats, lent_bytes),
	FIELD(drover_donor_stats, accepted),
	FIELD(drover_donor_stats, refused),
	FIELD(drover_donor_stats, leases),
	FIELD(drover_donor_stats, links),
	STRUCT(drover_bench_options),
	FIELD(drover_bench_options, size),
	FIELD(drover_bench_options, nanoseconds),
	FIELD(drover_bench_options, ops),
	FIELD(drover_bench_options, seed),
	FIELD(drover_bench_options, pattern),
	FIELD(drover_bench_options, threads),
	FIELD(drover_bench_options, writes),
	FIELD(drover_bench_options, hints),
	STRUCT(drover_bench_result),
	FIELD(drover_bench_result, ops),
	FIELD(drover_bench_result, nanoseconds),
	FIELD(drover_bench_result, p50),
	FIELD(drover_bench_result, p90),
	FIELD(drover_bench_result, p99),
	FIELD(drover_bench_result, slowest),
	FIELD(drover_bench_result, wrong),
	FIELD(drover_bench_result, wrong_offset),
	FIELD(drover_bench_result, sum),
	STRUCT(drover_fuse_options),
	FIELD(drover_fuse_options, size),
	FIELD(drover_fuse_options, mode),
	FIELD(drover_fuse_options, uid),
	FIELD(drover_fuse_options, gid),
	FIELD(drover_fuse_options, flags),
	FIELD(drover_fuse_options, timeout_ms),
	FIELD(drover_fuse_options, slots),
	STRUCT(drover_fuse_request),
	FIELD(drover_fuse_request, offset),
	FIELD(drover_fuse_request, length),
	FIELD(drover_fuse_request, slot),
	FIELD(drover_fuse_request, op),
	STRUCT(drover_fuse_stats),
	FIELD(drover_fuse_stats, requests),
	FIELD(drover_fuse_stats, reads),
	FIELD(drover_fuse_stats, read_bytes),
	FIELD(drover_fuse_stats, writes),
	FIELD(drover_fuse_stats, written_bytes),
	FIELD(drover_fuse_stats, flushes),
	FIELD(drover_fuse_stats, errors),
	FIELD(drover_fuse_stats, timeouts),
	FIELD(drover_fuse_stats, late),
	FIELD(drover_fuse_stats, pending),
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
