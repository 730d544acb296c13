/* A new generation of an attachment's device process (invariant 4); see grant.c. */
#pragma once

#include "common/id.h"
#include "datapath/target/job.h"

/* The secret is for one caller's answer: wipe it. */
struct grant_result {
    uint64_t generation;
    char secret[ID_SECRET_LENGTH + 1];
};

/* Start, or join the grant of the same holding generation. write_through: as in the attachment's record.
 * Worker threads. */
int grant_start(struct server *server, struct volume *volume, const char *node_id, uint64_t epoch,
                uint64_t holding, bool write_through, struct job **ret_job, struct error *err);

/* Of a job of grant_start() that ended well. */
void grant_result(const struct job *job, struct grant_result *ret);
