/* Sense data in fixed format, and the mapping of result codes to it. Pure; called from any loop. */
#include "datapath/scsi/sense.h"

#include <errno.h>
#include <string.h>

#include "common/bytes.h"

void sense_set(struct scsi_task *task, enum sense_key key, uint16_t asc_ascq)
{
    memset(task->sense, 0, sizeof(task->sense));
    task->sense[0] = 0x70; /* current, fixed format */
    task->sense[2] = (uint8_t)key;
    task->sense[7] = SCSI_SENSE_LENGTH - 8;
    put_be16(&task->sense[12], asc_ascq);
    task->sense_length = SCSI_SENSE_LENGTH;
    task->status = SCSI_CHECK_CONDITION;
    task->data_in_length = 0;
}

void sense_from_result(struct scsi_task *task, int result, bool write)
{
    switch (result) {
    case E_OK:
        task->status = SCSI_GOOD;
        return;
    case E_NO_SPACE: /* SBC-4, section 4.7.3.6: the initiator may try again when there is space */
        if (task->nexus->unit->refused)
            atomic_fetch_add_explicit(task->nexus->unit->refused, 1, memory_order_relaxed);
        sense_set(task, SENSE_DATA_PROTECT, SENSE_SPACE_ALLOCATION_FAILED);
        return;
    case E_READ_ONLY:
        sense_set(task, SENSE_DATA_PROTECT, SENSE_WRITE_PROTECTED);
        return;
    case E_OUT_OF_RANGE:
        sense_set(task, SENSE_ILLEGAL_REQUEST, SENSE_LBA_OUT_OF_RANGE);
        return;
    case -ENOMEM:
    case -EAGAIN:
    case -EBUSY: /* ours, not the disk's: it goes away */
        task->status = SCSI_TASK_SET_FULL;
        return;
    case -ECANCELED:
        task->status = SCSI_TASK_ABORTED;
        return;
    default: /* E_WRITE_FAILED and whatever the disk said */
        sense_set(task, SENSE_MEDIUM_ERROR, write ? SENSE_WRITE_ERROR : SENSE_READ_ERROR);
    }
}
