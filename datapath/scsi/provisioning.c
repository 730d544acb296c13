/*
 * UNMAP (SBC-4 section 5.35) and GET LBA STATUS (section 5.6). Runs on the session's loop; extents are asked
 * for on an offload thread, because that blocks.
 */
#include "common/bytes.h"
#include "common/cleanup.h"
#include "common/size.h"
#include "datapath/scsi/command.h"

#define UNMAP_ANCHOR 0x01
#define UNMAP_HEADER 8u
#define UNMAP_DESCRIPTOR 16u
#define STATUS_EXTENTS_MAX 64u

static void provisioning_unmap_next(struct scsi_task *task);
static void provisioning_unmap_next_done(struct image_io *io, int result);
static int provisioning_status_work(struct loop_work *work);
static void provisioning_status_done(struct loop_op *op, int res, unsigned flags);

enum lba_status { LBA_MAPPED, LBA_DEALLOCATED, LBA_ANCHORED }; /* PROVISIONING STATUS */

/* ---- UNMAP: all descriptors are checked before the first is carried out ---- */

bool provisioning_unmap_parse(struct scsi_task *task)
{
    uint16_t length = get_be16(&task->cdb[7]);

    if (task->cdb[1] & UNMAP_ANCHOR && !task->nexus->unit->thick) /* a thin unit has no anchored state */
        return command_refuse(task, SENSE_INVALID_FIELD_IN_CDB);
    if (length > SCSI_CONTROL_DATA_MAX)
        return command_refuse(task, SENSE_PARAMETER_LIST_LENGTH);
    if (length && length < UNMAP_HEADER)
        return command_refuse(task, SENSE_PARAMETER_LIST_LENGTH);
    task->transfer_length = length;
    task->direction = length ? SCSI_DATA_OUT : SCSI_NO_DATA;
    return true;
}

static const uint8_t *provisioning_unmap_descriptor(const struct scsi_task *task, unsigned index)
{
    return (const uint8_t *)task->data + UNMAP_HEADER + index * UNMAP_DESCRIPTOR;
}

/* The number of descriptors in the list, or false with sense set. A list that was cut short does nothing. */
static bool provisioning_unmap_check(struct scsi_task *task, unsigned *ret_count)
{
    const struct scsi_unit *unit = task->nexus->unit;
    unsigned count;

    if (task->data_size < UNMAP_HEADER) {
        *ret_count = 0;
        return true;
    }
    count = get_be16((const uint8_t *)task->data + 2) / UNMAP_DESCRIPTOR;
    count = MIN(count, (unsigned)((task->data_size - UNMAP_HEADER) / UNMAP_DESCRIPTOR));
    if (count > COMMAND_UNMAP_DESCRIPTORS_MAX)
        return command_refuse(task, SENSE_INVALID_FIELD_IN_PARAMETERS);
    for (unsigned i = 0; i < count; i++) {
        const uint8_t *descriptor = provisioning_unmap_descriptor(task, i);
        uint32_t blocks = get_be32(&descriptor[8]);

        if (!size_range_fits(get_be64(descriptor), blocks, unit->blocks))
            return command_refuse(task, SENSE_LBA_OUT_OF_RANGE);
        if (blocks > COMMAND_UNMAP_BYTES_MAX / unit->block_size_bytes)
            return command_refuse(task, SENSE_INVALID_FIELD_IN_PARAMETERS);
    }
    *ret_count = count;
    return true;
}

void provisioning_unmap_execute(struct scsi_task *task)
{
    unsigned count = 0;

    if (!provisioning_unmap_check(task, &count) || count == 0) {
        command_answer(task);
        return;
    }
    task->blocks = count;
    task->step = 0;
    provisioning_unmap_next(task);
}

static void provisioning_unmap_next(struct scsi_task *task)
{
    const uint8_t *descriptor = provisioning_unmap_descriptor(task, task->step++);
    uint32_t block_size_bytes = task->nexus->unit->block_size_bytes;

    task->io.verb = IMAGE_UNMAP;
    task->io.fua = command_fua(task, false);
    task->io.offset = get_be64(descriptor) * block_size_bytes;
    task->io.length = (uint64_t)get_be32(&descriptor[8]) * block_size_bytes;
    command_submit(task, provisioning_unmap_next_done);
}

static void provisioning_unmap_next_done(struct image_io *io, int result)
{
    struct scsi_task *task = container_of(io, struct scsi_task, io);

    if (!result && task->step < task->blocks) {
        provisioning_unmap_next(task);
        return;
    }
    sense_from_result(task, result, true);
    task->done(task);
}

/* ---- GET LBA STATUS ---- */

bool provisioning_status_parse(struct scsi_task *task)
{
    uint64_t lba = get_be64(&task->cdb[2]);

    if (lba >= task->nexus->unit->blocks)
        return command_refuse(task, SENSE_LBA_OUT_OF_RANGE);
    task->lba = lba;
    return command_expect_data_in(task, get_be32(&task->cdb[10]));
}

void provisioning_status_execute(struct scsi_task *task)
{
    task->work.work = provisioning_status_work;
    task->work.op.done = provisioning_status_done;
    loop_offload(task->loop, &task->work);
}

/* Fill descriptors until the unit, the room or the bound ends; returns how many, or a result code as a
 * negative. */
static int provisioning_status_work(struct loop_work *work)
{
    struct scsi_task *task = container_of(work, struct scsi_task, work);
    const struct scsi_unit *unit = task->nexus->unit;
    uint64_t block_size_bytes = unit->block_size_bytes, lba = task->lba;
    enum lba_status unmapped = unit->thick ? LBA_ANCHORED : LBA_DEALLOCATED;
    uint8_t *data = task->data;
    size_t room = MIN(task->data_size, task->transfer_length);
    unsigned count = 0;

    while (count < STATUS_EXTENTS_MAX && 8 + 16 * (count + 1) <= room && lba < unit->blocks) {
        uint8_t *descriptor = &data[8 + 16 * count];
        uint64_t length, left = MIN(unit->blocks - lba, (uint64_t)UINT32_MAX);
        bool mapped;

        int r = image_extent(unit->image, lba * block_size_bytes, left * block_size_bytes, &mapped, &length);
        if (r)
            return r < 0 ? r : -EIO;
        uint64_t blocks = MAX(length / block_size_bytes, UINT64_C(1));
        put_be64(&descriptor[0], lba);
        put_be32(&descriptor[8], (uint32_t)blocks);
        put_be32(&descriptor[12], (uint32_t)(mapped ? LBA_MAPPED : unmapped) << 24);
        lba += blocks;
        count++;
    }
    return (int)count;
}

static void provisioning_status_done(struct loop_op *op, int res, unsigned flags)
{
    struct scsi_task *task = container_of(container_of(op, struct loop_work, op), struct scsi_task, work);
    size_t room = MIN(task->data_size, task->transfer_length);

    (void)flags;
    if (res < 0) {
        sense_from_result(task, res, false);
    } else if (room >= 8) {
        put_be32(task->data, 4 + 16 * (uint32_t)res);
        put_be32((uint8_t *)task->data + 4, 0);
        task->data_in_length = 8 + 16 * (size_t)res;
    }
    task->done(task);
}
