/*
 * nbd_peer.h - an NBD server of the tests: a thread with one connection after the other, good or as bad as it is told to be.
 */
#ifndef DROVER_TESTS_NBD_PEER_H
#define DROVER_TESTS_NBD_PEER_H

#include "check.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

/* How the handshake goes wrong. */
enum greeting {
	GREET_WELL,
	GREET_BY_NAME,	      /* knows no NBD_OPT_GO */
	GREET_BY_NAME_ZEROES, /* nor NO_ZEROES */
	GREET_BY_NAME_UNKNOWN,
	GREET_BYTEWISE,	      /* right, one byte at a time */
	GREET_WORDY,	      /* right, with information that nobody asked for */
	GREET_NOT_AT_ALL,
	GREET_AND_HANG_UP,
	GREET_GARBAGE,
	GREET_OLDSTYLE,
	GREET_NEVER_ENDING,   /* INFO after INFO */
	GREET_TRICKLE,	      /* a reply whose data comes at a byte per 20 ms */
	GREET_HUGE_REPLY,
	GREET_WRONG_REPLY_MAGIC,
	GREET_WRONG_OPTION,
	GREET_ACK_ONLY,
	GREET_SHORT_EXPORT,
	GREET_READ_ONLY,
	GREET_SMALL,
	GREET_LARGE_BLOCKS,
	GREET_ERROR,	      /* `number` says which */
};

/* How requests are answered. */
enum service {
	SERVE_WELL,
	SERVE_SHUFFLED,	     /* in any order, in pieces of any size */
	SERVE_SLOWLY,	     /* nothing is read for 300 ms, then all is well */
	SERVE_SILENT,	     /* nothing is ever answered */
	SERVE_TRICKLE,	     /* a byte of each answer per 20 ms */
	SERVE_ERROR,	     /* every request with `number` */
	SERVE_BAD_MAGIC,
	SERVE_BAD_COOKIE,
	SERVE_OLD_COOKIE,    /* the answer to the second request has the cookie of the first */
	SERVE_TWICE,
	SERVE_UNASKED,	     /* an answer to a request that was never sent, right after the handshake */
	SERVE_HALF_HEADER,   /* and the connection ends */
	SERVE_HALF_DATA,     /* the same */
	SERVE_AND_HANG_UP,   /* after `number` requests */
};

struct peer {
	enum greeting greeting;
	enum service service;
	uint32_t number;
	uint64_t seed;
	uint64_t size;
	uint16_t flags; /* the export's */
	int receive_buffer; /* of its sockets; 0: as it comes */
	/* from here on: its own */
	uint8_t *memory;
	int listener;
	uint16_t port;
	pthread_t thread;
	_Atomic int connection;	  /* the one that is served; -1 */
	_Atomic uint32_t entered; /* handshakes that were completed */
	_Atomic uint32_t answered;
	_Atomic uint32_t trimmed;
	_Atomic uint32_t closing;
	_Atomic uint32_t well;	  /* from now on everything is well */
};

/* Listens on 127.0.0.1 with `size` bytes of zeros. */
void peer_open(struct peer *peer);

/* Ends the connection that there is. */
void peer_cut(struct peer *peer);
void peer_close(struct peer *peer);

#endif
