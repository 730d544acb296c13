/*
 * A client's channel to one server, made anew when the TLS files change. gRPC connects when the first call
 * asks for it, and again after a break; it does no retries of its own, follows no proxy from the environment,
 * and looks up no service configuration. Any thread.
 */
#include "rpc/client.h"

#include <errno.h>
#include <grpc/grpc_security.h>
#include <stdlib.h>
#include <string.h>

#include "common/cleanup.h"
#include "common/log.h"
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

static int client_credentials(const struct rpc_client *client, grpc_channel_credentials **ret,
                              struct error *err)
{
    if (client->tls)
        return rpc_tls_channel_credentials(tls_files_paths(client->tls), ret, err);
    *ret = grpc_insecure_credentials_create();
    return 0;
}

/* A channel with one reference, the client's. */
static int client_connect(const struct rpc_client *client, struct client_channel **ret, struct error *err)
{
    struct client_channel *channel = calloc(1, sizeof(*channel));
    grpc_channel_credentials *credentials;
    int code;

    if (!channel)
        return error_errno(err, ENOMEM, "connect to %s", client->endpoint.target);
    code = client_credentials(client, &credentials, err);
    if (code) {
        free(channel);
        return code;
    }
    channel->grpc =
        client_create_channel(client, credentials, client->endpoint.local ? NULL : client->server_name);
    channel->references = 1;
    grpc_channel_credentials_release(credentials);
    *ret = channel;
    return 0;
}

static void client_channel_unref_locked(struct client_channel *channel)
{
    if (--channel->references > 0)
        return;
    grpc_channel_destroy(channel->grpc);
    free(channel);
}

static void client_renew_locked(struct rpc_client *client)
{
    _cleanup_error_ struct error err = {0};
    struct client_channel *channel;

    if (client_connect(client, &channel, &err)) {
        tls_files_refused(client->tls, &err);
        return;
    }
    tls_files_taken(client->tls);
    log_info("connecting to %s with new TLS files: %s", client->endpoint.target,
             tls_files_paths(client->tls)->cert_file);
    client_channel_unref_locked(client->channel);
    client->channel = channel;
}

struct client_channel *client_channel_get(struct rpc_client *client)
{
    struct client_channel *channel;

    pthread_mutex_lock(&client->lock);
    if (client->tls && tls_files_changed(client->tls))
        client_renew_locked(client);
    channel = client->channel;
    channel->references++;
    pthread_mutex_unlock(&client->lock);
    return channel;
}

void client_channel_put(struct rpc_client *client, struct client_channel *channel)
{
    pthread_mutex_lock(&client->lock);
    client_channel_unref_locked(channel);
    pthread_mutex_unlock(&client->lock);
}

static int client_init(struct rpc_client *client, const struct rpc_client_options *options, struct error *err)
{
    int code;

    client->message_max_bytes =
        options->message_max_bytes ? options->message_max_bytes : CLIENT_MESSAGE_MAX_BYTES;
    client->server_name = options->server_name ? strdup(options->server_name) : NULL;
    if (options->server_name && !client->server_name)
        return error_errno(err, ENOMEM, "connect to %s", options->endpoint);
    if (!client->endpoint.local && !options->tls)
        return error_set(err, E_INVALID_ARGUMENT, "endpoint %s: TCP needs TLS files", options->endpoint);
    if (!client->endpoint.local) {
        code = tls_files_new(&client->tls, options->tls, err);
        if (code)
            return code;
        tls_files_changed(client->tls); /* they are read now */
    }
    return client_connect(client, &client->channel, err);
}

int rpc_client_new(struct rpc_client **ret, const struct rpc_client_options *options, struct error *err)
{
    struct rpc_client *client = calloc(1, sizeof(*client));
    int code;

    if (!client)
        return error_errno(err, ENOMEM, "connect to %s", options->endpoint);
    code = rpc_endpoint_init(&client->endpoint, options->endpoint, err);
    if (code) {
        free(client);
        return code;
    }
    rpc_library_ref();
    pthread_mutex_init(&client->lock, NULL);
    code = client_init(client, options, err);
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
        client_channel_put(client, client->channel);
    tls_files_free(client->tls);
    free(client->server_name);
    pthread_mutex_destroy(&client->lock);
    rpc_endpoint_done(&client->endpoint);
    rpc_library_unref();
    free(client);
    return NULL;
}
