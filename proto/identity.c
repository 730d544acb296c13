/* CSI's Identity service. Owns nothing; run by its own worker thread, in mooring-controller and mooring-node;
 * no handler waits for anything. */
#include "proto/identity.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/id.h"
#include "common/strings.h"
#include "proto/csi.pb-c.h"

static int handle_info(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                       void *context, struct error *err)
{
    Csi__V1__GetPluginInfoResponse *answer = (Csi__V1__GetPluginInfoResponse *)response;

    (void)call, (void)request, (void)context;
    answer->name = strdup(ID_DRIVER_NAME);
    answer->vendor_version = strdup(MOORING_VERSION);
    if (!answer->name || !answer->vendor_version)
        return error_errno(err, ENOMEM, "GetPluginInfo");
    return E_OK;
}

static Csi__V1__PluginCapability *new_service(Csi__V1__PluginCapability__Service__Type type)
{
    Csi__V1__PluginCapability *capability = malloc(sizeof(*capability));
    Csi__V1__PluginCapability__Service *service = malloc(sizeof(*service));

    if (!capability || !service) {
        free(capability);
        free(service);
        return NULL;
    }
    csi__v1__plugin_capability__init(capability);
    csi__v1__plugin_capability__service__init(service);
    service->type = type;
    capability->type_case = CSI__V1__PLUGIN_CAPABILITY__TYPE_SERVICE;
    capability->service = service;
    return capability;
}

static Csi__V1__PluginCapability *new_expansion(Csi__V1__PluginCapability__VolumeExpansion__Type type)
{
    Csi__V1__PluginCapability *capability = malloc(sizeof(*capability));
    Csi__V1__PluginCapability__VolumeExpansion *expansion = malloc(sizeof(*expansion));

    if (!capability || !expansion) {
        free(capability);
        free(expansion);
        return NULL;
    }
    csi__v1__plugin_capability__init(capability);
    csi__v1__plugin_capability__volume_expansion__init(expansion);
    expansion->type = type;
    capability->type_case = CSI__V1__PLUGIN_CAPABILITY__TYPE_VOLUME_EXPANSION;
    capability->volume_expansion = expansion;
    return capability;
}

static const Csi__V1__PluginCapability__Service__Type services[] = {
    CSI__V1__PLUGIN_CAPABILITY__SERVICE__TYPE__CONTROLLER_SERVICE,
    CSI__V1__PLUGIN_CAPABILITY__SERVICE__TYPE__VOLUME_ACCESSIBILITY_CONSTRAINTS,
    CSI__V1__PLUGIN_CAPABILITY__SERVICE__TYPE__GROUP_CONTROLLER_SERVICE,
    CSI__V1__PLUGIN_CAPABILITY__SERVICE__TYPE__SNAPSHOT_METADATA_SERVICE,
    CSI__V1__PLUGIN_CAPABILITY__SERVICE__TYPE__SNAPSHOT_ACCESSIBILITY_CONSTRAINTS,
};

static const Csi__V1__PluginCapability__VolumeExpansion__Type expansions[] = {
    CSI__V1__PLUGIN_CAPABILITY__VOLUME_EXPANSION__TYPE__ONLINE,
    CSI__V1__PLUGIN_CAPABILITY__VOLUME_EXPANSION__TYPE__OFFLINE,
};

#define CAPABILITIES (ARRAY_SIZE(services) + ARRAY_SIZE(expansions))

static int handle_capabilities(struct rpc_call *call, const ProtobufCMessage *request,
                               ProtobufCMessage *response, void *context, struct error *err)
{
    Csi__V1__GetPluginCapabilitiesResponse *answer = (Csi__V1__GetPluginCapabilitiesResponse *)response;

    (void)call, (void)request, (void)context;
    answer->capabilities = calloc(CAPABILITIES, sizeof(*answer->capabilities));
    for (size_t i = 0; answer->capabilities && i < CAPABILITIES; i++) {
        answer->capabilities[i] = i < ARRAY_SIZE(services)
                                      ? new_service(services[i])
                                      : new_expansion(expansions[i - ARRAY_SIZE(services)]);
        if (!answer->capabilities[i])
            break;
        answer->n_capabilities++;
    }
    return answer->n_capabilities == CAPABILITIES ? E_OK : error_errno(err, ENOMEM, "GetPluginCapabilities");
}

static int handle_probe(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                        void *context, struct error *err)
{
    Csi__V1__ProbeResponse *answer = (Csi__V1__ProbeResponse *)response;
    const struct identity *identity = context;
    bool ready = true;
    int r = identity->ready ? identity->ready(identity->context, &ready, err) : E_OK;

    (void)call, (void)request;
    if (r != E_OK)
        return r;
    answer->ready = malloc(sizeof(*answer->ready));
    if (!answer->ready)
        return error_errno(err, ENOMEM, "Probe");
    google__protobuf__bool_value__init(answer->ready);
    answer->ready->value = ready;
    return E_OK;
}

static const struct rpc_method methods[] = {
    {"GetPluginInfo", handle_info, false},
    {"GetPluginCapabilities", handle_capabilities, false},
    {"Probe", handle_probe, false},
};

struct rpc_service identity_service(struct identity *identity)
{
    return (struct rpc_service){
        .descriptor = &csi__v1__identity__descriptor,
        .methods = methods,
        .methods_count = ARRAY_SIZE(methods),
        .context = identity,
        .threads = 1,
    };
}
