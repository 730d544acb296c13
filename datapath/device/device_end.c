/*
 * The orderly end (SIGTERM when device.json says "end"), in time order: detach the block device (served until
 * its last user is gone), flush, close the frontend, log out, dismiss the holder. Runs on the device's loop;
 * called by device.c.
 */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "datapath/device/device.h"
#include "datapath/device/holder_client.h"

#define RETRY_MS 100u
#define CLOSE_ATTEMPTS 50u

static int detach_work(struct loop_work *work);
static void detach_done(struct loop_op *op, int res, unsigned flags);
static void end_flush(struct device *device);
static void end_flush_done(struct request *request, int result);
static int close_work(struct loop_work *work);
static void close_done(struct loop_op *op, int res, unsigned flags);
static void end_logout(struct device *device);

static void retry_done(struct loop_op *op, int res, unsigned flags)
{
    (void)res;
    (void)flags;
    struct device *device = container_of(op, struct device, retry);
    if (device->phase == DEVICE_PHASE_END_DETACH)
        device_job_start(device, detach_work, detach_done);
    else
        device_job_start(device, close_work, close_done);
}

static void retry_later(struct device *device)
{
    device->end_attempts++;
    device->retry.done = retry_done;
    loop_timeout(device->loop, &device->retry, RETRY_MS);
}

void device_end(struct device *device)
{
    device->end_requested = true;
    if (device->job_running || device->phase > DEVICE_PHASE_SERVE)
        return;
    if (device->phase == DEVICE_PHASE_START) {
        if (device->frontend->adopted || !replay_log_empty(&device->log))
            return; /* there are users, or answered writes: serve first, then end */
        end_logout(device);
        return;
    }
    device->phase = DEVICE_PHASE_END_DETACH;
    device->end_attempts = 0;
    device_tell(device, device->failed ? device->status.status.error : NULL);
    device_job_start(device, detach_work, detach_done);
}

static int detach_work(struct loop_work *work)
{
    struct device *device = container_of(work, struct device, job);
    return device->frontend->ops->detach(device->frontend, &device->job_error);
}

static void detach_done(struct loop_op *op, int res, unsigned flags)
{
    (void)flags;
    struct device *device = container_of(op, struct device, job.op);
    device->job_running = false;
    if (res == 0) {
        end_flush(device);
        return;
    }
    if (device->end_attempts == 0)
        log_warning("waiting for the last user: %s", error_text(&device->job_error));
    retry_later(device);
}

static void end_flush(struct device *device)
{
    device->phase = DEVICE_PHASE_END_FLUSH;
    device->last_flush = (struct request){.verb = REQUEST_FLUSH, .patient = true, .done = end_flush_done};
    requests_submit(&device->requests, &device->last_flush);
    requests_kick(&device->requests);
}

static void end_flush_done(struct request *request, int result)
{
    struct device *device = container_of(request, struct device, last_flush);
    /* A volume that failed for good, all of whose answered writes are stable, has lost nothing by that. */
    if (result && !(device->failed && replay_log_empty(&device->log))) {
        snprintf(device->end_error, sizeof device->end_error,
                 "the last flush failed (%s): writes since the one before may be lost", error_name(result));
        log_error("%s", device->end_error);
        device_tell(device, device->end_error);
    }
    device->phase = DEVICE_PHASE_END_CLOSE;
    device->end_attempts = 0;
    device_job_start(device, close_work, close_done);
}

static int close_work(struct loop_work *work)
{
    struct device *device = container_of(work, struct device, job);
    bool force = device->end_attempts >= CLOSE_ATTEMPTS;
    return device->frontend->ops->close(device->frontend, force, &device->job_error);
}

static void close_done(struct loop_op *op, int res, unsigned flags)
{
    (void)flags;
    struct device *device = container_of(op, struct device, job.op);
    device->job_running = false;
    if (res == 0 || device->end_attempts > 2 * CLOSE_ATTEMPTS) {
        if (res)
            log_error("something is left behind: %s", error_text(&device->job_error));
        device->frontend->ops->stop(device->frontend);
        end_logout(device);
        return;
    }
    retry_later(device);
}

static void end_logout(struct device *device)
{
    device->phase = DEVICE_PHASE_END_LOGOUT;
    holder_watch_stop(&device->watch);
    initiator_stop(&device->initiator);
}

void device_end_session_lost(struct device *device)
{
    if (device->phase == DEVICE_PHASE_ENDED)
        return;
    device->phase = DEVICE_PHASE_ENDED;
    _cleanup_error_ struct error err = {0};
    if (device->holder >= 0 && holder_client_end(device->holder, &err))
        log_warning("%s", error_text(&err));
    device->exit_code = device->end_error[0] ? 1 : 0;
    device->status.status.block_device[0] = '\0';
    status_writer_set(&device->status, DEVICE_ENDED, device->end_error);
    loop_stop(device->loop);
}
