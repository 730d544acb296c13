/*
 * What the scrub knows: how far a round is, when each file was last read whole, and what could not be read.
 * In memory under one lock that is held for memory alone, and in one record of the pool. Changed by whoever
 * steps, by writers and deletions (scrub_note_change(), scrub_forget()); read by all.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/record.h"
#include "common/size.h"
#include "common/strings.h"
#include "datapath/store/scrub_internal.h"
#include "datapath/store/snapshot.h"

#define RANGES_TOTAL 4096u /* of all files; from there on one for each file */

/* ---- entries ---- */

static const char *entry_key(const void *item)
{
    return ((const struct scrub_entry *)item)->id;
}

/* Is there such a volume or snapshot (still)? */
static bool exists(struct store *store, const char *id)
{
    bool found, volume;

    pthread_rwlock_rdlock(&store->index_lock);
    index_position(&store->volumes, id, &volume);
    index_position(&store->snapshots, id, &found);
    pthread_rwlock_unlock(&store->index_lock);
    return found || volume;
}

/* Made when there is none. NULL: it was deleted, which calls scrub_forget() afterwards, or there is no
 * memory. */
static struct scrub_entry *entry_locked(struct scrub *scrub, const char *id)
{
    struct scrub_entry *entry = index_find(&scrub->entries, id);

    if (entry)
        return entry;
    entry = exists(scrub->store, id) ? calloc(1, sizeof(*entry)) : NULL;
    if (!entry)
        return NULL;
    str_copy(entry->id, sizeof(entry->id), id);
    if (index_insert(&scrub->entries, entry) < 0) {
        free(entry);
        return NULL;
    }
    return entry;
}

static void entry_free(struct scrub_entry *entry)
{
    scrub_ranges_done(&entry->ranges);
    free(entry);
}

void scrub_state_done(struct scrub *scrub)
{
    for (size_t i = 0; i < scrub->entries.count; i++)
        entry_free(scrub->entries.items[i]);
    index_done(&scrub->entries);
}

/* ---- what was read ---- */

void scrub_state_readable(struct scrub *scrub, const char *id, uint64_t from, uint64_t to)
{
    struct scrub_entry *entry;

    pthread_mutex_lock(&scrub->lock);
    entry = index_find(&scrub->entries, id);
    if (entry && entry->ranges.count > 0) {
        scrub->ranges_count -= entry->ranges.count;
        scrub_ranges_clear(&entry->ranges, from, to);
        scrub->ranges_count += entry->ranges.count;
    }
    scrub->changed = true;
    pthread_mutex_unlock(&scrub->lock);
}

static bool known_locked(const struct scrub_entry *entry, uint64_t from)
{
    for (size_t i = 0; i < entry->ranges.count; i++) {
        if (entry->ranges.items[i].offset <= from && from < entry->ranges.items[i].end)
            return true;
    }
    return false;
}

bool scrub_state_unreadable(struct scrub *scrub, const char *id, uint64_t from, uint64_t to, int errnum)
{
    struct scrub_range range = {
        .offset = from, .end = to, .errnum = errnum, .since_unix_s = scrub->options.unix_s()};
    struct scrub_entry *entry;
    bool known = false;

    pthread_mutex_lock(&scrub->lock);
    entry = entry_locked(scrub, id);
    if (entry) {
        known = known_locked(entry, from);
        scrub->ranges_count -= entry->ranges.count;
        scrub_ranges_add(&entry->ranges, &range, scrub->ranges_count < RANGES_TOTAL ? SCRUB_RANGES_MAX : 1);
        scrub->ranges_count += entry->ranges.count;
        scrub->changed = scrub->urgent = true;
    }
    pthread_mutex_unlock(&scrub->lock);
    return known;
}

uint64_t scrub_state_whole(struct scrub *scrub, const char *id)
{
    struct scrub_entry *entry;
    uint64_t unreadable = 0;

    pthread_mutex_lock(&scrub->lock);
    entry = entry_locked(scrub, id);
    if (entry) {
        entry->read_unix_s = scrub->options.unix_s();
        unreadable = scrub_ranges_bytes(&entry->ranges);
    }
    scrub->round.files_count++;
    scrub->round.unreadable_bytes += unreadable;
    scrub->changed = true;
    pthread_mutex_unlock(&scrub->lock);
    scrub_state_watch(scrub, id, false);
    return unreadable;
}

/* ---- what changes ---- */

void scrub_state_watch(struct scrub *scrub, const char *id, bool always)
{
    struct volume *volume = store_volume_find(scrub->store, id);
    const struct scrub_entry *entry;

    if (!volume)
        return; /* a snapshot: it does not change */
    pthread_mutex_lock(&scrub->lock);
    entry = index_find(&scrub->entries, id);
    atomic_store(&volume->suspect, always || (entry && entry->ranges.count > 0));
    pthread_mutex_unlock(&scrub->lock);
    volume_unref(volume);
}

void scrub_note_change(struct volume *volume, uint64_t offset, uint64_t length)
{
    struct scrub *scrub = volume->store->scrub;
    struct scrub_entry *entry;

    pthread_mutex_lock(&scrub->lock);
    if (str_equal(scrub->read_id, volume->id) && offset < scrub->read_to &&
        offset + length > scrub->read_from)
        scrub->read_stale = true;
    entry = index_find(&scrub->entries, volume->id);
    if (entry) {
        scrub->ranges_count -= entry->ranges.count;
        if (scrub_ranges_rewrite(&entry->ranges, offset, offset + length))
            scrub->rewritten = scrub->poked = true;
        scrub->ranges_count += entry->ranges.count;
    }
    if (scrub->poked)
        pthread_cond_signal(&scrub->wake);
    pthread_mutex_unlock(&scrub->lock);
}

bool scrub_state_rewritten(struct scrub *scrub, char ret_id[ID_SNAPSHOT_MAX + 1], uint64_t *ret_from,
                           uint64_t *ret_to)
{
    bool found = false;

    pthread_mutex_lock(&scrub->lock);
    for (size_t i = 0; scrub->rewritten && !found && i < scrub->entries.count; i++) {
        const struct scrub_entry *entry = scrub->entries.items[i];

        for (size_t k = 0; !found && k < entry->ranges.count; k++) {
            found = entry->ranges.items[k].rewritten;
            *ret_from = entry->ranges.items[k].offset;
            *ret_to = entry->ranges.items[k].end;
        }
        if (found)
            str_copy(ret_id, ID_SNAPSHOT_MAX + 1, entry->id);
    }
    scrub->rewritten = found;
    pthread_mutex_unlock(&scrub->lock);
    return found;
}

void scrub_forget(struct store *store, const char *id)
{
    struct scrub *scrub = store->scrub;
    struct scrub_entry *entry;

    if (!scrub)
        return;
    pthread_mutex_lock(&scrub->lock);
    entry = index_remove(&scrub->entries, id);
    if (entry) {
        scrub->ranges_count -= entry->ranges.count;
        scrub->changed = true;
        entry_free(entry);
    }
    pthread_mutex_unlock(&scrub->lock);
}

/* ---- telling ---- */

uint64_t scrub_file_size(struct store *store, const char *id)
{
    struct volume *volume = store_volume_find(store, id);
    struct snapshot *snapshot = store_snapshot_find(store, id);
    struct snapshot_record record = {0};

    record.size_bytes = volume ? volume_size_bytes(volume) : 0;
    if (snapshot)
        snapshot_copy_record(snapshot, &record);
    volume_unref(volume);
    snapshot_unref(snapshot);
    return record.size_bytes;
}

/* By files, and by how far the one is that is read now. */
static unsigned progress_percent(struct store *store, const char *at, uint64_t offset)
{
    uint64_t size = scrub_file_size(store, at);
    unsigned in_file = size > 0 ? (unsigned)(MIN(offset, size) / (size / 100 + 1)) : 0;
    size_t files, done;
    bool found;

    pthread_rwlock_rdlock(&store->index_lock);
    files = store->volumes.count + store->snapshots.count;
    done = index_position(&store->volumes, at, &found) + index_position(&store->snapshots, at, &found);
    pthread_rwlock_unlock(&store->index_lock);
    return files > 0 ? (unsigned)((done * 100 + in_file) / files) : 0;
}

void store_scrub_status(struct store *store, struct scrub_status *ret)
{
    struct scrub *scrub = store->scrub;
    char at[ID_SNAPSHOT_MAX + 1];
    uint64_t offset;

    *ret = (struct scrub_status){0};
    if (!scrub)
        return;
    pthread_mutex_lock(&scrub->lock);
    ret->running = scrub->running;
    ret->last = scrub->last;
    if (scrub->running)
        ret->round = scrub->round;
    ret->bytes_per_s = scrub->options.bytes_per_s;
    ret->next_unix_s = scrub->options.bytes_per_s ? scrub->due_unix_s : 0;
    ret->unreadable = scrub->ranges_count;
    for (size_t i = 0; ret->unreadable && i < scrub->entries.count; i++) {
        const struct scrub_entry *entry = scrub->entries.items[i];

        if (entry->ranges.count > 0 && ret->unreadable_of++ == 0)
            str_copy(ret->first, sizeof(ret->first), entry->id);
    }
    str_copy(at, sizeof(at), scrub->at);
    offset = scrub->offset;
    pthread_mutex_unlock(&scrub->lock);
    if (ret->running)
        ret->progress_percent = progress_percent(store, at, offset);
}

size_t store_scrub_errors(struct store *store, const char *id, struct scrub_error *ret, size_t room)
{
    struct scrub *scrub = store->scrub;
    size_t count = 0, i = 0;
    bool found = true;

    if (!scrub)
        return 0;
    pthread_mutex_lock(&scrub->lock);
    if (id)
        i = index_position(&scrub->entries, id, &found);
    for (; found && scrub->ranges_count && i < scrub->entries.count; i++) {
        const struct scrub_entry *entry = scrub->entries.items[i];

        for (size_t k = 0; k < entry->ranges.count; k++, count++) {
            const struct scrub_range *range = &entry->ranges.items[k];

            if (count >= room)
                continue;
            ret[count] = (struct scrub_error){.offset = range->offset,
                                              .length = range->end - range->offset,
                                              .errnum = range->errnum,
                                              .since_unix_s = range->since_unix_s};
            memcpy(ret[count].id, entry->id, sizeof(entry->id));
        }
        if (id)
            break;
    }
    pthread_mutex_unlock(&scrub->lock);
    return count;
}

int64_t store_scrub_read_at(struct store *store, const char *id)
{
    struct scrub *scrub = store->scrub;
    const struct scrub_entry *entry;
    int64_t at = 0;

    if (!scrub)
        return 0;
    pthread_mutex_lock(&scrub->lock);
    entry = index_find(&scrub->entries, id);
    if (entry)
        at = entry->read_unix_s;
    pthread_mutex_unlock(&scrub->lock);
    return at;
}

/* ---- the record ---- */

static json_t *round_to_json(const struct scrub_round *round)
{
    return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "began_unix_s", (json_int_t)round->began_unix_s,
                     "ended_unix_s", (json_int_t)round->ended_unix_s, "read_bytes",
                     (json_int_t)round->read_bytes, "shared_bytes", (json_int_t)round->shared_bytes,
                     "unreadable_bytes", (json_int_t)round->unreadable_bytes, "files_count",
                     (json_int_t)round->files_count);
}

static int round_from_json(json_t *object, struct scrub_round *ret, struct error *err)
{
    uint64_t began = 0, ended = 0;
    int r;

    if ((r = record_get_uint64(object, "began_unix_s", &began, err)) != E_OK ||
        (r = record_get_uint64(object, "ended_unix_s", &ended, err)) != E_OK ||
        (r = record_get_uint64(object, "read_bytes", &ret->read_bytes, err)) != E_OK ||
        (r = record_get_uint64(object, "shared_bytes", &ret->shared_bytes, err)) != E_OK ||
        (r = record_get_uint64(object, "unreadable_bytes", &ret->unreadable_bytes, err)) != E_OK)
        return r;
    ret->began_unix_s = (int64_t)began;
    ret->ended_unix_s = (int64_t)ended;
    return record_get_uint64(object, "files_count", &ret->files_count, err);
}

static int entry_to_json(const struct scrub_entry *entry, json_t *read, json_t *unreadable)
{
    int r = 0;

    if (entry->read_unix_s)
        r = json_object_set_new(read, entry->id, json_integer(entry->read_unix_s));
    for (size_t i = 0; r == 0 && i < entry->ranges.count; i++) {
        const struct scrub_range *range = &entry->ranges.items[i];

        r = json_array_append_new(unreadable,
                                  json_pack("{s:s, s:I, s:I, s:i, s:I}", "id", entry->id, "offset",
                                            (json_int_t)range->offset, "length",
                                            (json_int_t)(range->end - range->offset), "errno", range->errnum,
                                            "since_unix_s", (json_int_t)range->since_unix_s));
    }
    return r;
}

static json_t *state_to_json_locked(const struct scrub *scrub)
{
    _cleanup_json_ json_t *read = json_object(), *unreadable = json_array();
    json_t *object;
    int r = read && unreadable ? 0 : -1;

    for (size_t i = 0; r == 0 && i < scrub->entries.count; i++)
        r = entry_to_json(scrub->entries.items[i], read, unreadable);
    if (r != 0)
        return NULL;
    object = json_pack("{s:I, s:o*, s:O, s:O}", "due_unix_s", (json_int_t)scrub->due_unix_s, "last",
                       scrub->last.began_unix_s ? round_to_json(&scrub->last) : NULL, "read", read,
                       "unreadable", unreadable);
    if (object && scrub->running &&
        (json_object_set_new(object, "round", round_to_json(&scrub->round)) != 0 ||
         json_object_set_new(object, "at", json_string(scrub->at)) != 0 ||
         json_object_set_new(object, "offset", json_integer((json_int_t)scrub->offset)) != 0)) {
        json_decref(object);
        return NULL;
    }
    return object;
}

int scrub_state_save(struct scrub *scrub, struct error *err)
{
    _cleanup_json_ json_t *object = NULL;
    int r;

    pthread_mutex_lock(&scrub->lock);
    object = state_to_json_locked(scrub);
    scrub->changed = scrub->urgent = false;
    pthread_mutex_unlock(&scrub->lock);
    r = object ? scrub->store->ops->scrub_save(scrub->store->backend, object, err)
               : error_errno(err, ENOMEM, "the scrub's record");
    if (r != E_OK) {
        pthread_mutex_lock(&scrub->lock);
        scrub->changed = true;
        pthread_mutex_unlock(&scrub->lock);
    }
    return r;
}

static int load_unreadable(struct scrub *scrub, json_t *item, struct error *err)
{
    uint64_t length = 0, errnum = 0, since = 0;
    struct scrub_range range = {.rewritten = true}; /* the disk may be another one by now */
    struct scrub_entry *entry;
    const char *id;
    int r;

    if ((r = record_get_string(item, "id", &id, err)) != E_OK ||
        (r = record_get_uint64(item, "offset", &range.offset, err)) != E_OK ||
        (r = record_get_uint64(item, "length", &length, err)) != E_OK ||
        (r = record_get_uint64(item, "errno", &errnum, err)) != E_OK ||
        (r = record_get_uint64(item, "since_unix_s", &since, err)) != E_OK)
        return r;
    if (!exists(scrub->store, id))
        return E_OK;
    if (length == 0 || range.offset + length < range.offset)
        return error_set(err, E_CORRUPT, "a range is none");
    range.end = range.offset + length;
    range.errnum = (int)errnum;
    range.since_unix_s = (int64_t)since;
    entry = entry_locked(scrub, id);
    if (!entry)
        return error_errno(err, ENOMEM, "the scrub's record");
    scrub->ranges_count -= entry->ranges.count;
    r = scrub_ranges_add(&entry->ranges, &range, SCRUB_RANGES_MAX);
    scrub->ranges_count += entry->ranges.count;
    scrub->rewritten = true;
    return r == 0 ? E_OK : error_errno(err, -r, "the scrub's record");
}

static int load_entries(struct scrub *scrub, json_t *object, struct error *err)
{
    json_t *read = json_object_get(object, "read"), *unreadable = NULL, *value;
    int r = record_get_array(object, "unreadable", &unreadable, err);
    const char *id;

    json_object_foreach(read, id, value)
    {
        struct scrub_entry *entry = exists(scrub->store, id) ? entry_locked(scrub, id) : NULL;

        if (entry)
            entry->read_unix_s = json_integer_value(value);
    }
    for (size_t i = 0; r == E_OK && i < json_array_size(unreadable); i++)
        r = load_unreadable(scrub, json_array_get(unreadable, i), err);
    return r;
}

int scrub_state_load(struct scrub *scrub, struct error *err)
{
    _cleanup_json_ json_t *object = NULL;
    json_t *round, *last;
    const char *at = "";
    uint64_t due = 0;
    int r;

    scrub->entries.key = entry_key;
    r = scrub->store->ops->scrub_load(scrub->store->backend, &object, err);
    if (r == E_OK)
        r = record_get_uint64(object, "due_unix_s", &due, err);
    if (r == E_OK)
        r = load_entries(scrub, object, err);
    round = json_object_get(object, "round");
    last = json_object_get(object, "last");
    if (r == E_OK && last)
        r = round_from_json(last, &scrub->last, err);
    if (r == E_OK && round)
        r = round_from_json(round, &scrub->round, err);
    if (r == E_OK && round)
        r = record_get_string(object, "at", &at, err);
    if (r == E_OK && round)
        r = record_get_uint64(object, "offset", &scrub->offset, err);
    if (r != E_OK)
        return r;
    scrub->running = round && str_copy(scrub->at, sizeof(scrub->at), at);
    scrub->due_unix_s = (int64_t)due;
    return E_OK;
}
