/*
 * Copies under way: each shares its source's ranges on a thread of its own, since the calls that do it block,
 * and then becomes a snapshot or a volume, or nothing. Begun and waited for by threads that may block.
 *
 * A batch is as many extents as take about BATCH_NS, found by trying: FICLONERANGE keeps all writers of the
 * file waiting (and before Linux 6.8 all readers), for a time that goes with the number of extents. Between
 * two batches of a volume in use as long a pause is made, which ends when a range is wanted.
 */
#include "datapath/store/copy.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/size.h"
#include "common/strings.h"
#include "common/time.h"

#define BATCH_NS 2000000u
#define STOP_WAIT_MS 2000
#define BATCH_EXTENTS_MIN 8u
#define BATCH_EXTENTS_MAX 512u

/* ---- life ---- */

int copy_new(struct store *store, const char *id, const char *source_id, struct backend_image *source,
             uint64_t size_bytes, struct copy **ret, struct error *err)
{
    struct copy *copy = calloc(1, sizeof(*copy));
    pthread_condattr_t attributes;
    int r;

    if (!copy) {
        store->ops->image_close(source);
        return error_errno(err, ENOMEM, "cannot make %s", id);
    }
    copy->store = store;
    atomic_init(&copy->refs, 1);
    str_copy(copy->id, sizeof(copy->id), id);
    str_copy(copy->source_id, sizeof(copy->source_id), source_id);
    copy->source = source;
    pthread_mutex_init(&copy->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&copy->ended_cond, &attributes);
    pthread_condattr_destroy(&attributes);
    r = image_copy_new(size_bytes, &copy->ranges);
    r = r < 0 ? error_errno(err, -r, "cannot make %s", id)
              : store->ops->copy_new(store->backend, id, source, size_bytes, &copy->backend, err);
    if (r != E_OK) {
        copy_unref(copy);
        return r;
    }
    *ret = copy;
    return E_OK;
}

struct copy *copy_ref(struct copy *copy)
{
    atomic_fetch_add(&copy->refs, 1);
    return copy;
}

static void copy_discard(struct copy *copy)
{
    if (copy->backend)
        copy->store->ops->copy_free(copy->backend);
    copy->backend = NULL;
}

/* What it holds of the store and of the disk: gone before it is seen to have ended. */
static void copy_let_go(struct copy *copy)
{
    copy_discard(copy);
    if (copy->source)
        copy->store->ops->image_close(copy->source);
    copy->source = NULL;
    copy->volume = volume_unref(copy->volume);
    if (copy->from)
        copy->from = snapshot_unref(copy->from);
    if (copy->made)
        copy->made = snapshot_unref(copy->made);
}

struct copy *copy_unref(struct copy *copy)
{
    if (!copy || atomic_fetch_sub(&copy->refs, 1) != 1)
        return NULL;
    copy_let_go(copy);
    image_copy_free(copy->ranges);
    volume_record_done(&copy->record);
    pthread_mutex_destroy(&copy->lock);
    pthread_cond_destroy(&copy->ended_cond);
    free(copy->words);
    free(copy);
    return NULL;
}

/* ---- the work ---- */

static int share_next(struct copy *copy, uint64_t offset, uint64_t end, bool wanted, unsigned *extents_max)
{
    const struct backend_ops *ops = copy->store->ops;
    uint64_t began_ns, took_ns;
    bool hole = false;
    int r = 0;

    /* One range alone is not worth a look at its extents. */
    if (end > image_copy_round(copy->ranges, offset, offset))
        r = ops->copy_plan(copy->backend, offset, end, *extents_max, &end, &hole);
    if (r != 0)
        return r;
    end = image_copy_round(copy->ranges, offset, end);
    began_ns = time_now_ns();
    if (!hole)
        r = ops->copy_share(copy->backend, offset, end);
    if (r != 0)
        return r;
    took_ns = time_now_ns() - began_ns;
    image_copy_shared(copy->ranges, offset, end);
    if (hole || wanted)
        return 0;
    if (took_ns > 2 * BATCH_NS)
        *extents_max = MAX(*extents_max / 2, BATCH_EXTENTS_MIN);
    else if (took_ns < BATCH_NS / 2)
        *extents_max = MIN(*extents_max * 2, BATCH_EXTENTS_MAX);
    image_copy_pause(copy->ranges, MIN(took_ns, 2 * BATCH_NS));
    return 0;
}

static int share_all(struct copy *copy, struct error *err)
{
    unsigned extents_max = 4 * BATCH_EXTENTS_MIN;
    uint64_t offset, end;
    bool wanted;

    while (image_copy_next(copy->ranges, &offset, &end, &wanted)) {
        int r = atomic_load(&copy->cancelled_ms) ? E_CANCELLED
                                                 : share_next(copy, offset, end, wanted, &extents_max);

        if (r == E_CANCELLED)
            return error_set(err, r, "%s was deleted while it was made", copy->id);
        if (r == E_NO_SPACE)
            return error_set(err, r, "cannot make %s: the pool's file system is full", copy->id);
        if (r != 0)
            return error_errno(err, -r, "cannot share the data of %s", copy->id);
    }
    return E_OK;
}

/* What was answered before the cut may have been lost by the disk since: no good copy of anything. */
static int check_source(const struct copy *copy, struct error *err)
{
    if (!copy->volume || !volume_write_failed(copy->volume))
        return E_OK;
    return error_set(err, E_PRECONDITION,
                     "volume %s is write-failed: its newest data may be lost, so that no copy is made until "
                     "an operator clears it",
                     copy->volume->id);
}

/* Looked at when all is stable: what the disk lost before, the source has been told of. */
static int complete(struct copy *copy, struct error *err)
{
    struct store *store = copy->store;
    int r = store->ops->copy_complete(copy->backend, copy->made ? NULL : &copy->record, err);

    if (r < 0) /* it may have been the flush */
        store_flush_record(store, NULL);
    return r == E_OK ? check_source(copy, err) : r;
}

static void copy_leave(struct copy *copy)
{
    struct store *store = copy->store;

    pthread_rwlock_wrlock(&store->index_lock);
    for (size_t i = 0; i < store->copies_count; i++) {
        if (store->copies[i] == copy) {
            store->copies[i] = store->copies[--store->copies_count];
            break;
        }
    }
    pthread_rwlock_unlock(&store->index_lock);
}

/* From when it has left the list, the store may be closed at any moment. */
static void copy_finish(struct copy *copy, int r, struct error *err)
{
    if (r != E_OK && r != E_CANCELLED)
        log_warning("%s is not made: %s", copy->id, error_text(err));
    copy_discard(copy); /* before its id is free: what is made anew by that is built in the same place */
    if (r != E_OK && copy->made)
        snapshot_not_copied(copy, r, err);
    else if (r != E_OK)
        store_volume_not_copied(copy);
    copy_let_go(copy);
    copy_leave(copy);
    pthread_mutex_lock(&copy->lock);
    copy->ended = true;
    copy->result = r;
    copy->words = r != E_OK ? strdup(error_text(err)) : NULL;
    pthread_cond_broadcast(&copy->ended_cond);
    pthread_mutex_unlock(&copy->lock);
    copy_unref(copy); /* the thread's */
}

static void *copy_run(void *context)
{
    _cleanup_error_ struct error err = {0};
    struct copy *copy = context;
    int r = share_all(copy, &err);

    image_copy_end(copy->ranges);
    if (r == E_OK)
        r = complete(copy, &err);
    if (r == E_OK)
        r = copy->made ? snapshot_copied(copy, &err) : store_volume_copied(copy, &err);
    copy_finish(copy, r, &err);
    return NULL;
}

/* ---- beginning ---- */

int copy_enter_locked(struct copy *copy, struct image *image, struct error *err)
{
    struct store *store = copy->store;
    int r = check_source(copy, err);

    if (r != E_OK)
        return r;
    if (store->copies_count == STORE_COPIES_TOTAL)
        return error_set(err, E_BUSY, "%d copies are under way on server %s: retry later", STORE_COPIES_TOTAL,
                         store->server_id);
    r = image ? image_copy_begin(image, copy->ranges, err) : E_OK;
    if (r == E_OK)
        store->copies[store->copies_count++] = copy;
    return r;
}

void copy_start(struct copy *copy)
{
    _cleanup_error_ struct error err = {0};
    pthread_attr_t attributes;
    pthread_t thread;
    int r;

    copy_ref(copy); /* the thread's */
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    r = pthread_create(&thread, &attributes, copy_run, copy);
    pthread_attr_destroy(&attributes);
    if (r == 0)
        return;
    image_copy_end(copy->ranges);
    copy_finish(copy, error_errno(&err, r, "cannot start a thread to make %s", copy->id), &err);
}

/* ---- the list ---- */

struct copy *copy_find(struct store *store, const char *id)
{
    struct copy *found = NULL;

    pthread_rwlock_rdlock(&store->index_lock);
    for (size_t i = 0; i < store->copies_count && !found; i++) {
        if (str_equal(store->copies[i]->id, id))
            found = copy_ref(store->copies[i]);
    }
    pthread_rwlock_unlock(&store->index_lock);
    return found;
}

bool copy_reads_locked(const struct store *store, const char *source_id)
{
    for (size_t i = 0; i < store->copies_count; i++) {
        if (str_equal(store->copies[i]->source_id, source_id))
            return true;
    }
    return false;
}

/* False when it has not ended until then. */
static bool stop(struct copy *copy, uint64_t until_ms)
{
    uint64_t never = 0;

    atomic_compare_exchange_strong(&copy->cancelled_ms, &never, time_now_ms());
    copy_wait(copy, until_ms, NULL);
    pthread_mutex_lock(&copy->lock);
    bool ended = copy->ended;
    pthread_mutex_unlock(&copy->lock);
    return ended;
}

int copy_stop(struct store *store, const char *id, struct error *err)
{
    uint64_t until_ms = time_now_ms() + STOP_WAIT_MS;
    struct copy *copy;
    int r = E_OK;

    while (r == E_OK && (copy = copy_find(store, id))) {
        if (!stop(copy, until_ms))
            r = error_set(err, E_BUSY,
                          "%s is being made of %s, and was told to stop %" PRIu64
                          " ms ago: the pool's disk keeps it, retry",
                          id, copy->source_id, time_now_ms() - atomic_load(&copy->cancelled_ms));
        copy_unref(copy);
    }
    return r;
}

void copy_stop_all(struct store *store)
{
    struct copy *copy;

    do {
        pthread_rwlock_rdlock(&store->index_lock);
        copy = store->copies_count > 0 ? copy_ref(store->copies[0]) : NULL;
        pthread_rwlock_unlock(&store->index_lock);
        if (copy)
            stop(copy, UINT64_MAX);
        copy_unref(copy);
    } while (copy);
}

/* ---- waiting ---- */

int copy_wait(struct copy *copy, uint64_t until_ms, struct error *err)
{
    struct timespec until = {(time_t)MIN(until_ms / 1000, (uint64_t)INT32_MAX),
                             (long)(until_ms % 1000) * 1000000};
    int r = 0;

    pthread_mutex_lock(&copy->lock);
    while (!copy->ended && r == 0)
        r = pthread_cond_timedwait(&copy->ended_cond, &copy->lock, &until);
    if (!copy->ended)
        r = error_set(err, E_DEADLINE, "%s is being made: %u %% are shared", copy->id,
                      copy_progress_percent(copy));
    else if (copy->result != E_OK)
        r = error_set(err, copy->result, "%s", copy->words ? copy->words : "out of memory");
    else
        r = E_OK;
    pthread_mutex_unlock(&copy->lock);
    return r;
}

unsigned copy_progress_percent(const struct copy *copy)
{
    return image_copy_percent(copy->ranges);
}
