/*
 * fuse_mount.c - gets a mounted descriptor of /dev/fuse: by mount(2), or for ordinary users by the setuid program fusermount3.
 *
 * fusermount3 mounts and sends the descriptor over the socket that _FUSE_COMMFD names. It says on stderr why it does not.
 */
#include "internal.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>

extern char **environ;

/* How long the helper may take. */
#define HELPER_SECONDS 10
/* Where the helper finds its end of the socket. */
#define HELPER_FD 3

static int mount_ourselves(const char *target, const char *source, const struct drover_fuse_options *options)
{
	unsigned long flags = MS_NOSUID | MS_NODEV | ((options->flags & DROVER_FUSE_READ_ONLY) != 0 ? MS_RDONLY : 0);
	char text[256];
	int rc, fd = open("/dev/fuse", O_RDWR | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return -errno;
	snprintf(text, sizeof(text), "fd=%d,rootmode=100000,user_id=%u,group_id=%u,default_permissions,max_read=%u%s", fd,
		 geteuid(), getegid(), DROVER_FUSE_DATA_MAX,
		 (options->flags & DROVER_FUSE_ALLOW_OTHER) != 0 ? ",allow_other" : "");
	if (mount(source, target, "fuse.drover", flags, text) == 0)
		return fd;
	rc = -errno;
	close(fd);
	return rc;
}

/* The options of the helper; a comma or backslash in the source is written with a backslash. The caller frees. */
static char *helper_options(const char *source, const struct drover_fuse_options *options)
{
	const size_t room = 2 * strlen(source) + 256;
	char *text = malloc(room);
	size_t at;

	if (text == NULL)
		return NULL;
	at = (size_t)snprintf(text, room, "%s,nosuid,nodev,default_permissions,subtype=drover,max_read=%u%s,fsname=",
			      (options->flags & DROVER_FUSE_READ_ONLY) != 0 ? "ro" : "rw", DROVER_FUSE_DATA_MAX,
			      (options->flags & DROVER_FUSE_ALLOW_OTHER) != 0 ? ",allow_other" : "");
	for (; *source != '\0'; source++) {
		if (*source == ',' || *source == '\\')
			text[at++] = '\\';
		text[at++] = *source;
	}
	text[at] = '\0';
	return text;
}

/* Our environment and one more; the caller frees the array. */
static char **helper_environment(char *more)
{
	size_t count = 0;
	char **all;

	while (environ[count] != NULL)
		count++;
	all = calloc(count + 2, sizeof(*all));
	if (all == NULL)
		return NULL;
	memcpy(all, environ, count * sizeof(*all));
	all[count] = more;
	return all;
}

/* The descriptor that comes over a socket, or -errno: -EPERM when its other end closes without one. */
static int receive_descriptor(int socket)
{
	char byte, control[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
	struct iovec part = { &byte, 1 };
	struct msghdr message = {
		.msg_iov = &part,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *head;
	ssize_t size;
	int fd;

	do
		size = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
	while (size < 0 && errno == EINTR);
	if (size < 0)
		return errno == EAGAIN ? -ETIMEDOUT : -errno;
	head = CMSG_FIRSTHDR(&message);
	if (size == 0 || head == NULL || head->cmsg_level != SOL_SOCKET || head->cmsg_type != SCM_RIGHTS ||
	    head->cmsg_len != CMSG_LEN(sizeof(int)))
		return -EPERM;
	memcpy(&fd, CMSG_DATA(head), sizeof(fd));
	return fd;
}

static int spawn_helper(const char *target, char *text, int socket, pid_t *pid)
{
	char variable[] = "_FUSE_COMMFD=3";
	char *arguments[] = { (char[]){ "fusermount3" }, (char[]){ "-o" }, text, (char[]){ "--" },
			      (char *)(uintptr_t)target, NULL };
	char **environment = helper_environment(variable);
	posix_spawn_file_actions_t actions;
	posix_spawnattr_t attributes;
	sigset_t none;
	int rc;

	if (environment == NULL)
		return -ENOMEM;
	sigemptyset(&none);
	posix_spawn_file_actions_init(&actions);
	posix_spawnattr_init(&attributes);
	posix_spawn_file_actions_adddup2(&actions, socket, HELPER_FD);
	posix_spawnattr_setsigmask(&attributes, &none);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
	rc = -posix_spawnp(pid, arguments[0], &actions, &attributes, arguments, environment);
	posix_spawnattr_destroy(&attributes);
	posix_spawn_file_actions_destroy(&actions);
	free(environment);
	return rc;
}

static int mount_by_helper(const char *target, const char *source, const struct drover_fuse_options *options)
{
	const struct timeval patience = { .tv_sec = HELPER_SECONDS };
	int sockets[2], fd, status;
	char *text;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) < 0)
		return -errno;
	text = helper_options(source, options);
	fd = text == NULL ? -ENOMEM : spawn_helper(target, text, sockets[1], &pid);
	free(text);
	close(sockets[1]);
	if (fd == 0) {
		setsockopt(sockets[0], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
		fd = receive_descriptor(sockets[0]);
		if (fd == -ETIMEDOUT)
			kill(pid, SIGKILL);
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			continue;
	}
	close(sockets[0]);
	if (fd >= 0 && fcntl(fd, F_SETFL, O_NONBLOCK) < 0) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	return fd;
}

int fuse_mount(const char *target, const char *source, const struct drover_fuse_options *options)
{
	return (options->flags & DROVER_FUSE_HELPER) != 0 ? mount_by_helper(target, source, options) :
							     mount_ourselves(target, source, options);
}
