/*
 * Locks by id: one change of a volume or snapshot at a time that makes or deletes it, across its commit. Who
 * comes meanwhile waits for a moment, and is then told what runs and since when: what a disk keeps from
 * ending must not take a thread for each repeat (invariants 8 and 10). The holders are in a list, each on its
 * own thread's stack: as many as there are threads that change something.
 */
#include <errno.h>
#include <inttypes.h>

#include "common/strings.h"
#include "common/time.h"
#include "datapath/store/store_internal.h"

#define KEY_WAIT_MS 2000

void key_locks_init(struct key_locks *locks)
{
    pthread_condattr_t attributes;

    pthread_mutex_init(&locks->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&locks->given, &attributes);
    pthread_condattr_destroy(&attributes);
    locks->first = NULL;
}

void key_locks_done(struct key_locks *locks)
{
    pthread_cond_destroy(&locks->given);
    pthread_mutex_destroy(&locks->lock);
}

static const struct key_lock *find_locked(const struct key_locks *locks, const char *key)
{
    const struct key_lock *one = locks->first;

    while (one && !str_equal(one->key, key))
        one = one->next;
    return one;
}

int key_lock_take(struct key_locks *locks, struct key_lock *taken, const char *key, const char *what,
                  struct error *err)
{
    uint64_t now_ms = time_now_ms(), until_ms = now_ms + KEY_WAIT_MS;
    struct timespec until = {(time_t)(until_ms / 1000), (long)(until_ms % 1000) * 1000000};
    const struct key_lock *held;
    int r = 0;

    *taken = (struct key_lock){.locks = locks, .key = key, .what = what, .since_ms = now_ms};
    pthread_mutex_lock(&locks->lock);
    while ((held = find_locked(locks, key)) && r == 0)
        r = pthread_cond_timedwait(&locks->given, &locks->lock, &until);
    if (held) {
        r = error_set(err, E_BUSY, "%s of %s has been running for %" PRIu64 " ms: retry when it is done",
                      held->what, key, time_now_ms() - held->since_ms);
    } else {
        taken->since_ms = time_now_ms();
        taken->next = locks->first;
        locks->first = taken;
        r = E_OK;
    }
    pthread_mutex_unlock(&locks->lock);
    return r;
}

void key_lock_give(struct key_lock *taken)
{
    struct key_locks *locks = taken->locks;
    struct key_lock **link = &locks->first;

    pthread_mutex_lock(&locks->lock);
    while (*link != taken)
        link = &(*link)->next;
    *link = taken->next;
    pthread_cond_broadcast(&locks->given);
    pthread_mutex_unlock(&locks->lock);
}
