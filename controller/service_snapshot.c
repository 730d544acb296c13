/* The calls of CSI's Controller service about snapshots. Own nothing; run by the service's worker threads. */
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "controller/list.h"
#include "controller/request.h"
#include "controller/response.h"
#include "controller/service_parts.h"
#include "controller/snapshot.h"

int service_fill_snapshot(struct controller *controller, const Mooring__Storage__V1__Snapshot *snapshot,
                          Csi__V1__Snapshot **ret, struct error *err)
{
    struct storage_server *server = NULL;
    json_t *topology = NULL;
    int r;

    if (storage_of_snapshot(controller->storage, snapshot->snapshot_id, &server, NULL) == E_OK)
        topology = storage_server_topology(server);
    r = response_snapshot(snapshot, topology, ret);
    json_decref(topology);
    return service_memory(r, err);
}

SERVICE_HANDLER(service_create_snapshot)
{
    Csi__V1__CreateSnapshotResponse *answer = (Csi__V1__CreateSnapshotResponse *)response;
    Mooring__Storage__V1__Snapshot *snapshot = NULL;
    struct snapshot_request request;
    int r = request_snapshot((const Csi__V1__CreateSnapshotRequest *)message, &request, err);

    if (r == E_OK)
        r = snapshot_create(context, &request, service_deadline(call), &snapshot, err);
    if (r == E_OK) {
        r = service_fill_snapshot(context, snapshot, &answer->snapshot, err);
        protobuf_c_message_free_unpacked(&snapshot->base, NULL);
    }
    request_snapshot_done(&request);
    return r;
}

SERVICE_HANDLER(service_delete_snapshot)
{
    const char *snapshot_id = ((const Csi__V1__DeleteSnapshotRequest *)message)->snapshot_id;
    int r = request_string("snapshot_id", snapshot_id, err);

    (void)response;
    return r == E_OK ? snapshot_delete(context, snapshot_id, service_deadline(call), err) : r;
}

SERVICE_HANDLER(service_get_snapshot)
{
    const char *snapshot_id = ((const Csi__V1__GetSnapshotRequest *)message)->snapshot_id;
    Csi__V1__GetSnapshotResponse *answer = (Csi__V1__GetSnapshotResponse *)response;
    Mooring__Storage__V1__Snapshot *snapshot = NULL;
    int r = request_string("snapshot_id", snapshot_id, err);

    if (r == E_OK)
        r = snapshot_find(context, snapshot_id, service_deadline(call), &snapshot, err);
    if (r != E_OK)
        return r;
    r = service_fill_snapshot(context, snapshot, &answer->snapshot, err);
    protobuf_c_message_free_unpacked(&snapshot->base, NULL);
    return r;
}

/* ---- list ---- */

static int add_entry(struct controller *controller, const Mooring__Storage__V1__Snapshot *snapshot,
                     Csi__V1__ListSnapshotsResponse *answer, struct error *err)
{
    Csi__V1__ListSnapshotsResponse__Entry *entry = malloc(sizeof(*entry));

    if (!entry)
        return service_memory(-ENOMEM, err);
    csi__v1__list_snapshots_response__entry__init(entry);
    answer->entries[answer->n_entries++] = entry;
    return service_fill_snapshot(controller, snapshot, &entry->snapshot, err);
}

/* By its id: an entry, or none when it is proven not to be there, or is of another volume. */
static int list_one(struct controller *controller, const Csi__V1__ListSnapshotsRequest *request,
                    uint64_t deadline_ms, Csi__V1__ListSnapshotsResponse *answer, struct error *err)
{
    _cleanup_error_ struct error why = {0};
    Mooring__Storage__V1__Snapshot *snapshot = NULL;
    int r = snapshot_find(controller, request->snapshot_id, deadline_ms, &snapshot, &why);

    if (r == E_NOT_FOUND)
        return E_OK;
    if (r != E_OK) {
        error_move(err, &why);
        return r;
    }
    answer->entries = calloc(1, sizeof(*answer->entries));
    if (!answer->entries)
        r = service_memory(-ENOMEM, err);
    else if (*request->source_volume_id == '\0' ||
             str_equal(request->source_volume_id, snapshot->source_volume_id))
        r = add_entry(controller, snapshot, answer, err);
    protobuf_c_message_free_unpacked(&snapshot->base, NULL);
    return r;
}

static int fill_page(struct controller *controller, const struct list_page *page,
                     Csi__V1__ListSnapshotsResponse *answer, struct error *err)
{
    int r = E_OK;

    answer->entries = calloc(page->count + 1, sizeof(*answer->entries));
    if (!answer->entries)
        return service_memory(-ENOMEM, err);
    for (size_t i = 0; r == E_OK && i < page->count; i++)
        r = add_entry(controller, (const Mooring__Storage__V1__Snapshot *)page->items[i], answer, err);
    if (r == E_OK && page->next_token[0] != '\0') {
        answer->next_token = strdup(page->next_token);
        r = service_memory(answer->next_token ? E_OK : -ENOMEM, err);
    }
    return r;
}

/* The server that a list by volume has to ask. *ret_empty: nobody can have a snapshot of such a volume. */
static int list_server(struct controller *controller, const char *source_volume_id,
                       struct storage_server **ret, bool *ret_empty, struct error *err)
{
    _cleanup_error_ struct error why = {0};
    int r;

    if (*source_volume_id == '\0')
        return E_OK;
    r = storage_of_volume(controller->storage, source_volume_id, ret, &why);
    *ret_empty = r == E_NOT_FOUND;
    if (r == E_OK || *ret_empty)
        return E_OK;
    error_move(err, &why);
    return r;
}

SERVICE_HANDLER(service_list_snapshots)
{
    const Csi__V1__ListSnapshotsRequest *request = (const Csi__V1__ListSnapshotsRequest *)message;
    Csi__V1__ListSnapshotsResponse *answer = (Csi__V1__ListSnapshotsResponse *)response;
    struct list_request list = {.kind = LIST_SNAPSHOTS,
                                .token = request->starting_token,
                                .source_volume_id = request->source_volume_id};
    char after[ID_SNAPSHOT_MAX + 1];
    struct list_page page = {0};
    bool empty = false;
    int r;

    if (request->max_entries < 0)
        return error_set(err, E_INVALID_ARGUMENT, "max_entries is negative");
    list.max_entries = (uint32_t)request->max_entries;
    r = list_token_parse(LIST_SNAPSHOTS, request->starting_token, after, err);
    if (r == E_OK && *request->snapshot_id != '\0')
        return list_one(context, request, service_deadline(call), answer, err);
    if (r == E_OK)
        r = list_server(context, request->source_volume_id, &list.server, &empty, err);
    if (r != E_OK || empty)
        return r;
    r = list_page_get(context, &list, service_deadline(call), &page, err);
    if (r == E_OK)
        r = fill_page(context, &page, answer, err);
    list_page_done(&page);
    return r;
}
