/*
 * The login of one connection: drives iscsi/login with what the store knows (secrets) and what the volume's
 * owner decides (admission). The connection's loop. What proves whom (ARCHITECTURE.md, invariants 2 to 4):
 *
 *   CHAP name "<volume>/<epoch>/<generation>" and its secret prove the attachment, and which process of it
 * calls. An epoch or generation that once was, and is no more, is an authorization failure (0202):
 * mooring-device takes that, and only that, for final. One that never was is an authentication failure
 * (0201), as a wrong secret is. An initiator's name proves nothing.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/io.h"
#include "common/log.h"
#include "common/secret.h"
#include "common/strings.h"
#include "datapath/store/attach.h"
#include "datapath/target/connection.h"
#include "datapath/target/reactor.h"
#include "datapath/target/server.h"
#include "datapath/target/session.h"

#define LOGIN_MAX_NS (UINT64_C(15) * 1000000000)

static void login_handle(struct connection *connection, enum iscsi_login_event event);
static void login_decided(struct session *session, enum session_verdict verdict);

int login_phase_start(struct connection *connection)
{
    struct iscsi_login_random random;
    connection->login = malloc(sizeof(*connection->login));
    if (!connection->login || io_random(&random, sizeof(random)) != 0) {
        free(connection->login);
        connection->login = NULL;
        return -ENOMEM;
    }
    iscsi_login_init(connection->login, &connection->reactor->server->login_config, &random);
    iscsi_pdu_reader_init(&connection->reader, ISCSI_LOGIN_DATA_MAX);
    connection->phase = CONNECTION_LOGIN;
    connection->login_started_ns = loop_now_ns(connection->reactor->loop);
    return 0;
}

void login_phase_done(struct connection *connection)
{
    if (!connection->login)
        return;
    iscsi_login_done(connection->login);
    free(connection->login);
    connection->login = NULL;
}

bool login_phase_late(const struct connection *connection, uint64_t now_ns)
{
    return connection->phase == CONNECTION_LOGIN && now_ns > connection->login_started_ns + LOGIN_MAX_NS;
}

static bool login_respond(struct connection *connection)
{
    const struct iscsi_login *login = connection->login;
    struct control *control =
        connection_control_new(connection, login->response_text, (uint32_t)login->response_size);
    if (!control)
        return false;
    control->bhs = login->response;
    control->sealed = true;
    connection_send(connection, &control->out);
    return true;
}

/* ---- who calls ---- */

/* The status for a name whose epoch and generation are not the current ones. */
static enum iscsi_login_status login_stale_status(const struct volume_record *record,
                                                  const struct attachment *attachment, uint64_t epoch,
                                                  uint64_t generation)
{
    if (epoch == 0 || epoch > record->epoch_last || (attachment && generation > attachment->generation))
        return ISCSI_LOGIN_AUTHENTICATION_FAILURE;
    return ISCSI_LOGIN_AUTHORIZATION_FAILURE;
}

static enum iscsi_login_event login_check_secret(struct connection *connection, struct volume_record *record)
{
    struct iscsi_login *login = connection->login;
    const struct attachment *attachment = volume_record_epoch(record, connection->chap_epoch);
    const struct attachment *admitted;
    if (attach_admits(record, connection->chap_epoch, connection->chap_generation, &admitted) != 0)
        return iscsi_login_refuse(
            login,
            login_stale_status(record, attachment, connection->chap_epoch, connection->chap_generation),
            "the CHAP name is of no attachment that stands");
    const char *secret = connection->chap_generation ? admitted->generation_secret : admitted->secret;
    const struct iscsi_login_secrets secrets = {.secret = secret, .secret_size = strlen(secret)};
    return iscsi_login_authenticate(login, &secrets);
}

/*
 * The pool is loaded, so a volume of this server that is not in it was deleted: "target removed", which ends
 * a device's waiting for good. Of another server's volume nothing is known here.
 */
static enum iscsi_login_event login_refuse_absent(struct connection *connection)
{
    char server_id[ID_SERVER_MAX + 1];
    bool ours = id_volume_server(connection->chap_volume_id, server_id, NULL) == 0 &&
                str_equal(server_id, store_server_id(connection->reactor->server->store));

    return iscsi_login_refuse(connection->login, ours ? ISCSI_LOGIN_TARGET_REMOVED : ISCSI_LOGIN_NOT_FOUND,
                              ours ? "the volume was deleted" : "there is no such volume");
}

static enum iscsi_login_event login_authenticate(struct connection *connection)
{
    struct iscsi_login *login = connection->login;
    const char *wanted = login->discovery ? NULL : id_iqn_volume(login->target_name);
    if (!login->discovery && !wanted)
        return iscsi_login_refuse(login, ISCSI_LOGIN_NOT_FOUND, "the target's name is not a volume's");
    if (!id_chap_name_parse(login->chap_name, connection->chap_volume_id, &connection->chap_epoch,
                            &connection->chap_generation) ||
        (wanted && !str_equal(wanted, connection->chap_volume_id))) {
        connection->chap_volume_id[0] = '\0';
        return iscsi_login_refuse(login, ISCSI_LOGIN_AUTHENTICATION_FAILURE,
                                  "the CHAP name is of no attachment");
    }
    struct volume *volume = store_volume_find(connection->reactor->server->store, connection->chap_volume_id);
    if (!volume)
        return login_refuse_absent(connection);
    if (volume_check_readable(volume, NULL) != 0) { /* may be repaired: nothing that ends a wait */
        volume_unref(volume);
        return iscsi_login_refuse(login, ISCSI_LOGIN_SERVICE_UNAVAILABLE,
                                  "the volume's record is unreadable");
    }
    struct volume_record record = {0};
    int code = volume_snapshot_record(volume, &record);
    volume_unref(volume);
    if (code)
        return iscsi_login_refuse(login, ISCSI_LOGIN_OUT_OF_RESOURCES, "out of memory");
    enum iscsi_login_event event = login_check_secret(connection, &record);
    volume_record_done(&record);
    return event;
}

/* ---- admission ---- */

static int login_ask_owner(struct connection *connection)
{
    const struct iscsi_login *login = connection->login;
    struct session *session;
    int code = session_new(&session, connection, connection->reactor);
    if (code)
        return code;
    connection->session = session;
    str_copy(session->volume_id, sizeof(session->volume_id), connection->chap_volume_id);
    str_copy(session->initiator_name, sizeof(session->initiator_name), login->initiator_name);
    memcpy(session->isid, login->isid, sizeof(session->isid));
    session->epoch = connection->chap_epoch;
    session->generation = connection->chap_generation;
    str_copy(session->peer_address, sizeof(session->peer_address), connection->peer_address);
    session->connected_unix_s = time(NULL);
    session->decided = login_decided;
    connection->phase = CONNECTION_ADMITTING;
    connection_guest_done(connection);
    session_ask(session);
    return 0;
}

static enum iscsi_login_event login_complete(struct connection *connection)
{
    return iscsi_login_admit(connection->login, server_tsih_new(connection->reactor->server));
}

static void login_admit(struct connection *connection)
{
    struct iscsi_login *login = connection->login;
    if (login->tsih != 0)
        login_handle(connection,
                     iscsi_login_refuse(login, ISCSI_LOGIN_NO_SESSION,
                                        "a session has one connection, and this one claims another's"));
    else if (login->discovery)
        login_handle(connection, login_complete(connection));
    else if (login_ask_owner(connection) != 0)
        login_handle(connection, iscsi_login_refuse(login, ISCSI_LOGIN_OUT_OF_RESOURCES, "out of memory"));
}

static enum iscsi_login_event login_refuse_verdict(struct connection *connection,
                                                   enum session_verdict verdict)
{
    struct iscsi_login *login = connection->login;

    switch (verdict) {
    case SESSION_FORBIDDEN:
        return iscsi_login_refuse(login, ISCSI_LOGIN_AUTHORIZATION_FAILURE,
                                  "the attachment does not stand any more");
    case SESSION_UNKNOWN:
        return login_refuse_absent(connection);
    case SESSION_EXHAUSTED:
        return iscsi_login_refuse(login, ISCSI_LOGIN_OUT_OF_RESOURCES,
                                  "the volume has as many sessions as \"sessions_per_volume\" allows");
    case SESSION_GRANTED:
    case SESSION_UNAVAILABLE:
        break;
    }
    return iscsi_login_refuse(login, ISCSI_LOGIN_SERVICE_UNAVAILABLE, "the volume cannot be served now");
}

static void login_decided(struct session *session, enum session_verdict verdict)
{
    struct connection *connection = session->connection;
    const struct settings *settings = connection->reactor->server->settings;
    if (connection->closing)
        return;
    connection->inflight++;
    connection->phase = CONNECTION_LOGIN;
    /* The admission may have taken minutes, in which the initiator had nothing to say. */
    connection->login_started_ns = connection->heard_ns = loop_now_ns(connection->reactor->loop);
    if (verdict == SESSION_GRANTED &&
        task_set_init(connection, (unsigned)settings->commands_per_session_max) == 0)
        login_handle(connection, login_complete(connection));
    else if (verdict == SESSION_GRANTED)
        login_handle(connection,
                     iscsi_login_refuse(connection->login, ISCSI_LOGIN_OUT_OF_RESOURCES, "out of memory"));
    else
        login_handle(connection, login_refuse_verdict(connection, verdict));
    connection_operation_end(connection);
}

/* ---- events ---- */

static void login_begin_full_feature(struct connection *connection)
{
    const struct iscsi_login *login = connection->login;
    const struct session *session = connection->session;
    connection->parameters = login->parameters;
    connection->stat_sn = login->stat_sn;
    connection->exp_cmd_sn = login->exp_cmd_sn;
    connection->discovery = login->discovery;
    if (!login->authenticated)
        connection->chap_volume_id[0] = '\0';
    iscsi_negotiation_init(&connection->negotiation, &login->config->limits);
    connection->negotiation.discovery = login->discovery;
    connection->negotiation.parameters = login->parameters;
    iscsi_pdu_reader_configure(&connection->reader, CONNECTION_RECV_SEGMENT_MAX,
                               connection->parameters.header_digest, connection->parameters.data_digest);
    connection->phase = CONNECTION_FULL_FEATURE;
    if (!session)
        return;
    snprintf(connection->log_name, sizeof(connection->log_name), "%s, volume %s, epoch %lu, generation %lu",
             connection->peer_address, session->volume_id, (unsigned long)session->epoch,
             (unsigned long)session->generation);
    log_info("session of %s begins%s%s", connection->log_name, session->nexus.read_only ? ", read-only" : "",
             session->nexus.write_through ? ", write-through" : "");
}

static void login_failed(struct connection *connection)
{
    const struct iscsi_login *login = connection->login;
    log_info("login of %s as \"%s\" to \"%s\" refused: %s: %s", connection->peer_address,
             login->initiator_name, login->target_name, iscsi_login_status_name(login->status),
             login->reason ? login->reason : "");
    if (!login_respond(connection))
        return;
    connection->phase = CONNECTION_LOGGING_OUT;
    connection->close_when_sent = true;
}

static void login_handle(struct connection *connection, enum iscsi_login_event event)
{
    switch (event) {
    case ISCSI_LOGIN_RESPOND:
        login_respond(connection);
        return;
    case ISCSI_LOGIN_AUTHENTICATE:
        login_handle(connection, login_authenticate(connection));
        return;
    case ISCSI_LOGIN_ADMIT:
        login_admit(connection);
        return;
    case ISCSI_LOGIN_COMPLETE:
        if (!login_respond(connection))
            return;
        login_begin_full_feature(connection);
        login_phase_done(connection);
        return;
    case ISCSI_LOGIN_FAILED:
        login_failed(connection);
        return;
    case ISCSI_LOGIN_DROP:
        connection_close(connection, connection->login->reason ? connection->login->reason : "not a login");
        return;
    }
}

void login_phase_receive(struct connection *connection)
{
    struct iscsi_login *login = connection->login;
    enum iscsi_login_event event =
        iscsi_login_feed(login, &connection->reader.bhs, connection->text, connection->reader.data_size);
    /* CHAP text may be in it. */
    secret_wipe(connection->text, connection->reader.data_size);
    bool goes_on =
        event == ISCSI_LOGIN_RESPOND || event == ISCSI_LOGIN_AUTHENTICATE || event == ISCSI_LOGIN_ADMIT;
    if (goes_on && (connection->reactor->lobby || !server_ready(connection->reactor->server)))
        event = iscsi_login_refuse(login, ISCSI_LOGIN_SERVICE_UNAVAILABLE, "the pool is not open");
    login_handle(connection, event);
}
