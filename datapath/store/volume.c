/*
 * One volume: its references, its operation slot, and the one way in which its record changes. Accessors take
 * memory locks only; what commits blocks. See store_internal.h for the locks.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/strings.h"
#include "common/time.h"
#include "datapath/store/content.h"
#include "datapath/store/store_internal.h"

/* ---- life ---- */

int volume_new(struct store *store, struct volume_record *record, struct volume **ret, struct error *err)
{
    struct volume *volume = calloc(1, sizeof(*volume));

    if (!volume)
        return error_errno(err, ENOMEM, "cannot hold volume %s", record->id);
    volume->store = store;
    str_copy(volume->id, sizeof(volume->id), record->id);
    atomic_init(&volume->size_bytes, record->size_bytes);
    volume->block_size_bytes = record->block_size_bytes;
    volume->thick = record->thick;
    atomic_init(&volume->refs, 1);
    atomic_init(&volume->write_failed, record->write_failed);
    atomic_init(&volume->deleted, false);
    atomic_init(&volume->content, record->content);
    atomic_init(&volume->image, NULL);
    atomic_init(&volume->owner_data, NULL);
    pthread_mutex_init(&volume->record_lock, NULL);
    pthread_mutex_init(&volume->view_lock, NULL);
    pthread_mutex_init(&volume->slot_lock, NULL);
    pthread_mutex_init(&volume->image_lock, NULL);
    volume->record = *record;
    memset(record, 0, sizeof(*record));
    *ret = volume;
    return E_OK;
}

static void volume_free(struct volume *volume)
{
    image_free(atomic_load(&volume->image));
    free(volume->unreadable);
    volume_record_done(&volume->record);
    pthread_mutex_destroy(&volume->record_lock);
    pthread_mutex_destroy(&volume->view_lock);
    pthread_mutex_destroy(&volume->slot_lock);
    pthread_mutex_destroy(&volume->image_lock);
    free(volume);
}

struct volume *volume_ref(struct volume *volume)
{
    atomic_fetch_add(&volume->refs, 1);
    return volume;
}

struct volume *volume_unref(struct volume *volume)
{
    if (volume && atomic_fetch_sub(&volume->refs, 1) == 1)
        volume_free(volume);
    return NULL;
}

/* ---- looking ---- */

const char *volume_id(const struct volume *volume)
{
    return volume->id;
}

uint64_t volume_size_bytes(const struct volume *volume)
{
    return atomic_load(&volume->size_bytes);
}

uint32_t volume_block_size_bytes(const struct volume *volume)
{
    return volume->block_size_bytes;
}

bool volume_is_thick(const struct volume *volume)
{
    return volume->thick;
}

bool volume_write_failed(const struct volume *volume)
{
    return atomic_load(&volume->write_failed);
}

bool volume_deleted(const struct volume *volume)
{
    return atomic_load(&volume->deleted);
}

int volume_check_readable(const struct volume *volume, struct error *err)
{
    if (!volume->unreadable)
        return E_OK;
    return error_set(
        err, E_CORRUPT,
        "%s: this volume alone is not served until its files are put right and mooring-target is "
        "started again",
        volume->unreadable);
}

int volume_snapshot_record(struct volume *volume, struct volume_record *ret_record)
{
    struct volume_record copy;
    int r;

    pthread_mutex_lock(&volume->view_lock);
    r = volume_record_copy(&copy, &volume->record);
    pthread_mutex_unlock(&volume->view_lock);
    if (r < 0)
        return r;
    copy.write_failed |= atomic_load(&volume->write_failed);
    *ret_record = copy;
    return 0;
}

void volume_set_owner_data(struct volume *volume, void *data)
{
    atomic_store(&volume->owner_data, data);
}

void *volume_owner_data(struct volume *volume)
{
    return atomic_load(&volume->owner_data);
}

/* ---- the image ---- */

int volume_image(struct volume *volume, struct image **ret, struct error *err)
{
    struct image *image = atomic_load(&volume->image);
    int r = E_OK;

    if (image) {
        *ret = image;
        return E_OK;
    }
    pthread_mutex_lock(&volume->image_lock);
    image = atomic_load(&volume->image);
    if (!image && volume_deleted(volume))
        r = error_set(err, E_NOT_FOUND, "volume %s was deleted", volume->id);
    else if (!image)
        r = volume_check_readable(volume, err);
    if (r == E_OK && !image)
        r = image_new(volume, &image, err);
    if (r == E_OK) {
        atomic_store(&volume->image, image);
        *ret = image;
    }
    pthread_mutex_unlock(&volume->image_lock);
    return r;
}

/* What went wrong with its files, or that they are gone. */
static int volume_failed(struct volume *volume, int r, struct error *err)
{
    bool deleted;

    pthread_mutex_lock(&volume->record_lock); /* a delete that took the files marks it before it lets go */
    deleted = volume_deleted(volume);
    pthread_mutex_unlock(&volume->record_lock);
    return deleted ? error_set(err, E_NOT_FOUND, "volume %s was deleted", volume->id) : r;
}

static int volume_check_there(const struct volume *volume, struct error *err)
{
    if (volume_deleted(volume))
        return error_set(err, E_NOT_FOUND, "volume %s was deleted", volume->id);
    return volume_check_readable(volume, err);
}

int volume_used_bytes(struct volume *volume, uint64_t *ret_bytes, struct error *err)
{
    const struct store *store = volume->store;
    int r = volume_check_there(volume, err);

    if (r != E_OK)
        return r;
    r = store->ops->volume_used(store->backend, volume->id, ret_bytes, err);
    return r == E_OK ? r : volume_failed(volume, r, err);
}

int volume_exclusive_bytes(struct volume *volume, uint64_t *ret_bytes, struct error *err)
{
    const struct backend_ops *ops = volume->store->ops;
    struct volume_record record = {0};
    struct backend_image *image;
    int r = volume_check_there(volume, err);

    if (r != E_OK)
        return r;
    if (volume_snapshot_record(volume, &record) < 0)
        return error_errno(err, ENOMEM, "cannot tell the space of volume %s", volume->id);
    r = ops->image_open(volume->store->backend, &record, &image, err);
    volume_record_done(&record);
    if (r != E_OK)
        return volume_failed(volume, r, err);
    r = ops->image_exclusive(image, ret_bytes, err);
    ops->image_close(image);
    return r;
}

/* ---- the operation slot ---- */

int volume_operation_begin(struct volume *volume, const char *what, struct error *err)
{
    int r = E_OK;

    assert(what[0] != '\0' && strlen(what) < OPERATION_WORDS_MAX);
    pthread_mutex_lock(&volume->slot_lock);
    if (volume->operation[0] != '\0') {
        uint64_t since_ms = (time_now_ns() - volume->operation_since_ns) / 1000000;

        r = error_set(err, E_BUSY,
                      "volume %s: %s has been running for %" PRIu64 ".%03" PRIu64 " s: retry later",
                      volume->id, volume->operation, since_ms / 1000, since_ms % 1000);
    } else {
        str_copy(volume->operation, sizeof(volume->operation), what);
        volume->operation_since_ns = time_now_ns();
    }
    pthread_mutex_unlock(&volume->slot_lock);
    return r;
}

void volume_operation_end(struct volume *volume)
{
    pthread_mutex_lock(&volume->slot_lock);
    assert(volume->operation[0] != '\0');
    volume->operation[0] = '\0';
    pthread_mutex_unlock(&volume->slot_lock);
}

/* ---- the record ---- */

/* Make *record, durable already, what the volume is; the old one is released in its place. */
static void record_replace_locked(struct volume *volume, struct volume_record *record)
{
    struct volume_record old;

    pthread_mutex_lock(&volume->view_lock);
    old = volume->record;
    volume->record = *record;
    pthread_mutex_unlock(&volume->view_lock);
    atomic_store(&volume->write_failed, record->write_failed);
    atomic_store(&volume->content, record->content);
    atomic_store(&volume->size_bytes, record->size_bytes);
    memset(record, 0, sizeof(*record));
    volume_record_done(&old);
}

/* After a commit that failed, at its last sync for one, the disk may have either record. Put the old one back
 * before anything is decided on it; until that succeeds, nothing is. */
static int settle_locked(struct volume *volume, struct error *err)
{
    const struct store *store = volume->store;
    struct volume_record standing = volume->record;
    int r;

    if (!volume->unsettled)
        return E_OK;
    standing.write_failed |= atomic_load(&volume->write_failed); /* a mark is never taken back */
    r = store->ops->volume_save(store->backend, &standing, err);
    volume->unsettled = r != E_OK;
    return r;
}

static int update_locked(struct volume *volume, volume_edit edit, void *context, struct error *err)
{
    const struct store *store = volume->store;
    struct volume_record copy = {0};
    int r;

    if (volume_deleted(volume))
        return error_set(err, E_NOT_FOUND, "volume %s was deleted", volume->id);
    r = volume_check_readable(volume, err);
    if (r == E_OK)
        r = settle_locked(volume, err);
    if (r != E_OK)
        return r;
    if (volume_record_copy(&copy, &volume->record) < 0)
        return error_errno(err, ENOMEM, "cannot change volume %s", volume->id);
    /* A mark whose own commit failed: whichever commit comes next makes it durable, or an operator clears it.
     */
    copy.write_failed |= atomic_load(&volume->write_failed);
    r = edit(&copy, context, err);
    if (r == E_OK) {
        assert(str_equal(copy.id, volume->id) && copy.size_bytes >= volume->record.size_bytes);
        copy.record_generation = volume->record.record_generation + 1;
        r = store->ops->volume_save(store->backend, &copy, err);
        volume->unsettled = r != E_OK;
        if (r == E_OK)
            record_replace_locked(volume, &copy);
        else
            settle_locked(volume, NULL);
    }
    volume_record_done(&copy);
    return r == VOLUME_UNCHANGED ? E_OK : r;
}

/* E_STALE unless the record is the one that the caller decided on. */
static int check_generation(const struct volume_record *record, uint64_t record_generation, struct error *err)
{
    if (record->record_generation == record_generation)
        return E_OK;
    return error_set(err, E_STALE,
                     "volume %s was changed meanwhile: its record is of generation %" PRIu64 ", not %" PRIu64,
                     record->id, record->record_generation, record_generation);
}

int volume_update(struct volume *volume, volume_edit edit, void *context, struct error *err)
{
    int r;

    pthread_mutex_lock(&volume->record_lock);
    r = update_locked(volume, edit, context, err);
    pthread_mutex_unlock(&volume->record_lock);
    return r;
}

/* ---- size and limits ---- */

static int set_size(struct volume_record *record, void *context, struct error *err)
{
    (void)err;
    record->size_bytes = *(const uint64_t *)context;
    return E_OK;
}

/* The data first: a record that says more than there is would be of a damaged volume. */
static int grow_locked(struct volume *volume, uint64_t size_bytes, struct error *err)
{
    const struct backend_ops *ops = volume->store->ops;
    struct backend *backend = volume->store->backend;
    uint64_t more_bytes = size_bytes - volume->record.size_bytes;
    int r;

    r = store_promise(volume->store, more_bytes, err);
    if (r != E_OK)
        return r;
    r = ops->volume_grow(backend, &volume->record, size_bytes, err);
    if (r == E_OK)
        r = update_locked(volume, set_size, &size_bytes, err);
    if (r == E_OK)
        return r;
    store_promise_release(volume->store, more_bytes);
    if (!volume->unsettled) /* else the disk may have the record that needs it all */
        ops->volume_shrink(backend, &volume->record);
    return r;
}

static int expand_locked(struct volume *volume, uint64_t size_bytes, uint64_t record_generation,
                         struct error *err)
{
    int r;

    if (volume_deleted(volume))
        return error_set(err, E_NOT_FOUND, "volume %s was deleted", volume->id);
    r = volume_check_readable(volume, err);
    if (r == E_OK)
        r = settle_locked(volume, err);
    if (r != E_OK || size_bytes <= volume->record.size_bytes)
        return r;
    r = check_generation(&volume->record, record_generation, err);
    return r == E_OK ? grow_locked(volume, size_bytes, err) : r;
}

int volume_expand(struct volume *volume, uint64_t size_bytes, uint64_t record_generation, struct error *err)
{
    int r;

    if (size_bytes > INT64_MAX || size_bytes % volume->block_size_bytes != 0)
        return error_set(err, E_OUT_OF_RANGE,
                         "a size of %" PRIu64 " bytes: it must be a multiple of %" PRIu32, size_bytes,
                         volume->block_size_bytes);
    pthread_mutex_lock(&volume->record_lock);
    r = expand_locked(volume, size_bytes, record_generation, err);
    pthread_mutex_unlock(&volume->record_lock);
    if (r < 0) /* it may have been a flush */
        store_flush_record(volume->store, NULL);
    return r;
}

struct limits_change {
    const struct volume_limits *limits;
    uint64_t record_generation;
};

static int set_limits(struct volume_record *record, void *context, struct error *err)
{
    const struct limits_change *change = context;
    int r;

    if (record->limits.iops == change->limits->iops &&
        record->limits.bytes_per_s == change->limits->bytes_per_s &&
        record->limits.burst_s == change->limits->burst_s)
        return VOLUME_UNCHANGED;
    r = check_generation(record, change->record_generation, err);
    if (r == E_OK)
        record->limits = *change->limits;
    return r;
}

int volume_set_limits(struct volume *volume, const struct volume_limits *limits, uint64_t record_generation,
                      struct error *err)
{
    struct limits_change change = {limits, record_generation};

    return volume_update(volume, set_limits, &change, err);
}

/* ---- what the data path records ---- */

static int set_write_failed(struct volume_record *record, void *context, struct error *err)
{
    (void)context;
    (void)err;
    record->write_failed = true;
    return E_OK;
}

int volume_mark_write_failed(struct volume *volume, struct error *err)
{
    int r;

    atomic_store(&volume->write_failed, true);
    pthread_mutex_lock(&volume->record_lock);
    /* Again: a commit that cleared an older failure may have ended since. */
    atomic_store(&volume->write_failed, true);
    r = volume->record.write_failed ? E_OK : update_locked(volume, set_write_failed, NULL, err);
    pthread_mutex_unlock(&volume->record_lock);
    return r;
}

bool volume_write_marks(struct volume *volume, uint64_t epoch, uint64_t generation)
{
    bool marks;

    if (atomic_load(&volume->content) == VOLUME_DATA)
        return false;
    pthread_mutex_lock(&volume->view_lock);
    marks = content_write_marks(&volume->record, epoch, generation);
    pthread_mutex_unlock(&volume->view_lock);
    return marks;
}

struct writer {
    uint64_t epoch, generation;
};

static int set_data(struct volume_record *record, void *context, struct error *err)
{
    const struct writer *writer = context;

    (void)err;
    if (!content_write_marks(record, writer->epoch, writer->generation))
        return VOLUME_UNCHANGED;
    content_mark_data(record);
    return E_OK;
}

int volume_mark_data(struct volume *volume, uint64_t epoch, uint64_t generation, struct error *err)
{
    struct writer writer = {epoch, generation};

    return volume_update(volume, set_data, &writer, err);
}
