/*
 * CreateVolumeGroupSnapshot. The name is claimed on all servers; then, in this order and each step on all
 * servers at once: HoldVolumes, CreateSnapshot of each volume, ReleaseVolumes. Where every release found its
 * hold standing, all cuts lie between the last hold's begin and the first release: one moment, before and
 * after which no write was answered. Then the members are waited for and committed; else all are deleted and
 * the call fails whole.
 *
 * A repeat finds what an earlier call left: members of one attempt, all held, are committed; else another
 * attempt is made. The members of an attempt share the first digits of their ids, so that what two attempts
 * left is never taken for one. Two controllers at once: the holds exclude each other, so once an attempt held
 * and cut, what others left is of no use to them; it is deleted, but never what is committed by now.
 *
 * Run by a worker thread, with a thread for each server while the volumes are held: together they take less
 * than HOLD_MS, after which the servers let go by themselves.
 */
#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/size.h"
#include "common/strings.h"
#include "common/time.h"
#include "controller/claim.h"
#include "controller/group.h"
#include "controller/snapshot.h"

#define HOLD_MS 4500         /* the servers' own limit is 5 s */
#define HOLD_TIMEOUT_MS 1500 /* of each of the two first steps */
#define RELEASE_TIMEOUT_MS 1000
#define CLEAN_UP_MS 2000

/* What one server has to do with it. */
struct part {
    struct creation *creation;
    struct storage_server *server;
    size_t *sources; /* indices into the request's */
    size_t count;
    bool held;            /* HoldVolumes answered OK, or did not answer */
    uint64_t deadline_ms; /* of the step under way */
    int (*step)(struct part *part, struct error *err);
    int result;
    struct error err;
};

struct creation {
    struct controller *controller;
    const struct group_request *request;
    uint64_t deadline_ms;
    char group_id[CLAIM_ID_MAX + 1];
    char hold_id[ID_BOOT_LENGTH + 1];
    struct part *parts;
    size_t parts_count;
    char attempt[GROUP_ATTEMPT_DIGITS + 1];
    bool failed_whole; /* what is there of the attempt has to go */
    bool broken;       /* also what of it is committed: the rest of it is gone */
};

/* ---- who does what ---- */

static struct part *part_of(struct creation *creation, struct storage_server *server)
{
    for (size_t i = 0; i < creation->parts_count; i++) {
        if (creation->parts[i].server == server)
            return &creation->parts[i];
    }
    return NULL;
}

/* How many volumes before this one are on its storage server. */
static size_t count_beside(const struct group_request *request, size_t index, const char *server_id)
{
    size_t count = 0;

    for (size_t i = 0; i < index; i++) {
        char other[ID_SERVER_MAX + 1];

        count += id_volume_server(request->source_volume_ids[i], other, NULL) == E_OK &&
                 str_equal(other, server_id);
    }
    return count;
}

/* What no server would hold is refused before a name is claimed. An id that is none has its answer later. */
static int check_counts(const struct group_request *request, struct error *err)
{
    char server_id[ID_SERVER_MAX + 1];

    for (size_t i = 0; i < request->sources_count; i++) {
        if (id_volume_server(request->source_volume_ids[i], server_id, NULL) == E_OK &&
            count_beside(request, i, server_id) == GROUP_SERVER_VOLUMES_MAX)
            return error_set(
                err, E_INVALID_ARGUMENT,
                "source_volume_ids has more than %d volumes of storage server %s, which holds no "
                "more of them at once",
                GROUP_SERVER_VOLUMES_MAX, server_id);
    }
    return E_OK;
}

static int plan(struct creation *creation, struct error *err)
{
    const struct group_request *request = creation->request;

    creation->parts = calloc(request->sources_count, sizeof(*creation->parts));
    if (!creation->parts)
        return error_errno(err, ENOMEM, "a group snapshot");
    for (size_t i = 0; i < request->sources_count; i++) {
        struct storage_server *server = NULL;
        struct part *part;
        int r = storage_of_volume(creation->controller->storage, request->source_volume_ids[i], &server, err);

        if (r != E_OK)
            return r;
        part = part_of(creation, server);
        if (!part) {
            part = &creation->parts[creation->parts_count++];
            part->creation = creation;
            part->server = server;
            part->sources = calloc(request->sources_count, sizeof(*part->sources));
            if (!part->sources)
                return error_errno(err, ENOMEM, "a group snapshot");
        }
        part->sources[part->count++] = i;
    }
    return E_OK;
}

static void plan_done(struct creation *creation)
{
    for (size_t i = 0; i < creation->parts_count; i++) {
        error_done(&creation->parts[i].err);
        free(creation->parts[i].sources);
    }
    free(creation->parts);
}

/* ---- a step on all servers at once ---- */

static void *run_part(void *context)
{
    struct part *part = context;

    part->result = part->step(part, &part->err);
    return NULL;
}

/* The first part's failure is the step's. Each part's result stays with it. */
static int on_all(struct creation *creation, int (*step)(struct part *part, struct error *err),
                  uint64_t timeout_ms, struct error *err)
{
    pthread_t threads[GROUP_VOLUMES_MAX];
    bool started[GROUP_VOLUMES_MAX] = {false};
    uint64_t deadline_ms = time_now_ms() + timeout_ms;
    int result = E_OK;

    assert(creation->parts_count <= GROUP_VOLUMES_MAX);
    for (size_t i = 0; i < creation->parts_count; i++) {
        struct part *part = &creation->parts[i];

        error_done(&part->err);
        part->step = step;
        part->deadline_ms = deadline_ms;
        started[i] = pthread_create(&threads[i], NULL, run_part, part) == 0;
        if (!started[i]) {
            part->result = error_set(&part->err, E_EXHAUSTED, "no thread for storage server %s",
                                     storage_server_config(part->server)->id);
        }
    }
    for (size_t i = 0; i < creation->parts_count; i++) {
        struct part *part = &creation->parts[i];

        if (started[i])
            pthread_join(threads[i], NULL);
        if (part->result == E_OK || result != E_OK)
            continue;
        result = part->result;
        error_set(err, result, "%s", error_text(&part->err));
    }
    return result;
}

static int hold_step(struct part *part, struct error *err)
{
    const struct creation *creation = part->creation;
    Mooring__Storage__V1__HoldVolumesRequest request = MOORING__STORAGE__V1__HOLD_VOLUMES_REQUEST__INIT;
    _cleanup_free_ char **ids = calloc(part->count, sizeof(*ids));
    int r;

    if (!ids)
        return error_errno(err, ENOMEM, "HoldVolumes");
    for (size_t i = 0; i < part->count; i++)
        ids[i] = creation->request->source_volume_ids[part->sources[i]];
    request.hold_id = (char *)creation->hold_id;
    request.volume_ids = ids;
    request.n_volume_ids = part->count;
    request.hold_ms = HOLD_MS;
    r = storage_call(part->server, "HoldVolumes", &request.base, part->deadline_ms, NULL, err);
    part->held = r == E_OK || r == E_UNAVAILABLE;
    return r;
}

static int cut_one(const struct part *part, const char *volume_id, struct error *err)
{
    const struct creation *creation = part->creation;
    Mooring__Storage__V1__CreateSnapshotRequest request = MOORING__STORAGE__V1__CREATE_SNAPSHOT_REQUEST__INIT;
    char snapshot_id[ID_SNAPSHOT_MAX + 1];
    int r = id_snapshot_new(storage_server_config(part->server)->id, snapshot_id);

    if (r != E_OK)
        return error_errno(err, -r, "a new snapshot id");
    memcpy(group_attempt_of(snapshot_id), creation->attempt, GROUP_ATTEMPT_DIGITS);
    request.snapshot_id = snapshot_id;
    request.name = (char *)creation->request->name;
    request.source_volume_id = (char *)volume_id;
    request.group_id = (char *)creation->group_id;
    request.hold_id = (char *)creation->hold_id;
    return storage_call(part->server, "CreateSnapshot", &request.base, part->deadline_ms, NULL, err);
}

static int cut_step(struct part *part, struct error *err)
{
    int r = E_OK;

    for (size_t i = 0; r == E_OK && i < part->count; i++)
        r = cut_one(part, part->creation->request->source_volume_ids[part->sources[i]], err);
    return r;
}

static int release_step(struct part *part, struct error *err)
{
    Mooring__Storage__V1__ReleaseVolumesRequest request = MOORING__STORAGE__V1__RELEASE_VOLUMES_REQUEST__INIT;
    int r;

    if (!part->held)
        return E_OK;
    request.hold_id = part->creation->hold_id;
    r = storage_call(part->server, "ReleaseVolumes", &request.base, part->deadline_ms, NULL, err);
    if (r == E_PRECONDITION)
        return error_set(err, E_BUSY,
                         "the hold on volumes of storage server %s ended before all were cut; retry",
                         storage_server_config(part->server)->id);
    return r;
}

static uint64_t time_left(const struct creation *creation, uint64_t at_most_ms)
{
    uint64_t now_ms = time_now_ms();

    return now_ms < creation->deadline_ms ? MIN(at_most_ms, creation->deadline_ms - now_ms) : 0;
}

static int hold_and_cut(struct creation *creation, struct error *err)
{
    _cleanup_error_ struct error why = {0};
    int r = id_boot_new(creation->hold_id); /* 32 hex digits */
    int released;

    if (r != E_OK)
        return error_errno(err, -r, "a new hold id");
    memcpy(creation->attempt, creation->hold_id, GROUP_ATTEMPT_DIGITS);
    r = on_all(creation, hold_step, time_left(creation, HOLD_TIMEOUT_MS), err);
    if (r == E_OK)
        r = on_all(creation, cut_step, time_left(creation, HOLD_TIMEOUT_MS), err);
    released = on_all(creation, release_step, RELEASE_TIMEOUT_MS, &why);
    if (r != E_OK || released == E_OK)
        return r;
    error_move(err, &why);
    return released;
}

/* ---- what stands ---- */

struct standing {
    size_t committed, held, ready;
    bool stranger; /* a member of a volume that is not asked for */
    bool whole;    /* one member of each volume, all of one attempt */
};

static size_t count_of(const struct group *group, const char *volume_id)
{
    size_t count = 0;

    for (size_t i = 0; i < group->count; i++)
        count += str_equal(group->snapshots[i]->source_volume_id, volume_id);
    return count;
}

static bool is_whole(const struct group_request *request, const struct group *group)
{
    bool whole = group->count == request->sources_count;

    for (size_t i = 0; whole && i < request->sources_count; i++)
        whole = count_of(group, request->source_volume_ids[i]) == 1;
    for (size_t i = 1; whole && i < group->count; i++)
        whole = group_same_attempt(group->snapshots[i]->snapshot_id, group->snapshots[0]->snapshot_id);
    return whole;
}

static struct standing look(const struct group_request *request, const struct group *group)
{
    struct standing standing = {.whole = is_whole(request, group)};
    size_t known = 0;

    for (size_t i = 0; i < group->count; i++) {
        const Mooring__Storage__V1__Snapshot *one = group->snapshots[i];

        standing.committed += !one->provisional;
        standing.held += one->held || !one->provisional;
        standing.ready += one->ready;
    }
    for (size_t i = 0; i < request->sources_count; i++)
        known += count_of(group, request->source_volume_ids[i]);
    standing.stranger = known < group->count;
    return standing;
}

/* Wait until all are ready. E_BUSY, with how far they are, when the time is up before. */
static int wait_all(struct creation *creation, struct group *group, struct error *err)
{
    for (size_t i = 0; i < group->count; i++) {
        struct storage_server *server = NULL;
        int r = storage_of_snapshot(creation->controller->storage, group->snapshots[i]->snapshot_id, &server,
                                    err);

        if (r == E_OK)
            r = snapshot_wait(server, &group->snapshots[i], snapshot_wait_until(creation->deadline_ms), err);
        if (r != E_OK)
            return r;
        if (!group->snapshots[i]->ready)
            return error_set(
                err, E_BUSY, "group snapshot %s is cut, and %u %% of its member %s is copied; retry",
                group->id, group->snapshots[i]->progress_percent, group->snapshots[i]->snapshot_id);
    }
    return E_OK;
}

/* ---- fail whole ---- */

static bool is_ours(const struct creation *creation, const Mooring__Storage__V1__Snapshot *snapshot)
{
    return strncmp(group_attempt_of(snapshot->snapshot_id), creation->attempt, GROUP_ATTEMPT_DIGITS) == 0;
}

/* Delete the attempt's members on one server. *ret_others: there are some of another attempt. */
static int clean_up_on(const struct creation *creation, struct storage_server *server, uint64_t deadline_ms,
                       bool *ret_others, struct error *err)
{
    struct group group = {0};
    int r;

    str_copy(group.id, sizeof(group.id), creation->group_id);
    r = group_find_on(server, &group, deadline_ms, err);
    for (size_t i = 0; r == E_OK && i < group.count; i++) {
        if (is_ours(creation, group.snapshots[i]))
            r = group_delete_member(creation->controller, group.snapshots[i]->snapshot_id, !creation->broken,
                                    deadline_ms, err);
        else
            *ret_others = true;
    }
    group_done(&group);
    return r;
}

/* Nothing of the attempt may stay; what a server that is away has is provisional, and a repeat deletes it. */
static void clean_up(const struct creation *creation)
{
    const struct storage *storage = creation->controller->storage;
    uint64_t deadline_ms = time_now_ms() + CLEAN_UP_MS;
    bool clean = true, others = false;

    for (size_t i = 0; i < storage_count(storage); i++) {
        _cleanup_error_ struct error err = {0};
        struct storage_server *server = storage_at(storage, i);

        if (storage_server_config(server)->gone ||
            clean_up_on(creation, server, deadline_ms, &others, &err) == E_OK)
            continue;
        clean = false;
        log_warning("group snapshot %s was not made, and members of it may be left: %s", creation->group_id,
                    error_text(&err));
    }
    if (clean && !others)
        claim_abandon(creation->controller, CLAIM_GROUP, creation->request->name, creation->group_id);
}

/* ---- the whole ---- */

/* Members of one attempt, all held: bring them to their end. Copies that go on, and an answer that did not
 * come, are no failure: a repeat goes on there. */
static int complete(struct creation *creation, struct group *group, struct error *err)
{
    struct standing standing = look(creation->request, group);
    _cleanup_error_ struct error why = {0};
    int r;

    creation->failed_whole = false;
    if (standing.committed == group->count)
        return E_OK;
    memcpy(creation->attempt, group_attempt_of(group->snapshots[0]->snapshot_id), GROUP_ATTEMPT_DIGITS);
    r = wait_all(creation, group, &why);
    if (r == E_OK)
        r = group_commit(creation->controller, group, creation->deadline_ms, &why);
    if (r == E_NOT_FOUND || r == E_PRECONDITION) {
        creation->failed_whole = creation->broken = true;
        return error_set(err, E_BUSY, "another call has taken members of group snapshot %s away; retry: %s",
                         creation->group_id, error_text(&why));
    }
    error_move(err, &why);
    return r;
}

/* Keep the attempt's members alone in the group: what others left was not made under these holds, and a
 * server commits only all that it has of a group. */
static int drop_others(struct creation *creation, struct group *group, struct error *err)
{
    size_t kept = 0;
    int r = E_OK;

    for (size_t i = 0; i < group->count; i++) {
        Mooring__Storage__V1__Snapshot *one = group->snapshots[i];

        if (is_ours(creation, one)) {
            group->snapshots[kept++] = one;
            continue;
        }
        if (r == E_OK)
            r = group_delete_member(creation->controller, one->snapshot_id, true, creation->deadline_ms, err);
        protobuf_c_message_free_unpacked(&one->base, NULL);
    }
    group->count = kept;
    if (r == E_PRECONDITION)
        return error_set(err, E_BUSY, "another call has just made group snapshot %s; retry",
                         creation->group_id);
    return r;
}

static int begin_anew(struct creation *creation, struct group *group, struct error *err)
{
    struct standing standing;
    int r;

    creation->failed_whole = true; /* until it has not */
    r = plan(creation, err);
    if (r == E_OK)
        r = hold_and_cut(creation, err);
    if (r == E_OK)
        r = group_find(creation->controller, creation->group_id, creation->deadline_ms, group, err);
    if (r == E_OK)
        r = drop_others(creation, group, err);
    if (r != E_OK)
        return r;
    standing = look(creation->request, group);
    if (!standing.whole || standing.held != group->count)
        return error_set(
            err, E_BUSY,
            "%zu members of group snapshot %s are there, %zu of them held until all were cut, for "
            "%zu volumes; retry",
            group->count, creation->group_id, standing.held, creation->request->sources_count);
    return complete(creation, group, err);
}

/* An earlier call's members. *ret_anew: they are of no use, and another attempt is needed. */
static int resume(struct creation *creation, struct group *group, bool *ret_anew, struct error *err)
{
    const struct group_request *request = creation->request;
    struct standing standing = look(request, group);

    if (standing.committed > 0 && (standing.stranger || group->count != request->sources_count))
        return error_set(err, E_EXISTS, "group snapshot \"%s\" exists as %s, of other volumes", request->name,
                         group->id);
    if (standing.whole && standing.held == group->count)
        return complete(creation, group, err);
    *ret_anew = true;
    group_done(group);
    return E_OK;
}

static int create(struct creation *creation, struct group *group, struct error *err)
{
    bool anew = true;
    int r = group_find(creation->controller, creation->group_id, creation->deadline_ms, group, err);

    if (r == E_OK && group->count > 0) {
        anew = false;
        r = resume(creation, group, &anew, err);
    }
    return r == E_OK && anew ? begin_anew(creation, group, err) : r;
}

/* Under the group's own operation: its id is known. */
static int create_claimed(struct creation *creation, struct group *ret_group, struct error *err)
{
    _cleanup_operation_ struct operation *operation = NULL;
    struct group group = {0};
    int r = operation_begin(creation->controller->operations, "group snapshot", creation->group_id,
                            "CreateVolumeGroupSnapshot", &operation, err);

    if (r != E_OK)
        return r;
    r = create(creation, &group, err);
    if (r == E_OK) {
        *ret_group = group;
    } else {
        group_done(&group);
        if (creation->failed_whole)
            clean_up(creation);
    }
    plan_done(creation);
    return r;
}

int group_create(struct controller *controller, const struct group_request *request, uint64_t deadline_ms,
                 struct group *ret_group, struct error *err)
{
    _cleanup_operation_ struct operation *operation = NULL;
    struct creation creation = {.controller = controller, .request = request, .deadline_ms = deadline_ms};
    int r = check_counts(request, err);

    if (r == E_OK)
        r = operation_begin(controller->operations, "group name", request->name, "CreateVolumeGroupSnapshot",
                            &operation, err);
    if (r != E_OK)
        return r;
    r = id_group_new(creation.group_id);
    if (r != E_OK)
        return error_errno(err, -r, "a new group id");
    r = claim_name(controller, CLAIM_GROUP, request->name, creation.group_id, deadline_ms, err);
    return r == E_OK ? create_claimed(&creation, ret_group, err) : r;
}
