/*
 * The device's life up to SERVE, and what the session's comings and goings mean. Owns every part. Runs on the
 * loop; called by main.c. The way down is device_end.c.
 */
#include "datapath/device/device.h"

#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/size.h"
#include "common/strings.h"
#include "datapath/device/boot_id.h"
#include "datapath/device/fuse_mount.h"
#include "datapath/device/holder_client.h"

#define HOLDER_WAIT_MS 10000u
#define REPLAY_WAIT_MIN_MS 1000u
#define REPLAY_WAIT_MAX_MS 30000u

static void session_up(void *context);
static void session_identified(void *context, const struct volume_limits *limits, const char *boot_id);
static void session_replayed(void *context, int result);
static void session_open(struct device *device, const char *boot_id);
static void session_refused(struct device *device, int number);
static void session_usable(struct device *device);
static void session_lost(void *context, const char *why, bool fatal);
static void bring_up(struct device *device);
static int mount_work(struct loop_work *work);
static void mount_done(struct loop_op *op, int res, unsigned flags);
static int attach_work(struct loop_work *work);
static void attach_done(struct loop_op *op, int res, unsigned flags);
static void device_leave(struct device *device);

static const char *const fuse_names[FUSE_CHANNELS] = {"fuse0", "fuse1"};

/* ---- jobs ---- */

void device_job_start(struct device *device, int (*work)(struct loop_work *work),
                      void (*done)(struct loop_op *op, int res, unsigned flags))
{
    error_done(&device->job_error);
    device->job_running = true;
    device->job = (struct loop_work){.work = work, .op = {.done = done}};
    loop_offload(device->loop, &device->job);
}

/* ---- the status ---- */

static bool device_stands(const struct device *device)
{
    return device->phase >= DEVICE_PHASE_SERVE || device->adopted;
}

void device_tell(struct device *device, const char *why)
{
    enum device_status_code code = DEVICE_CONNECTING;
    enum requests_gate gate = device->requests.gate;
    if (!why && gate == REQUESTS_REFUSED)
        why = device->requests.refusal == ENOSPC
                  ? "only reads are served: the storage server has no space for the replay of answered writes"
                  : "only reads are served: the storage server refuses the replay of answered writes";
    if (device->phase > DEVICE_PHASE_SERVE)
        code = DEVICE_ENDING;
    else if (device->phase == DEVICE_PHASE_SERVE && (gate == REQUESTS_OPEN || gate == REQUESTS_REFUSED))
        code = DEVICE_READY;
    else if (device_stands(device))
        code = DEVICE_WAITING;
    if (!device->failed || code == DEVICE_ENDING)
        status_writer_set(&device->status, code, why);
}

/* ---- failing ---- */

/* For good: every I/O ends with EIO. Without a mount there is nothing to serve: the process ends. */
static void device_fail(struct device *device, const char *why)
{
    device->failed = true;
    device->exit_code = 1;
    initiator_abandon(&device->initiator);
    requests_fail(&device->requests);
    if (device->phase > DEVICE_PHASE_SERVE)
        device_tell(device, why);
    else
        status_writer_set(&device->status, DEVICE_FAILED, why);
    if (device->phase == DEVICE_PHASE_START && !device->adopted)
        loop_stop(device->loop);
    else if (device->phase == DEVICE_PHASE_START)
        bring_up(device);
}

/* Beside the job, which may be waiting for the very mount. */
static int abort_work(struct loop_work *work)
{
    struct device *device = container_of(work, struct device, abort);
    _cleanup_error_ struct error err = {0};
    int r = fuse_abort(device->state->mount_point, &err);
    if (r)
        log_error("%s", error_text(&err));
    return r;
}

static void abort_done(struct loop_op *op, int res, unsigned flags)
{
    (void)op;
    (void)res;
    (void)flags;
}

/* Nobody reads the mount any more: where it still lives, its users would wait for ever. */
static void frontend_gone(void *context, int result)
{
    struct device *device = context;
    if (device->phase >= DEVICE_PHASE_END_UNMOUNT || device->failed)
        return;
    char words[128];
    if (result == -ENODEV) {
        snprintf(words, sizeof words, "the FUSE mount was taken away");
    } else {
        snprintf(words, sizeof words, "the FUSE mount cannot be read (%s) and was aborted",
                 error_name(result));
        loop_offload(device->loop, &device->abort);
    }
    device_fail(device, words);
}

static void log_relieved(void *context, int result)
{
    struct device *device = context;
    fuse_frontend_resume(&device->frontend, result);
}

/* ---- the session ---- */

static void session_up(void *context)
{
    struct device *device = context;
    identify_start(&device->identify);
}

static void session_identified(void *context, const struct volume_limits *limits, const char *boot_id)
{
    struct device *device = context;
    requests_session_identified(&device->requests, limits);
    if (limits->write_through && !device->foreign_said)
        log_warning("the target shows no boot id: not a mooring-target, every write is sent write-through");
    device->foreign_said |= limits->write_through;
    if (device->state->replay && boot_id_needs_replay(&device->log, boot_id)) {
        log_info("the storage server has restarted: replaying %llu bytes of log",
                 (unsigned long long)replay_log_used_bytes(&device->log));
        replay_start(&device->replay);
        return;
    }
    session_open(device, boot_id);
}

static void session_replayed(void *context, int result)
{
    struct device *device = context;
    if (result) {
        session_refused(device, -result);
        return;
    }
    log_info("replayed %llu changes", device->replay.entries);
    session_open(device, device->identify.boot_id);
}

static void session_open(struct device *device, const char *boot_id)
{
    if (boot_id[0])
        replay_log_set_boot_id(&device->log, boot_id);
    device->replay_wait_ms = REPLAY_WAIT_MIN_MS;
    requests_session_open(&device->requests);
    session_usable(device);
}

/* The server's disk, or the volume, does not take what was answered. The log and its boot id stay: whatever
 * comes later goes behind a replay that succeeds. Until then nobody is kept waiting. */
static void session_refused(struct device *device, int number)
{
    if (device->requests.gate != REQUESTS_REFUSED)
        log_error("the storage server refuses the replay of answered writes (%s): changes and flushes fail",
                  error_name(-number));
    requests_session_refused(&device->requests, number);
    if (!device->replay_timer_armed) {
        device->replay_timer_armed = true;
        loop_timeout(device->loop, &device->replay_timer, device->replay_wait_ms);
        device->replay_wait_ms = MIN(2 * device->replay_wait_ms, REPLAY_WAIT_MAX_MS);
    }
    session_usable(device);
}

static void replay_timer_done(struct loop_op *op, int res, unsigned flags)
{
    (void)res;
    (void)flags;
    struct device *device = container_of(op, struct device, replay_timer);
    device->replay_timer_armed = false;
    if (device->requests.gate == REQUESTS_REFUSED && !device->replay.running &&
        device->phase < DEVICE_PHASE_END_LOGOUT)
        replay_start(&device->replay);
}

static void session_usable(struct device *device)
{
    initiator_settled(&device->initiator);
    if (device->phase == DEVICE_PHASE_START)
        bring_up(device);
    else if (!device->failed)
        device_tell(device, NULL);
}

static void session_lost(void *context, const char *why, bool fatal)
{
    struct device *device = context;
    identify_lost(&device->identify);
    replay_lost(&device->replay);
    requests_session_lost(&device->requests);
    if (device->phase >= DEVICE_PHASE_END_LOGOUT) {
        device_end_session_lost(device);
        return;
    }
    if (device->failed)
        return;
    if (fatal)
        device_fail(device, why);
    else
        device_tell(device, why);
}

/* ---- bringing the block device up ---- */

static void bring_up(struct device *device)
{
    device->phase = DEVICE_PHASE_MOUNT;
    device_job_start(device, mount_work, mount_done);
}

/* Loop devices over the file of a mount that is dead: nothing can be read there any more. */
static int clear_dead_loops(struct device *device, struct error *err)
{
    char path[LOOP_DEVICE_PATH_MAX];
    int r;
    while ((r = loop_device_find(device->file, path, err)) == 0) {
        r = loop_device_clear(path, device->file, err);
        if (r)
            return error_wrap(err, "left by an earlier mooring-device that nobody took over");
    }
    if (r == E_NOT_FOUND)
        error_done(err);
    return r == E_NOT_FOUND ? 0 : r;
}

/* Each descriptor is the holder's before the next step: a crash in between leaves what can be taken over. */
static int mount_work(struct loop_work *work)
{
    struct device *device = container_of(work, struct device, job);
    struct error *err = &device->job_error;
    int *fds = device->fuse_fds;
    int r = 0;
    if (fds[0] < 0) {
        r = clear_dead_loops(device, err);
        r = r ? r : fuse_mount(device->state->mount_point, device->state->volume_id, &fds[0], err);
        r = r ? r : holder_client_put(device->holder, fuse_names[0], fds[0], err);
    }
    if (r == 0 && fds[1] < 0) {
        r = fuse_clone(fds[0], &fds[1], err);
        r = r ? r : holder_client_put(device->holder, fuse_names[1], fds[1], err);
    }
    return r;
}

static void mount_done(struct loop_op *op, int res, unsigned flags)
{
    (void)flags;
    struct device *device = container_of(op, struct device, job.op);
    device->job_running = false;
    if (res) {
        device->adopted = false;
        device->phase = DEVICE_PHASE_START;
        device_fail(device, error_text(&device->job_error));
        return;
    }
    for (int i = 0; i < FUSE_CHANNELS; i++)
        fuse_frontend_add(&device->frontend, device->fuse_fds[i]);
    if (device->adopted && fuse_frontend_resend(&device->frontend) < 0) {
        _cleanup_error_ struct error err = {0};
        fuse_abort(device->state->mount_point, &err);
        device_fail(device,
                    "this kernel has no FUSE_NOTIFY_RESEND (Linux 6.9): the requests that the crashed "
                    "process had taken are lost, the block device was aborted");
    }
    device->phase = DEVICE_PHASE_ATTACH;
    device_job_start(device, attach_work, attach_done);
}

static int attach_work(struct loop_work *work)
{
    struct device *device = container_of(work, struct device, job);
    int r = loop_device_find(device->file, device->loop_path, &device->job_error);
    if (r != E_NOT_FOUND || device->failed)
        return r;
    error_done(&device->job_error);
    return loop_device_create(device->file, (uint32_t)device->state->block_size_bytes,
                              device->state->read_only, device->loop_path, &device->job_error);
}

/* The holder never speaks first: its end is all that can be heard here. The volume goes on, for now. */
static void holder_gone(struct loop_op *op, int res, unsigned flags)
{
    (void)res;
    (void)flags;
    struct device *device = container_of(op, struct device, holder_op);
    if (device->phase >= DEVICE_PHASE_END_LOGOUT)
        return;
    log_error("mooring-holder has ended: a crash of this process is no longer survived");
    status_writer_set_device(&device->status, device->loop_path, false);
}

static void attach_done(struct loop_op *op, int res, unsigned flags)
{
    (void)flags;
    struct device *device = container_of(op, struct device, job.op);
    device->job_running = false;
    device->phase = DEVICE_PHASE_SERVE;
    if (res == 0)
        status_writer_set_device(&device->status, device->loop_path, device->frontend.kernel_resends);
    if (res == 0 && !device->frontend.kernel_resends)
        log_warning(
            "this kernel has no FUSE_NOTIFY_RESEND (Linux 6.9): a crash of this process is not survived");
    loop_poll(device->loop, &device->holder_op, device->holder, POLLIN);
    if (res && !device->failed)
        device_fail(device, error_text(&device->job_error));
    device_tell(device, NULL);
    if (device->end_requested)
        device_end(device);
    else if (device->leaving)
        device_leave(device);
}

/* ---- start ---- */

static int open_log(struct device *device, struct error *err)
{
    const struct device_state *state = device->state;
    int r = holder_client_get(device->holder, "log", &device->log_fd, err);
    if (r == 0)
        r = replay_log_adopt(&device->log, device->log_fd, state->volume_id, state->epoch, err);
    if (r == 0)
        return 0;
    if (r != E_NOT_FOUND && r != E_STALE)
        return r;
    if (r == E_STALE) {
        log_warning("%s", error_text(err));
        error_done(err);
        r = fuse_abort(state->mount_point, err); /* adopt_mount() sees that it is dead */
        if (r)
            return r;
    }
    error_done(err);
    device->log_fd = fd_close(device->log_fd);
    r = replay_log_create(&device->log, state->volume_id, state->epoch, state->log_size_bytes,
                          &device->log_fd, err);
    return r ? r : holder_client_put(device->holder, "log", device->log_fd, err);
}

/* A connection that was aborted or unmounted says so, and serves nobody. */
static bool fuse_is_dead(int fd)
{
    struct pollfd poll_fd = {.fd = fd};
    return poll(&poll_fd, 1, 0) > 0 && (poll_fd.revents & (POLLERR | POLLNVAL));
}

/* Not the descriptors of another epoch's attachment, whose log open_log() destroyed: what that one's users
 * had written and not flushed is gone, and they must not go on as if it were not. */
static int adopt_mount(struct device *device, struct error *err)
{
    for (int i = 0; i < FUSE_CHANNELS; i++) {
        int r = holder_client_get(device->holder, fuse_names[i], &device->fuse_fds[i], err);
        if (r && r != E_NOT_FOUND)
            return r;
        error_done(err);
    }
    if (fuse_is_dead(device->fuse_fds[0]) || fuse_is_dead(device->fuse_fds[1])) {
        log_warning("the earlier FUSE mount is dead: it is made anew");
        for (int i = 0; i < FUSE_CHANNELS; i++)
            device->fuse_fds[i] = fd_close(device->fuse_fds[i]);
    }
    device->adopted = device->fuse_fds[0] >= 0;
    if (device->adopted) {
        device->status.status.code = DEVICE_WAITING;
        if (loop_device_find(device->file, device->loop_path, err) == 0)
            str_copy(device->status.status.loop_device, sizeof device->status.status.loop_device,
                     device->loop_path);
        error_done(err);
    }
    status_writer_flush(&device->status);
    return 0;
}

/* The signal does not mean the volume (a pod stops): everything stays with the holder, as after a crash. A
 * job must end first: its thread may be waiting for an answer over FUSE, which nobody else would give. */
static void device_leave(struct device *device)
{
    device->leaving = true;
    if (device->job_running)
        return;
    if (!device->failed)
        status_writer_set(&device->status, device_stands(device) ? DEVICE_WAITING : DEVICE_CONNECTING,
                          "stopped by a signal; the volume stays attached, its I/O waits for the next start");
    loop_stop(device->loop);
}

static void signal_done(struct loop_op *op, int res, unsigned flags)
{
    (void)flags;
    struct device *device = container_of(op, struct device, signal_op);
    if (res == -ECANCELED)
        return;
    loop_read(device->loop, &device->signal_op, device->signal_fd, device->signal_info,
              sizeof device->signal_info);
    if (device->end_requested)
        return;
    if (device_state_end_asked(device->state))
        device_end(device);
    else
        device_leave(device);
}

static int init_parts(struct device *device, struct error *err)
{
    static const struct initiator_events events = {.up = session_up, .lost = session_lost};
    const struct device_state *state = device->state;
    requests_init(&device->requests, device->loop, &device->initiator, &device->log, log_relieved, device);
    identify_init(&device->identify, &device->initiator, session_identified, device);
    replay_init(&device->replay, &device->requests, session_replayed, device);
    int r = initiator_init(&device->initiator, device->loop, state, &events, device, err);
    r = r ? r : buffers_init(&device->buffers, state->buffers_size_bytes, err);
    r = r ? r
          : fuse_frontend_init(&device->frontend, device->loop, state, &device->requests, &device->log,
                               &device->buffers, err);
    device->frontend.gone = frontend_gone;
    device->frontend.context = device;
    return r;
}

int device_init(struct device *device, struct loop *loop, const struct device_state *state, int signal_fd,
                struct error *err)
{
    *device = (struct device){.loop = loop, .state = state, .signal_fd = signal_fd};
    device->holder = device->log_fd = device->fuse_fds[0] = device->fuse_fds[1] = -1;
    device->signal_op.done = signal_done;
    device->holder_op.done = holder_gone;
    device->abort = (struct loop_work){.work = abort_work, .op = {.done = abort_done}};
    device->replay_timer.done = replay_timer_done;
    device->replay_wait_ms = REPLAY_WAIT_MIN_MS;
    snprintf(device->file, sizeof device->file, "%s/%s", state->mount_point, FUSE_PROTO_VOLUME_NAME);
    status_writer_init(&device->status, loop, state->dir_fd, state->generation);
    int r = holder_client_connect(state->dir_fd, HOLDER_WAIT_MS, &device->holder, err);
    r = r ? r : open_log(device, err);
    r = r ? r : adopt_mount(device, err);
    r = r ? r : init_parts(device, err);
    if (r) {
        device->status.status.code = DEVICE_FAILED;
        str_copy(device->status.status.error, sizeof device->status.status.error, error_text(err));
        if (r != E_BUSY) /* the status is the other one's, then */
            status_writer_flush(&device->status);
    }
    return r;
}

void device_start(struct device *device)
{
    loop_read(device->loop, &device->signal_op, device->signal_fd, device->signal_info,
              sizeof device->signal_info);
    initiator_start(&device->initiator);
}

void device_done(struct device *device)
{
    status_writer_flush(&device->status);
    fuse_frontend_done(&device->frontend);
    buffers_done(&device->buffers);
    replay_log_done(&device->log);
    error_done(&device->job_error);
    for (int i = 0; i < FUSE_CHANNELS; i++)
        fd_close(device->fuse_fds[i]);
    fd_close(device->log_fd);
    fd_close(device->holder);
}
