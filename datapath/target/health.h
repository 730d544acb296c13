/*
 * What an operator should know of this server and its volumes: space that runs out, volumes that take no
 * writes or cannot be read. Looked after on the first loop's tick, told by GetServer and with each volume,
 * and logged once for each change.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "datapath/loop/loop.h"
#include "datapath/store/store.h"

struct server;

enum health_pool { HEALTH_POOL_GOOD, HEALTH_POOL_FILLING, HEALTH_POOL_FULL };

struct health_count {
    size_t count;
    char first[ID_SNAPSHOT_MAX + 1]; /* of them, by id */
};

struct health_findings {
    enum health_pool pool;
    struct store_capacity capacity;
    struct health_count write_failed, unreadable, read_errors; /* the last: snapshots, too */
    size_t read_error_ranges;
};

struct health {
    pthread_mutex_t lock;
    struct health_findings found; /* last; under the lock */

    atomic_uint_fast64_t refused; /* writes, for want of space: counted by scsi/ */
    uint64_t refused_seen, refused_ns;

    struct server *server; /* the rest is the tick's */
    unsigned ticks;
    bool looking;
    struct loop_work work;
};

void health_init(struct health *health, struct server *server);
void health_done(struct health *health);

/* Each second; loop's thread. */
void health_tick(struct health *health, struct loop *loop);

/* By what there is and how it was before: a state is left only at some distance from where it begins. */
enum health_pool health_judge_pool(const struct store_capacity *capacity, uint64_t warning_percent,
                                   bool refused_lately, enum health_pool before);

/* What was found last. Any thread. */
struct health_findings health_find(struct health *health);

/* "is filling up: 8.1 GiB of 9.9 GiB are used, …", and what to do, on the heap; NULL without memory. */
char *health_pool_words(enum health_pool pool, const struct store_capacity *capacity);
