/*
 * What a call starts and what must end whether or not its caller waits: removing an attachment, granting a
 * generation, beginning a format. A job holds its volume's operation slot; the same job asked for again is
 * joined, another one is E_BUSY (invariant 8). It runs on the volume's owner loop, a step at a time; callers
 * wait in their own threads.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>

#include "common/error.h"
#include "common/id.h"
#include "datapath/loop/loop.h"
#include "datapath/store/store.h"

struct rpc_call;
struct server;

/* Calls that wait: of all jobs, and of one. One more is told at once what runs, so that repeats of a call
 * that cannot end take no worker thread after the other. */
#define JOB_WAITERS_MAX 16
#define JOB_REPEATS_MAX 6

#define JOB_KEY_MAX (ID_VOLUME_MAX + ID_NODE_MAX + 80)

struct job {
    /* filled by who makes it */
    const char *what;              /* for the slot: "detach", … */
    void (*run)(struct job *job);  /* first step; on the owner loop */
    void (*free)(struct job *job); /* releases what embeds the job, once nobody waits */

    /* job's own */
    struct server *server;
    struct reactor *owner;
    struct volume *volume; /* a reference */
    char key[JOB_KEY_MAX]; /* which calls are the same */
    unsigned references, waiters;
    uint64_t since_ms;
    bool finished;
    int code;
    struct error error; /* what the call answers */
    struct job *next;
    struct loop_message start;
    struct loop_work work;
    void (*then)(struct job *job, int code);
    int (*step)(struct job *job, struct error *err);
};

struct job_table {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct job *first;
    unsigned waiters;
};

void job_table_init(struct job_table *table);
void job_table_done(struct job_table *table); /* when empty */
void job_table_wait_empty(struct job_table *table);

/*
 * Give a job (ownership goes with it, in every case) its volume and start it, or join the one of the same key
 * that runs: *ret is then that one. E_BUSY when another operation has the volume. Any thread but a loop's.
 */
int job_start(struct server *server, struct volume *volume, struct job *job, struct job **ret,
              struct error *err);

/* Wait for the end, at most until the call's deadline (E_DEADLINE) or its cancellation. Returns the job's
 * code. E_BUSY, with what runs and since when, while as many wait as may. */
int job_wait(struct job *job, struct rpc_call *call, struct error *err);

/* The same for a call whose threads are its group's own, and bounded there. */
int job_wait_uncounted(struct job *job, struct rpc_call *call, struct error *err);
struct job *job_unref(struct job *job); /* returns NULL */

/* On the owner loop: run step() on an offload thread, then then(code) on the owner loop. err is the job's. */
void job_offload(struct job *job, int (*step)(struct job *job, struct error *err),
                 void (*then)(struct job *job, int code));

/* The last step, on the owner loop: the slot is free again, the callers get code (and job->error). */
void job_finish(struct job *job, int code);
