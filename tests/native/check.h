/* check.h - the one macro of the C tests: says where, and ends the program. */
#ifndef DROVER_TESTS_CHECK_H
#define DROVER_TESTS_CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "../../native-src/drover.h"

#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                                          \
	do {                                                                                      \
		if (!(condition)) {                                                               \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);   \
			exit(1);                                                                  \
		}                                                                                 \
	} while (0)

/* Compares two numbers and shows both. */
#define CHECK_EQUAL(actual, expected)                                                             \
	do {                                                                                      \
		long long is_ = (long long)(actual), should_ = (long long)(expected);             \
		if (is_ != should_) {                                                             \
			fprintf(stderr, "%s:%d: %s is %lld, should be %lld\n", __FILE__, __LINE__, #actual, is_, should_); \
			exit(1);                                                                  \
		}                                                                                 \
	} while (0)

/* Each suite gets an absolute path of an empty directory and its descriptor. */
void test_dir(const char *path, int dir);
void test_libc(const char *path, int dir);
void test_zstd(const char *path, int dir);
void test_probe(const char *path, int dir);
void test_old_kernel(const char *path, int dir);
void test_content(const char *path, int dir);
void test_delta(const char *path, int dir);

#endif
