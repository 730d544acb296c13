/*
 * Writes status.json from an offload thread, so that no fsync holds the data path; changes that come while
 * one is written are written next, the newest only. One thread, the loop's.
 */
#pragma once

#include <stdbool.h>

#include "datapath/device/state.h"
#include "datapath/loop/loop.h"

struct status_writer {
    struct loop *loop;
    int dir_fd;
    struct device_status status; /* what is true now */
    struct device_status written;
    struct loop_work work;
    bool running, again;
    struct loop_op pause; /* before a count is written */
    bool pause_armed;
};

void status_writer_init(struct status_writer *writer, struct loop *loop, int dir_fd, uint64_t generation);

/* error: NULL or words. Unchanged states are not written again. */
void status_writer_set(struct status_writer *writer, enum device_status_code code, const char *error);
/* What the block device has; error: why it does not have the volume's, or "". */
void status_writer_set_size(struct status_writer *writer, uint64_t size_bytes, const char *error);

/* Written within a second, however many there are. */
void status_writer_count_errors(struct status_writer *writer, uint64_t errors);
/* The attachment is over: so many requests waited, and the last of them was answered within took_us of that.
 */
void status_writer_set_failed(struct status_writer *writer, unsigned requests, uint64_t took_us);
void status_writer_set_device(struct status_writer *writer, const char *block_device, bool take_over);

/* Before and after the loop runs: write at once. */
void status_writer_flush(struct status_writer *writer);
