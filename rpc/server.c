/*
 * A gRPC server: its endpoint, its services, and its end. Owns the grpc_server and every queue; the threads
 * belong to server_service.c. Made and freed by the program's main thread.
 */
#include <errno.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "common/cleanup.h"
#include "common/log.h"
#include "common/size.h"
#include "rpc/endpoint.h"
#include "rpc/library.h"
#include "rpc/rpc.h"
#include "rpc/server_service.h"
#include "rpc/tls.h"

#define SERVER_MESSAGE_MAX_BYTES (4 * MIB)
#define SERVER_BACKLOG_MAX 256
#define SERVER_STREAMS_MAX 1024 /* calls at once on one connection; gRPC holds what is above back */
#define SERVER_METADATA_MAX_BYTES (16 * KIB)
#define SERVER_SOCKET_MODE 0660
#define SERVER_MEMORY_MIN_BYTES (32 * MIB) /* for what gRPC buffers of all connections */
#define SERVER_MEMORY_MESSAGES 8

struct rpc_server {
    struct rpc_endpoint endpoint;
    grpc_server *grpc;
    grpc_completion_queue *shutdown_cq; /* only for the notice of the end: server_shutdown() empties it */
    bool started;
    struct tls_files *tls;           /* NULL on a unix socket */
    struct server_service *services; /* the last one answers for all methods that are not served */
    size_t services_count;
};

static grpc_arg server_arg(const char *name, int value)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)name, .value.integer = value};
}

/* gRPC refuses a message that is too large only once it has all of it: the quota ends the call long before
 * that. */
static grpc_resource_quota *server_create_quota(size_t message_max_bytes)
{
    grpc_resource_quota *quota = grpc_resource_quota_create("mooring");

    grpc_resource_quota_resize(quota,
                               MAX(SERVER_MEMORY_MIN_BYTES, SERVER_MEMORY_MESSAGES * message_max_bytes));
    return quota;
}

static grpc_server *server_create(const struct rpc_server_options *options)
{
    size_t max = options->message_max_bytes ? options->message_max_bytes : SERVER_MESSAGE_MAX_BYTES;
    grpc_resource_quota *quota = server_create_quota(max);
    grpc_arg list[] = {
        server_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)max),
        server_arg(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, (int)max),
        server_arg(GRPC_ARG_MAX_CONCURRENT_STREAMS, SERVER_STREAMS_MAX),
        server_arg(GRPC_ARG_MAX_METADATA_SIZE, SERVER_METADATA_MAX_BYTES),
        /* Two servers would share one port, each with half of the calls. */
        server_arg(GRPC_ARG_ALLOW_REUSEPORT, 0),
        server_arg(GRPC_ARG_KEEPALIVE_TIME_MS, 30000),
        server_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000),
        server_arg(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1),
        server_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
        server_arg(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 4000),
        server_arg(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, 20000),
        server_arg(GRPC_ARG_ENABLE_CHANNELZ, 0),
        {.type = GRPC_ARG_POINTER,
         .key = (char *)GRPC_ARG_RESOURCE_QUOTA,
         .value.pointer = {.p = quota, .vtable = grpc_resource_quota_arg_vtable()}},
    };
    grpc_channel_args args = {.num_args = ARRAY_SIZE(list), .args = list};
    grpc_server *server = grpc_server_create(&args, NULL);

    grpc_resource_quota_unref(quota);
    return server;
}

/* A queue that no listening socket is given to: nobody polls it before the end. */
static grpc_completion_queue *server_create_shutdown_queue(void)
{
    grpc_completion_queue_attributes attributes = {
        .version = 1, .cq_completion_type = GRPC_CQ_NEXT, .cq_polling_type = GRPC_CQ_NON_LISTENING};

    return grpc_completion_queue_create(grpc_completion_queue_factory_lookup(&attributes), &attributes, NULL);
}

static int server_init_services(struct rpc_server *server, const struct rpc_server_options *options,
                                const struct rpc_service *specs, size_t count, struct error *err)
{
    server->services = calloc(count + 1, sizeof(*server->services));
    if (!server->services)
        return error_errno(err, ENOMEM, "serve %s", options->endpoint);
    server->services_count = count + 1;
    for (size_t i = 0; i <= count; i++) {
        struct server_service *service = &server->services[i];
        service->grpc = server->grpc;
        service->local = server->endpoint.local;
        service->boot_id = options->boot_id;
        service->message_max_bytes =
            options->message_max_bytes ? options->message_max_bytes : SERVER_MESSAGE_MAX_BYTES;
        service->backlog_max = options->backlog_max ? options->backlog_max : SERVER_BACKLOG_MAX;
        int code = server_service_init(service, i < count ? &specs[i] : NULL, err);
        if (code)
            return code;
    }
    return 0;
}

static int server_listen_unix(struct rpc_server *server, unsigned mode, struct error *err)
{
    const struct rpc_endpoint *endpoint = &server->endpoint;
    grpc_server_credentials *credentials;
    _cleanup_fd_ int lock_fd = -1;
    mode_t saved;
    int code = rpc_endpoint_claim(endpoint, &lock_fd, err), port;

    if (code)
        return code;
    credentials = grpc_insecure_server_credentials_create();
    /* gRPC binds and listens in one step: a chmod after it would come too late for the first to connect. */
    saved = umask(0777 & ~mode);
    port = grpc_server_add_http2_port(server->grpc, endpoint->target, credentials);
    umask(saved);
    grpc_server_credentials_release(credentials);
    if (!port)
        return error_set(err, E_INVALID_ARGUMENT, "listen on socket %s: gRPC could not bind it",
                         endpoint->path);
    if (chmod(endpoint->path, mode) < 0)
        return error_errno(err, errno, "chmod socket %s", endpoint->path);
    return 0;
}

static int server_listen_tcp(struct rpc_server *server, const struct rpc_tls *tls, struct error *err)
{
    grpc_server_credentials *credentials;
    int code, port;

    if (!tls)
        return error_set(err, E_INVALID_ARGUMENT, "endpoint %s: TCP needs TLS files",
                         server->endpoint.target);
    code = tls_files_new(&server->tls, tls, err);
    if (!code)
        code = rpc_tls_server_credentials(server->tls, &credentials, err);
    if (code)
        return code;
    port = grpc_server_add_http2_port(server->grpc, server->endpoint.target, credentials);
    grpc_server_credentials_release(credentials);
    return port ? 0 : rpc_endpoint_explain(&server->endpoint, err);
}

static int server_start(struct rpc_server *server, const struct rpc_server_options *options,
                        struct error *err)
{
    int code;

    if (server->endpoint.local)
        code =
            server_listen_unix(server, options->socket_mode ? options->socket_mode : SERVER_SOCKET_MODE, err);
    else
        code = server_listen_tcp(server, options->tls, err);
    if (code)
        return code;
    grpc_server_start(server->grpc);
    server->started = true;
    for (size_t i = 0; !code && i < server->services_count; i++)
        code = server_service_start(&server->services[i], err);
    return code;
}

int rpc_server_new(struct rpc_server **ret, const struct rpc_server_options *options,
                   const struct rpc_service *services, size_t services_count, struct error *err)
{
    struct rpc_server *server = calloc(1, sizeof(*server));
    int code;

    if (!server)
        return error_errno(err, ENOMEM, "serve %s", options->endpoint);
    code = rpc_endpoint_init(&server->endpoint, options->endpoint, err);
    if (code) {
        free(server);
        return code;
    }
    rpc_library_ref();
    server->grpc = server_create(options);
    server->shutdown_cq = server_create_shutdown_queue();
    grpc_server_register_completion_queue(server->grpc, server->shutdown_cq, NULL);
    code = server_init_services(server, options, services, services_count, err);
    if (!code)
        code = server_start(server, options, err);
    if (code)
        rpc_server_free(server, 0);
    else
        *ret = server;
    return code;
}

static bool server_wait(struct rpc_server *server, gpr_timespec until)
{
    return grpc_completion_queue_next(server->shutdown_cq, until, NULL).type == GRPC_OP_COMPLETE;
}

/* Every call has ended when this returns: a handler that does not heed rpc_call_cancelled() holds it up. */
static void server_shutdown(struct rpc_server *server, unsigned grace_ms)
{
    gpr_timespec until =
        gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC), gpr_time_from_millis((int64_t)grace_ms, GPR_TIMESPAN));

    grpc_server_shutdown_and_notify(server->grpc, server->shutdown_cq, server);
    if (server_wait(server, until))
        return;
    grpc_server_cancel_all_calls(server->grpc);
    server_wait(server, gpr_inf_future(GPR_CLOCK_MONOTONIC));
}

struct rpc_server *rpc_server_free(struct rpc_server *server, unsigned grace_ms)
{
    if (!server)
        return NULL;
    server_shutdown(server, grace_ms);
    for (size_t i = 0; i < server->services_count; i++)
        server_service_done(&server->services[i]);
    grpc_server_destroy(server->grpc);
    grpc_completion_queue_shutdown(server->shutdown_cq);
    server_wait(server, gpr_inf_future(GPR_CLOCK_MONOTONIC));
    grpc_completion_queue_destroy(server->shutdown_cq);
    tls_files_free(server->tls); /* no handshake can ask for them any more */
    free(server->services);
    rpc_endpoint_done(&server->endpoint);
    rpc_library_unref();
    free(server);
    return NULL;
}
