/*
 * Beginning a format: the volume's commands are held and those under way end; "formatting" is recorded
 * durably; what an earlier, cut-off format left is discarded; the commands go on. A job on the owner loop:
 * whatever fails, and whether or not the caller still waits, the hold is released.
 */
#include "datapath/target/format.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/strings.h"
#include "datapath/store/content.h"
#include "datapath/store/image.h"
#include "datapath/target/export.h"
#include "datapath/target/round.h"

#define FORMAT_RETRY_MS 100

struct format {
    struct job job;
    char node_id[ID_NODE_MAX + 1];
    uint64_t epoch, generation;
    bool discard;
    int code; /* of the work between hold and release */
    struct round round;
};

static void format_run(struct job *job);
static void format_held(struct round *round);
static int format_work(struct job *job, struct error *err);
static void format_worked(struct job *job, int code);
static void format_released(struct round *round);

static void format_free(struct job *job)
{
    free(container_of(job, struct format, job));
}

int format_start(struct server *server, struct volume *volume, const char *node_id, uint64_t epoch,
                 uint64_t generation, struct job **ret_job, struct error *err)
{
    struct format *format = calloc(1, sizeof(*format));
    if (!format)
        return error_errno(err, ENOMEM, "volume %s", volume_id(volume));
    format->job.what = "begin format";
    format->job.run = format_run;
    format->job.free = format_free;
    format->epoch = epoch;
    format->generation = generation;
    str_copy(format->node_id, sizeof(format->node_id), node_id);
    snprintf(format->job.key, sizeof(format->job.key), "format %s %s %lu %lu", volume_id(volume), node_id,
             (unsigned long)epoch, (unsigned long)generation);
    return job_start(server, volume, &format->job, ret_job, err);
}

bool format_discarded(const struct job *job)
{
    return container_of(job, struct format, job)->discard;
}

static int format_round(struct format *format, enum round_kind kind, void (*done)(struct round *round))
{
    struct export *export = export_get(format->job.owner, format->job.volume);
    if (!export)
        return -ENOMEM;
    format->round = (struct round){.kind = kind, .done = done};
    int code = round_start(&format->round, export);
    export_check_unused(export);
    return code;
}

static void format_run(struct job *job)
{
    struct format *format = container_of(job, struct format, job);
    int code = format_round(format, ROUND_HOLD, format_held);
    if (code)
        job_finish(job, error_errno(&job->error, -code, "volume %s", volume_id(job->volume)));
    else
        log_debug("volume %s is held for a format", volume_id(job->volume));
}

static void format_held(struct round *round)
{
    struct format *format = container_of(round, struct format, round);
    job_offload(&format->job, format_work, format_worked);
}

/* Offload thread. */
static int format_edit(struct volume_record *record, void *context, struct error *err)
{
    struct format *format = context;
    return content_format_begin(record, format->node_id, format->epoch, format->generation, &format->discard,
                                err);
}

static int format_work(struct job *job, struct error *err)
{
    struct format *format = container_of(job, struct format, job);
    struct image *image;
    int code = volume_update(job->volume, format_edit, format, err);
    if (code || !format->discard)
        return code;
    code = volume_image(job->volume, &image, err);
    return code ? code : image_discard_all(image, err);
}

/* The release needs memory for its messages: without any, the volume stays held and this tries again. */
static int format_pause(struct job *job, struct error *err)
{
    (void)job;
    (void)err;
    usleep(FORMAT_RETRY_MS * 1000);
    return 0;
}

static void format_release(struct job *job, int code)
{
    (void)code;
    if (format_round(container_of(job, struct format, job), ROUND_RELEASE, format_released) != 0)
        job_offload(job, format_pause, format_release);
}

static void format_worked(struct job *job, int code)
{
    struct format *format = container_of(job, struct format, job);
    format->code = code;
    format_release(job, 0);
}

static void format_released(struct round *round)
{
    struct format *format = container_of(round, struct format, round);
    if (format->code == 0)
        log_info("volume %s: formatting by node %s, epoch %lu, generation %lu%s",
                 volume_id(format->job.volume), format->node_id, (unsigned long)format->epoch,
                 (unsigned long)format->generation, format->discard ? ", discarded first" : "");
    job_finish(&format->job, format->code);
}
