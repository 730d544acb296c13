/*
 * TEST UNIT READY, READ CAPACITY(16), VPD pages 00, 80, B0, B2, C0, one after the other. Owns its one task.
 * Runs on the device's loop; called by device.c at each login.
 */
#include "datapath/device/identify.h"

#include <stddef.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "datapath/device/answer.h"
#include "datapath/device/boot_id.h"

#define DATA_MAX 255
#define RETRIES_MAX 200
#define PAUSE_MS 50u
#define TRANSFER_MAX (1024u * 1024)           /* of one command of ours, whatever the target would take */
#define SAME_MAX (UINT64_C(64) * 1024 * 1024) /* where the target names no limit */

static void identify_send(struct identify *identify);
static void identify_send_done(struct iscsi_context *iscsi, int status, void *data, void *private_data);

static uint32_t get_u32(const uint8_t *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

static uint64_t get_u64(const uint8_t *at)
{
    return (uint64_t)get_u32(at) << 32 | get_u32(at + 4);
}

/* ---- pages: SPC-5 section 7.7.18; SBC-4 sections 5.20, 6.6.4, 6.6.7; SPC-5 section 7.7.16 ---- */

bool identify_parse_capacity(const uint8_t *data, size_t length, struct volume_limits *limits)
{
    if (length < 12)
        return false;
    uint64_t blocks = get_u64(data) + 1;
    limits->block_size_bytes = get_u32(data + 8);
    if (limits->block_size_bytes == 0 || blocks == 0 || blocks > UINT64_MAX / limits->block_size_bytes)
        return false;
    limits->size_bytes = blocks * limits->block_size_bytes;
    limits->transfer_max_bytes = TRANSFER_MAX;
    return true;
}

bool identify_is_volume(const uint8_t *page, size_t length, const char *volume_id)
{
    size_t id_length = strlen(volume_id);
    return length >= 4 && page[1] == 0x80 && (size_t)(page[2] << 8 | page[3]) == id_length &&
           length >= 4 + id_length && memcmp(page + 4, volume_id, id_length) == 0;
}

void identify_parse_limits(const uint8_t *page, size_t length, struct volume_limits *limits)
{
    if (length < 12 || page[1] != 0xB0)
        return;
    uint64_t block_size = limits->block_size_bytes;
    uint64_t transfer_max = get_u32(page + 8) * block_size;
    if (transfer_max && transfer_max < TRANSFER_MAX)
        limits->transfer_max_bytes = (uint32_t)transfer_max;
    if (length >= 28)
        limits->unmap_max_bytes = get_u32(page + 24) ? get_u32(page + 20) * block_size : 0;
    if (length >= 44 && get_u64(page + 36))
        limits->same_max_bytes = MIN(get_u64(page + 36), SAME_MAX / block_size) * block_size;
}

void identify_parse_provisioning(const uint8_t *page, size_t length, struct volume_limits *limits)
{
    bool known = length >= 6 && page[1] == 0xB2;
    bool unmaps = known && (page[5] & 0x80), same_unmaps = known && (page[5] & 0x40);
    bool zeroes = known && (page[5] & 0x1c) == 0x04; /* LBPRZ: what is unmapped reads as zeroes */
    if (!unmaps || !zeroes)
        limits->unmap_max_bytes = 0;
    limits->same_unmaps = same_unmaps;
}

static void parse_pages(struct identify *identify, const uint8_t *page, size_t length)
{
    for (size_t i = 4; i < length; i++) {
        identify->has_serial_page |= page[i] == 0x80;
        identify->has_limits_page |= page[i] == 0xB0;
        identify->has_provisioning_page |= page[i] == 0xB2;
        identify->has_boot_id_page |= page[i] == BOOT_ID_PAGE;
    }
}

/* ---- the steps ---- */

static bool step_skipped(const struct identify *identify)
{
    /* Another's target numbers its units as it likes. */
    bool ours = identify->has_boot_id_page && identify->has_serial_page;
    return (identify->step == IDENTIFY_SERIAL && !ours) ||
           (identify->step == IDENTIFY_LIMITS && !identify->has_limits_page) ||
           (identify->step == IDENTIFY_PROVISIONING && !identify->has_provisioning_page) ||
           (identify->step == IDENTIFY_BOOT_ID && !identify->has_boot_id_page);
}

static struct scsi_task *inquiry(uint8_t page)
{
    uint8_t cdb[6] = {SCSI_OPCODE_INQUIRY, 1, page, 0, DATA_MAX, 0};
    return scsi_create_task(6, cdb, SCSI_XFER_READ, DATA_MAX);
}

static struct scsi_task *step_task(enum identify_step step)
{
    uint8_t ready[6] = {SCSI_OPCODE_TESTUNITREADY};
    uint8_t capacity[16] = {SCSI_OPCODE_SERVICE_ACTION_IN, SCSI_READCAPACITY16, [13] = 32};
    switch (step) {
    case IDENTIFY_READY:
        return scsi_create_task(6, ready, SCSI_XFER_NONE, 0);
    case IDENTIFY_CAPACITY:
        return scsi_create_task(16, capacity, SCSI_XFER_READ, 32);
    case IDENTIFY_PAGES:
        return inquiry(0x00);
    case IDENTIFY_SERIAL:
        return inquiry(0x80);
    case IDENTIFY_LIMITS:
        return inquiry(0xB0);
    case IDENTIFY_PROVISIONING:
        return inquiry(0xB2);
    case IDENTIFY_BOOT_ID:
        return inquiry(BOOT_ID_PAGE);
    case IDENTIFY_DONE:
        break;
    }
    return NULL;
}

/* NULL, or why the session cannot be used. */
static const char *step_take(struct identify *identify, const uint8_t *data, size_t length)
{
    const struct device_state *state = identify->initiator->state;
    struct volume_limits *limits = &identify->limits;
    switch (identify->step) {
    case IDENTIFY_READY:
    case IDENTIFY_DONE:
        break;
    case IDENTIFY_CAPACITY:
        if (!identify_parse_capacity(data, length, limits))
            return "READ CAPACITY(16) answered nonsense";
        if (limits->size_bytes < state->size_bytes || limits->block_size_bytes != state->block_size_bytes)
            return "the unit's size or block size is not the volume's";
        break;
    case IDENTIFY_PAGES:
        parse_pages(identify, data, length);
        limits->same_max_bytes = SAME_MAX;
        break;
    case IDENTIFY_SERIAL:
        if (!identify_is_volume(data, length, state->volume_id))
            return "the unit is another volume, by its serial number: nothing is sent to it";
        break;
    case IDENTIFY_LIMITS:
        identify_parse_limits(data, length, limits);
        break;
    case IDENTIFY_PROVISIONING:
        identify_parse_provisioning(data, length, limits);
        break;
    case IDENTIFY_BOOT_ID:
        if (!boot_id_parse(data, length, identify->boot_id))
            return "the boot id's page does not parse";
        break;
    }
    return NULL;
}

static void identify_next(struct identify *identify)
{
    do
        identify->step++;
    while (step_skipped(identify));
    if (identify->step != IDENTIFY_DONE) {
        identify_send(identify);
        return;
    }
    if (!identify->has_provisioning_page)
        identify_parse_provisioning(NULL, 0, &identify->limits);
    identify->limits.write_through = !identify->has_boot_id_page;
    if (identify->limits.write_through) /* elsewhere UNMAP is a hint: only WRITE SAME surely leaves zeroes */
        identify->limits.unmap_max_bytes = 0;
    identify->running = false;
    identify->done(identify->context, &identify->limits, identify->boot_id);
}

static void identify_send(struct identify *identify)
{
    identify->task = step_task(identify->step);
    if (identify->task && initiator_send(identify->initiator, identify->task, identify_send_done, identify))
        return;
    if (identify->task)
        scsi_free_scsi_task(TAKE_PTR(identify->task));
    initiator_drop(identify->initiator, "no memory to identify the unit");
}

static void pause_done(struct loop_op *op, int res, unsigned flags)
{
    (void)res;
    (void)flags;
    struct identify *identify = container_of(op, struct identify, pause);
    identify->pause_armed = false;
    if (!identify->running || identify->task)
        return;
    identify_send(identify);
    initiator_kick(identify->initiator);
}

static void identify_send_done(struct iscsi_context *iscsi, int status, void *data, void *private_data)
{
    (void)iscsi;
    (void)data;
    struct identify *identify = private_data;
    int number = 0;
    enum answer answer = answer_classify(status, identify->task, &number);
    if (answer == ANSWER_LOST) {
        initiator_drop(identify->initiator, "the connection was lost while the unit was identified");
        return;
    }
    struct scsi_task *task = TAKE_PTR(identify->task);
    if (answer == ANSWER_GOOD) {
        const char *why = step_take(identify, task->datain.data, (size_t)task->datain.size);
        if (why)
            initiator_drop(identify->initiator, why);
        else
            identify_next(identify);
    } else if (answer == ANSWER_ERROR || ++identify->retries > RETRIES_MAX) {
        initiator_drop(identify->initiator, "the unit refuses to be identified");
    } else if (answer == ANSWER_AGAIN) {
        identify_send(identify);
    } else if (!identify->pause_armed) {
        identify->pause_armed = true;
        loop_timeout(identify->initiator->loop, &identify->pause, PAUSE_MS);
    }
    scsi_free_scsi_task(task);
}

void identify_init(struct identify *identify, struct initiator *initiator,
                   void (*done)(void *context, const struct volume_limits *limits, const char *boot_id),
                   void *context)
{
    *identify = (struct identify){.initiator = initiator, .done = done, .context = context};
    identify->pause.done = pause_done;
}

void identify_start(struct identify *identify)
{
    identify->step = IDENTIFY_READY;
    identify->running = true;
    identify->retries = 0;
    identify->has_limits_page = identify->has_provisioning_page = false;
    identify->has_boot_id_page = identify->has_serial_page = false;
    identify->limits = (struct volume_limits){0};
    identify->boot_id[0] = '\0';
    identify_send(identify);
}

void identify_lost(struct identify *identify)
{
    identify->running = false;
    if (identify->task)
        scsi_free_scsi_task(TAKE_PTR(identify->task));
}
