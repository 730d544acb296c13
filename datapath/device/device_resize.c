/*
 * A volume that grows while it is attached: what the device learns of its size, and when the block device
 * takes it. It never shrinks. Runs on the device's loop, its job on an offload thread; called by device.c.
 */
#include <stddef.h>
#include <stdio.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "datapath/device/device.h"

static void resize_start(struct device *device);
static int resize_work(struct loop_work *work);
static void resize_done(struct loop_op *op, int res, unsigned flags);

/* Requests up to the new size are served before the block device lets any come. */
void device_resize_learn(void *context, uint64_t size_bytes)
{
    struct device *device = context;
    struct device_state *state = device->state;
    if (size_bytes < state->size_bytes)
        log_warning("the volume has become smaller on its storage server (%llu bytes, %llu here): it stays",
                    (unsigned long long)size_bytes, (unsigned long long)state->size_bytes);
    if (size_bytes > state->size_bytes) {
        log_info("the volume has grown from %llu to %llu bytes", (unsigned long long)state->size_bytes,
                 (unsigned long long)size_bytes);
        state->size_bytes = size_bytes;
    }
    if (state->size_bytes > device->status.status.size_bytes)
        resize_start(device);
}

/* Where there is no session the next one tells it. */
void device_resize_ask(void *context)
{
    struct device *device = context;
    enum requests_gate gate = device->requests.gate;
    if (gate == REQUESTS_OPEN || gate == REQUESTS_REFUSED)
        capacity_ask(&device->capacity);
}

/* What was made just now has the size that was known before; what was adopted, its predecessor's. */
void device_resize_attached(struct device *device, uint64_t made_bytes)
{
    if (made_bytes == device->state->size_bytes)
        status_writer_set_size(&device->status, made_bytes, "");
    else
        resize_start(device);
}

static void resize_start(struct device *device)
{
    if (device->phase != DEVICE_PHASE_SERVE || device->job_running || device->failed ||
        device->end_requested || device->leaving)
        return; /* what ends a job, or brings the block device up, looks again */
    device->resize_bytes = device->state->size_bytes;
    device_job_start(device, resize_work, resize_done);
}

static int resize_work(struct loop_work *work)
{
    struct device *device = container_of(work, struct device, job);
    return device->frontend->ops->resize(device->frontend, device->resize_bytes, &device->job_error);
}

static void resize_done(struct loop_op *op, int res, unsigned flags)
{
    (void)flags;
    struct device *device = container_of(op, struct device, job.op);
    device->job_running = false;
    if (res == 0)
        status_writer_set_size(&device->status, device->resize_bytes, "");
    else {
        log_warning("the block device keeps its size: %s", error_text(&device->job_error));
        status_writer_set_size(&device->status, device->status.status.size_bytes,
                               error_text(&device->job_error));
    }
    if (device->end_requested)
        device_end(device);
    else if (device->leaving)
        device_leave(device);
    else if (device->state->size_bytes > device->resize_bytes)
        resize_start(device);
}
