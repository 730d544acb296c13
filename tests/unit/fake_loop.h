/*
 * The loop for unit tests: datapath/loop/loop.h implemented without a ring and without threads. Link
 * mooring_fake_loop instead of mooring_loop.
 *
 * A seed decides everything that the kernel would: which operation completes next, which message or offloaded
 * work runs when, where a transfer is short, and which operation fails. Files and sockets are real, and are
 * read or written at the moment the operation completes; an operation on a socket, pipe or eventfd is chosen
 * only when it would not block. Time is virtual: it moves only when nothing else can happen, to the next
 * timeout. Messages of one loop keep their order, as the contract says; work and completions do not.
 *
 * loop_run() returns 0 at loop_stop(), and also when nothing can happen any more: a hang is visible as a
 * return. One thread only.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "datapath/loop/loop.h"

enum fake_kind {
    FAKE_READ, /* loop_readv(), loop_read() */
    FAKE_WRITE,
    FAKE_FDATASYNC,
    FAKE_FALLOCATE,
    FAKE_TIMEOUT,
    FAKE_ACCEPT,
    FAKE_RECV,
    FAKE_SENDMSG,
    FAKE_POLL,
    FAKE_WORK, /* loop_offload(); its op */
    FAKE_KINDS,
};

/* An operation as a test sees it. */
struct fake_op {
    enum fake_kind kind;
    struct loop_op *op;
    int fd;
    uint64_t offset;
    uint64_t length;
    int flags; /* rwf_flags, or fallocate's mode */
};

/* What a test answers when an operation is about to be carried out. */
enum fake_verdict {
    FAKE_GO,   /* carry it out; the seed may still make it short or fail */
    FAKE_HOLD, /* not now: ask again at the next step */
    FAKE_FAIL, /* do not carry it out: complete with *ret_res (a work's function is not called) */
    FAKE_SHORT /* carry out only *ret_res bytes of it */
};

/* Called for each operation that could complete now. */
typedef enum fake_verdict (*fake_hook)(void *context, const struct fake_op *op, int *ret_res);

void fake_loop_seed(struct loop *loop, uint64_t seed); /* loop_new() uses 1 */
void fake_loop_hook(struct loop *loop, fake_hook hook, void *context);

/* Of 1000 operations on files that the hook lets go, how many fail with -EIO, and how many transfers of more
 * than 512 bytes are short (by whole 512s). Both 0 at first. */
void fake_loop_chances(struct loop *loop, unsigned errors, unsigned shorts);

/* Do one thing. False when nothing can happen (all is held, waits for a peer, or is done). */
bool fake_loop_step(struct loop *loop);

/* Step until nothing can happen. */
void fake_loop_settle(struct loop *loop);

/* The same for several loops, in seeded turns. */
void fake_loops_settle(struct loop **loops, unsigned count, uint64_t seed);

/* Operations in flight, and how many of a kind were carried out or failed so far. */
unsigned fake_loop_inflight(const struct loop *loop);
unsigned fake_loop_count(const struct loop *loop, enum fake_kind kind);
/* Descriptors that loop_hold_fd() got. */
unsigned fake_loop_held(const struct loop *loop);
