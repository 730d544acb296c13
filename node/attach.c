/*
 * A volume's block device on this node: each call goes to the way that stage.json names (attach_way.h).
 * Called by stage, publish and the supervisor.
 */
#include "node/attach.h"

#include <errno.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "common/time.h"
#include "node/attach_device.h"
#include "node/attach_files.h"
#include "node/attach_way.h"
#include "node/iscsi_attach.h"
#include "node/stage_record.h"
#include "node/volume_lock.h"

static const struct {
    const char *name;
    const struct attach_way *way;
} ways[] = {
    {"fuse", &attach_device_way},
    {"ublk", &attach_device_way},
    {"iscsi", &iscsi_attach_way},
};

void attach_device_done(struct attach_device *device)
{
    free(device->path);
    free(device->problem);
    *device = (struct attach_device){0};
}

static const struct attach_way *attach_way_named(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
        if (str_equal(ways[i].name, name))
            return ways[i].way;
    }
    return NULL;
}

/* Where there is no record (or none that can be read) only a mooring-device can be left: it was the only way
 * when records did not say it. */
static const struct attach_way *attach_way_of(const struct node_config *config, const char *volume_id)
{
    _cleanup_stage_record_ struct stage_record record = {0};

    int r = stage_record_load(config->state_dir, volume_id, &record, NULL);
    const struct attach_way *way = r ? NULL : attach_way_named(record.attach);
    return way ? way : &attach_device_way;
}

int attach_start(const struct node_config *config, struct storage *storage, struct volume_locks *locks,
                 const struct storage_attachment *attachment, unsigned timeout_ms, struct attach_device *ret,
                 struct error *err)
{
    const struct attach_way *way = attach_way_of(config, attachment->volume_id);
    uint64_t deadline_ms = time_now_ms() + timeout_ms;

    int r = way->start(config, storage, attachment, deadline_ms, err);
    if (r)
        return r;
    if (!way->watch)
        volume_lock_lend(locks, attachment->volume_id);
    r = way->wait_ready(config, attachment->volume_id, deadline_ms, ret, err);
    if (!way->watch)
        volume_lock_reclaim(locks, attachment->volume_id);
    return r;
}

int attach_restart(const struct node_config *config, struct storage *storage, const char *volume_id,
                   struct error *err)
{
    const struct attach_way *way = attach_way_of(config, volume_id);

    return way->restart ? way->restart(config, storage, volume_id, err) : E_NOT_FOUND;
}

int attach_check_kept(const struct node_config *config, const char *volume_id, bool published,
                      struct error *err)
{
    return attach_way_of(config, volume_id)->check_kept(config, volume_id, published, err);
}

int attach_find(const struct node_config *config, const char *volume_id, struct attach_device *ret,
                struct error *err)
{
    return attach_way_of(config, volume_id)->look(config, volume_id, ret, err);
}

int attach_resize(const struct node_config *config, const char *volume_id, uint64_t size_bytes,
                  unsigned timeout_ms, struct error *err)
{
    return attach_way_of(config, volume_id)
        ->resize(config, volume_id, size_bytes, time_now_ms() + timeout_ms, err);
}

bool attach_has_process(const struct node_config *config, const char *volume_id)
{
    return attach_way_of(config, volume_id)->watch != NULL;
}

bool attach_has_served(const struct node_config *config, const char *volume_id)
{
    const struct attach_way *way = attach_way_of(config, volume_id);

    return way->has_served && way->has_served(config, volume_id);
}

int attach_watch(const struct node_config *config, const char *volume_id)
{
    const struct attach_way *way = attach_way_of(config, volume_id);

    return way->watch ? way->watch(config, volume_id) : -1;
}

int attach_watch_holder(const struct node_config *config, const char *volume_id)
{
    const struct attach_way *way = attach_way_of(config, volume_id);

    return way->watch_holder ? way->watch_holder(config, volume_id) : -1;
}

int attach_keep_holder(const struct node_config *config, const char *volume_id, struct error *err)
{
    const struct attach_way *way = attach_way_of(config, volume_id);

    return way->keep_holder ? way->keep_holder(config, volume_id, err) : 0;
}

bool attach_waits(const struct node_config *config, const char *volume_id)
{
    const struct attach_way *way = attach_way_of(config, volume_id);

    return way->waits && way->waits(config, volume_id);
}

int attach_tell_portals(const struct node_config *config, const struct storage_attachment *attachment,
                        struct error *err)
{
    const struct attach_way *way = attach_way_of(config, attachment->volume_id);

    return way->tell_portals ? way->tell_portals(config, attachment, err) : 0;
}

int attach_stop(const struct node_config *config, struct storage *storage, const char *volume_id,
                unsigned timeout_ms, struct error *err)
{
    return attach_way_of(config, volume_id)->end(config, storage, volume_id, timeout_ms, err);
}

int attach_kill(const struct node_config *config, const char *volume_id, struct error *err)
{
    return attach_way_of(config, volume_id)->kill(config, volume_id, err);
}

int attach_sweep(const struct node_config *config, const char *volume_id, struct error *err)
{
    return attach_way_of(config, volume_id)->sweep(config, volume_id, err);
}

void attach_adopt(const struct node_config *config, const char *volume_id)
{
    const struct attach_way *way = attach_way_of(config, volume_id);

    if (way->adopt)
        way->adopt(config, volume_id);
}

bool attach_owns(const struct node_config *config, const char *volume_id, dev_t number)
{
    return attach_way_of(config, volume_id)->owns(config, volume_id, number);
}

static bool attach_owner_owns(const struct mount_owner *owner, dev_t number)
{
    return attach_owns(owner->config, owner->volume_id, number);
}

struct mount_owner attach_owner(const struct node_config *config, const char *volume_id, bool block)
{
    return (struct mount_owner){attach_owner_owns, config, volume_id, block};
}

int attach_replace(const struct node_config *config, struct storage *storage, const char *volume_id,
                   unsigned timeout_ms, uint64_t *ret_stalled_ms, struct error *err)
{
    const struct attach_way *way = attach_way_of(config, volume_id);

    if (!way->replace)
        return error_set(err, E_PRECONDITION, "no process of ours serves volume %s", volume_id);
    return way->replace(config, storage, volume_id, time_now_ms() + timeout_ms, ret_stalled_ms, err);
}

int attach_status(const struct node_config *config, const char *volume_id, json_t **ret, struct error *err)
{
    _cleanup_attach_files_ struct attach_files paths = {0};
    int r = attach_files_init(&paths, config, volume_id, err);

    return r ? r : attach_files_load(&paths, "status.json", ret, err);
}
