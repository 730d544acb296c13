/* Calls over a unix socket: every way in which one can go. */
#include "tests/unit/rpc_fixture.h"
#include "tests/unit/rpc_service.h"
#include "tests/unit/rpc_tests.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
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

#define BACKLOG_MAX 3
#define STORAGE_THREADS 2 /* of test_services() */

static void calls_serve(struct calls *calls)
{
    struct rpc_server_options options = {.endpoint = rpc_test_unix,
                                         .message_max_bytes = 100000,
                                         .backlog_max = BACKLOG_MAX,
                                         .boot_id = "boot-1"};

    rpc_test_expect(0, rpc_server_new(&calls->server, &options, calls->services, 3, &calls->err),
                    &calls->err);
}

static int calls_setup(void **state)
{
    struct calls *calls = calloc(1, sizeof(*calls));
    struct rpc_client_options client = {.endpoint = rpc_test_unix, .message_max_bytes = 200000};

    test_services(&calls->test, calls->services);
    calls_serve(calls);
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

static int call_and_drop(struct calls *calls, const ProtobufCServiceDescriptor *service, const char *method,
                         const ProtobufCMessage *request, const struct rpc_call_options *options,
                         struct error *err)
{
    ProtobufCMessage *response;
    int code = rpc_client_call(calls->client, service, method, request, options, &response, err);

    if (!code)
        protobuf_c_message_free_unpacked(response, NULL);
    return code;
}

static int call_get(struct calls *calls, const char *volume_id)
{
    Mooring__Storage__V1__GetVolumeRequest request = MOORING__STORAGE__V1__GET_VOLUME_REQUEST__INIT;

    request.volume_id = (char *)volume_id;
    return call_and_drop(calls, STORAGE, "GetVolume", &request.base, NULL, &calls->err);
}

static int call_list(struct calls *calls, unsigned bytes)
{
    Mooring__Storage__V1__ListVolumesRequest request = MOORING__STORAGE__V1__LIST_VOLUMES_REQUEST__INIT;

    request.max_entries = bytes;
    return call_and_drop(calls, STORAGE, "ListVolumes", &request.base, NULL, &calls->err);
}

static int call_probe(struct calls *calls, const struct rpc_call_options *options)
{
    Csi__V1__ProbeRequest request = CSI__V1__PROBE_REQUEST__INIT;

    return call_and_drop(calls, IDENTITY, "Probe", &request.base, options, &calls->err);
}

/* The slow method, from a thread of its own. */
struct slow_caller {
    pthread_t thread;
    struct calls *calls;
    struct rpc_call_options options;
    int code;
    atomic_int *refused;
    struct error err;
};

static void *slow_call(void *context)
{
    struct slow_caller *caller = context;
    Mooring__Storage__V1__DeleteVolumeRequest request = MOORING__STORAGE__V1__DELETE_VOLUME_REQUEST__INIT;

    caller->code =
        call_and_drop(caller->calls, STORAGE, "DeleteVolume", &request.base, &caller->options, &caller->err);
    if (caller->code == E_EXHAUSTED && caller->refused)
        atomic_fetch_add(caller->refused, 1);
    return NULL;
}

static void slow_start(struct slow_caller *caller, struct calls *calls, unsigned timeout_ms)
{
    caller->calls = calls;
    caller->options.timeout_ms = timeout_ms;
    assert_int_equal(pthread_create(&caller->thread, NULL, slow_call, caller), 0);
}

static int slow_join(struct slow_caller *caller)
{
    pthread_join(caller->thread, NULL);
    error_done(&caller->err);
    return caller->code;
}

static void wait_for(atomic_int *counter, int value)
{
    struct timespec pause = {.tv_nsec = 1000000};

    while (atomic_load(counter) < value)
        nanosleep(&pause, NULL);
}

static void test_unary(void **state)
{
    struct calls *calls = *state;
    Mooring__Storage__V1__GetServerRequest request = MOORING__STORAGE__V1__GET_SERVER_REQUEST__INIT;
    ProtobufCMessage *response = NULL;
    int code =
        rpc_client_call(calls->client, STORAGE, "GetServer", &request.base, NULL, &response, &calls->err);

    rpc_test_expect(0, code, &calls->err);
    assert_string_equal(((Mooring__Storage__V1__GetServerResponse *)response)->server_id, "store-1");
    assert_int_equal(((Mooring__Storage__V1__GetServerResponse *)response)->volumes_count, 42);
    protobuf_c_message_free_unpacked(response, NULL);
    assert_int_equal(calls->test.noted, 1);
    assert_int_equal(calls->test.peer.role, RPC_ROLE_LOCAL);
    assert_int_equal(strlen(calls->test.id), 16);
    assert_in_range(calls->test.remaining_ms, 1, 31000); /* gRPC rounds a timeout up on the wire */
}

/* Codes that share a status, E_BUSY and E_STALE among them, come back as what the handler meant. */
static void test_every_code(void **state)
{
    struct calls *calls = *state;
    char number[16], text[64];

    for (int code = E_INVALID_ARGUMENT; code <= E_CORRUPT; code++) {
        snprintf(number, sizeof(number), "%d", code);
        snprintf(text, sizeof(text), "volume %d: ünmöglich", code);
        rpc_test_expect(code, call_get(calls, number), &calls->err);
        assert_string_equal(error_text(&calls->err), text);
    }
    rpc_test_expect(-EIO, call_get(calls, "-28"), &calls->err); /* an errno of that host says nothing here */
    assert_string_equal(error_text(&calls->err), "volume -28: ünmöglich");
}

static void test_unknown_method(void **state)
{
    struct calls *calls = *state;
    Mooring__Storage__V1__ListNodesRequest request = MOORING__STORAGE__V1__LIST_NODES_REQUEST__INIT;

    rpc_test_expect(E_UNIMPLEMENTED,
                    call_and_drop(calls, STORAGE, "ListNodes", &request.base, NULL, &calls->err),
                    &calls->err);
    rpc_test_expect(0, call_list(calls, 1), &calls->err);
}

static void test_message_sizes(void **state)
{
    struct calls *calls = *state;
    char *id = calloc(1, 300001);

    rpc_test_expect(0, call_list(calls, 90000), &calls->err);
    rpc_test_expect(E_EXHAUSTED, call_list(calls, 150000), &calls->err); /* the server may not send it */
    memset(id, '1', 150000);
    rpc_test_expect(E_EXHAUSTED, call_get(calls, id), &calls->err); /* it may not receive it */
    memset(id, '1', 300000);
    rpc_test_expect(E_EXHAUSTED, call_get(calls, id), &calls->err); /* the client may not send it */
    free(id);
    rpc_test_expect(0, call_list(calls, 1), &calls->err);
}

static void test_deadline(void **state)
{
    struct calls *calls = *state;
    struct slow_caller caller = {0};

    slow_start(&caller, calls, 100);
    assert_int_equal(slow_join(&caller), E_DEADLINE);
    wait_for(&calls->test.ended, 1);
    assert_true(calls->test.saw_cancel);
}

/* ---- streams ---- */

struct stream {
    int64_t next, end;
    int code;
};

static int stream_receive(const ProtobufCMessage *message, void *context)
{
    const Csi__V1__GetMetadataAllocatedResponse *response =
        (const Csi__V1__GetMetadataAllocatedResponse *)message;
    struct stream *stream = context;

    assert_int_equal(response->volume_capacity_bytes, stream->next);
    return ++stream->next == stream->end ? stream->code : 0;
}

static int stream_call(struct calls *calls, int count, int64_t failing_offset, struct stream *stream)
{
    Csi__V1__GetMetadataAllocatedRequest request = CSI__V1__GET_METADATA_ALLOCATED_REQUEST__INIT;

    request.max_results = count;
    request.starting_offset = failing_offset;
    return rpc_client_stream(calls->client, METADATA, "GetMetadataAllocated", &request.base, NULL,
                             stream_receive, stream, &calls->err);
}

static void test_stream(void **state)
{
    struct calls *calls = *state;
    struct stream none = {0}, many = {0}, failing = {0};

    rpc_test_expect(0, stream_call(calls, 0, 0, &none), &calls->err);
    assert_int_equal(none.next, 0);
    rpc_test_expect(0, stream_call(calls, 500, 0, &many), &calls->err);
    assert_int_equal(many.next, 500);
    rpc_test_expect(E_OUT_OF_RANGE, stream_call(calls, 3, 77, &failing), &calls->err);
    assert_int_equal(failing.next, 3);
    assert_string_equal(error_text(&calls->err), "offset 77");
}

static int stream_count(const ProtobufCMessage *message, void *context)
{
    struct stream *stream = context;

    (void)message;
    return ++stream->next == stream->end ? stream->code : 0;
}

/* The receiver's own code ends the call, and the handler learns that nobody listens. */
static void test_stream_given_up(void **state)
{
    struct calls *calls = *state;
    Csi__V1__GetMetadataDeltaRequest request = CSI__V1__GET_METADATA_DELTA_REQUEST__INIT;
    struct stream stream = {.end = 5, .code = E_PRECONDITION};
    int code = rpc_client_stream(calls->client, METADATA, "GetMetadataDelta", &request.base, NULL,
                                 stream_count, &stream, &calls->err);

    rpc_test_expect(E_PRECONDITION, code, &calls->err);
    assert_int_equal(stream.next, 5);
    wait_for(&calls->test.ended, 1);
}

static void test_stream_deadline(void **state)
{
    struct calls *calls = *state;
    Csi__V1__GetMetadataDeltaRequest request = CSI__V1__GET_METADATA_DELTA_REQUEST__INIT;
    struct rpc_call_options options = {.timeout_ms =
                                           2000}; /* passes while the handler sends, not before it runs */
    struct stream stream = {0};
    int code = rpc_client_stream(calls->client, METADATA, "GetMetadataDelta", &request.base, &options,
                                 stream_count, &stream, &calls->err);

    rpc_test_expect(E_DEADLINE, code, &calls->err);
    wait_for(&calls->test.ended, 1);
}

/* Takes no more until the sender has given up. */
static int stream_stop_reading(const ProtobufCMessage *message, void *context)
{
    struct calls *calls = context;

    (void)message;
    wait_for(&calls->test.ended, 1);
    return 0;
}

static void test_stream_slow_reader(void **state)
{
    struct calls *calls = *state;
    Csi__V1__GetMetadataDeltaRequest request = CSI__V1__GET_METADATA_DELTA_REQUEST__INIT;
    int code = rpc_client_stream(calls->client, METADATA, "GetMetadataDelta", &request.base, NULL,
                                 stream_stop_reading, calls, &calls->err);

    rpc_test_expect(E_DEADLINE, code, &calls->err);
    assert_int_equal(atomic_load(&calls->test.ended), 1);
}

/* ---- many at once ---- */

static void test_slow_service_delays_no_other(void **state)
{
    struct calls *calls = *state;
    struct slow_caller callers[STORAGE_THREADS] = {0};

    for (int i = 0; i < STORAGE_THREADS; i++)
        slow_start(&callers[i], calls, 60000);
    wait_for(&calls->test.running, STORAGE_THREADS);
    rpc_test_expect(0, call_probe(calls, NULL), &calls->err);
    assert_int_equal(calls->test.running, STORAGE_THREADS);
    atomic_store(&calls->test.release, true);
    for (int i = 0; i < STORAGE_THREADS; i++)
        assert_int_equal(slow_join(&callers[i]), 0);
}

/* Workers busy and the line full: the next is refused at once, and those in line are served all the same. */
static void test_backlog(void **state)
{
    enum { CALLERS = STORAGE_THREADS + BACKLOG_MAX + 3 };
    struct calls *calls = *state;
    struct slow_caller callers[CALLERS] = {0};
    atomic_int refused = 0;
    int served = 0;

    for (int i = 0; i < CALLERS; i++) {
        callers[i].refused = &refused;
        slow_start(&callers[i], calls, 60000);
    }
    wait_for(&refused, 3);
    atomic_store(&calls->test.release, true);
    for (int i = 0; i < CALLERS; i++) {
        int code = slow_join(&callers[i]);
        assert_true(code == 0 || code == E_EXHAUSTED);
        served += code == 0;
    }
    assert_int_equal(served + refused, CALLERS);
    assert_true(served >= BACKLOG_MAX);
}

/* ---- the server's end and beginning ---- */

static void *server_free(void *context)
{
    struct calls *calls = context;

    calls->server = rpc_server_free(calls->server, 60000);
    return NULL;
}

static void test_drain(void **state)
{
    struct calls *calls = *state;
    struct slow_caller caller = {0};
    pthread_t freeing;

    slow_start(&caller, calls, 60000);
    wait_for(&calls->test.running, 1);
    assert_int_equal(pthread_create(&freeing, NULL, server_free, calls), 0);
    while (call_probe(calls, NULL) == 0)
        ; /* until no new call is taken */
    assert_int_equal(calls->test.running, 1);
    atomic_store(&calls->test.release, true);
    assert_int_equal(slow_join(&caller), 0);
    pthread_join(freeing, NULL);
    assert_false(calls->test.saw_cancel);
}

static void test_drain_cancels(void **state)
{
    struct calls *calls = *state;
    struct slow_caller caller = {0};

    slow_start(&caller, calls, 60000);
    wait_for(&calls->test.running, 1);
    calls->server = rpc_server_free(calls->server, 50);
    assert_true(calls->test.saw_cancel);
    assert_int_not_equal(slow_join(&caller), 0);
}

static void *probe_with_retry(void *context)
{
    struct calls *calls = context;
    struct rpc_call_options options = {.timeout_ms = 60000, .retry = true};

    return (void *)(intptr_t)call_probe(calls, &options);
}

static void test_retry(void **state)
{
    struct calls *calls = *state;
    struct timespec pause = {.tv_nsec = 300000000};
    pthread_t thread;
    void *code;

    rpc_test_expect(0, call_probe(calls, NULL), &calls->err); /* so that there is a connection to lose */
    calls->server = rpc_server_free(calls->server, 1000);
    rpc_test_expect(E_UNAVAILABLE, call_probe(calls, NULL), &calls->err);
    assert_non_null(strstr(error_text(&calls->err), "s.sock cannot be reached"));
    error_done(&calls->err);
    assert_int_equal(pthread_create(&thread, NULL, probe_with_retry, calls), 0);
    /* long enough for a first try to fail; a later start makes the test easier, not wrong */
    nanosleep(&pause, NULL);
    struct calls other = {0};
    test_services(&other.test, other.services);
    calls_serve(&other);
    pthread_join(thread, &code);
    rpc_test_expect(0, (int)(intptr_t)code, &calls->err);
    rpc_server_free(other.server, 1000);
}

/* Retries end with the time given, and the error says what was wrong, not that the time is up. */
static void test_retry_gives_up(void **state)
{
    struct calls *calls = *state;
    struct rpc_call_options options = {.timeout_ms = 300, .retry = true};

    calls->server = rpc_server_free(calls->server, 1000);
    rpc_test_expect(E_UNAVAILABLE, call_probe(calls, &options), &calls->err);
    assert_non_null(strstr(error_text(&calls->err), "cannot be reached"));
}

/* Each answer of the server states it, a refusal too; no answer, nothing. */
static void test_boot_id(void **state)
{
    struct calls *calls = *state;
    char boot_id[RPC_BOOT_ID_MAX + 1] = "stale";
    struct rpc_call_options options = {.timeout_ms = 10000, .ret_boot_id = boot_id};
    Csi__V1__GetPluginInfoRequest unserved = CSI__V1__GET_PLUGIN_INFO_REQUEST__INIT;

    rpc_test_expect(0, call_probe(calls, &options), &calls->err);
    assert_string_equal(boot_id, "boot-1");
    str_copy(boot_id, sizeof(boot_id), "stale");
    rpc_test_expect(E_UNIMPLEMENTED,
                    call_and_drop(calls, IDENTITY, "GetPluginInfo", &unserved.base, &options, &calls->err),
                    &calls->err);
    assert_string_equal(boot_id, "boot-1");
    calls->server = rpc_server_free(calls->server, 1000);
    rpc_test_expect(E_UNAVAILABLE, call_probe(calls, &options), &calls->err);
    assert_string_equal(boot_id, "");
}

/* mooring-node starts processes that outlive it: one that inherits the listening socket would keep it alive,
 * and with it the refusal of a new server. */
static void test_nothing_is_inherited(void **state)
{
    struct calls *calls = *state;
    char line[128] = "";
    FILE *listing;

    rpc_test_expect(0, call_probe(calls, NULL), &calls->err);
    listing =
        popen("exec </dev/null 2>/dev/null; ls -l /proc/self/fd | grep -E 'socket:|eventpoll|eventfd'", "r");
    assert_non_null(listing);
    if (fgets(line, sizeof(line), listing))
        fail_msg("a child process has %s", line);
    pclose(listing);
    rpc_test_expect(0, call_probe(calls, NULL), &calls->err);
}

int rpc_calls_tests(void)
{
#define CALLS_TEST(function) cmocka_unit_test_setup_teardown(function, calls_setup, calls_teardown)
    const struct CMUnitTest tests[] = {
        CALLS_TEST(test_unary),
        CALLS_TEST(test_every_code),
        CALLS_TEST(test_unknown_method),
        CALLS_TEST(test_message_sizes),
        CALLS_TEST(test_deadline),
        CALLS_TEST(test_stream),
        CALLS_TEST(test_stream_given_up),
        CALLS_TEST(test_stream_deadline),
        CALLS_TEST(test_stream_slow_reader),
        CALLS_TEST(test_slow_service_delays_no_other),
        CALLS_TEST(test_backlog),
        CALLS_TEST(test_drain),
        CALLS_TEST(test_drain_cancels),
        CALLS_TEST(test_retry),
        CALLS_TEST(test_retry_gives_up),
        CALLS_TEST(test_boot_id),
        CALLS_TEST(test_nothing_is_inherited),
    };

    return cmocka_run_group_tests_name("rpc calls", tests, rpc_test_setup, rpc_test_teardown);
}
