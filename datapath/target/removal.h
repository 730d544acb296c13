/* Taking attachments away (invariant 2): recorded, drained, recorded; see removal.c. */
#pragma once

#include "datapath/target/job.h"

/*
 * Remove the attachment of node_id ("": all of the volume's) with this epoch (0: whichever stands); *ret_job
 * is to be waited for. E_NOT_FOUND when there is none, E_STALE for another epoch, E_BUSY by the operation
 * slot. Worker threads.
 */
int removal_start(struct server *server, struct volume *volume, const char *node_id, uint64_t epoch,
                  struct job **ret_job, struct error *err);
