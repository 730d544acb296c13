/* Looking after the pool and its volumes; see health.h. The tick's loop, an offload thread of it, and
 * workers. */
#include "datapath/target/health.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/size.h"
#include "common/strings.h"
#include "common/time.h"
#include "datapath/store/scrub.h"
#include "datapath/target/server.h"

#define LOOK_TICKS 2
#define REFUSED_LATELY_NS (UINT64_C(10) * 1000000000)

static int health_look(struct loop_work *work);
static void health_looked(struct loop_op *op, int res, unsigned flags);

void health_init(struct health *health, struct server *server)
{
    *health = (struct health){.server = server, .work = {.work = health_look, .op = {.done = health_looked}}};
    pthread_mutex_init(&health->lock, NULL);
}

void health_done(struct health *health)
{
    pthread_mutex_destroy(&health->lock);
}

/* ---- judging ---- */

enum health_pool health_judge_pool(const struct store_capacity *capacity, uint64_t warning_percent,
                                   bool refused_lately, enum health_pool before)
{
    uint64_t percent_bytes = capacity->total_bytes / 100;
    uint64_t free_bytes =
        capacity->used_bytes < capacity->total_bytes ? capacity->total_bytes - capacity->used_bytes : 0;
    uint64_t full_below = before == HEALTH_POOL_FULL ? percent_bytes : percent_bytes / 2;
    uint64_t filling_from = percent_bytes * (warning_percent - (before != HEALTH_POOL_GOOD));
    if (refused_lately || free_bytes < full_below)
        return HEALTH_POOL_FULL;
    return capacity->used_bytes >= filling_from ? HEALTH_POOL_FILLING : HEALTH_POOL_GOOD;
}

/* "8.1 GiB of 9.9 GiB are used, and 12.0 GiB are promised to volumes" */
static char *health_space_words(const struct store_capacity *capacity)
{
    char used[16], total[16], promised[16];
    size_format(capacity->used_bytes, used);
    size_format(capacity->total_bytes, total);
    size_format(capacity->promised_bytes, promised);
    return str_format("%s of %s are used, and %s are promised to volumes", used, total, promised);
}

char *health_pool_words(enum health_pool pool, const struct store_capacity *capacity)
{
    static const char remedy[] = "delete volumes or snapshots, trim, or grow the pool";
    _cleanup_free_ char *space = health_space_words(capacity);
    if (!space)
        return NULL;
    switch (pool) {
    case HEALTH_POOL_GOOD:
        return str_format("has space again: %s", space);
    case HEALTH_POOL_FILLING:
        return capacity->overcommitted ? str_format("is filling up: %s; before it is full, %s", space, remedy)
                                       : str_format("is filling up: %s", space);
    case HEALTH_POOL_FULL:
        break;
    }
    return str_format("is full: %s; writes that need new space are refused until there is some: %s", space,
                      remedy);
}

static void health_log_pool(enum health_pool state, const struct store_capacity *capacity, const char *pool)
{
    _cleanup_free_ char *words = health_pool_words(state, capacity);
    switch (state) {
    case HEALTH_POOL_GOOD:
        log_info("pool %s %s", pool, words ? words : "has space again");
        break;
    case HEALTH_POOL_FILLING:
        log_warning("pool %s %s", pool, words ? words : "is filling up");
        break;
    case HEALTH_POOL_FULL:
        log_error("pool %s %s", pool, words ? words : "is full");
        break;
    }
}

/* Who looks for the warning finds it, also where a writer was faster than two looks. */
static void health_log_pool_change(const struct health_findings *found, enum health_pool before,
                                   const char *pool)
{
    if (found->pool == before)
        return;
    if (found->pool == HEALTH_POOL_FULL && before == HEALTH_POOL_GOOD)
        health_log_pool(HEALTH_POOL_FILLING, &found->capacity, pool);
    health_log_pool(found->pool, &found->capacity, pool);
}

/* what: of whom there are so many, as in "volumes are write-failed". */
static void health_log_count(const char *what, const struct health_count *now,
                             const struct health_count *before)
{
    if (now->count == before->count)
        return;
    if (now->count)
        log_warning("%zu %s, the first is %s", now->count, what, now->first);
    else
        log_info("no %s any more", what);
}

/* ---- looking ---- */

static void health_add(struct health_count *count, const struct volume *volume)
{
    if (count->count++ == 0)
        str_copy(count->first, sizeof(count->first), volume_id(volume));
}

static void health_count_volumes(struct store *store, struct health_count *write_failed,
                                 struct health_count *unreadable)
{
    struct volume *volume = store_volume_next(store, "");
    while (volume) {
        struct volume *next = store_volume_next(store, volume_id(volume));
        if (volume_check_readable(volume, NULL) != 0)
            health_add(unreadable, volume);
        else if (volume_write_failed(volume))
            health_add(write_failed, volume);
        volume_unref(volume);
        volume = next;
    }
}

static void health_count_read_errors(struct store *store, struct health_findings *found)
{
    struct scrub_status status;
    store_scrub_status(store, &status);
    found->read_errors.count = status.unreadable_of;
    found->read_error_ranges = status.unreadable;
    str_copy(found->read_errors.first, sizeof(found->read_errors.first), status.first);
}

static bool health_refused_lately(struct health *health)
{
    uint64_t refused = atomic_load(&health->refused), now_ns = time_now_ns();
    if (refused != health->refused_seen)
        health->refused_ns = now_ns;
    health->refused_seen = refused;
    return health->refused_ns && now_ns < health->refused_ns + REFUSED_LATELY_NS;
}

static void health_take(struct health *health, const struct health_findings *found)
{
    pthread_mutex_lock(&health->lock);
    const struct health_findings before = health->found;
    health->found = *found;
    pthread_mutex_unlock(&health->lock);
    health_log_pool_change(found, before.pool, health->server->settings->pool);
    health_log_count("volumes are write-failed", &found->write_failed, &before.write_failed);
    health_log_count("volumes are unreadable", &found->unreadable, &before.unreadable);
    health_log_count("volumes and snapshots have data that the disk cannot read", &found->read_errors,
                     &before.read_errors);
}

/* Offload thread. */
static int health_look(struct loop_work *work)
{
    struct health *health = container_of(work, struct health, work);
    struct health_findings found = {0};
    struct store *store = health->server->store;
    _cleanup_error_ struct error err = {0};
    int code = store_capacity(store, &found.capacity, &err);
    if (code) {
        log_warning("cannot tell the pool's space: %s", error_text(&err));
        return code;
    }
    found.pool = health_judge_pool(&found.capacity, health->server->settings->pool_warning_percent,
                                   health_refused_lately(health), health->found.pool);
    health_count_volumes(store, &found.write_failed, &found.unreadable);
    health_count_read_errors(store, &found);
    health_take(health, &found);
    return 0;
}

static void health_looked(struct loop_op *op, int res, unsigned flags)
{
    struct health *health = container_of(container_of(op, struct loop_work, op), struct health, work);
    (void)res;
    (void)flags;
    health->looking = false;
}

void health_tick(struct health *health, struct loop *loop)
{
    if (health->looking)
        return;
    if (health->ticks++ % LOOK_TICKS != 0 && atomic_load(&health->refused) == health->refused_seen)
        return;
    health->looking = true;
    loop_offload(loop, &health->work);
}

struct health_findings health_find(struct health *health)
{
    pthread_mutex_lock(&health->lock);
    const struct health_findings found = health->found;
    pthread_mutex_unlock(&health->lock);
    return found;
}
