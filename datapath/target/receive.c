/* From received bytes to PDUs, and from each PDU to the file that handles it. The connection's loop. */
#include <errno.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "datapath/target/connection.h"
#include "datapath/target/reactor.h"

static void connection_received(struct loop_op *op, int res, unsigned flags);

void connection_receive_start(struct connection *connection)
{
    connection->recv.done = connection_received;
    connection->receiving = true;
    connection->inflight++;
    loop_recv(connection->reactor->loop, &connection->recv, connection->fd);
}

bool connection_take_cmd_sn(struct connection *connection, uint32_t cmd_sn, bool immediate)
{
    if (immediate)
        return true;
    uint32_t max_cmd_sn = connection->exp_cmd_sn + task_set_window(connection) - 1;
    if (iscsi_sn_before(cmd_sn, connection->exp_cmd_sn) || iscsi_sn_before(max_cmd_sn, cmd_sn)) {
        iscsi_pdu_reader_drop_data(&connection->reader); /* RFC 7143, section 4.2.2.1: silently */
        return false;
    }
    if (cmd_sn != connection->exp_cmd_sn) {
        connection_close(connection, "a command number was left out");
        return false;
    }
    connection->exp_cmd_sn++;
    return true;
}

/* Requests whose data fit into connection->text and which are handled when they are whole. */
static void receive_control_header(struct connection *connection)
{
    struct iscsi_pdu_reader *reader = &connection->reader;
    if (reader->data_size > CONNECTION_TEXT_MAX)
        connection_close(connection, "a control PDU carries too much data");
    else if (reader->data_size)
        iscsi_pdu_reader_set_buffer(reader, connection->text, CONNECTION_TEXT_MAX);
}

static void receive_header(struct connection *connection)
{
    if (connection->phase != CONNECTION_FULL_FEATURE) {
        receive_control_header(connection);
        return;
    }
    switch (iscsi_bhs_opcode(&connection->reader.bhs)) {
    case ISCSI_OP_SCSI_COMMAND:
        task_command_header(connection);
        return;
    case ISCSI_OP_DATA_OUT:
        task_data_out_header(connection);
        return;
    case ISCSI_OP_NOP_OUT:
    case ISCSI_OP_TMF_REQUEST:
    case ISCSI_OP_TEXT_REQUEST:
    case ISCSI_OP_LOGOUT_REQUEST:
    case ISCSI_OP_SNACK:
        receive_control_header(connection);
        return;
    case ISCSI_OP_LOGIN_REQUEST:
        connection_close(connection, "a login request after the login");
        return;
    case ISCSI_OP_NOP_IN:
    case ISCSI_OP_SCSI_RESPONSE:
    case ISCSI_OP_TMF_RESPONSE:
    case ISCSI_OP_LOGIN_RESPONSE:
    case ISCSI_OP_TEXT_RESPONSE:
    case ISCSI_OP_DATA_IN:
    case ISCSI_OP_LOGOUT_RESPONSE:
    case ISCSI_OP_R2T:
    case ISCSI_OP_ASYNC_MESSAGE:
    case ISCSI_OP_REJECT:
        break;
    }
    connection_close(connection, "a PDU that no initiator sends");
}

static void receive_complete(struct connection *connection)
{
    if (connection->phase == CONNECTION_LOGIN) {
        login_phase_receive(connection);
        return;
    }
    switch (iscsi_bhs_opcode(&connection->reader.bhs)) {
    case ISCSI_OP_SCSI_COMMAND:
    case ISCSI_OP_DATA_OUT:
        task_data_complete(connection);
        return;
    case ISCSI_OP_NOP_OUT:
        request_nop_out(connection);
        return;
    case ISCSI_OP_TMF_REQUEST:
        task_management_receive(connection);
        return;
    case ISCSI_OP_TEXT_REQUEST:
        text_phase_receive(connection);
        return;
    case ISCSI_OP_LOGOUT_REQUEST:
        request_logout(connection);
        return;
    case ISCSI_OP_SNACK: /* ErrorRecoveryLevel 0 has none */
        request_reject(connection, ISCSI_REJECT_SNACK);
        return;
    case ISCSI_OP_LOGIN_REQUEST:
    case ISCSI_OP_NOP_IN:
    case ISCSI_OP_SCSI_RESPONSE:
    case ISCSI_OP_TMF_RESPONSE:
    case ISCSI_OP_LOGIN_RESPONSE:
    case ISCSI_OP_TEXT_RESPONSE:
    case ISCSI_OP_DATA_IN:
    case ISCSI_OP_LOGOUT_RESPONSE:
    case ISCSI_OP_R2T:
    case ISCSI_OP_ASYNC_MESSAGE:
    case ISCSI_OP_REJECT:
        break; /* receive_header() has closed the connection */
    }
}

/* False when the reader needs more bytes. */
static bool receive_event(struct connection *connection, enum iscsi_pdu_event event)
{
    switch (event) {
    case ISCSI_PDU_NEED_BYTES:
        return false;
    case ISCSI_PDU_HEADER:
        receive_header(connection);
        return true;
    case ISCSI_PDU_NEED_BUFFER: /* more than what asked for it has room for */
        iscsi_pdu_reader_drop_data(&connection->reader);
        return true;
    case ISCSI_PDU_COMPLETE:
        receive_complete(connection);
        return true;
    /* ErrorRecoveryLevel 0: what was corrupted on its way ends the session; the initiator sends it again. */
    case ISCSI_PDU_DATA_DIGEST_ERROR:
        connection_close(connection, "data digest error");
        return false;
    case ISCSI_PDU_HEADER_DIGEST_ERROR:
        connection_close(connection, "header digest error");
        return false;
    case ISCSI_PDU_FORMAT_ERROR:
        connection_close(connection, "malformed additional header segments");
        return false;
    case ISCSI_PDU_TOO_LARGE:
        connection_close(connection, "a PDU larger than was agreed");
        return false;
    }
    return false;
}

static void receive_bytes(struct connection *connection, const uint8_t *bytes, size_t length)
{
    bool more = true;
    while (more && !connection->closing && connection->phase != CONNECTION_LOGGING_OUT) {
        size_t used;
        if (connection->phase == CONNECTION_ADMITTING) {
            /* The reader must be between PDUs when the answer configures it. */
            if (length)
                connection_close(connection, "more bytes before the login's answer");
            return;
        }
        enum iscsi_pdu_event event = iscsi_pdu_reader_feed(&connection->reader, bytes, length, &used);
        bytes += used;
        length -= used;
        more = receive_event(connection, event);
    }
}

static void connection_received(struct loop_op *op, int res, unsigned flags)
{
    struct connection *connection = container_of(op, struct connection, recv);
    struct reactor *reactor = connection->reactor;
    connection->inflight++;
    if (!(flags & LOOP_MORE)) {
        connection->receiving = false;
        connection->inflight--;
    }
    if (flags & LOOP_BUFFER) {
        connection->heard_ns = loop_now_ns(reactor->loop);
        connection->pinged = false;
        if (res > 0)
            receive_bytes(connection, loop_recv_buffer(reactor->loop, flags), (size_t)res);
        loop_recv_release(reactor->loop, flags);
    }
    if (res == 0)
        connection_close(connection, "the initiator closed it");
    else if (res < 0 && res != -ENOBUFS)
        connection_close(connection, error_name(res));
    else if (!connection->receiving && !connection->closing)
        connection_receive_start(connection);
    connection_operation_end(connection);
}
