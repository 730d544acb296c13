/*
 * The table of commands, and the checks that come before any of them (SAM-5 section 5.14, SPC-5 section 5.7):
 * logical unit, unit attention, opcode, write protection. Runs on the session's loop; called by
 * target/connection.
 */
#include "datapath/scsi/command.h"

#include <string.h>

#include "common/cleanup.h"
#include "common/size.h"

static const struct scsi_command commands[] = {
    {0x00, COMMAND_NO_ACTION, 0, unit_ready_parse, unit_ready_execute}, /* TEST UNIT READY */
    {0x03, COMMAND_NO_ACTION, COMMAND_ANY_LUN | COMMAND_KEEPS_ATTENTION, unit_sense_parse,
     unit_sense_execute}, /* REQUEST SENSE */
    {0x08, COMMAND_NO_ACTION, COMMAND_IS_READ, read_write_read_parse, read_write_read_execute}, /* READ(6) */
    {0x0a, COMMAND_NO_ACTION, COMMAND_IS_WRITE, read_write_write_parse,
     read_write_write_execute}, /* WRITE(6) */
    {0x12, COMMAND_NO_ACTION, COMMAND_ANY_LUN | COMMAND_KEEPS_ATTENTION, inquiry_parse, inquiry_execute},
    {0x1a, COMMAND_NO_ACTION, 0, mode_sense6_parse, mode_sense_execute},          /* MODE SENSE(6) */
    {0x25, COMMAND_NO_ACTION, 0, unit_capacity10_parse, unit_capacity10_execute}, /* READ CAPACITY(10) */
    {0x28, COMMAND_NO_ACTION, COMMAND_IS_READ, read_write_read_parse, read_write_read_execute}, /* READ(10) */
    {0x2a, COMMAND_NO_ACTION, COMMAND_IS_WRITE, read_write_write_parse,
     read_write_write_execute},                                                   /* WRITE(10) */
    {0x35, COMMAND_NO_ACTION, 0, read_write_sync_parse, read_write_sync_execute}, /* SYNCHRONIZE CACHE(10) */
    {0x41, COMMAND_NO_ACTION, COMMAND_IS_CHANGE | COMMAND_REPEATS, write_same_parse,
     write_same_execute}, /* WRITE SAME(10) */
    {0x42, COMMAND_NO_ACTION, COMMAND_IS_CHANGE, provisioning_unmap_parse,
     provisioning_unmap_execute},                                         /* UNMAP */
    {0x5a, COMMAND_NO_ACTION, 0, mode_sense10_parse, mode_sense_execute}, /* MODE SENSE(10) */
    {0x88, COMMAND_NO_ACTION, COMMAND_IS_READ, read_write_read_parse, read_write_read_execute}, /* READ(16) */
    {0x8a, COMMAND_NO_ACTION, COMMAND_IS_WRITE, read_write_write_parse,
     read_write_write_execute},                                                   /* WRITE(16) */
    {0x91, COMMAND_NO_ACTION, 0, read_write_sync_parse, read_write_sync_execute}, /* SYNCHRONIZE CACHE(16) */
    {0x93, COMMAND_NO_ACTION, COMMAND_IS_CHANGE | COMMAND_REPEATS, write_same_parse,
     write_same_execute},                                                    /* WRITE SAME(16) */
    {0x9e, 0x10, 0, unit_capacity16_parse, unit_capacity16_execute},         /* READ CAPACITY(16) */
    {0x9e, 0x12, 0, provisioning_status_parse, provisioning_status_execute}, /* GET LBA STATUS(16) */
    {0xa0, COMMAND_NO_ACTION, COMMAND_ANY_LUN | COMMAND_KEEPS_ATTENTION, unit_luns_parse,
     unit_luns_execute}, /* REPORT LUNS */
    {0xa8, COMMAND_NO_ACTION, COMMAND_IS_READ, read_write_read_parse, read_write_read_execute}, /* READ(12) */
    {0xaa, COMMAND_NO_ACTION, COMMAND_IS_WRITE, read_write_write_parse,
     read_write_write_execute}, /* WRITE(12) */
};

static bool command_find(struct scsi_task *task)
{
    bool opcode_known = false;

    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        if (commands[i].opcode != task->cdb[0])
            continue;
        opcode_known = true;
        if (commands[i].action == COMMAND_NO_ACTION || commands[i].action == (task->cdb[1] & 0x1f)) {
            task->command = &commands[i];
            return true;
        }
    }
    return command_refuse(task, opcode_known ? SENSE_INVALID_FIELD_IN_CDB : SENSE_INVALID_OPCODE);
}

bool command_take_attention(struct scsi_task *task)
{
    struct scsi_nexus *nexus = task->nexus;
    uint16_t code = nexus->unit_attention;

    if (code) {
        nexus->unit_attention = 0;
    } else if (nexus->unit && nexus->unit->blocks != nexus->blocks) { /* SBC-4, section 4.10 */
        nexus->blocks = nexus->unit->blocks;
        code = SENSE_CAPACITY_CHANGED;
    }
    if (!code)
        return false;
    sense_set(task, SENSE_UNIT_ATTENTION, code);
    return true;
}

/* A unit attention is reported once, in place of the first command that does not leave it alone. */
static bool command_attention(struct scsi_task *task)
{
    return task->command->flags & COMMAND_KEEPS_ATTENTION || !command_take_attention(task);
}

bool scsi_task_parse(struct scsi_task *task)
{
    task->direction = SCSI_NO_DATA;
    task->transfer_length = 0;
    task->status = SCSI_GOOD;
    task->sense_length = 0;
    task->data_in_length = 0;
    task->step = 0;
    task->pattern = NULL;
    task->written = 0;

    if (!command_find(task))
        return false;
    bool unit_there = task->lun == 0 && task->nexus->unit;
    if (!unit_there && !(task->command->flags & COMMAND_ANY_LUN))
        return command_refuse(task, SENSE_LUN_NOT_SUPPORTED);
    if (!command_attention(task))
        return false;
    if (task->command->flags & COMMAND_WRITES && task->nexus->read_only) {
        sense_set(task, SENSE_DATA_PROTECT, SENSE_WRITE_PROTECTED);
        return false;
    }
    if (task->command->parse(task))
        return true;
    task->direction = SCSI_NO_DATA;
    task->transfer_length = 0;
    return false;
}

bool scsi_task_limited(const struct scsi_task *task)
{
    return task->command->flags & COMMAND_OPERATION;
}

bool scsi_task_limited_by_data(const struct scsi_task *task)
{
    return task->command->flags & COMMAND_REPEATS && task->direction == SCSI_DATA_OUT;
}

uint64_t scsi_task_limited_bytes(const struct scsi_task *task)
{
    if (task->command->flags & COMMAND_REPEATS)
        return write_same_repeated_bytes(task);
    return task->command->flags & COMMAND_TRANSFERS ? task->transfer_length : 0;
}

void scsi_task_execute(struct scsi_task *task)
{
    task->command->execute(task);
}

void scsi_task_fail(struct scsi_task *task, uint8_t key, uint16_t asc_ascq)
{
    sense_set(task, (enum sense_key)key, asc_ascq);
}

bool command_refuse(struct scsi_task *task, enum sense_code code)
{
    sense_set(task, SENSE_ILLEGAL_REQUEST, (uint16_t)code);
    return false;
}

bool command_expect_data_in(struct scsi_task *task, size_t allocation_length)
{
    task->transfer_length = MIN(allocation_length, (size_t)SCSI_CONTROL_DATA_MAX);
    task->direction = task->transfer_length ? SCSI_DATA_IN : SCSI_NO_DATA;
    return true;
}

bool command_set_range(struct scsi_task *task, uint64_t lba, uint64_t blocks)
{
    if (!size_range_fits(lba, blocks, task->nexus->unit->blocks))
        return command_refuse(task, SENSE_LBA_OUT_OF_RANGE);
    task->lba = lba;
    task->blocks = blocks;
    return true;
}

static void command_answer_run(struct loop_message *message)
{
    struct scsi_task *task = container_of(message, struct scsi_task, answer);
    task->done(task);
}

void command_answer(struct scsi_task *task)
{
    task->answer.run = command_answer_run;
    loop_post(task->loop, &task->answer);
}

void command_answer_data(struct scsi_task *task, const void *data, size_t length)
{
    task->data_in_length = MIN(MIN(length, task->transfer_length), task->data_size);
    if (task->data_in_length)
        memcpy(task->data, data, task->data_in_length);
    command_answer(task);
}

void command_submit(struct scsi_task *task, void (*done)(struct image_io *io, int result))
{
    task->io.epoch = task->nexus->epoch;
    task->io.generation = task->nexus->generation;
    task->io.done = done;
    image_submit(task->nexus->unit->image, task->loop, &task->io);
}
