/* A client's channel, shared by client.c (which makes it) and client_call.c (which calls over it). */
#pragma once

#include <grpc/grpc.h>
#include <pthread.h>

#include "rpc/endpoint.h"
#include "rpc/rpc.h"
#include "rpc/tls_files.h"

/* A channel is made of the TLS files as they were; calls that began on an older one end on it. */
struct client_channel {
    grpc_channel *grpc;
    unsigned references; /* client->lock: of the client and of each attempt */
};

struct rpc_client {
    struct rpc_endpoint endpoint;
    size_t message_max_bytes;
    char *server_name;     /* NULL: the endpoint's host */
    struct tls_files *tls; /* NULL on a unix socket */
    pthread_mutex_t lock;
    struct client_channel *channel; /* lock: the newest */
};

/* The channel for one attempt, of the TLS files as they are now, or, where those cannot be used, as they
 * were. */
struct client_channel *client_channel_get(struct rpc_client *client);
void client_channel_put(struct rpc_client *client, struct client_channel *channel);
