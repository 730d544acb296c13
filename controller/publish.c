/*
 * ControllerPublishVolume and ControllerUnpublishVolume: the volume is read from its storage server, and what
 * is decided on that reading is asked for with the record generation or epoch of it; the server records and,
 * on the way back, drains (invariant 2). Owns nothing across calls; run by worker threads.
 *
 * A stale answer goes to the CO as ABORTED and is never decided anew in the same call: what made it stale may
 * be the CO's own newer call, sent through another controller after it gave this one up, and a decision on
 * what that one left would undo it (invariant 8). The CO asks again if it still wants this.
 *
 * How many volumes a node takes, each server heeds for its own volumes, one attach of the node at a time.
 * Their sum is looked at here before: two calls at once, for volumes of two servers, may both find the last
 * place.
 */
#include <inttypes.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "common/strings.h"
#include "common/time.h"
#include "controller/capability.h"

#define COUNT_TIMEOUT_MS 1000

static int publish_read(struct storage_server *server, const char *volume_id, const char *node_id,
                        uint64_t deadline_ms, uint64_t *ret_record_generation, bool *ret_attached,
                        struct error *err)
{
    Mooring__Storage__V1__Volume *volume = NULL;
    int r = storage_get_volume(server, volume_id, deadline_ms, &volume, err);

    if (r != E_OK)
        return r;
    *ret_record_generation = volume->record_generation;
    *ret_attached = false;
    for (size_t i = 0; i < volume->n_attachments; i++)
        *ret_attached |= str_equal(volume->attachments[i]->node_id, node_id);
    protobuf_c_message_free_unpacked(&volume->base, NULL);
    return E_OK;
}

/* Add what one server knows; one that does not answer now counts for nothing: it is not what the call needs.
 */
static void count_attached(struct storage_server *server, const char *node_id, uint64_t deadline_ms,
                           uint64_t *count, uint64_t *limit)
{
    Mooring__Storage__V1__ListNodesRequest request = MOORING__STORAGE__V1__LIST_NODES_REQUEST__INIT;
    uint64_t soon_ms = time_now_ms() + COUNT_TIMEOUT_MS;
    const Mooring__Storage__V1__ListNodesResponse *response;
    ProtobufCMessage *message = NULL;

    request.node_id = (char *)node_id;
    if (storage_call(server, "ListNodes", &request.base, MIN(deadline_ms, soon_ms), &message, NULL) != E_OK)
        return;
    response = (const Mooring__Storage__V1__ListNodesResponse *)message;
    for (size_t i = 0; i < response->n_nodes; i++) {
        const Mooring__Storage__V1__Node *node = response->nodes[i];

        if (!str_equal(node->node_id, node_id)) /* an older server lists them all */
            continue;
        *count += node->attached_count;
        *limit = MAX(*limit, (uint64_t)node->volumes_max);
    }
    protobuf_c_message_free_unpacked(message, NULL);
}

static int check_room(const struct storage *storage, const char *node_id, uint64_t deadline_ms,
                      struct error *err)
{
    uint64_t count = 0, limit = 0;

    for (size_t i = 0; storage_count(storage) > 1 && i < storage_count(storage); i++) {
        struct storage_server *server = storage_at(storage, i);

        if (!storage_server_config(server)->gone && storage_server_ready(server))
            count_attached(server, node_id, deadline_ms, &count, &limit);
    }
    if (limit == 0 || count < limit)
        return E_OK;
    return error_set(err, E_EXHAUSTED,
                     "node %s has %" PRIu64 " volumes attached, and takes %" PRIu64
                     ": \"volumes_max\" of its mooring-node",
                     node_id, count, limit);
}

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
    bool attached;
    int r;

    r = storage_of_volume(controller->storage, volume_id, &server, err);
    if (r == E_OK)
        r = operation_begin(controller->operations, "volume", volume_id, "ControllerPublishVolume",
                            &operation, err);
    if (r != E_OK)
        return r;
    r = publish_read(server, volume_id, node_id, deadline_ms, &request.record_generation, &attached, err);
    if (r == E_OK && !attached)
        r = check_room(controller->storage, node_id, deadline_ms, err);
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

static int undo_one(struct storage_server *server, const char *volume_id, const char *node_id, uint64_t epoch,
                    uint64_t record_generation, uint64_t deadline_ms, struct error *err)
{
    Mooring__Storage__V1__DetachVolumeRequest request = MOORING__STORAGE__V1__DETACH_VOLUME_REQUEST__INIT;

    request.volume_id = (char *)volume_id;
    request.node_id = (char *)node_id;
    request.epoch = epoch;
    request.record_generation = record_generation;
    return storage_call(server, "DetachVolume", &request.base, deadline_ms, NULL, err);
}

/* Where the node has no attachment the server is told so, and refuses an attach that is still on its way. */
static int undo_read(struct storage_server *server, const Mooring__Storage__V1__Volume *volume,
                     const char *node_id, uint64_t deadline_ms, struct error *err)
{
    bool all = *node_id == '\0', found = false;
    int r = E_OK;

    for (size_t i = 0; i < volume->n_attachments && r == E_OK; i++) {
        const Mooring__Storage__V1__Attachment *attachment = volume->attachments[i];

        if (!all && !str_equal(attachment->node_id, node_id))
            continue;
        found = true;
        r = undo_one(server, volume->volume_id, attachment->node_id, attachment->epoch, 0, deadline_ms, err);
    }
    if (found || all)
        return r;
    return undo_one(server, volume->volume_id, node_id, 0, volume->record_generation, deadline_ms, err);
}

int publish_undo(struct controller *controller, const char *volume_id, const char *node_id,
                 uint64_t deadline_ms, struct error *err)
{
    _cleanup_operation_ struct operation *operation = NULL;
    _cleanup_error_ struct error why = {0};
    Mooring__Storage__V1__Volume *volume = NULL;
    struct storage_server *server = NULL;
    int r;

    r = operation_begin(controller->operations, "volume", volume_id, "ControllerUnpublishVolume", &operation,
                        err);
    if (r != E_OK)
        return r;
    r = storage_of_volume(controller->storage, volume_id, &server, &why);
    if (r == E_OK)
        r = storage_get_volume(server, volume_id, deadline_ms, &volume, &why);
    if (r == E_OK) {
        r = undo_read(server, volume, node_id, deadline_ms, &why);
        protobuf_c_message_free_unpacked(&volume->base, NULL);
    }
    if (r == E_NOT_FOUND) /* proven: no such volume, or no such attachment */
        return E_OK;
    error_move(err, &why);
    return r;
}
