/* CSI Node calls on volumes that are in use, on the wire: growing, health. Runs on the RPC threads;
 * registered by service.c. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "common/time.h"
#include "node/filesystem.h"
#include "node/node.h"
#include "node/service.h"

/* ---- NodeExpandVolume ---- */

static int service_expand_range(const Csi__V1__CapacityRange *range, struct expand_request *expand,
                                struct error *err)
{
    if (!range)
        return 0;
    if (range->required_bytes < 0 || range->limit_bytes < 0)
        return error_set(err, E_OUT_OF_RANGE, "capacity_range is negative");
    if (range->limit_bytes && range->required_bytes > range->limit_bytes)
        return error_set(err, E_OUT_OF_RANGE, "capacity_range requires more than its limit");
    expand->required_bytes = (uint64_t)range->required_bytes;
    expand->limit_bytes = (uint64_t)range->limit_bytes;
    return 0;
}

/* Optional; what is there must be whole. */
static int service_expand_capability(const Csi__V1__VolumeCapability *capability,
                                     struct expand_request *expand, struct error *err)
{
    int r = capability ? service_require_capability(capability, err) : 0;

    if (r == E_PRECONDITION && err) /* this call's table has another code for it */
        r = err->code = E_INVALID_ARGUMENT;
    if (!capability || r)
        return r;
    expand->has_capability = true;
    expand->block = service_is_block(capability);
    if (!expand->block && capability->mount->fs_type)
        expand->fs_type = capability->mount->fs_type;
    return 0;
}

int service_expand(struct rpc_call *call, const ProtobufCMessage *message, ProtobufCMessage *response,
                   void *context, struct error *err)
{
    const Csi__V1__NodeExpandVolumeRequest *request = (const Csi__V1__NodeExpandVolumeRequest *)message;
    Csi__V1__NodeExpandVolumeResponse *answer = (Csi__V1__NodeExpandVolumeResponse *)response;
    struct expand_request expand = {.volume_id = request->volume_id,
                                    .path = request->volume_path,
                                    .staging_path = request->staging_target_path,
                                    .fs_type = ""};
    uint64_t capacity_bytes = 0;

    int r = service_require_volume(request->volume_id, err);
    if (!r)
        r = service_require_path(request->volume_path, "volume_path", err);
    if (!r && *request->staging_target_path)
        r = service_require_path(request->staging_target_path, "staging_target_path", err);
    if (!r)
        r = service_expand_capability(request->volume_capability, &expand, err);
    if (!r)
        r = service_expand_range(request->capacity_range, &expand, err);
    if (r)
        return r;
    expand.deadline_ms = time_now_ms() + service_timeout_ms(call);
    r = expand_volume(context, &expand, &capacity_bytes, err);
    if (!r)
        answer->capacity_bytes = (int64_t)capacity_bytes;
    return r;
}

/* ---- NodeGetVolumeHealth, NodeGetStorageHealth ---- */

static int service_fill_health(Csi__V1__VolumeHealth *to, const struct health *health)
{
    to->health_statuses = calloc(health->count + 1, sizeof(*to->health_statuses));
    for (size_t i = 0; to->health_statuses && i < health->count; i++) {
        const struct health_entry *from = &health->entries[i];
        Csi__V1__VolumeHealth__VolumeHealthEntry *entry = calloc(1, sizeof(*entry));
        if (!entry)
            break;
        csi__v1__volume_health__volume_health_entry__init(entry);
        entry->status = from->kind == HEALTH_INACCESSIBLE ? CSI__V1__VOLUME_HEALTH_ERROR_TYPE__INACCESSIBLE
                                                          : CSI__V1__VOLUME_HEALTH_ERROR_TYPE__DEGRADED;
        entry->reason = strdup(from->reason);
        entry->message = strdup(from->message);
        to->health_statuses[to->n_health_statuses++] = entry;
        if (!entry->reason || !entry->message)
            break;
    }
    return to->n_health_statuses == health->count ? 0 : -ENOMEM;
}

int service_volume_health(struct rpc_call *call, const ProtobufCMessage *message, ProtobufCMessage *response,
                          void *context, struct error *err)
{
    const Csi__V1__NodeGetVolumeHealthRequest *request = (const Csi__V1__NodeGetVolumeHealthRequest *)message;
    Csi__V1__NodeGetVolumeHealthResponse *answer = (Csi__V1__NodeGetVolumeHealthResponse *)response;
    _cleanup_health_ struct health health = {0};

    (void)call;
    int r = service_require_volume(request->volume_id, err);
    if (!r && *request->volume_publish_path)
        r = service_require_path(request->volume_publish_path, "volume_publish_path", err);
    if (!r && *request->staging_target_path)
        r = service_require_path(request->staging_target_path, "staging_target_path", err);
    if (!r)
        r = health_read_volume(context, request->volume_id, request->volume_publish_path,
                               request->staging_target_path, &health, err);
    if (r)
        return r;
    answer->volume_health = calloc(1, sizeof(*answer->volume_health));
    if (!answer->volume_health)
        return error_errno(err, ENOMEM, "cannot answer");
    csi__v1__volume_health__init(answer->volume_health);
    answer->volume_health->volume_id = strdup(request->volume_id);
    if (!answer->volume_health->volume_id || service_fill_health(answer->volume_health, &health))
        return error_errno(err, ENOMEM, "cannot answer");
    return 0;
}

static Csi__V1__NodeGetStorageHealthResponse__StorageBackendHealth *
service_backend_health(const struct health_entry *from)
{
    Csi__V1__NodeGetStorageHealthResponse__StorageBackendHealth *entry = calloc(1, sizeof(*entry));

    if (!entry)
        return NULL;
    csi__v1__node_get_storage_health_response__storage_backend_health__init(entry);
    entry->status = from->kind == HEALTH_INACCESSIBLE
                        ? CSI__V1__STORAGE_HEALTH_ERROR_TYPE__STORAGE_UNREACHABLE
                        : CSI__V1__STORAGE_HEALTH_ERROR_TYPE__STORAGE_DEGRADED;
    entry->reason = strdup(from->reason);
    entry->message = strdup(from->message);
    return entry;
}

int service_storage_health(struct rpc_call *call, const ProtobufCMessage *message, ProtobufCMessage *response,
                           void *context, struct error *err)
{
    Csi__V1__NodeGetStorageHealthResponse *answer = (Csi__V1__NodeGetStorageHealthResponse *)response;
    _cleanup_health_ struct health health = {0};

    (void)call;
    (void)message;
    int r = health_read_storage(context, &health, err);
    if (r)
        return r;
    answer->backend_health = calloc(health.count + 1, sizeof(*answer->backend_health));
    for (size_t i = 0; answer->backend_health && i < health.count; i++) {
        answer->backend_health[i] = service_backend_health(&health.entries[i]);
        if (!answer->backend_health[i])
            break;
        answer->n_backend_health++;
    }
    return answer->n_backend_health == health.count ? 0 : error_errno(err, ENOMEM, "cannot answer");
}
