/* One call on the server: from gRPC's notice of it to its status and its line in the access log. */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#include "rpc/server_service.h"

#define RPC_ID_MAX 64 /* of a caller's request id: letters, digits, "-", "_", "." */

struct rpc_call {
    struct server_method *method;
    struct rpc_call *next; /* in the service's line */
    grpc_call *grpc;
    atomic_uint references; /* one for each completion under way, one while a worker or the line has it */
    uint64_t started_ns;
    char id[RPC_ID_MAX + 1];
    struct rpc_peer peer;
    gpr_timespec deadline;

    /* requesting; details only where no method was registered */
    struct rpc_tag request_tag;
    grpc_call_details details;
    grpc_metadata_array metadata;

    struct rpc_tag receive_tag;
    grpc_byte_buffer *payload;

    struct rpc_tag close_tag;
    int closed_early;
    atomic_bool cancelled;

    /* a send that a streaming handler waits for */
    struct rpc_tag send_tag;
    pthread_mutex_t lock;
    pthread_cond_t sent;
    bool sending, send_failed;
    bool initial_sent;

    struct rpc_tag finish_tag;
};

/* Ask gRPC for the method's next call; sets method->armed. False when memory ran out: try again later. */
bool server_call_request(struct server_method *method);

/* Serve a call whose request has arrived: runs the handler. Gives up the line's reference. Worker threads. */
void server_call_run(struct rpc_call *call);
