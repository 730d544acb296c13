/* The Storage service's calls for snapshots of one moment over several servers: holds, and the commit. */
#include <errno.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "datapath/store/snapshot.h"
#include "datapath/target/holds.h"
#include "datapath/target/server.h"
#include "datapath/target/storage_service.h"

/* ---- holds ---- */

int service_hold_volumes(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                         void *context, struct error *err)
{
    const Mooring__Storage__V1__HoldVolumesRequest *hold =
        (const Mooring__Storage__V1__HoldVolumesRequest *)request;
    struct storage_service *storage = context;
    struct volume *volumes[HOLD_VOLUMES_MAX];
    size_t count = 0;
    int code = 0;
    (void)call;
    (void)response;
    if (hold->n_volume_ids > HOLD_VOLUMES_MAX)
        return error_set(err, E_EXHAUSTED, "a hold of %zu volumes: it is at most %d", hold->n_volume_ids,
                         HOLD_VOLUMES_MAX);
    while (code == 0 && count < hold->n_volume_ids) {
        code = service_find_volume(storage, hold->volume_ids[count], &volumes[count], err);
        count += code == 0;
    }
    if (code == 0)
        code = hold_begin(&storage->server->holds, hold->hold_id, volumes, count, hold->hold_ms, err);
    while (count > 0)
        volume_unref(volumes[--count]);
    return code;
}

int service_release_volumes(struct rpc_call *call, const ProtobufCMessage *request,
                            ProtobufCMessage *response, void *context, struct error *err)
{
    const Mooring__Storage__V1__ReleaseVolumesRequest *release =
        (const Mooring__Storage__V1__ReleaseVolumesRequest *)request;
    struct storage_service *storage = context;
    (void)call;
    (void)response;
    return hold_release(&storage->server->holds, release->hold_id, err);
}

/* ---- the group's snapshots here ---- */

/* Hand each to visit() until it returns other than 0, which is returned. */
static int service_group_visit(struct store *store, const char *group_id,
                               int (*visit)(struct snapshot *snapshot, const struct snapshot_record *record,
                                            void *context, struct error *err),
                               void *context, struct error *err)
{
    struct snapshot_record record = {0};
    struct snapshot *snapshot;
    int code = 0;
    while (code == 0 && (snapshot = store_snapshot_next(store, record.id))) {
        code = snapshot_copy_record(snapshot, &record);
        if (code)
            code = error_errno(err, -code, "group %.64s", group_id);
        else if (str_equal(record.group_id, group_id))
            code = visit(snapshot, &record, context, err);
        snapshot_unref(snapshot);
    }
    return code;
}

static int service_group_seen(struct snapshot *snapshot, const struct snapshot_record *record, void *context,
                              struct error *err)
{
    (void)snapshot;
    (void)record;
    (void)context;
    (void)err;
    return E_EXISTS;
}

bool service_group_has_snapshots(struct store *store, const char *group_id)
{
    return service_group_visit(store, group_id, service_group_seen, NULL, NULL) != 0;
}

/* ---- commit ---- */

static bool service_commit_names(const Mooring__Storage__V1__CommitSnapshotsRequest *commit, const char *id)
{
    for (size_t i = 0; i < commit->n_snapshot_ids; i++)
        if (str_equal(commit->snapshot_ids[i], id))
            return true;
    return false;
}

static int service_commit_check(struct snapshot *snapshot, const struct snapshot_record *record,
                                void *context, struct error *err)
{
    if (!service_commit_names(context, record->id))
        return error_set(err, E_PRECONDITION, "group %s has snapshot %s, too: delete it first",
                         record->group_id, record->id);
    if (!record->held)
        return error_set(err, E_PRECONDITION, "the hold that snapshot %s was made under did not stand",
                         record->id);
    unsigned percent = snapshot_progress_percent(snapshot);
    if (percent < 100)
        return error_set(err, E_PRECONDITION, "snapshot %s is not ready: %u %% are copied", record->id,
                         percent);
    return 0;
}

/* Each named one is there, and of this group. */
static int service_commit_find(struct storage_service *storage,
                               const Mooring__Storage__V1__CommitSnapshotsRequest *commit,
                               const char *snapshot_id, struct snapshot **ret, struct error *err)
{
    struct snapshot_record record;
    struct snapshot *snapshot;
    int code = service_find_snapshot(storage, snapshot_id, &snapshot, err);
    if (code)
        return code;
    code = snapshot_copy_record(snapshot, &record);
    if (code)
        code = error_errno(err, -code, "snapshot %s", snapshot_id);
    else if (!str_equal(record.group_id, commit->group_id))
        code = error_set(err, E_INVALID_ARGUMENT, "snapshot %s is not of group %.64s", snapshot_id,
                         commit->group_id);
    if (code)
        snapshot_unref(snapshot);
    else
        *ret = snapshot;
    return code;
}

static int service_commit_all(struct snapshot **snapshots, size_t count,
                              Mooring__Storage__V1__CommitSnapshotsResponse *answer, struct error *err)
{
    for (size_t i = 0; i < count; i++) {
        int code = snapshot_commit(snapshots[i], err);
        if (code)
            return code;
    }
    answer->snapshots = calloc(count + 1, sizeof(*answer->snapshots));
    if (!answer->snapshots)
        return error_errno(err, ENOMEM, "group");
    for (size_t i = 0; i < count; i++) {
        answer->snapshots[i] = service_snapshot_of(snapshots[i], false, err);
        if (!answer->snapshots[i])
            return err->code;
        answer->n_snapshots = i + 1;
    }
    return 0;
}

int service_commit_snapshots(struct rpc_call *call, const ProtobufCMessage *request,
                             ProtobufCMessage *response, void *context, struct error *err)
{
    const Mooring__Storage__V1__CommitSnapshotsRequest *commit =
        (const Mooring__Storage__V1__CommitSnapshotsRequest *)request;
    struct storage_service *storage = context;
    struct snapshot *snapshots[HOLD_VOLUMES_MAX];
    size_t count = 0;
    int code = 0;
    (void)call;
    if (!id_group_valid(commit->group_id) || commit->n_snapshot_ids > HOLD_VOLUMES_MAX)
        return error_set(err, E_INVALID_ARGUMENT, "\"%.64s\" is not a group's id, or it has too many",
                         commit->group_id);
    while (code == 0 && count < commit->n_snapshot_ids) {
        code = service_commit_find(storage, commit, commit->snapshot_ids[count], &snapshots[count], err);
        count += code == 0;
    }
    if (code == 0)
        code = service_group_visit(storage->server->store, commit->group_id, service_commit_check,
                                   (void *)(uintptr_t)commit, err);
    if (code == 0)
        code = service_commit_all(snapshots, count, (Mooring__Storage__V1__CommitSnapshotsResponse *)response,
                                  err);
    while (count > 0)
        snapshot_unref(snapshots[--count]);
    return code;
}
