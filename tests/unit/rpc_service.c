/* The handlers of the test service; each runs on a worker of the server under test. */
#include "tests/unit/rpc_service.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/strings.h"
#include "proto/csi.pb-c.h"
#include "proto/storage.pb-c.h"

static int handle_get_server(struct rpc_call *call, const ProtobufCMessage *request,
                             ProtobufCMessage *response, void *context, struct error *err)
{
    Mooring__Storage__V1__GetServerResponse *answer = (Mooring__Storage__V1__GetServerResponse *)response;
    struct test_service *test = context;

    (void)request, (void)err;
    test->peer = *rpc_call_peer(call);
    snprintf(test->id, sizeof(test->id), "%s", rpc_call_id(call));
    test->remaining_ms = rpc_call_remaining_ms(call);
    atomic_fetch_add(&test->noted, 1);
    answer->server_id = strdup("store-1");
    answer->volumes_count = 42;
    return 0;
}

static int handle_get_volume(struct rpc_call *call, const ProtobufCMessage *request,
                             ProtobufCMessage *response, void *context, struct error *err)
{
    int code = atoi(((const Mooring__Storage__V1__GetVolumeRequest *)request)->volume_id);

    (void)call, (void)response, (void)context;
    return error_set(err, code, "volume %d: ünmöglich", code);
}

static int handle_list_volumes(struct rpc_call *call, const ProtobufCMessage *request,
                               ProtobufCMessage *response, void *context, struct error *err)
{
    Mooring__Storage__V1__ListVolumesResponse *answer = (Mooring__Storage__V1__ListVolumesResponse *)response;
    size_t length = ((const Mooring__Storage__V1__ListVolumesRequest *)request)->max_entries;
    Mooring__Storage__V1__Volume *volume = malloc(sizeof(*volume));

    (void)call, (void)context, (void)err;
    mooring__storage__v1__volume__init(volume);
    volume->name = calloc(1, length + 1);
    memset(volume->name, 'x', length);
    answer->volumes = malloc(sizeof(*answer->volumes));
    answer->volumes[0] = volume;
    answer->n_volumes = 1;
    return 0;
}

static int handle_delete_volume(struct rpc_call *call, const ProtobufCMessage *request,
                                ProtobufCMessage *response, void *context, struct error *err)
{
    struct test_service *test = context;
    struct timespec pause = {.tv_nsec = 1000000};
    bool cancelled = false;

    (void)request, (void)response;
    atomic_fetch_add(&test->running, 1);
    while (!atomic_load(&test->release) && !(cancelled = rpc_call_cancelled(call)))
        nanosleep(&pause, NULL);
    if (cancelled)
        atomic_store(&test->saw_cancel, true);
    atomic_fetch_sub(&test->running, 1);
    atomic_fetch_add(&test->ended, 1);
    return cancelled ? error_set(err, E_CANCELLED, "given up") : 0;
}

static int handle_stream(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                         void *context, struct error *err)
{
    Csi__V1__GetMetadataAllocatedResponse answer = CSI__V1__GET_METADATA_ALLOCATED_RESPONSE__INIT;
    const Csi__V1__GetMetadataAllocatedRequest *wanted =
        (const Csi__V1__GetMetadataAllocatedRequest *)request;
    struct test_service *test = context;

    (void)response;
    for (int i = 0; i < wanted->max_results; i++) {
        answer.volume_capacity_bytes = i;
        int code = rpc_call_send(call, &answer.base, err);
        if (code)
            return code;
        atomic_fetch_add(&test->sent, 1);
    }
    if (wanted->starting_offset)
        return error_set(err, E_OUT_OF_RANGE, "offset %lld", (long long)wanted->starting_offset);
    return 0;
}

static int handle_endless_stream(struct rpc_call *call, const ProtobufCMessage *request,
                                 ProtobufCMessage *response, void *context, struct error *err)
{
    Csi__V1__GetMetadataDeltaResponse answer = CSI__V1__GET_METADATA_DELTA_RESPONSE__INIT;
    struct test_service *test = context;
    int code;

    (void)request, (void)response;
    atomic_fetch_add(&test->running, 1);
    while (!(code = rpc_call_send(call, &answer.base, err)))
        atomic_fetch_add(&test->sent, 1);
    atomic_fetch_sub(&test->running, 1);
    atomic_fetch_add(&test->ended, 1);
    return code;
}

static int handle_probe(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                        void *context, struct error *err)
{
    (void)call, (void)request, (void)response, (void)context, (void)err;
    return 0;
}

const struct rpc_method test_storage_methods[4] = {
    {.name = "GetServer", .handle = handle_get_server},
    {.name = "GetVolume", .handle = handle_get_volume},
    {.name = "ListVolumes", .handle = handle_list_volumes},
    {.name = "DeleteVolume", .handle = handle_delete_volume},
};

const struct rpc_method test_metadata_methods[2] = {
    {.name = "GetMetadataAllocated", .handle = handle_stream, .streaming = true},
    {.name = "GetMetadataDelta", .handle = handle_endless_stream, .streaming = true},
};

const struct rpc_method test_identity_methods[1] = {{.name = "Probe", .handle = handle_probe}};

/* A node may not ask for the server; it may for its volumes. */
static int test_authorize(const struct rpc_peer *peer, const char *method, const ProtobufCMessage *request,
                          void *context, struct error *err)
{
    (void)request, (void)context;
    if (peer->role == RPC_ROLE_NODE && str_equal(method, "ListVolumes"))
        return error_set(err, E_PERMISSION, "node %s may not list volumes", peer->id);
    return 0;
}

void test_services(struct test_service *test, struct rpc_service ret_services[3])
{
    ret_services[0] = (struct rpc_service){.descriptor = &mooring__storage__v1__storage__descriptor,
                                           .methods = test_storage_methods,
                                           .methods_count = 4,
                                           .context = test,
                                           .authorize = test_authorize,
                                           .threads = 2};
    ret_services[1] = (struct rpc_service){.descriptor = &csi__v1__snapshot_metadata__descriptor,
                                           .methods = test_metadata_methods,
                                           .methods_count = 2,
                                           .context = test,
                                           .send_timeout_ms = 3000};
    ret_services[2] = (struct rpc_service){.descriptor = &csi__v1__identity__descriptor,
                                           .methods = test_identity_methods,
                                           .methods_count = 1,
                                           .context = test,
                                           .threads = 1};
}
