/*
 * WRITE SAME 10 and 16 (SBC-4 sections 5.49, 5.51). A block of zeroes, the usual one, becomes zeroing or,
 * with UNMAP, deallocation; any other block is written over and over from a buffer of its own. Runs on the
 * session's loop.
 */
#include <stdlib.h>
#include <string.h>

#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/size.h"
#include "datapath/scsi/command.h"

#define WRITE_SAME_BUFFER (64u * 1024)

#define WRITE_SAME_NDOB 0x01
#define WRITE_SAME_UNMAP 0x08
#define WRITE_SAME_ANCHOR 0x10

static void write_same_zeroes_done(struct image_io *io, int result);
static void write_same_pattern(struct scsi_task *task);
static void write_same_pattern_next(struct scsi_task *task);
static void write_same_pattern_next_done(struct image_io *io, int result);

static bool write_same_ndob(const struct scsi_task *task)
{
    return task->cdb[0] == 0x93 && task->cdb[1] & WRITE_SAME_NDOB;
}

bool write_same_parse(struct scsi_task *task)
{
    const uint8_t *cdb = task->cdb;
    bool sixteen = cdb[0] == 0x93;
    uint64_t lba = sixteen ? get_be64(&cdb[2]) : get_be32(&cdb[2]);
    uint64_t blocks = sixteen ? get_be32(&cdb[10]) : get_be16(&cdb[7]);
    uint32_t block_size_bytes = task->nexus->unit->block_size_bytes;

    /* WRPROTECT, and the obsolete PBDATA and LBDATA; NDOB exists in the 16-byte command only. */
    if (cdb[1] & (0xe0 | 0x06 | (sixteen ? 0 : WRITE_SAME_NDOB)))
        return command_refuse(task, SENSE_INVALID_FIELD_IN_CDB);
    if (cdb[1] & WRITE_SAME_ANCHOR && !(cdb[1] & WRITE_SAME_UNMAP && task->nexus->unit->thick))
        return command_refuse(task, SENSE_INVALID_FIELD_IN_CDB);
    if (blocks == 0 ||
        blocks > COMMAND_WRITE_SAME_BYTES_MAX / block_size_bytes) /* VPD B0: WSNZ and the maximum */
        return command_refuse(task, SENSE_INVALID_FIELD_IN_CDB);
    if (!command_set_range(task, lba, blocks))
        return false;
    if (!write_same_ndob(task)) {
        task->direction = SCSI_DATA_OUT;
        task->transfer_length = block_size_bytes;
    }
    return true;
}

static bool write_same_is_zero(const uint8_t *data, size_t length)
{
    return data[0] == 0 && memcmp(data, data + 1, length - 1) == 0;
}

uint64_t write_same_repeated_bytes(const struct scsi_task *task)
{
    uint32_t block_size_bytes = task->nexus->unit->block_size_bytes;

    if (write_same_ndob(task) || task->data_size < block_size_bytes ||
        write_same_is_zero(task->data, block_size_bytes))
        return 0;
    return task->blocks * block_size_bytes;
}

void write_same_execute(struct scsi_task *task)
{
    uint32_t block_size_bytes = task->nexus->unit->block_size_bytes;
    bool unmap = task->cdb[1] & WRITE_SAME_UNMAP;

    if (!write_same_ndob(task)) {
        if (task->data_size < block_size_bytes) {
            sense_set(task, SENSE_ILLEGAL_REQUEST, SENSE_INVALID_FIELD_IN_CDB);
            command_answer(task);
            return;
        }
        if (!write_same_is_zero(task->data, block_size_bytes)) {
            write_same_pattern(task);
            return;
        }
    }
    task->io.verb = unmap ? IMAGE_UNMAP : IMAGE_WRITE_ZEROES;
    task->io.allocate = !unmap;
    task->io.fua = command_fua(task, false);
    task->io.offset = task->lba * block_size_bytes;
    task->io.length = task->blocks * block_size_bytes;
    command_submit(task, write_same_zeroes_done);
}

static void write_same_zeroes_done(struct image_io *io, int result)
{
    struct scsi_task *task = container_of(io, struct scsi_task, io);

    sense_from_result(task, result, true);
    task->done(task);
}

static void write_same_pattern(struct scsi_task *task)
{
    uint32_t block_size_bytes = task->nexus->unit->block_size_bytes;

    task->pattern = aligned_alloc(IMAGE_ALIGN, WRITE_SAME_BUFFER);
    if (!task->pattern) {
        task->status = SCSI_TASK_SET_FULL;
        command_answer(task);
        return;
    }
    for (size_t at = 0; at < WRITE_SAME_BUFFER; at += block_size_bytes)
        memcpy((uint8_t *)task->pattern + at, task->data, block_size_bytes);
    write_same_pattern_next(task);
}

static void write_same_pattern_next(struct scsi_task *task)
{
    uint32_t block_size_bytes = task->nexus->unit->block_size_bytes;
    uint64_t left = task->blocks * block_size_bytes - task->written;

    task->io.verb = IMAGE_WRITE;
    task->io.fua = command_fua(task, false);
    task->io.offset = task->lba * block_size_bytes + task->written;
    task->io.length = MIN(left, (uint64_t)WRITE_SAME_BUFFER);
    task->io.iov = (struct iovec){.iov_base = task->pattern, .iov_len = task->io.length};
    command_submit(task, write_same_pattern_next_done);
}

static void write_same_pattern_next_done(struct image_io *io, int result)
{
    struct scsi_task *task = container_of(io, struct scsi_task, io);

    task->written += io->length;
    if (!result && task->written < task->blocks * task->nexus->unit->block_size_bytes) {
        write_same_pattern_next(task);
        return;
    }
    free(TAKE_PTR(task->pattern));
    sense_from_result(task, result, true);
    task->done(task);
}
