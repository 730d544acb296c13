/* The limits of waiting. Owns their timer. Runs on the device's loop; called by device.c. */
#include "datapath/device/path.h"

#include <stddef.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/time.h"

#define LOOK_MS 100u

static void timer_arm(struct path *path);

static const char *limit_reached(const struct path *path)
{
    if (path->timeout_ms && time_now_ms() - path->lost_ms >= path->timeout_ms)
        return "the path timeout is over";
    if (path->lease_ms && !initiator_lease_holds(path->initiator))
        return "the lease is over";
    return NULL;
}

static void path_check(struct path *path)
{
    if (!path->lost || path->requests->expired || path->requests->gate == REQUESTS_FAILED)
        return;
    const char *limit = limit_reached(path);
    if (!limit) {
        timer_arm(path);
        return;
    }
    log_error("%s: I/O on %s ends with an error until the storage server is back", limit,
              path->initiator->state->volume_id);
    requests_expire(path->requests);
    path->expired(path->context);
}

static void timer_done(struct loop_op *op, int res, unsigned flags)
{
    (void)res;
    (void)flags;
    struct path *path = container_of(op, struct path, timer);
    path->timer_armed = false;
    path_check(path);
}

static void timer_arm(struct path *path)
{
    if (path->timer_armed || (!path->timeout_ms && !path->lease_ms))
        return;
    path->timer_armed = true;
    path->timer.done = timer_done;
    loop_timeout(path->loop, &path->timer, LOOK_MS);
}

void path_start(struct path *path)
{
    path->lost = false;
    path_lost(path);
}

void path_lost(struct path *path)
{
    if (!path->lost)
        path->lost_ms = time_now_ms();
    path->lost = true;
    path_check(path);
}

void path_back(struct path *path)
{
    path->lost = false;
    path->requests->expired = false;
}
