/* A request's next SCSI command: how long it is and its CDB (SBC-4). Pure, but for the task's memory. */
#pragma once

#include "datapath/device/requests.h"

/* Set request->piece and return the task, with request->iov in it; NULL when memory ran out. zeroes: one
 * block. *ret_errno: 0, or EOPNOTSUPP where the target cannot do it at all (and NULL is returned). */
struct scsi_task *request_command_next(struct request *request, const struct volume_limits *limits,
                                       void *zeroes, int *ret_errno);
