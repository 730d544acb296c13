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
#include "node/attach.h"
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

static int stage_locked(struct node *node, const struct stage_request *request, struct error *err)
{
    _cleanup_stage_record_ struct stage_record record = {0};
    _cleanup_attachment_ struct storage_attachment attachment = {0};
    _cleanup_attach_device_ struct attach_device device = {0};

    int r = stage_earlier(node, request, &record, err);
    if (!r)
        r = stage_attachment(node, request, &attachment, err);
    if (!r)
        r = stage_record_begin(node, request, &attachment, &record, err);
    if (!r)
        r = attach_start(&node->config, node->storage, &attachment, request->timeout_ms, &device, err);
    if (!r && !request->block)
        r = stage_filesystem(node, request, &attachment, &device, &record, err);
    if (r)
        return r;
    record.complete = true;
    return stage_record_save(node->config.state_dir, &record, err);
}

/* ---- what an earlier call left ---- */

/* Take everything of a staging away, whoever still uses it: its epoch is over, or its host was. */
static int stage_tear_down(struct node *node, const struct stage_record *record, struct error *err)
{
    int r = 0;

    log_info("volume %s: taking down the staging of epoch %" PRIu64, record->volume_id, record->epoch);
    for (size_t i = 0; !r && i < record->publishes_count; i++)
        r = mount_remove_lazily(record->publishes[i].target_path, err);
    if (!r)
        r = mount_remove_lazily(record->staging_path, err);
    if (!r)
        r = attach_sweep(&node->config, record->volume_id, err);
    if (!r)
        r = stage_record_remove(node->config.state_dir, record->volume_id, err);
    return r ? error_wrap(err, "cannot take down the staging of epoch %" PRIu64, record->epoch) : 0;
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
    if (!str_equal(record->staging_path, request->staging_path))
        return error_set(err, E_EXISTS, "volume %s is staged at %s, not at %s", request->volume_id,
                         record->staging_path, request->staging_path);
    if (record->block != request->block)
        return error_set(err, E_EXISTS, "volume %s is staged %s", request->volume_id,
                         record->block ? "as a block device" : "with a file system");
    if (*request->fs_type && *record->fs_type && !str_equal(record->fs_type, request->fs_type))
        return error_set(err, E_EXISTS, "volume %s is staged with %s, not %s", request->volume_id,
                         record->fs_type, request->fs_type);
    return 0;
}

static void stage_sweep_one(const char *volume_id, void *context)
{
    _cleanup_stage_record_ struct stage_record record = {0};
    _cleanup_error_ struct error err = {0};
    struct node *node = context;

    int r = stage_record_load(node->config.state_dir, volume_id, &record, &err);
    if (r == E_NOT_FOUND)
        r = stage_record_remove(node->config.state_dir, volume_id, &err);
    else if (!r && !str_equal(record.boot_id, node->config.boot_id))
        r = stage_tear_down(node, &record, &err);
    else if (!r)
        log_info("volume %s: staged at %s, epoch %" PRIu64, volume_id, record.staging_path, record.epoch);
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
    int r = storage_attachment_get(node->storage, request->volume_id, request->timeout_ms, &attachment, err);

    if (r == E_NOT_FOUND) /* the volume, or its attachment to this node */
        return r;
    if (!r && (attachment.epoch != request->epoch || attachment.removing))
        r = error_set(err, E_PRECONDITION,
                      "volume %s: the publish context is of epoch %" PRIu64
                      ", but the attachment is of epoch %" PRIu64 "%s: publish the volume again",
                      request->volume_id, request->epoch, attachment.epoch,
                      attachment.removing ? " and is being removed" : "");
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
    record->block = request->block;
    record->single = request->single;
    record->readonly = attachment->readonly;
    record->staging_path = strdup(request->staging_path);
    record->fs_type = strdup(request->block ? "" : request->fs_type);
    record->mount_options = strdup(request->mount_options);
    if (!record->staging_path || !record->fs_type || !record->mount_options)
        return error_errno(err, ENOMEM, "cannot stage volume %s", request->volume_id);
    int r = io_make_dirs(request->staging_path, 0750, err);
    return r ? r : stage_record_save(node->config.state_dir, record, err);
}

/* ---- the file system ---- */

/* mkfs between the marks (invariant 5). found is what libblkid found on a blank volume: nothing, or we do not
 * write. */
static int stage_format(struct node *node, const struct stage_request *request,
                        const struct storage_attachment *attachment, const struct attach_device *device,
                        const char *found, struct error *err)
{
    const char *fs_type = *request->fs_type ? request->fs_type : FILESYSTEM_DEFAULT;

    if (attachment->readonly)
        return error_set(err, E_PRECONDITION, "volume %s has no file system, and is attached read-only",
                         attachment->volume_id);
    if (attachment->content == STORAGE_BLANK && found)
        return error_set(err, E_PRECONDITION,
                         "volume %s was never written to, yet %s carries %s: it is not formatted",
                         attachment->volume_id, device->path, found);
    int r = storage_format_begin(node->storage, attachment->volume_id, attachment->epoch, device->generation,
                                 request->timeout_ms, err);
    if (!r) {
        log_info("volume %s: making %s on %s", attachment->volume_id, fs_type, device->path);
        r = filesystem_make(device->path, fs_type, request->mkfs_options, err);
    }
    if (!r)
        r = storage_format_end(node->storage, attachment->volume_id, attachment->epoch, device->generation,
                               request->timeout_ms, err);
    return r;
}

/* The type that is on the device and that we may mount; formats when the storage server says that we may. */
static int stage_find_filesystem(struct node *node, const struct stage_request *request,
                                 const struct storage_attachment *attachment,
                                 const struct attach_device *device, char **ret_type, struct error *err)
{
    _cleanup_free_ char *found = NULL;

    int r = filesystem_probe(device->path, &found, err);
    if (!r && attachment->content != STORAGE_DATA) {
        r = stage_format(node, request, attachment, device, found, err);
        free(TAKE_PTR(found));
        if (!r)
            r = filesystem_probe(device->path, &found, err);
    }
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

/* Clones, and here several hosts of one kernel, have equal XFS UUIDs; a read-only device cannot replay a log.
 */
static char *stage_options(const struct stage_record *record, const char *fs_type)
{
    bool xfs = str_equal(fs_type, "xfs");
    const char *ours =
        xfs ? (record->readonly ? "nouuid,norecovery" : "nouuid") : (record->readonly ? "noload" : "");

    return str_format("%s%s%s", ours, *ours && *record->mount_options ? "," : "", record->mount_options);
}

static int stage_filesystem(struct node *node, const struct stage_request *request,
                            const struct storage_attachment *attachment, const struct attach_device *device,
                            struct stage_record *record, struct error *err)
{
    _cleanup_mount_info_ struct mount_info mounted = {0};
    _cleanup_free_ char *fs_type = NULL;

    int r = mount_find(record->staging_path, &mounted, NULL);
    if (!r && str_equal(mounted.source, device->path))
        return 0;
    if (!r)
        return error_set(err, E_PRECONDITION, "%s is taken: %s (%s) is mounted there", record->staging_path,
                         mounted.source, mounted.fs_type);
    r = stage_find_filesystem(node, request, attachment, device, &fs_type, err);
    if (!r && !record->readonly)
        r = filesystem_check(device->path, fs_type, err);
    if (r)
        return r;
    _cleanup_free_ char *options = stage_options(record, fs_type);
    if (!options)
        return error_errno(err, ENOMEM, "cannot stage volume %s", record->volume_id);
    r = mount_device(device->path, record->staging_path, fs_type, options, record->readonly, err);
    free(record->fs_type);
    record->fs_type = TAKE_PTR(fs_type);
    return r;
}

/* ---- back ---- */

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
    r = record.block ? 0 : mount_remove(record.staging_path, err);
    if (!r)
        r = attach_stop(&node->config, volume_id,
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
