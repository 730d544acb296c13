/* The parts of rpc/ that need no server: statuses, strings on the wire, common names, endpoints, socket
 * files. */
#include "tests/unit/rpc_fixture.h"
#include "tests/unit/rpc_service.h"
#include "tests/unit/rpc_tests.h"

#include <fcntl.h>
#include <grpc/status.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "proto/csi.pb-c.h"
#include "rpc/endpoint.h"
#include "rpc/peer.h"
#include "rpc/status.h"
#include "rpc/wire.h"

static void test_status(void **state)
{
    static const struct {
        int code, status;
    } cases[] = {
        {E_OK, GRPC_STATUS_OK},
        {E_INVALID_ARGUMENT, GRPC_STATUS_INVALID_ARGUMENT},
        {E_NOT_FOUND, GRPC_STATUS_NOT_FOUND},
        {E_EXISTS, GRPC_STATUS_ALREADY_EXISTS},
        {E_NO_SPACE, GRPC_STATUS_RESOURCE_EXHAUSTED},
        {E_EXHAUSTED, GRPC_STATUS_RESOURCE_EXHAUSTED},
        {E_BUSY, GRPC_STATUS_ABORTED},
        {E_STALE, GRPC_STATUS_ABORTED},
        {E_PRECONDITION, GRPC_STATUS_FAILED_PRECONDITION},
        {E_OUT_OF_RANGE, GRPC_STATUS_OUT_OF_RANGE},
        {E_UNAVAILABLE, GRPC_STATUS_UNAVAILABLE},
        {E_DEADLINE, GRPC_STATUS_DEADLINE_EXCEEDED},
        {E_CANCELLED, GRPC_STATUS_CANCELLED},
        {E_UNAUTHENTICATED, GRPC_STATUS_UNAUTHENTICATED},
        {E_PERMISSION, GRPC_STATUS_PERMISSION_DENIED},
        {E_UNIMPLEMENTED, GRPC_STATUS_UNIMPLEMENTED},
        {E_READ_ONLY, GRPC_STATUS_FAILED_PRECONDITION},
        {E_WRITE_FAILED, GRPC_STATUS_FAILED_PRECONDITION},
        {E_MISCOMPARE, GRPC_STATUS_FAILED_PRECONDITION},
        {E_CORRUPT, GRPC_STATUS_DATA_LOSS},
        {-2 /* ENOENT of some file is not NOT_FOUND */, GRPC_STATUS_INTERNAL},
        {-28, GRPC_STATUS_INTERNAL},
        {E_CORRUPT + 1, GRPC_STATUS_INTERNAL},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
        assert_int_equal(status_from_error(cases[i].code), cases[i].status);
    assert_int_equal(status_to_error(GRPC_STATUS_ABORTED), E_BUSY);
    assert_int_equal(status_to_error(GRPC_STATUS_RESOURCE_EXHAUSTED), E_EXHAUSTED);
    assert_true(status_to_error(GRPC_STATUS_INTERNAL) < 0);
    assert_true(status_to_error(GRPC_STATUS_UNKNOWN) < 0);
    assert_true(status_to_error(17) < 0);
    assert_true(status_to_error(-1) < 0);
    assert_int_equal(status_refine(GRPC_STATUS_ABORTED, "STALE"), E_STALE);
    assert_int_equal(status_refine(GRPC_STATUS_ABORTED, "NOT_FOUND"),
                     E_BUSY); /* of another status: not believed */
    assert_int_equal(status_refine(GRPC_STATUS_OK, "STALE"), E_OK);
    assert_true(status_refine(GRPC_STATUS_INTERNAL, "ENOSPC") < 0);
}

/* ---- strings on the wire ---- */

#define CHECK(bytes)                                                                                         \
    rpc_wire_check(&csi__v1__create_volume_request__descriptor, (const uint8_t *)bytes, sizeof(bytes) - 1,   \
                   &err)

static void test_wire(void **state)
{
    struct error err = {0};

    (void)state;
    assert_int_equal(CHECK(""), 0);
    assert_int_equal(CHECK("\x0a\x03"
                           "abc"),
                     0);
    assert_int_equal(CHECK("\x0a\x05"
                           "gr\xc3\xbc"
                           "n"),
                     0);
    rpc_test_expect(E_INVALID_ARGUMENT,
                    CHECK("\x0a\x03"
                          "a\0c"),
                    &err);
    assert_string_equal(error_text(&err), "name: a string must not contain a NUL");
    rpc_test_expect(E_INVALID_ARGUMENT,
                    CHECK("\x0a\x01"
                          "\0"),
                    &err);
    rpc_test_expect(E_INVALID_ARGUMENT,
                    CHECK("\x0a\x02"
                          "\xc3"
                          "a"),
                    &err); /* a cut sequence */
    rpc_test_expect(E_INVALID_ARGUMENT,
                    CHECK("\x0a\x02"
                          "\xc0\x80"),
                    &err); /* a NUL in an overlong form */
    rpc_test_expect(E_INVALID_ARGUMENT,
                    CHECK("\x0a\x03"
                          "\xed\xa0\x80"),
                    &err); /* a surrogate */
    assert_string_equal(error_text(&err), "name: not UTF-8");
    /* within a message: parameters (4) { value (2) } */
    assert_int_equal(CHECK("\x22\x03\x12\x01"
                           "x"),
                     0);
    rpc_test_expect(E_INVALID_ARGUMENT,
                    CHECK("\x22\x03\x12\x01"
                          "\0"),
                    &err);
    /* an unknown field (200) may hold anything; volume_capabilities (3) holds messages */
    assert_int_equal(CHECK("\xc2\x0c\x01"
                           "\0"),
                     0);
    rpc_test_expect(E_INVALID_ARGUMENT,
                    CHECK("\x0a\x04"
                          "abc"),
                    &err); /* cut */
    rpc_test_expect(E_INVALID_ARGUMENT, CHECK("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), &err);
    rpc_test_expect(E_INVALID_ARGUMENT, CHECK("\x00\x01"), &err); /* no field has number 0 */
    /* A tag above 32 bits, which protobuf-c takes for field 1. */
    rpc_test_expect(E_INVALID_ARGUMENT, CHECK("\x8a\x80\x80\x80\x10\x01\0"), &err);
    rpc_test_expect(E_INVALID_ARGUMENT, CHECK("\x0a"), &err);
    rpc_test_expect(E_INVALID_ARGUMENT, CHECK("\x0b"), &err); /* a group */
    rpc_test_expect(E_INVALID_ARGUMENT,
                    CHECK("\x09"
                          "1234567"),
                    &err); /* 7 of 8 bytes */
    assert_int_equal(CHECK("\x09"
                           "12345678"
                           "\x0d"
                           "1234"
                           "\x08\x05"),
                     0);
    error_done(&err);
}

/* ---- common names ---- */

static void peer_expect(const char *name, size_t length, enum rpc_role role, const char *id)
{
    struct rpc_peer peer = {.role = RPC_ROLE_OPERATOR, .id = "left over"};

    rpc_peer_parse(&peer, name, length);
    assert_int_equal(peer.role, role);
    assert_string_equal(peer.id, id);
}

#define PEER(name, role, id) peer_expect(name, sizeof(name) - 1, role, id)

static void test_peer(void **state)
{
    char longest[256] = "mooring:node:";

    (void)state;
    PEER("mooring:controller", RPC_ROLE_CONTROLLER, "");
    PEER("mooring:operator", RPC_ROLE_OPERATOR, "");
    PEER("mooring:node:worker-3.example", RPC_ROLE_NODE, "worker-3.example");
    PEER("mooring:server:store-1", RPC_ROLE_SERVER, "store-1");
    PEER("", RPC_ROLE_NONE, "");
    PEER("controller", RPC_ROLE_NONE, "");
    PEER("mooring:controllers", RPC_ROLE_NONE, "");
    PEER("mooring:operator:x", RPC_ROLE_NONE, "");
    PEER("mooring:operator\0x", RPC_ROLE_NONE, "");
    PEER("mooring:node", RPC_ROLE_NONE, "");
    PEER("mooring:node:", RPC_ROLE_NONE, "");
    PEER("mooring:node:../x", RPC_ROLE_NONE, "");
    PEER("mooring:node:a\0b", RPC_ROLE_NONE, "");
    PEER("mooring:server:UPPER", RPC_ROLE_NONE, "");
    memset(longest + 13, 'a', 128);
    peer_expect(longest, 141, RPC_ROLE_NODE, longest + 13);
    memset(longest + 13, 'a', 200);
    peer_expect(longest, 213, RPC_ROLE_NONE, "");
}

/* ---- endpoints and socket files ---- */

static void test_endpoint(void **state)
{
    static const char *const bad[] = {"",         ":",          "host",           "host:",   ":80",
                                      "host:0",   "host:65536", "host:08",        "host:8x", "ho/st:80",
                                      "::1:80",   "[::1]",      "[]:80",          "unix:/x", "unix://",
                                      "unix://x", "unix:///x/", "http://host:80", "a b:80"};
    char longest[160] = "unix:///";
    struct rpc_endpoint endpoint;
    struct error err = {0};

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        if (rpc_endpoint_init(&endpoint, bad[i], &err) != E_INVALID_ARGUMENT)
            fail_msg("\"%s\" was taken", bad[i]);
    rpc_test_expect(0, rpc_endpoint_init(&endpoint, "[::1]:80", &err), &err);
    assert_string_equal(endpoint.host, "::1");
    assert_string_equal(endpoint.port, "80");
    rpc_endpoint_done(&endpoint);
    rpc_test_expect(0, rpc_endpoint_init(&endpoint, "unix:///a b%2f", &err), &err);
    assert_string_equal(endpoint.path, "/a b%2f");
    assert_string_equal(endpoint.target, "unix:/a%20b%252f");
    rpc_endpoint_done(&endpoint);
    memset(longest + 8, 'p', 106); /* with the slash before them: 107 */
    rpc_test_expect(0, rpc_endpoint_init(&endpoint, longest, &err), &err);
    rpc_endpoint_done(&endpoint);
    longest[114] = 'p';
    rpc_test_expect(E_INVALID_ARGUMENT, rpc_endpoint_init(&endpoint, longest, &err), &err);
    error_done(&err);
}

static int serve(struct rpc_server **ret, unsigned mode, struct error *err)
{
    static struct test_service test;
    static struct rpc_service services[3];
    struct rpc_server_options options = {.endpoint = rpc_test_unix, .socket_mode = mode};

    test_services(&test, services);
    return rpc_server_new(ret, &options, services, 3, err);
}

/* Whether a server answers on the socket. */
static int probe(struct error *err)
{
    struct rpc_client_options options = {.endpoint = rpc_test_unix};
    Csi__V1__ProbeRequest request = CSI__V1__PROBE_REQUEST__INIT;
    struct rpc_client *client;
    ProtobufCMessage *response;
    int code;

    rpc_test_expect(0, rpc_client_new(&client, &options, err), err);
    code =
        rpc_client_call(client, &csi__v1__identity__descriptor, "Probe", &request.base, NULL, &response, err);
    if (!code)
        protobuf_c_message_free_unpacked(response, NULL);
    rpc_client_free(client);
    return code;
}

static void test_live_socket_is_kept(void **state)
{
    struct rpc_server *first = NULL, *second = NULL;
    struct error err = {0};

    (void)state;
    rpc_test_expect(0, serve(&first, 0, &err), &err);
    rpc_test_expect(E_EXISTS, serve(&second, 0, &err), &err);
    assert_non_null(strstr(error_text(&err), "another server listens"));
    rpc_test_expect(0, probe(&err), &err);
    rpc_server_free(first, 1000);
    rpc_test_expect(0, serve(&second, 0, &err), &err); /* the place is free again */
    rpc_server_free(second, 1000);
    error_done(&err);
}

static void test_stale_socket_is_replaced(void **state)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = rpc_test_unix + strlen("unix://");
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    struct rpc_server *server = NULL;
    struct error err = {0};
    struct stat status;

    (void)state;
    memcpy(address.sun_path, path, strlen(path) + 1);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    close(fd); /* as a server that was killed leaves it */
    rpc_test_expect(0, serve(&server, 0600, &err), &err);
    rpc_test_expect(0, probe(&err), &err);
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
    rpc_server_free(server, 1000);
}

static void test_file_is_kept(void **state)
{
    const char *path = rpc_test_unix + strlen("unix://");
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600);
    struct rpc_server *server = NULL;
    struct error err = {0};

    (void)state;
    assert_true(fd >= 0);
    close(fd);
    rpc_test_expect(E_EXISTS, serve(&server, 0, &err), &err);
    assert_non_null(strstr(error_text(&err), "is not a socket"));
    assert_int_equal(unlink(path), 0);
    error_done(&err);
}

static void test_no_directory(void **state)
{
    struct rpc_server_options options = {.endpoint = "unix:///nonexistent/dir/s.sock"};
    struct rpc_server *server = NULL;
    struct error err = {0};

    (void)state;
    rpc_test_expect(E_INVALID_ARGUMENT, rpc_server_new(&server, &options, NULL, 0, &err), &err);
    assert_non_null(strstr(error_text(&err), "/nonexistent/dir"));
    error_done(&err);
}

int rpc_parts_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status),
        cmocka_unit_test(test_wire),
        cmocka_unit_test(test_peer),
        cmocka_unit_test(test_endpoint),
        cmocka_unit_test(test_live_socket_is_kept),
        cmocka_unit_test(test_stale_socket_is_replaced),
        cmocka_unit_test(test_file_is_kept),
        cmocka_unit_test(test_no_directory),
    };

    return cmocka_run_group_tests_name("rpc parts", tests, rpc_test_setup, rpc_test_teardown);
}
