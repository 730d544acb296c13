/*
 * One gRPC client for each configured storage server, and the check that answers come from the pool that the
 * configuration names. Owns the clients and, under each server's mutex, what that server said last. Run by
 * the service's worker threads and by the monitor.
 */
#include "controller/storage_client.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>

#include "common/cleanup.h"
#include "common/id.h"
#include "common/log.h"
#include "common/size.h"
#include "common/strings.h"
#include "common/time.h"
#include "proto/map.h"

#define CALL_ATTEMPTS 3 /* a server may restart between an answer and its proof; it does not do so thrice */
#define CALL_TIMEOUT_MAX_MS UINT64_C(600000)
#define STREAM_TIMEOUT_MAX_MS UINT64_C(86400000) /* it goes at its reader's pace, a backup's */
#define SILENT_AFTER_MS 1000                     /* without an answer */
#define CLOCK_SLACK_MS 5
#define SILENT_CALLS_MAX 8 /* of a share, that wait for a server that answers nothing */

struct storage_server {
    const struct server_config *config;
    struct rpc_client *client; /* NULL for one that is gone */
    pthread_mutex_t lock;
    char boot_id[ID_BOOT_LENGTH + 1]; /* locked: of the process that proved its pool last; "" for none */
    json_t *topology;                 /* locked */
    json_t *features;                 /* locked: array of strings; NULL before the first answer */
    bool ready;                       /* locked */
    struct storage_room room;         /* locked */
    bool silent;                      /* locked: the last GetServer was not answered as it should be */
    struct share changes, looks, streams;
};

struct storage {
    struct storage_server *servers;
    size_t count;
    struct share_pool calls, streams;
};

static int server_init(struct storage *storage, struct storage_server *server,
                       const struct server_config *config, const struct rpc_tls *tls, struct error *err)
{
    struct rpc_client_options options = {
        .endpoint = config->address,
        .tls = tls,
        .server_name = config->id,
    };

    server->config = config;
    pthread_mutex_init(&server->lock, NULL);
    share_init(&server->changes, &storage->calls, config->id, config->address);
    share_init(&server->looks, &storage->calls, config->id, config->address);
    share_init(&server->streams, &storage->streams, config->id, config->address);
    server->topology = json_incref(config->topology);
    return config->gone ? E_OK : rpc_client_new(&server->client, &options, err);
}

int storage_new(struct storage **ret, const struct server_list *servers, const struct rpc_tls *tls,
                struct error *err)
{
    struct storage *storage = calloc(1, sizeof(*storage));
    int r = E_OK;

    if (storage)
        storage->servers = calloc(servers->count + 1, sizeof(*storage->servers));
    if (!storage || !storage->servers) {
        free(storage);
        return error_errno(err, ENOMEM, "storage servers");
    }
    share_pool_init(&storage->calls, STORAGE_CALLS_MAX);
    share_pool_init(&storage->streams, STORAGE_STREAMS_MAX);
    while (r == E_OK && storage->count < servers->count) {
        const struct server_config *config = &servers->items[storage->count];

        r = server_init(storage, &storage->servers[storage->count++], config, tls, err);
    }
    if (r != E_OK) {
        storage_free(storage);
        return r;
    }
    *ret = storage;
    return E_OK;
}

struct storage *storage_free(struct storage *storage)
{
    if (!storage)
        return NULL;
    for (size_t i = 0; i < storage->count; i++) {
        struct storage_server *server = &storage->servers[i];

        if (server->client)
            rpc_client_free(server->client);
        json_decref(server->topology);
        json_decref(server->features);
        pthread_mutex_destroy(&server->lock);
    }
    share_pool_done(&storage->calls);
    share_pool_done(&storage->streams);
    free(storage->servers);
    free(storage);
    return NULL;
}

size_t storage_count(const struct storage *storage)
{
    return storage->count;
}

struct storage_server *storage_at(const struct storage *storage, size_t index)
{
    assert(index < storage->count);
    return &storage->servers[index];
}

const struct server_config *storage_server_config(const struct storage_server *server)
{
    return server->config;
}

struct storage_server *storage_find(const struct storage *storage, const char *server_id)
{
    for (size_t i = 0; i < storage->count; i++) {
        if (str_equal(storage->servers[i].config->id, server_id))
            return &storage->servers[i];
    }
    return NULL;
}

/* The server of an id that has the shape of a `noun`'s. */
static int server_of(const struct storage *storage, const char *noun, const char *id, const char *server_id,
                     struct storage_server **ret, struct error *err)
{
    struct storage_server *server = storage_find(storage, server_id);

    if (!server)
        return error_set(
            err, E_UNAVAILABLE,
            "%s %s is on storage server %s, which is not configured here; add it to \"servers\", "
            "with \"gone\": true if it is lost",
            noun, id, server_id);
    if (server->config->gone)
        return error_set(err, E_NOT_FOUND, "%s %s was on storage server %s, which is declared gone", noun, id,
                         server_id);
    *ret = server;
    return E_OK;
}

int storage_of_volume(const struct storage *storage, const char *volume_id, struct storage_server **ret,
                      struct error *err)
{
    char server_id[ID_SERVER_MAX + 1];

    if (!id_volume_valid(volume_id) || id_volume_server(volume_id, server_id, NULL) != E_OK)
        return error_set(err, E_NOT_FOUND, "volume \"%s\" does not exist: no volume of %s has such an id",
                         volume_id, ID_DRIVER_NAME);
    return server_of(storage, "volume", volume_id, server_id, ret, err);
}

int storage_of_snapshot(const struct storage *storage, const char *snapshot_id, struct storage_server **ret,
                        struct error *err)
{
    char server_id[ID_SERVER_MAX + 1];

    if (!id_snapshot_valid(snapshot_id) || id_snapshot_server(snapshot_id, server_id, NULL) != E_OK)
        return error_set(err, E_NOT_FOUND, "snapshot \"%s\" does not exist: no snapshot of %s has such an id",
                         snapshot_id, ID_DRIVER_NAME);
    return server_of(storage, "snapshot", snapshot_id, server_id, ret, err);
}

/* ---- what a server said last ---- */

static void set_ready(struct storage_server *server, bool ready)
{
    pthread_mutex_lock(&server->lock);
    server->ready = ready;
    server->silent = !ready;
    pthread_mutex_unlock(&server->lock);
}

bool storage_server_ready(struct storage_server *server)
{
    bool ready;

    pthread_mutex_lock(&server->lock);
    ready = server->ready;
    pthread_mutex_unlock(&server->lock);
    return ready;
}

bool storage_server_room(struct storage_server *server, struct storage_room *ret)
{
    bool proven;

    pthread_mutex_lock(&server->lock);
    proven = server->boot_id[0] != '\0';
    *ret = server->room;
    pthread_mutex_unlock(&server->lock);
    return proven;
}

json_t *storage_server_topology(struct storage_server *server)
{
    json_t *topology;

    pthread_mutex_lock(&server->lock);
    topology = json_incref(server->topology);
    pthread_mutex_unlock(&server->lock);
    return topology;
}

/* The server's own words, or the configuration's where it says nothing. NULL when memory ran out, too. */
static json_t *topology_of(const struct storage_server *server,
                           const Mooring__Storage__V1__GetServerResponse *response)
{
    json_t *topology;

    if (response->n_topology == 0)
        return json_incref(server->config->topology);
    topology = json_object();
    for (size_t i = 0; i < response->n_topology; i++)
        json_object_set_new(topology, response->topology[i]->key, json_string(response->topology[i]->value));
    return topology;
}

static json_t *features_of(const Mooring__Storage__V1__GetServerResponse *response)
{
    json_t *features = json_array();

    for (size_t i = 0; i < response->n_features; i++)
        json_array_append_new(features, json_string(response->features[i]));
    return features;
}

/* Keep what a proven server said. ret_same_boot: it is the process that was proven before. */
static void keep_answer(struct storage_server *server,
                        const Mooring__Storage__V1__GetServerResponse *response, bool *ret_same_boot)
{
    json_t *topology = topology_of(server, response);
    json_t *features = features_of(response);
    json_t *old, *old_features;

    pthread_mutex_lock(&server->lock);
    *ret_same_boot = str_equal(server->boot_id, response->boot_id);
    str_copy(server->boot_id, sizeof(server->boot_id), response->boot_id);
    server->ready = true;
    server->silent = false;
    server->room = storage_room_of(response);
    old = server->topology;
    server->topology = topology;
    old_features = server->features;
    server->features = features;
    pthread_mutex_unlock(&server->lock);
    json_decref(old);
    json_decref(old_features);
}

/* ---- calls ---- */

/* An answer that did not come says nothing about the object that was asked for: E_UNAVAILABLE, whatever kept
 * it away. */
static bool answer_lost(int code)
{
    return code == E_UNAVAILABLE || code == E_DEADLINE || code == E_CANCELLED;
}

/* The code r of a call in the words of why, as the CO is told it. */
static int explain(const struct storage_server *server, const char *method, int r, const struct error *why,
                   struct error *err)
{
    if (answer_lost(r))
        return error_set(err, E_UNAVAILABLE, "storage server %s at %s does not answer %s: %s",
                         server->config->id, server->config->address, method, error_text(why));
    if (r != E_OK)
        return error_set(err, r, "storage server %s: %s", server->config->id, error_text(why));
    return E_OK;
}

static int call_once(struct storage_server *server, const char *method, const ProtobufCMessage *request,
                     uint64_t deadline_ms, char ret_boot_id[RPC_BOOT_ID_MAX + 1],
                     ProtobufCMessage **ret_response, struct error *err)
{
    _cleanup_error_ struct error why = {0};
    uint64_t now_ms = time_now_ms();
    struct rpc_call_options options = {.ret_boot_id = ret_boot_id};
    int r;

    if (now_ms >= deadline_ms)
        return error_set(err, E_DEADLINE, "no time was left to ask storage server %s for %s",
                         server->config->id, method);
    options.timeout_ms = (unsigned)MIN(deadline_ms - now_ms, CALL_TIMEOUT_MAX_MS);
    r = rpc_client_call(server->client, &mooring__storage__v1__storage__descriptor, method, request, &options,
                        ret_response, &why);
    return explain(server, method, r, &why, err);
}

static int wrong_server(const struct server_config *config,
                        const Mooring__Storage__V1__GetServerResponse *response, struct error *err)
{
    if (!str_equal(response->server_id, config->id))
        return error_set(
            err, E_UNAVAILABLE,
            "%s answers as storage server %s, but the configuration says %s: correct its address",
            config->address, response->server_id, config->id);
    return error_set(err, E_UNAVAILABLE,
                     "storage server %s has pool %s, but the configuration names pool %s: is its file system "
                     "mounted? Nothing that it says of volumes counts until that is settled",
                     config->id, response->pool_uuid, config->pool_uuid);
}

/* A question whose caller had little time for it, and none is left, says nothing about the server. */
static bool had_time(uint64_t began_ms, uint64_t deadline_ms)
{
    return time_now_ms() + CLOCK_SLACK_MS < deadline_ms || began_ms + SILENT_AFTER_MS <= deadline_ms;
}

/* GetServer, and whether the process that answers is the configured pool's. */
static int ask_server(struct storage_server *server, uint64_t deadline_ms,
                      Mooring__Storage__V1__GetServerResponse **ret_response, bool *ret_same_boot,
                      struct error *err)
{
    Mooring__Storage__V1__GetServerRequest request = MOORING__STORAGE__V1__GET_SERVER_REQUEST__INIT;
    Mooring__Storage__V1__GetServerResponse *response = NULL;
    ProtobufCMessage *message = NULL;
    uint64_t began_ms = time_now_ms();
    int r;

    r = call_once(server, "GetServer", &request.base, deadline_ms, NULL, &message, err);
    response = (Mooring__Storage__V1__GetServerResponse *)message;
    if (r == E_OK && (!str_equal(response->server_id, server->config->id) ||
                      strcasecmp(response->pool_uuid, server->config->pool_uuid) != 0)) {
        r = wrong_server(server->config, response, err);
        protobuf_c_message_free_unpacked(message, NULL);
    }
    if (r != E_OK) {
        if (had_time(began_ms, deadline_ms))
            set_ready(server, false);
        return r;
    }
    keep_answer(server, response, ret_same_boot);
    if (ret_response)
        *ret_response = response;
    else
        protobuf_c_message_free_unpacked(message, NULL);
    return E_OK;
}

int storage_watch_server(struct storage_server *server, uint64_t deadline_ms, struct error *err)
{
    bool same_boot;

    return ask_server(server, deadline_ms, NULL, &same_boot, err);
}

static bool was_proven(struct storage_server *server)
{
    bool proven;

    pthread_mutex_lock(&server->lock);
    proven = server->boot_id[0] != '\0';
    pthread_mutex_unlock(&server->lock);
    return proven;
}

/* Did the process that was proven last give the answer that states this boot id? */
static bool is_proven(struct storage_server *server, const char *boot_id)
{
    bool proven;

    pthread_mutex_lock(&server->lock);
    proven = boot_id[0] != '\0' && str_equal(boot_id, server->boot_id);
    server->ready = server->ready || proven;
    server->silent = server->silent && !proven;
    pthread_mutex_unlock(&server->lock);
    return proven;
}

/*
 * Ask, then prove who answered: the answer states the boot id that is proven, or (a server older than that)
 * the boot id after the call is the one proven before it, so one process of the right pool was there all the
 * while. Where it is another, the call is made again.
 */
static int call_proven(struct storage_server *server, const char *method, const ProtobufCMessage *request,
                       uint64_t deadline_ms, ProtobufCMessage **ret_response, bool *ret_again,
                       struct error *err)
{
    _cleanup_error_ struct error answer_error = {0};
    char boot_id[RPC_BOOT_ID_MAX + 1] = "";
    ProtobufCMessage *response = NULL;
    bool same_boot = true;
    int r = E_OK, answer;

    if (!was_proven(server)) {
        r = ask_server(server, deadline_ms, NULL, &same_boot, err);
        if (r != E_OK)
            return r;
    }
    answer = call_once(server, method, request, deadline_ms, boot_id, &response, &answer_error);
    if (answer != E_UNAVAILABLE && !is_proven(server, boot_id))
        r = ask_server(server, deadline_ms, NULL, &same_boot, err);
    if (r != E_OK || !same_boot) {
        if (response)
            protobuf_c_message_free_unpacked(response, NULL);
        *ret_again = r == E_OK;
        return r;
    }
    error_move(err, &answer_error);
    if (ret_response)
        *ret_response = response;
    else if (response)
        protobuf_c_message_free_unpacked(response, NULL);
    return answer;
}

static int call_attempts(struct storage_server *server, const char *method, const ProtobufCMessage *request,
                         uint64_t deadline_ms, ProtobufCMessage **ret_response, struct error *err)
{
    for (int attempt = 0; attempt < CALL_ATTEMPTS; attempt++) {
        bool again = false;
        int r = call_proven(server, method, request, deadline_ms, ret_response, &again, err);

        if (!again)
            return r;
    }
    return error_set(err, E_UNAVAILABLE, "storage server %s keeps restarting; retry", server->config->id);
}

/*
 * A server that hangs, or its disk, keeps each call until its deadline: it must not keep all threads from the
 * others. What only looks is apart from what changes something, which the disk may keep while the server
 * answers the rest.
 */
static int call_enter(struct storage_server *server, const char *method, struct share_place *ret_place,
                      struct error *err)
{
    bool looks = str_starts_with(method, "Get") || str_starts_with(method, "List");
    bool silent;

    if (server->config->gone)
        return error_set(err, E_UNAVAILABLE, "storage server %s is declared gone", server->config->id);
    pthread_mutex_lock(&server->lock);
    silent = server->silent;
    pthread_mutex_unlock(&server->lock);
    return share_enter(looks ? &server->looks : &server->changes, silent ? SILENT_CALLS_MAX : 0, method,
                       ret_place, err);
}

int storage_call(struct storage_server *server, const char *method, const ProtobufCMessage *request,
                 uint64_t deadline_ms, ProtobufCMessage **ret_response, struct error *err)
{
    struct share_place place;
    int r = call_enter(server, method, &place, err);

    if (r != E_OK)
        return r;
    r = call_attempts(server, method, request, deadline_ms, ret_response, err);
    share_leave(&place);
    return r;
}

int storage_get_server(struct storage_server *server, uint64_t deadline_ms,
                       Mooring__Storage__V1__GetServerResponse **ret_response, struct error *err)
{
    struct share_place place;
    bool same_boot;
    int r = call_enter(server, "GetServer", &place, err);

    if (r != E_OK)
        return r;
    r = ask_server(server, deadline_ms, ret_response, &same_boot, err);
    share_leave(&place);
    return r;
}

static bool has_feature(struct storage_server *server, const char *feature)
{
    bool found = false;
    json_t *one;
    size_t i;

    pthread_mutex_lock(&server->lock);
    json_array_foreach(server->features, i, one)
    {
        found = found || str_equal(json_string_value(one), feature);
    }
    pthread_mutex_unlock(&server->lock);
    return found;
}

int storage_require(struct storage_server *server, const char *feature, uint64_t deadline_ms,
                    struct error *err)
{
    int r;

    if (has_feature(server, feature))
        return E_OK;
    r = storage_get_server(server, deadline_ms, NULL, err);
    if (r != E_OK || has_feature(server, feature))
        return r;
    return error_set(err, E_PRECONDITION,
                     "storage server %s does not serve \"%s\": bring its mooring-target up to date",
                     server->config->id, feature);
}

static int stream_once(struct storage_server *server, const char *method, const ProtobufCMessage *request,
                       uint64_t deadline_ms, int (*receive)(const ProtobufCMessage *response, void *context),
                       void *context, char ret_boot_id[RPC_BOOT_ID_MAX + 1], struct error *err)
{
    _cleanup_error_ struct error why = {0};
    uint64_t now_ms = time_now_ms();
    struct rpc_call_options options = {.ret_boot_id = ret_boot_id};
    int r;

    if (now_ms >= deadline_ms)
        return error_set(err, E_DEADLINE, "no time was left to ask storage server %s for %s",
                         server->config->id, method);
    options.timeout_ms = (unsigned)MIN(deadline_ms - now_ms, STREAM_TIMEOUT_MAX_MS);
    r = rpc_client_stream(server->client, &mooring__storage__v1__storage__descriptor, method, request,
                          &options, receive, context, &why);
    return explain(server, method, r, &why, err);
}

int storage_stream_enter(struct storage_server *server, const char *method, struct share_place *ret_place,
                         struct error *err)
{
    if (server->config->gone)
        return error_set(err, E_UNAVAILABLE, "storage server %s is declared gone", server->config->id);
    return share_enter(&server->streams, STORAGE_STREAMS_MAX / 2, method, ret_place, err);
}

int storage_stream(struct storage_server *server, const char *method, const ProtobufCMessage *request,
                   uint64_t deadline_ms, int (*receive)(const ProtobufCMessage *response, void *context),
                   void *context, struct error *err)
{
    char boot_id[RPC_BOOT_ID_MAX + 1] = "";
    bool same_boot = true;
    int r;

    r = was_proven(server) ? E_OK : storage_get_server(server, deadline_ms, NULL, err);
    if (r == E_OK)
        r = stream_once(server, method, request, deadline_ms, receive, context, boot_id, err);
    if (r != E_OK || is_proven(server, boot_id))
        return r;
    r = ask_server(server, deadline_ms, NULL, &same_boot, err);
    if (r == E_OK && !same_boot)
        r = error_set(err, E_UNAVAILABLE, "storage server %s restarted meanwhile; retry", server->config->id);
    return r;
}

int storage_get_volume(struct storage_server *server, const char *volume_id, uint64_t deadline_ms,
                       Mooring__Storage__V1__Volume **ret_volume, struct error *err)
{
    Mooring__Storage__V1__GetVolumeRequest request = MOORING__STORAGE__V1__GET_VOLUME_REQUEST__INIT;
    Mooring__Storage__V1__GetVolumeResponse *response;
    ProtobufCMessage *message = NULL;
    int r;

    request.volume_id = (char *)volume_id;
    r = storage_call(server, "GetVolume", &request.base, deadline_ms, &message, err);
    if (r != E_OK)
        return r;
    response = (Mooring__Storage__V1__GetVolumeResponse *)message;
    *ret_volume = TAKE_PTR(response->volume);
    protobuf_c_message_free_unpacked(message, NULL);
    if (!*ret_volume)
        return error_set(err, -EPROTO, "storage server %s answered GetVolume without a volume",
                         server->config->id);
    return E_OK;
}

int storage_get_snapshot(struct storage_server *server, const char *snapshot_id, uint64_t deadline_ms,
                         Mooring__Storage__V1__Snapshot **ret_snapshot, struct error *err)
{
    Mooring__Storage__V1__GetSnapshotRequest request = MOORING__STORAGE__V1__GET_SNAPSHOT_REQUEST__INIT;
    Mooring__Storage__V1__GetSnapshotResponse *response;
    ProtobufCMessage *message = NULL;
    int r;

    request.snapshot_id = (char *)snapshot_id;
    r = storage_call(server, "GetSnapshot", &request.base, deadline_ms, &message, err);
    if (r != E_OK)
        return r;
    response = (Mooring__Storage__V1__GetSnapshotResponse *)message;
    *ret_snapshot = TAKE_PTR(response->snapshot);
    protobuf_c_message_free_unpacked(message, NULL);
    if (!*ret_snapshot)
        return error_set(err, -EPROTO, "storage server %s answered GetSnapshot without a snapshot",
                         server->config->id);
    return E_OK;
}
