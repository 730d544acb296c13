/*
 * A volume gets its second writer: sessions that were admitted as the only writer's end and come back
 * write-through, and what they wrote before is flushed. A job on the owner loop.
 */
#include "datapath/target/uncache.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "datapath/store/image.h"
#include "datapath/target/export.h"
#include "datapath/target/reactor.h"

struct uncache {
    struct job job;
    struct drain drain;
    struct image *image;
    struct image_io flush;
};

static void uncache_run(struct job *job);
static void uncache_drained(struct drain *drain);
static int uncache_open(struct job *job, struct error *err);
static void uncache_opened(struct job *job, int code);
static void uncache_flushed(struct image_io *io, int result);

static void uncache_free(struct job *job)
{
    free(container_of(job, struct uncache, job));
}

int uncache_start(struct server *server, struct volume *volume, struct job **ret_job, struct error *err)
{
    struct uncache *uncache = calloc(1, sizeof(*uncache));
    if (!uncache)
        return error_errno(err, ENOMEM, "volume %s", volume_id(volume));
    uncache->job.what = "second writer's attach";
    uncache->job.run = uncache_run;
    uncache->job.free = uncache_free;
    snprintf(uncache->job.key, sizeof(uncache->job.key), "uncache %s", volume_id(volume));
    return job_start(server, volume, &uncache->job, ret_job, err);
}

static void uncache_run(struct job *job)
{
    struct uncache *uncache = container_of(job, struct uncache, job);
    uncache->drain = (struct drain){.cached_only = true, .done = uncache_drained};
    int code = export_drain(job->owner, job->volume, &uncache->drain);
    if (code)
        job_finish(job, error_errno(&job->error, -code, "volume %s", volume_id(job->volume)));
}

static void uncache_drained(struct drain *drain)
{
    struct uncache *uncache = container_of(drain, struct uncache, drain);
    job_offload(&uncache->job, uncache_open, uncache_opened);
}

static int uncache_open(struct job *job, struct error *err)
{
    return volume_image(job->volume, &container_of(job, struct uncache, job)->image, err);
}

static void uncache_opened(struct job *job, int code)
{
    struct uncache *uncache = container_of(job, struct uncache, job);
    if (code) {
        job_finish(job, code);
        return;
    }
    uncache->flush = (struct image_io){.verb = IMAGE_FLUSH, .done = uncache_flushed};
    image_submit(uncache->image, job->owner->loop, &uncache->flush);
}

static void uncache_flushed(struct image_io *io, int result)
{
    struct uncache *uncache = container_of(io, struct uncache, flush);
    struct job *job = &uncache->job;
    if (result)
        result = error_set(&job->error, result, "volume %s: flush before its second writer: %s",
                           volume_id(job->volume), error_name(result));
    job_finish(job, result);
}
