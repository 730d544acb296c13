/* The watch on the holder's connection. Owns it. Runs on the device's loop and, for the hand-over, on an
 * offload thread; called by device.c. */
#include "datapath/device/holder_watch.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <sys/socket.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "datapath/device/holder_client.h"

#define RETRY_MS 500u

static void watch_arm(struct holder_watch *watch);
static void holder_ended(struct loop_op *op, int res, unsigned flags);
static void timer_done(struct loop_op *op, int res, unsigned flags);
static int hand_over_work(struct loop_work *work);
static void hand_over_done(struct loop_op *op, int res, unsigned flags);

/* The holder never speaks first, but what it answered a job while we had stopped may be heard only now: by
 * then the job has read it, or given up. */
static bool connection_ended(int connection)
{
    char byte;
    ssize_t r = recv(connection, &byte, sizeof byte, MSG_DONTWAIT);
    return r == 0 || (r < 0 && errno != EAGAIN && errno != EINTR);
}

static void watch_arm(struct holder_watch *watch)
{
    watch->busy = true;
    watch->poll.done = holder_ended;
    loop_poll(watch->loop, &watch->poll, watch->connection, POLLIN);
}

static void retry_later(struct holder_watch *watch)
{
    watch->busy = true;
    watch->timer.done = timer_done;
    loop_timeout(watch->loop, &watch->timer, RETRY_MS);
}

static void holder_ended(struct loop_op *op, int res, unsigned flags)
{
    (void)res;
    (void)flags;
    struct holder_watch *watch = container_of(op, struct holder_watch, poll);
    watch->busy = false;
    if (watch->stopped)
        return;
    if (!connection_ended(watch->connection)) {
        watch_arm(watch);
        return;
    }
    log_error("mooring-holder has ended: until there is a new one, a crash of this process is not survived");
    watch->connection = fd_close(watch->connection);
    watch->changed(watch->context, -1);
    retry_later(watch);
}

static void timer_done(struct loop_op *op, int res, unsigned flags)
{
    (void)res;
    (void)flags;
    struct holder_watch *watch = container_of(op, struct holder_watch, timer);
    watch->busy = false;
    if (watch->stopped)
        return;
    watch->busy = true;
    watch->offered = -1;
    watch->work = (struct loop_work){.work = hand_over_work, .op = {.done = hand_over_done}};
    loop_offload(watch->loop, &watch->work);
}

static int hand_over_work(struct loop_work *work)
{
    struct holder_watch *watch = container_of(work, struct holder_watch, work);
    _cleanup_error_ struct error err = {0};
    int r = holder_client_connect(watch->dir_fd, 0, &watch->offered, &err);
    if (r)
        return r; /* none yet */
    r = watch->hand_over(watch->context, watch->offered, &err);
    if (r)
        log_warning("the new mooring-holder cannot be used: %s", error_text(&err));
    return r;
}

static void hand_over_done(struct loop_op *op, int res, unsigned flags)
{
    (void)flags;
    struct holder_watch *watch = container_of(op, struct holder_watch, work.op);
    int connection = TAKE_FD(watch->offered);
    watch->busy = false;
    if (res) {
        fd_close(connection);
        if (!watch->stopped)
            retry_later(watch);
        return;
    }
    log_info("a new mooring-holder has everything: a crash of this process is survived again");
    watch->connection = connection;
    watch->changed(watch->context, connection);
    if (!watch->stopped)
        watch_arm(watch);
}

void holder_watch_start(struct holder_watch *watch)
{
    watch->stopped = false;
    if (watch->busy)
        return;
    if (watch->connection >= 0)
        watch_arm(watch);
    else
        retry_later(watch);
}

void holder_watch_stop(struct holder_watch *watch)
{
    watch->stopped = true;
}
