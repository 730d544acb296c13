/*
 * What the target's answer to a SCSI command means for the request behind it. The one place of the device
 * that reads SCSI status and sense (SAM-5 section 5.3, SPC-5 section 4.4).
 */
#pragma once

#include <stdbool.h>

struct scsi_task;

enum answer {
    ANSWER_GOOD,
    ANSWER_AGAIN, /* send it again at once: a unit attention told us something, nothing was carried out */
    ANSWER_LATER, /* send it again after a pause: the target is busy */
    ANSWER_LOST,  /* the session is gone: send it again on the one that reinstates it */
    ANSWER_ERROR, /* the target's last word: *ret_errno, positive */
};

/* status: enum scsi_status as libiscsi's callback has it; task may be NULL where the session was lost. */
enum answer answer_classify(int status, const struct scsi_task *task, int *ret_errno);

/* Whether it is the unit attention CAPACITY DATA HAS CHANGED (SPC-5, table 44). */
bool answer_tells_capacity(int status, const struct scsi_task *task);
