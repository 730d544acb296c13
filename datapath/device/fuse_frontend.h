/*
 * The volume as one file of a FUSE file system, spoken on /dev/fuse without libfuse: reads requests from the
 * cloned descriptors, turns data requests into struct request, answers the rest itself.
 *
 * Bounded: a table of requests, read buffers from a pool, writes in the replay log. When one of them is used
 * up, the one request that needs it is parked and /dev/fuse is not read until there is room.
 *
 * One thread, the loop's. A later frontend (ublk) takes this one's place above requests.h.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "datapath/device/buffers.h"
#include "datapath/device/fuse_proto.h"
#include "datapath/device/requests.h"
#include "datapath/device/state.h"
#include "datapath/loop/loop.h"

#define FUSE_CHANNELS 2
#define FUSE_TABLE_SIZE (FUSE_PROTO_MAX_BACKGROUND + 64)
#define FUSE_HEAD_SIZE (sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in))

struct fuse_frontend;

struct fuse_channel {
    struct fuse_frontend *frontend;
    int fd; /* borrowed; -1: not there */
    struct loop_op poll;
    bool armed;
};

struct fuse_request {
    struct request request;
    struct fuse_frontend *frontend;
    struct fuse_channel *channel;
    struct fuse_request *next_free;
    void *buffer; /* of a read */
    union {
        struct fuse_in_header header;
        uint8_t bytes[FUSE_HEAD_SIZE]; /* header and the largest argument, so that a write's data is apart */
    } head;
};

struct fuse_frontend {
    struct loop *loop;
    const struct device_state *state;
    struct requests *requests;
    struct replay_log *log;
    struct buffers *buffers;
    /* No more is read: -ENODEV when the mount was taken away or aborted; what else it is, the mount may live.
     */
    void (*gone)(void *context, int result);
    void *context;
    struct fuse_channel channels[FUSE_CHANNELS];
    struct fuse_request *table, *free;
    struct fuse_request *parked; /* waits for a buffer or for room in the log */
    uint8_t *landing;            /* where data is read to while the log is full */
    bool running;
    bool kernel_resends; /* INIT said that a crash can be survived */
    unsigned in_flight;
};

int fuse_frontend_init(struct fuse_frontend *frontend, struct loop *loop, const struct device_state *state,
                       struct requests *requests, struct replay_log *log, struct buffers *buffers,
                       struct error *err);
void fuse_frontend_done(struct fuse_frontend *frontend);

/* Begin to serve a descriptor (O_NONBLOCK); up to FUSE_CHANNELS. */
void fuse_frontend_add(struct fuse_frontend *frontend, int fd);

/* Have the kernel send again all that a predecessor had read and not answered. -EINVAL where the kernel
 * cannot (before Linux 6.9). */
int fuse_frontend_resend(struct fuse_frontend *frontend);

/* There may be room again: go on reading. log_result: of the device's own flush, when that is why; a failure
 * ends a parked change with -EIO. */
void fuse_frontend_resume(struct fuse_frontend *frontend, int log_result);

/* Stop reading; requests in flight still answer. */
void fuse_frontend_stop(struct fuse_frontend *frontend);
