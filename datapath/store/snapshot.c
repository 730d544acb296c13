/*
 * Snapshots: which there are, making and deleting them, and how their records change. Called from any thread
 * but a loop's; what becomes of a copy, from its thread. See store_internal.h for the locks.
 */
#include "datapath/store/snapshot.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/strings.h"
#include "datapath/store/copy.h"
#include "datapath/store/scrub_internal.h"
#include "datapath/store/store_internal.h"

/* ---- life ---- */

static struct snapshot *snapshot_new(struct store *store, const struct snapshot_record *record)
{
    struct snapshot *snapshot = calloc(1, sizeof(*snapshot));

    if (!snapshot)
        return NULL;
    snapshot->store = store;
    atomic_init(&snapshot->refs, 1);
    atomic_init(&snapshot->state, SNAPSHOT_COPYING);
    str_copy(snapshot->id, sizeof(snapshot->id), record->id);
    snapshot->record = *record;
    pthread_mutex_init(&snapshot->record_lock, NULL);
    pthread_mutex_init(&snapshot->view_lock, NULL);
    return snapshot;
}

struct snapshot *snapshot_ref(struct snapshot *snapshot)
{
    atomic_fetch_add(&snapshot->refs, 1);
    return snapshot;
}

struct snapshot *snapshot_unref(struct snapshot *snapshot)
{
    if (!snapshot || atomic_fetch_sub(&snapshot->refs, 1) != 1)
        return NULL;
    copy_unref(snapshot->copy);
    free(snapshot->unreadable);
    pthread_mutex_destroy(&snapshot->record_lock);
    pthread_mutex_destroy(&snapshot->view_lock);
    free(snapshot);
    return NULL;
}

int snapshot_load(struct store *store, struct snapshot_record *record, uint64_t allocated_bytes,
                  const char *unreadable, struct error *err)
{
    struct snapshot *snapshot = snapshot_new(store, record);

    if (snapshot && unreadable)
        snapshot->unreadable = strdup(unreadable);
    if (!snapshot || (unreadable && !snapshot->unreadable) || index_append(&store->snapshots, snapshot) < 0) {
        snapshot_unref(snapshot);
        return error_errno(err, ENOMEM, "cannot load the pool");
    }
    atomic_init(&snapshot->state, record->lost[0] != '\0' ? SNAPSHOT_LOST : SNAPSHOT_READY);
    atomic_init(&snapshot->cut_recorded, true);
    snapshot->promised_bytes = allocated_bytes;
    store->promised_bytes += allocated_bytes;
    return E_OK;
}

/* ---- looking ---- */

struct snapshot *store_snapshot_find(struct store *store, const char *snapshot_id)
{
    struct snapshot *snapshot;

    pthread_rwlock_rdlock(&store->index_lock);
    snapshot = index_find(&store->snapshots, snapshot_id);
    if (snapshot)
        snapshot_ref(snapshot);
    pthread_rwlock_unlock(&store->index_lock);
    return snapshot;
}

struct snapshot *store_snapshot_next(struct store *store, const char *after_id)
{
    struct snapshot *snapshot = NULL;
    size_t position;
    bool found;

    pthread_rwlock_rdlock(&store->index_lock);
    position = index_position(&store->snapshots, after_id, &found);
    if (found)
        position++;
    if (position < store->snapshots.count)
        snapshot = snapshot_ref(store->snapshots.items[position]);
    pthread_rwlock_unlock(&store->index_lock);
    return snapshot;
}

int snapshot_copy_record(struct snapshot *snapshot, struct snapshot_record *ret)
{
    pthread_mutex_lock(&snapshot->view_lock);
    *ret = snapshot->record;
    pthread_mutex_unlock(&snapshot->view_lock);
    return 0;
}

unsigned snapshot_progress_percent(const struct snapshot *snapshot)
{
    enum snapshot_state state = atomic_load(&snapshot->state);
    unsigned percent;

    if (state == SNAPSHOT_LOST)
        return 0;
    if (state == SNAPSHOT_READY || !snapshot->copy)
        return 100;
    percent = copy_progress_percent(snapshot->copy);
    return percent < 100 ? percent : 99; /* whole, but not durable yet */
}

int snapshot_check_readable(const struct snapshot *snapshot, struct error *err)
{
    if (!snapshot->unreadable)
        return E_OK;
    return error_set(err, E_CORRUPT,
                     "%s: this snapshot alone is not served until its files are put right and mooring-target "
                     "is started again",
                     snapshot->unreadable);
}

int snapshot_check_ready(struct snapshot *snapshot, struct error *err)
{
    switch (atomic_load(&snapshot->state)) {
    case SNAPSHOT_COPYING:
        return error_set(err, E_PRECONDITION, "snapshot %s is not ready: %u %%", snapshot->id,
                         snapshot_progress_percent(snapshot));
    case SNAPSHOT_READY:
        return snapshot_check_readable(snapshot, err);
    case SNAPSHOT_LOST:
        return snapshot_check_lost(snapshot, err);
    case SNAPSHOT_GONE:
        break;
    }
    return error_set(err, E_NOT_FOUND, "snapshot %s was deleted", snapshot->id);
}

int snapshot_wait(struct snapshot *snapshot, uint64_t until_ms, struct error *err)
{
    return snapshot->copy ? copy_wait(snapshot->copy, until_ms, err) : snapshot_check_lost(snapshot, err);
}

/* ---- making ---- */

static int check_spec(const struct store *store, const struct snapshot_record *spec, struct error *err)
{
    char server[ID_SERVER_MAX + 1];
    int r = id_snapshot_server(spec->id, server, err);

    if (r != E_OK)
        return r;
    if (!str_equal(server, store->server_id))
        return error_set(err, E_INVALID_ARGUMENT, "snapshot %s is not of server %s", spec->id,
                         store->server_id);
    if (spec->group_id[0] != '\0' && !id_group_valid(spec->group_id))
        return error_set(err, E_INVALID_ARGUMENT, "\"%s\" is not a group id", spec->group_id);
    if ((spec->name[0] != '\0' || spec->group_id[0] == '\0') && !store_text_valid(spec->name))
        return error_set(err, E_INVALID_ARGUMENT, "a snapshot's name is 1 to %d bytes of UTF-8",
                         ID_VOLUME_NAME_MAX);
    return E_OK;
}

static int check_same(struct snapshot *snapshot, const struct snapshot_record *spec, const char *volume_id,
                      struct error *err)
{
    struct snapshot_record standing;
    const char *differs = NULL;
    int r = snapshot_check_readable(snapshot, err);

    if (r != E_OK)
        return r;
    snapshot_copy_record(snapshot, &standing);
    if (!str_equal(standing.source_volume_id, volume_id))
        differs = "source";
    else if (!str_equal(standing.name, spec->name))
        differs = "name";
    else if (!str_equal(standing.group_id, spec->group_id))
        differs = "group";
    if (differs)
        return error_set(err, E_EXISTS, "snapshot %s exists with another %s", spec->id, differs);
    return snapshot_check_lost(snapshot, err);
}

static int64_t unix_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static uint64_t next_sequence_locked(const struct store *store, const char *volume_id)
{
    uint64_t last = 0;

    for (size_t i = 0; i < store->snapshots.count; i++) {
        const struct snapshot *other = store->snapshots.items[i];

        if (str_equal(other->record.source_volume_id, volume_id) && other->record.sequence > last)
            last = other->record.sequence;
    }
    return last + 1;
}

/* The moment. All in one step, so that the sequence is that of the cuts. */
static int cut(struct store *store, struct snapshot *snapshot, struct image *image, struct error *err)
{
    int r;

    pthread_rwlock_wrlock(&store->index_lock);
    snapshot->record.sequence = next_sequence_locked(store, snapshot->record.source_volume_id);
    if (index_insert(&store->snapshots, snapshot) < 0) {
        r = error_errno(err, ENOMEM, "cannot make snapshot %s", snapshot->id);
    } else {
        snapshot->record.created_unix_ns = unix_ns();
        r = copy_enter_locked(snapshot->copy, image, err);
        if (r != E_OK)
            index_remove(&store->snapshots, snapshot->id);
    }
    pthread_rwlock_unlock(&store->index_lock);
    return r;
}

/* Its copy, with references both ways until the copy has ended. */
static int attach_copy(struct snapshot *snapshot, struct volume *volume, struct error *err)
{
    struct store *store = snapshot->store;
    struct volume_record record;
    struct backend_image *source;
    int r;

    if (volume_snapshot_record(volume, &record) < 0)
        return error_errno(err, ENOMEM, "cannot make snapshot %s", snapshot->id);
    r = store->ops->image_open(store->backend, &record, &source, err);
    if (r != E_OK && volume_deleted(volume))
        r = error_set(err, E_NOT_FOUND, "volume %s was deleted", volume->id);
    snapshot->record.size_bytes = record.size_bytes;
    snapshot->record.block_size_bytes = record.block_size_bytes;
    volume_record_done(&record);
    if (r == E_OK)
        r = store->ops->image_used(source, &snapshot->promised_bytes, err);
    if (r == E_OK)
        r = copy_new(store, snapshot->id, volume->id, source, snapshot->record.size_bytes, &snapshot->copy,
                     err);
    if (r != E_OK)
        return r;
    snapshot->copy->volume = volume_ref(volume);
    snapshot->copy->made = snapshot_ref(snapshot);
    return E_OK;
}

static int create_new(struct store *store, struct volume *volume, const struct snapshot_record *spec,
                      struct snapshot **ret, struct error *err)
{
    struct snapshot_record record = {.provisional = spec->group_id[0] != '\0'};
    struct snapshot *snapshot;
    struct image *image;
    int r = volume_image(volume, &image, err);

    if (r != E_OK)
        return r;
    memcpy(record.id, spec->id, sizeof(record.id));
    memcpy(record.name, spec->name, sizeof(record.name));
    memcpy(record.group_id, spec->group_id, sizeof(record.group_id));
    str_copy(record.source_volume_id, sizeof(record.source_volume_id), volume->id);
    snapshot = snapshot_new(store, &record);
    if (!snapshot)
        return error_errno(err, ENOMEM, "cannot make snapshot %s", spec->id);
    r = attach_copy(snapshot, volume, err);
    if (r == E_OK)
        r = store_promise(store, snapshot->promised_bytes, err);
    if (r == E_OK) {
        r = cut(store, snapshot, image, err);
        if (r != E_OK)
            store_promise_release(store, snapshot->promised_bytes);
    }
    if (r != E_OK) {
        if (snapshot->copy)
            snapshot->copy->made = snapshot_unref(snapshot->copy->made);
        snapshot_unref(snapshot);
        return r;
    }
    *ret = snapshot_ref(snapshot); /* the index has the first one */
    copy_start(snapshot->copy);
    return E_OK;
}

int store_snapshot_create(struct store *store, struct volume *source, const struct snapshot_record *spec,
                          struct snapshot **ret, struct error *err)
{
    struct snapshot *snapshot = NULL;
    struct key_lock lock;
    int r;

    r = check_spec(store, spec, err);
    if (r == E_OK)
        r = volume_check_readable(source, err);
    if (r == E_OK)
        r = key_lock_take(&store->ids, &lock, spec->id, "making", err);
    if (r != E_OK)
        return r;
    snapshot = store_snapshot_find(store, spec->id);
    r = snapshot ? check_same(snapshot, spec, source->id, err)
                 : create_new(store, source, spec, &snapshot, err);
    key_lock_give(&lock);
    if (r != E_OK) {
        snapshot_unref(snapshot);
        return r;
    }
    *ret = snapshot;
    return E_OK;
}

int snapshot_copied(struct copy *copy, struct error *err)
{
    struct snapshot *snapshot = copy->made;
    struct store *store = snapshot->store;
    uint64_t used_bytes;
    int r;

    pthread_mutex_lock(&snapshot->record_lock); /* what is recorded meanwhile comes after */
    r = store->ops->copy_commit_snapshot(copy->backend, &snapshot->record, &used_bytes, err);
    if (r == E_OK) {
        pthread_rwlock_wrlock(&store->index_lock);
        store->promised_bytes += used_bytes - snapshot->promised_bytes;
        snapshot->promised_bytes = used_bytes;
        pthread_rwlock_unlock(&store->index_lock);
        snapshot->unsettled = false;
        atomic_store(&snapshot->state, SNAPSHOT_READY);
    }
    pthread_mutex_unlock(&snapshot->record_lock);
    return r;
}

void snapshot_gone(struct snapshot *snapshot)
{
    struct store *store = snapshot->store;

    atomic_store(&snapshot->state, SNAPSHOT_GONE);
    pthread_rwlock_wrlock(&store->index_lock);
    index_remove(&store->snapshots, snapshot->id);
    store->promised_bytes -= snapshot->promised_bytes;
    pthread_rwlock_unlock(&store->index_lock);
    scrub_forget(store, snapshot->id);
    snapshot_unref(snapshot); /* the index's */
}

/* ---- deleting ---- */

static int mark_deleting(struct snapshot *snapshot, struct error *err)
{
    struct store *store = snapshot->store;
    bool read;

    pthread_rwlock_wrlock(&store->index_lock);
    read = copy_reads_locked(store, snapshot->id);
    snapshot->deleting = !read;
    pthread_rwlock_unlock(&store->index_lock);
    if (read)
        return error_set(err, E_PRECONDITION, "a volume is being made of snapshot %s: delete it afterwards",
                         snapshot->id);
    return E_OK;
}

static int delete_found(struct snapshot *snapshot, bool provisional_only, struct error *err)
{
    struct store *store = snapshot->store;
    int r = snapshot_check_readable(snapshot, err);

    if (r == E_OK)
        r = mark_deleting(snapshot, err);
    if (r != E_OK)
        return r;
    pthread_mutex_lock(&snapshot->record_lock);
    if (provisional_only && !snapshot->record.provisional)
        r = error_set(err, E_PRECONDITION, "snapshot %s is not provisional", snapshot->id);
    else
        r = store->ops->snapshot_delete(store->backend, snapshot->id, err);
    if (r == E_OK)
        snapshot_gone(snapshot);
    pthread_mutex_unlock(&snapshot->record_lock);
    if (r != E_OK) {
        pthread_rwlock_wrlock(&store->index_lock);
        snapshot->deleting = false;
        pthread_rwlock_unlock(&store->index_lock);
    }
    return r;
}

static int delete_by_id(struct store *store, const char *snapshot_id, bool provisional_only,
                        struct error *err)
{
    struct snapshot *snapshot = NULL;
    struct key_lock lock;
    int r = key_lock_take(&store->ids, &lock, snapshot_id, "deleting", err);

    if (r != E_OK)
        return r;
    /* Under the lock: no new one begins. The copy's thread does not take it. */
    r = copy_stop(store, snapshot_id, err);
    if (r == E_OK)
        snapshot = store_snapshot_find(store, snapshot_id);
    if (snapshot)
        r = delete_found(snapshot, provisional_only, err);
    snapshot_unref(snapshot);
    key_lock_give(&lock);
    return r;
}

int store_snapshot_delete(struct store *store, const char *snapshot_id, struct error *err)
{
    return delete_by_id(store, snapshot_id, false, err);
}

int store_snapshot_delete_provisional(struct store *store, const char *snapshot_id, struct error *err)
{
    return delete_by_id(store, snapshot_id, true, err);
}

/* ---- the record ---- */

/* As volume.c's: put the old record back before anything is decided on it. */
static int save_locked(struct snapshot *snapshot, const struct snapshot_record *record, struct error *err)
{
    struct store *store = snapshot->store;
    int r = E_OK;

    if (snapshot->unsettled) {
        r = store->ops->snapshot_save(store->backend, &snapshot->record, err);
        snapshot->unsettled = r != E_OK;
    }
    if (r != E_OK)
        return r;
    r = store->ops->snapshot_save(store->backend, record, err);
    if (r == E_OK)
        return r;
    snapshot->unsettled = store->ops->snapshot_save(store->backend, &snapshot->record, NULL) != E_OK;
    return r;
}

/* Nothing else ever changes after the cut, and is read without a lock. */
static void record_replace_locked(struct snapshot *snapshot, const struct snapshot_record *record)
{
    pthread_mutex_lock(&snapshot->view_lock);
    snapshot->record.held = record->held;
    snapshot->record.provisional = record->provisional;
    pthread_mutex_unlock(&snapshot->view_lock);
}

int snapshot_mark_held(struct snapshot *snapshot, struct error *err)
{
    struct snapshot_record record;
    int r = E_OK;

    pthread_mutex_lock(&snapshot->record_lock);
    record = snapshot->record;
    record.held = true;
    if (atomic_load(&snapshot->state) != SNAPSHOT_COPYING) { /* else it becomes durable with the rest */
        r = snapshot_check_ready(snapshot, err);
        if (r == E_OK && !snapshot->record.held)
            r = save_locked(snapshot, &record, err);
    }
    if (r == E_OK)
        record_replace_locked(snapshot, &record);
    pthread_mutex_unlock(&snapshot->record_lock);
    return r;
}

int snapshot_commit(struct snapshot *snapshot, struct error *err)
{
    struct snapshot_record record;
    int r;

    pthread_mutex_lock(&snapshot->record_lock);
    record = snapshot->record;
    record.provisional = false;
    r = snapshot_check_ready(snapshot, err);
    if (r == E_OK && !record.held)
        r = error_set(err, E_PRECONDITION,
                      "snapshot %s is not known to be of one moment with the rest of its group",
                      snapshot->id);
    if (r == E_OK && snapshot->record.provisional)
        r = save_locked(snapshot, &record, err);
    if (r == E_OK)
        record_replace_locked(snapshot, &record);
    pthread_mutex_unlock(&snapshot->record_lock);
    return r;
}
