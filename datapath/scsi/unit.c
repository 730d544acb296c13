/*
 * What the unit is and how it feels: TEST UNIT READY, REQUEST SENSE, REPORT LUNS (SPC-5), READ CAPACITY 10
 * and 16 (SBC-4 sections 5.20, 5.21). Answered from memory, on the session's loop.
 */
#include <string.h>

#include "common/bytes.h"
#include "datapath/scsi/command.h"

bool unit_ready_parse(struct scsi_task *task)
{
    (void)task;
    return true;
}

void unit_ready_execute(struct scsi_task *task)
{
    command_answer(task);
}

/* ---- REPORT LUNS ---- */

bool unit_luns_parse(struct scsi_task *task)
{
    uint8_t select = task->cdb[2];

    /* 00h logical units, 01h well known ones (we have none), 02h both. */
    if (select > 0x02)
        return command_refuse(task, SENSE_INVALID_FIELD_IN_CDB);
    return command_expect_data_in(task, get_be32(&task->cdb[6]));
}

void unit_luns_execute(struct scsi_task *task)
{
    uint8_t data[16] = {0};
    bool listed = task->nexus->unit && task->cdb[2] != 0x01;

    put_be32(&data[0], listed ? 8 : 0);
    command_answer_data(task, data, listed ? 16 : 8);
}

/* ---- REQUEST SENSE ---- */

bool unit_sense_parse(struct scsi_task *task)
{
    if (task->cdb[1] & 0x01) /* DESC: descriptor format is not supported */
        return command_refuse(task, SENSE_INVALID_FIELD_IN_CDB);
    return command_expect_data_in(task, task->cdb[4]);
}

/* The sense is the command's data here, not its status. */
void unit_sense_execute(struct scsi_task *task)
{
    uint8_t data[SCSI_SENSE_LENGTH];

    if (task->lun != 0 || !task->nexus->unit)
        sense_set(task, SENSE_ILLEGAL_REQUEST, SENSE_LUN_NOT_SUPPORTED);
    else if (!command_take_attention(task))
        sense_set(task, SENSE_NO_SENSE, SENSE_NO_ADDITIONAL);
    memcpy(data, task->sense, sizeof(data));
    task->status = SCSI_GOOD;
    task->sense_length = 0;
    command_answer_data(task, data, sizeof(data));
}

/* ---- READ CAPACITY ---- */

bool unit_capacity10_parse(struct scsi_task *task)
{
    return command_expect_data_in(task, 8);
}

void unit_capacity10_execute(struct scsi_task *task)
{
    const struct scsi_unit *unit = task->nexus->unit;
    uint64_t last = unit->blocks - 1;
    uint8_t data[8];

    put_be32(&data[0], last > UINT32_MAX ? UINT32_MAX : (uint32_t)last);
    put_be32(&data[4], unit->block_size_bytes);
    command_answer_data(task, data, sizeof(data));
}

bool unit_capacity16_parse(struct scsi_task *task)
{
    return command_expect_data_in(task, get_be32(&task->cdb[10]));
}

/* log2 of logical blocks in the 4 KiB that the pool's file system allocates by. */
static uint8_t unit_physical_exponent(const struct scsi_unit *unit)
{
    uint8_t exponent = 0;

    while (unit->block_size_bytes << exponent < 4096)
        exponent++;
    return exponent;
}

void unit_capacity16_execute(struct scsi_task *task)
{
    const struct scsi_unit *unit = task->nexus->unit;
    uint8_t data[32] = {0};

    put_be64(&data[0], unit->blocks - 1);
    put_be32(&data[8], unit->block_size_bytes);
    data[13] = unit_physical_exponent(unit);
    data[14] = 0xc0; /* LBPME: it takes UNMAP; LBPRZ: what is not mapped reads as zeroes */
    command_answer_data(task, data, sizeof(data));
}
