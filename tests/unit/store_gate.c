/* Copies that wait before they share anything, and what is done meanwhile: see store_gate.h. */
#include "tests/unit/store_gate.h"

#include <pthread.h>
#include <stdint.h>

#include "common/strings.h"
#include "datapath/store/store_internal.h"

static struct {
    pthread_mutex_t lock;
    pthread_cond_t opened;
    bool closed;
    const struct backend_ops *real;
    struct backend_ops ops;
} gate = {.lock = PTHREAD_MUTEX_INITIALIZER, .opened = PTHREAD_COND_INITIALIZER};

static int share(struct backend_copy *copy, uint64_t offset, uint64_t end)
{
    pthread_mutex_lock(&gate.lock);
    while (gate.closed)
        pthread_cond_wait(&gate.opened, &gate.lock);
    pthread_mutex_unlock(&gate.lock);
    return gate.real->copy_share(copy, offset, end);
}

static void gate_close(struct store *store)
{
    gate.real = store->ops;
    gate.ops = *store->ops;
    gate.ops.copy_share = share;
    gate.closed = true;
    store->ops = &gate.ops;
}

static void gate_open(struct store *store, struct snapshot *snapshot)
{
    pthread_mutex_lock(&gate.lock);
    gate.closed = false;
    pthread_cond_broadcast(&gate.opened);
    pthread_mutex_unlock(&gate.lock);
    if (snapshot)
        snapshot_wait(snapshot, UINT64_MAX, NULL); /* it has done with the gate */
    store->ops = gate.real;
}

static int create(struct store *store, struct volume *volume, const struct snapshot_record *spec,
                  struct snapshot **ret, struct error *err)
{
    int r = store_snapshot_create(store, volume, spec, ret, err);

    if (r != E_CORRUPT)
        return r;
    if (err)
        error_done(err);
    r = store_snapshot_delete(store, spec->id, err);
    return r == E_OK ? store_snapshot_create(store, volume, spec, ret, err) : r;
}

int gate_snapshot(struct store *store, const char *volume_id, const struct snapshot_record *spec,
                  struct error *err)
{
    return gate_snapshot_during(store, volume_id, spec, NULL, NULL, err);
}

int gate_snapshot_during(struct store *store, const char *volume_id, const struct snapshot_record *spec,
                         void (*meanwhile)(void *context), void *context, struct error *err)
{
    struct volume *volume = store_volume_find(store, volume_id);
    struct snapshot *snapshot = NULL;
    int r;

    if (!volume)
        return error_set(err, E_NOT_FOUND, "the volume is not there");
    gate_close(store);
    r = create(store, volume, spec, &snapshot, err);
    if (r == E_OK)
        r = snapshot_record_cut(snapshot, err);
    if (r == E_OK && meanwhile)
        meanwhile(context);
    gate_open(store, snapshot);
    if (r == E_OK)
        r = snapshot_wait(snapshot, UINT64_MAX, err);
    snapshot_unref(snapshot);
    volume_unref(volume);
    return r;
}

int gate_record_alone(struct store *store, const char *volume_id, const struct snapshot_record *spec,
                      struct error *err)
{
    struct volume *volume = store_volume_find(store, volume_id);
    struct snapshot_record record = *spec;

    if (!volume)
        return error_set(err, E_NOT_FOUND, "the volume is not there");
    str_copy(record.source_volume_id, sizeof(record.source_volume_id), volume_id);
    str_copy(record.lost, sizeof(record.lost), "a test");
    record.size_bytes = volume_size_bytes(volume);
    record.block_size_bytes = volume->block_size_bytes;
    record.created_unix_ns = 1;
    record.sequence = 1;
    volume_unref(volume);
    return store->ops->snapshot_record_cut(store->backend, &record, err);
}
