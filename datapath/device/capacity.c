/* One READ CAPACITY(16) at a time beside the volume's I/O. Owns its task. Runs on the device's loop; called
 * by device_resize.c. */
#include "datapath/device/capacity.h"

#include <stddef.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "datapath/device/answer.h"
#include "datapath/device/identify.h"

#define ANSWER_BYTES 32
#define RETRIES_MAX 16

static void capacity_send(struct capacity *capacity);
static void capacity_send_done(struct iscsi_context *iscsi, int status, void *data, void *private_data);

static void capacity_send(struct capacity *capacity)
{
    uint8_t cdb[16] = {SCSI_OPCODE_SERVICE_ACTION_IN, SCSI_READCAPACITY16, [13] = ANSWER_BYTES};
    capacity->task = scsi_create_task(16, cdb, SCSI_XFER_READ, ANSWER_BYTES);
    if (!capacity->task)
        return;
    if (initiator_send(capacity->initiator, capacity->task, capacity_send_done, capacity))
        initiator_kick(capacity->initiator);
    else
        scsi_free_scsi_task(TAKE_PTR(capacity->task));
}

static void capacity_take(struct capacity *capacity, const struct scsi_task *task)
{
    struct volume_limits limits = {0};
    const struct device_state *state = capacity->initiator->state;
    if (!identify_parse_capacity(task->datain.data, (size_t)task->datain.size, &limits) ||
        limits.block_size_bytes != state->block_size_bytes)
        log_warning("READ CAPACITY(16) answered nonsense: the size stays as it is");
    else
        capacity->known(capacity->context, limits.size_bytes);
}

/* A connection that is lost is noticed, and given up, by others. */
static void capacity_send_done(struct iscsi_context *iscsi, int status, void *data, void *private_data)
{
    (void)iscsi;
    (void)data;
    struct capacity *capacity = private_data;
    int number = 0;
    enum answer answer = answer_classify(status, capacity->task, &number);
    if (answer == ANSWER_LOST)
        return;
    struct scsi_task *task = TAKE_PTR(capacity->task);
    bool again = answer == ANSWER_AGAIN && ++capacity->retries <= RETRIES_MAX;
    if (answer == ANSWER_GOOD && !capacity->again)
        capacity_take(capacity, task);
    else if (answer != ANSWER_GOOD && !again)
        log_warning("the storage server does not tell the volume's size (%s)", error_name(-number));
    again |= capacity->again;
    capacity->again = false;
    scsi_free_scsi_task(task);
    if (again)
        capacity_send(capacity);
}

void capacity_init(struct capacity *capacity, struct initiator *initiator,
                   void (*known)(void *context, uint64_t size_bytes), void *context)
{
    *capacity = (struct capacity){.initiator = initiator, .known = known, .context = context};
}

void capacity_ask(struct capacity *capacity)
{
    if (capacity->task) {
        capacity->again = true;
        return;
    }
    capacity->retries = 0;
    capacity_send(capacity);
}

void capacity_lost(struct capacity *capacity)
{
    capacity->again = false;
    if (capacity->task)
        scsi_free_scsi_task(TAKE_PTR(capacity->task));
}
