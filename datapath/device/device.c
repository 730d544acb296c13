/*
 * The device's life up to SERVE, and what the session's comings and goings mean. Owns every part. Runs on the
 * loop; called by main.c. The way down is device_end.c.
 */
#include "datapath/device/device.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/size.h"
#include "common/strings.h"
#include "common/time.h"
#include "datapath/device/boot_id.h"
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
static int open_work(struct loop_work *work);
static void open_done(struct loop_op *op, int res, unsigned flags);
static int attach_work(struct loop_work *work);
static void attach_done(struct loop_op *op, int res, unsigned flags);

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
    return device->phase >= DEVICE_PHASE_SERVE || device->frontend->adopted;
}

void device_tell(struct device *device, const char *why)
{
    enum device_status_code code = DEVICE_CONNECTING;
    enum requests_gate gate = device->requests.gate;
    if (!why && gate == REQUESTS_REFUSED)
        why = device->requests.refusal == ENOSPC
                  ? "only reads are served: the storage server has no space for the replay of answered writes"
                  : "only reads are served: the storage server refuses the replay of answered writes";
    char words[256];
    if (device->requests.expired && !device->failed) {
        snprintf(words, sizeof words, "I/O ends with an error, for the storage server is away too long%s%s",
                 why ? ": " : "", why ? why : "");
        why = words;
    }
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

/* For good: every I/O ends with EIO. Without a block device there is nothing to serve: the process ends. */
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
    if (device->phase == DEVICE_PHASE_START && !device->frontend->adopted)
        loop_stop(device->loop);
    else if (device->phase == DEVICE_PHASE_START)
        bring_up(device);
}

/* Beside the job, which may be waiting for the very block device. */
static int abort_work(struct loop_work *work)
{
    struct device *device = container_of(work, struct device, abort);
    _cleanup_error_ struct error err = {0};
    int r = device->frontend->ops->abort(device->frontend, &err);
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

static void frontend_gone(void *context, const char *why, bool abort)
{
    struct device *device = context;
    if (device->phase >= DEVICE_PHASE_END_CLOSE || device->failed)
        return;
    if (abort)
        loop_offload(device->loop, &device->abort);
    device_fail(device, why);
}

static void log_relieved(void *context, int result)
{
    struct device *device = context;
    device->frontend->ops->resume(device->frontend, result);
}

static void requests_erred(void *context)
{
    struct device *device = context;
    status_writer_count_errors(&device->status, device->requests.errors);
}

static void requests_failed(void *context)
{
    struct device *device = context;
    uint64_t took_us = (time_now_ns() - device->requests.failed_ns) / 1000;
    log_info("%u requests that waited have ended with an error, within %llu us",
             device->requests.failed_count, (unsigned long long)took_us);
    status_writer_set_failed(&device->status, device->requests.failed_count, took_us);
}

/* ---- the session ---- */

/* What a predecessor left has users: an error is theirs too, though there has been no session yet. */
static void path_expired(void *context)
{
    struct device *device = context;
    if (device->phase == DEVICE_PHASE_START && device->frontend->adopted)
        bring_up(device);
    device_tell(device, NULL);
}

static void session_up(void *context)
{
    struct device *device = context;
    identify_start(&device->identify);
}

static void session_identified(void *context, const struct volume_limits *limits, const char *boot_id)
{
    struct device *device = context;
    requests_session_identified(&device->requests, limits);
    device_resize_learn(device, limits->size_bytes);
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
    path_back(&device->path);
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
    path_back(&device->path);
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
    capacity_lost(&device->capacity);
    replay_lost(&device->replay);
    requests_session_lost(&device->requests);
    if (device->phase >= DEVICE_PHASE_END_LOGOUT) {
        device_end_session_lost(device);
        return;
    }
    if (device->failed)
        return;
    if (fatal) {
        log_error("the storage server refuses the login for good: all I/O ends with an error (%s)", why);
        device_fail(device, why);
        return;
    }
    path_lost(&device->path);
    device_tell(device, why);
}

/* ---- bringing the block device up ---- */

/* The job needs the holder that is there: until it has ended, another one would miss what it makes. */
static void bring_up(struct device *device)
{
    holder_watch_stop(&device->watch);
    device->phase = DEVICE_PHASE_OPEN;
    device_job_start(device, open_work, open_done);
}

static int open_work(struct loop_work *work)
{
    struct device *device = container_of(work, struct device, job);
    return device->frontend->ops->open(device->frontend, &device->job_error);
}

static void open_done(struct loop_op *op, int res, unsigned flags)
{
    (void)flags;
    struct device *device = container_of(op, struct device, job.op);
    device->job_running = false;
    if (res) {
        device->frontend->adopted = false;
        device->phase = DEVICE_PHASE_START;
        device_fail(device, error_text(&device->job_error));
        return;
    }
    _cleanup_error_ struct error err = {0};
    if (device->frontend->ops->serve(device->frontend, &err))
        device_fail(device, error_text(&err));
    device->phase = DEVICE_PHASE_ATTACH;
    device->attach_bytes = device->frontend->adopted ? 0 : device->state->size_bytes;
    device_job_start(device, attach_work, attach_done);
}

static int attach_work(struct loop_work *work)
{
    struct device *device = container_of(work, struct device, job);
    return device->frontend->ops->attach(device->frontend, device->failed, &device->job_error);
}

/* The log first: block device and descriptors without it would be another's to end. */
static int holder_hand_over(void *context, int connection, struct error *err)
{
    struct device *device = context;
    struct frontend *frontend = device->frontend;
    int r = holder_client_put(connection, "log", device->log_fd, err);
    return r || !frontend->ops->hand_over ? r : frontend->ops->hand_over(frontend, connection, err);
}

static void holder_changed(void *context, int connection)
{
    struct device *device = context;
    device->holder = device->frontend->parts.holder = connection;
    status_writer_set_device(&device->status, device->frontend->path,
                             connection >= 0 && device->frontend->take_over);
    if (connection >= 0 && device->leaving)
        device_leave(device);
}

static void attach_done(struct loop_op *op, int res, unsigned flags)
{
    (void)flags;
    struct device *device = container_of(op, struct device, job.op);
    device->job_running = false;
    device->phase = DEVICE_PHASE_SERVE;
    if (res == 0)
        status_writer_set_device(&device->status, device->frontend->path, device->frontend->take_over);
    holder_watch_start(&device->watch);
    if (res && !device->failed)
        device_fail(device, error_text(&device->job_error));
    device_tell(device, NULL);
    if (device->end_requested)
        device_end(device);
    else if (device->leaving)
        device_leave(device);
    else if (res == 0)
        device_resize_attached(device, device->attach_bytes);
}

/* ---- start ---- */

/* The log and what the frontend finds of a predecessor go together: what a log of another epoch, or none, was
 * lost for must be ended before the new log stands in the holder, where a next start would take it for its
 * own.
 */
static int adopt(struct device *device, struct error *err)
{
    const struct device_state *state = device->state;
    struct frontend *frontend = device->frontend;
    int r = holder_client_get(device->holder, "log", &device->log_fd, err);
    if (r == 0)
        r = replay_log_adopt(&device->log, device->log_fd, state->volume_id, state->epoch, err);
    bool log_ours = r == 0;
    if (r && r != E_NOT_FOUND && r != E_STALE)
        return r;
    if (r == E_STALE)
        log_warning("%s", error_text(err));
    error_done(err);
    r = frontend->ops->adopt(frontend, log_ours, err);
    if (r || log_ours)
        return r;
    device->log_fd = fd_close(device->log_fd);
    r = replay_log_create(&device->log, state->volume_id, state->epoch, state->log_size_bytes,
                          &device->log_fd, err);
    return r ? r : holder_client_put(device->holder, "log", device->log_fd, err);
}

static void tell_start(struct device *device)
{
    struct device_status *status = &device->status.status;
    if (device->frontend->adopted)
        status->code = DEVICE_WAITING;
    str_copy(status->block_device, sizeof status->block_device, device->frontend->path);
    status_writer_flush(&device->status);
}

/* The signal does not mean the volume (a pod stops): everything stays with the holder, as after a crash. A
 * job must end first: its thread may be waiting for an answer over FUSE, which nobody else would give. */
void device_leave(struct device *device)
{
    device->leaving = true;
    if (device->job_running)
        return;
    if (device->holder < 0 && device_stands(device)) {
        log_warning("told to stop, but nobody holds the volume: waiting for a new mooring-holder");
        return;
    }
    if (device->phase == DEVICE_PHASE_SERVE && !device->failed && !device->frontend->take_over) {
        log_warning(
            "told to stop, but nobody could take the volume over: serving on until its end is asked for");
        return;
    }
    if (!device->failed)
        status_writer_set(&device->status, device_stands(device) ? DEVICE_WAITING : DEVICE_CONNECTING,
                          "stopped by a signal; the volume stays attached, its I/O waits for the next start");
    loop_stop(device->loop);
}

/* mooring-node sends it while we wait, again and again: what is wrong is said once. */
static void device_renew_portals(struct device *device)
{
    _cleanup_error_ struct error err = {0};
    bool changed = false;
    int r = device_state_renew_portals(device->state, &changed, &err);
    if (r && !device->portals_bad)
        log_warning("the storage server's portals stay as they are: %s", error_text(&err));
    device->portals_bad = r != 0;
    if (!changed)
        return;
    log_info("the storage server has %u portals now, the first at %s", device->state->portals_count,
             device->state->portals[0]);
    initiator_portals_changed(&device->initiator);
}

static void signal_read(struct device *device)
{
    loop_read(device->loop, &device->signal_op, device->signal_fd, &device->signal_info,
              sizeof device->signal_info);
}

static void signal_done(struct loop_op *op, int res, unsigned flags)
{
    (void)flags;
    struct device *device = container_of(op, struct device, signal_op);
    if (res == -ECANCELED)
        return;
    bool hangup = res == sizeof device->signal_info && device->signal_info.ssi_signo == SIGHUP;
    signal_read(device);
    if (hangup) {
        device_renew_portals(device);
        device_resize_ask(device);
        return;
    }
    if (device->end_requested)
        return;
    if (device_state_end_asked(device->state))
        device_end(device);
    else
        device_leave(device);
}

static int init_frontend(struct device *device, struct error *err)
{
    struct frontend_parts parts = {.loop = device->loop,
                                   .state = device->state,
                                   .requests = &device->requests,
                                   .log = &device->log,
                                   .buffers = &device->buffers,
                                   .holder = device->holder,
                                   .gone = frontend_gone,
                                   .context = device};
    return frontend_new(&device->frontend, &parts, err);
}

static int init_parts(struct device *device, struct error *err)
{
    static const struct initiator_events events = {.up = session_up, .lost = session_lost};
    const struct device_state *state = device->state;
    requests_init(&device->requests, device->loop, &device->initiator, &device->log, log_relieved, device);
    device->requests.capacity_changed = device_resize_ask;
    device->requests.erred = requests_erred;
    device->requests.failed = requests_failed;
    identify_init(&device->identify, &device->initiator, session_identified, device);
    capacity_init(&device->capacity, &device->initiator, device_resize_learn, device);
    replay_init(&device->replay, &device->requests, session_replayed, device);
    device->path = (struct path){.loop = device->loop,
                                 .requests = &device->requests,
                                 .initiator = &device->initiator,
                                 .timeout_ms = state->path_timeout_ms,
                                 .lease_ms = state->lease_ms,
                                 .expired = path_expired,
                                 .context = device};
    int r = initiator_init(&device->initiator, device->loop, state, &events, device, err);
    r = r ? r : buffers_init(&device->buffers, state->buffers_size_bytes, err);
    return r;
}

int device_init(struct device *device, struct loop *loop, struct device_state *state, int signal_fd,
                struct error *err)
{
    *device = (struct device){.loop = loop, .state = state, .signal_fd = signal_fd};
    device->holder = device->log_fd = -1;
    device->signal_op.done = signal_done;
    device->abort = (struct loop_work){.work = abort_work, .op = {.done = abort_done}};
    device->replay_timer.done = replay_timer_done;
    device->replay_wait_ms = REPLAY_WAIT_MIN_MS;
    status_writer_init(&device->status, loop, state->dir_fd, state->generation);
    int r = holder_client_connect(state->dir_fd, HOLDER_WAIT_MS, &device->holder, err);
    device->watch = (struct holder_watch){.loop = loop,
                                          .dir_fd = state->dir_fd,
                                          .connection = device->holder,
                                          .hand_over = holder_hand_over,
                                          .changed = holder_changed,
                                          .context = device};
    r = r ? r : init_frontend(device, err);
    r = r ? r : adopt(device, err);
    if (r == 0)
        tell_start(device);
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
    signal_read(device);
    holder_watch_start(&device->watch);
    initiator_start(&device->initiator);
    path_start(&device->path);
}

void device_done(struct device *device)
{
    status_writer_flush(&device->status);
    device->frontend = frontend_free(device->frontend);
    buffers_done(&device->buffers);
    replay_log_done(&device->log);
    error_done(&device->job_error);
    fd_close(device->log_fd);
    fd_close(device->holder);
}
