/* Calls to all storage servers at once. Owns a thread and a client for each server while a call lasts. */
#include "cli/servers.h"

#include <pthread.h>
#include <stdlib.h>
#include <strings.h>

#include "common/cleanup.h"
#include "common/id.h"
#include "common/strings.h"
#include "common/time.h"

struct ask {
    const struct cli *cli;
    const char *method;
    const ProtobufCMessage *request;
    struct server_answer *answer;
    pthread_t thread;
    bool started;
};

static int call(const struct cli *cli, struct rpc_client *client, const char *method,
                const ProtobufCMessage *request, ProtobufCMessage **ret_response, struct error *err)
{
    const struct rpc_call_options options = {.timeout_ms = cli->timeout_ms, .retry = cli->retry};

    return rpc_client_call(client, &mooring__storage__v1__storage__descriptor, method, request, &options,
                           ret_response, err);
}

/* A wrong pool's "done" would be a lie. */
static int check_pool(const struct cli *cli, struct rpc_client *client, const struct server_config *config,
                      struct error *err)
{
    Mooring__Storage__V1__GetServerRequest request = MOORING__STORAGE__V1__GET_SERVER_REQUEST__INIT;
    Mooring__Storage__V1__GetServerResponse *response;
    ProtobufCMessage *message = NULL;
    int r = call(cli, client, "GetServer", &request.base, &message, err);

    if (r != E_OK)
        return r;
    response = (Mooring__Storage__V1__GetServerResponse *)message;
    if (!str_equal(response->server_id, config->id) ||
        strcasecmp(response->pool_uuid, config->pool_uuid) != 0)
        r = error_set(
            err, E_UNAVAILABLE,
            "it answers as server %s with pool %s, but the configuration names pool %s; is its file "
            "system mounted?",
            response->server_id, response->pool_uuid, config->pool_uuid);
    protobuf_c_message_free_unpacked(message, NULL);
    return r;
}

static int ask_one(const struct cli *cli, const struct server_config *config, const char *method,
                   const ProtobufCMessage *request, ProtobufCMessage **ret_response, struct error *err)
{
    const struct rpc_client_options options = {
        .endpoint = config->address, .tls = cli->has_tls ? &cli->tls : NULL, .server_name = config->id};
    struct rpc_client *client;
    int r = rpc_client_new(&client, &options, err);

    if (r == E_OK) {
        r = check_pool(cli, client, config, err);
        if (r == E_OK)
            r = call(cli, client, method, request, ret_response, err);
        rpc_client_free(client);
    }
    if (r != E_OK)
        error_wrap(err, "storage server %s at %s", config->id, config->address);
    return r;
}

static void *run(void *context)
{
    struct ask *ask = context;

    ask_one(ask->cli, ask->answer->config, ask->method, ask->request, &ask->answer->message,
            &ask->answer->err);
    return NULL;
}

static int check_config(const struct cli *cli, struct error *err)
{
    size_t there = 0;

    for (size_t i = 0; i < cli->servers.count; i++)
        there += !cli->servers.items[i].gone;
    if (there == 0)
        return error_set(
            err, E_INVALID_ARGUMENT,
            "the configuration names no storage server; add \"servers\" to %s, as mooring(1) shows",
            cli->config_path ? cli->config_path : "/etc/mooring/mooring.json");
    if (!cli->has_tls)
        return error_set(
            err, E_INVALID_ARGUMENT,
            "the configuration %s has no \"tls\"; `mooring tls issue operator` makes the certificate",
            cli->config_path);
    return E_OK;
}

static void ask_all(struct ask *asks, size_t count)
{
    for (size_t i = 0; i < count; i++)
        asks[i].started = pthread_create(&asks[i].thread, NULL, run, &asks[i]) == 0;
    for (size_t i = 0; i < count; i++) {
        if (asks[i].started)
            pthread_join(asks[i].thread, NULL);
        else
            run(&asks[i]);
    }
}

int servers_ask(const struct cli *cli, const char *method, const ProtobufCMessage *request,
                struct server_answers *ret, struct error *err)
{
    struct server_answers answers = {0};
    struct ask *asks;
    int r = check_config(cli, err);

    if (r != E_OK)
        return r;
    asks = calloc(cli->servers.count, sizeof(*asks));
    answers.items = calloc(cli->servers.count, sizeof(*answers.items));
    if (!asks || !answers.items) {
        free(asks);
        free(answers.items);
        return error_errno(err, ENOMEM, "%s", method);
    }
    for (size_t i = 0; i < cli->servers.count; i++) {
        struct server_answer *answer = &answers.items[answers.count];

        if (cli->servers.items[i].gone)
            continue;
        answer->config = &cli->servers.items[i];
        asks[answers.count++] =
            (struct ask){.cli = cli, .method = method, .request = request, .answer = answer};
    }
    ask_all(asks, answers.count);
    free(asks);
    for (size_t i = 0; i < answers.count; i++)
        answers.failed += !answers.items[i].message;
    *ret = answers;
    return E_OK;
}

void servers_done(struct server_answers *answers)
{
    for (size_t i = 0; i < answers->count; i++) {
        if (answers->items[i].message)
            protobuf_c_message_free_unpacked(answers->items[i].message, NULL);
        error_done(&answers->items[i].err);
    }
    free(answers->items);
    *answers = (struct server_answers){0};
}

int servers_outcome(const struct server_answers *answers, const char *what, struct error *err)
{
    _cleanup_free_ char *text = NULL;
    int first = E_OK;

    for (size_t i = 0; i < answers->count; i++) {
        const struct error *one = &answers->items[i].err;
        char *longer;

        if (answers->items[i].message)
            continue;
        first =
            first == E_OK || first == E_NOT_FOUND ? one->code : first; /* a proven absence is the weakest */
        longer = str_format("%s%s%s", text ? text : "", text ? "; " : "", error_text(one));
        free(text);
        text = longer;
    }
    if (answers->failed == 0)
        return E_OK;
    return error_set(err, answers->failed < answers->count ? CLI_E_PARTIAL : first,
                     "%s on %zu of %zu storage servers: %s", what, answers->failed, answers->count,
                     text ? text : "no answer");
}

int servers_ask_one(const struct cli *cli, const char *server_id, const char *method,
                    const ProtobufCMessage *request, ProtobufCMessage **ret_response, struct error *err)
{
    int r = check_config(cli, err);

    if (r != E_OK)
        return r;
    for (size_t i = 0; i < cli->servers.count; i++) {
        if (str_equal(cli->servers.items[i].id, server_id))
            return ask_one(cli, &cli->servers.items[i], method, request, ret_response, err);
    }
    return error_set(err, E_UNAVAILABLE, "the configuration does not name storage server %s", server_id);
}

int servers_ask_volume(const struct cli *cli, const char *volume_id, const char *method,
                       const ProtobufCMessage *request, ProtobufCMessage **ret_response, struct error *err)
{
    char server_id[ID_SERVER_MAX + 1];
    int r = id_volume_server(volume_id, server_id, err);

    return r == E_OK ? servers_ask_one(cli, server_id, method, request, ret_response, err) : r;
}
