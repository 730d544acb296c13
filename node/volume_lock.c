/* The locks of volumes: a short list under one mutex. Called by RPC threads and the supervisor. */
#include "node/volume_lock.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "common/cleanup.h"
#include "common/id.h"
#include "common/strings.h"
#include "common/time.h"

#define ROUND_WAIT_MS 2000

struct volume_lock {
    struct volume_lock *next;
    char volume_id[ID_VOLUME_MAX + 1];
    const char *what;
    uint64_t since_ms;
    bool round;
    bool lent, borrowed;
};

struct volume_locks {
    pthread_mutex_t mutex;
    pthread_cond_t changed; /* one was released, or came back from who had borrowed it */
    struct volume_lock *held;
};

int volume_locks_new(struct volume_locks **ret)
{
    struct volume_locks *locks = calloc(1, sizeof(*locks));

    if (!locks)
        return -ENOMEM;
    pthread_mutex_init(&locks->mutex, NULL);
    pthread_cond_init(&locks->changed, NULL);
    *ret = locks;
    return 0;
}

struct volume_locks *volume_locks_free(struct volume_locks *locks)
{
    if (!locks)
        return NULL;
    while (locks->held) {
        struct volume_lock *next = locks->held->next;
        free(locks->held);
        locks->held = next;
    }
    pthread_cond_destroy(&locks->changed);
    pthread_mutex_destroy(&locks->mutex);
    free(locks);
    return NULL;
}

static struct volume_lock *volume_lock_find(struct volume_locks *locks, const char *volume_id)
{
    struct volume_lock *lock = locks->held;

    while (lock && !str_equal(lock->volume_id, volume_id))
        lock = lock->next;
    return lock;
}

/* Whoever stands in the way in the end, or NULL. */
static struct volume_lock *volume_lock_await_round_locked(struct volume_locks *locks, const char *volume_id,
                                                          uint64_t until_ms)
{
    const struct timespec until = {.tv_sec = (time_t)(until_ms / 1000),
                                   .tv_nsec = (long)(until_ms % 1000) * 1000000};
    struct volume_lock *other;

    while ((other = volume_lock_find(locks, volume_id)) && other->round &&
           pthread_cond_clockwait(&locks->changed, &locks->mutex, CLOCK_MONOTONIC, &until) == 0)
        continue;
    return other;
}

static int volume_lock_take(struct volume_locks *locks, const char *volume_id, const char *what, bool round,
                            struct error *err)
{
    struct volume_lock *lock = calloc(1, sizeof(*lock));
    uint64_t now_ms = time_now_ms();
    int r = 0;

    if (!lock || !str_copy(lock->volume_id, sizeof(lock->volume_id), volume_id)) {
        free(lock);
        return error_set(err, lock ? E_INVALID_ARGUMENT : -ENOMEM, "cannot lock volume %s", volume_id);
    }
    lock->what = what;
    lock->round = round;
    pthread_mutex_lock(&locks->mutex);
    struct volume_lock *other =
        volume_lock_await_round_locked(locks, volume_id, round ? now_ms : now_ms + ROUND_WAIT_MS);
    lock->since_ms = time_now_ms();
    if (other) {
        r = error_set(err, E_BUSY, "volume %s: %s has been running for %" PRIu64 " ms; try again later",
                      volume_id, other->what, lock->since_ms - other->since_ms);
    } else {
        lock->next = locks->held;
        locks->held = TAKE_PTR(lock);
    }
    pthread_mutex_unlock(&locks->mutex);
    free(lock);
    return r;
}

int volume_lock_try(struct volume_locks *locks, const char *volume_id, const char *what, struct error *err)
{
    return volume_lock_take(locks, volume_id, what, false, err);
}

int volume_lock_try_round(struct volume_locks *locks, const char *volume_id, const char *what,
                          struct error *err)
{
    return volume_lock_take(locks, volume_id, what, true, err);
}

void volume_lock_release(struct volume_locks *locks, const char *volume_id)
{
    pthread_mutex_lock(&locks->mutex);
    for (struct volume_lock **at = &locks->held; *at; at = &(*at)->next) {
        if (str_equal((*at)->volume_id, volume_id)) {
            struct volume_lock *lock = *at;
            *at = lock->next;
            free(lock);
            break;
        }
    }
    pthread_cond_broadcast(&locks->changed);
    pthread_mutex_unlock(&locks->mutex);
}

/* ---- lending ---- */

void volume_lock_lend(struct volume_locks *locks, const char *volume_id)
{
    pthread_mutex_lock(&locks->mutex);
    struct volume_lock *lock = volume_lock_find(locks, volume_id);
    if (lock)
        lock->lent = true;
    pthread_mutex_unlock(&locks->mutex);
}

void volume_lock_reclaim(struct volume_locks *locks, const char *volume_id)
{
    pthread_mutex_lock(&locks->mutex);
    struct volume_lock *lock = volume_lock_find(locks, volume_id);
    if (lock)
        lock->lent = false;
    while (lock && lock->borrowed)
        pthread_cond_wait(&locks->changed, &locks->mutex);
    pthread_mutex_unlock(&locks->mutex);
}

bool volume_lock_borrow(struct volume_locks *locks, const char *volume_id)
{
    pthread_mutex_lock(&locks->mutex);
    struct volume_lock *lock = volume_lock_find(locks, volume_id);
    bool may = lock && lock->lent && !lock->borrowed;
    if (may)
        lock->borrowed = true;
    pthread_mutex_unlock(&locks->mutex);
    return may;
}

void volume_lock_return(struct volume_locks *locks, const char *volume_id)
{
    pthread_mutex_lock(&locks->mutex);
    struct volume_lock *lock = volume_lock_find(locks, volume_id);
    if (lock)
        lock->borrowed = false;
    pthread_cond_broadcast(&locks->changed);
    pthread_mutex_unlock(&locks->mutex);
}
