/*
 * A client's channel to one server. gRPC connects when the first call asks for it, and again after a break;
 * it does no retries of its own, follows no proxy from the environment, and looks up no service
 * configuration. Any thread.
 */
#include "rpc/client.h"

#include <errno.h>
#include <grpc/grpc_security.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/size.h"
#include "rpc/library.h"
#include "rpc/tls.h"

#define CLIENT_MESSAGE_MAX_BYTES (4 * MIB)

static grpc_arg client_arg(const char *name, int value)
{
    return (grpc_arg){.type = GRPC_ARG_INTEGER, .key = (char *)name, .value.integer = value};
}

static grpc_channel *client_create_channel(const struct rpc_client *client,
                                           grpc_channel_credentials *credentials, const char *server_name)
{
    grpc_arg list[] = {
        client_arg(GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, (int)client->message_max_bytes),
        client_arg(GRPC_ARG_MAX_SEND_MESSAGE_LENGTH, (int)client->message_max_bytes),
        client_arg(GRPC_ARG_ENABLE_RETRIES, 0),
        client_arg(GRPC_ARG_ENABLE_HTTP_PROXY, 0),
        client_arg(GRPC_ARG_SERVICE_CONFIG_DISABLE_RESOLUTION, 1),
        client_arg(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1), /* another client's certificate is not ours */
        client_arg(GRPC_ARG_ENABLE_CHANNELZ, 0),
        /* A dead link is noticed within 15 s; the server allows pings this often. */
        client_arg(GRPC_ARG_KEEPALIVE_TIME_MS, 10000),
        client_arg(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5000),
        client_arg(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0),
        /* The pace of retries is client_call.c's; gRPC's own must not slow it down. */
        client_arg(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100),
        client_arg(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000),
        client_arg(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 1000),
        client_arg(GRPC_ARG_DNS_MIN_TIME_BETWEEN_RESOLUTIONS_MS, 1000),
        {.type = GRPC_ARG_STRING,
         .key = (char *)GRPC_SSL_TARGET_NAME_OVERRIDE_ARG,
         .value.string = (char *)server_name},
    };
    grpc_channel_args args = {.num_args = ARRAY_SIZE(list) - (server_name ? 0 : 1), .args = list};

    return grpc_channel_create(client->endpoint.target, credentials, &args);
}

static int client_connect(struct rpc_client *client, const struct rpc_client_options *options,
                          struct error *err)
{
    grpc_channel_credentials *credentials;
    int code;

    if (client->endpoint.local) {
        credentials = grpc_insecure_credentials_create();
    } else {
        if (!options->tls)
            return error_set(err, E_INVALID_ARGUMENT, "endpoint %s: TCP needs TLS files", options->endpoint);
        code = rpc_tls_channel_credentials(options->tls, &credentials, err);
        if (code)
            return code;
    }
    client->channel =
        client_create_channel(client, credentials, client->endpoint.local ? NULL : options->server_name);
    grpc_channel_credentials_release(credentials);
    return 0;
}

int rpc_client_new(struct rpc_client **ret, const struct rpc_client_options *options, struct error *err)
{
    struct rpc_client *client = calloc(1, sizeof(*client));
    int code;

    if (!client)
        return error_errno(err, ENOMEM, "connect to %s", options->endpoint);
    client->message_max_bytes =
        options->message_max_bytes ? options->message_max_bytes : CLIENT_MESSAGE_MAX_BYTES;
    code = rpc_endpoint_init(&client->endpoint, options->endpoint, err);
    if (code) {
        free(client);
        return code;
    }
    rpc_library_ref();
    code = client_connect(client, options, err);
    if (code)
        rpc_client_free(client);
    else
        *ret = client;
    return code;
}

struct rpc_client *rpc_client_free(struct rpc_client *client)
{
    if (!client)
        return NULL;
    if (client->channel)
        grpc_channel_destroy(client->channel);
    rpc_endpoint_done(&client->endpoint);
    rpc_library_unref();
    free(client);
    return NULL;
}
