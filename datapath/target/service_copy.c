/*
 * CreateVolume out of a volume or a snapshot. The store copies on threads of its own and goes on when nobody
 * waits; callers wait in worker threads, a bounded number of them, and are told how far it is when their time
 * ends first.
 */
#include <errno.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "common/strings.h"
#include "common/time.h"
#include "datapath/store/snapshot.h"
#include "datapath/target/server.h"
#include "datapath/target/storage_service.h"

#define WAIT_SLICE_MS 50 /* how soon a cancelled call is noticed */
#define ANSWER_MS 200    /* of the caller's time, for the answer */

_Static_assert(COPY_WAITERS_MAX + JOB_WAITERS_MAX < SERVICE_THREADS, "some threads never wait");

/* ---- waiting ---- */

static int copy_wait_slices(struct copy *copy, struct rpc_call *call, struct error *err)
{
    int code;
    do {
        code = copy_wait(copy, time_now_ms() + WAIT_SLICE_MS, err);
    } while (code == E_DEADLINE && rpc_call_remaining_ms(call) > ANSWER_MS && !rpc_call_cancelled(call));
    return code;
}

static int service_wait_for_copy(struct storage_service *storage, struct copy *copy,
                                 const struct volume_record *spec, struct rpc_call *call, struct error *err)
{
    bool may_wait = atomic_fetch_add(&storage->copy_waiters, 1) < COPY_WAITERS_MAX;
    int code = may_wait ? copy_wait_slices(copy, call, err) : copy_wait(copy, 0, err);
    atomic_fetch_sub(&storage->copy_waiters, 1);
    if (code == E_DEADLINE)
        return error_set(err, E_BUSY, "volume %s is being made of %s, %u %% of it are there: ask again",
                         spec->id, spec->source_id, copy_progress_percent(copy));
    return code;
}

/* ---- the source ---- */

struct copy_source {
    struct volume *volume;
    struct snapshot *snapshot;
};

static int service_find_source(struct storage_service *storage,
                               const Mooring__Storage__V1__CreateVolumeRequest *create,
                               struct copy_source *source, struct error *err)
{
    if (create->source_snapshot_id[0])
        return service_find_snapshot(storage, create->source_snapshot_id, &source->snapshot, err);
    return service_find_volume(storage, create->source_volume_id, &source->volume, err);
}

static void service_source_done(struct copy_source *source)
{
    volume_unref(source->volume);
    snapshot_unref(source->snapshot);
}

/* A repeat, after the source was deleted: the volume that stands was made of it, or there is nothing. */
static int service_copy_stands(struct storage_service *storage, const struct volume_record *spec,
                               struct volume **ret, struct error *err)
{
    struct volume_record record = {0};
    struct volume *volume = store_volume_find(storage->server->store, spec->id);
    if (!volume)
        return E_NOT_FOUND;
    int code = volume_check_readable(volume, err);
    if (code == 0 && volume_snapshot_record(volume, &record) != 0)
        code = error_errno(err, ENOMEM, "volume %s", spec->id);
    if (code == 0 && (!str_equal(record.name, spec->name) || record.size_bytes != spec->size_bytes ||
                      !str_equal(record.source_id, spec->source_id)))
        code = error_set(err, E_EXISTS, "volume %s exists with another name, size or source", spec->id);
    volume_record_done(&record);
    if (code) {
        volume_unref(volume);
        return code;
    }
    error_done(err); /* that the source is not there */
    *ret = volume;
    return 0;
}

/* ---- the call ---- */

/* The claim must be for it, and stays meanwhile: see storage.proto. */
static int service_begin_copy(struct storage_service *storage, const struct volume_record *spec,
                              const struct copy_source *source, struct copy **ret, struct error *err)
{
    pthread_mutex_t *lock;
    int code = service_name_lock(storage, NAME_VOLUME, spec->name, &lock, err);
    if (code)
        return code;
    code = service_check_claim(storage, NAME_VOLUME, spec->name, spec->id, err);
    if (code == 0)
        code = store_copy_begin(storage->server->store, spec, source->volume, source->snapshot, ret, err);
    pthread_mutex_unlock(lock);
    return code;
}

static int service_copy(struct storage_service *storage, struct rpc_call *call,
                        const struct volume_record *spec, const struct copy_source *source,
                        struct volume **ret, struct error *err)
{
    struct copy *copy = NULL;
    int code = service_begin_copy(storage, spec, source, &copy, err);
    if (code)
        return code;
    if (copy)
        code = service_wait_for_copy(storage, copy, spec, call, err);
    copy_unref(copy);
    if (code)
        return code;
    *ret = store_volume_find(storage->server->store, spec->id);
    return *ret ? 0 : error_set(err, E_BUSY, "volume %s was deleted meanwhile", spec->id);
}

int service_create_copy(struct storage_service *storage, struct rpc_call *call,
                        const Mooring__Storage__V1__CreateVolumeRequest *create, struct volume_record *spec,
                        struct volume **ret, struct error *err)
{
    struct copy_source source = {0};
    if (create->source_snapshot_id[0] && create->source_volume_id[0])
        return error_set(err, E_INVALID_ARGUMENT,
                         "a volume is made of a snapshot or of a volume, not of both");
    spec->block_size_bytes = create->block_size_bytes; /* 0: the source's */
    int code = service_find_source(storage, create, &source, err);
    if (code && code != E_NOT_FOUND)
        return code;
    str_copy(spec->source_id, sizeof(spec->source_id),
             create->source_snapshot_id[0] ? create->source_snapshot_id : create->source_volume_id);
    code = code ? service_copy_stands(storage, spec, ret, err)
                : service_copy(storage, call, spec, &source, ret, err);
    service_source_done(&source);
    return code;
}
