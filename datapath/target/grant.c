/*
 * Granting a generation: recorded durably with its secret, which refuses the older ones from then on, also
 * after a restart; then the older ones' sessions are drained; then the caller learns the secret. A job on the
 * owner loop.
 */
#include "datapath/target/grant.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/secret.h"
#include "common/strings.h"
#include "datapath/store/attach.h"
#include "datapath/target/export.h"

struct grant {
    struct job job;
    char node_id[ID_NODE_MAX + 1];
    uint64_t epoch, holding;
    bool write_through;
    struct grant_result result;
    struct drain drain;
};

static void grant_run(struct job *job);
static int grant_record(struct job *job, struct error *err);
static void grant_recorded(struct job *job, int code);
static void grant_drained(struct drain *drain);

static void grant_free(struct job *job)
{
    struct grant *grant = container_of(job, struct grant, job);
    secret_wipe(&grant->result, sizeof(grant->result));
    free(grant);
}

int grant_start(struct server *server, struct volume *volume, const char *node_id, uint64_t epoch,
                uint64_t holding, bool write_through, struct job **ret_job, struct error *err)
{
    struct grant *grant = calloc(1, sizeof(*grant));
    if (!grant)
        return error_errno(err, ENOMEM, "volume %s", volume_id(volume));
    grant->job.what = "grant";
    grant->job.run = grant_run;
    grant->job.free = grant_free;
    grant->epoch = epoch;
    grant->holding = holding;
    grant->write_through = write_through;
    str_copy(grant->node_id, sizeof(grant->node_id), node_id);
    snprintf(grant->job.key, sizeof(grant->job.key), "grant %s %s %lu %lu%s", volume_id(volume), node_id,
             (unsigned long)epoch, (unsigned long)holding, write_through ? " through" : "");
    return job_start(server, volume, &grant->job, ret_job, err);
}

void grant_result(const struct job *job, struct grant_result *ret)
{
    *ret = container_of(job, struct grant, job)->result;
}

static void grant_run(struct job *job)
{
    job_offload(job, grant_record, grant_recorded);
}

/* Offload thread. */
static int grant_edit(struct volume_record *record, void *context, struct error *err)
{
    struct grant *grant = context;
    struct attachment *attachment;
    int code = attach_grant(record, grant->node_id, grant->epoch, grant->holding, &attachment, err);
    if (code)
        return code;
    attachment->write_through = grant->write_through;
    grant->result.generation = attachment->generation;
    str_copy(grant->result.secret, sizeof(grant->result.secret), attachment->generation_secret);
    return 0;
}

static int grant_record(struct job *job, struct error *err)
{
    return volume_update(job->volume, grant_edit, container_of(job, struct grant, job), err);
}

static void grant_recorded(struct job *job, int code)
{
    struct grant *grant = container_of(job, struct grant, job);
    if (code) {
        job_finish(job, code);
        return;
    }
    grant->drain = (struct drain){
        .epoch = grant->epoch, .generation_below = grant->result.generation, .done = grant_drained};
    code = export_drain(job->owner, job->volume, &grant->drain);
    if (code)
        job_finish(job, error_errno(&job->error, -code, "volume %s", volume_id(job->volume)));
}

static void grant_drained(struct drain *drain)
{
    struct grant *grant = container_of(drain, struct grant, drain);
    log_info("volume %s: generation %lu of node %s, epoch %lu", volume_id(grant->job.volume),
             (unsigned long)grant->result.generation, grant->node_id, (unsigned long)grant->epoch);
    job_finish(&grant->job, 0);
}
