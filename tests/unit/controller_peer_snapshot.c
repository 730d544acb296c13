/* Snapshots of the controller's tests' storage server. Run on the rpc server's threads. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/strings.h"
#include "tests/unit/controller_peer_parts.h"

struct peer_snapshot *peer_snapshot(struct peer *peer, const char *id)
{
    for (size_t i = 0; i < PEER_ITEMS_MAX; i++) {
        if (str_equal(peer->snapshots[i].id, id))
            return &peer->snapshots[i];
    }
    return NULL;
}

size_t peer_count_snapshots(struct peer *peer)
{
    size_t count = 0;

    for (size_t i = 0; i < PEER_ITEMS_MAX; i++)
        count += peer->snapshots[i].id[0] != '\0';
    return count;
}

bool peer_keeps_claim(struct peer *peer, const char *id)
{
    for (size_t i = 0; i < PEER_ITEMS_MAX; i++) {
        const struct peer_snapshot *one = &peer->snapshots[i];

        if (one->id[0] != '\0' && (str_equal(one->id, id) || str_equal(one->group, id)))
            return true;
    }
    return false;
}

static Mooring__Storage__V1__Snapshot *describe(const struct peer_snapshot *snapshot)
{
    Mooring__Storage__V1__Snapshot *answer = malloc(sizeof(*answer));

    mooring__storage__v1__snapshot__init(answer);
    answer->snapshot_id = strdup(snapshot->id);
    answer->name = strdup(snapshot->name);
    answer->source_volume_id = strdup(snapshot->source);
    answer->group_id = strdup(snapshot->group);
    answer->size_bytes = snapshot->size_bytes;
    answer->block_size_bytes = 4096;
    answer->created_unix_ns = 1700000000500000000;
    answer->ready = snapshot->not_ready == 0 && !snapshot->lost;
    answer->cut_recorded = snapshot->recorded;
    if (snapshot->lost)
        answer->lost = strdup("it is lost");
    answer->held = snapshot->held;
    answer->provisional = snapshot->provisional;
    return answer;
}

static bool claimed(struct peer *peer, const Mooring__Storage__V1__CreateSnapshotRequest *request)
{
    bool group = *request->group_id != '\0';
    const struct peer_name *claim = peer_name_of(peer,
                                                 group ? MOORING__STORAGE__V1__NAME_KIND__NAME_GROUP
                                                       : MOORING__STORAGE__V1__NAME_KIND__NAME_SNAPSHOT,
                                                 request->name);

    return claim && str_equal(claim->volume_id, group ? request->group_id : request->snapshot_id);
}

/* One that stands, and what a caller asks for who is going to answer with it. */
static int repeat(struct peer *peer, const Mooring__Storage__V1__CreateSnapshotRequest *request,
                  struct peer_snapshot *snapshot, ProtobufCMessage *response, struct error *err)
{
    if (snapshot->lost)
        return peer_end(peer, error_set(err, E_CORRUPT, "it is lost"));
    peer->records += request->record_cut;
    snapshot->recorded |= request->record_cut && !peer->records_none;
    ((Mooring__Storage__V1__CreateSnapshotResponse *)response)->snapshot = describe(snapshot);
    return peer_end(peer, E_OK);
}

HANDLER(peer_create_snapshot)
{
    const Mooring__Storage__V1__CreateSnapshotRequest *request =
        (const Mooring__Storage__V1__CreateSnapshotRequest *)message;
    struct peer *peer = context;
    struct peer_snapshot *snapshot;
    int r = peer_begin(peer, "CreateSnapshot", err);

    (void)call;
    if (r != E_OK)
        return r;
    if (!claimed(peer, request))
        return peer_end(peer, error_set(err, E_BUSY, "the name is not claimed for %s", request->snapshot_id));
    if (!peer_volume(peer, request->source_volume_id))
        return peer_end(peer, error_set(err, E_NOT_FOUND, "no volume %s", request->source_volume_id));
    if (*request->group_id && !str_equal(peer->hold, request->hold_id))
        return peer_end(peer, error_set(err, E_PRECONDITION, "the hold does not stand"));
    if ((snapshot = peer_snapshot(peer, request->snapshot_id)))
        return repeat(peer, request, snapshot, response, err);
    snapshot = peer_snapshot(peer, "");
    assert(snapshot);
    *snapshot = (struct peer_snapshot){.size_bytes = peer_volume(peer, request->source_volume_id)->size_bytes,
                                       .not_ready = peer->not_ready,
                                       .provisional = *request->group_id != '\0'};
    str_copy(snapshot->id, sizeof(snapshot->id), request->snapshot_id);
    str_copy(snapshot->name, sizeof(snapshot->name), *request->group_id ? "" : request->name);
    str_copy(snapshot->source, sizeof(snapshot->source), request->source_volume_id);
    str_copy(snapshot->group, sizeof(snapshot->group), request->group_id);
    str_copy(snapshot->hold, sizeof(snapshot->hold), request->hold_id);
    ((Mooring__Storage__V1__CreateSnapshotResponse *)response)->snapshot = describe(snapshot);
    return peer_end(peer, E_OK);
}

HANDLER(peer_delete_snapshot)
{
    const char *id = ((const Mooring__Storage__V1__DeleteSnapshotRequest *)message)->snapshot_id;
    struct peer *peer = context;
    struct peer_snapshot *snapshot;
    int r = peer_begin(peer, "DeleteSnapshot", err);

    (void)call, (void)response;
    if (r != E_OK)
        return r;
    snapshot = peer_snapshot(peer, id);
    if (snapshot && !snapshot->provisional &&
        ((const Mooring__Storage__V1__DeleteSnapshotRequest *)message)->provisional_only)
        return peer_end(peer, error_set(err, E_PRECONDITION, "not provisional"));
    if (snapshot)
        snapshot->id[0] = '\0';
    return peer_end(peer, E_OK);
}

HANDLER(peer_get_snapshot)
{
    const char *id = ((const Mooring__Storage__V1__GetSnapshotRequest *)message)->snapshot_id;
    struct peer *peer = context;
    struct peer_snapshot *snapshot;
    int r = peer_begin(peer, "GetSnapshot", err);

    (void)call;
    if (r != E_OK)
        return r;
    snapshot = peer_snapshot(peer, id);
    if (!snapshot)
        return peer_end(peer, error_set(err, E_NOT_FOUND, "no snapshot %s", id));
    snapshot->not_ready -= snapshot->not_ready > 0 && snapshot->not_ready < 1000000;
    ((Mooring__Storage__V1__GetSnapshotResponse *)response)->snapshot = describe(snapshot);
    return peer_end(peer, E_OK);
}

static bool wanted(const struct peer_snapshot *one, const Mooring__Storage__V1__ListSnapshotsRequest *request,
                   const char *after)
{
    if (one->id[0] == '\0' || strcmp(one->id, after) <= 0)
        return false;
    if (*request->group_id)
        return str_equal(one->group, request->group_id);
    return !one->provisional &&
           (!*request->source_volume_id || str_equal(one->source, request->source_volume_id));
}

static const struct peer_snapshot *
next(struct peer *peer, const Mooring__Storage__V1__ListSnapshotsRequest *request, const char *after)
{
    const struct peer_snapshot *found = NULL;

    for (size_t i = 0; i < PEER_ITEMS_MAX; i++) {
        const struct peer_snapshot *one = &peer->snapshots[i];

        if (wanted(one, request, after) && (!found || strcmp(one->id, found->id) < 0))
            found = one;
    }
    return found;
}

HANDLER(peer_list_snapshots)
{
    const Mooring__Storage__V1__ListSnapshotsRequest *request =
        (const Mooring__Storage__V1__ListSnapshotsRequest *)message;
    Mooring__Storage__V1__ListSnapshotsResponse *answer =
        (Mooring__Storage__V1__ListSnapshotsResponse *)response;
    struct peer *peer = context;
    const char *after = request->after_snapshot_id;
    const struct peer_snapshot *one;
    int r = peer_begin(peer, "ListSnapshots", err);

    (void)call;
    if (r != E_OK)
        return r;
    answer->snapshots = calloc(3, sizeof(*answer->snapshots)); /* a server's own limit */
    while ((one = next(peer, request, after)) && answer->n_snapshots < 3 &&
           answer->n_snapshots < request->max_entries) {
        answer->snapshots[answer->n_snapshots++] = describe(one);
        after = one->id;
    }
    answer->more = one != NULL;
    return peer_end(peer, E_OK);
}

/* ---- groups ---- */

HANDLER(peer_hold_volumes)
{
    const Mooring__Storage__V1__HoldVolumesRequest *request =
        (const Mooring__Storage__V1__HoldVolumesRequest *)message;
    struct peer *peer = context;
    int r = peer_begin(peer, "HoldVolumes", err);

    (void)call, (void)response;
    if (r != E_OK)
        return r;
    for (size_t i = 0; i < request->n_volume_ids; i++) {
        if (!peer_volume(peer, request->volume_ids[i]))
            return peer_end(peer, error_set(err, E_NOT_FOUND, "no volume %s", request->volume_ids[i]));
    }
    if (peer->hold[0] != '\0')
        return peer_end(peer, error_set(err, E_BUSY, "held by another"));
    str_copy(peer->hold, sizeof(peer->hold), request->hold_id);
    peer->holds++;
    return peer_end(peer, E_OK);
}

HANDLER(peer_release_volumes)
{
    const char *hold_id = ((const Mooring__Storage__V1__ReleaseVolumesRequest *)message)->hold_id;
    struct peer *peer = context;
    int r = peer_begin(peer, "ReleaseVolumes", err);

    (void)call, (void)response;
    if (r != E_OK)
        return r;
    if (!str_equal(peer->hold, hold_id))
        return peer_end(peer, error_set(err, E_PRECONDITION, "the hold has ended"));
    for (size_t i = 0; i < PEER_ITEMS_MAX; i++)
        peer->snapshots[i].held |= str_equal(peer->snapshots[i].hold, hold_id);
    peer->hold[0] = '\0';
    return peer_end(peer, E_OK);
}

HANDLER(peer_commit_snapshots)
{
    const Mooring__Storage__V1__CommitSnapshotsRequest *request =
        (const Mooring__Storage__V1__CommitSnapshotsRequest *)message;
    struct peer *peer = context;
    int r = peer_begin(peer, "CommitSnapshots", err);

    (void)call, (void)response;
    if (r != E_OK)
        return r;
    for (size_t i = 0; i < request->n_snapshot_ids; i++) {
        struct peer_snapshot *one = peer_snapshot(peer, request->snapshot_ids[i]);

        if (!one || !one->held || one->not_ready > 0 || !str_equal(one->group, request->group_id))
            return peer_end(peer, error_set(err, E_PRECONDITION, "not ready and held"));
        one->provisional = false;
    }
    return peer_end(peer, E_OK);
}

/* Two messages of one extent each; the hook is asked again, as "second extent", between them. */
HANDLER(peer_list_extents)
{
    Mooring__Storage__V1__ListExtentsResponse answer = MOORING__STORAGE__V1__LIST_EXTENTS_RESPONSE__INIT;
    Mooring__Storage__V1__Extent extent = MOORING__STORAGE__V1__EXTENT__INIT;
    Mooring__Storage__V1__Extent *list[] = {&extent};
    struct peer *peer = context;
    int r = peer_begin(peer, "ListExtents", err);

    (void)message, (void)response;
    if (r != E_OK)
        return r;
    peer->stream_left_ms = rpc_call_remaining_ms(call);
    peer_end(peer, E_OK);
    answer.extents = list;
    answer.n_extents = 1;
    extent.length = 4096;
    r = rpc_call_send(call, &answer.base, err);
    if (r == E_OK)
        r = peer_begin(peer, "second extent", err);
    if (r != E_OK)
        return r;
    peer_end(peer, E_OK);
    extent.offset = 8192;
    return rpc_call_send(call, &answer.base, err);
}
