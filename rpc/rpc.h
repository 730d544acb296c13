/*
 * gRPC for the rest of Mooring: a server and a client driven by protobuf-c's service descriptors. Messages
 * are plain protobuf-c structs; <grpc/…> stays inside rpc/. Nothing is generated for services: a descriptor
 * carries the methods' names and message types. protobuf-c ends strings at a NUL: a request whose strings
 * carry one is refused with INVALID_ARGUMENT.
 *
 * Threads: a server runs each call on one of its worker threads; a handler is an ordinary blocking function.
 * A client may be used from any thread, several calls at once.
 */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

/* ---- who calls: read off the peer's certificate (subject CN "mooring:<role>[:<id>]") ---- */

enum rpc_role {
    RPC_ROLE_NONE,       /* a TCP peer without a certificate of ours: never gets a call through */
    RPC_ROLE_LOCAL,      /* a peer on a unix socket: the socket's file mode is its admission */
    RPC_ROLE_CONTROLLER, /* CN "mooring:controller" */
    RPC_ROLE_NODE,       /* CN "mooring:node:<node id>" */
    RPC_ROLE_OPERATOR,   /* CN "mooring:operator" */
    RPC_ROLE_SERVER,     /* CN "mooring:server:<server id>": a storage server's own certificate */
};

struct rpc_peer {
    enum rpc_role role;
    char id[129];      /* the node's or server's id, "" for others */
    char address[128]; /* for the access log */
};

/* TLS files, PEM. Peers prove themselves with a certificate of the same private CA; a client takes no server
 * but one with RPC_ROLE_SERVER. TLS 1.3 between ours; libgrpc's floor is 1.2. Files that are replaced are
 * taken at a server's next handshake and a client's next call; connections that stand are not ended. Where
 * the new ones cannot be used (one of them is not there yet, say), which is logged, the old ones stay in use.
 */
struct rpc_tls {
    const char *ca_file;
    const char *cert_file;
    const char *key_file;
};

/* ---- server ---- */

struct rpc_call; /* one call being served; valid until its handler returns */

const struct rpc_peer *rpc_call_peer(const struct rpc_call *call);
const char *rpc_call_id(const struct rpc_call *call); /* the request id of the access log */
bool rpc_call_cancelled(struct rpc_call *call);       /* the caller went away, or its deadline passed */
int64_t
rpc_call_remaining_ms(struct rpc_call *call); /* until the caller's deadline; INT64_MAX when it set none */

/* Server streaming: send one response. Blocks for flow control. E_CANCELLED when the caller went away, or,
 * which ends the call, did not make room for it within the service's send_timeout_ms. */
int rpc_call_send(struct rpc_call *call, const ProtobufCMessage *response, struct error *err);

/*
 * A handler fills response, which arrives initialised; what it hangs into it is freed by protobuf-c with the
 * default allocator (malloc). Its return becomes the gRPC status by rpc/status. For a streaming method
 * response is NULL.
 */
typedef int (*rpc_handler)(struct rpc_call *call, const ProtobufCMessage *request, ProtobufCMessage *response,
                           void *context, struct error *err);

struct rpc_method {
    const char *name; /* as in the .proto; a name that the descriptor lacks is a programmer error (assert) */
    rpc_handler handle; /* methods of the descriptor that are not listed answer UNIMPLEMENTED */
    bool streaming;
};

struct rpc_service {
    const ProtobufCServiceDescriptor *descriptor;
    const struct rpc_method *methods;
    size_t methods_count;
    void *context;
    /* Asked before each handler; a refusal is E_PERMISSION or E_UNAUTHENTICATED. NULL admits everyone. */
    int (*authorize)(const struct rpc_peer *peer, const char *method, const ProtobufCMessage *request,
                     void *context, struct error *err);
    /* Asked after it: is the request within what the protocol allows? NULL takes every one. */
    int (*check)(const ProtobufCMessage *request, struct error *err);
    unsigned
        threads; /* workers (and a completion queue) of this service alone, so that a slow one cannot hold up
                    another service's Probe; at most this many of its calls run at once; 0 means 4 */
    unsigned send_timeout_ms; /* of a stream: for its reader to make room for one response; 0: no limit */
};

struct rpc_server_options {
    const char *endpoint;      /* "unix:///path" or "host:port"; port 0 is refused */
    const struct rpc_tls *tls; /* required for TCP; NULL on a unix socket */
    unsigned
        socket_mode; /* of a unix socket, 0 means 0660. A stale socket file is replaced, a live one is not */
    size_t message_max_bytes; /* 0 means 4 MiB */
    unsigned
        backlog_max;     /* calls waiting for a thread, per service, before RESOURCE_EXHAUSTED; 0 means 256 */
    const char *boot_id; /* NULL, or what every answer says of the process that gave it: a word of at most
                            RPC_BOOT_ID_MAX. Outlives the server */
};

#define RPC_BOOT_ID_MAX 64 /* in the trailing metadata "mooring-boot-id" of each answer */

struct rpc_server;

/* Listen and serve. Each call leaves one line in the log: its request id (the caller's "x-request-id" where
 * that is valid), peer, method, result and duration. What gRPC buffers of requests is bounded. E_EXISTS when
 * the endpoint is taken by a live server; E_INVALID_ARGUMENT for a bad endpoint or TLS file, naming it. The
 * services and their tables must live as long as the server. */
int rpc_server_new(struct rpc_server **ret, const struct rpc_server_options *options,
                   const struct rpc_service *services, size_t services_count, struct error *err);

/* Graceful drain: take no new calls, wait up to grace_ms for those running, then cancel them; free. Returns
 * NULL. A handler that does not look at rpc_call_cancelled() holds this up until it returns. */
struct rpc_server *rpc_server_free(struct rpc_server *server, unsigned grace_ms);

/* ---- client ---- */

struct rpc_client_options {
    const char *endpoint;      /* "unix:///path" or "host:port" */
    const struct rpc_tls *tls; /* required for TCP */
    const char *server_name;  /* the peer's certificate must carry this DNS name; NULL: the endpoint's host */
    size_t message_max_bytes; /* 0 means 4 MiB */
};

struct rpc_client;

/* Makes no connection yet. */
int rpc_client_new(struct rpc_client **ret, const struct rpc_client_options *options, struct error *err);
struct rpc_client *rpc_client_free(struct rpc_client *client);

struct rpc_call_options {
    unsigned timeout_ms; /* the whole call, retries included; 0 means 30 s */
    /* Try again, with back-off and jitter, while the server is UNAVAILABLE and time remains: the one retry
     * policy. Only for calls that may be repeated; all of ours may. */
    bool retry;
    /* NULL, or room for RPC_BOOT_ID_MAX + 1 bytes: the boot id of the process that answered, with success or
     * not. "" when nobody answered, or one that states none. */
    char *ret_boot_id;
};

/*
 * One unary call: method_name of descriptor. On 0, *ret_response is the parsed response, which the caller
 * frees with protobuf_c_message_free_unpacked(…, NULL). Otherwise the gRPC status comes back as an error_code
 * by rpc/status (UNAVAILABLE → E_UNAVAILABLE, ABORTED → E_BUSY or E_STALE, DEADLINE_EXCEEDED → E_DEADLINE, …)
 * with the server's text. A server that cannot be reached, or that refuses us or is refused by TLS, is
 * E_UNAVAILABLE, also when the time ran out before there was a connection; the text says which. After
 * E_DEADLINE the call may still be carried out.
 */
int rpc_client_call(struct rpc_client *client, const ProtobufCServiceDescriptor *descriptor,
                    const char *method_name, const ProtobufCMessage *request,
                    const struct rpc_call_options *options, ProtobufCMessage **ret_response,
                    struct error *err);

/* A server-streaming call: each response is handed to receive, borrowed; a non-zero return of it ends the
 * call with that code. */
int rpc_client_stream(struct rpc_client *client, const ProtobufCServiceDescriptor *descriptor,
                      const char *method_name, const ProtobufCMessage *request,
                      const struct rpc_call_options *options,
                      int (*receive)(const ProtobufCMessage *response, void *context), void *context,
                      struct error *err);
