/*
 * Collecting a command's data-out: immediate data, then one R2T after the other, each answered by Data-Out
 * PDUs in order (DataPDUInOrder, DataSequenceInOrder, MaxOutstandingR2T=1 a command). The session's loop;
 * called by receive.c and task.c.
 */
#include <string.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "datapath/scsi/sense.h"
#include "datapath/target/task.h"

static bool r2t_build(struct out *out, struct connection *connection, struct out_pdu *pdu)
{
    struct task *task = container_of(out, struct task, r2t);
    struct iscsi_numbers numbers = connection_numbers(connection);
    iscsi_response_r2t(pdu->bhs, &numbers, task->lun, task->tag, task->transfer_tag, task->r2t_sn++,
                       task->received, task->burst_end - task->received);
    return true;
}

void data_out_begin(struct task *task, uint32_t immediate_size)
{
    struct connection *connection = task->connection;
    task->state = TASK_COLLECTS;
    if (!immediate_size) {
        data_out_continue(task);
        return;
    }
    task->burst_end = MIN(immediate_size, task->wanted);
    connection->tasks.receiving = task;
    iscsi_pdu_reader_set_buffer(&connection->reader, task->buffer, task->burst_end);
}

void data_out_continue(struct task *task)
{
    struct connection *connection = task->connection;
    if (task->received == task->wanted) {
        task->scsi.data_size = task->received;
        task_execute(task);
        return;
    }
    task->burst_end =
        task->received + MIN(task->wanted - task->received, connection->parameters.max_burst_length);
    task->data_sn = 0;
    task->transfer_tag += 1u << TAG_PLACE_BITS;
    task->r2t.build = r2t_build;
    connection_send(connection, &task->r2t);
}

/* The task that the PDU is for; NULL for one that was aborted meanwhile, whose data are dropped. */
static const char *data_out_find(const struct connection *connection, struct task **ret_task)
{
    const struct iscsi_bhs_data_out *pdu = &connection->reader.bhs.data_out;
    const struct task_set *set = &connection->tasks;
    uint32_t transfer_tag = iscsi_be32_get(pdu->transfer_tag);
    *ret_task = NULL;
    if (transfer_tag == ISCSI_TAG_NONE)
        return "unsolicited Data-Out came, and InitialR2T=Yes was agreed";
    if ((transfer_tag & TAG_PLACE_MASK) >= set->made)
        return "Data-Out for an R2T that was never sent";
    struct task *task = set->all[transfer_tag & TAG_PLACE_MASK];
    if (task->transfer_tag != transfer_tag || task->state != TASK_COLLECTS)
        return NULL;
    if (task->r2t.queued) /* a guessed tag: ending the task now would leave its R2T in the send queue */
        return "Data-Out for an R2T that was not sent yet";
    if (task->tag != iscsi_be32_get(pdu->task_tag))
        return "Data-Out for another task than its R2T";
    *ret_task = task;
    return NULL;
}

/* Sense code of a PDU that does not continue the sequence, or 0. */
static uint16_t data_out_check(const struct task *task, const struct iscsi_pdu_reader *reader)
{
    const struct iscsi_bhs_data_out *pdu = &reader->bhs.data_out;
    uint32_t size = reader->data_size;
    if (iscsi_be32_get(pdu->data_sn) != task->data_sn || iscsi_be32_get(pdu->buffer_offset) != task->received)
        return SENSE_PROTOCOL_CRC_ERROR;
    if (size == 0 || size > task->burst_end - task->received)
        return SENSE_DATA_OUT_LENGTH;
    if (!!(pdu->flags & ISCSI_FINAL) != (task->received + size == task->burst_end))
        return SENSE_DATA_OUT_LENGTH;
    return 0;
}

/* A part is missing, and at ErrorRecoveryLevel 0 it is not asked for again: the command fails, the initiator
 * repeats it (RFC 7143, section 7.9). What still comes for its R2T finds no task. */
static void data_out_fail(struct task *task, uint16_t sense_code)
{
    scsi_task_fail(&task->scsi, SENSE_ABORTED_COMMAND, sense_code);
    task->received = 0;
    task_answer(task);
}

void task_data_out_header(struct connection *connection)
{
    struct task *task;
    const char *wrong =
        connection->discovery ? "Data-Out in a discovery session" : data_out_find(connection, &task);
    if (wrong) {
        connection_close(connection, wrong);
        return;
    }
    uint16_t sense_code = task ? data_out_check(task, &connection->reader) : 0;
    if (!task || sense_code) {
        iscsi_pdu_reader_drop_data(&connection->reader);
        if (task)
            data_out_fail(task, sense_code);
        return;
    }
    connection->tasks.receiving = task;
    iscsi_pdu_reader_set_buffer(&connection->reader, (char *)task->buffer + task->received,
                                connection->reader.data_size);
}

void task_data_complete(struct connection *connection)
{
    struct task *task = connection->tasks.receiving;
    if (!task)
        return;
    connection->tasks.receiving = NULL;
    task->received += MIN(connection->reader.data_size, task->burst_end - task->received);
    task->data_sn++;
    if (task->received == task->burst_end)
        data_out_continue(task);
}
