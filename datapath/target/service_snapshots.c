/* The Storage service's calls about snapshots. Worker threads; the copying behind one is the store's. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/size.h"
#include "common/strings.h"
#include "datapath/store/snapshot.h"
#include "datapath/target/server.h"
#include "datapath/target/storage_service.h"

#define LIST_SNAPSHOTS_MAX 1000

/* ---- finding ---- */

int service_check_snapshot_id(struct storage_service *storage, const char *snapshot_id, struct error *err)
{
    char server_id[ID_SERVER_MAX + 1];
    int code = id_snapshot_server(snapshot_id, server_id, err);
    if (code)
        return code;
    if (!str_equal(server_id, storage->server->settings->server_id))
        return error_set(err, E_INVALID_ARGUMENT, "snapshot %s is of storage server %s, and this one is %s",
                         snapshot_id, server_id, storage->server->settings->server_id);
    return 0;
}

int service_find_snapshot(struct storage_service *storage, const char *snapshot_id, struct snapshot **ret,
                          struct error *err)
{
    int code = service_check_snapshot_id(storage, snapshot_id, err);
    if (code)
        return code;
    struct snapshot *snapshot = store_snapshot_find(storage->server->store, snapshot_id);
    if (!snapshot)
        return error_set(err, E_NOT_FOUND, "there is no snapshot %s", snapshot_id);
    code = snapshot_check_readable(snapshot, err);
    if (code) {
        snapshot_unref(snapshot);
        return code;
    }
    *ret = snapshot;
    return 0;
}

/* ---- messages ---- */

static Mooring__Storage__V1__Snapshot *service_snapshot_message(const struct snapshot_record *record)
{
    Mooring__Storage__V1__Snapshot *message = malloc(sizeof(*message));
    if (!message)
        return NULL;
    mooring__storage__v1__snapshot__init(message);
    message->snapshot_id = strdup(record->id);
    message->name = strdup(record->name);
    message->source_volume_id = strdup(record->source_volume_id);
    message->group_id = strdup(record->group_id);
    message->size_bytes = record->size_bytes;
    message->block_size_bytes = record->block_size_bytes;
    message->created_unix_ns = record->created_unix_ns;
    message->provisional = record->provisional;
    message->held = record->held;
    if (!message->snapshot_id || !message->name || !message->source_volume_id || !message->group_id) {
        mooring__storage__v1__snapshot__free_unpacked(message, NULL);
        return NULL;
    }
    return message;
}

/* What takes a look at the data, or at the copying. */
static int service_snapshot_look(struct snapshot *snapshot, Mooring__Storage__V1__Snapshot *message,
                                 bool exclusive, struct error *err)
{
    if (snapshot_check_readable(snapshot, err) != 0) {
        message->unreadable = strdup(error_text(err));
        error_done(err);
        return message->unreadable ? 0 : error_errno(err, ENOMEM, "snapshot %s", message->snapshot_id);
    }
    if (snapshot_check_lost(snapshot, err) != 0) {
        message->lost = strdup(error_text(err));
        error_done(err);
        return message->lost ? 0 : error_errno(err, ENOMEM, "snapshot %s", message->snapshot_id);
    }
    message->progress_percent = snapshot_progress_percent(snapshot);
    message->ready = message->progress_percent == 100;
    message->cut_recorded = snapshot_cut_recorded(snapshot);
    if (!message->ready)
        return 0;
    int code = snapshot_used_bytes(snapshot, &message->used_bytes, err);
    return code || !exclusive ? code : snapshot_exclusive_bytes(snapshot, &message->exclusive_bytes, err);
}

Mooring__Storage__V1__Snapshot *service_snapshot_of(struct snapshot *snapshot, bool exclusive,
                                                    struct error *err)
{
    struct snapshot_record record;
    int code = snapshot_copy_record(snapshot, &record);
    Mooring__Storage__V1__Snapshot *message = code ? NULL : service_snapshot_message(&record);
    if (!message) {
        error_errno(err, ENOMEM, "snapshot");
        return NULL;
    }
    code = service_snapshot_look(snapshot, message, exclusive, err);
    if (code) {
        mooring__storage__v1__snapshot__free_unpacked(message, NULL);
        return NULL;
    }
    return message;
}

/* ---- create ---- */

/* The record that the request asks for. A member of a group has no name of its own. */
static int service_snapshot_spec(const Mooring__Storage__V1__CreateSnapshotRequest *create,
                                 struct snapshot_record *spec, struct error *err)
{
    bool group = create->group_id[0] != '\0';
    *spec = (struct snapshot_record){.provisional = group};
    if (group != (create->hold_id[0] != '\0'))
        return error_set(err, E_INVALID_ARGUMENT, "a snapshot of a group needs both group_id and hold_id");
    if (group && !id_group_valid(create->group_id))
        return error_set(err, E_INVALID_ARGUMENT, "\"%.64s\" is not a group's id", create->group_id);
    if (create->name[0] == '\0' || strlen(create->name) > ID_VOLUME_NAME_MAX)
        return error_set(err, E_INVALID_ARGUMENT, "a snapshot's name has 1 to %d bytes", ID_VOLUME_NAME_MAX);
    str_copy(spec->id, sizeof(spec->id), create->snapshot_id);
    str_copy(spec->name, sizeof(spec->name), group ? "" : create->name);
    str_copy(spec->group_id, sizeof(spec->group_id), create->group_id);
    return 0;
}

/* A repeat, after its source was deleted. */
static int service_snapshot_stands(struct storage_service *storage, const struct snapshot_record *spec,
                                   const char *source_id, struct snapshot **ret, struct error *err)
{
    struct snapshot_record record;
    struct snapshot *snapshot = store_snapshot_find(storage->server->store, spec->id);
    if (!snapshot)
        return E_NOT_FOUND;
    int code = snapshot_copy_record(snapshot, &record);
    if (code)
        code = error_errno(err, ENOMEM, "snapshot %s", spec->id);
    else if (!str_equal(record.name, spec->name) || !str_equal(record.group_id, spec->group_id) ||
             !str_equal(record.source_volume_id, source_id))
        code = error_set(err, E_EXISTS, "snapshot %s exists with another name, group or source", spec->id);
    else
        code = snapshot_check_lost(snapshot, err);
    if (code) {
        snapshot_unref(snapshot);
        return code;
    }
    error_done(err); /* that there is no such volume */
    *ret = snapshot;
    return 0;
}

/* A snapshot that stands already is a repeat only if this hold saw it made. */
static int service_check_hold(struct storage_service *storage, const char *hold_id,
                              const struct snapshot_record *spec, const struct volume *source, bool *ret_made,
                              struct error *err)
{
    struct hold_table *holds = &storage->server->holds;
    int code = hold_check(holds, hold_id, source, err);
    struct snapshot *standing = code ? NULL : store_snapshot_find(storage->server->store, spec->id);
    *ret_made = standing && hold_has_snapshot(holds, hold_id, standing);
    if (standing && !*ret_made)
        code = error_set(err, E_PRECONDITION, "snapshot %s was not made under hold %s: delete it first",
                         spec->id, hold_id);
    snapshot_unref(standing);
    return code;
}

static int service_create_held(struct storage_service *storage, const char *hold_id,
                               const struct snapshot_record *spec, struct volume *source,
                               struct snapshot **ret, struct error *err)
{
    struct snapshot *snapshot;
    bool made;
    int code = service_check_hold(storage, hold_id, spec, source, &made, err);
    if (code == 0)
        code = store_snapshot_create(storage->server->store, source, spec, &snapshot, err);
    if (code)
        return code;
    if (!made)
        code = hold_add_snapshot(&storage->server->holds, hold_id, snapshot, err);
    if (code) { /* its hold ended while it was cut */
        snapshot_unref(snapshot);
        _cleanup_error_ struct error undo = {0};
        if (store_snapshot_delete(storage->server->store, spec->id, &undo) != 0)
            log_warning("snapshot %s is left behind: %s", spec->id, error_text(&undo));
        return code;
    }
    *ret = snapshot;
    return 0;
}

/* The claim must be for it, and stays meanwhile: see storage.proto. */
static int service_create_claimed_snapshot(struct storage_service *storage,
                                           const Mooring__Storage__V1__CreateSnapshotRequest *create,
                                           const struct snapshot_record *spec, struct volume *source,
                                           struct snapshot **ret, struct error *err)
{
    bool group = spec->group_id[0] != '\0';
    enum name_kind kind = group ? NAME_GROUP : NAME_SNAPSHOT;
    pthread_mutex_t *lock;
    int code = service_name_lock(storage, kind, create->name, &lock, err);
    if (code)
        return code;
    code = service_check_claim(storage, kind, create->name, group ? spec->group_id : spec->id, err);
    if (code == 0 && group)
        code = service_create_held(storage, create->hold_id, spec, source, ret, err);
    else if (code == 0)
        code = store_snapshot_create(storage->server->store, source, spec, ret, err);
    pthread_mutex_unlock(lock);
    return code;
}

int service_create_snapshot(struct rpc_call *call, const ProtobufCMessage *request,
                            ProtobufCMessage *response, void *context, struct error *err)
{
    const Mooring__Storage__V1__CreateSnapshotRequest *create =
        (const Mooring__Storage__V1__CreateSnapshotRequest *)request;
    Mooring__Storage__V1__CreateSnapshotResponse *answer =
        (Mooring__Storage__V1__CreateSnapshotResponse *)response;
    struct storage_service *storage = context;
    struct snapshot_record spec;
    struct snapshot *snapshot = NULL;
    struct volume *source = NULL;
    (void)call;
    int code = service_check_snapshot_id(storage, create->snapshot_id, err);
    if (code == 0)
        code = service_snapshot_spec(create, &spec, err);
    if (code)
        return code;
    code = service_find_volume(storage, create->source_volume_id, &source, err);
    if (code == 0)
        code = service_create_claimed_snapshot(storage, create, &spec, source, &snapshot, err);
    else if (code == E_NOT_FOUND)
        code = service_snapshot_stands(storage, &spec, create->source_volume_id, &snapshot, err);
    volume_unref(source);
    if (code)
        return code;
    if (create->record_cut)
        code = snapshot_record_cut(snapshot, err);
    if (code == 0)
        answer->snapshot = service_snapshot_of(snapshot, false, err);
    snapshot_unref(snapshot);
    return answer->snapshot ? 0 : err->code;
}

/* The claim here ends with it, as a volume's. A member of a group has none of its own. */
static int service_delete_claimed_snapshot(struct storage_service *storage, const char *snapshot_id,
                                           struct error *err)
{
    struct store *store = storage->server->store;
    struct snapshot *snapshot = store_snapshot_find(store, snapshot_id);
    struct snapshot_record record = {0};
    if (snapshot)
        snapshot_copy_record(snapshot, &record);
    snapshot_unref(snapshot);
    if (!record.name[0])
        return store_snapshot_delete(store, snapshot_id, err);
    pthread_mutex_t *lock;
    int code = service_name_lock(storage, NAME_SNAPSHOT, record.name, &lock, err);
    if (code)
        return code;
    code = store_snapshot_delete(store, snapshot_id, err);
    if (code == 0)
        code = store_name_release(store, NAME_SNAPSHOT, record.name, snapshot_id, err);
    pthread_mutex_unlock(lock);
    return code;
}

int service_delete_snapshot(struct rpc_call *call, const ProtobufCMessage *request,
                            ProtobufCMessage *response, void *context, struct error *err)
{
    const Mooring__Storage__V1__DeleteSnapshotRequest *delete =
        (const Mooring__Storage__V1__DeleteSnapshotRequest *)request;
    struct storage_service *storage = context;
    (void)call;
    (void)response;
    int code = service_check_snapshot_id(storage, delete->snapshot_id, err);
    if (code)
        return code;
    if (delete->provisional_only)
        return store_snapshot_delete_provisional(storage->server->store, delete->snapshot_id, err);
    return service_delete_claimed_snapshot(storage, delete->snapshot_id, err);
}

/* ---- looking ---- */

int service_get_snapshot(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                         void *context, struct error *err)
{
    const Mooring__Storage__V1__GetSnapshotRequest *get =
        (const Mooring__Storage__V1__GetSnapshotRequest *)request;
    Mooring__Storage__V1__GetSnapshotResponse *answer = (Mooring__Storage__V1__GetSnapshotResponse *)response;
    struct snapshot *snapshot;
    (void)call;
    int code = service_find_snapshot(context, get->snapshot_id, &snapshot, err);
    if (code)
        return code;
    answer->snapshot = service_snapshot_of(snapshot, get->want_exclusive, err);
    snapshot_unref(snapshot);
    return answer->snapshot ? 0 : err->code;
}

static bool service_snapshot_listed(const struct snapshot_record *record,
                                    const Mooring__Storage__V1__ListSnapshotsRequest *list)
{
    if (list->source_volume_id[0] && !str_equal(list->source_volume_id, record->source_volume_id))
        return false;
    return list->group_id[0] ? str_equal(list->group_id, record->group_id)
                             : record->provisional == list->provisional;
}

/* The next one of the list after *record, which becomes its own; a reference, or NULL. */
static struct snapshot *service_next_listed(struct store *store,
                                            const Mooring__Storage__V1__ListSnapshotsRequest *list,
                                            struct snapshot_record *record)
{
    struct snapshot *snapshot = store_snapshot_next(store, record->id);
    while (snapshot && snapshot_copy_record(snapshot, record) == 0 &&
           !service_snapshot_listed(record, list)) {
        snapshot_unref(snapshot);
        snapshot = store_snapshot_next(store, record->id);
    }
    return snapshot;
}

static int service_list_fill_snapshots(struct store *store,
                                       const Mooring__Storage__V1__ListSnapshotsRequest *list, size_t max,
                                       Mooring__Storage__V1__ListSnapshotsResponse *answer, struct error *err)
{
    struct snapshot_record record;
    if (!str_copy(record.id, sizeof(record.id), list->after_snapshot_id))
        return error_set(err, E_INVALID_ARGUMENT, "after_snapshot_id is no snapshot's id");
    struct snapshot *snapshot = service_next_listed(store, list, &record);
    while (snapshot && answer->n_snapshots < max) {
        Mooring__Storage__V1__Snapshot *message = service_snapshot_of(snapshot, false, err);
        snapshot_unref(snapshot);
        if (message)
            answer->snapshots[answer->n_snapshots++] = message;
        else if (err->code != E_NOT_FOUND) /* deleted meanwhile */
            return err->code;
        error_done(err);
        snapshot = service_next_listed(store, list, &record);
    }
    answer->more = snapshot != NULL;
    snapshot_unref(snapshot);
    return 0;
}

int service_list_snapshots(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                           void *context, struct error *err)
{
    const Mooring__Storage__V1__ListSnapshotsRequest *list =
        (const Mooring__Storage__V1__ListSnapshotsRequest *)request;
    Mooring__Storage__V1__ListSnapshotsResponse *answer =
        (Mooring__Storage__V1__ListSnapshotsResponse *)response;
    const struct storage_service *storage = context;
    size_t max =
        list->max_entries ? MIN(list->max_entries, (uint32_t)LIST_SNAPSHOTS_MAX) : LIST_SNAPSHOTS_MAX;
    (void)call;
    answer->snapshots = calloc(max, sizeof(*answer->snapshots));
    if (!answer->snapshots)
        return error_errno(err, ENOMEM, "list of snapshots");
    return service_list_fill_snapshots(storage->server->store, list, max, answer, err);
}
