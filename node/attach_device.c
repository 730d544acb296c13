/* Starting and adopting mooring-device and its mooring-holder. Called by attach.c. */
#include "node/attach_device.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/record.h"
#include "common/secret.h"
#include "common/strings.h"
#include "common/time.h"
#include "node/attach_files.h"
#include "node/loop_device.h"
#include "node/process.h"
#include "node/takeover.h"
#include "node/ublk_device.h"
#include "node/ublk_note.h"

#define POLL_MS 10
#define HOLDER_MS 5000
#define RESTART_CALL_MS 5000

unsigned attach_device_left_ms(uint64_t deadline_ms)
{
    uint64_t now_ms = time_now_ms();

    return deadline_ms > now_ms ? (unsigned)(deadline_ms - now_ms) : 1;
}

/* "loop_device" is what a mooring-device of before "block_device" writes: it may be older than we are. */
static int attach_device_path(json_t *status, const char **ret, struct error *err)
{
    int r = record_get_optional_string(status, "block_device", ret, err);

    return r || *ret ? r : record_get_optional_string(status, "loop_device", ret, err);
}

/* The block device that status.json names, on the heap; NULL when it names none. */
static int attach_device_read_name(const struct attach_files *paths, char **ret, struct error *err)
{
    _cleanup_json_ json_t *status = NULL;
    const char *device = NULL;

    int r = attach_files_load(paths, "status.json", &status, err);
    if (!r)
        r = attach_device_path(status, &device, err);
    if (r == E_NOT_FOUND)
        error_done(err);
    if (r && r != E_NOT_FOUND)
        return r;
    *ret = device && *device ? strdup(device) : NULL;
    return device && *device && !*ret ? error_errno(err, ENOMEM, "cannot look at %s", device) : 0;
}

char *attach_device_named(const struct attach_files *paths)
{
    char *device = NULL;

    return attach_device_read_name(paths, &device, NULL) ? NULL : device;
}

static int attach_device_is_ublk(const struct attach_files *paths, bool *ret, struct error *err)
{
    _cleanup_json_ json_t *device = NULL;
    const char *attach = "fuse";

    int r = attach_files_load(paths, "device.json", &device, err);
    if (!r)
        r = record_get_optional_string(device, "attach", &attach, err);
    if (r == E_NOT_FOUND) { /* none was ever started */
        error_done(err);
        r = 0;
    }
    if (!r)
        *ret = str_equal(attach, "ublk");
    attach_files_wipe(device);
    return r;
}

/* Of ublk the kernel keeps the block device, and the holder the log. */
static int attach_device_holds_ublk(const struct attach_files *paths, bool *ret, struct error *err)
{
    struct ublk_device device;
    bool stands = false, has_log = false;

    int r = process_find(paths->holder_pid, NULL, err);
    if (!r)
        r = ublk_note_load(paths, &device, err);
    if (!r)
        r = ublk_device_stands(&device, &stands, err);
    if (!r && stands)
        r = takeover_holds_log(paths->holder_pid, &has_log, err);
    if (r && r != E_NOT_FOUND)
        return r;
    error_done(err);
    *ret = stands && has_log;
    return 0;
}

/* In words that a CO tries again at. */
static int attach_device_unknown(int r, struct error *err)
{
    if (!r)
        return 0;
    _cleanup_free_ char *why = err ? strdup(error_text(err)) : NULL;
    error_done(err);
    return error_set(err, E_UNAVAILABLE, "it cannot be told what its dead mooring-device has left: %s",
                     why ? why : "no memory");
}

int attach_device_holds(const struct attach_files *paths, bool *ret, struct error *err)
{
    bool ublk = false;

    int r = attach_device_is_ublk(paths, &ublk, err);
    if (!r)
        r = ublk ? attach_device_holds_ublk(paths, ret, err)
                 : takeover_holds(paths->holder_pid, paths->mount_point, ret, err);
    return attach_device_unknown(r, err);
}

int attach_device_keeps(const struct attach_files *paths, bool *ret, struct error *err)
{
    bool ublk = false;

    int r = attach_device_is_ublk(paths, &ublk, err);
    if (!r)
        r = ublk ? attach_device_holds_ublk(paths, ret, err)
                 : takeover_keeps_device(paths->holder_pid, paths->mount_point, ret, err);
    return attach_device_unknown(r, err);
}

/* ---- starting ---- */

/* program: "device" or "holder". */
static int attach_device_run(const struct node_config *config, const char *program, const char *volume_id,
                             const char *pid_path, const char *log_path, const char *option,
                             const char *value, struct error *err)
{
    _cleanup_free_ char *path = str_format("%s/mooring-%s", config->libexec_dir, program);
    const char *argv[] = {path, option, value, NULL};
    _cleanup_place_ struct place place = {0};

    if (!path)
        return error_errno(err, ENOMEM, "cannot start mooring-%s", program);
    int r = place_prepare(&place, config->place, program, volume_id, err);
    return r ? r : process_spawn(pid_path, log_path, &place, argv, err);
}

static int attach_device_spawn_holder(const struct node_config *config, const struct attach_files *paths,
                                      const char *volume_id, struct error *err)
{
    int r = process_stop(paths->holder_pid, SIGTERM, HOLDER_MS, err); /* one that holds nothing */

    return r ? r
             : attach_device_run(config, "holder", volume_id, paths->holder_pid, paths->log, "--socket",
                                 paths->holder_socket, err);
}

static int attach_device_spawn(const struct node_config *config, const struct attach_files *paths,
                               const char *volume_id, struct error *err)
{
    return attach_device_run(config, "device", volume_id, paths->device_pid, paths->log, "--state",
                             paths->dir, err);
}

/* A new generation of this attachment, written down for the process that is started next. */
static int attach_device_grant(const struct node_config *config, struct storage *storage,
                               const struct attach_files *paths, const struct storage_attachment *attachment,
                               unsigned timeout_ms, struct error *err)
{
    struct storage_grant grant;

    int r = storage_generation_grant(storage, attachment->volume_id, attachment->epoch,
                                     attachment->generation, false, timeout_ms, &grant, err);
    if (r)
        return r;
    r = attach_files_write(config, paths, attachment, &grant, err);
    secret_wipe(&grant, sizeof(grant));
    return r;
}

/* ---- waiting until it serves ---- */
/* One look at status.json. 0: ready, ret is set. E_UNAVAILABLE: not yet, why in the text. */
static int attach_device_look_at(const struct attach_files *paths, struct attach_device *ret,
                                 struct error *err)
{
    _cleanup_json_ json_t *object = NULL;
    const char *state = "starting", *problem = "", *device = NULL;
    uint64_t status_pid = 0, generation = 0;
    pid_t pid = 0;

    if (!process_alive(paths->device_pid))
        return error_set(err, E_UNAVAILABLE, "mooring-device has ended; its last words are in %s",
                         paths->log);
    if (attach_files_ending(paths))
        return error_set(err, E_UNAVAILABLE, "mooring-device is ending");
    int r = process_find(paths->device_pid, &pid, err);
    if (r)
        return r == E_NOT_FOUND ? E_UNAVAILABLE : r;
    r = attach_files_load(paths, "status.json", &object, err);
    if (r && r != E_NOT_FOUND)
        return r;
    if (r || record_get_optional_uint64(object, "pid", &status_pid, NULL) || status_pid != (uint64_t)pid)
        return error_set(err, E_UNAVAILABLE, "mooring-device is starting");
    if ((r = record_get_string(object, "state", &state, err)) ||
        (r = record_get_optional_string(object, "error", &problem, err)) ||
        (r = attach_device_path(object, &device, err)) ||
        (r = record_get_uint64(object, "generation", &generation, err)))
        return r;
    if (str_equal(state, "failed"))
        return error_set(err, E_PRECONDITION, "the storage server refused the device: %s", problem);
    if (!str_equal(state, "ready") || !device)
        return error_set(err, E_UNAVAILABLE, "mooring-device is %s: %s", state, problem);
    struct ublk_device ublk;
    r = ublk_device_is_name(device) ? ublk_device_look(device, &ublk, err)
                                    : loop_device_verify(device, paths->mount_point, err);
    if (r)
        return r;
    ret->path = strdup(device);
    ret->generation = generation;
    ret->problem = strdup(problem);
    return ret->path && ret->problem ? 0 : error_errno(err, ENOMEM, "cannot keep the device");
}

/* Nobody is told of a device that is not noted: what is mounted from it would be nobody's once it is gone. */
static int attach_device_note(const struct attach_files *paths, const char *device, struct error *err)
{
    struct ublk_device ublk;

    if (!ublk_device_is_name(device))
        return 0;
    int r = ublk_device_look(device, &ublk, err);
    return r ? r : ublk_note_save(paths, &ublk, err);
}

int attach_device_wait(const struct node_config *config, const char *volume_id, uint64_t deadline_ms,
                       struct attach_device *ret, struct error *err)
{
    _cleanup_attach_files_ struct attach_files paths = {0};

    int r = attach_files_init(&paths, config, volume_id, err);
    if (r)
        return r;
    for (;;) {
        _cleanup_error_ struct error why = {0};

        r = attach_device_look_at(&paths, ret, &why);
        if (!r && (r = attach_device_note(&paths, ret->path, &why)))
            attach_device_done(ret);
        if (r != E_UNAVAILABLE || !process_alive(paths.device_pid)) {
            error_move(err, &why);
            return r;
        }
        if (time_now_ms() >= deadline_ms)
            return error_set(err, E_DEADLINE, "the device is not there yet: %s", error_text(&why));
        poll(NULL, 0, POLL_MS);
    }
}

static int attach_device_launch(const struct node_config *config, struct storage *storage,
                                const struct attach_files *paths, const struct storage_attachment *attachment,
                                unsigned timeout_ms, struct error *err)
{
    bool holds = false;

    int r = attach_device_grant(config, storage, paths, attachment, timeout_ms, err);
    if (!r)
        r = attach_device_holds(paths, &holds, err);
    if (!r && !holds)
        r = attach_device_spawn_holder(config, paths, attachment->volume_id, err);
    return r ? r : attach_device_spawn(config, paths, attachment->volume_id, err);
}

static int attach_device_start(const struct node_config *config, struct storage *storage,
                               const struct storage_attachment *attachment, uint64_t deadline_ms,
                               struct error *err)
{
    _cleanup_attach_files_ struct attach_files paths = {0};
    uint64_t epoch = 0;

    int r = attach_files_init(&paths, config, attachment->volume_id, err);
    if (r)
        return r;
    r = attach_files_epoch(&paths, &epoch, NULL);
    if (r && r != E_NOT_FOUND)
        return error_set(err, r, "cannot read device.json of volume %s", attachment->volume_id);
    bool lives = process_alive(paths.device_pid);
    if (lives && epoch != attachment->epoch)
        return error_set(err, E_STALE, "a device of epoch %llu still runs", (unsigned long long)epoch);
    if (lives && attach_files_ending(&paths)) {
        r = process_stop(paths.device_pid, 0, attach_device_left_ms(deadline_ms), err); /* no signal: waits */
        if (r)
            return error_wrap(err,
                              "volume %s is still being unstaged: its device ends when its last user has "
                              "closed it and its storage server has what was written",
                              attachment->volume_id);
        lives = false;
    }
    if (lives)
        return attach_device_tell_portals(config, attachment, err);
    return attach_device_launch(config, storage, &paths, attachment, attach_device_left_ms(deadline_ms), err);
}

int attach_device_succeed(const struct node_config *config, struct storage *storage,
                          const struct attach_files *paths, const char *volume_id, uint64_t epoch,
                          unsigned timeout_ms, struct error *err)
{
    _cleanup_attachment_ struct storage_attachment attachment = {0};

    int r = storage_attachment_get(storage, volume_id, timeout_ms, &attachment, err);
    if (r == E_NOT_FOUND || r == E_PERMISSION || (!r && attachment.epoch != epoch) ||
        (!r && attachment.removing)) {
        error_done(err);
        r = attach_files_mark_end(paths, false, err);
    } else if (!r) {
        r = attach_device_grant(config, storage, paths, &attachment, timeout_ms, err);
    }
    return r ? r : attach_device_spawn(config, paths, volume_id, err);
}

static int attach_device_explain_lost(const char *volume_id, struct error *err)
{
    return error_set(
        err, E_PRECONDITION,
        "volume %s has lost its block device on this node, for its mooring-holder ended: its I/O "
        "ends with an error; stop what uses it, unpublish it from all its paths, and unstage it",
        volume_id);
}

static int attach_device_check_kept(const struct node_config *config, const char *volume_id, bool published,
                                    struct error *err)
{
    _cleanup_attach_files_ struct attach_files paths = {0};
    bool kept = false;

    int r = attach_files_init(&paths, config, volume_id, err);
    if (r || process_alive(paths.device_pid))
        return r;
    r = published ? attach_device_keeps(&paths, &kept, err) : attach_device_holds(&paths, &kept, err);
    return r || kept ? r : attach_device_explain_lost(volume_id, err);
}

static int attach_device_restart(const struct node_config *config, struct storage *storage,
                                 const char *volume_id, struct error *err)
{
    _cleanup_attach_files_ struct attach_files paths = {0};
    uint64_t epoch;

    int r = attach_files_init(&paths, config, volume_id, err);
    if (!r)
        r = attach_files_epoch(&paths, &epoch, err);
    if (r || process_alive(paths.device_pid))
        return r;
    r = attach_device_check_kept(config, volume_id, true, err);
    if (!r)
        r = attach_device_succeed(config, storage, &paths, volume_id, epoch, RESTART_CALL_MS, err);
    if (!r)
        log_warning("volume %s: mooring-device had ended; its successor is started", volume_id);
    return r;
}

static int attach_device_look(const struct node_config *config, const char *volume_id,
                              struct attach_device *ret, struct error *err)
{
    _cleanup_attach_files_ struct attach_files paths = {0};
    int r = attach_files_init(&paths, config, volume_id, err);

    return r ? r : attach_device_look_at(&paths, ret, err);
}

static bool attach_device_has_served(const struct node_config *config, const char *volume_id)
{
    _cleanup_attach_files_ struct attach_files paths = {0};
    _cleanup_json_ json_t *granted = NULL;
    _cleanup_json_ json_t *status = NULL;
    uint64_t generation = 0, served = 0;
    const char *state = "";

    if (attach_files_init(&paths, config, volume_id, NULL) ||
        attach_files_load(&paths, "status.json", &status, NULL) ||
        attach_files_load(&paths, "device.json", &granted, NULL))
        return false;
    record_get_optional_uint64(granted, "generation", &generation, NULL);
    record_get_optional_uint64(status, "generation", &served, NULL);
    record_get_optional_string(status, "state", &state, NULL);
    attach_files_wipe(granted);
    return served == generation && (str_equal(state, "ready") || str_equal(state, "waiting"));
}

static int attach_device_watch(const struct node_config *config, const char *volume_id)
{
    _cleanup_attach_files_ struct attach_files paths = {0};

    return attach_files_init(&paths, config, volume_id, NULL) ? -1 : process_open(paths.device_pid);
}

static int attach_device_watch_holder(const struct node_config *config, const char *volume_id)
{
    _cleanup_attach_files_ struct attach_files paths = {0};

    return attach_files_init(&paths, config, volume_id, NULL) ? -1 : process_open(paths.holder_pid);
}

static int attach_device_keep_holder(const struct node_config *config, const char *volume_id,
                                     struct error *err)
{
    _cleanup_attach_files_ struct attach_files paths = {0};

    int r = attach_files_init(&paths, config, volume_id, err);
    if (r || process_alive(paths.holder_pid) || !process_alive(paths.device_pid) ||
        attach_files_ending(&paths))
        return r;
    log_warning("volume %s: its mooring-holder has ended: another one takes its place", volume_id);
    return attach_device_spawn_holder(config, &paths, volume_id, err);
}

static bool attach_device_owns(const struct node_config *config, const char *volume_id, dev_t number)
{
    _cleanup_attach_files_ struct attach_files paths = {0};

    if (attach_files_init(&paths, config, volume_id, NULL))
        return false;
    if (loop_device_is_ours(number, paths.mount_point))
        return true;
    struct ublk_device device;
    return ublk_note_load(&paths, &device, NULL) == 0 && ublk_device_owns(&device, number);
}

/* A build of before ublk.json may have attached it. */
static void attach_device_adopt(const struct node_config *config, const char *volume_id)
{
    _cleanup_attach_device_ struct attach_device device = {0};
    _cleanup_attach_files_ struct attach_files paths = {0};
    _cleanup_error_ struct error err = {0};

    if (attach_files_init(&paths, config, volume_id, NULL) || attach_device_look_at(&paths, &device, NULL))
        return;
    if (attach_device_note(&paths, device.path, &err))
        log_warning("volume %s: %s", volume_id, error_text(&err));
}

const struct attach_way attach_device_way = {
    .start = attach_device_start,
    .wait_ready = attach_device_wait,
    .look = attach_device_look,
    .end = attach_device_end,
    .kill = attach_device_kill,
    .sweep = attach_device_sweep,
    .owns = attach_device_owns,
    .adopt = attach_device_adopt,
    .check_kept = attach_device_check_kept,
    .restart = attach_device_restart,
    .resize = attach_device_resize,
    .watch = attach_device_watch,
    .watch_holder = attach_device_watch_holder,
    .keep_holder = attach_device_keep_holder,
    .has_served = attach_device_has_served,
    .waits = attach_device_waits,
    .tell_portals = attach_device_tell_portals,
    .replace = attach_device_replace,
};
