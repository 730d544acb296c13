/* Who gets through to whom over TLS, and what the one that is refused reads. */
#include "tests/unit/rpc_fixture.h"
#include "tests/unit/rpc_service.h"
#include "tests/unit/rpc_tests.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/storage.pb-c.h"
#include "rpc/tls_files.h"
#include "rpc/tls_issue.h"

#define STORAGE (&mooring__storage__v1__storage__descriptor)

static struct test_service tls_test;
static struct rpc_service tls_services[3];

static int tls_setup(void **state)
{
    if (rpc_test_setup(state))
        return -1;
    rpc_test_issue("ca", "server", "mooring:server:store-1", "127.0.0.1");
    rpc_test_issue("ca", "named", "mooring:server:store-1", "store-1.example");
    rpc_test_issue("ca", "controller", "mooring:controller", "127.0.0.1");
    rpc_test_issue("ca", "operator", "mooring:operator", "127.0.0.1");
    rpc_test_issue("ca", "node", "mooring:node:worker-3.example", "127.0.0.1");
    rpc_test_issue("other", "stranger", "mooring:controller", "127.0.0.1");
    rpc_test_issue("other", "impostor", "mooring:server:store-1", "127.0.0.1");
    test_services(&tls_test, tls_services);
    return 0;
}

static struct rpc_server *tls_serve(const char *certificate)
{
    struct rpc_tls tls = rpc_test_tls("ca", certificate);
    struct rpc_server_options options = {.endpoint = rpc_test_tcp, .tls = &tls};
    struct rpc_server *server;
    struct error err = {0};

    rpc_test_expect(0, rpc_server_new(&server, &options, tls_services, 3, &err), &err);
    return server;
}

/* One call with the files given, checked against the CA given. */
static int tls_call_within(const char *ca, const char *certificate, const char *server_name,
                           const char *method, unsigned timeout_ms, struct error *err)
{
    Mooring__Storage__V1__GetServerRequest get = MOORING__STORAGE__V1__GET_SERVER_REQUEST__INIT;
    Mooring__Storage__V1__ListVolumesRequest list = MOORING__STORAGE__V1__LIST_VOLUMES_REQUEST__INIT;
    struct rpc_tls tls = rpc_test_tls(ca, certificate);
    struct rpc_client_options options = {.endpoint = rpc_test_tcp, .tls = &tls, .server_name = server_name};
    struct rpc_call_options call = {.timeout_ms = timeout_ms};
    ProtobufCMessage *response;
    struct rpc_client *client;
    int code;

    rpc_test_expect(0, rpc_client_new(&client, &options, err), err);
    code = rpc_client_call(client, STORAGE, method, method[0] == 'G' ? &get.base : &list.base, &call,
                           &response, err);
    if (!code)
        protobuf_c_message_free_unpacked(response, NULL);
    rpc_client_free(client);
    return code;
}

static int tls_call(const char *ca, const char *certificate, const char *server_name, const char *method,
                    struct error *err)
{
    return tls_call_within(ca, certificate, server_name, method, 20000, err);
}

static void tls_expect_text(struct error *err, const char *words)
{
    if (!strstr(error_text(err), words))
        fail_msg("\"%s\" lacks \"%s\"", error_text(err), words);
    error_done(err);
}

static void test_roles(void **state)
{
    static const struct {
        const char *certificate;
        enum rpc_role role;
        const char *id;
    } cases[] = {{"controller", RPC_ROLE_CONTROLLER, ""},
                 {"operator", RPC_ROLE_OPERATOR, ""},
                 {"node", RPC_ROLE_NODE, "worker-3.example"},
                 {"server", RPC_ROLE_SERVER, "store-1"}};
    struct rpc_server *server = tls_serve("server");
    struct error err = {0};

    (void)state;
    atomic_store(&tls_test.noted, 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        rpc_test_expect(0, tls_call("ca", cases[i].certificate, NULL, "GetServer", &err), &err);
        assert_int_equal(tls_test.noted, i + 1);
        assert_int_equal(tls_test.peer.role, cases[i].role);
        assert_string_equal(tls_test.peer.id, cases[i].id);
        assert_non_null(strstr(tls_test.peer.address, "127.0.0.1"));
    }
    rpc_test_expect(E_PERMISSION, tls_call("ca", "node", NULL, "ListVolumes", &err), &err);
    tls_expect_text(&err, "node worker-3.example may not");
    rpc_server_free(server, 1000);
}

static void test_other_ca_client_refused(void **state)
{
    struct rpc_server *server = tls_serve("server");
    struct error err = {0};

    (void)state;
    rpc_test_expect(E_UNAVAILABLE, tls_call("ca", "stranger", NULL, "GetServer", &err), &err);
    tls_expect_text(&err, "refused our certificate");
    rpc_server_free(server, 1000);
}

static void test_other_ca_server_refused(void **state)
{
    struct rpc_server *server = tls_serve("impostor");
    struct error err = {0};

    (void)state;
    rpc_test_expect(E_UNAVAILABLE, tls_call("ca", "controller", NULL, "GetServer", &err), &err);
    tls_expect_text(&err, "not issued by our CA");
    rpc_server_free(server, 1000);
}

static void test_server_name(void **state)
{
    struct rpc_server *server = tls_serve("named");
    struct error err = {0};

    (void)state;
    rpc_test_expect(E_UNAVAILABLE, tls_call("ca", "controller", NULL, "GetServer", &err), &err);
    tls_expect_text(&err, "does not carry the name");
    rpc_test_expect(0, tls_call("ca", "controller", "store-1.example", "GetServer", &err), &err);
    rpc_server_free(server, 1000);
}

/* A node's certificate has the right CA and address, but a node is no storage server. */
static void test_node_cannot_serve(void **state)
{
    struct rpc_server *server = tls_serve("node");
    struct error err = {0};

    (void)state;
    rpc_test_expect(E_UNAVAILABLE, tls_call("ca", "controller", NULL, "GetServer", &err), &err);
    tls_expect_text(&err, "is not a storage server's");
    rpc_server_free(server, 1000);
}

/* Certificate name becomes certificate "live", a file at a time, as a renewal does it. */
static void tls_put_live(const char *name)
{
    static const char *const suffixes[] = {".crt", ".key"};

    for (size_t i = 0; i < 2; i++) {
        char command[512];

        snprintf(command, sizeof(command), "cp %s %s && mv %s %s", rpc_test_path(name, suffixes[i]),
                 rpc_test_path("live.new", suffixes[i]), rpc_test_path("live.new", suffixes[i]),
                 rpc_test_path("live", suffixes[i]));
        assert_int_equal(system(command), 0);
    }
}

/* A key that belongs to another certificate: half of a renewal. */
static void tls_break_live(void)
{
    assert_int_equal(rename(rpc_test_path("live", ".key"), rpc_test_path("live.kept", ".key")), 0);
    assert_int_equal(link(rpc_test_path("stranger", ".key"), rpc_test_path("live", ".key")), 0);
}

static void test_server_renewed(void **state)
{
    struct rpc_server *server;
    struct error err = {0};

    (void)state;
    tls_put_live("server");
    server = tls_serve("live");
    rpc_test_expect(0, tls_call("ca", "controller", NULL, "GetServer", &err), &err);
    tls_put_live("named");
    rpc_test_expect(0, tls_call("ca", "controller", "store-1.example", "GetServer", &err), &err);
    rpc_test_expect(E_UNAVAILABLE, tls_call("ca", "controller", NULL, "GetServer", &err), &err);
    tls_expect_text(&err, "does not carry the name");
    tls_break_live();
    rpc_test_expect(0, tls_call("ca", "controller", "store-1.example", "GetServer", &err), &err);
    tls_put_live("server");
    rpc_test_expect(0, tls_call("ca", "controller", NULL, "GetServer", &err), &err);
    rpc_server_free(server, 1000);
}

static void tls_expect_role(struct rpc_client *client, enum rpc_role role)
{
    Mooring__Storage__V1__GetServerRequest get = MOORING__STORAGE__V1__GET_SERVER_REQUEST__INIT;
    ProtobufCMessage *response;
    struct error err = {0};

    rpc_test_expect(0, rpc_client_call(client, STORAGE, "GetServer", &get.base, NULL, &response, &err), &err);
    protobuf_c_message_free_unpacked(response, NULL);
    assert_int_equal(tls_test.peer.role, role);
}

static void test_client_renewed(void **state)
{
    struct rpc_server *server = tls_serve("server");
    struct rpc_client_options options = {.endpoint = rpc_test_tcp};
    struct rpc_client *client;
    struct error err = {0};
    struct rpc_tls tls;

    (void)state;
    tls_put_live("controller");
    tls = rpc_test_tls("ca", "live");
    options.tls = &tls;
    rpc_test_expect(0, rpc_client_new(&client, &options, &err), &err);
    tls_expect_role(client, RPC_ROLE_CONTROLLER);
    tls_put_live("operator");
    tls_expect_role(client, RPC_ROLE_OPERATOR);
    tls_break_live();
    tls_expect_role(client, RPC_ROLE_OPERATOR);
    tls_put_live("node");
    tls_expect_role(client, RPC_ROLE_NODE);
    rpc_client_free(client);
    rpc_server_free(server, 1000);
}

/* A new key that only root may read yet, and is given to us later. */
static void test_files_given_later(void **state)
{
    struct tls_files *files;
    struct error err = {0};
    struct rpc_tls tls;

    (void)state;
    tls_put_live("server");
    tls = rpc_test_tls("ca", "live");
    rpc_test_expect(0, tls_files_new(&files, &tls, &err), &err);
    assert_true(tls_files_changed(files));
    assert_false(tls_files_changed(files));
    usleep(20 * 1000); /* the file system's clock is coarse */
    assert_int_equal(chmod(rpc_test_path("live", ".key"), 0640), 0);
    assert_true(tls_files_changed(files));
    assert_false(tls_files_changed(files));
    tls_files_free(files);
}

/* What kept a good file from being read can end without a change of the file: here there is no descriptor. */
static void test_files_read_later(void **state)
{
    struct rpc_server *server = tls_serve("server");
    struct rpc_client_options options = {.endpoint = rpc_test_tcp};
    struct rpc_client *client;
    struct error err = {0};
    struct rlimit limit;
    struct rpc_tls tls;

    (void)state;
    tls_put_live("controller");
    tls = rpc_test_tls("ca", "live");
    options.tls = &tls;
    rpc_test_expect(0, rpc_client_new(&client, &options, &err), &err);
    tls_expect_role(client, RPC_ROLE_CONTROLLER);
    tls_put_live("operator");
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &(struct rlimit){.rlim_cur = 3, .rlim_max = limit.rlim_max}),
                     0);
    tls_expect_role(client, RPC_ROLE_CONTROLLER);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    tls_expect_role(client, RPC_ROLE_OPERATOR);
    rpc_client_free(client);
    rpc_server_free(server, 1000);
}

/* The same for a server: the first handshake after the files can be read again has them. */
static void test_refused_files_are_tried_again(void **state)
{
    struct tls_files *files;
    struct error err = {0};
    struct rpc_tls tls;

    (void)state;
    tls_put_live("server");
    tls = rpc_test_tls("ca", "live");
    rpc_test_expect(0, tls_files_new(&files, &tls, &err), &err);
    assert_true(tls_files_changed(files));
    error_set(&err, E_INVALID_ARGUMENT, "it cannot be read");
    tls_files_refused(files, &err);
    assert_true(tls_files_changed(files));
    assert_true(tls_files_changed(files));
    tls_files_taken(files);
    assert_false(tls_files_changed(files));
    error_done(&err);
    tls_files_free(files);
}

static void test_unreachable(void **state)
{
    struct error err = {0};

    (void)state;
    rpc_test_expect(E_UNAVAILABLE, tls_call("ca", "controller", NULL, "GetServer", &err), &err);
    tls_expect_text(&err, "Connection refused");
}

/* Somebody listens and says nothing: that is no answer of a server, so "unreachable" it is, not "too slow".
 */
static void test_silent(void **state)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    struct error err = {0};

    (void)state;
    address.sin_port = htons((uint16_t)atoi(strchr(rpc_test_tcp, ':') + 1));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 8), 0);
    rpc_test_expect(E_UNAVAILABLE, tls_call_within("ca", "controller", NULL, "GetServer", 500, &err), &err);
    tls_expect_text(&err, "no connection in the time given");
    close(fd);
}

static void test_port_taken(void **state)
{
    struct rpc_server *server = tls_serve("server"), *second = NULL;
    struct rpc_tls tls = rpc_test_tls("ca", "server");
    struct rpc_server_options options = {.endpoint = rpc_test_tcp, .tls = &tls};
    struct error err = {0};

    (void)state;
    rpc_test_expect(E_EXISTS, rpc_server_new(&second, &options, tls_services, 3, &err), &err);
    assert_null(second);
    tls_expect_text(&err, rpc_test_tcp);
    rpc_test_expect(0, tls_call("ca", "controller", NULL, "GetServer", &err), &err);
    rpc_server_free(server, 1000);
}

static void tls_expect_bad_files(struct rpc_tls tls, const char *words)
{
    struct rpc_server_options server_options = {.endpoint = rpc_test_tcp, .tls = &tls};
    struct rpc_client_options client_options = {.endpoint = rpc_test_tcp, .tls = &tls};
    struct rpc_server *server;
    struct rpc_client *client;
    struct error err = {0};

    rpc_test_expect(E_INVALID_ARGUMENT, rpc_server_new(&server, &server_options, tls_services, 3, &err),
                    &err);
    tls_expect_text(&err, words);
    rpc_test_expect(E_INVALID_ARGUMENT, rpc_client_new(&client, &client_options, &err), &err);
    tls_expect_text(&err, words);
}

static void test_bad_files(void **state)
{
    struct rpc_tls missing = rpc_test_tls("ca", "server"), swapped = missing, foreign = missing;
    struct rpc_server_options bare = {.endpoint = rpc_test_tcp};
    struct rpc_server *server;
    struct error err = {0};

    (void)state;
    missing.key_file = "/nonexistent/x.key";
    tls_expect_bad_files(missing, "/nonexistent/x.key");
    swapped.cert_file = swapped.key_file;
    tls_expect_bad_files(swapped, swapped.cert_file);
    foreign.key_file = rpc_test_path("node", ".key");
    tls_expect_bad_files(foreign, "does not belong to");
    rpc_test_expect(E_INVALID_ARGUMENT, rpc_server_new(&server, &bare, tls_services, 3, &err), &err);
    tls_expect_text(&err, "needs TLS");
}

/* ---- issuing ---- */

static void test_issue_never_replaces(void **state)
{
    const char *prefix = rpc_test_path("server", ""), *fresh = rpc_test_path("fresh", ""), *address = "::1";
    struct error err = {0};
    struct stat status;

    (void)state;
    rpc_test_expect(E_EXISTS, tls_ca_create(rpc_test_path("ca", ""), &err), &err);
    rpc_test_expect(
        E_EXISTS, tls_issue(rpc_test_path("ca", ""), "mooring:operator", &address, 1, prefix, 1, &err), &err);
    tls_expect_text(&err, "exists");
    assert_int_equal(stat(rpc_test_path("server", ".key"), &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600);
    assert_int_equal(stat(rpc_test_path("ca", "/ca.key"), &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600);
    /* A key alone is in the way too, and stays what it was. */
    assert_int_equal(link(rpc_test_path("server", ".key"), rpc_test_path("fresh", ".key")), 0);
    rpc_test_expect(
        E_EXISTS, tls_issue(rpc_test_path("ca", ""), "mooring:operator", &address, 1, fresh, 1, &err), &err);
    assert_int_not_equal(access(rpc_test_path("fresh", ".crt"), F_OK), 0);
    assert_int_equal(access(rpc_test_path("fresh", ".key"), F_OK), 0);
    error_done(&err);
}

static void test_issue_refuses(void **state)
{
    const char *good = "10.0.0.1", *bad = "a,IP:10.0.0.1", *ca = rpc_test_path("ca", "");
    const char *prefix = rpc_test_path("refused", "");
    struct error err = {0};

    (void)state;
    rpc_test_expect(E_INVALID_ARGUMENT, tls_issue(ca, "mooring:root", &good, 1, prefix, 1, &err), &err);
    rpc_test_expect(E_INVALID_ARGUMENT, tls_issue(ca, "mooring:node:", &good, 1, prefix, 1, &err), &err);
    rpc_test_expect(E_INVALID_ARGUMENT, tls_issue(ca, "mooring:node:a", &bad, 1, prefix, 1, &err), &err);
    rpc_test_expect(E_INVALID_ARGUMENT, tls_issue(ca, "mooring:node:a", &good, 1, prefix, 0, &err), &err);
    rpc_test_expect(E_NOT_FOUND, tls_issue(rpc_test_dir, "mooring:node:a", &good, 1, prefix, 1, &err), &err);
    tls_expect_text(&err, "mooring tls init");
    assert_int_not_equal(access(rpc_test_path("refused", ".key"), F_OK), 0);
}

/* As long as a node's id may be: past the 64 characters that OpenSSL grants by default. */
static void test_issue_long_name(void **state)
{
    char name[160] = "mooring:node:";
    struct rpc_server *server = tls_serve("server");
    struct error err = {0};

    (void)state;
    memset(name + strlen(name), 'n', 128);
    rpc_test_issue("ca", "long", name, "127.0.0.1");
    rpc_test_expect(0, tls_call("ca", "long", NULL, "GetServer", &err), &err);
    assert_true(tls_test.noted > 0);
    assert_int_equal(tls_test.peer.role, RPC_ROLE_NODE);
    assert_int_equal(strlen(tls_test.peer.id), 128);
    rpc_server_free(server, 1000);
}

int rpc_tls_tests(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_roles),
        cmocka_unit_test(test_other_ca_client_refused),
        cmocka_unit_test(test_other_ca_server_refused),
        cmocka_unit_test(test_server_name),
        cmocka_unit_test(test_node_cannot_serve),
        cmocka_unit_test(test_server_renewed),
        cmocka_unit_test(test_client_renewed),
        cmocka_unit_test(test_files_read_later),
        cmocka_unit_test(test_refused_files_are_tried_again),
        cmocka_unit_test(test_files_given_later),
        cmocka_unit_test(test_unreachable),
        cmocka_unit_test(test_silent),
        cmocka_unit_test(test_port_taken),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_issue_never_replaces),
        cmocka_unit_test(test_issue_refuses),
        cmocka_unit_test(test_issue_long_name),
    };

    return cmocka_run_group_tests_name("rpc TLS", tests, tls_setup, rpc_test_teardown);
}
