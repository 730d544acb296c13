/*
 * The monitor's thread and its state. The thread alone writes `known`; what others read is in storage_client,
 * under its mutexes.
 */
#include "controller/monitor.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/time.h"

#define ASK_TIMEOUT_MS 2000
#define PERIOD_READY_MS 5000
#define PERIOD_WAITING_MS 500 /* while nobody answers: a start should not take longer than it must */

enum known_state { KNOWN_NOT_YET, KNOWN_UP, KNOWN_DOWN };

struct monitor {
    struct storage *storage;
    enum known_state *known; /* by server, as last logged */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool stopping; /* locked */
};

bool monitor_ready(const struct monitor *monitor)
{
    for (size_t i = 0; i < storage_count(monitor->storage); i++) {
        if (storage_server_ready(storage_at(monitor->storage, i)))
            return true;
    }
    return false;
}

bool monitor_has_servers(const struct monitor *monitor)
{
    for (size_t i = 0; i < storage_count(monitor->storage); i++) {
        if (!storage_server_config(storage_at(monitor->storage, i))->gone)
            return true;
    }
    return false;
}

static void watch_server(struct monitor *monitor, size_t index)
{
    _cleanup_error_ struct error err = {0};
    struct storage_server *server = storage_at(monitor->storage, index);
    const struct server_config *config = storage_server_config(server);
    enum known_state state;

    if (config->gone)
        return;
    state =
        storage_watch_server(server, time_now_ms() + ASK_TIMEOUT_MS, &err) == E_OK ? KNOWN_UP : KNOWN_DOWN;
    if (state == monitor->known[index])
        return;
    if (state == KNOWN_UP)
        log_info("storage server %s at %s answers", config->id, config->address);
    else
        log_warning("%s", error_text(&err));
    monitor->known[index] = state;
}

/* False when it is time to stop. */
static bool sleep_period(struct monitor *monitor)
{
    uint64_t period_ms = monitor_ready(monitor) ? PERIOD_READY_MS : PERIOD_WAITING_MS;
    struct timespec until;
    bool stopping;
    int r = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(period_ms / 1000);
    until.tv_nsec += (long)(period_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    pthread_mutex_lock(&monitor->lock);
    while (!monitor->stopping && r != ETIMEDOUT)
        r = pthread_cond_timedwait(&monitor->wake, &monitor->lock, &until);
    stopping = monitor->stopping;
    pthread_mutex_unlock(&monitor->lock);
    return !stopping;
}

static void *run(void *context)
{
    struct monitor *monitor = context;

    do {
        for (size_t i = 0; i < storage_count(monitor->storage); i++)
            watch_server(monitor, i);
    } while (sleep_period(monitor));
    return NULL;
}

int monitor_new(struct monitor **ret, struct storage *storage, struct error *err)
{
    struct monitor *monitor = calloc(1, sizeof(*monitor));
    enum known_state *known = calloc(storage_count(storage) + 1, sizeof(*known));
    pthread_condattr_t attributes;
    int r = ENOMEM;

    if (monitor && known) {
        monitor->storage = storage;
        monitor->known = known;
        pthread_mutex_init(&monitor->lock, NULL);
        pthread_condattr_init(&attributes);
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
        pthread_cond_init(&monitor->wake, &attributes);
        pthread_condattr_destroy(&attributes);
        r = pthread_create(&monitor->thread, NULL, run, monitor);
    }
    if (r != 0) {
        free(known);
        free(monitor);
        return error_errno(err, r, "the monitor's thread");
    }
    *ret = monitor;
    return E_OK;
}

struct monitor *monitor_free(struct monitor *monitor)
{
    if (!monitor)
        return NULL;
    pthread_mutex_lock(&monitor->lock);
    monitor->stopping = true;
    pthread_cond_signal(&monitor->wake);
    pthread_mutex_unlock(&monitor->lock);
    pthread_join(monitor->thread, NULL);
    pthread_cond_destroy(&monitor->wake);
    pthread_mutex_destroy(&monitor->lock);
    free(monitor->known);
    free(monitor);
    return NULL;
}
