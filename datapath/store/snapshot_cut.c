/*
 * Cuts that outlive their copying. A copy cannot be taken up again by the next process: which ranges were
 * shared, and which were changed since, only this one's memory knows, and a guess would be a snapshot of no
 * moment at all. So what can be kept is that there was a cut: recorded before anybody goes by it, it becomes
 * the snapshot, in one step, or stays as one that is lost. Without it, a repeat would cut again at another
 * time, under the same name.
 *
 * Called from any thread but a loop's; what becomes of a copy, from its thread. See store_internal.h for the
 * locks.
 */
#include <jansson.h>
#include <stdio.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/record.h"
#include "common/strings.h"
#include "common/time.h"
#include "datapath/store/copy.h"
#include "datapath/store/snapshot.h"
#include "datapath/store/store_internal.h"

/* What the record of a cut says from the first: true whenever another process reads it. */
#define LOST_WITH_ITS_SERVER "its storage server ended before it was whole"

/* ---- looking ---- */

bool snapshot_cut_recorded(const struct snapshot *snapshot)
{
    return atomic_load(&snapshot->cut_recorded) || atomic_load(&snapshot->state) == SNAPSHOT_READY;
}

int snapshot_check_lost(struct snapshot *snapshot, struct error *err)
{
    struct snapshot_record record;
    char when[24];

    if (atomic_load(&snapshot->state) != SNAPSHOT_LOST)
        return E_OK;
    snapshot_copy_record(snapshot, &record);
    time_format_utc((time_t)(record.created_unix_ns / 1000000000), when);
    return error_set(err, E_CORRUPT,
                     "snapshot %s of volume %s, cut at %s, is lost: %s; delete it and take another",
                     record.id, record.source_volume_id, when, record.lost);
}

/* ---- recording ---- */

/* As much of it as there is room for; a record must be UTF-8. */
static void say_why(char lost[SNAPSHOT_LOST_MAX], const char *why)
{
    _cleanup_json_ json_t *utf8 = NULL;

    snprintf(lost, SNAPSHOT_LOST_MAX, "%s", why);
    utf8 = json_string(lost);
    if (!utf8 || lost[0] == '\0')
        snprintf(lost, SNAPSHOT_LOST_MAX, "its copying failed");
}

static int record_cut_locked(struct snapshot *snapshot, struct error *err)
{
    struct snapshot_record record = snapshot->record;
    struct store *store = snapshot->store;
    int r;

    say_why(record.lost, LOST_WITH_ITS_SERVER);
    r = store->ops->snapshot_record_cut(store->backend, &record, err);
    if (r == E_OK)
        atomic_store(&snapshot->cut_recorded, true);
    else
        snapshot->unsettled = true;
    return r;
}

int snapshot_record_cut(struct snapshot *snapshot, struct error *err)
{
    int r = E_OK;

    if (snapshot->record.group_id[0] != '\0') /* nobody is told of a group that is not ready */
        return error_set(err, E_INVALID_ARGUMENT, "the cut of snapshot %s is not recorded: it is of a group",
                         snapshot->id);
    pthread_mutex_lock(&snapshot->record_lock);
    switch (atomic_load(&snapshot->state)) {
    case SNAPSHOT_COPYING:
        if (!atomic_load(&snapshot->cut_recorded))
            r = record_cut_locked(snapshot, err);
        break;
    case SNAPSHOT_READY:
        break;
    case SNAPSHOT_LOST:
        r = snapshot_check_lost(snapshot, err);
        break;
    case SNAPSHOT_GONE:
        r = error_set(err, E_BUSY, "snapshot %s came to nothing before its cut was recorded: retry",
                      snapshot->id);
        break;
    }
    pthread_mutex_unlock(&snapshot->record_lock);
    return r;
}

/* ---- what becomes of it when its copy has failed ---- */

/* What the record says already is enough, where this cannot be added. */
static void lose_locked(struct snapshot *snapshot, int result, const struct error *why)
{
    struct store *store = snapshot->store;
    struct snapshot_record record = snapshot->record;
    _cleanup_error_ struct error err = {0};

    say_why(record.lost, error_text(why));
    if (result != E_CANCELLED && store->ops->snapshot_save(store->backend, &record, &err) != E_OK)
        log_warning("snapshot %s: why it is lost is not recorded: %s", snapshot->id, error_text(&err));
    pthread_mutex_lock(&snapshot->view_lock);
    str_copy(snapshot->record.lost, sizeof(snapshot->record.lost), record.lost);
    pthread_mutex_unlock(&snapshot->view_lock);
    pthread_rwlock_wrlock(&store->index_lock);
    store->promised_bytes -= snapshot->promised_bytes;
    snapshot->promised_bytes = 0;
    pthread_rwlock_unlock(&store->index_lock);
    atomic_store(&snapshot->state, SNAPSHOT_LOST);
}

/* Its cut could not be recorded, and the disk may have it all the same. */
static void take_back_locked(struct snapshot *snapshot)
{
    struct store *store = snapshot->store;
    _cleanup_error_ struct error err = {0};

    if (store->ops->snapshot_delete(store->backend, snapshot->id, &err) != E_OK)
        log_warning("snapshot %s may be found lost at the next start: %s", snapshot->id, error_text(&err));
}

void snapshot_not_copied(struct copy *copy, int result, const struct error *why)
{
    struct snapshot *snapshot = copy->made;

    pthread_mutex_lock(&snapshot->record_lock);
    if (atomic_load(&snapshot->cut_recorded)) {
        lose_locked(snapshot, result, why);
    } else {
        if (snapshot->unsettled)
            take_back_locked(snapshot);
        snapshot_gone(snapshot);
    }
    pthread_mutex_unlock(&snapshot->record_lock);
}
