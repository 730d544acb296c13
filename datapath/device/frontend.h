/*
 * What turns the kernel's block requests into struct request: one interface, two ways ("attach" in
 * device.json). device.c knows only this.
 *
 *   fuse: a FUSE mount of one file under a loop device (fuse_attach.c, fuse_frontend.c); any kernel.
 *   ublk: /dev/ublkbN (ublk_attach.c, ublk_queue.c); where ublk_kernels.c says so.
 *
 * The order of a life: adopt, open, serve, attach; then resume, as often as there is room again; then detach,
 * close, stop; done. "Job" below: may block, runs on an offload thread while the loop serves, one at a time;
 * everything else runs on the loop's thread.
 */
#pragma once

#include <stdbool.h>

#include "common/error.h"
#include "datapath/device/buffers.h"
#include "datapath/device/replay_log.h"
#include "datapath/device/requests.h"
#include "datapath/device/state.h"
#include "datapath/loop/loop.h"

#define FRONTEND_PATH_MAX 32

struct frontend;

struct frontend_ops {
    /*
     * Before the loop runs; blocks shortly. Find what a predecessor left (frontend->adopted, ->path).
     * log_ours: so was the log. Without it what stands is another epoch's, or its answered writes are
     * unknown: its users must not go on as if nothing was lost, so it is ended and never adopted.
     */
    int (*adopt)(struct frontend *frontend, bool log_ours, struct error *err);

    /* Job: make it anew, or take it over, up to where serve() can begin. */
    int (*open)(struct frontend *frontend, struct error *err);

    /* Take requests; of what is adopted, those too that the predecessor had taken and not answered. An error
     * when these are lost: the block device was aborted, then. */
    int (*serve)(struct frontend *frontend, struct error *err);

    /* Job: have the block device, at frontend->path; served since serve(). find_only: make none. */
    int (*attach)(struct frontend *frontend, bool find_only, struct error *err);

    /* Job, while it serves: put what must outlive this process on the connection of a new holder, the
     * descriptors that keep the block device alive last. NULL: nothing must. */
    int (*hand_over)(struct frontend *frontend, int holder, struct error *err);

    /* Job, while it serves: the volume has size_bytes now, more than before. Does not touch the volume. 0
     * also when the block device has that size already; E_UNIMPLEMENTED where the kernel cannot. */
    int (*resize)(struct frontend *frontend, uint64_t size_bytes, struct error *err);

    /* There may be room again: go on taking requests. log_result: of the device's own flush, when that is
     * why; a failure ends a change that waits for room with -EIO. */
    void (*resume)(struct frontend *frontend, int log_result);

    /* Job: take the block device away. E_BUSY while someone uses it; it is served on, then. */
    int (*detach)(struct frontend *frontend, struct error *err);

    /* Job: after detach(), undo open(). force: by all means. */
    int (*close)(struct frontend *frontend, bool force, struct error *err);

    /* Take no more requests; those in flight still answer. */
    void (*stop)(struct frontend *frontend);

    /* Blocks, on an offload thread, beside a job: end every request with an error, now and from now on. */
    int (*abort)(struct frontend *frontend, struct error *err);

    /* Free it. The kernel's side stands as it is: a successor adopts it. */
    void (*done)(struct frontend *frontend);
};

/* Borrowed; all outlive the frontend. */
struct frontend_parts {
    struct loop *loop;
    const struct device_state *state;
    struct requests *requests;
    struct replay_log *log;
    struct buffers *buffers;
    int holder; /* connection; see holder_client.h; -1: there is none, after attach() only */

    /* No more requests come, though nobody asked for that. abort: users may be waiting for ever. */
    void (*gone)(void *context, const char *why, bool abort);
    void *context;
};

struct frontend {
    const struct frontend_ops *ops;
    struct frontend_parts parts;
    bool adopted;                 /* what a predecessor left is, or will be, taken over */
    bool take_over;               /* once attached: a crash of this process can be survived */
    char path[FRONTEND_PATH_MAX]; /* of the block device; "": none */
};

/* One of state->attach. Memory only. */
int frontend_new(struct frontend **ret, const struct frontend_parts *parts, struct error *err);
struct frontend *frontend_free(struct frontend *frontend);
