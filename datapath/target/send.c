/*
 * What goes out: PDUs are made when there is room for them, so that each carries the newest numbers, and all
 * that a batch of completions produced leaves in one sendmsg. The connection's loop.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "datapath/target/connection.h"
#include "datapath/target/reactor.h"

static void connection_sent(struct loop_op *op, int res, unsigned flags);

/* ---- the queue ---- */

void connection_send(struct connection *connection, struct out *out)
{
    out->queued = true;
    out->next = NULL;
    if (connection->out_last)
        connection->out_last->next = out;
    else
        connection->out_first = out;
    connection->out_last = out;
    if (!connection->sending && !connection->unsent)
        reactor_flush_later(connection->reactor, connection);
}

static void out_pop(struct connection *connection)
{
    struct out *out = connection->out_first;
    connection->out_first = out->next;
    if (!out->next)
        connection->out_last = NULL;
    out->next = NULL;
    out->queued = false;
}

bool connection_unsend(struct connection *connection, struct out *out)
{
    struct out *previous = NULL;
    if (!out->queued)
        return false;
    for (struct out *at = connection->out_first; at != out; at = at->next)
        previous = at;
    if (!previous) {
        out_pop(connection);
        return true;
    }
    previous->next = out->next;
    if (!out->next)
        connection->out_last = previous;
    out->next = NULL;
    out->queued = false;
    return true;
}

void connection_drop_output(struct connection *connection)
{
    while (connection->out_first) {
        struct out *out = connection->out_first;
        out_pop(connection);
        if (out->sent)
            out->sent(out, connection);
    }
}

struct iscsi_numbers connection_numbers(struct connection *connection)
{
    return (struct iscsi_numbers){.stat_sn = connection->stat_sn,
                                  .exp_cmd_sn = connection->exp_cmd_sn,
                                  .max_cmd_sn = connection->exp_cmd_sn + task_set_window(connection) - 1};
}

struct iscsi_numbers connection_numbers_next(struct connection *connection)
{
    struct iscsi_numbers numbers = connection_numbers(connection);
    connection->stat_sn++;
    return numbers;
}

/* ---- a batch ---- */

static void batch_add_iov(struct send_batch *batch, const void *base, size_t length)
{
    batch->iov[batch->iov_count++] = (struct iovec){.iov_base = (void *)(uintptr_t)base, .iov_len = length};
    batch->bytes += length;
}

static void batch_add(struct connection *connection, const struct out_pdu *pdu)
{
    struct send_batch *batch = &connection->batch;
    struct iscsi_pdu_header *header = &batch->headers[batch->pdus];
    uint8_t *trailer = batch->trailers[batch->pdus];
    size_t trailer_size = iscsi_pdu_pad(pdu->data_size);
    bool digests = !pdu->sealed;
    batch->pdus++;
    memset(trailer, 0, trailer_size);
    batch_add_iov(batch, header,
                  iscsi_response_seal(header, digests && connection->parameters.header_digest));
    if (!pdu->data_size)
        return;
    batch_add_iov(batch, pdu->data, pdu->data_size);
    if (digests && connection->parameters.data_digest) {
        iscsi_response_data_digest(&batch->iov[batch->iov_count - 1], 1, trailer + trailer_size);
        trailer_size += ISCSI_DIGEST_SIZE;
    }
    if (trailer_size)
        batch_add_iov(batch, trailer, trailer_size);
}

static void batch_fill(struct connection *connection)
{
    struct send_batch *batch = &connection->batch;
    batch->pdus = batch->iov_count = batch->finished_count = 0;
    batch->bytes = 0;
    while (connection->out_first && batch->pdus < SEND_BATCH_PDUS) {
        struct out *out = connection->out_first;
        struct out_pdu pdu = {.bhs = &batch->headers[batch->pdus].bhs};
        bool last = out->build(out, connection, &pdu);
        batch_add(connection, &pdu);
        if (!last)
            continue;
        out_pop(connection);
        if (out->sent)
            batch->finished[batch->finished_count++] = out;
    }
}

static void batch_send(struct connection *connection)
{
    struct send_batch *batch = &connection->batch;
    batch_fill(connection);
    batch->message = (struct msghdr){.msg_iov = batch->iov, .msg_iovlen = batch->iov_count};
    connection->send.done = connection_sent;
    connection->sending = true;
    connection->inflight++;
    loop_sendmsg(connection->reactor->loop, &connection->send, connection->fd, &batch->message);
}

static void connection_sent(struct loop_op *op, int res, unsigned flags)
{
    struct connection *connection = container_of(op, struct connection, send);
    struct send_batch *batch = &connection->batch;
    (void)flags;
    connection->sending = false;
    for (unsigned i = 0; i < batch->finished_count; i++)
        batch->finished[i]->sent(batch->finished[i], connection);
    if (connection->closing)
        connection_drop_output(connection);
    else if (res < 0 || (size_t)res != batch->bytes)
        connection_close(connection, res < 0 ? error_name(res) : "the initiator went away");
    else if (connection->out_first)
        batch_send(connection);
    else if (connection->close_when_sent)
        connection_close(connection, "all is said");
    connection_operation_end(connection);
}

/* ---- at the end of the loop's batch ---- */

void connection_queue_unsent(struct connection *connection, struct connection **list)
{
    connection->unsent = true;
    connection->inflight++;
    connection->unsent_next = *list;
    *list = connection;
}

struct connection *connection_flush(struct connection *connection)
{
    struct connection *next = connection->unsent_next;
    connection->unsent = false;
    if (!connection->closing && !connection->sending && connection->out_first)
        batch_send(connection);
    connection_operation_end(connection);
    return next;
}

/* ---- PDUs on the heap ---- */

static bool control_build(struct out *out, struct connection *connection, struct out_pdu *pdu)
{
    struct control *control = container_of(out, struct control, out);
    if (control->fill)
        control->fill(control, connection);
    *pdu->bhs = control->bhs;
    pdu->data = control->data;
    pdu->data_size = control->data_size;
    pdu->sealed = control->sealed;
    return true;
}

static void control_sent(struct out *out, struct connection *connection)
{
    connection->controls--;
    free(container_of(out, struct control, out));
}

struct control *connection_control_new(struct connection *connection, const void *data, uint32_t data_size)
{
    struct control *control = NULL;
    if (connection->controls < CONNECTION_CONTROL_MAX)
        control = calloc(1, sizeof(*control) + data_size);
    if (!control) {
        connection_close(connection, "too many answers wait to be read");
        return NULL;
    }
    connection->controls++;
    control->out.build = control_build;
    control->out.sent = control_sent;
    control->data_size = data_size;
    if (data_size)
        memcpy(control->data, data, data_size);
    return control;
}
