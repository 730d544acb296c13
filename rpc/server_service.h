/*
 * One service of a server: its completion queue with the thread that empties it, its workers, and the bounded
 * line of calls between them. The queue's thread never blocks on a handler, so that a cancel reaches a call
 * whose handler runs, and a full line is answered.
 */
#pragma once

#include <grpc/grpc.h>
#include <pthread.h>
#include <stdbool.h>

#include "rpc/rpc.h"

/* What a completion of gRPC's carries as its tag; embedded in its owner. Atomic, so that what the starter
 * wrote before is seen to be handed over, by ThreadSanitizer too, which does not look into gRPC. */
struct rpc_tag {
    void (*_Atomic done)(struct rpc_tag *tag, bool ok);
};

struct server_service;

struct server_method {
    struct server_service *service;
    const struct rpc_method *spec;               /* NULL: stands for every method that is not served */
    const ProtobufCMethodDescriptor *descriptor; /* NULL with spec */
    char *path;                                  /* "/csi.v1.Identity/Probe" */
    void *registration;                          /* gRPC's */
    bool armed;                                  /* gRPC holds a request for its next call */
};

struct server_service {
    const struct rpc_service *spec; /* NULL: the one for methods that are not served; it has no workers */
    grpc_server *grpc;
    grpc_completion_queue *cq;
    bool local;          /* the server's endpoint is a unix socket */
    const char *boot_id; /* that answers carry, or NULL */
    size_t message_max_bytes;
    unsigned backlog_max;

    struct server_method *methods;
    size_t methods_count;

    pthread_t poller;
    bool poller_started;
    pthread_t *workers;
    unsigned workers_count;

    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t wakeup;
    struct rpc_call *first, **last;
    unsigned waiting;
    bool stopping;
};

/* Register spec's methods (all others when spec is NULL) with grpc, which is not started yet. service is
 * zeroed but for grpc, local, boot_id and the limits. On failure too, server_service_done() releases it. */
int server_service_init(struct server_service *service, const struct rpc_service *spec, struct error *err);

/* Start the threads and ask gRPC for calls; the server has been started. */
int server_service_start(struct server_service *service, struct error *err);

/* Put a call in line for a worker. False when the line is full. */
bool server_service_enqueue(struct server_service *service, struct rpc_call *call);

/* Stop the threads, empty the queue, release; after the server's shutdown, with no call left. */
void server_service_done(struct server_service *service);
