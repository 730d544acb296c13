/*
 * Publishing: a staged volume at a target path, by a bind mount of the staged directory or of the device
 * node. Each path is written down before it is mounted, so that none is forgotten. Runs with the volume's
 * lock held, on an RPC thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/strings.h"
#include "node/attach.h"
#include "node/mount.h"
#include "node/node.h"

static const struct stage_publish *publish_find(const struct stage_record *record, const char *target_path)
{
    for (size_t i = 0; i < record->publishes_count; i++) {
        if (str_equal(record->publishes[i].target_path, target_path))
            return &record->publishes[i];
    }
    return NULL;
}

/* The spec's second table: what a second call on this node gets. */
static int publish_check_mode(const struct publish_request *request, const struct stage_record *record,
                              const struct stage_publish *published, struct error *err)
{
    bool one_path = record->single || access_mode_is_one_path((enum access_mode)record->access_mode);

    if (record->access_mode && record->access_mode != request->access_mode)
        return error_set(err, published ? E_EXISTS : E_PRECONDITION,
                         "volume %s is staged with access mode %s, not %s", request->volume_id,
                         access_mode_name((enum access_mode)record->access_mode),
                         access_mode_name(request->access_mode));
    if (!published && one_path && record->publishes_count)
        return error_set(
            err, E_PRECONDITION,
            "volume %s is published at %s, and %s allows one path only; SINGLE_NODE_MULTI_WRITER "
            "allows more",
            request->volume_id, record->publishes[0].target_path, access_mode_name(request->access_mode));
    return 0;
}

static int publish_check(const struct publish_request *request, const struct stage_record *record,
                         struct error *err)
{
    const struct stage_publish *published = publish_find(record, request->target_path);

    if (!record->complete || !str_equal(record->staging_path, request->staging_path))
        return error_set(err, E_PRECONDITION, "volume %s is not staged at %s", request->volume_id,
                         request->staging_path);
    if (record->block != request->block)
        return error_set(err, published ? E_EXISTS : E_PRECONDITION, "volume %s is staged %s",
                         request->volume_id, record->block ? "as a block device" : "with a file system");
    if (request->block && request->readonly && !record->readonly)
        return error_set(
            err, published ? E_EXISTS : E_PRECONDITION,
            "volume %s: a device node cannot be made read-only for one path alone; publish the volume "
            "read-only to this node instead",
            request->volume_id);
    int r = publish_check_mode(request, record, published, err);
    if (r)
        return r;
    if (published && published->readonly != request->readonly)
        return error_set(err, E_EXISTS, "volume %s is published at %s %s", request->volume_id,
                         request->target_path, published->readonly ? "read-only" : "writable");
    return 0;
}

/* The mount point: a directory, or a file for a device node. */
static int publish_make_target(const struct publish_request *request, struct error *err)
{
    struct stat status;

    if (lstat(request->target_path, &status) == 0) {
        bool fits =
            request->block ? !S_ISDIR(status.st_mode) && !S_ISLNK(status.st_mode) : S_ISDIR(status.st_mode);
        return fits ? 0
                    : error_set(err, E_INVALID_ARGUMENT, "%s is taken by something that is not a %s",
                                request->target_path, request->block ? "file" : "directory");
    }
    if (!request->block)
        return io_make_dirs(request->target_path, 0750, err);
    _cleanup_fd_ int fd = open(request->target_path, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    return fd < 0 ? error_errno(err, errno, "cannot create %s", request->target_path) : 0;
}

/* Binding the bare directory would have the workload write to the host's own disk. */
static int publish_check_staging(struct node *node, const struct publish_request *request,
                                 const struct stage_record *record, struct error *err)
{
    _cleanup_mount_info_ struct mount_info mounted = {0};

    int r = mount_find(record->staging_path, &mounted, err);
    if (r && r != E_NOT_FOUND)
        return r;
    if (r || !attach_owns(&node->config, request->volume_id, mounted.device))
        return error_set(err, E_PRECONDITION,
                         "volume %s is not mounted at %s any more: unstage it, and stage it again",
                         request->volume_id, record->staging_path);
    return 0;
}

static int publish_mount(struct node *node, const struct publish_request *request,
                         const struct stage_record *record, struct error *err)
{
    _cleanup_attach_device_ struct attach_device device = {0};
    bool readonly = request->readonly || record->readonly;

    if (!request->block)
        return mount_bind(record->staging_path, request->target_path, readonly, err);
    int r = attach_find(&node->config, request->volume_id, &device, err);
    return r ? r : mount_bind(device.path, request->target_path, false, err);
}

/* *ret_there: it is mounted at its path already. Another's mount there is an error; ours that does not fit
 * (from before a device was made anew) is taken away. */
static int publish_look(struct node *node, const struct publish_request *request,
                        const struct stage_record *record, bool *ret_there, struct error *err)
{
    const struct mount_owner owner = attach_owner(&node->config, request->volume_id, record->block);
    _cleanup_mount_info_ struct mount_info mounted = {0};
    bool readonly = !record->block && (request->readonly || record->readonly);

    *ret_there = false;
    int r = mount_find(request->target_path, &mounted, NULL);
    if (r == E_NOT_FOUND)
        return 0;
    if (r)
        return error_set(err, r, "cannot tell what is mounted at %s", request->target_path);
    if (!publish_find(record, request->target_path) || !mount_is_of(&mounted, &owner))
        return error_set(err, E_PRECONDITION, "%s is taken: %s (%s) is mounted there", request->target_path,
                         mounted.source, mounted.fs_type);
    if (record->block) {
        _cleanup_attach_device_ struct attach_device device = {0};
        r = attach_find(&node->config, request->volume_id, &device, err);
        if (r)
            return r;
        *ret_there = str_equal(strrchr(mounted.root, '/'), strrchr(device.path, '/'));
    } else {
        *ret_there =
            attach_owns(&node->config, request->volume_id, mounted.device) && mounted.readonly == readonly;
    }
    return *ret_there ? 0 : mount_remove(request->target_path, &owner, err);
}

static int publish_note(struct node *node, const struct publish_request *request, struct stage_record *record,
                        struct error *err)
{
    if (publish_find(record, request->target_path))
        return 0;
    int r = stage_record_add_publish(record, request->target_path, request->readonly);
    if (r)
        return error_set(err, r, "volume %s is published at %d paths: no more", request->volume_id,
                         STAGE_PUBLISHES_MAX);
    return stage_record_save(node->config.state_dir, record, err);
}

static int publish_locked(struct node *node, const struct publish_request *request, struct error *err)
{
    _cleanup_stage_record_ struct stage_record record = {0};
    bool there = false;

    int r = stage_record_load(node->config.state_dir, request->volume_id, &record, err);
    if (r == E_NOT_FOUND)
        return error_set(err, E_PRECONDITION, "volume %s is not staged on this node", request->volume_id);
    if (!r)
        r = publish_check(request, &record, err);
    if (!r)
        r = attach_check_kept(&node->config, request->volume_id, record.publishes_count > 0, err);
    if (!r)
        r = publish_look(node, request, &record, &there, err);
    if (r || there)
        return r;
    r = request->block ? 0 : publish_check_staging(node, request, &record, err);
    if (!r)
        r = publish_make_target(request, err);
    if (!r)
        r = publish_note(node, request, &record, err);
    return r ? r : publish_mount(node, request, &record, err);
}

int publish_volume(struct node *node, const struct publish_request *request, struct error *err)
{
    int r = volume_lock_try(node->locks, request->volume_id, "NodePublishVolume", err);

    if (r)
        return r;
    r = publish_locked(node, request, err);
    volume_lock_release(node->locks, request->volume_id);
    return r;
}

/* ---- back ---- */

static int publish_remove_target(const char *target_path, struct error *err)
{
    if (unlink(target_path) == 0 || errno == ENOENT)
        return 0;
    if ((errno == EISDIR || errno == EPERM) && (rmdir(target_path) == 0 || errno == ENOENT))
        return 0;
    return error_errno(err, errno, "cannot remove %s", target_path);
}

void publish_forget(const char *target_path)
{
    struct stat status;

    if (rmdir(target_path) < 0 && lstat(target_path, &status) == 0 && S_ISREG(status.st_mode) &&
        !status.st_size)
        unlink(target_path);
}

static int publish_unpublish_locked(struct node *node, const char *volume_id, const char *target_path,
                                    struct error *err)
{
    _cleanup_stage_record_ struct stage_record record = {0};

    int r = stage_record_load(node->config.state_dir, volume_id, &record, err);
    if (r && r != E_NOT_FOUND)
        return r;
    if (r == E_NOT_FOUND || !publish_find(&record, target_path)) { /* whatever is there is not ours */
        error_done(err);
        return 0;
    }
    const struct mount_owner owner = attach_owner(&node->config, volume_id, record.block);
    r = mount_remove(target_path, &owner, err);
    if (!r)
        r = publish_remove_target(target_path, err);
    if (r)
        return r;
    stage_record_remove_publish(&record, target_path);
    return stage_record_save(node->config.state_dir, &record, err);
}

int publish_unpublish(struct node *node, const char *volume_id, const char *target_path, struct error *err)
{
    int r = volume_lock_try(node->locks, volume_id, "NodeUnpublishVolume", err);

    if (r)
        return r;
    r = publish_unpublish_locked(node, volume_id, target_path, err);
    volume_lock_release(node->locks, volume_id);
    return r;
}
