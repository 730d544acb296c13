/*
 * SCSI commands of one session: from the command PDU over its data to the answer. The session's loop.
 *
 * A task waits for its volume's limits (throttle.c) and for a buffer, collects its data-out (data_out.c),
 * waits out a hold, is carried out by scsi/, answers.
 */
#include "datapath/target/task.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "datapath/scsi/sense.h"
#include "datapath/target/reactor.h"
#include "datapath/target/session.h"

static void task_executed(struct scsi_task *scsi);
static void task_buffer_ready(struct buffer_wait *wait, void *buffer);
static bool task_answer_build(struct out *out, struct connection *connection, struct out_pdu *pdu);
static void task_answer_sent(struct out *out, struct connection *connection);

/* ---- the set ---- */

int task_set_init(struct connection *connection, unsigned window)
{
    struct task_set *set = &connection->tasks;
    set->window = window;
    /* Beside the window: what is answered and on its way out, and the immediate commands. */
    set->capacity = window + SEND_BATCH_PDUS + CONNECTION_IMMEDIATE_MAX;
    set->all = calloc(set->capacity, sizeof(*set->all));
    return set->all ? 0 : -ENOMEM;
}

void task_set_done(struct connection *connection)
{
    struct task_set *set = &connection->tasks;
    assert(!set->first);
    for (unsigned i = 0; i < set->made; i++)
        free(set->all[i]);
    free(set->all);
    set->all = NULL;
}

uint32_t task_set_window(const struct connection *connection)
{
    const struct task_set *set = &connection->tasks;
    if (!set->all)
        return 1; /* discovery: one request at a time */
    unsigned unused = set->window + SEND_BATCH_PDUS - set->in_use;
    return MIN(set->window - set->unanswered, unused);
}

static struct task *task_set_take(struct task_set *set)
{
    struct task *task = set->free;
    if (task) {
        set->free = task->next;
        return task;
    }
    if (set->made == set->capacity || !(task = calloc(1, sizeof(*task))))
        return NULL;
    task->transfer_tag = set->made;
    set->all[set->made++] = task;
    return task;
}

static struct task *task_get(struct connection *connection, bool immediate)
{
    struct task_set *set = &connection->tasks;
    if (immediate && set->immediate >= CONNECTION_IMMEDIATE_MAX)
        return NULL;
    struct task *task = task_set_take(set);
    if (!task)
        return NULL;
    *task = (struct task){.connection = connection,
                          .immediate = immediate,
                          .serial = ++set->serial,
                          .transfer_tag = task->transfer_tag + (1u << TAG_PLACE_BITS),
                          .wait = {.ready = task_buffer_ready},
                          .answer = {.build = task_answer_build, .sent = task_answer_sent},
                          .next = set->first};
    if (set->first)
        set->first->previous = task;
    set->first = task;
    if (immediate) {
        set->immediate++;
    } else {
        set->in_use++;
        set->unanswered++;
    }
    atomic_fetch_add_explicit(&connection->session->outstanding, 1, memory_order_relaxed);
    return task;
}

static void task_leave_window(struct task *task)
{
    if (!task->answered && !task->immediate)
        task->connection->tasks.unanswered--;
    task->answered = true;
}

static void task_free(struct task *task)
{
    struct connection *connection = task->connection;
    struct task_set *set = &connection->tasks;
    task_leave_window(task);
    if (task->immediate)
        set->immediate--;
    else
        set->in_use--;
    if (task->previous)
        task->previous->next = task->next;
    else
        set->first = task->next;
    if (task->next)
        task->next->previous = task->previous;
    void *buffer = task->buffer;
    size_t buffer_size = task->buffer_size;
    set->buffer_bytes -= task->share;
    task->buffer = NULL;
    task->state = TASK_ANSWERS; /* late Data-Out finds nothing that collects */
    task->next = set->free;
    set->free = task;
    atomic_fetch_sub_explicit(&connection->session->outstanding, 1, memory_order_relaxed);
    buffer_pool_put(&connection->reactor->buffers, buffer, buffer_size);
    connection_task_ended(connection);
}

static void task_list_add(struct task ***at, struct task *task)
{
    task->list_next = NULL;
    **at = task;
    *at = &task->list_next;
}

static void task_list_remove(struct task **first, struct task ***at, struct task *task)
{
    struct task **link = first;
    while (*link != task)
        link = &(*link)->list_next;
    *link = task->list_next;
    if (*at == &task->list_next)
        *at = link;
}

/* ---- the command ---- */

static void task_fill(struct task *task, const union iscsi_bhs *bhs)
{
    const struct iscsi_bhs_scsi_command *command = &bhs->scsi_command;
    struct session *session = task->connection->session;
    uint32_t expected = iscsi_be32_get(command->expected_length);
    task->tag = iscsi_be32_get(command->task_tag);
    memcpy(task->lun, command->lun, sizeof(task->lun));
    task->read_expected = command->flags & ISCSI_COMMAND_READ ? expected : 0;
    task->write_expected = command->flags & ISCSI_COMMAND_WRITE ? expected : 0;
    task->scsi.nexus = &session->nexus;
    task->scsi.loop = task->connection->reactor->loop;
    task->scsi.done = task_executed;
    for (unsigned i = 0; i < sizeof(task->lun); i++)
        task->scsi.lun = task->scsi.lun << 8 | task->lun[i];
    memcpy(task->scsi.cdb, command->cdb, sizeof(task->scsi.cdb));
    atomic_fetch_add_explicit(&session->commands, 1, memory_order_relaxed);
}

/* What the PDU may carry after this login's negotiation; NULL, or what is wrong. */
static const char *task_check_pdu(const struct connection *connection)
{
    const struct iscsi_bhs_scsi_command *command = &connection->reader.bhs.scsi_command;
    uint32_t immediate = connection->reader.data_size;
    if (!(command->flags & ISCSI_FINAL))
        return "unsolicited Data-Out was announced, and InitialR2T=Yes was agreed";
    if (!immediate)
        return NULL;
    if (!(command->flags & ISCSI_COMMAND_WRITE))
        return "data came with a command that writes none";
    if (!connection->parameters.immediate_data)
        return "immediate data came, and ImmediateData=No was agreed";
    if (immediate > connection->parameters.first_burst_length ||
        immediate > iscsi_be32_get(command->expected_length))
        return "more immediate data came than was agreed";
    return NULL;
}

/* Its buffer is there, or it needs none. */
static void task_begin(struct task *task, uint32_t immediate_size)
{
    task->scsi.data = task->buffer;
    task->scsi.data_size = task->scsi.direction == SCSI_DATA_IN ? task->scsi.transfer_length : 0;
    if (task->scsi.direction == SCSI_DATA_OUT && task->wanted)
        data_out_begin(task, immediate_size);
    else
        task_execute(task);
}

static void task_buffer_ready(struct buffer_wait *wait, void *buffer)
{
    struct task *task = container_of(wait, struct task, wait);
    task->buffer = buffer;
    if (task->connection->closing)
        task->state = TASK_COLLECTS; /* its turn to be dropped comes */
    else
        task_begin(task, 0);
}

static size_t task_buffer_need(struct task *task)
{
    switch (task->scsi.direction) {
    case SCSI_DATA_IN:
        return task->scsi.transfer_length;
    case SCSI_DATA_OUT:
        task->wanted = (uint32_t)MIN((size_t)task->write_expected, task->scsi.transfer_length);
        return task->wanted;
    case SCSI_NO_DATA:
        break;
    }
    return 0;
}

/*
 * A session holds at most half of its loop's buffers, and one command's at least: an initiator that stops in
 * the middle of its transfers must not stop the loop's other sessions.
 */
static bool task_has_share(const struct task *task)
{
    const struct connection *connection = task->connection;
    size_t held = connection->tasks.buffer_bytes;
    return held == 0 || held + task->buffer_size <= connection->reactor->buffers.limit_bytes / 2;
}

static void task_take_share(struct task *task)
{
    task->share = task->buffer_size;
    task->connection->tasks.buffer_bytes += task->share;
}

static void task_wait_for_buffer(struct task *task)
{
    struct task_set *set = &task->connection->tasks;
    task->state = TASK_WAITS_FOR_BUFFER;
    task->starved = set->starved || !task_has_share(task);
    if (task->starved) {
        task_list_add(&set->starved_at, task);
        return;
    }
    task_take_share(task);
    buffer_pool_wait(&task->connection->reactor->buffers, &task->wait, task->buffer_size);
}

static bool task_get_buffer(struct task *task)
{
    if (task->connection->tasks.starved || !task_has_share(task))
        return false;
    task->buffer = buffer_pool_get(&task->connection->reactor->buffers, task->buffer_size);
    if (task->buffer)
        task_take_share(task);
    return task->buffer != NULL;
}

static void task_provide(struct task *task, uint32_t immediate_size)
{
    struct connection *connection = task->connection;
    bool room = !immediate_size || throttle_has_room(task);
    if (room && (!task->buffer_size || task_get_buffer(task))) {
        task_begin(task, immediate_size);
    } else if (immediate_size) { /* invariant 10: what cannot be held is refused, and sent again later */
        task->scsi.status = SCSI_TASK_SET_FULL;
        iscsi_pdu_reader_drop_data(&connection->reader);
        task_answer(task);
    } else {
        task_wait_for_buffer(task);
    }
}

static void task_provide_later(struct task *task)
{
    task_provide(task, 0);
}

static void task_start(struct task *task)
{
    uint32_t immediate_size = task->connection->reader.data_size;
    task->buffer_size = task_buffer_need(task);
    if (immediate_size || scsi_task_limited_by_data(&task->scsi) || !throttle_holds(task, task_provide_later))
        task_provide(task, immediate_size);
}

void task_set_serve(struct connection *connection)
{
    struct task_set *set = &connection->tasks;
    while (set->starved && !set->dropping && !connection->closing && task_has_share(set->starved)) {
        struct task *task = set->starved;
        task_list_remove(&set->starved, &set->starved_at, task);
        task->starved = false;
        task_take_share(task);
        task->buffer = buffer_pool_get(&connection->reactor->buffers, task->buffer_size);
        if (task->buffer)
            task_begin(task, 0);
        else
            buffer_pool_wait(&connection->reactor->buffers, &task->wait, task->buffer_size);
    }
}

void task_command_header(struct connection *connection)
{
    const union iscsi_bhs *bhs = &connection->reader.bhs;
    const struct iscsi_bhs_scsi_command *command = &bhs->scsi_command;
    bool immediate = iscsi_bhs_immediate(bhs);
    const char *wrong =
        connection->discovery ? "a SCSI command in a discovery session" : task_check_pdu(connection);
    if (wrong) {
        connection_close(connection, wrong);
        return;
    }
    if (!connection_take_cmd_sn(connection, iscsi_be32_get(command->cmd_sn), immediate))
        return;
    struct task *task = task_get(connection, immediate);
    if (!task) {
        iscsi_pdu_reader_drop_data(&connection->reader);
        if (immediate)
            request_reject(connection, ISCSI_REJECT_TOO_MANY_IMMEDIATE);
        else
            connection_close(connection, "out of memory");
        return;
    }
    task_fill(task, bhs);
    bool both = command->flags & ISCSI_COMMAND_READ && command->flags & ISCSI_COMMAND_WRITE;
    if (both)
        scsi_task_fail(&task->scsi, SENSE_ILLEGAL_REQUEST, SENSE_INVALID_FIELD_IN_CDB);
    if (both || !scsi_task_parse(&task->scsi)) {
        iscsi_pdu_reader_drop_data(&connection->reader);
        task_answer(task);
        return;
    }
    task_start(task);
}

/* ---- carrying out ---- */

static void task_hold(struct task *task)
{
    struct task_set *set = &task->connection->tasks;
    task->state = TASK_HELD;
    task_list_add(&set->held_at, task);
}

static void task_unhold(struct task *task)
{
    struct task_set *set = &task->connection->tasks;
    task_list_remove(&set->held, &set->held_at, task);
}

static void task_carry_out(struct task *task)
{
    struct connection *connection = task->connection;
    if (connection->holds) {
        task_hold(task);
        return;
    }
    task->state = TASK_EXECUTES;
    connection->tasks.executing++;
    connection->inflight++;
    scsi_task_execute(&task->scsi);
}

void task_execute(struct task *task)
{
    if (!throttle_holds(task, task_carry_out))
        task_carry_out(task);
}

void task_set_go_on(struct connection *connection)
{
    while (connection->tasks.held && !connection->holds) {
        struct task *task = connection->tasks.held;
        task_unhold(task);
        task_carry_out(task);
    }
}

static void task_executed(struct scsi_task *scsi)
{
    struct task *task = container_of(scsi, struct task, scsi);
    struct connection *connection = task->connection;
    connection->tasks.executing--;
    if (task->aborted || connection->closing)
        task_free(task);
    else
        task_answer(task);
    connection_task_ended(connection); /* as far as a hold is concerned */
    connection_operation_end(connection);
}

/* ---- the answer ---- */

static uint64_t task_available(const struct task *task)
{
    switch (task->scsi.direction) {
    case SCSI_DATA_IN:
        return task->scsi.status == SCSI_GOOD ? task->scsi.data_in_length : 0;
    case SCSI_DATA_OUT:
        return task->scsi.transfer_length;
    case SCSI_NO_DATA:
        break;
    }
    return 0;
}

void task_answer(struct task *task)
{
    struct connection *connection = task->connection;
    struct session *session = connection->session;
    uint64_t available = task_available(task);
    task->state = TASK_ANSWERS;
    task->residual = iscsi_residual((uint64_t)task->read_expected + task->write_expected, available);
    if (task->scsi.direction == SCSI_DATA_IN)
        task->data_in_size = (uint32_t)MIN((uint64_t)task->read_expected, available);
    if (task->scsi.status == SCSI_GOOD) {
        atomic_fetch_add_explicit(&session->read_bytes, task->data_in_size, memory_order_relaxed);
        atomic_fetch_add_explicit(&session->written_bytes, task->received, memory_order_relaxed);
    }
    connection_send(connection, &task->answer);
}

static bool task_data_in_build(struct task *task, struct connection *connection, struct out_pdu *pdu)
{
    const struct iscsi_parameters *agreed = &connection->parameters;
    uint32_t offset = task->data_in_sent;
    uint32_t burst_left = agreed->max_burst_length - offset % agreed->max_burst_length;
    uint32_t left = task->data_in_size - offset;
    uint32_t size = MIN(left, MIN(burst_left, agreed->max_send_data_segment_length));
    pdu->data = (const char *)task->buffer + offset;
    pdu->data_size = size;
    task->data_in_sent += size;
    if (size < left) {
        struct iscsi_numbers numbers = connection_numbers(connection);
        iscsi_response_data_in(pdu->bhs, &numbers, task->tag, size == burst_left, task->data_in_sn++, offset,
                               size);
        return false;
    }
    task_leave_window(task);
    struct iscsi_numbers numbers = connection_numbers_next(connection);
    iscsi_response_data_in_status(pdu->bhs, &numbers, task->tag, task->scsi.status, task->data_in_sn++,
                                  offset, size, task->residual);
    return true;
}

static bool task_answer_build(struct out *out, struct connection *connection, struct out_pdu *pdu)
{
    struct task *task = container_of(out, struct task, answer);
    if (task->data_in_size)
        return task_data_in_build(task, connection, pdu);
    if (task->scsi.sense_length) { /* RFC 7143, section 11.4.7.2: a length before the sense */
        task->sense[0] = 0;
        task->sense[1] = (uint8_t)task->scsi.sense_length;
        memcpy(task->sense + 2, task->scsi.sense, task->scsi.sense_length);
        pdu->data = task->sense;
        pdu->data_size = 2 + (uint32_t)task->scsi.sense_length;
    }
    task_leave_window(task);
    struct iscsi_numbers numbers = connection_numbers_next(connection);
    iscsi_response_scsi(pdu->bhs, &numbers, task->tag, ISCSI_SCSI_COMPLETED, (uint8_t)task->scsi.status,
                        task->r2t_sn, task->residual, pdu->data_size);
    return true;
}

static void task_answer_sent(struct out *out, struct connection *connection)
{
    (void)connection;
    task_free(container_of(out, struct task, answer));
}

/* ---- ending early ---- */

void task_abort(struct task *task)
{
    struct connection *connection = task->connection;
    switch (task->state) {
    case TASK_WAITS_FOR_BUFFER:
        if (task->starved)
            task_list_remove(&connection->tasks.starved, &connection->tasks.starved_at, task);
        else
            buffer_pool_cancel(&connection->reactor->buffers, &task->wait);
        break;
    case TASK_COLLECTS:
        connection_unsend(connection, &task->r2t);
        if (connection->tasks.receiving == task) {
            iscsi_pdu_reader_drop_data(&connection->reader);
            connection->tasks.receiving = NULL;
        }
        break;
    case TASK_THROTTLED:
        throttle_leave(task);
        break;
    case TASK_HELD:
        task_unhold(task);
        break;
    case TASK_EXECUTES:
        task->aborted = true;
        return;
    case TASK_ANSWERS:
        return;
    }
    throttle_give_back(task);
    task_free(task);
}

void task_set_drop(struct connection *connection)
{
    connection->tasks.dropping = true;
    for (struct task *task = connection->tasks.first, *next; task; task = next) {
        next = task->next;
        task_abort(task);
    }
    connection->tasks.dropping = false;
}
