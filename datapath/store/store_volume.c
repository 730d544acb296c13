/*
 * The life of volumes: which there are, making and deleting them. Called from any thread but a loop's; see
 * store_internal.h for the locks.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/strings.h"
#include "datapath/store/copy.h"
#include "datapath/store/scrub_internal.h"
#include "datapath/store/store_internal.h"

/* ---- looking ---- */

struct volume *store_volume_find(struct store *store, const char *volume_id)
{
    struct volume *volume;

    pthread_rwlock_rdlock(&store->index_lock);
    volume = index_find(&store->volumes, volume_id);
    if (volume)
        volume_ref(volume);
    pthread_rwlock_unlock(&store->index_lock);
    return volume;
}

struct volume *store_volume_next(struct store *store, const char *after_id)
{
    struct volume *volume = NULL;
    size_t position;
    bool found;

    pthread_rwlock_rdlock(&store->index_lock);
    position = index_position(&store->volumes, after_id, &found);
    if (found)
        position++;
    if (position < store->volumes.count)
        volume = volume_ref(store->volumes.items[position]);
    pthread_rwlock_unlock(&store->index_lock);
    return volume;
}

/* ---- making ---- */

int volume_spec_check(const struct store *store, const struct volume_record *spec, struct error *err)
{
    char server[ID_SERVER_MAX + 1];
    int r;

    r = id_volume_server(spec->id, server, err);
    if (r != E_OK)
        return r;
    if (!str_equal(server, store->server_id))
        return error_set(err, E_INVALID_ARGUMENT, "volume %s is not of server %s", spec->id,
                         store->server_id);
    if (!store_text_valid(spec->name))
        return error_set(err, E_INVALID_ARGUMENT, "a volume's name is 1 to %d bytes of UTF-8",
                         ID_VOLUME_NAME_MAX);
    if (spec->parameters_count > VOLUME_PARAMETERS_MAX)
        return error_set(err, E_INVALID_ARGUMENT, "a volume has at most %d parameters",
                         VOLUME_PARAMETERS_MAX);
    if (spec->block_size_bytes != 512 && spec->block_size_bytes != 4096)
        return error_set(err, E_INVALID_ARGUMENT, "a block size of %" PRIu32 ": it is 512 or 4096",
                         spec->block_size_bytes);
    if (spec->block_size_bytes < store->ops->block_size_min(store->backend))
        return error_set(err, E_INVALID_ARGUMENT,
                         "a block size of %" PRIu32 " is finer than the pool's disk can write: %" PRIu32,
                         spec->block_size_bytes, store->ops->block_size_min(store->backend));
    if (spec->size_bytes == 0 || spec->size_bytes % spec->block_size_bytes != 0 ||
        spec->size_bytes > INT64_MAX)
        return error_set(err, E_OUT_OF_RANGE,
                         "a size of %" PRIu64 " bytes: it must be a multiple of %" PRIu32 " above 0",
                         spec->size_bytes, spec->block_size_bytes);
    return E_OK;
}

static int parameter_compare(const void *a, const void *b)
{
    return strcmp(((const struct volume_parameter *)a)->key, ((const struct volume_parameter *)b)->key);
}

int volume_record_born(const struct volume_record *spec, struct volume_record *ret, struct error *err)
{
    struct volume_record wanted = *spec;

    wanted.attachments = NULL;
    wanted.attachments_count = 0;
    if (volume_record_copy(ret, &wanted) < 0)
        return error_errno(err, ENOMEM, "cannot create volume %s", spec->id);
    ret->created_unix_s = (int64_t)time(NULL);
    ret->record_generation = 1;
    ret->epoch_last = 0;
    ret->content = VOLUME_BLANK;
    ret->formatting_epoch = ret->formatting_generation = 0;
    ret->write_failed = false;
    if (ret->parameters_count > 0)
        qsort(ret->parameters, ret->parameters_count, sizeof(*ret->parameters), parameter_compare);
    return E_OK;
}

static bool parameters_equal(const struct volume_record *a, const struct volume_record *b)
{
    if (a->parameters_count != b->parameters_count)
        return false;
    for (size_t i = 0; i < a->parameters_count; i++) {
        if (!str_equal(a->parameters[i].key, b->parameters[i].key) ||
            !str_equal(a->parameters[i].value, b->parameters[i].value))
            return false;
    }
    return true;
}

const char *volume_record_differs(const struct volume_record *standing, const struct volume_record *wanted)
{
    if (!str_equal(standing->name, wanted->name))
        return "name";
    if (standing->size_bytes != wanted->size_bytes)
        return "size";
    if (standing->block_size_bytes != wanted->block_size_bytes)
        return "block size";
    if (standing->thick != wanted->thick)
        return "provisioning (thick or thin)";
    if (!str_equal(standing->source_id, wanted->source_id))
        return "source";
    return parameters_equal(standing, wanted) ? NULL : "parameters";
}

int volume_check_same(struct volume *volume, const struct volume_record *wanted, struct error *err)
{
    const char *differs;
    int r = volume_check_readable(volume, err);

    if (r != E_OK)
        return r;
    pthread_mutex_lock(&volume->view_lock);
    differs = volume_record_differs(&volume->record, wanted);
    pthread_mutex_unlock(&volume->view_lock);
    if (differs)
        return error_set(err, E_EXISTS, "volume %s exists with another %s", wanted->id, differs);
    return E_OK;
}

/* Under the id's lock: nobody else makes or deletes this one. */
static int create_new(struct store *store, struct volume_record *record, struct volume **ret,
                      struct error *err)
{
    struct volume *volume;
    int r;

    r = store_promise(store, record->size_bytes, err);
    if (r != E_OK)
        return r;
    r = volume_new(store, record, &volume, err);
    if (r != E_OK) {
        store_promise_release(store, record->size_bytes);
        return r;
    }
    r = store->ops->volume_create(store->backend, &volume->record, err);
    if (r == E_OK) {
        pthread_rwlock_wrlock(&store->index_lock);
        if (index_insert(&store->volumes, volume) < 0)
            r = error_errno(err, ENOMEM, "cannot create volume %s", volume->id);
        pthread_rwlock_unlock(&store->index_lock);
    }
    if (r != E_OK) {
        store_promise_release(store, volume->size_bytes);
        volume_unref(volume);
        return r;
    }
    *ret = volume_ref(volume);
    return E_OK;
}

int store_volume_create(struct store *store, const struct volume_record *spec, struct volume **ret,
                        struct error *err)
{
    struct volume_record record = {0};
    struct volume *volume = NULL;
    struct key_lock lock;
    struct copy *copy;
    int r;

    r = volume_spec_check(store, spec, err);
    if (r == E_OK)
        r = volume_record_born(spec, &record, err);
    if (r != E_OK)
        return r;
    record.source_id[0] = '\0';
    r = key_lock_take(&store->ids, &lock, spec->id, "making", err);
    if (r != E_OK) {
        volume_record_done(&record);
        return r;
    }
    copy = copy_find(store, spec->id); /* first: what it makes is found before it is gone from there */
    volume = store_volume_find(store, spec->id);
    if (volume)
        r = volume_check_same(volume, &record, err);
    else if (copy)
        r = error_set(err, E_BUSY, "volume %s is being made of %s: retry later", spec->id, copy->source_id);
    else
        r = create_new(store, &record, &volume, err);
    copy_unref(copy);
    key_lock_give(&lock);
    volume_record_done(&record);
    if (r != E_OK) {
        volume_unref(volume);
        return r;
    }
    *ret = volume;
    return E_OK;
}

/* ---- deleting ---- */

static int delete_found(struct store *store, struct volume *volume, struct error *err)
{
    int r = volume_check_readable(volume, err);

    pthread_mutex_lock(&volume->record_lock);
    if (r == E_OK && volume->record.attachments_count > 0)
        r = error_set(err, E_PRECONDITION, "volume %s is attached to node %s: detach it first", volume->id,
                      volume->record.attachments[0].node_id);
    else if (r == E_OK)
        r = store->ops->volume_delete(store->backend, volume->id, err);
    if (r == E_OK)
        atomic_store(&volume->deleted, true);
    pthread_mutex_unlock(&volume->record_lock);
    if (r != E_OK)
        return r;
    pthread_rwlock_wrlock(&store->index_lock);
    index_remove(&store->volumes, volume->id);
    store->promised_bytes -= volume_size_bytes(volume);
    pthread_rwlock_unlock(&store->index_lock);
    scrub_forget(store, volume->id);
    volume_unref(volume); /* the index's */
    return E_OK;
}

int store_volume_delete(struct store *store, const char *volume_id, struct error *err)
{
    struct volume *volume = NULL;
    struct key_lock lock;
    int r = key_lock_take(&store->ids, &lock, volume_id, "deleting", err);

    if (r != E_OK)
        return r;
    /* Under the lock: no new one begins. The copy's thread does not take it. */
    r = copy_stop(store, volume_id, err);
    if (r == E_OK)
        volume = store_volume_find(store, volume_id);
    if (volume) {
        r = volume_operation_begin(volume, "delete", err);
        if (r == E_OK) {
            r = delete_found(store, volume, err);
            volume_operation_end(volume);
        }
        volume_unref(volume);
    }
    key_lock_give(&lock);
    return r;
}
