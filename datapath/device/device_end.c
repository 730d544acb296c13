/*
 * The orderly end (SIGTERM when device.json says "end"), in time order: detach the loop device (served until
 * its last user is gone), flush, unmount, log out, dismiss the holder. Runs on the device's loop; called by
 * device.c.
 */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "datapath/device/device.h"
#include "datapath/device/fuse_mount.h"
#include "datapath/device/holder_client.h"

#define RETRY_MS 100u
#define UNMOUNT_ATTEMPTS 50u

static int detach_work(struct loop_work *work);
static void detach_done(struct loop_op *op, int res, unsigned flags);
static void end_flush(struct device *device);
static void end_flush_done(struct request *request, int result);
static int unmount_work(struct loop_work *work);
static void unmount_done(struct loop_op *op, int res, unsigned flags);
static void end_logout(struct device *device);

static void retry_done(struct loop_op *op, int res, unsigned flags)
{
    (void)res;
    (void)flags;
    struct device *device = container_of(op, struct device, retry);
    if (device->phase == DEVICE_PHASE_END_LOOP)
        device_job_start(device, detach_work, detach_done);
    else
        device_job_start(device, unmount_work, unmount_done);
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
        if (device->adopted || !replay_log_empty(&device->log))
            return; /* there are users, or answered writes: serve first, then end */
        end_logout(device);
        return;
    }
    device->phase = DEVICE_PHASE_END_LOOP;
    device->end_attempts = 0;
    device_tell(device, device->failed ? device->status.status.error : NULL);
    device_job_start(device, detach_work, detach_done);
}

static int detach_work(struct loop_work *work)
{
    struct device *device = container_of(work, struct device, job);
    if (device->loop_path[0] == '\0')
        return 0;
    return loop_device_clear(device->loop_path, device->file, &device->job_error);
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
    device->last_flush = (struct request){.verb = REQUEST_FLUSH, .done = end_flush_done};
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
    device->phase = DEVICE_PHASE_END_UNMOUNT;
    device->end_attempts = 0;
    device_job_start(device, unmount_work, unmount_done);
}

static int unmount_work(struct loop_work *work)
{
    struct device *device = container_of(work, struct device, job);
    int r = fuse_unmount(device->state->mount_point, &device->job_error);
    if (r && device->end_attempts >= UNMOUNT_ATTEMPTS)
        fuse_abort(device->state->mount_point, &device->job_error);
    return r;
}

static void unmount_done(struct loop_op *op, int res, unsigned flags)
{
    (void)flags;
    struct device *device = container_of(op, struct device, job.op);
    device->job_running = false;
    if (res == 0 || device->end_attempts > 2 * UNMOUNT_ATTEMPTS) {
        if (res)
            log_error("%s is left mounted: %s", device->state->mount_point, error_text(&device->job_error));
        fuse_frontend_stop(&device->frontend);
        end_logout(device);
        return;
    }
    retry_later(device);
}

static void end_logout(struct device *device)
{
    device->phase = DEVICE_PHASE_END_LOGOUT;
    initiator_stop(&device->initiator);
}

void device_end_session_lost(struct device *device)
{
    if (device->phase == DEVICE_PHASE_ENDED)
        return;
    device->phase = DEVICE_PHASE_ENDED;
    _cleanup_error_ struct error err = {0};
    if (holder_client_end(device->holder, &err))
        log_warning("%s", error_text(&err));
    device->exit_code = device->end_error[0] ? 1 : 0;
    device->status.status.loop_device[0] = '\0';
    status_writer_set(&device->status, DEVICE_ENDED, device->end_error);
    loop_stop(device->loop);
}
