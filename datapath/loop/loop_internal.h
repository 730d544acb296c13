/*
 * What the files of datapath/loop share about a loop; nobody else includes it.
 */
#pragma once

#include <liburing.h>
#include <pthread.h>
#include <stdatomic.h>

#include "datapath/loop/loop.h"

#define LOOP_HELD_MAX 8       /* descriptors that loop_hold_fd() can hold */
#define LOOP_BUFFER_GROUP 0   /* of the provided receive buffers */
#define LOOP_OFFLOAD_MAX 64u  /* offload threads */
#define LOOP_ENTRIES_MAX 4096 /* submission ring */
#define LOOP_COMMAND_TAG 1u   /* in user_data, beside the op: counted in `commands` */

/* Threads for blocking work. They start when work first needs them, up to a limit. */
struct loop_offloading {
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct loop_work *first; /* oldest first; under lock, as all that follows */
    struct loop_work **last;
    pthread_t threads[LOOP_OFFLOAD_MAX];
    unsigned threads_count;
    unsigned threads_max;
    unsigned idle;
    bool stopping;
};

/* Whether looking for completions before sleeping pays is learnt: see loop_spin.c. */
struct loop_spinning {
    uint64_t budget_ns; /* 0: never */
    int credit;
    uint64_t spun_ns, slept_ns; /* the average gap that was spun, and that was slept through; 0: unknown */
    unsigned gaps;
};

struct loop {
    struct io_uring ring;
    bool enabled;      /* the ring has its thread */
    bool drained;      /* and has left it */
    pthread_t thread;  /* once enabled */
    unsigned inflight; /* without: */
    unsigned commands; /* loop_command() */
    uint64_t now_ns;
    struct loop_spinning spin;

    struct loop_op *failed_first; /* could not be queued; completed in the next batch, oldest first */
    struct loop_op **failed_last;
    struct __kernel_timespec *timeouts; /* one for each submission slot: read when that is submitted */

    struct loop_op wake_op;
    uint64_t wake_count;
    bool wake_armed;
    int wake_fd;
    unsigned held;

    struct io_uring_buf_ring *buffers; /* NULL: none */
    size_t buffers_bytes;              /* of the mapping: the ring, then the buffers */
    char *buffers_memory;
    unsigned buffers_count;
    unsigned buffer_size;

    /* Written by other threads; a cache line of their own. Newest first. */
    _Alignas(64) _Atomic(struct loop_message *) messages;
    _Atomic(struct loop_work *) works_done;
    atomic_bool sleeping;
    atomic_bool stopping;

    struct loop_offloading offload;
};

/* A submission slot whose completion calls op; NULL when there is none, op then completes with an error. */
struct io_uring_sqe *loop_queue(struct loop *loop, struct loop_op *op);

/* A submission slot that belongs to no operation: its completion, if any, is dropped. May be NULL. */
struct io_uring_sqe *loop_queue_silent(struct loop *loop);

/* Complete op with res in the next batch. The loop's thread. */
void loop_fail(struct loop *loop, struct loop_op *op, int res);

/* After something was put where the loop looks for it: wake the loop if it sleeps. Any thread. */
void loop_wake(struct loop *loop);

/* Nothing waits for the loop's thread: no message, no finished work, no stop. */
bool loop_quiet(struct loop *loop);

int loop_offload_init(struct loop_offloading *offload, unsigned threads_max);
/* Drop what has not begun, wait for what runs, end the threads. */
void loop_offload_done(struct loop_offloading *offload);

int loop_buffers_init(struct loop *loop, unsigned count, unsigned size_bytes);
void loop_buffers_done(struct loop *loop);

/* Look for completions, for at most the budget. True when something came. */
bool loop_spin(struct loop *loop);
/* Spinning has paid lately (or it is time to try the other way). */
bool loop_spin_pays(struct loop *loop);
/* What the gap between two batches turned out to be. */
void loop_spin_learn(struct loop *loop, uint64_t gap_ns, bool spun, bool found);
