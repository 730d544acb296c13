/* BeginFormat (invariant 5); see format.c. */
#pragma once

#include "datapath/target/job.h"

int format_start(struct server *server, struct volume *volume, const char *node_id, uint64_t epoch,
                 uint64_t generation, struct job **ret_job, struct error *err);

/* Of a job of format_start() that ended well: the volume was discarded. */
bool format_discarded(const struct job *job);
