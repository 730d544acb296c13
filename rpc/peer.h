/* Who is at the other end of a call, from its connection's certificate. */
#pragma once

#include <grpc/grpc.h>
#include <stdbool.h>

#include "rpc/rpc.h"

/* Role and id of a certificate's common name; anything that is not one of ours is RPC_ROLE_NONE. Leaves
 * address. */
void rpc_peer_parse(struct rpc_peer *peer, const char *common_name, size_t length);

/* The peer of a call. local: the endpoint is a unix socket, whose file mode admitted the peer already. */
void rpc_peer_identify(struct rpc_peer *ret_peer, grpc_call *call, bool local);

/* "node:worker-1@ipv4:10.0.0.7:4242", for the access log. */
void rpc_peer_format(const struct rpc_peer *peer, char *ret_text, size_t size);
