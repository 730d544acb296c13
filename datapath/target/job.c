/*
 * Jobs: started and waited for by the Storage service's worker threads, run on the volume's owner loop. The
 * table's lock guards which jobs run, their references, and their outcome.
 */
#include "datapath/target/job.h"

#include <assert.h>
#include <stdio.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/strings.h"
#include "common/time.h"
#include "datapath/target/reactor.h"
#include "datapath/target/server.h"
#include "rpc/rpc.h"

#define JOB_WAIT_SLICE_MS 50 /* how soon a cancelled call is noticed */

void job_table_init(struct job_table *table)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&table->lock, NULL);
    pthread_cond_init(&table->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    table->first = NULL;
    table->waiters = 0;
}

void job_table_done(struct job_table *table)
{
    assert(!table->first);
    pthread_cond_destroy(&table->changed);
    pthread_mutex_destroy(&table->lock);
}

void job_table_wait_empty(struct job_table *table)
{
    pthread_mutex_lock(&table->lock);
    while (table->first)
        pthread_cond_wait(&table->changed, &table->lock);
    pthread_mutex_unlock(&table->lock);
}

static void job_free(struct job *job)
{
    volume_unref(job->volume);
    error_done(&job->error);
    job->free(job);
}

/* True when the last reference went: the caller frees it after releasing the lock. */
static bool job_unref_locked(struct job *job)
{
    return --job->references == 0;
}

struct job *job_unref(struct job *job)
{
    if (!job)
        return NULL;
    struct job_table *table = &job->server->jobs;
    pthread_mutex_lock(&table->lock);
    bool last = job_unref_locked(job);
    pthread_mutex_unlock(&table->lock);
    if (last)
        job_free(job);
    return NULL;
}

static void job_start_run(struct loop_message *message)
{
    struct job *job = container_of(message, struct job, start);
    job->run(job);
}

static struct job *job_find_locked(struct job_table *table, const char *key)
{
    struct job *job = table->first;
    while (job && !str_equal(job->key, key))
        job = job->next;
    return job;
}

/* Join or become the running job of this key. */
static int job_start_locked(struct job_table *table, struct job *job, struct job **ret, struct error *err)
{
    struct job *running = job_find_locked(table, job->key);
    if (running) {
        running->references++;
        *ret = running;
        return 0;
    }
    int code = volume_operation_begin(job->volume, job->what, err);
    if (code)
        return code;
    job->since_ms = time_now_ms();
    job->references = 2; /* its own until it is finished, and the caller's */
    job->next = table->first;
    table->first = job;
    *ret = job;
    return 0;
}

int job_start(struct server *server, struct volume *volume, struct job *job, struct job **ret,
              struct error *err)
{
    struct job *started = NULL;
    job->server = server;
    job->volume = volume_ref(volume);
    job->owner = server_owner(server, volume_id(volume));
    job->start.run = job_start_run;
    pthread_mutex_lock(&server->jobs.lock);
    int code = job_start_locked(&server->jobs, job, &started, err);
    pthread_mutex_unlock(&server->jobs.lock);
    if (started != job)
        job_free(job);
    else
        loop_post(job->owner->loop, &job->start);
    if (code == 0)
        *ret = started;
    return code;
}

static int job_wait_locked(struct job *job, struct rpc_call *call, struct error *err)
{
    struct job_table *table = &job->server->jobs;
    while (!job->finished) {
        if (rpc_call_remaining_ms(call) <= 0)
            return error_set(err, E_DEADLINE, "volume %s: %s goes on; ask again to wait for its end",
                             volume_id(job->volume), job->what);
        if (rpc_call_cancelled(call))
            return error_set(err, E_CANCELLED, "volume %s: %s goes on", volume_id(job->volume), job->what);
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += JOB_WAIT_SLICE_MS * 1000000L;
        if (until.tv_nsec >= 1000000000L) {
            until.tv_nsec -= 1000000000L;
            until.tv_sec++;
        }
        pthread_cond_timedwait(&table->changed, &table->lock, &until);
    }
    if (job->code)
        return error_set(err, job->code, "%s", error_text(&job->error));
    return 0;
}

int job_wait_uncounted(struct job *job, struct rpc_call *call, struct error *err)
{
    pthread_mutex_lock(&job->server->jobs.lock);
    int code = job_wait_locked(job, call, err);
    pthread_mutex_unlock(&job->server->jobs.lock);
    return code;
}

static int job_wait_counted_locked(struct job *job, struct rpc_call *call, struct error *err)
{
    struct job_table *table = &job->server->jobs;
    if (!job->finished && (job->waiters >= JOB_REPEATS_MAX || table->waiters >= JOB_WAITERS_MAX))
        return error_set(
            err, E_BUSY,
            "volume %s: %s has been running for %lu ms and goes on; %u calls wait for it, %u for "
            "anything: retry later",
            volume_id(job->volume), job->what, (unsigned long)(time_now_ms() - job->since_ms), job->waiters,
            table->waiters);
    job->waiters++;
    table->waiters++;
    int code = job_wait_locked(job, call, err);
    job->waiters--;
    table->waiters--;
    return code;
}

int job_wait(struct job *job, struct rpc_call *call, struct error *err)
{
    pthread_mutex_lock(&job->server->jobs.lock);
    int code = job_wait_counted_locked(job, call, err);
    pthread_mutex_unlock(&job->server->jobs.lock);
    return code;
}

static int job_work(struct loop_work *work)
{
    struct job *job = container_of(work, struct job, work);
    return job->step(job, &job->error);
}

static void job_work_done(struct loop_op *op, int res, unsigned flags)
{
    struct job *job = container_of(op, struct job, work.op);
    (void)flags;
    job->then(job, res);
}

void job_offload(struct job *job, int (*step)(struct job *job, struct error *err),
                 void (*then)(struct job *job, int code))
{
    job->step = step;
    job->then = then;
    job->work = (struct loop_work){.work = job_work, .op = {.done = job_work_done}};
    loop_offload(job->owner->loop, &job->work);
}

void job_finish(struct job *job, int code)
{
    struct job_table *table = &job->server->jobs;
    pthread_mutex_lock(&table->lock);
    job->finished = true;
    job->code = code;
    for (struct job **at = &table->first; *at; at = &(*at)->next) {
        if (*at == job) {
            *at = job->next;
            break;
        }
    }
    /* Out of the table, so that nobody joins what has ended; then the slot, so that whoever waited finds it
     * free. */
    volume_operation_end(job->volume);
    bool last = job_unref_locked(job);
    pthread_cond_broadcast(&table->changed);
    pthread_mutex_unlock(&table->lock);
    if (last)
        job_free(job);
}
