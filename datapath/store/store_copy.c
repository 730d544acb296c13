/*
 * A volume made of another one, or of a snapshot: checking what is asked for, joining what is under way, and
 * what becomes of the copy. Called from any thread but a loop's; what becomes of it, from its thread.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "common/strings.h"
#include "datapath/store/copy.h"
#include "datapath/store/store_internal.h"

/* What it is made of, as of the moment of asking. */
struct source {
    struct volume *volume;
    struct snapshot *snapshot;
    struct volume_record record;        /* of the volume */
    struct snapshot_record snapshotted; /* of the snapshot */
    const char *id;
    uint64_t size_bytes;
    uint32_t block_size_bytes;
};

static int source_of_snapshot(struct source *source, struct error *err)
{
    int r = snapshot_check_readable(source->snapshot, err);

    if (r == E_OK)
        r = snapshot_check_lost(source->snapshot, err);
    if (r != E_OK)
        return r;
    if (atomic_load(&source->snapshot->state) != SNAPSHOT_READY)
        return error_set(err, E_PRECONDITION, "snapshot %s is not ready: %u %%", source->snapshot->id,
                         snapshot_progress_percent(source->snapshot));
    snapshot_copy_record(source->snapshot, &source->snapshotted);
    source->id = source->snapshot->id;
    source->size_bytes = source->snapshotted.size_bytes;
    source->block_size_bytes = source->snapshotted.block_size_bytes;
    return E_OK;
}

static int source_of_volume(struct source *source, struct error *err)
{
    int r = volume_check_readable(source->volume, err);

    if (r != E_OK)
        return r;
    if (volume_snapshot_record(source->volume, &source->record) < 0)
        return error_errno(err, ENOMEM, "cannot copy volume %s", source->volume->id);
    source->id = source->volume->id;
    source->size_bytes = source->record.size_bytes;
    source->block_size_bytes = source->record.block_size_bytes;
    return E_OK;
}

/* The record that the new volume is born with. */
static int born(struct store *store, const struct volume_record *spec, const struct source *source,
                struct volume_record *ret, struct error *err)
{
    struct volume_record wanted = *spec;
    int r;

    if (wanted.block_size_bytes == 0)
        wanted.block_size_bytes = source->block_size_bytes;
    str_copy(wanted.source_id, sizeof(wanted.source_id), source->id);
    r = volume_spec_check(store, &wanted, err);
    if (r != E_OK)
        return r;
    if (wanted.block_size_bytes != source->block_size_bytes)
        return error_set(err, E_INVALID_ARGUMENT,
                         "a copy has the block size of its source: %" PRIu32 ", not %" PRIu32,
                         source->block_size_bytes, wanted.block_size_bytes);
    r = volume_record_born(&wanted, ret, err);
    if (r == E_OK)
        ret->content = VOLUME_DATA;
    return r;
}

static int open_source(struct store *store, const struct source *source, struct backend_image **ret,
                       struct error *err)
{
    if (source->snapshot)
        return store->ops->snapshot_open(store->backend, &source->snapshotted, ret, err);
    return store->ops->image_open(store->backend, &source->record, ret, err);
}

static int enter(struct copy *copy, struct image *image, struct error *err)
{
    struct store *store = copy->store;
    int r;

    pthread_rwlock_wrlock(&store->index_lock);
    if (copy->from && (copy->from->deleting || atomic_load(&copy->from->state) != SNAPSHOT_READY))
        r = error_set(err, E_NOT_FOUND, "snapshot %s was deleted", copy->source_id);
    else
        r = copy_enter_locked(copy, image, err);
    pthread_rwlock_unlock(&store->index_lock);
    return r;
}

/* Takes over *record. */
static int begin_new(struct store *store, struct volume_record *record, const struct source *source,
                     struct copy **ret, struct error *err)
{
    struct backend_image *opened;
    struct image *image = NULL;
    struct copy *copy;
    int r = source->volume ? volume_image(source->volume, &image, err) : E_OK;

    if (r != E_OK)
        return r;
    if (record->size_bytes < source->size_bytes)
        return error_set(err, E_OUT_OF_RANGE,
                         "%" PRIu64 " bytes are less than the %" PRIu64 " of its source %s",
                         record->size_bytes, source->size_bytes, source->id);
    r = open_source(store, source, &opened, err);
    if (r != E_OK && source->volume && volume_deleted(source->volume))
        r = error_set(err, E_NOT_FOUND, "volume %s was deleted", source->id);
    if (r == E_OK)
        r = copy_new(store, record->id, source->id, opened, source->size_bytes, &copy, err);
    if (r != E_OK)
        return r;
    copy->record = *record;
    memset(record, 0, sizeof(*record));
    if (source->volume)
        copy->volume = volume_ref(source->volume);
    else
        copy->from = snapshot_ref(source->snapshot);
    r = store_promise(store, copy->record.size_bytes, err);
    if (r == E_OK) {
        r = enter(copy, image, err);
        if (r != E_OK)
            store_promise_release(store, copy->record.size_bytes);
    }
    if (r != E_OK) {
        copy_unref(copy);
        return r;
    }
    *ret = copy;
    copy_start(copy);
    return E_OK;
}

/* Under the id's lock. The copy is looked for first: its volume is there before it is gone from the list. */
static int begin_locked(struct store *store, struct volume_record *record, const struct source *source,
                        struct copy **ret, struct error *err)
{
    struct copy *copy = copy_find(store, record->id);
    struct volume *volume = store_volume_find(store, record->id);
    const char *differs;
    int r = E_OK;

    if (volume) {
        r = volume_check_same(volume, record, err);
        copy = copy_unref(copy);
    } else if (copy) {
        differs = volume_record_differs(&copy->record, record);
        if (differs)
            r = error_set(err, E_EXISTS, "volume %s is being made with another %s", record->id, differs);
    } else {
        r = begin_new(store, record, source, &copy, err);
    }
    volume_unref(volume);
    if (r != E_OK)
        copy_unref(copy);
    else
        *ret = copy;
    return r;
}

int store_copy_begin(struct store *store, const struct volume_record *spec, struct volume *volume,
                     struct snapshot *snapshot, struct copy **ret, struct error *err)
{
    struct source source = {.volume = volume, .snapshot = snapshot};
    struct volume_record record = {0};
    struct key_lock lock;
    int r;

    assert(!volume != !snapshot);
    r = volume ? source_of_volume(&source, err) : source_of_snapshot(&source, err);
    if (r == E_OK)
        r = born(store, spec, &source, &record, err);
    if (r == E_OK)
        r = key_lock_take(&store->ids, &lock, spec->id, "making", err);
    if (r == E_OK) {
        r = begin_locked(store, &record, &source, ret, err);
        key_lock_give(&lock);
    }
    volume_record_done(&record);
    volume_record_done(&source.record);
    return r;
}

bool store_copy_under_way(struct store *store, const char *volume_id)
{
    struct copy *copy = copy_find(store, volume_id);
    bool under_way = copy != NULL;

    copy_unref(copy);
    return under_way;
}

/* ---- what becomes of it ---- */

int store_volume_copied(struct copy *copy, struct error *err)
{
    struct store *store = copy->store;
    struct volume_record record;
    struct volume *volume;
    int r;

    if (volume_record_copy(&record, &copy->record) < 0)
        return error_errno(err, ENOMEM, "cannot make volume %s", copy->id);
    r = volume_new(store, &record, &volume, err);
    if (r != E_OK) {
        volume_record_done(&record);
        return r;
    }
    r = store->ops->copy_commit_volume(copy->backend, &volume->record, err);
    if (r == E_OK) {
        pthread_rwlock_wrlock(&store->index_lock);
        if (index_insert(&store->volumes, volume) < 0)
            r = error_errno(err, ENOMEM, "cannot make volume %s", copy->id);
        pthread_rwlock_unlock(&store->index_lock);
    }
    if (r != E_OK)
        volume_unref(volume);
    return r;
}

void store_volume_not_copied(struct copy *copy)
{
    store_promise_release(copy->store, copy->record.size_bytes);
}
