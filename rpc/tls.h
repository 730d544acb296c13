/* gRPC credentials from the PEM files of struct rpc_tls. */
#pragma once

#include <grpc/grpc_security.h>

#include "rpc/rpc.h"

/* E_INVALID_ARGUMENT, naming the file, when one is missing, does not parse, or key and certificate do not
 * match. The caller releases what it gets. */
int rpc_tls_server_credentials(const struct rpc_tls *tls, grpc_server_credentials **ret_credentials,
                               struct error *err);
int rpc_tls_channel_credentials(const struct rpc_tls *tls, grpc_channel_credentials **ret_credentials,
                                struct error *err);
