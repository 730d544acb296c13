/* The CSI Identity service of the node's socket, on a thread of its own: a slow mkfs never fails Probe. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "node/node.h"
#include "proto/csi.pb-c.h"
#include "rpc/rpc.h"

static int identity_info(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                         void *context, struct error *err)
{
    Csi__V1__GetPluginInfoResponse *answer = (Csi__V1__GetPluginInfoResponse *)response;

    (void)call;
    (void)request;
    (void)context;
    answer->name = strdup(ID_DRIVER_NAME);
    answer->vendor_version = strdup(MOORING_VERSION);
    return answer->name && answer->vendor_version ? 0 : error_errno(err, ENOMEM, "cannot answer");
}

static Csi__V1__PluginCapability *identity_capability(int type)
{
    Csi__V1__PluginCapability *capability = calloc(1, sizeof(*capability));
    Csi__V1__PluginCapability__Service *service = calloc(1, sizeof(*service));

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

static int identity_capabilities(struct rpc_call *call, const ProtobufCMessage *request,
                                 ProtobufCMessage *response, void *context, struct error *err)
{
    static const int types[] = {
        CSI__V1__PLUGIN_CAPABILITY__SERVICE__TYPE__CONTROLLER_SERVICE,
        CSI__V1__PLUGIN_CAPABILITY__SERVICE__TYPE__VOLUME_ACCESSIBILITY_CONSTRAINTS,
    };
    Csi__V1__GetPluginCapabilitiesResponse *answer = (Csi__V1__GetPluginCapabilitiesResponse *)response;

    (void)call;
    (void)request;
    (void)context;
    answer->capabilities = calloc(ARRAY_SIZE(types), sizeof(*answer->capabilities));
    for (size_t i = 0; answer->capabilities && i < ARRAY_SIZE(types); i++) {
        Csi__V1__PluginCapability *capability = identity_capability(types[i]);
        if (!capability)
            break;
        answer->capabilities[answer->n_capabilities++] = capability;
    }
    return answer->n_capabilities == ARRAY_SIZE(types) ? 0 : error_errno(err, ENOMEM, "cannot answer");
}

/* Answering at all is the proof: the node serves as soon as its socket is there. */
static int identity_probe(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                          void *context, struct error *err)
{
    Csi__V1__ProbeResponse *answer = (Csi__V1__ProbeResponse *)response;

    (void)call;
    (void)request;
    (void)context;
    answer->ready = calloc(1, sizeof(*answer->ready));
    if (!answer->ready)
        return error_errno(err, ENOMEM, "cannot answer");
    google__protobuf__bool_value__init(answer->ready);
    answer->ready->value = true;
    return 0;
}

void service_identity(struct node *node, struct rpc_service *ret)
{
    static const struct rpc_method methods[] = {
        {"GetPluginInfo", identity_info, false},
        {"GetPluginCapabilities", identity_capabilities, false},
        {"Probe", identity_probe, false},
    };

    *ret = (struct rpc_service){
        .descriptor = &csi__v1__identity__descriptor,
        .methods = methods,
        .methods_count = ARRAY_SIZE(methods),
        .context = node,
        .threads = 1,
    };
}
