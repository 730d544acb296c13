/*
 * The store as a whole: opening and closing it, loading the records, and what space is promised. Called from
 * any thread but a loop's; see store_internal.h for the locks.
 */
#include "datapath/store/store.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/record.h"
#include "common/size.h"
#include "common/strings.h"
#include "datapath/store/copy.h"
#include "datapath/store/scrub_internal.h"
#include "datapath/store/store_internal.h"

/* ---- open and close ---- */

static const char *volume_key(const void *item)
{
    return ((const struct volume *)item)->id;
}

static const char *node_key(const void *item)
{
    return ((const struct node *)item)->record.id;
}

static const char *snapshot_key(const void *item)
{
    return ((const struct snapshot *)item)->id;
}

static const char *name_key(const void *item)
{
    return ((const struct name *)item)->key;
}

static struct store *store_new(const struct store_options *options)
{
    struct store *store = calloc(1, sizeof(*store));

    if (!store)
        return NULL;
    store->ops = &pool_backend;
    str_copy(store->server_id, sizeof(store->server_id), options->server_id);
    store->reserve_bytes = options->reserve_bytes;
    store->overcommit = options->overcommit;
    store->volumes.key = volume_key;
    store->nodes.key = node_key;
    store->names.key = name_key;
    store->snapshots.key = snapshot_key;
    pthread_rwlock_init(&store->index_lock, NULL);
    key_locks_init(&store->ids);
    for (size_t i = 0; i < STORE_STRIPES; i++) {
        pthread_mutex_init(&store->name_locks[i], NULL);
    }
    return store;
}

struct store *store_close(struct store *store)
{
    if (!store)
        return NULL;
    store_scrub_stop(store);
    copy_stop_all(store);
    for (size_t i = 0; i < store->volumes.count; i++)
        volume_unref(store->volumes.items[i]);
    for (size_t i = 0; i < store->snapshots.count; i++)
        snapshot_unref(store->snapshots.items[i]);
    for (size_t i = 0; i < store->nodes.count; i++)
        node_free(store->nodes.items[i]);
    for (size_t i = 0; i < store->names.count; i++)
        free(store->names.items[i]);
    index_done(&store->volumes);
    index_done(&store->nodes);
    index_done(&store->names);
    index_done(&store->snapshots);
    for (size_t i = 0; i < STORE_STRIPES; i++) {
        pthread_mutex_destroy(&store->name_locks[i]);
    }
    pthread_rwlock_destroy(&store->index_lock);
    key_locks_done(&store->ids);
    scrub_free(store->scrub);
    if (store->backend)
        store->ops->close(store->backend); /* last: it gives the pool's lock back */
    free(store);
    return NULL;
}

static int load_volume(json_t *object, void *context, struct error *err)
{
    struct store *store = context;
    struct volume_record record = {0};
    struct volume *volume;
    int r;

    r = volume_record_from_json(object, &record, err);
    if (r != E_OK)
        return r;
    r = volume_new(store, &record, &volume, err);
    if (r != E_OK) {
        volume_record_done(&record);
        return r;
    }
    if (index_append(&store->volumes, volume) < 0) {
        volume_unref(volume);
        return error_errno(err, ENOMEM, "cannot load the pool");
    }
    store->promised_bytes += volume->size_bytes;
    return E_OK;
}

/* Nothing is known of it but that it is there: its data keeps its space, and its id its place. */
static int load_unreadable(const char *volume_id, uint64_t size_bytes, const char *why, void *context,
                           struct error *err)
{
    struct volume_record record = {.size_bytes = size_bytes, .content = VOLUME_DATA};
    struct store *store = context;
    struct volume *volume;
    int r;

    log_error("%s: the volume is not served; restore its files and start again", why);
    str_copy(record.id, sizeof(record.id), volume_id);
    r = volume_new(store, &record, &volume, err);
    if (r != E_OK)
        return r;
    volume->unreadable = strdup(why);
    if (!volume->unreadable || index_append(&store->volumes, volume) < 0) {
        volume_unref(volume);
        return error_errno(err, ENOMEM, "cannot load the pool");
    }
    store->promised_bytes += size_bytes;
    return E_OK;
}

static int load_snapshot(json_t *object, void *context, struct error *err)
{
    struct snapshot_record record = {0};
    uint64_t allocated_bytes = 0;
    int r = snapshot_record_from_json(object, &record, err);

    if (r == E_OK)
        r = record_get_uint64(object, "allocated_bytes", &allocated_bytes, err);
    return r == E_OK ? snapshot_load(context, &record, allocated_bytes, NULL, err) : r;
}

static int load_unreadable_snapshot(const char *snapshot_id, uint64_t allocated_bytes, const char *why,
                                    void *context, struct error *err)
{
    struct snapshot_record record = {0};

    log_error("%s: the snapshot is not served; restore its files and start again", why);
    str_copy(record.id, sizeof(record.id), snapshot_id);
    return snapshot_load(context, &record, allocated_bytes, why, err);
}

/* Where the record cannot tell, the claim does. */
static void name_unreadable(struct store *store)
{
    for (size_t i = 0; i < store->volumes.count; i++) {
        struct volume *volume = store->volumes.items[i];

        if (volume->unreadable)
            store_name_of(store, volume->id, volume->record.name);
    }
    for (size_t i = 0; i < store->snapshots.count; i++) {
        struct snapshot *snapshot = store->snapshots.items[i];

        if (snapshot->unreadable)
            store_name_of(store, snapshot->id, snapshot->record.name);
    }
}

static int load_node(json_t *object, void *context, struct error *err)
{
    struct store *store = context;
    struct node_record record = {0};
    struct node *node;
    int r;

    r = node_record_from_json(object, &record, err);
    if (r != E_OK)
        return r;
    node = node_new(&record);
    if (!node) {
        node_record_done(&record);
        return error_errno(err, ENOMEM, "cannot load the pool");
    }
    node->known = true;
    if (index_append(&store->nodes, node) < 0) {
        node_free(node);
        return error_errno(err, ENOMEM, "cannot load the pool");
    }
    return E_OK;
}

static int load_name(json_t *object, void *context, struct error *err)
{
    struct store *store = context;
    const char *text, *holder_id;
    uint64_t kind = NAME_VOLUME;
    struct name *name;
    int r;

    if ((r = record_get_uint64(object, "kind", &kind, err)) != E_OK ||
        (r = record_get_string(object, "name", &text, err)) != E_OK ||
        (r = record_get_string(object, "holder_id", &holder_id, err)) != E_OK)
        return r;
    if (text[0] == '\0' || strlen(text) > ID_VOLUME_NAME_MAX)
        return error_set(err, E_CORRUPT, "\"name\" is empty or too long");
    if (!name_holder_valid((enum name_kind)kind, holder_id))
        return error_set(err, E_CORRUPT, "the id of its holder is not one");
    name = name_new((enum name_kind)kind, text, holder_id);
    if (!name || index_append(&store->names, name) < 0) {
        free(name);
        return error_errno(err, ENOMEM, "cannot load the pool");
    }
    return E_OK;
}

static int load_all(struct store *store, struct error *err)
{
    int r;

    if ((r = store->ops->load_volumes(store->backend, load_volume, load_unreadable, store, err)) != E_OK ||
        (r = store->ops->load_snapshots(store->backend, load_snapshot, load_unreadable_snapshot, store,
                                        err)) != E_OK ||
        (r = store->ops->load_nodes(store->backend, load_node, store, err)) != E_OK ||
        (r = store->ops->load_names(store->backend, load_name, store, err)) != E_OK)
        return r;
    if (index_sort(&store->volumes) || index_sort(&store->snapshots) || index_sort(&store->nodes) ||
        index_sort(&store->names))
        return error_set(err, E_CORRUPT, "the pool has two records of one id or name");
    name_unreadable(store);
    return E_OK;
}

int store_open(struct store **ret, const struct store_options *options, struct error *err)
{
    struct store *store;
    int r;

    if (!options->path || !options->pool_uuid || !options->server_id || !id_server_valid(options->server_id))
        return error_set(err, E_INVALID_ARGUMENT, "a pool needs a path, its UUID and a server id");
    store = store_new(options);
    if (!store)
        return error_errno(err, ENOMEM, "cannot open the pool %s", options->path);
    r = store->ops->open(&store->backend, options, err);
    if (r == E_OK) {
        store_flush_watch(store);
        r = load_all(store, err);
    }
    if (r != E_OK) {
        store_close(store);
        return r;
    }
    *ret = store;
    return E_OK;
}

int store_lock_fd(const struct store *store)
{
    return store->ops->lock_fd(store->backend);
}

const char *store_pool_uuid(const struct store *store)
{
    return store->ops->uuid(store->backend);
}

const char *store_server_id(const struct store *store)
{
    return store->server_id;
}

/* ---- space ---- */

/* Besides the configured reserve: what the file system needs for extents, and counts as free but does not
 * give out at the end (XFS: up to 32 MiB, and reservations of each change). */
#define STORE_RESERVE_MIN_BYTES (UINT64_C(64) << 20)

static uint64_t overhead(uint64_t total)
{
    return MAX(total / 100, STORE_RESERVE_MIN_BYTES);
}

/* What may be promised of the pool where `other` takes that much. */
static uint64_t room(const struct store *store, uint64_t total, uint64_t other)
{
    uint64_t kept = store->reserve_bytes + overhead(total) + other;

    return kept < total ? total - kept : 0;
}

static uint64_t promise_left(const struct store *store, uint64_t total, uint64_t used, uint64_t other)
{
    uint64_t limit = room(store, total, store->overcommit ? 0 : other);

    if (store->overcommit)
        return used < limit ? limit : 0; /* more promises on a full pool would only be broken */
    return store->promised_bytes < limit ? limit - store->promised_bytes : 0;
}

/* A promise beyond it, which overcommit allows, is kept only when others are not taken up. */
static uint64_t free_left(const struct store *store, uint64_t promise_max, uint64_t used)
{
    return store->overcommit && promise_max > 0 ? promise_max - used : promise_max;
}

int store_capacity(struct store *store, struct store_capacity *ret, struct error *err)
{
    uint64_t total, used, other, left;
    int r;

    r = store->ops->space(store->backend, &total, &used, &other, err);
    if (r != E_OK)
        return r;
    pthread_rwlock_rdlock(&store->index_lock);
    left = promise_left(store, total, used, other);
    *ret = (struct store_capacity){
        .total_bytes = total,
        .used_bytes = used,
        .promised_bytes = store->promised_bytes,
        .free_bytes = free_left(store, left, used),
        .promise_max_bytes = left,
        .overcommitted = store->promised_bytes + other + overhead(total) > total,
        .volumes_count = store->volumes.count,
        .snapshots_count = store->snapshots.count,
    };
    pthread_rwlock_unlock(&store->index_lock);
    return E_OK;
}

int store_promise(struct store *store, uint64_t size_bytes, struct error *err)
{
    uint64_t total, used, other, left;
    char wanted_text[16], left_text[16];
    int r;

    r = store->ops->space(store->backend, &total, &used, &other, err);
    if (r != E_OK)
        return r;
    pthread_rwlock_wrlock(&store->index_lock);
    left = promise_left(store, total, used, other);
    if (size_bytes <= left)
        store->promised_bytes += size_bytes;
    pthread_rwlock_unlock(&store->index_lock);
    if (size_bytes <= left)
        return E_OK;
    size_format(size_bytes, wanted_text);
    size_format(left, left_text);
    return error_set(err, E_NO_SPACE,
                     "the pool of server %s cannot promise %s: %s are left (%" PRIu64 " and %" PRIu64
                     " bytes): delete volumes, grow the pool or allow overcommit",
                     store->server_id, wanted_text, left_text, size_bytes, left);
}

void store_promise_release(struct store *store, uint64_t size_bytes)
{
    pthread_rwlock_wrlock(&store->index_lock);
    store->promised_bytes -= size_bytes;
    pthread_rwlock_unlock(&store->index_lock);
}

/* ---- keys ---- */

size_t store_stripe(const char *key)
{
    return str_hash(key) % STORE_STRIPES;
}

bool store_text_valid(const char *text)
{
    _cleanup_json_ json_t *utf8 = json_string(text); /* refuses what is no UTF-8 */

    return utf8 && text[0] != '\0' && strlen(text) <= ID_VOLUME_NAME_MAX;
}
