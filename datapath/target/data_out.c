/*
 * Collecting a command's data-out: immediate data, then one R2T after the other, each answered by Data-Out
 * PDUs in order (DataPDUInOrder, DataSequenceInOrder, MaxOutstandingR2T=1 a command). The session's loop;
 * called by receive.c and task.c.
 */
#include <string.h>

#include "common/cleanup.h"
#include "common/size.h"
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

/* NULL, or what is wrong. *ret_task is NULL when the data are of a task that was aborted meanwhile. */
static const char *data_out_check(struct connection *connection, struct task **ret_task)
{
    const struct iscsi_bhs_data_out *pdu = &connection->reader.bhs.data_out;
    const struct task_set *set = &connection->tasks;
    uint32_t transfer_tag = iscsi_be32_get(pdu->transfer_tag);
    uint32_t size = connection->reader.data_size;
    *ret_task = NULL;
    if (transfer_tag == ISCSI_TAG_NONE)
        return "unsolicited Data-Out came, and InitialR2T=Yes was agreed";
    if ((transfer_tag & TAG_PLACE_MASK) >= set->made)
        return "Data-Out for an R2T that was never sent";
    struct task *task = set->all[transfer_tag & TAG_PLACE_MASK];
    if (task->transfer_tag != transfer_tag || task->state != TASK_COLLECTS || !task->wanted)
        return NULL;
    if (task->tag != iscsi_be32_get(pdu->task_tag))
        return "Data-Out for another task than its R2T";
    if (iscsi_be32_get(pdu->data_sn) != task->data_sn)
        return "Data-Out out of order: DataSN";
    if (iscsi_be32_get(pdu->buffer_offset) != task->received)
        return "Data-Out out of order: Buffer Offset";
    if (size == 0 || size > task->burst_end - task->received)
        return "Data-Out of another length than its R2T";
    if (!!(pdu->flags & ISCSI_FINAL) != (task->received + size == task->burst_end))
        return "Data-Out whose F bit is not where its R2T ends";
    *ret_task = task;
    return NULL;
}

void task_data_out_header(struct connection *connection)
{
    struct task *task;
    const char *wrong =
        connection->discovery ? "Data-Out in a discovery session" : data_out_check(connection, &task);
    if (wrong) {
        connection_close(connection, wrong);
        return;
    }
    if (!task) {
        iscsi_pdu_reader_drop_data(&connection->reader);
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
