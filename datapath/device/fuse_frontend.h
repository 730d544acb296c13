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
#include "datapath/device/fuse_answer.h"
#include "datapath/device/fuse_ledger.h"
#include "datapath/device/fuse_proto.h"
#include "datapath/device/requests.h"
#include "datapath/device/state.h"
#include "datapath/loop/loop.h"

#define FUSE_CHANNELS 2

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
    struct fuse_record *record; /* in the ledger */
    struct fuse_request *next_free;
    void *buffer; /* of a read */
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
    void (*switched)(void *context); /* INIT agreed on io_uring; needed where agreement.uring_wanted is set */
    void *context;
    struct fuse_channel channels[FUSE_CHANNELS];
    struct fuse_request *table, *free;
    struct fuse_request *parked;  /* waits for a buffer or for room in the log */
    struct fuse_request *claimed; /* a predecessor's: each is taken up before anything is read */
    struct fuse_ledger *ledger;
    bool (*request_known)(int fd, uint64_t unique); /* fuse_answer_known(), but for tests */
    void (*softirqs)(int fd);                       /* softirq_run(), but for tests */
    int softirq_fd;
    struct loop_message settle; /* after a batch's answers */
    bool settle_posted;
    bool running;
    struct fuse_agreement agreement;
    unsigned in_flight;
};

int fuse_frontend_init(struct fuse_frontend *frontend, struct loop *loop, const struct device_state *state,
                       struct requests *requests, struct replay_log *log, struct buffers *buffers,
                       struct error *err);
void fuse_frontend_done(struct fuse_frontend *frontend);

/* Borrowed; before anything is served. */
void fuse_frontend_set_ledger(struct fuse_frontend *frontend, struct fuse_ledger *ledger);

/* Begin to serve a descriptor (O_NONBLOCK); up to FUSE_CHANNELS. */
void fuse_frontend_add(struct fuse_frontend *frontend, int fd);

/*
 * After a crash: have the kernel send again all that a predecessor had read and not answered. A negative
 * errno where it cannot (-EINVAL before Linux 6.9). Where it can, the kernel's own list is what counts, and
 * not ours: it needs nothing of what the predecessor left in memory, so that a successor of another version,
 * which knows another ledger, takes over just the same.
 */
int fuse_frontend_resend(struct fuse_frontend *frontend, int fd);

/*
 * Where the kernel cannot: claim() what the ledger has and the kernel waits for, right after the log was
 * adopted and before any flush; returns how many. recover() once the descriptors are served: all that is
 * claimed is answered or carried out again, before anything new is read.
 */
unsigned fuse_frontend_claim(struct fuse_frontend *frontend, const int fds[FUSE_CHANNELS]);
void fuse_frontend_recover(struct fuse_frontend *frontend);

/* There may be room again: go on reading. log_result: of the device's own flush, when that is why; a failure
 * ends a parked change with -EIO. */
void fuse_frontend_resume(struct fuse_frontend *frontend, int log_result);

/* Stop reading; requests in flight still answer. */
void fuse_frontend_stop(struct fuse_frontend *frontend);

/* 0, or the positive errno that a request on this range deserves; fuse_uring.c's too. */
int fuse_frontend_range_check(const struct device_state *state, const struct fuse_in_header *header,
                              uint64_t offset, uint64_t length);
