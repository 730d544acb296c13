/* The small requests of the full feature phase: NOP-Out, Logout; Reject; and our own ping. The connection's
 * loop. */
#include <string.h>

#include "common/size.h"
#include "datapath/target/connection.h"
#include "datapath/target/session.h"

/* ---- NOP ---- */

static void nop_in_fill(struct control *control, struct connection *connection)
{
    struct iscsi_numbers numbers = connection_numbers_next(connection);
    iscsi_response_nop_in(&control->bhs, &numbers, control->lun, control->task_tag, control->data_size);
}

void request_nop_out(struct connection *connection)
{
    const struct iscsi_bhs_nop_out *nop = &connection->reader.bhs.nop_out;
    uint32_t task_tag = iscsi_be32_get(nop->task_tag);
    bool immediate = iscsi_bhs_immediate(&connection->reader.bhs);
    if (!connection_take_cmd_sn(connection, iscsi_be32_get(nop->cmd_sn), immediate))
        return;
    if (task_tag == ISCSI_TAG_NONE) /* the answer to our ping, or a mere sign of life */
        return;
    uint32_t size = MIN(connection->reader.data_size, connection->parameters.max_send_data_segment_length);
    struct control *control = connection_control_new(connection, connection->text, size);
    if (!control)
        return;
    control->fill = nop_in_fill;
    control->task_tag = task_tag;
    memcpy(control->lun, nop->lun, sizeof(control->lun));
    connection_send(connection, &control->out);
}

static void ping_fill(struct control *control, struct connection *connection)
{
    struct iscsi_numbers numbers = connection_numbers(connection);
    iscsi_response_ping(&control->bhs, &numbers, control->lun, control->argument);
}

void request_ping(struct connection *connection)
{
    struct control *control = connection_control_new(connection, NULL, 0);
    if (!control)
        return;
    connection->pinged = true;
    control->fill = ping_fill;
    control->argument = 1; /* any tag but ISCSI_TAG_NONE asks for an answer */
    connection_send(connection, &control->out);
}

/* ---- Reject ---- */

static void reject_fill(struct control *control, struct connection *connection)
{
    struct iscsi_numbers numbers = connection_numbers_next(connection);
    iscsi_response_reject(&control->bhs, &numbers, (enum iscsi_reject_reason)control->argument);
}

void request_reject(struct connection *connection, enum iscsi_reject_reason reason)
{
    struct control *control = connection_control_new(connection, &connection->reader.bhs, ISCSI_BHS_SIZE);
    if (!control)
        return;
    control->fill = reject_fill;
    control->argument = reason;
    connection_send(connection, &control->out);
}

/* ---- Logout ---- */

static void logout_fill(struct control *control, struct connection *connection)
{
    struct iscsi_numbers numbers = connection_numbers_next(connection);
    iscsi_response_logout(&control->bhs, &numbers, control->task_tag,
                          (enum iscsi_logout_response_code)control->argument, 0, 0);
}

void request_logout(struct connection *connection)
{
    const union iscsi_bhs *bhs = &connection->reader.bhs;
    const struct iscsi_bhs_logout_request *logout = &bhs->logout_request;
    if (!connection_take_cmd_sn(connection, iscsi_be32_get(logout->cmd_sn), iscsi_bhs_immediate(bhs)))
        return;
    enum iscsi_logout_response_code code = ISCSI_LOGOUT_CLOSED;
    if ((logout->reason & ISCSI_LOGOUT_REASON_MASK) >= ISCSI_LOGOUT_RECOVERY)
        code = ISCSI_LOGOUT_RECOVERY_UNSUPPORTED;
    struct control *control = connection_control_new(connection, NULL, 0);
    if (!control)
        return;
    control->fill = logout_fill;
    control->task_tag = iscsi_be32_get(logout->task_tag);
    control->argument = code;
    connection_send(connection, &control->out);
    if (code == ISCSI_LOGOUT_CLOSED) {
        connection->phase = CONNECTION_LOGGING_OUT;
        connection->close_when_sent = true;
    }
}
