/*
 * The data path of the frontend "ublk": takes the kernel's requests from the queue of a ublk device, turns
 * them into struct request, commits the results.
 *
 * The commands of the queue go through the device's own loop, not through a ring beside it: what the kernel
 * asks arrives in the same wait as the server's answers, and a batch of commits goes out with the same system
 * call as the rest; the 16 bytes of a command fit an ordinary entry. One queue, since one thread serves it.
 *
 * Data is copied by user copy (UBLK_F_USER_COPY): a write's by pread() straight into the replay log, where
 * room is known only when the request is; a read's by pwrite() from its buffer. Neither waits for anything.
 *
 * Bounded by the queue's depth. A request that finds no room in the log, or no buffer, waits in its turn.
 * One thread, the loop's, except where it says otherwise.
 */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "datapath/device/frontend.h"
#include "datapath/device/ublk_proto.h"

struct ublk_queue;

struct ublk_slot { /* of a tag */
    struct request request;
    struct loop_op op; /* the command that waits for the tag's next request */
    struct ublk_queue *queue;
    struct ublk_slot *next; /* in a list of parked ones */
    void *buffer;           /* of a read */
    uint16_t tag;
};

struct ublk_parked {
    struct ublk_slot *first, **last;
};

struct ublk_queue {
    const struct frontend_parts *parts;
    void (*gone)(void *context, int result); /* the kernel took the queue away: -ENODEV, or what it said */
    void *context;
    int fd;                                 /* /dev/ublkcN; borrowed */
    const struct ublksrv_io_desc *requests; /* what the kernel asks, by tag; read-only memory of its own */
    unsigned depth;
    struct ublk_slot *slots;
    struct ublk_parked reads, changes;
    struct loop_message kick; /* once a batch */
    bool kick_posted;
    atomic_bool stopping; /* any thread: that the kernel ends commands is expected */
};

/* Any thread, before ublk_queue_serve(). fd, requests: of depth tags; they outlive the queue. */
int ublk_queue_init(struct ublk_queue *queue, const struct frontend_parts *parts, int fd,
                    const struct ublksrv_io_desc *requests, unsigned depth, struct error *err);
void ublk_queue_done(struct ublk_queue *queue);

/* Ask for a request on each tag: the first that a new device, or one that is taken over, waits for. */
void ublk_queue_serve(struct ublk_queue *queue);

/* As frontend_ops.resume. */
void ublk_queue_resume(struct ublk_queue *queue, int log_result);
