/*
 * Removing attachments: "removing" is recorded durably, which refuses every later login of theirs; the
 * sessions are closed and drained; only then they are taken away, durably. A job on the volume's owner loop:
 * it goes on when its caller's deadline has passed, and a repeat waits for the same drain.
 */
#include "datapath/target/removal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/strings.h"
#include "datapath/store/attach.h"
#include "datapath/target/export.h"

struct removal {
    struct job job;
    char node_id[ID_NODE_MAX + 1];           /* "": every node */
    uint64_t epoch;                          /* 0 with that */
    uint64_t epochs[VOLUME_ATTACHMENTS_MAX]; /* that are "removing" now */
    size_t epochs_count, drained;
    struct drain drain;
};

static void removal_run(struct job *job);
static int removal_begin(struct job *job, struct error *err);
static void removal_begun(struct job *job, int code);
static void removal_drain_next(struct removal *removal);
static void removal_drained(struct drain *drain);
static int removal_finish(struct job *job, struct error *err);
static void removal_finished(struct job *job, int code);

static void removal_free(struct job *job)
{
    free(container_of(job, struct removal, job));
}

/* The epoch that stands for a node, so that a repeat joins whatever it was asked by. */
static int removal_resolve(struct volume *volume, const char *node_id, uint64_t *epoch, struct error *err)
{
    struct volume_record record = {0};
    if (volume_snapshot_record(volume, &record) != 0)
        return error_errno(err, ENOMEM, "volume %s", volume_id(volume));
    const struct attachment *attachment = volume_record_attachment(&record, node_id);
    int code = 0;
    if (!attachment)
        code =
            error_set(err, E_NOT_FOUND, "volume %s is not attached to node %s", volume_id(volume), node_id);
    else if (*epoch && *epoch != attachment->epoch)
        code = error_set(err, E_STALE, "volume %s is attached to node %s with epoch %lu, not %lu",
                         volume_id(volume), node_id, (unsigned long)attachment->epoch, (unsigned long)*epoch);
    else
        *epoch = attachment->epoch;
    volume_record_done(&record);
    return code;
}

int removal_start(struct server *server, struct volume *volume, const char *node_id, uint64_t epoch,
                  struct job **ret_job, struct error *err)
{
    if (node_id[0]) {
        int code = removal_resolve(volume, node_id, &epoch, err);
        if (code)
            return code;
    }
    struct removal *removal = calloc(1, sizeof(*removal));
    if (!removal)
        return error_errno(err, ENOMEM, "volume %s", volume_id(volume));
    removal->job.what = "detach";
    removal->job.run = removal_run;
    removal->job.free = removal_free;
    removal->epoch = epoch;
    str_copy(removal->node_id, sizeof(removal->node_id), node_id);
    snprintf(removal->job.key, sizeof(removal->job.key), "detach %s %s %lu", volume_id(volume), node_id,
             (unsigned long)epoch);
    return job_start(server, volume, &removal->job, ret_job, err);
}

static void removal_run(struct job *job)
{
    job_offload(job, removal_begin, removal_begun);
}

/* Offload thread. */
static int removal_begin_edit(struct volume_record *record, void *context, struct error *err)
{
    struct removal *removal = context;
    int code = 0;
    removal->epochs_count = 0;
    for (size_t i = 0; i < record->attachments_count && code == 0; i++) {
        const struct attachment *attachment = &record->attachments[i];
        if (removal->node_id[0] && !str_equal(removal->node_id, attachment->node_id))
            continue;
        removal->epochs[removal->epochs_count++] = attachment->epoch;
        code = attach_remove_begin(record, attachment->node_id, removal->epoch, err);
    }
    return code || removal->epochs_count ? code : VOLUME_UNCHANGED;
}

static int removal_begin(struct job *job, struct error *err)
{
    return volume_update(job->volume, removal_begin_edit, container_of(job, struct removal, job), err);
}

static void removal_begun(struct job *job, int code)
{
    struct removal *removal = container_of(job, struct removal, job);
    if (code)
        job_finish(job, code);
    else
        removal_drain_next(removal);
}

static void removal_drain_next(struct removal *removal)
{
    struct job *job = &removal->job;
    if (removal->drained == removal->epochs_count) {
        job_offload(job, removal_finish, removal_finished);
        return;
    }
    removal->drain = (struct drain){.epoch = removal->epochs[removal->drained], .done = removal_drained};
    int code = export_drain(job->owner, job->volume, &removal->drain);
    if (code)
        job_finish(job, error_errno(&job->error, -code, "volume %s", volume_id(job->volume)));
}

static void removal_drained(struct drain *drain)
{
    struct removal *removal = container_of(drain, struct removal, drain);
    removal->drained++;
    removal_drain_next(removal);
}

/* Offload thread. */
static int removal_finish_edit(struct volume_record *record, void *context, struct error *err)
{
    const struct removal *removal = context;
    for (size_t i = 0; i < removal->epochs_count; i++) {
        int code = attach_remove_finish(record, removal->epochs[i], err);
        if (code)
            return code;
    }
    return removal->epochs_count ? 0 : VOLUME_UNCHANGED;
}

static int removal_finish(struct job *job, struct error *err)
{
    return volume_update(job->volume, removal_finish_edit, container_of(job, struct removal, job), err);
}

static void removal_finished(struct job *job, int code)
{
    const struct removal *removal = container_of(job, struct removal, job);
    if (code == 0 && removal->epochs_count)
        log_info("volume %s is detached from %s%s", volume_id(job->volume),
                 removal->node_id[0] ? "node " : "every node", removal->node_id);
    job_finish(job, code);
}
