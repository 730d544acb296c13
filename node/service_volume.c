/* CSI Node calls on volumes that are in use, on the wire: growing. Runs on the RPC threads; registered by
 * service.c. */
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
