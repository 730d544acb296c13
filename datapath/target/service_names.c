/* The Storage service's calls about the names of volumes, snapshots and groups. Worker threads. */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "datapath/store/snapshot.h"
#include "datapath/target/server.h"
#include "datapath/target/storage_service.h"

#define NAME_WAIT_S 2

static int service_name_kind(Mooring__Storage__V1__NameKind kind, enum name_kind *ret, struct error *err)
{
    switch ((int)kind) { /* a newer caller's may be none of the enum's */
    case MOORING__STORAGE__V1__NAME_KIND__NAME_VOLUME:
        *ret = NAME_VOLUME;
        return 0;
    case MOORING__STORAGE__V1__NAME_KIND__NAME_SNAPSHOT:
        *ret = NAME_SNAPSHOT;
        return 0;
    case MOORING__STORAGE__V1__NAME_KIND__NAME_GROUP:
        *ret = NAME_GROUP;
        return 0;
    }
    return error_set(err, E_INVALID_ARGUMENT, "names of kind %d are not known here", (int)kind);
}

int service_claim_name(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                       void *context, struct error *err)
{
    const Mooring__Storage__V1__ClaimNameRequest *claim =
        (const Mooring__Storage__V1__ClaimNameRequest *)request;
    Mooring__Storage__V1__ClaimNameResponse *answer = (Mooring__Storage__V1__ClaimNameResponse *)response;
    struct storage_service *storage = context;
    char standing[STORE_HOLDER_MAX + 1];
    enum name_kind kind;
    (void)call;
    int code = service_name_kind(claim->kind, &kind, err);
    if (code == 0)
        code = store_name_claim(storage->server->store, kind, claim->name, claim->volume_id, standing, err);
    if (code)
        return code;
    answer->volume_id = strdup(standing);
    return answer->volume_id ? 0 : error_errno(err, ENOMEM, "name %s", claim->name);
}

/* ---- what is made under a claim ---- */

int service_name_lock(struct storage_service *storage, enum name_kind kind, const char *name,
                      pthread_mutex_t **ret_lock, struct error *err)
{
    pthread_mutex_t *lock = &storage->name_locks[(str_hash(name) + (uint32_t)kind) % SERVICE_NAME_LOCKS];
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += NAME_WAIT_S;
    if (pthread_mutex_timedlock(lock, &until) != 0)
        return error_set(err, E_BUSY,
                         "a call for the name %.128s has been running for more than %d s: retry when it has "
                         "ended",
                         name, NAME_WAIT_S);
    *ret_lock = lock;
    return 0;
}

int service_check_claim(struct storage_service *storage, enum name_kind kind, const char *name,
                        const char *holder_id, struct error *err)
{
    char standing[STORE_HOLDER_MAX + 1];
    if (store_name_find(storage->server->store, kind, name, standing) && str_equal(standing, holder_id))
        return 0;
    return error_set(err, E_BUSY, "the name %.128s is not claimed for %.64s here: claim it first", name,
                     holder_id);
}

/* ---- release ---- */

/* What holds the name here, in words; NULL when nothing does. */
static const char *service_name_holder(struct store *store, enum name_kind kind, const char *holder_id)
{
    switch (kind) {
    case NAME_VOLUME: {
        struct volume *volume = store_volume_find(store, holder_id);
        volume_unref(volume);
        return volume || store_copy_under_way(store, holder_id) ? "volume" : NULL;
    }
    case NAME_SNAPSHOT: {
        struct snapshot *snapshot = store_snapshot_find(store, holder_id);
        snapshot_unref(snapshot);
        return snapshot ? "snapshot" : NULL;
    }
    case NAME_GROUP:
        return service_group_has_snapshots(store, holder_id) ? "a snapshot of group" : NULL;
    }
    return NULL;
}

/* A claim on the holder's own server lives as long as the holder. */
static int service_release_name_locked(struct storage_service *storage, enum name_kind kind, const char *name,
                                       const char *holder_id, struct error *err)
{
    const char *holder = service_name_holder(storage->server->store, kind, holder_id);
    if (holder)
        return error_set(err, E_PRECONDITION, "%s %s exists: its name is released after it was deleted",
                         holder, holder_id);
    return store_name_release(storage->server->store, kind, name, holder_id, err);
}

int service_release_name(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                         void *context, struct error *err)
{
    const Mooring__Storage__V1__ReleaseNameRequest *release =
        (const Mooring__Storage__V1__ReleaseNameRequest *)request;
    struct storage_service *storage = context;
    char claimed[ID_VOLUME_NAME_MAX + 1];
    const char *name = release->name;
    enum name_kind kind;
    (void)call;
    (void)response;
    int code = service_name_kind(release->kind, &kind, err);
    if (code)
        return code;
    if (name[0] == '\0') { /* whichever it claimed */
        if (!store_name_of(storage->server->store, release->volume_id, claimed))
            return 0;
        name = claimed;
    }
    pthread_mutex_t *lock;
    code = service_name_lock(storage, kind, name, &lock, err);
    if (code)
        return code;
    code = service_release_name_locked(storage, kind, name, release->volume_id, err);
    pthread_mutex_unlock(lock);
    return code;
}
