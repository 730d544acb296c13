/* Group snapshots as they are: found, shown, deleted. Making one is group_create.c's. Owns nothing across
 * calls; run by worker threads. */
#include "controller/group.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "controller/claim.h"
#include "controller/snapshot.h"

#define ASK_MAX 100u

/* ---- find ---- */

void group_done(struct group *group)
{
    for (size_t i = 0; i < group->count; i++)
        protobuf_c_message_free_unpacked(&group->snapshots[i]->base, NULL);
    free(group->snapshots);
    *group = (struct group){0};
}

/* Move the snapshots of a server's answer into the group. */
static int take(struct group *group, Mooring__Storage__V1__ListSnapshotsResponse *response, struct error *err)
{
    Mooring__Storage__V1__Snapshot **grown;

    if (response->n_snapshots == 0)
        return E_OK;
    grown = realloc(group->snapshots, (group->count + response->n_snapshots) * sizeof(*grown));
    if (!grown)
        return error_errno(err, ENOMEM, "group snapshot %s", group->id);
    group->snapshots = grown;
    for (size_t i = 0; i < response->n_snapshots; i++)
        group->snapshots[group->count++] = response->snapshots[i];
    response->n_snapshots = 0;
    return E_OK;
}

int group_find_on(struct storage_server *server, struct group *group, uint64_t deadline_ms, struct error *err)
{
    char after[ID_SNAPSHOT_MAX + 1] = "";
    bool more = true;
    int r = storage_require(server, "group-snapshots", deadline_ms, err);

    if (r == E_PRECONDITION) /* then it has none */
        return E_OK;
    while (r == E_OK && more) {
        Mooring__Storage__V1__ListSnapshotsRequest request =
            MOORING__STORAGE__V1__LIST_SNAPSHOTS_REQUEST__INIT;
        Mooring__Storage__V1__ListSnapshotsResponse *response;
        ProtobufCMessage *message = NULL;

        request.group_id = group->id;
        request.after_snapshot_id = after;
        request.max_entries = ASK_MAX;
        r = storage_call(server, "ListSnapshots", &request.base, deadline_ms, &message, err);
        if (r != E_OK)
            return r;
        response = (Mooring__Storage__V1__ListSnapshotsResponse *)message;
        more = response->more && response->n_snapshots > 0;
        if (more)
            str_copy(after, sizeof(after), response->snapshots[response->n_snapshots - 1]->snapshot_id);
        r = take(group, response, err);
        protobuf_c_message_free_unpacked(message, NULL);
    }
    return r;
}

int group_find(struct controller *controller, const char *group_id, uint64_t deadline_ms,
               struct group *ret_group, struct error *err)
{
    struct group group = {0};
    int r = E_OK;

    *ret_group = (struct group){0};
    if (!id_group_valid(group_id))
        return E_OK;
    str_copy(group.id, sizeof(group.id), group_id);
    for (size_t i = 0; r == E_OK && i < storage_count(controller->storage); i++) {
        struct storage_server *server = storage_at(controller->storage, i);

        if (!storage_server_config(server)->gone)
            r = group_find_on(server, &group, deadline_ms, err);
    }
    if (r != E_OK) {
        group_done(&group);
        return r;
    }
    *ret_group = group;
    return E_OK;
}

/* ---- attempts, and their end ---- */

char *group_attempt_of(char *snapshot_id)
{
    return snapshot_id + strlen(snapshot_id) - 2 * (size_t)GROUP_ATTEMPT_DIGITS;
}

bool group_same_attempt(char *snapshot_id, char *other_id)
{
    return strncmp(group_attempt_of(snapshot_id), group_attempt_of(other_id), GROUP_ATTEMPT_DIGITS) == 0;
}

/* Members of one server: they are beside each other. */
static int commit_on(struct controller *controller, struct group *group, size_t begin, size_t end,
                     uint64_t deadline_ms, struct error *err)
{
    Mooring__Storage__V1__CommitSnapshotsRequest request =
        MOORING__STORAGE__V1__COMMIT_SNAPSHOTS_REQUEST__INIT;
    _cleanup_free_ char **ids = calloc(end - begin, sizeof(*ids));
    struct storage_server *server = NULL;
    int r;

    if (!ids)
        return error_errno(err, ENOMEM, "CommitSnapshots");
    for (size_t i = begin; i < end; i++)
        ids[i - begin] = group->snapshots[i]->snapshot_id;
    request.group_id = group->id;
    request.snapshot_ids = ids;
    request.n_snapshot_ids = end - begin;
    r = storage_of_snapshot(controller->storage, ids[0], &server, err);
    if (r == E_OK)
        r = storage_call(server, "CommitSnapshots", &request.base, deadline_ms, NULL, err);
    for (size_t i = begin; r == E_OK && i < end; i++)
        group->snapshots[i]->provisional = false;
    return r;
}

int group_commit(struct controller *controller, struct group *group, uint64_t deadline_ms, struct error *err)
{
    size_t begin = 0;
    int r = E_OK;

    while (r == E_OK && begin < group->count) {
        const char *id = group->snapshots[begin]->snapshot_id;
        size_t server = strcspn(id, ".") + 1, end = begin + 1;

        while (end < group->count && strncmp(group->snapshots[end]->snapshot_id, id, server) == 0)
            end++;
        r = commit_on(controller, group, begin, end, deadline_ms, err);
        begin = end;
    }
    return r;
}

/* ---- look ---- */

/* Members that are committed; provisional ones are of a call that goes on, or was cut short. */
static size_t count_committed(const struct group *group)
{
    size_t count = 0;

    for (size_t i = 0; i < group->count; i++)
        count += !group->snapshots[i]->provisional;
    return count;
}

static bool is_member(const struct group *group, const char *snapshot_id)
{
    for (size_t i = 0; i < group->count; i++) {
        if (str_equal(group->snapshots[i]->snapshot_id, snapshot_id))
            return true;
    }
    return false;
}

static bool is_named(char *const *snapshot_ids, size_t count, const char *snapshot_id)
{
    for (size_t i = 0; i < count; i++) {
        if (str_equal(snapshot_ids[i], snapshot_id))
            return true;
    }
    return false;
}

/* Each member must be named: a caller who knows the group knows them all. */
static int check_named(const struct group *group, char *const *snapshot_ids, size_t count, struct error *err)
{
    for (size_t i = 0; i < group->count; i++) {
        const char *id = group->snapshots[i]->snapshot_id;

        if (!is_named(snapshot_ids, count, id))
            return error_set(err, E_INVALID_ARGUMENT,
                             "snapshot_ids lacks %s, which is part of group snapshot %s", id, group->id);
    }
    return E_OK;
}

static int not_member(const char *group_id, const char *snapshot_id, struct error *err)
{
    return error_set(err, E_INVALID_ARGUMENT, "snapshot_ids has %s, which is not part of group snapshot %s",
                     snapshot_id, group_id);
}

/* ---- get ---- */

int group_get(struct controller *controller, const char *group_id, char *const *snapshot_ids,
              size_t snapshots_count, uint64_t deadline_ms, struct group *ret_group, struct error *err)
{
    struct group group;
    size_t committed;
    int r = group_find(controller, group_id, deadline_ms, &group, err);

    if (r != E_OK)
        return r;
    committed = count_committed(&group);
    if (committed == 0)
        r = error_set(err, E_NOT_FOUND, "group snapshot \"%s\" does not exist", group_id);
    else if (committed < group.count)
        r = error_set(err, E_BUSY, "group snapshot %s is being made; repeat CreateVolumeGroupSnapshot",
                      group_id);
    else
        r = check_named(&group, snapshot_ids, snapshots_count, err);
    for (size_t i = 0; r == E_OK && i < snapshots_count; i++) {
        if (!is_member(&group, snapshot_ids[i]))
            r = not_member(group_id, snapshot_ids[i], err);
    }
    if (r == E_OK)
        *ret_group = group;
    else
        group_done(&group);
    return r;
}

/* ---- delete ---- */

int group_delete_member(struct controller *controller, const char *snapshot_id, bool provisional_only,
                        uint64_t deadline_ms, struct error *err)
{
    Mooring__Storage__V1__DeleteSnapshotRequest request = MOORING__STORAGE__V1__DELETE_SNAPSHOT_REQUEST__INIT;
    struct storage_server *server = NULL;
    int r = storage_of_snapshot(controller->storage, snapshot_id, &server, err);

    request.snapshot_id = (char *)snapshot_id;
    request.provisional_only = provisional_only;
    return r == E_OK ? storage_call(server, "DeleteSnapshot", &request.base, deadline_ms, NULL, err) : r;
}

static int delete_members(struct controller *controller, const struct group *group, uint64_t deadline_ms,
                          struct error *err)
{
    int result = E_OK;

    for (size_t i = 0; i < group->count; i++) {
        _cleanup_error_ struct error one = {0};
        int r = group_delete_member(controller, group->snapshots[i]->snapshot_id, false, deadline_ms, &one);

        if (r == E_OK || result != E_OK)
            continue;
        result = r;
        error_move(err, &one);
    }
    return result;
}

/* An id that is no member may be one that an earlier, cut-short delete took; not one that is something else.
 */
static int check_strangers(struct controller *controller, const struct group *group,
                           char *const *snapshot_ids, size_t count, uint64_t deadline_ms, struct error *err)
{
    for (size_t i = 0; i < count; i++) {
        Mooring__Storage__V1__Snapshot *snapshot = NULL;
        int r;

        if (is_member(group, snapshot_ids[i]))
            continue;
        if (!id_snapshot_valid(snapshot_ids[i]))
            return not_member(group->id, snapshot_ids[i], err);
        r = snapshot_find(controller, snapshot_ids[i], deadline_ms, &snapshot, err);
        if (r == E_OK) {
            protobuf_c_message_free_unpacked(&snapshot->base, NULL);
            return not_member(group->id, snapshot_ids[i], err);
        }
        if (r != E_NOT_FOUND)
            return r;
        if (err)
            error_done(err);
    }
    return E_OK;
}

int group_delete(struct controller *controller, const char *group_id, char *const *snapshot_ids,
                 size_t snapshots_count, uint64_t deadline_ms, struct error *err)
{
    _cleanup_operation_ struct operation *operation = NULL;
    struct group group;
    int r = operation_begin(controller->operations, "group snapshot", group_id, "DeleteVolumeGroupSnapshot",
                            &operation, err);

    if (r == E_OK)
        r = group_find(controller, group_id, deadline_ms, &group, err);
    if (r != E_OK)
        return r;
    if (group.count > 0) {
        r = check_named(&group, snapshot_ids, snapshots_count, err);
        if (r == E_OK)
            r = check_strangers(controller, &group, snapshot_ids, snapshots_count, deadline_ms, err);
        if (r == E_OK)
            r = delete_members(controller, &group, deadline_ms, err);
    }
    group_done(&group);
    if (r != E_OK)
        return r;
    return claim_release_unnamed(controller, CLAIM_GROUP, group_id, deadline_ms, err);
}
