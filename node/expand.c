/*
 * NodeExpandVolume: a volume that grew on its storage server, here: the block device first, then the file
 * system on it, both in use. Runs with the volume's lock held, on an RPC thread; filesystem growth after
 * staging too.
 */
#include <errno.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/strings.h"
#include "common/time.h"
#include "node/attach.h"
#include "node/filesystem.h"
#include "node/mount.h"
#include "node/node.h"

static unsigned expand_left_ms(const struct expand_request *request)
{
    uint64_t now_ms = time_now_ms();

    return request->deadline_ms > now_ms ? (unsigned)(request->deadline_ms - now_ms) : 1;
}

static int expand_check(const struct expand_request *request, const struct stage_record *record,
                        struct error *err)
{
    const char *volume_id = request->volume_id;

    if (!stage_record_has_path(record, request->path))
        return error_set(err, E_NOT_FOUND, "volume %s is neither staged nor published at %s", volume_id,
                         request->path);
    if (*request->staging_path && !str_equal(record->staging_path, request->staging_path))
        return error_set(err, E_NOT_FOUND, "volume %s is staged at %s, not at %s", volume_id,
                         record->staging_path, request->staging_path);
    if (request->has_capability && request->block != record->block)
        return error_set(err, E_INVALID_ARGUMENT, "volume %s is staged %s", volume_id,
                         record->block ? "as a block device" : "with a file system");
    if (*request->fs_type && !str_equal(request->fs_type, record->fs_type))
        return error_set(err, E_INVALID_ARGUMENT, "volume %s is staged with %s, not %s", volume_id,
                         record->fs_type, request->fs_type);
    if (!record->complete)
        return error_set(err, E_PRECONDITION, "volume %s is not staged to the end: stage it again",
                         volume_id);
    return 0;
}

/* What the storage server says that the volume has. */
static int expand_target(struct node *node, const struct expand_request *request,
                         const struct stage_record *record, uint64_t *ret_bytes, struct error *err)
{
    _cleanup_attachment_ struct storage_attachment attachment = {0};

    int r =
        storage_attachment_get(node->storage, request->volume_id, expand_left_ms(request), &attachment, err);
    if (r)
        return r;
    if (attachment.epoch != record->epoch)
        return error_set(err, E_PRECONDITION,
                         "volume %s was published to this node anew: stage it again first",
                         request->volume_id);
    if (request->required_bytes > attachment.size_bytes)
        return error_set(err, E_OUT_OF_RANGE,
                         "volume %s has %llu bytes on its storage server, less than the %llu required: "
                         "ControllerExpandVolume comes first",
                         request->volume_id, (unsigned long long)attachment.size_bytes,
                         (unsigned long long)request->required_bytes);
    if (request->limit_bytes && request->limit_bytes < attachment.size_bytes)
        return error_set(err, E_OUT_OF_RANGE, "volume %s has %llu bytes already, more than the limit of %llu",
                         request->volume_id, (unsigned long long)attachment.size_bytes,
                         (unsigned long long)request->limit_bytes);
    *ret_bytes = attachment.size_bytes;
    return 0;
}

static int expand_mounted(struct node *node, const struct stage_record *record, struct error *err)
{
    _cleanup_mount_info_ struct mount_info mounted = {0};

    int r = mount_find(record->staging_path, &mounted, err);
    if (r && r != E_NOT_FOUND)
        return r;
    if (r || !attach_owns(&node->config, record->volume_id, mounted.device))
        return error_set(err, E_PRECONDITION,
                         "volume %s is not mounted at %s any more: unstage it, and stage it again",
                         record->volume_id, record->staging_path);
    return 0;
}

/* Its attachment may write, and it is mounted for reading all the same: by mount options, or after an error.
 */
static bool expand_only_reads(const struct stage_record *record)
{
    _cleanup_mount_info_ struct mount_info mounted = {0};

    return mount_find(record->staging_path, &mounted, NULL) == 0 &&
           (mounted.readonly || mounted.filesystem_readonly);
}

int expand_filesystem(struct node *node, const struct stage_record *record, const char *device,
                      struct error *err)
{
    uint64_t filesystem_bytes = 0, device_bytes = 0;

    volume_lock_lend(node->locks, record->volume_id);
    int r = filesystem_size(device, record->fs_type, &filesystem_bytes, &device_bytes, err);
    bool grows = !r && filesystem_bytes < device_bytes;
    if (grows && record->readonly)
        r = error_set(err, E_PRECONDITION,
                      "volume %s is attached read-only: its file system keeps its %llu bytes until it is "
                      "attached for writing",
                      record->volume_id, (unsigned long long)filesystem_bytes);
    else if (grows && expand_only_reads(record))
        r = error_set(err, E_PERMISSION,
                      "the %s file system at %s is mounted read-only: it keeps its %llu bytes",
                      record->fs_type, record->staging_path, (unsigned long long)filesystem_bytes);
    if (!r && grows)
        r = filesystem_grow(device, record->staging_path, record->fs_type, err);
    volume_lock_reclaim(node->locks, record->volume_id);
    if (!r && grows)
        log_info("volume %s: its %s of %llu bytes now takes what fits into %llu", record->volume_id,
                 record->fs_type, (unsigned long long)filesystem_bytes, (unsigned long long)device_bytes);
    return r;
}

static int expand_locked(struct node *node, const struct expand_request *request, uint64_t *ret_bytes,
                         struct error *err)
{
    _cleanup_stage_record_ struct stage_record record = {0};
    _cleanup_attach_device_ struct attach_device device = {0};
    uint64_t size_bytes = 0;

    int r = stage_record_load(node->config.state_dir, request->volume_id, &record, err);
    if (!r)
        r = expand_check(request, &record, err);
    if (!r)
        r = attach_check_kept(&node->config, request->volume_id, record.publishes_count > 0, err);
    if (!r)
        r = expand_target(node, request, &record, &size_bytes, err);
    if (!r && !record.block)
        r = expand_mounted(node, &record, err);
    if (r)
        return r;
    volume_lock_lend(node->locks, request->volume_id);
    r = attach_resize(&node->config, request->volume_id, size_bytes, expand_left_ms(request), err);
    volume_lock_reclaim(node->locks, request->volume_id);
    if (!r)
        r = attach_find(&node->config, request->volume_id, &device, err);
    if (!r && !record.block)
        r = expand_filesystem(node, &record, device.path, err);
    if (r == E_PERMISSION && err)
        r = err->code = E_PRECONDITION;
    if (!r)
        *ret_bytes = size_bytes;
    return r;
}

int expand_volume(struct node *node, const struct expand_request *request, uint64_t *ret_bytes,
                  struct error *err)
{
    int r = volume_lock_try(node->locks, request->volume_id, "NodeExpandVolume", err);

    if (r)
        return r;
    r = expand_locked(node, request, ret_bytes, err);
    volume_lock_release(node->locks, request->volume_id);
    return r;
}
