/* Ending mooring-device and its mooring-holder: in good order, or at any price. Called by attach.c. */
#include "node/attach_device.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/record.h"
#include "common/secret.h"
#include "common/strings.h"
#include "common/time.h"
#include "node/attach_files.h"
#include "node/device_users.h"
#include "node/loop_device.h"
#include "node/mount.h"
#include "node/process.h"

#define KILL_MS 10000
#define HOLDER_MS 5000

/*
 * A dead device may have answered writes that its holder's log still has: a successor delivers them.
 * E_NOT_FOUND when they have nowhere to go, for the attachment is gone or newer, or are of a file system that
 * was never finished; a refusal of the successor for good is left to its end.
 */
static int attach_device_deliver(const struct node_config *config, struct storage *storage,
                                 const struct attach_files *paths, const char *volume_id,
                                 uint64_t deadline_ms, struct error *err)
{
    _cleanup_attachment_ struct storage_attachment attachment = {0};
    _cleanup_attach_device_ struct attach_device device = {0};
    uint64_t epoch = 0;

    int r = attach_files_epoch(paths, &epoch, err);
    if (r)
        return r;
    r = storage_attachment_get(storage, volume_id, attach_device_left_ms(deadline_ms), &attachment, err);
    if (!r && attachment.epoch != epoch)
        return error_set(err, E_NOT_FOUND, "the attachment of epoch %llu is gone", (unsigned long long)epoch);
    if (r && r != E_PERMISSION)
        return r;
    error_done(err);
    if (attachment.content == STORAGE_FORMATTING) /* of a Stage that was cut off: the next one begins anew */
        return error_set(err, E_NOT_FOUND, "it is the beginning of a file system that was never finished");
    r = attach_device_succeed(config, storage, paths, volume_id, epoch, attach_device_left_ms(deadline_ms),
                              err);
    if (!r)
        r = attach_device_wait(config, volume_id, deadline_ms, &device, err);
    if (r != E_PRECONDITION)
        return r;
    error_done(err);
    return 0;
}

/* A device waits for its last user before it ends: who that is, is what the caller needs to know. */
static void attach_device_name_users(const struct attach_files *paths, struct error *err)
{
    _cleanup_free_ char *device = attach_device_named(paths);
    _cleanup_free_ char *users = device ? device_users(device) : NULL;

    if (users && *users)
        error_wrap(err, "%s is in use by %s", device, users);
}

/* SIGTERM, and the end of the device in order. */
static int attach_device_finish(const struct attach_files *paths, uint64_t deadline_ms, struct error *err)
{
    int r = attach_files_mark_end(paths, true, err);

    if (!r)
        r = process_stop(paths->device_pid, SIGTERM, attach_device_left_ms(deadline_ms), err);
    if (r == E_DEADLINE)
        attach_device_name_users(paths, err);
    return r == E_NOT_FOUND ? E_UNAVAILABLE : r; /* which would say that its writes have nowhere to go */
}

/* What a device that dies before its end could not finish is still in the holder, for one more. */
static int attach_device_settle(const struct node_config *config, struct storage *storage,
                                const struct attach_files *paths, const char *volume_id, uint64_t deadline_ms,
                                struct error *err)
{
    bool holds = false;
    int r = process_alive(paths->device_pid) ? 0 : attach_device_holds(paths, &holds, err);

    if (!r && holds)
        r = attach_device_deliver(config, storage, paths, volume_id, deadline_ms, err);
    while (!r && process_alive(paths->device_pid)) {
        r = attach_device_finish(paths, deadline_ms, err);
        if (!r)
            r = attach_device_holds(paths, &holds, err);
        if (r || !holds)
            break;
        if (time_now_ms() >= deadline_ms)
            return error_set(err, E_UNAVAILABLE, "mooring-device died before its end: try again");
        r = attach_device_deliver(config, storage, paths, volume_id, deadline_ms, err);
    }
    return r;
}

/* A device whose last flush failed says so once: to whoever unstages, and in the log. The repeat goes on. */
static int attach_device_check_ended(const struct attach_files *paths, const char *volume_id,
                                     struct error *err)
{
    _cleanup_json_ json_t *status = NULL;
    _cleanup_json_ json_t *device = NULL;
    const char *state = "", *problem = "";
    bool reported = false;

    if (attach_files_load(paths, "status.json", &status, NULL) ||
        attach_files_load(paths, "device.json", &device, NULL))
        return 0; /* it never ran */
    record_get_optional_string(status, "state", &state, NULL);
    record_get_optional_string(status, "error", &problem, NULL);
    record_get_optional_bool(device, "end_reported", &reported, NULL);
    int r = 0;
    if (str_equal(state, "ended") && *problem && !reported) {
        r = json_object_set_new(device, "end_reported", json_true()) ? -ENOMEM
                                                                     : attach_files_save(paths, device, err);
        log_error("volume %s: its device ended with an error: %s", volume_id, problem);
        if (!r)
            r = error_set(
                err, E_WRITE_FAILED,
                "its device has ended, but %s; look at the volume (mooring volume show) and its data "
                "before you use it again; unstaging it once more goes on",
                problem);
    }
    attach_files_wipe(device);
    return r;
}

int attach_device_end(const struct node_config *config, struct storage *storage, const char *volume_id,
                      unsigned timeout_ms, struct error *err)
{
    uint64_t deadline_ms = time_now_ms() + timeout_ms;
    _cleanup_attach_files_ struct attach_files paths = {0};

    int r = attach_files_init(&paths, config, volume_id, err);
    if (!r)
        r = attach_device_settle(config, storage, &paths, volume_id, deadline_ms, err);
    if (r == E_NOT_FOUND) {
        log_warning("volume %s: what its device had not flushed is dropped: %s", volume_id, error_text(err));
        error_done(err);
        return attach_device_sweep(config, volume_id, err);
    }
    if (!r)
        r = attach_device_check_ended(&paths, volume_id, err);
    if (!r)
        r = process_stop(paths.holder_pid, SIGTERM, HOLDER_MS, err);
    if (r)
        return error_wrap(err, "volume %s", volume_id);
    /* A device that had died before it had anything to lose leaves its loop device and mount to us. */
    return attach_device_sweep(config, volume_id, err);
}

/* A ublk device waits for a successor that will not come: mooring-device finds it by the mark that it
 * carries. */
static int attach_device_remove_ublk(const struct node_config *config, const struct attach_files *paths,
                                     struct error *err)
{
    _cleanup_free_ char *program = str_format("%s/mooring-device", config->libexec_dir);
    const char *argv[] = {program, "--remove", "--state", paths->dir, NULL};
    _cleanup_json_ json_t *device = NULL;
    _cleanup_free_ char *output = NULL;
    const char *attach = "fuse";
    int status = 0;

    if (!program)
        return error_errno(err, ENOMEM, "cannot remove a ublk device");
    if (attach_files_load(paths, "device.json", &device, NULL))
        return 0; /* none was ever started */
    record_get_optional_string(device, "attach", &attach, NULL);
    bool ublk = str_equal(attach, "ublk");
    attach_files_wipe(device);
    int r = ublk ? process_run(argv, NULL, &status, &output, err) : 0;
    if (!r && status)
        r = error_set(err, -EIO, "cannot remove its ublk device: %s", output);
    return r;
}

int attach_device_kill(const struct node_config *config, const char *volume_id, struct error *err)
{
    _cleanup_attach_files_ struct attach_files paths = {0};

    int r = attach_files_init(&paths, config, volume_id, err);
    if (r)
        return r;
    /* A dying thread may wait for an answer on the very mount that its process served: abort that first. */
    process_stop(paths.device_pid, SIGKILL, 0, NULL);
    umount2(paths.mount_point, MNT_FORCE | UMOUNT_NOFOLLOW);
    r = process_stop(paths.device_pid, SIGKILL, KILL_MS, err);
    if (!r)
        r = process_stop(paths.holder_pid, SIGKILL, KILL_MS, err);
    if (!r)
        r = attach_device_remove_ublk(config, &paths, err);
    return r ? error_wrap(err, "volume %s", volume_id) : 0;
}

int attach_device_sweep(const struct node_config *config, const char *volume_id, struct error *err)
{
    _cleanup_attach_files_ struct attach_files paths = {0};

    int r = attach_files_init(&paths, config, volume_id, err);
    if (!r)
        r = attach_device_kill(config, volume_id, err);
    if (!r)
        r = loop_device_release(paths.mount_point, err);
    if (!r)
        r = mount_remove_lazily(paths.mount_point, NULL, err);
    place_tidy(config->place);
    return r ? error_wrap(err, "volume %s", volume_id) : 0;
}

/* The old one only leaves (its "end" is not marked), as after a crash but without one: what stands is its
 * successor's. */
int attach_device_replace(const struct node_config *config, struct storage *storage, const char *volume_id,
                          uint64_t deadline_ms, uint64_t *ret_stalled_ms, struct error *err)
{
    _cleanup_attach_files_ struct attach_files paths = {0};
    _cleanup_attach_device_ struct attach_device device = {0};
    uint64_t epoch = 0;
    bool holds = false;

    int r = attach_files_init(&paths, config, volume_id, err);
    if (!r)
        r = attach_files_epoch(&paths, &epoch, err);
    if (r)
        return r;
    uint64_t began_ms = time_now_ms();
    r = process_stop(paths.device_pid, SIGTERM, attach_device_left_ms(deadline_ms), err);
    if (!r)
        r = attach_device_holds(&paths, &holds, err);
    if (!r && !holds)
        r = error_set(err, E_PRECONDITION, "the holder did not keep the device of the process that ended");
    if (!r)
        r = attach_device_succeed(config, storage, &paths, volume_id, epoch,
                                  attach_device_left_ms(deadline_ms), err);
    if (!r)
        r = attach_device_wait(config, volume_id, deadline_ms, &device, err);
    if (!r)
        *ret_stalled_ms = time_now_ms() - began_ms;
    return r;
}
