/*
 * Registration with every storage server, and the heartbeat: a thread a server, so that one that hangs delays
 * no other. Logs when an answer changes, not each answer.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/log.h"
#include "common/time.h"
#include "node/node.h"

#define REGISTRAR_CALL_MS 5000
#define REGISTRAR_RETRY_MS 500 /* until the first answer */

struct registrar_server {
    struct registrar *registrar;
    pthread_t thread;
    size_t index;
    struct registrar_view view; /* under the mutex */
};

struct registrar {
    struct node *node;
    pthread_mutex_t mutex;
    pthread_cond_t stop;
    bool stopping;
    bool registered; /* under the mutex: any of them, once */
    size_t threads;
    struct registrar_server servers[];
};

static void registrar_note(struct registrar_server *server, enum registrar_state state,
                           const struct error *err)
{
    const char *id = server->registrar->node->config.servers.items[server->index].id;

    pthread_mutex_lock(&server->registrar->mutex);
    bool same = server->view.state == state;
    if (!same)
        server->view.since_ms = time_now_ms();
    server->view.state = state;
    if (state == REGISTRAR_REGISTERED || state == REGISTRAR_FENCED)
        server->registrar->registered = true;
    snprintf(server->view.problem, sizeof(server->view.problem), "%s",
             state == REGISTRAR_UNREACHABLE ? error_text(err) : "");
    pthread_mutex_unlock(&server->registrar->mutex);
    if (same)
        return;
    switch (state) {
    case REGISTRAR_UNKNOWN:
        return;
    case REGISTRAR_REGISTERED:
        log_info("registered with storage server %s", id);
        return;
    case REGISTRAR_FENCED:
        log_warning("storage server %s has fenced this node: its volumes go elsewhere until `mooring node "
                    "unfence` or "
                    "a reboot",
                    id);
        return;
    case REGISTRAR_UNREACHABLE:
        log_warning("cannot register: %s", error_text(err));
    }
}

static void registrar_wait(struct registrar *registrar, uint64_t timeout_ms)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(timeout_ms / 1000);
    until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    pthread_mutex_lock(&registrar->mutex);
    while (!registrar->stopping && pthread_cond_timedwait(&registrar->stop, &registrar->mutex, &until) == 0)
        continue;
    pthread_mutex_unlock(&registrar->mutex);
}

static bool registrar_stopping(struct registrar *registrar)
{
    pthread_mutex_lock(&registrar->mutex);
    bool stopping = registrar->stopping;
    pthread_mutex_unlock(&registrar->mutex);
    return stopping;
}

static void *registrar_run(void *context)
{
    struct registrar_server *server = context;
    struct registrar *registrar = server->registrar;
    struct node *node = registrar->node;

    while (!registrar_stopping(registrar)) {
        _cleanup_error_ struct error err = {0};
        bool fenced = false;
        int r = storage_register(node->storage, server->index, REGISTRAR_CALL_MS, &fenced, &err);

        registrar_note(server,
                       r        ? REGISTRAR_UNREACHABLE
                       : fenced ? REGISTRAR_FENCED
                                : REGISTRAR_REGISTERED,
                       &err);
        registrar_wait(registrar, r ? REGISTRAR_RETRY_MS : node->config.heartbeat_ms);
    }
    return NULL;
}

void registrar_look(struct registrar *registrar, size_t index, struct registrar_view *ret)
{
    pthread_mutex_lock(&registrar->mutex);
    *ret = registrar->servers[index].view;
    pthread_mutex_unlock(&registrar->mutex);
}

bool registrar_has_registered(struct registrar *registrar)
{
    pthread_mutex_lock(&registrar->mutex);
    bool registered = registrar->registered;
    pthread_mutex_unlock(&registrar->mutex);
    return registered;
}

int registrar_new(struct registrar **ret, struct node *node, struct error *err)
{
    size_t count = node->config.servers.count;
    struct registrar *registrar = calloc(1, sizeof(*registrar) + count * sizeof(registrar->servers[0]));
    pthread_condattr_t attributes;

    if (!registrar)
        return error_errno(err, ENOMEM, "cannot start the registrar");
    registrar->node = node;
    pthread_mutex_init(&registrar->mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&registrar->stop, &attributes);
    pthread_condattr_destroy(&attributes);
    for (size_t i = 0; i < count; i++) {
        struct registrar_server *server = &registrar->servers[i];
        server->registrar = registrar;
        server->index = i;
        server->view.since_ms = time_now_ms();
        int problem = pthread_create(&server->thread, NULL, registrar_run, server);
        if (problem) {
            registrar_free(registrar);
            return error_errno(err, problem, "cannot start the registrar");
        }
        registrar->threads++;
    }
    *ret = registrar;
    return 0;
}

struct registrar *registrar_free(struct registrar *registrar)
{
    if (!registrar)
        return NULL;
    pthread_mutex_lock(&registrar->mutex);
    registrar->stopping = true;
    pthread_cond_broadcast(&registrar->stop);
    pthread_mutex_unlock(&registrar->mutex);
    for (size_t i = 0; i < registrar->threads; i++)
        pthread_join(registrar->servers[i].thread, NULL);
    pthread_cond_destroy(&registrar->stop);
    pthread_mutex_destroy(&registrar->mutex);
    free(registrar);
    return NULL;
}
