/*
 * Claims of names (invariant 8): durable records of their own, since a name is claimed on servers that will
 * not hold what it names. Blocks.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/strings.h"
#include "datapath/store/store_internal.h"

#define KEY_MAX (1 + ID_VOLUME_NAME_MAX)

static const char kind_letters[] = {[NAME_VOLUME] = 'v', [NAME_SNAPSHOT] = 's', [NAME_GROUP] = 'g'};

bool name_holder_valid(enum name_kind kind, const char *holder_id)
{
    switch (kind) {
    case NAME_VOLUME:
        return id_volume_valid(holder_id);
    case NAME_SNAPSHOT:
        return id_snapshot_valid(holder_id);
    case NAME_GROUP:
        return id_group_valid(holder_id);
    }
    return false;
}

/* False for a name that is too long to have been claimed. */
static bool name_key(enum name_kind kind, const char *name, char ret_key[KEY_MAX + 1])
{
    ret_key[0] = kind_letters[kind];
    return str_copy(ret_key + 1, KEY_MAX, name);
}

struct name *name_new(enum name_kind kind, const char *name, const char *holder_id)
{
    size_t size = strlen(name) + 2;
    struct name *made = calloc(1, sizeof(*made) + size);

    if (!made)
        return NULL;
    str_copy(made->holder_id, sizeof(made->holder_id), holder_id);
    made->key[0] = kind_letters[kind];
    memcpy(made->key + 1, name, size - 1);
    return made;
}

static int check(enum name_kind kind, const char *name, const char *holder_id, struct error *err)
{
    static const char *const words[] = {"volume", "snapshot", "group"};

    if (!store_text_valid(name))
        return error_set(err, E_INVALID_ARGUMENT, "a %s's name is 1 to %d bytes of UTF-8", words[kind],
                         ID_VOLUME_NAME_MAX);
    if (!name_holder_valid(kind, holder_id))
        return error_set(err, E_INVALID_ARGUMENT, "\"%.*s\" is not a %s id", STORE_HOLDER_MAX, holder_id,
                         words[kind]);
    return E_OK;
}

bool store_name_find(struct store *store, enum name_kind kind, const char *name,
                     char ret_holder_id[STORE_HOLDER_MAX + 1])
{
    const struct name *found;
    char key[KEY_MAX + 1];

    if (!name_key(kind, name, key))
        return false;
    pthread_rwlock_rdlock(&store->index_lock);
    found = index_find(&store->names, key);
    if (found)
        memcpy(ret_holder_id, found->holder_id, sizeof(found->holder_id));
    pthread_rwlock_unlock(&store->index_lock);
    return found;
}

bool store_name_of(struct store *store, const char *holder_id, char ret_name[ID_VOLUME_NAME_MAX + 1])
{
    bool found = false;

    pthread_rwlock_rdlock(&store->index_lock);
    for (size_t i = 0; i < store->names.count && !found; i++) {
        const struct name *name = store->names.items[i];

        found = str_equal(name->holder_id, holder_id);
        if (found)
            str_copy(ret_name, ID_VOLUME_NAME_MAX + 1, name->key + 1);
    }
    pthread_rwlock_unlock(&store->index_lock);
    return found;
}

static int claim_new(struct store *store, enum name_kind kind, const char *name, const char *holder_id,
                     struct error *err)
{
    struct name *made = name_new(kind, name, holder_id);
    int r;

    if (!made)
        return error_errno(err, ENOMEM, "cannot claim the name %s", name);
    r = store->ops->name_save(store->backend, kind, name, holder_id, err);
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

int store_name_claim(struct store *store, enum name_kind kind, const char *name, const char *holder_id,
                     char ret_holder_id[STORE_HOLDER_MAX + 1], struct error *err)
{
    pthread_mutex_t *lock = &store->name_locks[store_stripe(name)];
    int r;

    r = check(kind, name, holder_id, err);
    if (r != E_OK)
        return r;
    pthread_mutex_lock(lock);
    if (!store_name_find(store, kind, name, ret_holder_id)) {
        r = claim_new(store, kind, name, holder_id, err);
        if (r == E_OK)
            str_copy(ret_holder_id, STORE_HOLDER_MAX + 1, holder_id);
    }
    pthread_mutex_unlock(lock);
    return r;
}

int store_name_release(struct store *store, enum name_kind kind, const char *name, const char *holder_id,
                       struct error *err)
{
    pthread_mutex_t *lock = &store->name_locks[store_stripe(name)];
    char holder[STORE_HOLDER_MAX + 1], key[KEY_MAX + 1];
    struct name *gone = NULL;
    int r;

    r = check(kind, name, holder_id, err);
    if (r != E_OK)
        return r;
    pthread_mutex_lock(lock);
    if (store_name_find(store, kind, name, holder) && str_equal(holder, holder_id)) {
        r = store->ops->name_delete(store->backend, kind, name, err);
        if (r == E_OK) {
            name_key(kind, name, key);
            pthread_rwlock_wrlock(&store->index_lock);
            gone = index_remove(&store->names, key);
            pthread_rwlock_unlock(&store->index_lock);
        }
    }
    pthread_mutex_unlock(lock);
    free(gone);
    return r;
}
