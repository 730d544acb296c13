/* "unix:///path" and "host:port": checked, translated for gRPC, and, for a socket file, kept from theft. */
#pragma once

#include <stdbool.h>

#include "common/error.h"

struct rpc_endpoint {
    bool local;     /* a unix socket */
    char path[108]; /* of a unix socket; what sockaddr_un holds */
    char *target;   /* gRPC's form of it */
    char *host;     /* of TCP, without brackets */
    char *port;
};

/* E_INVALID_ARGUMENT, naming the text, for anything but the two forms; port 0 is refused. */
int rpc_endpoint_init(struct rpc_endpoint *ret_endpoint, const char *text, struct error *err);
void rpc_endpoint_done(struct rpc_endpoint *endpoint);

/*
 * Make way for a server at a unix endpoint: a socket file that nobody listens on is removed; E_EXISTS when
 * somebody does, or when the file is no socket. *ret_lock_fd locks the directory against another server's
 * claim until it is closed, which the caller does once it listens.
 */
int rpc_endpoint_claim(const struct rpc_endpoint *endpoint, int *ret_lock_fd, struct error *err);

/* Why a TCP endpoint could not be listened on, found by trying: always sets err and returns its code. */
int rpc_endpoint_explain(const struct rpc_endpoint *endpoint, struct error *err);
