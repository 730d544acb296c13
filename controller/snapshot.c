/*
 * CreateSnapshot: claim the name on all servers, then cut on the volume's server; DeleteSnapshot. Owns
 * nothing across calls; run by worker threads. A repeat finds the claim and finishes or returns what it made.
 */
#include "controller/snapshot.h"

#include <errno.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "common/strings.h"
#include "common/time.h"
#include "controller/claim.h"
#include "controller/placement.h"

#define CREATE_ROUNDS 4
#define WAIT_FIRST_MS 5
#define WAIT_MAX_MS 500
#define WAIT_MARGIN_MS 200
#define RECORD_MS                                                                                            \
    UINT64_C(1000) /* for what is recorded before an answer: a sync, of a disk that may be busy */

struct create {
    struct controller *controller;
    const struct snapshot_request *request;
    struct storage_server *home; /* the source's */
    uint64_t deadline_ms;
    char candidate_id[CLAIM_ID_MAX + 1]; /* ours, where no claim stands yet */
};

/* ---- wait ---- */

uint64_t snapshot_wait_until(uint64_t deadline_ms)
{
    return deadline_ms > WAIT_MARGIN_MS ? deadline_ms - WAIT_MARGIN_MS : 0;
}

static void pause_for(uint64_t ms)
{
    struct timespec pause = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};

    nanosleep(&pause, NULL);
}

int snapshot_check_lost(const Mooring__Storage__V1__Snapshot *snapshot, struct error *err)
{
    return *snapshot->lost == '\0' ? E_OK : error_set(err, E_CORRUPT, "%s", snapshot->lost);
}

int snapshot_wait(struct storage_server *server, Mooring__Storage__V1__Snapshot **snapshot, uint64_t until_ms,
                  struct error *err)
{
    uint64_t pause_ms = WAIT_FIRST_MS;
    int r = snapshot_check_lost(*snapshot, err);

    while (r == E_OK && !(*snapshot)->ready && time_now_ms() + pause_ms < until_ms) {
        _cleanup_error_ struct error why = {0};
        Mooring__Storage__V1__Snapshot *now = NULL;

        pause_for(pause_ms);
        pause_ms = MIN(pause_ms * 2, WAIT_MAX_MS);
        r = storage_get_snapshot(server, (*snapshot)->snapshot_id, until_ms, &now, &why);
        if (r == E_NOT_FOUND)
            return error_set(err, E_BUSY, "snapshot %s was lost before it was whole; retry",
                             (*snapshot)->snapshot_id);
        if (r != E_OK) {
            error_move(err, &why);
            return r;
        }
        protobuf_c_message_free_unpacked(&(*snapshot)->base, NULL);
        *snapshot = now;
        r = snapshot_check_lost(now, err);
    }
    return r;
}

/* ---- create ---- */

/* The snapshot is where its volume is: can it be where it is wished? */
static int check_wish(const struct create *create, struct error *err)
{
    const struct topology_wish *wish = &create->request->wish;
    json_t *topology;
    bool fits;
    int r;

    if (!wish->requisite)
        return E_OK;
    r = storage_get_server(create->home, create->deadline_ms, NULL, err);
    if (r != E_OK)
        return r;
    topology = storage_server_topology(create->home);
    fits = placement_fits(topology, wish);
    json_decref(topology);
    if (fits)
        return E_OK;
    return error_set(err, E_EXHAUSTED,
                     "a snapshot of volume %s is on storage server %s, which is not in the topology that was "
                     "asked for",
                     create->request->source_volume_id, storage_server_config(create->home)->id);
}

/* CSI: a snapshot of this name is there; is it of the same volume? */
static int check_existing(const struct create *create, const Mooring__Storage__V1__Snapshot *snapshot,
                          struct error *err)
{
    const struct snapshot_request *request = create->request;

    if (!str_equal(snapshot->name, request->name))
        return error_set(err, -EPROTO, "snapshot %s has name \"%s\", but is claimed for \"%s\"",
                         snapshot->snapshot_id, snapshot->name, request->name);
    if (str_equal(snapshot->source_volume_id, request->source_volume_id))
        return snapshot_check_lost(snapshot, err);
    return error_set(err, E_EXISTS, "snapshot \"%s\" exists as %s, of volume %s", request->name,
                     snapshot->snapshot_id, snapshot->source_volume_id);
}

static int cut(const struct create *create, const char *snapshot_id, bool record,
               Mooring__Storage__V1__Snapshot **ret_snapshot, struct error *err)
{
    Mooring__Storage__V1__CreateSnapshotRequest request = MOORING__STORAGE__V1__CREATE_SNAPSHOT_REQUEST__INIT;
    ProtobufCMessage *message = NULL;
    int r;

    request.snapshot_id = (char *)snapshot_id;
    request.name = (char *)create->request->name;
    request.source_volume_id = (char *)create->request->source_volume_id;
    request.record_cut = record;
    r = storage_call(create->home, "CreateSnapshot", &request.base, create->deadline_ms, &message, err);
    if (r != E_OK)
        return r;
    *ret_snapshot = TAKE_PTR(((Mooring__Storage__V1__CreateSnapshotResponse *)message)->snapshot);
    protobuf_c_message_free_unpacked(message, NULL);
    return *ret_snapshot ? E_OK : error_set(err, -EPROTO, "CreateSnapshot answered without a snapshot");
}

/* The server refused for good and cut nothing. */
static bool refused(int code)
{
    return code == E_NO_SPACE || code == E_EXHAUSTED || code == E_INVALID_ARGUMENT || code == E_NOT_FOUND ||
           code == E_PRECONDITION || code == E_OUT_OF_RANGE;
}

/* The claim for snapshot_id stands everywhere, and there is no such snapshot yet. */
static int finish(const struct create *create, const char *snapshot_id, bool *ret_again,
                  Mooring__Storage__V1__Snapshot **ret_snapshot, struct error *err)
{
    struct storage *storage = create->controller->storage;
    const char *name = create->request->name;
    struct storage_server *home = NULL;
    int r = storage_of_snapshot(storage, snapshot_id, &home, err);

    if (r != E_OK)
        return r;
    if (home != create->home) { /* left by a call for another volume that was cut short */
        claim_abandon(create->controller, CLAIM_SNAPSHOT, name, snapshot_id);
        *ret_again = true;
        return error_set(err, E_BUSY, "the name \"%s\" was claimed for another volume's snapshot; retry",
                         name);
    }
    r = cut(create, snapshot_id, false, ret_snapshot, err);
    if (refused(r))
        claim_abandon(create->controller, CLAIM_SNAPSHOT, name, snapshot_id);
    /* Someone deleted it, claims and all, between our claims and now; or too much runs there. */
    *ret_again = (r == E_STALE || r == E_BUSY) && time_now_ms() < snapshot_wait_until(create->deadline_ms);
    return r;
}

/* One round: claim, then return what exists or cut. *ret_again: the claim was for naught. */
static int create_round(const struct create *create, bool *ret_again,
                        Mooring__Storage__V1__Snapshot **ret_snapshot, struct error *err)
{
    _cleanup_operation_ struct operation *operation = NULL;
    _cleanup_error_ struct error absent = {0};
    Mooring__Storage__V1__Snapshot *snapshot = NULL;
    char snapshot_id[CLAIM_ID_MAX + 1];
    int r;

    str_copy(snapshot_id, sizeof(snapshot_id), create->candidate_id);
    r = claim_name(create->controller, CLAIM_SNAPSHOT, create->request->name, snapshot_id,
                   create->deadline_ms, err);
    if (r == E_OK)
        r = operation_begin(create->controller->operations, "snapshot", snapshot_id, "CreateSnapshot",
                            &operation, err);
    if (r != E_OK)
        return r;
    r = snapshot_find(create->controller, snapshot_id, create->deadline_ms, &snapshot, &absent);
    if (r == E_NOT_FOUND)
        return finish(create, snapshot_id, ret_again, ret_snapshot, err);
    if (r != E_OK) {
        error_move(err, &absent);
        return r;
    }
    r = check_existing(create, snapshot, err);
    if (r == E_OK)
        *ret_snapshot = snapshot;
    else
        protobuf_c_message_free_unpacked(&snapshot->base, NULL);
    return r;
}

static int create_rounds(const struct create *create, Mooring__Storage__V1__Snapshot **ret_snapshot,
                         struct error *err)
{
    bool again = true;
    int r = E_OK;

    for (int round = 0; round < CREATE_ROUNDS && again; round++) {
        again = false;
        if (err)
            error_done(err);
        r = create_round(create, &again, ret_snapshot, err);
    }
    return r;
}

/* When to stop waiting for it to be ready, and have its cut recorded. */
static uint64_t record_at(uint64_t deadline_ms)
{
    uint64_t now_ms = time_now_ms(), until_ms = snapshot_wait_until(deadline_ms);

    return until_ms > now_ms ? until_ms - MIN(RECORD_MS, (until_ms - now_ms) / 4) : until_ms;
}

/* The caller may go by the answer, and let a database write again: from here on no snapshot of another moment
 * may come in its place. A server that does not say so is an older one, which would cut anew. */
static int record_cut(const struct create *create, Mooring__Storage__V1__Snapshot **snapshot,
                      struct error *err)
{
    Mooring__Storage__V1__Snapshot *recorded = NULL;
    int r = cut(create, (*snapshot)->snapshot_id, true, &recorded, err);

    if (r != E_OK)
        return r;
    protobuf_c_message_free_unpacked(&(*snapshot)->base, NULL);
    *snapshot = recorded;
    if (recorded->ready || recorded->cut_recorded)
        return E_OK;
    r = snapshot_check_lost(recorded, err);
    return r != E_OK ? r
                     : error_set(err, E_BUSY, "snapshot %s is being made, %u %% of it are there: retry",
                                 recorded->snapshot_id, recorded->progress_percent);
}

int snapshot_create(struct controller *controller, const struct snapshot_request *request,
                    uint64_t deadline_ms, Mooring__Storage__V1__Snapshot **ret_snapshot, struct error *err)
{
    _cleanup_operation_ struct operation *operation = NULL;
    struct create create = {.controller = controller, .request = request, .deadline_ms = deadline_ms};
    Mooring__Storage__V1__Snapshot *snapshot = NULL;
    int r;

    r = storage_of_volume(controller->storage, request->source_volume_id, &create.home, err);
    if (r == E_OK)
        r = operation_begin(controller->operations, "snapshot name", request->name, "CreateSnapshot",
                            &operation, err);
    if (r == E_OK)
        r = check_wish(&create, err);
    if (r != E_OK)
        return r;
    r = id_snapshot_new(storage_server_config(create.home)->id, create.candidate_id);
    if (r != E_OK)
        return error_errno(err, -r, "a new snapshot id");
    r = create_rounds(&create, &snapshot, err);
    if (r == E_OK)
        r = snapshot_wait(create.home, &snapshot, record_at(deadline_ms), err);
    if (r == E_OK && !snapshot->ready)
        r = record_cut(&create, &snapshot, err);
    if (r == E_OK)
        *ret_snapshot = snapshot;
    else if (snapshot)
        protobuf_c_message_free_unpacked(&snapshot->base, NULL);
    return r;
}

/* ---- find, delete ---- */

int snapshot_find(struct controller *controller, const char *snapshot_id, uint64_t deadline_ms,
                  Mooring__Storage__V1__Snapshot **ret_snapshot, struct error *err)
{
    Mooring__Storage__V1__Snapshot *snapshot = NULL;
    struct storage_server *server = NULL;
    int r = storage_of_snapshot(controller->storage, snapshot_id, &server, err);

    if (r == E_OK)
        r = storage_require(server, "snapshots", deadline_ms, err);
    if (r == E_PRECONDITION)
        r = error_set(err, E_NOT_FOUND, "snapshot %s does not exist: storage server %s has none", snapshot_id,
                      storage_server_config(server)->id);
    if (r == E_OK)
        r = storage_get_snapshot(server, snapshot_id, deadline_ms, &snapshot, err);
    if (r != E_OK)
        return r;
    if (snapshot->provisional) {
        r = error_set(err, E_NOT_FOUND, "snapshot %s is of group snapshot %s, which is not made yet",
                      snapshot_id, snapshot->group_id);
        protobuf_c_message_free_unpacked(&snapshot->base, NULL);
        return r;
    }
    *ret_snapshot = snapshot;
    return E_OK;
}

static int delete_existing(struct controller *controller, const Mooring__Storage__V1__Snapshot *snapshot,
                           uint64_t deadline_ms, struct error *err)
{
    _cleanup_operation_ struct operation *operation = NULL;
    Mooring__Storage__V1__DeleteSnapshotRequest request = MOORING__STORAGE__V1__DELETE_SNAPSHOT_REQUEST__INIT;
    struct storage_server *server = NULL;
    int r;

    if (*snapshot->group_id != '\0')
        return error_set(err, E_INVALID_ARGUMENT,
                         "snapshot %s is part of group snapshot %s: delete that as a whole",
                         snapshot->snapshot_id, snapshot->group_id);
    r = operation_begin(controller->operations, "snapshot name", snapshot->name, "DeleteSnapshot", &operation,
                        err);
    if (r == E_OK)
        r = storage_of_snapshot(controller->storage, snapshot->snapshot_id, &server, err);
    if (r != E_OK)
        return r;
    request.snapshot_id = snapshot->snapshot_id;
    r = storage_call(server, "DeleteSnapshot", &request.base, deadline_ms, NULL, err);
    if (r != E_OK)
        return r;
    return claim_release(controller, CLAIM_SNAPSHOT, snapshot->name, snapshot->snapshot_id, deadline_ms, err);
}

int snapshot_delete(struct controller *controller, const char *snapshot_id, uint64_t deadline_ms,
                    struct error *err)
{
    _cleanup_operation_ struct operation *operation = NULL;
    _cleanup_error_ struct error absent = {0};
    Mooring__Storage__V1__Snapshot *snapshot = NULL;
    int r;

    r = operation_begin(controller->operations, "snapshot", snapshot_id, "DeleteSnapshot", &operation, err);
    if (r != E_OK)
        return r;
    r = snapshot_find(controller, snapshot_id, deadline_ms, &snapshot, &absent);
    if (r == E_NOT_FOUND)
        return claim_release_unnamed(controller, CLAIM_SNAPSHOT, snapshot_id, deadline_ms, err);
    if (r != E_OK) {
        error_move(err, &absent);
        return r;
    }
    r = delete_existing(controller, snapshot, deadline_ms, err);
    protobuf_c_message_free_unpacked(&snapshot->base, NULL);
    return r;
}
