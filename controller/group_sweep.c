/*
 * The sweep of group snapshots: asks each storage server what is provisional, and looks at those groups. Its
 * thread alone owns the list of what it has seen. What it decides is safe whoever else acts on the same
 * group: members are deleted only as provisional ones, which whoever would commit them finds and begins anew;
 * and a commit follows one that has been made, which was made only when all members were ready and held.
 *
 * What was never held until its release is not ours: the storage servers delete it by themselves.
 */
#include "controller/group_sweep.h"

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

#define SEEN_MAX 64 /* others have their turn later */
#define ASK_MAX 100u
#define ASK_TIMEOUT_MS 10000
#define PERIOD_MIN_MS UINT64_C(500)
#define PERIOD_MAX_MS UINT64_C(15000)

struct seen {
    char id[ID_SNAPSHOT_MAX + 1]; /* of the group; "" for a free place */
    uint64_t since_ms;            /* first seen, or seen with a member that was not ready */
    bool still;                   /* this time, too */
};

struct group_sweep {
    struct controller *controller;
    uint64_t after_ms, period_ms;
    struct seen seen[SEEN_MAX];
    bool complete; /* every server said what it has */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stopping; /* locked */
};

/* ---- looking ---- */

static struct seen *place_of(struct group_sweep *sweep, const char *group_id)
{
    for (size_t i = 0; i < SEEN_MAX; i++) {
        if (str_equal(sweep->seen[i].id, group_id))
            return &sweep->seen[i];
    }
    return NULL;
}

static void note(struct group_sweep *sweep, const Mooring__Storage__V1__Snapshot *member)
{
    struct seen *seen = place_of(sweep, member->group_id);
    bool fresh = !seen;

    if (!member->provisional || !id_group_valid(member->group_id))
        return; /* an older server lists others */
    if (!seen)
        seen = place_of(sweep, "");
    if (!seen)
        return;
    str_copy(seen->id, sizeof(seen->id), member->group_id);
    if (fresh || !member->ready || !member->held)
        seen->since_ms = time_now_ms();
    seen->still = true;
}

static int look_on(struct group_sweep *sweep, struct storage_server *server, struct error *err)
{
    uint64_t deadline_ms = time_now_ms() + ASK_TIMEOUT_MS;
    char after[ID_SNAPSHOT_MAX + 1] = "";
    bool more = true;
    int r = E_OK;

    while (r == E_OK && more) {
        Mooring__Storage__V1__ListSnapshotsRequest request =
            MOORING__STORAGE__V1__LIST_SNAPSHOTS_REQUEST__INIT;
        Mooring__Storage__V1__ListSnapshotsResponse *response;
        ProtobufCMessage *message = NULL;

        request.provisional = true;
        request.after_snapshot_id = after;
        request.max_entries = ASK_MAX;
        r = storage_call(server, "ListSnapshots", &request.base, deadline_ms, &message, err);
        if (r != E_OK)
            return r;
        response = (Mooring__Storage__V1__ListSnapshotsResponse *)message;
        more = response->more && response->n_snapshots > 0;
        for (size_t i = 0; i < response->n_snapshots; i++)
            note(sweep, response->snapshots[i]);
        if (more)
            str_copy(after, sizeof(after), response->snapshots[response->n_snapshots - 1]->snapshot_id);
        protobuf_c_message_free_unpacked(message, NULL);
    }
    return r;
}

static void look(struct group_sweep *sweep)
{
    const struct storage *storage = sweep->controller->storage;

    sweep->complete = true;
    for (size_t i = 0; i < SEEN_MAX; i++)
        sweep->seen[i].still = false;
    for (size_t i = 0; i < storage_count(storage); i++) {
        _cleanup_error_ struct error err = {0};
        struct storage_server *server = storage_at(storage, i);

        if (!storage_server_config(server)->gone && look_on(sweep, server, &err) != E_OK)
            sweep->complete = false;
    }
    for (size_t i = 0; sweep->complete && i < SEEN_MAX; i++) {
        if (!sweep->seen[i].still)
            sweep->seen[i].id[0] = '\0';
    }
}

/* ---- finishing ---- */

static const Mooring__Storage__V1__Snapshot *first_committed(const struct group *group)
{
    for (size_t i = 0; i < group->count; i++) {
        if (!group->snapshots[i]->provisional)
            return group->snapshots[i];
    }
    return NULL;
}

/* Delete what is provisional, and not of the attempt that keep is of, if there is such. */
static int delete_members(struct group_sweep *sweep, struct group *group,
                          const Mooring__Storage__V1__Snapshot *keep, uint64_t deadline_ms, struct error *err)
{
    size_t kept = 0;
    int r = E_OK;

    for (size_t i = 0; i < group->count; i++) {
        Mooring__Storage__V1__Snapshot *one = group->snapshots[i];

        if (keep && (!one->provisional || group_same_attempt(one->snapshot_id, keep->snapshot_id))) {
            group->snapshots[kept++] = one;
            continue;
        }
        if (r == E_OK)
            r = group_delete_member(sweep->controller, one->snapshot_id, true, deadline_ms, err);
        protobuf_c_message_free_unpacked(&one->base, NULL);
    }
    group->count = kept;
    return r;
}

static int finish_found(struct group_sweep *sweep, const struct seen *seen, struct group *group,
                        uint64_t deadline_ms, struct error *err)
{
    const Mooring__Storage__V1__Snapshot *committed = first_committed(group);
    int r;

    if (!committed && time_now_ms() - seen->since_ms < sweep->after_ms)
        return E_OK;
    r = delete_members(sweep, group, committed, deadline_ms, err);
    if (r == E_OK && committed)
        r = group_commit(sweep->controller, group, deadline_ms, err);
    else if (r == E_OK)
        r = claim_release_unnamed(sweep->controller, CLAIM_GROUP, group->id, deadline_ms, err);
    if (r == E_OK && committed)
        log_info("group snapshot %s is committed: the call that began it did not end", group->id);
    else if (r == E_OK)
        log_info("group snapshot %s, which nobody finished, is deleted", group->id);
    return r;
}

static void finish(struct group_sweep *sweep, const struct seen *seen)
{
    _cleanup_operation_ struct operation *operation = NULL;
    _cleanup_error_ struct error err = {0};
    uint64_t deadline_ms = time_now_ms() + ASK_TIMEOUT_MS;
    struct group group = {0};
    int r;

    if (operation_begin(sweep->controller->operations, "group snapshot", seen->id, "the sweep", &operation,
                        NULL) != E_OK)
        return; /* somebody is at it */
    r = group_find(sweep->controller, seen->id, deadline_ms, &group, &err);
    if (r == E_OK && group.count > 0)
        r = finish_found(sweep, seen, &group, deadline_ms, &err);
    if (r != E_OK)
        log_warning("group snapshot %s is not finished: %s", seen->id, error_text(&err));
    group_done(&group);
}

/* ---- the thread ---- */

/* False when it is time to stop. */
static bool sleep_period(struct group_sweep *sweep)
{
    uint64_t until_ms = time_now_ms() + sweep->period_ms;
    struct timespec until = {(time_t)(until_ms / 1000), (long)(until_ms % 1000) * 1000000};
    bool stopping;
    int r = 0;

    pthread_mutex_lock(&sweep->lock);
    while (!sweep->stopping && r != ETIMEDOUT)
        r = pthread_cond_timedwait(&sweep->wake, &sweep->lock, &until);
    stopping = sweep->stopping;
    pthread_mutex_unlock(&sweep->lock);
    return !stopping;
}

/* A group is looked at when it was there the last time, too: most are being made just now. */
static void *run(void *context)
{
    struct group_sweep *sweep = context;

    while (sleep_period(sweep)) {
        uint64_t began_ms = time_now_ms();

        look(sweep);
        for (size_t i = 0; i < SEEN_MAX; i++) {
            const struct seen *seen = &sweep->seen[i];

            if (sweep->complete && seen->still && seen->id[0] != '\0' && seen->since_ms < began_ms)
                finish(sweep, seen);
        }
    }
    return NULL;
}

int group_sweep_new(struct group_sweep **ret, struct controller *controller, uint64_t after_s,
                    struct error *err)
{
    struct group_sweep *sweep = calloc(1, sizeof(*sweep));
    pthread_condattr_t attributes;
    int r;

    if (!sweep)
        return error_errno(err, ENOMEM, "the sweep's thread");
    sweep->controller = controller;
    sweep->after_ms = after_s * 1000;
    sweep->period_ms = MIN(MAX(sweep->after_ms / 4, PERIOD_MIN_MS), PERIOD_MAX_MS);
    pthread_mutex_init(&sweep->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&sweep->wake, &attributes);
    pthread_condattr_destroy(&attributes);
    r = pthread_create(&sweep->thread, NULL, run, sweep);
    if (r != 0) {
        free(sweep);
        return error_errno(err, r, "the sweep's thread");
    }
    *ret = sweep;
    return E_OK;
}

struct group_sweep *group_sweep_free(struct group_sweep *sweep)
{
    if (!sweep)
        return NULL;
    pthread_mutex_lock(&sweep->lock);
    sweep->stopping = true;
    pthread_cond_signal(&sweep->wake);
    pthread_mutex_unlock(&sweep->lock);
    pthread_join(sweep->thread, NULL);
    pthread_cond_destroy(&sweep->wake);
    pthread_mutex_destroy(&sweep->lock);
    free(sweep);
    return NULL;
}
