/* A client's channel, shared by client.c (which makes it) and client_call.c (which calls over it). */
#pragma once

#include <grpc/grpc.h>

#include "rpc/endpoint.h"
#include "rpc/rpc.h"

struct rpc_client {
    struct rpc_endpoint endpoint;
    grpc_channel *channel;
    size_t message_max_bytes;
};
