/* SCSI status and sense to what the device does next. Pure; called by requests.c, identify.c. */
#include "datapath/device/answer.h"

#include <errno.h>
#include <stddef.h>
#include <stdint.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

#define ASCQ_SPACE_ALLOCATION_FAILED 0x2707 /* SBC-4, section 4.7.3.6 */
#define ASCQ_CAPACITY_DATA_HAS_CHANGED 0x2a09

static enum answer sense_classify(const struct scsi_sense *sense, int *ret_errno)
{
    *ret_errno = EIO;
    switch ((int)sense->key) {
    case SCSI_SENSE_NO_SENSE:
    case 0x01: /* RECOVERED ERROR */
        return ANSWER_GOOD;
    case SCSI_SENSE_UNIT_ATTENTION:
        return ANSWER_AGAIN;
    case SCSI_SENSE_NOT_READY:
    case SCSI_SENSE_COMMAND_ABORTED:
        return ANSWER_LATER;
    case SCSI_SENSE_DATA_PROTECTION:
        if (sense->ascq == ASCQ_SPACE_ALLOCATION_FAILED)
            *ret_errno = ENOSPC;
        return ANSWER_ERROR;
    case SCSI_SENSE_ILLEGAL_REQUEST:
        if (sense->ascq == SCSI_SENSE_ASCQ_INVALID_OPERATION_CODE)
            *ret_errno = EOPNOTSUPP;
        return ANSWER_ERROR;
    default: /* MEDIUM ERROR, HARDWARE ERROR, and what no block device should say */
        return ANSWER_ERROR;
    }
}

enum answer answer_classify(int status, const struct scsi_task *task, int *ret_errno)
{
    *ret_errno = EIO;
    switch (status) {
    case SCSI_STATUS_GOOD:
    case SCSI_STATUS_CONDITION_MET:
        return ANSWER_GOOD;
    case SCSI_STATUS_CHECK_CONDITION:
        return task ? sense_classify(&task->sense, ret_errno) : ANSWER_LOST;
    case SCSI_STATUS_BUSY:
    case SCSI_STATUS_TASK_SET_FULL:
    case SCSI_STATUS_ACA_ACTIVE:
        return ANSWER_LATER;
    case SCSI_STATUS_TASK_ABORTED:
        return ANSWER_AGAIN;
    case SCSI_STATUS_RESERVATION_CONFLICT:
        return ANSWER_ERROR;
    default: /* cancelled, error, timeout: libiscsi's own, the session cannot be trusted any more */
        return ANSWER_LOST;
    }
}

bool answer_tells_capacity(int status, const struct scsi_task *task)
{
    return status == SCSI_STATUS_CHECK_CONDITION && task && task->sense.key == SCSI_SENSE_UNIT_ATTENTION &&
           task->sense.ascq == ASCQ_CAPACITY_DATA_HAS_CHANGED;
}
