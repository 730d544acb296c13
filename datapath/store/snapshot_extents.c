/*
 * What a snapshot takes, and which ranges of it there are or have changed: looks at its data. Called from any
 * thread but a loop's; see store_internal.h for the locks.
 */
#include "common/strings.h"
#include "datapath/store/snapshot.h"
#include "datapath/store/store_internal.h"

static int open_ready(struct snapshot *snapshot, struct backend_image **ret, struct error *err)
{
    struct store *store = snapshot->store;
    struct snapshot_record record;
    int r = snapshot_check_ready(snapshot, err);

    if (r != E_OK)
        return r;
    snapshot_copy_record(snapshot, &record);
    r = store->ops->snapshot_open(store->backend, &record, ret, err);
    if (r != E_OK && atomic_load(&snapshot->state) == SNAPSHOT_GONE)
        return error_set(err, E_NOT_FOUND, "snapshot %s was deleted", snapshot->id);
    return r;
}

/* ---- space ---- */

int snapshot_used_bytes(struct snapshot *snapshot, uint64_t *ret_bytes, struct error *err)
{
    (void)err;
    pthread_rwlock_rdlock(&snapshot->store->index_lock);
    *ret_bytes = snapshot->promised_bytes;
    pthread_rwlock_unlock(&snapshot->store->index_lock);
    return E_OK;
}

int snapshot_exclusive_bytes(struct snapshot *snapshot, uint64_t *ret_bytes, struct error *err)
{
    const struct backend_ops *ops = snapshot->store->ops;
    struct backend_image *image;
    int r = open_ready(snapshot, &image, err);

    if (r != E_OK)
        return r;
    r = ops->image_exclusive(image, ret_bytes, err);
    ops->image_close(image);
    return r;
}

/* ---- extents ---- */

static int check_base(const struct snapshot_record *record, const struct snapshot_record *base,
                      struct error *err)
{
    if (!str_equal(record->source_volume_id, base->source_volume_id))
        return error_set(err, E_INVALID_ARGUMENT, "snapshots %s and %s are of different volumes", base->id,
                         record->id);
    if (base->sequence >= record->sequence)
        return error_set(err, E_INVALID_ARGUMENT, "snapshot %s is not older than %s", base->id, record->id);
    return E_OK;
}

int snapshot_extents(struct snapshot *snapshot, struct snapshot *base, uint64_t from_offset,
                     extent_visit visit, void *context, struct error *err)
{
    const struct backend_ops *ops = snapshot->store->ops;
    struct backend_image *image, *base_image = NULL;
    struct snapshot_record record, base_record;
    int r;

    snapshot_copy_record(snapshot, &record);
    if (base) {
        snapshot_copy_record(base, &base_record);
        r = check_base(&record, &base_record, err);
        if (r != E_OK)
            return r;
    }
    r = open_ready(snapshot, &image, err);
    if (r != E_OK)
        return r;
    if (base)
        r = open_ready(base, &base_image, err);
    if (r == E_OK)
        r = ops->image_extents(image, base_image, from_offset, record.size_bytes, visit, context, err);
    if (base_image)
        ops->image_close(base_image);
    ops->image_close(image);
    return r;
}
