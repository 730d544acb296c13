/*
 * A service's threads. One empties the completion queue and carries out completions, which never block;
 * workers take whole requests from the line and run handlers. Called by server.c; hands calls to
 * server_call.c.
 */
#include "rpc/server_service.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/strings.h"
#include "rpc/server_call.h"

#define SERVICE_THREADS_DEFAULT 4
#define SERVICE_REARM_MS 100

static int service_init_methods(struct server_service *service, struct error *err)
{
    const struct rpc_service *spec = service->spec;

    for (size_t i = 0; i < spec->methods_count; i++) {
        struct server_method *method = &service->methods[i];
        method->service = service;
        method->spec = &spec->methods[i];
        method->descriptor =
            protobuf_c_service_descriptor_get_method_by_name(spec->descriptor, method->spec->name);
        assert(method->descriptor && method->spec->handle);
        method->path = str_format("/%s/%s", spec->descriptor->name, method->spec->name);
        if (!method->path)
            return error_errno(err, ENOMEM, "serve %s", spec->descriptor->name);
        method->registration =
            grpc_server_register_method(service->grpc, method->path, NULL, GRPC_SRM_PAYLOAD_NONE, 0);
        assert(method->registration); /* NULL: the same method twice */
    }
    return 0;
}

int server_service_init(struct server_service *service, const struct rpc_service *spec, struct error *err)
{
    service->spec = spec;
    service->last = &service->first;
    pthread_mutex_init(&service->lock, NULL);
    pthread_cond_init(&service->wakeup, NULL);
    service->cq = grpc_completion_queue_create_for_next(NULL);
    grpc_server_register_completion_queue(service->grpc, service->cq, NULL);
    service->methods_count = spec ? spec->methods_count : 1;
    service->methods = calloc(service->methods_count, sizeof(*service->methods));
    if (!service->methods) {
        service->methods_count = 0;
        return error_errno(err, ENOMEM, "serve");
    }
    if (spec)
        return service_init_methods(service, err);
    service->methods[0].service = service;
    return 0;
}

/* Ask gRPC for the next call of each method that lacks a request. True when none lacks one any more. */
static bool service_arm(struct server_service *service)
{
    bool all = true;

    for (size_t i = 0; i < service->methods_count; i++)
        if (!service->methods[i].armed)
            all &= server_call_request(&service->methods[i]);
    return all;
}

static void *service_poll(void *context)
{
    struct server_service *service = context;
    bool armed = service_arm(service);

    for (;;) {
        gpr_timespec until = armed ? gpr_inf_future(GPR_CLOCK_MONOTONIC)
                                   : gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                                                  gpr_time_from_millis(SERVICE_REARM_MS, GPR_TIMESPAN));
        grpc_event event = grpc_completion_queue_next(service->cq, until, NULL);
        if (event.type == GRPC_QUEUE_SHUTDOWN)
            return NULL;
        if (event.type == GRPC_OP_COMPLETE) {
            struct rpc_tag *tag = event.tag;
            atomic_load (&tag->done)(tag, event.success);
        }
        armed = service_arm(service);
    }
}

bool server_service_enqueue(struct server_service *service, struct rpc_call *call)
{
    bool room;

    pthread_mutex_lock(&service->lock);
    room = service->waiting < service->backlog_max;
    if (room) {
        *service->last = call;
        service->last = &call->next;
        service->waiting++;
        pthread_cond_signal(&service->wakeup);
    }
    pthread_mutex_unlock(&service->lock);
    return room;
}

/* The next call in line; NULL when the service stops. */
static struct rpc_call *service_take(struct server_service *service)
{
    struct rpc_call *call;

    pthread_mutex_lock(&service->lock);
    while (!service->first && !service->stopping)
        pthread_cond_wait(&service->wakeup, &service->lock);
    call = service->first;
    if (call) {
        service->first = call->next;
        if (!service->first)
            service->last = &service->first;
        call->next = NULL;
        service->waiting--;
    }
    pthread_mutex_unlock(&service->lock);
    return call;
}

static void *service_work(void *context)
{
    struct server_service *service = context;
    struct rpc_call *call;

    while ((call = service_take(service)))
        server_call_run(call);
    return NULL;
}

static int service_start_workers(struct server_service *service)
{
    unsigned count = service->spec->threads ? service->spec->threads : SERVICE_THREADS_DEFAULT;
    int errnum = 0;

    service->workers = calloc(count, sizeof(*service->workers));
    if (!service->workers)
        return ENOMEM;
    while (!errnum && service->workers_count < count) {
        errnum = pthread_create(&service->workers[service->workers_count], NULL, service_work, service);
        service->workers_count += !errnum;
    }
    return errnum;
}

/* The queue's thread comes last: it takes the first call. */
static int service_start_threads(struct server_service *service)
{
    int errnum = service->spec ? service_start_workers(service) : 0;

    if (!errnum)
        errnum = pthread_create(&service->poller, NULL, service_poll, service);
    service->poller_started = !errnum;
    return errnum;
}

int server_service_start(struct server_service *service, struct error *err)
{
    sigset_t all, saved;
    int errnum;

    /* Signals are for the program's own thread that waits for them. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &saved);
    errnum = service_start_threads(service);
    pthread_sigmask(SIG_SETMASK, &saved, NULL);
    return errnum ? error_errno(err, errnum, "start threads of the gRPC server") : 0;
}

static void service_stop_workers(struct server_service *service)
{
    pthread_mutex_lock(&service->lock);
    service->stopping = true;
    pthread_cond_broadcast(&service->wakeup);
    pthread_mutex_unlock(&service->lock);
    for (unsigned i = 0; i < service->workers_count; i++)
        pthread_join(service->workers[i], NULL);
    assert(!service->first);
}

void server_service_done(struct server_service *service)
{
    if (!service->cq)
        return;
    service_stop_workers(service);
    grpc_completion_queue_shutdown(service->cq);
    if (service->poller_started)
        pthread_join(service->poller, NULL);
    else /* no request was ever armed: nothing but the shutdown is in the queue */
        grpc_completion_queue_next(service->cq, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
    grpc_completion_queue_destroy(service->cq);
    for (size_t i = 0; i < service->methods_count; i++)
        free(service->methods[i].path);
    free(service->methods);
    free(service->workers);
    pthread_cond_destroy(&service->wakeup);
    pthread_mutex_destroy(&service->lock);
}
