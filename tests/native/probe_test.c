/* probe_test.c - the probe from a program with threads, with buffers of every size, and its leavings. */
#include "check.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>

static atomic_int stop;

/* Holds malloc's lock most of the time: a child that allocates after fork would hang. */
static void *allocate(void *argument)
{
	while (atomic_load(&stop) == 0)
		free(malloc(1 + (size_t)rand() % 10000));
	return argument;
}

void test_probe(const char *path, int dir)
{
	pthread_t threads[2];
	char text[16384];
	int length = 0;
	int lines = 0;
	DIR *stream;
	const struct dirent *entry;

	(void)dir;
	for (int i = 0; i < 2; i++)
		CHECK_EQUAL(pthread_create(&threads[i], NULL, allocate, NULL), 0);
	for (int round = 0; round < 3; round++)
		length = drover_probe(path, text, sizeof(text));
	atomic_store(&stop, 1);
	for (int i = 0; i < 2; i++)
		CHECK_EQUAL(pthread_join(threads[i], NULL), 0);

	CHECK(length > 0);
	CHECK_EQUAL(strlen(text), length);
	for (const char *c = text; *c != '\0'; c++)
		lines += *c == '\n';
	CHECK_EQUAL(lines, 27);
	for (int size = 1; size < length; size += length / 3) {
		char *exact = malloc((size_t)size);

		CHECK_EQUAL(drover_probe(path, exact, (size_t)size), -ERANGE);
		free(exact);
	}
	CHECK_EQUAL(drover_probe("/nowhere/at/all", text, sizeof(text)), -ENOENT);
	/* Both children were waited for. */
	CHECK(waitpid(-1, NULL, WNOHANG) < 0 && errno == ECHILD);
	stream = opendir(path);
	CHECK(stream != NULL);
	while ((entry = readdir(stream)) != NULL)
		CHECK(strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0);
	closedir(stream);
}
