/*
 * Staging: from an attachment to a mounted file system (or a bare device), and back. Each function below runs
 * with the volume's lock held, on an RPC thread.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/log.h"
#include "common/strings.h"
#include "common/time.h"
#include "node/attach.h"
#include "node/choose.h"
#include "node/filesystem.h"
#include "node/mount.h"
#include "node/node.h"

#define STAGE_STOP_MIN_MS 10000

static int stage_locked(struct node *node, const struct stage_request *request, struct error *err);
static int stage_earlier(struct node *node, const struct stage_request *request, struct stage_record *record,
                         struct error *err);
static int stage_attachment(struct node *node, const struct stage_request *request,
                            struct storage_attachment *ret, struct error *err);
static int stage_record_begin(struct node *node, const struct stage_request *request,
                              const struct storage_attachment *attachment, struct stage_record *record,
                              struct error *err);
static int stage_attach(struct node *node, const struct stage_request *request,
                        const struct storage_attachment *attachment, const struct stage_record *record,
                        struct attach_device *ret, struct error *err);
static int stage_filesystem(struct node *node, const struct stage_request *request,
                            const struct storage_attachment *attachment, const struct attach_device *device,
                            struct stage_record *record, struct error *err);

int stage_volume(struct node *node, const struct stage_request *request, struct error *err)
{
    int r = volume_lock_try(node->locks, request->volume_id, "NodeStageVolume", err);

    if (r)
        return r;
    r = stage_locked(node, request, err);
    volume_lock_release(node->locks, request->volume_id);
    supervisor_wake(node->supervisor);
    return r;
}

static unsigned stage_left_ms(const struct stage_request *request)
{
    uint64_t now_ms = time_now_ms();

    return request->deadline_ms > now_ms ? (unsigned)(request->deadline_ms - now_ms) : 1;
}

static int stage_locked(struct node *node, const struct stage_request *request, struct error *err)
{
    _cleanup_stage_record_ struct stage_record record = {0};
    _cleanup_attachment_ struct storage_attachment attachment = {0};
    _cleanup_attach_device_ struct attach_device device = {0};

    /* First, so that a publish context that is wrong takes nothing down. */
    int r = stage_attachment(node, request, &attachment, err);
    if (!r)
        r = stage_earlier(node, request, &record, err);
    if (!r)
        r = stage_record_begin(node, request, &attachment, &record, err);
    if (!r)
        r = stage_attach(node, request, &attachment, &record, &device, err);
    if (!r && !request->block)
        r = stage_filesystem(node, request, &attachment, &device, &record, err);
    if (r)
        return r;
    record.complete = true;
    return stage_record_save(node->config.state_dir, &record, err);
}

/* ---- what an earlier call left ---- */

/* Unmount ours at path: in good order, or at any price. */
static int stage_unmount(struct node *node, const struct stage_record *record, const char *path, bool lazily,
                         struct error *err)
{
    const struct mount_owner owner = attach_owner(&node->config, record->volume_id, record->block);

    return lazily ? mount_remove_lazily(path, &owner, err) : mount_remove(path, &owner, err);
}

/* Take everything of a staging away, whoever still uses it: its epoch is over, or its host was. The processes
 * first: then no unmounting waits for storage that will not answer. */
static int stage_tear_down(struct node *node, const struct stage_record *record, struct error *err)
{
    log_info("volume %s: taking down the staging of epoch %" PRIu64, record->volume_id, record->epoch);
    int r = attach_kill(&node->config, record->volume_id, err);
    for (size_t i = 0; !r && i < record->publishes_count; i++) {
        r = stage_unmount(node, record, record->publishes[i].target_path, true, err);
        publish_forget(record->publishes[i].target_path);
    }
    if (!r)
        r = stage_unmount(node, record, record->staging_path, true, err);
    if (!r)
        r = attach_sweep(&node->config, record->volume_id, err);
    if (!r)
        r = stage_record_remove(node->config.state_dir, record->volume_id, err);
    return r ? error_wrap(err, "cannot take down the staging of epoch %" PRIu64, record->epoch) : 0;
}

static int stage_check_same(const struct stage_request *request, const struct stage_record *record,
                            struct error *err)
{
    if (!str_equal(record->staging_path, request->staging_path))
        return error_set(err, E_EXISTS, "volume %s is staged at %s, not at %s", request->volume_id,
                         record->staging_path, request->staging_path);
    if (record->block != request->block)
        return error_set(err, E_EXISTS, "volume %s is staged %s", request->volume_id,
                         record->block ? "as a block device" : "with a file system");
    if (*request->fs_type && *record->fs_type && !str_equal(record->fs_type, request->fs_type))
        return error_set(err, E_EXISTS, "volume %s is staged with %s, not %s", request->volume_id,
                         record->fs_type, request->fs_type);
    if (record->access_mode && record->access_mode != request->access_mode)
        return error_set(err, E_EXISTS, "volume %s is staged with access mode %s, not %s", request->volume_id,
                         access_mode_name((enum access_mode)record->access_mode),
                         access_mode_name(request->access_mode));
    if (!str_equal(record->mount_options, request->mount_options))
        return error_set(err, E_EXISTS, "volume %s is staged with the mount options \"%s\", not \"%s\"",
                         request->volume_id, record->mount_options, request->mount_options);
    return 0;
}

/* A staging whose block device is lost is made anew, once no path or container can know the old device. */
static int stage_check_lost(struct node *node, struct stage_record *record, struct error *err)
{
    int r = attach_check_kept(&node->config, record->volume_id, record->publishes_count > 0, err);

    if (r != E_PRECONDITION || record->publishes_count)
        return r;
    error_done(err);
    r = stage_tear_down(node, record, err);
    stage_record_done(record);
    return r;
}

/* record is the staging that stands, or empty. */
static int stage_earlier(struct node *node, const struct stage_request *request, struct stage_record *record,
                         struct error *err)
{
    int r = stage_record_load(node->config.state_dir, request->volume_id, record, err);

    if (r == E_NOT_FOUND) {
        error_done(err);
        return 0;
    }
    if (r)
        return r;
    if (record->epoch > request->epoch)
        return error_set(err, E_PRECONDITION,
                         "volume %s: the publish context is of epoch %" PRIu64 ", but epoch %" PRIu64
                         " is staged: publish the volume again",
                         request->volume_id, request->epoch, record->epoch);
    if (record->epoch < request->epoch || !str_equal(record->boot_id, node->config.boot_id)) {
        r = stage_tear_down(node, record, err);
        stage_record_done(record);
        return r;
    }
    r = stage_check_same(request, record, err);
    return r ? r : stage_check_lost(node, record, err);
}

static int stage_forget(struct node *node, const char *volume_id, struct error *err)
{
    const struct mount_owner owner = attach_owner(&node->config, volume_id, false);

    int r = attach_kill(&node->config, volume_id, err); /* then no unmounting waits */
    if (!r)
        r = mount_remove_everywhere(&owner, err);
    if (!r)
        r = attach_sweep(&node->config, volume_id, err);
    return r ? r : stage_record_remove(node->config.state_dir, volume_id, err);
}

static void stage_sweep_one(const char *volume_id, void *context)
{
    _cleanup_stage_record_ struct stage_record record = {0};
    _cleanup_error_ struct error err = {0};
    struct node *node = context;

    int r = stage_record_load(node->config.state_dir, volume_id, &record, &err);
    if (r == E_NOT_FOUND) { /* the note of whose it is went first, or was never written: nobody can use it */
        r = stage_forget(node, volume_id, &err);
    } else if (!r && !str_equal(record.boot_id, node->config.boot_id))
        r = stage_tear_down(node, &record, &err);
    else if (!r) {
        log_info("volume %s: staged at %s, epoch %" PRIu64, volume_id, record.staging_path, record.epoch);
        attach_adopt(&node->config, volume_id);
    }
    if (r)
        log_error("volume %s: %s", volume_id, error_text(&err));
}

void stage_sweep_all(struct node *node)
{
    _cleanup_error_ struct error err = {0};

    if (stage_record_each(node->config.state_dir, stage_sweep_one, node, &err))
        log_error("%s", error_text(&err));
}

/* ---- the attachment that we stage, and the note that we do ---- */

static int stage_attachment(struct node *node, const struct stage_request *request,
                            struct storage_attachment *ret, struct error *err)
{
    struct storage_attachment attachment = {0};
    int r =
        storage_attachment_get(node->storage, request->volume_id, stage_left_ms(request), &attachment, err);

    if (r == E_NOT_FOUND) /* the volume, or its attachment to this node */
        return r;
    if (!r && (attachment.epoch != request->epoch || attachment.removing))
        r = error_set(err, E_PRECONDITION,
                      "volume %s: the publish context is of epoch %" PRIu64
                      ", but the attachment is of epoch %" PRIu64 "%s: publish the volume again",
                      request->volume_id, request->epoch, attachment.epoch,
                      attachment.removing ? " and is being removed" : "");
    if (!r && access_mode_is_reader(request->access_mode) && !attachment.readonly)
        r = error_set(
            err, E_PRECONDITION,
            "volume %s is published to this node for writing, and access mode %s only reads: publish "
            "it with that mode",
            request->volume_id, access_mode_name(request->access_mode));
    if (r) {
        storage_attachment_done(&attachment);
        return r;
    }
    *ret = attachment;
    return 0;
}

static int stage_record_begin(struct node *node, const struct stage_request *request,
                              const struct storage_attachment *attachment, struct stage_record *record,
                              struct error *err)
{
    if (record->staging_path) /* an earlier call of this epoch wrote it */
        return 0;
    str_copy(record->volume_id, sizeof(record->volume_id), request->volume_id);
    str_copy(record->boot_id, sizeof(record->boot_id), node->config.boot_id);
    record->epoch = request->epoch;
    record->path_timeout_ms = request->path_timeout_ms;
    record->lease_ms = request->lease_ms;
    record->sessions = request->sessions;
    record->block = request->block;
    record->single = request->access_mode == ACCESS_MODE_SINGLE_NODE_SINGLE_WRITER;
    record->access_mode = request->access_mode;
    record->readonly = attachment->readonly;
    record->staging_path = strdup(request->staging_path);
    record->fs_type = strdup(request->block ? "" : request->fs_type);
    record->mount_options = strdup(request->mount_options);
    if (!record->staging_path || !record->fs_type || !record->mount_options)
        return error_errno(err, ENOMEM, "cannot stage volume %s", request->volume_id);
    int r = choose_way(&node->config, request->attach, record->attach, err);
    if (!r)
        r = io_make_dirs(request->staging_path, 0750, err);
    return r ? r : stage_record_save(node->config.state_dir, record, err);
}

/*
 * What an interrupted mkfs has in flight must never reach the volume: a successor of its device process would
 * send it again, as another generation than the one that formats. So its holder goes, and with it what it
 * kept.
 */
static int stage_forget_format(struct node *node, const struct storage_attachment *attachment,
                               const struct stage_record *record, struct error *err)
{
    if (attachment->content != STORAGE_FORMATTING || record->complete)
        return 0;
    _cleanup_fd_ int device = attach_watch(&node->config, record->volume_id);
    return device >= 0 ? 0 : attach_sweep(&node->config, record->volume_id, err);
}

/*
 * A volume that takes no writes is good for who reads: a read-only attachment, or a block volume, whose user
 * sees the error with the first write. A file system that is mounted for writing on it fails in the middle of
 * a journal's replay, with words that name no cause.
 */
static int stage_check_writable(const struct storage_attachment *attachment,
                                const struct stage_record *record, const char *problem, struct error *err)
{
    if (!problem || !*problem)
        return 0;
    log_warning("volume %s takes no writes: %s", attachment->volume_id, problem);
    if (attachment->readonly || record->block || record->complete)
        return 0;
    return error_set(
        err, E_PRECONDITION,
        "volume %s takes no writes: %s; to read it, attach it read-only; once its data is looked "
        "after, mooring volume clear-failed lets it be written again",
        attachment->volume_id, problem);
}

static int stage_attach(struct node *node, const struct stage_request *request,
                        const struct storage_attachment *attachment, const struct stage_record *record,
                        struct attach_device *ret, struct error *err)
{
    const char *problem =
        attachment->write_failed ? "it is write-failed, for a flush failed on its storage server" : "";

    int r = stage_check_writable(attachment, record, problem, err);
    if (r)
        return r;
    r = stage_forget_format(node, attachment, record, err);
    if (!r)
        r = attach_start(&node->config, node->storage, node->locks, attachment, stage_left_ms(request), ret,
                         err);
    if (!r)
        return stage_check_writable(attachment, record, ret->problem, err);
    if (r == E_PRECONDITION &&
        !record->complete) { /* refused for good: the next call starts with a new one */
        attach_sweep(&node->config, record->volume_id, NULL);
        if (!record->block)
            stage_unmount(node, record, record->staging_path, true, NULL);
    }
    return r;
}

/* ---- the file system ---- */

struct stage_format {
    struct node *node;
    const char *volume_id;
};

/* The device process ended while mkfs writes. A successor's writes would count as data, so nothing of it goes
 * on. */
static void stage_format_abandon(void *context)
{
    const struct stage_format *format = context;
    _cleanup_error_ struct error err = {0};

    if (attach_sweep(&format->node->config, format->volume_id, &err))
        log_error("%s", error_text(&err));
}

static int stage_make(struct node *node, const struct stage_request *request,
                      const struct attach_device *device, struct error *err)
{
    const char *fs_type = *request->fs_type ? request->fs_type : FILESYSTEM_DEFAULT;
    struct stage_format format = {node, request->volume_id};
    _cleanup_fd_ int device_fd = attach_watch(&node->config, request->volume_id);
    const struct process_watch watch = {device_fd, stage_format_abandon, &format,
                                        "mooring-device ended while it ran; try again"};

    bool watched = attach_has_process(&node->config, request->volume_id);

    if (watched && device_fd < 0)
        return error_set(err, E_UNAVAILABLE, "mooring-device of volume %s has ended", request->volume_id);
    log_info("volume %s: making %s on %s", request->volume_id, fs_type, device->path);
    if (!watched) /* the supervisor ends the session, and I/O that waits, once the attachment is gone */
        volume_lock_lend(node->locks, request->volume_id);
    int r = filesystem_make(device->path, fs_type, request->mkfs_options, watched ? &watch : NULL, err);
    if (!watched)
        volume_lock_reclaim(node->locks, request->volume_id);
    if (r)
        return r;
    volume_lock_lend(node->locks, request->volume_id);
    r = filesystem_flush(device->path, err);
    volume_lock_reclaim(node->locks, request->volume_id);
    return r;
}

/* Reads, so the device may need a successor meanwhile. */
static int stage_probe(struct node *node, const struct attach_device *device, const char *volume_id,
                       char **ret_type, struct error *err)
{
    volume_lock_lend(node->locks, volume_id);
    int r = filesystem_probe(device->path, ret_type, err);
    volume_lock_reclaim(node->locks, volume_id);
    return r;
}

/* What mkfs has left: one that ended well may have made something else. */
static int stage_check_made(struct node *node, const struct stage_request *request,
                            const struct attach_device *device, char **ret_type, struct error *err)
{
    const char *wanted = *request->fs_type ? request->fs_type : FILESYSTEM_DEFAULT;

    int r = stage_probe(node, device, request->volume_id, ret_type, err);
    if (!r && (!*ret_type || !str_equal(*ret_type, wanted)))
        r = error_set(err, E_INVALID_ARGUMENT, "mkfs of volume %s left %s, not %s: see mkfsOptions",
                      request->volume_id, *ret_type ? *ret_type : "no file system", wanted);
    return r;
}

/* mkfs between the marks (invariant 5). *type is what libblkid found on a blank volume: nothing, or we do not
 * write. Then what was made. */
static int stage_format(struct node *node, const struct stage_request *request,
                        const struct storage_attachment *attachment, const struct attach_device *device,
                        char **type, struct error *err)
{
    if (attachment->readonly)
        return error_set(err, E_PRECONDITION, "volume %s has no file system, and is attached read-only",
                         attachment->volume_id);
    if (*type)
        return error_set(err, E_PRECONDITION,
                         "volume %s was never written to, yet %s carries %s: it is not formatted",
                         attachment->volume_id, device->path, *type);
    int r = storage_format_begin(node->storage, attachment->volume_id, attachment->epoch, device->generation,
                                 stage_left_ms(request), err);
    if (!r)
        r = stage_make(node, request, device, err);
    if (!r)
        r = stage_check_made(node, request, device, type, err);
    if (!r)
        r = storage_format_end(node->storage, attachment->volume_id, attachment->epoch, device->generation,
                               stage_left_ms(request), err);
    return r;
}

/* The type that is on the device and that we may mount; formats when the storage server says that we may. */
static int stage_find_filesystem(struct node *node, const struct stage_request *request,
                                 const struct storage_attachment *attachment,
                                 const struct attach_device *device, char **ret_type, struct error *err)
{
    _cleanup_free_ char *found = NULL;

    /* What is on a volume that is "formatting" does not matter: it is discarded. */
    int r = attachment->content == STORAGE_FORMATTING
                ? 0
                : stage_probe(node, device, request->volume_id, &found, err);
    if (!r && attachment->content != STORAGE_DATA)
        r = stage_format(node, request, attachment, device, &found, err);
    if (r)
        return r;
    if (!found)
        return error_set(
            err, E_PRECONDITION,
            "volume %s holds data in which no file system is found: it is not formatted over; use it as "
            "a block volume, or delete it",
            attachment->volume_id);
    if (!filesystem_supported(found) || (*request->fs_type && !str_equal(request->fs_type, found)))
        return error_set(err, E_PRECONDITION, "volume %s holds %s, not %s: it is not formatted over",
                         attachment->volume_id, found,
                         *request->fs_type ? request->fs_type : "a file system that we mount");
    *ret_type = TAKE_PTR(found);
    return 0;
}

/*
 * Clones, and here several hosts of one kernel, have equal XFS UUIDs; a read-only device cannot replay a log.
 * _netdev is for systemd: the mount needs the network, and is taken away before it at shutdown.
 */
static char *stage_options(const struct stage_record *record, const char *fs_type)
{
    const char *ours = record->readonly ? "_netdev,noload" : "_netdev";

    if (str_equal(fs_type, "xfs"))
        ours = record->readonly ? "_netdev,nouuid,norecovery" : "_netdev,nouuid";
    return str_format("%s%s%s", ours, *record->mount_options ? "," : "", record->mount_options);
}

/* What the device says of itself, to an error whose own words come from a mount or an fsck that got EIO. */
static int stage_explain(struct node *node, const struct stage_record *record, int r, struct error *err)
{
    _cleanup_attach_device_ struct attach_device device = {0};
    _cleanup_error_ struct error why = {0};

    if (!r || !err)
        return r;
    int looked = attach_find(&node->config, record->volume_id, &device, &why);
    if (looked)
        return error_wrap(err, "the device of volume %s does not serve (%s)", record->volume_id,
                          error_text(&why));
    if (device.problem && *device.problem)
        return error_wrap(err, "volume %s takes no writes (%s)", record->volume_id, device.problem);
    return r;
}

static int stage_mount(struct node *node, const struct stage_record *record,
                       const struct attach_device *device, const char *fs_type, struct error *err)
{
    _cleanup_free_ char *options = stage_options(record, fs_type);
    int r = 0;

    if (!options)
        return error_errno(err, ENOMEM, "cannot stage volume %s", record->volume_id);
    volume_lock_lend(node->locks, record->volume_id);
    if (!record->readonly)
        r = filesystem_check(device->path, fs_type, err);
    if (!r)
        r = mount_device(device->path, record->staging_path, fs_type, options, record->readonly, err);
    volume_lock_reclaim(node->locks, record->volume_id);
    return stage_explain(node, record, r, err);
}

/* Of a clone that is larger than its source, or a volume that grew while it was detached. Where the host
 * never lets us, it is better small than not there. */
static int stage_grow(struct node *node, const struct stage_record *record,
                      const struct attach_device *device, struct error *err)
{
    _cleanup_error_ struct error why = {0};
    int r = expand_filesystem(node, record, device->path, &why);

    if (r == E_PERMISSION) {
        log_warning("volume %s: %s", record->volume_id, error_text(&why));
        return 0;
    }
    error_move(err, &why);
    return stage_explain(node, record, r, err);
}

static int stage_filesystem(struct node *node, const struct stage_request *request,
                            const struct storage_attachment *attachment, const struct attach_device *device,
                            struct stage_record *record, struct error *err)
{
    _cleanup_mount_info_ struct mount_info mounted = {0};
    _cleanup_free_ char *fs_type = NULL;

    int r = mount_find(record->staging_path, &mounted, NULL);
    if (!r && !str_equal(mounted.source, device->path))
        return error_set(err, E_PRECONDITION, "%s is taken: %s (%s) is mounted there", record->staging_path,
                         mounted.source, mounted.fs_type);
    if (!r) {
        fs_type = TAKE_PTR(mounted.fs_type);
    } else {
        r = filesystem_is_free(device->path, err);
        if (!r)
            r = stage_find_filesystem(node, request, attachment, device, &fs_type, err);
        if (!r)
            r = stage_mount(node, record, device, fs_type, err);
    }
    if (r)
        return r;
    free(record->fs_type);
    record->fs_type = TAKE_PTR(fs_type);
    if (record->readonly) /* it is read as it is */
        return 0;
    return stage_grow(node, record, device, err);
}

/* ---- back ---- */

/* First noted, so that nobody binds the bare directory meanwhile or after a crash. Where what uses the mount
 * keeps it, it stays staged. */
static int stage_end_mount(struct node *node, struct stage_record *record, struct error *err)
{
    bool complete = record->complete;

    record->complete = false;
    int r = complete ? stage_record_save(node->config.state_dir, record, err) : 0;
    if (r || record->block)
        return r;
    volume_lock_lend(node->locks, record->volume_id);
    r = stage_unmount(node, record, record->staging_path, false, err);
    volume_lock_reclaim(node->locks, record->volume_id);
    if (r == E_PRECONDITION && complete) {
        record->complete = true;
        stage_record_save(node->config.state_dir, record, NULL);
    }
    return r;
}

static int stage_unstage_locked(struct node *node, const char *volume_id, const char *staging_path,
                                unsigned timeout_ms, struct error *err)
{
    _cleanup_stage_record_ struct stage_record record = {0};

    int r = stage_record_load(node->config.state_dir, volume_id, &record, err);
    if (r == E_NOT_FOUND) {
        error_done(err);
        return 0;
    }
    if (r)
        return r;
    if (!str_equal(record.boot_id, node->config.boot_id))
        return stage_tear_down(node, &record, err);
    if (!str_equal(record.staging_path, staging_path)) /* nothing of ours is there */
        return 0;
    if (record.publishes_count)
        return error_set(err, E_PRECONDITION, "volume %s is still published at %s: unpublish it first",
                         volume_id, record.publishes[0].target_path);
    r = stage_end_mount(node, &record, err);
    if (!r)
        r = attach_stop(&node->config, node->storage, volume_id,
                        timeout_ms > STAGE_STOP_MIN_MS ? timeout_ms : STAGE_STOP_MIN_MS, err);
    return r ? r : stage_record_remove(node->config.state_dir, volume_id, err);
}

int stage_unstage(struct node *node, const char *volume_id, const char *staging_path, unsigned timeout_ms,
                  struct error *err)
{
    int r = volume_lock_try(node->locks, volume_id, "NodeUnstageVolume", err);

    if (r)
        return r;
    r = stage_unstage_locked(node, volume_id, staging_path, timeout_ms, err);
    volume_lock_release(node->locks, volume_id);
    supervisor_wake(node->supervisor);
    return r;
}
