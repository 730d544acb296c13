/*
 * DeleteVolume, and finding a volume. Owns nothing across calls; run by worker threads.
 */
#include "common/cleanup.h"
#include "controller/claim.h"

int volume_find(struct controller *controller, const char *volume_id, uint64_t deadline_ms,
                Mooring__Storage__V1__Volume **ret_volume, struct error *err)
{
    struct storage_server *server = NULL;
    int r = storage_of_volume(controller->storage, volume_id, &server, err);

    if (r != E_OK)
        return r;
    return storage_get_volume(server, volume_id, deadline_ms, ret_volume, err);
}

static int delete_existing(struct controller *controller, const Mooring__Storage__V1__Volume *volume,
                           uint64_t deadline_ms, struct error *err)
{
    _cleanup_operation_ struct operation *operation = NULL;
    Mooring__Storage__V1__DeleteVolumeRequest request = MOORING__STORAGE__V1__DELETE_VOLUME_REQUEST__INIT;
    struct storage_server *server = NULL;
    int r;

    r = operation_begin(controller->operations, "name", volume->name, "DeleteVolume", &operation, err);
    if (r == E_OK)
        r = storage_of_volume(controller->storage, volume->volume_id, &server, err);
    if (r != E_OK)
        return r;
    request.volume_id = volume->volume_id;
    r = storage_call(server, "DeleteVolume", &request.base, deadline_ms, NULL, err);
    if (r != E_OK)
        return r;
    return claim_release(controller, CLAIM_VOLUME, volume->name, volume->volume_id, deadline_ms, err);
}

int volume_delete(struct controller *controller, const char *volume_id, uint64_t deadline_ms,
                  struct error *err)
{
    _cleanup_operation_ struct operation *operation = NULL;
    _cleanup_error_ struct error absent = {0};
    Mooring__Storage__V1__Volume *volume = NULL;
    int r;

    r = operation_begin(controller->operations, "volume", volume_id, "DeleteVolume", &operation, err);
    if (r != E_OK)
        return r;
    r = volume_find(controller, volume_id, deadline_ms, &volume, &absent);
    if (r == E_NOT_FOUND)
        return claim_release_unnamed(controller, CLAIM_VOLUME, volume_id, deadline_ms, err);
    if (r != E_OK) {
        error_move(err, &absent);
        return r;
    }
    r = delete_existing(controller, volume, deadline_ms, err);
    protobuf_c_message_free_unpacked(&volume->base, NULL);
    return r;
}
