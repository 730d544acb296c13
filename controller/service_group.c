/* CSI's GroupController service. Owns nothing; run by worker threads of its own. */
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "controller/group.h"
#include "controller/request.h"
#include "controller/response.h"
#include "controller/service.h"
#include "controller/service_parts.h"
#include "proto/field_limits.h"

#define GROUP_THREADS 4

SERVICE_HANDLER(service_group_capabilities);
SERVICE_HANDLER(service_create_group);
SERVICE_HANDLER(service_delete_group);
SERVICE_HANDLER(service_get_group);

SERVICE_HANDLER(service_group_capabilities)
{
    Csi__V1__GroupControllerGetCapabilitiesResponse *answer =
        (Csi__V1__GroupControllerGetCapabilitiesResponse *)response;
    Csi__V1__GroupControllerServiceCapability *capability = malloc(sizeof(*capability));
    Csi__V1__GroupControllerServiceCapability__RPC *rpc = malloc(sizeof(*rpc));

    (void)call, (void)message, (void)context;
    answer->capabilities = calloc(1, sizeof(*answer->capabilities));
    if (!answer->capabilities || !capability || !rpc) {
        free(capability);
        free(rpc);
        return service_memory(-ENOMEM, err);
    }
    csi__v1__group_controller_service_capability__init(capability);
    csi__v1__group_controller_service_capability__rpc__init(rpc);
    rpc->type =
        CSI__V1__GROUP_CONTROLLER_SERVICE_CAPABILITY__RPC__TYPE__CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT;
    capability->type_case = CSI__V1__GROUP_CONTROLLER_SERVICE_CAPABILITY__TYPE_RPC;
    capability->rpc = rpc;
    answer->capabilities[answer->n_capabilities++] = capability;
    return E_OK;
}

static int fill_group(struct controller *controller, const struct group *group,
                      Csi__V1__VolumeGroupSnapshot **ret, struct error *err)
{
    Csi__V1__VolumeGroupSnapshot *answer = malloc(sizeof(*answer));
    int64_t created_unix_ns = 0;
    int r = E_OK;

    if (!answer)
        return service_memory(-ENOMEM, err);
    csi__v1__volume_group_snapshot__init(answer);
    *ret = answer;
    answer->group_snapshot_id = strdup(group->id);
    answer->snapshots = calloc(group->count, sizeof(*answer->snapshots));
    answer->ready_to_use = true;
    if (!answer->group_snapshot_id || !answer->snapshots)
        return service_memory(-ENOMEM, err);
    for (size_t i = 0; r == E_OK && i < group->count; i++) {
        Csi__V1__Snapshot *one = NULL;

        r = service_fill_snapshot(controller, group->snapshots[i], &one, err);
        if (one)
            answer->snapshots[answer->n_snapshots++] = one;
        answer->ready_to_use = answer->ready_to_use && group->snapshots[i]->ready;
        if (group->snapshots[i]->created_unix_ns > created_unix_ns)
            created_unix_ns = group->snapshots[i]->created_unix_ns;
    }
    if (r == E_OK) {
        answer->creation_time = response_time(created_unix_ns);
        r = service_memory(answer->creation_time ? E_OK : -ENOMEM, err);
    }
    return r;
}

SERVICE_HANDLER(service_create_group)
{
    Csi__V1__CreateVolumeGroupSnapshotResponse *answer =
        (Csi__V1__CreateVolumeGroupSnapshotResponse *)response;
    struct group_request request;
    struct group group = {0};
    int r = request_group((const Csi__V1__CreateVolumeGroupSnapshotRequest *)message, &request, err);

    if (r == E_OK)
        r = group_create(context, &request, service_deadline(call), &group, err);
    if (r == E_OK)
        r = fill_group(context, &group, &answer->group_snapshot, err);
    group_done(&group);
    return r;
}

SERVICE_HANDLER(service_delete_group)
{
    const Csi__V1__DeleteVolumeGroupSnapshotRequest *request =
        (const Csi__V1__DeleteVolumeGroupSnapshotRequest *)message;
    int r = request_string("group_snapshot_id", request->group_snapshot_id, err);

    (void)response;
    if (r != E_OK)
        return r;
    return group_delete(context, request->group_snapshot_id, request->snapshot_ids, request->n_snapshot_ids,
                        service_deadline(call), err);
}

SERVICE_HANDLER(service_get_group)
{
    const Csi__V1__GetVolumeGroupSnapshotRequest *request =
        (const Csi__V1__GetVolumeGroupSnapshotRequest *)message;
    Csi__V1__GetVolumeGroupSnapshotResponse *answer = (Csi__V1__GetVolumeGroupSnapshotResponse *)response;
    struct group group = {0};
    int r = request_string("group_snapshot_id", request->group_snapshot_id, err);

    if (r == E_OK)
        r = group_get(context, request->group_snapshot_id, request->snapshot_ids, request->n_snapshot_ids,
                      service_deadline(call), &group, err);
    if (r == E_OK)
        r = fill_group(context, &group, &answer->group_snapshot, err);
    group_done(&group);
    return r;
}

static const struct rpc_method changing[] = {
    {"CreateVolumeGroupSnapshot", service_create_group, false},
    {"DeleteVolumeGroupSnapshot", service_delete_group, false},
};

static const struct rpc_method looking[] = {
    {"GroupControllerGetCapabilities", service_group_capabilities, false},
    {"GetVolumeGroupSnapshot", service_get_group, false},
};

static struct rpc_service part(struct controller *controller, const struct rpc_method *methods, size_t count)
{
    return (struct rpc_service){
        .descriptor = &csi__v1__group_controller__descriptor,
        .methods = methods,
        .methods_count = count,
        .context = controller,
        .check = field_limits_check,
        .threads = GROUP_THREADS,
    };
}

struct rpc_service service_group(struct controller *controller)
{
    return part(controller, changing, ARRAY_SIZE(changing));
}

struct rpc_service service_group_looks(struct controller *controller)
{
    return part(controller, looking, ARRAY_SIZE(looking));
}
