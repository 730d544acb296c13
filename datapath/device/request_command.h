/* A request's next SCSI command: how long it is and its CDB (SBC-4). Pure. */
#pragma once

#include "datapath/device/requests.h"

/* Set request->piece and return the task, which is request->command, with request->iov in it. zeroes: one
 * block. NULL where the target cannot do it at all. */
struct scsi_task *request_command_next(struct request *request, const struct volume_limits *limits,
                                       void *zeroes);

/* The task, if there is one, is over: give back what libiscsi has put into it. */
void request_command_done(struct request *request);
