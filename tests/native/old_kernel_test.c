/*
 * old_kernel_test.c - the ways around system calls that this kernel has and an older or a filtered one has not. A
 * seccomp filter answers them with ENOSYS (Linux 6.1: *xattrat, fchmodat2; before 5.2: fsopen and its family), in a
 * second run with EPERM, as some containers do. What it cannot imitate is how 6.1 parses overlay options.
 */
#include "check.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define FIRST_MOUNT_CALL 428 /* open_tree, move_mount, fsopen, fsconfig, fsmount, fspick */
#define LAST_MOUNT_CALL 433
#define FCHMODAT2 452
#define FIRST_XATTRAT 463
#define LAST_XATTRAT 466

static void refuse_new_calls(unsigned error)
{
	struct sock_filter rules[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, LAST_XATTRAT, 6, 0),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, FIRST_XATTRAT, 4, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, FCHMODAT2, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, LAST_MOUNT_CALL, 3, 0),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, FIRST_MOUNT_CALL, 1, 0),
		BPF_JUMP(BPF_JMP | BPF_JA, 1, 0, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (error & SECCOMP_RET_DATA)),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = sizeof(rules) / sizeof(rules[0]), .filter = rules };

	CHECK_EQUAL(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	CHECK_EQUAL(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

static void test_xattrs(int dir)
{
	_Alignas(8) char room[256];
	int file = drover_open(dir, "f", O_RDWR | O_CREAT | O_EXCL, 0600);

	CHECK(file >= 0);
	CHECK_EQUAL(drover_close(file), 0);
	CHECK_EQUAL(drover_set_xattr(dir, "f", "user.a", "value", 5), 0);
	CHECK_EQUAL(drover_get_xattr(dir, "f", "user.a", room, sizeof(room)), 5);
	CHECK(memcmp(room, "value", 5) == 0);
	CHECK_EQUAL(drover_xattrs(dir, "f", room, sizeof(room)), 32);
	CHECK(memcmp(room + sizeof(struct drover_xattr), "user.avalue", 11) == 0);
	CHECK_EQUAL(drover_remove_xattr(dir, "f", "user.a"), 0);
	CHECK_EQUAL(drover_xattrs(dir, "f", room, sizeof(room)), 0);
	CHECK_EQUAL(drover_get_xattr(dir, "f", "user.a", room, sizeof(room)), -ENODATA);
	CHECK_EQUAL(drover_xattrs(dir, "none", room, sizeof(room)), -ENOENT);
	/* On the symlink itself, which only root may do. */
	CHECK_EQUAL(drover_symlink("f", dir, "l"), 0);
	CHECK_EQUAL(drover_set_xattr(dir, "l", "user.a", "x", 1), -EPERM);
	if (geteuid() == 0) {
		CHECK_EQUAL(drover_set_xattr(dir, "l", "trusted.a", "x", 1), 0);
		CHECK_EQUAL(drover_get_xattr(dir, "f", "trusted.a", room, sizeof(room)), -ENODATA);
		CHECK_EQUAL(drover_get_xattr(dir, "l", "trusted.a", room, sizeof(room)), 1);
	}
}

static void test_overlay(const char *path, int dir)
{
	static const char *const names[] = { "l:1,\\", "l\\:2", "u,\\:", "w\\,:", "m" };
	char paths[5][600], lower[1200], file[700];
	struct drover_stat stat;
	size_t used;
	int fd;

	for (int i = 0; i < 5; i++) {
		CHECK_EQUAL(drover_mkdir(dir, names[i], 0755), 0);
		snprintf(paths[i], sizeof(paths[i]), "%s/%s", path, names[i]);
	}
	used = strlen(paths[0]) + 1;
	memcpy(lower, paths[0], used);
	memcpy(lower + used, paths[1], strlen(paths[1]) + 1);
	CHECK_EQUAL(unshare(CLONE_NEWNS), 0);
	CHECK_EQUAL(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	CHECK_EQUAL(drover_overlay_mount(lower, 2, paths[2], paths[3], paths[4], DROVER_OVERLAY_BENEATH), -EOPNOTSUPP);
	CHECK_EQUAL(drover_overlay_mount(lower, 2, paths[2], paths[3], paths[4],
					 DROVER_OVERLAY_REDIRECT_DIR | DROVER_OVERLAY_METACOPY | DROVER_OVERLAY_INDEX),
		    0);
	/* By absolute path: `dir` belongs to the mount namespace that was left. */
	snprintf(file, sizeof(file), "%s/new", paths[4]);
	fd = drover_open(AT_FDCWD, file, O_WRONLY | O_CREAT | O_EXCL, 0600);
	CHECK(fd >= 0);
	CHECK_EQUAL(drover_remount(paths[4], 1), -EBUSY);
	CHECK_EQUAL(drover_close(fd), 0);
	CHECK_EQUAL(drover_remount(paths[4], 1), 0);
	CHECK_EQUAL(drover_unlink(AT_FDCWD, file), -EROFS);
	CHECK_EQUAL(drover_remount(paths[4], 0), 0);
	CHECK_EQUAL(drover_unmount(paths[4], 0), 0);
	snprintf(file, sizeof(file), "%s/new", paths[2]);
	CHECK_EQUAL(drover_stat(AT_FDCWD, file, &stat), 0);

	/* More than a page of options does not fit into mount(2): refused, not cut. */
	{
		static char many[64 * 600];
		size_t at = 0;

		for (int i = 0; i < 64; i++) {
			memcpy(many + at, paths[1], strlen(paths[1]) + 1);
			at += strlen(paths[1]) + 1;
		}
		if (at > 4096)
			CHECK_EQUAL(drover_overlay_mount(many, 64, NULL, NULL, paths[4], 0), -ENAMETOOLONG);
	}
}

static void run(const char *path, int dir, unsigned error)
{
	struct drover_stat stat;
	struct drover_identity identity;

	CHECK_EQUAL(drover_identity(&identity), 0);
	refuse_new_calls(error);
	test_xattrs(dir);
	/* EPERM from fchmodat2 cannot be told from a real one; no such filter is known. */
	if (error == ENOSYS) {
		CHECK_EQUAL(drover_chmod(dir, "f", 0751), 0);
		CHECK_EQUAL(drover_stat(dir, "f", &stat), 0);
		CHECK_EQUAL(stat.mode & 07777u, 0751);
	}
	if (identity.can_mount != 0 && error == ENOSYS)
		test_overlay(path, dir);
}

void test_old_kernel(const char *path, int dir)
{
	static const unsigned errors[] = { ENOSYS, EPERM };

	(void)dir;
	for (int i = 0; i < 2; i++) {
		char sub[512];
		int status = 0, fd;
		pid_t child;

		snprintf(sub, sizeof(sub), "%s/%d", path, i);
		CHECK_EQUAL(mkdir(sub, 0755), 0);
		fd = open(sub, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		CHECK(fd >= 0);
		child = fork();
		CHECK(child >= 0);
		if (child == 0) {
			run(sub, fd, errors[i]);
			_exit(0);
		}
		CHECK_EQUAL(waitpid(child, &status, 0), child);
		CHECK_EQUAL(status, 0);
		close(fd);
	}
}
