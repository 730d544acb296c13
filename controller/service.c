/*
 * CSI's Controller service: each call taken out of protobuf, done by its own file, and put back. Owns
 * nothing; run by the service's worker threads.
 */
#include "controller/service.h"

#include <stdlib.h>

#include "common/cleanup.h"
#include "common/id.h"
#include "common/strings.h"
#include "common/time.h"
#include "controller/capability.h"
#include "controller/capacity.h"
#include "controller/list.h"
#include "controller/request.h"
#include "controller/response.h"
#include "controller/service_parts.h"
#include "controller/size_range.h"
#include "controller/validate.h"
#include "proto/field_limits.h"

#define SERVICE_THREADS STORAGE_CALLS_MAX /* calls that wait for a server that hangs leave some over */
#define CREATE_THREADS 16                 /* these ask every server */
#define DEADLINE_DEFAULT_MS 60000         /* for a caller that set none: every call ends */
#define DEADLINE_MARGIN_MS                                                                                   \
    50 /* so that our answer, which says why, comes before the caller's own deadline                         \
        */

uint64_t service_deadline(struct rpc_call *call)
{
    int64_t left_ms = rpc_call_remaining_ms(call);

    if (left_ms == INT64_MAX)
        left_ms = DEADLINE_DEFAULT_MS;
    if (left_ms > 4 * DEADLINE_MARGIN_MS)
        left_ms -= DEADLINE_MARGIN_MS;
    return time_now_ms() + (uint64_t)(left_ms > 0 ? left_ms : 0);
}

int service_memory(int r, struct error *err)
{
    return r == E_OK ? E_OK : error_errno(err, ENOMEM, "the response");
}

static json_t *topology_of_volume(struct controller *controller, const char *volume_id)
{
    struct storage_server *server = NULL;

    if (storage_of_volume(controller->storage, volume_id, &server, NULL) != E_OK)
        return NULL;
    return storage_server_topology(server);
}

static int fill_volume(struct controller *controller, const Mooring__Storage__V1__Volume *volume,
                       Csi__V1__Volume **ret, struct error *err)
{
    json_t *topology = topology_of_volume(controller, volume->volume_id);
    int r = response_volume(volume, topology, ret);

    json_decref(topology);
    return service_memory(r, err);
}

static int handle_create_volume(struct rpc_call *call, const ProtobufCMessage *request,
                                ProtobufCMessage *response, void *context, struct error *err)
{
    struct controller *controller = context;
    Csi__V1__CreateVolumeResponse *answer = (Csi__V1__CreateVolumeResponse *)response;
    Mooring__Storage__V1__Volume *volume = NULL;
    struct create_request create;
    int r = request_create((const Csi__V1__CreateVolumeRequest *)request, &create, err);

    if (r == E_OK)
        r = volume_create(controller, &create, service_deadline(call), &volume, err);
    if (r == E_OK) {
        r = fill_volume(controller, volume, &answer->volume, err);
        protobuf_c_message_free_unpacked(&volume->base, NULL);
    }
    request_create_done(&create);
    return r;
}

static int handle_delete_volume(struct rpc_call *call, const ProtobufCMessage *request,
                                ProtobufCMessage *response, void *context, struct error *err)
{
    const char *volume_id = ((const Csi__V1__DeleteVolumeRequest *)request)->volume_id;
    int r = request_string("volume_id", volume_id, err);

    (void)response;
    return r == E_OK ? volume_delete(context, volume_id, service_deadline(call), err) : r;
}

/* The CO's volume_context, where it gives one, has to be the volume's. */
static int check_context(struct controller *controller,
                         const Csi__V1__ControllerPublishVolumeRequest *request, uint64_t deadline_ms,
                         struct error *err)
{
    Mooring__Storage__V1__Volume *volume = NULL;
    int r;

    if (request->n_volume_context == 0)
        return E_OK;
    r = volume_find(controller, request->volume_id, deadline_ms, &volume, err);
    if (r != E_OK)
        return r;
    r = validate_context(volume, request->volume_context, request->n_volume_context, err);
    protobuf_c_message_free_unpacked(&volume->base, NULL);
    return r;
}

static int check_publish(const Csi__V1__ControllerPublishVolumeRequest *request,
                         struct capability *capability, struct error *err)
{
    int r = request_string("volume_id", request->volume_id, err);

    if (r == E_OK)
        r = *request->node_id != '\0' ? E_OK : error_set(err, E_INVALID_ARGUMENT, "node_id is required");
    if (r == E_OK)
        r = request_capability(request->volume_capability, capability, err);
    if (r == E_OK && !id_node_valid(request->node_id))
        r = error_set(err, E_NOT_FOUND, "node \"%s\" does not exist: no node has such an id",
                      request->node_id);
    return r;
}

static int handle_publish_volume(struct rpc_call *call, const ProtobufCMessage *message,
                                 ProtobufCMessage *response, void *context, struct error *err)
{
    const Csi__V1__ControllerPublishVolumeRequest *request =
        (const Csi__V1__ControllerPublishVolumeRequest *)message;
    Mooring__Storage__V1__AttachVolumeResponse *attached = NULL;
    struct storage_server *server = NULL;
    uint64_t deadline_ms = service_deadline(call);
    struct capability capability;
    int r = check_publish(request, &capability, err);

    if (r == E_OK)
        r = check_context(context, request, deadline_ms, err);
    if (r == E_OK)
        r = publish_volume(context, request->volume_id, request->node_id, &capability, request->readonly,
                           deadline_ms, &attached, &server, err);
    if (r != E_OK)
        return r;
    r = response_publish_context(attached, storage_server_config(server),
                                 (Csi__V1__ControllerPublishVolumeResponse *)response);
    protobuf_c_message_free_unpacked(&attached->base, NULL);
    return service_memory(r, err);
}

static int handle_unpublish_volume(struct rpc_call *call, const ProtobufCMessage *message,
                                   ProtobufCMessage *response, void *context, struct error *err)
{
    const Csi__V1__ControllerUnpublishVolumeRequest *request =
        (const Csi__V1__ControllerUnpublishVolumeRequest *)message;
    int r = request_string("volume_id", request->volume_id, err);

    (void)response;
    if (r != E_OK)
        return r;
    if (*request->node_id != '\0' && !id_node_valid(request->node_id))
        return E_OK; /* no volume is attached to what cannot be a node */
    return publish_undo(context, request->volume_id, request->node_id, service_deadline(call), err);
}

static int handle_validate(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                           void *context, struct error *err)
{
    return validate_capabilities(context, (const Csi__V1__ValidateVolumeCapabilitiesRequest *)request,
                                 service_deadline(call),
                                 (Csi__V1__ValidateVolumeCapabilitiesResponse *)response, err);
}

static int fill_page(struct controller *controller, const struct list_page *page,
                     Csi__V1__ListVolumesResponse *response)
{
    int r = E_OK;

    response->entries = calloc(page->count + 1, sizeof(*response->entries));
    if (!response->entries)
        return -ENOMEM;
    for (size_t i = 0; r == E_OK && i < page->count; i++) {
        const Mooring__Storage__V1__Volume *volume = (const Mooring__Storage__V1__Volume *)page->items[i];
        json_t *topology = topology_of_volume(controller, volume->volume_id);
        Csi__V1__ListVolumesResponse__Entry *entry = NULL;

        r = response_entry(volume, topology, &entry);
        json_decref(topology);
        if (entry)
            response->entries[response->n_entries++] = entry;
    }
    if (r == E_OK && page->next_token[0] != '\0') {
        response->next_token = strdup(page->next_token);
        r = response->next_token ? E_OK : -ENOMEM;
    }
    return r;
}

static int handle_list_volumes(struct rpc_call *call, const ProtobufCMessage *message,
                               ProtobufCMessage *response, void *context, struct error *err)
{
    const Csi__V1__ListVolumesRequest *request = (const Csi__V1__ListVolumesRequest *)message;
    struct list_request list = {.kind = LIST_VOLUMES, .token = request->starting_token};
    struct list_page page = {0};
    int r;

    if (request->max_entries < 0)
        return error_set(err, E_INVALID_ARGUMENT, "max_entries is negative");
    list.max_entries = (uint32_t)request->max_entries;
    r = list_page_get(context, &list, service_deadline(call), &page, err);
    if (r != E_OK)
        return r;
    r = fill_page(context, &page, (Csi__V1__ListVolumesResponse *)response);
    list_page_done(&page);
    return service_memory(r, err);
}

static int handle_get_volume(struct rpc_call *call, const ProtobufCMessage *message,
                             ProtobufCMessage *response, void *context, struct error *err)
{
    const char *volume_id = ((const Csi__V1__ControllerGetVolumeRequest *)message)->volume_id;
    Csi__V1__ControllerGetVolumeResponse *answer = (Csi__V1__ControllerGetVolumeResponse *)response;
    Mooring__Storage__V1__Volume *volume = NULL;
    int r = request_string("volume_id", volume_id, err);

    if (r == E_OK)
        r = volume_find(context, volume_id, service_deadline(call), &volume, err);
    if (r != E_OK)
        return r;
    r = fill_volume(context, volume, &answer->volume, err);
    answer->status = malloc(sizeof(*answer->status));
    if (answer->status) {
        csi__v1__controller_get_volume_response__volume_status__init(answer->status);
        if (r == E_OK)
            r = service_memory(response_nodes(volume, &answer->status->published_node_ids,
                                              &answer->status->n_published_node_ids),
                               err);
    } else {
        r = service_memory(-ENOMEM, err);
    }
    protobuf_c_message_free_unpacked(&volume->base, NULL);
    return r;
}

static Google__Protobuf__Int64Value *new_int64(uint64_t value)
{
    Google__Protobuf__Int64Value *box = malloc(sizeof(*box));

    if (!box)
        return NULL;
    google__protobuf__int64_value__init(box);
    box->value = (int64_t)(value < INT64_MAX ? value : INT64_MAX);
    return box;
}

/* Capabilities that we do not serve are refused, as CreateVolume would. */
static int check_capacity(const Csi__V1__GetCapacityRequest *request, struct topology_wish *wish,
                          struct parameters *parameters, struct error *err)
{
    json_t *place = NULL;
    int r = parameters_parse(request->parameters, request->n_parameters, parameters, err);

    for (size_t i = 0; r == E_OK && i < request->n_volume_capabilities; i++) {
        struct capability capability;

        r = request_capability(request->volume_capabilities[i], &capability, err);
    }
    wish->zone = parameters->text[PARAMETER_ZONE];
    if (r == E_OK && request->accessible_topology)
        r = request_topology(request->accessible_topology, &place, err);
    if (r == E_OK && place) {
        wish->requisite = json_array();
        json_array_append_new(wish->requisite, place);
    }
    return r;
}

static int handle_get_capacity(struct rpc_call *call, const ProtobufCMessage *message,
                               ProtobufCMessage *response, void *context, struct error *err)
{
    const Csi__V1__GetCapacityRequest *request = (const Csi__V1__GetCapacityRequest *)message;
    Csi__V1__GetCapacityResponse *answer = (Csi__V1__GetCapacityResponse *)response;
    struct parameters parameters = {0};
    struct topology_wish wish = {0};
    struct capacity capacity = {0};
    int r = check_capacity(request, &wish, &parameters, err);

    if (r == E_OK)
        r = capacity_get(context, &wish, parameters.thick, service_deadline(call), &capacity, err);
    json_decref(wish.requisite);
    if (r != E_OK)
        return r;
    answer->available_capacity = (int64_t)capacity.available_bytes;
    answer->maximum_volume_size = new_int64(capacity.size_max_bytes);
    answer->minimum_volume_size = new_int64(SIZE_STEP_BYTES);
    return service_memory(answer->maximum_volume_size && answer->minimum_volume_size ? E_OK : -ENOMEM, err);
}

/* What is real: nothing is advertised that a call would then refuse. */
static const Csi__V1__ControllerServiceCapability__RPC__Type capabilities[] = {
    CSI__V1__CONTROLLER_SERVICE_CAPABILITY__RPC__TYPE__CREATE_DELETE_VOLUME,
    CSI__V1__CONTROLLER_SERVICE_CAPABILITY__RPC__TYPE__PUBLISH_UNPUBLISH_VOLUME,
    CSI__V1__CONTROLLER_SERVICE_CAPABILITY__RPC__TYPE__LIST_VOLUMES,
    CSI__V1__CONTROLLER_SERVICE_CAPABILITY__RPC__TYPE__LIST_VOLUMES_PUBLISHED_NODES,
    CSI__V1__CONTROLLER_SERVICE_CAPABILITY__RPC__TYPE__GET_CAPACITY,
    CSI__V1__CONTROLLER_SERVICE_CAPABILITY__RPC__TYPE__GET_VOLUME,
    CSI__V1__CONTROLLER_SERVICE_CAPABILITY__RPC__TYPE__PUBLISH_READONLY,
    CSI__V1__CONTROLLER_SERVICE_CAPABILITY__RPC__TYPE__SINGLE_NODE_MULTI_WRITER,
    CSI__V1__CONTROLLER_SERVICE_CAPABILITY__RPC__TYPE__EXPAND_VOLUME,
    CSI__V1__CONTROLLER_SERVICE_CAPABILITY__RPC__TYPE__MODIFY_VOLUME,
    CSI__V1__CONTROLLER_SERVICE_CAPABILITY__RPC__TYPE__CREATE_DELETE_SNAPSHOT,
    CSI__V1__CONTROLLER_SERVICE_CAPABILITY__RPC__TYPE__LIST_SNAPSHOTS,
    CSI__V1__CONTROLLER_SERVICE_CAPABILITY__RPC__TYPE__GET_SNAPSHOT,
    CSI__V1__CONTROLLER_SERVICE_CAPABILITY__RPC__TYPE__CLONE_VOLUME,
    CSI__V1__CONTROLLER_SERVICE_CAPABILITY__RPC__TYPE__GET_VOLUME_HEALTH,
    CSI__V1__CONTROLLER_SERVICE_CAPABILITY__RPC__TYPE__LIST_VOLUME_HEALTH,
};

static Csi__V1__ControllerServiceCapability *
new_capability(Csi__V1__ControllerServiceCapability__RPC__Type type)
{
    Csi__V1__ControllerServiceCapability *capability = malloc(sizeof(*capability));
    Csi__V1__ControllerServiceCapability__RPC *rpc = malloc(sizeof(*rpc));

    if (!capability || !rpc) {
        free(capability);
        free(rpc);
        return NULL;
    }
    csi__v1__controller_service_capability__init(capability);
    csi__v1__controller_service_capability__rpc__init(rpc);
    rpc->type = type;
    capability->type_case = CSI__V1__CONTROLLER_SERVICE_CAPABILITY__TYPE_RPC;
    capability->rpc = rpc;
    return capability;
}

static int handle_get_capabilities(struct rpc_call *call, const ProtobufCMessage *request,
                                   ProtobufCMessage *response, void *context, struct error *err)
{
    Csi__V1__ControllerGetCapabilitiesResponse *answer =
        (Csi__V1__ControllerGetCapabilitiesResponse *)response;

    (void)call, (void)request, (void)context;
    answer->capabilities = calloc(ARRAY_SIZE(capabilities), sizeof(*answer->capabilities));
    if (!answer->capabilities)
        return service_memory(-ENOMEM, err);
    for (size_t i = 0; i < ARRAY_SIZE(capabilities); i++) {
        Csi__V1__ControllerServiceCapability *one = new_capability(capabilities[i]);

        if (!one)
            return service_memory(-ENOMEM, err);
        answer->capabilities[answer->n_capabilities++] = one;
    }
    return E_OK;
}

static const struct rpc_method methods[] = {
    {"DeleteVolume", handle_delete_volume, false},
    {"ControllerPublishVolume", handle_publish_volume, false},
    {"ControllerUnpublishVolume", handle_unpublish_volume, false},
    {"ValidateVolumeCapabilities", handle_validate, false},
    {"ListVolumes", handle_list_volumes, false},
    {"GetCapacity", handle_get_capacity, false},
    {"ControllerGetCapabilities", handle_get_capabilities, false},
    {"ControllerGetVolume", handle_get_volume, false},
    {"ControllerExpandVolume", service_expand_volume, false},
    {"ControllerModifyVolume", service_modify_volume, false},
    {"ControllerGetVolumeHealth", service_get_health, false},
    {"ControllerListVolumeHealth", service_list_health, false},
    {"ListSnapshots", service_list_snapshots, false},
    {"GetSnapshot", service_get_snapshot, false},
};

static const struct rpc_method create_methods[] = {
    {"CreateVolume", handle_create_volume, false},
};

static const struct rpc_method snapshot_methods[] = {
    {"CreateSnapshot", service_create_snapshot, false},
    {"DeleteSnapshot", service_delete_snapshot, false},
};

static struct rpc_service part(struct controller *controller, const struct rpc_method *list, size_t count,
                               unsigned threads)
{
    return (struct rpc_service){
        .descriptor = &csi__v1__controller__descriptor,
        .methods = list,
        .methods_count = count,
        .context = controller,
        .check = field_limits_check,
        .threads = threads,
    };
}

struct rpc_service service_controller(struct controller *controller)
{
    return part(controller, methods, ARRAY_SIZE(methods), SERVICE_THREADS);
}

struct rpc_service service_controller_create(struct controller *controller)
{
    return part(controller, create_methods, ARRAY_SIZE(create_methods), CREATE_THREADS);
}

struct rpc_service service_controller_snapshots(struct controller *controller)
{
    return part(controller, snapshot_methods, ARRAY_SIZE(snapshot_methods), CREATE_THREADS);
}
