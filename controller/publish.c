/*
 * ControllerPublishVolume and ControllerUnpublishVolume: one call each to the volume's storage server, which
 * decides, records and, on the way back, drains (invariant 2). Owns nothing across calls; run by worker
 * threads.
 */
#include "common/cleanup.h"
#include "controller/capability.h"

int publish_volume(struct controller *controller, const char *volume_id, const char *node_id,
                   const struct capability *capability, bool readonly, uint64_t deadline_ms,
                   Mooring__Storage__V1__AttachVolumeResponse **ret_response,
                   struct storage_server **ret_server, struct error *err)
{
    _cleanup_operation_ struct operation *operation = NULL;
    Mooring__Storage__V1__AttachVolumeRequest request = MOORING__STORAGE__V1__ATTACH_VOLUME_REQUEST__INIT;
    Mooring__Storage__V1__AttachVolumeResponse *response;
    ProtobufCMessage *message = NULL;
    struct storage_server *server = NULL;
    int r;

    r = storage_of_volume(controller->storage, volume_id, &server, err);
    if (r == E_OK)
        r = operation_begin(controller->operations, "volume", volume_id, "ControllerPublishVolume",
                            &operation, err);
    if (r != E_OK)
        return r;
    request.volume_id = (char *)volume_id;
    request.node_id = (char *)node_id;
    request.access_mode = capability->mode;
    request.readonly = readonly || capability_readonly(capability);
    r = storage_call(server, "AttachVolume", &request.base, deadline_ms, &message, err);
    if (r != E_OK)
        return r;
    response = (Mooring__Storage__V1__AttachVolumeResponse *)message;
    if (!response->attachment || !response->volume) {
        protobuf_c_message_free_unpacked(message, NULL);
        return error_set(err, -EPROTO, "AttachVolume of %s answered without an attachment", volume_id);
    }
    *ret_response = response;
    *ret_server = server;
    return E_OK;
}

int publish_undo(struct controller *controller, const char *volume_id, const char *node_id,
                 uint64_t deadline_ms, struct error *err)
{
    _cleanup_operation_ struct operation *operation = NULL;
    _cleanup_error_ struct error why = {0};
    Mooring__Storage__V1__DetachVolumeRequest request = MOORING__STORAGE__V1__DETACH_VOLUME_REQUEST__INIT;
    struct storage_server *server = NULL;
    int r;

    r = operation_begin(controller->operations, "volume", volume_id, "ControllerUnpublishVolume", &operation,
                        err);
    if (r != E_OK)
        return r;
    r = storage_of_volume(controller->storage, volume_id, &server, &why);
    if (r == E_OK) {
        request.volume_id = (char *)volume_id;
        request.node_id = (char *)node_id;
        r = storage_call(server, "DetachVolume", &request.base, deadline_ms, NULL, &why);
    }
    if (r == E_NOT_FOUND) /* proven: no such volume, or no such attachment */
        return E_OK;
    error_move(err, &why);
    return r;
}
