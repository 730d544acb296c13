/* gRPC credentials from the PEM files of struct rpc_tls. */
#pragma once

#include <grpc/grpc_security.h>

#include "rpc/tls_files.h"

/* E_INVALID_ARGUMENT, naming the file, when one is missing, does not parse, or key and certificate do not
 * match. The caller releases what it gets. */

/* They follow the files: each handshake is made with what the files hold by then. Where those cannot be used,
 * which is logged, it is made with what they held before. files must outlive the server. */
int rpc_tls_server_credentials(struct tls_files *files, grpc_server_credentials **ret_credentials,
                               struct error *err);

/* Of the files as they are now. */
int rpc_tls_channel_credentials(const struct rpc_tls *tls, grpc_channel_credentials **ret_credentials,
                                struct error *err);
