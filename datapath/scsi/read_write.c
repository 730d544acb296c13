/*
 * READ and WRITE (6, 10, 12, 16) and SYNCHRONIZE CACHE (10, 16): SBC-4 sections 5.13
 * to 5.16, 5.25, 5.26, 5.42 to 5.45. Runs on the session's loop; the image does the I/O.
 */
#include "common/bytes.h"
#include "common/cleanup.h"
#include "datapath/scsi/command.h"

static void read_write_read_done(struct image_io *io, int result);
static void read_write_write_done(struct image_io *io, int result);
static void read_write_sync_done(struct image_io *io, int result);

/* The range by the CDB's length; false for a protection field we do not have. */
static bool read_write_range(struct scsi_task *task, uint64_t *ret_lba, uint64_t *ret_blocks)
{
    const uint8_t *cdb = task->cdb;
    uint8_t group = cdb[0] >> 5; /* SPC-5, section 4.2.5.1: the CDB's length */

    if (group == 0) {
        *ret_lba = get_be24(&cdb[1]) & 0x1fffff;
        *ret_blocks = cdb[4] ? cdb[4] : 256;
        return true;
    }
    if (cdb[1] & 0xe0) /* RDPROTECT, WRPROTECT */
        return command_refuse(task, SENSE_INVALID_FIELD_IN_CDB);
    if (group == 4) {
        *ret_lba = get_be64(&cdb[2]);
        *ret_blocks = get_be32(&cdb[10]);
    } else {
        *ret_lba = get_be32(&cdb[2]);
        *ret_blocks = group == 5 ? get_be32(&cdb[6]) : get_be16(&cdb[7]);
    }
    return true;
}

static bool read_write_parse(struct scsi_task *task, enum scsi_direction direction)
{
    uint64_t lba = 0, blocks = 0;

    if (!read_write_range(task, &lba, &blocks) || !command_set_range(task, lba, blocks))
        return false;
    if (blocks > SCSI_TRANSFER_MAX / task->nexus->unit->block_size_bytes)
        return command_refuse(task, SENSE_INVALID_FIELD_IN_CDB);
    task->transfer_length = blocks * task->nexus->unit->block_size_bytes;
    task->direction = blocks ? direction : SCSI_NO_DATA;
    return true;
}

static bool read_write_fua_bit(const struct scsi_task *task)
{
    return task->cdb[0] >> 5 != 0 && task->cdb[1] & 0x08;
}

/* The whole blocks that the caller has room or data for; false when that is none. */
static bool read_write_prepare(struct scsi_task *task, enum image_verb verb)
{
    uint32_t block_size_bytes = task->nexus->unit->block_size_bytes;
    uint64_t length = task->data_size < task->transfer_length ? task->data_size : task->transfer_length;

    task->io.verb = verb;
    task->io.fua = verb == IMAGE_WRITE && command_fua(task, read_write_fua_bit(task));
    task->io.offset = task->lba * block_size_bytes;
    task->io.length = length / block_size_bytes * block_size_bytes;
    task->io.iov = (struct iovec){.iov_base = task->data, .iov_len = task->io.length};
    return task->io.length != 0;
}

/* ---- READ ---- */

bool read_write_read_parse(struct scsi_task *task)
{
    return read_write_parse(task, SCSI_DATA_IN);
}

void read_write_read_execute(struct scsi_task *task)
{
    if (read_write_prepare(task, IMAGE_READ))
        command_submit(task, read_write_read_done);
    else
        command_answer(task);
}

static void read_write_read_done(struct image_io *io, int result)
{
    struct scsi_task *task = container_of(io, struct scsi_task, io);

    if (!result)
        task->data_in_length = io->length;
    else
        sense_from_result(task, result, false);
    task->done(task);
}

/* ---- WRITE ---- */

bool read_write_write_parse(struct scsi_task *task)
{
    return read_write_parse(task, SCSI_DATA_OUT);
}

void read_write_write_execute(struct scsi_task *task)
{
    if (read_write_prepare(task, IMAGE_WRITE))
        command_submit(task, read_write_write_done);
    else
        command_answer(task);
}

static void read_write_write_done(struct image_io *io, int result)
{
    struct scsi_task *task = container_of(io, struct scsi_task, io);

    sense_from_result(task, result, true);
    task->done(task);
}

/* ---- SYNCHRONIZE CACHE: the whole volume, whatever the range; IMMED is answered late, never early ---- */

bool read_write_sync_parse(struct scsi_task *task)
{
    const uint8_t *cdb = task->cdb;

    if (cdb[0] == 0x91)
        return command_set_range(task, get_be64(&cdb[2]), get_be32(&cdb[10]));
    return command_set_range(task, get_be32(&cdb[2]), get_be16(&cdb[7]));
}

void read_write_sync_execute(struct scsi_task *task)
{
    task->io.verb = IMAGE_FLUSH;
    task->io.fua = false;
    task->io.offset = 0;
    task->io.length = 0;
    command_submit(task, read_write_sync_done);
}

static void read_write_sync_done(struct image_io *io, int result)
{
    struct scsi_task *task = container_of(io, struct scsi_task, io);

    sense_from_result(task, result, true);
    task->done(task);
}
