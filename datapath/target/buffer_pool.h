/*
 * Data buffers of one loop, bounded (invariant 10): aligned for direct I/O, in sizes that are powers of two
 * from 4 KiB to SCSI_TRANSFER_MAX. Who finds none waits in line; a wait ends in the order it began. One
 * loop's own thread.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BUFFER_CLASSES 9 /* 4 KiB << 0 … 4 KiB << 8 = 1 MiB */

struct buffer_wait {
    /* The buffer, of at least the size asked for. Runs from within buffer_pool_put(). */
    void (*ready)(struct buffer_wait *wait, void *buffer);
    struct buffer_wait *next, *previous; /* the pool's own */
    unsigned class;
    bool queued;
};

struct buffer_pool {
    size_t limit_bytes;
    size_t held_bytes; /* given out and kept for later */
    void *free[BUFFER_CLASSES];
    struct buffer_wait *first, *last;
    bool missed;  /* buffer_pool_get() had none; whoever looks clears it */
    bool serving; /* buffer_pool_put() does not nest */
};

/* limit_bytes: at least a few times SCSI_TRANSFER_MAX. */
void buffer_pool_init(struct buffer_pool *pool, size_t limit_bytes);
void buffer_pool_done(struct buffer_pool *pool); /* every buffer is back */

/* A buffer of at least size_bytes (1 … 1 MiB), or NULL: none is free, or others wait already. */
void *buffer_pool_get(struct buffer_pool *pool, size_t size_bytes);

/* Wait in line for one: ready() follows, later. */
void buffer_pool_wait(struct buffer_pool *pool, struct buffer_wait *wait, size_t size_bytes);
void buffer_pool_cancel(struct buffer_pool *pool, struct buffer_wait *wait); /* harmless when not waiting */

/* Try again for those who wait: the system had no memory when it was asked last. */
void buffer_pool_retry(struct buffer_pool *pool);

/* size_bytes as asked for. NULL is fine. */
void buffer_pool_put(struct buffer_pool *pool, void *buffer, size_t size_bytes);
