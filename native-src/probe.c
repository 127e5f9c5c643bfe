/*
 * probe.c - what kernel, permissions and devices allow, by trying it.
 *
 * Every item is tried, not looked up by version, wherever trying is possible and leaves nothing behind. The ids are a
 * contract: `drover doctor --json` prints them.
 *
 * Overlays are tried in a scratch directory below `dir`, in a child with a mount namespace of its own: whatever it
 * mounts goes with it. The calling program has many threads, so until _exit the child uses system calls and its
 * stack, nothing that could need a lock which another thread held at the fork (no malloc, no stdio). It reports
 * through a shared page, and an alarm ends it if a file system does not answer.
 */
#include "internal.h"

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/statfs.h>
#include <sys/utsname.h>
#include <sys/wait.h>

/* Feature bits of userfaultfd that Debian 12's headers lack. */
#define FEATURE_WP (1ull << 0)
#define FEATURE_SIGBUS (1ull << 7)
#define FEATURE_WP_UNPOPULATED (1ull << 13)
#define FEATURE_POISON (1ull << 14)
#define FEATURE_WP_ASYNC (1ull << 15)
#define FEATURE_MOVE (1ull << 16)

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

/* PAGEMAP_SCAN of Linux 6.7: struct pm_scan_arg and the flag bits in its categories. */
struct scan_argument {
	uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
	uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};
#define PAGEMAP_SCAN_REQUEST _IOWR('f', 16, struct scan_argument)
#define PAGE_IS_WRITTEN_BIT (1ull << 1)

#define STATX_DIOALIGN_BIT 0x2000u

/* Where statx puts stx_dio_mem_align and stx_dio_offset_align. */
#define DIO_MEM_ALIGN_AT 152
#define DIO_OFFSET_ALIGN_AT 156

#define CHILD_SECONDS_MAX 5u

/* The unprivileged user that a child of root becomes: "nobody". */
#define ORDINARY_ID 65534u

/* The report so far. */
struct report {
	char *start;
	size_t size;
	size_t used;
	int full;
};

__attribute__((format(printf, 4, 5))) static void item(struct report *report, const char *id, int rc, const char *format,
						       ...)
{
	char detail[512];
	va_list args;
	int length;

	va_start(args, format);
	vsnprintf(detail, sizeof(detail), format, args);
	va_end(args);
	for (char *c = detail; *c != '\0'; c++)
		if ((unsigned char)*c < 0x20)
			*c = ' ';
	length = snprintf(report->start + report->used, report->size - report->used, "%s\t%d\t%d\t%s\n", id, rc >= 0,
			  rc < 0 ? -rc : 0, detail);
	if (length < 0 || (size_t)length >= report->size - report->used)
		report->full = 1;
	else
		report->used += (size_t)length;
}

/* The first line of a small file, or "" when it cannot be read. */
static void read_line(const char *path, char *line, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, line, size - 1);

	if (fd >= 0)
		close(fd);
	line[got < 0 ? 0 : got] = '\0';
	line[strcspn(line, "\n")] = '\0';
}

static const char *because(int rc)
{
	return rc == 0 ? "yes" : strerrordesc_np(-rc);
}

static void probe_kernel(struct report *report)
{
	struct utsname name;
	unsigned major = 0, minor = 0;

	if (uname(&name) < 0) {
		item(report, "kernel", -errno, "uname failed");
		return;
	}
	if (sscanf(name.release, "%u.%u", &major, &minor) != 2)
		major = 0;
	item(report, "kernel", major > 6 || (major == 6 && minor >= 1) ? 0 : -ENOSYS, "Linux %s, %s%s", name.release,
	     name.machine, major > 6 || (major == 6 && minor >= 1) ? "" : "; tested from 6.1 on");
}

/* -- memory -------------------------------------------------------------------------------------------- */

/* A userfaultfd that answered UFFDIO_API, or -errno; `*how` says by which way. */
static int open_userfaultfd(uint64_t *features, const char **how)
{
	static const char *const ways[] = { "for all faults", "through /dev/userfaultfd",
					    "for faults in user mode only" };
	int first_error = 0;

	for (int way = 0; way < 3; way++) {
		struct uffdio_api api = { .api = UFFD_API };
		int fd;

		if (way == 1) {
			int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

			fd = device < 0 ? -1 : ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
			if (device >= 0)
				close(device);
		} else {
			fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | (way == 2 ? 1 : 0));
		}
		if (fd < 0) {
			if (first_error == 0)
				first_error = -errno;
			continue;
		}
		if (ioctl(fd, UFFDIO_API, &api) < 0) {
			int rc = -errno;

			close(fd);
			return rc;
		}
		*features = api.features;
		*how = ways[way];
		return fd;
	}
	return first_error;
}

/* Whether a missing page can be registered and filled: the one thing everything else builds on. */
static int try_missing(int fd)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	char *memory = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct uffdio_copy copy = { .len = page };
	int rc = 0;

	if (memory == MAP_FAILED)
		return -errno;
	/* Only the first page is registered, and it is filled before anything touches it. */
	range.range.start = (uintptr_t)memory;
	range.range.len = page;
	memset(memory + page, 0x5a, page);
	copy.dst = (uintptr_t)memory;
	copy.src = (uintptr_t)memory + page;
	if (ioctl(fd, UFFDIO_REGISTER, &range) < 0 || ioctl(fd, UFFDIO_COPY, &copy) < 0)
		rc = -errno;
	else if (memory[0] != 0x5a)
		rc = -EIO;
	munmap(memory, 2 * page);
	return rc;
}

static int try_pagemap_scan(void)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	struct scan_argument scan = { .size = sizeof(scan), .category_mask = 0, .return_mask = PAGE_IS_WRITTEN_BIT };
	uint64_t regions[3 * 4];
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	char *memory;
	int rc = 0;

	if (fd < 0)
		return -errno;
	memory = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED) {
		rc = -errno;
		goto close_file;
	}
	scan.start = (uintptr_t)memory;
	scan.end = scan.start + page;
	scan.vec = (uintptr_t)regions;
	scan.vec_len = 4;
	if (ioctl(fd, PAGEMAP_SCAN_REQUEST, &scan) < 0)
		rc = errno == ENOTTY ? -ENOSYS : -errno;
	munmap(memory, page);
close_file:
	close(fd);
	return rc;
}

static void probe_memory(struct report *report)
{
	static const struct {
		const char *id;
		uint64_t bit;
		const char *since;
	} features[] = {
		{ "userfaultfd.wp", FEATURE_WP, "5.7" },
		{ "userfaultfd.sigbus", FEATURE_SIGBUS, "4.14" },
		{ "userfaultfd.wp_unpopulated", FEATURE_WP_UNPOPULATED, "6.4" },
		{ "userfaultfd.poison", FEATURE_POISON, "6.6" },
		{ "userfaultfd.wp_async", FEATURE_WP_ASYNC, "6.7" },
		{ "userfaultfd.move", FEATURE_MOVE, "6.8" },
	};
	uint64_t found = 0;
	const char *how = "";
	char line[128];
	int fd = open_userfaultfd(&found, &how);
	int rc;

	if (fd >= 0)
		item(report, "userfaultfd", 0, "%s, features 0x%llx", how, (unsigned long long)found);
	else
		item(report, "userfaultfd", fd, "%s", because(fd));
	rc = fd < 0 ? fd : try_missing(fd);
	item(report, "userfaultfd.missing", rc, "%s", rc == 0 ? "filled a missing page" : because(rc));
	for (size_t i = 0; i < sizeof(features) / sizeof(features[0]); i++) {
		rc = fd < 0 ? fd : (found & features[i].bit) != 0 ? 0 : -ENOSYS;
		item(report, features[i].id, rc, "%s; in Linux since %s", because(rc), features[i].since);
	}
	if (fd >= 0)
		close(fd);
	read_line("/proc/sys/vm/unprivileged_userfaultfd", line, sizeof(line));
	item(report, "userfaultfd.unprivileged", strcmp(line, "1") == 0 ? 0 : -EPERM, "vm.unprivileged_userfaultfd = %s",
	     line[0] != '\0' ? line : "missing");
	rc = try_pagemap_scan();
	item(report, "pagemap_scan", rc, "%s; in Linux since 6.7", because(rc));
}

static void probe_huge_pages(struct report *report)
{
	char line[128];
	const char *mode;

	read_line("/proc/sys/vm/nr_hugepages", line, sizeof(line));
	item(report, "hugepages", line[0] == '\0' ? -ENOENT : atol(line) > 0 ? 0 : -ENOMEM, "vm.nr_hugepages = %s",
	     line[0] != '\0' ? line : "missing");
	read_line("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof(line));
	mode = strstr(line, "[never]") != NULL ? "never" : strstr(line, "[madvise]") != NULL ? "madvise" : "always";
	if (line[0] == '\0')
		item(report, "thp", -ENOENT, "transparent huge pages are not in this kernel");
	else
		item(report, "thp", strcmp(mode, "never") == 0 ? -EPERM : 0, "transparent huge pages: %s", mode);
}

/* -- devices and rings --------------------------------------------------------------------------------- */

static void probe_io_uring(struct report *report)
{
	struct io_uring_params params = { 0 };
	char line[64];
	int fd = (int)syscall(SYS_io_uring_setup, 4, &params);

	if (fd >= 0) {
		item(report, "io_uring", 0, "features 0x%x", params.features);
		close(fd);
		return;
	}
	fd = -errno;
	read_line("/proc/sys/kernel/io_uring_disabled", line, sizeof(line));
	item(report, "io_uring", fd, "%s; kernel.io_uring_disabled = %s", because(fd), line[0] != '\0' ? line : "missing");
}

static void probe_fuse(struct report *report)
{
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	int rc = fd < 0 ? -errno : 0;

	if (fd >= 0)
		close(fd);
	item(report, "fuse", rc, "%s", rc == 0 ? "/dev/fuse opens" : because(rc));
}

static void probe_nbd(struct report *report)
{
	struct drover_stat stat;
	int rc = stat_at(AT_FDCWD, "/dev/nbd0", 0, &stat);

	item(report, "nbd", rc, "%s", rc == 0 ? "/dev/nbd0 exists" : "no /dev/nbd0; user space clients still work");
}

static void probe_verbs(struct report *report)
{
	void *library = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);
	union {
		void *symbol;
		void **(*get_device_list)(int *count);
	} list;
	union {
		void *symbol;
		void (*free_device_list)(void **devices);
	} release;
	union {
		void *symbol;
		const char *(*get_device_name)(void *device);
	} name;
	void **devices;
	int count = 0;

	if (library == NULL) {
		item(report, "verbs", -ENOENT, "libibverbs.so.1 is not installed");
		return;
	}
	list.symbol = dlsym(library, "ibv_get_device_list");
	release.symbol = dlsym(library, "ibv_free_device_list");
	name.symbol = dlsym(library, "ibv_get_device_name");
	if (list.symbol == NULL || release.symbol == NULL || name.symbol == NULL) {
		item(report, "verbs", -ENOSYS, "libibverbs.so.1 lacks ibv_get_device_list");
		dlclose(library);
		return;
	}
	errno = 0;
	devices = list.get_device_list(&count);
	if (devices == NULL)
		item(report, "verbs", errno != 0 ? -errno : -ENODEV, "no RDMA device");
	else if (count < 1)
		item(report, "verbs", -ENODEV, "libibverbs.so.1 is there, but no RDMA device");
	else
		item(report, "verbs", 0, "%d RDMA device%s, first %s", count, count == 1 ? "" : "s",
		     name.get_device_name(devices[0]));
	if (devices != NULL)
		release.free_device_list(devices);
	dlclose(library);
}

/* -- the file system of `dir` -------------------------------------------------------------------------- */

/* An unnamed file in `dir`; where the file system has no O_TMPFILE, a named one that is unlinked at once. */
static int temporary_file(int dir, int flags)
{
	char name[64];
	int fd = openat(dir, ".", O_TMPFILE | O_RDWR | O_CLOEXEC | flags, 0600);

	if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR && errno != ENOENT))
		return fd < 0 ? -errno : fd;
	snprintf(name, sizeof(name), ".drover-probe-%d", (int)getpid());
	fd = openat(dir, name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC | flags, 0600);
	if (fd < 0)
		return -errno;
	unlinkat(dir, name, 0);
	return fd;
}

/* The smallest of 512 and 4096 bytes in which this O_DIRECT file can be written, or -errno. */
static int try_direct(int fd)
{
	static const size_t sizes[] = { 512, 4096, 65536 };
	void *memory;
	int rc = -EINVAL;

	if (posix_memalign(&memory, 65536, 65536) != 0)
		return -ENOMEM;
	memset(memory, 0, 65536);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		if (pwrite(fd, memory, sizes[i], 0) == (ssize_t)sizes[i]) {
			rc = (int)sizes[i];
			break;
		}
		rc = -errno;
		if (errno != EINVAL)
			break;
	}
	free(memory);
	return rc;
}

static void probe_direct(struct report *report, int dir)
{
	union {
		struct statx statx;
		char bytes[256];
	} sx = { 0 };
	uint32_t memory_align = 0, offset_align = 0;
	int fd = temporary_file(dir, O_DIRECT);
	int rc;

	if (fd < 0) {
		item(report, "o_direct", fd, "%s", because(fd));
		return;
	}
	rc = try_direct(fd);
	if (rc > 0 && statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN_BIT, &sx.statx) == 0 &&
	    (sx.statx.stx_mask & STATX_DIOALIGN_BIT) != 0) {
		memcpy(&memory_align, sx.bytes + DIO_MEM_ALIGN_AT, sizeof(memory_align));
		memcpy(&offset_align, sx.bytes + DIO_OFFSET_ALIGN_AT, sizeof(offset_align));
	}
	close(fd);
	if (rc < 0)
		item(report, "o_direct", rc, "%s", because(rc));
	else if (offset_align > 0)
		item(report, "o_direct", 0, "memory aligned to %u, offsets to %u", memory_align, offset_align);
	else
		item(report, "o_direct", 0, "offsets aligned to %d, by trying", rc);
}

static void probe_reflink(struct report *report, int dir)
{
	char block[4096] = { 0 };
	int source = temporary_file(dir, 0);
	int target = source < 0 ? source : temporary_file(dir, 0);
	int rc = target < 0 ? target : 0;

	if (rc == 0 && pwrite(source, block, sizeof(block), 0) != (ssize_t)sizeof(block))
		rc = -EIO;
	if (rc == 0 && ioctl(target, FICLONE, source) < 0)
		rc = -errno;
	item(report, "reflink", rc, "%s", rc == 0 ? "files can share blocks" : because(rc));
	if (source >= 0)
		close(source);
	if (target >= 0)
		close(target);
}

static void probe_file_system(struct report *report, int dir)
{
	static const struct {
		uint32_t magic;
		const char *name;
	} known[] = {
		{ 0xef53, "ext4" },      { 0x58465342, "xfs" },      { 0x9123683e, "btrfs" },
		{ 0x01021994, "tmpfs" }, { 0x794c7630, "overlay" },  { 0x6969, "nfs" },
		{ 0x2fc12fc1, "zfs" },   { 0x65735546, "fuse" },     { 0xf2f52010, "f2fs" },
	};
	struct statfs fs;
	const char *name = "unknown";

	if (fstatfs(dir, &fs) < 0) {
		item(report, "filesystem", -errno, "%s", because(-errno));
		return;
	}
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (known[i].magic == (uint32_t)fs.f_type)
			name = known[i].name;
	item(report, "filesystem", 0, "%s (0x%x)", name, (uint32_t)fs.f_type);
}

/* -- overlay ------------------------------------------------------------------------------------------- */

/* What the child finds; each is 0 or -errno, and -ECANCELED until it was tried. */
struct trial {
	int32_t setup;
	int32_t plain;
	int32_t whiteout;
	int32_t redirect;
	int32_t metacopy;
	int32_t index;
	int32_t beneath;
	char how[32];
};

static const struct trial untried = {
	.setup = -ECANCELED,
	.plain = -ECANCELED,
	.whiteout = -ECANCELED,
	.redirect = -ECANCELED,
	.metacopy = -ECANCELED,
	.index = -ECANCELED,
	.beneath = -ECANCELED,
};

/* Child: writes a small file in /proc/self; the kernel takes it in one piece or not at all. */
static int write_once(const char *path, const char *text, size_t size)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int rc;

	if (fd < 0)
		return -errno;
	rc = write(fd, text, size) == (ssize_t)size ? 0 : -errno;
	close(fd);
	return rc;
}

/* Child: "0 ID 1", without stdio. */
static size_t map_line(char *line, unsigned id)
{
	char digits[16];
	size_t count = 0, used = 0;

	line[used++] = '0';
	line[used++] = ' ';
	do
		digits[count++] = (char)('0' + id % 10);
	while ((id /= 10) > 0);
	while (count > 0)
		line[used++] = digits[--count];
	line[used++] = ' ';
	line[used++] = '1';
	return used;
}

/* Child: becomes an ordinary user if it is root, then root of a user namespace of its own. */
static int enter_user_namespace(void)
{
	unsigned uid = (unsigned)syscall(SYS_geteuid);
	unsigned gid = (unsigned)syscall(SYS_getegid);
	char line[64];
	int rc;

	if (uid == 0) {
		/* The system calls themselves: glibc's wrappers would signal every thread of the parent's copy. */
		uid = gid = ORDINARY_ID;
		if (syscall(SYS_setgroups, 0, NULL) < 0 || syscall(SYS_setresgid, gid, gid, gid) < 0 ||
		    syscall(SYS_setresuid, uid, uid, uid) < 0)
			return -errno;
		/* Otherwise /proc/self still belongs to root. */
		if (prctl(PR_SET_DUMPABLE, 1) < 0)
			return -errno;
	}
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
		return -errno;
	rc = write_once("/proc/self/setgroups", "deny", 4);
	if (rc < 0)
		return rc;
	rc = write_once("/proc/self/uid_map", line, map_line(line, uid));
	return rc < 0 ? rc : write_once("/proc/self/gid_map", line, map_line(line, gid));
}

/* Child: mounts with `flags` on "m" (the current directory is the scratch one) and unmounts; 0 or -errno. */
static int try_overlay(uint32_t flags, const char **how)
{
	int rc = overlay_mount("l", 1, "u", "w", "m", flags, how);

	if (rc == 0 && umount2("m", MNT_DETACH) < 0)
		rc = -errno;
	return rc;
}

/* Child: everything about overlays, from the scratch directory, in a mount namespace of its own. */
static void try_overlays(struct trial *trial, int rootless)
{
	uint32_t base = rootless != 0 ? DROVER_OVERLAY_USERXATTR : 0;
	const char *how = "";
	int rc;

	trial->setup = rootless != 0 ? enter_user_namespace() : unshare(CLONE_NEWNS) < 0 ? -errno : 0;
	if (trial->setup == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		trial->setup = -errno;
	if (trial->setup < 0)
		return;
	rc = overlay_mount("l", 1, "u", "w", "m", base, &how);
	trial->plain = rc;
	for (size_t i = 0; i + 1 < sizeof(trial->how) && how[i] != '\0'; i++)
		trial->how[i] = how[i];
	if (rc < 0)
		return;
	trial->whiteout = unlinkat(AT_FDCWD, "m/f", 0) < 0 ? -errno : 0;
	rc = overlay_mount("l", 1, NULL, NULL, "m", base | DROVER_OVERLAY_BENEATH, &how);
	/* A single lower layer is refused without an upper: EINVAL then says nothing about `beneath`. */
	if (rc < 0)
		rc = overlay_mount("l\0o", 2, NULL, NULL, "m", base | DROVER_OVERLAY_BENEATH, &how);
	trial->beneath = rc;
	while (umount2("m", MNT_DETACH) == 0)
		;
	if (rootless != 0)
		return;
	trial->redirect = try_overlay(DROVER_OVERLAY_REDIRECT_DIR, &how);
	trial->metacopy = try_overlay(DROVER_OVERLAY_REDIRECT_DIR | DROVER_OVERLAY_METACOPY, &how);
	trial->index = try_overlay(DROVER_OVERLAY_INDEX, &how);
}

/* Forks the child and waits for it; a child that died leaves what it had found. */
static void run_trial(int scratch, int rootless, struct trial *out)
{
	struct trial *shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	sigset_t all, before;
	pid_t child;

	*out = untried;
	if (shared == MAP_FAILED) {
		out->setup = -errno;
		return;
	}
	*shared = untried;
	/* No handler of the program may run in the child. */
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	child = fork();
	if (child == 0) {
		struct sigaction fatal = { .sa_handler = SIG_DFL };
		sigset_t alarm_only;

		sigemptyset(&alarm_only);
		sigaddset(&alarm_only, SIGALRM);
		sigaction(SIGALRM, &fatal, NULL);
		sigprocmask(SIG_UNBLOCK, &alarm_only, NULL);
		alarm(CHILD_SECONDS_MAX);
		if (fchdir(scratch) < 0)
			shared->setup = -errno;
		else
			try_overlays(shared, rootless);
		_exit(0);
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (child < 0) {
		out->setup = -errno;
	} else {
		while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
			;
		*out = *shared;
	}
	munmap(shared, sizeof(*shared));
}

/* Removes what is in the scratch directory, which holds nothing but what this file and the kernel put there. */
static void remove_below(int dir, int depth)
{
	DIR *stream;
	struct dirent *entry;
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return;
	stream = fdopendir(fd);
	if (stream == NULL) {
		close(fd);
		return;
	}
	while ((entry = readdir(stream)) != NULL) {
		char path[64];
		int child;

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		if (unlinkat(dir, entry->d_name, 0) == 0 || unlinkat(dir, entry->d_name, AT_REMOVEDIR) == 0 || depth == 0)
			continue;
		/* The kernel's own work directory has mode 0000. By descriptor, so that no symlink is followed. */
		child = openat(dir, entry->d_name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (child < 0)
			continue;
		snprintf(path, sizeof(path), "/proc/self/fd/%d", child);
		chmod(path, 0700);
		close(child);
		child = openat(dir, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (child < 0)
			continue;
		remove_below(child, depth - 1);
		close(child);
		unlinkat(dir, entry->d_name, AT_REMOVEDIR);
	}
	closedir(stream);
}

/* Lower, other lower, upper, work, mount point, and a file to delete; for root, owned by who tries it. */
static int fill_scratch(int scratch, int rootless)
{
	static const char *const names[] = { "l", "o", "u", "w", "m" };
	int give_away = rootless != 0 && geteuid() == 0;
	int fd;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		if (mkdirat(scratch, names[i], 0700) < 0)
			return -errno;
		if (give_away != 0 && fchownat(scratch, names[i], ORDINARY_ID, ORDINARY_ID, 0) < 0)
			return -errno;
	}
	fd = openat(scratch, "l/f", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	if (give_away != 0 && fchown(fd, ORDINARY_ID, ORDINARY_ID) < 0) {
		close(fd);
		return -errno;
	}
	close(fd);
	return give_away != 0 && fchown(scratch, ORDINARY_ID, ORDINARY_ID) < 0 ? -errno : 0;
}

/* One trial in a fresh scratch directory below `dir`, which is gone afterwards. */
static int overlay_trial(int dir, int rootless, struct trial *trial)
{
	char name[64];
	int scratch, rc;

	*trial = untried;
	snprintf(name, sizeof(name), ".drover-probe-%d-%d", (int)getpid(), rootless);
	if (mkdirat(dir, name, 0700) < 0)
		return -errno;
	scratch = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (scratch < 0) {
		rc = -errno;
	} else {
		rc = fill_scratch(scratch, rootless);
		if (rc == 0)
			run_trial(scratch, rootless, trial);
		remove_below(scratch, 4);
		close(scratch);
	}
	unlinkat(dir, name, AT_REMOVEDIR);
	return rc;
}

static void overlay_item(struct report *report, const char *id, int rc, const char *yes)
{
	item(report, id, rc, "%s", rc == 0 ? yes : rc == -ECANCELED ? "not tried, because overlay mounts fail" : because(rc));
}

static void probe_overlay(struct report *report, int dir)
{
	struct trial trial;
	int rc = overlay_trial(dir, 0, &trial);

	if (rc == 0)
		rc = trial.setup;
	if (rc < 0)
		item(report, "overlay.root", rc, "%s", because(rc));
	else
		item(report, "overlay.root", trial.plain, "%s%s", trial.plain == 0 ? "mounted by " : because(trial.plain),
		     trial.plain == 0 ? trial.how : "");
	overlay_item(report, "overlay.whiteout", trial.whiteout, "a deletion leaves a whiteout");
	overlay_item(report, "overlay.redirect_dir", trial.redirect, "directories can be renamed without a copy");
	overlay_item(report, "overlay.metacopy", trial.metacopy, "a change of mode or owner copies no data");
	overlay_item(report, "overlay.index", trial.index, "hard links stay together");
	overlay_item(report, "overlay.beneath", trial.beneath, "a mount can be switched without a gap");

	rc = overlay_trial(dir, 1, &trial);
	if (rc == 0)
		rc = trial.setup;
	if (rc == 0)
		rc = trial.plain;
	if (rc == 0)
		rc = trial.whiteout;
	item(report, "overlay.rootless", rc, "%s%s",
	     rc == 0 ? "in a user namespace with userxattr" : because(rc),
	     rc < 0 && trial.setup < 0 ? ", when making a user namespace" : "");
}

int drover_probe(const char *dir, char *buffer, size_t size)
{
	struct report report = { .start = buffer, .size = size };
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	probe_kernel(&report);
	probe_memory(&report);
	probe_huge_pages(&report);
	probe_io_uring(&report);
	probe_file_system(&report, fd);
	probe_direct(&report, fd);
	probe_reflink(&report, fd);
	probe_overlay(&report, fd);
	probe_fuse(&report);
	probe_nbd(&report);
	probe_verbs(&report);
	close(fd);
	return report.full != 0 ? -ERANGE : (int)report.used;
}
