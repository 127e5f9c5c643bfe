/*
 * store_faulty.h - a store around another one that fails on demand: arm it, see it fail, disarm it, see it recover.
 * Each rate is "one request in so many", 0 for never.
 */
#ifndef DROVER_TESTS_STORE_FAULTY_H
#define DROVER_TESTS_STORE_FAULTY_H

#include "../../native-src/region.h"

#define FAULTY_CONTEXTS 16u

struct faulty {
	_Atomic uint32_t read_error;   /* EIO, nothing read */
	_Atomic uint32_t read_corrupt; /* one bit of one page is another one */
	_Atomic uint32_t read_short;   /* half of it */
	_Atomic uint32_t read_lost;    /* never comes back */
	_Atomic uint32_t read_empty;   /* zeros, as from a donor that was started anew */
	_Atomic uint32_t read_other;   /* what belongs to the slot beside it */
	_Atomic uint32_t write_error;  /* ENOSPC, and only a part was written */
	_Atomic uint32_t write_lost;   /* said to be done, and was not; only below a store that writes from a buffer of its own */
	_Atomic uint32_t broken;       /* ENOTCONN, reads and writes */
	_Atomic uint32_t broken_after; /* so many writes more, then `broken` sets in; 0: never. No rate */
	_Atomic uint32_t no_ring;      /* when set before opening: as where io_uring is forbidden */
	_Atomic uint32_t injected;     /* how many so far */
	_Atomic uint64_t random;
	struct store real;
	/* What each request is about, by its context and id. */
	struct context *contexts[FAULTY_CONTEXTS];
	struct {
		uint8_t *memory;
		uint32_t size;
	} requests[FAULTY_CONTEXTS][OPERATIONS];
};

/* Wraps `real`, which it then owns. `faulty` must outlive the region. */
struct store faulty_wrap(struct faulty *faulty, const struct store *real);

#endif
