/*
 * MODE SENSE 6 and 10 (SPC-5 sections 6.14, 6.15): the Caching page (08h, SBC-4 section 6.5.6) and the
 * Control page (0Ah). Nothing can be changed, so there is no MODE SELECT. Answered from memory, on the
 * session's loop.
 */
#include <string.h>

#include "common/bytes.h"
#include "datapath/scsi/command.h"

#define MODE_ALL_PAGES 0x3f

enum mode_control { MODE_CURRENT = 0, MODE_CHANGEABLE = 1, MODE_DEFAULT = 2, MODE_SAVED = 3 };

static bool mode_sense_parse(struct scsi_task *task, size_t allocation_length)
{
    uint8_t page = task->cdb[2] & 0x3f;
    uint8_t subpage = task->cdb[3];

    if (task->cdb[2] >> 6 == MODE_SAVED) {
        sense_set(task, SENSE_ILLEGAL_REQUEST, 0x3900); /* SAVING PARAMETERS NOT SUPPORTED */
        return false;
    }
    if (page != 0x08 && page != 0x0a && page != MODE_ALL_PAGES)
        return command_refuse(task, SENSE_INVALID_FIELD_IN_CDB);
    if (subpage != 0x00 && subpage != 0xff)
        return command_refuse(task, SENSE_INVALID_FIELD_IN_CDB);
    return command_expect_data_in(task, allocation_length);
}

bool mode_sense6_parse(struct scsi_task *task)
{
    return mode_sense_parse(task, task->cdb[4]);
}

bool mode_sense10_parse(struct scsi_task *task)
{
    return mode_sense_parse(task, get_be16(&task->cdb[7]));
}

static size_t mode_put_caching(const struct scsi_task *task, uint8_t *page, enum mode_control control)
{
    memset(page, 0, 20);
    page[0] = 0x08;
    page[1] = 18;
    if (control != MODE_CHANGEABLE && !task->nexus->write_through)
        page[2] = 0x04; /* WCE: what is answered is stable only after a flush */
    return 20;
}

static size_t mode_put_control(uint8_t *page)
{
    memset(page, 0, 12);
    page[0] = 0x0a;
    page[1] = 10;
    return 12;
}

/* Short (8 bytes) or long (16, LLBAA) descriptor of the unit's blocks. */
static size_t mode_put_descriptor(const struct scsi_unit *unit, uint8_t *data, bool is_long)
{
    memset(data, 0, 16);
    if (is_long) {
        put_be64(&data[0], unit->blocks);
        put_be32(&data[12], unit->block_size_bytes);
        return 16;
    }
    put_be32(&data[0], unit->blocks > UINT32_MAX ? UINT32_MAX : (uint32_t)unit->blocks);
    put_be32(&data[4], unit->block_size_bytes); /* a 24-bit field; its high byte is zero */
    return 8;
}

void mode_sense_execute(struct scsi_task *task)
{
    uint8_t data[64] = {0};
    bool ten = task->cdb[0] == 0x5a;
    bool is_long = ten && task->cdb[1] & 0x10;
    uint8_t page = task->cdb[2] & 0x3f;
    enum mode_control control = (enum mode_control)(task->cdb[2] >> 6);
    size_t header = ten ? 8 : 4, length = header, descriptor = 0;

    if (!(task->cdb[1] & 0x08)) /* DBD */
        length += descriptor = mode_put_descriptor(task->nexus->unit, &data[length], is_long);
    if (page == 0x08 || page == MODE_ALL_PAGES)
        length += mode_put_caching(task, &data[length], control);
    if (page == 0x0a || page == MODE_ALL_PAGES)
        length += mode_put_control(&data[length]);

    uint8_t specific = 0x10 | (task->nexus->read_only ? 0x80 : 0); /* DPOFUA, WP */
    if (ten) {
        put_be16(&data[0], (uint16_t)(length - 2));
        data[3] = specific;
        data[4] = is_long;
        put_be16(&data[6], (uint16_t)descriptor);
    } else {
        data[0] = (uint8_t)(length - 1);
        data[2] = specific;
        data[3] = (uint8_t)descriptor;
    }
    command_answer_data(task, data, length);
}
