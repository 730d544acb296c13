/*
 * The protocol code against an initiator that is not ours: libiscsi logs in over loopback to a small server
 * made of the reader, the login and the response builders, with and without CHAP, mutual CHAP and header
 * digests.
 */
#include "tests/unit/iscsi_test.h"

#include <arpa/inet.h>
#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/io.h"
#include "common/strings.h"
#include "datapath/iscsi/login.h"

#define TARGET "iqn.2026-11.storage.mooring:store-1.9f86d081884c7d65"
#define INITIATOR "iqn.2026-11.storage.mooring:node:worker-1"
#define PIECE 37 /* an odd size: no PDU comes in one read */

struct server {
    int listener, fd;
    char portal[32];
    pthread_t thread;
    struct iscsi_login_config config;
    struct iscsi_login login;
    struct iscsi_pdu_reader reader;
    struct iscsi_numbers numbers;
    bool header_digest, full_feature;
    const char *target_secret;
    uint8_t data[65536];
    size_t written; /* bytes of the last SCSI write's immediate data */
};

static void send_pdu(struct server *server, struct iscsi_pdu_header *header, const void *data, size_t size)
{
    static const uint8_t zeros[3];
    size_t length = iscsi_response_seal(header, server->header_digest);
    if (io_write_full(server->fd, header, length) != 0 ||
        (size > 0 && io_write_full(server->fd, data, size) != 0))
        return;
    io_write_full(server->fd, zeros, iscsi_pdu_pad((uint32_t)size));
}

/* False when the connection is to be closed. */
static bool serve_login(struct server *server)
{
    struct iscsi_login *login = &server->login;
    struct iscsi_login_secrets secrets = {.secret = "initiator-secret", .secret_size = 16};
    enum iscsi_login_event event =
        iscsi_login_feed(login, &server->reader.bhs, server->data, server->reader.data_size);
    if (server->target_secret != NULL) {
        secrets.target_name = "target-name";
        secrets.target_secret = server->target_secret;
        secrets.target_secret_size = strlen(server->target_secret);
    }
    if (event == ISCSI_LOGIN_AUTHENTICATE)
        event = str_equal(login->chap_name, "user")
                    ? iscsi_login_authenticate(login, &secrets)
                    : iscsi_login_refuse(login, ISCSI_LOGIN_AUTHORIZATION_FAILURE, "no such user");
    if (event == ISCSI_LOGIN_ADMIT)
        event = str_equal(login->target_name, TARGET) || login->discovery
                    ? iscsi_login_admit(login, 5)
                    : iscsi_login_refuse(login, ISCSI_LOGIN_NOT_FOUND, "no such target");
    if (event == ISCSI_LOGIN_DROP)
        return false;
    struct iscsi_pdu_header header = {.bhs = login->response};
    send_pdu(server, &header, login->response_text, login->response_size);
    if (event == ISCSI_LOGIN_FAILED)
        return false;
    if (event == ISCSI_LOGIN_COMPLETE) {
        server->full_feature = true;
        server->header_digest = login->parameters.header_digest;
        server->numbers = (struct iscsi_numbers){login->stat_sn, login->exp_cmd_sn, login->exp_cmd_sn + 31};
        iscsi_pdu_reader_configure(&server->reader, login->parameters.max_recv_data_segment_length,
                                   server->header_digest, login->parameters.data_digest);
    }
    return true;
}

static void serve_scsi(struct server *server, uint32_t tag)
{
    static const uint8_t inquiry[36] = {0, 0, 6, 2, 31, 0, 0, 2, 'M', 'o', 'o', 'r', 'i', 'n', 'g'};
    const struct iscsi_bhs_scsi_command *command = &server->reader.bhs.scsi_command;
    uint32_t expected = iscsi_be32_get(command->expected_length);
    struct iscsi_pdu_header header;
    if (command->cdb[0] == SCSI_OPCODE_INQUIRY) {
        iscsi_response_data_in_status(&header.bhs, &server->numbers, tag, 0, 0, 0, sizeof(inquiry),
                                      iscsi_residual(expected, sizeof(inquiry)));
        send_pdu(server, &header, inquiry, sizeof(inquiry));
    } else {
        server->written = server->reader.data_size;
        iscsi_response_scsi(&header.bhs, &server->numbers, tag, ISCSI_SCSI_COMPLETED, 0, 0,
                            iscsi_residual(expected, server->reader.data_size), 0);
        send_pdu(server, &header, NULL, 0);
    }
    server->numbers.stat_sn++;
}

static bool serve_full_feature(struct server *server)
{
    static const char targets[] = "TargetName=" TARGET "\0TargetAddress=127.0.0.1:3260,1";
    static const uint8_t lun[8];
    const union iscsi_bhs *bhs = &server->reader.bhs;
    uint32_t tag = iscsi_bhs_task_tag(bhs);
    struct iscsi_pdu_header header;
    if (!iscsi_bhs_immediate(bhs)) {
        assert(iscsi_be32_get(bhs->scsi_command.cmd_sn) == server->numbers.exp_cmd_sn);
        server->numbers.exp_cmd_sn++;
        server->numbers.max_cmd_sn++;
    }
    switch ((int)iscsi_bhs_opcode(bhs)) {
    case ISCSI_OP_SCSI_COMMAND:
        serve_scsi(server, tag);
        return true;
    case ISCSI_OP_TEXT_REQUEST:
        iscsi_response_text(&header.bhs, &server->numbers, lun, tag, ISCSI_TAG_NONE, ISCSI_FINAL,
                            sizeof(targets));
        send_pdu(server, &header, targets, sizeof(targets));
        server->numbers.stat_sn++;
        return true;
    case ISCSI_OP_LOGOUT_REQUEST:
        iscsi_response_logout(&header.bhs, &server->numbers, tag, ISCSI_LOGOUT_CLOSED, 0, 0);
        send_pdu(server, &header, NULL, 0);
        return true;
    default:
        return false;
    }
}

static bool serve_bytes(struct server *server, const uint8_t *bytes, size_t length)
{
    for (;;) {
        size_t used;
        enum iscsi_pdu_event event = iscsi_pdu_reader_feed(&server->reader, bytes, length, &used);
        bytes += used;
        length -= used;
        if (event == ISCSI_PDU_NEED_BYTES)
            return true;
        if (event == ISCSI_PDU_HEADER && server->reader.data_size > 0)
            iscsi_pdu_reader_set_buffer(&server->reader, server->data, sizeof(server->data));
        if (event == ISCSI_PDU_HEADER)
            continue;
        if (event != ISCSI_PDU_COMPLETE ||
            !(server->full_feature ? serve_full_feature(server) : serve_login(server)))
            return false;
    }
}

static void *serve(void *argument)
{
    struct server *server = argument;
    uint8_t bytes[PIECE];
    ssize_t count;
    server->fd = accept(server->listener, NULL, NULL);
    if (server->fd < 0)
        return NULL;
    while ((count = read(server->fd, bytes, sizeof(bytes))) > 0)
        if (!serve_bytes(server, bytes, (size_t)count))
            break;
    close(server->fd);
    return NULL;
}

static struct server *start(bool chap_required, const char *target_secret)
{
    struct server *server = calloc(1, sizeof(*server));
    struct iscsi_login_random random;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof(address);
    server->config = (struct iscsi_login_config){.limits = iscsi_negotiate_limits_default,
                                                 .chap_required = chap_required,
                                                 .portal_group_tag = 1,
                                                 .command_window = 32};
    server->config.limits.max_recv_data_segment_length = sizeof(server->data);
    server->target_secret = target_secret;
    assert_int_equal(io_random(&random, sizeof(random)), 0);
    iscsi_login_init(&server->login, &server->config, &random);
    iscsi_pdu_reader_init(&server->reader, ISCSI_LOGIN_DATA_MAX);
    server->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(server->listener, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(server->listener, 1), 0);
    assert_int_equal(getsockname(server->listener, (struct sockaddr *)&address, &length), 0);
    snprintf(server->portal, sizeof(server->portal), "127.0.0.1:%u", ntohs(address.sin_port));
    assert_int_equal(pthread_create(&server->thread, NULL, serve, server), 0);
    return server;
}

/* What the server saw, to be looked at once its thread has ended. */
struct outcome {
    enum iscsi_login_status status;
    bool header_digest, authenticated;
};

/* After the client is gone. */
static struct outcome stop(struct server *server)
{
    shutdown(server->listener, SHUT_RDWR);
    pthread_join(server->thread, NULL);
    struct outcome outcome = {server->login.status, server->header_digest, server->login.authenticated};
    close(server->listener);
    iscsi_login_done(&server->login);
    free(server);
    return outcome;
}

static struct iscsi_context *connect_client(const struct server *server, enum iscsi_session_type type)
{
    struct iscsi_context *client = iscsi_create_context(INITIATOR);
    assert_non_null(client);
    iscsi_set_noautoreconnect(client, 1);
    iscsi_set_session_type(client, type);
    iscsi_set_targetname(client, TARGET);
    iscsi_set_timeout(client, 20);
    assert_int_equal(iscsi_connect_sync(client, server->portal), 0);
    return client;
}

static void use_session(struct server *server, struct iscsi_context *client)
{
    uint8_t block[3000];
    struct scsi_task *task = iscsi_inquiry_sync(client, 0, 0, 0, 64);
    assert_non_null(task);
    assert_int_equal(task->status, SCSI_STATUS_GOOD);
    assert_int_equal(task->datain.size, 36);
    assert_memory_equal(task->datain.data + 8, "Mooring", 7);
    assert_int_equal(task->residual_status, SCSI_RESIDUAL_UNDERFLOW);
    scsi_free_scsi_task(task);
    memset(block, 0x5a, sizeof(block));
    task = iscsi_write10_sync(client, 0, 0, block, sizeof(block), 1000, 0, 0, 0, 0, 0);
    assert_non_null(task);
    assert_int_equal(task->status, SCSI_STATUS_GOOD);
    scsi_free_scsi_task(task);
    assert_int_equal(server->written, sizeof(block));
    assert_memory_equal(server->data, block, sizeof(block));
    assert_int_equal(iscsi_logout_sync(client), 0);
}

static void run_session(bool chap, bool digest, const char *target_secret)
{
    struct server *server = start(chap, target_secret);
    struct iscsi_context *client = connect_client(server, ISCSI_SESSION_NORMAL);
    if (chap)
        iscsi_set_initiator_username_pwd(client, "user", "initiator-secret");
    if (target_secret != NULL)
        iscsi_set_target_username_pwd(client, "target-name", target_secret);
    iscsi_set_header_digest(client, digest ? ISCSI_HEADER_DIGEST_CRC32C : ISCSI_HEADER_DIGEST_NONE);
    if (iscsi_login_sync(client) != 0)
        fail_msg("login: %s", iscsi_get_error(client));
    use_session(server, client);
    iscsi_destroy_context(client);
    struct outcome outcome = stop(server);
    assert_int_equal(outcome.header_digest, digest);
    assert_int_equal(outcome.authenticated, chap);
}

static void test_sessions(void **state)
{
    (void)state;
    run_session(false, false, NULL);
    run_session(false, true, NULL);
    run_session(true, false, NULL);
    run_session(true, true, NULL);
    run_session(true, true, "the target's secret");
}

static void check_refused(bool chap, const char *user, const char *secret, const char *target_secret,
                          enum iscsi_login_status status)
{
    struct server *server = start(chap, target_secret);
    struct iscsi_context *client = connect_client(server, ISCSI_SESSION_NORMAL);
    if (user != NULL)
        iscsi_set_initiator_username_pwd(client, user, secret);
    assert_int_not_equal(iscsi_login_sync(client), 0);
    iscsi_destroy_context(client);
    assert_int_equal(stop(server).status, status);
}

static void test_refused(void **state)
{
    (void)state;
    check_refused(true, NULL, NULL, NULL, ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    check_refused(true, "user", "a wrong secret", NULL, ISCSI_LOGIN_AUTHENTICATION_FAILURE);
    check_refused(true, "nobody", "initiator-secret", NULL, ISCSI_LOGIN_AUTHORIZATION_FAILURE);
}

/* An initiator that gets a wrong proof from the target goes away. */
static void test_mutual_with_wrong_secret(void **state)
{
    (void)state;
    struct server *server = start(true, "the target's secret");
    struct iscsi_context *client = connect_client(server, ISCSI_SESSION_NORMAL);
    iscsi_set_initiator_username_pwd(client, "user", "initiator-secret");
    iscsi_set_target_username_pwd(client, "target-name", "another secret");
    assert_int_not_equal(iscsi_login_sync(client), 0);
    iscsi_destroy_context(client);
    stop(server);
}

static void test_discovery(void **state)
{
    (void)state;
    struct server *server = start(true, NULL);
    struct iscsi_context *client = connect_client(server, ISCSI_SESSION_DISCOVERY);
    if (iscsi_login_sync(client) != 0)
        fail_msg("login: %s", iscsi_get_error(client));
    struct iscsi_discovery_address *found = iscsi_discovery_sync(client);
    assert_non_null(found);
    assert_string_equal(found->target_name, TARGET);
    assert_string_equal(found->portals->portal, "127.0.0.1:3260,1");
    iscsi_free_discovery_data(client, found);
    iscsi_destroy_context(client);
    stop(server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sessions),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_mutual_with_wrong_secret),
        cmocka_unit_test(test_discovery),
    };
    return cmocka_run_group_tests_name("iscsi_client", tests, NULL, NULL);
}
