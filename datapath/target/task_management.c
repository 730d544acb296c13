/*
 * Task management (RFC 7143, section 11.5): ABORT TASK, ABORT TASK SET, LOGICAL UNIT RESET. What waits is
 * dropped at once; what is being carried out cannot be called back from the disk, so the answer waits until
 * it has ended, and the command itself is not answered any more. The session's loop.
 *
 * LOGICAL UNIT RESET ends the asking session's commands only: those of others are as if they had come after
 * it. There is no other state to reset, and one initiator's recovery must not disturb another's I/O
 * (invariant 6). Target resets would take down other volumes' sessions: they are not supported, as RFC 7143
 * lets a target say.
 */
#include <string.h>

#include "common/cleanup.h"
#include "datapath/target/task.h"

static void tmf_fill(struct control *control, struct connection *connection)
{
    struct iscsi_numbers numbers = connection_numbers_next(connection);
    iscsi_response_tmf(&control->bhs, &numbers, control->task_tag,
                       (enum iscsi_tmf_response_code)control->argument);
}

/* referenced_tag ISCSI_TAG_NONE: every task of the session. */
static bool tmf_concerns(const struct control *tmf, const struct task *task)
{
    return tmf->referenced_tag == ISCSI_TAG_NONE || tmf->referenced_tag == task->tag;
}

static bool tmf_ready(const struct control *tmf, const struct connection *connection)
{
    for (const struct task *task = connection->tasks.first; task; task = task->next)
        if (task->aborted && tmf_concerns(tmf, task))
            return false;
    return true;
}

void task_management_task_ended(struct connection *connection)
{
    if (connection->tasks.dropping || connection->closing)
        return;
    for (struct control **at = &connection->tasks.tmfs; *at;) {
        struct control *tmf = *at;
        if (!tmf_ready(tmf, connection)) {
            at = &tmf->waiting_next;
            continue;
        }
        *at = tmf->waiting_next;
        connection_send(connection, &tmf->out);
    }
}

void task_management_drop(struct connection *connection)
{
    while (connection->tasks.tmfs) {
        struct control *tmf = connection->tasks.tmfs;
        connection->tasks.tmfs = tmf->waiting_next;
        tmf->out.sent(&tmf->out, connection);
    }
}

/* How many there were. */
static unsigned tmf_abort(struct connection *connection, const struct control *tmf)
{
    unsigned count = 0;
    connection->tasks.dropping = true;
    for (struct task *task = connection->tasks.first, *next; task; task = next) {
        next = task->next;
        if (task->state == TASK_ANSWERS || !tmf_concerns(tmf, task))
            continue;
        task_abort(task);
        count++;
    }
    connection->tasks.dropping = false;
    return count;
}

static enum iscsi_tmf_response_code tmf_run(struct connection *connection, struct control *tmf,
                                            const struct iscsi_bhs_tmf_request *request)
{
    static const uint8_t lun_0[8];
    bool unit = connection->session && memcmp(request->lun, lun_0, sizeof(lun_0)) == 0;
    switch ((enum iscsi_tmf_function)(request->function & ISCSI_TMF_FUNCTION_MASK)) {
    case ISCSI_TMF_ABORT_TASK:
        tmf->referenced_tag = iscsi_be32_get(request->referenced_tag);
        return tmf_abort(connection, tmf) ? ISCSI_TMF_COMPLETE : ISCSI_TMF_NO_TASK;
    case ISCSI_TMF_ABORT_TASK_SET:
    case ISCSI_TMF_LOGICAL_UNIT_RESET:
        if (!unit)
            return ISCSI_TMF_NO_LUN;
        tmf->referenced_tag = ISCSI_TAG_NONE;
        tmf_abort(connection, tmf);
        return ISCSI_TMF_COMPLETE;
    case ISCSI_TMF_TASK_REASSIGN:
        return ISCSI_TMF_REASSIGN_UNSUPPORTED;
    case ISCSI_TMF_CLEAR_ACA:
    case ISCSI_TMF_CLEAR_TASK_SET:
    case ISCSI_TMF_TARGET_WARM_RESET:
    case ISCSI_TMF_TARGET_COLD_RESET:
        break;
    }
    return ISCSI_TMF_UNSUPPORTED;
}

void task_management_receive(struct connection *connection)
{
    const union iscsi_bhs *bhs = &connection->reader.bhs;
    const struct iscsi_bhs_tmf_request *request = &bhs->tmf_request;
    if (!connection_take_cmd_sn(connection, iscsi_be32_get(request->cmd_sn), iscsi_bhs_immediate(bhs)))
        return;
    struct control *tmf = connection_control_new(connection, NULL, 0);
    if (!tmf)
        return;
    tmf->fill = tmf_fill;
    tmf->task_tag = iscsi_be32_get(request->task_tag);
    tmf->argument = tmf_run(connection, tmf, request);
    if (tmf->argument != ISCSI_TMF_COMPLETE) {
        connection_send(connection, &tmf->out);
        return;
    }
    tmf->waiting_next = connection->tasks.tmfs;
    connection->tasks.tmfs = tmf;
    connection_task_ended(connection);
}
