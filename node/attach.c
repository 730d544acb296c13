/* Starting, adopting and ending device processes. Called by stage, publish and the supervisor. */
#include "node/attach.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/log.h"
#include "common/record.h"
#include "common/secret.h"
#include "common/strings.h"
#include "common/time.h"
#include "node/loop_device.h"
#include "node/mount.h"
#include "node/process.h"
#include "node/stage_record.h"
#include "node/takeover.h"

#define DEVICE_FORMAT 1
#define ATTACH_POLL_MS 10
#define ATTACH_KILL_MS 10000
#define ATTACH_HOLDER_MS 5000
#define ATTACH_RESTART_CALL_MS 5000

/* The paths of one volume's processes. */
struct attach_paths {
    char *dir;        /* mooring-device's folder */
    char *device_pid; /* pid files */
    char *holder_pid;
    char *holder_socket;
    char *mount_point; /* of the one-file FUSE mount */
    char *log;
};

static void attach_paths_done(struct attach_paths *paths)
{
    free(paths->dir);
    free(paths->device_pid);
    free(paths->holder_pid);
    free(paths->holder_socket);
    free(paths->mount_point);
    free(paths->log);
}

static int attach_paths_init(struct attach_paths *paths, const struct node_config *config,
                             const char *volume_id, struct error *err)
{
    paths->dir = stage_record_path(config->state_dir, volume_id, "device");
    paths->device_pid = stage_record_path(config->state_dir, volume_id, "device.pid");
    paths->holder_pid = stage_record_path(config->state_dir, volume_id, "holder.pid");
    paths->holder_socket = stage_record_path(config->state_dir, volume_id, "device/holder.sock");
    paths->mount_point = attach_backing_dir(config, volume_id);
    paths->log = stage_record_path(config->state_dir, volume_id, "log");
    if (!paths->dir || !paths->device_pid || !paths->holder_pid || !paths->holder_socket ||
        !paths->mount_point || !paths->log)
        return error_errno(err, ENOMEM, "cannot name the files of volume %s", volume_id);
    return 0;
}

#define _cleanup_paths_ __attribute__((cleanup(attach_paths_done)))

void attach_device_done(struct attach_device *device)
{
    free(device->path);
    *device = (struct attach_device){0};
}

/* ---- device.json ---- */

/* jansson keeps strings in memory of its own. */
static void attach_wipe(json_t *device)
{
    json_t *secret = json_object_get(device, "chap_secret");

    if (json_is_string(secret))
        secret_wipe((char *)json_string_value(secret), json_string_length(secret));
}

static int attach_load(const struct attach_paths *paths, const char *name, json_t **ret, struct error *err)
{
    _cleanup_fd_ int dir_fd = open(paths->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (dir_fd < 0 && errno == ENOENT)
        return error_set(err, E_NOT_FOUND, "%s is not there", paths->dir);
    if (dir_fd < 0)
        return error_errno(err, errno, "cannot open %s", paths->dir);
    return record_load(dir_fd, name, DEVICE_FORMAT, ret, err);
}

static int attach_save_device(const struct attach_paths *paths, json_t *object, struct error *err)
{
    _cleanup_fd_ int dir_fd = -1;

    int r = io_make_dirs(paths->dir, 0700, err);
    if (r)
        return r;
    dir_fd = open(paths->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir_fd < 0)
        return error_errno(err, errno, "cannot open %s", paths->dir);
    return record_save(dir_fd, "device.json", DEVICE_FORMAT, object, 0600, err);
}

/*
 * The session's ISID (RFC 7143, section 11.12.5: T = 10b, random) lives as long as the attachment, so that a
 * successor's login reinstates its predecessor's session.
 */
static json_t *attach_isids(const struct attach_paths *paths, uint64_t epoch)
{
    _cleanup_json_ json_t *old = NULL;
    uint8_t random[5];
    char isid[13];

    if (attach_load(paths, "device.json", &old, NULL) == 0) {
        json_t *isids = json_object_get(old, "isid");
        attach_wipe(old);
        if (json_is_array(isids) && json_integer_value(json_object_get(old, "epoch")) == (json_int_t)epoch)
            return json_incref(isids);
    }
    if (io_random(random, sizeof(random)))
        return NULL;
    snprintf(isid, sizeof(isid), "80%02x%02x%02x%02x%02x", random[0], random[1], random[2], random[3],
             random[4]);
    return json_pack("[s]", isid);
}

static int attach_write_device(const struct node_config *config, const struct attach_paths *paths,
                               const struct storage_attachment *attachment, const struct storage_grant *grant,
                               struct error *err)
{
    char initiator[ID_IQN_MAX + 1];
    json_t *isids = attach_isids(paths, attachment->epoch);
    json_t *portals = json_array();

    id_node_iqn(config->node_id, initiator);
    for (size_t i = 0; portals && i < attachment->portals_count; i++)
        json_array_append_new(portals, json_string(attachment->portals[i]));
    _cleanup_json_ json_t *object = json_pack(
        "{s:s, s:s, s:i, s:o, s:s, s:s, s:I, s:I, s:s, s:s, s:o, s:b, s:i, s:i, s:I, s:s, s:s, s:b}",
        "volume_id", attachment->volume_id, "target_name", attachment->target_name, "lun",
        (int)attachment->lun, "portals", portals, "initiator_name", initiator, "node_id", config->node_id,
        "epoch", (json_int_t)attachment->epoch, "generation", (json_int_t)grant->generation, "chap_name",
        grant->chap_name, "chap_secret", grant->chap_secret, "isid", isids, "read_only", attachment->readonly,
        "sessions", 1, "block_size_bytes", (int)attachment->block_size_bytes, "size_bytes",
        (json_int_t)attachment->size_bytes, "mount_point", paths->mount_point, "attach", "fuse", "replay",
        !config->unsafe_no_replay);
    if (!object)
        return error_errno(err, ENOMEM, "cannot write device.json of volume %s", attachment->volume_id);
    int r = attach_save_device(paths, object, err);
    attach_wipe(object);
    return r;
}

/* "end" tells mooring-device what SIGTERM means: the end of the attachment, or of the process alone, whose
 * device then waits in the holder for a successor. */
static int attach_mark_end(const struct attach_paths *paths, bool end, struct error *err)
{
    _cleanup_json_ json_t *object = NULL;

    int r = attach_load(paths, "device.json", &object, err);
    if (r)
        return r;
    r = json_object_set_new(object, "end", json_boolean(end))
            ? error_errno(err, ENOMEM, "cannot mark the device's end")
            : attach_save_device(paths, object, err);
    attach_wipe(object);
    return r;
}

static unsigned attach_left_ms(uint64_t deadline_ms)
{
    uint64_t now_ms = time_now_ms();

    return deadline_ms > now_ms ? (unsigned)(deadline_ms - now_ms) : 1;
}

int attach_epoch(const struct node_config *config, const char *volume_id, uint64_t *ret_epoch,
                 struct error *err)
{
    _cleanup_paths_ struct attach_paths paths = {0};
    _cleanup_json_ json_t *object = NULL;

    int r = attach_paths_init(&paths, config, volume_id, err);
    if (!r)
        r = attach_load(&paths, "device.json", &object, err);
    if (!r)
        r = record_get_uint64(object, "epoch", ret_epoch, err);
    attach_wipe(object);
    return r;
}

/* ---- starting ---- */

static int attach_spawn_holder(const struct node_config *config, const struct attach_paths *paths,
                               struct error *err)
{
    _cleanup_free_ char *program = str_format("%s/mooring-holder", config->libexec_dir);
    const char *argv[] = {program, "--socket", paths->holder_socket, NULL};

    if (!program)
        return error_errno(err, ENOMEM, "cannot start mooring-holder");
    int r = process_stop(paths->holder_pid, SIGTERM, ATTACH_HOLDER_MS, err); /* one that holds nothing */
    return r ? r : process_spawn(paths->holder_pid, paths->log, argv, err);
}

static int attach_spawn(const struct node_config *config, const struct attach_paths *paths, struct error *err)
{
    _cleanup_free_ char *program = str_format("%s/mooring-device", config->libexec_dir);
    const char *argv[] = {program, "--state", paths->dir, NULL};

    if (!program)
        return error_errno(err, ENOMEM, "cannot start mooring-device");
    return process_spawn(paths->device_pid, paths->log, argv, err);
}

/* A new generation of this attachment, written down for the process that is started next. */
static int attach_grant(const struct node_config *config, struct storage *storage,
                        const struct attach_paths *paths, const struct storage_attachment *attachment,
                        unsigned timeout_ms, struct error *err)
{
    struct storage_grant grant;

    int r = storage_generation_grant(storage, attachment->volume_id, attachment->epoch,
                                     attachment->generation, timeout_ms, &grant, err);
    if (r)
        return r;
    r = attach_write_device(config, paths, attachment, &grant, err);
    secret_wipe(&grant, sizeof(grant));
    return r;
}

/* ---- waiting until it serves ---- */

/* It was told to end: it serves its last users, and nobody new. */
static bool attach_is_ending(const struct attach_paths *paths)
{
    _cleanup_json_ json_t *object = NULL;
    bool ending = false;

    if (attach_load(paths, "device.json", &object, NULL) == 0)
        record_get_optional_bool(object, "end", &ending, NULL);
    attach_wipe(object);
    return ending;
}

/* One look at status.json. 0: ready, ret is set. E_UNAVAILABLE: not yet, why in the text. */
static int attach_look(const struct attach_paths *paths, struct attach_device *ret, struct error *err)
{
    _cleanup_json_ json_t *object = NULL;
    const char *state = "starting", *problem = "", *device = NULL;
    uint64_t status_pid = 0, generation = 0;
    pid_t pid;

    if (!process_alive(paths->device_pid, &pid))
        return error_set(err, E_UNAVAILABLE, "mooring-device has ended; its last words are in %s",
                         paths->log);
    if (attach_is_ending(paths))
        return error_set(err, E_UNAVAILABLE, "mooring-device is ending");
    int r = attach_load(paths, "status.json", &object, err);
    if (r && r != E_NOT_FOUND)
        return r;
    if (r || record_get_optional_uint64(object, "pid", &status_pid, NULL) || status_pid != (uint64_t)pid)
        return error_set(err, E_UNAVAILABLE, "mooring-device is starting");
    if ((r = record_get_string(object, "state", &state, err)) ||
        (r = record_get_optional_string(object, "error", &problem, err)) ||
        (r = record_get_optional_string(object, "loop_device", &device, err)) ||
        (r = record_get_uint64(object, "generation", &generation, err)))
        return r;
    if (str_equal(state, "failed"))
        return error_set(err, E_PRECONDITION, "the storage server refused the device: %s", problem);
    if (!str_equal(state, "ready") || !device)
        return error_set(err, E_UNAVAILABLE, "mooring-device is %s: %s", state, problem);
    r = loop_device_verify(device, paths->mount_point, err);
    if (r)
        return r;
    ret->path = strdup(device);
    ret->generation = generation;
    return ret->path ? 0 : error_errno(err, ENOMEM, "cannot keep the device");
}

static int attach_wait(const struct attach_paths *paths, uint64_t deadline_ms, struct attach_device *ret,
                       struct error *err)
{
    for (;;) {
        _cleanup_error_ struct error why = {0};
        int r = attach_look(paths, ret, &why);

        if (r != E_UNAVAILABLE || !process_alive(paths->device_pid, NULL)) {
            error_move(err, &why);
            return r;
        }
        if (time_now_ms() >= deadline_ms)
            return error_set(err, E_DEADLINE, "the device is not there yet: %s", error_text(&why));
        poll(NULL, 0, ATTACH_POLL_MS);
    }
}

static int attach_launch(const struct node_config *config, struct storage *storage,
                         const struct attach_paths *paths, const struct storage_attachment *attachment,
                         unsigned timeout_ms, struct error *err)
{
    int r = attach_grant(config, storage, paths, attachment, timeout_ms, err);

    if (!r && !takeover_holds(paths->holder_pid, paths->mount_point))
        r = attach_spawn_holder(config, paths, err);
    return r ? r : attach_spawn(config, paths, err);
}

int attach_start(const struct node_config *config, struct storage *storage,
                 const struct storage_attachment *attachment, unsigned timeout_ms, struct attach_device *ret,
                 struct error *err)
{
    uint64_t deadline_ms = time_now_ms() + timeout_ms;
    _cleanup_paths_ struct attach_paths paths = {0};
    uint64_t epoch = 0;

    int r = attach_paths_init(&paths, config, attachment->volume_id, err);
    if (r)
        return r;
    r = attach_epoch(config, attachment->volume_id, &epoch, NULL);
    if (r && r != E_NOT_FOUND)
        return error_set(err, r, "cannot read device.json of volume %s", attachment->volume_id);
    bool lives = process_alive(paths.device_pid, NULL);
    if (lives && epoch != attachment->epoch)
        return error_set(err, E_STALE, "a device of epoch %llu still runs", (unsigned long long)epoch);
    if (lives && attach_is_ending(&paths)) {
        r = process_stop(paths.device_pid, 0, timeout_ms, err); /* signals nothing: waits */
        if (r)
            return error_wrap(err,
                              "volume %s is still being unstaged: its device ends when its last user has "
                              "closed it and its storage server has what was written",
                              attachment->volume_id);
        lives = false;
    }
    r = lives ? 0 : attach_launch(config, storage, &paths, attachment, attach_left_ms(deadline_ms), err);
    return r ? r : attach_wait(&paths, deadline_ms, ret, err);
}

/* A successor that takes over. The holder is never started here: with a new one the device would begin anew.
 */
static int attach_succeed(const struct node_config *config, struct storage *storage,
                          const struct attach_paths *paths, const char *volume_id, uint64_t epoch,
                          unsigned timeout_ms, struct error *err)
{
    _cleanup_attachment_ struct storage_attachment attachment = {0};

    int r = storage_attachment_get(storage, volume_id, timeout_ms, &attachment, err);
    if (r == E_NOT_FOUND || r == E_PERMISSION || (!r && attachment.epoch != epoch) ||
        (!r && attachment.removing)) {
        error_done(err);
        r = attach_mark_end(paths, false, err);
    } else if (!r) {
        r = attach_grant(config, storage, paths, &attachment, timeout_ms, err);
    }
    return r ? r : attach_spawn(config, paths, err);
}

static int attach_explain_lost(const char *volume_id, struct error *err)
{
    return error_set(
        err, E_PRECONDITION,
        "volume %s has lost its block device on this node, for its mooring-holder ended: its I/O "
        "ends with an error; stop what uses it, unpublish it from all its paths, and unstage it",
        volume_id);
}

int attach_check_kept(const struct node_config *config, const char *volume_id, bool published,
                      struct error *err)
{
    _cleanup_paths_ struct attach_paths paths = {0};

    int r = attach_paths_init(&paths, config, volume_id, err);
    if (r || process_alive(paths.device_pid, NULL))
        return r;
    bool kept = published ? takeover_keeps_device(paths.holder_pid, paths.mount_point)
                          : takeover_holds(paths.holder_pid, paths.mount_point);
    return kept ? 0 : attach_explain_lost(volume_id, err);
}

int attach_restart(const struct node_config *config, struct storage *storage, const char *volume_id,
                   struct error *err)
{
    _cleanup_paths_ struct attach_paths paths = {0};
    uint64_t epoch;

    int r = attach_paths_init(&paths, config, volume_id, err);
    if (!r)
        r = attach_epoch(config, volume_id, &epoch, err);
    if (r || process_alive(paths.device_pid, NULL))
        return r;
    r = attach_check_kept(config, volume_id, true, err);
    if (!r)
        r = attach_succeed(config, storage, &paths, volume_id, epoch, ATTACH_RESTART_CALL_MS, err);
    if (!r)
        log_warning("volume %s: mooring-device had ended; its successor is started", volume_id);
    return r;
}

int attach_find(const struct node_config *config, const char *volume_id, struct attach_device *ret,
                struct error *err)
{
    _cleanup_paths_ struct attach_paths paths = {0};
    int r = attach_paths_init(&paths, config, volume_id, err);

    return r ? r : attach_look(&paths, ret, err);
}

bool attach_has_served(const struct node_config *config, const char *volume_id)
{
    _cleanup_paths_ struct attach_paths paths = {0};
    _cleanup_json_ json_t *granted = NULL;
    _cleanup_json_ json_t *status = NULL;
    uint64_t generation = 0, served = 0;
    const char *state = "";

    if (attach_paths_init(&paths, config, volume_id, NULL) ||
        attach_load(&paths, "status.json", &status, NULL) ||
        attach_load(&paths, "device.json", &granted, NULL))
        return false;
    record_get_optional_uint64(granted, "generation", &generation, NULL);
    record_get_optional_uint64(status, "generation", &served, NULL);
    record_get_optional_string(status, "state", &state, NULL);
    attach_wipe(granted);
    return served == generation && (str_equal(state, "ready") || str_equal(state, "waiting"));
}

int attach_watch(const struct node_config *config, const char *volume_id)
{
    _cleanup_paths_ struct attach_paths paths = {0};

    return attach_paths_init(&paths, config, volume_id, NULL) ? -1 : process_open(paths.device_pid);
}

/* ---- ending ---- */

/*
 * A dead device may have answered writes that its holder's log still has: a successor delivers them.
 * E_NOT_FOUND when they have nowhere to go, for the attachment is gone or newer; a refusal of the successor
 * for good is left to its end.
 */
static int attach_deliver(const struct node_config *config, struct storage *storage,
                          const struct attach_paths *paths, const char *volume_id, uint64_t deadline_ms,
                          struct error *err)
{
    _cleanup_attachment_ struct storage_attachment attachment = {0};
    _cleanup_attach_device_ struct attach_device device = {0};
    uint64_t epoch = 0;

    int r = attach_epoch(config, volume_id, &epoch, err);
    if (r)
        return r;
    r = storage_attachment_get(storage, volume_id, attach_left_ms(deadline_ms), &attachment, err);
    if (!r && attachment.epoch != epoch)
        return error_set(err, E_NOT_FOUND, "the attachment of epoch %llu is gone", (unsigned long long)epoch);
    if (r && r != E_PERMISSION)
        return r;
    error_done(err);
    r = attach_succeed(config, storage, paths, volume_id, epoch, attach_left_ms(deadline_ms), err);
    if (!r)
        r = attach_wait(paths, deadline_ms, &device, err);
    if (r != E_PRECONDITION)
        return r;
    error_done(err);
    return 0;
}

/* SIGTERM, and the end of the device in order. What it could not finish is still in the holder. */
static int attach_end(const struct attach_paths *paths, uint64_t deadline_ms, struct error *err)
{
    int r = attach_mark_end(paths, true, err);

    if (!r)
        r = process_stop(paths->device_pid, SIGTERM, attach_left_ms(deadline_ms), err);
    if (!r && takeover_holds(paths->holder_pid, paths->mount_point))
        return error_set(err, E_UNAVAILABLE, "mooring-device died before its end: try again");
    return r;
}

int attach_stop(const struct node_config *config, struct storage *storage, const char *volume_id,
                unsigned timeout_ms, struct error *err)
{
    uint64_t deadline_ms = time_now_ms() + timeout_ms;
    _cleanup_paths_ struct attach_paths paths = {0};

    int r = attach_paths_init(&paths, config, volume_id, err);
    if (!r && !process_alive(paths.device_pid, NULL) && takeover_holds(paths.holder_pid, paths.mount_point))
        r = attach_deliver(config, storage, &paths, volume_id, deadline_ms, err);
    if (r == E_NOT_FOUND) {
        log_warning("volume %s: what its device had not flushed is dropped: %s", volume_id, error_text(err));
        error_done(err);
        return attach_sweep(config, volume_id, err);
    }
    if (!r && process_alive(paths.device_pid, NULL))
        r = attach_end(&paths, deadline_ms, err);
    if (!r)
        r = process_stop(paths.holder_pid, SIGTERM, ATTACH_HOLDER_MS, err);
    if (r)
        return error_wrap(err, "volume %s", volume_id);
    /* A device that had died before it had anything to lose leaves its loop device and mount to us. */
    return attach_sweep(config, volume_id, err);
}

int attach_kill(const struct node_config *config, const char *volume_id, struct error *err)
{
    _cleanup_paths_ struct attach_paths paths = {0};

    int r = attach_paths_init(&paths, config, volume_id, err);
    if (r)
        return r;
    /* A dying thread may wait for an answer on the very mount that its process served: abort that first. */
    process_stop(paths.device_pid, SIGKILL, 0, NULL);
    umount2(paths.mount_point, MNT_FORCE | UMOUNT_NOFOLLOW);
    r = process_stop(paths.device_pid, SIGKILL, ATTACH_KILL_MS, err);
    if (!r)
        r = process_stop(paths.holder_pid, SIGKILL, ATTACH_KILL_MS, err);
    return r ? error_wrap(err, "volume %s", volume_id) : 0;
}

int attach_sweep(const struct node_config *config, const char *volume_id, struct error *err)
{
    _cleanup_paths_ struct attach_paths paths = {0};

    int r = attach_paths_init(&paths, config, volume_id, err);
    if (!r)
        r = attach_kill(config, volume_id, err);
    if (!r)
        r = loop_device_release(paths.mount_point, err);
    if (!r)
        r = mount_remove_lazily(paths.mount_point, NULL, err);
    return r ? error_wrap(err, "volume %s", volume_id) : 0;
}

char *attach_backing_dir(const struct node_config *config, const char *volume_id)
{
    return stage_record_path(config->state_dir, volume_id, "device/fuse");
}
