/*
 * How long I/O waits for a storage server that is away. By default for ever; two limits can be set, after
 * which what waits ends with EIO, and what comes ends at once, until the path is back:
 *
 *   path_timeout_ms: since the session was lost, or since the start.
 *   lease_ms: since the newest moment at which the server certainly still admitted this attachment, also
 *     while the session seems well (initiator.h). For nodes that may be cut off and replaced: what reads
 *     through this device is not shown data that another node may have changed since. What caches above the
 *     device hold is not ours; its owner has to end at the first error.
 *
 * The log keeps what was answered, and its replay still comes first when the path is back. One thread, the
 * loop's.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "datapath/device/initiator.h"
#include "datapath/device/requests.h"

struct path {
    struct loop *loop;
    struct requests *requests;
    const struct initiator *initiator;
    uint64_t timeout_ms, lease_ms;  /* 0: none */
    void (*expired)(void *context); /* I/O ends with EIO from now on */
    void *context;

    bool lost;
    uint64_t lost_ms;
    struct loop_op timer;
    bool timer_armed;
};

/* Fill in the first part before. */
void path_start(struct path *path);

/* There is no session. Repeated calls count from the first. */
void path_lost(struct path *path);

/* There is one, and what waits goes on: before requests_session_open() or requests_session_refused(). */
void path_back(struct path *path);
