/*
 * Claims of volume names (invariant 8): durable records of their own, since a name is claimed on servers that
 * will not hold its volume. Blocks.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/strings.h"
#include "datapath/store/store_internal.h"

struct name *name_new(const char *name, const char *volume_id)
{
    size_t size = strlen(name) + 1;
    struct name *made = calloc(1, sizeof(*made) + size);

    if (!made)
        return NULL;
    str_copy(made->volume_id, sizeof(made->volume_id), volume_id);
    memcpy(made->name, name, size);
    return made;
}

static int check(const char *name, const char *volume_id, struct error *err)
{
    if (!store_text_valid(name))
        return error_set(err, E_INVALID_ARGUMENT, "a volume's name is 1 to %d bytes of UTF-8",
                         ID_VOLUME_NAME_MAX);
    if (!id_volume_valid(volume_id))
        return error_set(err, E_INVALID_ARGUMENT, "\"%.*s\" is not a volume id", ID_VOLUME_MAX, volume_id);
    return E_OK;
}

bool store_name_find(struct store *store, const char *name, char ret_volume_id[ID_VOLUME_MAX + 1])
{
    const struct name *found;

    pthread_rwlock_rdlock(&store->index_lock);
    found = index_find(&store->names, name);
    if (found)
        memcpy(ret_volume_id, found->volume_id, sizeof(found->volume_id));
    pthread_rwlock_unlock(&store->index_lock);
    return found;
}

bool store_name_of(struct store *store, const char *volume_id, char ret_name[ID_VOLUME_NAME_MAX + 1])
{
    bool found = false;

    pthread_rwlock_rdlock(&store->index_lock);
    for (size_t i = 0; i < store->names.count && !found; i++) {
        const struct name *name = store->names.items[i];

        found = str_equal(name->volume_id, volume_id);
        if (found)
            str_copy(ret_name, ID_VOLUME_NAME_MAX + 1, name->name);
    }
    pthread_rwlock_unlock(&store->index_lock);
    return found;
}

static int claim_new(struct store *store, const char *name, const char *volume_id, struct error *err)
{
    struct name *made = name_new(name, volume_id);
    int r;

    if (!made)
        return error_errno(err, ENOMEM, "cannot claim the name %s", name);
    r = store->ops->name_save(store->backend, name, volume_id, err);
    if (r == E_OK) {
        pthread_rwlock_wrlock(&store->index_lock);
        if (index_insert(&store->names, made) < 0)
            r = error_errno(err, ENOMEM, "cannot claim the name %s", name);
        pthread_rwlock_unlock(&store->index_lock);
    }
    if (r != E_OK)
        free(made);
    return r;
}

int store_name_claim(struct store *store, const char *name, const char *volume_id,
                     char ret_volume_id[ID_VOLUME_MAX + 1], struct error *err)
{
    pthread_mutex_t *lock = &store->name_locks[store_stripe(name)];
    int r;

    r = check(name, volume_id, err);
    if (r != E_OK)
        return r;
    pthread_mutex_lock(lock);
    if (!store_name_find(store, name, ret_volume_id)) {
        r = claim_new(store, name, volume_id, err);
        if (r == E_OK)
            str_copy(ret_volume_id, ID_VOLUME_MAX + 1, volume_id);
    }
    pthread_mutex_unlock(lock);
    return r;
}

int store_name_release(struct store *store, const char *name, const char *volume_id, struct error *err)
{
    pthread_mutex_t *lock = &store->name_locks[store_stripe(name)];
    char holder[ID_VOLUME_MAX + 1];
    struct name *gone = NULL;
    int r;

    r = check(name, volume_id, err);
    if (r != E_OK)
        return r;
    pthread_mutex_lock(lock);
    if (store_name_find(store, name, holder) && str_equal(holder, volume_id)) {
        r = store->ops->name_delete(store->backend, name, err);
        if (r == E_OK) {
            pthread_rwlock_wrlock(&store->index_lock);
            gone = index_remove(&store->names, name);
            pthread_rwlock_unlock(&store->index_lock);
        }
    }
    pthread_mutex_unlock(lock);
    free(gone);
    return r;
}
