/* The Storage service's calls about volumes. Worker threads. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "common/strings.h"
#include "datapath/store/attach.h"
#include "datapath/target/server.h"
#include "datapath/target/storage_service.h"

#define LIST_VOLUMES_MAX 1000
#define BLOCK_SIZE_DEFAULT 4096

/* ---- create, delete ---- */

static int service_parameter_compare(const void *a, const void *b)
{
    return strcmp(((const struct volume_parameter *)a)->key, ((const struct volume_parameter *)b)->key);
}

/* The record that the request asks for; its strings are the request's. */
static int service_volume_spec(const Mooring__Storage__V1__CreateVolumeRequest *create,
                               struct volume_parameter *parameters, struct volume_record *spec,
                               struct error *err)
{
    *spec = (struct volume_record){.size_bytes = create->size_bytes,
                                   .block_size_bytes = create->block_size_bytes ? create->block_size_bytes
                                                                                : BLOCK_SIZE_DEFAULT,
                                   .thick = create->thick,
                                   .parameters = parameters,
                                   .parameters_count = create->n_parameters};
    int code = service_limits(create->limits, &spec->limits, err);
    if (code)
        return code;
    if (!str_copy(spec->id, sizeof(spec->id), create->volume_id) ||
        !str_copy(spec->name, sizeof(spec->name), create->name) || create->name[0] == '\0')
        return error_set(err, E_INVALID_ARGUMENT, "a volume's name has 1 to %d bytes", ID_VOLUME_NAME_MAX);
    for (size_t i = 0; i < create->n_parameters; i++)
        parameters[i] = (struct volume_parameter){.key = create->parameters[i]->key,
                                                  .value = create->parameters[i]->value};
    qsort(parameters, create->n_parameters, sizeof(*parameters), service_parameter_compare);
    for (size_t i = 1; i < create->n_parameters; i++)
        if (str_equal(parameters[i - 1].key, parameters[i].key))
            return error_set(err, E_INVALID_ARGUMENT, "parameter \"%.64s\" came twice", parameters[i].key);
    return 0;
}

/* The claim that stands here must be this volume's, and stays meanwhile: see storage.proto. */
static int service_create_claimed(struct storage_service *storage, const struct volume_record *spec,
                                  struct volume **ret, struct error *err)
{
    pthread_mutex_t *lock;
    int code = service_name_lock(storage, NAME_VOLUME, spec->name, &lock, err);
    if (code)
        return code;
    code = service_check_claim(storage, NAME_VOLUME, spec->name, spec->id, err);
    if (code == 0)
        code = store_volume_create(storage->server->store, spec, ret, err);
    pthread_mutex_unlock(lock);
    return code;
}

int service_create_volume(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                          void *context, struct error *err)
{
    const Mooring__Storage__V1__CreateVolumeRequest *create =
        (const Mooring__Storage__V1__CreateVolumeRequest *)request;
    Mooring__Storage__V1__CreateVolumeResponse *answer =
        (Mooring__Storage__V1__CreateVolumeResponse *)response;
    struct storage_service *storage = context;
    struct volume_parameter parameters[VOLUME_PARAMETERS_MAX];
    struct volume_record spec;
    struct volume *volume;
    int code = service_check_volume_id(storage, create->volume_id, err);
    if (code)
        return code;
    if (create->n_parameters > VOLUME_PARAMETERS_MAX)
        return error_set(err, E_INVALID_ARGUMENT, "a volume has at most %d parameters",
                         VOLUME_PARAMETERS_MAX);
    code = service_volume_spec(create, parameters, &spec, err);
    if (code == 0 && (create->source_volume_id[0] || create->source_snapshot_id[0]))
        code = service_create_copy(storage, call, create, &spec, &volume, err);
    else if (code == 0)
        code = service_create_claimed(storage, &spec, &volume, err);
    if (code)
        return code;
    answer->volume = service_volume_of(storage, volume, err);
    volume_unref(volume);
    return answer->volume ? 0 : err->code;
}

/* The name, or "" for a volume that is not there. */
static int service_name_of_volume(const struct storage_service *storage, const char *volume_id,
                                  char ret_name[ID_VOLUME_NAME_MAX + 1], struct error *err)
{
    struct volume *volume = store_volume_find(storage->server->store, volume_id);
    struct volume_record record = {0};
    ret_name[0] = '\0';
    if (!volume)
        return 0;
    int code =
        volume_snapshot_record(volume, &record) == 0 ? 0 : error_errno(err, ENOMEM, "volume %s", volume_id);
    if (code == 0)
        str_copy(ret_name, ID_VOLUME_NAME_MAX + 1, record.name);
    volume_record_done(&record);
    volume_unref(volume);
    return code;
}

/* Its claim here ends with it, so that nobody takes what is left of the others for those of a volume to come.
 */
static int service_delete_claimed(struct storage_service *storage, const char *volume_id, const char *name,
                                  struct error *err)
{
    struct store *store = storage->server->store;
    pthread_mutex_t *lock;
    int code = service_name_lock(storage, NAME_VOLUME, name, &lock, err);
    if (code)
        return code;
    code = store_volume_delete(store, volume_id, err);
    if (code == 0)
        code = store_name_release(store, NAME_VOLUME, name, volume_id, err);
    pthread_mutex_unlock(lock);
    return code;
}

int service_delete_volume(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                          void *context, struct error *err)
{
    const Mooring__Storage__V1__DeleteVolumeRequest *delete =
        (const Mooring__Storage__V1__DeleteVolumeRequest *)request;
    struct storage_service *storage = context;
    char name[ID_VOLUME_NAME_MAX + 1];
    (void)call;
    (void)response;
    int code = service_check_volume_id(storage, delete->volume_id, err);
    if (code == 0)
        code = service_name_of_volume(storage, delete->volume_id, name, err);
    if (code == 0 && name[0])
        return service_delete_claimed(storage, delete->volume_id, name, err);
    return code ? code : store_volume_delete(storage->server->store, delete->volume_id, err);
}

/* ---- looking ---- */

static bool service_attached_to(const Mooring__Storage__V1__Volume *message, const char *node_id)
{
    for (size_t i = 0; i < message->n_attachments; i++)
        if (str_equal(message->attachments[i]->node_id, node_id))
            return true;
    return false;
}

int service_get_volume(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                       void *context, struct error *err)
{
    const Mooring__Storage__V1__GetVolumeRequest *get =
        (const Mooring__Storage__V1__GetVolumeRequest *)request;
    Mooring__Storage__V1__GetVolumeResponse *answer = (Mooring__Storage__V1__GetVolumeResponse *)response;
    const struct rpc_peer *peer = rpc_call_peer(call);
    bool node = peer->role == RPC_ROLE_NODE;
    struct volume *volume;
    int code = service_find_volume(context, get->volume_id, &volume, err);
    if (code && !(node && code == E_NOT_FOUND))
        return code;
    if (code == 0) {
        answer->volume = service_volume_of(context, volume, err);
        code = answer->volume ? 0 : err->code;
        if (code == 0 && get->want_exclusive && !node)
            code = volume_exclusive_bytes(volume, &answer->volume->exclusive_bytes, err);
        volume_unref(volume);
        if (code)
            return code;
    }
    /* A node does not even learn whether another's volume is there. */
    if (node && (!answer->volume || !service_attached_to(answer->volume, peer->id)))
        return error_set(err, E_PERMISSION, "volume %s is not attached to node %s", get->volume_id, peer->id);
    return 0;
}

static int service_list_fill(struct storage_service *storage, const char *after, size_t max,
                             Mooring__Storage__V1__ListVolumesResponse *answer, struct error *err)
{
    struct volume *volume = store_volume_next(storage->server->store, after);
    while (volume && answer->n_volumes < max) {
        Mooring__Storage__V1__Volume *message = service_volume_of(storage, volume, err);
        struct volume *next = store_volume_next(storage->server->store, volume_id(volume));
        bool deleted = volume_deleted(volume);
        volume_unref(volume);
        volume = next;
        if (message)
            answer->volumes[answer->n_volumes++] = message;
        else if (!deleted) {
            volume_unref(next);
            return err->code;
        }
    }
    answer->more = volume != NULL;
    volume_unref(volume);
    return 0;
}

int service_list_volumes(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                         void *context, struct error *err)
{
    const Mooring__Storage__V1__ListVolumesRequest *list =
        (const Mooring__Storage__V1__ListVolumesRequest *)request;
    Mooring__Storage__V1__ListVolumesResponse *answer = (Mooring__Storage__V1__ListVolumesResponse *)response;
    size_t max = list->max_entries ? MIN(list->max_entries, (uint32_t)LIST_VOLUMES_MAX) : LIST_VOLUMES_MAX;
    (void)call;
    answer->volumes = calloc(max, sizeof(*answer->volumes));
    if (!answer->volumes)
        return error_errno(err, ENOMEM, "list of volumes");
    return service_list_fill(context, list->after_volume_id, max, answer, err);
}

/* ---- write-failed ---- */

static int clear_write_failed_edit(struct volume_record *record, void *context, struct error *err)
{
    (void)context;
    (void)err;
    if (!record->write_failed)
        return VOLUME_UNCHANGED;
    record->write_failed = false;
    return 0;
}

int service_clear_write_failed(struct rpc_call *call, const ProtobufCMessage *request,
                               ProtobufCMessage *response, void *context, struct error *err)
{
    const Mooring__Storage__V1__ClearWriteFailedRequest *clear =
        (const Mooring__Storage__V1__ClearWriteFailedRequest *)request;
    struct volume *volume;
    (void)call;
    (void)response;
    int code = service_find_volume(context, clear->volume_id, &volume, err);
    if (code)
        return code;
    code = volume_operation_begin(volume, "clear write-failed", err);
    if (code == 0) {
        code = volume_update(volume, clear_write_failed_edit, NULL, err);
        volume_operation_end(volume);
    }
    volume_unref(volume);
    return code;
}
