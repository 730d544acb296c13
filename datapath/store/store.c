/*
 * The store as a whole: opening and closing it, loading the records, what space is promised, and the life of
 * volumes. Called from any thread but a loop's; see store_internal.h for the locks.
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

static const char *name_key(const void *item)
{
    return ((const struct name *)item)->name;
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
    pthread_rwlock_init(&store->index_lock, NULL);
    for (size_t i = 0; i < STORE_STRIPES; i++) {
        pthread_mutex_init(&store->id_locks[i], NULL);
        pthread_mutex_init(&store->name_locks[i], NULL);
    }
    return store;
}

struct store *store_close(struct store *store)
{
    if (!store)
        return NULL;
    for (size_t i = 0; i < store->volumes.count; i++)
        volume_unref(store->volumes.items[i]);
    for (size_t i = 0; i < store->nodes.count; i++)
        node_free(store->nodes.items[i]);
    for (size_t i = 0; i < store->names.count; i++)
        free(store->names.items[i]);
    index_done(&store->volumes);
    index_done(&store->nodes);
    index_done(&store->names);
    for (size_t i = 0; i < STORE_STRIPES; i++) {
        pthread_mutex_destroy(&store->id_locks[i]);
        pthread_mutex_destroy(&store->name_locks[i]);
    }
    pthread_rwlock_destroy(&store->index_lock);
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

/* Where the record cannot tell, the claim does. */
static void name_unreadable(struct store *store)
{
    for (size_t i = 0; i < store->volumes.count; i++) {
        struct volume *volume = store->volumes.items[i];

        if (volume->unreadable)
            store_name_of(store, volume->id, volume->record.name);
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
    const char *text, *volume_id;
    struct name *name;
    int r;

    if ((r = record_get_string(object, "name", &text, err)) != E_OK ||
        (r = record_get_string(object, "volume_id", &volume_id, err)) != E_OK)
        return r;
    if (text[0] == '\0' || strlen(text) > ID_VOLUME_NAME_MAX)
        return error_set(err, E_CORRUPT, "\"name\" is empty or too long");
    if (!id_volume_valid(volume_id))
        return error_set(err, E_CORRUPT, "\"volume_id\" is not a volume id");
    name = name_new(text, volume_id);
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
        (r = store->ops->load_nodes(store->backend, load_node, store, err)) != E_OK ||
        (r = store->ops->load_names(store->backend, load_name, store, err)) != E_OK)
        return r;
    if (index_sort(&store->volumes) || index_sort(&store->nodes) || index_sort(&store->names))
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
    if (r == E_OK)
        r = load_all(store, err);
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

/* What volumes may be promised at all. Overcommitted, a promise is bounded only by the file system itself. */
static uint64_t promisable(const struct store *store, uint64_t total, uint64_t other)
{
    uint64_t overhead = MAX(total / 100, STORE_RESERVE_MIN_BYTES);
    uint64_t kept = store->reserve_bytes + overhead + (store->overcommit ? 0 : other);

    return kept < total ? total - kept : 0;
}

static uint64_t promise_left(const struct store *store, uint64_t total, uint64_t used, uint64_t other)
{
    uint64_t limit = promisable(store, total, other);
    uint64_t taken = store->overcommit ? 0 : store->promised_bytes;

    if (store->overcommit && used >= limit)
        return 0; /* more promises on a full pool would only be broken */
    return taken < limit ? limit - taken : 0;
}

int store_capacity(struct store *store, struct store_capacity *ret, struct error *err)
{
    uint64_t total, used, other;
    int r;

    r = store->ops->space(store->backend, &total, &used, &other, err);
    if (r != E_OK)
        return r;
    pthread_rwlock_rdlock(&store->index_lock);
    *ret = (struct store_capacity){
        .total_bytes = total,
        .used_bytes = used,
        .promised_bytes = store->promised_bytes,
        .free_bytes = promise_left(store, total, used, other),
        .volumes_count = store->volumes.count,
    };
    pthread_rwlock_unlock(&store->index_lock);
    return E_OK;
}

static int promise(struct store *store, uint64_t size_bytes, struct error *err)
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

static void promise_release(struct store *store, uint64_t size_bytes)
{
    pthread_rwlock_wrlock(&store->index_lock);
    store->promised_bytes -= size_bytes;
    pthread_rwlock_unlock(&store->index_lock);
}

/* ---- volumes ---- */

size_t store_stripe(const char *key)
{
    return str_hash(key) % STORE_STRIPES;
}

bool store_text_valid(const char *text)
{
    _cleanup_json_ json_t *utf8 = json_string(text); /* refuses what is no UTF-8 */

    return utf8 && text[0] != '\0' && strlen(text) <= ID_VOLUME_NAME_MAX;
}

struct volume *store_volume_find(struct store *store, const char *volume_id)
{
    struct volume *volume;

    pthread_rwlock_rdlock(&store->index_lock);
    volume = index_find(&store->volumes, volume_id);
    if (volume)
        volume_ref(volume);
    pthread_rwlock_unlock(&store->index_lock);
    return volume;
}

struct volume *store_volume_next(struct store *store, const char *after_id)
{
    struct volume *volume = NULL;
    size_t position;
    bool found;

    pthread_rwlock_rdlock(&store->index_lock);
    position = index_position(&store->volumes, after_id, &found);
    if (found)
        position++;
    if (position < store->volumes.count)
        volume = volume_ref(store->volumes.items[position]);
    pthread_rwlock_unlock(&store->index_lock);
    return volume;
}

static int check_spec(const struct store *store, const struct volume_record *spec, struct error *err)
{
    char server[ID_SERVER_MAX + 1];
    int r;

    r = id_volume_server(spec->id, server, err);
    if (r != E_OK)
        return r;
    if (!str_equal(server, store->server_id))
        return error_set(err, E_INVALID_ARGUMENT, "volume %s is not of server %s", spec->id,
                         store->server_id);
    if (!store_text_valid(spec->name))
        return error_set(err, E_INVALID_ARGUMENT, "a volume's name is 1 to %d bytes of UTF-8",
                         ID_VOLUME_NAME_MAX);
    if (spec->parameters_count > VOLUME_PARAMETERS_MAX)
        return error_set(err, E_INVALID_ARGUMENT, "a volume has at most %d parameters",
                         VOLUME_PARAMETERS_MAX);
    if (spec->block_size_bytes != 512 && spec->block_size_bytes != 4096)
        return error_set(err, E_INVALID_ARGUMENT, "a block size of %" PRIu32 ": it is 512 or 4096",
                         spec->block_size_bytes);
    if (spec->block_size_bytes < store->ops->block_size_min(store->backend))
        return error_set(err, E_INVALID_ARGUMENT,
                         "a block size of %" PRIu32 " is finer than the pool's disk can write: %" PRIu32,
                         spec->block_size_bytes, store->ops->block_size_min(store->backend));
    if (spec->size_bytes == 0 || spec->size_bytes % spec->block_size_bytes != 0 ||
        spec->size_bytes > INT64_MAX)
        return error_set(err, E_OUT_OF_RANGE,
                         "a size of %" PRIu64 " bytes: it must be a multiple of %" PRIu32 " above 0",
                         spec->size_bytes, spec->block_size_bytes);
    return E_OK;
}

static int parameter_compare(const void *a, const void *b)
{
    return strcmp(((const struct volume_parameter *)a)->key, ((const struct volume_parameter *)b)->key);
}

/* The record that a volume made from spec is born with. */
static int record_born(const struct volume_record *spec, struct volume_record *ret, struct error *err)
{
    struct volume_record wanted = *spec;

    wanted.attachments = NULL;
    wanted.attachments_count = 0;
    if (volume_record_copy(ret, &wanted) < 0)
        return error_errno(err, ENOMEM, "cannot create volume %s", spec->id);
    ret->created_unix_s = (int64_t)time(NULL);
    ret->record_generation = 1;
    ret->epoch_last = 0;
    ret->content = VOLUME_BLANK;
    ret->formatting_epoch = ret->formatting_generation = 0;
    ret->write_failed = false;
    if (ret->parameters_count > 0)
        qsort(ret->parameters, ret->parameters_count, sizeof(*ret->parameters), parameter_compare);
    return E_OK;
}

static bool parameters_equal(const struct volume_record *a, const struct volume_record *b)
{
    if (a->parameters_count != b->parameters_count)
        return false;
    for (size_t i = 0; i < a->parameters_count; i++) {
        if (!str_equal(a->parameters[i].key, b->parameters[i].key) ||
            !str_equal(a->parameters[i].value, b->parameters[i].value))
            return false;
    }
    return true;
}

/* A repeat of a creation: the volume stands with these fields, or with others. */
static int check_same(struct volume *volume, const struct volume_record *wanted, struct error *err)
{
    const char *differs = NULL;
    int r = volume_check_readable(volume, err);

    if (r != E_OK)
        return r;
    pthread_mutex_lock(&volume->view_lock);
    if (!str_equal(volume->record.name, wanted->name))
        differs = "name";
    else if (volume->record.size_bytes != wanted->size_bytes)
        differs = "size";
    else if (volume->record.block_size_bytes != wanted->block_size_bytes)
        differs = "block size";
    else if (volume->record.thick != wanted->thick)
        differs = "provisioning (thick or thin)";
    else if (!parameters_equal(&volume->record, wanted))
        differs = "parameters";
    pthread_mutex_unlock(&volume->view_lock);
    if (differs)
        return error_set(err, E_EXISTS, "volume %s exists with another %s", wanted->id, differs);
    return E_OK;
}

/* Under the id's lock: nobody else makes or deletes this one. */
static int create_new(struct store *store, struct volume_record *record, struct volume **ret,
                      struct error *err)
{
    struct volume *volume;
    int r;

    r = promise(store, record->size_bytes, err);
    if (r != E_OK)
        return r;
    r = volume_new(store, record, &volume, err);
    if (r != E_OK) {
        promise_release(store, record->size_bytes);
        return r;
    }
    r = store->ops->volume_create(store->backend, &volume->record, err);
    if (r == E_OK) {
        pthread_rwlock_wrlock(&store->index_lock);
        if (index_insert(&store->volumes, volume) < 0)
            r = error_errno(err, ENOMEM, "cannot create volume %s", volume->id);
        pthread_rwlock_unlock(&store->index_lock);
    }
    if (r != E_OK) {
        promise_release(store, volume->size_bytes);
        volume_unref(volume);
        return r;
    }
    *ret = volume_ref(volume);
    return E_OK;
}

int store_volume_create(struct store *store, const struct volume_record *spec, struct volume **ret,
                        struct error *err)
{
    struct volume_record record = {0};
    struct volume *volume = NULL;
    pthread_mutex_t *lock;
    int r;

    r = check_spec(store, spec, err);
    if (r == E_OK)
        r = record_born(spec, &record, err);
    if (r != E_OK)
        return r;
    lock = &store->id_locks[store_stripe(spec->id)];
    pthread_mutex_lock(lock);
    volume = store_volume_find(store, spec->id);
    r = volume ? check_same(volume, &record, err) : create_new(store, &record, &volume, err);
    pthread_mutex_unlock(lock);
    volume_record_done(&record);
    if (r != E_OK) {
        volume_unref(volume);
        return r;
    }
    *ret = volume;
    return E_OK;
}

static int delete_found(struct store *store, struct volume *volume, struct error *err)
{
    int r = volume_check_readable(volume, err);

    pthread_mutex_lock(&volume->record_lock);
    if (r == E_OK && volume->record.attachments_count > 0)
        r = error_set(err, E_PRECONDITION, "volume %s is attached to node %s: detach it first", volume->id,
                      volume->record.attachments[0].node_id);
    else if (r == E_OK)
        r = store->ops->volume_delete(store->backend, volume->id, err);
    if (r == E_OK)
        atomic_store(&volume->deleted, true);
    pthread_mutex_unlock(&volume->record_lock);
    if (r != E_OK)
        return r;
    pthread_rwlock_wrlock(&store->index_lock);
    index_remove(&store->volumes, volume->id);
    store->promised_bytes -= volume->size_bytes;
    pthread_rwlock_unlock(&store->index_lock);
    volume_unref(volume); /* the index's */
    return E_OK;
}

int store_volume_delete(struct store *store, const char *volume_id, struct error *err)
{
    pthread_mutex_t *lock = &store->id_locks[store_stripe(volume_id)];
    struct volume *volume;
    int r = E_OK;

    pthread_mutex_lock(lock);
    volume = store_volume_find(store, volume_id);
    if (volume) {
        r = volume_operation_begin(volume, "delete", err);
        if (r == E_OK) {
            r = delete_found(store, volume, err);
            volume_operation_end(volume);
        }
        volume_unref(volume);
    }
    pthread_mutex_unlock(lock);
    return r;
}
