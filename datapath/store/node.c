/*
 * Node records, and attaching under a node's lock (invariant 3): a fence that was recorded is seen by every
 * attach that comes after, and an attach under way ends before the fence is recorded. Blocks.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/strings.h"
#include "datapath/store/attach.h"
#include "datapath/store/store_internal.h"

struct node *node_new(struct node_record *record)
{
    struct node *node = calloc(1, sizeof(*node));

    if (!node)
        return NULL;
    pthread_mutex_init(&node->lock, NULL);
    node->record = *record;
    memset(record, 0, sizeof(*record));
    return node;
}

struct node *node_free(struct node *node)
{
    if (!node)
        return NULL;
    node_record_done(&node->record);
    pthread_mutex_destroy(&node->lock);
    free(node);
    return NULL;
}

static struct node *node_find(struct store *store, const char *node_id)
{
    struct node *node;

    pthread_rwlock_rdlock(&store->index_lock);
    node = index_find(&store->nodes, node_id); /* lives as long as the store */
    pthread_rwlock_unlock(&store->index_lock);
    return node;
}

/* The node, made unknown when it is not there; NULL when memory ran out. */
static struct node *node_find_or_make(struct store *store, const char *node_id)
{
    struct node_record record = {0};
    struct node *node = node_find(store, node_id), *made;

    if (node)
        return node;
    str_copy(record.id, sizeof(record.id), node_id);
    made = node_new(&record);
    if (!made)
        return NULL;
    pthread_rwlock_wrlock(&store->index_lock);
    node = index_find(&store->nodes, node_id);
    if (!node && index_insert(&store->nodes, made) == 0) {
        node = made;
        made = NULL;
    }
    pthread_rwlock_unlock(&store->index_lock);
    node_free(made);
    return node;
}

/* As a volume's: after a commit that failed the disk may have either record. A node that was not known has no
 * record to put back: what the disk may know of it, a fence or a boot id, is what was asked for. */
static int settle_locked(struct store *store, struct node *node, struct error *err)
{
    int r;

    if (!node->unsettled || !node->known)
        return E_OK;
    r = store->ops->node_save(store->backend, &node->record, err);
    node->unsettled = r != E_OK;
    return r;
}

static int update_locked(struct store *store, struct node *node, node_edit edit, void *context,
                         struct error *err)
{
    struct node_record copy = {0}, old;
    int r;

    r = settle_locked(store, node, err);
    if (r != E_OK)
        return r;
    if (node_record_copy(&copy, &node->record) < 0)
        return error_errno(err, ENOMEM, "cannot change node %s", node->record.id);
    r = edit(&copy, context, err);
    if (r == E_OK) {
        r = store->ops->node_save(store->backend, &copy, err);
        node->unsettled = r != E_OK;
    }
    if (r != E_OK) {
        settle_locked(store, node, NULL);
        node_record_done(&copy);
        return r == VOLUME_UNCHANGED ? E_OK : r;
    }
    pthread_rwlock_wrlock(&store->index_lock);
    old = node->record;
    node->record = copy;
    node->known = true;
    pthread_rwlock_unlock(&store->index_lock);
    node_record_done(&old);
    return E_OK;
}

int store_node_update(struct store *store, const char *node_id, node_edit edit, void *context,
                      struct error *err)
{
    struct node *node;
    int r;

    if (!id_node_valid(node_id))
        return error_set(err, E_INVALID_ARGUMENT, "\"%.*s\" is not a node id", ID_NODE_MAX, node_id);
    node = node_find_or_make(store, node_id);
    if (!node)
        return error_errno(err, ENOMEM, "cannot change node %s", node_id);
    pthread_mutex_lock(&node->lock);
    r = update_locked(store, node, edit, context, err);
    pthread_mutex_unlock(&node->lock);
    return r;
}

int store_node_get(struct store *store, const char *node_id, struct node_record *ret_record,
                   struct error *err)
{
    const struct node *node;
    int r = E_NOT_FOUND;

    pthread_rwlock_rdlock(&store->index_lock);
    node = index_find(&store->nodes, node_id);
    if (node && node->known)
        r = node_record_copy(ret_record, &node->record);
    pthread_rwlock_unlock(&store->index_lock);
    if (r == E_NOT_FOUND)
        return error_set(err, r, "node %.*s never registered here and was never fenced", ID_NODE_MAX,
                         node_id);
    return r < 0 ? error_errno(err, -r, "cannot read node %s", node_id) : E_OK;
}

static int copy_known_locked(const struct store *store, struct node_record *records, size_t *count)
{
    for (size_t i = 0; i < store->nodes.count; i++) {
        const struct node *node = store->nodes.items[i];

        if (!node->known)
            continue;
        if (node_record_copy(&records[*count], &node->record) < 0)
            return -ENOMEM;
        (*count)++;
    }
    return 0;
}

int store_node_list(struct store *store, struct node_record **ret_records, size_t *ret_count,
                    struct error *err)
{
    struct node_record *records;
    size_t count = 0;
    int r = -ENOMEM;

    pthread_rwlock_rdlock(&store->index_lock);
    records = calloc(store->nodes.count + 1, sizeof(*records));
    if (records)
        r = copy_known_locked(store, records, &count);
    pthread_rwlock_unlock(&store->index_lock);
    if (r < 0) {
        while (count > 0)
            node_record_done(&records[--count]);
        free(records);
        return error_errno(err, -r, "cannot list the nodes");
    }
    *ret_records = records;
    *ret_count = count;
    return E_OK;
}

/* ---- attaching ---- */

static bool holds(struct volume *volume, const char *node_id)
{
    bool found;

    pthread_mutex_lock(&volume->view_lock);
    found = volume_record_attachment(&volume->record, node_id);
    pthread_mutex_unlock(&volume->view_lock);
    return found;
}

size_t store_node_attached(struct store *store, const char *node_id)
{
    size_t count = 0;

    pthread_rwlock_rdlock(&store->index_lock);
    for (size_t i = 0; i < store->volumes.count; i++)
        count += holds(store->volumes.items[i], node_id);
    pthread_rwlock_unlock(&store->index_lock);
    return count;
}

/* Under the node's lock: no other volume is attached to it meanwhile. */
static int check_room(const struct node *node, struct volume *volume, struct error *err)
{
    const struct node_record *record = &node->record;

    if (record->volumes_max == 0 || holds(volume, record->id) ||
        store_node_attached(volume->store, record->id) < record->volumes_max)
        return E_OK;
    return error_set(err, E_EXHAUSTED,
                     "node %s has %" PRIu32 " volumes attached, as many as it takes: \"volumes_max\" of its "
                     "mooring-node",
                     record->id, record->volumes_max);
}

struct attaching {
    const char *node_id;
    enum access_mode mode;
    bool readonly;
    uint64_t record_generation;
    struct attachment attachment;
};

/* The record is as it was when the caller decided: no detach came between (invariant 8). */
static int check_generation(const struct volume_record *record, const struct attaching *attaching,
                            struct error *err)
{
    if (attaching->record_generation == 0)
        return error_set(err, E_INVALID_ARGUMENT,
                         "volume %s: an attach needs the record generation that it was decided on: is the "
                         "controller older than this server?",
                         record->id);
    if (attaching->record_generation != record->record_generation)
        return error_set(err, E_STALE,
                         "volume %s has changed since the attach to node %s was decided: record generation "
                         "%" PRIu64 ", not %" PRIu64,
                         record->id, attaching->node_id, record->record_generation,
                         attaching->record_generation);
    return E_OK;
}

static int attach_edit(struct volume_record *record, void *context, struct error *err)
{
    struct attaching *attaching = context;
    size_t before = record->attachments_count;
    struct attachment *attachment;
    int r;

    r = attach_add(record, attaching->node_id, attaching->mode, attaching->readonly, &attachment, err);
    if (r != E_OK)
        return r;
    attaching->attachment = *attachment;
    return record->attachments_count == before ? VOLUME_UNCHANGED : check_generation(record, attaching, err);
}

static int attach_locked(const struct node *node, struct volume *volume, struct attaching *attaching,
                         struct error *err)
{
    int r;

    if (node->record.fenced)
        return error_set(err, E_PRECONDITION,
                         "node %s is fenced (%s): it may attach again once it is unfenced, or its host has "
                         "started anew and registered",
                         node->record.id, node->record.fence_reason);
    if (!node->known || node->record.boot_id[0] == '\0')
        return error_set(err, E_NOT_FOUND,
                         "node %s never registered with this server: is mooring-node running there?",
                         node->record.id);
    r = check_room(node, volume, err);
    return r == E_OK ? volume_update(volume, attach_edit, attaching, err) : r;
}

int store_attach(struct store *store, struct volume *volume, const char *node_id, enum access_mode mode,
                 bool readonly, uint64_t record_generation, struct attachment *ret_attachment,
                 struct error *err)
{
    struct attaching attaching = {
        .node_id = node_id, .mode = mode, .readonly = readonly, .record_generation = record_generation};
    struct node *node = node_find(store, node_id);
    int r;

    if (!node)
        return error_set(err, E_NOT_FOUND,
                         "node %.*s never registered with this server: is mooring-node running there?",
                         ID_NODE_MAX, node_id);
    pthread_mutex_lock(&node->lock);
    r = attach_locked(node, volume, &attaching, err);
    pthread_mutex_unlock(&node->lock);
    if (r == E_OK)
        *ret_attachment = attaching.attachment;
    explicit_bzero(&attaching.attachment, sizeof(attaching.attachment));
    return r;
}
