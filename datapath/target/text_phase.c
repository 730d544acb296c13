/*
 * Text requests in the full feature phase: SendTargets (RFC 7143, appendix C) and what may be negotiated
 * anew. The connection's loop.
 *
 * Who sees what: a login with CHAP sees the volume whose secret it knows; without CHAP (discovery only),
 * nothing is listed, and only a target that the initiator names is answered with its portals: an initiator's
 * name alone proves nothing, and a volume's id cannot be guessed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "common/strings.h"
#include "datapath/iscsi/text.h"
#include "datapath/target/connection.h"
#include "datapath/target/reactor.h"
#include "datapath/target/server.h"
#include "datapath/target/session.h"

#define TEXT_TRANSFER_TAG 0x54 /* of an answer that goes on: there is one at a time */

void text_phase_done(struct connection *connection)
{
    free(connection->text_answer);
    connection->text_answer = NULL;
}

/* ---- SendTargets ---- */

static void text_put_target(const struct connection *connection, const char *volume_id,
                            struct iscsi_text_writer *answer)
{
    const struct server *server = connection->reactor->server;
    char iqn[ID_IQN_MAX + 1], address[128];
    id_volume_iqn(volume_id, iqn);
    iscsi_text_put(answer, "TargetName", iqn);
    for (unsigned i = 0; i < server->settings->advertise_count; i++) {
        snprintf(address, sizeof(address), "%s,%u", server->settings->advertise[i],
                 (unsigned)server->login_config.portal_group_tag);
        iscsi_text_put(answer, "TargetAddress", address);
    }
}

static void text_put_named(const struct connection *connection, const char *name,
                           struct iscsi_text_writer *answer)
{
    const char *id = id_iqn_volume(name);
    struct volume *volume = id ? store_volume_find(connection->reactor->server->store, id) : NULL;
    if (!volume)
        return;
    text_put_target(connection, volume_id(volume), answer);
    volume_unref(volume);
}

static void text_send_targets(struct connection *connection, const char *value,
                              struct iscsi_text_writer *answer)
{
    const char *proven = connection->chap_volume_id; /* "" without CHAP: a refused CHAP never gets here */
    char iqn[ID_IQN_MAX + 1] = "";
    if (proven[0])
        id_volume_iqn(proven, iqn);
    if (connection->discovery && str_equal(value, "All")) {
        if (proven[0])
            text_put_named(connection, iqn, answer);
    } else if (value[0] == '\0' && !connection->discovery) {
        text_put_named(connection, iqn, answer); /* the session's own target */
    } else if (connection->discovery || str_equal(value, iqn)) {
        text_put_named(connection, value, answer);
    } else {
        iscsi_text_put(answer, "SendTargets", "Reject");
    }
}

/* ---- answering ---- */

static void text_fill(struct control *control, struct connection *connection)
{
    struct iscsi_numbers numbers = connection_numbers_next(connection);
    bool last = control->argument;
    iscsi_response_text(&control->bhs, &numbers, control->lun, control->task_tag,
                        last ? ISCSI_TAG_NONE : TEXT_TRANSFER_TAG, last ? ISCSI_FINAL : ISCSI_TEXT_CONTINUE,
                        control->data_size);
}

/* The next part of the answer, as much as the initiator takes in one PDU. */
static void text_answer_next(struct connection *connection)
{
    size_t left = connection->text_answer_size - connection->text_answer_at;
    size_t size = MIN(left, (size_t)connection->parameters.max_send_data_segment_length);
    struct control *control = connection_control_new(
        connection, connection->text_answer + connection->text_answer_at, (uint32_t)size);
    if (!control)
        return;
    control->fill = text_fill;
    control->task_tag = iscsi_bhs_task_tag(&connection->reader.bhs);
    memcpy(control->lun, connection->reader.bhs.text_request.lun, sizeof(control->lun));
    control->argument = size == left;
    connection->text_answer_at += size;
    if (size == left)
        text_phase_done(connection);
    connection_send(connection, &control->out);
}

static void text_answer_pairs(struct connection *connection, struct iscsi_text_writer *answer)
{
    struct iscsi_text_parser parser;
    struct iscsi_text_pair pair;
    int code;
    iscsi_text_parser_init(&parser, connection->text, connection->reader.data_size);
    while ((code = iscsi_text_parser_next(&parser, &pair)) == 0) {
        if (str_equal(pair.key, "SendTargets"))
            text_send_targets(connection, pair.value, answer);
        else if (iscsi_negotiate_key(&connection->negotiation, ISCSI_STAGE_FULL_FEATURE, pair.key, pair.value,
                                     answer) == ISCSI_KEY_PROTOCOL_ERROR)
            code = E_INVALID_ARGUMENT;
        if (code)
            break;
    }
    if (code != E_NOT_FOUND || answer->full)
        connection_close(connection, "malformed text");
}

static void text_request(struct connection *connection)
{
    struct iscsi_text_writer answer;
    connection->text_answer = malloc(CONNECTION_TEXT_MAX);
    if (!connection->text_answer) {
        connection_close(connection, "out of memory");
        return;
    }
    iscsi_text_writer_init(&answer, connection->text_answer, CONNECTION_TEXT_MAX);
    iscsi_negotiate_restart(&connection->negotiation);
    text_answer_pairs(connection, &answer);
    if (connection->closing)
        return;
    connection->parameters.max_send_data_segment_length =
        connection->negotiation.parameters.max_send_data_segment_length;
    connection->text_answer_size = answer.length;
    connection->text_answer_at = 0;
    text_answer_next(connection);
}

void text_phase_receive(struct connection *connection)
{
    const union iscsi_bhs *bhs = &connection->reader.bhs;
    bool begun = iscsi_be32_get(bhs->text_request.transfer_tag) != ISCSI_TAG_NONE;
    if (!connection_take_cmd_sn(connection, iscsi_be32_get(bhs->text_request.cmd_sn),
                                iscsi_bhs_immediate(bhs)))
        return;
    if (bhs->any.flags & ISCSI_TEXT_CONTINUE) {
        request_reject(connection, ISCSI_REJECT_UNSUPPORTED); /* what we take fits in one PDU */
        return;
    }
    if (begun && connection->text_answer) {
        text_answer_next(connection);
        return;
    }
    if (begun) {
        request_reject(connection, ISCSI_REJECT_INVALID_FIELD);
        return;
    }
    text_phase_done(connection); /* a new request ends what was left of an older answer */
    text_request(connection);
}
