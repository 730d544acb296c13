/*
 * The memory that reads land in: taken at the start, in three sizes, never more (invariant 10). Writes land
 * in the replay log. One thread, the loop's.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

#define BUFFERS_CLASSES 3

struct buffers_class {
    size_t size_bytes; /* of one */
    uint8_t *memory;
    void **stack; /* the free ones */
    unsigned free_count, count;
};

struct buffers {
    struct buffers_class classes[BUFFERS_CLASSES];
};

int buffers_init(struct buffers *buffers, uint64_t total_bytes, struct error *err);
void buffers_done(struct buffers *buffers);

/* At least size bytes (at most 1 MiB), aligned to a page; NULL when none is left. */
void *buffers_take(struct buffers *buffers, size_t size);
void buffers_give(struct buffers *buffers, void *buffer);
